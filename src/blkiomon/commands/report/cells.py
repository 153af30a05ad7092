"""The figures of a page by slice of time, device and operation, which the page's script merges.

A *cell* holds the requests of one operation of one device in one slice of time. Its histograms
have the bins of ``interval.distribution``: merged cells give the same percentiles.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.commands.report.selection import OTHERS
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Table
from blkiomon.formats.units import time_text
from blkiomon.interval.distribution import Histograms, bin_bounds
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.moments import add_up, as_floats
from blkiomon.interval.value import Interval

Array = npt.NDArray[np.generic]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MOST_BYTES = 2_200_000
"""Limit of the compressed size of all cells, estimated at so many bytes for each cell and bin:"""
CELL_BYTES, BIN_BYTES = 12, 1.4

LEAST_SLICES, LEAST_DEVICES = 128, 32
"""If cells take too much, first neighbouring slices are merged down to this number, then devices
down to this number, then slices again."""

LEAST_FOR_P99 = 100
"""With fewer requests, p99 is the slowest one."""

MOST_NS = np.nextafter(2.0**64, 0)
"""The greatest double that fits 64 bits."""

DEVICE_BITS, OP_BITS = 32, 3
SLICE_SHIFT = DEVICE_BITS + OP_BITS
DEVICE_MASK = (1 << DEVICE_BITS) - 1 << OP_BITS

SUMS = ("requests", "bytes", "errors", "requeues", "d2c_sum", "in_flight", "queued")
LEAST = ("d2c_min", "q2d_min")
GREATEST = ("d2c_max", "q2d_max")

HISTOGRAMS = ("d2c", "q2d", "sizes")
"""D2C and Q2D in ns by bin of ``interval.distribution``; sizes by power of two, 0 for no bytes."""


class Bins(NamedTuple):
    """A sparse histogram of each cell, by cell, then bin: the cell, the bin and the count."""

    cells: Integers
    bins: Integers
    counts: npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Cells:
    """All cells in the order of ``keys``: by slice, then device, then operation.

    Attributes:
        edges_s: shape (slices + 1,): where slices begin and end, from the first one's beginning.
        known_s: shape (slices,): recorded time in each; 0 is a gap. Of merged runs the sum.
        devices: their numbers; ``OTHERS`` is a device, too. Worst first, once ``ranked``.
        keys: shape (n,): slice, index of the device and operation, packed.
        columns: by name, shape (n,): ``SUMS``, ``LEAST`` and ``GREATEST``. Times in ns;
            ``in_flight`` in request-ns; ``queued`` counts requests with a queue time.
        histograms: by name, see ``HISTOGRAMS``.
        n_merged: devices that were merged into ``OTHERS`` for the size of the page.
        not_in_total: devices that are left out of all devices together, see ``Interval``.
        begin_s: when the first slice begins, in s from the trace's first record, as in ``--from``;
            0 if that is not known. Charts add it to ``edges_s`` where they show a time.
    """

    edges_s: Floats
    known_s: Floats
    devices: npt.NDArray[np.uint32]
    keys: Integers
    columns: dict[str, Floats]
    histograms: dict[str, Bins]
    n_merged: int = 0
    not_in_total: tuple[int, ...] = ()
    begin_s: float = 0.0

    @property
    def device(self) -> Integers:
        """The index of each cell's device."""
        return self.keys >> OP_BITS & (1 << DEVICE_BITS) - 1

    @property
    def op(self) -> Integers:
        """The number of each cell's operation."""
        return self.keys & (1 << OP_BITS) - 1

    @property
    def slice(self) -> Integers:
        """The index of each cell's slice."""
        return self.keys >> SLICE_SHIFT

    @property
    def size_bytes(self) -> float:
        """The compressed size, estimated."""
        n_bins = sum(len(of.cells) for of in self.histograms.values())
        return len(self.keys) * CELL_BYTES + n_bins * BIN_BYTES

    def rekeyed(self, keys: Integers) -> Cells:
        """The cells merged by new keys, one for each cell."""
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        starts = np.flatnonzero(np.append(True, sorted_keys[1:] != sorted_keys[:-1]))
        place = np.empty(len(keys), np.int64)
        place[order] = np.cumsum(np.append(False, sorted_keys[1:] != sorted_keys[:-1]))
        columns = {
            name: _reduction(name).reduceat(values[order], starts)
            for name, values in self.columns.items()
        }
        histograms = {
            name: _merged(place[of.cells], of.bins, of.counts)
            for name, of in self.histograms.items()
        }
        return replace(self, keys=sorted_keys[starts], columns=columns, histograms=histograms)

    def halved(self) -> Cells:
        """Each two neighbouring slices merged."""
        ends = [*range(0, len(self.known_s), 2), len(self.known_s)]
        return self.with_slices(np.arange(len(self.known_s)) >> 1, self.edges_s[ends])

    def with_slices(self, places: Integers, edges_s: Floats) -> Cells:
        """Merged into other slices: ``places`` has the new index of each."""
        low = self.keys & (1 << SLICE_SHIFT) - 1
        is_same = np.array_equal(places, np.arange(len(self.known_s)))
        merged = self if is_same else self.rekeyed(places[self.slice] << SLICE_SHIFT | low)
        known_s = np.bincount(places, self.known_s, len(edges_s) - 1).astype(np.float64)
        return replace(merged, edges_s=edges_s, known_s=known_s)

    def with_devices(self, own: npt.NDArray[np.uint32]) -> Cells:
        """These devices in this order; all others are merged into ``OTHERS``.

        Those that are not in the total are left out instead, so that the total stays the same.
        """
        is_own = np.isin(self.devices, own)
        is_merged = ~is_own & ~np.isin(self.devices, self.not_in_total)
        n_merged = int((is_merged & (self.devices != OTHERS)).sum())
        if is_merged.any() and OTHERS not in own:
            own = np.append(own, np.uint32(OTHERS))
        kept = self.only((is_own | is_merged)[self.device])
        index = {number: at for at, number in enumerate(own.tolist())}
        others = index.get(OTHERS, 0)
        places = np.array([index.get(number, others) for number in self.devices.tolist()])
        merged = kept.rekeyed(kept.keys & ~DEVICE_MASK | places[kept.device] << OP_BITS)
        return replace(merged, devices=own, n_merged=self.n_merged + n_merged)

    def in_total(self) -> Cells:
        """The cells that count in the figures of all devices together."""
        return self.only(~np.isin(self.devices, self.not_in_total)[self.device])

    def only(self, is_wanted: npt.NDArray[np.bool_]) -> Cells:
        """Some of the cells, shape (n,)."""
        place = np.cumsum(is_wanted) - 1
        columns = {name: values[is_wanted] for name, values in self.columns.items()}
        histograms = {}
        for name, of in self.histograms.items():
            keep = is_wanted[of.cells]
            histograms[name] = Bins(place[of.cells[keep]], of.bins[keep], of.counts[keep])
        return replace(self, keys=self.keys[is_wanted], columns=columns, histograms=histograms)

    def percentiles(self, groups: Integers, n: int, percents: Sequence[float]) -> Floats:
        """Percentiles of D2C of n groups, each cell in one; shape (n, percents)."""
        least, greatest = np.full(n, MOST_NS), np.zeros(n)
        np.minimum.at(least, groups, self.columns["d2c_min"])
        np.maximum.at(greatest, groups, self.columns["d2c_max"])
        extremes = least.astype(np.uint64), np.minimum(greatest, MOST_NS).astype(np.uint64)
        cells, bins, counts = self.histograms["d2c"]
        summed = Histograms.sum_by_group(groups[cells], bins.astype(np.uint32), counts, n)
        return summed.percentiles(*extremes, percents).astype(np.float64)

    def ranking(self) -> npt.NDArray[np.uint32]:
        """Devices by how slow they are: by p99, of few requests by the mean; worst first."""
        n, device = len(self.devices), self.device
        requests, total = (np.bincount(device, self.columns[c], n) for c in ("requests", "d2c_sum"))
        p99 = self.percentiles(device, n, [99])[:, 0]
        mean = total / np.maximum(requests, 1)
        slowness = np.where(requests >= LEAST_FOR_P99, p99, mean)
        return self.devices[np.argsort(-slowness, kind="stable")]

    def ranked(self, first: Sequence[int] = ()) -> Cells:
        """With some devices first, then the worst ones."""
        ranking = self.ranking()
        is_first = np.isin(ranking, first)
        return self.with_devices(np.concatenate([ranking[is_first], ranking[~is_first]]))

    def arrays(self) -> dict[str, Array]:
        """The arrays that the script reads. Bins are differences within their cell."""
        found: dict[str, Array] = {
            "is_in_total": ~np.isin(self.devices, self.not_in_total),
            "edges_s": self.edges_s,
            "known_s": self.known_s,
            "slice": self.slice,
            "device": self.device,
            "op": self.op,
            **{name: np.where(np.isinf(c), 0, c) for name, c in self.columns.items()},
        }
        for name, (in_cells, bins, counts) in self.histograms.items():
            lengths = np.bincount(in_cells, minlength=len(self.keys))
            steps = np.diff(bins, prepend=0)
            firsts = (np.cumsum(lengths) - lengths)[lengths > 0]
            steps[firsts] = bins[firsts]
            found |= {f"{name}_n": lengths, f"{name}_bin": steps, f"{name}_count": counts}
        return found


