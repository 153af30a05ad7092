"""Traces of several CPUs or devices in, one stream in order of time out."""

from collections.abc import Callable, Sequence
from typing import final

@final
class Merger:
    """Merges record streams by time, reading each through a window of its own.

    Of all files' next records the one with the least time goes first, of equal ones the one whose
    file comes first. So the order within a file never changes, and if every file is in order of
    time, so is what comes out. Records are not touched unless ``shift`` says so: both versions,
    with their payloads, in the files' one byte order.

    Args:
        names: of the files, for messages; ties between them are decided in this order.
        readers: one a file: writes the next bytes to the beginning of a buffer and returns how
            many, 0 at the end.
        window_bytes: how much of a file is in memory at a time; more if one record is longer.
        output_bytes: how much ``read`` hands out at most.
        resync: after bytes that are no record, go on at the next plausible one instead of failing.

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
        """The next whole records, valid until the next call; empty when all files have ended.

        A file that ends inside a record, or whose reader raises OSError or SourceError, has ended
        there: see ``failures``.

        Raises:
            TraceError: the next bytes of a file are no record. All that came before has been
                handed out; every later call raises the same error.
        """

    def peek(self, whole: Sequence[bool]) -> list[bytes]:
        """The beginning of each file; before the first ``read``, which has it nevertheless.

        Args:
            whole: of each file, whether to wait for a whole window of it, and not only for what
                comes first.
        """

    def shift(self, by_ns: Sequence[int]) -> None:
        """Add so much to the times of each file's records; before the first ``read``."""

    def take_skips(self) -> list[tuple[str, int, int]]:
        """Hand out what ``resync`` skipped since last asked: (name, byte offset, bytes)."""

    @property
    def failures(self) -> list[Exception]:
        """What ended files before their time, in the order in which it was met.

        ``TraceError`` for one that ends inside a record (with ``resync`` those bytes count as
        skipped), or what its reader raised.
        """

    @property
    def lost_events(self) -> int:
        """Events lost, by the tracer's marks, which are left out of the stream.

        Those before a record count once all that comes before it has been handed out.
        """

    @property
    def skipped_bytes(self) -> int:
        """Bytes that ``resync`` skipped; as ``lost_events``, those before what comes next."""

    @property
    def padding_bytes(self) -> int:
        """Zeros skipped as padding: 48 or more behind a record, or any at the end of a file."""
