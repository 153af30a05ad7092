"""Trace files: finding them, reading them, and merging them, which is a stable sort by time."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import lzma
import os
import pickle
import random
import re
import resource
import socket
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import goldenfiles
import numpy as np
import pytest
import runner
import streams
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tracewriter import Record, encode, encode_record, issue, lost_mark, replace
from tuned import fed

from blkiomon.commands import run
from blkiomon.commands.config import Config
from blkiomon.engine import layout
from blkiomon.errors import TraceError
from blkiomon.sources import Source, SourceError, open_trace
from blkiomon.sources.merger import Merger
from blkiomon.sources.streams import LOOK_AHEAD_BYTES

REAL = ("loop-multi-dc", "loop-phases-dc", "loop-ext4-all")
V7_MAGIC = "65617407 or 65617408, a block trace of version 7 or 8"


def drain(source: Source) -> bytes:
    """All bytes of a source."""
    parts = []
    while data := source.read():
        parts.append(bytes(data))
    return b"".join(parts)


def read_all(*paths: str | Path, **options: Any) -> bytes:
    with open_trace(paths, **options) as source:
        return drain(source)


def until_error(source: Source) -> tuple[bytes, Exception]:
    """The bytes before the error, and the error, which each later call raises again."""
    parts = []
    try:
        while data := source.read():
            parts.append(bytes(data))
    except (TraceError, SourceError) as error:
        with pytest.raises((TraceError, SourceError)) as again:
            source.read()
        assert again.value is error
        return b"".join(parts), error
    raise AssertionError("no error")


def reader(data: bytes, most: int = 1 << 20) -> Callable[[memoryview], int]:
    """A function that reads a file in memory, at most `most` bytes at a time."""
    file = io.BytesIO(data)
    return lambda buffer: file.readinto(buffer[:most])


def merge(
    files: Sequence[bytes], window_bytes: int = 1 << 18, most: int = 1 << 20, **options: Any
) -> tuple[bytes, Merger]:
    """Merge files in memory; a read returns at most `most` bytes."""
    names = [f"file {i}" for i in range(len(files))]
    readers = [reader(data, most) for data in files]
    merger = Merger(names, readers, window_bytes=window_bytes, output_bytes=66_000, **options)
    parts = []
    while data := merger.read():
        parts.append(bytes(data))
    return b"".join(parts), merger


@pytest.mark.parametrize(
    "options, message",
    [
        ({"names": []}, "0 names and 1 readers"),
        ({"readers": []}, "1 names and 0 readers"),
        ({"window_bytes": 0}, "window_bytes must be from 1 to 2^30, not 0"),
        ({"output_bytes": 1000}, "output_bytes must be from "),
    ],
)
def test_merger_refuses_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    read = io.BytesIO().readinto
    usual: dict[str, Any] = {"names": ["file"], "readers": [read], "window_bytes": 1000}
    with pytest.raises(ValueError, match=re.escape(message)):
        Merger(**usual | options)


def test_merger_cannot_be_made_without_its_files() -> None:
    with pytest.raises(TypeError):
        Merger.__new__(Merger)  # type: ignore[call-arg]


def test_merger_cannot_be_initialised_again() -> None:
    data = encode([issue(1, 8, 512), issue(2, 16, 512)])
    merger = Merger(["a"], [reader(data)], window_bytes=64)
    merger.__init__([], [], window_bytes=0)  # type: ignore[misc]
    assert bytes(merger.read()) == data


@pytest.mark.parametrize("use", ["read", "take_skips", "peek", "shift"])
def test_use_of_a_merger_within_its_own_read_is_refused(use: str) -> None:
    arguments: dict[str, list[Any]] = {"peek": [[True]], "shift": [[1]]}

    def use_it(buffer: memoryview) -> int:
        getattr(merger, use)(*arguments.get(use, []))
        return 0

    merger = Merger(["a"], [use_it], window_bytes=64)
    with pytest.raises(RuntimeError, match="another thread is using this merger"):
        merger.read()


def test_merger_cannot_be_subclassed() -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Ours", (Merger,), {})


def stable_sort(files: Sequence[Sequence[Record]]) -> list[Record]:
    """The expected merger of files that are each in order: Python's sort is stable."""
    return sorted((r for records in files for r in records), key=lambda r: r.time_ns)


def heads_merge(files: Sequence[Sequence[Record]]) -> list[Record]:
    """The rule for files in any order: the earliest head is next, of equal ones the first."""
    rest = [list(records) for records in files]
    out = []
    while any(rest):
        first = min((r for r in rest if r), key=lambda r: r[0].time_ns)
        out.append(first.pop(0))
    return out


HEADER = struct.Struct("=8xQ24xI2xH")
"""Of version 7: time, CPU, and the length of what follows."""


def split(data: bytes) -> list[tuple[int, int, bytes]]:
    """Records of a native version-7 stream: (time, CPU, bytes)."""
    out, at = [], 0
    while at < len(data):
        time_ns, cpu, pdu_len = HEADER.unpack_from(data, at)
        length = HEADER.size + pdu_len
        out.append((time_ns, cpu, data[at : at + length]))
        at += length
    return out


