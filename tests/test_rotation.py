"""SIGHUP reopens files that were moved away or deleted, and no interval is lost."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import runner
from quirks import ONE
from runner import LONG, TERMINATED, Running, until
from test_full_disk import sizes
from tracewriter import driver_data, encode, issue

from blkiomon.engine import layout

CONTRIB = Path(__file__).parent.parent / "contrib"
OUTPUTS = {
    "-h": "out.txt",
    "-b": "out.bin",
    "--json": "out.json",
    "--csv": "out.csv",
    "--parquet": "out.parquet",
}


def has_open(process: runner.Running, path: Path) -> bool:
    """Whether a process has a file open."""
    status = path.stat()
    for link in Path(f"/proc/{process.process.pid}/fd").iterdir():
        try:
            if os.path.samestat(link.stat(), status):
                return True
        except FileNotFoundError:
            continue
    return False


@pytest.mark.parametrize("option", OUTPUTS)
def test_moved_file_is_whole_and_closed_and_the_new_one_goes_on(
    option: str, tmp_path: Path
) -> None:
    path, old = tmp_path / OUTPUTS[option], tmp_path / f"old{Path(OUTPUTS[option]).suffix}"
    beside = "-b" if option == "-h" else "-h"
    with Running("-I", "0.1", option, path, beside, "-").started() as process:
        sent = 0

        def send() -> None:
            """One interval; once another output has it, all have it before the signal."""
            nonlocal sent
            sent += 1
            process.write(ONE * sent)
            if beside == "-b":
                process.read_bytes(424 * sent)
            else:
                process.read_intervals(sent)

        send()
        send()
        path.rename(old)
        process.signal(signal.SIGHUP)
        until(lambda: path.exists() and not has_open(process, old), "the new file")
        assert sum(sizes(old)) == 3  # closed, and whole, before anything else comes
        send()
        process.succeed()
    assert sum(sizes(old)) == 3 and sum(sizes(path)) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_every_output_is_reopened_at_once_and_records_are_where_they_belong(tmp_path: Path) -> None:
    names = {"-d": "driver", "-D": "debug", "-h": "text", "-b": "structs"}
    options = [part for option, name in names.items() for part in (option, str(tmp_path / name))]
    with Running("-I", LONG, *options).started() as process:
        process.write(encode([driver_data(1, b"before"), issue(5, 99, 1), issue(6, 99, 1)]))
        until(lambda: (tmp_path / "debug").stat().st_size, "the mismatch")
        for name in names.values():
            (tmp_path / name).rename(tmp_path / f"{name}.1")
        process.signal(signal.SIGHUP)
        until(lambda: all((tmp_path / name).exists() for name in names.values()), "new files")
        process.write(ONE + encode([driver_data(1, b"behind")]))
        process.succeed()
    assert (tmp_path / "driver.1").read_bytes().endswith(b"before")
    assert (tmp_path / "driver").read_bytes().endswith(b"behind")
    assert b"--- mismatch ---" in (tmp_path / "debug.1").read_bytes()
    assert b"overall" not in (tmp_path / "debug.1").read_bytes()
    assert (tmp_path / "debug").read_bytes().startswith(b"--- leftover ---")
    assert (tmp_path / "structs.1").stat().st_size == 0
    assert (tmp_path / "structs").stat().st_size == 424


def test_deleted_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with Running("-I", "0.1", "--csv", path).started() as process:
        process.write(ONE)
        until(lambda: sizes(path) == [1], "an interval")
        path.unlink()
        process.signal(signal.SIGHUP)
        until(path.exists, "the new file")
        process.write(ONE * 2)
        until(lambda: path.stat().st_size and sizes(path) == [2], "an interval")
        process.succeed()
    assert path.read_text().startswith("start_ns,")  # with its names again


@pytest.mark.parametrize("option", OUTPUTS)
def test_file_that_was_not_moved_is_left_as_it_is(option: str, tmp_path: Path) -> None:
    path = tmp_path / OUTPUTS[option]
    with Running("-I", "0.1", option, path, "-d", "-").started() as process:
        for number in range(1, 4):
            before = path.stat().st_size
            process.write(ONE * number)
            until(lambda before=before: path.stat().st_size > before)  # type: ignore[misc]
            process.signal(signal.SIGHUP)
        process.succeed()
    assert sum(sizes(path)) == 6


def test_file_that_somebody_has_begun_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with Running("-I", LONG, "-h", path).started() as process:
        path.rename(tmp_path / "old")
        path.write_text("theirs\n")
        process.signal(signal.SIGHUP)
        until(lambda: has_open(process, path), "the new file")
        process.write(ONE)
        process.succeed()
    assert path.read_text().startswith("theirs\n\ntime: ")


def test_truncated_file_goes_on_at_its_beginning(tmp_path: Path) -> None:
    """As by logrotate's copytruncate: no hole of zeros precedes the next interval."""
    path = tmp_path / "out.bin"
    with Running("-I", "0.1", "-b", path).started() as process:
        process.write(ONE)
        until(lambda: sizes(path) == [1], "an interval")
        os.truncate(path, 0)
        process.write(ONE * 2)
        until(lambda: sizes(path) == [2], "an interval")
        process.succeed()


