"""Captures on real kernels: what ``--trace`` counts equals what fio and the kernel counted.

Every device here is one of the machine of ``make lab``, and is gone with it. Each comparison
leaves a line for ``make lab`` to print: test, kernel, figures expected and found.
"""

from __future__ import annotations

import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import machine
import pytest
from machine import (
    BLKIOMON,
    KERNEL,
    PATIENCE_S,
    WORK,
    Compare,
    Live,
    blkiomon,
    fio,
    number,
    sh,
    until,
)


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Compare:
    """Compares figures by name, and leaves a line for ``make lab``."""
    return machine.comparison(request.node.name)


# --- each kind of device --------------------------------------------------------------------------


def test_null_blk(compare: Compare) -> None:
    with machine.null_blk() as disk, Live([disk], "--queue") as live:
        load = fio(f"/dev/{disk}", bsrange="512-64k", number_ios=2000)
        live.stop()
        (device,) = live.interval["devices"]
        compare(
            load.figures | {"queued": load.reads + load.writes},
            live.figures() | {"queued": device["q2d_ns"]["count"]},
        )


def test_scsi_with_flushes(compare: Compare) -> None:
    with machine.scsi_debug() as disk, Live([disk]) as live:
        load = fio(f"/dev/{disk}", rw="randwrite", iodepth=1, number_ios=100, fsync=4)
        live.stop()
        compare(load.figures, live.figures())


def test_virtio(compare: Compare) -> None:
    with Live([machine.quiet("vda")]) as live:
        load = fio("/dev/vda", size="64m")
        live.stop()
        compare(load.figures, live.figures())


def test_loop(compare: Compare) -> None:
    with machine.loop() as disk, Live([disk]) as live:
        load = fio(f"/dev/{disk}")
        live.stop()
        compare(load.figures, live.figures())


def test_linear_volume_by_its_bios(compare: Compare) -> None:
    with (
        machine.scsi_debug() as disk,
        machine.mapped(f"linear /dev/{disk} 0") as volume,
        Live([volume]) as live,
    ):
        load = fio(f"/dev/{volume}", rw="randwrite", iodepth=1, number_ios=100, fsync=8)
        live.stop()
        compare(load.figures, live.figures())


@pytest.mark.parametrize("mode", ["bio", "rq"])
def test_multipath_map_and_its_path(compare: Compare, mode: str) -> None:
    for name in ("dm_multipath", "dm_round_robin"):
        sh("modprobe", name)
    with (
        machine.scsi_debug() as disk,
        machine.mapped(
            f"multipath 2 queue_mode {mode} 0 1 1 round-robin 0 1 1 /dev/{disk} 100"
        ) as m,
        Live([m, disk]) as live,
    ):
        if mode == "rq":
            machine.quiet(m)
        load = fio(f"/dev/{m}", number_ios=300)
        live.stop()
        compare(load.figures, live.figures(m))
        compare(load.figures, live.figures(disk))
        compare(load.total, live.total)


def test_md_array_and_its_members(compare: Compare) -> None:
    sh("modprobe", "raid1")
    with (
        machine.null_blk("one", memory_backed=1) as one,
        machine.null_blk("two", memory_backed=1) as two,
    ):
        Path("/sys/module/md_mod/parameters/new_array").write_text("md9")
        md = Path("/sys/block/md9/md")
        settings = {"level": "raid1", "raid_disks": "2", "metadata_version": "none"}
        settings["component_size"] = "32768"
        for name, value in settings.items():
            (md / name).write_text(value)
        for index, disk in enumerate((one, two)):
            (md / "new_dev").write_text(Path(f"/sys/block/{disk}/dev").read_text())
            (md / f"dev-{disk}" / "slot").write_text(str(index))
        (md / "array_state").write_text("active")
        Path("/dev/md9").open("rb").close()  # the kernel looks for partitions
        try:
            until(lambda: (md / "sync_action").read_text() == "idle\n", "equal members")
            with Live(["md9", one, two]) as live:
                load = fio("/dev/md9", rw="write", number_ios=200, size="16m")
                live.stop()
        finally:
            (md / "array_state").write_text("clear")
        compare(load.figures, live.figures("md9"))
        for disk in (one, two):
            compare(load.figures, live.figures(disk))


def test_partition_alone(compare: Compare) -> None:
    with machine.null_blk() as disk:
        sh("addpart", f"/dev/{disk}", 1, 2048, 16384)
        sh("addpart", f"/dev/{disk}", 2, 32768, 16384)
        first, second = sorted(
            f"/dev/{path.name}" for path in Path("/sys/block", disk).glob(f"{disk}*")
        )
        with Live([second]) as live:
            fio(first)
            load = fio(second, number_ios=300)
            live.stop()
        compare(load.figures, live.figures())