def write_set(directory: Path, name: str, data: bytes) -> list[tuple[int, int, bytes]]:
    """Split a merged trace into what blktrace would have written; its records."""
    records = split(data)
    for cpu in {cpu for _, cpu, _ in records}:
        part = b"".join(raw for _, c, raw in records if c == cpu)
        (directory / f"{name}.blktrace.{cpu}").write_bytes(part)
    return records


def random_files(seed: int) -> tuple[list[list[Record]], int, str]:
    """Files in order of time, of records of any kind, with payloads and many equal times."""
    rng = random.Random(seed)
    n_files = rng.choice([1, 2, 3, 5, 8, 17])
    stream = streams.generate(seed, "nothing", rng.choice([0, 5, 60, 300]))
    files: list[list[Record]] = [[] for _ in range(n_files)]
    for r in stream.records:
        r = replace(r, version=rng.choice([None, None, 7, 8]))
        if rng.random() < 0.5:
            r = replace(r, time_ns=rng.choice([0, 5, 6, 2**63, 2**64 - 1]))
        if rng.random() < 0.3:
            r = replace(r, payload=rng.randbytes(rng.choice([1, 8, 16, 17, 300, 65_535])))
        rng.choice(files).append(replace(r, action=r.action % 2**32))
    for records in files:
        records.sort(key=lambda r: r.time_ns)
    return files, stream.version, stream.byteorder


