"""CSV: the flat table, after a line of column names. A figure that does not exist is empty."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from blkiomon.console import printable
from blkiomon.formats import flat_table as table
from blkiomon.formats.rendering import Format, FormatOptions, NameOf
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless


def lines(records: Iterable[Iterable[Any]]) -> bytes:
    """Records as CSV lines, quoted if necessary; None becomes an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(records)
    return text.getvalue().encode()


HEAD = lines([[column.name for column in table.COLUMNS]])


def output_format(options: FormatOptions) -> Format:
    """``--csv``."""
    return Format((Interval,), partial(render, name_of=options.name_of), head=HEAD)


def render(interval: Interval, name_of: NameOf = nameless) -> Iterator[bytes]:
    """The lines of an interval. Write ``HEAD`` before the first interval."""

    def escaped(number: int) -> str:
        """The name of a device, without characters that control terminals."""
        return printable(name_of(number) or "")

    for rows in table.rows(interval, escaped):
        yield lines(zip(*(column.listed(rows) for column in table.COLUMNS), strict=True))
