"""Worker processes of this machine. They communicate by pipes and open no port.

Each has an executor of its own: when a process dies, only its own task fails.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from blkiomon.console import SIGNALS

_SPAWN = multiprocessing.get_context("spawn")  # not fork: the caller may have threads

_OF_A_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class Pool(Executor):
    """Worker processes, one for each task that runs; each is started when it is first needed."""

    def __init__(self) -> None:
        self._idle: list[ProcessPoolExecutor] = []
        self._all: set[ProcessPoolExecutor] = set()
        # A pipe whose other end closes, also when this process is killed, ends the workers.
        self._wait_end, self._alive_end = _SPAWN.Pipe(duplex=False)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._alive_end.close()
        for executor in self._all:
            executor.shutdown()
        self._wait_end.close()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = None
        while self._idle and future is None:
            executor = self._idle.pop()
            with suppress(BrokenExecutor):  # it may have died while it was idle
                future = executor.submit(function, *args, **kwargs)
        if future is None:
            with _starting():
                executor = ProcessPoolExecutor(
                    1, mp_context=_SPAWN, initializer=_begin, initargs=(self._wait_end,)
                )
                self._all.add(executor)
                future = executor.submit(function, *args, **kwargs)

        def release(future: Future[Any]) -> None:
            if not isinstance(future.exception(), BrokenExecutor):
                self._idle.append(executor)

        future.add_done_callback(release)
        return future


@contextmanager
def _starting() -> Iterator[None]:
    """Start processes in here: they inherit a safe environment and blocked signals."""
    with _safe_path():
        resource_tracker.ensure_running()  # also a process; it unblocks signals itself
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keep new processes from importing modules from the working directory."""
    name = "PYTHONSAFEPATH"
    old = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if old is None:
            del os.environ[name]
        else:
            os.environ[name] = old


def _begin(wait_end: Connection) -> None:
    """Initialize a worker: signals of the terminal are for the process that started it."""
    signal.pthread_sigmask(signal.SIG_SETMASK, _OF_A_TERMINAL)
    threading.Thread(target=_end_with, args=(wait_end,), daemon=True).start()


def _end_with(wait_end: Connection) -> None:
    with suppress(EOFError, OSError):
        wait_end.recv_bytes()
    os._exit(0)
