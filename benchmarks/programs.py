"""Runs programs and says what the kernel charged them for."""

from __future__ import annotations

import array
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

PACKAGED = "/usr/bin/blkiomon"
OURS = str(Path(sys.executable).with_name("blkiomon"))
QUIET = ("-I", "3600", "-h", "/dev/null")
"""Arguments for one long interval whose text nobody reads."""


class Cost(NamedTuple):
    user_s: float
    system_s: float
    wall_s: float

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


def is_packaged() -> bool:
    """Whether the packaged program is here."""
    return os.access(PACKAGED, os.X_OK)


def blkparse() -> str | None:
    """Where blkparse is, if it is here."""
    return shutil.which("blkparse")


@functools.cache
def takes_threads() -> bool:
    """Whether our program knows --threads."""
    said = subprocess.run([OURS, "--help"], capture_output=True, text=True, check=True).stdout
    return "--threads" in said


def on_file(command: Sequence[str], path: Path, stdout: int = subprocess.DEVNULL) -> Cost:
    """Run a command with a file as its input.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    with path.open("rb") as source:
        child = subprocess.Popen(command, stdin=source, stdout=stdout)
    return _ended(child, command, start)


def on_pipe(command: Sequence[str], path: Path, *, together: bool = False) -> Cost:
    """Run `cat PATH | command`; the CPU time is that of the command alone.

    Args:
        command: the program and its arguments.
        path: what cat reads.
        together: keep both on the same CPU.

    Raises:
        RuntimeError: either failed.
    """
    start = time.perf_counter()
    cat = subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE)
    child = subprocess.Popen(command, stdin=cat.stdout, stdout=subprocess.DEVNULL)
    if together:
        cpu = min(os.sched_getaffinity(0))
        for pid in (cat.pid, child.pid):
            os.sched_setaffinity(pid, {cpu})
    _stream(cat.stdout).close()
    cost = _ended(child, command, start)
    if cat.wait():
        raise RuntimeError(f"cat ended with {cat.returncode}")
    return cost


def _ended(child: subprocess.Popen[bytes], command: Sequence[str], start: float) -> Cost:
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    return Cost(usage.ru_utime, usage.ru_stime, wall_s)


def best(costs: Sequence[Cost]) -> Cost:
    """The least CPU time and the least wall time, whichever runs they are of."""
    user_s, system_s, _ = min(costs, key=lambda cost: cost.cpu_s)
    return Cost(user_s, system_s, min(cost.wall_s for cost in costs))


def alternately(runs: Sequence[Callable[[], Cost]], times: int) -> list[list[Cost]]:
    """The costs of each, run in turn: a noisy minute then hits all of them."""
    rounds = [[run() for run in runs] for _ in range(times)]
    return [list(costs) for costs in zip(*rounds)]


class Use(NamedTuple):
    """What all threads of a process have used since their start."""

    cpu_ns: int
    switches: int
    """How often they went to sleep."""


def used(pid: int) -> Use:
    """What a running process has used."""
    cpu_ns = switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        cpu_ns += int((task / "schedstat").read_text().split()[0])
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                switches += int(line.partition(":")[2])
    return Use(cpu_ns, switches)


def unread(stream: IO[bytes]) -> int:
    """How many bytes stand in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(stream, termios.FIONREAD, count)
    return count[0]


def wait_until_taken(stream: IO[bytes], child: subprocess.Popen[bytes]) -> None:
    """Wait until a pipe is empty.

    Raises:
        RuntimeError: who should read it has ended.
    """
    while unread(stream):
        if child.poll() is not None:
            raise RuntimeError(f"the program ended with {child.returncode}")
        time.sleep(0.001)


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
