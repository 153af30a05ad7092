"""Fuzzes one target after the other, for ``make fuzz``, or runs one input alone.

A target begins with its seeds and with the new inputs of earlier runs, below build/fuzz.  Prints a
line for each target.  After a finding, prints the folder of its input; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parents[1]
BUILD = TOP / "build" / "fuzz"
SHARES = {"engine": 5, "merger": 2, "resync": 2, "decode": 1, "from_bytes": 1, "json": 1}
"""A target's share of the time."""

RSS_MB = 4096
FUZZER = [sys.executable, str(TOP / "fuzz" / "fuzzer.py")]
ENVIRONMENT = {
    # Short stacks and a small quarantine, as each execution makes and frees several engines.
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:malloc_context_size=6"
    ":quarantine_size_mb=16",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "PYTHONMALLOC": "malloc",  # the sanitizer does not see leaks and overruns in arenas
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONCOERCECLOCALE": "0",  # else LD_PRELOAD reaches the fuzzer's children
    "OPENBLAS_NUM_THREADS": "1",
}


def cpu_s() -> float:
    """Processor time of all programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def environment(preload: str) -> dict[str, str]:
    """The environment of a fuzzer: the sanitizers' libraries to preload, and their options.

    Atheris has a library that contains libFuzzer and both sanitizers.  libFuzzer looks for custom
    mutators when the process starts, so these are preloaded too.
    """
    env = os.environ | ENVIRONMENT | {"LD_PRELOAD": preload}
    if (atheris := importlib.util.find_spec("atheris")) and atheris.origin:
        package = Path(atheris.origin).parent
        libraries = [package.parent / "asan_with_fuzzer.so", *package.glob("custom_*.so")]
        env["LD_PRELOAD"] = " ".join(map(str, libraries))
        # Atheris sometimes reports a tuple of the interpreter: only the plain loop looks for leaks.
        env["ASAN_OPTIONS"] = env["ASAN_OPTIONS"].replace("detect_leaks=1", "detect_leaks=0")
    else:
        env["ASAN_OPTIONS"] += f":hard_rss_limit_mb={RSS_MB}"
    return env


def reproduce(env: dict[str, str], target: str, file: Path) -> bool:
    """Run one input, and show its output; returns whether there was no finding."""
    BUILD.mkdir(parents=True, exist_ok=True)
    command = [*FUZZER, target, str(BUILD / f"{target}.figures"), str(file)]
    return subprocess.run(command, env=env, check=False).returncode == 0


class Figures(NamedTuple):
    """What a fuzzer has done so far."""

    executions: int = 0
    records: int = 0
    n_bytes: int = 0


def fuzz(
    command: list[str], env: dict[str, str], target: str, seconds: float
) -> tuple[bool, Figures]:
    """Fuzz a target for a time; returns whether there was no finding, and the figures."""
    found = BUILD / "corpus" / target
    findings = BUILD / "findings" / target
    for folder in (found, findings):
        folder.mkdir(parents=True, exist_ok=True)
    file = BUILD / f"{target}.figures"
    log = BUILD / f"{target}.log"
    begin, began = cpu_s(), time.monotonic()
    done = Figures()
    status = 0
    left_s = wall_s = seconds
    # The fuzzer counts wall time. So on a busy machine it runs more than once; later runs are
    # longer, as each start takes some seconds.
    while True:
        arguments = [
            target, str(file), str(found), str(TOP / "fuzz" / "corpus" / target),
            f"-max_total_time={max(1, round(wall_s))}", "-timeout=60", f"-rss_limit_mb={RSS_MB}",
            "-max_len=65536", f"-artifact_prefix={findings}/",
            "-detect_leaks=0",  # not after each input; the sanitizer looks for leaks at the end
        ]  # fmt: skip
        file.unlink(missing_ok=True)
        with log.open("wb") as output:
            status = subprocess.run(
                [*command, *arguments], env=env, stdout=output, stderr=output, check=False
            ).returncode
        now = Figures(*struct.unpack("=3Q", file.read_bytes())) if file.exists() else Figures()
        done = Figures(*map(sum, zip(done, now)))
        used_s = cpu_s() - begin
        left_s = seconds - used_s
        if status or left_s <= 1:
            break
        wall_s = left_s * min(4, (time.monotonic() - began) / max(used_s, 0.1))
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", log.read_text(errors="replace"))
    guided = "edges {}, features {}, inputs {}".format(*covered[-1]) if covered else "not guided"
    print(
        f"{target:<10} {cpu_s() - begin:6.0f} s of processor time, {done.executions:,} executions, "
        f"{done.n_bytes:,} bytes of input, {done.records:,} records fed, {guided}: "
        + ("no finding" if status == 0 else f"FOUND something (exit status {status})"),
        flush=True,
    )
    if status:
        print(f"see {log}; the input is the newest file in {findings}", flush=True)
    return status == 0, done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preload", default="", help="libraries of gcc's sanitizers")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of processor time, all targets together"
    )
    parser.add_argument("--input", type=Path, help="run this alone, of the one target named")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(SHARES))
    arguments = parser.parse_args()
    targets = arguments.targets or list(SHARES)
    if unknown := set(targets) - set(SHARES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if arguments.input and len(targets) != 1:
        parser.error("one input is for one target")
    env = environment(arguments.preload)
    if arguments.input:
        return 0 if reproduce(env, targets[0], arguments.input) else 1
    share = arguments.seconds / sum(SHARES[target] for target in targets)
    started = time.monotonic()
    results = [fuzz(FUZZER, env, target, share * SHARES[target]) for target in targets]
    done = Figures(*map(sum, zip(*(figures for _, figures in results))))
    print(
        f"{'in all':<10} {cpu_s():6.0f} s of processor time, {done.executions:,} executions, "
        f"{done.records:,} records fed, in {time.monotonic() - started:.0f} s"
    )
    return 0 if all(fine for fine, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
