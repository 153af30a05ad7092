"""One pass over inputs of any size, into data of bounded size: what pages and comparisons are of.

Time is cut into slices. They begin short, and whenever there are more than ``MOST_SLICES`` each two
neighbours become one, so that in the end there are between half of that and that many, however
long the trace and without knowing its length before. Merging loses nothing: the whole is what
``summarize`` says.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from blkiomon._core import Engine
from blkiomon.commands import decode
from blkiomon.commands.progress import Progress
from blkiomon.commands.report import worst
from blkiomon.commands.report.access import Accesses, Patterns
from blkiomon.console import EXIT_INPUT, EXIT_OUTPUT, how_many
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.errors import IntervalError, SourceError, StatsError, TraceError
from blkiomon.formats.json_codec import from_dict
from blkiomon.formats.units import device_text
from blkiomon.formats.validation import MOST_REQUESTS
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.moments import U64_MAX, U128_MAX, to_words
from blkiomon.interval.monitor import MAX_AGE_S, RECORDS_A_CUT, age_ns, names_of
from blkiomon.interval.value import Counts, Interval, in_order, merge
from blkiomon.outputs import opening
from blkiomon.outputs.opening import Policy, write_whole
from blkiomon.sources import input_files, open_trace
from blkiomon.sources.readers import Reader

MOST_SLICES = 512
"""An even number."""

FIRST_SLICE_NS = 1_000_000

MOST_BYTES = 3 << 26
"""That slices take, about; all of a report takes less than 1 GB, whatever the input."""

MOST_LINE_BYTES = 3 << 23
"""Of JSON, which takes up to 26 times as much once it is read."""

MOST_STATS_BYTES = 1 << 27
"""A file of -b is read in one piece: this is months of it."""

MOST_STATS_REQUESTS = 1 << 40
"""In one struct of -b: all of a file add up in 64 bits."""

LEAST_TIME_S = 10**8
"""Where a time of -b is less, it counts from the trace's first record and not from 1970."""

HEAD_BYTES = 1 << 12

TRACE, JSON, STATS = "trace", "JSON Lines", "statistics of -b"


