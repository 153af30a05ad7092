"""Does a long run lose records, use more and more memory, or fall behind?

Sends records through a pipe in real time: ten devices, 8,192 requests outstanding. Every few
seconds, one device disappears and a new one appears. The records sent are compared with the sums of
the program's JSON Lines. With --stall, another output writes to a FIFO of 4 KiB that no program
reads.

With --capture, fio reads from a disk in memory as fast as it can, and the program captures that, as
root. The requests that the program counts and reports as lost are compared with fio's reads.

Exits with 1 if a record was lost; with --capture, only if the loss was not reported.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks import captures, streams
from benchmarks.programs import OURS, Cost, used

DEVICES = 10
NUMBERS = 64
"""Device numbers in use, ten at a time."""

ROUND_S = 0.1
"""About the length of the part that is repeated. All its requests are completed in it."""

STAY_ROUNDS = 30
"""Rounds after which the next device disappears."""

DEPTH = 8192
CHUNK_S = 0.01
PIPE_BYTES = 1 << 20
STREAM_RATE = 10**9 // streams.DISTANCE_NS * 2
"""Records a second in the streams of `streams.make`."""


class Offered:
    """The stream, with counts of its requests.

    Args:
        rate: records a second.
        seconds: how long it lasts.
    """

    def __init__(self, rate: int, seconds: float) -> None:
        self.issues: Counter[int] = Counter()
        self.completions: Counter[int] = Counter()
        self.rate = rate
        self._round = streams.make(max(1, int(rate * ROUND_S / 2)), DEPTH, DEVICES)
        self._round["time"] -= streams.START_NS
        self._round["time"] = self._round["time"] * (STREAM_RATE / rate)
        self._rounds = max(1, round(seconds * rate / len(self._round)))
        self.records = self._rounds * len(self._round)

    def rounds(self) -> Iterator[bytes]:
        """The stream, in parts of about a tenth of a second."""
        records = self._round
        place = (records["device"] - streams.FIRST_DEVICE).astype(np.intp)
        cpu = records["cpu"].astype(np.intp)
        sequence, offset_ns = records["sequence"].copy(), records["time"].copy()
        is_issue = (records["action"] & 0xFFFF) == streams.ISSUED
        issued, completed = (np.bincount(place[of]) for of in (is_issue, ~is_issue))
        stored = np.zeros((NUMBERS, streams.CPUS), "u4")  # by device and CPU
        in_round = np.zeros((DEVICES, streams.CPUS), "u4")
        np.add.at(in_round, (place, cpu), 1)
        span_ns = int(offset_ns[-1]) + 10**9 // self.rate
        for round_ in range(self._rounds):
            # Another device takes place k every DEVICES * STAY_ROUNDS rounds.
            turn = round_ // STAY_ROUNDS
            ks = np.arange(DEVICES)
            number = (ks + DEVICES * ((turn + DEVICES - 1 - ks) // DEVICES)) % NUMBERS
            records["device"] = (streams.FIRST_DEVICE + number)[place]
            records["sequence"] = sequence + stored[number[place], cpu]
            records["time"] = streams.START_NS + round_ * span_ns + offset_ns
            stored[number] += in_round
            for k, device in enumerate((streams.FIRST_DEVICE + number).tolist()):
                self.issues[device] += int(issued[k])
                self.completions[device] += int(completed[k])
            yield records.tobytes()


class Received(threading.Thread):
    """Sums up the program's JSON Lines, and notes when each arrived."""

    def __init__(self, lines: IO[bytes]) -> None:
        super().__init__()
        self._lines = lines
        self.records = 0
        self.requests: Counter[int] = Counter()
        self.unseen: Counter[str] = Counter()
        self.ends_ns: list[int] = []
        self.delays_ns: list[int] = []

    def run(self) -> None:
        for line in self._lines:
            now_ns = time.time_ns()
            interval = json.loads(line)
            self.ends_ns.append(interval["end_ns"])
            self.delays_ns.append(now_ns - interval["end_ns"])
            self.records += interval["records"]
            self.unseen.update(interval["unseen"])
            for device in interval["devices"]:
                major, _, minor = device["device"].partition(":")
                self.requests[int(major) << 20 | int(minor)] += device["requests"]


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


