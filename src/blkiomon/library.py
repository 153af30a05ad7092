"""What `import blkiomon` offers to programs: records, requests and intervals of a trace."""

from __future__ import annotations

import os
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from blkiomon import sources
from blkiomon._core import Engine
from blkiomon.errors import TraceError
from blkiomon.interval.clock import WallClock
from blkiomon.interval.moments import stacked
from blkiomon.interval.monitor import MAX_AGE_S, Monitor, age_ns, device_set
from blkiomon.interval.value import Interval
from blkiomon.sources import is_packed, open_trace
from blkiomon.sources.readers import HEAD_BYTES, UNPACKED_BYTES, OpenedReader

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    Path = str | os.PathLike[str]
    Source = Path | Sequence[Path] | BinaryIO | ReadableBuffer

READ_BYTES = 1 << 20


class Options(TypedDict, total=False):
    """Those of ``Monitor``, which has their defaults and says what they mean."""

    max_pending: int
    max_age_s: float
    max_devices: int
    resync: bool
    devices: Iterable[int]
    from_ns: int | None
    to_ns: int | None
    is_absolute: bool
    threads: int


class ClockOptions(Options, total=False):
    """And the clock."""

    clock: str


def read_trace(source: Source, *, resync: bool = False) -> npt.NDArray[np.void]:
    """All records of a trace, of any kind.

    Args:
        source: a path, as on the command line (a file, the base name or a member of a per-CPU set,
            a directory); a list of these, merged by time; a binary file object; or the bytes
            themselves. Whatever is compressed with gzip, xz or zstd is read as it is. Where files
            of a set are missing, that is told by a UserWarning.
        resync: after bytes that are no record, go on at the next plausible one.

    Returns:
        Shape (n,), dtype ``layout.RECORD``: times in ns of trace time, sectors of 512 bytes,
        sizes in bytes, in the order of the stream. Payloads are left out.

    Raises:
        TraceError: it is no trace, or ends inside a record.
        SourceError: a file cannot be found or read.
        TypeError: the source is none of these.
    """
    engine = Engine(keep_records=True, resync=resync)
    return _collected(source, resync, engine, engine.take_records)


def requests(
    source: Source,
    *,
    devices: Iterable[int] = (),
    max_pending: int = 1_000_000,
    max_age_s: float = MAX_AGE_S,
    resync: bool = False,
) -> npt.NDArray[np.void]:
    """The requests of a trace: every issue that has found its completion.

    Args:
        source, resync: as for ``read_trace``.
        devices: numbers (major << 20 | minor) of those that count; all unless given.
        max_pending, max_age_s: what a record without a partner may cost, see ``Monitor``.

    Returns:
        Shape (n,), dtype ``layout.REQUEST``, in the order of their completions.

    Raises:
        ValueError: an option is out of range.
        TraceError, SourceError: as ``read_trace``.
    """
    engine = Engine(
        keep_requests=True,
        devices=device_set(devices),
        max_pending=max_pending,
        max_age_ns=age_ns(max_age_s),
        resync=resync,
    )
    return _collected(source, resync, engine, engine.take_requests)


def _collected(
    source: Source, resync: bool, engine: Engine, take: Callable[[], npt.NDArray[np.void]]
) -> npt.NDArray[np.void]:
    """Feed all of a trace and put together what was taken on the way."""
    parts = []
    with _naming(source):
        for data in _read(source, resync):
            engine.feed(data)
            parts.append(take())
        engine.finish()
    return stacked([*parts, take()])


def intervals(
    source: Source,
    interval: float | None = 1.0,
    *,
    clock: str = "trace",
    **options: Unpack[Options],
) -> Iterator[Interval]:
    """The intervals of a trace, as they come.

    Args:
        source: as for ``read_trace``.
        interval: its length in seconds; None: all is one.
        clock: "trace": intervals end by the records' own time, and the same trace always gives
            the same ones. "wall": by the time of day, for a file object that a tracer writes to;
            one ends with the first bytes that are read after it is due.
        options: as for ``Monitor``.

    Raises:
        ValueError: an option is out of range.
        TraceError, SourceError: as ``read_trace``, after the intervals of what came before.
    """
    monitor = Monitor(interval, clock=clock, **options)
    if clock == "wall":
        return _by_the_wall_clock(source, monitor, interval, options.get("resync", False))
    return _by_trace_time(source, monitor, options.get("resync", False))


def _by_trace_time(source: Source, monitor: Monitor, resync: bool) -> Iterator[Interval]:
    with _naming(source):
        yield from followed(_read_counted(source, resync, monitor), monitor)


