"""An interval as a flat table, for CSV and Parquet.

There is a row for each device and operation, and a row with op "all" for each device. The last row,
with device "all" and op "all", is the total. Column names contain units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from blkiomon.engine.constants import ALL_OPS, OPS
from blkiomon.formats.json_codec import UNSEEN, percentile_name
from blkiomon.formats.rendering import NameOf
from blkiomon.formats.units import device_text, utc
from blkiomon.interval.columns import TOTAL, Columns, Loads, Quantity
from blkiomon.interval.distribution import PERCENTILES
from blkiomon.interval.value import Interval

ALL = "all"

Type = Literal["count", "time", "real", "text"]
"""Type of a column: unsigned integer; ns, negative before 1970; floating point; text."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Consecutive rows of an interval, one for each group.

    Attributes:
        interval, columns: the whole interval.
        piece: which groups of ``columns`` these rows show.
        devices: device number of each row; None in the total.
        names: device name of each row, or None.
        ops: operation of each row; ``ALL`` for all, or ``all(read+write)`` for all selected.
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
"""A value or None for each row. If no row has a value, None takes the place of the list."""


class Column(NamedTuple):
    """A column; ``values`` returns its values in some rows."""

    name: str
    kind: Type
    values: Callable[[Rows], Values]


def rows(interval: Interval, name_of: NameOf) -> Iterator[Rows]:
    """The rows of an interval, in the order of ``Interval.groups``."""
    columns = interval.columns()
    for piece in columns.pieces():
        keys = columns.keys[piece]
        devices = [None if key == TOTAL else key >> 3 for key in keys]
        names = {n: None if n is None else name_of(n) for n in dict.fromkeys(devices)}
        of_all = f"{ALL}({'+'.join(interval.only_ops)})" if interval.only_ops else ALL
        ops = [OPS[key & 7] if key & 7 < ALL_OPS and key != TOTAL else of_all for key in keys]
        yield Rows(interval, columns, piece, devices, [names[n] for n in devices], ops)


def _device_texts(rows: Rows) -> list[str]:
    texts = {n: ALL if n is None else device_text(n) for n in dict.fromkeys(rows.devices)}
    return [texts[number] for number in rows.devices]


def _figure(name: str, kind: Type, figures: Callable[[Columns, slice], Values]) -> Column:
    """A column of figures of the groups."""
    return Column(name, kind, lambda rows: figures(rows.columns, rows.piece))


def _quantity(prefix: str, unit: str) -> list[Column]:
    """The columns of a distribution, such as ``d2c_ns``."""

    def column(name: str, kind: Type, figures: Callable[[Quantity, slice], list[Any]]) -> Column:
        def values(columns: Columns, piece: slice) -> Values:
            quantity = getattr(columns, f"{prefix}_{unit}")
            return None if quantity is None else figures(quantity, piece)

        return _figure(f"{prefix}_{name}_{unit}", kind, values)

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
    return [v if condition else None for condition, v in zip(conditions, values, strict=True)]


def _in_flight(
    name: str, kind: Type, figures: Callable[[Columns, Loads, slice], list[Any]]
) -> Column:
    def values(columns: Columns, piece: slice) -> Values:
        loads = columns.in_flight
        return None if loads is None else figures(columns, loads, piece)

    return _figure(name, kind, values)


def _queued_requests(columns: Columns, piece: slice) -> Values:
    if columns.q2d_ns is None:
        return None
    return _where(columns.is_queued[piece], columns.q2d_ns.count[piece])


def _of_total(name: str) -> Column:
    """A field of ``Counts``, which only the total has."""

    def values(rows: Rows) -> Values:
        if rows.devices[-1] is not None:  # the total is the last row
            return None
        return [None] * (len(rows) - 1) + [getattr(rows.interval.counts, name)]

    return Column(name, "count", values)


def _of_interval(name: str, kind: Type, value: Callable[[Interval], Any]) -> Column:
    """A figure that is equal in all rows of an interval."""
    return Column(name, kind, lambda rows: [value(rows.interval)] * len(rows))


COLUMNS: tuple[Column, ...] = (
    _of_interval("start_ns", "time", lambda i: i.start_ns),
    _of_interval("end_ns", "time", lambda i: i.end_ns),
    _of_interval("start", "text", lambda i: utc(i.start_ns) if i.anchored else None),
    Column("device", "text", _device_texts),
    Column("name", "text", lambda rows: rows.names),
    Column("op", "text", lambda rows: rows.ops),
    _figure("requests", "count", lambda c, piece: c.d2c_ns.count[piece]),
    _figure("errors", "count", lambda c, piece: c.errors[piece]),
    _figure("requeues", "count", lambda c, piece: c.requeues[piece]),
    _figure("bytes", "count", lambda c, piece: c.size_bytes.sum[piece]),
    _figure("iops", "real", lambda c, piece: c.per_s(c.d2c_ns.count[piece])),
    _figure("bytes_per_s", "real", lambda c, piece: c.per_s(c.size_bytes.sum[piece])),
    *_quantity("d2c", "ns"),
    *_quantity("size", "bytes"),
    _in_flight("in_flight_mean", "real", lambda c, loads, p: c.share(loads.request_ns[p])),
    _in_flight("in_flight_max", "count", lambda c, loads, p: loads.max[p]),
    _in_flight("in_flight_end", "count", lambda c, loads, p: loads.end[p]),
    _in_flight("in_flight_oldest_ns", "count", lambda c, loads, p: loads.oldest_ns[p]),
    _in_flight("busy_fraction", "real", lambda c, loads, p: c.share(loads.busy_ns[p])),
    _figure("queued_requests", "count", _queued_requests),
    *_quantity("q2d", "ns"),
    *_quantity("q2c", "ns"),
    _of_total("records"),
    *map(_of_total, UNSEEN),
    _of_interval("incomplete", "text", lambda i: " ".join(why.reason for why in i.incomplete)),
)
