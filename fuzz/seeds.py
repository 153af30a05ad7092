"""Cuts the seeds of the corpus out of the recorded traces of the tests.

    .venv/bin/python fuzz/seeds.py        # writes fuzz/corpus/TARGET/NAME

The traces are little-endian and of version 7; the seeds have both versions and byte orders.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests"))

from intervals import HUNG, SDB, Io, interval_of  # noqa: E402
from mutator import OPTION_BYTES, converted  # noqa: E402
from records import Item, Order, split  # noqa: E402
from streams import generate  # noqa: E402
from tracewriter import complete, encode, issue  # noqa: E402

from blkiomon import Interval, summarize, to_bytes, to_dict  # noqa: E402

CORPUS = TOP / "fuzz" / "corpus"
RECORDS = (4, 60)
"""How many a small seed and a large seed have."""

# What targets.engine reads: byte 0: bits, 1: max_pending, 2: max_age_ns, 3 to 5: repetition,
# 6: until_step, 7 and 8: ends, from 9: sizes; also 12: slow_ns, 13: keep_slow, 14: as_original.
OPTIONS = {
    "engine": [
        bytes(16),
        bytes([0b00001111, 3, 2, 0, 0, 0, 0, 5, 2, 0x1F, 0x31, 0x05]),
        bytes([0b00110000, 12, 5, 7, 2, 2, 0, 9, 3, 0x55, 0, 0, 0, 0, 0, 7]),
        bytes([0b01100101, 8, 3, 6, 1, 1, 4, 7, 4, 0x42, 0x01]),
        bytes([0b00000001, 12, 5, 11, 2, 0]),
        bytes([0b00000000, 12, 5, 6, 1, 2, 0, 3, 2, 0, 0, 0, 0, 1, 7]),
    ],
    "merger": [bytes(16), bytes([2, 3, 0, 5, 0, 3, 0, 0, 1, 0, 0x31]), bytes([3, 8, 0, 6, 1, 2])],
    "resync": [bytes(16), bytes([0, 1, 0, 5, 0, 3, 0, 0, 0x11, 0x43])],
}


def records_of(trace: bytes, first: int, most: int) -> list[Item]:
    """At most that many records of a trace, without its first ones."""
    return list(islice((item for item in split(trace) if item.version), first, first + most))


def joined(records: list[Item], version: int = 7, order: Order = "little") -> bytes:
    """A stream of these records in a version and byte order."""
    return b"".join(converted(record, version, order).data for record in records)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Names and streams: pieces of all traces, by turns in each version and byte order."""
    forms: list[tuple[int, Order]] = [(7, "little"), (8, "little"), (7, "big"), (8, "big")]
    for i, path in enumerate(sorted((TOP / "tests" / "data").glob("*.bin"))):
        trace = path.read_bytes()
        for n in RECORDS:
            version, order = forms[i % len(forms)]
            i += 1
            name = f"{path.stem}-{n}-v{version}{order[0]}e"
            yield name, joined(records_of(trace, 997 * i, n), version, order)
    little = joined(records_of(trace, 100, 6))
    yield "garbage", little[:96] + b"eat\x07garbage" + little[96:]
    pairs = [issue(1000 * n, 8 * n, 4096) for n in range(4)]
    pairs += [complete(5000 + n, 8 * n, 4096) for n in range(4)]
    for i in range(5):  # with several of the engine's options
        yield f"pairs-{i}", encode(pairs)
    for seed in range(8):  # of requests in several steps
        yield f"steps-{seed}", generate(seed, avoid="nothing", count=60).data
    yield "lost", little[:96] + b"CPU:1 [LOST 23 EVENTS]\n" + little[96:]
    yield "cut", little[:-20]


def write(target: str, name: str, data: bytes) -> None:
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def main() -> None:
    for target, options in OPTIONS.items():
        for i, (name, stream) in enumerate(seeds()):
            write(target, name, options[i % len(options)].ljust(OPTION_BYTES, b"\0") + stream)
    for name in ("loop-multi-dc", "loop-phases-dc"):
        stats = (TOP / "tests" / "golden" / f"{name}.binary").read_bytes()
        write("decode", f"{name}-03", stats[: 3 * 424])
        # The earlier layout: without throughput, the device last.
        early = [
            stats[at : at + 172] + stats[at + 176 : at + 336] + stats[at + 416 : at + 424]
            + stats[at + 172 : at + 176]
            for at in range(0, min(3 * 424, len(stats)), 424)
        ]  # fmt: skip
        write("decode", f"{name}-02", b"".join(early))
    for name, item in stored_intervals():
        write("from_bytes", name, to_bytes(item)[5:-4])
        line = json.dumps(to_dict(item), separators=(",", ":")).encode() + b"\n"
        write("json", name, line[1:])
        write("json", f"{name}-twice", line[1:] + line)


def stored_intervals() -> Iterator[tuple[str, Interval]]:
    """Names and small intervals: of recorded traces, and one with every kind of contents."""
    for path in sorted((TOP / "tests" / "data").glob("*.bin")):
        yield path.stem, summarize(joined(records_of(path.read_bytes(), 5000, 80)))
    ios = [
        Io(SDB, "read", 4096, 0, 1000, q2d_ns=5, pid=3),
        Io(SDB, "read", 512, 0, 77, q2d_ns=900, pid=4),
        Io(SDB, "write", 4096, 9, 1_000_000, error=True),
        Io(HUNG, "write", 4096, 5, None),
    ]
    yield "everything", interval_of(ios, 0, 10**9, {3: "dd"})


if __name__ == "__main__":
    main()