def timeline(slices: Sequence[Interval]) -> tuple[Floats, list[Interval | None]]:
    """Slices on one axis of time, with a slice of None for each gap between them.

    Returns:
        Where slices begin and end, in s from the first one's beginning, shape (slices + 1,); and
        the slices.
    """
    start_ns = slices[0].start_ns
    edges: list[float] = [0.0]
    known: list[Interval | None] = []
    for item in slices:
        gap_s = (item.start_ns - start_ns) / NS_PER_S - edges[-1]
        if gap_s > 1e-6:
            edges.append(edges[-1] + gap_s)
            known.append(None)
        # Intervals of several runs may overlap; edges must ascend.
        end_s = (item.end_ns - start_ns) / NS_PER_S
        edges.append(max(end_s, edges[-1] + 1e-9))
        known.append(item)
    return np.array(edges), known


def cells_of(slices: Sequence[Interval], not_in_total: tuple[int, ...] = ()) -> Cells:
    """The cells of some slices, in full; see ``Cells.not_in_total``."""
    edges_s, known = timeline(slices)
    parts = [_part(place, item) for place, item in enumerate(known) if item is not None]
    known_s = np.where([item is not None for item in known], np.diff(edges_s), 0)
    found = replace(joined(parts), edges_s=edges_s, known_s=known_s)
    return replace(found, not_in_total=not_in_total)


