"""The tasks of workers: read some traces, write their intervals, and merge those of each.

Nothing in here knows who the workers are. Memory does not grow with a trace: the engine's is
bounded by ``max_pending``, some thousand rows wait for their Parquet file, and 64 intervals to be
merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from blkiomon.commands.archive.options import TraceOptions
from blkiomon.commands.archive.results import Result
from blkiomon.commands.archive.traces import Failure, Trace, why
from blkiomon.console import how_many
from blkiomon.errors import IntervalError, SourceError, TraceError
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.value import MERGED_AT_ONCE, Interval, merge
from blkiomon.library import counted, followed

if TYPE_CHECKING:  # without a dataset, pyarrow is not needed
    from blkiomon.commands.archive.parts import Part


@dataclass(frozen=True, slots=True)
class Target:
    """Where the intervals of a task go.

    Attributes:
        dataset: a directory, or a URL of fsspec.
        prefix: of the names of its parts.
    """

    dataset: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a task.

    Attributes:
        results: of each of its traces.
        failures: its traces that no worker could read.
        parts: that were written.
        error: why nothing could be written; there are no results then.
    """

    results: tuple[Result, ...] = ()
    failures: tuple[Failure, ...] = ()
    parts: tuple[Part, ...] = ()
    error: str | None = None


def work(traces: Sequence[Trace], options: TraceOptions, target: Target | None) -> Done:
    """Read some traces. If one cannot be read to its end, its result says so."""
    if target is None:
        return Done(tuple(read(trace, options) for trace in traces))
    from blkiomon.commands.archive.dataset import entry_of
    from blkiomon.commands.archive.files import Files
    from blkiomon.commands.archive.parts import PartWriter
    from blkiomon.formats.rows import Item

    results: list[Result] = []
    try:
        with PartWriter(Files(target.dataset), target.prefix) as writer:
            for trace in traces:

                def add(interval: Interval, trace: Trace = trace) -> None:
                    writer.add(Item(trace.host, trace.name, interval))

                result = read(trace, options, add)
                results.append(replace(result, entry=entry_of(trace, options, result)))
    except Exception as error:  # of any file system that the dataset is on
        return Done(error=why(error))
    return Done(tuple(results), parts=tuple(writer.parts))


Add = Callable[[Interval], None]


def read(trace: Trace, options: TraceOptions, add: Add | None = None) -> Result:
    """Read a trace, and add its intervals.

    Raises:
        Exception: as ``add`` does.
    """
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
        except Exception as failure:  # of any file system that the trace is on
            error = SourceError(f"cannot read {trace.name}: {why(failure)}")
            break
        if interval is None:
            break
        if add is not None:
            try:
                add(interval)
            except IntervalError as failure:
                error = failure
                break
        intervals += 1
        some.append(interval)
        if len(some) >= MERGED_AT_ONCE:
            some = [merge(some)]
    if monitor.skipped_intervals:
        skipped = how_many(monitor.skipped_intervals, "interval is", "intervals are")
        notes.append(f"time jumps ahead: {skipped} left out")
    if monitor.disorder:
        notes.append(monitor.disorder)
    return Result(
        trace=trace.name,
        host=trace.host,
        whole=merge(some) if some else None,
        intervals=intervals,
        records=monitor.totals.records,
        error=None if error is None else _error_text(error),
        is_lasting=isinstance(error, (TraceError, IntervalError)),
        notes=(*trace.notes, *(n if trace.name in n else f"{trace.name}: {n}" for n in notes)),
    )


def _intervals(
    trace: Trace, options: TraceOptions, monitor: Monitor, notes: list[str]
) -> Iterator[Interval]:
    with ExitStack() as stack:
        stream = stack.enter_context(trace.open(resync=options.resync, report=notes.append))
        for interval in followed(counted(stream, monitor), monitor):
            if monitor.engine.records or monitor.is_done:
                yield interval
        if not (monitor.engine.records or monitor.is_done):
            raise SourceError(f"{trace.name}: it contains no trace record")


def _error_text(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {str(error) or 'nothing more was read'}"
    is_bad = isinstance(error, (TraceError, IntervalError))
    return f"bad trace: {error}" if is_bad else str(error)
