"""Boots Linux in a machine, and compares blkiomon's figures with those of fio and the kernel.

usage: check.py [--kernel K]... [--recorded] [SCENARIO]...

Prints a line for each scenario and kernel: each figure as expected and as found.  Exits with 1 if
any differs.  README.md describes the scenarios.  The scenarios "capture" and "san" are the tests in
tests/lab.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MACHINE = str(HERE / "machine.sh")
LAB = Path(os.environ.get("LAB", HERE.parent / ".lab"))
KERNELS = ("6.1", "6.12", "7.3")
LONG_S = "1000000"
"""An interval that does not end during a scenario."""

Figures = dict[str, int]


class Truth:
    """What fio, the injector of the faults and the kernel counted in one scenario."""

    def __init__(self, directory: Path, scenario: str) -> None:
        self.kernel = directory.name
        text = (directory / f"{scenario}.fio.json").read_text()
        job = json.loads(text[text.index("{") :])["jobs"][0]
        self.reads: int = job["read"]["total_ios"]
        self.writes: int = job["write"]["total_ios"]
        self.syncs: int = job["sync"]["total_ios"]
        self.failed: int = job.get("total_err", 0)
        self.bytes: int = job["read"]["io_bytes"] + job["write"]["io_bytes"]
        self.slowest_ns: int = max(job[way]["lat_ns"]["max"] for way in ("read", "write"))
        lines = (directory / f"{scenario}.truth").read_text().splitlines()
        self.counted = {name: int(value, 0) for name, value in map(str.split, lines)}


def requests(truth: Truth) -> Figures:
    """Each I/O of fio is a request, and each fsync a flush; nothing fails, nothing is requeued."""
    return {
        "read": truth.reads,
        "write": truth.writes,
        "flush": truth.syncs,
        "errors": truth.failed,
        "requeues": truth.counted["issue_events"] - truth.reads - truth.writes - truth.syncs,
    }


def sized(truth: Truth) -> Figures:
    return requests(truth) | {"bytes": truth.bytes}


def failing(block_bytes: int) -> Callable[[Truth], Figures]:
    """fio does not count the bytes of an I/O that fails; blkiomon counts those of its request."""

    def expected(truth: Truth) -> Figures:
        if not truth.failed:
            raise LookupError("no I/O failed")
        return requests(truth) | {"bytes": truth.bytes + truth.failed * block_bytes}

    return expected


def transport(truth: Truth) -> Figures:
    return sized(truth) | {"requeues": truth.counted["scsi_errors"]}


def refused(truth: Truth) -> Figures:
    return sized(truth) | {"requeues": truth.counted["refused_commands"]}


def synchronous(truth: Truth) -> Figures:
    """Each O_DSYNC write is a FUA write and a flush, as the kernel's statistics of the disk say."""
    flushes = truth.counted["disk_flushes"]
    return requests(truth) | {"flush": flushes, "requeues": 0, "bytes": truth.bytes}


def short(truth: Truth) -> Figures:
    """A read past the end of the loop device's file: a part of it, a requeue, then the error."""
    return failing(16 << 10)(truth) | {"requeues": truth.counted["requeue_events"]}


def zones(truth: Truth) -> Figures:
    operations = truth.counted["zone_operations"]
    if truth.kernel != "7.3":  # version 7 has no categories for them: they are writes of 0 bytes
        return sized(truth) | {"write": truth.writes + operations, "requeues": 0}
    return sized(truth) | {"zone": operations, "requeues": 0}


def append(truth: Truth) -> Figures:
    """The file's data are zone appends; btrfs writes its metadata to sectors that it chooses."""
    appended = truth.bytes // (64 << 10)
    return {
        "zone": appended,
        "write": truth.counted["disk_writes"] - appended,
        "bytes": truth.counted["disk_written_sectors"] << 9,
    }


SCENARIOS: dict[str, Callable[[Truth], Figures]] = {
    "plain": sized,
    "medium": failing(4096),
    "transport": transport,
    "hostbusy": refused,
    "tsf": failing(4096),
    "requeue": sized,
    "badblocks": failing(16 << 10),
    "short": short,
    "flush": sized,
    "fua": synchronous,
    "pipe": sized,
    "multipath": sized,
    "zones": zones,
    "append": append,
}

LEFT_OUT = {("6.1", "append"), ("6.12", "append")}
"""Version 7 does not mark zone appends: they are writes whose completions have other sectors."""

TESTED = ("capture", "san")
"""Scenarios that are tests, which run in the machine: tests/lab/test_NAME_kernels.py."""


# --- what blkiomon reports ------------------------------------------------------------------------


