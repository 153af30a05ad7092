"""Records that wait for long, or for ever, are evicted by age and by number as in the reference."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import streams
import tracewriter as tw
from test_engine import compare
from tracewriter import Record, encode
from tuned import fed

STEP_NS = 10
LATE_NS = 4000 * STEP_NS
"""Long enough for thousands of others to be issued and completed."""


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


def lossy(seed: int | str) -> bytes:
    """The same, ordered by time."""
    return encode(sorted(fates(random.Random(seed), 24_000, 0.025), key=lambda r: r.time_ns))


@pytest.mark.parametrize("seed", range(2))
def test_engine_equals_reference_on_late_and_lost_records(seed: int) -> None:
    engine = compare(lossy(seed), random.Random(seed), cuts=4)
    assert engine.pending > 200


@pytest.mark.parametrize("max_age_ns", [2 * LATE_NS, 5 * LATE_NS])
def test_eviction_by_age_of_late_and_lost_records_equals_reference(max_age_ns: int) -> None:
    engine = compare(lossy("age"), random.Random(1), max_age_ns=max_age_ns, cuts=9)
    assert engine.counters()["evicted"] > 100


@pytest.mark.parametrize("max_pending", [330, 450])
def test_eviction_by_number_of_late_and_lost_records_equals_reference(max_pending: int) -> None:
    engine = compare(lossy("number"), random.Random(1), max_pending=max_pending)
    assert engine.pending > max_pending - max_pending // 8 - 30
    assert engine.counters()["evicted"] > 50


@pytest.mark.parametrize("spread_ns", [1, 1 << 10, 1 << 20, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("later_ns", [0, 1 << 50])
def test_oldest_eighth_goes_whatever_the_times_are(spread_ns: int, later_ns: int) -> None:
    rng = np.random.default_rng(spread_ns % 1000)
    most, n = 100_000, 130_000
    times = rng.integers(0, spread_ns, n, np.uint64, endpoint=True)
    times[: most // 2] |= np.uint64(later_ns)
    issues = streams.issues(n, time=times, sector=8 * np.arange(n))
    engine = fed(issues.tobytes(), max_pending=most, max_age_ns=2**64 - 1)
    left, at, evicted = times[:most], most, 0
    while at < n:
        if len(left) == most:
            age_bits = max(int(times[at]) - int(left.min()), 0).bit_length()
            about = np.uint64((1 << max(age_bits - 14, 0)) - 1)
            left = left[left > np.sort(left)[most // 8 - 1] | about]
            evicted += most - len(left)
        end = min(at + most - len(left), n)
        left, at = np.concatenate([left, times[at:end]]), end
    assert (engine.pending, engine.counters()["evicted"]) == (len(left), evicted)


def test_pairing_goes_on_at_the_bound() -> None:
    # Twice as many requests are outstanding as may be pending: those that are quick still match.
    n = 60_000
    issues = streams.issues(n, time=10 * np.arange(n), sector=8 * np.arange(n))
    d2c_ns = np.random.default_rng(1).integers(1, 10 * 8000, n)
    records = streams.by_time(issues, streams.completions(issues, d2c_ns))
    engine = fed(records.tobytes(), max_pending=2000)
    # Those that take less than a share x of the longest D2C: x - x**2 / 2 = 2000 / 8000.
    assert engine.requests == pytest.approx(n * (1 - math.sqrt(0.5)), rel=0.1)


def test_only_records_with_a_category_advance_the_time() -> None:
    request = tw.issue(100, 8, 4096)
    uncategorised = Record(10**15, 8, 0, tw.act(0, tw.EV_PLUG), request.device)
    plug = Record(2000, 8, 0, tw.act(tw.QUEUE, tw.EV_PLUG), request.device)
    for slowly in (False, True):
        engine = fed([request, uncategorised], max_age_ns=1000, slowly=slowly)
        engine.snapshot()
        assert (engine.now_ns, engine.pending) == (100, 1)
        engine.feed(encode([plug]))
        engine.snapshot()
        assert (engine.now_ns, engine.pending, engine.counters()["evicted"]) == (2000, 0, 1)
