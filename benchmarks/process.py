"""How does the whole program compare with the packaged blkiomon, on the same file in one run?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import streams

PACKAGED = "/usr/bin/blkiomon"
OURS = (sys.executable, "-m", "blkiomon")


class Cost(NamedTuple):
    cpu_s: float
    wall_s: float


def measure(command: Sequence[str], path: Path) -> Cost:
    """Run a command with a file as its input; what the kernel says it took.

    Raises:
        RuntimeError: the command failed.
    """
    start = time.perf_counter()
    with path.open("rb") as source:
        child = subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, wall_s)


def rows() -> Iterator[tuple[str, int, Cost, Cost | None]]:
    """What is measured, how many records, ours (best of three), the packaged program's (once)."""
    packaged = os.access(PACKAGED, os.X_OK)
    for depth, devices, requests in (
        (32, 1, 10_000_000),
        (1024, 8, 4_000_000),
        (8192, 64, 750_000),
    ):
        with tempfile.NamedTemporaryFile(suffix=".trace") as file:
            path = Path(file.name)
            streams.make(requests, depth, devices).tofile(path)
            arguments = ["-I", "3600", "-h", "/dev/null"]
            ours = min(measure([*OURS, *arguments], path) for _ in range(3))
            theirs = measure([PACKAGED, *arguments], path) if packaged else None
            yield f"{depth:,} outstanding, {devices} devices", 2 * requests, ours, theirs
