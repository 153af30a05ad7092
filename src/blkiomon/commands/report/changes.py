"""Compare two sides, with a confidence interval of each change by a block bootstrap.

A side is one run or several. Its units are its runs, where both sides have several, and otherwise
equal parts of the time that a run took. Figures are of all units together. The bootstrap draws as
many units as there are, with replacement, 1000 times: the middle 95 % of the changes of these draws
are the interval. These rules keep it honest:

- Neighbouring parts are alike: they are drawn in blocks, of the square root of their number.
- The same parts are drawn of both sides: the phases of a benchmark do not count as noise. To runs
  without phases that makes no difference.
- A few runs spread less among themselves than runs do in general: the interval is widened by
  Student's t distribution for that number.
- Of 500 devices some seem to have changed by chance. The more changes are judged together, the
  wider are their intervals, by Šidák: all true changes are in them with 95 % confidence. Shares of
  failed requests are judged likewise, by the number of rows with such requests.
- The maximum latency is that of one request. No draw has a greater one than was measured, so that
  its interval is too narrow: it is given, and no verdict is based on it.
- A percentile that fewer than ten requests of either side exceed has no interval.
- Percentiles come from bins up to 1/64 wide: a smaller change is not claimed.

Seeds are fixed: the same inputs give the same intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from blkiomon.commands.report.bootstrap import DRAWS, Draws, normal_quantile, spread, widening
from blkiomon.commands.report.collected import Collected, listed
from blkiomon.commands.report.sides import DeviceUnits, Side
from blkiomon.engine.constants import OPS
from blkiomon.errors import ReportError
from blkiomon.formats.units import bandwidth_text, device_text, rate_text, time_text
from blkiomon.interval.departures import Z, share_limits
from blkiomon.interval.groups import NS_PER_S

METRICS = ("iops", "bandwidth", "mean", "p50", "p95", "p99", "p99.9", "max")
MORE_IS_BETTER = ("iops", "bandwidth")

TOO_LITTLE = "too little to tell"
"""The verdict on a change of too few requests."""

NO_DIFFERENCE = "no difference shown"
MIXED = "mixed"
"""The verdict on a row that is better in some figures or errors, and worse in others."""

CHANGED = ("worse", "better", MIXED)
"""The verdicts on a row with a certain change, or with more or fewer errors."""

UNCHANGED = (NO_DIFFERENCE, TOO_LITTLE)
"""The verdicts on a row of both sides without such a change."""

ONLY_IN_A, ONLY_IN_B = "only in A", "only in B"
"""The verdicts on a figure, or a device or operation, that the other side does not have."""

LEAST_PARTS = 8
"""Parts with requests that an interval needs."""

BIN_WIDTH = 1 / 64
"""Greatest width of a bin of percentiles, as a share of its value."""

MOST_REACH = math.log(1e6)
"""Limit of the widening, a factor of a million: such an interval says nothing anyway."""

LEAST_CHANGE = -1 + 2.0**-52
"""The lowest end of an interval: just above -1, so that its logarithm is finite."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both sides.

    Attributes:
        a, b: None where a side has no such figure. Times in ns, bandwidth in bytes a second.
        change: of b against a, as a fraction; None where a side has no figure, or A has 0.
        low, high: its confidence interval; None where there are too few units. That of "max" is
            too narrow, see above.
    """

    metric: str
    a: float | None
    b: float | None
    change: float | None
    low: float | None = None
    high: float | None = None

    def widened(self, factor: float) -> Change:
        """With an interval that is wider by a factor, by as much on both sides."""
        if self.low is None or self.high is None:
            return self
        low, high = (math.log1p(max(end, LEAST_CHANGE)) for end in (self.low, self.high))
        by = min(((high - low) / 2 - _margin(self.metric)) * (factor - 1), MOST_REACH)
        ends = math.expm1(low - by), math.expm1(high + by)
        return Change(self.metric, self.a, self.b, self.change, *ends)

    @property
    def least(self) -> float:
        """Distance of the interval from 0, as a logarithm: it ranks by size and certainty."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return 0.0
        return min(abs(math.log1p(end)) if end > -1 else math.inf for end in (self.low, self.high))

    @property
    def verdict(self) -> str:
        """One of "better", "worse", ``NO_DIFFERENCE``, ``TOO_LITTLE``, or ``ONLY_IN_A`` or B."""
        if (self.a is None) != (self.b is None):
            return ONLY_IN_A if self.b is None else ONLY_IN_B
        if self.change is None or self.low is None or self.high is None or self.metric == "max":
            return TOO_LITTLE
        if self.low <= 0 <= self.high:
            return NO_DIFFERENCE
        return "better" if (self.change > 0) == (self.metric in MORE_IS_BETTER) else "worse"


