"""Slow, obvious reference of requests in flight and of completions without an issue.

Beside the reference of pairing, it keeps a list of spans: each issue that becomes pending begins
one, and it ends when the issue is no longer pending, be it matched or given up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from reference import COMPLETE, DRV_DATA, ISSUE, Reference, Trace, operation

from blkiomon import layout

LoadKey = tuple[int, int]
Figures = tuple[int, ...]
"""In flight at the end, at most, age of the oldest, busy, integral."""

ALL: LoadKey = 0, layout.EVERYTHING


@dataclass(slots=True)
class Span:
    """A request in flight, from its issue on; end_ns is None while it still is."""

    device: int
    op: int
    issue_ns: int
    end_ns: int | None = None

    def counted_in(self) -> list[LoadKey]:
        """The figures it counts in."""
        return [(self.device, self.op), (self.device, layout.ALL_OPS), ALL]

    def within(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """The part of it that is in an interval."""
        last_ns = end_ns if self.end_ns is None else min(self.end_ns, end_ns)
        return max(self.issue_ns, start_ns), last_ns


class InFlight(Reference):
    """The reference, which follows what is in flight as well."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.orphans = 0
        self.now_ns = 0
        self._spans: dict[int, Span] = {}  # those in flight, by the order of the issue
        self._ended: list[Span] = []  # those that ended in this interval
        self._most: Counter[LoadKey] = Counter()
        self._backwards: Counter[LoadKey] = Counter()  # d2c of completions before their issue
        self._start_ns = 0
        self._orphans: set[int] = set()  # of this interval, by order

    def _record(self, record: Trace) -> None:
        partner = self._pending.get(record.key)
        matched = self.matched
        super()._record(record)
        if record.action & DRV_DATA or not record.action & (ISSUE | COMPLETE):
            return
        self.now_ns = record.time
        has_matched = self.matched > matched
        if not record.action & ISSUE and not has_matched:
            self._orphans.add(record.order)
        if has_matched and partner is not None and partner.time >= record.time:
            self._orphans.discard(partner.order)
            op = layout.OPS.index(operation(record))
            for key in Span(record.device, op, 0).counted_in():
                self._backwards[key] += partner.time - record.time
        self._follow()

    def _follow(self) -> None:
        """End the spans of issues that are not pending any more, and begin those that are new."""
        pending = {t.order: t for t in self._pending.values() if t.action & ISSUE}
        for order in self._spans.keys() - pending.keys():
            span = self._spans.pop(order)
            span.end_ns = self.now_ns
            self._ended.append(span)
        for order in pending.keys() - self._spans.keys():
            t = pending[order]
            self._spans[order] = Span(t.device, layout.OPS.index(operation(t)), t.time)
        self._most |= self._level()

    def _level(self) -> Counter[LoadKey]:
        return Counter(key for span in self._spans.values() for key in span.counted_in())

    def loads(self, end_ns: int) -> dict[LoadKey, Figures]:
        """End an interval: what was in flight. To be called after `cut`."""
        self._follow()
        start_ns = self._start_ns
        self.orphans += len(self._orphans)
        self._orphans.clear()
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


def loads_of(cut: Any) -> dict[LoadKey, Figures]:
    """The same of what the engine handed out."""
    return {
        (int(x["device"]), int(x["op"])): (
            *(int(x[name]) for name in ("in_flight", "max_in_flight", "oldest_ns", "busy_ns")),
            int(x["in_flight_ns"][0]) + (int(x["in_flight_ns"][1]) << 64),
        )
        for x in cut.loads
    }
