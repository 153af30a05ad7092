"""The fast path of pairing and the slow one give the same results, on any mixture of records."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import streams
import tracewriter as tw
from intervals import tables
from streams import Records
from tuned import tuned

from blkiomon.engine import layout

WAYS: dict[str, dict[str, Any]] = {
    "fast": {},
    "fast, on any processor": {"plain_cpu": True},
    "slow": {"slowly": True},
}


def plain(rng: np.random.Generator, n: int) -> Records:
    """Reads and writes of usual sizes, some of which are never completed."""
    devices = rng.choice([1, 1, 3, 40])
    issues = streams.issues(
        n,
        time=10**9 + np.cumsum(rng.integers(1, 2000, n)),
        sector=rng.integers(0, rng.choice([50, 10**6]), n) * 8,
        device=(8 << 20) + 16 * rng.integers(0, devices, n),
        cpu=rng.integers(0, rng.choice([1, 4, 70]), n),
        bytes=512 * rng.integers(1, 2048, n),
        pid=rng.integers(1, 20, n),
    )
    issues["action"] |= (tw.FS << 16) * rng.integers(0, 2, n).astype("u4")
    writes = rng.random(n) < 0.4
    issues["action"][writes] ^= (tw.READ | tw.WRITE) << 16
    done = issues.copy()
    done["action"] ^= tw.act(tw.ISSUE, tw.EV_ISSUE) ^ tw.act(tw.COMPLETE, tw.EV_COMPLETE)
    done["time"] += (2 ** rng.uniform(5, rng.choice([12, 24, 31]), n)).astype("u8")
    records = streams.by_time(issues, done[rng.random(n) >= rng.choice([0, 0.01, 0.2])])
    for device in np.unique(records["device"]):
        for cpu in np.unique(records["cpu"]):
            of_both = (records["device"] == device) & (records["cpu"] == cpu)
            records["sequence"][of_both] = 1 + np.arange(of_both.sum())
    return records


def change(rng: random.Random, records: Records, i: int) -> None:
    """Make one record odd."""
    kind = rng.randrange(9)
    r = records[i]
    if kind == 0:
        r["error"] = rng.choice([1, 5, 65535])
    elif kind == 1:
        r["bytes"] = rng.choice([0, 1, 512, 513, 1 << 20, 1 << 31, r["bytes"] // 1024 * 512])
    elif kind == 2:
        r["action"] ^= rng.choice([tw.FLUSH, tw.DISCARD, tw.PC, tw.SYNC, tw.META]) << 16
    elif kind == 3:
        r["action"] = tw.act(
            *rng.choice([(tw.REQUEUE | tw.READ, 6), (tw.QUEUE | tw.READ, 1), (tw.NOTIFY, 0)])
        )
    elif kind == 4:
        r["time"] = rng.choice([0, 1, max(0, int(r["time"]) - 10**6), int(r["time"]) + 10**10])
    elif kind == 5:
        r["action"] |= (tw.ISSUE | tw.COMPLETE) << 16
    elif kind == 6:
        r["sequence"] += rng.choice([1, 5, 1 << 17])
    elif kind == 7:
        records[i] = records[max(0, i - rng.randrange(1, 40))]
    else:
        r["device"] = rng.choice([8 << 20, 999, 0xFFFFFFFF])


def mixed(seed: int) -> Records:
    """Plain records with odd ones among them: none, a few, many, or some in places."""
    rng = random.Random(seed)
    records = plain(np.random.default_rng(seed), rng.choice([100, 1000, 2000]))
    share = rng.choice([0, 0.001, 0.05, 0.5])
    while share and rng.random() < 0.7:
        first = rng.randrange(len(records))
        for i in range(first, min(len(records), first + rng.choice([1, 100, 2000]))):
            if rng.random() < share:
                change(rng, records, i)
    return records


OPTIONS: list[dict[str, Any]] = [
    {},
    {},
    {"as_original": True},
    {"max_pending": 300},
    {"max_pending": 5000, "max_age_ns": 10**6},
    {"max_age_ns": 2**64 - 1},
    {"max_age_ns": 999},
    {"devices": [8 << 20, 999]},
    {"from_ns": 10**9 + 10**6},
    {"max_devices": 3},
]


def results(data: bytes, size: int, seed: int, *, before: bytes = b"", **options: Any) -> list[Any]:
    """All results at three cuts, of a stream of records of this size that is fed in parts."""
    rng = random.Random(seed)
    engine = tuned(**options)
    engine.feed(before)
    said: list[Any] = []
    for cut in range(3):
        begin, end = (len(data) // size * at // 3 * size for at in (cut, cut + 1))
        while begin < end:
            most = rng.choice([size - 1, 31 * size, 300 * size + 7, 10**6])
            n = rng.randint(1, min(most, end - begin))
            engine.feed(data[begin : begin + n])
            begin += n
        figures = (engine.pending, engine.requests, engine.now_ns, engine.first_ns)
        said.append((tables(engine.snapshot()), engine.counters(), figures))
    return said


@pytest.mark.parametrize("block", range(6))
def test_results_are_those_of_the_slow_way(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        records = mixed(seed)
        options = OPTIONS[seed % len(OPTIONS)]
        expected = results(records.tobytes(), 48, seed, slowly=True, **options)
        for number, (way, tuning) in enumerate(WAYS.items()):
            got = results(records.tobytes(), 48, seed + number, **tuning, **options)
            assert got == expected, (seed, way)
        data = records.byteswap().tobytes()
        assert results(data, 48, seed, **options) == expected, (seed, "foreign")
        version_8 = np.zeros(len(records), layout.TRACE_V8)
        for name in layout.TRACE_V7.names or ():
            version_8[name] = records[name]
        version_8["magic"] = tw.MAGIC | 8
        assert results(version_8.tobytes(), 64, seed, **options) == expected, (seed, "version 8")


@pytest.mark.parametrize("block", range(3))
def test_processes_are_those_of_the_slow_way(block: int) -> None:
    name = tw.encode([tw.notify_process(10**9, 5, "fio")])
    counted = 0
    for seed in range(block * 10, block * 10 + 10):
        data = mixed(seed).tobytes()
        options = OPTIONS[seed % len(OPTIONS)]
        expected = results(data, 48, seed, before=name, slowly=True, **options)
        counted += any(figures["processes"] for figures, _, _ in expected)
        for way, tuning in WAYS.items():
            assert results(data, 48, seed, before=name, **tuning, **options) == expected, way
    assert counted >= 8


def few_in_flight(seed: int) -> bytes:
    """At most five requests of a device are in flight; some fail, and some have an odd size."""
    rng = random.Random(seed)
    in_flight: list[tuple[int, int]] = []
    records = []
    for i in range(1000):
        time_ns = 10**9 + i * 2000
        if in_flight and rng.random() < len(in_flight) / 5:
            sector, size = in_flight.pop(rng.randrange(len(in_flight)))
            error = 5 if rng.random() < 0.3 else 0
            records.append(tw.complete(time_ns, sector, size, error=error))
        else:
            in_flight.append((8 * i, rng.choice([4096, 4096, 1000])))
            records.append(tw.issue(time_ns, *in_flight[-1]))
    return tw.encode(records)


@pytest.mark.parametrize("seed", range(5))
def test_busy_time_is_that_of_the_slow_way(seed: int) -> None:
    data = few_in_flight(seed)
    expected = results(data, 48, seed, slowly=True)
    for way in ("fast", "fast, on any processor"):
        assert results(data, 48, seed, **WAYS[way]) == expected, way


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [0, 1, 40])
def test_times_at_both_ends_of_the_range_are_far_apart(way: str, before: int) -> None:
    """An issue just before 2^64 ns does not meet a completion just behind 0."""
    others = [tw.issue(10**9 + i, 8 * i, 4096) for i in range(before)]
    late = [tw.issue(2**64 - 10**9 + i, 8000 + 8 * i, 4096) for i in range(40)]
    early = [tw.complete(10**7 + i, 8000 + 8 * i, 4096) for i in range(40)]
    engine = tuned(**WAYS[way])
    engine.feed(tw.encode([*others, *late]))
    engine.feed(tw.encode(early))
    counters = engine.counters()
    assert (counters["requests"], counters["evicted"]) == (0, 40)


def test_streams_have_what_both_ways_are_for() -> None:
    """Most records take the fast path, and all kinds of oddity occur."""
    seen: dict[str, int] = {}
    for seed in range(60):
        for name, value in results(mixed(seed).tobytes(), 48, seed)[-1][1].items():
            seen[name] = seen.get(name, 0) + value
    assert seen["requests"] > 30_000
    names = ("mismatches", "sequence_gaps", "completions_without_issue")
    assert min(seen[name] for name in names) > 100
