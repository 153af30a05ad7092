"""Exit statuses, signals, standard output and standard error, shared by all commands."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Iterable

EXIT_OK = 0
EXIT_FAILURE = 1
"""A ``compare --fail-if`` rule matched. Also any failure of a run with only the options of
blktrace's blkiomon ("the original")."""
EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_OUTPUT = 4
EXIT_PIPE = 128 + signal.SIGPIPE
"""The reader of standard output closed it; shells show this status for SIGPIPE."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGALRM)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)
"""The signals that a run handles: those that end it, and SIGHUP, which reopens files."""


AFTER_SIGNAL_S = 0.5
"""After a signal, a destination that accepts nothing for so long is given up."""

_is_ending = False
_listener: Callable[[str], None] | None = None


def stop_waiting() -> None:
    """A signal has come: drop messages that standard error does not take."""
    global _is_ending
    _is_ending = True


def divert(listener: Callable[[str], None] | None) -> None:
    """Pass complaints to a listener instead of standard error; None restores standard error."""
    global _listener
    _listener = listener


def complain(message: str) -> None:
    """Print one line on standard error, or pass it to the listener of ``divert``."""
    if _listener is not None:
        _listener(message)
    else:
        _print_error(f"blkiomon: {printable(message)}\n")


def _print_error(text: str) -> None:
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    try:
        # A write would go on waiting after a signal, as when Ctrl-S has stopped the terminal.
        while not poll.poll(AFTER_SIGNAL_S * 1000):
            if _is_ending:
                return
        write(2, text)
    except OSError:
        pass  # standard error is closed


def printable(text: str) -> str:
    r"""Escape the characters of a text that could control a terminal or hide in it.

    Escaped as in Python are control characters (``\n``, ``\x1b`` and C1), separators,
    formatting characters (such as ``\u202e``, which reverses text) and unassigned characters. A
    byte of a file name that is not UTF-8 is written as ``\xff``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def how_many(number: int, one: str, several: str, spec: str = "") -> str:
    """A number and its noun: ``how_many(1, "record is", "records are")`` is ``1 record is``.

    Args:
        spec: format specification of the number, such as ``,``.
    """
    return f"{number:{spec}} {one if number == 1 else several}"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # made by os.fsdecode for a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def write(fd: int, text: str) -> None:
    """Write all of a text to a descriptor. Raises OSError."""
    data = text.encode(errors="surrogateescape")
    while data:
        data = data[os.write(fd, data) :]


def misused(why: str, usage: str) -> int:
    """Print what is wrong with the arguments, and the usage; return the exit status."""
    complain(why)
    _print_error(usage)
    return EXIT_USAGE


def printed(pieces: Iterable[str]) -> int:
    """Print to standard output; return the exit status."""
    try:
        for piece in pieces:
            write(1, piece)
    except OSError as error:
        if error.errno == errno.EPIPE:
            return EXIT_PIPE
        complain(f"could not write to standard output: {error.strerror}")
        return EXIT_OUTPUT
    return EXIT_OK
