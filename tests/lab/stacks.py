"""SAN stacks on one host: a target in the kernel, an initiator, udev and multipathd.

What a test makes here stays until its stack ends; udev, multipathd and the portals' addresses stay
until the machine ends.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from machine import PATIENCE_S, loop, sh, until

PORTALS = ("10.10.1.1", "10.10.2.1")
CONFIG = Path("/sys/kernel/config")
CORE = CONFIG / "target/core/rd_mcp_0/lun0"
BLOCK = Path("/sys/block")
ISCSI_TARGET = "iqn.2026-11.example.lab:array1"
NVME_SUBSYSTEM = "nqn.2026-11.example.lab:nvme:array1"
NVME_HOST_ID = "6f1c5c0e-3a1b-4b6e-9d0a-5f2e8c7b9a10"
"""Without it, nvme-cli takes a host NQN that does not match the kernel's host ID."""

MULTIPATH_CONF = """
defaults {
    user_friendly_names yes
    find_multipaths no
    polling_interval 2
    max_polling_interval 2
    path_grouping_policy group_by_prio
    failback immediate
    no_path_retry 10
    fast_io_fail_tmo 5
    dev_loss_tmo 600
}
blacklist {
    devnode "^(vd|loop|nullb)"
}
"""

ISCSID_CONF = """
iscsid.startup = /bin/true
node.startup = manual
node.session.timeo.replacement_timeout = 5
node.conn[0].timeo.noop_out_interval = 1
node.conn[0].timeo.noop_out_timeout = 2
node.session.cmds_max = 32
"""


class Stack(NamedTuple):
    """A LUN.

    Attributes:
        device: what applications open.
        name: the kernel's name of it, such as ``dm-0``.
        paths: names of its paths, by portal, port or SCSI address.
    """

    device: str
    name: str
    paths: dict[str, str]

    @property
    def traced(self) -> list[str]:
        """The names of the device and its paths."""
        return [self.name, *self.paths.values()]

    @classmethod
    def of(cls, device: str, key: Callable[[str], str], paths: Sequence[str]) -> Stack:
        """A stack whose paths have these keys."""
        name = Path(device).resolve().name
        return cls(device, name, {key(path): path for path in paths})


# --- what all stacks need -------------------------------------------------------------------------


@cache
def start_daemons() -> None:
    """Start udev and multipathd, once."""
    load("dm-multipath", "dm-service-time", "scsi_dh_alua", "sd_mod")
    Path("/run/udev").mkdir(exist_ok=True)
    sh("/usr/lib/systemd/systemd-udevd", "--daemon")
    sh("udevadm", "trigger", "--action=add", "--subsystem-match=block")
    sh("udevadm", "settle", "--timeout=30")
    Path("/etc/multipath").mkdir(exist_ok=True)
    Path("/etc/multipath.conf").write_text(MULTIPATH_CONF)
    sh("multipathd")
    until(lambda: succeeds("multipathd", "show", "daemon"), "multipathd")


@cache
def mount_configfs() -> None:
    """Mount configfs, once, and make the directories in which LIO keeps reservations."""
    load("configfs")
    if not CONFIG.is_mount():
        sh("mount", "-t", "configfs", "configfs", CONFIG)
    for directory in ("/etc/target", "/var/target/pr", "/var/target/alua"):
        Path(directory).mkdir(parents=True, exist_ok=True)


@cache
def raise_portals() -> None:
    """Give the loopback interface an address for each portal, with a queue of its own, once."""
    load("sch_prio", "sch_netem", "cls_u32")
    sh("ip", "link", "set", "lo", "up")
    sh("tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "prio", "bands", 6,
       "priomap", *[0] * 16)  # fmt: skip
    for band, address in enumerate(PORTALS, 4):
        sh("ip", "addr", "add", f"{address}/32", "dev", "lo")
        sh("tc", "qdisc", "add", "dev", "lo", "parent", f"1:{band}", "handle", f"{band}0:",
           "pfifo", "limit", 10000)  # fmt: skip
        sh("tc", "filter", "add", "dev", "lo", "parent", "1:", "protocol", "ip", "u32",
           "match", "ip", "dst", f"{address}/32", "flowid", f"1:{band}")  # fmt: skip


