"""Whether the requests of one device depart from those of others, with 95 % confidence.

The confidence interval of a percentile is distribution-free: a range of ranks (order statistics),
from the normal approximation of the binomial distribution. It is too narrow, as latencies of
consecutive requests are correlated: so departure() also requires a factor between two intervals.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blkiomon.interval.distribution import Distribution

if TYPE_CHECKING:
    import numpy.typing as npt

LEAST_BEYOND = 10
"""Requests that must exceed a percentile for it to have a confidence interval."""

PERCENTS = (99, 95, 90, 50)
"""Percentiles that are compared, in this order: the first one that departs is the result."""

Z = 1.959964
"""95 % of the normal distribution lie within so many standard deviations."""


class Departure(NamedTuple):
    """A percentile of a distribution that is higher than that of others.

    Attributes:
        percent: which percentile.
        value: of the distribution.
        usual: of the others.
    """

    percent: int
    value: int
    usual: int


def departure(one: Distribution, others: Distribution, factor: float) -> Departure | None:
    """The first percentile whose lower limit is at least ``factor`` times the upper of others."""
    for percent in PERCENTS:
        limits = percentile_limits(one, percent), percentile_limits(others, percent)
        if limits[0] is None or limits[1] is None or limits[0][0] < factor * limits[1][1]:
            continue
        return Departure(percent, one.percentile(percent) or 0, others.percentile(percent) or 0)
    return None


def percentile_limits(values: Distribution, percent: float) -> tuple[int, int] | None:
    """The 95 % confidence interval of a percentile; None if too few values are beyond it."""
    n, share = values.count, percent / 100
    if n * (1 - share) < LEAST_BEYOND or not len(values.bins):
        return None
    margin = Z * math.sqrt(n * share * (1 - share))
    ranks = max(1, math.floor(n * share - margin)), min(n, math.ceil(n * share + margin) + 1)
    low, high = np.searchsorted(np.cumsum(values.counts), ranks)
    return int(values.low[low]), int(values.high[high])


def least_ranks(counts: npt.NDArray[np.float64], percent: float) -> npt.NDArray[np.float64]:
    """The lowest rank that ``percentile_limits`` uses, for each number of values."""
    share = percent / 100
    margins = Z * np.sqrt(counts * share * (1 - share))
    ranks: npt.NDArray[np.float64] = np.maximum(1, np.floor(counts * share - margins))
    return ranks


def share_limits(part: int, whole: int, z: float = Z) -> tuple[float, float]:
    """The confidence interval of a share (Wilson score), of 95 % unless ``z`` says otherwise.

    It is 0 to 1 if ``whole`` is 0.
    """
    if not whole:
        return 0.0, 1.0
    share, square = part / whole, z * z / whole
    middle = share + square / 2
    margin = math.sqrt(square * (share * (1 - share) + square / 4))
    return (middle - margin) / (1 + square), (middle + margin) / (1 + square)
