"""The interval: an immutable value, from which all outputs and reports are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from operator import add, attrgetter, sub
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blkiomon.engine.constants import OPS
from blkiomon.engine.snapshot import Snapshot
from blkiomon.interval import arguments, html
from blkiomon.interval.columns import Columns, columns_of
from blkiomon.interval.devices import DeviceId, number_of, text_of
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.findings import Finding
from blkiomon.interval.groups import NS_PER_S, Group, grouped
from blkiomon.interval.incomplete import HEADER_BYTES, Incomplete, in_words, reasons
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.moments import NOTHING, Moments, reduce_moments, run_starts
from blkiomon.interval.operations import checked, select_operations

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["NOTHING", "Counts", "DeviceStats", "Group", "Interval", "Moments", "merge"]


class DeviceStats(NamedTuple):
    """One device in one interval as the original reports it: by direction, not by operation.

    Sizes in bytes, d2c in microseconds, throughput in bytes per millisecond. ``layout`` has the
    limits of the histograms. Bidirectional requests only count in the histograms and ``bidir``.
    """

    device: int
    size_r: Moments
    size_w: Moments
    d2c_r: Moments
    d2c_w: Moments
    thrput_r: Moments
    thrput_w: Moments
    size_hist: tuple[int, ...]
    d2c_hist: tuple[int, ...]
    bidir: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of the records that were read, and of those that were missed.

    They are of an interval or of a whole run.

    Attributes:
        records: trace records, of any kind.
        requests: issues that were matched with their completion.
        mismatches: pairs of records of one device, sector and direction that are not one request.
        driver_data_records: records of low-level drivers.
        evicted: pending records evicted because they were too old or too many.
        lost_events: events that the tracer reported as lost.
        sequence_gaps: records missing by their sequence numbers, per device and CPU.
        completions_without_issue: completions whose issue was not seen by the interval's end.
        issues_without_completion: issues that were replaced or evicted, or are overdue. An issue
            is overdue if it is in flight for more than a second, and for longer than any request
            that its device completed in the interval. If the device completed none, none is
            overdue. At the end of a recorded trace, all issues in flight.
        skipped_bytes: bytes that are not records.
        over_device_limit: records of devices beyond ``max_devices``; they do not count elsewhere.
    """

    records: int = 0
    requests: int = 0
    mismatches: int = 0
    driver_data_records: int = 0
    evicted: int = 0
    lost_events: int = 0
    sequence_gaps: int = 0
    completions_without_issue: int = 0
    skipped_bytes: int = 0
    over_device_limit: int = 0
    issues_without_completion: int = 0

    @property
    def lost(self) -> int:
        """Events that are known to be missing."""
        return self.lost_events + self.sequence_gaps

    def __add__(self, other: Counts) -> Counts:
        """The sum of each count."""
        return self._combine(add, other)

    def __sub__(self, earlier: Counts) -> Counts:
        """The difference of each count: since ``earlier``."""
        return self._combine(sub, earlier)

    def _combine(self, function: Callable[[int, int], int], other: Counts) -> Counts:
        return Counts(**dict(zip(_COUNTS, map(function, _counts(self), _counts(other)))))

    def incomplete(self, missing_files: int = 0) -> tuple[Incomplete, ...]:
        """The reasons why figures with these counts are incomplete; see ``incomplete.reasons``.

        Args:
            missing_files: see ``Interval``.
        """
        return reasons(
            missing_files,
            {
                "lost_events": (self.lost_events, self.records),
                "sequence_gaps": (self.sequence_gaps, self.records),
                "skipped_bytes": (self.skipped_bytes, self.records * HEADER_BYTES),
                "over_device_limit": (
                    self.over_device_limit,
                    self.records - self.over_device_limit,
                ),
                "issues_without_completion": (self.issues_without_completion, self.requests),
                "completions_without_issue": (self.completions_without_issue, self.requests),
            },
        )


