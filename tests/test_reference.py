"""The reference is what the original does, byte for byte, and what ours does where it is better."""

from __future__ import annotations

import struct
from collections import Counter
from functools import cache

import goldenfiles
import oracle
import pytest
import quirks
import reference
import streams
import tracewriter as tw
from reference import Match, MinMax, Outputs, Reference, human_text, outputs
from tracewriter import Record, complete, driver_data, encode, issue, lost_mark

U32 = 1 << 32
U64 = 1 << 64
RANDOM: dict[str, tuple[int, streams.Avoid]] = {
    **{f"crashes {seed}": (seed, "crashes") for seed in range(100)},
    **{f"faults {seed}": (seed, "faults") for seed in range(50)},
}
TRACES = sorted(path.stem for path in goldenfiles.TRACES.glob("*.bin"))


def fed(*parts: bytes, **options: object) -> Reference:
    """A finished reference; its last statistics are lost, its debug text is whole."""
    ref = Reference(as_original=True, **options)  # type: ignore[arg-type]
    for part in parts:
        ref.feed(part)
    ref.finish()
    return ref


def stats_of(data: bytes, **options: object) -> list[reference.DeviceStats]:
    """The statistics of a stream as one interval."""
    ref = Reference(as_original=True, **options)  # type: ignore[arg-type]
    ref.feed(data)
    return ref.finish()


def totals_of(debug: str) -> str:
    """The last line."""
    return debug.splitlines()[-1]


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


def assert_like_the_original(case: tuple[bytes, oracle.Result], *, original: bool) -> None:
    """All four outputs of a case."""
    data, theirs = case
    assert_alike(outputs(data, original=original), theirs)


def assert_alike(ours: Outputs, theirs: oracle.Result) -> None:
    assert (theirs.returncode, theirs.stderr) == (0, b"")
    assert oracle.mask_human(ours.human) == theirs.human
    assert ours.binary == theirs.binary
    assert ours.driver == theirs.driver
    assert ours.debug == theirs.debug


@pytest.mark.parametrize("name", TRACES)
def test_real_trace_like_the_original(wave: Wave, name: str) -> None:
    assert_alike(read_as_the_original(name)[0], wave[f"trace {name}"][1])


@pytest.mark.parametrize("name", quirks.CASES)
def test_quirk_like_the_original(wave: Wave, name: str) -> None:
    assert_like_the_original(wave[f"quirk {name}"], original=name.startswith("fault_"))


@pytest.mark.parametrize("name", RANDOM)
def test_random_stream_like_the_original(wave: Wave, name: str) -> None:
    """Streams that avoid only crashes need the original's wrapping arithmetic."""
    assert_like_the_original(wave[name], original=name.startswith("crashes"))


@pytest.mark.parametrize("name", quirks.BROKEN)
def test_debug_output_of_broken_input_like_the_original(wave: Wave, name: str) -> None:
    data, theirs = wave[f"broken {name}"]
    assert theirs.stderr
    ref = fed(data)
    assert ref.bad is not None
    assert ref.debug_text().encode() == theirs.debug


@pytest.mark.parametrize("name", goldenfiles.names())
def test_golden(name: str) -> None:
    golden = goldenfiles.load(name)
    is_real = name in goldenfiles.REAL
    ours = read_as_the_original(name)[0] if is_real else outputs(golden.data)
    assert oracle.mask_human(ours.human) == golden.human
    assert ours.binary == golden.binary
    assert ours.driver == golden.driver
    assert ours.debug == golden.debug


def test_golden_cases_exist() -> None:
    assert len(goldenfiles.names()) >= 18


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
    assert ref.bad == reference.BadTrace(699980, ref.bad.found if ref.bad else b"", cut=True)
    assert totals_of(ref.debug_text()) == (
        "1019 leftover, 6762 match, 0 mismatch, 0 driverdata, 14543 overall, 7176 lost"
    )


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_version_and_byte_order_make_no_difference(seed: int) -> None:
    stream, other = streams.generate(seed, "crashes"), streams.generate(seed, "nothing")
    assert outputs(stream.twin(8).data) == outputs(stream.data)
    assert outputs(other.swapped().data) == outputs(other.data)