class ReportError(Exception):
    """There is nothing to report on, or no way to; the text says why.

    Attributes:
        status: the exit status.
    """

    def __init__(self, text: str, status: int = EXIT_INPUT) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What is known of some inputs.

    Attributes:
        names: of the inputs, as they were given.
        kind: of all of them: ``TRACE``, ``JSON`` or ``STATS``.
        slices: in order of time.
        whole: all of them as one.
        patterns: where requests went; None where the inputs do not tell.
        notes: what whoever looks at the figures should know.
        is_broken: an input ended in the middle, or in garbage; the last of ``notes`` says how.
        n_others: devices without rows of their own: they are one, ``worst.OTHERS``.
    """

    names: tuple[str, ...]
    kind: str
    slices: tuple[Interval, ...]
    whole: Interval
    patterns: Patterns | None = None
    notes: tuple[str, ...] = ()
    is_broken: bool = False
    n_others: int = 0

    @property
    def devices(self) -> list[int]:
        """Numbers of the devices that completed requests, and have rows of their own."""
        groups = self.whole.groups()
        found = {g.device for g in groups if g.device is not None and g.requests}
        return sorted(found - ({worst.OTHERS} if self.n_others else set()))


def collect(
    names: Sequence[str],
    *,
    devices: Sequence[int] = (),
    patterns: bool = True,
    show_progress: bool | None = None,
    max_age_s: float = MAX_AGE_S,
    n_runs: int = 1,
) -> Collected:
    """Read inputs, all of one kind.

    Args:
        names: traces, as for ``open_trace``; or files of ``--json``, or of ``-b``.
        devices: numbers of those that count; all unless given.
        patterns: also find out where requests went, as far as the inputs tell.
        show_progress: see ``Progress``.
        max_age_s: a request of a trace that takes longer than this is not found, see ``Monitor``.
        n_runs: so many are collected, and share the memory.

    Raises:
        ReportError: they hold nothing, or not of these devices, or are of several kinds.
        SourceError, TraceError, StatsError: they cannot be read at all.
    """
    kinds = {name: _kind(name) for name in names}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ReportError(f"inputs of different kinds cannot be put together: {listed}")
    (kind,) = set(kinds.values())
    slices = _Slices(MOST_BYTES // n_runs)
    if kind == TRACE:
        slicer = _Slicer(slices, devices, patterns, max_age_s)
        found = _of_traces(names, slicer, show_progress)
    elif kind == JSON:
        found = _of_json(names, slices, devices, show_progress)
    else:
        found = _of_stats(names, slices, devices)
    if not found.whole.total.requests:
        _explain_nothing(found, devices, max_age_s)
    if found.n_others:
        return replace(found, notes=(_note_of_others(found), *found.notes))
    return found


def _note_of_others(found: Collected) -> str:
    there = "more than " if found.n_others >= worst.MOST_OTHERS else ""
    n_shown = int((worst.devices_of(found.whole) != worst.OTHERS).sum())
    others = how_many(
        found.n_others,
        "device has no row of its own and is shown as others",
        "devices have no row of their own and are shown as one, others",
        ",",
    )
    return f"{there}{others}. Requests waited longest, in all, on the {n_shown} that have."


def _explain_nothing(found: Collected, devices: Sequence[int], max_age_s: float) -> None:
    """Say why there is no request; raises ReportError."""
    what = ", ".join(found.names)
    if found.is_broken:
        raise ReportError(found.notes[-1])
    if found.kind == TRACE and not found.whole.counts.records:
        raise ReportError(f"{what}: the trace is empty")
    if devices:
        wanted = ", ".join(map(device_text, devices))
        there = []
        if "-" not in found.names:
            there = collect(found.names, patterns=False, max_age_s=max_age_s).devices
        has = f"; there are some of {listed(there)}" if there else ""
        raise ReportError(f"{what}: no request of {wanted}{has}")
    counts = found.whole.counts
    records = how_many(counts.records, "record", "records")
    if found.kind == TRACE and counts.evicted:
        raise ReportError(
            f"{what}: no request in {records}: "
            f"{how_many(counts.evicted, 'issue or completion has', 'issues and completions have')} "
            f"no partner within {max_age_s:g} s; --max-age allows more time"
        )
    if found.kind == TRACE:
        raise ReportError(
            f"{what}: no request in {records}: it takes both the issue "
            "and the completion of one (blktrace -a issue -a complete)"
        )
    raise ReportError(f"{what}: there is no request in it")


def listed(devices: Sequence[int]) -> str:
    """Devices as one reads them, the first ones if there are many."""
    shown = ", ".join(map(device_text, devices[:20]))
    return shown if len(devices) <= 20 else f"{shown} and {len(devices) - 20} more"


def _kind(name: str) -> str:
    """What a file holds, by its first bytes; whatever is not known otherwise is a trace."""
    path = Path(name)
    try:
        is_file = name != "-" and path.is_file()
    except OSError:  # which opening it will explain
        is_file = False
    if not is_file:
        return TRACE
    head = bytearray(HEAD_BYTES)
    try:
        reader = Reader(path)
        try:
            head = head[: reader.readinto(memoryview(head))]
        finally:
            reader.close()
    except OSError as error:
        raise SourceError(f"cannot open {name}: {error.strerror}") from error
    if head.lstrip()[:1] == b"{":
        return JSON
    # A big-endian time in seconds, 64 bits of it.
    return STATS if head[:3] == b"\0\0\0" else TRACE


class _Slices:
    """Intervals in order of time, put together so that they take bounded memory.

    There are at most ``MOST_SLICES``. Where they would take more than is allowed, ever fewer
    devices have rows of their own, and at last slices become longer.

    Args:
        most_bytes: of all arrays together, about.

    Attributes:
        others: numbers of the devices that have no rows of their own, ascending, and ``OTHERS``.
    """

    MOST_PARTS = 8  # merging many at once is cheaper than one by one

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.others = np.empty(0, np.uint32)
        self._own: worst.Numbers | None = None  # where there are too many others to know them
        self._most_devices = worst.MOST_DEVICES
        self._shift = 0  # so many times were slices made longer here
        self._places: list[int] = []
        self._parts: list[list[Interval]] = []  # of each place
        self._n_bytes = 0

    def add(self, place: int, interval: Interval) -> None:
        """Add one at its place, which is that of the latest one, or a later one."""
        self._add(place >> self._shift, [self._bounded(interval)])
        while self._n_bytes > self._most_bytes and self._can_shrink:
            self._shrink()

    def _add(self, place: int, parts: list[Interval]) -> None:
        if not self._places or self._places[-1] != place:
            self._places.append(place)
            self._parts.append([])
        latest = self._parts[-1]
        latest += parts
        self._n_bytes += sum(worst.n_bytes(part.snapshot) for part in parts)
        if len(latest) > self.MOST_PARTS:
            self._n_bytes -= sum(worst.n_bytes(part.snapshot) for part in latest)
            latest[:] = [self._bounded(merge(latest))]
            self._n_bytes += worst.n_bytes(latest[0].snapshot)

    def halve(self) -> None:
        """Each two places become one."""
        places, self._places = self._places, []
        parts, self._parts = self._parts, []
        self._n_bytes = 0
        for place, of_place in zip(places, parts):
            self._add(place // 2, of_place)

    def merged(self) -> list[Interval]:
        """One interval of each place."""
        self._set_aside_all()
        return [parts[0] for parts in self._parts]

    @property
    def _can_shrink(self) -> bool:
        return self._most_devices > 1 or len(self._places) > 1

    def _shrink(self) -> None:
        """Take less memory."""
        if self._most_devices > 1:
            self._most_devices //= 2
        else:
            self._shift += 1
            self.halve()
        self._set_aside_all()

    def _bounded(self, interval: Interval) -> Interval:
        """An interval in which not too many devices have rows of their own."""
        devices = worst.devices_of(interval)
        own = devices[~self._is_other(devices)]
        if len(own) > self._most_devices:
            own = self._pick(own, interval)
        return self._without_others(worst.with_few_processes(interval), own)

    def _set_aside_all(self) -> None:
        """Merge what is of one place, with rows for the same devices in all."""
        merged = [parts[0] if len(parts) == 1 else merge(parts) for parts in self._parts]
        self._parts = [[item] for item in merged]
        listed = [worst.devices_of(item) for item in merged]
        own = np.unique(np.concatenate(listed)) if listed else self.others
        own = own[~self._is_other(own)]
        if len(own) > self._most_devices:
            own = self._pick(own)
        bounded = (worst.with_few_processes(item) for item in merged)
        self._parts = [[self._without_others(item, own)] for item in bounded]
        self._n_bytes = sum(worst.n_bytes(item.snapshot) for (item,) in self._parts)

    def _pick(self, own: worst.Numbers, *more: Interval) -> worst.Numbers:
        """The worst of these devices; the others have no rows of their own any more."""
        known = [part for parts in self._parts for part in parts]
        kept = worst.worst([*known, *more], own, self._most_devices)
        gone = np.setdiff1d(own, kept)
        if self._own is not None:
            self._own = np.setdiff1d(self._own, gone)
            return kept
        self.others = np.union1d(np.append(self.others, np.uint32(worst.OTHERS)), gone)
        if self.n_others > worst.MOST_OTHERS:
            ours = [worst.devices_of(part) for part in known]
            self._own = np.setdiff1d(np.concatenate([kept, *ours]), self.others)
            self.others = self.others[: worst.MOST_OTHERS + 1]
        return kept

    def _is_other(self, devices: worst.Numbers) -> npt.NDArray[np.bool_]:
        if self._own is not None:
            return ~np.isin(devices, self._own)
        if not len(self.others):
            return np.zeros(len(devices), bool)
        place = np.minimum(np.searchsorted(self.others, devices), len(self.others) - 1)
        is_other: npt.NDArray[np.bool_] = self.others[place] == devices
        return is_other

    def _without_others(self, interval: Interval, own: worst.Numbers) -> Interval:
        if not len(self.others):
            return interval
        others = np.setdiff1d(worst.devices_of(interval), own)
        return worst.added_up(interval, others) if len(others) else interval

    @property
    def n_others(self) -> int:
        """Devices without rows of their own; of very many, those that could be counted."""
        return max(0, len(self.others) - 1)


# --- traces ---------------------------------------------------------------------------------------


class _Slicer:
    """A trace's bytes in, slices out.

    Not a ``Monitor``, as that has to be told the length of its intervals before.
    """

    def __init__(
        self, slices: _Slices, devices: Sequence[int], patterns: bool, max_age_s: float
    ) -> None:
        self.engine = Engine(devices=devices, keep_requests=patterns, max_age_ns=age_ns(max_age_s))
        self.accesses = Accesses(MOST_SLICES) if patterns else None
        self.missing_files = 0  # of the trace, see ``Monitor``
        self._slices = slices
        self._origin_ns: int | None = None
        self._start_ns = 0  # of the slice at hand, trace time
        self._width_ns = FIRST_SLICE_NS
        self._counts = Counts()
        self._outside = Counts()
        self._records = 0

    def feed(self, data: memoryview, lost: int, skipped_bytes: int) -> None:
        """The next bytes, and what was lost and skipped in all before them.

        Raises:
            TraceError: they are no trace; what came before counts.
        """
        self._outside = Counts(lost_events=lost, skipped_bytes=skipped_bytes)
        rest = data
        try:
            while True:
                rest = rest[self.engine.feed(rest, self._until_ns()) :]
                if self.engine.records - self._records >= RECORDS_A_CUT:
                    self._cut(None, self._start_ns)
                later_ns = self.engine.stopped_at_ns
                if later_ns is None:
                    break
                self._go_on_to(later_ns)
        finally:
            if self.accesses is not None and self._origin_ns is not None:
                self.accesses.add(self.engine.take_requests(), self._origin_ns, self._width_ns)

    def _until_ns(self) -> int | None:
        """Where feed() has to stop next; None: no record is as late as the slice's end."""
        if self._origin_ns is None:
            return 1
        return self._end_ns if self._end_ns <= U64_MAX else None

    @property
    def _end_ns(self) -> int:
        """Where the slice at hand ends."""
        assert self._origin_ns is not None
        return self._origin_ns + (self._place + 1) * self._width_ns

    @property
    def _place(self) -> int:
        assert self._origin_ns is not None
        return (self._start_ns - self._origin_ns) // self._width_ns

    def _go_on_to(self, later_ns: int) -> None:
        """The next record is behind the slice at hand: end that, and those without a record."""
        if self._origin_ns is None:
            # Records at time 0 cannot be stopped at: they have been read by now.
            first_ns = self.engine.first_ns
            self._origin_ns = self._start_ns = later_ns if first_ns is None else first_ns
            return
        self._widen(later_ns)
        while self._end_ns <= later_ns:
            self._cut(self._end_ns, self._end_ns)

    def _widen(self, time_ns: int) -> None:
        """Make slices so long that all up to a time fit."""
        assert self._origin_ns is not None
        while (time_ns - self._origin_ns) // self._width_ns >= MOST_SLICES:
            self._width_ns *= 2
            self._slices.halve()
            if self.accesses is not None:
                self.accesses.halve()

    def _cut(self, end_ns: int | None, next_ns: int) -> None:
        cut = self.engine.snapshot(end_ns)
        counts = Counts(**self.engine.counters()) + self._outside
        self._slices.add(
            self._place,
            Interval(
                time_s=0,
                devices=in_order(cut.rows["device"]),
                snapshot=cut,
                counts=counts - self._counts,
                start_ns=self._start_ns,
                end_ns=self._start_ns if end_ns is None else end_ns,
                clock="trace",
                process_names=names_of(self.engine, cut),
                missing_files=self.missing_files,
            ),
        )
        self._counts = counts
        self._start_ns = next_ns
        self._records = self.engine.records

    def finish(self, *, is_complete: bool) -> None:
        """The stream has ended, or has been left.

        Raises:
            TraceError: it ended inside a record.
        """
        try:
            if is_complete:
                self.engine.finish()
        finally:
            self._origin_ns = self._origin_ns or 0
            end_ns = max(self.engine.now_ns, self._start_ns)
            self._cut(end_ns, end_ns)
            if self.accesses is not None:
                self.accesses.add(self.engine.take_requests(), self._origin_ns, self._width_ns)

    def slices(self) -> tuple[Interval, ...]:
        """All there are, by the time of day if the trace tells it."""
        epoch_ns = self.engine.epoch_ns
        zero_ns = (self._origin_ns or 0) if epoch_ns is None else -epoch_ns
        return tuple(
            replace(
                interval,
                time_s=(interval.end_ns - zero_ns) // NS_PER_S,
                start_ns=interval.start_ns - zero_ns,
                end_ns=interval.end_ns - zero_ns,
                anchored=epoch_ns is not None,
            )
            for interval in self._slices.merged()
        )

    @property
    def n_others(self) -> int:
        """See ``Collected``."""
        return self._slices.n_others

    def patterns(self) -> Patterns | None:
        """Where requests went."""
        return None if self.accesses is None else self.accesses.finish()


