"""``blkiomon run1``, or ``blkiomon summary run1``: what happened in a trace, on one screen."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from blkiomon.commands.naming import require_traces
from blkiomon.commands.options import (
    HELP,
    LIMITS,
    NAMES,
    SELECTION,
    Command,
    Option,
    UsageError,
    limits,
)
from blkiomon.commands.parsing import parsed
from blkiomon.commands.views import (
    BY,
    DEVICE,
    TOPOLOGY,
    Entry,
    find_topology,
    left_out_text,
    selected,
    view_columns,
    view_of,
    view_rows,
)
from blkiomon.console import EXIT_INPUT, EXIT_OK, complain, how_many, printable, printed

if TYPE_CHECKING:
    from argparse import Namespace

    from blkiomon.commands.report.collected import Collected
    from blkiomon.commands.table import DeviceFigures, Row
    from blkiomon.interval.value import Interval

COMMAND = Command(
    "summary",
    ("blkiomon summary [OPTION]... TRACE...", "blkiomon [OPTION]... TRACE..."),
    """
    Summarize a recorded trace: when it was, whether it is complete, how fast each device was for
    each operation, and what stands out. The devices with the highest latency come first.

    A TRACE is a file, a FIFO, a directory, or - for standard input. Of the per-CPU files that
    blktrace writes, one file or their base name is enough. Files written with --json or -b work as
    well; those of -b contain no percentiles.
    """,
    (
        *SELECTION,
        Option("--all", "list all devices (default: the 20 with the highest latency)"),
        NAMES._replace(
            help="print names, sizes and models of this host's devices; default: those of the "
            "traced host, as far as they are known"
        ),
        BY,
        TOPOLOGY,
        *LIMITS,
        HELP,
    ),
    """
    Columns: latencies are times from issue to completion (D2C). The columns p50 to p99.9 are
    percentiles; * marks one that has too few requests: the slowest of them is shown. `in flight` is
    the mean and the maximum number of requests in flight, err the number of requests that failed.
    A wider terminal shows more columns.

    With --by path, the paths of each LUN are below its multipath map, if that was traced: the
    difference is what multipath adds. Totals count a request once.

    Exit status: 0 for success; 2 for a usage error; 3 if the input is damaged, or contains no
    request.
    """,
    (
        ("blkiomon run1", ""),
        ("blkiomon --device 8:16 --op read --from 10 --to 20 run1", ""),
        ("blkiomon --by path run1", ""),
        ("ssh host blkiomon record -o - --for 10 | blkiomon -", ""),
    ),
)

MOST_DEVICES = 20


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon summary`` with these options; returns the exit status."""
    require_traces(given.operands)
    wanted = selected(given, given.operands)
    if "-" in given.operands and os.isatty(0):
        raise UsageError("standard input is a terminal; a trace is expected there")
    from blkiomon.commands.report.collect import collect
    from blkiomon.commands.table import for_locale

    topology = find_topology(given.by, given.topology, given.operands)
    is_pipe = "-" in given.operands and stat.S_ISFIFO(os.fstat(0).st_mode)
    with _first_interrupt_ignored() if is_pipe else nullcontext():
        found = collect(given.operands, **wanted._asdict(), patterns=False, **limits(given))
        found = found.of_host(topology)
    for note in found.notes:
        complain(note)
    columns = shutil.get_terminal_size().columns
    shown = _Summary(found, given).lines(columns)
    status = printed([for_locale("\n".join([*shown, ""]))])
    return status or (EXIT_INPUT if found.is_broken else EXIT_OK)


