"""Synthetic streams of requests for benchmarks, the same in every run.

- Requests are issued at equal distances, to random sectors of random devices.
- A request completes after a random time, uniform from 0.05 to 1.95 times `depth` distances. So
  about `depth` requests are outstanding at any time, and completions are out of order.
- 70 % are reads; 70 % have 4 KiB, the others 8, 16 or 64 KiB.
- A request is issued on one of 8 CPUs; 75 % are completed on the same one, the others on any.
- `sequence` counts the records of each device and CPU from 1, in the order of the stream. Lost
  completions are not counted, so they leave no gap.
- All records have one pid and no error.
- One seeded generator makes all random numbers, for 2^20 requests at a time.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from blkiomon.engine.layout import MAGIC, TRACE_V7, TRACE_V8

START_NS = 10**9
DISTANCE_NS = 2000
READ, WRITE, QUEUE, ISSUE, COMPLETE, FS = 1, 2, 1 << 4, 1 << 6, 1 << 7, 1 << 8
ISSUED, COMPLETED = 7, 8
FIRST_DEVICE = 8 << 20
CPUS = 8
PLACES = 1 << 28
BLOCK = 1 << 20
MANY = 10_000_000
"""Requests of the long streams for whole programs."""


def name(depth: int, devices: int = 1) -> str:
    """What tables call such a stream."""
    return f"{depth:,} outstanding, {devices:,} device{'s' * (devices > 1)}"


def make(
    requests: int,
    depth: int,
    devices: int = 1,
    *,
    lost: float = 0.0,
    seed: int = 1,
) -> npt.NDArray[np.void]:
    """Issues and completions in the order of their times.

    Args:
        requests: how many.
        depth: requests outstanding on average.
        devices: number of devices, each with the same share of the requests.
        lost: share of the completions that are left out.
        seed: of the generator.

    Returns:
        Shape (n,), dtype ``layout.TRACE_V7`` in host byte order; n is 2 * requests unless lost.
    """
    parts = list(pieces(requests, depth, devices, lost=lost, seed=seed))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def pieces(
    requests: int,
    depth: int,
    devices: int = 1,
    *,
    lost: float = 0.0,
    seed: int = 1,
) -> Iterator[npt.NDArray[np.void]]:
    """The same stream as `make`, in pieces: a long stream need not fit in memory."""
    rng = np.random.default_rng(seed)
    waiting = np.zeros(0, TRACE_V7)  # completions to come
    stored = np.zeros(devices * CPUS, "u4")
    for first in range(0, requests, BLOCK):
        n = min(BLOCK, requests - first)
        issues = np.zeros(n, TRACE_V7)
        issues["magic"] = MAGIC | 7
        issues["time"] = START_NS + (first + np.arange(n)) * DISTANCE_NS
        issues["sector"] = rng.integers(0, PLACES, n) * 8
        issues["bytes"] = rng.choice([4096, 8192, 16384, 65536], n, p=[0.7, 0.1, 0.1, 0.1])
        direction = np.where(rng.random(n) < 0.7, READ, WRITE)
        issues["action"] = (direction | FS | ISSUE) << 16 | ISSUED
        issues["pid"] = 4711
        issues["device"] = FIRST_DEVICE + rng.integers(0, devices, n)
        issues["cpu"] = rng.integers(0, CPUS, n)

        completions = issues.copy()
        after_ns = rng.uniform(0.05, 1.95, n) * depth * DISTANCE_NS
        completions["time"] += after_ns.astype("u8")
        completions["action"] = (direction | FS | COMPLETE) << 16 | COMPLETED
        elsewhere = rng.random(n) >= 0.75
        completions["cpu"][elsewhere] = rng.integers(0, CPUS, elsewhere.sum())
        if lost:
            completions = completions[rng.random(n) >= lost]

        waiting = np.concatenate([waiting, completions])
        done = np.ones(len(waiting), bool)
        if first + n < requests:
            done = waiting["time"] < START_NS + (first + n) * DISTANCE_NS
        records = np.concatenate([issues, waiting[done]])
        waiting = waiting[~done]
        records = records[np.argsort(records["time"], kind="stable")]
        _number(records, stored)
        yield records


def _counters(records: npt.NDArray[np.void], devices: int) -> npt.NDArray[np.unsignedinteger]:
    """The index of each record's sequence counter: there is one for each device and CPU."""
    counter = (records["device"] - FIRST_DEVICE) * CPUS + records["cpu"]
    return counter.astype("u2" if devices * CPUS <= 1 << 16 else "u4")


