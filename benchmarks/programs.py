"""Runs programs, and measures their CPU and wall time."""

from __future__ import annotations

import array
import fcntl
import os
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
    """Whether the packaged program is installed."""
    return os.access(PACKAGED, os.X_OK)


def on_file(command: Sequence[str], path: Path) -> Cost:
    """Run a command with a file as its input.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    with path.open("rb") as source:
        child = subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL)
    return _ended(child, command, start)


def on_pipe(command: Sequence[str], path: Path, *, together: bool = False) -> Cost:
    """Run `cat PATH | command`; the CPU time is that of the command alone.

    Args:
        command: the program and its arguments.
        path: what cat reads.
        together: run both on one CPU.

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
    assert cat.stdout is not None
    cat.stdout.close()
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
    """The least CPU time and the least wall time, which may be of different runs."""
    user_s, system_s, _ = min(costs, key=lambda cost: cost.cpu_s)
    return Cost(user_s, system_s, min(cost.wall_s for cost in costs))


def alternately(runs: Sequence[Callable[[], Cost]], times: int) -> list[list[Cost]]:
    """The costs of each, run in turn: a slow moment of the machine hits all alike."""
    rounds = [[run() for run in runs] for _ in range(times)]
    return [list(costs) for costs in zip(*rounds)]


class Use(NamedTuple):
    """CPU time and wake-ups of all threads of a process."""

    cpu_ns: int
    switches: int
    """Voluntary context switches: how often a thread went to sleep."""


def used(pid: int) -> Use:
    """What a running process has used since its start."""
    cpu_ns = switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        cpu_ns += int((task / "schedstat").read_text().split()[0])
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                switches += int(line.partition(":")[2])
    return Use(cpu_ns, switches)


def unread(stream: IO[bytes]) -> int:
    """Number of bytes in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(stream, termios.FIONREAD, count)
    return count[0]


def wait_until_taken(stream: IO[bytes], child: subprocess.Popen[bytes]) -> None:
    """Wait until a pipe is empty.

    Raises:
        RuntimeError: the process that should read it has ended.
    """
    while unread(stream):
        if child.poll() is not None:
            raise RuntimeError(f"the program ended with {child.returncode}")
        time.sleep(0.001)
