"""Metrics for Prometheus, in its text format or OpenMetrics: sums over all intervals so far.

One thread adds intervals, any thread may ask for the text. A scrape delays nothing but the next
interval.

The histograms have fixed limits. An interval's bins (see ``distribution``) are finer, and each is
added to one bucket as a whole. A bin of times goes where its middle is: what is within 1/128
(0.79 %) of a limit may be counted on its other side. A bin of sizes goes where its least value is,
as sizes often are a limit exactly: what is above a limit, by less than 1/64 of it, may count as
equal to it. Sums and numbers are exact.

Series are bounded: the first ``MAX_DEVICES`` devices have their own, all others share those of the
device "other".
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.console import printable
from blkiomon.engine import layout
from blkiomon.engine.layout import ALL_OPS
from blkiomon.errors import MissingLibrary
from blkiomon.formats.units import device_text
from blkiomon.interval.columns import NS_PER_S, TOTAL, Quantity
from blkiomon.interval.distribution import bin_bounds
from blkiomon.interval.incomplete import Incomplete
from blkiomon.interval.moments import add_up
from blkiomon.interval.value import Counts, Interval

MAX_DEVICES = 128
OTHER = "other"

TIME_LIMITS_NS = tuple(
    int(step * 10**power)
    for power in range(4, 12)
    for step in (1, 2.5, 5)
    if step * 10**power <= 1e11
)
"""1, 2.5, 5 of each decade from 10 µs to 100 s."""

SIZE_LIMITS = tuple(512 << power for power in range(16))
"""Powers of two from 512 B to 16 MiB."""

MAX_TEMPLATES = 4
"""Of so many kinds of text, as clients ask for them, the layout is kept."""

_COUNTERS = (
    ("records", "Trace records read, of any kind.", "records"),
    ("lost_events", "Events lost, by the tracer's own marks.", "lost_events"),
    ("sequence_gaps", "Records missing by their sequence numbers.", "sequence_gaps"),
    (
        "completions_without_issue",
        "Completions whose issue was not seen.",
        "completions_without_issue",
    ),
    ("issues_without_completion", "Issues given up, or overdue.", "issues_without_completion"),
    ("evicted", "Pending requests given up, being too old or too many.", "evicted"),
    ("skipped_bytes", "Bytes of the trace that are no records.", "skipped_bytes"),
    (
        "over_device_limit",
        "Records of devices beyond --max-devices: not counted.",
        "over_device_limit",
    ),
)
"""Name without ``_total``, explanation, field of ``Counts``."""


def _buckets() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Of each bin its bucket: of times, and of sizes."""
    low, high = bin_bounds(np.arange(layout.D2C_BINS))
    middle = low + (high - low) // np.uint64(2)
    sizes = low[: layout.SIZE_BINS]
    return (
        np.searchsorted(np.array(TIME_LIMITS_NS, np.uint64), middle),
        np.searchsorted(np.array(SIZE_LIMITS, np.uint64), sizes),
    )


_TIME_BUCKETS, _SIZE_BUCKETS = _buckets()


class _Histograms:
    """Counts in buckets with fixed limits, and sums: a row for each series.

    Args:
        limits: of the buckets, to which one without a limit is added.
        bucket_of: of each bin.
        n: so many series at most.
    """

    def __init__(self, limits: Sequence[int], bucket_of: npt.NDArray[np.intp], n: int) -> None:
        self._counts = np.zeros((n, len(limits) + 1), np.uint64)
        self._bucket_of = bucket_of
        self.sums = [0] * n

    def add(self, quantity: Quantity, groups: Sequence[int], series: Sequence[int]) -> None:
        """Add some groups, each to its series."""
        bins, counts, starts = quantity.histograms.taken(np.array(groups, np.intp))
        row = np.repeat(np.array(series, np.int64), np.diff(starts))
        at, sums = add_up(row * self._counts.shape[1] + self._bucket_of[bins], counts)
        self._counts.reshape(-1)[at] += sums
        for group, index in zip(groups, series, strict=True):
            self.sums[index] += quantity.sum[group]

    def upto(self, series: Sequence[int]) -> list[list[int]]:
        """How many values of each are up to each limit; last, all."""
        numbers: list[list[int]] = np.cumsum(self._counts[series], axis=1).tolist()
        return numbers


