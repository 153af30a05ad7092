"""Live capture: on a tree of files that stands for the kernel's, and for real on loop devices."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import programs
import pytest
import quirks
import runner
import tracewriter as tw
from runner import Running
from tmux import PAUSE_S, Tmux

from blkiomon.sources import capture as capturing
from blkiomon.sources.blktrace import BlktraceCapture
from blkiomon.sources.capture import CaptureError, Device, find_devices
from blkiomon.sources.capture_methods import open_capture
from blkiomon.sources.tracefs import TracefsCapture, _write

ONE = quirks.pairs((4096, 500))
SDB = Device("sdb", "sdb")

# -- the kernel's files, as plain ones -------------------------------------------------------------

TRACER = {
    "available_tracers": "blk function nop",
    "current_tracer": "nop",
    "trace_clock": "[local] global mono",
    "buffer_size_kb": "7 (expanded: 1408)",
    "tracing_on": "1",
    "events/enable": "0",
    "options/bin": "0",
    "options/context-info": "1",
    "options/blk_classic": "1",
    "options/block": "0",
    "options/overwrite": "1",
    "trace_pipe": "",
}
RESTORED = TRACER | {"trace_clock": "local", "buffer_size_kb": "1408"}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add_device(root: Path, name: str, *, disk: str = "", slaves: tuple[str, ...] = ()) -> None:
    home = root / "sys/devices" / disk / name
    write(home / "trace/enable", "0")
    write(home / "trace/act_mask", "disabled")
    if disk:
        write(home / "partition", "1")
    elif slaves:
        (home / "dm").mkdir()
        for slave in slaves:
            (home / "slaves" / slave).mkdir(parents=True)
    else:
        (home / "mq").mkdir()
    link = root / "sys/class/block" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(home)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with two disks, one of them with two partitions, and a volume on both."""
    for name, text in TRACER.items():
        write(tmp_path / "sys/kernel/tracing" / name, text)
    for name in ("sda", "sdb"):
        add_device(tmp_path, name)
    for name in ("sda1", "sda2"):
        add_device(tmp_path, name, disk="sda")
    add_device(tmp_path, "dm-0", slaves=("sda2", "sdb"))
    (tmp_path / "run").mkdir()
    return tmp_path


def tracer(root: Path) -> dict[str, str]:
    return {name: (root / "sys/kernel/tracing" / name).read_text() for name in TRACER}


def enabled(root: Path, name: str) -> str:
    return (root / "sys/class/block" / name / "trace/enable").read_text()


def no_report(text: str) -> None:
    raise AssertionError(text)


def test_tracer_is_set_and_put_back(root: Path) -> None:
    with TracefsCapture([SDB], no_report, root) as capture:
        assert tracer(root) == TRACER | {
            "current_tracer": "blk",
            "trace_clock": "mono",
            "buffer_size_kb": "8192",
            "options/bin": "1",
            "options/context-info": "0",
            "options/blk_classic": "0",
        }
        assert enabled(root, "sdb") == "1"
        assert (root / "sys/class/block/sdb/trace/act_mask").read_text() == "issue,complete"
        assert os.read(capture.fd, 1) == b""
    assert not capture.failed
    assert tracer(root) == RESTORED
    assert enabled(root, "sdb") == "0"
    assert [path.name for path in (root / "run/blkiomon").iterdir()] == ["lock"]


def test_buffers_of_several_sizes_are_put_back(root: Path) -> None:
    tracing = root / "sys/kernel/tracing"
    sizes = {"cpu0": "64", "cpu1": "9000"}
    (tracing / "buffer_size_kb").write_text("X")
    for cpu, size in sizes.items():
        write(tracing / "per_cpu" / cpu / "buffer_size_kb", size)
    with TracefsCapture([SDB], no_report, root):
        for cpu in sizes:  # as the kernel does
            write(tracing / "per_cpu" / cpu / "buffer_size_kb", "8192")
    for cpu, size in sizes.items():
        assert (tracing / "per_cpu" / cpu / "buffer_size_kb").read_text() == size


def test_state_is_on_disk_before_anything_is_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = root / "run/blkiomon/tracefs.json"

    def refuse(path: Path, value: str) -> None:
        saved = json.loads(state.read_text())
        assert saved["saved"]["options/context-info"] == "1"
        raise AssertionError("that was the first change")

    with monkeypatch.context() as patch:
        patch.setattr("blkiomon.sources.tracefs._write", refuse)
        with pytest.raises(AssertionError):
            TracefsCapture([SDB], no_report, root)
    assert tracer(root) == TRACER


