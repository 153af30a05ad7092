"""Self-contained HTML pages: they load nothing, and can be printed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from typing import Any

from blkiomon._version import __version__
from blkiomon.commands.report import figures
from blkiomon.commands.report.collect import STATS, Collected
from blkiomon.commands.report.figures import COLOURS, Chart, label
from blkiomon.commands.report.findings import findings
from blkiomon.commands.report.selection import OTHERS
from blkiomon.console import how_many, printable
from blkiomon.formats.json_codec import to_dict, unseen
from blkiomon.formats.units import (
    NONE,
    bandwidth_text,
    bytes_text,
    device_text,
    rate_text,
    time_text,
    utc,
)
from blkiomon.interval.groups import Group
from blkiomon.interval.incomplete import Incomplete, in_words
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless

MOST_BYTES = 5_000_000

ROWS_SHOWN = 200
"""Rows of the table: of the devices on which requests waited longest."""

PROCESSES_SHOWN = 10

_CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2125; --soft: #5b6570; --rule: #d9dee3;
  --tint: #f4f6f8; --warn: #8a3b00; %(light)s }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e4e7ea; --soft: #9aa5b0;
  --rule: #343a40; --tint: #1d2125; --warn: #ffb27d; %(dark)s } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1720px; padding: 1.25rem clamp(.75rem, 2vw, 2rem) 3rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--rule) }
p { margin: .25rem 0; max-width: 75ch; overflow-wrap: anywhere } .soft { color: var(--soft) }
.note { color: var(--warn) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: .6rem;
  margin: 1rem 0 0; padding: 0 }
.tiles div { background: var(--tint); border-radius: 6px; padding: .5rem .75rem }
.tiles dt { color: var(--soft); font-size: .8rem }
.tiles dd { margin: 0; font-size: 1.2rem; font-weight: 600; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums }
th, td { padding: .22rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule) }
th { color: var(--soft); font-weight: 600 }
th:first-child, td:first-child, .two :is(th, td):nth-child(2) { text-align: left }
.list td:first-child { white-space: normal }
tr.all td { font-weight: 600 } tr.last td { border-bottom: 2px solid var(--soft) }
tr.total td { font-weight: 600; background: var(--tint) }
.key { display: inline-block; width: .65em; height: .65em; border-radius: 2px;
  margin-right: .45em }
.charts { display: grid; gap: 1.4rem 1.6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%%, 25rem), 1fr)) }
figure { margin: 0; break-inside: avoid } figcaption b { display: block }
figcaption { font-size: .84rem; color: var(--soft) } figcaption b { color: var(--ink);
  font-size: .95rem }
svg { display: block; width: 100%%; height: auto; margin-top: .3rem }
svg * { stroke-linejoin: round; stroke-linecap: butt }
svg text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
.better { color: var(--discard); font-weight: 600 } .worse { color: var(--write);
  font-weight: 600 }
.sure { font-weight: 600 }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .82rem }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444;
  --rule: #bbb; --tint: #f2f2f2; --warn: #8a3b00; %(light)s }
  body { max-width: none; padding: 0; font-size: 10pt } .wide { overflow: visible }
  table { font-size: 7.5pt } th, td { padding: .15rem .35rem }
  .charts { grid-template-columns: 1fr 1fr; gap: .8rem } h2 { break-after: avoid } }
"""


def _palette(which: int) -> str:
    return "; ".join(f"--{name}: {pair[which]}" for name, pair in COLOURS.items())


CSS = _CSS % {"light": _palette(0), "dark": _palette(1)}


def document(title: str, body: Iterable[str], data: Any) -> str:
    """A page; ``data`` is in the element ``figures`` as JSON, for programs."""
    # "</script>" and "<!--" would end the element early.
    figures_json = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            '<link rel="icon" href="data:,"/>',
            f"<title>{text(title)}</title>",
            f"<style>{CSS}</style>",
            "</head>",
            "<body>",
            *body,
            f"<footer>Made by blkiomon {text(__version__)}.</footer>",
            f'<script type="application/json" id="figures">{figures_json}</script>',
            "</body>",
            "</html>",
            "",
        ]
    )


def text(value: str) -> str:
    """A name as HTML: it may hold markup, control characters, or bytes that are not UTF-8."""
    return escape(printable(value))


def report(found: Collected, title: str, shown: Sequence[Chart]) -> str:
    """The page of a report, with these charts."""
    body = [
        f"<h1>{text(title)}</h1>",
        *incomplete("Incomplete", found.whole.incomplete),
        *_origin(found),
        *(f'<p class="note">{text(note)}</p>' for note in found.notes),
        _tiles(found),
        *_findings(found),
        "<h2>Summary</h2>",
        _summary(found),
        "<h2>Charts</h2>",
        charts(shown),
        "<h2>Errors and losses</h2>",
        *_losses(found),
        *_processes(found.whole),
    ]
    return document(title, body, _data(found))


