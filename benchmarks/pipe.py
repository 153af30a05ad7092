"""What does reading through a pipe cost, beside the packaged program and beside cat alone?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from benchmarks import programs, streams
from benchmarks.programs import OURS, PACKAGED, QUIET, Cost
from benchmarks.report import Options, Table


class Row(NamedTuple):
    stream: str
    program: str
    cost: Cost
    packaged: Cost | None
    cat: Cost


def rows(requests: int, times: int) -> Iterator[Row]:
    """`cat FILE | PROGRAM`: the best of some runs, taken in turn."""
    for depth, devices in ((32, 1), (8192, 64)):
        path = streams.file(requests, depth, devices)
        stream = f"{2 * requests:,} records, {depth:,} outstanding"
        commands = {"blkiomon": [OURS, *QUIET], "cat >/dev/null": ["cat"]}
        if programs.is_packaged() and depth < 1000:
            commands["packaged"] = [PACKAGED, *QUIET]
        runs = [partial(programs.on_pipe, command, path) for command in commands.values()]
        costs = dict(zip(commands, programs.alternately(runs, times)))
        for program, cost in costs.items():
            yield Row(stream, program, cost, costs.get("packaged"), costs["cat >/dev/null"])


def cells(row: Row) -> tuple[str, ...]:
    cost = row.cost
    is_ours = row.program == "blkiomon"
    share = f"{cost.cpu_s / row.packaged.cpu_s:.2f}" if row.packaged else "-"
    return (
        row.stream,
        row.program,
        f"{cost.user_s:.2f}",
        f"{cost.system_s:.2f}",
        f"{cost.cpu_s:.2f}",
        share + " (target 0.60)" * (is_ours and row.packaged is not None),
        f"{cost.wall_s:.2f}",
        f"{cost.wall_s / row.cat.wall_s:.2f}" + " (target 1.10)" * is_ours,
    )


def report(options: Options) -> Iterator[Table | str]:
    requests, times = (streams.MANY // 20, 2) if options.quick else (streams.MANY, 7)
    yield Table(
        f"Through a pipe, `cat FILE \\| PROGRAM` (best of {times}, in turn; "
        "CPU time of PROGRAM alone, wall time of both)",
        (
            "stream",
            "PROGRAM",
            "user s",
            "system s",
            "CPU s",
            "CPU, times packaged",
            "wall s",
            "wall, times cat",
        ),
        map(cells, rows(requests, times)),
    )