@pytest.mark.parametrize("missing", ["trace_pipe", "tracing_on"])
def test_what_fails_half_way_is_put_back(root: Path, missing: str) -> None:
    (root / "sys/kernel/tracing" / missing).unlink()
    before = {n: p.read_text() for n in TRACER if (p := root / "sys/kernel/tracing" / n).exists()}
    with pytest.raises(CaptureError, match=f"{missing}: No such file"):
        TracefsCapture([SDB], no_report, root)
    after = {n: p.read_text() for n in TRACER if (p := root / "sys/kernel/tracing" / n).exists()}
    changed = {name: text for name, text in RESTORED.items() if name in before}
    assert after in (before, changed)
    assert enabled(root, "sdb") == "0"
    assert not (root / "run/blkiomon/tracefs.json").exists()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("current_tracer", "function", "in use by somebody else .current_tracer is function"),
        ("events/enable", "X", "events are enabled"),
        ("available_tracers", "function nop", "no blk tracer"),
    ],
)
def test_tracer_that_is_busy_is_refused(root: Path, name: str, text: str, reason: str) -> None:
    (root / "sys/kernel/tracing" / name).write_text(text)
    before = tracer(root)
    with pytest.raises(CaptureError, match=reason):
        TracefsCapture([SDB], no_report, root)
    assert tracer(root) == before


def test_tracing_of_another_device_is_not_disturbed(root: Path) -> None:
    write(root / "sys/class/block/sda1/trace/enable", "1")
    with pytest.raises(CaptureError, match="sda1 is being traced by somebody else"):
        TracefsCapture([SDB], no_report, root)
    assert tracer(root) == TRACER
    assert enabled(root, "sda1") == "1"


def test_one_at_a_time(root: Path) -> None:
    with TracefsCapture([SDB], no_report, root):
        with pytest.raises(CaptureError, match="another blkiomon"):
            TracefsCapture([Device("sda", "sda")], no_report, root)
        assert tracer(root)["current_tracer"] == "blk"
    assert tracer(root) == RESTORED


