"""Capture with the program ``blktrace``, as a child whose standard output we read."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from blkiomon.console import how_many
from blkiomon.sources.capture import Capture, CaptureError, Device, Report, lockdown

START_S = 2.0
"""It begins with a record at once, or fails at once; after so long it counts as running."""

END_S = 5.0
"""So long after being told to end, it is ended."""

PIPE_BYTES = 1 << 20

_PR_SET_PDEATHSIG = 1


class BlktraceCapture(Capture):
    """See ``Capture``.

    Args:
        devices: to trace.
        report: tells the user one line.
        root: where ``sys`` is.

    Raises:
        CaptureError: it cannot be started, or did not run.
    """

    drain_s = END_S

    def __init__(self, devices: Sequence[Device], report: Report, root: Path = Path("/")) -> None:
        self.name = "blktrace"
        self._report = report
        self._was_stopped = False
        program = shutil.which("blktrace")
        if program is None:
            raise CaptureError("blktrace is not installed")
        mode = lockdown(root)
        if mode is not None:
            raise CaptureError(f"the kernel is locked down ({mode}) and denies blktrace its files")
        arguments = [program, "-a", "issue", "-a", "complete", "-o", "-"]
        for device in devices:
            arguments += ["-d", device.path]
        self._stderr_fd = os.memfd_create("blktrace's stderr", os.MFD_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)

        def prepare() -> None:
            # We block the signals that it must be ended with; and it must not outlive us.
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)

        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._stderr_fd,
                bufsize=0,
                start_new_session=True,  # a terminal's ^C is for us
                preexec_fn=prepare,
                env=os.environ | {"LC_ALL": "C"},
            )
        except OSError as error:
            os.close(self._stderr_fd)
            raise CaptureError(f"cannot run {program}: {error.strerror}") from error
        assert self._process.stdout is not None
        self.fd = self._process.stdout.fileno()
        with suppress(OSError):
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        if not self._has_begun():
            self._was_stopped = True  # what follows is part of its failing
            complaint = self._complaint()
            self.close()
            raise CaptureError(f"blktrace does not run: {complaint}")

    def stop(self) -> None:
        if not self._was_stopped and self._process.poll() is None:
            self._was_stopped = True
            self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        self.stop()
        assert self._process.stdout is not None
        # What it still has to write must not hold it up.
        deadline_s = time.monotonic() + END_S
        os.set_blocking(self.fd, False)
        while self._process.poll() is None and time.monotonic() < deadline_s:
            if select.select([self.fd], [], [], 0.05)[0]:
                with suppress(BlockingIOError):
                    if not os.read(self.fd, PIPE_BYTES):
                        with suppress(subprocess.TimeoutExpired):
                            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        if self._process.poll() is None:
            self.failed = True
            self._process.kill()
            self._process.wait()
            self._report("blktrace did not end and was killed: blktrace -k stops its tracing")
        elif not self._was_stopped:
            self.failed = True
            self._report(f"blktrace ended by itself: {self._complaint()}")
        if self.lost_events:
            self._report(f"blktrace dropped {how_many(self.lost_events, 'event', 'events')}")
        self._process.stdout.close()
        os.close(self._stderr_fd)

    @property
    def lost_events(self) -> int:
        """What blktrace says it dropped: at its end."""
        return sum(map(int, re.findall(r"You have (\d+) dropped events", self._said())))

    def _has_begun(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        ready = poll.poll(START_S * 1000)
        if not ready:
            return self._process.poll() is None
        return bool(ready[0][1] & select.POLLIN)

    def _said(self) -> str:
        return os.pread(self._stderr_fd, 1 << 16, 0).decode(errors="replace")

    def _complaint(self) -> str:
        """The line of what it said that tells most, and how it ended."""
        lines = [line.strip() for line in self._said().splitlines() if line.strip()]
        telling = [line for line in lines if re.search(r"failed|Invalid|not |denied|:", line)]
        if telling:
            return telling[0]
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        return f"exit status {self._process.returncode}"
