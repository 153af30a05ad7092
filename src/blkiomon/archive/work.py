"""What a worker does: a trace in, intervals in the dataset, and one interval of all as the result.

Nothing in here knows of Dask. Memory does not grow with the trace: the engine's is bounded by
``max_pending``, some thousand rows wait for their Parquet file, and 64 intervals to be merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict

from blkiomon.archive.options import Options
from blkiomon.archive.store import Partitions, Result, Store
from blkiomon.archive.traces import Trace
from blkiomon.errors import SourceError, TraceError
from blkiomon.interval import MERGED_AT_ONCE, Interval, merge
from blkiomon.library import counted, followed
from blkiomon.monitor import Monitor


def archive(trace: Trace, options: Options, dataset: str | None = None) -> Result:
    """Read a trace, unless an earlier run has done so.

    A trace that ends before its time is told by the result: what came before counts.

    Raises:
        Exception: the dataset cannot be written, by whatever its file system says.
    """
    if dataset is None:
        return _read(trace, options, None)
    store = Store(dataset)
    chosen = asdict(options)
    found = store.finished(trace, chosen)
    if found is None:
        with Partitions(store, trace) as partitions:
            found = _read(trace, options, partitions)
        store.finish(trace, chosen, found)
    return found


def _read(trace: Trace, options: Options, partitions: Partitions | None) -> Result:
    notes: list[str] = []
    some: list[Interval] = []  # that wait to be merged
    intervals = 0
    error: Exception | None = None
    monitor = options.monitor()
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
        if partitions is not None:
            partitions.add(interval)
        some.append(interval)
        if len(some) >= MERGED_AT_ONCE:
            some = [merge(some)]
    if monitor.skipped_intervals:
        notes.append(f"time jumps ahead: {monitor.skipped_intervals} intervals are left out")
    return Result(
        trace=trace.name,
        host=trace.host,
        whole=merge(some).to_bytes() if some else None,
        intervals=intervals,
        records=monitor.totals.records,
        partitions=tuple(partitions.names) if partitions is not None else (),
        error=None if error is None else _told(error),
        is_lasting=isinstance(error, TraceError),
        notes=(*trace.notes, *notes),
    )


def _intervals(
    trace: Trace, options: Options, monitor: Monitor, notes: list[str]
) -> Iterator[Interval]:
    with ExitStack() as stack:
        stream = stack.enter_context(trace.open(resync=options.resync, report=notes.append))
        yield from followed(counted(stream, monitor), monitor)


def _told(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {error or 'nothing more was read'}"
    return f"bad trace: {error}" if isinstance(error, TraceError) else str(error)