_COUNTS = tuple(field.name for field in fields(Counts))
_counts = attrgetter(*_COUNTS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Interval:
    """The statistics of one interval: an immutable value.

    Attributes:
        time_s: time of its end in seconds, which the original's outputs print.
        devices: shape (n,), u4: devices that completed requests, in order of the first completion.
        snapshot: everything that was measured.
        counts: of this interval alone.
        start_ns, end_ns: when it began and ended: ns since 1970 if ``anchored``, else since
            the first record.
        clock: "wall" or "trace": the clock by which intervals end.
        anchored: whether the time of day is known.
        process_names: names of the pids in ``snapshot.processes``, if the stream contains them.
        missing_files: how many per-CPU files of the trace are missing.
        only_ops: the operations whose figures the interval has; empty: all. ``counts`` always
            cover all records.
        named_ns: set by merging. Maps each pid whose name came from an earlier interval to the end
            of that interval.
        by: one of ``interval.views.BY``. In a view, the numbers of its groups take the place of
            device numbers.
        maps: in a view by path, the multipath maps that were traced. Totals leave them out.
        not_in_total: numbers of devices that the total leaves out, as their requests count on
            another device: paths of a map, volumes on disks. Empty if that is not known.
        findings: what stands out; None if nothing was looked for. Merging drops them.
    """

    time_s: int
    devices: npt.NDArray[np.uint32]
    snapshot: Snapshot = field(default_factory=Snapshot)
    counts: Counts = Counts()
    start_ns: int = 0
    end_ns: int = 0
    clock: str = "wall"
    anchored: bool = True
    process_names: Mapping[int, str] = field(default_factory=dict)
    named_ns: Mapping[int, int] = field(default_factory=dict)
    missing_files: int = 0
    only_ops: tuple[str, ...] = ()
    by: str = "device"
    maps: Interval | None = None
    not_in_total: tuple[int, ...] = ()
    findings: tuple[Finding, ...] | None = None
    # Caches: lists, as the dataclass is frozen. The threads of outputs use them without a lock: if
    # two compute a result at the same time, both results are equal.
    _stats: list[tuple[DeviceStats, ...]] = field(default_factory=list, init=False, repr=False)
    _columns: list[Columns] = field(default_factory=list, init=False, repr=False)
    _groups: list[tuple[Group, ...]] = field(default_factory=list, init=False, repr=False)

    @property
    def rows(self) -> npt.NDArray[np.void]:
        """``snapshot.rows``: shape (m,), dtype ``layout.ROW``."""
        return self.snapshot.rows

    @property
    def duration_s(self) -> float:
        """Length of the interval in seconds."""
        return (self.end_ns - self.start_ns) / NS_PER_S

    @property
    def incomplete(self) -> tuple[Incomplete, ...]:
        """Reasons why the figures leave out 1 % or more; empty if they do not."""
        return self.counts.incomplete(self.missing_files)

    def device_stats(self) -> tuple[DeviceStats, ...]:
        """The original's figures by device, in its order: the latest first completion comes first.

        Raises:
            ValueError: the interval comes from JSON or an archive, which lack these figures.
        """
        if not self._stats:
            self._stats.append(_device_stats(self.devices, self.rows))
        return self._stats[0]

    def groups(self) -> tuple[Group, ...]:
        """The figures of every operation, every device and in total.

        Devices are in order of their numbers. For each device come the operations that occurred, in
        the order of ``layout.OPS``, then the device as a whole. The total is always there, and
        last. Devices that only have requests in flight are included.
        """
        if not self._groups:
            self._groups.append(grouped(self.columns()))
        return self._groups[0]

    def columns(self) -> Columns:
        """The same figures as columns, for outputs that render many groups at once."""
        if not self._columns:
            duration_ns = self.end_ns - self.start_ns
            self._columns.append(columns_of([self.snapshot], duration_ns, self.not_in_total))
        return self._columns[0]

    @property
    def total(self) -> Group:
        """The figures of all devices and operations, without devices in ``not_in_total``."""
        return self.groups()[-1]

    def __repr__(self) -> str:
        devices = len({group.device for group in self.groups()} - {None})
        why = f", incomplete={in_words(self.incomplete)!r}" if self.incomplete else ""
        only = f", only_ops={self.only_ops}" if self.only_ops else ""
        return (
            f"Interval(start_ns={self.start_ns}, end_ns={self.end_ns}, devices={devices}, "
            f"requests={self.total.requests}, p99_ns={self.total.d2c_ns.percentile(99)}{only}{why})"
        )

    def _repr_html_(self) -> str:
        return html.table(self.groups()) + html.histogram(self.total.d2c_ns)

    def device(self, device: DeviceId) -> Group:
        """The figures of a device.

        Args:
            device: its number, ``"8:16"``, or its name on this host, ``"sdb"``.

        Raises:
            KeyError: the device has no figures; the text lists the devices that have some.
        """
        number = self._known(device)
        return next(g for g in self.groups() if (g.device, g.op) == (number, None))

    def ops(self, device: DeviceId) -> tuple[Group, ...]:
        """The figures of each operation that occurred on a device; see ``device``."""
        number = self._known(device)
        return tuple(g for g in self.groups() if g.device == number and g.op is not None)

    def _known(self, device: DeviceId) -> int:
        """The number of a device that has figures. Raises KeyError."""
        number = number_of(device)
        there = [g.device for g in self.groups() if g.device is not None and g.op is None]
        if number not in there:
            shown = ", ".join(map(text_of, there[:20])) + ", ..." * (len(there) > 20) or "none"
            raise KeyError(f"device {text_of(number)} has no figures; known devices: {shown}")
        return number

    def percentile(
        self, percent: float, device: DeviceId | None = None, op: str | None = None
    ) -> int | None:
        """A percentile of d2c in ns; None without requests. See ``Distribution.percentile``.

        Args:
            percent: from 1 to 100.
            device: see ``device``; default: all devices.
            op: one of ``layout.OPS``; default: all operations.

        Raises:
            KeyError: ``device`` has no figures, or ``op`` is unknown.
            ValueError: ``percent`` is out of range.
        """
        if op is not None and op not in OPS:
            raise KeyError(f"unknown operation {op!r}; use {', '.join(OPS)}")
        number = None if device is None else self._known(device)
        every_device = device is None and op is not None
        wanted = [
            g.d2c_ns
            for g in self.groups()
            if g.op == op
            and (g.device not in self.not_in_total if every_device else g.device == number)
        ]
        return Distribution().merge(*wanted).percentile(percent)

    def only(self, ops: str | Iterable[str]) -> Interval:
        """The figures of some operations, without those of processes.

        Requests in flight are known of each operation, and not of a device or in total.

        Args:
            ops: one or several of ``layout.OPS``; none: all operations.

        Raises:
            ValueError: an operation is unknown.
        """
        wanted = checked(ops)
        if not wanted:
            return self
        snapshot = select_operations(self.snapshot, wanted)
        there = np.isin(self.devices, snapshot.rows["device"])
        return replace(self, snapshot=snapshot, devices=self.devices[there], only_ops=wanted)

    def with_findings(self, findings: Iterable[Finding]) -> Interval:
        """The same interval with these findings; figures are not computed again."""
        found = replace(self, findings=tuple(findings))
        found._columns.extend(self._columns)
        found._groups.extend(self._groups)
        return found

    def merge(self, *others: Interval) -> Interval:
        """Merge this with other intervals of the same stream; see ``merge``."""
        return merge((self, *others))


MERGED_AT_ONCE = 64
"""How many intervals are merged in one step. A long iterable is never in memory as a whole."""


def merge(intervals: Iterable[Interval]) -> Interval:
    """Merge intervals of one stream, usually consecutive ones, into one.

    Sums, histograms and counts add up exactly. The result lasts from the earliest start to the
    latest end. Requests in flight at its end, and the name of each process, come from the interval
    that ended last; the maximum in flight is the greatest of all maxima. Any grouping and order
    gives the same result, except for the order of ``devices`` and rows.

    Raises:
        ValueError: there is no interval, or intervals have different clocks, operations or views.
        TypeError: an item is not an interval.
    """
    if not isinstance(intervals, Iterable):
        raise arguments.wrong("intervals", "several Interval", intervals)
    rest = iter(intervals)
    merged: Interval | None = None
    while some := list(islice(rest, MERGED_AT_ONCE)):
        merged = _merge_some(some if merged is None else [merged, *some])
    if merged is None:
        raise ValueError("no interval to merge: the iterable is empty")
    return merged


def _merge_some(intervals: list[Interval]) -> Interval:
    for each in intervals:
        if not isinstance(each, Interval):
            raise arguments.wrong("an item to merge", "an Interval", each)
    if len({(i.clock, i.anchored) for i in intervals}) > 1:
        raise ValueError("intervals of different clocks cannot be merged")
    if len({i.only_ops for i in intervals}) > 1:
        raise ValueError("intervals of different operations cannot be merged")
    if len({i.by for i in intervals}) > 1:
        raise ValueError("intervals of different views cannot be merged")
    by_start = sorted(intervals, key=lambda i: i.start_ns)
    end_ns = max(i.end_ns for i in intervals)
    names = _latest_names(intervals)
    devices = np.concatenate([i.devices for i in by_start])
    return Interval(
        time_s=max(i.time_s for i in intervals),
        devices=in_order(devices),
        snapshot=merge_snapshots([i.snapshot for i in by_start], [i.end_ns for i in by_start]),
        counts=sum((i.counts for i in intervals), Counts()),
        start_ns=by_start[0].start_ns,
        end_ns=end_ns,
        clock=by_start[0].clock,
        anchored=by_start[0].anchored,
        process_names={pid: name for pid, (_, name) in names.items()},
        named_ns={pid: at_ns for pid, (at_ns, _) in names.items() if at_ns != end_ns},
        missing_files=max(i.missing_files for i in intervals),
        only_ops=by_start[0].only_ops,
        by=by_start[0].by,
        maps=_merge_some(maps) if (maps := [i.maps for i in intervals if i.maps]) else None,
        not_in_total=tuple(sorted({number for i in intervals for number in i.not_in_total})),
    )


def _latest_names(intervals: Iterable[Interval]) -> dict[int, tuple[int, str]]:
    """pid -> time and text of its latest name; of names of equal time, the greatest text."""
    names: dict[int, tuple[int, str]] = {}
    for i in intervals:
        for pid, name in i.process_names.items():
            named = i.named_ns.get(pid, i.end_ns), name
            names[pid] = max(named, names.get(pid, named))
    return names


def in_order(numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The distinct numbers, in order of their first occurrence."""
    distinct, first = np.unique(numbers, return_index=True)
    return distinct[np.argsort(first)]


def _device_stats(
    devices: npt.NDArray[np.uint32], rows: npt.NDArray[np.void]
) -> tuple[DeviceStats, ...]:
    """Merge the operations of each device by direction.

    Rows are sorted by ``3 * place of the device + direction`` (0 read, 1 write, 2 bidirectional).
    Then each run of equal keys is reduced.
    """
    if not len(rows):
        return ()
    if (rows["d2c_hist"].sum(axis=1) != rows["requests"]).any():
        raise ValueError("an interval from JSON or an archive lacks the original's figures")
    sorter = np.argsort(devices, kind="stable")
    place = sorter[np.searchsorted(devices, rows["device"], sorter=sorter)]
    key = place * 3 + rows["direction"]
    order = np.argsort(key, kind="stable")
    rows, key = rows.take(order), key[order]
    starts = run_starts(key)
    groups = key[starts].tolist()
    requests = rows["requests"]
    size, d2c, thrput = (
        dict(zip(groups, reduce_moments(rows[name], requests, starts), strict=True))
        for name in ("size_bytes", "d2c_us", "throughput")
    )
    completed = dict(zip(groups, np.add.reduceat(requests, starts).tolist(), strict=True))

    by_device = run_starts(key // 3)
    columns = (
        rows["device"][by_device].tolist(),
        (key[by_device] // 3 * 3).tolist(),
        *(np.add.reduceat(rows[name], by_device).tolist() for name in ("size_hist", "d2c_hist")),
    )
    stats = [
        DeviceStats(
            device,
            size.get(read, NOTHING),
            size.get(read + 1, NOTHING),
            d2c.get(read, NOTHING),
            d2c.get(read + 1, NOTHING),
            thrput.get(read, NOTHING),
            thrput.get(read + 1, NOTHING),
            tuple(size_hist),
            tuple(d2c_hist),
            completed.get(read + 2, 0),
        )
        for device, read, size_hist, d2c_hist in zip(*columns, strict=True)
    ]
    return tuple(reversed(stats))
