"""The command on trace files, as a user runs it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import os
import pty
import re
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import goldenfiles
import numpy as np
import pyarrow.parquet as pq
import pytest
import runner
import tracewriter as tw
import zstandard
from runner import TERMINATED, Running, read_counts, succeed
from test_monitor import S, anchored, pair, steady
from tracewriter import encode, issue

import blkiomon
from blkiomon import to_dict
from blkiomon.commands import cli
from blkiomon.commands.config import Config
from blkiomon.commands.options import UsageError
from blkiomon.commands.report.collect import collect
from blkiomon.engine import layout
from blkiomon.interval.incomplete import Incomplete
from blkiomon.sources import devices

TRACE = goldenfiles.TRACES / "loop-multi-dc.bin"
N_REQUESTS = 47_637
STEADY = encode(steady(25))
COUNTS = [10, 10, 5]
STDIN: tuple[tuple[str, ...], ...] = ((), ("-",))
"""Ways to name standard input: by no argument, or by a dash."""


def lines_of(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def json_of(*arguments: str | Path, **options: Any) -> list[dict[str, Any]]:
    return lines_of(succeed("--json", "-", *arguments, **options))


def counts(lines: Sequence[dict[str, Any]]) -> list[int]:
    return [line["total"]["requests"] for line in lines]


def bad(*arguments: str | Path, stdin: Any = b"") -> tuple[bytes, str]:
    """Standard output and standard error of a run that fails."""
    result = runner.call(*arguments, stdin=stdin)
    # With -I alone, the exit status is that of the original.
    assert result.returncode == (1 if len(arguments) == 2 else 3)
    assert b"Traceback" not in result.stderr
    return result.stdout, result.stderr.decode()


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """25 requests in 2.4 seconds."""
    path = tmp_path / "trace.bin"
    path.write_bytes(STEADY)
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Sets of two devices, each of two CPUs."""
    where = tmp_path / "sets"
    where.mkdir()
    records = steady(25)
    for cpu in (0, 1):
        (where / f"sda.blktrace.{cpu}").write_bytes(encode(records[cpu::2]))
        of_sdb = [
            r for i in range(25) for r in pair(5 * S + i * 100 * 10**6, 8, device=8 << 20 | 16)
        ]
        (where / f"sdb.blktrace.{cpu}").write_bytes(encode(of_sdb[cpu::2]))
    return where


# -- what is read ----------------------------------------------------------------------------------


def test_text_of_a_file_counts_time_from_the_first_record(trace: Path) -> None:
    output = succeed("-I", "1", trace)
    assert read_counts(output) == COUNTS
    times = re.findall(rb"^time: (.*)$", output, re.MULTILINE)
    assert times == [b"%s s after the first record" % t for t in (b"1.000", b"2.000", b"2.401")]


