"""The topology of recorded hosts equals what their tools printed; trees, files and the command."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runner
from goldenfiles import TRACES
from test_record import FakeCapture, fake, record
from test_views import number

from benchmarks.topology import Files, add_device, make_host, write_files
from blkiomon.commands import topology as command
from blkiomon.errors import SourceError
from blkiomon.formats.topology import decode, encode
from blkiomon.sources import topology
from blkiomon.sources.topology import (
    Device,
    Topology,
    Transport,
    read_topology,
    refresh_topology,
)

__all__ = ["fake"]  # a fixture

DATA = Path(__file__).parent / "data/san"
HOSTS = sorted(path.name.removesuffix("-6.12.tar.xz") for path in DATA.glob("*.xz"))
NVME_NATIVE = [host for host in HOSTS if "native" in host]
SCSI = [host for host in HOSTS if "nvme" not in host]
MULTIPATH = [host for host in HOSTS if host not in NVME_NATIVE]
ISCSI = [host for host in HOSTS if "iscsi" in host]
NVME = [host for host in HOSTS if "nvme" in host]
FC = [host for host in HOSTS if "fcoe" in host]

ALUA_PRIORITIES = {"50": "active/optimized", "10": "active/non-optimized", "1": "standby"}
"""What multipath's prioritizer makes of the states."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the recorded trees."""
    directory = tmp_path_factory.mktemp("san")
    for host in HOSTS:
        extract(host, directory)
    return directory


def extract(host: str, directory: Path) -> None:
    """Write the tree of a recorded host, below its name."""
    with tarfile.open(DATA / f"{host}-6.12.tar.xz") as archive:
        # Python before 3.11.4 has no filters of members, and ignores this.
        archive.extraction_filter = lambda member, _: member
        archive.extractall(directory / host)


def expected(hosts: Path, host: str, name: str) -> str:
    """What a tool printed there."""
    return (hosts / host / "expected" / name).read_text()


def by_name(found: Topology) -> dict[str, Device]:
    return {device.name: device for device in found.devices}


def via(device: Device) -> Transport:
    assert device.transport is not None
    return device.transport


# --- what the tools printed -----------------------------------------------------------------------


def test_all_stacks_are_there() -> None:
    counts = [len(group) for group in (HOSTS, MULTIPATH, ISCSI, NVME, FC)]
    assert counts == [11, 9, 2, 3, 2]


@pytest.mark.parametrize("host", MULTIPATH)
def test_maps_and_their_paths_are_those_of_multipath(hosts: Path, host: str) -> None:
    devices = by_name(read_topology(hosts / host))
    wanted: dict[tuple[str, ...], set[str]] = {}
    for line in expected(hosts, host, "multipath-ll.txt").splitlines():
        if head := re.match(r"(\S+) \((\S+)\) (dm-\d+) (.*),(.*)", line):
            paths = wanted.setdefault(tuple(word.strip() for word in head.groups()), set())
        elif path := re.search(r"[|`]- \S+ (\S+) +(\d+:\d+)", line):
            paths.add(path[1])
            assert devices[path[1]].number == number(path[2])
    maps = [device for device in devices.values() if device.kind == "multipath"]
    found = {(m.alias, m.wwid, m.name, m.vendor or "NVME", m.model): set(m.made_of) for m in maps}
    assert len(wanted) > 0 and found == wanted
    for device in maps:
        for name in device.made_of:
            assert (devices[name].kind, devices[name].map) == ("path", device.name)


def multipathd_paths(hosts: Path, host: str) -> list[dict[str, str]]:
    head, *rows = expected(hosts, host, "multipathd-paths.txt").splitlines()
    names = [name.strip() for name in head.split("|")]
    return [dict(zip(names, (cell.strip() for cell in row.split("|")))) for row in rows]


@pytest.mark.parametrize("host", MULTIPATH)
def test_ports_of_paths_are_those_of_multipathd(hosts: Path, host: str) -> None:
    devices = by_name(read_topology(hosts / host))
    rows = multipathd_paths(hosts, host)
    assert {row["dev"] for row in rows} == {d.name for d in devices.values() if d.kind == "path"}
    for row in rows:
        device = devices[row["dev"]]
        path = via(device)
        assert device.map is not None and devices[device.map].alias == row["multipath"]
        assert (device.wwid, device.serial) == (row["uuid"], row["serial"])
        kind, _, protocol = row["protocol"].partition(":")
        assert {
            "scsi:fcp": "fcoe",
            "scsi:unspec": None,
            "nvme:tcp": "nvme-tcp",
            "scsi:iscsi": "iscsi",
        }[row["protocol"]] == path.protocol
        assert device.hctl == (row["hcil"] if kind == "scsi" else None)
        is_fc, is_iscsi = protocol == "fcp", protocol == "iscsi"
        assert row["host WWPN"] == (path.initiator if is_fc else "[undef]")
        assert row["host WWNN"] == (path.initiator_node if is_fc else "[undef]")
        assert row["target WWPN"] == (path.target_port if is_fc else "[undef]")
        assert row["target WWNN"] == (path.target if is_fc or is_iscsi else "[undef]")
        assert row["host adapter"] == ((is_iscsi and path.initiator_address) or "[undef]")


