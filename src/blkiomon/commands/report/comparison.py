"""A comparison of two sides as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blkiomon.commands.report.alignment import aligned
from blkiomon.commands.report.cells import Cells, joined, on_one_axis
from blkiomon.commands.report.changes import (
    CHANGED,
    METRICS,
    NO_DIFFERENCE,
    ONLY_IN_A,
    ONLY_IN_B,
    TOO_LITTLE,
    UNCHANGED,
    Change,
    DeviceChanges,
    compare,
    judged_together,
    seconds_of,
    value_text,
)
from blkiomon.commands.report.collect import collect
from blkiomon.commands.report.collected import STATS, Collected
from blkiomon.commands.views import view_of
from blkiomon.console import how_many, printable
from blkiomon.errors import ReportError
from blkiomon.formats.json_codec import incomplete_list
from blkiomon.formats.units import NONE, bytes_text, op_text
from blkiomon.interval.incomplete import Incomplete, in_words
from blkiomon.sources.topology import Topology

NAMES = {"iops": "IOPS"}
"""Metrics whose name in a table differs from that in a rule."""

SAME_SIZE = 1.1
"""Mean sizes of requests up to this ratio are not reported as different."""

ROWS_SHOWN = 20
"""Changed rows of the text."""

NAMES_SHOWN = 3
"""Devices and operations of one side alone that a verdict names."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides, each of one run or several, and what changed from A to B.

    Attributes:
        a, b: the runs of each side.
        rows: the changes, judged together.
        only_ops: the operations that have rows; empty: all.
        alone: all changes, each judged as if it were the only one: for rules, which name theirs.
    """

    a: Sequence[Collected]
    b: Sequence[Collected]
    rows: Sequence[DeviceChanges]
    only_ops: Sequence[str] = ()
    alone: Sequence[DeviceChanges] = ()

    @property
    def scope(self) -> str:
        """What is compared, such as ``only read; by path``; empty: everything by device."""
        run = self.runs[0]
        selected = run.selection._replace(ops=tuple(self.only_ops))
        return replace(run, selection=selected).scope

    @property
    def runs(self) -> tuple[Collected, ...]:
        """All runs, those of A first."""
        return (*self.a, *self.b)

    @property
    def sides(self) -> tuple[tuple[str, Sequence[Collected]], ...]:
        """The runs of each side, with its letter."""
        return ("A", self.a), ("B", self.b)

    def incomplete(self) -> list[tuple[str, tuple[Incomplete, ...]]]:
        """What is incomplete: a title for the run, and the reasons."""
        return [
            (f"{letter} is incomplete" + f" ({printable(run.names[0])})" * (len(side) > 1), why)
            for letter, side in self.sides
            for run in side
            if (why := run.whole.incomplete)
        ]

    def about(self) -> list[str]:
        """The heading of a picture: the runs of each side, the selection, and what they lack."""
        return [
            *(f"{letter}: {side_text(side)}" for letter, side in self.sides),
            *([self.scope] if self.scope else []),
            *(f"{what}: {in_words(why)}" for what, why in self.incomplete()),
            *(f"{letter}: {note}" for letter, note in self.losses()),
        ]

    def losses(self) -> list[tuple[str, str]]:
        """What makes the figures of a side wrong, with its letter."""
        lost = [(letter, sum(r.whole.counts.lost for r in side)) for letter, side in self.sides]
        notes = [
            (
                letter,
                f"{how_many(n, 'event was', 'events were', ',')} lost: the true numbers of "
                "requests, IOPS and bandwidth are higher",
            )
            for letter, n in lost
            if n
        ]
        if not any(run.whole.not_in_total for run in self.runs):
            return notes
        return notes + [
            (
                letter,
                "its topology is not known: the rows of all devices count a request on a map and "
                "its path twice, those of the other side once",
            )
            for letter, side in self.sides
            if any(run.topology is None and not run.whole.not_in_total for run in side)
        ]

    def changed(self) -> list[DeviceChanges]:
        """Rows that changed, or that only one side has.

        First come those with more errors, then the largest certain change, then those of one side.
        """

        def order(row: DeviceChanges) -> tuple[bool, float]:
            has_new_errors = row.only_in == ONLY_IN_B and row.errors[1] > 0
            has_more_errors = row.errors_verdict == "worse" or has_new_errors
            return not has_more_errors, -max((c.least for c in row.shown), default=0.0)

        return sorted((row for row in self.rows if row.verdict not in UNCHANGED), key=order)

    def failed(self) -> tuple[int, int]:
        """Requests that failed in A and in B, each counted once."""
        by_op = self._of_all()
        of_all_ops = [row for row in by_op if row.op is None]
        a, b = zip(*(row.errors for row in of_all_ops or by_op))
        return sum(a), sum(b)

    def _of_all(self) -> Sequence[DeviceChanges]:
        """The rows of all devices together, or of the only one."""
        return [row for row in self.rows if row.numbers == (None, None)] or self.rows

    def verdict(self) -> str:
        """What changed, in one line; failed requests come first."""
        parts = [*self._failures(), *self._other_sizes(), *self._counted(), *self._of_one_side()]
        changes = [(row, row.shown[0]) for row in self.rows if row.shown]
        if changes:
            row, _ = max(changes, key=lambda found: found[1].least)
            figures = ", ".join(map(_figure_text, row.largest))
            parts.append(f"most changed: {op_text(row.op or 'all')} of {row.device}, {figures}")
        return "; ".join(parts)

    def _failures(self) -> list[str]:
        """Such as ``2,954 requests failed in B, none in A``; nothing if no request failed."""
        (more, side), (fewer, other) = sorted(zip(self.failed(), "AB"), reverse=True)
        if not more:
            return []
        failed = how_many(more, "request", "requests", ",")
        return [f"{failed} failed in {side}, {f'{fewer:,}' if fewer else 'none'} in {other}"]

    def _other_sizes(self) -> list[str]:
        """Such as ``mean sizes differ: read 4.10 kB in A, 8.19 kB in B``: that is another load."""
        sizes = [(row.op, *row.mean_bytes) for row in self._of_all() if row.op and row.mean_bytes]
        differ = [
            f"{op_text(op)} {bytes_text(a)} in A, {bytes_text(b)} in B"
            for op, a, b in sizes
            if max(a, b) > SAME_SIZE * min(a, b)
        ]
        return [f"mean sizes differ: {' and '.join(differ)}"] if differ else []

    def _counted(self) -> list[str]:
        """How many rows have which verdict."""
        counts = Counter(row.verdict for row in self.rows)
        rows = {verdict: how_many(n, "row", "rows", ",") for verdict, n in counts.items()}
        changed = [f"{rows[verdict]} {verdict}" for verdict in CHANGED if verdict in rows]
        if not changed:
            return [f"{of} in {rows[of]}" for of in (NO_DIFFERENCE, TOO_LITTLE) if of in rows]
        n_same = counts[NO_DIFFERENCE] + counts[TOO_LITTLE]
        return [f"{', '.join(changed)}, {n_same:,} without a difference shown"]

    def _of_one_side(self) -> list[str]:
        """What is not compared, such as ``only in B: write of 8:0, 8:16``; first what failed.

        A device is named without its operations if they all are of one side.
        """
        parts = []
        for only_in in (ONLY_IN_A, ONLY_IN_B):
            rows = [row for row in self.changed() if row.only_in == only_in]
            whole = {row.numbers for row in rows if row.op is None}
            names = [
                f"{op_text(row.op)} of {row.device}" if row.op else row.device
                for row in rows
                if row.op is None or row.numbers not in whole
            ]
            n_more = len(names) - NAMES_SHOWN
            more = f" and {n_more:,} more" if n_more > 0 else ""
            if names:
                parts.append(f"{only_in}: {', '.join(names[:NAMES_SHOWN])}{more}")
        return parts

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            **{
                letter.lower(): [run.names[0].encode(errors="replace").decode() for run in side]
                for letter, side in self.sides
            },
            **({"scope": self.scope} if self.scope else {}),
            "incomplete": {
                letter.lower(): [incomplete_list(run.whole.incomplete) for run in side]
                for letter, side in self.sides
            },
            "others": {
                letter.lower(): sum(run.n_others for run in side) for letter, side in self.sides
            },
            "verdict": self.verdict(),
            "rows": [
                {
                    "device": row.device,
                    "op": row.op or "all",
                    "verdict": row.verdict,
                    "requests": row.requests,
                    "errors": row.errors,
                    "requeues": row.requeues,
                    "changes": {
                        change.metric: {
                            name: getattr(change, name)
                            for name in ("a", "b", "change", "low", "high", "verdict")
                        }
                        for change in row.changes
                    },
                }
                for row in self.rows
            ],
        }


def compare_runs(
    names: tuple[Sequence[str], Sequence[str]],
    metrics: Sequence[str],
    by: str = "device",
    ops: Sequence[str] = (),
    topology_of: Callable[[str], Topology | None] = lambda name: None,
    **options: Any,
) -> Comparison:
    """Read the runs of both sides and compare them.

    Args:
        names: of the runs of A and of B.
        metrics: to compare besides ``METRICS``.
        by: what figures are added up by, one of ``interval.views.BY``.
        ops: the operations that have rows; empty: all.
        topology_of: finds the topology of the host of a run with this name; None: not known.
        options: as for ``collect``.

    Raises:
        ReportError, SourceError, TraceError: a run cannot be read, or the sides have nothing in
            common.
    """
    found = [_collect_run(n, by, topology_of(n), **options) for side in names for n in side]
    if by != "device":
        found = list(aligned(found))
    a, b = found[: len(names[0])], found[len(names[0]) :]
    alone = compare(a, b, tuple(dict.fromkeys((*METRICS, *metrics))))
    rows = [row for row in alone if not ops or row.op in ops]
    if all(row.only_in for row in rows):
        raise ReportError(f"not both sides have {' or '.join(ops)} requests")
    return Comparison(a, b, judged_together(rows, a, b), ops, alone)


def _collect_run(name: str, by: str, topology: Topology | None, **options: Any) -> Collected:
    found = collect([name], patterns=False, view=view_of(topology, by), **options)
    if found.kind == STATS:
        raise ReportError(f"{name}: files of -b hold no percentiles: compare traces, or --json")
    return found.of_host(topology)


def sides_of(found: Comparison) -> list[Cells]:
    """The cells of each side: on one axis of time, with the same devices."""
    runs = [[run.cells for run in side] for _, side in found.sides]
    a, b = found.rows[0].numbers
    if a is not None and b is not None and a != b:  # single devices: they are one in the charts
        runs[1] = [replace(run, devices=np.array([a], np.uint32)) for run in runs[1]]
    placed = on_one_axis([*runs[0], *runs[1]])
    sides = []
    for of_side in (placed[: len(runs[0])], placed[len(runs[0]) :]):
        known_s = np.sum([run.known_s for run in of_side], axis=0)
        cells = of_side[0] if len(of_side) == 1 else joined(of_side)
        sides.append(replace(cells, edges_s=of_side[0].edges_s, known_s=known_s, begin_s=0.0))
    return sides


# --- text -----------------------------------------------------------------------------------------


def side_text(side: Sequence[Collected]) -> str:
    runs = "" if len(side) == 1 else f"{len(side)} runs, "
    names = ", ".join(printable(run.names[0]) for run in side)
    return f"{names} ({runs}{seconds_of(side):,.3f} s)"


def text(found: Comparison, *, has_all: bool = False) -> str:
    """A verdict, and a table of the rows that changed or that one side lacks; or of all rows."""
    cells = [("device", "operation", "figure", "A", "B", "change", "95 % interval", "")]
    shown = found.rows if has_all else found.changed()[:ROWS_SHOWN]
    for row in shown:
        for change in row.changes:
            first = change is row.changes[0]
            cells.append(
                (
                    row.device if first else "",
                    (row.op or "all") if first else "",
                    NAMES.get(change.metric, change.metric),
                    value_text(change.metric, change.a),
                    value_text(change.metric, change.b),
                    change_text(change.change),
                    interval_text(change),
                    change.verdict,
                )
            )
        for name, (a, b), verdict in (
            ("errors", row.errors, row.errors_verdict),
            ("requeues", row.requeues, ""),
        ):
            if a or b:
                cells.append(("", "", name, f"{a:,}", f"{b:,}", "", "", verdict))
    lines = found.about()
    lines += [
        f"{letter}: {note}"
        for letter, side in found.sides
        for run in side
        for note in run.notes[: len(run.notes) - run.is_broken]  # the last one is an error
    ]
    lines += ["", f"Verdict: {found.verdict()}"]
    if not shown:
        return "\n".join([*lines, "--all lists them", ""])
    lines.append("")
    widths = [max(map(len, column)) for column in zip(*cells)]
    for place, row_cells in enumerate(cells):
        if place > 1 and row_cells[0]:
            lines.append("")
        padded = [
            cell.ljust(width) if column in (0, 1, 2, 7) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row_cells, widths))
        ]
        lines.append("  ".join(padded).rstrip())
    if n_more := len(found.rows) - len(shown):
        lines += ["", f"… {how_many(n_more, 'more row', 'more rows', ',')}: --all lists all"]
    return "\n".join(lines) + "\n"


def change_text(change: float | None) -> str:
    """Such as +4.2 %."""
    return NONE if change is None else f"{_percent(change)} %"


def interval_text(change: Change) -> str:
    """Such as +3.1 to +5.2 %."""
    if change.low is None or change.high is None:
        return NONE
    return f"{_percent(change.low)} to {_percent(change.high)} %"


def _figure_text(change: Change) -> str:
    """Such as p99 +4.2 % (1.00 ms to 1.04 ms)."""
    values = " to ".join(value_text(change.metric, value) for value in (change.a, change.b))
    return f"{NAMES.get(change.metric, change.metric)} {change_text(change.change)} ({values})"


def _percent(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"  # adding 0.0 avoids -0.0