def leave_behind(root: Path) -> int:
    """What a run leaves that is killed: another process, as locks belong to processes."""
    script = (
        "import os, sys; from pathlib import Path; from blkiomon.sources.capture import Device; "
        "from blkiomon.sources import tracefs as kernel; "
        "c = kernel.TracefsCapture([Device('sdb', 'sdb')], print, Path(sys.argv[1])); os._exit(9)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(root)])
    assert child.wait(runner.TIMEOUT_S) == 9
    return child.pid


def test_what_a_killed_run_left_is_repaired(root: Path) -> None:
    pid = leave_behind(root)
    assert tracer(root)["current_tracer"] == "blk"
    assert enabled(root, "sdb") == "1"
    said: list[str] = []
    with TracefsCapture([Device("sda", "sda")], said.append, root):
        assert enabled(root, "sdb") == "0"
        assert enabled(root, "sda") == "1"
    assert said == [f"repaired the tracer that process {pid} left set up when it was killed"]
    assert tracer(root) == RESTORED


def test_what_others_set_since_is_left_alone(root: Path) -> None:
    pid = leave_behind(root)
    (root / "sys/kernel/tracing/current_tracer").write_text("function")
    before = tracer(root)
    said: list[str] = []
    with pytest.raises(CaptureError, match="in use by somebody else"):
        TracefsCapture([SDB], said.append, root)
    assert len(said) == 1 and f"process {pid}" in said[0]
    assert tracer(root) == before


def test_what_was_left_half_way_is_repaired(root: Path) -> None:
    leave_behind(root)
    (root / "sys/kernel/tracing/current_tracer").write_text("nop")
    said: list[str] = []
    with pytest.raises(CaptureError, match="sdb is being traced by somebody else"):
        TracefsCapture([SDB], said.append, root)
    assert len(said) == 1 and said[0].startswith("repaired the tracer")
    assert tracer(root) == RESTORED
    assert enabled(root, "sdb") == "1"  # whoever it was


def test_tracer_taken_over_while_it_runs_is_left_alone(root: Path) -> None:
    said: list[str] = []
    with TracefsCapture([SDB], said.append, root) as capture:
        (root / "sys/kernel/tracing/current_tracer").write_text("function")
        before = tracer(root)
    assert capture.failed
    assert len(said) == 1 and "set the tracer to function meanwhile" in said[0]
    assert tracer(root) == before
    assert enabled(root, "sdb") == "0"


def test_state_that_is_none_is_not_guessed_at(root: Path) -> None:
    write(root / "run/blkiomon/tracefs.json", "{}")
    (root / "run/blkiomon").chmod(0o700)
    with pytest.raises(CaptureError, match="not what blkiomon writes"):
        TracefsCapture([SDB], no_report, root)
    assert tracer(root) == TRACER


def test_state_where_others_can_write_is_refused(root: Path) -> None:
    (root / "run/blkiomon").mkdir()
    (root / "run/blkiomon").chmod(0o777)
    with pytest.raises(CaptureError, match="only root can write to"):
        TracefsCapture([SDB], no_report, root)


def test_tracefs_that_is_not_mounted(root: Path) -> None:
    shutil.rmtree(root / "sys/kernel/tracing")
    with pytest.raises(CaptureError, match="not mounted: mount -t tracefs tracefs "):
        TracefsCapture([SDB], no_report, root)


# -- devices ---------------------------------------------------------------------------------------


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """The kernel refuses what is written into files of that name."""

    def write_or_not(path: Path, value: str) -> None:
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        _write(path, value)

    monkeypatch.setattr("blkiomon.sources.tracefs._write", write_or_not)


@pytest.mark.parametrize(
    "number, lockdown, reason",
    [
        (errno.EBUSY, "[none]", "in use by somebody else (/"),
        (errno.EPERM, "[none]", "the kernel denies tracing (/"),
        (errno.EPERM, "[confidentiality]", "locked down (confidentiality) and denies tracing"),
        (errno.EIO, "[none]", "cannot set up the kernel's tracer: /"),
    ],
)
def test_what_the_kernel_refuses_is_explained_and_put_back(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, lockdown: str, reason: str
) -> None:
    write(root / "sys/kernel/security/lockdown", lockdown)
    refuse(monkeypatch, "act_mask", number)
    with pytest.raises(CaptureError, match=re.escape(reason)):
        TracefsCapture([SDB], no_report, root)
    assert tracer(root) in (TRACER, RESTORED)


def test_buffers_stay_as_they_are_where_memory_is_short(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "buffer_size_kb", errno.ENOMEM)
    said: list[str] = []
    with TracefsCapture([SDB], said.append, root):
        assert tracer(root)["current_tracer"] == "blk"
    assert said[0] == "no memory for the tracer's buffers: they stay at 1408 KiB each"


def test_what_cannot_be_put_back_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with TracefsCapture([SDB], said.append, root) as capture:
        refuse(monkeypatch, "trace_clock", errno.EIO)
    path = root / "sys/kernel/tracing/trace_clock"
    assert said == [
        f"the tracer could not be left as it was: set {path} to local (Input/output error)"
    ]
    assert capture.failed
    assert tracer(root) == RESTORED | {"trace_clock": "mono"}


def test_whole_disks_have_hardware_and_a_medium(root: Path) -> None:
    for name, size, hidden in (("sda", "8", "0"), ("sdb", "0", "0"), ("nvme0c0n1", "8", "1")):
        home = root / "sys/block" / name
        (home / "mq").mkdir(parents=True)
        (home / "device").mkdir()
        write(home / "size", size)
        write(home / "hidden", hidden)
    (root / "sys/block/sdc/mq").mkdir(parents=True)
    (root / "sys/block/sdc/device").mkdir()
    (root / "sys/block/loop0/mq").mkdir(parents=True)
    write(root / "sys/block/loop0/size", "8")
    assert capturing.whole_disks(root) == ["sda"]


def test_device_without_a_request_queue_is_doubted(root: Path) -> None:
    (root / "sys/class/block/sdb/mq").rmdir()
    said: list[str] = []
    assert find_devices(["sdb"], said.append, root) == [SDB]
    assert said == ["sdb shows no request queue: it may have no issues and completions to trace"]


def test_kernel_without_tracing_of_devices_is_told(root: Path) -> None:
    (root / "sys/class/block/sdb/trace/enable").unlink()
    with pytest.raises(CaptureError, match="CONFIG_BLK_DEV_IO_TRACE is missing"):
        find_devices(["sdb"], no_report, root)


def test_both_ways_to_trace_tell_why_they_fail(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    shutil.rmtree(root / "sys/kernel/tracing")
    with pytest.raises(CaptureError, match=r"tracefs.* \(and .*blktrace"):
        open_capture(["sdb"], "auto", no_report, root)


def test_devices_are_found_once(root: Path) -> None:
    found = find_devices(["sdb", "sda1", "sdb"], no_report, root)
    assert found == [SDB, Device("sda1", "sda")]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["sdz"], "cannot trace sdz: this host has no such block device"),
        ([".."], "no such block device"),
        (["/dev/null"], "cannot trace /dev/null: it is not a block device"),
        (["/nowhere/sda"], "cannot trace /nowhere/sda: No such file or directory"),
        (["dm-0"], "trace the disks below it: --trace sda2 --trace sdb$"),
        (["sda", "sda1"], "one of sda and sda1 at a time, as both are on sda: trace sda$"),
    ],
)
def test_devices_that_cannot_be_traced(root: Path, names: list[str], reason: str) -> None:
    with pytest.raises(CaptureError, match=reason):
        find_devices(names, no_report, root)


