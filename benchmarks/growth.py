"""How does the cost of a record grow with outstanding requests, devices and records?"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import streams
from benchmarks.engine import as_bytes, cost_ns, feed
from benchmarks.report import Options, Table
from blkiomon._core import Engine

LIBC = ctypes.CDLL(None)
MB = 1e6
M = 1_000_000
REQUESTS = 2 * M
ROUND = M // 2
"""Requests of the stream that is repeated where many records are wanted."""


class Run(NamedTuple):
    """A long stream, and the engine's options."""

    depth: int
    devices: int
    lost: float = 0.0
    bounds: tuple[tuple[str, Any], ...] = ()


class Sample(NamedTuple):
    """Figures at one mark of a long run."""

    records: int
    cost_ns: float
    """CPU time a record since the previous mark."""
    pending: int
    evicted: int
    resident: int
    """Bytes more than before the run."""


def samples(run: Run, marks: Sequence[int], requests: int) -> list[Sample]:
    """Feed an engine up to the last mark; returns a sample for each mark (a number of records)."""
    stream = streams.make(requests, run.depth, run.devices, lost=run.lost)
    data = as_bytes(stream)
    rounds = streams.repeat(stream, 1 + marks[-1] // requests)
    next(rounds)
    before = resident()
    engine = Engine(**dict(run.bounds))
    result: list[Sample] = []
    spent_ns = passed = 0
    for _ in itertools.chain([stream], rounds):
        spent_ns += feed(engine, data)
        counters = engine.counters()
        records = counters["records"]
        if records < marks[len(result)]:
            continue
        cost = spent_ns / (records - passed)
        above = resident() - before
        result.append(Sample(records, cost, engine.pending, counters["evicted"], above))
        spent_ns, passed = 0, records
        if len(result) == len(marks):
            break
    return result


def resident() -> int:
    """Return the resident memory of this process in bytes, after malloc_trim()."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def best_samples(run: Run, marks: Sequence[int], requests: int) -> list[Sample]:
    """The least cost of two runs at each mark. Each run has a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        runs = [pool.apply(samples, (run, marks, requests)) for _ in range(2)]
    return [min(sample, key=lambda one: one.cost_ns) for sample in zip(*runs)]


def by_depth(requests: int) -> Iterator[tuple[int, float]]:
    """Outstanding requests on one device, and nanoseconds a record."""
    for depth in (32, 256, 1024, 8192, 65_536, 262_144, M):
        yield depth, cost_ns(as_bytes(streams.make(requests, depth)))


def by_devices(requests: int) -> Iterator[tuple[int, float]]:
    """Devices with 8,192 requests outstanding in all, and nanoseconds a record."""
    for devices in (1, 4, 16, 64, 256, 1024, 4096):
        yield devices, cost_ns(as_bytes(streams.make(requests, 8192, devices)))


def by_records(share: int) -> Iterator[tuple[Run, list[Sample]]]:
    """At 1, 10 and 100 million records without losses."""
    for run in (Run(32, 1), Run(8192, 64)):
        yield run, best_samples(run, [n * M // share for n in (1, 10, 100)], ROUND // share)


def by_time(share: int) -> Iterator[tuple[Run, list[Sample]]]:
    """Up to 300 million records with 1 % of completions lost, with default and other bounds."""
    every = range(10, 101, 10)
    for run, millions in (
        (Run(8192, 64, 0.01), [*every, 150, 200, 250, 300]),
        (Run(32, 1, 0.01), [10, 50, 100, 200, 300]),
        (Run(8192, 64, 0.01, (("max_pending", 50_000 // share),)), [10, 50, 100]),
        (Run(8192, 64, 0.01, (("max_age_ns", 10 * 10**9 // share),)), [10, 50, 100]),
    ):
        yield run, best_samples(run, [n * M // share for n in millions], ROUND // share)


def cells(runs: Iterator[tuple[Run, list[Sample]]]) -> Iterator[tuple[str, ...]]:
    for run, several in runs:
        bounds = ", ".join(f"{name}={value:,}" for name, value in run.bounds)
        for sample in several:
            yield (
                streams.name(run.depth, run.devices),
                f"{run.lost:.1%}",
                bounds or "default",
                f"{sample.records / M:.1f} M",
                f"{sample.cost_ns:.1f}",
                f"{sample.pending:,}",
                f"{sample.evicted:,}",
                f"{sample.resident / MB:.1f}",
            )


def report(options: Options) -> Iterator[Table | str]:
    share = 20 if options.quick else 1
    yield Table(
        "Growth with outstanding requests, one device (engine, CPU time, best of seven)",
        "outstanding | ns a record",
        ((f"{depth:,}", f"{cost:.1f}") for depth, cost in by_depth(REQUESTS // share)),
    )
    yield Table(
        "Growth with devices, 8,192 requests outstanding (engine, CPU time, best of seven)",
        "devices | ns a record",
        ((f"{devices:,}", f"{cost:.1f}") for devices, cost in by_devices(REQUESTS // share)),
    )
    columns = (
        "stream | lost | bounds | after records | ns a record, since the line above | pending"
        " | evicted | MB above the start"
    )
    for title, runs in (
        ("Growth with the number of records (best of two)", by_records),
        ("1 % of all completions lost, for a long time (best of two)", by_time),
    ):
        yield Table(title, columns, cells(runs(share)))
