"""How long does it take to read the topology of a SAN host, to write it, and to make views?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.report import Options, Table
from blkiomon.commands.san.tracker import Tracker
from blkiomon.commands.topology import tree
from blkiomon.engine import layout
from blkiomon.formats.topology import decode, encode
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.value import Interval
from blkiomon.interval.views import BY, View
from blkiomon.sources.topology import Topology, read_topology, refresh_topology

Files = Mapping[str, str | bytes]
"""Contents by path."""


def write_files(directory: Path, files: Files) -> None:
    """Write attributes of sysfs; text gets the newline that the kernel appends."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())


def add_device(root: Path, path: str, number: str, files: Files) -> None:
    """Add a block device, below sys/devices, and its link in sys/class/block."""
    major, minor = number.split(":")
    kind = "partition" if "partition" in files else "disk"
    facts = f"MAJOR={major}\nMINOR={minor}\nDEVNAME={path.rpartition('/')[2]}\nDEVTYPE={kind}"
    directory = root / "sys/devices" / path
    write_files(directory, {"uevent": facts, "dev": number, "size": "262144", **files})
    if directory.parent.name == "block" and not path.startswith("virtual"):
        (directory / "device").symlink_to("../..")
    link = root / "sys/class/block" / directory.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"../../devices/{path}")


