"""Structure-aware mutations: of records and their fields, of statistics, of numbers, of tokens.

Bytes changed at random nearly always break a magic or a length, and the reader ignores the rest.
So these mutations move, repeat and drop whole records, and set fields to interesting values or to
another record's: only then do issues and completions match.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from records import HEADER_BYTES, NAMES, Item, Order, record, split

from blkiomon.engine import layout

OPTION_BYTES = 16
"""Bytes ahead of a stream; they say how a target feeds it."""
ISSUE_OR_COMPLETE = 0xC0 << 16

U32, U63, U64 = (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1
TIMES = (0, 1, 999, 1000, 10**6, 10**9, 600 * 10**9, 600 * 10**9 + 1, U63, U64 - 1, U64)
SECTORS = (0, 1, 8, 127, 128, 1 << 20, U32, U63, U64)
SIZES = (0, 1, 512, 1023, 1024, 1025, 4096, 1 << 20, 1 << 30, U32 >> 1, U32 - 511, U32)
DEVICES = (0, 1, 0x800000, 0x800001, 0x800010, 0xFD00000, 0x10300000, U32)
CPUS = (0, 1, 2, 3, 7, 63, 255, 1023, 4095, 4096, 65535, 1 << 31, U32)
ACTIONS = (
    # Q, M, G, I, D, C, R, X, A, P, UT of reads and writes.
    0x110001, 0x120001, 0x110002, 0x010004, 0x01000C, 0x410007, 0x810008, 0x420007, 0x820008,
    0x1410007, 0x1810008, 0x1420007, 0x1820008, 0x2410007, 0x2810008, 0x210006, 0x02000D,
    0x12000F, 0x100009, 0x10000B,
    # Flush, discard, both issue and complete, driver data, notes, a cgroup's.
    0x1450007, 0x1850008, 0x218A0007, 0x21CA0008, 0xC10007, 0xC20008, 0x40000011, 0x40410011,
    0x4000000, 0x4000001, 0x4000002, 0x4000100, 0x1410107, 0x810108,
    # Of version 8: zones, write zeroes.
    0x1000420007, 0x1000820008, 0x4000420007, 0x4000820008, 0x10000410007, 0x10000810008,
    0x12, 0x13, 0x14, 0, U64,
)  # fmt: skip
VALUES = {"time": TIMES, "sector": SECTORS, "device": DEVICES, "cpu": CPUS, "action": ACTIONS}
STEPS = (1, 2, 8, 128, 500, 1000, 100_000, 10**10)
LOST_MARKS = (
    b"CPU:3 [LOST 17 EVENTS]\n", b"CPU:0 [LOST EVENTS]\n", b"CPU:12 [LOST 1 EVENTS",
    b"CPU:1 [LOST 9999999999999999999 EVENTS]\n", b"C",
)  # fmt: skip
NUMBERS = (
    0, 1, 2, 3, 127, 128, 1000, 3775, 3776, 1 << 31, U32, 1 << 36, 1 << 52, U63, U64 - 1, U64,
)  # fmt: skip
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[{}\[\],: \n]|[^{}\[\],: \n"]+', re.DOTALL)
TOKENS = (
    *b"0 1 -1 2 1.5 1e400 -0 NaN -Infinity null true false [] {} [[]] } ] { [ ,".split(),
    *(b"%d" % n for n in (1 << 52, U63, U63 + 1, -U63 - 1, U64, U64 + 1, (1 << 128) - 1)),
    b'""', b'"8:16"', rb'"\ud800"', b'"wall"', b'"trace"', b"\n",
)  # fmt: skip

Scramble = Callable[[bytes, int], bytes]
"""Changes bytes without knowing what they are, and lets them grow to that length at most."""


def flip_bits(rng: Random) -> Scramble:
    """A substitute for libFuzzer's own mutations."""

    def scramble(data: bytes, most: int) -> bytes:
        out = bytearray(data)
        if len(out) < most and rng.randrange(4) == 0:
            out.append(rng.randrange(256))
        for _ in range(rng.randrange(4) if out else 0):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        return bytes(out)

    return scramble


