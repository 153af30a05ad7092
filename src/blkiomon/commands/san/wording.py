"""How findings name moments, paths and ports."""

from __future__ import annotations

from typing import Any

from blkiomon.commands.san.facts import Lun, luns_of
from blkiomon.console import printable
from blkiomon.formats.units import time_text, utc
from blkiomon.interval.value import Interval
from blkiomon.sources.topology import Device, Topology, Transport


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
    return f"{printable(path.name)}, {belonging(path, lun)}"


def belonging(path: Device, lun: Lun) -> str:
    port = (path.transport or Transport()).target_port
    return printable(f"a path of {lun.name}" + f" to {port}" * bool(port))


def belongings(topology: Topology) -> dict[int, str]:
    """Where each path belongs, by its number: ``a path of mpatha to 10.10.2.1:3260,1``."""
    return {
        path.number: belonging(path, lun)
        for lun in luns_of(topology)
        for path in lun.paths
        if path.number is not None
    }


def identity(path: Device, lun: Lun) -> dict[str, Any]:
    via = path.transport or Transport()
    return {"lun": lun.name, "target_port": via.target_port, "array": path.array}
