"""Slow requests: what the engine collects, against the reference; the output ``--slow``."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import streams
import tracewriter as tw
from intervals import tables
from reference import READ, WRITE, Key, Pending, Trace, operation
from test_queue import NOT_QUEUED, QUEUE, Queues, as_tuples, errno_of, queue_key, some_bios
from tuned import tuned

from blkiomon._core import Engine
from blkiomon.engine import layout

NEVER_NS = 2**64 - 1


class Slow(Queues):
    """The reference, which lists every request that took longer than a threshold, or hangs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.slow_ns = NEVER_NS
        self.slow: list[tuple[Any, ...]] = []
        self._queued_by: dict[Key, int] = {}  # pid of the latest queue record
        self._issued_by: dict[Key, int] = {}  # pid of the queue record of an issue
        self._reported: dict[int, Pending] = {}  # by id(pending)
        self._given_back: dict[int, tuple[Pending, int]] = {}  # with its requeues, by id(pending)

    def process(self, record: Trace) -> None:
        super().process(record)
        key = record.device, record.sector, record.action & (READ | WRITE)
        if self._waiting.get(key) == record.time and record.action & QUEUE:
            self._queued_by[key] = record.pid

    def on_issue(self, key: Key, record: Trace) -> None:
        before = record.device, record.sector, record.action & (READ | WRITE)
        queued_ns = self._waiting.get(before, record.time + 1)
        super().on_issue(key, record)
        if queued_ns <= record.time:
            self._issued_by[queue_key(key)] = self._queued_by[before]

    def on_move(self, before: Key, now: Key) -> None:
        super().on_move(before, now)
        if queue_key(before) in self._issued_by:
            self._issued_by[queue_key(now)] = self._issued_by.pop(queue_key(before))

    def _row(
        self, key: Key, issue: Trace, first_ns: int, until_ns: int, *figures: Any
    ) -> tuple[Any, ...]:
        """An element of ``layout.SLOW``. figures: queue time, D2C, size, error, is_pending."""
        q2d_ns, d2c_ns, size, error, is_pending = figures
        pid = issue.pid if q2d_ns == NOT_QUEUED else self._issued_by[queue_key(key)]
        op = layout.OPS.index(operation(issue))
        request = (issue.time, first_ns, d2c_ns, q2d_ns, issue.sector, size, issue.device, op)
        pending = self._pending[key]
        requeues = self._given_back.get(id(pending), (pending, 0))[1]
        return *request, pid, issue.cpu, errno_of(error), until_ns, requeues, is_pending

    def _queue_time(self, key: Key, until_ns: int) -> float | None:
        queued_ns = self._issued.get(queue_key(key), until_ns + 1)
        return float(until_ns - queued_ns) if queued_ns <= until_ns else NOT_QUEUED

    def _match(self, key: Key, issue: Trace, *others: Any) -> None:
        _, size, d2c_ns, error, *first = others
        pending = self._pending[key]
        first_ns = first[0] if first else issue.time
        begun_ns = pending.time if pending.is_issued else first_ns
        until_ns = begun_ns + d2c_ns
        if until_ns - first_ns > self.slow_ns or id(pending) in self._reported:
            queued_ns = self._queue_time(key, begun_ns)
            figures = queued_ns, d2c_ns, size, error, 0
            self.slow.append(self._row(key, issue, first_ns, until_ns, *figures))
        super()._match(key, issue, *others)

    def _give_back(self, key: Key, time_ns: int) -> None:
        pending = self._pending[key]
        n = self._given_back.get(id(pending), (pending, 0))[1]
        self._given_back[id(pending)] = pending, n + 1
        super()._give_back(key, time_ns)

    def hanging(self, now_ns: int, longer_than_ns: int) -> list[tuple[Any, ...]]:
        """Pending requests that have not been reported, oldest first."""
        found = []
        for key, pending in self._pending.items():
            is_request = pending.state in ("issued", "given back")
            is_old = is_request and pending.first_ns < now_ns - longer_than_ns
            if not is_old or id(pending) in self._reported:
                continue
            self._reported[id(pending)] = pending
            issued_ns = pending.record.time
            figures = (
                self._queue_time(key, issued_ns), max(0, now_ns - issued_ns),
                pending.left + pending.done, pending.error, 1,
            )  # fmt: skip
            row = self._row(key, pending.record, pending.first_ns, now_ns, *figures)
            found.append(((pending.time, *key), row))
        return [row for _, row in sorted(found)]


def slow_tuples(slow: Any) -> list[tuple[Any, ...]]:
    """Elements of ``layout.SLOW``, as ``Slow`` lists them."""
    rows = zip(as_tuples(slow["request"]), slow.tolist(), strict=True)
    return [(*request, *row[1:]) for request, row in rows]


def some_records(rng: random.Random, seed: int, *, with_queue: bool) -> list[tw.Record]:
    """Requests of all kinds, with queue records or without."""
    records = list(streams.generate(seed, avoid="nothing").records)
    if not with_queue:
        return [tw.replace(r, action=r.action & ~(tw.QUEUE << 16)) for r in records]
    at = rng.randrange(len(records) + 1)
    bios = [tw.replace(r, pid=rng.randrange(99)) for r in some_bios(rng, rng.choice([0, 20, 100]))]
    return [*records[:at], *bios, *records[at:]]


