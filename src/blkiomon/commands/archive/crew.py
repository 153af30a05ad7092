"""Workers: the interface, and this process as a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any


class Crew(ABC):
    """Workers, to which tasks are submitted.

    Attributes:
        room: tasks that they take at a time.
        death: exception of a task whose worker has died.
        most_deaths: number of these after which a trace is given up.
    """

    room: int
    death: type[Exception] = BrokenExecutor
    most_deaths = 1

    @abstractmethod
    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Have a worker call a function, which is picklable as its arguments."""


class Here(Crew):
    """This process."""

    room = 1

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """See ``Crew``; calls the function at once."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future
