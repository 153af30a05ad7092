"""Bytes in, intervals out: the engine, and when an interval ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import index
from typing import TYPE_CHECKING, Any

from blkiomon._core import Engine
from blkiomon.engine.snapshot import Snapshot
from blkiomon.errors import TraceError
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.value import Counts, Interval, in_order

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

RECORDS_A_CUT = 1 << 31
"""The engine counts in 32 bits what falls into one bin: a longer interval is put together."""

MOST_IDLE = 100_000
"""Intervals in a row without a record. Where time jumps further, they are left out."""

MOST_IDLE_IN_ALL = 3 * MOST_IDLE
IDLE_A_RECORD = 10
"""Such intervals in all, and how many more every record allows: times may jump again and again."""

PENDING_AN_IDLE = 1000
"""To end an interval takes longer, the more is pending: so much counts as one more."""

PROBE_BYTES = 1 << 20
"""A timestamp record is looked for in so much of a trace, where limits are times of day."""

MAX_AGE_S = 600.0
"""A request that takes longer is not found, unless told otherwise."""

NS_PER_S = 10**9
NEVER_NS = (1 << 64) - 1
NO_END_NS = 1 << 64  # later than any record


class Monitor:
    """The straight line from bytes to intervals, for a program that has the bytes.

    By the trace clock, intervals end by the records' own time: at the first record that is at or
    after ``first record + k * interval``. The same bytes give the same intervals, however they are
    cut into pieces. By the wall clock, the caller says when: with ``cut``.

    Args:
        interval_s: seconds of an interval by the trace clock; None: all is one interval.
        clock: "trace" or "wall".
        max_pending, max_age_s, max_devices, resync, devices, threads: as for ``Engine``.
        from_ns, to_ns: only records in [from, to) count, in ns: since 1970 if ``is_absolute``,
            else since the first record.
        hand_over: takes each interval of trace time as soon as it has ended, which then is not
            returned: there may be very many in a few bytes.
        keep: further arguments for ``Engine``.

    Attributes:
        engine: the ``Engine``.
        is_done: all up to ``to_ns`` has been seen; what is fed further is ignored.
        missing_files: of the trace, to be set by who opens it: intervals say so.
        skipped_intervals: how many idle ones were left out where time jumped.

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
        self._interval_ns = None if interval_s is None else round(interval_s * NS_PER_S)
        self._from_ns = from_ns
        self._to_ns = to_ns
        self._has_limits = from_ns is not None or to_ns is not None
        self._base_ns: int | None = None  # trace time that from and to count from
        self._probe: Engine | None = None  # looks for the time of day
        if self._has_limits and is_absolute:
            self._probe = Engine(**self._options | {"resync": True})
        self._held = bytearray()  # what it has seen
        self.engine = Engine(
            **self._options,
            **keep,
            devices=device_set(devices),
            threads=threads,
            from_ns=NEVER_NS if from_ns else 0,
        )
        self.is_done = False
        self.skipped_intervals = 0
        self.missing_files = 0
        self._ready: list[Interval] = []
        self._hand_over = hand_over or self._ready.append
        self._idle = 0  # intervals without a record so far, by their weight
        self._cuts: list[Snapshot] = []  # of the interval at hand
        self._records_cut = 0
        self._counts = Counts()  # up to the last cut
        self._outside = Counts()
        self._origin_ns: int | None = None  # trace time of the first record
        self._start_ns = 0  # trace time of the interval at hand
        self._is_before = False  # what comes is not wanted yet
        self._last_ns = NO_END_NS  # trace time where the user wants no more
        self._epoch_ns: int | None = None  # decided with the first interval
        self._has_decided = False

    def choose_clock(self, clock: str) -> None:
        """Go by another clock, "trace" or "wall"; before the first bytes alone."""
        self._clock = clock

    def feed(self, data: ReadableBuffer) -> list[Interval]:
        """Take the next bytes of a stream, cut anywhere; hand out the intervals that they end.

        Raises:
            TraceError: they are no trace. What came before counts; see ``take``.
            MemoryError: there was no room for more.
        """
        rest = memoryview(data).cast("B")
        if self._probe is not None and not self.is_done:
            self._held += rest
            if not self._find_time_of_day(self._probe, len(rest)):
                return []
            rest = memoryview(self._held)
            self._held = bytearray()
        while not self.is_done:
            rest = rest[self.engine.feed(rest, self._until_ns(), wait=False) :]
            if self.engine.records - self._records_cut >= RECORDS_A_CUT:
                self._cut_engine(None)
            later_ns = self.engine.stopped_at_ns
            if later_ns is None:
                break
            self._go_on_to(later_ns)
        return self.take()

    def cut(self, start_ns: int, end_ns: int, idle_ns: int = 0) -> Interval:
        """End an interval by the wall clock.

        Args:
            start_ns, end_ns: when it began and ends, ns since 1970.
            idle_ns: how long ago the latest data came, for what is in flight.
        """
        now_ns = self.engine.now_ns
        self._cut_engine(min(now_ns + idle_ns, NEVER_NS) if now_ns else None)
        return self._finished(end_ns // NS_PER_S, start_ns, end_ns, anchored=True)

    def finish(self, *, is_complete: bool = True, final: bool = True) -> list[Interval]:
        """End the stream: hand out the last interval, which ends with the latest record.

        By the wall clock, ``cut`` does that.

        Args:
            is_complete: the stream has ended, and has not been left.
            final: with the last, partial interval.

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
                    self._cut_trace(end_ns)
        return self.take()

    def take(self) -> list[Interval]:
        """The intervals that have ended since they were last handed out."""
        ready = self._ready.copy()
        self._ready.clear()
        return ready

    def count_outside(self, lost: int, skipped_bytes: int) -> None:
        """What was lost and skipped, in all, before the bytes came here."""
        if (lost, skipped_bytes) != (self._outside.lost_events, self._outside.skipped_bytes):
            self._outside = Counts(lost_events=lost, skipped_bytes=skipped_bytes)

    @property
    def totals(self) -> Counts:
        """What became of all records so far."""
        return Counts(**self.engine.counters()) + self._outside

    # --- trace time -------------------------------------------------------------------------------

    def _until_ns(self) -> int | None:
        """Where feed() has to stop next; the first record's time must be known before all else."""
        if self._origin_ns is None:
            return 1 if self._clock == "trace" or self._has_limits else None
        until_ns = self._last_ns
        if self._is_before:
            until_ns = min(until_ns, self._start_ns)
        elif self._interval_ns is not None and self._clock == "trace":
            until_ns = min(until_ns, self._start_ns + self._interval_ns)
        return until_ns if until_ns < NO_END_NS else None

    def _go_on_to(self, later_ns: int) -> None:
        """The next record is at or after a limit: deal with that."""
        if self._origin_ns is None:
            # Records at time 0 cannot be stopped at: they have been read by now.
            first_ns = self.engine.first_ns
            self._origin_ns = self._start_ns = later_ns if first_ns is None else first_ns
            self._set_limits(self._origin_ns)
            return
        if self._is_before:
            # What was lost, or no records, before that is nobody's concern.
            self._is_before = False
            self._counts = self.totals
        if self._interval_ns is not None and self._clock == "trace":
            self._cut_up_to(min(later_ns, self._last_ns), self._interval_ns)
        if later_ns >= self._last_ns:
            self.is_done = True

    def _cut_up_to(self, time_ns: int, interval_ns: int) -> None:
        """End the interval at hand, if it ends by then, and all that follow without a record."""
        passed = (time_ns - self._start_ns) // interval_ns
        if passed < 1:
            return
        self._cut_trace(self._start_ns + interval_ns)
        idle = passed - 1
        weight = idle * (1 + self.engine.pending // PENDING_AN_IDLE)
        allowed = MOST_IDLE_IN_ALL + IDLE_A_RECORD * self.totals.records - self._idle
        if weight > min(allowed, MOST_IDLE):
            self.skipped_intervals += idle
            self._start_ns += idle * interval_ns
            return
        self._idle += weight
        for _ in range(idle):
            self._cut_trace(self._start_ns + interval_ns)

    def _find_time_of_day(self, probe: Engine, n_bytes: int) -> bool:
        """Whether the time of day is known, by what is held, of which the latest bytes are new.

        Raises:
            TraceError: it is not to be found.
        """
        begin = len(self._held) - n_bytes
        with memoryview(self._held) as held:
            probe.feed(held[begin : max(begin, PROBE_BYTES)])
        if probe.epoch_ns is None:
            if len(self._held) < PROBE_BYTES:
                return False
            self._fail_without_time_of_day()
        else:
            self._base_ns = -probe.epoch_ns
            if self._from_ns is not None:
                self.engine.set_from_ns(min(max(0, self._base_ns + self._from_ns), NEVER_NS))
        self._probe = None
        return True

    def _fail_without_time_of_day(self) -> None:
        """The probe has failed. Raises TraceError: for that, or as the bytes are no trace."""
        self._probe = None
        self.engine.set_from_ns(NEVER_NS)
        self.engine.feed(self._held)
        self._held = bytearray()
        raise TraceError(
            0,
            "no time of day at the beginning of the trace",
            "a timestamp record; give times in seconds from the first record instead",
        )

    def _set_limits(self, origin_ns: int) -> None:
        """Turn from and to into trace time, now that the first record's is known."""
        base_ns = origin_ns if self._base_ns is None else self._base_ns
        if self._to_ns is not None:
            self._last_ns = min(max(base_ns + self._to_ns, 1), NO_END_NS)
        if self._from_ns is not None:
            self._start_ns = min(max(origin_ns, base_ns + self._from_ns), NEVER_NS)
            self.engine.set_from_ns(self._start_ns)
            self._is_before = self._start_ns > origin_ns

    def _cut_trace(self, end_ns: int) -> None:
        """End an interval at a trace time; the next begins there."""
        self._cut_engine(end_ns)
        if not self._has_decided:
            self._epoch_ns = self.engine.epoch_ns
            self._has_decided = True
        if self._epoch_ns is not None:
            zero_ns = -self._epoch_ns
        else:
            zero_ns = self._origin_ns or 0
        interval = self._finished(
            (end_ns - zero_ns) // NS_PER_S,
            self._start_ns - zero_ns,
            end_ns - zero_ns,
            anchored=self._epoch_ns is not None,
        )
        self._start_ns = end_ns
        self._hand_over(interval)

    # --- both -------------------------------------------------------------------------------------

    def _cut_engine(self, end_ns: int | None) -> None:
        self._cuts.append(self.engine.snapshot(end_ns))
        self._records_cut = self.engine.records

    def _finished(self, time_s: int, start_ns: int, end_ns: int, *, anchored: bool) -> Interval:
        cut = self._cuts[0] if len(self._cuts) == 1 else merge_snapshots(self._cuts)
        self._cuts.clear()
        totals = self.totals
        interval = Interval(
            time_s=time_s,
            devices=in_order(cut.rows["device"]),
            snapshot=cut,
            counts=totals - self._counts,
            start_ns=start_ns,
            end_ns=end_ns,
            clock=self._clock,
            anchored=anchored,
            process_names=names_of(self.engine, cut),
            missing_files=self.missing_files,
        )
        self._counts = totals
        return interval


def names_of(engine: Engine, cut: Snapshot) -> dict[int, str]:
    """Names of the processes of a cut, as far as the stream has told them."""
    if not len(cut.processes):
        return {}
    names = engine.process_names
    return {pid: names[pid] for pid in cut.processes["pid"].tolist() if pid in names}


def age_ns(max_age_s: float) -> int:
    """The age that an ``Engine`` takes. Raises ValueError: it is out of range."""
    if not 0 <= max_age_s * NS_PER_S < 1 << 64:
        raise ValueError(f"max_age_s must be from 0 to 1.8e10, not {max_age_s}")
    return round(max_age_s * NS_PER_S)


def device_set(devices: Iterable[int]) -> frozenset[int]:
    """Device numbers that an ``Engine`` takes. Raises ValueError: one is out of range."""
    numbers = frozenset(map(index, devices))
    for number in numbers:
        if not 0 <= number < 1 << 32:
            raise ValueError(f"a device number is from 0 to 2^32-1, not {number}")
    return numbers
