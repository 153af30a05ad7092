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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blkiomon.commands.config import Config
from blkiomon.commands.late_numpy import load_numpy
from blkiomon.commands.naming import refuse_devices
from blkiomon.commands.options import MOST_NAMED, Selection
from blkiomon.commands.pipeline import Pipeline
from blkiomon.commands.privileges import PrivilegeError, drop, forbid_new_privileges
from blkiomon.commands.progress import Progress
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
from blkiomon.errors import OutputError, SourceError, TraceError, complaint
from blkiomon.interval.clock import WallClock
from blkiomon.outputs.destinations import ExtraOpener, Outputs, open_outputs
from blkiomon.outputs.opening import Identity
from blkiomon.sources import (
    ContinuedReader,
    FileSource,
    Source,
    input_files,
    is_packed,
    open_trace,
)
from blkiomon.sources.file_kinds import HEAD_BYTES

if TYPE_CHECKING:
    from blkiomon.commands.san.tracker import Tracker
    from blkiomon.sources.capture import Capture

READ_BYTES = 1 << 20
"""Read at most so much at a time: pipes seldom hold more, and interval ends stay precise."""

LEAST_REFRESH_S = 1.0
"""Changes of the topology are looked for once an interval, and not more often than this."""

MOST_REFRESH_SHARE = 0.02
"""Of a processor, for looking for changes, unless a person watches or asks for a view."""


