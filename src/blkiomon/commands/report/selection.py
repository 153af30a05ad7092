"""Select and combine the devices of an interval, to bound the memory that intervals take.

Where there are too many devices, those on which requests waited longest, in all or on average, keep
rows of their own: the busy ones and the slow ones. All others are added up as one device, so that
totals stay exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.interval.merging import merge_snapshots, put_together
from blkiomon.interval.moments import as_floats, from_words, to_words
from blkiomon.interval.operations import select_rows
from blkiomon.interval.value import Interval, in_order
from blkiomon.interval.views import devices_of

OTHERS = 0
"""Device number of all devices without rows of their own: no disk has the number 0:0."""

MOST_PROCESSES = 1024
"""Processes that an interval keeps: those that moved the most bytes."""

DeviceNumbers = npt.NDArray[np.uint32]


def slowest(intervals: Sequence[Interval], devices: DeviceNumbers, n: int) -> DeviceNumbers:
    """The n of these devices on which requests waited longest, in ascending order.

    Half of them waited longest in all, the others on average: one that is slow may be little used.
    Requests that never completed count by their time in flight, where that was measured.
    """
    waited, requests = np.zeros((2, len(devices)))
    for interval in intervals:
        rows, loads = interval.snapshot.rows, interval.snapshot.loads
        loads = loads[loads["op"] == layout.ALL_OPS]
        completed = _sums(devices, rows["device"], rows["d2c_ns"]["sum"])
        waited += np.maximum(completed, _sums(devices, loads["device"], loads["in_flight_ns"]))
        counts = np.stack([rows["requests"], np.zeros_like(rows["requests"])], axis=1)
        requests += _sums(devices, rows["device"], counts)
    orders = [np.argsort(-by, kind="stable") for by in (waited, waited / np.maximum(requests, 1))]
    _, firsts = np.unique(np.stack(orders, axis=1), return_index=True)
    return np.sort(devices[np.argsort(firsts, kind="stable")[:n]])


def _sums(
    devices: DeviceNumbers, numbers: DeviceNumbers, words: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float64]:
    """Sum 128-bit values (shape (n, 2): low, high word) by the device that each belongs to."""
    sums = np.zeros(len(devices))
    place = np.minimum(np.searchsorted(devices, numbers), len(devices) - 1)
    is_there = devices[place] == numbers
    np.add.at(sums, place[is_there], as_floats(words[is_there]))
    return sums


def combine_devices(interval: Interval, numbers: DeviceNumbers) -> Interval:
    """An interval in which these devices are one: ``OTHERS``.

    Its maximum of requests in flight is the highest of any device: that of all is not known.
    """
    snapshot, loads = interval.snapshot, interval.snapshot.loads
    numbers = np.append(numbers, np.uint32(OTHERS))
    others = _part(snapshot, numbers)
    for table in (others.rows, others.queue_rows, others.retry_rows):
        table["device"] = OTHERS
    # The rows of other devices are merged alone: rows are large.
    merged = put_together([_part(snapshot, numbers, invert=True), merge_snapshots([others])])
    is_other = np.isin(loads["device"], numbers) & (loads["op"] != layout.EVERYTHING)
    ops = np.unique(loads["op"][is_other])
    combined = [_combined_load(loads[is_other & (loads["op"] == op)], op) for op in ops]
    return replace(
        interval,
        devices=in_order(merged.rows["device"]),
        snapshot=replace(
            merged,
            loads=np.concatenate([loads[~is_other], *combined]),
            processes=snapshot.processes,
        ),
    )


def select_devices(interval: Interval, numbers: Sequence[int]) -> Interval:
    """The part of an interval that is of some devices.

    Counts stay those of all devices, as losses are not known by device. The maximum of requests in
    flight is that of the busiest device, as that of several together is not known.
    """
    snapshot = interval.snapshot
    loads = snapshot.loads[np.isin(snapshot.loads["device"], numbers)]
    loads = loads[loads["op"] != layout.EVERYTHING]
    if len(snapshot.loads):
        of_devices = loads[loads["op"] == layout.ALL_OPS]
        loads = np.append(loads, _combined_load(of_devices, layout.EVERYTHING))
    return replace(
        interval,
        devices=interval.devices[np.isin(interval.devices, numbers)],
        snapshot=replace(_part(snapshot, numbers), loads=loads),
        process_names={},
        named_ns={},
        not_in_total=(),
    )


def _part(
    snapshot: Snapshot, numbers: Sequence[int] | DeviceNumbers, *, invert: bool = False
) -> Snapshot:
    """The requests of some devices, or of all others, without those in flight and processes."""
    return Snapshot(
        **select_rows(snapshot, lambda table: np.isin(table["device"], numbers, invert=invert))
    )


def reduce_to(interval: Interval, device: int) -> Interval:
    """The part of an interval that is of one device.

    An interval caches its groups: those of all devices in all slices would take gigabytes.
    """
    is_alone = devices_of(interval).tolist() == [device]
    return replace(interval, not_in_total=()) if is_alone else select_devices(interval, [device])


def _combined_load(loads: Table, op: int) -> Table:
    """One row of dtype ``layout.LOAD`` of several devices, shape (1,); its device is ``OTHERS``."""
    row = np.zeros(1, layout.LOAD)
    row["op"] = op
    if len(loads):
        row["in_flight"] = loads["in_flight"].sum()
        row["max_in_flight"] = max(loads["max_in_flight"].max(), row["in_flight"][0])
        row["oldest_ns"] = loads["oldest_ns"].max()
        row["in_flight_ns"] = to_words([sum(from_words(loads["in_flight_ns"]).tolist())])
    return row


def limit_processes(interval: Interval) -> Interval:
    """An interval with at most ``MOST_PROCESSES`` processes."""
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


def size_bytes(snapshot: Snapshot) -> int:
    """Memory that the tables of a snapshot take."""
    return sum(int(getattr(snapshot, name).nbytes) for name in Snapshot.__slots__)
