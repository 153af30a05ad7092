"""Has a record become cheaper? `python -m benchmarks.revisions REVISION...`

Builds earlier commits and runs them in turn with what is installed, on the same files: a machine's
quick and slow minutes hit all of them alike. Nothing here needs a commit later than the first that
had an engine.
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
"""Of each file: twenty million records."""
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
        CalledProcessError: there is no such commit, or it cannot be built.
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


def dropin_s(site: Path, path: Path) -> float:
    """CPU seconds of the whole program, start-up included, on a file."""
    return programs.on_file([*python(site, DROPIN), *QUIET], path).cpu_s


def engine_ns(site: Path, path: Path) -> float:
    """CPU nanoseconds a record of the engine, with everything on, on the beginning of a file."""
    run = [*python(site, ENGINE), str(path)]
    return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


def python(site: Path, run: str) -> list[str]:
    """A Python that sees what is installed in a directory before all else."""
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
                f"{depth:,} outstanding, {devices} device{'s' * (devices > 1)}",
                name,
                *told(whole_s, measured[HERE][0], "{:.2f}"),
                *told(cost_ns, measured[HERE][1], "{:.1f}"),
            )


def told(values: Sequence[float], here: Sequence[float], form: str) -> tuple[str, str]:
    """The least and the median, and of both how many times it "here" is."""
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
    parser.add_argument("revisions", nargs="+", metavar="REVISION", help="of this repository")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each (default: %(default)s)")
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
                (
                    "stream",
                    "revision",
                    f"drop-in on {2 * REQUESTS:,} records, s",
                    "here, times it",
                    "engine, ns a record",
                    "here, times it",
                ),
                rows(sites, arguments.runs),
            )
        )


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main()
