"""Findings on a SAN: which path, port or array is slow, stalls, fails or takes no requests.

``CHECKS`` is the table of checks. Each yields findings with their evidence, and nothing where
requests are too few to be sure. A path is compared with its siblings: the paths of the same LUN in
the same access state.
"""

from __future__ import annotations

import signal
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.commands.table import plural
from blkiomon.console import how_many, printable
from blkiomon.engine.constants import ALL_OPS, OPS
from blkiomon.formats.units import rate_text, time_text, utc
from blkiomon.interval.columns import NS_PER_S
from blkiomon.interval.departures import (
    LEAST_BEYOND,
    PERCENTS,
    Departure,
    departure,
    least_ranks,
    share_limits,
)
from blkiomon.interval.distribution import PERCENTILES, Distribution, bin_bounds
from blkiomon.interval.findings import Finding
from blkiomon.interval.moments import distinct
from blkiomon.interval.value import Interval
from blkiomon.interval.views import View, initiator_of
from blkiomon.sources.topology import (
    PATH_KINDS,
    Device,
    Topology,
    Transport,
    order,
    refresh_topology,
)

SLOW_PATH_FACTOR = 2
"""A path is slow if a percentile is so many times that of its siblings."""

SLOW_ARRAY_FACTOR = 4
"""Arrays may differ by nature: one is slow only if it is so many times slower."""

FEW_FACTOR = 4
"""A path takes few requests if its siblings take so many times as many."""

LEAST_OF_SIBLINGS = 100
"""Requests that a sibling took on average, where a path took none or few."""

LEAST_FAILED = 3
"""Errors or requeues of a path that are more than chance."""

STALL_NS = NS_PER_S
"""Nothing completes, and a request has been in flight for so long."""

LATE_FACTOR = 4
"""While others complete, a request stalls if it is in flight this many times as long as those."""

MOST_LOSSES = 3600
"""Intervals with lost events that are remembered."""

PASSTHROUGH = OPS.index("other")
"""Operation of a path checker's commands, which do not count as load."""


class Lun(NamedTuple):
    """A LUN: its name, its map if it has one, and its paths."""

    name: str
    map: Device | None
    paths: tuple[Device, ...]


def luns_of(topology: Topology) -> list[Lun]:
    """The LUNs that have paths, in the order of their first path."""
    by_name = {device.name: device for device in topology.devices}
    paths: dict[str, list[Device]] = {}
    for device in topology.devices:
        is_of_array = device.array is not None and device.transport is not None
        if device.kind in PATH_KINDS or is_of_array:
            paths.setdefault(device.map or device.wwid or device.name, []).append(device)
    found = []
    for key, of_lun in paths.items():
        above = by_name.get(key)
        name = printable(above.alias or above.name if above is not None else key)
        found.append(Lun(name, above, tuple(of_lun)))
    return found


class SlowPath(NamedTuple):
    """A path that is slower than its siblings."""

    lun: Lun
    path: Device
    siblings: list[Device]
    op: str
    departure: Departure

    @property
    def ratio(self) -> float:
        """How many times slower."""
        return self.departure.value / max(1, self.departure.usual)


