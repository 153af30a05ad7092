"""Groups: the figures of one operation of a device, of one device, or of all devices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from blkiomon.engine.constants import ALL_OPS, OPS
from blkiomon.engine.snapshot import Snapshot
from blkiomon.interval import html
from blkiomon.interval.columns import (
    KEY_BITS,
    NS_PER_S,
    TOTAL,
    Columns,
    Loads,
    Quantity,
    columns_of,
)
from blkiomon.interval.devices import text_of
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.moments import NOTHING, Moments

__all__ = ["NS_PER_S", "Group", "InFlight", "grouped", "groups_of"]


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests in flight: issued, and not completed or requeued.

    Attributes:
        max: the greatest number at any time of the interval.
        end: the number at its end.
        oldest_ns: age of the oldest request in flight at its end; 0 if there is none.
        request_ns: the number integrated over time, in request-ns.
        busy_ns: time with any request in flight; known only for a device as a whole, else None.
        duration_ns: length of the interval.
    """

    max: int
    end: int
    oldest_ns: int
    request_ns: int
    busy_ns: int | None
    duration_ns: int

    @property
    def mean(self) -> float | None:
        """Mean number over time; None in an interval without a duration."""
        return self.request_ns / self.duration_ns if self.duration_ns else None

    @property
    def busy_fraction(self) -> float | None:
        """Fraction of the interval with any request in flight, 0 to 1; None if unknown."""
        if self.busy_ns is None or not self.duration_ns:
            return None
        return self.busy_ns / self.duration_ns


@dataclass(frozen=True, slots=True, repr=False)
class Group:
    """Requests that completed in an interval: of one operation, of one device, or all.

    Attributes:
        device: device number; None for all devices.
        op: one of ``layout.OPS``; None for all operations.
        errors: how many requests failed.
        d2c_ns: times from issue to completion, ns.
        size_bytes: sizes of the requests.
        in_flight: None if that was not measured.
        q2d_ns, q2c_ns: times from queue to issue, and from queue to completion, ns, of requests
            whose queue record was seen; None without such requests.
        duration_ns: length of the interval.
        requeues: how often the kernel requeued a request, to issue it again later.
        retried: times from first issue to completion, ns, of requests that were requeued.
            ``d2c_ns`` has their times from the last issue.
    """

    device: int | None
    op: str | None
    errors: int
    d2c_ns: Distribution
    size_bytes: Distribution
    in_flight: InFlight | None
    q2d_ns: Distribution | None
    q2c_ns: Distribution | None
    duration_ns: int
    requeues: int = 0
    retried: Moments = NOTHING

    def __repr__(self) -> str:
        device = "all" if self.device is None else text_of(self.device)
        return (
            f"Group(device={device!r}, op={self.op or 'all'!r}, requests={self.requests}, "
            f"bytes={self.bytes}, p99_ns={self.d2c_ns.percentile(99)}, errors={self.errors})"
        )

    def _repr_html_(self) -> str:
        return html.table([self]) + html.histogram(self.d2c_ns)

    @property
    def requests(self) -> int:
        """How many requests completed."""
        return self.d2c_ns.count

    @property
    def bytes(self) -> int:
        """Sum of the sizes of the requests."""
        return self.size_bytes.sum

    @property
    def iops(self) -> float | None:
        """Requests a second; None in an interval without a duration."""
        return self.requests * NS_PER_S / self.duration_ns if self.duration_ns else None

    @property
    def bytes_per_s(self) -> float | None:
        """Bytes a second; None in an interval without a duration."""
        return self.bytes * NS_PER_S / self.duration_ns if self.duration_ns else None


def groups_of(
    snapshots: Sequence[Snapshot], duration_ns: int, not_in_total: Collection[int] = ()
) -> list[tuple[Group, ...]]:
    """All groups of each snapshot; see ``columns_of``."""
    columns = columns_of(snapshots, duration_ns, not_in_total)
    groups = grouped(columns)
    ends = [at + 1 for at, key in enumerate(columns.keys) if key & TOTAL]
    return [groups[begin:end] for begin, end in pairwise([0, *ends])]


def grouped(columns: Columns) -> tuple[Group, ...]:
    """The ``Group`` of each key of the columns."""
    n, load = len(columns.keys), columns.in_flight
    keys = [key & (1 << KEY_BITS) - 1 for key in columns.keys]
    return tuple(
        map(
            Group,
            [None if key == TOTAL else key >> 3 for key in keys],
            [None if key & 7 == ALL_OPS or key == TOTAL else OPS[key & 7] for key in keys],
            columns.errors,
            columns.d2c_ns.distributions(),
            columns.size_bytes.distributions(),
            [None] * n if load is None else _in_flight(load, columns.duration_ns),
            _queued(columns, columns.q2d_ns),
            _queued(columns, columns.q2c_ns),
            [columns.duration_ns] * n,
            columns.requeues,
            columns.retried,
        )
    )


def group_at(columns: Columns, at: int) -> Group:
    """The ``Group`` at an index of the columns of one snapshot, without its histogram of sizes."""
    key, load, is_queued = columns.keys[at], columns.in_flight, columns.is_queued[at]
    q2d_ns, q2c_ns = columns.q2d_ns, columns.q2c_ns
    in_flight = None
    if load is not None:
        (in_flight,) = _in_flight(Loads(*([column[at]] for column in load)), columns.duration_ns)
    return Group(
        None if key == TOTAL else key >> 3,
        None if key & 7 == ALL_OPS or key == TOTAL else OPS[key & 7],
        columns.errors[at],
        columns.d2c_ns.distribution(at),
        Distribution(columns.size_bytes.moments(at)),
        in_flight,
        q2d_ns.distribution(at) if is_queued and q2d_ns is not None else None,
        q2c_ns.distribution(at) if is_queued and q2c_ns is not None else None,
        columns.duration_ns,
        columns.requeues[at],
        columns.retried[at],
    )


def _queued(columns: Columns, quantity: Quantity | None) -> list[Distribution | None]:
    if quantity is None:
        return [None] * len(columns.keys)
    found = zip(quantity.distributions(), columns.is_queued, strict=True)
    return [distribution if is_queued else None for distribution, is_queued in found]


def _in_flight(loads: Loads, duration_ns: int) -> list[InFlight | None]:
    return [
        None
        if most is None or end is None or oldest_ns is None or request_ns is None
        else InFlight(most, end, oldest_ns, request_ns, busy_ns, duration_ns)
        for most, end, oldest_ns, request_ns, busy_ns in zip(*loads, strict=True)
    ]
