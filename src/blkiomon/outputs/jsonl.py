"""JSON Lines: an interval a line; ``docs/schema.md`` explains the fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from blkiomon.devices import nameless
from blkiomon.interval import Interval


def renderer(
    name_of: Callable[[int], str | None] = nameless,
) -> Callable[[Interval], Iterator[bytes]]:
    """A function from an interval to its line."""

    def render(interval: Interval) -> Iterator[bytes]:
        line = json.dumps(interval.to_dict(name_of=name_of), separators=(",", ":"), allow_nan=False)
        yield line.encode() + b"\n"

    return render
