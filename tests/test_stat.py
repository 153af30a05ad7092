"""``blkiomon stat``: a line for each device and interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import goldenfiles
import pytest
import runner
import tracewriter as tw
from intervals import DM3, NAMES, SDB, Io, interval_of
from test_summary import MS, SDA, requests, write

from blkiomon.commands import naming, parsing, stat
from blkiomon.commands.config import Config
from blkiomon.commands.stat import Lines
from blkiomon.console import EXIT_INPUT, EXIT_USAGE
from blkiomon.errors import SourceError
from blkiomon.interval.value import Counts, Interval

S = 10**9
MULTI = goldenfiles.TRACES / "loop-multi-dc.bin"


pytestmark = pytest.mark.usefixtures("usual_terminal")


def printed(*arguments: runner.Argument, stdin: bytes = b"") -> list[str]:
    lines = runner.succeed("stat", *arguments, stdin=stdin).decode().splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def rows_of(lines: Sequence[str]) -> list[list[str]]:
    """The cells of each line but the heads and notes."""
    return [cells for cells in map(str.split, lines) if cells[0][-1].isdecimal()]


def test_lines_have_the_figures_of_each_device_and_second() -> None:
    lines = printed("1", MULTI)
    assert lines[0].split("in flight")[0].split() == [
        *("time", "device", "IOPS", "MB/s", "p50", "p99", "p99.9", "max"),
    ]
    rows = rows_of(lines)
    assert [row[:2] for row in rows] == [
        *([time, device] for time in ("1.0", "2.0", "3.0") for device in ("7:1", "7:2", "7:3")),
        *(["3.010", device] for device in ("7:1", "7:2")),
    ]
    assert rows[0][2:] == [
        *("16,534", "329", "1.25ms", "7.37ms", "8.45ms", "9.61ms", "29.2/32", "99%", "0")
    ]
    rest = [rows[-1][at] for at in (2, 3, 4, 8, 9)]
    assert rest == ["–", "–", "3.69ms", "–/8", "–"], "no rates of the last 8 ms"
    last = lines[0].rindex("max") + 2
    assert all(line[last] != " " for line in lines), "aligned"


def test_operations_have_their_own_lines() -> None:
    rows = rows_of(printed("-o", "500ms", "1", MULTI))
    assert [row[:3] for row in rows] == [
        *(["0.500", "7:1", op] for op in ("read", "write")),
        *(["0.500", "7:2", op] for op in ("write", "flush")),
        ["0.500", "7:3", "discard"],
    ]
    rows = rows_of(printed("--op", "flush", "--device", "7:2", "1", "2", MULTI))
    assert [row[1:3] for row in rows] == [["7:2", "flush"]] * 2


def test_json_lines_are_those_of_the_monitor() -> None:
    found = runner.succeed("stat", "--json", "1", "2", MULTI).splitlines()
    wanted = runner.succeed("-I1", "--json", "-", MULTI).splitlines()
    assert found == wanted[:2]


def test_lines_follow_the_interval_and_the_period(tmp_path: Path) -> None:
    path = write(tmp_path / "t", requests(200, MS, spacing_ns=S))
    assert [row[0] for row in rows_of(printed("1m", path))] == ["60.0", "120.0", "180.0", "199.0"]
    shown = rows_of(printed("--from", "30", "--to", "70", "20", path))
    assert [row[0] for row in shown] == ["50.0", "70.0"]


def test_count_ends_a_pipe_that_stays_open() -> None:
    with runner.Running("stat", "0.1", "3", "--op", "read") as process:
        process.write(tw.encode(requests(10, MS)))
        assert process.wait() == 0
        assert process.process.stdout is not None
        rows = rows_of(process.process.stdout.read().decode().splitlines())
    assert 1 <= len(rows) <= 3, "an interval before the first record has no line"


def test_recorded_trace_in_a_pipe_has_its_own_clock() -> None:
    result = runner.call("stat", "-", "1", stdin=MULTI.read_bytes())
    assert result.returncode == 0
    assert b"this trace was recorded" in result.stderr
    assert len(rows_of(result.stdout.decode().splitlines())) == 11, "7:3 was idle in the rest"


# --- lines of given intervals ---------------------------------------------------------------------


def lines(**options: bool) -> Lines:
    given: dict[str, Any] = {"has_ops": False, **options}
    return Lines(NAMES.get, [DM3, SDB], interval_s=1.0, **given)


def interval(*ios: Io, number: int = 0) -> Interval:
    return interval_of(ios, number * S, (number + 1) * S)


def text(made: Lines, *intervals: Interval) -> list[str]:
    return b"".join(piece for i in intervals for piece in made.render(i)).decode().splitlines()


def test_idle_devices_of_a_capture_have_lines() -> None:
    read = Io(SDB, "read", 4096, 100 * MS, MS)
    shown = rows_of(text(lines(), interval(read), interval(number=1)))
    assert [row[1] for row in shown] == ["sdb", "dm-3"] * 2
    assert shown[0][2] == "1" and shown[1][2] == shown[2][2] == "–"
    shown = rows_of(text(lines(has_ops=True), interval(read)))
    assert [row[1:3] for row in shown] == [["sdb", "read"], ["dm-3", "idle"]]


def test_device_without_the_selected_operations_is_not_called_idle() -> None:
    read = Io(SDB, "read", 4096, 100 * MS, MS)
    shown = rows_of(text(lines(has_ops=True), interval(read).only(["write"])))
    assert [row[1:3] for row in shown] == [["sdb", "none"], ["dm-3", "none"]]


def test_whole_short_trace_has_rates(tmp_path: Path) -> None:
    path = write(tmp_path / "t", requests(50, MS, spacing_ns=MS))
    ((time, _, iops, *_),) = rows_of(printed("1", path))
    assert (time, iops) == ("0.1", "1,000")


def test_what_was_lost_is_said_below_the_interval() -> None:
    quiet = replace(interval(), counts=Counts())
    lossy = replace(quiet, counts=Counts(records=300, lost_events=100))
    shown = text(lines(), lossy, quiet, lossy)
    notes = " ".join(line.removeprefix("! ").strip() for line in shown)
    for said in ("25 % of events were lost", "100 events were lost: as many", "200 events were"):
        assert said in notes
    assert notes.count("incomplete") == 2


def test_head_is_repeated_on_each_page_and_when_columns_widen() -> None:
    many = [interval(number=number) for number in range(30)]
    shown = text(lines(), *many)
    heads = [at for at, line in enumerate(shown) if "IOPS" in line]
    assert heads[0] == 0 and len(heads) >= 3
    assert all(b - a <= 23 for a, b in pairwise(heads))
    wide = [Io(SDB, "read", 4096, i, 900 * MS) for i in range(12_345)]
    assert sum("IOPS" in line for line in text(lines(), many[0], interval(*wide))) == 2


def test_requeues_have_a_column_once_there_are_any(tmp_path: Path) -> None:
    requeue = tw.Record(
        3 * S + 1, 8, 4096, tw.act(tw.READ | tw.FS | tw.REQUEUE, tw.EV_REQUEUE), SDA
    )
    again = [tw.issue(3 * S, 8, 4096), tw.issue(3 * S + 2, 8, 4096), tw.complete(4 * S, 8, 4096)]
    lines = printed(write(tmp_path / "t", requests(10, MS), again, [requeue]))
    heads = [at for at, line in enumerate(lines) if line.endswith("requeues")]
    assert lines[0].endswith("err") and len(heads) == 1
    assert [row[-1] for row in rows_of(lines[heads[0] :])] == ["1", "0"]


def test_narrow_terminal_shows_the_most_important_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for options, titles in ([], "device IOPS p99 err"), (["-o"], "device op IOPS p99"):
        shown = printed(*options, MULTI)
        assert max(map(len, shown)) <= 40
        assert shown[0].split() == ["time", *titles.split()]


@pytest.mark.parametrize("has_file", [True, False])
def test_wrong_input_has_no_head(has_file: bool, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no trace\n")
    done = runner.call("stat", *[tmp_path / "text"] * has_file)  # else standard input is empty
    assert (done.returncode, done.stdout) == (EXIT_INPUT, b"")
    assert done.stderr.startswith(b"blkiomon: ")


def test_time_is_local_if_it_is_known(utc: None) -> None:
    made = interval_of([], 1_795_000_000 * S, 1_795_000_001 * S)
    assert made.anchored
    assert text(lines(), made)[1].split()[0] == "11:06:41"


# --- words ----------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run in, with traces named like a device and like a number."""
    monkeypatch.setattr(naming, "is_device", lambda name: name in ("sda", "sdb"))
    write(tmp_path / "sda.blktrace.0", requests(10, MS))
    write(tmp_path / "5", requests(10, MS, device=SDA))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(*words: str) -> Config:
    return stat._config(parsing.read(stat.COMMAND.options, words))


