"""The Python API: records, requests and intervals of a trace."""

from __future__ import annotations

import math
import mmap
import os
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from blkiomon import sources
from blkiomon._core import Engine
from blkiomon.engine import layout
from blkiomon.errors import SourceError, TraceError
from blkiomon.interval.arguments import whole, wrong
from blkiomon.interval.clock import WallClock
from blkiomon.interval.devices import DeviceId
from blkiomon.interval.monitor import MAX_AGE_S, Monitor, age_ns, device_set
from blkiomon.interval.value import Interval
from blkiomon.sources import is_packed, open_trace
from blkiomon.sources.readers import MAGIC_BYTES, UNPACKED_BYTES, OpenedReader
from blkiomon.sources.streams import LOOK_AHEAD_BYTES, READ_BYTES, SortedStream

if TYPE_CHECKING:
    from blkiomon.interval.arguments import Bytes

    Path = str | os.PathLike[str]
    Source = Path | Sequence[Path] | BinaryIO | Bytes


_TIMES = ("issued_ns", "first_issued_ns", "d2c_ns")

REQUEST = np.dtype(
    [
        (name, "i8" if name in _TIMES else layout.REQUEST[name])
        for name in layout.REQUEST.names or ()
    ]
)
"""A request as ``requests`` returns it: ``layout.REQUEST``, whose times in ns are signed here, so
that differences are right."""


def _frames() -> Any:
    """The module that makes tables. It is slow to import, and commands need none."""
    from blkiomon.formats import frames

    return frames


class Requests(np.ndarray[Any, np.dtype[np.void]]):
    """Requests of a trace: shape (n,), dtype ``REQUEST``; parts of it are arrays of the same kind.

    Its methods make tables with operations and devices as text, and times in UTC.
    """

    __array_priority__ = 1  # so that np.concatenate returns this type

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        is_field = isinstance(found, np.ndarray) and found.dtype != REQUEST
        return found.view(np.ndarray) if is_field else found

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table``. Raises MissingLibrary: pyarrow is not installed."""
        return _frames().requests_to_arrow(self)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``. Raises MissingLibrary: pandas is not installed."""
        return _frames().requests_to_pandas(self)

    def to_polars(self) -> Any:
        """A ``polars.DataFrame``. Raises MissingLibrary: polars is not installed."""
        return _frames().requests_to_polars(self)


CHUNK_BYTES = 1 << 20
"""Most bytes that are read from a file object at a time."""


class MonitorOptions(TypedDict, total=False):
    """Options of ``Monitor``, which documents them."""

    max_pending: int
    max_age_s: float
    max_devices: int
    resync: bool
    devices: DeviceId | Iterable[DeviceId]
    ops: str | Iterable[str]
    from_ns: int | None
    to_ns: int | None
    is_absolute: bool


class ClockOptions(MonitorOptions, total=False):
    """``MonitorOptions``, and the clock."""

    clock: str


def read_trace(source: Source, *, resync: bool = False) -> npt.NDArray[np.void]:
    """Read all records of a trace, of any kind.

    Records that were saved from a pipe of blktrace, one device and CPU after another, are put in
    order of time; for this, a source that can seek is read 8 MiB ahead.

    Args:
        source: a path, as on the command line (a file, the base name or a member of a per-CPU set,
            a directory); a list of these, merged by time; a binary file object; or the bytes
            themselves. Sources that are compressed with gzip, xz or zstd are unpacked. A
            UserWarning names files that are missing from a set.
        resync: after bytes that are not a record, continue at the next plausible one.

    Returns:
        Shape (n,), dtype ``layout.RECORD``, in the order of the stream: times in ns of trace time,
        sectors of 512 bytes, sizes in bytes. Payloads are left out.

    Raises:
        TraceError: the source is not a trace, or ends inside a record.
        SourceError: a file cannot be found or read.
        TypeError: the source is of another type.
    """
    engine = Engine(records_only=True, resync=resync)
    return _collected(source, resync, engine, engine.take_records, layout.RECORD)