def interesting(rng: Random, name: str, old: int) -> int:
    """A value for a field: near the old one, of any width, or from the field's table."""
    if rng.randrange(3) == 0:
        return old + rng.choice((-1, 1)) * rng.choice(STEPS)
    if rng.randrange(8) == 0:
        return rng.getrandbits(64) >> rng.randrange(64)
    if name == "action" and rng.randrange(4) == 0:
        return old ^ 1 << rng.randrange(40)
    if name == "pid":
        return rng.randrange(64) if rng.randrange(2) else rng.choice(ACTIONS)
    return rng.choice(VALUES.get(name, SIZES))


# --- a stream of records ----------------------------------------------------------------------


def new_record(rng: Random, like: Item) -> Item:
    """A record, about half of whose fields are another's."""
    action = rng.choice(ACTIONS)
    values = {
        name: old if rng.randrange(2) else interesting(rng, name, old)
        for name in NAMES[:-1]
        for old in [like.get(name) if like.version else 0]
    } | {"action": action}
    payload = b""
    if action >> 26 & 1 or action >> 30 & 1 or rng.randrange(4) == 0:
        length = rng.randrange(40 if rng.randrange(8) else 3000)
        text = bytes(range(97, 123)) * 2 + rng.randbytes(26)
        payload = bytes(rng.choices(text, k=length))
    version, order = like.version, like.order
    if not version or rng.randrange(8) == 0:
        version = 7 if rng.randrange(4) else 8
    return record(version, order, payload, **values)


def converted(item: Item, version: int, order: Order) -> Item:
    """The same record in another version or byte order."""
    return record(version, order, item.payload, **{name: item.get(name) for name in NAMES})


def with_payload(rng: Random, item: Item) -> Item:
    """The record with another payload, rarely a long one."""
    most = 32 if rng.randrange(4) else 600 if rng.randrange(4) else 65536
    payload = (rng.randbytes(16) + bytes(range(16, 256)) * 256)[: rng.randrange(most)]
    header = item.data[: HEADER_BYTES[item.version]]
    return item._replace(data=header + payload).put(pdu_len=len(payload))


def garbage(rng: Random) -> bytes:
    """Random bytes, sometimes with the magic of a record, or a mark of lost events."""
    if rng.randrange(3) == 0:
        return rng.choice(LOST_MARKS)
    noise = rng.randbytes(rng.randrange(20 if rng.randrange(4) else 200))
    if rng.randrange(4) == 0 and len(noise) >= 4:
        at = rng.randrange(len(noise) - 3)
        noise = noise[:at] + rng.choice((b"\x07tae", b"eat\x07")) + noise[at + 4 :]
    return noise


def change_record(rng: Random, items: list[Item], i: int) -> None:
    """Change one field of a record: to an interesting value, or to about another record's."""
    item = items[i]
    name = rng.choice(NAMES[:-1])
    if rng.randrange(3):
        items[i] = item.put(**{name: interesting(rng, name, item.get(name))})
    elif (other := rng.choice(items)).version:
        near = 0 if rng.randrange(4) else rng.randrange(-1, 2)
        items[i] = item.put(**{name: other.get(name) + near})


def change_run(rng: Random, items: list[Item], i: int) -> None:
    """Change one field of up to 64 records by the same amount, or by one that falls evenly."""
    name = rng.choice(NAMES[:-1])
    by = interesting(rng, name, 0)
    slope = interesting(rng, name, 0) if rng.randrange(2) else 0
    for n, item in enumerate(items[i : i + rng.randrange(64) + 1]):
        if item.version:
            items[i + n] = item.put(**{name: item.get(name) + by - n * slope})


