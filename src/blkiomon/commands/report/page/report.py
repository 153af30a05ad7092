"""The page of a report: what works without scripts, and the data of the script."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from blkiomon.commands.report.access import SECTOR_BYTES, Patterns
from blkiomon.commands.report.cells import Array, Cells, bounded, coarser_note, timeline
from blkiomon.commands.report.collected import STATS, Collected
from blkiomon.commands.report.curves import by_operation
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
from blkiomon.commands.table import is_supported, loss_note
from blkiomon.console import how_many, printable
from blkiomon.engine import layout
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
from blkiomon.interval.findings import Finding
from blkiomon.interval.groups import NS_PER_S, Group
from blkiomon.interval.incomplete import in_words
from blkiomon.interval.value import Interval

DEVICES_SHOWN = 40
"""Devices in the table without scripts: those that are the slowest."""

PROCESSES_SHOWN = 24

SLOW_SHOWN = 20

FIGURES_OF_DEVICES = 512
"""Of more devices, the element ``figures`` has the worst."""


def report(found: Collected, title: str) -> str:
    """The page, of at most 5 MB."""
    return fitting(lambda most_bytes: _page(found, title, most_bytes))


def _page(found: Collected, title: str, most_bytes: int) -> str:
    hung = [device for _, _, device in found.hung]
    (cells,) = bounded([found.cells], most_bytes, hung)
    cells = cells.ranked(hung)
    shaded = found.shaded
    body = [
        *incomplete("Incomplete", found.whole.incomplete),
        *_origin(found),
        *noted([*found.notes, *coarser_note(found.cells, cells)]),
        *_findings(found.findings),
        _tiles(found),
        "<noscript><p>Figures of a part of the time need scripts.</p></noscript>",
        *charts(by_operation(cells.in_total()), shaded),
        f'<h2>{found.heading}s and operations <span class="soft" id="of"></span></h2>',
        _summary(found, cells),
        *_hung(found),
        *_histograms(found),
        *_slowest(found),
        *_processes(found),
        "<h2>Errors and losses</h2>",
        *_losses(found),
    ]
    data = {"shaded": shaded, **_data(found, cells)}
    return document(title, body, _figures(found, cells), data, "report")


# --- the data of the script -----------------------------------------------------------------------


def _data(found: Collected, cells: Cells) -> dict[str, Any]:
    whole, numbers = found.whole, cells.devices.tolist()
    n_others = found.n_others + cells.n_merged
    in_flight = {
        group.device: [group.in_flight.end, group.in_flight.oldest_ns]
        for group in whole.groups()
        if group.op is None and group.in_flight is not None
    }
    hung = {device for _, _, device in found.hung}
    head: dict[str, Any] = {
        "start": utc(whole.start_ns) if whole.anchored else None,
        "begin_s": found.begin_s,
        "devices": [
            f"others ({n_others:,})" if n == OTHERS and n_others else found.label(n)
            for n in numbers
        ],
        "word": found.word,
        "about": [found.about.get(n, "") for n in numbers],
        "ops": layout.OPS,
        "in_flight_at_end": [in_flight.get(number, [0, 0]) for number in numbers],
        "hung": [number in hung for number in numbers],
        "loss_note": loss_note(whole.counts.lost) if whole.counts.lost else "",
    }
    arrays = cells.arrays() | _by_slice(found, cells)
    if found.patterns is not None:
        of_head, of_arrays = _access(found.patterns, numbers)
        head |= of_head
        arrays |= of_arrays
        processes = found.patterns.process_names
        head["slow"] = [
            [*request[:6], printable(processes.get(request[6], str(request[6])))]
            for request in _slow_rows(found.patterns, numbers)
        ]
    pids, by_slice = _process_cells(found, cells)
    head["processes"] = pids
    return with_arrays(head, arrays | by_slice)


def _places(found: Collected, cells: Cells) -> list[tuple[int, Interval]]:
    """Each slice with the index of the cells' slice that it is part of."""
    edges_s, known = timeline(found.slices)
    middles = (edges_s[:-1] + edges_s[1:]) / 2
    places = np.searchsorted(cells.edges_s, middles) - 1
    return [(place, item) for place, item in zip(places.tolist(), known) if item is not None]


