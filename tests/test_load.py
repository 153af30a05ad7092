"""Requests in flight, against a reference that keeps a list of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import streams
import tracewriter as tw
from inflight import ALL, InFlight, loads_of
from tracewriter import Record, complete, encode, issue, replace
from tuned import fed

from blkiomon._core import Engine
from blkiomon.engine import layout

NEVER_NS = 2**64 - 1
SDA, SDB = 8 << 20, 8 << 20 | 16
READ, WRITE = 0, 1
ALL_OPS = layout.ALL_OPS

CATEGORIES = [
    tw.READ | tw.FS,
    tw.WRITE | tw.FS,
    tw.WRITE | tw.FS | tw.DISCARD,
    tw.READ | tw.FLUSH,
    tw.PC,
]


def ordered(rng: random.Random, requests: int = 60, loss: float = 0.1) -> list[Record]:
    """Requests to few sectors, so that some replace others, in the order of their times."""
    records = []
    now_ns = rng.choice([0, 1, 10**9, 2**40])
    for _ in range(requests):
        now_ns += rng.choice([0, 1, 50, rng.randrange(2000)])
        device = rng.choice([SDA, SDB, 253 << 20])
        category = rng.choice(CATEGORIES)
        sector = rng.randrange(rng.choice([2, 30]))
        size = 0 if category & tw.FLUSH else 4096
        if rng.random() >= loss:
            records.append(issue(now_ns, sector, size, category, device))
        if rng.random() >= loss:
            done_ns = now_ns + rng.choice([0, 1, 300, rng.randrange(20_000)])
            records.append(complete(done_ns, sector, size, category, device))
    records.sort(key=lambda r: r.time_ns)
    return records


def compare(
    records: list[Record], ends_ns: list[int], max_pending: int = 10**6, max_age_ns: int = NEVER_NS
) -> None:
    """Compare both at these times and at the end of the stream."""
    engine = Engine(max_pending=max_pending, max_age_ns=max_age_ns)
    reference = InFlight(max_pending, max_age_ns)
    rest = encode(records)
    for end_ns in [*ends_ns, None]:
        taken = engine.feed(rest, end_ns)
        reference.feed(rest[:taken])
        rest = rest[taken:]
        cut = engine.snapshot(end_ns)
        reference.cut()
        counters = engine.counters()
        lost = counters["lost_events"] + counters["sequence_gaps"]
        end_ns = reference.now_ns if end_ns is None else end_ns
        assert loads_of(cut) == reference.loads(end_ns, lost)
        assert engine.counters()["completions_without_issue"] == reference.completions_without_issue
    assert rest == b""


def some_times(records: list[Record], rng: random.Random) -> list[int]:
    """A few times from before the first record to after the last, one of them twice."""
    last_ns = max(r.time_ns for r in records)
    first_ns = min(r.time_ns for r in records)
    times = [rng.randint(max(1, first_ns), last_ns + 1000) for _ in range(rng.randint(0, 6))]
    times += [rng.choice(records).time_ns or 1, first_ns // 2 or 1]
    return sorted([*times, times[0]])


def up_to_last(times_ns: list[int], records: list[Record]) -> list[int]:
    """Those that leave something for an interval that ends with the latest record."""
    return [t for t in times_ns if t <= records[-1].time_ns]


@pytest.mark.parametrize("seed", range(30))
def test_in_flight_equals_reference(seed: int) -> None:
    rng = random.Random(seed)
    records = ordered(rng, loss=rng.choice([0, 0.05, 0.3]))
    compare(records, up_to_last(some_times(records, rng), records))


@pytest.mark.parametrize("seed", range(40))
def test_in_flight_equals_reference_with_evictions(seed: int) -> None:
    rng = random.Random(f"evict {seed}")
    records = ordered(rng, loss=0.3)
    compare(
        records,
        up_to_last(some_times(records, rng), records),
        max_pending=rng.choice([1, 2, 3, 7, 10**6]),
        max_age_ns=rng.choice([0, 1, 500, 5000, NEVER_NS]),
    )


@pytest.mark.parametrize("seed", range(50))
def test_in_flight_equals_reference_on_generated_streams_in_order(seed: int) -> None:
    rng = random.Random(seed)
    records = sorted(streams.generate(seed, avoid="nothing").records, key=lambda r: r.time_ns)
    records = [replace(r, time_ns=min(r.time_ns, NEVER_NS - 1)) for r in records]
    paired = [
        r
        for r in records
        if r.action & (streams.ISSUE | streams.COMPLETE) and not r.action & streams.DRV_DATA
    ]
    if paired:
        compare(records, up_to_last(some_times(records, rng), paired))


@pytest.mark.parametrize("seed", range(20))
def test_intervals_add_up_to_one(seed: int) -> None:
    rng = random.Random(f"sum {seed}")
    records = ordered(rng)
    data = encode(records)
    whole = fed(data)
    expected = loads_of(whole.snapshot())
    engine = Engine()
    sums: dict[tuple[int, int], list[int]] = {}
    for end_ns in [*up_to_last(some_times(records, rng), records), None]:
        data = data[engine.feed(data, end_ns) :]
        for key, figures in loads_of(engine.snapshot(end_ns)).items():
            total = sums.setdefault(key, [0, 0, 0])
            total[0] += figures[3]
            total[1] += figures[4]
            total[2] = max(total[2], figures[1])
    assert sums == {key: [f[3], f[4], f[1]] for key, f in expected.items()}


@pytest.mark.parametrize("seed", range(80))
def test_out_of_order_streams_give_plausible_figures(seed: int) -> None:
    rng = random.Random(f"disorder {seed}")
    records = streams.generate(seed, avoid="nothing").records
    engine = Engine(max_pending=rng.choice([3, 10**6]), max_age_ns=rng.choice([100, 10**9]))
    for piece in streams.cut_anywhere(encode(records), rng):
        engine.feed(piece)
        end_ns = rng.choice([None, 0, engine.now_ns // 2, NEVER_NS])
        loads = loads_of(engine.snapshot(end_ns))
        assert ALL in loads
        for now, most, oldest_ns, _, integral_ns in loads.values():
            assert now <= most <= len(records)
            assert now or not oldest_ns
            assert integral_ns < len(records) * 2**64
        of_devices = [loads[key] for key in loads if key != ALL and key[1] == ALL_OPS]
        assert sum(f[0] for f in of_devices) == loads[ALL][0]
        assert loads[ALL][0] <= engine.pending
    assert engine.counters()["completions_without_issue"] <= len(records)


@pytest.mark.parametrize("seed", range(40))
def test_devices_are_never_busy_for_longer_than_the_trace(seed: int) -> None:
    rng = random.Random(f"busy {seed}")
    # As from several CPUs, each of whose buffers is read at once.
    records = ordered(rng)
    cpus = rng.randint(1, 8)
    of_cpu = [rng.randrange(cpus) for _ in records]
    records = [r for cpu in range(cpus) for r, c in zip(records, of_cpu) if c == cpu]
    times = [r.time_ns for r in records]
    engine = fed(records)
    for figures in loads_of(engine.snapshot(max(times))).values():
        assert figures[3] <= max(times) - min(times)


def test_one_absurd_time_does_not_stop_the_count_of_busy_time() -> None:
    engine = fed([issue(2**63, 1, 512), complete(2**63 + 5, 1, 512)])
    engine.feed(encode([issue(100, 1, 512), complete(200, 1, 512)]))
    engine.snapshot(300)
    engine.feed(encode([issue(310, 1, 512), complete(350, 1, 512)]))
    assert loads_of(engine.snapshot(400))[SDA, ALL_OPS] == (0, 1, 0, 40, 40)


S = 10**9


def flowing(start_ns: int, end_ns: int) -> list[Record]:
    """A request of 1 ms every 100 ms."""
    times = range(start_ns, end_ns, S // 10)
    return [
        one
        for t in times
        for one in (
            issue(t, 10**6, 512, device=SDA),
            complete(t + S // 1000, 10**6, 512, device=SDA),
        )
    ]


def loads_by_second(engine: Engine, seconds: int, lost: int, start_s: int = 1) -> list[Any]:
    """Figures of SDA for each second, in which requests flow; events are lost in the first one."""
    found = []
    for second in range(start_s, start_s + seconds):
        engine.feed(encode(flowing(second * S, (second + 1) * S)))
        engine.set_lost_outside(lost)
        found.append(loads_of(engine.snapshot((second + 1) * S))[SDA, ALL_OPS])
    return found


def test_request_whose_completion_may_be_lost_is_not_in_flight_once_it_is_overdue() -> None:
    engine = fed([issue(S - 5, 1, 4096)])
    before, presumed, *after = loads_by_second(engine, 4, lost=1)[0:4]
    assert before[0] == 0  # overdue at the end of this very interval
    assert engine.pending == 1
    for in_flight, most, oldest_ns, busy_ns, _ in (presumed, *after):
        assert (in_flight, most, oldest_ns, busy_ns) == (0, 1, 0, S // 100)
    assert engine.counters()["issues_without_completion"] == 1


@pytest.mark.parametrize("lost", [0, 2])
def test_requests_stay_in_flight_if_more_are_overdue_than_events_were_lost(lost: int) -> None:
    engine = fed([issue(n, n, 4096) for n in range(3)])
    assert [load[0] for load in loads_by_second(engine, 3, lost)] == [3, 3, 3]


def test_lost_event_explains_one_overdue_request_only() -> None:
    engine = fed([issue(S - 5, 1, 4096), issue(S - 4, 9, 4096)])
    assert [load[0] for load in loads_by_second(engine, 1, lost=1)] == [2]
    # The first one lost its completion: its sectors are used again. The second one hangs.
    engine.feed(encode([issue(2 * S + 1, 1, 4096), complete(2 * S + 7, 1, 4096)]))
    assert [load[0] for load in loads_by_second(engine, 3, lost=1, start_s=2)] == [1, 1, 1]


def test_requests_stay_in_flight_on_a_device_that_completes_nothing() -> None:
    engine = fed([issue(5, 1, 4096, device=SDB)])
    engine.set_lost_outside(9)
    engine.feed(encode(flowing(S, 4 * S)))
    assert loads_of(engine.snapshot(4 * S))[SDB, ALL_OPS][0] == 1


def test_lost_events_out_of_range_are_refused() -> None:
    engine = Engine()
    for lost in (-1, 2**63):
        with pytest.raises(ValueError, match="lost_events must be"):
            engine.set_lost_outside(lost)
    engine.set_lost_outside(2**63 - 1)
    assert engine.counters()["lost_events"] == 2**63 - 1


def test_request_issued_after_a_loss_stays_in_flight() -> None:
    engine = Engine()
    loads_by_second(engine, 1, lost=1)
    engine.feed(encode([issue(2 * S, 1, 4096)]))
    assert [load[0] for load in loads_by_second(engine, 3, lost=1, start_s=2)] == [1, 1, 1]


def test_request_that_was_presumed_completed_still_matches() -> None:
    engine = fed([issue(S - 5, 1, 4096)])
    loads_by_second(engine, 2, lost=1)
    engine.feed(encode([complete(3 * S + 7, 1, 4096)]))
    cut = engine.snapshot(4 * S)
    assert cut.rows["d2c_ns"]["max"].tolist() == [2 * S + 12]
    assert loads_of(cut)[SDA, ALL_OPS] == (0, 1, 0, 0, 0)
    assert engine.pending == 0


@pytest.mark.parametrize("seed", range(60))
def test_in_flight_equals_reference_where_events_are_lost(seed: int) -> None:
    rng = random.Random(f"lost {seed}")
    parts = {tw.READ | tw.FS: 8192, tw.WRITE | tw.FS: 4096}
    records = []
    now_ns = S
    for _ in range(300):
        now_ns += rng.randrange(S // 20)
        category = rng.choice([*parts])
        sector, size = rng.randrange(60) * 16, parts[category]
        device = rng.choice([SDA, SDB])
        records.append(issue(now_ns, sector, size, category, device))
        late_ns = rng.choice([1, S // 1000, S // 100, S // 10, 3 * S])
        if rng.random() < 0.1:
            requeued = tw.act(category | tw.REQUEUE, tw.EV_REQUEUE)
            records.append(replace(records[-1], time_ns=now_ns + late_ns // 2, action=requeued))
        done = size if rng.random() < 0.9 else 4096
        records.append(complete(now_ns + late_ns, sector, done, category, device))
    records.sort(key=lambda r: r.time_ns)
    numbered = [replace(r, sequence=n + 1) for n, r in enumerate(records)]
    kept = [r for r in numbered if rng.random() < rng.choice([0.9, 0.99, 1])]
    ends_ns = [t * S // 2 for t in range(3, 2 * kept[-1].time_ns // S)]
    compare(kept, ends_ns, max_age_ns=rng.choice([5 * S, NEVER_NS]))


def test_row_of_all_devices_exists_without_records() -> None:
    engine = Engine()
    assert loads_of(engine.snapshot()) == {ALL: (0, 0, 0, 0, 0)}
    assert loads_of(engine.snapshot(5)) == {ALL: (0, 0, 0, 0, 0)}


def test_request_is_in_flight_in_every_interval_that_it_spans() -> None:
    engine = fed([issue(100, 1, 4096)])
    assert loads_of(engine.snapshot(150))[SDA, READ] == (1, 1, 50, 0, 50)
    assert loads_of(engine.snapshot(250))[SDA, ALL_OPS] == (1, 1, 150, 100, 100)
    assert loads_of(engine.snapshot(250))[SDA, ALL_OPS] == (1, 1, 150, 0, 0)
    engine.feed(encode([complete(300, 1, 4096)]))
    assert loads_of(engine.snapshot(400)) == {
        (SDA, READ): (0, 1, 0, 0, 50),
        (SDA, ALL_OPS): (0, 1, 0, 50, 50),
        ALL: (0, 1, 0, 0, 50),
    }
    assert loads_of(engine.snapshot(500)) == {ALL: (0, 0, 0, 0, 0)}


def test_lost_completion_is_in_flight_until_evicted_by_age() -> None:
    engine = fed([issue(100, 1, 4096), issue(1100, 2, 4096, device=SDB)], max_age_ns=1000)
    assert loads_of(engine.snapshot())[SDA, ALL_OPS] == (1, 1, 1000, 1000, 1000)
    engine.feed(encode([complete(1200, 2, 4096, device=SDB)]))
    assert loads_of(engine.snapshot())[SDA, ALL_OPS] == (0, 1, 0, 100, 100)
    assert engine.counters()["evicted"] == 1


def test_lost_completion_is_in_flight_until_evicted_by_number() -> None:
    engine = fed([issue(100, 1, 4096), issue(600, 2, 4096, device=SDB)], max_pending=1)
    loads = loads_of(engine.snapshot(1000))
    assert loads[SDA, ALL_OPS] == (0, 1, 0, 500, 500)
    assert loads[SDB, ALL_OPS] == (1, 1, 400, 400, 400)
    assert loads[ALL] == (1, 1, 400, 0, 900)


def test_lost_completion_is_in_flight_until_replaced() -> None:
    engine = fed([issue(100, 1, 4096), issue(600, 1, 4096), complete(700, 1, 4096)])
    assert loads_of(engine.snapshot(1000))[SDA, ALL_OPS] == (0, 1, 0, 600, 600)


def test_request_completed_before_its_issue_is_read_counts_only_in_the_integral() -> None:
    engine = fed([complete(700, 1, 4096), issue(100, 1, 4096)])
    assert loads_of(engine.snapshot(1000)) == {
        (SDA, READ): (0, 0, 0, 0, 600),
        (SDA, ALL_OPS): (0, 0, 0, 0, 600),
        ALL: (0, 0, 0, 0, 600),
    }


def test_record_marked_as_issue_and_completion_is_an_issue() -> None:
    # An issue from before it is read later: the original pairs the two.
    both = replace(issue(700, 1, 4096), action=tw.act(tw.READ | tw.FS | tw.ISSUE | tw.COMPLETE, 7))
    data = encode([both, issue(100, 1, 4096)])
    engine, original = Engine(), Engine(as_original=True)
    engine.feed(data)
    original.feed(data)
    assert (engine.requests, engine.counters()["mismatches"], engine.pending) == (0, 1, 1)
    assert (original.requests, original.counters()["mismatches"], original.pending) == (1, 0, 0)
    assert loads_of(engine.snapshot(1000))[SDA, ALL_OPS] == (1, 1, 300, 300, 300)


@pytest.mark.parametrize("seed", range(12))
def test_plain_requests_are_paired_as_the_original_does(seed: int) -> None:
    # Also if devices make room for others, and if a fifth of the records is lost.
    rng = random.Random(f"without {seed}")
    records = [
        replace(
            one,
            device=one.device + rng.randrange(8),
            action=one.action & ~(tw.FLUSH << 16),
            bytes_=4096,
            # At the same time as its issue the original does not take a completion.
            time_ns=2 * one.time_ns + bool(one.action & tw.COMPLETE << 16),
        )
        for one in ordered(rng, 400, 0.2)
    ]
    options: dict[str, Any] = {
        "max_devices": rng.choice([6, 12, 30, 100]),
        "max_pending": rng.choice([3, 20, 10**6]),
        "max_age_ns": rng.choice([500, 5000, NEVER_NS]),
    }
    followed, plain = Engine(**options), Engine(**options, as_original=True)
    unanswered = {"issues_without_completion": 0}  # overdue requests; `as_original` has none
    rest = encode(records)
    for end_ns in [*up_to_last(some_times(records, rng), records), None]:
        taken = followed.feed(rest, end_ns)
        assert plain.feed(rest, end_ns) == taken
        rest = rest[taken:]
        expected, cut = followed.snapshot(end_ns), plain.snapshot(end_ns)
        assert len(expected.loads) > 0
        assert len(cut.loads) == 0
        for name in ("rows", "d2c_bins", "size_bins", "queue_rows", "processes"):
            assert getattr(cut, name).tobytes() == getattr(expected, name).tobytes()
        assert plain.counters() | unanswered == followed.counters() | unanswered
        assert plain.pending == followed.pending
