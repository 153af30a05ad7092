"""The binary codec of intervals: for archives, and for sending intervals between machines.

An encoded interval is a sequence of unsigned 64-bit numbers, as LEB128 varints::

    4 bytes  "bkiv"
    1 byte   version
    n bytes  varints: 7 bits a byte, the lowest first; bit 7 is set except in a number's last byte
    4 bytes  CRC-32 of all bytes before, little-endian

A wide number (128 bits) is two of these numbers, the low word first. A signed number is the wide
number 2 n, or -2 n - 1 if n is negative (zigzag encoding). A table is the number of its rows, then
one column after the other. The fields of moments are columns of their own; 128-bit sums are
wide. The numbers of an interval are, in this order:

- time_s, start_ns, end_ns (signed); the clock's index in ``_CLOCKS``; whether it is anchored (0, 1)
- how many counts follow, and each count (wide), in the order of ``Counts``
- the number of missing trace files
- only in version 2: the operations that count, a bit each, in the order of ``layout.OPS``; how many
  devices the total leaves out, and their numbers
- the tables of ``_TABLES``, in that order
- the histograms of these tables: how many non-empty bins each row has; each bin, as the difference
  to the bin before in the same row (delta encoding); the count of each bin
- how many process names there are; the pids; the time of each name (signed); the length of each in
  bytes; the bytes of all names, in UTF-8, one number a byte

Rows are sorted by the key of their table, and no key occurs twice: equal intervals are equal bytes.
A released version never changes. Version 1 is used where all operations and devices count.
``tests/golden`` holds an interval.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.errors import IntervalError
from blkiomon.formats import validation
from blkiomon.interval.arguments import wrong
from blkiomon.interval.distribution import N_BINS
from blkiomon.interval.merging import with_distinct_keys
from blkiomon.interval.moments import U64_MAX, distinct
from blkiomon.interval.tables import IN_FLIGHT, PROCESSES, QUEUED, REQUESTS, RETRIED
from blkiomon.interval.value import Counts, Interval

MAGIC = b"bkiv"
VERSION, VERSION_OF_PARTS = 1, 2
CRC_BYTES = 4
VARINT_MAX_BYTES = 10
_VARINT_LIMITS = np.array([1 << 7 * n for n in range(1, VARINT_MAX_BYTES)], np.uint64)
"""The least number that takes two bytes, three bytes and so on."""

Numbers = npt.NDArray[np.uint64]

_CLOCKS = ("wall", "trace")

# Columns are named here, as the dtypes may change, and a released version may not. A new field of
# ``Counts`` comes last, and needs a new version, too.
_TABLES = (
    (
        REQUESTS,
        "device op direction errors requests d2c_us throughput d2c_ns size_bytes "
        "d2c_hist size_hist",
    ),
    (IN_FLIGHT, "device op in_flight max_in_flight oldest_ns busy_ns in_flight_ns"),
    (QUEUED, "device op requests q2d_ns q2c_ns"),
    (PROCESSES, "pid requests bytes"),
    (RETRIED, "device op requeues requests f2c_ns"),
)


def _columns(table: Table, names: str) -> Iterator[npt.NDArray[Any]]:
    """Views of the columns of a table, in encoding order; moments as four columns."""
    for name in names.split():
        column = table[name]
        if column.dtype == layout.MOMENTS:
            yield from (column[part] for part in ("min", "max", "sum", "sum_squares"))
        else:
            yield column


# --- encoding -------------------------------------------------------------------------------------


def to_bytes(interval: Interval) -> bytes:
    """Encode an interval as compact bytes: with a version and a checksum, for any machine.

    The order of ``devices`` and rows, ``by``, ``maps`` and ``findings`` are lost. Merging the same
    intervals in any order or grouping gives the same bytes.

    Raises:
        ValueError: a count or a time is out of range.
    """
    if not isinstance(interval, Interval):
        raise wrong("interval", "an Interval", interval)
    snapshot = with_distinct_keys(interval.snapshot)
    tables: list[npt.NDArray[Any]] = []
    histograms: list[npt.NDArray[Any]] = []
    for spec, names in _TABLES:
        table = getattr(snapshot, spec.name)
        order = np.argsort(spec.keys(table))
        tables += [_array([len(table)]), *_columns(table.take(order), names)]
        for name in spec.bins.values():
            histograms += _histograms(getattr(snapshot, name), order)
    only_ops = sum(1 << layout.OPS.index(op) for op in interval.only_ops)
    left_out = interval.not_in_total
    is_of_all = not (only_ops or left_out)
    numbers = [
        *map(_signed, (interval.time_s, interval.start_ns, interval.end_ns)),
        _array([_CLOCKS.index(interval.clock), int(interval.anchored), len(fields(Counts))]),
        *(_wide(getattr(interval.counts, f.name)) for f in fields(Counts)),
        _array([interval.missing_files]),
        *([] if is_of_all else [_array([only_ops, len(left_out), *left_out])]),
        *tables,
        *histograms,
        *_names(interval.process_names, interval.named_ns, interval.end_ns),
    ]
    version = VERSION if is_of_all else VERSION_OF_PARTS
    joined = np.concatenate(numbers, axis=None, dtype=np.uint64, casting="unsafe")
    data = MAGIC + bytes([version]) + _to_varints(joined)
    return data + zlib.crc32(data).to_bytes(CRC_BYTES, "little")


def _array(values: Iterable[int]) -> Numbers:
    return np.array(list(values), np.uint64)


def _wide(value: int) -> Numbers:
    if not 0 <= value < 1 << 128:
        raise ValueError(f"a number of the interval is out of range: {value}")
    return _array((value & U64_MAX, value >> 64))


def _signed(value: int) -> Numbers:
    return _wide(2 * value if value >= 0 else -2 * value - 1)


def _histograms(bins: Table, order: npt.NDArray[np.intp]) -> list[npt.NDArray[Any]]:
    """Encode the bins of a table's rows.

    Args:
        bins: dtype ``layout.BIN``.
        order: shape (rows,): the rows of the table in the order in which they are encoded.
    """
    keys = np.argsort(order)[bins["row"]] << 32 | bins["bin"]
    by_key = np.argsort(keys, kind="stable")
    keys = keys[by_key]
    row, steps = keys >> 32, keys & 0xFFFFFFFF
    is_same_row = row[1:] == row[:-1]
    steps[1:] -= np.where(is_same_row, steps[:-1], 0)
    return [np.bincount(row, minlength=len(order)), steps, bins["count"][by_key]]


def _names(names: Mapping[int, str], named_ns: Mapping[int, int], end_ns: int) -> list[Numbers]:
    pids = sorted(names)
    # A process chooses its name: it need not be valid UTF-8.
    texts = [names[pid].encode("utf-8", "surrogatepass") for pid in pids]
    return [
        _array([len(pids), *pids]),
        *(_signed(named_ns.get(pid, end_ns)) for pid in pids),
        _array(map(len, texts)),
        np.frombuffer(b"".join(texts), np.uint8).astype(np.uint64),
    ]


def _to_varints(numbers: Numbers) -> bytes:
    lengths = 1 + np.searchsorted(_VARINT_LIMITS, numbers, "right")
    ends = np.cumsum(lengths)
    groups = np.empty(ends[-1], np.uint8)
    at, rest = ends - lengths, numbers
    while len(at):  # writes the first byte of each number, then the second of those with more
        has_more = rest > 0x7F
        groups[at] = (rest & 0x7F) | has_more.astype(np.uint64) << 7
        at, rest = at[has_more] + 1, rest[has_more] >> np.uint64(7)
    return groups.tobytes()


# --- decoding -------------------------------------------------------------------------------------


def from_bytes(data: bytes) -> Interval:
    """Decode an interval that ``to_bytes`` encoded; its devices are ordered by number.

    Raises:
        IntervalError: the bytes are not an interval, are damaged, are of an unknown version, or
            the figures contradict each other.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise wrong("data", "bytes that to_bytes returned", data)
    data = bytes(data)
    head = len(MAGIC) + 1
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise IntervalError(f"not an interval: it begins with {data[: len(MAGIC)]!r}")
    if len(data) < head + CRC_BYTES:
        raise IntervalError(f"the interval is cut short: {len(data)} bytes")
    version = data[len(MAGIC)]
    if version not in (VERSION, VERSION_OF_PARTS):
        raise IntervalError(
            f"the interval is of version {version}; this blkiomon reads versions {VERSION} and "
            f"{VERSION_OF_PARTS}"
        )
    if zlib.crc32(data[:-CRC_BYTES]) != int.from_bytes(data[-CRC_BYTES:], "little"):
        raise IntervalError("the interval is damaged or cut short: its checksum does not match")
    decoder = _Decoder(_from_varints(data[head:-CRC_BYTES]))
    interval = decoder.interval(has_parts=version == VERSION_OF_PARTS)
    if decoder.left:
        raise IntervalError(f"the interval has {decoder.left} numbers after its end")
    validation.check(interval)
    return interval


