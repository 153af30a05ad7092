"""What ``--help`` says, taken apart: the one source of the man page and of the completions.

It is asked as a user asks it, so that a new command or option needs nothing here. How it is written
is a convention, which a test holds against the parsers:

- paragraphs between blank lines, the first of which begins with ``Usage:``;
- an option a line, ``  -o, --output=FILE  what it is for``, what does not fit indented below, and
  above them perhaps a line that ends in a colon;
- under ``Examples:`` a command a line, and indented further what it does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import NamedTuple

from blkiomon.commands.cli import _COMMANDS

_OPTION = re.compile(r"  (?:-(\w), |    )--([\w-]+)(?:=(\S+))?(?: +(\S.*))?")


class Option(NamedTuple):
    """An option; empty where it has no short name or takes no argument."""

    short: str
    long: str
    argument: str
    help: str

    @property
    def names(self) -> list[str]:
        """As they are typed."""
        return [f"-{self.short}"] * bool(self.short) + [f"--{self.long}"]

    @property
    def choices(self) -> list[str]:
        """The words that it takes, if they are told."""
        return self.argument.split("|") if "|" in self.argument else []


class Group(NamedTuple):
    """Options that stand together; the title may be empty."""

    title: str
    options: list[Option]


class Command(NamedTuple):
    """What a command's help says. The name is empty for the monitor itself."""

    name: str
    synopsis: list[str]
    paragraphs: list[str]
    groups: list[Group]
    notes: list[str]
    examples: list[tuple[str, str]]

    @property
    def options(self) -> list[Option]:
        """Those of all groups."""
        return [option for group in self.groups for option in group.options]

    @property
    def summary(self) -> str:
        """The first sentence, without its full stop."""
        return re.split(r"[.:](?:\s|$)", self.paragraphs[0])[0]


def commands() -> list[Command]:
    """The monitor itself, then the commands."""
    return [parse(name, help_of(name)) for name in ("", *_COMMANDS)]


def help_of(name: str) -> str:
    """What a command prints when it is asked for help."""
    words = [sys.executable, "-m", "blkiomon", *name.split(), "--help"]
    environment = os.environ | {"PYTHONUTF8": "1"}
    return subprocess.run(words, check=True, env=environment, capture_output=True, text=True).stdout


def parse(name: str, text: str) -> Command:
    """Take help apart: what stands before the options is the description, then come notes."""
    usage, *parts = text.strip("\n").split("\n\n")
    synopsis = usage.removeprefix("Usage: ").split("\n")
    command = Command(name, [line.strip() for line in synopsis], [], [], [], [])
    for part in parts:
        lines = part.strip("\n").split("\n")
        if lines[0] == "Examples:":
            command.examples.extend(_examples(lines[1:]))
        elif any(_OPTION.fullmatch(line) for line in lines[:2]):
            command.groups.append(_group(lines))
        else:
            paragraphs = command.notes if command.groups else command.paragraphs
            paragraphs.append(" ".join(line.strip() for line in lines))
    return command


def _group(lines: list[str]) -> Group:
    title = "" if _OPTION.fullmatch(lines[0]) else lines.pop(0).removesuffix(":")
    options: list[Option] = []
    for line in lines:
        if match := _OPTION.fullmatch(line):
            options.append(Option(*(text or "" for text in match.groups())))
        else:
            last = options[-1]
            options[-1] = last._replace(help=f"{last.help} {line.strip()}".strip())
    return Group(title, options)


def _examples(lines: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith("   "):
            typed, told = found.pop()
            found.append((typed, f"{told} {line.strip()}".strip()))
        else:
            found.append((line.strip(), ""))
    return found
