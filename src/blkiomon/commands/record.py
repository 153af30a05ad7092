"""``blkiomon record``: writes a trace of this host's devices, while a command runs or until ^C."""

from __future__ import annotations

import errno
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import time
from argparse import Namespace
from typing import TYPE_CHECKING

from blkiomon.commands.naming import refuse_traces
from blkiomon.commands.options import (
    FOLLOW_SYMLINKS,
    HELP,
    QUEUE_TIMES,
    Command,
    Option,
    UsageError,
    captured,
    path,
    seconds,
)
from blkiomon.commands.parsing import parsed
from blkiomon.commands.signals import StopSignals, signals_to_hear
from blkiomon.commands.topology import save
from blkiomon.console import (
    EXIT_INPUT,
    EXIT_OK,
    EXIT_OUTPUT,
    EXIT_PIPE,
    SIGNALS,
    complain,
    how_many,
)
from blkiomon.errors import MissingLibrary
from blkiomon.outputs.opening import Policy
from blkiomon.sources.trace_sets import MEMBER, TOPOLOGY

if TYPE_CHECKING:
    from blkiomon.outputs.recording import Recording
    from blkiomon.sources.capture import Capture
    from blkiomon.sources.topology import Topology

EXIT_NOT_RUN, EXIT_NOT_FOUND = 126, 127
"""Exit statuses if the command cannot be run, or is not found: those of env(1) and nohup(1)."""

LEAST_SIZE = 8 << 20
"""Eight files of 1 MiB: room for four pieces of ``recording.PIECE_BYTES`` in each."""


def _size(name: str, text: str) -> int:
    """A number of bytes. A Reader."""
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", text)
    size = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]] if found else 0
    if not LEAST_SIZE <= size < 1 << 63:
        raise UsageError(f"{name} takes a size of 8M or more, such as 500M or 10G, not {text!r}")
    return size


COMMAND = Command(
    "record",
    ("blkiomon record -o NAME [OPTION]... [-- COMMAND [ARG]...]",),
    """
    Record the requests of disks and volumes to a trace, while COMMAND runs, or until Ctrl-C. It
    needs root or CAP_PERFMON. At the end it prints what it has written, and how many events were
    lost.

    NAME.blktrace.0 has the format of blktrace's files (version 7). `blkiomon report NAME` and all
    other commands read it, and so do `blkparse -i NAME`, `btt -i NAME.blktrace.0` and `fio
    --read_iolog=NAME.blktrace.0`. btt and fio need queue records: --queue. NAME.topology.json says
    how the devices are connected: `blkiomon topology NAME` prints arrays, LUNs and paths.

    COMMAND keeps standard input and output. Ctrl-C reaches it, too; other signals are passed on to
    it. The exit status is its own, 128 + N if signal N killed it.
    """,
    (
        Option(
            "-o, --output=NAME",
            "write NAME.blktrace.0; -: standard output, as in `ssh host blkiomon record -o - | "
            "blkiomon top`; then COMMAND prints to standard error",
            read=path,
            is_output=True,
        ),
        Option(
            "--trace=DEVICE",
            "record this device (repeatable); default: all disks and volumes",
            read=captured,
            is_repeatable=True,
        ),
        QUEUE_TIMES,
        Option("--for=SECONDS", "end the recording after this time", read=seconds(0.001)),
        Option(
            "--max-size=SIZE",
            "keep only the latest SIZE, such as 500M or 10G (at least 8M), in a ring of eight "
            "files, NAME.blktrace.0 to 7",
            read=_size,
        ),
        Option("--zstd", "compress with zstd; blkparse, btt and fio need it unpacked"),
        Option("--overwrite", "replace a trace of this name"),
        FOLLOW_SYMLINKS,
        HELP,
    ),
    """
    Exit status without COMMAND: 0; 2 for a usage error; 3 if the capture failed; 4 if writing
    failed; 141 if the reader of standard output closed it. With COMMAND that of COMMAND, unless
    the capture or writing failed; 126 or 127 if it could not be run.
    """,
    (
        ("blkiomon record -o run1 -- fio job.fio", ""),
        ("blkiomon record -o run1 --queue --trace sdb --for 60 && btt -i run1.blktrace.0", ""),
        ("blkiomon record -o /var/tmp/last --max-size 10G --zstd", ""),
        ("ssh host blkiomon record -o - | blkiomon top", ""),
    ),
)


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon record`` with these options; returns the exit status."""
    _check(given)
    refuse_traces(given.trace)
    command = given.operands
    if command and shutil.which(command[0]) is None:
        return _not_found(command[0])

    from blkiomon.sources.capture import ALL, Capture, all_disks

    if not given.trace and not all_disks():
        complain("this host has no disks: name the devices to record with --trace")
        return EXIT_INPUT
    # Before the capture begins: its rings would fill meanwhile.
    topology = _read_topology() if given.output != "-" else None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)  # a capture raises it
    with (
        Capture(given.trace or (ALL,), complain, queue=given.queue) as capture,
        StopSignals(lambda: None, signals_to_hear(), reopens=False) as stop,
    ):
        return _record(given, command, limits, capture, stop, topology)


def _not_found(program: str) -> int:
    """Say why a program cannot be found; returns the exit status."""
    # A path may also be that of a directory. Path.exists() raises some OSErrors.
    is_there = "/" in program and os.path.exists(program)  # noqa: PTH110
    if is_there or shutil.which(program, os.F_OK):
        complain(f"cannot run {program}: {os.strerror(errno.EACCES)}")
        return EXIT_NOT_RUN
    complain(f"cannot run {program}: no such program")
    return EXIT_NOT_FOUND


def _read_topology() -> Topology | None:
    """How this host's devices are connected; complains if that cannot be read."""
    from blkiomon.sources.topology import read_topology

    try:
        return read_topology()
    except OSError as error:
        complain(f"the topology is not saved: cannot read {error.filename}: {error.strerror}")
        return None


