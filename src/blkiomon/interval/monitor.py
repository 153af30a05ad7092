"""Monitor: feeds bytes to the engine and decides when each interval ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

from blkiomon._core import Engine
from blkiomon.engine.constants import OPS
from blkiomon.engine.snapshot import Snapshot
from blkiomon.errors import TraceError
from blkiomon.interval import arguments
from blkiomon.interval.columns import NS_PER_S
from blkiomon.interval.devices import DeviceId, number_of
from blkiomon.interval.moments import distinct
from blkiomon.interval.operations import checked
from blkiomon.interval.value import Counts, Interval, in_order

if TYPE_CHECKING:
    from blkiomon.interval.arguments import Bytes

MOST_IDLE = 100_000
"""Limit of idle intervals (without a record) in a row. If trace time jumps further, they are left
out."""

MOST_IDLE_IN_ALL = 3 * MOST_IDLE
IDLE_PER_RECORD = 10
"""Limit of all idle intervals, and how much each record raises it: time may jump repeatedly."""

PENDING_PER_IDLE = 1000
"""Ending an interval takes longer with more pending records. Against the limits, an idle interval
counts once, and once more for each group of this many pending records."""

PROBE_BYTES = 1 << 20
"""If limits are times of day, the trace must have a timestamp record in this many first bytes."""

MAX_AGE_S = 600.0
"""Default age at which a pending issue or completion is given up."""

MOST_PENDING = 1_000_000
"""Default limit of pending issues and completions."""

NEVER_NS = (1 << 64) - 1  # the latest trace time
NO_END_NS = 1 << 64  # after any record


class Monitor:
    """Turns a stream of bytes into intervals.

    With the trace clock, intervals end by the records' own time: at the first record that is at or
    after ``first record + k * interval``. The same bytes give the same intervals, in pieces of any
    size. With the wall clock, the caller ends each interval with ``cut``.

    Args:
        interval_s: length of an interval by the trace clock, in s; None: one interval of all.
        clock: "trace" or "wall".
        max_pending, max_age_s, max_devices, resync: as for ``Engine``.
        devices: one or several that count; default: all. Each a number (``major << 20 | minor``),
            ``"8:16"`` or a name of this host, ``"sdb"``.
        ops: one or several operations that count, of ``layout.OPS``; default: all. See
            ``Interval.only``.
        from_ns, to_ns: only records in [from, to) count, in ns: since 1970 if ``is_absolute``,
            else since the first record.
        most_intervals: limit of the number of intervals. Before it is exceeded, ``interval_ns``
            doubles; the caller then has to merge the earlier intervals in pairs.
        hand_over: called with each interval of the trace clock as soon as it ends; ``feed`` then
            returns none. This saves memory, as a few bytes may end very many intervals.
        keep_details, keep_driver_data, keep_requests, keep_slow, as_original: as for ``Engine``.

    Attributes:
        engine: the ``Engine``.
        interval_ns: length of an interval now; None: one interval of all. The caller may double it.
        origin_ns: trace time of the first record other than a notify record; None before it.
        first_start_ns: trace time at which the first interval begins; 0 before that record.
        is_done: all records up to ``to_ns`` were read; further bytes are ignored.
        missing_files: how many files of the trace are missing, for the intervals to report. The
            caller sets it after opening the trace.
        ops: the operations that count; empty: all.
        found_ops: if some are selected, all operations that completed.
        skipped_intervals: idle intervals that were left out because time jumped.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument has a wrong type.
    """

    def __init__(
        self,
        interval_s: float | None = None,
        *,
        clock: str = "trace",
        max_pending: int = MOST_PENDING,
        max_age_s: float = MAX_AGE_S,
        max_devices: int = 65_536,
        resync: bool = False,
        devices: DeviceId | Iterable[DeviceId] = (),
        ops: str | Iterable[str] = (),
        from_ns: int | None = None,
        to_ns: int | None = None,
        is_absolute: bool = False,
        most_intervals: int | None = None,
        hand_over: Callable[[Interval], None] | None = None,
        keep_details: bool = False,
        keep_driver_data: bool = False,
        keep_requests: bool = False,
        keep_slow: bool = False,
        as_original: bool = False,
    ) -> None:
        if clock not in ("trace", "wall"):
            raise ValueError(f'clock must be "trace" or "wall", not {clock!r}')
        if interval_s is not None:
            wanted = "a number of seconds, or None"
            arguments.require_number("the length of an interval", interval_s, wanted)
            if not 1e-9 <= interval_s <= 1e9:
                raise ValueError(f"interval_s must be from 1e-9 to 1e9, not {interval_s}")
        self._options: dict[str, Any] = {
            "max_pending": arguments.whole("max_pending", max_pending),
            "max_age_ns": age_ns(max_age_s),
            "max_devices": arguments.whole("max_devices", max_devices),
            "resync": resync,
        }
        self._clock = clock
        self.ops = checked(ops)
        self.found_ops: set[str] = set()
        self._from_ns = None if from_ns is None else arguments.whole("from_ns", from_ns)
        self._to_ns = None if to_ns is None else arguments.whole("to_ns", to_ns)
        self._has_limits = from_ns is not None or to_ns is not None
        self._limits_origin_ns: int | None = None  # trace time from which from_ns and to_ns count
        self._probe: Engine | None = None  # looks for the time of day
        if self._has_limits and is_absolute:
            self._probe = Engine(**self._options | {"resync": True})
        self._probed = bytearray()  # fed to the probe, and not yet to the engine
        self.engine = Engine(
            **self._options,
            keep_details=keep_details,
            keep_driver_data=keep_driver_data,
            keep_requests=keep_requests,
            keep_slow=keep_slow,
            as_original=as_original,
            devices=device_set(devices),
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
        self._idle = 0  # weights of the idle intervals so far
        self._counts = Counts()  # at the end of the previous interval
        self._outside = Counts()  # see count_outside
        self.first_start_ns = 0
        self._start_ns = 0  # trace time at which the current interval begins
        self._is_before_from = False  # the next record is before from_ns
        self._last_ns = NO_END_NS  # to_ns as trace time
        self._epoch_ns: int | None = None  # as known at the end of the first interval
        self._has_ended_interval = False
        self._has_finished = False

    def choose_clock(self, clock: str) -> None:
        """Change the clock, "trace" or "wall"; only before the first bytes."""
        self._clock = clock

    def feed(self, data: Bytes) -> list[Interval]:
        """Process the next bytes of a stream, cut anywhere; return the intervals that they end.

        Raises:
            TraceError: the bytes are not a trace. Earlier records count; see ``take``.
            MemoryError: the engine cannot allocate memory.
            RuntimeError: ``finish`` has ended the stream, or another thread uses the monitor.
        """
        for _ in self.steps(data):
            pass
        return self.take()

    def steps(self, data: Bytes) -> Iterator[None]:
        """Do what ``feed`` does, and yield when an interval has ended: ``take`` then returns it.

        This saves memory, as a few bytes may end very many intervals.
        """
        if self._has_finished:
            raise RuntimeError("finish() has ended this stream: make another Monitor")
        try:
            rest = memoryview(data).cast("B")  # type: ignore[arg-type]
        except TypeError:
            raise arguments.wrong("data", "contiguous bytes of a trace", data) from None
        if self._probe is not None and not self.is_done:
            self._probed += rest  # held back until the time of day is known
            if not self._find_time_of_day(self._probe, len(rest)):
                return
            rest = memoryview(self._probed)
            self._probed = bytearray()
        while not self.is_done:
            rest = rest[self.engine.feed(rest, self._until_ns()) :]
            next_ns = self.engine.stopped_at_ns
            if next_ns is None:
                break
            yield from self._advance_to(next_ns)

    def cut(self, start_ns: int, end_ns: int, idle_ns: int = 0) -> Interval:
        """End an interval by the wall clock.

        Args:
            start_ns, end_ns: when it began and ends, ns since 1970.
            idle_ns: time since the latest data arrived; requests in flight have aged by it.

        Raises:
            ValueError: it ends before it began, or a time is out of range.
            TypeError: a time is not a whole number.
            RuntimeError: the clock is "trace", or another thread uses the monitor.
        """
        start_ns = arguments.whole("start_ns", start_ns)
        end_ns = arguments.whole("end_ns", end_ns)
        idle_ns = arguments.whole("idle_ns", idle_ns)
        if self._clock != "wall":
            raise RuntimeError('cut() is for clock="wall"; with "trace", feed() ends intervals')
        if not -NEVER_NS <= start_ns <= end_ns <= NEVER_NS:
            raise ValueError(f"an interval cannot be from {start_ns} to {end_ns} ns")
        if idle_ns < 0:
            raise ValueError(f"idle_ns must be 0 or more, not {idle_ns}")
        now_ns = self.engine.now_ns
        snapshot = self.engine.snapshot(min(now_ns + idle_ns, NEVER_NS) if now_ns else None)
        return self._finished(snapshot, end_ns // NS_PER_S, start_ns, end_ns, anchored=True)

    def finish(self, *, is_complete: bool = True, final: bool = True) -> list[Interval]:
        """End the stream; return the last interval, which ends with the latest time of a record.

        Nothing can be fed afterwards: another stream needs another monitor. With the wall clock,
        call ``cut`` afterwards for the last interval.

        Args:
            is_complete: the stream was read to its end.
            final: return the last, partial interval, too.

        Raises:
            TraceError: the stream ended inside a record; ``take`` has the last interval.
        """
        self._has_finished = True
        try:
            if is_complete and not self.is_done:
                if self._probe is not None:
                    self._fail_without_time_of_day()
                self.engine.finish()
        finally:
            if self._is_before_from:
                self._counts = self.totals
            if final and self._clock == "trace":
                last_ns = self._last_ns if self.is_done else self.engine.latest_ns
                end_ns = max(last_ns, self._start_ns)
                has_records = self.totals.records > self._counts.records
                if has_records or end_ns > self._start_ns or not self._has_ended_interval:
                    # Requests in flight have aged until the last record, where time went back.
                    behind_ns = self.engine.latest_ns - self.engine.now_ns
                    self._end_at(end_ns, behind_ns if self.engine.back_ns else 0)
        return self.take()

    def take(self) -> list[Interval]:
        """The intervals that have ended since the last call."""
        ready = self._ready[:]
        self._ready.clear()
        return ready

    def count_outside(self, lost: int, skipped_bytes: int) -> None:
        """Set the source's totals of lost events and skipped bytes: the engine cannot see them."""
        self.engine.set_lost_outside(lost)
        if skipped_bytes != self._outside.skipped_bytes:
            self._outside = Counts(skipped_bytes=skipped_bytes)

    @property
    def start_ns(self) -> int:
        """Trace time at which the current interval began; only with the trace clock."""
        return self._start_ns

    @property
    def disorder(self) -> str | None:
        """A line about how far time goes back; None if never by more than a second.

        With the wall clock, intervals do not depend on it.
        """
        if self._clock == "wall" or not self.engine.back_ns:
            return None
        back_s = self.engine.back_ns / NS_PER_S
        return (
            f"time goes back by {back_s:,.1f} s: rates and times may be wrong, as records are out "
            "of order or of several traces; read each trace by itself"
        )

    @property
    def totals(self) -> Counts:
        """Counts of all records so far."""
        return Counts(**self.engine.counters()) + self._outside

    def anchor(self, interval: Interval) -> Interval:
        """Convert an interval of this monitor to the time of day, if that is known by now.

        For the trace clock. If the timestamp record comes after the first interval, ``feed``
        returns all intervals without the time of day.
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
        """Trace time at which the engine has to stop next; None: nowhere.

        Its first stop is at the first record.
        """
        if self.origin_ns is None:
            return 1 if self._clock == "trace" or self._has_limits else None
        until_ns = self._last_ns
        if self._is_before_from:
            until_ns = min(until_ns, self._start_ns)
        elif self.interval_ns is not None and self._clock == "trace":
            until_ns = min(until_ns, self._next_start_ns(self.interval_ns))
        return until_ns if until_ns < NO_END_NS else None

    def _advance_to(self, next_ns: int) -> Iterator[None]:
        """End the intervals that end before the next record, which has this time; yield at each."""
        if self.origin_ns is None:
            # The engine cannot stop at a record of time 0: it has read that record.
            first_ns = self.engine.first_ns
            self.origin_ns = next_ns if first_ns is None else first_ns
            self._set_limits(self.origin_ns)
            return
        if self._is_before_from:
            # Events lost before from_ns do not count.
            self._is_before_from = False
            self._counts = self.totals
        if self.interval_ns is not None and self._clock == "trace":
            yield from self._end_up_to(min(next_ns, self._last_ns), self.interval_ns)
        if next_ns >= self._last_ns:
            self.is_done = True

    def _next_start_ns(self, interval_ns: int) -> int:
        """Trace time at which the current interval ends: start of the first + k * interval."""
        passed_ns = (self._start_ns - self.first_start_ns) % interval_ns
        return self._start_ns - passed_ns + interval_ns

    def _end_up_to(self, time_ns: int, interval_ns: int) -> Iterator[None]:
        """End the current interval if it ends by this time; then the idle intervals after it."""
        if self._most_intervals is not None:
            while (time_ns - self.first_start_ns) // interval_ns >= self._most_intervals:
                interval_ns *= 2
            self.interval_ns = interval_ns
        if time_ns < self._next_start_ns(interval_ns):
            return
        self._end_at(self._next_start_ns(interval_ns))
        yield
        idle = (time_ns - self._start_ns) // interval_ns
        if self._most_intervals is None:
            weight = idle * (1 + self.engine.pending // PENDING_PER_IDLE)
            allowed = MOST_IDLE_IN_ALL + IDLE_PER_RECORD * self.totals.records - self._idle
            if weight > min(allowed, MOST_IDLE):
                self.skipped_intervals += idle
                self._start_ns += idle * interval_ns
                return
            self._idle += weight
        for _ in range(idle):
            self._end_at(self._start_ns + interval_ns)
            yield

    def _find_time_of_day(self, probe: Engine, n_bytes: int) -> bool:
        """Feed the last ``n_bytes`` of ``_probed`` to the probe; return whether it knows the time.

        Raises:
            TraceError: no timestamp record is in the first ``PROBE_BYTES``.
        """
        begin = len(self._probed) - n_bytes
        with memoryview(self._probed) as probed:
            probe.feed(probed[begin : max(begin, PROBE_BYTES)])
        if probe.epoch_ns is None:
            if len(self._probed) < PROBE_BYTES:
                return False
            self._fail_without_time_of_day()
        else:
            self._limits_origin_ns = -probe.epoch_ns
            if self._from_ns is not None:
                from_ns = self._limits_origin_ns + self._from_ns
                self.engine.set_from_ns(min(max(0, from_ns), NEVER_NS))
        self._probe = None
        return True

    def _fail_without_time_of_day(self) -> None:
        """Raise TraceError: the bytes are not a trace, or have no timestamp record."""
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
        """Convert from_ns and to_ns to trace time; called at the first record."""
        zero_ns = origin_ns if self._limits_origin_ns is None else self._limits_origin_ns
        self._start_ns = origin_ns
        if self._to_ns is not None:
            self._last_ns = min(max(zero_ns + self._to_ns, 1), NO_END_NS)
        if self._from_ns is not None:
            self._start_ns = min(max(origin_ns, zero_ns + self._from_ns), NEVER_NS)
            self.engine.set_from_ns(self._start_ns)
            self._is_before_from = self._start_ns > origin_ns
        self.first_start_ns = self._start_ns

    def _end_at(self, end_ns: int, behind_ns: int = 0) -> None:
        """End the current interval at a trace time; the next begins there.

        Args:
            behind_ns: how much earlier it was for the requests in flight.
        """
        snapshot = self.engine.snapshot(max(end_ns - behind_ns, 0))
        if not self._has_ended_interval:  # all intervals have the time of day, or none has
            self._epoch_ns = self.engine.epoch_ns
            self._has_ended_interval = True
        zero_ns = (self.origin_ns or 0) if self._epoch_ns is None else -self._epoch_ns
        interval = self._finished(
            snapshot,
            (end_ns - zero_ns) // NS_PER_S,
            self._start_ns - zero_ns,
            end_ns - zero_ns,
            anchored=self._epoch_ns is not None,
        )
        self._start_ns = end_ns
        self._hand_over(interval)

    # --- both clocks ------------------------------------------------------------------------------

    def _finished(
        self, snapshot: Snapshot, time_s: int, start_ns: int, end_ns: int, *, anchored: bool
    ) -> Interval:
        totals = self.totals
        pids = snapshot.processes["pid"].tolist()
        names = self.engine.process_names if pids else {}
        if self.ops:
            self.found_ops |= {OPS[op] for op in distinct(snapshot.rows["op"]).tolist()}
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
        return interval.only(self.ops)


def age_ns(max_age_s: float) -> int:
    """Convert an age to ns, for ``Engine``.

    Raises:
        ValueError: it is out of range.
        TypeError: it is not a number.
    """
    arguments.require_number("max_age_s", max_age_s, "a number of seconds")
    if not 0 <= max_age_s * NS_PER_S < 1 << 64:
        raise ValueError(f"max_age_s must be from 0 to 1.8e10, not {max_age_s}")
    return round(max_age_s * NS_PER_S)


def device_set(devices: DeviceId | Iterable[DeviceId]) -> frozenset[int]:
    """A set of device numbers, for ``Engine``.

    Raises:
        ValueError: one does not exist.
        TypeError: these are not devices.
    """
    wanted = 'names or numbers, such as ["8:16", "sdb"]'
    return frozenset(map(number_of, arguments.listed("devices", devices, (str, Integral), wanted)))
