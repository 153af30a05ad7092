"""JSON Lines: an interval a line; ``docs/schema.md`` explains the fields.

The line is that of ``json.dumps(to_dict(interval))``, byte for byte, made from columns: templates
are filled in, and the numbers of histograms, most of a line, are looked up as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.engine.layout import ALL_OPS, OPS
from blkiomon.formats.json_codec import (
    distribution_dict,
    head_dict,
    percentile_name,
    retried_dict,
    tail_dict,
)
from blkiomon.formats.units import device_text
from blkiomon.interval.columns import Columns, Loads, Quantity
from blkiomon.interval.distribution import N_BINS, PERCENTILES, Distribution, Histograms, bin_bounds
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless

COUNTS = 1 << 12
"""Counts below this are looked up as text."""


def renderer(
    name_of: Callable[[int], str | None] = nameless,
) -> Callable[[Interval], Iterator[bytes]]:
    """A function from an interval to its line, in pieces."""

    def render(interval: Interval) -> Iterator[bytes]:
        return _line(interval, name_of)

    return render


def _line(interval: Interval, name_of: Callable[[int], str | None]) -> Iterator[bytes]:
    columns = interval.columns()
    *pieces, total = columns.pieces()
    (figures,) = _groups(columns, total)
    yield f'{_dumped(head_dict(interval))[:-1]},"total":{{{figures}}},"devices":['.encode()
    comma = ""
    for piece in pieces:
        devices = ",".join(_devices(columns, piece, name_of))
        yield f"{comma}{devices}".encode()
        comma = ","
    yield f"],{_dumped(tail_dict(interval))[1:]}\n".encode()


_dumped = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _devices(columns: Columns, piece: slice, name_of: Callable[[int], str | None]) -> Iterator[str]:
    ops: list[str] = []
    for key, figures in zip(columns.keys[piece], _groups(columns, piece), strict=True):
        op = key & 7
        if op != ALL_OPS:
            ops.append(f'"{OPS[op]}":{{{figures}}}')
            continue
        name = name_of(key >> 3)
        yield (
            f'{{"device":"{device_text(key >> 3)}","name":{_dumped(name)},{figures},'
            f'"ops":{{{",".join(ops)}}}}}'
        )
        ops.clear()


def _members(*names: str) -> str:
    """A template of an object's members, of their values."""
    return ",".join(f'"{name}":%s' for name in names)


_GROUP = _members(
    "requests",
    "errors",
    "bytes",
    "iops",
    "bytes_per_s",
    "d2c_ns",
    "size_bytes",
    "requeues",
    "retried",
    "in_flight",
    "q2d_ns",
    "q2c_ns",
)


def _groups(columns: Columns, piece: slice) -> Iterator[str]:
    """The members of each group's object."""
    requests, n_bytes = columns.d2c_ns.count[piece], columns.size_bytes.sum[piece]
    nulls = ["null"] * len(requests)
    is_queued = columns.is_queued[piece]
    queued = [
        nulls if quantity is None else _where(is_queued, _distributions(quantity, piece))
        for quantity in (columns.q2d_ns, columns.q2c_ns)
    ]
    load = columns.in_flight
    return map(
        _GROUP.__mod__,
        zip(
            requests,
            columns.errors[piece],
            n_bytes,
            _numbers(columns.per_s(requests)),
            _numbers(columns.per_s(n_bytes)),
            _distributions(columns.d2c_ns, piece),
            _distributions(columns.size_bytes, piece),
            columns.requeues[piece],
            ["null" if not r.count else _dumped(retried_dict(r)) for r in columns.retried[piece]],
            nulls if load is None else _loads(columns, load, piece),
            *queued,
            strict=True,
        ),
    )


_LOAD = "".join(
    (
        "{",
        _members("mean", "max", "end", "oldest_ns", "busy_fraction", "busy_ns", "request_ns"),
        "}",
    )
)


def _loads(columns: Columns, load: Loads, piece: slice) -> list[str]:
    busy = load.busy_ns[piece]
    values = zip(
        _numbers(columns.share(load.request_ns[piece])),
        load.max[piece],
        load.end[piece],
        load.oldest_ns[piece],
        _numbers(columns.share(busy)),
        _numbers(busy),
        load.request_ns[piece],
        strict=True,
    )
    return list(map(_LOAD.__mod__, values))


