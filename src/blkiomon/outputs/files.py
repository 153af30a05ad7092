"""The sink for files, pipes, FIFOs and terminals."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any

from blkiomon.formats.rendering import Format
from blkiomon.outputs.opening import open_output
from blkiomon.outputs.sink import POLL_S, Item, Report, Sink, Undelivered

WRITE_BYTES = 1 << 16
"""Bytes of one write: the default capacity of a pipe."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class FileSink(Sink):
    """One path, and the formats that are written to it.

    The original writes the text and then the struct of a device before those of the next device.

    Args:
        path: as the user gave it; ``-`` is standard output.
        formats: in the order of their pieces.
        report, options: as for ``Sink``.

    Raises:
        OSError: it cannot be opened, or must not be written to.
    """

    def __init__(
        self, path: str, formats: Sequence[Format], report: Report, **options: Any
    ) -> None:
        super().__init__("standard output" if path == "-" else path, report, **options)
        self._path = path
        self._formats = tuple(formats)
        self._head = b"".join(f.head for f in self._formats)  # empty once it is delivered
        self._has_end = any(f.finish for f in self._formats)
        self._has_waited = False  # for space
        self._item_bytes = 0  # written so far of the current item
        self._fd = open_output(path, self._policy)

    def takes(self, item: Item) -> bool:
        return any(isinstance(item, f.takes) for f in self._formats)

    def _connect(self) -> None:
        # None means a FIFO without a reader.
        if self._fd is None:
            self._fd = self._until_there(
                lambda: open_output(self._path, self._policy), f"a reader of {self.name}"
            )

    def _complain(self, error: OSError, consequence: str) -> None:
        is_stdout = self._fd is not None and os.path.sameopenfile(self._fd, 1)  # or /dev/stdout
        if is_stdout and error.errno == errno.EPIPE:
            self.is_reader_gone = True  # as head(1) closes standard output
            return
        super()._complain(error, consequence)

    def _deliver(self, item: Item) -> None:
        self._connect()
        wanted = [f for f in self._formats if isinstance(item, f.takes)]
        turns = zip_longest(*(f.render(item) for f in wanted if f.takes_turns), fillvalue=b"")
        wholes = (f.render(item) for f in wanted if not f.takes_turns)
        self._emit(chain(chain.from_iterable(turns), chain.from_iterable(wholes)))

    def _finish(self) -> None:
        if self._fd is not None:  # otherwise the FIFO never had a reader
            self._emit(chain.from_iterable(f.finish() for f in self._formats if f.finish))

    def _reopen(self) -> None:
        """Continue in the file that now has the name, if it is another one."""
        if self._fd is None or self._path == "-":
            return
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            return
        with suppress(OSError):  # stat() is enough: opening may no longer be allowed
            if os.path.samestat(os.stat(self._path), status):  # noqa: PTH116
                return
        try:
            new = open_output(self._path, self._policy, keep=True)
        except OSError as error:
            self._complain(error, "it continues in the old file")
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
        """Write all pieces; to a regular file, all or nothing."""
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
                    raise OSError(errno.ETIMEDOUT, "its reader took nothing in time") from error
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
            # Small writes while closing show that a slow reader makes progress.
            step = select.PIPE_BUF if self._closing.is_set() else WRITE_BYTES
            try:
                written = os.write(self._fd, rest[:step])
            except BlockingIOError:  # the pipe is non-blocking, which its creator chose
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
        """Whether to wait for space: the file is useful only as a whole, and the run is live."""
        is_running = self._is_live and not self._closing.is_set()
        return self._has_end and is_running and error.errno in _NO_SPACE

    def _await_space(self, error: OSError) -> None:
        if not self._has_waited:
            self._has_waited = True
            self._report(f"{self.name} waits until there is space again: {error.strerror}")
        self._closing.wait(POLL_S)

    def _cut_back(self) -> None:
        """Remove the partly written item from a regular file."""
        assert self._fd is not None
        with suppress(OSError):  # the error of the write is reported
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                return
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if end == status.st_size:  # otherwise another process appended
                os.ftruncate(self._fd, end - self._item_bytes)
                os.lseek(self._fd, end - self._item_bytes, os.SEEK_SET)

    def _release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
