"""numpy dtypes of every binary layout: trace records, engine results, statistics files.

The engine's layouts mirror the C structs of ``types.pxd``; ``tests/test_engine.py`` compares them
field by field.
"""

from __future__ import annotations

import numpy as np

from blkiomon.engine.constants import (  # isort: skip
    ALL_OPS as ALL_OPS,
    BIN_BITS as BIN_BITS,
    COMPLETE as COMPLETE,
    D2C_BINS as D2C_BINS,
    D2C_BUCKETS as D2C_BUCKETS,
    D2C_DELTA as D2C_DELTA,
    DIRECTIONS as DIRECTIONS,
    DRIVER_DATA as DRIVER_DATA,
    EVERYTHING as EVERYTHING,
    ISSUE as ISSUE,
    MAGIC as MAGIC,
    NOTIFY as NOTIFY,
    OPS as OPS,
    SIZE_BINS as SIZE_BINS,
    SIZE_BUCKETS as SIZE_BUCKETS,
    SIZE_DELTA as SIZE_DELTA,
)

# --- trace records in a stream (byte order of the traced machine) -----------------------------

TRACE_V7 = np.dtype(
    [
        ("magic", "u4"),
        ("sequence", "u4"),
        ("time", "u8"),
        ("sector", "u8"),
        ("bytes", "u4"),
        ("action", "u4"),
        ("pid", "u4"),
        ("device", "u4"),
        ("cpu", "u4"),
        ("error", "u2"),
        ("pdu_len", "u2"),
    ]
)
"""``struct blk_io_trace``, 48 bytes: every kernel since 2.6.17."""

TRACE_V8 = np.dtype(
    [
        ("magic", "u4"),
        ("sequence", "u4"),
        ("time", "u8"),
        ("sector", "u8"),
        ("bytes", "u4"),
        ("pid", "u4"),
        ("action", "u8"),
        ("device", "u4"),
        ("cpu", "u4"),
        ("error", "u2"),
        ("pdu_len", "u2"),
        ("pad", "u4", 3),
    ]
)
"""``struct blk_io_trace2``, 64 bytes: Linux 6.19 and later."""

# --- the engine's own layouts -----------------------------------------------------------------

RECORD = np.dtype(
    [
        ("time_ns", "u8"),
        ("sector", "u8"),
        ("action", "u8"),
        ("sequence", "u4"),
        ("bytes", "u4"),
        ("pid", "u4"),
        ("device", "u4"),
        ("cpu", "u4"),
        ("error", "u2"),
        ("pdu_len", "u2"),
    ]
)
"""A trace record of either version in host byte order, 48 bytes. Times are ns of trace time,
sectors 512 bytes; ``action`` holds the event in bits 0-15 and the categories from bit 16."""

DETAIL = np.dtype([("record", RECORD), ("order", "u8")])
"""A record and its zero-based position in the stream."""

MISMATCH = np.dtype([("older", DETAIL), ("younger", DETAIL)])
"""Two records of one key that do not belong to one request."""

MOMENTS = np.dtype([("min", "u8"), ("max", "u8"), ("sum", "u8", 2), ("sum_squares", "u8", 2)])
"""Extremes, sum and sum of squares of one quantity; the sums are 128-bit: low word, high word.
``min`` is 2^64-1 if nothing was counted."""

ROW = np.dtype(
    [
        ("device", "u4"),
        ("op", "u2"),
        ("direction", "u2"),
        ("errors", "u8"),
        ("requests", "u8"),
        ("pad", "u8"),
        ("d2c_us", MOMENTS),
        ("throughput", MOMENTS),
        ("d2c_ns", MOMENTS),
        ("d2c_hist", "u8", D2C_BUCKETS),
        ("pad2", "u8"),
        ("size_bytes", MOMENTS),
        ("size_hist", "u8", SIZE_BUCKETS),
    ]
)
"""The requests of one device, operation and direction in an interval. ``d2c_us`` and ``throughput``
(bytes/ms, from the truncated microseconds) are the original's figures, ``d2c_ns`` is exact."""

BIN = np.dtype([("row", "u4"), ("bin", "u4"), ("count", "u8")])
"""A bin that is not empty: the index of its row, the number of the bin, its count."""

