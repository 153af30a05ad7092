"""Metrics for Prometheus, in its text format or OpenMetrics: sums over all intervals so far.

One thread adds intervals; any thread may ask for the text. A scrape can delay ``Metrics.add``, and
nothing else. ``formats.protobuf`` encodes the same metrics, and native histograms with them.

The histograms have fixed limits: those of the classic buckets below, and those of the native ones,
which are 2^(1/8) apart (schema 3). The bins of an interval (see ``interval.distribution``) are
finer, and each bin is added to one bucket of either kind as a whole. For times, the middle of the
bin decides: a value within 1/128 (0.79 %) of a limit may be counted on the wrong side. For sizes,
the least value of the bin decides, because many sizes equal a limit: a value above a limit, by less
than 1/64 of it, may be counted as equal to it. Sums and counts are exact.

The number of series is bounded: the first ``MAX_DEVICES`` devices have their own, all others share
those of the device "other".
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.console import printable
from blkiomon.engine import layout
from blkiomon.engine.constants import ALL_OPS
from blkiomon.errors import MissingLibrary
from blkiomon.formats.rendering import LABELS, InfoOf, NameOf, no_info
from blkiomon.formats.units import device_text
from blkiomon.interval.columns import NS_PER_S, TOTAL, Quantity
from blkiomon.interval.distribution import bin_bounds
from blkiomon.interval.incomplete import Incomplete
from blkiomon.interval.moments import add_up, run_starts
from blkiomon.interval.value import Counts, Interval

MAX_DEVICES = 128
OTHER = "other"

_FINE = (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
_COARSE = (1, 2.5, 5)
TIME_LIMITS_NS = tuple(
    round(step * 10**power)
    for power in range(4, 12)
    for step in (_FINE if power < 6 else _COARSE)
    if step * 10**power <= 1e11
)
"""Up to 1 ms, where flash works, ten limits a decade (the Renard series R10) from 10 µs. Above,
1, 2.5 and 5 times each power of ten up to 100 s."""

SIZE_LIMITS = tuple(512 << power for power in range(16))
"""Powers of two from 512 B to 16 MiB."""

NATIVE_SCHEMA = 3
"""Native buckets: 2^3 for each power of two."""

MAX_TEMPLATES = 4
"""How many content types have a cached template; clients choose the content type."""

_COUNTERS = {
    "records": "Trace records read, of any kind.",
    "lost_events": "Events that the tracer reported as lost.",
    "sequence_gaps": "Records missing by their sequence numbers.",
    "completions_without_issue": "Completions whose issue was not seen.",
    "issues_without_completion": "Issues that were replaced or evicted, or are overdue.",
    "evicted": "Pending records evicted, being too old or too many.",
    "mismatches": "Pairs of records of one device, sector and direction that are not one request.",
    "skipped_bytes": "Bytes of the trace that are not records.",
    "over_device_limit": "Records of devices beyond --max-devices: not counted.",
}
"""Field of ``Counts`` -> help text. The metric is ``blkiomon_<field>_total``."""


NativeBuckets = tuple[int, list[tuple[int, int]], list[int]]
"""``zero_count``, ``spans`` and ``deltas`` of a ``Histogram``."""


class Histogram(NamedTuple):
    """A histogram with classic and native buckets, as Prometheus reads it; in seconds or bytes.

    Attributes:
        limits: upper limits of the classic buckets; the last is infinite.
        counts: the number of values up to each limit.
        sum: of all values.
        zero_count: number of values that are 0.
        spans: of each run of non-empty native buckets, how many empty ones precede it, and its
            length. Bucket i ends at 2^(i/8), inclusive; the first run is counted from bucket 0.
        deltas: the count of each non-empty native bucket, less that of the one before.
    """

    limits: Sequence[float]
    counts: list[float]
    sum: float
    zero_count: int
    spans: list[tuple[int, int]]
    deltas: list[int]


class _Histograms:
    """Sums and counts in buckets with fixed limits, one row for each series.

    A count is kept for each pair of a classic and a native bucket that overlap.

    Args:
        limits: upper limits of the classic buckets; one more bucket has none.
        values: for each bin, the value that decides; ascending from 0.
        unit: this value is 1 s or 1 byte in the native limits.
        n: number of series.
    """

    def __init__(
        self, limits: Sequence[int], values: npt.NDArray[np.uint64], unit: int, n: int
    ) -> None:
        classic = np.searchsorted(np.array(limits, np.uint64), values)
        native = np.ceil(np.log2(values[1:] / unit) * 2**NATIVE_SCHEMA).astype(np.intp)
        native = np.concatenate((native[:1] - 1, native))  # first, a bucket for 0
        # Neither number falls as the value grows, so different pairs have different sums.
        _, first, self._bucket_of = np.unique(
            classic + native, return_index=True, return_inverse=True
        )
        self._last = np.searchsorted(classic[first], np.arange(len(limits) + 1), side="right") - 1
        self._native_starts = run_starts(native[first])
        self._native = native[first][self._native_starts]
        self._counts = np.zeros((n, len(first)), np.uint64)
        self.sums = [0] * n

    def add(self, quantity: Quantity, groups: Sequence[int], series: Sequence[int]) -> None:
        """Add some groups of an interval, each to its series."""
        bins, counts, starts = quantity.histograms.select(np.array(groups, np.intp))
        row = np.repeat(np.array(series, np.int64), np.diff(starts))
        at, sums = add_up(row * self._counts.shape[1] + self._bucket_of[bins], counts)
        self._counts.reshape(-1)[at] += sums
        for group, index in zip(groups, series, strict=True):
            self.sums[index] += quantity.sum[group]

    def cumulative(self, series: Sequence[int]) -> list[list[int]]:
        """For each series, the number of values up to each limit, and in all."""
        numbers: list[list[int]] = np.cumsum(self._counts[series], axis=1)[:, self._last].tolist()
        return numbers

    def native(self, series: Sequence[int]) -> Iterator[NativeBuckets]:
        """The native buckets of each series; see ``Histogram``."""
        counts = np.add.reduceat(self._counts[series], self._native_starts, axis=1)
        zeros, counts = counts[:, 0], counts[:, 1:].astype(np.int64)
        row, column = np.nonzero(counts)
        index, filled = self._native[1:][column], counts[row, column]
        gaps, deltas = np.diff(index, prepend=0) - 1, np.diff(filled, prepend=0)
        is_first = np.diff(row, prepend=-1) > 0  # of its series
        gaps[is_first], deltas[is_first] = index[is_first], filled[is_first]
        spans = np.flatnonzero(is_first | (gaps > 0))
        lengths = np.diff(spans, append=len(row))
        of_series = np.searchsorted(row, np.arange(len(series) + 1))
        for zero_count, (start, end) in zip(zeros.tolist(), pairwise(of_series), strict=True):
            chosen = slice(*np.searchsorted(spans, (start, end)))
            runs = zip(gaps[spans[chosen]].tolist(), lengths[chosen].tolist(), strict=True)
            yield zero_count, list(runs), deltas[start:end].tolist()


class Metrics:
    """Sums over all intervals so far; any thread may ask for them.

    prometheus-client formats the text once for each set of series. The result is a template, into
    which each scrape fills the values.

    Args:
        name_of: maps a device number to a device name, or None.
        max_devices: how many devices have series of their own.
        info_of: the labels of devices in ``blkiomon_device_info``.
        expected: devices and operations whose series exist from the start, at 0: Prometheus does
            not see the increase to a series' first value.

    Raises:
        MissingLibrary: prometheus-client is not installed.
    """

    def __init__(
        self,
        name_of: NameOf,
        max_devices: int = MAX_DEVICES,
        info_of: InfoOf = no_info,
        expected: Iterable[tuple[int, str]] = (),
    ) -> None:
        try:
            from prometheus_client import core, exposition
        except ImportError as error:
            raise MissingLibrary(
                "metrics need prometheus-client: pip install 'blkiomon[metrics]'"
            ) from error
        self._core = core
        self._exposition: Any = exposition
        self._name_of = name_of
        self._info_of = info_of
        self._max_devices = max_devices
        self._lock = threading.Lock()  # guards all attributes below
        self._labels: dict[str, int] = {}  # of a device -> its number
        self._info: list[tuple[str, ...]] = []  # values of _INFO_LABELS
        most = (max_devices + 1) * len(layout.OPS)
        self._series: dict[tuple[str, str], int] = {}  # label of a device, operation -> row
        low, high = bin_bounds(np.arange(layout.D2C_BINS))
        middle = low + (high - low) // np.uint64(2)
        self._d2c = _Histograms(TIME_LIMITS_NS, middle, NS_PER_S, most)
        self._size = _Histograms(SIZE_LIMITS, low[: layout.SIZE_BINS], 1, most)
        self._sums = {name: [0] * most for name in _SUMS}
        self._gauges = [0.0] * most, [0.0] * most  # in the order of _GAUGES
        self._counts = Counts()
        self._end_ns: int | None = None
        self._incomplete: tuple[Incomplete, ...] = ()  # of the latest interval
        self._missing_files = 0
        self._templates: dict[str, _Template] = {}  # by content type
        for number, op in expected:
            self._row(self._label(number), op)

    def add(self, interval: Interval) -> None:
        """Add the figures of an interval."""
        columns = interval.columns()
        load = columns.in_flight
        with self._lock:
            known = self._layout
            groups, series = self._place(columns.keys)
            for name, column in (
                ("requests", columns.d2c_ns.count),
                ("bytes", columns.size_bytes.sum),
                ("errors", columns.errors),
                ("requeues", columns.requeues),
            ):
                sums = self._sums[name]
                for group, row in zip(groups, series, strict=True):
                    sums[row] += column[group]
            in_flight, oldest_s = ([0.0] * len(sums) for _ in _GAUGES)
            if load is not None:
                for group, row in zip(groups, series, strict=True):
                    in_flight[row] += load.end[group] or 0
                    oldest_s[row] = max(oldest_s[row], (load.oldest_ns[group] or 0) / NS_PER_S)
            self._gauges = in_flight, oldest_s
            self._d2c.add(columns.d2c_ns, groups, series)
            self._size.add(columns.size_bytes, groups, series)
            self._counts += interval.counts
            self._end_ns = interval.end_ns if interval.anchored else None
            self._incomplete = tuple(w for w in interval.incomplete if w.share is not None)
            self._missing_files = interval.missing_files
            labels = dict(self._labels)
        info = self._info_of(labels.values())  # takes a while, as a host is read
        with self._lock:
            self._info = [(name, *info[n]) for name, n in sorted(labels.items()) if n in info]
            if known != self._layout:
                self._templates.clear()

    @property
    def _layout(self) -> object:
        """Identifies the set of series; templates depend on it."""
        reasons = [why.reason for why in self._incomplete]
        of_counts = self._end_ns is None, reasons, self._missing_files > 0
        return len(self._series), self._info, *of_counts

    def _place(self, keys: Sequence[int]) -> tuple[list[int], list[int]]:
        """Indices of the groups that have one operation, and the row of each one's series."""
        groups = [i for i, key in enumerate(keys) if key & 7 != ALL_OPS and key != TOTAL]
        numbers = dict.fromkeys(keys[i] >> 3 for i in groups)
        labels = {number: self._label(number) for number in numbers}
        return groups, [self._row(labels[keys[i] >> 3], layout.OPS[keys[i] & 7]) for i in groups]

    def _row(self, label: str, op: str) -> int:
        """The row of a series, which may be new."""
        return self._series.setdefault((label, op), len(self._series))

    def _label(self, number: int) -> str:
        label = printable(self._name_of(number) or device_text(number))
        if label in self._labels:
            return label
        if len(self._labels) >= self._max_devices:
            return OTHER
        self._labels[label] = number
        return label

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as text, and its content type.

        Args:
            accept: the ``Accept`` header of an HTTP client.
        """
        encode, content_type = self._exposition.choose_encoder(accept)
        with self._lock:
            template = self._templates.get(content_type)
            if template is None:
                if len(self._templates) >= MAX_TEMPLATES:
                    self._templates.clear()
                # Encode indices in place of values: they show where the library puts each value.
                registry = SimpleNamespace(collect=lambda: self._families(count()))
                text = encode(registry).decode()
                template = self._templates[content_type] = _Template(text)
            values = self._values()
            texts = {value: self._exposition.floatToGoString(value) for value in set(values)}
            return template.filled([texts[value] for value in values]), content_type

    def families(self) -> list[Any]:
        """All metrics as families of prometheus-client; each histogram is one ``Histogram``."""
        with self._lock:
            rows = self._rows()
            native = chain(self._d2c.native(rows), self._size.native(rows))
            return list(self._families(self._values(), native))

    def _rows(self) -> list[int]:
        """The rows of all series, in the order of ``_families``."""
        return [row for _, row in sorted(self._series.items())]

    def _values(self) -> list[float]:
        """All values, in the order of ``_families``."""
        rows = self._rows()
        values: list[float] = []
        for histograms, scale in ((self._d2c, NS_PER_S), (self._size, 1)):
            for cumulative, row in zip(histograms.cumulative(rows), rows, strict=True):
                values += (*cumulative, histograms.sums[row] / scale)
        columns: list[list[int] | list[float]] = [*self._sums.values(), *self._gauges]
        for numbers in columns:
            values += [numbers[row] for row in rows]
        values += [1.0] * len(self._info)
        values += [getattr(self._counts, field) for field in _COUNTERS]
        values += [why.share or 0.0 for why in self._incomplete]
        if self._missing_files:
            values.append(self._missing_files)
        if self._end_ns is not None:
            values.append(self._end_ns / NS_PER_S)
        return values

    def _families(
        self, values: Iterable[float], native: Iterator[NativeBuckets] | None = None
    ) -> Iterator[Any]:
        """All families of metrics, with these values.

        With native buckets, a histogram is one sample, whose value is a ``Histogram``.
        """
        rest = iter(values)
        core, series = self._core, sorted(self._series)
        for name, text, limits in _HISTOGRAMS:
            family = core.HistogramMetricFamily(f"blkiomon_{name}", text, labels=_LABELS)
            names = [self._exposition.floatToGoString(limit) for limit in limits]
            for labels in series:
                counts, total = [next(rest) for _ in limits], next(rest)
                if native is None:
                    family.add_metric(labels, list(zip(names, counts, strict=True)), total)
                else:
                    value = Histogram(limits, counts, total, *next(native))
                    labelled = dict(zip(_LABELS, labels, strict=True))
                    family.samples.append(core.Sample(family.name, labelled, value))
            yield family
        both = (core.CounterMetricFamily, _SUMS), (core.GaugeMetricFamily, _GAUGES)
        for kind, families in both:
            for name, text in families.items():
                family = kind(f"blkiomon_{name}", text, labels=_LABELS)
                for labels in series:
                    family.add_metric(labels, next(rest))
                yield family
        if self._info:
            # As a gauge: the library gives metrics of its type "info" no value of their own.
            text = "Labels that describe a device, for joins. Always 1."
            family = core.GaugeMetricFamily("blkiomon_device_info", text, labels=_INFO_LABELS)
            for of_device in self._info:
                family.add_metric(of_device, next(rest))
            yield family
        for name, text in _COUNTERS.items():
            yield core.CounterMetricFamily(f"blkiomon_{name}", text, value=next(rest))
        if self._incomplete:
            text = "Share that the latest interval leaves out, if it is 0.01 or more."
            family = core.GaugeMetricFamily("blkiomon_incomplete_share", text, labels=("reason",))
            for why in self._incomplete:
                family.add_metric((why.reason,), next(rest))
            yield family
        if self._missing_files:
            text = "Per-CPU files of the trace that are missing."
            yield core.GaugeMetricFamily("blkiomon_missing_files", text, value=next(rest))
        if self._end_ns is not None:
            text = "When the latest interval ended, in seconds since 1970."
            name = "blkiomon_last_interval_timestamp_seconds"
            yield core.GaugeMetricFamily(name, text, value=next(rest))


_LABELS = ("device", "op")
_INFO_LABELS = ("device", *LABELS)
_HISTOGRAMS = (
    (
        "d2c_seconds",
        "Time from issue to completion.",
        (*(limit / NS_PER_S for limit in TIME_LIMITS_NS), math.inf),
    ),
    (
        "request_size_bytes",
        "Size of the requests that completed.",
        (*map(float, SIZE_LIMITS), math.inf),
    ),
)
_SUMS = {
    "requests": "Requests that completed.",
    "bytes": "Bytes of the requests that completed.",
    "errors": "Requests that completed with an error.",
    "requeues": "How often the kernel requeued a request.",
}
_GAUGES = {
    "in_flight": "Requests issued and not completed, when the interval ended.",
    "in_flight_oldest_seconds": "Age of the oldest of these.",
}


class _Template:
    """A text of metrics with gaps for the values.

    Args:
        text: metrics, with the index of each value in place of the value.
    """

    def __init__(self, text: str) -> None:
        self._indices = []
        lines = text.replace("%", "%%").split("\n")
        for i, line in enumerate(lines):
            if line and not line.startswith("#"):
                series, _, index = line.rpartition(" ")
                self._indices.append(int(float(index)))
                lines[i] = f"{series} %s"
        self._template = "\n".join(lines)

    def filled(self, values: Sequence[str]) -> bytes:
        """The text with these values."""
        return (self._template % tuple(values[index] for index in self._indices)).encode()
