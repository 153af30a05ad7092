"""Writes traces: a set of files for blkparse, btt, fio and blkiomon, or a pipe."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from blkiomon.console import AFTER_SIGNAL_S, how_many
from blkiomon.formats.units import bytes_text
from blkiomon.outputs.opening import Policy, check_output, open_output
from blkiomon.sources.trace_sets import MEMBER
from blkiomon.sources.version7 import Version7

PIECE_BYTES = 1 << 18
"""Most bytes that are written at a time."""

MOST_WAIT_S = 5.0
"""After a signal, how long writing waits for a slow reader of a pipe in all."""

RING_FILES = 8
"""How many files a ring has: seven that are full, and the one that is being written."""

Pack = Callable[[memoryview], bytes]
"""Compresses a piece by itself: after a crash, all pieces before the last can be read."""


class Recording(ABC):
    """Where trace records are written to.

    Args:
        pack: compresses; None: records are written as they are.
        is_stopping: whether a signal has come. Then, if a pipe's reader takes nothing, or takes too
            long, writing fails.

    Attributes:
        written_bytes: so far.
    """

    def __init__(self, pack: Pack | None, is_stopping: Callable[[], bool]) -> None:
        self.written_bytes = 0
        self._pack = pack
        self._is_stopping = is_stopping
        self._waited_s = 0.0  # for a reader, after a signal
        self._fd = -1

    @abstractmethod
    def write(self, data: memoryview) -> None:
        """Write captured records, at most PIECE_BYTES; may change the data in place.

        Raises:
            OSError: it failed. None of these records is in the file.
        """

    @abstractmethod
    def lose(self, n_events: int) -> None:
        """Mark that n_events were lost before the next record. Raises OSError."""

    @abstractmethod
    def drop(self, data: memoryview) -> None:
        """Count captured records that are not written, after writing has failed."""

    @property
    @abstractmethod
    def unwritten(self) -> str:
        """After writing has failed: which records are not written, for the user."""

    @abstractmethod
    def summary(self) -> str:
        """What was written, for the user."""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def discard(self) -> None:
        """Close before anything was written, and leave no file."""
        self.close()

    def _write(self, data: memoryview | bytes) -> int:
        """Write all or, to a file, nothing; returns how many bytes that are."""
        rest = memoryview(self._pack(memoryview(data)) if self._pack else data)
        size = len(rest)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        try:
            while rest:
                # A write that fits PIPE_BUF does not wait once poll() allows it. A longer one may
                # wait; a signal ends it early.
                step = select.PIPE_BUF if self._is_stopping() else size
                wait_ms = AFTER_SIGNAL_S * 1000 if self._is_stopping() else 100
                begun_s = time.monotonic()
                if poll.poll(wait_ms):
                    rest = rest[os.write(self._fd, rest[:step]) :]
                elif self._is_stopping():
                    raise OSError(errno.ETIMEDOUT, "its reader took nothing in time")
                if self._is_stopping() and rest:
                    self._waited_s += time.monotonic() - begun_s
                    if self._waited_s > MOST_WAIT_S:
                        raise OSError(errno.ETIMEDOUT, "its reader took too long")
        except OSError:
            with suppress(OSError):
                if stat.S_ISREG(os.fstat(self._fd).st_mode):
                    end = os.lseek(self._fd, 0, os.SEEK_CUR)
                    os.ftruncate(self._fd, end - (size - len(rest)))
            raise
        self.written_bytes += size
        return size


class PipeRecording(Recording):
    """Standard output: records as they are captured, for blkiomon.

    Lost events are marked as ftrace marks them, so that blkiomon can count them.

    Raises:
        OSError: it must not be written to.
    """

    def __init__(self, pack: Pack | None, is_stopping: Callable[[], bool], policy: Policy) -> None:
        super().__init__(pack, is_stopping)
        fd = open_output("-", policy)
        assert fd is not None
        self._fd = fd

    def write(self, data: memoryview) -> None:
        self._write(data)

    def lose(self, n_events: int) -> None:
        if n_events:
            self._write(b"CPU:0 [LOST %d EVENTS]\n" % n_events)

    def drop(self, data: memoryview) -> None:
        pass  # how many records were written before is not known either

    @property
    def unwritten(self) -> str:
        return "later records are not written"

    def summary(self) -> str:
        return f"{bytes_text(self.written_bytes)} to standard output"


class _File(NamedTuple):
    """How much has been written to a file of a set."""

    records: int = 0
    size_bytes: int = 0


class FileRecording(Recording):
    """A set of files NAME.blktrace.0 and so on, of version 7.

    Without a limit there is one file. With a limit, there is a ring of up to RING_FILES files: the
    oldest is replaced when the others are full. File N and its records have the CPU number N, so
    that readers of the set merge the files by time.

    Args:
        name: of the set.
        pack, is_stopping: as for ``Recording``.
        policy: which files outputs may write to; ``overwrite``: also replace a set of this name.
        most_bytes: limit of the size of all files together; None: no limit.
        repeat_notes: called when a file is full; the next data must begin with the time of day
            and all process names.

    Raises:
        OSError: a trace of this name exists, or a file must not be written to.
    """

    def __init__(
        self,
        name: str,
        pack: Pack | None,
        is_stopping: Callable[[], bool],
        policy: Policy,
        *,
        most_bytes: int | None,
        repeat_notes: Callable[[], None],
    ) -> None:
        super().__init__(pack, is_stopping)
        self._name = name
        self._file_bytes = most_bytes and most_bytes // RING_FILES
        self._repeat_notes = repeat_notes
        self._files: deque[_File] = deque(maxlen=RING_FILES)  # the last one is being written
        self._n_files = 0  # the deleted ones included
        self._deleted_records = 0
        self._is_full = True
        self._make_way(policy)
        self._policy = policy._replace(overwrite=True)  # the oldest file of this set
        self._begin_file(lost_events=0)

    def _make_way(self, policy: Policy) -> None:
        """Remove the files of an earlier trace of this name, so that none stays in the set."""
        parent, base = os.path.split(self._name)
        if os.path.lexists(self._name):
            raise FileExistsError(
                errno.EEXIST,
                f"{self._name} exists and would be read in place of the trace: use another name",
            )
        for path in sorted(Path(parent or ".").iterdir()):
            match = MEMBER.fullmatch(path.name)
            if match and match["base"] == base:
                if not policy.overwrite:
                    raise FileExistsError(
                        errno.EEXIST, f"{path.name} exists; --overwrite replaces that trace"
                    )
                check_output(str(path), policy)
                path.unlink()

    def _path(self, number: int) -> str:
        return f"{self._name}.blktrace.{number}{'.zst' if self._pack else ''}"

    def _begin_file(self, lost_events: int) -> None:
        """Begin the next file of the ring; it replaces the oldest one if the ring is full."""
        number = self._n_files % RING_FILES
        fd = open_output(self._path(number), self._policy)
        if fd is None:
            raise OSError(errno.ENXIO, f"{self._path(number)} is a FIFO")
        self.close()
        self._fd = fd
        if len(self._files) == RING_FILES:
            self._deleted_records += self._files[0].records
        self._files.append(_File())
        self._n_files += 1
        self._version7 = Version7(number, lost_events)
        self._is_full = False

    def write(self, data: memoryview) -> None:
        if self._is_full:
            try:
                self._begin_file(self._version7.unmarked_events)
            except OSError:
                self.drop(data)
                raise
        size_bytes = self._files[-1].size_bytes + self._write(self._version7.convert(data))
        self._files[-1] = _File(self._version7.records, size_bytes)
        if self._file_bytes and size_bytes + PIECE_BYTES > self._file_bytes:
            self._is_full = True
            self._repeat_notes()

    def lose(self, n_events: int) -> None:
        self._version7.lose(n_events)

    def drop(self, data: memoryview) -> None:
        self._version7.convert(data)

    @property
    def unwritten(self) -> str:
        records = self._version7.records - self._files[-1].records
        return how_many(records, "captured record is", "captured records are", ",") + " not written"

    def discard(self) -> None:
        self.close()
        Path(self._path(0)).unlink(missing_ok=True)

    def summary(self) -> str:
        files = " to ".join(dict.fromkeys(map(self._path, (0, len(self._files) - 1))))
        size = bytes_text(sum(file.size_bytes for file in self._files))
        records = sum(file.records for file in self._files)
        text = f"{files}, {size}, {how_many(records, 'record', 'records', ',')}"
        if self._deleted_records:
            text += f" (and deleted {self._deleted_records:,} older ones)"
        return text