@pytest.mark.parametrize("block", range(4))
def test_slow_requests_and_those_that_hang_equal_reference(block: int) -> None:
    completed = hanging = requeued = queued = 0
    for seed in range(block * 30, block * 30 + 30):
        rng = random.Random(f"slow {seed}")
        with_queue = rng.random() < 0.5
        limits: dict[str, Any] = {  # the reference keeps any number of queue records
            "max_pending": 10**6 if with_queue else rng.choice([2, 20, 10**6]),
            "max_age_ns": rng.choice([10**9, 2**64 - 1]),
        }
        records = some_records(rng, seed, with_queue=with_queue)
        data = tw.encode(records, rng.choice([7, 8]), rng.choice("<>"))
        tuning: dict[str, Any] = {"hash_seed": seed}
        keep = {name: rng.random() < 0.3 for name in ("keep_requests", "keep_details")}
        engine = tuned(keep_slow=True, **limits, **tuning, **keep)
        reference = Slow(**limits)
        for piece in streams.cut_anywhere(data, rng):
            engine.feed(piece)
            reference.feed(piece)
            slow = engine.take_slow()
            assert slow_tuples(slow) == reference.slow
            completed += len(slow)
            requeued += int((slow["requeues"] > 0).sum())
            queued += int((~np.isnan(slow["request"]["q2d_ns"])).sum())
            reference.slow.clear()
            if rng.random() < 0.5:
                now_ns = min(engine.now_ns + rng.choice([0, 10**6]), NEVER_NS)
                longer_ns, most = rng.choice([0, 1000, 10**6]), rng.choice([1, 3, 1000])
                rows, left_out = engine.take_hanging(now_ns, longer_ns, most)
                expected = reference.hanging(now_ns, longer_ns)
                assert rows.dtype == layout.SLOW
                assert slow_tuples(rows) == expected[:most]
                assert left_out == max(0, len(expected) - most)
                hanging += len(expected)
            if rng.random() < 0.5:
                reference.slow_ns = rng.choice([0, 1000, 10**6, NEVER_NS])
                engine.set_slow_ns(reference.slow_ns)
        assert len(engine.take_slow()) == 0
    assert min(completed, hanging, queued) > 20 and requeued > 5


@pytest.mark.parametrize("most_pid", [2**22 - 1, 2**32 - 1])
@pytest.mark.parametrize("most_cpu", [2**10 - 1, 2**13 - 1])
def test_fast_path_reports_the_same_requests(most_pid: int, most_cpu: int) -> None:
    rng = np.random.default_rng([most_pid, most_cpu])
    n = 4000
    issues = streams.issues(
        n,
        time=np.arange(1, n + 1) * 1000,
        sector=rng.permutation(n) * 8,
        device=rng.choice([8 << 20, 9 << 20], n),
        pid=rng.integers(0, most_pid, n, endpoint=True),
        cpu=rng.integers(0, most_cpu, n, endpoint=True),
    )
    d2c_ns = np.append(np.round(10 ** rng.uniform(3, 6, n - 500)), np.full(500, 10**9))
    data = streams.by_time(issues, streams.completions(issues, d2c_ns)).tobytes()
    keep: dict[str, Any] = {"keep_slow": True, "keep_requests": True}
    fast, slowly = tuned(**keep), tuned(slowly=True, **keep)
    slow = hanging = 0
    for slow_ns, part in zip(
        (10**5, 10**6, 0, 5 * 10**5, 10**7), np.array_split(np.frombuffer(data, "V48"), 5)
    ):
        found = []
        for engine in (fast, slowly):
            engine.set_slow_ns(slow_ns)
            engine.feed(part.tobytes())
            hang, left_out = engine.take_hanging(engine.now_ns, 2 * 10**5, 10)
            slow_ones, requests = engine.take_slow(), engine.take_requests()
            found.append((slow_ones.tobytes(), hang.tobytes(), left_out, requests.tobytes()))
        assert found[0] == found[1]
        slow += len(slow_ones)
        hanging += len(hang)
    assert slow > 1000 and hanging > 30
    assert tables(fast.snapshot()) == tables(slowly.snapshot())


def test_collecting_slow_requests_changes_no_figures() -> None:
    rng = random.Random(3)
    data = tw.encode(some_bios(rng, 3000))
    plain, keeping = Engine(), Engine(keep_slow=True, keep_requests=True)
    keeping.set_slow_ns(500)
    plain.feed(data)
    keeping.feed(data)
    assert len(keeping.take_hanging(keeping.now_ns, 0, 10)[0]) > 0
    assert tables(plain.snapshot()) == tables(keeping.snapshot())
    assert plain.counters() == keeping.counters()
    requests, slow = keeping.take_requests(), keeping.take_slow()
    assert 0 < len(slow) < len(requests)
    assert as_tuples(slow["request"]) == as_tuples(requests[requests["d2c_ns"] > 500])


def test_slow_requests_are_not_collected_by_default() -> None:
    engine = Engine()
    engine.set_slow_ns(0)
    engine.feed(tw.encode([tw.issue(1, 8, 512), tw.complete(5001, 8, 512)]))
    assert len(engine.take_slow()) == 0
    with pytest.raises(ValueError, match="keep_slow"):
        engine.take_hanging(10**9, 0, 1)
    with pytest.raises(ValueError, match="slow_ns"):
        engine.set_slow_ns(-1)


def test_leftovers_keep_their_order_when_they_hang() -> None:
    data = tw.encode([tw.issue(n + 1, 128 * (n * 7 % 10), 512) for n in range(10)])
    plain, keeping = Engine(keep_details=True), Engine(keep_details=True, keep_slow=True)
    plain.feed(data)
    keeping.feed(data)
    assert len(keeping.take_hanging(6, 0, 10)[0]) == 5
    assert keeping.leftovers().tolist() == plain.leftovers().tolist()
