"""Every option of every command with every kind of nonsense: a usage error or a line, no traceback.

All of it runs in this process, from an empty directory, with an empty pipe as the input.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import goldenfiles
import pytest
import runner
from tracewriter import complete, encode, issue

from blkiomon.commands import cli
from blkiomon.commands.options import Option

LONG = 10_000
"""More digits than Python makes a number of, and more characters than a path may have."""
VALUES = {
    "empty": "",
    "space": " ",
    "huge": "9" * 400,
    "negative": "-1",
    "very_negative": "-" + "9" * 400,
    "no_number": "x",
    "nan": "nan",
    "not_utf8": os.fsdecode(b"\xff\xfe"),
    "escape": "\x1b[31m\r",
    "nul": "a\0b",
    "long": "a" * LONG,
    "long_number": "1" * LONG,
    "long_device": "1" * LONG + ":1",
    "host": os.fsdecode(b"\xff:1"),
    "percent": "%s%n{0}",
    "no_directory": "/nowhere/file",
    "traversal": "../" * 1500,
}
Capture = pytest.CaptureFixture[str]
FILES = {option.long for option in cli.OPTIONS if option.argument.startswith("FILE")}
QUEUE = {"msg-queue", "msg-queue-id", "msg-id"}
MOST_LINES = 10

SUBCOMMANDS = {
    "decode": ["", "--text", "--json", "--csv"],
    "report": ["", "--output", "--device", "--title", "--chart"],
    "compare": ["", "--output", "--device", "--title", "--chart", "--fail-if"],
}


@pytest.fixture
def empty(tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to run in, and an input that ends at once."""
    directory = tmp_path / "empty"
    directory.mkdir()
    monkeypatch.chdir(directory)
    read_fd, write_fd = pipe
    os.close(write_fd)
    with runner.redirected(0, read_fd):
        yield directory


def run(capfd: Capture, arguments: list[str]) -> int:
    """The exit status; checks what is said."""
    return outcome(capfd, arguments)[0]


def outcome(capfd: Capture, arguments: list[str]) -> tuple[int, str]:
    """The exit status and the messages, which are checked."""
    status = cli.main(arguments)
    out, err = capfd.readouterr()
    shown = f"{arguments!r:.200} {err:.500}"
    assert "Traceback" not in err, shown
    assert "\x1b" not in err and "\r" not in err, shown
    assert err.count("\n") <= MOST_LINES, shown
    assert all(len(line) < LONG + 1000 for line in err.splitlines()), shown
    assert all(line.startswith("blkiomon: ") for line in err.splitlines()[:1]), shown
    assert status in range(5), shown
    assert status == 0 or err, shown
    assert "\nUsage" not in err or out == ""
    return status, err


@pytest.mark.parametrize("option", [o for o in cli.OPTIONS if o.argument], ids=lambda o: o.long)
def test_nonsense_for_an_option_is_reported(option: Option, empty: Path, capfd: Capture) -> None:
    queue = {"msg-queue": str(empty), "msg-queue-id": "1", "msg-id": "3"}
    rest = [f"--{n}={v}" for n, v in queue.items() if option.long in QUEUE and n != option.long]
    interval = [] if option.long == "interval" else ["-I5"]
    for kind, value in VALUES.items():
        forms = [[f"--{option.long}={value}"], [f"--{option.long}", value]]
        if option.short:
            forms.append([f"-{option.short}{value}"] if value else [f"-{option.short}", ""])
        statuses = {run(capfd, [*interval, *rest, *form]) for form in forms}
        assert len(statuses) == 1, kind
        made = [path.name for path in empty.iterdir()]
        # A file's name can be nearly anything; nothing else makes a file.
        names = {value} if option.long in FILES else set()
        assert set(made) <= names, kind
        # Some of the values are valid for these.
        if option.long not in FILES and option.long not in ("from", "to", "msg-queue-id", "names"):
            assert statuses <= {1, 2, 3, 4}, kind
        for name in made:
            Path(name).unlink()


@pytest.mark.parametrize("kind", VALUES)
def test_nonsense_as_a_trace_or_command_is_refused(kind: str, empty: Path, capfd: Capture) -> None:
    assert run(capfd, ["-I5", "--", VALUES[kind]]) in (2, 3)
    assert run(capfd, [VALUES[kind]]) in (1, 2, 3)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("option", [o for o in cli.OPTIONS if not o.argument], ids=lambda o: o.long)
