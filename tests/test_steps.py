"""Requests that the kernel issues, requeues and completes in more than one step.

`test_cases.py` has further ones, through the command.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import streams
import tracewriter as tw
from reference import Reference
from tracewriter import Record, complete, encode, issue
from tuned import fed, tuned

from blkiomon import from_bytes, from_dict, to_bytes, to_dict
from blkiomon._core import Engine
from blkiomon.engine import layout
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.value import Interval

MS = 10**6
SDA = 8 << 20
APPEND = tw.WRITE | tw.FS | tw.ZONE_APPEND
FLUSH = tw.READ | tw.FLUSH | tw.FS
EIO = 2**16 - 5


def requeue(time_ns: int, sector: int, size: int, category: int = tw.READ | tw.FS) -> Record:
    return Record(time_ns, sector, size, tw.act(category | tw.REQUEUE, tw.EV_REQUEUE), SDA)


def queued(time_ns: int, sector: int, category: int = tw.WRITE, event: int = tw.EV_QUEUE) -> Record:
    return Record(time_ns, sector, 4096, tw.act(category | tw.QUEUE, event), SDA)


def interval_of(*records: Record, **options: Any) -> Interval:
    """One interval of these records, by the rules of the kernel."""
    monitor = Monitor(None, **options)
    intervals = monitor.feed(encode(list(records), 8)) + monitor.finish()
    (item,) = intervals
    return item


def figures(item: Interval) -> tuple[int, int, int | None]:
    """Requests, errors, and the longest time from issue to completion."""
    return item.total.requests, item.total.errors, item.total.d2c_ns.max


def nothing_unseen(item: Interval) -> bool:
    counts = item.counts
    return not (
        counts.mismatches
        or counts.completions_without_issue
        or counts.issues_without_completion
        or counts.evicted
    )


# --- completions ----------------------------------------------------------------------------------


ZONE, USER = tw.WRITE | tw.SYNC | tw.FS, tw.READ | tw.PC
COMPLETED: dict[str, tuple[list[Record], tuple[int, int, int]]] = {
    "error_of_a_completion_of_0_bytes_counts": (
        [issue(MS, 8, 4096), complete(2 * MS, 8, 0, error=EIO), complete(3 * MS, 8, 4096)],
        (1, 1, 2 * MS),
    ),
    "second_completion_of_multipath_requests_is_ignored": (
        [
            record
            for n in range(50)
            for record in (
                *(issue(n * MS, 8 * n, 4096), complete(n * MS + 500, 8 * n, 4096)),
                complete(n * MS + 501, 8 * n, 0),
            )
        ],
        (50, 0, 500),
    ),
    "zone_operation_of_old_kernels_is_a_write_of_0_bytes": (
        [issue(MS, 524288, 0, ZONE), complete(2 * MS, 524288, 0, ZONE)],
        (1, 0, MS),
    ),
    "command_of_a_user_completes_whatever_its_bytes": (
        [issue(MS, 0, 252, USER), complete(2 * MS, 0, 96, USER)],
        (1, 0, MS),
    ),
    "request_that_fails_after_a_requeue_is_timed_from_its_first_issue": (
        [issue(MS, 8, 4096), requeue(2 * MS, 8, 4096), complete(9 * MS, 8, 4096, error=EIO)],
        (1, 1, 8 * MS),
    ),
    "zone_append_completes_with_the_sector_that_was_written": (
        [issue(MS, 524288, 4096, APPEND), complete(2 * MS, 524296, 4096, APPEND)],
        (1, 0, MS),
    ),
    "zone_append_may_be_read_before_its_issue": (
        [complete(2 * MS, 524296, 4096, APPEND), issue(MS, 524288, 4096, APPEND)],
        (1, 0, MS),
    ),
}


@pytest.mark.parametrize("name", COMPLETED)
def test_request_completes_by_the_rules_of_the_kernel(name: str) -> None:
    records, expected = COMPLETED[name]
    item = interval_of(*records)
    assert figures(item) == expected
    assert item.total.bytes == sum(r.bytes_ for r in records if r.action >> 16 & tw.ISSUE)
    assert nothing_unseen(item)
    if records[0].action >> 16 & tw.ZONE_APPEND:
        assert [g.op for g in item.ops(SDA)] == ["zone"]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 2, 3), (2, 1, 0, 3), (3, 2, 1, 0)])
def test_parts_may_be_read_before_the_issue(order: tuple[int, ...]) -> None:
    records = [
        issue(MS, 8, 3 * 4096),
        complete(2 * MS, 8, 4096),
        complete(3 * MS, 16, 4096, error=EIO),
        complete(4 * MS, 24, 4096),
    ]
    item = interval_of(*(records[i] for i in order))
    assert figures(item) == (1, 1, 3 * MS)
    assert nothing_unseen(item)


def test_part_that_never_completes_leaves_one_request_in_flight() -> None:
    item = interval_of(issue(MS, 8, 8192), complete(2 * MS, 8, 4096))
    load = item.total.in_flight
    assert load is not None and (load.end, load.oldest_ns) == (1, MS)
    assert item.counts.issues_without_completion == 1


@pytest.mark.parametrize("category", [tw.WRITE | tw.SYNC | tw.FS, tw.READ | tw.SYNC | tw.FS])
def test_second_completion_of_a_flush_is_ignored(category: int) -> None:
    item = interval_of(
        issue(MS, 0, 0, FLUSH),
        complete(2 * MS, 0, 0, FLUSH),
        complete(2 * MS + 1, 0, 0, category),
        issue(3 * MS, 0, 0, FLUSH),
        complete(3 * MS + 1, 0, 0, category),
        complete(4 * MS, 0, 0, FLUSH),
    )
    assert figures(item) == (2, 0, MS)
    assert nothing_unseen(item)


def test_completion_at_the_time_of_its_issue_is_a_request_of_0_ns() -> None:
    records = [issue(MS, 8, 4096), complete(MS, 8, 4096)]
    assert figures(interval_of(*records)) == (1, 0, 0)
    assert figures(interval_of(*records[::-1])) == (1, 0, 0)
    original = fed(records, as_original=True)
    assert (original.requests, original.counters()["mismatches"]) == (0, 1)


# --- requeues -------------------------------------------------------------------------------------


def test_repeated_requeues_without_an_issue_between_them_are_one() -> None:
    repeats = [requeue((2 + n) * MS, 8, 4096) for n in range(7)]
    item = interval_of(
        issue(MS, 8, 4096), *repeats, issue(10 * MS, 8, 4096), complete(11 * MS, 8, 4096)
    )
    assert (item.total.requests, item.total.requeues) == (1, 1)
    assert nothing_unseen(item)


def test_requeue_may_be_read_before_its_issue() -> None:
    item = interval_of(
        requeue(2 * MS, 8, 4096),
        issue(MS, 8, 4096),
        issue(3 * MS, 8, 4096),
        complete(4 * MS, 8, 4096),
    )
    assert (item.total.requests, item.total.requeues) == (1, 1)
    assert item.total.retried.max == 3 * MS
    assert item.total.in_flight is not None and item.total.in_flight.request_ns == 2 * MS


@pytest.mark.parametrize("late", [issue, complete])
def test_mismatch_with_a_requeued_request_has_the_earlier_record_first(late: Any) -> None:
    records = [issue(MS, 8, 4096), requeue(3 * MS, 8, 4096), late(2 * MS, 8, 4096)]
    mismatches = fed(encode(records), keep_details=True).take_mismatches()
    assert mismatches["older"]["record"]["time_ns"].tolist() == [MS]
    assert mismatches["younger"]["record"]["time_ns"].tolist() == [2 * MS]


def test_request_that_fails_after_a_requeue_was_in_flight_until_the_requeue() -> None:
    name = "request_that_fails_after_a_requeue_is_timed_from_its_first_issue"
    in_flight = interval_of(*COMPLETED[name][0]).total.in_flight
    assert in_flight is not None and in_flight.request_ns == MS


def test_rest_of_a_request_may_be_requeued() -> None:
    item = interval_of(
        issue(MS, 8, 8192),
        complete(2 * MS, 8, 4096),
        requeue(3 * MS, 16, 4096),
        issue(5 * MS, 16, 4096),
        complete(6 * MS, 16, 4096),
    )
    assert figures(item) == (1, 0, MS)
    assert item.total.bytes == 8192
    assert (item.total.requeues, item.total.retried.max) == (1, 5 * MS)
    assert nothing_unseen(item)


def test_requeues_are_counted_in_the_interval_in_which_they_happen() -> None:
    monitor = Monitor(0.01)
    records = [issue(MS, 8, 4096), requeue(15 * MS, 8, 4096), issue(16 * MS, 8, 4096)]
    records.append(complete(25 * MS, 8, 4096))
    items = monitor.feed(encode(records)) + monitor.finish()
    assert [i.total.requeues for i in items] == [0, 1, 0]
    assert [i.total.retried.count for i in items] == [0, 0, 1]
    merged = items[0].merge(*items[1:])
    assert (merged.total.requeues, merged.total.retried.max) == (1, 24 * MS)
    assert from_bytes(to_bytes(merged)).total.retried == merged.total.retried
    assert from_dict(to_dict(merged)).total.retried == merged.total.retried


def test_library_has_the_time_of_the_first_issue() -> None:
    engine = Engine(keep_requests=True)
    records = [issue(MS, 8, 4096), requeue(2 * MS, 8, 4096), issue(3 * MS, 8, 4096)]
    records += [complete(4 * MS, 8, 4096), issue(5 * MS, 8, 4096), complete(6 * MS, 8, 4096)]
    engine.feed(encode(records))
    requests = engine.take_requests()
    assert requests["issued_ns"].tolist() == [3 * MS, 5 * MS]
    assert requests["first_issued_ns"].tolist() == [MS, 5 * MS]
    assert requests["d2c_ns"].tolist() == [MS, MS]


def test_as_original_ignores_requeues_and_takes_the_first_completion() -> None:
    engine = Engine(as_original=True)
    records = [issue(MS, 8, 4096), requeue(2 * MS, 8, 4096), issue(3 * MS, 8, 4096)]
    engine.feed(encode([*records, complete(4 * MS, 8, 0), complete(5 * MS, 8, 4096)]))
    assert (engine.requests, engine.counters()["mismatches"], engine.pending) == (1, 1, 1)


# --- zone appends ---------------------------------------------------------------------------------


def test_several_appends_to_one_zone_complete_in_their_order() -> None:
    issues = [issue(n * MS, 524288, 4096, APPEND) for n in range(1, 9)]
    done = [complete((n + 20) * MS, 524288 + 8 * n, 4096, APPEND) for n in range(1, 9)]
    item = interval_of(*issues, *done)
    assert figures(item) == (8, 0, 20 * MS)
    assert item.total.d2c_ns.min == 20 * MS
    assert nothing_unseen(item)


def test_append_completes_the_issue_of_its_own_zone_and_size() -> None:
    item = interval_of(
        issue(1 * MS, 0, 4096, APPEND),
        issue(2 * MS, 524288, 8192, APPEND),
        issue(3 * MS, 524288, 4096, APPEND),
        complete(4 * MS, 524304, 4096, APPEND),
    )
    assert figures(item) == (1, 0, MS)


def test_append_may_be_requeued() -> None:
    item = interval_of(
        issue(MS, 524288, 4096, APPEND),
        requeue(2 * MS, 524288, 4096, APPEND),
        issue(3 * MS, 524288, 4096, APPEND),
        complete(4 * MS, 524296, 4096, APPEND),
    )
    assert figures(item) == (1, 0, MS)
    assert (item.total.requeues, item.total.retried.max) == (1, 3 * MS)


@pytest.mark.parametrize("late_ns", [2 * 10**9, 60 * 10**9])
def test_append_that_never_completes_does_not_shift_later_ones(late_ns: int) -> None:
    """2 s later it is too old, but still pending; 60 s later, a snapshot has evicted it."""
    engine = Engine(max_age_ns=10**9, keep_requests=True)
    engine.feed(encode([issue(MS, 0, 4096, APPEND), issue(late_ns - MS, 0, 512)], 8))
    if late_ns > 10 * 10**9:
        engine.snapshot()
    pairs = []
    for at in range(late_ns, late_ns + 40 * MS, 10 * MS):
        pairs += [issue(at, 0, 4096, APPEND), complete(at + MS, 8, 4096, APPEND)]
    engine.feed(encode(pairs, 8))
    assert engine.take_requests()["d2c_ns"].tolist() == [MS] * 4


def test_append_whose_completion_was_dropped_does_not_match_a_later_issue() -> None:
    """A completion that comes to a nearly full table is dropped at once."""
    engine = fed([issue(n, 8 * n, 4096) for n in range(1, 8)], version=8, max_pending=8)
    appends = [complete(10, 8, 4096, APPEND), issue(20, 0, 4096, APPEND)]
    engine.feed(encode([*appends, complete(30, 8, 4096, APPEND)], 8))
    assert engine.requests == 1


def test_more_appends_than_the_ring_holds_are_unmatched() -> None:
    engine = fed([issue(n, 0, 4096, APPEND) for n in range(5000)], version=8, max_pending=2000)
    engine.feed(encode([complete(10**6 + n, 8, 4096, APPEND) for n in range(5000)], 8))
    assert engine.requests == 1024
    assert engine.pending <= 2000


# --- queue records --------------------------------------------------------------------------------


@pytest.mark.parametrize("waiting", [1, 5000])
def test_queue_records_of_other_sectors_and_directions_stay(waiting: int) -> None:
    write = tw.WRITE | tw.FS
    others = [queued(MS, 10**6 + 8 * n) for n in range(waiting)]
    kept = [queued(MS, 116), queued(MS, 104, tw.READ), queued(MS, 92)]
    later = [issue(3 * MS, 116, 4096, write), issue(3 * MS, 104, 4096, tw.READ | tw.FS)]
    later += [issue(3 * MS, 92, 4096, write)]
    done = [complete(4 * MS, r.sector, 4096, r.action >> 16 & ~tw.ISSUE) for r in later]
    item = interval_of(*others, *kept, issue(2 * MS, 100, 8192, write), *later, *done)
    q2d = item.total.q2d_ns
    assert q2d is not None and (q2d.count, q2d.min) == (3, 2 * MS)


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [1, 47, 48, 49, 4096, 524_256])
@pytest.mark.parametrize("by", [10**6, 100, 7])
def test_zeros_at_the_end_or_a_buffer_of_them_are_padding(zeros: int, by: int) -> None:
    first, last = encode([issue(MS, 8, 4096)]), encode([complete(2 * MS, 8, 4096)])
    for data, padding in ((first + last + bytes(zeros), zeros), (first + bytes(5000) + last, 5000)):
        step = by if len(data) // by <= 10_000 else 100
        engine = Engine()
        for at in range(0, len(data), step):
            engine.feed(data[at : at + step])
        engine.finish()
        assert (engine.requests, engine.padding_bytes, engine.offset) == (1, padding, len(data))


# --- against the reference ------------------------------------------------------------------------


def retry_figures(engine_cut: Any) -> dict[tuple[int, str], tuple[int, list[int]]]:
    rows = engine_cut.retry_rows
    return {
        (int(r["device"]), layout.OPS[r["op"]]): (
            int(r["requeues"]),
            [int(r["requests"]), int(r["f2c_ns"]["sum"][0]) + (int(r["f2c_ns"]["sum"][1]) << 64)],
        )
        for r in rows
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep_details": True},
        {"max_pending": 7},
        {"max_age_ns": 5000},
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_steps_equal_reference(options: dict[str, Any]) -> None:
    requeues = 0
    for seed in range(60):
        rng = random.Random(f"steps {seed}")
        data = streams.generate(seed, avoid="nothing").data
        engine = tuned(**options)
        reference = Reference(options.get("max_pending"), options.get("max_age_ns", 600 * 10**9))
        for piece in streams.cut_anywhere(data, rng):
            engine.feed(piece)
            reference.feed(piece)
        cut = engine.snapshot()
        stats = reference.cut()
        assert engine.requests == reference.matched
        assert engine.pending == len(reference.waiting())
        errors = sum(m.error != 0 for s in stats for m in s.requests)
        assert int(cut.rows["errors"].sum()) == errors
        assert (
            sorted(cut.rows["d2c_ns"]["max"].tolist())[-1:]
            == sorted(m.d2c_ns for s in stats for m in s.requests)[-1:]
        )
        got = retry_figures(cut)
        assert {key: n for key, (n, _) in got.items() if n} == dict(reference.requeues)
        assert {key: sums for key, (_, sums) in got.items() if sums[0]} == {
            key: [len(times), sum(times)] for key, times in reference.retried.items()
        }
        requeues += reference.requeues.total()
    assert requeues > 50
