"""The table of pending records, compared with a dict while it grows and shrinks."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
import streams
from tuned import fed

from blkiomon._core import Engine

SIZES = [32]  # of the table in groups: it grows by half, and by 32 at least
while len(SIZES) < 10:
    SIZES.append(SIZES[-1] + max(32, SIZES[-1] // 2))

Numbers = npt.NDArray[np.uint64]


def records_of(sectors: Numbers, times: Numbers) -> npt.NDArray[np.void]:
    """Issues; the low 32 bits of a number are its size in bytes."""
    sizes, devices = sectors.astype("u4"), sectors % np.uint64(3)
    return streams.issues(len(sectors), time=times, sector=sectors, bytes=sizes, device=devices)


def completed(issues: streams.Records) -> streams.Records:
    return streams.completions(issues, 1 << 40)


@pytest.mark.parametrize("pattern", ["ascending", "random", "same low bits"])
def test_every_entry_is_found_after_growing(pattern: str) -> None:
    """Adds and removes at random, until a rehash frees the pages of the old table one by one."""
    rng = np.random.default_rng(len(pattern))
    n = 120_000
    numbers = np.arange(1, n + 1, dtype="u8")
    if pattern == "random":
        numbers = np.unique(rng.integers(0, 1 << 63, n, dtype="u8"))
        rng.shuffle(numbers)
    elif pattern == "same low bits":
        numbers <<= np.uint64(32)
    issues = records_of(numbers, np.arange(len(numbers), dtype="u8"))
    engine = Engine(keep_requests=True, max_age_ns=2**64 - 1)
    is_pending = np.zeros(len(issues), bool)
    at = 0
    while at < len(issues) or is_pending.any():
        new = issues[at : at + int(rng.integers(1, 6000))]
        # Add for a while, then remove most; repeat, and remove all at the end.
        is_last = at + len(new) == len(issues)
        share = 1.0 if is_last else 0.7 if (at + len(new)) // 20_000 % 3 == 2 else 0.05
        out = is_pending & (rng.random(len(issues)) < share)
        both = np.concatenate([new, completed(issues[out])])
        engine.feed(both[rng.permutation(len(both))].tobytes())
        is_pending &= ~out
        is_pending[at : at + len(new)] = True
        at += len(new)
        requests = engine.take_requests()
        requests.sort(order="issued_ns")  # each has a time of its own
        for name, ours in (("issued_ns", "time"), ("sector", "sector"), ("bytes", "bytes")):
            assert np.array_equal(requests[name], issues[out][ours])
        assert (requests["d2c_ns"] == 1 << 40).all()
        assert engine.pending == is_pending.sum()
    assert engine.counters()["mismatches"] == 0


def test_releasing_many_groups_at_once_keeps_the_table_right() -> None:
    n = 400_000  # far more than the 61,440 slots of 4,096 groups
    rng = np.random.default_rng(1)
    issues = records_of(rng.permutation(n).astype("u8") * np.uint64(8), np.arange(n, dtype="u8"))
    engine = Engine(max_age_ns=2**64 - 1)
    for first in range(0, n, 30_000):
        engine.feed(issues[first : first + 30_000].tobytes())
        # Remove some of all entries, and add them again.
        some = issues[rng.integers(0, min(n, first + 30_000), 500)]
        some = some[np.unique(some["sector"], return_index=True)[1]]
        engine.feed(completed(some).tobytes())
        engine.feed(some.tobytes())
        assert engine.pending == min(n, first + 30_000)
    assert engine.counters()["mismatches"] == 0
    rng.shuffle(issues)
    engine.feed(completed(issues).tobytes())
    assert engine.pending == 0
    assert engine.counters()["mismatches"] == 0
    rows = engine.snapshot().rows
    assert int(rows["requests"].sum()) == engine.requests


@pytest.mark.parametrize("groups", SIZES)
@pytest.mark.parametrize("off", [-200, 0, 200])
def test_table_is_right_around_each_size(groups: int, off: int) -> None:
    n = groups * 10 + off
    rng = random.Random(n)
    numbers = np.array(rng.sample(range(1 << 50), n), "u8")
    issues = records_of(numbers, np.arange(n, dtype="u8"))
    engine = fed(issues.tobytes(), max_age_ns=2**64 - 1)
    assert engine.pending == n
    engine.feed(completed(issues)[::-1].tobytes())
    assert engine.pending == 0
    assert engine.requests == n


def test_bounded_table_stays_full_and_right_while_records_come_and_go() -> None:
    rng = np.random.default_rng(2)
    most = 2000
    n = 60_000
    issues = records_of(rng.permutation(n).astype("u8"), np.arange(n, dtype="u8"))
    engine = Engine(max_pending=most, max_age_ns=2**64 - 1)
    matches = 0
    for first in range(0, n, 1000):
        engine.feed(issues[first : first + 1000].tobytes())
        assert engine.pending <= most
        if first >= 1000:
            # Completes a part of the previous thousand, which are too young to be evicted.
            engine.feed(completed(issues[first - 500 : first - 100]).tobytes())
            matches += 400
        assert engine.requests == matches
