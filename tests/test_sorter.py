"""A stream that has one CPU's records after another's is put in order of time."""

from __future__ import annotations

import io
import json
import os
import select
import signal
from collections.abc import Sequence
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runner
import tracewriter as tw
from hypothesis import given
from hypothesis import strategies as st
from runner import Running
from tracewriter import Record, complete, encode, issue

import blkiomon
from blkiomon._core import Engine
from blkiomon.sources import source_of
from blkiomon.sources.readers import OpenedReader, Reader
from blkiomon.sources.sorter import Order, Sorter
from blkiomon.sources.streams import LATENESS_NS, LOOK_AHEAD_BYTES, SortedStream

MS = 10**6

FLUSH = tw.READ | tw.FLUSH | tw.FS
CROSSING = [
    issue(10 * MS, 0, 0, FLUSH, cpu=0),
    issue(30 * MS, 0, 0, FLUSH, cpu=0),
    complete(20 * MS, 0, 0, FLUSH, cpu=1),
    complete(40 * MS, 0, 0, FLUSH, cpu=1),
]
"""Two flushes, issued on one CPU and completed on another: blktrace's pipe has the CPUs in turn."""


def by_time(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.time_ns)


@st.composite
def batches(draw: st.DrawFn) -> list[Record]:
    """Batches of records of one device and CPU, one after another; inside, times never go back."""
    latest = [0, 0, 0]
    found: list[Record] = []
    for n in draw(st.lists(st.integers(0, 2), min_size=1, max_size=12)):
        for step in draw(st.lists(st.integers(0, 3), max_size=6)):
            latest[n] += step
            record = issue(latest[n], 8, 512, device=n % 2, cpu=n // 2, pid=len(found))
            found.append(record._replace(payload=draw(st.binary(max_size=9))))
    return found


@given(batches(), st.sampled_from([7, 8]), st.sampled_from("<>"), st.integers(1, 200))
def test_records_come_out_by_time_and_equal_times_in_their_order(
    records: list[Record], version: int, byteorder: str, piece_bytes: int
) -> None:
    data = encode(records, version, byteorder)
    sorter = Sorter()
    for begin in range(0, len(data), piece_bytes):
        sorter.add(memoryview(data)[begin : begin + piece_bytes])
    assert bytes(sorter.take()) == encode(by_time(records), version, byteorder)
    assert sorter.held_bytes == 0


@given(batches(), st.integers(0, 20))
def test_records_that_are_not_due_are_kept_in_order(records: list[Record], until: int) -> None:
    sorter = Sorter()
    sorter.add(encode(records))
    due = [record for record in by_time(records) if record.time_ns <= until]
    assert bytes(sorter.take(until)) == encode(due)
    assert bytes(sorter.take()) == encode(by_time(records)[len(due) :])


@given(batches(), st.sampled_from([7, 8]), st.sampled_from("<>"), st.integers(1, 200))
def test_the_first_record_out_of_order_is_found(
    records: list[Record], version: int, byteorder: str, piece_bytes: int
) -> None:
    data = encode(records, version, byteorder)
    order = Order()
    for begin in range(0, len(data), piece_bytes):
        if order.is_kept:
            order.follow(data[begin : begin + piece_bytes])
    latest = records[:1]
    for record in records:
        if record.time_ns >= latest[-1].time_ns:
            latest.append(record)
        elif (record.device, record.cpu) != (latest[-1].device, latest[-1].cpu):
            assert not order.is_kept
            return
    assert order.is_kept


def test_nothing_counts_behind_zeros_that_are_not_padding() -> None:
    order = Order()
    for piece in (encode(CROSSING[:1]) + bytes(60), encode(CROSSING[1:2])):
        order.follow(piece)
    order.follow(bytes(9) + encode(CROSSING[2:]))
    assert order.is_kept


@given(batches(), st.integers(1, 200))
def test_where_the_first_record_in_a_piece_begins(records: list[Record], piece_bytes: int) -> None:
    units = [encode([record]) for record in records]
    units[1:1] = [tw.lost_mark(0, 1)]
    begins = list(accumulate(map(len, units)))
    data = b"".join(units)
    order = Order()
    for at in range(0, len(data), piece_bytes):
        piece = data[at : at + piece_bytes]
        expected = min(begin - at for begin in [0, *begins] if begin >= at)
        assert order.follow(piece) == min(expected, len(piece))
        if not order.is_kept:
            return


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Such batches, with marks of lost events, padding and bytes that are not a record."""
    parts = [b"\xff" * 10, b"C" * 70, bytes(60), bytes(9), b"\0C", tw.lost_mark(0, 3)]
    found = b""
    for record in draw(batches()):
        found += encode([record]) + draw(st.sampled_from([b""] * 4 + parts))
    return found


def read(data: bytes) -> tuple[list[bytes], int, int]:
    """The records in any order, the lost events and the bytes that are not part of records."""
    engine = Engine(records_only=True, resync=True)
    engine.feed(data)
    engine.finish()
    records = [record.tobytes() for record in np.sort(engine.take_records())]
    counters = engine.counters()
    return records, counters["lost_events"], counters["skipped_bytes"] + engine.padding_bytes


@given(damaged(), st.integers(1, 300), st.sampled_from([0, 100, 1000, 10_000]))
def test_nothing_is_lost_by_sorting(data: bytes, piece_bytes: int, look_ahead_bytes: int) -> None:
    stream = SortedStream(look_ahead_bytes=look_ahead_bytes, resync=True)
    pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
    passed = [bytes(stream.add(memoryview(piece))) for piece in pieces]
    taken = b"".join([*passed, *(bytes(piece) for piece in iter(stream.rest, b""))])
    assert len(taken) == len(data)
    assert read(taken) == read(data)


def test_sorted_stream_passes_as_it_is() -> None:
    data = encode(by_time(CROSSING))
    stream = SortedStream()
    piece = memoryview(data + data[:20])
    assert stream.add(piece) is piece
    assert (stream.is_in_order, bytes(stream.rest())) == (True, b"")


def test_a_process_name_stays_before_the_record_that_it_preceded() -> None:
    late, early = issue(30, 8, 512, cpu=0), issue(20, 8, 512, cpu=1)
    before_late, before_early = (tw.notify_process(0, n, "fio", cpu=n) for n in (1, 2))
    sorter = Sorter()
    sorter.add(encode([issue(1, 8, 512), early, before_late, late, before_early]))
    sorter.add(encode([issue(25, 16, 512, cpu=1)]))
    expected = [issue(1, 8, 512), early, before_late, issue(25, 16, 512, cpu=1), late, before_early]
    assert bytes(sorter.take()) == encode(expected)


@pytest.mark.parametrize("where", [0, 2, 4])
def test_padding_is_kept(where: int) -> None:
    padded = encode(CROSSING[:where]) + bytes(60) + encode(CROSSING[where:])
    sorter = Sorter()
    sorter.add(padded)
    taken = bytes(sorter.take())
    assert len(taken) == len(padded)
    assert taken.replace(bytes(60), b"", 1) == encode(by_time(CROSSING))


@pytest.mark.parametrize("garbage", [b"garbage " * 8, bytes(47)])
def test_bytes_that_are_no_record_pass_after_the_held_records(garbage: bytes) -> None:
    sorter = Sorter()
    garbage += encode(CROSSING)
    sorter.add(encode(CROSSING) + garbage)
    assert bytes(sorter.take(0)) == encode(by_time(CROSSING)) + garbage
    sorter.add(encode(CROSSING))
    assert bytes(sorter.take(0)) == encode(CROSSING)


@pytest.mark.parametrize("damage", [tw.lost_mark(0, 1), b"\xff" * 10, b"\xff" * 200, bytes(50)])
def test_damage_stays_after_a_record_and_sorting_goes_on(damage: bytes) -> None:
    first, *others = CROSSING
    sorter = Sorter(resync=True)
    sorter.add(encode([first]) + damage + encode(others))
    assert bytes(sorter.take()) == encode([first]) + damage + encode(by_time(others))
    sorter.add(encode(CROSSING))
    assert bytes(sorter.take()) == encode(by_time(CROSSING))


@pytest.mark.parametrize("garbage", [b"garbage", b"\0garbage", bytes(47)])
def test_the_offset_of_bytes_that_moved_is_known(garbage: bytes) -> None:
    sorter = Sorter(resync=True, begin=1000)
    sorter.add(encode(CROSSING[:2]) + garbage + encode(CROSSING[2:]))
    assert bytes(sorter.take())[3 * 48 :].startswith(garbage)
    assert sorter.origin(1000 + 3 * 48) == 1000 + 2 * 48
    assert sorter.origin(7) == 7


def test_a_time_far_ahead_does_not_end_sorting() -> None:
    stream = SortedStream()
    wrong = issue(LATENESS_NS * 10**6, 8, 512, cpu=2)
    begin = [issue(1, 8, 512, cpu=1), wrong]
    more = [issue(2 * LATENESS_NS + t, 8, 512, cpu=cpu) for cpu in (0, 1) for t in range(1000)]
    end = [issue(9 * LATENESS_NS + t, 8, 512) for t in range(10_000)]
    taken = b"".join(
        bytes(stream.add(memoryview(encode(records)))) for records in (begin, more, end)
    )
    assert taken == encode([*begin, *by_time(more)])


def test_beyond_the_limit_the_earliest_records_pass() -> None:
    records = [issue(t, 8, 512) for t in range(0, 20, 2)]
    sorter = Sorter()
    sorter.add(encode([*records, issue(1, 8, 512, cpu=1)]))
    assert bytes(sorter.take(0, 480)) == encode([records[0]])
    assert bytes(sorter.take(0, 400)) == encode([issue(1, 8, 512, cpu=1), records[1]])
    assert sorter.held_bytes == 8 * 48


def test_what_arrived_long_ago_is_due_though_nothing_follows() -> None:
    now_ns = 0
    stream = SortedStream(monotonic_ns=lambda: now_ns)
    assert not stream.add(memoryview(encode(CROSSING)))
    assert not stream.due()
    now_ns = LATENESS_NS - 1
    assert not stream.due()
    now_ns = LATENESS_NS
    assert bytes(stream.due()) == encode(by_time(CROSSING))


def test_records_are_held_for_the_stated_time() -> None:
    stream = SortedStream(monotonic_ns=lambda: 0)
    stream.add(memoryview(encode(CROSSING)))
    later = [issue(40 * MS + LATENESS_NS + n, 8, 512) for n in range(10_000)]
    assert bytes(stream.add(memoryview(encode(later)))) == encode(by_time(CROSSING))
    assert bytes(stream.rest()) == encode(later)


def test_crossing_flushes_in_a_pipe_are_paired() -> None:
    # Records that come before the clock is chosen are sorted once it is.
    with Running("-I", "0.1", "--json", "-", "--clock", "auto") as running:
        running.write(encode(CROSSING))
        running.close_input()
        status, out, err = running.end()
    intervals = [json.loads(line) for line in out.splitlines()]
    flushes = [
        op["requests"]
        for interval in intervals
        for device in interval["devices"]
        for name, op in device["ops"].items()
        if name == "flush"
    ]
    assert (status, "incomplete" in err, sum(flushes)) == (0, False, 2)


@pytest.mark.parametrize("clock", ["trace", "auto"])
def test_few_records_pass_in_time_also_by_the_trace_clock(clock: str) -> None:
    with Running("-I", "1", "--json", "-", "--clock", clock).started() as running:
        output = running.process.stdout
        assert output is not None
        running.write(encode(CROSSING))
        first = 300  # when output begins: with --clock auto, the clock is chosen then
        found = b""
        for second in range(1, 300):  # far less than one piece is sorted at a time
            running.write(encode([issue(second * LATENESS_NS, 8, 512)]))
            if select.select([output], [], [], 0.05)[0]:
                first = min(first, second)
                found += os.read(output.fileno(), 1 << 20)
            if found.count(b"\n") > first:
                break
        assert found.count(b"\n") > first
        assert b'"total":{"requests":2,' in found.partition(b"\n")[0]
        running.end(signal.SIGTERM)


def test_crossing_flushes_in_a_file_that_was_saved_from_a_pipe_are_paired(tmp_path: Path) -> None:
    path = tmp_path / "saved.bin"
    path.write_bytes(encode(CROSSING))
    (interval,) = blkiomon.intervals(path, None)
    assert (interval.counts.requests, interval.counts.mismatches) == (2, 0)
    assert len(blkiomon.requests(path)) == 2


def read_sorted(path: Path, data: bytes) -> bytes:
    """What is read of a file with these bytes."""
    path.write_bytes(data)
    with source_of([Reader(path)], "saved", sorts=True) as source:
        return b"".join(bytes(piece) for piece in iter(source.read, memoryview(b"")))


def test_disorder_is_found_anywhere_in_the_first_bytes_of_a_file(tmp_path: Path) -> None:
    before = encode([issue(1, 8, 512)]) * (LOOK_AHEAD_BYTES // 48 - 10)
    data = read_sorted(tmp_path / "saved.bin", before + encode(CROSSING))
    assert data == before + encode(by_time(CROSSING))


class GrowingFile(io.BytesIO):
    """A file that ends after each read, but has grown before the next one."""

    has_ended = True

    def read(self, n_bytes: int | None = -1) -> bytes:
        self.has_ended = not self.has_ended
        return b"" if self.has_ended else super().read(min(4800, n_bytes or 4800))


def test_a_file_that_grows_is_read_up_to_one_of_its_ends() -> None:
    data = encode([issue(t, t, 512) for t in range(10_000)])
    reader = OpenedReader(GrowingFile(data), "growing", total_bytes=4800)
    with source_of([reader], "growing", sorts=True) as source:
        taken = b"".join(bytes(piece) for piece in iter(source.read, memoryview(b"")))
    assert taken and data.startswith(taken)


SDA, SDB = 8 << 20, 8 << 20 | 16

TWO_CPUS = ((SDA, 0), (SDA, 1))


def saved(half_seconds: int = 6, busy: Sequence[tuple[int, int]] = TWO_CPUS) -> bytes:
    """Saved from a pipe: each half second, one busy device and CPU after another."""
    found = b""
    for half, (n, (device, cpu)) in product(range(half_seconds), enumerate(busy)):
        begin_ns = 10**9 + half * LATENESS_NS // 2 + n
        for ns in range(begin_ns, begin_ns + LATENESS_NS // 2, MS):
            found += encode([issue(ns, ns, 512, cpu=cpu, device=device)])
            found += encode([complete(ns + MS // 2, ns, 512, cpu=cpu, device=device)])
    return found


def steps_back(source: Any, **options: Any) -> int:
    """How many records of a trace are earlier than the record before them."""
    times = blkiomon.read_trace(source, **options)["time_ns"]
    assert len(times) >= len(saved()) // 48
    return int((times[1:] < times[:-1]).sum())


QUIET = encode([issue(1, 8, 512)]) * (LOOK_AHEAD_BYTES // 48 + 1000)
"""One CPU alone, for longer than a file is read ahead."""


@pytest.mark.parametrize("busy", [TWO_CPUS, [(SDA, 0), (SDB, 0)]])
def test_a_file_is_sorted_however_late_a_second_cpu_or_device_gets_busy(
    tmp_path: Path, busy: Sequence[tuple[int, int]]
) -> None:
    path = tmp_path / "saved.bin"
    path.write_bytes(QUIET + saved(busy=busy))
    assert steps_back(path) == 0


@pytest.mark.parametrize("shift", range(0, 100, 7))
def test_disorder_is_found_wherever_the_file_is_divided(shift: int) -> None:
    data = QUIET[: 48 * 20] + encode([tw.notify_process(1, 5, "fio", size=16 + shift)])
    data += saved(2)
    stream = SortedStream(look_ahead_bytes=len(data))
    pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    engine = Engine(records_only=True)
    for piece in pieces:
        engine.feed(stream.add(memoryview(piece)))
    engine.feed(stream.rest())
    times = engine.take_records()["time_ns"][21:]
    assert len(times) == len(saved(2)) // 48
    assert (times[1:] >= times[:-1]).all()


@pytest.mark.parametrize("damage", [tw.lost_mark(0, 1), b"\xff" * 10])
@pytest.mark.parametrize("before", [b"", QUIET])
def test_a_damaged_file_is_sorted_to_its_end(tmp_path: Path, before: bytes, damage: bytes) -> None:
    path = tmp_path / "saved.bin"
    data = saved()
    half = len(data) // 96 * 48
    path.write_bytes(before + data[:half] + damage + data[half:])
    assert steps_back(path, resync=True) == 0


def test_the_place_of_skipped_bytes_is_that_in_the_file(tmp_path: Path) -> None:
    data = saved()
    path = tmp_path / "saved.bin"
    for at in (480, len(data) // 96 * 48, len(data) - 480):
        path.write_bytes(data[:at] + b"garbage" + data[at:])
        for file, piped in ((path, b""), ("-", path.read_bytes())):
            done = runner.call("--json", "-", "--resync", file, stdin=piped)
            assert b"skipped 7 bytes at byte offset %d\n" % at in done.stderr


def test_held_bytes_are_limited() -> None:
    stream = SortedStream(most_held_bytes=48_000)
    added = taken = most = 0
    for n in range(1000):
        records = [issue(t, 8, 512, cpu=n % 2) for t in range(1000 - n, 1200 - n)]
        added += len(data := encode(records))
        taken += len(stream.add(memoryview(data)))
        most = max(most, added - taken)
    assert most <= 3 * 48_000 + 200 * 48


def test_a_file_in_order_is_read_as_it_is(tmp_path: Path) -> None:
    data = encode([issue(1, 8, 512)]) * (LOOK_AHEAD_BYTES // 24)
    data += data[:30]
    assert read_sorted(tmp_path / "saved.bin", data) == data