def coarser_note(before: Cells, after: Cells) -> list[str]:
    """A sentence about what ``bounded`` has merged; none if that is nothing."""
    n_gone = len(np.setdiff1d(before.devices, after.devices)) - after.n_merged
    if len(before.known_s) == len(after.known_s) and not after.n_merged and not n_gone:
        return []
    length = time_text(float(np.median(after.known_s[after.known_s > 0])) * NS_PER_S)
    devices = f", and {after.n_merged:,} devices are one row, others," if after.n_merged else ""
    if n_gone:
        devices += f", and {n_gone:,} whose requests count on another device are left out,"
    return [f"Charts have slices of {length}{devices} so that the page has at most 5 MB."]


def bounded(
    runs: Sequence[Cells], most_bytes: int = MOST_BYTES, wanted: Sequence[int] = ()
) -> list[Cells]:
    """Runs that have the same slices and devices, merged to at most ``most_bytes``, about.

    The devices in ``wanted``, by number, are kept first, then the slowest and most waited for.
    """
    found = list(runs)
    while sum(run.size_bytes for run in found) > most_bytes:
        n_slices, n_devices = len(found[0].known_s), len(found[0].devices)
        if n_slices > LEAST_SLICES or n_devices <= LEAST_DEVICES:
            if n_slices == 1:
                break
            found = [run.halved() for run in found]
        else:
            worst, upto = _worst(found, wanted)
            n = n_devices // 2
            while n > LEAST_DEVICES and upto[n - 1] > most_bytes:
                n //= 2
            found = [run.with_devices(worst[:n]) for run in found]
    return found


