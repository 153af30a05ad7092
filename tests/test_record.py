"""``blkiomon record``: what it writes, when it ends, and that blkparse and btt read it."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import programs
import pytest
import runner
import tracewriter as tw
from test_capture import loop, use

import blkiomon
from blkiomon._core import Engine
from blkiomon.commands import record as recording_command
from blkiomon.errors import SourceError
from blkiomon.outputs import recording
from blkiomon.outputs.opening import Policy
from blkiomon.outputs.recording import FileRecording, PipeRecording
from blkiomon.sources import capture as capturing
from blkiomon.sources.version7 import Version7

__all__ = ["loop"]

SDA, SDB = 8 << 20, 8 << 20 | 16
DISK_BYTES = 64 << 10
NAME = tw.notify_process(5, 77, "fio")
TIME = tw.Record(
    5, 0, 0, tw.act(tw.NOTIFY, tw.NT_TIMESTAMP), 0, payload=struct.pack("=II", 1_700_000_000, 5)
)


def captured(*records: tw.Record) -> bytearray:
    """As a capture writes them: of version 8 if a category needs it."""
    pieces = (tw.encode([r], 8 if r.action >> 32 else 7, tw.HOST) for r in records)
    return bytearray(b"".join(pieces))


def requests(n: int, *, first: int = 0, device: int = SDA) -> list[tw.Record]:
    """n requests, one after the other: their issues and completions, on two CPUs."""
    found = []
    for i in range(first, first + n):
        found += [
            tw.issue(1000 * i + 10, 8 * i, 4096, device=device, pid=77, cpu=i % 2),
            tw.complete(1000 * i + 500, 8 * i, 4096, device=device, pid=77, cpu=1),
        ]
    return found


class FakeCapture:
    """A capture of given pieces, one at a time; the rest when it is stopped.

    Attributes:
        PIECES: lists of records, or how many events are lost.
        IS_FAST: all pieces are ready at once, and the last one again and again until it is stopped.
    """

    PIECES: Sequence[list[tw.Record] | int] = ()
    WAITS = False
    IS_FAST = False

    def __init__(self, names: Sequence[str], report: object, *, queue: bool = False) -> None:
        self.fd = os.open("/dev/zero", os.O_RDONLY) if not self.WAITS else os.pipe()[0]
        self.lost_events = 0
        self._pieces = list(self.PIECES)
        self._has_stopped = False
        self._needs_notes = True

    def __enter__(self) -> FakeCapture:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.fd)

    def repeat_notes(self) -> None:
        self._needs_notes = True

    def stop(self) -> None:
        self._has_stopped = True
        self.lost_events += sum(piece for piece in self._pieces if isinstance(piece, int))
        self._pieces = [piece for piece in self._pieces if not isinstance(piece, int)]

    def pieces(self) -> Iterator[memoryview]:
        while self._pieces:
            piece = self._pieces.pop(0)
            if isinstance(piece, int):
                self.lost_events += piece
            else:
                notes = [TIME, NAME] if self._needs_notes else []
                self._needs_notes = False
                yield memoryview(captured(*notes, *piece))
            if self.IS_FAST and not self._has_stopped and not self._pieces:
                self._pieces = [piece]
            if not self._has_stopped and not self.IS_FAST:
                return


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    """Captures are fake ones."""
    monkeypatch.setattr(capturing, "Capture", FakeCapture)
    monkeypatch.setattr(
        capturing, "all_disks", lambda: [capturing.CapturedDevice("sda", SDA, True)]
    )
    monkeypatch.setattr(FakeCapture, "PIECES", [requests(100)])
    return FakeCapture


def record(*arguments: runner.Argument, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return runner.call("record", "--for", "0.001", *arguments, **options)


def summary(result: subprocess.CompletedProcess[bytes]) -> str:
    """The line at the end, without the duration."""
    return re.sub(r"in [0-9.]+ s", "in T s", result.stderr.decode())


def figures(trace: Any) -> dict[str, Any]:
    """All figures of a trace as one interval."""
    return blkiomon.to_dict(blkiomon.summarize(trace))


# --- conversion -----------------------------------------------------------------------------------


def test_fields_of_captured_records_stay() -> None:
    given = [NAME, *requests(20), tw.issue(10**6, 8, 512, tw.WRITE | tw.FS, error=5, pid=3)]
    new = list(blkiomon.read_trace(bytes(captured(*given))))
    old = list(blkiomon.read_trace(bytes(Version7(2).convert(captured(*given)))))
    assert len(old) == len(given)
    assert {int(r["cpu"]) for r in old} == {2}
    names = [n for n in old[0].dtype.names or () if n not in ("cpu", "sequence", "version")]
    assert [[r[n] for n in names] for r in old] == [[r[n] for n in names] for r in new]


def test_bytes_of_version_7_are_those_that_blktrace_writes() -> None:
    given = requests(3)
    expected = [tw.replace(r, cpu=0, sequence=i + 1) for i, r in enumerate(given)]
    assert bytes(Version7(0).convert(captured(*given))) == tw.encode(expected, 7, tw.HOST)


def test_categories_of_version_8_alone_are_dropped() -> None:
    wide = tw.issue(1, 8, 4096, tw.WRITE | tw.FS | tw.WRITE_ZEROES | tw.DISCARD)
    (found,) = blkiomon.read_trace(bytes(Version7(0).convert(captured(wide))))
    assert int(found["action"]) >> 16 == tw.WRITE | tw.FS | tw.DISCARD | tw.ISSUE


@pytest.mark.parametrize("devices", [1, 3, 5000])
def test_records_are_numbered_by_device(devices: int) -> None:
    given = [r for i in range(devices) for r in requests(2, device=SDA + i)] * 2
    converter = Version7(0)
    engine = Engine(max_devices=8192)
    engine.feed(converter.convert(captured(*given)))
    assert converter.records == len(given)
    assert engine.counters()["sequence_gaps"] == 0


@pytest.mark.parametrize("lost", [1, 70_000])
def test_lost_events_are_a_gap_of_their_number(lost: int) -> None:
    converter = Version7(0)
    engine = Engine()
    for piece in (requests(5), [*requests(5, device=SDB), *requests(5, first=5)]):
        engine.feed(converter.convert(captured(*piece)))
        converter.lose(lost)
    assert engine.counters()["sequence_gaps"] == lost
    assert converter.unmarked_events == lost


def test_gap_waits_for_a_record_that_shows_it() -> None:
    converter = Version7(0, lost_events=9)
    engine = Engine()
    both = captured(*requests(1, device=SDA)[:1], *requests(1, device=SDB)[:1])
    engine.feed(converter.convert(both))
    assert (engine.counters()["sequence_gaps"], converter.unmarked_events) == (0, 9)
    engine.feed(converter.convert(captured(*requests(1, device=SDB)[1:])))
    assert (engine.counters()["sequence_gaps"], converter.unmarked_events) == (9, 0)


@pytest.mark.parametrize("data", [captured(*requests(1))[:-1], bytearray(64), bytearray(b"x")])
def test_what_is_no_whole_record_is_refused(data: bytearray) -> None:
    with pytest.raises(ValueError, match="no whole record"):
        Version7(0).convert(data)


# --- files ----------------------------------------------------------------------------------------


def test_recorded_file_has_the_figures_of_its_capture(
    fake: type[FakeCapture], tmp_path: Path
) -> None:
    others = requests(50, first=100, device=SDB)
    fake.PIECES = [requests(100), others, [], requests(100, first=150)]
    result = record("-o", tmp_path / "run")
    assert (result.returncode, result.stdout) == (0, b"")
    path = tmp_path / "run.blktrace.0"
    assert summary(result) == (
        f"blkiomon: wrote {path}, 24.1 kB, 502 records in T s; nothing lost\n"
    )
    records = (r for piece in fake.PIECES for r in piece)  # type: ignore[union-attr]
    whole = bytes(captured(TIME, NAME, *records))
    assert figures(tmp_path / "run") == figures(whole)
    assert figures(whole)["total"]["requests"] == 250


def test_losses_are_printed_and_in_the_file(fake: type[FakeCapture], tmp_path: Path) -> None:
    fake.PIECES = [requests(3), 1200, requests(3, first=3), 34, requests(3, first=6)]
    result = record("-o", tmp_path / "run")
    assert summary(result).endswith("20 records in T s; 1,234 events lost\n")
    assert figures(tmp_path / "run")["unseen"]["sequence_gaps"] == 1234


def test_zstd_packs(fake: type[FakeCapture], tmp_path: Path) -> None:
    record("-o", tmp_path / "plain")
    result = record("-o", tmp_path / "run", "--zstd")
    path = tmp_path / "run.blktrace.0.zst"
    assert path.stat().st_size < (tmp_path / "plain.blktrace.0").stat().st_size / 2
    assert str(path) in summary(result)
    assert figures(tmp_path / "run") == figures(tmp_path / "plain")


def test_zstd_needs_a_library(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    result = record("-o", tmp_path / "run", "--zstd")
    assert result.returncode == 4
    assert b"pip install 'blkiomon[zstd]'" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a ring are small, so that its files can be."""
    monkeypatch.setattr(recording, "PIECE_BYTES", 1 << 12)


