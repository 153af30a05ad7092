"""What do lost completions cost, and what does looking for them cost alone?

Whoever remembers every request that is never completed has to look, at each issue, whether it
takes the place of one of them. The least such a look can be is one at a few bits, chosen by a hash
of the key, which tell for most keys that they are not there. No such filter is smaller than
log2(1/e) bits a key, if it is to be wrong for a share e of the others: of half a million keys, none
that is wrong for less than a tenth fits 200 KB, so that no core's nearest cache holds it, and each
issue needs another of its lines.
`look` below does nothing but that, for 128 records at a time. What it costs more than the same walk
without the filter is a look's own price, here and now; `benchmarks misses` counts what the engine's
takes, in instructions and lines.

All take turns, and each is compared with the first in the same turn.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import streams
from benchmarks.engine import as_bytes
from benchmarks.report import Options, Table
from blkiomon._core import Engine
from blkiomon.engine.layout import TRACE_V7

M = 1_000_000
ROUND = M // 2
"""Requests of the streams, which are repeated."""
BEFORE = 100
"""Rounds before anything is measured: a million records each."""
TURNS = 30
LOST = 0.01
BITS_EACH = 4
FEED_RECORDS = 128 * 1024 // TRACE_V7.itemsize
"""So much at a time: the second look at it finds it in a near cache."""

SOURCE = r"""
#include <stdint.h>

#define BATCH 128

struct record {
    uint32_t magic, sequence;
    uint64_t time, sector;
    uint32_t bytes, action, pid, device, cpu;
    uint16_t error, pdu_len;
};

