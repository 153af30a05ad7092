"""The rules of docs/pairing.md and docs/schema.md, as a slow and obvious implementation.

Read it from top to bottom: records, statistics, output formats, reading a stream, pairing. Tests
compare it with the engine and with the packaged program (the original).

`as_original=True` follows the original's pairing rule. `original=True` also follows its arithmetic,
which wraps at 32 and 64 bits; without it, figures are exact.
"""

from __future__ import annotations

import re
import struct
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

U32 = 1 << 32
U64 = 1 << 64

MAGIC = 0x65617400
HEADER_SIZE = {7: 48, 8: 64}
HEADERS = {
    (order, version): struct.Struct(order + fields)
    for version, fields in {7: "IIQQIIIIIHH", 8: "IIQQIIQIIHH"}.items()
    for order in "<>"
}

# Category bits, at their position in an action.
READ = 1 << 16
WRITE = 1 << 17
FLUSH = 1 << 18
REQUEUE = 1 << 21
ISSUE = 1 << 22
COMPLETE = 1 << 23
FS = 1 << 24
PC = 1 << 25
DISCARD = 1 << 29
NOTIFY = 1 << 26
DRV_DATA = 1 << 30
ZONE_APPEND = 1 << 32
ZONE_BITS = 0b111111 << 32
WRITE_ZEROES = 1 << 38
KEY_BITS = READ | WRITE | FS | PC

SIZE_DELTA, SIZE_BUCKETS = 1024, 16
D2C_DELTA, D2C_BUCKETS = 8, 25

SWEEP_EVERY = 1 << 20
"""After this many records, requests older than the age limit are evicted."""
LOST_MARK = re.compile(rb"CPU:\d{1,19} \[LOST (?:(\d{1,19}) )?EVENTS\]\n")
LOST_MARK_MAX = 64
MIN_PADDING = 48
"""Zero bytes between two records are padding from this number on; fewer are garbage."""


def _prefix(*parts: str) -> str:
    """A pattern for text that ends within this sequence of patterns."""
    rest = ""
    for part in reversed(parts):
        rest = rf"{part}(?:\Z{'|' if rest else ''}{rest})"
    return rest


_NUMBER = r"\d{1,19}"
LOST_MARK_PREFIX = re.compile(
    "|".join(
        _prefix(*map(re.escape, "CPU:"), _NUMBER, *map(re.escape, " [LOST "), *rest)
        for rest in ((_NUMBER, *map(re.escape, " EVENTS]\n")), map(re.escape, "EVENTS]\n"))
    ).encode()
)
"""Matches the beginning of a mark of lost events."""

Key = tuple[int, int, int]

APPEND_BIT = 1 << 19
"""Marks a key whose second field is a zone append's serial number instead of a sector."""

MOST_APPENDS = 1024
"""The greatest number of zone appends that wait at a time."""


# -- records ---------------------------------------------------------------------------------------


def signed(value: int, bits: int) -> int:
    """The low `bits` bits of a value as a two's complement number, as C's %d shows them."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


class Trace(NamedTuple):
    """One record as read from a stream; `order` is its zero-based position in the stream."""

    magic: int
    sequence: int
    time: int
    sector: int
    bytes_: int
    action: int
    pid: int
    device: int
    cpu: int
    error: int
    pdu_len: int
    payload: bytes
    order: int

    @property
    def key(self) -> Key:
        """Device, start sector and direction: an issue and its completion have the same."""
        return self.device, self.sector, self.action & KEY_BITS

    @property
    def event(self) -> int:
        """The low word of the action, without the flag of a cgroup id."""
        return self.action & 0xFFFF & ~0x100

    @property
    def chain(self) -> int:
        """The original's hash chain, which decides the order of leftovers."""
        return self.sector % 128

    def header_v7(self) -> bytes:
        """The header that consumers of driver data read: version 7, host byte order."""
        head, tail = self[1:5], self[6:11]
        host = "<" if sys.byteorder == "little" else ">"
        return HEADERS[host, 7].pack(MAGIC | 7, *head, self.action % U32, *tail)

    def debug_fields(self) -> list[tuple[str, str]]:
        """Names and values of a debug block: all numbers are signed but the two of 16 bits."""
        return [
            ("magic", str(MAGIC | 7)),  # also for version 8
            ("sequence", str(signed(self.sequence, 32))),
            ("time", str(signed(self.time, 64))),
            ("sector", str(signed(self.sector, 64))),
            ("bytes", str(signed(self.bytes_, 32))),
            ("action", f"{self.action % U32:x}"),
            ("pid", str(signed(self.pid, 32))),
            ("device", str(signed(self.device, 32))),
            ("cpu", str(signed(self.cpu, 32))),
            ("error", str(self.error)),
            ("pdu_len", str(self.pdu_len)),
            ("order", str(signed(self.order, 64))),
        ]


