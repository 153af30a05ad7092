"""Whoever does the work of an archive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any


class Crew(ABC):
    """Workers.

    Attributes:
        room: how many tasks they take at a time.
        death: what a task raises whose worker has died.
        most_deaths: after so many of these, a trace is given up.
    """

    room: int
    death: type[Exception] = BrokenExecutor
    most_deaths = 1

    @abstractmethod
    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Have a worker call a function."""


class Here(Crew):
    """This process."""

    room = 1

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """See ``Crew``: it is done at once."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future
