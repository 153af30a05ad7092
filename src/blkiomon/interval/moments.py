"""Moments of a quantity (extremes, sum, sum of squares), and adding up those of many rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

U64_MAX = (1 << 64) - 1
U128_MAX = (1 << 128) - 1
"""A sum of squares of this value or more did not fit 128 bits: it is unknown."""


class Moments(NamedTuple):
    """Extremes, sum, sum of squares and count of one quantity; integers of any length.

    ``min`` is 2^64-1 if ``count`` is 0. The original's binary structs have the same order.
    """

    min: int = U64_MAX
    max: int = 0
    sum: int = 0
    sum_squares: int = 0
    count: int = 0  # type: ignore[assignment]  # replaces tuple.count

    @property
    def avg(self) -> float:
        """The mean; 0.0 without values."""
        if not self.count:
            return 0.0
        # A sum below 2^64 is rounded to double first, as in the original. A larger sum is not.
        return (float(self.sum) if self.sum <= U64_MAX else self.sum) / self.count

    @property
    def var(self) -> float:
        """The population variance ``(sum_squares - sum**2 / count) / count``; 0.0 without values.

        If ``sum_squares`` and ``sum**2`` fit 64 bits, the steps are the original's, with the same
        rounding, which may give a negative result. Beyond, where the original overflows, the
        value is exact.
        """
        if not self.count:
            return 0.0
        square = self.sum * self.sum
        if square <= U64_MAX and self.sum_squares <= U64_MAX:
            return (float(self.sum_squares) - float(square) / self.count) / self.count
        return (self.count * self.sum_squares - square) / (self.count * self.count)

    def merge(self, other: Moments) -> Moments:
        """The moments of the values of both; exact."""
        return Moments(
            min(self.min, other.min),
            max(self.max, other.max),
            self.sum + other.sum,
            self.sum_squares + other.sum_squares,
            self.count + other.count,
        )


NOTHING = Moments()


def stacked(tables: Sequence[npt.NDArray[np.void]]) -> npt.NDArray[np.void]:
    """Concatenate tables of one dtype.

    ``np.concatenate`` spends a long time on comparing their fields; viewed as bytes they have none.
    """
    dtype = tables[0].dtype
    return np.concatenate([table.view(f"V{dtype.itemsize}") for table in tables]).view(dtype)


def stacked_bins(
    bins: Sequence[npt.NDArray[np.void]], tables: Sequence[npt.NDArray[np.void]]
) -> npt.NDArray[np.void]:
    """Concatenate histograms, dtype ``layout.BIN``; ``row`` becomes an index of the stacked rows.

    Args:
        bins: of each of ``tables``, whose rows they belong to.
    """
    found = stacked(bins)
    firsts = np.cumsum([0, *map(len, tables[:-1])])
    found["row"] += np.repeat(firsts, list(map(len, bins))).astype(np.uint32)
    return found


def run_starts(keys: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """The index at which each run of equal values begins."""
    if not len(keys):
        return np.empty(0, np.intp)
    return np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The distinct values, ascending."""
    # Without return_index, numpy imports its masked arrays: that takes as long as a short trace.
    return np.unique(values, return_index=True)[0]


MOST_POSSIBLE = 4
"""``add_up`` uses an array of all possible keys if there are at most so many for each given key.
Otherwise sorting costs less."""


def add_up(
    keys: npt.NDArray[np.int64], counts: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """The distinct keys, ascending, and the sum of the counts of each."""
    if (keys[1:] > keys[:-1]).all():
        return keys, counts
    least = int(keys.min())
    n_possible = int(keys.max()) - least + 1
    if n_possible <= MOST_POSSIBLE * len(keys) and counts.all():
        sums = np.zeros(n_possible, np.uint64)
        np.add.at(sums, keys - least, counts)
        found = np.flatnonzero(sums)
        return found + least, sums[found]
    # Bins consist of sorted runs, on which numpy's stable sort is fast.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = run_starts(keys)
    return keys[starts], np.add.reduceat(counts[order], starts)


class MomentColumns(NamedTuple):
    """Moments of m groups, arrays of shape (m,): u8, or Python's integers for larger sums."""

    min: npt.NDArray[Any]
    max: npt.NDArray[Any]
    sum: npt.NDArray[Any]
    sum_squares: npt.NDArray[Any]
    count: npt.NDArray[Any]  # type: ignore[assignment]


def reduce_columns(
    rows: npt.NDArray[np.void], count: npt.NDArray[np.uint64], starts: npt.NDArray[np.intp]
) -> MomentColumns:
    """Add up the moments of runs of rows.

    Args:
        rows: shape (n,), dtype ``layout.MOMENTS``.
        count: shape (n,): the number of values of each row.
        starts: shape (m,): the index at which each run begins, ascending from 0.
    """
    if not len(starts):
        return MomentColumns(*[np.empty(0, np.uint64)] * 5)
    return MomentColumns(
        np.minimum.reduceat(rows["min"], starts),
        np.maximum.reduceat(rows["max"], starts),
        add_up_words(rows["sum"], starts),
        add_up_words(rows["sum_squares"], starts),
        np.add.reduceat(count, starts),
    )


def reduce_moments(
    rows: npt.NDArray[np.void], count: npt.NDArray[np.uint64], starts: npt.NDArray[np.intp]
) -> list[Moments]:
    """See ``reduce_columns``; returns a list of m ``Moments``."""
    return list(map(Moments, *(c.tolist() for c in reduce_columns(rows, count, starts))))


def add_up_words(words: npt.NDArray[np.uint64], starts: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Sums of runs of 128-bit numbers: u8 if they certainly fit 64 bits, else Python's integers.

    Args:
        words: shape (n, 2), low and high word of each.
        starts: shape (m,), the index at which each run begins, ascending from 0.
    """
    low = words[:, 0]
    if not words[:, 1].any() and np.add.reduceat(low.astype(np.float64), starts).max() < 2.0**63:
        return np.add.reduceat(low, starts)
    return np.add.reduceat(from_words(words), starts)


def from_words(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.object_]:
    """128-bit numbers, shape (n, 2) of low and high word, as Python's integers, shape (n,)."""
    wide: npt.NDArray[np.object_] = words[:, 0].astype(object)
    high = words[:, 1]
    return wide + (high.astype(object) << 64) if high.any() else wide


def as_floats(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """128-bit numbers, shape (n, 2) of low and high word, to 53 significant bits, shape (n,)."""
    numbers: npt.NDArray[np.float64] = words.astype(np.float64) @ [1.0, 2.0**64]
    return numbers


def to_words(values: Iterable[int]) -> list[tuple[int, int]] | npt.NDArray[np.uint64]:
    """Low and high word of each number; larger numbers saturate at ``U128_MAX``."""
    if isinstance(values, np.ndarray) and values.dtype == np.uint64:
        words = np.zeros((len(values), 2), np.uint64)
        words[:, 0] = values
        return words
    limited = (min(value, U128_MAX) for value in values)
    return [(value & U64_MAX, value >> 64) for value in limited]
