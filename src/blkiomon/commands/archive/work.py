"""The tasks of workers: read a trace, write its intervals, and return all of them as one.

Nothing in here knows who the workers are. Memory does not grow with the trace: the
engine's is bounded by ``max_pending``, some thousand rows wait for their Parquet file, and 64
intervals to be merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace

from blkiomon.commands.archive.options import TraceOptions
from blkiomon.commands.archive.store import Partitions, Result, Store
from blkiomon.commands.archive.traces import Failure, Trace, why
from blkiomon.console import how_many
from blkiomon.errors import SourceError, TraceError
from blkiomon.formats.binary_codec import to_bytes
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.value import MERGED_AT_ONCE, Interval, merge
from blkiomon.library import counted, followed


def attempt(trace: Trace, options: TraceOptions, dataset: str | None) -> Result | Failure:
    """Call ``archive``; an exception becomes a ``Failure``, which every process can receive."""
    try:
        return archive(trace, options, dataset)
    except SourceError as error:
        return Failure(trace.name, str(error))
    except Exception as error:  # of any file system that the dataset is on
        return Failure(trace.name, why(error), is_of_dataset=True)


def archive(trace: Trace, options: TraceOptions, dataset: str | None = None) -> Result:
    """Read a trace, unless an earlier run has done so.

    If the trace cannot be read to its end, the result says so; what came before counts.

    Raises:
        Exception: the dataset cannot be written; the type depends on its file system.
    """
    if dataset is None:
        return _read(trace, options, None)
    store = Store(dataset)
    chosen = asdict(options)
    found = store.finished(trace, chosen)
    if found is None:
        with Partitions(store, trace) as partitions:
            found = _read(trace, options, partitions.add)
            found = replace(found, partitions=tuple(partitions.names))
        store.finish(trace, chosen, found)
    return found


def _read(trace: Trace, options: TraceOptions, add: Callable[[Interval], None] | None) -> Result:
    notes: list[str] = []
    some: list[Interval] = []  # waiting to be merged
    intervals = 0
    error: Exception | None = None
    monitor = Monitor(**asdict(options))
    found = _intervals(trace, options, monitor, notes)
    while True:
        try:
            interval = next(found, None)
        except (TraceError, SourceError, MemoryError) as failure:
            error = failure
            break
        if interval is None:
            break
        intervals += 1
        if add is not None:
            add(interval)
        some.append(interval)
        if len(some) >= MERGED_AT_ONCE:
            some = [merge(some)]
    if monitor.skipped_intervals:
        skipped = how_many(monitor.skipped_intervals, "interval is", "intervals are")
        notes.append(f"time jumps ahead: {skipped} left out")
    return Result(
        trace=trace.name,
        host=trace.host,
        whole=to_bytes(merge(some)) if some else None,
        intervals=intervals,
        records=monitor.totals.records,
        error=None if error is None else _told(error),
        is_lasting=isinstance(error, TraceError),
        notes=(*trace.notes, *notes),
    )


def _intervals(
    trace: Trace, options: TraceOptions, monitor: Monitor, notes: list[str]
) -> Iterator[Interval]:
    with ExitStack() as stack:
        stream = stack.enter_context(trace.open(resync=options.resync, report=notes.append))
        yield from followed(counted(stream, monitor), monitor)


def _told(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {str(error) or 'nothing more was read'}"
    return f"bad trace: {error}" if isinstance(error, TraceError) else str(error)
