"""feed() with until_ns: no limit and no size of reads loses a record or counts it twice."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

import pytest
import streams
import tracewriter as tw
from hypothesis import given, settings
from hypothesis import strategies as st
from tracewriter import complete, encode, encode_record, issue, replace

from blkiomon._core import Engine
from blkiomon.engine.snapshot import Snapshot
from blkiomon.errors import TraceError
from blkiomon.interval.merging import merge_snapshots

NEVER_NS = 2**64 - 1
KEEP: dict[str, Any] = {
    "max_age_ns": NEVER_NS,  # else a cut evicts
    "keep_details": True,
    "keep_records": True,
    "keep_requests": True,
    "keep_driver_data": True,
}


def said(engine: Engine) -> list[Any]:
    """All results of a stream except its snapshots."""
    return [
        engine.take_records().tobytes(),
        engine.take_requests().tobytes(),
        engine.take_mismatches().tobytes(),
        engine.take_driver_data(),
        engine.leftovers().tobytes(),
        engine.counters(),
        engine.take_skips(),
        dict(engine.process_names),
        (engine.pending, engine.now_ns, engine.epoch_ns, engine.offset),
    ]


def whole(data: bytes, resync: bool) -> tuple[list[Any], Snapshot]:
    engine = Engine(resync=resync, **KEEP)
    try:
        engine.feed(data)
        engine.finish()
    except TraceError:
        pass
    return said(engine), engine.snapshot()


def without_loads(cut: Snapshot) -> dict[str, bytes]:
    """Arrays whose sums do not depend on the interval's end."""
    return {f.name: getattr(cut, f.name).tobytes() for f in fields(cut) if f.name != "loads"}


def in_steps(
    data: bytes, sizes: list[int], limits_ns: list[int | None], resync: bool, is_cut: bool
) -> tuple[list[Any], Snapshot]:
    """Fed in pieces. Sizes and limits are taken in turn, and then from the first again."""
    engine = Engine(resync=resync, **KEEP)
    rest = memoryview(data)
    cuts: list[Snapshot] = []
    records = b""
    try:
        step = 0
        while len(rest):
            size = sizes[step % len(sizes)]
            limit_ns = limits_ns[step % len(limits_ns)] if step < 5000 else None
            step += 1
            taken = engine.feed(rest[:size], limit_ns)
            rest = rest[taken:]
            new = engine.take_records()
            records += new.tobytes()
            stopped_ns = engine.stopped_at_ns
            if limit_ns is None:
                assert stopped_ns is None
            else:
                is_note = new["action"] & tw.NOTIFY << tw.CATEGORY_SHIFT != 0
                assert new["time_ns"][~is_note].max(initial=0) < limit_ns
            if stopped_ns is None:
                assert taken == min(size, len(rest) + taken)
            else:
                assert limit_ns is not None and stopped_ns >= limit_ns
                if is_cut:
                    cuts.append(engine.snapshot())
        while engine.stopped_at_ns is not None:  # a record left in the tail
            engine.feed(b"", None)
        engine.finish()
    except TraceError:
        pass
    cuts.append(engine.snapshot())
    figures = said(engine)
    figures[0] = records + figures[0]
    return figures, merge_snapshots(cuts)


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, list[int], list[int | None], bool, bool]:
    seed = draw(st.integers(0, 10_000))
    stream = streams.generate(seed, avoid="nothing", count=draw(st.sampled_from([3, 20, 60])))
    data = stream.data
    resync = draw(st.booleans())
    junk = [st.builds(tw.lost_mark, st.integers(0, 9), st.integers(0, 10**6))]
    if resync:
        junk.append(st.binary(min_size=1, max_size=120))
    for at, what in draw(
        st.lists(st.tuples(st.integers(0, len(data)), st.one_of(junk)), max_size=3)
    ):
        data = data[:at] + what + data[at:]
    sizes = draw(st.lists(st.sampled_from([1, 7, 47, 48, 49, 64, 300, 10**6]), min_size=1))
    times = [r.time_ns for r in stream.records if 0 < r.time_ns < NEVER_NS] or [1]
    limit = st.one_of(st.none(), st.sampled_from(times), st.just(1), st.just(NEVER_NS))
    limits_ns = [*draw(st.lists(limit, max_size=6)), None]
    return data, sizes, limits_ns, resync, draw(st.booleans())


