"""Figures of devices as aligned text: cells, columns, and which device comes first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from blkiomon.console import how_many
from blkiomon.formats.units import NONE, bytes_text, three_digits, time_text
from blkiomon.interval.groups import Group

if TYPE_CHECKING:
    from blkiomon.interval.views import View

MARK = "*"
"""Marks a percentile that has too few requests: the slowest of them is shown."""

GAP = " "

PLAIN = str.maketrans({"µ": "u", NONE: "-", "…": "~"})
"""Replacements for terminals that show only ASCII."""


def speaks_utf8() -> bool:
    """Whether the user's locale is UTF-8; Python may have chosen another."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return "utf" in next((name for name in names if name), "").lower()


def for_locale(text: str) -> str:
    """A text for the user's terminal, which may show only ASCII."""
    return text if speaks_utf8() else text.translate(PLAIN)


# --- cells ----------------------------------------------------------------------------------------


def count_cell(value: float | None) -> str:
    """A number in at most six characters."""
    if not value:
        return NONE if value is None else "0"
    if value == int(value) and value < 99_999.5:
        return f"{value:,.0f}"
    for unit, size in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < (99_999.5 if size == 1 else 999.5 * size):
            return three_digits(value / size) + unit
    return "many"


def megabytes_cell(n_bytes: float | None) -> str:
    """Bytes in MB."""
    return count_cell(None if n_bytes is None else n_bytes / 1e6)


def size_cell(n_bytes: float | None) -> str:
    """A size with its unit, without a space."""
    return NONE if n_bytes is None else bytes_text(n_bytes).replace(" ", "")


def time_cell(time_ns: float | None) -> str:
    """A time with its unit, without a space."""
    return time_text(time_ns).replace(" ", "")


def share_cell(fraction: float | None) -> str:
    """A fraction in percent."""
    return NONE if fraction is None else f"{min(1.0, fraction):.0%}"


def op_label(op: str | None) -> str:
    """An operation in at most seven characters."""
    return "zeroes" if op == "write_zeroes" else op or "all"


def idle_label(only_ops: Sequence[str]) -> str:
    """What a device without requests does, if only these operations count; empty: all."""
    return "none" if only_ops else "idle"


_PLURALS = {
    "flush": "flushes",
    "write_zeroes": "write zeroes",
    "zone": "zone commands",
    "other": "other requests",
}


def plural(op: str) -> str:
    """Requests of an operation."""
    return _PLURALS.get(op, f"{op}s")


def percentile_cell(group: Group, percent: float) -> str:
    """A percentile of d2c, marked if requests are too few for it."""
    value_ns = group.d2c_ns.percentile(percent)
    is_marked = value_ns is not None and not is_supported(group.requests, percent)
    return time_cell(value_ns) + MARK * is_marked


def is_supported(requests: int, percent: float) -> bool:
    """Whether at least one of the requests is above a percentile: p99.9 takes 1,000 requests."""
    return round(requests * (100 - percent), 6) >= 100


# --- tables ---------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        device, op: as text.
        group: its figures; None for a device that was idle.
        when: end of the interval, as text.
        about: size and model of the device.
        is_sum: it is of several devices, see ``DeviceFigures``.
    """

    device: str
    op: str
    group: Group | None
    when: str = ""
    about: str = ""
    is_sum: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        text: returns the cell of a row.
        least: the least width.
        drop: if the table is too wide, columns with the greatest numbers are left out; 0: never.
        is_left: text is aligned to the left.
        has_marks: cells may end with ``MARK``.
    """

    title: str
    text: Callable[[Row], str]
    least: int = 0
    drop: int = 0
    is_left: bool = False
    has_marks: bool = False


class Table:
    """Rows as lines of text. Columns become as wide as their widest cell so far.

    Args:
        columns: from left to right.
        room: the most columns of the screen to use; None: any number.
    """

    def __init__(self, columns: Iterable[Column], room: int | None) -> None:
        self._columns: list[Column] = []
        self._room = room
        self._widths: dict[int, int] = {}
        for column in columns:
            self.add(column)

    def add(self, column: Column) -> None:
        """Add a column at the right, unless it is there or was left out."""
        if id(column) not in self._widths:
            self._columns.append(column)
            self._widths[id(column)] = max(column.least, len(_padded(column, column.title)))

    def lines(self, rows: Sequence[Row]) -> list[str]:
        """The lines of some rows; they may widen columns, see ``head``."""
        cells = {id(c): [_padded(c, c.text(row)) for row in rows] for c in self._columns}
        for key, column in cells.items():
            self._widths[key] = max([self._widths[key], *map(len, column)])
        while self._room is not None and self._width() > self._room:
            last = max(self._columns, key=lambda column: column.drop)
            if not last.drop:
                break
            self._columns.remove(last)
        return [
            self._joined(column[i] for column in map(cells.__getitem__, map(id, self._columns)))
            for i in range(len(rows))
        ]

    @property
    def head(self) -> str:
        """The line of titles."""
        return self._joined(_padded(column, column.title) for column in self._columns)

    def _width(self) -> int:
        return sum(self._widths[id(c)] + len(GAP) for c in self._columns) - len(GAP)

    def _joined(self, cells: Iterable[str]) -> str:
        aligned = (
            cell.ljust(self._widths[id(column)])
            if column.is_left
            else cell.rjust(self._widths[id(column)])
            for column, cell in zip(self._columns, cells)
        )
        return GAP.join(aligned).rstrip()