def ring(path: Path, pieces: int, lost: int = 0) -> FileRecording:
    """A ring of eight files of 8 KiB: pieces of 10 requests, and losses after each piece."""
    capture = FakeCapture([], print)
    files = FileRecording(
        str(path),
        None,
        lambda: False,
        Policy(),
        most_bytes=1 << 16,
        repeat_notes=capture.repeat_notes,
    )
    capture._pieces = [requests(10, first=10 * i) for i in range(pieces)]
    capture.stop()
    for data in capture.pieces():
        files.write(data)
        files.lose(lost)
    files.close()
    return files


def test_ring_keeps_the_latest_records_with_their_notes(tmp_path: Path, small_ring: None) -> None:
    text = ring(tmp_path / "run", 100).summary()
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [f"run.blktrace.{n}" for n in range(8)]
    assert sum(path.stat().st_size for path in files) <= 1 << 16
    for path in files:
        engine = Engine()
        engine.feed(path.read_bytes())
        assert engine.process_names == {77: "fio"}
        assert engine.epoch_ns is not None
    found = blkiomon.read_trace(tmp_path / "run")
    sectors = [int(r["sector"]) // 8 for r in found if not int(r["action"]) >> 16 & tw.NOTIFY]
    assert sectors == sorted(sectors)
    assert sectors == [i for i in range(600, 1000) for _ in range(2)]
    counts = figures(tmp_path / "run")["unseen"]
    assert counts["sequence_gaps"] == counts["completions_without_issue"] == 0
    assert text.endswith("816 records (and deleted 1,224 older ones)")


def test_ring_that_is_not_full_has_deleted_nothing(tmp_path: Path, small_ring: None) -> None:
    text = ring(tmp_path / "run", 8).summary()
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["run.blktrace.0", "run.blktrace.1"]
    assert text.endswith(f"run.blktrace.0 to {tmp_path}/run.blktrace.1, 7.92 kB, 164 records")


def test_losses_between_two_files_of_a_ring_are_marked(tmp_path: Path, small_ring: None) -> None:
    ring(tmp_path / "run", 20, lost=3)
    assert figures(tmp_path / "run")["unseen"]["sequence_gaps"] == 3 * 19


def test_trace_is_not_overwritten(fake: type[FakeCapture], tmp_path: Path) -> None:
    old = [tmp_path / "run.blktrace.0", tmp_path / "run.blktrace.3.gz"]
    other = tmp_path / "run2.blktrace.1"
    for path in (*old, other):
        path.write_bytes(b"old")
    result = record("-o", tmp_path / "run", "--", "touch", tmp_path / "touched")
    assert result.returncode == 4
    assert result.stderr.decode() == (
        f"blkiomon: could not write to {tmp_path}/run: run.blktrace.0 exists; --overwrite replaces "
        "that trace\n"
    )
    assert [path.read_bytes() for path in (*old, other)] == [b"old"] * 3
    assert not (tmp_path / "touched").exists()
    assert record("-o", tmp_path / "run", "--overwrite").returncode == 0
    assert sorted(tmp_path.glob("*.blktrace.*")) == [old[0], other]
    assert figures(tmp_path / "run")["total"]["requests"] == 100


def test_name_that_would_hide_the_trace_is_refused(fake: type[FakeCapture], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    result = record("-o", tmp_path / "run", "--overwrite")
    assert result.returncode == 4
    assert b"run exists and would be read in place of the trace" in result.stderr


def test_link_in_place_of_the_trace_is_not_followed(
    fake: type[FakeCapture], tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    (tmp_path / "run.blktrace.0").symlink_to(target)
    assert record("-o", tmp_path / "run").returncode == 4
    record("-o", tmp_path / "run", "--overwrite")
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("packing", [[], ["--zstd"]])
def test_full_disk_ends_the_recording_with_whole_records(
    fake: type[FakeCapture], disk: Path, packing: list[str]
) -> None:
    n = 4000 if packing else 200
    fake.PIECES = [requests(n, first=n * i) for i in range(20)]
    result = record("-o", disk / "run", *packing, "--", "sh", "-c", "exit 7")
    assert result.returncode == 4
    failure, *_ = result.stderr.decode().splitlines()
    assert failure == (
        f"blkiomon: could not write to {disk}/run: No space left on device; the recording ends"
    )
    whole = blkiomon.summarize(disk / "run")
    captured = 2 + 20 * 2 * n  # with two notify records
    unwritten = f"{captured - whole.counts.records:,} captured records are not written"
    assert f" {whole.counts.records:,} records in T s; {unwritten}\n" in summary(result)
    assert whole.total.requests >= n
    assert whole.total.requests % n == 0


# --- a pipe ---------------------------------------------------------------------------------------


def test_pipe_has_all_that_is_captured(fake: type[FakeCapture], tmp_path: Path) -> None:
    zone = tw.issue(10**6, 800, 4096, tw.WRITE | tw.FS | tw.WRITE_ZEROES)
    fake.PIECES = [requests(10), [zone], requests(10, first=10)]
    result = record("-o", "-")
    assert result.stdout == captured(TIME, NAME, *requests(10), zone, *requests(10, first=10))
    assert summary(result) == "blkiomon: wrote 2.10 kB to standard output in T s; nothing lost\n"


def test_pipe_says_how_many_events_were_lost(fake: type[FakeCapture]) -> None:
    fake.PIECES = [requests(10), 42, requests(10, first=10), requests(1, first=20)]
    result = record("-o", "-")
    assert summary(result).endswith("42 events lost\n")
    shown = runner.call("-I", "1000", "--json", "-", stdin=result.stdout)
    assert b'"lost_events":42' in shown.stdout


def test_recording_ends_in_time_though_more_is_captured_than_is_written(
    fake: type[FakeCapture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "IS_FAST", True)
    monkeypatch.setattr(fake, "PIECES", [requests(100), 7, requests(100, first=100)])
    result = record("-o", "-")
    assert result.returncode == 0
    before, mark, after = result.stdout.partition(b"CPU:0 [LOST 7 EVENTS]\n")
    assert (len(before), len(mark), len(after) % 9600) == (9600 + 48 + 8 + 48 + 16, 22, 0)
    assert after


def test_packed_pipe_is_read(fake: type[FakeCapture]) -> None:
    result = record("-o", "-", "--zstd")
    assert figures(result.stdout) == figures(bytes(captured(TIME, NAME, *requests(100))))


@pytest.mark.parametrize(("command", "status"), [([], 141), (["--", "sh", "-c", "exit 3"], 3)])
def test_reader_that_leaves_ends_the_recording_quietly(
    fake: type[FakeCapture], command: list[str], status: int
) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with open(write_fd, "wb", buffering=0) as stdout:
        result = record("-o", "-", *command, stdout=stdout)
    assert (result.returncode, result.stderr) == (status, b"")


def test_full_device_is_a_failure(fake: type[FakeCapture]) -> None:
    with Path("/dev/full").open("wb") as full:
        result = record("-o", "-", stdout=full)
    assert result.returncode == 4
    assert summary(result) == (
        "blkiomon: could not write to standard output: No space left on device; the recording "
        "ends\nblkiomon: wrote 0 B to standard output in T s; later records are not written\n"
    )


def test_reader_that_takes_nothing_is_given_up_after_a_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "AFTER_SIGNAL_S", 0.05)
    read_fd, write_fd = os.pipe()
    pipe = PipeRecording(None, lambda: True, Policy())
    pipe.close()
    pipe._fd = write_fd
    with pytest.raises(OSError, match="took nothing in time") as caught:
        pipe.write(memoryview(bytes(1 << 18)))
    assert caught.value.errno == errno.ETIMEDOUT
    pipe.close()
    os.close(read_fd)


def test_slow_reader_is_given_up_after_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_WAIT_S", 0.1)
    read_fd, write_fd = os.pipe()
    pipe = PipeRecording(None, lambda: True, Policy())
    pipe.close()
    pipe._fd = write_fd

    def read_slowly() -> None:
        with suppress(OSError):
            while os.read(read_fd, 4096):
                time.sleep(0.01)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    with pytest.raises(OSError, match="took too long"):
        pipe.write(memoryview(bytes(1 << 20)))
    pipe.close()
    reader.join()
    os.close(read_fd)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 5", 5), ("kill -9 $$", 137)])
def test_status_is_that_of_the_command(
    fake: type[FakeCapture], tmp_path: Path, script: str, status: int
) -> None:
    result = runner.call("record", "-o", tmp_path / "run", "--", "sh", "-c", script)
    assert result.returncode == status
    assert figures(tmp_path / "run")["total"]["requests"] == 100


def test_signal_before_the_command_is_started_ends_the_recording_without_it(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def opened(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    real = recording_command._open
    monkeypatch.setattr(recording_command, "_open", opened)
    assert recording_command.main(["-o", str(tmp_path / "run"), "--", "touch", "made"]) == 143
    assert "terminated by signal; touch was not run" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_signal_while_the_command_is_started_reaches_it(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", started)
    assert recording_command.main(["-o", str(tmp_path / "run"), "--", "sleep", "100"]) == 143


def test_command_keeps_standard_input_and_output(fake: type[FakeCapture], tmp_path: Path) -> None:
    result = runner.call("record", "-o", tmp_path / "run", "--", "cat", stdin=b"given")
    assert result.stdout == b"given"


def test_command_prints_to_standard_error_where_records_go_to_standard_output(
    fake: type[FakeCapture],
) -> None:
    result = runner.call("record", "-o", "-", "--", "echo", "printed")
    assert result.stdout == captured(TIME, NAME, *requests(100))
    assert result.stderr.startswith(b"printed\n")


def test_command_has_the_limits_of_its_caller(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Raising(FakeCapture):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            capturing._allow_all_descriptors()
            super().__init__(*arguments, **options)

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(capturing, "Capture", Raising)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, limits[1]))
    try:
        result = record("-o", tmp_path / "run", "--", "sh", "-c", "ulimit -n; ulimit -Hn")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limits[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert result.stdout.split() == [b"500", str(limits[1]).encode()]


def test_command_does_not_get_variables_that_blkiomon_sets_for_itself(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    result = runner.call("record", "-o", tmp_path / "run", "--", "env")
    assert b"OPENBLAS_NUM_THREADS" not in result.stdout


@pytest.mark.parametrize(
    ("mode", "status", "why"),
    [
        (None, 127, "no such program"),
        (0o644, 126, "Permission denied"),
        (0o755, 126, "Exec format error"),
    ],
)
def test_command_that_cannot_be_run_is_reported_and_leaves_no_file(
    fake: type[FakeCapture], tmp_path: Path, mode: int | None, status: int, why: str
) -> None:
    program, folder = tmp_path / "program", tmp_path / "traces"
    folder.mkdir()
    if mode:
        program.write_bytes(b"\x7fELF")
        program.chmod(mode)
    for name in (folder / "run", "-"):
        result = runner.call("record", "-o", name, "--", program)
        assert result.returncode == status
        assert result.stderr == f"blkiomon: cannot run {program}: {why}\n".encode()
        assert not list(folder.iterdir())


def test_command_that_is_a_directory_or_not_executable_in_path_is_reported(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "program").write_bytes(b"")
    result = runner.call("record", "-o", "-", "--", "x/" * 3000)
    assert (result.returncode, result.stderr[-18:]) == (127, b": no such program\n")
    for command in ("program", tmp_path):
        result = runner.call("record", "-o", "-", "--", command)
        assert result.returncode == 126
        assert result.stderr == f"blkiomon: cannot run {command}: Permission denied\n".encode()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the trace has no name"),
        (["-o", "run", "sda"], "unexpected argument 'sda'"),
        (["-o", "run", "sda", "--", "true"], "unexpected argument 'sda'"),
        (["-o", "a/"], "not a directory"),
        (["-o", "-", "--max-size", "1G"], "--max-size limits files"),
        (["-o", "run", "--max-size", "7M"], "a size of 8M or more"),
        (["-o", "run", "--max-size", "1T"], "a size of 8M or more"),
        (["-o", "run", "--for", "0"], "--for takes a number of seconds"),
        (["-o", "run", "-o", "other"], "given twice"),
        (["-o", "run", "--trace", ""], "--trace takes a device"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    fake: type[FakeCapture], tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    result = runner.call("record", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert complaint in result.stderr.decode()
    assert not list(tmp_path.iterdir())


def test_terminal_gets_no_records(fake: type[FakeCapture]) -> None:
    master, slave = os.openpty()
    with open(slave, "wb", buffering=0) as terminal:
        result = record("-o", "-", stdout=terminal)
    os.close(master)
    assert result.returncode == 2
    assert b"standard output is a terminal" in result.stderr


def test_capture_that_fails_leaves_no_file(
    fake: type[FakeCapture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise SourceError("cannot capture: needs root")

    monkeypatch.setattr(capturing, "Capture", fail)
    result = record("-o", tmp_path / "run", "--", "touch", tmp_path / "touched")
    assert (result.returncode, result.stderr) == (3, b"blkiomon: cannot capture: needs root\n")
    assert not list(tmp_path.iterdir())


# --- signals --------------------------------------------------------------------------------------

_FAKED = """
import signal, sys; sys.path[:0] = {path!r}
import test_record
from test_record import capturing, FakeCapture, requests
FakeCapture.PIECES, FakeCapture.WAITS = [requests(100)], True
capturing.Capture, capturing.all_disks = FakeCapture, lambda: [1]
from blkiomon.commands import cli
sys.exit(cli.main())
"""


def running(*arguments: runner.Argument, **options: Any) -> runner.Running:
    """record in its own process group, with a fake capture."""
    code = _FAKED.format(path=[str(Path(__file__).parent)])
    return runner.Running(
        "record",
        *arguments,
        command=[sys.executable, "-c", code],
        start_new_session=True,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_the_recording_in_order(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "run.blktrace.0"
    with running("-o", tmp_path / "run") as process:
        runner.until(path.exists)
        runner.await_size(path, 9600)
        process.signal(number)
        assert process.process.wait(runner.TIMEOUT_S) == 0
        assert "202 records" in process.stderr


TRAPPED = "trap 'echo caught; exit 9' INT TERM; echo ready; while :; do sleep 0.01; done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_command_too(tmp_path: Path, number: signal.Signals) -> None:
    with running("-o", tmp_path / "run", "--", "sh", "-c", TRAPPED) as process:
        assert process.process.stdout is not None
        assert process.process.stdout.readline() == b"ready\n"
        if number == signal.SIGINT:  # as a terminal sends it
            os.killpg(process.process.pid, number)
        else:
            process.signal(number)
        assert process.process.wait(runner.TIMEOUT_S) == 9
        assert process.process.stdout.read() == b"caught\n"
        assert "202 records" in process.stderr


def test_time_limit_ends_the_recording_and_not_the_command(tmp_path: Path) -> None:
    with running("-o", tmp_path / "run", "--for", "0.01", "--", "cat") as process:
        runner.await_size(runner.until(lambda: next(tmp_path.glob("run.*"), None)), 9600)
        process.close_input()
        assert process.process.wait(runner.TIMEOUT_S) == 0
        assert "202 records" in process.stderr


# --- live -----------------------------------------------------------------------------------------


def blkparsed(path: Path, merged: Path) -> list[list[str]]:
    """The words of each line that blkparse prints of a set's records."""
    blkparse = programs.require("blkparse", "blktrace", in_ci=True)
    done = subprocess.run(
        [blkparse, "-i", path.name, "-d", str(merged)],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=runner.TIMEOUT_S,
        check=True,
    )
    assert done.stderr == ""
    assert "Skips: 0 forward" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    return [words for words in lines if re.fullmatch(r"\d+,\d+", (words or [""])[0])]


def test_blkparse_reads_a_ring_in_order(tmp_path: Path, small_ring: None) -> None:
    ring(tmp_path / "run", 100)
    sectors = [int(words[7]) for words in blkparsed(tmp_path / "run", tmp_path / "merged")]
    found = blkiomon.read_trace(tmp_path / "run")
    assert sectors == [int(r["sector"]) for r in found if not int(r["action"]) >> 16 & tw.NOTIFY]


def test_blkparse_and_btt_read_what_is_recorded(loop: str, tmp_path: Path) -> None:
    btt = programs.require("btt", "blktrace", in_ci=True)
    use_it = (
        f"dd if=/dev/{loop} of=/dev/null iflag=direct bs=4k count=300; "
        f"dd if=/dev/zero of=/dev/{loop} oflag=direct bs=8k count=100"
    )
    done = runner.run(
        *("record", "-o", tmp_path / "run", "--trace", loop, "--queue", "--", "sh", "-c", use_it)
    )
    assert done.returncode == 0, done.stderr
    if b"nothing lost" not in done.stderr:
        pytest.skip(f"this kernel withholds samples: {done.stderr.decode()}")
    whole = blkiomon.summarize(tmp_path / "run")
    assert whole.total.requests >= 400
    lines = blkparsed(tmp_path / "run", tmp_path / "merged")
    for kind in "QDC":
        assert sum(words[5] == kind for words in lines) == whole.total.requests
    for trace in (tmp_path / "run.blktrace.0", tmp_path / "merged"):
        told = subprocess.run(
            [btt, "-i", str(trace)], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        (d2c,) = re.findall(r"^D2C +(\S+) +(\S+) +(\S+) +(\d+)$", told.stdout, re.MULTILINE)
        ours = whole.total.d2c_ns
        assert int(d2c[3]) == ours.count
        for theirs, value in zip(d2c, (ours.min, ours.mean, ours.max)):
            assert value is not None
            assert abs(float(theirs) * 1e9 - value) <= 1


def test_recording_of_a_live_device_has_what_its_command_did(loop: str, tmp_path: Path) -> None:
    with runner.Running("record", "-o", tmp_path / "run", "--trace", loop) as process:
        path = tmp_path / "run.blktrace.0"
        runner.until(lambda: path.exists() and path.stat().st_size, "the first note")
        use(loop, 200)
        process.signal(signal.SIGINT)
        assert process.process.wait(runner.TIMEOUT_S) == 0
        lost = re.search(r"([\d,]+) events lost|nothing lost", process.stderr)
    assert lost is not None
    n_lost = int((lost[1] or "0").replace(",", ""))
    whole = blkiomon.summarize(tmp_path / "run")
    assert 200 - n_lost <= whole.total.requests
