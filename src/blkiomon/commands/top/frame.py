"""A view as lines of text: what fits a terminal, the worst first."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.console import Group as Parts
from rich.text import Text

from blkiomon.commands.top.watch import HISTORY, View
from blkiomon.console import how_many, printable
from blkiomon.formats.json_codec import unseen
from blkiomon.formats.units import NONE, bytes_text, device_text, three_digits, time_text
from blkiomon.interval.groups import NS_PER_S, Group
from blkiomon.interval.incomplete import in_words
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless

BLOCKS = "▁▂▃▄▅▆▇█"
IDLE = "·"

PLAIN = str.maketrans(
    {"µ": "u", NONE: "-", "…": "~", "▼": "v", IDLE: "."} | dict(zip(BLOCKS, "12345678"))
)
"""For terminals that show nothing but ASCII."""

LEAST_WIDTH, LEAST_HEIGHT = 40, 8

MESSAGES_SHOWN = 2

QUIET_NS = 3 * NS_PER_S
"""So long without a record is worth a line."""

UNPAIRED = ("completions_without_issue", "mismatches")
"""Some of these are nobody's loss: what was issued before tracing began."""

WAITING = "waiting"
"""Of a device that completes nothing, although it has something to do."""

HELP = """\
A row is a device, or one of its operations where it has several. Sorted by
latency, the worst come first: by the p99 of the slowest operation, or by the
age of the oldest request where that is more.

IOPS, MB/s   requests that completed in the interval
p50 … max    from issue to completion; half of them took no longer than p50
flight       requests without a completion when the interval ended
oldest       how long the oldest of these had been waiting
err, requeue since the start: failed, given back by the kernel; ! just now
p99 hist     interval by interval, up to the greatest of the row; · is none
waiting      nothing completed, and something is in flight (idle: neither)
busy, queue  share of the time with any in flight, and how many on average
q2d          p99 from queue to issue, where the trace has queue records

l  i  b      sort by latency, IOPS, bandwidth
o            operations on, off
t            the whole run, or the latest interval
p  space     pause, go on
q            quit
"""

FOOTER = "q quit  l latency  i IOPS  b MB/s  o operations  t whole run  p pause  ? help"


