"""How many series, bytes and milliseconds does a scrape of the metrics take, by devices?"""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks import streams
from benchmarks.report import Options, Table
from blkiomon.formats.openmetrics import MAX_DEVICES, Metrics
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.monitor import Monitor


def rows(requests: int, scrapes: int) -> Iterator[tuple[str, ...]]:
    """Series and costs of hosts with more and more devices, all of which read and write."""
    for devices in (1, 10, MAX_DEVICES, 4 * MAX_DEVICES):
        monitor = Monitor(clock="wall")
        monitor.feed(streams.make(requests, 64, devices).tobytes())
        interval = monitor.cut(0, 3600 * NS_PER_S)
        metrics = Metrics(lambda number: None)
        start_ns = time.process_time_ns()
        metrics.add(interval)
        add_ns = time.process_time_ns() - start_ns
        start_ns = time.process_time_ns()
        for _ in range(scrapes):
            text, _ = metrics.text()
        scrape_ns = (time.process_time_ns() - start_ns) / scrapes
        lines = [line for line in text.splitlines() if not line.startswith(b"#")]
        yield (
            f"{devices:,}",
            f"{len(lines):,}",
            f"{len(text) / 1e3:,.0f}",
            f"{scrape_ns / 1e6:.1f}",
            f"{add_ns / 1e6:.1f}",
        )


def report(options: Options) -> Iterator[Table | str]:
    requests, scrapes = (100_000, 2) if options.quick else (1_000_000, 20)
    yield Table(
        f"Metrics of a host whose devices read and write; {MAX_DEVICES} have series of their own",
        "devices | series | kB a scrape | CPU ms a scrape | CPU ms an interval",
        rows(requests, scrapes),
    )
