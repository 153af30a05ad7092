"""Requests that are pending for long move to the cold table, which changes no result."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import streams
import tracewriter as tw
from test_engine import compare
from tracewriter import Record, encode
from tuned import fed, tuned

from blkiomon._core import Engine
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot

STEP_NS = 10
LATE_NS = 4000 * STEP_NS
"""Long enough for thousands of others to be issued and completed."""


def cold(engine: Engine) -> int:
    """How many requests are in the cold table."""
    return engine._table_figures()["cold"]


def promoted(engine: Engine) -> int:
    """How many requests went from the cold to the hot table since that last grew."""
    return engine._table_figures()["promoted"]


def fates(rng: random.Random, n: int, lost: float) -> Iterator[Record]:
    """Requests, a few outstanding at a time. Some take long, are issued twice, or lose a record."""
    for i in range(n):
        time_ns = STEP_NS * i
        late_ns = time_ns + rng.randrange(LATE_NS, 4 * LATE_NS)
        what: dict[str, Any] = {
            "sector": 8 * i,
            "bytes_": rng.choice([0, 512, 4096]),
            "category": rng.choice([tw.READ, tw.WRITE]),
            "device": rng.choice([8 << 20, 8 << 20 | 16]),
        }
        fate = rng.random()
        if fate < lost / 32:  # its issue is lost
            yield tw.complete(late_ns, **what)
            continue
        yield tw.issue(time_ns, **what)
        if fate >= lost:
            yield tw.complete(time_ns + rng.randrange(1, 20 * STEP_NS), **what)
        elif fate < lost / 12:  # late
            yield tw.complete(late_ns, **what)
        elif fate < lost / 8:  # issued again; then completed twice, once or never
            yield tw.issue(late_ns, **what)
            for _ in range(rng.randrange(3)):
                yield tw.complete(late_ns + rng.randrange(1, 20), **what)


def lossy(seed: int | str, n: int = 24_000, lost: float = 0.025) -> bytes:
    """The same, ordered by time."""
    return encode(sorted(fates(random.Random(seed), n, lost), key=lambda r: r.time_ns))


@pytest.mark.parametrize("seed", range(2))
def test_engine_with_a_cold_table_equals_reference(seed: int) -> None:
    engine = compare(lossy(seed), random.Random(seed), cuts=4, cold_table_from=0)
    assert cold(engine) > 200
    assert promoted(engine) > 10


@pytest.mark.parametrize("max_age_ns", [2 * LATE_NS, 5 * LATE_NS])
def test_cold_requests_are_evicted_by_age_as_in_the_reference(max_age_ns: int) -> None:
    engine = compare(
        lossy("age"), random.Random(1), max_age_ns=max_age_ns, cuts=9, cold_table_from=0
    )
    assert engine.counters()["evicted"] > 100
    assert promoted(engine) > 10


@pytest.mark.parametrize("max_pending", [330, 450])
def test_cold_requests_are_evicted_by_number_as_in_the_reference(max_pending: int) -> None:
    engine = compare(lossy("number"), random.Random(1), max_pending=max_pending, cold_table_from=0)
    assert engine.pending > max_pending - 30
    assert engine.counters()["evicted"] > 50
    assert cold(engine) > 50


def everything(engine: Engine, cut: Snapshot) -> tuple[Any, ...]:
    """All results of an engine at a snapshot."""
    tables = tuple((f.name, getattr(cut, f.name).tobytes()) for f in fields(cut))
    figures = (engine.pending, engine.requests, engine.now_ns, engine.offset)
    return tables, engine.counters(), figures


def run(data: bytes, *, cold_table_from: int = 0, **options: Any) -> tuple[list[Any], int]:
    """All results of an engine at four snapshots, and the most cold requests at any of them."""
    engine = tuned(cold_table_from=cold_table_from, **options)
    said = []
    most = 0
    step = len(data) // 4
    for at in range(0, len(data), step):
        engine.feed(data[at : at + step])
        most = max(most, cold(engine))
        said.append(everything(engine, engine.snapshot()))
    engine.finish()
    return [*said, everything(engine, engine.snapshot())], most


@pytest.mark.parametrize(
    "options",
    [{}, {"as_original": True}, {"max_age_ns": 2 * LATE_NS}, {"max_pending": 500}],
    ids=str,
)
def test_results_are_those_of_an_engine_without_cold_requests(options: dict[str, Any]) -> None:
    data = lossy("plain")
    ours, n_cold = run(data, **options)
    theirs, others = run(data, cold_table_from=1 << 60, **options)
    assert n_cold > 50
    assert others == 0
    assert ours == theirs


def deep(depth: int, rounds: int) -> bytes:
    """Each time `depth` requests are issued, and then completed."""
    n = depth * rounds
    issues = streams.issues(n, sector=8 * np.arange(n)).reshape(rounds, depth)
    records = streams.in_turn(issues, streams.completions(issues, 0))
    records["time"] = np.arange(2 * n)
    return records.tobytes()


def is_lost(records: np.ndarray, share: float = 0.01) -> np.ndarray:
    """Some of the completions."""
    completions = records["action"] == tw.act(tw.READ | tw.COMPLETE, tw.EV_COMPLETE)
    return completions & (np.random.default_rng(1).random(len(records)) < share)


def test_thousands_of_cold_requests_change_no_result() -> None:
    records = np.frombuffer(deep(20, 15_000), layout.TRACE_V7)
    late = records[is_lost(records)][::10].copy()
    late["time"] += len(records)
    data = records[~is_lost(records)].tobytes() + late.tobytes()
    ours, most = run(data)
    assert most > 2000
    theirs, others = run(data, cold_table_from=1 << 60)
    assert others == 0
    assert ours == theirs


def test_thousands_of_cold_requests_are_all_found_again() -> None:
    records = np.frombuffer(deep(20, 15_000), layout.TRACE_V7)
    again = records[is_lost(records)].copy()
    engine = fed(records[~is_lost(records)].tobytes(), cold_table_from=0)
    assert engine.pending == len(again)
    assert cold(engine) > 2000
    again["time"] += len(records)
    again["action"] = tw.act(tw.READ | tw.ISSUE, tw.EV_ISSUE)
    engine.feed(again.tobytes())
    assert (engine.pending, engine.counters()["mismatches"]) == (len(again), len(again))
    again["time"] += 1
    again["action"] = tw.act(tw.READ | tw.COMPLETE, tw.EV_COMPLETE)
    engine.feed(again.tobytes())
    assert (engine.pending, engine.requests) == (0, len(records) // 2)
    assert engine.snapshot().rows["d2c_ns"]["max"].max() < 100


def test_device_is_known_while_all_its_requests_are_cold() -> None:
    # An engine that does not follow requests in flight, and has room for few devices.
    engine = tuned(as_original=True, max_devices=3, cold_table_from=0)
    sector = 10**9
    engine.feed(encode([tw.issue(0, sector, 512, device=1)]))
    records = np.frombuffer(deep(20, 5000), layout.TRACE_V7)
    engine.feed(records[~is_lost(records)].tobytes())
    assert cold(engine) > 100
    for _ in range(3):
        engine.snapshot()
    engine.feed(
        encode([tw.issue(10**6, 8, 512, device=2), tw.complete(10**6 + 1, 8, 512, device=2)])
    )
    engine.feed(encode([tw.complete(10**7, sector, 512, device=1)]))
    rows = engine.snapshot().rows
    assert rows["device"].tolist() == [2, 1]
    assert rows["d2c_ns"]["max"].tolist() == [1, 10**7]


def test_requests_that_were_cold_are_kept() -> None:
    engine = fed(lossy("kept"), keep_requests=True, cold_table_from=0)
    assert promoted(engine) > 10
    requests = engine.take_requests()
    assert len(requests) == engine.requests
    assert (requests["d2c_ns"] >= LATE_NS).sum() > 30
    assert (requests["issued_ns"] == requests["sector"] // 8 * STEP_NS)[
        requests["d2c_ns"] >= LATE_NS
    ].all()


def test_deep_queue_stays_hot() -> None:
    engine = fed(deep(5000, 20), cold_table_from=0)
    assert (cold(engine), promoted(engine)) == (0, 0)
    assert (engine.pending, engine.requests) == (0, 100_000)


def test_hot_table_grows_if_many_requests_are_promoted() -> None:
    # One of 25 requests is slow: 30,000 records come and go before it is completed.
    n = 40_000
    issues = streams.issues(n, time=20 * np.arange(n), sector=8 * np.arange(n))
    d2c_ns = np.where(np.arange(n) % 25, 15, 20 * 15_000 + 15)
    records = streams.by_time(issues, streams.completions(issues, d2c_ns))
    engine = tuned(cold_table_from=0)
    sizes = []
    for part in np.array_split(records, 20):
        engine.feed(part.tobytes())
        sizes.append(cold(engine))
    assert max(sizes) > 50
    assert sizes[15:] == [0] * 5
    assert (engine.pending, engine.requests) == (0, n)


def feed_in_parts(engine: Engine, records: np.ndarray) -> list[tuple[int, int]]:
    """Requests pending, and cold ones, after each of many parts."""
    seen = []
    for part in np.array_split(records, 97):
        engine.feed(part.tobytes())
        seen.append((engine.pending, cold(engine)))
    return seen


def test_nothing_is_demoted_before_thousands_are_pending() -> None:
    records = np.frombuffer(deep(20, 100_000), layout.TRACE_V7)
    records = records[~is_lost(records, 0.05)]
    engine = Engine()
    seen = feed_in_parts(engine, records)
    assert min(pending for pending, n_cold in seen if n_cold) > 1 << 12
    assert seen[-1][1] > 90_000
    assert engine.pending == 4_000_000 - len(records)
    assert engine._table_figures()["longest_search"] < 4


@pytest.mark.parametrize(
    ("depth", "rounds", "cold_table_from", "is_demoted"),
    [(600, 100, 1 << 13, False), (2100, 80, 1 << 11, True)],
)
def test_few_lost_requests_are_demoted_only_among_many_outstanding(
    depth: int, rounds: int, cold_table_from: int, is_demoted: bool
) -> None:
    records = np.frombuffer(deep(depth, rounds), layout.TRACE_V7)
    records = records[~is_lost(records, 0.008)]
    seen = feed_in_parts(tuned(cold_table_from=cold_table_from), records)
    most_pending, most_cold = map(max, zip(*seen))
    assert most_pending > 900
    assert most_cold > 200 if is_demoted else most_cold == 0
