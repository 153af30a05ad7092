"""What does a capture cost, and how many IOPS remain? As root; loads a disk in memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.programs import OURS, PACKAGED, used
from benchmarks.report import Options, Table

MEMORY = Path("/dev/shm")
DISK_BYTES = 256 << 20
SETTLED_S = 3.0
"""Start-up is over by then, also in an emulated machine."""

BPFTRACE = """
tracepoint:block:block_rq_issue { @issued[args->dev, args->sector] = nsecs }
tracepoint:block:block_rq_complete /@issued[args->dev, args->sector]/ {
    $us = (nsecs - @issued[args->dev, args->sector]) / 1000;
    delete(@issued[args->dev, args->sector]);
    %s
}
"""
"""As biolatency.bt and biosnoop.bt, but by tracepoints: the kernel inlines what those two probe."""

Commands = Sequence[Sequence[str]]
"""Of a pipeline."""


class Run(NamedTuple):
    """What fio read, and the user and system time that the monitor used."""

    requests: int
    iops: float
    cpu_s: float


@contextlib.contextmanager
def memory_disk() -> Iterator[str]:
    """A loop device over a file in memory; yields its name."""
    with tempfile.NamedTemporaryFile(dir=MEMORY) as image:
        os.truncate(image.name, DISK_BYTES)
        path = subprocess.check_output(["losetup", "--find", "--show", image.name], text=True)
        disk = path.strip()
        try:
            (Path("/sys/block") / Path(disk).name / "queue/nomerges").write_text("2")
            yield Path(disk).name
        finally:
            subprocess.run(["losetup", "--detach", disk], check=True)


def monitors(disk: str) -> dict[str, Commands]:
    """Pipelines that watch a disk, by name: ours, and those of others that are installed."""
    ours = [OURS, "-I", "1", "--trace", disk]
    blktrace = ["blktrace", "-d", f"/dev/{disk}", "-a", "issue", "-a", "complete", "-o", "-"]
    found: dict[str, Commands] = {
        "none": [],
        "blkiomon --trace": [[*ours, "--json", "/dev/null"]],
        "blkiomon --trace --queue": [[*ours, "--queue", "--json", "/dev/null"]],
        "blktrace, packaged blkiomon": [blktrace, [PACKAGED, "-I", "1", "-h", "/dev/null"]],
        "blktrace, our blkiomon": [blktrace, [OURS, "-I", "1", "--json", "/dev/null"]],
        "bpftrace, a histogram": [["bpftrace", "-e", BPFTRACE % "@us = hist($us)"]],
        "bpftrace, a line each": [["bpftrace", "-e", BPFTRACE % 'printf("%d\\n", $us)']],
        "perf record": [
            ["perf", "record", "-a", "-e", "block:block_rq_issue,block:block_rq_complete",
             "-o", "/dev/null"]
        ],
    }  # fmt: skip
    return {
        name: commands
        for name, commands in found.items()
        if all(shutil.which(command[0]) for command in commands)
    }


@contextlib.contextmanager
def running(commands: Commands) -> Iterator[list[int]]:
    """Run a pipeline until the end of the block; yields the process ids.

    Raises:
        RuntimeError: a program ended before.
    """
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile(dir=MEMORY) as messages:
        for i, command in enumerate(commands):
            is_last = i == len(commands) - 1
            children.append(
                subprocess.Popen(
                    command,
                    stdin=children[-1].stdout if children else subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL if is_last else subprocess.PIPE,
                    stderr=messages,
                )
            )
        try:
            time.sleep(SETTLED_S)
            yield [child.pid for child in children]
            if any(child.poll() is not None for child in children):
                messages.seek(0)
                text = messages.read().decode(errors="replace").strip()
                raise RuntimeError(text.partition("\n")[0] or "it ended at once")
        finally:
            for child in children[:1]:
                if child.poll() is None:
                    child.send_signal(signal.SIGINT)
            for child in children:
                try:
                    child.wait(20)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def load(disk: str, seconds: float) -> tuple[int, float]:
    """Read 4 KiB at random places, 32 at a time; returns the number of reads, and IOPS.

    fio never has two reads of one sector in flight, as their records would look the same.
    """
    command = ["fio", "--name=load", f"--filename=/dev/{disk}", "--rw=randread", "--bs=4k",
               "--direct=1", "--ioengine=libaio", "--iodepth=32", "--serialize_overlap=1",
               "--time_based",
               f"--runtime={seconds:g}", "--output-format=json"]  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        (job,) = json.loads(subprocess.check_output(command, cwd=directory))["jobs"]
    return job["read"]["total_ios"], job["read"]["iops"]


def measure(disk: str, commands: Commands, seconds: float) -> Run:
    """Load a disk while a pipeline watches it. Raises RuntimeError."""
    with running(commands) as pids:
        before = [used(pid).cpu_ns for pid in pids]
        requests, iops = load(disk, seconds)
        time.sleep(0.2)  # a monitor reads its buffers a few times a second
        cpu_ns = sum(used(pid).cpu_ns for pid in pids) - sum(before)
    return Run(requests, iops, cpu_ns / 1e9)


def rows(seconds: float, rounds: int) -> Iterator[Sequence[str]]:
    """A row for each monitor; all run in turn in each round."""
    with memory_disk() as disk:
        runs: dict[str, list[Run]] = {}
        failures: dict[str, str] = {}
        for _ in range(rounds):
            for name, commands in monitors(disk).items():
                if name in failures:
                    continue
                try:
                    runs.setdefault(name, []).append(measure(disk, commands, seconds))
                except (OSError, RuntimeError) as error:
                    failures[name] = str(error)
    alone = statistics.median(run.iops for run in runs["none"])
    for name, done in runs.items():
        if name in failures:
            yield name, "-", "-", f"does not run here: {failures[name]}"
            continue
        cpu_us = statistics.median(run.cpu_s / run.requests * 1e6 for run in done)  # a request
        iops = statistics.median(run.iops for run in done)
        yield (
            name,
            f"{cpu_us:.3f}" if name != "none" else "-",
            f"{iops:,.0f}",
            f"{iops / alone:.2f}",
        )


def report(options: Options) -> Iterator[Table | str]:
    if os.geteuid() or not shutil.which("fio"):
        yield "The cost of captures is measured as root, with fio."
        return
    seconds, rounds = (1.0, 1) if options.quick else (5.0, 5)
    yield Table(
        f"Captures of a disk in memory: 4 KiB random reads, 32 at a time, {seconds:g} s, "
        f"median of {rounds}",
        "monitor | its CPU s a million requests | IOPS | share of the IOPS without",
        rows(seconds, rounds),
    )
