"""Perf rings: samples of the kernel's block tracepoints in, trace records in order of time out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, final

MAX_SETS_OF_FILTERS: Final[int]
"""How many sets of filters a ring has room for."""

@final
class PerfRings:
    """The rings of a capture, one for each CPU; see the module's source for how they work.

    Args:
        events: a description of each tracepoint: its ``id``; the ``action`` (event) and
            ``category`` of its records; ``is_bio``; ``rwbs_bytes``, the length of its field
            ``rwbs``. Also the offsets of its fields ``dev``, ``sector``, ``nr_sector``, ``bytes``,
            ``error``, ``rwbs`` and ``comm``; -1 if it lacks the field.
        ring_bytes: memory of a ring: a power of two, at least a page.
        max_rings: how many CPUs may be open at once.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, events: Sequence[dict[str, Any]], ring_bytes: int, max_rings: int
    ) -> None: ...
    def open(self, cpu: int, sets: Mapping[int, Sequence[bytes]]) -> int:
        """Open the events of a CPU, disabled; returns the descriptor to poll.

        Args:
            cpu: its number.
            sets: sets of filters, by a number below MAX_SETS_OF_FILTERS; 0 is one of them. Each
                has a filter for each event, in the kernel's language; empty: none. No event may
                pass two of them: it would count twice.

        Raises:
            OSError: the kernel refuses; the text names the call.
        """

    def stopped_cpus(self) -> list[int]:
        """CPUs that went offline since the last call: their events have ended for good.

        The kernel does not say so. But it does not count the time for which they are enabled. The
        call leaves out the rings for which it was called less than 0.5 s ago.
        """

    def close_cpu(self, cpu: int) -> None:
        """Close the ring of a CPU; samples that were not read count as lost."""

    def close(self) -> None:
        """Close all rings."""

    def add(self, number: int, filters: Sequence[bytes]) -> None:
        """Also capture, on all CPUs, what these filters pass: the kernel cannot replace a filter.

        Raises:
            OSError: the kernel refuses; then nothing is added.
        """

    def remove(self, number: int) -> None:
        """End what ``add`` began. Samples that were captured before are read."""

    def ignore(self, numbers: Collection[int]) -> None:
        """From now on, drop the samples of these devices, and of no others."""

    def set_heads(self, heads: Mapping[int, int]) -> None:
        """Count the completed bios of each path as those of its head.

        Args:
            heads: numbers of the heads of NVMe multipath, by the number of the path.
        """

    def set_zoned(self, numbers: Collection[int]) -> None:
        """These devices are zoned: before Linux 7.3, their zone appends look like write zeroes."""

    def enable(self, enabled: bool = True) -> None:
        """Begin or end the capture on all CPUs."""

    def read(self, at_ns: int | None = None) -> memoryview:
        """Return the next trace records, valid until the next call; empty if none is ready.

        Records are in host byte order and in order of time (ns of CLOCK_MONOTONIC). They are of
        version 7, or of version 8 if a category needs it. The first one is a notify record of the
        time of day. A notify record of its name precedes the first record of each process.

        Args:
            at_ns: return samples of up to 10 ms before this time (ns of CLOCK_MONOTONIC): for
                later ones, earlier ones may still arrive in another ring. None: return all.
        """

    def repeat_notes(self) -> None:
        """Begin the next ``read`` with the notify records: the time of day and all names."""

    @property
    def lost_events(self) -> int:
        """Events that the kernel counted and that never reached ``read``. It never falls."""

    @property
    def has_more(self) -> bool:
        """Whether the last ``read`` had no room for all records that were ready."""

def _records_of(
    event: dict[str, Any],
    samples: Iterable[bytes],
    time_ns: int,
    cpu: int,
    zoned: Collection[int] = (),
) -> list[bytes]: ...