def test_root_is_needed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CaptureError, match="tracing needs root"):
        open_capture(["sdb"], "auto", no_report, root)


def test_lockdown(root: Path) -> None:
    path = root / "sys/kernel/security/lockdown"
    assert capturing.lockdown(root) is None
    write(path, "[none] integrity confidentiality\n")
    assert capturing.lockdown(root) is None
    write(path, "none [integrity] confidentiality\n")
    assert capturing.lockdown(root) == "integrity"


# -- blktrace: a program that stands for it --------------------------------------------------------


@pytest.fixture
def blktrace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, first on PATH; writes ``records``, and ``rest`` when it is ended."""
    program = tmp_path / "bin/blktrace"
    write(
        program,
        '#!/bin/sh\ncd "$(dirname "$0")"\necho "$@" >arguments\n'
        "trap 'touch ended; cat rest; cat stderr >&2; exit 0' INT\n"
        "cat records\n[ -e fail ] && { cat fail >&2; exit 1; }\n"
        "while :; do sleep 0.02; done\n",
    )
    program.chmod(0o755)
    for name in ("records", "rest", "stderr"):
        (program.parent / name).write_bytes(b"")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program.parent


def test_blktrace_runs_and_is_ended(root: Path, blktrace: Path) -> None:
    (blktrace / "records").write_bytes(ONE)
    (blktrace / "rest").write_bytes(ONE)
    (blktrace / "stderr").write_text("You have 12 dropped events\nConsider using a larger ...\n")
    said: list[str] = []
    with BlktraceCapture([SDB, Device("cciss!c0d0", "")], said.append, root) as capture:
        assert os.read(capture.fd, len(ONE)) == ONE
        capture.stop()
        assert os.read(capture.fd, len(ONE)) == ONE
        assert os.read(capture.fd, 1) == b""
        assert capture.lost_events == 12
    assert said == ["blktrace dropped 12 events"]
    assert not capture.failed
    arguments = (blktrace / "arguments").read_text()
    assert arguments == "-a issue -a complete -o - -d /dev/sdb -d /dev/cciss/c0d0\n"


def test_blktrace_that_fails(root: Path, blktrace: Path) -> None:
    (blktrace / "fail").write_text(
        "Thread 0 failed open /sys/kernel/debug/block/sdb/trace0: 1/Operation not permitted\n"
        "FAILED to start thread on CPU 0: 1/Operation not permitted\n"
    )
    with pytest.raises(CaptureError, match=r"^blktrace does not run: Thread 0 failed open .*ted$"):
        BlktraceCapture([SDB], no_report, root)


def test_blktrace_that_ends_by_itself(root: Path, blktrace: Path) -> None:
    (blktrace / "records").write_bytes(ONE)
    (blktrace / "fail").write_text("the disk: gone\n")
    said: list[str] = []
    with BlktraceCapture([SDB], said.append, root) as capture:
        while os.read(capture.fd, 1 << 16):
            pass
        capture._process.wait(runner.TIMEOUT_S)
    assert said == ["blktrace ended by itself: the disk: gone"]
    assert capture.failed


def test_blktrace_that_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CaptureError, match="blktrace is not installed"):
        BlktraceCapture([SDB], no_report, root)


def test_blktrace_under_lockdown(root: Path, blktrace: Path) -> None:
    write(root / "sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    with pytest.raises(CaptureError, match=r"locked down .integrity. and denies blktrace"):
        BlktraceCapture([SDB], no_report, root)


# -- for real --------------------------------------------------------------------------------------

TRACING = Path("/sys/kernel/tracing")
STATE = Path("/run/blkiomon/tracefs.json")

Load = Callable[..., dict[str, int]]


@pytest.fixture(scope="module")
def tracefs() -> Iterator[None]:
    """The kernel's tracer, if it can be had; left off at the end."""
    if os.geteuid() != 0:
        pytest.skip("tracing needs root")
    mounted = False
    if not (TRACING / "current_tracer").exists():
        done = subprocess.run(["mount", "-t", "tracefs", "none", TRACING], capture_output=True)
        if done.returncode:
            pytest.skip(f"no tracefs: {done.stderr.decode().strip()}")
        mounted = True
    try:
        if "blk" not in (TRACING / "available_tracers").read_text().split():
            pytest.skip("this kernel has no blk tracer")
        if (TRACING / "current_tracer").read_text() != "nop\n" or STATE.exists():
            pytest.skip("the kernel's tracer is in use")
        # From its first use on, the buffer has a size of its own; see _buffer_sizes.
        (TRACING / "buffer_size_kb").write_text("1408")
        yield
    finally:
        if mounted:
            subprocess.run(["umount", TRACING], check=True)


