"""``Monitor``: when intervals end, limits of time, both clocks, and errors."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import pairwise
from typing import Any

import goldenfiles
import numpy as np
import pytest
import streams
import tracewriter as tw
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tracewriter import Record, complete, encode, issue, notify_timestamp, replace
from tuned import fed

from blkiomon import TraceError, to_dict
from blkiomon._core import Engine
from blkiomon.interval.monitor import MOST_IDLE, Monitor
from blkiomon.interval.value import Counts, Interval, merge

MS, S = 10**6, 10**9
SDA = 8 << 20
READ, WRITE = tw.READ | tw.FS, tw.WRITE | tw.FS


def pieces_of(data: bytes, ends: Iterable[int]) -> list[bytes]:
    """The data cut at these places."""
    places = [0, *sorted(min(end, len(data)) for end in ends), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def intervals_of(
    data: bytes | Sequence[bytes], interval_s: float | None = 1.0, **options: Any
) -> list[Interval]:
    """All intervals of a stream, which may be given in pieces."""
    monitor = Monitor(interval_s, **options)
    found = []
    for piece in [data] if isinstance(data, bytes) else data:
        found += monitor.feed(piece)
    return found + monitor.finish()


def dicts(items: Iterable[Interval]) -> list[dict[str, Any]]:
    return [to_dict(item) for item in items]


def all_of(items: Iterable[Interval]) -> list[dict[str, Any]]:
    """All fields of intervals, from which figures are computed; cheaper than `dicts`."""
    found = []
    for item in items:
        parts = {f.name: getattr(item, f.name) for f in fields(item) if f.init}
        parts |= {f.name: getattr(item.snapshot, f.name).tobytes() for f in fields(item.snapshot)}
        del parts["snapshot"]
        found.append(parts | {"devices": item.devices.tolist()})
    return found


def spans(items: Iterable[Interval]) -> list[tuple[int, int, int]]:
    """Start, end and number of requests of each."""
    return [(i.start_ns, i.end_ns, i.total.requests) for i in items]


def pair(time_ns: int, sector: int = 8, d2c_ns: int = MS, **fields: Any) -> list[Record]:
    """A request that is issued at a time."""
    first = issue(time_ns, sector, 4096, **fields)
    return [first, complete(time_ns + d2c_ns, sector, 4096, **fields)]


def steady(number: int, start_ns: int = 5 * S) -> list[Record]:
    """Requests of 1 ms, one every 100 ms."""
    return [r for i in range(number) for r in pair(start_ns + i * 100 * MS, 8 * i)]


# -- trace time ------------------------------------------------------------------------------------


END = (1 << 64) - 1


@pytest.mark.parametrize(
    ("records", "interval_s", "expected"),
    [
        (steady(25), 1, [(0, S, 10), (S, 2 * S, 10), (2 * S, 2 * S + 401 * MS, 5)]),
        ([*pair(S), *pair(2 * S - MS), *pair(2 * S)], 1, [(0, S, 1), (S, S + MS, 2)]),
        (
            [*pair(S), *pair(4 * S + 1, sector=16)],
            1,
            [(0, S, 1), (S, 2 * S, 0), (2 * S, 3 * S, 0), (3 * S, 3 * S + 1 + MS, 1)],
        ),
        ([*steady(3), *steady(1, start_ns=6 * S + 7)], 1, [(0, S, 3), (S, S + 7 + MS, 1)]),
        (steady(5), 0.25, [(0, 250 * MS, 3), (250 * MS, 401 * MS, 2)]),
        ([], 1, [(0, 0, 0)]),
        ([issue(7 * S, 8, 512)], 1, [(0, 0, 0)]),
        ([issue(0, 8, 512), issue(0, 16, 512)], 1, [(0, 0, 0)]),
        (
            [*pair(END - 2 * S - 5), *pair(END - S - 5), *pair(END - MS)],
            1,
            [(0, S, 1), (S, 2 * S, 1), (2 * S, 2 * S + 5, 1)],
        ),
        ([*pair(END - 2 * S - 5), *pair(END - MS)], None, [(0, 2 * S + 5, 2)]),
    ],
    ids=[
        *("whole intervals from the first record", "record at a boundary", "idle intervals"),
        *("end at the last record", "fraction of a second", "empty", "one record", "time 0"),
        *("end of 64 bits", "one interval to the end of 64 bits"),
    ],
)
def test_intervals_have_their_start_end_and_requests(
    records: list[Record], interval_s: float | None, expected: list[tuple[int, int, int]]
) -> None:
    items = intervals_of(encode(records), interval_s)
    assert spans(items) == expected
    assert sum(i.counts.records for i in items) == len(records)
    assert {(i.clock, i.anchored) for i in items} == {("trace", False)}
    assert [i.time_s for i in items] == [end_ns // S for _, end_ns, _ in expected]
    idle = [i.counts for i in items[:-1] if not i.total.requests]
    assert idle == [Counts()] * len(idle)


def test_request_counts_where_it_completes_and_is_in_flight_before() -> None:
    records = [issue(S, 8, 512), complete(int(3.5 * S), 8, 512)]
    items = intervals_of(encode(records))
    loads = [i.total.in_flight for i in items]
    assert [load.busy_ns for load in loads if load] == [None] * 3
    assert [load.request_ns for load in loads if load] == [S, S, S // 2]
    assert [load.end for load in loads if load] == [1, 1, 0]
    assert [load.oldest_ns for load in loads if load] == [S, 2 * S, 0]
    assert [i.total.requests for i in items] == [0, 0, 1]


def test_record_out_of_order_at_a_boundary_counts_in_the_next_interval() -> None:
    records = steady(30)
    at = next(i for i, r in enumerate(records) if r.time_ns >= 6 * S)
    records[at - 1], records[at] = records[at], records[at - 1]
    items = intervals_of(encode(records))
    assert [i.total.requests for i in items] == [9, 11, 10]
    assert sum(i.counts.records for i in items) == 60
    # Only the time in flight of a request whose completion comes late differs.
    whole, merged = intervals_of(encode(records), None)[0].total, merge(items).total
    assert (merged.d2c_ns, merged.size_bytes) == (whole.d2c_ns, whole.size_bytes)


def test_streams_without_requests_have_no_rates() -> None:
    (item,) = intervals_of(b"")
    assert (item.total.iops, to_dict(item)["records"]) == (None, 0)
    (item,) = intervals_of(encode([issue(7 * S, 8, 512)]))
    assert item.total.iops is None
    assert item.total.in_flight and item.total.in_flight.end == 1


def test_notes_alone_make_one_interval_without_a_duration() -> None:
    records = [tw.notify_process(t * S, 1, "fio") for t in range(1, 4)]
    items = intervals_of(encode(records))
    # Times of notes do not count: `blkparse -d` keeps their original times.
    assert [(i.counts.records, i.start_ns, i.end_ns) for i in items] == [(3, 0, 0)]


@pytest.mark.parametrize("by", [1, 48, 96, 1000])
def test_first_record_may_be_at_time_0(by: int) -> None:
    records = [r for i in range(25) for r in pair(i * 100 * MS, 8 * i)]
    data = encode(records)
    items = intervals_of([data[i : i + by] for i in range(0, len(data), by)])
    assert spans(items) == [(0, S, 10), (S, 2 * S, 10), (2 * S, 2 * S + 401 * MS, 5)]


def test_jump_of_time_skips_idle_intervals() -> None:
    records = [*pair(S), *pair(S + (MOST_IDLE + 10) * MS, 16), *pair(1 << 63, 24)]
    monitor = Monitor(0.001)
    items = monitor.feed(encode(records)) + monitor.finish()
    between = ((1 << 63) - S) // MS - (MOST_IDLE + 11)
    assert monitor.skipped_intervals >= between
    assert sum(i.total.requests for i in items) == 3
    assert len(items) < MOST_IDLE + 20
    assert (items[-1].start_ns % MS, items[-1].end_ns) == (0, (1 << 63) - S + MS)


@pytest.mark.parametrize(("idle", "skipped"), [(1000, 0), (1001, 1001)])
def test_as_many_idle_intervals_as_allowed_are_handed_out(
    idle: int, skipped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blkiomon.interval.monitor.MOST_IDLE", 1000)
    monitor = Monitor(1)
    items = monitor.feed(encode([issue(S, 8, 512), issue((1 + idle + 1) * S, 16, 512)]))
    assert (len(items), monitor.skipped_intervals) == (1 + idle - skipped, skipped)


def test_time_jump_beyond_to_ends_the_monitor() -> None:
    monitor = Monitor(1, to_ns=10 * S)
    records = [*pair(S), *pair(1 << 62, 16)]
    items = monitor.feed(encode(records)) + monitor.finish()
    assert [i.end_ns for i in items] == [S * k for k in range(1, 11)]
    assert (monitor.is_done, monitor.skipped_intervals) == (True, 0)


@pytest.mark.parametrize("most", [2, 3, 8])
def test_intervals_become_longer_rather_than_too_many(most: int) -> None:
    records = [*steady(25), *pair(90 * S, 8)]
    monitor = Monitor(0.1, most_intervals=most)
    items = monitor.feed(encode(records)) + monitor.finish()
    # Each interval lies within one of at most `most` intervals of the final length.
    final_ns = monitor.interval_ns or 0
    places = [(item.start_ns // final_ns, (item.end_ns - 1) // final_ns) for item in items]
    assert all(first == last < most for first, last in places)
    assert places[-1][0] >= most // 2
    assert to_dict(merge(items)) == to_dict(intervals_of(encode(records), None)[0])


def test_late_timestamp_record_anchors_intervals_that_were_handed_out() -> None:
    records = steady(25)
    records.insert(30, notify_timestamp(records[29].time_ns, DAY_S, 0))
    monitor = Monitor(1)
    items = monitor.feed(encode(records)) + monitor.finish()
    anchored = [monitor.anchor(item) for item in items]
    (whole,) = intervals_of(encode(records), None)
    assert to_dict(merge(anchored)) == to_dict(whole)
    assert [monitor.anchor(item) for item in anchored] == anchored


# -- cut into pieces -------------------------------------------------------------------------------


def is_note(record: Record) -> bool:
    """Whether it has no part in when intervals begin and end."""
    return bool(record.action & tw.NOTIFY << tw.CATEGORY_SHIFT)


def start_of(records: Sequence[Record]) -> int:
    """When the first interval begins."""
    return next((r.time_ns for r in records if not is_note(r)), 0)


def model(records: Sequence[Record], data: Sequence[bytes], interval_ns: int) -> list[Any]:
    """What an engine makes of the records, cut one by one at the boundaries."""
    engine = Engine()
    found: list[Any] = []
    start = start_of(records)
    for record, piece in zip(records, data):
        while not is_note(record) and record.time_ns >= start + interval_ns:
            start += interval_ns
            found.append((start, engine.snapshot(start), engine.counters()))
        engine.feed(piece)
    engine.finish()
    end = max(engine.latest_ns, start)
    behind = engine.latest_ns - engine.now_ns if engine.back_ns else 0
    return [*found, (end, engine.snapshot(end - behind), engine.counters())]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.3, 0.05, 0.01]),
    ends=st.lists(st.integers(0, 40_000), max_size=8),
)
def test_pieces_of_any_size_give_the_same_intervals(
    seed: int, share: float, ends: list[int]
) -> None:
    stream = streams.generate(seed, "nothing", 120)
    times = [r.time_ns for r in stream.records]
    length = min(max(1, int((max(times) - times[0]) * share)), S)
    # Times further apart give too many idle intervals to compare.
    assume(times[0] + length * 2000 >= max(times))
    encoded = [tw.encode_record(r, stream.version, stream.byteorder) for r in stream.records]
    expected = model(stream.records, encoded, length)
    whole = intervals_of(b"".join(encoded), length / S)
    cut = intervals_of(pieces_of(b"".join(encoded), ends), length / S)
    assert all_of(cut) == all_of(whole)
    zero = whole[0].start_ns - start_of(stream.records)
    before: dict[str, int] = dict.fromkeys(expected[0][2], 0)
    for item, (end, engine_cut, counters) in zip(whole, expected, strict=True):
        assert item.end_ns == end + zero
        assert item.rows.tobytes() == engine_cut.rows.tobytes()
        assert item.snapshot.loads.tobytes() == engine_cut.loads.tobytes()
        assert item.snapshot.d2c_bins.tobytes() == engine_cut.d2c_bins.tobytes()
        assert item.counts == Counts(**{k: n - before[k] for k, n in counters.items()})
        before = counters


def test_single_bytes_give_the_same_intervals() -> None:
    data = (goldenfiles.TRACES / "loop-ext4-all.bin").read_bytes()[:20_000]
    data = data[: whole_records(data)]
    single = [data[i : i + 1] for i in range(len(data))]
    assert all_of(intervals_of(single, 0.01)) == all_of(intervals_of(data, 0.01))


def whole_records(data: bytes) -> int:
    """Where the last whole record ends."""
    return fed(data).offset


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("interval_s", [0.0005, 0.002, 0.1])
def test_merged_intervals_are_one_long_interval(seed: int, interval_s: float) -> None:
    """For records in order of time; others may come too late for the interval they belong to."""
    rng = random.Random(seed)
    records: list[Record] = []
    for i in range(400):
        category = rng.choice([READ, WRITE, tw.WRITE | tw.FS | tw.DISCARD])
        at = S + rng.randrange(300 * MS)
        fields: dict[str, Any] = {"category": category, "device": SDA + i % 3}
        one = pair(at, 8 * i, rng.randrange(1, 20 * MS), pid=i % 5, **fields)
        queued = replace(one[0], time_ns=at - rng.randrange(MS))
        queued = replace(queued, action=tw.act(category | tw.QUEUE, tw.EV_QUEUE))
        records += [queued, one[0]] if rng.random() < 0.1 else [queued, *one]
    records.sort(key=lambda r: r.time_ns)
    data = encode(records)
    items = intervals_of(data, interval_s)
    (whole,) = intervals_of(data, None)
    assert len(items) > 2
    assert to_dict(merge(items)) == to_dict(whole)
    assert items[0].merge(*items[1:]).device_stats() == whole.device_stats()


# -- time of day -----------------------------------------------------------------------------------

DAY_S = 1_700_000_000


def anchored(number: int = 25) -> list[Record]:
    """Requests from 5 s of trace time on, when the time of day is DAY_S and 250 ms."""
    return [notify_timestamp(5 * S, DAY_S, 250 * MS), *steady(number)]


def test_timestamp_record_gives_the_time_of_day() -> None:
    items = intervals_of(encode(anchored()))
    at_ns = DAY_S * S + 250 * MS
    ends = at_ns, at_ns + S, at_ns + 2 * S, at_ns + 2 * S + 401 * MS
    assert spans(items) == [*zip(ends, ends[1:], (10, 10, 5))]
    assert {i.anchored for i in items} == {True}
    assert [i.time_s for i in items] == [DAY_S + 1, DAY_S + 2, DAY_S + 2]


def test_timestamp_record_later_in_the_first_interval_gives_it_too() -> None:
    records = steady(25)
    records.insert(9, notify_timestamp(records[8].time_ns, DAY_S, 0))
    items = intervals_of(encode(records))
    assert items[0].start_ns == DAY_S * S - (records[8].time_ns - 5 * S)
    assert len({i.anchored for i in items}) == 1


def test_timestamp_record_after_the_first_interval_changes_nothing() -> None:
    records = steady(25)
    records.insert(30, notify_timestamp(records[29].time_ns, DAY_S, 0))
    assert spans(intervals_of(encode(records))) == spans(intervals_of(encode(steady(25))))


# -- from and to -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "limits", "expected"),
    [
        (
            100,
            {"from_ns": 2 * S, "to_ns": 4 * S + 500 * MS},
            [(2 * S, 3 * S, 10), (3 * S, 4 * S, 10), (4 * S, 4 * S + 500 * MS, 5)],
        ),
        (20, {"from_ns": 250 * MS}, [(250 * MS, 1250 * MS, 10), (1250 * MS, 1901 * MS, 7)]),
    ],
)
def test_limits_count_from_the_first_record_and_move_the_boundaries(
    number: int, limits: dict[str, int], expected: list[tuple[int, int, int]]
) -> None:
    assert spans(intervals_of(encode(steady(number)), **limits)) == expected


def test_losses_before_from_do_not_count() -> None:
    records = steady(30)
    data = encode(records[:10]) + tw.lost_mark(0, 5) + encode(records[10:20]) + b"?" * 50
    data += encode(records[20:50]) + tw.lost_mark(0, 7) + encode(records[50:])
    for by in (1, 100, 10_000):
        pieces = [data[i : i + by] for i in range(0, len(data), by)]
        items = intervals_of(pieces, from_ns=S, resync=True)
        assert [(i.counts.records, i.counts.lost_events) for i in items] == [(20, 0), (20, 7)]
        assert [i.counts.skipped_bytes for i in items] == [0, 0]
        (none,) = intervals_of(pieces, from_ns=9 * S, resync=True)
        assert (none.counts, none.total.requests) == (Counts(), 0)


def test_from_0_is_from_the_beginning() -> None:
    for start in (0, 5 * S):
        records = [r for i in range(25) for r in pair(start + i * 100 * MS, 8 * i)]
        data = encode(records)
        for options in ({"from_ns": 0}, {"to_ns": 99 * S}, {"from_ns": 0, "to_ns": 99 * S}):
            assert dicts(intervals_of(data, **options)) == dicts(intervals_of(data)), options


def test_times_of_numpy_give_intervals_of_plain_numbers() -> None:
    limits: dict[str, Any] = {"from_ns": np.int64(S), "to_ns": np.int64(2 * S)}
    (item,) = intervals_of(encode(steady(40)), None, **limits)
    monitor = Monitor(clock="wall")
    times: list[Any] = [np.int64(5), np.uint64(6)]
    for found in (item, monitor.cut(*times)):
        assert json.dumps(to_dict(found))


def test_to_is_exclusive_and_from_inclusive() -> None:
    records = [issue(S, 8, 512), complete(2 * S, 8, 512), *pair(3 * S), complete(9 * S, 8, 512)]
    (item,) = intervals_of(encode(records), None, from_ns=S, to_ns=2 * S)
    assert (item.total.requests, item.counts.completions_without_issue) == (0, 1)
    (item,) = intervals_of(encode(records), None, to_ns=S)
    assert (item.total.requests, item.start_ns, item.end_ns) == (0, 0, S)
    (item,) = intervals_of(encode(records), None, to_ns=S + 1)
    assert item.total.requests == 1


def test_monitor_is_done_after_to() -> None:
    monitor = Monitor(1, to_ns=S)
    data = encode(steady(30))
    assert len(monitor.feed(data[: 48 * 20])) == 0
    assert not monitor.is_done
    assert len(monitor.feed(data[48 * 20 :])) == 1
    assert monitor.is_done
    assert monitor.feed(b"garbage that nobody looks at") == []
    assert monitor.finish() == []


@pytest.mark.parametrize(
    "limits", [{"to_ns": (DAY_S - 5) * S, "is_absolute": True}, {"from_ns": 99 * S}]
)
def test_limits_outside_of_the_trace_give_an_empty_interval(limits: dict[str, Any]) -> None:
    (item,) = intervals_of(encode(anchored()), None, **limits)
    assert (item.total.requests, item.duration_s) == (0, 0)


@pytest.mark.parametrize("by", [1, 50, 10_000])
def test_from_and_to_may_be_times_of_day(by: int) -> None:
    data = encode(anchored(40))
    pieces = [data[i : i + by] for i in range(0, len(data), by)]
    at_ns = DAY_S * S + 250 * MS
    items = intervals_of(pieces, from_ns=at_ns + S, to_ns=at_ns + 2 * S + 1, is_absolute=True)
    assert spans(items) == [(at_ns + S, at_ns + 2 * S, 10), (at_ns + 2 * S, at_ns + 2 * S + 1, 0)]
    items = intervals_of(pieces, from_ns=at_ns - 9 * S, is_absolute=True)
    assert dicts(items) == dicts(intervals_of(data))


@pytest.mark.parametrize("by", [1, 50, 10_000])
@pytest.mark.parametrize("first_ns", [0, 5 * S])
def test_time_of_day_may_come_a_little_later(by: int, first_ns: int) -> None:
    records = [*pair(first_ns), notify_timestamp(first_ns + 2 * MS, DAY_S, 2 * MS)]
    records += [r for i in range(1, 30) for r in pair(first_ns + i * 100 * MS, 8 * i)]
    data = encode(records)
    pieces = [data[i : i + by] for i in range(0, len(data), by)]
    items = intervals_of(pieces, from_ns=(DAY_S + 1) * S, to_ns=(DAY_S + 2) * S, is_absolute=True)
    assert spans(items) == [((DAY_S + 1) * S, (DAY_S + 2) * S, 10)]


def test_times_of_day_without_a_timestamp_record_are_an_error() -> None:
    data = encode(steady(5))
    monitor = Monitor(1, from_ns=DAY_S * S, is_absolute=True)
    with pytest.raises(TraceError, match="no time of day at the beginning of the trace"):
        monitor.feed(data)
        monitor.finish()
    (item,) = monitor.take() or monitor.finish(is_complete=False)
    assert (item.total.requests, item.duration_s) == (0, 0)


def test_bad_trace_is_reported_before_a_missing_time_of_day() -> None:
    monitor = Monitor(1, from_ns=DAY_S * S, is_absolute=True)
    with pytest.raises(TraceError, match=r"at byte offset 0: found .*65617407"):
        monitor.feed(b"no trace at all, by any means" * 100)
        monitor.finish()


# -- the wall clock --------------------------------------------------------------------------------


def test_wall_clock_ends_intervals_on_request() -> None:
    monitor = Monitor(1, clock="wall")
    data = encode(steady(30))
    assert monitor.feed(data[: 48 * 20]) == []
    first = monitor.cut(100 * S, 101 * S)
    assert monitor.feed(data[48 * 20 :]) == []
    second = monitor.cut(101 * S, 103 * S)
    assert monitor.finish() == []
    assert spans([first, second]) == [(100 * S, 101 * S, 10), (101 * S, 103 * S, 20)]
    assert (second.clock, second.anchored, second.time_s) == ("wall", True, 103)
    assert second.counts.records == 40


def test_wall_clock_keeps_limits_of_trace_time() -> None:
    monitor = Monitor(1, clock="wall", from_ns=S, to_ns=2 * S)
    assert monitor.feed(encode(steady(30))) == []
    assert monitor.is_done
    assert monitor.cut(0, S).total.requests == 10


def test_idle_time_counts_for_the_age_of_requests_in_flight() -> None:
    monitor = Monitor(1, clock="wall")
    monitor.feed(encode([issue(S, 8, 512)]))
    load = monitor.cut(0, S, idle_ns=3 * S).total.in_flight
    assert load and (load.end, load.oldest_ns) == (1, 3 * S)


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ((2 * S, S), ValueError, f"an interval cannot be from {2 * S} to {S} ns"),
        ((0, 1 << 64), ValueError, f"an interval cannot be from 0 to {1 << 64} ns"),
        ((0, S, -1), ValueError, "idle_ns must be 0 or more, not -1"),
        (("a", 5), TypeError, "start_ns must be a whole number, not 'a'"),
        ((0, 0.5), TypeError, "end_ns must be a whole number, not 0.5"),
        ((0, 1, None), TypeError, "idle_ns must be a whole number, not None"),
    ],
)
def test_cut_refuses_times_that_make_no_interval(
    times: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    monitor = Monitor(clock="wall")
    monitor.feed(encode(steady(3)))
    with pytest.raises(error, match=f"^{message}$"):
        monitor.cut(*times)
    assert monitor.cut(0, S).total.requests == 3, "the interval goes on"


def test_cut_is_for_the_wall_clock_alone() -> None:
    with pytest.raises(RuntimeError, match='is for clock="wall"; with "trace", feed'):
        Monitor(1).cut(0, S)


# -- what goes wrong -------------------------------------------------------------------------------


def test_intervals_before_an_error_are_returned() -> None:
    monitor = Monitor(1)
    with pytest.raises(TraceError, match=f"byte offset {48 * 50}"):
        monitor.feed(encode(steady(25)) + b"garbage" * 20)
    assert spans(monitor.take()) == [(0, S, 10), (S, 2 * S, 10)]
    assert monitor.take() == []
    assert spans(monitor.finish(is_complete=False)) == [(2 * S, 2 * S + 401 * MS, 5)]


def test_end_inside_a_record_is_an_error() -> None:
    monitor = Monitor(1)
    assert monitor.feed(encode(steady(5))[:-1]) == []
    with pytest.raises(TraceError, match=r"found the end of"):
        monitor.finish()
    assert spans(monitor.take()) == [(0, 400 * MS, 4)]


def test_last_interval_can_be_left_out() -> None:
    monitor = Monitor(1)
    assert len(monitor.feed(encode(steady(25)))) == 2
    assert monitor.finish(final=False) == []


@pytest.mark.parametrize("clock", ["trace", "wall"])
@pytest.mark.parametrize("end", [0, 1], ids=["whole", "inside a record"])
def test_nothing_can_be_fed_after_finish(clock: str, end: int) -> None:
    monitor = Monitor(1, clock=clock)
    data = encode(steady(5))
    monitor.feed(data[: len(data) - end])
    with suppress(TraceError):
        monitor.finish()
    with pytest.raises(RuntimeError, match=r"finish\(\) has ended this stream: make another Mon"):
        monitor.feed(data)


def test_losses_given_to_count_outside_are_counted_once() -> None:
    monitor = Monitor(1)
    data = encode(steady(25))
    monitor.count_outside(5, 100)
    items = monitor.feed(data[:1920])
    monitor.count_outside(7, 100)
    items += monitor.feed(data[1920:]) + monitor.finish()
    outside = [(i.counts.lost_events, i.counts.skipped_bytes) for i in items]
    assert outside == [(5, 100), (2, 0), (0, 0)]
    assert (monitor.totals.lost_events, monitor.totals.records) == (7, 50)


@pytest.mark.parametrize(
    "options", [{"clock": "sun"}, {"interval_s": 0}, {"interval_s": 2e9}, {"interval_s": -1}]
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"clock|interval_s"):
        Monitor(**options)


def test_records_of_other_devices_end_intervals_too() -> None:
    records = [*pair(S), *pair(3 * S, device=SDA + 1)]
    items = intervals_of(encode(records), devices=[SDA])
    assert [i.total.requests for i in items] == [1, 0, 0]
    assert {d["device"] for i in items for d in to_dict(i)["devices"]} == {"8:0"}
