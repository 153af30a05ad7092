"""The engine against the slow reference: all results, on generated and damaged streams."""

from __future__ import annotations

import random
import re
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import quirks
import streams
import tracewriter as tw
from intervals import bin_of, tables
from reference import Reference, Trace
from tracewriter import complete, encode, issue
from tuned import fed, tuned

from blkiomon._core import Engine, _read_structs
from blkiomon.engine import layout
from blkiomon.errors import TraceError

NEVER_NS = 2**64 - 1
MAGIC_V7 = (layout.MAGIC | 7).to_bytes(4, sys.byteorder).decode("latin-1")


def pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """The stream as a sequence of reads of random sizes.

    Runs of small reads alternate with a large one. So records are cut in every way, with far fewer
    reads than the stream has bytes.
    """
    most = rng.choice([1, 7, 48, 64, 100, 1000, 70_000, len(data) + 1])
    out: list[bytes] = []
    at = 0
    while at < len(data):
        is_large = most < 100 and len(out) % 200 == 199
        n = rng.randint(1, 20_000 if is_large else most)
        out.append(data[at : at + n])
        at += n
    return out


def as_tuple(detail: Any) -> tuple[int, ...]:
    r = detail["record"]
    names = ("sequence", "time_ns", "sector", "bytes", "action", "pid", "device", "cpu", "error")
    return (*(int(r[name]) for name in names), int(r["pdu_len"]), int(detail["order"]))


def reference_tuple(t: Trace) -> tuple[int, ...]:
    return (
        *(t.sequence, t.time, t.sector, t.bytes_, t.action % 2**48),  # no category is above
        *(t.pid, t.device, t.cpu, t.error, t.pdu_len, t.order),
    )


def moments(m: Any) -> tuple[int, int, int, int]:
    total, squ = (int(m[f][0]) + (int(m[f][1]) << 64) for f in ("sum", "sum_squares"))
    return int(m["min"]), int(m["max"]), total, squ


def op_counts(rows: Any) -> Counter[tuple[int, str]]:
    counts: Counter[tuple[int, str]] = Counter()
    for row in rows:
        counts[int(row["device"]), layout.OPS[row["op"]]] += int(row["requests"])
    return counts


def check_interval(cut: Any, expected: list[Any]) -> None:
    """Compare a snapshot with the reference, device by device."""
    rows = cut.rows
    assert op_counts(rows) == Counter((s.device, m.op) for s in expected for m in s.requests)
    # Devices in order of their first match; the reference lists them in reverse.
    assert list(dict.fromkeys(rows["device"].tolist())) == [s.device for s in reversed(expected)]
    for s in expected:
        ours = rows[rows["device"] == s.device]
        assert int(ours["errors"].sum()) == sum(match.error != 0 for match in s.requests)
        assert ours["size_hist"].sum(axis=0).tolist() == s.size_hist
        assert ours["d2c_hist"].sum(axis=0).tolist() == s.d2c_hist
        assert int(ours["requests"][ours["direction"] == 2].sum()) == s.bidir
        for direction in (0, 1):
            those = ours[ours["direction"] == direction]
            names = ("size_bytes", "d2c_us", "throughput")
            for name, minmax in zip(names, s.minmaxes()[direction::2], strict=True):
                low, high, total, squares = zip(
                    (2**64 - 1, 0, 0, 0), *(moments(row[name]) for row in those)
                )
                assert (min(low), max(high)) == (minmax.min, minmax.max)
                assert (sum(total), sum(squares)) == (minmax.sum, minmax.sum_squares)
        indices = np.flatnonzero(rows["device"] == s.device)
        for op in {match.op for match in s.requests}:
            those = [i for i in indices if layout.OPS[rows["op"][i]] == op]
            matches = [match for match in s.requests if match.op == op]
            times, sizes = [m.d2c_ns for m in matches], [m.size for m in matches]
            assert sum(moments(rows["d2c_ns"][i])[2] for i in those) == sum(times)
            for bins, values in ((cut.d2c_bins, times), (cut.size_bins, sizes)):
                got: Counter[int] = Counter()
                for b in bins[np.isin(bins["row"], those)]:
                    got[int(b["bin"])] += int(b["count"])
                assert got == Counter(map(bin_of, values))