class Figures(NamedTuple):
    """The figures of a device, or of one of its operations, that checks look at.

    Attributes:
        requests, errors, requeues: see ``Group``.
        in_flight, oldest_ns: requests in flight at the end, and the age of the oldest; None if
            that is not known.
        percentiles: of d2c, in the order of ``PERCENTILES``.
    """

    requests: int
    errors: int
    requeues: int
    in_flight: int | None
    oldest_ns: int | None
    percentiles: Sequence[int]


Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class FiguresTable:
    """The figures of an interval. Those of thousands of devices are looked up only where needed.

    Attributes:
        requests, errors, requeues, percentiles: of each group, as numpy arrays; the last group
            has no requests, see ``places``.
        ops: the operations of all devices.
        devices: numbers of the devices.
        stalled: numbers of those that have a request in flight for ``STALL_NS``.
    """

    def __init__(self, interval: Interval) -> None:
        columns = self._columns = interval.columns()
        self._keys = columns.key_array
        self.requests = _padded(columns.d2c_ns.count)
        self.errors = _padded(columns.errors)
        self.requeues = _padded(columns.requeues)
        percentiles = columns.d2c_ns.percentiles
        self.percentiles = np.vstack([percentiles, np.zeros_like(percentiles[:1])]).astype(float)
        self.duration_ns = columns.duration_ns
        self.end_ns = interval.end_ns
        self.lost_events = interval.counts.lost
        of_devices = self._keys[:-1]
        self.ops = sorted(set(distinct(of_devices & 7).tolist()) - {ALL_OPS})
        self.devices: list[int] = distinct(of_devices >> 3).tolist()
        loads = interval.snapshot.loads
        is_stalled = (loads["oldest_ns"] >= STALL_NS) & (loads["in_flight"] > 0)
        self.stalled = set(loads["device"][is_stalled].tolist())

    def places(self, devices: Numbers, op: int) -> npt.NDArray[np.intp]:
        """Index of the group of each device; that of the last one, if a device has no such group.

        Args:
            devices: shape (n,).
        """
        keys = devices << 3 | op
        places = np.searchsorted(self._keys, keys)
        return np.where(self._keys[places] == keys, places, len(self._keys))

    def get(self, device: Device, op: int) -> Figures | None:
        """The figures of a device and operation, ``ALL_OPS`` for all; None if it has none."""
        if device.number is None:
            return None
        columns, key = self._columns, device.number << 3 | op
        at = bisect_left(columns.keys, key)
        if columns.keys[at] != key:
            return None
        load = columns.in_flight
        return Figures(
            columns.d2c_ns.count[at],
            columns.errors[at],
            columns.requeues[at],
            None if load is None else load.end[at],
            None if load is None else load.oldest_ns[at],
            columns.d2c_ns.percentiles[at].tolist(),
        )

    def values(self, places: npt.NDArray[np.intp], shares: Floats) -> Floats:
        """The latency that a share of the requests of each group does not exceed, rounded up."""
        bins, _, starts = self._columns.d2c_ns.histograms
        starts = np.append(starts, starts[-1])  # of the group without requests
        before, total = self._upto[starts[places]], self.requests[places]
        is_used = total > 0
        ranks = before[is_used] + np.ceil(shares[is_used] * total[is_used])
        found = np.zeros(len(places))
        found[is_used] = bin_bounds(bins[np.searchsorted(self._upto[1:], ranks)])[1]
        return found

    @cached_property
    def _upto(self) -> Floats:
        """How many requests come before each bin of all histograms."""
        counts = self._columns.d2c_ns.histograms.counts
        return np.concatenate(([0.0], np.cumsum(counts, dtype=np.float64)))

    def d2c(self, devices: Iterable[Device], op: int) -> Distribution:
        """The latencies of some devices together."""
        numbers = np.array([d.number for d in devices if d.number is not None], np.int64)
        places = self.places(numbers, op)
        return self._columns.d2c_ns.merged(places[places < len(self._keys)])


def _padded(figures: Sequence[int]) -> Floats:
    return np.array([*figures, 0], np.float64)


class Siblings:
    """Sets of at least two paths of a LUN that were traced and are in the same access state.

    Attributes:
        sets: each with its LUN.
        arrays: the paths to each array, traced or not.
    """

    def __init__(self, luns: Iterable[Lun], traced: Set[int]) -> None:
        self.sets: list[tuple[Lun, list[Device]]] = []
        self.arrays: dict[str, list[Device]] = {}
        for lun in luns:
            for path in lun.paths:
                if path.array is not None:
                    self.arrays.setdefault(path.array, []).append(path)
            by_state: dict[str | None, list[Device]] = {}
            for path in lun.paths:
                if path.number in traced:
                    by_state.setdefault(path.access_state, []).append(path)
            self.sets += [(lun, alike) for alike in by_state.values() if len(alike) > 1]
        sizes = [len(alike) for _, alike in self.sets]
        self._starts = np.cumsum([0, *sizes])[:-1]
        self._sizes = np.array(sizes, np.intp)
        self._numbers = np.array([p.number for _, alike in self.sets for p in alike], np.int64)

    def suspects(
        self, is_suspect: Callable[[Numbers, Callable[[np.ufunc, Floats], Floats]], Any]
    ) -> list[tuple[Lun, list[Device]]]:
        """The sets with a path that a check has to look at; the others cost next to nothing.

        Args:
            is_suspect: called with the numbers of all paths, shape (n,), and a function that
                reduces a figure of each path by a ufunc to one of its set, shape (n,); returns a
                bool for each path.
        """
        if not self.sets:
            return []

        def of_set(ufunc: np.ufunc, figures: Floats) -> Floats:
            reduced: Floats = np.repeat(ufunc.reduceat(figures, self._starts), self._sizes)
            return reduced

        found = np.logical_or.reduceat(is_suspect(self._numbers, of_set), self._starts)
        return [self.sets[at] for at in np.flatnonzero(found).tolist()]


