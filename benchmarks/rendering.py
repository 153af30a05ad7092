"""What does it cost to render an interval, compared with json.dumps(to_dict(interval))?

The interval has many devices that read and write. Each format computes everything anew, including
the groups. Times are CPU time of one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks import streams
from benchmarks.report import Options, Table
from blkiomon import to_dict
from blkiomon.formats import csv, json_lines, protobuf
from blkiomon.formats.openmetrics import Metrics
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.value import Interval

DEVICES = 1000
REQUESTS = 80 * DEVICES
REPEATS = 5


def interval_of(devices: int, requests: int) -> Interval:
    monitor = Monitor(clock="wall")
    monitor.feed(streams.make(requests, 64, devices).tobytes())
    return monitor.cut(0, 3600 * NS_PER_S)


def cost_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds, the best of some runs."""
    costs_ns = []
    for _ in range(REPEATS):
        start_ns = time.thread_time_ns()
        work()
        costs_ns.append(time.thread_time_ns() - start_ns)
    return min(costs_ns) / 1e6


def rows(interval: Interval) -> Iterator[tuple[str, ...]]:
    """Name of a format, its cost, and how many times as fast as json.dumps it is."""

    def fresh() -> Interval:
        return replace(interval)  # a copy that has computed nothing yet

    def plain() -> str:
        return json.dumps(to_dict(fresh()), separators=(",", ":"), allow_nan=False)

    render_json, render_csv = json_lines.renderer(), csv.renderer()
    if b"".join(render_json(interval)) != plain().encode() + b"\n":
        raise RuntimeError("--json and json.dumps differ")
    metrics = Metrics(lambda number: None)
    metrics.add(interval)
    plain_ms = cost_ms(plain)
    for name, work in (
        ("json.dumps(to_dict(interval))", plain),
        ("--json", lambda: b"".join(render_json(fresh()))),
        ("--csv", lambda: b"".join(render_csv(fresh()))),
        ("--openmetrics, an interval", lambda: metrics.add(fresh())),
        ("--openmetrics, a scrape", metrics.text),
        ("--openmetrics, a scrape in protobuf", lambda: protobuf.encode(metrics.families())),
    ):
        ms = plain_ms if work is plain else cost_ms(work)
        yield name, f"{ms:.1f}", f"{plain_ms / ms:.1f}"


def report(options: Options) -> Iterator[Table | str]:
    devices = DEVICES // (10 if options.quick else 1)
    interval = interval_of(devices, REQUESTS // (10 if options.quick else 1))
    groups = interval.groups()
    bins = sum(len(group.d2c_ns.bins) + len(group.size_bytes.bins) for group in groups)
    yield Table(
        f"An interval of {devices:,} devices, {len(groups):,} groups with {bins:,} bins",
        "format | CPU ms | times as fast as json.dumps",
        rows(interval),
    )
