"""Pipes: live and recorded traces are told apart, and each is read by its own clock."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import goldenfiles
import pytest
import runner
from runner import Running
from tracewriter import Record, complete, encode, issue, notify_process, notify_timestamp

from blkiomon.commands.recorded import HELD_BYTES, HELD_S, Beginning

S, MS = 10**9, 10**6
TRACE = goldenfiles.TRACES / "loop-phases-dc.bin"
DAY_S = 1_790_000_000
UP_S = 86_400.0
"""Begin of each test: time of day, and monotonic clock of this host."""
YEAR_S = 365 * 86_400


def pairs(first_s: float, last_s: float, number: int = 200) -> list[Record]:
    """Requests of 100 µs, evenly from one trace time to another."""
    records = []
    for i in range(number):
        at_ns = round((first_s + (last_s - first_s) * i / max(1, number - 1)) * S)
        records += [issue(at_ns, 8 * i, 4096), complete(at_ns + 100_000, 8 * i, 4096)]
    return records


class Stream:
    """A trace through a pipe, whose clocks and records a test sets.

    Args:
        interval_s: seconds of an interval.
        zero_s: trace time of the first read.
        age_s: how long before the first read that time was, by the trace's note; None: no note.
    """

    def __init__(self, interval_s: float, zero_s: float = UP_S, age_s: float | None = 0.0) -> None:
        self.now_s = 0.0
        self.zero_s = zero_s
        self.beginning = Beginning(lambda: UP_S + self.now_s, lambda: DAY_S + self.now_s)
        self.is_due = False
        self.interval_s = interval_s
        if age_s is not None:
            # The tracer was started more than an hour before.
            begun_s = zero_s - 4000
            note = notify_timestamp(round(begun_s * S), round(DAY_S - age_s - 4000), 0)
            self._add([note, notify_process(round(begun_s * S), 4711, "fio")])

    def bring(self, first_s: float, last_s: float, number: int = 200) -> None:
        """Records from one time to another, in seconds from where it began to be read."""
        self._add(pairs(self.zero_s + first_s, self.zero_s + last_s, number))

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self._look()

    def _add(self, records: list[Record]) -> None:
        if not self.is_due:
            self.beginning.add(memoryview(encode(records)))
            self._look()

    def _look(self) -> None:
        if self.beginning.pieces:
            self.is_due |= self.beginning.wait_s(self.interval_s - self.now_s) <= 0

    def live(self, first_s: float = 0.0) -> None:
        """Bring records as they happen, until the decision is due."""
        while not self.is_due:
            self.pass_time(0.05)
            self.bring(max(first_s, self.now_s - 0.05), self.now_s, 5)

    def replayed(self, speed: float) -> None:
        """Bring a trace, `speed` times as fast as it happened, until the decision is due."""
        while not self.is_due:
            self.pass_time(0.01)
            self.bring((self.now_s - 0.01) * speed, self.now_s * speed)

    @property
    def is_recorded(self) -> bool:
        return self.beginning.is_recorded(has_ended=False)

    @property
    def is_recorded_at_its_end(self) -> bool:
        return self.beginning.is_recorded(has_ended=True)


INTERVALS = [0.1, 1.0, 10.0]
HOSTS: dict[str, dict[str, Any]] = {
    "this": {},
    "this_without_note": {"age_s": None},
    "other": {"zero_s": 7_000.0},
    "other_without_note": {"zero_s": 7_000.0, "age_s": None},
    "other_whose_clock_is_wrong": {"zero_s": 7_000.0, "age_s": YEAR_S},
    "other_that_is_ahead": {"zero_s": 7_000.0, "age_s": -3600},
}
"""Hosts of a live trace: clock at the begin, and age by the note of the time of day."""


@pytest.mark.parametrize("interval_s", INTERVALS)
@pytest.mark.parametrize("host", HOSTS)
def test_live_trace_is_recognised(host: str, interval_s: float) -> None:
    stream = Stream(interval_s, **HOSTS[host])
    stream.live()
    assert not stream.is_recorded


@pytest.mark.parametrize("interval_s", INTERVALS[1:])
@pytest.mark.parametrize("host", HOSTS)
def test_live_trace_that_begins_with_a_backlog_is_live(host: str, interval_s: float) -> None:
    stream = Stream(interval_s, **HOSTS[host])
    for begin_s in (-5, -3, -1):
        stream.bring(begin_s, begin_s + 2)
    stream.live(first_s=1)
    assert not stream.is_recorded


@pytest.mark.parametrize("host", ["this", "this_without_note", "other"])
def test_live_trace_is_live_though_this_process_was_stopped_for_long(host: str) -> None:
    stream = Stream(1.0, **HOSTS[host])
    stream.bring(-3600, 0, 5000)
    stream.live()
    assert not stream.is_recorded


IDLE_HOSTS: dict[str, dict[str, Any]] = {
    **{name: HOSTS[name] for name in ("this", "this_without_note", "other")},
    "other_whose_clock_is_seconds_behind": {"zero_s": 7_000.0, "age_s": 20},
    "other_whose_clock_is_seconds_ahead": {"zero_s": 7_000.0, "age_s": -20},
}


@pytest.mark.parametrize("host", IDLE_HOSTS)
@pytest.mark.parametrize(("first_s", "last_s"), [(0, 0.1), (-1, 0), (-60, -30), (-590, -500)])
def test_live_trace_that_is_idle_after_its_backlog_is_live(
    host: str, first_s: float, last_s: float
) -> None:
    stream = Stream(1.0, **IDLE_HOSTS[host])
    stream.bring(first_s, last_s)
    stream.pass_time(1)
    assert stream.is_due and not stream.is_recorded


def test_live_trace_without_note_of_another_host_is_live_though_it_is_idle() -> None:
    stream = Stream(1.0, **HOSTS["other_without_note"])
    stream.bring(-0.8, 0)
    stream.pass_time(1)
    assert stream.is_due and not stream.is_recorded


def test_live_trace_that_ends_at_once_after_a_short_backlog_is_live() -> None:
    stream = Stream(10.0)
    stream.bring(-0.7, 0)
    stream.pass_time(1)
    stream.bring(0, 1)
    assert not stream.is_recorded_at_its_end


def test_idle_live_trace_is_recognised() -> None:
    stream = Stream(1.0)
    stream.pass_time(1)
    assert stream.is_due and not stream.is_recorded
    assert not stream.is_recorded_at_its_end


RECORDED: dict[str, dict[str, Any]] = {
    "last_year": {"zero_s": 7_000.0, "age_s": YEAR_S},
    "an_hour_ago": {"zero_s": UP_S - 3600, "age_s": 3600},
    "without_note": {"zero_s": 7_000.0, "age_s": None},
    "from_its_first_second": {"zero_s": 0.0, "age_s": None},
}


@pytest.mark.parametrize("interval_s", INTERVALS)
@pytest.mark.parametrize("trace", RECORDED)
def test_recorded_trace_is_recognised(trace: str, interval_s: float) -> None:
    stream = Stream(interval_s, **RECORDED[trace])
    stream.replayed(speed=50)
    assert stream.is_recorded


@pytest.mark.parametrize("trace", RECORDED)
def test_recorded_trace_that_comes_as_a_whole_is_recorded(trace: str) -> None:
    for seconds in (0.5, 30, 3000):
        stream = Stream(10.0, **RECORDED[trace])
        stream.bring(0, seconds)
        stream.pass_time(0.01)
        assert stream.is_recorded_at_its_end, seconds


def test_recorded_trace_that_ended_just_now_is_recorded() -> None:
    stream = Stream(1.0)
    stream.bring(-30, 0)
    stream.pass_time(0.01)
    assert stream.is_recorded_at_its_end


def test_recorded_trace_of_many_records_is_recorded_though_it_comes_hardly_faster() -> None:
    stream = Stream(1.0, zero_s=7_000.0, age_s=YEAR_S)
    stream.replayed(speed=3)
    assert stream.is_recorded


@pytest.mark.parametrize("interval_s", INTERVALS)
@pytest.mark.parametrize("trace", RECORDED)
def test_recorded_trace_whose_pipe_stays_open_is_recorded(trace: str, interval_s: float) -> None:
    for seconds in (3, 30, 1800):
        stream = Stream(interval_s, **RECORDED[trace])
        stream.bring(0, seconds)
        stream.pass_time(0.01)
        stream.pass_time(HELD_S)
        assert stream.is_due and stream.is_recorded, seconds
        assert stream.is_recorded_at_its_end


def test_notes_alone_decide_nothing() -> None:
    beginning = Beginning()
    records = [notify_process(at * S, at, "fio") for at in range(1, 5000, 100)]
    beginning.add(memoryview(encode(records)))
    assert not beginning.is_recorded(has_ended=True)
    assert not beginning.is_recorded(has_ended=False)


def test_held_time_and_bytes_are_bounded() -> None:
    stream = Stream(1000.0)
    stream.live()
    assert stream.now_s == pytest.approx(HELD_S, abs=0.1)
    beginning = Beginning(lambda: 0.0, lambda: 0.0)
    piece = memoryview(encode(pairs(0, 1, 10_000)))
    while beginning.wait_s(1000.0) > 0:
        beginning.add(piece)
    assert sum(map(len, beginning.pieces)) < HELD_BYTES + 2 * len(piece)


# -- the command -----------------------------------------------------------------------------------

SAID = (
    b"blkiomon: this trace was recorded: intervals end by its own clock (--clock wall: by this "
    b"host's)\n"
)


@pytest.fixture(scope="module")
def of_the_file() -> bytes:
    """JSON of the trace read from a file."""
    return runner.call("-I1", "--json", "-", TRACE).stdout


@pytest.mark.parametrize("pack", ["cat", "gzip -c", "xz -0c"])
def test_recorded_trace_through_a_pipe_is_as_its_file(pack: str, of_the_file: bytes) -> None:
    program, *options = pack.split()
    with subprocess.Popen([program, *options, TRACE], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        result = runner.run("-I1", "--json", "-", stdin=writer.stdout)
    assert (result.returncode, result.stderr) == (0, SAID)
    assert result.stdout == of_the_file


def test_recorded_trace_through_a_fifo_is_as_its_file(tmp_path: Path, of_the_file: bytes) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Running("-I1", "--json", "-", fifo) as process:
        with fifo.open("wb") as file:
            file.write(TRACE.read_bytes())
        assert process.end() == (0, of_the_file, SAID.decode())


@pytest.mark.parametrize("has_note", [True, False])
def test_recorded_trace_is_read_by_its_clock_while_its_pipe_stays_open(has_note: bool) -> None:
    begun_s = time.monotonic() + 86_400  # never this host's present
    note = [notify_timestamp(round(begun_s * S), round(time.time()) - 86_400, 0)] * has_note
    with Running("stat", "--json", "-", "1").started() as process:
        process.write(encode([*note, *pairs(begun_s, begun_s + 30, 3001)]))
        process.read_count(b"\n", 30)
        assert process.stderr == SAID.decode()
        intervals = runner.json_lines(process.succeed(said=SAID.decode()))
    assert {interval["clock"] for interval in intervals} == {"trace"}
    assert [interval["total"]["requests"] for interval in intervals[:30]] == [100] * 30


def test_wall_clock_is_that_of_this_host_on_request() -> None:
    before_ns = time.time_ns()
    output = runner.succeed("-I100", "--clock=wall", "--json", "-", stdin=TRACE.read_bytes())
    (line,) = map(json.loads, output.splitlines())
    assert line["clock"] == "wall" and line["start_ns"] >= before_ns


def test_options_of_the_original_keep_its_clock_and_say_nothing() -> None:
    output = runner.succeed("-I", runner.LONG, "-h", "-", stdin=TRACE.read_bytes())
    assert output.count(b"\ndevice: ") == 1
    assert b"after the first record" not in output


def test_outputs_of_a_recorded_trace_are_waited_for() -> None:
    """A queue holds 64 intervals: of a live trace, others would be dropped."""
    expected = runner.call("-I0.05", "--json", "-", TRACE).stdout
    with Running("-I0.05", "--json", "-").started() as process:
        process.write(TRACE.read_bytes())
        process.close_input()
        time.sleep(0.3)  # a reader that is slow to begin
        data = process.succeed(said=SAID.decode())
    assert expected.count(b"\n") > 3 * 64
    assert data.endswith(expected)  # idle intervals may precede


def test_bad_trace_in_held_bytes_is_reported_and_records_before_it_count() -> None:
    result = runner.call("-I1", "--json", "-", stdin=encode(pairs(1, 4)) + b"garbage" * 20)
    assert result.returncode == 3
    recorded, bad = result.stderr.splitlines(keepends=True)
    assert recorded == SAID and bad.startswith(b"blkiomon: bad trace: at byte offset 19200: ")
    requests = [json.loads(line)["total"]["requests"] for line in result.stdout.splitlines()]
    assert sum(requests) == 200


def request_at(time_ns: int) -> list[Record]:
    """One that completes then."""
    sector = time_ns // 1000
    return [issue(time_ns - MS, sector, 512), complete(time_ns, sector, 512)]


def has_printed(process: runner.Running, lines: int) -> bool:
    """Whether it has printed so many lines, soon."""
    try:
        process.read_until(lambda seen: seen.count(b"\n") >= lines, timeout_s=0.02)
    except AssertionError:
        return False
    return True


WRITERS: dict[str, Callable[[], tuple[int, int | None]]] = {
    "local": lambda: (time.monotonic_ns(), time.time_ns()),
    "other_host": lambda: (time.monotonic_ns() + 10**15, time.time_ns()),
    "without_note": lambda: (time.monotonic_ns() + 10**15, None),
}
"""Trace time and time of day at the tracer's."""


@pytest.mark.parametrize("backlog_s", [0, 5])
@pytest.mark.parametrize("writer", WRITERS)
def test_trace_of_a_live_writer_is_recognised(writer: str, backlog_s: int) -> None:
    """In real time; the tests above have a simulated clock."""
    now = WRITERS[writer]
    trace_ns, day_ns = now()
    begun_ns = trace_ns - backlog_s * S
    records = [r for at_ns in range(begun_ns, trace_ns, 10 * MS) for r in request_at(at_ns)]
    if day_ns is not None:
        records.insert(0, notify_timestamp(begun_ns, *divmod(day_ns - backlog_s * S, S)))
    with Running("-I0.4", "--json", "-").started() as process:
        process.write(encode(records))
        while not has_printed(process, 3):
            process.write(encode(request_at(now()[0])))
        data = process.succeed()
    assert {json.loads(line)["clock"] for line in data.splitlines()} == {"wall"}