def _worst(runs: Sequence[Cells], wanted: Sequence[int]) -> tuple[npt.NDArray[np.uint32], Floats]:
    """Devices in the order in which they are kept, and the size of the cells up to each of them.

    First those wanted, then in turn the next by p99 and by time waited.
    """
    cells = joined([run.rekeyed(run.keys & DEVICE_MASK) for run in runs])
    sums = (np.bincount(cells.device, cells.columns[c]) for c in ("d2c_sum", "in_flight"))
    by_time = cells.devices[np.argsort(-np.maximum(*sums), kind="stable")]
    first = cells.devices[np.isin(cells.devices, wanted)]
    mixed = np.append(first, np.stack([cells.ranking(), by_time], axis=1))
    _, firsts = np.unique(mixed, return_index=True)
    order = mixed[np.sort(firsts)]
    worst: npt.NDArray[np.uint32] = order[order != OTHERS]
    sizes = np.zeros(len(cells.devices))
    for run in runs:
        of_cells = np.full(len(run.keys), float(CELL_BYTES))
        for of in run.histograms.values():
            of_cells += BIN_BYTES * np.bincount(of.cells, minlength=len(run.keys))
        sizes += np.bincount(
            np.searchsorted(cells.devices, run.devices)[run.device], of_cells, len(sizes)
        )
    return worst, np.cumsum(sizes[np.searchsorted(cells.devices, worst)])


def on_one_axis(runs: Sequence[Cells]) -> list[Cells]:
    """Runs with the same slices, each from its own start, and with the same devices.

    Slices are as long as the usual ones of the run that has the longest.
    """
    lengths = [np.median(run.known_s[run.known_s > 0]) for run in runs]
    width, end_s = max(lengths), max(run.edges_s[-1] for run in runs)
    edges_s = np.append(np.arange(max(1, math.ceil(end_s / width - 1e-6))) * width, end_s)
    numbers = np.unique(np.concatenate([run.devices for run in runs]))
    found = []
    for run in runs:
        middles = (run.edges_s[:-1] + run.edges_s[1:]) / 2
        places = np.minimum(middles / width, len(edges_s) - 2).astype(np.int64)
        placed = run.with_slices(places, edges_s)
        low = placed.keys & ~DEVICE_MASK
        device = np.searchsorted(numbers, run.devices)[placed.device]
        keys = low | device << OP_BITS
        found.append(replace(placed, keys=keys, devices=numbers))
    return found


def joined(parts: Sequence[Cells]) -> Cells:
    """Cells of several parts, merged by slice, device and operation; without times."""
    numbers = np.unique(np.concatenate([part.devices for part in parts]))
    first = 0
    keys, histograms = [], {name: [] for name in HISTOGRAMS}  # type: ignore[var-annotated]
    for part in parts:
        device = np.searchsorted(numbers, part.devices)[part.device]
        keys.append(part.keys & ~DEVICE_MASK | device << OP_BITS)
        for name, (cell, *bins) in part.histograms.items():
            histograms[name].append((cell + first, *bins))
        first += len(part.keys)
    whole = Cells(
        np.empty(0),
        np.empty(0),
        numbers,
        np.concatenate(keys),
        {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns},
        {name: Bins(*map(np.concatenate, zip(*tables))) for name, tables in histograms.items()},
        not_in_total=tuple(sorted({number for part in parts for number in part.not_in_total})),
    )
    return whole.rekeyed(whole.keys)


