"""How many nanoseconds does a record cost the engine, and how many did it cost one commit before?

Both engines take turns on the same streams in memory: a slow moment of the machine hits both.
`python -m benchmarks.engine SITE...` measures the engines of other site-packages directories, too.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import blkiomon
from benchmarks import revisions, streams
from benchmarks.report import Options, Table, show
from blkiomon._core import Engine

REQUESTS = 2_000_000
FEED_BYTES = 1 << 20
TURNS = 3
RUNS = 3
"""In each turn; the best counts."""
HERE = Path(blkiomon.__file__).parents[1]

RUN = """
import json, mmap, sys, time
sys.path.insert(0, sys.argv[1])
from blkiomon._core import Engine
with open(sys.argv[2], "rb") as file:
    data = memoryview(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE | mmap.MAP_POPULATE))
costs = []
for _ in range(int(sys.argv[4])):
    engine = Engine(**json.loads(sys.argv[3]))
    start = time.thread_time_ns()
    for at in range(0, len(data), 1 << 20):
        engine.feed(data[at : at + (1 << 20)])
    costs.append((time.thread_time_ns() - start) / engine.counters()["records"])
print(min(costs))
"""


class Row(NamedTuple):
    name: str
    make: Callable[[], Any]
    """An array, or bytes."""
    target_ns: float | None = None
    """On a processor of 4.1 GHz. None: 1.5 times the first row."""
    max_pending: int = 1 << 22
    options: Mapping[str, Any] = {}
    """Other arguments of ``Engine``."""


def feed(engine: Engine, data: memoryview) -> int:
    """Feed all of data in parts; returns the CPU nanoseconds that it took."""
    start = time.thread_time_ns()
    for at in range(0, len(data), FEED_BYTES):
        engine.feed(data[at : at + FEED_BYTES])
    return time.thread_time_ns() - start


def cost_ns(data: memoryview) -> float:
    """CPU nanoseconds a record for feeding all of data to a new engine, the best of seven runs."""
    costs = []
    for _ in range(7):
        engine = Engine(max_pending=1 << 22)
        costs.append(feed(engine, data) / engine.counters()["records"])
    return min(costs)


def as_bytes(records: np.ndarray) -> memoryview:
    return records.view(np.uint8).data


def rows(requests: int) -> list[Row]:
    million = min(1_000_000, requests)
    thousand = min(1_000, requests // 100)

    @functools.cache
    def shallow(lost: float = 0.0) -> Any:
        return streams.make(requests, 32, lost=lost)

    def deep(depth: int, devices: int) -> Callable[[], Any]:
        # Long enough that most of the stream has this depth.
        return functools.partial(streams.make, max(requests, 4 * depth), depth, devices)

    at_depth = deep(million, thousand)
    deepest = streams.name(million, thousand)
    return [
        Row(streams.name(32), shallow, 6.5),
        Row(streams.name(8192, 64), deep(8192, 64), 12),
        Row(streams.name(65_536, 256), deep(65_536, 256), 14),
        Row(deepest, at_depth, 35),
        Row(f"{deepest}, at a bound of as many", at_depth, 55, million),
        Row(f"{deepest}, at a bound of half as many", at_depth, 55, million // 2),
        Row("issues only, at the bound", lambda: streams.issues_alone(requests), 40, requests // 8),
        Row("the first, version 8", lambda: streams.as_version_8(shallow())),
        Row("the first, foreign byte order", lambda: streams.as_foreign(shallow())),
        Row("the first, 10 % other events", lambda: streams.with_others(shallow())),
        Row(
            "the first, all events of blktrace",
            lambda: streams.with_all_events(streams.make(requests // 2, 32)),
        ),
        Row("the first, a payload each tenth", lambda: streams.with_payloads(shallow())),
        Row("the first, 1 % lost", lambda: shallow(0.01)),
        Row("the first, 10 % lost", lambda: shallow(0.1)),
        Row("the first, slow requests kept", shallow, options={"keep_slow": True}),
        Row(
            "the second, only one of the devices",
            deep(8192, 64),
            options={"devices": [streams.FIRST_DEVICE]},
        ),
    ]


def measure(site: Path, path: Path, row: Row) -> float:
    """CPU nanoseconds a record, the best of some runs, of the engine installed in a directory."""
    options = json.dumps({"max_pending": row.max_pending, **row.options})
    run = [sys.executable, "-P", "-c", RUN, str(site), str(path), options, str(RUNS)]
    return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


def compared(sites: Sequence[Path], some: Sequence[Row], turns: int) -> Iterator[tuple[str, ...]]:
    first_target_ns = some[0].target_ns or 0
    for row in some:
        with tempfile.NamedTemporaryFile() as file:
            file.write(memoryview(row.make()).cast("B"))
            file.flush()
            path = Path(file.name)
            costs: dict[Path, list[float]] = {site: [] for site in sites}
            for _ in range(turns):
                for site in sites:
                    costs[site].append(measure(site, path, row))
        best = [min(cost) for cost in costs.values()]
        yield (
            row.name,
            *(f"{cost:.1f}" for cost in best),
            *(f"{best[0] / cost:.2f}" for cost in best[1:]),
            f"{row.target_ns or 1.5 * first_target_ns:.1f}",
        )


def table(sites: dict[str, Path], requests: int = REQUESTS, turns: int = TURNS) -> Table:
    """What each engine costs; the first site is this one's."""
    others = list(sites)[1:]
    columns = [*(f"{name}, ns a record" for name in sites), *(f"here / {name}" for name in others)]
    return Table(
        "Engine, records in memory, all statistics on, one core (CPU time, best of "
        f"{turns * RUNS}, in turn)",
        " | ".join(["stream", *columns, "target, ns"]),
        compared(list(sites.values()), rows(requests), turns),
    )


def report(options: Options) -> Iterator[Table | str]:
    with tempfile.TemporaryDirectory() as directory:
        before = revisions.build(revisions.before(), Path(directory))
        share = 10 if options.quick else 1
        yield table({"here": HERE, "before": before}, REQUESTS // share, TURNS // min(share, TURNS))


if __name__ == "__main__":
    show(table({"here": HERE} | {Path(name).name: Path(name) for name in sys.argv[1:]}))
