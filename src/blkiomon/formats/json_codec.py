"""The JSON codec: an interval as plain dicts, lists and numbers, and back.

``docs/schema.md`` explains every field; ``schema/interval.schema.json`` is the JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from reprlib import repr as shortened
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.errors import IntervalError
from blkiomon.formats import validation
from blkiomon.formats.rendering import NameOf
from blkiomon.formats.units import device_text, utc
from blkiomon.interval.arguments import wrong
from blkiomon.interval.devices import parsed
from blkiomon.interval.distribution import PERCENTILES, Distribution, bin_bounds, bin_of
from blkiomon.interval.findings import Finding
from blkiomon.interval.groups import NS_PER_S, Group
from blkiomon.interval.incomplete import Incomplete
from blkiomon.interval.moments import U64_MAX, U128_MAX, Moments, stacked, to_words
from blkiomon.interval.operations import checked
from blkiomon.interval.tables import QUEUED, REQUESTS, TableSpec
from blkiomon.interval.value import Counts, Interval
from blkiomon.interval.views import BY

SCHEMA = 1
"""Version of the dict. It grows when a field changes its meaning or is removed."""

TOP_PROCESSES = 10

UNSEEN = (
    "lost_events",
    "sequence_gaps",
    "completions_without_issue",
    "issues_without_completion",
    "evicted",
    "mismatches",
    "skipped_bytes",
    "over_device_limit",
)
"""The fields of ``Counts`` that count missed records and requests, in the order of the outputs."""


def percentile_name(percent: float) -> str:
    """``p99_9`` for 99.9."""
    return f"p{percent}".replace(".", "_")


def unseen(counts: Counts) -> dict[str, int]:
    """How many records and requests were missed, by field."""
    return {name: getattr(counts, name) for name in UNSEEN}


# --- encoding -------------------------------------------------------------------------------------


def to_dict(
    interval: Interval,
    *,
    histograms: bool = True,
    name_of: NameOf | None = None,
) -> dict[str, Any]:
    """Return what a line of ``--json`` holds: plain dicts, lists, numbers, strings and None.

    ``docs/schema.md`` explains every field.

    Args:
        interval: the interval to encode.
        histograms: include the histograms; ``from_dict`` needs them.
        name_of: maps a device number to a device name, or None.
    """
    if not isinstance(interval, Interval):
        raise wrong("interval", "an Interval", interval)
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
    """The first fields of the dict, up to the groups."""
    anchored = interval.anchored
    not_in_total = [device_text(number) for number in interval.not_in_total]
    return {
        "schema": SCHEMA,
        "start": utc(interval.start_ns) if anchored else None,
        "end": utc(interval.end_ns) if anchored else None,
        **_attributes(interval, "start_ns end_ns duration_s clock anchored"),
        **({"only_ops": list(interval.only_ops)} if interval.only_ops else {}),
        **_attributes(interval.counts, "records driver_data_records"),
        **({} if interval.by == "device" else {"by": interval.by}),
        **({"not_in_total": not_in_total} if not_in_total else {}),
    }


def tail_dict(interval: Interval) -> dict[str, Any]:
    """The last fields of the dict, after the groups."""
    return {
        "unseen": unseen(interval.counts),
        "incomplete": incomplete_list(interval.incomplete),
        "processes": _processes(interval.snapshot.processes, interval.process_names),
        **findings_dict(interval.findings),
    }


def findings_dict(findings: Iterable[Finding] | None) -> dict[str, Any]:
    """The findings of an interval; empty if nothing was looked for."""
    if findings is None:
        return {}
    return {"findings": [finding.to_dict() for finding in findings]}


def incomplete_list(reasons: Iterable[Incomplete]) -> list[dict[str, Any]]:
    """The reasons why figures are incomplete."""
    return [_attributes(reason, "reason count share") for reason in reasons]


def _attributes(of: object, names: str) -> dict[str, Any]:
    """Attributes by name. Most JSON fields have the same name as in Python."""
    return {name: getattr(of, name) for name in names.split()}


def _group(group: Group, histograms: bool) -> dict[str, Any]:
    load = group.in_flight
    return {
        **_attributes(group, "requests errors bytes iops bytes_per_s"),
        "d2c_ns": distribution_dict(group.d2c_ns, histograms),
        "size_bytes": distribution_dict(group.size_bytes, histograms),
        "requeues": group.requeues,
        "retried": retried_dict(group.retried),
        "in_flight": load
        and _attributes(load, "mean max end oldest_ns busy_fraction busy_ns request_ns"),
        "q2d_ns": group.q2d_ns and distribution_dict(group.q2d_ns, histograms),
        "q2c_ns": group.q2c_ns and distribution_dict(group.q2c_ns, histograms),
    }


def retried_dict(retried: Moments) -> dict[str, Any] | None:
    """Times from first issue to completion, ns, of requeued requests; None if there are none."""
    if not retried.count:
        return None
    return {
        "count": retried.count,
        "min_ns": retried.min,
        "mean_ns": retried.avg,
        "max_ns": retried.max,
        "sum_ns": retried.sum,
        "sum_squares": retried.sum_squares,
    }


def distribution_dict(d: Distribution, histograms: bool) -> dict[str, Any]:
    """The figures of a distribution."""
    figures: dict[str, Any] = {
        **_attributes(d, "count sum sum_squares min mean max stddev"),
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


# --- decoding -------------------------------------------------------------------------------------


def from_dict(line: Mapping[str, Any]) -> Interval:
    """Return the interval that ``to_dict`` encoded.

    Its groups, percentiles and merges equal those of the encoded interval. JSON does not hold the
    original's figures (``Interval.device_stats``), and only the processes in its two lists.

    Args:
        line: a dict with histograms.

    Raises:
        IntervalError: the dict is not an interval, has another version, lacks histograms, or its
            figures contradict each other; the text names the field.
    """
    if not isinstance(line, Mapping) or line.get("schema") != SCHEMA:
        raise IntervalError(f"not an interval of schema {SCHEMA}")
    interval = _interval(_Object(line, ""))
    validation.check(interval)
    return interval


class _Object:
    """A JSON object. Its methods read and check a field; errors name the path of the field.

    Fields that are not read may hold anything: later versions may add some.
    """

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise IntervalError(f"{path}: {shortened(value)} is not an object")
        self.fields = value
        self.path = path

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _wrong(self, name: str, what: str) -> IntervalError:
        return IntervalError(f"{self._at(name)}: {shortened(self.fields[name])} is not {what}")

    def _get(self, name: str) -> Any:
        if name not in self.fields:
            raise IntervalError(f"{self._at(name)} is missing")
        return self.fields[name]

    def number(self, name: str) -> int:
        """An integer."""
        value = self._get(name)
        if type(value) is not int:
            raise self._wrong(name, "a whole number")
        return value

    def count(self, name: str, most: int | None = U64_MAX) -> int:
        """An integer from 0 to ``most``."""
        value = self.number(name)
        if value < 0 or (most is not None and value > most):
            raise IntervalError(f"{self._at(name)}: {shortened(value)} is out of range")
        return value

    def one_of(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._get(name)
        if value not in choices:
            raise self._wrong(name, " or ".join(map(json.dumps, choices)))
        return value

    def text(self, name: str) -> str | None:
        """A string or null."""
        value = self._get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "text")
        return value

    def object(self, name: str) -> _Object:
        return _Object(self._get(name), self._at(name))

    def object_or_none(self, name: str) -> _Object | None:
        return None if self._get(name) is None else self.object(name)

    def objects(self, name: str) -> list[_Object]:
        """A list of objects."""
        return [_Object(item, f"{self._at(name)}[{i}]") for i, item in enumerate(self.list(name))]

    def list(self, name: str) -> Sequence[Any]:
        value = self._get(name)
        if not isinstance(value, (list, tuple)):
            raise self._wrong(name, "a list")
        return value

    def counts(self, name: str) -> npt.NDArray[np.uint64]:
        """A list of integers from 0 to 2^64-1."""
        values = self.list(name)
        try:
            if set(map(type, values)) <= {int}:
                return np.array(values, np.uint64)
        except OverflowError:
            pass
        raise self._wrong(name, "a list of whole numbers from 0 to 2^64-1")


Keyed = tuple[tuple[int, int], _Object]
"""Device number and operation, and the figures of that group."""


def _interval(line: _Object) -> Interval:
    devices = [
        (_device_number(entry.text("device"), f"{entry.path}.device"), entry)
        for entry in line.objects("devices")
    ]
    ops = [keyed for number, entry in devices for keyed in _ops(number, entry)]
    total = line.object("total")
    not_in_total = _not_in_total(line)
    _require_sums(total, [entry for number, entry in devices if number not in not_in_total])
    groups = [
        *ops,
        *(((number, layout.ALL_OPS), entry) for number, entry in devices),
        ((0, layout.EVERYTHING), total),
    ]

    matched = [(key, figures) for key, figures in ops if figures.count("requests")]
    queued = [(key, figures) for key, figures in ops if figures.fields.get("q2d_ns") is not None]
    processes, process_names = _processes_of(line)
    tables = {
        **_table(REQUESTS, matched, [figures.count("requests") for _, figures in matched]),
        **_table(QUEUED, queued, [f.object("q2d_ns").count("count") for _, f in queued]),
    }
    rows = tables["rows"]
    rows["errors"] = [figures.count("errors") for _, figures in matched]
    # JSON holds neither the directions nor the figures of the original program.
    rows["direction"] = rows["op"] != layout.OPS.index("read")
    for name in ("d2c_us", "throughput"):
        rows[name]["min"] = U64_MAX
    not_seen = line.object("unseen")
    end_ns = line.number("end_ns")
    return Interval(
        time_s=end_ns // NS_PER_S,
        devices=np.unique(rows["device"]),
        snapshot=Snapshot(
            **tables,
            retry_rows=_retry_rows(ops),
            loads=_loads(groups),
            processes=processes,
        ),
        counts=Counts(
            records=line.count("records", None),
            requests=sum(entry.count("requests") for _, entry in devices),
            driver_data_records=line.count("driver_data_records", None),
            # Earlier versions lack some fields: they stopped with an error instead of counting.
            **{name: not_seen.count(name, None) for name in UNSEEN if name in not_seen.fields},
        ),
        start_ns=line.number("start_ns"),
        end_ns=end_ns,
        clock=line.one_of("clock", ("wall", "trace")),
        anchored=line.one_of("anchored", (True, False)),
        missing_files=_missing_files(line),
        only_ops=_only_ops(line),
        process_names=process_names,
        by=line.one_of("by", BY) if "by" in line.fields else "device",
        not_in_total=not_in_total,
    )


def _device_number(text: object, where: str) -> int:
    with suppress(ValueError):
        if isinstance(text, str) and (number := parsed(text)) is not None:
            return number
    raise IntervalError(f"{where} is not a device number, such as 8:16")


def _not_in_total(line: _Object) -> tuple[int, ...]:
    listed = line.list("not_in_total") if "not_in_total" in line.fields else []
    return tuple(sorted({_device_number(text, "an item of not_in_total") for text in listed}))


def _ops(number: int, entry: _Object) -> list[Keyed]:
    ops = entry.object("ops")
    if unknown := set(ops.fields) - set(layout.OPS):
        raise IntervalError(f"{ops.path}: {shortened(min(map(str, unknown)))} is not an operation")
    found = [((number, layout.OPS.index(name)), ops.object(name)) for name in ops.fields]
    _require_sums(entry, [figures for _, figures in found])
    return found


def _require_sums(whole: _Object, parts: Sequence[_Object]) -> None:
    """Check that a device is the sum of its operations, or the total the sum of all devices.

    The other figures of the whole are not read: they are computed from the parts.
    """
    for name in ("requests", "errors", "bytes"):
        given, added = whole.count(name, None), sum(part.count(name, None) for part in parts)
        if given != added:
            raise IntervalError(f"{whole.path}.{name}: {shortened(given)} is not the sum, {added}")


def _keyed_rows(dtype: np.dtype[np.void], groups: Sequence[Keyed]) -> Table:
    """Rows with device and operation; all other fields are 0."""
    rows = np.zeros(len(groups), dtype)
    for row, ((device, op), _) in zip(rows, groups, strict=True):
        row["device"], row["op"] = device, op
    return rows


def _table(spec: TableSpec, groups: Sequence[Keyed], requests: Sequence[int]) -> dict[str, Table]:
    """The rows of a table and their histograms, by attribute of ``Snapshot``."""
    rows = _keyed_rows(spec.dtype, groups)
    rows["requests"] = requests
    tables = {spec.name: rows}
    for quantity, bins in spec.bins.items():
        figures = [group.object(quantity) for _, group in groups]
        parts = [_distribution(row, rows[row], quantity, f) for row, f in enumerate(figures)]
        tables[bins] = stacked([np.empty(0, layout.BIN), *parts])
    return tables


def _distribution(at: int, row: np.void, quantity: str, figures: _Object) -> Table:
    """Fill in the moments of a quantity of row ``at``; return its bins."""
    if "histogram" not in figures.fields:
        raise IntervalError("an interval without histograms cannot be read")
    if figures.count("count") != row["requests"]:
        raise IntervalError(f"{figures.path}.count is not the number of requests")
    _fill_moments(row[quantity], figures)
    histogram = figures.object("histogram")
    low, counts = histogram.counts("low"), histogram.counts("count")
    bins = np.empty(len(low), layout.BIN)
    bins["row"], bins["bin"] = at, bin_of(low)
    if len(low) != len(counts) or (bin_bounds(bins["bin"])[0] != low).any():
        raise IntervalError(f"{histogram.path}: low must list the least value of each bin")
    bins["count"] = counts
    return bins


def _fill_moments(moments: np.void, figures: _Object, suffix: str = "") -> None:
    """Fill in moments. The names of ``min``, ``max`` and ``sum`` in JSON end with the suffix."""
    for name in ("min", "max"):
        moments[name] = figures.count(name + suffix)
    sums = figures.count("sum" + suffix, U128_MAX), figures.count("sum_squares", None)
    moments["sum"], moments["sum_squares"] = to_words(sums)


def _only_ops(line: _Object) -> tuple[str, ...]:
    try:
        return checked(line.list("only_ops")) if "only_ops" in line.fields else ()
    except (TypeError, ValueError):
        raise IntervalError("only_ops does not list operations") from None


def _missing_files(line: _Object) -> int:
    if "incomplete" not in line.fields:  # written by an earlier version
        return 0
    reasons = line.objects("incomplete")
    return sum(why.count("count") for why in reasons if why.text("reason") == "missing_files")


def _retry_rows(ops: Sequence[Keyed]) -> Table:
    known = [(key, f) for key, f in ops if f.fields.get("requeues") or f.fields.get("retried")]
    table = _keyed_rows(layout.RETRY_ROW, known)
    for row, (_, figures) in zip(table, known, strict=True):
        row["requeues"] = figures.count("requeues")
        row["f2c_ns"]["min"] = U64_MAX
        if retried := figures.object_or_none("retried"):
            row["requests"] = retried.count("count")
            _fill_moments(row["f2c_ns"], retried, "_ns")
    return table


def _loads(groups: Sequence[Keyed]) -> Table:
    known = [(key, load) for key, f in groups if (load := f.object_or_none("in_flight"))]
    table = _keyed_rows(layout.LOAD, known)
    for row, (_, load) in zip(table, known, strict=True):
        row["in_flight"], row["max_in_flight"] = load.count("end"), load.count("max")
        row["oldest_ns"] = load.count("oldest_ns")
        unknown_ns = U64_MAX if row["op"] == layout.ALL_OPS else 0
        is_known = load.fields.get("busy_ns") is not None
        row["busy_ns"] = load.count("busy_ns") if is_known else unknown_ns
        (row["in_flight_ns"],) = to_words([load.count("request_ns", U128_MAX)])
    return table


def _processes_of(line: _Object) -> tuple[Table, dict[int, str]]:
    """The processes of all lists, and their names by pid."""
    tops = line.object_or_none("processes")
    found: dict[int, tuple[int, int, str | None]] = {}
    for entry in chain.from_iterable(tops.objects(name) for name in tops.fields) if tops else ():
        pid = entry.count("pid", (1 << 32) - 1)
        process = entry.count("requests"), entry.count("bytes"), entry.text("name")
        if found.setdefault(pid, process) != process:
            raise IntervalError(f"{entry.path}: another list has other figures of process {pid}")
    rows = [(pid, 0, requests, size) for pid, (requests, size, _) in found.items()]
    names = {pid: name for pid, (_, _, name) in found.items() if name is not None}
    return np.array(rows, layout.PROCESS), names
