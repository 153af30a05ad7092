"""``blkiomon topology``: prints arrays, LUNs and paths of this host or of a recorded one."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator
from itertools import zip_longest

from blkiomon.commands.options import (
    FOLLOW_SYMLINKS,
    HELP,
    OVERWRITE,
    WIDTH,
    Command,
    Option,
    UsageError,
    path,
)
from blkiomon.commands.parsing import parsed
from blkiomon.console import EXIT_OK, EXIT_OUTPUT, complain, printed
from blkiomon.errors import SourceError
from blkiomon.formats.topology import decode, encode
from blkiomon.formats.units import NONE, bytes_text
from blkiomon.outputs.opening import Policy, write_whole
from blkiomon.sources.topology import Device, Topology, Transport, order, read_topology
from blkiomon.sources.trace_sets import topology_beside

MOST_BYTES = 1 << 28
"""Of a topology file; 2,000 devices take 2 MB."""

COMMAND = Command(
    "topology",
    ("blkiomon topology [--json] [-o FILE] [--sysfs DIR]", "blkiomon topology [--json] TRACE"),
    """
    Print how the block devices of this host are connected: arrays, their LUNs, the paths of each
    LUN with port and state, then other disks, volumes and host ports. It reads sysfs, and needs
    neither root nor multipathd.

    With TRACE, print the topology that `blkiomon record` has saved beside the trace. TRACE may also
    be the file itself, such as run1.topology.json.
    """,
    (
        Option("--json", "print JSON, which has more facts than the tree"),
        Option(
            "-o, --output=FILE",
            "save JSON to FILE; name it NAME.topology.json to keep it with the trace NAME",
            read=path,
            is_output=True,
        ),
        Option(
            "--sysfs=DIR", "read a copy of sysfs: DIR contains sys and, if copied, proc", read=path
        ),
        OVERWRITE,
        FOLLOW_SYMLINKS,
        HELP,
    ),
    """
    Exit status: 0; 2 for a usage error; 3 if the topology cannot be read; 4 if it could not be
    written.
    """,
    (
        ("blkiomon topology", ""),
        ("blkiomon topology -o run1.topology.json && blktrace -d /dev/sdb -o run1", ""),
        ("blkiomon topology run1", ""),
    ),
)


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon topology`` with these options; returns the exit status."""
    _check(given)
    if given.operands:
        topology = load(topology_beside(given.operands[0]))
    else:
        topology = _read(given.sysfs or "/")
    if given.output is not None:
        policy = Policy(follow=given.follow_symlinks, overwrite=given.overwrite)
        return EXIT_OK if save(topology, given.output, policy) else EXIT_OUTPUT
    if given.json:
        return printed([encode(topology).decode()])
    from blkiomon.commands.table import for_locale  # imports numpy

    return printed(for_locale(f"{line}\n") for line in tree(topology))


def _check(given: Namespace) -> None:
    """Raises UsageError if the arguments make no sense."""
    if len(given.operands) > 1 or any(not name or "\0" in name for name in given.operands):
        raise UsageError("topology takes one trace, or none for this host")
    if given.operands == ["-"]:
        raise UsageError("topology takes the name of a trace, not standard input (-)")
    if given.operands and (given.sysfs or given.output):
        raise UsageError("--sysfs and -o read this host or a copy of sysfs: use them without TRACE")
    if given.output is not None and given.json:
        raise UsageError("-o saves JSON, and --json prints it: use one of them")
    if given.output == "-":
        raise UsageError("-o takes a file; --json prints to standard output")


def _read(root: str) -> Topology:
    """The topology of this host or of a copy of sysfs. Raises SourceError."""
    try:
        return read_topology(root)
    except OSError as error:
        hint = "" if root == "/" else "; name the directory that contains the copy of sys"
        raise SourceError(f"cannot read {error.filename}: {error.strerror}{hint}") from error


def load(name: str) -> Topology:
    """The topology in a file. Raises SourceError: it cannot be read."""
    try:
        with open(name, "rb") as file:
            return decode(file.read(MOST_BYTES))
    except FileNotFoundError:
        raise SourceError(
            f"cannot open {name}: no such file; on the traced host, "
            f"`blkiomon topology -o {name}` writes it"
        ) from None
    except SourceError as error:  # an OSError, too
        raise SourceError(f"{name}: {error}") from None
    except OSError as error:
        raise SourceError(f"cannot read {name}: {error.strerror}") from error


def save(topology: Topology, name: str, policy: Policy) -> bool:
    """Write or replace a topology's file; complains and returns False if that fails."""
    try:
        write_whole(name, lambda file: file.write(encode(topology)), policy)
    except OSError as error:
        complain(f"could not write to {name}: {error.strerror}")
        return False
    return True


# --- the tree -------------------------------------------------------------------------------------

TreeRow = tuple[int, list[str]]
"""The indentation of a line in columns, and its cells."""

_UP = frozenset({None, "Online", "LOGGED_IN", "up"})
"""Normal states of ports, sessions and connections, which are not printed."""


