"""An interval as a flat table, for CSV and Parquet.

There is a row for each device and operation, a row with op "all" for each device, and a row with
device "all" and op "all" for the total. The names of columns contain their units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from blkiomon.engine.layout import OPS
from blkiomon.formats.json_codec import percentile_name, unseen
from blkiomon.formats.units import device_text, utc
from blkiomon.interval.columns import TOTAL, Columns, Loads, Quantity
from blkiomon.interval.distribution import PERCENTILES
from blkiomon.interval.value import Counts, Interval

ALL = "all"

Kind = Literal["count", "time", "real", "text"]
"""Type of a column: integers from 0 on; ns, negative before 1970; floating point; text."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some rows of an interval, one for each group in ``piece``.

    Attributes:
        interval, columns: of all groups.
        piece: the slice of the columns that these rows show.
        devices: device number of each row; None in the total.
        names: device name of each row, or None.
        ops: operation of each row; ``ALL`` for all.
    """

    interval: Interval
    columns: Columns
    piece: slice
    devices: list[int | None]
    names: list[str | None]
    ops: list[str]

    def __len__(self) -> int:
        return len(self.devices)


Values = list[Any] | None
"""A value, or None, for each row; or None instead of a list if no row has a value."""


class Column(NamedTuple):
    """A column; ``values`` returns its values in some rows."""

    name: str
    kind: Kind
    values: Callable[[Rows], Values]


def rows(interval: Interval, name_of: Callable[[int], str | None]) -> Iterator[Rows]:
    """The rows of an interval, in the order of ``Interval.groups``."""
    columns = interval.columns()
    for piece in columns.pieces():
        keys = columns.keys[piece]
        devices = [None if key == TOTAL else key >> 3 for key in keys]
        names = {n: None if n is None else name_of(n) for n in dict.fromkeys(devices)}
        ops = [_OPS[key & 7] if key != TOTAL else ALL for key in keys]
        yield Rows(interval, columns, piece, devices, [names[n] for n in devices], ops)


_OPS = (*OPS, ALL)


def _device_texts(rows: Rows) -> list[str]:
    texts = {n: ALL if n is None else device_text(n) for n in dict.fromkeys(rows.devices)}
    return [texts[number] for number in rows.devices]


def _quantity(prefix: str, unit: str, of: Callable[[Columns], Quantity | None]) -> list[Column]:
    def column(name: str, kind: Kind, figures: Callable[[Quantity, slice], list[Any]]) -> Column:
        def values(rows: Rows) -> Values:
            quantity = of(rows.columns)
            return None if quantity is None else figures(quantity, rows.piece)

        return Column(f"{prefix}_{name}_{unit}", kind, values)

    def percentile(place: int, percent: float) -> Column:
        def figures(quantity: Quantity, piece: slice) -> list[int | None]:
            found: list[int | None] = quantity.percentiles[piece, place].tolist()
            starts = quantity.histograms.starts[piece.start : piece.stop + 1]
            for at in np.flatnonzero(starts[1:] == starts[:-1]).tolist():
                found[at] = None
            return found

        return column(percentile_name(percent), "count", figures)

    return [
        column("min", "count", lambda q, piece: _where(q.count[piece], q.min[piece])),
        column("mean", "real", Quantity.means),
        column("max", "count", lambda q, piece: _where(q.count[piece], q.max[piece])),
        column("stddev", "real", Quantity.stddevs),
        *(percentile(place, percent) for place, percent in enumerate(PERCENTILES)),
    ]


def _where(conditions: Sequence[object], values: list[Any]) -> list[Any]:
    """Replace the values whose condition is false by None."""
    if all(conditions):
        return values
    return [value if is_so else None for is_so, value in zip(conditions, values, strict=True)]


def _in_flight(
    name: str, kind: Kind, figures: Callable[[Columns, Loads, slice], list[Any]]
) -> Column:
    def values(rows: Rows) -> Values:
        loads = rows.columns.in_flight
        return None if loads is None else figures(rows.columns, loads, rows.piece)

    return Column(name, kind, values)


def _of_all(name: str, value: Callable[[Counts], int]) -> Column:
    """A figure that only the total has."""

    def values(rows: Rows) -> Values:
        if rows.devices[-1] is not None:  # the total is the last one
            return None
        return [None] * (len(rows) - 1) + [value(rows.interval.counts)]

    return Column(name, "count", values)


def _unseen(name: str) -> Column:
    return _of_all(name, lambda counts: unseen(counts)[name])


def _of_each(name: str, kind: Kind, value: Callable[[Interval], Any]) -> Column:
    """A figure that is equal in all rows of an interval."""
    return Column(name, kind, lambda rows: [value(rows.interval)] * len(rows))


COLUMNS: tuple[Column, ...] = (
    _of_each("start_ns", "time", lambda interval: interval.start_ns),
    _of_each("end_ns", "time", lambda interval: interval.end_ns),
    _of_each(
        "start",
        "text",
        lambda interval: utc(interval.start_ns) if interval.anchored else None,
    ),
    Column("device", "text", _device_texts),
    Column("name", "text", lambda rows: rows.names),
    Column("op", "text", lambda rows: rows.ops),
    Column("requests", "count", lambda rows: rows.columns.d2c_ns.count[rows.piece]),
    Column("errors", "count", lambda rows: rows.columns.errors[rows.piece]),
    Column("requeues", "count", lambda rows: rows.columns.requeues[rows.piece]),
    Column("bytes", "count", lambda rows: rows.columns.size_bytes.sum[rows.piece]),
    Column("iops", "real", lambda rows: rows.columns.per_s(rows.columns.d2c_ns.count[rows.piece])),
    Column(
        "bytes_per_s",
        "real",
        lambda rows: rows.columns.per_s(rows.columns.size_bytes.sum[rows.piece]),
    ),
    *_quantity("d2c", "ns", lambda columns: columns.d2c_ns),
    *_quantity("size", "bytes", lambda columns: columns.size_bytes),
    _in_flight("in_flight_mean", "real", lambda c, loads, p: c.share(loads.request_ns[p])),
    _in_flight("in_flight_max", "count", lambda c, loads, p: loads.max[p]),
    _in_flight("in_flight_end", "count", lambda c, loads, p: loads.end[p]),
    _in_flight("in_flight_oldest_ns", "count", lambda c, loads, p: loads.oldest_ns[p]),
    _in_flight("busy_fraction", "real", lambda c, loads, p: c.share(loads.busy_ns[p])),
    Column(
        "queued_requests",
        "count",
        lambda rows: (
            _where(
                rows.columns.is_queued[rows.piece],
                rows.columns.q2d_ns.count[rows.piece],
            )
            if rows.columns.q2d_ns
            else None
        ),
    ),
    *_quantity("q2d", "ns", lambda columns: columns.q2d_ns),
    *_quantity("q2c", "ns", lambda columns: columns.q2c_ns),
    _of_all("records", lambda counts: counts.records),
    *map(_unseen, unseen(Counts())),
    _of_each(
        "incomplete", "text", lambda interval: " ".join(why.reason for why in interval.incomplete)
    ),
)
