"""``top`` in a real terminal: the screen, keys, resizing, and restoring the terminal."""

from __future__ import annotations

import array
import fcntl
import os
import pty
import re
import signal
import struct
import termios
from pathlib import Path

import goldenfiles
import pytest
import quirks
import runner
from runner import Running
from tmux import PAUSE_S, Tmux

import blkiomon
from blkiomon.formats.units import time_text
from blkiomon.interval.value import Counts

MULTI = goldenfiles.TRACES / "loop-multi-dc.bin"
PHASES = goldenfiles.TRACES / "loop-phases-dc.bin"
SIZES = [(80, 24), (200, 50)]


def table(screen: str) -> list[str]:
    """The lines of the table."""
    lines = screen.splitlines()
    (head,) = (i for i, line in enumerate(lines) if line.startswith("device "))
    return [line for line in lines[head + 1 : -1] if line]


def order(screen: str) -> list[str]:
    return re.findall(r"^.(7:\d+)", screen, re.MULTILINE)


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_screen_shows_the_whole_trace(tmp_path: Path, columns: int, rows: int) -> None:
    with Tmux(tmp_path, columns, rows) as terminal:
        terminal.run("top", "--speed", "max", MULTI)
        screen = terminal.until("END OF TRACE", "q quit", " discard ")
        lines = screen.splitlines()
        assert len(lines) == rows and lines[-1].startswith("q quit")
        assert lines[0].startswith("blkiomon top ")
        assert "WHOLE RUN: 95,366 records in 3.01 s" in lines[0]
        assert lines[1] == "nothing lost in 3.01 s"
        assert order(screen) == ["7:2", "7:1", "7:3"]
        ops = [line[(21 if columns > 140 else 10) :].split()[0] for line in table(screen)]
        assert ops == ["3", "all", "write", "flush", "all", "read", "write", "discard"]

        whole = blkiomon.summarize(MULTI)
        read = next(group for group in whole.ops(7 << 20 | 1) if group.op == "read")
        wanted = [f"{read.iops:,.0f}", *(time_text(read.d2c_ns.percentile(p)) for p in (50, 99))]
        (line,) = (line for line in table(screen) if " read " in line)
        for text in wanted:
            assert text.replace(" ", "") in line.split()
        assert ("busy" in screen) == (columns == 200)
        terminal.leave()


def test_keys_change_the_screen(tmp_path: Path) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "--speed", "max", MULTI)
        terminal.until("END OF TRACE", "worst▼")
        for key, title, first, second in (
            ("i", "IOPS▼", "7:1", "7:2"),
            ("b", "MB/s▼", "7:2", "7:1"),
            ("l", "worst▼", "7:2", "7:1"),
        ):
            terminal.type(key)
            assert order(terminal.until(title)) == [first, second, "7:3"]
        for key, text, gone in (
            ("o", "7:3", "flush"),
            ("w", "at 3.0 s", "WHOLE RUN"),
            ("?", "since the start: failed, given back by the kernel", "7:3"),
            ("h", "7:3", ""),
            ("End", "7:3", ""),
            ("Enter", "latency by time", "7:2"),
            ("Escape", "7:2", "latency by time"),
            ("/", "Enter keeps this filter", ""),
            ("1", "7:1", "7:2"),
            ("Escape", "7:2", "filter, Esc"),
            ("F6", "IOPS▼", ""),
            ("<", "worst▼", ""),
        ):
            terminal.type(key)
            terminal.until(text, gone=gone)
        terminal.type("Left", "x", "Space")  # the first two mean nothing
        terminal.until("PAUSED", "7:3")
        terminal.leave()


