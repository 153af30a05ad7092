"""Draw a view as lines of text that fit a terminal; what is slowest comes first."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.console import Group as Parts
from rich.text import Text

from blkiomon.commands.table import (
    PLAIN as PLAIN_TABLE,
)
from blkiomon.commands.table import (
    count_cell,
    is_supported,
    megabytes_cell,
    share_cell,
    size_cell,
    time_cell,
)
from blkiomon.commands.top.detail import SHADES, detail_lines
from blkiomon.commands.top.look import TREES, WORST, Look, Shown
from blkiomon.commands.top.past import Codes, codes_of
from blkiomon.commands.top.rows import (
    CLOSED,
    NAME_WIDTH,
    OPEN,
    WAITING,
    Rows,
    ScreenRow,
    severity,
)
from blkiomon.commands.top.watch import View
from blkiomon.console import how_many, printable
from blkiomon.formats.json_codec import unseen
from blkiomon.formats.units import NONE, three_digits
from blkiomon.interval.groups import NS_PER_S, Group, InFlight
from blkiomon.interval.incomplete import in_words
from blkiomon.interval.value import Interval
from blkiomon.interval.views import View as SanView
from blkiomon.sources.devices import nameless

BLOCKS = "▁▂▃▄▅▆▇█"
IDLE = "·"

FIRST_BLOCK_NS = 100_000
"""▁ is below this; each further block is 3.2 times as much, so that █ is 100 ms or more."""

_FIRST_CODE = int(codes_of(FIRST_BLOCK_NS))
_CODES_OF_BLOCK = 6
_LEVELS = {"▆": 1, "▇": 1, "█": 2}

MARKS = " ^!"
STYLES = ("", "yellow", "bold red")
"""By level: what stands out slightly, or much."""

PLAIN = PLAIN_TABLE | str.maketrans(
    {"▼": "v", IDLE: ".", OPEN[0]: "v", CLOSED[0]: ">", "→": ">"}
    | dict(zip(BLOCKS, "12345678"))
    | dict(zip(SHADES[1:], ".:*#"))
)

LEAST_WIDTH, LEAST_HEIGHT = 40, 8

MESSAGES_SHOWN = 2

QUIET_NS = 3 * NS_PER_S
"""Time without a record after which a line says so."""

CHANGE_NS = 60 * NS_PER_S
"""How long a change of the topology is shown."""

UNPAIRED = ("completions_without_issue", "mismatches")
"""Not counted as losses: their issue may have come before the trace."""

HELP = """\
A row is a device, one of its operations, or a group of devices. What is
slowest comes first. ! and red: 100 ms or more, errors, findings; ^: 10 ms.

worst        p99 of the slowest operation, or age of the oldest request
IOPS, MB/s   requests that completed in the interval
p50 … max    from issue to completion; half of them took no longer than p50
flight       requests without a completion when the interval ended
err, requeue since the start: failed, given back by the kernel; ! just now
history      highest p99, whole run; ▁ below 100 µs, x3.2 a step, █ 100 ms
waiting      nothing completed, and something is in flight (idle: neither)

Up Down PgUp PgDn Home End  select    Enter  latencies over time, slow requests
/ F3 F4   filter by name              Esc    back
l i b     sort by worst, IOPS, MB/s; > or F6 by the next column, < the last
t F5      tree: array, LUN, path    + - space  open, close    *  all
o  operations    w  the whole run, or the latest interval    p  pause
"""

FOOTER = "q quit  h help  / filter  > sort  Enter latencies  t tree  w whole run  p pause"


def _no_view(by: str) -> SanView | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change during a run.

    Attributes:
        source: name of the trace or the devices.
        interval_s: length of an interval in s.
        is_live: the trace is live; else it was recorded.
        name_of: returns the name of a device by its number.
        is_plain: the terminal shows only ASCII.
        views: returns the view of a SAN by one of ``views.BY``; None: the topology is unknown.
    """

    source: str
    interval_s: float = 1.0
    is_live: bool = True
    name_of: Callable[[int], str | None] = nameless
    is_plain: bool = False
    views: Callable[[str], SanView | None] = field(default=_no_view)


