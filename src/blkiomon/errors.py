"""What can go wrong with the input, the outputs and the installation."""

from __future__ import annotations


class TraceError(ValueError):
    """The bytes are not a trace.

    Attributes:
        offset: byte offset of the unexpected bytes, in the file or in the stream.
        found: what is there.
        expected: what should be there.
        file: the file's name, if known.
    """

    def __init__(self, offset: int, found: str, expected: str, file: str | None = None) -> None:
        where = f"{file}: " if file is not None else ""
        super().__init__(f"{where}at byte offset {offset}: found {found}, expected {expected}")
        self.offset = offset
        self.found = found
        self.expected = expected
        self.file = file

    def __reduce__(self) -> tuple[type[TraceError], tuple[int, str, str, str | None]]:
        return type(self), (self.offset, self.found, self.expected, self.file)


class SourceError(Exception):
    """A file cannot be found, read or unpacked; the text says which and why."""


class DamagedError(SourceError):
    """A compressed file is damaged or ends too early."""


def complaint(error: Exception) -> str:
    """A message about an error of the input. For bad bytes it begins as the original's."""
    is_bad_trace = isinstance(error, (TraceError, DamagedError))
    return f"bad trace: {error}" if is_bad_trace else str(error)


class StatsError(ValueError):
    """The bytes are not, or not only, statistics that -b writes.

    Attributes:
        offset: byte offset of the unexpected bytes.
    """

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset

    def __reduce__(self) -> tuple[type[StatsError], tuple[int, str]]:
        return type(self), (self.offset, str(self))


class IntervalError(ValueError):
    """Not an interval that ``to_bytes`` or ``to_dict`` encoded, or its figures contradict."""


class MissingLibrary(Exception):
    """An optional library is not installed; the text says how to install it."""


class OutputError(Exception):
    """An output cannot be opened; the text says which and why."""
