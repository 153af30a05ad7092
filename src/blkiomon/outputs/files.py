"""Files, pipes, FIFOs and terminals."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from blkiomon.outputs.opening import DEFAULT, Policy, open_output
from blkiomon.outputs.sink import POLL_S, Item, Report, Sink, Undelivered

WRITE_BYTES = 1 << 16
"""Bytes of one write: a pipe's usual capacity."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Format:
    """What items a format is made for, and how one becomes bytes, piece by piece.

    Attributes:
        takes: types of the items.
        render: makes bytes of an item, piece by piece: large ones take a while.
        head: stands before everything else.
        finish: makes what stands at the end; what is rendered after that begins anew. A format that
            has an end is of use only as a whole: a part that does not fit is waited for, and when
            one cannot be delivered, nothing more is.
        is_dump: what it makes are driver records, which begin like a trace.
        takes_turns: a piece is of one device; of several such formats in one file, the first pieces
            come first, then the second ones. Other formats come behind them, each as a whole.
    """

    takes: tuple[type, ...]
    render: Callable[[Any], Iterator[bytes]]
    head: bytes = b""
    finish: Callable[[], Iterator[bytes]] | None = None
    is_dump: bool = False
    takes_turns: bool = False


class FileSink(Sink):
    """One path, and the formats that go there.

    The original writes each device's text and then its struct before it turns to the next device.

    Args:
        path: as the user gave it; ``-`` is standard output.
        formats: in the order of their pieces.
        policy: what outputs may write to.
        report, options: as for ``Sink``.

    Raises:
        OSError: it cannot be opened, or must not be written to.
    """

    def __init__(
        self,
        path: str,
        formats: Sequence[Format],
        report: Report,
        *,
        policy: Policy = DEFAULT,
        **options: Any,
    ) -> None:
        super().__init__("standard output" if path == "-" else path, report, **options)
        self._path = path
        self._policy = policy
        self._formats = tuple(formats)
        self._head = b"".join(f.head for f in self._formats)  # as long as it is not delivered
        self._has_end = any(f.finish for f in self._formats)
        self._has_waited = False  # for space
        self._item_bytes = 0  # of the item in hand, written so far
        self._fd = open_output(path, policy)

    def takes(self, item: Item) -> bool:
        return any(isinstance(item, f.takes) for f in self._formats)

    def _connect(self) -> None:
        # What was opened is a FIFO without a reader, or it is there.
        if self._fd is None:
            self._fd = self._until_there(
                lambda: open_output(self._path, self._policy), f"a reader of {self.name}"
            )

    def _complain(self, error: OSError, consequence: str) -> None:
        if self._path == "-" and error.errno == errno.EPIPE:
            self.reader_left = True  # of standard output, as head(1) does
            return
        super()._complain(error, consequence)

    def _deliver(self, item: Item) -> None:
        self._connect()
        wanted = [f for f in self._formats if isinstance(item, f.takes)]
        turns = zip_longest(*(f.render(item) for f in wanted if f.takes_turns), fillvalue=b"")
        wholes = (f.render(item) for f in wanted if not f.takes_turns)
        self._emit(chain(chain.from_iterable(turns), chain.from_iterable(wholes)))

    def _finish(self) -> None:
        if self._fd is not None:  # else nobody ever looked
            self._emit(chain.from_iterable(f.finish() for f in self._formats if f.finish))

    def _reopen(self) -> None:
        """Go on in the file that has the name by now, if the one in hand is another."""
        if self._fd is None or self._path == "-":
            return
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            return
        with suppress(OSError):  # not by opening it, which root may have done and we must not
            if os.path.samestat(os.stat(self._path), status):  # noqa: PTH116
                return
        try:
            new = open_output(self._path, self._policy, keep=True)
        except OSError as error:
            self._complain(error, "it goes on in the file as it was")
            return
        if new is not None:
            now = os.fstat(new)
            if os.path.samestat(now, status):
                os.close(new)
                return
        try:
            self._finish()
        finally:
            os.close(self._fd)
            self._fd = new
        if new is None or not now.st_size:
            self._head = b"".join(f.head for f in self._formats)

    def _emit(self, pieces: Iterator[bytes]) -> None:
        """Write pieces, all of them or, in a regular file, none."""
        self._item_bytes = 0
        is_more = True
        try:
            while is_more:
                with self._rendering():
                    waiting = bytearray(b"" if self._item_bytes else self._head)
                    is_more = False
                    for piece in pieces:
                        waiting += piece
                        if is_more := len(waiting) >= WRITE_BYTES:
                            break
                self._write(waiting)
            self._head = b""
        except (OSError, Undelivered) as error:
            self._cut_back()
            if isinstance(error, Undelivered):
                if self._has_end:
                    raise OSError(errno.ETIMEDOUT, "its reader took no more in time") from error
                raise
            if self._has_end or error.errno not in _NO_SPACE:
                raise
            if not self.failed:
                self._complain(error, "what does not fit is dropped until there is space again")
            raise Undelivered from error

    def _write(self, data: bytearray) -> None:
        assert self._fd is not None
        rest = memoryview(data)
        while rest:
            self._pause(0)
            # When closing, small steps: they show that a slow reader does read.
            step = select.PIPE_BUF if self._closing.is_set() else WRITE_BYTES
            try:
                written = os.write(self._fd, rest[:step])
            except BlockingIOError:  # whoever made the pipe chose that for it
                self._await_writable(self._fd)
                continue
            except OSError as error:
                if not self._can_wait(error):
                    raise
                self._await_space(error)
                continue
            rest = rest[written:]
            self._item_bytes += written
            self._progressed()

    def _await_writable(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while not poll.poll(100):
            self._pause(0)

    def _can_wait(self, error: OSError) -> bool:
        """What is of use only as a whole must not lose a part; nor must who waits for us hang."""
        is_live = self._drops and not self._closing.is_set()
        return self._has_end and is_live and error.errno in _NO_SPACE

    def _await_space(self, error: OSError) -> None:
        if not self._has_waited:
            self._has_waited = True
            self._report(f"{self.name} waits until there is space again: {error.strerror}")
        self._closing.wait(POLL_S)

    def _cut_back(self) -> None:
        """Leave no part of the item in hand in a regular file."""
        assert self._fd is not None
        with suppress(OSError):  # the write's own error is what counts
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                return
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if end == status.st_size:  # else somebody else wrote behind us
                os.ftruncate(self._fd, end - self._item_bytes)
                os.lseek(self._fd, end - self._item_bytes, os.SEEK_SET)

    def _release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
