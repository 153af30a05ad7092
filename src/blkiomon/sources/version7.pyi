"""Converts captured records for blkparse, btt and fio: to version 7, with sequence numbers."""

from typing import final

@final
class Version7:
    """Converts the records of one file.

    Categories of version 8 alone (write zeroes, zone operations) are dropped, as by older kernels.

    Args:
        cpu: the CPU number of all records: N of the file's name NAME.blktrace.N.
        lost_events: those before the first record; see ``lose``.

    Attributes:
        records: converted so far, notify records included.
        unmarked_events: lost events that no gap shows yet.
    """

    def __init__(self, cpu: int, lost_events: int = 0) -> None: ...
    @property
    def records(self) -> int: ...
    @property
    def unmarked_events(self) -> int: ...
    def lose(self, n_events: int) -> None:
        """Skip this many sequence numbers before the next record, to mark lost events.

        The first record of a device cannot mark any.
        """

    def convert(self, data: memoryview | bytearray) -> memoryview:
        """Convert whole records in place, and return them as a part of the same memory.

        Args:
            data: records of versions 7 and 8 in host byte order, with their payloads.

        Raises:
            ValueError: these bytes are something else; they are partly converted.
        """