@contextmanager
def _first_interrupt_ignored() -> Iterator[None]:
    """Ignore the first Ctrl-C while a pipe is read: it ends the writer, too, and so the pipe."""
    old = signal.getsignal(signal.SIGINT)

    def ignore_once(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, old)

    signal.signal(signal.SIGINT, ignore_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


class _Summary:
    """The text of a summary.

    Args:
        found: what was read.
        given: the user's options.
    """

    def __init__(self, found: Collected, given: Namespace) -> None:
        from blkiomon.sources.devices import device_name, nameless

        self._found = found
        topology = found.topology
        self._given = given
        self._view = view_of(topology, given.by)
        self._shown = found.whole
        self._name_of: Callable[[int], str | None] = device_name if given.names else nameless
        self._about: Callable[[int], str | None] = _about_here if given.names else nameless
        if given.by == DEVICE and given.names is None:
            names = found.device_names if topology is None else topology.names()
            self._name_of = names.get
            devices = [] if topology is None else topology.devices
            known = {d.number: d for d in devices if d.number is not None}
            abouts = {n: _about_text(d.size_bytes, d.vendor, d.model) for n, d in known.items()}
            self._about = abouts.get
        if self._view is not None:
            self._shown = self._view(found.whole)
            self._name_of = self._view.name_of

    def lines(self, columns: int) -> Iterator[str]:
        """Its lines, for a terminal of so many columns."""
        from blkiomon.commands.report.findings import findings
        from blkiomon.commands.table import loss_note
        from blkiomon.interval import incomplete

        found, whole = self._found, self._found.whole
        missing = [incomplete.in_words(whole.incomplete)] if whole.incomplete else []
        missing += ["the input ends early or is damaged"] * found.is_broken
        if missing:
            yield from textwrap.wrap(f"INCOMPLETE: {'; '.join(missing)}", columns)
        names = ", ".join(printable(Path(name).name or name) for name in found.names[:3])
        if len(found.names) > 3:
            names += f" and {len(found.names) - 3} more"
        counts = [how_many(self._shown.total.requests, "request", "requests", ",")]
        if whole.counts.records:
            counts.insert(0, how_many(whole.counts.records, "record", "records", ","))
        names += " merged" * (len(found.names) > 1)
        first = f"{'standard input' if names == '-' else names}: {_when(whole)}"
        yield from textwrap.wrap(first, columns, break_long_words=False, break_on_hyphens=False)
        devices = how_many(len(found.devices), "device", "devices", ",")
        only = f"; only {found.selection.text}" if found.selection.text else ""
        if whole.not_in_total and not found.n_others:
            only += "; a request on a map and its path counts once"
        yield from textwrap.wrap(f"{', '.join(counts)} of {devices}{only}", columns)
        yield ""
        yield from self._table(columns)
        if whole.counts.lost:
            yield from textwrap.wrap(loss_note(whole.counts.lost), columns)
        stands_out = findings(found.slices, whole, self._name_of, found.topology, found.gaps)
        if stands_out:
            yield ""
        for one in stands_out:
            yield from textwrap.wrap(f"- {one.text}.", columns, subsequent_indent="  ")

    def _table(self, columns: int) -> Iterator[str]:
        from blkiomon.commands import table
        from blkiomon.commands.report.collected import STATS
        from blkiomon.commands.report.selection import OTHERS

        given, view = self._given, self._view
        devices = table.worst_first(table.by_device(self._shown.groups(), view))
        found = map(self._entry, devices) if view is None else view_rows(view, self._shown, devices)
        rows: list[Row] = []
        n_left_out = 0
        for place, (name, about, device) in enumerate(found):
            if place >= MOST_DEVICES and not given.all:
                n_left_out += 1
                continue
            if self._found.n_others and device.number == OTHERS:
                name, about = "others", ""
            groups = [*device.ops]
            if not self._shown.only_ops and device.group is not None:
                if len(groups) == 1:  # when a device is busy is known of all operations together
                    groups = [replace(groups[0], in_flight=device.group.in_flight)]
                else:
                    groups.insert(0, device.group)
            for at, group in enumerate(groups):
                first = ("", "") if at else (name, about)
                label = table.op_label(group.op)
                rows.append(table.Row(first[0], label, group, "", first[1], device.is_sum))
        shown = [table.DEVICE_COLUMN, table.ABOUT_COLUMN] if view is None else view_columns(view)
        if not any(row.about for row in rows):
            shown.pop()
        shown += [table.OP_COLUMN, table.REQUESTS_COLUMN, *table.FIGURE_COLUMNS]
        if self._found.kind == STATS:  # which hold no errors
            shown.pop()
        if any(row.group is not None and row.group.requeues for row in rows):
            shown.append(table.REQUEUES_COLUMN)
        made = table.Table(shown, columns)
        lines = made.lines(rows)
        yield made.head
        yield from lines
        if n_left_out:
            more = how_many(n_left_out, f"more {given.by}", f"more {given.by}s", ",")
            yield from textwrap.wrap(f"… {more}: --all lists all, --device selects", columns)
        if any(table.MARK in line for line in lines):
            few = "too few requests for this percentile: the slowest is shown"
            yield from textwrap.wrap(f"{table.MARK} {few}", columns)
        if view is not None and (left_out := left_out_text(view.left_out)):
            yield from textwrap.wrap(left_out, columns)

    def _entry(self, device: DeviceFigures) -> Entry:
        from blkiomon.formats.units import device_text

        name = printable(self._name_of(device.number) or device_text(device.number))
        return Entry(name, printable(self._about(device.number) or ""), device)


def _when(whole: Interval) -> str:
    """Begin and end in UTC, as in findings; duration."""
    from blkiomon.formats.units import time_text

    seconds = whole.duration_s
    if seconds < 600:
        lasted = time_text(whole.end_ns - whole.start_ns)
    else:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        lasted = f"{hours} h {minutes:02} min {rest:02} s" if hours else f"{minutes} min {rest} s"
    if not whole.anchored:
        return f"{lasted}; the trace does not contain the time of day"
    begin, end = (time.gmtime(ns // 10**9) for ns in (whole.start_ns, whole.end_ns))
    is_same_day = begin[:3] == end[:3]
    until = time.strftime("%H:%M:%S" if is_same_day else "%Y-%m-%d %H:%M:%S", end)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', begin)} to {until} UTC, {lasted}"


def _about_here(device: int) -> str:
    """Size and model of a device of this host, as far as they are known."""
    path = Path(f"/sys/dev/block/{device >> 20}:{device & 0xFFFFF}")
    size_bytes = model = None
    with suppress(OSError, ValueError):
        size_bytes = int((path / "size").read_text()) * 512
        model = (path / "device/model").read_text().strip()
    return _about_text(size_bytes, model)


def _about_text(size_bytes: int | None, *words: str | None) -> str:
    """The size of a device, its vendor and model, as far as they are known."""
    from blkiomon.formats.units import bytes_text

    return " ".join(filter(None, ["" if size_bytes is None else bytes_text(size_bytes), *words]))
