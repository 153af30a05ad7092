"""Sorts one stream by time in which batches of records of different CPUs alternate."""

from typing import final

@final
class Sorter:
    """Holds back the records of a stream, and returns them in order of time.

    Records of equal time keep their order. Notify records and padding stay after the record that
    they followed. For one thread.

    Attributes:
        latest_ns: time of the latest record so far; 0 before the first.
        is_sorted: no record so far was earlier than a preceding one of another CPU.
    """

    latest_ns: int
    is_sorted: bool

    def __init__(self) -> None: ...
    @property
    def held_bytes(self) -> int:
        """How many bytes ``take`` has not returned."""

    def add(self, data: bytes | memoryview) -> None:
        """Hold the next bytes of the stream, in pieces of any size."""

    def take(self, until_ns: int = (1 << 64) - 1) -> memoryview:
        """The held records up to this time in ns, in order of time.

        An incomplete record at the end stays. After garbage, nothing is sorted any more: all bytes
        are returned, the records before the garbage first.
        """

    def take_all(self) -> memoryview:
        """All held bytes, including an incomplete record at the end."""
