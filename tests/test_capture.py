"""Capture by perf events: devices, formats and filters, and live on a loop device."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import programs
import pytest

from blkiomon._core import Engine
from blkiomon.engine import layout
from blkiomon.sources import capture as capturing
from blkiomon.sources.capture import (
    PIPE,
    Capture,
    CaptureError,
    Device,
    all_disks,
    event_format,
    find_device,
    find_tracefs,
)
from blkiomon.sources.perf import PerfRings

FORMATS = Path(__file__).parent / "data/tracepoints"
SDA, SDB, DM0 = 8 << 20, 8 << 20 | 16, 253 << 20


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A root directory with two disks, a partition, a volume, a loop device and an empty reader."""

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
    path = add("nvme0c0n1", 259 << 20, 1000, "device", "mq")
    (path / "hidden").write_text("1\n")
    (partition / "partition").write_text("1\n")
    (partition / "start").write_text("100\n")
    add("sdb", SDB, 1000, "device", "mq")
    add("sdc", SDB + 16, 0, "device", "mq")
    add("dm-0", DM0, 1000, "dm")
    add("loop0", 7 << 20, 1000, "mq")
    (tmp_path / "sys/devices/system/cpu").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-1,3\n")
    return tmp_path


def test_disk_is_found_with_its_number(host: Path) -> None:
    assert find_device("sda", host) == Device("sda", SDA, True)


def test_device_mapper_device_has_no_requests(host: Path) -> None:
    assert find_device("dm-0", host) == Device("dm-0", DM0, False)


def test_partition_is_a_range_of_its_disks_sectors(host: Path) -> None:
    device = find_device("sda1", host)
    assert device == Device("sda1", SDA, True, (100, 400))
    assert device.term == f"(dev == {SDA} && sector >= 100 && sector < 400)"


@pytest.mark.parametrize("name", ["sdx", "..", ".", "a" * 300, "a\0b"])
def test_device_that_is_not_there_is_named(host: Path, name: str) -> None:
    with pytest.raises(CaptureError, match="this host has no such block device"):
        find_device(name, host)


def test_file_that_is_not_a_block_device_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(CaptureError, match="not a block device"):
        find_device(str(path))


def test_all_disks_are_hardware_and_what_is_made_of_it(host: Path) -> None:
    assert [device.name for device in all_disks(host)] == ["dm-0", "sda", "sdb"]


def test_online_cpus_are_read_from_ranges(host: Path) -> None:
    assert capturing._online(host) == {0, 1, 3}


def test_missing_tracefs_says_how_to_mount_it(host: Path) -> None:
    with pytest.raises(CaptureError, match="mount -t tracefs") as caught:
        find_tracefs(host)
    assert str(caught.value).endswith(PIPE)


@pytest.mark.parametrize("kernel", sorted(p.name for p in FORMATS.iterdir()))
def test_formats_of_real_kernels_are_understood(kernel: str) -> None:
    for path in (FORMATS / kernel).iterdir():
        found = event_format(path.read_text(), action=7, category=64, is_bio=False)
        assert found["dev"] == 8 and found["sector"] == 16 and found["nr_sector"] == 24
        assert found["rwbs_bytes"] in (8, 10)
        assert (found["error"] >= 0) == ("complete" in path.name)


def test_format_without_a_sector_is_refused() -> None:
    text = (FORMATS / "6.18/block_rq_issue").read_text().replace("sector_t sector", "int place")
    with pytest.raises(CaptureError, match="unknown format"):
        event_format(text, action=7, category=64, is_bio=False)


@pytest.mark.parametrize(
    ("events", "ring_bytes", "rings"),
    [([], 1 << 16, 1), ([{}] * 9, 1 << 16, 1), ([{}], 5000, 1), ([{}], 1 << 16, 0)],
)
def test_rings_out_of_range_are_refused(events: list, ring_bytes: int, rings: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        PerfRings(events, ring_bytes, rings)


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
    except CaptureError as error:
        pytest.skip(str(error))
    else:
        yield path.removeprefix("/dev/")
    finally:
        subprocess.run([losetup, "--detach", path], check=True)


def use(device: str, n: int, *, write: bool = False) -> None:
    """Read or write n blocks of 4 KiB, past the page cache."""
    block = memoryview(bytearray(8192))
    at = -np.frombuffer(block, np.uint8).ctypes.data % 4096  # as O_DIRECT wants it
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
        lost = capture.lost_events  # some kernels withhold a sample now and then
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
        read = sum(engine.counters()[name] for name in ("requests",))
        assert capture.lost_events > 0
        records = engine.records - 2  # the time of day and this process's name
        assert records + capture.lost_events >= 4000
        assert read < 2000


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