# --- merging ----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    window=st.sampled_from([1, 48, 64, 100, 4096, 1 << 18]),
    most=st.sampled_from([1 << 20, 1000, 61]),
)
def test_merging_is_a_stable_sort(seed: int, window: int, most: int) -> None:
    files, version, byteorder = random_files(seed)
    merged, merger = merge([encode(f, version, byteorder) for f in files], window, most)
    assert merged == encode(stable_sort(files), version, byteorder)
    assert merger.failures == []


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_order_within_a_file_is_never_changed(seed: int) -> None:
    files, version, byteorder = random_files(seed)
    rng = random.Random(seed)
    for records in files:
        for _ in range(len(records) // 4):
            i = rng.randrange(len(records))
            j = max(0, i - rng.randint(1, 5))
            records[i], records[j] = records[j], records[i]
    merged, _ = merge([encode(f, version, byteorder) for f in files], 4096)
    assert merged == encode(heads_merge(files), version, byteorder)


def test_of_equal_times_the_first_file_goes_first() -> None:
    files = [[issue(t, 8 * i, 512) for t in (1, 1, 2)] for i in range(5)]
    merged, _ = merge([encode(f) for f in files])
    assert merged == encode(stable_sort(files))
    assert [r[2] for r in split(merged)[:4]] == [encode_record(files[i][0]) for i in (0, 0, 1, 1)]


def test_300_files_are_merged_in_order_of_cpu_numbers(tmp_path: Path) -> None:
    rng = random.Random(4)
    files = [
        [issue(t, cpu, 512, cpu=cpu) for t in sorted(rng.choices(range(99_999), k=20))]
        for cpu in range(300)
    ]
    for cpu, records in enumerate(files):
        (tmp_path / f"sda.blktrace.{cpu}").write_bytes(encode(records))
    assert read_all(tmp_path / "sda") == encode(stable_sort(files))  # 2 is before 10


def test_stream_longer_than_the_output_buffer_is_merged() -> None:
    records = [issue(t, t, 512, payload=bytes(t % 3 * 100)) for t in range(5000)]
    merged, _ = merge([encode(records[i::3]) for i in range(3)], 1000)
    assert len(merged) > 5 * 66_000
    assert merged == encode(records)


def test_empty_files_of_a_set_are_skipped() -> None:
    records = [issue(t, t, 512) for t in range(5)]
    merged, _ = merge([b"", encode(records), b""])
    assert merged == encode(records)
    assert merge([b"", b""])[0] == b""


def test_lost_marks_are_counted_and_left_out() -> None:
    records = [issue(t, t, 512) for t in range(4)]
    files = [
        lost_mark(0, 5) + encode(records[:1]) + lost_mark(0, 2) + lost_mark(0, 1),
        encode(records[1:3]) + b"CPU:1 [LOST EVENTS]\n" + encode(records[3:]),
        lost_mark(2, 1000),
    ]
    for window in (1, 1000):
        merged, merger = merge(files, window, 7)
        assert merged == encode(records)
        assert (merger.lost_events, merger.failures) == (1009, [])


@pytest.mark.parametrize("most", [7, 1 << 20])
@pytest.mark.parametrize("window_bytes", [1, 1000])
def test_losses_are_reported_before_the_record_after_them(window_bytes: int, most: int) -> None:
    first, second, third, last = (encode([issue(t, t, 512)]) for t in range(4))
    files = [
        first + lost_mark(0, 5) + b"garbage" + lost_mark(0, 2) + last,
        lost_mark(1, 30) + second + third + lost_mark(1, 400),
    ]
    expected = [(first, 0, 0), (second + third, 30, 0), (last, 437, 7)]
    readers = [reader(data, most) for data in files]
    options: dict[str, Any] = {"output_bytes": 66_000, "resync": True}
    merger = Merger(["one", "two"], readers, window_bytes=window_bytes, **options)
    seen = []
    while data := bytes(merger.read()):
        seen.append((data, merger.lost_events, merger.skipped_bytes))
    assert seen == expected
    assert (merger.lost_events, merger.skipped_bytes) == (437, 7)


def test_losses_before_garbage_are_reported() -> None:
    records = [encode([issue(t, t, 512)]) for t in range(3)]
    files = [records[0] + b"garbage", lost_mark(1, 3) + records[1] + lost_mark(1, 4) + records[2]]
    readers = [reader(data) for data in files]
    merger = Merger(["one", "two"], readers, window_bytes=1000, output_bytes=66_000)
    assert bytes(merger.read()) == records[0]
    with pytest.raises(TraceError):
        merger.read()
    assert merger.lost_events == 3


@pytest.mark.parametrize("name", REAL)
def test_real_trace_split_by_cpu_merges_to_itself(tmp_path: Path, name: str) -> None:
    data = (goldenfiles.TRACES / f"{name}.bin").read_bytes()
    records = write_set(tmp_path, "sda", data)
    assert len(list(tmp_path.iterdir())) > 1
    expected = b"".join(raw for _, _, raw in sorted(records, key=lambda r: r[:2]))
    merged = read_all(tmp_path / "sda.blktrace.0")
    assert merged == expected

    def counted(data: bytes) -> tuple[dict[str, int], list[bytes]]:
        engine = fed(data)
        return engine.counters(), sorted(row.tobytes() for row in engine.snapshot().rows)

    # The tracer merges by time, too, if not with our rule for equal times.
    assert sorted(split(merged)) == sorted(records)
    assert counted(merged) == counted(data)


# --- bad input --------------------------------------------------------------------------------


def test_garbage_is_an_error_with_file_and_offset(tmp_path: Path) -> None:
    records = [issue(10 * t, t, 512) for t in range(9)]
    first = encode(records[0:8:2]) + b"rubbish, and more of it" + encode(records[8:])
    (tmp_path / "sda.blktrace.0").write_bytes(first)
    (tmp_path / "sda.blktrace.1").write_bytes(encode(records[1::2]))
    with open_trace([tmp_path / "sda"]) as source:
        before, error = until_error(source)
    assert before == encode(records[:7])  # up to the record before the garbage
    assert isinstance(error, TraceError)
    assert (error.file, error.offset) == (str(tmp_path / "sda.blktrace.0"), 4 * 48)
    assert error.found == "magic 62627572"
    assert str(error) == (
        f"{tmp_path}/sda.blktrace.0: at byte offset 192: found magic 62627572, expected {V7_MAGIC}"
    )


def test_garbage_at_a_large_offset_is_an_error_there() -> None:
    records = [issue(t, t, 512, payload=bytes(1000)) for t in range(3000)]
    data = encode(records)
    names = ["good", "bad"]
    readers = [io.BytesIO(data).readinto, io.BytesIO(data + b"#" * 99).readinto]
    merger = Merger(names, readers, window_bytes=5000)
    n = 0
    with pytest.raises(TraceError) as error:
        while part := merger.read():
            n += len(part)
    assert n == 2 * len(data)
    assert (error.value.file, error.value.offset) == ("bad", len(data))


def test_another_byte_order_is_an_error() -> None:
    records = [issue(1, 1, 512)]
    with pytest.raises(TraceError) as error:
        merge([encode(records), encode(records, byteorder=">")])
    assert (error.value.file, error.value.offset) == ("file 1", 0)
    assert error.value.found == "magic 07746165, version 7 in the other byte order"
    assert error.value.expected == f"{V7_MAGIC}, in the byte order of the other files"


@pytest.mark.parametrize("cut", [1, 3, 4, 20, 47, 48, 60])
def test_a_cut_end_is_an_error_after_all_else(tmp_path: Path, cut: int) -> None:
    records = [issue(10 * t, t, 512, payload=bytes(20)) for t in range(20)]
    whole = encode(records[:1])
    (tmp_path / "sda.blktrace.0").write_bytes(whole + encode(records[1:2])[:cut])
    (tmp_path / "sda.blktrace.1").write_bytes(encode(records[2:]))
    (tmp_path / "sda.blktrace.2").write_bytes(b"CPU:2 [LO")
    reports: list[str] = []
    with open_trace([tmp_path / "sda"], report=reports.append) as source:
        before, error = until_error(source)
        assert before == whole + encode(records[2:])
    assert isinstance(error, TraceError)
    # The last file has nothing else: it is met first.
    assert (error.file, error.offset) == (f"{tmp_path}/sda.blktrace.2", 0)
    assert error.found == "the end of the file 9 bytes into a record"
    need = 4 if cut < 4 else 48 if cut < 48 else 68
    assert reports == [
        f"bad trace: {tmp_path}/sda.blktrace.0: at byte offset 68: found the end of the file "
        f"{cut} bytes into a record, expected {need} bytes at least"
    ]


def test_resync_skips_reports_and_counts(tmp_path: Path) -> None:
    records = [issue(10 * t, t, 512) for t in range(8)]
    garbage = b"rubbish " + encode_record(replace(records[0], action=0xFF))  # no such event
    first = garbage + encode(records[0:4]) + b"CCC" + encode(records[4:6]) + b"CPU:0 "
    (tmp_path / "sda.blktrace.0").write_bytes(first)
    (tmp_path / "sda.blktrace.1").write_bytes(encode(records[6:]) + encode(records[7:])[:30])
    (tmp_path / "sda.blktrace.2").write_bytes(b"\0" * 5000)
    reports: list[str] = []
    with open_trace([tmp_path / "sda"], resync=True, report=reports.append) as source:
        assert drain(source) == encode(records)
        assert source.read() == b""
        assert source.skipped_bytes == 56 + 3 + 6 + 30 + 5000
    stem = f"bad trace: {tmp_path}/sda.blktrace"
    assert sorted(reports) == [
        f"{stem}.0: skipped 3 bytes at byte offset 248",
        f"{stem}.0: skipped 56 bytes at byte offset 0",
        f"{stem}.0: skipped 6 bytes at byte offset 347",
        f"{stem}.1: skipped 30 bytes at byte offset 96",
        f"{stem}.2: skipped 5000 bytes at byte offset 0",
    ]


@pytest.mark.parametrize("zeros", [1, 47, 48, 49, 4096, 524_256])
@pytest.mark.parametrize(("window", "most"), [(1, 7), (60, 50), (1 << 18, 1 << 20)])
@pytest.mark.parametrize("resync", [False, True])
def test_zeros_at_the_end_of_a_file_are_padding(
    zeros: int, window: int, most: int, resync: bool
) -> None:
    records = [issue(t, t, 512) for t in range(6)]
    files = [encode(records[::2]) + bytes(zeros), encode(records[1::2])]
    merged, merger = merge(files, window, most, resync=resync)
    assert merged == encode(records)
    assert (merger.padding_bytes, merger.skipped_bytes, merger.failures) == (zeros, 0, [])
    assert merger.take_skips() == []


@pytest.mark.parametrize(("window", "most"), [(1, 7), (60, 50), (1 << 18, 1 << 20)])
def test_records_after_a_buffer_of_zeros_are_merged(window: int, most: int) -> None:
    records = [issue(t, t, 512) for t in range(8)]
    first = encode(records[:4:2]) + bytes(5000) + lost_mark(0, 3) + bytes(7) + encode(records[4::2])
    merged, merger = merge([first, encode(records[1::2])], window, most, resync=True)
    assert merged == encode(records)
    assert (merger.padding_bytes, merger.lost_events, merger.skipped_bytes) == (5000, 3, 7)


def test_few_zeros_between_records_are_garbage() -> None:
    records = [issue(t, t, 512) for t in range(3)]
    files = [encode(records[:1]) + bytes(47) + encode(records[1:]), b""]
    with pytest.raises(TraceError) as error:
        merge(files)
    assert (error.value.file, error.value.offset) == ("file 0", 48)
    merged, merger = merge(files, resync=True)
    assert merged == encode(records)
    assert (merger.padding_bytes, merger.skipped_bytes) == (0, 47)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), window=st.integers(1, 100), most=st.integers(1, 100))
