"""Render many rows with one ``%`` template.

Converting numbers to text takes most of the time. A column with few distinct values converts each
once. If all values are equal, their text becomes part of the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Part(NamedTuple):
    """A part of the text of n rows.

    Attributes:
        template: a ``%`` template with a ``%s`` for each column.
        columns: lists of n values.
    """

    template: str
    columns: Sequence[list[Any]] = ()

    def texts(self, n: int) -> list[str]:
        """The text of this part in each row."""
        if not self.columns:
            return [self.template % ()] * n
        return list(map(self.template.__mod__, zip(*self.columns, strict=True)))


def literal(text: str) -> Part:
    """The same text in all rows."""
    return Part(text.replace("%", "%%"))


SAMPLE = 512
"""How many values of a column are examined for repetitions."""


class _Texts(dict[Any, str]):
    """Value -> its text; converts each value once."""

    def __init__(self, conversion: str, none: str) -> None:
        super().__init__({None: none})
        self._conversion = conversion

    def __missing__(self, value: Any) -> str:
        text: str = self._conversion % value
        self[value] = text
        return text


def column(values: list[Any], none: str, conversion: str = "%s") -> Part:
    """A part that consists of one value per row.

    Args:
        values: numbers of one type, or texts, or None.
        none: the text of None.
        conversion: of a value to text, for the ``%`` operator.
    """
    sample = values[:SAMPLE]
    distinct = len(set(sample))
    if distinct == 1 and values.count(values[0]) == len(values):
        return literal(_Texts(conversion, none)[values[0]])
    if None in values or 2 * distinct < len(sample):
        texts = _Texts(conversion, none)
        return Part("%s", [list(map(texts.__getitem__, values))])
    return Part(conversion, [values])


def joined(parts: Sequence[Part], separator: str = "") -> Part:
    """All parts, one after the other."""
    template = separator.replace("%", "%%").join(part.template for part in parts)
    return Part(template, [column for part in parts for column in part.columns])
