"""Intervals as bytes: round trips, versions, damaged bytes, and merging in any order."""

from __future__ import annotations

import itertools
import os
import random
import zlib
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

import goldenfiles
import intervals as intervals_module
import numpy as np
import pytest
import streams
from hypothesis import given, settings
from hypothesis import strategies as st
from intervals import DM3, HUNG, SDB, Io, example, interval_of, use_all
from strategies import IOS

from blkiomon import IntervalError, from_bytes, library, summarize, to_bytes
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot
from blkiomon.formats import binary_codec, validation
from blkiomon.formats.binary_codec import CRC_BYTES, MAGIC, VERSION, VERSION_OF_PARTS
from blkiomon.interval.value import Counts, Interval, merge

S = 10**9
GOLDEN = goldenfiles.DIRECTORY / "interval.bkiv"
TRACES = Path(__file__).parent / "data"

COUNTS = st.builds(
    Counts,
    **{
        name: st.integers(0, 1 << 70)
        for name in ("records", "lost_events", "sequence_gaps", "completions_without_issue")
    },
)


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    """An interval of any requests; those of one list may overlap or end together."""
    start_ns = draw(st.integers(0, 3)) * S
    end_ns = start_ns + draw(st.integers(0, 2)) * S
    named = draw(st.dictionaries(st.integers(1, 3), st.sampled_from(["dd", "fio", "\udcff", ""])))
    item = interval_of(draw(st.lists(IOS, max_size=6)), start_ns, end_ns, named)
    return replace(item, counts=draw(COUNTS))


def assert_same(one: Interval, two: Interval) -> None:
    """Compares all that bytes hold: everything but the order of devices."""
    intervals_module.assert_same(one, two)
    assert sorted(one.device_stats(), key=lambda s: s.device) == sorted(
        two.device_stats(), key=lambda s: s.device
    )
    assert one.named_ns == two.named_ns


@given(intervals())
@settings(max_examples=60, deadline=None)
def test_interval_survives_the_round_trip_through_bytes(item: Interval) -> None:
    back = from_bytes(to_bytes(item))
    assert_same(back, item)
    assert to_bytes(back) == to_bytes(item)
    assert back.percentile(75) == item.percentile(75)


