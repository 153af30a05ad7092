"""``blkiomon TRACE``: what happened in a trace, on one screen, and what stands out."""

from __future__ import annotations

import gzip
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import goldenfiles
import pytest
import runner
import tracewriter as tw
from test_sources import write_set

from blkiomon.commands import cli, naming, summary
from blkiomon.commands.report import findings
from blkiomon.commands.report.collect import RESOLUTION, collect
from blkiomon.commands.report.spans import length_ns, spans
from blkiomon.commands.table import MARK, is_supported

SDA, SDB, SDC = (8 << 20 | minor for minor in (0, 16, 32))
MS, S = 10**6, 10**9
MULTI, LOSSY, PHASES = (
    goldenfiles.TRACES / f"loop-{name}-dc.bin" for name in ("multi", "lossy", "phases")
)

pytestmark = pytest.mark.usefixtures("usual_terminal")


def requests(
    n: int, d2c_ns: int, *, start_ns: int = S, spacing_ns: int = 2 * MS, device: int = SDA
) -> list[tw.Record]:
    """Reads of one latency, at equal distances."""
    return [
        record
        for at in range(start_ns, start_ns + n * spacing_ns, spacing_ns)
        for record in (
            tw.issue(at, at >> 9, 4096, device=device),
            tw.complete(at + d2c_ns, at >> 9, 4096, device=device),
        )
    ]


def write(path: Path, *parts: Sequence[tw.Record]) -> Path:
    """A trace of these records, in the order of time."""
    records = [record for part in parts for record in part]
    path.write_bytes(tw.encode(sorted(records, key=lambda record: record.time_ns)))
    return path


def summarized(*arguments: runner.Argument, stdin: bytes = b"") -> list[str]:
    return runner.succeed(*arguments, stdin=stdin).decode().splitlines()


def table_of(lines: Sequence[str]) -> list[dict[str, str]]:
    """The rows of the table by title; a device is named in each row."""
    (at,) = (i for i, line in enumerate(lines) if line.startswith("device "))
    titles = lines[at].replace("in flight", "in_flight").split()
    rows: list[dict[str, str]] = []
    for line in lines[at + 1 :]:
        if not line or line.startswith((MARK, "…")):
            break
        cells = line.split()
        if line.startswith(" "):
            cells.insert(0, rows[-1]["device"])
        rows.append(dict(zip(titles, cells, strict=True)))
    return rows


def found_in(lines: Sequence[str]) -> list[str]:
    """The findings."""
    text = "\n".join(lines).replace("\n  ", " ")
    return re.findall(r"^- (.*)\.$", text, re.MULTILINE)


# --- what is read ---------------------------------------------------------------------------------


def test_summary_of_a_real_trace_says_when_how_long_and_who_is_slow() -> None:
    lines = summarized(MULTI)
    assert lines[0] == "loop-multi-dc.bin: 3.01 s; the trace does not contain the time of day"
    assert lines[1] == "95,366 records, 47,637 requests of 3 devices"
    assert max(map(len, lines)) <= 80
    rows = table_of(lines)
    assert [(row["device"], row["op"]) for row in rows] == [
        *(("7:2", op) for op in ("all", "write", "flush")),
        *(("7:1", op) for op in ("all", "read", "write")),
        ("7:3", "discard"),
    ]
    assert rows[4] == {
        "device": "7:1",
        "op": "read",
        "requests": "28,110",
        "IOPS": "9,337",
        "MB/s": "146",
        "p50": "1.68ms",
        "p99": "9.90ms",
        "p99.9": "19.3ms",
        "max": "30.9ms",
        "in_flight": "20.7/30",
        "err": "0",
    }


def test_every_kind_of_input_gives_the_same_figures(tmp_path: Path) -> None:
    data = MULTI.read_bytes()
    (tmp_path / "set").mkdir()
    write_set(tmp_path / "set", "sda", data)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(data, 1))
    assert runner.call("-I1", "--json", tmp_path / "stats.jsonl", MULTI).returncode == 0
    wanted = table_of(summarized(MULTI))
    for name in ("set/sda", "set/sda.blktrace.0", "set", "packed.gz", "stats.jsonl"):
        assert table_of(summarized(tmp_path / name)) == wanted, name
    assert table_of(summarized("-", stdin=data)) == wanted
    assert table_of(summarized("summary", MULTI)) == wanted


