"""The figures that people want, one group for each operation, each device, and all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blkiomon.cut import Cut, Table
from blkiomon.distribution import Distribution, Histograms, distributions
from blkiomon.layout import ALL_OPS, EVERYTHING, OPS
from blkiomon.moments import NOTHING, Moments, from_words, reduce_moments, run_starts

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests that were issued and not completed.

    Attributes:
        max: at any time of the interval.
        end: at its end.
        oldest_ns: age of the oldest of these then, 0 of none.
        request_ns: their number integrated over time.
        busy_ns: time with any of them, of a device; None of one operation and of several devices.
        duration_ns: of the interval.
    """

    max: int
    end: int
    oldest_ns: int
    request_ns: int
    busy_ns: int | None
    duration_ns: int

    @property
    def mean(self) -> float | None:
        """Weighted by time; None in an interval without a duration."""
        return self.request_ns / self.duration_ns if self.duration_ns else None

    @property
    def busy(self) -> float | None:
        """The fraction of the interval with any in flight; None where that is not known."""
        if self.busy_ns is None or not self.duration_ns:
            return None
        return self.busy_ns / self.duration_ns


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that completed in an interval: of one operation, of a device, or all.

    Attributes:
        device: its number, None of all.
        op: one of ``layout.OPS``, None of all.
        errors: how many failed.
        d2c: times from issue to completion, ns.
        size: bytes of each request.
        in_flight: None where that was not measured.
        requeues: how often the kernel gave a request back, to issue it again.
        retried: times from the first issue to completion, ns, of requests that were requeued:
            extremes, sum and sum of squares; d2c has their time since the last issue.
        q2d, q2c: times from queue to issue and to completion, ns, of those requests whose queue
            record was seen; None where there was none.
        duration_ns: of the interval.
    """

    device: int | None
    op: str | None
    errors: int
    d2c: Distribution
    size: Distribution
    in_flight: InFlight | None
    q2d: Distribution | None
    q2c: Distribution | None
    duration_ns: int
    requeues: int = 0
    retried: Moments = NOTHING

    @property
    def requests(self) -> int:
        """How many."""
        return self.d2c.num

    @property
    def bytes(self) -> int:
        """Of all requests."""
        return self.size.sum

    @property
    def iops(self) -> float | None:
        """Requests a second; None in an interval without a duration."""
        return self.requests * NS_PER_S / self.duration_ns if self.duration_ns else None

    @property
    def bytes_per_s(self) -> float | None:
        """None in an interval without a duration."""
        return self.bytes * NS_PER_S / self.duration_ns if self.duration_ns else None


# Groups are known by device << 3 | op here: a device's own key comes behind those of its
# operations, as ALL_OPS is the last one, and the total's behind all.
_TOTAL = 1 << 35
_NOTHING = Distribution()


def groups_of(cut: Cut, duration_ns: int) -> tuple[Group, ...]:
    """All groups of a cut.

    By device number: one for each operation that occurred, in the order of ``layout.OPS``, then
    the device; last the total. A device that only has requests in flight is there as well.
    """
    rows, queue_rows = cut.rows, cut.queue_rows
    by = _Grouping(rows)
    d2c = by.distributions(rows["d2c_ns"], cut.d2c_bins)
    size = by.distributions(rows["size_bytes"], cut.size_bins)
    errors = by.sums(rows["errors"])
    by_queue = _Grouping(queue_rows)
    q2d = by_queue.distributions(queue_rows["q2d_ns"], cut.q2d_bins)
    q2c = by_queue.distributions(queue_rows["q2c_ns"], cut.q2c_bins)
    by_retry = _Grouping(cut.retry_rows)
    requeues = by_retry.sums(cut.retry_rows["requeues"])
    retried = by_retry.moments(cut.retry_rows["f2c_ns"])
    in_flight = _in_flight(cut.loads, duration_ns)
    # Where it was measured, what has no row has had none in flight.
    idle = InFlight(0, 0, 0, 0, 0, duration_ns) if in_flight else None
    idle_op = InFlight(0, 0, 0, 0, None, duration_ns) if in_flight else None

    keys = {*d2c, *q2d, *requeues, *in_flight, _TOTAL}
    keys |= {key | ALL_OPS for key in keys if key != _TOTAL}
    return tuple(
        Group(
            None if key == _TOTAL else key >> 3,
            None if key & 7 == ALL_OPS or key == _TOTAL else OPS[key & 7],
            errors.get(key, 0),
            d2c.get(key, _NOTHING),
            size.get(key, _NOTHING),
            in_flight.get(key, idle if key & 7 == ALL_OPS else idle_op),
            q2d.get(key),
            q2c.get(key),
            duration_ns,
            requeues.get(key, 0),
            retried.get(key, NOTHING),
        )
        for key in sorted(keys)
    )


def _in_flight(loads: Table, duration_ns: int) -> dict[int, InFlight]:
    found: dict[int, InFlight] = {}
    integrals = from_words(loads["in_flight_ns"]).tolist()
    names = ["device", "op", "max_in_flight", "in_flight", "oldest_ns", "busy_ns"]
    for load, request_ns in zip(loads[names].tolist(), integrals, strict=True):
        device, op, most, end, oldest_ns, busy_ns = load
        is_total = op == EVERYTHING
        key = _TOTAL if is_total else device << 3 | op
        busy = busy_ns if op == ALL_OPS and not is_total else None
        found[key] = InFlight(most, end, oldest_ns, request_ns, busy, duration_ns)
    return found


class _Grouping:
    """Which rows belong to which group: each to three, as operation, device and total.

    Args:
        rows: shape (n,), with the fields ``device``, ``op`` and ``requests``.
    """

    def __init__(self, rows: Table) -> None:
        key = rows["device"].astype(np.int64) << 3 | rows["op"]
        self._order = np.argsort(key, kind="stable")
        key = key[self._order]
        self._levels = (key, key | ALL_OPS, np.full_like(key, _TOTAL))
        self._requests = rows["requests"][self._order]

    def sums(self, column: npt.NDArray[np.uint64]) -> dict[int, int]:
        """The sum of a column (shape (n,)) for each group."""
        column = column[self._order]
        found: dict[int, int] = {}
        for keys in self._levels:
            starts = run_starts(keys)
            if len(starts):
                sums = np.add.reduceat(column, starts).tolist()
                found.update(zip(keys[starts].tolist(), sums, strict=True))
        return found

    def moments(self, moments: Table) -> dict[int, Moments]:
        """A quantity's moments (shape (n,), dtype ``layout.MOMENTS``) for each group."""
        moments = moments[self._order]
        found: dict[int, Moments] = {}
        for keys in self._levels:
            starts = run_starts(keys)
            reduced = reduce_moments(moments, self._requests, starts)
            found.update(zip(keys[starts].tolist(), reduced, strict=True))
        return found

    def distributions(self, moments: Table, bins: Table) -> dict[int, Distribution]:
        """A quantity's distribution for each group.

        Args:
            moments: of each row, shape (n,), dtype ``layout.MOMENTS``.
            bins: dtype ``layout.BIN``.
        """
        if not len(moments):
            return {}
        moments = moments[self._order]
        # Of each bin its place among the sorted rows.
        place = np.empty(len(moments), np.int64)
        place[self._order] = np.arange(len(moments))
        histograms = Histograms.added_up(
            place[bins["row"]], bins["bin"], bins["count"], len(moments)
        )
        found: dict[int, Distribution] = {}
        for keys in self._levels:
            starts = run_starts(keys)
            reduced = reduce_moments(moments, self._requests, starts)
            each = distributions(reduced, histograms.joined(starts))
            found.update(zip(keys[starts].tolist(), each, strict=True))
        return found