@example(seed=2_877_018_609, window=1, most=1)  # the last zero is read alone
def test_merger_and_engine_agree_on_padding(seed: int, window: int, most: int) -> None:
    rng = random.Random(seed)
    parts = [b"\0" * n for n in (1, 47, 48, 49, 200)] + [b"rubbish", lost_mark(0, 2)]
    parts += [encode([issue(5, 5, 512, payload=bytes(60))])] * 4
    data = b"".join(rng.choices(parts, k=rng.randint(0, 12)))
    engine = fed(data, resync=True)
    engine.finish()
    merged, merger = merge([data], window, most, resync=True)
    counters = engine.counters()
    assert len(merged) == 108 * counters["records"]
    assert (merger.lost_events, merger.skipped_bytes) == (
        counters["lost_events"],
        counters["skipped_bytes"],
    )
    assert merger.padding_bytes == engine.padding_bytes


@pytest.mark.parametrize("short", [b"", b"CPU:1", encode([issue(9, 9, 9)])[:20]])
def test_mark_after_an_incomplete_record_or_mark_is_counted(short: bytes) -> None:
    data = encode([issue(1, 1, 1)]) + b"?" + short + lost_mark(1, 5) + b"C"
    merged, merger = merge([data, encode([issue(2, 2, 2)])], resync=True)
    assert merged == encode([issue(1, 1, 1), issue(2, 2, 2)])
    assert (merger.lost_events, merger.skipped_bytes) == (5, len(short) + 2)


def test_resync_does_not_depend_on_the_size_of_reads() -> None:
    records = [issue(10 * t, t, 512) for t in range(40)]
    data = b"".join(
        encode_record(r, version) + b"C\x07ta" * (i % 3) + lost_mark(1, 1) * (i % 2)
        for i, (r, version) in enumerate(zip(records, [7, 8] * 20))
    )
    expected = b"".join(encode_record(r, v) for r, v in zip(records, [7, 8] * 20))
    for window, most in ((1, 1), (60, 7), (4096, 4096)):
        merged, merger = merge([b"", data], window, most, resync=True)
        assert merged == expected
        assert merger.lost_events == 20
        assert merger.skipped_bytes == 13 * 4 + 13 * 8
        assert len(merger.take_skips()) == 26


