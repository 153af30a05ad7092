"""What does it cost a record to merge 2, 8 and 64 files by time, with and without the engine?

Every record goes to a random file: the merger can predict nothing. In real traces, several records
of one CPU follow each other. The files are uncompressed and in the page cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import streams
from benchmarks.report import Options, Table
from blkiomon._core import Engine
from blkiomon.sources import open_trace

REQUESTS = 2_000_000


class Cost(NamedTuple):
    read_ns: float  # a record, CPU time
    read_and_feed_ns: float


def cost_ns(paths: Sequence[Path], records: int, *, feed: bool) -> float:
    """CPU nanoseconds a record for reading all files, the best of three runs.

    Raises:
        RuntimeError: not all records were read.
    """
    best = float("inf")
    for _ in range(3):
        engine = Engine()
        n_bytes = 0
        start = time.thread_time_ns()
        with open_trace(paths) as source:
            while data := source.read():
                n_bytes += len(data)
                if feed:
                    engine.feed(data)
        best = min(best, (time.thread_time_ns() - start) / records)
        if n_bytes != records * 48 or (feed and engine.requests != records // 2):
            raise RuntimeError(
                f"{n_bytes} bytes and {engine.requests} matches of {records} records"
            )
    return best


def rows(requests: int) -> Iterator[tuple[str, Cost]]:
    """Number of files, and costs."""
    records = streams.make(requests, 32)
    rng = np.random.default_rng(1)
    for n_files in (1, 2, 8, 64):
        with tempfile.TemporaryDirectory() as name:
            cpu = rng.integers(0, n_files, len(records))
            paths = [Path(name, f"sda.blktrace.{i}") for i in range(n_files)]
            for i, path in enumerate(paths):
                records[cpu == i].tofile(path)
            yield (
                "one merged file" if n_files == 1 else f"{n_files} files",
                Cost(*(cost_ns(paths, len(records), feed=feed) for feed in (False, True))),
            )


def report(options: Options) -> Iterator[Table | str]:
    yield Table(
        "Files in the page cache, each record in a random one of them (CPU time, ns a record)",
        "files | reading and merging | and the engine",
        (
            (name, f"{cost.read_ns:.1f}", f"{cost.read_and_feed_ns:.1f}")
            for name, cost in rows(REQUESTS // (10 if options.quick else 1))
        ),
    )
