"""``--by`` and ``--topology``: which view a command shows, and how the devices are connected."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from blkiomon.commands.options import Option, Selection, UsageError, no_stream, one_of
from blkiomon.console import complain, printable
from blkiomon.errors import SourceError

if TYPE_CHECKING:
    from argparse import Namespace

    from blkiomon.commands.table import Column, DeviceFigures
    from blkiomon.interval.value import Interval
    from blkiomon.interval.views import LeftOut, View
    from blkiomon.sources.topology import Topology

DEVICE = "device"

BY = Option(
    "--by=device|lun|path|port|hba|array",
    "add up what belongs together on a SAN (default: device); needs a topology",
    read=one_of(DEVICE, "lun", "path", "port", "hba", "array"),
    default=DEVICE,
)
TOPOLOGY = Option(
    "--topology=FILE",
    "how the devices are connected (default: NAME.topology.json beside a trace; a capture reads "
    "this host)",
    read=no_stream("a file, not standard input"),
)


def find_topology(
    by: str, file: str | None, traces: Sequence[str], *, is_live: bool = False
) -> Topology | None:
    """The topology of the traced host; None if none is needed, and there is none to read.

    Complains about a saved one that cannot be read and is not needed.

    Args:
        by: what ``--by`` says: all but ``device`` needs a topology.
        file: what ``--topology`` names.
        traces: as the user named them.
        is_live: devices of this host are captured.

    Raises:
        SourceError: it is needed or named, and cannot be read.
    """
    from pathlib import Path

    from blkiomon.commands.topology import load
    from blkiomon.sources.trace_sets import topology_beside

    if file is not None:
        return load(file)
    if is_live:
        from blkiomon.sources.topology import read_topology

        try:
            return read_topology()
        except OSError as error:
            if by == DEVICE:
                return None
            raise SourceError(f"cannot read {error.filename}: {error.strerror}") from error
    if (beside := _saved_beside(traces)) is not None:
        try:
            return load(beside)
        except SourceError as error:
            if by != DEVICE:
                raise
            complain(
                f"{error}; going on without it: remove it, or name another file with --topology"
            )
    if by == DEVICE:
        return None
    wanted = topology_beside(traces[0]) if traces else ""
    if not wanted or "-" in traces:
        raise SourceError(f"--by {by} needs the traced host's topology: --topology FILE names it")
    raise SourceError(
        f"--by {by} needs the traced host's topology, and there is no {wanted}; on that host, "
        f"`blkiomon topology -o {Path(wanted).name}` writes it; --topology names another file"
    )


def _saved_beside(traces: Sequence[str]) -> str | None:
    """The file with the topology of the first trace that has one."""
    from pathlib import Path

    from blkiomon.sources.trace_sets import topology_beside

    for name in traces:
        # A trace that cannot be looked for has none: opening it says what is wrong.
        with contextlib.suppress(OSError, ValueError):
            if name != "-" and Path(beside := topology_beside(name)).is_file():
                return beside
    return None


def selected(given: Namespace, traces: Sequence[str]) -> Selection:
    """What the options ``SELECTION`` select.

    Args:
        given: the options, ``TOPOLOGY`` among them.
        traces: as the user named them; none: devices of this host are captured.

    Raises:
        UsageError: a device cannot be found, or the period is impossible.
    """
    return Selection.of(given, device_numbers(given.device, given.topology, traces))


def device_numbers(
    texts: Sequence[str], topology: str | None = None, traces: Sequence[str] = ()
) -> tuple[int, ...]:
    """The numbers of devices that ``--device`` names, each once, in the order of the names.

    A name is one of the traced host if its topology is known, otherwise one of this host.

    Args:
        texts: as the user wrote them.
        topology: what ``--topology`` names.
        traces: as the user named them; none: devices are those of this host.

    Raises:
        UsageError: a device cannot be found, or has different numbers in the traces, or a topology
            with its name cannot be read.
    """
    if not texts:
        return ()
    from blkiomon.interval.devices import number_of, parsed  # imports numpy

    try:
        numbers = {text: parsed(text.replace(",", ":")) for text in texts}
        names = [text for text, number in numbers.items() if number is None]
        hosts = _devices_of_hosts(topology, traces) if names and traces else []
        find = partial(_number_on, hosts) if hosts else number_of
        numbers |= {name: find(name) for name in names}
    except (ValueError, SourceError) as error:
        raise UsageError(f"--device: {error}") from None
    return tuple(dict.fromkeys(n for n in numbers.values() if n is not None))


def _devices_of_hosts(topology: str | None, traces: Sequence[str]) -> list[dict[str, int]]:
    """The devices of each traced host whose topology was saved: numbers by name.

    Raises:
        SourceError: a topology cannot be read.
    """
    from blkiomon.commands.topology import load

    if topology is not None:
        files = [topology]
    else:
        files = [file for name in traces if (file := _saved_beside([name])) is not None]
    return [
        {
            name: device.number
            for device in load(file).devices
            for name in (device.name, device.alias)
            if name and device.number is not None
        }
        for file in dict.fromkeys(files)
    ]


def _number_on(hosts: Sequence[Mapping[str, int]], text: str) -> int:
    """The number of a device on the traced hosts.

    Raises:
        ValueError: no topology has the device, or it has different numbers in them.
    """
    name = text.removeprefix("/dev/").removeprefix("mapper/")
    found = {devices[name] for devices in hosts if name in devices}
    if not found:
        raise ValueError(
            f"the topology of the traced host has no device {text!r}; `blkiomon topology TRACE` "
            "prints the names that it has"
        )
    if len(found) > 1:
        raise ValueError(f"{text} has different numbers in these traces: name it by its number")
    return found.pop()


def view_of(topology: Topology | None, by: str) -> View | None:
    """The view that ``--by`` asks for; None for devices."""
    from blkiomon.interval.views import View

    return None if topology is None or by == DEVICE else View(topology, by)


# --- a view as rows of a table --------------------------------------------------------------------

INDENT = "  "
"""Before the name of a path below its map."""


class Entry(NamedTuple):
    """A device or a group of devices as a row of a table; ``about`` is its size, model or port."""

    name: str
    about: str
    figures: DeviceFigures


def view_rows(view: View, shown: Interval, groups: Iterable[DeviceFigures]) -> Iterator[Entry]:
    """The groups of a view in their order; by path those of a LUN together, below their map.

    Args:
        view: which made ``shown``.
        groups: of ``shown``, in the order that is wanted.
    """
    from blkiomon.commands.table import by_device
    from blkiomon.formats.units import device_text

    maps = {}
    if shown.maps is not None:
        maps = {found.number: found for found in by_device(shown.maps.groups())}
    luns: dict[int, list[Entry]] = {}
    for found in groups:
        number = found.number
        name = shortened(printable(view.name_of(number) or device_text(number)))
        above = view.map_of(number)
        about = printable(view.about(number))
        if above in maps:
            name = INDENT + name
        elif above is not None:
            about = f"{view.name_of(above)} {about}"
        luns.setdefault(number if above is None else above, []).append(Entry(name, about, found))
    for number, entries in luns.items():
        if number in maps:
            yield Entry(printable(view.name_of(number) or ""), "", maps.pop(number))
        yield from entries
    for number, found in maps.items():  # maps whose paths are all idle
        yield Entry(printable(view.name_of(number) or ""), "", found)


def view_columns(view: View) -> list[Column]:
    """The first columns of its table: the name of a group, and what is known of it."""
    from dataclasses import replace

    from blkiomon.commands.table import ABOUT_COLUMN, DEVICE_COLUMN

    title = "port" if view.by == "path" else "of"
    return [
        replace(DEVICE_COLUMN, title=view.by),
        replace(ABOUT_COLUMN, title=title, drop=5 if view.by == "path" else 10),
    ]


MOST_NAMED = 4
"""Devices of a kind that are named as left out."""

MOST_CHARACTERS = 32


def shortened(name: str, most: int = MOST_CHARACTERS) -> str:
    """A name without its middle, if it is too long for a table: ends of names are specific."""
    if len(name) <= most:
        return name
    return f"{name[: most // 3]}…{name[most // 3 + 1 - most :]}"


def left_out_text(left_out: Iterable[LeftOut]) -> str:
    """What a view leaves out, in a line; empty if nothing."""
    kinds = []
    for why, items in groupby(left_out, lambda item: item.why):
        names = [printable(item.name) for item in items]
        more = len(names) - MOST_NAMED
        kinds.append(f"{why}: {', '.join(names[:MOST_NAMED])}" + f" and {more:,} more" * (more > 0))
    return f"Left out are {'; '.join(kinds)}." if kinds else ""
