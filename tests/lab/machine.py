"""Devices, loads and captures for the tests that run as root in a machine of ``make lab``."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Forked processes have these already; to import them takes seconds in an emulated machine.
from blkiomon.commands import cli, run, topology  # noqa: F401
from blkiomon.formats import json_lines  # noqa: F401
from blkiomon.sources import capture  # noqa: F401

KERNEL = ".".join(os.uname().release.split(".")[:2])
BLKIOMON = str(Path(sys.executable).with_name("blkiomon"))
WORK = Path("/dev/shm")
TABLE = Path(os.environ.get("LAB_TABLE", "/out/table.txt"))
"""Lines that ``make lab`` prints."""

ADAPTER = Path("/sys/bus/pseudo/drivers/scsi_debug")
NULL_BLK = Path("/sys/kernel/config/nullb")
PATIENCE_S = 240.0  # QEMU emulates the processor, so all takes long


def sh(*command: object, **options: Any) -> str:
    """Run a program; return what it prints. Raises CalledProcessError."""
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


class Forked:
    """blkiomon in a process forked from this one. Has some methods of ``subprocess.Popen``."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._directory = tempfile.TemporaryDirectory(dir=WORK)
        paths = [Path(self._directory.name, name) for name in ("output", "messages")]
        self._paths = paths
        self._texts: list[str] = []
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=_become_blkiomon, args=(arguments, *paths))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float = PATIENCE_S) -> tuple[str, str]:
        self._process.join(timeout)
        if self.poll() is None:
            raise TimeoutError(f"blkiomon did not end in {timeout:g} s")
        if not self._texts:
            self._texts = [path.read_text() for path in self._paths]
            self._directory.cleanup()
        output, messages = self._texts
        return output, messages