def move_run(rng: Random, items: list[Item], i: int) -> None:
    """Leave out a run of items, repeat it, or move it elsewhere."""
    run = slice(i, i + 1 + rng.randrange(4 if rng.randrange(4) else len(items)))
    moved = items[run]
    what = rng.choice(("drop", "move", "repeat"))
    if what != "repeat":
        del items[run]
    if what != "drop":
        at = rng.randrange(len(items) + 1)
        items[at:at] = moved


def add_partner(rng: Random, items: list[Item], i: int) -> None:
    """Add a record's completion, or its issue, somewhere after it."""
    item = items[i]
    action = item.get("action")
    partner = item.put(
        action=(action ^ ISSUE_OR_COMPLETE) + (1 if action & 1 else -1),
        time=item.get("time") + rng.randrange(10**6),
    )
    items.insert(rng.randrange(i, len(items)) + 1, partner)


def convert_run(rng: Random, items: list[Item], i: int) -> None:
    """Convert one record, or all from there on, to the other version or byte order."""
    version = rng.choice((7, 8))
    turn = rng.randrange(4) == 0
    other: dict[Order, Order] = {"little": "big", "big": "little"}
    for n in range(i, i + 1 if rng.randrange(2) else len(items)):
        if (item := items[n]).version:
            items[n] = converted(item, version, other[item.order] if turn else item.order)


def mutate_stream(rng: Random, stream: bytes, most: int, scramble: Scramble) -> bytes:
    """Change one record or one run of records, or some bytes of the stream."""
    items = list(split(stream))
    i = rng.randrange(len(items)) if items else 0
    item = items[i] if items else Item(b"")
    kind = rng.randrange(20)
    if kind < 2 or not items:
        items.insert(rng.randrange(len(items) + 1), new_record(rng, item))
    elif kind < 3:
        if rng.randrange(4) == 0:  # within a record
            at = rng.randrange(len(stream) + 1)
            return (stream[:at] + garbage(rng) + stream[at:])[:most]
        items.insert(rng.randrange(len(items) + 1), Item(garbage(rng)))
    elif kind < 6:
        move_run(rng, items, i)
    elif kind < 7:
        change_run(rng, items, i)
    elif kind < 8:
        convert_run(rng, items, i)
    elif kind < 9 and rng.randrange(4) == 0:  # cut off
        return stream[: max(0, len(stream) - rng.randrange(128))]
    elif kind < 10:
        at = rng.randrange(len(stream))
        piece = stream[at : at + 64]
        return stream[:at] + scramble(piece, len(piece)) + stream[at + len(piece) :]
    elif item.version:
        if kind < 16:
            change_record(rng, items, i)
        elif kind < 18:
            add_partner(rng, items, i)
        elif kind < 19:
            items[i] = with_payload(rng, item)
        elif rng.randrange(4) == 0:  # a false length
            items[i] = item.put(pdu_len=interesting(rng, "pdu_len", len(item.data)))
    changed = b"".join(item.data for item in items)
    return changed if len(changed) <= most else stream


def mutate_options(rng: Random, data: bytes, most: int, scramble: Scramble) -> bytes:
    """Change the options, or more often the stream after them."""
    options, stream = bytearray(data[:OPTION_BYTES].ljust(OPTION_BYTES, b"\0")), data[OPTION_BYTES:]
    if rng.randrange(6) == 0:
        options[rng.randrange(OPTION_BYTES)] = rng.randrange(256 if rng.randrange(2) else 8)
    else:
        for _ in range(1 if rng.randrange(2) else rng.randrange(4) + 1):
            stream = mutate_stream(rng, stream, most - OPTION_BYTES, scramble)
    return bytes(options) + stream


