"""Merge the snapshots of several intervals into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.interval.moments import (
    U64_MAX,
    add_up,
    add_up_words,
    reduce_columns,
    run_starts,
    stacked,
    stacked_bins,
    to_words,
)
from blkiomon.interval.tables import IN_FLIGHT, PROCESSES, QUEUED, REQUESTS, RETRIED, TableSpec

if TYPE_CHECKING:
    import numpy.typing as npt

Indices: TypeAlias = "npt.NDArray[np.intp]"


def merge_snapshots(snapshots: Sequence[Snapshot], end_ns: Sequence[int] | None = None) -> Snapshot:
    """Merge snapshots. In each table of the result, no two rows have the same key.

    Rows keep the order in which their keys first occur. Processes are sorted by pid, loads by
    device and operation. Sums are exact up to 2^128 - 1.

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


def put_together(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The requests of snapshots whose rows have no key in common, so that nothing is merged."""
    found: dict[str, Table] = {}
    for spec in (REQUESTS, QUEUED, RETRIED):
        tables = [getattr(snapshot, spec.name) for snapshot in snapshots]
        found[spec.name] = stacked(tables)
        for name in spec.bins.values():
            bins = [getattr(snapshot, name) for snapshot in snapshots]
            found[name] = stacked_bins(bins, tables)
    return Snapshot(**found)


def with_distinct_keys(snapshot: Snapshot) -> Snapshot:
    """The snapshot, merged if some table has several rows of one key."""
    for spec in (REQUESTS, IN_FLIGHT, QUEUED, RETRIED, PROCESSES):
        table = getattr(snapshot, spec.name)
        if len(set(spec.keys(table).tolist())) < len(table):
            return merge_snapshots([snapshot])
    return snapshot


class _Grouped(NamedTuple):
    """The rows of some tables by their key.

    Attributes:
        table: all rows.
        order: shape (n,), sorts the rows by key, and is stable.
        starts: shape (m,), the index in ``order`` at which each key begins.
        firsts: shape (m,), the row in which each key first occurs.
    """

    table: Table
    order: Indices
    starts: Indices
    firsts: Indices

    @classmethod
    def of(cls, tables: Sequence[Table], spec: TableSpec) -> _Grouped:
        table = stacked(tables)
        keys = spec.keys(table)
        order = np.argsort(keys, kind="stable")
        starts = run_starts(keys[order])
        return cls(table, order, starts, order[starts])

    def column(self, name: str) -> npt.NDArray[Any]:
        """A field of all rows, sorted by key."""
        return self.table[name].take(self.order, axis=0)


def _merge_rows(snapshots: Sequence[Snapshot], spec: TableSpec) -> dict[str, Table]:
    """Add up the rows of equal keys, and their histograms; returns tables by attribute."""
    tables = [getattr(snapshot, spec.name) for snapshot in snapshots]
    if not any(map(len, tables)):
        return {name: getattr(snapshots[0], name) for name in (spec.name, *spec.bins.values())}
    rows = _Grouped.of(tables, spec)
    starts = rows.starts
    by_first = np.argsort(rows.firsts)
    # Not table[...]: without memory for structs, that returns garbage instead of raising.
    merged = rows.table.take(rows.firsts[by_first])
    if len(starts) < len(rows.order):
        for name in merged.dtype.names or ():
            if merged.dtype[name] == layout.MOMENTS:
                moments = reduce_columns(rows.column(name), rows.column("requests"), starts)
                merged[name]["min"], merged[name]["max"] = (
                    moments.min[by_first],
                    moments.max[by_first],
                )
                for sums in ("sum", "sum_squares"):
                    merged[name][sums] = to_words(getattr(moments, sums)[by_first])
            elif name not in spec.key:
                merged[name] = np.add.reduceat(rows.column(name), starts)[by_first]
    new_row = np.empty(len(rows.order), np.int64)  # index of the input row -> of the merged row
    new_row[rows.order] = np.repeat(np.argsort(by_first), np.diff(starts, append=len(rows.order)))
    found = {spec.name: merged}
    for name in spec.bins.values():
        bins = [getattr(snapshot, name) for snapshot in snapshots]
        found[name] = _merge_bins(stacked_bins(bins, tables), new_row)
    return found


def _merge_bins(bins: Table, new_row: npt.NDArray[np.int64]) -> Table:
    row = new_row[bins["row"]]
    least = int(bins["bin"].min(initial=layout.D2C_BINS))
    width = max(1, int(bins["bin"].max(initial=0)) - least + 1)  # dense keys, for add_up()
    keys, counts = add_up(row * width + (bins["bin"] - least), bins["count"])
    merged = np.empty(len(keys), layout.BIN)
    merged["row"], merged["bin"], merged["count"] = keys // width, keys % width + least, counts
    return merged


def _merge_loads(tables: Sequence[Table], ends: Sequence[int]) -> Table:
    if not any(map(len, tables)):
        return tables[0]
    loads = _Grouped.of(tables, IN_FLIGHT)
    starts = loads.starts
    merged = loads.table.take(loads.firsts)
    merged["max_in_flight"] = np.maximum.reduceat(loads.column("max_in_flight"), starts)
    busy_ns = loads.column("busy_ns")
    merged["busy_ns"] = np.add.reduceat(busy_ns, starts)
    merged["busy_ns"][np.logical_or.reduceat(busy_ns == U64_MAX, starts)] = U64_MAX
    merged["in_flight_ns"] = to_words(add_up_words(loads.column("in_flight_ns"), starts))
    # A device that the latest interval does not list has nothing in flight any more. If several
    # intervals end last, the greatest number counts: the order of merging must not matter.
    is_latest = np.repeat([end == max(ends) for end in ends], list(map(len, tables)))
    in_flight, oldest_ns = loads.table["in_flight"], loads.table["oldest_ns"]
    key = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(loads.order)))
    of = loads.order[is_latest[loads.order]]
    key = key[is_latest[loads.order]]
    by_size = np.lexsort([oldest_ns[of], in_flight[of], key])
    merged["in_flight"] = merged["oldest_ns"] = 0
    # Of several values for one index, the last one is assigned.
    merged["in_flight"][key[by_size]] = in_flight[of[by_size]]
    merged["oldest_ns"][key[by_size]] = oldest_ns[of[by_size]]
    return merged
