"""One stream of trace bytes for the engine, from one file or from several."""

from __future__ import annotations

import mmap
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext

from blkiomon._core import Engine
from blkiomon.console import how_many
from blkiomon.errors import SourceError, TraceError, complaint
from blkiomon.sources.file_kinds import HEAD_BYTES, check_trace
from blkiomon.sources.merger import Merger
from blkiomon.sources.readers import Reader
from blkiomon.sources.sorter import Order, Sorter

READ_BYTES = 1 << 20
"""How much of a file is read at a time: with less, the calls of each read cost too much."""

PIECE_BYTES = 1 << 18
"""How much is merged or sorted at a time: little enough to stay in the CPU's cache for decoding."""

WINDOW_BYTES = 1 << 17
"""How much of each file is in memory while files are merged: its window."""

WINDOWS_BYTES = 1 << 24
"""Limit of all windows together: they should fit a cache. Above 4,096 files they exceed it."""

LEAST_WINDOW_BYTES = 1 << 12

LATENESS_NS = 10**9
"""blktrace empties the buffers of all CPUs at least twice a second. So a record that it writes to a
pipe may follow one that is half a second younger; this is twice as much."""

MOST_HELD_BYTES = 1 << 26
"""Limit of the bytes that stay held back when a stream was sorted. Before it is sorted again, they
may double. Beyond the limit, the earliest records are passed on."""

LOOK_AHEAD_BYTES = 1 << 23
"""How far a file is read ahead: that much before the first record that is out of order, records are
sorted, too. More would not fit a cache."""

SKIPS_SHOWN = 20
"""How many skips of bad input are reported one by one; the last line sums up the others."""

SAME_CLOCK_NS = 10**9
"""How far the epochs of traces from one boot may differ: setting the time of day moves them."""


class Source(ABC):
    """A stream of trace records, for ``Engine.feed``.

    Attributes:
        name: for messages.
        total_bytes: size of all files on disk; None if unknown.
        notes: messages for the user, before the first read.
        missing_files: how many per-CPU files are missing from their sets.
        skipped_bytes: bytes skipped so far because they are not records.
        lost_events: events that the tracer reported as lost so far.
        padding_bytes: zeros skipped as padding so far.
        waiting: makes a context manager, which is entered while the source waits for bytes of a
            file. The caller may set it, for a signal to raise an exception only there.

    The counts of bytes and events are 0 for a single file: there, the engine counts them.
    """

    name: str
    total_bytes: int | None
    notes: tuple[str, ...] = ()
    missing_files = 0
    skipped_bytes = 0
    lost_events = 0
    padding_bytes = 0
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    @abstractmethod
    def done_bytes(self) -> int:
        """How many bytes of all files on disk have been read."""

    @abstractmethod
    def read(self) -> memoryview:
        """The next bytes of the stream, valid until the next call; empty at its end.

        Raises:
            TraceError: a file is not a trace, or ends inside a record. All records before the bad
                bytes have been returned; if a file ends inside a record, all other files, too.
            SourceError: a file cannot be read to its end. All other records have been returned.
        """

    def rest(self) -> memoryview:
        """The bytes that were read but not returned yet, if the stream is left before its end."""
        return memoryview(b"")

    def origin(self, offset: int) -> int:
        """The offset in a single file of skipped bytes, by their offset in the stream.

        To be asked once for each stretch; they differ if the file is sorted.
        """
        return offset

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    def _in_waiting(self, readinto: Callable[[memoryview], int]) -> Callable[[memoryview], int]:
        """Wrap a reader's ``readinto``, so that ``waiting`` is entered during each call."""

        def wait(buffer: memoryview) -> int:
            with self.waiting():
                return readinto(buffer)

        return wait

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def checked(reader: Reader) -> Callable[[memoryview], int]:
    """Wrap a reader's ``readinto``; the first call checks the file's kind, see ``check_trace``."""
    is_first = True

    def readinto(buffer: memoryview) -> int:
        nonlocal is_first
        n = reader.readinto(buffer)
        if is_first:
            is_first = False
            check_trace(bytes(buffer[: min(n, HEAD_BYTES)]), reader.name)
        return n

    return readinto


