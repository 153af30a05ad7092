"""``blkiomon stat``: a line for each device and interval, as ``iostat -x`` prints it."""

from __future__ import annotations

import re
import shutil
import textwrap
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from blkiomon.commands.config import Config
from blkiomon.commands.options import (
    FILE,
    HELP,
    LIMITS,
    NAMES,
    QUEUE_TIMES,
    SELECTION,
    Command,
    Option,
    UsageError,
    limits,
    seconds,
)
from blkiomon.commands.parsing import parsed
from blkiomon.commands.views import BY, INDENT, TOPOLOGY, shortened
from blkiomon.console import printable
from blkiomon.outputs.catalog import OutputSettings

if TYPE_CHECKING:
    from blkiomon.commands.table import Row
    from blkiomon.interval.value import Interval
    from blkiomon.interval.views import View
    from blkiomon.outputs.sink import Report, Sink

COMMAND = Command(
    "stat",
    (
        "blkiomon stat [OPTION]... [DEVICE]... [INTERVAL [COUNT]]",
        "blkiomon stat [OPTION]... TRACE... [INTERVAL [COUNT]]",
    ),
    """
    Print a line for each device and interval, as `iostat -x` does: rates, percentiles of latency,
    requests in flight. INTERVAL is in seconds, or a time such as 500ms or 5m; the default is 1.
    After COUNT intervals it ends.

    A DEVICE, such as sda or /dev/mapper/data, is captured from now on, which needs root or
    CAP_PERFMON. Without a DEVICE, standard input is read if it is a pipe or a file; otherwise all
    disks and volumes of this host are captured. A TRACE is what `blkiomon` reads; - is standard
    input. A name that is a device of this host means the device: for a trace of that name, write
    ./sda or -f sda.
    """,
    (
        Option("-I, --interval=SECONDS", "the same as INTERVAL", read=seconds(0.001)),
        Option("-o, --ops", "a line for each operation"),
        Option("--json", "JSON Lines, as blkiomon --json - prints them"),
        *SELECTION,
        FILE,
        QUEUE_TIMES,
        NAMES,
        BY,
        TOPOLOGY,
        *LIMITS,
        HELP,
    ),
    """
    Columns: latencies are times from issue to completion (D2C). The columns p50 to p99.9 are
    percentiles; * marks one that has too few requests: the slowest of them is shown. `in flight` is
    the mean and the maximum number of requests in flight, busy the share of the time with any, err
    the number of requests that failed. The column requeues appears once the kernel has given a
    request back, to issue it again. A wider terminal shows more columns.

    Lines that begin with ! follow an interval that is incomplete or lost events. With --by or a
    topology, they also name slow and idle paths, stalls and changes of state. By path, the paths
    of each LUN are below its multipath map.
    """,
    (
        ("blkiomon stat", "all disks, once a second"),
        ("blkiomon stat sda 5 12", "sda for a minute, every five seconds"),
        ("blkiomon stat -o run1 1m", "each minute of a recorded trace, by operation"),
        ("blkiomon stat --by path", "each LUN of a SAN, and its paths"),
        ("blkiomon stat --json nvme0n1 500ms", "for programs, twice a second"),
    ),
)

MOST_FINDINGS = 5
"""Lines below an interval, the most urgent ones."""