def test_many_skips_share_a_line(tmp_path: Path) -> None:
    records = [issue(10 * t, t, 512) for t in range(30)]
    data = b"".join(encode_record(r) + b"junk" for r in records)
    (tmp_path / "sda.blktrace.0").write_bytes(data)
    (tmp_path / "sda.blktrace.1").write_bytes(b"")
    reports: list[str] = []
    assert read_all(tmp_path / "sda", resync=True, report=reports.append) == encode(records)
    assert len(reports) == 21
    assert reports[-1] == "bad trace: 10 more stretches skipped, 120 bytes in all"


def test_trace_error_can_be_pickled() -> None:
    for error in (TraceError(5, "a", "b"), TraceError(5, "a", "b", "file")):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), vars(copy)) == (str(error), vars(error))
        assert (error.offset, error.found, error.expected) == (5, "a", "b")
    assert str(TraceError(5, "a", "b")) == "at byte offset 5: found a, expected b"


# --- which files ------------------------------------------------------------------------------


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two sets, a file, and files with similar names."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(["sdb.blktrace.0", "sda.blktrace.0", "sda.blktrace.1", "plain"]):
        Path(name).write_bytes(encode([issue(7, i, 512)]))
    for name in ("sda.blktrace.01", "sda.blktrace.x", "notes.txt", ".blktrace.0"):
        Path(name).write_text("not a trace")
    Path("sdc.blktrace.0").mkdir()
    return tmp_path


def sectors(data: bytes) -> list[int]:
    return [int.from_bytes(raw[16:24], sys.byteorder) for _, _, raw in split(data)]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["sda"], [1, 2]),
        (["sda.blktrace"], [1, 2]),
        (["sda.blktrace.1"], [1, 2]),
        (["sda.blktrace.0", "sda.blktrace.1", "./sda"], [1, 2]),
        (["sdb"], [0]),
        (["sdb", "sda"], [1, 2, 0]),
        (["."], [1, 2, 0]),
        ([".", "sda", "plain"], [3, 1, 2, 0]),
        (["plain", "plain", "./plain"], [3]),
    ],
    ids=lambda names: " ".join(map(str, names)),
)
def test_every_way_to_name_a_set_finds_its_files(
    traces: Path, paths: list[str], expected: list[int]
) -> None:
    assert sectors(read_all(*paths)) == expected
    with open_trace([traces / path for path in paths]) as source:
        assert sectors(drain(source)) == expected
        assert source.done_bytes == source.total_bytes == 48 * len(expected)
        plain = [f"{traces / 'plain'} is left out: to read it, name it"]
        assert list(source.notes) == plain * ("." in paths and "plain" not in paths)


def test_a_plain_file_goes_before_a_set(traces: Path) -> None:
    Path("sda").write_bytes(encode([issue(7, 99, 512)]))
    assert sectors(read_all("sda")) == [99]
    assert sectors(read_all("sda.blktrace.0")) == [1, 2]


def test_source_is_called_by_its_path(traces: Path) -> None:
    for paths, name in ((["sda", "plain"], "3 files of plain, sda"), (["sdb"], "sdb.blktrace.0")):
        with open_trace(paths) as source:
            assert source.name == name


def test_set_given_by_all_its_files_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpu in range(100):
        (tmp_path / f"sda.blktrace.{cpu}").write_bytes(encode([issue(7, cpu, 512)]))
    listed = []
    iterdir = Path.iterdir

    def listing(path: Path) -> Iterator[Path]:
        listed.append(path)
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", listing)
    assert sectors(read_all(*sorted(tmp_path.glob("sda.*")))) == list(range(100))
    assert listed.count(tmp_path) == 1


def test_link_to_the_same_file_is_read_once(traces: Path) -> None:
    Path("other").symlink_to("plain")
    assert sectors(read_all("other", "plain")) == [3]


def test_missing_cpu_files_are_reported(traces: Path) -> None:
    for cpu in (3, 7):
        Path(f"sda.blktrace.{cpu}").touch()
    Path("sdb.blktrace.0").rename("sdb.blktrace.2.gz")
    with open_trace(["sda", "sdb"]) as source:
        assert source.notes == (
            "sda.blktrace.2 is missing between sda.blktrace.1 and sda.blktrace.3",
            "sda.blktrace.4 to sda.blktrace.6 are missing between sda.blktrace.3 "
            "and sda.blktrace.7",
            "sdb.blktrace.0 to sdb.blktrace.1 are missing before sdb.blktrace.2.gz",
        )
        assert source.missing_files == 1 + 3 + 2
        assert sectors(drain(source)) == [1, 2, 0]


def test_cpu_with_two_files_is_read_once(traces: Path) -> None:
    Path("sda.blktrace.1.gz").write_bytes(gzip.compress(Path("sda.blktrace.1").read_bytes()))
    with open_trace(["sda"]) as source:
        assert source.notes == ("sda.blktrace.1.gz is left out: sda.blktrace.1 is of the same CPU",)
        assert source.missing_files == 0
        assert sectors(drain(source)) == [1, 2]


