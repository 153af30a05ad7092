"""Slow, obvious reference of everything between trace records and statistics.

It says what the engine has to print. Where the original program is right, this is byte-identical
to it; where the original is faulty, this does what ours does, unless `original=True` asks for the
original's wrapping arithmetic, so that whole streams can be compared with the program itself.
"""

from __future__ import annotations

import re
import struct
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
MAGICS = {order: struct.Struct(order + "I") for order in "<>"}
HEADERS = {
    (order, version): struct.Struct(order + fields)
    for version, fields in {7: "IIQQIIIIIHH", 8: "IIQQIIQIIHH"}.items()
    for order in "<>"
}

# Category bits where they stand in an action.
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
LOST_MARK = re.compile(rb"CPU:\d{1,19} \[LOST (?:(\d{1,19}) )?EVENTS\]\n")
LOST_MARK_MAX = 64
MIN_PADDING = 48


def _begun(*parts: str) -> str:
    """A pattern for text that ends before all of these patterns stand in a row."""
    rest = ""
    for part in reversed(parts):
        rest = rf"{part}(?:\Z{'|' if rest else ''}{rest})"
    return rest


_NUMBER = r"\d{1,19}"
LOST_MARK_BEGUN = re.compile(
    "|".join(
        _begun(*map(re.escape, "CPU:"), _NUMBER, *map(re.escape, " [LOST "), *rest)
        for rest in ((_NUMBER, *map(re.escape, " EVENTS]\n")), map(re.escape, "EVENTS]\n"))
    ).encode()
)

Key = tuple[int, int, int]

APPEND_BIT = 1 << 19
"""In a key: the sector is a serial number."""

