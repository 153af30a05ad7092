"""Names of devices, through a directory of links as sysfs has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from intervals import DM3, SDB

from blkiomon.sources.devices import DeviceNames, device_name, nameless, with_relatives


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


@pytest.mark.parametrize(
    ("names", "by", "found"),
    [
        (["mpatha"], "path", ("mpatha", "sda", "sdb")),
        (["dm-0", "sdb"], "port", ("dm-0", "sdb", "sda")),
        (["sdb"], "lun", ("sdb", "dm-0")),
        (["mpatha"], "lun", ("mpatha",)),
        (["sdb"], "path", ("sdb",)),
        (["mpatha", "all"], "device", ("mpatha", "all")),
        (["data", "sdz", "all"], "path", ("data", "sdz", "all")),
    ],
)
def test_view_of_a_map_or_path_adds_the_devices_above_and_below_it(
    tmp_path: Path, names: list[str], by: str, found: tuple[str, ...]
) -> None:
    for name, uuid, number, below in (("mpatha", "mpath-36", 0, "ab"), ("data", "LVM-x", 1, "c")):
        volume = tmp_path / f"dm-{number}"
        (volume / "dm").mkdir(parents=True)
        (volume / "dm/name").write_text(f"{name}\n")
        (volume / "dm/uuid").write_text(f"{uuid}\n")
        for letter in below:
            (volume / f"slaves/sd{letter}").mkdir(parents=True)
            (tmp_path / f"sd{letter}/holders").mkdir(parents=True)
            (tmp_path / f"sd{letter}/holders/dm-{number}").symlink_to(volume)
    assert with_relatives(names, by, tmp_path) == found