@dataclass(frozen=True)
class Facts:
    """What checks look at.

    Attributes:
        luns: see ``luns_of``.
        tables: of the interval before, if there is one, which adds to the evidence; and of the
            latest interval.
        siblings: of the devices that had a request so far.
        waited: of each LUN with an old request at the end of the interval before, the paths on
            which such requests were last in flight.
        is_whole: the interval is a whole run: its end is not the present.
        losses: ends of the intervals in which events were lost, and how many were.
        traced: numbers of the devices that had a request so far.
    """

    luns: Sequence[Lun]
    tables: Sequence[FiguresTable]
    siblings: Siblings
    waited: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_whole: bool = False
    losses: Iterable[tuple[int, int]] = ()
    traced: Set[int] = frozenset()

    @property
    def latest(self) -> FiguresTable:
        return self.tables[-1]

    def lost_since(self, issued_ns: int) -> int:
        """How many events were lost since then; any may be a completion."""
        return sum(lost for end_ns, lost in self.losses if end_ns > issued_ns)

    def figures(self, device: Device, op: int = ALL_OPS) -> list[Figures]:
        """The figures of a device in both intervals."""
        return [of for table in self.tables if (of := table.get(device, op)) is not None]

    def requests(self, device: Device, op: int = ALL_OPS) -> int:
        """How many requests a device completed in both intervals."""
        return sum(of.requests for of in self.figures(device, op))

    def d2c(self, devices: Sequence[Device], op: int) -> Distribution:
        """Latencies of some devices together in both intervals."""
        return Distribution().merge(*(table.d2c(devices, op) for table in self.tables))

    def taken(self, device: Device) -> int:
        """How many requests a device completed in both intervals, without those of checkers."""
        return self.requests(device) - self.requests(device, PASSTHROUGH)

    def iops(self, device: Device) -> float:
        """Requests a second in the latest interval, which a person sees beside the finding."""
        of_device, duration_ns = self.latest.get(device, ALL_OPS), self.latest.duration_ns
        return of_device.requests * NS_PER_S / duration_ns if of_device and duration_ns else 0.0

    def sums(self, name: str, devices: Numbers, op: int = ALL_OPS) -> Floats:
        """A figure of each device, ``requests``, ``errors`` or ``requeues``, in both intervals."""
        return sum(
            (getattr(table, name)[table.places(devices, op)] for table in self.tables),
            np.zeros(len(devices)),
        )

    @cached_property
    def slow_paths(self) -> list[SlowPath]:
        """The paths that depart from their siblings, the worst first.

        Of a path's operations that do, the one with the most requests counts.
        """
        found: dict[str, tuple[int, SlowPath]] = {}
        for op in self.latest.ops:
            for lun, alike in self._may_be_slow(op):
                figures = {p: of for p in alike if (of := self.latest.get(p, op)) and of.requests}
                for path in figures if len(figures) > 1 else ():
                    others = [p for p in figures if p is not path]
                    if not self._may_depart(path, op, figures):
                        continue
                    departs = departure(
                        self.d2c([path], op), self.d2c(others, op), SLOW_PATH_FACTOR
                    )
                    if departs is None:
                        continue
                    slow = SlowPath(lun, path, others, OPS[op], departs)
                    requests = figures[path].requests
                    if path.name not in found or requests > found[path.name][0]:
                        found[path.name] = requests, slow
        return sorted((slow for _, slow in found.values()), key=lambda slow: -slow.ratio)

    def _may_be_slow(self, op: int) -> list[tuple[Lun, list[Device]]]:
        """Siblings of which a test, which takes long, may find a path slow.

        A percentile of several paths or intervals together lies between the lowest and the
        highest of theirs.
        """

        def is_suspect(paths: Numbers, of_set: Callable[[np.ufunc, Floats], Floats]) -> Any:
            n = self.sums("requests", paths, op)
            places = [table.places(paths, op) for table in self.tables]
            is_suspect = np.zeros(len(paths), bool)
            for percent, at in _PLACES:
                lowest = np.full(len(paths), np.inf)  # of a path, in either interval
                for table, there in zip(self.tables, places):
                    value = np.where(table.requests[there], table.percentiles[there, at], np.inf)
                    lowest = np.minimum(lowest, of_set(np.minimum, value))
                is_high = self.latest.percentiles[places[-1], at] >= SLOW_PATH_FACTOR * lowest
                is_enough = n * (100 - percent) >= 100 * LEAST_BEYOND
                found = np.flatnonzero(is_enough & is_high)
                shares = least_ranks(n[found], percent) / n[found]
                limits = [
                    table.values(there[found], shares) for table, there in zip(self.tables, places)
                ]
                is_far = np.max(limits, axis=0) >= SLOW_PATH_FACTOR * lowest[found]
                is_suspect[found[is_far]] = True
            return is_suspect

        return self.siblings.suspects(is_suspect)

    def _may_depart(self, path: Device, op: int, figures: Mapping[Device, Figures]) -> bool:
        """Whether the test may find this path slow."""
        n = self.requests(path, op)
        own = figures[path]
        return any(
            n * (100 - percent) >= 100 * LEAST_BEYOND
            and own.percentiles[at]
            >= SLOW_PATH_FACTOR * min(of.percentiles[at] for p, of in figures.items() if p != path)
            for percent, at in _PLACES
        )


