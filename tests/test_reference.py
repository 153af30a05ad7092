"""The slow reference: its outputs equal the original's, and it evicts as documented."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

import goldenfiles
import oracle
import pytest
import quirks
import reference
import streams
import tracewriter as tw
from reference import Match, Outputs, Reference, outputs
from tracewriter import Record, complete, driver_data, encode, issue

RANDOM: dict[str, tuple[int, streams.Avoid]] = {
    **{f"crashes {seed}": (seed, "crashes") for seed in range(100)},
    **{f"faults {seed}": (seed, "faults") for seed in range(50)},
}
TRACES = sorted(path.stem for path in goldenfiles.TRACES.glob("*.bin"))


def fed(data: bytes | Iterable[Record], **options: Any) -> Reference:
    """A reference that has read these bytes, or records, to their end."""
    ref = Reference(as_original=True, **options)
    ref.feed(data if isinstance(data, bytes) else encode(data))
    ref.finish()
    return ref


def totals_of(ref: Reference) -> str:
    """The last line of its debug output."""
    return ref.debug_text().splitlines()[-1]


# -- against the original ------------------------------------------------------------------------


@cache
def real_trace(name: str) -> bytes:
    """A trace as the original can read it: without lost marks, and whole records only."""
    data = (goldenfiles.TRACES / f"{name}.bin").read_bytes()
    if not reference.LOST_MARK.search(data):
        return data
    records: list[reference.Trace] = []
    Reference(as_original=True, on_record=records.append).feed(data)
    return b"".join(record.header_v7() + record.payload for record in records)


@cache
def read_as_the_original(name: str) -> tuple[Outputs, Counter[str]]:
    """All outputs of a real trace, and what requests there were: read once for all that look."""
    ref = Reference(as_original=True, original=True)
    ref.feed(real_trace(name))
    stats = ref.finish()
    requests = Counter(match.op for device in stats for match in device.requests)
    return reference.outputs_of(ref, stats), requests


Wave = dict[str, tuple[bytes, oracle.Result]]


@pytest.fixture(scope="module")
def wave() -> Wave:
    """All streams that are compared, run at once."""
    oracle.require()
    cases = {f"trace {name}": real_trace(name) for name in TRACES}
    cases |= {f"quirk {name}": data for name, data in quirks.CASES.items()}
    cases |= {f"broken {name}": data for name, data in quirks.BROKEN.items()}
    cases |= {name: streams.generate(*random).data for name, random in RANDOM.items()}
    results = oracle.run_many(list(cases.values()), wave=128)
    return {
        name: (data, result) for (name, data), result in zip(cases.items(), results, strict=True)
    }


def assert_alike(ours: Outputs, theirs: oracle.Result) -> None:
    """All four outputs are the same."""
    assert (theirs.returncode, theirs.stderr) == (0, b"")
    assert oracle.mask_human(ours.human) == theirs.human
    assert ours.binary == theirs.binary
    assert ours.driver == theirs.driver
    assert ours.debug == theirs.debug


@pytest.mark.parametrize("name", TRACES)
def test_real_trace_gives_the_originals_outputs(wave: Wave, name: str) -> None:
    assert_alike(read_as_the_original(name)[0], wave[f"trace {name}"][1])


@pytest.mark.parametrize("name", quirks.CASES)
def test_quirk_gives_the_originals_outputs(wave: Wave, name: str) -> None:
    data, theirs = wave[f"quirk {name}"]
    assert_alike(outputs(data, original=name.startswith("fault_")), theirs)


@pytest.mark.parametrize("name", RANDOM)
def test_random_stream_gives_the_originals_outputs(wave: Wave, name: str) -> None:
    """Streams that avoid only crashes need the original's wrapping arithmetic."""
    data, theirs = wave[name]
    assert_alike(outputs(data, original=name.startswith("crashes")), theirs)


@pytest.mark.parametrize("name", quirks.BROKEN)
def test_debug_output_of_broken_input_is_the_originals(wave: Wave, name: str) -> None:
    data, theirs = wave[f"broken {name}"]
    assert theirs.stderr
    ref = fed(data)
    assert ref.bad is not None
    assert ref.debug_text().encode() == theirs.debug


@pytest.mark.parametrize("name", goldenfiles.names())
def test_golden_case_gives_the_originals_outputs(name: str) -> None:
    golden = goldenfiles.load(name)
    is_real = name in goldenfiles.REAL
    ours = read_as_the_original(name)[0] if is_real else outputs(golden.data)
    assert_alike(ours, golden.result)


# -- real traces against what the load generator did -----------------------------------------------


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("loop-multi-dc", {"read": 28110, "write": 17935, "discard": 1500, "flush": 92}),
        ("loop-phases-dc", {"read": 24001, "write": 16000, "flush": 375}),
    ],
)
def test_operations_of_real_traces_are_those_of_the_load_generator(
    name: str, truth: dict[str, int]
) -> None:
    assert read_as_the_original(name)[1] == truth


def test_lost_marks_of_a_real_trace_are_counted() -> None:
    ref = fed((goldenfiles.TRACES / "loop-lossy-dc.bin").read_bytes())
    assert ref.bad == 699980
    assert totals_of(ref) == (
        "1019 leftover, 6762 match, 0 mismatch, 0 driverdata, 14543 overall, 7176 lost"
    )