@pytest.mark.parametrize("host", SCSI)
def test_alua_states_are_those_that_multipath_derives_priorities_from(
    hosts: Path, host: str
) -> None:
    devices = by_name(read_topology(hosts / host))
    for row in multipathd_paths(hosts, host):
        assert devices[row["dev"]].access_state == ALUA_PRIORITIES[row["pri"]], row["dev"]
        assert devices[row["dev"]].is_preferred is False


def lsblk(hosts: Path, host: str) -> dict[str, dict[str, Any]]:
    rows = json.loads(expected(hosts, host, "lsblk.json"))["blockdevices"]
    rows += [child for row in rows for child in row.get("children", ())]
    return {row["kname"]: row for row in rows}


@pytest.mark.parametrize("host", HOSTS)
def test_devices_are_those_of_lsblk(hosts: Path, host: str) -> None:
    devices = by_name(read_topology(hosts / host))
    rows = lsblk(hosts, host)
    loops = {name for name in rows if name.startswith("loop")}  # the lab's, without sysfs
    assert {d.name for d in devices.values() if d.kind != "nvme-path"} == rows.keys() - loops
    for name, device in devices.items():
        if device.kind == "nvme-path":
            continue
        row = rows[name]
        assert row["type"] == ("mpath" if device.kind == "multipath" else "disk")
        assert row["size"] == f"{(device.size_bytes or 0) >> 20}M"
        assert row["hctl"] == device.hctl
        assert row["state"] == device.state
        assert (row["tran"] or "").partition("-")[0] == protocol_of_lsblk(device)
        if device.kind != "multipath":
            assert (row["vendor"] or "").strip() == (device.vendor or "")
            assert row["model"].strip() == device.model
            assert row["serial"] == device.serial
            assert row["wwn"].removeprefix("0x") == (device.wwid or "").removeprefix("3")
        for child in row.get("children", ()):
            assert child["kname"] == device.map


def protocol_of_lsblk(device: Device) -> str:
    if device.kind == "nvme-head":
        return "nvme"
    return ((device.transport and device.transport.protocol) or "").partition("-")[0]


@pytest.mark.parametrize("host", MULTIPATH)
def test_numbers_of_maps_are_those_of_dmsetup(hosts: Path, host: str) -> None:
    lines = expected(hosts, host, "dmsetup-info.txt").splitlines()[1:]
    wanted = {(row[0], number(f"{row[1]}:{row[2]}"), row[-1]) for row in map(str.split, lines)}
    maps = [d for d in read_topology(hosts / host).devices if d.kind == "multipath"]
    assert {(m.alias, m.number, f"mpath-{m.wwid}") for m in maps} == wanted


@pytest.mark.parametrize("host", HOSTS)
def test_wwids_are_those_of_lsscsi(hosts: Path, host: str) -> None:
    devices = by_name(read_topology(hosts / host))
    lines = [line.split() for line in expected(hosts, host, "lsscsi-iw.txt").splitlines()]
    paths = [device for device in devices.values() if device.transport]
    assert len(lines) == len(paths)
    for line in lines:
        node = next((word for word in line if word.startswith("/dev/")), None)
        # Hidden paths have no device file: lsscsi numbers their controllers from 1.
        name = node.removeprefix("/dev/") if node else f"nvme0c{int(line[0].split(':')[2]) - 1}n1"
        assert devices[name].wwid in line


@pytest.mark.parametrize("host", ISCSI)
def test_sessions_are_those_of_iscsiadm(hosts: Path, host: str) -> None:
    text = expected(hosts, host, "iscsiadm-session-P3.txt")
    target = re.search(r"Target: (\S+)", text)
    assert target is not None
    wanted = {}
    for session in text.split("Current Portal: ")[1:]:
        facts = dict(re.findall(r"^\s*([\w .]+): (.*?)\s*$", session, re.MULTILINE))
        disk = re.search(r"Attached scsi disk (\S+)\s+State: (\S+)", session)
        assert disk is not None
        wanted[disk[1]] = (
            target[1],
            facts["Persistent Portal"],
            facts["Iface Initiatorname"],
            facts["Iface IPaddress"].replace("[default]", "") or None,
            facts["iSCSI Session State"],
            {"LOGGED IN": "up", "TRANSPORT WAIT": "failed"}[facts["iSCSI Connection State"]],
            disk[2],
        )
    found = {
        device.name: (
            path.target,
            path.target_port,
            path.initiator,
            path.initiator_address,
            path.target_state,
            path.connection_state,
            device.state,
        )
        for device in read_topology(hosts / host).devices
        if (path := device.transport)
    }
    assert len(wanted) == 2 and found == wanted


@pytest.mark.parametrize("host", FC)
def test_remote_ports_are_those_of_lsscsi(hosts: Path, host: str) -> None:
    devices = by_name(read_topology(hosts / host))
    lines = expected(hosts, host, "lsscsi-t.txt").splitlines()
    assert len(lines) == 2
    for line in lines:
        _, _, port, node = line.split()
        path = via(devices[node.removeprefix("/dev/")])
        assert f"{path.protocol}:{path.target_port}" == port.partition(",")[0]


