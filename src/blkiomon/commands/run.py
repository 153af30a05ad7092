"""One run of the command: reads input, feeds the engine, delivers to outputs.

One thread owns the engine. It waits for its input. If the input is a file, it also waits for slow
outputs; see ``outputs.sink`` for what happens to an interval after ``Outputs.put``.
"""

from __future__ import annotations

import itertools
import mmap
import os
import select
import signal
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blkiomon.commands.config import Config
from blkiomon.commands.late_numpy import load_numpy
from blkiomon.commands.naming import refuse_devices
from blkiomon.commands.no_requests import NoRequests
from blkiomon.commands.privileges import PrivilegeError, drop, forbid_new_privileges
from blkiomon.commands.progress import Progress
from blkiomon.commands.recorded import Beginning
from blkiomon.commands.signals import Stopped, StopSignals, signals_to_hear
from blkiomon.console import (
    EXIT_INPUT,
    EXIT_OK,
    EXIT_OUTPUT,
    EXIT_PIPE,
    EXIT_USAGE,
    complain,
    how_many,
)
from blkiomon.engine.constants import OPS
from blkiomon.errors import OutputError, SourceError, TraceError, complaint
from blkiomon.formats.debug import Final
from blkiomon.formats.driver_data import DriverData
from blkiomon.interval.clock import WallClock
from blkiomon.interval.columns import NS_PER_S
from blkiomon.interval.incomplete import in_words
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.slow import SlowRequests
from blkiomon.interval.value import Interval
from blkiomon.outputs.destinations import ExtraOpener, Outputs, open_outputs
from blkiomon.sources import (
    ContinuedReader,
    FileSource,
    Source,
    input_files,
    is_packed,
    open_trace,
)
from blkiomon.sources.file_kinds import HEAD_BYTES, check_trace
from blkiomon.sources.streams import SortedStream

if TYPE_CHECKING:
    from blkiomon.commands.san.tracker import Tracker
    from blkiomon.sources.capture import Capture

READ_BYTES = 1 << 20
"""Read at most so much at a time: pipes seldom hold more, and interval ends stay precise."""

LOOK_S = 1.0
"""How often a live run looks for requests that hang."""

LEAST_REFRESH_S = 1.0
"""Changes of the topology are looked for once an interval, and not more often than this."""

MOST_REFRESH_SHARE = 0.02
"""Of a processor, for looking for changes, unless a person watches or asks for a view."""

SKIPS_SHOWN = 20
"""The first so many skipped parts of the input are reported one by one, the others together."""


