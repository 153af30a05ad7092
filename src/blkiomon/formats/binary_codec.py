"""An interval as a few bytes, and back: what archives keep and machines hand to each other.

    4 bytes  "bkiv"
    1 byte   version
    n bytes  whole numbers from 0 to 2^64-1, 7 bits a byte, the lowest first; the bytes of a number
             but for its last have bit 7 set
    4 bytes  CRC-32 of all before, lowest byte first

A wide number is two of these, low word first; a signed one is wide, twice its value, or twice its
distance from -1 plus 1 if it is negative. A table is the number of its rows, then column by column;
what a column holds of a row stands together, and 128-bit sums are low and high word. The numbers
of a version, in this order:

- time_s, start_ns, end_ns (signed); clock; whether it is anchored
- how many counts there are, and each (wide)
- how many of the trace's files are missing (from version 2 on)
- the tables of rows, loads, queue rows and processes, and of requeues (from version 2 on)
- of rows d2c and sizes, and of queue rows q2d and q2c: of each row how many bins are not empty;
  each bin, less the one before it in its row; their counts
- how many names there are, the pids, when each was told (signed), how long each is, and the UTF-8
  bytes of all

Rows stand in the order of device, operation and direction, each of these once, so that equal
intervals are equal bytes. A version never changes; tests/golden holds an interval of each.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.errors import IntervalError
from blkiomon.formats import validation
from blkiomon.interval.distribution import N_BINS
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.moments import U64_MAX
from blkiomon.interval.value import Counts, Interval

MAGIC = b"bkiv"
VERSION = 2
CRC_BYTES = 4
MOST_BYTES = 10
"""Of one number."""

Numbers = npt.NDArray[np.uint64]

_CLOCKS = ("wall", "trace")
_COUNTS = (
    "records",
    "requests",
    "mismatches",
    "driver_data_records",
    "evicted",
    "lost_events",
    "sequence_gaps",
    "completions_without_issue",
    "skipped_bytes",
    "over_device_limit",
    "issues_without_completion",
)
_COUNTS_1 = _COUNTS[:10]
"""Those of version 1."""

# Spelt out, as what layout says may change, and what version 1 is may not.
_ROW = (
    *("device", "op", "direction", "errors", "requests"),
    *("d2c_us", "throughput", "d2c_ns", "size_bytes", "d2c_hist", "size_hist"),
)
_LOAD = ("device", "op", "in_flight", "max_in_flight", "oldest_ns", "busy_ns", "in_flight_ns")
_QUEUE_ROW = ("device", "op", "requests", "q2d_ns", "q2c_ns")
_RETRY_ROW = ("device", "op", "requeues", "requests", "f2c_ns")
_PROCESS = ("pid", "requests", "bytes")
_MOMENTS = ("min", "max", "sum", "sum_squares")

_ROW_KEY = ("device", "op", "direction")
_QUEUE_KEY = ("device", "op")


# --- out ------------------------------------------------------------------------------------------


def to_bytes(interval: Interval) -> bytes:
    """Return the whole interval in a few bytes: versioned, checked, the same on every machine.

    The order of ``devices`` and rows is not kept: intervals that were merged in another order or
    grouping give the same bytes.
    """
    cut = merge_snapshots([interval.snapshot])  # each row once
    rows, (d2c, size) = _in_order(cut.rows, (cut.d2c_bins, cut.size_bins), _ROW_KEY)
    queue_rows, (q2d, q2c) = _in_order(cut.queue_rows, (cut.q2d_bins, cut.q2c_bins), _QUEUE_KEY)
    numbers: list[Numbers] = [
        *map(_signed, (interval.time_s, interval.start_ns, interval.end_ns)),
        _array([_CLOCKS.index(interval.clock), int(interval.anchored), len(_COUNTS)]),
        *(_wide(getattr(interval.counts, name)) for name in _COUNTS),
        _array([interval.missing_files]),
        *_columns(rows, _ROW),
        *_columns(cut.loads, _LOAD),
        *_columns(queue_rows, _QUEUE_ROW),
        *_columns(cut.processes, _PROCESS),
        *_columns(_in_order(cut.retry_rows, (), _QUEUE_KEY)[0], _RETRY_ROW),
    ]
    for bins, of in ((d2c, rows), (size, rows), (q2d, queue_rows), (q2c, queue_rows)):
        numbers += _histograms(bins, len(of))
    numbers += _names(interval.process_names, interval.named_ns, interval.end_ns)
    data = MAGIC + bytes([VERSION]) + _packed(np.concatenate(numbers))
    return data + zlib.crc32(data).to_bytes(CRC_BYTES, "little")


def _in_order(rows: Table, bins: Iterable[Table], by: tuple[str, ...]) -> tuple[Table, list[Table]]:
    """Rows sorted by some fields, and their bins to match."""
    order = np.lexsort([rows[name] for name in reversed(by)])
    place = np.empty(len(rows), np.uint32)
    place[order] = np.arange(len(rows))
    moved = []
    for of_a_sort in bins:
        table = of_a_sort.copy()
        table["row"] = place[table["row"]]
        moved.append(table.take(np.lexsort((table["bin"], table["row"]))))
    return rows.take(order), moved


def _array(values: Iterable[int]) -> Numbers:
    return np.array(list(values), np.uint64)


def _wide(value: int) -> Numbers:
    if not 0 <= value < 1 << 128:
        raise ValueError(f"an interval does not hold a number such as {value}")
    return _array((value & U64_MAX, value >> 64))


def _signed(value: int) -> Numbers:
    return _wide(2 * value if value >= 0 else -2 * value - 1)


def _columns(table: Table, names: Iterable[str]) -> list[Numbers]:
    found = [_array([len(table)])]
    for name in names:
        column = table[name]
        parts = [column[part] for part in _MOMENTS] if _is_moments(column.dtype) else [column]
        found += [part.astype(np.uint64).reshape(-1) for part in parts]
    return found


def _is_moments(dtype: np.dtype[np.void]) -> bool:
    return bool(dtype == layout.MOMENTS)


def _histograms(bins: Table, n_rows: int) -> list[Numbers]:
    row, number = bins["row"].astype(np.int64), bins["bin"].astype(np.int64)
    lengths = np.bincount(row, minlength=n_rows)
    steps = np.diff(number, prepend=0)
    firsts = np.flatnonzero(np.diff(row, prepend=-1))
    steps[firsts] = number[firsts]
    return [lengths.astype(np.uint64), steps.astype(np.uint64), bins["count"].astype(np.uint64)]


def _names(names: Mapping[int, str], named_ns: Mapping[int, int], end_ns: int) -> list[Numbers]:
    pids = sorted(names)
    # A name is a process's own choice: it need not be text.
    texts = [names[pid].encode("utf-8", "surrogatepass") for pid in pids]
    return [
        _array([len(pids), *pids]),
        *(_signed(named_ns.get(pid, end_ns)) for pid in pids),
        _array(map(len, texts)),
        np.frombuffer(b"".join(texts), np.uint8).astype(np.uint64),
    ]


def _packed(numbers: Numbers) -> bytes:
    """Seven bits a byte."""
    shifts = np.arange(MOST_BYTES, dtype=np.uint64) * np.uint64(7)
    rest = numbers[:, np.newaxis] >> shifts
    has_more = rest > np.uint64(0x7F)
    pieces = (rest & np.uint64(0x7F)).astype(np.uint8) | has_more.astype(np.uint8) << 7
    is_there = rest > 0
    is_there[:, 0] = True
    return bytes(pieces[is_there])


# --- and back -------------------------------------------------------------------------------------


def from_bytes(data: bytes) -> Interval:
    """Return the interval that ``to_bytes`` made this of, its devices ordered by number.

    Raises:
        IntervalError: the bytes are not an interval, are damaged, are of an unknown version, or
            its figures contradict each other.
    """
    data = bytes(data)
    head = len(MAGIC) + 1
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise IntervalError(f"this is no interval: it begins with {data[: len(MAGIC)]!r}")
    if len(data) < head + CRC_BYTES:
        raise IntervalError(f"this interval is cut short: {len(data)} bytes")
    version = data[len(MAGIC)]
    if not 1 <= version <= VERSION:
        raise IntervalError(
            f"this interval is of version {version}, and versions 1 to {VERSION} are known: "
            "a later blkiomon wrote it"
        )
    if zlib.crc32(data[:-CRC_BYTES]) != int.from_bytes(data[-CRC_BYTES:], "little"):
        raise IntervalError("this interval is damaged or cut short: its checksum does not match")
    source = _Reader(_unpacked(data[head:-CRC_BYTES]))
    interval = _read(source, version)
    source.end()
    validation.check(interval)
    return interval


def _unpacked(data: bytes) -> Numbers:
    pieces: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(pieces < 0x80)
    if len(pieces) and (not len(ends) or ends[-1] != len(pieces) - 1):
        raise IntervalError("this interval ends inside a number")
    if not len(pieces):
        return np.empty(0, np.uint64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends + 1 - starts
    if lengths.max() > MOST_BYTES or (pieces[ends[lengths == MOST_BYTES]] > 1).any():
        raise IntervalError("this interval has a number of more than 64 bits")
    shifts = 7 * (np.arange(len(pieces)) - np.repeat(starts, lengths))
    shifted = (pieces & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    numbers: Numbers = np.add.reduceat(shifted, starts)
    return numbers


@dataclass
class _Reader:
    """Takes numbers one behind the other, and says so when there are none left."""

    numbers: Numbers
    at: int = 0

    def take(self, n: int) -> Numbers:
        if n > len(self.numbers) - self.at:
            raise IntervalError("this interval ends too early")
        self.at += n
        return self.numbers[self.at - n : self.at]

    def one(self, most: int = U64_MAX) -> int:
        value = int(self.take(1)[0])
        if value > most:
            raise IntervalError(f"this interval says {value} where at most {most} can be")
        return value

    def wide(self) -> int:
        low, high = self.take(2).tolist()
        return int(high << 64 | low)

    def signed(self) -> int:
        value = self.wide()
        return -(value // 2) - 1 if value & 1 else value // 2

    def table(self, dtype: np.dtype[np.void], names: Sequence[str]) -> Table:
        n = self.one()
        self._expect(n * sum(map(len, _columns(np.zeros(1, dtype), names)[1:])))
        table = np.zeros(n, dtype)
        for name in names:
            column = table[name]
            for part in _MOMENTS if _is_moments(column.dtype) else (None,):
                self._fill(column if part is None else column[part])
        return table

    def _fill(self, column: npt.NDArray[Any]) -> None:
        values = self.take(column.size).reshape(column.shape)
        if values.size and values.max() > np.iinfo(column.dtype).max:
            raise IntervalError("this interval has a number that is too large for its place")
        column[...] = values

    def histograms(self, n_rows: int, n_bins: int) -> Table:
        lengths = self.take(n_rows)
        n = sum(lengths.tolist())
        self._expect(n)
        steps = self.take(n)
        bins = np.empty(n, layout.BIN)
        bins["row"] = np.repeat(np.arange(n_rows), lengths.astype(np.intp))
        if n:
            if steps.max() >= n_bins:
                raise IntervalError("this interval has a bin that is none")
            upto = np.cumsum(steps.astype(np.int64))
            firsts = np.flatnonzero(np.diff(bins["row"].astype(np.int64), prepend=-1))
            before = np.concatenate(([0], upto))[firsts]
            number = upto - np.repeat(before, np.diff(firsts, append=n))
            bins["bin"] = np.minimum(number, n_bins)  # more is out of range as well
        bins["count"] = self.take(n)
        return bins

    def names(self) -> tuple[dict[int, str], dict[int, int]]:
        n = self.one()
        pids = self.take(n).tolist()
        told_ns = [self.signed() for _ in range(n)]
        lengths = self.take(n).tolist()
        names = {}
        for pid, length in zip(pids, lengths):
            letters = self.take(length)
            if len(letters) and letters.max() > 0xFF:
                raise IntervalError("this interval has a name of what are no bytes")
            try:
                names[pid] = letters.astype(np.uint8).tobytes().decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise IntervalError(f"this interval has a name that is no UTF-8: {error}") from None
        return names, dict(zip(pids, told_ns))

    def _expect(self, n: int) -> None:
        """Refuse what cannot be before memory is asked for."""
        if n > len(self.numbers) - self.at:
            raise IntervalError("this interval ends too early")

    def end(self) -> None:
        if self.at != len(self.numbers):
            raise IntervalError(
                f"this interval has {len(self.numbers) - self.at} numbers behind its end"
            )


def _read(source: _Reader, version: int) -> Interval:
    time_s, start_ns, end_ns = (source.signed() for _ in range(3))
    clock = _CLOCKS[source.one(len(_CLOCKS) - 1)]
    is_anchored = bool(source.one(1))
    names = _COUNTS_1 if version == 1 else _COUNTS
    if source.one() != len(names):
        raise IntervalError(f"this interval has not the {len(names)} counts of version {version}")
    counts = Counts(**{name: source.wide() for name in names})
    missing_files = source.one() if version > 1 else 0
    rows = source.table(layout.ROW, _ROW)
    loads = source.table(layout.LOAD, _LOAD)
    queue_rows = source.table(layout.QUEUE_ROW, _QUEUE_ROW)
    processes = source.table(layout.PROCESS, _PROCESS)
    retry_rows = np.zeros(0, layout.RETRY_ROW)
    if version > 1:
        retry_rows = source.table(layout.RETRY_ROW, _RETRY_ROW)
    cut = Snapshot(
        rows=rows,
        loads=loads,
        queue_rows=queue_rows,
        retry_rows=retry_rows,
        processes=processes,
        d2c_bins=source.histograms(len(rows), N_BINS),
        size_bins=source.histograms(len(rows), N_BINS),
        q2d_bins=source.histograms(len(queue_rows), N_BINS),
        q2c_bins=source.histograms(len(queue_rows), N_BINS),
    )
    process_names, told_ns = source.names()
    return Interval(
        time_s=time_s,
        devices=np.unique(rows["device"]),
        snapshot=cut,
        counts=counts,
        start_ns=start_ns,
        end_ns=end_ns,
        clock=clock,
        anchored=is_anchored,
        process_names=process_names,
        missing_files=missing_files,
        named_ns={pid: at_ns for pid, at_ns in told_ns.items() if at_ns != end_ns},
    )