def lines(
    view: View,
    look: Look,
    about: About,
    width: int,
    height: int,
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> tuple[list[str], Shown]:
    """Exactly ``height`` lines, none wider than ``width``, and what they show.

    Lines have escape sequences for colours.

    Args:
        notes: further messages for the user, the latest last.
        console: of the terminal; by default without colours.
    """
    console = console or Console(file=io.StringIO(), color_system=None)
    console.size = (width, height)
    width, height = max(1, width), max(1, height)
    shown = Shown()
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
        if look.is_help:
            parts += _help(room)
        else:
            body, shown = _body(view, look, about, width, room)
            parts += body
        parts += [Text("")] * (height - 1 - len(parts))
        parts.append(_footer(look, about))
    for part in parts:
        part.no_wrap, part.overflow = True, "ellipsis"
    with console.capture() as capture:
        console.print(Parts(*parts))
    text = capture.get()
    return (text.translate(PLAIN) if about.is_plain else text).split("\n")[:height], shown


def _footer(look: Look, about: About) -> Text:
    if look.is_typing:
        return Text(f"/{printable(look.filter)}_  Enter keeps this filter, Esc drops it", "reverse")
    if look.detail is not None:
        return Text("q quit  h help  Esc back  w whole run  p pause", style="reverse")
    has_tree = about.views("array") is not None
    return Text(FOOTER if has_tree else FOOTER.replace("t tree  ", ""), style="reverse")


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
    shown = [finding for finding in findings if finding.kind != "changed"][:MESSAGES_SHOWN]
    for change in view.changes:
        if view.latest is not None and view.latest.end_ns - change.interval.end_ns < CHANGE_NS:
            ago = three_digits((view.latest.end_ns - change.interval.end_ns) / NS_PER_S)
            yield Text(f"! {ago} s ago: {printable(change.finding.text)}", style="bold yellow")
    for finding in shown:
        yield Text(f"! {printable(finding.text)}", style="bold")
    for note in notes[-MESSAGES_SHOWN:]:
        yield Text(printable(note))


def _help(room: int) -> list[Text]:
    return [Text(line) for line in ("", *HELP.splitlines())][:room]


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table; where there is no room, those with the greatest ``drop`` go first."""

    title: str
    width: int
    text: Callable[[ScreenRow], str]
    drop: int = 0
    is_left: bool = False
    level: Callable[[ScreenRow], int] = lambda row: 0
    percent: float = 0
    is_sortable: bool = True
    is_history: bool = False

    def style(self, row: ScreenRow, cell: str) -> str:
        """How to show a cell: a percentile of too few requests is dim."""
        if self.percent and row.group is not None:
            if not is_supported(row.group.requests, self.percent):
                return "dim"
        return STYLES[self.level(row)]

    def cell(self, text: str) -> str:
        """The text, cut or padded to the width of the column."""
        width = cell_len(text)
        if width > self.width:
            return set_cell_size(text, self.width - 1) + "…"
        blank = " " * (self.width - width)
        return text + blank if self.is_left else blank + text


HISTORY = "history"


def _columns(width: int, has_requeues: bool, by: str) -> list[Column]:
    """The columns that fit; the history has the width that they leave."""
    is_wide = width >= 140
    has_long_names = is_wide or by != "device"
    columns = [
        Column(
            "array" if by == "array" else "lun" if by in TREES else by,
            NAME_WIDTH + 2 if has_long_names else 9,
            lambda row: MARKS[row.level] * row.is_device + row.name,
            is_left=True,
            level=lambda row: row.level * row.is_device,
            is_sortable=False,
        ),
        Column(
            "state" if by in TREES else "op",
            12 if is_wide else 9 if by in TREES else 7,
            lambda row: row.op,
            is_left=True,
            level=lambda row: 2 * (row.op == WAITING),
            is_sortable=False,
        ),
        _time(WORST, lambda row: row.worst_ns or None),
        Column("IOPS", 6, _figure(lambda g: g.iops, count_cell)),
        Column("MB/s", 6, _figure(lambda g: g.bytes_per_s, megabytes_cell), 56),
        Column("size", 6, _figure(lambda g: g.size_bytes.mean, size_cell), 136),
        _of_group("mean", lambda g: g.d2c_ns.mean, 126),
        _percentile(50, 64),
        _percentile(90, 106),
        _percentile(99, 40),
        _percentile(99.9, 116),
        _of_group("max", lambda g: g.d2c_ns.max, 50),
        Column("flight", 6, _load(lambda load: load.end, count_cell), 66),
        _of_group("oldest", lambda g: g.in_flight.oldest_ns or None if g.in_flight else None, 90),
        Column("err", 4, _errors, 72, level=_has_new, is_sortable=False),
        Column("busy", 5, _load(lambda load: load.busy_fraction, share_cell), 136),
        Column("queue", 6, _load(lambda load: load.mean, count_cell), 146),
        _of_group("q2d", lambda g: g.q2d_ns.percentile(99) if g.q2d_ns else None, 156),
    ]
    if has_requeues:
        columns.insert(-3, Column("requeue", 7, _requeues, 80, is_sortable=False))
    columns = [column for column in columns if column.drop <= width]
    while sum(column.width + 1 for column in columns) - 1 > width:
        columns.remove(max(columns, key=lambda column: column.drop))
    left = width - sum(column.width + 1 for column in columns)
    if left >= 8:
        title = "highest p99: ▁ <100µs … █ 100ms+" if left >= 33 else HISTORY
        columns.append(Column(title, left, lambda row: _spark(row.codes, left), is_sortable=False))
    return columns


def _body(view: View, look: Look, about: About, width: int, room: int) -> tuple[list[Text], Shown]:
    """The table, or the latencies of one row."""
    rows = Rows(view, look, about.name_of, about.views)
    columns = _columns(width, bool(view.past.requeues.any()), look.by)
    titles = tuple(column.title for column in columns if column.is_sortable)
    sort = look.sort if look.sort in titles else WORST
    keys = [key for key, _ in rows.rows]
    if look.detail is not None and look.detail in rows:
        parts = [_title(columns, sort)]
        parts += [_row(rows.row(key), columns) for key in rows.with_operations(look.detail)]
        parts = parts[: max(3, room // 3)]
        parts += detail_lines(view, rows.members(look.detail), width, room - len(parts))
        return parts, Shown(tuple(keys), room, titles, rows.has_operations)
    total = rows.total
    table = [_title(columns, sort)]
    if total is not None:
        table.append(_row(total, columns))
    left = max(1, room - len(table))
    begin, end = 0, len(keys)
    if end > left:
        left = max(1, left - 1)  # for the line that counts the others
        at = keys.index(look.selected) if look.selected in keys else 0
        begin = min(max(0, at - left // 2), len(keys) - left)
        end = begin + left
    table += [_row(rows.row(*item), columns) for item in rows.rows[begin:end]]
    above, below = (sum(key[0] != "op" for key in part) for part in (keys[:begin], keys[end:]))
    what = "device" if look.by == "device" else "row"
    if begin:
        table.append(Text(f"… {how_many(above, what, what + 's', ',')} above, {below:,} below"))
    elif end < len(keys):
        table.append(Text(f"… {how_many(below, f'more {what}', f'more {what}s', ',')}"))
    if look.filter and not keys:
        table.append(Text(f"nothing has {printable(look.filter)} in its name"))
    return table, Shown(tuple(keys), left, titles, rows.has_operations)


def _title(columns: Sequence[Column], sort: str) -> Text:
    head = Text(style="underline")
    for column in columns:
        is_sorted = column.title == sort
        head.append(" " * bool(head))
        head.append(column.cell(column.title + "▼" * is_sorted), "bold" if is_sorted else "")
    return head


def _row(row: ScreenRow, columns: Sequence[Column]) -> Text:
    style = "dim" if row.op == "idle" else "bold" if row.has_operations else ""
    text = Text(style=f"{style} reverse" if row.is_selected else style)
    spans: list[tuple[str, int, int]] = []
    parts, at = [], 0
    for column in columns:
        cell = column.cell(column.text(row))
        if column.is_history:
            spans += ((STYLES[level], at + i, at + j) for level, i, j in _levels_of(cell))
        elif named := column.style(row, cell):
            spans.append((named, at, at + len(cell)))
        parts.append(cell)
        at += len(cell) + 1
    text.append(" ".join(parts))
    for named, begin, end in spans:
        text.stylize(named, begin, end)
    return text


def _levels_of(history: str) -> Iterator[tuple[int, int, int]]:
    """Stretches of a history that stand out: level, begin and end."""
    at = 0
    for level, blocks in groupby(history, lambda block: _LEVELS.get(block, 0)):
        begin, at = at, at + len(list(blocks))
        if level:
            yield level, begin, at


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


def _time(title: str, time_ns: Callable[[ScreenRow], float | None], drop: int = 0) -> Column:
    """A column of latencies, coloured by how high they are."""
    return Column(
        title,
        6,
        lambda row: time_cell(time_ns(row)),
        drop,
        level=lambda row: severity(time_ns(row) or 0),
    )


def _of_group(title: str, figure: Callable[[Group], float | None], drop: int) -> Column:
    return _time(title, lambda row: None if row.group is None else figure(row.group), drop)


def _percentile(percent: float, drop: int) -> Column:
    column = _of_group(f"p{percent:g}", lambda g: g.d2c_ns.percentile(percent), drop)
    return replace(column, percent=percent)


def _has_new(row: ScreenRow) -> int:
    return 2 * bool(row.group is not None and row.group.errors)


def _errors(row: ScreenRow) -> str:
    return _total(row.errors, 0 if row.group is None else row.group.errors)


def _requeues(row: ScreenRow) -> str:
    return _total(row.requeues, 0 if row.group is None else row.group.requeues)


def _total(since_start: int, now: int) -> str:
    """A total in at most four characters, with "!" if some are of the interval shown."""
    total = max(since_start, now)
    return (f"{total}" if total < 1000 else f"{total // 1000}k") + "!" * bool(now)


def _spark(codes: Codes | None, width: int) -> str:
    """A block for each slice of the run, or for several; one logarithmic scale for all rows."""
    if codes is None or not len(codes):
        return ""
    if len(codes) > width:
        starts = np.arange(width) * len(codes) // width
        codes = np.maximum.reduceat(codes, starts)
    blocks = np.clip((codes.astype(int) - _FIRST_CODE) // _CODES_OF_BLOCK + 1, 0, len(BLOCKS) - 1)
    return "".join(
        BLOCKS[block] if code else IDLE for code, block in zip(codes.tolist(), blocks.tolist())
    )