def tree(topology: Topology) -> Iterator[str]:
    """Lines: arrays, their LUNs and paths; then disks, volumes and initiators."""
    devices = {device.name: device for device in topology.devices}
    sections: list[list[str]] = []
    if topology.hostname:
        sections.append([f"{topology.hostname}, Linux {topology.kernel or NONE}"])
    for array in topology.arrays:
        words = " ".join(word for word in (array.vendor, array.model, array.serial) if word)
        head = _wrapped(0, [words or "Unknown array", *array.targets])
        sections.append([*head, *_lines(_lun_rows(devices, array.name))])
    for title, rows in (
        ("Disks", list(_disk_rows(devices))),
        ("Volumes", list(_volume_rows(devices))),
        ("Initiators", list(_initiator_rows(devices))),
    ):
        if rows:
            sections.append([title, *_lines(rows)])
    memory = [d.name for d in topology.devices if d.kind == "virtual" and not d.made_of]
    if memory:
        sections.append(["Loop devices, RAM disks and others", *_wrapped(2, memory)])
    for n, section in enumerate(sections):
        yield from [""] * bool(n)
        yield from section


def _lun_rows(devices: dict[str, Device], array: str) -> Iterator[TreeRow]:
    """LUNs of an array, each with its paths. Paths without a map belong together by their WWID."""
    luns: dict[str, list[Device]] = {}
    for device in devices.values():
        if device.array == array and device.transport is not None:
            luns.setdefault(device.map or f"no map {device.wwid or device.name}", []).append(device)
    for key, paths in luns.items():
        lun = devices.get(key, paths[0])
        name = f"{lun.alias or ''} {lun.name}".strip() if key in devices else "no map"
        suspended = ["suspended"] * (lun.state == "suspended")
        yield 2, [name, _size(lun), lun.wwid or NONE, *suspended]
        for device in paths:
            yield 4, _path_cells(device)


def _disk_rows(devices: dict[str, Device]) -> Iterator[TreeRow]:
    """Disks that belong to no array; the paths of a local NVMe disk if it has several."""
    for device in devices.values():
        if device.kind not in ("disk", "nvme-head", "path") or device.array is not None:
            continue
        via = device.transport or Transport()
        words = " ".join(word for word in (device.vendor, device.model) if word)
        state = [] if device.state in (None, "running", "live") else [device.state]
        yield 2, [device.name, _size(device), via.protocol or via.driver or NONE, words, *state]
        for name in device.made_of if len(device.made_of) > 1 else ():
            yield 4, _path_cells(devices[name])


def _volume_rows(devices: dict[str, Device]) -> Iterator[TreeRow]:
    """Devices made of others, except maps and NVMe heads: these are shown with their array."""
    for device in devices.values():
        is_lun = device.array is not None or device.kind == "nvme-head"
        if is_lun or not (device.made_of or device.kind == "multipath"):
            continue
        parts = ", ".join(devices[name].alias or name for name in device.made_of)
        name = f"{device.alias or ''} {device.name}".strip()
        state = [] if device.state in (None, "running", "clean", "active") else [device.state]
        yield 2, [name, device.kind, _size(device), f"on {parts}" if parts else "no path", *state]


def _initiator_rows(devices: dict[str, Device]) -> Iterator[TreeRow]:
    """Ports of this host, each with its SCSI hosts or NVMe controllers."""
    ports: dict[tuple[str, ...], list[str]] = {}
    for device in devices.values():
        via = device.transport
        if via is None or via.initiator is None or device.array is None:
            continue
        speed = f"{via.speed_gbit_per_s} Gbit/s" if via.speed_gbit_per_s else ""
        facts = [fact for fact in (speed, via.initiator_state or "") if fact]
        hosts = ports.setdefault((via.protocol or NONE, via.initiator, *facts), [])
        if via.host is not None and via.host not in hosts:
            hosts.append(via.host)
    for (protocol, initiator, *facts), hosts in ports.items():
        yield 2, [protocol, initiator, *sorted(hosts, key=order), *facts]


def _path_cells(device: Device) -> list[str]:
    via = device.transport or Transport()
    faults = [
        f"{what} {state}"
        for what, state in (
            ("session" if via.protocol == "iscsi" else "remote port", via.target_state),
            ("connection", via.connection_state),
            ("host port", via.initiator_state),
        )
        if state not in _UP
    ]
    target_port = via.target_port and via.target_port.partition(",t,")[0]  # without its group
    port = " ".join(word for word in (via.protocol or via.driver, target_port) if word)
    access = (device.access_state or NONE).removeprefix("active/")
    state = ", ".join([device.state or NONE, *faults])
    return [device.name, device.hctl or via.host or NONE, port or NONE, access, state]


def _size(device: Device) -> str:
    return NONE if device.size_bytes is None else bytes_text(device.size_bytes)


def _lines(rows: Iterable[TreeRow]) -> Iterator[str]:
    """Rows in columns if they fit; rows of equal indentation share their columns."""
    by_indent: dict[int, list[list[str]]] = {}
    rows = list(rows)
    for indent, cells in rows:
        by_indent.setdefault(indent, []).append(cells)
    widths = {
        indent: [max(map(len, column)) for column in zip_longest(*of, fillvalue="")]
        for indent, of in by_indent.items()
    }
    for indent, cells in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths[indent]))
        line = f"{'':{indent}}{line}".rstrip()
        yield from [line] if len(line) <= WIDTH else _wrapped(indent, cells)


def _wrapped(indent: int, cells: Iterable[str]) -> Iterator[str]:
    """Cells in as many lines as they need; a cell is never broken."""
    line = " " * indent
    for cell in filter(None, cells):
        if line.strip() and len(line) + len(cell) > WIDTH:
            yield line.rstrip()
            line = " " * (indent + 4)
        line += f"{cell}  "
    yield line.rstrip()