@pytest.fixture
def loop(tracefs: None, tmp_path: Path) -> Iterator[str]:
    """The name of a loop device on an image file."""
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 32 << 20)
    done = subprocess.run(
        ["losetup", "--partscan", "--find", "--show", image], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    name = Path(done.stdout.strip()).name
    try:
        yield name
    finally:
        for path in Path(f"/sys/class/block/{name}").glob("**/trace/enable"):
            path.write_text("0")
        subprocess.run(["losetup", "--detach", f"/dev/{name}"], check=True)


def whole_state() -> dict[str, str]:
    """All that a capture may change."""
    paths = [TRACING / n for n in ("current_tracer", "trace_clock", "buffer_size_kb", "tracing_on")]
    paths += sorted((TRACING / "options").iterdir())
    paths += sorted(Path("/sys/class/block").glob("*/trace/*"))
    return {str(path): path.read_text() for path in paths}


@pytest.fixture
def unchanged(loop: str) -> Iterator[None]:
    """Afterwards everything is as before; what a failing test leaves is put right."""
    before = whole_state()
    yield
    after = whole_state()
    if after != before:
        with suppress(CaptureError):
            TracefsCapture([], print).close()
        (TRACING / "current_tracer").write_text("nop")
    assert after == before
    assert not STATE.exists()


def started(*arguments: str) -> Running:
    """blkiomon, from when it traces."""
    running = Running("-I", runner.LONG, "--json", "-", *arguments, stdin=subprocess.DEVNULL)
    with suppress(AssertionError):
        return running.started()
    return running


@pytest.fixture
def load() -> Load:
    """Has fio work on a device; returns how many requests of each kind it says it made."""
    programs.require("fio")  # before anything is traced

    def run(path: str, rw: str = "randrw", size: str = "4M", **more: str) -> dict[str, int]:
        options = {"name": "load", "filename": path, "rw": rw, "bs": "4k", "io_size": size} | more
        options |= {"direct": "1", "ioengine": "psync", "output-format": "json"}
        done = subprocess.run(
            ["fio", *(f"--{k}={v}" for k, v in options.items())],
            capture_output=True,
            timeout=runner.TIMEOUT_S,
            check=True,
        )
        (job,) = json.loads(done.stdout[done.stdout.index(b"{") :])["jobs"]
        return {op: job[key]["total_ios"] for op, key in (("read", "read"), ("write", "write"))}

    return run


def counted(text: bytes) -> dict[str, int]:
    """Requests of each operation in all intervals."""
    found = {"read": 0, "write": 0}
    for line in text.splitlines():
        for device in json.loads(line)["devices"]:
            for op, figures in device["ops"].items():
                found[op] = found.get(op, 0) + figures["requests"]
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_counts_are_those_of_fio(
    loop: str, unchanged: None, number: signal.Signals, load: Load
) -> None:
    with started("--trace", f"/dev/{loop}", "--capture", "tracefs") as process:
        did = load(f"/dev/{loop}")
        status, text, complaints = process.end(number)
    assert (status, complaints) == (0, "blkiomon: terminated by signal\n")
    found = counted(text)
    # Others look at new devices, too (udev): what is more than fio's are reads.
    assert found["write"] == did["write"] > 0
    assert did["read"] <= found["read"] <= did["read"] + 64


def test_top_shows_what_fio_does(loop: str, unchanged: None, tmp_path: Path, load: Load) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "--capture", "tracefs", "-I", "0.2", loop)
        # There from the start on; and a monitor that hears nothing says so.
        terminal.until(f"blkiomon top  {loop}", "idle", "NO RECORDS for")
        did = load(f"/dev/{loop}", "write")
        terminal.type("t")

        def counted() -> int:
            found = re.search(r"WHOLE RUN: ([\d,]+) records", terminal.screen())
            return int(found[1].replace(",", "")) if found else 0

        runner.until(lambda: counted() >= 2 * did["write"], "all records", pause_s=PAUSE_S)
        screen = terminal.until("NO RECORDS for", "nothing lost")
        assert counted() <= 2 * did["write"] + 128  # others look at new devices, too
        assert re.search(rf"^{loop} .*\d[mµ]s ", screen, re.MULTILINE)
        terminal.type("q")
        terminal.until("status 0")
        terminal.assert_clean()


