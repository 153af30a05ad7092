"""Pipeline: bytes -> Monitor -> outputs, with all that a run reports on the way."""

from __future__ import annotations

import time
from collections.abc import Callable

from blkiomon.commands.config import Config
from blkiomon.commands.late_numpy import load_numpy
from blkiomon.commands.no_requests import NoRequests
from blkiomon.commands.recorded import Beginning
from blkiomon.commands.signals import Stopped
from blkiomon.console import complain, how_many
from blkiomon.engine.constants import OPS
from blkiomon.formats.debug import Final
from blkiomon.formats.driver_data import DriverData
from blkiomon.interval.columns import NS_PER_S
from blkiomon.interval.dropped import Dropped
from blkiomon.interval.incomplete import in_words
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.slow import SlowRequests
from blkiomon.interval.value import Interval
from blkiomon.outputs.destinations import Outputs
from blkiomon.sources.file_kinds import check_trace
from blkiomon.sources.streams import SortedStream

LOOK_S = 1.0
"""How often a live run looks for requests that hang."""

MOST_AFTER_STOP = 1000
"""So many more intervals may end after a signal: where time jumps, a few bytes end very many."""

SKIPS_SHOWN = 20
"""The first so many skipped parts of the input are reported one by one, the others together."""


class Pipeline:
    """The path of records through a run: a monitor, then the outputs.

    Args:
        config: the command line, as values.
        outputs: get the intervals, and records for the debug and driver outputs.
        report: prints one line for the user.
        clock: what ends intervals, "trace" or "wall"; None: "wall" for a live trace, "trace" for
            one that turns out to have been recorded.
        sorts: the stream may have one CPU's records after another's, see ``SortedStream``.
        annotate: makes, of each interval, the one that the outputs get; default: the same.
        begun_ns: monotonic time since which records may have come; default: now.

    Attributes:
        has_stopped: whether a signal has come; the caller may set it.
        origin: maps the offset of skipped bytes in the fed stream to that in the input; the caller
            may set it.
    """

    def __init__(
        self,
        config: Config,
        outputs: Outputs,
        report: Callable[[str], None] = complain,
        clock: str | None = "wall",
        sorts: bool = False,
        annotate: Callable[[Interval], Interval] | None = None,
        begun_ns: int | None = None,
    ) -> None:
        self._annotate = annotate
        # Holds the first bytes back until the clock is chosen; then None.
        self._beginning = None if clock else Beginning()
        self._sorted = SortedStream(resync=config.resync, is_live=True) if sorts else None
        clock = clock or "wall"
        self._keeps_details = config.outputs.need("details")
        self._keeps_driver_data = config.outputs.need("driver data")
        self.monitor = Monitor(
            config.interval_s,
            clock=clock,
            max_pending=config.max_pending,
            max_age_s=config.max_age_s,
            max_devices=config.max_devices,
            resync=config.resync,
            **config.selection.arguments(),
            hand_over=self._put,
            as_original=config.is_drop_in,
            keep_details=self._keeps_details,
            keep_driver_data=self._keeps_driver_data,
            keep_slow=config.keeps_slow,
        )
        self._slow: SlowRequests | None = None
        if config.keeps_slow:
            self._slow = SlowRequests(
                self.monitor, config.slow_ns, config.slow_percent, config.slow_limit, outputs.put
            )
        self._look_ns = 0  # when to look next for requests that hang
        self.is_wall = clock == "wall"
        self._config = config
        # Like the original, stay silent about a sound trace.
        self._is_silent = config.is_original or config.screen
        self._no_requests = None if self._is_silent else NoRequests(config.selection)
        self._outputs = outputs
        self._report = report
        self._dropped = Dropped()
        self._left = config.most_intervals  # intervals; None: any number
        self._driver_records = 0  # handed over so far
        self._skips = 0
        self.has_stopped: Callable[[], bool] = lambda: False
        self.origin: Callable[[int], int] = lambda offset: offset
        if self._sorted is not None:
            self.origin = self._sorted.origin
        self._after_stop = 0  # intervals
        self._fed_ns = time.monotonic_ns()
        self._cut_ns = begun_ns or self._fed_ns  # when the current interval began

    def check(self, head: bytes) -> None:
        """Check the first bytes of a stream.

        Raises:
            WrongKindError: the stream is not a trace.
        """
        if not self._config.resync:
            check_trace(head, self._config.input_name)

    @property
    def is_undecided(self) -> bool:
        """Whether input is held back until the clock is chosen."""
        return self._beginning is not None and bool(self._beginning.pieces)

    def wait_s(self, left_s: float) -> float:
        """Seconds until ``decide`` is due, where the interval ends in ``left_s``."""
        if self._beginning is None:
            return left_s
        return self._beginning.wait_s(left_s)

    def decide(self, *, has_ended: bool = False) -> None:
        """Choose the clock, and feed the bytes that were held back until then.

        Does nothing if the clock is chosen already.

        Raises:
            TraceError: as ``feed``.
        """
        if self._beginning is None:
            return
        beginning, self._beginning = self._beginning, None
        if beginning.is_recorded(has_ended=has_ended):
            self.monitor.choose_clock("trace")
            self.is_wall = False
            self._outputs.take_as_recorded(keep_names=self._config.outputs.names is not None)
            self._report(
                "this trace was recorded: intervals end by its own clock (--clock wall: by this "
                "host's)"
            )
        self.feed(memoryview(b"".join(beginning.pieces)))

    def feed(self, data: memoryview) -> None:
        """Feed the next bytes of the stream.

        Raises:
            TraceError: they are not a trace. Everything before them has been delivered.
            Stopped: ``MOST_AFTER_STOP`` is exceeded.
        """
        if self._beginning is not None:
            self._beginning.add(data)
        elif self._sorted is None:
            self._feed(data)
        else:
            self._feed(self._sorted.add(data))

    def _feed(self, data: memoryview) -> None:
        if data:
            self._fed_ns = time.monotonic_ns()
        try:
            self.monitor.feed(data)
        finally:
            self._hand_over_records()
        load_numpy()
        if self._no_requests is not None:
            if self.monitor.engine.requests:
                self._no_requests = None
            else:
                self._no_requests.add(data)

    @property
    def emptiness(self) -> str | None:
        """A line that says why there was no request; None if there was one, or on silent runs."""
        if self._no_requests is None:
            return None if self._is_silent else no_operation(self.monitor)
        totals = self.monitor.totals
        return self._no_requests.text(
            totals.records,
            totals.evicted,
            max_age_s=self._config.max_age_s,
            is_whole=not self.monitor.is_done,
        )

    @property
    def disorder(self) -> str | None:
        """A line about how far time goes back; None if it does not, or on silent runs."""
        if self._config.is_drop_in or self._config.screen:
            return None  # as ``incompleteness``
        return self.monitor.disorder

    @property
    def incompleteness(self) -> str | None:
        """A line about what the statistics leave out; None if that is little, or on silent runs."""
        if self._config.is_drop_in or self._config.screen:
            return None  # ziomon takes any line as a failure; a screen shows it anyway
        totals = self.monitor.totals
        why = totals.incomplete(self.monitor.missing_files)
        if not (why and totals.requests):  # without any request, ``emptiness`` says what there is
            return None
        return f"incomplete: {in_words(why)}"

    @property
    def dropped(self) -> str | None:
        """A line about issues that were too old or too many; None if none were, or if silent."""
        if self._config.is_drop_in or self._config.screen or not self.monitor.totals.requests:
            return None  # as ``incompleteness``
        return self._dropped.text(self._config.max_age_s, self._config.max_pending)

    def cut(self, time_ns: int) -> None:
        """End an interval at a wall-clock time in ns.

        Raises:
            TraceError: as ``feed``, by records that were held back.
        """
        self._feed_due()
        now_ns = time.monotonic_ns()
        interval = self.monitor.cut(
            time_ns - (now_ns - self._cut_ns), time_ns, now_ns - self._fed_ns
        )
        self._put(interval)
        self._cut_ns = now_ns

    def _feed_due(self) -> None:
        """Feed the records that were held back to be sorted, as far as they are due."""
        if self._sorted is not None and not self._sorted.is_in_order:
            if data := self._sorted.due():
                self._feed(data)

    def _put(self, interval: Interval) -> None:
        """Deliver an interval, after the slow requests in it."""
        if self.has_stopped():
            self._after_stop += 1
            if self._after_stop > MOST_AFTER_STOP:
                raise Stopped
        if self._left is not None:
            if not self._left:
                return
            self._left -= 1
        self._dropped.add(interval.counts)
        if self._slow is not None:
            if not self.is_wall:
                self._slow.look(self.monitor.start_ns)
            self._slow.end_interval(interval)
        self._outputs.put(interval if self._annotate is None else self._annotate(interval))

    @property
    def is_done(self) -> bool:
        """Whether further records would change nothing."""
        return self.monitor.is_done or self._left == 0

    @property
    def most_wait_s(self) -> float:
        """How long to wait for input at most: ``look`` has to be called again."""
        return LOOK_S if self._slow is not None and self.is_wall else 1e6

    def look(self) -> None:
        """Report requests that hang, if the last look is long enough ago. For the wall clock.

        Raises:
            TraceError: as ``feed``, by records that were held back.
        """
        now_ns = time.monotonic_ns()
        if self._slow is None or not self.is_wall or now_ns < self._look_ns:
            return
        self._look_ns = now_ns + round(LOOK_S * NS_PER_S)
        self._feed_due()
        # Completions may be among the records that are still held back.
        is_late = self._sorted is not None and self._sorted.holds_back
        idle_ns = 0 if is_late else time.monotonic_ns() - self._fed_ns
        self._slow.look(self.monitor.engine.now_ns + idle_ns)
        self._slow.flush()

    def end(self, time_ns: int, *, is_complete: bool) -> None:
        """End the run: the last interval, leftovers and totals.

        Args:
            time_ns: wall-clock time.
            is_complete: the stream was read to its end.

        Raises:
            TraceError: the stream ended inside a record. Everything before was delivered.
        """
        self.has_stopped = lambda: False
        slow = self._slow if self._config.outputs.need("slow requests") else None
        lacks_threshold = slow is not None and not slow.has_threshold
        try:
            while self._sorted is not None and (data := self._sorted.rest()):
                self._feed(data)
            self.monitor.finish(is_complete=is_complete, final=self._config.final)
        finally:
            self._hand_over_records()
            if self._slow is not None:
                self._slow.look(self.monitor.engine.now_ns, has_ended=is_complete)
            if self.is_wall and self._config.final:
                self.cut(time_ns)
            if self._slow is not None:
                self._slow.flush()
            if lacks_threshold:
                self._report(
                    "--slow: no request was compared with the percentile: an interval with enough "
                    "requests must end before it is known"
                )
            elif slow is not None and not slow.has_found and self.monitor.totals.requests:
                self._report("--slow: no request took longer than the threshold")
            if self._keeps_details:
                self._outputs.put(Final(self.monitor.engine.leftovers(), self.monitor.totals))
            if self._skips > SKIPS_SHOWN:
                more = how_many(self._skips - SKIPS_SHOWN, "more stretch", "more stretches")
                in_all = how_many(self.monitor.totals.skipped_bytes, "byte", "bytes")
                self._report(f"bad trace: {more} skipped, {in_all} in all")
            if self.monitor.skipped_intervals and not self._config.is_original:
                # With the original's options nothing is missing: its outputs show none of these.
                left_out = how_many(
                    self.monitor.skipped_intervals,
                    "interval without a record is left out",
                    "intervals without a record are left out",
                )
                self._report(f"{left_out}, where time jumps ahead")
            if over_limit := self.monitor.totals.over_device_limit:
                self._report(
                    "too many devices at a time: "
                    f"{how_many(over_limit, 'record is', 'records are')} not counted "
                    f"(--max-devices {self._config.max_devices})"
                )

    def _hand_over_records(self) -> None:
        """Deliver the records for the debug and driver outputs, and report skipped input."""
        engine = self.monitor.engine
        if self._slow is not None:
            self._slow.take()
        if self._keeps_details and len(mismatches := engine.take_mismatches()):
            self._outputs.put(mismatches)
        if self._keeps_driver_data and (data := engine.take_driver_data()):
            records = engine.counters()["driver_data_records"]
            self._outputs.put(DriverData(data, records - self._driver_records))
            self._driver_records = records
        for offset, n_bytes in engine.take_skips():
            self._skips += 1
            if self._skips <= SKIPS_SHOWN:
                skipped = how_many(n_bytes, "byte", "bytes")
                where = f"byte offset {self.origin(offset)}"
                self._report(f"bad trace: skipped {skipped} at {where}")


def no_operation(monitor: Monitor) -> str | None:
    """A line that no request was of the selected operations; None if some were."""
    if not monitor.ops or not monitor.found_ops.isdisjoint(monitor.ops):
        return None
    there = ", ".join(op for op in OPS if op in monitor.found_ops) or "none"
    return f"no request of operation {', '.join(monitor.ops)}; there are some of {there}"