def test_zone_operations(compare: Compare) -> None:
    with (
        machine.null_blk(size=256, memory_backed=1, zoned=1, zone_size=4, zone_max_open=8) as disk,
        Live([disk]) as live,
    ):
        for operation in ("open", "close", "finish", "reset"):
            sh("blkzone", operation, "-o", 8192, "-l", 8192, f"/dev/{disk}")
        load = fio(
            f"/dev/{disk}", rw="write", bs="64k", iodepth=1, zonemode="zbd", number_ios=100,
            offset="32m", size="16m",
        )  # fmt: skip
        live.stop()
        # Before 7.3, a tracepoint shows zone operations and what passes through the layer alike.
        zone_operations = {"zone" if KERNEL == "7.3" else "other": 4}
        compare(load.figures | zone_operations, live.figures())


def test_fstrim(compare: Compare) -> None:
    with machine.null_blk(size=256, memory_backed=1, discard=1) as disk:
        sh("mkfs.ext4", "-q", "-E", "nodiscard", f"/dev/{disk}")
        directory = WORK / "mounted"
        directory.mkdir()
        sh("mount", f"/dev/{disk}", directory)
        try:
            statistics = Path(f"/sys/block/{disk}/stat")
            with Live([disk]) as live:
                before = statistics.read_text().split()
                sh("fstrim", directory)
                after = statistics.read_text().split()
                live.stop()
        finally:
            sh("umount", directory)
            directory.rmdir()
        discards, sectors = (int(after[i]) - int(before[i]) for i in (11, 13))
        assert discards
        (device,) = live.interval["devices"]
        discard = device["ops"]["discard"]
        compare(
            {"discard": discards, "bytes": sectors * 512},
            {"discard": discard["requests"], "bytes": discard["bytes"]},
        )


def test_nvme_head_and_its_hidden_paths(compare: Compare) -> None:
    with machine.nvme_tcp() as (head, paths), Live([head, *paths]) as live:
        load = fio(f"/dev/{head}", number_ios=300)
        live.stop()
        compare(load.figures, live.figures(head))
        by_path = [live.figures(path) for path in paths]
        total = {name: sum(one.get(name, 0) for one in by_path) for name in load.figures}
        compare(load.figures, total)
        compare(load.total, live.total)


# --- errors, retries and refusals -----------------------------------------------------------------


def test_read_errors(compare: Compare) -> None:
    with machine.scsi_debug() as disk, Live([disk]) as live:
        machine.inject(2, 0)
        # Sectors 4660 to 4669 cannot be read.
        load = fio(f"/dev/{disk}", rw="read", iodepth=1, offset="2304k", size="256k", number_ios=64)
        live.stop()
        expected = load.figures | {"errors": load.failed, "bytes": load.bytes + 4096 * load.failed}
        compare(expected, live.figures())
        assert load.failed


def test_commands_that_are_issued_again(compare: Compare) -> None:
    with machine.scsi_debug() as disk, Live([disk]) as live:
        counter = f"/sys/block/{disk}/device/ioerr_cnt"
        before = number(counter)
        machine.inject(16, 5)
        load = fio(f"/dev/{disk}", rw="randread", iodepth=1, number_ios=100)
        machine.inject(0, 0)
        live.stop()
        retried = number(counter) - before
        assert retried
        compare(load.figures | {"requeues": retried}, live.figures())


def test_commands_that_the_host_refuses(compare: Compare) -> None:
    tracing = Path("/sys/kernel/tracing")
    with machine.scsi_debug() as disk, Live([disk]) as live:
        (tracing / "trace").write_text("")
        (tracing / "events/scsi/scsi_dispatch_cmd_error/enable").write_text("1")
        machine.inject(0x8000, 7)
        load = fio(f"/dev/{disk}", rw="randread", number_ios=100)
        machine.inject(0, 0)
        live.stop()
        (tracing / "events/enable").write_text("0")
        refused = (tracing / "trace").read_text().count("scsi_dispatch_cmd_error:")
        assert refused
        compare(load.figures | {"requeues": refused}, live.figures())


# --- several at once, and what goes wrong ---------------------------------------------------------