def test_ctrl_c_ends_the_writer_of_a_pipe_and_the_second_one_the_summary() -> None:
    with runner.Running("-") as process:
        process.write(tw.encode(requests(10, MS)))
        process.await_read()
        process.signal(signal.SIGINT)
        process.write(tw.encode(requests(10, MS, start_ns=2 * S)))
        status, output, complaints = process.end()
    assert (status, complaints) == (0, "")
    assert table_of(output.decode().splitlines())[0]["requests"] == "20"
    with runner.Running("-") as process:
        process.write(tw.encode(requests(10, MS)))
        process.await_read()

        def has_ended() -> bool:
            process.signal(signal.SIGINT)
            return process.process.poll() is not None

        runner.until(has_ended, "the end of the summary", pause_s=0.1)
        assert process.wait() == -signal.SIGINT


def test_ctrl_c_ends_the_summary_of_a_file_beside_an_unread_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "trace")
    for words in ([], ["summary"]):
        with runner.Running(*words, tmp_path / "trace") as process:
            with (tmp_path / "trace").open("wb"):  # waits until the summary reads it
                process.signal(signal.SIGINT)
                assert process.wait() == -signal.SIGINT


def test_file_of_the_b_option_has_no_percentiles(tmp_path: Path) -> None:
    assert runner.call("-I1", "-h", os.devnull, "-b", tmp_path / "stats", MULTI).returncode == 0
    result = runner.call(tmp_path / "stats")
    assert (result.returncode, b"hold no percentiles" in result.stderr) == (0, True)
    rows = table_of(result.stdout.decode().splitlines())
    assert all("err" not in row for row in rows), "such a file does not say which requests failed"
    assert {row["p99"] for row in rows} == {"–"} and {row["in_flight"] for row in rows} == {"–"}
    assert sum(int(r["requests"].replace(",", "")) for r in rows if r["op"] == "all") > 40_000


def test_several_traces_are_merged_and_the_first_line_says_so(tmp_path: Path) -> None:
    first = write(tmp_path / "a", requests(10, MS))
    second = write(tmp_path / "b", requests(5, MS, start_ns=2 * S))
    lines = summarized(first, second)
    assert lines[0].startswith("a, b merged: ") and table_of(lines)[0]["requests"] == "15"


def test_pattern_that_matches_a_trace_and_its_topology_means_the_trace(tmp_path: Path) -> None:
    trace = write(tmp_path / "run1.blktrace.0", requests(10, MS))
    beside = tmp_path / "run1.topology.json"
    assert runner.call("topology", "-o", beside).returncode == 0
    assert summarized(trace, beside) == summarized(trace)
    outputs = [runner.succeed("-I1", "--json", "-", *given) for given in ([trace, beside], [trace])]
    assert outputs[0] == outputs[1] != b""
    runner.succeed("report", "-o", tmp_path / "page.html", trace, beside)


@pytest.mark.parametrize("kind", ["trace", "json", "b"])
def test_trace_that_is_named_twice_counts_once(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", requests(10, MS))
    if kind != "trace":
        path = tmp_path / kind
        done = runner.call("-I", "1", f"--{kind}" if kind == "json" else "-b", path, tmp_path / "a")
        assert done.returncode == 0
    (tmp_path / "soft").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    once, *more = (  # of -b, a note says what these files do not hold
        runner.call(*paths).stdout.decode().splitlines()
        for paths in ([path], [path, path], [path, tmp_path / "soft", tmp_path / "hard"])
    )
    assert once[0].startswith(f"{path.name}: ") and table_of(once)[0]["requests"] == "10"
    assert more == [once, once]


def test_narrow_terminal_shows_the_most_important_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = summarized(MULTI)
    assert max(map(len, lines)) <= 40
    assert [*table_of(lines)[0]] == ["device", "op", "IOPS", "p99", "max", "err"]


def test_device_with_one_operation_shows_how_busy_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert table_of(summarized(MULTI))[-1]["busy"] == "14%"
    (row,) = table_of(summarized("--op", "discard", MULTI))
    assert row["busy"] == "–", "other operations may have kept it busy"


def test_time_of_day_is_local_if_the_trace_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, utc: None
) -> None:
    note = tw.notify_timestamp(S, 1_795_000_000, 0)
    path = write(tmp_path / "t", [note], requests(1000, MS))
    first = summarized(path)[0]
    assert first == "t: 2026-11-18 11:06:40 to 11:06:41 UTC, 2.00 s"


