"""Where requests went: a random sample of bounded size, and which requests were sequential."""

from __future__ import annotations

from collections.abc import Mapping
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

REORDER_WINDOW = 1 << 12
"""Requests come in the order of completion and are examined in the order of issue: this many may
complete before one that was issued earlier."""

MOST_KEYS = 1 << 16
"""Limit of the pairs of device and operation of which sequential requests are counted."""

SECTOR_BYTES = 512

Indices = npt.NDArray[np.intp]

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
        process_names: of those that issued the slowest, by pid, as far as they are known.
    """

    sample: Table
    n_requests: int
    counts: npt.NDArray[np.int64]
    slice_ns: int
    shares: dict[tuple[int, int], tuple[int, int]]
    slowest: Table
    process_names: Mapping[int, str]


class Accesses:
    """Takes requests as they complete.

    Args:
        n_slices: number of slices of time, an even number.
        slice_ns: length of a slice; it doubles whenever a request is later than the last slice.
    """

    def __init__(self, n_slices: int, slice_ns: int) -> None:
        self._counts = np.zeros((len(layout.OPS), n_slices, 2), np.int64)
        self._slice_ns = slice_ns
        self._waiting: list[Table] = []
        self._n_waiting = 0
        # By pair of device and operation:
        self._keys = np.empty(0, np.int64)  # ascending
        self._ends = np.empty(0, np.uint64)  # sector after the latest request
        self._shares = np.empty((0, 2), np.int64)  # requests, sequential ones
        self._sample = _NO_REQUEST
        self._slowest = np.empty(0, layout.REQUEST)
        self._drawn = np.empty(0)  # a random number for each request of the sample
        self._limit = 1.0  # the sample has only requests with random numbers below
        self._n_requests = 0
        self._random = np.random.default_rng(1)
        self._origin_ns = 0

    def add(self, requests: Table, origin_ns: int) -> None:
        """Take the next requests.

        Args:
            requests: shape (n,), dtype ``layout.REQUEST``.
            origin_ns: trace time at which the first slice begins.
        """
        self._origin_ns = origin_ns
        if len(requests):
            self._keep_slowest(requests)
            self._waiting.append(requests)
            self._n_waiting += len(requests)
        if self._n_waiting >= BATCH:
            self._examine(REORDER_WINDOW)

    def finish(self, process_names: Mapping[int, str]) -> Patterns:
        """The patterns of all requests, with the names of these processes, by pid."""
        self._examine(0)
        self._shrink_sample()
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
                for key, (requests, sequential) in zip(self._keys.tolist(), self._shares.tolist())
            },
            slowest,
            {p: process_names[p] for p in slowest["pid"].tolist() if p in process_names},
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
        requests = stacked([np.empty(0, layout.REQUEST), *self._waiting])
        order = np.argsort(requests["issued_ns"], kind="stable")  # fast, as most are in order
        n_examined = max(0, len(requests) - leave)
        left = requests.take(order[n_examined:])
        self._waiting, self._n_waiting = [left], len(left)
        if n_examined:
            self._draw(requests, order[:n_examined])
            self._count(requests, order[:n_examined])

    def _draw(self, requests: Table, order: Indices) -> None:
        """Reservoir sampling: the requests with the lowest random numbers are the sample."""
        self._n_requests += len(order)
        drawn = self._random.random(len(order))
        low = np.flatnonzero(drawn < self._limit)
        self._drawn = np.concatenate((self._drawn, drawn[low]))
        picked = requests.take(order[low])
        picked["issued_ns"] = self._since_start(picked["issued_ns"])
        self._sample = stacked((self._sample, picked[_KEPT]))
        if len(self._drawn) > 2 * SAMPLE:
            self._shrink_sample()

    def _shrink_sample(self) -> None:
        if len(self._drawn) > SAMPLE:
            lowest = np.argpartition(self._drawn, SAMPLE)[:SAMPLE]
            self._drawn, self._sample = self._drawn[lowest], self._sample[lowest]
            self._limit = float(self._drawn.max())

    def _count(self, requests: Table, order: Indices) -> None:
        """Count sequential requests by device and operation, and by operation and slice."""
        key = (requests["device"].astype(np.int64) << 3 | requests["op"])[order]
        if len(self._keys) > MOST_KEYS:
            is_known = np.isin(key, self._keys)
            order, key = order[is_known], key[is_known]
            if not len(key):
                return
        by_key = _order_of(key)
        order, key = order[by_key], key[by_key]
        sector, n_bytes, issued_ns = (
            requests[name][order] for name in ("sector", "bytes", "issued_ns")
        )
        sectors = (n_bytes.astype(np.uint64) + (SECTOR_BYTES - 1)) // SECTOR_BYTES
        ends = sector + sectors
        starts = run_starts(key)
        places, is_new = self._places_of(key[starts])
        before = np.roll(ends, 1)
        before[starts] = self._ends[places]
        is_sequential = (before == sector) & (sectors > 0)
        is_sequential[starts[is_new]] = False
        self._ends[places] = ends[np.append(starts[1:], len(key)) - 1]
        self._shares[places, 0] += np.diff(starts, append=len(key))
        self._shares[places, 1] += np.add.reduceat(is_sequential, starts, dtype=np.int64)
        slices = self._slices_of(self._since_start(issued_ns))
        place = (key & 7) * self._counts.shape[1] + slices
        flat = self._counts.reshape(-1, 2)
        flat[:, 0] += np.bincount(place, minlength=len(flat))
        flat[:, 1] += np.bincount(place[is_sequential], minlength=len(flat))

    def _places_of(
        self, keys: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """The index of each of these ascending keys, and whether it is new; new ones are added."""
        is_new = ~np.isin(keys, self._keys, assume_unique=True)
        if is_new.any():
            at = np.searchsorted(self._keys, keys[is_new])
            self._keys = np.insert(self._keys, at, keys[is_new])
            self._ends = np.insert(self._ends, at, 0)
            self._shares = np.insert(self._shares, at, 0, axis=0)
        return np.searchsorted(self._keys, keys), is_new

    def _slices_of(self, issued_ns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The slice of each time since the start."""
        n_slices = self._counts.shape[1]
        while int(issued_ns.max(initial=0)) // self._slice_ns >= n_slices:
            pairs = self._counts.reshape(len(layout.OPS), -1, 2, 2).sum(axis=2)
            self._counts = np.concatenate((pairs, np.zeros_like(pairs)), axis=1)
            self._slice_ns *= 2
        return (issued_ns // np.uint64(self._slice_ns)).astype(np.int64)


def _order_of(keys: npt.NDArray[np.int64]) -> Indices:
    """What ``np.argsort(kind="stable")`` returns, faster: a radix sort of 16 bits at a time."""
    order = np.arange(len(keys))
    for shift in range(0, int(keys.max()).bit_length(), 16):
        digits = (keys >> shift).astype(np.uint16)[order]
        if (digits != digits[0]).any():
            order = order[np.argsort(digits, kind="stable")]
    return order
