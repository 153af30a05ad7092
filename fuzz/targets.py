"""The targets: each takes an input, checks what must hold, and returns how many records it has fed.

An exception is a finding.  An input is 16 bytes of options and a stream; for ``decode``, statistics
as -b writes them; for ``from_bytes``, an interval between its head and its checksum; for ``json``,
lines.
"""

from __future__ import annotations

import heapq
import os
import random
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from intervals import use_all
from mutator import OPTION_BYTES
from records import Item, repeat, split
from reference import Reference

import blkiomon
from blkiomon._core import Engine
from blkiomon.commands import decode as stats_decoder
from blkiomon.commands.report.cells import cells_of
from blkiomon.commands.report.collect import collect
from blkiomon.engine import layout
from blkiomon.errors import IntervalError, ReportError, SourceError, StatsError, TraceError
from blkiomon.formats import stats_file, stats_reader
from blkiomon.formats.binary_codec import CRC_BYTES, MAGIC, VERSION
from blkiomon.interval.value import Interval
from blkiomon.sources.merger import Merger

U64 = 1 << 64
REQUEUE, ISSUE, COMPLETE, DRV_DATA = 1 << 21, 1 << 22, 1 << 23, 1 << 30
MOST_BYTES = 1 << 20
"""Of a repeated stream."""
REST_BYTES = MOST_BYTES * 64
"""More than any stream has."""
MOST_PIECES = 300
MOST_STOPS = 12
MOST_RECORDS_OF_REFERENCE = 80
"""The reference takes a hundred times as long as the engine."""

MAX_PENDING = (1, 2, 3, 7, 15, 16, 17, 64, 127, 128, 129, 1000, 1_000_000, 1_000_000)
SLOW_NS = (0, 1000, 10**6, U64 - 1)
MAX_AGE_NS = (0, 1, 1000, 10**6, 10**9, 600 * 10**9, 600 * 10**9, U64 - 1)
# Negative: each record is repeated that often before the next, so that as many are pending.
COPIES = (1, 1, 1, 2, 3, 16, 200, 1000, -2, -16, -200, -1000)
SECTOR_STEPS = (0, 1, 8, 128, 1 << 32, U64 - 8)
TIME_STEPS = (0, 1, 10**6, 10**9, U64 - 10**6)