@dataclass(frozen=True, slots=True)
class Look:
    """What the user has chosen to see."""

    sort: str = "latency"
    has_operations: bool = True
    is_whole: bool = False
    is_paused: bool = False
    is_help: bool = False

    def after(self, key: str) -> Look:
        """The choice after a key; the same where it means nothing."""
        sorts = {"l": "latency", "i": "iops", "b": "bandwidth"}
        if key in sorts:
            return replace(self, sort=sorts[key])
        if key == "o":
            return replace(self, has_operations=not self.has_operations)
        if key == "t":
            return replace(self, is_whole=not self.is_whole)
        if key in ("p", " "):
            return replace(self, is_paused=not self.is_paused)
        if key in ("?", "h"):
            return replace(self, is_help=not self.is_help)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change while a screen is up.

    Attributes:
        source: what is watched.
        interval_s: between two intervals.
        is_live: it happens now; else it is recorded.
        name_of: tells a device's name by its number.
        is_plain: nothing but ASCII.
    """

    source: str
    interval_s: float = 1.0
    is_live: bool = True
    name_of: Callable[[int], str | None] = nameless
    is_plain: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table; without a group nothing is known of it but that it is there."""

    device: str
    op: str
    group: Group | None
    history: tuple[int | None, ...] = ()
    errors: int = 0
    requeues: int = 0
    is_device: bool = True


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a view: all of it, and its operations."""

    number: int
    group: Group | None
    ops: tuple[Group, ...] = ()

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


SORTS: dict[str, Callable[[Device], float]] = {
    "latency": lambda device: device.worst_ns,
    "iops": lambda device: device.iops,
    "bandwidth": lambda device: device.bytes_per_s,
}


def lines(
    view: View,
    look: Look,
    about: About,
    width: int,
    height: int,
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> list[str]:
    """Exactly as many lines as there is room for, none wider than that, as a terminal takes them.

    Args:
        notes: what the user should know besides, the latest last.
        console: knows what the terminal can show; by default, no colours.
    """
    console = console or Console(file=io.StringIO(), color_system=None)
    console.size = (width, height)
    width, height = max(1, width), max(1, height)
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        parts = [Text(f"{LEAST_WIDTH} columns and {LEAST_HEIGHT} lines, please")]
        parts += [Text("")] * (height - 1)
    else:
        parts = [
            _head(view, look, about, width),
            *(line for text in _losses(view) for line in text.wrap(console, width)),
            *_states(view, look, notes),
        ][: height - 3]
        room = height - len(parts) - 1
        parts += _help(room) if look.is_help else _body(view, look, about, width, room)
        parts += [Text("")] * (height - 1 - len(parts))
        parts.append(Text(FOOTER, style="reverse"))
    for part in parts:
        part.no_wrap, part.overflow = True, "ellipsis"
    with console.capture() as capture:
        console.print(Parts(*parts))
    text = capture.get()
    return (text.translate(PLAIN) if about.is_plain else text).split("\n")[:height]


# --- above the table ------------------------------------------------------------------------------


def _head(view: View, look: Look, about: About, width: int) -> Text:
    interval = view.whole if look.is_whole else view.latest
    if interval is None:
        right = f"waiting for the first {about.interval_s:g} s"
    else:
        seconds = three_digits(interval.duration_s)
        right = f"{how_many(interval.counts.records, 'record', 'records', ',')} in {seconds} s"
        right = f"WHOLE RUN: {right}" if look.is_whole else f"{right}  {_when(interval, about)}"
    left, source = "blkiomon top  ", printable(about.source)
    room = max(0, width - cell_len(right) - 2)
    if len(left) + len(source) > room:
        source = "…" + source[-max(1, room - len(left) - 1) :]  # the end of a path tells more
    head = Text(left + source, style="bold")
    head.truncate(room, overflow="ellipsis", pad=True)
    return head.append(f"  {right}")


def _when(interval: Interval, about: About) -> str:
    if not interval.anchored:
        return f"at {interval.end_ns / NS_PER_S:.1f} s"
    form = "%H:%M:%S" if about.is_live else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, time.localtime(interval.end_ns // NS_PER_S))


def _losses(view: View) -> Iterator[Text]:
    """What is known not to have been seen; that there is nothing is said as well."""
    totals, now = unseen(view.totals), unseen(view.now)

    def told(names: Iterable[str]) -> str:
        return ", ".join(
            f"{totals[name]:,} {name.replace('_', ' ')}" + f" (+{now[name]:,})" * bool(now[name])
            for name in names
            if totals[name]
        )

    lost = told(name for name in totals if name not in UNPAIRED)
    unpaired = told(UNPAIRED)
    incomplete = Text(f"INCOMPLETE: {in_words(view.incomplete)}", style="bold white on red")
    if not lost and view.incomplete:
        text = incomplete
    elif not lost:
        text = Text(f"nothing lost in {three_digits(view.seen_ns / NS_PER_S)} s")
    elif any(number for name, number in now.items() if name not in UNPAIRED):
        text = Text(f"LOST NOW: {lost}", style="bold white on red")
    else:
        text = Text(f"LOST before, nothing now: {lost}", style="bold")
    yield text.append(f"; unpaired: {unpaired}") if unpaired else text
    if view.incomplete and text is not incomplete:
        yield incomplete


def _states(view: View, look: Look, notes: Sequence[str]) -> Iterator[Text]:
    if view.has_ended:
        yield Text("END OF TRACE: this stays until q", style="reverse")
    if look.is_paused:
        yield Text("PAUSED: p goes on", style="reverse")
    if view.quiet_ns >= QUIET_NS and not view.has_ended:
        quiet = three_digits(view.quiet_ns / NS_PER_S)
        yield Text(f"NO RECORDS for {quiet} s: nothing goes on there, or nothing is heard of it")
    for note in notes[-MESSAGES_SHOWN:]:
        yield Text(printable(note))


def _help(room: int) -> list[Text]:
    return [Text(line) for line in ("", *HELP.splitlines())][:room]


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and from which width of the screen on it is there."""

    title: str
    width: int
    text: Callable[[Row], str]
    least: int = 0
    sort: str = ""
    is_left: bool = False

    def cell(self, text: str) -> str:
        """Exactly so wide."""
        width = cell_len(text)
        if width > self.width:
            return set_cell_size(text, self.width - 1) + "…"
        blank = " " * (self.width - width)
        return text + blank if self.is_left else blank + text