def _from_varints(data: bytes) -> Numbers:
    groups: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    if not len(groups):
        return np.empty(0, np.uint64)
    ends = np.flatnonzero(groups < 0x80)
    if not len(ends) or ends[-1] != len(groups) - 1:
        raise IntervalError("the interval ends inside a number")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends + 1 - starts
    if lengths.max() > VARINT_MAX_BYTES or (groups[ends[lengths == VARINT_MAX_BYTES]] > 1).any():
        raise IntervalError("the interval has a number of more than 64 bits")
    shifts = 7 * (np.arange(len(groups)) - np.repeat(starts, lengths))
    shifted = (groups & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
    numbers: Numbers = np.add.reduceat(shifted, starts)
    return numbers


@cache
def _row_layout(
    dtype: np.dtype[np.void], names: str
) -> tuple[np.dtype[np.void], list[int], Numbers]:
    """How the columns of a table are decoded: a row as 64-bit numbers, in encoding order; how many
    numbers of a row each column has; the limit of each number."""
    fields = [(name, dtype[name]) for name in names.split()]
    wide = [(name, of if of == layout.MOMENTS else ("u8", of.shape)) for name, of in fields]
    columns = list(_columns(np.zeros(1, dtype), names))
    limits = [np.full(column.size, np.iinfo(column.dtype).max, np.uint64) for column in columns]
    return np.dtype(wide), [column.size for column in columns], np.concatenate(limits)


@dataclass
class _Decoder:
    """Decodes numbers one after the other. Raises IntervalError if there are too few."""

    numbers: Numbers
    at: int = 0

    @property
    def left(self) -> int:
        return len(self.numbers) - self.at

    def require(self, n: int) -> None:
        """Check that n more numbers follow, before memory is allocated for them."""
        if n > self.left:
            raise IntervalError("the interval ends too early")

    def take(self, n: int) -> Numbers:
        self.require(n)
        self.at += n
        return self.numbers[self.at - n : self.at]

    def one(self, most: int = U64_MAX) -> int:
        value = int(self.take(1)[0])
        if value > most:
            raise IntervalError(f"the interval has {value} in a field with the limit {most}")
        return value

    def wide(self, n: int) -> list[int]:
        numbers = self.take(2 * n).tolist()
        return [low | high << 64 for low, high in zip(numbers[::2], numbers[1::2])]

    def signed(self, n: int) -> list[int]:
        return [-(value // 2) - 1 if value & 1 else value // 2 for value in self.wide(n)]

    def interval(self, *, has_parts: bool) -> Interval:
        time_s, start_ns, end_ns = self.signed(3)
        clock = _CLOCKS[self.one(len(_CLOCKS) - 1)]
        anchored = bool(self.one(1))
        names = [f.name for f in fields(Counts)]
        if self.one() != len(names):
            raise IntervalError(f"an interval must have {len(names)} counts")
        counts = Counts(**dict(zip(names, self.wide(len(names)))))
        missing_files = self.one()
        only_ops = self.one((1 << len(layout.OPS)) - 1) if has_parts else 0
        not_in_total = self.take(self.one()).tolist() if has_parts else []
        if not_in_total and max(not_in_total) >= 1 << 32:
            raise IntervalError("the interval has a device number that is out of range")
        tables = {spec.name: self.table(spec.dtype, names) for spec, names in _TABLES}
        for spec, _ in _TABLES:
            for bins in spec.bins.values():
                tables[bins] = self.histograms(len(tables[spec.name]))
        process_names, named_ns = self.names()
        return Interval(
            time_s=time_s,
            devices=distinct(tables["rows"]["device"]),
            snapshot=Snapshot(**tables),
            counts=counts,
            start_ns=start_ns,
            end_ns=end_ns,
            clock=clock,
            anchored=anchored,
            process_names=process_names,
            missing_files=missing_files,
            only_ops=tuple(op for bit, op in enumerate(layout.OPS) if only_ops >> bit & 1),
            not_in_total=tuple(sorted(set(not_in_total))),
            named_ns={pid: at_ns for pid, at_ns in named_ns.items() if at_ns != end_ns},
        )

    def table(self, dtype: np.dtype[np.void], names: str) -> Table:
        n = self.one()
        if not n:
            return np.empty(0, dtype)
        wide, widths, limits = _row_layout(dtype, names)
        self.require(n * sum(widths))
        columns = [self.take(n * width).reshape(n, width) for width in widths]
        numbers = np.concatenate(columns, axis=1)
        if (numbers > limits).any():
            raise IntervalError("the interval has a number that is too large for its column")
        table = np.zeros(n, dtype)
        for name in wide.names or ():
            table[name] = numbers.view(wide)[name][:, 0]
        return table

    def histograms(self, n_rows: int) -> Table:
        lengths = self.take(n_rows)
        n = sum(lengths.tolist())
        steps = self.take(n)
        bins = np.empty(n, layout.BIN)
        if n:
            if steps.max() >= N_BINS:
                raise IntervalError("the interval has a histogram bin that is out of range")
            n_bins = lengths.astype(np.intp)
            bins["row"] = np.repeat(np.arange(n_rows), n_bins)
            upto = np.concatenate(([0], np.cumsum(steps.astype(np.int64))))
            before = upto[np.cumsum(n_bins) - n_bins]
            number = upto[1:] - np.repeat(before, n_bins)
            bins["bin"] = np.minimum(number, N_BINS)  # validation refuses N_BINS
        bins["count"] = self.take(n)
        return bins

    def names(self) -> tuple[dict[int, str], dict[int, int]]:
        """Process names, and the time of each name, by pid."""
        n = self.one()
        pids = self.take(n).tolist()
        named_ns = self.signed(n)
        lengths = self.take(n).tolist()
        names = {}
        for pid, length in zip(pids, lengths):
            letters = self.take(length)
            if len(letters) and letters.max() > 0xFF:
                raise IntervalError("the interval has a process name with a number above 255")
            try:
                names[pid] = letters.astype(np.uint8).tobytes().decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise IntervalError(
                    f"the interval has a process name that is not UTF-8: {error}"
                ) from None
        return names, dict(zip(pids, named_ns))
