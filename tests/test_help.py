"""Help for people: the overview, ``blkiomon help COMMAND``, and -h of every command."""

from __future__ import annotations

import os
import pty
import shlex
from collections.abc import Iterator

import pytest
import runner

from blkiomon.commands import cli
from blkiomon.commands.help import FIRST

each_command = pytest.mark.parametrize("name", cli.COMMANDS)


@pytest.fixture
def terminal() -> Iterator[int]:
    """A descriptor of a terminal, which nobody types on."""
    ours, theirs = pty.openpty()
    yield theirs
    os.close(theirs)
    os.close(ours)


def test_command_alone_on_a_terminal_says_what_to_type(terminal: int) -> None:
    result = runner.run(stdin=terminal)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == runner.succeed("help")


def test_command_alone_in_a_script_fails_as_the_original_does() -> None:
    result = runner.call()
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"the length of an interval is missing" in result.stderr


def test_overview_fits_a_screen_and_has_a_line_for_each_command() -> None:
    lines = runner.succeed("help").decode().splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) <= 80
    assert len(FIRST) == 6
    for words in [*(typed for typed, _ in FIRST), *cli.COMMANDS.keys() - {"help"}]:
        assert sum(line.startswith(f"  {words} ") for line in lines) == 1, words


@pytest.mark.parametrize("typed", [typed for typed, _ in FIRST])
def test_overview_shows_options_that_exist(typed: str) -> None:
    words = shlex.split(typed)[1:]
    sub = [word for word in words[:1] if word in cli.COMMANDS]
    text = runner.succeed(*sub, "--help").decode()
    words = words[: words.index("--")] if "--" in words else words
    for word in words:
        assert not word.startswith("-") or word == "-" or f" {word}" in text, word


@each_command
def test_each_command_has_help_in_three_spellings(name: str) -> None:
    text = runner.succeed(name, "--help")
    assert text.startswith(f"Usage: blkiomon {name}".encode())
    assert text == runner.succeed(name, "-h") == runner.succeed("help", name)
    assert max(map(len, text.decode().splitlines())) <= 80


def test_help_blkiomon_prints_the_help_of_the_monitor() -> None:
    assert runner.succeed("help", "blkiomon") == runner.succeed("--help")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["reprot"], "unknown command 'reprot'; did you mean 'report'?"),
        (["xyzzy"], "unknown command 'xyzzy'; there are summary, stat, top, "),
        (["top", "report"], "help takes one command"),
    ],
)
def test_help_about_something_else_is_refused(names: list[str], said: str) -> None:
    result = runner.call("help", *names)
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.startswith(f"blkiomon: {said}".encode())


def test_h_alone_says_that_it_takes_a_file() -> None:
    result = runner.call("-h")
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"-h requires argument, the FILE that text is written to; --help prints help" in (
        result.stderr
    )
