"""How much memory does the program take?"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import programs, streams
from benchmarks.engine import as_bytes
from benchmarks.programs import OURS, QUIET
from benchmarks.report import Options, Table
from blkiomon.engine.layout import TRACE_V7

MB = 1e6

# A child's peak includes the memory of its parent at the fork. Therefore a small process starts the
# program. It prints the program's pid and, at the end, its peak.
START = """
import os, sys
program = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
os.close(0)
print(program, flush=True)
_, status, usage = os.wait4(program, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Peak(NamedTuple):
    """Peak of resident bytes."""

    input: int
    """Until all input was read."""
    end: int
    """Until the end of the program, which includes the output of the last interval."""


def peak(records: np.ndarray, *arguments: str) -> Peak:
    """Run our program on records from a pipe.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-S", "-E", "-c", START, OURS, *QUIET, *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        program = int(child.stdout.readline())
        time.sleep(0.5)  # also an idle program has started by then
        child.stdin.write(as_bytes(records))
        child.stdin.flush()
        programs.wait_until_taken(child.stdin, child)
        _wait_until_asleep(program)
        status = Path(f"/proc/{program}/status").read_text()
        child.stdin.close()
        end_kib = int(child.stdout.read())
    if child.wait():
        raise RuntimeError(f"{OURS} ended with {child.returncode}")
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found
    return Peak(int(found[1]) * 1024, end_kib * 1024)


def _wait_until_asleep(program: int) -> None:
    """Wait until a process has slept for 0.1 s."""
    idle = 0
    while idle < 20:
        state = Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[0]
        idle = idle + 1 if state == "S" else 0
        time.sleep(0.005)


class Row(NamedTuple):
    what: str
    outstanding: int
    devices: int
    peak: Peak

    @property
    def bound(self) -> float:
        return 60 * MB + 64 * self.outstanding + (32 << 10) * self.devices


def rows(share: int) -> Iterator[Row]:
    """Each stream, with the requests divided by share."""
    raised = ("--max-pending", "4000000")
    idle = peak(np.zeros(0, TRACE_V7))
    yield Row("idle", 0, 0, idle)
    for requests in (100_000 // share, 1_000_000 // share):
        records = streams.issues_alone(requests)
        yield Row("issues without completions", requests, 1, peak(records, *raised))
    depth = 1_000_000 // share
    records = streams.make(2 * depth, depth)
    yield Row("issues and completions", depth, 1, peak(records, *raised))
    for devices in (10, 100, 1000):
        records = streams.make(max(2000 * devices // share, 40_000), 1024, devices)
        yield Row("reads and writes", 1024, devices, peak(records))


def cells(rows: Iterator[Row]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        if not row.outstanding:
            idle = row.peak
        above = row.peak.end - idle.end
        each = ""
        if row.devices > 1:
            each = f"{above / row.devices / 1024:.1f} KiB a device"
        elif row.outstanding:
            each = f"{above / row.outstanding:.1f} bytes a request"
        yield (
            row.what,
            f"{row.outstanding:,}",
            f"{row.devices:,}",
            f"{row.peak.input / MB:.1f}",
            f"{row.peak.end / MB:.1f}",
            f"{above / MB:.1f}",
            each,
            f"{row.bound / MB:.1f}",
        )


def report(options: Options) -> Iterator[Table | str]:
    yield Table(
        "Most memory resident, whole process (MB of 10^6 bytes; the bound is 60 MB, 64 bytes for "
        "each outstanding request, 32 KiB for each active device)",
        "stream | outstanding | devices | until the input ended | until the end of the run"
        " | above idle | which is | bound",
        cells(rows(20 if options.quick else 1)),
    )
