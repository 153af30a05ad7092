"""The library: every function with every kind of source, results and errors."""

from __future__ import annotations

import errno
import gc
import gzip
import io
import lzma
import math
import mmap
import os
import re
import sys
import tempfile
import threading
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import goldenfiles
import numpy as np
import pytest
import tracewriter as tw
import zstandard
from test_monitor import DAY_S, MS, S, anchored, dicts, intervals_of, pair, spans, steady
from tracewriter import Record, complete, encode, issue

import blkiomon
from blkiomon import Interval, SourceError, StatsError, TraceError
from blkiomon.engine import layout
from blkiomon.formats import flat_table, frames
from blkiomon.formats.json_codec import UNSEEN
from blkiomon.library import REQUEST
from blkiomon.sources.streams import LOOK_AHEAD_BYTES, READ_BYTES

TRACE = goldenfiles.TRACES / "loop-multi-dc.bin"
N_RECORDS, N_REQUESTS = 95_366, 47_637


@pytest.fixture(scope="module")
def data() -> bytes:
    return TRACE.read_bytes()


def sources(data: bytes, directory: Path) -> Iterator[Any]:
    """The same bytes as every kind of source, each with a name."""
    path = directory / "trace"
    path.write_bytes(data)
    (directory / "trace.gz").write_bytes(gzip.compress(data, 1))
    yield str(path)
    yield path
    yield [path]
    yield (str(path),)
    yield directory / "trace.gz"
    yield data
    yield bytearray(data)
    yield memoryview(data)
    yield memoryview(data).cast("I")
    yield np.frombuffer(data, "u1")
    yield np.frombuffer(data, layout.TRACE_V7)
    yield array("B", data)
    yield io.BytesIO(data)
    with path.open("rb") as file:
        yield file
    with path.open("rb", buffering=0) as raw:
        yield raw
    with gzip.open(directory / "trace.gz") as packed:
        yield packed
    with (directory / "trace.gz").open("rb") as file:
        yield file
    yield gzip.compress(data, 1)
    yield io.BytesIO(lzma.compress(data))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


def test_every_function_takes_every_source(tmp_path: Path) -> None:
    data = encode(steady(25))
    for source in sources(data, tmp_path):
        assert len(blkiomon.read_trace(source)) == 50, source
    for source in sources(data, tmp_path):
        assert len(blkiomon.requests(source)) == 25, source
    for source in sources(data, tmp_path):
        assert spans(blkiomon.intervals(source)) == spans(intervals_of(data)), source
    for source in sources(data, tmp_path):
        assert blkiomon.summarize(source).total.requests == 25, source


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, zstandard.compress])
@pytest.mark.parametrize("least", [1, 5, 6, 100_000])
def test_a_pipe_may_be_compressed_and_give_little_at_a_time(
    pack: Callable[[bytes], bytes], least: int, data: bytes
) -> None:
    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return self.read(min(least, size or 0))

    data = data[: 48 * (3000 if least > 1000 else 300)]
    assert (blkiomon.read_trace(Pipe(pack(data))) == blkiomon.read_trace(data)).all()


def test_damaged_compression_raises_a_trace_error(data: bytes) -> None:
    packed = gzip.compress(data[: 48 * 10_000])
    with pytest.raises(SourceError, match=r"the source: .* found the end of the file, expected"):
        blkiomon.requests(packed[:-9])
    damaged = packed[:1000] + b"damage" + packed[1006:]
    with pytest.raises(SourceError, match="damaged gzip data"):
        blkiomon.summarize(io.BytesIO(damaged))


def test_per_cpu_files_are_one_trace(tmp_path: Path) -> None:
    records = steady(25)
    for cpu in (0, 1):
        (tmp_path / f"sda.blktrace.{cpu}").write_bytes(encode(records[cpu::2]))
    expected = dicts(intervals_of(encode(records)))
    named = [tmp_path / "sda.blktrace.1", tmp_path / "sda.blktrace.0"]
    for source in (tmp_path, tmp_path / "sda", str(tmp_path / "sda.blktrace.0"), named):
        assert dicts(blkiomon.intervals(source)) == expected


# -- records and requests --------------------------------------------------------------------------