_PLACES = [(percent, PERCENTILES.index(percent)) for percent in PERCENTS]


def findings(facts: Facts) -> list[Finding]:
    """What stands out, the most urgent first; each device once."""
    found: list[Finding] = []
    known: set[str] = set()
    for check in CHECKS:
        of_check = [finding for finding in check(facts) if finding.name not in known]
        known.update(name for f in of_check for name in (f.name, *f.evidence.get("paths", ())))
        found += of_check
    return found


def of_run(whole: Interval, topology: Topology) -> list[Finding]:
    """What stands out in a whole run."""
    table = FiguresTable(whole)
    luns = luns_of(topology)
    facts = Facts(luns, [table], Siblings(luns, set(table.devices)), is_whole=True)
    return findings(facts)


def maps_of(topology: Topology | None) -> dict[int, int]:
    """The number of each path's map, by that of the path."""
    devices = topology.devices if topology is not None else ()
    numbers = {device.name: device.number for device in devices}
    return {
        device.number: above
        for device in devices
        if device.number is not None and device.map is not None
        if (above := numbers.get(device.map)) is not None
    }


def without_moved(
    hung: list[tuple[int, int, int]], whole: Interval, topology: Topology | None
) -> list[tuple[int, int, int]]:
    """What hung, without paths whose map did not hang: multipath moved their requests.

    Args:
        hung: age of the oldest request, number in flight, and device.
        whole: the run.
        topology: of the traced host, if it is known.
    """
    maps = maps_of(topology)
    flowing = set(whole.rows["device"].tolist()) - {device for *_, device in hung}
    return [item for item in hung if maps.get(item[2]) not in flowing]


# --- stalls ---------------------------------------------------------------------------------------


def _stalled(facts: Facts) -> Iterator[Finding]:
    """Stalled LUNs; of other LUNs the stalled paths; without these, LUNs with a stalled request."""
    stalled = facts.latest.stalled
    if facts.is_whole or not stalled:
        return
    for lun in facts.luns:
        if stalled.isdisjoint(d.number for d in (*lun.paths, lun.map) if d is not None):
            continue
        waiting = [(path, of) for path in lun.paths if (of := _waits(facts, path)) is not None]
        of_map = None if lun.map is None else _waits(facts, lun.map)
        if of_map is not None:
            names = [path.name for path, _ in waiting] or facts.waited.get(lun.name, ())
            # A path may have given its request back: then it is in flight on the map alone.
            where = "; ".join(f"path {_leading(path)} has {_in_flight(g)}" for path, g in waiting)
            if not waiting:
                last = [_leading(path) for path in lun.paths if path.name in names]
                where = f"last seen on path {', '.join(last)}" if last else "no path has any"
            text = f"{lun.name} is stalled: nothing completes, {_in_flight(of_map)}; {where}"
            yield Finding("stalled", lun.name, text, evidence=_stall(of_map, lun, names))
        if of_map is not None or _flows(facts, lun.map):
            continue
        for path, of in waiting:
            text = f"{_described(path, lun)}, is stalled: nothing completes, {_in_flight(of)}"
            yield Finding("stalled_path", path.name, text, evidence=_stall(of, lun, [path.name]))
        if not waiting and lun.map is not None and (late := _late(facts, lun.map)) is not None:
            names = _names_of(lun.paths, stalled) or facts.waited.get(lun.name, ())
            seen = ", ".join(_leading(path) for path in lun.paths if path.name in names)
            text = (
                f"a request of {lun.name} is stalled, in flight for {time_text(late.oldest_ns)}, "
                f"while others complete" + (f"; last seen on path {seen}" if seen else "")
            )
            yield Finding("stalled_requests", lun.name, text, evidence=_stall(late, lun, names))


def _names_of(paths: Iterable[Device], stalled: Set[int]) -> list[str]:
    """The paths with an old request."""
    return [path.name for path in paths if path.number in stalled]


