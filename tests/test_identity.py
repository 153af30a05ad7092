"""The same bytes in, the same bytes out as the packaged blkiomon 0.3; only `time` is masked.

Where the original's arithmetic wraps, ours is right and differs; `unwrapped_*` masks these figures.
They are the throughput of requests above 4294967 bytes, whose size * 1000 exceeds 32 bits, and var
of sums from 2^32 on, whose squares exceed 64 bits.

The original never evicts a request. Generated streams have latencies of centuries.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import goldenfiles
import numpy as np
import oracle
import pytest
import quirks
import reference
import runner
import streams
from runner import LONG, outputs_of

from blkiomon.commands.config import NO_AGE_LIMIT_S
from blkiomon.engine import layout

LOSSY = "loop-lossy-dc"
TRACES = sorted(p for p in goldenfiles.TRACES.glob("*.bin") if p.stem != LOSSY)
QUIRKS = {
    name: data
    for name, data in quirks.CASES.items()
    # A latency of 2^64 - 1 ns exceeds that limit; test_engine has this case.
    if not name.startswith("fault_") and name != "longest_latency"
}

CRASH_FREE_SEEDS, FAULT_FREE_SEEDS = range(128), range(64)
"""Seeds of generated streams; the first few dozen detect any broken rule."""

LARGEST_SIZE = (1 << 32) // 1000
_SUM = re.compile(rb"sum (-?\d+)")
_MAX_SIZE = re.compile(rb"^sizes (read|write) .* max (-?\d+)", re.MULTILINE)


def unwrapped_human(text: bytes) -> bytes:
    """The text without the figures that wrapped in the original: var, and throughput."""
    devices = []
    for device in text.split(b"\n\n"):
        large = {d for d, most in _MAX_SIZE.findall(device) if int(most) > LARGEST_SIZE}
        lines = []
        for line in device.splitlines():
            if any(line.startswith(b"throughput " + direction) for direction in large):
                line = line.partition(b":")[0] + b": WRAPPED"
            elif (total := _SUM.search(line)) and not 0 <= int(total[1]) < 1 << 32:
                line = line.partition(b", var ")[0] + b", var WRAPPED"
            lines.append(line)
        devices.append(b"\n".join(lines))
    return b"\n\n".join(devices)


def unwrapped_binary(data: bytes) -> bytes:
    """The structs without the throughput that wrapped in the original."""
    stats = np.frombuffer(data, layout.STATS_03).copy()
    for direction in "rw":
        sizes = stats[f"size_{direction}"]
        large = (sizes["count"] > 0) & (sizes["max"] > LARGEST_SIZE)
        stats[f"thrput_{direction}"][large] = 0
    return stats.tobytes()


def assert_identical(ours: reference.Outputs, theirs: oracle.Result, case: object) -> None:
    """All four outputs."""
    assert (theirs.returncode, theirs.stderr) == (0, b""), case
    human = oracle.mask_human(ours.human)
    assert unwrapped_human(human) == unwrapped_human(theirs.human), case
    binary = oracle.mask_binary(ours.binary)
    assert unwrapped_binary(binary) == unwrapped_binary(theirs.binary), case
    assert ours.driver == theirs.driver, case
    assert ours.debug == theirs.debug, case


def identical_outputs_of(data: bytes, directory: Path) -> reference.Outputs:
    """All four outputs of this process, waiting for partners as the original does."""
    return outputs_of(data, directory, max_age_s=NO_AGE_LIMIT_S)


def outputs_of_process(data: bytes, directory: Path, *options: str) -> reference.Outputs:
    """All four outputs of a process, which prints nothing else and succeeds."""
    directory.mkdir(parents=True)
    paths = {letter: directory / letter for letter in "hbdD"}
    result = runner.run("-I", LONG, *runner.options_to(directory, "hbdD"), *options, stdin=data)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    return reference.Outputs(*(path.read_bytes() for path in paths.values()))


# -- against the original --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs_of_traces() -> dict[str, oracle.Result]:
    """The original's outputs of the real traces and the quirks, run at once."""
    oracle.require()
    cases = {path.stem: path.read_bytes() for path in TRACES} | QUIRKS
    return dict(zip(cases, oracle.run_many(list(cases.values())), strict=True))


