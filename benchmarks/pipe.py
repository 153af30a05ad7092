"""What does reading through a pipe cost, compared with the packaged program and with cat?

The wall time depends above all on the CPUs: on one CPU, no process has to be woken on another. So
everything is measured twice: on CPUs that the kernel chooses, and with all processes on one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from benchmarks import programs, streams
from benchmarks.programs import OURS, PACKAGED, QUIET, Cost
from benchmarks.report import Options, Table

CAT = "cat >/dev/null"


class Row(NamedTuple):
    stream: str
    program: str
    together: bool
    """Whether both processes ran on one CPU."""
    costs: list[Cost]
    packaged: list[Cost] | None
    cat: list[Cost]


def rows(requests: int, times: int) -> Iterator[Row]:
    """`cat FILE | PROGRAM`, run in turn."""
    for depth, devices in ((32, 1), (8192, 64)):
        path = streams.file(requests, depth, devices)
        stream = f"{2 * requests:,} records, {depth:,} outstanding"
        commands = {"blkiomon": [OURS, *QUIET], CAT: ["cat"]}
        if programs.is_packaged() and depth < 1000:
            commands["packaged"] = [PACKAGED, *QUIET]
        keys = [(program, together) for together in (False, True) for program in commands]
        runs = [
            partial(programs.on_pipe, commands[program], path, together=together)
            for program, together in keys
        ]
        costs = dict(zip(keys, programs.alternately(runs, times)))
        for program, together in keys:
            yield Row(
                stream,
                program,
                together,
                costs[program, together],
                costs.get(("packaged", together)),
                costs[CAT, together],
            )


def cells(row: Row) -> tuple[str, ...]:
    cost = programs.best(row.costs)
    is_ours = row.program == "blkiomon"
    share = "-"
    if row.packaged:
        share = f"{cost.cpu_s / programs.best(row.packaged).cpu_s:.2f}"
        share += " (target 0.60)" * is_ours
    typical_s, cat_s = (
        statistics.median(c.wall_s for c in costs) for costs in (row.costs, row.cat)
    )
    return (
        row.stream,
        row.program,
        "one" if row.together else "any",
        f"{cost.user_s:.2f}",
        f"{cost.system_s:.2f}",
        f"{cost.cpu_s:.2f}",
        share,
        f"{cost.wall_s:.2f}",
        f"{typical_s:.2f}",
        f"{typical_s / cat_s:.2f}" + " (target 1.10)" * is_ours,
    )


def report(options: Options) -> Iterator[Table | str]:
    requests, times = (streams.MANY // 20, 2) if options.quick else (streams.MANY, 7)
    yield Table(
        f"Through a pipe, `cat FILE \\| PROGRAM` ({times} runs in turn; "
        "the best CPU time of PROGRAM alone, wall time of both)",
        "stream | PROGRAM | CPUs | user s | system s | CPU s | CPU, times packaged | least wall s"
        " | median wall s | median, times cat",
        map(cells, rows(requests, times)),
    )
