"""When the files of a trace were recorded, by their first and last records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from blkiomon._core import Engine
from blkiomon.engine.constants import NOTIFY
from blkiomon.errors import SourceError
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.moments import distinct
from blkiomon.sources.readers import Reader
from blkiomon.sources.trace_sets import find_members

PROBE_BYTES = 1 << 16

GAP_NS = NS_PER_S
"""Files that follow each other within this time are parts of one run."""

Gap = tuple[int, int]
"""Begin and end, ns."""


def head_of(path: Path, n_bytes: int) -> bytearray:
    """The first bytes of a file, decompressed. Raises SourceError or OSError."""
    head = bytearray(n_bytes)
    with closing(Reader(path)) as reader:
        return head[: reader.readinto(memoryview(head))]


class Span(NamedTuple):
    """When a set of files was recorded, by its first and last records.

    Attributes:
        first_ns, last_ns: trace time; the last one is None in compressed files: it is unknown.
        devices: numbers of those with records at the beginning or the end.
    """

    first_ns: int
    last_ns: int | None
    devices: frozenset[int] = frozenset()


def spans(names: Sequence[str]) -> list[Span]:
    """The span of each set of files of a trace; none if that is not in files."""
    sets: dict[tuple[Path, str], list[Span]] = {}
    for member in find_members(names).members:
        if member.path is None or not member.path.is_file():
            return []
        try:
            found = _span_of(member.path)
        except (OSError, SourceError):  # opening the trace reports it
            return []
        if found is not None:
            sets.setdefault((member.path.parent, member.base), []).append(found)
    made = []
    for of_files in sets.values():
        lasts = [span.last_ns for span in of_files if span.last_ns is not None]
        last_ns = max(lasts) if len(lasts) == len(of_files) else None
        devices = frozenset[int]().union(*(span.devices for span in of_files))
        made.append(Span(min(span.first_ns for span in of_files), last_ns, devices))
    return sorted(made, key=lambda span: span.first_ns)


def _span_of(path: Path) -> Span | None:
    """The span of a file; None: no record was found in it."""
    head = head_of(path, PROBE_BYTES)
    first = _probed(head)
    if first is None:
        return None
    with path.open("rb") as file:
        if file.read(len(head)) != head:  # it is compressed
            return first._replace(last_ns=None)
        file.seek(max(0, path.stat().st_size - PROBE_BYTES))
        last = _probed(file.read(PROBE_BYTES)) or first
    return Span(first.first_ns, last.last_ns, first.devices | last.devices)


def _probed(part: bytes | bytearray) -> Span | None:
    """The span of the records in a part of a trace; None without a record."""
    probe = Engine(keep_records=True, resync=True)
    probe.feed(part)
    records = probe.take_records()
    records = records[records["action"] & NOTIFY == 0]
    if not len(records):
        return None
    first_ns, last_ns = (int(records["time_ns"][at]) for at in (0, -1))
    return Span(first_ns, last_ns, frozenset(distinct(records["device"]).tolist()))


def length_ns(found: Sequence[Span]) -> int:
    """How long a trace of these spans lasts; 0: unknown. It sets the first length of slices."""
    lasts = [span.last_ns for span in found if span.last_ns is not None]
    return max(lasts) - found[0].first_ns if len(lasts) == len(found) and found else 0


def gaps_between(found: Sequence[Span]) -> Iterator[Gap]:
    """The times between runs, when nothing was recorded."""
    until_ns: int | None = None
    for place, span in enumerate(found):
        if place and (until_ns is None or span.first_ns - until_ns > GAP_NS):
            yield span.first_ns if until_ns is None else until_ns, span.first_ns
        if span.last_ns is None or (place and until_ns is None):
            until_ns = None
        else:
            until_ns = max(until_ns or 0, span.last_ns)
