"""The rows of the table: which devices, in which order, and the figures of those that fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.commands.san.checks import of_run
from blkiomon.commands.san.facts import Lun, luns_of
from blkiomon.commands.table import idle_label, op_label, without_rates
from blkiomon.commands.top.look import TREES, WORST, Look, RowKey
from blkiomon.commands.top.past import P99, Codes
from blkiomon.commands.top.watch import RunState
from blkiomon.commands.views import shortened
from blkiomon.console import how_many, printable
from blkiomon.engine.constants import ALL_OPS, OPS
from blkiomon.formats.units import device_text
from blkiomon.interval.columns import Columns
from blkiomon.interval.findings import Finding
from blkiomon.interval.groups import Group, group_at
from blkiomon.interval.moments import distinct
from blkiomon.interval.value import Interval
from blkiomon.interval.views import View
from blkiomon.sources.topology import Device, Topology

FEW_DEVICES = 5
"""With more devices, rows of operations are hidden until they are asked for."""

RAISED_NS, SEVERE_NS = 10_000_000, 100_000_000
"""Latencies from which on figures stand out."""

WAITING = "waiting"
"""State of a device that completes nothing, although requests are in flight."""

OPEN, CLOSED = "▾ ", "▸ "

NAME_WIDTH = 20

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

SORTS: dict[str, Callable[[Columns], Any]] = {
    "IOPS": lambda c: c.d2c_ns.count,
    "MB/s": lambda c: c.size_bytes.sum,
    "size": lambda c: c.size_bytes.means(slice(None)),
    "mean": lambda c: c.d2c_ns.means(slice(None)),
    "p50": lambda c: c.d2c_ns.percentiles[:, 0],
    "p90": lambda c: c.d2c_ns.percentiles[:, 1],
    "p99": lambda c: c.d2c_ns.percentiles[:, P99],
    "p99.9": lambda c: c.d2c_ns.percentiles[:, P99 + 1],
    "max": lambda c: c.d2c_ns.max,
    "flight": lambda c: c.in_flight.end if c.in_flight else [],
    "oldest": lambda c: c.in_flight.oldest_ns if c.in_flight else [],
    "busy": lambda c: c.in_flight.busy_ns if c.in_flight else [],
    "aqu-sz": lambda c: c.in_flight.request_ns if c.in_flight else [],
    "q2d": lambda c: c.q2d_ns.percentiles[:, P99] if c.q2d_ns else [],
}
"""The figure of each group by which a column sorts; an empty list: unknown."""


class ScreenRow(NamedTuple):
    """A row of the table.

    Attributes:
        name: with its place in the tree.
        op: an operation, or the state of a device.
        group: None: it was idle.
        worst_ns: p99 of the slowest operation, or the age of the oldest request.
        codes: the highest p99 in each slice of the run, see ``Past``.
        errors, requeues: since the start.
        new_errors, new_requeues: in the latest interval; 0 for a whole run.
        level: 0, or 1 and 2 for what stands out, slightly or much.
    """

    name: str
    op: str
    group: Group | None
    worst_ns: int = 0
    codes: Codes | None = None
    errors: int = 0
    requeues: int = 0
    new_errors: int = 0
    new_requeues: int = 0
    level: int = 0
    is_device: bool = True
    has_operations: bool = False
    is_idle: bool = False
    is_selected: bool = False


class GroupFigures:
    """The figures of the devices or groups of an interval, as columns.

    Attributes:
        columns: None: no interval.
        numbers: shape (n,): of the devices; idle ones come last.
        own_worst_ns: shape (n,), of the requests that a group counts, see ``ScreenRow``.
        worst_ns: the same, but at least that of each device of the group.
    """

    def __init__(self, interval: Interval | None, known: Numbers) -> None:
        columns = self.columns = None if interval is None else interval.columns()
        keys = np.empty(0, np.int64) if columns is None else columns.key_array[:-1]
        self.places = np.flatnonzero(keys & 7 == ALL_OPS)
        here = keys[self.places] >> 3
        idle = known[~np.isin(known, here, assume_unique=True)]
        self.numbers = np.concatenate([here, idle])
        self.starts = np.concatenate([[0], self.places + 1])[:-1].astype(np.intp)
        worst = np.zeros(len(keys))
        if columns is not None and len(keys):
            worst = np.where(keys & 7 == ALL_OPS, 0, columns.d2c_ns.percentiles[:-1, P99])
            worst = np.maximum(worst, self._column(SORTS["oldest"](columns))[:-1])
            worst = np.maximum.reduceat(worst, self.starts)
        self.own_worst_ns: Floats = np.concatenate([worst, np.zeros(len(idle))])
        self.worst_ns = self.own_worst_ns.copy()
        self.at = {number: at for at, number in enumerate(self.numbers.tolist())}

    def _column(self, values: Sequence[Any]) -> Floats:
        """A figure of each group, with 0 for what is unknown."""
        if not len(values):
            return np.zeros(len(self.columns.keys) if self.columns else 0)
        column = np.array(values, np.float64)  # None becomes nan
        return np.nan_to_num(column, copy=False)

    def sorted_by(self, title: str) -> Floats:
        """What a column sorts by, shape (n,)."""
        found = np.zeros(len(self.numbers))
        if title == WORST or self.columns is None or title not in SORTS:
            return self.worst_ns
        found[: len(self.places)] = self._column(SORTS[title](self.columns))[self.places]
        return found

    def group(self, number: int) -> Group | None:
        """The figures of a device; None if it was idle."""
        at = self.at.get(number, len(self.places))
        if self.columns is None or at >= len(self.places):
            return None
        return group_at(self.columns, int(self.places[at]))

    def ops(self, number: int) -> range:
        """Indices of the operations of a device among the groups."""
        at = self.at.get(number, len(self.places))
        if at >= len(self.places):
            return range(0)
        return range(int(self.starts[at]), int(self.places[at]))

    @property
    def total(self) -> Group | None:
        return None if self.columns is None else group_at(self.columns, len(self.columns.keys) - 1)


class Views:
    """The views of a SAN that the screen shows, made when they are first asked for.

    Args:
        names: has the topology, which may be replaced during a run; None: it is unknown.
        traced: numbers of devices that are certainly traced.
    """

    def __init__(self, names: View | None = None, traced: Iterable[int] = ()) -> None:
        self._names = names
        self._traced = list(traced)
        self._views: dict[str, View] = {}
        self._topology: Topology | None = None
        self._luns: list[Lun] = []

    @property
    def topology(self) -> Topology | None:
        """The latest one; None: it is unknown."""
        return None if self._names is None else self._names.topology

    @property
    def luns(self) -> list[Lun]:
        """The LUNs of the latest topology."""
        if self._topology is not self.topology:
            self._topology = self.topology
            self._luns = [] if self._topology is None else luns_of(self._topology)
        return self._luns

    def of(self, by: str) -> View | None:
        """The view by one of ``interval.views.BY``; None if it shows devices as they are."""
        topology = self.topology
        if topology is None or by == "device":
            return None
        if by not in self._views:
            self._views[by] = View(topology, by, self._traced)
        view = self._views[by]
        if view.topology is not topology:
            view.update(topology)
        return view


def findings_of(state: RunState, look: Look, views: Views) -> Sequence[Finding]:
    """What stands out in the interval that is shown."""
    of_latest = (state.latest.findings if state.latest is not None else None) or ()
    if look.is_whole and state.whole is not None and views.topology is not None:
        since = {(of.kind, of.name): of.when for of in of_latest}
        found = of_run(state.whole, views.topology)
        return [of._replace(when=since.get((of.kind, of.name), "")) for of in found]
    return of_latest


class Rows:
    """The rows of the table, in their order.

    Args:
        state, look: what to show.
        name_of: returns the name of a device.
        views: of a SAN.
        findings: see ``findings_of``.

    Attributes:
        root: the outermost level: ``device``, ``lun`` or ``array``.
        rows: each row and its depth in the tree.
    """

    def __init__(
        self,
        state: RunState,
        look: Look,
        name_of: Callable[[int], str | None],
        views: Views,
        findings: Sequence[Finding] = (),
    ) -> None:
        self._findings = findings
        self._run, self._look, self._name_of = state, look, name_of
        self._luns = views.luns
        self.interval = state.whole if look.is_whole else state.latest
        self._known = distinct(
            np.concatenate([state.past.devices, np.fromiter(state.expected, np.int64)])
        )
        # Groups by port or HBA take the place of arrays, without rows below them.
        levels = {"lun": "lun", "array": "array"} if look.by in TREES else {"array": look.by}
        found = {level: views.of(by) for level, by in levels.items()}
        self._views = {level: view for level, view in found.items() if view is not None}
        self._of_luns = views.of("lun")
        traced = state.past.devices.tolist()
        for of_san in filter(None, (*self._views.values(), self._of_luns)):
            of_san.add_traced(traced)
        self.root = "device"
        if self._views:
            self.root = "lun" if look.by in ("lun", "path") else "array"
        self._by_level: dict[str, GroupFigures] = {}
        self._orders: dict[str, dict[int, int]] = {}
        self._groups: dict[str, dict[int | None, list[int]]] = {}
        self.devices = self._figures("device")
        self._n_roots = len(self._figures(self.root).numbers)
        are_few = self.root == "device" and self._n_roots <= FEW_DEVICES
        self.has_operations = are_few if look.has_operations is None else look.has_operations
        self.rows: list[tuple[RowKey, int]] = []
        self._list()

    def _figures(self, level: str) -> GroupFigures:
        """The figures of devices, LUNs or arrays, when they are first needed."""
        if level not in self._by_level:
            view = self._views.get(level)
            found = self._grouped(view) if view else GroupFigures(self.interval, self._known)
            self._by_level[level] = found
        return self._by_level[level]

    def _grouped(self, view: View) -> GroupFigures:
        interval = None if self.interval is None else view(self.interval)
        groups, devices = view.groups, self.devices
        shown = {n: groups[n] for n in devices.at if n in groups}
        figures = GroupFigures(interval, np.array([*set(shown.values())], np.int64))
        members = [devices.at[number] for number in shown]
        places = [figures.at[group] for group in shown.values()]
        np.maximum.at(figures.worst_ns, places, devices.worst_ns[members])  # by its worst member
        return figures

    # --- order ------------------------------------------------------------------------------------

    @cached_property
    def _children(self) -> dict[RowKey, list[int]]:
        """LUNs of arrays, and paths of LUNs."""
        found: dict[RowKey, list[int]] = {}
        if self._look.by not in TREES:
            return found
        luns, arrays = (self._views[level].groups for level in ("lun", "array"))
        for lun in self._luns:
            paths = [p.number for p in lun.paths if p.number in self.devices.at]
            numbers = [*paths, lun.map.number if lun.map is not None else None]
            traced = [number for number in numbers if number in self.devices.at]
            for group in {luns[number] for number in traced if number in luns}:
                found.setdefault(("lun", group), []).extend(n for n in paths if n is not None)
                of_array = lun.paths[0].array is not None
                for array in {arrays[n] for n in traced if n in arrays} if of_array else ():
                    found.setdefault(("array", array), []).append(group)
        return found

    def _list(self) -> None:
        numbers = self._order(self.root)
        if not (self._children or self.has_operations or self._look.filter):
            self.rows = [((self.root, number), 0) for number in numbers]
            return
        for number in numbers:
            self._add((self.root, number), 0)

    def _order(self, level: str) -> dict[int, int]:
        """All numbers of a level, worst first, and their ranks."""
        if level not in self._orders:
            figures = self._figures(level)
            by = np.lexsort((figures.numbers, -figures.sorted_by(self._look.sort)))
            self._orders[level] = {n: at for at, n in enumerate(figures.numbers[by].tolist())}
        return self._orders[level]

    def _ordered(self, level: str, numbers: Iterable[int]) -> list[int]:
        """Some numbers of a level, worst first."""
        order = self._order(level)
        return sorted((n for n in numbers if n in order), key=order.__getitem__)

    def _add(self, key: RowKey, depth: int, *, is_found: bool = False) -> bool:
        """Add a row and those below it, as far as they are open and the filter lets them pass."""
        look, at = self._look, len(self.rows)
        if look.filter and not is_found:
            is_found = look.filter.lower() in self._text(key).lower()
        self.rows.append((key, depth))
        children = self._children.get(key, [])
        is_needed = is_found
        below = {"array": "lun", "lun": "device"}.get(key[0], "")
        if children and (look.shows_below(key) or (look.filter and not is_found)):
            for number in self._ordered(below, children):
                is_needed |= self._add((below, number), depth + 1, is_found=is_found)
        elif self.has_operations:
            operations = self.with_operations(key)[1:]
            group = self.devices.group(key[1])
            if len(operations) > 1 or (group is not None and not group.requests):
                self.rows += ((operation, depth) for operation in operations)
        if look.filter and not is_needed:
            del self.rows[at:]
        return is_needed

    def _text(self, key: RowKey) -> str:
        level, number = key
        view = self._views.get(level)
        name = view.name_of(number) if view is not None else self._name_of(number)
        return printable(name or device_text(number))

    def __contains__(self, key: RowKey) -> bool:
        level, number = key
        is_there = level == "device" or level in self._views
        return is_there and number in self._figures(level).at

    def with_operations(self, key: RowKey) -> list[RowKey]:
        """A row, and those of its operations."""
        columns = self.devices.columns
        if key[0] != "device" or columns is None:
            return [key]
        return [key, *(("op", columns.keys[place]) for place in self.devices.ops(key[1]))]

    # --- rows -------------------------------------------------------------------------------------

    def members(self, key: RowKey) -> list[int]:
        """Numbers of the devices that a row adds up."""
        level, number = key
        if level == "op":
            return [number >> 3]
        return [number] if level == "device" else self._members(level).get(number, [])

    def _members(self, level: str) -> dict[int | None, list[int]]:
        """The devices of each group of a level; those of None are left out."""
        if level not in self._groups:
            found = self._groups[level] = {}
            groups = self._views[level].groups
            for number in self.devices.at:
                found.setdefault(groups.get(number), []).append(number)
        return self._groups[level]

    @cached_property
    def _levels(self) -> dict[str, int]:
        """How much devices stand out because of findings, by the kernel's name."""
        found: dict[str, int] = {}
        for finding in self._findings:
            level = 1 if finding.kind in ("idle_path", "few_requests", "changed") else 2
            for name in (finding.name, *finding.evidence.get("paths", ())):
                found[name] = max(level, found.get(name, 0))
        return found

    @cached_property
    def _of_host(self) -> dict[int, Device]:
        topology = next((view.topology for view in self._views.values()), None)
        devices = topology.devices if topology is not None else ()
        return {d.number: d for d in devices if d.number is not None}

    def row(self, key: RowKey, depth: int = 0) -> ScreenRow:
        """The figures of a row."""
        level, number = key
        past, look = self._run.past, self._look
        op = ALL_OPS
        if level == "op":
            assert self.devices.columns is not None
            at = bisect_left(self.devices.columns.keys, number)
            group = group_at(self.devices.columns, at)
            number, op = number >> 3, number & 7
            load = group.in_flight
            worst_ns = max(group.d2c_ns.percentile(99) or 0, load.oldest_ns if load else 0)
            name, state = "", op_label(OPS[op])
        else:
            figures = self._figures(level)
            group = figures.group(number)  # type: ignore[assignment]
            worst_ns = int(figures.worst_ns[figures.at[number]])
            name, state = self._text(key), self._state(key, group)
        places = past.of(self.members(key), op)
        found = self._levels.get(name, 0) if name else 0
        if level == "device" and (device := self._of_host.get(number)) is not None:
            found = max(found, self._levels.get(device.name, 0))
        if look.by in TREES and level != "op":
            fold = "" if not self._children.get(key) else OPEN if look.shows_below(key) else CLOSED
            before = "  " * depth + (fold or "  ")
            name = before + shortened(name, NAME_WIDTH - len(before))
        else:
            name = shortened(name, NAME_WIDTH)
        has_failed = group is not None and bool(group.errors)
        return self._made(name, state, group, worst_ns, places)._replace(
            codes=past.codes[places].max(axis=0, initial=0)[: past.slices],
            level=max(found, severity(worst_ns), 2 * (has_failed or state == WAITING)),
            is_device=level != "op",
            has_operations=self.has_operations and level != "op",
            is_idle=state == self._idle,
            is_selected=key == look.selected,
        )

    def _made(
        self, name: str, op: str, group: Group | None, worst_ns: int, places: npt.NDArray[np.intp]
    ) -> ScreenRow:
        """A row with the errors and requeues at some places of ``Past``."""
        errors, new_errors = self._counted("errors", places, group)
        requeues, new_requeues = self._counted("requeues", places, group)
        if group is not None and self._run.is_rest and not self._look.is_whole:
            group = without_rates(group)
        return ScreenRow(
            name,
            op,
            group,
            worst_ns,
            errors=errors,
            requeues=requeues,
            new_errors=new_errors,
            new_requeues=new_requeues,
            level=severity(worst_ns),
        )

    def _counted(
        self, name: str, places: npt.NDArray[np.intp], group: Group | None
    ) -> tuple[int, int]:
        """Errors or requeues: since the start, and in the latest interval."""
        shown: int = 0 if group is None else getattr(group, name)
        total = int(getattr(self._run.past, name)[places].sum())
        return max(total, shown), 0 if self._look.is_whole else shown  # Past may have forgotten

    @cached_property
    def _idle(self) -> str:
        return idle_label(() if self.interval is None else self.interval.only_ops)

    def _state(self, key: RowKey, group: Group | None) -> str:
        level, number = key
        children = self._children.get(key, [])
        if group is not None and not group.requests and group.in_flight and group.in_flight.end:
            return WAITING
        if children:
            words = ("LUN", "LUNs") if level == "array" else ("path", "paths")
            return how_many(len(children), *words)
        device = self._of_host.get(number) if level == "device" else None
        if device is not None and device.state not in (None, "running", "live"):
            return device.state or ""
        if group is None or not group.requests:
            return self._idle
        if device is not None and self._look.by in TREES:
            return (device.access_state or "running").removeprefix("active/")
        ops = self.devices.ops(number) if level == "device" else range(0)
        only = group_at(self.devices.columns, ops[0]).op if len(ops) == 1 else None  # type: ignore[arg-type]
        return op_label(only) if only else "all"

    @property
    def total(self) -> ScreenRow | None:
        """The row of all devices together; a request on a map and its path counts once."""
        if self.interval is None or self._n_roots < 2:
            return None
        look, level = self._look, self.root
        figures = self._figures(level)
        group, left_out, worst_ns = figures.total, set[int](), figures.own_worst_ns
        if level != "device":
            left_out = set(self._members(level).get(None, ()))
        elif self._of_luns is not None:
            left_out = figures.at.keys() - self._of_luns.groups.keys()
            worst_ns = worst_ns[~np.isin(figures.numbers, [*left_out])]
        places = self._run.past.of(n for n in self.devices.at if n not in left_out)
        word = {"device": "dev", "path": "LUNs", "lun": "LUNs"}.get(look.by, f"{look.by}s")
        if look.by in TREES and any((level, n) not in self._children for n in figures.numbers):
            word = "rows"  # some are disks of this host
        count = f"{self._n_roots} {word}" if self._n_roots < 1000 else f"{self._n_roots}"
        return self._made("all", count, group, int(worst_ns.max(initial=0)), places)


def severity(time_ns: float) -> int:
    """How much a latency stands out: 0, 1 or 2."""
    return (time_ns >= RAISED_NS) + (time_ns >= SEVERE_NS)
