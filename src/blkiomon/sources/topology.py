"""Block devices of a host and how they are connected: paths, LUNs, ports and arrays.

Everything is read from sysfs, without root privileges or multipathd. Only attributes that the
kernel answers from memory are read: none makes a driver send a command to a device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from blkiomon.console import printable
from blkiomon.sources.devices import HiddenPaths

Kind = Literal[
    "disk",
    "path",
    "multipath",
    "nvme-path",
    "nvme-head",
    "lvm",
    "dm",
    "md",
    "partition",
    "virtual",
]
"""What a block device is.

``path``: of a multipath map; ``multipath``: a map of dm-multipath; ``nvme-path``: a hidden path of
native NVMe multipath; ``nvme-head``: the device above such paths; ``dm``: another device-mapper
volume; ``virtual``: loop devices, RAM disks and the like.
"""

KINDS: tuple[str, ...] = get_args(Kind)

PATH_KINDS = frozenset({"path", "nvme-path"})

FABRICS = frozenset({"fc", "fcoe", "iscsi", "nvme-fc", "nvme-loop", "nvme-rdma", "nvme-tcp"})
"""A disk reached by one of these protocols belongs to an array. By others, such as SAS, only a path
of a multipath device does."""

ATTRIBUTE_BYTES = 4096
"""A page: no attribute is longer."""


@dataclass(frozen=True, slots=True)
class Transport:
    """How a disk or a path is reached. None: unknown, or the protocol has no such thing.

    Attributes:
        host: SCSI host (``host2``) or NVMe controller (``nvme0``).
        driver: of the SCSI host, such as ``qla2xxx``.
        protocol: ``fc``, ``fcoe``, ``iscsi``, ``sas``, ``sata``, ``usb``, ``mmc``, ``virtio``,
            or ``nvme-`` and what the controller says: ``nvme-tcp``, ``nvme-fc``, ``nvme-pcie``.
        initiator: FC port name, iSCSI name, NVMe host NQN or SAS address of this host.
        initiator_node: FC node name of this host.
        initiator_address: IP address of this host; of NVMe over FC its port name.
        initiator_state: of the FC port: ``Online``, ``Linkdown``.
        speed_gbit_per_s: of the FC port, while it is online.
        target: FC node name, iSCSI name, NVMe subsystem NQN; otherwise the SCSI name of the target
            device.
        target_port: FC port name, iSCSI portal with its group (``10.0.0.1:3260,1``), NVMe address
            (``10.0.0.1:4420``) or SAS address; otherwise the SCSI name of the target port.
        target_port_group: number of the ALUA target port group.
        target_state: of the FC remote port (``Online``, ``Blocked``) or the iSCSI session
            (``LOGGED_IN``, ``FAILED``, ``FREE``).
        connection_state: of the iSCSI connection: ``up``, ``failed``.
    """

    host: str | None = None
    driver: str | None = None
    protocol: str | None = None
    initiator: str | None = None
    initiator_node: str | None = None
    initiator_address: str | None = None
    initiator_state: str | None = None
    speed_gbit_per_s: int | None = None
    target: str | None = None
    target_port: str | None = None
    target_port_group: int | None = None
    target_state: str | None = None
    connection_state: str | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A block device. None: unknown, or the kind has no such thing.

    Attributes:
        name: the kernel's (``sdb``, ``dm-3``).
        kind: see ``Kind``.
        number: major << 20 | minor. Unknown for a hidden NVMe path whose kernel keeps no
            statistics of it.
        size_bytes: capacity.
        alias: name of a device-mapper volume, such as ``mpatha``.
        wwid: identifies the LUN on all paths and hosts, in multipath's form: ``36001...``.
        vendor, model: of the disk, or of all paths of a LUN.
        serial: of the LUN; of NVMe, of the subsystem.
        hctl: SCSI host, channel, target and LUN: ``2:0:0:1``.
        transport: how it is reached; None if it is made of other devices.
        array: name of its array, see ``Topology.arrays``.
        map: name of the device whose path this is.
        made_of: names of paths, physical volumes or members; of a partition its disk.
        access_state: ALUA or ANA state, such as ``active/optimized`` or ``inaccessible``. Of ALUA
            it is unknown without a device handler (scsi_dh_alua).
        is_preferred: the array prefers this path.
        state: ``running``, ``blocked``, ``offline``, ``transport-offline`` and others of the SCSI
            layer; ``live``, ``connecting`` and others of the NVMe controller; ``running`` or
            ``suspended`` of device-mapper; ``clean``, ``active`` and others of md.
    """

    name: str
    kind: Kind
    number: int | None = None
    size_bytes: int | None = None
    alias: str | None = None
    wwid: str | None = None
    vendor: str | None = None
    model: str | None = None
    serial: str | None = None
    hctl: str | None = None
    transport: Transport | None = None
    array: str | None = None
    map: str | None = None
    made_of: tuple[str, ...] = ()
    access_state: str | None = None
    is_preferred: bool | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Array:
    """A storage array, as far as this host can tell.

    Target devices that share a LUN are one array. Arrays that mirror a LUN under one WWID look
    like one; an array with a target of its own for each LUN looks like several.

    Attributes:
        name: vendor, model and first target; unique on this host.
        vendor, model: None if its LUNs differ.
        serial: of an NVMe subsystem.
        targets: FC node names, iSCSI names or NVMe NQNs.
    """

    name: str
    vendor: str | None
    model: str | None
    serial: str | None
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """The block devices of a host and their arrays.

    Attributes:
        hostname, kernel: of the host; None if unknown.
        arrays: sorted by name.
        devices: sorted by name, numbers in names by value.
    """

    hostname: str | None
    kernel: str | None
    arrays: tuple[Array, ...]
    devices: tuple[Device, ...]

    def names(self) -> dict[int, str]:
        """What people call each device, by number: ``mpatha`` rather than ``dm-0``."""
        return {d.number: d.alias or d.name for d in self.devices if d.number is not None}


