"""An interval as plain dicts, lists and numbers, and back: what a line of JSON holds.

``docs/schema.md`` explains every field, ``schema/interval.schema.json`` says it for machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon import layout
from blkiomon.cut import Cut, Table
from blkiomon.distribution import PERCENTILES, Distribution, bin_of
from blkiomon.groups import NS_PER_S, Group, InFlight
from blkiomon.interval import Counts, Interval
from blkiomon.moments import U64_MAX, Moments, stacked, to_words

SCHEMA = 1
"""Version of the dict: a greater number means that a field has changed its meaning or is gone."""

TOP_PROCESSES = 10

_UNSEEN = {
    "lost_events": "lost",
    "sequence_gaps": "gaps",
    "completions_without_issue": "orphans",
    "issues_without_completion": "unanswered",
    "evicted": "evicted",
    "mismatches": "mismatches",
    "skipped_bytes": "skipped_bytes",
    "over_device_limit": "over_limit",
}
"""Names of what was not seen, and those of ``Counts``."""


def percentile_name(percent: float) -> str:
    """``p99_9`` of 99.9."""
    return f"p{percent}".replace(".", "_")


def device_text(number: int) -> str:
    """A device as sysfs and lsblk write it: ``8:16``."""
    return f"{number >> 20}:{number & 0xFFFFF}"


def utc(time_ns: int) -> str:
    """ISO 8601 with nanoseconds, of ns since 1970."""
    seconds, ns = divmod(time_ns, NS_PER_S)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ns:09d}Z"


def unseen(counts: Counts) -> dict[str, int]:
    """What a monitor knows that it has not seen, by the names of the outputs."""
    return {name: getattr(counts, field) for name, field in _UNSEEN.items()}


# --- out ------------------------------------------------------------------------------------------


def to_dict(
    interval: Interval, *, histograms: bool, name_of: Callable[[int], str | None] | None
) -> dict[str, Any]:
    """See ``Interval.to_dict``."""
    *groups, total = interval.groups()
    devices: list[dict[str, Any]] = []
    ops: dict[str, Any] = {}
    for group in groups:
        figures = _group(group, histograms)
        assert group.device is not None
        if group.op is not None:
            ops[group.op] = figures
            continue
        name = name_of(group.device) if name_of else None
        devices.append({"device": device_text(group.device), "name": name, **figures, "ops": ops})
        ops = {}
    return {
        **head_dict(interval),
        "total": _group(total, histograms),
        "devices": devices,
        **tail_dict(interval),
    }


def head_dict(interval: Interval) -> dict[str, Any]:
    """What stands before the groups."""
    anchored = interval.is_anchored
    return {
        "schema": SCHEMA,
        "start": utc(interval.start_ns) if anchored else None,
        "end": utc(interval.end_ns) if anchored else None,
        "start_ns": interval.start_ns,
        "end_ns": interval.end_ns,
        "duration_s": interval.duration_s,
        "clock": interval.clock,
        "anchored": anchored,
        "records": interval.counts.records,
        "driver_data_records": interval.counts.driver_data,
    }


def tail_dict(interval: Interval) -> dict[str, Any]:
    """What stands behind the groups."""
    return {
        "unseen": unseen(interval.counts),
        "incomplete": [
            {"reason": why.reason, "count": why.count, "share": why.share}
            for why in interval.incomplete
        ],
        "processes": _processes(interval.cut.processes, interval.process_names),
    }


def _group(group: Group, histograms: bool) -> dict[str, Any]:
    load = group.in_flight
    return {
        "requests": group.requests,
        "errors": group.errors,
        "bytes": group.bytes,
        "iops": group.iops,
        "bytes_per_s": group.bytes_per_s,
        "d2c_ns": distribution_dict(group.d2c, histograms),
        "size_bytes": distribution_dict(group.size, histograms),
        "requeues": group.requeues,
        "retried": retried_dict(group.retried),
        "in_flight": load and _in_flight(load),
        "q2d_ns": group.q2d and distribution_dict(group.q2d, histograms),
        "q2c_ns": group.q2c and distribution_dict(group.q2c, histograms),
    }


def retried_dict(retried: Moments) -> dict[str, Any] | None:
    """Requests that completed after a requeue, ns from their first issue."""
    if not retried.num:
        return None
    return {
        "requests": retried.num,
        "min_ns": retried.min,
        "mean_ns": retried.avg,
        "max_ns": retried.max,
        "sum_ns": retried.sum,
        "sum_squares": retried.squ,
    }


def _in_flight(load: InFlight) -> dict[str, Any]:
    return {
        "mean": load.mean,
        "max": load.max,
        "end": load.end,
        "oldest_ns": load.oldest_ns,
        "busy_fraction": load.busy,
        "busy_ns": load.busy_ns,
        "request_ns": load.request_ns,
    }


def distribution_dict(d: Distribution, histograms: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "count": d.num,
        "sum": d.sum,
        "sum_squares": d.squ,
        "min": d.min,
        "mean": d.mean,
        "max": d.max,
        "stddev": d.stddev,
        **{percentile_name(p): d.percentile(p) for p in PERCENTILES},
    }
    if histograms:
        figures["histogram"] = {
            "low": d.low.tolist(),
            "high": d.high.tolist(),
            "count": d.counts.tolist(),
        }
    return figures


def _processes(processes: Table, names: Mapping[int, str]) -> dict[str, Any] | None:
    if not len(processes):
        return None
    listed = [
        {"pid": pid, "name": names.get(pid), "requests": requests, "bytes": size}
        for pid, requests, size in processes[["pid", "requests", "bytes"]].tolist()
    ]
    return {
        f"by_{what}": sorted(listed, key=lambda p: (-p[what], p["pid"]))[:TOP_PROCESSES]
        for what in ("bytes", "requests")
    }


# --- and back -------------------------------------------------------------------------------------


def from_dict(line: Mapping[str, Any]) -> Interval:
    """See ``Interval.from_dict``."""
    if not isinstance(line, Mapping) or line.get("schema") != SCHEMA:
        raise ValueError(f"this is no interval of schema {SCHEMA}")
    try:
        return _interval(line)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"this is no interval of schema {SCHEMA}: {error!r}") from error


def _interval(line: Mapping[str, Any]) -> Interval:
    devices = [(_device_number(entry["device"]), entry) for entry in line["devices"]]
    ops = [
        ((number, layout.OPS.index(name)), figures)
        for number, entry in devices
        for name, figures in entry["ops"].items()
    ]
    loads = [*ops, *(((number, layout.ALL_OPS), entry) for number, entry in devices)]
    loads.append(((0, layout.EVERYTHING), line["total"]))

    matched = [(key, figures) for key, figures in ops if figures["requests"]]
    rows = _heads(layout.ROW, matched, "d2c_ns")
    rows["errors"] = [figures["errors"] for _, figures in matched]
    rows["direction"] = rows["op"] != layout.OPS.index("read")  # the other ones have not been kept
    for name in ("d2c_us", "throughput"):  # not kept, nor are the histograms of the drop-in
        rows[name]["min"] = U64_MAX
    queued = [(key, figures) for key, figures in ops if figures["q2d_ns"] is not None]
    queue_rows = _heads(layout.QUEUE_ROW, queued, "q2d_ns")
    cut = Cut(
        rows=rows,
        d2c_bins=_bins(rows["d2c_ns"], [figures["d2c_ns"] for _, figures in matched]),
        size_bins=_bins(rows["size_bytes"], [figures["size_bytes"] for _, figures in matched]),
        retry_rows=_retry_rows(ops),
        loads=_loads([(key, f["in_flight"]) for key, f in loads if f["in_flight"] is not None]),
        queue_rows=queue_rows,
        q2d_bins=_bins(queue_rows["q2d_ns"], [figures["q2d_ns"] for _, figures in queued]),
        q2c_bins=_bins(queue_rows["q2c_ns"], [figures["q2c_ns"] for _, figures in queued]),
        processes=_process_table(line["processes"] or {}),
    )
    counts = Counts(
        records=line["records"],
        matches=line["total"]["requests"],
        driver_data=line["driver_data_records"],
        # What earlier versions did not know had not happened: they failed.
        **{field: line["unseen"].get(name, 0) for name, field in _UNSEEN.items()},
    )
    return Interval(
        time_s=line["end_ns"] // NS_PER_S,
        devices=np.unique(rows["device"]),
        cut=cut,
        counts=counts,
        start_ns=line["start_ns"],
        end_ns=line["end_ns"],
        clock=line["clock"],
        is_anchored=line["anchored"],
        missing_files=sum(
            why["count"] for why in line.get("incomplete", ()) if why["reason"] == "missing_files"
        ),
        process_names={
            entry["pid"]: entry["name"]
            for entry in _listed(line["processes"] or {})
            if entry["name"] is not None
        },
    )


Keyed = tuple[tuple[int, int], Mapping[str, Any]]
"""Device and operation, and the figures of that group."""


def _device_number(text: str) -> int:
    major, minor = map(int, text.split(":"))
    return major << 20 | minor


def _heads(dtype: np.dtype[np.void], groups: Sequence[Keyed], counted: str) -> Table:
    """Rows that say what they are about, and of how many requests."""
    rows = np.zeros(len(groups), dtype)
    for row, ((device, op), figures) in zip(rows, groups, strict=True):
        row["device"], row["op"], row["requests"] = device, op, figures[counted]["count"]
    return rows


def _bins(moments: Table, quantities: Sequence[Mapping[str, Any]]) -> Table:
    """Fill in the moments of each row; returns the bins."""
    parts = [np.empty(0, layout.BIN)]
    for row, figures in enumerate(quantities):
        if "histogram" not in figures:
            raise ValueError("an interval without histograms cannot be read back")
        moments[row]["min"] = U64_MAX if figures["min"] is None else figures["min"]
        moments[row]["max"] = figures["max"] or 0
        moments[row]["sum"], moments[row]["squ"] = to_words(
            [figures["sum"], figures["sum_squares"]]
        )
        histogram = figures["histogram"]
        part = np.empty(len(histogram["low"]), layout.BIN)
        part["row"] = row
        part["bin"] = bin_of(np.array(histogram["low"], np.uint64))
        part["count"] = histogram["count"]
        parts.append(part)
    return stacked(parts)


def _retry_rows(ops: Sequence[Keyed]) -> Table:
    requeued = [(key, f) for key, f in ops if f.get("requeues") or f.get("retried")]
    table = np.zeros(len(requeued), layout.RETRY_ROW)
    for row, ((device, op), figures) in zip(table, requeued, strict=True):
        row["device"], row["op"], row["requeues"] = device, op, figures["requeues"]
        moments = row["f2c_ns"]
        moments["min"] = U64_MAX
        if retried := figures["retried"]:
            row["requests"] = retried["requests"]
            moments["min"], moments["max"] = retried["min_ns"], retried["max_ns"]
            moments["sum"], moments["squ"] = to_words([retried["sum_ns"], retried["sum_squares"]])
    return table


def _loads(loads: Sequence[Keyed]) -> Table:
    table = np.zeros(len(loads), layout.LOAD)
    for row, ((device, op), figures) in zip(table, loads, strict=True):
        row["device"], row["op"] = device, op
        row["in_flight"], row["max_in_flight"] = figures["end"], figures["max"]
        row["oldest_ns"], row["busy_ns"] = figures["oldest_ns"], figures["busy_ns"] or 0
        (row["in_flight_ns"],) = to_words([figures["request_ns"]])
    return table


def _listed(processes: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return {entry["pid"]: entry for top in processes.values() for entry in top}.values()


def _process_table(processes: Mapping[str, Any]) -> npt.NDArray[np.void]:
    listed = list(_listed(processes))
    table = np.zeros(len(listed), layout.PROCESS)
    for name in ("pid", "requests", "bytes"):
        table[name] = [entry[name] for entry in listed]
    return table
