"""Streams of requests for benchmarks, made by a rule that anyone can repeat.

Requests are issued at equal distances, to random sectors of random devices; each is completed
after a random time, uniform from 0.05 to 1.95 times `depth` distances, so that about `depth` are
outstanding at any time and completions come in no order. 70 % are reads; 70 % are of 4 KiB, the
others of 8, 16 or 64 KiB. Everything comes from one seeded generator.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blkiomon.layout import MAGIC, TRACE_V7, TRACE_V8

DISTANCE_NS = 2000
READ, WRITE, FS, ISSUE, COMPLETE = 1, 2, 1 << 8, 1 << 6, 1 << 7


def make(
    requests: int,
    depth: int,
    devices: int = 1,
    *,
    alignment: int = 8,
    lost: float = 0.0,
    seed: int = 1,
) -> npt.NDArray[np.void]:
    """Issues and completions in the order of their times.

    Args:
        requests: how many.
        depth: how many are outstanding on average.
        devices: how many devices they are spread over evenly.
        alignment: sectors are multiples of this.
        lost: share of the completions that is missing.
        seed: of the generator.

    Returns:
        Shape (n,), dtype ``layout.TRACE_V7`` in host byte order; n is 2 * requests unless lost.
    """
    rng = np.random.default_rng(seed)
    issued = np.arange(requests) * float(DISTANCE_NS)
    done = issued + rng.uniform(0.05, 1.95, requests) * depth * DISTANCE_NS
    times = np.concatenate([issued, done])
    order = np.argsort(times, kind="stable")
    if lost:
        order = order[(order < requests) | (rng.random(2 * requests) >= lost)]
    request = order % requests
    completed = order >= requests

    sector = rng.integers(0, 1 << 28, requests).astype("u8") * alignment
    device = (8 << 20) + rng.integers(0, devices, requests)
    direction = np.where(rng.random(requests) < 0.7, READ, WRITE)
    size = rng.choice([4096, 8192, 16384, 65536], requests, p=[0.7, 0.1, 0.1, 0.1])

    records = np.zeros(len(order), TRACE_V7)
    records["magic"] = MAGIC | 7
    records["time"] = 10**9 + times[order].astype("u8")
    records["sector"] = sector[request]
    records["bytes"] = size[request]
    category = direction[request] | FS | np.where(completed, COMPLETE, ISSUE)
    records["action"] = category.astype("u4") << 16 | np.where(completed, 8, 7).astype("u4")
    records["pid"] = 4711
    records["device"] = device[request]
    records["cpu"] = request % 8
    return records


def as_version_8(records: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """The same records, version 8."""
    out = np.zeros(len(records), TRACE_V8)
    for name in TRACE_V7.names or ():
        out[name] = records[name]
    out["magic"] = MAGIC | 8
    return out


def as_foreign(records: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """The same records from a machine of the other byte order."""
    return records.byteswap()


def with_payloads(records: npt.NDArray[np.void], every: int = 10, size: int = 16) -> bytes:
    """The same records, of either byte order, a payload behind every tenth."""
    length = np.uint16(size)
    if records["magic"][0] & 0xFFFFFF00 != MAGIC:
        length = length.byteswap()
    parts = []
    for start in range(0, len(records), every):
        part = records[start : start + every].copy()
        part["pdu_len"][-1] = length
        parts += [part.tobytes(), bytes(size)]
    return b"".join(parts)
