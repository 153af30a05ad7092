"""Distributions of times and sizes: exact sums, and a log-linear histogram.

The histogram works as HdrHistogram. Each value below 128 has a bin of its own. Above, every octave
(the values between two powers of two) is divided into 64 bins of equal width::

    shift = max(0, significant bits - 7)
    bin   = 64 * shift + (value >> shift)

Error bound: a bin whose least value is ``low`` is at most ``low / 64`` wide. Its middle differs
from any value in it by less than 1/128 (< 0.79 %) of that value. Bins below 128 are exact.
3,776 bins cover 64 bits.

Histograms merge by adding the counts of equal bins. Merging loses nothing: merged histograms equal
one histogram of all values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from blkiomon.engine.constants import BIN_BITS, D2C_BINS
from blkiomon.interval import arguments, html
from blkiomon.interval.moments import NOTHING, U128_MAX, Moments, add_up

if TYPE_CHECKING:
    import numpy.typing as npt

T = TypeVar("T", bound="np.generic")

N_BINS = D2C_BINS
"""Number of bins; 64-bit values fall into bins 0 to N_BINS - 1."""

MAX_RELATIVE_ERROR = 1 / 128
"""Bound of ``|percentile - exact| / exact``."""

PERCENTILES = (50, 90, 95, 99, 99.9, 99.99)
"""The percentiles that outputs show."""


def bin_of(values: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """The bin of each value from 0 to 2^64-1; same shape as ``values``."""
    value = np.asarray(values, np.uint64)
    high = value >> np.uint64(32)
    # frexp returns the bit length, as long as the double is exact: hence 32 bits at a time.
    upper = np.frexp(high.astype(np.float64))[1] + 32
    lower = np.frexp((value & np.uint64(0xFFFFFFFF)).astype(np.float64))[1]
    shift = np.maximum(np.where(high, upper, lower) - 7, 0).astype(np.uint64)
    bins: npt.NDArray[np.uint64] = shift * np.uint64(64) + (value >> shift)
    return bins.astype(np.uint32)


def bin_bounds(bins: npt.ArrayLike) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The least and the greatest value of each bin, inclusive; same shape as ``bins``.

    Raises:
        IndexError: a bin is out of range.
    """
    index = np.asarray(bins, np.intp)
    low, high = _bounds()
    return low[index], high[index]