def test_options_of_the_drop_in_print_its_text() -> None:
    assert runner.succeed("-I", runner.LONG, MULTI).startswith(b"\ntime: ")
    assert b'{"schema"' in runner.succeed("-I", runner.LONG, "--json", "-", MULTI)


# --- what is shown --------------------------------------------------------------------------------


def test_incomplete_trace_says_so_first() -> None:
    result = runner.call(LOSSY)
    assert result.returncode == 3
    assert b"bad trace: loop-lossy-dc.bin: " in result.stderr.replace(
        os.fsencode(LOSSY.parent) + b"/", b""
    )
    text = result.stdout.decode()
    assert text.startswith("INCOMPLETE: 33 % of events were lost while tracing; ")
    assert "the input ends early or is damaged" in text.replace("\n", " ")


def test_percentile_of_too_few_requests_is_marked(tmp_path: Path) -> None:
    lines = summarized(write(tmp_path / "t", requests(999, MS)))
    (row,) = table_of(lines)
    assert (row["p50"], row["p99"], row["p99.9"]) == ("1.00ms", "1.00ms", "1.00ms*")
    assert "* too few requests for this percentile: the slowest is shown" in lines
    assert MARK not in "\n".join(summarized(write(tmp_path / "t", requests(1000, MS))))


def test_percentile_is_supported_if_one_request_is_above_it() -> None:
    least = {50: 2, 90: 10, 99: 100, 99.9: 1000, 99.99: 10_000}
    for percent, number in least.items():
        assert is_supported(number, percent) and not is_supported(number - 1, percent)


def test_errors_and_requeues_are_counted(tmp_path: Path) -> None:
    failed = [tw.issue(3 * S, 8, 4096), tw.complete(3 * S + MS, 8, 4096, error=5)]
    (row,) = table_of(summarized(write(tmp_path / "t", requests(10, MS), failed)))
    assert row["err"] == "1" and "requeues" not in row
    requeue = tw.Record(
        3 * S + 1, 8, 4096, tw.act(tw.READ | tw.FS | tw.REQUEUE, tw.EV_REQUEUE), SDA
    )
    again = tw.issue(3 * S + 2, 8, 4096)
    (row,) = table_of(summarized(write(tmp_path / "t", requests(10, MS), failed, [requeue, again])))
    assert row["requeues"] == "1"


def test_selected_device_operation_and_period_count_alone() -> None:
    lines = summarized("--device", "7:1", "--op", "read", "--from", "1", "--to", "2", MULTI)
    (row,) = table_of(lines)
    assert (row["device"], row["op"]) == ("7:1", "read")
    assert ": 1.00 s; " in lines[0]
    assert row["requests"] == "7,429"


