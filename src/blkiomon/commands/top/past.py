"""What has happened since the start, by device: p99s and latencies by time, errors, requeues."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.engine.constants import ALL_OPS
from blkiomon.engine.snapshot import Snapshot
from blkiomon.interval.distribution import N_BINS, PERCENTILES, bin_bounds
from blkiomon.interval.moments import add_up, distinct
from blkiomon.interval.value import Interval

SLICES = 120
"""A run is divided into at most so many slices; when it gets longer, these get twice as long.
A device that is idle for so many intervals is forgotten, unless it had errors or requeues."""

MOST_CELLS = 4_000_000
"""Most cells of all heat maps, of 16 bytes; beyond, those of the oldest slices are dropped."""

AT_ONCE = 8
"""Lists of cells that are added up in one step."""

P99 = PERCENTILES.index(99)

CODE_BITS = 7
_FIRST = 35  # code 1 begins at 1 µs

Codes = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.int64]
Cells = tuple[Keys, npt.NDArray[np.uint64]]
"""Device and code of a latency, ``device << CODE_BITS | code``, and how many requests had it."""


def codes_of(times_ns: npt.ArrayLike) -> Codes:
    """Latencies as logarithmic codes, twelve in each factor of ten; 0 for none."""
    time = np.asarray(times_ns, np.float64)
    codes = np.floor(12 * np.log10(np.maximum(time, 1)) + 1e-6) - _FIRST
    return np.where(time > 0, np.clip(codes, 1, (1 << CODE_BITS) - 1), 0).astype(np.uint8)


def time_of(code: float) -> float:
    """The least latency of a code, in ns."""
    return float(10 ** ((code + _FIRST) / 12))


_CODE_OF_BIN = codes_of(sum(of >> np.uint64(1) for of in bin_bounds(np.arange(N_BINS))) + 1)


class Past:
    """The past of each device and operation.

    Attributes:
        keys: shape (k,), ascending, as ``Columns.keys``, without the total.
        codes: shape (k, ``SLICES``): the highest p99 of the intervals in each slice, as codes.
        errors, requeues: shape (k,).
        slices: how many slices have begun.
    """

    def __init__(self) -> None:
        self.keys = np.empty(0, np.int64)
        self.codes = np.empty((0, SLICES), np.uint8)
        self.errors = np.empty(0, np.int64)
        self.requeues = np.empty(0, np.int64)
        self.slices = 0
        self._used = np.empty(0, np.int64)  # number of the latest interval with each key
        self._intervals = 0
        self._stride = 1  # intervals in a slice
        self._cells: list[list[Cells]] = []

    def add(self, interval: Interval, *, is_rest: bool = False) -> None:
        """Add the next interval, by device. A rest is too short for a slice of its own."""
        columns = interval.columns()
        keys = columns.key_array[:-1]
        self._know(keys)
        at = np.searchsorted(self.keys, keys)
        if not is_rest:
            if not self._intervals % self._stride:
                self._begin_slice()
            self._intervals += 1
        codes = codes_of(columns.d2c_ns.percentiles[:-1, P99])
        self.codes[at, self.slices - 1] = np.maximum(self.codes[at, self.slices - 1], codes)
        self.errors[at] += np.array(columns.errors[:-1], np.int64)
        self.requeues[at] += np.array(columns.requeues[:-1], np.int64)
        self._used[at] = self._intervals
        self._add_cells(interval.snapshot)
        is_old = self._used < self._intervals - SLICES
        if (is_old := is_old & (self.errors == 0) & (self.requeues == 0)).any():
            self._keep(np.flatnonzero(~is_old))

    @property
    def devices(self) -> npt.NDArray[np.int64]:
        """Numbers of the known devices, ascending."""
        return distinct(self.keys >> 3)

    def of(self, numbers: Iterable[int], op: int = ALL_OPS) -> npt.NDArray[np.intp]:
        """The rows of those of these devices that are known."""
        return self._find(np.fromiter(numbers, np.int64) << 3 | op)

    def heat(self, numbers: Iterable[int]) -> npt.NDArray[np.float64]:
        """How many requests of some devices had each latency, shape (slices, codes)."""
        devices = np.fromiter(numbers, np.int64)
        found = np.zeros((self.slices, 1 << CODE_BITS))
        for row, lists in zip(found, self._cells):
            for keys, counts in lists:
                is_shown = np.isin(keys >> CODE_BITS, devices)
                np.add.at(row, keys[is_shown] & (1 << CODE_BITS) - 1, counts[is_shown])
        return found

    def copy(self) -> Past:
        """A copy for another thread."""
        other = Past()
        other.__dict__.update(self.__dict__)
        other.codes = self.codes.copy()
        other.errors, other.requeues = self.errors.copy(), self.requeues.copy()
        other._cells = [list(lists) for lists in self._cells]
        return other

    # --- inner workings ---------------------------------------------------------------------------

    def _find(self, keys: Keys) -> npt.NDArray[np.intp]:
        """The rows of those of these keys that are known."""
        if not len(self.keys):
            return np.empty(0, np.intp)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found: npt.NDArray[np.intp] = at[self.keys[at] == keys]
        return found

    def _know(self, keys: Keys) -> None:
        """Make room for the keys that are new."""
        if len(self._find(keys)) == len(keys):
            return
        before = self.keys
        self.keys = distinct(np.concatenate([before, keys]))
        at = np.searchsorted(self.keys, before)

        def spread(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            wider = np.zeros((len(self.keys), *values.shape[1:]), values.dtype)
            wider[at] = values
            return wider

        self._change(spread)

    def _keep(self, at: npt.NDArray[np.intp]) -> None:
        self.keys = self.keys[at]
        self._change(lambda values: values[at])

    def _change(self, change: Any) -> None:
        self.codes, self.errors, self.requeues, self._used = map(
            change, (self.codes, self.errors, self.requeues, self._used)
        )

    def _begin_slice(self) -> None:
        if self.slices == SLICES:
            half = SLICES // 2
            self.codes[:, :half] = np.maximum(self.codes[:, 0::2], self.codes[:, 1::2])
            self.codes[:, half:] = 0
            pairs = zip(self._cells[0::2], self._cells[1::2])
            self._cells = [_added_up([*one, *other]) for one, other in pairs]
            self.slices, self._stride = half, 2 * self._stride
        self.slices += 1
        sizes = [sum(len(keys) for keys, _ in lists) for lists in self._cells]
        for at in range(len(sizes)):
            if sum(sizes[at:]) > MOST_CELLS:
                self._cells[at] = []
        self._cells.append([])

    def _add_cells(self, snapshot: Snapshot) -> None:
        bins, rows = snapshot.d2c_bins, snapshot.rows
        row = bins["row"].astype(np.int64)
        places, counts = add_up(row << CODE_BITS | _CODE_OF_BIN[bins["bin"]], bins["count"])
        device = rows["device"].astype(np.int64)[places >> CODE_BITS]
        lists = self._cells[-1]
        lists.append((device << CODE_BITS | places & (1 << CODE_BITS) - 1, counts))
        if len(lists) > AT_ONCE:
            self._cells[-1] = _added_up(lists)


def _added_up(lists: list[Cells]) -> list[Cells]:
    if not lists:
        return []
    keys, counts = (np.concatenate(arrays) for arrays in zip(*lists))
    return [add_up(keys, counts)]
