"""The loop: read, feed, cut on the clock, hand over.

One thread owns the engine and never waits for anything but its input; see ``outputs.sink`` for
what happens to an interval behind ``Outputs.put``.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import stat
from collections.abc import Callable
from types import FrameType, TracebackType

import numpy as np
import numpy.typing as npt

from blkiomon._core import Engine
from blkiomon.clock import WallClock
from blkiomon.config import Config
from blkiomon.console import EXIT_FAILURE, EXIT_OK, STOP_SIGNALS, complain
from blkiomon.errors import TraceError
from blkiomon.interval import Counts, Cut, Interval, in_order
from blkiomon.outputs import DriverData, Final, OutputError, Outputs, open_outputs

READ_BYTES = 1 << 20
"""Read at most so much at a time: a pipe never holds more, and a boundary is never far."""

MATCHES_A_CUT = 1 << 31
"""The engine counts in 32 bits what falls into one bin: a longer interval is put together."""

SKIPS_SHOWN = 20
"""So many skipped stretches of input get a line of their own, the others share one."""

CLOSE_AFTER_SIGNAL_S = 0.5
"""After a signal, an output that takes nothing for so long is given up."""


class Monitor:
    """The straight line behind the bytes: engine, interval, outputs.

    Args:
        config: what is asked for.
        outputs: where intervals, and records for the debug and driver outputs, go.
        report: tells the user one line.
    """

    def __init__(
        self, config: Config, outputs: Outputs, report: Callable[[str], None] = complain
    ) -> None:
        self.engine = Engine(
            max_pending=config.max_pending,
            max_age_ns=round(config.max_age_s * 1e9),
            keep_details=config.debug is not None,
            keep_driver_data=config.driver is not None,
            resync=config.resync,
        )
        self._final = config.final
        self._debug = config.debug is not None
        self._outputs = outputs
        self._report = report
        self._counts = Counts()  # up to the last cut
        self._driver_records = 0  # handed over so far
        self._rows: list[npt.NDArray[np.void]] = []  # of the interval at hand
        self._matches_cut = 0
        self._skips = 0

    def feed(self, data: memoryview) -> None:
        """Deal with the next bytes of the stream.

        Raises:
            TraceError: they are no trace. What came before has been dealt with.
        """
        try:
            self.engine.feed(data)
        finally:
            self._hand_over_records()
        if self.engine.matches - self._matches_cut >= MATCHES_A_CUT:
            self._take_rows()

    def cut(self, time_s: int) -> None:
        """End an interval at a wall-clock time in seconds."""
        self._take_rows()
        rows = np.concatenate(self._rows)
        self._rows.clear()
        counts = Counts(**self.engine.counters())
        interval = Interval(
            time_s=time_s,
            devices=in_order(rows["device"]),
            cut=Cut(rows=rows),
            counts=counts - self._counts,
        )
        self._counts = counts
        self._outputs.put(interval)

    def end(self, time_s: int, *, is_complete: bool) -> None:
        """End the run: the last interval, leftovers and totals.

        Args:
            time_s: wall-clock time in seconds.
            is_complete: the stream has ended, and has not been left.

        Raises:
            TraceError: the stream ended inside a record. All has been handed over nevertheless.
        """
        try:
            if is_complete:
                self.engine.finish()
        finally:
            self._hand_over_records()
            if self._final:
                self.cut(time_s)
            if self._debug:
                totals = Counts(**self.engine.counters())
                self._outputs.put(Final(self.engine.leftovers(), totals))
            if self._skips > SKIPS_SHOWN:
                self._report(
                    f"bad trace: {self._skips - SKIPS_SHOWN} more stretches skipped, "
                    f"{self.engine.counters()['skipped_bytes']} bytes in all"
                )

    def _take_rows(self) -> None:
        """Rows of one device, operation and direction from several cuts add up in an Interval."""
        rows, _, _ = self.engine.cut()
        self._rows.append(rows)
        self._matches_cut = self.engine.matches

    def _hand_over_records(self) -> None:
        mismatches = self.engine.take_mismatches()
        if len(mismatches):
            self._outputs.put(mismatches)
        data = self.engine.take_driver_data()
        if data:
            records = self.engine.counters()["driver_data"]
            self._outputs.put(DriverData(data, records - self._driver_records))
            self._driver_records = records
        for offset, n_bytes in self.engine.take_skips():
            self._skips += 1
            if self._skips <= SKIPS_SHOWN:
                self._report(f"bad trace: skipped {n_bytes} bytes at byte offset {offset}")


class StopSignals:
    """While entered, signals that end a run are noted, and wake whoever polls ``fd``.

    Args:
        at_once: called in the signal handler.
    """

    def __init__(self, at_once: Callable[[], None]) -> None:
        self.received = False
        self._at_once = at_once

    def __enter__(self) -> StopSignals:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.fd)
        os.close(self._write_fd)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._at_once()


def run(config: Config, fd: int = 0) -> int:
    """Monitor the trace that is read from fd until it ends, or a signal comes.

    Returns the exit status: not 0 after a bad trace, or an output that failed.
    """
    try:
        kind = os.fstat(fd).st_mode
    except OSError as error:
        complain(f"cannot read standard input: {error.strerror}")
        return EXIT_FAILURE
    clock = WallClock(config.interval_s)
    try:
        # A file waits for slow outputs, a running tracer does not.
        outputs = open_outputs(config, complain, lossless=stat.S_ISREG(kind))
    except OutputError as error:
        complain(str(error))
        return EXIT_FAILURE
    monitor = Monitor(config, outputs)
    status = EXIT_OK
    with StopSignals(outputs.stop_waiting) as stop:
        try:
            is_complete = _read(monitor, clock, fd, stop, outputs)
        except (TraceError, OSError, MemoryError) as error:
            is_complete = False
            status = EXIT_FAILURE
            _explain(error)
        try:
            monitor.end(clock.time_s(), is_complete=is_complete)
        except TraceError as error:
            status = EXIT_FAILURE
            _explain(error)
        if stop.received:
            complain("terminated by signal")
            outputs.close(CLOSE_AFTER_SIGNAL_S)
        else:
            outputs.close()
    return EXIT_FAILURE if outputs.failed else status


def _explain(error: TraceError | OSError | MemoryError) -> None:
    if isinstance(error, TraceError):
        complain(f"bad trace: {error}")
    elif isinstance(error, MemoryError):
        complain(f"out of memory: {error or 'nothing more is read'}")
    else:
        complain(f"cannot read standard input: {error.strerror}")


def _read(monitor: Monitor, clock: WallClock, fd: int, stop: StopSignals, outputs: Outputs) -> bool:
    """Feed the monitor until the input ends (True), or it is left before (False)."""
    buffer = memoryview(mmap.mmap(-1, READ_BYTES))
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(stop.fd, select.POLLIN)
    while outputs.are_of_use:
        left_s = clock.remaining_s()
        if left_s <= 0:
            monitor.cut(clock.time_s())
            clock.advance()
            continue
        if stop.received:
            # What the tracer had written by then still counts.
            poll.unregister(stop.fd)
            if poll.poll(0) and (n := os.readv(fd, [buffer])):
                monitor.feed(buffer[:n])
            return False
        ready = dict(poll.poll(min(left_s, 1e6) * 1000))  # poll takes no more than 2^31 ms
        if fd in ready:
            n = os.readv(fd, [buffer])
            if n == 0:
                return True
            monitor.feed(buffer[:n])
    return False