@pytest.mark.parametrize("host", NVME)
def test_controllers_are_those_of_nvme_list_subsys(hosts: Path, host: str) -> None:
    decoder, text = json.JSONDecoder(), expected(hosts, host, "nvme-list-subsys.json").strip()
    subsystems, end = decoder.raw_decode(text)
    namespaces = json.loads(text[end:])["Devices"][0]["Subsystems"][0]
    (of_host,) = subsystems
    (subsystem,) = of_host["Subsystems"]
    wanted = {}
    for controller in subsystem["Paths"]:
        address = dict(part.split("=") for part in controller["Address"].split(","))
        wanted[controller["Name"]] = (
            of_host["HostNQN"],
            subsystem["NQN"],
            f"nvme-{controller['Transport']}",
            f"{address['traddr']}:{address['trsvcid']}",
            address.get("src_addr"),
            controller["State"],
        )
    paths = [device for device in read_topology(hosts / host).devices if device.transport]
    found = {
        at.host: (
            at.initiator,
            at.target,
            at.protocol,
            at.target_port,
            at.initiator_address,
            device.state,
        )
        for device in paths
        if (at := device.transport)
    }
    assert len(wanted) == 2 and found == wanted

    states = {
        path["Path"]: path["ANAState"]
        for controller in namespaces["Controllers"]
        for path in controller["Paths"]
    }
    # Without native multipath, the kernel does not show ANA states.
    assert states == {d.name: d.access_state for d in paths if d.kind == "nvme-path"}
    assert all(d.access_state is None for d in paths if d.kind == "path")
    heads = {space["NameSpace"] for space in namespaces["Namespaces"]}
    assert heads == {d.map for d in paths if d.kind == "nvme-path"}
    for controller in namespaces["Controllers"]:
        for path in paths:
            assert (path.serial, path.model) == (
                controller["SerialNumber"],
                controller["ModelNumber"],
            )


@pytest.mark.parametrize("host", NVME_NATIVE)
def test_hidden_paths_have_the_numbers_of_diskstats(hosts: Path, host: str) -> None:
    rows = [line.split() for line in (hosts / host / "proc/diskstats").read_text().splitlines()]
    numbers = {row[2]: number(f"{row[0]}:{row[1]}") for row in rows}
    devices = by_name(read_topology(hosts / host))
    assert devices["nvme0n1"].made_of == ("nvme0c0n1", "nvme0c1n1")
    for name in devices:
        assert devices[name].number == numbers[name]


@pytest.mark.parametrize("host", HOSTS)
def test_targets_that_share_a_lun_are_one_array(hosts: Path, host: str) -> None:
    found = read_topology(hosts / host)
    (array,) = found.arrays
    assert {device.array for device in found.devices} == {array.name}
    targets = {device.transport.target for device in found.devices if device.transport}
    assert set(array.targets) == targets
    assert array.name.endswith(f" {array.targets[0]}")


def test_link_that_is_down_has_no_speed(hosts: Path) -> None:
    devices = by_name(read_topology(hosts / "fcoe-vn2vn-one-cut"))
    up, down = via(devices["sda"]), via(devices["sdb"])
    assert (up.initiator_state, up.target_state, up.speed_gbit_per_s) == ("Online", "Online", 10)
    assert (down.initiator_state, down.target_state) == ("Linkdown", "Blocked")
    assert down.speed_gbit_per_s is None


def test_ports_of_other_transports_come_from_vital_product_data(hosts: Path) -> None:
    devices = by_name(read_topology(hosts / "tcm_loop-alua"))
    ports = [via(devices[name]) for name in ("sda", "sdb", "sdc", "sdd")]
    assert [(port.target, port.target_port_group) for port in ports] == [
        ("naa.5001405aa0000001", 2),
        ("naa.5001405aa0000002", 2),
        ("naa.5001405bb0000001", 3),
        ("naa.5001405bb0000002", 3),
    ]
    assert ports[0].target_port == "naa.5001405aa0000001,t,0x0001"
    assert (ports[0].driver, ports[0].protocol) == ("tcm_loopback", None)


# --- what recorded hosts lack ---------------------------------------------------------------------


def host_with(root: Path, path: str, files: Files, number: str = "8:0") -> Device:
    """The only block device of a host."""
    add_device(root, path, number, files)
    (found,) = read_topology(root).devices
    return found


def test_sas_disk_has_the_addresses_of_both_ends(tmp_path: Path) -> None:
    host = "pci0000:00/0000:02:00.0/host0"
    end = f"{host}/port-0:0/expander-0:0/port-0:0:1/end_device-0:0:1"
    files = {"host_sas_address": "0x500605b00aaf0000", "proc_name": "mpt3sas"}
    write_files(tmp_path / f"sys/devices/{host}/scsi_host/host0", files)
    sas = tmp_path / f"sys/devices/{end}/sas_device/end_device-0:0:1"
    write_files(sas, {"sas_address": "0x5000c500a1b2c3d5"})
    found = host_with(tmp_path, f"{end}/target0:0:3/0:0:3:0/block/sda", {})
    assert (found.kind, found.array, found.hctl) == ("disk", None, "0:0:3:0")
    assert via(found) == Transport(
        host="host0",
        driver="mpt3sas",
        protocol="sas",
        initiator="0x500605b00aaf0000",
        target_port="0x5000c500a1b2c3d5",
    )