@pytest.mark.usefixtures("utc")
def test_text_of_a_file_with_a_timestamp_has_the_time_of_day(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(encode(anchored()))
    output = succeed("-I", "1", tmp_path / "t")
    times = re.findall(rb"^time: (.*)$", output, re.MULTILINE)
    assert times == [b"Tue Nov 14 22:13:%d 2023" % s for s in (21, 22, 22)]


@pytest.mark.parametrize("packing", [gzip, lzma, zstandard])
def test_compressed_files_and_pipes_are_unpacked(packing: Any, trace: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(packing.compress(STEADY))
    expected = succeed("-I", "1", trace)
    assert succeed("-I", "1", packed) == expected
    for arguments in STDIN:
        with packed.open("rb") as file:
            assert succeed("-I", "1", *arguments, stdin=file) == expected
        through_pipe = succeed("-I", "1", "--clock", "trace", *arguments, stdin=packed.read_bytes())
        assert through_pipe == expected


def test_compressed_fifo_is_read_to_its_end(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    packed = gzip.compress(STEADY)
    with Running("-I", "1", "--clock", "trace", "--json", "-", fifo).started() as process:
        with fifo.open("wb", buffering=0) as writer:
            for at in range(0, len(packed), 100):
                writer.write(packed[at : at + 100])
                time.sleep(0.01)  # so that it has to wait for more
        output = process.succeed()
    assert counts(lines_of(output)) == COUNTS


@pytest.mark.parametrize("is_named", [False, True], ids=["pipe", "file"])
def test_compressed_input_that_is_cut_counts_what_was_read(is_named: bool, trace: Path) -> None:
    cut = gzip.compress(STEADY)[:-9]
    trace.write_bytes(cut)
    output, said = bad("-I", "1", trace) if is_named else bad("-I", "1", stdin=cut)
    name = trace if is_named else "standard input"
    assert said.startswith(f"blkiomon: bad trace: {name}: ") and said.count("\n") == 1
    assert sum(read_counts(output)) > 0


def test_compressed_pipe_ends_on_a_signal() -> None:
    with Running("-I", runner.LONG).started() as process:
        process.write(gzip.compress(STEADY)[:-9])
        process.await_read()
        process.succeed(signal.SIGTERM, said=TERMINATED)


def test_file_on_standard_input_is_read_as_a_named_one(trace: Path) -> None:
    for arguments in STDIN:
        with trace.open("rb") as file:
            assert succeed("-I", "1", *arguments, stdin=file) == succeed("-I", "1", trace)
        with trace.open("rb") as file:
            file.seek(960)
            assert read_counts(succeed("-I", "1", *arguments, stdin=file)) == [10, 5]


def test_pipe_is_read_by_the_wall_clock() -> None:
    for arguments in STDIN:
        (line,) = json_of("-I", runner.LONG, "--clock=wall", *arguments, stdin=STEADY)
        assert (line["clock"], line["anchored"], line["total"]["requests"]) == ("wall", True, 25)


def test_clock_is_what_is_asked_for(trace: Path) -> None:
    lines = json_of("-I", "1", "--clock", "trace", stdin=STEADY)
    assert lines == json_of("-I", "1", trace)
    assert {line["clock"] for line in lines} == {"trace"}
    (line,) = json_of("-I", runner.LONG, "--clock=wall", trace)
    assert (line["clock"], line["total"]["requests"]) == ("wall", 25)


def test_standard_input_is_merged_with_files(directory: Path, trace: Path) -> None:
    with trace.open("rb") as file:
        lines = json_of("-I", "1", directory / "sdb", "-", stdin=file)
    assert counts(lines) == [20, 20, 10]


def until_now() -> bytes:
    """What a tracer of this host would bring of the last 2.5 s."""
    return encode(steady(25, start_ns=time.monotonic_ns() - 25 * S // 10))


def test_fifo_is_live_and_ends_with_its_writer(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Running("-I", "0.1", "--json", "-", fifo).started() as process:
        with fifo.open("wb", buffering=0) as writer:
            writer.write(until_now())
            process.read_until(lambda data: b'"requests":25' in data)
            writer.write(until_now())
        output = process.succeed()
    assert sum(counts(lines_of(output))) == 50
    assert {line["clock"] for line in lines_of(output)} == {"wall"}


@pytest.mark.parametrize(("n_fifos", "has_writer"), [(1, False), (1, True), (2, False)])
def test_fifos_end_on_a_signal(n_fifos: int, has_writer: bool, tmp_path: Path) -> None:
    fifos = [tmp_path / str(n) for n in range(n_fifos)]
    for fifo in fifos:
        os.mkfifo(fifo)
    with ExitStack() as stack:
        process = stack.enter_context(Running("-I", runner.LONG, *fifos).started())
        if has_writer:
            stack.enter_context(fifos[0].open("wb", buffering=0)).write(STEADY)
        output = process.succeed(signal.SIGTERM, said=TERMINATED)
    assert read_counts(output) == ([25] if has_writer else [])


def test_fifos_are_merged_in_whichever_order_their_writers_come(tmp_path: Path) -> None:
    fifos = [tmp_path / "one", tmp_path / "two"]
    for fifo in fifos:
        os.mkfifo(fifo)
    records = steady(25)
    with Running("-I", "1", "--clock", "trace", "--json", "-", *fifos).started() as process:
        for cpu in (1, 0):  # the one that is read later first
            with fifos[cpu].open("wb") as writer:
                writer.write(encode(records[cpu::2]))
        output = process.succeed()
    assert counts(lines_of(output)) == COUNTS


# -- the same bytes, the same output ---------------------------------------------------------------


def test_same_bytes_give_the_same_output(tmp_path: Path) -> None:
    named = ["-h", "h", "-b", "b", "-D", "D", "--json", "j", "--csv", "c"]
    outputs = []
    for number in range(2):
        where = tmp_path / str(number)
        where.mkdir()
        succeed("-I", "0.5", *named, TRACE, cwd=where)
        outputs.append({path.name: path.read_bytes() for path in where.iterdir()})
    assert outputs[0] == outputs[1]
    assert {name: bool(data) for name, data in outputs[0].items()} == dict.fromkeys("hbDjc", True)


# -- what is missing or damaged --------------------------------------------------------------------


def test_missing_cpu_is_reported_and_the_rest_is_right(tmp_path: Path) -> None:
    records = steady(30)
    for cpu in (0, 1, 3):
        of_cpu = [r for i in range(cpu, 30, 4) for r in records[2 * i : 2 * i + 2]]
        (tmp_path / f"sda.blktrace.{cpu}").write_bytes(encode(of_cpu))
    result = runner.call("-I", "1", "--json", "-", tmp_path / "sda")
    stem = f"{tmp_path}/sda.blktrace"
    assert result.returncode == 0
    assert result.stderr.decode() == (
        f"blkiomon: {stem}.2 is missing between {stem}.1 and {stem}.3\n"
        "blkiomon: incomplete: 1 per-CPU file of the trace missing\n"
    )
    kept = [r for i in range(30) if i % 4 != 2 for r in records[2 * i : 2 * i + 2]]
    (tmp_path / "kept").write_bytes(encode(kept))
    lines = lines_of(result.stdout)
    missing = [line.pop("incomplete") for line in lines]
    assert missing == [[{"reason": "missing_files", "count": 1, "share": None}]] * len(lines)
    whole = json_of("-I", "1", tmp_path / "kept")
    assert [line.pop("incomplete") for line in whole] == [[]] * len(whole)
    assert lines == whole


def test_missing_cpu_makes_whatever_reads_it_incomplete(tmp_path: Path) -> None:
    records = steady(10)
    (tmp_path / "sda.blktrace.0").write_bytes(encode(records[:10]))
    (tmp_path / "sda.blktrace.3").write_bytes(encode(records[10:]))
    path = tmp_path / "sda"
    with pytest.warns(UserWarning, match="are missing between"):
        summary = blkiomon.summarize(path)
    with pytest.warns(UserWarning, match="are missing between"):
        intervals = list(blkiomon.intervals(path, 0.3))
    with pytest.warns(UserWarning, match="are missing between"):
        by_the_wall = list(blkiomon.intervals(path, clock="wall"))
    found = collect([str(path)])
    for item in (summary, *intervals, *by_the_wall, *found.slices, found.whole):
        assert item.missing_files == 2
        assert item.incomplete[0] == Incomplete("missing_files", 2)
    assert len(intervals) > 1


# -- padding ---------------------------------------------------------------------------------------


def padded_by(name: str | Path) -> str:
    """The message about zeros at the end."""
    return (
        f"blkiomon: {name}: skipped 524256 bytes of zeros, which blktrace may write when it stops; "
        "nothing is lost\n"
    )


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """A set of which two files end with the zeros that blktrace may write when it stops."""
    records = steady(25)
    for cpu, zeros in ((0, 0), (1, 524_256 - 4096), (2, 4096)):
        data = b"".join(encode(records[2 * i : 2 * i + 2]) for i in range(cpu, 25, 3))
        (tmp_path / f"sda.blktrace.{cpu}").write_bytes(data + bytes(zeros))
    return tmp_path / "sda"


@pytest.mark.parametrize("options", [(), ("--resync",)])
def test_zeros_at_the_end_of_members_are_padding(
    padded: Path, trace: Path, options: tuple[str, ...]
) -> None:
    result = runner.call("-I", "1", "--json", "-", *options, padded)
    assert (result.returncode, result.stderr.decode()) == (0, padded_by("3 files of sda"))
    assert lines_of(result.stdout) == json_of("-I", "1", trace)


@pytest.mark.parametrize("by", [1 << 20, 47, 4095])
def test_zeros_at_the_end_of_a_pipe_are_padding(trace: Path, by: int) -> None:
    expected = json_of("-I", "1", trace)
    data = STEADY + bytes(524_256)
    with Running("-I", "1", "--clock", "trace", "--json", "-") as process:
        for at in range(0, 10_000, by):  # the last record and the first zeros are cut, too
            process.write(data[at : min(at + by, 10_000)])
            process.await_read()
        process.write(data[10_000:])
        status, output, said = process.end()
    assert (status, said, lines_of(output)) == (0, padded_by("standard input"), expected)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_zeros_at_the_end_of_a_file_are_padding(trace: Path, pack: Any) -> None:
    expected = json_of("-I", "1", trace)
    trace.write_bytes(pack(STEADY + bytes(524_256)))
    result = runner.call("-I", "1", "--json", "-", trace)
    assert (result.returncode, result.stderr.decode()) == (0, padded_by(trace))
    assert lines_of(result.stdout) == expected


def test_padding_changes_no_output_of_the_original(padded: Path, trace: Path) -> None:
    for option in ("-h", "-b", "-D"):
        assert succeed("-I", "1", option, "-", padded) == succeed("-I", "1", option, "-", trace)


def test_padding_does_not_make_an_interval_incomplete(padded: Path, trace: Path) -> None:
    summary = blkiomon.summarize(padded)
    assert to_dict(summary) == to_dict(blkiomon.summarize(trace))
    assert (summary.incomplete, summary.counts.skipped_bytes) == ((), 0)
    found = collect([str(padded)])
    assert (found.notes, found.is_broken, found.whole.incomplete) == ((), False, ())


def test_truncated_file_of_a_set_is_reported_and_the_rest_counts(directory: Path) -> None:
    path = directory / "sda.blktrace.1"
    path.write_bytes(path.read_bytes()[:-10])
    output, said = bad("-I", "1", "--json", "-", directory)
    assert said == (
        f"blkiomon: bad trace: {path}: at byte offset 1152: found the end of the file "
        "38 bytes into a record, expected 48 bytes at least\n"
    )
    assert counts(lines_of(output)) == [20, 20, 9]


def test_garbage_names_the_file_and_where(trace: Path) -> None:
    trace.write_bytes(STEADY + b"garbage" * 20)
    output, said = bad("-I", "1", trace)
    assert re.fullmatch(
        rf"blkiomon: bad trace: {re.escape(str(trace))}: at byte offset 2400: found .*\n", said
    )
    assert read_counts(output) == COUNTS
    for arguments in STDIN:
        with trace.open("rb") as file:
            output, said = bad("-I", "1", *arguments, stdin=file)
        assert re.fullmatch(r"blkiomon: bad trace: at byte offset 2400: found .*\n", said)
        assert read_counts(output) == COUNTS


@pytest.mark.parametrize("locked", ["sda.blktrace.0", "sda.blktrace.1", "."])
def test_file_without_permission_is_reported(locked: str, directory: Path) -> None:
    (directory / locked).chmod(0)
    result = runner.run("-I1", directory / "sda.blktrace.0", command=runner.BOUND_COMMAND)
    path = directory / ("sda.blktrace.0" if locked == "." else locked)
    said = f"blkiomon: cannot open {path}: Permission denied\n"
    assert (result.returncode, result.stderr.decode()) == (3, said)
    (directory / locked).chmod(0o700)


def test_lost_marks_at_the_end_of_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "sda.blktrace.0").write_bytes(STEADY + tw.lost_mark(0, 3))
    (tmp_path / "sda.blktrace.1").write_bytes(tw.lost_mark(1, 4))
    result = runner.call("-I", "1", "--json", "-", tmp_path)
    assert result.stderr == b"blkiomon: incomplete: 12 % of events were lost while tracing\n"
    lines = lines_of(result.stdout)
    assert sum(line["unseen"]["lost_events"] for line in lines) == 7


# -- filters ---------------------------------------------------------------------------------------


def test_device_is_selected_by_number(directory: Path) -> None:
    for name in ("8:16", "8,16"):
        lines = json_of("-I", "1", "--device", name, directory)
        assert [[d["device"] for d in line["devices"]] for line in lines] == [["8:16"]] * 3
        assert counts(lines) == COUNTS
    lines = json_of("-I", "1", "--device", "8:16", "--device=8:0", directory)
    assert counts(lines) == [20, 20, 10]


def host_device() -> tuple[str, int] | None:
    """A device of this host, if it has one that the trace writer can name."""
    for path in sorted(Path("/sys/class/block").glob("*")):
        number = devices.device_number(path.name)
        if number is not None and devices.device_name(number) == path.name:
            return path.name, number
    return None


def test_device_is_selected_by_name(tmp_path: Path) -> None:
    found = host_device()
    if found is None:
        pytest.skip("this host has no block device")
    name, number = found
    records = [*pair(S, device=number), *pair(2 * S, device=number ^ 1 << 20)]
    (tmp_path / "t").write_bytes(encode(records))
    (line,) = json_of("-I", "9", "--device", name, "--names=yes", tmp_path / "t")
    assert [d["name"] for d in line["devices"]] == [name]
    (line,) = json_of("-I", "9", "--device", name, tmp_path / "t")
    assert [d["name"] for d in line["devices"]] == [None]  # perhaps of another host
    (line,) = json_of("-I", "9", "--clock=wall", stdin=encode(records))
    assert name in [d["name"] for d in line["devices"]]
    (line,) = json_of("-I", "9", "--clock=wall", "--names=no", stdin=encode(records))
    assert {d["name"] for d in line["devices"]} == {None}


def test_device_name_gives_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sdb").mkdir()
    (tmp_path / "sdb" / "dev").write_text("8:16\n")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "dev").write_text("nonsense\n")
    assert devices.device_number("sdb", tmp_path) == 8 << 20 | 16
    for name in ("sdc", "odd", "", "..", "/dev/null", "/nowhere/at/all", "a\0b"):
        assert devices.device_number(name, tmp_path) is None, name
    monkeypatch.setattr(devices.device_number, "__defaults__", (tmp_path,))
    config = cli.parse(["-I1", "--device", "sdb", "--device", "7:1"])
    assert isinstance(config, Config)
    assert config.selection.devices == (8 << 20 | 16, 7 << 20 | 1)
    with pytest.raises(UsageError, match="no block device 'sdx'"):
        cli.parse(["-I1", "--device", "sdx"])


@pytest.mark.usefixtures("utc")
def test_from_and_to_select_a_period(trace: Path, tmp_path: Path) -> None:
    lines = json_of("-I", "1", "--from", "0.5", "--to", "2", trace)
    assert counts(lines) == [10, 5]
    assert [(line["start_ns"], line["end_ns"]) for line in lines] == [
        (S // 2, 3 * S // 2),
        (3 * S // 2, 2 * S),
    ]
    (tmp_path / "t").write_bytes(encode(anchored()))
    times = ["--from", "2023-11-14T22:13:21", "--to", "2023-11-14T22:13:22.25"]
    lines = json_of("-I", "1", *times, tmp_path / "t")
    assert [line["start"] for line in lines] == [
        "2023-11-14T22:13:21.000000000Z",
        "2023-11-14T22:13:22.000000000Z",
    ]
    assert counts(lines) == [10, 2]
    output, said = bad("-I", "1", *times, trace)
    assert read_counts(output) == []
    assert "no time of day at the beginning of the trace" in said and str(trace) in said


def test_from_and_to_select_a_period_of_a_pipe() -> None:
    lines = json_of("-I", "1", "--clock=trace", "--from=1", "--to=2", stdin=STEADY)
    assert counts(lines) == [10]
    (line,) = json_of("-I", runner.LONG, "--clock=wall", "--from=1", "--to=2", stdin=STEADY)
    assert line["total"]["requests"] == 10


# -- outputs ---------------------------------------------------------------------------------------


def test_all_outputs_of_one_run_agree(tmp_path: Path) -> None:
    names = {n: tmp_path / n for n in ("h", "b", "json", "csv", "parquet")}
    options = [x for n, p in names.items() for x in (f"{'-' * (1 + (len(n) > 1))}{n}", str(p))]
    assert succeed("-I", "1", *options, TRACE) == b""
    lines = lines_of(names["json"].read_bytes())
    rows = list(csv.DictReader(io.StringIO(names["csv"].read_text())))
    table = pq.read_table(names["parquet"]).to_pylist()
    of_all = [int(r["requests"]) for r in rows if (r["device"], r["op"]) == ("all", "all")]
    assert counts(lines) == of_all
    assert sum(counts(lines)) == N_REQUESTS
    assert len(rows) == len(table)
    for row, other in zip(rows, table):
        assert (row["device"], row["op"]) == (other["device"], other["op"])
        assert row["d2c_p99_ns"] == (
            "" if other["d2c_p99_ns"] is None else str(other["d2c_p99_ns"])
        )
        assert int(row["bytes"]) == other["bytes"]
    assert read_counts(succeed("decode", names["b"])) == read_counts(names["h"].read_bytes())


@pytest.mark.parametrize("option", ["--json", "--csv", "-h"])
def test_standard_output_is_what_a_file_would_get(option: str, tmp_path: Path) -> None:
    succeed("-I", "1", option, tmp_path / "out", TRACE)
    assert succeed("-I", "1", option, "-", TRACE) == (tmp_path / "out").read_bytes()


def test_json_and_text_share_standard_output(trace: Path) -> None:
    output = succeed("-I", "1", "--json", "-", "-h", "-", trace)
    assert counts(lines_of(b"\n".join(re.findall(rb"^\{.*\}$", output, re.MULTILINE)))) == COUNTS
    assert read_counts(output) == COUNTS


# -- being stopped ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_a_long_file_leaves_no_gap(number: int, tmp_path: Path) -> None:
    # Reading the file waits for an output that nobody reads, until the signal comes.
    raw = np.frombuffer(TRACE.read_bytes(), layout.TRACE_V7.newbyteorder("<"))
    long = tmp_path / "long"
    with long.open("wb") as file:
        for k in range(5):
            later = raw.copy()
            later["time"] += np.uint64(k * 4 * S)
            file.write(later.tobytes())
    with Running("-I", "0.001", "--json", "-", long).started() as process:
        process.read_until(lambda seen: seen.count(b"\n") > 3)
        output = process.succeed(number, said=TERMINATED)
    lines = lines_of(output)
    assert 10 < len(lines) < 10_000
    # Nothing is missing in between.
    assert [line["start_ns"] for line in lines[1:]] == [line["end_ns"] for line in lines[:-1]]


def test_signal_ends_a_run_whose_output_nobody_reads(tmp_path: Path) -> None:
    with Running("-I", "0.001", "--json", "-", TRACE).started() as process:
        process.read_until(lambda seen: seen.count(b"\n") > 3)
        process.signal(signal.SIGTERM)
        assert process.wait() == 4
        assert re.fullmatch(
            r"blkiomon: terminated by signal\n"
            r"blkiomon: standard output did not take everything: "
            r"it lacks \d+ intervals\n",
            process.stderr,
        )


def test_signal_ends_the_wait_for_a_pipe_among_files(directory: Path) -> None:
    with Running("-I", runner.LONG, directory / "sda", "-").started() as process:
        process.write(STEADY[:960])
        time.sleep(0.2)  # so that it waits for the pipe
        before = time.monotonic()
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert time.monotonic() - before < 5
        assert process.stderr == TERMINATED


# -- progress --------------------------------------------------------------------------------------

IMPATIENT = """
import sys
from blkiomon.commands import cli, progress
progress.FIRST_S = progress.EVERY_S = 0.0
sys.exit(cli.main(sys.argv[1:]))
"""


def on_a_terminal(arguments: Sequence[str | Path], script: str = IMPATIENT) -> str:
    """What it prints on standard error, which is a terminal."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                return
            shown.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        process = runner.python(script, *arguments, stderr=theirs)
    finally:
        os.close(theirs)
        reader.join(runner.TIMEOUT_S)
        os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_bar_on_a_terminal_grows_and_goes() -> None:
    shown = on_a_terminal(["-I", "1", TRACE])
    shares = [int(n) for n in re.findall(r"\] +(\d+)% ", shown)]
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert re.search(r"\r\[#+\.*\] +\d+% \d+ MB, [\d,]+ MB/s, \d+ s left\x1b\[K", shown)
    assert shown.endswith("\r\x1b[K")


def test_short_work_shows_no_bar(trace: Path) -> None:
    patient = IMPATIENT.replace("= 0.0", "= 60.0")
    assert on_a_terminal(["-I", "1", trace], patient) == ""


def test_no_bar_where_there_is_no_terminal() -> None:
    result = runner.python(IMPATIENT, "-I", "1", TRACE)
    assert (result.returncode, result.stderr) == (0, b"")


def test_bar_of_a_compressed_file_ends_at_100_percent(tmp_path: Path) -> None:
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(TRACE.read_bytes(), 1))
    shares = [int(n) for n in re.findall(r"\] +(\d+)% ", on_a_terminal(["-I", "1", packed]))]
    assert shares[-1] == 100


# -- real traces -----------------------------------------------------------------------------------


def test_real_trace_that_is_cut_gives_what_it_has() -> None:
    path = goldenfiles.TRACES / "loop-lossy-dc.bin"
    output, said = bad("-I", "1", "--json", "-", path)
    lines = lines_of(output)
    bad_line, incomplete = said.splitlines()
    assert re.fullmatch(rf"blkiomon: bad trace: {re.escape(str(path))}: at byte .*", bad_line)
    assert incomplete.startswith("blkiomon: incomplete: 33 % of events were lost while tracing; ")
    assert sum(line["unseen"]["lost_events"] for line in lines) > 1000
    assert sum(counts(lines)) > 1000


def test_json_lists_processes_with_names_and_bytes(tmp_path: Path) -> None:
    records = [tw.notify_process(S, 7, "fio"), *pair(S, pid=7), *pair(S, 16, pid=8)]
    (tmp_path / "t").write_bytes(encode(records))
    (line,) = json_of("-I", "1", tmp_path / "t")
    assert line["processes"]["by_bytes"] == [
        {"pid": 7, "name": "fio", "requests": 1, "bytes": 4096},
        {"pid": 8, "name": None, "requests": 1, "bytes": 4096},
    ]


def test_no_final_drops_the_last_interval(trace: Path) -> None:
    assert read_counts(succeed("-I", "1", "--no-final", trace)) == [10, 10]


def test_time_jump_is_a_note_and_no_bad_trace(tmp_path: Path) -> None:
    records = [*pair(S), issue(1 << 62, 16, 512)]
    (tmp_path / "t").write_bytes(encode(records))
    result = runner.call("-I", "1", "--json", "-", tmp_path / "t")
    assert result.returncode == 0
    assert re.fullmatch(
        rb"blkiomon: \d+ intervals without a record are left out, where time jumps ahead\n"
        rb"blkiomon: incomplete: 50 % of issues have no completion\n",
        result.stderr,
    )


def test_time_jump_changes_no_output_of_the_original(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(encode([*pair(S), issue(1 << 62, 16, 512)]))
    with (tmp_path / "t").open("rb") as file:
        assert read_counts(succeed("-I", "1", "-h", "-", stdin=file)) == [1]
