"""The engine's kernels under pytest-benchmark: `pytest benchmarks`. Each test is a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import streams
from benchmarks.engine import as_bytes
from blkiomon._core import Engine


@pytest.mark.parametrize(
    ("depth", "devices"), [(32, 1), (8192, 64), (65_536, 256)], ids=lambda n: str(n)
)
def test_feed(benchmark: Any, depth: int, devices: int) -> None:
    data = as_bytes(streams.make(500_000, depth, devices))
    assert benchmark(feed, data).counters()["requests"] == 500_000


def feed(data: memoryview) -> Engine:
    engine = Engine()
    engine.feed(data)
    return engine


@pytest.mark.parametrize("change", [streams.as_foreign, streams.as_version_8])
def test_feed_of_another_form(benchmark: Any, change: Callable[[Any], Any]) -> None:
    data = as_bytes(change(streams.make(500_000, 32)))
    assert benchmark(feed, data).counters()["requests"] == 500_000


@pytest.mark.parametrize("lost", [0.01, 0.1])
def test_feed_with_losses(benchmark: Any, lost: float) -> None:
    data = as_bytes(streams.make(500_000, 8192, 64, lost=lost))
    assert benchmark(feed, data).pending == pytest.approx(500_000 * lost, rel=0.1)


def test_snapshot_of_1000_devices(benchmark: Any) -> None:
    data = as_bytes(streams.make(200_000, 32, 1000))

    def fed() -> tuple[tuple[Engine], dict[str, Any]]:
        engine = Engine()
        engine.feed(data)
        return (engine,), {}

    snapshot = benchmark.pedantic(Engine.snapshot, setup=fed, rounds=20)
    assert snapshot.rows["requests"].sum() == 200_000


def test_records_as_an_array(benchmark: Any) -> None:
    data = as_bytes(streams.make(200_000, 32))

    def records() -> Any:
        engine = Engine(keep_records=True)
        engine.feed(data)
        return engine.take_records()

    assert len(benchmark(records)) == 400_000
