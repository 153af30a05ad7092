"""Driver data: records of low-level drivers, which are copied to an output unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from blkiomon.formats.rendering import Format, FormatOptions


class DriverData(NamedTuple):
    """Records of low-level drivers.

    Attributes:
        data: each record with its payload; headers are of version 7 in host byte order.
        records: how many these are.
    """

    data: bytes
    records: int


def output_format(options: FormatOptions) -> Format:
    """``-d``."""
    return Format((DriverData,), render, is_dump=True)


def render(item: DriverData) -> Iterator[bytes]:
    """The bytes, unchanged."""
    yield item.data
