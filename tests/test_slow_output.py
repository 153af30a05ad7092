"""``--slow``: each slow request as text or JSON, as it happens."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runner
import tracewriter as tw
from intervals import SDB, Io, interval_of
from tmux import Tmux

import blkiomon
from blkiomon.interval.slow import SlidingPercentile
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.outputs.destinations import open_outputs
from blkiomon.sources.streams import SortedStream

S = 10**9
MS = 10**6
DATA = Path(__file__).parent / "data"
PHASES = DATA / "loop-phases-dc.bin"
NONE_SLOW = b"--slow: no request took longer than the threshold"


def request(issued_ns: int, d2c_ns: int, sector: int = 8, **fields: Any) -> list[tw.Record]:
    """A read of 4096 bytes."""
    return [
        tw.issue(issued_ns, sector, 4096, **fields),
        tw.complete(issued_ns + d2c_ns, sector, 4096, **fields),
    ]


def text_of(records: list[tw.Record], *arguments: str, interval: str = "1") -> list[str]:
    """The lines of ``--slow`` on standard output, by the trace clock."""
    data = tw.encode(sorted(records, key=lambda r: r.time_ns), 8)
    words = ["-I", interval, "--clock", "trace", *arguments]
    result = runner.call(*words, stdin=data)
    assert result.returncode == 0
    lines = result.stderr.splitlines()
    assert all(b"of issues have no completion" in line or NONE_SLOW in line for line in lines)
    return result.stdout.decode().splitlines()


def events_of(directory: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    """The events that ``--slow`` writes to a file. The first argument is the threshold."""
    file = directory / "slow.jsonl"
    threshold, *rest = arguments
    runner.succeed("-I", "1", "--slow", f"{threshold}:{file}", *rest)
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_error_is_shown_by_its_name_and_as_errno(tmp_path: Path) -> None:
    """Of sectors that SCSI could not read, on a real kernel."""
    failed = DATA / "kernels/medium-7.3.bin.xz"
    lines = runner.succeed("--slow", "0.001", failed).decode().splitlines()
    assert [line.rpartition(", ")[2] for line in lines] == ["error ENODATA"] * 6
    assert [event["error"] for event in events_of(tmp_path, "0.001", failed)] == [61] * 6


def test_text_says_when_where_what_and_how_slow() -> None:
    records = [
        *request(0, 5 * MS),
        *request(20 * MS, 25 * MS, 4096, device=259 << 20, pid=7, error=5),
    ]
    assert text_of(records, "--slow", "20") == [
        "0.045000 s  259:0        read    4096 B at sector 4096          "
        "D2C 25.0 ms, pid 7, error EIO"
    ]


def test_time_of_day_and_process_names_are_shown_if_the_trace_has_them(tmp_path: Path) -> None:
    hostile = "\x1b[31m\n\u202e"
    records = [
        tw.notify_timestamp(0, 1_795_425_087, 0),
        tw.notify_process(0, 7, hostile),
        *request(5, 25 * MS, pid=7),
    ]
    (line,) = text_of(records, "--slow", "20")
    assert line.split()[0] in ("2026-11-23", "2026-11-22", "2026-11-24")  # local time
    assert line.split()[1].endswith(".025000") and len(line.split()[1]) == len("09:11:27.025000")
    assert line.endswith(r"D2C 25.0 ms, pid 7 (\x1b[31m\n\u202e)")
    trace = tmp_path / "trace"
    trace.write_bytes(tw.encode(records))
    (event,) = events_of(tmp_path, "20", trace)
    assert event["process"] == hostile
    assert event["time"] == "2026-11-23T09:11:27.025000005Z"


def test_events_are_the_requests_above_the_threshold(tmp_path: Path) -> None:
    requests = blkiomon.requests(PHASES)
    slow = requests[requests["d2c_ns"] > 3 * MS]
    events = events_of(tmp_path, "3", PHASES, "--slow-limit", "1000000")
    ended = [event for event in events if event["event"] == "completed"]
    names = {"sector": "sector", "size_bytes": "bytes", "d2c_ns": "d2c_ns", "f2c_ns": "d2c_ns",
             "pid": "pid", "cpu": "cpu", "error": "error"}  # fmt: skip
    for name, field in names.items():
        assert [event[name] for event in ended] == slow[field].tolist()
    first_ns = int(blkiomon.read_trace(PHASES)["time_ns"][0])
    assert [event["time_ns"] for event in ended] == (
        (slow["issued_ns"] + slow["d2c_ns"]).astype(np.int64) - first_ns
    ).tolist()
    hung = [event for event in events if event["event"] == "in_flight"]
    assert len(events) == len(ended) + len(hung)
    completed_of = {(e["sector"], e["time_ns"] - e["f2c_ns"]) for e in ended}
    assert {(e["sector"], e["time_ns"] - e["f2c_ns"]) for e in hung} <= completed_of
    assert all(event["time_ns"] % S == 0 and event["d2c_ns"] > S for event in hung)


def test_records_outside_the_selection_are_not_reported(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    records = [
        r for n in range(10) for r in request(n * S, 25 * MS, n * 8, device=8 << 20 | n % 2 << 4)
    ]
    trace.write_bytes(tw.encode(records))
    events = events_of(tmp_path, "20", trace, "--device", "8:16", "--from", "2", "--to", "8")
    assert [event["sector"] for event in events] == [24, 40, 56]


def test_completion_that_is_read_late_is_not_taken_for_a_request_that_hangs() -> None:
    late = [tw.issue(S - 100 * MS, 16, 4096), tw.issue(S + 1, 8, 4096)]
    late += [tw.complete(S - 50 * MS, 16, 4096), tw.complete(S + 2, 8, 4096)]
    data = tw.encode([*request(0, 1), *late])
    result = runner.call("-I", "1", "--clock", "trace", "--slow", "60", stdin=data)
    assert (result.returncode, result.stdout) == (0, b"") and NONE_SLOW in result.stderr


def test_request_that_hangs_is_reported_once_and_again_when_it_completes() -> None:
    records = [*request(0, 1), *request(S // 2, 3 * S, 16, pid=3), *request(5 * S, 1)]
    assert text_of(records, "--slow", "100") == [
        "2.000000 s  8:0          read    4096 B at sector 16            "
        "still in flight after 1.50 s, pid 3",
        "3.500000 s  8:0          read    4096 B at sector 16            D2C 3.00 s, pid 3",
    ]


@pytest.mark.parametrize("arguments", [[], ["--no-final"]])
def test_request_that_never_completes_is_reported_at_the_end(arguments: list[str]) -> None:
    records = [tw.issue(0, 16, 4096), *request(200 * MS, 1)]
    (line,) = text_of(records, "--slow", "100", *arguments)
    assert line.endswith("still in flight after 200 ms, pid 0")
    assert text_of(records, "--slow", "300", *arguments) == []


def test_request_that_the_kernel_requeues_counts_from_its_first_issue(tmp_path: Path) -> None:
    action = tw.act(tw.READ | tw.FS | tw.REQUEUE, tw.EV_REQUEUE)
    requeues = [tw.Record(n * 30 * MS, 8, 4096, action, 8 << 20) for n in (1, 2)]
    records = [
        tw.issue(0, 8, 4096),
        requeues[0],
        tw.issue(31 * MS, 8, 4096),
        requeues[1],
        *request(61 * MS, 2 * MS),
    ]
    (line,) = text_of(records, "--slow", "50")
    assert line.endswith("D2C 2.00 ms, 63.0 ms from the first issue, pid 0, 2 requeues")
    trace = tmp_path / "trace"
    trace.write_bytes(tw.encode(records))
    (event,) = events_of(tmp_path, "50", trace)
    assert (event["d2c_ns"], event["f2c_ns"], event["requeues"]) == (2 * MS, 63 * MS, 2)


def test_queue_record_gives_queue_time_and_process() -> None:
    queue = tw.Record(1, 8, 4096, tw.act(tw.QUEUE | tw.READ | tw.FS, tw.EV_QUEUE), 8 << 20, pid=9)
    (line,) = text_of([queue, *request(3 * MS + 1, 25 * MS, pid=3)], "--slow", "20")
    assert line.endswith("D2C 25.0 ms, Q2D 3.00 ms, pid 9")


def test_more_requests_than_the_limit_are_counted(tmp_path: Path) -> None:
    records = [r for n in range(1300) for r in request(n * MS // 2, 25 * MS, 8 * n)]
    records += [r for n in range(5) for r in request(2 * S + n * MS, 25 * MS, 8 * n)]
    lines = text_of(records, "--slow", "20", "--slow-limit", "3", interval="10")
    assert [line.split("  ")[1].strip() for line in lines] == [
        *["8:0"] * 3, "… 1,297 more (--slow-limit)", *["8:0"] * 3, "… 2 more (--slow-limit)",
    ]  # fmt: skip
    trace = tmp_path / "trace"
    trace.write_bytes(tw.encode(records))
    events = events_of(tmp_path, "20", trace, "--slow-limit", "3")
    assert sum(event.get("requests", 1) for event in events) == 1305
    assert events[3] == {
        "event": "left_out", "time": None, "time_ns": 1299 * MS // 2 + 25 * MS, "requests": 1297,
    }  # fmt: skip


def test_requests_that_hang_count_against_the_limit() -> None:
    records = [tw.issue(n, 8 * n, 4096) for n in range(10)]
    lines = text_of([*records, *request(S // 2, 1, 800)], "--slow", "20", "--slow-limit", "3")
    assert [line.split("at sector")[-1].split()[0] for line in lines[:3]] == ["0", "8", "16"]
    assert lines[3:] == ["0.500000 s  … 7 more (--slow-limit)"]


def test_percentile_is_that_of_the_last_minute() -> None:
    recent = SlidingPercentile(90)

    def add(d2c_ns: int, n: int, end_s: int) -> int | None:
        ios = [Io(SDB, "read", 4096, (end_s - 1) * S, d2c_ns)] * n
        return recent.threshold_ns(interval_of(ios, (end_s - 20) * S, end_s * S))

    assert add(1000, 99, 20) is None  # too few
    assert add(1000, 100, 40) == pytest.approx(1000, rel=1 / 128)
    assert add(9000, 100, 60) == pytest.approx(9000, rel=1 / 128)
    assert add(1000, 900, 80) == pytest.approx(1000, rel=1 / 128)
    assert add(1000, 0, 100) == pytest.approx(1000, rel=1 / 128)
    assert add(1000, 0, 120) == pytest.approx(1000, rel=1 / 128)
    assert add(1000, 0, 140) is None  # the last requests are older than a minute
    assert SlidingPercentile(99.9)._least == 1000


def test_percentile_holds_for_the_next_interval_and_stays_while_requests_are_few() -> None:
    records = [r for n in range(400) for r in request(n * MS, MS, 8 * n)]
    for s in range(1, 100, 20):
        records += [*request(s * S, 5 * MS, 8), *request(s * S + 30 * MS, 10 * MS, 16)]
    lines = text_of(records, "--slow", "p95")
    assert [line.split()[0] for line in lines] == [
        f"{s}.{part}" for s in range(1, 100, 20) for part in ("005000", "040000")
    ]


def test_run_without_a_slow_request_says_so() -> None:
    data = tw.encode(request(1, MS), 8)
    result = runner.call("-I", "1", "--slow", "50", stdin=data)
    assert (result.returncode, result.stdout) == (0, b"")
    assert result.stderr == b"blkiomon: " + NONE_SLOW + b"\n"


def test_percentile_that_was_never_computed_is_reported() -> None:
    data = tw.encode(request(MS, MS, 8))
    result = runner.run("-I", "1", "--slow", "p99", "--clock", "trace", input=data)
    assert (result.returncode, result.stdout) == (0, b"")
    assert result.stderr.decode().startswith("blkiomon: --slow: no request was compared")


def test_hung_device_is_reported_while_nothing_arrives() -> None:
    with runner.Running("-I", runner.LONG, "--slow", "20", "--clock", "wall") as running:
        running.write(tw.encode([tw.issue(1, 8, 4096, pid=3)]))
        line = running.read_count(b"\n", 1).decode()
        assert "still in flight after 1." in line
        running.write(tw.encode([tw.complete(9 * S, 8, 4096)]))
        assert "D2C 9.00 s" in running.read_count(b"\n", 2).decode()
        _, output, _ = running.end()
        assert output.count(b"\n") == 2


def test_completion_that_is_held_back_to_be_sorted_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = 100 * S
    monkeypatch.setattr("blkiomon.commands.pipeline.time.monotonic_ns", lambda: now_ns)
    file = tmp_path / "slow"
    settings = OutputSettings({"slow": str(file)})
    outputs = open_outputs(settings, pytest.fail, lossless=True)
    config = runner.Config(interval_s=1e6, outputs=settings, slow_ns=20 * MS)
    pipeline = runner.Pipeline(config, outputs, pytest.fail, sorts=True)
    pipeline._sorted = SortedStream(monotonic_ns=lambda: now_ns)
    pipeline.look()
    now_ns += MS
    records = [*request(0, 1), tw.issue(MS, 8, 4096), tw.issue(54 * MS, 32, 4096)]
    late = [
        tw.issue(2 * MS, 16, 4096),
        tw.complete(60 * MS, 8, 4096),
        tw.issue(1055 * MS, 24, 4096),
    ]
    pipeline.feed(memoryview(tw.encode(records + [tw.replace(r, cpu=1) for r in late])))
    for _ in range(6):
        now_ns += S
        pipeline.look()  # at first, the completion of sector 8 is held back, its issue is not
    pipeline.end(0, is_complete=False)
    outputs.close()
    lines = file.read_text().splitlines()
    assert sum("D2C 59.0 ms" in text for text in lines) == 1
    hung = [text.split("sector ")[1].split()[0] for text in lines if "still in flight" in text]
    assert sorted(hung) == ["16", "24", "32"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_output_with_what_was_found(number: signal.Signals) -> None:
    with runner.Running("-I", runner.LONG, "--slow", "20", "--clock", "wall") as running:
        records = [tw.issue(50 * MS, 64, 4096)]
        for n in range(150):
            records += request(n * MS, 25 * MS, 8 * n + 800)
        running.write(tw.encode(records))
        running.await_read()
        output = running.succeed(number, runner.TERMINATED).decode()
        assert output.count("D2C 25.0 ms") == 100
        assert output.splitlines()[-1].endswith("… 50 more (--slow-limit)")


def test_slow_requests_and_intervals_share_standard_output() -> None:
    records = [*request(0, 25 * MS), *request(S + 1, 30 * MS)]
    text = "\n".join(text_of(records, "--slow", "20", "-h", "-"))
    assert [text.index(word) > 0 for word in ("D2C 25.0", "time: 1.000", "D2C 30.0")] == [True] * 3
    assert text.index("D2C 25.0") < text.index("time: 1.000") < text.index("D2C 30.0")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--slow", "-1"], "takes milliseconds up to 1e9 or a percentile"),
        (["--slow", "p100"], "takes milliseconds up to 1e9 or a percentile"),
        (["--slow", "p"], "takes milliseconds up to 1e9 or a percentile"),
        (["--slow", "1e4_0"], "takes milliseconds up to 1e9 or a percentile"),
        (["--slow", "nan"], "takes milliseconds up to 1e9 or a percentile"),
        (["--slow", "20:"], "takes milliseconds up to 1e9 or a percentile"),
        (["--slow", "20", "--slow", "30"], "is given twice"),
        (["--slow", "2000", "--max-age", "1"], "--slow must not exceed --max-age"),
        (["--slow-limit", "3"], "--slow-limit needs --slow"),
        (["--slow", "20", "--slow-limit", "0"], "whole number"),
    ],
)
def test_wrong_arguments_get_one_line(arguments: list[str], why: str) -> None:
    result = runner.call("-I", "1", *arguments, PHASES)
    assert result.returncode == 2
    assert why in result.stderr.decode().splitlines()[0]


def test_screen_refuses_to_share_standard_output() -> None:
    result = runner.call("top", "--slow", "20", PHASES)
    assert result.returncode == 2
    assert b"top draws on standard output: give --slow a file" in result.stderr
    result = runner.call("top", "--slow-limit", "3", PHASES)
    assert (result.returncode, b"--slow-limit needs --slow" in result.stderr) == (2, True)


def test_screen_writes_slow_requests_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "slow.jsonl"
    with Tmux(tmp_path, 80, 24) as terminal:
        terminal.run("top", "--speed", "max", "--slow", f"20:{file}", PHASES)
        terminal.until("END OF TRACE")
        terminal.leave()
    (event,) = map(json.loads, file.read_text().splitlines())
    assert (event["op"], event["d2c_ns"] // MS) == ("flush", 444)


def test_output_that_is_stuck_counts_what_it_drops(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    said: list[str] = []
    settings = OutputSettings({"slow": str(fifo)})
    outputs = open_outputs(settings, said.append)
    config = runner.Config(interval_s=1e6, outputs=settings, slow_ns=0)
    pipeline = runner.Pipeline(config, outputs, said.append)
    pipeline.feed(memoryview(tw.encode([*request(0, 1), *request(10, 1)])))
    pipeline.end(0, is_complete=True)
    outputs.close(0.1)
    assert any(" lacks 2 records" in text for text in said), said
    assert outputs.failed