def disturb(portal: str, *netem: str) -> None:
    """Delay or lose what goes to a portal (``delay 20ms``); without ``netem``, restore it."""
    band = PORTALS.index(portal) + 4
    kind = ["netem", *netem] if netem else ["pfifo"]
    handle = f"{band}{1 if netem else 0}:"
    sh("tc", "qdisc", "replace", "dev", "lo", "parent", f"1:{band}", "handle", handle,
       *kind, "limit", 10000)  # fmt: skip


def load(*modules: str) -> None:
    for module in modules:
        sh("modprobe", module)


def unload(*modules: str) -> None:
    until(lambda: succeeds("modprobe", "-r", *modules), f"the end of {modules[0]}")


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def read(path: Path | str) -> str:
    return Path(path).read_text().strip()


class Configfs(ExitStack):
    """Makes directories and links in configfs, and removes them in the opposite order."""

    def directory(self, path: Path, **attributes: object) -> Path:
        """A directory with these attributes; a default group may be there already."""
        for missing in reversed([p for p in (path, *path.parents) if not p.exists()]):
            missing.mkdir()
            self.callback(missing.rmdir)
        for name, value in attributes.items():
            (path / name).write_text(str(value))
        return path

    def link(self, path: Path, target: Path) -> None:
        path.symlink_to(target)
        self.callback(path.unlink)


def ram_disk(config: Configfs, serial: str, megabytes: int = 128) -> Path:
    """A LUN of LIO in memory."""
    load("target_core_mod")
    config.directory(CORE)
    (CORE / "control").write_text(f"rd_pages={megabytes * 256}")
    (CORE / "wwn/vpd_unit_serial").write_text(serial)
    (CORE / "enable").write_text("1")
    return CORE


def maps() -> list[str]:
    """The kernel's names of the multipath maps."""
    return [p.parent.parent.name for p in BLOCK.glob("dm-*/dm/uuid") if read(p)[:6] == "mpath-"]


def map_with(paths: int, patience_s: float = PATIENCE_S) -> str:
    """The only multipath map, once it has so many paths that multipathd found ready."""

    def is_ready() -> bool:
        shown = sh("multipathd", "show", "paths", "format", "%d %m %T").splitlines()
        ready = sum("ready" in line and "orphan" not in line for line in shown)
        return ready == paths and len(maps()) == 1

    until(is_ready, f"{paths} paths", patience_s)
    sh("udevadm", "settle", "--timeout=30")
    (number,) = maps()
    alias = Path("/dev/mapper", read(BLOCK / number / "dm/name"))
    until(alias.exists, str(alias))
    return str(alias)


def slaves(device: str) -> list[str]:
    return sorted(path.name for path in (BLOCK / Path(device).resolve().name / "slaves").iterdir())


def flush_maps() -> None:
    """Remove all multipath maps, which may be in use for a moment yet."""
    until(lambda: succeeds("multipath", "-F") and not maps(), "the end of the maps")


# --- stacks ---------------------------------------------------------------------------------------


@contextmanager
def iscsi() -> Iterator[Stack]:
    """LIO with two portals, open-iscsi over both, dm-multipath."""
    start_daemons()
    mount_configfs()
    raise_portals()
    load("iscsi_target_mod", "iscsi_tcp")
    with Configfs() as config:
        disk = ram_disk(config, "5f3c0a1e-7d2b-4c61-9e55-0242ac110002")
        group = config.directory(CONFIG / "target/iscsi" / ISCSI_TARGET / "tpgt_1")
        config.directory(group / "lun/lun_0")
        config.link(group / "lun/lun_0/lun0", disk)
        for address in PORTALS:
            config.directory(group / f"np/{address}:3260")
        for name, value in {
            "authentication": 0,
            "generate_node_acls": 1,
            "cache_dynamic_acls": 1,
            "demo_mode_write_protect": 0,
        }.items():
            (group / "attrib" / name).write_text(str(value))
        (group / "enable").write_text("1")
        Path("/etc/iscsi").mkdir(exist_ok=True)
        Path("/var/lib/iscsi").mkdir(exist_ok=True)
        Path("/run/lock/iscsi").mkdir(parents=True, exist_ok=True)
        name = "InitiatorName=iqn.1993-08.org.debian:01:lab0\n"
        Path("/etc/iscsi/initiatorname.iscsi").write_text(name)
        Path("/etc/iscsi/iscsid.conf").write_text(ISCSID_CONF)
        if not succeeds("pidof", "iscsid"):
            sh("iscsid")
        until(
            lambda: succeeds("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", PORTALS[0]),
            "the target",
        )
        sh("iscsiadm", "-m", "node", "--login")
        try:
            device = map_with(2)
            yield Stack.of(device, portal_of, slaves(device))
        finally:
            for address in PORTALS:
                disturb(address)
            flush_maps()
            sh("iscsiadm", "-m", "node", "--logoutall=all")
            (group / "enable").write_text("0")


