"""What can go wrong with the input, the outputs and the installation."""

from __future__ import annotations


class TraceError(ValueError):
    """The bytes are no trace.

    Attributes:
        offset: byte offset in the stream, or in the file, of what was not understood.
        found: what stands there.
        expected: what should have stood there.
        file: the file's name, if it is known.
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
    """A file cannot be found, read or decompressed; the text says which and why."""


class DamagedError(SourceError):
    """A compressed file cannot be decompressed to its end."""


def complaint(error: Exception) -> str:
    """A line about the input, which begins as the original's do where its bytes are at fault."""
    is_bad_trace = isinstance(error, (TraceError, DamagedError))
    return f"bad trace: {error}" if is_bad_trace else str(error)


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


class IntervalError(ValueError):
    """This is not an interval of ``to_bytes`` or ``to_dict``, or it contradicts itself."""


class MissingLibrary(Exception):
    """An optional library is not installed; the text says how to install it."""


class OutputError(Exception):
    """An output cannot be opened; the text says which and why."""