LOAD = np.dtype(
    [
        ("device", "u4"),
        ("op", "u2"),
        ("pad", "u2"),
        ("in_flight", "u8"),
        ("max_in_flight", "u8"),
        ("oldest_ns", "u8"),
        ("busy_ns", "u8"),
        ("in_flight_ns", "u8", 2),
    ]
)
"""Requests in flight in one interval. There is a row for each device and operation with requests in
flight, and a row with ``op`` ``ALL_OPS`` for each of these devices. There is always one row for all
devices together, with ``op`` ``EVERYTHING`` and ``device`` 0.

- ``in_flight``: requests in flight at the end of the interval.
- ``oldest_ns``: age of the oldest of them; 0 without any.
- ``max_in_flight``: most requests in flight at any time.
- ``busy_ns``: time with a request in flight; only in ``ALL_OPS`` rows, else 0. 2^64-1: unknown, as
  the row is of several devices.
- ``in_flight_ns``: integral over time, in request-ns; 128-bit: low word, high word."""

QUEUE_ROW = np.dtype(
    [
        ("device", "u4"),
        ("op", "u2"),
        ("pad", "u2"),
        ("requests", "u8"),
        ("q2d_ns", MOMENTS),
        ("q2c_ns", MOMENTS),
    ]
)
"""Requests of one device and operation with a queue record: time from queue to issue (Q2D) and from
queue to completion (Q2C)."""

RETRY_ROW = np.dtype(
    [
        ("device", "u4"),
        ("op", "u2"),
        ("pad", "u2"),
        ("requeues", "u8"),
        ("requests", "u8"),
        ("pad2", "u8"),
        ("f2c_ns", MOMENTS),
    ]
)
"""Requests of one device and operation that the kernel requeued: number of requeues, requests that
completed after a requeue, and their time from the first issue to the completion."""

PROCESS = np.dtype([("pid", "u4"), ("pad", "u4"), ("requests", "u8"), ("bytes", "u8")])
"""The requests that one process issued in an interval; with queue records, those that it queued.
Pid 2^32-1: those of all processes for which there was no row."""

REQUEST = np.dtype(
    [
        ("time", "M8[ns]"),
        ("issued_ns", "u8"),
        ("first_issued_ns", "u8"),
        ("d2c_ns", "u8"),
        ("q2d_ns", "f8"),
        ("sector", "u8"),
        ("bytes", "u4"),
        ("device", "u4"),
        ("op", "u4"),
        ("pid", "u4"),
        ("cpu", "u4"),
        ("error", "u4"),
    ]
)
"""A completed request, 72 bytes. Times are ns of trace time, sectors 512 bytes.

- ``time``: of the latest issue in UTC, as ``blkiomon.requests`` sets it; the engine leaves it NaT.
- ``issued_ns``, ``first_issued_ns``: latest and first issue; they differ after a requeue.
- ``d2c_ns``: latest issue to completion; of a request that fails after a requeue, without another
  issue: first issue to completion. ``q2d_ns``: queue to issue; NaN without a queue record.
- ``op``: index in ``OPS``.
- ``pid``, ``cpu``: of the issue. ``error``: errno of the completion, 0 if it succeeded."""

SLOW = np.dtype(
    [("request", REQUEST), ("until_ns", "u8"), ("requeues", "u4"), ("is_pending", "u4")]
)
"""A slow request, 88 bytes.

- ``until_ns``: when it completed, in ns of trace time; if ``is_pending``, when it was seen pending.
- ``request``: ``pid`` is that of the queue record, if there is one. If ``is_pending``, ``d2c_ns``
  is its age since the latest issue, and ``error`` that of the parts completed so far.
- ``requeues``: how often the kernel requeued it."""

# --- interval statistics as the original writes them ------------------------------------------

_WIRE_MINMAX = np.dtype(
    [("min", ">u8"), ("max", ">u8"), ("sum", ">u8"), ("sum_squares", ">u8"), ("count", ">u8")]
)


def _by_direction(*quantities: str) -> list[tuple[str, np.dtype[np.void]]]:
    """The fields of reads and writes: ``size_r``, ``size_w`` and so on."""
    return [(f"{name}_{direction}", _WIRE_MINMAX) for name in quantities for direction in "rw"]


_WIRE_HEAD = [("time", ">u8"), ("size_hist", ">u4", SIZE_BUCKETS), ("d2c_hist", ">u4", D2C_BUCKETS)]

STATS_03 = np.dtype(
    [
        *_WIRE_HEAD,
        ("device", ">u4"),
        *_by_direction("size", "d2c", "thrput"),
        ("bidir", ">u8"),
    ]
)
"""One device's interval statistics, layout 0.3, 424 bytes, big-endian on every machine."""

STATS_02 = np.dtype(
    [
        *_WIRE_HEAD,
        *_by_direction("size", "d2c"),
        ("bidir", ">u8"),
        ("device", ">u4"),
    ]
)
"""Layout 0.2, 344 bytes: no throughput, device last."""

STATS = STATS_03.newbyteorder("=")
"""The same fields as ``STATS_03`` in host byte order: what ``read_stats`` returns."""
