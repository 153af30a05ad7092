"""One finished interval: immutable, and all that outputs and reports ever see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon import layout

U64_MAX = (1 << 64) - 1


class Moments(NamedTuple):
    """Extremes, sum and sum of squares of one quantity; integers of any length.

    In the order in which the wire has them. ``min`` is 2^64-1 where ``num`` is 0.
    """

    min: int = U64_MAX
    max: int = 0
    sum: int = 0
    squ: int = 0
    num: int = 0

    @property
    def avg(self) -> float:
        """The mean, 0.0 of nothing."""
        if not self.num:
            return 0.0
        # Up to 2^64 as the original: to double first. Beyond, the exact quotient.
        return (float(self.sum) if self.sum <= U64_MAX else self.sum) / self.num

    @property
    def var(self) -> float:
        """The population variance, 0.0 of nothing: ``(squ - sum * sum / num) / num``.

        As far as 64 bits carry ``squ`` and ``sum * sum``, these are the very steps of the
        original, rounding (and the negative values that come of it) included; beyond, where the
        original wraps, integers give the exact value.
        """
        if not self.num:
            return 0.0
        square = self.sum * self.sum
        if square <= U64_MAX and self.squ <= U64_MAX:
            return (float(self.squ) - float(square) / self.num) / self.num
        return (self.num * self.squ - square) / (self.num * self.num)

    def merge(self, other: Moments) -> Moments:
        """The moments of both collections together; exact."""
        return Moments(
            min(self.min, other.min),
            max(self.max, other.max),
            self.sum + other.sum,
            self.squ + other.squ,
            self.num + other.num,
        )


NOTHING = Moments()


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """One device in one interval as the original sees it: two directions, no operations.

    Sizes in bytes, d2c in microseconds, throughput in bytes per millisecond; the histograms'
    limits are in ``layout``. Bidirectional requests are counted in the histograms and ``bidir``.
    """

    device: int
    size_r: Moments
    size_w: Moments
    d2c_r: Moments
    d2c_w: Moments
    thrput_r: Moments
    thrput_w: Moments
    size_hist: tuple[int, ...]
    d2c_hist: tuple[int, ...]
    bidir: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the records of an interval, or of a whole run.

    Attributes:
        records: read, of any kind.
        matches: requests that were accounted.
        mismatches: pairs of one key that are no request.
        driver_data: records of low-level drivers.
        evicted: pending records given up, being too old or too many.
        lost: events that the tracer's marks say were lost.
        gaps: records missing by their sequence numbers, per device and CPU.
        orphans: completions whose issue had not been seen by the interval's end.
        skipped_bytes: bytes that are no records.
    """

    records: int = 0
    matches: int = 0
    mismatches: int = 0
    driver_data: int = 0
    evicted: int = 0
    lost: int = 0
    gaps: int = 0
    orphans: int = 0
    skipped_bytes: int = 0

    def __add__(self, other: Counts) -> Counts:
        """What both counted together."""
        return Counts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def __sub__(self, earlier: Counts) -> Counts:
        """What was counted since ``earlier``."""
        return Counts(
            **{f.name: getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)}
        )


