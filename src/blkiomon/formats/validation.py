"""Check that a decoded interval is consistent; both codecs use it.

After the check, the interval can be shown, encoded and merged: all figures are in range, and they
agree with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.errors import IntervalError
from blkiomon.formats.units import device_text
from blkiomon.interval.distribution import N_BINS, bin_bounds, bin_of
from blkiomon.interval.moments import U64_MAX, U128_MAX, as_floats, distinct, from_words
from blkiomon.interval.tables import IN_FLIGHT, PROCESSES, QUEUED, REQUESTS, RETRIED, TableSpec
from blkiomon.interval.value import Interval

MOST_REQUESTS = 1 << 52
"""Limit of requests in an interval, and in flight: 4,095 such intervals add up in 64 bits."""

MOST_COUNT = 1 << 112
"""Limit of ``Counts``: 65,536 such intervals add up in 128 bits."""

MOST_NS = 1 << 66
"""Limit of the absolute value of a time: trace time (64 bits) plus an epoch."""

_TOLERANCE = 1e-9
"""Relative rounding error allowed for sums over bins, which are computed in doubles."""

_TABLES = (
    ("requests", REQUESTS),
    ("in flight", IN_FLIGHT),
    ("queued requests", QUEUED),
    ("processes", PROCESSES),
    ("requeues", RETRIED),
)
"""The tables, each with its name for messages."""

Bools = npt.NDArray[np.bool_]
RowName = Callable[[int], str]


def check(interval: Interval) -> None:
    """Check that the figures of an interval are in range and agree with each other.

    Raises:
        IntervalError: a figure is out of range, or two contradict each other; the text names them.
    """
    _check_times(interval)
    for field in fields(interval.counts):
        if not 0 <= (value := getattr(interval.counts, field.name)) < MOST_COUNT:
            raise IntervalError(f"the count {field.name} is {value}, out of range")
    snapshot = interval.snapshot
    for title, spec in _TABLES:
        _check_keys(getattr(snapshot, spec.name), spec, title)
    for spec in (REQUESTS, QUEUED):
        _check_requests(snapshot, spec)
    _check_original(snapshot.rows)
    _check_retries(snapshot.retry_rows)
    _check_loads(snapshot.loads)


def _check_times(interval: Interval) -> None:
    start_ns, end_ns = interval.start_ns, interval.end_ns
    if max(map(abs, (start_ns, end_ns, *interval.named_ns.values()))) >= MOST_NS:
        raise IntervalError("a time is out of range")
    if abs(interval.time_s) > MOST_NS // 10**9:
        raise IntervalError(f"the time {interval.time_s} s is out of range")
    if start_ns > end_ns:
        raise IntervalError(f"end_ns {end_ns} is before start_ns {start_ns}")
    if any(not 0 <= pid < 1 << 32 for pid in interval.process_names):
        raise IntervalError("the pid of a process name is out of range")


def _check_keys(table: Table, spec: TableSpec, title: str) -> None:
    """Check that operations and directions are in range, and that no two rows have one key."""
    if not len(table):
        return
    limits = {"op": layout.EVERYTHING + 1 if spec is IN_FLIGHT else len(layout.OPS)}
    limits["direction"] = len(layout.DIRECTIONS)
    for name in spec.key:
        if int(table[name].max()) >= limits.get(name, 1 << 32):
            raise IntervalError(f"{title}: {name} is out of range")
    if len(distinct(spec.keys(table))) < len(table):
        raise IntervalError(f"{title}: two rows have the same {', '.join(spec.key)}")


def _row_name(table: Table) -> RowName:
    """Return a function that names a row for a message: ``8:16 read``."""
    return lambda row: (
        f"{device_text(int(table['device'][row]))} {layout.OPS[int(table['op'][row])]}"
    )


def _require(is_fine: Bools, name: RowName, why: str) -> None:
    """Raise IntervalError, naming the first row for which ``is_fine`` is false."""
    if not is_fine.all():
        raise IntervalError(f"{name(int(np.argmin(is_fine)))}: {why}")


def _check_requests(snapshot: Snapshot, spec: TableSpec) -> None:
    """Check the number of requests of each row, and that its quantities agree with it."""
    table = getattr(snapshot, spec.name)
    if not len(table) and not any(len(getattr(snapshot, bins)) for bins in spec.bins.values()):
        return
    name, requests = _row_name(table), table["requests"]
    is_fine = (requests > 0) & (requests <= MOST_REQUESTS)
    _require(is_fine, name, f"requests are not from 1 to {MOST_REQUESTS}")
    if float(requests.sum(dtype=np.float64)) > MOST_REQUESTS:
        raise IntervalError(f"the interval has more than {MOST_REQUESTS} requests")
    for quantity, bins in spec.bins.items():
        _check_moments(table[quantity], requests, name, quantity)
        _check_bins(getattr(snapshot, bins), table[quantity], requests, name, quantity)


def _check_original(rows: Table) -> None:
    """Check the errors, and the figures of the original program.

    An interval from JSON lacks the latter; a merged one may have them of some of its requests only.
    """
    name, requests = _row_name(rows), rows["requests"]
    _require(rows["errors"] <= requests, name, "more errors than requests")
    for histogram in ("d2c_hist", "size_hist"):
        _require(rows[histogram].max(axis=1) <= requests, name, f"{histogram} is too large")
    counted = rows["d2c_hist"].sum(axis=1)
    _require(counted == rows["size_hist"].sum(axis=1), name, "d2c_hist and size_hist differ")
    _require(counted <= requests, name, "d2c_hist has more than all requests")
    for quantity in ("d2c_us", "throughput"):
        _check_moments(rows[quantity], counted, name, quantity)


def _check_retries(rows: Table) -> None:
    name = _row_name(rows)
    for number in ("requeues", "requests"):
        is_fine = rows[number] <= MOST_REQUESTS
        _require(is_fine, name, f"{number} after a requeue are more than {MOST_REQUESTS}")
    _check_moments(rows["f2c_ns"], rows["requests"], name, "retried")


def _check_moments(
    moments: Table, counts: npt.NDArray[np.uint64], name: RowName, quantity: str
) -> None:
    """Check that values with these moments can exist.

    Args:
        moments: shape (n,), dtype ``layout.MOMENTS``.
        counts: shape (n,): the number of values of each row.
        name, quantity: for messages.
    """
    is_ordered = (counts == 0) | (moments["min"] <= moments["max"])
    _require(is_ordered, name, f"{quantity}: min exceeds max")
    sums, squares = (from_words(moments[of]).tolist() for of in ("sum", "sum_squares"))
    columns = counts.tolist(), moments["min"].tolist(), moments["max"].tolist(), sums, squares
    for row, (count, least, greatest, total, squared) in enumerate(zip(*columns)):
        if not count:
            is_fine = (least, greatest, total, squared) == (U64_MAX, 0, 0, 0)
        else:
            others = count - 1  # all values but the least, or all but the greatest
            is_fine = others * least + greatest <= total <= least + others * greatest
            if squared < U128_MAX:  # else the sum of squares is unknown
                is_fine &= least * total <= squared <= greatest * total
                is_fine &= total * total <= count * squared  # the variance is not negative
        if not is_fine:
            raise IntervalError(
                f"{name(row)}: {quantity}: {count} values cannot have this min, max, sum and "
                "sum_squares"
            )


def _check_bins(
    bins: Table, moments: Table, counts: npt.NDArray[np.uint64], name: RowName, quantity: str
) -> None:
    """Check the bins of each row: ascending, summing up to its requests, within its extremes.

    Args:
        bins: dtype ``layout.BIN``.
        moments, counts, name, quantity: as of ``_check_moments``.
    """
    row, number, count = bins["row"].astype(np.int64), bins["bin"], bins["count"]
    if len(bins) and (row.max() >= len(counts) or int(number.max()) >= N_BINS):
        raise IntervalError(f"{quantity}: a bin is out of range")
    keys = row << 32 | number
    if (keys[1:] <= keys[:-1]).any():
        raise IntervalError(f"{quantity}: bins are not in ascending order")
    if (count > counts[row]).any() or not count.all():
        raise IntervalError(f"{quantity}: the count of a bin is out of range")
    # This cannot overflow: there are fewer than 2^12 bins a row, of up to 2^52 requests in all.
    upto = np.concatenate((np.zeros(1, np.uint64), count)).cumsum()
    ends = row.searchsorted(np.arange(len(counts) + 1))
    counted = upto[ends[1:]] - upto[ends[:-1]]
    _require(counted == counts, name, f"{quantity}: its bins do not add up to its requests")
    if not len(bins):
        return
    # Each row has requests, and so has bins.
    firsts, lasts = ends[:-1], ends[1:] - 1
    extremes = bin_of((moments["min"], moments["max"]))
    is_fine = (number[firsts] == extremes[0]) & (number[lasts] == extremes[1])
    _require(is_fine, name, f"{quantity}: min and max are not in its first and its last bin")
    low, high = (bound.astype(np.float64) for bound in bin_bounds(number))
    least, most = count * low, count * high  # sums of the values in each bin
    for of in ("sum", "sum_squares"):
        if of == "sum_squares":
            least, most = least * low, most * high
        value = as_floats(moments[of])
        is_fine = np.add.reduceat(least, firsts) * (1 - _TOLERANCE) <= value
        is_fine &= value <= np.add.reduceat(most, firsts) * (1 + _TOLERANCE)
        if of == "sum_squares":  # which is unknown beyond 128 bits
            is_fine |= value >= float(U128_MAX)
        _require(is_fine, name, f"{quantity}: {of} does not fit its bins")


def _check_loads(loads: Table) -> None:
    if not len(loads):
        return
    is_total = loads["op"] == layout.EVERYTHING
    is_old = loads["oldest_ns"] > 0
    for is_fine, why in (
        (~is_total | (loads["device"] == 0), "the total has a device"),
        # An interval of selected operations has no total of requests in flight.
        (is_total.any() | (loads["op"] < layout.ALL_OPS).all(), "the total is missing"),
        (loads["in_flight"] <= loads["max_in_flight"], "end exceeds max"),
        (loads["max_in_flight"] <= MOST_REQUESTS, "max is out of range"),
        (~is_old | (loads["in_flight"] > 0), "oldest_ns is given but end is 0"),
    ):
        if not is_fine.all():
            raise IntervalError(f"in flight: {why}")
