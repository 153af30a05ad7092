"""Lines of styled text: their width in cells, and their escape sequences.

A style has the parameters between ``ESC [`` and ``m`` (SGR), such as ``1;31``. Colours are the
eight that every terminal has, so that its user's theme chooses them.
"""

from __future__ import annotations

import os
import re
import textwrap
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from operator import itemgetter

BOLD, DIM, UNDERLINE, REVERSE = "1", "2", "4", "7"
RED, YELLOW = "31", "33"
ALARM = "1;37;41"
"""Bold white on red."""

Span = tuple[str, str]
"""A text and its style; an empty style is plain."""

Line = list[Span]


_NARROW = re.compile("[\0-\u02ff\u2010-\u2026\u2500-\u25bf]*")
"""Texts without a character that combines or is wide: nearly all."""


def has_colours() -> bool:
    """Whether the user wants colours, see https://no-color.org."""
    return not os.environ.get("NO_COLOR")


def cell_len(text: str) -> int:
    """How many cells of a terminal a printable text takes."""
    if text.isascii() or _NARROW.fullmatch(text):
        return len(text)
    return sum(map(_width, text))


@cache
def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 1 + (unicodedata.east_asian_width(character) in "WF")


def cut(text: str, width: int) -> str:
    """A text in at most ``width`` cells; if it is longer, exactly so many, with an ellipsis."""
    if cell_len(text) <= width:
        return text
    while cell_len(text) >= width > 0:
        text = text[:-1]
    # Half of a wide character is left as a space.
    return text + " " * (width - 1 - cell_len(text)) + "…" if width else ""


def wrapped(text: str, style: str, width: int) -> list[Line]:
    """A text as lines of at most ``width`` characters each."""
    return [[(line, style)] for line in textwrap.wrap(text, width)]


def joined(*styles: str) -> str:
    """Several styles as one."""
    return ";".join(filter(None, styles))


def painted(line: Iterable[Span], width: int, *, in_colour: bool) -> str:
    """A line with escape sequences, in at most ``width`` cells."""
    parts = []
    for style, spans in groupby(line, itemgetter(1)):
        text = "".join(text for text, _ in spans)
        length = cell_len(text)
        if length > width:
            text, length = cut(text, width), width
        width -= length
        if not in_colour:
            style = ";".join(part for part in style.split(";") if len(part) < 2)
        parts.append(f"\x1b[{style}m{text}\x1b[0m" if style and text else text)
    return "".join(parts)
