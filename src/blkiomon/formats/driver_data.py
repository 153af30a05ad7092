"""Driver data: finished bytes that only pass through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class DriverData(NamedTuple):
    """Version-7 headers in host byte order, each with its payload, and how many there are."""

    data: bytes
    records: int


def render(item: DriverData) -> Iterator[bytes]:
    """The bytes as they are."""
    yield item.data
