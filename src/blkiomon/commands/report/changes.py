"""Compare two sides, with a 95 % confidence interval of each change by a block bootstrap.

A side is one run or several. Its units are its runs, where both sides have several, and otherwise
equal parts of the time that a run took. Figures are of all units together. The bootstrap draws as
many units as there are, with replacement, 1000 times: the middle 95 % of the changes of these draws
are the interval. These rules keep it honest:

- Neighbouring parts are alike: they are drawn in blocks, of the square root of their number.
- The same parts are drawn of both sides: the phases of a benchmark do not count as noise. To runs
  without phases that makes no difference.
- A few runs spread less among themselves than runs do in general: the interval is widened by
  Student's t distribution for that number.
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
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from blkiomon.commands.report.cells import (
    DEVICE_MASK,
    OP_BITS,
    SLICE_SHIFT,
    Cells,
    Floats,
    cells_of,
    joined,
    timeline,
)
from blkiomon.commands.report.collect import Collected, ReportError, listed
from blkiomon.commands.report.curves import middles
from blkiomon.engine.layout import OPS
from blkiomon.formats.units import bandwidth_text, device_text, rate_text, time_text
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.moments import Moments, run_starts

PERCENTS = {"p50": 50, "p95": 95, "p99": 99, "p99.9": 99.9}
METRICS = ("iops", "bandwidth", "mean", *PERCENTS, "max")
MORE_IS_BETTER = ("iops", "bandwidth")

TOO_LITTLE = "too little to tell"
"""The verdict on a change of too few requests."""

DRAWS = 1000
LEAST_PARTS = 8
"""Parts with requests that an interval needs."""

LEAST_BEYOND = 10
"""Requests that must exceed a percentile for it to have an interval."""

RESOLUTION = 1 / 64

UNIT_BITS = 20
OP_MASK = (1 << OP_BITS) - 1
"""In keys, all operations, as ``DEVICE_MASK`` is all devices."""

Numeric = TypeVar("Numeric", bound=np.number[Any])

_Z = 1.959964  # 95 % of the normal distribution


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both sides.

    Attributes:
        a, b: None where a side has no such figure. Times in ns, bandwidth in bytes a second.
        change: of b against a, as a fraction; None where a side has no figure, or A has 0.
        low, high: its 95 % interval; None where there are too few units. That of "max" is too
            narrow, see above.
    """

    metric: str
    a: float | None
    b: float | None
    change: float | None
    low: float | None = None
    high: float | None = None

    @property
    def least(self) -> float:
        """The least change that the interval contains, as a logarithm: by size and certainty."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return 0.0
        return min(abs(math.log1p(end)) if end > -1 else math.inf for end in (self.low, self.high))

    @property
    def verdict(self) -> str:
        """ "better", "worse", "no difference shown", or ``TOO_LITTLE``."""
        if self.change is None or self.low is None or self.high is None or self.metric == "max":
            return TOO_LITTLE
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if (self.change > 0) == (self.metric in MORE_IS_BETTER) else "worse"


@dataclass(frozen=True, slots=True)
class DeviceChanges:
    """The changes of one device and operation.

    Attributes:
        device: as text; "all": all devices.
        numbers: of the device on A and B; None: all devices.
        op: operation; None: all operations.
        requests, errors, requeues: on A and B.
    """

    device: str
    numbers: tuple[int | None, int | None]
    op: str | None
    requests: tuple[int, int]
    errors: tuple[int, int]
    changes: tuple[Change, ...]
    requeues: tuple[int, int] = (0, 0)

    @property
    def shown(self) -> list[Change]:
        """The changes that are certain, the largest first."""
        certain = [c for c in self.changes if c.verdict in ("better", "worse")]
        return sorted(certain, key=lambda change: -change.least)

    def metric(self, name: str) -> Change:
        """The change of one metric."""
        return next(change for change in self.changes if change.metric == name)


def compare(
    a: Sequence[Collected], b: Sequence[Collected], metrics: Sequence[str] = METRICS
) -> list[DeviceChanges]:
    """The changes of all devices and operations that both sides have.

    Raises:
        ReportError: the sides have no device or operation in common.
    """
    matched = match(a, b)
    if not matched:
        by, there = a[0].by, [listed(sorted(_devices(side)), a[0].label) for side in (a, b)]
        raise ReportError(f"the sides have no {by} in common: A has {there[0]}, B has {there[1]}")
    by_run = len(a) > 1 and len(b) > 1
    n_parts = None if by_run else min(len(run.slices) for run in (*a, *b))
    sides = _Figures(a, n_parts), _Figures(b, n_parts)
    rows = []
    for name, numbers in matched:
        of_ops = {op: pair for op in OPS if (pair := _both(sides, numbers, op))}
        together = _both(sides, numbers, None) if len(of_ops) > 1 else None
        for op, pair in [*of_ops.items(), *([(None, together)] if together else [])]:
            rows.append(_row(pair, name, numbers, op, metrics, n_parts, (len(a), len(b))))
    if not rows:
        raise ReportError("the sides have no operation in common")
    return rows


Numbers = tuple[int | None, int | None]


def match(a: Sequence[Collected], b: Sequence[Collected]) -> list[tuple[str, Numbers]]:
    """Match the devices of both sides: by number, unless each side has just one.

    Where there are several, the last entry is of all devices together.
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
    both = sorted(of_a & of_b)
    found: list[tuple[str, Numbers]] = [(name(n, n), (n, n)) for n in both]
    if both and len(of_a | of_b) > 1:
        found.append(("all", (None, None)))
    return found


