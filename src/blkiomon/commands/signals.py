"""The signals that end a run or have its files reopened."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from blkiomon.console import SIGNALS, STOP_SIGNALS, stop_waiting
from blkiomon.errors import SourceError


class Stopped(BaseException):
    """A signal arrived while the run waited for bytes."""


class StopSignals:
    """Records signals while entered, and wakes polls of ``fd`` (a self-pipe).

    SIGHUP reopens files, unless it means that the terminal has gone. All others end the run.

    Args:
        at_once: called in the signal handler when the run ends.
        numbers: of the signals.
        reopens: whether there are files to reopen; without files, SIGHUP also ends the run.

    Attributes:
        received: whether a signal arrived that ends the run.
        number: of the latest signal that ends the run.
    """

    def __init__(
        self,
        at_once: Callable[[], None],
        numbers: Sequence[signal.Signals],
        *,
        reopens: bool,
    ) -> None:
        self.received = False
        self.number = 0
        self._interrupts = False
        self._at_once = at_once
        self._numbers = numbers
        self._has_files = reopens
        self._is_reopen_due = False
        self._had_terminal = _has_terminal()

    def __enter__(self) -> StopSignals:
        """Raises SourceError, if this process may not open two more descriptors."""
        try:
            self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"cannot wait for signals: {error.strerror}") from error
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._note) for number in self._numbers}
        self._old_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)
        return self

    def __exit__(self, *error: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        for number, old in self._old.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.fd)
        os.close(self._write_fd)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While entered, a signal that ends the run raises ``Stopped``: for reads that cannot poll.

        Entering raises it, too, if such a signal has arrived before.
        """
        try:
            self._interrupts = True
            if self.received:
                raise Stopped
            yield
        finally:
            self._interrupts = False

    def take_reopen(self) -> bool:
        """Whether to reopen files; True once for all signals that have arrived."""
        if not self._is_reopen_due:
            return False
        self._is_reopen_due = False
        return True

    def drain(self) -> None:
        """Empty the self-pipe, or every later poll would wake; signals are recorded already."""
        os.read(self.fd, 1 << 16)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self._has_files:
            is_hangup = self._had_terminal and not _has_terminal()
            if not is_hangup:
                self._is_reopen_due = True
                return
        # The run ends: further signals would only interrupt this handler.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        self.received = True
        self.number = number
        stop_waiting()
        self._at_once()
        if self._interrupts:
            self._interrupts = False  # once: the run is ending
            raise Stopped


def signals_to_hear() -> list[signal.Signals]:
    """The signals for ``StopSignals``; without SIGHUP if it is ignored, as nohup(1) sets it."""
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [*STOP_SIGNALS] if is_ignored else [*SIGNALS]


def _has_terminal() -> bool:
    """Whether this process still has its controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.EIO, errno.ENOENT)
    return True