def _check(given: Namespace) -> None:
    """Raises UsageError if the arguments make no sense."""
    output = given.output
    if output is None:
        raise UsageError("the trace has no name: -o NAME, or -o - for standard output")
    if given.operands != given.after_dashes:
        raise UsageError(
            f"unexpected argument {given.operands[0]!r}: write a command after --, a device after "
            "--trace"
        )
    if output == "-" and given.max_size:
        raise UsageError("--max-size limits files, not standard output")
    if output == "-" and os.isatty(1):
        raise UsageError("standard output is a terminal; -o - writes records to a pipe or a file")
    if os.path.basename(output) in ("", ".", ".."):  # noqa: PTH119 (Path drops a last slash)
        raise UsageError("-o takes the name of a trace, not a directory")
    if member := MEMBER.fullmatch(output) or MEMBER.fullmatch(f"{output}.0"):
        raise UsageError(f"-o takes the name before .blktrace: -o {member['base']}")


def _record(
    given: Namespace,
    command: list[str],
    limits: tuple[int, int],
    capture: Capture,
    stop: StopSignals,
    topology: Topology | None,
) -> int:
    """Record to its end, then wait for the command; returns the exit status."""
    name = "standard output" if given.output == "-" else given.output
    try:
        recording = _open(given, capture, stop)
    except OSError as error:
        complain(f"could not write to {name}: {error.strerror}")
        return EXIT_OUTPUT
    except MissingLibrary as error:
        complain(str(error))
        return EXIT_OUTPUT
    process = None
    if command:
        if stop.received:
            recording.discard()
            complain(f"terminated by signal; {command[0]} was not run")
            return 128 + stop.number
        try:
            process = _start(command, limits, stop, stdout=2 if given.output == "-" else None)
        except OSError as error:
            recording.discard()
            complain(f"cannot run {command[0]}: {error.strerror}")
            return EXIT_NOT_RUN
    begun_s = time.monotonic()
    if topology is not None:  # a failure is printed, and the trace matters more
        save(topology, given.output + TOPOLOGY, Policy(follow=given.follow_symlinks))
    status = EXIT_OK
    try:
        lost_events = _copy(capture, recording, stop, process, getattr(given, "for"))
    except OSError as error:
        capture.stop()
        for data in capture.pieces():
            recording.drop(data)
        lost_events = capture.lost_events
        status = EXIT_OUTPUT
        if given.output == "-" and error.errno == errno.EPIPE:
            status = EXIT_PIPE
        else:
            complain(f"could not write to {name}: {error.strerror}; the recording ends")
    elapsed_s = time.monotonic() - begun_s
    recording.close()
    code = None if process is None else _await(process, stop)
    if status != EXIT_PIPE:
        lost = how_many(lost_events, "event", "events", ",") if lost_events else "nothing"
        missing = f"{lost} lost"
        if status == EXIT_OUTPUT:
            missing = recording.unwritten + f", {missing}" * bool(lost_events)
        complain(f"wrote {recording.summary()} in {elapsed_s:.1f} s; {missing}")
    if code is None or status == EXIT_OUTPUT:
        return status
    return code if code >= 0 else 128 - code


