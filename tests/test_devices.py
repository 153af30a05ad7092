"""Names of devices, through a directory of links as sysfs has it."""

from __future__ import annotations

from pathlib import Path

from intervals import DM3, SDB

from blkiomon.sources.devices import DeviceNames, device_name, nameless


def test_device_name_is_the_last_part_of_the_sysfs_link(tmp_path: Path) -> None:
    (tmp_path / "8:16").symlink_to("../../devices/pci0000:00/0000:00:1f.2/block/sdb")
    (tmp_path / "8:17").symlink_to("../../devices/pci0000:00/0000:00:1f.2/block/sdb/sdb1")
    (tmp_path / "104:0").symlink_to("../../devices/pci0000:00/block/cciss!c0d0")
    assert device_name(SDB, tmp_path) == "sdb"
    assert device_name(SDB + 1, tmp_path) == "sdb1"
    assert device_name(104 << 20, tmp_path) == "cciss/c0d0"
    assert device_name(DM3, tmp_path) is None


def test_device_that_appears_later_is_found_and_its_name_cached(tmp_path: Path) -> None:
    names = DeviceNames(tmp_path)
    assert names(DM3) is None
    link = tmp_path / "253:3"
    link.symlink_to("../../devices/virtual/block/dm-3")
    assert names(DM3) == "dm-3"
    link.unlink()
    assert names(DM3) == "dm-3"


def test_host_without_sysfs_has_no_names(tmp_path: Path) -> None:
    assert DeviceNames(tmp_path / "missing")(SDB) is None
    assert nameless(SDB) is None