def operation(issue: Trace) -> str:
    """What kind of request an issue record started."""
    action = issue.action
    if action & FLUSH and issue.bytes_ == 0:
        return "flush"
    if action & DISCARD:
        return "discard"
    if action & WRITE_ZEROES:
        return "write_zeroes"
    if action & ZONE_BITS:
        return "zone"
    if action & PC:
        return "other"
    if action & WRITE:
        return "write"
    if action & READ:
        return "read"
    return "other"


# -- statistics ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Match:
    """A completed request, with its exact figures."""

    op: str
    d2c_ns: int
    size: int
    error: int


@dataclass(slots=True)
class MinMax:
    """Smallest, largest, sum, sum of squares and count; `wire` reduces them to 64 bits."""

    original: bool = False
    min: int = U64 - 1
    max: int = 0
    sum: int = 0
    sum_squares: int = 0
    count: int = 0

    def add(self, value: int) -> None:
        """Account one value."""
        self.min = min(self.min, value)
        self.max = max(self.max, value)
        self.sum += value
        self.sum_squares += value * value
        self.count += 1

    def avg(self) -> float:
        """sum / num as a double."""
        if self.count == 0:
            return 0.0
        if self.original:
            return float(self.sum % U64) / float(self.count)
        return self.sum / self.count if self.sum >= U64 else float(self.sum) / float(self.count)

    def var(self) -> float:
        """The original's double arithmetic if its products fit in 64 bits, else exact."""
        if self.count == 0:
            return 0.0
        square, squ = self.sum * self.sum, self.sum_squares
        if self.original:
            square, squ = (self.sum % U64) ** 2 % U64, squ % U64
        elif square >= U64 or squ >= U64:
            return (self.count * squ - square) / (self.count * self.count)
        num = float(self.count)
        return (float(squ) - float(square) / num) / num

    def wire(self) -> tuple[int, int, int, int, int]:
        """The five fields modulo 2^64."""
        low, high, total, squ, num = (
            value % U64 for value in (self.min, self.max, self.sum, self.sum_squares, self.count)
        )
        return low, high, total, squ, num

    def text(self) -> str:
        """The part of a minmax line after its title."""
        low, high, total, squ, num = (signed(v, 64) for v in self.wire())
        return (
            f"num {num}, min {low}, max {high}, sum {total}, squ {squ}, "
            f"avg {self.avg():.1f}, var {self.var():.1f}"
        )


@cache
def limits(delta: int, buckets: int) -> list[int]:
    """Inclusive upper limits of all buckets but the last, which has no limit."""
    return [0] + [delta << i for i in range(buckets - 2)]


def bucket(value: int, delta: int, buckets: int) -> int:
    """The bucket of the low 32 bits of a value."""
    return bisect_left(limits(delta, buckets), value % U32)


