"""How items become the bytes of a file: a ``Format`` for each kind of file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

NameOf = Callable[[int], str | None]
"""The name of a device by its number, or None where it has no name."""


class FormatOptions(NamedTuple):
    """What the user chose for all formats.

    Attributes:
        name_of: names of devices.
        stat_version: layout of the original's statistics, "0.3" or "0.2".
    """

    name_of: NameOf
    stat_version: str = "0.3"


@dataclass(frozen=True, slots=True)
class Format:
    """Which items a format takes, and how one becomes bytes.

    Attributes:
        takes: types of the items.
        render: yields the bytes of an item in pieces, as large items take a while.
        head: first bytes of the file.
        finish: yields the last bytes of the file; ``render`` then begins a new file. A file with an
            end is useful only as a whole. It waits for space on a full disk, and shares its path
            with no other format.
        is_dump: the bytes are driver records, which begin like a trace.
        takes_turns: each piece is of one device. If several such formats share a file, all their
            first pieces are written, then all second ones. Other formats follow, each as a whole.
    """

    takes: tuple[type, ...]
    render: Callable[[Any], Iterator[bytes]]
    head: bytes = b""
    finish: Callable[[], Iterator[bytes]] | None = None
    is_dump: bool = False
    takes_turns: bool = False
