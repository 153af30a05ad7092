"""Read the intervals of files that ``-b`` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from blkiomon.console import how_many
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.errors import SourceError, StatsError
from blkiomon.formats import stats_reader
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.moments import U64_MAX, U128_MAX, to_words
from blkiomon.interval.value import Counts, Interval, in_order

MOST_FILE_BYTES = 1 << 27
"""Limit of a file, which is read in one piece."""

MOST_REQUESTS = 1 << 40
"""Limit of the requests in one struct, so that those of a file add up in 64 bits."""

LEAST_TIME_S = 10**8
"""A time below counts from the trace's first record, and not from 1970."""


def read_structs(names: Sequence[str], devices: Sequence[int]) -> tuple[Table, list[str]]:
    """The structs of some files that are of these devices, or of all.

    Returns:
        Structs of shape (n,), dtype ``layout.STATS``, and notes about files that end inside one.

    Raises:
        SourceError: a file cannot be read, or was not written by ``-b``.
    """
    parts, notes = [], []
    for name in names:
        try:
            if Path(name).stat().st_size > MOST_FILE_BYTES:
                limit = f"{MOST_FILE_BYTES >> 20} MiB, the limit for files of -b"
                raise SourceError(f"{name} is larger than {limit}")
            stats = stats_reader.parse(Path(name).read_bytes())
        except SourceError:
            raise
        except OSError as error:
            raise SourceError(f"cannot read {name}: {error.strerror}") from error
        except StatsError as error:
            raise SourceError(f"{name}: {error}") from error
        if stats.tail_bytes:
            tail = how_many(stats.tail_bytes, "byte is", "bytes are")
            notes.append(f"{name}: the last {tail} not a whole struct")
        for moments in (stats.records["size_r"], stats.records["size_w"]):
            if int(moments["count"].max(initial=0)) > MOST_REQUESTS:
                raise SourceError(f"{name}: a number of requests is out of range")
        parts.append(stats.records)
    structs = np.concatenate(parts)
    return (structs[np.isin(structs["device"], devices)] if devices else structs), notes


def intervals_of(structs: Table) -> Iterator[Interval]:
    """The intervals of some structs: each ends at their time, and begins where the last ended."""
    structs = structs[np.argsort(structs["time"], kind="stable")]
    ends, firsts = np.unique(structs["time"], return_index=True)
    if not len(ends):
        yield Interval(time_s=0, devices=np.empty(0, np.uint32))
        return
    usual_s = int(np.median(np.diff(ends))) if len(ends) > 1 else 0
    starts = [int(ends[0]) - usual_s, *ends[:-1].tolist()]
    for part, start_s, end_s in zip(np.split(structs, firsts[1:]), starts, ends.tolist()):
        rows = _rows_of(part)
        yield Interval(
            time_s=end_s,
            devices=in_order(rows["device"]),
            snapshot=Snapshot(rows=rows),
            counts=Counts(requests=int(rows["requests"].sum())),
            start_ns=start_s * NS_PER_S,
            end_ns=end_s * NS_PER_S,
            anchored=int(ends[0]) >= LEAST_TIME_S,
        )


def _rows_of(structs: Table) -> Table:
    """Reads and writes of each struct as rows of dtype ``layout.ROW``."""
    rows = np.zeros(2 * len(structs), layout.ROW)
    for direction, letter in enumerate("rw"):
        part = rows[direction::2]
        part["device"], part["op"], part["direction"] = structs["device"], direction, direction
        size, d2c = structs[f"size_{letter}"], structs[f"d2c_{letter}"]
        part["requests"] = size["count"]
        for name, moments, factor in (("size_bytes", size, 1), ("d2c_ns", d2c, 1000)):
            part[name]["min"] = np.where(moments["count"] > 0, moments["min"] * factor, U64_MAX)
            part[name]["max"] = moments["max"] * factor
            sums = [(int(m["count"]), int(m["sum"]), int(m["sum_squares"])) for m in moments]
            part[name]["sum"] = to_words(total * factor for _, total, _ in sums)
            # The struct's 64 bits may not have held the squares.
            part[name]["sum_squares"] = to_words(
                squared * factor**2 if total * total <= count * squared else U128_MAX
                for count, total, squared in sums
            )
        # The histograms are of both directions: they stay with the reads.
        if direction == 0:
            part["d2c_hist"], part["size_hist"] = structs["d2c_hist"], structs["size_hist"]
    rows = rows.compress((rows["requests"] > 0) | (rows["d2c_hist"].sum(axis=1) > 0))
    for name in ("d2c_us", "throughput"):
        rows[name]["min"] = U64_MAX
    return rows