def _padded(column: Column, text: str) -> str:
    """A cell; room for the mark keeps the digits of a column below each other."""
    return text + " " * (column.has_marks and not text.endswith(MARK))


def figure(text: Callable[[Group], str]) -> Callable[[Row], str]:
    """The text of a cell with a figure of the row's group."""
    return lambda row: NONE if row.group is None else text(row.group)


def in_flight_cell(row: Row) -> str:
    """Mean and maximum of the requests in flight."""
    load = row.group.in_flight if row.group is not None else None
    if load is None:
        return NONE
    return f"{count_cell(load.mean)}/{NONE if row.is_sum else count_cell(load.max)}"


def _busy(group: Group) -> str:
    return share_cell(None if group.in_flight is None else group.in_flight.busy_fraction)


WHEN_COLUMN = Column("time", lambda row: row.when, 8)
DEVICE_COLUMN = Column("device", lambda row: row.device, is_left=True)
ABOUT_COLUMN = Column("size, model", lambda row: row.about, drop=14, is_left=True)
OP_COLUMN = Column("op", lambda row: row.op, is_left=True)

FIGURE_COLUMNS = (
    Column("IOPS", figure(lambda g: count_cell(g.iops)), 6),
    Column("MB/s", figure(lambda g: megabytes_cell(g.bytes_per_s)), 5, drop=3),
    Column("size", figure(lambda g: size_cell(g.size_bytes.mean)), 6, drop=13),
    Column("p50", figure(lambda g: time_cell(g.d2c_ns.percentile(50))), 6, drop=6),
    Column("p90", figure(lambda g: time_cell(g.d2c_ns.percentile(90))), 6, drop=12),
    Column("p99", figure(lambda g: percentile_cell(g, 99)), 7, has_marks=True),
    Column("p99.9", figure(lambda g: percentile_cell(g, 99.9)), 7, drop=7, has_marks=True),
    Column("max", figure(lambda g: time_cell(g.d2c_ns.max)), 6, drop=2),
    Column("in flight", in_flight_cell, 9, drop=4),
    Column("busy", figure(_busy), 4, drop=11),
    Column("err", figure(lambda g: count_cell(g.errors)), 3, drop=1),
)
"""The figures of a group, from left to right, for ``summary`` and ``stat``."""

REQUESTS_COLUMN = Column("requests", figure(lambda g: count_cell(g.requests)), drop=8)
REQUEUES_COLUMN = Column("requeues", figure(lambda g: count_cell(g.requeues)), drop=4)


# --- devices --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """The figures of a device, and of its operations.

    If they are of several devices (``is_sum``), their maximum in flight is unknown.
    """

    number: int
    group: Group | None
    ops: tuple[Group, ...] = ()
    is_sum: bool = False

    @property
    def worst_ns(self) -> int:
        """The p99 of its slowest operation, or the age of its oldest request if that is more."""
        p99s_ns = [op.d2c_ns.percentile(99) or 0 for op in self.ops]
        load = self.group.in_flight if self.group else None
        return max([*p99s_ns, load.oldest_ns if load else 0])

    @property
    def iops(self) -> float:
        return (self.group.iops if self.group else None) or 0.0

    @property
    def bytes_per_s(self) -> float:
        return (self.group.bytes_per_s if self.group else None) or 0.0


REST_FRACTION = 0.1
"""A last interval below this fraction of the usual length has no rates: they would mislead."""


def without_rates(group: Group) -> Group:
    """A group without figures per second, for an interval that is too short."""
    load = group.in_flight
    load = None if load is None else replace(load, duration_ns=0)
    return replace(group, duration_ns=0, in_flight=load)


def loss_note(lost: int) -> str:
    """What the loss of so many events means for requests in flight."""
    events = how_many(lost, "event was", "events were", ",")
    return f"{events} lost: as many of the requests in flight may have completed"


def by_device(groups: Iterable[Group], view: View | None = None) -> Iterator[DeviceFigures]:
    """The devices of an interval's groups, in their order; ``view`` made the groups."""
    sums = set() if view is None else view.sums
    ops: list[Group] = []
    for group in groups:
        if group.device is None:
            continue
        if group.op is not None:
            ops.append(group)
            continue
        load = group.in_flight  # without a view, its time busy says so
        is_sum = group.device in sums or (load is not None and load.busy_ns is None)
        yield DeviceFigures(group.device, group, tuple(ops), is_sum)
        ops = []


def worst_first(devices: Iterable[DeviceFigures]) -> list[DeviceFigures]:
    """Devices by their highest latency."""
    return sorted(devices, key=lambda device: (-device.worst_ns, device.number))
