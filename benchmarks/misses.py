"""How many cache misses and mispredicted branches does a record cost?

callgrind simulates them, as virtual machines have no hardware counters: caches of the sizes below,
and a simple branch predictor. It ignores prefetch instructions. A run takes ten minutes, most of
them for the stream with half a million lost requests.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import streams
from benchmarks.instructions import measure
from benchmarks.report import Options, Table

FIRST = "49152,12,64"
SECOND = "1048576,16,64"
"""Size, ways and line size of a core's first- and second-level cache, in bytes."""
OPTIONS = (
    "--cache-sim=yes",
    "--branch-sim=yes",
    f"--D1={FIRST}",
    f"--LL={SECOND}",
    "--toggle-collect=__pyx_pw_*_6Engine_*feed",
)
COUNTED = 1_000_000
"""Least number of requests that are measured, in several rounds, so that start-up hardly counts."""


class Stream(NamedTuple):
    requests: int
    depth: int
    devices: int
    pending: int = 0
    """About how many requests stay without a completion in a stream that is fed first."""

    @property
    def name(self) -> str:
        name = streams.name(self.depth, self.devices)
        return f"{name}, {self.pending:,} lost before" if self.pending else name


STREAMS = (
    Stream(50_000, 32, 1),
    Stream(50_000, 32, 1, 10_000),
    Stream(50_000, 32, 1, 500_000),
    Stream(100_000, 8192, 1),
    Stream(100_000, 8192, 64),
    Stream(400_000, 65_536, 256),
)


def cells(share: int) -> Iterator[tuple[str, ...]]:
    for stream in STREAMS:
        requests = stream.requests // share
        data = streams.make(requests, min(stream.depth, requests), stream.devices).tobytes()
        times = max(2, COUNTED // share // requests)
        events = measure(data, times, OPTIONS, stream.pending // share)
        first = events["D1mr"] + events["D1mw"]
        second = events["DLmr"] + events["DLmw"]
        missed = events["Bcm"] + events["Bim"]
        yield stream.name, f"{events['Ir']:.0f}", f"{first:.2f}", f"{second:.2f}", f"{missed:.2f}"


def report(options: Options) -> Iterator[Table | str]:
    if shutil.which("valgrind") is None:
        yield "valgrind is not installed; `misses` needs it."
        return
    yield Table(
        "Misses a record (engine, simulated by callgrind, without prefetching)",
        "stream | instructions | misses in 48 KiB | misses in 1 MiB | mispredicted branches",
        cells(20 if options.quick else 1),
    )
