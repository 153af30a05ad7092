"""Request sizes and times, exactly: bins, moments and the original's histograms."""

from __future__ import annotations

import random
from typing import Any

import intervals
import pytest
import tracewriter as tw
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import bucket
from tracewriter import complete, encode, issue

from blkiomon._core import Engine
from blkiomon.engine import layout

MIB = 1 << 20
MOST_KNOWN = 2**128 * 64**2 // 65**2  # as sums of squares have 128 bits, and bins 1/64
EDGES = [0, 1, 511, 512, 513, MIB - 512, MIB - 1, MIB, MIB + 1, MIB + 512, 2**31, 2**32 - 1]


def figures(values: list[int]) -> tuple[int, int, int, int]:
    squares = sum(v * v for v in values)
    # A sum that may overflow 128 bits, judged by bins 1/64 wide, is set to the maximum.
    return min(values), max(values), sum(values), min(squares, MOST_KNOWN)


def got_figures(m: Any) -> tuple[int, int, int, int]:
    sums = [int(m[name][0]) + (int(m[name][1]) << 64) for name in ("sum", "sum_squares")]
    squares = sums[1] if sums[1] < 2**128 - 1 else MOST_KNOWN
    return int(m["min"]), int(m["max"]), sums[0], min(squares, MOST_KNOWN)


def hist(values: list[int], delta: int, buckets: int) -> list[int]:
    counts = [0] * buckets
    for value in values:
        counts[bucket(value, delta, buckets)] += 1
    return counts


def check(engine: Engine, requests: list[tuple[int, int, int]]) -> None:
    """Compare a snapshot with these requests: device, size, time."""
    cut = engine.snapshot()
    devices = list(dict.fromkeys(device for device, _, _ in requests))
    assert cut.rows["device"].tolist() == devices
    for i, device in enumerate(devices):
        row = cut.rows[i]
        sizes = [size for d, size, _ in requests if d == device]
        times = [d2c_ns for d, _, d2c_ns in requests if d == device]
        assert row["requests"] == len(sizes)
        assert got_figures(row["size_bytes"]) == figures(sizes)
        assert got_figures(row["d2c_ns"]) == figures(times)
        assert got_figures(row["d2c_us"]) == figures([t // 1000 for t in times])
        assert row["size_hist"].tolist() == hist(sizes, layout.SIZE_DELTA, layout.SIZE_BUCKETS)
        expected = hist([t // 1000 for t in times], layout.D2C_DELTA, layout.D2C_BUCKETS)
        assert row["d2c_hist"].tolist() == expected
    for bins, which, most in (
        (cut.size_bins, 1, layout.SIZE_BINS),
        (cut.d2c_bins, 2, layout.D2C_BINS),
    ):
        values = [[r[which] for r in requests if r[0] == device] for device in devices]
        assert bins.tolist() == intervals.bins(values).tolist()
        assert bins["bin"].max(initial=0) < most


def feed(engine: Engine, requests: list[tuple[int, int, int]]) -> None:
    records = []
    for n, (device, size, d2c_ns) in enumerate(requests):
        records.append(issue(1000, n, size, tw.READ, device))
        records.append(complete(1000 + d2c_ns, n, size, tw.READ, device))
    engine.feed(encode(records))


@pytest.mark.parametrize("size", EDGES)
def test_one_size_alone_is_exact(size: int) -> None:
    engine = Engine(max_age_ns=2**64 - 1)
    for n in (1, 3):
        feed(engine, [(5, size, 10)] * n)
        check(engine, [(5, size, 10)] * n)
    assert len(engine.snapshot().size_bins) == 0


def test_sizes_of_up_to_2049_sectors_and_their_neighbours_are_exact() -> None:
    requests = [(7, 512 * n, 1) for n in range(2050)]
    requests += [(8, 512 * n + off, 1) for n in range(1, 2050, 13) for off in (-1, 1)]
    engine = Engine(max_age_ns=2**64 - 1)
    feed(engine, requests)
    check(engine, requests)


SIZES = st.one_of(
    st.sampled_from(EDGES),
    st.integers(0, 2100).map(lambda n: 512 * n),
    st.integers(0, 2**32 - 1),
)
TIMES = st.one_of(
    st.sampled_from([1, 127, 128, 129, 999, 1000, 1001, 2**32 - 1, 2**32, 2**63, 2**64 - 2000]),
    st.integers(1, 10**7),
    st.integers(1, 2**64 - 2000),
)
REQUESTS = st.lists(st.tuples(st.sampled_from([1, 2]), SIZES, TIMES), max_size=60)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(REQUESTS, min_size=1, max_size=4))
def test_every_interval_is_exact_and_starts_empty(
    cuts: list[list[tuple[int, int, int]]],
) -> None:
    engine = Engine(max_age_ns=2**64 - 1)
    for requests in cuts:
        feed(engine, requests)
        check(engine, requests)


@pytest.mark.parametrize("seed", range(2))
def test_many_requests_of_many_sizes_are_exact(seed: int) -> None:
    rng = random.Random(seed)
    engine = Engine(max_age_ns=2**64 - 1)
    for _ in range(3):
        requests = []
        for _ in range(5000):
            size = rng.choice([4096, 512 * rng.randrange(3000), rng.getrandbits(rng.randrange(33))])
            requests.append((rng.randrange(3), size, rng.getrandbits(rng.randrange(1, 63)) + 1))
        feed(engine, requests)
        check(engine, requests)
