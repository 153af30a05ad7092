"""Driver data: finished bytes that only pass through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from blkiomon.formats.rendering import Format, FormatOptions


class DriverData(NamedTuple):
    """Version-7 headers in host byte order, each with its payload, and how many there are."""

    data: bytes
    records: int


def output_format(options: FormatOptions) -> Format:
    """``-d``."""
    return Format((DriverData,), render, is_dump=True)


def render(item: DriverData) -> Iterator[bytes]:
    """The bytes as they are."""
    yield item.data
