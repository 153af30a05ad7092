"""Out of memory: every allocation fails once; nothing crashes, and no figure is wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import runner
import streams
from sanitizers import unpreloaded, unsanitized
from tracewriter import encode, issue

HERE = Path(__file__).parent

# Each attempt makes an engine, feeds it until all its tables have grown, and takes snapshots.
# In the n-th attempt the n-th allocation fails. The attempt raises MemoryError, or its results are
# right to the byte.
CHILD = """
import ctypes, random, sys
from dataclasses import fields
sys.path.insert(0, sys.argv[1])
import numpy as np
import streams
import tracewriter as tw
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot
from test_queue import some_bios
from tuned import tuned

shim = ctypes.CDLL(None)
shim.fail.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_size_t]
shim.fail.restype = ctypes.c_long
keep = {"keep_details": True, "keep_driver_data": True, "keep_records": True,
        "keep_requests": True}
kinds = {"plain": {"spill_every": 1}, "kept": keep}
first = tw.encode(streams.generate(3, avoid="nothing", count=100).records)
first += tw.encode([tw.notify_process(0, n, f"p{n}") for n in range(12)])
bios = tw.encode(bio._replace(pid=n) for n, bio in enumerate(some_bios(random.Random(1), 100)))
at = np.arange(4200)
many = streams.issues(4200, sector=at, device=at % 700, cpu=at % 60)
many, done = many.tobytes(), streams.completions(many, 1000).tobytes()
# The longest steps come last: each attempt repeats all steps before its allocation.
steps_of = {
    "plain": [first, b"garbage" + bios, many, done],
    "kept": [first, bios, many[: 48 * 3000], done[: 48 * 3000]],
}


def disarm():
    while True:
        try:
            return shim.fail(0, 0, 0)
        except (MemoryError, ctypes.ArgumentError):  # of this very call
            pass


def work(engine, steps, said):
    for step in steps:
        begun = engine.offset, engine.records
        try:
            engine.feed(step)
        except MemoryError:  # these two have records of 48 bytes
            if step is many or step is done:
                assert engine.offset - begun[0] == 48 * (engine.records - begun[1])
            raise
        said.append(engine.snapshot())
    engine.finish()
    said += [engine.counters(), engine.take_skips(), engine.process_names]
    said += [engine.take_mismatches(), engine.take_requests(), engine.take_records()]
    said += [engine.take_driver_data()]


def plain(what):
    if isinstance(what, Snapshot):
        return [getattr(what, f.name).tobytes() for f in fields(what)]
    return what.tobytes() if isinstance(what, np.ndarray) else what


def attempts(kind, burst, least):
    options, steps = kinds[kind], steps_of[kind]
    expected = []
    engine = tuned(resync=True, **options)
    shim.fail(1 << 60, 0, least)
    work(engine, steps, expected)
    total = disarm()
    expected = [plain(what) for what in expected]

    errors = rights = k = 0
    while k < 2 * total + 100:
        k += 1
        said, engine, error = [], None, None
        try:
            shim.fail(k, burst, least)
            engine = tuned(resync=True, **options)
            work(engine, steps, said)
        except (MemoryError, ctypes.ArgumentError) as raised:
            error = raised
        had = disarm()
        said = [plain(what) for what in said]
        if error is None:
            assert said == expected, k
            rights += 1
            if had < k:
                break
            continue
        errors += 1
        assert said == expected[: len(said)], k
        if engine is None:
            continue
        # A snapshot still has the figures from before, and they add up.
        counters = engine.counters()
        cut = engine.snapshot()
        assert int(cut.rows["requests"].sum()) <= counters["requests"]
        total_load = cut.loads[cut.loads["op"] == layout.EVERYTHING]
        assert total_load["in_flight"].sum() == cut.loads[cut.loads["op"] == layout.ALL_OPS][
            "in_flight"].sum() <= engine.pending
        if kind == "kept":
            assert len(engine.leftovers()) == engine.pending
        # The engine continues as if nothing had happened, or refuses.
        try:
            engine.feed(steps[0])
        except MemoryError:
            try:
                engine.finish()
            except MemoryError:
                continue
            raise AssertionError(f"finishes after it has failed: {k}")
    print(total, k, errors, rights, flush=True)


attempts(sys.argv[2], 1, 0)
attempts(sys.argv[2], 1 << 40, 4096)  # all large ones fail from the n-th on
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes allocations fail."""
    compiler = shutil.which("cc")
    assert compiler, "a C compiler has built the engine; it is needed here, too"
    library = tmp_path_factory.mktemp("shim") / "failing_malloc.so"
    source = HERE / "failing_malloc.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


@unpreloaded
@pytest.mark.parametrize("kind", ["plain", "kept"])
def test_engine_raises_memory_error_at_every_allocation(shim: Path, kind: str) -> None:
    # Coverage measurement allocates, too, and would fail.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", CHILD, HERE, kind],
        env=plain | {"LD_PRELOAD": str(shim), "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        timeout=4 * runner.TIMEOUT_S,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        total, tried, errors, rights = map(int, line.split())
        assert tried > total > 25
        assert errors > total // 2
        assert rights >= 1


@unsanitized
def test_command_out_of_memory_prints_one_line_and_keeps_complete_intervals(tmp_path: Path) -> None:
    # Issues that never complete, more than there is memory for, behind whole intervals.
    records = streams.issues(4_000_000, time=5 * 10**9, sector=np.arange(4_000_000))
    trace, lines = tmp_path / "trace", tmp_path / "lines"
    with trace.open("wb") as file:
        file.write(encode([issue(10**9 + n, n, 512) for n in range(1000)]))
        file.write(encode([issue(3 * 10**9, 1, 1)]))
        records.tofile(file)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (500 << 20, 500 << 20))

    arguments = ("-I", "1", "--json", lines, "--max-pending", str(1 << 32), trace)
    result = runner.run(*arguments, preexec_fn=limit)
    assert result.stderr.startswith(b"blkiomon: out of memory: ")
    assert result.stderr.count(b"\n") == 1
    assert result.returncode == 3
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["records"] for line in told[:3]] == [1000, 0, 1]
