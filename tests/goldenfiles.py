"""Stored outputs of the original, for machines that do not have it.

`golden/NAME.bin` is the input of a small case; inputs that are real traces are in `TRACES`.
`golden/NAME.{human,binary,driver,debug}` are the original's text, binary, driver data and debug
outputs, times masked as `oracle` does. In the small cases this program prints the same, with the
original's quirks; in the real traces sums exceed 2^32, where the original's `var` is wrong.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from oracle import Result

DIRECTORY = Path(__file__).parent / "golden"
TRACES = Path(os.environ.get("BLKIOMON_TRACES") or Path(__file__).parent / "data")
OUTPUTS = ("human", "binary", "driver", "debug")
REAL = ("loop-multi-dc", "loop-phases-dc")


@dataclass(frozen=True, slots=True)
class Golden:
    """An input with the original's outputs."""

    data: bytes
    result: Result


def names() -> list[str]:
    """Names of the cases whose input exists."""
    stored = sorted(path.stem for path in DIRECTORY.glob("*.binary"))
    return [name for name in stored if input_path(name).exists()]


def input_path(name: str) -> Path:
    """Where a case's records are."""
    return (TRACES if name in REAL else DIRECTORY) / f"{name}.bin"


def load(name: str) -> Golden:
    """One case."""
    human, binary, driver, debug = (
        (DIRECTORY / f"{name}.{option}").read_bytes() for option in OUTPUTS
    )
    return Golden(input_path(name).read_bytes(), Result(human, binary, driver, debug, b"", 0))
