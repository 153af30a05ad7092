"""Choose how to trace: by the program blktrace, or by the kernel's tracefs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from blkiomon.sources.blktrace import BlktraceCapture
from blkiomon.sources.capture import Capture, CaptureError, Report, find_devices
from blkiomon.sources.tracefs import TracefsCapture


def open_capture(
    names: Sequence[str], back_end: str, report: Report, root: Path = Path("/")
) -> Capture:
    """Start tracing.

    Args:
        names: of devices, or paths of their files.
        back_end: "blktrace", "tracefs", or "auto": the first that works.
        report: tells the user one line.
        root: where ``sys`` and ``run`` are.

    Raises:
        CaptureError: it cannot be started. Nothing has been changed.
    """
    devices = find_devices(names, report, root)
    if os.geteuid() != 0:
        raise CaptureError("tracing needs root: sudo blkiomon ...")
    reason = ""
    if back_end in ("auto", "blktrace"):
        try:
            return BlktraceCapture(devices, report, root)
        except CaptureError as error:
            if back_end == "blktrace":
                raise CaptureError(f"{error}; --capture tracefs may work") from error
            reason = str(error)
    try:
        return TracefsCapture(devices, report, root)
    except CaptureError as error:
        if reason:
            raise CaptureError(f"{error} (and {reason})") from error
        raise
