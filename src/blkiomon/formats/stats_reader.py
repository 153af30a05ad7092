"""Reads statistics files written with ``-b`` by either program, of layout 0.3 or 0.2."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.console import how_many
from blkiomon.engine import layout
from blkiomon.errors import SourceError, StatsError
from blkiomon.interval.arguments import wrong
from blkiomon.interval.moments import U64_MAX, Moments
from blkiomon.interval.value import DeviceStats

LAYOUTS = {"0.3": layout.STATS_03, "0.2": layout.STATS_02}
QUANTITIES = {"size": "size_bytes", "d2c": "d2c_us", "thrput": "throughput_bytes_per_ms"}
DIRECTIONS = {"r": "read", "w": "write"}
_MOMENTS = [f"{quantity}_{direction}" for quantity in QUANTITIES for direction in DIRECTIONS]

PIECE_BYTES = 16 * layout.STATS_03.itemsize * layout.STATS_02.itemsize
"""A whole number of structs of either layout."""

MAX_TIME_S = 1 << 36
"""The year 4147: later times are not plausible."""


class Stats(NamedTuple):
    """The structs of a file.

    Attributes:
        version: the layout, "0.3" or "0.2".
        records: shape (n,), dtype ``layout.STATS``.
        tail_bytes: how many bytes follow the last struct, too few for another one.
    """

    version: str
    records: npt.NDArray[np.void]
    tail_bytes: int


def read_stats(path: str | os.PathLike[str]) -> npt.NDArray[np.void]:
    """The structs of a file that was written with ``-b``, of layout 0.3 or 0.2.

    Returns:
        Shape (n,), dtype ``layout.STATS``, in host byte order and the order of the file. In 0.2
        there was no throughput: those fields are empty (``count`` 0, ``min`` 2^64-1).

    Raises:
        StatsError: it is not a statistics file, or ends inside a struct.
        OSError: it cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise wrong("path", "text or a Path", path)
    with Path(path).open("rb") as file:
        return np.concatenate([stats.records for stats in read_pieces(file)])


def read_pieces(file: BinaryIO) -> Iterator[Stats]:
    """The structs of a file of any length, piece by piece; there is at least one piece.

    Raises:
        StatsError: it is not a statistics file, or ends inside a struct. Everything before was
            yielded.
        SourceError: it cannot be read.
    """
    offset = 0
    version: str | None = None
    while True:
        try:
            data = file.read(PIECE_BYTES)
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}") from error
        stats = parse(data) if version is None else _next_piece(data, version, offset)
        if data or version is None:
            yield stats
        if stats.tail_bytes:
            raise _tail_error(stats, offset)
        if len(data) < PIECE_BYTES:
            return
        version = stats.version
        offset += len(data)


