"""How findings name moments, paths and ports."""

from __future__ import annotations

from typing import Any

from blkiomon.commands.san.facts import Lun
from blkiomon.console import printable
from blkiomon.formats.units import time_text, utc
from blkiomon.interval.value import Interval
from blkiomon.sources.topology import Device, Transport


def clock(time_ns: int, within: Interval, *, is_fine: bool) -> str:
    """A moment: its time of day in UTC, with its date unless ``within`` ends on that day.

    Without the time of day: time since the trace's first record, as in ``--from``. ``zone`` says
    which.
    """
    if not within.anchored:
        return time_text(time_ns)
    day, of_day = utc(time_ns)[: 23 if is_fine else 19].split("T")
    return of_day if day == utc(within.end_ns)[:10] else f"{day} {of_day}"


def zone(within: Interval) -> str:
    """What follows a moment, or several."""
    return " UTC" if within.anchored else " after the start"


def plain_name(device: Device) -> str:
    return printable(device.alias or device.name)


def leading(path: Device) -> str:
    """A path and the port that it leads to."""
    port = (path.transport or Transport()).target_port
    return printable(f"{path.name} to {port}" if port else path.name)


def described(path: Device, lun: Lun) -> str:
    port = (path.transport or Transport()).target_port
    return printable(f"{path.name}, a path of {lun.name}" + f" to {port}" * bool(port))


def identity(path: Device, lun: Lun) -> dict[str, Any]:
    via = path.transport or Transport()
    return {"lun": lun.name, "target_port": via.target_port, "array": path.array}