def followed(pieces: Iterable[memoryview], monitor: Monitor) -> Iterator[Interval]:
    """The intervals of a stream by trace time, the last one included, also before an error."""
    try:
        for data in pieces:
            yield from monitor.feed(data)
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


def _by_the_wall_clock(
    source: Source, monitor: Monitor, interval: float | None, resync: bool
) -> Iterator[Interval]:
    wall = WallClock(interval or 1e9)
    start_ns = wall.time_ns()
    with _naming(source):
        try:
            for data in _read_counted(source, resync, monitor):
                monitor.feed(data)
                if wall.remaining_s() <= 0:
                    end_ns = max(start_ns, wall.time_ns())
                    yield monitor.cut(start_ns, end_ns)
                    start_ns = end_ns
                    wall.advance()
                if monitor.is_done:
                    break
            monitor.finish()
        except Exception:
            yield monitor.cut(start_ns, max(start_ns, wall.time_ns()))
            raise
        yield monitor.cut(start_ns, max(start_ns, wall.time_ns()))


def summarize(source: Source, **options: Unpack[ClockOptions]) -> Interval:
    """All of a trace as one interval.

    Args:
        source: as for ``read_trace``.
        options: as for ``Monitor``.

    Raises:
        TraceError, SourceError: as ``read_trace``.
    """
    (whole,) = intervals(source, None, **options)
    return whole


@contextmanager
def _naming(source: Source) -> Iterator[None]:
    """An error in a file gets its name."""
    try:
        yield
    except TraceError as error:
        if error.file is not None or not isinstance(source, (str, os.PathLike)):
            raise
        file = os.fspath(source)
        raise TraceError(error.offset, error.found, error.expected, file) from error


def _read_counted(source: Source, resync: bool, monitor: Monitor) -> Iterator[memoryview]:
    """As ``_read``, where a monitor hears of what is lost and skipped before the bytes come."""
    paths = _paths(source)
    if paths is None:
        yield from _read(source, resync)
        return
    with _opened(paths, resync) as stream:
        yield from counted(stream, monitor)


def counted(stream: sources.Source, monitor: Monitor) -> Iterator[memoryview]:
    """All of a stream, piece by piece, each valid until the next; the monitor hears of the rest."""
    monitor.missing_files = stream.missing_files
    while True:
        try:
            data = stream.read()
        finally:
            monitor.count_outside(stream.lost_events, stream.skipped_bytes)
        if not data:
            return
        yield data


def _read(source: Source, resync: bool) -> Iterator[memoryview]:
    """The stream piece by piece, each valid until the next."""
    paths = _paths(source)
    if paths is not None:
        with _opened(paths, resync) as stream:
            while data := stream.read():
                yield data
        return
    pieces = _pieces(source)
    begun = memoryview(b"")
    while len(begun) < HEAD_BYTES and (piece := next(pieces, None)) is not None:
        begun = memoryview(bytes(begun) + bytes(piece)) if begun else piece
    rest = chain([begun], pieces)
    if not is_packed(bytes(begun[:HEAD_BYTES])):
        yield from rest
        return
    name = getattr(source, "name", None)
    reader = OpenedReader(_Pieces(rest), name if isinstance(name, str) else "the source")
    buffer = memoryview(bytearray(UNPACKED_BYTES))
    while n := reader.readinto(buffer):
        yield buffer[:n]


def _pieces(source: Any) -> Iterator[memoryview]:
    """What a file object or a buffer holds, as it is."""
    if not hasattr(source, "read"):
        yield memoryview(source).cast("B")
        return
    # Of a pipe, what there is: read() would wait until there is as much as was asked for.
    read = getattr(source, "read1", source.read)
    while piece := read(READ_BYTES):
        yield memoryview(piece).cast("B")


class _Pieces:
    """Pieces as a file that is read."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def read(self, n_bytes: int) -> bytes:
        if not self._left:
            self._left = next(self._pieces, self._left)
        piece, self._left = self._left[:n_bytes], self._left[n_bytes:]
        return bytes(piece)

    def close(self) -> None:
        """The source stays open: it is the caller's."""


def _opened(paths: Sequence[Path], resync: bool) -> sources.Source:
    """Open files; that some of a set are missing is a warning."""
    stream = open_trace(paths, resync=resync)
    for note in stream.notes:
        warnings.warn(note, stacklevel=2)
    return stream


def _paths(source: Source) -> Sequence[Path] | None:
    """The files that a source names; None: it is something else."""
    if isinstance(source, (str, os.PathLike)):
        return [source]
    if isinstance(source, (bytes, bytearray, memoryview, array)):
        return None
    return source if isinstance(source, Sequence) else None