def _by_slice(found: Collected, cells: Cells) -> dict[str, Array]:
    """What is only known of all devices together, by slice."""
    most, lost, unmatched = np.zeros((3, len(cells.known_s)))
    for place, item in _places(found, cells):
        loads, counts = item.snapshot.loads, item.counts
        of_all = loads["max_in_flight"][loads["op"] == layout.EVERYTHING]
        most[place] = max(most[place], *of_all.tolist(), 0)
        lost[place] += counts.lost
        unmatched[place] += counts.completions_without_issue + counts.issues_without_completion
    return {"most": most, "lost": lost, "unmatched": unmatched}


def _process_cells(found: Collected, cells: Cells) -> tuple[list[str], dict[str, Array]]:
    """Names of the processes that moved most, and their requests and bytes by slice."""
    processes = found.whole.snapshot.processes
    order = np.argsort(-processes["bytes"].astype(np.float64), kind="stable")[:PROCESSES_SHOWN]
    pids = processes["pid"][order].tolist()
    index = {pid: at for at, pid in enumerate(pids)}
    sums = np.zeros((len(cells.known_s), len(pids), 2))
    for place, item in _places(found, cells):
        table_ = item.snapshot.processes
        for pid, requests, n_bytes in table_[["pid", "requests", "bytes"]].tolist():
            if pid in index:
                sums[place, index[pid]] += requests, n_bytes
    places, which = np.nonzero(sums[:, :, 0])
    columns = {
        "process_slice": places,
        "process": which,
        "process_requests": sums[places, which, 0],
        "process_bytes": sums[places, which, 1],
    }
    return [_process_name(found.whole, pid) for pid in pids], columns


def _process_name(whole: Interval, pid: int) -> str:
    return f"{printable(whole.process_names.get(pid, '?'))} ({pid})"


def _access(patterns: Patterns, numbers: Sequence[int]) -> tuple[dict[str, Any], dict[str, Array]]:
    """A sample of where requests went, and which were sequential."""
    index = {number: at for at, number in enumerate(numbers)}
    sample = patterns.sample[patterns.sample["bytes"] > 0]
    sample = sample[np.isin(sample["device"], numbers)]
    counts = patterns.counts
    used = int(np.flatnonzero(counts.sum(axis=(0, 2)))[-1]) + 1 if counts.any() else 0
    head = {
        "sampled": [len(patterns.sample), patterns.n_requests],
        "sequential_slice_s": patterns.slice_ns / 1e9,
        "sequential": [
            [index[device], op, *of_key]
            for (device, op), of_key in patterns.shares.items()
            if device in index
        ],
    }
    arrays: dict[str, Array] = {
        "sample_us": sample["issued_ns"] // 1000,
        "sample_sector": sample["sector"],
        "sample_device": np.array([index[n] for n in sample["device"].tolist()], np.int64),
        "sample_op": sample["op"],
        "sequential_of": counts[:, :used, 0].ravel(),
        "sequential_n": counts[:, :used, 1].ravel(),
    }
    return head, arrays


def _slow_rows(patterns: Patterns, numbers: Sequence[int]) -> list[tuple[int, ...]]:
    """Time of issue, device (index or -1), operation, offset, bytes, d2c, pid of the slowest."""
    index = {number: at for at, number in enumerate(numbers)}
    fields = ["issued_ns", "device", "op", "sector", "bytes", "d2c_ns", "pid"]
    return [
        (issued, index.get(device, index.get(OTHERS, -1)), op, sector * SECTOR_BYTES, *rest)
        for issued, device, op, sector, *rest in patterns.slowest[fields].tolist()
    ]


def _figures(found: Collected, cells: Cells) -> dict[str, Any]:
    """The figures of all devices, for programs."""
    whole = to_dict(found.whole, histograms=False, name_of=found.device_names.get)
    devices = whole["devices"]
    n_left_out = len(devices) - FIGURES_OF_DEVICES
    if n_left_out > 0:
        worst = set(map(device_text, cells.devices[:FIGURES_OF_DEVICES].tolist()))
        whole["devices"] = devices = [d for d in devices if d["device"] in worst]
    for entry in devices if found.n_others else ():
        if entry["device"] == device_text(OTHERS):
            entry["device"] = "others"
            if entry["in_flight"]:  # how long any of them was busy is not known
                entry["in_flight"] |= {"busy_fraction": None, "busy_ns": None}
    return {
        **({"scope": text(found.scope)} if found.scope else {}),
        "inputs": [text(name) for name in found.names],
        "kind": found.kind,
        "slices": len(found.slices),
        "notes": list(map(text, found.notes)),
        "others": found.n_others,
        "devices_left_out": max(0, n_left_out),
        "whole": whole,
    }


