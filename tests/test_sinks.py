"""Destinations: what is written, what is dropped and counted; a slow one delays nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runner
from intervals import at
from quirks import ONE
from runner import until

from blkiomon.engine import layout
from blkiomon.errors import OutputError
from blkiomon.formats import stats_file
from blkiomon.formats.debug import Final
from blkiomon.formats.driver_data import DriverData
from blkiomon.formats.rendering import Format
from blkiomon.interval.value import Counts, Interval
from blkiomon.outputs import files
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.outputs.destinations import Outputs, open_outputs
from blkiomon.outputs.files import FileSink

TEXT = Format((Interval,), lambda item: iter([b"interval %d\n" % item.time_s]))
DRIVER = Format((DriverData,), lambda item: iter([item.data]))


def sized(n_bytes: int) -> Format:
    """Every interval becomes this many zeros."""
    return Format((Interval,), lambda item: iter([bytes(n_bytes)]))


@pytest.fixture
def pipe(pipe: tuple[int, int]) -> tuple[int, int]:
    """A pipe that holds 4 KiB."""
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    return pipe


def started(path: str | Path, said: list[str], *forms: Format, **options: Any) -> FileSink:
    sink = FileSink(str(path), forms or [TEXT], said.append, **options)
    sink.start()
    return sink


def on_pipe(pipe: tuple[int, int], said: list[str], *forms: Format, **options: Any) -> FileSink:
    return started(f"/proc/self/fd/{pipe[1]}", said, *forms, **options)


# --- opening -------------------------------------------------------------------------------------


OPTIONS = {"human": "human-readable", "driver": "dump-lldd"}


def settings(**paths: str) -> OutputSettings:
    """Outputs by short names for what they contain."""
    return OutputSettings(destinations={OPTIONS.get(name, name): p for name, p in paths.items()})


def test_no_permission_says_so(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    path.touch(0o444)
    result = runner.run("-I1", "-h", path, command=runner.BOUND_COMMAND)
    said = f"blkiomon: could not write to {path}: Permission denied\n"
    assert (result.returncode, result.stderr.decode()) == (1, said)


def test_block_device_is_refused_and_never_opened(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "disk"
    try:
        os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    opened: list[object] = []
    real = os.open

    def noted(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            opened.append(path)
        return real(path, flags, *args, **options)

    monkeypatch.setattr("blkiomon.outputs.opening.os.open", noted)
    with pytest.raises(OutputError, match="disk: it is a block device"):
        open_outputs(settings(driver=str(device)), said.append)
    assert not opened


def test_fifo_waits_for_its_reader(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    sink = started(path, said, verbose=True)
    sink.put(at(1))
    until(lambda: said)
    with path.open("rb") as reader:
        assert reader.readline() == b"interval 1\n"
        sink.close()
        assert reader.read() == b""
    assert said == [f"waiting for a reader of {path}"]
    assert sink.dropped_intervals == 0


def test_fifo_without_reader_does_not_delay_the_end(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    sink = started(path, said)
    sink.put(at(1))
    begin_s = time.monotonic()
    sink.close(timeout_s=60)
    assert time.monotonic() - begin_s < 5
    assert sink.dropped_intervals == 1


def read_all(fifo: Path) -> bytes:
    """Everything that a writer, once it opens a FIFO, writes to it."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with open(reader, "rb") as file:
        assert select.select([reader], [], [], runner.TIMEOUT_S)[0], "nobody writes to it"
        os.set_blocking(reader, True)
        return file.read()