def both_of(
    avoid: streams.Avoid, seeds: range, directory: Path
) -> Iterator[tuple[int, reference.Outputs, oracle.Result]]:
    """These seeds, with our outputs of each and the original's, made at the same time."""
    oracle.require()
    cases = [streams.generate(seed, avoid).data for seed in seeds]
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(oracle.run_many, cases, len(cases))
        ours = [identical_outputs_of(data, directory) for data in cases]
        yield from zip(seeds, ours, theirs.result(), strict=True)


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_real_trace_prints_the_same_as_the_original(
    theirs_of_traces: dict[str, oracle.Result], path: Path, tmp_path: Path
) -> None:
    ours = outputs_of_process(path.read_bytes(), tmp_path / "ours")
    assert_identical(ours, theirs_of_traces[path.stem], path.stem)


@pytest.mark.parametrize("name", QUIRKS)
def test_quirk_prints_the_same_as_the_original(
    theirs_of_traces: dict[str, oracle.Result], name: str, tmp_path: Path
) -> None:
    assert_identical(identical_outputs_of(QUIRKS[name], tmp_path), theirs_of_traces[name], name)


def test_generated_streams_print_the_same_with_wrapped_figures_masked(tmp_path: Path) -> None:
    for seed, ours, theirs in both_of("crashes", CRASH_FREE_SEEDS, tmp_path):
        assert_identical(ours, theirs, f"crashes {seed}")


def test_generated_streams_print_the_same_with_nothing_masked(tmp_path: Path) -> None:
    for seed, ours, theirs in both_of("faults", FAULT_FREE_SEEDS, tmp_path):
        assert_identical(ours, theirs, f"faults {seed}")
        assert oracle.mask_human(ours.human) == theirs.human, seed
        assert ours.binary == theirs.binary, seed


def test_boundary_with_open_input_prints_the_same_as_the_original(tmp_path: Path) -> None:
    program = oracle.require()
    data = streams.generate(10_000, "faults", 300).data
    theirs = printed_at_a_boundary(data, (program,))
    # Without the last interval, only boundaries print.
    assert printed_at_a_boundary(data, runner.COMMAND, "--no-final") == theirs


def printed_at_a_boundary(data: bytes, command: Sequence[str], *options: str) -> bytes:
    """What a command prints of a stream while its input is held open.

    On a busy machine a boundary may come before all has been read: then once more, with longer
    intervals.
    """
    ref = reference.Reference(as_original=True)
    ref.feed(data)
    stats = ref.finish()
    assert stats
    requests = sum(s.size_r.count + s.size_w.count + s.bidir for s in stats)
    for interval in ("1", "2", "4", "8", "16"):
        with runner.Running("-I", interval, "-h", "-", *options, command=command) as process:
            process.write(data)
            process.read_intervals(len(stats))
            status, text, _ = process.end()
        assert status == 0
        counts = re.findall(rb"^(?:sizes .* num|bidirectional requests:) (\d+)", text, re.MULTILINE)
        if text.count(b"\ndevice: ") == len(stats) and sum(map(int, counts)) == requests:
            return oracle.mask_human(text)
    raise TimeoutError("the stream never fitted into one interval: the machine is too busy")


# -- messages --------------------------------------------------------------------------------------


