"""Draw the state of a run as lines of text that fit a terminal; what is slowest comes first."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from blkiomon.commands.table import PLAIN as PLAIN_TABLE
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
from blkiomon.commands.top.paint import (
    ALARM,
    BOLD,
    DIM,
    RED,
    REVERSE,
    UNDERLINE,
    YELLOW,
    Line,
    Span,
    cell_len,
    cut,
    has_colours,
    joined,
    painted,
    wrapped,
)
from blkiomon.commands.top.past import CODE_BITS, Codes, codes_of
from blkiomon.commands.top.rows import (
    CLOSED,
    NAME_WIDTH,
    OPEN,
    WAITING,
    Rows,
    ScreenRow,
    Views,
    findings_of,
    severity,
)
from blkiomon.commands.top.watch import RunState
from blkiomon.console import how_many, printable
from blkiomon.formats.json_codec import unseen
from blkiomon.formats.units import NONE, three_digits
from blkiomon.interval.findings import Finding
from blkiomon.interval.groups import NS_PER_S, Group, InFlight
from blkiomon.interval.incomplete import in_words
from blkiomon.interval.value import Counts, Interval
from blkiomon.sources.devices import nameless

BLOCKS = "▁▂▃▄▅▆▇█"
IDLE = "·"

FIRST_BLOCK_NS = 100_000
"""▁ is below this; each further block is 3.2 times as much, so that █ is 100 ms or more."""

_FIRST_CODE = int(codes_of(FIRST_BLOCK_NS))
_CODES_OF_BLOCK = 6
_STEPS = np.clip((np.arange(1 << CODE_BITS) - _FIRST_CODE) // _CODES_OF_BLOCK + 1, 0, 7)
_BLOCK_OF = IDLE + "".join(BLOCKS[step] for step in _STEPS[1:])
_LEVELS = {"▆": 1, "▇": 1, "█": 2}
_STRETCH = re.compile("[▆▇]+|█+|[^▆▇█]+")

MARKS = " ^!"
STYLES = ("", YELLOW, joined(BOLD, RED))
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

UNMATCHED = ("completions_without_issue", "mismatches")
"""Not counted as losses: their issue may have come before the trace."""

HELP = """\
A row is a device, one of its operations, or a group of devices. What is
slowest comes first. ! and red: 100 ms or more, errors, findings; ^: 10 ms.

worst        p99 of the slowest operation, or age of the oldest request
IOPS, MB/s   requests that completed in the interval
p50 … max    from issue to completion; half of them took no longer than p50
flight       requests in flight when the interval ended; aqu-sz: on average
err, requeue since the start: failed, given back by the kernel; ! just now
history      highest p99, whole run; ▁ below 100 µs, x3.2 a step, █ 100 ms
waiting      nothing completed, and something is in flight (idle: neither)

Up Down PgUp PgDn Home End  select    Enter  latencies over time, slow requests
/ F3 F4   filter by name              Esc    back
l i b     sort by worst, IOPS, MB/s; > or F6 by the next column, < the last
t F5      tree: array, LUN, path    + - space  open, close    *  all
o  operations of devices    w  the whole run, or the latest interval    p  pause
"""

FOOTER = "q quit  h help  / filter  > sort  Enter latencies  t tree  w whole run  p pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What does not change during a run.

    Attributes:
        source: name of the trace or the devices.
        interval_s: length of an interval in s.
        is_live: the trace is live; else it was recorded.
        name_of: returns the name of a device by its number.
        is_plain: the terminal shows only ASCII.
        views: of a SAN.
    """

    source: str
    interval_s: float = 1.0
    is_live: bool = True
    name_of: Callable[[int], str | None] = nameless
    is_plain: bool = False
    views: Views = field(default_factory=Views)


