"""Decides whether the trace in a pipe is live or was recorded before.

A recorded trace arrives faster than it happened, and may arrive long after. A live trace arrives as
it happens, but may begin with a backlog, if the tracer started before this process did. So the
times of both may run ahead of the clock at first. After a backlog, the times of a live trace run as
fast as the clock, and are close to the present. Where the pipe of a recorded trace stays open, its
age tells, or how fast it came.

The beginning of the stream is held back until the decision; nothing of it is counted before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from blkiomon._core import Engine
from blkiomon.engine.constants import NOTIFY

HELD_BYTES = 1 << 25
"""The decision is due when so much is held back."""

LEAST_S, HELD_S = 0.25, 5.0
"""Hold the stream back until the interval ends, but at least and at most this long."""

NEAR_S = 10.0
"""If the latest record is at most so old, the trace is live."""

OLD_S = 60.0
"""If the stream has ended and its latest record is older, the trace was recorded."""

BURST_S = 1.0
"""A tracer may deliver the records of so long a time at once."""

BACKLOG_S = 600.0
"""A backlog covers at most so long a time."""


class Seen(NamedTuple):
    """What was known at one moment."""

    elapsed_s: float  # since the stream began to be read
    span_s: float  # of the records' times
    held_bytes: int


class Beginning:
    """The beginning of a stream, held back until the decision.

    Args:
        monotonic: seconds on the clock of this host's records.
        time_of_day: seconds since 1970.

    Attributes:
        pieces: the bytes that are held back.
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
        """Hold back the next bytes."""
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
        """Seconds until the decision is due.

        Args:
            left_s: seconds until the interval ends.
        """
        now = self._now()
        if now.held_bytes >= HELD_BYTES:
            return 0.0
        return min(max(left_s, LEAST_S - now.elapsed_s), HELD_S - now.elapsed_s)

    def is_recorded(self, *, has_ended: bool) -> bool:
        """The decision. ``has_ended``: the stream has ended."""
        if not self._has_times:
            return False
        now = self._now()
        age_s = self._age_s()
        # It came faster than a tracer delivers what happens, even if the pipe then stayed open.
        came_at_once = now.span_s > 5 * self._seen[-1].elapsed_s + BURST_S
        if has_ended:
            # It came much faster than it happened, or long after. This may also be a live trace
            # with a backlog that ends soon: ending intervals by its own clock is right for it, too.
            is_fast = now.span_s > 5 * now.elapsed_s + 0.05
            return is_fast or came_at_once or (age_s is not None and age_s > OLD_S)
        # The latest record is recent, by its time of day or by this host's monotonic clock.
        if age_s is not None and abs(age_s) <= NEAR_S:
            return False
        ago_s = abs(self._monotonic() - self._last_ns / 1e9)
        if ago_s <= NEAR_S:
            return False
        # Otherwise the clock of its host may be wrong, or the trace has no time of day. Then check
        # how far its times are ahead, and whether they still run faster after any backlog.
        ahead_s = now.span_s - now.elapsed_s
        half = self._half(now)
        span_s, elapsed_s = now.span_s - half.span_s, now.elapsed_s - half.elapsed_s
        if ahead_s > BACKLOG_S or span_s > 2 * elapsed_s + BURST_S:
            return True
        is_old = age_s is not None and age_s > BACKLOG_S
        if now.held_bytes == half.held_bytes:
            # Nothing follows: a live trace is idle, and its latest record no older than a backlog.
            # Without the time of day, another host's clock looks as wrong as that of a recorded
            # trace; then it also has to be faster than live.
            return is_old or (age_s is None and ago_s > BACKLOG_S and came_at_once)
        # At a very high record rate, only few seconds are held back: smaller leads decide, too.
        return is_old and (span_s > 1.5 * elapsed_s or ahead_s > OLD_S)

    def _now(self) -> Seen:
        span_s = (self._last_ns - self._first_ns) / 1e9
        return Seen(self._monotonic() - self._begun_s, span_s, self._held_bytes)

    def _age_s(self) -> float | None:
        """Seconds since the latest record by the time of day; None if the trace has none."""
        epoch_ns = self._probe.epoch_ns
        if epoch_ns is None:
            return None
        return self._time_of_day() - (self._last_ns + epoch_ns) / 1e9

    def _half(self, now: Seen) -> Seen:
        """What was known after half of the time, or half of the bytes if these came at once."""
        if now.held_bytes >= HELD_BYTES:
            return next(s for s in self._seen if 2 * s.held_bytes >= now.held_bytes)
        # The first piece starts the clock: it counts as seen in the first half.
        before = [s for s in self._seen if 2 * s.elapsed_s <= now.elapsed_s] or self._seen[:1]
        return before[-1]._replace(elapsed_s=now.elapsed_s / 2)
