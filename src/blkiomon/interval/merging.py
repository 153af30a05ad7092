"""Merge the snapshots of several intervals into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.interval.moments import (
    U64_MAX,
    add_up,
    from_words,
    reduce_columns,
    run_starts,
    stacked,
    to_words,
)
from blkiomon.interval.tables import IN_FLIGHT, PROCESSES, QUEUED, REQUESTS, RETRIED, TableSpec

Indices = npt.NDArray[np.intp]


def merge_snapshots(snapshots: Sequence[Snapshot], end_ns: Sequence[int] | None = None) -> Snapshot:
    """Merge snapshots. In each table of the result, no two rows have the same key.

    Rows keep the order in which their keys first occur, processes that of their pids. Sums are
    exact up to 2^128 - 1.

    Args:
        snapshots: in order of time, unless ``end_ns`` is given.
        end_ns: when the interval of each snapshot ended. The requests in flight at the end of the
            merged interval come from the snapshot that ended last.
    """
    ends = range(len(snapshots)) if end_ns is None else end_ns
    merged = {IN_FLIGHT.name: _merge_loads([snapshot.loads for snapshot in snapshots], ends)}
    for spec in (REQUESTS, QUEUED, RETRIED, PROCESSES):
        merged |= _merge_rows(snapshots, spec)
    processes = merged[PROCESSES.name]
    merged[PROCESSES.name] = processes.take(np.argsort(processes["pid"]))
    return Snapshot(**merged)


def with_distinct_keys(snapshot: Snapshot) -> Snapshot:
    """The snapshot, merged if some table has several rows of one key."""
    for spec in (REQUESTS, IN_FLIGHT, QUEUED, RETRIED, PROCESSES):
        table = getattr(snapshot, spec.name)
        if len(set(spec.keys(table).tolist())) < len(table):
            return merge_snapshots([snapshot])
    return snapshot


def _sort_by_key(tables: Sequence[Table], spec: TableSpec) -> tuple[Table, Indices, Indices]:
    """Concatenate tables and sort the rows by key.

    Returns:
        The sorted rows, the index at which each new key begins, and the (stable) sorting order.
    """
    table = stacked(tables)
    keys = spec.keys(table)
    order = np.argsort(keys, kind="stable")
    # Not table[order]: without memory for structs, that returns garbage instead of raising.
    return table.take(order), run_starts(keys[order]), order


def _merge_rows(snapshots: Sequence[Snapshot], spec: TableSpec) -> dict[str, Table]:
    """Add up the rows of equal keys, and their histograms; returns tables by attribute."""
    tables = [getattr(snapshot, spec.name) for snapshot in snapshots]
    if not any(map(len, tables)):
        return {name: getattr(snapshots[0], name) for name in (spec.name, *spec.bins.values())}
    table, starts, order = _sort_by_key(tables, spec)
    merged = table.take(starts)
    for name in table.dtype.names or ():
        if table.dtype[name] == layout.MOMENTS:
            moments = reduce_columns(table[name], table["requests"], starts)
            merged[name]["min"], merged[name]["max"] = moments.min, moments.max
            merged[name]["sum"] = to_words(moments.sum)
            merged[name]["sum_squares"] = to_words(moments.sum_squares)
        elif name not in spec.key:
            merged[name] = np.add.reduceat(table[name], starts)
    # The sorting is stable: order[starts] is where each key first occurred.
    by_first = np.argsort(order[starts])
    new_row = np.empty(len(order), np.int64)  # index of the input row -> index of the merged row
    new_row[order] = np.repeat(np.argsort(by_first), np.diff(starts, append=len(order)))
    offsets = np.cumsum([0, *map(len, tables[:-1])])
    found = {spec.name: merged.take(by_first)}
    for name in spec.bins.values():
        bins = [getattr(snapshot, name) for snapshot in snapshots]
        found[name] = _merge_bins(bins, offsets, new_row)
    return found


def _merge_bins(
    tables: Sequence[Table], offsets: npt.NDArray[np.int64], new_row: npt.NDArray[np.int64]
) -> Table:
    bins = stacked(tables)
    row = new_row[bins["row"] + np.repeat(offsets, list(map(len, tables)))]
    keys, counts = add_up(row << 32 | bins["bin"], bins["count"])
    merged = np.empty(len(keys), layout.BIN)
    merged["row"], merged["bin"], merged["count"] = keys >> 32, keys & 0xFFFFFFFF, counts
    return merged


def _merge_loads(tables: Sequence[Table], ends: Sequence[int]) -> Table:
    if not any(map(len, tables)):
        return tables[0]
    table, starts, _ = _sort_by_key(tables, IN_FLIGHT)
    merged = table.take(starts)
    merged["max_in_flight"] = np.maximum.reduceat(table["max_in_flight"], starts)
    merged["busy_ns"] = np.add.reduceat(table["busy_ns"], starts)
    is_unknown = np.logical_or.reduceat(table["busy_ns"] == U64_MAX, starts)
    merged["busy_ns"][is_unknown] = U64_MAX
    integrals = np.add.reduceat(from_words(table["in_flight_ns"]), starts)
    merged["in_flight_ns"] = to_words(integrals)
    # A device that the latest interval does not list has nothing in flight any more. If several
    # intervals end last, the greatest number counts: the order of merging must not matter.
    latest: dict[tuple[int, int], tuple[int, int]] = {}
    for each, end in zip(tables, ends):
        if end == max(ends):
            for load in each[["device", "op", "in_flight", "oldest_ns"]].tolist():
                latest[load[:2]] = max(latest.get(load[:2], (0, 0)), load[2:])
    at_end = [latest.get(key, (0, 0)) for key in merged[["device", "op"]].tolist()]
    merged["in_flight"], merged["oldest_ns"] = zip(*at_end)
    return merged
