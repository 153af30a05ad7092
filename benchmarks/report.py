"""Markdown tables, printed row by row as they are measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Options(NamedTuple):
    quick: bool = False
    """Small streams and few runs: to try the benchmarks, not to measure."""
    full: bool = False
    """Add runs of many minutes."""


class Table(NamedTuple):
    title: str
    columns: str
    """Their names, separated by " | "."""
    rows: Iterable[Sequence[str]]


def show(part: Table | str) -> None:
    """Print a table row by row, or a paragraph."""
    if isinstance(part, str):
        print(f"\n{part}", flush=True)
        return
    print(f"\n{part.title}:\n")
    print(f"| {part.columns} |\n|{'---|' * (1 + part.columns.count(' | '))}", flush=True)
    for row in part.rows:
        print(f"| {' | '.join(row)} |", flush=True)
