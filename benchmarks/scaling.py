"""How many workers help? A simulation from measured costs, compared with runs of 1, 2 and 4."""

from __future__ import annotations

import heapq
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.archive import generate, timed
from benchmarks.report import Options, Table
from blkiomon.commands.archive.run import MOST_TRACES, TASKS_A_WORKER

FLEET = 10_000  # traces of the simulated archive


def simulated(n: int, workers: int, cores: int, costs_s: tuple[float, float, float]) -> float:
    """Wall time of n traces: each worker has a task at a time, and one process merges results.

    The costs are the start of a worker, and the CPU time of worker and merging process for a trace.
    """
    start_s, cpu_s, own_s = costs_s
    slowdown = max(1.0, workers / cores)
    size = min(max(n // (workers * TASKS_A_WORKER), 1), MOST_TRACES)
    free_s = [start_s * slowdown] * workers  # when each worker is free
    merged_s = 0.0
    for first in range(0, n, size):
        some = min(size, n - first)
        done_s = heapq.heappop(free_s) + some * cpu_s * slowdown
        heapq.heappush(free_s, done_s)
        merged_s = max(merged_s, done_s) + some * own_s
    return merged_s


def rows(root: Path, traces: int) -> Iterator[tuple[str, ...]]:
    generate(root / "traces", traces)
    pattern, cores = f"{root}/traces/*/*.bin", len(os.sched_getaffinity(0))
    here = timed(pattern, root / "here", 0)
    begin_s = time.process_time()
    runs = {workers: timed(pattern, root / str(workers), workers) for workers in (1, 2, 4)}
    own_s = (time.process_time() - begin_s) / len(runs) / traces
    cpu_s = here.cpu_s / traces - own_s
    costs_s = max(runs[1].spent_s - traces * (cpu_s + own_s), 0.0), cpu_s, own_s
    for workers in (1, 2, 4, 8, 16, 32, 64):
        measured = f"{runs[workers].spent_s:.1f}" if workers in runs else ""
        of_runs = simulated(traces, workers, cores, costs_s)
        fleet_s = simulated(FLEET, workers, workers, costs_s)
        yield f"{workers}", measured, f"{of_runs:.1f}", f"{fleet_s:.0f}", f"{FLEET / fleet_s:,.0f}"


def report(options: Options) -> Iterator[Table | str]:
    traces = 40 if options.quick else 400
    with tempfile.TemporaryDirectory() as name:
        yield Table(
            f"{traces} traces, measured here; {FLEET:,}, simulated with a core for each worker",
            "workers | here, s | simulated, s | fleet, simulated, s | traces a second",
            rows(Path(name), traces),
        )