def portal_of(path: str) -> str:
    """The portal of an iSCSI disk."""
    (session,) = re.findall(r"/session(\d+)/", str((BLOCK / path).resolve()))
    connection = f"/sys/class/iscsi_connection/connection{session}:0"
    return read(f"{connection}/persistent_address")


@contextmanager
def nvme_tcp(is_native: bool) -> Iterator[Stack]:
    """An NVMe subsystem with two TCP ports, one of them optimized, by native or dm-multipath."""
    start_daemons()
    mount_configfs()
    raise_portals()
    unload("nvme_tcp", "nvmet_tcp", "nvmet", "nvme_fabrics", "nvme_core")
    sh("modprobe", "nvme_core", f"multipath={'Y' if is_native else 'N'}")
    load("nvmet", "nvmet_tcp", "nvme_tcp")
    target = CONFIG / "nvmet"
    with loop(128) as backing, Configfs() as config:
        subsystem = config.directory(
            target / "subsystems" / NVME_SUBSYSTEM,
            attr_allow_any_host=1,
            attr_serial="LAB0001",
            attr_model="Lab Array",
        )
        namespace = config.directory(
            subsystem / "namespaces/1",
            device_path=f"/dev/{backing}",
            device_uuid="5f3c0a1e-7d2b-4c61-9e55-0242ac110001",
        )
        states = ("optimized", "non-optimized")
        for port, (address, state) in enumerate(zip(PORTALS, states), 1):
            directory = config.directory(
                target / f"ports/{port}",
                addr_trtype="tcp",
                addr_adrfam="ipv4",
                addr_traddr=address,
                addr_trsvcid=4420,
            )
            (directory / "ana_groups/1/ana_state").write_text(state)
        (namespace / "ana_grpid").write_text("1")
        (namespace / "enable").write_text("1")
        for port in (1, 2):
            config.link(target / f"ports/{port}/subsystems/{NVME_SUBSYSTEM}", subsystem)
        try:
            for address in PORTALS:
                sh("nvme", "connect", "-t", "tcp", "-a", address, "-s", 4420, "-n", NVME_SUBSYSTEM,
                   "-q", f"nqn.2014-08.org.nvmexpress:uuid:{NVME_HOST_ID}", "-I", NVME_HOST_ID,
                   "--keep-alive-tmo=5", "--reconnect-delay=2", "--ctrl-loss-tmo=600")  # fmt: skip
            sh("udevadm", "settle", "--timeout=30")
            for controller in controllers():
                (controller / "fast_io_fail_tmo").write_text("5")
            if is_native:
                disks = [path.name for path in BLOCK.glob("nvme*")]
                (head,) = [name for name in disks if not re.search(r"c\d+n", name)]
                until(lambda: Path("/dev", head).is_block_device(), head)
                hidden = sorted(p.name for p in Path("/sys/class/block").glob("nvme*c*n*"))
                yield Stack.of(f"/dev/{head}", nvme_address, hidden)
            else:
                device = map_with(2)
                yield Stack.of(device, nvme_address, slaves(device))
        finally:
            for address in PORTALS:
                disturb(address)
            if not is_native:
                flush_maps()
            sh("nvme", "disconnect", "-n", NVME_SUBSYSTEM)
            (namespace / "enable").write_text("0")


def controllers() -> list[Path]:
    return sorted(Path("/sys/class/nvme").glob("nvme*"))


def nvme_address(path: str) -> str:
    """The portal of an NVMe path."""
    parts = (Path("/sys/class/block") / path).resolve()
    (address,) = re.findall(r"traddr=([0-9.]+)", read(parts.parent / "address"))
    return address


