"""What does rendering an interval cost, beside the plain way: json.dumps of Interval.to_dict?

An interval of many devices that read and write. Everything is worked out anew for each format, the
groups included, and takes the CPU time of one thread. The plain way is measured in the same run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks import streams
from benchmarks.report import Options, Table
from blkiomon import to_dict
from blkiomon.formats import csv, json_lines
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
    best_ns = 1 << 62
    for _ in range(REPEATS):
        start_ns = time.thread_time_ns()
        work()
        best_ns = min(best_ns, time.thread_time_ns() - start_ns)
    return best_ns / 1e6


def rows(interval: Interval) -> Iterator[tuple[str, ...]]:
    """Each format, its cost, and what part that is of the plain way's."""

    def fresh() -> Interval:
        return replace(interval)  # nothing has been worked out yet

    def plain() -> str:
        return json.dumps(to_dict(fresh()), separators=(",", ":"), allow_nan=False)

    render_json, render_csv = json_lines.renderer(), csv.renderer()
    if b"".join(render_json(interval)) != plain().encode() + b"\n":
        raise RuntimeError("the line is not that of json.dumps")
    metrics = Metrics(lambda number: None)
    metrics.add(interval)
    plain_ms = cost_ms(plain)
    for name, work in (
        ("json.dumps(to_dict(interval))", plain),
        ("--json", lambda: b"".join(render_json(fresh()))),
        ("--csv", lambda: b"".join(render_csv(fresh()))),
        ("--openmetrics, an interval", lambda: metrics.add(fresh())),
        ("--openmetrics, a scrape", metrics.text),
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
        ("what", "CPU ms", "times as fast as json.dumps"),
        rows(interval),
    )