def read_topology(root: str | os.PathLike[str] = "/") -> Topology:
    """Read the topology of a host.

    A device that vanishes meanwhile is left out.

    Args:
        root: where ``sys`` and ``proc`` are.

    Raises:
        OSError: ``root`` has no sysfs.
    """
    return _Reader(Path(root)).read()


def refresh_topology(topology: Topology, root: str | os.PathLike[str] = "/") -> Topology:
    """The current topology: the same object if nothing has changed, otherwise a new one.

    This costs less than a third of ``read_topology``. It notices devices that come, go or take
    another's name, and paths that join or leave a map. It notices changes of state, access state,
    size, alias and transport. It misses a change of ``is_preferred``, ``wwid``, ``vendor``,
    ``model`` or ``serial`` alone.

    Args:
        topology: read earlier, from the same root.
        root: where ``sys`` and ``proc`` are.

    Raises:
        OSError: ``root`` has no sysfs.
    """
    directory = Path(root, "sys/class/block")
    names = {name.replace("!", "/") for name in os.listdir(directory)}
    known: set[Transport | None] = {None}  # compared already: many devices share one
    for device in topology.devices:
        link = f"{directory}/{device.name.replace('/', '!')}"
        is_first = device.transport not in known
        known.add(device.transport)
        if not (
            device.name in names
            and _is_unchanged(device, link)
            and (not is_first or _transport_now(device, link) == device.transport)
        ):
            return read_topology(root)
    return topology if len(names) == len(topology.devices) else read_topology(root)


def _is_unchanged(device: Device, link: str) -> bool:
    """Whether a link in sysfs still names this device, of the same size and in the same state."""
    sectors = _number(f"{link}/size")
    if sectors is None or sectors * 512 != device.size_bytes:
        return False
    if device.transport is None:  # a volume, or the head of NVMe paths
        if device.kind == "md":
            return _text(f"{link}/md/array_state") == device.state
        if device.alias is None:
            return True
        state = _DM_STATES.get(_text(f"{link}/dm/suspended") or "")
        alias = _text(f"{link}/dm/name")
        is_same = (state, alias) == (device.state, device.alias)
        return is_same and _slaves(link) == set(device.made_of)
    if device.hctl is not None:
        try:
            at = os.readlink(link)  # noqa: PTH115 (Path is slow)
        except OSError:
            return False
        if at.split("/")[-3] != device.hctl:
            return False
        access_state = _text(f"{link}/device/access_state")
    else:
        access_state = _text(f"{link}/ana_state")
    state = _text(f"{link}/device/state")
    return (state, access_state) == (device.state, device.access_state)


