"""What share of a core does the screen of `top` take, by devices?

The devices are those of a SAN host: four paths to each LUN, and its map. Every second, each of them
completes 50 requests, its findings are looked for, and a screen of 200x50 is drawn. Times are CPU
time of the steps from the end of an interval to its picture; reading records is not among them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from benchmarks.report import Options, Table
from benchmarks.topology import make_host, stream_of
from blkiomon.commands.san.tracker import Tracker
from blkiomon.commands.top.frame import About, lines
from blkiomon.commands.top.look import Look
from blkiomon.commands.top.rows import Views
from blkiomon.commands.top.watch import Watch
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.slow import SlowBatch, SlowRequests
from blkiomon.interval.value import Interval
from blkiomon.sources.topology import Topology, read_topology

T = TypeVar("T")

REQUESTS = 50
"""Of each device, in a second."""

SCREEN = 200, 50


class Costs:
    """CPU time of some steps, each time they are taken."""

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = {}

    def of(self, step: str, work: Callable[[], T]) -> T:
        start_ns = time.thread_time_ns()
        result = work()
        self.ms.setdefault(step, []).append((time.thread_time_ns() - start_ns) / 1e6)
        return result


def seconds_of(topology: Topology, requests: int, seconds: int, costs: Costs) -> Iterator[Interval]:
    """An interval for each second of a stream, ended as by a live run."""
    kept: list[SlowBatch] = []
    monitor = Monitor(clock="wall", keep_slow=True)
    slow = SlowRequests(monitor, None, 99.0, 1000, kept.append)
    for at, data in enumerate(stream_of(topology, requests, seconds)):
        monitor.feed(data)

        def end(start_ns: int = at * NS_PER_S) -> Interval:
            slow.look(monitor.engine.now_ns)
            interval = monitor.cut(start_ns, start_ns + NS_PER_S)
            slow.end_interval(interval)
            return interval

        yield costs.of("end", end)


def row(luns: int, seconds: int) -> tuple[str, ...]:
    """Costs of an interval of a host with so many LUNs."""
    with tempfile.TemporaryDirectory() as directory:
        make_host(Path(directory), luns)
        topology = read_topology(directory)
    numbers = [device.number for device in topology.devices if device.number is not None]
    costs = Costs()
    tracker, watch = Tracker(topology, "device", numbers), Watch(numbers)
    about = About(source="all", name_of=tracker.view.name_of, views=Views(tracker.view, []))

    def draw(by: str) -> None:
        lines(watch.state(), Look(by=by), about, *SCREEN)

    for interval in seconds_of(topology, REQUESTS * len(numbers), seconds, costs):
        found = costs.of("findings", lambda interval=interval: tracker(interval))
        costs.of("add", lambda found=found: watch.add(found))
        costs.of("draw", lambda: draw("device"))
        costs.of("tree", lambda: draw("array"))
    # A mean, as the work differs between intervals; the first two also fill caches.
    mean = {step: sum(ms[2:]) / len(ms[2:]) for step, ms in costs.ms.items()}
    whole = sum(mean.values()) - mean["tree"]
    shown = (mean[step] for step in ("end", "findings", "add", "draw", "tree"))
    return (
        f"{len(numbers):,}",
        *(f"{ms:.1f}" for ms in shown),
        f"{whole:.1f}",
        f"{whole / 10:.1f} %",
    )


def report(options: Options) -> Iterator[Table | str]:
    seconds, sizes = (4, (8,)) if options.quick else (34, (8, 100, 400))
    yield Table(
        f"An interval of top, CPU time (mean of {seconds - 2} intervals)",
        "devices | end ms | findings ms | add ms | draw ms | draw a tree ms | in all ms | "
        "share of a core at one screen a second",
        (row(luns, seconds) for luns in sizes),
    )
