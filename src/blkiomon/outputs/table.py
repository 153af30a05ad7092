"""An interval as a flat table, which CSV and Parquet have in common.

One row for each device and operation, one for each device with op "all", and one for everything
with device "all", op "all". Units stand in the names of the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from blkiomon.distribution import PERCENTILES, Distribution
from blkiomon.groups import Group
from blkiomon.interchange import device_text, percentile_name, unseen, utc
from blkiomon.interval import Counts, Interval

ALL = "all"

Kind = Literal["count", "time", "real", "text"]
"""Whole numbers from 0, ns that may be before 1970, floating point, text."""


class Row(NamedTuple):
    """What a row is made of."""

    interval: Interval
    group: Group
    name: str | None


class Column(NamedTuple):
    """A column, and its value in a row: None where there is none."""

    name: str
    kind: Kind
    value: Callable[[Row], Any]


def rows(interval: Interval, name_of: Callable[[int], str | None]) -> Iterator[Row]:
    """The rows of an interval, in the order of ``Interval.groups``."""
    for group in interval.groups():
        name = None if group.device is None else name_of(group.device)
        yield Row(interval, group, name)


def _quantity(prefix: str, unit: str, of: Callable[[Group], Distribution | None]) -> list[Column]:
    def column(name: str, kind: Kind, figure: Callable[[Distribution], Any]) -> Column:
        def value(row: Row) -> Any:
            distribution = of(row.group)
            return None if distribution is None else figure(distribution)

        return Column(f"{prefix}_{name}_{unit}", kind, value)

    def percentile(percent: float) -> Column:
        return column(percentile_name(percent), "count", lambda d: d.percentile(percent))

    return [
        column("min", "count", lambda d: d.min),
        column("mean", "real", lambda d: d.mean),
        column("max", "count", lambda d: d.max),
        column("stddev", "real", lambda d: d.stddev),
        *map(percentile, PERCENTILES),
    ]


def _in_flight(name: str, kind: Kind, attribute: str) -> Column:
    def value(row: Row) -> Any:
        load = row.group.in_flight
        return None if load is None else getattr(load, attribute)

    return Column(name, kind, value)


def _of_all(name: str, value: Callable[[Counts], int]) -> Column:
    """A figure that no device has of its own."""
    return Column(
        name, "count", lambda row: value(row.interval.counts) if row.group.device is None else None
    )


def _unseen(name: str) -> Column:
    return _of_all(name, lambda counts: unseen(counts)[name])


COLUMNS: tuple[Column, ...] = (
    Column("start_ns", "time", lambda row: row.interval.start_ns),
    Column("end_ns", "time", lambda row: row.interval.end_ns),
    Column(
        "start",
        "text",
        lambda row: utc(row.interval.start_ns) if row.interval.is_anchored else None,
    ),
    Column(
        "device",
        "text",
        lambda row: ALL if row.group.device is None else device_text(row.group.device),
    ),
    Column("name", "text", lambda row: row.name),
    Column("op", "text", lambda row: row.group.op or ALL),
    Column("requests", "count", lambda row: row.group.requests),
    Column("errors", "count", lambda row: row.group.errors),
    Column("bytes", "count", lambda row: row.group.bytes),
    Column("iops", "real", lambda row: row.group.iops),
    Column("bytes_per_s", "real", lambda row: row.group.bytes_per_s),
    *_quantity("d2c", "ns", lambda group: group.d2c),
    *_quantity("size", "bytes", lambda group: group.size),
    _in_flight("in_flight_mean", "real", "mean"),
    _in_flight("in_flight_max", "count", "max"),
    _in_flight("in_flight_end", "count", "end"),
    _in_flight("in_flight_oldest_ns", "count", "oldest_ns"),
    _in_flight("busy_fraction", "real", "busy"),
    Column("queued_requests", "count", lambda row: row.group.q2d.num if row.group.q2d else None),
    *_quantity("q2d", "ns", lambda group: group.q2d),
    *_quantity("q2c", "ns", lambda group: group.q2c),
    _of_all("records", lambda counts: counts.records),
    *map(_unseen, unseen(Counts())),
)