def _transport_now(device: Device, link: str) -> Transport | None:
    """How the device that a link in sysfs names is reached now."""
    at = os.path.realpath(link)
    if device.hctl is not None:
        lun = at.partition("/block/")[0]
        identity = _Identity.of(_bytes(f"{lun}/vpd_pg83") or b"")
        return identity.complete(_scsi_transport(lun.rpartition("/")[0]))
    parent, _, name = at.rpartition("/")
    return _controller(parent) if name.startswith("nvme") else device.transport


def order(name: str) -> list[tuple[int, int, str]]:
    """A sort key: names are ordered as the kernel counts, sdb before sdaa, dm-2 before dm-10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(p), "") if p.isdecimal() else (len(p), 0, p) for p in parts]


# --- sysfs ----------------------------------------------------------------------------------------

_NOT_KNOWN = frozenset({"", "(null)", "<NULL>"})
"""Contents of an attribute whose value the driver does not know, such as iscsi_tcp's ``netdev``."""

_HCTL = re.compile(r"\d+:\d+:\d+:\d+")
_HOST = re.compile(r"host\d+")
_NVME_PATH = re.compile(r"(nvme\d+)c\d+(n\d+)")
_BUSES = (
    ("sata", re.compile(r"/ata\d+/")),
    ("usb", re.compile(r"/usb\d+/")),
    ("mmc", re.compile(r"/mmc\d+/")),
    ("virtio", re.compile(r"/virtio\d+/block/")),
)
_DM_STATES = {"0": "running", "1": "suspended"}
_WWID_DIGITS = {"naa.": "3", "eui.": "2"}
"""Multipath and udev write the type of a SCSI designator as a digit."""


