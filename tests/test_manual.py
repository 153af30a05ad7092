"""The man pages and the completions: they have every option and no other, and they work."""

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
PAGES = sorted((SHARE / "man/man8").iterdir())
INSTALLED = Path(sys.prefix, "share")

each_command = pytest.mark.parametrize("command", commands(), ids=lambda c: c.name or "monitor")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
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


# --- the pages ------------------------------------------------------------------------------------


def page_of(command: Command) -> Path:
    return SHARE / f"man/man8/{f'blkiomon-{command.name}'.rstrip('-')}.8"


@functools.cache
def rendered(page: Path) -> str:
    command = [programs.require("mandoc", in_ci=True), "-Tutf8", "-Owidth=100", str(page)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.sub(".\b", "", text)  # bold and underlined


def headings(page: Path) -> list[str]:
    return re.findall(r"^[A-Z][A-Z ]+$", rendered(page), re.MULTILINE)


def test_every_command_has_a_page() -> None:
    assert {page_of(command) for command in commands()} == {*PAGES}


@each_command
def test_page_has_the_options_of_the_parser_and_no_other(command: Command) -> None:
    text = rendered(page_of(command))
    section = re.split(r"^[A-Z]+$", text[text.index("\nOPTIONS") + 9 :], flags=re.MULTILINE)[0]
    found = re.findall(r"^ {3,8}(?:-(\w), )?--([\w-]+)(?:=(\S+))?(?:$| )", section, re.MULTILINE)
    assert found == [
        (option.short, option.long, option.argument)
        for options in command.groups().values()
        for option in options
    ]


@each_command
def test_page_has_every_paragraph_of_help(command: Command) -> None:
    def plain(text: str) -> str:
        return " ".join(text.replace("`", "").lower().split())

    text = plain(rendered(page_of(command)))
    examples = [part for example in command.examples for part in example]
    for part in [
        command.description,
        *re.split(r"\n\n|^ *[A-Z][a-z ]+:", command.notes, flags=re.MULTILINE),
        *(option.help for option in command.options),
        *examples,
    ]:
        assert plain(part) in text


def test_main_page_has_the_sections_of_a_manual_and_names_the_commands() -> None:
    main, *others = commands()
    found = headings(page_of(main))
    assert found[:5] == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS"]
    assert {"OUTPUT", "SIGNALS", "EXIT STATUS", "FILES", "EXAMPLES", "BUGS"} <= {*found}
    assert found[-1] == "SEE ALSO"
    for other in others:
        assert f"blkiomon-{other.name}(8)" in rendered(page_of(main))


@pytest.mark.parametrize("command", commands()[1:], ids=lambda command: command.name)
def test_page_of_a_command_has_the_usual_sections_and_none_of_the_main_page(
    command: Command,
) -> None:
    page = page_of(command)
    found = headings(page)
    assert found[:4] == ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"] and found[-1] == "SEE ALSO"
    assert {*found[4:-1]} <= {"COLUMNS", "EXIT STATUS", "EXAMPLES"}
    assert rendered(page).rstrip().splitlines()[-3].strip() == "blkiomon(8)"


def test_page_has_every_signal() -> None:
    text = rendered(page_of(commands()[0]))
    for number in SIGNALS:
        assert number.name in text[text.index("\nSIGNALS") : text.index("\nFILES")]


@each_page
def test_page_has_no_gaps(page: Path) -> None:
    assert "\n\n\n" not in rendered(page)


@pytest.mark.parametrize(
    "command",
    [
        ["mandoc", "-Tlint", "-Wwarning"],
        ["man", "--warnings=w", "-E", "UTF-8", "-Tutf8", "-Z", "-l"],
    ],
    ids=lambda command: command[0],
)
@each_page
def test_page_is_without_faults(page: Path, command: list[str]) -> None:
    programs.require(command[0], "man-db" if command[0] == "man" else "", in_ci=True)
    environment = OTHERS | {"MANROFFSEQ": "", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        [*command, page], capture_output=True, check=False, env=environment, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert command[0] == "man" or result.stdout == ""


@pytest.mark.parametrize("typed", [["blkiomon"], ["blkiomon", "record"]], ids=" ".join)
def test_man_finds_the_pages_beside_the_command(typed: list[str]) -> None:
    programs.require("man", "man-db", in_ci=True)
    environment = {k: v for k, v in OTHERS.items() if k not in ("MANPATH", "MANOPT")}
    environment["PATH"] = f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}"
    found = subprocess.run(["man", "-w", *typed], capture_output=True, env=environment)
    page = INSTALLED / f"man/man8/{'-'.join(typed)}.8"
    assert page.resolve() in [Path(line).resolve() for line in found.stdout.decode().splitlines()]


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

    def complete(self, typed: str) -> list[str]:
        """The arguments that blkiomon gets after these words and a tabulator."""
        self.type(f"blkiomon {typed}\t\r")
        shown = self.read_until(r"(<[^<>\x1b]*>)+\r?\n")
        (line,) = re.findall(r"((?:<[^<>\x1b]*>)+)\r?\n", shown)
        return re.findall("<(.*?)>", line)

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
    "stat --op rea": ["stat", "--op", "read"],
    "--op=write_": ["--op=write_zeroes"],
    "report --chart in-f": ["report", "--chart", "in-flight"],
    "compare --chart s": ["compare", "--chart", "sizes"],
    "--json stats-of": ["--json", "stats-of-sdb.jsonl"],
    "-I 1 -h stats-of": ["-I", "1", "-h", "stats-of-sdb.jsonl"],
    "-I 1 'a tr": ["-I", "1", "a trace"],
    "decode stats-of": ["decode", "stats-of-sdb.jsonl"],
    "stat stats-of": ["stat", "stats-of-sdb.jsonl"],
    "help arch": ["help", "archive"],
    "-I 1 of-two-c": ["-I", "1", "of-two-cpus"],
    "report of-two-c": ["report", "of-two-cpus"],
    "stat of-two-c": ["stat", "of-two-cpus"],
    "stat packed-s": ["stat", "packed-set"],
    "stat -f of-two-c": ["stat", "-f", "of-two-cpus"],
    "summary of-two-cpus.blktrace.1": ["summary", "of-two-cpus.blktrace.1"],
    "report --json": ["report", "--json"],  # it has no such option
}