def test_virtual_fibre_channel_port_is_the_initiator(tmp_path: Path) -> None:
    physical = "pci0000:00/0000:05:00.0/host5"
    host = f"{physical}/vport-5:0-0/host9"
    for path, name in ((physical, "0x1"), (host, "0x2")):
        port = {"port_name": name, "port_state": "Online", "speed": "16 Gbit"}
        number = path.rpartition("host")[2]
        write_files(tmp_path / f"sys/devices/{path}/fc_host/host{number}", port)
    rport = f"{host}/rport-9:0-3"
    remote = {"port_name": "0x3", "node_name": "0x4", "port_state": "Online"}
    write_files(tmp_path / f"sys/devices/{rport}/fc_remote_ports/rport-9:0-3", remote)
    found = via(host_with(tmp_path, f"{rport}/target9:0:1/9:0:1:7/block/sda", {}))
    assert (found.host, found.protocol, found.speed_gbit_per_s) == ("host9", "fc", 16)
    assert (found.initiator, found.target_port, found.target) == ("0x2", "0x3", "0x4")


ISCSI_LUN = "platform/host4/session3/target4:0:0/4:0:0:1/block/sda"
ISCSI_SESSION = {
    "targetname": "iqn.a",
    "tpgt": "2",
    "initiatorname": "(null)",
    "state": "LOGGED_IN",
}


@pytest.mark.parametrize(
    ("files", "portal"),
    [
        # Redirected at login: the portal in use counts.
        (
            {
                "persistent_address": "10.0.0.1",
                "persistent_port": "3260",
                "address": "10.0.0.7",
                "port": "3261",
            },
            "10.0.0.7:3261,2",
        ),
        ({"persistent_address": "fe80::1", "persistent_port": "3260"}, "[fe80::1]:3260,2"),
        ({}, None),
    ],
)
def test_portal_is_the_one_in_use(tmp_path: Path, files: Files, portal: str | None) -> None:
    session = tmp_path / "sys/devices/platform/host4/session3"
    write_files(session / "iscsi_session/session3", dict(ISCSI_SESSION))
    write_files(session / "connection3:0/iscsi_connection/connection3:0", {"state": "up", **files})
    found = via(host_with(tmp_path, ISCSI_LUN, {}))
    assert (found.target, found.target_port, found.initiator) == ("iqn.a", portal, None)


@pytest.mark.parametrize(
    ("transport", "address", "port", "source"),
    [
        (
            "fc",
            "traddr=nn-0x20000090fae0ec9b:pn-0x10000090fae0ec9b,"
            "host_traddr=nn-0x20000090fae06325:pn-0x10000090fae06325",
            "0x10000090fae0ec9b",
            "0x10000090fae06325",
        ),
        ("rdma", "traddr=fd00::9,trsvcid=4420,src_addr=fd00::1", "[fd00::9]:4420", "fd00::1"),
        ("pcie", "0000:04:00.0", "0000:04:00.0", None),
        ("loop", "", None, None),
    ],
)
def test_nvme_path_has_the_address_of_its_controller(
    tmp_path: Path, transport: str, address: str, port: str | None, source: str | None
) -> None:
    controller = "virtual/nvme-fabrics/ctl/nvme3"
    files: Files = {"transport": transport, "address": address, "state": "live"}
    write_files(tmp_path / f"sys/devices/{controller}", files)
    found = host_with(tmp_path, f"{controller}/nvme3n1", {}, "259:5")
    assert (found.kind, found.number, found.state) == ("disk", 259 << 20 | 5, "live")
    path = via(found)
    assert (path.protocol, path.host) == (f"nvme-{transport}", "nvme3")
    assert (path.target_port, path.initiator_address) == (port, source)
    assert (found.array is None) == (transport == "pcie")


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda", "sata"),
        ("pci0000:00/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sda", "usb"),
        ("pci0000:00/0000:00:04.0/virtio1/block/vda", "virtio"),
        ("pci0000:00/0000:00:05.0/virtio2/host0/target0:0:0/0:0:0:0/block/sda", None),
        ("platform/soc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0", "mmc"),
        ("pci0000:00/0000:06:00.0/cciss0/c0d0/block/cciss!c0d0", None),
    ],
)
def test_disk_has_the_bus_as_protocol(tmp_path: Path, path: str, protocol: str | None) -> None:
    found = host_with(tmp_path, path, {})
    assert found.name == path.rpartition("/")[2].replace("!", "/")
    assert (found.kind, found.array, via(found).protocol) == ("disk", None, protocol)


