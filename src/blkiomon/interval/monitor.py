"""Monitor: feeds bytes to the engine and decides when each interval ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import index
from typing import TYPE_CHECKING, Any

from blkiomon._core import Engine
from blkiomon.engine.snapshot import Snapshot
from blkiomon.errors import TraceError
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.value import Counts, Interval, in_order

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

RECORDS_PER_SNAPSHOT = 1 << 31
"""The engine counts each histogram bin in 32 bits: a longer interval is merged from snapshots."""

MOST_IDLE = 100_000
"""Intervals in a row without a record. Where time jumps further, they are left out."""

MOST_IDLE_IN_ALL = 3 * MOST_IDLE
IDLE_A_RECORD = 10
"""Limit of idle intervals in all, and how much each record adds to it: time may jump repeatedly."""

PENDING_AN_IDLE = 1000
"""Ending an interval takes longer with more pending records: so many weigh as one more interval."""

PROBE_BYTES = 1 << 20
"""Where limits are times of day, a timestamp record must be in the first bytes of the trace."""

MAX_AGE_S = 600.0
"""Default age at which a pending issue or completion is given up."""

NS_PER_S = 10**9
NEVER_NS = (1 << 64) - 1
NO_END_NS = 1 << 64  # later than any record


class Monitor:
    """Turns a stream of bytes into intervals.

    With the trace clock, intervals end by the records' own time: at the first record that is at or
    after ``first record + k * interval``. The same bytes give the same intervals, in pieces of any
    size. With the wall clock, the caller ends each interval with ``cut``.

    Args:
        interval_s: length of an interval by the trace clock, in s; None: one interval of all.
        clock: "trace" or "wall".
        max_pending, max_age_s, max_devices, resync, devices, threads: as for ``Engine``.
        from_ns, to_ns: only records in [from, to) count, in ns: since 1970 if ``is_absolute``,
            else since the first record.
        most_intervals: bounds the number of intervals: their length doubles before there would be
            one more. Merge intervals that were handed out before in pairs to follow.
        hand_over: takes each interval of the trace clock as soon as it has ended, which then is
            not returned: a few bytes may end very many.
        keep: further arguments for ``Engine``.

    Attributes:
        engine: the ``Engine``.
        interval_ns: length of an interval now; None: one interval of all.
        origin_ns: trace time of the first record that is no note; None before it.
        is_done: all records up to ``to_ns`` were read; further bytes are ignored.
        missing_files: files of the trace that are missing, for the intervals to report. Set it
            after opening the trace.
        skipped_intervals: idle intervals that were left out because time jumped.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        interval_s: float | None = None,
        *,
        clock: str = "trace",
        max_pending: int = 1_000_000,
        max_age_s: float = MAX_AGE_S,
        max_devices: int = 65_536,
        resync: bool = False,
        devices: Iterable[int] = (),
        from_ns: int | None = None,
        to_ns: int | None = None,
        is_absolute: bool = False,
        threads: int = 1,
        most_intervals: int | None = None,
        hand_over: Callable[[Interval], None] | None = None,
        **keep: bool,
    ) -> None:
        if clock not in ("trace", "wall"):
            raise ValueError(f'clock must be "trace" or "wall", not {clock!r}')
        if interval_s is not None and not 1e-9 <= interval_s <= 1e9:
            raise ValueError(f"interval_s must be from 1e-9 to 1e9, not {interval_s}")
        self._options: dict[str, Any] = {
            "max_pending": max_pending,
            "max_age_ns": age_ns(max_age_s),
            "max_devices": max_devices,
            "resync": resync,
        }
        self._clock = clock
        self._from_ns = from_ns
        self._to_ns = to_ns
        self._has_limits = from_ns is not None or to_ns is not None
        self._limits_zero_ns: int | None = None  # trace time that from and to count from
        self._probe: Engine | None = None  # looks for the time of day
        if self._has_limits and is_absolute:
            self._probe = Engine(**self._options | {"resync": True})
        self._probed = bytearray()  # what the probe has read and the engine has not
        self.engine = Engine(
            **self._options,
            **keep,
            devices=device_set(devices),
            threads=threads,
            from_ns=NEVER_NS if from_ns else 0,
        )
        self.interval_ns = None if interval_s is None else round(interval_s * NS_PER_S)
        self.origin_ns: int | None = None
        self.is_done = False
        self.skipped_intervals = 0
        self.missing_files = 0
        self._ready: list[Interval] = []
        self._hand_over = hand_over or self._ready.append
        self._most_intervals = most_intervals
        self._idle = 0  # idle intervals so far, by their weight
        self._snapshots: list[Snapshot] = []  # of the current interval
        self._snapshot_records = 0  # read before the latest snapshot
        self._counts = Counts()  # at the end of the previous interval
        self._outside = Counts()
        self._first_start_ns = 0  # trace time at which the first interval begins
        self._start_ns = 0  # trace time at which the current interval begins
        self._is_before = False  # the next record is before from_ns
        self._last_ns = NO_END_NS  # to_ns as trace time
        self._epoch_ns: int | None = None  # decided with the first interval
        self._has_decided = False

    def choose_clock(self, clock: str) -> None:
        """Change the clock, "trace" or "wall"; only before the first bytes."""
        self._clock = clock

    def feed(self, data: ReadableBuffer) -> list[Interval]:
        """Take the next bytes of a stream, a piece of any size; return the intervals they end.

        Raises:
            TraceError: the bytes are not a trace. What came before counts; see ``take``.
            MemoryError: the engine cannot allocate.
        """
        rest = memoryview(data).cast("B")
        if self._probe is not None and not self.is_done:
            self._probed += rest
            if not self._find_time_of_day(self._probe, len(rest)):
                return []
            rest = memoryview(self._probed)
            self._probed = bytearray()
        while not self.is_done:
            rest = rest[self.engine.feed(rest, self._until_ns(), wait=False) :]
            if self.engine.records - self._snapshot_records >= RECORDS_PER_SNAPSHOT:
                self._take_snapshot(None)
            later_ns = self.engine.stopped_at_ns
            if later_ns is None:
                break
            self._go_on_to(later_ns)
        return self.take()

    def cut(self, start_ns: int, end_ns: int, idle_ns: int = 0) -> Interval:
        """End an interval by the wall clock.

        Args:
            start_ns, end_ns: when it began and ends, ns since 1970.
            idle_ns: how long ago the latest data came, for the age of requests in flight.
        """
        now_ns = self.engine.now_ns
        self._take_snapshot(min(now_ns + idle_ns, NEVER_NS) if now_ns else None)
        return self._finished(end_ns // NS_PER_S, start_ns, end_ns, anchored=True)

    def finish(self, *, is_complete: bool = True, final: bool = True) -> list[Interval]:
        """End the stream; return the last interval, which ends with the latest record.

        With the wall clock, ``cut`` returns the last interval.

        Args:
            is_complete: the stream was read to its end.
            final: whether the last, partial interval is wanted.

        Raises:
            TraceError: the stream ended inside a record; ``take`` has the last interval.
        """
        try:
            if is_complete and not self.is_done:
                if self._probe is not None:
                    self._fail_without_time_of_day()
                self.engine.finish()
        finally:
            if self._is_before:
                self._counts = self.totals
            if final and self._clock == "trace":
                end_ns = max(self.engine.now_ns, self._start_ns)
                if self.is_done:
                    end_ns = max(self._last_ns, self._start_ns)
                has_records = self.totals.records > self._counts.records
                if has_records or end_ns > self._start_ns or not self._has_decided:
                    self._end_at(end_ns)
        return self.take()

    def take(self) -> list[Interval]:
        """The intervals that have ended since the last call."""
        ready = self._ready.copy()
        self._ready.clear()
        return ready

    def count_outside(self, lost: int, skipped_bytes: int) -> None:
        """Set the totals of events lost and bytes skipped before the stream came here."""
        if (lost, skipped_bytes) != (self._outside.lost_events, self._outside.skipped_bytes):
            self._outside = Counts(lost_events=lost, skipped_bytes=skipped_bytes)

    @property
    def totals(self) -> Counts:
        """Counts of all records so far."""
        return Counts(**self.engine.counters()) + self._outside

    def anchor(self, interval: Interval) -> Interval:
        """One of this monitor's intervals by the time of day, if the stream has it by now.

        ``_end_at`` decides with the first interval, so that all are alike; a timestamp record may
        come later. For the trace clock.
        """
        epoch_ns = self.engine.epoch_ns
        if interval.anchored or epoch_ns is None:
            return interval
        shift_ns = (self.origin_ns or 0) + epoch_ns
        end_ns = interval.end_ns + shift_ns
        return replace(
            interval,
            time_s=end_ns // NS_PER_S,
            start_ns=interval.start_ns + shift_ns,
            end_ns=end_ns,
            anchored=True,
            named_ns={pid: time_ns + shift_ns for pid, time_ns in interval.named_ns.items()},
        )

    # --- the trace clock --------------------------------------------------------------------------

    def _until_ns(self) -> int | None:
        """Trace time at which feed() has to stop next; it begins by stopping at the first record.

        None: nowhere.
        """
        if self.origin_ns is None:
            return 1 if self._clock == "trace" or self._has_limits else None
        until_ns = self._last_ns
        if self._is_before:
            until_ns = min(until_ns, self._start_ns)
        elif self.interval_ns is not None and self._clock == "trace":
            until_ns = min(until_ns, self._next_start_ns(self.interval_ns))
        return until_ns if until_ns < NO_END_NS else None

    def _go_on_to(self, later_ns: int) -> None:
        """End what ends before the next record, which is at or after ``_until_ns``."""
        if self.origin_ns is None:
            # The engine cannot stop at a record at time 0: it has been read by now.
            first_ns = self.engine.first_ns
            self.origin_ns = later_ns if first_ns is None else first_ns
            self._set_limits(self.origin_ns)
            return
        if self._is_before:
            # Events lost before from_ns do not count.
            self._is_before = False
            self._counts = self.totals
        if self.interval_ns is not None and self._clock == "trace":
            self._end_up_to(min(later_ns, self._last_ns), self.interval_ns)
        if later_ns >= self._last_ns:
            self.is_done = True

    def _next_start_ns(self, interval_ns: int) -> int:
        """Trace time at which the current interval ends: a whole number of them from the first."""
        passed_ns = (self._start_ns - self._first_start_ns) % interval_ns
        return self._start_ns - passed_ns + interval_ns

    def _end_up_to(self, time_ns: int, interval_ns: int) -> None:
        """End the current interval, if it ends by then, and all that follow without a record."""
        if self._most_intervals is not None:
            while (time_ns - self._first_start_ns) // interval_ns >= self._most_intervals:
                interval_ns *= 2
            self.interval_ns = interval_ns
        if time_ns < self._next_start_ns(interval_ns):
            return
        self._end_at(self._next_start_ns(interval_ns))
        idle = (time_ns - self._start_ns) // interval_ns
        if self._most_intervals is None:
            weight = idle * (1 + self.engine.pending // PENDING_AN_IDLE)
            allowed = MOST_IDLE_IN_ALL + IDLE_A_RECORD * self.totals.records - self._idle
            if weight > min(allowed, MOST_IDLE):
                self.skipped_intervals += idle
                self._start_ns += idle * interval_ns
                return
            self._idle += weight
        for _ in range(idle):
            self._end_at(self._start_ns + interval_ns)

    def _find_time_of_day(self, probe: Engine, n_bytes: int) -> bool:
        """Whether the time of day is known from what was probed, of which the last bytes are new.

        Raises:
            TraceError: it is not in the first ``PROBE_BYTES``.
        """
        begin = len(self._probed) - n_bytes
        with memoryview(self._probed) as probed:
            probe.feed(probed[begin : max(begin, PROBE_BYTES)])
        if probe.epoch_ns is None:
            if len(self._probed) < PROBE_BYTES:
                return False
            self._fail_without_time_of_day()
        else:
            self._limits_zero_ns = -probe.epoch_ns
            if self._from_ns is not None:
                from_ns = self._limits_zero_ns + self._from_ns
                self.engine.set_from_ns(min(max(0, from_ns), NEVER_NS))
        self._probe = None
        return True

    def _fail_without_time_of_day(self) -> None:
        """Raise TraceError: the bytes are not a trace, or no timestamp record is in them."""
        self._probe = None
        self.engine.set_from_ns(NEVER_NS)
        self.engine.feed(self._probed)
        self._probed = bytearray()
        raise TraceError(
            0,
            "no time of day at the beginning of the trace",
            "a timestamp record; give times in seconds from the first record instead",
        )

    def _set_limits(self, origin_ns: int) -> None:
        """Turn from and to into trace time: the time of the first record is known now."""
        zero_ns = origin_ns if self._limits_zero_ns is None else self._limits_zero_ns
        self._start_ns = origin_ns
        if self._to_ns is not None:
            self._last_ns = min(max(zero_ns + self._to_ns, 1), NO_END_NS)
        if self._from_ns is not None:
            self._start_ns = min(max(origin_ns, zero_ns + self._from_ns), NEVER_NS)
            self.engine.set_from_ns(self._start_ns)
            self._is_before = self._start_ns > origin_ns
        self._first_start_ns = self._start_ns

    def _end_at(self, end_ns: int) -> None:
        """End the current interval at a trace time; the next begins there."""
        self._take_snapshot(end_ns)
        if not self._has_decided:
            self._epoch_ns = self.engine.epoch_ns
            self._has_decided = True
        zero_ns = (self.origin_ns or 0) if self._epoch_ns is None else -self._epoch_ns
        interval = self._finished(
            (end_ns - zero_ns) // NS_PER_S,
            self._start_ns - zero_ns,
            end_ns - zero_ns,
            anchored=self._epoch_ns is not None,
        )
        self._start_ns = end_ns
        self._hand_over(interval)

    # --- both clocks ------------------------------------------------------------------------------

    def _take_snapshot(self, end_ns: int | None) -> None:
        self._snapshots.append(self.engine.snapshot(end_ns))
        self._snapshot_records = self.engine.records

    def _finished(self, time_s: int, start_ns: int, end_ns: int, *, anchored: bool) -> Interval:
        parts = self._snapshots
        snapshot = parts[0] if len(parts) == 1 else merge_snapshots(parts)
        parts.clear()
        totals = self.totals
        pids = snapshot.processes["pid"].tolist()
        names = self.engine.process_names if pids else {}
        interval = Interval(
            time_s=time_s,
            devices=in_order(snapshot.rows["device"]),
            snapshot=snapshot,
            counts=totals - self._counts,
            start_ns=start_ns,
            end_ns=end_ns,
            clock=self._clock,
            anchored=anchored,
            process_names={pid: names[pid] for pid in pids if pid in names},
            missing_files=self.missing_files,
        )
        self._counts = totals
        return interval


def age_ns(max_age_s: float) -> int:
    """An age in ns, for ``Engine``. Raises ValueError: it is out of range."""
    if not 0 <= max_age_s * NS_PER_S < 1 << 64:
        raise ValueError(f"max_age_s must be from 0 to 1.8e10, not {max_age_s}")
    return round(max_age_s * NS_PER_S)


def device_set(devices: Iterable[int]) -> frozenset[int]:
    """Device numbers, for ``Engine``. Raises ValueError: one is out of range."""
    numbers = frozenset(map(index, devices))
    for number in numbers:
        if not 0 <= number < 1 << 32:
            raise ValueError(f"a device number is from 0 to 2^32-1, not {number}")
    return numbers