def _part(place: int, item: Interval) -> Cells:
    """The cells of one slice: one for each row of its tables, not merged yet."""
    snapshot = item.snapshot
    loads = snapshot.loads[snapshot.loads["op"] < layout.ALL_OPS]
    tables = snapshot.rows, loads, snapshot.retry_rows, snapshot.queue_rows
    numbers = np.unique(np.concatenate([table["device"] for table in tables]))
    firsts = np.cumsum([0, *map(len, tables)])
    columns = {name: np.zeros(firsts[-1]) for name in (*SUMS, *GREATEST)}
    columns |= {name: np.full(firsts[-1], np.inf) for name in LEAST}

    def put(table: int, **values: Array) -> None:
        for name, of_table in values.items():
            columns[name][firsts[table] : firsts[table + 1]] = of_table

    rows, _, retries, queued = tables
    d2c, q2d = rows["d2c_ns"], queued["q2d_ns"]
    n_bytes = as_floats(rows["size_bytes"]["sum"])
    put(0, requests=rows["requests"], errors=rows["errors"], bytes=n_bytes)
    put(0, d2c_sum=as_floats(d2c["sum"]), d2c_min=d2c["min"], d2c_max=d2c["max"])
    put(1, in_flight=as_floats(loads["in_flight_ns"]))
    put(2, requeues=retries["requeues"])
    put(3, queued=queued["requests"], q2d_min=q2d["min"], q2d_max=q2d["max"])
    keys = np.concatenate([_keys(place, table, numbers) for table in tables])
    low, _ = bin_bounds(snapshot.size_bins["bin"])
    octave = np.frexp(low.astype(np.float64))[1].astype(np.int64)
    histograms = {
        "d2c": _of_table(snapshot.d2c_bins, snapshot.d2c_bins["bin"]),
        "q2d": _of_table(snapshot.q2d_bins, snapshot.q2d_bins["bin"], int(firsts[3])),
        "sizes": _of_table(snapshot.size_bins, octave),
    }
    return Cells(np.empty(0), np.empty(0), numbers, keys, columns, histograms)


def _keys(place: int, table: Table, numbers: npt.NDArray[np.uint32]) -> Integers:
    device = np.searchsorted(numbers, table["device"])
    keys: Integers = place << SLICE_SHIFT | device << OP_BITS | table["op"].astype(np.int64)
    return keys


def _of_table(table: Table, bins: Array, first: int = 0) -> Bins:
    return Bins(table["row"].astype(np.int64) + first, bins.astype(np.int64), table["count"])


def _merged(cells: Integers, bins: Integers, counts: npt.NDArray[np.uint64]) -> Bins:
    keys, sums = add_up(cells << layout.BIN_BITS | bins, counts)
    return Bins(keys >> layout.BIN_BITS, keys & (1 << layout.BIN_BITS) - 1, sums)


def _reduction(name: str) -> np.ufunc:
    return np.minimum if name in LEAST else np.maximum if name in GREATEST else np.add


# --- compressed -----------------------------------------------------------------------------------


class Packed(NamedTuple):
    """Arrays in a page: what the script needs to unpack them, and their bytes in base64."""

    layout: list[tuple[str, int, int]]
    data: str


def packed(arrays: dict[str, Array]) -> Packed:
    """Compress arrays after a byte shuffle: all lowest bytes, then the next, most of which are 0.

    The layout has the name, the number of elements, and their bytes: 1, 2 or 4 of unsigned
    integers, 8 of doubles.
    """
    listed, parts = [], list[bytes]()
    for name, array in arrays.items():
        width = _width(array)
        stored = array.astype("<f8" if width == 8 else f"<u{width}")
        listed.append((name, len(array), width))
        parts.append(stored.view(np.uint8).reshape(-1, width).T.tobytes())
    return Packed(listed, base64.b64encode(zlib.compress(b"".join(parts), 6)).decode())


def _width(array: Array) -> int:
    """Bytes of an element; doubles if they are not all integers of 32 bits."""
    whole = array.astype(np.float64)
    if not len(whole) or ((whole == np.floor(whole)) & (whole >= 0)).all():
        greatest = whole.max(initial=0)
        return next((width for width in (1, 2, 4) if greatest < 1 << 8 * width), 8)
    return 8