def _start(
    command: list[str], limits: tuple[int, int], stop: StopSignals, stdout: int | None
) -> subprocess.Popen[bytes]:
    """Start the command as this process was started. Raises OSError.

    Args:
        limits: of its descriptors, soft and hard.
    """

    def restore() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # see StopSignals

    # os.environ lacks the variable that this process has set for numpy.
    process = subprocess.Popen(command, stdout=stdout, env=dict(os.environ), preexec_fn=restore)
    if stop.received:  # it came before the command was there to get it
        process.send_signal(stop.number)
    return process


def _open(given: Namespace, capture: Capture, stop: StopSignals) -> Recording:
    """Open the files of the trace, or standard output. Raises OSError or MissingLibrary."""
    from blkiomon.outputs.recording import FileRecording, Pack, PipeRecording
    from blkiomon.sources.readers import zstd_module

    pack: Pack | None = None
    if given.zstd:
        try:
            zstd = zstd_module()
        except ImportError as error:
            raise MissingLibrary("--zstd needs zstandard: pip install 'blkiomon[zstd]'") from error

        def pack(data: memoryview) -> bytes:
            packed: bytes = zstd.compress(data, 1)
            return packed

    policy = Policy(follow=given.follow_symlinks, overwrite=given.overwrite)
    if given.output == "-":
        return PipeRecording(pack, lambda: stop.received, policy)
    return FileRecording(
        given.output,
        pack,
        lambda: stop.received,
        policy,
        most_bytes=given.max_size,
        repeat_notes=capture.repeat_notes,
    )


def _copy(
    capture: Capture,
    recording: Recording,
    stop: StopSignals,
    process: subprocess.Popen[bytes] | None,
    for_s: float | None,
) -> int:
    """Write what is captured until the recording ends; returns how many events were lost.

    Raises:
        OSError: writing failed.
    """
    from blkiomon.sources.capture import POLL_S

    def is_over() -> bool:
        has_ended = process is not None and process.poll() is not None
        return has_ended or stop.received or time.monotonic() >= end_s

    poll = select.poll()
    poll.register(capture.fd, select.POLLIN)
    poll.register(stop.fd, select.POLLIN)
    end_s = time.monotonic() + for_s if for_s else float("inf")
    lost_events = 0
    is_ending = False
    while not is_ending:
        left_s = min(end_s - time.monotonic(), POLL_S)
        if left_s > 0:
            poll.poll(left_s * 1000)
        is_ending = is_over()
        if is_ending:
            capture.stop()
        for data in capture.pieces():
            lost_before, lost_events = lost_events, capture.lost_events
            recording.lose(lost_events - lost_before)
            if data:
                recording.write(data)
            if not is_ending and is_over():  # writing may take long
                break
    return capture.lost_events


def _await(process: subprocess.Popen[bytes], stop: StopSignals) -> int:
    """Wait for the end of the command, and pass a signal on to it; returns its status.

    SIGINT and SIGQUIT are not passed on: the terminal has sent them to the command as well.
    """
    has_passed = False
    poll = select.poll()
    poll.register(stop.fd, select.POLLIN)
    while (code := process.poll()) is None:
        if stop.received and not has_passed:
            has_passed = True
            poll.unregister(stop.fd)
            if stop.number not in (signal.SIGINT, signal.SIGQUIT):
                process.send_signal(stop.number)
        poll.poll(50)
    return code
