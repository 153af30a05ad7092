"""Whether a pipe brings a live trace or one that was recorded before.

What was recorded comes faster than it happened, at any time, and long after it. A live trace comes
as it happens; but at its beginning a backlog may come at once, when the tracer was first, or while
this process was stopped. So both begin with records whose times run ahead of the clock, and what
comes next tells them apart: behind a backlog, times run as fast as the clock, and are the present.

The beginning of the stream is held until that has been seen, and nothing of it is counted before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from blkiomon._core import Engine

HELD_BYTES = 1 << 25
"""So much is held at most, and then decided."""

LEAST_S, HELD_S = 0.25, 5.0
"""So long at least, and at most; in between until the interval ends."""

NEAR_S = 10.0
"""Records that are no older are the present: it is a live trace."""

OLD_S = 60.0
"""A stream that has ended with records that are older was recorded."""

BURST_S = 1.0
"""A tracer hands over what it has collected for so long at once."""

BACKLOG_S = 600.0
"""What waited before the stream was first read is no older."""

NOTIFY = 1 << 26
"""Category of an action: notes, whose times need not be those of what happened."""


class Seen(NamedTuple):
    """What was known at a moment."""

    elapsed_s: float  # since the stream began to be read
    span_s: float  # of the records' times
    held_bytes: int


class Beginning:
    """The beginning of a stream, held until it is known what it is.

    Args:
        monotonic: seconds on the clock by which records have their times, if they are of this host.
        time_of_day: seconds since 1970.

    Attributes:
        pieces: what is held.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        self.pieces: list[bytes] = []
        self._monotonic = monotonic
        self._time_of_day = time_of_day
        self._probe = Engine(keep_records=True, resync=True)
        self._begun_s = 0.0
        self._held_bytes = 0
        self._first_ns = self._last_ns = 0
        self._has_times = False
        self._seen: list[Seen] = []

    def add(self, data: memoryview) -> None:
        """Hold the next bytes."""
        if not self.pieces:
            self._begun_s = self._monotonic()
        self.pieces.append(bytes(data))
        self._held_bytes += len(data)
        self._probe.feed(data)
        records = self._probe.take_records()
        times = records["time_ns"][records["action"] & NOTIFY == 0]
        if len(times):
            first_ns, last_ns = int(times.min()), int(times.max())
            if self._has_times:
                first_ns, last_ns = min(first_ns, self._first_ns), max(last_ns, self._last_ns)
            self._first_ns, self._last_ns = first_ns, last_ns
            self._has_times = True
        self._seen.append(self._now())

    def wait_s(self, left_s: float) -> float:
        """Seconds until it has to be decided.

        Args:
            left_s: seconds until the interval ends.
        """
        now = self._now()
        if now.held_bytes >= HELD_BYTES:
            return 0.0
        return min(max(left_s, LEAST_S - now.elapsed_s), HELD_S - now.elapsed_s)

    def is_recorded(self, *, has_ended: bool) -> bool:
        """Decide. ``has_ended``: that was all."""
        if not self._has_times:
            return False
        now = self._now()
        age_s = self._age_s()
        if has_ended:
            # All of it came much faster than it happened, or long after. A live trace that ends so
            # soon may have had a backlog; its own clock is right for that, too.
            is_fast = now.span_s > 5 * now.elapsed_s + 0.05
            return is_fast or (age_s is not None and age_s > OLD_S)
        # Its latest record is the present: by its time of day, or by this host's own clock.
        if age_s is not None and abs(age_s) <= NEAR_S:
            return False
        if abs(self._monotonic() - self._last_ns / 1e9) <= NEAR_S:
            return False
        # Else it may be of a host whose clock is wrong, or tell no time of day. Then it counts
        # how far its times are ahead, and whether they still run faster, behind any backlog.
        ahead_s = now.span_s - now.elapsed_s
        half = self._half(now)
        span_s, elapsed_s = now.span_s - half.span_s, now.elapsed_s - half.elapsed_s
        if ahead_s > BACKLOG_S or span_s > 2 * elapsed_s + BURST_S:
            return True
        # Of a trace of very many records, few seconds fit into what is held.
        is_old = age_s is not None and age_s > BACKLOG_S
        return is_old and (span_s > 1.5 * elapsed_s or ahead_s > OLD_S)

    def _now(self) -> Seen:
        span_s = (self._last_ns - self._first_ns) / 1e9
        return Seen(self._monotonic() - self._begun_s, span_s, self._held_bytes)

    def _age_s(self) -> float | None:
        """Seconds since the latest record, by the time of day; None where that is not known."""
        epoch_ns = self._probe.epoch_ns
        if epoch_ns is None:
            return None
        return self._time_of_day() - (self._last_ns + epoch_ns) / 1e9

    def _half(self, now: Seen) -> Seen:
        """What was known half way: of the time, or of the bytes where these came at once."""
        if now.held_bytes >= HELD_BYTES:
            return next(s for s in self._seen if 2 * s.held_bytes >= now.held_bytes)
        # The first has been seen at the beginning.
        before = [s for s in self._seen if 2 * s.elapsed_s <= now.elapsed_s] or self._seen[:1]
        return before[-1]._replace(elapsed_s=now.elapsed_s / 2)
