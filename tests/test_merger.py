"""How a Merger may be made and used; what it merges is tested in test_files and test_sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tracewriter import encode, issue

from blkiomon.sources.merger import Merger

DATA = encode([issue(1, 8, 512), issue(2, 16, 512)])


def once(data: bytes) -> Callable[[memoryview], int]:
    """A reader that has these bytes."""
    rest = [data]

    def read(buffer: memoryview) -> int:
        n = min(len(buffer), len(rest[0]))
        buffer[:n], rest[0] = rest[0][:n], rest[0][n:]
        return n

    return read


def test_merger_cannot_be_made_without_its_files() -> None:
    with pytest.raises(TypeError):
        Merger.__new__(Merger)  # type: ignore[call-arg]


def test_merger_cannot_be_initialised_again() -> None:
    merger = Merger(["a"], [once(DATA)], window_bytes=64)
    merger.__init__([], [], window_bytes=0)  # type: ignore[misc]
    assert bytes(merger.read()) == DATA


@pytest.mark.parametrize("use", ["read", "take_skips", "peek", "shift"])
def test_use_of_a_merger_within_its_own_read_is_refused(use: str) -> None:
    arguments: dict[str, list[Any]] = {"peek": [[True]], "shift": [[1]]}

    def reader(buffer: memoryview) -> int:
        getattr(merger, use)(*arguments.get(use, []))
        return 0

    merger = Merger(["a"], [reader], window_bytes=64)
    with pytest.raises(RuntimeError, match="another thread is using this merger"):
        merger.read()


def test_merger_cannot_be_subclassed() -> None:
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Ours", (Merger,), {})