def test_options_without_a_value_take_none(option: Option, empty: Path, capfd: Capture) -> None:
    for value in VALUES.values():
        assert run(capfd, ["-I5", f"--{option.long}={value}"]) in (1, 2)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "option"), [(c, o) for c, options in SUBCOMMANDS.items() for o in options]
)
def test_nonsense_for_an_option_of_a_command_is_reported(
    command: str, option: str, empty: Path, tmp_path: Path, capfd: Capture
) -> None:
    trace = tmp_path / "trace"
    trace.write_bytes(encode([issue(0, 1, 4096), complete(500_000, 1, 4096)]))
    traces = {"decode": [], "report": [str(trace)], "compare": [str(trace)] * 2}[command]
    output = [] if command == "decode" or option == "--output" else ["-o", "page.html"]
    for kind, value in VALUES.items():
        if option == "--title" and kind not in ("escape", "not_utf8", "empty"):
            continue  # any text is a title, and a page takes a while
        given = [f"{option}={value}"] if option else ["--", value]
        status = run(capfd, [command, *output, *traces, *given])
        made = {path.name for path in empty.iterdir()}
        assert made <= {"page.html"}
        assert status in (2, 3, 4) or option in ("--title", "--fail-if"), kind
        for name in made:
            Path(name).unlink()


ARCHIVE = [
    *("", "--interval", "--host", "--max-pending", "--max-age", "--workers"),
    *("--tls-ca-file", "--tls-cert", "--tls-key"),
]
TOP = ["", "--interval", "--file", "--speed"]


@pytest.mark.parametrize("option", ARCHIVE, ids=lambda o: o.strip("-") or "source")
def test_nonsense_for_an_option_of_archive_is_reported(
    option: str, empty: Path, tmp_path: Path, capfd: Capture
) -> None:
    (tmp_path / "trace").write_bytes(b"")
    for kind, value in VALUES.items():
        given = [f"{option}={value}", str(tmp_path / "trace")] if option else ["--", value]
        statuses = (2,) if option else (2, 3)
        assert run(capfd, ["archive", "-o", "dataset", *given]) in statuses, kind
    for value in ("", "a\0b"):
        assert run(capfd, ["archive", f"--output={value}", str(tmp_path / "trace")]) == 2
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("option", TOP, ids=lambda o: o.strip("-") or "trace")
def test_nonsense_for_an_option_of_top_is_reported(
    option: str, empty: Path, tmp_path: Path, capfd: Capture
) -> None:
    (tmp_path / "trace").write_bytes(b"")
    trace = [] if option == "--file" else [str(tmp_path / "trace")]
    for kind, value in VALUES.items():
        given = [f"{option}={value}", *trace] if option else ["--", value]
        status, err = outcome(capfd, ["top", *given])
        assert status in (2, 3), kind
        # Any text but these two is a path.
        is_path = option == "--file" and kind not in ("empty", "nul")
        said = f"{option} takes" if option else "an argument is empty|cannot open"
        assert re.search("top needs a terminal" if is_path else said, err), (kind, err)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b[31m", b"-x", b" "])
def test_names_that_are_no_text_work_as_input_and_as_output(
    name: bytes, empty: Path, capfd: Capture
) -> None:
    path = Path(os.fsdecode(name))
    with (goldenfiles.TRACES / "loop-multi-dc.bin").open("rb") as trace:
        path.write_bytes(trace.read(48 * 1000))
    for option in ("-b", "--json", "--csv", "--parquet", "--textfile", "-h", "-D", "-d"):
        other = os.fsdecode(name + b".out")
        assert run(capfd, ["-I5", option, other, "--", str(path)]) == 0
        assert Path(other).exists()
        Path(other).unlink()
    assert run(capfd, ["-I5", "-b", "b" + str(path), "--", str(path)]) == 0
    assert run(capfd, ["decode", "--", "b" + str(path)]) == 0
    page = os.fsdecode(name + b".html")
    assert run(capfd, ["report", "-o", page, "--", str(path)]) == 0
    assert Path(page).stat().st_size > 1000
    assert len(list(empty.iterdir())) == 3
