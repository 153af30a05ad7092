"""What the checks look at: the figures of LUNs and of their paths, compared with siblings.

A path is compared with its siblings: the paths of the same LUN in the same access state.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.console import printable
from blkiomon.engine.constants import ALL_OPS, OPS
from blkiomon.interval.columns import NS_PER_S
from blkiomon.interval.departures import LEAST_BEYOND, PERCENTS, Departure, departure, least_ranks
from blkiomon.interval.distribution import PERCENTILES, Distribution, bin_bounds
from blkiomon.interval.moments import distinct
from blkiomon.interval.value import Interval
from blkiomon.sources.topology import PATH_KINDS, Device, Topology

SLOW_PATH_FACTOR = 2
"""A path is slow if a percentile is so many times that of its siblings."""

STALL_NS = NS_PER_S
"""Nothing completes, and a request has been in flight for so long."""

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
                latest = self.latest.percentiles[places[-1], at]  # 0: the file has none
                is_high = (latest > 0) & (latest >= SLOW_PATH_FACTOR * lowest)
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
