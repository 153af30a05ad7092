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
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from blkiomon.commands.archive.crew import Crew, Here
from blkiomon.commands.archive.options import ArchiveError, DatasetError, Tls, TraceOptions
from blkiomon.commands.archive.pool import Pool
from blkiomon.commands.archive.summary import Summary, SummaryBuilder
from blkiomon.commands.archive.traces import Failure, Trace, find, why
from blkiomon.commands.archive.work import Done, Target, work
from blkiomon.commands.progress import Progress
from blkiomon.console import how_many
from blkiomon.interval.monitor import Monitor

if TYPE_CHECKING:
    import distributed

    from blkiomon.commands.archive.dataset import Dataset

DIED = "each worker that read it died, perhaps for lack of memory"

MOST_TRACES = 64
MOST_BYTES = 2 << 30
"""Limits of a task. Its traces share the parts of a dataset, and are lost together."""

TASKS_A_WORKER = 8
"""Tasks for each worker if there are enough traces: some take longer than others."""


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
    prune: bool = False,
    compact: bool = False,
) -> Summary:
    """See ``blkiomon.commands.archive.summarize``."""
    Monitor(**asdict(options))  # checks them
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be 0 or more, not {workers}")
    traces, failures, notes = find(sources, host)
    topologies = {t.host: t.topology for t in reversed(traces) if t.topology is not None}
    builder = SummaryBuilder(failures, options.selection.text, topologies)
    for note in notes:
        builder.note(note)
    if dataset is None:
        _read(traces, options, builder, None, workers, scheduler, tls, show_progress)
        return builder.summary()
    if not traces and not (prune or compact):
        return builder.summary()
    if "://" not in dataset:
        # Symbolic links are resolved here, with --follow-symlinks: workers do not follow them.
        absolute = os.path.realpath if follow_symlinks else os.path.abspath
        dataset = absolute(dataset)
    from blkiomon.commands.archive.dataset import locked

    with locked(dataset, may_create=bool(traces)) as store:
        try:
            if traces:
                store.require_intervals(options)
            if prune:
                gone = how_many(store.prune(), "trace is", "traces are")
                builder.note(f"{gone} gone and removed from the dataset")
            waiting = []
            for trace in traces:
                result = store.finished(trace, options)
                if result is None:
                    waiting.append(trace)
                else:
                    builder.add(result)
            store.drop({trace.name for trace in waiting})
            _read(waiting, options, builder, store, workers, scheduler, tls, show_progress)
            if compact:
                store.compact()
        except OSError as error:
            raise DatasetError(f"cannot write {dataset}: {why(error)}") from error
        if lost := len(store.lost.difference(trace.name for trace in traces)):
            lost_traces = how_many(lost, "trace is", "traces are")
            builder.note(
                f"{lost_traces} to be read again: files of {dataset} were missing or damaged; "
                "run the command again with all traces"
            )
    return builder.summary()


def _read(
    traces: Sequence[Trace],
    options: TraceOptions,
    builder: SummaryBuilder,
    store: Dataset | None,
    workers: int | None,
    scheduler: str | distributed.Client | None,
    tls: Tls | None,
    show_progress: bool | None,
) -> None:
    """Read traces into the dataset and the summary. Raises ArchiveError."""
    if not traces:
        return
    total_bytes = sum(trace.size for trace in traces)
    with ExitStack() as stack:
        crew = stack.enter_context(_crew(workers, scheduler, tls, len(traces)))
        progress = stack.enter_context(Progress(total_bytes or None, is_shown=show_progress))
        done_bytes = 0
        for task, done in _done(traces, options, store, crew):
            if store is not None:
                store.add(done.parts, done.results)
            builder.add_all(done.results, done.failures)
            done_bytes += sum(trace.size for trace in task)
            progress.show(done_bytes)


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


Task = tuple[Trace, ...]


def _tasks(traces: Sequence[Trace], room: int) -> Iterator[Task]:
    """Tasks of traces in the order of hosts: so the parts of the dataset are sorted by host."""
    most = min(max(len(traces) // (room * TASKS_A_WORKER), 1), MOST_TRACES)
    task: list[Trace] = []
    for trace in sorted(traces, key=lambda trace: (trace.host, trace.name)):
        if task and (len(task) >= most or sum(t.size for t in (*task, trace)) > MOST_BYTES):
            yield tuple(task)
            task = []
        task.append(trace)
    if task:
        yield tuple(task)


def _done(
    traces: Sequence[Trace], options: TraceOptions, store: Dataset | None, crew: Crew
) -> Iterator[tuple[Task, Done]]:
    """Have every trace read; yields each task with its result, in the order in which they end.

    Raises:
        ArchiveError: no workers are left, or the dataset cannot be written.
    """
    waiting = deque(_tasks(traces, crew.room))
    deaths: Counter[str] = Counter()  # of workers, by the trace that they read
    running: dict[Future[Any], Task] = {}
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    number = count()
    while waiting or running:
        while waiting and len(running) < crew.room:
            task = waiting.popleft()
            target = None
            if store is not None:
                target = Target(store.files.url, f"{store.run}-{next(number):06}")
            future = crew.executor.submit(work, task, options, target)
            running[future] = task
            future.add_done_callback(ended.put)
        future = ended.get()
        task = running.pop(future)
        try:
            done = future.result()
        except CancelledError as error:
            raise ArchiveError(
                "the Dask scheduler has gone: run the command again to continue"
            ) from error
        except crew.death:
            if len(task) > 1:  # one of them may have killed it
                waiting.extendleft((trace,) for trace in reversed(task))
                continue
            (trace,) = task
            deaths[trace.name] += 1
            if deaths[trace.name] < crew.most_deaths:
                waiting.appendleft(task)
                continue
            done = Done(failures=(Failure(trace.name, DIED),))
        except Exception as error:  # any that the cluster reports
            if len(task) > 1:
                waiting.extendleft((trace,) for trace in reversed(task))
                continue
            done = Done(failures=(Failure(task[0].name, why(error)),))
        if done.error is not None:
            assert store is not None
            raise DatasetError(
                f"cannot write {store.files.url}: {done.error}; what is done is kept: "
                "run the command again to continue"
            )
        yield task, done
