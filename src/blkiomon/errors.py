"""Exceptions about inputs, outputs and missing libraries."""

from __future__ import annotations

from blkiomon.console import EXIT_INPUT


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


class SourceError(OSError):
    """A file cannot be found, read or unpacked; the text says which and why."""


class DamagedError(SourceError):
    """A compressed file is damaged or ends too early."""


def complaint(error: Exception) -> str:
    """The message of an input error. For a damaged trace it begins with the original's words."""
    is_bad_trace = isinstance(error, (TraceError, DamagedError))
    return f"bad trace: {error}" if is_bad_trace else str(error)


class StatsError(ValueError):
    """The bytes are not statistics written with -b, or other bytes follow the statistics.

    Attributes:
        offset: byte offset of the unexpected bytes.
    """

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset

    def __reduce__(self) -> tuple[type[StatsError], tuple[int, str]]:
        return type(self), (self.offset, str(self))


class IntervalError(ValueError):
    """The input is not an encoded interval, or its figures contradict each other."""


class MissingLibrary(ImportError):
    """An optional library is not installed; the text says how to install it."""


class ReportError(Exception):
    """A report cannot be made; the text says why.

    Attributes:
        status: the exit status.
    """

    def __init__(self, text: str, status: int = EXIT_INPUT) -> None:
        super().__init__(text)
        self.status = status


class OutputError(Exception):
    """An output cannot be opened; the text says which and why."""
