"""The block bootstrap: which units each draw takes, and what its figures say of a change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from blkiomon.commands.report.cells import Floats
from blkiomon.interval.departures import Z

Numeric = TypeVar("Numeric", bound=np.number[Any])

DRAWS = 1000

ALPHA = 0.05
"""The chance that an interval, or any of several, leaves out the true change."""


class Draws:
    """The units that each draw takes.

    Args:
        n_units: how many units a side has, and a draw takes.
        block: neighbouring units that are drawn together.
        least: units with requests that an interval needs.
        seed: of the random numbers; with equal seeds, the same units are drawn of both sides.
    """

    def __init__(self, n_units: int, block: int, least: int, seed: int) -> None:
        self.n_units, self.block, self.least = n_units, block, least
        self._starts = starts_drawn(n_units, block, seed)
        self._n_last = n_units - block * (len(self._starts) - 1)

    @property
    def n_independent(self) -> float:
        """Blocks in a draw."""
        return self.n_units / self.block

    def sums(self, table: npt.NDArray[Numeric]) -> npt.NDArray[Numeric]:
        """Sums of each draw, shape (DRAWS, columns), of what each unit has, shape (units, columns).

        A product of matrices would do the same, by threads that wait for each other.
        """
        n = self.n_units
        around = np.concatenate([np.zeros_like(table[:1]), table, table[: self.block]])
        upto = around.cumsum(axis=0, dtype=table.dtype)
        of_last = upto[self._n_last : self._n_last + n] - upto[:n]
        of_blocks = upto[self.block : self.block + n] - upto[:n]
        total: npt.NDArray[Numeric] = of_last.take(self._starts[-1], axis=0)
        taken = np.empty_like(total)
        for of_draws in self._starts[:-1]:
            total += of_blocks.take(of_draws, axis=0, out=taken, mode="clip")
        return total

    def greatest(self, table: Floats) -> Floats:
        """The greatest values of each draw; shapes as for ``sums``."""
        windows = np.lib.stride_tricks.sliding_window_view
        around = np.concatenate([table, table[: self.block - 1]])
        of_last, of_blocks = (
            windows(around, length, axis=0).max(axis=-1) for length in (self._n_last, self.block)
        )
        found: Floats = of_last.take(self._starts[-1], axis=0)
        for of_draws in self._starts[:-1]:
            np.maximum(found, of_blocks.take(of_draws, axis=0), out=found)
        return found


@cache
def starts_drawn(n: int, block: int, seed: int) -> npt.NDArray[np.int64]:
    """The first unit of each block that a draw takes, shape (blocks, DRAWS).

    Blocks go on from the last unit to the first one. The last block of a draw is shorter, so that
    each draw has n units.
    """
    random = np.random.default_rng([seed, n])
    return np.ascontiguousarray(random.integers(0, n, (DRAWS, math.ceil(n / block))).T)


def spread(before: Floats, after: Floats) -> Floats:
    """Where the middle 95 % of the changes of some figures are, as logarithms.

    Args:
        before, after: shape (figures, DRAWS); 0 where a draw has no figure.

    Returns:
        Two ends for each figure; NaN where most draws have no change.
    """
    has = (before > 0) & (after > 0)
    ratio = np.divide(after, before, out=np.full(before.shape, math.inf), where=has)
    changes = np.log(ratio)
    changes.sort(axis=1)  # those that a draw does not have come last
    n = has.sum(axis=1)[:, np.newaxis]
    places = np.maximum(n - 1, 0) * np.array([ALPHA / 2, 1 - ALPHA / 2])
    low = places.astype(np.int64)
    values = np.take_along_axis(changes, low, 1)
    next_ = np.take_along_axis(changes, np.minimum(low + 1, np.maximum(n - 1, 0)), 1)
    values = np.where(n < DRAWS / 2, math.nan, values)
    ends: Floats = values + (next_ - values) * (places - low)
    return ends


def widening(independent: Sequence[float], n_intervals: int = 1) -> float:
    """Factor by which intervals are wider than the middle 95 % of the draws.

    Few independent units spread less than those that they are drawn from: hence Student's t. All
    ``n_intervals`` are to contain their true changes together with 95 % confidence: each has a
    higher confidence, by Šidák.

    Args:
        independent: units of each side that have nothing to do with each other.
        n_intervals: how many changes are judged together.
    """
    least = min(independent)
    if least <= 1:
        return 1.0
    t = _student_quantile(_alpha_of_each(n_intervals), sum(n - 1 for n in independent))
    return t / Z * math.sqrt(least / (least - 1))


def normal_quantile(n_intervals: int) -> float:
    """Standard deviations up to the ends of intervals of normally distributed figures.

    All ``n_intervals`` contain their true figures together with 95 % confidence, by Šidák.
    """
    return NormalDist().inv_cdf(1 - _alpha_of_each(n_intervals) / 2)


def _alpha_of_each(n_intervals: int) -> float:
    """The chance that one interval leaves out its true figure, if that of any is ``ALPHA``."""
    return -math.expm1(math.log1p(-ALPHA) / n_intervals)


@cache
def _student_quantile(alpha: float, df: float) -> float:
    """The absolute value that Student's t distribution exceeds with a probability of alpha."""
    # With t = sqrt(df) / tan(x), the density is that of sin(x) to the power df - 1.
    edges = np.linspace(0, math.pi / 2, 1 << 16)
    beyond = np.append(0, np.sin((edges[1:] + edges[:-1]) / 2) ** (df - 1)).cumsum()
    return math.sqrt(df) / math.tan(np.interp(alpha, beyond / beyond[-1], edges))
