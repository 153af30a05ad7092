"""The summary of an archive: figures of every host, and of all hosts together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

from blkiomon.commands.archive.store import Result
from blkiomon.commands.archive.traces import Failure
from blkiomon.console import how_many, printable
from blkiomon.engine.layout import OPS
from blkiomon.formats.binary_codec import from_bytes
from blkiomon.formats.json_codec import distribution_dict, incomplete_list, retried_dict, unseen
from blkiomon.formats.units import device_text, utc
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.groups import Group, groups_of
from blkiomon.interval.incomplete import Incomplete, in_words
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.moments import Moments
from blkiomon.interval.value import MERGED_AT_ONCE, Counts, Interval, merge

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
    """

    name: str
    traces: int
    start_ns: int | None
    end_ns: int | None
    counts: Counts
    groups: tuple[Group, ...]
    missing_files: int = 0

    @property
    def incomplete(self) -> tuple[Incomplete, ...]:
        """Why the figures leave out more than a hundredth; empty where they do not."""
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
    """

    hosts: tuple[Host, ...]
    fleet: tuple[Group, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    traces: int
    intervals: int
    records: int
    resumed: int

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
        groups = self.fleet if host is None else self.host(host).groups
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

    def text(self) -> Iterator[str]:
        """A table, in pieces."""
        counted = (
            *(("host", len(self.hosts)), ("trace", self.traces)),
            *(("interval", self.intervals), ("record", self.records)),
        )
        yield ", ".join(how_many(n, what, f"{what}s") for what, n in counted) + "\n\n"
        names = [printable(host.name) for host in self.hosts]
        width = max(map(len, ["fleet", *names]))
        has_requeues = any(group.requeues for group in self.fleet)
        columns = (*_COLUMNS, *(["requeues"] if has_requeues else []))
        yield _line(width, "host", ("device", "op", *columns))
        for group in self.fleet:
            yield _line(width, "fleet", _cells(group, has_requeues))
        for name, host in zip(names, self.hosts, strict=True):
            if host.incomplete:
                yield f"{name:<{width}}  INCOMPLETE: {in_words(host.incomplete)}\n"
            for group in host.groups:
                yield _line(width, name, _cells(group, has_requeues))
        yield "\nd2c in microseconds\n"


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


_COLUMNS = ("requests", "errors", "MB", "mean", "p50", "p99", "p99.9", "max")


def _cells(group: Group, has_requeues: bool) -> tuple[str, ...]:
    d2c = group.d2c_ns
    times = (d2c.mean, *map(d2c.percentile, (50, 99, 99.9)), d2c.max)
    return (
        "all" if group.device is None else device_text(group.device),
        group.op or "all",
        str(group.requests),
        str(group.errors),
        f"{group.bytes / 1e6:.1f}",
        *("-" if ns is None else f"{ns / 1e3:.1f}" for ns in times),
        *([str(group.requeues)] if has_requeues else []),
    )


def _line(width: int, host: str, cells: tuple[str, ...]) -> str:
    device, op, *figures = cells
    return (
        f"{host:<{width}}  {device:<9} {op:<12} {figures[0]:>12} {figures[1]:>7} {figures[2]:>12}"
        f"{''.join(f' {figure:>11}' for figure in figures[3:])}"
    ).rstrip() + "\n"


# --- merging results ------------------------------------------------------------------------------


class _HostIntervals:
    """The intervals of one host; some wait to be merged, as merging many at once is cheaper."""

    def __init__(self) -> None:
        self.traces = 0
        self._missing_files = 0
        self._parts: dict[bool, list[Interval]] = {}  # by whether the time of day is known

    def add(self, interval: Interval) -> None:
        self.traces += 1
        self._missing_files += interval.missing_files
        parts = self._parts.setdefault(interval.anchored, [])
        parts.append(interval)
        if len(parts) >= MERGED_AT_ONCE:
            parts[:] = [merge(parts)]

    def host(self, name: str) -> Host:
        wholes = {is_anchored: merge(parts) for is_anchored, parts in self._parts.items()}
        anchored = wholes.get(True)
        return Host(
            name=name,
            traces=self.traces,
            start_ns=None if anchored is None else anchored.start_ns,
            end_ns=None if anchored is None else anchored.end_ns,
            counts=sum((whole.counts for whole in wholes.values()), Counts()),
            groups=groups_of(merge_snapshots([whole.snapshot for whole in wholes.values()]), 0),
            missing_files=self._missing_files,
        )


class SummaryBuilder:
    """Builds a summary of results, whose order makes no difference."""

    def __init__(self, failures: Iterable[Failure] = ()) -> None:
        self._failures = list(failures)
        self._hosts: dict[str, _HostIntervals] = {}
        self._notes: list[str] = []
        self._traces = self._intervals = self._records = self._resumed = 0

    def add(self, result: Result | Failure) -> None:
        """Add the result of a trace."""
        if isinstance(result, Failure):
            self._failures.append(result)
            return
        self._traces += 1
        self._intervals += result.intervals
        self._records += result.records
        self._resumed += result.was_done
        self._notes += result.notes
        if result.whole is not None:
            whole = self._hosts.setdefault(result.host, _HostIntervals())
            whole.add(from_bytes(result.whole))
        if result.error is not None:
            self._failures.append(
                Failure(result.trace, result.error, result.records, result.intervals)
            )

    def summary(self) -> Summary:
        """The summary of all results so far."""
        hosts = tuple(whole.host(name) for name, whole in sorted(self._hosts.items()))
        return Summary(
            hosts=hosts,
            fleet=tuple(_fleet(hosts)),
            failures=tuple(sorted(self._failures, key=lambda f: f.trace)),
            notes=tuple(sorted(self._notes)),
            traces=self._traces,
            intervals=self._intervals,
            records=self._records,
            resumed=self._resumed,
        )


def _fleet(hosts: Iterable[Host]) -> Iterator[Group]:
    parts: dict[str | None, list[Group]] = {}
    for host in hosts:
        for group in host.groups:
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