def _columns(width: int, has_requeues: bool) -> list[Column]:
    """Those that fit, each with its width; the history has what they leave."""
    is_wide = width >= 140
    columns = [
        Column("device", 20 if is_wide else 9, lambda row: row.device, is_left=True),
        Column("op", 12 if is_wide else 7, lambda row: row.op, is_left=True),
        Column("IOPS", 6, lambda row: _count(_of(row, lambda g: g.iops)), sort="iops"),
        Column("MB/s", 6, lambda row: _megabytes(row), 56, sort="bandwidth"),
        Column("size", 6, lambda row: _size(row), 130),
        Column("mean", 6, lambda row: _time(_of(row, lambda g: g.d2c_ns.mean)), 120),
        Column("p50", 6, lambda row: _percentile(row, 50), 64),
        Column("p90", 6, lambda row: _percentile(row, 90), 100),
        Column("p99", 6, lambda row: _percentile(row, 99), sort="latency"),
        Column("p99.9", 6, lambda row: _percentile(row, 99.9), 110),
        Column("max", 6, lambda row: _time(_of(row, lambda g: g.d2c_ns.max)), 50),
        Column("flight", 6, lambda row: _load(row, lambda load: _count(load.end)), 66),
        Column("oldest", 6, lambda row: _load(row, lambda load: _time(load.oldest_ns or None))),
        Column("err", 4, _errors, 72),
        *([Column("requeue", 7, _requeues, 80)] if has_requeues else []),
        Column("busy", 5, lambda row: _load(row, lambda load: _share(load.busy_fraction)), 130),
        Column("queue", 6, lambda row: _load(row, lambda load: _count(load.mean)), 140),
        Column("q2d", 6, lambda row: _time(_q2d(row)), 150),
    ]
    columns = [column for column in columns if column.least <= width]
    left = min(HISTORY, width - sum(column.width + 1 for column in columns))
    if left >= 8:
        title = "p99 of each interval, up to its greatest" if left >= 40 else "p99 hist"
        columns.append(Column(title, left, lambda row: _spark(row.history, left)))
    return columns


def _body(view: View, look: Look, about: About, width: int, room: int) -> Iterator[Text]:
    """The table, and how many devices are not in it."""
    rows, n_more = _rows(view, look, about, room - 1)
    yield from _table(rows, look, width, bool(view.requeues))
    if n_more:
        yield Text(f"… {how_many(n_more, 'more device', 'more devices', ',')}")


def _table(rows: Sequence[Row], look: Look, width: int, has_requeues: bool) -> Iterator[Text]:
    columns = _columns(width, has_requeues)
    head = Text(style="underline")
    for column in columns:
        is_sorted = column.sort == look.sort
        head.append(" " * bool(head))
        head.append(column.cell(column.title + "▼" * is_sorted), "bold" if is_sorted else "")
    yield head
    for row in rows:
        yield Text(" ".join(column.cell(column.text(row)) for column in columns), _style(row))


def _style(row: Row) -> str:
    if row.op == WAITING:
        return "bold red"
    if row.op == "idle":
        return "dim"
    return "bold" if row.is_device else ""


def _rows(view: View, look: Look, about: About, room: int) -> tuple[list[Row], int]:
    """The rows of as many devices as there is room for, and how many devices there are besides."""
    interval = view.whole if look.is_whole else view.latest
    devices = _devices(view, interval)
    devices.sort(key=lambda device: (-SORTS[look.sort](device), device.number))
    shown: list[Row] = []
    if interval is not None and len(devices) > 1:
        errors, requeues = (
            sum(number for (_, op), number in since_start.items() if op is None)
            for since_start in (view.errors, view.requeues)
        )
        shown.append(
            Row("all", f"{len(devices)} dev", interval.total, errors=errors, requeues=requeues)
        )
    for place, device in enumerate(devices):
        rows = list(_rows_of(device, view, look, about))
        left = room - len(shown) - (place < len(devices) - 1)  # that line tells of the others
        if len(rows) > left:
            if place:
                return shown, len(devices) - place
            rows = rows[: max(1, left)]  # the first one as far as it fits
        shown += rows
    return shown, 0


