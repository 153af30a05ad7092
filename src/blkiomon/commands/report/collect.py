"""Read inputs of any size in one pass, into slices of time of bounded size."""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypedDict, Unpack

import numpy as np

from blkiomon._core import Engine
from blkiomon.commands.config import ALL_REQUESTS
from blkiomon.commands.naming import distinct_names, refuse_devices
from blkiomon.commands.no_requests import ONLY_NOTES
from blkiomon.commands.options import Period, Selection
from blkiomon.commands.progress import Progress
from blkiomon.commands.report import selection
from blkiomon.commands.report.access import Accesses, Patterns
from blkiomon.commands.report.slices import MOST_DEVICES, MOST_SLICES, Slices
from blkiomon.commands.views import left_out_text
from blkiomon.console import EXIT_INPUT, EXIT_OUTPUT, how_many, printable
from blkiomon.engine.constants import NOTIFY, OPS
from blkiomon.engine.snapshot import Table
from blkiomon.errors import SourceError, TraceError
from blkiomon.formats.stats_reader import begins_like_stats
from blkiomon.formats.units import device_text, time_text, utc
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.moments import distinct
from blkiomon.interval.monitor import MAX_AGE_S, Monitor
from blkiomon.interval.value import Interval, merge
from blkiomon.interval.views import View, devices_of
from blkiomon.library import counted
from blkiomon.outputs import opening
from blkiomon.outputs.opening import Policy, write_whole
from blkiomon.sources import input_files, open_trace
from blkiomon.sources.file_kinds import HEAD_BYTES
from blkiomon.sources.readers import Reader
from blkiomon.sources.topology import Topology
from blkiomon.sources.trace_sets import find_members

if TYPE_CHECKING:
    from blkiomon.commands.report.cells import Cells


class Resolution(NamedTuple):
    """How finely a trace is cut into slices.

    Attributes:
        first_ns: length of a slice at first; it doubles whenever there are too many.
        most: number of slices.
        most_devices: devices that have rows of their own.
    """

    first_ns: int
    most: int
    most_devices: int = MOST_DEVICES


RESOLUTION = Resolution(1_000_000, MOST_SLICES)

MOST_BYTES = 3 << 26
"""Limit of the memory of all slices, about; a report takes less than 1 GB, whatever the input."""

PROBE_BYTES = 1 << 16

GAP_NS = NS_PER_S
"""Files that follow each other within this time are parts of one run."""

ALWAYS = Period()

Gap = tuple[int, int]
"""Begin and end, ns."""

IN_TURN = "The files do not contain the time of day: they are shown one after another."

TRACE, JSON, STATS = "trace", "JSON Lines", "statistics of -b"


class Limits(TypedDict, total=False):
    """How a trace is read; see ``Monitor``."""

    max_age_s: float
    max_pending: int
    max_devices: int
    resync: bool


