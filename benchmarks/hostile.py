"""Do memory and the cost of a record stay flat on hostile streams?"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.growth import MB, M, resident
from benchmarks.report import Options, Table
from benchmarks.streams import COMPLETE, COMPLETED, ISSUE, ISSUED, READ
from blkiomon._core import Engine
from blkiomon.engine.layout import MAGIC, TRACE_V7
from blkiomon.interval.monitor import Monitor

BLOCK = 1 << 18
"""Records made at a time."""
CUT_EVERY = 8
"""Blocks in an interval."""


def _records(n: int) -> npt.NDArray[np.void]:
    records = np.zeros(n, TRACE_V7)
    records["magic"] = MAGIC | 7
    records["bytes"] = 4096
    records["action"] = (ISSUE | READ) << 16 | ISSUED
    return records


def distinct_devices(first: int) -> npt.NDArray[np.void]:
    """A request on each of BLOCK / 2 new devices."""
    records = _records(BLOCK)
    records["device"] = (first + np.arange(BLOCK)) // 2
    records["time"] = first + np.arange(BLOCK)
    records["action"][1::2] = (COMPLETE | READ) << 16 | COMPLETED
    return records


def never_completed(first: int) -> npt.NDArray[np.void]:
    """Issues to new sectors, 2 µs apart."""
    records = _records(BLOCK)
    records["sector"] = 8 * (first + np.arange(BLOCK))
    records["time"] = 2000 * (first + np.arange(BLOCK))
    return records


def wild_times(first: int) -> npt.NDArray[np.void]:
    """The same, at random 64-bit times."""
    records = never_completed(first)
    rng = np.random.default_rng(first)
    records["time"] = rng.integers(0, (1 << 64) - 1, BLOCK, np.uint64, endpoint=True)
    return records


STREAMS = {
    "requests, each on a device of its own": distinct_devices,
    "issues that never complete": never_completed,
    "the same, at any time up to 2^64-1": wild_times,
}


def run(name: str, marks: list[int], options: dict[str, Any]) -> list[tuple[int, ...]]:
    """At each mark: records, ns a record since the previous mark, resident bytes above the start,
    pending records, evicted records, records over the device limit."""
    engine = Engine(**options)
    before = resident()
    found = []
    spent_ns = passed = n = 0
    while True:
        data = STREAMS[name](n).tobytes()
        begin_ns = time.process_time_ns()
        engine.feed(data)
        if n // BLOCK % CUT_EVERY == CUT_EVERY - 1:
            engine.snapshot()
        spent_ns += time.process_time_ns() - begin_ns
        n += BLOCK
        if n >= marks[len(found)]:
            counters = engine.counters()
            found.append(
                (
                    n,
                    spent_ns // (n - passed),
                    resident() - before,
                    engine.pending,
                    counters["evicted"],
                    counters["over_device_limit"],
                )
            )
            spent_ns, passed = 0, n
            if len(found) == len(marks):
                return found


def cells(share: int, *, full: bool) -> Iterator[tuple[str, ...]]:
    for name, millions, options in (
        ("requests, each on a device of its own", (1, 5, 10, 20), {}),
        ("requests, each on a device of its own", (1, 5, 10, 20), {"max_devices": 1 << 21}),
        ("issues that never complete", (1, 10, 50, 100, *([1000] if full else [])), {}),
        ("the same, at any time up to 2^64-1", (1, 5, 10), {}),
    ):
        marks = [n * M // share for n in millions]
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            samples = pool.apply(run, (name, marks, options))
        bounds = ", ".join(f"{key}={value:,}" for key, value in options.items()) or "default"
        for n, cost_ns, size, pending, evicted, over in samples:
            yield (
                name,
                bounds,
                f"{n / M:.1f} M",
                f"{cost_ns}",
                f"{size / MB:.1f}",
                f"{pending:,}",
                f"{evicted:,}",
                f"{over:,}",
            )


def jumps(share: int) -> Iterator[tuple[str, ...]]:
    """Times that jump with every record, on the trace clock with intervals of a millisecond."""
    for n in (100, 1000, 10_000):
        records = _records(max(2, n // share))
        records["time"] = 10**9 + np.arange(len(records), dtype=np.uint64) * 99_999 * 10**6
        taken = 0

        def take(interval: object) -> None:
            nonlocal taken
            taken += 1

        monitor = Monitor(0.001, hand_over=take)
        begin_ns = time.process_time_ns()
        monitor.feed(records.tobytes())
        monitor.finish()
        spent_s = (time.process_time_ns() - begin_ns) / 1e9
        yield (
            f"{len(records):,}",
            f"{taken:,}",
            f"{monitor.skipped_intervals:,}",
            f"{spent_s:.1f}",
            f"{resident() / MB:.0f}",
        )


def report(options: Options) -> Iterator[Table | str]:
    share = 20 if options.quick else 1
    yield Table(
        f"Hostile streams: memory and cost (engine, CPU time, a cut every {CUT_EVERY * BLOCK:,})",
        "stream | bounds | after records | ns a record, since the line above | MB above the start"
        " | pending | evicted | over the limit of devices",
        cells(share, full=options.full),
    )
    yield Table(
        "Times that jump by 99,999 intervals with every record (-I 0.001, trace clock)",
        "records | intervals handed out | left out | CPU s | MB resident",
        jumps(share),
    )
