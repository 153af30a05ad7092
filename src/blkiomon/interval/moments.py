"""Extremes, sum and sum of squares of a quantity, and how those of many rows are added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

U64_MAX = (1 << 64) - 1
U128_MAX = (1 << 128) - 1
"""A sum of squares of this, or more: it is not known, 128 bits could not hold it."""


class Moments(NamedTuple):
    """Extremes, sum and sum of squares of one quantity; integers of any length.

    In the order in which the wire has them. ``min`` is 2^64-1 where ``count`` is 0.
    """

    min: int = U64_MAX
    max: int = 0
    sum: int = 0
    sum_squares: int = 0
    count: int = 0  # type: ignore[assignment]  # in place of the method of tuples

    @property
    def avg(self) -> float:
        """The mean, 0.0 of nothing."""
        if not self.count:
            return 0.0
        # Up to 2^64 as the original: to double first. Beyond, the exact quotient.
        return (float(self.sum) if self.sum <= U64_MAX else self.sum) / self.count

    @property
    def var(self) -> float:
        """The population variance, 0.0 of nothing: ``(sum_squares - sum * sum / count) / count``.

        As far as 64 bits carry ``sum_squares`` and ``sum * sum``, these are the very steps of the
        original, rounding (and the negative values that come of it) included; beyond, where the
        original wraps, integers give the exact value.
        """
        if not self.count:
            return 0.0
        square = self.sum * self.sum
        if square <= U64_MAX and self.sum_squares <= U64_MAX:
            return (float(self.sum_squares) - float(square) / self.count) / self.count
        return (self.count * self.sum_squares - square) / (self.count * self.count)

    def merge(self, other: Moments) -> Moments:
        """The moments of both collections together; exact."""
        return Moments(
            min(self.min, other.min),
            max(self.max, other.max),
            self.sum + other.sum,
            self.sum_squares + other.sum_squares,
            self.count + other.count,
        )


NOTHING = Moments()


def stacked(tables: Sequence[npt.NDArray[np.void]]) -> npt.NDArray[np.void]:
    """Tables of one dtype, one behind the other.

    What ``np.concatenate`` does, which first compares their fields for a long time.
    """
    dtype = tables[0].dtype
    return np.concatenate([table.view(f"V{dtype.itemsize}") for table in tables]).view(dtype)


def run_starts(keys: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Where each run of equal values begins; empty of nothing."""
    if not len(keys):
        return np.empty(0, np.intp)
    return np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))


def add_up(
    keys: npt.NDArray[np.int64], counts: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """The distinct keys in ascending order, and the sum of the counts of each."""
    if (keys[1:] > keys[:-1]).all():
        return keys, counts
    # Stable: fast on what is sorted in stretches, as bins are.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = run_starts(keys)
    if not len(starts):
        return keys, counts
    return keys[starts], np.add.reduceat(counts[order], starts)


class MomentColumns(NamedTuple):
    """Moments of several groups, arrays of shape (n,): u8, sums beyond that Python's integers."""

    min: npt.NDArray[Any]
    max: npt.NDArray[Any]
    sum: npt.NDArray[Any]
    sum_squares: npt.NDArray[Any]
    count: npt.NDArray[Any]  # type: ignore[assignment]


def reduce_columns(
    rows: npt.NDArray[np.void], count: npt.NDArray[np.uint64], starts: npt.NDArray[np.intp]
) -> MomentColumns:
    """Moments of each stretch of rows.

    Args:
        rows: shape (n,), dtype ``layout.MOMENTS``.
        count: shape (n,): how many values each row is of.
        starts: shape (m,): where each stretch begins, ascending, the first at 0.
    """
    if not len(starts):
        return MomentColumns(*[np.empty(0, np.uint64)] * 5)
    return MomentColumns(
        np.minimum.reduceat(rows["min"], starts),
        np.maximum.reduceat(rows["max"], starts),
        _sums(rows["sum"], starts),
        _sums(rows["sum_squares"], starts),
        np.add.reduceat(count, starts),
    )


def reduce_moments(
    rows: npt.NDArray[np.void], count: npt.NDArray[np.uint64], starts: npt.NDArray[np.intp]
) -> list[Moments]:
    """As ``reduce_columns``, one by one; the sums are Python's integers."""
    return list(map(Moments, *(c.tolist() for c in reduce_columns(rows, count, starts))))


def _sums(words: npt.NDArray[np.uint64], starts: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """The sum of each stretch of 128-bit numbers, by 64 bits where these certainly hold it."""
    low = words[:, 0]
    if not words[:, 1].any() and np.add.reduceat(low.astype(np.float64), starts).max() < 2.0**63:
        return np.add.reduceat(low, starts)
    return np.add.reduceat(from_words(words), starts)


def from_words(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.object_]:
    """Python's integers of 128-bit numbers, shape (n, 2): low word, high word."""
    wide: npt.NDArray[np.object_] = words[:, 0].astype(object)
    high = words[:, 1]
    return wide + (high.astype(object) << 64) if high.any() else wide


def to_words(values: Iterable[int]) -> list[tuple[int, int]]:
    """Low and high word of each, of what is more than 128 bits hold those of ``U128_MAX``."""
    limited = (min(value, U128_MAX) for value in values)
    return [(value & U64_MAX, value >> 64) for value in limited]
