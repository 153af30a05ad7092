"""Which devices have rows of their own where there are too many, and what becomes of the others.

Those on which requests waited longest in all keep theirs: the busy ones and the slow ones. All
others are added up as one, so that totals stay exact. Who was among the others once stays there:
no device has figures of a part of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.moments import from_words, to_words
from blkiomon.interval.value import Interval, in_order

OTHERS = 0
"""In place of a number: all devices without rows of their own. No disk has the number 0:0."""

MOST_DEVICES = 512
"""So many have rows of their own, at most."""

FEW_DEVICES = 16
"""Groups of so many, in all slices of time, take some 100 MB."""

MOST_OTHERS = 1 << 22
"""Numbers of others that are kept, to count them: of more it is only known that there are more."""

MOST_PROCESSES = 1024
"""Of an interval, those that moved the most bytes."""

Numbers = npt.NDArray[np.uint32]


def devices_of(interval: Interval) -> Numbers:
    """All that an interval has rows of, in ascending order."""
    cut = interval.snapshot
    loads = cut.loads["device"][cut.loads["op"] != layout.EVERYTHING]
    tables = cut.rows, cut.queue_rows, cut.retry_rows
    return np.unique(np.concatenate([*(table["device"] for table in tables), loads]))


def worst(intervals: Sequence[Interval], candidates: Numbers, n: int) -> Numbers:
    """The n of these devices on which requests waited longest in all, in ascending order.

    Requests that never completed count as well, where they were followed.
    """
    waited = np.zeros(len(candidates))
    for interval in intervals:
        rows, loads = interval.snapshot.rows, interval.snapshot.loads
        loads = loads[loads["op"] == layout.ALL_OPS]
        of_rows, of_loads = np.zeros(len(candidates)), np.zeros(len(candidates))
        _add(of_rows, candidates, rows["device"], rows["d2c_ns"]["sum"])
        _add(of_loads, candidates, loads["device"], loads["in_flight_ns"])
        waited += np.maximum(of_rows, of_loads)
    order = np.argsort(-waited, kind="stable")[:n]
    return np.sort(candidates[order])


def _add(
    sums: npt.NDArray[np.float64],
    candidates: Numbers,
    devices: Numbers,
    words: npt.NDArray[np.uint64],
) -> None:
    """Add 128-bit numbers to those of their devices."""
    place = np.minimum(np.searchsorted(candidates, devices), len(candidates) - 1)
    is_there = candidates[place] == devices
    times = words.astype(np.float64) @ np.array([1.0, 2.0**64])
    np.add.at(sums, place[is_there], times[is_there])


def added_up(interval: Interval, others: Numbers) -> Interval:
    """An interval in which these devices are one: ``OTHERS``.

    How many requests all of them had in flight at most is not known: it is the most of any.
    """
    cut = interval.snapshot
    others = np.append(others, np.uint32(OTHERS))
    rows, queue_rows, loads = cut.rows.copy(), cut.queue_rows.copy(), cut.loads
    retry_rows = cut.retry_rows.copy()
    for table in (rows, queue_rows, retry_rows):
        table["device"][np.isin(table["device"], others)] = OTHERS
    is_other = np.isin(loads["device"], others) & (loads["op"] != layout.EVERYTHING)
    ops = np.unique(loads["op"][is_other])
    together = [all_of(loads[is_other & (loads["op"] == op)], OTHERS, op) for op in ops]
    renamed = replace(cut, rows=rows, queue_rows=queue_rows, retry_rows=retry_rows, loads=loads[:0])
    merged = merge_snapshots([renamed])
    return replace(
        interval,
        devices=in_order(rows["device"]),
        snapshot=replace(merged, loads=np.concatenate([loads[~is_other], *together])),
    )


def only(interval: Interval, devices: Sequence[int]) -> Interval:
    """What an interval says of some devices.

    What was not seen, and by whom, is not known by device: the counts are those of all. Of several
    devices the most that were in flight at once is not known either: it is that of the busiest.
    """
    cut = interval.snapshot
    rows, (d2c_bins, size_bins) = _picked(cut.rows, (cut.d2c_bins, cut.size_bins), devices)
    queue_rows, (q2d_bins, q2c_bins) = _picked(
        cut.queue_rows, (cut.q2d_bins, cut.q2c_bins), devices
    )
    loads = cut.loads[np.isin(cut.loads["device"], devices)]
    loads = loads[loads["op"] != layout.EVERYTHING]
    if len(cut.loads):
        of_devices = loads[loads["op"] == layout.ALL_OPS]
        loads = np.append(loads, all_of(of_devices, 0, layout.EVERYTHING))
    return replace(
        interval,
        devices=interval.devices[np.isin(interval.devices, devices)],
        snapshot=Snapshot(
            rows=rows,
            d2c_bins=d2c_bins,
            size_bins=size_bins,
            loads=loads,
            queue_rows=queue_rows,
            q2d_bins=q2d_bins,
            q2c_bins=q2c_bins,
            retry_rows=cut.retry_rows[np.isin(cut.retry_rows["device"], devices)],
        ),
        process_names={},
        named_ns={},
    )


def _picked(
    rows: Table, bins: Iterable[Table], devices: Sequence[int]
) -> tuple[Table, list[Table]]:
    keep = np.isin(rows["device"], devices)
    place = np.cumsum(keep) - 1
    picked = []
    for table in bins:
        part = table[keep[table["row"]]].copy()
        part["row"] = place[part["row"]]
        picked.append(part)
    return rows[keep], picked


def reduced(interval: Interval, device: int | None) -> Interval:
    """What an interval says of one device; or, with None, of all, with groups of a few at most.

    An interval keeps its groups: those of all devices in all slices would take gigabytes.
    """
    devices = devices_of(interval)
    if device is None:
        return interval if len(devices) <= FEW_DEVICES else added_up(interval, devices)
    return interval if devices.tolist() == [device] else only(interval, [device])


def all_of(loads: Table, device: int, op: int) -> Table:
    """One row of several devices."""
    row = np.zeros(1, layout.LOAD)
    row["device"], row["op"] = device, op
    if len(loads):
        row["in_flight"] = loads["in_flight"].sum()
        row["max_in_flight"] = max(loads["max_in_flight"].max(), row["in_flight"][0])
        row["oldest_ns"] = loads["oldest_ns"].max()
        row["in_flight_ns"] = to_words([sum(from_words(loads["in_flight_ns"]).tolist())])
    return row


def with_few_processes(interval: Interval) -> Interval:
    """An interval with the processes that moved the most bytes, if there are too many."""
    processes = interval.snapshot.processes
    if len(processes) <= MOST_PROCESSES:
        return interval
    most = np.argsort(processes["bytes"], kind="stable")[-MOST_PROCESSES:]
    kept = processes[np.sort(most)]
    names = interval.process_names
    return replace(
        interval,
        snapshot=replace(interval.snapshot, processes=kept),
        process_names={pid: names[pid] for pid in kept["pid"].tolist() if pid in names},
    )


def n_bytes(cut: Snapshot) -> int:
    """Memory that a cut takes."""
    return sum(int(getattr(cut, name).nbytes) for name in Snapshot.__slots__)
