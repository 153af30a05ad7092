"""Queue times, against a short reference that follows each bio."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import intervals
import numpy as np
import pytest
import streams
import tracewriter as tw
from reference import (
    COMPLETE,
    DRV_DATA,
    FS,
    ISSUE,
    NOTIFY,
    PC,
    READ,
    REQUEUE,
    WRITE,
    Key,
    Reference,
    Trace,
    operation,
)
from tracewriter import Record, complete, encode, issue
from tuned import fed

from blkiomon._core import Engine
from blkiomon.engine import layout

QUEUE = tw.QUEUE << 16
SDA, SDB = 8 << 20, 8 << 20 | 16
NOT_QUEUED = None


def queue_times(requests: Any) -> list[float | None]:
    """Queue times in ns of requests of dtype ``layout.REQUEST``."""
    return [NOT_QUEUED if math.isnan(q2d_ns) else q2d_ns for q2d_ns in requests["q2d_ns"].tolist()]


def errno_of(error: int) -> int:
    """The errno of a completion: its record holds the negative in 16 bits."""
    return (1 << 16) - error if error >> 15 else error


def as_tuples(requests: Any) -> list[tuple[Any, ...]]:
    """Requests of dtype ``layout.REQUEST``, without the times of day, which are unset."""
    assert np.isnat(requests["time"]).all()
    rows = zip(requests.tolist(), queue_times(requests), strict=True)
    return [(*row[1:4], q2d_ns, *row[5:]) for row, q2d_ns in rows]


def queued(
    time_ns: int, sector: int, category: int = tw.READ, device: int = SDA, event: int = tw.EV_QUEUE
) -> Record:
    """A Q record, or that of another event of the category."""
    return Record(time_ns, sector, 4096, tw.act(category | tw.QUEUE, event), device)


def merged(time_ns: int, sector: int, category: int = tw.READ, device: int = SDA) -> Record:
    """A bio that was merged into the back of a request."""
    return queued(time_ns, sector, category, device, tw.EV_BACKMERGE)


def queue_key(key: Key) -> Key:
    """The key by which the time of a queue record waits for its request."""
    return key[0], key[1], key[2] & ~(FS | PC)


class Queues(Reference):
    """The reference of pairing, with queue records."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.q2d_ns: dict[tuple[int, str], list[tuple[int, int]]] = {}  # q2d, q2c
        self._waiting: dict[Key, int] = {}
        self._issued: dict[Key, int] = {}

    def process(self, record: Trace) -> None:
        super().process(record)
        key = record.device, record.sector, record.action & (READ | WRITE)
        if record.action & QUEUE and not record.action & (ISSUE | COMPLETE | DRV_DATA | NOTIFY):
            if record.action & REQUEUE and record.event == tw.EV_REQUEUE:
                return
            if record.event == tw.EV_QUEUE:
                self._waiting[key] = record.time
            elif record.event == tw.EV_BACKMERGE:
                self._waiting.pop(key, None)
            elif record.event == tw.EV_FRONTMERGE:
                self._waiting.pop((key[0], record.sector + record.bytes_ // 512, key[2]), None)

    def on_issue(self, key: Key, record: Trace) -> None:
        device, direction = record.device, record.action & (READ | WRITE)
        queued_ns = self._waiting.pop((device, record.sector, direction), None)
        for at in [k for k in self._waiting if k[0] == device and k[2] == direction]:
            if record.sector < at[1] < record.sector + record.bytes_ // 512:
                del self._waiting[at]
        pending = self._pending.get(key)
        if queued_ns is not None and queued_ns <= record.time:
            self._issued[queue_key(key)] = queued_ns
        elif pending is None or pending.state not in ("given back", "requeued"):
            self._issued.pop(queue_key(key), None)

    def on_move(self, before: Key, now: Key) -> None:
        if queue_key(before) in self._issued:
            self._issued[queue_key(now)] = self._issued.pop(queue_key(before))

    def _match(self, key: Key, issue: Trace, *others: Any) -> None:
        super()._match(key, issue, *others)
        d2c_ns = others[2]
        queued_ns = self._issued.pop(queue_key(key), None)
        if queued_ns is not None and queued_ns <= issue.time:
            q2d_ns = issue.time - queued_ns
            times = self.q2d_ns.setdefault((issue.device, operation(issue)), [])
            times.append((q2d_ns, q2d_ns + d2c_ns))

    def cut_queue(self) -> dict[tuple[int, str], list[tuple[int, int]]]:
        """Hand out the times since the last cut."""
        times, self.q2d_ns = self.q2d_ns, {}
        return times


def check(cut: Any, expected: dict[tuple[int, str], list[tuple[int, int]]]) -> None:
    """Rows, in order of their first match, and bins of both kinds."""
    rows = cut.queue_rows
    assert [(int(r["device"]), layout.OPS[r["op"]]) for r in rows] == list(expected)
    for which, (name, bins) in enumerate((("q2d_ns", cut.q2d_bins), ("q2c_ns", cut.q2c_bins))):
        values = [[pair[which] for pair in pairs] for pairs in expected.values()]
        assert rows["requests"].tolist() == list(map(len, values))
        figures = np.array(list(map(intervals.moments, values)), layout.MOMENTS)
        assert rows[name].tobytes() == figures.tobytes()
        assert bins.tolist() == intervals.bins(values).tolist()


def some_bios(rng: random.Random, n: int) -> list[Record]:
    """Bios on few sectors, nearly in order of time; most become requests."""
    records = []
    now_ns = 10**9
    for _ in range(n):
        now_ns += rng.randrange(1000)
        sector, device = rng.randrange(rng.choice([3, 40])), rng.choice([SDA, SDB])
        category = rng.choice([tw.READ, tw.WRITE, tw.WRITE | tw.DISCARD, 0])
        size = rng.choice([512, 4096, 4096, 24 * 512])
        steps = [
            queued(now_ns, sector, category, device),
            issue(now_ns + rng.randrange(500), sector, size, category | tw.FS, device),
        ]
        done_ns = steps[-1].time_ns + rng.randrange(20_000)
        steps.append(complete(done_ns, sector, size, category | tw.FS, device))
        if rng.random() < 0.1:
            steps[1:] = [merged(now_ns + 1, sector, category, device)]
        records += [step for step in steps if rng.random() < 0.93]
    records.sort(key=lambda r: r.time_ns)
    for _ in range(rng.choice([0, n // 5])):
        i = rng.randrange(1, len(records))
        records[i - 1], records[i] = records[i], records[i - 1]
    return records


@pytest.mark.parametrize("seed", range(20))
def test_queue_times_equal_reference(seed: int) -> None:
    rng = random.Random(seed)
    rest = encode(some_bios(rng, 80), *rng.choice([(7, "<"), (8, "<"), (7, ">"), (8, ">")]))
    engine, reference = Engine(), Queues()
    while rest:
        n = rng.randint(1, len(rest))
        engine.feed(rest[:n])
        reference.feed(rest[:n])
        check(engine.snapshot(), reference.cut_queue())
        rest = rest[n:]
    assert engine.requests == reference.matched > 0


def test_queue_times_of_a_real_trace_are_those_of_its_records() -> None:
    data = (Path(__file__).parent / "data" / "loop-ext4-all.bin").read_bytes()
    engine = fed(data, keep_records=True, keep_requests=True)
    cut = engine.snapshot()
    waiting: dict[tuple[int, int, int], int] = {}
    issued: dict[tuple[int, int, int], tuple[int, int | None]] = {}
    expected = []
    for r in engine.take_records().tolist():
        time_ns, sector, action, _, _, _, device = r[:7]
        event, category = action & 0xFFFF, action >> 16
        key = device, sector, category & (tw.READ | tw.WRITE)
        if category & tw.QUEUE and event == tw.EV_QUEUE:
            waiting[key] = time_ns
        elif category & tw.QUEUE and event == tw.EV_BACKMERGE:
            waiting.pop(key, None)
        elif category & tw.ISSUE:
            issued[key] = time_ns, waiting.pop(key, None)
        elif category & tw.COMPLETE and key in issued:
            issued_ns, queued_ns = issued.pop(key)
            q2d_ns = NOT_QUEUED if queued_ns is None else issued_ns - queued_ns
            expected.append((issued_ns, time_ns - issued_ns, q2d_ns))
    requests = engine.take_requests()
    times = requests["issued_ns"].tolist(), requests["d2c_ns"].tolist(), queue_times(requests)
    assert list(zip(*times, strict=True)) == expected
    by_op: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for (_, d2c_ns, q2d_ns), (device, op) in zip(expected, requests[["device", "op"]].tolist()):
        if q2d_ns != NOT_QUEUED:
            by_op.setdefault((device, layout.OPS[op]), []).append((q2d_ns, q2d_ns + d2c_ns))
    assert sum(map(len, by_op.values())) > 4000
    check(cut, by_op)


def test_q2c_is_from_queue_to_completion() -> None:
    engine = fed([queued(100, 8), issue(130, 8, 4096), complete(200, 8, 4096)])
    check(engine.snapshot(), {(SDA, "read"): [(30, 100)]})
    check(engine.snapshot(), {})


def request(issue_ns: int, end_ns: int, sector: int = 8, size: int = 4096) -> list[Record]:
    return [issue(issue_ns, sector, size), complete(end_ns, sector, size)]


REQUEST = request(130, 200)
MERGED = queued(90, 8), merged(95, 8)
IN_CGROUP = (
    *(queued(100, 8, event=tw.EV_QUEUE | tw.EV_CGROUP), queued(100, 16)),
    queued(110, 16, event=tw.EV_BACKMERGE | tw.EV_CGROUP),
)
IN_FRONT = queued(90, 8), queued(100, 0), queued(110, 0, event=tw.EV_FRONTMERGE)
Q2D = {
    "queued again while the first is outstanding": (
        [queued(100, 8), REQUEST[0], queued(150, 8), REQUEST[1], *request(220, 300)],
        [30, 70],
    ),
    "a back merge leaves no time": ([queued(80, 64), *MERGED, *REQUEST], [NOT_QUEUED]),
    "a back merge of another direction does not count": (
        [queued(90, 8), merged(95, 8, tw.WRITE), *REQUEST],
        [40],
    ),
    "a front merge gives sector and time": ([*IN_FRONT, *request(130, 200, 0, 8192)], [30]),
    "completion before issue": ([queued(100, 8), *reversed(REQUEST)], [30]),
    "queued after the issue": ([queued(131, 8), *REQUEST], [NOT_QUEUED]),
    "queued at the time of the issue": ([queued(130, 8), *REQUEST], [0]),
    # The first issue never completes; the second has a queue record that does not count.
    "queued after the second issue": (
        [queued(100, 8), REQUEST[0], queued(331, 8), *request(330, 400)],
        [NOT_QUEUED],
    ),
    # The first issue covers the sector of the second.
    "inside another request at the end of all sectors": (
        [
            *(queued(100, (1 << 64) - 8), queued(101, (1 << 64) - 6), queued(102, 2)),
            *request(130, 200, (1 << 64) - 8, 8192),
            *(*request(230, 300, (1 << 64) - 6, 512), *request(332, 400, 2, 512)),
        ],
        [30, NOT_QUEUED, 230],
    ),
    "in a cgroup": ([*IN_CGROUP, *REQUEST, *request(130, 250, 16)], [30, NOT_QUEUED]),
}


@pytest.mark.parametrize("name", Q2D)
def test_q2d_is_from_queue_to_issue(name: str) -> None:
    records, expected = Q2D[name]
    engine = fed(records, keep_requests=True)
    assert queue_times(engine.take_requests()) == expected


def test_streams_without_queue_records_have_no_queue_rows() -> None:
    engine = fed([issue(130, 8, 4096), complete(200, 8, 4096)])
    cut = engine.snapshot()
    assert len(cut.queue_rows) == len(cut.q2d_bins) == len(cut.q2c_bins) == 0


def test_queue_records_do_not_count_as_original() -> None:
    notes = tw.notify_process(90, 4711, "fio")
    records = [notes, queued(100, 8), *REQUEST, queued(210, 8)]
    engine = fed(records, as_original=True)
    cut = engine.snapshot()
    assert engine.requests == 1
    assert len(cut.queue_rows) == len(cut.processes) == 0


@pytest.mark.parametrize("max_age_ns, expected", [(10_000, [100]), (99, [NOT_QUEUED])])
def test_queue_records_are_dropped_by_age(max_age_ns: int, expected: list[int]) -> None:
    records = [queued(100, 8), complete(200, 99, 512)]
    engine = fed(records, max_age_ns=max_age_ns, keep_requests=True)
    engine.snapshot()
    engine.feed(encode([issue(200, 8, 4096), complete(210, 8, 4096)]))
    assert queue_times(engine.take_requests()) == expected


def test_queue_time_of_a_request_that_fails_after_its_requeue_ends_with_the_first_issue() -> None:
    requeue = tw.Record(200, 8, 4096, tw.act(tw.READ | tw.REQUEUE, tw.EV_REQUEUE), SDA)
    records = [queued(50, 8), issue(100, 8, 4096), requeue, complete(300, 8, 4096, error=5)]
    engine = Engine(keep_requests=True)
    engine.feed(encode(records))
    assert engine.take_requests()[["q2d_ns", "d2c_ns"]].tolist() == [(50, 200)]
    (row,) = engine.snapshot().queue_rows
    assert (row["q2d_ns"]["sum"][0], row["q2c_ns"]["sum"][0]) == (50, 250)


def bios(n: int) -> Any:
    """Q records of n sectors, one a ns."""
    action = tw.act(tw.QUEUE | tw.READ, tw.EV_QUEUE)
    at = np.arange(n)
    return streams.issues(n, time=1000 + at, sector=8 * at, action=action)


def requests_of(records: Any) -> Any:
    """Issues and completions of all of these, at one time each."""
    last_ns = records["time"].max()
    issues = streams.issues(len(records), time=last_ns + 1, sector=records["sector"])
    return streams.in_turn(issues, streams.completions(issues, 1))


@pytest.mark.parametrize("max_pending", [1, 2, 50, 1000])
def test_queue_records_are_bounded_in_number_and_the_latest_stay(max_pending: int) -> None:
    records = bios(5000)
    engine = fed(records.tobytes(), max_pending=max_pending, keep_requests=True)
    engine.feed(requests_of(records).tobytes())
    has_time = ~np.isnan(engine.take_requests()["q2d_ns"])
    assert len(has_time) == 5000
    assert max_pending // 2 <= has_time.sum() <= max_pending
    assert has_time[-(max_pending // 2 or 1) :].all()


def test_dropped_queue_records_do_not_depend_on_feeds() -> None:
    rng = random.Random(5)
    data = encode(some_bios(rng, 1500))
    results = []
    for most in (1, 100, 5000, len(data)):
        engine = Engine(max_pending=4, keep_requests=True)
        for at in range(0, len(data), most):
            engine.feed(data[at : at + most])
        results.append(engine.take_requests().tobytes())
    assert results[0] == results[1] == results[2] == results[3]


def test_full_table_of_queue_records_does_not_slow_down() -> None:
    engine = Engine(max_pending=50_000)
    records = bios(400_000)
    begin_s = time.process_time()
    engine.feed(records.tobytes())
    assert time.process_time() - begin_s < 5
    assert engine.pending == 0
    again = Engine(max_pending=20_000)
    records["time"] = 7  # none is older than another
    again.feed(records.tobytes())
    assert time.process_time() - begin_s < 10