def report(directory: Path, scenario: str) -> dict[str, Any]:
    """The only interval of a recorded trace."""
    files = sorted(directory.glob(f"{scenario}.blktrace.*")) or [directory / f"{scenario}.bin"]
    command = [sys.executable, "-m", "blkiomon", "-I", LONG_S, "--json", "-", *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    # blktrace may write zeros when it stops, which blkiomon reports.
    messages = [one for one in result.stderr.splitlines() if not one.endswith("nothing is lost")]
    if result.returncode or messages:
        raise LookupError(f"blkiomon: status {result.returncode}: {result.stderr.strip()}")
    (line,) = result.stdout.splitlines()
    interval: dict[str, Any] = json.loads(line)
    return interval


def figures(interval: dict[str, Any]) -> Figures:
    """The figures that can be compared; what is unseen, and in flight at the end, has to be 0."""
    (device,) = interval["devices"]
    found = {op: group["requests"] for op, group in device["ops"].items()}
    total = interval["total"]
    found |= {name: total[name] for name in ("errors", "requeues", "bytes")}
    found |= {name: n for name, n in interval["unseen"].items() if n}
    if total["in_flight"]["end"]:
        found["in_flight_at_end"] = total["in_flight"]["end"]
    return found


def times(interval: dict[str, Any], truth: Truth, requeues: int) -> list[str]:
    """What is wrong with the times: no request may take longer than fio waited for it."""
    retried = interval["total"]["retried"]
    wrong = []
    if (retried is not None) != (requeues > 0):
        wrong.append("retried and requeues disagree")
    if truth.reads + truth.writes == interval["total"]["requests"]:  # fio timed all of them
        slowest = {"d2c": interval["total"]["d2c_ns"]["max"]}
        if retried:
            slowest["retried"] = retried["max_ns"]
        wrong += [
            f"{name} {ns} ns, but fio waited {truth.slowest_ns} ns at most"
            for name, ns in slowest.items()
            if ns > truth.slowest_ns
        ]
    return wrong


def check(directory: Path, scenario: str) -> tuple[str, bool]:
    """A line about a scenario, and whether all is as expected."""
    try:
        truth = Truth(directory, scenario)
        expected = {name: n for name, n in SCENARIOS[scenario](truth).items() if n}
        interval = report(directory, scenario)
        found = {name: n for name, n in figures(interval).items() if n}
        wrong = times(interval, truth, expected.get("requeues", 0))
    except (OSError, LookupError, ValueError) as error:
        return f"{type(error).__name__}: {error}", False
    names = dict.fromkeys([*expected, *found])
    text = " ".join(f"{name} {expected.get(name, 0)}/{found.get(name, 0)}" for name in names)
    return "; ".join([text, *wrong]), expected == found and not wrong


# --------------------------------------------------------------------------------------------------


def prepare(kernel: str) -> None:
    """Download a kernel and the tools, unless they are there; exit if that fails."""
    if subprocess.run([MACHINE, "prepare", kernel], check=False).returncode:
        sys.exit(1)  # and it has said why


def record(directory: Path, scenarios: list[str]) -> None:
    """Boots the kernel, and has it run the scenarios."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    command = [MACHINE, "run", directory.name, str(directory)]
    if traced := [name for name in scenarios if name not in TESTED]:
        script = str(HERE / "scenarios.sh")
        subprocess.run([*command, script, directory.name, *traced], check=False)
    for name in TESTED:
        if name in scenarios:
            subprocess.run([*command, str(HERE / "tests.sh"), name, sys.executable], check=False)


def show_tests(directory: Path, name: str) -> bool:
    """Print what tests compared, and what failed; returns whether all is as expected."""
    try:
        print((directory / f"{name}.txt").read_text(), end="")
        *_, summary = (directory / f"{name}.log").read_text().splitlines()
    except (OSError, ValueError) as error:
        print(f"{name:40} {directory.name:5} FAILED {error}")
        return False
    print(f"{name:40} {directory.name:5} {summary.strip('= ')}", flush=True)
    return "passed" in summary and "failed" not in summary and "error" not in summary


def show(directory: Path, scenarios: list[str]) -> bool:
    """Print a line for each scenario or test; returns whether all is as expected."""
    all_good = True
    for name in TESTED:
        if name in scenarios:
            all_good &= show_tests(directory, name)
    for name in scenarios:
        if name not in TESTED:
            text, is_good = check(directory, name)
            all_good &= is_good
            result = "ok" if is_good else "FAILED"
            print(f"{name:11} {directory.name:7} {result:7} {text}", flush=True)
    return all_good


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare blkiomon with fio and with the kernel.")
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="default: all")
    parser.add_argument("--recorded", action="store_true", help="do not boot: use the last run")
    parser.add_argument("scenario", nargs="*", help="default: all")
    given = parser.parse_args()
    known = [*SCENARIOS, *TESTED]
    scenarios = given.scenario or known
    for name in scenarios:
        if name not in known:
            parser.error(f"unknown scenario {name}; use {', '.join(known)}")
    all_good = True
    chosen = {
        kernel: [name for name in scenarios if (kernel, name) not in LEFT_OUT]
        for kernel in given.kernel or KERNELS
    }
    print("scenario    kernel  result  expected/found")
    with ThreadPoolExecutor() as machines:
        if not given.recorded:
            for kernel in chosen:
                prepare(kernel)
            runs = [machines.submit(record, LAB / "out" / k, names) for k, names in chosen.items()]
        for at, (kernel, names) in enumerate(chosen.items()):
            if not given.recorded:
                runs[at].result()
            all_good &= show(LAB / "out" / kernel, names)
    return not all_good


if __name__ == "__main__":
    sys.exit(main())