def compare(
    data: bytes,
    rng: random.Random,
    max_pending: int = 10**6,
    max_age_ns: int = NEVER_NS,
    resync: bool = False,
    cuts: int = 2,
) -> Engine:
    """Feed both, take snapshots at the same places, compare everything."""
    engine = tuned(
        max_pending=max_pending,
        max_age_ns=max_age_ns,
        keep_details=True,
        keep_driver_data=True,
        resync=resync,
        plain_cpu=rng.random() < 0.5,
    )
    reference = Reference(max_pending, max_age_ns, resync=resync)
    driver = b""
    mismatches = []
    reads = pieces(data, rng)
    cut_after = {rng.randrange(len(reads) or 1) for _ in range(cuts)}
    failed: TraceError | None = None
    for i, read in enumerate(reads):
        reference.feed(read)
        try:
            engine.feed(read)
        except TraceError as error:
            failed = error
        driver += engine.take_driver_data()
        mismatches += engine.take_mismatches().tolist()
        if failed is not None:
            break
        if i in cut_after:
            check_interval(engine.snapshot(), reference.cut())
    if failed is None:
        try:
            engine.finish()
        except TraceError as error:
            failed = error
    last = reference.finish()
    assert (failed and failed.offset) == reference.bad
    check_interval(engine.snapshot(), last)
    assert driver == reference.driver_bytes()
    assert len(mismatches) == reference.mismatched
    assert [as_tuple(d) for d in engine.leftovers()] == [
        reference_tuple(t) for t in reference.leftovers()
    ]
    counters = engine.counters()
    del counters["sequence_gaps"], counters["completions_without_issue"]  # see test_losses
    unanswered = reference.given_up
    if failed is None:
        unanswered += sum(p.state in ("issued", "given back") for p in reference.waiting())
    assert counters.pop("issues_without_completion") >= unanswered  # with overdue requests
    assert counters == {
        "records": reference.overall,
        "requests": reference.matched,
        "mismatches": reference.mismatched,
        "driver_data_records": reference.driverdata,
        "evicted": reference.evicted,
        "lost_events": reference.lost_events,
        "skipped_bytes": reference.skipped,
        "over_device_limit": 0,
    }
    assert engine.pending == len(reference.leftovers())
    return engine


@pytest.mark.parametrize("block", range(4))
def test_engine_equals_reference_on_generated_streams(block: int) -> None:
    rng = random.Random(block)
    for seed in range(block * 40, block * 40 + 40):
        compare(streams.generate(seed, avoid="nothing").data, rng)


QUIRKS = {**quirks.CASES, **quirks.BROKEN}
LONG = "histogram_count_of_seven_columns"
"""About how a figure is printed: test_identity and test_reference test it."""


@pytest.mark.parametrize("name", sorted(QUIRKS.keys() - {LONG}))
def test_engine_equals_reference_on_quirk(name: str) -> None:
    compare(QUIRKS[name], random.Random(name))


@pytest.mark.parametrize("block", range(2))
@pytest.mark.parametrize("limit", ["number", "age"])
def test_eviction_equals_reference(limit: str, block: int) -> None:
    rng = random.Random(f"{limit} {block}")
    for seed in range(block * 30, block * 30 + 30):
        data = streams.generate(seed, avoid="nothing").data
        if limit == "number":
            compare(data, rng, max_pending=rng.choice([1, 2, 3, 5, 8, 16, 17, 33, 64]))
        else:
            max_age_ns = rng.choice([0, 1, 1000, 100_000, 10**7, 10**9])
            compare(data, rng, max_age_ns=max_age_ns, max_pending=rng.choice([4, 10**6]), cuts=5)


