"""Names and numbers of this host's block devices."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

SYS_DEV_BLOCK = Path("/sys/dev/block")


class HiddenPaths:
    """The hidden paths of NVMe multipath. Their numbers are in /proc/diskstats, not in sysfs.

    Args:
        root: where ``proc`` is.

    Attributes:
        numbers: major << 20 | minor, by name.
        of_head: these numbers, by the name of the head.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.numbers: dict[str, int] = {}
        self.of_head: dict[str, tuple[int, ...]] = {}
        with contextlib.suppress(OSError):
            for line in (root / "proc/diskstats").read_text().splitlines():
                major, minor, name, *_ = line.split()
                if parts := re.fullmatch(r"(nvme\d+)c\d+(n\d+)", name):
                    self.numbers[name] = number = int(major) << 20 | int(minor)
                    head = parts[1] + parts[2]
                    self.of_head[head] = (*self.of_head.get(head, ()), number)


def device_name(number: int, root: Path = SYS_DEV_BLOCK) -> str | None:
    """The kernel's name of a device (``sdb``, ``dm-3``); None if this host has no such device.

    Args:
        number: the kernel's, major << 20 | minor.
        root: a directory of symbolic links ``MAJOR:MINOR`` to devices.
    """
    try:
        target = (root / f"{number >> 20}:{number & 0xFFFFF}").readlink()
    except OSError:
        numbers = HiddenPaths().numbers if root == SYS_DEV_BLOCK else {}
        return next((name for name, known in numbers.items() if known == number), None)
    return target.name.replace("!", "/") or None  # sysfs writes cciss/c0d0 as cciss!c0d0


def kernel_name(name: str, root: Path = Path("/sys/class/block")) -> str:
    """The kernel's name of a volume of the device mapper (``mpatha``); other names as they are."""
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        if "/" not in name and not (root / name).exists():
            for path in root.glob("dm-*/dm/name"):
                if path.read_text().removesuffix("\n") == name:
                    return path.parent.parent.name
    return name


def device_number(name: str, root: Path = Path("/sys/class/block")) -> int | None:
    """The kernel's number of a device; None if this host has no such device.

    Args:
        name: the kernel's name (``sdb``), that of a volume of the device mapper (``mpatha``), or
            the path of a device file (``/dev/sdb``).
        root: a directory of devices, each a directory with a file ``dev``.
    """
    try:
        if "/" in name:
            status = Path(name).stat()
            if not stat.S_ISBLK(status.st_mode):
                return None
            return os.major(status.st_rdev) << 20 | os.minor(status.st_rdev)
        major, _, minor = (root / kernel_name(name, root) / "dev").read_text().partition(":")
        return int(major) << 20 | int(minor)
    except (OSError, ValueError):
        return HiddenPaths().numbers.get(name)


_RELATIVES = {"path": "slaves", "port": "slaves", "hba": "slaves", "lun": "holders"}


def with_relatives(
    names: Iterable[str], by: str, root: Path = Path("/sys/class/block")
) -> tuple[str, ...]:
    """Devices, and the related ones that a view of them needs.

    By path, port or HBA, a multipath map needs its paths. By LUN, a path needs its map.

    Args:
        names: as for ``device_number``.
        by: the view, see ``--by``.
        root: a directory of devices.
    """
    found = dict.fromkeys(names)
    for name in tuple(found) if by in _RELATIVES else ():
        number = device_number(name) if "/" in name else None
        kernel = kernel_name(name, root) if number is None else device_name(number) or name
        device = root / kernel.replace("/", "!")
        with contextlib.suppress(OSError, ValueError):  # not such a device
            for relative in sorted((device / _RELATIVES[by]).iterdir()):
                of_map = device if by != "lun" else relative
                if (of_map / "dm/uuid").read_text().startswith("mpath-"):
                    found[relative.name.replace("!", "/")] = None
    return tuple(found)


class DeviceNames:
    """Looks up device names. Caches names, not misses: a device may appear later.

    Attributes:
        is_of_this_host: the trace was recorded here. If it was not, no device has a name.
    """

    def __init__(self, root: Path = SYS_DEV_BLOCK) -> None:
        self.is_of_this_host = True
        self._root = root
        self._known: dict[int, str] = {}

    def __call__(self, number: int) -> str | None:
        """See ``device_name``."""
        if not self.is_of_this_host:
            return None
        if number not in self._known and (name := device_name(number, self._root)):
            self._known[number] = name
        return self._known.get(number)


def nameless(number: int) -> str | None:
    """No name for any device: the trace may come from another host."""
    return None
