"""JSON Lines: one interval per line; ``docs/schema.md`` explains the fields.

The line equals ``to_dict(interval)`` as JSON without spaces, but is made from columns: values are
filled into templates. The numbers of histograms, which make up most of a line, come from tables of
texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.engine.constants import ALL_OPS, OPS
from blkiomon.formats import templates
from blkiomon.formats.json_codec import (
    distribution_dict,
    head_dict,
    percentile_name,
    retried_dict,
    tail_dict,
)
from blkiomon.formats.rendering import Format, FormatOptions, NameOf
from blkiomon.formats.templates import Part, joined, literal
from blkiomon.formats.units import device_text
from blkiomon.interval.columns import Columns, Loads, Quantity
from blkiomon.interval.distribution import (
    N_BINS,
    PERCENTILES,
    Distribution,
    Histograms,
    bin_bounds,
    bin_of,
)
from blkiomon.interval.moments import Moments
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless

SMALL_COUNTS = 1 << 12
"""Counts below this have their text in a table."""


def output_format(options: FormatOptions) -> Format:
    """``--json``."""
    return Format((Interval,), renderer(options.name_of))


def renderer(name_of: NameOf = nameless) -> Callable[[Interval], Iterator[bytes]]:
    """A function from an interval to its line, in several pieces."""
    return lambda interval: _line(interval, name_of)


def _line(interval: Interval, name_of: NameOf) -> Iterator[bytes]:
    columns = interval.columns()
    *pieces, total = columns.pieces()
    (figures,) = _groups(columns, total)
    yield b'%b,"total":{%b},"devices":[' % (_dumped(head_dict(interval))[:-1], figures)
    for piece in pieces:
        yield _devices(columns, piece, name_of)
    yield b"],%b\n" % _dumped(tail_dict(interval))[1:]


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _dumped(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


def _devices(columns: Columns, piece: slice, name_of: NameOf) -> bytes:
    """The JSON objects of some devices, with a comma before each but the first of all."""
    keys = columns.keys[piece]
    texts = _groups(columns, piece)
    comma = b"," if piece.start else b""
    pieces: list[bytes] = []
    ops: list[bytes] = []
    for key, figures in zip(keys, texts, strict=True):
        op = key & 7
        if op != ALL_OPS:
            ops += (_OP_HEADS[op], figures, b"},")
            continue
        device = device_text(key >> 3).encode()
        name = name_of(key >> 3)
        named = b"null" if name is None else _dumped(name)
        head = b'%b{"device":"%b","name":%b,' % (comma, device, named)
        pieces += (head, figures, b',"ops":{')
        if ops:
            ops[-1] = b"}"
            pieces += ops
            ops.clear()
        pieces.append(b"}}")
        comma = b","
    return b"".join(pieces)


_OP_HEADS = tuple(b'"%b":{' % op.encode() for op in OPS)


def _object(**members: Part) -> Part:
    """A JSON object with these members, for each group."""
    named = [
        Part(b'"%b":%b' % (name.encode(), part.template), part.columns)
        for name, part in members.items()
    ]
    inner = joined(named)
    return Part(b"{%b}" % inner.template, inner.columns)


def _ints(values: list[int] | list[int | None]) -> Part:
    return templates.column(values, b"null", b"%d")


def _floats(values: list[float | None]) -> Part:
    return templates.column(values, b"null", b"%r")


_NULL = literal(b"null")


def _groups(columns: Columns, piece: slice) -> list[bytes]:
    """The members of each group's JSON object."""
    requests, n_bytes = columns.d2c_ns.count[piece], columns.size_bytes.sum[piece]
    load = columns.in_flight
    group = _object(
        requests=_ints(requests),
        errors=_ints(columns.errors[piece]),
        bytes=_ints(n_bytes),
        iops=_floats(columns.per_s(requests)),
        bytes_per_s=_floats(columns.per_s(n_bytes)),
        d2c_ns=_distribution(columns.d2c_ns, piece),
        size_bytes=_distribution(columns.size_bytes, piece),
        requeues=_ints(columns.requeues[piece]),
        retried=_retried(columns.retried[piece]),
        in_flight=_NULL if load is None else _load(columns, load, piece),
        q2d_ns=_queued(columns, columns.q2d_ns, piece),
        q2c_ns=_queued(columns, columns.q2c_ns, piece),
    )
    return Part(group.template[1:-1], group.columns).texts(len(requests))


def _retried(retried: list[Moments]) -> Part:
    if not any(moments.count for moments in retried):
        return _NULL
    return Part(b"%b", [[b"null" if not r.count else _dumped(retried_dict(r)) for r in retried]])


def _load(columns: Columns, load: Loads, piece: slice) -> Part:
    busy = load.busy_ns[piece]
    part = _object(
        mean=_floats(columns.share(load.request_ns[piece])),
        max=_ints(load.max[piece]),
        end=_ints(load.end[piece]),
        oldest_ns=_ints(load.oldest_ns[piece]),
        busy_fraction=_floats(columns.share(busy)),
        busy_ns=_ints(busy),
        request_ns=_ints(load.request_ns[piece]),
    )
    return _where([most is not None for most in load.max[piece]], part)


