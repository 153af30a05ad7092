"""Does a record cost more instructions than the recorded baseline? (`make guard`)

callgrind counts the instructions of two runs; the second feeds a stream ten times more. The
difference is the cost of the records without start-up. Unlike time, it is the same in every run:
the hashes, else seeded at random, have a fixed seed here (another one changes it by some percent).
`python -m benchmarks.instructions` compares instructions a record with `instructions.json`. It
fails if one is more than TOLERANCE above the baseline, and the compiler is that of the baseline.
With `--record` it writes a new baseline.
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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import streams

BASELINE = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.05
REQUESTS = 50_000
TIMES = 10

STREAMS: dict[str, Callable[[], bytes]] = {
    "32 outstanding, 1 device": lambda: streams.make(REQUESTS, 32).tobytes(),
    "8,192 outstanding, 64 devices": lambda: streams.make(REQUESTS, 8192, 64).tobytes(),
    "32 outstanding, 1 device, all events of blktrace": lambda: streams.with_all_events(
        streams.make(REQUESTS, 32)
    ).tobytes(),
    "foreign version 8, payloads, 1 % lost": lambda: streams.with_payloads(
        streams.as_foreign(streams.as_version_8(streams.make(REQUESTS, 1024, 8, lost=0.01)))
    ),
}

DROPIN = "32 outstanding, 1 device, as the drop-in"
"""The first stream with `as_original`, for the outputs of 0.3 only."""

# A stream without losses leaves nothing pending, so every round costs the same.
FEED = """
import sys
from blkiomon._core import Engine
from benchmarks import streams
pending, file, times, as_original = sys.argv[1:]
data = open(file, "rb").read()
engine = Engine(as_original=as_original == "True")
engine._tune(hash_seed=0x9E3779B97F4A7C15F39CC0605CEDC834)
for records in streams.losing(int(pending)):
    engine.feed(records)
before = engine.counters()["records"]
for _ in range(int(times)):
    engine.feed(data)
print((engine.counters()["records"] - before) // int(times))
"""


def collected(
    path: Path,
    times: int,
    options: Sequence[str],
    pending: int,
    as_original: bool,
) -> tuple[dict[str, int], int]:
    """callgrind's events in a process that feeds a file some times, and the file's records.

    Args:
        options: of callgrind.
        pending: about how many requests stay without a completion in a stream that is fed first.
        as_original: passed to the engine.
    """
    with tempfile.NamedTemporaryFile("r") as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", *options]
        command += [sys.executable, "-c", FEED, str(pending), str(path), str(times)]
        command.append(str(as_original))
        environment = os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        output = out.read()
    names = re.search(r"^events: (.+)$", output, re.MULTILINE)
    totals = re.search(r"^totals: (.+)$", output, re.MULTILINE)
    if result.returncode or not names or not totals:
        sys.exit(f"callgrind failed: {result.stderr.strip()[-500:]}")
    counts = map(int, totals[1].split())
    return dict(zip(names[1].split(), counts, strict=True)), int(result.stdout)


def measure(
    data: bytes,
    times: int = TIMES,
    options: Sequence[str] = (),
    pending: int = 0,
    as_original: bool = False,
) -> dict[str, float]:
    """Number of each event for a record; see ``collected``."""
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(data)
        with ThreadPoolExecutor() as pool:  # counts do not depend on other processes
            runs = [
                pool.submit(collected, path, n, options, pending, as_original)
                for n in (1, 1 + times)
            ]
        (once, records), (often, _) = (run.result() for run in runs)
    return {name: (often[name] - once[name]) / times / records for name in once}


def compiler() -> str:
    """The C compiler's version, and the machine's architecture."""
    command = [os.environ.get("CC", "cc"), "--version"]
    version = subprocess.run(command, capture_output=True, text=True).stdout
    return f"{version.partition(chr(10))[0]}, {platform.machine()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write a new baseline")
    record = parser.parse_args().record
    measured = {name: round(measure(make())["Ir"], 1) for name, make in STREAMS.items()}
    data = next(iter(STREAMS.values()))()
    measured[DROPIN] = round(measure(data, as_original=True)["Ir"], 1)
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