def test_period_of_intervals_is_of_those_that_begin_in_it(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    assert runner.call("-I1", "--json", path, MULTI).returncode == 0
    line = runner.json_lines(path.read_bytes())[1]
    (row,) = table_of(summarized("--from", "0.5", "--to", "2", "--device", "7:3", path))
    assert int(row["requests"]) == line["devices"][-1]["requests"]
    runner.assert_fails(
        3,
        "the intervals do not contain the time of day; give --from and --to in seconds",
        *("--from", "2026-11-23T14:00:00", path),
    )


def test_many_devices_are_listed_on_demand(tmp_path: Path) -> None:
    parts = [requests(10, MS, device=8 << 20 | i << 4) for i in range(25)]
    path = write(tmp_path / "t", *parts)
    lines = summarized(path)
    assert len(table_of(lines)) == summary.MOST_DEVICES
    assert "… 5 more devices: --all lists all, --device selects" in lines
    assert len(table_of(summarized("--all", path))) == 25


def test_wider_terminal_shows_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    (head,) = (line for line in summarized(MULTI) if line.startswith("device"))
    assert {"size", "p90", "busy"} <= {*head.split()}
    monkeypatch.setenv("COLUMNS", "60")
    lines = summarized(MULTI)
    assert max(map(len, lines[3:])) <= 60 and "requests" not in table_of(lines)[0]


def test_terminal_without_utf8_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    assert "36.1us" in "\n".join(summarized(MULTI)).encode().decode("ascii")


# --- findings -------------------------------------------------------------------------------------


def test_even_run_has_no_findings(tmp_path: Path) -> None:
    path = write(tmp_path / "t", requests(4000, MS), requests(4000, MS, device=SDB))
    assert found_in(summarized(path)) == []


def test_hung_request_is_found(tmp_path: Path) -> None:
    hung = [tw.issue(2 * S, 8, 4096, device=SDB)]
    path = write(tmp_path / "t", requests(3000, MS), hung)
    (found,) = found_in(summarized(path))
    assert re.fullmatch(
        "8:16 hung: at the end 1 request was in flight, the oldest for 5.00 s", found
    )


def without_completion(at_ns: int, records: Sequence[tw.Record]) -> list[tw.Record]:
    """A device's records, numbered as the kernel does, but for the completion of that time."""
    numbered = [tw.replace(record, sequence=n) for n, record in enumerate(records, 1)]
    return [record for record in numbered if record.time_ns != at_ns]


def test_request_whose_completion_may_be_lost_is_not_said_to_hang(tmp_path: Path) -> None:
    other = requests(2, MS, start_ns=2 * S, device=SDB)
    path = write(tmp_path / "t", without_completion(0, requests(3000, MS)))
    assert found_in(summarized(path)) == []
    path = write(tmp_path / "t", requests(3000, MS), without_completion(2 * S + MS, other))
    assert found_in(summarized(path)) == [
        "8:16 may have hung: at the end 1 request was in flight, the oldest for 5.00 s; but 1 "
        "event was lost, perhaps a completion"
    ]


def test_few_lost_events_are_said_below_the_figures_in_flight(tmp_path: Path) -> None:
    path = write(tmp_path / "t", without_completion(2 * S + MS, requests(3000, MS)))
    lines = summarized(path)
    said = "1 event was lost: as many of the requests in flight may have completed"
    assert said in " ".join(lines)
    assert not lines[0].startswith("INCOMPLETE")


def test_idle_device_does_not_stall_if_a_completion_was_lost(tmp_path: Path) -> None:
    last = [tw.issue(3 * S, 8, 4096), tw.complete(3 * S + MS, 8, 4096)]
    again = [tw.issue(5 * S, 8, 4096), tw.complete(5 * S + MS, 8, 4096)]
    records = [*requests(900, MS), *last, *again, *requests(900, MS, start_ns=5 * S + 2 * MS)]
    path = write(tmp_path / "t", without_completion(3 * S + MS, records))
    assert found_in(summarized(path)) == []


def test_stall_is_found_with_its_time(tmp_path: Path) -> None:
    stuck = [tw.issue(3 * S, 8, 4096), tw.complete(5 * S, 8, 4096)]
    path = write(
        tmp_path / "t", requests(900, MS), stuck, requests(900, MS, start_ns=5 * S + 2 * MS)
    )
    (found,) = found_in(summarized(path))
    at, lasted = re.fullmatch(
        "8:0 stalled (.*) s after the start: with requests in flight, nothing completed for at "
        "least (.*) s",
        found,
    ).groups()  # type: ignore[union-attr]
    assert 1.9 < float(at) < 2.2 and 1.7 < float(lasted) <= 2


def test_stall_lasts_while_its_requests_are_requeued(tmp_path: Path) -> None:
    """The requests are given back, and other devices go on until the end."""
    stuck = tw.issue(3 * S, 8, 4096)
    requeue = tw.act(tw.READ | tw.FS | tw.REQUEUE, tw.EV_REQUEUE)
    given_back = tw.replace(stuck, time_ns=4 * S, action=requeue)
    others = requests(2500, MS, device=SDA + 16)
    path = write(tmp_path / "t", requests(900, MS), [stuck, given_back], others)
    (found,) = found_in(summarized(path))
    lasted = re.search(r"nothing completed for at least (.*) s, until the end", found)
    assert lasted is not None and 2.7 < float(lasted[1]) <= 3


def discards(n: int, start_ns: int) -> list[tw.Record]:
    """Discards of 1 MiB, a millisecond each, one after the other."""
    return [
        record
        for at in range(start_ns, start_ns + n * 2 * MS, 2 * MS)
        for record in (
            tw.issue(at, 1 << 30, 1 << 20, tw.WRITE | tw.DISCARD),
            tw.complete(at + MS, 1 << 30, 1 << 20, tw.WRITE | tw.DISCARD),
        )
    ]


@pytest.mark.parametrize(
    ("d2c_ns", "expected"),
    [
        (
            20 * MS,
            [
                "reads of 8:0 were slower while discards ran: p95 20.0 ms, 1.00 ms without them",
            ],
        ),
        (MS, []),
    ],
)
def test_discards_that_slow_down_reads_are_found(
    tmp_path: Path, d2c_ns: int, expected: list[str]
) -> None:
    reads = [
        *requests(2000, MS),
        *requests(250, d2c_ns, start_ns=5 * S),
        *requests(1000, MS, start_ns=5 * S + 500 * MS),
    ]
    path = write(tmp_path / "t", reads, discards(250, 5 * S))
    assert found_in(summarized(path))[:1] == expected


def test_slow_device_is_found(tmp_path: Path) -> None:
    parts = [requests(500, MS, device=device) for device in (SDA, SDB)]
    path = write(tmp_path / "t", *parts, requests(500, 20 * MS, device=SDC))
    assert found_in(summarized(path)) == [
        "8:32 is slow all the time: p99 of reads 20.0 ms, 1.00 ms on the median of 2 others"
    ]


def reads(*parts: tuple[int, int], device: int = SDA) -> list[tw.Record]:
    """Reads one after the other: numbers of seconds, and latencies in ms."""
    made: list[tw.Record] = []
    start_ns = S
    for seconds, ms in parts:
        spacing_ns = (ms + 1) * MS
        n = seconds * S // spacing_ns
        made += requests(n, ms * MS, start_ns=start_ns, spacing_ns=spacing_ns, device=device)
        start_ns += seconds * S
    return made


@pytest.mark.parametrize(
    ("parts", "when"),
    [
        ([(9, 1), (6, 20)], r" from 9\.0\d s after the start until the end"),
        ([(6, 20), (9, 1)], r" until (5\.9\d+|6\.\d+) s after the start"),
        ([(5, 1), (5, 20), (5, 1)], r" from 5\.0\d s to (9\.9\d|10\.\d) s after the start"),
        ([(1, 20), (1, 1)] * 7, ""),  # again and again
    ],
)
def test_slow_device_is_found_with_its_time(
    parts: list[tuple[int, int]], when: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "t", reads((15, 1)), reads(*parts, device=SDB))
    found = found_in(summarized(path))[0]
    assert re.match(rf"8:16 is slow{when}: p99 of reads 20.0 ms, 1.00 ms on 8:0", found)


def test_times_are_utc_wherever_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "XYZ-3")
    time.tzset()
    try:
        note = tw.notify_timestamp(S, 1_795_000_000, 0)  # 11:06:40 UTC
        path = write(tmp_path / "t", [note], reads((60, 1)), reads((30, 1), (30, 20), device=SDB))
        text = summarized(path)
    finally:
        monkeypatch.undo()
        time.tzset()
    (found,) = found_in(text)
    assert text[0] == "t: 2026-11-18 11:06:40 to 11:07:39 UTC, 60.0 s"
    assert found.startswith("8:16 is slow from 11:07:10 UTC until the end: p99 of reads 20.0 ms")