@dataclass(slots=True)
class DeviceStats:
    """One device's statistics of one interval."""

    device: int
    original: bool = False
    size_hist: list[int] = field(default_factory=lambda: [0] * SIZE_BUCKETS)
    d2c_hist: list[int] = field(default_factory=lambda: [0] * D2C_BUCKETS)
    size_r: MinMax = field(default_factory=MinMax)
    size_w: MinMax = field(default_factory=MinMax)
    d2c_r: MinMax = field(default_factory=MinMax)
    d2c_w: MinMax = field(default_factory=MinMax)
    thrput_r: MinMax = field(default_factory=MinMax)
    thrput_w: MinMax = field(default_factory=MinMax)
    bidir: int = 0
    requests: list[Match] = field(default_factory=list)

    def __post_init__(self) -> None:
        for minmax in self.minmaxes():
            minmax.original = self.original

    def minmaxes(self) -> list[MinMax]:
        """The six, in the order of every output."""
        return [self.size_r, self.size_w, self.d2c_r, self.d2c_w, self.thrput_r, self.thrput_w]

    def throughput(self, size: int, d2c_us: int, d2c_ns: int) -> int:
        """Bytes per millisecond."""
        if self.original:
            return size * 1000 % U32 // d2c_us
        if d2c_us == 0:
            return size * 10**6 // max(d2c_ns, 1)
        return size * 1000 // d2c_us

    def account(self, issue: Trace, completion: Trace, size: int, d2c_ns: int, error: int) -> None:
        """Account one match."""
        d2c_us = d2c_ns // 1000
        self.size_hist[bucket(size, SIZE_DELTA, SIZE_BUCKETS)] += 1
        self.d2c_hist[bucket(d2c_us, D2C_DELTA, D2C_BUCKETS)] += 1
        throughput = self.throughput(size, d2c_us, d2c_ns)
        if completion.action & READ:
            self.size_r.add(size)
            self.d2c_r.add(d2c_us)
            self.thrput_r.add(throughput)
        elif completion.action & WRITE:
            self.size_w.add(size)
            self.d2c_w.add(d2c_us)
            self.thrput_w.add(throughput)
        else:
            self.bidir += 1
        self.requests.append(Match(operation(issue), d2c_ns, size, error))


# -- output formats --------------------------------------------------------------------------------


def histogram_text(counts: list[int], delta: int) -> str:
    """Four buckets a line, the last one as `>limit`."""
    bounds = limits(delta, len(counts))
    labels = [f"{bound:13d}" for bound in bounds] + [f"    >{bounds[-1]:8d}"]
    cells = [f"{label}:{count:6d}" for label, count in zip(labels, counts, strict=True)]
    return "".join("".join(cells[i : i + 4]) + "\n" for i in range(0, len(cells), 4))