def test_volumes_are_made_of_what_is_below_them(tmp_path: Path) -> None:
    disk = "pci0000:00/0000:00:04.0/virtio1/block/vda"
    add_device(tmp_path, disk, "252:0", {})
    add_device(tmp_path, f"{disk}/vda2", "252:2", {"partition": "2"})
    for name, uuid, files in (
        ("dm-0", "LVM-x", {"dm/name": "vg0-root", "slaves/vda2": ""}),
        ("dm-1", "CRYPT-LUKS2-x", {"dm/name": "secret", "slaves/dm-0": "", "dm/suspended": "1"}),
        ("dm-2", "part1-mpath-3600", {"dm/name": "mpatha1", "slaves/dm-3": ""}),
        ("dm-3", "mpath-3600", {"dm/name": "mpatha"}),
        ("md127", "", {"md/array_state": "clean", "slaves/dm-0": "", "slaves/gone": ""}),
        ("loop0", "", {}),
    ):
        dm = {"dm/uuid": uuid, "dm/suspended": "0"} if uuid else {}
        add_device(tmp_path, f"virtual/block/{name}", "1:1", {**dm, **files})
    found = by_name(read_topology(tmp_path))
    assert {name: (device.kind, device.made_of) for name, device in found.items()} == {
        "vda": ("disk", ()),
        "vda2": ("partition", ("vda",)),
        "dm-0": ("lvm", ("vda2",)),
        "dm-1": ("dm", ("dm-0",)),
        "dm-2": ("partition", ("dm-3",)),
        "dm-3": ("multipath", ()),
        "md127": ("md", ("dm-0",)),
        "loop0": ("virtual", ()),
    }
    states = [found[name].state for name in ("dm-0", "dm-1", "md127", "loop0")]
    assert states == ["running", "suspended", "clean", None]
    assert "\n".join(command.tree(read_topology(tmp_path))) == VOLUMES


VOLUMES = """\
Disks
  vda  134 MB  virtio

Volumes
  md127          md         134 MB  on vg0-root
  vg0-root dm-0  lvm        134 MB  on vda2
  secret dm-1    dm         134 MB  on vg0-root  suspended
  mpatha1 dm-2   partition  134 MB  on mpatha
  mpatha dm-3    multipath  134 MB  no path
  vda2           partition  134 MB  on vda

Loop devices, RAM disks and others
  loop0"""


def test_map_above_devices_without_transport_has_no_array(tmp_path: Path) -> None:
    add_device(tmp_path, "virtual/block/nullb0", "1:1", {})
    files: Files = {"dm/name": "m", "dm/uuid": "mpath-x", "dm/suspended": "0", "slaves/nullb0": ""}
    add_device(tmp_path, "virtual/block/dm-0", "253:0", files)
    found = read_topology(tmp_path)
    assert [(d.name, d.kind, d.array) for d in found.devices] == [
        ("dm-0", "multipath", None),
        ("nullb0", "path", None),
    ]
    assert list(command.tree(found)) == [
        "Disks",
        "  nullb0  134 MB  –",
        "",
        "Volumes",
        "  m dm-0  multipath  134 MB  on nullb0",
    ]


def test_terminal_without_utf8_gets_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_device(tmp_path, "virtual/block/nullb0", "1:1", {})
    files: Files = {"dm/name": "m", "dm/uuid": "mpath-x", "dm/suspended": "0", "slaves/nullb0": ""}
    add_device(tmp_path, "virtual/block/dm-0", "253:0", files)
    monkeypatch.setenv("LC_ALL", "C")
    shown = runner.succeed("topology", "--sysfs", tmp_path).decode("ascii")
    assert "  nullb0  134 MB  -\n" in shown


def test_paths_without_a_map_are_one_lun(hosts: Path, tmp_path: Path) -> None:
    root = copy_of(hosts / "iscsi-both-paths", tmp_path)
    (root / "sys/class/block/dm-0").unlink()
    found = read_topology(root)
    assert [(d.kind, d.map) for d in found.devices] == [("disk", None), ("disk", None)]
    assert len(found.arrays) == 1
    assert list(command.tree(found))[1:3] == [
        "  no map  134 MB  360014055f3c0a1e7d2b4c619e550242a",
        "    sda  1:0:0:0  iscsi 10.10.1.1:3260,1  optimized  running",
    ]


def test_characters_that_control_a_terminal_are_escaped(tmp_path: Path) -> None:
    lun = "pci0/host0/target0:0:0/0:0:0:0"
    write_files(tmp_path / f"sys/devices/{lun}", {"model": b"evil\x1b[2J\xff\n"})
    found = host_with(tmp_path, f"{lun}/block/sda", {})
    assert found.model == "evil\\x1b[2J\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("cut", range(4, 0x70, 3))
def test_page_that_ends_early_gives_what_it_has(hosts: Path, tmp_path: Path, cut: int) -> None:
    lun = "pci0/host0/target0:0:0/0:0:0:0"
    page = (hosts / "scsi_debug/sys/block/sda/device/vpd_pg83").read_bytes()
    write_files(tmp_path / f"sys/devices/{lun}", {"vpd_pg83": page[:cut]})
    found = via(host_with(tmp_path, f"{lun}/block/sda", {}))
    assert found.target_port == ("naa.32222220000007ce" if cut >= 0x44 else None)
    assert found.target_port_group == (0x100 if cut >= 0x4C else None)
    assert found.target == ("naa.32222220000007cd" if cut >= 0x58 else None)


# --- what changes meanwhile -----------------------------------------------------------------------