def run(config: Config, fd: int = 0, *, open_screen: ExtraOpener | None = None) -> int:
    """Monitor devices, the trace in files, or the trace that is read from ``fd``.

    Ends with the trace, or when a signal comes.

    Args:
        config: the command line, as values.
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
        from blkiomon.sources.capture import ALL, Capture  # slow to import

        with Capture(config.trace, complain, queue=config.queue) as capture:
            captured = capture.device_numbers
            _check_selection(config.selection, captured, later_ones=ALL in config.trace)
            return _run(config, capture.fd, capture, numbers, open_screen)
    except (SourceError, OutputError, PrivilegeError) as error:
        complain(str(error))
        if isinstance(error, SourceError):
            return EXIT_INPUT
        return EXIT_OUTPUT if isinstance(error, OutputError) else EXIT_USAGE


def _check_selection(selection: Selection, captured: Sequence[int], *, later_ones: bool) -> None:
    """Check that --device selects a device that is captured.

    Args:
        selection: what the options select.
        captured: numbers of devices; none, if this host has no disk yet.
        later_ones: devices that appear later are captured, too.

    Raises:
        SourceError: it selects none.
    """
    if not selection.devices or selection.only(captured):
        return
    from blkiomon.formats.units import device_text
    from blkiomon.sources.devices import device_name

    if later_ones and None in map(device_name, selection.devices):
        return
    names = [device_name(number) or device_text(number) for number in captured[:MOST_NAMED]]
    names += ["..."] * (len(captured) > MOST_NAMED)
    known = ", ".join(names) or "this host has no disk"
    raise SourceError(f"--device selects none of the devices that are captured: {known}")


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
        raise SourceError(f"cannot read {config.input_name}: {error.strerror}") from error
    clock = WallClock(config.interval_s)
    outputs = _open_outputs(config, capture, tracker, inputs, open_screen, is_file=is_file)
    if tracker is not None and capture is not None:
        is_asked = config.is_watched or config.asks_for_topology
        share = 1.0 if is_asked else MOST_REFRESH_SHARE
        tracker.follow(max(config.interval_s, LEAST_REFRESH_S), share)
    pipeline = Pipeline(
        config,
        outputs,
        clock=_clock_name(config, is_file=is_file),
        sorts=source is None and capture is None and not config.is_drop_in,
        annotate=tracker,
        begun_ns=None if capture is None else capture.begun_ns,
    )
    with StopSignals(outputs.stop_waiting, numbers, reopens=not config.screen) as stop:
        pipeline.has_stopped = lambda: stop.received
        if source is not None:
            pipeline.origin = source.origin
        source, is_complete, failures = _read_all(
            config, pipeline, clock, fd, source, capture, stop, outputs
        )
        try:
            pipeline.end(clock.time_ns(), is_complete=is_complete)
        except (TraceError, MemoryError) as error:
            failures.append(error)
            _explain(error, config)
        was_left = stop.received or outputs.is_reader_gone
        is_empty = _report_end(config, pipeline, source, is_silent=bool(failures or was_left))
        for why in (pipeline.disorder, pipeline.incompleteness, pipeline.dropped):
            if why and not outputs.is_reader_gone:
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
    if failures or (is_empty and is_complete):
        return EXIT_INPUT
    return EXIT_PIPE if outputs.is_reader_gone else EXIT_OK


def _clock_name(config: Config, *, is_file: bool) -> str | None:
    """The clock that ends intervals; None if the records of a pipe have to tell."""
    if config.clock != "auto":
        return config.clock
    if is_file:
        return "trace"
    return "wall" if config.trace or config.is_drop_in else None


def _open_outputs(
    config: Config,
    capture: Capture | None,
    tracker: Tracker | None,
    inputs: frozenset[Identity],
    open_screen: ExtraOpener | None,
    *,
    is_file: bool,
) -> Outputs:
    """Open the outputs, then drop the privileges that only this needs.

    Raises:
        OutputError, PrivilegeError: see ``open_outputs`` and ``drop``.
    """
    settings = config.outputs
    view = None if tracker is None else tracker.view
    if config.by == "device" and settings.names is False:
        view = None
    if settings.names is None:
        settings = settings._replace(names=not is_file)
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
    return outputs


def _read_all(
    config: Config,
    pipeline: Pipeline,
    clock: WallClock,
    fd: int,
    source: Source | None,
    capture: Capture | None,
    stop: StopSignals,
    outputs: Outputs,
) -> tuple[Source | None, bool, list[Exception]]:
    """Read and feed the input until it ends, fails, or is not wanted any more.

    Returns:
        The source, which a pipe with compressed data becomes; whether it was read to its end; and
        what failed, as explained to the user.
    """
    failures: list[Exception] = []
    is_complete = False
    has_progress = False if config.screen else None  # None: if standard error is a terminal
    try:
        if capture is not None:
            _read_capture(pipeline, clock, capture, stop, outputs)
        elif source is None:
            is_complete, packed = _read(pipeline, clock, fd, stop, outputs)
            if packed:
                # The writer of a compressed stream can wait: from here on, read it like a file.
                reader = ContinuedReader(fd, packed, config.input_name)
                source = FileSource(reader, resync=config.resync)
        if source is not None:
            pipeline.monitor.missing_files = source.missing_files
            with Progress(source.total_bytes, is_shown=has_progress) as progress:
                is_complete = _read_source(pipeline, clock, source, stop, outputs, progress)
        if stop.received and source is not None:
            pipeline.feed(source.rest())
    except Stopped:
        is_complete = False
    except (TraceError, SourceError, OSError, MemoryError) as error:
        failures.append(error)
        _explain(error, config)
    try:
        pipeline.decide(has_ended=not stop.received)
    except Stopped:
        is_complete = False
    except (TraceError, MemoryError) as error:
        if not failures:
            _explain(error, config)
        failures.append(error)
    return source, is_complete and not failures, failures


def _report_end(
    config: Config, pipeline: Pipeline, source: Source | None, *, is_silent: bool
) -> bool:
    """Report padding, and why there was no request; return whether there was no record.

    Args:
        is_silent: the run did not see the whole input: it is not known whether there are requests.
    """
    name = source.name if source else config.input_name
    padding_bytes = pipeline.monitor.engine.padding_bytes
    padding_bytes += source.padding_bytes if source else 0
    if padding_bytes and not (config.is_drop_in or config.screen):
        skipped = how_many(padding_bytes, "byte", "bytes")
        complain(
            f"{name}: skipped {skipped} of zeros, which blktrace may write when it stops; "
            "nothing is lost"
        )
    if is_silent or not (why := pipeline.emptiness):
        return False
    complain(f"{name}: {why}")
    return not pipeline.monitor.totals.records


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

    return Tracker(topology, by, config.selection.only(numbers_of(config.trace)))


def _expected(config: Config, capture: Capture) -> list[tuple[int, str]]:
    """The devices that are captured, with the operations that every disk serves."""
    if config.by != "device":
        return []
    selected = config.selection
    numbers = selected.only(capture.device_numbers)
    ops = [op for op in ("read", "write") if not selected.ops or op in selected.ops]
    return list(itertools.product(numbers, ops))


def _open_input(config: Config, fd: int) -> tuple[int, Source | None]:
    """What to read: a descriptor to poll, or files.

    Raises:
        SourceError, OSError: it cannot be opened.
    """
    if config.reads_standard_input:
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


def _explain(error: TraceError | SourceError | OSError | MemoryError, config: Config) -> None:
    if isinstance(error, TraceError):
        # With several files, the error names the file.
        is_named = config.reads_standard_input or len(config.files) > 1 or error.file is not None
        where = "" if is_named else f"{config.files[0]}: "
        complain(f"bad trace: {where}{error}")
    elif isinstance(error, SourceError):
        complain(complaint(error))
    elif isinstance(error, MemoryError):
        complain(f"out of memory: {str(error) or f'stopped reading {config.input_name}'}")
    else:
        complain(f"cannot read {config.input_name}: {error.strerror}")


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
    if fd not in dict(poll.poll(0)):
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
                if not (is_at_begin and is_packed(bytes(buffer[:HEAD_BYTES]))):
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

    A signal interrupts a wait for bytes, which may take long: a pipe without a writer, a disk that
    hangs, gigabytes of compressed padding.
    """
    source.waiting = stop.waiting
    while outputs.are_of_use and not pipeline.is_done:
        if stop.take_reopen():
            outputs.reopen()
        try:
            data = source.read()
        except Stopped:
            return False
        finally:
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