def test_device_whose_reads_got_slower_when_it_became_slow_is_one_finding(tmp_path: Path) -> None:
    path = write(tmp_path / "t", reads((40, 1)), reads((10, 1), (30, 20), device=SDB))
    (found,) = found_in(summarized(path))
    assert re.fullmatch(
        r"8:16 is slow from 10\.\d s after the start until the end: p99 of reads 20.0 ms, 1.00 ms "
        r"on 8:0; reads of 8:16 got slower: p99 1.00 ms before, 20.0 ms after",
        found,
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([(40, 1)], [(3, 1), (17, 5), (30, 20)]),  # slow, and later slower still
        ([(20, 1), (20, 3)], [(40, 20)]),  # of another device
    ],
)
def test_different_problems_are_different_findings(
    first: list[tuple[int, int]], second: list[tuple[int, int]], tmp_path: Path
) -> None:
    path = write(tmp_path / "t", reads(*first), reads(*second, device=SDB))
    slow, slower = found_in(summarized(path))
    assert slow.startswith("8:16 is slow ")
    assert re.match(r"reads of (8:0|8:16) got slower (19|20)\.\d s after the start: ", slower)


def test_device_that_is_slow_after_a_stall_is_one_finding(tmp_path: Path) -> None:
    stuck = [tw.issue(20 * S, 8, 4096), tw.complete(23 * S, 8, 4096)]
    after = requests(800, 20 * MS, start_ns=23 * S + 2 * MS, spacing_ns=21 * MS)
    path = write(tmp_path / "t", reads((19, 1)), stuck, after, reads((38, 1), device=SDB))
    (found,) = found_in(summarized(path))
    assert re.fullmatch(
        r"8:0 stalled 19.\d s after the start: with requests in flight, nothing completed for at "
        r"least 2.\d+ s; 8:0 is slow from 2\d.\d s after the start until the end: p99 of reads "
        r"20.1 ms, 1.00 ms on 8:16",
        found,
    )


