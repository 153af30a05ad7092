"""Writes trace record streams byte by byte, independent of the package's own code."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

MAGIC = 0x65617400

HOST = "<" if sys.byteorder == "little" else ">"
"""This host's byte order, and that of a stream unless a test says otherwise."""
FOREIGN = "<>".replace(HOST, "")

# Events: the low 16 bits of an action. Those that the tests use.
EV_QUEUE = 1
EV_BACKMERGE = 2
EV_FRONTMERGE = 3
EV_REQUEUE = 6
EV_ISSUE = 7
EV_COMPLETE = 8
EV_PLUG = 9
EV_DRV_DATA = 17
EV_CGROUP = 1 << 8

# Low words of notify records.
NT_PROCESS = 0
NT_TIMESTAMP = 1
NT_MESSAGE = 2

# Category bits, before the shift by 16.
READ = 1 << 0
WRITE = 1 << 1
FLUSH = 1 << 2
SYNC = 1 << 3
QUEUE = 1 << 4
REQUEUE = 1 << 5
ISSUE = 1 << 6
COMPLETE = 1 << 7
FS = 1 << 8
PC = 1 << 9
NOTIFY = 1 << 10
AHEAD = 1 << 11
META = 1 << 12
DISCARD = 1 << 13
DRV_DATA = 1 << 14
FUA = 1 << 15
# Version 8 only.
ZONE_APPEND = 1 << 16
ZONE_RESET = 1 << 17
ZONE_FINISH = 1 << 19
ZONE_OPEN = 1 << 20
WRITE_ZEROES = 1 << 22

CATEGORY_SHIFT = 16

_V7 = {order: struct.Struct(order + "IIQQIIIIIHH") for order in "<>"}
_V8 = {order: struct.Struct(order + "IIQQIIQIIHH12x") for order in "<>"}


class Record(NamedTuple):
    """One trace record; `action` is category << 16 | event, `version` overrides the stream's."""

    time_ns: int
    sector: int
    bytes_: int
    action: int
    device: int
    sequence: int = 0
    pid: int = 0
    cpu: int = 0
    error: int = 0
    payload: bytes = b""
    version: int | None = None


def replace(record: Record, **fields: Any) -> Record:
    """A record with some fields changed."""
    return record._replace(**fields)


def device_number(major: int, minor: int) -> int:
    """The kernel's 32-bit device number."""
    return major << 20 | minor


def act(category: int, event: int) -> int:
    """A full action from its category bits and its event."""
    return category << CATEGORY_SHIFT | event


def issue(
    time_ns: int,
    sector: int,
    bytes_: int,
    category: int = READ | FS,
    device: int = 8 << 20,
    **fields: Any,
) -> Record:
    """A D record: the request goes to the driver."""
    return Record(time_ns, sector, bytes_, act(category | ISSUE, EV_ISSUE), device, **fields)


def complete(
    time_ns: int,
    sector: int,
    bytes_: int,
    category: int = READ | FS,
    device: int = 8 << 20,
    **fields: Any,
) -> Record:
    """A C record: the request is done."""
    return Record(time_ns, sector, bytes_, act(category | COMPLETE, EV_COMPLETE), device, **fields)


def driver_data(
    time_ns: int, payload: bytes, device: int = 8 << 20, category: int = 0, **fields: Any
) -> Record:
    """A low-level driver's record, which only the driver-data output wants."""
    action = act(category | DRV_DATA, EV_DRV_DATA)
    return Record(time_ns, 0, 0, action, device, payload=payload, **fields)


def notify_timestamp(
    time_ns: int, seconds: int, nanoseconds: int, byteorder: str = HOST, **fields: Any
) -> Record:
    """The record that ties trace time to the wall clock; its payload is in stream byte order."""
    payload = struct.pack(byteorder + "II", seconds, nanoseconds)
    return Record(time_ns, 0, 0, act(NOTIFY, NT_TIMESTAMP), 0, payload=payload, **fields)


def notify_process(time_ns: int, pid: int, name: str, size: int = 16, **fields: Any) -> Record:
    """The record that names a process, NUL-padded to `size`."""
    payload = name.encode().ljust(size, b"\0")
    return Record(time_ns, 0, 0, act(NOTIFY, NT_PROCESS), 0, pid=pid, payload=payload, **fields)


def encode_record(record: Record, version: int = 7, byteorder: str = HOST) -> bytes:
    """One record's header and payload; version 7 keeps the low 32 bits of the action only."""
    r = record
    version = r.version or version
    tail = (r.device, r.cpu, r.error, len(r.payload))
    head = (MAGIC | version, r.sequence, r.time_ns, r.sector, r.bytes_)
    if version == 7:
        middle: tuple[int, ...] = (r.action & 0xFFFFFFFF, r.pid)
        layout = _V7
    elif version == 8:
        middle = (r.pid, r.action)
        layout = _V8
    else:
        raise ValueError(f"no layout for version {version}")
    return layout[byteorder].pack(*head, *middle, *tail) + r.payload


def encode(records: Iterable[Record], version: int = 7, byteorder: str = HOST) -> bytes:
    """A whole stream; a record's own `version` goes before the stream's."""
    return b"".join(encode_record(r, version, byteorder) for r in records)


def encode_malformed_v8(record: Record, byteorder: str = HOST) -> bytes:
    """What the ftrace tracer of a version-8 kernel sends: v7 magic, v8 field order, cut to 48.

    The payload follows; its length, at offset 50 of a version-8 header, is cut off.
    """
    r = record
    first = (MAGIC | 7, r.sequence, r.time_ns, r.sector, r.bytes_)
    rest = (r.pid, r.action, r.device, r.cpu, r.error, len(r.payload))
    head = _V8[byteorder].pack(*first, *rest)
    return head[:48] + r.payload


def lost_mark(cpu: int, events: int) -> bytes:
    """The text that trace_pipe puts between two records where events were lost."""
    return f"CPU:{cpu} [LOST {events} EVENTS]\n".encode()