@given(st.lists(intervals(), min_size=2, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_merging_is_exact_in_any_order_and_grouping(
    items: list[Interval], chance: random.Random
) -> None:
    """Also if parts are written and read again in between."""
    whole = to_bytes(merge(items))
    parts = list(items)
    while len(parts) > 1:
        chance.shuffle(parts)
        one, two, *rest = parts
        merged = one.merge(two)
        parts = [*rest, from_bytes(to_bytes(merged)) if chance.random() < 0.5 else merged]
    assert to_bytes(parts[0]) == whole
    assert sum(i.total.requests for i in items) == parts[0].total.requests
    assert sum((i.counts for i in items), Counts()) == parts[0].counts


def test_merged_figures_are_those_of_all_requests() -> None:
    """Compared with one long interval, which was not merged."""
    ios = [io for io in example() if io.d2c_ns is not None]
    parts = [interval_of(ios, k * S, (k + 1) * S) for k in range(4)]
    whole = to_bytes(interval_of(ios, 0, 4 * S))
    for order in itertools.permutations(parts):
        assert to_bytes(reduce(Interval.merge, order)) == whole


def test_latest_name_of_a_process_is_kept_in_any_order_of_merging() -> None:
    def named(start_s: int, name: str) -> Interval:
        io = Io(SDB, "read", 512, start_s * S, 5, pid=7)
        return interval_of([io], start_s * S, (start_s + 1) * S, {7: name})

    early, middle, late = named(0, "a"), named(1, "b"), interval_of([], 2 * S, 3 * S)
    merged = [late.merge(early).merge(middle), late.merge(middle).merge(early), middle.merge(late)]
    assert [item.process_names for item in merged] == [{7: "b"}] * 3


def test_numbers_beyond_64_bits_survive_the_round_trip() -> None:
    items = [
        Interval(
            time_s=-5,
            devices=np.empty(0, "u4"),
            counts=Counts(records=2**100),
            start_ns=-(2**64),
            end_ns=2**65,
            clock="trace",
            anchored=False,
        ),
        interval_of([Io(SDB, "read", 2**32 - 1, 0, 2**62, q2d_ns=2**62)], 0, 2**63),
    ]
    for item in items:
        assert_same(from_bytes(to_bytes(item)), item)
    with pytest.raises(ValueError, match="out of range"):
        to_bytes(Interval(time_s=0, devices=np.empty(0, "u4"), counts=Counts(lost_events=2**128)))


def test_bytes_do_not_depend_on_the_order_of_rows() -> None:
    item = interval_of(example(), 0, 3 * S)
    order = np.random.default_rng(3).permutation(len(item.rows))
    place = np.argsort(order).astype("u4")
    d2c, size = item.snapshot.d2c_bins.copy(), item.snapshot.size_bins.copy()
    for bins in (d2c, size):
        bins["row"] = place[bins["row"]]
    cut = Snapshot(
        rows=item.rows[order],
        d2c_bins=d2c[::-1],
        size_bins=size[::-1],
        loads=item.snapshot.loads[::-1],
        queue_rows=item.snapshot.queue_rows,
        q2d_bins=item.snapshot.q2d_bins,
        q2c_bins=item.snapshot.q2c_bins,
        processes=item.snapshot.processes[::-1],
    )
    other = Interval(
        time_s=item.time_s,
        devices=item.devices[::-1],
        snapshot=cut,
        counts=item.counts,
        start_ns=item.start_ns,
        end_ns=item.end_ns,
    )
    assert to_bytes(other) == to_bytes(item)


def test_every_count_survives_the_round_trip() -> None:
    counts = Counts(**{f.name: 2**n for n, f in enumerate(fields(Counts))})
    item = Interval(time_s=0, devices=np.empty(0, "u4"), counts=counts)
    assert from_bytes(to_bytes(item)).counts == counts


# --- bytes that stay what they are ---------------------------------------------------------------


def stored_interval() -> Interval:
    """A real trace with processes, wide sums and times before 1970 added."""
    ios = [
        Io(SDB, "read", 4096, -S, S // 2, pid=3),
        Io(DM3, "write", 2**32 - 1, -S, 2**61, True, 7, 4, 2),
        Io(DM3, "zone", 0, -S, S // 2, pid=3),
    ]
    early = Io(SDB, "read", 512, -S, 5, pid=5)
    names = {3: "dd", 4: "µ"}
    retries = np.zeros(1, layout.RETRY_ROW)
    retries["device"], retries["op"], retries["requeues"], retries["requests"] = SDB, 1, 3, 1
    for name in ("min", "max"):
        retries["f2c_ns"][name] = 2**40
    retries["f2c_ns"]["sum"], retries["f2c_ns"]["sum_squares"] = (2**40, 0), (0, 2**16)
    requeued = replace(
        interval_of([], -S, 0, clock="trace", anchored=False),
        snapshot=Snapshot(retry_rows=retries),
        missing_files=2,
    )
    whole = summarize(TRACES / "loop-ext4-all.bin")
    return whole.merge(
        requeued,
        interval_of(ios, -S, 2**62, names, clock="trace", anchored=False),
        interval_of([early], -S, 0, {5: "cp"}, clock="trace", anchored=False),
    )


def test_bytes_of_version_1_have_not_changed() -> None:
    """If this fails, existing archives can no longer be read: make a new version."""
    stored = GOLDEN.read_bytes()
    assert stored[:5] == b"bkiv\x01"
    back = from_bytes(stored)
    assert to_bytes(back) == stored
    item = stored_interval()
    assert item.named_ns == {5: 0}
    assert item.total.requeues == 3
    assert item.missing_files == 2
    assert_same(back, item)
    assert to_bytes(item) == stored


def test_interval_takes_at_most_400_bytes_a_row_and_3_a_bin() -> None:
    items = [interval_of(example(), k * S, (k + 1) * S) for k in range(3)]
    for item in items:
        n_bins = sum(len(bins) for bins in (item.snapshot.d2c_bins, item.snapshot.size_bins))
        n_bins += len(item.snapshot.q2d_bins) + len(item.snapshot.q2c_bins)
        assert len(to_bytes(item)) < 400 * len(item.rows) + 3 * n_bins + 200


# --- damaged bytes -------------------------------------------------------------------------------

SMALL = to_bytes(interval_of([Io(SDB, "read", 4096, 0, 1000, q2d_ns=5, pid=3)], 0, S, {3: "dd"}))


def sealed(body: bytes) -> bytes:
    """With the checksum that belongs to it."""
    return body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cut short"),
        (MAGIC, "cut short"),
        (b"PAR1 and more", "begins with"),
        (SMALL[:-1], "damaged or cut short"),
        (SMALL + b"\0", "damaged or cut short"),
        (sealed(SMALL[:4] + bytes([VERSION_OF_PARTS + 1]) + SMALL[5:-4]), "version 3"),
        (sealed(SMALL[:-4] + b"\0"), "1 numbers after its end"),
        (sealed(SMALL[:-5]), "ends"),
        (sealed(SMALL[:-4] + b"\x80"), "inside a number"),
        (sealed(SMALL[:5] + b"\xff" * 9 + b"\x7f" + SMALL[5:-4]), "64 bits"),
        (sealed(SMALL[:5]), "too early"),
    ],
)
def test_bytes_that_are_not_an_interval_are_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(IntervalError, match=why):
        from_bytes(data)


@given(st.binary(max_size=100))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(data: bytes) -> None:
    for one in (data, MAGIC + data, sealed(MAGIC + bytes([VERSION]) + data)):
        with pytest.raises(IntervalError):
            from_bytes(one)


@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_any_damaged_byte_is_noticed(at: int, by: int) -> None:
    damaged = bytearray(SMALL)
    damaged[at] ^= by
    with pytest.raises(IntervalError):
        from_bytes(bytes(damaged))


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 1 << 20, 1 << 31, 1 << 32, 1 << 52, 1 << 63, (1 << 64) - 1]),
    st.integers(0, 300),
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_changed_numbers_with_a_valid_checksum_are_refused_or_usable(data: st.DataObject) -> None:
    """Every figure of an interval that is accepted can be used without an error."""
    numbers = binary_codec._from_varints(SMALL[5:-4]).tolist()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(numbers) - 1))
        until = at + data.draw(st.sampled_from([1, 1, 1, 1, 0, 2]))
        numbers[at:until] = data.draw(st.lists(NUMBERS, min_size=1, max_size=1))
    body = binary_codec._to_varints(np.array(numbers, np.uint64))
    try:
        item = from_bytes(sealed(SMALL[:5] + body))
    except IntervalError:
        return
    use_all(item)