def test_missing_files_of_a_set_raise_a_warning(tmp_path: Path) -> None:
    for cpu in (0, 3):
        (tmp_path / f"sda.blktrace.{cpu}").write_bytes(encode(steady(5)))
    for use in (blkiomon.read_trace, blkiomon.requests, blkiomon.summarize):
        with pytest.warns(UserWarning, match=r"sda\.blktrace\.1 to .*sda\.blktrace\.2 are missing"):
            use(tmp_path)


def test_records_equal_those_of_the_trace(data: bytes) -> None:
    records = blkiomon.read_trace(data)
    assert records.dtype == layout.RECORD
    assert records.shape == (N_RECORDS,)
    raw = np.frombuffer(data, layout.TRACE_V7.newbyteorder("<"))
    for name in ("sector", "bytes", "action", "sequence", "pid", "device", "cpu", "error"):
        assert (records[name] == raw[name]).all(), name
    assert (records["time_ns"] == raw["time"]).all()


def test_records_of_any_kind_have_no_payload() -> None:
    payload = [tw.notify_process(1, 7, "fio"), tw.driver_data(2, b"x" * 100), *pair(3)]
    records = blkiomon.read_trace(encode(payload))
    assert records["time_ns"].tolist() == [1, 2, 3, 3 + MS]
    assert records["pdu_len"].tolist() == [16, 100, 0, 0]


def test_requests_equal_those_of_the_trace(data: bytes) -> None:
    found = blkiomon.requests(data)
    assert found.dtype == REQUEST
    assert found.shape == (N_REQUESTS,)
    whole = blkiomon.summarize(data)
    ops = np.bincount(found["op"], minlength=7).tolist()
    by_op = {g.op: 0 for g in whole.groups()}
    for group in whole.groups():
        by_op[group.op] += group.requests
    assert {op: n for op, n in zip(layout.OPS, ops) if n} == {
        op: n for op, n in by_op.items() if op
    }
    assert int(found["bytes"].sum(dtype="u8")) == whole.total.bytes
    assert int(found["d2c_ns"].sum()) == whole.total.d2c_ns.sum


def test_request_has_the_documented_fields() -> None:
    fields: dict[str, Any] = {"category": tw.WRITE | tw.FS, "device": 8 << 20 | 16}
    (found,) = blkiomon.requests(
        encode(
            [
                issue(S, 4096, 512, pid=7, cpu=3, **fields),
                complete(S + 250, 4096, 512, pid=8, cpu=4, error=5, **fields),
            ]
        )
    )
    values = dict(zip(REQUEST.names or (), found.tolist()))
    assert math.isnan(values.pop("q2d_ns")) and np.isnat(found["time"])
    del values["time"]
    assert values == {
        "issued_ns": S,
        "first_issued_ns": S,
        "d2c_ns": 250,
        "sector": 4096,
        "bytes": 512,
        "device": 8 << 20 | 16,
        "op": 1,
        "pid": 7,
        "cpu": 3,
        "error": 5,
    }


def test_requests_can_be_limited_to_some_devices(data: bytes) -> None:
    device = 7 << 20 | 2
    found = blkiomon.requests(data, devices=[device])
    assert set(found["device"].tolist()) == {device}
    assert len(found) == blkiomon.summarize(data, devices=[device]).total.requests


def test_empty_trace_has_no_records_and_no_requests() -> None:
    assert blkiomon.read_trace(b"").shape == blkiomon.requests(b"").shape == (0,)
    assert blkiomon.read_trace(io.BytesIO()).dtype == layout.RECORD
    assert blkiomon.summarize(b"").total.requests == 0
    assert len(list(blkiomon.intervals(b""))) == 1


