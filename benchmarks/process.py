"""How does the whole program compare with the packaged one, on the same file in one run?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import programs, streams
from benchmarks.programs import OURS, PACKAGED, QUIET, Cost
from benchmarks.report import Options, Table

REQUESTS = 30_000_000
"""Of each file: sixty million records, so that the start is a small part."""
PART = 1_500_000
"""Records that the packaged program is run on where the whole would take it minutes."""
OFFLINE = 2_000_000
"""Records that blkparse is run on."""

RUNS = 7
"""Of each program, in turn: the machine's quick and slow moments are shared."""


class Row(NamedTuple):
    stream: str
    program: str
    records: int
    cost: Cost
    whole: int
    """The records that the comparison is made for; more than `records`: extrapolated."""
    ours: Cost
    """Of our program on one thread, on the whole."""
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
    """Each program on each stream: the best of some runs, taken in turn; long ones once."""
    requests = REQUESTS // (20 if options.quick else 1)
    for depth, devices, target in ((32, 1, 2.0), (8192, 1, 100.0), (8192, 64, 100.0)):
        stream = f"{depth:,} outstanding, {devices} device{'s' * (devices > 1)}"
        path = streams.file(requests, depth, devices)
        whole = 2 * requests
        runs = {"blkiomon": partial(programs.on_file, [OURS, *QUIET], path)}
        if programs.takes_threads():
            two = [OURS, *QUIET, "--threads", "2"]
            runs["blkiomon --threads 2"] = partial(programs.on_file, two, path)
        is_slow = depth > 1000
        if programs.is_packaged() and not is_slow:
            runs["packaged"] = partial(programs.on_file, [PACKAGED, *QUIET], path)
        costs = list(map(programs.best, programs.alternately(list(runs.values()), RUNS)))
        ours = costs[0]
        for program, cost in zip(runs, costs):
            what = f"{target:g}" if program == "packaged" else ""
            if program.endswith("2"):
                what = "wall 0.62"
            yield Row(stream, program, whole, cost, whole, ours, what)
        if programs.is_packaged() and is_slow:
            records = whole if options.full else min(whole, PART)
            part = path if records == whole else streams.head(path, records)
            cost = programs.on_file([PACKAGED, *QUIET], part)
            yield Row(stream, "packaged", records, cost, whole, ours, f"{target:g}")

        if blkparse := programs.blkparse():
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


def are_alike(path: Path) -> bool:
    """Whether one thread and two print the same text, but for the time of day."""
    said = []
    for threads in ("1", "2"):
        command = [OURS, "-I", "3600", "-h", "-", "--threads", threads]
        with tempfile.TemporaryFile() as out:
            programs.on_file(command, path, out.fileno())
            out.seek(0)
            said.append([line for line in out if not line.startswith(b"time:")])
    return bool(said[0]) and said[0] == said[1]


def report(options: Options) -> Iterator[Table | str]:
    yield Table(
        f"Whole process on a file in the page cache, start-up included (best of {RUNS}, in turn)",
        (
            "stream",
            "program",
            "records",
            "CPU s",
            "wall s",
            "CPU ns a record",
            "CPU, times ours",
            "wall, times ours",
            "target",
        ),
        map(cells, rows(options)),
    )
    if not options.full:
        yield "≈: extrapolated from the first records of the same file, by the record."
    if programs.takes_threads():
        path = streams.file(REQUESTS // (20 if options.quick else 1), 8192, 64)
        alike = "the same text" if are_alike(path) else "DIFFERENT TEXTS"
        yield f"One thread and two print {alike}; 0.62 of the wall time is 1.6 times as fast."
    else:
        yield "This build has no `--threads`."
    if not programs.is_packaged():
        yield f"{PACKAGED} is not installed."
