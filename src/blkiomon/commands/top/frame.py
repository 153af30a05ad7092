"""Draw a view as lines of text that fit a terminal; the slowest devices come first."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.console import Group as Parts
from rich.text import Text

from blkiomon.commands.table import (
    PLAIN as PLAIN_TABLE,
)
from blkiomon.commands.table import (
    DeviceFigures,
    by_device,
    count_cell,
    megabytes_cell,
    op_label,
    share_cell,
    size_cell,
    time_cell,
)
from blkiomon.commands.top.watch import HISTORY, View
from blkiomon.commands.views import INDENT, shortened
from blkiomon.console import how_many, printable
from blkiomon.formats.json_codec import unseen
from blkiomon.formats.units import NONE, device_text, three_digits
from blkiomon.interval.groups import NS_PER_S, Group, InFlight
from blkiomon.interval.incomplete import in_words
from blkiomon.interval.value import Interval
from blkiomon.interval.views import View as SanView
from blkiomon.sources.devices import nameless

BLOCKS = "▁▂▃▄▅▆▇█"
IDLE = "·"

PLAIN = PLAIN_TABLE | str.maketrans({"▼": "v", IDLE: "."} | dict(zip(BLOCKS, "12345678")))

LEAST_WIDTH, LEAST_HEIGHT = 40, 8

MESSAGES_SHOWN = 2

NAME_WIDTH = 20

QUIET_NS = 3 * NS_PER_S
"""Time without a record after which a line says so."""

UNPAIRED = ("completions_without_issue", "mismatches")
"""Not counted as losses: their issue may have come before the trace."""

WAITING = "waiting"
"""State of a device that completes nothing, although requests are in flight."""

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
    """The choices of the user."""

    sort: str = "latency"
    has_operations: bool = True
    is_whole: bool = False
    is_paused: bool = False
    is_help: bool = False

    def after(self, key: str) -> Look:
        """The choices after a key; the same if it has no meaning."""
        sorts = {"l": "latency", "i": "iops", "b": "bandwidth"}
        if key in sorts:
            return replace(self, sort=sorts[key])
        toggles = {"o": "has_operations", "t": "is_whole"}
        toggles |= {"p": "is_paused", " ": "is_paused", "?": "is_help", "h": "is_help"}
        if key not in toggles:
            return self
        toggled: Any = {toggles[key]: not getattr(self, toggles[key])}
        return replace(self, **toggled)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change during a run.

    Attributes:
        source: name of the trace or the devices.
        interval_s: length of an interval in s.
        is_live: the trace is live; else it was recorded.
        name_of: returns the name of a device by its number.
        is_plain: the terminal shows only ASCII.
        view: made the intervals, and knows which groups belong together; None: they are by device.
    """

    source: str
    interval_s: float = 1.0
    is_live: bool = True
    name_of: Callable[[int], str | None] = nameless
    is_plain: bool = False
    view: SanView | None = None


@dataclass(frozen=True, slots=True)
class ScreenRow:
    """A row of the table: a device or one of its operations; without a group, an idle device."""

    device: str
    op: str
    group: Group | None
    history: tuple[int | None, ...] = ()
    errors: int = 0
    requeues: int = 0
    is_device: bool = True