def saved(n_batches: int) -> list[Record]:
    """Records of two CPUs as a pipe of blktrace has them: batches of each in turn."""
    return [
        issue(500 * (n // 2) + t, t, 512, cpu=n % 2) for n in range(n_batches) for t in range(500)
    ]


def as_bytes(data: bytes) -> bytes:
    return data


def as_file(data: bytes) -> BinaryIO:
    return io.BytesIO(data)


def as_packed_bytes(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def as_unpacking_file(data: bytes) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(data, 1)))


def as_mapping(data: bytes) -> mmap.mmap:
    mapping = mmap.mmap(-1, len(data))
    mapping[:] = data
    return mapping


FORMS = [as_bytes, as_file, as_packed_bytes, as_unpacking_file, as_mapping]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", [0, READ_BYTES - 12_000, LOOK_AHEAD_BYTES + 1_000_000])
def test_sources_that_were_saved_from_a_pipe_are_sorted(
    form: Callable[[bytes], Any], before: int
) -> None:
    data = encode([issue(0, 8, 512)]) * (before // 48) + encode(saved(20))
    times = blkiomon.read_trace(form(data))["time_ns"]
    assert times.tolist() == [0] * (before // 48) + sorted(record.time_ns for record in saved(20))


def test_source_packed_in_many_small_parts_takes_little_memory() -> None:
    one = gzip.compress(encode([issue(1, 8, 512)]), 1)
    tracemalloc.start()
    try:
        assert len(blkiomon.read_trace(one * 2000)) == 2000
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 20_000_000


def test_a_pipe_is_sorted_from_the_first_record_out_of_order_on() -> None:
    class Piped(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return super().read1(1000)

        def seekable(self) -> bool:
            return False

    times = blkiomon.read_trace(Piped(encode(saved(20))))["time_ns"]
    assert times[:500].tolist() == list(range(500))
    assert times[500:].tolist() == sorted(record.time_ns for record in saved(20)[500:])


def test_all_intervals_before_an_error_of_a_file_object_are_yielded() -> None:
    class Failing(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            if piece := super().read1(size):
                return piece
            raise OSError("the disk is gone")

    items = blkiomon.intervals(Failing(encode(steady(25))))
    assert [next(items).total.requests for _ in range(3)] == [10, 10, 5]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


# -- intervals -------------------------------------------------------------------------------------


def test_intervals_are_yielded_as_they_end(data: bytes) -> None:
    class Slow(io.BytesIO):
        given = 0

        def read1(self, size: int | None = -1, /) -> bytes:
            piece = super().read1(48 * 1000)
            self.given += len(piece)
            return piece

        def seekable(self) -> bool:  # as a pipe
            return False

    source = Slow(data)
    items = blkiomon.intervals(source, 0.1)
    first = next(items)
    assert isinstance(first, Interval)
    assert source.given < len(data) / 10
    assert 1 + len(list(items)) == 31
    assert source.given == len(data)


def test_intervals_that_a_few_bytes_end_do_not_exist_at_once() -> None:
    items = blkiomon.intervals(encode([*pair(S), *pair(3 * S)]), 0.001)
    others = {id(o) for o in gc.get_objects() if isinstance(o, Interval)}
    next(items)
    alive = [o for o in gc.get_objects() if isinstance(o, Interval) and id(o) not in others]
    assert len(alive) <= 1
    assert len(list(items)) == 2001


def test_functions_take_a_period_and_resync() -> None:
    data = encode(anchored(40))
    options: dict[str, Any] = {"from_ns": (DAY_S + 1) * S, "to_ns": (DAY_S + 2) * S}
    (item,) = blkiomon.intervals(data, 5, is_absolute=True, **options)
    assert (item.start_ns, item.end_ns) == ((DAY_S + 1) * S, (DAY_S + 2) * S)
    assert blkiomon.summarize(data, from_ns=S, to_ns=2 * S).total.requests == 10
    garbled = b"?" * 100 + data
    assert blkiomon.summarize(garbled, resync=True).counts.skipped_bytes == 100


def test_wrong_options_raise_at_the_call() -> None:
    with pytest.raises(ValueError, match="interval_s"):
        blkiomon.intervals(b"", -1)
    with pytest.raises(ValueError, match="clock"):
        blkiomon.intervals(b"", clock="sun")
    with pytest.raises(TypeError):
        blkiomon.intervals(b"", colour="red")  # type: ignore[call-arg]


USERS_OF_OPTIONS: list[Callable[..., Any]] = [
    blkiomon.Monitor,
    partial(blkiomon.requests, b""),
    partial(blkiomon.summarize, b""),
]


@pytest.mark.parametrize("use", USERS_OF_OPTIONS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"max_age_s": age_s}, r"max_age_s must be from 0 to 1\.8e10, not")
            for age_s in (float("inf"), float("nan"), -1.0, 2e10)
        ),
        *(
            ({"devices": [device]}, f"a device number is from 0 to 2.32-1, not {device}")
            for device in (-1, 1 << 32, 1 << 70)
        ),
    ],
)
def test_options_out_of_range_are_refused(
    use: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        use(**options)


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, Callable[[bytes], int]]]:
    """The reading end of a pipe, and what writes to it."""
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb", buffering=0) as other:
        yield file, other.write


