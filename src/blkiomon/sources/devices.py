"""What this host calls a block device."""

from __future__ import annotations

import os
import stat
from pathlib import Path

ROOT = Path("/sys/dev/block")


def device_name(number: int, root: Path = ROOT) -> str | None:
    """The kernel's name of a device (``sdb``, ``dm-3``), None where the host has none such.

    Args:
        number: the kernel's, major << 20 | minor.
        root: a directory of links ``MAJOR:MINOR`` to devices.
    """
    try:
        target = (root / f"{number >> 20}:{number & 0xFFFFF}").readlink()
    except OSError:
        return None
    return target.name.replace("!", "/") or None  # sysfs' way to write cciss/c0d0


def device_number(name: str, root: Path = Path("/sys/class/block")) -> int | None:
    """The kernel's number of a device (``sdb``, ``/dev/sdb``), None where the host has none such.

    Args:
        name: the kernel's name, or the path of a device file.
        root: a directory of devices, each with its ``dev``.
    """
    try:
        if "/" in name:
            status = Path(name).stat()
            if not stat.S_ISBLK(status.st_mode):
                return None
            return os.major(status.st_rdev) << 20 | os.minor(status.st_rdev)
        major, _, minor = (root / name / "dev").read_text().partition(":")
        return int(major) << 20 | int(minor)
    except (OSError, ValueError):
        return None


class DeviceNames:
    """Looks names up, and remembers those it found: a device that comes later is found, too.

    Attributes:
        is_of_this_host: else there is no name for any device.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.is_of_this_host = True
        self._root = root
        self._known: dict[int, str] = {}

    def __call__(self, number: int) -> str | None:
        """As ``device_name``."""
        if not self.is_of_this_host:
            return None
        name = self._known.get(number) or device_name(number, self._root)
        if name is not None:
            self._known[number] = name
        return name


def nameless(number: int) -> str | None:
    """No name for any device: the trace may be of another host."""
    return None