def test_screen_follows_the_size_of_the_terminal(tmp_path: Path) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "--speed", "max", MULTI)
        terminal.until("END OF TRACE")
        for columns, rows in ((200, 50), (60, 12), (100, 30)):
            terminal.resize(columns, rows)

            def fits(columns: int = columns, rows: int = rows) -> bool:
                lines = terminal.screen().splitlines()
                heads = [line for line in lines if line.startswith("device ")]
                return (
                    len(lines) == rows
                    and lines[0].startswith("blkiomon top")
                    and lines[-1].startswith("q quit")
                    and len(heads) == 1
                    and ("busy" in heads[0]) == (columns >= 136)
                    and ("p90" in heads[0]) == (columns >= 106)
                    and ("p50" in heads[0]) == (columns >= 64)
                )

            runner.until(fits, f"a screen of {columns}x{rows}", pause_s=PAUSE_S)
        terminal.leave()


def test_replay_can_be_paused(tmp_path: Path) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "-I", "0.5", PHASES)
        terminal.until("at 1.0 s")
        terminal.type("p")
        held = terminal.until("PAUSED").splitlines()[0]
        terminal.type("w")  # another screen of the same moment
        assert "WHOLE RUN" in terminal.until("WHOLE RUN", "PAUSED").splitlines()[0]
        terminal.type("w")
        assert terminal.until("PAUSED", gone="WHOLE RUN").splitlines()[0] == held
        terminal.type("p")
        terminal.until("at 2.5 s", gone="PAUSED")
        assert "END OF TRACE" not in terminal.screen()  # 19 seconds long
        terminal.leave()


def test_replay_can_be_faster_than_real_time(tmp_path: Path) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "-I", "0.5", "--speed", "50", PHASES)
        screen = terminal.until("END OF TRACE", "x50")
        assert "at 19.0 s" in screen  # the last interval, not all of them together
        terminal.leave("C-c")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("when", ["at 0.5 s", "END OF TRACE"])
def test_signal_restores_the_terminal(tmp_path: Path, number: signal.Signals, when: str) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        speed = "max" if when.startswith("END") else "1"
        terminal.run("top", "-I", "0.5", "--speed", speed, PHASES)
        terminal.until(when)
        os.kill(terminal.pid, number)
        terminal.until("status 0")
        terminal.assert_clean()


def test_error_restores_the_terminal(tmp_path: Path) -> None:
    broken = (
        "import sys, blkiomon.commands.top.screen as screen\n"
        "def lines(*a): raise RuntimeError('nothing can be drawn')\n"
        "screen.lines = lines\n"
        "from blkiomon.commands.cli import main\n"
        "sys.exit(main())\n"
    )
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", MULTI, python=broken)
        terminal.until("RuntimeError: nothing can be drawn", "status 4")
        terminal.assert_clean()


def test_bad_trace_is_shown_and_printed_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(MULTI.read_bytes()[:-10])
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "--speed", "max", "./cut")
        terminal.until("END OF TRACE", "bad trace: ./cut: at byte offset")
        terminal.type("q")
        terminal.until("blkiomon: bad trace: ./cut: at byte offset", "status 3")
        terminal.assert_clean()


def test_terminal_as_standard_input_is_refused(tmp_path: Path) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "-")
        terminal.until("blkiomon: standard input is a terminal", "Usage: blkiomon top", "status 2")
        terminal.assert_clean()


def test_screen_counts_the_losses_of_a_real_trace(tmp_path: Path) -> None:
    lossy = goldenfiles.TRACES / "loop-lossy-dc.bin"
    counts = Counts()
    try:
        for interval in blkiomon.intervals(lossy):
            counts += interval.counts
    except blkiomon.TraceError:  # it ends inside a record
        pass
    assert counts.lost_events
    with Tmux(tmp_path, 200, 50) as terminal:
        terminal.run("top", "--speed", "max", lossy)
        terminal.until("END OF TRACE", "LOST: ", f"{counts.lost_events:,} lost events")


def documented(page: str, first: str) -> list[str]:
    """A screen of the documentation, without its empty lines."""
    text = (Path(__file__).parent.parent / "docs" / page).read_text()
    (shown,) = re.findall(rf"^    blkiomon top  {first}.*?^    q quit[^\n]*", text, re.M | re.S)
    return [line[4:] for line in shown.splitlines() if line.strip()]


