"""Capture by perf events: devices, formats and filters, and live on a loop device."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
import runner
import tracewriter as tw

import blkiomon
from blkiomon._core import Engine
from blkiomon.commands import naming
from blkiomon.commands.cli import parse
from blkiomon.commands.config import Config
from blkiomon.engine import layout
from blkiomon.errors import SourceError
from blkiomon.sources import capture as capturing
from blkiomon.sources import devices
from blkiomon.sources.capture import (
    ALL,
    LOCKED_DOWN,
    MOST_FILTER,
    PIPE,
    Capture,
    CapturedDevice,
    all_disks,
    event_format,
    filters_of,
    find_device,
    find_tracefs,
)
from blkiomon.sources.devices import device_number
from blkiomon.sources.perf import PerfRings, _records_of

FORMATS = Path(__file__).parent / "data/tracepoints"
SDA, SDB, DM0, NVME = 8 << 20, 8 << 20 | 16, 253 << 20, 259 << 20 | 3


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A root directory with two disks, a partition, a volume, a loop device and a card reader."""

    def add(name: str, number: int, size: int, *kinds: str, below: str = "block") -> Path:
        path = tmp_path / "sys/devices" / below / name
        for kind in kinds:
            (path / kind).mkdir(parents=True)
        path.mkdir(parents=True, exist_ok=True)
        (path / "dev").write_text(f"{number >> 20}:{number & 0xFFFFF}\n")
        (path / "size").write_text(f"{size}\n")
        for link in (f"sys/class/block/{name}", f"sys/dev/block/{number >> 20}:{number & 0xFFFFF}"):
            (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / link).symlink_to(path)
        if below == "block":
            (tmp_path / "sys/block").mkdir(parents=True, exist_ok=True)
            (tmp_path / "sys/block" / name).symlink_to(path)
        return path

    add("sda", SDA, 1000, "device", "mq")
    partition = add("sda1", SDA + 1, 300, below="block/sda")
    path = add("nvme0c0n1", NVME, 1000, "device", "mq")
    (path / "hidden").write_text("1\n")
    (path / "dev").unlink()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/diskstats").write_text("   8   0 sda 1 0\n 259   3 nvme0c0n1 48 0 384 7\n")
    (partition / "partition").write_text("1\n")
    (partition / "start").write_text("100\n")
    add("sdb", SDB, 1000, "device", "mq")
    add("sdc", SDB + 16, 0, "device", "mq")
    (add("dm-0", DM0, 1000, "dm") / "dm/name").write_text("data\n")
    add("loop0", 7 << 20, 1000, "mq")
    (tmp_path / "sys/devices/system/cpu").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-1,3\n")
    (tmp_path / "sys/devices/system/cpu/possible").write_text("0-5\n")
    return tmp_path


def test_disk_is_found_with_its_number(host: Path) -> None:
    assert find_device("sda", host) == CapturedDevice("sda", SDA, True)


def test_hidden_path_has_the_number_of_its_statistics(host: Path) -> None:
    assert find_device("nvme0c0n1", host) == CapturedDevice("nvme0c0n1", NVME, True)


def test_head_of_nvme_multipath_takes_completions_of_its_paths(host: Path) -> None:
    head = host / "sys/devices/block/nvme0n1"
    head.mkdir()
    (head / "dev").write_text("259:1\n")
    (host / "sys/class/block/nvme0n1").symlink_to(head)
    device = find_device("nvme0n1", host)
    assert (device.has_requests, device.paths) == (False, (NVME,))
    queue, complete = ({"is_bio": True, "action": action} for action in (7, 8))
    assert device.terms(queue) == [f"dev == {259 << 20 | 1}"]
    assert device.terms(complete) == [f"dev == {259 << 20 | 1}", f"dev == {NVME}"]
    assert device.terms({"is_bio": False, "action": 8}) == []


def test_disk_that_went_while_it_was_looked_up_is_left_out_or_named(host: Path) -> None:
    (host / "sys/block/sda/dev").unlink()
    (host / "proc/diskstats").write_text("")
    assert [device.name for device in all_disks(host)] == ["dm-0", "sdb"]
    with pytest.raises(SourceError, match="cannot capture sda: No such file or directory"):
        find_device("sda", host)


def test_device_mapper_device_has_no_requests(host: Path) -> None:
    assert find_device("dm-0", host) == CapturedDevice("dm-0", DM0, False)
    assert find_device("data", host) == find_device("dm-0", host)
    assert device_number("data", host / "sys/class/block") == DM0


