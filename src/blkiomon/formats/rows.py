"""Intervals as two Arrow tables, for archives: one row per interval, device and operation, and one
row per interval.

Nothing is counted twice: no row has the sum of others. Distributions are lists of bins and counts,
from which percentiles of any group of rows follow. All numbers are signed 64-bit integers, which
every reader knows; 128-bit sums have a second column, ``_high``: the sum is ``high * 2**64 + low``,
where ``low`` is to be read as unsigned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from blkiomon.engine import layout
from blkiomon.engine.constants import ALL_OPS, EVERYTHING, OPS
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.errors import IntervalError
from blkiomon.formats.units import device_text
from blkiomon.interval.devices import number_of
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.moments import U64_MAX, distinct, stacked, stacked_bins
from blkiomon.interval.tables import QUEUED, REQUESTS
from blkiomon.interval.value import Counts, Interval

BIN_FORMULA = "shift = max(0, bits(value) - 7); bin = 64 * shift + (value >> shift)"

MOST = 1 << 63
"""Numbers that are this or more do not fit a column."""

Array = npt.NDArray[Any]


class QuantityColumns(NamedTuple):
    """A distribution: ``table``, ``field``, ``bins`` in a snapshot; ``prefix``, ``unit`` here."""

    table: str
    field: str
    bins: str
    prefix: str
    unit: str

    def names(self) -> list[str]:
        """The columns of its moments, in the order of ``layout.MOMENTS``."""
        p, unit = self.prefix, self.unit
        sums = f"{p}_sum_{unit}", f"{p}_sum_squares"
        return [f"{p}_min_{unit}", f"{p}_max_{unit}", *(s + h for s in sums for h in ("", "_high"))]


QUANTITIES = tuple(
    QuantityColumns(spec.name, field, spec.bins[field], *field.split("_"))
    for spec in (REQUESTS, QUEUED)
    for field in spec.bins
)
IN_FLIGHT = ("in_flight_max", "in_flight_end", "in_flight_oldest_ns", "in_flight_request_ns")
IN_FLIGHT_COLUMNS = (*IN_FLIGHT, "in_flight_request_ns_high")
COUNTS = tuple(field.name for field in fields(Counts))
RETRIED = ("requeues", "retried", "f2c_min_ns", "f2c_max_ns", "f2c_sum_ns", "f2c_sum_ns_high")
RETRIED_COLUMNS = (*RETRIED, "f2c_sum_squares", "f2c_sum_squares_high")


def _field(name: str, kind: Any) -> Any:
    """A field with its unit as metadata."""
    unit = {"_ns": "ns", "_bytes": "bytes"}
    known = next((unit[end] for end in unit if name.removesuffix("_high").endswith(end)), None)
    metadata = {"unit": known} if known else {}
    if name.endswith("_high"):
        metadata["meaning"] = "the upper 64 bits of the sum"
    if name.endswith("_bin"):
        metadata["meaning"] = BIN_FORMULA
    return pa.field(name, kind, metadata=metadata or None)


def _numbers(names: Sequence[str]) -> list[Any]:
    return [_field(name, pa.int64()) for name in names]


_TEXT = pa.dictionary(pa.int32(), pa.string())
_KEYS = [
    pa.field("host", _TEXT),
    pa.field("trace", _TEXT),
    pa.field("start", pa.timestamp("us", "UTC"), metadata={"meaning": "null if not known"}),
    pa.field(
        "start_ns",
        pa.int64(),
        metadata={"unit": "ns", "meaning": "since 1970; without start, since the first record"},
    ),
    _field("end_ns", pa.int64()),
]


def _histogram(quantity: QuantityColumns) -> list[Any]:
    name = quantity.prefix
    return [
        _field(f"{name}_bin", pa.list_(pa.int16())),
        _field(f"{name}_count", pa.list_(pa.int64())),
    ]


REQUESTS_SCHEMA = pa.schema(
    [
        *_KEYS,
        *(pa.field(name, _TEXT) for name in ("device", "op")),
        *_numbers(["requests", "errors", "queued_requests"]),
        *(f for q in QUANTITIES for f in (*_numbers(q.names()), *_histogram(q))),
        *_numbers(IN_FLIGHT_COLUMNS),
    ]
)
"""A row per interval, device and operation."""

_DEVICE = pa.struct([pa.field("device", _TEXT), *_numbers(["busy_ns", *IN_FLIGHT_COLUMNS])])
_RETRIED = pa.struct([pa.field("device", _TEXT), pa.field("op", _TEXT), *_numbers(RETRIED_COLUMNS)])
_PROCESS = pa.struct(
    [_field("pid", pa.int64()), pa.field("name", pa.binary()), *_numbers(["requests", "bytes"])]
)

INTERVALS_SCHEMA = pa.schema(
    [
        *_KEYS,
        *_numbers([*COUNTS, "missing_files"]),
        pa.field("incomplete", pa.string()),
        *_numbers(IN_FLIGHT_COLUMNS),
        pa.field("devices", pa.list_(_DEVICE)),
        pa.field("retried", pa.list_(_RETRIED)),
        pa.field("processes", pa.list_(_PROCESS)),
    ]
)
"""A row per interval."""


class Tables(NamedTuple):
    """The two tables of some intervals."""

    requests: pa.Table
    intervals: pa.Table


class Item(NamedTuple):
    """An interval, the host and the trace that it is of."""

    host: str
    trace: str
    interval: Interval


# --- to rows --------------------------------------------------------------------------------------


def to_tables(items: Sequence[Item]) -> Tables:
    """Encode intervals, in the order given; the rows of each are ordered by device and operation.

    The original's figures, which only ``-h`` and ``-b`` show, are left out.

    Raises:
        IntervalError: see ``require_fit``.
    """
    for item in items:
        require_fit(item.interval)
    snapshots = [_by_operation(item.interval.snapshot) for item in items]
    rows, queued = (_Stacked(snapshots, name) for name in ("rows", "queue_rows"))
    loads = _Stacked(snapshots, "loads")
    of_op = loads.select(loads.table["op"] < ALL_OPS)
    keys = distinct(np.concatenate((rows.keys, queued.keys, of_op.keys)))
    n = len(keys)
    place = {part: np.searchsorted(keys, part.keys) for part in (rows, queued, of_op)}
    numbers: dict[str, Any] = {
        "requests": _scatter(n, place[rows], rows.table["requests"]),
        "errors": _scatter(n, place[rows], rows.table["errors"]),
        "queued_requests": _scatter(n, place[queued], queued.table["requests"]),
    }
    for quantity in QUANTITIES:
        part = rows if quantity.table == "rows" else queued
        moments = part.table[quantity.field]
        names = quantity.names()
        for name, words in zip(names, _words(moments), strict=True):
            is_extreme = name in names[:2]
            numbers[name] = _scatter(n, place[part], words, is_null_elsewhere=is_extreme)
        bins, tables = (
            [getattr(snapshot, name) for snapshot in snapshots]
            for name in (quantity.bins, quantity.table)
        )
        numbers |= _lists(quantity, stacked_bins(bins, tables), place[part], n)
    for name, words in _load_words(of_op.table).items():
        numbers[name] = _scatter(n, place[of_op], words, is_null_elsewhere=True)
    interval_of = _arrow(keys >> 35)
    key_columns = _key_columns(items)
    requests = {name: column.take(interval_of) for name, column in key_columns.items()}
    requests["device"] = _devices(keys >> 3 & 0xFFFFFFFF)
    requests["op"] = _texts(keys & 7, OPS)
    return Tables(
        _table(requests | numbers, REQUESTS_SCHEMA),
        _intervals(items, key_columns, loads, _Stacked(snapshots, "retry_rows")),
    )


def require_fit(interval: Interval) -> None:
    """Check that the times and counts of an interval fit 63 bits; see ``to_tables``.

    Raises:
        IntervalError: they do not.
    """
    if not -MOST <= interval.start_ns <= interval.end_ns < MOST:
        raise IntervalError("a time of the trace is beyond 292 years")
    if any(getattr(interval.counts, name) >= MOST for name in COUNTS):
        raise IntervalError("a count of the trace exceeds 63 bits")


def _table(columns: Mapping[str, Any], schema: Any) -> pa.Table:
    return pa.table([columns[field.name] for field in schema], schema=schema)


def _by_operation(snapshot: Snapshot) -> Snapshot:
    """The snapshot, with at most one row for each device and operation."""
    rows = snapshot.rows
    keys = rows["device"].astype(np.int64) << 3 | rows["op"]
    if len(set(keys.tolist())) == len(keys):
        return snapshot
    rows = rows.copy()
    rows["direction"] = 0
    return merge_snapshots([replace(snapshot, rows=rows)])


class _Stacked:
    """A table of all snapshots.

    Attributes:
        table: the rows of all snapshots.
        of: the index of the snapshot of each row.
        lengths: the number of rows of each snapshot.
        keys: of each row of one operation: snapshot, device (32 bits) and operation (3 bits).
    """

    def __init__(self, snapshots: Sequence[Snapshot], name: str) -> None:
        tables = [getattr(snapshot, name) for snapshot in snapshots]
        self.lengths = np.array(list(map(len, tables)))
        self._set(stacked(tables), np.repeat(np.arange(len(tables)), self.lengths))

    def _set(self, table: Table, of: npt.NDArray[np.int64]) -> None:
        self.table, self.of = table, of
        self.keys = of << 35 | table["device"].astype(np.int64) << 3 | table["op"]

    def select(self, wanted: npt.NDArray[np.bool_]) -> _Stacked:
        """Some of the rows."""
        chosen = object.__new__(_Stacked)
        chosen.lengths = np.bincount(self.of[wanted], minlength=len(self.lengths))
        chosen._set(self.table[wanted], self.of[wanted])
        return chosen


def _scatter(n: int, places: Array, values: Array, *, is_null_elsewhere: bool = False) -> Any:
    """A column of n rows with these values at these places, and elsewhere 0 or null."""
    column = np.zeros(n, np.int64)
    column[places] = values.view(np.int64)
    if not is_null_elsewhere or len(places) == n:
        return _arrow(column)
    is_known = np.zeros(n, bool)
    is_known[places] = True
    return _arrow(column, is_known=is_known)


def _words(moments: Table) -> list[Array]:
    """The columns of moments, as in ``QuantityColumns.names``."""
    sums = (moments[name][:, word] for name in ("sum", "sum_squares") for word in (0, 1))
    return [np.ascontiguousarray(c) for c in (moments["min"], moments["max"], *sums)]


def _load_words(loads: Table) -> dict[str, Array]:
    integral = loads["in_flight_ns"]
    columns = (
        *(loads[name] for name in ("max_in_flight", "in_flight", "oldest_ns")),
        *(integral[:, 0], integral[:, 1]),
    )
    return dict(zip(IN_FLIGHT_COLUMNS, map(np.ascontiguousarray, columns), strict=True))


def _lists(quantity: QuantityColumns, bins: Table, places: Array, n: int) -> dict[str, Any]:
    """The two list columns of a quantity.

    Args:
        bins: dtype ``layout.BIN``.
        places: the row of the columns for each row of the table that ``bins`` refers to.
    """
    row = places[bins["row"]] if len(bins) else np.empty(0, np.intp)
    if (np.diff(row) < 0).any():
        order = np.argsort(row, kind="stable")
        bins, row = bins.take(order), row[order]
    ends = _arrow(np.searchsorted(row, np.arange(n + 1)).astype(np.int32))
    name = quantity.prefix
    bin_lists, count_lists = (
        pa.ListArray.from_arrays(ends, _arrow(bins[of].astype(kind)))
        for of, kind in (("bin", np.int16), ("count", np.int64))
    )
    return {f"{name}_bin": bin_lists, f"{name}_count": count_lists}


def _devices(numbers: Array) -> Any:
    distinct, index = np.unique(numbers, return_inverse=True)
    return _texts(index, list(map(device_text, distinct.tolist())))


def _texts(index: Array, texts: Sequence[str]) -> Any:
    return pa.DictionaryArray.from_arrays(_arrow(index.astype(np.int32)), _strings(texts))


def _arrow(values: Array, kind: Any = None, is_known: Array | None = None) -> Any:
    """A column of numbers. ``pa.array`` would import pandas, if that is installed: half a second.

    Args:
        values: shape (n,).
        kind: of the column, by default that of the values.
        is_known: shape (n,), bool: which of them are not null.
    """
    known = None if is_known is None else pa.py_buffer(np.packbits(is_known, bitorder="little"))
    buffers = [known, pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(kind or pa.from_numpy_dtype(values.dtype), len(values), buffers)


def _strings(texts: Sequence[str]) -> Any:
    return _bytes([text.encode() for text in texts], pa.string())


def _bytes(texts: Sequence[bytes], kind: Any, is_known: Array | None = None) -> Any:
    """A column of texts; see ``_arrow``."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    known = None if is_known is None else pa.py_buffer(np.packbits(is_known, bitorder="little"))
    buffers = [known, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(kind, len(texts), buffers)


def _encoded(texts: Sequence[str]) -> Any:
    return _strings(texts).dictionary_encode()


def _key_columns(items: Sequence[Item]) -> dict[str, Any]:
    intervals = [item.interval for item in items]
    start_ns = np.array([i.start_ns for i in intervals], np.int64)
    is_anchored = np.array([i.anchored for i in intervals], bool)
    return {
        "host": _encoded([item.host for item in items]),
        "trace": _encoded([item.trace for item in items]),
        "start": _arrow(start_ns // 1000, pa.timestamp("us", "UTC"), is_anchored),
        "start_ns": _arrow(start_ns),
        "end_ns": _arrow(np.array([i.end_ns for i in intervals], np.int64)),
    }


def _intervals(
    items: Sequence[Item], keys: dict[str, Any], loads: _Stacked, retries: _Stacked
) -> pa.Table:
    intervals = [item.interval for item in items]
    total = loads.select(loads.table["op"] == EVERYTHING)
    columns = dict(keys)
    for name in COUNTS:
        columns[name] = _arrow(np.array([getattr(i.counts, name) for i in intervals], np.int64))
    columns["missing_files"] = _arrow(np.array([i.missing_files for i in intervals], np.int64))
    columns["incomplete"] = _strings(
        [" ".join(why.reason for why in i.incomplete) for i in intervals]
    )
    for name, words in _load_words(total.table).items():
        columns[name] = _scatter(len(items), total.of, words, is_null_elsewhere=True)
    devices = loads.select(loads.table["op"] == ALL_OPS)
    columns["devices"] = _structs(
        devices.lengths,
        _DEVICE,
        [
            _devices(devices.table["device"]),
            _signed(devices.table["busy_ns"]),
            *map(_signed, _load_words(devices.table).values()),
        ],
    )
    columns["retried"] = _structs(
        retries.lengths,
        _RETRIED,
        [
            _devices(retries.table["device"]),
            _texts(retries.table["op"], OPS),
            *(_signed(retries.table[name]) for name in ("requeues", "requests")),
            *map(_signed, _words(retries.table["f2c_ns"])),
        ],
    )
    processes = [i.snapshot.processes for i in intervals]
    names = [
        i.process_names.get(pid) for i in intervals for pid in i.snapshot.processes["pid"].tolist()
    ]
    # A process chooses its name: it need not be UTF-8.
    encoded = [(name or "").encode("utf-8", "surrogatepass") for name in names]
    table = stacked(processes)
    columns["processes"] = _structs(
        list(map(len, processes)),
        _PROCESS,
        [
            _arrow(table["pid"].astype(np.int64)),
            _bytes(encoded, pa.binary(), np.array([name is not None for name in names], bool)),
            *(_signed(table[name]) for name in ("requests", "bytes")),
        ],
    )
    return _table(columns, INTERVALS_SCHEMA)


def _signed(values: Array) -> Any:
    return _arrow(np.ascontiguousarray(values).view(np.int64))


def _structs(lengths: Sequence[int] | Array, kind: Any, columns: Sequence[Any]) -> Any:
    """A column of lists of structs."""
    ends = _arrow(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))
    return pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(columns, fields=list(kind)))


