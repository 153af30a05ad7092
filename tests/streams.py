"""Deterministic random record streams, made to hit every rule of pairing and accounting.

What a stream has to avoid depends on who reads it (`avoid`):

- "nothing": anything that ours has to handle, such as completions under 1 us after their issue,
  driver records without payload, and records of version 8 in between.
- "crashes": what the original survives. Excluded are matches under 1 us (it divides by zero),
  driver records without payload (it ends) and version 8 (it rejects it). Its arithmetic may wrap.
- "faults": what the original gets right. This also excludes requests of more than 4294967 bytes
  (size * 1000 wraps at 32 bits) and sums of 2^32 and more for a device and direction (var squares
  them in 64 bits). Requests that are neither read nor write have no such figures: all sizes occur.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from dataclasses import replace as replace_in
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tracewriter as tw
from tracewriter import Record, replace

from blkiomon.engine import layout

Avoid = Literal["nothing", "crashes", "faults"]
Records = npt.NDArray[np.void]

U32 = 1 << 32
U64 = 1 << 64
KEY_BITS = (tw.READ | tw.WRITE | tw.FS | tw.PC) << tw.CATEGORY_SHIFT
ISSUE = tw.ISSUE << tw.CATEGORY_SHIFT
COMPLETE = tw.COMPLETE << tw.CATEGORY_SHIFT
DRV_DATA = tw.DRV_DATA << tw.CATEGORY_SHIFT

_DIRECTIONS = (
    [tw.READ | tw.FS] * 4
    + [tw.WRITE | tw.FS] * 4
    + [tw.READ, tw.WRITE, 0, tw.READ | tw.WRITE, tw.FS, tw.PC, tw.READ | tw.PC, tw.WRITE | tw.PC]
    + [tw.READ | tw.WRITE | tw.FS | tw.PC, tw.READ | tw.FLUSH, tw.WRITE | tw.FS | tw.DISCARD]
)
_EXTRAS = [tw.SYNC, tw.META, tw.FUA, tw.AHEAD, tw.FLUSH, tw.DISCARD, tw.QUEUE, tw.REQUEUE]
_EXTRAS_V8 = [tw.ZONE_APPEND, tw.ZONE_RESET, tw.ZONE_FINISH, tw.WRITE_ZEROES]


@dataclass(frozen=True, slots=True)
class Stream:
    """Records with the version and byte order they are written in."""

    seed: int
    records: tuple[Record, ...]
    version: int
    byteorder: str

    @property
    def data(self) -> bytes:
        """The bytes."""
        return tw.encode(self.records, self.version, self.byteorder)

    def twin(self) -> Stream:
        """The same records, all in version 8: no figure may change."""
        records = tuple(replace(r, version=None) for r in self.records)
        return Stream(self.seed, records, 8, self.byteorder)

    def swapped(self) -> Stream:
        """The same records from a machine of the other byte order."""
        return replace_in(self, byteorder="<" if self.byteorder == ">" else ">")


def cut_anywhere(data: bytes, rng: random.Random, most: int | None = None) -> Iterator[bytes]:
    """A stream in pieces of random lengths, of at most ``most`` bytes."""
    while data:
        n = rng.randint(1, len(data) if most is None else most)
        yield data[:n]
        data = data[n:]


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    """A number of any magnitude between the two, both included."""
    bits = rng.randint(low.bit_length(), high.bit_length())
    return max(low, min(high, rng.getrandbits(bits) if bits else 0))


class _Generator:
    """The choices of one stream."""

    def __init__(self, seed: int, avoid: Avoid, count: int | None) -> None:
        self.rng = rng = random.Random(f"blkiomon {seed} {avoid}")
        self.avoid = avoid
        self.count = rng.choice([3, 20, 60, 150, 300]) if count is None else count
        self.devices = [
            rng.choice([8 << 20, 7 << 20 | 1, 259 << 20 | 3, U32 - 1, 1 << 31, rng.getrandbits(32)])
            for _ in range(rng.randint(1, 4))
        ]
        self.sectors = [self._sector() for _ in range(rng.choice([1, 3, 10, 100]))]
        self.wild = rng.random() < 0.5
        self.disorder = rng.choice([0.0, 0.1, 0.5])
        self.loss = rng.choice([0.0, 0.05, 0.3])
        self.noise = rng.choice([0.0, 0.1, 0.5])
        self.start = rng.choice([0, 10**9, 10**15, (1 << 63) - 10**7, U64 - 10**9, 1 << 61])
        self.tick = rng.choice([0, 1, 1000, 50_000, 10**6])
        self.extremes = rng.random() < 0.2

    def _sector(self) -> int:
        rng = self.rng
        return rng.choice(
            [rng.randrange(1024) * 8, rng.randrange(300), rng.getrandbits(64), U64 - 1, 0]
        )

    def _size(self) -> int:
        rng = self.rng
        if self.wild:
            return _log_uniform(rng, 0, U32 - 1)
        shape = rng.random()
        if shape < 0.1:
            return rng.choice([0, 1, 1023, 1024, 1025, 2048, 2049, 8388608, 8388609])
        return rng.choice([4096, 8192, 65536, 131072, 512 * rng.randint(1, 2048)])

    def _latency(self) -> int:
        rng = self.rng
        low = 0 if self.avoid == "nothing" else 1000
        shape = rng.random()
        if shape < 0.1:
            return 1000 * (8 << rng.randrange(24)) + rng.choice([-1, 0, 999, 1000])
        if self.wild:
            return _log_uniform(rng, low, 1 << rng.choice([14, 30, 44, 62]))
        return rng.randint(low, rng.choice([10_000, 300_000, 50_000_000]))

    def _category(self) -> int:
        rng = self.rng
        category = rng.choice(_DIRECTIONS)
        while rng.random() < 0.3:
            category |= rng.choice(_EXTRAS)
        if self.avoid == "nothing" and rng.random() < 0.1:
            category |= rng.choice(_EXTRAS_V8)
        return category

    def _payload(self, low: int = 0) -> bytes:
        rng = self.rng
        return rng.randbytes(rng.choice([low, 1, 3, 8, 13, rng.randint(low, 200)]))

    def _odd_fields(self) -> dict[str, int]:
        rng = self.rng
        if self.extremes:
            wide = rng.choice([U32 - 1, 1 << 31, rng.getrandbits(32)])
            return {"sequence": wide, "pid": wide, "cpu": wide, "error": rng.getrandbits(16)}
        return {
            "sequence": rng.randrange(1000),
            "pid": rng.randrange(40000),
            "cpu": rng.randrange(4),
            "error": rng.choice([0, 0, 0, 5, 121]),
        }

    def _request(self, now: int) -> list[Record]:
        """An issue and its completion, either of which may be lost."""
        rng = self.rng
        device, sector = rng.choice(self.devices), rng.choice(self.sectors)
        category, size = self._category(), self._size()
        end = now + self._latency()
        done = category if rng.random() < 0.9 else category ^ rng.choice([tw.SYNC, tw.META, tw.FS])
        first = tw.issue(now, sector, size, category, device, **self._odd_fields())
        size = size if rng.random() < 0.8 else self._size()
        last = tw.complete(end, sector, size, done, device, **self._odd_fields())
        pair = [r for r in (first, last) if rng.random() >= self.loss]
        if self.avoid == "nothing" and rng.random() < 0.2:
            return [r for r in self._steps(first, last) if rng.random() >= self.loss]
        chance = rng.random()
        if chance < 0.05 and pair:
            pair.append(rng.choice(pair))
        elif chance < 0.08 and pair:
            pair.append(replace(rng.choice(pair), bytes_=self._size()))
        elif chance < 0.18 and pair:
            index = rng.randrange(len(pair))
            action = pair[index].action
            if chance < 0.11:
                action |= ISSUE | COMPLETE
            elif chance < 0.14:
                pair[index] = replace(pair[index], payload=self._payload())
            elif chance < 0.16:
                action = action & ~0xFFFF | rng.choice([0, 1, 6, 17, 0x107, 0x108, 0xFFFF])
            else:
                action |= tw.NOTIFY << tw.CATEGORY_SHIFT
            pair[index] = replace(pair[index], action=action)
        return pair

    def _steps(self, first: Record, last: Record) -> list[Record]:
        """The same request, which the kernel completes in parts, requeues, or appends to a zone."""
        rng = self.rng
        records = [first]
        if rng.random() < 0.3:
            append = tw.ZONE_APPEND << tw.CATEGORY_SHIFT
            first = replace(first, action=first.action | append)
            written = (last.sector + rng.choice([0, 8, 64])) % U64
            last = replace(last, action=last.action | append, sector=written, bytes_=first.bytes_)
            records = [first]
        at_ns = first.time_ns
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
            paired = (tw.ISSUE | tw.COMPLETE) << tw.CATEGORY_SHIFT
            requeue = first.action & ~paired & ~0xFFFF | tw.act(tw.REQUEUE, tw.EV_REQUEUE)
            at_ns += rng.randint(0, 20_000)
            records.append(replace(first, action=requeue, time_ns=at_ns, payload=b""))
            at_ns += rng.randint(0, 20_000)
            records.append(replace(first, time_ns=at_ns))
        sector, left = last.sector, first.bytes_
        end_ns = max(at_ns, last.time_ns)
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
            part = rng.choice([0, 512, 1024, left // 2 // 512 * 512])
            if part < left:
                records.append(replace(last, sector=sector, bytes_=part, error=0, time_ns=end_ns))
                sector, left = (sector + part // 512) % U64, left - part
                end_ns += rng.choice([0, 1, 5000])
        records.append(replace(last, sector=sector, bytes_=left, time_ns=end_ns))
        if rng.random() < 0.3:
            records.append(replace(last, sector=sector, bytes_=0, time_ns=end_ns + 1))
        return records

    def _noise(self, now: int, byteorder: str) -> Record:
        """A record that takes no part in pairing."""
        rng = self.rng
        device, sector = rng.choice(self.devices), rng.choice(self.sectors)
        fields = self._odd_fields()
        shape = rng.randrange(6)
        least = 0 if self.avoid == "nothing" else 1
        if shape == 0:
            extra = rng.choice([0, 0, tw.ISSUE | tw.READ, tw.COMPLETE | tw.WRITE, tw.NOTIFY])
            return tw.driver_data(now, self._payload(least), device, extra, **fields)
        if shape == 1:
            return tw.notify_timestamp(now, rng.getrandbits(32), rng.randrange(10**9), byteorder)
        if shape == 2:
            return tw.notify_process(now, rng.getrandbits(15), "worker")
        if shape == 3:
            action = tw.act(tw.NOTIFY, tw.NT_MESSAGE)
            return Record(now, 0, 0, action, device, payload=b"say " + self._payload())
        event = rng.choice([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 15, 0x10D, 99, 0xFFFF])
        category = self._category() & ~(tw.ISSUE | tw.COMPLETE)
        action = tw.act(category, event)
        return Record(now, sector, self._size(), action, device, payload=self._payload(), **fields)

    def stream(self) -> Stream:
        """All records, in an order near or far from that of their times."""
        rng = self.rng
        byteorder = rng.choice((tw.HOST, tw.HOST, tw.FOREIGN))
        now = self.start
        records: list[Record] = []
        while len(records) < self.count:
            if self.tick:
                now += rng.randrange(2 * self.tick)
            if rng.random() < self.noise:
                records.append(self._noise(now, byteorder))
            else:
                records += self._request(now)
                if self.loss and rng.random() < self.loss:
                    records.append(self._noise(now, byteorder))
        records = [r if r.time_ns < U64 else replace(r, time_ns=U64 - 1) for r in records]
        if self.disorder < 0.5:
            records.sort(key=lambda r: r.time_ns)
        swaps = int(len(records) * self.disorder)
        for _ in range(swaps):
            index = rng.randrange(len(records))
            other = max(0, index - rng.randint(1, 8))
            records[index], records[other] = records[other], records[index]
        if self.avoid != "nothing":
            records = _filtered(records, _is_harmless(self.avoid))
        elif rng.random() < 0.3:
            records = [replace(r, version=rng.choice([7, 8])) for r in records]
        version = 7 if self.avoid != "nothing" else rng.choice([7, 8])
        # A version 7 action has no room for the zone bits: without them both versions agree.
        if version == 7 or any(r.version == 7 for r in records):
            records = [r if r.action < U32 else replace(r, action=r.action % U32) for r in records]
        return Stream(0, tuple(records), version, byteorder)


def _is_harmless(avoid: Avoid) -> Callable[[Record, Record], bool]:
    """A check of each match (issue, completion) in stream order, which keeps running sums."""
    sums: dict[tuple[int, bool], list[int]] = {}

    def check(first: Record, last: Record) -> bool:
        d2c = (last.time_ns - first.time_ns) // 1000
        if d2c == 0:
            return False
        direction = last.action >> tw.CATEGORY_SHIFT & (tw.READ | tw.WRITE)
        if avoid == "crashes" or direction == 0:
            return True
        if first.bytes_ * 1000 >= U32:
            return False
        key = first.device, bool(direction & tw.READ)
        new = (first.bytes_, d2c, first.bytes_ * 1000 // d2c)
        total = [old + value for old, value in zip(sums.get(key, [0, 0, 0]), new, strict=True)]
        if max(total) >= U32:
            return False
        sums[key] = total
        return True

    return check


def _filtered(records: list[Record], harmless: Callable[[Record, Record], bool]) -> list[Record]:
    """Leave out each record that would complete a match which the original gets wrong."""
    kept: list[Record] = []
    pending: dict[tuple[int, int, int], Record] = {}
    for record in records:
        if record.action & (ISSUE | COMPLETE) and not record.action & DRV_DATA:
            key = record.device, record.sector, record.action & KEY_BITS
            other = pending.get(key)
            if other is None:
                pending[key] = record
            else:
                inorder = other.time_ns < record.time_ns
                older, younger = (other, record) if inorder else (record, other)
                if older.action & ISSUE and younger.action & COMPLETE:
                    if not harmless(older, younger):
                        continue
                    del pending[key]
                else:
                    pending[key] = younger
        kept.append(record)
    return kept


# --- many records at once -------------------------------------------------------------------------


def issues(n: int, **columns: Any) -> Records:
    """Issues of version 7 in the host's byte order, shape (n,): reads of 4096 bytes on 8:0.

    Args:
        n: how many.
        columns: of `layout.TRACE_V7`, instead of these or of 0.
    """
    records = np.zeros(n, layout.TRACE_V7)
    action = tw.act(tw.READ | tw.ISSUE, tw.EV_ISSUE)
    usual = {"magic": tw.MAGIC | 7, "bytes": 4096, "device": 8 << 20, "action": action}
    for name, values in (usual | columns).items():
        records[name] = values
    return records


def completions(issues: Records, d2c_ns: Any) -> Records:
    """The completion of each issue, that much later: a number, or one for each."""
    records = issues.copy()
    records["action"] = tw.act(tw.READ | tw.COMPLETE, tw.EV_COMPLETE)
    records["time"] += np.asarray(d2c_ns, "u8")
    return records


def in_turn(*arrays: Records) -> Records:
    """The first record of each array, then the second of each, and so on."""
    return np.stack(arrays, axis=1).ravel()


def by_time(*arrays: Records) -> Records:
    """All of these records, in order of their times."""
    records = np.concatenate(arrays)
    return records[np.argsort(records["time"], kind="stable")]


def generate(seed: int, avoid: Avoid = "crashes", count: int | None = None) -> Stream:
    """The stream of a seed; about `count` records, or a number that the seed chooses."""
    return replace_in(_Generator(seed, avoid, count).stream(), seed=seed)