_NUMBER = re.compile(r"\.*[0-9][0-9.]*(us|ms|s|m|h)?")


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon stat`` with these options; returns the exit status."""
    config = _config(given)

    from blkiomon.commands.run import run

    return run(config, open_screen=None if given.json else partial(_open, config, given))


def _config(given: Namespace) -> Config:
    """What to run.

    Raises:
        UsageError: the arguments make no sense.
        SourceError: a name is neither a device nor a trace, or there is nothing to capture.
    """
    from blkiomon.commands.naming import watched

    numbers = [word for word in given.operands if _NUMBER.fullmatch(word)]
    names = [word for word in given.operands if word not in numbers]
    interval_s: float = given.interval or 1.0
    if given.interval is not None:
        numbers.insert(0, str(given.interval))
    elif numbers:
        interval_s = seconds(0.001)("INTERVAL", numbers[0])
    if len(numbers) > 2:
        raise UsageError(f"stat takes INTERVAL and COUNT, and no third number: {numbers[2]}")
    count = None
    if len(numbers) == 2:
        if not numbers[1].isdecimal() or not int(numbers[1]):
            raise UsageError(f"COUNT takes a whole number, 1 or more, not {numbers[1]!r}")
        count = int(numbers[1])
    return Config(
        **watched(given, names, "stat"),
        interval_s=interval_s,
        most_intervals=count,
        **limits(given),
        outputs=OutputSettings({"json": "-"} if given.json else {}, names=given.names),
    )


def _open(
    config: Config,
    given: Namespace,
    name_of: Callable[[int], str | None],
    report: Report,
    view: View | None = None,
    **options: Any,
) -> Sink:
    """The lines of a run, as a sink. Raises OSError: standard output cannot be written to."""
    from blkiomon.formats.rendering import Format
    from blkiomon.interval.value import Interval
    from blkiomon.outputs.files import FileSink
    from blkiomon.sources.capture import numbers_of

    lines = Lines(
        name_of,
        config.selection.only(numbers_of(config.trace)) if config.by == "device" else (),
        has_ops=given.ops or bool(given.op),
        interval_s=config.interval_s,
        view=view,
    )
    return FileSink("-", [Format((Interval,), lines.render)], report, **options)


class Lines:
    """The lines of each interval.

    Args:
        name_of: returns the name of a device, or None.
        devices: numbers of those with a line even if they are idle; devices seen later are added.
        has_ops: a line for each operation, instead of one for the device.
        interval_s: length of an interval.
        view: that made the intervals; None: they are by device.
    """

    def __init__(
        self,
        name_of: Callable[[int], str | None],
        devices: Iterable[int],
        *,
        has_ops: bool,
        interval_s: float,
        view: View | None = None,
    ) -> None:
        from blkiomon.commands import table

        size = shutil.get_terminal_size()
        columns = [
            table.WHEN_COLUMN,
            replace(table.DEVICE_COLUMN, title=view.by if view else "device"),
        ]
        columns += [table.OP_COLUMN] * has_ops + [*table.FIGURE_COLUMNS]
        self._table = table.Table(columns, size.columns)
        self._page = size.lines - 1
        self._name_of = name_of
        self._view = view
        self._width = size.columns
        self._devices = {*devices}
        self._has_ops = has_ops
        self._has_fractions = interval_s < 1
        self._rest_ns = table.REST_FRACTION * interval_s * 1e9
        self._has_begun = False
        self._head = ""
        self._left = 0  # lines before the head is repeated
        self._lost = 0  # events

    def render(self, interval: Interval) -> Iterator[bytes]:
        """The lines of an interval, after the head where that is due; a head needs a line."""
        from blkiomon.commands.table import REQUEUES_COLUMN, for_locale, without_rates

        is_rest = self._has_begun and interval.end_ns - interval.start_ns < self._rest_ns
        self._has_begun = True
        rows = list(self._rows(interval, self._has_fractions or is_rest))
        if is_rest:
            rows = [row._replace(group=without_rates(row.group)) for row in rows if row.group]
        if any(row.group is not None and row.group.requeues for row in rows):
            self._table.add(REQUEUES_COLUMN)
        lines = self._table.lines(rows)
        if lines and (self._table.head != self._head or self._left < len(lines)):
            self._head = self._table.head
            self._left = self._page
            lines.insert(0, self._head)
        for text in self._notes(interval):
            lines += textwrap.wrap(f"! {text}.", self._width, subsequent_indent="  ")
        self._left -= len(lines)
        text = for_locale("".join(f"{line}\n" for line in lines))
        yield text.encode(errors="surrogateescape")

    def _notes(self, interval: Interval) -> Iterator[str]:
        """What is incomplete, and what stands out."""
        from blkiomon.commands.table import loss_note
        from blkiomon.interval import incomplete

        if interval.incomplete:
            yield f"incomplete: {incomplete.in_words(interval.incomplete)}"
        if interval.counts.lost:
            self._lost += interval.counts.lost
            yield loss_note(self._lost)
        for finding in (interval.findings or ())[:MOST_FINDINGS]:
            yield finding.text

    def _rows(self, interval: Interval, has_fractions: bool) -> Iterator[Row]:
        from blkiomon.commands.table import Row, by_device, idle_label, op_label
        from blkiomon.formats.units import device_text

        groups = (*interval.groups(), *(interval.maps.groups() if interval.maps else ()))
        found = {device.number: device for device in by_device(groups, self._view)}
        self._devices |= found.keys()
        when = _when(interval, has_fractions)
        for number in sorted(self._devices, key=self._order):
            name = shortened(printable(self._name_of(number) or device_text(number)))
            name = INDENT * (self._map_of(number) in self._devices) + name
            device = found.get(number)
            is_sum = device is not None and device.is_sum
            if not self._has_ops:
                group = None if device is None else device.group
                yield Row(name, "", group, when, is_sum=is_sum)
                continue
            shown = device.ops if device is not None else ()
            yield from (Row(name, op_label(op.op), op, when, is_sum=is_sum) for op in shown)
            if not shown:
                yield Row(name, idle_label(interval.only_ops), None, when)

    def _map_of(self, number: int) -> int | None:
        return None if self._view is None else self._view.map_of(number)

    def _order(self, number: int) -> tuple[int, bool, int]:
        """Paths come below their map, others by number."""
        above = self._map_of(number)
        return (number, False, number) if above is None else (above, True, number)


def _when(interval: Interval, has_fractions: bool) -> str:
    """The end of an interval: local time, or seconds since the first record."""
    if not interval.anchored:
        return f"{interval.end_ns / 1e9:.{3 if has_fractions else 1}f}"
    text = time.strftime("%H:%M:%S", time.localtime(interval.end_ns // 10**9))
    return text + f".{interval.end_ns // 10**6 % 1000:03}" * has_fractions