def test_partition_is_a_range_of_its_disks_sectors(host: Path) -> None:
    device = find_device("sda1", host)
    assert device == CapturedDevice("sda1", SDA, True, (100, 400))
    issue = {"is_bio": False, "action": 7}
    assert device.terms(issue) == [f"(dev == {SDA} && sector >= 100 && sector < 400)"]


def test_terms_of_a_disk_and_its_partitions_never_pass_the_same_sample(host: Path) -> None:
    issue = {"is_bio": False, "action": 7}
    disk, partition = find_device("sda", host), find_device("sda1", host)
    (host / "sys/devices/block/sda/sda1/size").write_text("500\n")
    larger = find_device("sda1", host)
    assert partition.terms(issue, [disk]) == []
    assert partition.terms(issue, [partition]) == []
    assert larger.terms(issue, [partition]) == [
        f"(dev == {SDA} && sector >= 100 && sector < 600 && (sector < 100 || sector >= 400))"
    ]
    assert disk.terms(issue, [partition]) == [f"(dev == {SDA} && (sector < 100 || sector >= 400))"]


@pytest.mark.parametrize("name", ["sdx", "..", ".", "a" * 300, "a\0b"])
def test_device_that_is_not_there_is_named(host: Path, name: str) -> None:
    with pytest.raises(SourceError, match="this host has no such block device"):
        find_device(name, host)


def as_record(
    kernel: str,
    event: str,
    rwbs: str,
    *,
    sector: int = 8,
    nr: int = 8,
    error: int = 0,
    time_ns: int = 1234,
    zoned: Sequence[int] = (),
) -> bytes:
    """The trace record of a sample of this tracepoint, laid out as that kernel does."""
    is_bio = "_bio_" in event
    action, category = (8, tw.COMPLETE) if "complete" in event else (7, tw.ISSUE)
    text = (FORMATS / kernel / event).read_text()
    at = event_format(text, action=action, category=category, is_bio=is_bio)
    raw = bytearray(100)
    struct.pack_into("=i", raw, 4, 77)
    struct.pack_into("=I", raw, at["dev"], SDB)
    struct.pack_into("=q", raw, at["sector"], sector)
    struct.pack_into("=I", raw, at["nr_sector"], nr)
    if at["bytes"] >= 0:
        struct.pack_into("=I", raw, at["bytes"], nr * 512)
    if at["error"] >= 0:
        struct.pack_into("=i", raw, at["error"], error)
    raw[at["rwbs"] : at["rwbs"] + len(rwbs)] = rwbs.encode()
    (record,) = _records_of(at, [bytes(raw)], time_ns, 3, zoned)
    return record


def categories(record: np.void) -> int:
    return int(record["action"]) >> tw.CATEGORY_SHIFT


def test_file_that_is_not_a_block_device_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(SourceError, match="not a block device"):
        find_device(str(path))


def test_all_disks_are_hardware_and_what_is_made_of_it(host: Path) -> None:
    assert [device.name for device in all_disks(host)] == ["dm-0", "sda", "sdb"]