def _none(dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    return np.empty(0, dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cut:
    """What the engine hands out of one interval: numpy arrays of shape (n,).

    Attributes:
        rows: dtype ``layout.ROW``, in any order; several rows of one device, operation and
            direction add up.
        d2c_bins, size_bins: dtype ``layout.BIN``, by row, then bin.
        loads: dtype ``layout.LOAD``.
        queue_rows: dtype ``layout.QUEUE_ROW``; empty where the stream carries no queue records.
        q2d_bins, q2c_bins: dtype ``layout.BIN``, by row of ``queue_rows``, then bin.
        processes: dtype ``layout.PROCESS``, one for each pid; empty where the stream carries no
            process names.
    """

    rows: npt.NDArray[np.void] = field(default_factory=lambda: _none(layout.ROW))
    d2c_bins: npt.NDArray[np.void] = field(default_factory=lambda: _none(layout.BIN))
    size_bins: npt.NDArray[np.void] = field(default_factory=lambda: _none(layout.BIN))
    loads: npt.NDArray[np.void] = field(default_factory=lambda: _none(layout.LOAD))
    queue_rows: npt.NDArray[np.void] = field(default_factory=lambda: _none(layout.QUEUE_ROW))
    q2d_bins: npt.NDArray[np.void] = field(default_factory=lambda: _none(layout.BIN))
    q2c_bins: npt.NDArray[np.void] = field(default_factory=lambda: _none(layout.BIN))
    processes: npt.NDArray[np.void] = field(default_factory=lambda: _none(layout.PROCESS))


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """What one interval brought.

    Attributes:
        time_s: wall-clock seconds of its end, as the drop-in's outputs print it.
        devices: shape (n,), u4: the devices that had a match, in order of the first one.
        rows: shape (m,), dtype ``layout.ROW``: those of ``cut``.
        counts: of this interval alone.
        cut: everything that was measured.
        start_ns, end_ns: when it began and ended: ns since 1970 if ``is_anchored``, else since
            the first record.
        clock: "wall" or "trace": by which the interval was cut.
        is_anchored: whether the wall-clock time is known.
        process_names: of the pids in ``cut.processes``, as far as the stream told them.
    """

    time_s: int
    devices: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.void]
    counts: Counts = Counts()
    cut: Cut = field(default_factory=Cut)
    start_ns: int = 0
    end_ns: int = 0
    clock: str = "wall"
    is_anchored: bool = True
    process_names: Mapping[int, str] = field(default_factory=dict)
    _stats: list[tuple[DeviceStats, ...]] = field(default_factory=list, init=False, repr=False)

    def device_stats(self) -> tuple[DeviceStats, ...]:
        """The drop-in's view, devices in the original's order: latest first match first.

        Merged once and kept: several outputs ask for it, from threads of their own (when two
        are first at once, both work it out, to the same result).
        """
        if not self._stats:
            self._stats.append(_merge(self.devices, self.rows))
        return self._stats[0]


_QUANTITIES = ("size_bytes", "d2c_us", "throughput")


def _merge(devices: npt.NDArray[np.uint32], rows: npt.NDArray[np.void]) -> tuple[DeviceStats, ...]:
    """Merge the operations of each device by direction."""
    if not len(rows):
        return ()
    # Groups of rows with one device and direction: sorted together, then reduced from each start.
    sorter = np.argsort(devices, kind="stable")
    place = sorter[np.searchsorted(devices, rows["device"], sorter=sorter)]
    key = place * 3 + rows["direction"]
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order]
    starts = _starts(key)
    groups = key[starts].tolist()
    num = np.add.reduceat(rows["requests"], starts).tolist()
    size, d2c, thrput = (
        dict(zip(groups, _moments(rows[name], starts, num), strict=True)) for name in _QUANTITIES
    )
    bidir = dict(zip(groups, num, strict=True))

    by_device = _starts(key // 3)
    size_hists = np.add.reduceat(rows["size_hist"], by_device).tolist()
    d2c_hists = np.add.reduceat(rows["d2c_hist"], by_device).tolist()
    stats = [
        DeviceStats(
            device,
            size.get(read, NOTHING),
            size.get(read + 1, NOTHING),
            d2c.get(read, NOTHING),
            d2c.get(read + 1, NOTHING),
            thrput.get(read, NOTHING),
            thrput.get(read + 1, NOTHING),
            tuple(size_hist),
            tuple(d2c_hist),
            bidir.get(read + 2, 0),
        )
        for device, read, size_hist, d2c_hist in zip(
            rows["device"][by_device].tolist(),
            (key[by_device] // 3 * 3).tolist(),
            size_hists,
            d2c_hists,
            strict=True,
        )
    ]
    return tuple(reversed(stats))


def _starts(key: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))


def _moments(
    rows: npt.NDArray[np.void], starts: npt.NDArray[np.intp], num: list[int]
) -> list[Moments]:
    """Reduce rows of dtype ``layout.MOMENTS``; the 128-bit sums become Python's integers."""
    columns: list[list[Any]] = [
        np.minimum.reduceat(rows["min"], starts).tolist(),
        np.maximum.reduceat(rows["max"], starts).tolist(),
    ]
    for name in ("sum", "squ"):
        wide = rows[name][:, 0].astype(object) + (rows[name][:, 1].astype(object) << 64)
        columns.append(np.add.reduceat(wide, starts).tolist())
    return list(map(Moments, *columns, num))
