"""What does a trace of an archive cost, in one process and in a pool of workers?"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from benchmarks import streams
from benchmarks.engine import as_bytes
from benchmarks.report import Options, Table
from blkiomon.commands.archive import summarize
from blkiomon.commands.archive.summary import Summary
from blkiomon.engine import layout

TRACES = 1000
REQUESTS = 10_000
"""In each trace, which has two disks, 32 requests outstanding and eleven intervals of 2 ms."""

INTERVAL_S = 0.002


def generate(root: Path, traces: int) -> None:
    """Write a trace for each of some hosts."""
    for number in range(traces):
        folder = root / f"host{number:04}"
        folder.mkdir(parents=True)
        data = as_bytes(streams.make(REQUESTS, 32, 2, seed=number + 1))
        (folder / "sda.bin").write_bytes(data)


class Run(NamedTuple):
    """A run's result, wall time and CPU time. Both times include the start of workers."""

    summary: Summary
    spent_s: float
    cpu_s: float


def timed(pattern: str, dataset: Path | None, workers: int) -> Run:
    """Summarize an archive in a pool of workers; 0 means in this process."""
    begin_s, begin_cpu_s = time.perf_counter(), _cpu_s()
    summary = summarize(
        pattern,
        interval=INTERVAL_S,
        workers=workers,
        dataset=None if dataset is None else str(dataset),
    )
    return Run(summary, time.perf_counter() - begin_s, _cpu_s() - begin_cpu_s)


def size_of(dataset: Path) -> int:
    """Bytes of all files of a dataset."""
    return sum(path.stat().st_size for path in dataset.rglob("*") if path.is_file())


def _cpu_s() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def rows(root: Path, traces: int) -> Iterator[tuple[str, ...]]:
    """Costs of an archive; leaves the dataset ``ds``."""
    generate(root / "traces", traces)
    pattern = f"{root}/traces/*/*.bin"
    for dataset in (None, root / "ds"):
        single = timed(pattern, dataset, 0)
        into = "a dataset" if dataset else "a summary"
        yield _row(into, "one process", single, dataset)
        for workers in sorted({1, len(os.sched_getaffinity(0))}):
            if dataset is not None:
                shutil.rmtree(dataset)
            run = timed(pattern, dataset, workers)
            assert run.summary.to_dict() == single.summary.to_dict()
            who = f"{workers} worker{'s' * (workers > 1)}"
            yield _row(into, who, run, dataset)
    again = timed(pattern, root / "ds", 0)
    assert again.summary.resumed == traces
    yield _row("an unchanged dataset, resumed", "one process", again, root / "ds")


def queries(dataset: Path) -> Iterator[tuple[str, ...]]:
    """How long DuckDB takes for percentiles, and merely to add up all bins; the best of three."""
    connection = duckdb.connect()
    connection.execute((dataset / "blkiomon.sql").read_text())
    connection.execute(
        f"CREATE VIEW requests AS FROM read_parquet('{dataset}/requests/*/*.parquet')"
    )
    bins = connection.execute("SELECT sum(len(d2c_bin)) FROM requests").fetchall()[0][0]
    unnested = "SELECT unnest(d2c_bin) AS bin, unnest(d2c_count) AS n FROM requests"
    asked = {"no percentile: the sum of all bins": f"SELECT sum(bin), sum(n) FROM ({unnested})"}
    for name, key in {
        "no group": "true",
        "op": "op",
        "host": "host",
        "host, op": "{host: host, op: op}",
    }.items():
        asked[name] = f"FROM d2c_percentile('requests', {key}, 99)"
    for key, query in asked.items():
        spent_s, cpu_s, groups = [], [], 0
        for _ in range(3):
            begin_s, begin_cpu_s = time.perf_counter(), _cpu_s()
            groups = len(connection.execute(query).fetchall())
            spent_s.append(time.perf_counter() - begin_s)
            cpu_s.append(_cpu_s() - begin_cpu_s)
        yield key, f"{groups:,}", f"{bins:,}", f"{min(spent_s):.2f}", f"{min(cpu_s):.2f}"


def _row(into: str, who: str, run: Run, dataset: Path | None) -> tuple[str, ...]:
    traces = run.summary.traces
    return (
        into,
        who,
        f"{run.spent_s:.1f}",
        f"{traces / run.spent_s:.0f}",
        f"{run.summary.records / 1e6 / run.spent_s:.2f}",
        f"{run.cpu_s / traces * 1e3:.1f}",
        "" if dataset is None else f"{size_of(dataset) / 1e6:.1f}",
    )


# --- a day of a host ------------------------------------------------------------------------------

DAY_REQUESTS = 4_320_000
"""Fifty a second on two disks; 70 % are reads."""


def write_day(path: Path, requests: int) -> None:
    """Write requests at random times of a day, with log-normal latencies around 150 us."""
    rng = np.random.default_rng(7)
    issues = np.zeros(requests, layout.TRACE_V7)
    issues["magic"] = layout.MAGIC | 7
    issues["time"] = np.sort(rng.integers(0, 86_400 * 10**9, requests)) + streams.START_NS
    issues["sector"] = rng.permutation(requests) * 8
    issues["bytes"] = rng.choice([4096, 8192, 16384, 65536], requests, p=[0.7, 0.1, 0.1, 0.1])
    issues["device"] = streams.FIRST_DEVICE + rng.integers(0, 2, requests)
    direction = np.where(rng.random(requests) < 0.7, streams.READ, streams.WRITE) | streams.FS
    issues["action"] = (direction | streams.ISSUE) << 16 | streams.ISSUED
    completions = issues.copy()
    completions["time"] += rng.lognormal(12, 1.2, requests).astype("u8")
    completions["action"] = (direction | streams.COMPLETE) << 16 | streams.COMPLETED
    records = np.concatenate([issues, completions])
    records[np.argsort(records["time"], kind="stable")].tofile(path)


def days(requests: int) -> Iterator[tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        trace = root / "host" / "sda.bin"
        trace.parent.mkdir()
        write_day(trace, requests)
        for interval_s in (600.0, 60.0, 10.0):
            dataset = root / f"ds{interval_s:g}"
            begin_s = time.process_time()
            summary = summarize(str(trace), interval=interval_s, workers=0, dataset=str(dataset))
            cpu_s = time.process_time() - begin_s
            size = size_of(dataset)
            yield (
                f"{interval_s:g} s",
                f"{summary.intervals:,}",
                f"{size / 1e6:.2f}",
                f"{size / summary.intervals:,.0f}",
                f"{cpu_s:.1f}",
                f"{cpu_s / requests * 1e6:.2f}",
            )


def report(options: Options) -> Iterator[Table | str]:
    traces = TRACES // 20 if options.quick else TRACES
    with tempfile.TemporaryDirectory() as name:
        yield Table(
            f"{traces:,} traces of as many hosts, {2 * REQUESTS:,} records and 11 intervals each",
            "into | by | s | traces a second | M records a second | CPU ms a trace | dataset MB",
            rows(Path(name), traces),
        )
        yield Table(
            "The p99 of d2c in this dataset, by DuckDB",
            "group by | groups | bins | s | CPU s",
            queries(Path(name) / "ds"),
        )
    requests = DAY_REQUESTS // (20 if options.quick else 1)
    yield Table(
        f"A day of a host in one process: two disks, {requests:,} requests, "
        f"{requests * 96 / 1e6:,.0f} MB of trace",
        "interval | intervals | dataset MB | bytes an interval | CPU s | CPU s a million requests",
        days(requests),
    )