# --- from rows ------------------------------------------------------------------------------------


def from_tables(tables: Tables) -> Iterator[Item]:
    """Rebuild intervals from their rows, in the order of ``tables.intervals``.

    Every figure is exact. ``Interval.device_stats`` raises ValueError: the original's figures are
    not stored.
    """
    texts = {name: _column(tables.requests, name) for name in ("trace", "device", "op")}
    start_ns = _column(tables.requests, "start_ns")
    found: dict[tuple[str, int], list[int]] = {}
    for at, key in enumerate(zip(texts["trace"], start_ns, strict=True)):
        found.setdefault(key, []).append(at)
    for line in tables.intervals.to_pylist():
        of = np.array(found.get((line["trace"], line["start_ns"]), []), np.int64)
        rows = tables.requests.take(of)
        yield Item(line["host"], line["trace"], _interval(line, rows))


def _column(table: pa.Table, name: str) -> list[Any]:
    listed: list[Any] = table[name].to_pylist()
    return listed


def _array(table: pa.Table, name: str) -> Array:
    """A column of numbers; null is 0."""
    values: Array = table[name].combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)
    return values


def _interval(line: dict[str, Any], requests: pa.Table) -> Interval:
    device = np.array([number_of(text) for text in _column(requests, "device")], "u4")
    op = np.array([OPS.index(text) for text in _column(requests, "op")], "u2")
    tables: dict[str, Table] = {}
    for spec, number in ((REQUESTS, "requests"), (QUEUED, "queued_requests")):
        wanted = np.flatnonzero(_array(requests, number))
        table = tables[spec.name] = np.zeros(len(wanted), spec.dtype)
        table["device"], table["op"] = device[wanted], op[wanted]
        table["requests"] = _array(requests, number)[wanted]
        for quantity in (q for q in QUANTITIES if q.table == spec.name):
            columns = [_array(requests, name)[wanted] for name in quantity.names()]
            _fill(table[quantity.field], columns)
            lists = [
                requests[f"{quantity.prefix}_{of}"].combine_chunks().take(wanted)
                for of in ("bin", "count")
            ]
            bins = tables[quantity.bins] = np.zeros(len(lists[0].values), layout.BIN)
            bins["row"] = np.repeat(np.arange(len(wanted)), np.diff(lists[0].offsets))
            bins["bin"], bins["count"] = (part.values.to_numpy() for part in lists)
    rows = tables["rows"]
    rows["errors"] = _array(requests, "errors")[np.flatnonzero(_array(requests, "requests"))]
    rows["direction"] = rows["op"] != OPS.index("read")
    for name in ("d2c_us", "throughput"):
        rows[name]["min"] = U64_MAX
    names = {p["pid"]: p["name"] for p in line["processes"] if p["name"] is not None}
    return Interval(
        time_s=line["end_ns"] // NS_PER_S,
        devices=distinct(rows["device"]),
        snapshot=Snapshot(
            **tables,
            loads=_loads(line, requests, device, op),
            retry_rows=_retries(line["retried"]),
            processes=np.array(
                [(p["pid"], 0, p["requests"], p["bytes"]) for p in line["processes"]],
                layout.PROCESS,
            ),
        ),
        counts=Counts(**{name: line[name] for name in COUNTS}),
        start_ns=line["start_ns"],
        end_ns=line["end_ns"],
        clock="trace",
        anchored=line["start"] is not None,
        missing_files=line["missing_files"],
        process_names={pid: name.decode("utf-8", "surrogatepass") for pid, name in names.items()},
    )