def test_device_that_gets_slow_late_is_found_among_many(tmp_path: Path) -> None:
    idle = [requests(3, MS, start_ns=S + i * 1000, device=8 << 20 | i << 4) for i in range(700)]
    late = requests(200, 30 * MS, start_ns=3 * S, spacing_ns=31 * MS, device=9 << 20)
    lines = summarized(write(tmp_path / "t", *idle, late))
    assert "of 701 devices" in lines[1]
    assert table_of(lines)[0]["device"] == "9:0"


def test_load_of_a_slow_device_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t",
        requests(500, MS, spacing_ns=10 * MS),
        requests(2500, 20 * MS, spacing_ns=2 * MS, device=SDB),
    )
    assert found_in(summarized(path)) == [
        "8:16 is slow all the time: p99 of reads 20.0 ms, 1.00 ms on 8:0, at 498 IOPS instead of "
        "99.6"
    ]


def test_what_got_slower_is_found_with_its_time(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t",
        requests(3000, MS),
        requests(1500, 5 * MS, start_ns=7 * S, spacing_ns=6 * MS),
    )
    (found,) = found_in(summarized(path))
    at = re.fullmatch(
        "reads of 8:0 got slower (.*) s after the start: p99 1.00 ms before, 5.00 ms after.*", found
    )
    assert at and 5.7 < float(at[1]) < 6.3
    (again,) = found_in(summarized(path, "--from", "2"))
    assert "slower 6." in again or "slower 5." in again  # seconds that --from understands


def next_run(start_s: int, *, slower_s: int | None = None) -> list[tw.Record]:
    """Slow reads; after ``slower_s``, they become slower still."""
    made = requests(1500, 5 * MS, start_ns=start_s * S, spacing_ns=6 * MS)
    if slower_s is not None:
        made += requests(1500, 40 * MS, start_ns=slower_s * S, spacing_ns=6 * MS)
    return made


@pytest.mark.parametrize("kind", ["trace", "gzip", "json"])
@pytest.mark.parametrize("start_s", [30, 86_400])
def test_runs_that_are_merged_are_not_compared(kind: str, start_s: int, tmp_path: Path) -> None:
    unfinished = tw.issue(6 * S, 8, 4096)
    midnight = 1_795_392_000
    noted = [tw.notify_timestamp(at_s * S, midnight + at_s, 0) for at_s in (1, start_s)]
    first = write(tmp_path / "a", noted[:1], requests(3000, MS), [unfinished])
    second = write(tmp_path / "b", noted[1:], next_run(start_s))
    if kind == "gzip":
        for path in (first, second):
            path.write_bytes(gzip.compress(path.read_bytes()))
    if kind == "json":
        first, second = (to_json(path) for path in (first, second))
    result = runner.call(second, first)
    assert result.returncode == 0
    assert found_in(result.stdout.decode().splitlines()) == []
    said = b"Between runs, nothing was recorded for " in result.stderr
    assert said == (kind != "gzip")  # where the end of the first run is not known