class SortedStream:
    """Sorts a stream in which batches of several devices and CPUs alternate; see ``Sorter``.

    A stream that is in order passes as it is. From the first record that is out of order on, the
    records of the last ``LATENESS_NS`` are held back.

    Args:
        look_ahead_bytes: hold so much back while the stream is in order: it is sorted, too.
        resync: after bytes that are not a record, continue at the next plausible one.
        most_held_bytes: see ``MOST_HELD_BYTES``.
        is_live: pass on what is due four times a second, however little it is.
        monotonic_ns: a clock that never runs backwards.
    """

    def __init__(
        self,
        *,
        look_ahead_bytes: int = 0,
        resync: bool = False,
        most_held_bytes: int = MOST_HELD_BYTES,
        is_live: bool = False,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._order = Order(lateness_ns=LATENESS_NS, resync=resync)
        self._sorter: Sorter | None = None  # from the first record that is out of order on
        self._resync = resync
        self._look_ahead_bytes = look_ahead_bytes
        self._ahead: deque[tuple[memoryview, int]] = deque()  # piece, where a record begins in it
        self._ahead_bytes = 0
        self._passed_bytes = 0  # as they were
        self._most_held_bytes = most_held_bytes
        self._is_live = is_live
        self._monotonic_ns = monotonic_ns
        self._wanted_bytes = look_ahead_bytes  # to be held before records are sorted
        self._taken_ns = 0  # when records were last passed on, by the clock
        self._arrivals: deque[tuple[int, int]] = deque()  # (clock, latest record's time)

    @property
    def is_in_order(self) -> bool:
        """Whether all records so far were in order."""
        return self._sorter is None

    @property
    def holds_back(self) -> bool:
        """Whether records are held back to be sorted."""
        return self._sorter is not None and self._sorter.held_bytes > 0

    def add(self, data: memoryview) -> memoryview:
        """Take the next piece; return the bytes that are due now.

        The piece must stay valid until ``look_ahead_bytes`` more have been added, and what that
        returned has been used.
        """
        begun = memoryview(b"")
        if not data:
            return begun
        if self._sorter is None:
            self._ahead.append((data, self._order.follow(data)))
            self._ahead_bytes += len(data)
            if self._order.is_kept:
                return self._pass()
            begun, self._sorter = self._begin_sorting()
        else:
            self._sorter.add(data)
        if self._sorter.held_bytes >= self._wanted_bytes or self._is_late():
            due = self._take(self._sorter, self._sorter.latest_ns - LATENESS_NS)
            return memoryview(bytes(begun) + due) if begun else due
        return begun

    def due(self) -> memoryview:
        """Return what arrived more than ``LATENESS_NS`` ago, however few records followed it.

        Nothing, while the stream is in order.
        """
        if self._sorter is None:
            return memoryview(b"")
        now_ns = self._monotonic_ns()
        until_ns = self._sorter.latest_ns - LATENESS_NS
        while self._arrivals and self._arrivals[0][0] <= now_ns - LATENESS_NS:
            until_ns = max(until_ns, self._arrivals.popleft()[1])
        self._arrivals.append((now_ns, self._sorter.latest_ns))
        return self._take(self._sorter, until_ns)

    def rest(self) -> memoryview:
        """Return the next of the bytes that are held back, at the end of the stream."""
        if self._sorter is not None:
            return self._sorter.take_all()
        return self._ahead.popleft()[0] if self._ahead else memoryview(b"")

    def origin(self, offset: int) -> int:
        """The offset in the input of skipped bytes, by their offset in the sorted stream."""
        return offset if self._sorter is None else self._sorter.origin(offset)

    def _pass(self) -> memoryview:
        """Pass on the first pieces, as far as enough bytes stay; usually, that is one piece."""
        due = []
        while self._ahead:
            first, _ = self._ahead[0]
            if self._ahead_bytes - len(first) < self._look_ahead_bytes:
                break
            self._ahead.popleft()
            self._ahead_bytes -= len(first)
            self._passed_bytes += len(first)
            due.append(first)
        return due[0] if len(due) == 1 else memoryview(b"".join(due))

    def _begin_sorting(self) -> tuple[memoryview, Sorter]:
        """Hold back what has not been passed on, except the end of a record that has begun."""
        begun = b""
        while self._ahead:
            data, at = self._ahead.popleft()
            begun += data[:at]
            if at < len(data):
                break
        sorter = Sorter(
            lateness_ns=LATENESS_NS, resync=self._resync, begin=self._passed_bytes + len(begun)
        )
        sorter.add(data[at:])
        for data, _ in self._ahead:
            sorter.add(data)
        self._ahead.clear()
        return memoryview(begun), sorter

    def _is_late(self) -> bool:
        return self._is_live and self._monotonic_ns() - self._taken_ns >= LATENESS_NS // 4

    def _take(self, sorter: Sorter, until_ns: int) -> memoryview:
        data = sorter.take(max(until_ns, 0), self._most_held_bytes)
        # Wait until the held bytes have doubled: then the cost of sorting them again is amortised.
        self._wanted_bytes = 2 * sorter.held_bytes + min(PIECE_BYTES, self._most_held_bytes)
        if self._is_live:
            self._taken_ns = self._monotonic_ns()
        return data


class FileSource(Source):
    """One file.

    Args:
        reader: of the file.
        resync: also accept files that do not begin like a trace: records may follow later.
        sorts: if the file was saved from a pipe of blktrace, put its records in order of time.
        share: one of so many files that share the memory for this.
        least_read_bytes: read no less at a time, however many share the memory; whole pages.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        resync: bool = False,
        sorts: bool = False,
        share: int = 1,
        least_read_bytes: int = mmap.PAGESIZE,
    ) -> None:
        self.name = reader.name
        self.total_bytes = reader.total_bytes
        self._reader = reader
        self._readinto = self._in_waiting(reader.readinto if resync else checked(reader))
        self._stream: SortedStream | None = None
        self._is_live = reader.total_bytes is None  # a pipe: its records do not wait for others
        self._due = memoryview(b"")  # from _stream, and not yet returned
        self._has_ended = False
        self._failure: SourceError | None = None  # raised after all records
        n_buffers, n_bytes = 1, READ_BYTES
        if sorts:
            n_bytes = max(least_read_bytes, READ_BYTES // share // mmap.PAGESIZE * mmap.PAGESIZE)
            n_ahead = 0 if self._is_live else max(1, LOOK_AHEAD_BYTES // share // n_bytes)
            n_buffers = n_ahead + 2  # one that is filled, one that has been returned
            self._stream = SortedStream(
                look_ahead_bytes=n_ahead * n_bytes,
                resync=resync,
                most_held_bytes=MOST_HELD_BYTES // share,
                is_live=self._is_live,
            )
        memory = memoryview(mmap.mmap(-1, n_buffers * n_bytes))  # aligned to a page
        self._buffers = [memory[i * n_bytes : (i + 1) * n_bytes] for i in range(n_buffers)]
        self._next = 0  # the buffer that is being filled
        self._filled_bytes = 0  # in it: a signal may interrupt this

    @property
    def done_bytes(self) -> int:
        return self._reader.done_bytes

    def read(self) -> memoryview:
        if self._stream is None:
            return self._buffers[0][: self._readinto(self._buffers[0])]
        while not self._due and not self._has_ended:
            self._fill()
            self._due = self._add()
        if not self._due:
            self._due = self._stream.rest()
        if self._failure is not None and not self._due:
            raise self._failure
        data, self._due = self._due[:READ_BYTES], self._due[READ_BYTES:]
        return data

    def rest(self) -> memoryview:
        data = bytes(self._due)
        if self._stream is not None:
            data += self._add()
            while more := self._stream.rest():
                data += more
        return memoryview(data)

    def _fill(self) -> None:
        """Fill the next buffer, or as much of it as there is until the end or an error.

        The first end is the end, also of a file that grows. Each small piece that it grows by would
        take a buffer, and overwrite those that the stream still holds.
        """
        buffer = self._buffers[self._next]
        try:
            while n := self._readinto(buffer[self._filled_bytes :]):
                self._filled_bytes += n
                if self._is_live or self._filled_bytes == len(buffer):
                    return
        except SourceError as error:
            self._failure = error
        self._has_ended = True

    def _add(self) -> memoryview:
        """Hand the buffer over to the stream; return what is due."""
        assert self._stream is not None
        data = self._buffers[self._next][: self._filled_bytes]
        self._filled_bytes = 0
        self._next = (self._next + 1) % len(self._buffers)
        return self._stream.add(data) if data else data

    def origin(self, offset: int) -> int:
        return offset if self._stream is None else self._stream.origin(offset)

    def close(self) -> None:
        self._reader.close()


class _SortedReader:
    """Reads a file, and sorts it on the way: for a merger."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._left = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        if not self._left:
            self._left = self._source.read()
        n = min(len(buffer), len(self._left))
        buffer[:n], self._left = self._left[:n], self._left[n:]
        return n


class MergedSource(Source):
    """Several files, merged by time; see ``Merger``.

    Args:
        name: of all files together.
        readers: of the files. Of records with equal times, the earlier file's comes first.
        sets: a key for each file. Files with equal keys are from one boot; default: all files.
        resync: after bytes that are not a record, continue at the next plausible one of that file.
        sorts: sort the files that are alone in their sets, see ``FileSource``. The files of a set
            of several CPUs are in order.
        report: receives messages for the user, one line each.
    """

    def __init__(
        self,
        name: str,
        readers: Sequence[Reader],
        *,
        sets: Sequence[Hashable] = (),
        resync: bool = False,
        sorts: bool = False,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        known = [size for reader in readers if (size := reader.total_bytes) is not None]
        self.total_bytes = sum(known) if len(known) == len(readers) else None
        self._readers = list(readers)
        self._sets = list(sets)
        self._is_aligned = len(set(sets)) < 2
        self._report = report or (lambda text: None)
        self._skips = 0
        self._has_ended = False
        window_bytes = min(WINDOW_BYTES, max(LEAST_WINDOW_BYTES, WINDOWS_BYTES // len(readers)))
        readintos = [
            self._in_waiting(reader.readinto if resync else checked(reader)) for reader in readers
        ]
        sizes = Counter(sets)
        alone = [i for i, key in enumerate(sets) if sorts and sizes[key] == 1]
        self._sorted: dict[str, FileSource] = {}  # by name
        for i in alone:
            source = FileSource(
                readers[i],
                resync=resync,
                sorts=True,
                share=len(alone),
                # What fits the window beside the beginning of a record.
                least_read_bytes=max(1, (window_bytes - 1) // mmap.PAGESIZE) * mmap.PAGESIZE,
            )
            source.waiting = lambda: self.waiting()
            self._sorted[readers[i].name] = source
            readintos[i] = _SortedReader(source).readinto
        self._merger = Merger(
            [reader.name for reader in readers],
            readintos,
            window_bytes=window_bytes,
            output_bytes=PIECE_BYTES,
            resync=resync,
        )

    @property
    def done_bytes(self) -> int:
        return sum(reader.done_bytes for reader in self._readers)

    def read(self) -> memoryview:
        try:
            if not self._is_aligned:
                self._is_aligned = True
                self._align()
            data = self._merger.read()
        except TraceError:
            self._count()
            self._end(self._merger.failures)
            raise
        self._count()
        self._report_skips()
        if not data:
            self._end(self._merger.failures[1:])
            if self._merger.failures:
                raise self._merger.failures[0]
        return data

    def close(self) -> None:
        for reader in self._readers:
            reader.close()

    def _align(self) -> None:
        """Shift the times of sets from different boots or hosts to one epoch.

        Trace time counts from boot. A timestamp record gives the time of day at a trace time.

        Raises:
            SourceError: a set has no timestamp.
        """
        epochs_ns: dict[Hashable, int] = {}
        beginnings = self._merger.peek([reader.total_bytes is not None for reader in self._readers])
        for key, data in zip(self._sets, beginnings):
            if key not in epochs_ns and (epoch_ns := _epoch_ns(data)) is not None:
                epochs_ns[key] = epoch_ns
        names: dict[Hashable, str] = {}  # the first file of each set
        for key, reader in zip(self._sets, self._readers):
            names.setdefault(key, reader.name)
        unknown = [name for key, name in names.items() if key not in epochs_ns]
        first_ns = min(epochs_ns.values(), default=0)
        if max(epochs_ns.values(), default=0) - first_ns <= SAME_CLOCK_NS:
            if unknown and epochs_ns:
                self._report(
                    f"{unknown[0]} does not contain the time of day: it is taken to be of the same "
                    f"boot as {names[next(iter(epochs_ns))]}"
                )
            return
        if unknown:
            raise SourceError(
                f"{unknown[0]} does not contain the time of day, and the other files are of "
                "several boots or hosts: read it alone"
            )
        earliest, latest = (find(epochs_ns, key=epochs_ns.__getitem__) for find in (min, max))
        self._report(
            f"{names[earliest]} and {names[latest]} are of different boots or hosts: they are "
            "merged by their time of day"
        )
        self._merger.shift([epochs_ns[key] - first_ns for key in self._sets])

    def _count(self) -> None:
        self.skipped_bytes = self._merger.skipped_bytes
        self.lost_events = self._merger.lost_events
        self.padding_bytes = self._merger.padding_bytes

    def _report_skips(self) -> None:
        for name, offset, n_bytes in self._merger.take_skips():
            self._skips += 1
            if name in self._sorted:
                offset = self._sorted[name].origin(offset)
            if self._skips <= SKIPS_SHOWN:
                skipped = how_many(n_bytes, "byte", "bytes")
                self._report(f"bad trace: {name}: skipped {skipped} at byte offset {offset}")

    def _end(self, failures: Sequence[Exception]) -> None:
        """Report the skips, and the failures that are not raised. Later calls do nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        self._report_skips()
        if self._skips > SKIPS_SHOWN:
            more = how_many(self._skips - SKIPS_SHOWN, "more stretch", "more stretches")
            in_all = how_many(self.skipped_bytes, "byte", "bytes")
            self._report(f"bad trace: {more} skipped, {in_all} in all")
        for error in failures:
            self._report(complaint(error))


def _epoch_ns(data: bytes) -> int | None:
    """The epoch: trace time 0 as ns since 1970, if these first bytes have a timestamp record."""
    engine = Engine(resync=True)
    engine.feed(data)
    return engine.epoch_ns