def test_file_that_cannot_be_reopened_is_reported_and_the_old_one_continues(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    path = directory / "out.bin"
    with Running("-I", "0.1", "-b", path).started() as process:
        process.write(ONE)
        until(lambda: sizes(path) == [1], "an interval")
        directory.rename(tmp_path / "away")
        process.signal(signal.SIGHUP)
        until(lambda: process.stderr, "a complaint")
        process.write(ONE * 2)
        until(lambda: sizes(tmp_path / "away/out.bin") == [1, 2], "an interval")
        status, _, complaints = process.end()
    assert (status, complaints) == (
        1,
        f"blkiomon: cannot write to {path}: No such file or directory "
        "(it continues in the old file)\n",
    )


def test_recorded_trace_is_reopened_too(tmp_path: Path) -> None:
    """A FIFO among files: the signal takes effect when the next bytes arrive."""
    fifo, path = tmp_path / "trace", tmp_path / "out.bin"
    os.mkfifo(fifo)
    with Running("-I", LONG, "-b", path, fifo).started() as process:
        with fifo.open("wb", buffering=0) as writer:
            path.rename(tmp_path / "old")
            process.signal(signal.SIGHUP)
            writer.write(ONE)
        process.succeed()
    assert sizes(path) == [1] and sizes(tmp_path / "old") == []


def test_standard_output_and_fifos_stay_open(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with Running("-I", "0.1", "-h", "-", "-b", fifo).started() as process:
        for number in range(1, 4):
            process.signal(signal.SIGHUP)
            process.write(ONE)
            process.read_intervals(number)
        process.succeed()
    assert len(os.read(reader, 1 << 16)) == 3 * 424
    os.close(reader)


ON_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(1, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_hangup_ends_a_run_whose_terminal_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    leader, follower = pty.openpty()
    read_end, write_end = os.pipe()
    with runner.Running(
        *("-I", LONG, "-b", path),
        command=(sys.executable, "-c", ON_A_TERMINAL, *runner.COMMAND),
        stdin=read_end,
        stdout=follower,
        start_new_session=True,
    ) as process:
        os.close(follower)
        os.close(read_end)
        process.started()
        process.signal(signal.SIGHUP)  # while the terminal is there, the run goes on
        os.write(write_end, ONE)
        os.close(leader)
        assert process.wait() == 0
        assert process.stderr == TERMINATED
    os.close(write_end)
    assert sizes(path) == [1]


def test_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    with runner.Running(
        "-I", "0.1", "-b", path, command=("nohup", *runner.COMMAND)
    ).started() as process:
        path.rename(tmp_path / "old")
        process.signal(signal.SIGHUP)
        process.write(ONE)
        until(lambda: (tmp_path / "old").stat().st_size, "an interval")
        assert process.end()[0] == 0
    assert not path.exists()


def test_our_logrotate_rules_work_with_logrotate(tmp_path: Path) -> None:
    logrotate = programs.require("logrotate")
    logs = tmp_path / "log"
    logs.mkdir(mode=0o755)
    path = logs / "stats.jsonl"
    with Running("-I", "0.1", "--json", path).started() as process:
        rules = (CONTRIB / "blkiomon.logrotate").read_text()
        rules = rules.replace("/var/log/blkiomon", str(logs))
        reload = "systemctl reload blkiomon.service"
        assert reload in rules
        rules = rules.replace(reload, f"kill -HUP {process.process.pid}")
        (tmp_path / "rules").write_text(rules)
        (tmp_path / "rules").chmod(0o644)
        for round in range(1, 4):
            process.write(ONE * round)
            until(lambda: path.exists() and path.stat().st_size, "an interval")
            until(lambda round=round: _requests(path) >= round, "an interval")  # type: ignore[misc]
            subprocess.run(
                [logrotate, "--force", "--state", tmp_path / "state", tmp_path / "rules"],
                check=True,
                timeout=runner.TIMEOUT_S,
            )
            until(path.exists, "the new file")
        process.succeed()
    files = sorted(logs.iterdir())
    assert len(files) == 4  # the youngest of the old ones is not compressed: delaycompress
    lines = [line for file in files for line in _read(file).splitlines()]
    assert sum(json.loads(line)["total"]["requests"] for line in lines) == 1 + 2 + 3


def _read(path: Path) -> bytes:
    if path.suffix == ".gz":
        return subprocess.run(["gzip", "-dc", path], capture_output=True, check=True).stdout
    return path.read_bytes()


def _requests(path: Path) -> int:
    lines = path.read_bytes().splitlines()
    return sum(json.loads(line)["total"]["requests"] for line in lines)


HANGS_UP_FIRST = """
import os, signal, sys, time
from blkiomon.commands import cli
from blkiomon.commands.signals import StopSignals
readv, enter = os.readv, StopSignals.__enter__
def wait(*arguments):  # until the threads of the outputs reopen their files
    time.sleep(0.02)
    return readv(*arguments)
def hang_up(self):
    entered = enter(self)
    os.kill(os.getpid(), signal.SIGHUP)
    return entered
os.readv, StopSignals.__enter__ = wait, hang_up
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("is_file", [True, False])
def test_hangup_before_the_first_read_loses_nothing(is_file: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_bytes(ONE)
    outputs = tmp_path / "h", tmp_path / "b"
    arguments = ["-I", "1000", "-h", str(outputs[0]), "-b", str(outputs[1])]
    if is_file:
        arguments.append(str(trace))
    done = runner.python(HANGS_UP_FIRST, *arguments, stdin=b"" if is_file else ONE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"device: 8,0" in outputs[0].read_bytes()
    assert outputs[1].stat().st_size == layout.STATS_03.itemsize


def test_unit_reloads_by_hangup() -> None:
    unit = (CONTRIB / "blkiomon.service").read_text()
    assert re.search(r"^ExecReload=/bin/kill -HUP \$MAINPID$", unit, re.MULTILINE)