# --- without scripts -----------------------------------------------------------------------------


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
        *scoped(found.scope),
        f'<p class="soft">{when(found.whole)}; {len(found.slices)} slices of time, '
        f"{time_text(slice_s * 1e9)} on average</p>",
    ]


def _tiles(found: Collected) -> str:
    total, counts = found.whole.total, found.whole.counts
    lost = counts.lost
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
        ("Failed", NONE if found.kind == STATS else _failed(total.errors)),
        *([("Incomplete", f"{max(shares):.0%}".replace("%", " %"))] if shares else []),
        # 0 events lost would mislead where records are missing for other reasons.
        *([("Events lost", told_lost)] if lost or not found.whole.incomplete else []),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    return f'<dl class="tiles">{shown}</dl>'


_HEADS = (
    *("Operation", "Requests", "Bytes", "IOPS", "MB/s"),
    *("Mean", "p50", "p90", "p99", "p99.9", "Max", "Failed"),
)


def _summary(found: Collected, cells: Cells) -> str:
    *groups, total = (g for g in found.whole.groups() if g.op is None or g.requests or g.in_flight)
    by_device = {number: list(of) for number, of in groupby(groups, lambda g: g.device)}
    worst = [number for number in cells.devices.tolist() if number in by_device]
    left_out = ""
    if n_more := len(by_device) - len(worst[:DEVICES_SHOWN]):
        devices = how_many(n_more, f"{found.word} is", f"{found.word}s are", ",")
        left_out = f'<p class="note" id="left-out">{devices} left out: they are faster.</p>'
    rows = [("total", _row_cells(total, found))]
    for number in worst[:DEVICES_SHOWN]:
        *ops, whole = by_device[number]
        if len(by_device) > 1:
            rows.append(("all", _row_cells(whole, found)))
        rows += [("op", _row_cells(op, found)) for op in ops]
    heads = (found.heading, *_HEADS, *["Requeued"] * bool(total.requeues))
    return table(heads, rows, "two", "summary") + left_out


def _hung(found: Collected) -> list[str]:
    """Devices whose requests never completed, the longest first."""
    rows = [
        ("", (_device_name(device, found), f"{n:,}", time_text(oldest_ns)))
        for oldest_ns, n, device in found.hung[:DEVICES_SHOWN]
    ]
    if not rows:
        return []
    heads = (found.heading, "In flight at the end", "Oldest for")
    return ["<h2>Requests that never completed</h2>", table(heads, rows, "", "hung")]


def _device_name(number: int | None, found: Collected) -> str:
    if number is None:
        return "all"
    if number == OTHERS and found.n_others:
        return f"others ({found.n_others:,})"
    return text(found.label(number))


def _row_cells(group: Group, found: Collected) -> list[str]:
    op = swatch(group.op) if group.op else "all"
    d2c = group.d2c_ns
    name = _device_name(group.device, found)
    if not group.op and (about := found.about.get(group.device or 0)):
        name += f'<br/><span class="soft">{text(about)}</span>'
    return [
        name,
        op,
        f"{group.requests:,}",
        bytes_text(group.bytes),
        rate_text(group.iops),
        NONE if group.bytes_per_s is None else f"{group.bytes_per_s / 1e6:,.2f}",
        time_text(d2c.mean),
        *(_percentile(group, percent) for percent in (50, 90, 99, 99.9)),
        time_text(d2c.max),
        NONE if found.kind == STATS else _failed(group.errors),
        *([f"{group.requeues:,}"] if found.whole.total.requeues else []),
    ]


def _failed(n: int) -> str:
    """How many requests failed; red if any did, and so is the label of its tile."""
    return f'<span class="bad">{n:,}</span>' if n else "0"