@contextmanager
def waiting_for_a_reader(fifo: Path, is_named: bool = True) -> Iterator[runner.Running]:
    """A run that has read a whole trace, and writes to a FIFO without a reader."""
    trace, beside = fifo.with_name("trace"), fifo.with_name("beside")
    trace.write_bytes(ONE)
    os.mkfifo(fifo)
    options: list[runner.Argument] = ["-I", runner.LONG, "-h", fifo, "-b", beside]
    options += [trace] * is_named
    with trace.open("rb") as source, runner.Running(*options, stdin=source).started() as process:
        runner.await_size(beside, 424)
        yield process


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "standard_input"])
def test_recorded_trace_waits_for_the_reader_of_a_fifo(is_named: bool, tmp_path: Path) -> None:
    with waiting_for_a_reader(tmp_path / "fifo", is_named) as process:
        assert read_all(tmp_path / "fifo").count(b"\nbidirectional requests") == 1
        assert process.wait() == 0
        assert process.stderr == ""


def test_reader_of_a_fifo_gets_the_end_of_a_trace_that_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "trace").touch()
    os.mkfifo(tmp_path / "fifo")
    arguments = ("-I", runner.LONG, "-D", tmp_path / "fifo", tmp_path / "trace")
    with runner.Running(*arguments) as process:
        assert read_all(tmp_path / "fifo").startswith(b"0 leftover, 0 match")
        assert process.wait() == 3  # an input without any record


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_wait_for_the_reader_of_a_fifo(number: int, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    with waiting_for_a_reader(fifo) as process:
        status, _, complaints = process.end(number)
    assert status != 0
    assert set(complaints.splitlines()) == {
        "blkiomon: terminated by signal",
        f"blkiomon: {fifo} did not take everything: it lacks 1 interval",
    }


# --- what arrives --------------------------------------------------------------------------------


def test_one_destination_takes_text_then_struct_of_each_device(
    tmp_path: Path, said: list[str]
) -> None:
    both, path = tmp_path / "both", tmp_path / "text"
    outputs = open_outputs(settings(human=str(both), binary=str(both)), said.append)
    alone = open_outputs(settings(human=str(path)), said.append)
    item = at(7, devices=2)
    for o in (outputs, alone):
        o.put(item)
        o.close()
    structs = list(stats_file.renderer("0.3")(item))
    texts = [b"\ntime" + t for t in path.read_bytes().split(b"\ntime")[1:]]
    assert both.read_bytes() == texts[0] + structs[0] + texts[1] + structs[1]


@contextmanager
def reading(
    pipe: tuple[int, int], *, first_s: float = 0, every_s: float = 0, most: int = 4096
) -> Iterator[bytearray]:
    """A thread reads a pipe after `first_s` seconds, and every `every_s` seconds from then on.

    At the end of the block, the writing end is closed and the rest is read.
    """
    received = bytearray()

    def read() -> None:
        time.sleep(first_s)
        while chunk := os.read(pipe[0], most):
            received.extend(chunk)
            time.sleep(every_s)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield received
    finally:
        os.close(pipe[1])
        reader.join()


def test_slow_reader_gets_every_byte(pipe: tuple[int, int], said: list[str]) -> None:
    sink = on_pipe(pipe, said, DRIVER)
    data = os.urandom(500_000)
    sink.put(DriverData(data, 1))
    with reading(pipe, every_s=0.002, most=600) as received:
        sink.close(timeout_s=1)  # less than all of it takes, but there is progress
    assert received == data
    assert sink.dropped_records == 0


def test_pipe_that_does_not_block_gets_every_byte(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = FileSink(str(path), [DRIVER], said.append)
    assert sink._fd is not None
    os.set_blocking(sink._fd, False)
    os.set_blocking(source, True)
    sink.start()
    data = os.urandom(200_000)
    sink.put(DriverData(data, 1))
    with open(source, "rb") as reader:
        assert reader.read(len(data)) == data
        sink.close()


# --- what is dropped -----------------------------------------------------------------------------


def test_stalled_reader_never_stops_put(pipe: tuple[int, int], said: list[str]) -> None:
    sink = on_pipe(pipe, said, sized(5000), max_intervals=3)
    begin_s = time.monotonic()
    for time_s in range(100):
        sink.put(at(time_s))
    assert time.monotonic() - begin_s < 5
    # One is stuck in write(), three wait.
    assert sink.dropped_intervals in (96, 97)
    sink.close(timeout_s=0.1)
    assert time.monotonic() - begin_s < 10
    assert sink.dropped_intervals == 100
    os.close(pipe[0])  # ends the blocked write with an error
    sink._thread.join(5)
    assert sink.dropped_intervals == 100


def test_records_are_bounded_by_bytes(pipe: tuple[int, int], said: list[str]) -> None:
    both = Format((np.ndarray, DriverData, Final), lambda item: iter([bytes(5000)]))
    sink = on_pipe(pipe, said, both, max_record_bytes=1000)
    sink.put(DriverData(b"", 1))
    until(lambda: sink._current is not None)  # in hand, no longer queued
    sink.put(DriverData(bytes(600), 4))
    sink.put(DriverData(bytes(600), 5))  # does not fit
    sink.put(np.zeros(3, layout.MISMATCH))  # does
    sink.put(np.zeros(9, layout.MISMATCH))  # does not
    assert sink.dropped_records == 5 + 9
    sink.put(Final(np.zeros(100, layout.DETAIL), Counts()))
    assert sink.dropped_records == 5 + 9  # the end is always taken
    sink.close(timeout_s=0.05)
    assert sink.dropped_records == 5 + 9 + 1 + 4 + 3 + 101  # 100 leftovers, and the totals
    os.close(pipe[0])
    sink._thread.join(5)


def test_one_item_above_the_bound_is_taken_alone(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "out"
    sink = FileSink(str(path), [DRIVER], said.append, max_record_bytes=10)
    sink.put(DriverData(bytes(100), 1))
    sink.put(DriverData(bytes(1), 1))
    sink.start()
    sink.close()
    assert path.stat().st_size == 100
    assert sink.dropped_records == 1


def test_lossless_sink_makes_put_wait(pipe: tuple[int, int], said: list[str]) -> None:
    big = Format((Interval,), lambda item: iter([b"%05d" % item.time_s * 1000]))
    sink = on_pipe(pipe, said, big, lossless=True, max_intervals=1)
    with reading(pipe, first_s=0.05) as received:
        for time_s in range(20):
            sink.put(at(time_s))
        sink.close()
    assert received == b"".join(b"%05d" % n * 1000 for n in range(20))
    assert sink.dropped_intervals == 0


def test_stop_waiting_ends_a_lossless_wait(pipe: tuple[int, int], said: list[str]) -> None:
    sink = on_pipe(pipe, said, sized(5000), lossless=True, max_intervals=1)
    timer = threading.Timer(0.05, sink.stop_waiting)
    timer.start()
    for time_s in range(5):
        sink.put(at(time_s))
    timer.join()
    assert sink.dropped_intervals == 0  # what is at hand may still be taken
    sink.close(timeout_s=0.05)
    assert sink.dropped_intervals >= 3
    os.close(pipe[0])
    sink._thread.join(5)


LONG_S = 0.2


def render_slowly(item: Interval) -> Iterator[bytes]:
    for _ in range(2):
        time.sleep(LONG_S)
        yield bytes(100_000)


SLOW = Format((Interval,), render_slowly)


@pytest.mark.parametrize("is_stopped", [False, True], ids=["end", "signal"])
def test_rendering_may_take_longer_than_a_destination(
    is_stopped: bool, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blkiomon.outputs.sink.AFTER_SIGNAL_S", LONG_S / 2)
    path = tmp_path / "out"
    sink = started(path, said, SLOW)
    sink.put(at(1))
    sink.put(at(2))
    if is_stopped:
        sink.stop_waiting()
    sink.close(60 if is_stopped else LONG_S / 2)
    assert path.stat().st_size == 400_000
    assert not sink.failed and not sink.dropped_intervals and not said


def test_lossless_sink_is_closed_only_when_all_is_taken(
    pipe: tuple[int, int], said: list[str]
) -> None:
    sink = on_pipe(pipe, said, sized(200_000), lossless=True)
    sink.put(at(1))
    with reading(pipe, first_s=LONG_S) as received:
        sink.close(LONG_S / 2)
    assert len(received) == 200_000 and not sink.dropped_intervals


def test_signal_while_a_lossless_sink_closes_bounds_the_wait(
    pipe: tuple[int, int], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blkiomon.outputs.sink.AFTER_SIGNAL_S", 0.05)
    sink = on_pipe(pipe, said, sized(200_000), lossless=True)
    sink.put(at(1))
    timer = threading.Timer(LONG_S, sink.stop_waiting)
    timer.start()
    sink.close()
    assert not timer.is_alive() and sink.dropped_intervals == 1
    os.close(pipe[0])
    sink._thread.join(5)


def test_formats_in_pieces_share_a_file_each_as_a_whole(tmp_path: Path, said: list[str]) -> None:
    def spelt(word: str, takes_turns: bool = False) -> Format:
        return Format((Interval,), lambda item: (c.encode() for c in word), takes_turns=takes_turns)

    formats = [spelt("abc", True), spelt("12", True), spelt("json\n"), spelt("csv\n")]
    sink = started(tmp_path / "out", said, *formats)
    sink.put(at(1))
    sink.close()
    assert (tmp_path / "out").read_bytes() == b"a1b2cjson\ncsv\n"


def test_stuck_write_does_not_keep_the_process(pipe: tuple[int, int]) -> None:
    code = """
from blkiomon.outputs.files import FileSink, Format
from blkiomon.formats.driver_data import DriverData
sink = FileSink("-", [Format((DriverData,), lambda item: iter([item.data]))], print)
sink.start()
sink.put(DriverData(bytes(1 << 20), 1))
sink.close(0.1)
raise SystemExit(3 if sink.dropped_records == 1 else 4)
"""
    assert runner.python(code, stdout=pipe[1]).returncode == 3


def test_signals_stay_with_the_main_thread(tmp_path: Path, said: list[str]) -> None:
    blocked: list[set[signal.Signals | int]] = []

    def look(item: object) -> Iterator[bytes]:
        blocked.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
        yield b""

    sink = started(tmp_path / "out", said, Format((Interval,), look))
    sink.put(at(1))
    sink.close()
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGALRM} <= blocked[0]


# --- errors --------------------------------------------------------------------------------------


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk has space for this many bytes, which a test may change; 8 at first."""
    write, room = os.write, [8]

    def limited(fd: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(fd, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr("blkiomon.outputs.files.os.write", limited)
    return room


def test_closed_pipe_is_one_line_and_the_others_go_on(
    tmp_path: Path, pipe: tuple[int, int], said: list[str]
) -> None:
    name = f"/proc/self/fd/{pipe[1]}"
    broken = FileSink(name, [TEXT], said.append)
    sound = FileSink(str(tmp_path / "out"), [TEXT], said.append)
    os.close(pipe[0])
    outputs = Outputs([broken, sound], said.append)
    outputs.put(at(1))
    until(lambda: broken._finished)
    outputs.put(at(2))
    outputs.close()
    assert said == [
        f"cannot write to {name}: Broken pipe (nothing more is written there)",
        f"{name} did not take everything: it lacks 2 intervals",
    ]
    assert outputs.failed and broken.failed and not sound.failed
    assert (tmp_path / "out").read_bytes() == b"interval 1\ninterval 2\n"


def test_interval_cut_by_a_full_disk_leaves_no_part(
    tmp_path: Path, said: list[str], room: list[int]
) -> None:
    path = tmp_path / "out"
    outputs = open_outputs(settings(binary=str(path)), said.append)
    (sink,) = outputs.sinks
    room[0] = 424 + 100
    outputs.put(at(1))
    outputs.put(at(2))
    until(lambda: sink.dropped_intervals)
    assert path.stat().st_size == 424
    room[0] = 10_000  # there is space again
    outputs.put(at(3))
    outputs.close()
    times = np.frombuffer(path.read_bytes(), layout.STATS_03)["time"]
    assert times.tolist() == [1, 3]
    assert sink.dropped_intervals == 1 and outputs.failed


WHOLE = Format(TEXT.takes, TEXT.render, head=b"head\n", finish=lambda: iter([b"end\n"]))


def test_head_and_end_surround_everything(tmp_path: Path, said: list[str]) -> None:
    for number, items in ((0, b""), (2, b"interval 0\ninterval 1\n")):
        path = tmp_path / str(number)
        sink = started(path, said, WHOLE)
        for time_s in range(number):
            sink.put(at(time_s))
        sink.close()
        assert path.read_bytes() == b"head\n" + items + b"end\n"
    assert not sink.failed and not said


def test_head_is_written_when_there_is_room_for_it(
    tmp_path: Path, said: list[str], room: list[int]
) -> None:
    sink = started(tmp_path / "out", said, Format(TEXT.takes, TEXT.render, b"head\n"))
    sink.put(at(1))
    until(lambda: sink.dropped_intervals)
    room[0] = 10_000
    sink.put(at(2))
    sink.close()
    assert (tmp_path / "out").read_bytes() == b"head\ninterval 2\n"


def test_format_with_an_end_gets_none_after_a_loss(
    tmp_path: Path, said: list[str], room: list[int]
) -> None:
    room[0] = 0
    sink = started(tmp_path / "out", said, WHOLE)
    sink.put(at(1))
    until(lambda: said)
    sink.put(at(2))
    sink.close()
    assert (tmp_path / "out").read_bytes() == b""
    assert sink.failed and sink.dropped_intervals == 2
    assert said == [
        f"{sink.name} waits until there is space again: No space left on device",
        f"cannot write to {sink.name}: No space left on device (nothing more is written there)",
    ]


def test_format_with_an_end_waits_for_space(
    tmp_path: Path, said: list[str], room: list[int]
) -> None:
    sink = started(tmp_path / "out", said, WHOLE)
    sink.put(at(1))
    until(lambda: said)
    sink.put(at(2))
    room[0] = 10_000
    until(lambda: (tmp_path / "out").read_bytes().endswith(b"2\n"))
    sink.close()
    assert (tmp_path / "out").read_bytes() == b"head\ninterval 1\ninterval 2\nend\n"
    assert len(said) == 1 and not sink.failed and not sink.dropped_intervals


def test_run_that_waits_for_its_outputs_does_not_wait_for_space(said: list[str]) -> None:
    sink = started("/dev/full", said, WHOLE, lossless=True)
    sink.put(at(1))
    until(lambda: sink.has_ended)
    assert sink.failed and sink.dropped_intervals == 1 and len(said) == 1
    sink.close()


def test_end_that_nobody_reads_is_reported(pipe: tuple[int, int], said: list[str]) -> None:
    long = Format(TEXT.takes, TEXT.render, finish=lambda: iter([bytes(10_000)]))
    sink = on_pipe(pipe, said, long)
    sink.close(0.1)
    assert sink.failed
    assert said == [f"{sink.name} did not take its last bytes"]


def test_cut_back_spares_what_somebody_else_appended(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "out"

    def spoil(item: object) -> Iterator[bytes]:
        yield bytes(files.WRITE_BYTES)
        until(lambda: path.stat().st_size)
        with path.open("ab") as other:
            other.write(b"theirs")
        raise OSError(errno.EIO, "lost")

    sink = started(path, said, Format((Interval,), spoil))
    sink.put(at(1))
    sink.close()
    assert path.read_bytes().endswith(b"theirs")
    assert said == [f"cannot write to {path}: lost (nothing more is written there)"]