def _flows(facts: Facts, above: Device | None) -> bool:
    """Whether a map was traced and has no old request. Then an old request of its path has left it:
    native NVMe multipath takes requests away from a path without a trace record.
    """
    if above is None or above.number not in facts.traced:
        return False
    figures = [facts.latest.get(above, op) for op in (ALL_OPS, *facts.latest.ops)]
    return not any(of is not None and (of.oldest_ns or 0) >= STALL_NS for of in figures)


def _waits(facts: Facts, device: Device) -> Figures | None:
    """The figures of a device that completes nothing, though requests have long been in flight."""
    found = _with_old_request(facts, device)
    return None if found is None or found[1] else found[0]


def _late(facts: Facts, device: Device) -> Figures | None:
    """The figures of a device that completes requests, and has one far older than any of these."""
    found = _with_old_request(facts, device)
    if found is None or (found[0].oldest_ns or 0) < LATE_FACTOR * found[1]:
        return None
    return found[0]


def _with_old_request(facts: Facts, device: Device) -> tuple[Figures, int] | None:
    """The figures of a device with an old request, and the highest latency of those that completed.

    The latency is 0 if none completed. None if the completions of all requests that are in flight
    may have been lost.
    """
    of_device = facts.latest.get(device, ALL_OPS)
    if of_device is None:
        return None
    ops = [facts.latest.get(device, op) for op in facts.latest.ops if op != PASSTHROUGH]
    data = [of for of in ops if of is not None]
    if of_device.in_flight is None:  # with --op it is known of operations alone
        of_device = max(data, key=lambda of: of.oldest_ns or 0, default=of_device)
    in_flight, oldest_ns = of_device.in_flight or 0, of_device.oldest_ns or 0
    if oldest_ns < STALL_NS or in_flight <= facts.lost_since(facts.latest.end_ns - oldest_ns):
        return None
    return of_device, max((of.percentiles[-1] for of in data if of.requests), default=0)


def _in_flight(figures: Figures) -> str:
    requests = how_many(figures.in_flight or 0, "request", "requests", ",")
    return f"{requests} in flight for up to {time_text(figures.oldest_ns)}"


def _stall(figures: Figures, lun: Lun, paths: Sequence[str]) -> dict[str, Any]:
    return {
        "lun": lun.name,
        "in_flight": figures.in_flight,
        "oldest_ns": figures.oldest_ns,
        "paths": list(paths),
    }


# --- latency --------------------------------------------------------------------------------------


def _slow_path(facts: Facts) -> Iterator[Finding]:
    for slow in facts.slow_paths:
        path, departs = slow.path, slow.departure
        iops = facts.iops(path)
        usual_iops = sum(facts.iops(p) for p in slow.siblings) / len(slow.siblings)
        on, average = f"on {slow.siblings[0].name}", ""
        if len(slow.siblings) > 1:
            on, average = f"on its {len(slow.siblings)} siblings", " on average"
        figures = (
            f"p{departs.percent} of {plural(slow.op)} "
            f"{time_text(departs.value)}, {time_text(departs.usual)} {on}; "
            f"{rate_text(iops)} IOPS, {rate_text(usual_iops)} there{average}"
        )
        yield Finding(
            "slow_path",
            path.name,
            f"{_described(path, slow.lun)}, is slow",
            figures,
            {
                **_identity(path, slow.lun),
                **_departure(slow),
                "iops": iops,
                "siblings_iops": usual_iops,
            },
            _numbers([path]),
        )


def _departure(slow: SlowPath) -> dict[str, Any]:
    return {
        "op": slow.op,
        "percent": slow.departure.percent,
        "d2c_ns": slow.departure.value,
        "siblings_d2c_ns": slow.departure.usual,
    }


def _numbers(devices: Iterable[Device]) -> tuple[int, ...]:
    return tuple(device.number for device in devices if device.number is not None)


def _slow_port(facts: Facts) -> Iterator[Finding]:
    """A port that all slow paths of several LUNs have in common."""
    slow = facts.slow_paths
    if len({of.lun.name for of in slow}) < 2:
        return
    for kind, what, port_of in (
        ("slow_port", "target port", lambda via: via.target_port),
        ("slow_hba", "host port", initiator_of),
    ):
        ports = {port_of(of.path.transport or Transport()) for of in slow}
        elsewhere = {port_of(p.transport or Transport()) for of in slow for p in of.siblings}
        port = ports.pop()
        if ports or port is None or port in elsewhere:
            continue
        on_port = [
            (lun, path)
            for lun, alike in facts.siblings.sets
            for path in alike
            if port_of(path.transport or Transport()) == port and facts.taken(path)
        ]
        worst = slow[0]
        luns = how_many(len({of.lun.name for of in slow}), "LUN", "LUNs")
        figures = (
            f"{len(slow)} of the "
            f"{len(on_port)} paths in use there, of {luns}; worst is {worst.path.name}, "
            f"p{worst.departure.percent} of {plural(worst.op)} {time_text(worst.departure.value)}, "
            f"{time_text(worst.departure.usual)} on its siblings"
        )
        evidence = {
            "luns": sorted({of.lun.name for of in slow}),
            "paths": [of.path.name for of in slow],
            "paths_in_use": len(on_port),
            **_departure(worst),
        }
        of_port = f"{what} {printable(port)} is common to all slow paths"
        devices = _numbers(of.path for of in slow)
        yield Finding(kind, printable(port), of_port, figures, evidence, devices)


