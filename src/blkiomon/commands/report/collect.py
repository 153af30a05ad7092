"""Read inputs of any size in one pass, into slices of time of bounded size."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

import numpy as np

from blkiomon.commands.naming import distinct_names, refuse_devices
from blkiomon.commands.no_requests import ONLY_NOTES
from blkiomon.commands.options import Period, Selection
from blkiomon.commands.progress import Progress
from blkiomon.commands.report import selection
from blkiomon.commands.report.access import Accesses, Patterns
from blkiomon.commands.report.collected import JSON, STATS, TRACE, Collected, listed
from blkiomon.commands.report.findings import hung_devices
from blkiomon.commands.report.slices import MOST_DEVICES, MOST_SLICES, Slices
from blkiomon.commands.report.spans import GAP_NS, Gap, gaps_between, head_of, length_ns, spans
from blkiomon.commands.views import left_out_text
from blkiomon.console import how_many
from blkiomon.engine.constants import OPS
from blkiomon.engine.snapshot import Table
from blkiomon.errors import ReportError, SourceError, TraceError
from blkiomon.formats.stats_reader import begins_like_stats
from blkiomon.formats.units import device_text, time_text, utc
from blkiomon.interval.dropped import Dropped
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.moments import distinct
from blkiomon.interval.monitor import MAX_AGE_S, MOST_PENDING, Monitor
from blkiomon.interval.value import Interval, merge
from blkiomon.interval.views import View, devices_of
from blkiomon.library import counted
from blkiomon.sources import open_trace
from blkiomon.sources.file_kinds import HEAD_BYTES, begins_like_topology
from blkiomon.sources.readers import Reader


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

ALWAYS = Period()

IN_TURN = "The files do not contain the time of day: they are shown one after another."


class Limits(TypedDict, total=False):
    """How a trace is read; see ``Monitor``."""

    max_age_s: float
    max_pending: int
    max_devices: int
    resync: bool


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
        patterns: whether to find out where requests went, if the inputs say so, and to keep the
            figures by device beside those of a view.
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
    has_both = view is not None and patterns
    bounds = MOST_BYTES // n_runs // (2 if has_both else 1), *RESOLUTION[1:]
    slices = Slices(*bounds, view, Slices(*bounds) if has_both else None)
    selected = Selection(tuple(devices), tuple(ops), period)
    if kind == TRACE:
        found = _of_traces(names, slices, selected, view, patterns, limits, show_progress)
    elif kind == JSON:
        found = _of_json(names, slices, selected, view, show_progress)
    else:
        found = _of_stats(names, slices, selected)
    if not found.whole.total.requests:
        if view is not None and (left_out := left_out_text(view.left_out)):
            raise ReportError(f"{_joined(names)}: no request by {view.by}. {left_out}")
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
        about={n: view.about(n) for n in numbers},
        notes=(*notes, *found.notes),
    )


def _joined(names: Sequence[str]) -> str:
    """The inputs in a message."""
    return ", ".join("standard input" if name == "-" else name for name in names)


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
    by_device = [] if slices.by_device is None else slices.by_device.merged()
    shift_ns = 0
    begin_ns = 0 if merged[0].anchored else merged[0].start_ns
    if monitor is not None:
        merged, by_device = (list(map(monitor.anchor, of)) for of in (merged, by_device))
        shift_ns = -(monitor.origin_ns or 0)
        begin_ns = monitor.first_start_ns + shift_ns
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
        by_device=tuple(by_device),
        patterns=patterns,
        notes=tuple(notes),
        is_broken=is_broken,
        n_others=slices.n_others,
        gaps=gaps,
        begin_s=begin_ns / NS_PER_S,
    )


def _explain_nothing(found: Collected, selected: Selection, limits: Limits) -> None:
    """Raises ReportError: it says why there is no request."""
    devices, ops, period = selected
    what = _joined(found.names)
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
    records = how_many(counts.records, "record", "records")
    if hung := hung_devices(found.whole, found.gaps) if found.whole.by == "device" else []:
        oldest_ns, in_flight, device = max(hung)
        requests = how_many(in_flight, "request of", "requests of", ",")
        raise ReportError(
            f"{what}: no request completed in {records}: {requests} {device_text(device)} hung, "
            f"the oldest for {time_text(oldest_ns)}, or the trace lacks completions (blktrace -a "
            "issue -a complete)"
        )
    why = "a request needs its issue and its completion (blktrace -a issue -a complete)"
    if counts.evicted:
        max_age_s = limits.get("max_age_s", MAX_AGE_S)
        evicted = how_many(counts.evicted, "issue or completion has", "issues and completions have")
        why = f"{evicted} no partner within {max_age_s:g} s; --max-age allows more time"
    raise ReportError(f"{what}: no request in {records}: {why}")


def _kind(name: str) -> str:
    """The kind of a file by its first bytes; what is neither of the other two is a trace."""
    path = Path(name)
    try:
        is_file = name != "-" and path.is_file()
    except OSError:  # opening it explains that
        is_file = False
    if not is_file:
        return TRACE
    try:
        head = head_of(path, HEAD_BYTES)
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"cannot open {name}: {error.strerror}") from error
    if head.lstrip()[:1] == b"{" and not begins_like_topology(bytes(head)):
        return JSON
    return STATS if begins_like_stats(head) else TRACE


class _TraceSlicer:
    """Cuts the records of a trace into slices, and finds out where its requests went."""

    def __init__(
        self,
        slices: Slices,
        first_ns: int,
        selected: Selection,
        view: View | None,
        accesses: Accesses | None,
        limits: Limits,
    ) -> None:
        self.monitor = Monitor(
            first_ns / NS_PER_S,
            most_intervals=RESOLUTION.most,
            hand_over=self._add,
            keep_requests=accesses is not None,
            **limits,
            **selected.arguments(),
        )
        self._slices = slices
        self._first_ns = first_ns
        self._start_ns: int | None = None
        self._selected = selected
        self._view = view
        self._accesses = accesses
        self._dropped = Dropped()
        self._limits = limits

    def read(
        self, names: Sequence[str], resync: bool, show_progress: bool | None
    ) -> tuple[list[str], TraceError | SourceError | None]:
        """Read a trace; returns the notes of its source, and what ended it early."""
        failure: TraceError | SourceError | None = None
        with (
            open_trace(names, resync=resync, sorts=True) as stream,
            Progress(stream.total_bytes, is_shown=show_progress) as bar,
        ):
            notes = list(stream.notes)
            try:
                for data in counted(stream, self.monitor):
                    self.monitor.feed(data)
                    self._take_requests()
                    bar.show(stream.done_bytes)
                    if self.monitor.is_done:
                        break
            except (TraceError, SourceError) as error:
                failure = error
        try:
            self.monitor.finish(is_complete=failure is None)
        except TraceError as error:
            failure = error
        self._take_requests()
        max_age_s = self._limits.get("max_age_s", MAX_AGE_S)
        if text := self._dropped.text(max_age_s, self._limits.get("max_pending", MOST_PENDING)):
            notes.append(text)
        if text := self.monitor.disorder:
            notes.append(text)
        return notes, failure

    def _add(self, interval: Interval) -> None:
        if self._start_ns is None:
            self._start_ns = interval.start_ns
        self._dropped.add(interval.counts)
        position = (interval.start_ns - self._start_ns) // self._first_ns
        self._slices.add(position, interval)
        # Shorter intervals than slices would only be merged.
        shortest_ns = self._first_ns << self._slices.halvings
        self.monitor.interval_ns = max(self.monitor.interval_ns or 0, shortest_ns)

    def _take_requests(self) -> None:
        if self._accesses is None:
            return
        requests = self.monitor.engine.take_requests()
        if self._selected.ops:
            wanted = [OPS.index(op) for op in self._selected.ops]
            requests = requests[np.isin(requests["op"], wanted)]
        if self._view is not None:
            requests = _requests_seen(requests, self._view)
        self._accesses.add(requests, self.monitor.first_start_ns)


def _of_traces(
    names: Sequence[str],
    slices: Slices,
    selected: Selection,
    view: View | None,
    patterns: bool,
    limits: Limits,
    show_progress: bool | None,
) -> Collected:
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

    slicer = _TraceSlicer(slices, first_ns, selected, view, accesses, limits)
    notes, failure = slicer.read(names, limits.get("resync", False), show_progress)
    monitor = slicer.monitor
    if n_skipped := monitor.totals.skipped_bytes:
        skipped = how_many(n_skipped, "byte that is not a record", "bytes that are not records")
        notes.append(f"bad trace: {_joined(names)}: skipped {skipped}")
    if failure is None and monitor.totals.records and monitor.origin_ns is None:
        raise ReportError(f"{_joined(names)}: {ONLY_NOTES}")
    if isinstance(failure, TraceError):
        file = f"{_joined(names)}: " if failure.file is None else ""
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
        patterns=None
        if accesses is None
        else _meaningful(accesses.finish(monitor.engine.process_names), view),
    )


def _meaningful(patterns: Patterns, view: View | None) -> Patterns:
    """What patterns say of a view: sectors of several LUNs do not make one pattern."""
    if view is None or view.by in ("lun", "path"):
        return patterns
    counts = np.zeros_like(patterns.counts)
    return replace(patterns, sample=patterns.sample[:0], counts=counts, shares={})


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
    n_intervals = 0
    gaps: list[Gap] = []
    end_ns: int | None = None
    with ExitStack() as stack:
        readers = [stack.enter_context(closing(Reader(Path(name)))) for name in names]
        total_bytes = sum(reader.total_bytes or 0 for reader in readers)
        merged = _in_order_of_time([source.read(reader) for reader in readers], source.notes)
        with Progress(total_bytes, is_shown=show_progress) as bar:
            for n_intervals, item in enumerate(_within(selected.period, merged), 1):
                if end_ns is not None and item.start_ns - end_ns > GAP_NS:
                    gaps.append((end_ns, item.start_ns))
                end_ns = max(end_ns or 0, item.end_ns)
                if view is not None and item.by != "device":
                    is_by = f"its intervals are by {item.by}, omit --by"
                    raise ReportError(f"{_joined(names)}: {is_by}")
                if selected.devices:
                    item = selection.select_devices(item, selected.devices)
                slices.add(n_intervals - 1, item.only(selected.ops))
                bar.show(sum(reader.done_bytes for reader in readers))
    notes = source.notes
    if not n_intervals:
        raise ReportError(notes[-1] if notes else f"{_joined(names)}: no interval in it")
    is_broken = notes[-1:] not in ([], [IN_TURN])
    found = _collected(names, JSON, slices, notes, is_broken=is_broken, gaps=gaps)
    return replace(found, device_names=source.device_names)


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


def _of_stats(names: Sequence[str], slices: Slices, selected: Selection) -> Collected:
    from blkiomon.commands.report import stats_input  # slow to import

    structs, broken = stats_input.read_structs(names, selected.devices)
    notes = [
        "Files of -b hold no percentiles, no counts of lost events, only reads and writes. Their "
        "times are whole seconds: rates of a short run may be some percent off."
    ]
    if odd := int(structs["bidir"].sum()):
        neither = "neither read nor write"
        one, several = f"request was {neither}: it is", f"requests were {neither}: they are"
        notes.append(f"{how_many(odd, one, several)} left out.")
    notes += broken
    if selected.ops:  # these histograms are of reads and writes together
        structs["d2c_hist"] = structs["size_hist"] = 0
    intervals = _within(selected.period, stats_input.intervals_of(structs))
    for number, interval in enumerate(intervals):
        slices.add(number, interval.only(selected.ops))
    return _collected(names, STATS, slices, notes, is_broken=bool(broken))
