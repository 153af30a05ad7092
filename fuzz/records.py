"""A small reader and writer of trace streams, which shares no code with the engine's.

Formats: ``struct blk_io_trace`` (version 7, 48 bytes) and ``blk_io_trace2`` (version 8, 64 bytes),
each in either byte order and followed by a payload of ``pdu_len`` bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

Order = Literal["little", "big"]

HEADER_BYTES = {7: 48, 8: 64}
# Of each field: its offset and its width in bytes.
FIELDS = {
    7: {
        "sequence": (4, 4), "time": (8, 8), "sector": (16, 8), "bytes": (24, 4),
        "action": (28, 4), "pid": (32, 4), "device": (36, 4), "cpu": (40, 4),
        "error": (44, 2), "pdu_len": (46, 2),
    },
    8: {
        "sequence": (4, 4), "time": (8, 8), "sector": (16, 8), "bytes": (24, 4),
        "action": (32, 8), "pid": (28, 4), "device": (40, 4), "cpu": (44, 4),
        "error": (48, 2), "pdu_len": (50, 2),
    },
}  # fmt: skip
NAMES = tuple(FIELDS[7])
MAGIC = re.compile(rb"(?=([\x07\x08])tae|eat([\x07\x08]))")


class Item(NamedTuple):
    """One record with its payload, or the bytes between two records (version 0)."""

    data: bytes
    version: int = 0
    order: Order = "little"

    @property
    def payload(self) -> bytes:
        return self.data[HEADER_BYTES[self.version] :]

    def get(self, name: str) -> int:
        """The value of a record's field."""
        at, width = FIELDS[self.version][name]
        return int.from_bytes(self.data[at : at + width], self.order)

    def put(self, **values: int) -> Item:
        """The record with other values; higher bits than a field has are dropped."""
        data = bytearray(self.data)
        for name, value in values.items():
            at, width = FIELDS[self.version][name]
            data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, self.order)
        return self._replace(data=bytes(data))


def record(
    version: int, order: Order, payload: bytes = b"", pdu_len: int | None = None, **values: int
) -> Item:
    """A new record; its fields are 0, except for these and the length of the payload."""
    magic = (0x65617400 | version).to_bytes(4, order)
    item = Item(magic.ljust(HEADER_BYTES[version], b"\0") + payload, version, order)
    return item.put(pdu_len=len(payload) if pdu_len is None else pdu_len, **values)


def split(stream: bytes) -> Iterator[Item]:
    """Cut a stream into its records and the garbage between them."""
    at = 0
    for match in MAGIC.finditer(stream):
        begin = match.start()
        if begin < at:  # inside of a record
            continue
        order: Order = "little" if match[1] else "big"
        version = (match[1] or match[2])[0]
        end = begin + HEADER_BYTES[version]
        where, width = FIELDS[version]["pdu_len"]
        end += int.from_bytes(stream[begin + where : begin + where + width], order)
        if end > len(stream):
            continue
        if at < begin:
            yield Item(stream[at:begin])
        yield Item(stream[begin:end], version, order)
        at = end
    if at < len(stream):
        yield Item(stream[at:])


def repeat(
    stream: bytes, copies: int, sector_step: int, time_step: int, each: bool = False
) -> bytes:
    """Repeat a stream, or `each` item of it; each copy adds the steps to sectors and times."""
    items = list(split(stream))
    if each:
        out = bytearray().join(item.data * copies for item in items)
        strides = [len(item.data) for item in items]
        firsts = np.cumsum([0, *strides[:-1]]) * copies
    else:
        out = bytearray(stream * copies)
        strides = [len(stream)] * len(items)
        firsts = np.cumsum([0, *(len(item.data) for item in items[:-1])])
    copy = np.arange(copies)
    values = np.frombuffer(out, np.uint8)
    for order, dtype in (("little", "<u8"), ("big", ">u8")):
        chosen = np.array([item.version > 0 and item.order == order for item in items], bool)
        if not chosen.any():
            continue
        begins = firsts[chosen, None] + np.array(strides)[chosen, None] * copy
        # Both versions have their times and their sectors in the same place.
        for at, step in ((8, time_step), (16, sector_step)):
            where = begins[..., None] + (at + np.arange(8))
            moved = values[where].view(dtype)[..., 0] + copy.astype(np.uint64) * np.uint64(step)
            values[where] = moved.astype(dtype)[..., None].view(np.uint8)
    return bytes(out)
