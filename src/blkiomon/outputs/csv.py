"""CSV: the flat table with a line of column names; empty fields where there is no figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from blkiomon.devices import nameless
from blkiomon.interval import Interval
from blkiomon.outputs import table


def lines(records: Iterable[Iterable[Any]]) -> bytes:
    """Records as lines, quoted where they must be; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(records)
    return text.getvalue().encode()


HEAD = lines([[column.name for column in table.COLUMNS]])


def renderer(
    name_of: Callable[[int], str | None] = nameless,
) -> Callable[[Interval], Iterator[bytes]]:
    """A function from an interval to its lines; ``HEAD`` belongs before the first one."""

    def render(interval: Interval) -> Iterator[bytes]:
        yield lines(
            [column.value(row) for column in table.COLUMNS] for row in table.rows(interval, name_of)
        )

    return render