class Options:
    """The first bytes of an input, each of which makes a choice."""

    def __init__(self, data: bytes) -> None:
        self._bytes = data.ljust(OPTION_BYTES, b"\0")

    def bit(self, n: int) -> bool:
        return bool(self._bytes[n // 8] >> n % 8 & 1)

    def of(self, at: int, choices: Any) -> Any:
        return choices[self._bytes[at] % len(choices)]

    def sizes(self, at: int) -> Iterator[int]:
        """Sizes of the pieces of a stream, repeated; after MOST_PIECES of them, all of the rest."""
        some = [(b & 15) << (b >> 4) for b in self._bytes[at:OPTION_BYTES] if b] or [REST_BYTES]
        for _ in range(MOST_PIECES // len(some)):
            yield from some
        while True:
            yield REST_BYTES

    def stream(self, data: memoryview, at: int) -> bytes:
        """Repeat the stream as three bytes of options say: how often, and with which steps."""
        wanted = self.of(at, COPIES)
        copies = min(abs(wanted), MOST_BYTES // max(len(data), 1) + 1)
        steps = self.of(at + 1, SECTOR_STEPS), self.of(at + 2, TIME_STEPS)
        return repeat(bytes(data), copies, *steps, each=wanted < 0)


def exactly(data: bytes | memoryview) -> np.ndarray[Any, Any]:
    """A copy of exactly these bytes: the sanitizer reports a read past their end."""
    return np.frombuffer(data, np.uint8).copy()


# --- the engine -----------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What an engine reports with any options."""

    snapshots: list[dict[str, bytes]]
    counters: dict[str, int]
    pending: int
    offset: int
    now_ns: int
    epoch_ns: int | None
    names: dict[int, str]
    skips: list[tuple[int, int]]
    error: str | None


def outcome(
    engine: Engine,
    stream: bytes,
    ends: list[int],
    sizes: Iterator[int],
    until_step: int,
) -> tuple[Outcome, list[Any]]:
    """Feed a stream in pieces, with snapshots at some offsets and where `until_ns` stops it.

    Each piece is freed as soon as it is fed.
    """
    snapshots: list[Any] = []
    skips: list[tuple[int, int]] = []
    error = None
    at = stops = 0
    until = until_step or None
    try:
        for end in [*ends, len(stream)]:
            while at < end:
                piece = exactly(stream[at : min(at + next(sizes), end)])
                at += len(piece)
                while True:
                    used = engine.feed(piece, until)
                    piece = piece[used:].copy()
                    stopped_at = engine.stopped_at_ns
                    if stopped_at is None:
                        assert not len(piece), "bytes were left over"
                        break
                    assert until is not None and stopped_at >= until
                    snapshots.append(engine.snapshot(until))
                    stops += 1
                    until = max(stopped_at + 1, until + (until_step << stops))
                    if stops == MOST_STOPS or until >= U64:
                        until = None
            skips += engine.take_skips()
            snapshots.append(engine.snapshot())
        engine.finish()
    except TraceError as caught:
        error = str(caught)
        assert caught.offset <= len(stream)
        for use in (engine.finish, lambda: engine.feed(b"x")):
            try:
                use()
            except TraceError as again:
                assert again is caught
            else:
                raise AssertionError("a failed engine goes on")
    snapshots.append(engine.snapshot())
    skips += engine.take_skips()
    tables = [
        {name: getattr(s, name).tobytes() for name in s.__dataclass_fields__} for s in snapshots
    ]
    return Outcome(
        tables, engine.counters(), engine.pending, engine.offset, engine.now_ns, engine.epoch_ns,
        dict(engine.process_names), skips, error,
    ), snapshots  # fmt: skip


def engine(data: memoryview) -> int:
    """Feed a stream whole and in pieces, with other options: the results are equal and add up.

    For a few records, they also equal those of the tests' slow reference.
    """
    options = Options(bytes(data[:OPTION_BYTES]))
    stream = options.stream(data[OPTION_BYTES:], 3)
    filtered = options.bit(6)
    limits: dict[str, Any] = {
        "max_pending": options.of(1, MAX_PENDING),
        "max_age_ns": options.of(2, MAX_AGE_NS),
        "resync": options.bit(5),
        "devices": [8 << 20, 8 << 20 | 16] if filtered else [],
        "from_ns": 10**9 if options.bit(7) else 0,
        "as_original": options.of(14, range(8)) in (1, 2),
    }
    keep = {
        "keep_details": options.bit(0),
        "keep_driver_data": options.bit(1),
        "keep_records": options.bit(2),
        "keep_requests": options.bit(3),
        "keep_slow": options.of(13, range(4)) == 1,
    }
    until_step = options.of(6, (0, 0, 0, 1, 10**6, 10**9, U64 // 4))
    rng = random.Random(options.of(7, range(256)))
    ends = sorted(rng.randrange(len(stream) + 1) for _ in range(options.of(8, range(5))))

    whole = Engine(**limits)
    expected, snapshots = outcome(whole, stream, ends, one_piece(), until_step)
    in_pieces = Engine(**limits, **keep)
    in_pieces._tune(spill_every=1, plain_cpu=True)
    in_pieces.set_slow_ns(options.of(12, SLOW_NS))
    got, _ = outcome(in_pieces, stream, ends, options.sizes(9), until_step)
    for name, a, b in zip(Outcome._fields, expected, got):
        assert a == b, f"{name} differs:\n{a}\n{b}"
    balance(expected, snapshots, stream)
    adds_up(in_pieces, got, limits, keep, options.of(12, SLOW_NS))
    for snapshot in snapshots:
        read_back(snapshot)
    if got.counters["records"] <= MOST_RECORDS_OF_REFERENCE and len(stream) < 1 << 15:
        if not (until_step or filtered or limits["from_ns"]):
            as_reference(limits, got, stream, ends)
    return 2 * got.counters["records"]


def one_piece() -> Iterator[int]:
    """Sizes of pieces, each larger than any stream."""
    return iter(lambda: REST_BYTES, 0)


def balance(found: Outcome, snapshots: list[Any], stream: bytes) -> None:
    """Check the sums that hold for any stream."""
    counters = found.counters
    assert sum(n for _, n in found.skips) == counters["skipped_bytes"]
    assert found.offset <= len(stream)
    if found.error is None:
        assert found.offset == len(stream)
    assert counters["records"] * 48 <= found.offset - counters["skipped_bytes"]
    matches = counters["requests"]
    assert sum(int(snapshot.rows["requests"].sum()) for snapshot in snapshots) == matches
    for name in ("d2c_bins", "size_bins"):
        assert sum(int(getattr(s, name)["count"].sum()) for s in snapshots) == matches, name
    for snapshot in snapshots:
        rows = snapshot.rows
        assert (rows["d2c_ns"]["min"] <= rows["d2c_ns"]["max"]).all()
        assert len(snapshot.d2c_bins) == 0 or snapshot.d2c_bins["row"].max() < len(rows)
    assert int(snapshots[-1].loads["in_flight"].max(initial=0)) <= found.pending


def adds_up(
    engine: Engine, found: Outcome, limits: dict[str, Any], keep: dict[str, bool], slow_ns: int
) -> None:
    """Check what the engine has collected against what it has counted."""
    counters = found.counters
    requests, slow = engine.take_requests(), engine.take_slow()
    if keep["keep_requests"]:
        assert len(requests) == counters["requests"]
    if keep["keep_slow"]:
        assert (slow["until_ns"] - slow["request"]["first_issued_ns"] > slow_ns).all()
        assert len(slow) <= counters["requests"]
        if keep["keep_requests"]:
            is_single = requests["issued_ns"] == requests["first_issued_ns"]
            those = requests[is_single & (requests["d2c_ns"] > slow_ns)]
            is_single = slow["request"]["issued_ns"] == slow["request"]["first_issued_ns"]
            found_slow = slow["request"][is_single]
            found_slow["pid"] = those["pid"] = 0  # a slow request has that of its queue record
            assert found_slow.tobytes() == those.tobytes()
        hanging, more = engine.take_hanging(found.now_ns, 0, 100)
        assert len(hanging) + more <= found.pending
        assert (hanging["until_ns"] > hanging["request"]["first_issued_ns"]).all()
        assert len(engine.take_hanging(found.now_ns, 0, 1)[0]) == 0
    if keep["keep_details"]:
        left = engine.leftovers()
        assert len(left) == found.pending <= limits["max_pending"]
        assert len(np.unique(left["order"])) == len(left)
        mismatches = engine.take_mismatches()
        assert len(mismatches) == counters["mismatches"]
        times = mismatches["older"]["record"]["time_ns"], mismatches["younger"]["record"]["time_ns"]
        assert (times[0] <= times[1]).all()
    driver_data = engine.take_driver_data()
    if keep["keep_records"]:
        records = engine.take_records()
        assert len(records) == counters["records"]
        lengths = int(records["pdu_len"].sum(dtype=np.uint64)) + 48 * len(records)
        rest = found.offset - counters["skipped_bytes"] - engine.padding_bytes - lengths
        assert rest >= 0
        if not counters["lost_events"]:  # the rest: 16 more bytes in headers of version 8
            assert rest % 16 == 0 and rest // 16 <= len(records)
        asked_for = records["time_ns"] >= limits["from_ns"]
        if limits["devices"]:
            asked_for &= np.isin(records["device"], limits["devices"])
        records = records[asked_for]
        is_driver_data = (records["action"] & DRV_DATA) != 0
        paired = ((records["action"] & (ISSUE | COMPLETE)) != 0) & ~is_driver_data
        pairs, others = 2 * counters["requests"], counters["mismatches"] + counters["evicted"]
        why = f"{int(paired.sum())} were paired: {counters}, {found.pending} pending"
        if limits["as_original"]:
            assert int(paired.sum()) == pairs + others + found.pending, why
        else:  # requests of several steps take any number of records, requeues among them
            requeues = (records["action"] & REQUEUE) != 0
            assert int((paired | requeues).sum()) >= pairs // 2 + found.pending, why
        assert int(is_driver_data.sum()) == counters["driver_data_records"]
        if keep["keep_driver_data"]:
            of_these = records[is_driver_data]
            assert len(driver_data) == 48 * len(of_these) + int(of_these["pdu_len"].sum())
    for again in (engine.take_requests(), engine.take_records(), engine.take_driver_data()):
        assert len(again) == 0


def as_interval(snapshot: Any) -> Interval:
    """An interval with this snapshot."""
    devices = list(dict.fromkeys(snapshot.rows["device"].tolist()))
    return Interval(time_s=1, devices=np.array(devices, np.uint32), snapshot=snapshot)


def read_back(snapshot: Any) -> None:
    """Write an interval's statistics as -b does, and read them again."""
    written = b"".join(stats_file.renderer("0.3")(as_interval(snapshot)))
    if written:
        stats = stats_reader.parse(written)
        assert stats.version == "0.3" and stats.tail_bytes == 0
        assert stats.records.astype(layout.STATS_03).tobytes() == written


def as_reference(limits: dict[str, Any], found: Outcome, stream: bytes, ends: list[int]) -> None:
    """Compare with the slow reference of the tests."""
    reference = Reference(
        max_pending=limits["max_pending"],
        max_age_ns=limits["max_age_ns"],
        resync=limits["resync"],
        as_original=limits["as_original"],
    )
    at = 0
    for end in ends:
        if reference.bad is None:
            reference.feed(stream[at:end])
            at = end
            if reference.bad is None:
                reference.cut()
    if reference.bad is None:
        reference.feed(stream[at:])
        reference.finish()
    reference.cut()
    bad = reference.bad
    assert (bad is None) == (found.error is None), (bad, found.error)
    if bad is not None:
        assert bad == found.offset
    ours = found.counters
    for name, theirs in (
        ("records", reference.overall),
        ("requests", reference.matched),
        ("mismatches", reference.mismatched),
        ("driver_data_records", reference.driverdata),
        ("evicted", reference.evicted),
        ("lost_events", reference.lost_events % U64),
        ("skipped_bytes", reference.skipped),
    ):
        assert ours[name] == theirs, f"{name}: {ours[name]}, by the reference {theirs}"


# --- the file merger ------------------------------------------------------------------------------


def merger(data: memoryview) -> int:
    """Merge files of several CPUs: the order of time, whatever the windows and reads."""
    options = Options(bytes(data[:OPTION_BYTES]))
    stream = options.stream(data[OPTION_BYTES:], 3)
    n_files = options.of(1, range(1, 10))
    resync = options.bit(0)
    files: list[list[bytes]] = [[] for _ in range(n_files)]
    records: list[list[tuple[int, bytes]]] = [[] for _ in range(n_files)]
    orders = set()
    are_records = True
    n = 0
    for i, item in enumerate(split(stream)):
        time = int.from_bytes(item.data[8:16], item.order)
        file = (time * 0x9E3779B1 >> 7 & 0xFFFF) % n_files
        if options.bit(1):
            file = i % n_files
        files[file].append(item.data)
        records[file].append((time, item.data))
        are_records &= item.version != 0
        orders.add(item.order)
        n += item.version != 0
    contents = [b"".join(pieces) for pieces in files]
    merged = Merger(
        [f"file {i}" for i in range(n_files)],
        [reader(content, options.sizes(10)) for content in contents],
        window_bytes=options.of(8, (1, 47, 48, 64, 100, 1000, 65536)),
        output_bytes=options.of(9, (64 + 65535, 1 << 20)),
        resync=resync,
    )
    out = []
    error = None
    try:
        while len(part := merged.read()):
            out.append(bytes(part))
    except TraceError as caught:
        error = caught
    result = b"".join(out)
    skips = merged.take_skips()
    assert sum(n for _, _, n in skips) == merged.skipped_bytes
    total = sum(map(len, contents))
    left_out = merged.skipped_bytes + merged.padding_bytes
    assert len(result) + left_out <= total
    if are_records and len(orders) == 1:
        assert error is None and not merged.failures and not skips and not merged.lost_events
        by_hand = heads_first(records)
        assert result == b"".join(by_hand), "not in order of time"
    elif resync:
        assert error is None and not merged.failures
        if not merged.lost_events:
            assert len(result) + left_out == total
    for failure in merged.failures:
        assert isinstance(failure, TraceError)
    # The result is whole records of one byte order: the engine takes it all, except a record of
    # version 8 that was cut to 48 bytes.
    taker = Engine(keep_records=True)
    taker_error = None
    try:
        taker.feed(exactly(result))
        taker.finish()
    except TraceError as caught:
        taker_error = caught
    if taker_error is not None:
        assert "cut to 48 bytes" in str(taker_error), taker_error
    else:
        assert taker.offset == len(result)
    return 2 * n


def reader(content: bytes, sizes: Iterator[int]) -> Any:
    """A function that reads a file, of these sizes at most."""
    at = 0

    def read(space: memoryview) -> int:
        nonlocal at
        piece = content[at : at + max(1, min(next(sizes), len(space)))]
        space[: len(piece)] = piece
        at += len(piece)
        return len(piece)

    return read


def heads_first(files: list[list[tuple[int, bytes]]]) -> Iterable[bytes]:
    """Merge files: always the record with the least time of all the files' next ones."""
    heads = [(file[0][0], i, 0) for i, file in enumerate(files) if file]
    heapq.heapify(heads)
    while heads:
        _, i, at = heads[0]
        yield files[i][at][1]
        if at + 1 < len(files[i]):
            heapq.heapreplace(heads, (files[i][at + 1][0], i, at + 1))
        else:
            heapq.heappop(heads)


# --- resynchronising ------------------------------------------------------------------------------

HARMLESS = bytes.maketrans(b"aC\0", b"bD?")
"""Removes from garbage what a reader treats specially: magics, marks of lost events, padding."""


def is_certain(item: Item) -> bool:
    """Whether a reader takes an item for a record wherever it begins.

    Its event exists, and a magic of version 7 does not precede the field order of version 8.
    """
    if not item.version or item.get("action") & 0xFFFF & ~0x100 > 19:
        return False
    return item.version == 8 or item.get("pid") <= 1 << 22


def resync(data: memoryview) -> int:
    """Put garbage between records: the engine and the merger find every record, and no others."""
    options = Options(bytes(data[:OPTION_BYTES]))
    stream = options.stream(data[OPTION_BYTES:], 3)
    pieces: list[bytes] = []
    records: list[bytes] = []
    skips: list[tuple[int, int]] = []
    at = 0
    order = None
    was_garbage = False
    for item in split(stream):
        piece = item.data
        if is_certain(item) and order in (None, item.order):
            order = item.order
            records.append(piece)
            was_garbage = False
        else:
            piece = piece.translate(HARMLESS)
            if was_garbage:
                skips[-1] = skips[-1][0], skips[-1][1] + len(piece)
            else:
                skips.append((at, len(piece)))
            was_garbage = True
        pieces.append(piece)
        at += len(piece)
    damaged = b"".join(pieces)

    engine = Engine(resync=True, keep_records=True)
    sizes = options.sizes(8)
    at = 0
    while at < len(damaged):
        piece_size = max(1, next(sizes))
        engine.feed(exactly(damaged[at : at + piece_size]))
        at += piece_size
    engine.finish()
    assert engine.take_skips() == skips
    assert engine.offset == len(damaged)
    undamaged = Engine(keep_records=True)
    undamaged.feed(b"".join(records))
    undamaged.finish()
    assert undamaged.counters()["records"] == len(records)
    assert engine.take_records().tobytes() == undamaged.take_records().tobytes()
    assert engine.counters() == undamaged.counters() | {"skipped_bytes": sum(n for _, n in skips)}

    merged = Merger(
        ["file"], [reader(damaged, options.sizes(8))], window_bytes=options.of(1, (1, 64, 4096)),
        resync=True,
    )  # fmt: skip
    out = []
    while len(part := merged.read()):
        out.append(bytes(part))
    assert b"".join(out) == b"".join(records)
    assert [skip[1:] for skip in merged.take_skips()] == skips
    return 3 * len(records)


# --- interval statistics --------------------------------------------------------------------------


def decode(data: memoryview) -> int:
    """Read statistics, print them in all forms, write the same bytes; or raise StatsError."""
    wire = bytes(data)
    try:
        stats = stats_reader.parse(wire)
    except StatsError as error:
        assert 0 <= error.offset <= len(wire)
        return 0
    dtype = {"0.3": layout.STATS_03, "0.2": layout.STATS_02}[stats.version]
    assert len(stats.records) * dtype.itemsize + stats.tail_bytes == len(wire)
    again = np.empty(len(stats.records), dtype)
    for name in dtype.names or ():
        again[name] = stats.records[name]
    written = again.tobytes()
    if stats.version == "0.3":
        assert written == wire[: len(written)]
    else:  # its last buckets may have been in either byte order
        read = np.frombuffer(wire, dtype, len(again))
        for name in dtype.names or ():
            upto = -1 if name.endswith("hist") else None
            assert (again[name][..., :upto] == read[name][..., :upto]).all()
        assert (stats_reader.parse(written).records == stats.records).all()
    for render in stats_decoder._RENDERERS.values():
        for text in render(stats.version, stats.records):
            assert text.endswith("\n")
    return len(stats.records)


# --- intervals that are read back -----------------------------------------------------------------


def from_bytes(data: memoryview) -> int:
    """Read an interval, and use, write and merge it; or raise IntervalError."""
    body = MAGIC + bytes([VERSION]) + data
    try:
        item = blkiomon.from_bytes(body + zlib.crc32(body).to_bytes(CRC_BYTES, "little"))
    except IntervalError as error:
        assert "\n" not in str(error)
        return 0
    use_all(item)
    return 1


LINES = Path(f"/dev/shm/blkiomon-fuzz-{os.getpid()}.jsonl")
"""In memory, if the system has a file system in memory."""


def json(data: memoryview) -> int:
    """Read lines as ``report`` does: its figures add up; or it raises an error of one line."""
    lines = bytes(data)
    path = LINES if LINES.parent.is_dir() else Path(LINES.name)
    path.write_bytes(b"{" + lines)  # else it is taken for a trace
    try:
        found = collect([str(path)], show_progress=False)
    except (ReportError, SourceError) as error:
        assert "\n" not in str(error), error
        return 0
    finally:
        path.unlink()
    use_all(found.whole)
    for item in found.slices:
        use_all(item)
    cells = cells_of(found.slices)
    assert (np.diff(cells.edges_s) >= 0).all()
    assert cells.histograms["d2c"].counts.sum() == found.whole.total.requests
    return len(found.slices)