def _devices(side: Sequence[Collected]) -> set[int]:
    return {number for run in side for number in run.devices}


def _both(
    sides: tuple[_Figures, _Figures], numbers: Numbers, op: str | None
) -> tuple[_Side, _Side] | None:
    """Both sides of a device and operation; None if one has no requests of it."""
    a, b = (side.of(number, op) for side, number in zip(sides, numbers))
    return None if a is None or b is None else (a, b)


def _row(
    sides: tuple[_Side, _Side],
    name: str,
    numbers: Numbers,
    op: str | None,
    metrics: Sequence[str],
    n_parts: int | None,
    n_runs: tuple[int, int],
) -> DeviceChanges:
    by_run = n_parts is None
    block, least = (1, 2) if n_parts is None else (max(1, round(math.sqrt(n_parts))), LEAST_PARTS)
    drawn = [side.drawn(metrics, seed * by_run, block, least) for seed, side in enumerate(sides)]
    widened = _widening(*(n / block for n in (n_runs if n_parts is None else (n_parts, n_parts))))
    in_both = [metric for metric in metrics if all(metric in of_side for of_side in drawn)]
    ends = dict(zip(in_both, _spread(*([of_side[m] for m in in_both] for of_side in drawn))))
    changes = []
    for metric in metrics:
        before, after = (side.figure(metric) for side in sides)
        change = after / before - 1 if before and after is not None else None
        low = high = None
        if change is not None and metric in ends:
            low, high = _interval(change, ends[metric], widened, metric)
        changes.append(Change(metric, before, after, change, low, high))
    return DeviceChanges(
        name,
        numbers,
        op,
        (sides[0].requests, sides[1].requests),
        (sides[0].errors, sides[1].errors),
        tuple(changes),
        (sides[0].requeues, sides[1].requeues),
    )


def _spread(before: Sequence[Floats], after: Sequence[Floats]) -> Sequence[Sequence[float]]:
    """Where the middle 95 % of the changes of each metric are, as logarithms.

    Args:
        before, after: of each metric the figures of all draws; 0 where a draw has none.

    Returns:
        Two ends for each metric; NaN where most draws have no change.
    """
    if not before:
        return []
    a, b = np.array(before), np.array(after)
    has = (a > 0) & (b > 0)
    changes = np.log(np.divide(b, a, out=np.full(a.shape, math.inf), where=has))
    changes.sort(axis=1)  # those that a draw does not have come last
    n = has.sum(axis=1)[:, np.newaxis]
    places = np.maximum(n - 1, 0) * np.array([0.025, 0.975])
    low = places.astype(np.int64)
    values = np.take_along_axis(changes, low, 1)
    next_ = np.take_along_axis(changes, np.minimum(low + 1, np.maximum(n - 1, 0)), 1)
    values = np.where(n < DRAWS / 2, math.nan, values)
    ends: list[list[float]] = (values + (next_ - values) * (places - low)).tolist()
    return ends


def _interval(
    change: float, ends: Sequence[float], widened: float, metric: str
) -> tuple[float | None, float | None]:
    if change <= -1 or math.isnan(ends[0]):
        return None, None
    middle = math.log1p(change)
    margin = RESOLUTION if metric.startswith("p") else 0.0
    low = middle - max(0.0, middle - ends[0]) * widened - margin
    high = middle + max(0.0, ends[1] - middle) * widened + margin
    return math.expm1(low), math.expm1(high)


def _widening(*independent: float) -> float:
    """Factor by which the interval of so few independent units is wider than that of many."""
    least = min(independent)
    if least <= 1:
        return 1.0
    df = sum(n - 1 for n in independent)
    z = _Z  # Student's quantile by the expansion of Cornish and Fisher
    t = z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
    return t / z * math.sqrt(least / (least - 1))


