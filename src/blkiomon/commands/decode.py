"""``blkiomon decode``: reads statistics files written with ``-b``; prints text, JSON or CSV."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.commands.options import HELP, OVERWRITE, Command, Option
from blkiomon.commands.parsing import read
from blkiomon.console import EXIT_INPUT, EXIT_OUTPUT, complain, how_many, printed
from blkiomon.engine import layout
from blkiomon.errors import SourceError, StatsError
from blkiomon.formats import csv, human_text
from blkiomon.formats.units import device_text
from blkiomon.interval.moments import U64_MAX, Moments
from blkiomon.interval.value import DeviceStats
from blkiomon.outputs.opening import Policy, check_output, identity
from blkiomon.sources.file_kinds import HEAD_BYTES, described

COMMAND = Command(
    "decode",
    ("blkiomon decode FILE [--text|--json|--csv]",),
    """
    Print statistics files written with -b. The layout, 0.3 or 0.2, is recognized. FILE may be - for
    standard input.
    """,
    (
        Option("--text", "as -h prints it (default)"),
        Option("--json", "JSON Lines, one line per struct"),
        Option("--csv", "one row per struct"),
        OVERWRITE._replace(
            help="write to standard output even if that is a file that begins like a trace"
        ),
        HELP,
    ),
)

_LAYOUTS = {"0.3": layout.STATS_03, "0.2": layout.STATS_02}
_QUANTITIES = {"size": "size_bytes", "d2c": "d2c_us", "thrput": "throughput_bytes_per_ms"}
_DIRECTIONS = {"r": "read", "w": "write"}
_MOMENTS = [f"{quantity}_{direction}" for quantity in _QUANTITIES for direction in _DIRECTIONS]

PIECE_BYTES = 16 * layout.STATS_03.itemsize * layout.STATS_02.itemsize
"""A whole number of structs of either layout."""

MAX_TIME_S = 1 << 36
"""The year 4147: later times are not plausible."""


class Stats(NamedTuple):
    """What a file holds.

    ``records`` has shape (n,), dtype ``layout.STATS``; ``tail_bytes`` follow the last record, too
    few for a struct.
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
        StatsError: the file is not one, or ends inside a struct.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return np.concatenate([stats.records for stats in read_pieces(file)])


def read_pieces(file: BinaryIO) -> Iterator[Stats]:
    """The structs of a file of any length, piece by piece; there is at least one piece.

    Raises:
        StatsError: the file is not one, or ends inside a struct. Everything before was yielded.
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
    dtype = _LAYOUTS[version]
    records = _native(np.frombuffer(data, dtype, len(data) // dtype.itemsize))
    fine = _is_plausible(records)
    if not fine.all():
        offset += int(np.argmin(fine)) * dtype.itemsize
        raise StatsError(offset, _no_more(offset, version))
    return Stats(version, records, len(data) % dtype.itemsize)


def parse(data: bytes) -> Stats:
    """The structs at the beginning of some bytes, of the layout that makes sense of all of them.

    The right layout is the one whose figures are consistent: each request is once in either
    histogram, and is a read, a write or bidirectional.

    Raises:
        StatsError: neither layout fits.
    """
    if not data:
        return Stats("0.3", np.empty(0, layout.STATS), 0)
    fitting = []
    for version, dtype in _LAYOUTS.items():
        whole = len(data) // dtype.itemsize
        records = _native(np.frombuffer(data, dtype, whole))
        if whole and _is_plausible(records).all():
            fitting.append(Stats(version, records, len(data) % dtype.itemsize))
    if not fitting:
        raise StatsError(*_explain(data))
    return min(fitting, key=lambda stats: stats.tail_bytes)


def _native(wire: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """In host byte order, with empty fields for what 0.2 does not have."""
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
    num = records["size_r"]["count"] + records["size_w"]["count"] + records["bidir"]
    adds_up: npt.NDArray[np.bool_] = histogram.sum(axis=1, dtype=np.uint32) == num.astype(np.uint32)
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
    for direction in _DIRECTIONS:
        fine &= records[f"size_{direction}"]["count"] == records[f"d2c_{direction}"]["count"]
    return fine


def _explain(data: bytes) -> tuple[int, str]:
    """Where the layout that fits longest fails, and the message."""
    size = min(dtype.itemsize for dtype in _LAYOUTS.values())
    if len(data) < size:
        there = how_many(len(data), "byte is", "bytes are")
        return 0, f"{there} less than one struct of statistics ({size})"
    best_offset, best_version = 0, "0.3"
    for version, dtype in _LAYOUTS.items():
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
    offset += len(stats.records) * _LAYOUTS[stats.version].itemsize
    tail = how_many(stats.tail_bytes, "byte is", "bytes are")
    return StatsError(
        offset,
        f"at byte offset {offset}: the last {tail} less than one struct of layout {stats.version}",
    )


def device_stats(record: np.void) -> DeviceStats:
    """One struct as the outputs see it."""
    moments = {name: Moments(*record[name].tolist()) for name in _MOMENTS}
    return DeviceStats(
        device=int(record["device"]),
        **moments,
        size_hist=tuple(record["size_hist"].tolist()),
        d2c_hist=tuple(record["d2c_hist"].tolist()),
        bidir=int(record["bidir"]),
    )


# --- the command ----------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Run ``blkiomon decode`` with the arguments after these words; returns the exit status."""
    given = read(COMMAND, argv)
    if isinstance(given, int):
        return given
    rest = given.names
    if len(rest) != 1 or not rest[0] or "\0" in rest[0]:
        return COMMAND.misused("decode takes one file, or - for standard input")
    chosen = [kind for kind in _RENDERERS if getattr(given, kind)]
    if len(chosen) > 1:
        return COMMAND.misused("decode prints one of text, JSON and CSV")
    name = "standard input" if rest[0] == "-" else rest[0]
    render = _RENDERERS[chosen[0] if chosen else "text"]
    try:
        inputs = [] if rest[0] == "-" else [identity(Path(rest[0]).stat())]
    except OSError as error:
        complain(f"{name}: {error.strerror}")
        return EXIT_INPUT
    try:
        check_output("-", Policy(overwrite=given.overwrite, inputs=frozenset(inputs)))
    except OSError as error:
        complain(f"could not write to standard output: {error.strerror}")
        return EXIT_OUTPUT
    head = b""
    try:
        with _opened(rest[0]) as file:
            head = file.peek()[:HEAD_BYTES]
            pieces = read_pieces(file)
            first = next(pieces)
            records = chain.from_iterable(piece.records for piece in chain([first], pieces))
            return printed(render(first.version, records))
    except StatsError as error:
        complain((described(head, name) if not error.offset else None) or f"{name}: {error}")
        return EXIT_INPUT
    except (OSError, SourceError) as error:
        complain(f"{name}: {error.strerror if isinstance(error, OSError) else error}")
        return EXIT_INPUT


