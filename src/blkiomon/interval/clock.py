"""When an interval ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class WallClock:
    """Boundaries at start + k * interval of real time.

    The schedule runs on the monotonic clock, so that setting the time of day neither stretches nor
    skips an interval; only the times that are printed come from the time of day. Boundaries that
    passed unnoticed (a suspended machine, a stopped process) are not made up for.

    Args:
        interval_s: seconds between boundaries, > 0.
        monotonic: seconds on a clock that never runs backwards.
        time_of_day: seconds since 1970.
    """

    def __init__(
        self,
        interval_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        self._interval_s = interval_s
        self._monotonic = monotonic
        self._time_of_day = time_of_day
        self._start = monotonic()
        self._next = 1

    def remaining_s(self) -> float:
        """Seconds until the next boundary; 0 or less when it is due."""
        return self._start + self._next * self._interval_s - self._monotonic()

    def advance(self) -> None:
        """The boundary has been dealt with: look forward to the one that comes next from now."""
        passed = math.floor((self._monotonic() - self._start) / self._interval_s)
        self._next = max(self._next, passed) + 1

    def time_ns(self) -> int:
        """The time of day, ns since 1970."""
        return int(self._time_of_day() * 1e9)
