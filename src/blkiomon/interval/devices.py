"""Devices as users name them."""

from __future__ import annotations

from blkiomon.interval import arguments
from blkiomon.sources.devices import device_number

DeviceId = int | str
"""A device: its number (``major << 20 | minor``), ``"8:16"``, or its name on this host."""


def number_of(device: DeviceId) -> int:
    """The number of a device, ``major << 20 | minor``.

    Raises:
        ValueError: the device does not exist.
        TypeError: it is neither an integer nor text.
    """
    if not isinstance(device, str):
        try:
            number = arguments.whole("device", device)
        except TypeError:
            raise arguments.wrong("a device", 'a number, "8:16" or "sdb"', device) from None
        if not 0 <= number < 1 << 32:
            raise ValueError(f"a device number is from 0 to 2^32-1, not {number}")
        return number
    if (written := parsed(device.replace(",", ":"))) is not None:
        return written
    found = None if "\0" in device else device_number(device)
    if found is None:
        raise ValueError(
            f"this host has no block device {device!r}; name a device of another host by its "
            "number, such as 8:16"
        )
    return found


def parsed(text: str) -> int | None:
    """The number of a device as ``text_of`` writes it; None for any other text.

    Raises:
        ValueError: no device can have that number.
    """
    major, _, minor = text.partition(":")
    if not (major.isdecimal() and minor.isdecimal() and text.isascii()):
        return None
    if len(text) < 20 and int(major) < 1 << 12 and int(minor) < 1 << 20:
        return int(major) << 20 | int(minor)
    raise ValueError(f"device {text} cannot exist: the limits are {(1 << 12) - 1}:{(1 << 20) - 1}")


def text_of(number: int) -> str:
    """A device number as sysfs and lsblk write it: ``8:16``."""
    return f"{number >> 20}:{number & 0xFFFFF}"
