"""The engine's kernels under pytest-benchmark: `pytest benchmarks`."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import streams
from benchmarks.engine import as_bytes
from blkiomon._core import Engine, decode


@pytest.mark.parametrize(
    ("depth", "devices"), [(32, 1), (8192, 64), (65_536, 256)], ids=lambda n: str(n)
)
def test_feed(benchmark: Any, depth: int, devices: int) -> None:
    data = as_bytes(streams.make(500_000, depth, devices))

    def feed() -> Engine:
        engine = Engine()
        engine.feed(data)
        return engine

    assert benchmark(feed).counters()["matches"] == 500_000


def test_cut_of_1000_devices(benchmark: Any) -> None:
    data = as_bytes(streams.make(200_000, 32, 1000))

    def fed() -> tuple[tuple[Engine], dict[str, Any]]:
        engine = Engine()
        engine.feed(data)
        return (engine,), {}

    rows, _, _ = benchmark.pedantic(Engine.cut, setup=fed, rounds=20)
    assert rows["requests"].sum() == 200_000


def test_decode(benchmark: Any) -> None:
    data = as_bytes(streams.make(200_000, 32))
    records, _ = benchmark(decode, data)
    assert len(records) == 400_000