def bin_middles(bins: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The middle of each bin; same shape as ``bins``."""
    low, high = bin_bounds(bins)
    return (low.astype(np.float64) + high) / 2


@cache
def _bounds() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    bins = np.arange(N_BINS)
    shift = np.maximum(bins // 64 - 1, 0)
    low = (bins - 64 * shift).astype(np.uint64) << shift.astype(np.uint64)
    high = low + ((np.uint64(1) << shift.astype(np.uint64)) - np.uint64(1))
    return low, high


def _read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """Make an array immutable, and return it."""
    array.setflags(write=False)
    return array


class Histograms(NamedTuple):
    """Sparse histograms of m groups, concatenated.

    Attributes:
        bins: shape (n,), u4: the non-empty bins, ascending within each group.
        counts: shape (n,), u8: the count of each bin.
        starts: shape (m + 1,): the bins of group i are ``starts[i]:starts[i + 1]``.
    """

    bins: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.intp]

    @classmethod
    def sum_by_group(
        cls,
        groups: npt.NDArray[np.int64],
        bins: npt.NDArray[np.uint32],
        counts: npt.NDArray[np.uint64],
        n_groups: int,
    ) -> Histograms:
        """Add up the counts of each bin in each group.

        Args:
            groups, bins, counts: shape (n,), in any order.
            n_groups: number of groups.
        """
        keys, sums = add_up(groups << BIN_BITS | bins, counts)
        if not sums.all():  # drop empty bins
            keys, sums = keys[sums > 0], sums[sums > 0]
        starts = np.searchsorted(keys, np.arange(n_groups + 1) << BIN_BITS)
        found = (keys & (1 << BIN_BITS) - 1).astype(np.uint32)
        return cls(_read_only(found), _read_only(sums), starts)

    def select(self, order: npt.NDArray[np.intp]) -> Histograms:
        """The histograms of the groups with these indices, in this order."""
        lengths = self.starts[order + 1] - self.starts[order]
        starts = np.zeros(len(order) + 1, np.intp)
        np.cumsum(lengths, out=starts[1:])
        index = np.repeat(self.starts[order] - starts[:-1], lengths) + np.arange(starts[-1])
        return Histograms(_read_only(self.bins[index]), _read_only(self.counts[index]), starts)

    def merge_runs(self, firsts: npt.NDArray[np.intp]) -> Histograms:
        """Merge each run of groups into one; ``firsts`` are the first groups of all runs."""
        if len(firsts) == len(self.starts) - 1:
            return self
        if len(firsts) == 1:
            sums = np.zeros(N_BINS, np.uint64)
            np.add.at(sums, self.bins, self.counts)
            bins = np.flatnonzero(sums)
            starts = np.array([0, len(bins)])
            return Histograms(_read_only(bins.astype(np.uint32)), _read_only(sums[bins]), starts)
        ends = np.append(self.starts[firsts], len(self.bins))
        groups = np.repeat(np.arange(len(firsts)), np.diff(ends))
        return self.sum_by_group(groups, self.bins, self.counts, len(firsts))

    def percentiles(
        self,
        least: npt.NDArray[np.uint64],
        greatest: npt.NDArray[np.uint64],
        wanted: Sequence[float],
    ) -> npt.NDArray[np.uint64]:
        """Percentiles of each group; see ``Distribution.percentile``.

        Args:
            least, greatest: shape (m,): the extremes of each group.
            wanted: p percentages.

        Returns:
            Shape (m, p), u8; 0 for a group without values.
        """
        upto = np.cumsum(self.counts, dtype=np.uint64)
        before = np.concatenate((np.zeros(1, np.uint64), upto))[self.starts]
        totals = np.diff(before)
        filled = np.flatnonzero(totals)
        values = np.zeros((len(totals), len(wanted)), np.uint64)
        if not len(filled):
            return values
        totals = totals[filled, np.newaxis]
        ranks = _ranks(tuple(wanted), totals)
        places = np.searchsorted(upto, before[filled, np.newaxis] + ranks)
        low, high = bin_bounds(self.bins[places])
        least = least[filled, np.newaxis]
        greatest = greatest[filled, np.newaxis]
        # The extremes are exact; any other value is estimated as the middle of its bin.
        found = np.clip(low + (high - low) // np.uint64(2), least, greatest)
        values[filled] = np.where(ranks == 1, least, np.where(ranks == totals, greatest, found))
        return values


def _ranks(percents: tuple[float, ...], totals: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Nearest ranks: ``ceil(percent / 100 * total)`` in exact arithmetic, counted from 1.

    Args:
        percents: p percentages.
        totals: shape (m, 1): the number of values of each group.

    Returns:
        Shape (m, p).
    """
    numerators, denominators = _shares(percents)
    numbers: npt.NDArray[Any] = totals.astype(numerators.dtype)
    whole, rest = numbers // denominators, numbers % denominators
    above = rest * numerators + (denominators - 1)
    ranks: npt.NDArray[np.uint64] = (whole * numerators + above // denominators).astype(np.uint64)
    return ranks


@cache
def _shares(percents: tuple[float, ...]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Percentages as fractions: numerators and denominators, each of shape (p,)."""
    numerators, denominators = [], []
    for percent in percents:
        # From its decimal digits: 99.9 means 999 / 1000, which a double cannot represent.
        whole, _, part = np.format_float_positional(percent).partition(".")
        numerator, denominator = int(whole + part), 100 * 10 ** len(part)
        common = math.gcd(numerator, denominator)
        numerators.append(numerator // common)
        denominators.append(denominator // common)
    # Python's integers if products may exceed 64 bits.
    dtype = object if any(number >> 32 for number in denominators) else np.uint64
    return np.array(numerators, dtype), np.array(denominators, dtype)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Distribution:
    """Distribution of times (ns) or sizes (bytes): exact moments and a sparse histogram.

    Attributes:
        moments: extremes, sum, sum of squares and count, all exact.
        bins: shape (n,), u4, ascending: the non-empty bins; see ``bin_bounds``.
        counts: shape (n,), u8: how many values each of these bins holds.
    """

    moments: Moments = NOTHING
    bins: npt.NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    counts: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    _known: tuple[int, ...] = field(default=(), repr=False)  # the values of PERCENTILES, or empty

    @classmethod
    def of(cls, values: Iterable[int]) -> Distribution:
        """The distribution of integers from 0 to 2^64-1."""
        listed = list(map(int, values))
        if not listed:
            return cls()
        squares = sum(value * value for value in listed)
        bins, counts = np.unique(bin_of(np.array(listed, np.uint64)), return_counts=True)
        moments = Moments(min(listed), max(listed), sum(listed), squares, len(listed))
        return cls(moments, _read_only(bins), _read_only(counts.astype(np.uint64)))

    @property
    def count(self) -> int:
        """Number of values."""
        return self.moments.count

    @property
    def min(self) -> int | None:
        """The least value; None without values."""
        return self.moments.min if self.count else None

    @property
    def max(self) -> int | None:
        """The greatest value; None without values."""
        return self.moments.max if self.count else None

    @property
    def sum(self) -> int:
        """Sum of the values."""
        return self.moments.sum

    @property
    def sum_squares(self) -> int:
        """Sum of the squares; if 2^128-1 or more, it is unknown: it did not fit 128 bits."""
        return self.moments.sum_squares

    @property
    def mean(self) -> float | None:
        """Arithmetic mean; None without values."""
        return self.sum / self.count if self.count else None

    @property
    def stddev(self) -> float | None:
        """Population standard deviation; None without values or if ``sum_squares`` is unknown."""
        if not self.count or self.sum_squares >= U128_MAX:
            return None
        return math.sqrt(self.count * self.sum_squares - self.sum * self.sum) / self.count

    @property
    def low(self) -> npt.NDArray[np.uint64]:
        """Shape (n,), u8: the least value of each of ``bins``."""
        return bin_bounds(self.bins)[0]

    @property
    def high(self) -> npt.NDArray[np.uint64]:
        """Shape (n,), u8: the greatest value of each of ``bins``, inclusive."""
        return bin_bounds(self.bins)[1]

    def percentile(self, percent: float) -> int | None:
        """The nearest-rank percentile; None without values.

        It is the value of rank ``ceil(percent / 100 * count)``, in ascending order. The first and
        the last value are exact. Any other value is estimated as the middle of its bin: less than
        1/128 (< 0.79 %) off, and exact below 128. 99.9 means exactly 999/1000.

        Raises:
            ValueError: ``percent`` is less than 1 or more than 100.
            TypeError: it is not a number.
        """
        arguments.require_number("percent", percent, "a number, such as 99 or 99.9")
        if 0 < percent < 1:
            raise ValueError(f"percent must be from 1 to 100: use {100 * percent:g}, not {percent}")
        if not 1 <= percent <= 100:
            raise ValueError(f"percent must be from 1 to 100, not {percent}")
        if self._known and percent in PERCENTILES:
            return self._known[PERCENTILES.index(percent)]
        if not self.counts.any():
            return None
        single = Histograms(self.bins, self.counts, np.array([0, len(self.bins)]))
        least, greatest = np.array([[self.moments.min], [self.moments.max]], np.uint64)
        return int(single.percentiles(least, greatest, [percent])[0, 0])

    def __repr__(self) -> str:
        shown = f"Distribution(count={self.count}"
        if self.count:
            shown += f", min={self.min}, p50={self.percentile(50)}, p99={self.percentile(99)}"
            shown += f", max={self.max}"
        return f"{shown})"

    def _repr_html_(self) -> str:
        return html.histogram(self)

    def merge(self, *others: Distribution) -> Distribution:
        """The distribution of the values of all; exact, in any order."""
        parts = (self, *others)
        moments = self.moments
        for other in others:
            if not isinstance(other, Distribution):
                raise arguments.wrong("an item to merge", "a Distribution", other)
            moments = moments.merge(other.moments)
        bins, counts = add_up(
            np.concatenate([part.bins for part in parts]).astype(np.int64),
            np.concatenate([part.counts for part in parts]),
        )
        return Distribution(moments, _read_only(bins.astype(np.uint32)), _read_only(counts))

    __add__ = merge

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Distribution):
            return NotImplemented
        return (
            self.moments == other.moments
            and np.array_equal(self.bins, other.bins)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]
