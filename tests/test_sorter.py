"""A stream that has one CPU's records after another's is put in order of time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tracewriter as tw
from hypothesis import given
from hypothesis import strategies as st
from runner import Running
from tracewriter import Record, complete, encode, issue

import blkiomon
from blkiomon.sources import source_of
from blkiomon.sources.readers import Reader
from blkiomon.sources.sorter import Sorter
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
    """Batches of records of one CPU, one after another; of each CPU, times never go back."""
    latest = [0, 0, 0]
    found: list[Record] = []
    for cpu in draw(st.lists(st.integers(0, 2), min_size=1, max_size=12)):
        for step in draw(st.lists(st.integers(0, 3), max_size=6)):
            latest[cpu] += step
            payload = draw(st.binary(max_size=9))
            found.append(issue(latest[cpu], 8, 512, cpu=cpu, pid=len(found), payload=payload))
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


def test_sorted_stream_passes_as_it_is() -> None:
    data = encode(by_time(CROSSING))
    sorter = Sorter()
    sorter.add(data + data[:20])
    assert (bytes(sorter.take()), sorter.is_sorted) == (data, True)
    assert bytes(sorter.take_all()) == data[:20]


def test_a_process_name_stays_before_the_record_that_it_preceded() -> None:
    late, early = issue(30, 8, 512, cpu=0), issue(20, 8, 512, cpu=1)
    before_late, before_early = (tw.notify_process(0, n, "fio", cpu=n) for n in (1, 2))
    sorter = Sorter()
    sorter.add(encode([issue(1, 8, 512), early, before_late, late, before_early]))
    assert sorter.is_sorted
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


def test_bytes_that_are_no_record_pass_after_the_held_records() -> None:
    sorter = Sorter()
    garbage = b"garbage " * 8
    sorter.add(encode(CROSSING) + garbage)
    assert bytes(sorter.take(0)) == encode(by_time(CROSSING)) + garbage
    sorter.add(encode(CROSSING))
    assert bytes(sorter.take(0)) == encode(CROSSING)


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


def test_a_file_in_order_is_read_as_it_is(tmp_path: Path) -> None:
    data = encode([issue(1, 8, 512)]) * (LOOK_AHEAD_BYTES // 24)
    data += data[:30]
    assert read_sorted(tmp_path / "saved.bin", data) == data