def test_top_that_is_ended_leaves_the_host_as_it_was(
    loop: str, unchanged: None, tmp_path: Path
) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "--capture", "tracefs", loop)
        terminal.until(f"blkiomon top  {loop}", "q quit")
        os.kill(terminal.pid, signal.SIGHUP)
        terminal.until("terminated by signal", "status 0")
        terminal.assert_clean()


def add_partition(loop: str, start: int, length: int) -> tuple[int, int]:
    """Tells the kernel of a partition, whether it understands partition tables or not."""
    part = struct.pack("qqi128x4x", start, length, 1)
    data = (ctypes.c_char * len(part)).from_buffer_copy(part)
    add = struct.pack("iii4xP", 1, 0, len(part), ctypes.addressof(data))  # linux/blkpg.h
    with open(f"/dev/{loop}", "rb") as file:
        fcntl.ioctl(file, 0x1269, add)
    major, minor = Path(f"/sys/class/block/{loop}p1/dev").read_text().split(":")
    return int(major), int(minor)


@pytest.fixture
def partition(loop: str, tmp_path: Path) -> str:
    """The path of a partition on the loop device, with which it goes."""
    try:
        major, minor = add_partition(loop, 1 << 20, 8 << 20)
    except OSError as error:
        pytest.skip(f"no partition on a loop device: {error.strerror}")
    path = tmp_path / "part"  # nobody may have made its file
    os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
    return str(path)