@pytest.fixture(scope="module", params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    command, setup = SHELLS[request.param]
    programs.require(command[0], in_ci=True)
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "stats-of-sdb.jsonl").touch()
    (directory / "a trace").touch()
    for cpu in (0, 1):
        (directory / f"of-two-cpus.blktrace.{cpu}").touch()
        (directory / f"packed-set.blktrace.{cpu}.{('zst', 'zstd')[cpu]}").touch()
    (directory / "of-two-cpus.topology.json").touch()
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
    # The = is for the value that follows.
    assert [word.removesuffix("=") for word in terminal.complete(typed)] == wanted


@pytest.mark.parametrize("terminal", ["bash", "zsh"], indirect=True)
def test_shells_do_not_take_a_topology_for_a_trace(terminal: Terminal) -> None:
    assert terminal.complete("report of-two-cpus.t") == ["report", "of-two-cpus.t"]
    named = ["report", "--topology", "of-two-cpus.topology.json"]
    assert terminal.complete("report --topology of-two-cpus.t") == named


def unique_device() -> str:
    """A block device of this host that all but its last character identifies, or nothing."""
    names = [path.name for path in Path("/sys/class/block").iterdir()]
    unique = [n for n in names if sum(other.startswith(n[:-1]) for other in names) == 1]
    return next(iter(sorted(unique)), "")


@pytest.mark.parametrize("option", ["stat ", "--trace ", "--device ", "top --device ", "--device="])
def test_shells_complete_devices(option: str, terminal: Terminal) -> None:
    name = unique_device() or programs.missing("no device has a name of its own", in_ci=False)
    assert terminal.complete(option + name[:-1]) == f"{option}{name}".split()
