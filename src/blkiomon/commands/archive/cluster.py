"""Dask's workers, wherever they are. Imports Dask, and so is imported only when that is asked for.

Dask schedules, moves and repeats: a task whose worker dies is run again on another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import distributed

from blkiomon.commands.archive.crew import Crew
from blkiomon.commands.archive.options import ArchiveError, Tls
from blkiomon.commands.archive.traces import why

TASKS_AHEAD = 1000
"""So many tasks are with the scheduler at a time, however many traces there are."""

CONNECT_S = 10.0
WORKERS_S = 60.0


class Cluster(Crew):
    """The workers of a scheduler; see ``Crew``."""

    room = TASKS_AHEAD
    death = distributed.scheduler.KilledWorker
    most_deaths = 1  # as Dask itself has tried four workers by then

    def __init__(self, client: distributed.Client) -> None:
        # Not pure: whether it is done depends on what the dataset holds.
        self._executor = client.get_executor(pure=False)

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """See ``Crew``."""
        future: Future[Any] = self._executor.submit(function, *arguments)
        return future


class _Client(distributed.Client):  # type: ignore[misc]  # it has no types
    """Where none came about, there is none to close: the library waits for that, and shows how."""

    def __del__(self) -> None:
        if self.status == "running":
            super().__del__()


@contextmanager
def cluster(scheduler: str | distributed.Client, tls: Tls | None = None) -> Iterator[Cluster]:
    """The workers of a scheduler that runs.

    Args:
        scheduler: a client of it, or its address.
        tls: for the connection that is made.

    Raises:
        ArchiveError: nobody answers, or it has no workers.
    """
    if isinstance(scheduler, distributed.Client):
        yield Cluster(scheduler)
        return
    with ExitStack() as stack:
        try:
            client = stack.enter_context(
                _Client(scheduler, timeout=CONNECT_S, set_as_default=False, security=_security(tls))
            )
        except Exception as error:  # of whatever speaks the protocol that is named
            raise ArchiveError(f"no Dask scheduler at {scheduler}: {why(error)}") from error
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError as error:
            raise ArchiveError(f"the Dask scheduler at {scheduler} has no workers") from error
        yield Cluster(client)


def _security(tls: Tls | None) -> distributed.Security | None:
    if tls is None:
        return None
    ca_file, cert, key = tls
    return distributed.Security(
        tls_ca_file=ca_file, tls_client_cert=cert, tls_client_key=key, require_encryption=True
    )