class Memory(threading.Thread):
    """Resident memory of the program, twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid
        self._ended = threading.Event()
        self.at_s: list[float] = []
        self.kib: list[int] = []

    def run(self) -> None:
        start_s = time.monotonic()
        while not self._ended.wait(0.5):
            with contextlib.suppress(OSError, IndexError):  # the program is ending
                kib = resident_kib(self._pid)
                self.at_s.append(time.monotonic() - start_s)
                self.kib.append(kib)

    def end(self) -> None:
        self._ended.set()
        self.join()

    @property
    def figures(self) -> dict[str, str]:
        """Maximum of both halves, and slope of the second by least squares, as text by name."""
        halves = np.array_split(np.array(self.kib), 2)
        found = {
            "maximum of memory in the first and second half": ", ".join(
                f"{max(part, default=0) / 1024:.1f} MiB" for part in halves
            )
        }
        if len(halves[1]) > 2:
            slope_kib_s = float(np.polyfit(self.at_s[-len(halves[1]) :], halves[1], 1)[0])
            found["slope of memory in the second half"] = f"{slope_kib_s * 3600:+.0f} KiB an hour"
        return found


def offer(stream: Offered, out: IO[bytes]) -> float:
    """Send a stream in real time; returns the greatest delay in seconds."""
    chunk_bytes = int(stream.rate * CHUNK_S) * 48
    sent_bytes, worst_s = 0, 0.0
    start_s = time.monotonic()
    for data in stream.rounds():
        for first in range(0, len(data), chunk_bytes):
            due_s = start_s + sent_bytes / 48 / stream.rate
            ahead_s = due_s - time.monotonic()
            if ahead_s > 0:
                time.sleep(ahead_s)
            worst_s = max(worst_s, -ahead_s)
            sent_bytes += out.write(data[first : first + chunk_bytes])
    return worst_s


@contextlib.contextmanager
def stalled(directory: Path) -> Iterator[Path]:
    """A FIFO without a reader."""
    path = directory / "stalled"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)
        yield path
    finally:
        os.close(fd)


def soak(rate: int, seconds: float, interval_s: float, *, stall: bool) -> bool:
    """Run the program and print the figures; returns False if anything was lost."""
    stream = Offered(rate, seconds)
    print(f"{stream.records:,} records, {rate:,} a second, to {DEVICES} devices at a time of "
          f"{NUMBERS}; intervals of {interval_s:g} s", flush=True)  # fmt: skip
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = [OURS, "-I", f"{interval_s:g}", "--clock", "wall"]  # even if we send late
        command += ["--json", "-", "-b", str(directory / "binary")]
        if stall:
            command += ["-h", str(stack.enter_context(stalled(directory)))]
        read_fd, write_fd = os.pipe()
        fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        messages_path = directory / "messages"
        with messages_path.open("wb") as err:
            child = subprocess.Popen(command, stdin=read_fd, stdout=subprocess.PIPE, stderr=err)
        os.close(read_fd)
        assert child.stdout is not None
        received, memory = Received(child.stdout), Memory(child.pid)
        received.start()
        memory.start()
        begin_s = time.perf_counter()
        try:
            with open(write_fd, "wb", buffering=0) as out:
                late_s = offer(stream, out)
            received.join()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        finally:
            memory.end()
            if child.returncode is None:
                child.kill()
        cost = Cost(usage.ru_utime, usage.ru_stime, time.perf_counter() - begin_s)
        messages = messages_path.read_text().splitlines()
    return _report(stream, received, memory, cost, late_s, interval_s, messages, child.returncode)


def _report(
    stream: Offered,
    received: Received,
    memory: Memory,
    cost: Cost,
    late_s: float,
    interval_s: float,
    messages: list[str],
    status: int,
) -> bool:
    lost: dict[str, Any] = {name: n for name, n in received.unseen.items() if n}
    is_whole = (
        received.records == stream.records
        and received.requests == stream.completions == stream.issues
        and not lost
    )
    figures = {
        "records sent, seen": f"{stream.records:,}, {received.records:,}",
        "requests sent, seen": f"{stream.completions.total():,}, {received.requests.total():,}",
        "the same for each device": "yes" if received.requests == stream.completions else "NO",
        "reported as unseen": ", ".join(f"{name} {n:,}" for name, n in lost.items()) or "nothing",
        "greatest delay of the sender": f"{late_s * 1000:.1f} ms",
        "intervals": f"{len(received.ends_ns):,}",
    }
    # The last one ends with the stream.
    ends_ns, delays_ms = np.array(received.ends_ns[:-1]), np.array(received.delays_ns) / 1e6
    if len(ends_ns):
        due_ns = ends_ns[0] + np.arange(len(ends_ns)) * int(interval_s * 1e9)
        off_ms = np.abs(ends_ns - due_ns).max() / 1e6
        figures["greatest error of a boundary"] = f"{off_ms:.2f} ms"
        figures["boundary to output, median, p99, maximum"] = ", ".join(
            f"{np.percentile(delays_ms, q):.2f} ms" for q in (50, 99, 100)
        )
    figures |= memory.figures
    figures["CPU"] = (
        f"{cost.cpu_s:.1f} s, {cost.cpu_s / cost.wall_s:.1%} of a core, "
        f"{cost.cpu_s / stream.records * 1e9:.0f} ns a record"
    )
    figures["exit status"] = str(status)
    for name, text in figures.items():
        print(f"  {name}: {text}")
    for message in messages:
        print("  message:", re.sub(r"/\S*/", "", message))
    print("nothing was lost" if is_whole else "SOMETHING WAS LOST", flush=True)
    return is_whole


def soak_capture(seconds: float, interval_s: float) -> bool:
    """Capture a load and print the figures; returns False if a loss was not reported."""
    with captures.memory_disk() as disk:
        command = [OURS, "-I", f"{interval_s:g}", "--json", "-", "--trace", disk]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            received, memory = Received(child.stdout), Memory(child.pid)
            received.start()
            memory.start()
            time.sleep(captures.SETTLED_S)
            before_ns = used(child.pid).cpu_ns
            requests, iops = captures.load(disk, seconds)
            time.sleep(0.2)
            cpu_ns = used(child.pid).cpu_ns - before_ns
            child.send_signal(signal.SIGINT)
            received.join()
            memory.end()
    seen = received.requests.total()
    unseen = {name: n for name, n in received.unseen.items() if n}
    figures = {
        "reads by fio, reads a second": f"{requests:,}, {iops:,.0f}",
        "requests seen": f"{seen:,}",
        "reported as unseen": ", ".join(f"{name} {n:,}" for name, n in unseen.items()) or "nothing",
        "intervals": f"{len(received.ends_ns):,}",
        **memory.figures,
        "CPU": f"{cpu_ns / 1e9:.1f} s, {cpu_ns / requests / 1e3:.3f} s a million requests",
    }
    for name, text in figures.items():
        print(f"  {name}: {text}")
    # Each read that is not among the requests lost an event, or its completion found no issue.
    reported = unseen.get("lost_events", 0) + unseen.get("completions_without_issue", 0)
    is_whole = requests - reported <= seen <= requests
    print("every loss was reported" if is_whole else "SOMETHING WAS LOST", flush=True)
    return is_whole


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=3600, help="duration (default: an hour)")
    parser.add_argument("--rate", type=int, default=2_000_000, help="records a second")
    parser.add_argument("--interval", type=float, default=1, help="-I of the run, in seconds")
    help_of_stall = "add an output to a FIFO that no program reads"
    parser.add_argument("--stall", action="store_true", help=help_of_stall)
    parser.add_argument("--capture", action="store_true", help="capture a load of fio, as root")
    given = parser.parse_args()
    if given.capture:
        sys.exit(not soak_capture(given.seconds, given.interval))
    sys.exit(not soak(given.rate, given.seconds, given.interval, stall=given.stall))


if __name__ == "__main__":
    main()