def test_partition(loop: str, partition: str, unchanged: None, load: Load) -> None:
    with started("--trace", partition, "--capture", "tracefs") as process:
        did = load(partition, "write", "1M")
        load(f"/dev/{loop}", "write", "1M", offset="16M")
        status, text, _ = process.end(signal.SIGINT)
    assert status == 0
    assert counted(text)["write"] == did["write"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_impatience_changes_nothing(loop: str, unchanged: None, number: signal.Signals) -> None:
    for _ in range(3):
        with started("--trace", loop, "--capture", "tracefs") as process:
            while process.process.poll() is None:
                process.signal(number)
        assert (TRACING / "current_tracer").read_text() == "nop\n"


def test_intervals_end_on_time_while_nothing_comes(loop: str, unchanged: None) -> None:
    with Running("-I", "0.1", "--json", "-", "--trace", loop, "--capture", "tracefs") as process:
        lines = process.read_count(b"\n", 10).splitlines()[:10]  # although nothing happens
        assert process.end(signal.SIGINT)[0] == 0
    first, last = json.loads(lines[0]), json.loads(lines[9])
    assert 0.8e9 < last["end_ns"] - first["start_ns"] < 5e9


def test_run_that_is_killed_is_repaired_by_the_next(loop: str, unchanged: None, load: Load) -> None:
    with started("--trace", loop, "--capture", "tracefs") as process:
        pid = process.process.pid
        process.signal(signal.SIGKILL)
        process.wait()
    assert (TRACING / "current_tracer").read_text() == "blk\n"
    with started("--trace", loop, "--capture", "tracefs") as process:
        did = load(f"/dev/{loop}", "write")
        status, text, complaints = process.end(signal.SIGINT)
    assert status == 0
    assert complaints.startswith(f"blkiomon: repaired the tracer that process {pid} left")
    assert counted(text)["write"] == did["write"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_host_is_put_back_although_root_has_been_given_up(
    loop: str, unchanged: None, number: signal.Signals, load: Load
) -> None:
    user = ("--user", f"{runner.NOBODY}:{runner.NOBODY}")
    with started("--trace", loop, "--capture", "tracefs", *user) as process:
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        assert f"Uid:\t{runner.NOBODY}\t" in status
        assert (TRACING / "current_tracer").read_text() == "blk\n"
        did = load(f"/dev/{loop}", "write")
        if number == signal.SIGKILL:
            process.signal(number)
            process.wait()
        else:
            end, text, complaints = process.end(number)
            assert (end, complaints) == (0, "blkiomon: terminated by signal\n")
            assert counted(text)["write"] == did["write"] > 0
    # Even kill -9 leaves nothing set up: who is still root sees it.
    runner.until(lambda: not STATE.exists(), "the host to be put back")


@pytest.mark.parametrize("what", ["tracer", "device"])
def test_tracer_in_use_is_refused(loop: str, unchanged: None, what: str) -> None:
    if what == "tracer":
        path, value, other = TRACING / "current_tracer", "blk", "nop"
    else:
        path, value, other = Path(f"/sys/block/{loop}/trace/enable"), "1", "0"
    path.write_text(value)
    try:
        before = whole_state()
        result = runner.run("-I", "1", "--trace", loop, "--capture", "tracefs")
        assert whole_state() == before
    finally:
        path.write_text(other)
    assert (result.returncode, result.stdout) == (3, b"")
    (line,) = result.stderr.decode().splitlines()
    assert "by somebody else" in line


def test_output_that_cannot_be_opened(loop: str, unchanged: None) -> None:
    result = runner.run("-I", "1", "--trace", loop, "--capture", "tracefs", "-h", "/nowhere/file")
    assert result.returncode == 4
    assert (
        result.stderr == b"blkiomon: could not write to /nowhere/file: No such file or directory\n"
    )


def test_auto_takes_what_works(loop: str, unchanged: None, load: Load) -> None:
    with started("--trace", loop) as process:
        did = load(f"/dev/{loop}", "write")
        status, text, _ = process.end(signal.SIGINT)
    assert status == 0
    assert counted(text)["write"] == did["write"]


def test_command_with_blktrace(loop: str, unchanged: None, blktrace: Path) -> None:
    (blktrace / "records").write_bytes(ONE)
    (blktrace / "rest").write_bytes(ONE * 2)
    (blktrace / "stderr").write_text("You have 5 dropped events\n")
    with started("--trace", loop, "--capture", "blktrace") as process:
        status, text, complaints = process.end(signal.SIGTERM)
    assert (status, counted(text)["read"]) == (0, 3)
    assert complaints.splitlines() == [
        "blkiomon: incomplete: 45 % of events were lost while tracing",
        "blkiomon: terminated by signal",
        "blkiomon: blktrace dropped 5 events",
    ]
    assert json.loads(text)["unseen"]["lost_events"] == 5


def test_blktrace_does_not_outlive_us(loop: str, unchanged: None, blktrace: Path) -> None:
    (blktrace / "records").write_bytes(ONE)
    with started("--trace", loop, "--capture", "blktrace") as process:
        process.signal(signal.SIGKILL)
        process.wait()
    runner.until((blktrace / "ended").exists, "blktrace to be ended")


def test_malformed_records_of_newer_kernels_are_explained(
    loop: str, unchanged: None, blktrace: Path
) -> None:
    # What the tracer of Linux 6.19 sends; it comes by the same way.
    record = tw.encode_malformed_v8(tw.issue(10**9, 8, 4096))
    (blktrace / "records").write_bytes(record * 3)
    result = runner.run("-I", "1", "--trace", loop, "--capture", "blktrace")
    assert result.returncode == 3
    (line,) = result.stderr.decode().splitlines()
    assert (
        line.startswith("blkiomon: bad trace: ")
        and "version-8 record" in line
        and "use blktrace" in line
    )