def test_queue_messages_equal_the_originals(tmp_path: Path) -> None:
    program = oracle.require()
    cases = [streams.generate(seed, "faults", 150).data for seed in range(10_000, 10_003)]
    cases.append((goldenfiles.TRACES / "loop-multi-dc.bin").read_bytes())
    with runner.queues(tmp_path, 2 * len(cases)) as queues:
        theirs, ours = queues[: len(cases)], queues[len(cases) :]
        with ExitStack() as stack:
            for data, queue in zip(cases, theirs, strict=True):
                # Two seconds: the long trace must be read before the first boundary.
                original = runner.Running("-I", "2", *queue.options, command=(program,))
                stack.enter_context(original).write(data)
            stored = goldenfiles.load("loop-multi-dc").result.binary
            expected = [*map(_devices, cases[:-1]), len(stored) // layout.STATS_03.itemsize]
            for queue, number in zip(theirs, expected, strict=True):
                queue.await_messages(number)
        with ThreadPoolExecutor(2) as pool:
            for result in pool.map(_send_messages, cases, ours):
                assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            messages = [unwrapped_binary(oracle.mask_binary(m)) for m in one.take()]
            assert len(messages) == expected[index]
            assert [unwrapped_binary(oracle.mask_binary(m)) for m in other.take()] == messages


def _send_messages(data: bytes, queue: runner.MessageQueue) -> subprocess.CompletedProcess[bytes]:
    return runner.run("-I", LONG, *queue.options, stdin=data)


def _devices(data: bytes) -> int:
    """How many devices have statistics."""
    ref = reference.Reference(as_original=True)
    ref.feed(data)
    return len(ref.finish())


# -- without the original --------------------------------------------------------------------------


@pytest.mark.parametrize("name", goldenfiles.names())
def test_golden_case_prints_the_same_as_the_original(name: str, tmp_path: Path) -> None:
    golden = goldenfiles.load(name)
    assert_identical(identical_outputs_of(golden.data, tmp_path), golden.result, name)


def test_all_golden_files_exist() -> None:
    assert {*goldenfiles.REAL, *(n.replace("_", "-") for n in quirks.GOLDEN)} <= {
        *goldenfiles.names()
    }


@pytest.mark.parametrize("stat_version", ["0.3", "0.2"])
def test_generated_streams_print_the_same_as_the_reference(
    stat_version: str, tmp_path: Path
) -> None:
    # Both layouts have the same figures in another form.
    for seed in range(*{"0.3": (0, 40), "0.2": (40, 60)}[stat_version]):
        data = streams.generate(seed, "nothing").data
        ref = reference.Reference(as_original=True, max_age_ns=600 * 10**9)
        ref.feed(data)
        stats = ref.finish()
        human = reference.human_text(stats, 0)
        if stat_version == "0.2":
            lines = human.splitlines(keepends=True)
            human = "".join(line for line in lines if not line.startswith("throughput"))
        ours = outputs_of(data, tmp_path, stat_version=stat_version)
        assert ours.human.decode() == human, seed
        assert ours.binary == reference.binary(stats, 0, stat_version), seed
        assert ours.driver == ref.driver_bytes(), seed
        assert ours.debug.decode() == ref.debug_text(), seed


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_real_trace_prints_the_same_as_the_reference(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    assert outputs_of(data, tmp_path) == reference.outputs(data)


def test_lossy_trace_prints_the_same_as_the_reference(tmp_path: Path) -> None:
    # It is cut in its last record: that is complained about, and everything before it counts.
    data = (goldenfiles.TRACES / f"{LOSSY}.bin").read_bytes()
    ref = reference.Reference(as_original=True)
    ref.feed(data)
    stats = ref.finish()
    assert ref.bad is not None
    assert ref.lost_events > 0
    paths = {letter: tmp_path / letter for letter in "hD"}
    result = runner.run("-I", LONG, "-h", paths["h"], "-D", paths["D"], stdin=data)
    assert result.returncode == 1
    assert result.stderr.startswith(b"blkiomon: bad trace: at byte offset %d: " % ref.bad)
    expected = oracle.mask_human(reference.human_text(stats, 0).encode())
    assert oracle.mask_human(paths["h"].read_bytes()) == expected
    assert paths["D"].read_text() == ref.debug_text()