class ReportError(Exception):
    """A report cannot be made; the text says why.

    Attributes:
        status: the exit status.
    """

    def __init__(self, text: str, status: int = EXIT_INPUT) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The figures of some inputs.

    Attributes:
        names: of the inputs, as they were given.
        kind: of all of them: ``TRACE``, ``JSON`` or ``STATS``.
        slices: in the order of time.
        whole: all of them as one interval.
        patterns: where requests went; None where the inputs do not say.
        notes: what the reader of the figures should know.
        is_broken: an input is incomplete or damaged; the last of ``notes`` says how.
        n_others: devices without rows of their own: they are one, ``selection.OTHERS``.
        gaps: when nothing was recorded between two runs, by the clock of the slices.
        topology: of the traced host; None if it is not known.
        device_names: of the traced host, or of the groups of a view, by number; empty if they are
            not known.
        selection: which requests count.
        by: what the slices are of, see ``Interval.by``.
        identities: by number, what identifies the groups of a view in other runs, and a name that
            says so; see ``View.identity``.
    """

    names: tuple[str, ...]
    kind: str
    slices: tuple[Interval, ...]
    whole: Interval
    patterns: Patterns | None = None
    notes: tuple[str, ...] = ()
    is_broken: bool = False
    n_others: int = 0
    gaps: tuple[Gap, ...] = ()
    topology: Topology | None = None
    device_names: Mapping[int, str] = field(default_factory=dict)
    selection: Selection = ALL_REQUESTS
    by: str = "device"
    identities: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def of_host(self, topology: Topology | None) -> Collected:
        """The same with the topology of the traced host, if that is known."""
        if self.by not in ("device", "path"):
            return self  # findings use a topology to compare paths, which these figures lack
        names = self.device_names or ({} if topology is None else topology.names())
        notes = self.notes
        if self.requests_once(topology) < self.whole.total.requests:
            notes = (
                "A map and its paths carry the same requests, and both count here: --by lun or "
                "--by path counts each request once.",
                *notes,
            )
        return replace(self, topology=topology, device_names=names, notes=notes)

    def requests_once(self, topology: Topology | None) -> int:
        """How many requests completed; one that was on a map and its path counts once."""
        if topology is None or self.by != "device":
            return self.whole.total.requests
        return View(topology, "lun")(self.whole).total.requests

    def label(self, number: int) -> str:
        """The name of a device or a group, or its number."""
        return printable(self.device_names.get(number) or device_text(number))

    @cached_property
    def cells(self) -> Cells:
        """The figures by slice, device and operation."""
        from blkiomon.commands.report.cells import cells_of  # slow to import

        return cells_of(self.slices)

    @property
    def scope(self) -> str:
        """What the figures are of, such as ``only 8:16, read; by path``; empty: of everything."""
        only = f"only {self.selection.text}" if self.selection.text else ""
        by = f"by {self.by}" if self.by != "device" else ""
        return "; ".join(filter(None, (only, by)))

    @property
    def devices(self) -> list[int]:
        """Numbers of the devices that completed requests, and have rows of their own."""
        groups = self.whole.groups()
        found = {g.device for g in groups if g.device is not None and g.requests}
        return sorted(found - ({selection.OTHERS} if self.n_others else set()))


def collect(
    names: Sequence[str],
    *,
    devices: Sequence[int] = (),
    ops: Sequence[str] = (),
    period: Period = ALWAYS,
    view: View | None = None,
    patterns: bool = True,
    show_progress: bool | None = None,
    n_runs: int = 1,
    **limits: Unpack[Limits],
) -> Collected:
    """Read inputs, all of one kind.

    Args:
        names: traces, as for ``open_trace``; or files of ``--json``, or of ``-b``. A file that is
            named several times counts once.
        devices: numbers of the devices that count; empty: all.
        ops: operations that count; empty: all.
        period: when; of intervals those that begin in it.
        view: adds up what belongs together; None: all is by device.
        patterns: whether to find out where requests went, if the inputs say so.
        show_progress: see ``Progress``.
        n_runs: how many runs are collected, which share the memory.
        limits: of traces alone.

    Raises:
        ReportError: no request is in the inputs, or none of these devices and operations, or the
            inputs are of several kinds.
        SourceError, TraceError: an input cannot be read at all.
    """
    refuse_devices(names)
    names = distinct_names(names)
    kinds = {name: _kind(name) for name in names}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ReportError(f"inputs of different kinds cannot be put together: {listed}")
    (kind,) = set(kinds.values())
    slices = Slices(MOST_BYTES // n_runs, RESOLUTION.most, RESOLUTION.most_devices)
    selected = Selection(tuple(devices), tuple(ops), period)
    if kind == TRACE:
        found = _of_traces(names, slices, selected, view, patterns, limits, show_progress)
    elif kind == JSON:
        found = _of_json(names, slices, selected, view, show_progress)
    else:
        found = _of_stats(names, slices, selected, view)
    if not found.whole.total.requests:
        if view is not None and (left_out := left_out_text(view.left_out)):
            raise ReportError(f"{', '.join(names)}: no request by {view.by}. {left_out}")
        _explain_nothing(found, selected, limits)
    # Intervals may have been written with --op.
    found = replace(found, selection=selected._replace(ops=found.whole.only_ops))
    return found if view is None else _named(found, view)


def _named(found: Collected, view: View) -> Collected:
    """The figures of a view with the names of its groups, and what they leave out."""
    numbers = [n for n in devices_of(found.whole).tolist() if n != selection.OTHERS]
    notes = [text for text in (left_out_text(view.left_out),) if text]
    if view.by == "path" and view.has_maps:
        notes.append("Multipath maps are left out: --by lun shows them.")
    return replace(
        found,
        by=view.by,
        device_names={n: view.name_of(n) or device_text(n) for n in numbers},
        identities={n: view.identity(n) for n in numbers},
        notes=(*notes, *found.notes),
    )


def _collected(
    names: Sequence[str],
    kind: str,
    slices: Slices,
    notes: Sequence[str],
    *,
    is_broken: bool,
    gaps: Iterable[Gap] = (),
    monitor: Monitor | None = None,
    patterns: Patterns | None = None,
) -> Collected:
    """Collect the slices of a run, with times of day if the trace contains one anywhere.

    Args:
        gaps: by trace time if there is a monitor, else by the clock of the slices.
    """
    merged = slices.merged()
    shift_ns = 0
    if monitor is not None:
        merged = list(map(monitor.anchor, merged))
        shift_ns = -(monitor.origin_ns or 0)
        if merged[0].anchored:
            shift_ns = monitor.engine.epoch_ns or 0
    whole = merge(merged)
    gaps = tuple((begin + shift_ns, end + shift_ns) for begin, end in gaps)
    gaps = tuple(gap for gap in gaps if whole.start_ns < gap[1] and gap[0] < whole.end_ns)
    if gap_ns := sum(end - begin for begin, end in gaps):
        text = f"Between runs, nothing was recorded for {time_text(gap_ns)}"
        notes = (f"{text}; rates count this time, too.", *notes)
    if slices.n_others:
        n_own = int((devices_of(whole) != selection.OTHERS).sum())
        waited = f"On the {n_own} with rows, requests waited longest, in all or on average."
        notes = (f"{slices.others_text}. {waited}", *notes)
    return Collected(
        names=tuple(names),
        kind=kind,
        slices=tuple(merged),
        whole=whole,
        patterns=patterns,
        notes=tuple(notes),
        is_broken=is_broken,
        n_others=slices.n_others,
        gaps=gaps,
    )


def _explain_nothing(found: Collected, selected: Selection, limits: Limits) -> None:
    """Raises ReportError: it says why there is no request."""
    devices, ops, period = selected
    what = ", ".join(found.names)
    counts = found.whole.counts
    if found.is_broken:
        raise ReportError(found.notes[-1])
    if ops and "-" not in found.names:
        whole = collect(found.names, devices=devices, period=period, patterns=False, **limits).whole
        there = {group.op for group in whole.groups() if group.requests}
        has = f"; there are some of {', '.join(op for op in OPS if op in there)}"
        raise ReportError(f"{what}: no request of operation {', '.join(ops)}{has}")
    if period != ALWAYS and "-" not in found.names:
        whole = collect(found.names, devices=devices, patterns=False, **limits).whole
        span = time_text(whole.end_ns - whole.start_ns)
        if whole.anchored:
            span += f", from {utc(whole.start_ns)} to {utc(whole.end_ns)}"
        raise ReportError(f"{what}: no request between --from and --to; it lasts {span}")
    if found.kind == TRACE and not counts.records:
        is_empty = not counts.skipped_bytes
        raise ReportError(f"{what}: {'the trace is empty' if is_empty else 'no record in it'}")
    if devices:
        wanted = ", ".join(map(device_text, devices))
        others = []
        if "-" not in found.names:
            others = collect(found.names, patterns=False, **limits).devices
        has = f"; there are some of {listed(others)}" if others else ""
        raise ReportError(f"{what}: no request of {wanted}{has}")
    if ops:
        raise ReportError(f"{what}: no request of operation {', '.join(ops)}")
    if found.kind != TRACE:
        raise ReportError(f"{what}: no request in it")
    why = "a request needs its issue and its completion (blktrace -a issue -a complete)"
    if counts.evicted:
        max_age_s = limits.get("max_age_s", MAX_AGE_S)
        evicted = how_many(counts.evicted, "issue or completion has", "issues and completions have")
        why = f"{evicted} no partner within {max_age_s:g} s; --max-age allows more time"
    records = how_many(counts.records, "record", "records")
    raise ReportError(f"{what}: no request in {records}: {why}")


def listed(devices: Sequence[int], name_of: Callable[[int], str] = device_text) -> str:
    """Devices as text; of many the first ones."""
    shown = ", ".join(map(name_of, devices[:20]))
    return shown if len(devices) <= 20 else f"{shown} and {len(devices) - 20} more"


def _kind(name: str) -> str:
    """The kind of a file by its first bytes; what is neither of the other two is a trace."""
    path = Path(name)
    try:
        is_file = name != "-" and path.is_file()
    except OSError:  # opening it explains that
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
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"cannot open {name}: {error.strerror}") from error
    if head.lstrip()[:1] == b"{":
        return JSON
    return STATS if begins_like_stats(head) else TRACE


class Span(NamedTuple):
    """When a set of files was recorded, by its first and last records.

    Attributes:
        first_ns, last_ns: trace time; the last one is None in compressed files: it is unknown.
        devices: numbers of those with records at the beginning or the end.
    """

    first_ns: int
    last_ns: int | None
    devices: frozenset[int] = frozenset()


def spans(names: Sequence[str]) -> list[Span]:
    """The span of each set of files of a trace; none if that is not in files."""
    sets: dict[tuple[Path, str], list[Span]] = {}
    for member in find_members(names).members:
        if member.path is None or not member.path.is_file():
            return []
        try:
            found = _span_of(member.path)
        except (OSError, SourceError):  # opening the trace reports it
            return []
        if found is not None:
            sets.setdefault((member.path.parent, member.base), []).append(found)
    made = []
    for of_files in sets.values():
        lasts = [span.last_ns for span in of_files if span.last_ns is not None]
        last_ns = max(lasts) if len(lasts) == len(of_files) else None
        devices = frozenset[int]().union(*(span.devices for span in of_files))
        made.append(Span(min(span.first_ns for span in of_files), last_ns, devices))
    return sorted(made, key=lambda span: span.first_ns)


def _span_of(path: Path) -> Span | None:
    """The span of a file; None: no record was found in it."""
    head = bytearray(PROBE_BYTES)
    reader = Reader(path)
    try:
        head = head[: reader.readinto(memoryview(head))]
    finally:
        reader.close()
    first = _probed(head)
    if first is None:
        return None
    with path.open("rb") as file:
        if file.read(len(head)) != head:  # it is compressed
            return first._replace(last_ns=None)
        file.seek(max(0, path.stat().st_size - PROBE_BYTES))
        last = _probed(file.read(PROBE_BYTES)) or first
    return Span(first.first_ns, last.last_ns, first.devices | last.devices)


def _probed(part: bytes | bytearray) -> Span | None:
    """The span of the records in a part of a trace; None without a record."""
    probe = Engine(keep_records=True, resync=True)
    probe.feed(part)
    records = probe.take_records()
    records = records[records["action"] & NOTIFY == 0]
    if not len(records):
        return None
    first_ns, last_ns = (int(records["time_ns"][at]) for at in (0, -1))
    return Span(first_ns, last_ns, frozenset(distinct(records["device"]).tolist()))


def length_ns(found: Sequence[Span]) -> int:
    """How long a trace of these spans lasts; 0: unknown. It sets the first length of slices."""
    lasts = [span.last_ns for span in found if span.last_ns is not None]
    return max(lasts) - found[0].first_ns if len(lasts) == len(found) and found else 0


def gaps_between(found: Sequence[Span]) -> Iterator[Gap]:
    """The times between runs, when nothing was recorded."""
    until_ns: int | None = None
    for place, span in enumerate(found):
        if place and (until_ns is None or span.first_ns - until_ns > GAP_NS):
            yield span.first_ns if until_ns is None else until_ns, span.first_ns
        if span.last_ns is None or (place and until_ns is None):
            until_ns = None
        else:
            until_ns = max(until_ns or 0, span.last_ns)


def _of_traces(
    names: Sequence[str],
    slices: Slices,
    selected: Selection,
    view: View | None,
    patterns: bool,
    limits: Limits,
    show_progress: bool | None,
) -> Collected:
    start_ns: int | None = None
    recorded = spans(names)
    first_ns = RESOLUTION.first_ns
    while first_ns * RESOLUTION.most < length_ns(recorded):
        first_ns *= 2
    if selected.period == ALWAYS:
        slices.n_expected = -(-length_ns(recorded) // first_ns)
    accesses = Accesses(RESOLUTION.most, first_ns) if patterns else None
    if view is not None:  # a map and its paths must not be taken for one another at first
        known = frozenset[int]().union(*(span.devices for span in recorded))
        known &= set(selected.devices) or known
        view.add_traced(known)

    def hand_over(interval: Interval) -> None:
        nonlocal start_ns
        start_ns = interval.start_ns if start_ns is None else start_ns
        position = (interval.start_ns - start_ns) // first_ns
        slices.add(position, _seen(interval, view))
        # Shorter intervals than slices would only be merged.
        monitor.interval_ns = max(monitor.interval_ns or 0, first_ns << slices.halvings)

    def take_requests() -> None:
        if accesses is not None:
            requests = monitor.engine.take_requests()
            if selected.ops:
                wanted = [OPS.index(op) for op in selected.ops]
                requests = requests[np.isin(requests["op"], wanted)]
            if view is not None:
                requests = _requests_seen(requests, view)
            accesses.add(requests, monitor.origin_ns or 0)

    monitor = Monitor(
        first_ns / NS_PER_S,
        most_intervals=RESOLUTION.most,
        hand_over=hand_over,
        keep_requests=accesses is not None,
        **limits,
        **selected.arguments(),
    )
    failure: TraceError | SourceError | None = None
    with (
        open_trace(names, resync=limits.get("resync", False), sorts=True) as stream,
        Progress(stream.total_bytes, is_shown=show_progress) as bar,
    ):
        notes = list(stream.notes)
        try:
            for data in counted(stream, monitor):
                monitor.feed(data)
                take_requests()
                bar.show(stream.done_bytes)
                if monitor.is_done:
                    break
        except (TraceError, SourceError) as error:
            failure = error
    try:
        monitor.finish(is_complete=failure is None)
    except TraceError as error:
        failure = error
    take_requests()
    if n_skipped := monitor.totals.skipped_bytes:
        skipped = how_many(n_skipped, "byte that is not a record", "bytes that are not records")
        notes.append(f"bad trace: {', '.join(names)}: skipped {skipped}")
    if failure is None and monitor.totals.records and monitor.origin_ns is None:
        raise ReportError(f"{', '.join(names)}: {ONLY_NOTES}")
    if isinstance(failure, TraceError):
        file = f"{', '.join(names)}: " if failure.file is None else ""
        notes.append(f"bad trace: {file}{failure}")
    elif failure is not None:
        notes.append(str(failure))
    return _collected(
        names,
        TRACE,
        slices,
        notes,
        is_broken=failure is not None,
        gaps=gaps_between(recorded),
        monitor=monitor,
        patterns=None if accesses is None else _meaningful(accesses.finish(), view),
    )


def _meaningful(patterns: Patterns, view: View | None) -> Patterns:
    """What patterns say of a view: sectors of several LUNs do not make one pattern."""
    if view is None or view.by in ("lun", "path"):
        return patterns
    counts = np.zeros_like(patterns.counts)
    return replace(patterns, sample=patterns.sample[:0], counts=counts, shares={})


def _seen(interval: Interval, view: View | None) -> Interval:
    """The view of an interval, without the maps beside its paths."""
    return interval if view is None else replace(view(interval), maps=None)


def _requests_seen(requests: Table, view: View) -> Table:
    """Requests with the numbers of groups in place of devices; without those that have no group."""
    numbers = distinct(requests["device"])
    groups = list(view.groups_of(numbers).values())
    place = np.searchsorted(numbers, requests["device"])
    requests = requests.copy()
    requests["device"] = np.array([group or 0 for group in groups], np.uint32)[place]
    is_kept = np.array([group is not None for group in groups], bool)
    return requests.compress(is_kept[place])


def _of_json(
    names: Sequence[str],
    slices: Slices,
    selected: Selection,
    view: View | None,
    show_progress: bool | None,
) -> Collected:
    from blkiomon.commands.report.json_input import JsonIntervals  # slow to import

    source = JsonIntervals()
    readers: list[Reader] = []
    n_intervals = 0
    gaps: list[Gap] = []
    end_ns: int | None = None
    try:
        for name in names:
            readers.append(Reader(Path(name)))
        total_bytes = sum(reader.total_bytes or 0 for reader in readers)
        merged = _in_order_of_time([source.read(reader) for reader in readers], source.notes)
        with Progress(total_bytes, is_shown=show_progress) as bar:
            for n_intervals, item in enumerate(_within(selected.period, merged), 1):
                if end_ns is not None and item.start_ns - end_ns > GAP_NS:
                    gaps.append((end_ns, item.start_ns))
                end_ns = max(end_ns or 0, item.end_ns)
                if view is not None and item.by != "device":
                    is_by = f"its intervals are by {item.by}, omit --by"
                    raise ReportError(f"{', '.join(names)}: {is_by}")
                if selected.devices:
                    item = selection.select_devices(item, selected.devices)
                slices.add(n_intervals - 1, _seen(item.only(selected.ops), view))
                bar.show(sum(reader.done_bytes for reader in readers))
    finally:
        for reader in readers:
            reader.close()
    notes = source.notes
    if not n_intervals:
        raise ReportError(notes[-1] if notes else f"{', '.join(names)}: no interval in it")
    is_broken = notes[-1:] not in ([], [IN_TURN])
    return _collected(names, JSON, slices, notes, is_broken=is_broken, gaps=gaps)


def _in_order_of_time(files: Sequence[Iterator[Interval]], notes: list[str]) -> Iterator[Interval]:
    """The intervals of several files; without the time of day, one file's after another's."""
    begun = [(first, rest) for rest in files if (first := next(rest, None)) is not None]
    if len(begun) < 2 or begun[0][0].anchored:
        each = (chain([first], rest) for first, rest in begun)
        yield from heapq.merge(*each, key=lambda item: item.start_ns)
        return
    notes.append(IN_TURN)
    end_ns: int | None = None
    for first, rest in begun:
        shift_ns = 0 if end_ns is None else end_ns - first.start_ns
        for item in chain([first], rest):
            end_ns = item.end_ns + shift_ns
            yield replace(
                item,
                start_ns=item.start_ns + shift_ns,
                end_ns=end_ns,
                named_ns={pid: time_ns + shift_ns for pid, time_ns in item.named_ns.items()},
            )


def _within(period: Period, intervals: Iterable[Interval]) -> Iterator[Interval]:
    """The intervals that begin in a period.

    Raises:
        ReportError: the period is by the time of day, which the intervals do not have.
    """
    zero_ns: int | None = None
    for item in intervals:
        if period.is_absolute and not item.anchored:
            raise ReportError(
                "the intervals do not contain the time of day; give --from and --to in seconds"
            )
        if zero_ns is None:
            zero_ns = 0 if period.is_absolute else item.start_ns
        begin_ns = item.start_ns - zero_ns
        if period.to_ns is not None and begin_ns >= period.to_ns:
            return
        if begin_ns >= (period.from_ns or 0):
            yield item


def _of_stats(
    names: Sequence[str], slices: Slices, selected: Selection, view: View | None
) -> Collected:
    from blkiomon.commands.report import stats_input  # slow to import

    structs, broken = stats_input.read_structs(names, selected.devices)
    notes = ["Files of -b hold no percentiles, no counts of lost events, only reads and writes."]
    if odd := int(structs["bidir"].sum()):
        neither = "neither read nor write"
        one, several = f"request was {neither}: it is", f"requests were {neither}: they are"
        notes.append(f"{how_many(odd, one, several)} left out.")
    notes += broken
    if selected.ops:  # these histograms are of reads and writes together
        structs["d2c_hist"] = structs["size_hist"] = 0
    intervals = _within(selected.period, stats_input.intervals_of(structs))
    for number, interval in enumerate(intervals):
        slices.add(number, _seen(interval.only(selected.ops), view))
    return _collected(names, STATS, slices, notes, is_broken=bool(broken))


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
    refuse_devices(inputs)
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