def copy_of(tree: Path, to: Path) -> Path:
    shutil.copytree(tree, to / tree.name, symlinks=True)
    return to / tree.name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("iscsi-both-paths", "sdb"),
        ("iscsi-both-paths", "dm-0"),
        ("fcoe-vn2vn", "sda"),
        ("nvme-tcp-native", "nvme0c1n1"),
        ("nvme-tcp-native", "nvme0n1"),
    ],
)
def test_device_that_vanishes_meanwhile_is_left_out(
    hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, name: str
) -> None:
    """The device vanishes before each read in turn."""
    root = copy_of(hosts / host, tmp_path)
    link = root / "sys/class/block" / name
    disk = link.resolve()
    gone = disk.parent.parent if disk.parent.name == "block" else disk  # the SCSI device, too
    moved = [(path, tmp_path / f"gone{n}") for n, path in enumerate((gone, link))]
    before = read_topology(root)
    move(moved)
    after = read_topology(root)
    assert name in by_name(before) and name not in by_name(after)
    move([(new, old) for old, new in moved])

    read_bytes = topology._bytes
    countdown = 0

    def vanishing(path: str) -> bytes | None:
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            move(moved)
        return read_bytes(path)

    monkeypatch.setattr(topology, "_bytes", vanishing)
    countdown = 0
    read_topology(root)
    n_reads = -countdown
    results = []
    for at in range(1, n_reads + 1):
        countdown = at
        found = read_topology(root)
        if not link.is_symlink():
            move([(new, old) for old, new in moved])
        assert found in (before, after), at
        results.append(found)
    assert results[0] == after and results[-1] == before


def move(pairs: list[tuple[Path, Path]]) -> None:
    for old, new in pairs:
        old.rename(new)


def test_names_that_change_places_are_followed(hosts: Path, tmp_path: Path) -> None:
    root = copy_of(hosts / "iscsi-both-paths", tmp_path)
    before = by_name(read_topology(root))
    links = root / "sys/class/block"
    a, b = (links / "sda").readlink(), (links / "sdb").readlink()
    for link, other, name in ((links / "sda", b, "sda"), (links / "sdb", a, "sdb")):
        link.unlink()
        link.symlink_to(other.parent / name)
        real = (links / other).resolve()
        real.rename(real.parent / f"{name}.new")
    for new in (root / "sys/devices").rglob("*.new"):
        new.rename(new.with_suffix(""))
    after = by_name(read_topology(root))
    assert after["sda"].hctl == before["sdb"].hctl and after["sdb"].hctl == before["sda"].hctl
    assert via(after["sda"]) == via(before["sdb"])
    assert after["dm-0"].made_of == ("sda", "sdb")


@pytest.mark.parametrize("host", HOSTS)
def test_refresh_without_changes_gives_the_same_object(hosts: Path, host: str) -> None:
    found = read_topology(hosts / host)
    assert refresh_topology(found, hosts / host) is found


@pytest.mark.parametrize(
    ("host", "file", "content"),
    [
        ("iscsi-both-paths", "block/sdb/device/state", "blocked"),
        ("scsi_debug", "block/sdb/device/access_state", "unavailable"),
        ("nvme-tcp-native", "block/nvme0c1n1/ana_state", "inaccessible"),
        ("nvme-tcp-native", "block/nvme0c1n1/device/state", "resetting"),
        ("nvme-tcp-dm", "block/nvme1n1/device/state", "deleting"),
        ("fcoe-vn2vn", "block/dm-0/dm/suspended", "1"),
        ("fcoe-vn2vn", "block/dm-0/dm/name", "renamed"),
        ("fcoe-vn2vn", "block/dm-0/size", "524288"),
        ("iscsi-both-paths", "block/sdb/size", "524288"),
        ("nvme-tcp-native", "block/nvme0n1/size", "524288"),
        ("iscsi-both-paths", "class/iscsi_session/session1/state", "FAILED"),
        ("fcoe-vn2vn", "class/fc_host/host2/port_state", "Linkdown"),
        ("fcoe-vn2vn", "class/fc_remote_ports/rport-3:0-0/port_state", "Blocked"),
        ("fcoe-vn2vn", "block/dm-0/slaves/sda", None),
        ("fcoe-vn2vn", "class/block/sda", None),
        ("nvme-tcp-native", "class/block/nvme0c0n1", None),
    ],
)
def test_refresh_notices_changes(
    hosts: Path, tmp_path: Path, host: str, file: str, content: str | None
) -> None:
    root = copy_of(hosts / host, tmp_path)
    before = read_topology(root)
    path = root / "sys" / file
    path.unlink()  # it is read-only, as on the recorded host
    if content is not None:
        path.write_text(f"{content}\n")
    after = refresh_topology(before, root)
    assert after != before and after == read_topology(root)


def test_refresh_notices_a_device_with_the_name_of_another(tmp_path: Path) -> None:
    sda = tmp_path / "sys/class/block/sda"
    for target in (0, 1):
        add_device(tmp_path, f"pci0/host0/target0:0:{target}/0:0:{target}:0/block/sda", "8:0", {})
        if target == 0:
            before = read_topology(tmp_path)
            sda.unlink()
    after = refresh_topology(before, tmp_path)
    assert [device.hctl for device in (*before.devices, *after.devices)] == ["0:0:0:0", "0:0:1:0"]


