"""What a worker does: a trace in, intervals in the dataset, and one interval of all as the result.

A huge trace may be read by several workers: each accounts its shard of the keys, and one joins what
they have made. Nothing in here knows who the workers are. Memory does not grow with the trace: the
engine's is bounded by ``max_pending``, some thousand rows wait for their Parquet file, and 64
intervals to be merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from blkiomon.commands.archive.options import Options
from blkiomon.commands.archive.store import Partitions, Result, Store
from blkiomon.commands.archive.traces import Trace, why
from blkiomon.console import how_many
from blkiomon.errors import SourceError, TraceError
from blkiomon.formats.binary_codec import from_bytes, to_bytes
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.value import MERGED_AT_ONCE, Interval, join, merge
from blkiomon.library import counted, followed


@dataclass(frozen=True, slots=True)
class Failed:
    """A trace of which nothing more will come.

    Attributes:
        trace: its name.
        error: what is wrong.
        is_of_dataset: it is the dataset that could not be written.
    """

    trace: str
    error: str
    is_of_dataset: bool = False


def attempt(
    function: Callable[..., Result | None], trace: Trace, *arguments: Any
) -> Result | Failed | None:
    """Call one of the functions below; what it raises is a value, which any process can take."""
    try:
        return function(trace, *arguments)
    except SourceError as error:
        return Failed(trace.name, str(error))
    except Exception as error:  # of whatever file system the dataset is on
        return Failed(trace.name, why(error), is_of_dataset=True)


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
            found = _read(trace, options, partitions.add)
            found = replace(found, partitions=tuple(partitions.names))
        store.finish(trace, chosen, found)
    return found


def read_shard(
    trace: Trace, options: Options, shard: tuple[int, int], dataset: str | None = None
) -> Result | None:
    """Account one shard of a trace's keys; None if an earlier run has dealt with the trace.

    The intervals go to a file beside the dataset, for ``join_shards``.

    Raises:
        Exception: as ``archive``.
    """
    if dataset is None:
        return _read(trace, options, None, shard)
    store = Store(dataset)
    if store.finished(trace, asdict(options)) is not None:
        return None
    with store.writing_shard(trace, shard) as add:
        return _read(trace, options, add, shard)


def join_shards(
    trace: Trace, options: Options, shards: Sequence[Result | None], dataset: str | None = None
) -> Result:
    """What ``archive`` would have made of a trace, of what ``read_shard`` has made of each shard.

    Raises:
        SourceError: the shards are not of the same bytes.
        Exception: as ``archive``.
    """
    store = None if dataset is None else Store(dataset)
    chosen = asdict(options)
    if store is not None:
        found = store.finished(trace, chosen)
        if found is not None:
            return found
    results = [result for result in shards if result is not None]
    if len({replace(result, whole=None) for result in results}) != 1 or len(results) < len(shards):
        raise SourceError(f"{trace.name} has changed while it was read")
    result = results[0]
    wholes = [from_bytes(r.whole) for r in results if r.whole is not None]
    if wholes:
        result = replace(result, whole=to_bytes(join(wholes)))
    if store is not None:
        with Partitions(store, trace) as partitions:
            for parts in store.shards(trace, len(shards)):
                partitions.add(join(parts))
            result = replace(result, partitions=tuple(partitions.names))
        store.finish(trace, chosen, result)
        store.remove_shards(trace, len(shards))
    return result


def _read(
    trace: Trace,
    options: Options,
    add: Callable[[Interval], None] | None,
    shard: tuple[int, int] = (0, 1),
) -> Result:
    notes: list[str] = []
    some: list[Interval] = []  # that wait to be merged
    intervals = 0
    error: Exception | None = None
    monitor = options.monitor(shard)
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
    trace: Trace, options: Options, monitor: Monitor, notes: list[str]
) -> Iterator[Interval]:
    with ExitStack() as stack:
        stream = stack.enter_context(trace.open(resync=options.resync, report=notes.append))
        yield from followed(counted(stream, monitor), monitor)


def _told(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {str(error) or 'nothing more was read'}"
    return f"bad trace: {error}" if isinstance(error, TraceError) else str(error)