@dataclass(frozen=True, slots=True)
class DeviceChanges:
    """The changes of one device and operation.

    Attributes:
        device: as text; "all": all devices.
        numbers: of the device on A and B, even if only one of them has it; None: all devices.
        op: operation; None: all operations.
        requests, errors, requeues: on A and B.
        errors_z: standard deviations to both sides of a share of failed requests, up to its limits.
    """

    device: str
    numbers: tuple[int | None, int | None]
    op: str | None
    requests: tuple[int, int]
    errors: tuple[int, int]
    changes: tuple[Change, ...]
    requeues: tuple[int, int] = (0, 0)
    errors_z: float = Z

    @property
    def only_in(self) -> str:
        """``ONLY_IN_A`` or ``ONLY_IN_B`` if the other side has no such requests; else empty."""
        a, b = self.requests
        return "" if a and b else ONLY_IN_A if a else ONLY_IN_B

    @property
    def mean_bytes(self) -> tuple[float, float] | None:
        """The mean sizes of the requests of A and B; None if a side has no data."""
        of = {change.metric: change for change in self.changes}
        bandwidth, iops = of.get("bandwidth"), of.get("iops")
        if bandwidth is None or iops is None:
            return None
        if not (bandwidth.a and bandwidth.b and iops.a and iops.b):
            return None
        return bandwidth.a / iops.a, bandwidth.b / iops.b

    @property
    def shown(self) -> list[Change]:
        """The changes that are certain, the largest first."""
        certain = [c for c in self.changes if c.verdict in ("better", "worse")]
        return sorted(certain, key=lambda change: -change.least)

    @property
    def verdict(self) -> str:
        """One of ``CHANGED``, ``NO_DIFFERENCE``, ``TOO_LITTLE``, or ``ONLY_IN_A`` or B."""
        if self.only_in:
            return self.only_in
        verdicts = {change.verdict for change in self.changes}
        certain = {*verdicts, self.errors_verdict} & {"better", "worse"}
        if certain:
            return certain.pop() if len(certain) == 1 else MIXED
        return NO_DIFFERENCE if NO_DIFFERENCE in verdicts else TOO_LITTLE

    @property
    def errors_verdict(self) -> str:
        """ "better" or "worse": certainly a smaller or a larger share failed; else empty.

        Certainly: the confidence intervals of both shares do not overlap.
        """
        a, b = (share_limits(*of, self.errors_z) for of in zip(self.errors, self.requests))
        return "worse" if b[0] > a[1] else "better" if b[1] < a[0] else ""

    @property
    def largest(self) -> list[Change]:
        """The largest certain change, and the largest that contradicts it."""
        by_verdict: dict[str, Change] = {}
        for change in self.shown:
            by_verdict.setdefault(change.verdict, change)
        return list(by_verdict.values())

    def metric(self, name: str) -> Change:
        """The change of one metric."""
        return next(change for change in self.changes if change.metric == name)


def compare(
    a: Sequence[Collected], b: Sequence[Collected], metrics: Sequence[str] = METRICS
) -> list[DeviceChanges]:
    """The changes of all devices and operations, each with a 95 % interval.

    What only one side has is a row without changes. It counts in the rows of all operations, and of
    all devices.

    Raises:
        ReportError: the sides have no device or operation in common.
    """
    matched = match(a, b)
    if not matched:
        by, there = a[0].by, [listed(sorted(_devices(side)), side[0].label) for side in (a, b)]
        raise ReportError(f"the sides have no {by} in common: A has {there[0]}, B has {there[1]}")
    n_parts = _n_parts(a, b)
    draws, sides = _draws(a, b), (Side(a, n_parts), Side(b, n_parts))
    rows = []
    for name, numbers in matched:
        both = [side.of(number) for side, number in zip(sides, numbers)]
        rows += _rows(name, numbers, both, metrics, draws)
    if all(row.only_in for row in rows if row.op is not None):
        raise ReportError("the sides have no operation in common")
    return rows


def judged_together(
    rows: Sequence[DeviceChanges], a: Sequence[Collected], b: Sequence[Collected]
) -> list[DeviceChanges]:
    """With intervals that contain all true changes together with 95 % confidence.

    Each interval is widened by one factor, upwards and downwards alike: the draws are too few to
    estimate two factors. The limits of the shares of failed requests are wider by the number of
    rows with such requests.
    """
    judged = ("better", "worse", NO_DIFFERENCE)
    n = sum(change.verdict in judged for row in rows for change in row.changes)
    n_failing = sum(any(row.errors) and not row.only_in for row in rows)
    errors_z = normal_quantile(max(1, n_failing))
    independent = [of_side.n_independent for of_side in _draws(a, b)]
    factor = widening(independent, max(1, n)) / widening(independent)
    return [
        replace(row, changes=tuple(c.widened(factor) for c in row.changes), errors_z=errors_z)
        for row in rows
    ]


def _n_parts(a: Sequence[Collected], b: Sequence[Collected]) -> int | None:
    """Parts of the time that are units; None: the runs are, as both sides have several."""
    return None if len(a) > 1 and len(b) > 1 else min(len(run.slices) for run in (*a, *b))