@settings(max_examples=120, deadline=None, derandomize=True)
@given(cases())
def test_limits_and_reads_change_nothing(
    case: tuple[bytes, list[int], list[int | None], bool, bool],
) -> None:
    data, sizes, limits_ns, resync, is_cut = case
    expected, expected_cut = whole(data, resync)
    figures, cut = in_steps(data, sizes, limits_ns, resync, is_cut)
    for counters in (figures[5], expected[5]):
        del counters["issues_without_completion"]  # which is known at a cut
        if is_cut:  # what comes late, but in the same interval, has been seen
            del counters["completions_without_issue"], counters["sequence_gaps"]
    assert figures == expected
    assert without_loads(cut) == without_loads(merge_snapshots([expected_cut]))


def test_feed_stops_at_the_first_record_at_or_after_until_ns_and_goes_on_there() -> None:
    data = encode([issue(100, 1, 512), issue(200, 2, 512), complete(200, 1, 512), issue(50, 3, 1)])
    engine = Engine()
    assert engine.stopped_at_ns is None
    assert engine.feed(data, 201) == 192
    engine = Engine()
    assert engine.feed(data, 100) == 0
    assert engine.stopped_at_ns == 100
    assert engine.feed(data, 101) == 48
    assert engine.stopped_at_ns == 200
    assert engine.feed(data[48:], 150) == 0
    assert engine.stopped_at_ns == 200
    assert engine.feed(data[48:]) == 144
    assert engine.stopped_at_ns is None
    assert engine.counters()["records"] == 4


@pytest.mark.parametrize("split", range(1, 60))
def test_record_split_over_feeds_waits_in_the_tail(split: int) -> None:
    late = replace(issue(500, 2, 512), payload=b"0123456789")
    data = encode([issue(100, 1, 512)]) + encode_record(late) + encode([issue(90, 3, 512)])
    engine = Engine()
    at = 48 + split
    assert engine.feed(data[:at], 500) == (48 if split > 57 else at)
    rest = data[48 if split > 57 else at :]
    for _ in range(3):
        taken = engine.feed(rest, 400)
        rest = rest[taken:]
        assert engine.stopped_at_ns == 500
        assert engine.counters()["records"] == 1
    assert engine.feed(b"", 500) == 0
    assert engine.stopped_at_ns == 500
    rest = rest[engine.feed(rest, 501) :]
    assert rest == b""
    assert engine.stopped_at_ns is None
    assert engine.counters()["records"] == 3
    engine.finish()


def test_feed_stops_after_garbage_and_marks() -> None:
    data = (
        encode([issue(100, 1, 512)])
        + tw.lost_mark(0, 5)
        + b"garbage"
        + encode([issue(200, 2, 512)])
        + tw.lost_mark(1, 6)
        + encode([issue(300, 3, 512)])
    )
    for most in (1, 10, 60, len(data)):
        engine = Engine(resync=True)
        rest = data
        for limit_ns, records, lost in ((200, 1, 5), (300, 2, 11), (301, 3, 11)):
            while rest or engine.stopped_at_ns is not None:
                rest = rest[engine.feed(rest[:most], limit_ns) :]
                if engine.stopped_at_ns is not None:
                    break
            assert engine.counters()["records"] == records
            assert engine.counters()["lost_events"] == lost
        engine.finish()
        assert engine.take_skips() == [(48 + len(tw.lost_mark(0, 5)), 7)]


@pytest.mark.parametrize("until_ns", [-1, 0, 2**64])
def test_times_out_of_range_are_refused(until_ns: int) -> None:
    engine = Engine()
    with pytest.raises(ValueError, match="until_ns"):
        engine.feed(encode([issue(1, 1, 1)]), until_ns)
    assert engine.feed(encode([issue(1, 1, 1)])) == 48


def test_finish_with_a_record_that_waits_in_the_tail_is_an_error() -> None:
    engine = Engine()
    data = encode([issue(500, 1, 512)])
    engine.feed(data[:20], 100)
    engine.feed(data[20:], 100)
    assert engine.stopped_at_ns == 500
    with pytest.raises(TraceError):
        engine.finish()


def test_limits_of_long_streams_cut_batches_anywhere() -> None:
    rng = random.Random(4)
    records = [issue(n + 1, n, 512) for n in range(3000)]
    data = encode(records)
    engine = Engine(keep_records=True)
    rest = memoryview(data)
    limit_ns = 1
    while len(rest):
        rest = rest[engine.feed(rest, min(limit_ns, 10**6)) :]
        assert engine.counters()["records"] == min(3000, limit_ns - 1)
        limit_ns += rng.randint(0, 400)
    assert engine.take_records()["sector"].tolist() == list(range(3000))
