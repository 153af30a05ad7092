"""The command as a process: its input, when it writes, and outputs that fail."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import termios
import threading
import time
from pathlib import Path

import goldenfiles
import numpy as np
import oracle
import pytest
import quirks
import runner
import tracewriter as tw
from quirks import ONE
from runner import LONG, TERMINATED, MessageQueue, Running, options_to, read_counts
from tracewriter import driver_data, encode, issue

from blkiomon.commands import cli
from blkiomon.commands.config import Config
from blkiomon.commands.run import run
from blkiomon.engine import layout

MISMATCH = encode([issue(5, 99, 1), issue(6, 99, 1)])
F_SETPIPE_SZ, F_GETPIPE_SZ = fcntl.F_SETPIPE_SZ, fcntl.F_GETPIPE_SZ


# -- when it writes --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["-h", "-"]], ids=["no_output_option", "-h_-"])
def test_each_interval_is_printed_at_once(options: list[str]) -> None:
    with Running("-I", "0.1", *options).started() as process:
        for number in (1, 2, 3):
            process.write(ONE * number)
            text = process.read_intervals(number)
            # Each interval has its own requests, and no others.
            assert read_counts(text) == [1, 2, 3][:number]
        process.succeed()


def test_each_struct_is_written_at_once() -> None:
    with Running("-I", "0.1", "-b", "-").started() as process:
        for number in (1, 2):
            process.write(ONE * number)
            data = process.read_bytes(424 * number)
            stats = np.frombuffer(data, layout.STATS_03)
            assert stats["size_r"]["count"].tolist() == [1, 2][:number]
            assert abs(int(stats["time"][-1]) - time.time()) < 60


def test_each_driver_record_is_passed_at_once() -> None:
    with Running("-I", LONG, "-d", "-").started() as process:
        sent = b""
        for number in range(5):
            record = encode([driver_data(number, b"record %d" % number)])
            process.write(record)
            sent += record
            assert process.read_bytes(len(sent)) == sent


def test_each_mismatch_is_dumped_at_once() -> None:
    with Running("-I", LONG, "-D", "-").started() as process:
        process.write(MISMATCH)
        text = process.read_count(b"\norder", 1)
        assert text.startswith(b"--- mismatch ---\n")
        assert b"leftover" not in text
        status, text, _ = process.end()
        assert status == 0
        assert text.endswith(b"\n1 leftover, 0 match, 1 mismatch, 0 driverdata, 2 overall\n")


def test_files_are_written_at_every_boundary(tmp_path: Path) -> None:
    paths = [tmp_path / "h", tmp_path / "b"]
    with Running("-I", "0.1", "-h", paths[0], "-b", paths[1]).started() as process:
        process.write(ONE)
        for path in paths:
            runner.await_size(path, 1)
        assert process.process.poll() is None


def test_interval_without_a_match_prints_nothing() -> None:
    with Running("-I", "0.05").started() as process:
        time.sleep(0.3)  # several intervals
        process.write(ONE)
        process.read_intervals(1)
        process.write(MISMATCH)
        time.sleep(0.3)
        text = process.succeed()
    assert read_counts(text) == [1]
    assert text.count(b"time: ") == 1


def test_time_is_that_of_the_boundary() -> None:
    before = time.time()
    with Running("-I", "1", "-b", "-").started() as process:
        process.write(ONE)
        stats = np.frombuffer(process.read_bytes(424), layout.STATS_03)
    assert int(before) < int(stats["time"][0]) <= time.time()


def test_interval_may_last_years() -> None:
    assert read_counts(runner.succeed("-I", "1e9", stdin=ONE)) == [1]


# -- several outputs -------------------------------------------------------------------------------


def masked(data: bytes) -> bytes:
    """Text and structs one after the other, without their times."""
    out, at = b"", 0
    end_of_text = b"\nbidirectional requests: "
    while (end := data.find(end_of_text, at)) >= 0:
        end = data.index(b"\n", end + 1) + 1
        out += oracle.mask_human(data[at:end]) + bytes(8) + data[end + 8 : end + 424]
        at = end + 424
    return out + data[at:]


def test_text_and_structs_interleave_on_standard_output_as_the_originals() -> None:
    program = oracle.require()
    data = quirks.CASES["devices_in_reverse_of_first_match"]
    written = []
    for command in ((program,), runner.COMMAND):
        with Running("-I", "1", "-h", "-", "-b", "-", command=command) as process:
            process.write(data)
            process.read_count(b"\nbidirectional", 3)
            output = process.succeed()
            written.append(masked(output))
    assert written[0] == written[1]
    # Three texts, of which the first ends at the first zero byte, and three structs.
    assert len(written[1]) == 3 * 424 + written[1].index(b"\0") * 3


def test_all_outputs_at_once_are_complete(tmp_path: Path) -> None:
    data = (goldenfiles.TRACES / "loop-multi-dc.bin").read_bytes()
    data += encode([driver_data(1, b"last")])
    (tmp_path / "queue").touch()
    with MessageQueue(tmp_path / "queue") as queue:
        result = runner.run("-I", LONG, *options_to(tmp_path, "hbdD"), *queue.options, stdin=data)
        messages = queue.take()
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert (tmp_path / "b").read_bytes() == b"".join(messages)
    assert len(messages) == (tmp_path / "h").read_text().count("bidirectional") == 3
    assert (tmp_path / "d").read_bytes() == encode([driver_data(1, b"last")])
    assert (tmp_path / "D").read_text().endswith(", 91 mismatch, 1 driverdata, 95367 overall\n")


def test_everything_goes_to_the_same_standard_output() -> None:
    data = MISMATCH + encode([driver_data(1, b"payload")]) + ONE
    options = [part for letter in "hbdD" for part in (f"-{letter}", "-")]
    result = runner.run("-I", LONG, *options, stdin=data)
    assert (result.returncode, result.stderr) == (0, b"")
    for piece in (b"--- mismatch ---", b"payload", b"\ntime: ", b" overall\n"):
        assert result.stdout.count(piece) == 1
    assert len(runner.call("-I", LONG, "-b", "-", stdin=data).stdout) == 424


# -- what it reads ---------------------------------------------------------------------------------


def test_slow_reader_gets_all_of_a_file_larger_than_any_buffer(tmp_path: Path) -> None:
    # A file loses nothing by waiting, so no reader is too slow for it.
    records = encode([driver_data(1, bytes(60_000))]) * 500
    (tmp_path / "trace").write_bytes(records)
    with (tmp_path / "trace").open("rb") as file:
        with Running("-I", LONG, "-d", "-", stdin=file).started() as process:
            time.sleep(0.5)  # a reader that is slow to begin
            data = process.succeed()
    assert data == records


def test_terminal_as_input_gets_one_line_of_advice() -> None:
    ours, theirs = pty.openpty()
    try:
        result = runner.run("-I", "1", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (result.returncode, result.stdout) == (1, b"")
    assert re.fullmatch(
        rb"blkiomon: standard input is a terminal; trace records are expected there, .*\n",
        result.stderr,
    )


def test_stopped_terminal_does_not_hold_up_a_run_that_a_signal_ends(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    stats = tmp_path / "stats"
    command = [*runner.COMMAND, "-I", "0.01", "--csv", str(stats), "--clock", "wall"]
    try:
        termios.tcflow(theirs, termios.TCOOFF)  # as Ctrl-S does
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=theirs) as process:
            try:
                runner.until(lambda: stats.exists() and stats.stat().st_size, "the statistics")
                process.terminate()
                assert process.wait(runner.TIMEOUT_S) == 0
            finally:
                process.kill()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("redirected", ["<&-", "0>/dev/null"], ids=["closed", "writing_only"])
def test_unreadable_input_is_reported(redirected: str) -> None:
    result = runner.shell(redirected, "-I", "1")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr == b"blkiomon: cannot read standard input: Bad file descriptor\n"


def test_directory_as_input_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Python itself ends with 1 if standard input is a directory; run() returns 3.
    result = runner.shell(f"<{tmp_path}", "-I", "1")
    assert result.returncode == 1
    assert result.stderr
    assert b"Traceback" not in result.stderr
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        config = cli.parse(["-I", "1"])
        assert isinstance(config, Config)
        assert run(config, fd) == 3
    finally:
        os.close(fd)
    assert capfd.readouterr().err == "blkiomon: cannot read standard input: Is a directory\n"


def test_empty_input_has_totals_of_0() -> None:
    result = runner.shell("</dev/null", "-I", "1", "-D", "-", "-h", "-")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == b"0 leftover, 0 match, 0 mismatch, 0 driverdata, 0 overall\n"


def test_input_that_does_not_block_is_read(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(reading, False)
    with Running("-I", "0.1", stdin=reading).started() as process:
        time.sleep(0.2)  # the input pauses
        os.write(writing, ONE)
        assert read_counts(process.read_intervals(1)) == [1]
        os.close(writing)
        process.succeed()


def widest() -> int:
    """How wide a pipe may be made here, up to 1 MiB."""
    reading, writing = os.pipe()
    try:
        for size in (1 << shift for shift in range(20, 12, -1)):
            try:
                return fcntl.fcntl(reading, F_SETPIPE_SZ, size)
            except OSError:
                continue
        raise AssertionError("no pipe can be made wider")
    finally:
        os.close(reading)
        os.close(writing)


def test_pipe_on_standard_input_is_widened(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with Running("-I", LONG, stdin=reading).started():
        assert fcntl.fcntl(writing, F_GETPIPE_SZ) == widest()


def test_pipe_on_standard_input_is_widened_before_anything_else(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    assert runner.run("--nonsense", stdin=reading).returncode == 2
    assert fcntl.fcntl(writing, F_GETPIPE_SZ) == widest()


def test_pipe_that_is_wider_is_left_alone(pipe: tuple[int, int]) -> None:
    # In this process and with a smaller aim, since more than 1 MiB takes privileges.
    reading, writing = pipe
    size = fcntl.fcntl(writing, F_SETPIPE_SZ, 1 << 17)
    cli._widen_pipe(reading, 1 << 16)
    assert fcntl.fcntl(writing, F_GETPIPE_SZ) == size


# -- outputs that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-h", "-b", "-d", "-D"])
def test_path_that_cannot_be_opened_is_reported(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "nowhere" / "file", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        complaint = f"could not write to {path}: {reason}"
        runner.assert_fails(1, complaint, "-I", LONG, option, path, stdin=ONE)


def test_queue_named_after_no_file_is_refused(tmp_path: Path) -> None:
    queue = MessageQueue(tmp_path / "nowhere")
    complaint = f"could not write to {queue.path}: No such file or directory"
    runner.assert_fails(1, complaint, "-I", LONG, *queue.options, stdin=ONE)


@pytest.mark.parametrize("option", ["-h", "-b", "-D"])
def test_no_space_left_is_reported_once_and_other_outputs_go_on(
    option: str, tmp_path: Path
) -> None:
    others = "hbD".replace(option[1], "")
    arguments = options_to(tmp_path, others)
    with Running("-I", "0.1", *arguments, option, "/dev/full", "-d", "-").started() as process:
        for number in range(1, 4):
            process.write(ONE + MISMATCH + encode([driver_data(number, b"x")]))
            process.read_count(b"x", number)
            time.sleep(0.15)  # until an interval ends
        status, _, _ = process.end()
        lines = process.stderr.splitlines()
    assert status == 1
    assert lines[0].startswith("blkiomon: cannot write to /dev/full: No space left on device")
    assert len(lines) == 2
    assert lines[1].startswith("blkiomon: /dev/full did not take everything: ")
    for letter in others:
        data = (tmp_path / letter).read_bytes()
        if letter == "h":
            assert sum(read_counts(data)) == 3
        elif letter == "b":
            assert np.frombuffer(data, layout.STATS_03)["size_r"]["count"].sum() == 3
        else:
            assert b" 3 match, " in data


def test_no_space_left_on_standard_output_is_reported() -> None:
    result = runner.shell(">/dev/full", "-I", LONG, input=ONE)
    assert result.returncode == 1
    first, *rest = result.stderr.decode().splitlines()
    assert first.startswith("blkiomon: cannot write to standard output: No space left on device")
    assert len(rest) <= 1


BY_SIGPIPE = (-signal.SIGPIPE, 128 + signal.SIGPIPE)
"""The status of a process that SIGPIPE ended; the second is what a shell makes of it."""


def test_reader_of_standard_output_goes_away_and_other_outputs_go_on(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with Running("-I", "0.1", "-h", "-", "-b", path).started() as process:
        process.write(ONE)
        process.read_intervals(1)
        process.close_output()
        for number in (2, 3, 4):
            process.write(ONE)
            runner.await_size(path, 424 * number)
        assert process.end()[0] in BY_SIGPIPE
        assert process.stderr == ""
    assert np.frombuffer(path.read_bytes(), layout.STATS_03)["size_r"]["count"].tolist() == [1] * 4


def test_run_ends_when_the_only_reader_goes_away() -> None:
    # As in `blktrace ... | blkiomon ... | head`.
    with Running("-I", "0.1", "-h", "-").started() as process:
        process.close_output()
        process.write(ONE)
        assert process.wait() in BY_SIGPIPE
        assert process.stderr == ""


CLOSED = re.compile(
    rb"blkiomon: (could not|cannot) write to (-|standard output): Bad file descriptor"
)


def test_closed_standard_output_is_reported() -> None:
    result = runner.shell(">&-", "-I", LONG, input=ONE)
    assert (result.returncode, result.stdout) == (1, b"")
    assert CLOSED.match(result.stderr), result.stderr


def test_file_does_not_take_the_place_of_a_closed_standard_output(tmp_path: Path) -> None:
    # The next file that is opened gets the descriptor 1.
    path = tmp_path / "h"
    result = runner.shell(">&-", "-I", LONG, "-h", path, "-b", "-", input=ONE)
    assert result.returncode == 1
    assert CLOSED.match(result.stderr), result.stderr
    if path.exists():
        assert b"\0" not in path.read_bytes()


def test_file_does_not_take_the_place_of_a_closed_standard_error(tmp_path: Path) -> None:
    # The next file that is opened gets the descriptor 2.
    path = tmp_path / "h"
    result = runner.shell("2>&-", "-I", LONG, "-h", path, input=ONE + b"garbage" * 20)
    assert (result.returncode, result.stdout, result.stderr) == (1, b"", b"")
    assert read_counts(path.read_text()) == [1]
    assert "bad trace" not in path.read_text()


# -- signals ---------------------------------------------------------------------------------------


def test_signal_while_records_flow_loses_no_request(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with Running("-I", "0.1", "-b", path, "-D", "-").started() as process:

        def flood() -> None:
            try:
                while True:
                    process.write(ONE * 500)
            except (BrokenPipeError, AssertionError):
                pass

        writer = threading.Thread(target=flood)
        writer.start()
        runner.await_size(path, 3 * 424)
        text = process.succeed(signal.SIGTERM, said=TERMINATED)
        writer.join(runner.TIMEOUT_S)
    # The signal may have come within a record; the trace is not bad for that.
    matches = re.fullmatch(rb"(?s:.*)\d leftover, (\d+) match, 0 mismatch, .*\n", text)
    assert matches is not None
    stats = np.frombuffer(path.read_bytes(), layout.STATS_03)
    assert stats["size_r"]["count"].sum() == int(matches[1]) > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_signal_during_start_up_ends_the_run(number: signal.Signals, pipe: tuple[int, int]) -> None:
    # A widened pipe shows that the command has begun; imports take another tenth of a second.
    reading, writing = pipe
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    with Running("-I", LONG, stdin=reading) as process:
        os.write(writing, ONE)
        runner.until(lambda: fcntl.fcntl(writing, F_GETPIPE_SZ) > 4096, "the pipe to be widened")
        status, text, complaints = process.end(number)
    assert complaints == TERMINATED
    assert status == 0
    assert read_counts(text) == [1]


def test_second_signal_changes_nothing_and_records_in_the_pipe_count() -> None:
    with Running("-I", LONG).started() as process:
        process.write(ONE)
        process.signal(signal.SIGSTOP)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            process.signal(number)
        text = process.succeed(said=TERMINATED)
    assert read_counts(text) == [1]


# -- as ziomon starts it ---------------------------------------------------------------------------


@pytest.mark.parametrize("debug", [False, True], ids=["", "-D"])
def test_ziomon_gets_messages_and_driver_data(debug: bool, tmp_path: Path) -> None:
    path = tmp_path / "ziomon"
    path.touch()
    dump = tmp_path / "D"
    options = ["-D", str(dump)] if debug else []
    record = encode([driver_data(7, b"zfcp")])
    with MessageQueue(path, 1) as queue:
        # `blkiomon --interval=N -Q PATH -q 1 -m 3 [-D FILE] -d -`
        with Running("--interval=1", *queue.options, *options, "-d", "-").started() as process:
            process.write(ONE + record + MISMATCH)
            process.read_bytes(len(record))
            queue.await_messages(1)
            (first,) = queue.take()
            process.write(ONE * 2)
            queue.await_messages(1)
            (second,) = queue.take()
            process.write(ONE * 3)
            assert process.end(signal.SIGTERM) == (0, record, TERMINATED)
        (last,) = queue.take()
    stats = np.frombuffer(first + second + last, layout.STATS_03)
    assert stats["size_r"]["count"].tolist() == [1, 2, 3]
    assert stats["device"].tolist() == [8 << 20] * 3
    assert np.diff(stats["time"].astype(int)).min() >= 0
    if debug:
        assert dump.read_text().endswith(" 1 mismatch, 1 driverdata, 15 overall\n")


def test_ziomon_ignores_the_messages_about_bad_traces(tmp_path: Path) -> None:
    # Any line on standard error that begins otherwise makes it stop.
    data = ONE + tw.lost_mark(0, 5) + b"garbage" + ONE
    for options in ([], ["--resync"]):
        result = runner.call("-I", LONG, *options, stdin=data)
        assert result.stderr
        for line in result.stderr.splitlines():
            assert line.startswith(b"blkiomon: bad trace")


def test_queue_gets_the_older_layout_on_request(tmp_path: Path) -> None:
    (tmp_path / "queue").touch()
    with MessageQueue(tmp_path / "queue", 200) as queue:
        runner.succeed("-I", LONG, *queue.options, "--stat-version", "0.2", stdin=ONE)
        (message,) = queue.take()
    (stats,) = np.frombuffer(message, layout.STATS_02)
    assert (stats["device"], stats["size_r"]["sum"], stats["d2c_r"]["sum"]) == (8 << 20, 4096, 500)


def test_queue_that_is_removed_for_good_is_reported_at_the_end(tmp_path: Path) -> None:
    """Not earlier: any line makes ziomon stop, although it may create the queue again."""
    (tmp_path / "queue").touch()
    queue = MessageQueue(tmp_path / "queue")
    with Running("-I", "0.1", *queue.options, "-h", "-").started() as process:
        with queue:
            process.write(ONE)
            queue.await_messages(1)
        for number in (2, 3):
            process.write(ONE)
            process.read_intervals(number)
        assert process.stderr == ""
        status, _, complaints = process.end()
    assert status == 1
    assert re.fullmatch(
        rf"blkiomon: message queue {queue.path} \(id 1\) did not take everything: "
        r"it lacks \d+ intervals\n",
        complaints,
    )


# -- the tests themselves --------------------------------------------------------------------------


def test_missing_original_fails_where_it_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "find", lambda: None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install blktrace"):
        oracle.require()
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="apt-get install blktrace"):
        oracle.require()
