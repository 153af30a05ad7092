"""Two threads give the same results as one, to the bit."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streams
import tracewriter as tw
from test_queue import some_bios

from blkiomon import _core
from blkiomon._core import Engine
from blkiomon.engine import layout
from blkiomon.errors import TraceError


def everything(engine: Engine, cut: Any) -> tuple[Any, ...]:
    """All results of an engine at a snapshot."""
    tables = tuple((f.name, getattr(cut, f.name).tobytes()) for f in fields(cut))
    names = dict(engine.process_names)
    figures = (engine.pending, engine.requests, engine.now_ns, engine.epoch_ns, engine.offset)
    stopped_ns = engine.stopped_at_ns
    return tables, engine.counters(), names, figures, stopped_ns, engine.take_skips()


def run(
    data: bytes,
    steps: Iterable[tuple[int, int | None, bool]],
    finish: bool = True,
    wait: bool = True,
    **options: Any,
) -> list[Any]:
    """All results of an engine at each step: so many bytes, up to a time, with a snapshot or not.

    Without waiting the bytes are gone as soon as they have been fed.
    """
    engine = Engine(**options)
    said: list[Any] = []
    rest = memoryview(data)
    try:
        for n, until_ns, is_cut in steps:
            copy = bytearray(rest[:n])
            taken = engine.feed(copy, until_ns, wait)
            copy[:] = bytes(len(copy))
            said.append((taken, engine.stopped_at_ns))
            rest = rest[taken:]
            if is_cut:
                said.append(everything(engine, engine.snapshot()))
        while len(rest):
            rest = rest[engine.feed(rest, wait=wait) :]
        if finish:
            engine.finish()
    except TraceError as error:
        said.append(str(error))
    said.append(everything(engine, engine.snapshot()))
    return said


def steps_of(data: bytes, rng: random.Random) -> list[tuple[int, int | None, bool]]:
    """Feeds of any size, some up to a time, snapshots at random places."""
    most = rng.choice([1, 49, 700, 5000, 1 << 20])
    steps: list[tuple[int, int | None, bool]] = []
    left = 2 * len(data)
    while left > 0 and len(steps) < 1000:
        n = rng.randint(1, most)
        until_ns = rng.choice([None, None, None, rng.randrange(1, 2 * 10**9), 2**63])
        steps.append((n, until_ns, rng.random() < 0.05))
        left -= n
    return steps


def with_notes(records: Iterable[tw.Record], rng: random.Random) -> list[tw.Record]:
    """Records with names and times of day inserted."""
    out = []
    for r in records:
        out.append(r)
        if rng.random() < 0.1:
            pid = rng.randrange(50)
            name = f"p{rng.randrange(9)}"
            out.append(tw.replace(tw.notify_process(r.time_ns, pid, name), device=r.device))
        if rng.random() < 0.02:
            out.append(tw.notify_timestamp(r.time_ns, 1_700_000_000, 5))
    return out


def of_any_kind(seed: int, rng: random.Random) -> bytes:
    """A generated stream with queue records and notifications, of either version and byte order."""
    stream = streams.generate(seed, avoid="nothing")
    bios = some_bios(rng, rng.choice([0, 50, 400]))
    records = with_notes(sorted([*stream.records, *bios], key=lambda r: r.time_ns), rng)
    records = [tw.replace(r, version=None, action=r.action % 2**32) for r in records]
    return tw.encode(records, rng.choice([7, 8]), rng.choice("<>"))


@pytest.mark.parametrize("block", range(3))
def test_generated_streams(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        rng = random.Random(f"two {seed}")
        data = of_any_kind(seed, rng)
        resync = rng.random() < 0.5
        for _ in range(rng.choice([0, 0, 3])):
            at = rng.randrange(len(data) + 1)
            junk = tw.lost_mark(1, rng.randrange(1000))
            if resync:
                junk = rng.choice([rng.randbytes(rng.randrange(1, 90)), junk])
            data = data[:at] + junk + data[at:]
        options: dict[str, Any] = {
            "resync": resync,
            "max_pending": rng.choice([1, 5, 40, 10**6]),
            "max_age_ns": rng.choice([0, 1000, 10**6, 10**12]),
            "devices": rng.choice([(), (), (8 << 20,)]),
            "max_devices": rng.choice([1, 2, 65_536]),
            "from_ns": rng.choice([0, 0, 10**9 + 5000]),
        }
        steps = steps_of(data, rng)
        one = run(data, steps, threads=1, **options)
        assert run(data, steps, threads=2, **options) == one
        assert run(data, steps, threads=2, wait=False, **options) == one


def big(requests: int, depth: int, devices: int, lost: float = 0.0, notes: bool = False) -> bytes:
    """A long stream: issues at equal distances, completions after a random time."""
    rng = np.random.default_rng(requests + depth)
    issues = np.zeros(requests, layout.TRACE_V7)
    issues["magic"] = layout.MAGIC | 7
    issues["time"] = 10**9 + np.arange(requests) * 2000
    issues["sector"] = rng.integers(0, 1 << 40, requests) * 8
    issues["bytes"] = rng.choice([4096, 8192, 65536, 1234, 1 << 21], requests)
    direction = rng.choice([tw.READ, tw.WRITE, tw.WRITE | tw.DISCARD], requests)
    issues["action"] = (direction | tw.FS | tw.ISSUE) << 16 | tw.EV_ISSUE
    issues["device"] = (8 << 20) + rng.integers(0, devices, requests)
    issues["pid"] = rng.integers(1, 3000, requests)
    issues["cpu"] = rng.integers(0, 64, requests)
    done = issues.copy()
    done["time"] += rng.integers(100, 4000 * depth, requests).astype("u8")
    done["action"] = (direction | tw.FS | tw.COMPLETE) << 16 | tw.EV_COMPLETE
    done["error"] = rng.integers(0, 20, requests) // 19
    parts = [issues, done[rng.random(requests) >= lost]]
    if notes:
        queued = issues[rng.random(requests) < 0.9]
        queued["action"] = ((queued["action"] >> 16 & 3) | tw.QUEUE) << 16 | tw.EV_QUEUE
        queued["time"] -= rng.integers(0, 5000, len(queued)).astype("u8")
        parts.append(queued)
    records = np.concatenate(parts)
    records = records[np.argsort(records["time"], kind="stable")]
    records["sequence"] = np.arange(1, len(records) + 1)
    if not notes:
        return records.tobytes()
    half = len(records) // 2
    names = tw.encode([tw.notify_process(0, pid, f"n{pid}") for pid in range(1, 1500)])
    return b"".join([records[:half].tobytes(), names, records[half:].tobytes(), names])


@pytest.mark.parametrize(
    "requests, depth, devices, lost, notes, max_pending",
    [
        (80_000, 32, 1, 0.0, False, 10**6),
        (100_000, 20_000, 700, 0.0, False, 10**6),  # tables of all kinds grow
        (50_000, 100, 20, 0.3, False, 10**6),
        (60_000, 1000, 3, 0.3, True, 10**6),
        (40_000, 1000, 3, 0.3, True, 3000),
    ],
)
def test_long_streams(
    requests: int, depth: int, devices: int, lost: float, notes: bool, max_pending: int
) -> None:
    data = big(requests, depth, devices, lost, notes)
    size = 1 << 20
    steps = [(size, None, i % 3 == 2) for i in range(len(data) // size)]
    one = run(data, steps, max_pending=max_pending)
    assert run(data, steps, threads=2, max_pending=max_pending) == one
    for size in (1 << 14, 1 << 20):
        steps = [(size, None, i % 30 == 29) for i in range(len(data) // size)]
        one = run(data, steps, max_pending=max_pending)
        assert run(data, steps, threads=2, wait=False, max_pending=max_pending) == one
    assert (
        run(data, [(len(data), None, True)], threads=2, max_pending=max_pending)[-2]
        == (run(data, [(len(data), None, True)], max_pending=max_pending)[-2])
    )


def test_eviction_by_age_in_a_long_stream() -> None:
    data = big(1000, 10, 2) + tw.encode([tw.notify_process(0, 1, "x", size=1)]) * (1 << 20)
    later = tw.encode([tw.complete(10**12, 1, 512)]) * 2 + big(2000, 10, 2, lost=0.5)
    steps = [(1 << 20, None, False)] * (len(data) >> 20)
    results = [run(data + later, steps, max_age_ns=10**6, threads=n) for n in (1, 2)]
    assert results[0] == results[1]


@pytest.mark.parametrize("garbage", [b"garbage!" * 20, b"garbage!" * 8])
def test_records_before_an_error_count(garbage: bytes) -> None:
    for requests in (10, 500, 1500, 3000):
        data = big(requests, 5, 3) + garbage
        assert run(data, [], threads=2) == run(data, [])
        engine = Engine(threads=2)
        with pytest.raises(TraceError):
            engine.feed(bytearray(data))  # gone when this returns
        assert engine.requests == requests


def test_every_result_waits_for_the_worker() -> None:
    data = big(60_000, 2000, 10)
    half = 48 * 50_000
    known = Engine()
    known.feed(data[:half])
    for ask in (
        lambda engine: engine.requests,
        lambda engine: engine.pending,
        lambda engine: engine.now_ns,
        lambda engine: engine.counters(),
        lambda engine: engine.snapshot().rows["requests"].sum(),
    ):
        engine = Engine(threads=2)
        engine.feed(data[:half], wait=False)
        assert ask(engine) == ask(known)


def threads_now() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def test_many_engines_are_made_and_deleted() -> None:
    data = big(2000, 5, 3)
    gc.collect()
    before = threads_now()
    for _ in range(100):
        Engine(threads=2)
    for _ in range(50):
        engine = Engine(threads=2)
        engine.feed(data)
    del engine
    gc.collect()
    assert threads_now() == before


def test_fifty_engines_at_once() -> None:
    data = big(1500, 5, 3)
    expected = run(data, [], finish=False)
    engines = [Engine(threads=2) for _ in range(50)]
    for at in range(0, len(data), 50_000):
        for engine in engines:
            engine.feed(data[at : at + 50_000])
    for engine in engines:
        assert [everything(engine, engine.snapshot())] == expected
    engines.clear()
    assert Engine(threads=64).feed(data) == len(data)


def in_child(work: Callable[[], bool]) -> bool:
    """Whether a child of fork() that does this succeeds; False if it takes ten seconds."""
    pid = os.fork()
    if pid == 0:
        ok = False
        try:
            ok = work()
        finally:
            os._exit(0 if ok else 1)
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("is_fed", [False, True])
@pytest.mark.parametrize("pause_s", [0, 0.05])
def test_forked_child_can_use_or_delete_an_idle_engine(is_fed: bool, pause_s: float) -> None:
    data = big(3000, 5, 3)
    half = len(data) // 2 if is_fed else 0
    engine = Engine(threads=2)
    engine.feed(data[:half])
    time.sleep(pause_s)  # then its worker sleeps
    engines = [engine]
    del engine

    def drop() -> bool:
        engines.clear()
        gc.collect()
        return True

    def go_on() -> bool:
        (ours,) = engines
        ours.feed(data[half:])
        ours.finish()
        return [everything(ours, ours.snapshot())] == run(data, [])

    assert in_child(drop)
    assert in_child(go_on)
    assert go_on()


@pytest.mark.skipif(
    "abi3" not in _core.__file__,
    reason="in a debug build the worker's lines are traced, under Python's lock: a child that is "
    "forked meanwhile waits for that for ever",
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_cannot_use_an_engine_whose_worker_was_busy() -> None:
    """The worker's part of the state was copied at an unknown moment."""
    data = big(20_000, 5, 3)
    half = len(data) // 96 * 48
    expected = run(data, [])

    def go_on(engine: Engine) -> list[Any]:
        engine.feed(data[half:])
        engine.finish()
        return [everything(engine, engine.snapshot())]

    def is_refused(engine: Engine) -> bool:
        try:
            go_on(engine)
        except RuntimeError as error:
            return "fork" in str(error)
        return False

    for _ in range(10):
        engine = Engine(threads=2)
        engine.feed(data[:half], wait=False)
        assert in_child(partial(is_refused, engine))
        assert go_on(engine) == expected