# -- operations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "size", "op"),
    [
        (tw.READ | tw.FLUSH, 0, "flush"),
        (tw.WRITE | tw.FS | tw.FLUSH, 4096, "write"),
        (tw.WRITE | tw.FS | tw.DISCARD, 4096, "discard"),
        (tw.WRITE | tw.DISCARD | tw.WRITE_ZEROES, 4096, "discard"),
        (tw.WRITE | tw.WRITE_ZEROES | tw.ZONE_OPEN, 4096, "write_zeroes"),
        (tw.WRITE | tw.ZONE_RESET, 0, "zone"),
        (tw.READ | tw.PC | tw.ZONE_APPEND, 4096, "zone"),
        (tw.READ | tw.PC, 36, "other"),
        (tw.READ | tw.WRITE | tw.FS, 4096, "write"),
        (tw.READ, 4096, "read"),
        (tw.FS, 4096, "other"),
    ],
)
def test_operation_follows_the_bits_of_the_issue(category: int, size: int, op: str) -> None:
    data = encode([issue(5, 1, size, category), complete(2010, 1, 9, category, error=3)], 8)
    ref = Reference(as_original=True)
    ref.feed(data)
    (stats,) = ref.finish()
    assert stats.requests == [Match(op, 2005, size, 3)]


# -- intervals and limits --------------------------------------------------------------------------


def test_pair_beyond_age_never_matches() -> None:
    ref = fed([issue(0, 1, 1), complete(5000, 1, 1)], max_age_ns=5000)
    assert totals_of(ref) == "0 leftover, 1 match, 0 mismatch, 0 driverdata, 2 overall"
    ref = fed([issue(0, 2, 1), complete(5001, 2, 1)], max_age_ns=5000)
    assert totals_of(ref) == "1 leftover, 0 match, 0 mismatch, 0 driverdata, 2 overall, 1 evicted"


def test_newcomer_beyond_age_is_itself_evicted() -> None:
    ref = fed([complete(5001, 2, 1), issue(0, 2, 1)], max_age_ns=5000)
    assert (ref.evicted, ref.matched, [p.time for p in ref.leftovers()]) == (1, 0, [5001])


def test_sweep_evicts_every_sweep_every_records_at_a_cut_and_at_the_end() -> None:
    def pending(*records: Record) -> Reference:
        ref = Reference(as_original=True, max_age_ns=5000, sweep_every=3)
        ref.feed(encode(records))
        return ref

    first, last = issue(0, 1, 1), issue(5001, 2, 1)
    ref = pending(first, last)
    assert len(ref.leftovers()) == 2
    ref.cut()
    assert [p.sector for p in ref.leftovers()] == [2]
    ref = pending(first, last)
    ref.finish()
    assert (ref.evicted, len(ref.leftovers())) == (1, 1)
    skipped = Record(9, 9, 9, tw.act(0, tw.EV_PLUG), 9)
    assert pending(first, last, skipped).evicted == 0
    assert pending(first, last, skipped, skipped).evicted == 1
    # What counts as now is the latest record before the sweep that has a category.
    assert pending(first, skipped, skipped, last).evicted == 0
    assert pending(last, first, skipped, skipped).evicted == 0
    late = driver_data(10**9, b"x", category=tw.ISSUE)
    assert pending(first, late, skipped, skipped).evicted == 1


def test_full_table_evicts_the_oldest_eighth_and_what_is_as_old() -> None:
    ref = Reference(as_original=True, max_pending=16)
    times = [5, 6, 6, *range(10, 23)]
    ref.feed(encode(issue(ns, sector, 1) for sector, ns in enumerate(times)))
    assert ref.evicted == 0
    ref.feed(encode([issue(4, 99, 1)]))
    assert sorted(p.sector for p in ref.leftovers()) == [*range(3, 16), 99]
    assert ref.evicted == 3


def test_full_table_evicts_what_is_about_as_old_as_its_oldest_eighth() -> None:
    ref = Reference(as_original=True, max_pending=16)
    times = [1 << 20, *range((1 << 20) + 9 * 128, (1 << 20) + 24 * 128, 128)]
    times[2] = times[1] + 127
    times[3] = times[1] + 128
    ref.feed(encode(issue(ns, sector, 1) for sector, ns in enumerate([*times, 1 << 21])))
    assert sorted(p.sector for p in ref.leftovers()) == [*range(3, 17)]


def test_nearly_full_table_stores_no_completion() -> None:
    ref = Reference(as_original=True, max_pending=16)
    ref.feed(encode([*(complete(n, n, 1) for n in range(16)), issue(20, 20, 1)]))
    assert sorted(p.sector for p in ref.leftovers()) == [*range(14), 20]
    assert ref.evicted == 2


def test_full_table_evicts_before_storing_even_an_older_newcomer() -> None:
    ref = Reference(as_original=True, max_pending=1)
    ref.feed(encode([issue(9, 1, 1), issue(5, 2, 1)]))
    assert [p.sector for p in ref.leftovers()] == [2]


def test_mismatch_and_match_need_no_room() -> None:
    ref = fed([issue(1, 1, 1), issue(2, 1, 1), complete(5000, 1, 1)], max_pending=1)
    assert (ref.evicted, ref.mismatched, ref.matched) == (0, 1, 1)