class Metrics:
    """Sums over all intervals so far; any thread may ask for them.

    Args:
        name_of: tells a device's name by its number.
        max_devices: so many have series of their own.

    Raises:
        MissingLibrary: there is no prometheus-client.
    """

    def __init__(
        self, name_of: Callable[[int], str | None], max_devices: int = MAX_DEVICES
    ) -> None:
        try:
            import prometheus_client
            from prometheus_client import core, exposition
        except ImportError as error:
            raise MissingLibrary(
                "metrics need prometheus-client: pip install 'blkiomon[metrics]'"
            ) from error
        self._core = core
        self._exposition: Any = exposition
        self._registry: Any = prometheus_client.CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._name_of = name_of
        self._max_devices = max_devices
        self._lock = threading.RLock()  # guards all that follows
        self._labels: set[str] = set()
        most = (max_devices + 1) * len(layout.OPS)
        self._series: dict[tuple[str, str], int] = {}  # by device and operation its row
        self._d2c = _Histograms(TIME_LIMITS_NS, _TIME_BUCKETS, most)
        self._size = _Histograms(SIZE_LIMITS, _SIZE_BUCKETS, most)
        self._requests, self._errors, self._requeues = [0] * most, [0] * most, [0] * most
        self._in_flight, self._oldest_ns = [0] * most, [0] * most
        self._counts = Counts()
        self._end_ns: int | None = None
        self._incomplete: tuple[Incomplete, ...] = ()  # of the latest interval
        self._missing_files = 0
        self._templates: dict[str, list[str]] = {}  # by content type
        self._is_template = False  # the library gets no values

    def add(self, interval: Interval) -> None:
        """Add what an interval brought."""
        columns = interval.columns()
        load = columns.in_flight
        with self._lock:
            known = self._layout
            self._in_flight = [0] * len(self._requests)
            self._oldest_ns = [0] * len(self._requests)
            groups, series = self._placed(columns.keys)
            for group, row in zip(groups, series, strict=True):
                self._requests[row] += columns.d2c_ns.count[group]
                self._errors[row] += columns.errors[group]
                self._requeues[row] += columns.requeues[group]
                if load is not None:
                    self._in_flight[row] += load.end[group]
                    self._oldest_ns[row] = max(self._oldest_ns[row], load.oldest_ns[group])
            self._d2c.add(columns.d2c_ns, groups, series)
            self._size.add(columns.size_bytes, groups, series)
            self._counts += interval.counts
            self._end_ns = interval.end_ns if interval.anchored else None
            self._incomplete = tuple(w for w in interval.incomplete if w.share is not None)
            self._missing_files = interval.missing_files
            if known != self._layout:
                self._templates.clear()

    @property
    def _layout(self) -> object:
        """What templates depend on: the series that there are."""
        reasons = [why.reason for why in self._incomplete]
        return len(self._series), self._end_ns is None, reasons, self._missing_files > 0

    def _placed(self, keys: Sequence[int]) -> tuple[list[int], list[int]]:
        """The groups that are of one operation of one device, and the series of each."""
        groups = [i for i, key in enumerate(keys) if key & 7 != ALL_OPS and key != TOTAL]
        numbers = dict.fromkeys(keys[i] >> 3 for i in groups)
        labels = {number: self._label(number) for number in numbers}
        names = [(labels[keys[i] >> 3], layout.OPS[keys[i] & 7]) for i in groups]
        return groups, [self._series.setdefault(name, len(self._series)) for name in names]

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as text, and its content type, by what an HTTP client accepts.

        The library lays it out, once for each set of series: from then on only values change.
        """
        encode, content_type = self._exposition.choose_encoder(accept)
        with self._lock:
            values = self._values()
            template = self._templates.get(content_type)
            if template is not None:
                return _filled(template, values), content_type
            text: bytes = encode(self._registry)
            template = self._template(encode)
            if _filled(template, values) == text:  # else the library has another order
                if len(self._templates) >= MAX_TEMPLATES:
                    self._templates.clear()
                self._templates[content_type] = template
            return text, content_type

    def _template(self, encode: Callable[[Any], bytes]) -> list[str]:
        """The text, cut where its values belong."""
        self._is_template = True
        try:
            # No label has a line break of its own: nothing else looks like a value.
            first, *others = encode(self._registry).decode().split(f" {_NO_VALUE}\n")
        finally:
            self._is_template = False
        pieces = [first, *(f"\n{piece}" for piece in others)]
        return [*(f"{piece} " for piece in pieces[:-1]), pieces[-1]]

    def _values(self) -> list[str]:
        """All values, in the order of ``collect``."""
        rows = self._rows()
        values: list[float] = []
        for histograms, scale in ((self._d2c, NS_PER_S), (self._size, 1)):
            for upto, row in zip(histograms.upto(rows), rows, strict=True):
                values += upto
                values += (upto[-1], histograms.sums[row] / scale)
        totals = (self._requests, self._size.sums, self._errors, self._requeues)
        for numbers in (*totals, self._in_flight):
            values += [numbers[row] for row in rows]
        values += [self._oldest_ns[row] / NS_PER_S for row in rows]
        values += [getattr(self._counts, field) for _, _, field in _COUNTERS]
        values += [why.share or 0.0 for why in self._incomplete]
        if self._missing_files:
            values.append(self._missing_files)
        if self._end_ns is not None:
            values.append(self._end_ns / NS_PER_S)
        texts = {value: self._exposition.floatToGoString(value) for value in set(values)}
        return [texts[value] for value in values]

    def _rows(self) -> list[int]:
        return [row for _, row in sorted(self._series.items())]

    def collect(self) -> Iterator[Any]:
        """For the library: all families of metrics."""
        with self._lock:
            yield from [*self._of_requests(), *self._of_all()]

    def _label(self, number: int) -> str:
        label = printable(self._name_of(number) or device_text(number))
        if label in self._labels:
            return label
        if len(self._labels) >= self._max_devices:
            return OTHER
        self._labels.add(label)
        return label

    def _shown(self, value: float) -> float:
        return math.nan if self._is_template else value

    def _of_requests(self) -> list[Any]:
        labels = ("device", "op")

        def counter(name: str, text: str) -> Any:
            return self._core.CounterMetricFamily(f"blkiomon_{name}", text, labels=labels)

        def gauge(name: str, text: str) -> Any:
            return self._core.GaugeMetricFamily(f"blkiomon_{name}", text, labels=labels)

        def histogram(name: str, text: str) -> Any:
            return self._core.HistogramMetricFamily(f"blkiomon_{name}", text, labels=labels)

        requests = counter("requests", "Requests that completed.")
        n_bytes = counter("bytes", "Bytes of the requests that completed.")
        errors = counter("errors", "Requests that completed with an error.")
        requeues = counter("requeues", "How often the kernel gave a request back.")
        in_flight = gauge(
            "in_flight", "Requests issued and not completed, when the interval ended."
        )
        oldest = gauge("in_flight_oldest_seconds", "Age of the oldest of these.")
        d2c = histogram("d2c_seconds", "Time from issue to completion.")
        size = histogram("request_size_bytes", "Size of the requests that completed.")
        shown, rows = self._shown, self._rows()
        for key, row, upto_ns, upto_bytes in zip(
            sorted(self._series), rows, self._d2c.upto(rows), self._size.upto(rows), strict=True
        ):
            requests.add_metric(key, shown(self._requests[row]))
            n_bytes.add_metric(key, shown(self._size.sums[row]))
            errors.add_metric(key, shown(self._errors[row]))
            requeues.add_metric(key, shown(self._requeues[row]))
            in_flight.add_metric(key, shown(self._in_flight[row]))
            oldest.add_metric(key, shown(self._oldest_ns[row] / NS_PER_S))
            sum_s = self._d2c.sums[row] / NS_PER_S
            d2c.add_metric(key, self._pairs(_TIME_LIMITS, upto_ns), shown(sum_s))
            n = self._size.sums[row]
            size.add_metric(key, self._pairs(_SIZE_LIMITS, upto_bytes), shown(n))
        return [d2c, size, requests, n_bytes, errors, requeues, in_flight, oldest]

    def _pairs(self, limits: Sequence[float], upto: Sequence[int]) -> list[tuple[str, float]]:
        names = [self._exposition.floatToGoString(limit) for limit in limits]
        return list(zip(names, map(self._shown, upto), strict=True))

    def _of_all(self) -> list[Any]:
        families: list[Any] = []
        for name, text, field in _COUNTERS:
            value = self._shown(getattr(self._counts, field))
            families.append(self._core.CounterMetricFamily(f"blkiomon_{name}", text, value=value))
        if self._incomplete:
            text = "Share of all that the latest interval leaves out, if it is a hundredth or more."
            family = self._core.GaugeMetricFamily(
                "blkiomon_incomplete_share", text, labels=("reason",)
            )
            for why in self._incomplete:
                family.add_metric((why.reason,), self._shown(why.share or 0.0))
            families.append(family)
        if self._missing_files:
            text = "Files of the trace, one for each CPU, that are not there."
            value = self._shown(self._missing_files)
            families.append(
                self._core.GaugeMetricFamily("blkiomon_missing_files", text, value=value)
            )
        if self._end_ns is not None:
            text = "When the latest interval ended, since 1970."
            name = "blkiomon_last_interval_timestamp_seconds"
            value = self._shown(self._end_ns / NS_PER_S)
            families.append(self._core.GaugeMetricFamily(name, text, value=value))
        return families


_TIME_LIMITS = (*(limit / NS_PER_S for limit in TIME_LIMITS_NS), math.inf)
_SIZE_LIMITS = (*map(float, SIZE_LIMITS), math.inf)
_NO_VALUE = "NaN"


def _filled(template: Sequence[str], values: Sequence[str]) -> bytes:
    """A template with its values; empty where it has another number of them."""
    if len(template) != len(values) + 1:
        return b""
    pieces = [""] * (2 * len(values) + 1)
    pieces[::2], pieces[1::2] = template, values
    return "".join(pieces).encode()