def test_wall_clock_ends_intervals_of_a_pipe(pipe: tuple[BinaryIO, Callable[[bytes], int]]) -> None:
    file, write = pipe
    data = encode(steady(30))
    done = threading.Event()

    def feed() -> None:
        while not done.wait(0.02):
            write(data)

    writer = threading.Thread(target=feed)
    writer.start()
    try:
        items = blkiomon.intervals(file, 0.1, clock="wall")
        some = [next(items) for _ in range(3)]
    finally:
        done.set()
        writer.join()
    assert {(i.clock, i.anchored) for i in some} == {("wall", True)}
    assert all(0.05 < i.duration_s < 10 for i in some)
    assert all(i.total.requests for i in some)
    assert [i.start_ns for i in some[1:]] == [i.end_ns for i in some[:-1]]


def test_wall_clock_puts_a_trace_read_at_once_into_one_interval(data: bytes) -> None:
    (item,) = blkiomon.intervals(data, 1000, clock="wall")
    assert (item.clock, item.total.requests) == ("wall", N_REQUESTS)
    assert blkiomon.summarize(data, clock="wall").total.requests == N_REQUESTS
    items = blkiomon.intervals(data[:-1], 1000, clock="wall")
    assert next(items).total.requests == N_REQUESTS - 1
    with pytest.raises(TraceError):
        next(items)


def test_lost_marks_of_files_are_counted_also_at_their_end(tmp_path: Path) -> None:
    records = steady(4)
    (tmp_path / "a.blktrace.0").write_bytes(encode(records[:4]) + tw.lost_mark(0, 3))
    (tmp_path / "a.blktrace.1").write_bytes(encode(records[4:]) + tw.lost_mark(1, 4))
    assert blkiomon.summarize(tmp_path).counts.lost_events == 7
    (tmp_path / "a.blktrace.1").write_bytes(tw.lost_mark(1, 4))
    (tmp_path / "a.blktrace.0").write_bytes(tw.lost_mark(0, 3))
    assert blkiomon.summarize(tmp_path).counts.lost_events == 7


# -- errors ----------------------------------------------------------------------------------------