SORTS: dict[str, Callable[[DeviceFigures], float]] = {
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
    """Exactly ``height`` lines, none wider than ``width``, with escape sequences for colours.

    Args:
        notes: further messages for the user, the latest last.
        console: of the terminal; by default without colours.
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
            *(line for text in _states(view, look, notes) for line in text.wrap(console, width)),
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
        source = "…" + source[-max(1, room - len(left) - 1) :]  # the end of a path is specific
    head = Text(left + source, style="bold")
    head.truncate(room, overflow="ellipsis", pad=True)
    return head.append(f"  {right}")


def _when(interval: Interval, about: About) -> str:
    if not interval.anchored:
        return f"at {interval.end_ns / NS_PER_S:.1f} s"
    form = "%H:%M:%S" if about.is_live else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, time.localtime(interval.end_ns // NS_PER_S))


def _losses(view: View) -> Iterator[Text]:
    """What is known to be missing, or that nothing is."""
    totals, now = unseen(view.totals), unseen(view.now)

    def listed(names: Iterable[str]) -> str:
        return ", ".join(
            f"{totals[name]:,} {name.replace('_', ' ')}" + f" (+{now[name]:,})" * bool(now[name])
            for name in names
            if totals[name]
        )

    lost = listed(name for name in totals if name not in UNPAIRED)
    unpaired = listed(UNPAIRED)
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
    findings = (view.latest.findings if view.latest else None) or ()
    for finding in findings[:MESSAGES_SHOWN]:
        yield Text(f"! {printable(finding.text)}", style="bold")
    for note in notes[-MESSAGES_SHOWN:]:
        yield Text(printable(note))


def _help(room: int) -> list[Text]:
    return [Text(line) for line in ("", *HELP.splitlines())][:room]


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table; screens narrower than ``least`` do not have it."""

    title: str
    width: int
    text: Callable[[ScreenRow], str]
    least: int = 0
    sort: str = ""
    is_left: bool = False

    def cell(self, text: str) -> str:
        """The text, cut or padded to the width of the column."""
        width = cell_len(text)
        if width > self.width:
            return set_cell_size(text, self.width - 1) + "…"
        blank = " " * (self.width - width)
        return text + blank if self.is_left else blank + text


def _columns(width: int, has_requeues: bool, by: str) -> list[Column]:
    """The columns that fit; the history has the width that they leave."""
    is_wide = width >= 140
    has_long_names = is_wide or by in ("port", "hba", "array")
    columns = [
        Column(by, NAME_WIDTH if has_long_names else 9, lambda row: row.device, is_left=True),
        Column("op", 12 if is_wide else 7, lambda row: row.op, is_left=True),
        Column("IOPS", 6, _figure(lambda g: g.iops, count_cell), sort="iops"),
        Column("MB/s", 6, _figure(lambda g: g.bytes_per_s, megabytes_cell), 56, sort="bandwidth"),
        Column("size", 6, _figure(lambda g: g.size_bytes.mean, size_cell), 130),
        Column("mean", 6, _figure(lambda g: g.d2c_ns.mean, time_cell), 120),
        Column("p50", 6, _percentile(50), 64),
        Column("p90", 6, _percentile(90), 100),
        Column("p99", 6, _percentile(99), sort="latency"),
        Column("p99.9", 6, _percentile(99.9), 110),
        Column("max", 6, _figure(lambda g: g.d2c_ns.max, time_cell), 50),
        Column("flight", 6, _load(lambda load: load.end, count_cell), 66),
        Column("oldest", 6, _load(lambda load: load.oldest_ns or None, time_cell)),
        Column("err", 4, _errors, 72),
        Column("busy", 5, _load(lambda load: load.busy_fraction, share_cell), 130),
        Column("queue", 6, _load(lambda load: load.mean, count_cell), 140),
        Column("q2d", 6, _figure(_q2d_p99, time_cell), 150),
    ]
    if has_requeues:
        columns.insert(-3, Column("requeue", 7, _requeues, 80))
    columns = [column for column in columns if column.least <= width]
    left = min(HISTORY, width - sum(column.width + 1 for column in columns))
    if left >= 8:
        title = "p99 of each interval, up to its greatest" if left >= 40 else "p99 hist"
        columns.append(Column(title, left, lambda row: _spark(row.history, left)))
    return columns


def _body(view: View, look: Look, about: About, width: int, room: int) -> Iterator[Text]:
    """The table, and the number of devices that do not fit."""
    rows, n_more = _rows(view, look, about, room - 1)
    by = about.view.by if about.view is not None else "device"
    yield from _table(rows, look, _columns(width, bool(view.requeues), by))
    if n_more:
        yield Text(f"… {how_many(n_more, 'more device', 'more devices', ',')}")


def _table(rows: Sequence[ScreenRow], look: Look, columns: Sequence[Column]) -> Iterator[Text]:
    head = Text(style="underline")
    for column in columns:
        is_sorted = column.sort == look.sort
        head.append(" " * bool(head))
        head.append(column.cell(column.title + "▼" * is_sorted), "bold" if is_sorted else "")
    yield head
    for row in rows:
        yield Text(" ".join(column.cell(column.text(row)) for column in columns), _style(row))


def _style(row: ScreenRow) -> str:
    if row.op == WAITING:
        return "bold red"
    if row.op == "idle":
        return "dim"
    return "bold" if row.is_device else ""


def _rows(view: View, look: Look, about: About, room: int) -> tuple[list[ScreenRow], int]:
    """The rows of the devices that fit, and the number of devices that do not."""
    interval = view.whole if look.is_whole else view.latest
    devices = _devices(view, interval)
    devices.sort(key=lambda device: (-SORTS[look.sort](device), device.number))
    is_map = about.view.is_map if about.view and about.view.by == "path" else lambda number: False
    what = "dev" if about.view is None or about.view.by == "device" else f"{about.view.by}s"
    shown: list[ScreenRow] = []
    n_own = sum(not is_map(device.number) for device in devices)
    if interval is not None and n_own > 1:
        errors, requeues = (
            sum(n for (number, op), n in since_start.items() if op is None and not is_map(number))
            for since_start in (view.errors, view.requeues)
        )
        shown.append(
            ScreenRow("all", f"{n_own} {what}", interval.total, errors=errors, requeues=requeues)
        )
    if about.view is not None:
        devices = _below_maps(devices, about.view)
    for place, device in enumerate(devices):
        rows = list(_rows_of(device, view, look, about))
        left = room - len(shown) - (place < len(devices) - 1)  # one line is for the others
        if len(rows) > left:
            if place:
                return shown, len(devices) - place
            rows = rows[: max(1, left)]  # the first one as far as it fits
        shown += rows
    return shown, 0


def _devices(view: View, interval: Interval | None) -> list[DeviceFigures]:
    found: dict[int, DeviceFigures] = {
        number: DeviceFigures(number, None) for number in view.devices
    }
    if interval is not None:
        maps = interval.maps.groups() if interval.maps is not None else ()
        groups = (*interval.groups(), *maps)
        found |= {device.number: device for device in by_device(groups)}
    return list(found.values())


def _below_maps(devices: Sequence[DeviceFigures], view: SanView) -> list[DeviceFigures]:
    """Each path of a view by path below its map; LUNs keep the order of their first device."""
    luns: dict[int, list[DeviceFigures]] = {}
    for device in devices:
        above = view.map_of(device.number)
        luns.setdefault(device.number if above is None else above, []).append(device)
    for number, of_lun in luns.items():
        of_lun.sort(key=lambda device: device.number != number)
    return [device for of_lun in luns.values() for device in of_lun]


def _rows_of(device: DeviceFigures, view: View, look: Look, about: About) -> Iterator[ScreenRow]:
    number, group = device.number, device.group
    name = shortened(printable(about.name_of(number) or device_text(number)), NAME_WIDTH)
    if about.view is not None and about.view.map_of(number) in view.devices:
        name = INDENT + name

    def row(text: str, op_text: str, op: str | None, of: Group | None) -> ScreenRow:
        key = number, op
        return ScreenRow(
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
        yield row(name, op_label(only) if only else "all", None, group)
    elif group is not None and group.in_flight and group.in_flight.end:
        yield row(name, WAITING, None, group)
        only = None
    else:
        yield row(name, "idle", None, group)
    if look.has_operations and not only:
        for of in device.ops:
            yield row("", op_label(of.op), of.op, of)


# --- cells ----------------------------------------------------------------------------------------


def _figure(
    figure: Callable[[Group], float | None], text: Callable[[float | None], str]
) -> Callable[[ScreenRow], str]:
    """The text of a cell with a figure of the row's group."""
    return lambda row: NONE if row.group is None else text(figure(row.group))


def _load(
    figure: Callable[[InFlight], float | None], text: Callable[[float | None], str]
) -> Callable[[ScreenRow], str]:
    """Likewise, with a figure of requests in flight."""
    return _figure(lambda g: None if g.in_flight is None else figure(g.in_flight), text)


def _percentile(percent: float) -> Callable[[ScreenRow], str]:
    return _figure(lambda g: g.d2c_ns.percentile(percent), time_cell)


def _q2d_p99(group: Group) -> int | None:
    return None if group.q2d_ns is None else group.q2d_ns.percentile(99)


def _errors(row: ScreenRow) -> str:
    return _total(row.errors, 0 if row.group is None else row.group.errors)


def _requeues(row: ScreenRow) -> str:
    return _total(row.requeues, 0 if row.group is None else row.group.requeues)


def _total(since_start: int, now: int) -> str:
    """A total in at most four characters, with "!" if some are of the interval shown."""
    total = max(since_start, now)
    return (f"{total}" if total < 1000 else f"{total // 1000}k") + "!" * bool(now)


def _spark(past: Sequence[int | None], width: int) -> str:
    """A block for each interval, in eighths of the greatest value; linear, from 0."""
    shown = past[-width:]
    greatest = max((value for value in shown if value), default=0) or 1
    return "".join(
        IDLE if value is None else BLOCKS[max(1, math.ceil(8 * value / greatest)) - 1]
        for value in shown
    )