def test_missing_file_is_counted_once_however_its_set_is_named(traces: Path) -> None:
    Path("sda.blktrace.0").unlink()
    with open_trace(["sda", "sda.blktrace.1", traces / "sda", traces]) as source:
        assert source.missing_files == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sdz", "cannot open sdz: no such file, and no file matches sdz.blktrace.*"),
        ("sda.blktrace.5", "cannot open sda.blktrace.5: no such file"),
        (
            "gone/sda",
            "cannot open gone/sda: no such file, and no file matches gone/sda.blktrace.*",
        ),
        ("plain/sda", "cannot open plain/sda: Not a directory"),
        ("sdc.blktrace.0", "no trace in sdc.blktrace.0: looked for *.blktrace.0 and so on"),
        ("socket", "cannot open socket: No such device or address"),
    ],
)
def test_missing_files_are_refused(traces: Path, path: str, message: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(SourceError) as error:
            open_trace(["sda", path])
    assert str(error.value) == message


def test_traces_outside_of_sets_are_named(traces: Path) -> None:
    Path("dir").mkdir()
    Path("dir/notes.txt").write_text("of the run")
    Path("dir/a.bin").write_bytes(Path("sda.blktrace.0").read_bytes())
    Path("dir/b.gz").write_bytes(gzip.compress(Path("sda.blktrace.0").read_bytes()))
    with pytest.raises(SourceError, match=r"no trace in dir: .*; dir/a.bin begins like a trace"):
        open_trace(["dir"])
    Path("dir/sda.blktrace.0").write_bytes(Path("sda.blktrace.0").read_bytes())
    with open_trace(["dir"]) as source:
        left_out = [f"dir/{name} is left out: to read it, name it" for name in ("a.bin", "b.gz")]
        assert list(source.notes) == left_out


def test_members_of_sets_are_not_examined(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blkiomon.sources.trace_sets.MOST_EXAMINED", 1)
    Path("dir").mkdir()
    for name in ("sda.blktrace.0", "sda.blktrace.1", "z.bin"):
        Path("dir", name).write_bytes(Path("sda.blktrace.0").read_bytes())
    with open_trace(["dir"]) as source:
        assert list(source.notes) == ["dir/z.bin is left out: to read it, name it"]


def test_empty_list_of_names_is_refused() -> None:
    with pytest.raises(SourceError, match="no file to read was given"):
        open_trace([])


def descriptors() -> set[int]:
    gc.collect()  # closes files that earlier tests left open
    return {int(path.name) for path in Path("/proc/self/fd").iterdir()}


def test_more_files_than_descriptors_are_refused(tmp_path: Path) -> None:
    for cpu in range(100):
        (tmp_path / f"sda.blktrace.{cpu}").touch()
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sorted({*range(1000)} - before)[20]  # twenty numbers below it are free
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with pytest.raises(SourceError) as error:
            open_trace([tmp_path / "sda"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert str(error.value) == (
        f"100 files cannot be open at once: the limit is {limit}; raise it, as with `ulimit -n 164`"
    )
    assert descriptors() == before


def test_close_gives_everything_back(traces: Path) -> None:
    before = descriptors()
    with open_trace(["sda", "plain"]) as source:
        assert len(descriptors()) == len(before) + 3
        source.read()
    source.close()
    assert descriptors() == before


def test_a_file_is_handed_out_as_it_is(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(1_000_000)  # a source does not parse it
    (tmp_path / "trace").write_bytes(data)
    with open_trace([tmp_path / "trace"]) as source:
        assert (source.name, source.total_bytes) == (str(tmp_path / "trace"), 1_000_000)
        assert source.done_bytes < 300_000
        assert drain(source) == data
        assert (source.done_bytes, source.lost_events, source.skipped_bytes) == (1_000_000, 0, 0)


def test_standard_input_is_a_pipe(pipe: tuple[int, int]) -> None:
    data = encode([issue(t, t, 512) for t in range(500)])
    os.write(pipe[1], data)
    os.close(pipe[1])
    with runner.redirected(0, pipe[0]), open_trace(["-"]) as source:
        assert (source.name, source.total_bytes) == ("standard input", None)
        assert drain(source) == data


def test_standard_input_is_a_file_of_several(tmp_path: Path) -> None:
    files = [[issue(t, t, 512) for t in range(i, 90, 2)] for i in range(2)]
    (tmp_path / "rest").write_bytes(b"head" + encode(files[0]))
    (tmp_path / "one").write_bytes(encode(files[1]))
    with open(tmp_path / "rest", "rb", buffering=0) as file:
        file.read(4)
        with runner.redirected(0, file.fileno()):
            with open_trace(["-", tmp_path / "one", "-"]) as source:
                assert source.total_bytes == 90 * 48
                assert drain(source) == encode(stable_sort(files))
            assert os.fstat(0)  # the caller's, and still open


def test_fifo_is_read_to_its_end(tmp_path: Path) -> None:
    data = encode([issue(t, t, 512) for t in range(5000)])
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(gzip.compress(data),))
    writer.start()
    assert read_all(tmp_path / "fifo") == data
    writer.join()


# --- records out of order ---------------------------------------------------------------------


def saved(device: int, n_batches: int = 20) -> list[Record]:
    """Records of two CPUs as a pipe of blktrace has them: batches of each in turn."""
    return [
        issue(500 * (n // 2) + t, t, 512, device=device, cpu=n % 2)
        for n in range(n_batches)
        for t in range(500)
    ]


def test_files_that_were_saved_from_pipes_are_merged_in_order(tmp_path: Path) -> None:
    files = [saved(device) for device in range(3)]
    for n, records in enumerate(files):
        (tmp_path / f"saved{n}").write_bytes(encode(records))
    assert read_all(*tmp_path.iterdir(), sorts=True) == encode(stable_sort(files))
    assert read_all(*tmp_path.iterdir()) == encode(heads_merge(files))


def test_long_files_that_become_disordered_are_merged_in_order(tmp_path: Path) -> None:
    before = [issue(0, 8, 512)] * (LOOK_AHEAD_BYTES // 96 + 1000)
    (tmp_path / "one").write_bytes(encode(before + saved(1)))
    (tmp_path / "two").write_bytes(gzip.compress(encode(saved(2)), 1))
    merged = read_all(tmp_path / "one", tmp_path / "two", sorts=True)
    assert merged == encode(stable_sort([before + saved(1), saved(2)]))


def test_skipped_bytes_of_a_merged_file_are_where_they_are_in_the_file(tmp_path: Path) -> None:
    data = encode(saved(1))
    at = 48 * 700
    (tmp_path / "one").write_bytes(data[:at] + b"garbage" + data[at:])
    (tmp_path / "two").write_bytes(encode(saved(2)))
    reports: list[str] = []
    paths = [tmp_path / "one", tmp_path / "two"]
    merged = read_all(*paths, sorts=True, resync=True, report=reports.append)
    assert merged == encode(stable_sort([saved(1), saved(2)]))
    assert reports == [f"bad trace: {paths[0]}: skipped 7 bytes at byte offset {at}"]


def test_files_of_a_set_are_taken_to_be_in_order(tmp_path: Path) -> None:
    files = [saved(1), saved(2)]
    for cpu, records in enumerate(files):
        (tmp_path / f"sda.blktrace.{cpu}").write_bytes(encode(records))
    assert read_all(tmp_path / "sda", sorts=True) == encode(heads_merge(files))


# --- compression ------------------------------------------------------------------------------


def skippable(data: bytes) -> bytes:
    """Between two frames that are to be skipped."""
    frame = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"extra"
    return frame + zstandard.compress(data) + frame


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": partial(lzma.compress, preset=1),
    "zstd": zstandard.compress,
    "zstd, skippable": skippable,
}


@cache
def a_trace(n: int = 20_000) -> bytes:
    rng = random.Random(n)
    return encode(issue(1000 * t, rng.getrandbits(30), 512 * rng.randrange(99)) for t in range(n))


def every(n: int, data: bytes, first: int = 0) -> bytes:
    """The first and each n-th of records without payload."""
    return np.frombuffer(data, layout.TRACE_V7)[first::n].tobytes()


@pytest.fixture(params=COMPRESS.items(), ids=lambda item: item[0], scope="module")
def packing(request: pytest.FixtureRequest) -> tuple[str, Callable[[bytes], bytes]]:
    name, compress = request.param
    return name.partition(",")[0], cache(compress)


def test_compressed_file_is_unpacked(tmp_path: Path, packing: Any) -> None:
    data = a_trace()
    packed = packing[1](data)
    assert len(packed) < len(data) / 2
    (tmp_path / "trace").write_bytes(packed)  # its contents show the compression
    with open_trace([tmp_path / "trace"]) as source:
        assert source.total_bytes == len(packed)
        assert drain(source) == data
        assert source.done_bytes == len(packed)


def test_compressed_files_of_a_set_are_unpacked(tmp_path: Path, packing: Any) -> None:
    data = a_trace()
    (tmp_path / "sda.blktrace.0.gz").write_bytes(packing[1](every(3, data)))
    (tmp_path / "sda.blktrace.1").write_bytes(every(3, data, 1))
    (tmp_path / "sda.blktrace.2.zst").write_bytes(packing[1](every(3, data, 2)))
    with open_trace([tmp_path / "sda"]) as source:
        assert drain(source) == data
        assert source.notes == ()
        assert source.done_bytes == source.total_bytes


def test_concatenated_compressed_streams_are_unpacked(tmp_path: Path, packing: Any) -> None:
    data = a_trace()
    parts = [data[:100_001], b"", data[100_001:500_000], data[500_000:]]
    packed = b"".join(map(packing[1], parts))
    for padding in (b"", b"\0" * 40_000):
        (tmp_path / "trace").write_bytes(packed + padding)
        assert read_all(tmp_path / "trace") == data


def test_repetitive_data_is_unpacked_in_pieces(tmp_path: Path, packing: Any) -> None:
    data = encode([issue(0, 0, 0)]) * 200_000
    (tmp_path / "trace").write_bytes(packing[1](data))
    with open_trace([tmp_path / "trace"]) as source:
        n = 0
        while part := source.read():
            assert len(part) <= 1 << 18
            n += len(part)
    assert n == len(data)


def test_truncated_compressed_file_gives_what_is_whole(tmp_path: Path, packing: Any) -> None:
    name, compress = packing
    data = a_trace()
    packed = compress(data)[:-20_000]
    (tmp_path / "trace").write_bytes(packed)
    with open_trace([tmp_path / "trace"]) as source:
        before, error = until_error(source)
    assert len(data) // 2 < len(before) < len(data)
    assert data.startswith(before)
    assert str(error) == (
        f"{tmp_path}/trace: at byte offset {len(packed)}: found the end of the file, "
        f"expected more {name} data"
    )


def test_truncated_member_costs_the_others_nothing(tmp_path: Path, packing: Any) -> None:
    data = a_trace()
    (tmp_path / "sda.blktrace.0").write_bytes(packing[1](every(2, data))[:-20_000])
    (tmp_path / "sda.blktrace.1").write_bytes(every(2, data, 1))
    reports: list[str] = []
    with open_trace([tmp_path / "sda"], report=reports.append) as source:
        before, error = until_error(source)
    assert isinstance(error, SourceError)
    assert reports == []  # the cut record at the end has the same cause
    assert str(error).startswith(f"{tmp_path}/sda.blktrace.0: at byte offset ")
    raws = {raw for _, _, raw in split(before)}
    assert raws.issuperset(raw for _, _, raw in split(every(2, data, 1)))
    records = [raw for _, _, raw in split(data)]
    assert len(raws) > len(records) * 0.6
    assert before == b"".join(raw for raw in records if raw in raws)


def test_damaged_compressed_file_is_an_error(tmp_path: Path, packing: Any) -> None:
    name, compress = packing
    data = a_trace()
    packed = bytearray(compress(data))
    middle = len(packed) // 2
    packed[middle : middle + 5000] = bytes(5000)
    (tmp_path / "trace").write_bytes(packed)
    with open_trace([tmp_path / "trace"]) as source:
        before, error = until_error(source)
    assert len(before) > len(data) // 4
    assert data.startswith(before[: len(data) // 4])
    assert str(error).startswith(f"{tmp_path}/trace: before byte offset ")
    assert f": damaged {name} data: " in str(error)


def test_garbage_after_compressed_data_is_an_error(tmp_path: Path, packing: Any) -> None:
    name, compress = packing
    data = a_trace(50)
    packed = compress(data)
    (tmp_path / "trace").write_bytes(packed + b"junk")
    with open_trace([tmp_path / "trace"]) as source:
        before, error = until_error(source)
    assert before == data
    assert str(error) == (
        f"{tmp_path}/trace: at byte offset {len(packed)}: found 6a 75 6e 6b, "
        f"expected the end of the file or more {name} data"
    )


@pytest.mark.parametrize(
    ("packed", "missing", "expected"),
    [
        (
            zstandard.compress(b"anything"),
            ("zstandard", "compression.zstd"),
            "zstd: pip install 'blkiomon[zstd]'",
        ),
        (
            lzma.compress(b"anything"),
            ("lzma",),
            "xz, which this Python was built without: unpack it first",
        ),
    ],
    ids=["zstd", "xz"],
)
def test_compressed_file_without_its_library_names_it(
    packed: bytes,
    missing: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "trace").write_bytes(packed)
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceError) as error:
        open_trace([tmp_path / "trace"])
    assert str(error.value) == f"{tmp_path}/trace is compressed with {expected}"


# -- memory ----------------------------------------------------------------------------------------


def xz_with_a_dictionary_of_4_gib(data: bytes) -> bytes:
    """A byte of the header claims a dictionary larger than `xz --lzma2=dict=...` can make."""
    packed = bytearray(lzma.compress(data))
    end = 12 + 4 * (packed[12] + 1) - 4
    packed[16] = 40
    packed[end : end + 4] = zlib.crc32(packed[12:end]).to_bytes(4, "little")
    return bytes(packed)


def test_file_that_takes_too_much_memory_to_unpack_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.xz"
    path.write_bytes(xz_with_a_dictionary_of_4_gib(encode([issue(1, 8, 512)])))
    result = runner.call("-I1", "--json", "-", path)
    why = "xz needs more memory than blkiomon allows: unpack it first"
    assert (result.returncode, result.stderr.decode()) == (3, f"blkiomon: {path}: {why}\n")


def test_lack_of_memory_is_reported_in_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    run._explain(MemoryError(), Config(interval_s=1.0, files=("t.bin",)))
    run._explain(MemoryError("no room for 4 records"), Config(interval_s=1.0))
    assert capfd.readouterr().err == (
        "blkiomon: out of memory: stopped reading t.bin\n"
        "blkiomon: out of memory: no room for 4 records\n"
    )


@pytest.mark.parametrize("sorts", [False, True])
@pytest.mark.parametrize("n_files", [1, 2])
def test_every_wait_for_bytes_of_a_file_can_be_interrupted(
    tmp_path: Path, sorts: bool, n_files: int
) -> None:
    class Waiting(contextlib.AbstractContextManager[None]):
        def __enter__(self) -> None:
            raise KeyboardInterrupt

        def __exit__(self, *error: object) -> None:
            pass

    paths = [tmp_path / f"{n}.bin" for n in range(n_files)]
    for path in paths:
        path.write_bytes(encode([issue(1, 8, 512)]))
    with open_trace([str(path) for path in paths], sorts=sorts) as source:
        source.waiting = Waiting
        with pytest.raises(KeyboardInterrupt):
            source.read()
