"""Where requests went: a random sample of bounded size, and which requests were sequential."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Table
from blkiomon.interval.moments import run_starts, stacked

SAMPLE = 30_000
"""Requests in the sample."""

SLOWEST = 200
"""Requests that are kept as the slowest."""

BATCH = 1 << 16
"""Requests that are examined together."""

OVERTAKEN = 1 << 12
"""Requests come in the order of completion and are examined in the order of issue: so many may
complete before one that was issued earlier."""

MOST_KEYS = 1 << 16
"""Pairs of device and operation of which sequential requests are counted; further ones are not."""

SECTOR_BYTES = 512

_KEPT = ["issued_ns", "sector", "bytes", "device", "op"]
_NO_REQUEST = np.empty(0, layout.REQUEST)[_KEPT].copy()


@dataclass(frozen=True, slots=True)
class Patterns:
    """Where requests went.

    A request is sequential if it begins at the sector where the one issued before it to the same
    device, of the same operation, ended. The first one is not.

    Attributes:
        sample: shape (n,), fields of ``layout.REQUEST``, by time of issue; ``issued_ns`` counts
            from the first record.
        n_requests: how many requests the sample was drawn from.
        counts: shape (operations, slices, 2): requests by time of issue, and sequential ones.
        slice_ns: length of a slice.
        shares: requests and sequential ones by device and operation.
        slowest: shape (n,), dtype ``layout.REQUEST``: those with the longest D2C, the slowest
            first; ``issued_ns`` counts from the first record.
    """

    sample: Table
    n_requests: int
    counts: npt.NDArray[np.int64]
    slice_ns: int
    shares: dict[tuple[int, int], tuple[int, int]]
    slowest: Table


class Accesses:
    """Takes requests as they complete.

    Args:
        n_slices: number of slices of time, an even number.
    """

    def __init__(self, n_slices: int) -> None:
        self._counts = np.zeros((len(layout.OPS), n_slices, 2), np.int64)
        self._waiting: list[Table] = []
        self._n_waiting = 0
        self._ends: dict[int, int] = {}  # sector after the latest request, by key
        self._shares: dict[int, list[int]] = {}
        self._sample = _NO_REQUEST
        self._slowest = np.empty(0, layout.REQUEST)
        self._keys = np.empty(0)
        self._limit = 1.0  # the sample has only requests with random keys below
        self._n_requests = 0
        self._random = np.random.default_rng(1)
        self._origin_ns = 0
        self._slice_ns = 0

    def add(self, requests: Table, origin_ns: int, slice_ns: int) -> None:
        """Take the next requests.

        Args:
            requests: shape (n,), dtype ``layout.REQUEST``.
            origin_ns: trace time at which the first slice begins.
            slice_ns: length of a slice now: that of the previous call, or doubled any number of
                times.
        """
        self._origin_ns = origin_ns
        while 0 < self._slice_ns < slice_ns:
            pairs = self._counts.reshape(len(layout.OPS), -1, 2, 2).sum(axis=2)
            self._counts = np.concatenate((pairs, np.zeros_like(pairs)), axis=1)
            self._slice_ns *= 2
        self._slice_ns = slice_ns
        if len(requests):
            self._keep_slowest(requests)
            self._waiting.append(requests[_KEPT].copy())
            self._n_waiting += len(requests)
        if self._n_waiting >= BATCH:
            self._examine(OVERTAKEN)

    def finish(self) -> Patterns:
        """The patterns of all requests."""
        self._examine(0)
        slowest = self._slowest[
            np.argsort(-self._slowest["d2c_ns"].astype(np.float64), kind="stable")
        ]
        slowest["issued_ns"] = self._since_start(slowest["issued_ns"])
        return Patterns(
            np.sort(self._sample, order=["issued_ns", "device", "sector"]),
            self._n_requests,
            self._counts,
            self._slice_ns,
            {
                (key >> 3, key & 7): (requests, sequential)
                for key, (requests, sequential) in sorted(self._shares.items())
            },
            slowest,
        )

    def _keep_slowest(self, requests: Table) -> None:
        if len(self._slowest) == SLOWEST:
            requests = requests[requests["d2c_ns"] > self._slowest["d2c_ns"].min()]
        if len(requests):
            found = stacked((self._slowest, requests))
            if len(found) > SLOWEST:
                found = found[np.argpartition(found["d2c_ns"], -SLOWEST)[-SLOWEST:]]
            self._slowest = found

    def _since_start(self, at_ns: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        return np.where(at_ns > self._origin_ns, at_ns - self._origin_ns, 0)

    def _examine(self, leave: int) -> None:
        """Count all waiting requests but the latest ``leave``, in the order of issue."""
        requests = stacked([_NO_REQUEST, *self._waiting])
        requests = requests.take(np.argsort(requests["issued_ns"], kind="stable"))
        left = requests[len(requests) - leave :] if leave else requests[:0]
        requests = requests[: len(requests) - leave].copy()
        self._waiting, self._n_waiting = [left], len(left)
        if not len(requests):
            return
        requests["issued_ns"] = self._since_start(requests["issued_ns"])
        self._draw(requests)
        self._count(requests)

    def _draw(self, requests: Table) -> None:
        """Reservoir sampling by random keys: the requests with the lowest keys are the sample."""
        self._n_requests += len(requests)
        keys = self._random.random(len(requests))
        low = keys < self._limit
        self._keys = np.concatenate((self._keys, keys[low]))
        self._sample = stacked((self._sample, requests[low]))
        if len(self._keys) > SAMPLE:
            lowest = np.argpartition(self._keys, SAMPLE)[:SAMPLE]
            self._keys, self._sample = self._keys[lowest], self._sample[lowest]
            self._limit = float(self._keys.max())

    def _count(self, requests: Table) -> None:
        """Count sequential requests by device and operation, and by operation and slice."""
        key = requests["device"].astype(np.int64) << 3 | requests["op"]
        if len(self._ends) > MOST_KEYS:
            is_known = np.isin(key, np.fromiter(self._ends, np.int64))
            requests, key = requests[is_known], key[is_known]
        order = np.argsort(key, kind="stable")
        requests, key = requests.take(order), key[order]
        sectors = (requests["bytes"].astype(np.uint64) + (SECTOR_BYTES - 1)) // SECTOR_BYTES
        ends = requests["sector"] + sectors
        before = np.roll(ends, 1)
        starts = run_starts(key)
        lasts = np.append(starts[1:], len(key)) - 1
        is_known = np.ones(len(key), bool)
        for start, last in zip(starts.tolist(), lasts.tolist()):
            of_key = int(key[start])
            is_known[start] = of_key in self._ends
            before[start] = self._ends.get(of_key, 0)
            self._ends[of_key] = int(ends[last])
        is_sequential = is_known & (before == requests["sector"]) & (sectors > 0)
        totals = np.add.reduceat(is_sequential, starts, dtype=np.int64)
        for start, last, sequential in zip(starts.tolist(), lasts.tolist(), totals.tolist()):
            share = self._shares.setdefault(int(key[start]), [0, 0])
            share[0] += last - start + 1
            share[1] += sequential
        n_slices = self._counts.shape[1]
        slices = np.minimum(requests["issued_ns"] // self._slice_ns, n_slices - 1)
        place = requests["op"].astype(np.int64) * n_slices + slices.astype(np.int64)
        flat = self._counts.reshape(-1, 2)
        flat[:, 0] += np.bincount(place, minlength=len(flat))
        flat[:, 1] += np.bincount(place[is_sequential], minlength=len(flat))