@pytest.mark.parametrize("seed", range(20))
def test_mixed_versions_in_any_pieces_give_the_same(seed: int) -> None:
    data = streams.generate(seed, "nothing").data
    ref = Reference(as_original=True)
    for at in range(0, len(data), 37):
        ref.feed(data[at : at + 37])
    stats = ref.finish()
    whole = outputs(data)
    assert human_text(stats, 0).encode() == whole.human
    assert ref.debug_text().encode() == whole.debug
    assert ref.bad is None


def test_byte_order_is_that_of_the_first_record() -> None:
    first = encode([issue(0, 1, 1)])
    ref = fed(first + encode([issue(0, 1, 1)], byteorder=">"))
    assert ref.bad and (ref.bad.offset, ref.bad.cut, ref.overall) == (48, False, 1)


@pytest.mark.parametrize("length", [1, 3, 4, 47])
def test_cut_record_ends_reading(length: int) -> None:
    record = encode([issue(0, 1, 1)])
    ref = fed(record + record[:length])
    assert ref.bad == reference.BadTrace(48, record[:length], cut=True)


def test_cut_payload_ends_reading() -> None:
    record = encode([driver_data(0, b"abcdef")])
    assert (bad := fed(record[:-1]).bad) and (bad.offset, bad.cut) == (0, True)


@pytest.mark.parametrize("byteorder", "<>")
def test_resync_counts_skipped_bytes(byteorder: str) -> None:
    record = encode([issue(0, 1, 1)], byteorder=byteorder)
    ref = fed(b"garbage" + record + b"ae" + lost_mark(1, 5) + record[:7], resync=True)
    assert totals_of(ref.debug_text()) == (
        "1 leftover, 0 match, 0 mismatch, 0 driverdata, 1 overall, 5 lost, 16 bytes skipped"
    )


def test_lost_marks_in_pieces_and_before_the_first_record() -> None:
    data = lost_mark(0, 3) + encode([issue(0, 1, 1)]) + lost_mark(11, 2**40) + lost_mark(1, 1)
    ref = fed(*(data[i : i + 1] for i in range(len(data))))
    assert (ref.lost_events, ref.bad, ref.overall) == (2**40 + 4, None, 1)


def test_malformed_v8_record_is_48_bytes_with_pid_and_action_swapped() -> None:
    record = issue(1, 2, 3, pid=77)
    data = tw.encode_malformed_v8(record)
    magic, pid, action, high = struct.unpack("<I24xIII8x", data)
    assert (len(data), magic, pid) == (48, tw.MAGIC | 7, 77)
    assert action | high << 32 == record.action


def test_version_8_shows_as_version_7_would() -> None:
    record = issue(0, 1, 1, tw.WRITE | tw.FS | tw.WRITE_ZEROES)
    text = fed([record], version=8).debug_text()
    assert f"\naction   {'1420007':>16}\n" in text
    assert f"magic {tw.MAGIC | 7:>19}" in text


def test_zone_append_bit_alone_does_not_complete_a_request() -> None:
    zone = Record(9000, 1, 1, tw.act(tw.READ | tw.FS | tw.ZONE_APPEND, tw.EV_COMPLETE), 8 << 20)
    assert fed([issue(0, 1, 1), zone], version=8).matched == 0


def test_driver_record_without_payload_does_not_end_reading() -> None:
    ref = fed([driver_data(1, b""), driver_data(2, b"xy")], 8, ">")
    assert ref.driver_bytes() == encode([driver_data(1, b""), driver_data(2, b"xy")])


# -- arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "d2c_ns", "throughput"),
    [(4096, 0, 4096 * 10**6), (4096, 999, 4100100), (4096, 1000, 4096000), (0, 0, 0)],
)
def test_completion_under_a_microsecond_has_a_throughput(
    size: int, d2c_ns: int, throughput: int
) -> None:
    (stats,) = stats_of(encode([complete(7 + d2c_ns, 1, 1), issue(7, 1, size)]))
    assert stats.thrput_r.wire()[:3] == (throughput,) * 3
    assert stats.d2c_r.max == d2c_ns // 1000


def test_throughput_does_not_wrap_at_32_bits() -> None:
    (stats,) = stats_of(quirks.pairs((U32 - 1, 1)))
    assert stats.thrput_r.max == (U32 - 1) * 1000


@pytest.mark.parametrize("values", [[3_000_000_000, 1_294_967_296], [U32 - 1, U32 - 1, 1], [U64]])
def test_var_is_exact_where_products_overflow(values: list[int]) -> None:
    minmax = MinMax()
    for value in values:
        minmax.add(value)
    mean = sum(values) / len(values)
    expected = sum((value - mean) ** 2 for value in values) / len(values)
    assert minmax.var() == pytest.approx(expected, rel=1e-12)