class Pipeline:
    """The path of records through a run: a monitor, then the outputs.

    Args:
        config: what is asked for.
        outputs: get the intervals, and records for the debug and driver outputs.
        report: prints one line for the user.
        clock: what ends intervals, "trace" or "wall"; None: "wall" for a live trace, "trace" for
            one that turns out to have been recorded.
        sorts: the stream may have one CPU's records after another's, see ``SortedStream``.
        annotate: what is delivered in place of an interval.
        begun_ns: monotonic time since which records may have come; default: now.
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
        self._beginning = None if clock else Beginning()
        self._sorted = SortedStream() if sorts else None
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
        self._left = config.most_intervals  # intervals; None: any number
        self._driver_records = 0  # handed over so far
        self._skips = 0
        self._fed_ns = time.monotonic_ns()
        self._cut_ns = self._fed_ns if begun_ns is None else begun_ns

    def check(self, head: bytes) -> None:
        """Check the first bytes of a stream.

        Raises:
            WrongKindError: the stream is not a trace.
        """
        if not self._config.resync:
            check_trace(head, _name_of(self._config))

    @property
    def is_undecided(self) -> bool:
        """Whether input is held back until the clock is chosen."""
        return self._beginning is not None and bool(self._beginning.pieces)

    def wait_s(self, left_s: float) -> float:
        """Seconds until ``decide`` is due, where the interval ends in ``left_s``."""
        return left_s if self._beginning is None else self._beginning.wait_s(left_s)

    def decide(self, *, has_ended: bool = False) -> None:
        """Choose the clock, if it is not chosen yet, and feed what was held back.

        Raises:
            TraceError: as ``feed``.
        """
        beginning, self._beginning = self._beginning, None
        if beginning is None:
            return
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
    def incompleteness(self) -> str | None:
        """A line about what the statistics leave out; None if that is little, or on silent runs."""
        if self._config.is_drop_in or self._config.screen:
            return None  # ziomon takes any line as a failure; a screen shows it anyway
        totals = self.monitor.totals
        why = totals.incomplete(self.monitor.missing_files)
        if not (why and totals.requests):  # without any request, ``emptiness`` says what there is
            return None
        return f"incomplete: {in_words(why)}"

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
            self._feed(self._sorted.due())

    def _put(self, interval: Interval) -> None:
        """Deliver an interval, after the slow requests in it."""
        if self._left is not None:
            if not self._left:
                return
            self._left -= 1
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
        slow = self._slow if self._config.outputs.need("slow requests") else None
        lacks_threshold = slow is not None and not slow.has_threshold
        try:
            if self._sorted is not None and (data := self._sorted.rest()):
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
                self._report(f"bad trace: skipped {skipped} at byte offset {offset}")


def no_operation(monitor: Monitor) -> str | None:
    """A line that no request was of the selected operations; None if some were."""
    if not monitor.ops or not monitor.found_ops.isdisjoint(monitor.ops):
        return None
    there = ", ".join(op for op in OPS if op in monitor.found_ops) or "none"
    return f"no request of operation {', '.join(monitor.ops)}; there are some of {there}"


def run(config: Config, fd: int = 0, *, open_screen: ExtraOpener | None = None) -> int:
    """Monitor devices, the trace in files, or the trace that is read from ``fd``.

    Ends with the trace, or when a signal comes.

    Args:
        config: what is asked for.
        fd: read where ``config`` names neither devices nor files.
        open_screen: opens the sink that draws on the terminal.

    Returns:
        The exit status. A failed output takes precedence over a bad trace.
    """
    if config.user is not None and os.geteuid() != 0:
        complain("--user needs root, whose privileges it drops")
        return EXIT_USAGE
    numbers = signals_to_hear()
    if not config.screen:
        return _opened_and_run(config, fd, numbers, open_screen)
    # A second signal must not leave the terminal without its cursor.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        return _opened_and_run(config, fd, numbers, open_screen)
    finally:
        while signal.sigtimedwait(numbers, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def _opened_and_run(
    config: Config, fd: int, numbers: Sequence[signal.Signals], open_screen: ExtraOpener | None
) -> int:
    """Complains if a device, an input or an output cannot be opened."""
    try:
        if not config.trace:
            return _run(config, fd, None, numbers, open_screen)
        from blkiomon.sources.capture import Capture  # slow to import

        with Capture(config.trace, complain, queue=config.queue) as capture:
            return _run(config, capture.fd, capture, numbers, open_screen)
    except (SourceError, OutputError, PrivilegeError) as error:
        complain(str(error))
        if isinstance(error, SourceError):
            return EXIT_INPUT
        return EXIT_OUTPUT if isinstance(error, OutputError) else EXIT_USAGE


def _run(
    config: Config,
    fd: int,
    capture: Capture | None,
    numbers: Sequence[signal.Signals],
    open_screen: ExtraOpener | None,
) -> int:
    """Raises SourceError, OutputError or PrivilegeError, if it has not begun to read."""
    source: Source | None = None
    try:
        refuse_devices(config.files)
        inputs = input_files(config.files)
        tracker = _tracker(config)
        fd, source = _open_input(config, fd)
        is_file = source is not None or (capture is None and stat.S_ISREG(os.fstat(fd).st_mode))
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"cannot read {_name_of(config)}: {error.strerror}") from error
    clock_name: str | None = config.clock
    if clock_name == "auto":
        clock_name = "trace" if is_file else "wall"
        if not is_file and capture is None and not config.is_drop_in:
            clock_name = None
    settings = config.outputs
    view = None if tracker is None else tracker.view
    if config.by == "device" and settings.names is False:
        view = None
    if settings.names is None:
        settings = settings._replace(names=not is_file)
    clock = WallClock(config.interval_s)
    if config.user is not None:
        forbid_new_privileges()  # before outputs start threads
    # A file can wait for slow outputs, a running tracer cannot.
    outputs = open_outputs(
        settings,
        complain,
        lossless=is_file,
        inputs=inputs,
        open_extra=open_screen,
        view=view,
        is_of_this_host=capture is not None,
        expected=() if capture is None else _expected(config, capture),
    )
    if config.user is not None:
        try:
            drop(config.user)
        except PrivilegeError:
            outputs.close()
            raise
    originals = ", ".join(f"--{row.name}" for row in settings.rows if row.is_original)
    if config.selection.ops and originals:
        complain(f"{originals}: only {', '.join(config.selection.ops)} requests count (--op)")
    is_piped = source is None and capture is None
    if tracker is not None and capture is not None:
        is_asked = config.is_watched or config.asks_for_topology
        share = 1.0 if is_asked else MOST_REFRESH_SHARE
        tracker.follow(max(config.interval_s, LEAST_REFRESH_S), share)
    pipeline = Pipeline(
        config,
        outputs,
        clock=clock_name,
        sorts=is_piped and not config.is_drop_in,
        annotate=tracker,
        begun_ns=None if capture is None else capture.begun_ns,
    )
    if source is not None:
        pipeline.monitor.missing_files = source.missing_files
    has_progress = False if config.screen else None  # None: if standard error is a terminal
    status = EXIT_OK
    with StopSignals(outputs.stop_waiting, numbers, reopens=not config.screen) as stop:
        is_complete = False
        try:
            if capture is not None:
                _read_capture(pipeline, clock, capture, stop, outputs)
            elif source is None:
                is_complete, packed = _read(pipeline, clock, fd, stop, outputs)
                if packed:
                    # The writer of a compressed stream can wait: from here on, read it like a file.
                    reader = ContinuedReader(fd, packed, _name_of(config))
                    source = FileSource(reader, resync=config.resync)
            if source is not None:
                with Progress(source.total_bytes, is_shown=has_progress) as progress:
                    is_complete = _read_source(pipeline, clock, source, stop, outputs, progress)
            if stop.received and source is not None:
                pipeline.feed(source.rest())
        except (TraceError, SourceError, OSError, MemoryError) as error:
            is_complete = False
            status = EXIT_INPUT
            _explain(error, config)
        try:
            pipeline.decide(has_ended=not stop.received)
        except (TraceError, MemoryError) as error:
            is_complete = False
            if status == EXIT_OK:
                _explain(error, config)
            status = EXIT_INPUT
        try:
            pipeline.end(clock.time_ns(), is_complete=is_complete)
        except (TraceError, MemoryError) as error:
            status = EXIT_INPUT
            _explain(error, config)
        name = source.name if source else _name_of(config)
        padding_bytes = pipeline.monitor.engine.padding_bytes
        padding_bytes += source.padding_bytes if source else 0
        if padding_bytes and not (config.is_drop_in or config.screen):
            skipped = how_many(padding_bytes, "byte", "bytes")
            complain(
                f"{name}: skipped {skipped} of zeros, which blktrace may write when it stops; "
                "nothing is lost"
            )
        was_left = stop.received or outputs.is_reader_gone
        if status == EXIT_OK and not was_left and (why := pipeline.emptiness):
            complain(f"{name}: {why}")
            if is_complete and not pipeline.monitor.totals.records:
                status = EXIT_INPUT
        if not outputs.is_reader_gone and (why := pipeline.incompleteness):
            complain(why)
        is_stopped = stop.received
        if not is_stopped:
            outputs.close()  # here a signal may still end the wait for an output
        if stop.received and not (config.is_watched and stop.number == signal.SIGINT):
            complain("terminated by signal")  # who watches usually leaves with Ctrl-C
        if is_stopped:
            outputs.close()
    if tracker is not None:
        tracker.close()
    if source is not None:
        source.close()
    if outputs.failed:
        return EXIT_OUTPUT
    return status or (EXIT_PIPE if outputs.is_reader_gone else EXIT_OK)


def _tracker(config: Config) -> Tracker | None:
    """Make the tracker, which adds up figures, counts totals and looks for findings.

    It has the topology that ``--topology`` names, that was saved beside a trace, or of this host,
    if devices are captured.

    Raises:
        SourceError: the topology is needed and cannot be read.
    """
    is_live = bool(config.trace)
    if not config.asks_for_topology and (config.is_drop_in or not (is_live or config.files)):
        return None
    from blkiomon.commands.views import find_topology

    topology = find_topology(config.by, config.topology, config.files, is_live=is_live)
    if topology is None:
        return None
    from blkiomon.commands.san.tracker import Tracker

    by = "device" if config.screen else config.by  # the screen has several views
    if not is_live:
        return Tracker(topology, by)
    from blkiomon.sources.capture import numbers_of

    return Tracker(topology, by, numbers_of(config.trace))


def _expected(config: Config, capture: Capture) -> list[tuple[int, str]]:
    """The devices that are captured, with the operations that every disk serves."""
    if config.by != "device":
        return []
    devices, selected_ops, _ = config.selection
    numbers = [n for n in capture.device_numbers if not devices or n in devices]
    ops = [op for op in ("read", "write") if not selected_ops or op in selected_ops]
    return list(itertools.product(numbers, ops))


def _open_input(config: Config, fd: int) -> tuple[int, Source | None]:
    """What to read: a descriptor to poll, or files.

    Raises:
        SourceError, OSError: it cannot be opened.
    """
    if _is_standard_input(config):
        if fd != 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
            return fd, None
    elif len(config.files) == 1 and Path(config.files[0]).is_fifo():
        # If there is no writer yet, the poll waits for one, which signals can end.
        return os.open(config.files[0], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), None
    source = open_trace(
        config.files or ("-",),
        resync=config.resync,
        sorts=not config.is_drop_in,
        report=complain,
    )
    for note in source.notes:
        complain(note)
    return -1, source


def _is_standard_input(config: Config) -> bool:
    return config.files in ((), ("-",))


def _name_of(config: Config) -> str:
    if config.trace:
        return "the live trace"
    return "standard input" if _is_standard_input(config) else config.files[0]


def _explain(error: TraceError | SourceError | OSError | MemoryError, config: Config) -> None:
    if isinstance(error, TraceError):
        # With several files, the error names the file.
        is_named = _is_standard_input(config) or len(config.files) > 1 or error.file is not None
        where = "" if is_named else f"{config.files[0]}: "
        complain(f"bad trace: {where}{error}")
    elif isinstance(error, SourceError):
        complain(complaint(error))
    elif isinstance(error, MemoryError):
        complain(f"out of memory: {str(error) or f'stopped reading {_name_of(config)}'}")
    else:
        complain(f"cannot read {_name_of(config)}: {error.strerror}")


def _read(
    pipeline: Pipeline,
    clock: WallClock,
    fd: int,
    stop: StopSignals,
    outputs: Outputs,
) -> tuple[bool, bytes]:
    """Read and feed a pipe or a device.

    Returns:
        Whether the input was read to its end; and the bytes read from an input that turns out to be
        compressed, of which none has been fed.
    """
    buffer = memoryview(mmap.mmap(-1, READ_BYTES))
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(stop.fd, select.POLLIN)
    is_at_begin = True
    if not poll.poll(0):
        load_numpy()  # while there is nothing to read
    while outputs.are_of_use and not pipeline.is_done:
        if stop.take_reopen():
            outputs.reopen()
        left_s = clock.remaining_s() if pipeline.is_wall else 1e6
        if pipeline.is_undecided:
            left_s = pipeline.wait_s(left_s)
            if left_s <= 0:
                pipeline.decide()
                continue
        elif left_s <= 0:
            pipeline.cut(clock.time_ns())
            clock.advance()
            left_s = 0  # read between two ends of intervals, however short these are
        if stop.received:
            # Records that the tracer has already written still count.
            poll.unregister(stop.fd)
            if poll.poll(0) and (n := os.readv(fd, [buffer])):
                pipeline.feed(buffer[:n])
            return False, b""
        pipeline.look()
        wait_s = min(left_s, pipeline.most_wait_s)  # poll takes no more than 2^31 ms
        ready = dict(poll.poll(wait_s * 1000))
        if stop.fd in ready:
            stop.drain()
        if fd in ready:
            try:
                n = os.readv(fd, [buffer])
            except BlockingIOError:  # another reader, or the tracer itself, was faster
                continue
            if n == 0:
                return True, b""
            if is_at_begin and is_packed(begun := bytes(buffer[:n])):
                return False, begun
            if is_at_begin:
                pipeline.check(begun[:HEAD_BYTES])
            is_at_begin = False
            pipeline.feed(buffer[:n])
    return False, b""


def _read_capture(
    pipeline: Pipeline, clock: WallClock, capture: Capture, stop: StopSignals, outputs: Outputs
) -> None:
    """Feed what is captured until a signal comes, or no output takes any more."""
    from blkiomon.sources.capture import POLL_S

    poll = select.poll()
    poll.register(capture.fd, select.POLLIN)
    poll.register(stop.fd, select.POLLIN)
    while outputs.are_of_use and not pipeline.is_done and not stop.received:
        if stop.take_reopen():
            outputs.reopen()
        left_s = clock.remaining_s() if pipeline.is_wall else POLL_S
        if left_s <= 0:
            pipeline.monitor.count_outside(capture.lost_events, 0)
            pipeline.cut(clock.time_ns())
            clock.advance()
            left_s = 0
        if stop.fd in dict(poll.poll(min(left_s, POLL_S) * 1000)):
            stop.drain()
        for data in capture.pieces():
            pipeline.feed(data)
        pipeline.look()
    capture.stop()
    for data in capture.pieces():
        pipeline.feed(data)
    pipeline.monitor.count_outside(capture.lost_events, 0)


def _read_source(
    pipeline: Pipeline,
    clock: WallClock,
    source: Source,
    stop: StopSignals,
    outputs: Outputs,
    progress: Progress,
) -> bool:
    """Read and feed files; returns whether they were read to their end.

    A signal interrupts a read, which may take long: a pipe without a writer, a disk that hangs,
    gigabytes of compressed padding.
    """
    while outputs.are_of_use and not pipeline.is_done:
        if stop.take_reopen():
            outputs.reopen()
        try:
            stop.interrupts = True
            if stop.received:
                return False
            data = source.read()
            stop.interrupts = False
        except Stopped:
            return False
        finally:
            stop.interrupts = False
            pipeline.monitor.count_outside(source.lost_events, source.skipped_bytes)
        if not data:
            return True
        pipeline.feed(data)
        if pipeline.is_undecided:
            if pipeline.wait_s(clock.remaining_s()) <= 0:
                pipeline.decide()
        elif pipeline.is_wall and clock.remaining_s() <= 0:
            pipeline.cut(clock.time_ns())
            clock.advance()
        progress.show(source.done_bytes)
    return False