def changed(table: str, field: str, value: Any, row: int = 0) -> Interval:
    """An interval with one figure changed."""
    item = interval_of(TWO, 0, S, {3: "dd"})
    cut = replace(item.snapshot, **{table: getattr(item.snapshot, table).copy()})
    getattr(cut, table)[field][row] = value
    return replace(item, snapshot=cut)


TWO = [
    Io(SDB, "read", 4096, 0, 1000, q2d_ns=5, pid=3),
    Io(SDB, "read", 512, 0, 77, q2d_ns=900, pid=4),
    Io(HUNG, "write", 4096, 5, None),
]
MOST = (1 << 64) - 1


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (changed("rows", "op", 7), "requests: op is out of range"),
        (changed("rows", "direction", 3), "direction is out of range"),
        (changed("rows", "requests", 3), "8:16 read: d2c_ns: "),
        (changed("rows", "requests", 1 << 53), "8:16 read: requests are not from 1 to 4503599627"),
        (changed("rows", "errors", 3), "8:16 read: more errors than requests"),
        (changed("rows", "d2c_ns", (1, 0, (1, 0), (1, 0))), "d2c_ns: min exceeds max"),
        (changed("rows", "d2c_ns", (78, 1000, (1078, 0), (1006084, 0))), "in its first and its"),
        (
            # With two values, minimum and maximum are the values.
            changed("rows", "d2c_ns", (77, 1000, (1078, 0), (1005930, 0))),
            "d2c_ns: 2 values cannot have",
        ),
        (
            changed("rows", "size_bytes", (512, 4096, (9000, 0), (1 << 25, 0))),
            "size_bytes: 2 values cannot have",
        ),
        (changed("rows", "d2c_us", (MOST, 0, (0, 0), (0, 0))), "8:16 read: d2c_us: min exceeds"),
        (changed("rows", "d2c_hist", 0), "d2c_hist and size_hist differ"),
        (changed("rows", "size_hist", 9), "size_hist is too large"),
        (changed("queue_rows", "requests", 1), "8:16 read: q2d_ns: "),
        (changed("d2c_bins", "bin", 3776, 1), "a bin"),
        (changed("d2c_bins", "bin", 1, 1), "bins are not in ascending order|min and max"),
        (changed("d2c_bins", "count", 0), "the count of a bin is out of range"),
        (changed("q2c_bins", "count", 2), "its bins do not add up to its requests"),
        (changed("loads", "op", 9), "in flight: op is out of range"),
        (changed("loads", "device", 1), "in flight: the total has a device"),
        (changed("loads", "max_in_flight", 0), "in flight: end exceeds max"),
        (changed("loads", "in_flight", 0), "in flight: oldest_ns is given but end is 0"),
        (replace(interval_of(TWO, 0, S), start_ns=S + 1), "is before start_ns"),
        (replace(interval_of(TWO, 0, S), end_ns=1 << 66), "a time is out of range"),
        (
            replace(interval_of(TWO, 0, S), counts=Counts(sequence_gaps=1 << 112)),
            "the count sequence_gaps is",
        ),
    ],
)
def test_bytes_that_contradict_themselves_are_refused(item: Interval, why: str) -> None:
    with pytest.raises(IntervalError, match=why):
        validation.check(item)
    data = to_bytes(item)
    with pytest.raises(IntervalError, match=why):
        from_bytes(data)


def test_process_listed_twice_is_refused() -> None:
    with pytest.raises(IntervalError, match="processes: two rows have the same pid"):
        validation.check(changed("processes", "pid", 4, 1))


def test_bin_of_no_row_is_refused() -> None:
    with pytest.raises(IntervalError, match="a bin is out of range"):
        validation.check(changed("d2c_bins", "row", 1, 1))


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.bin")), ids=lambda path: path.stem)
def test_every_interval_of_a_trace_is_consistent(path: Path) -> None:
    for item in library.intervals(path, 1.5, resync=True):
        validation.check(item)


@pytest.mark.parametrize("seed", range(6))
def test_every_interval_of_a_random_stream_is_consistent(seed: int) -> None:
    stream = streams.generate(seed, "nothing", 200)
    for max_age_s in (0.001, 600):
        item = library.summarize(stream.data, max_pending=20, max_age_s=max_age_s)
        validation.check(item)
        use_all(item)


if __name__ == "__main__":  # makes the stored bytes: only ever for a new version
    assert not GOLDEN.exists() or os.environ.get("OVERWRITE")
    GOLDEN.write_bytes(to_bytes(stored_interval()))
