"""Missing records: gaps in the sequence numbers, completions without an issue."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streams
import tracewriter as tw
from inflight import InFlight
from tracewriter import complete, encode, issue, replace
from tuned import fed

from blkiomon._core import Engine
from blkiomon.engine import layout


def numbered(sequences: list[int], cpu: int = 0, device: int = 8 << 20) -> bytes:
    """Records with these sequence numbers."""
    return encode(
        [issue(n, n, 512, device=device, sequence=s, cpu=cpu) for n, s in enumerate(sequences)]
    )


def gaps(*parts: bytes) -> int:
    engine = Engine()
    for part in parts:
        engine.feed(part)
    return engine.counters()["sequence_gaps"]


@pytest.mark.parametrize("first", [1, 2, 77, 2**31, 2**32 - 2])
def test_first_sequence_number_is_not_a_gap(first: int) -> None:
    assert gaps(numbered([(first + i) % 2**32 for i in range(10)])) == 0


@pytest.mark.parametrize(
    "sequences, missing",
    [
        ([1, 2, 4], 1),
        ([5, 6, 10, 11, 13], 4),
        ([1, 3, 2, 4], 0),
        ([1, 5, 2, 4, 3, 6], 0),
        ([1, 5, 3, 6, 9], 4),
        ([2**32 - 1, 0, 1, 2], 0),
        ([2**32 - 2, 1], 2),
        ([2**32 - 3, 2**32 - 1, 1, 4], 4),
        ([0, 0, 0, 0], 0),
        ([1], 0),
    ],
)
def test_gaps_are_the_missing_numbers(sequences: list[int], missing: int) -> None:
    assert gaps(numbered(sequences)) == missing
    assert gaps(*[bytes([b]) for b in numbered(sequences)]) == missing


def test_sequence_numbers_are_per_device_and_cpu() -> None:
    parts = []
    for device in range(600):
        for cpu in (0, 1, 5):
            parts.append(numbered([1000 + device + 7 * cpu], cpu, device))
    for device in range(600):
        for cpu in (0, 1, 5):
            missing = device == 333 and cpu == 5
            parts.append(numbered([1001 + device + 7 * cpu + missing], cpu, device))
    assert gaps(*parts) == 1
    assert gaps(b"".join(parts)) == 1


@pytest.mark.parametrize("most", [1, 2, 63, 64, 1000, 8191])
def test_8192_cpus_have_their_own_sequence_numbers(most: int) -> None:
    rng = random.Random(most)
    cpus = [0, most // 2, most, *(rng.randint(0, most) for _ in range(30))]
    starts = {cpu: rng.randint(1, 2**32 - 1) for cpu in cpus}
    parts = [numbered([starts[cpu]], cpu) for cpu in starts]
    parts += [numbered([(starts[cpu] + 2 + i) % 2**32 for i in range(2)], cpu) for cpu in starts]
    assert gaps(*parts) == len(starts)


@pytest.mark.parametrize(
    ("cpu", "same"), [(8192, 0), (65_535, 8191), (2**31, 0), (2**32 - 1, 8191)]
)
def test_cpus_beyond_8191_count_as_one_that_has_their_lowest_13_bits(cpu: int, same: int) -> None:
    first, last = numbered([1, 2, 3], same), numbered([7, 8, 10], cpu)
    assert gaps(first, last) == gaps(first + last) == 4


@pytest.mark.parametrize("stale", [0, 1, 3, 4, 5, 10**6])
def test_numbers_of_notify_records_are_ignored(stale: int) -> None:
    # The kernel does not set them: they hold what was in its buffer.
    note = encode([replace(tw.notify_process(0, 1, "x"), sequence=stale, device=8 << 20)])
    assert gaps(note, numbered([2, 3]), note, numbered([4, 5]), note, numbered([6])) == 0
    assert gaps(note, numbered([2, 3]), note, numbered([5, 6]), note, numbered([9])) == 3


def test_record_that_comes_in_a_later_interval_stays_missing() -> None:
    engine = fed(numbered([1, 3, 6, 5]))
    assert engine.counters()["sequence_gaps"] == 2
    engine.snapshot()
    engine.feed(numbered([2, 4, 7, 9]))
    assert engine.counters()["sequence_gaps"] == 3
    engine.feed(numbered([8, 10]))
    assert engine.counters()["sequence_gaps"] == 2


@pytest.mark.parametrize("seed", range(30))
def test_totals_never_decrease_from_snapshot_to_snapshot(seed: int) -> None:
    rng = random.Random(f"down {seed}")
    data = streams.generate(seed, avoid="nothing").data
    engine = Engine(max_pending=rng.choice([5, 10**6]))
    before = engine.counters()
    for piece in streams.cut_anywhere(data, rng):
        engine.feed(piece)
        engine.snapshot()
        now = engine.counters()
        assert all(now[name] >= before[name] for name in now)
        before = now


def reference_gaps(sequences: np.ndarray) -> int:
    """Numbers between the first and the greatest that never came."""
    return int(sequences.max() - sequences.min() + 1 - len(np.unique(sequences)))


@pytest.mark.parametrize("seed", range(10))
def test_gaps_of_disordered_streams_do_not_depend_on_feeds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 2000
    at, cpus, devices = np.arange(n), rng.integers(0, 4, n), rng.integers(0, 3, n)
    records = streams.issues(n, time=at, sector=at, cpu=cpus, device=devices)
    expected = 0
    kept = np.ones(n, bool)
    for device in range(3):
        for cpu in range(4):
            those = np.flatnonzero((records["device"] == device) & (records["cpu"] == cpu))
            sequences = 5 + np.arange(len(those))
            lost = rng.random(len(those)) < 0.05
            lost[:10] = False
            # A few neighbours change places, but none comes before the first.
            for i in range(10, len(those) - 1, 7):
                sequences[[i, i + 1]] = sequences[[i + 1, i]]
            records["sequence"][those] = sequences
            kept[those[lost]] = False
            expected += reference_gaps(sequences[~lost])
    data = records[kept].tobytes()
    assert gaps(data) == expected
    cuts = sorted(rng.integers(0, len(data), 100).tolist())
    assert gaps(*[data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])]) == expected


def test_real_trace_without_loss_has_no_gaps_and_losses_are_found() -> None:
    data = (Path(__file__).parent / "data" / "loop-multi-dc.bin").read_bytes()
    records = np.frombuffer(data, layout.TRACE_V7.newbyteorder("<"))
    whole = gaps(data)
    rng = np.random.default_rng(1)
    lost = np.zeros(len(records), bool)
    lost[rng.integers(2000, len(records) - 2000, 50)] = True
    is_numbered = lost & (records["sequence"] > 0)
    assert gaps(records[~lost].tobytes()) == whole + int(is_numbered.sum())


# --- completions without an issue -----------------------------------------------------------------


def unmatched_completions(engine: Engine) -> int:
    return engine.counters()["completions_without_issue"]


COMPLETION, ISSUE = encode([complete(5, 1, 512)]), encode([issue(3, 1, 512)])


@pytest.mark.parametrize(
    ("steps", "counted"),
    [
        ([COMPLETION], 1),
        ([COMPLETION, None], 1),
        ([COMPLETION, ISSUE], 0),
        # After an interval that ended later than the records.
        ([1000, COMPLETION + ISSUE], 0),
        # A later interval does not correct the count.
        *(([COMPLETION, end_ns, ISSUE], 1) for end_ns in (None, 0, 4, 5, 6, 2**64 - 1)),
    ],
    ids=range(10),
)
def test_completion_needs_its_issue_in_its_interval(
    steps: list[bytes | int | None], counted: int
) -> None:
    """Bytes are read; at each number, or None, an interval ends."""
    engine = Engine()
    for step in steps:
        if isinstance(step, bytes):
            engine.feed(step)
        else:
            engine.snapshot(step)
    engine.finish()
    assert unmatched_completions(engine) == counted
    assert engine.counters()["requests"] == any(ISSUE in s for s in steps if isinstance(s, bytes))


@pytest.mark.parametrize("seed", range(50))
def test_completions_without_issue_equal_reference(seed: int) -> None:
    rng = random.Random(f"orphans {seed}")
    stream = streams.generate(seed, avoid="nothing")
    limits: dict[str, Any] = {
        "max_pending": rng.choice([3, 10**6]),
        "max_age_ns": rng.choice([1000, 10**9, 2**64 - 1]),
    }
    engine, reference = Engine(**limits), InFlight(**limits)
    data = stream.data
    most = rng.choice([13, 50, 500, len(data)])
    for piece in streams.cut_anywhere(data, rng, most):
        engine.feed(piece)
        reference.feed(piece)
        if rng.random() < 0.1:
            end_ns = rng.choice([None, 0, engine.now_ns // 2, 2**64 - 1])
            engine.snapshot(end_ns)
            reference.cut()
            reference.loads(0)
    reference.loads(0)
    assert unmatched_completions(engine) == reference.completions_without_issue
