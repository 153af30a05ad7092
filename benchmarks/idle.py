"""How much CPU time does the program use while it waits for input?"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

from benchmarks import programs
from benchmarks.programs import OURS, PACKAGED, Use, used
from benchmarks.report import Options, Table

SETTLED_S = 2.0
"""Start-up is over by then."""


def rows(wait_s: float) -> Iterator[tuple[str, int, Use]]:
    """Name of a command, interval boundaries, and its CPU time and wake-ups meanwhile."""
    for program, name in ((OURS, "blkiomon"), (PACKAGED, "packaged")):
        if program == PACKAGED and not programs.is_packaged():
            continue
        for interval in (1, 3600):
            command = [program, "-I", str(interval), "-h", "/dev/null"]
            with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
                time.sleep(SETTLED_S + 0.25)  # not at a boundary
                before = used(child.pid)
                time.sleep(wait_s)
                after = used(child.pid)
                assert child.stdin is not None
                child.stdin.close()
            use = Use(after.cpu_ns - before.cpu_ns, after.switches - before.switches)
            yield f"{name} -I {interval}", int(wait_s / interval), use


def report(options: Options) -> Iterator[Table | str]:
    wait_s = 2.0 if options.quick else 8.0
    yield Table(
        f"Without input: used in {wait_s:g} s, after {SETTLED_S:g} s",
        "command | boundaries | CPU µs | CPU µs a boundary | times woken",
        (
            (
                command,
                str(boundaries),
                f"{use.cpu_ns / 1000:.0f}",
                f"{use.cpu_ns / 1000 / boundaries:.0f}" if boundaries else "-",
                str(use.switches),
            )
            for command, boundaries, use in rows(wait_s)
        ),
    )
