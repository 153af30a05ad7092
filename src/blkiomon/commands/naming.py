"""What a name on the command line is: a trace, or a block device of this host."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from blkiomon.commands.options import UsageError, captured
from blkiomon.commands.views import selected
from blkiomon.console import complain
from blkiomon.errors import SourceError
from blkiomon.sources.devices import device_number, with_relatives
from blkiomon.sources.trace_sets import find_members, input_files, without_topologies

if TYPE_CHECKING:
    from argparse import Namespace


def is_trace(name: str) -> bool:
    """Whether a trace of this name exists. The path of a device is never a trace."""
    if "/" in name and is_device(name):
        return False
    try:
        return bool(find_members([name]))
    except (SourceError, ValueError):
        return False


def is_device(name: str) -> bool:
    """Whether this host has a block device of this name or path."""
    return "\0" not in name and device_number(name) is not None


def is_meant_as_trace(name: str) -> bool:
    """Whether the user means a trace, even if it does not exist: no command has a / or a dot."""
    return "/" in name or "." in name or os.path.lexists(name)


def refuse_other_words(name: str) -> None:
    """Check a word that has to be a trace, or a device: see ``refuse_devices``.

    Raises:
        SourceError: it is meant as a trace, but cannot be read.
        UsageError: it is neither.
    """
    if not name or "\0" in name:
        raise UsageError("an argument is empty: name a trace by its path")
    if is_device(name):
        return
    try:
        find_members([name])
    except SourceError as error:
        if is_meant_as_trace(name) or "no such file" not in str(error):
            raise
        raise UsageError(
            f"{name} is neither a trace nor a block device nor a command; `blkiomon help` "
            "lists the commands"
        ) from None


def devices_and_traces(
    names: Sequence[str], traces: Sequence[str], command: str
) -> tuple[list[str], list[str]]:
    """Devices and traces of a command that takes either. A name that is both means the device.

    Args:
        names: of devices or traces.
        traces: names that were given with ``--file``.
        command: its name.

    Raises:
        UsageError: there are devices and traces, or a name is empty.
        SourceError: a name is neither.
    """
    if any(not name or "\0" in name for name in (*names, *traces)):
        raise UsageError("an argument is empty: name a device or a trace")
    names = [_kernel_name(name) for name in names]
    devices = [name for name in names if is_device(name)]
    others = [name for name in names if name not in devices]
    try:
        if others:
            find_members(others)
    except SourceError as error:
        raise SourceError(f"{error}, and this host has no such block device") from error
    found = [*traces, *others]
    if devices and found:
        raise UsageError(
            f"{command} shows devices or traces, not both: {devices[0]} is a device of this host, "
            f"and {found[0]} is not"
        )
    if "-" in found and os.isatty(0):
        raise UsageError("standard input is a terminal; a trace is expected there")
    for name in devices:
        if "/" not in name and is_trace(name):
            complain(
                f"{name} is a device of this host and a trace in this directory: using the "
                f"device; `blkiomon ./{name}` reads the trace"
            )
    return devices, found


def _kernel_name(name: str) -> str:
    """The name of a device for its number; any other name as it is."""
    with suppress(UsageError):  # no device can have that number
        return captured("", name)
    return name


def require_traces(names: Sequence[str]) -> None:
    """Check the names of traces. Raises UsageError: none is given, or one is empty."""
    if not names or any(not name or "\0" in name for name in names):
        raise UsageError("the trace is missing: name it by its path")


def watched(given: Namespace, names: Sequence[str], command: str) -> dict[str, Any]:
    """What ``stat`` and ``top`` watch: fields of ``Config``.

    Args:
        given: the options: ``SELECTION``, FILE, QUEUE_TIMES, BY and TOPOLOGY.
        names: of devices or traces. Empty: standard input if ``is_fed``, else all disks.
        command: its name.

    Raises:
        UsageError, SourceError: see ``devices_and_traces``; or there is nothing to capture.
    """
    devices, files = devices_and_traces(names, given.file, command)
    if not files and not devices and not is_fed():
        from blkiomon.sources.capture import ALL, all_disks

        if not all_disks():
            raise SourceError("this host has no disks: name the devices to capture")
        devices = [ALL]
    if given.queue and not devices:
        raise UsageError("--queue needs a device to capture")
    return {
        "files": tuple(files),
        "trace": with_relatives(devices, given.by),
        "queue": given.queue,
        "by": given.by,
        "topology": given.topology,
        "selection": selected(given, files),
    }


def refuse_traces(names: Iterable[str]) -> None:
    """Raise SourceError, which says what to type instead, if --trace names only a trace."""
    for name in names:
        if name != "all" and not is_device(name) and is_trace(name):
            raise SourceError(
                f"{name} is not a block device: `blkiomon {name}` reads it as a trace"
            )


def refuse_devices(names: Iterable[str]) -> None:
    """Raise SourceError, which says what to type instead, if a name is only a device."""
    for name in names:
        if is_device(name) and not is_trace(name):
            raise SourceError(
                f"{name} is a block device: `blkiomon stat {name}` watches it, "
                f"`blkiomon record -o NAME --trace {name}` records a trace"
            )


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names without topologies, and those whose files earlier names have, by device and inode.

    Raises:
        SourceError: see ``find_members``.
    """
    names = without_topologies(names)
    kept: list[str] = []
    seen: set[tuple[int, int]] = set()
    for name in names if len(names) > 1 else ():
        files = input_files([name])
        if name not in kept and not (files and files <= seen):
            kept.append(name)
        seen |= files
    return kept or names


def is_fed() -> bool:
    """Whether standard input is a pipe, a socket or a file."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
