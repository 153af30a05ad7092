"""The summary of an archive: figures of every host, and of all hosts together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import groupby, islice
from typing import Any

from blkiomon.commands.archive.results import Result
from blkiomon.commands.archive.traces import Failure, read_topology, why
from blkiomon.commands.table import MARK, is_supported
from blkiomon.console import how_many, printable
from blkiomon.engine.constants import OPS
from blkiomon.engine.snapshot import Snapshot
from blkiomon.formats.json_codec import distribution_dict, incomplete_list, retried_dict, unseen
from blkiomon.formats.units import device_text, utc
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.groups import Group, groups_of
from blkiomon.interval.incomplete import Incomplete, in_words
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.moments import Moments
from blkiomon.interval.value import MERGED_AT_ONCE, Counts, Interval, merge
from blkiomon.interval.views import View, devices_of
from blkiomon.sources.topology import Topology

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """All traces of a host.

    Attributes:
        name: of the host.
        traces: number of its traces of which anything was read.
        start_ns, end_ns: when the first interval began and the last one ended, ns since 1970;
            None if no trace contains the time of day.
        counts: of all its records.
        groups: as of an interval; rates and busy fractions are None, as traces may have gaps and
            overlap. The maximum of requests in flight is that of a single trace.
        missing_files: files that are missing from sets with a file for each CPU, in all traces.
        not_in_total: numbers of devices that totals leave out, as their requests count on others:
            paths of multipath maps, and volumes. Only a topology tells which these are.
    """

    name: str
    traces: int
    start_ns: int | None
    end_ns: int | None
    counts: Counts
    groups: tuple[Group, ...]
    missing_files: int = 0
    not_in_total: tuple[int, ...] = ()

    @property
    def incomplete(self) -> tuple[Incomplete, ...]:
        """Why the figures leave out 1 % or more; empty where they do not."""
        return self.counts.incomplete(self.missing_files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The summary of an archive.

    Attributes:
        hosts: in the order of their names.
        fleet: groups of all hosts and devices: of each operation that occurred, then of all.
            ``in_flight`` is None, as the hosts' clocks differ.
        failures: in the order of the traces' names.
        notes: further messages for the user.
        traces, intervals, records: how many were read, including failed traces up to the failure.
        resumed: traces that an earlier run had finished.
        selected: which requests count, in words; empty: all.
    """

    hosts: tuple[Host, ...]
    fleet: tuple[Group, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    traces: int
    intervals: int
    records: int
    resumed: int
    selected: str = ""

    def host(self, name: str) -> Host:
        """A host by its name. Raises KeyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def percentile(
        self, percent: float, *, host: str | None = None, op: str | None = None
    ) -> int | None:
        """A percentile of d2c in ns of one host or all, one operation or all; None: no request."""
        groups = self.fleet if host is None else tuple(_counted_once(self.host(host)))
        wanted = [g.d2c_ns for g in groups if g.op == op and (op or g.device is None)]
        return Distribution().merge(*wanted).percentile(percent)

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "schema": SCHEMA,
            "traces": self.traces,
            "resumed": self.resumed,
            "intervals": self.intervals,
            "records": self.records,
            **({"only": self.selected} if self.selected else {}),
            "fleet": [_figures(group) for group in self.fleet],
            "hosts": [
                {
                    "host": host.name,
                    "traces": host.traces,
                    "start": None if host.start_ns is None else utc(host.start_ns),
                    "end": None if host.end_ns is None else utc(host.end_ns),
                    "records": host.counts.records,
                    "unseen": unseen(host.counts),
                    "incomplete": incomplete_list(host.incomplete),
                    "not_in_total": [*map(device_text, host.not_in_total)],
                    "groups": [
                        {
                            "device": None if g.device is None else device_text(g.device),
                            **_figures(g),
                            "in_flight_max": g.in_flight and g.in_flight.max,
                        }
                        for g in host.groups
                    ],
                }
                for host in self.hosts
            ],
            "failures": [
                {
                    name: getattr(failure, name)
                    for name in ("trace", "error", "records", "intervals")
                }
                for failure in self.failures
            ],
            "notes": list(self.notes),
        }

    def text(self, size: os.terminal_size | None = None) -> Iterator[str]:
        """A table, in pieces; the host with the greatest p99 comes first. Without a host: nothing.

        Args:
            size: of a terminal, which gets the columns and the hosts that fit it.
        """
        counted = (
            *(("host", len(self.hosts)), ("trace", self.traces)),
            *(("interval", self.intervals), ("record", self.records)),
        )
        if not self.hosts:
            return
        only = f"; only {self.selected}" if self.selected else ""
        yield ", ".join(how_many(n, what, f"{what}s") for what, n in counted) + f"{only}\n\n"
        hosts = sorted(self.hosts, key=lambda host: (-_p99_ns(host), host.name))
        names = [printable(host.name) for host in hosts]
        has_requeues = any(group.requeues for group in self.fleet)
        lines = _Lines(max(map(len, ["fleet", *names])), size and size.columns, has_requeues)
        yield lines.head()
        for group in self.fleet:
            yield lines.line("fleet", group)
        left = len(hosts)
        free = None if size is None else size.lines - len(self.fleet) - 7
        for name, host in zip(names, hosts, strict=True):
            needed = len(host.groups) + bool(host.incomplete) + bool(host.not_in_total)
            if free is not None and left < len(hosts) and needed > free:
                yield f"{how_many(left, 'more host', 'more hosts')}: --all prints all\n"
                break
            free = None if free is None else free - needed
            left -= 1
            if host.incomplete:
                yield lines.cut(f"{name:<{lines.width}}  INCOMPLETE: {in_words(host.incomplete)}")
            if host.not_in_total:
                left_out = ", ".join(map(device_text, host.not_in_total))
                text = f"totals leave out devices with the same requests as others: {left_out}"
                yield lines.cut(f"{name:<{lines.width}}  {text}")
            for group in host.groups:
                yield lines.line(name, group)
        few = f"; {MARK} the slowest of too few requests" * lines.has_marks
        yield "\n" + lines.cut(f"d2c in microseconds{few}")


def _counted_once(host: Host) -> Iterator[Group]:
    """The groups without those of devices that totals leave out."""
    return (group for group in host.groups if group.device not in host.not_in_total)


def _p99_ns(host: Host) -> int:
    return host.groups[-1].d2c_ns.percentile(99) or 0


def _figures(group: Group) -> dict[str, Any]:
    return {
        "op": group.op,
        "requests": group.requests,
        "errors": group.errors,
        "requeues": group.requeues,
        "retried": retried_dict(group.retried),
        "bytes": group.bytes,
        "d2c_ns": distribution_dict(group.d2c_ns, histograms=False),
        "size_bytes": distribution_dict(group.size_bytes, histograms=False),
        "q2d_ns": group.q2d_ns and distribution_dict(group.q2d_ns, histograms=False),
        "q2c_ns": group.q2c_ns and distribution_dict(group.q2c_ns, histograms=False),
    }


_WIDTHS = {"device": -9, "op": -12, "requests": 12, "errors": 7, "MB": 12}
_PERCENTS = {"p50": 50, "p99": 99, "p99.9": 99.9}
_TIMES = ("mean", *_PERCENTS, "max")
_WITHOUT = ("requeues", "MB", "mean", "p99.9", "p50", "errors", "max")
"""The columns that a narrow terminal does not get, the first ones first."""


class _Lines:
    """Formats the lines of the table.

    Args:
        width: of the names of hosts.
        columns: of the terminal; None for any number.
        has_requeues: whether there is a column for them.

    Attributes:
        has_marks: a line has a percentile of too few requests.
    """

    def __init__(self, width: int, columns: int | None, has_requeues: bool) -> None:
        self.width = width
        self.has_marks = False
        self._columns = columns
        self._shown = [*_WIDTHS, *_TIMES, *(["requeues"] if has_requeues else [])]
        for name in _WITHOUT:
            if columns is not None and len(self.head()) > columns + 1 and name in self._shown:
                self._shown.remove(name)

    def head(self) -> str:
        return self._line("host", {name: name for name in self._shown})

    def line(self, host: str, group: Group) -> str:
        d2c = group.d2c_ns
        times = (d2c.mean, *map(d2c.percentile, _PERCENTS.values()), d2c.max)
        cells = {
            "device": "all" if group.device is None else device_text(group.device),
            "op": group.op or "all",
            "requests": str(group.requests),
            "errors": str(group.errors),
            "MB": f"{group.bytes / 1e6:.1f}",
            "requeues": str(group.requeues),
        }
        for name, ns in zip(_TIMES, times, strict=True):
            cells[name] = "-" if ns is None else f"{ns / 1e3:.1f}"
            percent = _PERCENTS.get(name)
            if ns is not None and percent and not is_supported(group.requests, percent):
                cells[name] += MARK
        return self._line(host, cells)

    def _line(self, host: str, cells: dict[str, str]) -> str:
        text = f"{host:<{self.width}} "
        for name in self._shown:
            width = _WIDTHS.get(name, 11)
            cell = cells[name]
            is_marked = cell.endswith(MARK)
            self.has_marks |= is_marked
            if name in _PERCENTS and not is_marked:
                cell += " "
            text += f" {cell:<{-width}}" if width < 0 else f" {cell:>{width}}"
        return text.rstrip() + "\n"

    def cut(self, text: str) -> str:
        return text[: self._columns] + "\n"


# --- merging results ------------------------------------------------------------------------------


class _HostIntervals:
    """The intervals of one host; some wait to be merged, as merging many at once is cheaper."""

    def __init__(self) -> None:
        self.traces = 0
        self.not_in_total: tuple[int, ...] = ()
        self._missing_files = 0
        self._parts: dict[bool, list[Interval]] = {}  # by whether the time of day is known

    def add(self, interval: Interval) -> None:
        self.traces += 1
        self._missing_files += interval.missing_files
        parts = self._parts.setdefault(interval.anchored, [])
        parts.append(interval)
        if len(parts) >= MERGED_AT_ONCE:
            parts[:] = [merge(parts)]

    def _wholes(self) -> list[Interval]:
        for parts in self._parts.values():
            if len(parts) > 1:
                parts[:] = [merge(parts)]
        return [whole for (whole,) in self._parts.values()]

    def count_once(self, topology: Topology) -> None:
        """Leave devices out of the totals whose requests count on another device."""
        wholes = self._wholes()
        traced = {number for whole in wholes for number in devices_of(whole).tolist()}
        view = View(topology, "lun", traced)
        once = [view.count_once(whole) for whole in wholes]
        self._parts = {whole.anchored: [whole] for whole in once}
        self.not_in_total = tuple(sorted({n for whole in once for n in whole.not_in_total}))

    def snapshot(self) -> Snapshot:
        """The figures of all intervals."""
        snapshots = [whole.snapshot for whole in self._wholes()]
        return snapshots[0] if len(snapshots) == 1 else merge_snapshots(snapshots)

    def host(self, name: str, groups: tuple[Group, ...]) -> Host:
        """The host, with the groups of its ``snapshot``."""
        wholes = self._wholes()
        anchored = next((whole for whole in wholes if whole.anchored), None)
        return Host(
            name=name,
            traces=self.traces,
            start_ns=None if anchored is None else anchored.start_ns,
            end_ns=None if anchored is None else anchored.end_ns,
            counts=sum((whole.counts for whole in wholes), Counts()),
            groups=groups,
            missing_files=self._missing_files,
            not_in_total=self.not_in_total,
        )


class SummaryBuilder:
    """Builds a summary of results, whose order makes no difference.

    Args:
        failures: sources that cannot be used.
        selected: see ``Summary``.
        topologies: path or URL of the topology of each host that has one.
    """

    def __init__(
        self, failures: Iterable[Failure], selected: str, topologies: Mapping[str, str]
    ) -> None:
        self._selected = selected
        self._topologies = topologies
        self._failures = list(failures)
        self._hosts: dict[str, _HostIntervals] = {}
        self._notes: list[str] = []
        self._traces = self._intervals = self._records = self._resumed = 0

    def add_all(self, results: Iterable[Result], failures: Iterable[Failure]) -> None:
        """Add the results of traces, and the failures of those that have none."""
        self._failures += failures
        for result in results:
            self.add(result)

    def add(self, result: Result) -> None:
        """Add the result of a trace."""
        self._traces += 1
        self._intervals += result.intervals
        self._records += result.records
        self._resumed += result.was_done
        self._notes += result.notes
        if result.whole is not None:
            whole = self._hosts.setdefault(result.host, _HostIntervals())
            whole.add(result.whole)
        if result.error is not None:
            self._failures.append(
                Failure(result.trace, result.error, result.records, result.intervals)
            )

    def note(self, text: str) -> None:
        """Add a message for the user."""
        self._notes.append(text)

    def summary(self) -> Summary:
        """The summary of all results so far."""
        hosts: list[Host] = []
        self._count_once()
        sorted_hosts = sorted(self._hosts.items())
        for not_in_total, alike in groupby(sorted_hosts, lambda host: host[1].not_in_total):
            while some := list(islice(alike, MERGED_AT_ONCE)):
                groups = groups_of([whole.snapshot() for _, whole in some], 0, not_in_total)
                hosts += (w.host(name, of) for (name, w), of in zip(some, groups, strict=True))
        return Summary(
            hosts=tuple(hosts),
            fleet=tuple(_fleet(hosts)),
            failures=tuple(sorted(self._failures, key=lambda f: f.trace)),
            notes=tuple(sorted(self._notes)),
            traces=self._traces,
            intervals=self._intervals,
            records=self._records,
            resumed=self._resumed,
            selected=self._selected,
        )

    def _count_once(self) -> None:
        for host in self._hosts.keys() & self._topologies.keys():
            file = self._topologies[host]
            try:
                topology = read_topology(file)
            except Exception as error:  # of any file system
                self.note(f"{file}: {why(error)}; so totals of {host} may count requests twice")
            else:
                self._hosts[host].count_once(topology)


def _fleet(hosts: Iterable[Host]) -> Iterator[Group]:
    parts: dict[str | None, list[Group]] = {}
    for host in hosts:
        for group in _counted_once(host):
            if group.op is not None or group.device is None:
                of_op = parts.setdefault(group.op, [])
                of_op.append(group)
                if len(of_op) >= MERGED_AT_ONCE:
                    of_op[:] = [_merged_groups(of_op)]
    for op in (*OPS, None):
        if op in parts:
            yield _merged_groups(parts[op])


def _merged_groups(groups: list[Group]) -> Group:
    return Group(
        device=None,
        op=groups[0].op,
        errors=sum(group.errors for group in groups),
        d2c_ns=Distribution().merge(*(group.d2c_ns for group in groups)),
        size_bytes=Distribution().merge(*(group.size_bytes for group in groups)),
        in_flight=None,
        q2d_ns=_merged_if_any([group.q2d_ns for group in groups]),
        q2c_ns=_merged_if_any([group.q2c_ns for group in groups]),
        duration_ns=0,
        requeues=sum(group.requeues for group in groups),
        retried=reduce(Moments.merge, (group.retried for group in groups)),
    )


def _merged_if_any(some: list[Distribution | None]) -> Distribution | None:
    seen = [distribution for distribution in some if distribution is not None]
    return Distribution().merge(*seen) if seen else None