def _of_traces(names: Sequence[str], slicer: _Slicer, show_progress: bool | None) -> Collected:
    notes: list[str] = []
    failure: TraceError | SourceError | None = None
    with open_trace(names) as stream, Progress(stream.total_bytes, 2, show_progress) as bar:
        notes += stream.notes
        slicer.missing_files = stream.missing_files
        try:
            while data := stream.read():
                slicer.feed(data, stream.lost_events, stream.skipped_bytes)
                bar.show(stream.done_bytes)
        except (TraceError, SourceError) as error:
            failure = error
        # What the last piece brought along.
        slicer.feed(
            memoryview(b""), stream.lost_events, stream.skipped_bytes
        ) if not failure else None
    try:
        slicer.finish(is_complete=failure is None)
    except TraceError as error:
        failure = error
    if failure is not None:
        told = str(failure)
        if isinstance(failure, TraceError):
            file = f"{', '.join(names)}: " if failure.file is None else ""
            told = f"bad trace: {file}{failure}"
        notes.append(told)
    slices = slicer.slices()
    return Collected(
        names=tuple(names),
        kind=TRACE,
        slices=slices,
        whole=merge(slices),
        patterns=slicer.patterns(),
        notes=tuple(notes),
        is_broken=failure is not None,
        n_others=slicer.n_others,
    )