def _draws(a: Sequence[Collected], b: Sequence[Collected]) -> tuple[Draws, Draws]:
    n_parts = _n_parts(a, b)
    if n_parts is None:
        return Draws(len(a), 1, 2, 0), Draws(len(b), 1, 2, 1)
    of_both = Draws(n_parts, max(1, round(math.sqrt(n_parts))), LEAST_PARTS, 0)
    return of_both, of_both


Numbers = tuple[int | None, int | None]


def match(a: Sequence[Collected], b: Sequence[Collected]) -> list[tuple[str, Numbers]]:
    """Match the devices of both sides: by number, unless each side has just one.

    Where there are several, the last entry is of all devices together. There are none if no device
    is on both sides.
    """
    of_a, of_b = _devices(a), _devices(b)

    def name(one: int, other: int) -> str:
        """The number, if the runs have different names for it."""
        names = [{run.label(n) for run in side} for n, side in ((one, a), (other, b))]
        texts = [of.pop() if len(of) == 1 else device_text(n) for of, n in zip(names, (one, other))]
        if one == other:
            return texts[0] if texts[0] == texts[1] else device_text(one)
        return " -> ".join(dict.fromkeys(texts))

    if len(of_a) == len(of_b) == 1 and of_a != of_b:
        (one,), (other,) = of_a, of_b
        return [(name(one, other), (one, other))]
    if not of_a & of_b:
        return []
    # A device without a row on one side may be among the others of that side.
    of_one = [
        mine - theirs
        for mine, theirs, side in ((of_a, of_b, b), (of_b, of_a, a))
        if not any(run.n_others for run in side)
    ]
    numbers = sorted((of_a & of_b).union(*of_one))
    found: list[tuple[str, Numbers]] = [(name(n, n), (n, n)) for n in numbers]
    if len(of_a | of_b) > 1:
        found.append(("all", (None, None)))
    return found


def _devices(side: Sequence[Collected]) -> set[int]:
    return {number for run in side for number in run.devices}


def _rows(
    name: str,
    numbers: Numbers,
    sides: Sequence[DeviceUnits],
    metrics: Sequence[str],
    draws: Sequence[Draws],
) -> list[DeviceChanges]:
    """The changes of a device, or of all: of each operation, and of all if there are several."""
    ops: list[str | None] = [op for op in OPS if any(side.count("requests", op) for side in sides)]
    if len(ops) > 1:
        ops.append(None)
    ends = np.full((len(metrics), len(ops), 2), math.nan)
    of_both = [n for n, op in enumerate(ops) if all(side.count("requests", op) for side in sides)]
    if of_both:
        common = [ops[n] for n in of_both]
        drawn = [side.drawn(metrics, common, of_side) for side, of_side in zip(sides, draws)]
        found = spread(*(of_side.reshape(-1, DRAWS) for of_side in drawn))
        ends[:, of_both] = found.reshape(len(metrics), len(of_both), 2)
    widened = widening([of_side.n_independent for of_side in draws])
    figures = [side.figures(metrics) for side in sides]
    rows = []
    for at, op in enumerate(ops):
        changes = []
        for metric, (low, high) in zip(metrics, ends[:, at].tolist()):
            a, b = (
                of[metric][side.groups[op]] if op in side.groups else None
                for of, side in zip(figures, sides)
            )
            change = b / a - 1 if a and b is not None else None
            limits = _interval(change, low, high, widened, metric)
            changes.append(Change(metric, a, b, change, *limits))
        requests, errors, requeues = (
            (sides[0].count(column, op), sides[1].count(column, op))
            for column in ("requests", "errors", "requeues")
        )
        of_row = tuple(changes)
        rows.append(DeviceChanges(name, numbers, op, requests, errors, of_row, requeues))
    return rows


def _interval(
    change: float | None, low: float, high: float, widened: float, metric: str
) -> tuple[float | None, float | None]:
    """An interval of a change, from the ends of the draws as logarithms."""
    if change is None or change <= -1 or math.isnan(low):
        return None, None
    middle = math.log1p(change)
    low = middle - max(0.0, middle - low) * widened - _margin(metric)
    high = middle + max(0.0, high - middle) * widened + _margin(metric)
    return math.expm1(low), math.expm1(high)


def _margin(metric: str) -> float:
    return BIN_WIDTH if metric.startswith("p") else 0.0


def value_text(metric: str, value: float | None) -> str:
    """A figure as text, with its unit."""
    if metric == "iops":
        return rate_text(value)
    return bandwidth_text(value) if metric == "bandwidth" else time_text(value)


def seconds_of(side: Sequence[Collected]) -> float:
    """Duration of all runs of a side together, in s."""
    return sum(run.whole.end_ns - run.whole.start_ns for run in side) / NS_PER_S