FUNCTIONS: list[Callable[..., Any]] = [
    blkiomon.read_trace,
    blkiomon.requests,
    lambda source: list(blkiomon.intervals(source)),
    blkiomon.summarize,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_errors_name_file_and_offset(function: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(encode(steady(1)) + b"garbage" * 20)
    with pytest.raises(TraceError) as caught:
        function(path)
    assert (caught.value.offset, caught.value.file) == (96, str(path))
    assert str(caught.value).startswith(f"{path}: at byte offset 96: found ")
    with pytest.raises(TraceError) as caught:
        function(path.read_bytes())
    assert (caught.value.offset, caught.value.file) == (96, None)
    path.write_bytes(encode(steady(1))[:-1])
    with pytest.raises(TraceError, match=r"at byte offset 48: found the end of") as caught:
        function(str(path))
    assert caught.value.file == str(path)
    with pytest.raises(SourceError, match="missing: no such file"):
        function(tmp_path / "missing")
    with pytest.raises(SourceError):
        function([])
    with pytest.raises(SourceError, match="the path of the trace is empty"):
        function("")
    with pytest.raises(TypeError, match="a path must be text or a Path, not b'trace'"):
        function([b"trace"])
    with pytest.raises(SourceError, match=r"'no\\x00path': a path has no NUL"):
        function(["no\0path"])
    with pytest.raises(TypeError, match=r"bytes: open it with mode 'rb', not <_io.StringIO"):
        function(io.StringIO("text"))
    with tempfile.NamedTemporaryFile("w") as text, path.open("ab") as written:
        for file in (text, written):
            with pytest.raises(TypeError, match="bytes: open it with mode 'rb', not <"):
                function(file)
    for source in (5, None, {"a": 1}, memoryview(bytes(96))[::2]):
        with pytest.raises(
            TypeError, match="a list of paths, a binary file or contiguous bytes, not"
        ):
            function(source)


WHOLE = blkiomon.summarize(encode(steady(25)))

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "interval": (
        lambda: blkiomon.intervals(b"", "1s"),  # type: ignore[arg-type]
        "the length of an interval must be a number of seconds, or None, not '1s'",
    ),
    "devices": (
        lambda: blkiomon.summarize(b"", devices=8.16),  # type: ignore[arg-type]
        'devices must be names or numbers, such as ["8:16", "sdb"], not 8.16',
    ),
    "a device": (
        lambda: blkiomon.requests(b"", devices=[None]),  # type: ignore[list-item]
        'a device must be a number, "8:16" or "sdb", not None',
    ),
    "ops": (
        lambda: blkiomon.summarize(b"", ops=3),  # type: ignore[arg-type]
        "ops must be names, such as ['read', 'write'], not 3",
    ),
    "an op": (lambda: WHOLE.only([[]]), "an operation must be text, not []"),  # type: ignore
    "from_ns": (
        lambda: blkiomon.summarize(b"", from_ns=1.5),  # type: ignore[arg-type]
        "from_ns must be a whole number, not 1.5",
    ),
    "max_pending": (
        lambda: blkiomon.Monitor(max_pending="many"),  # type: ignore[arg-type]
        "max_pending must be a whole number, not 'many'",
    ),
    "max_age_s": (
        lambda: blkiomon.requests(b"", max_age_s="1m"),  # type: ignore[arg-type]
        "max_age_s must be a number of seconds, not '1m'",
    ),
    "an option": (
        lambda: blkiomon.summarize(b"", colour="red"),  # type: ignore[call-arg]
        "unknown option 'colour'; there are max_pending, max_age_s, max_devices, resync, devices, "
        "ops, from_ns, to_ns, is_absolute",
    ),
    "an option of Monitor": (
        lambda: blkiomon.Monitor(max_age=1),  # type: ignore[call-arg]
        "Monitor.__init__() got an unexpected keyword argument 'max_age'",
    ),
    "percent": (
        lambda: WHOLE.percentile("99"),  # type: ignore[arg-type]
        "percent must be a number, such as 99 or 99.9, not '99'",
    ),
    "percents": (
        lambda: WHOLE.total.d2c_ns.percentile([50]),  # type: ignore[arg-type]
        "percent must be a number, such as 99 or 99.9, not [50]",
    ),
    "device()": (
        lambda: WHOLE.device(None),  # type: ignore[arg-type]
        'a device must be a number, "8:16" or "sdb", not None',
    ),
    "merge": (
        lambda: blkiomon.merge(WHOLE),  # type: ignore[arg-type]
        "intervals must be several Interval, not Interval(",
    ),
    "merge of others": (
        lambda: WHOLE.merge(3),  # type: ignore[arg-type]
        "an item to merge must be an Interval, not 3",
    ),
    "merge of distributions": (
        lambda: WHOLE.total.d2c_ns.merge(3),  # type: ignore[arg-type]
        "an item to merge must be a Distribution, not 3",
    ),
    "to_dict": (
        lambda: blkiomon.to_dict(3),  # type: ignore[arg-type]
        "interval must be an Interval, not 3",
    ),
    "to_bytes": (
        lambda: blkiomon.to_bytes(3),  # type: ignore[arg-type]
        "interval must be an Interval, not 3",
    ),
    "from_bytes": (
        lambda: blkiomon.from_bytes("bkiv"),  # type: ignore[arg-type]
        "data must be bytes that to_bytes returned, not 'bkiv'",
    ),
    "feed": (
        lambda: blkiomon.Monitor().feed("text"),  # type: ignore[arg-type]
        "data must be contiguous bytes of a trace, not 'text'",
    ),
    "feed of every second byte": (
        lambda: blkiomon.Monitor().feed(memoryview(bytes(96))[::2]),
        "data must be contiguous bytes of a trace, not <memory at",
    ),
    "read_stats": (
        lambda: blkiomon.read_stats(3),  # type: ignore[arg-type]
        "path must be text or a Path, not 3",
    ),
}


@pytest.mark.parametrize(("call", "said"), WRONG.values(), ids=WRONG)
def test_wrong_type_says_what_is_wanted(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(said)}"):
        call()


def test_device_and_operation_may_be_alone_or_of_numpy(data: bytes) -> None:
    number = 7 << 20 | 1
    wanted = blkiomon.summarize(data, devices=["7:1"], ops=["read"]).total
    for devices in ("7:1", number, np.uint32(number), (number,), {"7:1"}, np.array([number])):
        found = blkiomon.summarize(data, devices=devices, ops="read")  # type: ignore[arg-type]
        assert found.total.requests == wanted.requests > 0
    times = {"from_ns": np.int64(S), "to_ns": np.int64(2 * S)}
    assert blkiomon.summarize(data, **times).start_ns == S  # type: ignore[arg-type]
    assert WHOLE.percentile(np.float32(50)) == WHOLE.percentile(np.int64(50))  # type: ignore


def test_intervals_before_an_error_are_yielded() -> None:
    items = blkiomon.intervals(encode(steady(25)) + b"garbage" * 20)
    assert [next(items).total.requests for _ in range(3)] == [10, 10, 5]
    with pytest.raises(TraceError):
        next(items)


def test_intervals_of_files_before_an_error_are_yielded(tmp_path: Path) -> None:
    (tmp_path / "a.blktrace.0").write_bytes(encode(steady(25))[:-1])
    (tmp_path / "a.blktrace.1").write_bytes(b"")
    items = blkiomon.intervals(tmp_path)
    assert [next(items).total.requests for _ in range(3)] == [10, 10, 4]
    with pytest.raises(TraceError, match=r"a\.blktrace\.0: at byte offset 2352: "):
        next(items)


# -- statistics of -b ------------------------------------------------------------------------------


def test_statistics_files_can_be_read(tmp_path: Path) -> None:
    stats = blkiomon.read_stats(goldenfiles.DIRECTORY / "loop-multi-dc.binary")
    assert stats.dtype == layout.STATS
    assert stats["size_r"]["count"].sum() + stats["size_w"]["count"].sum() == N_REQUESTS
    (tmp_path / "other").write_bytes(b"no statistics" * 100)
    with pytest.raises(StatsError, match="not a statistics file"):
        blkiomon.read_stats(str(tmp_path / "other"))
    with pytest.raises(FileNotFoundError):
        blkiomon.read_stats(tmp_path / "missing")


# -- arrays in other programs' hands ---------------------------------------------------------------


def test_arrays_go_into_pandas(data: bytes) -> None:
    import pandas as pd

    found = blkiomon.requests(data)
    frame = pd.DataFrame(found)
    assert frame.columns.tolist() == list(REQUEST.names or ())
    assert frame.dtypes.tolist() == [REQUEST[name] for name in frame.columns]
    assert frame["q2d_ns"].isna().all() and frame["time"].isna().all()
    assert (frame["d2c_ns"].diff() < 0).any(), "differences have a sign"
    by_op = frame.groupby("op")["d2c_ns"].sum()
    assert by_op[0] == found["d2c_ns"][found["op"] == 0].sum()
    assert len(pd.DataFrame(blkiomon.read_trace(data))) == N_RECORDS


def test_arrays_go_into_polars(data: bytes) -> None:
    import polars as pl

    found = blkiomon.requests(data)
    frame = pl.from_numpy(found)
    assert frame.columns == list(REQUEST.names or ())
    assert frame["d2c_ns"].dtype == pl.Int64
    assert frame["time"].dtype == pl.Datetime("ns")
    assert frame["d2c_ns"].sum() == found["d2c_ns"].sum()


ANCHORED = [tw.notify_timestamp(S, 1_795_000_000, 5), *pair(S), *pair(2 * S + 7)]


def test_requests_have_the_time_of_day_in_utc() -> None:
    times = blkiomon.requests(encode(ANCHORED))["time"]
    assert times.tolist() == [1_795_000_000 * S + 5, 1_795_000_001 * S + 12]
    assert str(times[0]) == "2026-11-18T11:06:40.000000005"


def test_times_in_the_queue_are_numbers_where_they_are_known() -> None:
    queued = tw.Record(S - 40, 0, 4096, tw.act(tw.READ | tw.FS | tw.QUEUE, tw.EV_QUEUE), 8 << 20)
    found = blkiomon.requests(encode([queued, issue(S, 0, 4096), complete(S + 1, 0, 4096)]))
    assert found["q2d_ns"].tolist() == [40.0]


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_requests_are_a_table_with_names_and_utc(library: str, data: bytes) -> None:
    found = blkiomon.requests(data)
    slow = found[found["d2c_ns"] > 20 * MS]
    frame = getattr(slow, f"to_{library}")()
    rows = frame.to_pylist() if library == "arrow" else None
    if rows is None:
        rows = frame.to_dicts() if library == "polars" else frame.to_dict("records")
    fields = ("op", "device", "d2c_ns", "sector", "bytes")
    assert [tuple(row[name] for name in fields) for row in rows] == [
        (layout.OPS[r["op"]], f"{r['device'] >> 20}:{r['device'] & 0xFFFFF}", *r[[*fields[2:]]])
        for r in slow
    ]
    assert {repr(row["time"]) for row in rows} <= {"None", "NaT"}, "no time of day"
    anchored = getattr(blkiomon.requests(encode(ANCHORED)), f"to_{library}")()["time"]
    times = anchored.to_pylist() if library == "arrow" else anchored.to_list()
    assert [time.timestamp() for time in times] == [1_795_000_000, 1_795_000_001]
    assert str(times[0].tzinfo) in ("UTC", "utc", "zoneinfo.ZoneInfo(key='UTC')")
    nothing = getattr(found[:0], f"to_{library}")()
    assert len(nothing) == 0 and nothing.shape[1] == len(REQUEST.names or ())


@pytest.mark.parametrize("library", ["polars", "arrow"])
def test_unknown_times_in_the_queue_are_null(library: str) -> None:
    queued = tw.Record(S - 40, 0, 4096, tw.act(tw.READ | tw.FS | tw.QUEUE, tw.EV_QUEUE), 8 << 20)
    found = blkiomon.requests(
        encode([queued, issue(S, 0, 4096), complete(S + 1, 0, 4096), *pair(2 * S)])
    )
    column = getattr(found, f"to_{library}")()["q2d_ns"]
    assert (column.to_pylist() if library == "arrow" else column.to_list()) == [40.0, None]


def test_arrow_shares_the_memory_of_columns(data: bytes) -> None:
    columns = frames.request_columns(blkiomon.requests(data))
    table = frames.arrow_of(columns)
    shared = {
        name
        for name, values in columns.items()
        if name not in ("op", "device")
        if table[name].chunk(0).buffers()[1].address == values.ctypes.data
    }
    assert shared == {*columns} - {"op", "device"}
    assert all(table[name].num_chunks == 1 for name in columns)


def test_histogram_goes_into_arrow_without_a_copy(data: bytes) -> None:
    import pyarrow as pa

    counts = blkiomon.summarize(data).total.d2c_ns.counts
    assert pa.array(counts).buffers()[1].address == counts.ctypes.data


def test_parts_of_requests_are_requests_and_fields_are_arrays(data: bytes) -> None:
    found = blkiomon.requests(data)
    assert type(found[:3]) is type(found[found["op"] == 1]) is type(found)
    assert type(np.concatenate([found[3:], found[:3]])) is type(found)
    assert type(found["op"]) is type(found[["op", "device"]]) is np.ndarray


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_intervals_are_a_tidy_table(library: str, data: bytes) -> None:
    frame = getattr(blkiomon.intervals(data, 1.0), f"to_{library}")()
    rows = frame.to_pylist() if library == "arrow" else None
    if rows is None:
        rows = frame.to_dicts() if library == "polars" else frame.to_dict("records")
    wanted = [g for i in blkiomon.intervals(data, 1.0) for g in i.groups() if g.op is not None]
    assert [(row["device"], row["op"], row["requests"], row["d2c_p99_ns"]) for row in rows] == [
        (f"{g.device >> 20}:{g.device & 0xFFFFF}", g.op, g.requests, g.d2c_ns.percentile(99))
        for g in wanted
        if g.device is not None
    ]
    missing = {repr(row["start"]) for row in rows} | {repr(row["q2d_mean_ns"]) for row in rows}
    assert missing <= {"None", "nan", "NaT"}, "no queue records, no time of day"


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
def test_table_has_the_time_of_day_in_utc(library: str) -> None:
    frame = getattr(blkiomon.intervals(encode(ANCHORED), 1.0), f"to_{library}")()
    starts = frame["start"].to_pylist() if library == "arrow" else frame["start"].to_list()
    assert len(starts) == 2
    assert [start.timestamp() for start in starts] == [1_795_000_000, 1_795_000_001]
    assert str(starts[0].tzinfo) in ("UTC", "utc", "zoneinfo.ZoneInfo(key='UTC')")


def test_error_of_a_request_is_its_errno() -> None:
    """Of sectors that SCSI could not read, on a real kernel."""
    found = blkiomon.requests(Path(__file__).with_name("data") / "kernels/medium-7.3.bin.xz")
    assert found["error"].tolist() == [errno.ENODATA] * 6


def test_second_thread_may_not_use_the_same_intervals() -> None:
    class Source(io.BytesIO):
        """Is read while ``next`` of its intervals is called."""

        def read1(self, size: int | None = -1, /) -> bytes:
            with pytest.raises(RuntimeError, match="another thread is using these intervals"):
                next(items)
            return super().read1(size)

    items = blkiomon.intervals(Source(encode(steady(25))))
    assert len(list(items)) == 3


def test_table_has_what_the_iterator_has_left(data: bytes) -> None:
    found = blkiomon.intervals(data, 1.0)
    next(found)
    assert repr(found) == "Intervals(1 read; to_pandas() makes a table of those left)"
    n_left = found.to_pandas()["start_ns"].nunique()
    assert n_left > 0
    with pytest.raises(ValueError, match=f"all {n_left + 1} intervals have been read: call inter"):
        found.to_polars()
    assert list(found) == []


def test_table_without_its_library_names_it(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    for found in (blkiomon.intervals(data), blkiomon.requests(data)):
        with pytest.raises(blkiomon.MissingLibrary, match="needs polars: pip install polars") as it:
            found.to_polars()
        assert isinstance(it.value, ImportError)


def test_arrays_go_into_duckdb(data: bytes) -> None:
    import duckdb

    found = blkiomon.requests(data)
    columns = {name: found[name] for name in REQUEST.names or ()}
    with duckdb.connect() as db:
        db.register("requests", columns)
        db.execute("select op, count(*), sum(d2c_ns)::ubigint from requests group by op")
        answer = db.fetchall()
    assert sorted(answer) == [
        (op, int((found["op"] == op).sum()), int(found["d2c_ns"][found["op"] == op].sum()))
        for op in np.unique(found["op"]).tolist()
    ]


def test_package_lists_its_public_names() -> None:
    assert set(blkiomon.__all__) == set(dir(blkiomon))
    for name in set(blkiomon.__all__) - {"__version__"}:
        text = getattr(blkiomon, name).__doc__
        assert text and not text.startswith(f"{name}("), name  # as dataclass() makes it
    with pytest.raises(AttributeError, match="nothing"):
        _ = blkiomon.nothing


def test_missing_device_or_file_raises_what_the_document_says(tmp_path: Path) -> None:
    whole = blkiomon.summarize(TRACE)
    for ask in (whole.device, whole.ops, lambda device: whole.percentile(99, device)):
        with pytest.raises(KeyError, match="device 8:16 has no figures; known devices: 7:1"):
            ask("8:16")
        with pytest.raises(ValueError, match="this host has no block device 'nosuch'"):
            ask("nosuch")
    with pytest.raises(FileNotFoundError):
        blkiomon.read_stats(tmp_path / "nosuch")
    text = (Path(__file__).parent.parent / "docs/library.md").read_text()
    (left_out,) = re.findall("\nThe histogram, (.*) and the columns of .* are left out", text)
    of_files = {column.name for column in flat_table.COLUMNS} - {*UNSEEN}
    of_frames = {column.name for column in frames.COLUMNS}
    assert set(re.findall("`(.*?)`", left_out)) == of_files - of_frames