_DISTRIBUTION = "".join(
    (
        "{",
        _members("count", "sum", "sum_squares", "min", "mean", "max", "stddev"),
        ",",
        _members(*map(percentile_name, PERCENTILES)),
        ',"histogram":{"low":[%s],"high":[%s],"count":[%s]}}',
    )
)


def _distributions(quantity: Quantity, piece: slice) -> list[str]:
    """The object of each group's distribution."""
    num = quantity.count[piece]
    values = zip(
        num,
        quantity.sum[piece],
        quantity.sum_squares[piece],
        quantity.min[piece],
        _numbers(quantity.means(piece)),
        quantity.max[piece],
        _numbers(quantity.stddevs(piece)),
        *quantity.percentiles[piece].T.tolist(),
        *_histograms(quantity.histograms, piece),
        strict=True,
    )
    texts = list(map(_DISTRIBUTION.__mod__, values))
    starts = quantity.histograms.starts[piece.start : piece.stop + 1]
    # Where there is nothing, some of these figures are null.
    for at in np.flatnonzero((np.diff(starts) == 0) | (np.array(num) == 0)).tolist():
        texts[at] = _unusual(quantity, piece.start + at)
    return texts


def _unusual(quantity: Quantity, at: int) -> str:
    single = quantity.distribution(at)
    return _NOTHING if single == Distribution() else _dumped(distribution_dict(single, True))


_NOTHING = _dumped(distribution_dict(Distribution(), True))


def _histograms(histograms: Histograms, piece: slice) -> tuple[list[str], list[str], list[str]]:
    """The numbers in each group's ``low``, ``high`` and ``count``."""
    starts = histograms.starts[piece.start : piece.stop + 1]
    bins = histograms.bins[starts[0] : starts[-1]]
    counts = histograms.counts[starts[0] : starts[-1]]
    starts = starts - starts[0]
    lows, highs = _bounds()
    return (
        _joined(lows, bins, starts),
        _joined(highs, bins, starts),
        _joined(_small_counts(), counts, starts)
        if not len(counts) or counts.max() < COUNTS
        else _joined_by_one(counts, starts),
    )


class _Numbers(NamedTuple):
    """Numbers as text, each with a comma behind it, and how long that is."""

    texts: npt.NDArray[np.bytes_]
    lengths: npt.NDArray[np.intp]


def _numbers_of(numbers: Iterable[int]) -> _Numbers:
    texts = [b"%d," % number for number in numbers]
    return _Numbers(np.array(texts), np.array([len(text) for text in texts]))


def _joined(numbers: _Numbers, index: npt.NDArray[Any], starts: npt.NDArray[np.intp]) -> list[str]:
    """Some numbers of each stretch, with commas between them."""
    # Texts of one width stand side by side; what fills them up is deleted.
    text = "," + numbers.texts[index].tobytes().translate(None, b"\0").decode("ascii")
    ends = np.ones(len(index) + 1, np.intp)
    np.cumsum(numbers.lengths[index], out=ends[1:])
    ends[1:] += 1
    at = ends[starts].tolist()
    return [text[begin : end - 1] for begin, end in pairwise(at)]


def _joined_by_one(counts: npt.NDArray[np.uint64], starts: npt.NDArray[np.intp]) -> list[str]:
    """The same of any numbers."""
    texts = list(map(str, counts.tolist()))
    at = starts.tolist()
    return [",".join(texts[begin:end]) for begin, end in pairwise(at)]


@cache
def _bounds() -> tuple[_Numbers, _Numbers]:
    """The least and the greatest value of each bin."""
    low, high = bin_bounds(np.arange(N_BINS))
    return _numbers_of(low.tolist()), _numbers_of(high.tolist())


@cache
def _small_counts() -> _Numbers:
    return _numbers_of(range(COUNTS))


def _numbers(values: list[Any]) -> list[Any]:
    """Numbers that a template takes: None is null."""
    return ["null" if value is None else value for value in values] if None in values else values


def _where(conditions: list[bool], texts: list[str]) -> list[str]:
    return [text if is_so else "null" for is_so, text in zip(conditions, texts, strict=True)]
