"""Hands traces to Dask's workers, one a task as a rule, and puts together what comes back.

Dask schedules, moves and repeats: a task whose worker dies is run again on another one.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import distributed
import pyarrow  # noqa: F401 (workers need it, and here is where it is missed in time)

from blkiomon.archive.options import Options
from blkiomon.archive.summary import Gathered, Summary
from blkiomon.archive.traces import find, why
from blkiomon.archive.work import archive, join_shards, read_shard
from blkiomon.progress import Progress

TASKS_AHEAD = 1000
"""So many tasks are with the scheduler at a time, however many traces there are."""

CONNECT_S = 10.0
WORKERS_S = 60.0


class ArchiveError(Exception):
    """There is nothing to run on, or not any more; the text says why."""


def run(
    sources: Sequence[str],
    options: Options,
    *,
    dataset: str | None = None,
    host: str | None = None,
    scheduler: str | distributed.Client | None = None,
    shards: int = 1,
    follow_symlinks: bool = False,
    show_progress: bool | None = None,
) -> Summary:
    """See ``blkiomon.archive.summarize``."""
    options.monitor((0, shards))
    traces, missing = find(sources, host)
    gathered = Gathered(missing)
    if not traces:
        return gathered.summary()
    if dataset is not None and "://" not in dataset:
        # Links are followed here, or, where anybody could have laid them, by no worker.
        absolute = os.path.realpath if follow_symlinks else os.path.abspath
        dataset = absolute(dataset)
    waiting = iter(traces)
    done_bytes = 0
    with ExitStack() as stack:
        client = stack.enter_context(_client(scheduler, len(traces) * shards))
        total_bytes = sum(trace.size for trace in traces)
        progress = stack.enter_context(Progress(total_bytes or None, is_shown=show_progress))
        tasks: dict[Any, Any] = {}

        def submit() -> Any:
            trace = next(waiting, None)
            if trace is None:
                return None
            # Not pure: whether it is done depends on what the dataset holds.
            if shards > 1 and (len(traces) == 1 or trace.size * shards > total_bytes):
                parts = [
                    client.submit(read_shard, trace, options, (k, shards), dataset, pure=False)
                    for k in range(shards)
                ]
                future = client.submit(join_shards, trace, options, parts, dataset, pure=False)
            else:
                future = client.submit(archive, trace, options, dataset, pure=False)
            tasks[future.key] = trace
            return future

        first = [future for _ in range(TASKS_AHEAD) if (future := submit()) is not None]
        completed = distributed.as_completed(first, loop=client.loop)
        del first
        for future in completed:
            trace = tasks.pop(future.key)
            if future.status == "finished":
                gathered.add(future.result())
            elif future.status == "error":
                gathered.fail(trace.name, _told(future.exception()))
            else:
                raise ArchiveError("the Dask scheduler has gone: call it again to go on from here")
            future.release()
            more = submit()
            if more is not None:
                completed.add(more)
            done_bytes += trace.size
            progress.show(done_bytes)
    return gathered.summary()


def _told(error: BaseException) -> str:
    if isinstance(error, distributed.scheduler.KilledWorker):
        return "every worker that read it died: out of memory?"
    return why(error)


class _Client(distributed.Client):  # type: ignore[misc]  # it has no types
    """Where none came about, there is none to close: the library waits for that, and shows how."""

    def __del__(self) -> None:
        if self.status == "running":
            super().__del__()


@contextmanager
def _client(
    scheduler: str | distributed.Client | None, n_tasks: int
) -> Iterator[distributed.Client]:
    """The client of a scheduler that runs, or of one of our own for as long as it takes.

    Args:
        scheduler: a client of it, or its address; None: one of our own.
        n_tasks: our own has no more workers than there is work for.

    Raises:
        ArchiveError: nobody answers.
    """
    if isinstance(scheduler, distributed.Client):
        yield scheduler
        return
    with ExitStack() as stack:
        try:
            if scheduler is None:
                scheduler = stack.enter_context(_local_cluster(n_tasks))
            client = stack.enter_context(
                _Client(scheduler, timeout=CONNECT_S, set_as_default=False)
            )
        except Exception as error:  # of whatever speaks the protocol that is named
            raise ArchiveError(f"no Dask scheduler at {scheduler}: {why(error)}") from error
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError as error:
            raise ArchiveError(f"the Dask scheduler at {scheduler} has no workers") from error
        yield client


def _local_cluster(most: int) -> distributed.LocalCluster:
    """A worker for each of this machine's cores, up to so many."""
    # Ctrl-C is for this process, which ends the workers: they inherit that they do not hear it.
    is_main = threading.current_thread() is threading.main_thread()
    old = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        return distributed.LocalCluster(
            n_workers=min(len(os.sched_getaffinity(0)), most),
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs="CRITICAL",
        )
    finally:
        if is_main:
            signal.signal(signal.SIGINT, old)