def _become_blkiomon(arguments: Sequence[str], output: Path, messages: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as the script ``blkiomon`` does
    sys.stdout, sys.stderr = output.open("w"), messages.open("w")
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    sys.argv = [BLKIOMON, *arguments]
    sys.exit(cli.main())


def blkiomon(*arguments: object) -> str:
    """Run blkiomon to its end; return what it prints."""
    process = Forked([str(word) for word in arguments])
    output, messages = process.communicate()
    if process.poll():
        raise RuntimeError(messages)
    return output


def until(is_so: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience_s:g} s for {what}")
        time.sleep(0.2)


def number(path: Path | str) -> int:
    return int(Path(path).read_text().split()[0], 0)


# --- what is printed ------------------------------------------------------------------------------

Compare = Callable[[dict[str, int], dict[str, int]], None]


def note(test: str, text: str) -> None:
    """Leave a line for ``make lab`` to print: a test, the kernel, what was expected and found."""
    with TABLE.open("a") as table:
        print(f"{test.removeprefix('test_'):40} {KERNEL:5} {text}", file=table)


def comparison(test: str) -> Compare:
    """Compares figures by name; the line is written before a failure."""

    def compare(expected: dict[str, int], found: dict[str, int]) -> None:
        names = [name for name in {**expected, **found} if expected.get(name) or found.get(name)]
        note(test, " ".join(f"{n} {expected.get(n, 0)}/{found.get(n, 0)}" for n in names))
        assert expected and found == expected

    return compare


# --- devices --------------------------------------------------------------------------------------


def quiet(name: str) -> str:
    """Make a disk get the requests that fio makes, without merging; returns its name."""
    queue = Path("/sys/block", name, "queue")
    (queue / "scheduler").write_text("none")
    (queue / "nomerges").write_text("2")
    return name


@contextmanager
def scsi_debug(**parameters: object) -> Iterator[str]:
    """A disk of scsi_debug."""
    options = {"dev_size_mb": 64, "max_queue": 64, "ndelay": 20_000, **parameters}
    sh("modprobe", "scsi_debug", *(f"{name}={value}" for name, value in options.items()))
    sh("modprobe", "sd_mod")
    until(lambda: list(ADAPTER.glob("adapter0/host*/target*/*/block/*")), "a disk of scsi_debug")
    name = next(ADAPTER.glob("adapter0/host*/target*/*/block/*")).name
    until(lambda: Path("/dev", name).is_block_device(), name)
    until(lambda: "running" in Path(f"/sys/block/{name}/device/state").read_text(), name)
    try:
        yield quiet(name)
    finally:
        until(lambda: not subprocess.run(["modprobe", "-r", "scsi_debug"]).returncode, "its end")


def inject(options: int, every: int) -> None:
    """What scsi_debug does wrong, and at how many commands once."""
    (ADAPTER / "every_nth").write_text(str(every))
    (ADAPTER / "opts").write_text(str(options))


@contextmanager
def null_blk(name: str = "lab", **fields: object) -> Iterator[str]:
    """A disk of null_blk."""
    sh("modprobe", "null_blk", "nr_devices=0")
    if not NULL_BLK.parent.is_mount():
        sh("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    directory = NULL_BLK / name
    directory.mkdir()
    for field, value in {"size": 64, **fields, "power": 1}.items():
        (directory / field).write_text(str(value))
    # null_blk numbers its devices; since 6.12 it also names them as their directories.
    disk = f"nullb{number(directory / 'index')}"
    if not Path("/sys/block", disk).exists():
        disk = name
    try:
        yield quiet(disk)
    finally:
        (directory / "power").write_text("0")
        directory.rmdir()


@contextmanager
def loop(megabytes: int = 64) -> Iterator[str]:
    """A loop device over a file in memory."""
    sh("modprobe", "loop")
    image = WORK / f"image-{time.monotonic_ns()}"
    os.close(os.open(image, os.O_CREAT))
    os.truncate(image, megabytes << 20)
    path = sh("losetup", "--find", "--show", image).strip()
    try:
        yield quiet(Path(path).name)
    finally:
        sh("losetup", "--detach", path)
        image.unlink()


@contextmanager
def mapped(target: str) -> Iterator[str]:
    """A device-mapper device of one target, such as ``linear /dev/sda 0``; 32 MiB long."""
    sh("modprobe", "dm_mod")
    name = f"lab{time.monotonic_ns()}"
    kind, _, arguments = target.partition(" ")
    sh("dmsetup", "create", name, "--noudevrules", "--noudevsync",
       "--table", f"0 65536 {kind} {arguments}")  # fmt: skip
    device = sh("dmsetup", "info", "-c", "--noheadings", "-o", "blkdevname", name).strip()
    try:
        until(lambda: Path("/dev", device).is_block_device(), device)
        yield device
    finally:
        sh("dmsetup", "remove", "--noudevrules", "--noudevsync", "--retry", name)


@contextmanager
def nvme_tcp() -> Iterator[tuple[str, list[str]]]:
    """A namespace over NVMe/TCP by two ports with native multipath: its head, its hidden paths."""
    for module in ("nvmet", "nvmet_tcp", "nvme_tcp"):
        sh("modprobe", module)
    sh("ip", "link", "set", "lo", "up")
    if not NULL_BLK.parent.is_mount():
        sh("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    target = Path("/sys/kernel/config/nvmet")
    subsystem = target / "subsystems/nqn.2026-11.lab:one"
    with loop() as backing:
        subsystem.mkdir()
        (subsystem / "attr_allow_any_host").write_text("1")
        namespace = subsystem / "namespaces/1"
        namespace.mkdir()
        (namespace / "device_path").write_text(f"/dev/{backing}")
        (namespace / "enable").write_text("1")
        for port in ("1", "2"):
            directory = target / "ports" / port
            directory.mkdir()
            for name, value in {
                "addr_trtype": "tcp",
                "addr_adrfam": "ipv4",
                "addr_traddr": "127.0.0.1",
                "addr_trsvcid": f"442{port}",
            }.items():
                (directory / name).write_text(value)
            (directory / "subsystems/one").symlink_to(subsystem)
            connect = f"transport=tcp,traddr=127.0.0.1,trsvcid=442{port},nqn={subsystem.name}"
            with open("/dev/nvme-fabrics", "r+b", buffering=0) as fabrics:
                fabrics.write(connect.encode())
        disks = Path("/sys/block")
        until(lambda: len(list(disks.glob("nvme*c*n*"))) == 2, "two paths")
        (head,) = [path.name for path in disks.glob("nvme*") if not number(path / "hidden")]
        (subsystems,) = Path("/sys/class/nvme-subsystem").glob("nvme-subsys*")
        (subsystems / "iopolicy").write_text("round-robin")
        until(lambda: Path("/dev", head).is_block_device(), head)
        try:
            yield head, sorted(path.name for path in disks.glob("nvme*c*n*"))
        finally:
            for controller in Path("/sys/class/nvme").glob("nvme*"):
                (controller / "delete_controller").write_text("1")
            for port in ("1", "2"):
                (target / "ports" / port / "subsystems/one").unlink()
                (target / "ports" / port).rmdir()
            namespace.rmdir()
            subsystem.rmdir()


# --- loads ----------------------------------------------------------------------------------------


class Load:
    """What fio counted: I/Os, bytes, fsyncs and failed I/Os."""

    def __init__(self, output: str) -> None:
        job = json.loads(output[output.index("{") :])["jobs"][0]
        self.reads: int = job["read"]["total_ios"]
        self.writes: int = job["write"]["total_ios"]
        self.syncs: int = job["sync"]["total_ios"]
        self.bytes: int = job["read"]["io_bytes"] + job["write"]["io_bytes"]
        self.failed: int = job.get("total_err", 0)

    @property
    def total(self) -> dict[str, int]:
        """As ``Live.total`` has it where nothing fails."""
        return {"requests": self.reads + self.writes + self.syncs, "bytes": self.bytes}

    @property
    def figures(self) -> dict[str, int]:
        """As ``Live.figures`` has them where nothing fails."""
        found = {"read": self.reads, "write": self.writes, "flush": self.syncs, "bytes": self.bytes}
        return {name: n for name, n in found.items() if n}


class Fio:
    """fio on a device or a file; an I/O that fails does not end it."""

    def __init__(self, file: str, **options: object) -> None:
        given = {
            "name": "lab",
            "filename": file,
            "ioengine": "libaio",
            "direct": 1,
            "thread": 1,  # no other process that outlives a kill
            "iodepth": 8,
            "bs": "4k",
            "rw": "randrw",
            **({} if {"io_size", "runtime"} & options.keys() else {"number_ios": 400}),
            "randrepeat": 1,
            "continue_on_error": "all",
            "ignore_error": "5:61,5:61",  # EIO and ENODATA: fio counts them and goes on
            "output-format": "json",
            **options,
        }
        command = ["fio", *(f"--{name}={value}" for name, value in given.items())]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=WORK
        )

    def __enter__(self) -> Fio:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def stop(self) -> Load:
        """End it now."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> Load:
        """Wait until it ends."""
        output, messages = self.process.communicate()
        load = Load(output)
        if not load.bytes:
            raise RuntimeError(messages + output[: output.index("{")])
        return load


def fio(file: str, **options: object) -> Load:
    """Run fio to its end."""
    return Fio(file, **options).wait()


# --- captures -------------------------------------------------------------------------------------


class Live:
    """A running ``blkiomon --trace``; after ``stop``, what it counted in the last interval.

    By default that is one long interval.
    """

    def __init__(
        self,
        devices: Sequence[str],
        *options: str,
        run_by: Sequence[str] = (),
        interval_s: int = 3600,
    ) -> None:
        self._json = WORK / f"{time.monotonic_ns()}.json"
        own_names = {device: Path("/sys/block", device, "dm/name") for device in devices}
        self._names = {
            device: path.read_text().strip() for device, path in own_names.items() if path.exists()
        }
        self._known: list[dict[str, Any]] = []
        self._read_bytes = 0
        arguments = [f"-I{interval_s}", "--json", str(self._json), *options]
        for device in devices:
            arguments += ["--trace", device]
        self.process: Forked | subprocess.Popen[str]
        if run_by:
            command = [*run_by, BLKIOMON, *arguments]
            self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        else:
            self.process = Forked(arguments)
        # The file is made when the capture has begun.
        until(lambda: self._json.exists() or self.process.poll() is not None, "the capture")
        if self.process.poll() is not None:
            raise RuntimeError(self.process.communicate()[1])

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        time.sleep(0.3)  # a completion's record may come after fio has seen it
        self.process.send_signal(signal.SIGINT)
        _, self.messages = self.process.communicate(timeout=PATIENCE_S)
        self.interval = self.intervals()[-1]

    def intervals(self) -> list[dict[str, Any]]:
        """Those that have ended."""
        with self._json.open("rb") as file:
            file.seek(self._read_bytes)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(end)
        self._known += map(json.loads, whole.splitlines())
        return self._known

    @property
    def total(self) -> dict[str, int]:
        """Requests and bytes of all devices; a request on several of them counts once."""
        return {name: self.interval["total"][name] for name in ("requests", "bytes")}

    def name_of(self, device: str) -> str:
        """What blkiomon calls a device: a volume has a name of its own."""
        return self._names.get(device, device)

    def figures(self, device: str = "") -> dict[str, int]:
        """Requests of each operation, bytes, errors, requeues, and what was not seen.

        Args:
            device: its name; the only one by default.
        """
        found: dict[str, int] = {}
        for one in self.interval["devices"]:
            if device == "" or self.name_of(device) == one["name"]:
                found |= {op: group["requests"] for op, group in one["ops"].items()}
                found |= {name: one[name] for name in ("bytes", "errors", "requeues")}
                found["in_flight_at_end"] = one["in_flight"]["end"]
        found |= self.interval["unseen"]
        return {name: n for name, n in found.items() if n}
