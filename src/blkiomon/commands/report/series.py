"""The numbers of charts, from slices: arrays by operation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blkiomon.commands.report.cells import timeline
from blkiomon.commands.report.selection import reduce_to
from blkiomon.engine.layout import OPS
from blkiomon.interval.distribution import Distribution, bin_bounds
from blkiomon.interval.groups import NS_PER_S, Group
from blkiomon.interval.value import Interval

Floats = npt.NDArray[np.float64]

SHOWN_PERCENTILES = (50, 99, 99.9)


@dataclass(frozen=True, slots=True)
class OperationSeries:
    """One operation, slice by slice; NaN where a slice has no value.

    Attributes:
        iops, bytes_per_s, errors, in_flight: shape (slices,).
        percentiles: of d2c in s, by percent: shape (slices,).
        d2c_ns: of each slice.
        whole: d2c in ns of the whole run.
        size_bytes: of the whole run.
    """

    iops: Floats
    bytes_per_s: Floats
    errors: Floats
    in_flight: Floats
    percentiles: dict[float, Floats]
    d2c_ns: tuple[Distribution, ...]
    whole: Distribution
    size_bytes: Distribution


@dataclass(frozen=True, slots=True)
class Series:
    """A run over time.

    Attributes:
        edges_s: shape (slices + 1,): where slices begin and end, from the first one's beginning.
            A gap between intervals is a slice of NaN.
        ops: by operation, in the order of ``layout.OPS``; only those that occurred.
        most_in_flight: of all operations, shape (slices,).
    """

    edges_s: Floats
    ops: dict[str, OperationSeries]
    most_in_flight: Floats


def series(slices: Sequence[Interval], device: int | None = None) -> Series:
    """The series of all devices, or of one."""
    edges_s, known = timeline(slices)
    by_op: dict[str, list[list[Group]]] = {op: [[] for _ in known] for op in OPS}
    most = np.full(len(known), np.nan)
    for place, interval in enumerate(known):
        if interval is None:
            continue
        item = reduce_to(interval, device)
        for group in item.groups():
            if group.op is not None:
                by_op[group.op][place].append(group)
        if item.total.in_flight is not None:
            most[place] = item.total.in_flight.max
    is_known = np.array([item is not None for item in known])
    ops = {op: _of_operation(g, np.diff(edges_s), is_known) for op, g in by_op.items()}
    return Series(edges_s, {op: s for op, s in ops.items() if s.whole.count}, most)


def _of_operation(
    groups: Sequence[Sequence[Group]], widths_s: Floats, is_known: npt.NDArray[np.bool_]
) -> OperationSeries:
    d2c = tuple(merged(g.d2c_ns for g in of_slice) for of_slice in groups)
    size = merged(g.size_bytes for of_slice in groups for g in of_slice)
    gone = np.where(is_known, 0.0, np.nan)
    has_time = np.where(widths_s > 1e-8, widths_s, np.nan)
    counts = np.array([d.count for d in d2c], np.float64)
    n_bytes = np.array([sum(g.bytes for g in s) for s in groups], np.float64)
    loads = [[g.in_flight.request_ns for g in s if g.in_flight is not None] for s in groups]
    in_flight = np.array([sum(load) for load in loads], np.float64) / NS_PER_S / has_time
    return OperationSeries(
        counts / has_time + gone,
        n_bytes / has_time + gone,
        np.array([sum(g.errors for g in s) for s in groups], np.float64) + gone,
        in_flight + gone,
        {p: np.array([_seconds(d.percentile(p)) for d in d2c]) for p in SHOWN_PERCENTILES},
        d2c,
        merged(d2c),
        size,
    )


def merged(parts: Iterable[Distribution]) -> Distribution:
    """Several distributions merged into one."""
    some = [part for part in parts if part.count]
    if not some:
        return Distribution()
    return some[0] if len(some) == 1 else some[0].merge(*some[1:])


def _seconds(time_ns: int | None) -> float:
    return np.nan if time_ns is None else time_ns / NS_PER_S


def heat(parts: Sequence[Distribution], rows: int) -> tuple[Floats, Floats]:
    """Count requests by d2c and slice.

    Returns:
        Edges of d2c in s, shape (rows + 1,), evenly spaced by their logarithm; counts, shape
        (rows, slices).
    """
    some = [part for part in parts if len(part.bins)]
    low = min(part.min or 1 for part in some)
    high = max(part.max or 1 for part in some)
    low, high = max(1, low), max(2, high, int(low * 1.1) + 1)
    edges = np.geomspace(low, high, rows + 1)
    counts = np.zeros((rows, len(parts)))
    for place, part in enumerate(parts):
        row = np.clip(np.searchsorted(edges, middles(part), side="right") - 1, 0, rows - 1)
        np.add.at(counts[:, place], row, part.counts.astype(np.float64))
    return edges / NS_PER_S, counts


def middles(d: Distribution) -> Floats:
    """The middle of each bin, shape (bins,)."""
    low, high = bin_bounds(d.bins)
    return (low.astype(np.float64) + high) / 2


def tail(d: Distribution) -> tuple[Floats, Floats]:
    """The share of requests that took that long or longer.

    Returns:
        Times in s and shares, each of shape (points,). At most a few hundred points: where bins
        are denser than a chart can show, some are left out, but never the last ones.
    """
    counts = d.counts.astype(np.float64)
    if not len(counts):
        return np.empty(0), np.empty(0)
    at_least = np.cumsum(counts[::-1])[::-1] / counts.sum()
    times = np.maximum(d.low.astype(np.float64), 1) / NS_PER_S
    times[0] = max(d.min or 1, 1) / NS_PER_S
    times = np.append(times, max(d.max or 1, 1) / NS_PER_S)
    at_least = np.append(at_least, 1 / counts.sum())
    step = np.round(np.log(times) * 24).astype(np.int64) * 1000 + np.round(
        np.log(at_least) * 24
    ).astype(np.int64)
    keep = np.append(True, np.diff(step) != 0)
    keep[-3:] = True
    return times[keep], at_least[keep]


def octaves(d: Distribution) -> dict[int, int]:
    """Counts by n, of values from 2^n to below 2^(n + 1); those of 0 by -1."""
    found: dict[int, int] = {}
    for low, count in zip(d.low.tolist(), d.counts.tolist()):
        found[low.bit_length() - 1] = found.get(low.bit_length() - 1, 0) + count
    return found