def _slow_array(facts: Facts) -> Iterator[Finding]:
    """An array that is slower than all others together."""
    if len(facts.siblings.arrays) < 2:
        return
    devices = set(facts.latest.devices)
    arrays = {
        name: paths
        for name, paths in facts.siblings.arrays.items()
        if any(path.number in devices for path in paths)
    }
    if len(arrays) < 2:
        return
    for op in facts.latest.ops:
        of_array = {name: facts.d2c(paths, op) for name, paths in arrays.items()}
        for name, d2c in of_array.items():
            others = Distribution().merge(*(o for n, o in of_array.items() if n != name))
            if (departs := departure(d2c, others, SLOW_ARRAY_FACTOR)) is not None:
                luns = {lun.name for lun in facts.luns if lun.paths[0].array == name}
                figures = (
                    f"p{departs.percent} of {plural(OPS[op])} "
                    f"{time_text(departs.value)}, {time_text(departs.usual)} on the other "
                    f"{how_many(len(arrays) - 1, 'array', 'arrays')}; it has "
                    f"{how_many(len(luns), 'LUN', 'LUNs')}"
                )
                evidence = {
                    "op": OPS[op],
                    "percent": departs.percent,
                    "d2c_ns": departs.value,
                    "others_d2c_ns": departs.usual,
                    "luns": sorted(luns),
                }
                what = f"array {printable(name)} is slow"
                numbers = _numbers(arrays[name])
                yield Finding("slow_array", printable(name), what, figures, evidence, numbers)
                break


# --- errors and load ------------------------------------------------------------------------------


def _failing(facts: Facts) -> Iterator[Finding]:
    """Paths whose share of errors or requeues is higher than that of their siblings."""

    def is_suspect(paths: Numbers, of_set: object) -> Any:
        counts = (facts.sums(name, paths) for name in ("errors", "requeues"))
        return np.maximum(*counts) >= LEAST_FAILED

    for lun, alike in facts.siblings.suspects(is_suspect):
        counted = {
            p.name: [sum(of) for of in zip(*((f.errors, f.requeues, f.requests) for f in figures))]
            for p in alike
            if (figures := facts.figures(p))
        }
        for path in alike if len(counted) > 1 else ():
            if max(counted.get(path.name, [0])[:2]) < LEAST_FAILED:
                continue
            of_others = [of for name, of in counted.items() if name != path.name]
            others = [sum(column) for column in zip(*of_others)]
            for at, what in enumerate(("errors", "requeues")):
                part, usual = counted[path.name][at], others[at]
                whole = max(counted[path.name][2], part)
                of_siblings = max(others[2], usual)
                low, _ = share_limits(part, whole)
                _, high = share_limits(usual, of_siblings)
                if part >= LEAST_FAILED and low > high:
                    text = (
                        f"{_described(path, lun)}, fails: {part:,} {what} of {whole:,} requests, "
                        f"{usual:,} of {of_siblings:,} on its siblings"
                    )
                    evidence = {
                        **_identity(path, lun),
                        what: part,
                        "requests": whole,
                        f"siblings_{what}": usual,
                        "siblings_requests": of_siblings,
                    }
                    yield Finding("failing_path", path.name, text, evidence=evidence)
                    break


