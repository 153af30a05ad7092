"""The man pages, made from the commands and from ``manual.txt``, which has other sections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from blkiomon import __version__
from blkiomon.commands.cli import COMMANDS
from blkiomon.commands.options import Command, Option, paragraphs
from tools.completions import summary

DATE = "2026-11-23"
"""Of the last change that a reader would notice."""

SECTIONS = Path(__file__).with_name("manual.txt")

_SPECIAL = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}
_HEADED = re.compile(r"([A-Z][a-z]+(?: [a-z]+)?): (.*)", re.DOTALL)
_HEADING = re.compile(r"[A-Z][A-Z ]+")
_OWN = re.compile(r"(`[^`]+`|(?<![\w-])--?[a-zA-Z][\w-]*)")


def pages(commands: Sequence[Command]) -> dict[str, str]:
    """Every page in the language of man(7), by its name without the section."""
    monitor, *others = commands
    made = {"blkiomon": _tidy(_main_page(monitor, others))}
    return made | {f"blkiomon-{other.name}": _tidy(_sub_page(other)) for other in others}


def _tidy(lines: Iterable[str]) -> str:
    text = "\n".join(lines) + "\n"
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.MULTILINE)  # a heading implies it


def _head(command: Command) -> Iterator[str]:
    name = f"blkiomon-{command.name}".rstrip("-")
    yield r".\" Made by `make manual` from the options of the commands and tools/manual.txt."
    yield (f'.TH {_plain(name.upper())} 8 {DATE} "blkiomon {__version__}" "System Administration"')
    what = summary(command).replace("`", "")
    yield ".SH NAME"
    yield rf"{_plain(name)} \- {_plain(what[0].lower() + what[1:])}"
    yield ".SH SYNOPSIS"
    yield from _synopsis(command)
    yield ".SH DESCRIPTION"
    yield from _paragraphs(paragraphs(command.description))


def _sub_page(command: Command) -> Iterator[str]:
    yield from _head(command)
    notes = paragraphs(command.notes)
    headed = [match for note in notes if (match := _HEADED.fullmatch(note))]
    yield from _paragraphs([note for note in notes if not _HEADED.fullmatch(note)])
    yield ".SH OPTIONS"
    yield from _options(command.options)
    yield from _ends(command, headed)
    yield ".SH SEE ALSO"
    yield ".PP"
    yield r"\fBblkiomon\fP(8)"


def _ends(command: Command, headed: Iterable[re.Match[str]]) -> Iterator[str]:
    """Paragraphs that begin with a heading, and the examples."""
    for match in headed:
        yield f".SH {_quoted(match[1].upper())}"
        yield from _paragraphs([match[2][0].upper() + match[2][1:]])
    if command.examples:
        yield ".SH EXAMPLES"
        yield from _examples(command.examples)


def _main_page(monitor: Command, others: Sequence[Command]) -> Iterator[str]:
    notes = paragraphs(monitor.notes)
    headed = [match for note in notes if (match := _HEADED.fullmatch(note))]
    yield from _head(monitor)
    yield from _paragraphs([note for note in notes if not _HEADED.fullmatch(note)])
    yield ".SH OPTIONS"
    for title, options in monitor.groups().items():
        yield f".SS {_quoted(title)}"
        yield from _options(options)
    yield ".SH COMMANDS"
    for command in others:
        yield ".TP"
        yield rf"\fBblkiomon\-{command.name}\fP(8)"
        yield _text(COMMANDS[command.name][1])
    yield from _ends(monitor, headed)
    yield from _sections(SECTIONS.read_text())


def _synopsis(command: Command) -> Iterator[str]:
    yield ".PP"
    yield ".nf"
    for line in command.usage:
        indent = "" if line.startswith("blkiomon") else " " * 9
        yield indent + _plain(line.strip()).replace("blkiomon", r"\fBblkiomon\fP", 1)
    yield ".fi"


def _paragraphs(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield ".PP"
        yield _text(text)


def _options(options: Sequence[Option]) -> Iterator[str]:
    for option in options:
        yield ".TP"
        names = ", ".join(rf"\fB{_plain(name)}\fP" for name in option.names)
        yield names + (rf"=\fI{_plain(option.argument)}\fP" if option.argument else "")
        yield _text(option.help)


def _examples(examples: Sequence[tuple[str, str]]) -> Iterator[str]:
    for command, effect in examples:
        yield ".TP" if effect else ".PP"
        yield rf"\fB{_plain(command)}\fP"
        if effect:
            yield _text(effect)


def _sections(text: str) -> Iterator[str]:
    """Headings in capitals; paragraphs; terms with an indented text below them."""
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
    """Running text: options, and words in backquotes, in bold."""
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
