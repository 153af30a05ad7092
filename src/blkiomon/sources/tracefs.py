"""Capture with the kernel's ``blk`` tracer, through tracefs.

The tracer exists once in a system: it does not run in a tracing instance of its own. So whatever is
changed is written to a state file before, and put back at the end. A run that was killed leaves
that file behind, and the next one repairs. Who holds the lock beside it is alive; a lock ends with
its process, whatever ends that.

With ``bin`` on, ``context-info`` and ``blk_classic`` off, ``trace_pipe`` hands out plain records,
those of all CPUs merged by time. It can be polled, and reading it does not block.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from blkiomon.sources.capture import Capture, CaptureError, Device, Report, lockdown

BUFFER_KB = 8192
"""Of each CPU: some 130,000 records."""

BUFFERS_KB = 256 << 10
"""Of all CPUs together, unless the kernel's own choice is more."""

_LEAST_BUFFER_KB = 1408  # the kernel's own choice

_WANTED = {
    "options/bin": "1",
    "options/context-info": "0",
    "options/blk_classic": "0",
    "options/blk_cgroup": "0",
    "options/block": "0",  # else poll says that there is something when there is not
    "options/overwrite": "1",  # else what is lost leaves no mark
}

_PLACES = ("sys/kernel/tracing", "sys/kernel/debug/tracing")


