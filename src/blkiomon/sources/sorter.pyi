"""Sorts one stream by time in which batches of several devices and CPUs alternate."""

from typing import final

@final
class Order:
    """Follows a stream, to find the first record that is out of order. Copies nothing.

    For one thread.

    Args:
        lateness_ns: see ``Sorter``.
        resync: after bytes that are not a record, continue at the next plausible one.

    Attributes:
        is_kept: no record so far was earlier than a preceding one of another CPU or device. Without
            ``resync``, nothing counts after bytes that are not a record.
    """

    is_kept: bool

    def __init__(self, *, lateness_ns: int = (1 << 64) - 1, resync: bool = False) -> None: ...
    def follow(self, data: bytes | memoryview) -> int:
        """Follow the next bytes of the stream; return where the first record in them begins.

        Only while the order is kept.
        The bytes before belong to the record that began before them. If no record begins here, the
        result is how many bytes these are.
        """

@final
class Sorter:
    """Holds back the records of a stream, and returns them in order of time.

    Records of equal time keep their order. Notify records, padding, marks of lost events, and with
    ``resync`` bytes that are not a record, stay after the record that they followed.
    For one thread.

    Args:
        lateness_ns: a record that is earlier than the latest by more is not late: from it on, times
            count anew for ``latest_ns``.
        resync: after bytes that are not a record, continue at the next plausible one.
        begin: offset in the input of the first byte that is added.

    Attributes:
        latest_ns: time of the latest record so far; 0 before the first.
    """

    latest_ns: int

    def __init__(
        self, *, lateness_ns: int = (1 << 64) - 1, resync: bool = False, begin: int = 0
    ) -> None: ...
    @property
    def held_bytes(self) -> int:
        """How many bytes ``take`` has not returned."""

    def add(self, data: bytes | memoryview) -> None:
        """Hold the next bytes of the stream, in pieces of any size. The first begin a record."""

    def take(self, until_ns: int = (1 << 64) - 1, most_bytes: int = (1 << 64) - 1) -> memoryview:
        """The held records up to this time in ns, in order of time.

        More are returned if otherwise more than ``most_bytes`` would stay. An incomplete record at
        the end stays. Without ``resync``, nothing is sorted after bytes that are not a record: all
        bytes are returned, the records before these bytes first.
        """

    def take_all(self) -> memoryview:
        """All held bytes, including an incomplete record at the end."""

    def origin(self, offset: int) -> int:
        """The offset in the input of bytes that are not a record, by that in the output.

        Known once for each of the first thousand stretches of such bytes; otherwise the result is
        ``offset``.
        """
