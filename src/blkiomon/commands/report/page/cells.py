"""The figures of a page by slice of time, device and operation, which the page's script merges.

A *cell* holds the requests of one operation of one device in one slice of time. Its histograms
have the bins of the product, so that merged cells give the figures of the library.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.commands.report.selection import OTHERS
from blkiomon.commands.report.series import timeline
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Table
from blkiomon.interval.distribution import Histograms, bin_bounds
from blkiomon.interval.moments import add_up
from blkiomon.interval.value import Interval

Array = npt.NDArray[np.generic]
Integers = npt.NDArray[np.int64]

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

BIN_BITS, DEVICE_BITS, OP_BITS = 12, 32, 3
SLICE_SHIFT = DEVICE_BITS + OP_BITS

SUMS = ("requests", "bytes", "errors", "requeues", "d2c_sum", "in_flight", "queued")
LEAST = ("d2c_min", "q2d_min")
GREATEST = ("d2c_max", "q2d_max")

HISTOGRAMS = ("d2c", "q2d", "sizes")
"""D2C and Q2D in ns by bin of the product; sizes by power of two, 0 for no bytes."""


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
        is_gap: shape (slices,): nothing is known of that time.
        devices: their numbers; ``OTHERS`` is a device, too. Worst first, once ``ranked``.
        keys: shape (n,): slice, index of the device and operation, packed.
        columns: by name, shape (n,): ``SUMS``, ``LEAST`` and ``GREATEST``. Times in ns;
            ``in_flight`` in request-ns; ``queued`` counts requests with a queue time.
        histograms: by name, see ``HISTOGRAMS``.
        n_merged: devices that were merged into ``OTHERS`` for the size of the page.
    """

    edges_s: npt.NDArray[np.float64]
    is_gap: npt.NDArray[np.bool_]
    devices: npt.NDArray[np.uint32]
    keys: Integers
    columns: dict[str, npt.NDArray[np.float64]]
    histograms: dict[str, Bins]
    n_merged: int = 0

    @property
    def device(self) -> Integers:
        """The index of each cell's device."""
        return self.keys >> OP_BITS & (1 << DEVICE_BITS) - 1

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
        """Each two neighbouring slices merged; a gap stays one if both are gaps."""
        ends = [*range(0, len(self.is_gap), 2), len(self.is_gap)]
        low = self.keys & (1 << SLICE_SHIFT) - 1
        merged = self.rekeyed(self.keys >> SLICE_SHIFT >> 1 << SLICE_SHIFT | low)
        is_gap = np.logical_and.reduceat(self.is_gap, ends[:-1])
        return replace(merged, edges_s=self.edges_s[ends], is_gap=is_gap)

    def with_devices(self, order: Integers) -> Cells:
        """These devices in this order, by index; all others are merged into ``OTHERS``."""
        own = self.devices[order]
        n_merged = int((~np.isin(self.devices, np.append(own, np.uint32(OTHERS)))).sum())
        if n_merged and OTHERS not in own:
            own = np.append(own, np.uint32(OTHERS))
        others = int(np.flatnonzero(own == OTHERS)[0]) if n_merged else 0
        places = np.full(len(self.devices), others, np.int64)
        places[order] = np.arange(len(order))
        mask = (1 << DEVICE_BITS) - 1 << OP_BITS
        merged = self.rekeyed(self.keys & ~mask | places[self.device] << OP_BITS)
        return replace(merged, devices=own, n_merged=self.n_merged + n_merged)

    def ranking(self) -> Integers:
        """Devices by how slow they are: by p99, of few requests by the mean; worst first."""
        n = len(self.devices)
        device, columns = self.device, self.columns
        requests, total = (np.bincount(device, columns[c], n) for c in ("requests", "d2c_sum"))
        least, greatest = np.full(n, MOST_NS), np.zeros(n)
        np.minimum.at(least, device, columns["d2c_min"])
        np.maximum.at(greatest, device, columns["d2c_max"])
        extremes = least.astype(np.uint64), np.minimum(greatest, MOST_NS).astype(np.uint64)
        cells, bins, counts = self.histograms["d2c"]
        of_device = Histograms.sum_by_group(device[cells], bins.astype(np.uint32), counts, n)
        p99 = of_device.percentiles(*extremes, [99])[:, 0].astype(np.float64)
        mean = total / np.maximum(requests, 1)
        order: Integers = np.argsort(-np.where(requests >= LEAST_FOR_P99, p99, mean), kind="stable")
        return order

    def ranked(self) -> Cells:
        """With the worst device first."""
        return self.with_devices(self.ranking())

    def bounded(self, most_bytes: int = MOST_BYTES, wanted: Collection[int] = ()) -> Cells:
        """At most so large, about.

        The devices stay that are wanted, by number, then the slowest and most waited for.
        """
        found = self
        while found.size_bytes > most_bytes:
            if len(found.is_gap) > LEAST_SLICES or len(found.devices) <= LEAST_DEVICES:
                if len(found.is_gap) == 1:
                    break
                found = found.halved()
            else:
                found = found.with_devices(found._worst(len(found.devices) // 2, wanted))
        return found

    def _worst(self, n: int, wanted: Collection[int]) -> Integers:
        """The n devices to keep: those wanted, half of the others by p99, half by time waited."""
        columns, n_devices = self.columns, len(self.devices)
        sums = (np.bincount(self.device, columns[c], n_devices) for c in ("d2c_sum", "in_flight"))
        by_time = np.argsort(-np.maximum(*sums), kind="stable")
        first = np.flatnonzero(np.isin(self.devices, list(wanted)))
        mixed = np.append(first, np.stack([self.ranking(), by_time], axis=1))
        _, firsts = np.unique(mixed, return_index=True)
        order = mixed[np.sort(firsts)]
        worst: Integers = order[self.devices[order] != OTHERS][:n]
        return worst

    def arrays(self) -> dict[str, Array]:
        """The arrays that the script reads. Bins are differences within their cell."""
        found: dict[str, Array] = {
            "edges_s": self.edges_s,
            "is_gap": self.is_gap,
            "slice": self.keys >> SLICE_SHIFT,
            "device": self.device,
            "op": self.keys & (1 << OP_BITS) - 1,
            **{name: np.where(np.isinf(c), 0, c) for name, c in self.columns.items()},
        }
        for name, (in_cells, bins, counts) in self.histograms.items():
            lengths = np.bincount(in_cells, minlength=len(self.keys))
            steps = np.diff(bins, prepend=0)
            firsts = (np.cumsum(lengths) - lengths)[lengths > 0]
            steps[firsts] = bins[firsts]
            found |= {f"{name}_n": lengths, f"{name}_bin": steps, f"{name}_count": counts}
        return found


def cells_of(slices: Sequence[Interval]) -> Cells:
    """The cells of some slices, in full."""
    edges_s, known = timeline(slices)
    parts = [_part(place, item) for place, item in enumerate(known) if item is not None]
    is_gap = np.array([item is None for item in known])
    return replace(joined(parts), edges_s=edges_s, is_gap=is_gap)


def joined(parts: Sequence[Cells]) -> Cells:
    """Cells of several, merged where slice, device and operation are the same; without times."""
    numbers = np.unique(np.concatenate([part.devices for part in parts]))
    first = 0
    keys, histograms = [], {name: [] for name in HISTOGRAMS}  # type: ignore[var-annotated]
    for part in parts:
        device = np.searchsorted(numbers, part.devices)[part.device]
        mask = (1 << DEVICE_BITS) - 1 << OP_BITS
        keys.append(part.keys & ~mask | device << OP_BITS)
        for name, (cell, *bins) in part.histograms.items():
            histograms[name].append((cell + first, *bins))
        first += len(part.keys)
    whole = Cells(
        np.empty(0),
        np.empty(0, bool),
        numbers,
        np.concatenate(keys),
        {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns},
        {name: Bins(*map(np.concatenate, zip(*tables))) for name, tables in histograms.items()},
    )
    return whole.rekeyed(whole.keys)


def _part(place: int, item: Interval) -> Cells:
    """The cells of one slice, by each of its tables: not merged yet."""
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
    put(0, requests=rows["requests"], errors=rows["errors"], bytes=_sum(rows["size_bytes"]))
    put(0, d2c_sum=_sum(d2c), d2c_min=d2c["min"], d2c_max=d2c["max"])
    put(1, in_flight=_wide(loads["in_flight_ns"]))
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
    return Cells(np.empty(0), np.empty(0, bool), numbers, keys, columns, histograms)


def _keys(place: int, table: Table, numbers: npt.NDArray[np.uint32]) -> Integers:
    device = np.searchsorted(numbers, table["device"])
    keys: Integers = place << SLICE_SHIFT | device << OP_BITS | table["op"].astype(np.int64)
    return keys


def _of_table(table: Table, bins: Array, first: int = 0) -> Bins:
    return Bins(table["row"].astype(np.int64) + first, bins.astype(np.int64), table["count"])


def _merged(cells: Integers, bins: Integers, counts: npt.NDArray[np.uint64]) -> Bins:
    keys, sums = add_up(cells << BIN_BITS | bins, counts)
    return Bins(keys >> BIN_BITS, keys & (1 << BIN_BITS) - 1, sums)


def _sum(moments: Table) -> npt.NDArray[np.float64]:
    return _wide(moments["sum"])


def _wide(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """128-bit numbers, shape (n, 2): low and high word, to 53 significant bits."""
    numbers: npt.NDArray[np.float64] = words.astype(np.float64) @ [1.0, 2.0**64]
    return numbers


def _reduction(name: str) -> np.ufunc:
    return np.minimum if name in LEAST else np.maximum if name in GREATEST else np.add


# --- compressed -----------------------------------------------------------------------------------


class Packed(NamedTuple):
    """Arrays in a page: what the script needs to unpack them, and their bytes in base64."""

    layout: list[tuple[str, int, int]]
    data: str


def packed(arrays: dict[str, Array]) -> Packed:
    """Compress arrays: each as its lowest bytes, then the next ones, as most of them are 0.

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