def cross_streams(rng: Random, a: bytes, b: bytes) -> bytes:
    """The beginning of one stream, then the end of another or some of its records."""
    items, others = list(split(a[OPTION_BYTES:])), list(split(b[OPTION_BYTES:]))
    head = items[: rng.randrange(len(items) + 1)]
    first = rng.randrange(len(others) + 1)
    tail = others[first:]
    if rng.randrange(2):
        tail = tail[: rng.randrange(len(tail) + 1)]
    return a[:OPTION_BYTES].ljust(OPTION_BYTES, b"\0") + b"".join(item.data for item in head + tail)


# --- statistics, as -b writes them ------------------------------------------------------------


def make_plausible(rng: Random, stats: Any) -> None:
    """Make the counts, histograms, minima and maxima of a struct agree, as ``decode`` requires."""
    stats["time"] %= 1 << 36
    for direction in "rw":
        stats[f"d2c_{direction}"]["count"] = stats[f"size_{direction}"]["count"]
    for name in stats.dtype.names:
        if name[-2:] in ("_r", "_w"):
            moments = stats[name]
            if moments["count"] == 0:
                moments["min"], moments["max"] = U64, 0
            elif moments["min"] > moments["max"]:
                moments["max"] = moments["min"]
    total = sum(int(stats[name]["count"]) for name in ("size_r", "size_w")) + int(stats["bidir"])
    for name in ("size_hist", "d2c_hist"):
        buckets = stats[name]
        fix = rng.randrange(len(buckets))
        buckets[fix] = 0
        buckets[fix] = (total - int(buckets.sum(dtype=np.uint64))) % (1 << 32)
        # The first version of the original did not swap the last bucket.
        if stats.dtype == layout.STATS_02 and rng.randrange(8) == 0:
            buckets[-1:] = buckets[-1:].byteswap()


def change_stats(rng: Random, stats: Any) -> None:
    """Set up to four buckets, times or moments of a struct, and mostly make it plausible again."""
    for _ in range(rng.randrange(4) + 1):
        number = rng.choice((rng.choice(NUMBERS), rng.getrandbits(64) >> rng.randrange(64)))
        name = rng.choice(stats.dtype.names[1:] if rng.randrange(16) else ("time",))
        if name.endswith("hist"):
            number = number & U32 if rng.randrange(2) else rng.randrange(100)
            stats[name][rng.randrange(len(stats[name]))] = number
        elif name[-2:] in ("_r", "_w"):
            stats[name][rng.choice(stats[name].dtype.names)] = number
        else:
            stats[name] = number % (1 << 8 * stats.dtype[name].itemsize)
    if rng.randrange(16):
        make_plausible(rng, stats)


def mutate_stats(rng: Random, data: bytes, most: int, scramble: Scramble) -> bytes:
    """Add, repeat, drop or change a struct."""
    dtype = layout.STATS_03
    if (len(data) % 424 and len(data) % 344 == 0) or (not data and rng.randrange(2)):
        dtype = layout.STATS_02
    whole = len(data) // dtype.itemsize
    stats, tail = np.frombuffer(data, dtype, whole).copy(), data[whole * dtype.itemsize :]
    kind = rng.randrange(12)
    i = rng.randrange(whole) if whole else 0
    if kind == 0:
        return scramble(data, most)
    if kind == 1 and rng.randrange(4) == 0:
        return data[: max(0, len(data) - rng.randrange(dtype.itemsize))]
    if kind == 2 or not whole:
        new = np.zeros(1, dtype)
        make_plausible(rng, new[0])
        stats = np.insert(stats, i, new)
    elif kind == 3:
        stats = np.delete(stats, i)
    elif kind == 4:
        stats = np.insert(stats, rng.randrange(whole + 1), stats[i])
    else:
        change_stats(rng, stats[i])
    changed: bytes = stats.tobytes() + tail
    return changed if len(changed) <= most else data


# --- numbers of seven bits a byte, as to_bytes writes them ------------------------------------