# --- files of --json ------------------------------------------------------------------------------


def _of_json(
    names: Sequence[str], slices: _Slices, devices: Sequence[int], show_progress: bool | None
) -> Collected:
    shift = 0
    readers: list[Reader] = []
    notes: list[str] = []
    try:
        for name in names:
            readers.append(Reader(Path(name)))
        sizes = [reader.total_bytes or 0 for reader in readers]
        lines = _Lines(notes)
        streams = [lines.intervals(reader) for reader in readers]
        with Progress(sum(sizes), 2, show_progress) as bar:
            for number, item in enumerate(heapq.merge(*streams, key=lambda i: i.start_ns)):
                interval = worst.only(item, devices) if devices else item
                if number >> shift >= MOST_SLICES:
                    slices.halve()
                    shift += 1
                slices.add(number >> shift, interval)
                bar.show(sum(reader.done_bytes for reader in readers))
        merged = slices.merged()
        if not merged:
            raise ReportError(notes[-1] if notes else f"{', '.join(names)}: there is no interval")
        whole = merge(merged)
    finally:
        for reader in readers:
            reader.close()
    return Collected(
        names=tuple(names),
        kind=JSON,
        slices=tuple(merged),
        whole=whole,
        notes=tuple(notes),
        is_broken=bool(notes),
        n_others=slices.n_others,
    )