def _fill(moments: Table, columns: Sequence[Array]) -> None:
    """Set moments from the columns of ``QuantityColumns.names``."""
    unsigned = [column.astype(np.int64).view(np.uint64) for column in columns]
    moments["min"], moments["max"] = unsigned[:2]
    for at, name in ((2, "sum"), (4, "sum_squares")):
        moments[name][:, 0], moments[name][:, 1] = unsigned[at : at + 2]


def _loads(line: dict[str, Any], requests: pa.Table, device: Array, op: Array) -> Table:
    if line["in_flight_max"] is None:
        return np.empty(0, layout.LOAD)
    found = [(0, EVERYTHING, 0, *(line[name] for name in IN_FLIGHT_COLUMNS))]
    for each in line["devices"]:
        of_device = [each[name] for name in IN_FLIGHT_COLUMNS]
        found.append((number_of(each["device"]), ALL_OPS, each["busy_ns"], *of_device))
    of_ops = [_column(requests, name) for name in IN_FLIGHT_COLUMNS]
    for number, of, *figures in zip(device.tolist(), op.tolist(), *of_ops, strict=True):
        if figures[0] is not None:
            found.append((number, of, 0, *figures))
    table = np.zeros(len(found), layout.LOAD)
    names = "device", "op", "busy_ns", "max_in_flight", "in_flight", "oldest_ns"
    *columns, low, high = (np.array(column, np.int64) for column in zip(*found))
    for name, column in zip(names, columns, strict=True):
        table[name] = column
    table["in_flight_ns"] = np.stack((low, high), axis=1).view(np.uint64)
    return table


def _retries(lines: Sequence[dict[str, Any]]) -> Table:
    table = np.zeros(len(lines), layout.RETRY_ROW)
    table["device"] = [number_of(each["device"]) for each in lines]
    table["op"] = [OPS.index(each["op"]) for each in lines]
    table["requeues"] = [each["requeues"] for each in lines]
    table["requests"] = [each["retried"] for each in lines]
    columns = [np.array([each[name] for each in lines], np.int64) for name in RETRIED_COLUMNS[2:]]
    _fill(table["f2c_ns"], columns)
    return table