def lines(
    state: RunState,
    look: Look,
    about: About,
    width: int,
    height: int,
    notes: Sequence[str] = (),
) -> tuple[list[str], Shown]:
    """Exactly ``height`` lines, none wider than ``width``, and what they show.

    Lines have escape sequences for styles, and for colours unless ``NO_COLOR`` is set.

    Args:
        notes: further messages for the user, the latest last.
    """
    width, height = max(1, width), max(1, height)
    shown = Shown()
    parts: list[Line]
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        parts = [[(f"top needs {LEAST_WIDTH} columns, {LEAST_HEIGHT} lines", "")]]
        parts += [[]] * (height - 1)
    else:
        findings = findings_of(state, look, about.views)
        parts = [_head(state, look, about, width)]
        for text, style in (*_losses(state), *_states(state, look, findings, notes)):
            parts += wrapped(text, style, width)
        parts = parts[: height - 3]
        room = height - len(parts) - 1
        if look.is_help:
            parts += [[(line, "")] for line in ("", *HELP.splitlines())][:room]
        else:
            body, shown = _body(state, look, about, findings, width, room)
            parts += body
        parts += [[]] * (height - 1 - len(parts))
        parts.append(_footer(look, about))
    in_colour = has_colours()
    texts = [painted(part, width, in_colour=in_colour) for part in parts]
    return [text.translate(PLAIN) for text in texts] if about.is_plain else texts, shown


def _footer(look: Look, about: About) -> Line:
    if look.is_typing:
        return [(f"/{printable(look.filter)}_  Enter keeps this filter, Esc drops it", REVERSE)]
    if look.detail is not None:
        return [("q quit  h help  Esc back  w whole run  p pause", REVERSE)]
    has_tree = about.views.topology is not None
    text = FOOTER if has_tree else FOOTER.replace("t tree  ", "")
    if look.filter:
        text = text.replace("/ filter", f"/{printable(look.filter)} (Esc: all)")
    return [(text, REVERSE)]


# --- above the table ------------------------------------------------------------------------------


def _head(state: RunState, look: Look, about: About, width: int) -> Line:
    interval = state.whole if look.is_whole else state.latest
    if interval is None:
        right = f"waiting for the first interval ({about.interval_s:g} s)"
    else:
        seconds = three_digits(interval.duration_s)
        right = f"{how_many(interval.counts.records, 'record', 'records', ',')} in {seconds} s"
        right = f"WHOLE RUN: {right}" if look.is_whole else f"{right}  {_when(interval, about)}"
    left, source = "blkiomon top  ", printable(about.source)
    room = max(0, width - cell_len(right) - 2)
    if len(left) + len(source) > room:
        source = "…" + source[-max(1, room - len(left) - 1) :]  # the end of a path is specific
    left = cut(left + source, room)
    return [(left, BOLD), (f"{' ' * (room - cell_len(left))}  {right}", "")]