def test_screen_is_that_of_the_documentation(tmp_path: Path) -> None:
    (tmp_path / MULTI.name).symlink_to(MULTI)
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "-I", "0.25", "--speed", "max", MULTI.name)
        screen = terminal.until("END OF TRACE", "q quit", " discard ")
    ours = [line for line in screen.splitlines() if line.strip()]
    assert ours == documented("live.md", "loop-multi")


def test_tree_is_that_of_the_documentation(tmp_path: Path) -> None:
    for file in (goldenfiles.TRACES / "san/traces").glob("iscsi-slow-path.*"):
        (tmp_path / file.name).symlink_to(file)
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "--by", "array", "--speed", "max", "iscsi-slow-path")
        terminal.until("END OF TRACE", "q quit")
        terminal.type("*")
        screen = terminal.until("q quit", " sda ")
    ours = [line for line in screen.splitlines() if line.strip()]
    assert ours == documented("san.md", "iscsi-slow-path")


@pytest.mark.parametrize("is_named", [True, False])
def test_pipe_is_live_and_ends(tmp_path: Path, is_named: bool) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        os.mkfifo(tmp_path / "fifo")
        if is_named:
            terminal.run("top", "-I", "0.2", "./fifo")
        else:  # keys still come from the terminal
            terminal.run("top", "-I", "0.2", stdin="fifo")
        with open(tmp_path / "fifo", "wb", buffering=0) as fifo:
            terminal.until("./fifo" if is_named else "standard input", "records in")
            terminal.until("NO RECORDS for")
            fifo.write(quirks.pairs((4096, 500)))
            terminal.type("w")
            terminal.until("WHOLE RUN: 2 records", "read")
        terminal.until("END OF TRACE")
        terminal.leave()


def test_recorded_trace_through_a_pipe_is_played(tmp_path: Path) -> None:
    with Tmux(tmp_path, 100, 24) as terminal:
        os.mkfifo(tmp_path / "fifo")
        terminal.run("top", "-I", "1", "./fifo")
        with open(tmp_path / "fifo", "wb", buffering=0) as fifo:
            fifo.write(MULTI.read_bytes())
        terminal.until("this trace was recorded: intervals end by its own clock")
        terminal.until("END OF TRACE", "at 3.0 s")
        terminal.leave()


@pytest.mark.parametrize("key", ["q", "C-c"])
def test_leaving_prints_no_message(tmp_path: Path, key: str) -> None:
    with Tmux(tmp_path, 80, 24) as terminal:
        os.mkfifo(tmp_path / "fifo")
        terminal.run("top", "-I", "0.2", "./fifo")
        with open(tmp_path / "fifo", "wb"):
            terminal.until("./fifo", "records in")
            assert "blkiomon:" not in terminal.leave(key)


def test_blocked_terminal_does_not_stop_reading() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    env = os.environ | {"TERM": "xterm", "LC_ALL": "C.UTF-8"}

    def shown_bytes() -> int:
        waiting = array.array("i", [0])
        fcntl.ioctl(master, termios.FIONREAD, waiting)
        return waiting[0]

    try:
        with Running("top", "-I", "0.01", stdout=slave, env=env) as process:
            process.started()
            # The terminal is full: further screens cannot be written.
            runner.until(lambda: shown_bytes() > 3000, "the terminal to be full")
            data = MULTI.read_bytes()
            for _ in range(5):
                process.write(data)  # 20 MB, and a pipe holds 1 MiB
            # Its input stays open: else the end of it may come before the signal.
            process.signal(signal.SIGTERM)
            assert process.wait() == 0, process.stderr
            assert "terminated by signal" in process.stderr
    finally:
        os.close(master)
        os.close(slave)


def test_run_ends_with_its_terminal() -> None:
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm", "LC_ALL": "C.UTF-8"}
    with Running("top", stdout=slave, env=env) as process:
        process.started()
        assert os.read(master, 10)
        os.close(slave)
        os.close(master)
        process.wait()