def _percentile(group: Group, percent: float) -> str:
    """A percentile; grey, with the number of requests, if that is too small for it."""
    value_ns = group.d2c_ns.percentile(percent)
    if value_ns is None or is_supported(group.requests, percent):
        return time_text(value_ns)
    return f'<span class="few">{time_text(value_ns)} of {group.requests:,}</span>'


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


def _findings(found: Sequence[Finding]) -> list[str]:
    if not found:
        return []
    return ['<ol class="findings">', *(f"<li>{text(one.text)}.</li>" for one in found), "</ol>"]


def _losses(found: Collected) -> list[str]:
    if found.kind == STATS:
        return ["<p>Files of -b do not contain failed requests and losses.</p>"]
    whole, total, counts = found.whole, found.whole.total, found.whole.counts
    rows = [("requests that failed", _failed(total.errors))]
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
    missing = "there were more requests than these figures show."
    if whole.incomplete:
        verdict = f"Incomplete: {in_words(whole.incomplete)}. {missing.capitalize()}"
    elif any((counts.lost_events, counts.sequence_gaps, counts.skipped_bytes)) or (
        counts.over_device_limit
    ):
        verdict = f"Events were lost, or not counted: {missing}"
    shown = [("", row) for row in rows]
    lines = [f"<p>{verdict}</p>", table(("What", "How many"), shown, "list")]
    if counts.lost and total.in_flight is not None:
        lines += noted([f"{loss_note(counts.lost)}."])
    return lines


def _processes(found: Collected) -> list[str]:
    whole = found.whole
    processes = whole.snapshot.processes
    if not len(processes):
        return []
    order = sorted(processes[["pid", "requests", "bytes"]].tolist(), key=lambda p: (-p[2], p[0]))
    rows = [
        ("", (text(_process_name(whole, pid)), f"{requests:,}", bytes_text(n_bytes)))
        for pid, requests, n_bytes in order[:PROCESSES_SHOWN]
    ]
    heading = "Processes with the most bytes"
    if found.by_device or whole.not_in_total:
        twice = "on all devices; a request on a map and its path may count twice"
        heading += f' <span class="soft">{twice}</span>'
    return [
        f"<h2>{heading}</h2>",
        table(("Process", "Requests", "Bytes"), rows, "", "processes"),
    ]


def _slowest(found: Collected) -> list[str]:
    """The slowest requests, the slowest first; only traces have them."""
    if found.patterns is None or not len(found.patterns.slowest):
        return []
    heads = ("Issued", found.heading, "Operation", "Latency", "Bytes", "Offset", "Process")
    fields = ["issued_ns", "device", "op", "d2c_ns", "bytes", "sector", "pid"]
    processes = found.patterns.process_names
    rows = [
        (
            "",
            (
                f"{found.begin_s + issued / NS_PER_S:,.6f} s",
                text(found.label(device)),
                swatch(layout.OPS[op]),
                time_text(d2c),
                bytes_text(n_bytes),
                f"{sector * SECTOR_BYTES:,}",
                text(processes.get(pid, str(pid))),
            ),
        )
        for issued, device, op, d2c, n_bytes, sector, pid in found.patterns.slowest[
            fields
        ].tolist()[:SLOW_SHOWN]
    ]
    return ["<h2>Slowest requests</h2>", table(heads, rows, "three", "slow")]


def _histograms(found: Collected) -> list[str]:
    """Of files of -b: their histograms, which are of reads and writes together."""
    if found.kind != STATS or found.selection.ops:
        return []
    shown = []
    for name, title, limits in (
        ("d2c_hist", "Latency up to", [time_text(8000 << i) for i in range(layout.D2C_BUCKETS)]),
        ("size_hist", "Bytes up to", [bytes_text(1024 << i) for i in range(layout.SIZE_BUCKETS)]),
    ):
        counts = found.whole.rows[name].sum(axis=0).tolist()
        texts = ["0", *limits[: len(counts) - 2], "more"]
        bar = '<span class="bar" style="width: {:.2f}em"></span>'
        rows = [
            ("", (limit, f"{count:,}", bar.format(16 * (count / max(counts)))))
            for limit, count in zip(texts, counts)
            if count
        ]
        shown += [f"<h2>{title}</h2>", table((title, "Reads and writes", ""), rows, "bars")]
    return shown
