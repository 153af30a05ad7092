"""Names of files, processes and options cannot control the terminal."""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import goldenfiles
import pytest
import runner
from tracewriter import complete, encode, issue, notify_process

from blkiomon.console import how_many, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sda, größer, 東京, a\\b", "sda, größer, 東京, a\\b"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\rc\td\0", r"a\nb\rc\td\x00"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),  # DEL, and C1's way to begin an escape
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u2028b\u200b", r"a\u2028b\u200b"),
        ("\udc9b\udcff", r"\x9b\xff"),  # bytes of a name that is not UTF-8
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_characters_that_control_a_terminal_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 records are"), (1, "1 record is"), (2345, "2,345 records are")]
)
def test_number_1_takes_the_singular(number: int, text: str) -> None:
    assert how_many(number, "record is", "records are", ",") == text


# --- every command -------------------------------------------------------------------------------

NAMES = {
    "characters": "a\x1b]0;x\x07\x1b[31m\x9b2J\x85\x7f\x08\r\nblkiomon: b\u202egpj\u2066".encode(),
    "bytes": b"a\x9b2J\xff",  # not UTF-8; as 8-bit terminals read it, a sequence
}
TRACE = encode(
    [notify_process(1, 7, "\x1b[31m\x9bq\u202e", size=24)]
    + [
        record
        for n in range(64)
        for record in (
            issue(1000 * n + 10, 8 * n, 4096, pid=7),
            complete(1000 * n + 500, 8 * n, 4096),
        )
    ]
)
COMMANDS: dict[str, list[str]] = {
    "monitor": ["-I", "1", "NAME"],
    "json": ["-I", "1", "--json", "-", "NAME"],
    "csv": ["-I", "1", "--csv", "-", "NAME"],
    "damaged": ["-I", "1", "damaged/NAME"],
    "damaged packed": ["-I", "1", "packed/NAME"],
    "resync": ["-I", "1", "--resync", "damaged/NAME", "NAME"],
    "missing": ["-I", "1", "missing/NAME"],
    "output": ["-I", "1", "-h", "missing/NAME", "NAME"],
    "textfile": ["-I", "1", "--textfile", "missing/NAME", "NAME"],
    "parquet": ["-I", "1", "--parquet", "missing/NAME", "NAME"],
    "queue": ["-I", "1", "-Q", "missing/NAME", "-q", "1", "-m", "1", "NAME"],
    "command": ["NAME"],
    "option": ["--NAME"],
    "interval": ["-I", "NAME"],
    "device": ["-I", "1", "--device", "NAME"],
    "from": ["-I", "1", "--from", "NAME"],
    "address": ["-I", "1", "--openmetrics", "NAME:1"],
    "user": ["-I", "1", "--user", "NAME"],
    "traced": ["-I", "1", "--trace", "missing/NAME"],
    "version": ["-I", "1", "--stat-version", "NAME"],
    "decode": ["decode", "stats/NAME"],
    "decode json": ["decode", "--json", "stats/NAME"],
    "decode csv": ["decode", "--csv", "stats/NAME"],
    "decode missing": ["decode", "missing/NAME"],
    "decode a trace": ["decode", "NAME"],
    "report": ["report", "-o", "page.html", "NAME"],
    "report titled": ["report", "-o", "page.html", "--title", "NAME", "NAME"],
    "report missing": ["report", "-o", "page.html", "missing/NAME"],
    "report damaged": ["report", "-o", "page.html", "damaged/NAME"],
    "report output": ["report", "-o", "missing/NAME.html", "NAME"],
    "report chart": ["report", "-o", "page.svg", "--chart", "NAME", "NAME"],
    "compare": ["compare", "NAME", "other/NAME"],
    "compare page": ["compare", "-o", "page.html", "NAME", "other/NAME"],
    "compare json": ["compare", "--json", "NAME", "other/NAME"],
    "compare missing": ["compare", "NAME", "missing/NAME"],
    "compare rule": ["compare", "--fail-if", "NAME", "NAME", "other/NAME"],
    "top missing": ["top", "missing/NAME"],
    "archive": ["archive", "--workers=0", "-o", "NAME.set", "NAME", "other/NAME"],
    "archive host": ["archive", "--workers=0", "--host=*/{host}/*", "-o", "set", "hosts"],
    "archive json": ["archive", "--workers=0", "--json", "-o", "set", "hosts"],
    "archive damaged": ["archive", "--workers=0", "-o", "set", "damaged/NAME", "packed/NAME"],
    "archive missing": ["archive", "--workers=0", "-o", "set", "missing/NAME"],
    "archive glob": ["archive", "--workers=0", "-o", "set", "NAME*missing"],
    "archive output": ["archive", "--workers=0", "-o", "NAME", "other/NAME"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", NAMES)
def test_no_name_controls_the_terminal(
    command: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, directories, options, values and a process in the trace have such names."""
    name = os.fsdecode(NAMES[kind])
    monkeypatch.chdir(tmp_path)
    stats = (goldenfiles.DIRECTORY / "both-bits-match-each-other.binary").read_bytes()
    contents = {
        ".": TRACE,
        "other": TRACE,
        "damaged": TRACE + b"\0" * 100 + TRACE,
        "packed": gzip.compress(TRACE)[:-9],
        "stats": stats + stats[:9],
    }
    for directory, data in contents.items():
        Path(directory).mkdir(exist_ok=True)
        Path(directory, name).write_bytes(data)
    Path("hosts", name).mkdir(parents=True)
    Path("hosts", name, "sda.blktrace.0").write_bytes(TRACE)
    done = runner.call(*(word.replace("NAME", name) for word in COMMANDS[command]))
    is_named = False
    for text in (done.stdout, done.stderr, *(page.read_bytes() for page in Path().glob("*.html"))):
        shown = text.decode()
        acting = {c for c in shown if not c.isprintable()} - {"\n", "\t"}
        assert not acting, (acting, shown)
        is_named |= re.search(r"a\\(x1b|x9b|udc9b)", shown) is not None
    assert is_named or done.returncode == 0, done.stderr
    # Each message is one line, whatever a name contains; usage may follow.
    said = done.stderr.decode().partition("Usage: ")[0].splitlines()
    assert all(line.startswith("blkiomon: ") for line in said), said