def test_refresh_notices_a_device_that_appears(tmp_path: Path) -> None:
    add_device(tmp_path, "pci0/cciss0/block/cciss!c0d0", "104:0", {})
    before = read_topology(tmp_path)
    assert refresh_topology(before, tmp_path) is before
    add_device(tmp_path, "virtual/block/loop0", "7:0", {})
    assert by_name(refresh_topology(before, tmp_path)).keys() == {"cciss/c0d0", "loop0"}


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_file_gives_equal_values(hosts: Path, host: str) -> None:
    found = read_topology(hosts / host)
    assert decode(encode(found)) == found


def test_file_has_a_line_for_each_device(hosts: Path) -> None:
    text = encode(read_topology(hosts / "iscsi-both-paths")).decode()
    (line,) = [line for line in text.splitlines() if '"name": "sdb"' in line]
    assert json.loads(line.rstrip(","))["number"] == "8:16"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: [], 'its "format" is not "blkiomon-topology"'),
        (lambda d: d | {"format": "x"}, 'its "format" is not "blkiomon-topology"'),
        (lambda d: d | {"version": 2}, "its version is 2, and this program reads 1"),
        (lambda d: d | {"hostname": 5}, "a damaged topology: hostname cannot be 5"),
        (lambda d: d | {"kernel": ["6.12"]}, "a damaged topology: kernel cannot be ['6.12']"),
        (lambda d: d | {"devices": None}, "a list of devices is missing"),
        (lambda d: d | {"arrays": [7]}, "array cannot be 7"),
        (lambda d: d | {"arrays": []}, "refers to the array"),
        (lambda d: d | {"devices": d["devices"] * 2}, "two devices have one name"),
        (lambda d: d | {"devices": d["devices"][:1]}, "dm-0 refers to sda, which is missing"),
        (lambda d: changed(d, name=None), "device None: name cannot be None"),
        (lambda d: changed(d, kind="tape"), "sda is of an unknown kind, tape"),
        (lambda d: changed(d, kind=["tape"]), "device 'sda': kind cannot be ['tape']"),
        (lambda d: changed(d, number="8"), "device 'sda': number cannot be '8'"),
        (lambda d: changed(d, number="8:-1"), "number cannot be '8:-1'"),
        (lambda d: changed(d, number="8:9999999"), "8:9999999 cannot exist"),
        (lambda d: changed(d, size_bytes=True), "size_bytes cannot be True"),
        (lambda d: changed(d, size_bytes=-1), "size_bytes cannot be -1"),
        (lambda d: changed(d, is_preferred=1), "is_preferred cannot be 1"),
        (lambda d: changed(d, made_of="sdb"), "made_of cannot be 'sdb'"),
        (lambda d: changed(d, transport="fc"), "device 'sda': transport cannot be 'fc'"),
        (lambda d: changed(d, transport={"protocol": 5}), "transport protocol cannot be 5"),
    ],
)
def test_file_that_is_something_else_is_refused(
    hosts: Path, change: Callable[[dict[str, Any]], Any], why: str
) -> None:
    data = json.loads(encode(read_topology(hosts / "iscsi-both-paths")))
    with pytest.raises(SourceError, match=re.escape(why)):
        decode(json.dumps(change(data)).encode())


def changed(data: dict[str, Any], **members: Any) -> dict[str, Any]:
    """Other members of sda."""
    devices = [row | members if row["name"] == "sda" else row for row in data["devices"]]
    return data | {"devices": devices}


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[" * 100_000, b'"a"\n"b"'])
def test_file_that_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError, match=r"not a topology: it is not JSON"):
        decode(data)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_tree_has_all_devices_within_80_columns(hosts: Path, host: str) -> None:
    lines = runner.succeed("topology", "--sysfs", hosts / host).decode().splitlines()
    assert max(map(len, lines)) <= 80
    words = set(" ".join(lines).split())
    assert by_name(read_topology(hosts / host)).keys() <= words


def test_tree_of_a_large_host_fits_80_columns(tmp_path: Path) -> None:
    make_host(tmp_path, 30)
    found = read_topology(tmp_path)
    lines = list(command.tree(found))
    assert max(map(len, lines)) <= 80
    assert lines[:3] == [
        "IBM 2145  0x500507680b00a1b2",
        "  mpatha dm-0    134 MB  3600507680b8000000000000000000000",
        "    sda   1:0:0:0   fc 0x500507680b2101a0  optimized      running",
    ]
    assert (len(found.devices), len(found.arrays), len(lines)) == (150, 1, 155)
    assert {len(d.made_of) for d in found.devices if d.kind == "multipath"} == {4}


def test_json_of_the_command_is_that_of_the_file(hosts: Path) -> None:
    printed = runner.succeed("topology", "--json", "--sysfs", hosts / "scsi_debug")
    assert decode(printed) == read_topology(hosts / "scsi_debug")


