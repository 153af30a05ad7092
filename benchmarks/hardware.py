"""How long does the hardware take to move the bytes of a record, without reading them?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import programs, streams
from benchmarks.report import Options, Table

RECORD_BYTES = 48
READ_BYTES = 1 << 20


def copy_ns(records: int) -> float:
    """Nanoseconds to copy a record in memory, many at a time: the best of five runs."""
    source = np.ones(RECORD_BYTES * records, dtype=np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter_ns()
        np.copyto(target, source)
        best = min(best, (time.perf_counter_ns() - start) / records)
    return best


def read_ns(path: Path) -> float:
    """Nanoseconds to read(2) a record from the page cache: the best of three runs."""
    buffer = bytearray(READ_BYTES)
    best = float("inf")
    for _ in range(3):
        with path.open("rb", buffering=0) as source:
            start = time.perf_counter_ns()
            while source.readinto(buffer):
                pass
            spent = time.perf_counter_ns() - start
        best = min(best, spent * RECORD_BYTES / path.stat().st_size)
    return best


def pipe_ns(path: Path, together: bool) -> float:
    """Nanoseconds of wall time for a record through `cat PATH | cat`: the best of five runs."""
    costs = [programs.on_pipe(["cat"], path, together=together) for _ in range(5)]
    return programs.best(costs).wall_s * 1e9 * RECORD_BYTES / path.stat().st_size


def rows(requests: int) -> Iterator[tuple[str, float]]:
    """Name of a way, nanoseconds for a record of 48 bytes."""
    yield "memcpy", copy_ns(2_000_000)
    path = streams.file(requests, 32, 1)
    yield f"read(2) from the page cache, {READ_BYTES >> 20} MiB at a time", read_ns(path)
    yield "cat FILE \\| cat >/dev/null", pipe_ns(path, False)
    yield "the same, both on one CPU", pipe_ns(path, True)


def report(options: Options) -> Iterator[Table | str]:
    yield Table(
        f"For comparison: time to move 48 bytes on {os.cpu_count()} CPUs (wall time, best)",
        "how | ns a record | GB/s",
        (
            (name, f"{cost:.1f}", f"{RECORD_BYTES / cost:.1f}")
            for name, cost in rows(streams.MANY // (20 if options.quick else 1))
        ),
    )
