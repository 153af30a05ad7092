"""Tables for pandas and the like: intervals, and requests.

Intervals are one tidy table: a row per interval, device and operation. Its columns are those of
Parquet files, except the histogram and ``_LEFT_OUT``. The table has no totals, so that sums and
groups are right. Counts and times are signed, so that differences are right. Unknown values are
null or NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.engine.constants import OPS
from blkiomon.errors import MissingLibrary
from blkiomon.formats import flat_table
from blkiomon.formats.json_codec import UNSEEN
from blkiomon.formats.units import device_text
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless

START = "start"

_LEFT_OUT = {"name", "busy_fraction", "records", "incomplete", *UNSEEN}
COLUMNS = tuple(c for c in flat_table.COLUMNS if c.name not in _LEFT_OUT)
"""The columns; ``START`` has the time of day, if it is known, in UTC."""

MOST = 1 << 63
"""Counts from here on do not fit a signed column. Only a corrupt trace has them; they are null."""


def table_of(intervals: Iterable[Interval]) -> dict[str, list[Any]]:
    """The columns by name: integers, floats or text, and None; ``START`` in ns since 1970."""
    table: dict[str, list[Any]] = {column.name: [] for column in COLUMNS}
    for interval in intervals:
        for rows in flat_table.rows(interval, nameless):
            wanted = [at for at, op in enumerate(rows.ops) if op in OPS]
            for column in COLUMNS:
                if column.name == START:
                    start_ns = interval.start_ns if interval.anchored else None
                    table[START] += [start_ns] * len(wanted)
                    continue
                values = column.values(rows)
                found = [None if values is None else values[at] for at in wanted]
                if column.kind == "count":
                    found = [n if n is None or n < MOST else None for n in found]
                table[column.name] += found
    return table


def to_arrow(intervals: Iterable[Interval]) -> Any:
    """A ``pyarrow.Table``. Raises MissingLibrary."""
    arrow = _library("pyarrow")
    types = {
        "count": arrow.int64(),
        "time": arrow.int64(),
        "real": arrow.float64(),
        "text": arrow.string(),
    }
    fields = [
        (c.name, arrow.timestamp("ns", "UTC") if c.name == START else types[c.kind])
        for c in COLUMNS
    ]
    return arrow.table(table_of(intervals), schema=arrow.schema(fields))


def to_pandas(intervals: Iterable[Interval]) -> Any:
    """A ``pandas.DataFrame``. Raises MissingLibrary."""
    pandas = _library("pandas")
    made = {}
    table = table_of(intervals)
    for column in COLUMNS:
        values = table[column.name]
        if column.name == START:
            times = pandas.to_datetime(pandas.Series(values, dtype="Int64"), utc=True)
            made[START] = times.dt.as_unit("ns")
        elif column.kind == "text":
            made[column.name] = pandas.Series(values, dtype="str")
        else:
            is_whole = column.kind != "real" and None not in values
            made[column.name] = pandas.Series(values, dtype="int64" if is_whole else "float64")
    return pandas.DataFrame(made)


def to_polars(intervals: Iterable[Interval]) -> Any:
    """A ``polars.DataFrame``. Raises MissingLibrary."""
    polars = _library("polars")
    types = {
        "count": polars.Int64,
        "time": polars.Int64,
        "real": polars.Float64,
        "text": polars.String,
    }
    schema = {c.name: polars.Int64 if c.name == START else types[c.kind] for c in COLUMNS}
    frame = polars.DataFrame(table_of(intervals), schema=schema)
    return frame.with_columns(
        polars.from_epoch(START, time_unit="ns").dt.replace_time_zone("UTC").alias(START)
    )


# --- requests -------------------------------------------------------------------------------------

OP, DEVICE, TIME = "op", "device", "time"


def request_columns(requests: npt.NDArray[np.void]) -> dict[str, npt.NDArray[Any]]:
    """The fields of requests as contiguous arrays. Devices and operations are numbers."""
    return {name: np.ascontiguousarray(requests[name]) for name in requests.dtype.names or ()}


def arrow_of(columns: Mapping[str, npt.NDArray[Any]]) -> Any:
    """A ``pyarrow.Table`` that shares the memory of these columns, except ops and devices.

    Those are dictionary-encoded: a small number for each request, and each text once.
    """
    arrow = _library("pyarrow")
    made = {}
    for name, values in columns.items():
        if name in (OP, DEVICE):
            codes, texts = _texts(name, values)
            made[name] = arrow.DictionaryArray.from_arrays(codes, texts)
        else:
            kind = arrow.timestamp("ns", "UTC") if name == TIME else None
            made[name] = arrow.array(values, kind, from_pandas=True)  # NaN and NaT become null
    return arrow.table(made)


def _texts(name: str, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], list[str]]:
    """Dictionary-encode operations or devices: indices in a list of texts, and the list."""
    if name == OP:
        return values.astype("i1"), list(OPS)
    numbers, codes = np.unique(values, return_inverse=True)
    return codes.astype("i4"), list(map(device_text, numbers.tolist()))


def requests_to_arrow(requests: npt.NDArray[np.void]) -> Any:
    """A ``pyarrow.Table``. Raises MissingLibrary."""
    return arrow_of(request_columns(requests))


def requests_to_pandas(requests: npt.NDArray[np.void]) -> Any:
    """A ``pandas.DataFrame``; operations and devices are categories. Raises MissingLibrary."""
    pandas = _library("pandas")
    made: dict[str, Any] = dict(request_columns(requests))
    for name in (OP, DEVICE):
        made[name] = pandas.Categorical.from_codes(*_texts(name, made[name]))
    made[TIME] = pandas.Series(made[TIME]).dt.tz_localize("UTC")
    return pandas.DataFrame(made, copy=False)


def requests_to_polars(requests: npt.NDArray[np.void]) -> Any:
    """A ``polars.DataFrame``; operations and devices are of type Enum. Raises MissingLibrary."""
    polars = _library("polars")
    columns = request_columns(requests)
    frame = polars.DataFrame(columns, nan_to_null=True)
    for name in (OP, DEVICE):
        codes, texts = _texts(name, columns[name])
        enum = polars.Enum(texts)
        text = polars.Series(name, texts, dtype=enum).gather(polars.Series(codes))
        frame = frame.with_columns(text)
    return frame.with_columns(polars.col(TIME).dt.replace_time_zone("UTC"))


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingLibrary(f"this table needs {name}: pip install {name}") from error
