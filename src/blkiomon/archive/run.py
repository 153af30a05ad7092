"""Hands traces to Dask's workers, one a task, and puts together what comes back.

Dask schedules, moves and repeats: a task whose worker dies is run again on another one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
import distributed
import pyarrow  # noqa: F401 (workers need it, and here is where it is missed in time)

from blkiomon.archive.options import Options
from blkiomon.archive.summary import Gathered, Summary
from blkiomon.archive.traces import find, why
from blkiomon.archive.work import archive
from blkiomon.progress import Progress

TASKS_AHEAD = 1000
"""So many tasks are with the scheduler at a time, however many traces there are."""

CONNECT_S = 10.0


class ArchiveError(Exception):
    """There is nothing to run on; the text says why."""


def run(
    sources: Sequence[str],
    options: Options,
    *,
    dataset: str | None = None,
    host: str | None = None,
    scheduler: str | distributed.Client | None = None,
    show_progress: bool | None = None,
) -> Summary:
    """See ``blkiomon.archive.summarize``."""
    options.monitor()
    traces, missing = find(sources, host)
    gathered = Gathered(missing)
    if not traces:
        return gathered.summary()
    if dataset is not None and "://" not in dataset:
        dataset = os.path.abspath(dataset)  # noqa: PTH100 (of a name that need not be text)
    waiting = iter(traces)
    done_bytes = 0
    with ExitStack() as stack:
        client = stack.enter_context(_client(scheduler))
        total_bytes = sum(trace.size for trace in traces)
        progress = stack.enter_context(Progress(total_bytes or None, is_shown=show_progress))
        tasks: dict[Any, Any] = {}

        def submit() -> Any:
            trace = next(waiting, None)
            if trace is None:
                return None
            # Not pure: whether it is done depends on what the dataset holds.
            future = client.submit(archive, trace, options, dataset, pure=False)
            tasks[future.key] = trace
            return future

        first = [future for _ in range(TASKS_AHEAD) if (future := submit()) is not None]
        completed = distributed.as_completed(first, loop=client.loop)
        del first
        for future in completed:
            trace = tasks.pop(future.key)
            error = future.exception()
            if error is None:
                gathered.add(future.result())
            else:
                gathered.fail(trace.name, _told(error))
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


@contextmanager
def _client(scheduler: str | distributed.Client | None) -> Iterator[distributed.Client]:
    """The client of a scheduler that runs, or of one of our own for as long as it takes.

    Raises:
        ArchiveError: nobody answers.
    """
    if isinstance(scheduler, distributed.Client):
        yield scheduler
        return
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"logging.distributed": "critical"}))
        try:
            if scheduler is None:
                scheduler = stack.enter_context(
                    distributed.LocalCluster(
                        n_workers=len(os.sched_getaffinity(0)),
                        threads_per_worker=1,
                        dashboard_address=None,
                        silence_logs="CRITICAL",
                    )
                )
            client = stack.enter_context(
                distributed.Client(scheduler, timeout=CONNECT_S, set_as_default=False)
            )
        except (OSError, ValueError) as error:
            raise ArchiveError(f"no Dask scheduler at {scheduler}: {why(error)}") from error
        yield client
