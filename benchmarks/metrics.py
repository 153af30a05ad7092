"""How many series, bytes and milliseconds does a scrape of the metrics take, by devices?"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator

from benchmarks import streams
from benchmarks.report import Options, Table
from blkiomon.formats import protobuf
from blkiomon.formats.openmetrics import MAX_DEVICES, Metrics
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.monitor import Monitor


def rows(requests: int, scrapes: int) -> Iterator[tuple[str, ...]]:
    """Series and costs of hosts with more and more devices, all of which read and write."""
    protobuf.family_class()  # imports the library
    for devices in (1, 10, MAX_DEVICES, 4 * MAX_DEVICES):
        monitor = Monitor(clock="wall")
        monitor.feed(streams.make(requests, 64, devices).tobytes())
        interval = monitor.cut(0, 3600 * NS_PER_S)
        metrics = Metrics(lambda number: None)
        start_ns = time.process_time_ns()
        metrics.add(interval)
        add_ns = time.process_time_ns() - start_ns
        text, text_ms = scraped(in_text, metrics, scrapes)
        binary, binary_ms = scraped(in_protobuf, metrics, scrapes)
        lines = [line for line in text.splitlines() if not line.startswith(b"#")]
        sizes = (len(text), packed(text), len(binary), packed(binary))
        yield (
            f"{devices:,}",
            f"{len(lines):,}",
            *(f"{size / 1e3:,.0f}" for size in sizes),
            f"{text_ms:.1f}",
            f"{binary_ms:.1f}",
            f"{add_ns / 1e6:.1f}",
        )


def in_text(metrics: Metrics) -> bytes:
    return metrics.text()[0]


def in_protobuf(metrics: Metrics) -> bytes:
    return protobuf.encode(metrics.families())


def scraped(
    scrape: Callable[[Metrics], bytes], metrics: Metrics, times: int
) -> tuple[bytes, float]:
    """What a scrape returns, and the CPU milliseconds that it takes."""
    start_ns = time.process_time_ns()
    for _ in range(times):
        data = scrape(metrics)
    return data, (time.process_time_ns() - start_ns) / times / 1e6


def packed(data: bytes) -> int:
    """The size of an answer that is compressed as the server does."""
    return len(gzip.compress(data, compresslevel=1))


def report(options: Options) -> Iterator[Table | str]:
    requests, scrapes = (100_000, 2) if options.quick else (1_000_000, 20)
    yield Table(
        f"Metrics of a host whose devices read and write; {MAX_DEVICES} have series of their own",
        "devices | series | kB of text | gzipped | kB of protobuf | gzipped"
        " | CPU ms, text | CPU ms, protobuf | CPU ms, an interval",
        rows(requests, scrapes),
    )
