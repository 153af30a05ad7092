"""How many nanoseconds does a record cost the engine?"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from benchmarks import streams
from blkiomon._core import Engine

REQUESTS = 2_000_000
FEED_BYTES = 1 << 20


def cost_ns(data: memoryview, repeats: int = 3) -> float:
    """CPU nanoseconds a record, the best of some runs, of feeding all of data to a new engine."""
    best = float("inf")
    for _ in range(repeats):
        engine = Engine(max_pending=1 << 22)
        start = time.thread_time_ns()
        for at in range(0, len(data), FEED_BYTES):
            engine.feed(data[at : at + FEED_BYTES])
        spent = time.thread_time_ns() - start
        best = min(best, spent / engine.counters()["records"])
    return best


def as_bytes(records: np.ndarray) -> memoryview:
    return memoryview(records.view(np.uint8))


def rows() -> Iterator[tuple[str, float]]:
    """What is measured, and the nanoseconds a record."""
    shallow = streams.make(REQUESTS, 32)
    yield "32 outstanding, 1 device", cost_ns(as_bytes(shallow))
    yield "the same, foreign byte order", cost_ns(as_bytes(streams.as_foreign(shallow)))
    yield "the same, version 8", cost_ns(as_bytes(streams.as_version_8(shallow)))
    yield (
        "the same, a payload on every tenth record",
        cost_ns(memoryview(streams.with_payloads(shallow))),
    )
    for depth, devices in ((8192, 64), (65_536, 256), (1_000_000, 1000)):
        data = as_bytes(streams.make(REQUESTS, depth, devices))
        yield f"{depth:,} outstanding, {devices:,} devices", cost_ns(data)


def copy_ns() -> float:
    """Nanoseconds to copy the 48 bytes of a record: how far the memory's limit is."""
    source = np.ones(48 * REQUESTS, dtype=np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter_ns()
        np.copyto(target, source)
        best = min(best, (time.perf_counter_ns() - start) / REQUESTS)
    return best