def test_notes_before_a_run_do_not_make_the_run_before_stall(tmp_path: Path) -> None:
    noted = [tw.notify_timestamp(at_s * S, 1_795_392_000 + at_s, 0) for at_s in (1, 10)]
    first = write(tmp_path / "a", noted[:1], requests(3000, MS), [tw.issue(6 * S, 8, 4096)])
    second = write(tmp_path / "b", noted[1:], next_run(600))
    for path in (first, second):  # so that it is not known where a run ends
        path.write_bytes(gzip.compress(path.read_bytes()))
    result = runner.call(first, second)
    assert found_in(result.stdout.decode().splitlines()) == []
    assert b"1 issue or completion was dropped" in result.stderr  # that of the first run


def to_json(trace: Path) -> Path:
    """The trace as ``--json`` writes it."""
    path = trace.with_suffix(".jsonl")
    path.write_bytes(runner.succeed("-I1", "--json", "-", trace))
    return path


def test_what_got_slower_within_one_of_several_runs_is_found(tmp_path: Path) -> None:
    first = write(tmp_path / "a", requests(3000, MS))
    second = write(tmp_path / "b", next_run(20, slower_s=30))
    result = runner.call(first, second)
    (found,) = found_in(result.stdout.decode().splitlines())
    assert re.fullmatch(
        r"reads of 8:0 got slower (28|29)\S* s after the start: "
        "p99 5.00 ms before, 40.0 ms after.*",
        found,
    )


def test_files_that_follow_each_other_are_one_run(tmp_path: Path) -> None:
    first = write(tmp_path / "a", requests(3000, MS))
    second = write(tmp_path / "b", next_run(7))
    (found,) = found_in(summarized(first, second))
    assert "reads of 8:0 got slower" in found


def test_too_few_requests_say_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t",
        requests(90, MS),
        requests(90, MS, device=SDB),
        requests(90, 20 * MS, device=SDC),
        requests(90, 20 * MS, start_ns=2 * S, spacing_ns=25 * MS),
    )
    assert found_in(summarized(path)) == []


def test_there_are_three_findings_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path / "t",
        [tw.issue(S, 8, 4096, device=SDB)],
        reads((9, 1)),
        [tw.issue(10 * S, 8, 4096), tw.complete(11 * S, 8, 4096)],
        requests(1900, MS, start_ns=11 * S + 2 * MS),
        requests(1500, 12 * MS, start_ns=15 * S, spacing_ns=13 * MS),
        reads((4, 1), (30, 2), device=SDC),
    )
    assert len(found_in(summarized(path))) == findings.MOST == 3
    monkeypatch.setattr(findings, "MOST", 4)
    assert len(found_in(summarized(path))) == 4


# --- mistakes -------------------------------------------------------------------------------------


def test_device_given_as_a_trace_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "is_device", lambda name: name == "sda")
    complaint = (
        "sda is a block device: `blkiomon stat sda` watches it, "
        "`blkiomon record -o NAME --trace sda` records a trace"
    )
    for arguments in (
        *(
            ["sda"],
            ["summary", "sda"],
            ["report", "-o", "x.html", "sda"],
            ["compare", "sda", "sda"],
        ),
        *(["-I1", "-h-", "sda"], ["--json", "-", "sda"]),
    ):
        runner.assert_fails(3, complaint, *arguments)


def test_trace_named_like_a_device_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "is_device", lambda name: name == "sda")
    write(tmp_path / "sda.blktrace.0", requests(10, MS))
    monkeypatch.chdir(tmp_path)
    assert table_of(summarized("sda"))[0]["requests"] == "10"


def test_trace_without_a_request_says_what_it_takes(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [tw.issue(S, 8, 4096)])
    runner.assert_fails(
        3,
        f"{path}: no request in 1 record: a request needs its issue and its completion "
        "(blktrace -a issue -a complete)",
        path,
    )


def test_trace_of_a_hung_request_alone_names_it(tmp_path: Path) -> None:
    later = tw.Record(5 * S, 0, 0, tw.act(tw.READ | tw.FS | tw.QUEUE, tw.EV_QUEUE), SDB)
    path = write(tmp_path / "t", [tw.issue(S, 8, 4096), later])
    runner.assert_fails(
        3,
        f"{path}: no request completed in 2 records: 1 request of 8:0 hung, the oldest for "
        "4.00 s, or the trace lacks completions (blktrace -a issue -a complete)",
        path,
    )


