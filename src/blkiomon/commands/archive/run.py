"""Hands traces to workers, one a task as a rule, and puts together what comes back.

Who the workers are makes no difference to what they do: processes of this machine (``pool``),
Dask's (``cluster``), or this process itself.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pyarrow  # noqa: F401 (workers need it, and here is where it is missed in time)

from blkiomon.commands.archive.crew import Crew, Here
from blkiomon.commands.archive.options import ArchiveError, Options, Tls
from blkiomon.commands.archive.pool import Pool
from blkiomon.commands.archive.store import Result
from blkiomon.commands.archive.summary import Gathered, Summary
from blkiomon.commands.archive.traces import Trace, find, why
from blkiomon.commands.archive.work import Failed, archive, attempt, join_shards, read_shard
from blkiomon.commands.progress import Progress

if TYPE_CHECKING:
    import distributed

DIED = "every worker that read it died: out of memory?"


def run(
    sources: Sequence[str],
    options: Options,
    *,
    dataset: str | None = None,
    host: str | None = None,
    workers: int | None = None,
    scheduler: str | distributed.Client | None = None,
    tls: Tls | None = None,
    shards: int = 1,
    follow_symlinks: bool = False,
    show_progress: bool | None = None,
) -> Summary:
    """See ``blkiomon.archive.summarize``."""
    options.monitor((0, shards))
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be 0 or more, not {workers}")
    traces, missing = find(sources, host)
    gathered = Gathered(missing)
    if not traces:
        return gathered.summary()
    if dataset is not None and "://" not in dataset:
        # Links are followed here, or, where anybody could have laid them, by no worker.
        absolute = os.path.realpath if follow_symlinks else os.path.abspath
        dataset = absolute(dataset)
    total_bytes = sum(trace.size for trace in traces)

    def job_of(trace: Trace) -> _Job:
        is_shared = shards > 1 and (len(traces) == 1 or trace.size * shards > total_bytes)
        return _Job(trace, options, dataset, shards if is_shared else 1)

    with ExitStack() as stack:
        crew = stack.enter_context(_crew(workers, scheduler, tls, len(traces) * shards))
        progress = stack.enter_context(Progress(total_bytes or None, is_shown=show_progress))
        done_bytes = 0
        for job in _done(map(job_of, traces), crew):
            gathered.add(job.outcome)
            done_bytes += job.trace.size
            progress.show(done_bytes)
    return gathered.summary()


def _crew(
    workers: int | None, scheduler: str | distributed.Client | None, tls: Tls | None, n_tasks: int
) -> AbstractContextManager[Crew]:
    """Whoever does the work, for as long as it takes.

    Args:
        n_tasks: on this machine there are no more workers than there is work for.

    Raises:
        ArchiveError: the scheduler does not answer, or has no workers.
        ImportError: Dask is not installed.
    """
    if scheduler is not None:
        from blkiomon.commands.archive.cluster import cluster

        return cluster(scheduler, tls)
    if workers == 0:
        return nullcontext(Here())
    return Pool(min(workers or len(os.sched_getaffinity(0)), n_tasks))


class _Job:
    """A trace that is being read: by one task, or by one for each shard and one that joins them.

    Attributes:
        trace: which one.
        outcome: what has become of it, once that is known.
        is_done: whether that is known.
    """

    outcome: Result | Failed
    is_done = False

    def __init__(self, trace: Trace, options: Options, dataset: str | None, shards: int) -> None:
        self.trace = trace
        self._options = options
        self._dataset = dataset
        self._shards: list[Result | None] = [None] * shards
        self._waiting = shards

    def tasks(self) -> list[_Task]:
        """What there is to do at first."""
        n = len(self._shards)
        if n == 1:
            return [_Task(self, (archive, self.trace, self._options, self._dataset))]
        return [
            _Task(self, (read_shard, self.trace, self._options, (k, n), self._dataset), k)
            for k in range(n)
        ]

    def take(self, shard: int | None, outcome: Result | Failed | None) -> list[_Task]:
        """What a task has come to; what is to be done next."""
        if self.is_done:  # as another shard has failed
            return []
        if shard is not None and not isinstance(outcome, Failed):
            self._shards[shard] = outcome
            self._waiting -= 1
            if self._waiting:
                return []
            joined = (join_shards, self.trace, self._options, self._shards, self._dataset)
            return [_Task(self, joined)]
        assert outcome is not None
        self.is_done = True
        self.outcome = outcome
        return []


@dataclass(frozen=True, slots=True)
class _Task:
    """A call, for a job.

    Attributes:
        shard: the one that it reads, if it reads one.
        deaths: how many workers have died over it.
    """

    job: _Job
    call: tuple[Any, ...]
    shard: int | None = None
    deaths: int = 0


def _done(jobs: Iterator[_Job], crew: Crew) -> Iterator[_Job]:
    """Have all jobs done; those that are, in any order.

    Raises:
        ArchiveError: nobody is left to do it.
    """
    tasks: deque[_Task] = deque()
    running: dict[Future[Any], _Task] = {}
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    while True:
        while len(running) < crew.room:
            if not tasks:
                job = next(jobs, None)
                if job is None:
                    break
                tasks.extend(job.tasks())
            task = tasks.popleft()
            if not task.job.is_done:
                future = crew.submit(attempt, *task.call)
                running[future] = task
                future.add_done_callback(ended.put)
        if not running:
            return
        future = ended.get()
        task = running.pop(future)
        job = task.job
        try:
            outcome = future.result()
        except CancelledError as error:
            raise ArchiveError("the Dask scheduler has gone: call it again to go on") from error
        except crew.death:
            deaths = task.deaths + 1
            if deaths < crew.most_deaths:
                tasks.appendleft(replace(task, deaths=deaths))
                continue
            outcome = Failed(job.trace.name, DIED)
        except Exception as error:  # whatever the cluster says of it
            outcome = Failed(job.trace.name, why(error))
        tasks.extendleft(job.take(task.shard, outcome))
        if job.is_done:
            yield job