def test_numbers_are_interval_and_count_wherever_they_stand(here: Path) -> None:
    for words in (["sdb", "5", "3"], ["5", "3", "sdb"], ["5s", "sdb", "3"]):
        config = config_of(*words)
        assert (config.interval_s, config.most_intervals, config.trace) == (5, 3, ("sdb",))
    config = config_of("-I", "5", "3", "sdb")
    assert (config.interval_s, config.most_intervals, config.trace) == (5, 3, ("sdb",))
    config = config_of("-f", "5")
    assert (config.interval_s, config.most_intervals, config.files) == (1, None, ("5",))
    assert config_of("./5", "0.5").files == ("./5",)


def test_this_directory_is_a_trace(here: Path) -> None:
    config = config_of(".", ".5")
    assert (config.files, config.interval_s) == ((".",), 0.5)


def test_device_wins_over_a_trace_of_its_name_and_says_so(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert config_of("sda").trace == ("sda",)
    assert capfd.readouterr().err == (
        "blkiomon: sda is a device of this host and a trace in this directory: using the device; "
        "`blkiomon ./sda` reads the trace\n"
    )
    assert config_of("./sda").files == ("./sda",)
    assert config_of("sdb").trace == ("sdb",)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1", "2", "3"], "stat takes INTERVAL and COUNT, and no third number: 3"),
        (["0"], "INTERVAL takes a number of seconds, or a time such as 500ms or 5m (units: "),
        (["1", "0"], "COUNT takes a whole number, 1 or more, not '0'"),
        (["1", "2s"], "COUNT takes a whole number, 1 or more, not '2s'"),
        (["sda", "./5"], "stat shows devices or traces, not both: sda is a device of this host"),
        (["--queue", "./5"], "--queue needs a device to capture"),
        (["--op", "reads", "./5"], "--op: unknown operation 'reads'; did you mean read?"),
        (["--op", "x", "./5"], "--op: unknown operation 'x'; use read, write, discard, "),
        (["--from", "2", "--to", "1", "./5"], "--to must be later than --from"),
        ([""], "an argument is empty: name a device or a trace"),
    ],
)
def test_wrong_words_are_refused(words: list[str], said: str, here: Path) -> None:
    result = runner.call("stat", *words)
    assert (result.returncode, result.stdout) == (EXIT_USAGE, b"")
    assert result.stderr.decode().startswith(f"blkiomon: {said}")


def test_unknown_name_is_refused(here: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot open nothing: .* no such block device"):
        config_of("nothing")
    assert runner.call("stat", "nothing").returncode == EXIT_INPUT


def test_resync_skips_damage_and_shows_what_follows(tmp_path: Path) -> None:
    phases = goldenfiles.TRACES / "loop-phases-dc.bin"
    data = phases.read_bytes()
    (tmp_path / "t").write_bytes(data[: 48 * 10_000] + b"garbage" * 100 + data[48 * 10_000 :])
    shown = runner.call("stat", "--resync", "4", tmp_path / "t")
    assert shown.returncode == 0
    figures = [line.split()[1:] for line in shown.stdout.decode().splitlines() if "7:1" in line]
    whole = runner.succeed("stat", "4", phases).decode()
    assert figures == [line.split()[1:] for line in whole.splitlines() if "7:1" in line]
