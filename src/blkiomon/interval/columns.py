"""The figures of all groups of an interval as columns, for outputs that render thousands of groups.

``interval.groups`` offers the same figures one group at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from blkiomon.engine.constants import ALL_OPS, EVERYTHING
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.interval.distribution import PERCENTILES, Distribution, Histograms
from blkiomon.interval.moments import (
    NOTHING,
    U64_MAX,
    U128_MAX,
    MomentColumns,
    Moments,
    distinct,
    from_words,
    reduce_columns,
    reduce_moments,
    run_starts,
    stacked,
    stacked_bins,
)

if TYPE_CHECKING:
    import numpy.typing as npt

NS_PER_S = 1_000_000_000

TOTAL = 1 << 35
"""Key of the total. Any other group has the key ``device << 3 | op``; the op of a device as a whole
is ``ALL_OPS``. Sorted by key, each device follows its operations, and the total comes last."""

KEY_BITS = 36
"""The bits of a key above these are the index of its snapshot, if there are several."""

PIECE_WEIGHT = 1 << 16
"""About how many histogram bins and other figures are rendered as one piece."""

Keys: TypeAlias = "npt.NDArray[np.int64]"


@dataclass(frozen=True, eq=False)
class Quantity:
    """The distributions of one quantity in n groups.

    Attributes:
        count, min, max, sum, sum_squares: of each group, as in ``Moments``.
    """

    count: list[int]
    min: list[int]
    max: list[int]
    sum: list[int]
    sum_squares: list[int]
    _add_up: Callable[[], tuple[Histograms, npt.NDArray[np.uint64]]]

    @cached_property
    def _added_up(self) -> tuple[Histograms, npt.NDArray[np.uint64]]:
        """The histograms and percentiles. They take most of the time, and may not be needed."""
        return self._add_up()

    @property
    def histograms(self) -> Histograms:
        """The histograms of all groups."""
        return self._added_up[0]

    @property
    def percentiles(self) -> npt.NDArray[np.uint64]:
        """Shape (n, number of ``PERCENTILES``), u8; 0 if the histogram is empty."""
        return self._added_up[1]

    def means(self, piece: slice) -> list[float | None]:
        """See ``Distribution.mean``."""
        return [s / n if n else None for s, n in zip(self.sum[piece], self.count[piece])]

    def stddevs(self, piece: slice) -> list[float | None]:
        """See ``Distribution.stddev``."""
        columns = self.count[piece], self.sum[piece], self.sum_squares[piece]
        counts, sums, squares = columns
        # If all products fit 64 bits, numpy computes them exactly, and faster than Python.
        if (
            min(counts, default=0) > 0
            and max(counts) * max(squares) <= U64_MAX
            and max(sums) ** 2 <= U64_MAX
        ):
            n, s, q = (np.array(column, np.uint64) for column in columns)
            found: list[float | None] = (np.sqrt(n * q - s * s) / n).tolist()
            return found
        return [
            math.sqrt(n * q - s * s) / n if n and q < U128_MAX else None
            for n, s, q in zip(*columns)
        ]

    def moments(self, at: int) -> Moments:
        """The moments of one group."""
        columns = self.min, self.max, self.sum, self.sum_squares, self.count
        return Moments(*(column[at] for column in columns))

    def distribution(self, at: int) -> Distribution:
        """The distribution of one group."""
        bins, counts, starts = self.histograms
        begin, end = starts[at : at + 2]
        known = tuple(self.percentiles[at].tolist()) if end > begin else ()
        return Distribution(self.moments(at), bins[begin:end], counts[begin:end], known)

    def merged(self, places: npt.NDArray[np.intp]) -> Distribution:
        """The distribution of several groups together."""
        if not len(places):
            return Distribution()
        whole = np.zeros(1, np.intp)
        bins, counts, _ = self.histograms.select(places).merge_runs(whole)
        moments = reduce(Moments.merge, map(self.moments, places.tolist()))
        return Distribution(moments, bins, counts)

    def distributions(self) -> Iterator[Distribution]:
        """The distribution of each group."""
        bins, counts, starts = self.histograms
        known = map(tuple, self.percentiles.tolist())
        moments = map(Moments, self.min, self.max, self.sum, self.sum_squares, self.count)
        for m, (begin, end), percentiles in zip(
            moments, pairwise(starts.tolist()), known, strict=True
        ):
            yield Distribution(
                m, bins[begin:end], counts[begin:end], percentiles if end > begin else ()
            )


class Loads(NamedTuple):
    """Requests in flight of n groups: lists of n, as the attributes of ``InFlight``.

    Devices and the total, if they were not measured, have None everywhere.
    """

    max: list[int | None]
    end: list[int | None]
    oldest_ns: list[int | None]
    request_ns: list[int | None]
    busy_ns: list[int | None]


@dataclass(frozen=True, eq=False)
class Columns:
    """The n groups of an interval, in the order of ``Interval.groups``.

    Attributes:
        keys: ascending; see ``TOTAL``.
        errors, requeues, retried: lists of n; see ``Group``.
        d2c_ns, size_bytes: see ``Group``.
        in_flight: None if it was not measured.
        q2d_ns, q2c_ns: None if no queue record was seen.
        is_queued: whether the group has requests with a queue record.
        duration_ns: length of the interval.
    """

    keys: list[int]
    errors: list[int]
    requeues: list[int]
    retried: list[Moments]
    d2c_ns: Quantity
    size_bytes: Quantity
    in_flight: Loads | None
    q2d_ns: Quantity | None
    q2c_ns: Quantity | None
    is_queued: list[bool]
    duration_ns: int

    @cached_property
    def key_array(self) -> Keys:
        """``keys`` as an array."""
        return np.array(self.keys, np.int64)

    def per_s(self, numbers: list[int]) -> list[float | None]:
        """Each number as a rate; None in an interval without a duration."""
        return self.share([number * NS_PER_S for number in numbers])

    def share(self, numbers: list[Any]) -> list[float | None]:
        """Each number divided by the duration; None for None, or without a duration."""
        if not self.duration_ns:
            return [None] * len(numbers)
        return [None if number is None else number / self.duration_ns for number in numbers]

    def pieces(self) -> Iterator[slice]:
        """Slices of whole devices, each to render at once; the last slice is the total alone."""
        keys = self.key_array
        ends = np.flatnonzero((keys & 7 == ALL_OPS) | (keys == TOTAL)) + 1
        weights = (  # of all groups up to each end; a group has about 16 figures besides bins
            16 * ends
            + self.d2c_ns.histograms.starts[ends]
            + self.size_bytes.histograms.starts[ends]
        )
        done, last = 0, len(ends) - 1
        while done < last:
            begin = int(ends[done - 1]) if done else 0
            limit = (int(weights[done - 1]) if done else 0) + PIECE_WEIGHT
            done = max(done + 1, int(np.searchsorted(weights[:last], limit, "right")))
            yield slice(begin, int(ends[done - 1]))
        yield slice(len(keys) - 1, len(keys))


def columns_of(
    snapshots: Sequence[Snapshot], duration_ns: int, not_in_total: Collection[int] = ()
) -> Columns:
    """All groups of each snapshot; see ``Interval.groups`` for their order.

    Args:
        not_in_total: numbers of devices that the total leaves out. The total's requests in flight
            are taken from the snapshot as they are.
    """
    left_out = np.array(sorted(not_in_total), np.uint32)
    by, by_queue, by_retry = (
        _Grouping([getattr(snapshot, name) for snapshot in snapshots], left_out)
        for name in ("rows", "queue_rows", "retry_rows")
    )
    loads, load_keys = _stacked_loads(snapshots)
    totals = np.arange(len(snapshots)) << KEY_BITS | TOTAL
    found = np.concatenate((by.keys, by_queue.keys, by_retry.keys, load_keys, totals))
    keys = distinct(np.concatenate((found, found[found & TOTAL == 0] | ALL_OPS)))
    for grouping in (by, by_queue, by_retry):
        grouping.place_among(keys)
    has_queue = len(by_queue.rows) > 0
    is_queued = np.zeros(len(keys), bool)
    is_queued[by_queue.places] = True

    def quantity(of: _Grouping, name: str, bins: str) -> Quantity:
        return of.quantity(of.rows[name], [getattr(snapshot, bins) for snapshot in snapshots])

    return Columns(
        keys.tolist(),
        by.sums(by.rows["errors"]),
        by_retry.sums(by_retry.rows["requeues"]),
        by_retry.moments(by_retry.rows["f2c_ns"]),
        quantity(by, "d2c_ns", "d2c_bins"),
        quantity(by, "size_bytes", "size_bins"),
        _loads(loads, load_keys, keys) if len(loads) else None,
        quantity(by_queue, "q2d_ns", "q2d_bins") if has_queue else None,
        quantity(by_queue, "q2c_ns", "q2c_bins") if has_queue else None,
        is_queued.tolist(),
        duration_ns,
    )


def _stacked_loads(snapshots: Sequence[Snapshot]) -> tuple[Table, Keys]:
    """The loads of all snapshots, and the key of each."""
    tables = [snapshot.loads for snapshot in snapshots]
    loads = stacked(tables)
    keys = loads["device"].astype(np.int64) << 3 | loads["op"]
    keys[loads["op"] == EVERYTHING] = TOTAL
    return loads, _index_of(tables) << KEY_BITS | keys


def _index_of(tables: Sequence[Table]) -> Keys:
    """The index of the table of each row of these tables."""
    return np.repeat(np.arange(len(tables)), list(map(len, tables)))


def _loads(loads: Table, load_keys: Keys, keys: Keys) -> Loads:
    """Requests in flight of the groups with these keys; 0 for an operation without a row."""
    places = np.searchsorted(keys, load_keys)
    is_unknown = (keys & 7 == ALL_OPS) | (keys & TOTAL != 0)
    is_unknown |= ~np.isin(keys >> KEY_BITS, load_keys >> KEY_BITS)
    is_unknown[places] = False
    unknown = np.flatnonzero(is_unknown).tolist()

    def column(values: npt.NDArray[Any]) -> list[Any]:
        listed: list[Any] = _scatter(values, places, len(keys)).tolist()
        for at in unknown:
            listed[at] = None
        return listed

    busy = column(loads["busy_ns"])
    is_device = ((keys & 7 == ALL_OPS) & (keys & TOTAL == 0)).tolist()
    return Loads(
        column(loads["max_in_flight"]),
        column(loads["in_flight"]),
        column(loads["oldest_ns"]),
        column(from_words(loads["in_flight_ns"])),
        [
            ns if known and ns != U64_MAX else None
            for ns, known in zip(busy, is_device, strict=True)
        ],
    )


def _scatter(
    values: npt.NDArray[Any], places: npt.NDArray[np.intp], n: int, fill: int = 0
) -> npt.NDArray[Any]:
    """An array of length n with ``values`` at ``places``, and ``fill`` elsewhere."""
    scattered = np.full((n, *values.shape[1:]), fill, values.dtype)
    scattered[places] = values
    return scattered


class _Grouping:
    """Assigns each row to three groups: its operation, its device and the total.

    Args:
        tables: of one snapshot each, with the fields ``device``, ``op`` and ``requests``.
        left_out: numbers of devices that the total leaves out.

    Attributes:
        rows: shape (n,), of all tables.
        keys: of the groups, level by level: operations, devices, total.
        places: index of each of these groups among all groups of the interval.
    """

    def __init__(self, tables: Sequence[Table], left_out: npt.NDArray[np.uint32]) -> None:
        self.rows = rows = stacked(tables)
        self._tables = tables
        key = rows["device"].astype(np.int64) << 3 | rows["op"] | _index_of(tables) << KEY_BITS
        self._order = np.argsort(key, kind="stable")
        key = key[self._order]
        self._in_total: slice | npt.NDArray[np.intp] = slice(None)  # index of the ordered rows
        if len(left_out):
            is_left_out = np.isin(rows["device"][self._order], left_out)
            self._in_total = np.flatnonzero(~is_left_out)
        total = key[self._in_total] >> KEY_BITS << KEY_BITS | TOTAL
        levels = (key, key | ALL_OPS, total)
        self._starts = [run_starts(keys) for keys in levels]
        self._requests = rows["requests"][self._order]
        self.keys = np.concatenate([keys[at] for keys, at in zip(levels, self._starts)])
        self.places = np.empty(0, np.intp)
        self._n = 0

    def place_among(self, keys: Keys) -> None:
        """Set the ascending keys of all groups. The methods below return one figure per group."""
        self.places = np.searchsorted(keys, self.keys)
        self._n = len(keys)

    def sums(self, column: npt.NDArray[np.uint64]) -> list[int]:
        """The sum of a column, shape (n,), for each group; 0 for a group without a row."""
        sums = map(np.add.reduceat, self._of_levels(column), self._starts)
        return self._listed(np.concatenate([*sums]))

    def _of_levels(self, column: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
        """The ordered values of a column, shape (n,), that each level adds up."""
        column = column[self._order]
        return column, column, column[self._in_total]

    def _moments_of_levels(self, moments: Table) -> tuple[Sequence[npt.NDArray[Any]], ...]:
        """The arguments of ``reduce_columns`` for each level."""
        requests = self._requests
        of_levels = requests, requests, requests[self._in_total]
        return self._of_levels(moments), of_levels, self._starts

    def _listed(self, values: npt.NDArray[Any], fill: int = 0) -> list[int]:
        """A value for each group, ``fill`` for a group without a row."""
        listed: list[int] = _scatter(values, self.places, self._n, fill).tolist()
        return listed

    def moments(self, moments: Table) -> list[Moments]:
        """Add up the moments of rows, shape (n,), dtype ``layout.MOMENTS``, for each group."""
        found = [NOTHING] * self._n
        reduced = map(reduce_moments, *self._moments_of_levels(moments))
        for place, each in zip(self.places.tolist(), chain(*reduced), strict=True):
            found[place] = each
        return found

    def quantity(self, moments: Table, tables: Sequence[Table]) -> Quantity:
        """Add up a quantity of rows for each group.

        Args:
            moments: shape (n,), dtype ``layout.MOMENTS``.
            tables: the histograms of the rows of each snapshot, dtype ``layout.BIN``.
        """
        each = [*map(reduce_columns, *self._moments_of_levels(moments))]
        least, most, total, squares, count = (np.concatenate(column) for column in zip(*each))
        return Quantity(
            self._listed(count),
            self._listed(least, U64_MAX),
            self._listed(most),
            self._listed(total),
            self._listed(squares),
            partial(self._add_up, each, tables),
        )

    def _add_up(
        self, each: Sequence[MomentColumns], tables: Sequence[Table]
    ) -> tuple[Histograms, npt.NDArray[np.uint64]]:
        """The histograms and percentiles of all groups; ``each`` are the moments of each level."""
        bins = stacked_bins(tables, self._tables)
        row = bins["row"].astype(np.int64)
        of_rows = Histograms.sum_by_group(row, bins["bin"], bins["count"], len(self.rows))
        of_rows = of_rows.select(self._order)
        in_total = self._in_total
        of_total = of_rows if isinstance(in_total, slice) else of_rows.select(in_total)
        levels = [*map(Histograms.merge_runs, (of_rows, of_rows, of_total), self._starts)]
        percentiles = np.concatenate(
            [h.percentiles(m.min, m.max, PERCENTILES) for h, m in zip(levels, each, strict=True)]
        )
        return self._scatter_histograms(levels), _scatter(percentiles, self.places, self._n)

    def _scatter_histograms(self, levels: list[Histograms]) -> Histograms:
        """The histogram of each group, from all levels; empty for a group without a row."""
        bins, counts = (np.concatenate(column) for column in list(zip(*levels))[:2])
        offsets = np.cumsum([0, *(len(level.bins) for level in levels)])
        starts = np.concatenate([h.starts[:-1] + at for h, at in zip(levels, offsets)])
        empty = len(starts)  # index of an additional, empty histogram
        joined = Histograms(bins, counts, np.append(starts, [len(bins), len(bins)]))
        order = np.full(self._n, empty, np.intp)
        order[self.places] = np.arange(empty)
        return joined.select(order)
