"""The man page and the completions: they have every option and no other, and they work."""

from __future__ import annotations

import functools
import getopt
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import runner
from sanitizers import OTHERS

from blkiomon.commands import cli
from blkiomon.console import SIGNALS
from tools.__main__ import SHARE, made
from tools.commands import Command, commands

NAMES = ("", *cli._COMMANDS)
FILES = sorted(path for path in SHARE.rglob("*") if path.is_file())
PAGE = SHARE / "man/man8/blkiomon.8"
INSTALLED = Path(sys.prefix, "share")

each_command = pytest.mark.parametrize("name", NAMES, ids=lambda name: name or "monitor")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


@functools.cache
def asked() -> dict[str, Command]:
    """What the help of each command says, by name: each takes a process, which is run once."""
    return {command.name: command for command in commands()}


@functools.cache
def wanted() -> dict[Path, str]:
    """The files that should be there, and what belongs in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.__main__.commands", lambda: [*asked().values()])
        return made()


def require(program: str) -> str:
    """The path of a program; skips the test without it, fails under CI, where it must be there."""
    path = shutil.which(program)
    if path is None:
        package = "man-db" if program == "man" else program
        reason = f"{program} is not installed (apt-get install {package})"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def parser_of(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], set[str]]:
    """The short and long options that a command asks getopt for, with : or = if with an argument.

    The monitor also takes abbreviations; they are no options of their own.
    """
    seen: list[tuple[str, list[str]]] = []

    def spy(arguments: list[str], short: str, long: list[str]) -> Any:
        seen.append((short, long))
        raise getopt.GetoptError("seen")

    monkeypatch.setattr(getopt, "gnu_getopt", spy)
    if name:
        assert import_module(cli._COMMANDS[name]).main(["--help"]) != 0
    else:
        with pytest.raises(cli.UsageError):
            cli.parse(["--help"])
    ((short, long),) = seen
    full = {o.long for o in cli.OPTIONS} if not name else {n.removesuffix("=") for n in long}
    return set(re.findall(r"\w:?", short)), {n for n in long if n.removesuffix("=") in full}


def options_of(command: Command) -> tuple[set[str], set[str]]:
    """The same, as help names them."""
    options = command.options
    return (
        {option.short + ":" * bool(option.argument) for option in options if option.short},
        {option.long + "=" * bool(option.argument) for option in options},
    )


@each_command
def test_help_has_the_options_of_the_parser(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options_of(asked()[name]) == parser_of(name, monkeypatch)
    assert all(option.help for option in asked()[name].options)


@each_command
def test_help_can_be_taken_apart(name: str) -> None:
    command = asked()[name]
    assert command.synopsis[0].startswith(f"blkiomon {name}".strip())
    assert command.paragraphs
    text = " ".join([*command.paragraphs, *command.notes])
    assert not re.search(r"  |(^| )--?\w[\w-]*=", text), "an option was taken for text"


def test_no_other_files_are_shared() -> None:
    assert set(FILES) == set(wanted())


@each_file
def test_what_is_made_of_help_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == wanted()[path], "run: make manual"


@each_file
def test_they_are_installed_where_they_are_looked_for(path: Path) -> None:
    assert (INSTALLED / path.relative_to(SHARE)).read_bytes() == path.read_bytes()


# --- the page -------------------------------------------------------------------------------------


@functools.cache
def rendered() -> str:
    command = [require("mandoc"), "-Tutf8", "-Owidth=100", str(PAGE)]
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
        name: [(option.short, option.long, option.argument) for option in command.options]
        for name, command in asked().items()
    }


def test_page_has_every_word_of_help() -> None:
    text = re.sub(r"\s+", "", rendered()).replace("`", "")
    for command in asked().values():
        for part in [*command.paragraphs, *(option.help for option in command.options)]:
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
    require(command[0])
    environment = OTHERS | {"MANROFFSEQ": "", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        [*command, PAGE], capture_output=True, check=False, env=environment, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert command[0] == "man" or result.stdout == ""


def test_man_finds_the_page_beside_the_command() -> None:
    require("man")
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
    "report --json": ["report", "--json"],  # it has no such option
}


@pytest.fixture(scope="module", params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    command, setup = SHELLS[request.param]
    require(command[0])
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
