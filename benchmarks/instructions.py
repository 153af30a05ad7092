"""Does a record cost more instructions than it used to? A guard that no clock disturbs.

Counts under callgrind what feeding a stream ten times more costs, which leaves out start-up, and
holds the instructions a record against `instructions.json`. `python -m benchmarks.instructions`
fails where one is more than TOLERANCE above its baseline; with `--record` it writes a new one.
Compilers differ: elsewhere than with the one that the baseline names, it only tells.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import streams

BASELINE = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.05
REQUESTS = 50_000
TIMES = 10

STREAMS: dict[str, Callable[[], bytes]] = {
    "32 outstanding, 1 device": lambda: streams.make(REQUESTS, 32).tobytes(),
    "8,192 outstanding, 64 devices": lambda: streams.make(REQUESTS, 8192, 64).tobytes(),
    "foreign version 8, payloads, 1 % lost": lambda: streams.with_payloads(
        streams.as_foreign(streams.as_version_8(streams.make(REQUESTS, 1024, 8, lost=0.01)))
    ),
}

# A stream without losses ends with nothing pending, so that all rounds are alike.
FEED = """
import sys
from blkiomon._core import Engine
data = open(sys.argv[1], "rb").read()
engine = Engine()
for _ in range(int(sys.argv[2])):
    engine.feed(data)
print(engine.counters()["records"] // int(sys.argv[2]))
"""


def collected(path: Path, times: int) -> tuple[int, int]:
    """Instructions of a process that feeds a file so many times, and the file's records."""
    with tempfile.NamedTemporaryFile() as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}"]
        command += [sys.executable, "-c", FEED, str(path), str(times)]
        environment = os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode or not found:
        sys.exit(f"callgrind failed: {result.stderr.strip()[-500:]}")
    return int(found[1]), int(result.stdout)


def measure(data: bytes) -> float:
    """Instructions a record."""
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(data)
        once, records = collected(path, 1)
        often, _ = collected(path, 1 + TIMES)
    return (often - once) / TIMES / records


def compiler() -> str:
    """What the C compiler says of itself, and the machine."""
    command = [os.environ.get("CC", "cc"), "--version"]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    return f"{said.partition(chr(10))[0]}, {platform.machine()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write the baseline anew")
    record = parser.parse_args().record
    measured = {name: round(measure(make()), 1) for name, make in STREAMS.items()}
    if record:
        baseline = {"compiler": compiler(), "instructions_per_record": measured}
        BASELINE.write_text(json.dumps(baseline, indent=2) + "\n")
    baseline = json.loads(BASELINE.read_text())
    print(f"Instructions a record (baseline: {baseline['compiler']}; here: {compiler()}):\n")
    print("| stream | baseline | here | change |\n|---|---|---|---|")
    worse = False
    for name, here in measured.items():
        before = baseline["instructions_per_record"][name]
        worse |= here > before * (1 + TOLERANCE)
        print(f"| {name} | {before} | {here} | {here / before - 1:+.1%} |")
    if worse:
        print(f"\nmore than {TOLERANCE:.0%} above the baseline", file=sys.stderr)
    return int(worse and baseline["compiler"] == compiler())


if __name__ == "__main__":
    sys.exit(main())
