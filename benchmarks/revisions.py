"""Compares earlier commits with the installed version: `python -m benchmarks.revisions REVISION...`

Builds the commits, and runs all versions in turn on the same files: a slow moment of the machine
hits all alike. Works for every commit that has an engine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import blkiomon
from benchmarks import programs, streams
from benchmarks.__main__ import machine
from benchmarks.programs import QUIET
from benchmarks.report import Table, show

REQUESTS = 10_000_000
"""In each file: twenty million records."""
STREAMS = ((32, 1), (8192, 1), (8192, 64))
RUNS = 15
HERE = "here"

DROPIN = "import blkiomon.commands.cli as c; sys.exit(c.main())"
ENGINE = """
import time
from blkiomon._core import Engine
with open(sys.argv[1], "rb") as file:
    data = memoryview(file.read(48 * 2_000_000))
engine = Engine()
start = time.thread_time_ns()
for at in range(0, len(data), 1 << 18):
    engine.feed(data[at : at + (1 << 18)])
print((time.thread_time_ns() - start) / engine.counters()["records"])
"""


def build(revision: str, into: Path) -> Path:
    """Install a commit of this repository, as it would be released.

    Raises:
        CalledProcessError: the commit does not exist or cannot be built.
    """
    source, wheels, site = into / "source", into / "wheels", into / "site"
    source.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", revision], cwd=Path(__file__).parents[1], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x"], cwd=source, input=archive.stdout, check=True)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    here = ["--no-deps", "--no-build-isolation", "--wheel-dir", wheels]
    subprocess.run([*pip, "wheel", *here, source], check=True)
    there = ["--no-deps", "--no-index", "--target", site]
    subprocess.run([*pip, "install", *there, *wheels.iterdir()], check=True)
    return site


def before() -> str:
    """The commit to compare the working tree with: HEAD if src was changed since, else HEAD~1."""
    root = Path(__file__).parents[1]
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src"], cwd=root).returncode
    return "HEAD" if changed else "HEAD~1"


def dropin_s(site: Path, path: Path) -> float:
    """CPU seconds of the whole program, start-up included, on a file."""
    return programs.on_file([*python(site, DROPIN), *QUIET], path).cpu_s


def engine_ns(site: Path, path: Path) -> float:
    """CPU nanoseconds a record of the engine alone, on the beginning of a file."""
    run = [*python(site, ENGINE), str(path)]
    return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


def python(site: Path, run: str) -> list[str]:
    """A Python command that imports from a directory first."""
    return [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {run}"]


def rows(sites: dict[str, Path], runs: int) -> Iterator[tuple[str, ...]]:
    for depth, devices in STREAMS:
        path = streams.file(REQUESTS, depth, devices)
        measured: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in sites}
        for _ in range(runs):
            for measure, at in ((dropin_s, 0), (engine_ns, 1)):
                for name, site in sites.items():
                    measured[name][at].append(measure(site, path))
        for name, (whole_s, cost_ns) in measured.items():
            yield (
                streams.name(depth, devices),
                name,
                *compared(whole_s, measured[HERE][0], "{:.2f}"),
                *compared(cost_ns, measured[HERE][1], "{:.1f}"),
            )


def compared(values: Sequence[float], here: Sequence[float], form: str) -> tuple[str, str]:
    """Least and median of the values; least and median of "here", as multiples of them."""
    pairs = [(min(several), statistics.median(several)) for several in (values, here)]
    times = (ours / theirs for theirs, ours in zip(*pairs))
    return (
        ", ".join(form.format(value) for value in pairs[0]),
        ", ".join(f"{ratio:.2f}" for ratio in times),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.revisions", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("revisions", nargs="+", metavar="REVISION", help="commit to compare with")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs (default: %(default)s)")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        sites: dict[str, Path] = {HERE: Path(blkiomon.__file__).parents[1]}
        for number, revision in enumerate(arguments.revisions):
            print(f"building {revision}", file=sys.stderr, flush=True)
            sites[revision] = build(revision, Path(directory, str(number)))
        show(
            Table(
                f"CPU time, {arguments.runs} runs in turn: least, median",
                f"stream | revision | program on {2 * REQUESTS:,} records, s | here / revision"
                " | engine, ns a record | here / revision",
                rows(sites, arguments.runs),
            )
        )


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main()
