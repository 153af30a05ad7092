"""``blkiomon decode``: reads statistics files written with ``-b``; prints text, JSON or CSV."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from blkiomon.commands.options import (
    DEVICE,
    FROM,
    HELP,
    OVERWRITE,
    TO,
    Command,
    Option,
    Period,
    UsageError,
)
from blkiomon.commands.parsing import parsed
from blkiomon.commands.views import device_numbers
from blkiomon.console import EXIT_INPUT, EXIT_OUTPUT, complain, printed
from blkiomon.engine import layout
from blkiomon.errors import SourceError, StatsError
from blkiomon.formats import csv, human_text
from blkiomon.formats.stats_reader import DIRECTIONS, QUANTITIES, device_stats, read_pieces
from blkiomon.formats.units import device_text, utc
from blkiomon.interval.columns import NS_PER_S
from blkiomon.interval.moments import Moments
from blkiomon.outputs.opening import Policy, check_output, identity
from blkiomon.sources.file_kinds import HEAD_BYTES, described

COMMAND = Command(
    "decode",
    ("blkiomon decode [OPTION]... FILE",),
    """
    Print statistics files written with -b. The layout, 0.3 or 0.2, is recognized. FILE may be - for
    standard input. A struct holds reads and writes of a device in an interval; its time is the end
    of the interval.
    """,
    (
        Option("--text", "as -h prints it (default)"),
        Option("--json", "JSON Lines, one line per struct"),
        Option("--csv", "one row per struct"),
        DEVICE,
        FROM._replace(help="begin this long after the first struct, or at this time"),
        TO,
        OVERWRITE._replace(
            help="write to standard output even if that is a file that begins like a trace"
        ),
        HELP,
    ),
)


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon decode`` with these options; returns the exit status."""
    rest = given.operands
    if len(rest) != 1 or not rest[0] or "\0" in rest[0]:
        raise UsageError("decode takes one file, or - for standard input")
    selected = _Selected(device_numbers(given.device), Period.of(given))
    chosen = [kind for kind in _RENDERERS if getattr(given, kind)]
    if len(chosen) > 1:
        raise UsageError("decode prints one of text, JSON and CSV")
    name = "standard input" if rest[0] == "-" else rest[0]
    render = _RENDERERS[chosen[0] if chosen else "text"]
    try:
        inputs = [] if rest[0] == "-" else [identity(Path(rest[0]).stat())]
    except OSError as error:
        complain(_why(name, error))
        return EXIT_INPUT
    try:
        check_output("-", Policy(overwrite=given.overwrite, inputs=frozenset(inputs)))
    except OSError as error:
        complain(f"could not write to standard output: {error.strerror}")
        return EXIT_OUTPUT
    head = b""
    try:
        with open(0 if rest[0] == "-" else rest[0], "rb", closefd=rest[0] != "-") as file:
            head = file.peek()[:HEAD_BYTES]
            pieces = read_pieces(file)
            first = next(pieces)
            records = chain.from_iterable(piece.records for piece in chain([first], pieces))
            status = printed(render(first.version, selected.of(records)))
            if not (status or selected.count) and (why := selected.emptiness):
                complain(f"{name}: {why}")
                return EXIT_INPUT
            return status
    except StatsError as error:
        complain((described(head, name) if not error.offset else None) or f"{name}: {error}")
        return EXIT_INPUT
    except OSError as error:
        complain(_why(name, error))
        return EXIT_INPUT


def _why(name: str, error: OSError) -> str:
    """Why a file cannot be read; a set of traces has the name of no file, or of a directory."""
    from blkiomon.commands.naming import is_trace

    if isinstance(error, FileNotFoundError | IsADirectoryError) and is_trace(name):
        return f"{name} is a block trace: use `blkiomon {name}`"
    return f"{name}: {error if isinstance(error, SourceError) else error.strerror}"


Records = Iterable[np.void]


class _Selected:
    """Selects structs.

    Args:
        devices: their numbers; empty: all.
        period: when their intervals end; relative to the first struct, unless it is absolute.

    Attributes:
        count: how many were selected.
    """

    def __init__(self, devices: Sequence[int], period: Period) -> None:
        self.count = 0
        self._wanted = frozenset(devices)
        self._period = period
        self._there: set[int] = set()
        self._times: list[int] = []  # the first and the last, in s

    def of(self, records: Records) -> Iterator[np.void]:
        """Those of these structs that are selected."""
        from_ns, to_ns, is_absolute = self._period
        for record in records:
            device, time_s = int(record["device"]), int(record["time"])
            self._there.add(device)
            self._times = [*self._times[:1], time_s]
            time_ns = (time_s - (0 if is_absolute else self._times[0])) * NS_PER_S
            is_within = (from_ns or 0) <= time_ns and (to_ns is None or time_ns < to_ns)
            if is_within and (not self._wanted or device in self._wanted):
                self.count += 1
                yield record

    @property
    def emptiness(self) -> str | None:
        """Why no struct was selected; None if the file has none."""
        if not self._times:
            return None
        if missing := self._wanted - self._there:
            wanted, there = (", ".join(map(device_text, sorted(s))) for s in (missing, self._there))
            return f"no struct of {wanted}; there are some of {there}"
        first, last = (utc(time_s * NS_PER_S) for time_s in (self._times[0], self._times[-1]))
        return f"no struct between --from and --to; their times are from {first} to {last}"


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
            for quantity, name in QUANTITIES.items()
        }
        for letter, direction in DIRECTIONS.items()
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
    for direction in DIRECTIONS.values()
    for name in QUANTITIES.values()
    for figure in _NO_MOMENTS
]
_RENDERERS: dict[str, Callable[[str, Records], Iterator[str]]] = {
    "text": _text,
    "json": _json,
    "csv": _csv,
}