@contextmanager
def fcoe() -> Iterator[Stack]:
    """FCoE between two pairs of virtual Ethernet ports (VN2VN), tcm_fc as target, dm-multipath."""
    start_daemons()
    mount_configfs()
    load("veth", "sch_netem", "target_core_mod", "libfc", "libfcoe", "fcoe", "tcm_fc")
    with Configfs() as config:
        for n in (1, 2):
            sh("ip", "link", "add", f"fc{n}", "type", "veth", "peer", "name", f"ft{n}")
            for name, end in ((f"fc{n}", 1), (f"ft{n}", 2)):
                Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
                sh("ip", "link", "set", name, "address", f"02:00:00:00:0{n}:0{end}", "mtu", 2500)
                sh("ip", "link", "set", name, "up")
            config.callback(sh, "ip", "link", "delete", f"fc{n}")
        parameters = Path("/sys/module/libfcoe/parameters")

        def join(interface: str) -> None:
            (parameters / "create_vn2vn").write_text(interface)
            config.callback((parameters / "destroy").write_text, interface)

        # A remote port that is no target when it is first seen gets no SCSI target later.
        for interface in ("ft1", "ft2"):
            join(interface)
        disk = ram_disk(config, "9b3c0a1e-7d2b-4c61-9e55-0242ac110004")
        for n in (1, 2):
            target, initiator = (f"20:00:02:00:00:00:0{n}:0{end}" for end in (2, 1))
            group = config.directory(CONFIG / "target/fc" / target / "tpgt_1")
            config.directory(group / "lun/lun_0")
            config.link(group / "lun/lun_0/lun", disk)
            config.directory(group / "acls" / initiator / "lun_0")
            config.link(group / "acls" / initiator / "lun_0/lun", group / "lun/lun_0")
        for interface in ("fc1", "fc2"):
            join(interface)
        try:
            device = first_map_or_again(parameters)
            yield Stack.of(device, fc_port_of, slaves(device))
        finally:
            flush_maps()


def first_map_or_again(parameters: Path) -> str:
    """The map of both FCoE paths. Initiators that saw a target too early are made again."""
    for _ in range(3):
        try:
            return map_with(2, 60)
        except TimeoutError:
            for interface in ("fc1", "fc2"):
                (parameters / "destroy").write_text(interface)
                (parameters / "create_vn2vn").write_text(interface)
    return map_with(2)


def fc_port_of(path: str) -> str:
    """The name of the remote port of an FC disk."""
    (port,) = re.findall(r"/(rport-[^/]+)/", str((BLOCK / path).resolve()))
    return read(f"/sys/class/fc_remote_ports/{port}/port_name")


@contextmanager
def tcm_loop() -> Iterator[Stack]:
    """LIO's loopback: one LUN by four SCSI hosts in two ALUA groups, dm-multipath."""
    start_daemons()
    mount_configfs()
    load("target_core_mod", "tcm_loop")
    with Configfs() as config:
        disk = ram_disk(config, "7a3c0a1e-7d2b-4c61-9e55-0242ac110003", 64)
        for number, (group, state) in enumerate((("optimized", 0), ("other", 1)), 2):
            config.directory(
                disk / "alua" / group,
                tg_pt_gp_id=number,
                alua_access_type=1,  # implicit: otherwise a host may swap the groups itself
                alua_access_state=state,
            )
        groups = ("optimized", "optimized", "other", "other")
        for n, group in enumerate(groups):
            name = f"naa.5001405aa000000{n}"
            port = config.directory(CONFIG / "target/loopback" / name / "tpgt_1")
            lun = config.directory(port / "lun/lun_0")
            (port / "nexus").write_text(name.replace("00000", "11111"))
            config.callback((port / "nexus").write_text, "NULL")
            config.link(lun / "lun0", disk)
            (lun / "alua_tg_pt_gp").write_text(group)
        for host in Path("/sys/class/scsi_host").glob("host*"):
            (host / "scan").write_text("- - -")
        device = map_with(4)
        try:
            yield Stack.of(device, host_of, slaves(device))
        finally:
            # Removing the links removes the disks. A target whose disk is gone keeps its nexus.
            flush_maps()


def swap_groups(paths: Iterable[str]) -> None:
    """Make the other group the optimized one."""
    for group, state in (("optimized", 1), ("other", 0)):
        (CORE / "alua" / group / "alua_access_state").write_text(str(state))
    for path in paths:  # Linux 7.3 asks for the states again only then
        (BLOCK / path / "device/rescan").write_text("1")


def host_of(path: str) -> str:
    """The SCSI address of a disk."""
    return (BLOCK / path / "device").resolve().name
