"""``Format``: how a kind of file is made of items, such as intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

NameOf = Callable[[int], str | None]
"""Maps a device number to the device's name; None if it has none."""

LABELS = ("wwid", "map", "model", "array", "target_port", "hba")
"""Labels of the metric ``blkiomon_device_info``, besides ``device``; other metrics lack them."""

Labels = tuple[str, ...]
"""The values of ``LABELS``; unknown ones are empty, which Prometheus takes as absent."""

InfoOf = Callable[[Iterable[int]], dict[int, Labels]]
"""Maps numbers of devices to their labels; leaves out devices of which nothing is known."""


def no_info(numbers: Iterable[int]) -> dict[int, Labels]:
    """For a trace of a host whose topology is not known."""
    return {}


class FormatOptions(NamedTuple):
    """The user's options for all formats.

    Attributes:
        name_of: names of devices.
        stat_version: layout of the original's statistics, "0.3" or "0.2".
        path: the file as the user gave it.
        info_of: the labels of devices in ``blkiomon_device_info``.
        expected: devices and operations whose metrics exist before the first interval.
    """

    name_of: NameOf
    stat_version: str = "0.3"
    path: str = ""
    info_of: InfoOf = no_info
    expected: Sequence[tuple[int, str]] = ()


class Format(NamedTuple):
    """Which items a file takes, and how an item becomes bytes.

    Attributes:
        takes: types of the items.
        render: yields the bytes of an item in pieces, as large items take a while.
        head: first bytes of the file.
        finish: yields the last bytes of the file; ``render`` then begins a new file. Such a file is
            useless without its end: it waits for space on a full disk, and no other format may
            share its path.
        is_dump: the bytes are driver records, so the file begins like a trace.
        takes_turns: each piece is of one device. If several such formats share a file, it gets the
            first piece of each, then the second of each. Other formats follow, each as a whole.
    """

    takes: tuple[type, ...]
    render: Callable[[Any], Iterator[bytes]]
    head: bytes = b""
    finish: Callable[[], Iterator[bytes]] | None = None
    is_dump: bool = False
    takes_turns: bool = False