class _Figures:
    """One side's cells by device, operation and unit; a group's cells are neighbours.

    Args:
        runs: of the side.
        n_parts: equal parts of the time, which are the units; None: the runs are.
    """

    def __init__(self, runs: Sequence[Collected], n_parts: int | None) -> None:
        self.n_units = len(runs) if n_parts is None else n_parts
        self.durations_ns = np.zeros(self.n_units)
        cells = joined([self._by_unit(at, run, n_parts) for at, run in enumerate(runs)])
        self._index = {number: at for at, number in enumerate(cells.devices.tolist())}
        self._tables = []
        for mask in (0, OP_MASK, DEVICE_MASK, DEVICE_MASK | OP_MASK):
            groups = cells.keys & (1 << SLICE_SHIFT) - 1 | mask
            table = cells.rekeyed(groups << UNIT_BITS | cells.keys >> SLICE_SHIFT)
            groups = table.keys >> UNIT_BITS
            starts = run_starts(groups)
            ends = np.append(starts[1:], len(groups))
            of_group = np.repeat(np.arange(len(starts)), ends - starts)
            known = table.percentiles(of_group, len(starts), list(PERCENTS.values()))
            places = {
                group: (slice(start, end), dict(zip(PERCENTS, map(int, values))))
                for group, start, end, values in zip(
                    groups[starts].tolist(), starts.tolist(), ends.tolist(), known.tolist()
                )
            }
            self._tables.append((table, places))

    def _by_unit(self, number: int, run: Collected, n_parts: int | None) -> Cells:
        """The cells of a run with units in place of slices."""
        cells = cells_of(run.slices)
        middles = (cells.edges_s[:-1] + cells.edges_s[1:]) / 2
        units = np.full(len(middles), number)
        if n_parts is not None:
            last_s = cells.edges_s[-1] or 1.0
            units = np.minimum((middles * n_parts / last_s).astype(np.int64), n_parts - 1)
        durations_ns = [
            0 if item is None else item.end_ns - item.start_ns for item in timeline(run.slices)[1]
        ]
        np.add.at(self.durations_ns, units, durations_ns)
        low = cells.keys & (1 << SLICE_SHIFT) - 1
        return replace(cells, keys=units[cells.keys >> SLICE_SHIFT] << SLICE_SHIFT | low)

    def of(self, device: int | None, op: str | None) -> _Side | None:
        """A device, or all, and an operation, or all; None if there are no requests of it."""
        table, places = self._tables[2 * (device is None) + (op is None)]
        at = DEVICE_MASK if device is None else self._index.get(device, -1) << OP_BITS
        found = places.get(at | (OP_MASK if op is None else OPS.index(op)))
        if found is None or not table.columns["requests"][found[0]].any():
            return None
        return _Side(table, *found, self)


class _Side:
    """The units of one side, of one device and operation."""

    def __init__(self, table: Cells, of: slice, known: dict[str, int], figures: _Figures) -> None:
        self._known = known
        columns = {name: values[of] for name, values in table.columns.items()}
        self._units = table.keys[of] & (1 << UNIT_BITS) - 1
        self._columns, self._durations_ns = columns, figures.durations_ns
        in_cells, bins, counts = table.histograms["d2c"]
        start, end = np.searchsorted(in_cells, [of.start, of.stop])
        self._bin_units = self._units[in_cells[start:end] - of.start]
        self._bin_counts = counts[start:end]
        distinct, self._bin_places = np.unique(bins[start:end], return_inverse=True)
        totals = np.zeros(len(distinct), np.uint64)
        np.add.at(totals, self._bin_places, self._bin_counts)
        self.requests, self.errors, self.requeues = (
            int(columns[name].sum()) for name in ("requests", "errors", "requeues")
        )
        extremes = int(columns["d2c_min"].min()), int(columns["d2c_max"].max())
        moments = Moments(*extremes, int(columns["d2c_sum"].sum()), 0, self.requests)
        self._whole = Distribution(moments, distinct.astype(np.uint32), totals)

    def figure(self, metric: str) -> float | None:
        """A metric of all units together, from exact sums and percentiles."""
        duration_ns = self._durations_ns.sum()
        if metric == "iops":
            return self.requests * NS_PER_S / duration_ns if duration_ns else None
        if metric == "bandwidth":
            n_bytes = self._columns["bytes"].sum()
            return float(n_bytes * NS_PER_S / duration_ns) if duration_ns else None
        if metric == "mean":
            return self._whole.mean
        if metric == "max":
            return self._whole.max
        return self._known.get(metric) or self._whole.percentile(float(metric[1:]))

    def drawn(self, metrics: Sequence[str], seed: int, block: int, least: int) -> dict[str, Floats]:
        """Metrics of each draw, shape (DRAWS,); empty if fewer than ``least`` units have requests.

        Args:
            block: neighbouring units that are drawn together.
        """
        n_filled = int((self._columns["requests"] > 0).sum())
        if n_filled < least:
            return {}
        starts = _starts_drawn(len(self._durations_ns), block, seed)
        of_units = np.zeros((len(self._durations_ns), 5))
        of_units[:, 0] = self._durations_ns / NS_PER_S
        for place, name in enumerate(("requests", "bytes", "d2c_sum", "d2c_max"), 1):
            of_units[self._units, place] = self._columns[name]
        seconds, requests, n_bytes, sums = _sum_drawn(of_units[:, :4], starts, block).T
        figures = {
            "iops": _ratio(requests, seconds),
            "bandwidth": _ratio(n_bytes, seconds),
            "mean": _ratio(sums, requests),
            "max": _greatest_drawn(of_units[:, 4], starts, block),
        }
        wanted = [m for m in metrics if m.startswith("p") and self._has_tail(float(m[1:]))]
        if wanted and len(self._whole.bins):
            # The greatest draw may be of the unit with the most requests alone.
            is_small = self._columns["requests"].max() * 2 * len(of_units) < 1 << 31
            dtype = np.int32 if is_small else np.int64
            table = np.zeros((len(of_units), len(self._whole.bins)), dtype)
            table[self._bin_units, self._bin_places] = self._bin_counts
            upto = _sum_drawn(table.cumsum(axis=1, dtype=dtype), starts, block)
            ranks = np.outer([float(metric[1:]) / 100 for metric in wanted], requests)
            places = _first_of_rank(upto, np.ceil(ranks - 1e-9))
            figures |= zip(wanted, middles(self._whole)[places])
        return {name: np.where(requests > 0, values, 0) for name, values in figures.items()}

    def _has_tail(self, percent: float) -> bool:
        return self.requests * (1 - percent / 100) >= LEAST_BEYOND


