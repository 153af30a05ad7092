"""The man page and the completions: they have every option and no other, and they work."""

from __future__ import annotations

import functools
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import programs
import pytest
import runner
from sanitizers import OTHERS

from blkiomon.commands.options import Command
from blkiomon.console import SIGNALS
from tools.__main__ import SHARE, commands, made

FILES = sorted(path for path in SHARE.rglob("*") if path.is_file())
PAGE = SHARE / "man/man8/blkiomon.8"
INSTALLED = Path(sys.prefix, "share")

each_command = pytest.mark.parametrize("command", commands(), ids=lambda c: c.name or "monitor")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


@functools.cache
def wanted() -> dict[Path, str]:
    """The files that should be there, and what belongs in them."""
    return made()


@each_command
def test_help_has_every_option_within_80_columns(command: Command) -> None:
    shown = runner.call(*command.name.split(), "--help").stdout.decode()
    assert max(map(len, shown.splitlines())) <= 80
    text = " ".join(shown.split())
    for option in command.options:
        taken = f"={option.argument}" if option.argument else ""
        assert option.help
        assert f" {', '.join(option.names)}{taken} {option.help} " in f"{text} "


def test_share_has_no_other_files() -> None:
    assert set(FILES) == set(wanted())


@each_file
def test_manual_and_completions_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == wanted()[path], "run: make manual"


@each_file
def test_manual_and_completions_are_installed(path: Path) -> None:
    assert (INSTALLED / path.relative_to(SHARE)).read_bytes() == path.read_bytes()


# --- the page -------------------------------------------------------------------------------------