def test_device_that_all_disks_lack_is_captured_beside_them(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(host, monkeypatch)
    for names, more in (
        ([ALL, "loop0"], [7 << 20]),
        (["loop0", "sdb", "sda1", ALL, ALL], [7 << 20]),
        ([ALL], []),
    ):
        with Capture(names, print, root=host) as capture:
            assert capture.device_numbers == [DM0, SDA, SDB, *more]
    with pytest.raises(SourceError, match="cannot capture sdx: this host has no such block"):
        Capture([ALL, "sdx"], print, root=host)


@pytest.mark.parametrize("number", ["7:0", "7,0"])
def test_device_to_capture_may_be_a_number(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "device_name", {7 << 20: "loop0"}.get)
    config = parse(["-I1", "--trace", number, "--trace", "7:9", "--trace", "/dev/by:path/8:x"])
    assert isinstance(config, Config)
    assert config.trace == ("loop0", "7:9", "/dev/by:path/8:x")
    monkeypatch.setattr(naming, "is_device", {"loop0"}.__contains__)
    assert naming.devices_and_traces([number], (), "stat") == (["loop0"], [])


def test_online_cpus_are_read_from_ranges(host: Path) -> None:
    assert capturing._cpus(host, "online") == {0, 1, 3}


class Rings:
    """In place of ``PerfRings``: notes what is asked for."""

    def __init__(self, events: list[Any], ring_bytes: int, most: int) -> None:
        self.most, self.cpus, self.sets = most, set[int](), set[int]()
        self.ignored: set[int] = set()
        self.stopped: list[int] = []
        self.is_full = False
        self.zoned: set[int] = set()

    def open(self, cpu: int, sets: dict[int, Any]) -> int:
        assert len(self.cpus) < self.most
        self.sets |= sets.keys()
        self.cpus.add(cpu)
        return os.eventfd(0)

    def stopped_cpus(self) -> list[int]:
        return [self.stopped.pop()] if self.stopped else []

    def close_cpu(self, cpu: int) -> None:
        self.cpus.remove(cpu)

    def add(self, number: int, filters: object) -> None:
        if self.is_full:
            raise OSError(errno.EMFILE, "Too many open files")
        assert number not in self.sets
        self.sets.add(number)

    def remove(self, number: int) -> None:
        self.sets.remove(number)

    def ignore(self, numbers: set[int]) -> None:
        self.ignored = numbers

    def set_zoned(self, numbers: set[int]) -> None:
        self.zoned = numbers

    def enable(self, is_on: bool = True) -> None: ...
    def set_heads(self, heads: dict[int, int]) -> None: ...
    def close(self) -> None: ...


def prepare(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the host tracepoints, and captures no rings."""
    monkeypatch.setattr(capturing, "PerfRings", Rings)
    for event in (FORMATS / "6.18").iterdir():
        path = host / "sys/kernel/tracing/events/block" / event.name / "format"
        path.parent.mkdir(parents=True)
        path.write_text(event.read_text())


@pytest.fixture
def of_all_disks(host: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Capture]:
    """A capture of all disks of the host, an NVMe head among them."""
    prepare(host, monkeypatch)
    head = host / "sys/devices/block/nvme0n1"
    (head / "device").mkdir(parents=True)
    (head / "dev").write_text("259:1\n")
    (head / "size").write_text("1000\n")
    (host / "sys/class/block/nvme0n1").symlink_to(head)
    (host / "sys/block/nvme0n1").symlink_to(head)
    with Capture([ALL], print, root=host) as capture:
        yield capture


def test_each_cpu_that_may_come_online_has_a_ring(host: Path, of_all_disks: Capture) -> None:
    (host / "sys/devices/system/cpu/online").write_text("0-5\n")
    of_all_disks._refresh()
    rings: Any = of_all_disks._rings
    assert rings.cpus == {0, 1, 2, 3, 4, 5}


def test_cpu_that_was_offline_for_a_moment_is_captured_again(
    of_all_disks: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    monkeypatch.setattr(of_all_disks, "_report", reports.append)
    rings: Any = of_all_disks._rings
    rings.stopped = [3]
    of_all_disks._refresh()
    assert rings.cpus == {0, 1, 3}
    assert reports == ["CPU 3 came online: its events of the last 2 s were not captured"]
    of_all_disks._refresh()
    assert len(reports) == 1


def move(host: Path, name: str, number: str) -> None:
    """Remove a disk and, with another number, add it again; without a number: only remove it."""
    path = host / "sys/devices/block" / name
    if number:
        (path / "dev").write_text(f"{number}\n")
    (path / "size").write_text("1000\n" if number else "0\n")


def test_filters_of_a_device_that_has_gone_are_removed(host: Path, of_all_disks: Capture) -> None:
    rings: Any = of_all_disks._rings
    assert rings.sets == {0}
    for i in range(100):
        move(host, "sdc", f"8:{160 + i}")
        of_all_disks._refresh()
        assert len(rings.sets) == 2
    move(host, "sdc", "")
    of_all_disks._refresh()
    assert rings.sets == {0}
    move(host, "sdb", "")
    of_all_disks._refresh()
    assert (rings.sets, rings.ignored) == ({0}, {SDB})  # the first set has the rings
    move(host, "sdb", "8:16")
    of_all_disks._refresh()
    assert (rings.sets, rings.ignored) == ({0}, set())


def test_device_that_cannot_be_added_is_reported_once_and_tried_again(
    host: Path, of_all_disks: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    monkeypatch.setattr(of_all_disks, "_report", reports.append)
    rings: Any = of_all_disks._rings
    rings.is_full = True
    move(host, "sdc", "8:32")
    for _ in range(3):
        of_all_disks._refresh()
    assert reports == ["sdc cannot be captured: Too many open files"]
    rings.is_full = False
    of_all_disks._refresh()
    assert len(rings.sets) == 2


def test_more_sets_of_filters_than_a_ring_has_room_for_are_reported(
    host: Path, of_all_disks: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    monkeypatch.setattr(of_all_disks, "_report", reports.append)
    monkeypatch.setattr(capturing, "MAX_SETS_OF_FILTERS", 1)
    move(host, "sdc", "8:32")
    of_all_disks._refresh()
    assert reports == ["sdc cannot be captured: too many sets of filters"]


def test_capture_knows_zoned_disks_and_raises_the_limit_of_descriptors(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(host, monkeypatch)
    (host / "sys/devices/block/sdb/queue").mkdir()
    (host / "sys/devices/block/sdb/queue/zoned").write_text("host-aware\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    try:
        with Capture([ALL], print, root=host) as capture:
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
            rings: Any = capture._rings
            assert rings.zoned == {SDB}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_changes_that_cannot_be_read_do_not_end_the_capture(
    host: Path, of_all_disks: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    monkeypatch.setattr(of_all_disks, "_report", reports.append)
    (host / "sys/devices/system/cpu/online").unlink()
    of_all_disks._refresh()
    of_all_disks._refresh()
    assert reports == ["CPUs and devices that come are not captured: No such file or directory"]


def test_head_whose_path_is_removed_is_captured_without_a_filter(
    host: Path, of_all_disks: Capture
) -> None:
    assert 259 << 20 | 1 in of_all_disks.device_numbers and NVME not in of_all_disks.device_numbers
    shutil.rmtree(host / "sys/devices/block/nvme0c0n1")
    (host / "sys/block/nvme0c0n1").unlink()
    (host / "sys/class/block/nvme0c0n1").unlink()
    of_all_disks._refresh()
    rings: Any = of_all_disks._rings
    assert rings.sets == {0}
    shutil.rmtree(host / "sys/devices/block/sdb")
    (host / "sys/devices/block/sdb/device").mkdir(parents=True)
    for name, text in (("dev", "8:96\n"), ("size", "1000\n")):
        (host / "sys/devices/block/sdb" / name).write_text(text)
    of_all_disks._refresh()
    assert len(rings.sets) == 2


def test_missing_tracefs_says_how_to_mount_it(host: Path) -> None:
    with pytest.raises(SourceError, match="mount -t tracefs") as caught:
        find_tracefs(host)
    assert str(caught.value).endswith(PIPE)


def test_hidden_tracefs_of_a_kernel_that_is_locked_down_is_not_called_missing(host: Path) -> None:
    (host / "sys/kernel/security").mkdir(parents=True)
    (host / "sys/kernel/security/lockdown").write_text("none integrity [confidentiality]\n")
    with pytest.raises(SourceError) as caught:
        find_tracefs(host)
    assert str(caught.value) == f"cannot capture: {LOCKED_DOWN}"


NEEDS = "needs root, or CAP_PERFMON and CAP_DAC_READ_SEARCH (kernel.perf_event_paranoid is"


@pytest.mark.parametrize(
    ("error", "level", "lockdown", "why"),
    [
        (errno.EACCES, 2, "[none] integrity", f"{NEEDS} 2); {PIPE}"),
        (errno.EACCES, 2, "none [integrity]", f"{NEEDS} 2)"),  # which refuses blktrace
        (
            *(errno.EACCES, 4, "[none] integrity"),
            f"{NEEDS} 4: above 2, Debian and Ubuntu want CAP_SYS_ADMIN); {PIPE}",
        ),
        (errno.EPERM, 2, "none [confidentiality]", f"{NEEDS} 2)"),
        (errno.ENOSYS, 2, "[none]", f"the kernel has no perf events (CONFIG_PERF_EVENTS); {PIPE}"),
    ],
)
def test_refused_capture_says_why(
    host: Path, monkeypatch: pytest.MonkeyPatch, error: int, level: int, lockdown: str, why: str
) -> None:
    class Refused:
        def __init__(self, *arguments: object) -> None: ...
        def close(self) -> None: ...
        def open(self, *arguments: object) -> int:
            raise OSError(error, f"perf_event_open: {os.strerror(error)}")

    monkeypatch.setattr(capturing, "PerfRings", Refused)
    for event in ("issue", "complete", "requeue"):
        path = host / f"sys/kernel/tracing/events/block/block_rq_{event}/format"
        path.parent.mkdir(parents=True)
        path.write_text((FORMATS / "6.18/block_rq_issue").read_text())
    for name, text in (
        ("proc/sys/kernel/perf_event_paranoid", f"{level}\n"),
        ("sys/kernel/security/lockdown", lockdown),
    ):
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).write_text(text)
    with pytest.raises(SourceError) as caught:
        Capture(["sda"], print, root=host)
    assert str(caught.value) == f"cannot capture: {why}"


@pytest.mark.parametrize("kernel", sorted(p.name for p in FORMATS.glob("[0-9]*")))
def test_formats_of_real_kernels_are_understood(kernel: str) -> None:
    for path in (FORMATS / kernel).iterdir():
        found = event_format(path.read_text(), action=7, category=64, is_bio=False)
        assert found["dev"] == 8 and found["sector"] == 16 and found["nr_sector"] == 24
        assert found["rwbs_bytes"] in (8, 10)
        assert (found["error"] >= 0) == ("complete" in path.name)


def test_format_without_a_sector_is_refused() -> None:
    text = (FORMATS / "6.18/block_rq_issue").read_text().replace("sector_t sector", "int place")
    with pytest.raises(SourceError, match="block_rq_issue lacks sector"):
        event_format(text, action=7, category=64, is_bio=False)


@pytest.mark.parametrize(
    ("events", "ring_bytes", "rings"),
    [([], 1 << 16, 1), ([{}] * 9, 1 << 16, 1), ([{}], 5000, 1), ([{}], 1 << 16, 0)],
)
def test_rings_out_of_range_are_refused(events: list, ring_bytes: int, rings: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        PerfRings(events, ring_bytes, rings)


@pytest.mark.parametrize("n", [0, 1, 100, 1000])
def test_filters_pass_each_device_and_are_as_short_as_the_kernel_wants_them(n: int) -> None:
    issue = {"is_bio": False, "action": 7}
    terms = [CapturedDevice(f"sd{i}", i << 4, True).terms(issue)[0] for i in range(n)]
    filters = filters_of(terms)
    assert all(len(text) <= MOST_FILTER for text in filters)
    assert [term for text in filters for term in text.split(" || ")] == (terms or ["dev == 0"])


def test_record_of_a_read_has_the_fields_of_its_sample() -> None:
    (record,) = blkiomon.read_trace(as_record("6.18", "block_rq_issue", "RS", sector=800, nr=16))
    assert (record["time_ns"], record["cpu"], record["device"]) == (1234, 3, SDB)
    assert (record["sector"], record["bytes"], record["pid"]) == (800, 8192, 77)
    assert categories(record) == tw.ISSUE | tw.READ | tw.SYNC | tw.FS


OPERATIONS = [
    ("R", tw.READ | tw.FS),
    ("RA", tw.READ | tw.FS | 1 << 11),
    ("WS", tw.WRITE | tw.SYNC | tw.FS),
    ("FWFSM", tw.WRITE | tw.FLUSH | tw.FS | tw.SYNC | 1 << 12 | 1 << 15),
    ("D", tw.WRITE | tw.DISCARD | tw.FS),
    ("DE", tw.WRITE | tw.DISCARD | tw.FS),
    ("FF", tw.READ | tw.FLUSH | tw.FS),
    ("F", tw.READ | tw.FLUSH | tw.FS),
    ("WZ", tw.WRITE | 1 << 22 | tw.FS),
    ("ZA", tw.WRITE | 1 << 16 | tw.FS),
    ("ZR", tw.WRITE | 1 << 17 | tw.FS),
    ("ZRA", tw.WRITE | 1 << 18 | tw.FS),
    ("ZF", tw.WRITE | 1 << 19 | tw.FS),
    ("ZO", tw.WRITE | 1 << 20 | tw.FS),
    ("ZC", tw.WRITE | 1 << 21 | tw.FS),
    ("N", tw.WRITE | 1 << 22 | tw.FS),  # with sectors: write zeroes of old kernels
]


@pytest.mark.parametrize(("rwbs", "expected"), OPERATIONS)
def test_letters_of_an_operation_are_its_categories(rwbs: str, expected: int) -> None:
    for kernel in sorted(path.name for path in FORMATS.glob("[0-9]*")):
        (record,) = blkiomon.read_trace(as_record(kernel, "block_rq_issue", rwbs))
        assert categories(record) == tw.ISSUE | expected


@pytest.mark.parametrize("kernel", sorted(p.name for p in FORMATS.glob("[0-9]*")))
def test_write_zeroes_and_passthrough_differ_by_their_sectors(kernel: str) -> None:
    """Kernels before 7.3 print N for both; a passthrough request has no sector."""
    for event, sector, nr in (("block_rq_issue", 0, 0), ("block_rq_complete", -1, 8)):
        (zeroes,) = blkiomon.read_trace(as_record(kernel, event, "N", sector=80, nr=8))
        (other,) = blkiomon.read_trace(as_record(kernel, event, "N", sector=sector, nr=nr))
        kind = tw.COMPLETE if "complete" in event else tw.ISSUE
        assert categories(zeroes) == kind | tw.WRITE | 1 << 22 | tw.FS
        assert categories(other) == kind | tw.READ | tw.PC
        assert (zeroes["sector"], other["sector"]) == (80, 0)


def test_zone_append_of_a_kernel_that_does_not_name_it_is_not_write_zeroes(host: Path) -> None:
    record = as_record("6.1", "block_rq_issue", "N", sector=80, nr=8, zoned=[SDA, SDB])
    assert categories(blkiomon.read_trace(record)[0]) == tw.ISSUE | tw.READ | tw.PC
    record = as_record("6.1", "block_rq_issue", "N", sector=80, nr=8, zoned=[SDA])
    assert categories(blkiomon.read_trace(record)[0]) == tw.ISSUE | tw.WRITE | 1 << 22 | tw.FS
    queue = host / "sys/devices/block/sdb/queue"
    queue.mkdir()
    (queue / "zoned").write_text("none\n")
    assert not find_device("sdb", host).is_zoned
    (queue / "zoned").write_text("host-managed\n")
    assert find_device("sdb", host).is_zoned


@pytest.mark.parametrize("kernel", ["6.1", "7.3"])
def test_letters_are_read_alike_again_and_with_any_bytes_after_them(kernel: str) -> None:
    rng = random.Random(7)
    text = (FORMATS / kernel / "block_rq_issue").read_text()
    at = event_format(text, action=7, category=tw.ISSUE, is_bio=False)
    room = at["rwbs_bytes"]
    whole = [("FZRAFSMA", 1 << 18 | tw.WRITE | tw.FLUSH | tw.FS | tw.SYNC | 0b11 << 11 | 1 << 15)]
    given = [(r, c) for r, c in (OPERATIONS + whole) * 20 if len(r) < room and r != "N"]
    rng.shuffle(given)
    samples = []
    for rwbs, _ in given:
        raw = bytearray(100)
        letters = rwbs.encode() + b"\0" + rng.randbytes(room)
        raw[at["rwbs"] : at["rwbs"] + room] = letters[:room]
        samples.append(bytes(raw))
    found = blkiomon.read_trace(b"".join(_records_of(at, samples, 1234, 3)))
    assert [categories(record) for record in found] == [tw.ISSUE | c for _, c in given]


def test_passthrough_shows_no_sectors_and_is_not_write_zeroes() -> None:
    (record,) = blkiomon.read_trace(as_record("6.18", "block_rq_issue", "N", nr=0))
    assert categories(record) == tw.ISSUE | tw.READ | tw.PC


def test_completion_without_a_sector_has_sector_0() -> None:
    (record,) = blkiomon.read_trace(
        as_record("6.18", "block_rq_complete", "FF", sector=-1, nr=0, error=-5)
    )
    assert (record["sector"], record["error"]) == (0, 2**16 - 5)


def test_bio_is_paired_by_its_last_sector_when_its_last_piece_completes() -> None:
    issue = as_record("6.18", "block_bio_queue", "R", sector=100, nr=50)
    done = as_record("6.18", "block_bio_complete", "R", sector=140, nr=10, time_ns=5000)
    (request,) = blkiomon.requests(issue + done)
    assert (request["bytes"], request["d2c_ns"]) == (25600, 3766)


# --- live -----------------------------------------------------------------------------------------


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """The name of a loop device; skips where there is none, or where perf events are refused."""
    if os.geteuid() != 0:
        pytest.skip("capturing needs root")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(1 << 24)
    losetup = programs.require("losetup", "mount")
    done = subprocess.run(
        [losetup, "--find", "--show", str(image)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    path = done.stdout.strip()
    try:
        Capture([path], print).close()
    except SourceError as error:
        pytest.skip(str(error))
    else:
        yield path.removeprefix("/dev/")
    finally:
        subprocess.run([losetup, "--detach", path], check=True)


def use(device: str, n: int, *, write: bool = False) -> None:
    """Read or write n blocks of 4 KiB, past the page cache."""
    block = memoryview(bytearray(8192))
    at = -np.frombuffer(block, np.uint8).ctypes.data % 4096  # O_DIRECT needs aligned memory
    fd = os.open(f"/dev/{device}", (os.O_RDWR if write else os.O_RDONLY) | os.O_DIRECT)
    try:
        for i in range(n):
            call = os.pwritev if write else os.preadv
            assert call(fd, [block[at : at + 4096]], i * 4096) == 4096
    finally:
        os.close(fd)


def captured(capture: Capture, engine: Engine) -> None:
    """Feed an engine all that has been captured, and end the capture."""
    capture.stop()
    for data in capture.pieces():
        engine.feed(data)


def test_every_request_is_captured_once(loop: str) -> None:
    engine = Engine(keep_requests=True)
    with Capture([loop], print) as capture:
        use(loop, 100)
        use(loop, 50, write=True)
        captured(capture, engine)
        lost = capture.lost_events  # some kernels drop a sample now and then
    requests = engine.take_requests()
    number = find_device(loop).number
    mine = requests[requests["pid"] == os.getpid()]
    ops = [layout.OPS[op] for op in mine["op"]]
    assert 100 - lost <= ops.count("read") <= 100
    assert 50 - lost <= ops.count("write") <= 50
    assert len(ops) == 150 or lost
    assert set(mine["device"].tolist()) == {number}
    assert set(mine["bytes"].tolist()) == {4096}
    assert engine.process_names[os.getpid()]
    assert engine.epoch_ns is not None
    assert abs(engine.epoch_ns + int(mine["issued_ns"][0]) - time.time_ns()) < 60 * 10**9


def test_time_of_day_is_known_if_the_rings_are_first_read_late(loop: str) -> None:
    engine = Engine(keep_records=True)
    with Capture([loop], print) as capture:
        use(loop, 10)
        time.sleep(1.2)  # a note over a second after the first record would not be used
        captured(capture, engine)
    first, second = engine.take_records()["time_ns"][:2].tolist()
    assert first == second
    assert engine.epoch_ns is not None
    assert abs(engine.epoch_ns + first - time.time_ns()) < 60 * 10**9


def test_cpus_that_are_online_are_not_taken_for_stopped(loop: str) -> None:
    with Capture([loop], print) as capture:
        for _ in range(2):
            time.sleep(0.6)
            assert capture._rings.stopped_cpus() == []
        capture.stop()  # the events of a CPU that goes offline end likewise
        time.sleep(0.6)
        capture._rings.stopped_cpus()
        time.sleep(0.6)
        assert set(capture._rings.stopped_cpus()) == capture._cpu_fds.keys()


def test_what_is_captured_while_pieces_are_taken_is_left_for_the_next_call(loop: str) -> None:
    before, later = Engine(), Engine()
    with Capture([loop], print) as capture:
        use(loop, 4000)  # more than one piece
        time.sleep(0.02)  # until nothing earlier may still arrive in another ring
        pieces = capture.pieces()
        before.feed(next(pieces))
        use(loop, 50, write=True)
        time.sleep(0.02)
        for data in pieces:
            before.feed(data)
        captured(capture, later)
        lost = capture.lost_events
    assert 4000 - lost <= before.requests <= 4000
    assert 50 - lost <= later.requests <= 50


def test_metrics_of_an_idle_device_exist_from_the_start(loop: str, tmp_path: Path) -> None:
    file = tmp_path / "metrics"
    name = f'device="{loop}"'
    for more, ops in (([], {"read", "write"}), (["--op", "write"], {"write"})):
        with runner.Process("-I", "3600", "--textfile", file, "--trace", loop, *more) as running:
            runner.until(lambda: file.exists(), "the metrics")
            text = file.read_text()
            running.send_signal(signal.SIGINT)
            running.outcome()
        zeros = re.findall(rf'^blkiomon_requests_total{{{name},op="(\w+)"}} 0.0$', text, re.M)
        assert set(zeros) == ops
        file.unlink()


def test_unit_allows_every_system_call_of_a_capture(loop: str, tmp_path: Path) -> None:
    strace, systemd = programs.require("strace"), programs.require("systemd-analyze", "systemd")
    log, stats = tmp_path / "log", tmp_path / "stats.json"
    command = [*runner.COMMAND, "-I", "0.2", "--json", str(stats), "--trace", loop]
    with subprocess.Popen([strace, "-f", "-qq", "-o", str(log), *command]) as process:
        end_s = time.monotonic() + 60
        while not (stats.exists() and stats.stat().st_size) and time.monotonic() < end_s:
            time.sleep(0.05)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGINT)
        process.wait(60)
    used = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
    unit = (Path(__file__).parents[1] / "contrib/blkiomon.service").read_text()
    allowed: set[str] = set()
    sets = re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE)[0].split()
    while sets:
        name = sets.pop()
        if name.startswith("@"):
            text = subprocess.check_output([systemd, "syscall-filter", name], text=True)
            sets += re.findall(r"^    ([@\w-]+)$", text, re.MULTILINE)
        else:
            allowed.add(name)
    assert "perf_event_open" in used
    assert used <= allowed


def test_two_captures_see_the_same(loop: str) -> None:
    engines = Engine(), Engine()
    with Capture([loop], print) as one, Capture([loop], print) as two:
        use(loop, 100)
        for capture, engine in zip((one, two), engines, strict=True):
            captured(capture, engine)
        lost = one.lost_events + two.lost_events
    assert all(engine.requests >= 100 - lost for engine in engines)


def test_small_rings_report_every_lost_event(loop: str) -> None:
    engine = Engine()
    with Capture([loop], print, ring_bytes=1 << 15) as capture:
        use(loop, 2000)  # nothing is read meanwhile
        captured(capture, engine)
        assert capture.lost_events > 0
        records = engine.records - 2  # minus the notes: time of day and process name
        assert records + capture.lost_events >= 4000
        assert engine.requests < 2000


def test_device_that_is_added_is_captured_from_then_on(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "REFRESH_S", 0.0)
    engine = Engine()
    with Capture(["loop7" if loop != "loop7" else "loop6"], print) as capture:
        use(loop, 50)
        capture._names = (loop,)
        list(capture.pieces())  # looks for devices after the last record
        use(loop, 100)
        captured(capture, engine)
        lost = capture.lost_events
    assert 100 - lost <= engine.requests < 150


def test_device_that_has_gone_is_not_counted_under_another_name(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "REFRESH_S", 0.0)
    link = tmp_path / "data"
    link.symlink_to(f"/dev/{loop}")
    engine = Engine()
    reports: list[str] = []
    with Capture([str(link)], reports.append) as capture:
        use(loop, 10)
        time.sleep(0.02)
        for data in capture.pieces():
            engine.feed(data)
        link.unlink()
        list(capture.pieces())  # looks for devices after the last record
        use(loop, 50)
        time.sleep(0.02)
        for data in capture.pieces():
            engine.feed(data)
        before = engine.requests
        link.symlink_to(f"/dev/{loop}")
        list(capture.pieces())
        use(loop, 20)
        captured(capture, engine)
        lost = capture.lost_events
    assert 10 - lost <= before <= 10
    assert 30 - lost <= engine.requests <= 30
    assert reports == [
        f"{link} has gone; it is captured again when it comes back",
        f"{link} is back",
    ]


def test_devices_in_several_filters_are_captured_once(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "MOST_FILTER", 20)
    names = [name for name in ("loop0", "loop1", "loop2") if name != loop][:2]
    engine = Engine()
    with Capture([*names, loop], print) as capture:
        assert len(capture._additions[0].sets) == 3
        use(loop, 100)
        captured(capture, engine)
        lost = capture.lost_events
    assert engine.requests >= 100 - lost
    assert engine.counters()["mismatches"] == 0


def test_command_captures_until_a_signal(loop: str, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    options = ["-I", "0.2", "--trace", loop, "--queue", "--json", str(output)]
    with runner.Running(*options) as process:
        runner.until(output.exists, "the capture to begin")
        use(loop, 200)
        runner.until(lambda: b'"read"' in output.read_bytes(), "the requests")
        process.signal(signal.SIGTERM)
        assert process.process.wait(runner.TIMEOUT_S) == 0
    whole = blkiomon.merge(
        blkiomon.from_dict(json.loads(line)) for line in output.read_text().splitlines()
    )
    assert whole.total.requests >= 200 - whole.counts.lost_events
    # Lost events may be queue records.
    assert whole.total.q2d_ns is not None and whole.total.q2d_ns.count >= 200 // 2
    assert blkiomon.to_dict(whole)["processes"] is not None


def test_devices_that_the_selection_excludes_have_no_rows(loop: str) -> None:
    other = "loop7" if loop != "loop7" else "loop6"
    arguments = [loop, other, "--device", other, "0.1", "1"]
    done = runner.call("stat", *arguments)
    assert other in done.stdout.decode() and loop not in done.stdout.decode()
    done = runner.call("stat", loop, *arguments[2:])
    said = f"blkiomon: --device selects none of the devices that are captured: {loop}\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (3, b"", said)


def test_selecting_a_device_that_is_not_among_all_disks_is_refused(loop: str) -> None:
    with Path("/dev/null").open("rb") as stdin:
        done = runner.call("stat", "--device", loop, "0.1", "1", stdin=stdin)
    said = "blkiomon: --device selects none of the devices that are captured"
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.decode().startswith(said) and loop not in done.stderr.decode()


def test_queue_times_are_captured_on_request(loop: str) -> None:
    engine = Engine()
    with Capture([loop], print, queue=True) as capture:
        use(loop, 20)
        captured(capture, engine)
    assert engine.snapshot().queue_rows["requests"].sum() >= 20


def test_descriptor_becomes_readable(loop: str) -> None:
    with Capture([loop], print, ring_bytes=1 << 15) as capture:
        use(loop, 500)
        poll = select.poll()
        poll.register(capture.fd, select.POLLIN)
        assert poll.poll(5000)
