"""Hand traces to workers, and build a summary of their results.

Workers are processes of this machine (``pool``), those of Dask (``cluster``), or this process.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pyarrow  # noqa: F401 (workers need it: without it, fail before they start)

from blkiomon.commands.archive.crew import Crew, Here
from blkiomon.commands.archive.options import ArchiveError, Tls, TraceOptions
from blkiomon.commands.archive.pool import Pool
from blkiomon.commands.archive.store import Result
from blkiomon.commands.archive.summary import Summary, SummaryBuilder
from blkiomon.commands.archive.traces import Failure, Trace, find, why
from blkiomon.commands.archive.work import attempt
from blkiomon.commands.progress import Progress
from blkiomon.interval.monitor import Monitor

if TYPE_CHECKING:
    import distributed

DIED = "every worker that read it died: out of memory?"


def run(
    sources: Sequence[str],
    options: TraceOptions,
    *,
    dataset: str | None = None,
    host: str | None = None,
    workers: int | None = None,
    scheduler: str | distributed.Client | None = None,
    tls: Tls | None = None,
    follow_symlinks: bool = False,
    show_progress: bool | None = None,
) -> Summary:
    """See ``blkiomon.archive.summarize``."""
    Monitor(**asdict(options))  # checks them
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be 0 or more, not {workers}")
    traces, failures = find(sources, host)
    builder = SummaryBuilder(failures)
    if not traces:
        return builder.summary()
    if dataset is not None and "://" not in dataset:
        # Symbolic links are resolved here, with --follow-symlinks: workers do not follow them.
        absolute = os.path.realpath if follow_symlinks else os.path.abspath
        dataset = absolute(dataset)
    total_bytes = sum(trace.size for trace in traces)

    with ExitStack() as stack:
        crew = stack.enter_context(_crew(workers, scheduler, tls, len(traces)))
        progress = stack.enter_context(Progress(total_bytes or None, is_shown=show_progress))
        done_bytes = 0
        for trace, outcome in _done(traces, options, dataset, crew):
            builder.add(outcome)
            done_bytes += trace.size
            progress.show(done_bytes)
    return builder.summary()


@contextmanager
def _crew(
    workers: int | None, scheduler: str | distributed.Client | None, tls: Tls | None, n_tasks: int
) -> Iterator[Crew]:
    """The workers.

    Args:
        n_tasks: limit of the workers on this machine.

    Raises:
        ArchiveError: the scheduler does not answer, or has no workers.
        ImportError: Dask is not installed.
    """
    if scheduler is not None:
        from blkiomon.commands.archive.cluster import cluster

        with cluster(scheduler, tls) as crew:
            yield crew
    elif workers == 0:
        yield Crew(Here(), 1)
    else:
        room = min(workers or len(os.sched_getaffinity(0)), n_tasks)
        with Pool() as pool:
            yield Crew(pool, room, most_deaths=2)


def _done(
    traces: Sequence[Trace], options: TraceOptions, dataset: str | None, crew: Crew
) -> Iterator[tuple[Trace, Result | Failure]]:
    """Have every trace read; yields each with its outcome, in the order in which they end.

    Raises:
        ArchiveError: no workers are left.
    """
    waiting = deque(traces)
    deaths: Counter[str] = Counter()  # of workers, by the trace that they read
    running: dict[Future[Any], Trace] = {}
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    while waiting or running:
        while waiting and len(running) < crew.room:
            trace = waiting.popleft()
            future = crew.executor.submit(attempt, trace, options, dataset)
            running[future] = trace
            future.add_done_callback(ended.put)
        future = ended.get()
        trace = running.pop(future)
        outcome: Result | Failure
        try:
            outcome = future.result()
        except CancelledError as error:
            raise ArchiveError("the Dask scheduler has gone: call it again to go on") from error
        except crew.death:
            deaths[trace.name] += 1
            if deaths[trace.name] < crew.most_deaths:
                waiting.appendleft(trace)
                continue
            outcome = Failure(trace.name, DIED)
        except Exception as error:  # whatever the cluster says of it
            outcome = Failure(trace.name, why(error))
        yield trace, outcome