def human_text(stats: Iterable[DeviceStats], time_s: float) -> str:
    """The text output of one interval."""
    out = []
    titles = ("sizes", "d2c", "throughput")
    units = ("bytes", "usec", "bytes/msec")
    for s in stats:
        out.append(f"\ntime: {time.ctime(time_s)}\n")
        out.append(f"device: {s.device >> 20},{s.device & 0xFFFFF}\n")
        for index, minmax in enumerate(s.minmaxes()):
            direction = ("read", "write")[index % 2]
            title, unit = titles[index // 2], units[index // 2]
            out.append(f"{title} {direction} ({unit}): {minmax.text()}\n")
        out.append("sizes histogram (bytes):\n" + histogram_text(s.size_hist, SIZE_DELTA))
        out.append("d2c histogram (usec):\n" + histogram_text(s.d2c_hist, D2C_DELTA))
        out.append(f"bidirectional requests: {signed(s.bidir, 64)}\n")
    return "".join(out)


def binary(stats: Iterable[DeviceStats], time_s: int, layout: str = "0.3") -> bytes:
    """The binary output of one interval: big-endian, packed."""
    out = []
    for s in stats:
        histograms = [count % U32 for count in s.size_hist + s.d2c_hist]
        head = struct.pack(">Q41I", time_s, *histograms)
        minmaxes = [struct.pack(">5Q", *m.wire()) for m in s.minmaxes()]
        device, bidir = struct.pack(">I", s.device), struct.pack(">Q", s.bidir % U64)
        if layout == "0.3":
            out.append(head + device + b"".join(minmaxes) + bidir)
        elif layout == "0.2":
            out.append(head + b"".join(minmaxes[:4]) + bidir + device)
        else:
            raise ValueError(f"no layout {layout!r}")
    return b"".join(out)


def debug_block(title: str, *records: Trace) -> str:
    """A `--- title ---` block of one or two columns."""
    lines = [f"--- {title} ---"]
    for rows in zip(*(r.debug_fields() for r in records), strict=True):
        lines.append(f"{rows[0][0]:<8}" + "".join(f" {value:>16}" for _, value in rows))
    return "\n".join(lines) + "\n"


# -- reading a stream ------------------------------------------------------------------------------


def has_fields_of_version_8(pid: int, action: int, cpu: int) -> bool:
    """Whether a version 7 header has version 8's field order (a fault of ftrace's tracer)."""
    event, category = pid & 0xFFFF & ~0x100, pid >> 16
    is_event = (event == 7 and category & 1 << 6) or (event == 8 and category & 1 << 7)
    # In place of the pid (2^22 at most) is the action, and so on: pid for action, device for cpu.
    return bool(is_event) and pid > 1 << 22 and action >> 16 < 64 and cpu >= 1 << 20


class Reader:
    """Divides a stream of bytes into records, lost marks, padding and garbage.

    Garbage or a record cut by the end of the stream ends reading; `bad` is its offset. With
    `resync=True`, both are skipped and counted instead.
    """

    def __init__(self, resync: bool) -> None:
        self.resync = resync
        self.bad: int | None = None  # byte offset of garbage or a cut record
        self.byteorder: str | None = None  # of the first record, and required of all others
        self.overall = self.lost_events = self.skipped = self.padding = 0
        self._padding_end = -1
        self._buffer = b""
        self._offset = 0

    def process(self, record: Trace) -> None:
        """Take a record."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Take more bytes of the stream, cut anywhere."""
        self._buffer += data
        self._read(end=False)

    def _read(self, end: bool) -> None:
        position = 0
        while self.bad is None:
            used = self._read_one(memoryview(self._buffer)[position:], self._offset, end)
            if used == 0:
                break
            position += used
            self._offset += used
        self._buffer = self._buffer[position:]

    def _read_one(self, view: memoryview, offset: int, end: bool) -> int:
        """Process the first item of `view`: its length, or 0 if more bytes are needed first."""
        if not view:
            return 0
        head = bytes(view[:LOST_MARK_MAX])
        mark = LOST_MARK.match(head)
        if mark:
            self.lost_events += int(mark[1] or 1)  # without a number: at least one
            return mark.end()
        if head[0] == 0 and self.overall:
            zeros = len(view) - len(bytes(view).lstrip(b"\0"))
            if zeros >= MIN_PADDING or offset == self._padding_end or (end and zeros == len(view)):
                self.padding += zeros
                self._padding_end = offset + zeros
                return zeros
            if zeros == len(view):
                return 0
        found = self._magic(head)
        if found is None and len(head) >= 4 and not LOST_MARK_PREFIX.match(head):
            return self._garbage(view, offset, end)
        if found is None or len(view) < HEADER_SIZE[found[1]]:
            return self._cut_record(view, offset, end)
        order, version = found
        length = HEADER_SIZE[version]
        *first, fifth, sixth, device, cpu, error, pdu_len = HEADERS[found].unpack_from(view)
        action, pid = (fifth, sixth) if version == 7 else (sixth, fifth)
        if len(view) < length + pdu_len:
            return self._cut_record(view, offset, end)
        if version == 7 and has_fields_of_version_8(pid, action, cpu):
            return self._garbage(view, offset, end)
        self.byteorder = order
        payload = bytes(view[length : length + pdu_len])
        figures = *first, action, pid, device, cpu, error, pdu_len
        self.process(Trace._make([*figures, payload, self.overall]))
        return length + pdu_len

    def _magic(self, at: bytes) -> tuple[str, int] | None:
        """Byte order and version if these bytes begin with the magic of a record."""
        for order in ("<", ">") if self.byteorder is None else (self.byteorder,):
            magic = int.from_bytes(at[:4], "little" if order == "<" else "big")
            if len(at) >= 4 and magic & ~0xFF == MAGIC and magic & 0xFF in HEADER_SIZE:
                return order, magic & 0xFF
        return None

    def _cut_record(self, view: memoryview, offset: int, end: bool) -> int:
        """The rest of a record has not been read, and never will be after the end."""
        if not end:
            return 0
        if self.resync:
            self.skipped += len(view)
            return len(view)
        self.bad = offset
        return 0

    def _garbage(self, view: memoryview, offset: int, end: bool) -> int:
        """Garbage ends where the next lost mark or plausible record begins."""
        if not self.resync:
            self.bad = offset
            return 0
        for skip in range(1, len(view) - 3):
            at = bytes(view[skip : skip + LOST_MARK_MAX])
            if LOST_MARK.match(at) or self._is_plausible(at):
                self.skipped += skip
                return skip
            is_short = LOST_MARK_PREFIX.match(at) or (len(at) < HEADER_SIZE[7] and self._magic(at))
            if is_short and not end:
                return 0
        if end:
            self.skipped += len(view)
            return len(view)
        return 0

    def _is_plausible(self, at: bytes) -> bool:
        """Whether these bytes begin with a header whose event exists."""
        found = self._magic(at)
        if found is None or len(at) < HEADER_SIZE[7]:
            return False
        order, version = found
        action_at, size = (28, 4) if version == 7 else (32, 8)
        field = at[action_at : action_at + size]
        action = int.from_bytes(field, "little" if order == "<" else "big")
        return action & 0xFFFF & ~0x100 <= 19  # the last event of blktrace_api.h


# -- pairing ---------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Pending:
    """A record that waits for a partner, and the progress of its request.

    `state` is "issued" or "given back" for a request whose issue has been read, "completed" for a
    completion and "requeued" for a requeue whose issue has not been read.
    """

    record: Trace
    state: str
    time: int
    left: int  # bytes of a request that are not completed; a completion's own bytes
    first_ns: int = 0
    done: int = 0  # bytes of a request that were completed in parts
    error: int = 0
    was_requeued: bool = False

    @property
    def is_issued(self) -> bool:
        """Whether the request is in flight."""
        return self.state == "issued"


def pending_of(record: Trace) -> Pending:
    """An issue or completion that becomes pending."""
    state = "issued" if record.action & ISSUE else "completed"
    if not record.action & (ISSUE | COMPLETE):
        state = "requeued"
    return Pending(record, state, record.time, record.bytes_, record.time)


@dataclass(slots=True)
class Append:
    """A zone append that waits for its partner; `state` as in `Pending`."""

    record: Trace
    state: str


def is_empty_completion(record: Trace) -> bool:
    """A completion of 0 bytes of a read or a write: the kernel sends the real one separately."""
    is_issue = bool(record.action & ISSUE)
    return record.bytes_ == 0 and not is_issue and operation(record) in ("read", "write")


class Reference(Reader):
    """Feed it a stream, cut intervals anywhere, finish it, and compare its results.

    Args:
        max_pending: limit of pending records; above it, the oldest eighth is evicted.
        max_age_ns: older records never match.
        resync: of `Reader`.
        original: follow the original's pairing and arithmetic.
        as_original: follow the original's pairing.
        sweep_every: records between two searches for those that are too old.
        on_record: called with each record.
    """

    def __init__(
        self,
        max_pending: int | None = None,
        max_age_ns: int | None = None,
        *,
        resync: bool = False,
        original: bool = False,
        as_original: bool = False,
        sweep_every: int = SWEEP_EVERY,
        on_record: Callable[[Trace], None] | None = None,
    ) -> None:
        super().__init__(resync)
        self.max_pending = max_pending
        self.max_age_ns = max_age_ns
        self.original = original
        self.as_original = as_original or original
        self.sweep_every = sweep_every
        self.on_record = on_record
        self.matched = self.mismatched = self.driverdata = self.evicted = 0
        self.given_up = 0  # issues that got no completion
        self.requeues: Counter[tuple[int, str]] = Counter()
        self.retried: dict[tuple[int, str], list[int]] = {}  # ns from the first issue
        # In the order of storing: a record that stays pending after a mismatch is stored anew.
        self._pending: dict[Key, Pending] = {}
        self._appends: dict[int, Append] = {}  # by serial number
        self._next_append = 0
        self._now: int | None = None
        self._stats: dict[int, DeviceStats] = {}
        self._mismatches: list[str] = []
        self._driver: list[bytes] = []
        self._finished = False

    def process(self, record: Trace) -> None:
        if record.order > 0 and record.order % self.sweep_every == 0:
            self._sweep()
        self.overall += 1
        if self.on_record:
            self.on_record(record)
        # A note, or a record without one of the engine's 32 categories, does not set the time.
        if record.action & 0xFFFF_FFFF_0000 & ~NOTIFY:
            self._now = record.time
        if record.action & DRV_DATA:
            self.driverdata += 1
            self._driver.append(record.header_v7() + record.payload)
        elif record.action & (ISSUE | COMPLETE):
            self._pair(record)
        elif record.action & REQUEUE and record.event == 6 and not record.action & NOTIFY:
            if not self.as_original:
                self._requeue(record)

    def _pair(self, record: Trace) -> None:
        """Pair an issue or completion with the pending record of its key."""
        key = record.key
        if record.action & ZONE_APPEND and not self.as_original:
            key = self._append_key(record)
        if record.action & ISSUE:
            self.on_issue(key, record)
        pending = self._pending.get(key)
        if pending is None:
            if not self.as_original and is_empty_completion(record):
                return
            if self._is_nearly_full() and not record.action & ISSUE:
                self.evicted += 1
                self.on_unmatched_completion(pending_of(record))
                return
            self._store(key, record)
            return
        self.on_found(pending, record.time)
        is_older = pending.time < record.time
        pair = (pending.record, record) if is_older else (record, pending.record)
        if self.max_age_ns is not None and abs(record.time - pending.time) > self.max_age_ns:
            self.evicted += 1
        elif self.as_original and pair[0].action & ISSUE and pair[1].action & COMPLETE:
            self._match(key, *pair, pair[0].bytes_, pair[1].time - pair[0].time, pair[1].error)
            return
        elif not self.as_original and self._pair_steps(key, pending, record):
            return
        else:
            self.mismatched += 1
            self._mismatches.append(debug_block("mismatch", *pair))
        if is_older:
            self._replace(key, record)
        else:
            self.on_too_old(record)
            self._pending[key] = self._pending.pop(key)

    def _pair_steps(self, key: Key, pending: Pending, record: Trace) -> bool:
        """Pair by the kernel's rules; False if the two records are a mismatch."""
        is_issue = record.action & ISSUE and not (record.action & COMPLETE and pending.is_issued)
        if is_issue:
            return self._pair_issue(key, pending, record)
        # A completion. Of a flush, one of 0 bytes beside the real one is ignored.
        if pending.is_issued and pending.time <= record.time:
            if not (is_empty_completion(record) and operation(pending.record) == "flush"):
                self._complete(key, record.time, record.bytes_, record.error, record)
            return True
        if is_empty_completion(record):
            return True
        if pending.state not in ("given back", "requeued") or pending.time > record.time:
            return False
        if pending.state == "given back":  # the request failed after it had been given back
            self._finish(key, pending, record, record.time, record.error)
        else:
            self._replace(key, record)
        return True

    def _pair_issue(self, key: Key, pending: Pending, record: Trace) -> bool:
        """An issue: again after a requeue, or later in the stream than its completion."""
        if pending.state == "given back":
            if record.time < pending.time:
                return False
            pending.state, pending.time, pending.left = "issued", record.time, record.bytes_
            pending.record = record
            self.on_flight_begin(pending)
            return True
        if pending.state == "requeued":
            self._replace(key, record)
            if record.time <= pending.time:
                self._give_back(key, pending.time)
            return True
        if pending.state == "completed" and pending.time >= record.time:
            completion = pending.record
            if pending.left == record.bytes_:
                self.on_issue_found(pending)
                self.on_late_issue(record, pending.time)
                d2c_ns = pending.time - record.time
                self._match(key, record, completion, record.bytes_, d2c_ns, completion.error)
                return True
            self._replace(key, record)
            if pending.left:
                self.on_issue_found(pending)
                self._complete(key, pending.time, pending.left, completion.error, completion)
            return True
        return False

    def _complete(self, key: Key, time_ns: int, size: int, error: int, completion: Trace) -> None:
        """A completion of all bytes of a request in flight, of some, or of none.

        After some of them, the rest of the request is pending at the sector after them, where its
        completion may already wait.
        """
        pending = self._pending[key]
        while size < pending.left and not key[2] & PC:
            pending.error = error or pending.error
            if size == 0:
                return
            behind = key[0], (key[1] + size // 512) % U64, key[2]
            found = self._pending.get(behind) if behind != key else None
            is_rest = found is not None and found.state == "completed" and found.time >= time_ns
            if found is not None:
                if is_rest:
                    self.on_issue_found(found)
                    size_of_rest, completion = found.left, found.record
                self._drop(behind)
            self._pending = {behind if k == key else k: p for k, p in self._pending.items()}
            pending.left -= size
            pending.done += size
            self.on_move(key, behind)
            key = behind
            if not is_rest:
                return
            time_ns, size, error = completion.time, size_of_rest, completion.error
        self._finish(key, pending, completion, time_ns, error)

    def _finish(
        self, key: Key, pending: Pending, completion: Trace, time_ns: int, error: int
    ) -> None:
        """A request in flight has been completed, or failed after it had been given back."""
        issue, first_ns = pending.record, pending.first_ns
        if pending.was_requeued:
            which = issue.device, operation(issue)
            self.retried.setdefault(which, []).append(time_ns - first_ns)
        d2c_ns = time_ns - (pending.time if pending.is_issued else first_ns)
        self.on_flight_end(pending, time_ns)
        size, error = pending.done + pending.left, error or pending.error
        self._match(key, issue, completion, size, d2c_ns, error, first_ns)

    def _match(
        self,
        key: Key,
        issue: Trace,
        completion: Trace,
        size: int,
        d2c_ns: int,
        error: int,
        first_ns: int | None = None,
    ) -> None:
        """Account a completed request; first_ns is the time of its first issue, if of several."""
        del self._pending[key]
        self.matched += 1
        device = issue.device
        if device not in self._stats:
            self._stats[device] = DeviceStats(device, self.original)
        self._stats[device].account(issue, completion, size, d2c_ns, error)

    def _requeue(self, record: Trace) -> None:
        """The driver gives a request back."""
        key = record.key
        if record.action & ZONE_APPEND:
            found = self._find_append(record, "issued")
            if found is None:
                return
            self._appends[found].state = "given back"
            key = serial_key(record, found)
        pending = self._pending.get(key)
        age_ns = record.time - pending.time if pending is not None else 0
        if self.max_age_ns is not None and age_ns > self.max_age_ns:
            self.evicted += 1
            self._drop(key)
            pending = None
        if pending is None:
            self._store(key, record)
            return
        self.on_found(pending, record.time)
        if pending.is_issued and pending.time <= record.time:
            self._give_back(key, record.time)

    def _give_back(self, key: Key, time_ns: int) -> None:
        pending = self._pending[key]
        self.on_flight_end(pending, time_ns)
        pending.state, pending.time, pending.was_requeued = "given back", time_ns, True
        self.requeues[pending.record.device, operation(pending.record)] += 1

    # -- pending records ---------------------------------------------------------------------

    def _store(self, key: Key, record: Trace) -> None:
        """Make a record pending; a full table evicts its oldest eighth first.

        With it go those whose times differ only in low bits, at most 1/8192 of the oldest's age.
        """
        if self.max_pending is not None and len(self._pending) >= self.max_pending:
            times = sorted(p.time for p in self._pending.values())
            latest = times[max(self.max_pending // 8, 1) - 1]
            age_bits = max((self._now or 0) - times[0], 0).bit_length()
            self._evict_before((latest | (1 << max(age_bits - 14, 0)) - 1) + 1)
        pending = self._pending[key] = pending_of(record)
        if pending.is_issued:
            self.on_flight_begin(pending)
        elif pending.state == "completed":
            self.on_unmatched_completion(pending)

    def _drop(self, key: Key) -> None:
        """Give up a pending record: it cannot match any more."""
        pending = self._pending.pop(key)
        self.given_up += pending.state in ("issued", "given back")
        if pending.is_issued:
            self.on_flight_end(pending, self._now or 0)

    def _replace(self, key: Key, record: Trace) -> None:
        self._drop(key)
        self._store(key, record)

    def _sweep(self) -> None:
        """Evict the pending records that are too old."""
        if self.max_age_ns is None or self._now is None:
            return
        self._evict_before(self._now - self.max_age_ns)

    def _evict_before(self, time_ns: int) -> None:
        old = [key for key, p in self._pending.items() if p.time < time_ns]
        for key in old:
            self._drop(key)
        self.evicted += len(old)

    def _is_nearly_full(self) -> bool:
        """Whether the table is 7/8 full: a completion's issue was then most likely evicted."""
        return (
            self.max_pending is not None
            and len(self._pending) >= self.max_pending - self.max_pending // 8
        )

    # -- zone appends: a completion has the sector that was written, an issue that of the zone ---

    def _append_key(self, record: Trace) -> Key:
        """The key of an issue or completion: a serial number takes the sector's place."""
        is_issue = bool(record.action & ISSUE)
        found = self._find_append(record, "completed" if is_issue else "issued")
        if found is not None:
            del self._appends[found]
            return serial_key(record, found)
        found = self._find_append(record, "given back") if is_issue else None
        if found is not None:
            self._appends[found].state = "issued"
            return serial_key(record, found)
        serial = self._next_append
        self._next_append += 1
        self._appends[serial] = Append(record, "issued" if is_issue else "completed")
        self._appends.pop(serial - MOST_APPENDS, None)
        return serial_key(record, serial)

    def _find_append(self, record: Trace, state: str) -> int | None:
        """The serial number of the nearest fitting append in that state; of several, the first."""
        found: list[tuple[int, int]] = []
        for serial, append in self._appends.items():
            other = append.record
            pending = self._pending.get(serial_key(other, serial))
            if pending is None:  # given up
                continue
            age_ns = abs(record.time - pending.time)
            if self.max_age_ns is not None and age_ns > self.max_age_ns:
                continue
            same = other.key[0] == record.key[0] and other.key[2] == record.key[2]
            if append.state != state or not same or other.bytes_ != record.bytes_:
                continue
            # A completion's sector is not before that of its issue, which is the zone's first.
            distance = record.sector - other.sector
            if state == "completed":
                distance = -distance
            if distance >= 0 and (state != "given back" or distance == 0):
                found.append((distance, serial))
        return min(found)[1] if found else None

    # -- events for subclasses -----------------------------------------------------------------

    def on_issue(self, key: Key, record: Trace) -> None:
        """An issue has been read, and is paired next."""

    def on_flight_begin(self, pending: Pending) -> None:
        """A request is in flight from now on."""

    def on_flight_end(self, pending: Pending, time_ns: int) -> None:
        """A request is no longer in flight, if it was."""

    def on_found(self, pending: Pending, time_ns: int) -> None:
        """A record of the key of a pending one has been read."""

    def on_unmatched_completion(self, pending: Pending) -> None:
        """A completion's issue has not been read. It becomes pending, or a full table drops it."""

    def on_issue_found(self, pending: Pending) -> None:
        """The issue of a pending completion has been read."""

    def on_late_issue(self, issue: Trace, completed_ns: int) -> None:
        """The issue of a completed request has been read: the request never was in flight."""

    def on_move(self, before: Key, now: Key) -> None:
        """The rest of a request that was completed in part has another sector."""

    def on_too_old(self, record: Trace) -> None:
        """A record is older than the pending one, and gets no partner."""
        self.given_up += bool(record.action & ISSUE)

    # -- results -------------------------------------------------------------------------------

    def cut(self) -> list[DeviceStats]:
        """End an interval: its statistics, devices in reverse order of their first match."""
        self._sweep()
        stats = list(reversed(self._stats.values()))
        self._stats = {}
        return stats

    def finish(self) -> list[DeviceStats]:
        """End the stream: the statistics of the last interval."""
        self._read(end=True)
        self._finished = True
        return self.cut()

    def waiting(self) -> list[Pending]:
        """What is pending, in the order in which it was stored."""
        return list(self._pending.values())

    def leftovers(self) -> list[Trace]:
        """Pending records by hash chain; within one, the most recently stored first."""
        newest_first = [p.record for p in reversed(self.waiting())]
        return sorted(newest_first, key=lambda record: record.chain)

    def totals(self) -> str:
        """The last line of the debug output."""
        line = (
            f"{len(self._pending)} leftover, {self.matched} match, {self.mismatched} mismatch, "
            f"{self.driverdata} driverdata, {self.overall} overall"
        )
        optional = {
            "evicted": self.evicted,
            "lost": self.lost_events,
            "bytes skipped": self.skipped,
        }
        return line + "".join(f", {n} {what}" for what, n in optional.items() if n) + "\n"

    def debug_text(self) -> str:
        """The debug output; it has leftovers and totals once the stream is finished."""
        text = "".join(self._mismatches)
        if self._finished:
            text += "".join(debug_block("leftover", p) for p in self.leftovers()) + self.totals()
        return text

    def driver_bytes(self) -> bytes:
        """The driver data output."""
        return b"".join(self._driver)


def serial_key(record: Trace, serial: int) -> Key:
    """The key of a zone append."""
    return record.device, serial, record.action & KEY_BITS | APPEND_BIT


# -- whole streams ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outputs:
    """The original's four outputs of a stream that is one interval."""

    human: bytes
    binary: bytes
    driver: bytes
    debug: bytes


def outputs(data: bytes, *, original: bool = False) -> Outputs:
    """All outputs of one stream as a single interval that ends at time 0."""
    reference = Reference(original=original, as_original=True)
    reference.feed(data)
    return outputs_of(reference, reference.finish())


def outputs_of(reference: Reference, stats: Iterable[DeviceStats]) -> Outputs:
    """All outputs of a reference that has finished, with the statistics of its one interval."""
    return Outputs(
        human_text(stats, 0).encode(),
        binary(stats, 0),
        reference.driver_bytes(),
        reference.debug_text().encode(),
    )
