"""How long does the whole program take on a file, compared with the packaged program?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from benchmarks import programs, streams
from benchmarks.programs import OURS, PACKAGED, QUIET, Cost
from benchmarks.report import Options, Table
from blkiomon.engine.layout import TRACE_V7

REQUESTS = 30_000_000
"""In each file: sixty million records, so that start-up takes a small part of the time."""
STREAMS = (
    (32, 1, False, "2"),
    (32, 1, True, ""),
    (8192, 1, False, "100"),
    (8192, 64, False, "100"),
)
"""Requests outstanding, devices, whether with all events of blktrace, target."""
PART = 1_500_000
"""Records for the packaged program if the whole file would take minutes."""
OFFLINE = 2_000_000
"""Records for the comparison with blkparse."""

RUNS = 7
"""Runs of each program, in turn: a slow moment of the machine hits all programs alike."""


class Row(NamedTuple):
    stream: str
    program: str
    records: int
    cost: Cost
    whole: int
    """Records of the comparison. If `records` is less, times are extrapolated."""
    ours: Cost
    """Our program on the whole file."""
    target: str = ""

    @property
    def share(self) -> float:
        return self.whole / self.records


def cells(row: Row) -> tuple[str, ...]:
    cost, share = row.cost, row.share
    cpu, wall = f"{cost.cpu_s:.2f}", f"{cost.wall_s:.2f}"
    if share > 1:
        cpu += f", whole ≈ {cost.cpu_s * share:.1f}"
        wall += f", whole ≈ {cost.wall_s * share:.1f}"
    return (
        row.stream,
        row.program,
        f"{row.records:,}",
        cpu,
        wall,
        f"{cost.cpu_s / row.records * 1e9:.1f}",
        f"{cost.cpu_s * share / row.ours.cpu_s:.2f}",
        f"{cost.wall_s * share / row.ours.wall_s:.2f}",
        row.target,
    )


def rows(options: Options) -> Iterator[Row]:
    """Each program on each stream: the best of some runs in turn, or one long run."""
    requests = REQUESTS // (20 if options.quick else 1)
    for depth, devices, all_events, target in STREAMS:
        stream = streams.name(depth, devices) + ", all events of blktrace" * all_events
        count = requests // 15 if all_events else requests  # they are made in memory
        path = streams.file(count, depth, devices, all_events=all_events)
        whole = path.stat().st_size // TRACE_V7.itemsize
        runs = {"blkiomon": partial(programs.on_file, [OURS, *QUIET], path)}
        is_slow = depth > 1000
        if programs.is_packaged() and not is_slow:
            runs["packaged"] = partial(programs.on_file, [PACKAGED, *QUIET], path)
        costs = list(map(programs.best, programs.alternately(list(runs.values()), RUNS)))
        ours = costs[0]
        for program, cost in zip(runs, costs):
            what = target if program == "packaged" else ""
            yield Row(stream, program, whole, cost, whole, ours, what)
        if programs.is_packaged() and is_slow:
            records = whole if options.full else min(whole, PART)
            part = path if records == whole else streams.head(path, records)
            cost = programs.on_file([PACKAGED, *QUIET], part)
            yield Row(stream, "packaged", records, cost, whole, ours, target)

        if blkparse := shutil.which("blkparse"):
            records = min(whole, OFFLINE)
            part = streams.head(path, records)
            read = [blkparse, "-i", "-", "-q"]
            offline = {
                "blkiomon": [OURS, *QUIET],
                "blkparse -q": read,
                "blkparse -q -O (no text)": [*read, "-O"],
            }
            in_turn = [partial(programs.on_file, command, part) for command in offline.values()]
            costs = list(map(programs.best, programs.alternately(in_turn, 3)))
            for program, cost in zip(offline, costs):
                yield Row(f"beginning of {stream}", program, records, cost, records, costs[0])


def report(options: Options) -> Iterator[Table | str]:
    yield Table(
        f"Whole process on a file in the page cache, start-up included (best of {RUNS}, in turn)",
        "stream | program | records | CPU s | wall s | CPU ns a record | CPU, times ours"
        " | wall, times ours | target",
        map(cells, rows(options)),
    )
    if not options.full:
        yield "≈: extrapolated from the first records of the same file."
    if not programs.is_packaged():
        yield f"{PACKAGED} is not installed."