@functools.cache
def rendered() -> str:
    command = [programs.require("mandoc", in_ci=True), "-Tutf8", "-Owidth=100", str(PAGE)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.sub(".\b", "", text)  # bold and underlined


def test_page_has_the_options_of_every_parser_and_no_other() -> None:
    text = rendered()
    parts = re.split(r"^   blkiomon (\S+)$", text[text.index("\nOPTIONS") :], flags=re.MULTILINE)
    sections = {"": parts[0]} | dict(zip(parts[1::2], parts[2::2]))
    found = {
        name: re.findall(r"^ {3,8}(?:-(\w), )?--([\w-]+)(?:=(\S+))?(?:$| )", section, re.MULTILINE)
        for name, section in sections.items()
    }
    assert found == {
        command.name: [
            (option.short, option.long, option.argument)
            for options in command.groups().values()
            for option in options
        ]
        for command in commands()
    }


def test_page_has_every_word_of_help() -> None:
    text = re.sub(r"\s+", "", rendered()).replace("`", "")
    for command in commands():
        for part in [command.description, *(option.help for option in command.options)]:
            for word in part.replace("`", "").split():
                assert word in text, f"{command.name}: {part}"


def test_page_has_the_sections_of_a_manual() -> None:
    headings = re.findall(r"^[A-Z][A-Z ]+$", rendered(), re.MULTILINE)
    assert headings[:5] == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS"]
    assert {"OUTPUT", "SIGNALS", "EXIT STATUS", "FILES", "EXAMPLES", "BUGS"} <= {*headings}
    assert headings[-1] == "SEE ALSO"


def test_page_has_every_signal() -> None:
    text = rendered()
    for number in SIGNALS:
        assert number.name in text[text.index("\nSIGNALS") : text.index("\nFILES")]


def test_page_has_no_gaps() -> None:
    assert "\n\n\n" not in rendered()


@pytest.mark.parametrize(
    "command",
    [
        ["mandoc", "-Tlint", "-Wwarning"],
        ["man", "--warnings=w", "-E", "UTF-8", "-Tutf8", "-Z", "-l"],
    ],
    ids=lambda command: command[0],
)
def test_page_is_without_faults(command: list[str]) -> None:
    programs.require(command[0], "man-db" if command[0] == "man" else "", in_ci=True)
    environment = OTHERS | {"MANROFFSEQ": "", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        [*command, PAGE], capture_output=True, check=False, env=environment, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert command[0] == "man" or result.stdout == ""


def test_man_finds_the_page_beside_the_command() -> None:
    programs.require("man", "man-db", in_ci=True)
    environment = {k: v for k, v in OTHERS.items() if k not in ("MANPATH", "MANOPT")}
    environment["PATH"] = f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}"
    found = subprocess.run(["man", "-w", "blkiomon"], capture_output=True, env=environment)
    assert Path(found.stdout.decode().strip()).resolve() == INSTALLED / "man/man8/blkiomon.8"


# --- the shells -----------------------------------------------------------------------------------

# Each prints its prompt when it is ready, and afterwards what blkiomon was called with.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        """blkiomon() { printf '<%s>' "$@"; echo; }
        bind 'set bell-style none'; bind 'set enable-bracketed-paste off'
        source SHARE/bash-completion/completions/blkiomon""",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        """blkiomon() { printf '<%s>' "$@"; echo; }
        unsetopt zle_bracketed_paste beep; fpath=(SHARE/zsh/site-functions $fpath)
        autoload -Uz compinit && compinit -D -u""",
    ),
    "fish": (
        ["fish", "--no-config", "-i"],
        """function blkiomon; printf '<%s>' $argv; echo; end
        set -g fish_greeting; set -g fish_autosuggestion_enabled 0
        source SHARE/fish/vendor_completions.d/blkiomon.fish""",
    ),
}


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, command: list[str], directory: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BASH")}
        environment |= {"TERM": "dumb", "HOME": str(directory), "LC_ALL": "C.UTF-8", "PS1": "$ "}
        self._ours, theirs = pty.openpty()
        # fish wants to control its terminal.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=directory,
            env=environment,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def read_until(self, pattern: str) -> str:
        """What it shows, as soon as it shows that."""
        deadline, seen = time.monotonic() + runner.TIMEOUT_S, ""
        while not re.search(pattern, seen):
            ready = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"waited for {pattern!r}, and saw only {seen!r}"
            seen += os.read(self._ours, 1 << 16).decode(errors="replace")
        return seen

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


TYPED = {
    "--js": ["--json"],
    "--hum": ["--human-readable"],
    "rep": ["report"],
    "report --ti": ["report", "--title"],
    "decode --te": ["decode", "--text"],
    "--clock w": ["--clock", "wall"],
    "--clock=t": ["--clock=trace"],
    "--names y": ["--names", "yes"],
    "--json stats-of": ["--json", "stats-of-sdb.jsonl"],
    "-I 1 -h stats-of": ["-I", "1", "-h", "stats-of-sdb.jsonl"],
    "-I 1 'a tr": ["-I", "1", "a trace"],
    "decode stats-of": ["decode", "stats-of-sdb.jsonl"],
    "stat stats-of": ["stat", "stats-of-sdb.jsonl"],
    "help arch": ["help", "archive"],
    "report --json": ["report", "--json"],  # it has no such option
}


@pytest.fixture(scope="module", params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    command, setup = SHELLS[request.param]
    programs.require(command[0], in_ci=True)
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "stats-of-sdb.jsonl").touch()
    (directory / "a trace").touch()
    (directory / "setup").write_text(setup.replace("SHARE", str(INSTALLED)) + "\necho re''ady\n")
    terminal = Terminal(command, directory)
    try:
        terminal.type("source ./setup\r")
        terminal.read_until("ready")
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize(("typed", "wanted"), TYPED.items(), ids=TYPED)
def test_shells_complete(typed: str, wanted: list[str], terminal: Terminal) -> None:
    terminal.type(f"blkiomon {typed}\t\r")
    shown = terminal.read_until(r"(<[^<>\x1b]*>)+\r?\n")
    (line,) = re.findall(r"((?:<[^<>\x1b]*>)+)\r?\n", shown)
    # The = is for the value that follows.
    assert [word.removesuffix("=") for word in re.findall("<(.*?)>", line)] == wanted