def incomplete(what: str, found: Sequence[Incomplete]) -> list[str]:
    """A paragraph about what the figures leave out; none if that is little."""
    if not found:
        return []
    return [f'<p class="note"><b>{text(what)}:</b> {text(in_words(found))}.</p>']


def charts(shown: Sequence[Chart]) -> str:
    """Charts beside each other; the last are left out if the page would be too large."""
    drawn = [
        f"<figure><figcaption><b>{text(chart.title)}</b>{text(chart.caption)}</figcaption>"
        f"{figures.svg(chart)}</figure>"
        for chart in shown
    ]
    while len(drawn) > 1 and sum(map(len, drawn)) > MOST_BYTES * 0.9:
        drawn.pop()
    return '<div class="charts">' + "\n".join(drawn) + "</div>"


def table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], kind: str = "") -> str:
    """A table of HTML.

    Args:
        heads: titles of the columns.
        rows: the CSS class of each row, and its cells as HTML.
        kind: CSS class: "two" has two columns of text instead of one, the text in "list" may wrap.
    """
    body = "\n".join(
        f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for kind, cells in rows
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


# --- parts ----------------------------------------------------------------------------------------


def when(whole: Interval) -> str:
    """Start, end and duration of an interval."""
    lasted = f"{whole.duration_s:,.3f} s" if whole.duration_s < 600 else _long(whole.duration_s)
    if not whole.anchored:
        return f"{lasted}; the trace does not contain the time of day"
    start, end = (utc(ns)[:23].replace("T", " ") + " UTC" for ns in (whole.start_ns, whole.end_ns))
    return f"{start} to {end}, {lasted}"


def _long(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min {rest:02} s"


def _origin(found: Collected) -> list[str]:
    names = ", ".join(text(name) for name in found.names[:20])
    if len(found.names) > 20:
        names += f" and {len(found.names) - 20} more"
    slice_s = found.whole.duration_s / len(found.slices)
    return [
        f'<p class="soft">{names} ({text(found.kind)})</p>',
        f'<p class="soft">{when(found.whole)}; {len(found.slices)} slices of time, '
        f"{time_text(slice_s * 1e9)} on average</p>",
    ]


def _tiles(found: Collected) -> str:
    total, counts = found.whole.total, found.whole.counts
    lost = counts.lost_events + counts.sequence_gaps
    shares = [why.share for why in found.whole.incomplete if why.share is not None]
    p99 = total.d2c_ns.percentile(99)
    told_lost = NONE if found.kind == STATS else f"{lost:,}"
    figures = [
        ("Requests", f"{total.requests:,}"),
        ("Bytes", bytes_text(total.bytes)),
        ("Requests a second", rate_text(total.iops)),
        ("Bandwidth", bandwidth_text(total.bytes_per_s)),
        ("Mean latency", time_text(total.d2c_ns.mean)),
        *([("99 % took up to", time_text(p99))] if p99 is not None else []),
        ("Failed", NONE if found.kind == STATS else f"{total.errors:,}"),
        *([("Incomplete", f"{max(shares):.0%}".replace("%", " %"))] if shares else []),
        # 0 events lost would mislead where records are missing for other reasons.
        *([("Events lost", told_lost)] if lost or not found.whole.incomplete else []),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    return f'<dl class="tiles">{shown}</dl>'


_HEADS = (
    *("Device", "Operation", "Requests", "Bytes", "IOPS", "MB/s"),
    *("Mean", "p50", "p90", "p99", "p99.9", "Max", "Failed"),
)


def _summary(found: Collected) -> str:
    *groups, total = (g for g in found.whole.groups() if g.op is None or g.requests or g.in_flight)
    by_device = [list(of_device) for _, of_device in groupby(groups, lambda g: g.device)]
    shown, n_rows = [], 0
    for of_device in sorted(by_device, key=lambda groups: -_waited_ns(groups[-1])):
        n_rows += len(of_device)
        if n_rows <= ROWS_SHOWN:
            shown.append(of_device)
    left_out = ""
    if n_more := len(by_device) - len(shown):
        devices = how_many(n_more, "device is", "devices are", ",")
        left_out = (
            f'<p class="note">{devices} left out: requests waited longer, in all, on those that '
            "are shown.</p>"
        )
    rows = [
        ("last all" if g.op is None else "op", _cells(g, found))
        for of_device in sorted(shown, key=lambda groups: groups[-1].device or 0)
        for g in of_device
    ]
    rows.append(("total", _cells(total, found)))
    heads = (*_HEADS, "Requeued") if total.requeues else _HEADS
    return table(heads, rows, "two") + left_out


def _waited_ns(group: Group) -> int:
    """Time that all requests of a device waited, also those that never completed."""
    return max(group.d2c_ns.sum, group.in_flight.request_ns if group.in_flight else 0)


def _device_name(number: int | None, found: Collected) -> str:
    if number is None:
        return "all"
    if number == OTHERS and found.n_others:
        return f"others ({found.n_others:,})"
    return device_text(number)


def _cells(group: Group, found: Collected) -> list[str]:
    op = swatch(group.op) if group.op else "all"
    d2c = group.d2c_ns
    return [
        _device_name(group.device, found),
        op,
        f"{group.requests:,}",
        bytes_text(group.bytes),
        rate_text(group.iops),
        NONE if group.bytes_per_s is None else f"{group.bytes_per_s / 1e6:,.2f}",
        *map(time_text, (d2c.mean, *map(d2c.percentile, (50, 90, 99, 99.9)), d2c.max)),
        NONE if found.kind == STATS else f"{group.errors:,}",
        *([f"{group.requeues:,}"] if found.whole.total.requeues else []),
    ]


def _data(found: Collected) -> dict[str, Any]:
    """The figures of all devices, for programs."""
    whole = to_dict(found.whole, histograms=False)
    for entry in whole["devices"] if found.n_others else ():
        if entry["device"] == device_text(OTHERS):
            entry["device"] = "others"
            if entry["in_flight"]:  # how long any of them was busy is not known
                entry["in_flight"] |= {"busy_fraction": None, "busy_ns": None}
    return {
        "inputs": [text(name) for name in found.names],
        "kind": found.kind,
        "slices": len(found.slices),
        "notes": list(map(text, found.notes)),
        "others": found.n_others,
        "whole": whole,
    }


def swatch(op: str) -> str:
    """An operation beside its colour."""
    return f'<span class="key" style="background: var(--{op})"></span>{label(op)}'


_LOSSES = {
    "lost_events": "events lost, by the tracer's own marks",
    "sequence_gaps": "records missing, by their sequence numbers",
    "completions_without_issue": "completions whose issue was not seen",
    "issues_without_completion": "issues whose completion was not seen",
    "evicted": "issues and completions given up: no partner came",
    "mismatches": "pairs of records that are not a request",
    "skipped_bytes": "bytes that are not records",
    "over_device_limit": "records of devices beyond the limit: not counted",
}


def _findings(found: Collected) -> list[str]:
    sentences = findings(found.slices, found.whole, nameless)
    return ["<ul>", *(f"<li>{text(s)}.</li>" for s in sentences), "</ul>"] if sentences else []


def _losses(found: Collected) -> list[str]:
    if found.kind == STATS:
        return ["<p>Files of -b do not contain failed requests and losses.</p>"]
    whole, total, counts = found.whole, found.whole.total, found.whole.counts
    rows = [("requests that failed", f"{total.errors:,}")]
    if total.requeues:
        rows.append(("requests that the kernel took back (requeues)", f"{total.requeues:,}"))
    if total.retried.count:
        longest = time_text(total.retried.max)
        rows.append(("the longest of these, from first issue to completion", longest))
    rows += [(_LOSSES[name], f"{n:,}") for name, n in unseen(counts).items()]
    if total.in_flight is not None:
        rows.append(("requests still in flight at the end", f"{total.in_flight.end:,}"))
    rows.append(("records read", f"{counts.records:,}"))
    verdict = "No events were lost, as far as the input shows."
    missing = "there were more requests than these figures are of."
    if whole.incomplete:
        verdict = f"Incomplete: {in_words(whole.incomplete)}. {missing.capitalize()}"
    elif any((counts.lost_events, counts.sequence_gaps, counts.skipped_bytes)) or (
        counts.over_device_limit
    ):
        verdict = f"Events were lost, or not counted: {missing}"
    shown = [("", row) for row in rows]
    return [f"<p>{verdict}</p>", table(("What", "How many"), shown, "list")]


def _processes(whole: Interval) -> list[str]:
    processes = whole.snapshot.processes
    if not len(processes):
        return []
    order = sorted(processes[["pid", "requests", "bytes"]].tolist(), key=lambda p: (-p[2], p[0]))
    names = whole.process_names
    rows = [
        ("", (f"{text(names.get(pid, '?'))} ({pid})", f"{requests:,}", bytes_text(n_bytes)))
        for pid, requests, n_bytes in order[:PROCESSES_SHOWN]
    ]
    return ["<h2>Processes that issued most</h2>", table(("Process", "Requests", "Bytes"), rows)]
