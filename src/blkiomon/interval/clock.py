"""The wall clock: when intervals of real time end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class WallClock:
    """Interval boundaries at start + k * interval of real time.

    The schedule follows the monotonic clock: setting the time of day neither stretches nor skips an
    interval. The time of day only supplies the times that are printed. Boundaries that passed while
    the process did not run (SIGSTOP) are skipped. While the machine is suspended, this clock stands
    still.

    Args:
        interval_s: seconds between boundaries, > 0.
        monotonic: returns seconds on a clock that never runs backwards.
        time_of_day: returns seconds since 1970.
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
        """Seconds until the next boundary; 0 or less once it is due."""
        return self._start + self._next * self._interval_s - self._monotonic()

    def advance(self) -> None:
        """Move to the first boundary in the future."""
        passed = math.floor((self._monotonic() - self._start) / self._interval_s)
        self._next = max(self._next, passed) + 1

    def time_ns(self) -> int:
        """The time of day, ns since 1970."""
        return int(self._time_of_day() * 1e9)
