"""Whether an interval that was read makes sense: one check for what comes from bytes and from JSON.

What passes can be shown, written and merged; no figure of it is out of range. That its numbers are
true nobody can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.errors import IntervalError
from blkiomon.interval.distribution import N_BINS, bin_bounds, bin_of
from blkiomon.interval.moments import U64_MAX, U128_MAX, from_words
from blkiomon.interval.value import Interval

MOST_REQUESTS = 1 << 52
"""In an interval, and in flight: four thousand such intervals add up in 64 bits."""

MOST_COUNT = 1 << 112
"""Of ``Counts``: 128 bits hold the sum of very many intervals."""

MOST_NS = 1 << 66
"""Times are less than this from their zero: 64 bits of trace time, and an epoch."""

_TOLERANCE = 1e-9
"""Sums over bins are worked out in doubles, which round."""

Bools = npt.NDArray[np.bool_]
Name = Callable[[int], str]


def check(interval: Interval) -> None:
    """Compare all that an interval says of itself.

    Raises:
        IntervalError: two of its figures contradict each other, or one is out of range.
    """
    _check_times(interval)
    for name in type(interval.counts).__slots__:
        if not 0 <= (value := getattr(interval.counts, name)) < MOST_COUNT:
            raise IntervalError(f"the count {name} is {value}, out of range")
    cut = interval.snapshot
    if cut.rows.size and int(cut.rows["direction"].max()) >= len(layout.DIRECTIONS):
        raise IntervalError("a direction is out of range")
    for table, by in ((cut.rows, ("device", "op", "direction")), (cut.queue_rows, _DEVICE_OP)):
        _check_rows(table, by)
    _check_requests(cut)
    _check_queue(cut)
    _check_retries(cut.retry_rows)
    _check_loads(cut.loads)
    if len(np.unique(cut.processes["pid"])) < len(cut.processes):
        raise IntervalError("a process is there twice")


def _check_times(interval: Interval) -> None:
    start_ns, end_ns = interval.start_ns, interval.end_ns
    if max(map(abs, (start_ns, end_ns, *interval.named_ns.values()))) >= MOST_NS:
        raise IntervalError("a time is out of range")
    if abs(interval.time_s) > MOST_NS // 10**9:
        raise IntervalError(f"its time in seconds, {interval.time_s}, is out of range")
    if start_ns > end_ns:
        raise IntervalError(f"it ends before it begins: start_ns {start_ns}, end_ns {end_ns}")
    if any(not 0 <= pid < 1 << 32 for pid in interval.process_names):
        raise IntervalError("a process number is out of range")


_DEVICE_OP = ("device", "op")


def _name_of(table: Table) -> Name:
    """A function that names a row: ``8:16 read``."""

    def name(row: int) -> str:
        from blkiomon.formats.units import device_text

        return f"{device_text(int(table['device'][row]))} {layout.OPS[int(table['op'][row])]}"

    return name


def _require(is_fine: npt.NDArray[Any], name: Name, why: str) -> None:
    """Raise IntervalError if something does not hold for one of the rows, and say for which."""
    if not is_fine.all():
        raise IntervalError(f"{name(int(np.argmin(is_fine)))}: {why}")


def _check_rows(table: Table, by: tuple[str, ...]) -> None:
    """Every row of its own, of some requests of a known operation."""
    if not len(table):
        return
    if int(table["op"].max()) >= len(layout.OPS):
        raise IntervalError("an operation is out of range")
    if _has_twice(table, by):
        raise IntervalError(f"two rows have the same {', '.join(by)}")
    requests = table["requests"]
    fits = (requests > 0) & (requests <= MOST_REQUESTS)
    _require(fits, _name_of(table), f"requests are not from 1 to {MOST_REQUESTS}")
    if float(requests.sum(dtype=np.float64)) > MOST_REQUESTS:
        raise IntervalError(f"it has more than {MOST_REQUESTS} requests")


def _has_twice(table: Table, by: tuple[str, ...]) -> bool:
    """Whether two rows agree in these fields: a device number, and others of 16 bits."""
    key = np.zeros(len(table), np.uint64)
    for name in by:
        key = key << np.uint64(16) | table[name].astype(np.uint64)
    return len(np.unique(key)) < len(table)


def _check_requests(cut: Snapshot) -> None:
    rows = cut.rows
    name, requests = _name_of(rows), rows["requests"]
    _require(rows["errors"] <= requests, name, "more errors than requests")
    for what, bins in (("d2c_ns", cut.d2c_bins), ("size_bytes", cut.size_bins)):
        _check_moments(rows[what], requests, name, what)
        _check_bins(bins, rows[what], requests, name, what)
    # The original's own figures: an interval that was read from JSON has none, and one that such
    # ones were merged into has those of the others.
    for what in ("d2c_hist", "size_hist"):
        _require(rows[what].max(axis=1) <= requests, name, f"{what} is too large")
    counted = rows["d2c_hist"].sum(axis=1)
    _require(counted == rows["size_hist"].sum(axis=1), name, "d2c_hist and size_hist differ")
    _require(counted <= requests, name, "d2c_hist has more than all requests")
    for what in ("d2c_us", "throughput"):
        _check_moments(rows[what], counted, name, what)


def _check_queue(cut: Snapshot) -> None:
    rows = cut.queue_rows
    for what, bins in (("q2d_ns", cut.q2d_bins), ("q2c_ns", cut.q2c_bins)):
        _check_moments(rows[what], rows["requests"], _name_of(rows), what)
        _check_bins(bins, rows[what], rows["requests"], _name_of(rows), what)


def _check_retries(rows: Table) -> None:
    if not len(rows):
        return
    if int(rows["op"].max()) >= len(layout.OPS):
        raise IntervalError("an operation of a requeue is out of range")
    if _has_twice(rows, _DEVICE_OP):
        raise IntervalError("two rows of requeues have the same device and operation")
    for what in ("requeues", "requests"):
        fits = rows[what] <= MOST_REQUESTS
        _require(fits, _name_of(rows), f"{what} after a requeue are more than {MOST_REQUESTS}")
    _check_moments(rows["f2c_ns"], rows["requests"], _name_of(rows), "retried")


def _check_moments(moments: Table, numbers: npt.NDArray[np.uint64], name: Name, what: str) -> None:
    """Extremes, sum and sum of squares of so many values: are there such values?"""
    is_ordered = (numbers == 0) | (moments["min"] <= moments["max"])
    _require(is_ordered, name, f"{what}: min exceeds max")
    sums, squares = (from_words(moments[of]).tolist() for of in ("sum", "sum_squares"))
    columns = numbers.tolist(), moments["min"].tolist(), moments["max"].tolist(), sums, squares
    for row, (number, least, greatest, total, squared) in enumerate(zip(*columns)):
        if not number:
            is_right = (least, greatest, total, squared) == (U64_MAX, 0, 0, 0)
        else:
            is_right = number * least <= total <= number * greatest
            # Beyond 128 bits the squares are not known.
            if squared < U128_MAX:
                is_right &= least * total <= squared <= greatest * total
                is_right &= total * total <= number * squared
        if not is_right:
            raise IntervalError(
                f"{name(row)}: {what}: no {number} values have this min, max, sum and sum_squares"
            )


def _check_bins(
    bins: Table, moments: Table, numbers: npt.NDArray[np.uint64], name: Name, what: str
) -> None:
    """Each row's bins: in order, adding up to its number, and between its extremes."""
    row, number, count = bins["row"].astype(np.int64), bins["bin"], bins["count"]
    if len(bins) and (row.max() >= len(numbers) or int(number.max()) >= N_BINS):
        raise IntervalError(f"{what}: a bin is out of range")
    if (np.diff(row << 32 | number) <= 0).any():
        raise IntervalError(f"{what}: bins are not in ascending order")
    if (count > numbers[row]).any() or not count.all():
        raise IntervalError(f"{what}: the count of a bin is out of range")
    # No sum is beyond 64 bits: MOST_REQUESTS times all bins is not.
    upto = np.concatenate((np.zeros(1, np.uint64), np.cumsum(count)))
    firsts = np.searchsorted(row, np.arange(len(numbers) + 1))
    counted = upto[firsts[1:]] - upto[firsts[:-1]]
    _require(counted == numbers, name, f"{what}: its bins do not add up to its requests")
    if not len(bins):
        return
    fits = number[firsts[:-1]] == bin_of(moments["min"])
    fits &= number[firsts[1:] - 1] == bin_of(moments["max"])
    _require(fits, name, f"{what}: min and max are not in its first and its last bin")
    low, high = (bound.astype(np.float64) for bound in bin_bounds(number))
    weights = count.astype(np.float64)
    for of, power in (("sum", 1), ("sum_squares", 2)):
        value = _floats(moments[of])
        least = np.bincount(row, weights * low**power, len(numbers)) * (1 - _TOLERANCE)
        most = np.bincount(row, weights * high**power, len(numbers)) * (1 + _TOLERANCE)
        fits = (least <= value) & (value <= most)
        if of == "sum_squares":  # beyond 128 bits they are not known
            fits |= value >= float(U128_MAX)
        _require(fits, name, f"{what}: {_SUMS[of]} does not fit its bins")


_SUMS = {"sum": "sum", "sum_squares": "sum_squares"}


def _floats(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    doubles: npt.NDArray[np.float64] = words.astype(np.float64) @ np.array([1.0, 2.0**64])
    return doubles


def _check_loads(loads: Table) -> None:
    if not len(loads):
        return
    is_total = loads["op"] == layout.EVERYTHING
    if int(loads["op"].max()) > layout.EVERYTHING or loads["device"][is_total].any():
        raise IntervalError("in flight: an operation is out of range")
    if _has_twice(loads, _DEVICE_OP):
        raise IntervalError("in flight: two rows have the same device, op")
    if not is_total.any():
        raise IntervalError("in flight: those of all devices are missing")
    _check_load(loads["in_flight"] <= loads["max_in_flight"], "more at the end than at most")
    _check_load(loads["max_in_flight"] <= MOST_REQUESTS, "a number is out of range")
    is_old = loads["oldest_ns"] > 0
    _check_load(~is_old | (loads["in_flight"] > 0), "an age where nothing is in flight")


def _check_load(is_fine: npt.NDArray[Any], why: str) -> None:
    if not is_fine.all():
        raise IntervalError(f"in flight: {why}")
