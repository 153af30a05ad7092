"""Live capture: we start the kernel's tracing ourselves, and leave the host as it was.

A back end is one file: ``tracefs`` (the kernel's ``blk`` tracer) and ``blktrace`` (the program).
Both hand out a descriptor, to be read like any other live input.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

Report = Callable[[str], None]


class CaptureError(Exception):
    """Tracing cannot be started; the text says why, and what would help."""


class Capture(ABC):
    """Tracing that runs; to be closed, whatever happens.

    Attributes:
        name: for messages.
        fd: where the records come from.
        drain_s: how long to wait for more of what had been traced when it was stopped.
        failed: it ended by itself, or the host could not be left as it was.
    """

    name: str
    fd: int
    drain_s = 0.0
    failed = False

    @property
    def lost_events(self) -> int:
        """Events lost, as far as they leave no mark among the records."""
        return 0

    @abstractmethod
    def stop(self) -> None:
        """Trace no more; what has been traced can still be read."""

    @abstractmethod
    def close(self) -> None:
        """Leave the host as it was found; never raises."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Device:
    """A block device of this host that can be traced.

    Attributes:
        name: the kernel's, as sysfs writes it.
        disk: of the whole disk; the same unless it is a partition.
    """

    name: str
    disk: str

    @property
    def path(self) -> str:
        """Its device file."""
        return "/dev/" + self.name.replace("!", "/")


def find_devices(names: Sequence[str], report: Report, root: Path = Path("/")) -> list[Device]:
    """The devices that are meant, each once.

    Args:
        names: the kernel's (``sda``) or paths of device files.
        report: tells the user one line.
        root: where ``sys`` is.

    Raises:
        CaptureError: one of them cannot be traced.
    """
    found: dict[str, Device] = {}
    for name in names:
        device = _find(name, root / "sys")
        _refuse_without_requests(name, device, root / "sys", report)
        others = [d for d in found.values() if d.disk == device.disk and d != device]
        if others:
            raise CaptureError(
                f"the kernel traces one of {others[0].name} and {device.name} at a time, as both "
                f"are on {device.disk}: trace {device.disk}"
            )
        found[device.name] = device
    return list(found.values())


def whole_disks(root: Path = Path("/")) -> list[str]:
    """The names of this host's disks: neither partitions, nor what is made of other devices."""
    disks = []
    for disk in sorted((root / "sys/block").glob("*")):
        # A loop device, a RAM disk, a volume has no hardware; a card reader may have no card.
        is_real = (disk / "device").exists() and (disk / "mq").exists()
        if is_real and _number_in(disk / "size") and not _number_in(disk / "hidden"):
            disks.append(disk.name)
    return disks


def _number_in(path: Path) -> int:
    """What a file of sysfs says; 0 where there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _find(name: str, sys: Path) -> Device:
    if "/" in name:
        try:
            status = Path(name).stat()
        except OSError as error:
            raise CaptureError(f"cannot trace {name}: {error.strerror}") from error
        if not stat.S_ISBLK(status.st_mode):
            raise CaptureError(f"cannot trace {name}: it is not a block device")
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        link = sys / "dev/block" / number
    else:
        link = sys / "class/block" / name
    try:
        is_there = name not in (".", "..") and link.exists()
    except OSError:  # its name is too long to be one
        is_there = False
    if not is_there:
        raise CaptureError(f"cannot trace {name}: this host has no such block device")
    path = link.resolve()
    if not (path / "trace/enable").exists():
        raise CaptureError(
            f"cannot trace {name}: the kernel offers no tracing for it "
            "(CONFIG_BLK_DEV_IO_TRACE is missing)"
        )
    is_partition = (path / "partition").exists()
    return Device(path.name, path.parent.name if is_partition else path.name)


def _refuse_without_requests(name: str, device: Device, sys: Path, report: Report) -> None:
    """A device without requests of its own is never seen to issue or complete one."""
    disk = sys / "class/block" / device.disk
    if (disk / "mq").exists():
        return
    try:
        below = sorted(entry.name for entry in (disk / "slaves").iterdir())
    except OSError:
        below = []
    if below or (disk / "dm").exists() or (disk / "md").exists():
        what = "device-mapper device" if (disk / "dm").exists() else "device made of others"
        advice = "trace the disks below it"
        if below:
            advice += ": " + " ".join(f"--trace {entry}" for entry in below)
        raise CaptureError(
            f"cannot trace {name}: a {what} has no issues and completions of its own; {advice}"
        )
    report(f"{name} shows no request queue: it may have no issues and completions to trace")


def lockdown(root: Path = Path("/")) -> str | None:
    """How far the kernel is locked down: "integrity" or "confidentiality"; None: it is not."""
    try:
        text = (root / "sys/kernel/security/lockdown").read_text()
    except OSError:
        return None
    mode = text.partition("[")[2].partition("]")[0]
    return mode if mode not in ("", "none") else None
