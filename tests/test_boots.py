"""Traces of several boots or hosts, whose clocks began at different times."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import runner
from test_sources import reader
from tracewriter import HOST, Record, complete, encode, issue, lost_mark, notify_timestamp

import blkiomon
from blkiomon.sources.merger import Merger

S, MS = 10**9, 10**6
DAY_S = 1_790_000_000


def boot(up_s: int, day_s: int, sector: int, *, note: bool = True) -> list[Record]:
    """A request of 1 ms, one second after tracing began, at this uptime and time of day."""
    begin_ns = up_s * S
    records = [notify_timestamp(begin_ns, day_s, 0)] if note else []
    records.append(issue(begin_ns + S, sector, 4096))
    return [*records, complete(begin_ns + S + MS, sector, 4096)]


def write(path: Path, records: list[Record], version: int = 7, byteorder: str = HOST) -> Path:
    path.write_bytes(encode(records, version, byteorder))
    return path


def two_boots(directory: Path) -> tuple[Path, Path]:
    """Traces of two boots, the second a minute after the first."""
    a = write(directory / "a", boot(1000, DAY_S, 8))
    return a, write(directory / "b", boot(50, DAY_S + 60, 16))


@pytest.mark.parametrize("version", [7, 8])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_each_boot_has_its_own_time_of_day(tmp_path: Path, version: int, byteorder: str) -> None:
    def written(name: str, up_s: int, day_s: int) -> Path:
        note = notify_timestamp(up_s * S, day_s, 0, byteorder)
        records = [note, *boot(up_s, 0, 8, note=False)]
        return write(tmp_path / name, records, version, byteorder)

    a, b = written("a", 1000, DAY_S), written("b", 50, DAY_S + 60)
    for paths in ([a, b], [b, a]):
        result = runner.call("-I10", "--json", "-", *paths)
        assert result.returncode == 0
        assert result.stderr.decode() == (
            f"blkiomon: {a} and {b} are of different boots or hosts: they are merged by "
            "their time of day\n"
        )
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        counts = [(line["start_ns"] // S - DAY_S, line["total"]["requests"]) for line in lines]
        # The first issue comes a second after the note.
        assert counts == [(at, int(at in (1, 61))) for at in range(1, 71, 10)]


def test_boots_are_ordered_by_the_time_of_day(tmp_path: Path) -> None:
    a = write(tmp_path / "a", boot(1000, DAY_S, 8))
    b = write(tmp_path / "b", boot(50, DAY_S + 3600, 16))
    for options, n_requests in ((["--from=3500"], 1), (["--to=3500"], 1), ([], 2)):
        result = runner.call("-I100000", "--json", "-", *options, a, b)
        (line,) = map(json.loads, result.stdout.splitlines())
        assert line["total"]["requests"] == n_requests


def test_sets_of_one_run_keep_their_times(tmp_path: Path) -> None:
    """Timestamps of several devices differ by how much the clock is adjusted."""
    write(tmp_path / "sda.blktrace.0", boot(1000, DAY_S, 8))
    write(tmp_path / "sda.blktrace.1", boot(1000, 0, 16, note=False))
    records = boot(1002, 0, 24, note=False)
    note = notify_timestamp(1002 * S, DAY_S + 2, 900 * MS)
    write(tmp_path / "sdb.blktrace.0", [note, *records])
    output = runner.succeed("-I100", "--json", "-", tmp_path)
    (line,) = map(json.loads, output.splitlines())
    assert (line["duration_s"], line["total"]["requests"]) == (2.001, 3)


def test_timestamp_of_one_member_is_that_of_its_set(tmp_path: Path) -> None:
    write(tmp_path / "a.blktrace.0", boot(1000, 0, 8, note=False))
    write(tmp_path / "a.blktrace.1", boot(1000, DAY_S, 16))
    write(tmp_path / "b.blktrace.0", boot(50, DAY_S + 60, 24))
    write(tmp_path / "b.blktrace.1", boot(50, 0, 32, note=False))
    result = runner.call("-I30", "--json", "-", tmp_path / "a", tmp_path / "b")
    assert result.returncode == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["total"]["requests"] for line in lines] == [2, 0, 2]


def test_trace_without_time_of_day_among_boots_is_refused(tmp_path: Path) -> None:
    a, b = two_boots(tmp_path)
    c = write(tmp_path / "c", boot(50, 0, 24, note=False))
    result = runner.call("-I10", "--json", "-", a, b, c)
    assert result.returncode == 3
    assert result.stderr.decode() == (
        f"blkiomon: {c} does not contain the time of day, and the other files are of several "
        "boots or hosts: read it alone\n"
    )
    for files in ([a, c], [c, a]):
        result = runner.call("-I10", "--json", "-", *files)
        assert result.returncode == 0
        said = f"{c} does not contain the time of day: it is taken to be of the same boot as {a}\n"
        assert said in result.stderr.decode()


def test_library_and_report_have_the_same_times(tmp_path: Path) -> None:
    a, b = two_boots(tmp_path)
    whole = blkiomon.summarize([a, b])
    assert (whole.duration_s, whole.total.requests) == (60.001, 2)
    done = runner.call("report", "-o", tmp_path / "x.html", a, b)
    assert done.returncode == 0
    page = (tmp_path / "x.html").read_text()
    assert f'"start_ns":{whole.start_ns},"end_ns":{whole.end_ns}' in page


def test_loss_marks_keep_their_place(tmp_path: Path) -> None:
    first = encode(boot(1000, DAY_S, 8))
    (tmp_path / "a").write_bytes(first + lost_mark(0, 5) + encode([issue(1085 * S, 24, 4096)]))
    b = write(tmp_path / "b", boot(50, DAY_S + 60, 16))
    result = runner.call("-I30", "--json", "-", tmp_path / "a", b)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["unseen"]["lost_events"] for line in lines] == [0, 0, 5]


def test_slow_pipe_among_traces_is_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    a = write(tmp_path / "a", boot(1000, DAY_S, 8))
    data = encode(boot(50, DAY_S + 60, 16))

    def feed() -> None:
        with fifo.open("wb", buffering=0) as file:
            for at in range(len(data)):
                file.write(data[at : at + 1])

    writer = threading.Thread(target=feed)
    writer.start()
    result = runner.call("-I1000", "--json", "-", a, fifo)
    writer.join()
    assert json.loads(result.stdout)["total"]["requests"] == 2


def requests(begin_s: int, n: int) -> list[Record]:
    """So many requests, one every 10 ms, each 1 ms long."""
    times_ns = [begin_s * S + i * 10 * MS for i in range(n)]
    pairs = [(issue(at, at // MS, 4096), complete(at + MS, at // MS, 4096)) for at in times_ns]
    return [record for pair in pairs for record in pair]


@pytest.mark.parametrize("ends_early", [True, False])
@pytest.mark.parametrize("version", [7, 8])
def test_time_that_goes_back_is_reported(tmp_path: Path, version: int, ends_early: bool) -> None:
    """Of two traces in one file, all outputs have the same duration, and all say so."""
    # Either the second begins 990 s before the first, or a jump back of 6 s is made up for.
    second_s, back_s, last_s = (10, 995.0, 1004.991) if ends_early else (999, 6.0, 1005.991)
    first, second = requests(1000, 500), requests(second_s, 500 if ends_early else 700)
    path = write(tmp_path / "a", first + second, version)
    note = (
        f"time goes back by {back_s:,.1f} s: rates and times may be wrong, as records are out of "
        "order or of several traces; read each trace by itself"
    )
    duration_s = last_s - 1000
    for length in ("1", "2", "5", "100"):
        result = runner.call("-I", length, "--json", "-", path)
        assert result.stderr.decode() == f"blkiomon: {note}\n"
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert sum(line["duration_s"] for line in lines) == pytest.approx(duration_s)
        assert sum(line["total"]["requests"] for line in lines) == (len(first) + len(second)) // 2
    result = runner.call(path)
    assert result.stderr.decode() == f"blkiomon: {note}\n"
    assert f": {duration_s:.2f} s;" in result.stdout.decode()
    assert f"A: {note}\nB: {note}\n" in runner.succeed("compare", path, path).decode()
    with pytest.warns(UserWarning, match=note):
        assert blkiomon.summarize(path).duration_s == pytest.approx(duration_s)


def test_time_that_goes_back_is_the_same_in_pieces_of_any_size() -> None:
    data = encode([issue(at * MS, at, 512) for at in (0, 5000, 9000, 2500, 8500, 7000)] * 100)
    for size in (1, 47, 480, 10_000):
        monitor = blkiomon.Monitor(None)
        for begin in range(0, len(data), size):
            monitor.feed(data[begin : begin + size])
        (whole,) = monitor.finish()
        assert whole.end_ns == 9 * S
        assert "goes back by 9.0 s" in (monitor.disorder or "")


def test_request_in_flight_does_not_age_by_how_far_time_goes_back() -> None:
    data = encode([*requests(1000, 500), *requests(10, 500), issue(15 * S, 8, 512)])
    with pytest.warns(UserWarning, match="goes back"):
        load = blkiomon.summarize(data).total.in_flight
    assert load is not None
    assert (load.end, load.oldest_ns, load.max) == (1, 0, 1)
    assert load.mean == pytest.approx(1000 * MS / load.duration_ns)


def test_original_options_do_not_report_time_that_goes_back(tmp_path: Path) -> None:
    path = write(tmp_path / "a", requests(1000, 5) + requests(10, 5))
    result = runner.call("-I", "100", "-h", "-", stdin=path.read_bytes())
    assert (result.returncode, result.stderr) == (0, b"")


def test_merger_shifts_times_and_nothing_else() -> None:
    one, two = encode(boot(5, DAY_S, 8)), encode(boot(5, DAY_S, 16))
    merger = Merger(["one", "two"], [reader(one), reader(two)], window_bytes=1000)
    assert merger.peek([True, False]) == [one, two]
    merger.shift([10 * S, 0])
    expected = encode([r._replace(time_ns=r.time_ns + 10 * S) for r in boot(5, DAY_S, 8)])
    assert bytes(merger.read()) == two + expected
    for refused in (lambda: merger.peek([True, True]), lambda: merger.shift([1, 1])):
        with pytest.raises(ValueError, match="before the first read"):
            refused()
