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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from blkiomon import decode, layout
from blkiomon._core import Engine
from blkiomon.console import EXIT_INPUT, EXIT_OUTPUT
from blkiomon.cut import Cut, Table
from blkiomon.errors import SourceError, StatsError, TraceError
from blkiomon.groups import NS_PER_S
from blkiomon.interchange import device_text
from blkiomon.interval import Counts, Interval, in_order, merge
from blkiomon.moments import from_words, to_words
from blkiomon.monitor import RECORDS_A_CUT
from blkiomon.outputs import opening
from blkiomon.outputs.opening import Policy, write_whole
from blkiomon.progress import Progress
from blkiomon.report.access import Accesses, Patterns
from blkiomon.sources import input_files, open_trace
from blkiomon.sources.readers import Reader

MOST_SLICES = 512
"""An even number."""

FIRST_SLICE_NS = 1_000_000

MOST_STATS_BYTES = 1 << 28
"""A file of -b is read in one piece: this is months of it."""

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
    """

    names: tuple[str, ...]
    kind: str
    slices: tuple[Interval, ...]
    whole: Interval
    patterns: Patterns | None = None
    notes: tuple[str, ...] = ()
    is_broken: bool = False

    @property
    def devices(self) -> list[int]:
        """Numbers of the devices that completed requests."""
        groups = self.whole.groups()
        return sorted({g.device for g in groups if g.device is not None and g.requests})


def collect(
    names: Sequence[str],
    *,
    devices: Sequence[int] = (),
    patterns: bool = True,
    show_progress: bool | None = None,
) -> Collected:
    """Read inputs, all of one kind.

    Args:
        names: traces, as for ``open_trace``; or files of ``--json``, or of ``-b``.
        devices: numbers of those that count; all unless given.
        patterns: also find out where requests went, as far as the inputs tell.
        show_progress: see ``Progress``.

    Raises:
        ReportError: they hold nothing, or not of these devices, or are of several kinds.
        SourceError, TraceError, StatsError: they cannot be read at all.
    """
    kinds = {name: _kind(name) for name in names}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ReportError(f"inputs of different kinds cannot be put together: {listed}")
    (kind,) = set(kinds.values())
    if kind == TRACE:
        found = _of_traces(names, devices, patterns, show_progress)
    elif kind == JSON:
        found = _of_json(names, devices, show_progress)
    else:
        found = _of_stats(names, devices)
    if not found.whole.total.requests:
        _explain_nothing(found, devices)
    return found


def _explain_nothing(found: Collected, devices: Sequence[int]) -> None:
    """Say why there is no request; raises ReportError."""
    what = ", ".join(found.names)
    if found.is_broken:
        raise ReportError(found.notes[-1])
    if found.kind == TRACE and not found.whole.counts.records:
        raise ReportError(f"{what}: the trace is empty")
    if devices:
        wanted = ", ".join(map(device_text, devices))
        there = collect(found.names, patterns=False).devices if "-" not in found.names else []
        has = f"; there are some of {', '.join(map(device_text, there))}" if there else ""
        raise ReportError(f"{what}: no request of {wanted}{has}")
    if found.kind == TRACE:
        raise ReportError(
            f"{what}: no request in {found.whole.counts.records} records: it takes both the issue "
            "and the completion of one (blktrace -a issue -a complete)"
        )
    raise ReportError(f"{what}: there is no request in it")


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
    """Intervals in order of time, put together so that there are at most ``MOST_SLICES``."""

    MOST_PARTS = 8  # merging many at once is cheaper than one by one

    def __init__(self) -> None:
        self._places: list[int] = []
        self._parts: list[list[Interval]] = []  # of each place

    def add(self, place: int, interval: Interval) -> None:
        """Add one at its place, which is that of the latest one, or a later one."""
        self._add(place, [interval])

    def _add(self, place: int, parts: list[Interval]) -> None:
        if not self._places or self._places[-1] != place:
            self._places.append(place)
            self._parts.append([])
        latest = self._parts[-1]
        latest += parts
        if len(latest) > self.MOST_PARTS:
            latest[:] = [merge(latest)]

    def halve(self) -> None:
        """Each two places become one."""
        places, self._places = self._places, []
        parts, self._parts = self._parts, []
        for place, of_place in zip(places, parts):
            self._add(place // 2, of_place)

    def merged(self) -> list[Interval]:
        """One interval of each place."""
        return [parts[0] if len(parts) == 1 else merge(parts) for parts in self._parts]


# --- traces ---------------------------------------------------------------------------------------


class _Slicer:
    """A trace's bytes in, slices out.

    Not a ``Monitor``, as that has to be told the length of its intervals before.
    """

    def __init__(self, devices: Sequence[int], patterns: bool) -> None:
        self.engine = Engine(devices=devices, keep_requests=patterns)
        self.accesses = Accesses(MOST_SLICES) if patterns else None
        self._slices = _Slices()
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
        self._outside = Counts(lost=lost, skipped_bytes=skipped_bytes)
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

    def _until_ns(self) -> int:
        return 1 if self._origin_ns is None else min(self._end_ns, (1 << 64) - 1)

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
            self._origin_ns = self._start_ns = 0 if self._has_records() else later_ns
            return
        self._widen(later_ns)
        while self._end_ns <= later_ns:
            self._cut(self._end_ns, self._end_ns)

    def _has_records(self) -> bool:
        return self.engine.counters()["records"] > 0

    def _widen(self, time_ns: int) -> None:
        """Make slices so long that all up to a time fit."""
        assert self._origin_ns is not None
        while (time_ns - self._origin_ns) // self._width_ns >= MOST_SLICES:
            self._width_ns *= 2
            self._slices.halve()
            if self.accesses is not None:
                self.accesses.halve()

    def _cut(self, end_ns: int | None, next_ns: int) -> None:
        cut = self.engine.cut(end_ns)
        counts = Counts(**self.engine.counters()) + self._outside
        self._slices.add(
            self._place,
            Interval(
                time_s=0,
                devices=in_order(cut.rows["device"]),
                cut=cut,
                counts=counts - self._counts,
                start_ns=self._start_ns,
                end_ns=self._start_ns if end_ns is None else end_ns,
                clock="trace",
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
                is_anchored=epoch_ns is not None,
            )
            for interval in self._slices.merged()
        )

    def patterns(self) -> Patterns | None:
        """Where requests went."""
        return None if self.accesses is None else self.accesses.finish()


def _of_traces(
    names: Sequence[str], devices: Sequence[int], patterns: bool, show_progress: bool | None
) -> Collected:
    notes: list[str] = []
    slicer = _Slicer(devices, patterns)
    failure: TraceError | SourceError | None = None
    with open_trace(names) as stream, Progress(stream.total_bytes, 2, show_progress) as bar:
        notes += stream.notes
        try:
            while data := stream.read():
                slicer.feed(data, stream.lost, stream.skipped_bytes)
                bar.show(stream.done_bytes)
        except (TraceError, SourceError) as error:
            failure = error
        # What the last piece brought along.
        slicer.feed(memoryview(b""), stream.lost, stream.skipped_bytes) if not failure else None
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
    )


# --- files of --json ------------------------------------------------------------------------------


def _of_json(names: Sequence[str], devices: Sequence[int], show_progress: bool | None) -> Collected:
    slices = _Slices()
    shift = 0
    readers: list[Reader] = []
    notes: list[str] = []
    try:
        for name in names:
            readers.append(Reader(Path(name)))
        sizes = [reader.total_bytes or 0 for reader in readers]
        streams = [_intervals(reader, notes) for reader in readers]
        with Progress(sum(sizes), 2, show_progress) as bar:
            try:
                for number, item in enumerate(heapq.merge(*streams, key=lambda i: i.start_ns)):
                    interval = _only(item, devices) if devices else item
                    if number >> shift >= MOST_SLICES:
                        slices.halve()
                        shift += 1
                    slices.add(number >> shift, interval)
                    bar.show(sum(reader.done_bytes for reader in readers))
                merged = slices.merged()
                whole = merge(merged)
            except ValueError as error:  # of merge
                raise ReportError(f"{', '.join(names)}: {error}") from error
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
    )


def _intervals(reader: Reader, notes: list[str]) -> Iterator[Interval]:
    """The intervals of a file; the last line of one that is still written may be a part."""
    for number, line in enumerate(_lines(reader), 1):
        if not line.strip():
            continue
        try:
            yield Interval.from_dict(json.loads(line))
        except (ValueError, RecursionError) as error:
            why = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            if not line.endswith(b"\n"):
                notes.append(f"{reader.name}: line {number} is cut short and left out")
                return
            raise ReportError(f"{reader.name}: line {number}: {why}") from error


def _lines(reader: Reader) -> Iterator[bytes]:
    """Lines with their ends; a last one without."""
    buffer = memoryview(bytearray(1 << 18))
    pieces: list[bytes] = []
    while n := reader.readinto(buffer):
        *whole, rest = bytes(buffer[:n]).split(b"\n")
        for line in whole:
            yield b"".join((*pieces, line, b"\n"))
            pieces = []
        pieces.append(rest)
    if last := b"".join(pieces):
        yield last


def _only(interval: Interval, devices: Sequence[int]) -> Interval:
    """What an interval says of some devices.

    What was not seen, and by whom, is not known by device. Of several devices the most that were
    in flight at once is not known either: it is that of the busiest.
    """
    cut = interval.cut
    rows, (d2c_bins, size_bins) = _picked(cut.rows, (cut.d2c_bins, cut.size_bins), devices)
    queue_rows, (q2d_bins, q2c_bins) = _picked(
        cut.queue_rows, (cut.q2d_bins, cut.q2c_bins), devices
    )
    loads = cut.loads[np.isin(cut.loads["device"], devices)]
    if len(cut.loads):
        loads = np.append(loads, _all_of(loads[loads["op"] == layout.ALL_OPS]))
    return replace(
        interval,
        devices=interval.devices[np.isin(interval.devices, devices)],
        cut=Cut(
            rows=rows,
            d2c_bins=d2c_bins,
            size_bins=size_bins,
            loads=loads,
            queue_rows=queue_rows,
            q2d_bins=q2d_bins,
            q2c_bins=q2c_bins,
        ),
        counts=replace(interval.counts, matches=int(rows["requests"].sum())),
    )


def _all_of(loads: Table) -> Table:
    """One row of all devices."""
    row = np.zeros(1, layout.LOAD)
    row["op"] = layout.EVERYTHING
    if len(loads):
        row["in_flight"] = loads["in_flight"].sum()
        row["max_in_flight"] = loads["max_in_flight"].max()
        row["oldest_ns"] = loads["oldest_ns"].max()
        row["in_flight_ns"] = to_words([sum(from_words(loads["in_flight_ns"]).tolist())])
    return row


def _picked(
    rows: Table, bins: Iterable[Table], devices: Sequence[int]
) -> tuple[Table, list[Table]]:
    keep = np.isin(rows["device"], devices)
    place = np.cumsum(keep) - 1
    picked = []
    for table in bins:
        part = table[keep[table["row"]]].copy()
        part["row"] = place[part["row"]]
        picked.append(part)
    return rows[keep], picked


# --- files of -b ----------------------------------------------------------------------------------


def _of_stats(names: Sequence[str], devices: Sequence[int]) -> Collected:
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
            notes.append(f"{name}: the last {stats.tail_bytes} bytes are no whole struct")
            is_broken = True
        parts.append(stats.records)
    records = np.concatenate(parts)
    if devices:
        records = records[np.isin(records["device"], devices)]
    if odd := int(records["bidir"].sum()):
        notes.append(f"{odd} requests were neither read nor write: they are left out.")
    slices = _Slices()
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
    )


def _intervals_of_stats(records: Table) -> Iterator[Interval]:
    """An interval ends when the struct says, and begins where the one before it ended."""
    ends, place = np.unique(records["time"], return_inverse=True)
    if not len(ends):
        return
    usual_s = int(np.median(np.diff(ends))) if len(ends) > 1 else 0
    starts = [int(ends[0]) - usual_s, *ends[:-1].tolist()]
    for index, (start_s, end_s) in enumerate(zip(starts, ends.tolist())):
        of_time = records[place == index]
        rows = np.zeros(2 * len(of_time), layout.ROW)
        for direction, letter in enumerate("rw"):
            part = rows[direction::2]
            part["device"], part["op"], part["direction"] = of_time["device"], direction, direction
            size, d2c = of_time[f"size_{letter}"], of_time[f"d2c_{letter}"]
            part["requests"] = size["num"]
            for name, moments, factor in (("size_bytes", size, 1), ("d2c_ns", d2c, 1000)):
                is_some = moments["num"] > 0
                part[name]["min"] = np.where(is_some, moments["min"] * factor, (1 << 64) - 1)
                part[name]["max"] = moments["max"] * factor
                part[name]["sum"] = to_words(int(v) * factor for v in moments["sum"])
                part[name]["squ"] = to_words(int(v) * factor**2 for v in moments["squ"])
            # The histograms are of both directions: kept with the reads, for all together.
            if direction == 0:
                part["d2c_hist"], part["size_hist"] = of_time["d2c_hist"], of_time["size_hist"]
        rows = rows[(rows["requests"] > 0) | (rows["d2c_hist"].sum(axis=1) > 0)]
        for name in ("d2c_us", "throughput"):
            rows[name]["min"] = (1 << 64) - 1
        yield Interval(
            time_s=end_s,
            devices=in_order(rows["device"]),
            cut=Cut(rows=rows),
            counts=Counts(matches=int(rows["requests"].sum())),
            start_ns=start_s * NS_PER_S,
            end_ns=end_s * NS_PER_S,
            is_anchored=int(ends[0]) >= LEAST_TIME_S,
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
