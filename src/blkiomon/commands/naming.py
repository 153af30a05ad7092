"""What a name on the command line is: a trace, or a block device of this host."""

from __future__ import annotations

from collections.abc import Iterable

from blkiomon.errors import SourceError
from blkiomon.sources.devices import device_number
from blkiomon.sources.trace_sets import find_members


def is_trace(name: str) -> bool:
    """Whether a trace of this name exists. The path of a device is none."""
    if "/" in name and is_device(name):
        return False
    try:
        return bool(find_members([name]))
    except (SourceError, ValueError):
        return False


def is_device(name: str) -> bool:
    """Whether this host has a block device of this name or path."""
    return "\0" not in name and device_number(name) is not None


def refuse_devices(names: Iterable[str]) -> None:
    """Raise SourceError if a name is a device and no trace; it says what to type instead."""
    for name in names:
        if is_device(name) and not is_trace(name):
            raise SourceError(
                f"{name} is a block device: `blkiomon top {name}` watches it, "
                f"`blkiomon record -o NAME --trace {name}` records a trace"
            )