def _devices(view: View, interval: Interval | None) -> list[Device]:
    found: dict[int, Device] = {number: Device(number, None) for number in view.devices}
    ops: list[Group] = []
    for group in interval.groups() if interval is not None else ():
        if group.device is None:
            continue
        if group.op is not None:
            ops.append(group)
            continue
        found[group.device] = Device(group.device, group, tuple(ops))
        ops = []
    return list(found.values())


def _rows_of(device: Device, view: View, look: Look, about: About) -> Iterator[Row]:
    number, group = device.number, device.group
    name = printable(about.name_of(number) or device_text(number))

    def row(text: str, op_text: str, op: str | None, of: Group | None) -> Row:
        key = number, op
        return Row(
            text,
            op_text,
            of,
            view.history.get(key, ()),
            view.errors.get(key, 0),
            view.requeues.get(key, 0),
            op is None,
        )

    only = device.ops[0].op if len(device.ops) == 1 else None
    if group is not None and group.requests:
        yield row(name, _label(only) if only else "all", None, group)
    elif group is not None and group.in_flight and group.in_flight.end:
        yield row(name, WAITING, None, group)
        only = None
    else:
        yield row(name, "idle", None, group)
    if look.has_operations and not only:
        for of in device.ops:
            yield row("", _label(of.op), of.op, of)


def _label(op: str | None) -> str:
    return "zeroes" if op == "write_zeroes" else op or "all"


# --- cells: never wider than their column --------------------------------------------------------


def _of(row: Row, figure: Callable[[Group], float | None]) -> float | None:
    return figure(row.group) if row.group is not None else None


def _load(row: Row, text: Callable[..., str]) -> str:
    load = row.group.in_flight if row.group is not None else None
    return NONE if load is None else text(load)


def _count(value: float | None) -> str:
    """In at most six characters."""
    if not value:
        return NONE if value is None else "0"
    if value == int(value) and value < 99_999.5:
        return f"{value:,.0f}"
    for unit, size in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < (99_999.5 if size == 1 else 999.5 * size):
            return three_digits(value / size) + unit
    return "many"


def _megabytes(row: Row) -> str:
    per_s = _of(row, lambda g: g.bytes_per_s)
    return _count(None if per_s is None else per_s / 1e6)


def _size(row: Row) -> str:
    mean = _of(row, lambda g: g.size_bytes.mean)
    return NONE if mean is None else bytes_text(mean).replace(" ", "")


def _time(time_ns: float | None) -> str:
    return time_text(time_ns).replace(" ", "")


def _percentile(row: Row, percent: float) -> str:
    return _time(_of(row, lambda g: g.d2c_ns.percentile(percent)))


def _q2d(row: Row) -> float | None:
    return _of(row, lambda g: g.q2d_ns.percentile(99) if g.q2d_ns is not None else None)


def _share(fraction: float | None) -> str:
    return NONE if fraction is None else f"{min(1.0, fraction):.0%}"


def _errors(row: Row) -> str:
    return _since_start(row.errors, row.group.errors if row.group is not None else 0)


def _requeues(row: Row) -> str:
    return _since_start(row.requeues, row.group.requeues if row.group is not None else 0)


def _since_start(total: int, now: int) -> str:
    total = max(total, now)
    return (f"{total}" if total < 1000 else f"{total // 1000}k") + "!" * bool(now)


def _spark(past: Sequence[int | None], width: int) -> str:
    """A block for each interval, of up to eight eighths of the greatest; linear, from 0."""
    shown = past[-width:]
    greatest = max((value for value in shown if value), default=0) or 1
    return "".join(
        IDLE if value is None else BLOCKS[max(1, math.ceil(8 * value / greatest)) - 1]
        for value in shown
    )