def test_two_captures_and_blktrace_see_all(compare: Compare) -> None:
    with machine.null_blk() as disk, Live([disk]) as one, Live([disk]) as two:
        command = ["blktrace", "-d", f"/dev/{disk}", "-D", str(WORK), "-o", "beside"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as blktrace:
            until(lambda: list(WORK.glob("beside.blktrace.*")), "blktrace")
            time.sleep(2)
            load = fio(f"/dev/{disk}", number_ios=1000)
            one.stop()
            two.stop()
            assert blktrace.poll() is None
            blktrace.send_signal(signal.SIGINT)
        compare(load.figures, one.figures())
        compare(load.figures, two.figures())
        text = blkiomon("-I", "3600", "--json", "-", *sorted(WORK.glob("beside.blktrace.*")))
    for file in WORK.glob("beside.blktrace.*"):
        file.unlink()
    assert f'"requests":{load.reads + load.writes},' in text


def test_every_event_lost_while_stopped_is_reported(compare: Compare) -> None:
    with machine.null_blk() as disk, Live([disk], interval_s=1) as live:
        machine.until(lambda: bool(live.intervals()), "an interval: signals are handled now")
        live.process.send_signal(signal.SIGSTOP)
        load = fio(f"/dev/{disk}", rw="randread", io_size="600m", iodepth=32)
        live.process.send_signal(signal.SIGCONT)
        live.stop()
        parts = live.intervals()
        lost = sum(part["unseen"]["lost_events"] for part in parts)
        assert lost and "lost" in live.messages
        # A record of the time of day comes first, and one with the name of each process.
        known = [part["processes"] for part in parts if part["processes"]]
        pids = {one["pid"] for processes in known for one in processes["by_requests"]}
        events = sum(part["records"] for part in parts) - 1 - len(pids) + lost
        compare({"events": 2 * load.reads}, {"events": events})


def test_killed_capture_leaves_nothing(compare: Compare) -> None:
    with machine.null_blk() as disk:
        with Live([disk]) as live:
            live.process.kill()
        enabled = Path("/sys/kernel/tracing/events/block/enable").read_text().strip()
        assert (enabled, Path("/sys/kernel/tracing/current_tracer").read_text()) == ("0", "nop\n")
        with Live([disk]) as live:
            load = fio(f"/dev/{disk}")
            live.stop()
        compare(load.figures, live.figures())


def test_disk_that_is_removed_under_load() -> None:
    with machine.scsi_debug(ndelay=2_000_000) as disk, Live([disk]) as live:
        load = subprocess.Popen(
            ["fio", "--name=lab", f"--filename=/dev/{disk}", "--direct=1", "--rw=randread",
             "--ioengine=libaio", "--iodepth=8", "--time_based", "--runtime=60"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stat = Path(f"/sys/block/{disk}/stat")
        machine.until(lambda: int(stat.read_text().split()[0]) > 200, "200 reads")
        Path(f"/sys/block/{disk}/device/delete").write_text("1")
        load.wait()
        time.sleep(5)  # devices are looked up every two seconds
        live.stop()
        figures = live.figures()
        assert figures["read"] > 100 and not figures.get("in_flight_at_end")
        assert f"{disk} has gone" in live.messages


def test_cpu_that_goes_and_comes_back(compare: Compare) -> None:
    online = Path("/sys/devices/system/cpu/cpu1/online")
    with machine.null_blk() as disk, Live([disk]) as live:
        first = fio(f"/dev/{disk}")
        online.write_text("0")
        time.sleep(5)
        second = fio(f"/dev/{disk}")
        online.write_text("1")
        time.sleep(5)
        third = fio(f"/dev/{disk}")
        live.stop()
        assert "CPU 1 came online" in live.messages
        expected = {
            name: n + second.figures[name] + third.figures[name]
            for name, n in first.figures.items()
        }
        compare(expected, live.figures())


def test_cpu_that_is_offline_for_a_moment(compare: Compare) -> None:
    online = Path("/sys/devices/system/cpu/cpu1/online")
    with machine.null_blk() as disk, Live([disk]) as live:
        first = fio(f"/dev/{disk}", cpus_allowed=1)
        online.write_text("0")
        online.write_text("1")
        time.sleep(5)  # CPUs are looked up every two seconds
        second = fio(f"/dev/{disk}", cpus_allowed=1)
        live.stop()
        assert "CPU 1 came online" in live.messages
        compare({n: first.figures[n] + second.figures[n] for n in first.figures}, live.figures())


def test_volume_that_has_another_name_is_not_counted(compare: Compare) -> None:
    with machine.scsi_debug() as disk, machine.mapped(f"linear /dev/{disk} 0") as volume:
        name = Path("/sys/block", volume, "dm/name").read_text().strip()
        with Live([name]) as live:
            first = fio(f"/dev/{volume}")
            sh("dmsetup", "rename", "--noudevsync", name, "other")
            time.sleep(5)  # devices are looked up every two seconds
            fio(f"/dev/{volume}")
            time.sleep(1)
            sh("dmsetup", "rename", "--noudevsync", "other", name)
            time.sleep(5)
            second = fio(f"/dev/{volume}")
            live.stop()
        assert f"{name} has gone" in live.messages and f"{name} is back" in live.messages
        compare({n: first.figures[n] + second.figures[n] for n in first.figures}, live.figures())


@pytest.mark.parametrize("delay_s", [0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
def test_interrupt_while_it_starts(delay_s: float) -> None:
    with machine.null_blk() as disk:
        command = [BLKIOMON, "-I", "1", "--json", "/dev/null", "--trace", disk]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(delay_s)
            process.send_signal(signal.SIGINT)
            try:
                _, messages = process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                _, messages = process.communicate()
                assert "Exception ignored in" in messages  # by Python, as it starts
        # Python itself takes over a second to start here, and has no handler before.
        if "Fatal Python error" in messages or "Exception ignored in" in messages:
            assert delay_s < 4.0
        else:
            assert process.returncode in (0, -signal.SIGINT, 130)
            assert "Traceback" not in messages or delay_s < 1.0


def nobody(*capabilities: str) -> list[str]:
    """A command that runs others as an ordinary user with these capabilities."""
    given = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            f"--inh-caps={given}", f"--ambient-caps={given}"]  # fmt: skip


@pytest.fixture
def paranoid() -> Iterator[Path]:
    """The setting kernel.perf_event_paranoid, which is restored."""
    path = Path("/proc/sys/kernel/perf_event_paranoid")
    before = path.read_text()
    yield path
    path.write_text(before)


@pytest.mark.parametrize(
    ("level", "capability"),
    [(-1, "perfmon"), (2, "perfmon"), (3, "sys_admin"), (4, "sys_admin")],
)
def test_capabilities_suffice_at_each_paranoid_level(
    compare: Compare, paranoid: Path, level: int, capability: str
) -> None:
    paranoid.write_text(str(level))
    user = nobody(capability, "dac_read_search")
    with machine.null_blk() as disk, Live([disk], run_by=user) as live:
        load = fio(f"/dev/{disk}")
        live.stop()
    compare(load.figures, live.figures())


def test_level_3_refuses_cap_perfmon_and_the_message_says_so(paranoid: Path) -> None:
    paranoid.write_text("3")
    user = nobody("perfmon", "dac_read_search")
    with machine.null_blk() as disk, pytest.raises(RuntimeError, match="is 3: above 2, Debian"):
        Live([disk], run_by=user)


# --- the drop-in ----------------------------------------------------------------------------------


def test_drop_in_behind_blktrace_prints_what_the_original_does(compare: Compare) -> None:
    ours, pipe = WORK / "ours.txt", WORK / "pipe.bin"
    with machine.scsi_debug() as disk:
        script = (
            f"blktrace -d /dev/{disk} -a issue -a complete -o - | tee {pipe} | "
            f"{BLKIOMON} -I 3600 -h {ours} -"
        )
        with subprocess.Popen(["bash", "-c", script]) as pipeline:
            until(lambda: pipe.exists() and pipe.stat().st_size, "blktrace")
            load = fio(f"/dev/{disk}", number_ios=300)
            time.sleep(1)
            sh("pkill", "-INT", "-x", "blktrace")
            pipeline.wait(PATIENCE_S)
    trace = pipe.read_bytes()
    end = end_of_records(trace)
    assert not any(trace[end:])  # on 7.3 blktrace ends a trace with zeros, where the original stops
    pipe.write_bytes(trace[:end])
    # The original prints at the end of an interval, not at the end of its input.
    theirs = sh("bash", "-c", f"(cat {pipe}; sleep 12) | /usr/bin/blkiomon -I 8 -h -")
    text = ours.read_text()
    assert without_time(text) == without_time(theirs)
    counts = dict(re.findall(r"sizes (read|write) \(bytes\): num (\d+)", text))
    compare({"read": load.reads, "write": load.writes}, {op: int(n) for op, n in counts.items()})


def end_of_records(trace: bytes) -> int:
    """The offset behind the last record of version 7."""
    at = 0
    while trace[at : at + 4] == b"\7tae":
        (payload_bytes,) = struct.unpack_from("<H", trace, at + 46)
        at += 48 + payload_bytes
    return at


def without_time(text: str) -> list[str]:
    """The lines without the time at which the interval ended."""
    return [line for line in text.splitlines() if not line.startswith("time:")]


# --- the last one: it cannot be undone ------------------------------------------------------------


def test_lockdown_for_integrity_allows_captures(compare: Compare) -> None:
    lockdown = Path("/sys/kernel/security/lockdown")
    if not lockdown.exists():
        sh("mount", "-t", "securityfs", "securityfs", "/sys/kernel/security")
    lockdown.write_text("integrity")
    with machine.loop() as disk, Live([disk]) as live:
        load = fio(f"/dev/{disk}")
        live.stop()
        compare(load.figures, live.figures())
