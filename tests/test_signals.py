"""Signals at any time, a process that is stopped, and a clock that is set."""

from __future__ import annotations

import gzip
import lzma
import os
import select
import signal
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import goldenfiles
import pytest
import runner
from quirks import ONE
from runner import TERMINATED, Running
from sanitizers import unpreloaded
from tracewriter import encode, issue

from blkiomon.commands.config import Config
from blkiomon.commands.pipeline import Pipeline
from blkiomon.commands.run import _read
from blkiomon.commands.signals import StopSignals
from blkiomon.interval.clock import WallClock
from blkiomon.interval.value import Interval
from blkiomon.outputs.destinations import Outputs
from blkiomon.sources import streams
from blkiomon.sources.sorter import Sorter
from blkiomon.sources.streams import READ_BYTES

HOUR_S = 3600
STORM = 3000
HARMLESS = (signal.SIGHUP, signal.SIGWINCH, signal.SIGCHLD, signal.SIGURG, signal.SIGCONT)


PHASES = goldenfiles.TRACES / "loop-phases-dc.bin"
NAMES = {"-h": "h", "-b": "b", "-D": "D", "-d": "d", "--json": "json"}


def options(directory: Path) -> list[str]:
    """All outputs go to files in a directory."""
    common = ["-I", "1", "--clock", "trace", "--names", "no"]
    return [*common, *(str(p) for o, n in NAMES.items() for p in (o, directory / n))]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a run without signals."""
    directory = tmp_path_factory.mktemp("quiet")
    assert runner.call(*options(directory), PHASES).returncode == 0
    return directory


@pytest.mark.parametrize("from_file", [False, True], ids=["pipe", "files"])
def test_storm_of_signals_changes_nothing(from_file: bool, quiet: Path, tmp_path: Path) -> None:
    """Each interrupts system calls; SIGHUP also reopens files."""
    data = PHASES.read_bytes()
    files = [str(PHASES)] * from_file
    with Running(*options(tmp_path), *files).started() as process:
        over = threading.Event()
        sent = 0

        def storm() -> None:
            nonlocal sent
            while not over.is_set() and (from_file or sent < STORM):
                process.signal(HARMLESS[sent % len(HARMLESS)])
                sent += 1
                if sent % 50 == 0:
                    time.sleep(0.001)

        thread = threading.Thread(target=storm)
        thread.start()
        if from_file:
            process.wait()
        else:
            for at in range(0, len(data), 9999):
                process.write(data[at : at + 9999])
            thread.join()
        over.set()
        thread.join()
        status, text, complaints = process.end()
    assert (status, text, complaints) == (0, b"", "")
    assert sent == STORM or (from_file and sent > 50)
    for name in NAMES.values():
        assert (tmp_path / name).read_bytes() == (quiet / name).read_bytes(), name


def test_stopped_process_prints_one_long_interval_instead_of_many_empty_ones() -> None:
    with Running("-I", "0.2", "--json", "-").started() as process:
        process.write(ONE)
        process.read_count(b'"total":{"requests":1,', 1)
        process.signal(signal.SIGSTOP)
        process.write(ONE * 2)
        time.sleep(1.5)  # seven boundaries pass
        process.signal(signal.SIGCONT)
        process.read_count(b'"total":{"requests":2,', 1)
        process.write(ONE * 3)
        process.read_count(b'"total":{"requests":3,', 1)
        data = process.succeed()
    found = runner.json_lines(data)
    assert sum(one["total"]["requests"] for one in found) == 6
    (long,) = [one for one in found if one["duration_s"] > 1]
    # Its rates are those of the time for which it really lasted.
    assert long["duration_s"] >= 1.3
    assert all(abs(a["end_ns"] - b["start_ns"]) < 10**8 for a, b in pairwise(found))


def test_boundaries_go_on_where_they_were() -> None:
    now = [100.0]
    clock = WallClock(10, monotonic=lambda: now[0], time_of_day=lambda: 0.0)
    now[0] = 134.0  # stopped: those at 110, 120 and 130 have passed
    assert clock.remaining_s() < 0
    clock.advance()
    assert clock.remaining_s() == pytest.approx(6)


class _Kept(Outputs):
    def __init__(self) -> None:
        super().__init__([], lambda text: None)
        self.items: list[Interval] = []

    def put(self, item: Any) -> None:
        if isinstance(item, Interval):
            self.items.append(item)


def test_first_interval_includes_the_time_from_the_start_of_a_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs are opened meanwhile, which may take seconds; records of that time count."""
    monkeypatch.setattr("blkiomon.commands.pipeline.time.monotonic_ns", lambda: 53 * 10**9)
    kept = _Kept()
    pipeline = Pipeline(Config(interval_s=10), kept, begun_ns=50 * 10**9)
    pipeline.cut(10**18)
    assert [(item.start_ns, item.end_ns) for item in kept.items] == [(10**18 - 3 * 10**9, 10**18)]


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_clock_that_is_set_changes_no_duration(
    step_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, offset = [50.0], [1e9]
    monkeypatch.setattr("blkiomon.commands.pipeline.time.monotonic_ns", lambda: int(now[0] * 1e9))
    clock = WallClock(10, monotonic=lambda: now[0], time_of_day=lambda: now[0] + offset[0])
    kept = _Kept()
    pipeline = Pipeline(Config(interval_s=10), kept)
    for number in range(4):
        now[0] += clock.remaining_s()
        if number == 2:
            offset[0] += step_s
        pipeline.feed(memoryview(ONE))
        pipeline.cut(clock.time_ns())
        clock.advance()
    assert [(i.end_ns - i.start_ns) / 1e9 for i in kept.items] == pytest.approx([10] * 4)
    ends = [i.end_ns / 1e9 for i in kept.items]
    assert [b - a for a, b in pairwise(ends)] == pytest.approx([10, 10 + step_s, 10])


@pytest.fixture
def faked(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """An environment with libfaketime, and the file that sets its offset of the time of day."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("libfaketime is not installed")
    step = tmp_path / "step"
    step.write_text("+0")
    options = {"TIMESTAMP_FILE": str(step), "NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
    faketime = {f"FAKETIME_{name}": value for name, value in options.items()}
    return os.environ | faketime | {"LD_PRELOAD": str(libraries[0])}, step


@unpreloaded
def test_run_goes_on_while_the_clock_is_set_an_hour_and_back(
    faked: tuple[dict[str, str], Path],
) -> None:
    environment, step = faked
    with Running("-I", "0.2", "--json", "-", env=environment).started() as process:
        n_lines = 0
        for number, offset in enumerate(("+0", "+3600", "+0", "-3600", "+0"), 1):
            step.with_suffix(".new").write_text(offset)
            step.with_suffix(".new").replace(step)
            process.write(ONE * number)
            process.read_count(b'"total":{"requests":%d,' % number, 1)
            n_lines += 3
            process.read_count(b"\n", n_lines)
        data = process.succeed()
    found = runner.json_lines(data)
    assert sum(one["total"]["requests"] for one in found) == 15
    # The last one is partial; none is an hour long, or negative, and none is skipped.
    assert all(0 <= one["duration_s"] < HOUR_S / 2 for one in found)
    ends = {one["total"]["requests"]: one["end_ns"] / 1e9 for one in found}
    for number, offset_s in ((2, HOUR_S), (3, 0), (4, -HOUR_S), (5, 0)):
        assert ends[number] - ends[1] == pytest.approx(offset_s, abs=runner.TIMEOUT_S)
    for number in (2, 4):
        (end,) = (one["end"] for one in found if one["total"]["requests"] == number)
        shown = datetime.fromisoformat(end).astimezone(UTC)
        assert abs((shown - datetime.now(UTC)).total_seconds()) > HOUR_S / 2


# --- signals at awkward times -------------------------------------------------------------------


def test_signal_ends_the_unpacking_of_terabytes_of_padding(tmp_path: Path) -> None:
    """A gzip member and terabytes of padding in a sparse file."""
    trace = tmp_path / "trace.gz"
    trace.write_bytes(gzip.compress(ONE))
    os.truncate(trace, 1 << 42)
    with Running("-I", "1000", "--json", "-", trace).started() as process:
        io = Path(f"/proc/{process.process.pid}/io")
        first = _bytes_read(io)
        runner.until(lambda: _bytes_read(io) > first + (1 << 20), "the padding to be read")
        before_s = time.monotonic()
        data = process.succeed(signal.SIGTERM, said=TERMINATED)
        took_s = time.monotonic() - before_s
    assert [one["total"]["requests"] for one in runner.json_lines(data)] == [1]
    assert took_s < 5  # far more than it takes on an idle machine


def _bytes_read(io: Path) -> int:
    return int(io.read_text().split()[1])


def test_signal_while_a_file_is_sorted_loses_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LOOK_AHEAD_BYTES", READ_BYTES)
    take, taken = Sorter.take, []

    class InterruptedSorter:
        """Sends a signal as soon as it has sorted records."""

        def __init__(self, **options: Any) -> None:
            self._sorter = Sorter(**options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sorter, name)

        def take(self, *limits: int) -> memoryview:
            found = take(self._sorter, *limits)
            taken.append(len(found))
            signal.raise_signal(signal.SIGINT)
            return found

    monkeypatch.setattr(streams, "Sorter", InterruptedSorter)
    path = tmp_path / "saved.bin"
    pair = encode([issue(2 * 10**9, 8, 512, cpu=1), issue(10**9, 8, 512)])
    path.write_bytes(pair * (4 * READ_BYTES // len(pair)))
    done = runner.call("-I", runner.LONG, "--json", "-", path)
    (interval,) = runner.json_lines(done.stdout)
    assert (done.returncode, len(taken)) == (0, 1)
    assert done.stderr == TERMINATED.encode()
    assert interval["records"] == READ_BYTES // 48


def test_interrupt_that_is_lost_in_a_callback_is_raised_again() -> None:
    code = """
import os, signal, weakref
from blkiomon.commands import cli
class Thing: pass
def command(arguments):
    thing = Thing()
    seen = weakref.ref(thing, lambda ref: os.kill(os.getpid(), signal.SIGINT))
    del thing
    while True: pass
cli._interruptible(command, [])
"""
    done = runner.python(code)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_signal_before_the_first_read_of_a_pipe(pack: Callable[[bytes], bytes]) -> None:
    """What is compressed is not read any more: its writer can wait."""
    code = """
import os, signal, sys
from blkiomon.commands import cli
from blkiomon.commands.signals import StopSignals
enter = StopSignals.__enter__
def terminate(self):
    entered = enter(self)
    os.kill(os.getpid(), signal.SIGTERM)
    return entered
StopSignals.__enter__ = terminate
sys.exit(cli.main(sys.argv[1:]))
"""
    done = runner.python(code, "-I", "1000", "-h", "-", stdin=pack(ONE))
    assert (done.returncode, done.stderr.decode()) == (0, TERMINATED)
    assert (b"device: 8,0" in done.stdout) == (pack is bytes)


def test_signal_ends_a_run_whose_time_jumps_by_very_many_intervals(tmp_path: Path) -> None:
    jump_ns = 9_000 * 10**9
    times = [*range(10**9, 10**9 + 10 * jump_ns, jump_ns)]
    (tmp_path / "trace").write_bytes(encode(issue(t, n, 512) for n, t in enumerate(times)))
    log = tmp_path / "log"
    with Running("-I", "0.1", "--json", log, tmp_path / "trace").started() as running:
        runner.until(lambda: log.stat().st_size > 1 << 16, "intervals")
        running.succeed(signal.SIGTERM, said=TERMINATED)
    intervals = log.read_bytes().count(b"\n")
    assert intervals < 100_000  # of 300,000, the limit of idle intervals


SCRIPT = Path(sysconfig.get_path("scripts"), "blkiomon")
WAITS = """\
import os, sys
os.write({reached}, b".")
os.read({go}, 1)
sys.path.remove(os.path.dirname(__file__))
module = sys.modules.pop(__name__)
__import__(__name__)
vars(module).update(vars(sys.modules[__name__]))
"""


@pytest.mark.skipif(not SCRIPT.exists(), reason="the command is not installed here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("module", "arguments", "is_ended_in_order"),
    [
        ("getopt", ["-I", "1000"], False),  # before a line of main has run
        ("numpy", ["-I", "1000"], True),
        ("numpy", ["report", "-o", "report.html", str(PHASES)], False),
    ],
)
def test_signal_while_modules_are_imported_leaves_no_traceback(
    module: str,
    arguments: list[str],
    is_ended_in_order: bool,
    number: signal.Signals,
    tmp_path: Path,
) -> None:
    """A module of the same name, found first, waits in place of the real one."""
    go, reached = os.pipe(), os.pipe()
    (tmp_path / f"{module}.py").write_text(WAITS.format(reached=reached[1], go=go[0]))
    options: dict[str, Any] = {"pass_fds": (reached[1], go[0]), "cwd": tmp_path}
    options["env"] = os.environ | {"PYTHONPATH": str(tmp_path)}
    with ExitStack() as stack:
        for fd in (*go, *reached):
            stack.callback(os.close, fd)
        process = stack.enter_context(Running(*arguments, command=[str(SCRIPT)], **options))
        os.read(reached[0], 1)
        process.signal(number)
        os.write(go[1], b".")
        status, _, complaints = process.end()
    expected = (0, TERMINATED) if is_ended_in_order else (-number, "")
    assert (status, complaints) == expected
    assert not (tmp_path / "report.html").exists()


# --- SIGHUP, which reopens files ---------------------------------------------------------------


class _Polls:
    """A poll that ends the input once nothing is ready, and fails if it would spin."""

    def __init__(self, end_input: Callable[[], None]) -> None:
        self._poll = real_poll()
        self._end_input = end_input
        self.register, self.unregister = self._poll.register, self._poll.unregister
        self._left = 50

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        self._left -= 1
        assert self._left, "it polls in a loop without ever waiting"
        ready = self._poll.poll(0)
        if not ready:
            self._end_input()
        return ready


real_poll = select.poll


@pytest.mark.parametrize("late", [signal.SIGHUP, signal.SIGWINCH])
def test_poll_waits_again_after_a_signal_at_any_time(
    late: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after one that comes just when the self-pipe has been emptied."""
    reopened = []
    outputs = _Kept()
    monkeypatch.setattr(outputs, "reopen", lambda: reopened.append(1))
    monkeypatch.setattr(Outputs, "are_of_use", True)
    input_fd, end_fd = os.pipe()
    monkeypatch.setattr(
        "blkiomon.commands.run.select.poll", lambda: _Polls(lambda: os.close(end_fd))
    )
    read = os.read
    is_sent = False

    def read_and_signal(fd: int, n_bytes: int) -> bytes:
        nonlocal is_sent
        data = read(fd, n_bytes)
        if fd == stop.fd and not is_sent:
            is_sent = True
            os.kill(os.getpid(), late)
        return data

    monkeypatch.setattr("blkiomon.commands.run.os.read", read_and_signal)
    old = signal.signal(signal.SIGWINCH, lambda number, frame: None)
    pipeline = Pipeline(Config(interval_s=1000), outputs)
    try:
        with StopSignals(lambda: None, [signal.SIGHUP], reopens=True) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            done = _read(pipeline, WallClock(1000), input_fd, stop, outputs)
    finally:
        signal.signal(signal.SIGWINCH, old)
        os.close(input_fd)
    assert done == (True, b"")
    assert len(reopened) == (2 if late == signal.SIGHUP else 1)
