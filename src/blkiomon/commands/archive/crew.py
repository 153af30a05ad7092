"""``Crew``: an executor and its limits. ``Here``: an executor that uses this process alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, NamedTuple


class Crew(NamedTuple):
    """Workers, to which tasks are submitted.

    Attributes:
        executor: takes functions that are picklable, as are their arguments.
        room: tasks that it takes at a time.
        death: exception of a task whose worker has died.
        most_deaths: number of these after which a trace is given up.
    """

    executor: Executor
    room: int
    death: type[Exception] = BrokenExecutor
    most_deaths: int = 1


class Here(Executor):
    """This process, which calls a function at once."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