def disk_name(number: int) -> str:
    """The name that the kernel gives a SCSI disk: sda, ..., sdz, sdaa."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"sd{letters}"


def make_host(root: Path, luns: int) -> None:
    """Make the sysfs of a host with two Fibre Channel ports and four paths to each LUN."""
    sys = root / "sys/devices"
    disks = 0
    for host in (1, 2):
        base = f"pci0000:00/0000:00:0{host}.0/host{host}"
        local: Files = {
            "port_name": f"0x2100000e1e00000{host}",
            "node_name": f"0x2000000e1e00000{host}",
            "port_state": "Online",
            "speed": "32 Gbit",
        }
        write_files(sys / f"{base}/fc_host/host{host}", local)
        write_files(sys / f"{base}/scsi_host/host{host}", {"proc_name": "qla2xxx"})
        for target in (0, 1):
            rport = f"rport-{host}:0-{target}"
            port = f"500507680b2{host}{target}1a0"
            remote: Files = {
                "port_name": f"0x{port}",
                "node_name": "0x500507680b00a1b2",
                "port_state": "Online",
            }
            write_files(sys / f"{base}/{rport}/fc_remote_ports/{rport}", remote)
            for lun in range(luns):
                hctl = f"{host}:0:{target}:{lun}"
                wwid = f"600507680b80{lun:020x}"
                name = disk_name(disks)
                device = f"{base}/{rport}/target{host}:0:{target}/{hctl}"
                page = bytes.fromhex(
                    f"01030010{wwid}61930008{port}6194000400000001619500040000000{target}"
                )
                attributes: Files = {
                    "vendor": "IBM     ",
                    "model": "2145            ",
                    "wwid": f"naa.{wwid}",
                    "state": "running",
                    "access_state": "active/non-optimized" if target else "active/optimized",
                    "preferred_path": str(1 - target),
                    "vpd_pg80": b"\0\x80\0\x0c00c020a1b2c3",
                    "vpd_pg83": b"\0\x83" + len(page).to_bytes(2, "big") + page,
                }
                write_files(sys / device, attributes)
                add_device(
                    root, f"{device}/block/{name}", f"{8 + disks // 16}:{disks % 16 * 16}", {}
                )
                write_files(sys / f"virtual/block/dm-{lun}/slaves", {name: ""})
                disks += 1
    for lun in range(luns):
        attributes = {
            "dm/name": f"mpath{disk_name(lun)[2:]}",
            "dm/uuid": f"mpath-3600507680b80{lun:020x}",
            "dm/suspended": "0",
        }
        add_device(root, f"virtual/block/dm-{lun}", f"253:{lun}", attributes)


def cpu_ms(function: Callable[[], object], times: int) -> str:
    """The least CPU time of some runs."""
    found = []
    for _ in range(times):
        start_ns = time.process_time_ns()
        function()
        found.append(time.process_time_ns() - start_ns)
    return f"{min(found) / 1e6:.0f}"


def row(luns: int, times: int) -> tuple[str, ...]:
    """Costs of a host with so many LUNs."""
    with tempfile.TemporaryDirectory() as directory:
        make_host(Path(directory), luns)
        topology = read_topology(directory)  # and now all files are in the page cache
        data = encode(topology)
        assert refresh_topology(topology, directory) is topology
        return (
            f"{luns:,}",
            f"{4 * luns:,}",
            cpu_ms(lambda: read_topology(directory), times),
            cpu_ms(lambda: refresh_topology(topology, directory), times),
            cpu_ms(lambda: encode(topology), times),
            cpu_ms(lambda: decode(data), times),
            cpu_ms(lambda: list(tree(topology)), times),
            f"{len(data) / 1e3:,.0f}",
        )


def stream_of(topology: Topology, requests: int, seconds: int) -> Iterator[bytes]:
    """Records of each second, with so many reads and writes of all devices, maps included."""
    random = np.random.default_rng(7)
    numbers = np.array([d.number for d in topology.devices if d.number is not None], np.uint32)
    n = seconds * requests
    records = np.zeros((2, n), layout.TRACE_V7)
    issue, completion = records
    records["magic"], records["bytes"] = layout.MAGIC | 7, 4096
    records["sector"] = 8 * np.arange(n)
    records["device"] = random.choice(numbers, n)
    issue["time"] = np.sort(random.integers(0, seconds * 10**9, n))
    completion["time"] = issue["time"] + random.lognormal(13, 1, n).astype(np.uint64)
    direction = random.integers(1, 3, n).astype(np.uint32) << 16  # read or write
    issue["action"], completion["action"] = direction | 1 << 22 | 7, direction | 1 << 23 | 8
    stream = records.reshape(-1)
    stream = stream[np.argsort(stream["time"], kind="stable")]
    stream["sequence"] = np.arange(1, 2 * n + 1)
    ends = np.searchsorted(stream["time"], np.arange(1, seconds) * 10**9)
    for part in np.split(stream, ends):
        yield part.tobytes()


def intervals_of(topology: Topology, requests: int) -> list[Interval]:
    """Two intervals of that stream."""
    monitor = Monitor(1.0)
    stream = b"".join(stream_of(topology, requests, 2))
    return [*monitor.feed(stream), *monitor.finish()][:2]


def view_row(luns: int, times: int) -> tuple[str, ...]:
    """Costs of each view of a host with so many LUNs, and of findings, in each interval."""
    with tempfile.TemporaryDirectory() as directory:
        make_host(Path(directory), luns)
        topology = read_topology(directory)
    numbers = [device.number for device in topology.devices if device.number is not None]
    first, second = intervals_of(topology, 100 * luns)
    costs = []
    for by in BY[1:]:
        view = View(topology, by, numbers)
        view(first)  # from here on it knows where each device belongs
        costs.append(cpu_ms(lambda view=view: view(second), times))  # type: ignore[misc]
    tracker = Tracker(topology, "device", numbers)
    tracker(first)
    second.columns()  # which outputs need anyway
    findings = cpu_ms(lambda: tracker(second), times)
    start = cpu_ms(lambda: Tracker(topology, "path", numbers), times)
    return f"{luns:,}", f"{4 * luns:,}", start, *costs, findings


def report(options: Options) -> Iterator[Table | str]:
    times, sizes = (2, (10,)) if options.quick else (7, (10, 100, 500))
    yield Table(
        f"Topology of a Fibre Channel host, CPU time (best of {times} runs)",
        "LUNs | paths | read ms | refresh ms | encode ms | decode ms | tree ms | JSON kB",
        (row(luns, times) for luns in sizes),
    )
    yield Table(
        f"Views and findings of that host in an interval, CPU time (best of {times} runs)",
        f"LUNs | paths | start ms | {' ms | '.join(BY[1:])} ms | findings ms",
        (view_row(luns, times) for luns in sizes),
    )