def _when(interval: Interval, about: About) -> str:
    if not interval.anchored:
        return f"at {interval.end_ns / NS_PER_S:.1f} s"
    form = "%H:%M:%S" if about.is_live else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, time.localtime(interval.end_ns // NS_PER_S))


def _losses(state: RunState) -> Iterator[Span]:
    """What is known to be missing, or that nothing is."""
    totals = unseen(state.totals)
    now = unseen(Counts() if state.has_ended else state.now)

    def listed(names: Iterable[str]) -> str:
        return ", ".join(
            f"{totals[name]:,} {name.replace('_', ' ')}" + f" (+{now[name]:,})" * bool(now[name])
            for name in names
            if totals[name]
        )

    lost = listed(name for name in totals if name not in UNMATCHED)
    unmatched = listed(UNMATCHED)
    incomplete = (f"INCOMPLETE: {in_words(state.incomplete)}", ALARM) if state.incomplete else None
    if not lost and incomplete is not None:
        text, style = incomplete
        incomplete = None
    elif not lost:
        text, style = f"nothing lost in {three_digits(state.seen_ns / NS_PER_S)} s", ""
    elif state.has_ended:
        text, style = f"LOST: {lost}", ALARM
    elif any(number for name, number in now.items() if name not in UNMATCHED):
        text, style = f"LOST NOW: {lost}", ALARM
    else:
        text, style = f"LOST before, nothing now: {lost}", BOLD
    yield text + f"; unmatched: {unmatched}" * bool(unmatched), style
    if incomplete is not None:
        yield incomplete


def _states(
    state: RunState, look: Look, findings: Sequence[Finding], notes: Sequence[str]
) -> Iterator[Span]:
    if state.has_ended:
        yield "END OF TRACE: q quits", REVERSE
    if look.is_paused:
        yield "PAUSED: p continues", REVERSE
    if state.quiet_ns >= QUIET_NS and not state.has_ended:
        quiet = three_digits(state.quiet_ns / NS_PER_S)
        yield f"NO RECORDS for {quiet} s: the devices are idle, or records do not arrive", ""
    shown = [finding for finding in findings if finding.kind != "changed"][:MESSAGES_SHOWN]
    for change in state.changes:
        if state.latest is not None and state.latest.end_ns - change.interval.end_ns < CHANGE_NS:
            ago = three_digits((state.latest.end_ns - change.interval.end_ns) / NS_PER_S)
            yield f"! {ago} s ago: {printable(change.finding.text)}", joined(BOLD, YELLOW)
    for finding in shown:
        yield f"! {printable(finding.text)}", BOLD
    for note in notes[-MESSAGES_SHOWN:]:
        yield printable(note), ""


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScreenColumn:
    """A column of the table.

    Attributes:
        title: its heading.
        width: in cells.
        cell: returns the text of a row's cell and its style.
        drop: left out below this width; if room is still short, the greatest numbers go first.
    """

    title: str
    width: int
    cell: Callable[[ScreenRow], Span]
    drop: int = 0
    is_left: bool = False
    is_sortable: bool = True
    is_history: bool = False

    def padded(self, text: str) -> str:
        """A text, cut or padded to the width of the column."""
        missing = self.width - cell_len(text)
        if missing < 0:
            return cut(text, self.width)
        return text + " " * missing if self.is_left else " " * missing + text


HISTORY = "history"


def _columns(width: int, has_requeues: bool, by: str) -> list[ScreenColumn]:
    """The columns that fit; the history has the width that they leave."""
    is_wide = width >= 140
    has_long_names = is_wide or by != "device"
    columns = [
        ScreenColumn(
            "array" if by == "array" else "lun" if by in TREES else by,
            NAME_WIDTH + 2 if has_long_names else 9,
            _name,
            is_left=True,
            is_sortable=False,
        ),
        ScreenColumn(
            "state" if by in TREES else "op",
            12 if is_wide else 9 if by in TREES else 7,
            lambda row: (row.op, STYLES[2 * (row.op == WAITING)]),
            is_left=True,
            is_sortable=False,
        ),
        _time(WORST, lambda row: row.worst_ns or None),
        ScreenColumn("IOPS", 6, _figure(lambda g: g.iops, count_cell)),
        ScreenColumn("MB/s", 6, _figure(lambda g: g.bytes_per_s, megabytes_cell), 56),
        ScreenColumn("size", 6, _figure(lambda g: g.size_bytes.mean, size_cell), 136),
        _of_group("mean", lambda g: g.d2c_ns.mean, 126),
        _percentile(50, 64),
        _percentile(90, 106),
        _percentile(99, 40),
        _percentile(99.9, 116),
        _of_group("max", lambda g: g.d2c_ns.max, 50),
        ScreenColumn("flight", 6, _load(lambda load: load.end, count_cell), 66),
        _of_group("oldest", lambda g: g.in_flight.oldest_ns or None if g.in_flight else None, 90),
        ScreenColumn("err", 4, _errors, 72, is_sortable=False),
        ScreenColumn("busy", 5, _load(lambda load: load.busy_fraction, share_cell), 136),
        ScreenColumn("aqu-sz", 6, _load(lambda load: load.mean, count_cell), 146),
        _of_group("q2d", lambda g: g.q2d_ns.percentile(99) if g.q2d_ns else None, 156),
    ]
    if has_requeues:
        columns.insert(-3, ScreenColumn("requeue", 7, _requeues, 80, is_sortable=False))
    columns = [column for column in columns if column.drop <= width]
    while sum(column.width + 1 for column in columns) - 1 > width:
        columns.remove(max(columns, key=lambda column: column.drop))
    left = width - sum(column.width + 1 for column in columns)
    if left >= 8:
        title = "highest p99: ▁ <100µs … █ 100ms+" if left >= 33 else HISTORY

        def history(row: ScreenRow) -> Span:
            return _spark(row.codes, left), ""

        columns.append(ScreenColumn(title, left, history, is_sortable=False, is_history=True))
    return columns


def _body(
    state: RunState, look: Look, about: About, findings: Sequence[Finding], width: int, room: int
) -> tuple[list[Line], Shown]:
    """The table, or the latencies of one row."""
    rows = Rows(state, look, about.name_of, about.views, findings)
    columns = _columns(width, bool(state.past.requeues.any()), look.by)
    titles = tuple(column.title for column in columns if column.is_sortable)
    sort = look.sort if look.sort in titles else WORST
    keys = [key for key, _ in rows.rows]
    if look.detail is not None and look.detail in rows:
        parts = [_title(columns, sort)]
        parts += [_row(rows.row(key), columns) for key in rows.with_operations(look.detail)]
        parts = parts[: max(3, room // 3)]
        parts += detail_lines(state, rows.members(look.detail), width, room - len(parts))
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
        text = f"… {how_many(above, what, what + 's', ',')} above, {below:,} below"
        table.append([(text, "")])
    elif end < len(keys):
        table.append([(f"… {how_many(below, f'more {what}', f'more {what}s', ',')}", "")])
    if look.filter and not keys:
        table.append([(f"no name contains {printable(look.filter)}", "")])
    return table, Shown(tuple(keys), left, titles, rows.has_operations)


def _title(columns: Sequence[ScreenColumn], sort: str) -> Line:
    line: Line = []
    for column in columns:
        is_sorted = column.title == sort
        line.append((" " * bool(line), UNDERLINE))
        text = column.padded(column.title + "▼" * is_sorted)
        line.append((text, joined(UNDERLINE, BOLD * is_sorted)))
    return line


def _row(row: ScreenRow, columns: Sequence[ScreenColumn]) -> Line:
    line: Line = []
    base = DIM if row.is_idle else BOLD if row.has_operations else ""
    base = joined(base, REVERSE * row.is_selected)
    gap = ""
    for column in columns:
        text, style = column.cell(row)
        text = gap + column.padded(text)
        if column.is_history:
            for part in _STRETCH.findall(text):  # which stand out alike
                line.append((part, joined(base, STYLES[_LEVELS.get(part[0], 0)])))
        else:
            line.append((text, joined(base, style) if style else base))
        gap = " "
    return line


# --- cells ----------------------------------------------------------------------------------------


Cell = Callable[[ScreenRow], Span]


def _name(row: ScreenRow) -> Span:
    level = row.level * row.is_device
    return MARKS[level] * row.is_device + row.name, STYLES[level]


def _figure(figure: Callable[[Group], float | None], text: Callable[[float | None], str]) -> Cell:
    """A cell with a figure of the row's group."""
    return lambda row: (NONE if row.group is None else text(figure(row.group)), "")


def _load(figure: Callable[[InFlight], float | None], text: Callable[[float | None], str]) -> Cell:
    """A cell with a figure of requests in flight."""
    return _figure(lambda g: None if g.in_flight is None else figure(g.in_flight), text)


def _time(title: str, time_ns: Callable[[ScreenRow], float | None], drop: int = 0) -> ScreenColumn:
    """A column of latencies, coloured by how high they are."""

    def cell(row: ScreenRow) -> Span:
        time = time_ns(row)
        return time_cell(time), STYLES[severity(time or 0)]

    return ScreenColumn(title, 6, cell, drop)


def _of_group(title: str, figure: Callable[[Group], float | None], drop: int) -> ScreenColumn:
    return _time(title, lambda row: None if row.group is None else figure(row.group), drop)


def _percentile(percent: float, drop: int) -> ScreenColumn:
    """A percentile; it is dim if requests are too few for it."""
    column = _of_group(f"p{percent:g}", lambda g: g.d2c_ns.percentile(percent), drop)

    def cell(row: ScreenRow) -> Span:
        text, style = column.cell(row)
        has_enough = row.group is None or is_supported(row.group.requests, percent)
        return text, style if has_enough else DIM

    return replace(column, cell=cell)


def _errors(row: ScreenRow) -> Span:
    return _total(row.errors, row.new_errors), STYLES[2 * bool(row.new_errors)]


def _requeues(row: ScreenRow) -> Span:
    return _total(row.requeues, row.new_requeues), ""


def _total(total: int, now: int) -> str:
    """A total in at most four characters, with "!" if some are of the latest interval."""
    return (f"{total}" if total < 1000 else f"{total // 1000}k") + "!" * bool(now)


def _spark(codes: Codes | None, width: int) -> str:
    """A block for each slice of the run, or for several; one logarithmic scale for all rows."""
    if codes is None or not len(codes):
        return ""
    if len(codes) > width:
        starts = np.arange(width) * len(codes) // width
        codes = np.maximum.reduceat(codes, starts)
    return "".join(map(_BLOCK_OF.__getitem__, codes.tolist()))
