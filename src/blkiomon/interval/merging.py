"""Merge the snapshots of several intervals into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.interval.moments import add_up, from_words, reduce_moments, stacked, to_words


def merge_snapshots(cuts: Sequence[Snapshot], end_ns: Sequence[int] | None = None) -> Snapshot:
    """One cut of all that several hold, with one row for each device, operation and direction.

    Rows stay in the order in which the first of each came. Sums are exact, up to 2^128 - 1.

    Args:
        cuts: in the order of their time, if no ends are given.
        end_ns: when each ended: what was in flight at the end is told by the latest one.
    """
    ends = range(len(cuts)) if end_ns is None else end_ns
    rows, (d2c_bins, size_bins) = _merge_rows(
        [cut.rows for cut in cuts],
        [[cut.d2c_bins for cut in cuts], [cut.size_bins for cut in cuts]],
        ("device", "op", "direction"),
    )
    retry_rows, _ = _merge_rows([cut.retry_rows for cut in cuts], [], ("device", "op"))
    queue_rows, (q2d_bins, q2c_bins) = _merge_rows(
        [cut.queue_rows for cut in cuts],
        [[cut.q2d_bins for cut in cuts], [cut.q2c_bins for cut in cuts]],
        ("device", "op"),
    )
    return Snapshot(
        rows=rows,
        d2c_bins=d2c_bins,
        size_bins=size_bins,
        loads=_merge_loads([cut.loads for cut in cuts], ends),
        retry_rows=retry_rows,
        queue_rows=queue_rows,
        q2d_bins=q2d_bins,
        q2c_bins=q2c_bins,
        processes=_merge_processes([cut.processes for cut in cuts]),
    )


Indices = npt.NDArray[np.intp]


def _grouped(tables: Sequence[Table], by: tuple[str, ...]) -> tuple[Table, Indices, Indices]:
    """Tables put together: sorted by some fields, where each group begins, and the sorting."""
    table = stacked(tables)
    order = np.lexsort([table[name] for name in reversed(by)])
    table = table.take(order)  # indexing may hand out anything where there is no memory for structs
    is_new = np.ones(len(table), bool)  # by columns: to compare structs takes far longer
    is_new[1:] = np.any([table[name][1:] != table[name][:-1] for name in by], axis=0)
    return table, np.flatnonzero(is_new), order


def _merge_rows(
    tables: Sequence[Table], bins: Sequence[Sequence[Table]], by: tuple[str, ...]
) -> tuple[Table, list[Table]]:
    """Merge rows with their bins, of which there may be several sorts."""
    if not any(map(len, tables)):
        return tables[0], [of_a_sort[0] for of_a_sort in bins]
    table, starts, order = _grouped(tables, by)
    merged = table.take(starts)
    for name in table.dtype.names or ():
        if table.dtype[name] == layout.MOMENTS:
            moments = reduce_moments(table[name], table["requests"], starts)
            merged[name]["min"] = [m.min for m in moments]
            merged[name]["max"] = [m.max for m in moments]
            merged[name]["sum"] = to_words(m.sum for m in moments)
            merged[name]["sum_squares"] = to_words(m.sum_squares for m in moments)
        elif name not in by:
            merged[name] = np.add.reduceat(table[name], starts)
    by_first = np.argsort(order[starts])  # the sorting is stable: that is the first of each group
    place = np.empty(len(order), np.int64)  # of each row before, its row now
    place[order] = np.repeat(np.argsort(by_first), np.diff(starts, append=len(order)))
    offsets = np.cumsum([0, *map(len, tables[:-1])]).tolist()
    return merged.take(by_first), [_merge_bins(of_a_sort, offsets, place) for of_a_sort in bins]


def _merge_bins(tables: Sequence[Table], offsets: list[int], place: npt.NDArray[np.int64]) -> Table:
    rows = [place[table["row"].astype(np.intp) + at] for table, at in zip(tables, offsets)]
    bins = stacked(tables)
    keys, counts = add_up(np.concatenate(rows) << 32 | bins["bin"], bins["count"])
    merged = np.empty(len(keys), layout.BIN)
    merged["row"], merged["bin"], merged["count"] = keys >> 32, keys & 0xFFFFFFFF, counts
    return merged


def _merge_loads(tables: Sequence[Table], ends: Sequence[int]) -> Table:
    if not any(map(len, tables)):
        return tables[0]
    table, starts, _ = _grouped(tables, ("device", "op"))
    merged = table.take(starts)
    merged["max_in_flight"] = np.maximum.reduceat(table["max_in_flight"], starts)
    merged["busy_ns"] = np.add.reduceat(table["busy_ns"], starts)
    integrals = np.add.reduceat(from_words(table["in_flight_ns"]), starts)
    merged["in_flight_ns"] = to_words(integrals.tolist())
    # What the latest does not list is not in flight any more. Of several that end together the
    # greatest counts, so that the order in which they are merged makes no difference.
    latest: dict[tuple[int, int], tuple[int, int]] = {}
    for one, end in zip(tables, ends):
        if end == max(ends):
            for load in one[["device", "op", "in_flight", "oldest_ns"]].tolist():
                latest[load[:2]] = max(latest.get(load[:2], (0, 0)), load[2:])
    now = [latest.get(key, (0, 0)) for key in merged[["device", "op"]].tolist()]
    merged["in_flight"], merged["oldest_ns"] = zip(*now)
    return merged


def _merge_processes(tables: Sequence[Table]) -> Table:
    if not any(map(len, tables)):
        return tables[0]
    table, starts, _ = _grouped(tables, ("pid",))
    merged = table.take(starts)
    for name in ("requests", "bytes"):
        merged[name] = np.add.reduceat(table[name], starts)
    return merged