def any_number(rng: Random, data: bytes) -> tuple[int, int]:
    """Where some number begins and ends, or twice the end of the data."""
    begin = rng.randrange(len(data) + 1)
    while 0 < begin < len(data) and data[begin - 1] & 0x80:
        begin -= 1
    end = begin
    while end < len(data) and data[end] & 0x80:
        end += 1
    return begin, min(end + 1, len(data))


def mutate_numbers(rng: Random, data: bytes, most: int, scramble: Scramble) -> bytes:
    """Change, add or drop a number; rarely change bytes."""
    if rng.randrange(8) == 0:
        return scramble(data, most)
    begin, end = any_number(rng, data)
    value = read_number(data[begin:end])
    value = rng.choice((
        rng.choice(NUMBERS),
        value + rng.choice((-1, 1)),
        read_number(data[slice(*any_number(rng, data))]),
        value ^ 1 << rng.randrange(64),
        rng.randrange(300),
        rng.randrange(300),
    ))  # fmt: skip
    new = write_number(value & U64)
    how = rng.randrange(12)  # mostly in its place
    if how == 0:
        end = begin
    elif how == 1:
        new = b""
    changed = data[:begin] + new + data[end:]
    return changed if len(changed) <= most else data


def read_number(data: bytes) -> int:
    """The value of a number whose bytes have seven bits each, the lowest first."""
    return sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data))


def write_number(value: int) -> bytes:
    """The bytes of such a number: all but the last have their highest bit set."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


# --- JSON -------------------------------------------------------------------------------------


def any_token(rng: Random, data: bytes) -> int:
    """Where some token begins: after a delimiter."""
    at = rng.randrange(len(data))
    return max(data.rfind(delimiter, 0, at) for delimiter in b"{}[],:\n") + 1


def tokens_end(data: bytes, at: int, n: int) -> int:
    """Where n tokens end."""
    while n and (token := TOKEN.match(data, at)):
        at = token.end()
        n -= 1
    return at


def mutate_tokens(rng: Random, data: bytes, most: int, scramble: Scramble) -> bytes:
    """Replace, repeat or drop tokens; rarely change bytes."""
    kind = rng.randrange(8)
    if kind == 0 or not data:
        return scramble(data, most)
    begin = any_token(rng, data)
    end = tokens_end(data, begin, 1 if rng.randrange(6) else 0)  # mostly in the place of another
    if kind == 1:
        end = tokens_end(data, begin, 1 + rng.randrange(4))
        new = b""
    elif kind < 4:
        other, n = any_token(rng, data), 1
        while rng.randrange(3) == 0:
            n += 1
        new = data[other : tokens_end(data, other, n)]
    elif kind == 4:
        new = b"%d" % (rng.getrandbits(64) >> rng.randrange(64))
    else:
        new = rng.choice(TOKENS)
    changed = data[:begin] + new + data[end:]
    return changed if len(changed) <= most else data


# --- what a fuzzer asks for -------------------------------------------------------------------

MUTATIONS = {"decode": mutate_stats, "from_bytes": mutate_numbers, "json": mutate_tokens}
"""By target; the inputs of all others are options and a stream."""


def mutate(target: str, data: bytes, most: int, rng: Random, scramble: Scramble) -> bytes:
    """A target's input with a few changes, of `most` bytes at most."""
    mutation = MUTATIONS.get(target, mutate_options)
    for _ in range(1 + rng.randrange(3) if target in ("from_bytes", "json") else 1):
        data = mutation(rng, data, most, scramble)
    return data[:most]


def cross(target: str, a: bytes, b: bytes, most: int, rng: Random) -> bytes:
    """The beginning of one input of a target, then the end of another."""
    if target not in MUTATIONS:
        out = cross_streams(rng, a, b)
    elif target == "decode":
        out = a[: len(a) // 424 * 424] + b
    else:
        out = a[: rng.randrange(len(a) + 1)] + b[rng.randrange(len(b) + 1) :]
    return out[:most]