def _bytes(path: str) -> bytes | None:
    """The content of an attribute; None if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(fd, ATTRIBUTE_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)


def _text(path: str) -> str | None:
    """An attribute as text for people; None if it is unknown."""
    return _cleaned(_bytes(path) or b"")


def _cleaned(data: bytes) -> str | None:
    text = data.replace(b"\0", b"").decode(errors="replace").strip()
    return None if text in _NOT_KNOWN else printable(text)


def _number(path: str) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdecimal() and text.isascii() else None


def _slaves(path: str) -> set[str]:
    """Names of what a device is made of; none if it has just vanished."""
    try:
        return {name.replace("!", "/") for name in os.listdir(f"{path}/slaves")}
    except OSError:
        return set()


_Facts = dict[str, Any]
"""Attributes of a ``Device`` that is being made."""


class _Reader:
    """Reads a topology once. Hosts, targets and controllers that devices share are read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._devices: dict[str, _Facts] = {}  # by name
        self._transports: dict[Hashable, Transport] = {}
        self._hidden = HiddenPaths(root)

    def read(self) -> Topology:
        blocks = f"{self._root}/sys/class/block"
        for name in os.listdir(blocks):
            try:
                link = os.readlink(f"{blocks}/{name}")  # noqa: PTH115 (Path is slow)
            except OSError:
                continue  # it went a moment ago
            # Reading below the link's target cannot mix a device with its successor of this name.
            device = self._device(os.path.normpath(f"{blocks}/{link}"))
            if device is not None:
                self._devices[device["name"]] = device
        self._connect()
        arrays = self._find_arrays()
        kernel = self._root / "proc/sys/kernel"
        return Topology(
            _text(f"{kernel}/hostname"),
            _text(f"{kernel}/osrelease"),
            arrays,
            tuple(Device(**self._devices[name]) for name in sorted(self._devices, key=order)),
        )

    def _device(self, path: str) -> _Facts | None:
        """The device of a directory; None if it has vanished."""
        parent, _, base = path.rpartition("/")
        event = _bytes(f"{path}/uevent")
        if event is None:
            return None
        name = base.replace("!", "/")  # sysfs writes cciss/c0d0 as cciss!c0d0
        device: _Facts = {"name": name, "kind": "disk", "number": self._hidden.numbers.get(name)}
        found = dict(line.split("=", 1) for line in event.decode().split("\n") if "=" in line)
        if "MAJOR" in found and "MINOR" in found:
            device["number"] = int(found["MAJOR"]) << 20 | int(found["MINOR"])
        lun, _, kind = parent.rpartition("/")
        if found.get("DEVTYPE") == "partition":
            device |= {"kind": "partition", "made_of": (kind.replace("!", "/"),)}
        elif base.startswith("nvme"):
            device |= self._nvme(name, path, parent)
        elif "/virtual/block/" in path:
            device |= _virtual(path)
        elif kind == "block" and _HCTL.fullmatch(lun.rpartition("/")[2]):
            device |= self._scsi(lun)
        else:
            device["transport"] = Transport(protocol=_bus(path))
        # The kernel removes a disk before its parents. If its size can still be read, everything
        # above was read while the device existed.
        sectors = _number(f"{path}/size")
        device["size_bytes"] = sectors and sectors * 512
        return None if sectors is None else device

    def _nvme(self, name: str, path: str, parent: str) -> _Facts:
        facts: _Facts = {
            "wwid": _text(f"{path}/wwid"),
            "model": _text(f"{parent}/model"),
            "serial": _text(f"{parent}/serial"),
        }
        if parent.rpartition("/")[2].startswith("nvme-subsys"):
            return facts | {"kind": "nvme-head"}
        if match := _NVME_PATH.fullmatch(name):
            facts |= {"kind": "nvme-path", "map": match[1] + match[2]}
        return facts | {
            "transport": self._once(parent, lambda: _controller(parent)),
            "access_state": _text(f"{path}/ana_state"),
            "state": _text(f"{parent}/state"),
        }

    def _scsi(self, lun: str) -> _Facts:
        target = lun.rpartition("/")[0]
        of_target = self._once(target, lambda: _scsi_transport(target))
        identity = _Identity.of(_bytes(f"{lun}/vpd_pg83") or b"")
        transport = self._once((target, identity), lambda: identity.complete(of_target))
        wwid = _text(f"{lun}/wwid")
        preferred = _text(f"{lun}/preferred_path")
        return {
            "wwid": wwid and _WWID_DIGITS.get(wwid[:4], wwid[:4]) + wwid[4:],
            "vendor": _text(f"{lun}/vendor"),
            "model": _text(f"{lun}/model"),
            "serial": _cleaned((_bytes(f"{lun}/vpd_pg80") or b"")[4:]),
            "hctl": lun.rpartition("/")[2],
            "transport": transport,
            "access_state": _text(f"{lun}/access_state"),
            "is_preferred": preferred and preferred == "1",
            "state": _text(f"{lun}/state"),
        }

    def _once(self, key: Hashable, read: Callable[[], Transport]) -> Transport:
        """The transport of this key: read once, and shared by devices."""
        if key not in self._transports:
            self._transports[key] = read()
        return self._transports[key]

    # --- what belongs together --------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect maps and heads with their paths; a map has what all of its paths agree on."""
        devices = self._devices
        of_head: dict[str, list[str]] = {}
        for name, device in devices.items():
            if device["kind"] == "nvme-path":
                of_head.setdefault(device["map"], []).append(name)
                if device["map"] not in devices:  # it has just vanished
                    device["map"] = None
        for name, device in devices.items():
            parts = of_head.get(name) or device.get("made_of") or ()
            found = sorted((part for part in parts if part in devices), key=order)
            device["made_of"] = tuple(found)
            if device["kind"] == "multipath":
                paths = [devices[part] for part in found]
                for path in paths:
                    path |= {"kind": "path", "map": name}
                device |= {key: _common(paths, key) for key in ("vendor", "model", "serial")}

    def _find_arrays(self) -> tuple[Array, ...]:
        """Unite the targets that share a LUN; set the array of paths, maps and heads."""
        paths = [device for device in self._devices.values() if _is_of_array(device)]
        groups = _Groups()
        for path in paths:
            groups.unite(_target_of(path), ("lun", path.get("wwid") or path["name"]))
        members: dict[tuple[str, ...], list[_Facts]] = {}
        for path in paths:
            members.setdefault(groups.find(_target_of(path)), []).append(path)
        arrays = []
        for of_array in members.values():
            arrays.append(array := _array(of_array))
            for path in of_array:
                path["array"] = array.name
                if path.get("map"):
                    self._devices[path["map"]]["array"] = array.name
        return tuple(sorted(arrays, key=lambda array: array.name))