def test_damage_is_skipped_and_counted_on_request(tmp_path: Path) -> None:
    path = write(tmp_path / "t", requests(200, MS))
    data = path.read_bytes()
    (tmp_path / "t.html").touch()
    for damaged in (data[:4800] + b"garbage" + data[4800:], b"\0" * 7 + data):
        path.write_bytes(damaged)
        for before in ((), ("summary",), ("report", "-o", tmp_path / "t.html")):
            assert runner.run(*before, path).returncode == 3
            result = runner.run(*before, "--resync", path)
            assert result.returncode == 0
            skipped = f"blkiomon: bad trace: {path}: skipped 7 bytes that are not records\n"
            assert result.stderr.decode() == skipped or before[:1] == ("report",)
            assert b"400 records, 200 requests" in result.stdout or before[:1] == ("report",)
        assert runner.run("compare", path, path).returncode == 3
        assert b"no difference shown" in runner.run("compare", "--resync", path, path).stdout
    path.write_bytes(b"garbage" * 10)
    runner.assert_fails(3, f"{path}: no record in it", "--resync", path)


def test_limits_of_pending_requests_and_devices_hold(tmp_path: Path) -> None:
    path = write(tmp_path / "t", requests(9, MS), requests(7, MS, device=SDB))
    assert "9 requests of 1 device" in "\n".join(summarized("--max-devices=1", path))
    path = write(tmp_path / "t", requests(9, MS, spacing_ns=1))
    assert "1 request of 1 device" in "\n".join(summarized("--max-pending", "1", path))


@pytest.mark.parametrize("words", [["-"], ["stat", "-"]])
def test_terminal_is_no_trace(words: list[str]) -> None:
    ours, theirs = pty.openpty()
    result = runner.run(*words, stdin=theirs)
    os.close(theirs)
    os.close(ours)
    assert result.returncode == 2
    assert b"standard input is a terminal; a trace is expected there" in result.stderr


@pytest.mark.parametrize("n_seconds", [1, 100, 10_000])
def test_slices_of_a_file_have_the_right_length_at_once(n_seconds: int, tmp_path: Path) -> None:
    spacing_ns = n_seconds * 2 * MS
    path = write(tmp_path / "t", requests(500, MS, spacing_ns=spacing_ns))
    assert length_ns(spans([str(path)])) == 499 * spacing_ns + MS
    slices = collect([str(path)], patterns=False).slices
    assert RESOLUTION.most // 4 < len(slices) <= RESOLUTION.most
    write_set(tmp_path, "sda", path.read_bytes())
    assert length_ns(spans([str(tmp_path / "sda")])) == 499 * spacing_ns + MS
    assert length_ns(spans(["-"])) == 0


def test_summary_needs_a_trace() -> None:
    result = runner.call("summary")
    assert result.returncode == 2
    assert result.stderr.startswith(b"blkiomon: the trace is missing: name it by its path\n")


def test_only_its_own_options_ask_for_a_summary() -> None:
    assert cli._asks_for_summary(["--device", "8:0", os.fspath(MULTI)])
    for arguments in ([], ["-I1", os.fspath(MULTI)], ["--json", "-", os.fspath(MULTI)], ["-b-"]):
        assert not cli._asks_for_summary(arguments)


def test_summary_loads_no_library_that_it_does_not_need() -> None:
    costly = ("numpy.ma", "decimal", "json", "multiprocessing", "blkiomon.formats.frames")
    code = (
        "import sys; from blkiomon.commands.cli import main; main(sys.argv[1:]); "
        f"print(sys.modules.keys() & {costly}, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code, PHASES], capture_output=True, check=True)
    assert result.stderr == b"set()\n"


@pytest.mark.parametrize("n_bytes", [0, 40, 1000])
def test_messages_call_standard_input_by_its_name(n_bytes: int) -> None:
    said = runner.call("summary", "-", stdin=MULTI.read_bytes()[:n_bytes]).stderr.decode()
    assert "standard input: " in said and ": -:" not in said
