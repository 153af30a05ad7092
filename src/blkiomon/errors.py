"""What can go wrong with the input."""

from __future__ import annotations


class TraceError(ValueError):
    """The bytes are no trace.

    Attributes:
        offset: byte offset in the stream of what was not understood.
        found: what stands there.
        expected: what should have stood there.
    """

    def __init__(self, offset: int, found: str, expected: str) -> None:
        super().__init__(f"at byte offset {offset}: found {found}, expected {expected}")
        self.offset = offset
        self.found = found
        self.expected = expected

    def __reduce__(self) -> tuple[type[TraceError], tuple[int, str, str]]:
        return type(self), (self.offset, self.found, self.expected)


class StatsError(ValueError):
    """The bytes are no interval statistics of the original's layouts, or not only.

    Attributes:
        offset: byte offset of what was not understood.
    """

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset

    def __reduce__(self) -> tuple[type[StatsError], tuple[int, str]]:
        return type(self), (self.offset, str(self))