class _Lines:
    """Reads intervals of files, which can be merged: of one clock, and not of too many requests.

    Args:
        notes: takes what is to be said of a file that ends inside a line.
    """

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes
        self._clock: tuple[str, bool] | None = None
        self._n_requests = 0

    def intervals(self, reader: Reader) -> Iterator[Interval]:
        """The intervals of a file; the last line of one that is still written may be a part.

        Raises:
            ReportError: a line is no interval.
        """
        for number, line in enumerate(_lines(reader), 1):
            if not line.strip():
                continue
            try:
                interval = from_dict(_parsed(line))
                self._check(interval)
            except json.JSONDecodeError as error:
                if not line.endswith(b"\n"):
                    self._notes.append(f"{reader.name}: line {number} is cut short and left out")
                    return
                why = f"not JSON: {error.msg} at column {error.colno}"
            except RecursionError:
                why = "not JSON: it is nested too deeply"
            except IntervalError as error:
                why = str(error)
            except ValueError as error:  # no UTF-8, or a number of thousands of digits
                why = f"not JSON: {error}"
            else:
                yield interval
                continue
            raise ReportError(f"{reader.name}: line {number}: {why}")

    def _check(self, interval: Interval) -> None:
        clock = interval.clock, interval.anchored
        self._clock = self._clock or clock
        if clock != self._clock:
            (name, anchored), (first, first_anchored) = clock, self._clock
            raise IntervalError(
                f"an interval of another clock ({name}, anchored {anchored}) than those before "
                f"({first}, anchored {first_anchored}): they cannot be merged"
            )
        # Not of its groups, which it would keep.
        self._n_requests += int(interval.rows["requests"].sum())
        if self._n_requests > MOST_REQUESTS:
            raise IntervalError(f"there are more than {MOST_REQUESTS} requests in all")