def requests(
    source: Source,
    *,
    devices: DeviceId | Iterable[DeviceId] = (),
    max_pending: int = 1_000_000,
    max_age_s: float = MAX_AGE_S,
    resync: bool = False,
) -> Requests:
    """Read the requests of a trace: each is an issue matched with its completion.

    Args:
        source, resync: see ``read_trace``.
        devices: the devices to read, see ``Monitor``; default: all.
        max_pending, max_age_s: limits of unmatched records, see ``Monitor``.

    Returns:
        Shape (n,), dtype ``REQUEST``, in the order of their completions. ``time`` is NaT if
        the trace does not contain the time of day.

    Raises:
        ValueError: an option is out of range.
        TraceError, SourceError: see ``read_trace``.
    """
    engine = Engine(
        keep_requests=True,
        devices=device_set(devices),
        max_pending=whole("max_pending", max_pending),
        max_age_ns=age_ns(max_age_s),
        resync=resync,
    )
    found = _collected(source, resync, engine, engine.take_requests, layout.REQUEST)
    made = found.view(REQUEST).view(Requests)
    if engine.epoch_ns is not None:
        np.add(made["issued_ns"], engine.epoch_ns, out=made["time"].view("i8"))
    return made


def _collected(
    source: Source,
    resync: bool,
    engine: Engine,
    take: Callable[[], npt.NDArray[np.void]],
    dtype: np.dtype[np.void],
) -> npt.NDArray[np.void]:
    """Feed a whole trace, and concatenate what ``take`` returns after each piece."""
    _check(source)
    rows = _Rows(dtype)
    with _file_name_in_errors(source):
        for data in _read(source, resync):
            engine.feed(data)
            rows.add(take())
        engine.finish()
    rows.add(take())
    return rows.array()


class _Rows:
    """An array that grows. The kernel moves its pages to a larger mapping, so none is copied."""

    def __init__(self, dtype: np.dtype[np.void]) -> None:
        self._dtype = dtype
        # Not shared: shared memory does not grow.
        self._memory = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._used = 0

    def add(self, rows: npt.NDArray[np.void]) -> None:
        end = self._used + rows.nbytes
        if end > len(self._memory):
            self._memory.resize(max(end, 2 * len(self._memory)))
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._memory[self._used : end] = rows.view(np.uint8).data
        self._used = end

    def array(self) -> npt.NDArray[np.void]:
        if not self._used:
            return np.empty(0, self._dtype)
        self._memory.resize(self._used)
        return np.frombuffer(self._memory, self._dtype)


