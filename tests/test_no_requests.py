"""Runs without a request end with a line about the contents of the input."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import runner
from tracewriter import Record, complete, encode, issue, notify_process, notify_timestamp

from blkiomon.commands.no_requests import SAMPLE_BYTES

S, MS = 10**9, 10**6
SDA, SDB = 8 << 20, 8 << 20 | 16
DAY_S = 1_790_000_000


def requests(number: int, device: int, every_ns: int = 100 * MS) -> list[Record]:
    records = []
    for i in range(number):
        at_ns = 5 * S + i * every_ns
        records.append(issue(at_ns, 8 * i, 4096, device=device))
        records.append(complete(at_ns + MS, 8 * i, 4096, device=device))
    return records


BOTH = sorted(requests(50, SDA) + requests(50, SDB), key=lambda record: record.time_ns)


def said(path: Path, records: list[Record] | bytes, *options: str, status: int = 0) -> str:
    """What is said of a trace, without its name."""
    path.write_bytes(records if isinstance(records, bytes) else encode(records))
    result = runner.call("-I1", "--json", "-", *options, path)
    assert result.returncode == status, result.stderr
    assert result.stdout, "the outputs are whole nevertheless"
    line = result.stderr.decode()
    prefix = f"blkiomon: {path}: "
    assert line.startswith(prefix) and line.endswith("\n") and line.count("\n") == 1, line
    return line[len(prefix) : -1]


HELD = "it holds 200 records of 8:0, 8:16: 100 issues and 100 completions, within 4.901 s"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--device=9:9"], " of 9:9"),
        (["--device=9:9", "--device=9:8"], " of 9:9, 9:8"),
        (["--from=100"], " from 100 s on"),
    ],
)
def test_filter_that_fits_nothing_is_named(tmp_path: Path, options: list[str], wanted: str) -> None:
    assert said(tmp_path / "t", BOTH, *options) == f"no request{wanted}; {HELD}"


def test_line_says_that_reading_ended_at_to(tmp_path: Path) -> None:
    line = said(tmp_path / "t", BOTH * 100, "--device=9:9", "--from=1", "--to=2")
    start = "no request of 9:9 from 1 s on before 2 s; as far as it was read it holds "
    assert line.startswith(start)


def test_line_says_what_a_trace_holds_that_is_cut_before_its_first_record(tmp_path: Path) -> None:
    line = said(tmp_path / "t", BOTH, "--to=0")
    assert line == f"no request before 0 s; as far as it was read {HELD}"


def test_time_of_day_outside_the_trace_is_named(tmp_path: Path) -> None:
    records = [notify_timestamp(5 * S, DAY_S, 0), *BOTH]
    assert said(tmp_path / "t", records, "--from=2030-01-01T00:00:00Z") == (
        "no request from 2030-01-01T00:00:00.000000000Z on; it holds 201 records of 8:0, 8:16: 100 "
        "issues and 100 completions, from 2026-09-21T14:13:20.000000000Z to "
        "2026-09-21T14:13:24.901000000Z"
    )


def test_end_of_a_trace_longer_than_the_sample_is_found(tmp_path: Path) -> None:
    records = requests(SAMPLE_BYTES // 96 + 20_000, SDA, MS)
    line = said(tmp_path / "t", records, "--from=1000")
    last_s = len(records) // 2 * 0.001
    assert line.startswith(
        f"no request from 1000 s on; it holds {len(records):,} records, and the "
    )
    assert " are of 8:0: " in line and line.endswith(f", within {last_s:g} s")


def test_only_issues_or_only_completions_are_counted(tmp_path: Path) -> None:
    for event, counted in ((0, "50 issues and 0 completions"), (1, "0 issues and 50 completions")):
        line = said(tmp_path / "t", requests(50, SDA)[event::2])
        assert line.startswith("no request; it holds 50 records of 8:0: " + counted)


def test_completion_of_another_request_makes_no_request(tmp_path: Path) -> None:
    records = [issue(S, 8, 4096), complete(2 * S, 16, 4096)]
    assert said(tmp_path / "t", records) == (
        "no request; it holds 2 records of 8:0: 1 issue and 1 completion, within 1 s"
    )


def test_greatest_age_is_named_if_all_requests_are_slower(tmp_path: Path) -> None:
    slow = [issue(S, 8, 4096), complete(701 * S, 8, 4096)]
    for options, limit in (([], "600"), (["--max-age=0.5"], "0.5")):
        assert said(tmp_path / "t", slow, *options) == (
            f"no request that took at most {limit} s (--max-age allows more); "
            "it holds 2 records of 8:0: 1 issue and 1 completion, within 700 s"
        )
    runner.succeed("-I1000", "--json", "-", "--max-age=1000", tmp_path / "t")


def test_age_is_no_reason_where_there_are_only_issues(tmp_path: Path) -> None:
    assert said(tmp_path / "t", [issue(S, 8, 4096), issue(701 * S, 16, 4096)]) == (
        "no request; it holds 2 records of 8:0: 2 issues and 0 completions, within 700 s"
    )


def test_notes_alone_are_no_requests(tmp_path: Path) -> None:
    assert said(tmp_path / "t", [notify_process(S, 1, "fio")]) == (
        "no request; nothing was issued while it was recorded"
    )
    for options in ([], ["--device", "8:0"], ["--op", "read"], ["--from", "1"]):
        runner.assert_fails(
            3,
            f"{tmp_path / 't'}: nothing was issued while it was recorded",
            *options,
            tmp_path / "t",
        )


def test_many_devices_are_not_all_named(tmp_path: Path) -> None:
    records = [issue(S + i, 8, 512, device=SDA + i) for i in range(50)]
    assert "of 8:0, 8:1, 8:2, 8:3, 8:4, 8:5, 8:6, 8:7 and 42 more: 50" in said(
        tmp_path / "t", records
    )


@pytest.mark.parametrize("data", [b"", os.urandom(9000)], ids=["empty", "random"])
def test_input_without_a_record_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t"
    path.write_bytes(data)
    for options in ([path], []):
        result = runner.call("-I1", "--json", "-", "--resync", *options, stdin=data)
        *_, line = result.stderr.decode().splitlines()
        name = path if options else "standard input"
        assert result.returncode == 3
        assert line == f"blkiomon: {name}: it contains no trace record"


def test_set_of_empty_files_is_named(tmp_path: Path) -> None:
    for cpu in range(2):
        (tmp_path / f"sda.blktrace.{cpu}").touch()
    result = runner.call("-I1", "--json", "-", tmp_path / "sda")
    assert (result.returncode, result.stderr) == (
        3,
        b"blkiomon: 2 files of sda: it contains no trace record\n",
    )


def test_outputs_of_0_3_print_no_line_about_missing_requests() -> None:
    for data in (b"", encode([issue(S, 8, 4096)])):
        assert runner.succeed("-I1", "-h", "-", stdin=data) == b""
    with open("/dev/null", "rb") as nothing:
        assert runner.succeed("-I1", "-h", "-", stdin=nothing) == b""


def test_run_with_a_request_prints_no_line_about_missing_requests(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(encode(requests(1, SDA)))
    runner.succeed("-I1", "--json", "-", "--device=8:0", tmp_path / "t")
