"""The man page, out of what ``--help`` says and of ``manual.txt``, which has what it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from blkiomon import __version__
from tools.commands import Command, Option

DATE = "2026-11-23"
"""Of the last change that a reader would notice."""

SECTIONS = Path(__file__).with_name("manual.txt")

_SPECIAL = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}
_HEADED = re.compile(r"([A-Z][a-z]+(?: [a-z]+)?): (.*)", re.DOTALL)
_HEADING = re.compile(r"[A-Z][A-Z ]+")
_OWN = re.compile(r"(`[^`]+`|(?<![\w-])--?[a-zA-Z][\w-]*)")


def page(commands: list[Command]) -> str:
    """The page in the language of man(7)."""
    text = "\n".join(_lines(commands)) + "\n"
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.MULTILINE)  # one is meant already


def _lines(commands: list[Command]) -> Iterator[str]:
    monitor, *others = commands
    headed = [match for note in monitor.notes if (match := _HEADED.fullmatch(note))]
    yield r".\" Made by `make manual` from --help and tools/manual.txt."
    yield f'.TH BLKIOMON 8 {DATE} "blkiomon {__version__}" "System Administration"'
    yield ".SH NAME"
    yield rf"blkiomon \- {_plain(monitor.summary[0].lower() + monitor.summary[1:])}"
    yield ".SH SYNOPSIS"
    yield from _synopsis(monitor)
    yield ".SH DESCRIPTION"
    yield from _paragraphs(monitor.paragraphs)
    yield from _paragraphs([note for note in monitor.notes if not _HEADED.fullmatch(note)])
    yield ".SH OPTIONS"
    for group in monitor.groups:
        yield f".SS {_quoted(group.title)}"
        yield from _options(group.options)
    yield ".SH COMMANDS"
    for command in others:
        yield f".SS {_quoted('blkiomon ' + command.name)}"
        yield from _synopsis(command)
        yield from _paragraphs(command.paragraphs)
        yield from _options(command.options)
        yield from _paragraphs(command.notes)
        yield from _examples(command.examples)
    for match in headed:
        yield f".SH {_quoted(match[1].upper())}"
        yield from _paragraphs([match[2]])
    yield ".SH EXAMPLES"
    yield from _examples(monitor.examples)
    yield from _sections(SECTIONS.read_text())


def _synopsis(command: Command) -> Iterator[str]:
    yield ".PP"
    yield ".nf"
    for line in command.synopsis:
        indent = "" if line.startswith("blkiomon") else " " * 9
        yield indent + _plain(line).replace("blkiomon", r"\fBblkiomon\fP", 1)
    yield ".fi"


def _paragraphs(texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield ".PP"
        yield _text(text)


def _options(options: list[Option]) -> Iterator[str]:
    for option in options:
        yield ".TP"
        names = ", ".join(rf"\fB{_plain(name)}\fP" for name in option.names)
        yield names + (rf"=\fI{_plain(option.argument)}\fP" if option.argument else "")
        yield _text(option.help)


def _examples(examples: list[tuple[str, str]]) -> Iterator[str]:
    for typed, told in examples:
        yield ".TP" if told else ".PP"
        yield rf"\fB{_plain(typed)}\fP"
        if told:
            yield _text(told)


def _sections(text: str) -> Iterator[str]:
    """Headings in capitals, paragraphs, and terms with what is indented below them."""
    for part in text.strip().split("\n\n"):
        first, *rest = part.split("\n")
        if not rest and _HEADING.fullmatch(first):
            yield f".SH {_quoted(first)}"
        elif rest and rest[0].startswith("    "):
            yield ".TP"
            yield rf"\fB{_plain(first)}\fP"
            yield _text(" ".join(line.strip() for line in rest))
        else:
            yield from _paragraphs([" ".join([first, *rest])])


def _text(text: str) -> str:
    """Running text: what stands between backquotes, and options, in bold."""
    pieces = _OWN.split(text)
    for at in range(1, len(pieces), 2):
        pieces[at] = rf"\fB{_plain(pieces[at].strip('`'))}\fP"
    pieces[::2] = [_plain(piece) for piece in pieces[::2]]
    line = "".join(pieces)
    return rf"\&{line}" if line.startswith((".", r"\(aq")) else line


def _plain(text: str) -> str:
    escaped = "".join(_SPECIAL.get(character, character) for character in text)
    return "".join(c if c.isascii() else rf"\[u{ord(c):04X}]" for c in escaped)


def _quoted(text: str) -> str:
    return f'"{_plain(text)}"'