def _opened(name: str) -> BufferedReader:
    """A file, or standard input. Raises OSError."""
    if name != "-":
        return Path(name).open("rb")
    return open(0, "rb", closefd=False)


Records = Iterable[np.void]


def _text(version: str, records: Records) -> Iterator[str]:
    for record in records:
        yield human_text.text(time.ctime(int(record["time"])), device_stats(record), version)


def _figures(version: str, record: np.void) -> dict[str, dict[str, dict[str, Any] | None]]:
    """By direction and quantity; None if the layout lacks the quantity."""
    return {
        direction: {
            name: None
            if quantity == "thrput" and version == "0.2"
            else _moments(Moments(*record[f"{quantity}_{letter}"].tolist()))
            for quantity, name in _QUANTITIES.items()
        }
        for letter, direction in _DIRECTIONS.items()
    }


def _moments(m: Moments) -> dict[str, Any]:
    some = m.count > 0
    return {
        "count": m.count,
        "min": m.min if some else None,
        "max": m.max if some else None,
        "sum": m.sum,
        "sum_squares": m.sum_squares,
        "mean": m.avg if some else None,
        "variance": _variance(m),
    }


def _variance(m: Moments) -> float | None:
    """Of the population; None without requests, or if the sums overflowed the file's 64 bits."""
    square = m.count * m.sum_squares - m.sum * m.sum
    return square / (m.count * m.count) if m.count and square >= 0 else None


def _limits(delta: int, buckets: int) -> list[int | None]:
    """Inclusive upper limits of the original's buckets; None for the last one."""
    return [0, *(delta << i for i in range(buckets - 2)), None]


_HISTOGRAMS = {
    "size_bytes": ("size_hist", _limits(layout.SIZE_DELTA, layout.SIZE_BUCKETS)),
    "d2c_us": ("d2c_hist", _limits(layout.D2C_DELTA, layout.D2C_BUCKETS)),
}


def _head(record: np.void) -> dict[str, Any]:
    seconds = int(record["time"])
    return {
        "time_s": seconds,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
        "device": device_text(int(record["device"])),
    }


def _json(version: str, records: Records) -> Iterator[str]:
    for record in records:
        histograms = {
            f"{name}_histogram": {"upto": limits, "count": record[field].tolist()}
            for name, (field, limits) in _HISTOGRAMS.items()
        }
        line = {
            "layout": version,
            **_head(record),
            **_figures(version, record),
            "bidirectional": int(record["bidir"]),
            **histograms,
        }
        yield json.dumps(line, separators=(",", ":")) + "\n"


def _csv(version: str, records: Records) -> Iterator[str]:
    names = [*_MOMENT_NAMES]
    for name, (_, limits) in _HISTOGRAMS.items():
        names += [f"{name}_upto_{'inf' if limit is None else limit}" for limit in limits]
    yield csv.lines([["time_s", "time", "device", *names, "bidirectional"]]).decode()
    for record in records:
        figures = [
            value
            for of_direction in _figures(version, record).values()
            for moments in of_direction.values()
            for value in (moments or dict.fromkeys(_NO_MOMENTS)).values()
        ]
        counts = [n for field, _ in _HISTOGRAMS.values() for n in record[field].tolist()]
        values = [*_head(record).values(), *figures, *counts, int(record["bidir"])]
        yield csv.lines([values]).decode()


_NO_MOMENTS = _moments(Moments())
_MOMENT_NAMES = [
    f"{direction}_{name}_{figure}"
    for direction in _DIRECTIONS.values()
    for name in _QUANTITIES.values()
    for figure in _NO_MOMENTS
]
_RENDERERS: dict[str, Callable[[str, Records], Iterator[str]]] = {
    "text": _text,
    "json": _json,
    "csv": _csv,
}
