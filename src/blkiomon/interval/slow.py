"""Slow requests of a run: the threshold, the limit of requests a second, and those that hang."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blkiomon.engine import layout
from blkiomon.engine.constants import OPS
from blkiomon.interval.columns import NS_PER_S
from blkiomon.interval.distribution import N_BINS, Histograms, bin_bounds
from blkiomon.interval.monitor import NEVER_NS, Monitor
from blkiomon.interval.value import Interval

if TYPE_CHECKING:
    import numpy.typing as npt

WINDOW_NS = 60 * NS_PER_S
"""Length of the sliding window: a percentile is of the requests that completed in it."""

HANG_NS = NS_PER_S
"""A younger pending request does not count as hanging. Its completion may be read late: a pipe from
blktrace delivers one device and CPU after another."""

LEAST_REQUESTS = 100
"""A percentile needs this many requests, and enough that at least one is above it."""


class SlowBatch(NamedTuple):
    """Slow requests, in the order in which they were found.

    Attributes:
        requests: shape (n,), dtype ``layout.SLOW``.
        process_names: by pid, as far as the trace names them.
        zero_ns: add it to trace time, for ns since 1970 if ``anchored``, else since the first
            record.
        anchored: whether the time of day is known.
        left_out: how many more were left out because of the limit, up to trace time ``until_ns``.
    """

    requests: npt.NDArray[np.void]
    process_names: Mapping[int, str]
    zero_ns: int
    anchored: bool
    left_out: int = 0
    until_ns: int = 0


class SlowRequests:
    """Takes slow requests from an engine, and hands over a limited number a second.

    Args:
        monitor: made with ``keep_slow``.
        threshold_ns: longer requests are slow; None: see ``percent``.
        percent: requests above this percentile of the D2C of the last minute are slow. It is
            computed at the end of each interval, for the next; no request is slow before.
        limit: most requests to hand over in a second of trace time.
        put: called with each ``SlowBatch``.
    """

    def __init__(
        self,
        monitor: Monitor,
        threshold_ns: int | None,
        percent: float | None,
        limit: int,
        put: Callable[[SlowBatch], None],
    ) -> None:
        self._engine = monitor.engine
        self._threshold_ns = NEVER_NS if threshold_ns is None else threshold_ns
        self._recent = None if percent is None else SlidingPercentile(percent)
        self._limit = limit
        self._ops = [OPS.index(op) for op in monitor.ops]
        self._put = put
        self._second = -1  # of trace time, the latest with a slow request
        self._room = 0  # of the limit, in that second
        self._left_out = 0
        self._until_ns = 0
        self._engine.set_slow_ns(self._threshold_ns)

    @property
    def has_threshold(self) -> bool:
        """Whether a request can be slow: a percentile first has to be computed."""
        return self._threshold_ns != NEVER_NS

    @property
    def has_found(self) -> bool:
        """Whether a request was slow."""
        return self._second >= 0

    def take(self) -> None:
        """Hand over the requests that have completed."""
        self._deliver(self._engine.take_slow())

    def look(self, now_ns: int, *, has_ended: bool = False) -> None:
        """Hand over the requests that have completed, and those that hang.

        Args:
            now_ns: trace time of now.
            has_ended: the whole trace was read: every request that is pending for longer than the
                threshold hangs.
        """
        self.take()
        longer_than_ns = max(self._threshold_ns, 0 if has_ended else HANG_NS)
        # With selected operations, take all: the limit would also count the other operations.
        limit = self._engine.pending if self._ops else self._limit
        requests, more = self._engine.take_hanging(min(now_ns, NEVER_NS), longer_than_ns, limit)
        self._deliver(requests)
        self._left_out += more

    def end_interval(self, interval: Interval) -> None:
        """Report how many were left out, and compute the threshold for the next interval."""
        self.flush()
        if self._recent is not None:
            threshold_ns = self._recent.threshold_ns(interval)
            if threshold_ns is not None:
                self._threshold_ns = threshold_ns
                self._engine.set_slow_ns(threshold_ns)

    def flush(self) -> None:
        """Report how many were left out since this was last reported."""
        if self._left_out:
            self._hand_over(np.empty(0, layout.SLOW), self._left_out)
            self._left_out = 0

    def _deliver(self, requests: npt.NDArray[np.void]) -> None:
        """Hand over the first requests of each second, and count the others."""
        if self._ops:
            requests = requests[np.isin(requests["request"]["op"], self._ops)]
        seconds = requests["until_ns"] // np.uint64(NS_PER_S)
        ends = [*(np.flatnonzero(seconds[1:] != seconds[:-1]) + 1).tolist(), len(requests)]
        begin = 0
        for end in ends if len(requests) else ():
            if seconds[begin] > self._second:
                self.flush()
                self._second, self._room = int(seconds[begin]), self._limit
            shown = min(end - begin, self._room)
            if shown:
                self._hand_over(requests[begin : begin + shown])
            self._room -= shown
            self._left_out += end - begin - shown
            self._until_ns = int(requests["until_ns"][end - 1])
            begin = end

    def _hand_over(self, requests: npt.NDArray[np.void], left_out: int = 0) -> None:
        names = self._engine.process_names if len(requests) else {}
        pids = requests["request"]["pid"].tolist()
        epoch_ns = self._engine.epoch_ns
        self._put(
            SlowBatch(
                requests,
                {pid: names[pid] for pid in pids if pid in names},
                -(self._engine.first_ns or 0) if epoch_ns is None else epoch_ns,
                epoch_ns is not None,
                left_out,
                self._until_ns,
            )
        )


class SlidingPercentile:
    """A percentile of the D2C of all requests in the last minute: a sliding window of histograms.

    Args:
        percent: more than 0, less than 100.
    """

    def __init__(self, percent: float) -> None:
        self._percent = percent
        from fractions import Fraction  # slow to import

        above = 1 - Fraction(str(percent)) / 100
        self._least = max(LEAST_REQUESTS, math.ceil(1 / above))
        self._counts = np.zeros(N_BINS, np.uint64)
        self._parts: deque[tuple[int, npt.NDArray[np.void]]] = deque()
        self._now_ns = 0

    def threshold_ns(self, interval: Interval) -> int | None:
        """Add an interval; returns the percentile in ns, or None if the requests are too few."""
        self._now_ns += interval.end_ns - interval.start_ns
        bins = interval.snapshot.d2c_bins
        if len(bins):
            np.add.at(self._counts, bins["bin"], bins["count"])
            self._parts.append((self._now_ns, bins))
        while self._parts and self._parts[0][0] <= self._now_ns - WINDOW_NS:
            _, old = self._parts.popleft()
            np.subtract.at(self._counts, old["bin"], old["count"])
        if self._counts.sum() < self._least:
            return None
        filled = np.flatnonzero(self._counts).astype(np.uint32)
        low, high = bin_bounds(filled)
        whole = Histograms(filled, self._counts[filled], np.array([0, len(filled)]))
        return int(whole.percentiles(low[:1], high[-1:], [self._percent])[0, 0])
