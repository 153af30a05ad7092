"""``blkiomon compare``: what has changed from one side to the other, and what only seems so."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blkiomon.commands.options import (
    DEVICE,
    FOLLOW_SYMLINKS,
    HELP,
    MAX_AGE,
    OVERWRITE,
    Command,
    Option,
)
from blkiomon.commands.parsing import read
from blkiomon.commands.report import CHART, OUTPUT, PAGES, PICTURES, SUFFIXES, TITLE, told
from blkiomon.console import EXIT_FAILURE, EXIT_INPUT, EXIT_OK, complain, printable, printed
from blkiomon.errors import SourceError, TraceError
from blkiomon.interval.incomplete import Incomplete, in_words

if TYPE_CHECKING:
    from blkiomon.commands.report.changes import Change, Row
    from blkiomon.commands.report.collect import Collected
    from blkiomon.commands.report.figures import Chart
    from blkiomon.commands.report.rules import Rule
    from blkiomon.commands.report.series import Series

COMMAND = Command(
    "compare",
    (
        "blkiomon compare [--json] [-o FILE] [--fail-if RULE]... A B",
        "blkiomon compare [OPTION]... A1 A2 ... : B1 B2 ...",
    ),
    """
    Show what changed from run A to run B, for each device and operation, with the 95 % confidence
    interval of the change. If that interval includes 0, no difference is shown. A and B are traces,
    or files written with --json. With several runs on each side, the spread between runs counts.
    """,
    (
        OUTPUT._replace(
            help="also write a page with both sides, changes.html; "
            "with .png, .svg or .pdf only the charts"
        ),
        Option("--json", "print JSON"),
        DEVICE,
        TITLE,
        CHART._replace(
            help="only this chart: tail, time or iops; tail-0 is that of the busiest device and "
            "operation (repeatable)"
        ),
        Option(
            "--fail-if=RULE",
            "exit with status 1 if RULE holds (repeatable). 'read.p99 > +10%' holds if that change "
            "is shown. 'write.max > 50ms', 'read.iops < 900', '8:16/read.bandwidth < 40MB/s' and "
            "'all.errors > 0' are limits for B",
            is_repeatable=True,
        ),
        OVERWRITE,
        MAX_AGE,
        FOLLOW_SYMLINKS,
        HELP,
    ),
)

NAMES = {"iops": "IOPS", "bandwidth": "bandwidth"}
MOST_CHARTED = 8
"""Devices and operations that have charts."""


def main(argv: Sequence[str]) -> int:
    """Run ``blkiomon compare`` with the arguments after these words; returns the exit status."""
    given = read(COMMAND, argv)
    if isinstance(given, int):
        return given
    output = given.output
    sides = _sides(given.names)
    if sides is None:
        return COMMAND.misused("compare takes two runs, or several of each side: A1 A2 : B1 B2")
    suffix = Path(output or "").suffix.lower()
    if output is not None and suffix not in (*PAGES, *PICTURES):
        return COMMAND.misused(f"{output}: {SUFFIXES}")

    from blkiomon.commands.report import figures, rules
    from blkiomon.commands.report.changes import METRICS, compare
    from blkiomon.commands.report.collect import ReportError, check_output, write_output

    try:
        wanted = [rules.parse(rule) for rule in given.fail_if]
    except rules.RuleError as error:
        return COMMAND.misused(error)
    asked = [rule.metric for rule in wanted if rule.metric != "errors"]
    try:
        if output is not None:
            figures.check()
            policy = check_output(
                Path(output),
                [*sides[0], *sides[1]],
                follow=given.follow_symlinks,
                overwrite=given.overwrite,
            )
        options = {
            "devices": given.device,
            "max_age_s": given.max_age,
            "n_runs": sum(map(len, sides)),
        }
        a, b = ([_run(name, options) for name in side] for side in sides)
        rows = compare(a, b, tuple(dict.fromkeys((*METRICS, *asked))))
        if output is not None:
            title = given.title or "Block I/O, before and after"
            charts = figures.chosen(_charts(a, b, rows), given.chart)
            if suffix in PICTURES:
                kind = PICTURES[suffix]
                write_output(
                    Path(output), lambda file: figures.save(charts, title, file, kind), policy
                )
            else:
                page = _page(title, a, b, rows, charts)
                write_output(Path(output), lambda file: file.write(page.encode()), policy)
    except (ReportError, SourceError, TraceError) as error:
        return told(error)
    text = json.dumps(_data(a, b, rows), allow_nan=False) + "\n" if given.json else None
    status = printed([text or _text(a, b, rows)])
    return max(status, _tell(a, b, rows, wanted))


def _tell(
    a: Sequence[Collected], b: Sequence[Collected], rows: Sequence[Row], wanted: Sequence[Rule]
) -> int:
    """Say what is not as it should be; returns the exit status."""
    from blkiomon.commands.report.rules import violated

    broken = [run.notes[-1] for run in (*a, *b) if run.is_broken]
    violations = [text for rule in wanted if (text := violated(rule, rows))]
    for line in (*broken, *violations):
        complain(line)
    if broken:
        return EXIT_INPUT  # whatever a rule says of it
    return EXIT_FAILURE if violations else EXIT_OK


def _sides(names: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """The runs of both sides; None if that is not what they are."""
    listed = list(names)
    if not all(listed) or any("\0" in name for name in listed):
        return None
    if ":" not in listed:
        return (listed[:1], listed[1:]) if len(listed) == 2 else None
    at = listed.index(":")
    a, b = listed[:at], listed[at + 1 :]
    return (a, b) if a and b and ":" not in b else None


def _run(name: str, options: Mapping[str, Any]) -> Collected:
    from blkiomon.commands.report.collect import STATS, ReportError, collect

    found = collect([name], patterns=False, **options)
    if found.kind == STATS:
        raise ReportError(f"{name}: files of -b hold no percentiles: compare traces, or --json")
    return found


# --- text and JSON --------------------------------------------------------------------------------


def _side_text(letter: str, side: Sequence[Collected]) -> str:
    from blkiomon.commands.report.changes import seconds_of

    runs = "" if len(side) == 1 else f"{len(side)} runs, "
    names = ", ".join(printable(run.names[0]) for run in side)
    return f"{letter}: {names} ({runs}{seconds_of(side):,.3f} s)"


def _incomplete(letter: str, side: Sequence[Collected]) -> list[tuple[str, tuple[Incomplete, ...]]]:
    """What is incomplete on a side, and what to call it."""
    return [
        (f"{letter} is incomplete" + f" ({printable(run.names[0])})" * (len(side) > 1), why)
        for run in side
        if (why := run.whole.incomplete)
    ]


def _text(a: Sequence[Collected], b: Sequence[Collected], rows: Sequence[Row]) -> str:
    from blkiomon.commands.report.changes import value_text

    cells = [("device", "operation", "figure", "A", "B", "change", "95 % interval", "")]
    for row in rows:
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
        for name, numbers in (("errors", row.errors), ("requeues", row.requeues)):
            if any(numbers):
                a_text, b_text = (f"{n:,}" for n in numbers)
                cells.append(("", "", name, a_text, b_text, "", "", ""))
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [_side_text("A", a), _side_text("B", b)]
    for letter, side in (("A", a), ("B", b)):
        lines += [f"{what}: {in_words(why)}" for what, why in _incomplete(letter, side)]
    for letter, side in (("A", a), ("B", b)):
        lines += [f"{letter}: {run.notes[0]}" for run in side if run.n_others]
    lines.append("")
    for place, line in enumerate(cells):
        if place > 1 and line[0]:
            lines.append("")
        padded = [
            text.ljust(width) if column in (0, 1, 2, 7) else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def change_text(change: float | None) -> str:
    """Such as +4.2 %."""
    return "–" if change is None else f"{_percent(change)} %"


def interval_text(change: Change) -> str:
    """Such as +3.1 to +5.2 %."""
    if change.low is None or change.high is None:
        return "–"
    return f"{_percent(change.low)} to {_percent(change.high)} %"


def _percent(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"  # never -0.0


def _data(a: Sequence[Collected], b: Sequence[Collected], rows: Sequence[Row]) -> dict[str, Any]:
    from blkiomon.formats.json_codec import incomplete_list

    return {
        "a": [run.names[0].encode(errors="replace").decode() for run in a],
        "b": [run.names[0].encode(errors="replace").decode() for run in b],
        "incomplete": {
            letter: [incomplete_list(run.whole.incomplete) for run in side]
            for letter, side in (("a", a), ("b", b))
        },
        "others": {"a": sum(r.n_others for r in a), "b": sum(r.n_others for r in b)},
        "rows": [
            {
                "device": row.device,
                "op": row.op or "all",
                "requests": row.requests,
                "errors": row.errors,
                "requeues": row.requeues,
                "changes": {
                    change.metric: {
                        "a": change.a,
                        "b": change.b,
                        "change": change.change,
                        "low": change.low,
                        "high": change.high,
                        "verdict": change.verdict,
                    }
                    for change in row.changes
                },
            }
            for row in rows
        ],
    }


# --- the page -------------------------------------------------------------------------------------


def _page(
    title: str,
    a: Sequence[Collected],
    b: Sequence[Collected],
    rows: Sequence[Row],
    charts: Sequence[Chart],
) -> str:
    from blkiomon.commands.report import figures, page

    made = [(chart, figures.svg(chart)) for chart in charts]
    while len(made) > 1 and sum(len(drawn) for _, drawn in made) > page.MOST_BYTES * 0.9:
        made.pop()
    notes = [note for run in (*a, *b) for note in run.notes]
    body = [
        f"<h1>{page.text(title)}</h1>",
        *(
            line
            for letter, side in (("A", a), ("B", b))
            for what, why in _incomplete(letter, side)
            for line in page.incomplete(what, why)
        ),
        *(
            f'<p class="soft">{page.swatch(letter)}: {page.text(_side_text(letter, side)[3:])}</p>'
            for letter, side in (("A", a), ("B", b))
        ),
        *(f'<p class="note">{page.text(note)}</p>' for note in notes),
        "<h2>Changes</h2>",
        _table(rows),
        '<p class="soft">In brackets: where the change lies with 95 % confidence, as far as the '
        "runs themselves tell. Where that includes 0, no difference is shown.</p>",
        "<h2>Charts</h2>",
        page.charts(made),
    ]
    return page.document(title, body, _data(a, b, rows))


def _table(rows: Sequence[Row]) -> str:
    from blkiomon.commands.report import page
    from blkiomon.commands.report.changes import METRICS, value_text
    from blkiomon.commands.report.figures import label

    shown = []
    has_requeues = any(any(row.requeues) for row in rows)
    for row in rows:
        cells = [page.text(row.device).replace("-&gt;", "→"), label(row.op or "all")]
        for change in row.changes[: len(METRICS)]:
            verdict = change.verdict
            kind = verdict if verdict in ("better", "worse") else "soft"
            told = f"{change_text(change.change)} {verdict}" if kind != "soft" else verdict
            cells.append(
                f"{value_text(change.metric, change.a)} → {value_text(change.metric, change.b)}"
                f'<br/><span class="{kind}">{told}</span>'
                f'<br/><span class="soft">[{interval_text(change)}]</span>'
            )
        cells.append(f"{row.errors[0]:,} → {row.errors[1]:,}")
        if has_requeues:
            cells.append(f"{row.requeues[0]:,} → {row.requeues[1]:,}")
        shown.append(("", cells))
    heads = ["Device", "Operation", *(NAMES.get(m, m) for m in METRICS), "failed"]
    heads += ["requeued"] * has_requeues
    return page.table(heads, shown, "two")


def _charts(a: Sequence[Collected], b: Sequence[Collected], rows: Sequence[Row]) -> list[Chart]:
    """Of the devices and operations that have the most requests."""
    from blkiomon.commands.report.figures import HEIGHT_IN, Chart, label
    from blkiomon.commands.report.series import series

    known: dict[tuple[int | None, int | None], list[tuple[str, list[Series]]]] = {}
    busiest = sorted((r for r in rows if r.op), key=lambda r: -sum(r.requests))[:MOST_CHARTED]
    made = []
    for place, row in enumerate(busiest):
        op = row.op or ""
        if row.numbers not in known:
            known[row.numbers] = [
                (letter, [series(run.slices, number) for run in side])
                for letter, side, number in zip("AB", (a, b), row.numbers)
            ]
        over_time = known[row.numbers]
        what = f"{label(op).capitalize()} on {row.device.replace('->', '→')}"
        if row.device == "all":
            what = f"{label(op).capitalize()} on all devices"
        made += [
            Chart(
                f"tail-{place}",
                f"{what}: latency",
                "The share of requests that took that long or longer.",
                _tails(a, b, row),
                HEIGHT_IN + 0.4,
            ),
            Chart(
                f"time-{place}",
                f"{what}: latency over time",
                "Half of the requests of each slice of time took no longer than the bold line, "
                "99 % no longer than the fine one.",
                _times(over_time, op, "latency"),
                HEIGHT_IN + 0.4,
            ),
            Chart(
                f"iops-{place}",
                f"{what}: requests a second",
                "Completed, by time since the start of each run.",
                _times(over_time, op, "iops"),
                HEIGHT_IN + 0.4,
            ),
        ]
    return made


def _tails(a: Sequence[Collected], b: Sequence[Collected], row: Row) -> Callable[[Any], None]:
    from blkiomon.commands.report.changes import groups
    from blkiomon.commands.report.figures import COLOURS, draw_tail
    from blkiomon.commands.report.series import merged

    def draw(figure: Any) -> None:
        parts = {}
        for letter, side, number in zip("AB", (a, b), row.numbers):
            d2c = merged(g.d2c_ns for run in side for g in groups(run.whole, number, row.op))
            parts[letter] = (d2c, COLOURS[letter][0], "-" if letter == "A" else (0, (4, 1.2)))
        draw_tail(figure.subplots(), parts)

    return draw


def _times(drawn: Sequence[tuple[str, list[Series]]], op: str, what: str) -> Callable[[Any], None]:
    from blkiomon.commands.report import figures

    longest = max((run for _, runs in drawn for run in runs), key=lambda run: run.edges_s[-1])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        scale = figures.time_axis(axes, longest.edges_s)
        for letter, runs in drawn:
            colour = figures.COLOURS[letter][0]
            for place, run in enumerate(runs):
                if op not in run.lines:
                    continue
                line, edges = run.lines[op], run.edges_s / scale
                name = letter if not place else "_"
                if what == "iops":
                    width = 2.2 if letter == "A" else 0.9  # both are seen where they are one
                    axes.stairs(line.iops, edges, baseline=None, color=colour, lw=width, label=name)
                else:
                    figures.draw_sides(axes, edges, line.percentiles, colour, name)
        if what == "iops":
            axes.set_ylim(bottom=0)
            axes.set_ylabel("requests a second")
        else:
            figures.latency_axis(axes, "y")
            axes.set_ylabel("latency")
        figures.legend(axes)

    return draw
