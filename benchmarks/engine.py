"""How many nanoseconds does a record cost the engine?"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from benchmarks import streams
from benchmarks.report import Options, Table
from blkiomon._core import Engine

REQUESTS = 2_000_000
FEED_BYTES = 1 << 20


def feed(engine: Engine, data: memoryview) -> int:
    """Feed all of data in parts; returns the CPU nanoseconds that it took."""
    start = time.thread_time_ns()
    for at in range(0, len(data), FEED_BYTES):
        engine.feed(data[at : at + FEED_BYTES])
    return time.thread_time_ns() - start


def cost_ns(data: memoryview, repeats: int = 7) -> float:
    """CPU nanoseconds a record for feeding all of data to a new engine, the best of some runs."""
    costs = []
    for _ in range(repeats):
        engine = Engine(max_pending=1 << 22)
        costs.append(feed(engine, data) / engine.counters()["records"])
    return min(costs)


def as_bytes(records: np.ndarray) -> memoryview:
    return records.view(np.uint8).data


def rows(requests: int = REQUESTS) -> Iterator[tuple[str, float, float]]:
    """Name of a stream, nanoseconds a record, target."""
    shallow = streams.make(requests, 32)
    native_ns = cost_ns(as_bytes(shallow))
    yield streams.name(32), native_ns, 18
    for name, data in (
        ("foreign byte order", as_bytes(streams.as_foreign(shallow))),
        ("version 8", as_bytes(streams.as_version_8(shallow))),
        ("a payload on every tenth record", memoryview(streams.with_payloads(shallow))),
    ):
        yield f"the same, {name}", cost_ns(data), 1.3 * native_ns
    for depth, devices, target_ns in (
        (8192, 64, 22),
        (65_536, 256, 28),
        (1_000_000, 1000, 45),
    ):
        # Long enough that most of the stream has this depth.
        data = as_bytes(streams.make(max(requests, 8 * depth), depth, devices))
        yield streams.name(depth, devices), cost_ns(data), target_ns


def report(options: Options) -> Iterator[Table | str]:
    yield Table(
        "Engine, records in memory, all statistics on, one core (CPU time, best of seven)",
        "stream | ns a record | M records/s | target, ns",
        (
            (name, f"{cost:.1f}", f"{1000 / cost:.1f}", f"{target:.1f}")
            for name, cost, target in rows(REQUESTS // (10 if options.quick else 1))
        ),
    )
