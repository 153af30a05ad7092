"""Views: the figures of an interval by LUN, path, port, HBA or array instead of by device.

A view adds up what the engine counted, exactly. A multipath map and its paths carry the same
requests: the groups and totals of a view have either the map or its paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.console import how_many
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.interval.devices import text_of
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.moments import U64_MAX, add_up_words, distinct, run_starts, to_words
from blkiomon.interval.operations import select_rows
from blkiomon.interval.tables import QUEUED, REQUESTS, RETRIED
from blkiomon.interval.value import Interval, in_order
from blkiomon.sources.topology import PATH_KINDS, Device, Topology, Transport

BY = ("device", "lun", "path", "port", "hba", "array")
"""What the groups of an interval can be. ``device`` needs no view: the engine counts by device."""

MAP_KINDS = frozenset({"multipath", "nvme-head"})

Numbers = npt.NDArray[np.uint32]


class LeftOut(NamedTuple):
    """A device that a view leaves out. ``why`` names the kind of such devices, in the plural."""

    why: str
    name: str


Place = int | LeftOut | None
"""Where a device belongs: the number of its group, or why it is left out; None: it is a map that is
shown beside its paths."""


class View:
    """Turns an interval by device into one by LUN, path, port, HBA or array.

    - ``lun``: a map's own figures if it was traced, otherwise those of its paths together.
    - ``path``: each path; the maps that were traced are in ``Interval.maps``.
    - ``port``, ``hba``: the paths to a port of an array, or from one of this host.
    - ``array``: the paths to an array; a map counts itself if none of its paths was traced.

    Disks that belong to no array are shown as themselves. Volumes made of traced devices are left
    out. Whether a device was traced is known from its first request on.

    A group of several devices has a number of its own, 0:1 and so on, which stays the same while
    the view exists.

    Args:
        topology: of the traced host.
        by: one of ``BY`` but ``device``.
        traced: numbers of devices that were certainly traced.

    Attributes:
        by: as given.
        topology: may be replaced while the host changes.
    """

    def __init__(self, topology: Topology, by: str, traced: Iterable[int] = ()) -> None:
        self.by = by
        self._traced = set(traced)
        self._own: dict[str, int] = {}  # key of a group -> its number
        self._names: dict[int, str] = {}
        self._members: dict[int, set[str]] = {}
        self._known: dict[int, Place] = {}  # by number of a device
        self.update(topology)

    def update(self, topology: Topology) -> None:
        """Use another topology from now on."""
        self.topology = topology
        self._by_name = {device.name: device for device in topology.devices}
        self._by_number = {d.number: d for d in topology.devices if d.number is not None}
        self._names |= {n: device.alias or device.name for n, device in self._by_number.items()}
        self._forget()

    def _forget(self) -> None:
        self._known.clear()
        self._members.clear()

    @property
    def left_out(self) -> list[LeftOut]:
        """The devices that were left out so far; without the maps of a view by path."""
        return sorted(place for place in self._known.values() if isinstance(place, LeftOut))

    @property
    def has_maps(self) -> bool:
        """Whether maps were traced; in a view by path they are beside its groups."""
        return any(map(self.is_map, self._traced))

    def name_of(self, number: int) -> str | None:
        """The name of a group: an alias, a path, a port, an array; None if it is unknown."""
        return self._names.get(number)

    def is_map(self, number: int) -> bool:
        """Whether this is a multipath map or the head of NVMe paths."""
        device = self._by_number.get(number)
        return device is not None and device.kind in MAP_KINDS

    def map_of(self, number: int) -> int | None:
        """In a view by path, the map or head below which a path is shown; None for others."""
        device = self._by_number.get(number) if self.by == "path" else None
        above = self._by_name.get(device.map or "") if device is not None else None
        return None if above is None else above.number

    @property
    def groups(self) -> dict[int, int]:
        """The number of the group of each device that was traced, unless it is left out."""
        return {n: place for n, place in self._known.items() if isinstance(place, int)}

    @property
    def sums(self) -> set[int]:
        """The groups of several devices that were traced."""
        return {number for number, n in Counter(self.groups.values()).items() if n > 1}

    def about(self, number: int) -> str:
        """Where a path leads, or how many paths were added up; empty if none were."""
        device = self._by_number.get(number)
        if device is not None and device.transport is not None:
            return device.transport.target_port or device.transport.host or ""
        names = self._members.get(number, set())
        luns = {d.map or d.wwid or d.name for name in names if (d := self._by_name.get(name))}
        if not names:
            return ""
        paths = how_many(len(names), "path", "paths")
        return paths if self.by == "lun" else f"{how_many(len(luns), 'LUN', 'LUNs')}, {paths}"

    def __call__(self, interval: Interval) -> Interval:
        """The view of an interval. Its counts, such as lost events, stay those of all devices."""
        numbers = devices_of(interval)
        groups = self.groups_of(numbers)
        seen = replace(regroup(interval, numbers, groups), by=self.by)
        if self.by != "path":
            return seen
        maps = {n: n if self.is_map(n) else None for n in numbers.tolist()}
        if any(number is not None for number in maps.values()):
            return replace(seen, maps=regroup(interval, numbers, maps))
        return seen

    def count_once(self, interval: Interval) -> Interval:
        """The interval by device, with a total that counts a request on several devices once.

        The maximum in flight of such a total is a lower bound, see ``regroup``. Only for a view by
        LUN, which knows what devices carry the same requests.
        """
        groups = self.groups_of(devices_of(interval))
        left_out = tuple(number for number, group in groups.items() if group is None)
        if not left_out:
            return interval
        loads = interval.snapshot.loads.copy()
        is_counted = (loads["op"] == layout.ALL_OPS) & ~np.isin(loads["device"], left_out)
        loads[loads["op"] == layout.EVERYTHING] = _total_load(loads[is_counted])
        snapshot = replace(interval.snapshot, loads=loads)
        return replace(interval, snapshot=snapshot, not_in_total=left_out)

    def add_traced(self, numbers: Iterable[int]) -> None:
        """Take note that these devices were traced."""
        if not self._traced.issuperset(numbers):
            self._traced.update(numbers)
            self._forget()
        for number in self._traced - self._known.keys():
            self._known[number] = self._place(number)

    def groups_of(self, numbers: Numbers) -> dict[int, int | None]:
        """The group of each of these devices, which were traced; None: it is left out."""
        self.add_traced(numbers.tolist())
        return {n: at if isinstance(at := self._known[n], int) else None for n in numbers.tolist()}

    def identity(self, number: int) -> tuple[str, str]:
        """What identifies a group in other runs, too; and its name for people.

        Devices have other names and numbers after a reboot. A LUN is known by its WWID, a path by
        its LUN and the ports at both of its ends; other groups are known by their names.
        """
        device = self._by_number.get(number)
        if device is None:
            name = self._names.get(number) or text_of(number)
            return name, name
        above = self._by_name.get(device.map or "") or device
        lun = above.wwid or device.wwid or above.alias or above.name
        name = above.alias or (lun if above.kind in PATH_KINDS else above.name)
        via = device.transport
        if self.by != "path" or device.kind not in PATH_KINDS or via is None:
            return lun, name
        initiator = initiator_of(replace(via, host=None)) or "?"
        port = via.target_port or device.hctl or device.name
        return f"{lun} {initiator} {port}", f"{name}, {initiator} to {port}"

    # --- where a device belongs -------------------------------------------------------------------

    def _place(self, number: int) -> Place:
        device = self._by_number.get(number)
        if device is None:
            return number
        if device.kind in MAP_KINDS:
            return self._place_of_map(device, number)
        if device.transport is None:
            is_above = any(map(self._is_traced, device.made_of))
            return self._left(number, "volumes on traced devices") if is_above else number
        if device.array is None and device.kind not in PATH_KINDS:
            return number
        return self._place_of_path(device, number)

    def _place_of_map(self, device: Device, number: int) -> Place:
        if self.by == "lun":
            return number
        if any(self._is_traced(path) for path in device.made_of):
            if self.by == "path":  # which shows it beside its paths
                return None
            return self._left(number, "maps whose paths are added up")
        if self.by == "array" and device.array is not None:
            return self._numbered(device.array, number)
        return self._left(number, "maps without a traced path")

    def _place_of_path(self, device: Device, number: int) -> Place:
        via = device.transport or Transport()
        if self.by == "path":
            return number
        if self.by == "lun":
            above = self._by_name.get(device.map or "")
            if above is None or above.number is None:
                return self._numbered(device.wwid, number, device)
            if above.number in self._traced:
                return self._left(number, "paths of maps that are shown")
            self._members.setdefault(above.number, set()).add(device.name)
            return above.number
        if self.by == "port":
            return self._numbered(via.target_port, number, device)
        if self.by == "hba":
            return self._numbered(initiator_of(via), number, device)
        return self._numbered(device.array, number, device)

    def _numbered(self, name: str | None, otherwise: int, path: Device | None = None) -> int:
        """The number of the group with this name; ``otherwise`` if the name is unknown."""
        if name is None:
            return otherwise
        number = self._own.setdefault(name, len(self._own) + 1)
        self._names[number] = name
        if path is not None:
            self._members.setdefault(number, set()).add(path.name)
        return number

    def _left(self, number: int, why: str) -> LeftOut:
        return LeftOut(why, self._names.get(number) or text_of(number))

    def _is_traced(self, name: str) -> bool:
        """Whether a device, or something that it is made of, was traced."""
        device = self._by_name.get(name)
        if device is None:
            return False
        return device.number in self._traced or any(map(self._is_traced, device.made_of))


def initiator_of(via: Transport) -> str | None:
    """The port of this host: an FC port name, an IP address, an NQN; else the SCSI host."""
    if via.protocol in ("fc", "fcoe"):
        return via.initiator or via.host
    return via.initiator_address or via.initiator or via.host


# --- adding up ------------------------------------------------------------------------------------


def devices_of(interval: Interval) -> Numbers:
    """The devices that have requests, completed or in flight, in ascending order."""
    snapshot = interval.snapshot
    loads = snapshot.loads["device"][snapshot.loads["op"] != layout.EVERYTHING]
    tables = snapshot.rows, snapshot.queue_rows, snapshot.retry_rows
    return distinct(np.concatenate([*(table["device"] for table in tables), loads]))


def regroup(interval: Interval, numbers: Numbers, groups: dict[int, int | None]) -> Interval:
    """An interval whose devices are added up to groups. Sums and histograms are exact.

    Of several devices together, the time with any request in flight is unknown. Their maximum in
    flight is a lower bound: the greatest of their maxima, or their number at the end if greater.
    If any device is left out, processes are too: they are not counted by device.

    Args:
        interval: by device.
        numbers: its devices, ascending.
        groups: the number of the group of each device; None: it is left out.
    """
    if not len(numbers):
        return interval
    found = [groups[number] for number in numbers.tolist()]
    is_kept = np.array([group is not None for group in found], bool)
    group_of = np.array([group or 0 for group in found], np.uint32)
    snapshot = interval.snapshot
    tables = select_rows(snapshot, lambda table: is_kept[np.searchsorted(numbers, table["device"])])
    for spec in (REQUESTS, QUEUED, RETRIED):
        table = tables[spec.name]
        table["device"] = group_of[np.searchsorted(numbers, table["device"])]
    has_all = bool(is_kept.all())
    kept_snapshot = Snapshot(**tables)
    if len(np.unique(group_of[is_kept])) < np.count_nonzero(is_kept):
        kept_snapshot = merge_snapshots([kept_snapshot])
    devices = interval.devices
    place = np.searchsorted(numbers, devices)
    return replace(
        interval,
        devices=in_order(group_of[place[is_kept[place]]] if len(devices) else devices),
        snapshot=replace(
            kept_snapshot,
            loads=_loads(snapshot.loads, numbers, group_of, is_kept),
            processes=snapshot.processes[: None if has_all else 0],
        ),
        process_names=interval.process_names if has_all else {},
        named_ns=interval.named_ns if has_all else {},
        not_in_total=(),
    )


def _loads(
    loads: Table, numbers: Numbers, group_of: Numbers, is_kept: npt.NDArray[np.bool_]
) -> Table:
    """The requests in flight of groups, dtype ``layout.LOAD``."""
    if not len(loads):
        return loads
    is_total = loads["op"] == layout.EVERYTHING
    each = loads[~is_total]
    place = np.searchsorted(numbers, each["device"])
    each = each[is_kept[place]]
    each["device"] = group_of[place[is_kept[place]]]
    total = loads[is_total]
    if len(total) and not is_kept.all():
        total = _total_load(each[each["op"] == layout.ALL_OPS])
    return np.concatenate([_add_up_loads(each), total])


def _total_load(devices: Table) -> Table:
    """The row of the total, from those of some devices as a whole: a copy, which changes."""
    devices["device"], devices["op"] = 0, layout.EVERYTHING
    total = _add_up_loads(devices) if len(devices) else np.zeros(1, layout.LOAD)
    total["op"] = layout.EVERYTHING
    total["busy_ns"] = 0
    return total


def _add_up_loads(loads: Table) -> Table:
    """One row for each device and operation."""
    if not len(loads):
        return loads
    key = loads["device"].astype(np.int64) << 4 | loads["op"]
    loads = loads.take(np.argsort(key, kind="stable"))
    starts = run_starts(np.sort(key))
    found = loads.take(starts)
    found["in_flight"] = np.add.reduceat(loads["in_flight"], starts)
    most = np.maximum.reduceat(loads["max_in_flight"], starts)
    found["max_in_flight"] = np.maximum(most, found["in_flight"])
    found["oldest_ns"] = np.maximum.reduceat(loads["oldest_ns"], starts)
    found["in_flight_ns"] = to_words(add_up_words(loads["in_flight_ns"], starts))
    is_several = (np.diff(starts, append=len(loads)) > 1) & (found["op"] == layout.ALL_OPS)
    found["busy_ns"][is_several] = U64_MAX
    return found
