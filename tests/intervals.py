"""Builds intervals from single requests, as the engine would."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import reference

from blkiomon import from_bytes, from_dict, to_bytes, to_dict
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot
from blkiomon.formats.validation import MOST_COUNT
from blkiomon.interval.value import Counts, Interval

READ, WRITE, BIDIRECTIONAL = 0, 1, 2


class Request(NamedTuple):
    """One completed request; `op` distinguishes rows of one direction."""

    device: int
    direction: int
    size: int
    d2c_us: int
    op: int = 0


def moments(values: list[int]) -> tuple[int, int, tuple[int, int], tuple[int, int]]:
    """One element of `layout.MOMENTS`."""
    total, squares = sum(values), sum(v * v for v in values)
    mask = (1 << 64) - 1
    return (min(values), max(values), (total & mask, total >> 64), (squares & mask, squares >> 64))


def interval(requests: Iterable[Request], time_s: int = 0) -> Interval:
    """An interval of these requests; rows are reversed, as no code may rely on their order."""
    groups: dict[tuple[int, int, int], list[Request]] = {}
    devices: dict[int, None] = {}
    for request in requests:
        groups.setdefault((request.device, request.op, request.direction), []).append(request)
        devices[request.device] = None
    rows = np.zeros(len(groups), layout.ROW)
    for row, ((device, op, direction), members) in zip(rows[::-1], groups.items(), strict=True):
        row["device"], row["op"], row["direction"] = device, op, direction
        _fill(row, [r.size for r in members], [r.d2c_us for r in members])
    return Interval(
        time_s=time_s, devices=np.array(list(devices), "u4"), snapshot=Snapshot(rows=rows)
    )


def _fill(row: Any, sizes: list[int], d2c_us: list[int]) -> None:
    """Sets a row's figures, except latencies in ns."""
    row["requests"] = len(sizes)
    row["size_bytes"] = moments(sizes)
    row["d2c_us"] = moments(d2c_us)
    row["throughput"] = moments([b * 1000 // (us or 1) for b, us in zip(sizes, d2c_us)])
    for size, us in zip(sizes, d2c_us):
        row["size_hist"][reference.bucket(size, layout.SIZE_DELTA, layout.SIZE_BUCKETS)] += 1
        row["d2c_hist"][reference.bucket(us, layout.D2C_DELTA, layout.D2C_BUCKETS)] += 1


# --- intervals of requests with times, errors, queue times and processes -------------------------


@dataclass(frozen=True, slots=True)
class Io:
    """A request with its device, size and times.

    One without `d2c_ns` never completes. `q2d_ns` is None where no queue record was seen.
    """

    device: int
    op: str
    size: int
    issue_ns: int
    d2c_ns: int | None
    error: bool = False
    q2d_ns: int | None = None
    pid: int | None = None
    direction: int | None = None  # by the operation unless given

    @property
    def end_ns(self) -> float:
        return float("inf") if self.d2c_ns is None else self.issue_ns + self.d2c_ns


def bin_of(value: int) -> int:
    """The bin of a value by the engine's rule."""
    shift = max(0, value.bit_length() - 7)
    return 64 * shift + (value >> shift)


def bins(values: Sequence[list[int]]) -> npt.NDArray[np.void]:
    """Bins of the values of each row."""
    found = [
        (row, *item)
        for row, of_row in enumerate(values)
        for item in sorted(Counter(map(bin_of, of_row)).items())
    ]
    return np.array(found, layout.BIN)


def completed(ios: Iterable[Io], start_ns: int, end_ns: int) -> list[Io]:
    """Those that completed in an interval, in that order."""
    within = [io for io in ios if start_ns < io.end_ns <= end_ns]
    return sorted(within, key=lambda io: io.end_ns)


def snapshot_of(ios: Sequence[Io], start_ns: int, end_ns: int) -> Snapshot:
    """The engine's snapshot at `end_ns` after one at `start_ns`."""
    done = completed(ios, start_ns, end_ns)
    groups: dict[tuple[int, int, int], list[Io]] = {}
    for io in done:
        op = layout.OPS.index(io.op)
        direction = int(op != 0) if io.direction is None else io.direction
        groups.setdefault((io.device, op, direction), []).append(io)
    rows = np.zeros(len(groups), layout.ROW)
    for row, ((device, op, direction), members) in zip(rows, groups.items(), strict=True):
        row["device"], row["op"], row["direction"] = device, op, direction
        row["errors"] = sum(io.error for io in members)
        row["d2c_ns"] = moments(d2c := [io.d2c_ns or 0 for io in members])
        _fill(row, [io.size for io in members], [ns // 1000 for ns in d2c])

    queued: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for io in done:
        if io.q2d_ns is not None:
            times = io.q2d_ns, io.q2d_ns + (io.d2c_ns or 0)
            queued.setdefault((io.device, layout.OPS.index(io.op)), []).append(times)
    queue_rows = np.zeros(len(queued), layout.QUEUE_ROW)
    for row, ((device, op), pairs) in zip(queue_rows, queued.items(), strict=True):
        row["device"], row["op"], row["requests"] = device, op, len(pairs)
        row["q2d_ns"] = moments([q2d for q2d, _ in pairs])
        row["q2c_ns"] = moments([q2c for _, q2c in pairs])

    pids = {io.pid: None for io in done if io.pid is not None}
    of_pid = [[io.size for io in done if io.pid == pid] for pid in pids]
    return Snapshot(
        rows=rows,
        d2c_bins=bins([[io.d2c_ns or 0 for io in members] for members in groups.values()]),
        size_bins=bins([[io.size for io in members] for members in groups.values()]),
        loads=loads_of(ios, start_ns, end_ns),
        queue_rows=queue_rows,
        q2d_bins=bins([[q2d for q2d, _ in pairs] for pairs in queued.values()]),
        q2c_bins=bins([[q2c for _, q2c in pairs] for pairs in queued.values()]),
        processes=np.array(
            [(pid, 0, len(sizes), sum(sizes)) for pid, sizes in zip(pids, of_pid)], layout.PROCESS
        ),
    )


def loads_of(ios: Iterable[Io], start_ns: int, end_ns: int) -> npt.NDArray[np.void]:
    """Requests in flight, by following them through the interval."""
    groups: dict[tuple[int, int], list[Io]] = {(0, layout.EVERYTHING): []}
    for io in ios:
        if io.issue_ns < end_ns and io.end_ns > start_ns:
            for key in (
                (0, layout.EVERYTHING),
                (io.device, layout.ALL_OPS),
                (io.device, layout.OPS.index(io.op)),
            ):
                groups.setdefault(key, []).append(io)
    loads = np.zeros(len(groups), layout.LOAD)
    for load, ((device, op), members) in zip(loads, groups.items(), strict=True):
        spans = [(max(io.issue_ns, start_ns), min(io.end_ns, end_ns)) for io in members]
        load["device"], load["op"] = device, op
        steps: Counter[float] = Counter()
        for a, b in spans:
            steps[a] += 1
            steps[b] -= 1
        times = sorted(steps)
        level = list(accumulate(steps[t] for t in times))
        if op == layout.ALL_OPS:
            load["busy_ns"] = sum(b - a for a, b, n in zip(times, times[1:], level) if n)
        load["in_flight_ns"] = (sum(b - a for a, b in spans), 0)
        left = [io.issue_ns for io in members if io.end_ns > end_ns]
        load["max_in_flight"] = max([len(left), *level])
        load["in_flight"] = len(left)
        load["oldest_ns"] = end_ns - min(left, default=end_ns)
    return loads


def interval_of(
    ios: Sequence[Io],
    start_ns: int,
    end_ns: int,
    names: Mapping[int, str] | None = None,
    **options: Any,
) -> Interval:
    """The interval from `start_ns` to `end_ns` of a list of requests."""
    done = completed(ios, start_ns, end_ns)
    pids = {io.pid for io in done}
    return Interval(
        time_s=end_ns // 10**9,
        devices=np.array(list(dict.fromkeys(io.device for io in done)), "u4"),
        snapshot=snapshot_of(ios, start_ns, end_ns),
        counts=Counts(
            records=2 * len(done),
            requests=len(done),
            lost_events=sum(io.size % 3 for io in done),  # any number: merging adds it up
        ),
        start_ns=start_ns,
        end_ns=end_ns,
        process_names={pid: name for pid, name in (names or {}).items() if pid in pids},
        **options,
    )


def example() -> list[Io]:
    """Three seconds of two disks that work and one that hangs."""
    rng = np.random.default_rng(5)
    ios = []
    for number, (device, op) in enumerate([(SDB, "read"), (SDB, "write"), (DM3, "read")]):
        for issue_ns in rng.integers(0, 3 * 10**9, 200).tolist():
            d2c_ns = int(rng.lognormal(12, 1.5))
            q2d_ns = int(rng.lognormal(9, 1)) if device == SDB else None
            size = int(rng.choice([512, 4096, 65536]))
            failed = d2c_ns % 50 == 0
            ios.append(Io(device, op, size, issue_ns, d2c_ns, failed, q2d_ns, 100 + number))
    ios.append(Io(SDB, "flush", 0, 5 * 10**8, 3_000_000))
    ios.append(Io(HUNG, "write", 4096, 2 * 10**8, None))
    return ios


SDB, DM3, HUNG = 8 << 20 | 16, 253 << 20 | 3, 65 << 20 | 1
NAMES = {SDB: "sdb", DM3: "dm-3"}


def at(time_s: int, devices: int = 1) -> Interval:
    """An interval that its time identifies."""
    return interval([Request(device, READ, 4096, 5) for device in range(devices)], time_s)


def use_all(item: Interval) -> None:
    """Uses each figure and each codec of an interval; raises if one fails."""
    groups = item.groups()
    assert groups[-1].op is None
    for group in groups:
        assert group.requests == group.d2c_ns.count == group.size_bytes.count
        for quantity in (group.d2c_ns, group.size_bytes, group.q2d_ns, group.q2c_ns):
            if quantity is not None and quantity.count:
                least, middle, greatest = quantity.min, *map(quantity.percentile, (75, 100))
                assert least is not None and middle is not None and greatest is not None
                assert greatest == quantity.max
                assert least <= middle <= greatest
                assert least * quantity.count <= quantity.sum <= greatest * quantity.count
                assert quantity.stddev is None or quantity.stddev >= 0
    for op in (None, *layout.OPS):
        item.percentile(99.9, op=op)
    for histograms in (True, False):
        json.dumps(to_dict(item, histograms=histograms), allow_nan=False)
    assert from_dict(to_dict(item)).groups() == groups
    data = to_bytes(item)
    assert to_bytes(from_bytes(data)) == data
    twice = item.merge(from_bytes(data))
    assert twice.total.requests == 2 * item.total.requests
    if max(astuple(twice.counts)) < MOST_COUNT:  # else it is out of range
        assert from_bytes(to_bytes(twice)).groups() == twice.groups()
    # Only then are the histograms of 0.3 filled.
    if (item.rows["d2c_hist"].sum(axis=1) == item.rows["requests"]).all():
        item.device_stats()


def tables(snapshot: Snapshot) -> dict[str, bytes]:
    """All arrays of a snapshot."""
    return {f.name: getattr(snapshot, f.name).tobytes() for f in fields(snapshot)}


def assert_same(one: Interval, two: Interval) -> None:
    """Compares all but the order of devices and, where requests end together, of rows."""
    assert one.groups() == two.groups()
    for name in ("time_s", "counts", "start_ns", "end_ns", "clock", "anchored"):
        assert getattr(one, name) == getattr(two, name), name
    assert sorted(one.devices) == sorted(two.devices)
    assert sorted(one.snapshot.processes.tolist()) == sorted(two.snapshot.processes.tolist())
    assert one.process_names == two.process_names