@pytest.mark.parametrize("max_pending", [16, 33, 64, 100])
def test_eviction_of_issues_in_backward_order_equals_reference(max_pending: int) -> None:
    # Each issue is older than all that are pending.
    rng = random.Random(f"backwards {max_pending}")
    records = []
    for n in range(20 * max_pending):
        records.append(issue(10**6 - 10 * n + rng.randrange(30), 8 * n, 4096))
        if n % 40 == 0:
            of_late = rng.sample(records[-max_pending:], min(len(records), max_pending // 3))
            records += [
                complete(one.time_ns + 5, one.sector, 4096) for one in of_late if one.sector
            ]
    compare(encode(records), rng, max_pending=max_pending)


BEGINS = re.compile(rb"[\x07\x08]tae|eat[\x07\x08]")
"""A record of either version and byte order."""


def damaged(stream: streams.Stream, rng: random.Random) -> bytes:
    """The stream with garbage and marks inserted, and bytes removed.

    At random places, half of which are where a record begins, as a mark would stand.
    """
    out = bytearray(stream.data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        begins = BEGINS.search(out, at)
        if begins and rng.random() < 0.5:
            at = begins.start()
        kind = rng.randrange(6)
        if kind == 0:
            out[at:at] = rng.randbytes(rng.choice([1, 3, 50, 500]))
        elif kind == 1:
            del out[at : at + rng.choice([1, 5, 60])]
        elif kind == 2:
            mark = tw.lost_mark(rng.randrange(9), rng.randrange(10**6))
            out[at:at] = rng.choice([mark, mark, b"CPU:3 [LOST EVENTS]\n"])
        elif kind == 3:
            out[at:at] = rng.choice([b"CPU:", b"CPU:1 [LOST", b"CPU:x\n", b"\x07tae", b"eat\x08"])
        elif kind == 4:
            # Exactly or nearly what ftrace's tracer of a version-8 kernel sends.
            category = rng.choice([0, tw.READ | tw.FS])
            category |= rng.choice([tw.ISSUE, tw.COMPLETE, tw.READ])
            action = tw.act(category, rng.choice([tw.EV_ISSUE, tw.EV_COMPLETE]))
            record = tw.Record(5, 8, 512, action, 8 << 20, pid=rng.choice([3, 4711, 1 << 22]))
            shuffled = bytearray(tw.encode_malformed_v8(record, stream.byteorder))
            if rng.random() < 0.3:
                shuffled[rng.randrange(24, 48)] ^= 1 << rng.randrange(8)
            out[at:at] = shuffled
        else:
            out = out[:at]
    return bytes(out)


@pytest.mark.parametrize("resync", [False, True])
@pytest.mark.parametrize("block", range(3))
def test_damaged_streams_equal_reference(block: int, resync: bool) -> None:
    rng = random.Random(f"damage {block} {resync}")
    for seed in range(block * 30, block * 30 + 30):
        data = damaged(streams.generate(seed, avoid="nothing"), rng)
        compare(data, rng, resync=resync)


def test_old_records_are_evicted_every_2_to_the_20_records() -> None:
    # An issue, a much later completion of another request, and a million records of another kind.
    other = encode([tw.notify_process(0, 1, "x", size=1)])
    first = encode([issue(0, 1, 4096), complete(10**9, 99, 1)])
    engine = fed(first + other * (2**20 - 2), max_age_ns=10**6)
    assert (engine.pending, engine.counters()["evicted"]) == (2, 0)
    engine.feed(other)
    assert (engine.pending, engine.counters()["evicted"]) == (1, 1)


def test_table_grows_and_empties_to_the_last_slot() -> None:
    n = 200_000
    sectors = np.random.default_rng(1).permutation(n) * 8
    issues = streams.issues(n, time=np.arange(n), sector=sectors, device=np.arange(n) % 50)
    engine = fed(issues.tobytes())
    assert engine.pending == n
    done = streams.completions(issues, 10**6)
    engine.feed(np.random.default_rng(2).permutation(done).tobytes())
    assert engine.pending == 0
    assert engine.counters()["requests"] == n
    rows = engine.snapshot().rows
    assert rows["requests"].sum() == n
    assert len(rows) == 50
    cut = engine.snapshot()
    rows, d2c_bins, size_bins = cut.rows, cut.d2c_bins, cut.size_bins
    assert len(rows) == len(d2c_bins) == len(size_bins) == 0


def latencies(*d2c_ns: int) -> bytes:
    """A read of each latency, one after the other."""
    records, now_ns = [], 1000
    for ns in d2c_ns:
        records += [issue(now_ns, 8, 512), complete(now_ns + ns, 8, 512)]
        now_ns += ns + 1
    return encode(records)


def test_latencies_at_every_limit_are_in_the_original_s_bucket_and_in_our_bin() -> None:
    limits_us = [1, *(2**i + 1 for i in range(3, 26)), 2**32, 2**32 + 9, 2**33 + 2**10, 2**40]
    d2c_ns = [1000 * us + more for us in limits_us for more in (-1, 0, 1, 999)]
    engine = fed(latencies(*d2c_ns), max_age_ns=NEVER_NS)
    cut = engine.snapshot()
    buckets = [0] * 25
    for ns in d2c_ns:
        us = ns // 1000 % 2**32  # the original's counter has 32 bits
        buckets[min(24, 1 + ((us - 1) // 8).bit_length()) if us else 0] += 1
    assert cut.rows["d2c_hist"][0].tolist() == buckets
    bins = sorted(Counter(map(bin_of, d2c_ns)).items())
    assert list(zip(cut.d2c_bins["bin"].tolist(), cut.d2c_bins["count"].tolist())) == bins
    assert cut.rows["requests"].tolist() == [len(d2c_ns)]


def test_histograms_are_the_same_with_and_without_spilling() -> None:
    rng = np.random.default_rng(5)
    pairs = np.frombuffer(encode([issue(0, 8, 0), complete(0, 8, 0)]), layout.TRACE_V7)
    data = np.tile(pairs, 1 << 16)
    steps = rng.integers(1, 1 << rng.integers(5, 22, len(data)))
    data["time"] = np.cumsum(steps)
    data["bytes"] = np.repeat(rng.integers(0, 300, len(data) // 2) * 512, 2)
    engines = [tuned(spill_every=every) for every in (1, 5000, 2**31)]
    half = data.nbytes // 2
    for part in (data.tobytes()[:half], data.tobytes()[half:]):
        for engine in engines:
            engine.feed(part)
        always, at_times, never = (engine.snapshot() for engine in engines)
        assert tables(always) == tables(at_times) == tables(never)
        assert never.rows["requests"].sum() == never.size_bins["count"].sum() > 30_000


@pytest.mark.parametrize("plain_cpu", [False, True])
@pytest.mark.parametrize("many", [1, 2, 63, 64, 65, 500])
def test_latencies_and_sizes_of_every_magnitude_are_accounted_exactly(
    many: int, plain_cpu: bool
) -> None:
    rng = random.Random(many)
    limits_ns = [0, 128, 1000, 2000, 4000, 9000, 2**24, 2**29, 2**31, 2**32, 2**40]
    limits_ns += [1000 * 8 * 2**i + 1000 for i in range(20)]
    records = []
    for n in range(many):
        d2c_ns = max(0, rng.choice(limits_ns) + rng.randrange(-3, 4))
        if rng.random() < 0.5:
            d2c_ns = rng.getrandbits(rng.randrange(10, 33))
        size = 512 * rng.getrandbits(rng.randrange(12))
        if rng.random() < 0.1:
            size = rng.choice([1, 511, 513, 2**20 - 512, 2**20, 2**20 + 512, 2**21, 2**31])
        records += [issue(n, 8 * n, size), complete(n + d2c_ns, 8 * n, size)]
    ref = Reference(as_original=True)
    ref.feed(encode(records))
    engine = fed(records, as_original=True, max_age_ns=NEVER_NS, plain_cpu=plain_cpu)
    check_interval(engine.snapshot(), ref.cut())


@pytest.mark.parametrize("a, b", [(4096000, 100), (2**32 * 1000 - 1000, 1), (1000, 2**54), (0, 3)])
def test_throughput_is_the_integer_quotient(a: int, b: int) -> None:
    records = [issue(5, 8, a // 1000), complete(5 + 1000 * b, 8, a // 1000)]
    engine = fed(records, max_age_ns=NEVER_NS)
    assert moments(engine.snapshot().rows["throughput"][0])[:3] == (a // b,) * 3


@pytest.mark.parametrize(
    "use", ["snapshot", "counters", "finish", "leftovers", "take_skips", "feed"]
)
def test_use_by_another_thread_while_one_feeds_is_refused(use: str) -> None:
    engine = Engine(keep_details=use == "leftovers")
    data = latencies(*[1000] * 200) * 100
    refused = threading.Event()

    def feed() -> None:
        deadline = time.monotonic() + 60
        while not refused.is_set() and time.monotonic() < deadline:
            with suppress(RuntimeError):  # while the other one cuts
                engine.feed(data)

    thread = threading.Thread(target=feed)
    thread.start()
    while thread.is_alive():
        try:
            getattr(engine, use)(*[b""] * (use == "feed"))
        except RuntimeError as error:
            assert str(error) == "another thread is using this engine"
            refused.set()
            thread.join()
    assert refused.is_set()
    assert engine.counters()["records"] % 40_000 == 0


def test_version_and_byte_order_make_no_difference() -> None:
    def results(data: bytes) -> tuple[Any, ...]:
        engine = fed(data, keep_details=True, keep_driver_data=True)
        details = engine.leftovers().tobytes(), engine.take_mismatches().tobytes()
        return tables(engine.snapshot()), *details, engine.take_driver_data(), engine.counters()

    for seed in range(40):
        stream = streams.generate(seed)
        native = results(stream.data)
        for other in (stream.twin(), stream.swapped(), stream.twin().swapped()):
            assert results(other.data) == native, (seed, other.version, other.byteorder)


def test_zone_append_event_without_complete_bit_does_not_complete() -> None:
    # A version-8 zone append has the low word of a completion (8).
    append = tw.Record(5000, 1, 4096, tw.act(tw.ZONE_APPEND | tw.WRITE | tw.FS, 8), 8 << 20)
    engine = fed([issue(1000, 1, 4096, tw.WRITE | tw.FS), append], version=8)
    assert engine.counters()["requests"] == 0
    assert engine.pending == 1


def test_version_8_record_with_version_7_magic_is_recognised() -> None:
    engine = fed([issue(1, 1, 1)])
    record = issue(1000, 8, 4096, tw.READ | tw.FS, 8 << 20 | 16, pid=4711, cpu=1)
    with pytest.raises(TraceError, match="version-8 record with the magic of version 7") as raised:
        engine.feed(tw.encode_malformed_v8(record))
    assert raised.value.offset == 48


def test_error_says_what_was_found_and_where() -> None:
    engine = Engine()
    with pytest.raises(TraceError) as raised:
        engine.feed(encode([issue(1, 1, 1)]) + b"garbage!" * 10)
    assert str(raised.value) == (
        "at byte offset 48: found magic 62726167, "
        "expected 65617407 or 65617408, a block trace of version 7 or 8"
    )


def test_failed_engine_refuses_further_use_and_keeps_its_figures() -> None:
    engine = Engine()
    good = encode([issue(1, 1, 1), complete(5001, 1, 1)])
    with pytest.raises(TraceError):
        engine.feed(good + b"garbage!" * 8)
    with pytest.raises(TraceError):
        engine.feed(good)
    with pytest.raises(TraceError):
        engine.finish()
    assert engine.counters()["records"] == 2
    rows = engine.snapshot().rows
    assert rows["requests"].tolist() == [1]


@pytest.mark.parametrize("cut", range(1, 58))
def test_end_inside_a_record_is_an_error_at_its_offset(cut: int) -> None:
    data = encode([issue(1, 1, 1), issue(2, 2, 2, payload=b"0123456789")])[: 48 + cut]
    engine = fed(data)
    with pytest.raises(TraceError, match="end of the input") as raised:
        engine.finish()
    assert raised.value.offset == 48


@pytest.mark.parametrize("version", [7, 8])
@pytest.mark.parametrize("cut", [1, 3, 4, 40])
def test_error_at_the_end_does_not_depend_on_the_pieces_fed(version: int, cut: int) -> None:
    data = encode([issue(1, 1, 1), issue(2, 2, 2)], version)
    data = data[: len(data) // 2 + cut]
    errors = []
    for at in (0, len(data) - cut):
        engine = Engine()
        engine.feed(data[:at])
        engine.feed(data[at:])
        with pytest.raises(TraceError) as raised:
            engine.finish()
        errors.append(str(raised.value))
    assert errors[0] == errors[1]


def test_skips_are_reported_with_their_offsets() -> None:
    engine = Engine(resync=True)
    one = encode([issue(1, 1, 1)])
    engine.feed(one + b"x" * 100 + one + b"y" * 7)
    engine.finish()
    assert engine.take_skips() == [(48, 100), (196, 7)]
    assert engine.counters()["skipped_bytes"] == 107


def test_the_engine_keeps_a_limited_list_of_skips() -> None:
    engine = Engine(resync=True)
    mark = tw.lost_mark(0, 1)
    for _ in range(30):
        engine.feed((b"?" + mark) * 10_000)
    skips = engine.take_skips()
    assert skips == [(n * (1 + len(mark)), 1) for n in range(1 << 18)]
    assert engine.counters()["skipped_bytes"] == 300_000


@pytest.mark.parametrize(
    "short", ["garbage", "CPU:1", "CPU:1 [LOST 3", MAGIC_V7, MAGIC_V7 + "x" * 20]
)
def test_mark_after_an_incomplete_record_or_mark_is_counted(short: str) -> None:
    data = encode([issue(1, 1, 1)]) + b"?" + short.encode("latin-1") + tw.lost_mark(1, 5) + b"C"
    engine = fed(data, resync=True)
    engine.finish()
    counters = engine.counters()
    assert (counters["lost_events"], counters["skipped_bytes"]) == (5, len(short) + 2)
    assert engine.take_skips() == [(48, 1 + len(short)), (len(data) - 1, 1)]
    compare(data, random.Random(short), resync=True, cuts=0)


@pytest.mark.parametrize(
    "limits",
    [
        *({"max_pending": 0}, {"max_pending": 2**33}, {"max_age_ns": -1}, {"max_age_ns": 2**64}),
        *({"from_ns": -1}, {"from_ns": 2**64}, {"max_devices": 0}, {"max_devices": 2**22}),
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be from"):
        Engine(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_records_are_handed_out_as_a_structured_array(seed: int) -> None:
    data = streams.generate(seed, avoid="nothing").data
    expected: list[Trace] = []
    Reference(on_record=expected.append).feed(data)
    engine = fed(data, keep_records=True)
    records = engine.take_records()
    assert len(engine.take_records()) == 0
    assert records.dtype == layout.RECORD
    assert [as_tuple({"record": r, "order": i}) for i, r in enumerate(records)] == [
        reference_tuple(t) for t in expected
    ]


def as_c_reads(value: Any) -> Any:
    """A numpy element as Cython converts a struct: 128-bit numbers, pads and records by name."""
    if value.dtype.names:
        return {name: as_c_reads(value[name]) for name in value.dtype.names}
    if value.dtype.kind == "V":
        return value.tobytes()
    if value.shape == (2,):
        return int.from_bytes(value.tobytes(), sys.byteorder)
    return value.tolist()


STRUCTS = _read_structs(random.Random("structs").randbytes(1024).replace(b"\0", b"x"))


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_struct_and_dtype_have_the_same_fields_at_the_same_offsets(name: str) -> None:
    data = random.Random("structs").randbytes(1024).replace(b"\0", b"x")
    dtype = getattr(layout, name)
    size, as_struct = STRUCTS[name]
    assert dtype.itemsize == size
    as_dtype = as_c_reads(np.frombuffer(data, dtype, 1)[0])
    if name == "LOAD":  # not a number of C, but two
        words = np.array(as_struct["in_flight_ns"], np.uint64)
        as_struct = as_struct | {"in_flight_ns": as_c_reads(words)}
    assert list(as_struct) == list(as_dtype)
    assert as_struct == as_dtype


def test_engine_is_ready_without_init_and_cannot_be_initialised_again() -> None:
    engine = Engine.__new__(Engine)
    data = encode([issue(1, 8, 512), complete(5001, 8, 512)])
    assert engine.feed(b"") == 0
    engine.feed(data[:50])
    engine.__init__(max_pending=1)  # type: ignore[misc]
    engine.feed(data[50:])
    assert (engine.requests, engine.pending) == (1, 0)
    assert engine.snapshot().rows["d2c_ns"]["max"].tolist() == [5000]


def test_engine_that_was_used_cannot_be_tuned() -> None:
    engine = fed([issue(1, 8, 512)])
    with pytest.raises(ValueError, match="cannot be tuned"):
        engine._tune(hash_seed=1)


def test_engine_cannot_be_subclassed() -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Ours", (Engine,), {})
