"""What do lost completions cost?

Requests that are never completed stay in the table, and spread the others over more cache lines.
All engines take turns; each is compared with the first in the same turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks import streams
from benchmarks.engine import as_bytes, feed
from benchmarks.growth import ROUND
from benchmarks.report import Options, Table
from blkiomon._core import Engine

BEFORE = 100
"""Rounds before the measurement: a million records each."""
TURNS = 30


class Run:
    """An engine with an endless stream."""

    def __init__(self, depth: int, devices: int, lost: float, max_age_s: float, share: int) -> None:
        self.engine = Engine(max_age_ns=int(max_age_s * 1e9))
        self._records = streams.make(ROUND // share, min(depth, ROUND // share), devices, lost=lost)
        self._rounds = streams.repeat(self._records, 1 << 30)
        for _ in range(BEFORE // share if lost else 2):
            self.turn()

    def turn(self) -> float:
        """Feed the next round; returns CPU nanoseconds a record."""
        next(self._rounds)
        return feed(self.engine, as_bytes(self._records)) / len(self._records)


def cells(depth: int, devices: int, share: int) -> Iterator[tuple[str, ...]]:
    runs = {
        "none lost": Run(depth, devices, 0, 600, share),
        "1 % lost, max_age_ns=1 s": Run(depth, devices, 0.01, 1 / share, share),
        "1 % lost, max_age_ns=10 s": Run(depth, devices, 0.01, 10 / share, share),
        "1 % lost": Run(depth, devices, 0.01, 600, share),
    }
    costs: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS // min(share, 6)):
        order = list(runs)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            costs[name].append(runs[name].turn())
    for name, cost in costs.items():
        ratio = statistics.median(one / none for one, none in zip(cost, costs["none lost"]))
        yield (
            name,
            f"{runs[name].engine.pending:,}",
            f"{min(cost):.1f}",
            f"{statistics.median(cost):.1f}",
            f"{ratio:.2f}",
        )


def report(options: Options) -> Iterator[Table | str]:
    share = 20 if options.quick else 1
    for depth, devices in ((32, 1), (8192, 64)):
        yield Table(
            f"After {BEFORE // share} M records, {streams.name(depth, devices)} "
            "(engine, CPU time, in turn)",
            "stream | pending | ns a record, least | median | times the first, median",
            cells(depth, devices, share),
        )
