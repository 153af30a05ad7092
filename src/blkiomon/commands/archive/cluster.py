"""The workers of a Dask cluster. Imports Dask, so import it only if there is a scheduler.

If a worker dies, Dask runs its task again on another worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import distributed

from blkiomon.commands.archive.crew import Crew
from blkiomon.commands.archive.options import ArchiveError, Tls
from blkiomon.commands.archive.traces import why

TASKS_AHEAD = 1000
"""Tasks that the scheduler has at a time."""

CONNECT_S = 10.0
WORKERS_S = 60.0


class _Client(distributed.Client):  # type: ignore[misc]  # it has no types
    """Without a connection, the library's ``__del__`` would wait for one and print a traceback."""

    def __del__(self) -> None:
        if self.status == "running":
            super().__del__()


@contextmanager
def cluster(scheduler: str | distributed.Client, tls: Tls | None = None) -> Iterator[Crew]:
    """The workers of a running scheduler.

    Args:
        scheduler: a client of it, or its address.
        tls: for the connection to an address.

    Raises:
        ArchiveError: the scheduler does not answer, or has no workers.
    """
    if isinstance(scheduler, distributed.Client):
        yield _crew(scheduler)
        return
    security = None
    if tls is not None:
        names = "tls_ca_file", "tls_client_cert", "tls_client_key"
        security = distributed.Security(**dict(zip(names, tls)), require_encryption=True)
    with ExitStack() as stack:
        try:
            client = stack.enter_context(
                _Client(scheduler, timeout=CONNECT_S, set_as_default=False, security=security)
            )
        except Exception as error:  # of the library of any protocol
            text = why(error)
            if tls is None and "ssl_context" in text:
                text = "TLS takes --tls-ca-file, --tls-cert and --tls-key"
            raise ArchiveError(f"no Dask scheduler at {scheduler}: {text}") from error
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError as error:
            raise ArchiveError(f"the Dask scheduler at {scheduler} has no workers") from error
        yield _crew(client)


def _crew(client: distributed.Client) -> Crew:
    # Not pure: the result depends on what the dataset contains.
    executor = client.get_executor(pure=False)
    # One death: Dask itself has tried four workers by then.
    return Crew(executor, TASKS_AHEAD, death=distributed.scheduler.KilledWorker)
