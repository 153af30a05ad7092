"""Tables as Markdown, printed while they come into being."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Options(NamedTuple):
    quick: bool = False
    """Small streams and few runs: to see that everything works, not to measure."""
    full: bool = False
    """Also what takes minutes."""


class Table(NamedTuple):
    title: str
    columns: Sequence[str]
    rows: Iterable[Sequence[str]]


def show(part: Table | str) -> None:
    """Print a table row by row, or a paragraph."""
    if isinstance(part, str):
        print(f"\n{part}", flush=True)
        return
    print(f"\n{part.title}:\n")
    print(f"| {' | '.join(part.columns)} |\n|{'---|' * len(part.columns)}", flush=True)
    for row in part.rows:
        print(f"| {' | '.join(row)} |", flush=True)