def _idle(facts: Facts) -> Iterator[Finding]:
    """Paths that take no or few requests, while their siblings take many."""

    def is_suspect(paths: Numbers, of_set: Callable[[np.ufunc, Floats], Floats]) -> Any:
        taken = facts.sums("requests", paths) - facts.sums("requests", paths, PASSTHROUGH)
        others = (of_set(np.add, taken) - taken) / (of_set(np.add, np.ones(len(paths))) - 1)
        is_few = (1 + FEW_FACTOR) * taken < taken + others + 1  # the test below rounds others
        return is_few & (others >= LEAST_OF_SIBLINGS)

    for lun, alike in facts.siblings.suspects(is_suspect):
        taken = {path.name: facts.taken(path) for path in alike}
        for path in alike:
            siblings = [p.name for p in alike if p is not path]
            mean = sum(taken[name] for name in siblings) / len(siblings)
            _, most = share_limits(taken[path.name], round(taken[path.name] + mean))
            if mean < LEAST_OF_SIBLINGS or most >= 1 / (1 + FEW_FACTOR):
                continue
            own = taken[path.name]
            others = siblings[0] if len(siblings) == 1 else f"each of its {len(siblings)} siblings"
            state = "" if path.state in (None, "running", "live") else f", and is {path.state}"
            taken_text = (
                f"only {how_many(own, 'request', 'requests', ',')}" if own else "no requests"
            )
            text = (
                f"{_described(path, lun)}, takes {taken_text}, while {others} takes "
                f"{round(mean):,}{state}"
            )
            evidence = {
                **_identity(path, lun),
                "requests": own,
                "siblings_requests": round(mean),
                "state": path.state,
            }
            kind = "few_requests" if own else "idle_path"
            yield Finding(kind, path.name, text, evidence=evidence)


CHECKS: Sequence[Callable[[Facts], Iterator[Finding]]] = (
    _stalled,
    _slow_array,
    _slow_port,
    _slow_path,
    _failing,
    _idle,
)
"""In the order of urgency. A device that one check has named is not named by a later one."""


# --- changes of state -----------------------------------------------------------------------------

_WATCHED = ("state", "access_state", "map", "alias", "size_bytes")
_WATCHED_OF_TRANSPORT = (
    "target_state",
    "connection_state",
    "initiator_state",
    "speed_gbit_per_s",
    "target_port",
)


def changes(before: Topology, now: Topology) -> list[Finding]:
    """What has changed: paths that come, go, fail, or change their access state."""
    if now is before:
        return []
    old, new = ({d.name: d for d in topology.devices} for topology in (before, now))
    luns = (*luns_of(before), *luns_of(now))
    lun_of = {path.name: lun for lun in luns for path in lun.paths}
    found = []

    def add(device: Device, what: str, attribute: str, values: tuple[Any, Any]) -> None:
        lun = lun_of.get(device.name)
        name = _described(device, lun) + "," if lun is not None else _plain_name(device)
        evidence = _identity(device, lun) if lun is not None else {}
        evidence |= {"attribute": attribute, "before": values[0], "after": values[1]}
        found.append(Finding("changed", device.name, f"{name} {what}", evidence=evidence))

    for name in sorted(old.keys() - new.keys(), key=order):
        add(old[name], "is gone", "name", (name, None))
    for name in sorted(new.keys() - old.keys(), key=order):
        add(new[name], "is new", "name", (None, name))
    for name in sorted(old.keys() & new.keys(), key=order):
        pairs: list[tuple[str, object, object]]
        pairs = [(attribute, old[name], new[name]) for attribute in _WATCHED]
        vias = old[name].transport, new[name].transport
        if None not in vias:
            pairs += [(attribute, *vias) for attribute in _WATCHED_OF_TRANSPORT]
        for attribute, was, now_is in pairs:
            values = getattr(was, attribute), getattr(now_is, attribute)
            if values[0] != values[1]:
                words = attribute.replace("_", " ")
                what = f"changed its {words} from {_value(values[0])} to {_value(values[1])}"
                add(new[name], what, attribute, values)
    return found


def _value(value: object) -> str:
    return "unknown" if value is None else printable(str(value))


# --- words ----------------------------------------------------------------------------------------


def clock(time_ns: int, within: Interval, start_ns: int, *, is_fine: bool) -> str:
    """A moment: its time of day in UTC, with its date unless ``within`` ends on that day.

    Without the time of day: time since ``start_ns``. ``zone`` says which.
    """
    if not within.anchored:
        return time_text(time_ns - start_ns)
    day, of_day = utc(time_ns)[: 23 if is_fine else 19].split("T")
    return of_day if day == utc(within.end_ns)[:10] else f"{day} {of_day}"


def zone(within: Interval) -> str:
    """What follows a moment, or several."""
    return " UTC" if within.anchored else " after the start"


def _plain_name(device: Device) -> str:
    return printable(device.alias or device.name)


def _leading(path: Device) -> str:
    """A path and the port that it leads to."""
    port = (path.transport or Transport()).target_port
    return printable(f"{path.name} to {port}" if port else path.name)


def _described(path: Device, lun: Lun) -> str:
    port = (path.transport or Transport()).target_port
    return printable(f"{path.name}, a path of {lun.name}" + f" to {port}" * bool(port))


def _identity(path: Device, lun: Lun) -> dict[str, Any]:
    via = path.transport or Transport()
    return {"lun": lun.name, "target_port": via.target_port, "array": path.array}


