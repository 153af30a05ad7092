"""Merges trace files of several CPUs or devices into one stream in order of time."""

from collections.abc import Callable, Sequence
from typing import final

@final
class Merger:
    """Merges record streams by time, reading each through a window.

    Of the next records of all files, the one with the least time comes first. If times are equal,
    the first of these files wins. The order within a file never changes; if every file is in order
    of time, so is the output. Records are copied unchanged, with their payloads; only ``shift``
    changes their times. Versions may be mixed, but all files must have the same byte order.
    For one thread at a time: otherwise RuntimeError.

    Args:
        names: of the files, for messages.
        readers: a function for each file, which writes the next bytes to the beginning of a buffer
            and returns how many; 0 at the end of the file.
        window_bytes: bytes of each file in memory; more if one record is longer.
        output_bytes: most bytes that ``read`` returns.
        resync: after garbage, go on at the next plausible record instead of failing.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        names: Sequence[str],
        readers: Sequence[Callable[[memoryview], int]],
        *,
        window_bytes: int,
        output_bytes: int = 1 << 20,
        resync: bool = False,
    ) -> None: ...
    def read(self) -> memoryview:
        """The next complete records, valid until the next call; empty at the end of all files.

        A file that ends inside a record, or whose reader raises OSError, ends there:
        see ``failures``.

        Raises:
            TraceError: the next bytes of a file are not a record. Everything before them has been
                returned; every later call raises the same error.
        """

    def peek(self, whole: Sequence[bool]) -> list[bytes]:
        """The first bytes of each file; ``read`` returns them again. Only before ``read``.

        Args:
            whole: for each file, whether to fill its window instead of returning the first bytes.
        """

    def shift(self, by_ns: Sequence[int]) -> None:
        """Add ns to the times of each file's records. Only before the first ``read``."""

    def take_skips(self) -> list[tuple[str, int, int]]:
        """The garbage skipped since this was last called: (file, byte offset, number of bytes)."""

    @property
    def failures(self) -> list[Exception]:
        """Why files ended early, in the order in which that happened.

        ``TraceError`` for a file that ends inside a record (with ``resync`` those bytes count as
        skipped), or what its reader raised.
        """

    @property
    def lost_events(self) -> int:
        """Events lost according to the tracer's marks. The marks are removed from the stream.

        A mark counts when everything before it has been returned.
        """

    @property
    def skipped_bytes(self) -> int:
        """Bytes skipped by ``resync``. They count when everything before them was returned."""

    @property
    def padding_bytes(self) -> int:
        """Zeros skipped as padding: 48 or more after a record, or any at the end of a file."""
