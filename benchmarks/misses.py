"""What does a record miss: how many cache lines, how many predictions of a branch?

Counted by callgrind, as a virtual machine has no counters of its own: in caches of the sizes below,
by a simple predictor, and as if nothing were fetched ahead, which it takes no notice of. Takes ten
minutes, as half a million lost requests do not come about in less.
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
"""Bytes, ways and bytes a line of a core's own two caches."""
OPTIONS = (
    "--cache-sim=yes",
    "--branch-sim=yes",
    f"--D1={FIRST}",
    f"--LL={SECOND}",
    "--toggle-collect=__pyx_pw_*_6Engine_*feed",
)
COUNTED = 1_000_000
"""Requests at least, in as many rounds as that takes: what comes before varies, too."""


class Stream(NamedTuple):
    requests: int
    depth: int
    devices: int
    pending: int = 0
    """About so many requests before it, among others, are never completed."""

    @property
    def name(self) -> str:
        plural = "s" * (self.devices > 1)
        name = f"{self.depth:,} outstanding, {self.devices:,} device{plural}"
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
        yield "What a record misses takes valgrind, which is not installed."
        return
    yield Table(
        "What a record misses (engine, simulated by callgrind, without fetching ahead)",
        (
            "stream",
            "instructions",
            "lines of data not in 48 KiB",
            "not in 1 MiB",
            "branches mispredicted",
        ),
        cells(20 if options.quick else 1),
    )
