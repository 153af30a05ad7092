"""Builds intervals from single requests, value by value, as the engine would hand them out.

And waits for what threads do with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import reference

from blkiomon import layout
from blkiomon.interval import Interval

READ, WRITE, BIDIRECTIONAL = 0, 1, 2


class Request(NamedTuple):
    """One match; `op` tells rows of one direction apart."""

    device: int
    direction: int
    size: int
    d2c_us: int
    op: int = 0


def moments(values: list[int]) -> tuple[int, int, tuple[int, int], tuple[int, int]]:
    """One element of `layout.MOMENTS`."""
    total, squares = sum(values), sum(v * v for v in values)
    mask = (1 << 64) - 1
    return (
        min(values),
        max(values),
        (total & mask, total >> 64),
        (squares & mask, squares >> 64),
    )


def interval(requests: Iterable[Request], time_s: int = 0) -> Interval:
    """An interval of these requests, rows in reverse so that nobody relies on their order."""
    groups: dict[tuple[int, int, int], list[Request]] = {}
    devices: dict[int, None] = {}
    for request in requests:
        groups.setdefault((request.device, request.op, request.direction), []).append(request)
        devices[request.device] = None
    rows = np.zeros(len(groups), layout.ROW)
    for row, ((device, op, direction), members) in zip(rows[::-1], groups.items(), strict=True):
        row["device"], row["op"], row["direction"] = device, op, direction
        row["requests"] = len(members)
        row["size_bytes"] = moments([r.size for r in members])
        row["d2c_us"] = moments([r.d2c_us for r in members])
        row["throughput"] = moments([r.size * 1000 // r.d2c_us for r in members])
        for r in members:
            size = reference.bucket(r.size, layout.SIZE_DELTA, layout.SIZE_BUCKETS)
            d2c = reference.bucket(r.d2c_us, layout.D2C_DELTA, layout.D2C_BUCKETS)
            row["size_hist"][size] += 1
            row["d2c_hist"][d2c] += 1
    return Interval(time_s, np.array(list(devices), "u4"), rows)


def at(time_s: int, devices: int = 1) -> Interval:
    """An interval that is told from others by its time."""
    return interval([Request(device, READ, 4096, 5) for device in range(devices)], time_s)


def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fails after ten seconds."""
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