def _next_piece(data: bytes, version: str, offset: int) -> Stats:
    """The structs of bytes at an offset of a file with a known layout."""
    dtype = LAYOUTS[version]
    records = _native(np.frombuffer(data, dtype, len(data) // dtype.itemsize))
    fine = _is_plausible(records)
    if not fine.all():
        offset += int(np.argmin(fine)) * dtype.itemsize
        raise StatsError(offset, _no_more(offset, version))
    return Stats(version, records, len(data) % dtype.itemsize)


def parse(data: bytes) -> Stats:
    """The structs at the beginning of some bytes, whose layout is recognized by their figures.

    With the right layout, each request is counted once in each of the two histograms, and is a
    read, a write or bidirectional.

    Raises:
        StatsError: neither layout fits.
    """
    if not data:
        return Stats("0.3", np.empty(0, layout.STATS), 0)
    fitting = []
    for version, dtype in LAYOUTS.items():
        whole = len(data) // dtype.itemsize
        records = _native(np.frombuffer(data, dtype, whole))
        if whole and _is_plausible(records).all():
            fitting.append(Stats(version, records, len(data) % dtype.itemsize))
    if not fitting:
        raise StatsError(*_explain(data))
    return min(fitting, key=lambda stats: stats.tail_bytes)


def begins_like_stats(head: bytes | bytearray) -> bool:
    """Whether the first bytes of a file are a struct, or the beginning of one."""
    if len(head) < layout.STATS_02.itemsize:
        return 0 < int.from_bytes(head[:8], "big") < MAX_TIME_S
    return any(
        bool(_is_plausible(_native(np.frombuffer(head, dtype, 1))).all())
        for dtype in LAYOUTS.values()
        if len(head) >= dtype.itemsize
    )


def _native(wire: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Convert structs to host byte order; fields that layout 0.2 lacks are empty."""
    records = np.zeros(len(wire), layout.STATS)
    for name in _MOMENTS:
        records[name]["min"] = U64_MAX
    for name in wire.dtype.names or ():
        records[name] = wire[name]
    if wire.dtype == layout.STATS_02:
        # The original's 0.2 leaves the last bucket in the byte order of its host.
        for name in ("size_hist", "d2c_hist"):
            swapped = records[name].copy()
            swapped[:, -1] = swapped[:, -1].byteswap()
            use = ~_adds_up(records, records[name]) & _adds_up(records, swapped)
            records[name][use] = swapped[use]
    return records


def _adds_up(records: npt.NDArray[np.void], histogram: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    count = records["size_r"]["count"] + records["size_w"]["count"] + records["bidir"]
    adds_up: npt.NDArray[np.bool_] = histogram.sum(axis=1, dtype=np.uint32) == count.astype("u4")
    return adds_up


def _is_plausible(records: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    fine = _adds_up(records, records["size_hist"]) & _adds_up(records, records["d2c_hist"])
    fine &= records["time"] < MAX_TIME_S
    for name in _MOMENTS:
        moments = records[name]
        fine &= np.where(
            moments["count"] == 0,
            (moments["min"] == U64_MAX) & (moments["max"] == 0),
            moments["min"] <= moments["max"],
        )
    for direction in DIRECTIONS:
        fine &= records[f"size_{direction}"]["count"] == records[f"d2c_{direction}"]["count"]
    return fine


def _explain(data: bytes) -> tuple[int, str]:
    """The offset at which the better fitting layout ends, and the message."""
    size = min(dtype.itemsize for dtype in LAYOUTS.values())
    if len(data) < size:
        there = how_many(len(data), "byte is", "bytes are")
        return 0, f"{there} less than one struct of statistics ({size})"
    best_offset, best_version = 0, "0.3"
    for version, dtype in LAYOUTS.items():
        fine = _is_plausible(_native(np.frombuffer(data, dtype, len(data) // dtype.itemsize)))
        offset = int(np.argmin(np.append(fine, False))) * dtype.itemsize
        if offset > best_offset:
            best_offset, best_version = offset, version
    if not best_offset:
        return 0, "not a statistics file written with -b, of layout 0.3 or 0.2"
    return best_offset, _no_more(best_offset, best_version)


def _no_more(offset: int, version: str) -> str:
    return f"at byte offset {offset}: the statistics of layout {version} end, other bytes follow"


def _tail_error(stats: Stats, offset: int) -> StatsError:
    offset += len(stats.records) * LAYOUTS[stats.version].itemsize
    tail = how_many(stats.tail_bytes, "byte is", "bytes are")
    return StatsError(
        offset,
        f"at byte offset {offset}: the last {tail} less than one struct of layout {stats.version}",
    )


def device_stats(record: np.void) -> DeviceStats:
    """A struct as a ``DeviceStats``."""
    moments = {name: Moments(*record[name].tolist()) for name in _MOMENTS}
    return DeviceStats(
        device=int(record["device"]),
        **moments,
        size_hist=tuple(record["size_hist"].tolist()),
        d2c_hist=tuple(record["d2c_hist"].tolist()),
        bidir=int(record["bidir"]),
    )