def _parsed(line: bytes) -> Any:
    """What a line holds. Raises ValueError or RecursionError: it is not JSON."""
    return json.loads(line, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _lines(reader: Reader) -> Iterator[bytes]:
    """Lines with their ends; a last one without.

    Raises:
        ReportError: a line is too long.
    """
    buffer = memoryview(bytearray(1 << 18))
    pieces: list[bytes] = []
    n_bytes = n_lines = 0
    while n := reader.readinto(buffer):
        *whole, rest = bytes(buffer[:n]).split(b"\n")
        for line in whole:
            yield b"".join((*pieces, line, b"\n"))
            pieces = []
            n_bytes = 0
        n_lines += len(whole)
        pieces.append(rest)
        n_bytes += len(rest)
        if n_bytes > MOST_LINE_BYTES:
            raise ReportError(
                f"{reader.name}: line {n_lines + 1} is longer than {MOST_LINE_BYTES >> 20} MiB"
            )
    if last := b"".join(pieces):
        yield last


# --- files of -b ----------------------------------------------------------------------------------


def _of_stats(names: Sequence[str], slices: _Slices, devices: Sequence[int]) -> Collected:
    parts = []
    notes = ["Files of -b hold no percentiles, no operations but reads and writes, no losses."]
    is_broken = False
    for name in names:
        try:
            if Path(name).stat().st_size > MOST_STATS_BYTES:
                raise ReportError(f"{name}: more than {MOST_STATS_BYTES >> 20} MiB of -b")
            stats = decode.parse(Path(name).read_bytes())
        except OSError as error:
            raise SourceError(f"cannot read {name}: {error.strerror}") from error
        except StatsError as error:
            raise ReportError(f"{name}: {error}") from error
        if stats.tail_bytes:
            tail = how_many(stats.tail_bytes, "byte is", "bytes are")
            notes.append(f"{name}: the last {tail} no whole struct")
            is_broken = True
        for moments in (stats.records["size_r"], stats.records["size_w"]):
            if int(moments["count"].max(initial=0)) > MOST_STATS_REQUESTS:
                raise ReportError(f"{name}: a number of requests is out of range")
        parts.append(stats.records)
    records = np.concatenate(parts)
    if devices:
        records = records[np.isin(records["device"], devices)]
    if odd := int(records["bidir"].sum()):
        neither = "neither read nor write"
        one, several = f"request was {neither}: it is", f"requests were {neither}: they are"
        notes.append(f"{how_many(odd, one, several)} left out.")
    shift = 0
    for number, interval in enumerate(_intervals_of_stats(records)):
        if number >> shift >= MOST_SLICES:
            slices.halve()
            shift += 1
        slices.add(number >> shift, interval)
    if not len(records):
        slices.add(0, Interval(time_s=0, devices=np.empty(0, np.uint32)))
    merged = slices.merged()
    return Collected(
        names=tuple(names),
        kind=STATS,
        slices=tuple(merged),
        whole=merge(merged),
        notes=tuple(notes),
        is_broken=is_broken,
        n_others=slices.n_others,
    )


def _intervals_of_stats(records: Table) -> Iterator[Interval]:
    """An interval ends when the struct says, and begins where the one before it ended."""
    records = records[np.argsort(records["time"], kind="stable")]
    ends, firsts = np.unique(records["time"], return_index=True)
    if not len(ends):
        return
    usual_s = int(np.median(np.diff(ends))) if len(ends) > 1 else 0
    starts = [int(ends[0]) - usual_s, *ends[:-1].tolist()]
    of_times = np.split(records, firsts[1:])
    for of_time, start_s, end_s in zip(of_times, starts, ends.tolist()):
        rows = np.zeros(2 * len(of_time), layout.ROW)
        for direction, letter in enumerate("rw"):
            part = rows[direction::2]
            part["device"], part["op"], part["direction"] = of_time["device"], direction, direction
            size, d2c = of_time[f"size_{letter}"], of_time[f"d2c_{letter}"]
            part["requests"] = size["count"]
            for name, moments, factor in (("size_bytes", size, 1), ("d2c_ns", d2c, 1000)):
                is_some = moments["count"] > 0
                part[name]["min"] = np.where(is_some, moments["min"] * factor, U64_MAX)
                part[name]["max"] = moments["max"] * factor
                sums = [(int(m["count"]), int(m["sum"]), int(m["sum_squares"])) for m in moments]
                part[name]["sum"] = to_words(total * factor for _, total, _ in sums)
                # 64 bits may not have held the squares.
                part[name]["sum_squares"] = to_words(
                    squared * factor**2 if total * total <= num * squared else U128_MAX
                    for num, total, squared in sums
                )
            # The histograms are of both directions: kept with the reads, for all together.
            if direction == 0:
                part["d2c_hist"], part["size_hist"] = of_time["d2c_hist"], of_time["size_hist"]
        rows = rows[(rows["requests"] > 0) | (rows["d2c_hist"].sum(axis=1) > 0)]
        for name in ("d2c_us", "throughput"):
            rows[name]["min"] = U64_MAX
        yield Interval(
            time_s=end_s,
            devices=in_order(rows["device"]),
            snapshot=Snapshot(rows=rows),
            counts=Counts(requests=int(rows["requests"].sum())),
            start_ns=start_s * NS_PER_S,
            end_ns=end_s * NS_PER_S,
            anchored=int(ends[0]) >= LEAST_TIME_S,
        )


# --- out ------------------------------------------------------------------------------------------


def check_output(
    path: Path, inputs: Sequence[str], *, follow: bool = False, overwrite: bool = False
) -> Policy:
    """Find out before long work whether a file can be there.

    Args:
        path: of the file.
        inputs: names of what is read.
        follow, overwrite: see ``Policy``.

    Returns:
        What it is to be written with.

    Raises:
        ReportError: it cannot be there, or must not be replaced.
        SourceError: one of the inputs cannot be found.
    """
    policy = Policy(follow=follow, overwrite=overwrite, inputs=input_files(inputs))
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.parent.is_dir():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        opening.check_output(str(path), policy, replaces=True)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}", EXIT_OUTPUT) from error
    return policy


def write_output(
    path: Path, write: Callable[[IO[bytes]], object], policy: Policy = opening.DEFAULT
) -> None:
    """Write a file so that it is there as a whole, or not at all.

    Raises:
        ReportError: it cannot be written.
    """
    try:
        write_whole(path, write, policy)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror or error}", EXIT_OUTPUT) from error
