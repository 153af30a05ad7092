"""How long does the program take from its start to the first read, and what takes this time?"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import programs, streams
from benchmarks.programs import OURS, PACKAGED, QUIET
from benchmarks.report import Options, Table

POLL_S = 0.0001


class Start(NamedTuple):
    wall_s: float
    cpu_s: float


def until_read(command: Sequence[str]) -> Start:
    """Time from the start of a command until it reads from its input, a pipe.

    Raises:
        RuntimeError: it ended without reading.
    """
    data = streams.make(10, 32).tobytes()
    start = time.perf_counter()
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stdin is not None
    with child.stdin:
        child.stdin.write(data)
        child.stdin.flush()
        while programs.unread(child.stdin) == len(data):
            if child.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {child.returncode}")
            time.sleep(POLL_S)
        wall_s = time.perf_counter() - start
        used = programs.used(child.pid)
    if child.wait():
        raise RuntimeError(f"{command[0]} ended with {child.returncode}")
    return Start(wall_s, used.cpu_ns / 1e9)


def until_end(command: Sequence[str]) -> Start:
    """Time from the start of a command without input until its end.

    Raises:
        RuntimeError: it failed.
    """
    cost = programs.on_file(command, Path(os.devnull))
    return Start(cost.wall_s, cost.cpu_s)


def measurements() -> Iterator[tuple[str, Callable[[], Start], str]]:
    """Name, measurement and target in ms."""
    yield "start until the first read", partial(until_read, [OURS, *QUIET]), "150"
    yield "`blkiomon -V`", partial(until_end, [OURS, "-V"]), "60"
    if programs.is_packaged():
        yield "packaged, until the first read", partial(until_read, [PACKAGED, *QUIET]), ""
        yield "packaged, `-V`", partial(until_end, [PACKAGED, "-V"]), ""
    for arguments, code in (
        (["-S", "-E"], "pass"),
        ([], "pass"),
        ([], "import blkiomon.commands.cli"),
        ([], "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'; import numpy"),
        ([], "import numpy"),
        ([], "import blkiomon.interval.monitor"),
    ):
        command = [sys.executable, *arguments, "-c", code]
        name = f'`python {" ".join([*arguments, "-c"])} "{code}"`'
        yield f"{name}, start to end", partial(until_end, command), ""


def rows(times: int) -> Iterator[tuple[str, float, float, float, str]]:
    """Name; median and least wall time and median CPU time in s, of some runs in turn; target."""
    names, runs, targets = zip(*measurements())
    for run in runs:
        run()  # so that all files are in the page cache
    rounds = [[run() for run in runs] for _ in range(times)]
    for name, starts, target in zip(names, zip(*rounds), targets):
        walls = [one.wall_s for one in starts]
        cpu_s = statistics.median(one.cpu_s for one in starts)
        yield name, statistics.median(walls), min(walls), cpu_s, target


def report(options: Options) -> Iterator[Table | str]:
    times = 3 if options.quick else 15
    yield Table(
        f"Start, and where its time goes ({times} runs, in turn)",
        "what | median ms | least ms | CPU ms, median | target ms",
        (
            (name, f"{median * 1e3:.1f}", f"{least * 1e3:.1f}", f"{cpu * 1e3:.1f}", target)
            for name, median, least, cpu, target in rows(times)
        ),
    )
