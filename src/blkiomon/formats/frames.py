"""Intervals as one tidy table: a row per interval, device and operation; for pandas and the like.

The columns are those of Parquet files, without totals, so that sums and groups are right. Counts
and times are signed, so that differences are right; what is not known is null or NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from blkiomon.engine.layout import OPS
from blkiomon.errors import MissingLibrary
from blkiomon.formats import flat_table
from blkiomon.formats.json_codec import UNSEEN
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless

START = "start"

_OF_TOTALS = {"name", "busy_fraction", "records", "incomplete", *UNSEEN}
COLUMNS = tuple(c for c in flat_table.COLUMNS if c.name not in _OF_TOTALS)
"""The columns; ``START`` has the time of day, if it is known, in UTC."""

MOST = 1 << 63
"""A count that is this or more, of a trace without sense, is null."""

Table = dict[str, list[Any]]


def table_of(intervals: Iterable[Interval]) -> Table:
    """The columns by name: integers, floats or text, and None; ``START`` in ns since 1970."""
    table: Table = {column.name: [] for column in COLUMNS}
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


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingLibrary(f"this table needs {name}: pip install {name}") from error