def _queued(columns: Columns, quantity: Quantity | None, piece: slice) -> Part:
    """The JSON object of a quantity that only groups with queue records have, else null."""
    is_queued = columns.is_queued[piece]
    if quantity is None or not any(is_queued):
        return _NULL
    return _where(is_queued, _distribution(quantity, piece))


def _where(is_known: list[bool], part: Part) -> Part:
    """A part, and null for each group without it."""
    if all(is_known):
        return part
    texts = part.texts(len(is_known))
    return Part(b"%b", [[text if known else b"null" for known, text in zip(is_known, texts)]])


def _distribution(quantity: Quantity, piece: slice) -> Part:
    """The JSON object of each group's distribution."""
    count = quantity.count[piece]
    percentiles = quantity.percentiles[piece].T.tolist()
    part = _object(
        count=_ints(count),
        sum=_ints(quantity.sum[piece]),
        sum_squares=_ints(quantity.sum_squares[piece]),
        min=_ints(quantity.min[piece]),
        mean=_floats(quantity.means(piece)),
        max=_ints(quantity.max[piece]),
        stddev=_floats(quantity.stddevs(piece)),
        **dict(zip(_PERCENTILES, map(_ints, percentiles), strict=True)),
        histogram=Part(b'{"low":[%b]}', [_histograms(quantity.histograms, piece)]),
    )
    starts = quantity.histograms.starts[piece.start : piece.stop + 1]
    empty = np.flatnonzero((np.diff(starts) == 0) | (np.array(count) == 0)).tolist()
    if not empty:
        return part
    # Without values or bins, some figures are null.
    texts = part.texts(len(count))
    for at in empty:
        single = quantity.distribution(piece.start + at)
        is_blank = single == Distribution()
        texts[at] = _BLANK if is_blank else _dumped(distribution_dict(single, True))
    return Part(b"%b", [texts])


_PERCENTILES = tuple(map(percentile_name, PERCENTILES))
_BLANK = _dumped(distribution_dict(Distribution(), True))


# --- histograms ----------------------------------------------------------------------------------

LOW_END, HIGH_END, COUNT_END = b"h", b"c", b"\n"
"""Mark the last low, high and count of a histogram, in place of a comma; replaced afterwards."""


def _histograms(histograms: Histograms, piece: slice) -> list[bytes]:
    """The text between ``"low":[`` and the last bracket of each group's histogram.

    One table has the texts of all numbers of the piece. numpy pads texts with NUL to equal length;
    ``translate`` deletes the padding.
    """
    starts = histograms.starts[piece.start : piece.stop + 1]
    bins = histograms.bins[starts[0] : starts[-1]].astype(np.intp)
    counts = histograms.counts[starts[0] : starts[-1]]
    lengths = np.diff(starts)
    if not len(bins):
        return [b""] * len(lengths)
    n_bins = next(n for n in TABLE_BINS if n > bins.max())
    if counts.max() < SMALL_COUNTS:
        of_counts, count_index = _small_counts(), counts.astype(np.intp)
    else:
        distinct, count_index = np.unique(counts, return_inverse=True)
        of_counts = _texts(distinct.tolist(), COUNT_END)
    n_counts = len(of_counts) // 2

    # The lows of the first group, its highs, its counts; then those of the next group.
    is_last = np.zeros(len(bins), np.intp)
    ends = starts[1:][lengths > 0] - starts[0]
    is_last[ends - 1] = 1
    of_group = np.repeat(lengths, lengths)
    at = np.arange(len(bins)) + 2 * np.repeat(starts[:-1] - starts[0], lengths)
    index = np.empty(3 * len(bins), np.intp)
    index[at] = bins + n_bins * is_last
    index[at + of_group] = bins + n_bins * (2 + is_last)
    index[at + 2 * of_group] = 4 * n_bins + count_index + n_counts * is_last
    text = np.concatenate((_bounds(n_bins), of_counts))[index].tobytes().translate(None, b"\0")
    text = text.replace(LOW_END, b'],"high":[').replace(HIGH_END, b'],"count":[')
    texts = text.split(COUNT_END)[:-1]
    if len(texts) == len(lengths):
        return texts
    each = iter(texts)
    return [next(each) if length else b"" for length in lengths.tolist()]


Texts = npt.NDArray[np.bytes_]

TABLE_BINS = (*bin_of([1 << 20, 1 << 30]).tolist(), N_BINS)
"""Sizes of tables, in bins. The smallest that suffices is used: its texts are the shortest."""


@lru_cache(len(TABLE_BINS))
def _bounds(n_bins: int) -> Texts:
    """Texts of the least value of each bin, then of the greatest; see ``_texts`` for the order."""
    low, high = bin_bounds(np.arange(n_bins))
    return np.concatenate((_texts(low.tolist(), LOW_END), _texts(high.tolist(), HIGH_END)))


@cache
def _small_counts() -> Texts:
    return _texts(range(SMALL_COUNTS), COUNT_END)


def _texts(numbers: Sequence[int], end: bytes) -> Texts:
    """Each number with a comma after it; then each with ``end`` after it."""
    return np.array([b"%d%b" % (number, mark) for mark in (b",", end) for number in numbers])
