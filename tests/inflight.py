"""Slow, obvious reference of requests in flight and of completions without an issue.

It extends the reference of pairing by a list of spans. An issue that becomes pending begins a span;
it ends when the request is completed, requeued, given up, or presumed completed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from reference import ISSUE, Key, Pending, Reference, Trace, operation

from blkiomon.engine import layout

LoadKey = tuple[int, int]
Figures = tuple[int, ...]
"""In flight at the end, greatest number in flight, age of the oldest, busy time, integral (ns)."""

ALL: LoadKey = 0, layout.EVERYTHING


@dataclass(slots=True)
class Span:
    """A request in flight, from its issue on; end_ns is None while it still is.

    After a request was presumed completed, `begin_ns` is when the next record of it came.
    """

    device: int
    op: int
    issue_ns: int
    end_ns: int | None = None
    begin_ns: int = 0

    def counted_in(self) -> list[LoadKey]:
        """The groups in whose figures it counts."""
        return [(self.device, self.op), (self.device, layout.ALL_OPS), ALL]

    def within(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Its part inside an interval: start and end."""
        last_ns = end_ns if self.end_ns is None else min(self.end_ns, end_ns)
        return max(self.issue_ns, self.begin_ns, start_ns), last_ns


class InFlight(Reference):
    """The reference of pairing, with requests in flight."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.completions_without_issue = 0
        self.now_ns = 0
        self._spans: dict[int, Span] = {}  # in flight, by id(pending)
        self._ended: list[Span] = []  # those that ended in this interval
        self._most: Counter[LoadKey] = Counter()
        self._backwards: Counter[LoadKey] = Counter()  # d2c of completions before their issue
        self._start_ns = 0
        self._alone: set[int] = set()  # completions without issue in this interval, by id(pending)
        self._presumed: dict[int, Span] = {}  # completed, as events were lost; by id(pending)
        self._slowest: dict[int, int] = {}  # d2c of this interval's requests, by device
        self._lost = self._lost_at_ns = self._given_up_before = 0

    def process(self, record: Trace) -> None:
        super().process(record)
        self.now_ns = self._now or 0

    def on_flight_begin(self, pending: Pending) -> None:
        op = layout.OPS.index(operation(pending.record))
        self._spans[id(pending)] = Span(pending.record.device, op, pending.time)
        self._most |= self._level()

    def on_flight_end(self, pending: Pending, time_ns: int) -> None:
        self._presumed.pop(id(pending), None)  # another object may get its id
        span = self._spans.pop(id(pending), None)
        if span is not None:
            span.end_ns = time_ns
            self._ended.append(span)

    def on_found(self, pending: Pending, time_ns: int) -> None:
        if (span := self._presumed.pop(id(pending), None)) is not None:
            again = Span(span.device, span.op, span.issue_ns, begin_ns=time_ns)
            self._spans[id(pending)] = again
            self._most |= self._level()

    def _match(self, key: Key, issue: Trace, *args: Any) -> None:
        super()._match(key, issue, *args)
        d2c_ns = args[2]
        self._slowest[issue.device] = max(self._slowest.get(issue.device, 0), d2c_ns)

    def _presume(self, end_ns: int, lost: int) -> None:
        """Presume requests completed that are overdue, if there are no more than lost events."""
        if lost > self._lost:
            self._lost_at_ns = end_ns
        self._lost = lost
        overdue = [
            pending
            for pending in self.waiting()
            if (span := self._spans.get(id(pending))) is not None
            and not (pending.done or pending.error or pending.was_requeued)
            and pending.time < self._lost_at_ns
            and span.device in self._slowest
            and end_ns - pending.time > max(10**9, self._slowest[span.device])
        ]
        if lost == 0:
            self._given_up_before = self.given_up
        explained = self.given_up - self._given_up_before + len(self._presumed)
        if len(overdue) + explained <= lost:
            for pending in overdue:
                span = self._spans[id(pending)]
                self.on_flight_end(pending, end_ns)
                self._presumed[id(pending)] = span

    def on_unmatched_completion(self, pending: Pending) -> None:
        self.completions_without_issue += 1
        self._alone.add(id(pending))

    def on_issue_found(self, pending: Pending) -> None:
        self.completions_without_issue -= id(pending) in self._alone

    def on_too_old(self, record: Trace) -> None:
        super().on_too_old(record)
        self.completions_without_issue += not record.action & ISSUE

    def on_late_issue(self, issue: Trace, completed_ns: int) -> None:
        op = layout.OPS.index(operation(issue))
        for key in Span(issue.device, op, 0).counted_in():
            self._backwards[key] += completed_ns - issue.time

    def _level(self) -> Counter[LoadKey]:
        return Counter(key for span in self._spans.values() for key in span.counted_in())

    def loads(self, end_ns: int, lost: int = 0) -> dict[LoadKey, Figures]:
        """End an interval: its figures in flight. Call it after `cut`.

        Args:
            lost: how many events were lost so far.
        """
        start_ns = self._start_ns
        self._presume(end_ns, lost)
        self._slowest.clear()
        self._alone.clear()
        groups: dict[LoadKey, list[Span]] = {ALL: []}
        for span in [*self._ended, *self._spans.values()]:
            for key in span.counted_in():
                groups.setdefault(key, []).append(span)
        for key, d2c_ns in self._backwards.items():
            if d2c_ns:
                groups.setdefault(key, [])
        loads: dict[LoadKey, Figures] = {}
        now = self._level()
        for key, spans in groups.items():
            parts = [span.within(start_ns, end_ns) for span in spans]
            left = [span.issue_ns for span in spans if span.end_ns is None]
            loads[key] = (
                now[key],
                self._most[key],
                max(0, end_ns - min(left, default=end_ns)),
                union(parts) if key != ALL and key[1] == layout.ALL_OPS else 0,
                sum(max(0, b - a) for a, b in parts) + self._backwards[key],
            )
        self._most = now
        self._ended = []
        self._backwards.clear()
        self._start_ns = end_ns
        return loads


def union(parts: list[tuple[int, int]]) -> int:
    """How long at least one of them lasts."""
    total, at = 0, 0
    for begin, end in sorted(parts):
        if end > max(at, begin):
            total += end - max(at, begin)
            at = end
    return total


def loads_of(snapshot: Any) -> dict[LoadKey, Figures]:
    """The same figures from an engine's snapshot."""
    return {
        (int(x["device"]), int(x["op"])): (
            *(int(x[name]) for name in ("in_flight", "max_in_flight", "oldest_ns", "busy_ns")),
            int(x["in_flight_ns"][0]) + (int(x["in_flight_ns"][1]) << 64),
        )
        for x in snapshot.loads
    }
