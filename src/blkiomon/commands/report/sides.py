"""The figures of one side of a comparison: of its units together, and of what each draw takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.commands.report.bootstrap import DRAWS, Draws
from blkiomon.commands.report.cells import MOST_NS, Cells, Floats, timeline
from blkiomon.commands.report.collected import Collected
from blkiomon.engine.constants import OPS
from blkiomon.interval.departures import LEAST_BEYOND
from blkiomon.interval.distribution import Histograms, bin_middles
from blkiomon.interval.groups import NS_PER_S

NOT_IN_TOTAL = 1 << 32
"""Added to the number of a device that is not in the total: such devices are sorted last."""

RATES = ("iops", "bandwidth")
SUMS = ("requests", "bytes", "d2c_sum")
COUNTS = ("errors", "requeues")


class Side:
    """The cells of one side, sorted by device. Its units are its runs, or parts of their time.

    Args:
        runs: of the side.
        n_parts: equal parts of the time, which are the units; None: the runs are.
    """

    def __init__(self, runs: Sequence[Collected], n_parts: int | None) -> None:
        cells = [run.cells for run in runs]
        units = [_units_of(of, n_parts, number) for number, of in enumerate(cells)]
        self.durations_ns = np.zeros(len(runs) if n_parts is None else n_parts)
        for run, of_slices in zip(runs, units):
            for item, unit in zip(timeline(run.slices)[1], of_slices.tolist()):
                self.durations_ns[unit] += 0 if item is None else item.end_ns - item.start_ns
        self._not_in_total = {number for of in cells for number in of.not_in_total}
        keys = [np.array([*map(self._key, of.devices.tolist())]) for of in cells]
        numbers = np.concatenate([key[of.device] for key, of in zip(keys, cells)])
        self._devices, device = np.unique(numbers, return_inverse=True)
        # numpy sorts 16 bits by radix.
        device = device.astype(np.min_scalar_type(len(self._devices)))
        order = np.argsort(device, kind="stable")
        self.ops = np.concatenate([of.op for of in cells])[order]
        self.units = np.concatenate([at[of.slice] for of, at in zip(cells, units)])[order]
        self.columns = {
            name: np.concatenate([of.columns[name] for of in cells])[order]
            for name in (*SUMS, *COUNTS, "d2c_min", "d2c_max")
        }
        firsts = np.cumsum([0, *(len(of.keys) for of in cells[:-1])])
        histograms = [of.histograms["d2c"] for of in cells]
        in_cells = np.concatenate([of.cells + first for of, first in zip(histograms, firsts)])
        by_device = np.argsort(device[in_cells], kind="stable")
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order))
        self.cells = place[in_cells[by_device]]
        self.bins = np.concatenate([of.bins.astype(np.uint16) for of in histograms])[by_device]
        self.counts = np.concatenate([of.counts for of in histograms])[by_device]
        numbers = np.arange(len(self._devices) + 1)
        self._first_cells = np.searchsorted(device[order], numbers)
        self._first_bins = np.searchsorted(self.cells, self._first_cells)

    def of(self, number: int | None) -> DeviceUnits:
        """The units of a device, none if this side lacks it; with None, of all devices."""
        first = 0 if number is None else self._key(number)
        end = NOT_IN_TOTAL if number is None else first + 1
        # Both places are the same, and there are no cells, if this side lacks the device.
        places = np.searchsorted(self._devices, [first, end])
        cells, bins = self._first_cells[places].tolist(), self._first_bins[places].tolist()
        return DeviceUnits(self, slice(*cells), slice(*bins))

    def _key(self, number: int) -> int:
        return number | NOT_IN_TOTAL if number in self._not_in_total else number


def _units_of(cells: Cells, n_parts: int | None, number: int) -> npt.NDArray[np.int64]:
    """The unit of each slice of a run, which has this number on its side."""
    if n_parts is None:
        return np.full(len(cells.known_s), number)
    middles_s = (cells.edges_s[:-1] + cells.edges_s[1:]) / 2
    parts = (middles_s * n_parts / (cells.edges_s[-1] or 1.0)).astype(np.int64)
    units: npt.NDArray[np.int64] = np.minimum(parts, n_parts - 1)
    return units


class DeviceUnits:
    """The units of one device, or of all, by operation.

    Attributes:
        groups: the index of each operation; of None, all of them. A single operation is also all.
    """

    def __init__(self, side: Side, cells: slice, entries: slice) -> None:
        self._durations_ns = side.durations_ns
        ops, places = np.unique(side.ops[cells], return_inverse=True)
        self.groups: dict[str | None, int] = {OPS[op]: at for at, op in enumerate(ops.tolist())}
        if len(ops):
            self.groups[None] = len(ops) if len(ops) > 1 else 0
        shape = len(ops), len(self._durations_ns)
        size = shape[0] * shape[1]
        places = places * shape[1] + side.units[cells]
        columns = {name: values[cells] for name, values in side.columns.items()}
        self._sums = {
            name: self._with_all(np.bincount(places, columns[name], size).reshape(shape), np.add)
            for name in (*SUMS, *COUNTS)
        }
        least, most = np.full(size, np.inf), np.zeros(size)
        np.minimum.at(least, places, columns["d2c_min"])
        np.maximum.at(most, places, columns["d2c_max"])
        self._totals = {name: of.sum(axis=1).tolist() for name, of in self._sums.items()}
        self._least = self._with_all(least.reshape(shape), np.minimum).min(axis=1)
        self._most = self._with_all(most.reshape(shape), np.maximum)
        bins = side.bins[entries]
        is_there = np.bincount(bins) > 0
        self._bins = np.flatnonzero(is_there).astype(np.uint32)
        of_bins = places[side.cells[entries] - cells.start] * len(self._bins)
        of_bins += (np.cumsum(is_there) - 1)[bins]
        counts = np.bincount(of_bins, side.counts[entries], size * len(self._bins))
        self._counts = self._with_all(counts.reshape(*shape, len(self._bins)), np.add)

    def _with_all(self, of_ops: npt.NDArray[Any], reduce: np.ufunc) -> Floats:
        """With all operations, if there are several, after the others."""
        if len(of_ops) < 2:
            return of_ops
        return np.concatenate([of_ops, reduce.reduce(of_ops, axis=0, keepdims=True)])

    def count(self, name: str, op: str | None) -> int:
        """The sum of a column, such as requests."""
        at = self.groups.get(op)
        return 0 if at is None else int(self._totals[name][at])

    def figures(self, metrics: Sequence[str]) -> dict[str, list[float | None]]:
        """Metrics of all units together, by group: exact, or as the library's percentiles."""
        requests, n_bytes, d2c_ns = (np.array(self._totals[name]) for name in SUMS)
        duration_s = float(self._durations_ns.sum() / NS_PER_S)
        seconds = np.full(len(requests), duration_s)
        least_ns, most_ns = (
            np.minimum(ns, MOST_NS).astype(np.uint64)
            for ns in (self._least, self._most.max(axis=1))
        )
        found: dict[str, npt.NDArray[Any]] = {
            "iops": _ratio(requests, seconds),
            "bandwidth": _ratio(n_bytes, seconds),
            "mean": _ratio(d2c_ns, requests),
            "max": most_ns,
        }
        percents = {m: float(m[1:]) for m in metrics if m not in found}
        totals = self._counts.sum(axis=1)
        at, bins = np.nonzero(totals)
        starts = np.searchsorted(at, np.arange(len(totals) + 1))
        whole = Histograms(self._bins[bins], totals[at, bins].astype(np.uint64), starts)
        found |= zip(percents, whole.percentiles(least_ns, most_ns, list(percents.values())).T)
        is_there = (requests > 0).tolist()
        known = {m: found[m].tolist() for m in metrics if duration_s or m not in RATES}
        return {
            metric: [of if has else None for of, has in zip(known[metric], is_there)]
            if metric in known
            else [None] * len(is_there)
            for metric in metrics
        }

    def drawn(self, metrics: Sequence[str], ops: Sequence[str | None], draws: Draws) -> Floats:
        """Metrics of each draw, shape (metrics, operations, DRAWS); 0 where there is none.

        There are none if fewer units than ``draws.least`` have requests.
        """
        groups = [self.groups[op] for op in ops]
        by_unit = [self._durations_ns[np.newaxis] / NS_PER_S]
        by_unit += [self._sums[name][groups] for name in SUMS]
        sums = draws.sums(np.concatenate(by_unit).T).T
        requests, n_bytes, d2c_ns = sums[1:].reshape(3, len(groups), DRAWS)
        seconds = np.broadcast_to(sums[0], requests.shape)
        found = {
            "iops": _ratio(requests, seconds),
            "bandwidth": _ratio(n_bytes, seconds),
            "mean": _ratio(d2c_ns, requests),
            "max": draws.greatest(self._most[groups].T).T,
        }
        percents = {m: float(m[1:]) for m in metrics if m not in found}
        is_enough = (self._sums["requests"][groups] > 0).sum(axis=1) >= draws.least
        has = is_enough[:, np.newaxis] & (requests > 0)
        found |= zip(percents, self._percentiles(list(percents.values()), groups, requests, draws))
        return np.where(has, np.stack([found[metric] for metric in metrics]), 0.0)

    def _percentiles(
        self, percents: Sequence[float], groups: Sequence[int], requests: Floats, draws: Draws
    ) -> Floats:
        """Percentiles of each draw, shape (percents, groups, DRAWS); 0 where too few exceed them.

        The percentiles of draws are near that of all units, so only a window of bins is summed. If
        a percentile is outside, its window becomes wider.
        """
        # The greatest draw may be of the unit with the most requests alone.
        dtype = np.min_scalar_type(int(self._sums["requests"].max()) * 2 * draws.n_units)
        upto = self._counts[groups].cumsum(axis=2, dtype=dtype)
        totals = upto.sum(axis=1, dtype=np.int64)
        middles = bin_middles(self._bins)
        found = np.zeros((len(percents), *requests.shape))
        wanted = [
            (place, at)
            for place, percent in enumerate(percents)
            for at, n in enumerate(totals[:, -1].tolist())
            if n * (1 - percent / 100) >= LEAST_BEYOND
        ]
        deviations = 5.0
        while wanted:
            place, at = np.array(wanted).T
            share = np.array(percents)[place] / 100
            rank = totals[at, -1] * share
            reach = deviations * np.sqrt(rank * (1 - share))
            first, end = (
                np.array([np.searchsorted(totals[i], r) for i, r in zip(at, ranks)])
                for ranks in (rank - reach, rank + reach)
            )
            width = min((end - first).max() + 1, len(middles))
            first = np.minimum(first, len(middles) - width)
            # By unit, bin of the window, and percentile:
            window = upto[at, :, first + np.arange(width)[:, np.newaxis]].transpose(2, 0, 1)
            summed = draws.sums(window.reshape(len(window), -1)).reshape(DRAWS, width, -1)
            ranks = np.ceil(share * requests[at].T - 1e-9)
            is_less = np.ascontiguousarray(summed.transpose(1, 0, 2)) < ranks.astype(dtype)
            places = is_less.sum(axis=0, dtype=np.int16)
            is_below = (places == 0) & (first > 0) & (requests[at].T > 0)
            is_outside = (is_below | (places == width)).any(axis=0)
            values = middles[np.minimum(first + places, len(middles) - 1)].T
            found[place[~is_outside], at[~is_outside]] = values[~is_outside]
            wanted = [pair for pair, is_out in zip(wanted, is_outside.tolist()) if is_out]
            deviations *= 4
        return found


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
