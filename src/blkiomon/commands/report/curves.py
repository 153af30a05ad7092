"""The numbers of charts, from cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from blkiomon.commands.report.cells import Cells, Floats
from blkiomon.engine.constants import OPS
from blkiomon.interval.distribution import Distribution, bin_middles
from blkiomon.interval.moments import Moments

LEAST_FOR_CURVE = 20
"""Requests that the curve of a distribution needs."""

TAIL = 5
"""End of an axis of percentiles, in nines: p90 is at 1, p99 at 2, p99.999 at 5."""

MOST_STEPS, LEAST_STEPS = 160, 16
"""Steps of a line over time: neighbouring slices are merged."""

LEAST_REQUESTS = 200
"""Requests of a step that shows a percentile, on average."""


class Line(NamedTuple):
    """What charts show as one line.

    Attributes:
        name: of an operation or a side, which is that of a colour, too.
        cells: merged.
        is_dashed: how it is drawn.
    """

    name: str
    cells: Cells
    is_dashed: bool = False


class Steps(NamedTuple):
    """Horizontal steps: where each begins and ends, and its value, NaN where it has none."""

    starts: Floats
    ends: Floats
    values: Floats


def distribution(cells: Cells) -> Distribution:
    """D2C of all cells, in ns. The sum of squares is not known."""
    columns = cells.columns
    if not columns["requests"].any():
        return Distribution()
    _, bins, counts = cells.histograms["d2c"]
    distinct, places = np.unique(bins, return_inverse=True)
    totals = np.zeros(len(distinct), np.uint64)
    np.add.at(totals, places, counts)
    extremes = int(columns["d2c_min"].min()), int(columns["d2c_max"].max())
    moments = Moments(*extremes, int(columns["d2c_sum"].sum()), 0, int(columns["requests"].sum()))
    return Distribution(moments, distinct.astype(np.uint32), totals)


def percentile_curve(d: Distribution) -> Steps:
    """The percentiles of D2C in ns by ``tail_place``; without steps of too few requests."""
    if d.count < LEAST_FOR_CURVE:
        return Steps(*np.empty((3, 0)))
    upto = np.cumsum(d.counts.astype(np.float64)) / d.count
    # The greatest of n requests ends half a request before the axis' infinity.
    places = tail_place(np.append(0, np.minimum(upto, 1 - 0.5 / d.count)))
    values = np.clip(bin_middles(d.bins), d.min, d.max)
    return Steps(places[:-1], places[1:], values)


def tail_place(shares: Floats) -> Floats:
    """The places of percentiles, as shares, on an axis from 0 to ``TAIL``."""
    places: Floats = np.minimum(TAIL, -np.log10(1 - shares))
    return places


def a_second(cells: Cells, column: str) -> Steps:
    """Sums by slice, per second of known time; short slices, such as the last one, have none."""
    n, known_s = len(cells.known_s), cells.known_s
    sums = np.bincount(cells.slice, cells.columns[column], n)
    least = 0.5 * np.median(known_s[known_s > 0])
    has = (known_s > 0) & (known_s >= least)
    values = np.divide(sums, known_s, out=np.full(n, math.nan), where=has)
    return Steps(cells.edges_s[:-1], cells.edges_s[1:], values)


def over_time(cells: Cells, percent: float) -> Steps:
    """A percentile of D2C in ns by slice, of those with enough requests."""
    n = len(cells.known_s)
    counts = np.bincount(cells.slice, cells.columns["requests"], n)
    values = cells.percentiles(cells.slice, n, [percent])[:, 0]
    is_little = np.round(counts * (100 - percent), 6) < 100  # none of the requests is above it
    values[(values == 0) | is_little | (counts < LEAST_FOR_CURVE)] = math.nan
    return Steps(cells.edges_s[:-1], cells.edges_s[1:], values)


def coarse(cells: Cells, least_requests: float = 0) -> Cells:
    """With slices so long that a line has few steps, each of enough requests on average."""
    requests = cells.columns["requests"].sum()
    while (n := len(cells.known_s)) > MOST_STEPS or (
        n > LEAST_STEPS and requests / n < least_requests
    ):
        cells = cells.halved()
    return cells


def by_operation(cells: Cells) -> list[Line]:
    """A line for each operation that occurred."""
    return [Line(OPS[op], cells.only(cells.op == op)) for op in np.unique(cells.op).tolist()]


def heat(cells: Cells, edges_ns: Floats) -> Floats:
    """Count requests by D2C and slice, shape (edges - 1, slices); edges ascend."""
    in_cells, bins, counts = cells.histograms["d2c"]
    rows = np.searchsorted(edges_ns, bin_middles(bins), side="right") - 1
    rows = np.clip(rows, 0, len(edges_ns) - 2)
    found = np.zeros((len(edges_ns) - 1, len(cells.known_s)))
    np.add.at(found, (rows, cells.slice[in_cells]), counts.astype(np.float64))
    return found


def latencies(lines: Sequence[Line]) -> tuple[float, float]:
    """The least and the greatest D2C in ns, with a margin, for an axis of all lines."""
    low = min(float(line.cells.columns["d2c_min"].min(initial=1e9)) for line in lines)
    high = max(float(line.cells.columns["d2c_max"].max(initial=2)) for line in lines)
    return max(1.0, low) / 1.3, high * 1.3
