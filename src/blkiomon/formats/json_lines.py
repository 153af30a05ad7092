"""JSON Lines: one interval per line; ``docs/schema.md`` explains the fields.

A line is made from columns: values are filled into templates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

from blkiomon.engine.layout import ALL_OPS, OPS
from blkiomon.formats import templates
from blkiomon.formats.json_codec import head_dict, percentile_name, retried_dict, tail_dict
from blkiomon.formats.rendering import Format, FormatOptions, NameOf
from blkiomon.formats.templates import Part, joined, literal
from blkiomon.formats.units import device_text
from blkiomon.interval.columns import Columns, Loads, Quantity
from blkiomon.interval.distribution import N_BINS, PERCENTILES, Histograms, bin_bounds
from blkiomon.interval.moments import Moments
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless


def output_format(options: FormatOptions) -> Format:
    """``--json``."""
    return Format((Interval,), partial(render, name_of=options.name_of))


def to_dict(
    interval: Interval, *, histograms: bool = True, name_of: NameOf = nameless
) -> dict[str, Any]:
    """Return what a line of ``--json`` holds: plain dicts, lists, numbers, strings and None.

    ``docs/schema.md`` explains every field.

    Args:
        interval: the interval to encode.
        histograms: include the histograms; ``from_dict`` needs them.
        name_of: maps a device number to a device name, or None.
    """

    def without_histogram(members: dict[str, Any]) -> dict[str, Any]:
        members.pop("histogram", None)
        return members

    hook = None if histograms else without_histogram
    line: dict[str, Any] = json.loads(b"".join(render(interval, name_of)), object_hook=hook)
    return line


def render(interval: Interval, name_of: NameOf = nameless) -> Iterator[bytes]:
    """The line of an interval, in several pieces."""
    columns = interval.columns()
    *pieces, total = columns.pieces()
    (figures,) = _groups(columns, total)
    yield f'{_dumped(head_dict(interval))[:-1]},"total":{{{figures}}},"devices":['.encode()
    comma = ""
    for piece in pieces:
        yield f"{comma}{_devices(columns, piece, name_of)}".encode()
        comma = ","
    yield f"],{_dumped(tail_dict(interval))[1:]}\n".encode()


_dumped = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _devices(columns: Columns, piece: slice, name_of: NameOf) -> str:
    """The JSON objects of some devices, with commas between them."""
    keys = columns.keys[piece]
    texts = _groups(columns, piece)
    objects: list[str] = []
    ops: list[str] = []
    for key, figures in zip(keys, texts, strict=True):
        op = key & 7
        if op != ALL_OPS:
            ops += ('"', OPS[op], '":{', figures, "},")
            continue
        name = name_of(key >> 3)
        named = "null" if name is None else _dumped(name)
        objects += (
            f'{{"device":"{device_text(key >> 3)}","name":{named},',
            figures,
            ',"ops":{',
            *ops[:-1],
            "}}}," if ops else "}},",
        )
        ops.clear()
    return "".join(objects)[:-1]


def _object(**members: Part) -> Part:
    """A JSON object with these members, for each group."""
    named = [Part(f'"{name}":{part.template}', part.columns) for name, part in members.items()]
    inner = joined(named, ",")
    return Part(f"{{{inner.template}}}", inner.columns)


def _number(values: list[Any]) -> Part:
    return templates.column(values, none="null")


_NULL = literal("null")


def _groups(columns: Columns, piece: slice) -> list[str]:
    """The members of each group's JSON object."""
    requests, n_bytes = columns.d2c_ns.count[piece], columns.size_bytes.sum[piece]
    load = columns.in_flight
    group = _object(
        requests=_number(requests),
        errors=_number(columns.errors[piece]),
        bytes=_number(n_bytes),
        iops=_number(columns.per_s(requests)),
        bytes_per_s=_number(columns.per_s(n_bytes)),
        d2c_ns=_distribution(columns.d2c_ns, piece),
        size_bytes=_distribution(columns.size_bytes, piece),
        requeues=_number(columns.requeues[piece]),
        retried=_retried(columns.retried[piece]),
        in_flight=_NULL if load is None else _load(columns, load, piece),
        q2d_ns=_queued(columns.q2d_ns, piece),
        q2c_ns=_queued(columns.q2c_ns, piece),
    )
    return Part(group.template[1:-1], group.columns).texts(len(requests))


def _retried(retried: list[Moments]) -> Part:
    if not any(moments.count for moments in retried):
        return _NULL
    return Part("%s", [["null" if not r.count else _dumped(retried_dict(r)) for r in retried]])


def _load(columns: Columns, load: Loads, piece: slice) -> Part:
    busy = load.busy_ns[piece]
    return _object(
        mean=_number(columns.share(load.request_ns[piece])),
        max=_number(load.max[piece]),
        end=_number(load.end[piece]),
        oldest_ns=_number(load.oldest_ns[piece]),
        busy_fraction=_number(columns.share(busy)),
        busy_ns=_number(busy),
        request_ns=_number(load.request_ns[piece]),
    )


def _queued(quantity: Quantity | None, piece: slice) -> Part:
    """The JSON object of a quantity that only groups with queue records have, else null."""
    if quantity is None:
        return _NULL
    count = quantity.count[piece]
    texts = _distribution(quantity, piece).texts(len(count))
    return Part("%s", [[text if n else "null" for n, text in zip(count, texts, strict=True)]])


def _distribution(quantity: Quantity, piece: slice) -> Part:
    """The JSON object of each group's distribution."""
    percentiles = {
        percentile_name(percent): _number(quantity.percentile(place, piece))
        for place, percent in enumerate(PERCENTILES)
    }
    return _object(
        count=_number(quantity.count[piece]),
        sum=_number(quantity.sum[piece]),
        sum_squares=_number(quantity.sum_squares[piece]),
        min=_number(quantity.extremes("min", piece)),
        mean=_number(quantity.means(piece)),
        max=_number(quantity.extremes("max", piece)),
        stddev=_number(quantity.stddevs(piece)),
        **percentiles,
        histogram=_histograms(quantity.histograms, piece),
    )


def _histograms(histograms: Histograms, piece: slice) -> Part:
    """The JSON object of each group's histogram."""
    starts = histograms.starts[piece.start : piece.stop + 1]
    bins = histograms.bins[starts[0] : starts[-1]].tolist()
    counts = histograms.counts[starts[0] : starts[-1]].tolist()
    ends = list(pairwise((starts - starts[0]).tolist()))

    def lists(texts: list[str]) -> Part:
        return Part("[%s]", [[",".join(texts[begin:end]) for begin, end in ends]])

    low, high = (list(map(texts.__getitem__, bins)) for texts in _bound_texts())
    return _object(low=lists(low), high=lists(high), count=lists(list(map(str, counts))))


@cache
def _bound_texts() -> tuple[list[str], list[str]]:
    """Texts of the least value of each bin, and of the greatest: converting them takes longest."""
    low, high = bin_bounds(np.arange(N_BINS))
    return list(map(str, low.tolist())), list(map(str, high.tolist()))