MOST_APPENDS = 1024
"""So many serial numbers back a zone append is looked for."""


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
        """What an issue and its completion have in common."""
        return self.device, self.sector, self.action & KEY_BITS

    @property
    def event(self) -> int:
        """The low word of the action, without the flag of a cgroup id."""
        return self.action & 0xFFFF & ~0x100

    @property
    def chain(self) -> int:
        """Which of the original's hash chains it is kept in: decides the order of leftovers."""
        return self.sector % 128

    def header_v7(self) -> bytes:
        """The header that consumers of driver data read: version 7, host (little-endian) order."""
        return struct.pack(
            "=IIQQIIIIIHH",
            MAGIC | 7,
            self.sequence,
            self.time,
            self.sector,
            self.bytes_,
            self.action % U32,
            self.pid,
            self.device,
            self.cpu,
            self.error,
            self.pdu_len,
        )

    def debug_fields(self) -> list[tuple[str, str]]:
        """Names and values of a debug block: all numbers signed but the two 16-bit ones."""
        return [
            ("magic", str(MAGIC | 7)),  # version 8 shows as the equal version 7 would
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


def debug_block(title: str, *records: Trace) -> str:
    """A `--- title ---` block of one or two columns."""
    lines = [f"--- {title} ---"]
    for rows in zip(*(r.debug_fields() for r in records), strict=True):
        lines.append(f"{rows[0][0]:<8}" + "".join(f" {value:>16}" for _, value in rows))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Match:
    """One completed request, exactly."""

    op: str
    d2c_ns: int
    size: int
    error: int


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


@dataclass(slots=True, eq=False)
class Pending:
    """What waits for a partner: a record, and what is known of its request.

    `state` is "issued" or "given back" of a request, "completed" of a completion without an
    issue, "requeued" of a requeue whose issue has not been seen.
    """

    record: Trace
    state: str
    time: int
    left: int  # bytes of a request that are not completed; of a completion, its own
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
    """A zone append that waits for its partner; `state` as of `Pending`."""

    record: Trace
    state: str


def is_empty_completion(record: Trace) -> bool:
    """Whether the kernel sent it beside the real one: of 0 bytes, of a read or a write."""
    is_issue = bool(record.action & ISSUE)
    return record.bytes_ == 0 and not is_issue and operation(record) in ("read", "write")


@dataclass(slots=True)
class MinMax:
    """Smallest, largest, sum, sum of squares and count; unbounded, cut to 64 bits on the wire."""

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
        """The original's double arithmetic where its 64-bit products hold, else exact."""
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
        return (
            self.min % U64,
            self.max % U64,
            self.sum % U64,
            self.sum_squares % U64,
            self.count % U64,
        )

    def text(self) -> str:
        """The part of a minmax line after its title."""
        low, high, total, squ, num = (signed(v, 64) for v in self.wire())
        return (
            f"num {num}, min {low}, max {high}, sum {total}, squ {squ}, "
            f"avg {self.avg():.1f}, var {self.var():.1f}"
        )


@cache
def limits(delta: int, buckets: int) -> list[int]:
    """Inclusive upper limits of all buckets but the last, which takes all above."""
    return [0] + [delta << i for i in range(buckets - 2)]


def bucket(value: int, delta: int, buckets: int) -> int:
    """The bucket of a value, which is cut to 32 bits first."""
    return bisect_left(limits(delta, buckets), value % U32)


def histogram_text(counts: list[int], delta: int) -> str:
    """Four buckets a line, the last one as `>limit`."""
    bounds = limits(delta, len(counts))
    labels = [f"{bound:13d}" for bound in bounds] + [f"    >{bounds[-1]:8d}"]
    cells = [f"{label}:{count:6d}" for label, count in zip(labels, counts, strict=True)]
    return "".join("".join(cells[i : i + 4]) + "\n" for i in range(0, len(cells), 4))


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

    def account(
        self,
        issue: Trace,
        completion: Trace,
        size: int | None = None,
        d2c_ns: int | None = None,
        error: int | None = None,
    ) -> None:
        """Account one match; of several steps, what these have made of it."""
        size = issue.bytes_ if size is None else size
        d2c_ns = completion.time - issue.time if d2c_ns is None else d2c_ns
        error = completion.error if error is None else error
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


def _is_shuffled(pid: int, action: int, cpu: int) -> bool:
    """Whether a version 7 header holds version 8's fields (formats.md, the tracer's caveats)."""
    event, category = pid & 0xFFFF & ~0x100, pid >> 16
    is_event = (event == 7 and category & 1 << 6) or (event == 8 and category & 1 << 7)
    return bool(is_event) and pid > 1 << 22 and action >> 16 < 64 and cpu >= 1 << 20


@dataclass(frozen=True, slots=True)
class BadTrace:
    """Where reading could not go on: byte offset, what stands there, and whether it was cut."""

    offset: int
    found: bytes
    cut: bool


class Reference:
    """Feed it the bytes of a stream, cut intervals where you like, finish it, look at the texts.

    `resync=True` goes on behind garbage and counts the bytes it skipped; else the first garbage
    ends the run and stands in `bad`. In resync mode a record cut by the end of input counts as
    skipped bytes, too.

    `as_original=True` pairs as the original does, whose one rule is that of `_pair_as_original`.
    """

    def __init__(
        self,
        max_pending: int | None = None,
        max_age_ns: int | None = None,
        version: str = "0.3",
        *,
        resync: bool = False,
        original: bool = False,
        as_original: bool = False,
        sweep_every: int = SWEEP_EVERY,
        on_record: Callable[[Trace], None] | None = None,
    ) -> None:
        self.max_pending = max_pending
        self.max_age_ns = max_age_ns
        self.version = version
        self.resync = resync
        self.original = original
        self.as_original = as_original or original
        self.sweep_every = sweep_every
        self.on_record = on_record
        self.bad: BadTrace | None = None
        self.overall = self.matched = self.mismatched = self.driverdata = 0
        self.evicted = self.lost_events = self.skipped = self.given_up = 0
        self.padding = 0
        self._padding_end = -1
        self.byteorder: str | None = None
        self._buffer = b""
        self._offset = 0
        self._finished = False
        self._now: int | None = None
        # Insertion order is the order of storing: a record that stays pending is stored anew.
        self._pending: dict[Key, Pending] = {}
        self.requeues: Counter[tuple[int, str]] = Counter()
        self.retried: dict[tuple[int, str], list[int]] = {}  # ns from the first issue
        self._appends: dict[int, Append] = {}  # by serial number
        self._next_append = 0
        self._stats: dict[int, DeviceStats] = {}
        self._mismatches: list[str] = []
        self._driver: list[bytes] = []

    # -- the byte stream ---------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take more bytes of the stream, cut anywhere."""
        self._buffer += data
        self._parse(end=False)

    def finish(self) -> list[DeviceStats]:
        """End of input: the statistics of the last interval."""
        self._parse(end=True)
        stats = self.cut()
        self._finished = True
        return stats

    def _magic(self, at: bytes) -> tuple[str, int] | None:
        """Byte order and version if a record's magic stands there."""
        for order in ("<", ">") if self.byteorder is None else (self.byteorder,):
            (magic,) = MAGICS[order].unpack_from(at)
            if magic & ~0xFF == MAGIC and magic & 0xFF in HEADER_SIZE:
                return order, magic & 0xFF
        return None

    def _parse(self, end: bool) -> None:
        position = 0
        while self.bad is None:
            used = self._parse_one(memoryview(self._buffer)[position:], self._offset, end)
            if used == 0:
                break
            position += used
            self._offset += used
        self._buffer = self._buffer[position:]

    def _parse_one(self, view: memoryview, offset: int, end: bool) -> int:
        """Process what stands at the head of `view`; how many bytes it was, 0 for `not yet`."""
        if not view:
            return 0
        head = bytes(view[:LOST_MARK_MAX])
        mark = head.startswith(b"C") and LOST_MARK.match(head)
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
        if len(head) < 4:
            return self._cut_record(view, offset) if end else 0
        found = self._magic(head)
        if found is None:
            if LOST_MARK_BEGUN.match(head):
                return self._cut_record(view, offset) if end else 0
            return self._garbage(view, offset, end)
        order, version = found
        header = HEADER_SIZE[version]
        if len(view) < header:
            return self._cut_record(view, offset) if end else 0
        magic, seq, tm, sector, size, *middle, device, cpu, error, pdu = HEADERS[found].unpack_from(
            view
        )
        action, pid = middle if version == 7 else middle[::-1]
        if len(view) < header + pdu:
            return self._cut_record(view, offset) if end else 0
        if version == 7 and _is_shuffled(pid, action, cpu):
            return self._garbage(view, offset, end)
        self.byteorder = order
        payload = bytes(view[header : header + pdu])
        record = Trace(
            magic,
            seq,
            tm,
            sector,
            size,
            action,
            pid,
            device,
            cpu,
            error,
            pdu,
            payload,
            self.overall,
        )
        self._record(record)
        return header + record.pdu_len

    def _cut_record(self, view: memoryview, offset: int) -> int:
        if self.resync:
            self.skipped += len(view)
            return len(view)
        self.bad = BadTrace(offset, bytes(view[:64]), cut=True)
        return 0

    def _garbage(self, view: memoryview, offset: int, end: bool) -> int:
        if not self.resync:
            self.bad = BadTrace(offset, bytes(view[:64]), cut=False)
            return 0
        for skip in range(1, len(view) - 3):
            at = bytes(view[skip : skip + LOST_MARK_MAX])
            if LOST_MARK.match(at) or self._is_plausible(at):
                self.skipped += skip
                return skip
            if end:
                continue
            if LOST_MARK_BEGUN.match(at) or (len(at) < HEADER_SIZE[7] and self._magic(at)):
                return 0  # too short to tell
        if end:
            self.skipped += len(view)
            return len(view)
        return 0

    def _is_plausible(self, at: bytes) -> bool:
        """Whether a header stands there whose event exists."""
        found = self._magic(at)
        if found is None or len(at) < HEADER_SIZE[7]:
            return False
        order, version = found
        (low,) = struct.unpack_from(
            order + "Q" if version == 8 else order + "I", at, 32 if version == 8 else 28
        )
        return (low & 0xFFFF & ~0x100) <= 19

    # -- pairing -----------------------------------------------------------------------------

    def _record(self, record: Trace) -> None:
        if record.order > 0 and record.order % self.sweep_every == 0:
            self._sweep()
        self.overall += 1
        if self.on_record:
            self.on_record(record)
        if record.action & ~0xFFFF & ~NOTIFY:
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
        key = record.key
        if record.action & ZONE_APPEND and not self.as_original:
            key = self._append_key(record)
        if record.action & ISSUE:
            self._is_issued(key, record)
        pending = self._pending.get(key)
        if pending is None:
            if self.as_original or not is_empty_completion(record):
                self._store(key, record)
            return
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
            self._drop(key)
            self._store(key, record)
        else:
            self._is_dropped(record)
            self._pending[key] = self._pending.pop(key)  # stored anew

    def _pair_steps(self, key: Key, pending: Pending, record: Trace) -> bool:
        """The rules for what the kernel does in several steps; False: the two are no pair."""
        is_issue = record.action & ISSUE and not (record.action & COMPLETE and pending.is_issued)
        if not is_issue:
            if pending.is_issued and pending.time <= record.time:
                if not (is_empty_completion(record) and operation(pending.record) == "flush"):
                    self._complete(key, record.time, record.bytes_, record.error, record)
                return True
            if is_empty_completion(record):
                return True
            if pending.state not in ("given back", "requeued") or pending.time > record.time:
                return False
            if pending.state == "given back":
                self._finish(key, pending, record, record.time, record.error)
            else:
                self._drop(key)
                self._store(key, record)
            return True
        if pending.state == "given back":
            if record.time < pending.time:
                return False
            pending.state, pending.time, pending.left = "issued", record.time, record.bytes_
            pending.record = record
            self._enters(pending)
            return True
        if pending.state == "requeued":
            self._drop(key)
            self._store(key, record)
            if record.time <= pending.time:
                self._give_back(key, pending.time)
            return True
        if pending.state == "completed" and pending.time >= record.time:
            if pending.left == record.bytes_:
                self._is_answered(pending)
                self._comes_late(record, pending.time)
                d2c_ns, error = pending.time - record.time, pending.record.error
                self._match(key, record, pending.record, record.bytes_, d2c_ns, error)
                return True
            self._drop(key)
            self._store(key, record)
            if pending.left:
                self._is_answered(pending)
                self._complete(
                    key, pending.time, pending.left, pending.record.error, pending.record
                )
            return True
        return False

    def _complete(self, key: Key, time_ns: int, size: int, error: int, completion: Trace) -> None:
        """A completion of all or a part of a request in flight, or of none of it."""
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
                    self._is_answered(found)
                    size_of_rest, completion = found.left, found.record
                self._drop(behind)
            self._pending = {behind if k == key else k: p for k, p in self._pending.items()}
            pending.left -= size
            pending.done += size
            self._moves(key, behind)
            key = behind
            if not is_rest:
                return
            time_ns, size, error = completion.time, size_of_rest, completion.error
        self._finish(key, pending, completion, time_ns, error)

    def _finish(
        self, key: Key, pending: Pending, completion: Trace, time_ns: int, error: int
    ) -> None:
        """A request in flight has been completed, or failed after it had been given back."""
        if pending.was_requeued:
            which = pending.record.device, operation(pending.record)
            self.retried.setdefault(which, []).append(time_ns - pending.first_ns)
        since_ns = pending.time if pending.is_issued else pending.first_ns
        self._leaves(pending, time_ns)
        self._match(
            key,
            pending.record,
            completion,
            pending.done + pending.left,
            time_ns - since_ns,
            error or pending.error,
            pending.first_ns,
        )

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
        """A request has been completed; first_ns: when it was issued first, if more than once."""
        del self._pending[key]
        self.matched += 1
        device = issue.device
        if device not in self._stats:
            self._stats[device] = DeviceStats(device, self.original)
        self._stats[device].account(issue, completion, size, d2c_ns, error)

    def _requeue(self, record: Trace) -> None:
        key = record.key
        if record.action & ZONE_APPEND:
            found = self._find_append(record, "issued")
            if found is None:
                return
            self._appends[found].state = "given back"
            key = self._serial_key(record, found)
        pending = self._pending.get(key)
        if (
            pending is not None
            and self.max_age_ns is not None
            and record.time - pending.time > self.max_age_ns
        ):
            self.evicted += 1
            self._drop(key)
            pending = None
        if pending is None:
            self._store(key, record)
        elif pending.is_issued and pending.time <= record.time:
            self._give_back(key, record.time)

    def _give_back(self, key: Key, time_ns: int) -> None:
        pending = self._pending[key]
        self._leaves(pending, time_ns)
        pending.state, pending.time, pending.was_requeued = "given back", time_ns, True
        self.requeues[pending.record.device, operation(pending.record)] += 1

    def _store(self, key: Key, record: Trace) -> None:
        if self.max_pending is not None and len(self._pending) >= self.max_pending:
            oldest = min(self._pending, key=lambda k: (self._pending[k].time, *k))
            self._drop(oldest)
            self.evicted += 1
        pending = self._pending[key] = pending_of(record)
        if pending.is_issued:
            self._enters(pending)
        elif pending.state == "completed":
            self._is_alone(pending)

    def _drop(self, key: Key) -> None:
        """What is pending gets no partner any more."""
        pending = self._pending.pop(key)
        self.given_up += pending.state in ("issued", "given back")
        if pending.is_issued:
            self._leaves(pending, self._now or 0)

    def _sweep(self) -> None:
        if self.max_age_ns is None or self._now is None:
            return
        now, age = self._now, self.max_age_ns
        old = [key for key, p in self._pending.items() if p.time < now and now - p.time > age]
        for key in old:
            self._drop(key)
        self.evicted += len(old)

    # -- for those who follow more than the reference does --------------------------------------

    def _is_issued(self, key: Key, record: Trace) -> None:
        """An issue has come, and is going to be paired."""

    def _enters(self, pending: Pending) -> None:
        """A request is in flight from now on."""

    def _leaves(self, pending: Pending, time_ns: int) -> None:
        """It is in flight no more, if it was."""

    def _is_alone(self, pending: Pending) -> None:
        """A completion waits, whose issue has not been seen."""

    def _is_answered(self, pending: Pending) -> None:
        """Now it has been seen."""

    def _is_dropped(self, record: Trace) -> None:
        """A record is too old to become pending."""
        self.given_up += bool(record.action & ISSUE)

    def _comes_late(self, issue: Trace, completed_ns: int) -> None:
        """An issue was read after its completion: it never was in flight."""

    def _moves(self, before: Key, now: Key) -> None:
        """The rest of a request has another sector."""

    # -- zone appends: their completion has another sector --------------------------------------

    def _serial_key(self, record: Trace, serial: int) -> Key:
        return record.device, serial, record.action & KEY_BITS | APPEND_BIT

    def _append_key(self, record: Trace) -> Key:
        """The key of an issue or completion: a serial number takes the sector's place."""
        is_issue = bool(record.action & ISSUE)
        found = self._find_append(record, "completed" if is_issue else "issued")
        if found is not None:
            del self._appends[found]
            return self._serial_key(record, found)
        if is_issue:
            found = self._find_append(record, "given back")
            if found is not None:
                self._appends[found].state = "issued"
                return self._serial_key(record, found)
        serial = self._next_append
        self._next_append += 1
        self._appends[serial] = Append(record, "issued" if is_issue else "completed")
        for old in [s for s in self._appends if s <= serial - MOST_APPENDS]:
            del self._appends[old]
        return self._serial_key(record, serial)

    def _find_append(self, record: Trace, state: str) -> int | None:
        """The serial number of the one that a record belongs to."""
        found: list[tuple[int, int]] = []
        for serial, a in self._appends.items():
            of = a.record
            same = of.key[0] == record.key[0] and of.key[2] == record.key[2]
            if a.state != state or not same or of.bytes_ != record.bytes_:
                continue
            # A completion was written behind where its issue's zone begins.
            behind = record.sector - of.sector
            if state == "completed":
                behind = -behind
            if behind >= 0 and (state != "given back" or behind == 0):
                found.append((behind, serial))
        return min(found)[1] if found else None

    # -- outputs -----------------------------------------------------------------------------

    def cut(self) -> list[DeviceStats]:
        """End an interval: its statistics, devices in reverse order of their first match."""
        self._sweep()
        stats = list(reversed(self._stats.values()))
        self._stats = {}
        return stats

    def waiting(self) -> list[Pending]:
        """What is pending, in the order in which it was stored."""
        return list(self._pending.values())

    def leftovers(self) -> list[Trace]:
        """What is pending, by hash chain and within one the most recently stored first."""
        newest_first = [p.record for p in reversed(self.waiting())]
        return sorted(newest_first, key=lambda p: p.chain)

    def totals(self) -> str:
        """The last line of the debug output."""
        line = (
            f"{len(self._pending)} leftover, {self.matched} match, {self.mismatched} mismatch, "
            f"{self.driverdata} driverdata, {self.overall} overall"
        )
        if self.evicted:
            line += f", {self.evicted} evicted"
        if self.lost_events:
            line += f", {self.lost_events} lost"
        if self.skipped:
            line += f", {self.skipped} bytes skipped"
        return line + "\n"

    def debug_text(self) -> str:
        """The whole debug output; leftovers and totals once the stream is finished."""
        text = "".join(self._mismatches)
        if self._finished:
            leftovers = "".join(debug_block("leftover", p) for p in self.leftovers())
            text += leftovers + self.totals()
        return text

    def driver_bytes(self) -> bytes:
        """The whole driver data output."""
        return b"".join(self._driver)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Everything that a stream gives in one interval."""

    human: bytes
    binary: bytes
    driver: bytes
    debug: bytes


def outputs(data: bytes, time_s: int = 0, *, original: bool = False) -> Outputs:
    """All outputs of one stream as a single interval that ends at `time_s`."""
    reference = Reference(original=original, as_original=True)
    reference.feed(data)
    return outputs_of(reference, reference.finish(), time_s)


def outputs_of(reference: Reference, stats: Iterable[DeviceStats], time_s: int = 0) -> Outputs:
    """All outputs of a reference that has finished, with the statistics of its one interval."""
    return Outputs(
        human_text(stats, time_s).encode(),
        binary(stats, time_s, reference.version),
        reference.driver_bytes(),
        reference.debug_text().encode(),
    )