class Intervals(Iterator[Interval]):
    """An iterator of intervals. Its methods read those that are left, as one table.

    Each interval is read once: after the last, the methods raise ValueError.
    The tables have a row for each interval, device and operation, and most columns of Parquet
    files: see ``docs/schema.md``. They contain no totals and no histogram. ``start`` is the time of
    day in UTC. Counts and times are signed integers; what is not known is null, or NaN in pandas.
    """

    def __init__(self, found: Iterable[Interval]) -> None:
        self._found = iter(found)
        self._n_read = 0
        self._has_ended = False
        self._lock = Lock()

    def __next__(self) -> Interval:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("another thread is using these intervals")
        try:
            found = next(self._found)
            self._n_read += 1
        except StopIteration:
            self._has_ended = True
            raise
        finally:
            self._lock.release()
        return found

    def __repr__(self) -> str:
        end = ", no more" if self._has_ended else ""
        return f"Intervals({self._n_read} read{end}; to_pandas() makes a table of those left)"

    def _left(self) -> Intervals:
        if self._has_ended:
            raise ValueError(f"all {self._n_read} intervals have been read: call intervals() again")
        return self

    def to_arrow(self) -> Any:
        """A ``pyarrow.Table``. Raises MissingLibrary: pyarrow is not installed."""
        return _frames().to_arrow(self._left())

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``. Raises MissingLibrary: pandas is not installed."""
        return _frames().to_pandas(self._left())

    def to_polars(self) -> Any:
        """A ``polars.DataFrame``. Raises MissingLibrary: polars is not installed."""
        return _frames().to_polars(self._left())


def intervals(
    source: Source,
    interval: float | None = 1.0,
    *,
    clock: str = "trace",
    **options: Unpack[MonitorOptions],
) -> Intervals:
    """Read a trace in intervals; yields each as soon as it ends.

    A source that can seek is read 8 MiB ahead, see ``read_trace``.

    Args:
        source: see ``read_trace``.
        interval: length in seconds; None: the whole trace is one interval.
        clock: "trace": intervals end by the time of the records, so that a trace always gives the
            same intervals. "wall": by the time of day, for a file object that a tracer writes to;
            an interval ends with the first bytes that are read after its end.
        options: see ``Monitor``.

    Raises:
        ValueError: an option is out of range.
        TypeError: the source or an option has a wrong type.
        TraceError, SourceError: see ``read_trace``; after the intervals before the error.
    """
    _check(source)
    if unknown := options.keys() - MonitorOptions.__annotations__.keys():
        known = ", ".join(MonitorOptions.__annotations__)
        raise TypeError(f"unknown option {min(unknown)!r}; there are {known}")
    monitor = Monitor(interval, clock=clock, **options)
    pieces = _read(source, options.get("resync", False), monitor)
    if clock == "wall":
        found = _by_wall_clock(pieces, monitor, interval or math.inf)
    else:
        found = followed(pieces, monitor)

    def named() -> Iterator[Interval]:
        with _file_name_in_errors(source):
            yield from found
        if monitor.disorder:
            warnings.warn(monitor.disorder, stacklevel=2)

    return Intervals(named())


def followed(pieces: Iterable[memoryview], monitor: Monitor) -> Iterator[Interval]:
    """Yield the intervals of a stream by trace time; before an error, all intervals up to it."""
    try:
        for data in pieces:
            for _ in monitor.steps(data):
                yield from monitor.take()
            if monitor.is_done:
                break
    except Exception:
        yield from monitor.take()
        yield from monitor.finish(is_complete=False)
        raise
    try:
        yield from monitor.finish()
    except Exception:
        yield from monitor.take()
        raise


def _by_wall_clock(
    pieces: Iterable[memoryview], monitor: Monitor, interval_s: float
) -> Iterator[Interval]:
    """Yield the intervals of a stream by wall clock; before an error, all intervals up to it."""
    wall = WallClock(interval_s)
    start_ns = wall.time_ns()

    def cut() -> Interval:
        nonlocal start_ns
        begin_ns, start_ns = start_ns, max(start_ns, wall.time_ns())
        return monitor.cut(begin_ns, start_ns)

    try:
        for data in pieces:
            monitor.feed(data)
            if wall.remaining_s() <= 0:
                yield cut()
                wall.advance()
            if monitor.is_done:
                break
        monitor.finish()
    except Exception:
        yield cut()
        raise
    yield cut()


def summarize(source: Source, **options: Unpack[ClockOptions]) -> Interval:
    """Read a whole trace as one interval; without any record, its figures are 0.

    Args:
        source: see ``read_trace``.
        options: see ``Monitor``.

    Raises:
        TraceError, SourceError: see ``read_trace``.
    """
    (whole,) = intervals(source, None, **options)
    return whole


@contextmanager
def _file_name_in_errors(source: Source) -> Iterator[None]:
    """Add the name of the source to a TraceError without one."""
    try:
        yield
    except TraceError as error:
        if error.file is not None or not isinstance(source, (str, os.PathLike)):
            raise
        file = os.fspath(source)
        raise TraceError(error.offset, error.found, error.expected, file) from error


def counted(stream: sources.Source, monitor: Monitor | None) -> Iterator[memoryview]:
    """Yield the pieces of a stream, each valid until the next.

    The monitor receives the losses that only the stream can count, as it merges the files.
    """
    if monitor is not None:
        monitor.missing_files = stream.missing_files
    while True:
        try:
            data = stream.read()
        finally:
            if monitor is not None:
                monitor.count_outside(stream.lost_events, stream.skipped_bytes)
        if not data:
            return
        yield data


def _read(source: Source, resync: bool, monitor: Monitor | None = None) -> Iterator[memoryview]:
    """Yield the pieces of a source, each valid until the next. Merges files, and decompresses."""
    if (paths := _paths(source)) is not None:
        with open_trace(paths, resync=resync, sorts=True) as stream:
            for note in stream.notes:
                warnings.warn(note, stacklevel=2)
            yield from counted(stream, monitor)
        return
    pieces = _pieces(source)
    head = memoryview(b"")
    while len(head) < MAGIC_BYTES and (piece := next(pieces, None)) is not None:
        head = memoryview(bytes(head) + bytes(piece)) if head else piece
    pieces = chain([head], pieces)
    if is_packed(bytes(head[:MAGIC_BYTES])):
        pieces = _unpacked(pieces, getattr(source, "name", None))
    yield from _in_order(pieces, resync, is_live=_is_live(source))


def _unpacked(pieces: Iterator[memoryview], name: object) -> Iterator[memoryview]:
    """The decompressed bytes of these pieces."""
    reader = OpenedReader(_PieceFile(pieces), name if isinstance(name, str) else "the source")
    buffer = memoryview(bytearray(UNPACKED_BYTES))
    while n := reader.readinto(buffer):
        yield memoryview(bytes(buffer[:n]))  # a small part of the source may be packed by itself


def _in_order(pieces: Iterable[memoryview], resync: bool, *, is_live: bool) -> Iterator[memoryview]:
    """The bytes of these pieces, sorted by time if batches of several devices or CPUs alternate.

    A live stream is not read ahead. The pieces stay valid.
    """
    stream = SortedStream(
        look_ahead_bytes=0 if is_live else LOOK_AHEAD_BYTES, resync=resync, is_live=is_live
    )
    failure: Exception | None = None
    try:
        for piece in pieces:
            yield stream.add(piece)
    except Exception as error:  # what was read before it still counts
        failure = error
    while data := stream.rest():
        yield data
    if failure is not None:
        raise failure


def _is_live(source: Any) -> bool:
    """Whether a tracer may be writing to a source: it is a pipe, a socket or something unknown."""
    if not hasattr(source, "read"):
        return False
    if isinstance(source, mmap.mmap):  # before Python 3.13 it does not say that it can seek
        return False
    is_seekable = getattr(source, "seekable", None)
    return is_seekable is None or not is_seekable()


def _check(source: object) -> None:
    """Raise TypeError if this is not a source, SourceError if a path cannot be one."""
    wanted = "a path, a list of paths, a binary file or contiguous bytes"
    is_text = hasattr(source, "encoding")
    if is_text or (hasattr(source, "readable") and not source.readable()):
        raise wrong("source", f"{wanted}: open it with mode 'rb'", source)
    if (paths := _paths(source)) is not None:
        for path in paths:
            if not isinstance(path, (str, os.PathLike)):
                raise wrong("a path", "text or a Path", path)
            if not (name := os.fspath(path)):
                raise SourceError("the path of the trace is empty")
            if "\0" in name:
                raise SourceError(f"{name!r}: a path has no NUL byte")
    elif not hasattr(source, "read"):
        try:
            memoryview(source).cast("B")  # type: ignore[arg-type]
        except TypeError:
            raise wrong("source", wanted, source) from None


def _paths(source: Any) -> Sequence[Path] | None:
    """The paths that a source consists of; None for a file object or a buffer."""
    if isinstance(source, (str, os.PathLike)):
        return [source]
    if isinstance(source, (bytes, bytearray, memoryview, array)):
        return None
    return source if isinstance(source, Sequence) else None


def _pieces(source: Any) -> Iterator[memoryview]:
    """The bytes of a file object or a buffer."""
    if not hasattr(source, "read"):
        whole = memoryview(source).cast("B")
        for begin in range(0, len(whole), READ_BYTES):
            yield whole[begin : begin + READ_BYTES]
        return
    # read1 returns what a pipe has; read would wait until CHUNK_BYTES have arrived.
    read = getattr(source, "read1", source.read)
    while piece := read(CHUNK_BYTES):
        yield memoryview(piece).cast("B")


class _PieceFile:
    """A file object over pieces of bytes."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def read(self, n_bytes: int) -> bytes:
        if not self._left:
            self._left = next(self._pieces, self._left)
        piece, self._left = self._left[:n_bytes], self._left[n_bytes:]
        return bytes(piece)

    def close(self) -> None:
        """The caller closes the source."""
