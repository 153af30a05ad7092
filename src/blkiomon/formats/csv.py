"""CSV: the flat table, after a line of column names. A figure that does not exist is empty.

Means and rates have 12 significant digits, which Python converts to text by a fast method.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from blkiomon.console import printable
from blkiomon.formats import flat_table as table
from blkiomon.formats import templates
from blkiomon.formats.rendering import Format, FormatOptions, NameOf
from blkiomon.formats.templates import Part, literal
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
    return Format((Interval,), renderer(options.name_of), head=HEAD)


def renderer(name_of: NameOf = nameless) -> Callable[[Interval], Iterator[bytes]]:
    """A function from an interval to its lines. Write ``HEAD`` before the first interval."""
    return lambda interval: (_rows_text(rows) for rows in table.rows(interval, name_of))


_CONVERSIONS = {"count": b"%d", "time": b"%d", "real": b"%.12g", "text": b"%b"}


def _rows_text(rows: table.Rows) -> bytes:
    """The lines of some rows. Only names may need quotes: the rest is numbers and plain words."""
    parts = []
    for column in table.COLUMNS:
        values = column.values(rows)
        if values is not None and column.kind == "text":
            encode = _quoted if column.name == "name" else str.encode
            fields = {t: None if t is None else encode(t) for t in dict.fromkeys(values)}
            values = [fields[text] for text in values]
        conversion = _CONVERSIONS[column.kind]
        parts.append(literal(b"") if values is None else templates.column(values, b"", conversion))
    line = templates.joined(parts)
    return b"".join(Part(line.template + b"\n", line.columns).texts(len(rows)))


def _quoted(name: str) -> bytes:
    """A name as a field, quoted if necessary; characters that control terminals are escaped."""
    return lines([[printable(name), ""]]).removesuffix(b",\n")
