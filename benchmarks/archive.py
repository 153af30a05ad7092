"""A thousand traces on Dask: what does a trace cost more than in one process?"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed

from benchmarks import streams
from benchmarks.engine import as_bytes
from benchmarks.report import Options, Table
from blkiomon.archive import options, summarize
from blkiomon.archive.summary import Gathered, Summary
from blkiomon.archive.traces import find
from blkiomon.archive.work import archive

TRACES = 1000
REQUESTS = 10_000
"""Of each trace: two disks, 32 requests outstanding, 20 ms in ten intervals."""

INTERVAL_S = 0.002


def generate(root: Path, traces: int) -> int:
    """One trace of each of so many hosts; how many bytes."""
    n_bytes = 0
    for number in range(traces):
        folder = root / f"host{number:04}"
        folder.mkdir(parents=True)
        data = as_bytes(streams.make(REQUESTS, 32, 2, seed=number + 1))
        (folder / "sda.bin").write_bytes(data)
        n_bytes += len(data)
    return n_bytes


def alone(pattern: str, dataset: Path | None) -> Summary:
    """All traces one behind the other, in this process and without Dask."""
    traces, missing = find([pattern])
    gathered = Gathered(missing)
    for trace in traces:
        gathered.add(
            archive(trace, options.Options(interval_s=INTERVAL_S), dataset and str(dataset))
        )
    return gathered.summary()


def spread(pattern: str, dataset: Path | None, workers: int) -> tuple[Summary, float, float]:
    """The same by workers on this machine: summary, seconds, and their greatest memory in MB."""
    with (
        dask.config.set({"logging.distributed": "critical"}),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        client.run(lambda: __import__("blkiomon.archive.work"))  # a start is not what is asked
        begin_s = time.perf_counter()
        summary = summarize(
            pattern,
            interval=INTERVAL_S,
            scheduler=client,
            dataset=None if dataset is None else str(dataset),
        )
        spent_s = time.perf_counter() - begin_s
        peaks = client.run(lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return summary, spent_s, max(peaks.values()) / 1024


def rows(traces: int) -> Iterator[tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        n_bytes = generate(root / "traces", traces)
        pattern = f"{root}/traces/*/*.bin"
        for dataset in (None, root / "ds"):
            begin_s = time.perf_counter()
            expected = alone(pattern, dataset)
            single_s = time.perf_counter() - begin_s
            into = "a dataset" if dataset else "a summary"
            yield _row(into, "one process", expected, n_bytes, single_s, "", "")
            for workers in sorted({1, len(os.sched_getaffinity(0))}):
                if dataset is not None:
                    shutil.rmtree(dataset)
                summary, spent_s, memory = spread(pattern, dataset, workers)
                assert summary.to_dict() == expected.to_dict()
                more = (spent_s * workers - single_s) / summary.traces * 1e3
                who = f"Dask, {workers} worker{'s' * (workers > 1)}"
                yield _row(into, who, summary, n_bytes, spent_s, f"{more:.1f}", f"{memory:.0f}")
        begin_s = time.perf_counter()
        again = alone(pattern, root / "ds")
        assert again.resumed == traces
        spent_s = time.perf_counter() - begin_s
        yield _row("a dataset that is there", "one process", again, n_bytes, spent_s, "", "")


def _row(
    into: str, who: str, summary: Summary, n_bytes: int, spent_s: float, more: str, memory: str
) -> tuple[str, ...]:
    return (
        into,
        who,
        f"{spent_s:.1f}",
        f"{summary.traces / spent_s:.0f}",
        f"{n_bytes / 1e6 / spent_s:.0f}",
        f"{summary.records / 1e6 / spent_s:.2f}",
        more,
        memory,
    )


def report(choice: Options) -> Iterator[Table | str]:
    traces = TRACES // 20 if choice.quick else TRACES
    yield Table(
        f"{traces:,} traces of as many hosts, {2 * REQUESTS:,} records and 10 intervals each",
        (
            *("into", "by", "s", "traces a second", "MB/s", "M records a second"),
            *("more than one process, ms of a worker a trace", "a worker's memory, MB"),
        ),
        rows(traces),
    )