@cache
def _starts_drawn(n: int, block: int, seed: int) -> npt.NDArray[np.int64]:
    """The first unit of each block that a draw takes, shape (DRAWS, blocks).

    Blocks go on from the last unit to the first one. The last block of a draw is shorter, so that
    each draw has n units.
    """
    random = np.random.default_rng([seed, n])
    return random.integers(0, n, (DRAWS, math.ceil(n / block)))


def _sum_drawn(
    table: npt.NDArray[Numeric], starts: npt.NDArray[np.int64], block: int
) -> npt.NDArray[Numeric]:
    """Sums of each draw, shape (DRAWS, columns), of what each unit has, shape (units, columns).

    A product of matrices would do the same, by threads that wait for each other.
    """
    n, n_blocks = len(table), starts.shape[1]
    around = np.concatenate([np.zeros_like(table[:1]), table, table[:block]])
    upto = around.cumsum(axis=0, dtype=table.dtype)
    last = n - block * (n_blocks - 1)
    total: npt.NDArray[Numeric] = (upto[last : last + n] - upto[:n])[starts[:, -1]]
    of_blocks = upto[block : block + n] - upto[:n]
    for of_draws in starts[:, :-1].T:
        total += of_blocks[of_draws]
    return total


def _greatest_drawn(values: Floats, starts: npt.NDArray[np.int64], block: int) -> Floats:
    """The greatest value of each draw, shape (DRAWS,), of one for each unit."""
    n, n_blocks = len(values), starts.shape[1]
    around = np.append(values, values[: block - 1])
    last = np.lib.stride_tricks.sliding_window_view(around, n - block * (n_blocks - 1))
    found: Floats = last.max(axis=1)[starts[:, -1]]
    if n_blocks > 1:
        of_blocks = np.lib.stride_tricks.sliding_window_view(around, block).max(axis=1)
        found = np.maximum(found, of_blocks[starts[:, :-1]].max(axis=1))
    return found


def _first_of_rank(upto: npt.NDArray[np.integer[Any]], ranks: Floats) -> npt.NDArray[np.int64]:
    """The first place of each draw whose count reaches a rank.

    Args:
        upto: shape (DRAWS, places), not descending.
        ranks: shape (metrics, DRAWS).
    """
    # One search for all draws: the counts of each are above those of the one before.
    draws, n = np.arange(len(upto)), upto.shape[1]
    of_draw = draws * (int(upto[:, -1].max()) + 1)
    counts = (upto + of_draw[:, np.newaxis]).ravel()
    found = np.searchsorted(counts, ranks.astype(np.int64) + of_draw) - draws * n
    places: npt.NDArray[np.int64] = np.clip(found, 0, n - 1)
    return places


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def value_text(metric: str, value: float | None) -> str:
    """A figure as text, with its unit."""
    if metric == "iops":
        return rate_text(value)
    return bandwidth_text(value) if metric == "bandwidth" else time_text(value)


def seconds_of(side: Sequence[Collected]) -> float:
    """Duration of all runs of a side together, in s."""
    return sum(run.whole.end_ns - run.whole.start_ns for run in side) / NS_PER_S
