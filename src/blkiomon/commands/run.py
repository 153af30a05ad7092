"""One run of the command: read, feed, hand over; signals, and what the user is told.

One thread owns the engine. It waits for its input, and where that is a file, for outputs that do
not keep up; see ``outputs.sink`` for what happens to an interval behind ``Outputs.put``.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import signal
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType

from blkiomon.commands.config import Config
from blkiomon.commands.findings import Findings
from blkiomon.commands.privileges import PrivilegeError, bind, drop
from blkiomon.commands.progress import Progress
from blkiomon.commands.recorded import Beginning
from blkiomon.console import (
    EXIT_INPUT,
    EXIT_OK,
    EXIT_OUTPUT,
    EXIT_PIPE,
    EXIT_USAGE,
    STOP_SIGNALS,
    complain,
    how_many,
)
from blkiomon.errors import SourceError, TraceError, complaint
from blkiomon.interval.clock import WallClock
from blkiomon.interval.incomplete import in_words
from blkiomon.interval.monitor import Monitor
from blkiomon.outputs import DriverData, Final, OutputError, Outputs, open_outputs
from blkiomon.sources import (
    ContinuedReader,
    FileSource,
    Source,
    input_files,
    is_packed,
    open_trace,
)
from blkiomon.sources.capture import Capture, CaptureError
from blkiomon.sources.capture_methods import open_capture
from blkiomon.sources.kinds import HEAD_BYTES, check_trace

READ_BYTES = 1 << 20
"""Read at most so much at a time: a pipe never holds more, and a boundary is never far."""

SKIPS_SHOWN = 20
"""So many skipped stretches of input get a line of their own, the others share one."""

DRAIN_S = 5.0
"""At the end, what had been traced is taken for at most so long."""


class Line:
    """The straight line of a run: a monitor, and the outputs behind it.

    Args:
        config: what is asked for.
        outputs: where intervals, and records for the debug and driver outputs, go.
        report: tells the user one line.
        clock: by which intervals end, "trace" or "wall"; None: that of the wall for a live trace,
            the trace's own for one that turns out to have been recorded.
    """

    def __init__(
        self,
        config: Config,
        outputs: Outputs,
        report: Callable[[str], None] = complain,
        clock: str | None = "wall",
    ) -> None:
        self._beginning = None if clock else Beginning()
        clock = clock or "wall"
        self.monitor = Monitor(
            config.interval_s,
            clock=clock,
            max_pending=config.max_pending,
            max_age_s=config.max_age_s,
            max_devices=config.max_devices,
            resync=config.resync,
            devices=config.devices,
            from_ns=config.from_ns,
            to_ns=config.to_ns,
            is_absolute=config.is_absolute,
            threads=config.threads,
            hand_over=outputs.put,
            as_original=config.is_drop_in,
            keep_details=config.debug is not None,
            keep_driver_data=config.driver is not None,
        )
        self.is_wall = clock == "wall"
        self._config = config
        # Like the original, nothing is said of a trace that is sound.
        is_silent = config.is_original or config.screen
        self._findings = None if is_silent else Findings()
        # ziomon takes any line for a failure, and a screen shows it all the time.
        self._tells_incomplete = not (config.is_drop_in or config.screen)
        self._final = config.final
        self._debug = config.debug is not None
        self._max_devices = config.max_devices
        self._outputs = outputs
        self._report = report
        self._driver_records = 0  # handed over so far
        self._skips = 0
        self._fed_ns = time.monotonic_ns()
        self._cut_ns = self._fed_ns

    def check(self, head: bytes) -> None:
        """Find out what a stream is that begins so.

        Raises:
            WrongKindError: no trace.
        """
        if not self._config.resync:
            check_trace(head, _name_of(self._config))

    @property
    def is_undecided(self) -> bool:
        """Whether what has come is held, until it is known by which clock intervals end."""
        return self._beginning is not None and bool(self._beginning.pieces)

    def wait_s(self, left_s: float) -> float:
        """Seconds until ``decide`` is due, where the interval ends in ``left_s``."""
        return left_s if self._beginning is None else self._beginning.wait_s(left_s)

    def decide(self, *, has_ended: bool = False) -> None:
        """Choose the clock, if that is still to be done, and deal with what was held until now.

        Raises:
            TraceError: as ``feed``.
        """
        beginning, self._beginning = self._beginning, None
        if beginning is None:
            return
        if beginning.is_recorded(has_ended=has_ended):
            self.monitor.choose_clock("trace")
            self.is_wall = False
            self._outputs.take_as_recorded(keep_names=self._config.names is not None)
            self._report(
                "this trace was recorded: intervals end by its own clock (--clock wall: by this "
                "host's)"
            )
        for piece in beginning.pieces:
            self.feed(memoryview(piece))

    def feed(self, data: memoryview) -> None:
        """Deal with the next bytes of the stream.

        Raises:
            TraceError: they are no trace. What came before has been dealt with.
        """
        if self._beginning is not None:
            self._beginning.add(data)
            return
        self._fed_ns = time.monotonic_ns()
        try:
            self.monitor.feed(data)
        finally:
            self._hand_over_records()
        if self._findings is not None:
            if self.monitor.engine.requests:
                self._findings = None
            else:
                self._findings.add(data)

    @property
    def emptiness(self) -> str | None:
        """Why there was no request, in a line; None if there was one, or nobody is to know."""
        if self._findings is None:
            return None
        totals = self.monitor.totals
        return self._findings.text(
            self._config, totals.records, totals.evicted, is_whole=not self.monitor.is_done
        )

    @property
    def incompleteness(self) -> str | None:
        """What the figures of the run leave out, in a line; None if that is little, or not said."""
        totals = self.monitor.totals
        why = totals.incomplete(self.monitor.missing_files)
        # Without any request, ``emptiness`` says what there is.
        if not (why and totals.requests and self._tells_incomplete):
            return None
        return f"incomplete: {in_words(why)}"

    def cut(self, time_ns: int) -> None:
        """End an interval at a wall-clock time in ns."""
        now_ns = time.monotonic_ns()
        self._outputs.put(
            self.monitor.cut(time_ns - (now_ns - self._cut_ns), time_ns, now_ns - self._fed_ns)
        )
        self._cut_ns = now_ns

    def end(self, time_ns: int, *, is_complete: bool) -> None:
        """End the run: the last interval, leftovers and totals.

        Args:
            time_ns: wall-clock time.
            is_complete: the stream has ended, and has not been left.

        Raises:
            TraceError: the stream ended inside a record. All has been handed over nevertheless.
        """
        try:
            self.monitor.finish(is_complete=is_complete, final=self._final)
        finally:
            self._hand_over_records()
            if self.is_wall and self._final:
                self.cut(time_ns)
            if self._debug:
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
                    f"(--max-devices {self._max_devices})"
                )

    def _hand_over_records(self) -> None:
        """What was kept apart from intervals, and a line for what was skipped."""
        engine = self.monitor.engine
        mismatches = engine.take_mismatches()
        if len(mismatches):
            self._outputs.put(mismatches)
        data = engine.take_driver_data()
        if data:
            records = engine.counters()["driver_data_records"]
            self._outputs.put(DriverData(data, records - self._driver_records))
            self._driver_records = records
        for offset, n_bytes in engine.take_skips():
            self._skips += 1
            if self._skips <= SKIPS_SHOWN:
                skipped = how_many(n_bytes, "byte", "bytes")
                self._report(f"bad trace: skipped {skipped} at byte offset {offset}")


class Stopped(BaseException):
    """A signal came while bytes were waited for."""


class StopSignals:
    """While entered, signals are noted, and wake whoever polls ``fd``.

    All end the run but SIGHUP: that one reopens files, unless it says that the terminal has gone.

    Args:
        at_once: called in the signal handler when the run ends.
        numbers: of the signals.
        reopens: whether there are files; SIGHUP ends the run, too, where there are none.

    Attributes:
        received: whether one came that ends the run.
        number: of the latest one.
        interrupts: whether it raises ``Stopped``, for what waits without polling.
    """

    def __init__(
        self,
        at_once: Callable[[], None],
        numbers: Sequence[signal.Signals] = STOP_SIGNALS,
        *,
        reopens: bool = True,
    ) -> None:
        self.received = False
        self.number = 0
        self.interrupts = False
        self._at_once = at_once
        self._numbers = numbers
        self._has_files = reopens
        self._reopens = False
        self._had_terminal = _has_terminal()

    def __enter__(self) -> StopSignals:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._note) for number in self._numbers}
        self._old_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        for number, old in self._old.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.fd)
        os.close(self._write_fd)

    def take_reopen(self) -> bool:
        """Whether files are to be reopened; once for all signals that came until now."""
        if not self._reopens:
            return False
        self._reopens = False
        return True

    def drain(self) -> None:
        """Empty the pipe that woke the poll, whatever signal it was: else it wakes for ever.

        What came with it has been noted by then, or is before the next poll.
        """
        os.read(self.fd, 1 << 16)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self._has_files:
            is_hangup = self._had_terminal and not _has_terminal()
            if not is_hangup:
                self._reopens = True
                return
        # The run ends: further ones would only interrupt this handler, each in another's midst.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        self.received = True
        self.number = number
        self._at_once()
        if self.interrupts:
            self.interrupts = False  # once: the run is on its way to its end
            raise Stopped


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal, which may have gone meanwhile."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.EIO, errno.ENOENT)
    return True


def run(config: Config, fd: int = 0) -> int:
    """Monitor the devices or the trace in the files that are named, or else what is read from fd.

    Ends with the trace, or when a signal comes. Returns the exit status: that of an output that
    failed before that of a bad trace, of which the outputs hold what came before.
    """
    if config.user is not None and os.geteuid() != 0:
        complain("--user takes root, which is to be given up")
        return EXIT_USAGE
    numbers = list(STOP_SIGNALS)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # else it is as nohup(1) wants it
        numbers.append(signal.SIGHUP)
    if not config.trace and not config.screen:
        return _run(config, fd, None, numbers)
    opened: Callable[..., Capture] = open_capture
    if config.user is not None:
        from blkiomon.sources.guardian import GuardedCapture as opened  # it takes its time to load
    # An impatient second signal must not leave the tracer running, while the host is put back, nor
    # may any leave the terminal without its cursor.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        if not config.trace:
            return _run(config, fd, None, numbers)
        with opened(config.trace, config.capture, complain) as capture:
            status = _run(config, capture.fd, capture, numbers)
    except CaptureError as error:
        complain(str(error))
        return EXIT_INPUT
    finally:
        while signal.sigtimedwait(numbers, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    return max(status, EXIT_INPUT) if capture.failed else status


def _run(
    config: Config,
    fd: int,
    capture: Capture | None = None,
    numbers: Sequence[signal.Signals] = STOP_SIGNALS,
) -> int:
    source: Source | None = None
    try:
        inputs = input_files(config.files)
        fd, source = _open_input(config, fd)
        is_file = source is not None or stat.S_ISREG(os.fstat(fd).st_mode)
        is_file = is_file and capture is None  # the tracer's is a file, too
    except SourceError as error:
        complain(str(error))
        return EXIT_INPUT
    except OSError as error:
        complain(f"cannot read {_name_of(config)}: {error.strerror}")
        return EXIT_INPUT
    clock_name: str | None = config.clock
    if clock_name == "auto":
        clock_name = "trace" if is_file else "wall"
        if not is_file and capture is None and not config.is_drop_in:
            clock_name = None
    named = config if config.names is not None else replace(config, names=not is_file)
    clock = WallClock(config.interval_s)
    try:
        if config.user is not None:
            bind()  # outputs have threads
        # A file waits for slow outputs, a running tracer does not.
        outputs = open_outputs(named, complain, lossless=is_file, inputs=inputs)
    except OutputError as error:
        complain(str(error))
        return EXIT_OUTPUT
    except PrivilegeError as error:
        complain(str(error))
        return EXIT_USAGE
    if config.user is not None:
        try:
            drop(config.user)
        except PrivilegeError as error:
            complain(str(error))
            outputs.close()
            return EXIT_USAGE
    line = Line(config, outputs, clock=clock_name)
    if source is not None:
        line.monitor.missing_files = source.missing_files
    has_progress = False if config.screen else None  # by default, where it can be seen
    status = EXIT_OK
    with StopSignals(outputs.stop_waiting, numbers, reopens=not config.screen) as stop:
        is_complete = False
        try:
            if source is None:
                is_complete, packed = _read(line, clock, fd, stop, outputs, capture)
                if packed:
                    # Whoever writes that can wait: from here on it is read like a file.
                    reader = ContinuedReader(fd, packed, _name_of(config))
                    source = FileSource(reader, resync=config.resync)
            if source is not None:
                with Progress(source.total_bytes, is_shown=has_progress) as progress:
                    is_complete = _read_source(line, clock, source, stop, outputs, progress)
        except Stopped:
            is_complete = False
        except (TraceError, SourceError, OSError, MemoryError) as error:
            is_complete = False
            status = EXIT_INPUT
            _explain(error, config)
        try:
            line.decide(has_ended=not stop.received)
        except (TraceError, MemoryError) as error:
            is_complete = False
            if status == EXIT_OK:
                _explain(error, config)
            status = EXIT_INPUT
        try:
            line.end(clock.time_ns(), is_complete=is_complete)
        except (TraceError, MemoryError) as error:
            status = EXIT_INPUT
            _explain(error, config)
        name = source.name if source else _name_of(config)
        padding_bytes = line.monitor.engine.padding_bytes + (source.padding_bytes if source else 0)
        if padding_bytes and not (config.is_drop_in or config.screen):
            skipped = how_many(padding_bytes, "byte", "bytes")
            complain(
                f"{name}: skipped {skipped} of zeros, which blktrace may write when it stops; "
                "nothing is lost"
            )
        was_left = stop.received or outputs.readers_left
        if status == EXIT_OK and not was_left and (why := line.emptiness):
            complain(f"{name}: {why}")
            if is_complete and not line.monitor.totals.records:
                status = EXIT_INPUT
        if not outputs.readers_left and (why := line.incompleteness):
            complain(why)
        is_stopped = stop.received
        if not is_stopped:
            outputs.close()  # where a signal may still come, while an output is waited for
        if stop.received and not (config.screen and stop.number == signal.SIGINT):
            complain("terminated by signal")  # which is not how one leaves the screen
        if is_stopped:
            outputs.close()
    if source is not None:
        source.close()
    if outputs.failed:
        return EXIT_OUTPUT
    return status or (EXIT_PIPE if outputs.readers_left else EXIT_OK)


def _open_input(config: Config, fd: int) -> tuple[int, Source | None]:
    """What to read: a descriptor that may have to be waited for, or files.

    Raises:
        SourceError, OSError: it cannot be opened.
    """
    if _is_standard_input(config):
        if fd != 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
            return fd, None
    elif len(config.files) == 1 and Path(config.files[0]).is_fifo():
        # Nobody may be writing yet: that is waited for where a signal is heard.
        return os.open(config.files[0], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), None
    source = open_trace(config.files or ("-",), resync=config.resync, report=complain)
    for note in source.notes:
        complain(note)
    return -1, source


def _is_standard_input(config: Config) -> bool:
    return config.files in ((), ("-",))


def _name_of(config: Config) -> str:
    if config.trace:
        return "what is traced"
    return "standard input" if _is_standard_input(config) else config.files[0]


def _explain(error: TraceError | SourceError | OSError | MemoryError, config: Config) -> None:
    if isinstance(error, TraceError):
        # Which of several files it is, the error knows itself.
        is_named = _is_standard_input(config) or len(config.files) > 1 or error.file is not None
        where = "" if is_named else f"{config.files[0]}: "
        complain(f"bad trace: {where}{error}")
    elif isinstance(error, SourceError):
        complain(complaint(error))
    elif isinstance(error, MemoryError):
        complain(f"out of memory: {str(error) or f'nothing more of {_name_of(config)} is read'}")
    else:
        complain(f"cannot read {_name_of(config)}: {error.strerror}")


def _read(
    line: Line,
    clock: WallClock,
    fd: int,
    stop: StopSignals,
    outputs: Outputs,
    capture: Capture | None,
) -> tuple[bool, bytes]:
    """Feed the line until the input ends (True), or it is left before (False).

    Also what has been read of an input that turns out to be compressed: none of that is fed.
    """
    buffer = memoryview(mmap.mmap(-1, READ_BYTES))
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(stop.fd, select.POLLIN)
    is_at_begin = True
    while outputs.are_of_use and not line.monitor.is_done:
        if stop.take_reopen():
            outputs.reopen()
        left_s = clock.remaining_s() if line.is_wall else 1e6
        if line.is_undecided:
            left_s = line.wait_s(left_s)
            if left_s <= 0:
                line.decide()
                continue
        elif left_s <= 0:
            line.cut(clock.time_ns())
            clock.advance()
            left_s = 0  # read once between two cuts, however short the interval
        if stop.received:
            # What the tracer had written by then still counts.
            poll.unregister(stop.fd)
            if capture is not None:
                _drain(line, poll, buffer, capture)
            elif poll.poll(0) and (n := os.readv(fd, [buffer])):
                line.feed(buffer[:n])
            return False, b""
        ready = dict(poll.poll(min(left_s, 1e6) * 1000))  # poll takes no more than 2^31 ms
        if stop.fd in ready:
            stop.drain()
        if fd in ready:
            try:
                n = os.readv(fd, [buffer])
            except BlockingIOError:  # somebody else, or the tracer itself, was quicker
                continue
            if n == 0:
                return True, b""
            if is_at_begin and is_packed(begun := bytes(buffer[:n])):
                return False, begun
            if is_at_begin:
                line.check(begun[:HEAD_BYTES])
            is_at_begin = False
            line.feed(buffer[:n])
    return False, b""


def _drain(line: Line, poll: select.poll, buffer: memoryview, capture: Capture) -> None:
    """End the tracing, and take what had been traced by then."""
    capture.stop()
    give_up_s = time.monotonic() + DRAIN_S
    while time.monotonic() < give_up_s and poll.poll(capture.drain_s * 1000):
        try:
            n = os.readv(capture.fd, [buffer])
        except BlockingIOError:
            break
        if n == 0:
            break
        line.feed(buffer[:n])
    line.monitor.count_outside(capture.lost_events, 0)


def _read_source(
    line: Line,
    clock: WallClock,
    source: Source,
    stop: StopSignals,
    outputs: Outputs,
    progress: Progress,
) -> bool:
    """Feed the line from files until they end (True), or it is left before (False).

    Raises:
        Stopped: while the source was being read, which may take long: a pipe without a writer, a
            disk that hangs, gigabytes of padding that unpack to nothing.
    """
    while outputs.are_of_use and not line.monitor.is_done:
        if stop.take_reopen():
            outputs.reopen()
        try:
            stop.interrupts = True
            if stop.received:
                return False
            data = source.read()
            stop.interrupts = False
        finally:
            stop.interrupts = False
            line.monitor.count_outside(source.lost_events, source.skipped_bytes)
        if not data:
            return True
        line.feed(data)
        if line.is_undecided:
            if line.wait_s(clock.remaining_s()) <= 0:
                line.decide()
        elif line.is_wall and clock.remaining_s() <= 0:
            line.cut(clock.time_ns())
            clock.advance()
        progress.show(source.done_bytes)
    return False