def _virtual(path: str) -> _Facts:
    """A device that is made of others or of memory."""
    facts: _Facts = {"made_of": _slaves(path)}
    alias = _text(f"{path}/dm/name")
    if alias is not None:
        kind, wwid = _dm_kind(_text(f"{path}/dm/uuid") or "")
        state = _DM_STATES.get(_text(f"{path}/dm/suspended") or "")
        return facts | {"kind": kind, "alias": alias, "wwid": wwid, "state": state}
    state = _text(f"{path}/md/array_state")
    return facts | {"kind": "virtual" if state is None else "md", "state": state}


def _dm_kind(uuid: str) -> tuple[Kind, str | None]:
    """Kind and WWID of a device-mapper volume."""
    if uuid.startswith("mpath-"):
        return "multipath", uuid.removeprefix("mpath-")
    if uuid.startswith("LVM-"):
        return "lvm", None
    return ("partition" if re.match(r"part\d+-", uuid) else "dm"), None


def _bus(path: str) -> str | None:
    """The protocol of a local disk, which its path in sysfs shows."""
    return next((name for name, pattern in _BUSES if pattern.search(path)), None)


def _controller(path: str) -> Transport:
    """An NVMe controller."""
    kind = _text(f"{path}/transport")
    address = _text(f"{path}/address")
    port = address
    facts = {}
    if address and "=" in address:
        facts = dict(part.split("=", 1) for part in address.split(",") if "=" in part)
        port = facts.get("traddr")
        if kind == "fc" and port:
            port = port.rpartition("pn-")[2]
        elif port and "trsvcid" in facts:
            port = _socket(port, facts["trsvcid"])
    source = facts.get("host_traddr") or facts.get("src_addr")
    return Transport(
        host=path.rpartition("/")[2],
        protocol=kind and f"nvme-{kind}",
        initiator=_text(f"{path}/hostnqn"),
        initiator_address=source and source.rpartition("pn-")[2],
        target=_text(f"{path}/subsysnqn"),
        target_port=port,
    )


def _scsi_transport(target: str) -> Transport:
    """How a SCSI target is reached, such as ``.../host2/rport-2:0-0/target2:0:0``."""
    parts = target.split("/")
    # The last host: with NPIV, the path of a virtual FC port has that of the physical one in it.
    at = max((n for n, part in enumerate(parts) if _HOST.fullmatch(part)), default=None)
    if at is None:
        return Transport(protocol=_bus(target))
    host, path = parts[at], "/".join(parts[: at + 1])
    transport = Transport(host, _text(f"{path}/scsi_host/{host}/proc_name"), _bus(target))
    for part in parts[at + 1 :]:
        path = f"{path}/{part}"
        if part.startswith("rport-"):
            return _fibre_channel(transport, path, "/".join(parts[: at + 1]))
        if part.startswith("session"):
            return _iscsi(transport, path)
        if part.startswith("end_device-"):
            transport = replace(
                transport,
                protocol="sas",
                initiator=_text(f"{'/'.join(parts[: at + 1])}/scsi_host/{host}/host_sas_address"),
                target_port=_text(f"{path}/sas_device/{part}/sas_address"),
            )
    return transport


def _fibre_channel(transport: Transport, path: str, host: str) -> Transport:
    local = f"{host}/fc_host/{transport.host}"
    remote = f"{path}/fc_remote_ports/{path.rpartition('/')[2]}"
    state = _text(f"{local}/port_state")
    # A port without a link keeps the speed of the last one.
    speed = re.match(r"(\d+) Gbit", _text(f"{local}/speed") or "") if state == "Online" else None
    return replace(
        transport,
        protocol="fcoe" if re.search(r"/ctlr_\d+/", host) else "fc",
        initiator=_text(f"{local}/port_name"),
        initiator_node=_text(f"{local}/node_name"),
        initiator_state=state,
        speed_gbit_per_s=int(speed[1]) if speed else None,
        target=_text(f"{remote}/node_name"),
        target_port=_text(f"{remote}/port_name"),
        target_state=_text(f"{remote}/port_state"),
    )


