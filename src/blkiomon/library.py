"""What `import blkiomon` offers to programs: records, requests and intervals of a trace."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from blkiomon._core import Engine
from blkiomon.interval import Interval
from blkiomon.monitor import Monitor
from blkiomon.sources import open_trace

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    Path = str | os.PathLike[str]
    Source = Path | Sequence[Path] | BinaryIO | ReadableBuffer

READ_BYTES = 1 << 20


def read_trace(source: Source, *, resync: bool = False) -> npt.NDArray[np.void]:
    """All records of a trace, of any kind.

    Args:
        source: a path, as on the command line (a file, the base name or a member of a per-CPU set,
            a directory; gzip, xz and zstd are read as they are); a list of these, merged by time;
            a binary file object; or the bytes themselves.
        resync: after bytes that are no record, go on at the next plausible one.

    Returns:
        Shape (n,), dtype ``layout.RECORD``: times in ns of trace time, sectors of 512 bytes,
        sizes in bytes, in the order of the stream. Payloads are left out.

    Raises:
        TraceError: it is no trace, or ends inside a record.
        SourceError: a file cannot be found or read.
    """
    engine = Engine(keep_records=True, resync=resync)
    parts = []
    for data in _read(source, resync):
        engine.feed(data)
        parts.append(engine.take_records())
    engine.finish()
    parts.append(engine.take_records())
    return np.concatenate(parts)


def requests(
    source: Source,
    *,
    devices: Iterable[int] = (),
    max_pending: int = 1_000_000,
    max_age_s: float = 600.0,
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
        TraceError, SourceError: as ``read_trace``.
    """
    engine = Engine(
        keep_requests=True,
        devices=devices,
        max_pending=max_pending,
        max_age_ns=round(max_age_s * 1e9),
        resync=resync,
    )
    parts = []
    for data in _read(source, resync):
        engine.feed(data)
        parts.append(engine.take_requests())
    engine.finish()
    parts.append(engine.take_requests())
    return np.concatenate(parts)


def intervals(source: Source, interval: float | None = 1.0, **options: Any) -> Iterator[Interval]:
    """The intervals of a trace, by its own time, as they come.

    Args:
        source: as for ``read_trace``.
        interval: its length in seconds; None: all is one.
        options: as for ``Monitor``.

    Raises:
        ValueError: an option is out of range.
        TraceError, SourceError: as ``read_trace``, after the intervals of what came before.
    """
    monitor = Monitor(interval, **options)
    try:
        for data, lost, skipped_bytes in _read_counted(source, options.get("resync", False)):
            monitor.count_outside(lost, skipped_bytes)
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


def summarize(source: Source, **options: Any) -> Interval:
    """All of a trace as one interval.

    Args:
        source: as for ``read_trace``.
        options: as for ``Monitor``.

    Raises:
        TraceError, SourceError: as ``read_trace``.
    """
    (whole,) = intervals(source, None, **options)
    return whole


def _read(source: Source, resync: bool) -> Iterator[memoryview]:
    for data, _, _ in _read_counted(source, resync):
        yield data


def _read_counted(source: Source, resync: bool) -> Iterator[tuple[memoryview, int, int]]:
    """The stream piece by piece, each valid until the next, with what was lost and skipped."""
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray, memoryview)):
        with open_trace(source, resync=resync) as stream:
            while data := stream.read():
                yield data, stream.lost, stream.skipped_bytes
    elif hasattr(source, "read"):
        while piece := source.read(READ_BYTES):
            yield memoryview(piece), 0, 0
    else:
        yield memoryview(source).cast("B"), 0, 0