@pytest.mark.parametrize("name", ["run1", "run1.blktrace.0", "run1.topology.json"])
def test_saved_topology_is_printed_for_its_trace(hosts: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "run1.topology.json"
    assert runner.succeed("topology", "-o", file, "--sysfs", hosts / "fcoe-vn2vn") == b""
    shown = runner.succeed("topology", tmp_path / name)
    assert shown == runner.succeed("topology", "--sysfs", hosts / "fcoe-vn2vn")


def test_this_host_is_read(tmp_path: Path) -> None:
    file = tmp_path / "here.topology.json"
    runner.succeed("topology", "-o", file)
    found = decode(file.read_bytes())
    assert found.kernel == Path("/proc/sys/kernel/osrelease").read_text().strip()


def test_recording_keeps_the_topology(
    fake: type[FakeCapture], hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = read_topology(hosts / "iscsi-one-cut")
    monkeypatch.setattr(topology, "read_topology", lambda: recorded)
    assert record("-o", tmp_path / "run1").returncode == 0
    assert command.load(str(tmp_path / "run1.topology.json")) == recorded
    assert record("-o", tmp_path / "run1", "--overwrite").returncode == 0  # replaces it, too


def test_recording_goes_on_without_sysfs_or_where_no_topology_can_be_written(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run1.topology.json").mkdir()
    result = record("-o", tmp_path / "run1")
    first, last = result.stderr.decode().splitlines()
    assert result.returncode == 0 and "wrote " in last
    assert first.startswith(f"blkiomon: could not write to {tmp_path}/run1.topology.json: ")

    def missing() -> Topology:
        return read_topology(tmp_path)

    monkeypatch.setattr(topology, "read_topology", missing)
    result = record("-o", tmp_path / "run2")
    first, last = result.stderr.decode().splitlines()
    assert result.returncode == 0 and "wrote " in last
    assert first == (
        f"blkiomon: the topology is not saved: cannot read {tmp_path}/sys/class/block: "
        "No such file or directory"
    )
    assert not (tmp_path / "run2.topology.json").exists()


def test_recording_to_a_pipe_has_no_topology(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert record("-o", "-").returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a", "b"], "topology takes one trace, or none for this host"),
        ([""], "topology takes one trace, or none for this host"),
        (["a", "-o", "b"], "--sysfs and -o read this host or a copy of sysfs"),
        (["a", "--sysfs", "b"], "--sysfs and -o read this host or a copy of sysfs"),
        (["--json", "-o", "a"], "-o saves JSON, and --json prints it: use one of them"),
        (["-o", "-"], "-o takes a file; --json prints to standard output"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], why: str) -> None:
    assert why in complaint(2, *arguments)


def complaint(status: int, *arguments: runner.Argument) -> str:
    """The first line on standard error, as the command fails."""
    result = runner.call("topology", *arguments)
    assert (result.returncode, result.stdout) == (status, b"")
    return result.stderr.decode().splitlines()[0]


def test_one_of_several_topologies_of_a_directory_has_to_be_named(
    hosts: Path, tmp_path: Path
) -> None:
    for name in "ab":
        runner.succeed(
            "topology", "-o", tmp_path / f"{name}.topology.json", "--sysfs", hosts / "scsi_debug"
        )
    (tmp_path / "a.blktrace.0").write_bytes(b"")
    said = f"{tmp_path} has 2 topology files; name one: `--topology FILE`"
    assert said in complaint(3, tmp_path)
    for verb in ("summary", "stat", "report"):
        result = runner.call(verb, "--by", "lun", tmp_path)
        assert (result.returncode, result.stdout) == (3, b"")
        assert said in result.stderr.decode()


def test_failures_say_what_to_do(hosts: Path, tmp_path: Path) -> None:
    sysfs = ["--sysfs", str(hosts / "scsi_debug")]
    (tmp_path / "a.topology.json").write_text("{}")
    for status, arguments, why in (
        (
            3,
            ["--sysfs", tmp_path],
            "sys/class/block: No such file or directory; name the directory",
        ),
        (3, ["run1"], "`blkiomon topology -o run1.topology.json` writes it"),
        (3, [tmp_path / "x" / "y"], "no such file; on the traced host"),
        (3, [f"{tmp_path}/a.topology.json/run"], "Not a directory"),
        (3, [tmp_path / "a"], 'a.topology.json: not a topology: its "format"'),
        (4, [*sysfs, "-o", tmp_path / "no/a"], "could not write to"),
    ):
        assert why in complaint(status, *arguments)


@pytest.mark.parametrize("text", ["{bad", '{"format": "blkiomon-topology", "version": 9}'])
def test_saved_topology_that_cannot_be_read_is_left_out(tmp_path: Path, text: str) -> None:
    trace = tmp_path / "run"
    trace.write_bytes((TRACES / "loop-multi-dc.bin").read_bytes())
    options: list[runner.Argument] = ["-o", tmp_path / "run.html"]
    commands: tuple[list[runner.Argument], ...] = (
        [],
        ["stat"],
        ["report", *options],
        ["-I1", "--json", "-"],
        ["compare", trace],
    )
    before = [runner.run(*words, trace).stdout for words in commands]
    saved = tmp_path / "run.topology.json"
    saved.write_text(text)
    warned = re.compile(
        rf"blkiomon: {re.escape(str(saved))}: [^;]*; going on without it: remove it, or name "
        "another file with --topology"
    )
    for words, expected in zip(commands, before):
        result = runner.run(*words, trace)
        assert (result.returncode, result.stdout) == (0, expected)
        assert warned.match(result.stderr.decode())
    for needing in (["--by", "path"], ["--topology", saved]):
        for words in commands:
            result = runner.run(*words, *needing, trace)
            assert result.returncode == 3
            assert str(saved) in result.stderr.decode() and "remove" not in result.stderr.decode()