static inline uint64_t hash(uint64_t sector, uint32_t key)
{
    uint64_t mixed = key ^ 0xc2b2ae3d27d4eb4f;
    unsigned __int128 product = (unsigned __int128)(sector ^ 0x9e3779b97f4a7c15) * mixed;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t bits_of(uint64_t h)
{
    return (uint64_t)1 << (h & 63) | (uint64_t)1 << (h >> 6 & 63) | (uint64_t)1 << (h >> 12 & 63);
}

/* A key is there if its three bits are set in the word that the hash's upper bits choose. */
void set_bits(uint64_t *filter, int shift, const uint64_t *sector, const uint32_t *key, long n)
{
    for (long i = 0; i < n; i++) {
        uint64_t h = hash(sector[i], key[i]);
        filter[h >> shift] |= bits_of(h);
    }
}

/* How many of the issues may be there. Without a filter: a walk that does all but look. */
long look(const struct record *r, long n, const uint64_t *filter, int shift)
{
    long found = 0;
    for (long first = 0; first < n; first += BATCH) {
        uint64_t issue[BATCH + 1];
        long end = n - first < BATCH ? n - first : BATCH, issues = 0;
        for (long i = 0; i < end; i++) {        /* without a branch */
            uint32_t category = r[first + i].action >> 16;
            issue[issues] = hash(r[first + i].sector, r[first + i].device << 10 | (category & 3));
            issues += category >> 6 & 1;
        }
        if (filter) {
            for (long i = 0; i < issues; i++)
                __builtin_prefetch(&filter[issue[i] >> shift]);
            for (long i = 0; i < issues; i++)
                found += (bits_of(issue[i]) & ~filter[issue[i] >> shift]) == 0;
        } else
            for (long i = 0; i < issues; i++)
                found += bits_of(issue[i]) == 0;
    }
    return found;
}
"""


class Filter:
    """So many random keys, in a filter of `BITS_EACH` bits or a little more each."""

    def __init__(self, library: ctypes.CDLL, keys: int) -> None:
        self._look = library.look
        self._look.restype = ctypes.c_long
        self._look.argtypes = (ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p, ctypes.c_int)
        words = 1 << max(1, BITS_EACH * keys // 64 - 1).bit_length()
        self.words = np.zeros(words, "u8")
        self._shift = 64 - (words.bit_length() - 1)
        rng = np.random.default_rng(2)
        sectors = rng.integers(0, 1 << 40, keys, "u8")
        devices = rng.integers(0, 1 << 22, keys, "u4")
        library.set_bits(
            ctypes.c_void_p(self.words.ctypes.data),
            ctypes.c_int(self._shift),
            ctypes.c_void_p(sectors.ctypes.data),
            ctypes.c_void_p(devices.ctypes.data),
            ctypes.c_long(keys),
        )

    def walk(self, records: np.ndarray) -> int:
        """The walk alone."""
        return int(self._look(records.ctypes.data, len(records), None, self._shift))

    def look(self, records: np.ndarray) -> int:
        """How many issues may be among the keys."""
        return int(
            self._look(records.ctypes.data, len(records), self.words.ctypes.data, self._shift)
        )


@contextlib.contextmanager
def compiled() -> Iterator[ctypes.CDLL]:
    """The functions above.

    Raises:
        subprocess.CalledProcessError: the compiler failed, and has said why.
    """
    with tempfile.TemporaryDirectory(prefix="blkiomon-bench-") as folder:
        source = Path(folder, "look.c")
        library = Path(folder, "look.so")
        source.write_text(SOURCE)
        subprocess.run(["cc", "-O3", "-shared", "-fPIC", "-o", library, source], check=True)
        yield ctypes.CDLL(str(library))


class Run:
    """An engine whose stream goes on and on."""

    def __init__(
        self,
        depth: int,
        devices: int,
        lost: float,
        max_age_ns: int,
        beside: Callable[[np.ndarray], int] | None,
        share: int,
    ) -> None:
        self.engine = Engine(max_age_ns=max_age_ns)
        self._records = streams.make(ROUND // share, min(depth, ROUND // share), devices, lost=lost)
        self._rounds = streams.repeat(self._records, 1 << 30)
        self._beside = beside
        for _ in range(BEFORE // share if lost else 2):
            self.turn()

    def turn(self) -> float:
        """Feed the stream once more; returns the CPU nanoseconds a record."""
        next(self._rounds)
        start = time.thread_time_ns()
        for at in range(0, len(self._records), FEED_RECORDS):
            part = self._records[at : at + FEED_RECORDS]
            self.engine.feed(as_bytes(part))
            if self._beside is not None:
                self._beside(part)
        return (time.thread_time_ns() - start) / len(self._records)


def cells(depth: int, devices: int, library: ctypes.CDLL, share: int) -> Iterator[tuple[str, ...]]:
    ten_minutes_ns = 600 * 10**9
    keys = Filter(library, int(LOST * BEFORE * ROUND) // share)
    size = f"{keys.words.nbytes / 1000:.0f} kB"
    runs = {
        "none lost": Run(depth, devices, 0, ten_minutes_ns, None, share),
        "1 % lost, max_age_ns=1 s": Run(depth, devices, LOST, 10**9 // share, None, share),
        "1 % lost, max_age_ns=10 s": Run(depth, devices, LOST, 10**10 // share, None, share),
        "1 % lost": Run(depth, devices, LOST, ten_minutes_ns, None, share),
        "none lost, and a walk": Run(depth, devices, 0, ten_minutes_ns, keys.walk, share),
        f"none lost, and a look ({size})": Run(depth, devices, 0, ten_minutes_ns, keys.look, share),
    }
    costs: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS // min(share, 6)):
        order = list(runs)
        order = order[turn % len(order) :] + order[: turn % len(order)]
        for name in order:
            costs[name].append(runs[name].turn())
    first, *_, walk, look = costs.values()
    bound = [none + with_look - with_walk for none, with_look, with_walk in zip(first, look, walk)]
    for name, pending, cost in (
        *((name, f"{run.engine.pending:,}", costs[name]) for name, run in runs.items()),
        ("the look without the walk", "", bound),
    ):
        ratio = statistics.median(one / none for one, none in zip(cost, first))
        least = f"{min(cost):.1f}" if cost is not bound else ""  # of three, each with its own noise
        yield name, pending, least, f"{statistics.median(cost):.1f}", f"{ratio:.2f}"


def report(options: Options) -> Iterator[Table | str]:
    if shutil.which("cc") is None:
        yield "What lost completions cost at least takes a C compiler, and there is none."
        return
    share = 20 if options.quick else 1
    with compiled() as library:
        for depth, devices in ((32, 1), (8192, 64)):
            plural = "s" * (devices > 1)
            yield Table(
                f"After {BEFORE // share} M records with {depth:,} outstanding on {devices:,} "
                f"device{plural} (engine, CPU time, in turn)",
                ("stream", "pending", "ns a record, least", "median", "to the first, median"),
                cells(depth, devices, library, share),
            )