# --- in a run -------------------------------------------------------------------------------------


class Tracker:
    """Makes a view of each interval of a run, and adds findings and changes of the topology.

    Args:
        topology: of the traced host.
        by: one of ``interval.views.BY``.
        traced: numbers of devices that are certainly traced.

    Attributes:
        view: where the figures are added up; by device it only has the names.
        topology: the latest one; set by the thread.
    """

    def __init__(self, topology: Topology, by: str, traced: Iterable[int] = ()) -> None:
        self.view = View(topology, by, traced)
        self._luns_view = View(topology, "lun", traced)
        self._shown = topology  # at the latest interval
        self._luns = luns_of(topology)
        self._traced = set(traced)
        self._siblings = Siblings(self._luns, self._traced)
        self._before: tuple[FiguresTable, ...] = ()
        self._waited: dict[str, Sequence[str]] = {}
        self._losses: deque[tuple[int, int]] = deque(maxlen=MOST_LOSSES)
        self._slow_since: dict[tuple[str, str], int | None] = {}
        self._start_ns = 0
        self.topology = topology
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, refresh_s: float, most_share: float = 1.0) -> None:
        """Look for changes of this host so often, in a thread of its own, until ``close``.

        Args:
            refresh_s: time between two looks.
            most_share: look less often if this takes more than that share of a processor.
        """
        self._thread = threading.Thread(
            target=self._refresh, args=(refresh_s, most_share), name="topology", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop looking for changes."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join()

    def _refresh(self, refresh_s: float, most_share: float) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        wait_s = refresh_s
        while not self._has_ended.wait(wait_s):
            begun_s = time.thread_time()
            with suppress(OSError):  # without sysfs, the topology stays as it is
                self.topology = refresh_topology(self.topology)
            wait_s = max(refresh_s, (time.thread_time() - begun_s) / most_share)

    def __call__(self, interval: Interval) -> Interval:
        """The interval with findings, as a view if one is wanted."""
        now = self.topology
        before = self._shown
        found = changes(before, now)
        if now is not before:
            self._shown = now
            self._luns = luns_of(now)
            self.view.update(now)
            self._luns_view.update(now)
        table = FiguresTable(interval)
        if not self._before:
            self._start_ns = interval.start_ns
        if now is not before or not self._traced.issuperset(table.devices):
            self._traced.update(table.devices)
            self._siblings = Siblings(self._luns, self._traced)
        if table.lost_events:
            self._losses.append((table.end_ns, table.lost_events))
        facts = Facts(
            self._luns,
            (*self._before, table),
            self._siblings,
            self._waited,
            losses=self._losses,
            traced=self._traced,
        )
        of_now = self._since(findings(facts), interval)
        self._waited = self._paths_waited_for(table.stalled) if table.stalled else {}
        self._before = (table,)
        found += of_now
        by_device = self.view.by == "device"
        shown = self._luns_view.count_once(interval) if by_device else self.view(interval)
        return shown.with_findings(found)

    def _since(self, found: Iterable[Finding], interval: Interval) -> list[Finding]:
        """Return the findings; a slow path, port or array gets the time since when it is slow.

        The time is left out if the interval before had too few requests to judge by.
        """
        before, self._slow_since = self._slow_since, {}
        dated = []
        for one in found:
            if one.kind.startswith("slow_"):
                key = one.kind, one.name
                new_ns = interval.start_ns if self._was_seen(one) else None
                since_ns = self._slow_since[key] = before.get(key, new_ns)
                if since_ns is not None:
                    is_fine = interval.duration_s < 1
                    at = clock(since_ns, interval, self._start_ns, is_fine=is_fine)
                    evidence = {**one.evidence, "since_ns": since_ns}
                    one = one._replace(when=f" since {at}{zone(interval)}", evidence=evidence)
            dated.append(one)
        return dated

    def _was_seen(self, slow: Finding) -> bool:
        """Whether in the interval before, requests were enough to judge by their median."""
        numbers, op = np.array(slow.devices), OPS.index(slow.evidence["op"])
        counts = [table.requests[table.places(numbers, op)].sum() for table in self._before]
        return bool(sum(counts) >= 2 * LEAST_BEYOND)

    def _paths_waited_for(self, stalled: Set[int]) -> dict[str, Sequence[str]]:
        """See ``Facts.waited``. ``stalled``: numbers of the devices with an old request."""
        return {
            lun.name: _names_of(lun.paths, stalled) or self._waited.get(lun.name, ())
            for lun in self._luns
            if lun.map is not None and lun.map.number in stalled
        }