def _iscsi(transport: Transport, path: str) -> Transport:
    host = f"{path.rpartition('/')[0]}/iscsi_host/{transport.host}"
    name = path.rpartition("/")[2]
    session = f"{path}/iscsi_session/{name}"
    connection = f"{path}/connection{name.removeprefix('session')}:0"
    connection += f"/iscsi_connection/connection{name.removeprefix('session')}:0"
    # After a redirection, the portal in use differs from the one that was logged in to. It is
    # known only while connected.
    address = _text(f"{connection}/address") or _text(f"{connection}/persistent_address")
    port = _text(f"{connection}/port") or _text(f"{connection}/persistent_port")
    group = _text(f"{session}/tpgt")
    portal = _socket(address, port) if address and port else None
    return replace(
        transport,
        protocol="iscsi",
        initiator=_text(f"{session}/initiatorname"),
        initiator_address=_text(f"{host}/ipaddress"),
        target=_text(f"{session}/targetname"),
        target_port=f"{portal},{group}" if portal and group else portal,
        target_state=_text(f"{session}/state"),
        connection_state=_text(f"{connection}/state"),
    )


def _socket(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class _Identity:
    """Target port and device in page 0x83 of the vital product data (SPC-6, 7.7.6)."""

    target: str | None = None
    target_port: str | None = None
    target_port_group: int | None = None

    @classmethod
    def of(cls, page: bytes) -> _Identity:
        names: dict[int, str | None] = {}  # by association: 1 is the port, 2 the target device
        group = None
        end = min(len(page), 4 + int.from_bytes(page[2:4], "big"))
        at = 4
        while at + 4 <= end and (next_at := at + 4 + page[at + 3]) <= end:
            association, kind = page[at + 1] >> 4 & 3, page[at + 1] & 15
            value = page[at + 4 : next_at]
            at = next_at
            if kind == 3:  # NAA
                names.setdefault(association, f"naa.{value.hex()}")
            elif kind == 8:  # SCSI name string
                names.setdefault(association, _cleaned(value))
            elif kind == 5 and association == 1 and len(value) >= 4:
                group = int.from_bytes(value[2:4], "big")
        return cls(names.get(2), names.get(1), group)

    def complete(self, transport: Transport) -> Transport:
        """A transport with these names, unless it has names of its own."""
        return replace(
            transport,
            target=transport.target or self.target,
            target_port=transport.target_port or self.target_port,
            target_port_group=self.target_port_group,
        )


# --- arrays ---------------------------------------------------------------------------------------


def _common(devices: list[_Facts], key: str) -> str | None:
    """The value of a key that all devices share; None if they differ, or there are no devices."""
    found = {device.get(key) for device in devices}
    return found.pop() if len(found) == 1 else None


def _is_of_array(device: _Facts) -> bool:
    transport = device.get("transport")
    if transport is None or transport.protocol == "nvme-pcie":  # local, even with several ports
        return False
    return transport.protocol in FABRICS or device["kind"] in PATH_KINDS


def _target_of(path: _Facts) -> tuple[str, ...]:
    """The key of its target device; without a name, of all arrays of a vendor and model."""
    if path["transport"].target is not None:
        return "target", path["transport"].target
    return "model", path.get("vendor") or "", path.get("model") or ""


def _array(paths: list[_Facts]) -> Array:
    targets = {path["transport"].target for path in paths}
    known = tuple(sorted((target for target in targets if target), key=order))
    vendor, model = _common(paths, "vendor"), _common(paths, "model")
    is_nvme = not any("hctl" in path for path in paths)
    words = [vendor, model, *known[:1]]
    name = " ".join(word for word in words if word) or "unknown array"
    return Array(name, vendor, model, _common(paths, "serial") if is_nvme else None, known)


class _Groups:
    """Disjoint sets of keys (union-find)."""

    def __init__(self) -> None:
        self._parents: dict[tuple[str, ...], tuple[str, ...]] = {}

    def find(self, key: tuple[str, ...]) -> tuple[str, ...]:
        """The representative of the set that has this key."""
        parent = self._parents.setdefault(key, key)
        while parent != key:
            above = self._parents[parent]
            self._parents[key] = above  # halve the path
            key, parent = parent, above
        return key

    def unite(self, a: tuple[str, ...], b: tuple[str, ...]) -> None:
        self._parents[self.find(a)] = self.find(b)