def test_wire_fields_are_modulo_2_64() -> None:
    (stats,) = stats_of(quirks.pairs((U32 - 1, 1), (U32 - 1, 1)))
    assert stats.size_r.sum_squares > U64
    assert stats.size_r.wire()[3] == 2 * (U32 - 1) ** 2 % U64
    assert f", squ {2 * (U32 - 1) ** 2 - 2 * U64}, " in human_text([stats], 0)


def test_layout_0_2_has_the_figures_of_0_3_without_throughput() -> None:
    stats = stats_of(quirks.pairs((4096, 500)))
    new, old = reference.binary(stats, 5), reference.binary(stats, 5, "0.2")
    assert (len(new), len(old)) == (424, 344)
    assert new[:172] == old[:172]
    assert new[172:176] == old[340:] == struct.pack(">I", 8 << 20)
    assert new[176:336] == old[172:332]


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
    (stats,) = stats_of(data)
    assert stats.requests == [Match(op, 2005, size, 3)]


# -- intervals and limits --------------------------------------------------------------------------


def test_cut_begins_a_new_set_and_keeps_what_is_pending() -> None:
    ref = Reference(as_original=True)
    ref.feed(encode([issue(0, 1, 1), complete(1000, 1, 1), issue(0, 2, 7)]))
    assert [s.size_r.sum for s in ref.cut()] == [1]
    assert ref.cut() == []
    ref.feed(encode([complete(1000, 2, 1)]))
    assert [s.size_r.sum for s in ref.finish()] == [7]


def test_pair_beyond_age_never_matches() -> None:
    at_limit = encode([issue(0, 1, 1), complete(5000, 1, 1)])
    beyond = encode([issue(0, 2, 1), complete(5001, 2, 1)])
    assert fed(at_limit, max_age_ns=5000).debug_text() == (
        "0 leftover, 1 match, 0 mismatch, 0 driverdata, 2 overall\n"
    )
    ref = fed(beyond, max_age_ns=5000)
    assert totals_of(ref.debug_text()) == (
        "1 leftover, 0 match, 0 mismatch, 0 driverdata, 2 overall, 1 evicted"
    )
    assert ref.debug_text().startswith("--- leftover ---\n")


def test_newcomer_beyond_age_is_itself_evicted() -> None:
    ref = fed([complete(5001, 2, 1), issue(0, 2, 1)], max_age_ns=5000)
    assert (ref.evicted, ref.matched, [p.time for p in ref.leftovers()]) == (1, 0, [5001])


def test_sweep_at_its_position_at_a_cut_and_at_the_end() -> None:
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


def test_full_table_evicts_the_oldest_by_time_device_sector_action() -> None:
    records = [
        issue(5, 2, 1, tw.WRITE, device=1),
        issue(5, 2, 1, tw.READ, device=1),
        issue(5, 1, 1, tw.WRITE, device=1),
        issue(5, 0, 1, tw.READ, device=2),
    ]
    ref = Reference(as_original=True, max_pending=4)
    ref.feed(encode(records))
    seen = []
    for sector in range(10, 14):
        before = {p.key for p in ref.leftovers()}
        ref.feed(encode([issue(9, sector, 1)]))
        seen += [key[:2] for key in before - {p.key for p in ref.leftovers()}]
    assert seen == [(1, 1), (1, 2), (1, 2), (2, 0)]
    assert ref.evicted == 4


def test_full_table_evicts_before_storing_even_an_older_newcomer() -> None:
    ref = Reference(as_original=True, max_pending=1)
    ref.feed(encode([issue(9, 1, 1), issue(5, 2, 1)]))
    assert [p.sector for p in ref.leftovers()] == [2]


def test_mismatch_and_match_need_no_room() -> None:
    ref = fed([issue(1, 1, 1), issue(2, 1, 1), complete(5000, 1, 1)], max_pending=1)
    assert (ref.evicted, ref.mismatched, ref.matched) == (0, 1, 1)


def test_without_limits_nothing_is_evicted() -> None:
    ref = fed([issue(0, 1, 1), complete(U64 - 1, 1, 1), issue(1, 1, 1)], sweep_every=1)
    assert (ref.evicted, ref.matched) == (0, 1)