class TracefsCapture(Capture):
    """See ``Capture``.

    Args:
        devices: to trace.
        report: tells the user one line.
        root: where ``sys`` and ``run`` are.

    Raises:
        CaptureError: it cannot be started. Nothing has been changed.
    """

    def __init__(self, devices: Sequence[Device], report: Report, root: Path = Path("/")) -> None:
        self.name = "the kernel's tracer"
        self.fd = -1
        self._report = report
        self._root = root
        try:
            self._tracing = _find_tracefs(root)
            self._lock_fd, self._state_path = _lock(root)
        except OSError as error:
            raise _explained(error, root) from error
        self._state: dict[str, Any] | None = None
        try:
            self._repair()
            self._refuse_busy()
            self._start(devices)
        except OSError as error:
            self.close()
            raise _explained(error, root) from error
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        # The run ends, and close() complains where that is still of interest.
        with suppress(OSError):
            _write(self._tracing / "tracing_on", "0")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)  # an open pipe holds the tracer fast
            self.fd = -1
        if self._state is not None:
            state, self._state = self._state, None
            self._restore(state)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # --- before ----------------------------------------------------------------------------------

    def _repair(self) -> None:
        """Put back what a run that was killed has left."""
        try:
            text = self._state_path.read_text()
        except FileNotFoundError:
            return
        try:
            state = json.loads(text)
            tracing, pid = Path(state["tracing"]), int(state["pid"])
            saved, enables = dict(state["saved"]), list(state["enables"])
        except (ValueError, KeyError, TypeError) as error:
            raise CaptureError(
                f"{self._state_path} is not what blkiomon writes: set up the tracer by hand, "
                "then remove it"
            ) from error
        tracer = _read(tracing / "current_tracer")
        if tracer not in ("blk", "nop") or _read(tracing / "events/enable") != "0":
            # Somebody has been at it since, and what it is now is for them to say.
            self._state_path.unlink()
            self._report(
                f"the tracer that process {pid} left set up is in use by somebody else by now: "
                "its options are left as they are"
            )
            return
        if tracer == "nop":
            # We turn devices on after the tracer, and off before it: these are not ours.
            enables = []
        self._restore({"tracing": str(tracing), "saved": saved, "enables": enables})
        if not self.failed:
            self._report(f"repaired the tracer that process {pid} left set up when it was killed")
        self.failed = False

    def _refuse_busy(self) -> None:
        tracing = self._tracing
        if "blk" not in _read(tracing / "available_tracers").split():
            raise CaptureError("this kernel has no blk tracer (CONFIG_BLK_DEV_IO_TRACE is missing)")
        tracer = _read(tracing / "current_tracer")
        if tracer != "nop":
            raise CaptureError(
                f"the kernel's tracer is in use by somebody else (current_tracer is {tracer}); "
                "--capture blktrace does without"
            )
        if _read(tracing / "events/enable") != "0":
            raise CaptureError(
                "the kernel's tracer is in use by somebody else (events are enabled, see "
                f"{tracing / 'set_event'}); --capture blktrace does without"
            )
        # While the blk tracer is on, it also takes what blktrace would get of other devices.
        for path in sorted((self._root / "sys/class/block").glob("*/trace/enable")):
            with suppress(FileNotFoundError):
                if _read(path) != "0":
                    name = path.parent.parent.name
                    raise CaptureError(f"{name} is being traced by somebody else ({path} is not 0)")

    # --- during ----------------------------------------------------------------------------------

    def _start(self, devices: Sequence[Device]) -> None:
        tracing = self._tracing
        names = [name for name in _WANTED if (tracing / name).exists()]
        saved = {name: _read(tracing / name) for name in names}
        saved["trace_clock"] = _chosen(_read(tracing / "trace_clock"))
        saved |= _buffer_sizes(tracing)
        saved["tracing_on"] = _read(tracing / "tracing_on")
        traces = [self._root / "sys/class/block" / d.name / "trace" for d in devices]
        state = {
            "pid": os.getpid(),
            "tracing": str(tracing),
            "saved": saved,
            "enables": [str(path / "enable") for path in traces],
        }
        _replace(self._state_path, json.dumps(state, indent=1) + "\n")
        self._state = state

        _write(tracing / "tracing_on", "0")
        self._widen(saved)
        _write(tracing / "trace_clock", "mono")
        _write(tracing / "current_tracer", "blk")
        for name in names:
            _write(tracing / name, _WANTED[name])
        for path in traces:
            # The first write sets up tracing, of everything if that is not said.
            _write(path / "act_mask", "issue,complete")
            _write(path / "enable", "1")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        self.fd = os.open(tracing / "trace_pipe", flags)
        _write(tracing / "tracing_on", "1")

    def _widen(self, saved: dict[str, str]) -> None:
        n_cpus = os.cpu_count() or 1
        wanted = max(_LEAST_BUFFER_KB, min(BUFFER_KB, BUFFERS_KB // n_cpus))
        have = min(int(size) for name, size in saved.items() if name.endswith("buffer_size_kb"))
        if have >= wanted:
            return
        try:
            _write(self._tracing / "buffer_size_kb", str(wanted))
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            self._report(f"no memory for the tracer's buffers: they stay at {have} KiB each")

    # --- after -----------------------------------------------------------------------------------

    def _restore(self, state: dict[str, Any]) -> None:
        """Put back what was saved; complains where that fails."""
        tracing = Path(state["tracing"])
        failures: list[str] = []

        def put(path: Path, value: str) -> None:
            try:
                _write(path, value)
            except OSError as error:
                failures.append(f"{path} to {value} ({error.strerror})")

        for name in state["enables"]:
            if Path(name).exists():  # else the device has gone, and its tracing with it
                put(Path(name), "0")
        try:
            tracer = _read(tracing / "current_tracer")
        except OSError as error:
            tracer = error.strerror or "unknown"
        if tracer not in ("blk", "nop"):  # nop: we had not come to set it, or somebody ended it
            self.failed = True
            self._report(
                f"somebody has set the tracer to {tracer} meanwhile: its options are left alone"
            )
        else:
            put(tracing / "tracing_on", "0")
            saved = dict(state["saved"])
            tracing_on = saved.pop("tracing_on")
            for name in [name for name in saved if name.startswith("options/")]:
                put(tracing / name, saved.pop(name))
            put(tracing / "current_tracer", "nop")
            for name, value in saved.items():
                put(tracing / name, value)
            put(tracing / "tracing_on", tracing_on)
        if failures:
            self.failed = True
            self._report(f"the tracer could not be left as it was: set {', '.join(failures)}")
        else:
            with suppress(OSError):
                self._state_path.unlink(missing_ok=True)


def _find_tracefs(root: Path) -> Path:
    for place in _PLACES:
        try:
            # Not exists(): what may not be seen must not pass for what is not there.
            (root / place / "current_tracer").stat()
        except FileNotFoundError:
            continue
        return root / place
    raise CaptureError(
        f"tracefs is not mounted: mount -t tracefs tracefs {root / _PLACES[0]} makes it available"
    )


def _lock(root: Path) -> tuple[int, Path]:
    """Be the only one of us that traces: the lock, and where the state belongs."""
    directory = root / "run/blkiomon"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise CaptureError(f"{directory} is no directory that only root can write to")
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    state = directory / "tracefs.json"
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise CaptureError(
            "another blkiomon uses the kernel's tracer: one can trace several devices, with "
            "--trace for each"
        ) from None
    return fd, state


def _buffer_sizes(tracing: Path) -> dict[str, str]:
    text = _read(tracing / "buffer_size_kb")
    if not text.startswith("X"):
        # "7 (expanded: 1408)" until it is first used; there is no way back to that.
        size = text.partition("(expanded:")[2].rstrip(")").strip()
        return {"buffer_size_kb": size or text.split()[0]}
    sizes: dict[str, str] = {}
    for path in sorted(tracing.glob("per_cpu/cpu*/buffer_size_kb")):
        sizes[str(path.relative_to(tracing))] = _read(path).split()[0]
    return sizes


def _chosen(text: str) -> str:
    """Of ``[local] global``, the one in brackets."""
    return text.partition("[")[2].partition("]")[0] or text


def _read(path: Path) -> str:
    return path.read_text().strip()


def _write(path: Path, value: str) -> None:
    """Into a file that is there: a kernel's file takes it whole, or says why not."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(fd)


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def _explained(error: OSError, root: Path) -> CaptureError:
    where = error.filename or "tracefs"
    if error.errno in (errno.EPERM, errno.EACCES):
        mode = lockdown(root)
        if mode == "confidentiality":
            return CaptureError(
                "the kernel is locked down (confidentiality) and denies tracing: "
                "that takes Secure Boot off, or a kernel without lockdown"
            )
        return CaptureError(f"the kernel denies tracing ({where}: {error.strerror})")
    if error.errno == errno.EBUSY:
        return CaptureError(
            f"the kernel's tracer is in use by somebody else ({where}: {error.strerror})"
        )
    return CaptureError(f"cannot set up the kernel's tracer: {where}: {error.strerror}")
