"""The exit status of every command."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import goldenfiles
import pytest
import runner
from tracewriter import complete, encode, issue

ONE = encode([issue(0, 8, 4096), complete(500_000, 8, 4096)])
TRACE = goldenfiles.TRACES / "loop-multi-dc.bin"
OK, FAILURE, USAGE, INPUT, OUTPUT = 0, 1, 2, 3, 4
BY_SIGPIPE = -signal.SIGPIPE
"""Of a process; a shell makes 141 of it."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run in, with a trace, a cut one and garbage."""
    (tmp_path / "t").write_bytes(ONE)
    (tmp_path / "cut").write_bytes(ONE + ONE[:20])
    (tmp_path / "garbage").write_bytes(bytes(range(128, 256)) * 10)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("-I1 --json - t", OK),
        ("-I1 t --json", USAGE),
        ("-I0 t", USAGE),
        ("-I1 t --frobnicate", USAGE),
        ("frobnicate", USAGE),
        ("-I1 missing", INPUT),
        ("-I1 cut", INPUT),
        ("-I1 garbage", INPUT),
        ("-I1 --json nowhere/x t", OUTPUT),
        ("-I1 --json /dev/full t", OUTPUT),
        ("-I1 --json /dev/full cut", OUTPUT),
        ("decode", USAGE),
        ("decode missing", INPUT),
        ("decode t", INPUT),
        ("report", USAGE),
        ("report -o x.html missing", INPUT),
        ("report -o x.html cut", INPUT),
        ("report -o nowhere/x.html t", OUTPUT),
        ("report -o x.html --chart=none t", USAGE),
        ("report -o x.html --device=none t", USAGE),
        ("compare t", USAGE),
        ("compare t t", OK),
        ("compare --fail-if=all.errors>0 t t", OK),
        ("compare --fail-if=all.max>1us t t", FAILURE),
        ("compare --fail-if=all.max>1us t cut", INPUT),
        ("compare --fail-if=nonsense t t", USAGE),
        ("compare -o nowhere/x.html t t", OUTPUT),
        ("top --speed=0 t", USAGE),
        ("top missing", INPUT),
        ("archive", USAGE),
    ],
)
def test_status_tells_usage_input_and_output_apart(arguments: str, status: int, here: Path) -> None:
    result = runner.call(*arguments.split())
    assert result.returncode == status, result.stderr
    assert (status == OK) == (result.stderr == b"")


@pytest.mark.parametrize(
    "arguments",
    [
        *("", "-I", "-I 0", "--interval", "-h -", "-I 1 -Q .", "--msg 1"),
        *("-I 1 -h nowhere/x", "-I 1 -b /dev/full", "-I 1 --hum=nowhere/x"),
    ],
)
def test_status_of_all_failures_with_the_originals_options_is_1(arguments: str, here: Path) -> None:
    assert runner.call(*arguments.split(), stdin=ONE).returncode == FAILURE
    if "/" not in arguments and Path("/usr/bin/blkiomon").exists():
        theirs = ["/usr/bin/blkiomon", *arguments.split()]
        assert subprocess.run(theirs, stdin=subprocess.DEVNULL, capture_output=True).returncode == 1


@pytest.mark.parametrize("data", [ONE + ONE[:20], b"garbage" * 20], ids=["cut", "garbage"])
def test_status_of_a_bad_trace_is_1_with_the_originals_options_and_else_3(data: bytes) -> None:
    assert runner.call("-I", "1", "-h", "-", stdin=data).returncode == FAILURE
    assert runner.call("-I", "1", "-h", "-", "-", stdin=data).returncode == INPUT
    assert runner.call("-I", "1", "--json", "-", stdin=data).returncode == INPUT


def ended_early(*arguments: runner.Argument) -> tuple[int, bytes]:
    """Status and complaints of a command whose standard output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = runner.run(*arguments, stdout=writing)
    finally:
        os.close(writing)
    return result.returncode, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *("-V", "--help", "decode --help", "report --help", "archive --help", "top --help"),
        *("-I1 -h - t", "-I1 --json - t", "-I1 --csv - t", "-I1 -D - t", "decode stats"),
        *("compare t t", "compare --json t t"),
    ],
)
def test_command_whose_reader_leaves_ends_silently_by_sigpipe(arguments: str, here: Path) -> None:
    assert runner.call("-I1", "-b", "stats", "t").returncode == OK
    assert ended_early(*arguments.split()) == (BY_SIGPIPE, b"")


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_reader_may_leave_standard_output_by_any_name(name: str, here: Path) -> None:
    with runner.Running("-I", "0.001", "--json", name, TRACE) as process:
        process.read_until(lambda seen: len(seen) > 10)
        assert process.process.stdout is not None
        process.process.stdout.close()
        assert (process.wait(), process.stderr) == (BY_SIGPIPE, "")


def test_other_outputs_are_whole_though_the_reader_of_one_leaves(here: Path) -> None:
    assert ended_early("-I1", "--json", "-", "--csv", "csv", "t") == (BY_SIGPIPE, b"")
    assert runner.call("-I1", "--csv", "other", "t").returncode == OK
    assert (here / "csv").read_bytes() == (here / "other").read_bytes()


def test_trace_named_almost_like_a_command_is_read(here: Path) -> None:
    (here / "reports").write_bytes(ONE)
    (here / "decod.blktrace.0").write_bytes(ONE)
    for name in ("reports", "decod"):
        result = runner.call(name, "-I1", "--json", "-")
        assert (result.returncode, result.stderr) == (OK, b""), name
