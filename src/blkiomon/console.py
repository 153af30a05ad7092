"""What a run shares with whoever started it: exit status, signals, standard error."""

from __future__ import annotations

import os
import signal

EXIT_OK, EXIT_FAILURE = 0, 1

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGALRM)


def complain(message: str) -> None:
    """One line on standard error; if that is gone there is nobody to tell.

    Names that a user gave may hold anything: nothing of it gets to drive the terminal.
    """
    shown = "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else "?" for c in message)
    try:
        write(2, f"blkiomon: {shown}\n")
    except OSError:
        pass


def write(fd: int, text: str) -> None:
    """Write all of a text to a descriptor. Raises OSError."""
    data = text.encode(errors="surrogateescape")
    while data:
        data = data[os.write(fd, data) :]
