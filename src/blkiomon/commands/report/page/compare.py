"""The page of a comparison: what changed, and both sides on the same axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from blkiomon.commands.report.cells import Cells, bounded, coarser_note
from blkiomon.commands.report.changes import METRICS, UNCHANGED, DeviceChanges, value_text
from blkiomon.commands.report.comparison import (
    NAMES,
    Comparison,
    change_text,
    interval_text,
    side_text,
    sides_of,
)
from blkiomon.commands.report.curves import Line
from blkiomon.commands.report.page import (
    document,
    fitting,
    incomplete,
    noted,
    scoped,
    swatch,
    table,
    text,
    with_arrays,
)
from blkiomon.commands.report.page.svg import charts
from blkiomon.commands.report.selection import OTHERS
from blkiomon.console import how_many
from blkiomon.engine import layout
from blkiomon.formats.units import op_text

ROWS_SHOWN = 200
"""Rows of a table; the element ``figures`` has twice as many, ``--all`` and ``--json`` have all."""


def compare_page(found: Comparison, title: str) -> str:
    """The page, of at most 5 MB."""
    return fitting(lambda most_bytes: _page(found, title, most_bytes))


def _page(found: Comparison, title: str, most_bytes: int) -> str:
    changed = found.changed()
    same = [row for row in found.rows if row.verdict in UNCHANGED]
    all_cells = sides_of(found)
    sides = _bounded(all_cells, changed, most_bytes)
    body = [
        *scoped(found.scope),
        *(line for what, why in found.incomplete() for line in incomplete(what, why)),
        *(
            f'<p class="soft">{swatch(letter)}: {text(side_text(side))}</p>'
            for letter, side in found.sides
        ),
        *(f'<p class="note">{swatch(side)}: {text(note)}.</p>' for side, note in found.losses()),
        *noted(note for run in found.runs for note in run.notes),
        *noted(coarser_note(all_cells[0], sides[0])),
        f'<p class="verdict">{text(found.verdict())}</p>',
        "<h2>What changed</h2>",
        *(_table(changed, found) if changed else ["<p>No change is shown.</p>"]),
        *_unchanged(same, found),
        '<p class="soft">In brackets: the confidence interval of a change. Where it includes 0, no '
        "difference is shown. All intervals together contain the true changes with 95 % "
        "confidence.</p>",
        "<h2>Both sides</h2>",
        *charts([Line("A", sides[0].in_total()), Line("B", sides[1].in_total(), is_dashed=True)]),
    ]
    kept = found.rows
    if len(kept) > 2 * ROWS_SHOWN:
        kept = [*changed, *same][: 2 * ROWS_SHOWN]
    figures = replace(found, rows=kept).to_dict()
    if n_left_out := len(found.rows) - len(kept):
        figures["rows_left_out"] = n_left_out
    return document(title, body, figures, [_data(side, found) for side in sides], "compare")


def _bounded(sides: Sequence[Cells], changed: Sequence[DeviceChanges], most: int) -> list[Cells]:
    """The cells in at most so many bytes, about; devices that changed come first."""
    certain = [row.numbers[0] for row in changed if row.numbers[0] is not None]
    sides = bounded(sides, most, certain)
    devices = sides[0].devices.tolist()
    first = [number for number in certain if number in devices]
    order = np.array(list(dict.fromkeys([*first, *devices])), np.uint32)
    return [side.with_devices(order) for side in sides]


def _data(side: Cells, found: Comparison) -> dict[str, Any]:
    """What the script reads of a side."""
    n_others = max(run.n_others for run in found.runs) + side.n_merged
    named = {row.numbers[0]: row.device for row in found.rows}
    head = {
        "devices": [
            f"others ({n_others:,})"
            if number == OTHERS and n_others
            else named.get(number, found.a[0].label(number)).replace("->", "→")
            for number in side.devices.tolist()
        ],
        "word": found.a[0].word,
        "ops": layout.OPS,
    }
    return with_arrays(head, side.arrays())


def _unchanged(rows: Sequence[DeviceChanges], found: Comparison) -> list[str]:
    if not rows:
        return []
    shown = how_many(len(rows), "row", "rows", ",")
    summary = f"<summary>{shown} without a difference shown</summary>"
    return ["<details>", summary, *_table(rows, found), "</details>"]


def _table(rows: Sequence[DeviceChanges], found: Comparison) -> list[str]:
    has_requeues = any(any(row.requeues) for row in found.rows)
    shown = []
    for row in rows[:ROWS_SHOWN]:
        cells = [_picked(row), op_text(row.op or "all")]
        for change in row.changes[: len(METRICS)]:
            kind, verdict = "soft", change.verdict
            if verdict in ("better", "worse"):
                kind, verdict = verdict, f"{change_text(change.change)} {verdict}"
            cells.append(
                f"{_both(*(value_text(change.metric, value) for value in (change.a, change.b)))}"
                f'<br/><span class="{kind}">{verdict}</span>'
                f'<br/><span class="soft">[{interval_text(change)}]</span>'
            )
        failed, requeued = (f"{a:,} → {b:,}" for a, b in (row.errors, row.requeues))
        if verdict := row.errors_verdict:
            failed += f'<br/><span class="{verdict}">{verdict}</span>'
        cells += [failed, *[requeued] * has_requeues]
        shown.append(("", cells))
    heads = [found.a[0].heading, "Operation", *(NAMES.get(m, m) for m in METRICS), "failed"]
    lines = [table([*heads, *["requeued"] * has_requeues], shown, "two dense")]
    if n_more := len(rows) - len(shown):
        more = how_many(n_more, "more row", "more rows", ",")
        lines.append(f'<p class="soft">… {more}: blkiomon compare --all lists them</p>')
    return lines


def _both(a: str, b: str) -> str:
    """Two figures; a unit that both have is written once."""
    (_, gap, unit_a), (_, _, unit_b) = a.rpartition(" "), b.rpartition(" ")
    return f"{a.removesuffix(gap + unit_a) if gap and unit_a == unit_b else a} → {b}"


def _picked(row: DeviceChanges) -> str:
    """The device of a row; with scripts, a button that shows it and its operation in the charts."""
    device = text(row.device).replace("-&gt;", "→")
    of_device = f' data-device="{device}"' if row.numbers[0] is not None else ""
    of_op = f' data-op="{layout.OPS.index(row.op)}"' if row.op else ""
    return f'<button class="pick"{of_device}{of_op}>{device}</button>'