def _number(records: npt.NDArray[np.void], stored: npt.NDArray[np.uint32]) -> None:
    """Set the sequence numbers, and advance the counters in `stored`."""
    counter = _counters(records, len(stored) // CPUS)
    order = np.argsort(counter, kind="stable")
    sizes = np.bincount(counter, minlength=len(stored)).astype("u4")
    begins = np.cumsum(sizes) - sizes
    within = np.arange(len(records)) - np.repeat(begins, sizes)
    records["sequence"][order] = within + 1 + np.repeat(stored, sizes)
    stored += sizes


def repeat(records: npt.NDArray[np.void], rounds: int) -> Iterator[npt.NDArray[np.void]]:
    """Repeat a stream as if it went on: later, on other sectors, with the next sequence numbers.

    `records` must come from `make`. They are changed in place, and yielded in each round.
    """
    devices = int(records["device"].max()) - FIRST_DEVICE + 1
    counter = _counters(records, devices)
    sequences = np.bincount(counter).astype("u4")[counter]
    sectors = 1 << int(records["sector"].max()).bit_length()
    later_ns = int(records["time"][-1]) - START_NS + DISTANCE_NS
    for round_ in range(rounds):
        if round_:
            records["time"] += later_ns
            records["sector"] += sectors
            records["sequence"] += sequences
        yield records


def issues_alone(requests: int) -> npt.NDArray[np.void]:
    """Requests to one device that are never completed."""
    records = make(requests, 32, lost=1.0)
    records["sector"] = np.arange(requests) * 8  # no two alike
    return records


def losing(requests: int) -> Iterator[memoryview]:
    """Streams, as bytes, with about so many requests that are never completed: one in 16.

    All are on one device, on sectors that `make` does not use.
    """
    share = 1 / 16
    most = 500_000
    rounds = -(-requests // int(most * share))
    if not rounds:
        return
    records = make(int(requests / share / rounds), 32, lost=share, seed=2)
    records["sector"] += 8 * PLACES
    for part in repeat(records, rounds):
        yield memoryview(part).cast("B")


@functools.cache
def _directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="blkiomon-bench-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@functools.cache
def file(requests: int, depth: int, devices: int, *, all_events: bool = False) -> Path:
    """A temporary file with the stream of `make`, in the page cache.

    Args:
        requests, depth, devices: as for `make`.
        all_events: the stream is that of `with_all_events`, and is made in memory.

    Raises:
        OSError: the file system for temporary files is too small.
    """
    path = _directory() / f"{requests}-{depth}-{devices}-{all_events}.trace"
    per_request = 5 if all_events else 2
    if shutil.disk_usage(path.parent).free < per_request * requests * TRACE_V7.itemsize + (1 << 28):
        raise OSError(f"no room for a stream of {requests:,} requests in {path.parent}")
    with path.open("wb") as out:
        if all_events:
            with_all_events(make(requests, depth, devices)).tofile(out)
        else:
            for records in pieces(requests, depth, devices):
                records.tofile(out)
        os.fsync(out.fileno())
    return path


@functools.cache
def head(path: Path, records: int) -> Path:
    """A temporary file with the first records of another one."""
    part = path.with_suffix(f".{records}")
    with path.open("rb") as source, part.open("wb") as out:
        left = records * TRACE_V7.itemsize
        while left and (data := source.read(min(left, 1 << 24))):
            out.write(data)
            left -= len(data)
        out.flush()
        os.fsync(out.fileno())
    return part


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


def with_others(records: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Records of `make`, with queue, merge and get-request records before issues: 10 % of all."""
    rng = np.random.default_rng(3)
    issues = np.flatnonzero(records["action"] & 0xFFFF == ISSUED)
    places = np.sort(rng.choice(issues, len(records) // 9, replace=False))
    others = records[places].copy()
    direction = others["action"] >> 16 & (READ | WRITE)
    others["action"] = (direction | QUEUE) << 16 | rng.choice([1, 2, 4], len(others))
    out = np.insert(records, places, others)
    _number(out, np.zeros(CPUS * (int(out["device"].max()) - FIRST_DEVICE + 1), "u4"))
    return out


def with_all_events(records: npt.NDArray[np.void], plugged: int = 16) -> npt.NDArray[np.void]:
    """Records of `make`, with the queue, get-request and insert records of all requests.

    A process plugs its queue: so many requests are queued one after the other, before the first of
    them is issued. Of five records, two are an issue and a completion.
    """
    issues = records[records["action"] & 0xFFFF == ISSUED]
    at = np.arange(len(issues))
    parts = [records]
    for nth, event in enumerate((1, 4, 12)):
        part = issues.copy()
        part["action"] = ((part["action"] >> 16 & (READ | WRITE)) | QUEUE) << 16 | event
        part["time"] = part["time"][at // plugged * plugged] - 1000 + at % plugged * 60 + 20 * nth
        parts.append(part)
    out = np.concatenate(parts)
    out = out[np.argsort(out["time"], kind="stable")]
    _number(out, np.zeros(CPUS * (int(out["device"].max()) - FIRST_DEVICE + 1), "u4"))
    return out


def with_payloads(records: npt.NDArray[np.void]) -> bytes:
    """The same records, of either byte order, with a payload of 16 bytes behind every tenth."""
    length = np.uint16(16)
    if records["magic"][0] & 0xFFFFFF00 != MAGIC:
        length = length.byteswap()
    parts = []
    for start in range(0, len(records), 10):
        part = records[start : start + 10].copy()
        part["pdu_len"][-1] = length
        parts += [part.tobytes(), bytes(16)]
    return b"".join(parts)
