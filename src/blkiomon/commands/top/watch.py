"""The figures to show: the latest interval, the whole run, and a history of each device."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from blkiomon.interval.incomplete import Incomplete
from blkiomon.interval.value import MERGED_AT_ONCE, Counts, Group, Interval, merge

HISTORY = 120
"""Intervals whose p99 is kept. A device that is idle for so many is forgotten."""

Key = tuple[int, str | None]
"""A device's number, and one of its operations; None: all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The figures to show at one moment.

    Attributes:
        latest: the interval that ended last; None before the first.
        whole: all intervals as one, if requested.
        devices: numbers of the known devices, in ascending order.
        history: p99 of d2c in ns, by interval; None where nothing completed.
        errors: requests that failed since the start.
        requeues: requeues since the start.
        totals: counts of all records.
        now: counts of the latest interval.
        incomplete: why the figures of the whole run are incomplete.
        seen_ns: from the beginning of the first interval to the end of the latest.
        quiet_ns: time since the latest interval with a record.
        has_ended: no further interval will come.
    """

    latest: Interval | None
    whole: Interval | None
    devices: tuple[int, ...]
    history: Mapping[Key, tuple[int | None, ...]]
    errors: Mapping[Key, int]
    requeues: Mapping[Key, int]
    totals: Counts
    now: Counts
    incomplete: tuple[Incomplete, ...]
    seen_ns: int
    quiet_ns: int
    has_ended: bool


def paused(before: View, now: View) -> View:
    """A view with the figures of an earlier one, but with the losses and state of now."""
    return replace(
        now,
        latest=before.latest,
        whole=before.whole or now.whole,
        devices=before.devices,
        history=before.history,
        errors=before.errors,
        requeues=before.requeues,
    )


class Watch:
    """Takes intervals and makes views of them.

    Args:
        devices: numbers of the devices that are shown even if they are idle.
    """

    def __init__(self, devices: Iterable[int] = ()) -> None:
        self.has_ended = False
        self._expected = frozenset(devices)
        self._latest: Interval | None = None
        self._whole: list[Interval] = []  # merged on request, or when there are many
        self._history: dict[Key, deque[int | None]] = {}
        self._errors: Counter[Key] = Counter()
        self._requeues: Counter[Key] = Counter()
        self._totals = Counts()
        self._missing_files = 0
        self._start_ns = 0
        self._quiet_ns = 0

    def add(self, interval: Interval) -> None:
        """Add the next interval."""
        if self._latest is None:
            self._start_ns = interval.start_ns
        self._latest = interval
        self._whole.append(interval)
        if len(self._whole) > MERGED_AT_ONCE:
            self._whole = [merge(self._whole)]
        self._totals += interval.counts
        self._missing_files = max(self._missing_files, interval.missing_files)
        is_quiet = not interval.counts.records
        self._quiet_ns = self._quiet_ns + interval.end_ns - interval.start_ns if is_quiet else 0
        maps = interval.maps.groups() if interval.maps is not None else ()
        every = (*interval.groups(), *maps)
        self._remember({(g.device, g.op): g for g in every if g.device is not None})

    def view(self, *, whole: bool = False) -> View:
        """The figures of now; with the whole run as one interval, if ``whole``."""
        if whole and len(self._whole) > 1:
            self._whole = [merge(self._whole)]
        return View(
            latest=self._latest,
            whole=self._whole[0] if whole and self._whole else None,
            devices=tuple(sorted(self._expected | {device for device, _ in self._history})),
            history={key: tuple(past) for key, past in self._history.items()},
            errors=dict(self._errors),
            requeues=dict(self._requeues),
            totals=self._totals,
            now=self._latest.counts if self._latest else Counts(),
            incomplete=self._totals.incomplete(self._missing_files),
            seen_ns=self._latest.end_ns - self._start_ns if self._latest else 0,
            quiet_ns=self._quiet_ns,
            has_ended=self.has_ended,
        )

    def _remember(self, groups: Mapping[Key, Group]) -> None:
        for key in groups:
            self._history.setdefault(key, deque(maxlen=HISTORY))
        for key, past in self._history.items():
            past.append(groups[key].d2c_ns.percentile(99) if key in groups else None)
        for key, group in groups.items():
            if group.errors:
                self._errors[key] += group.errors
            if group.requeues:
                self._requeues[key] += group.requeues
        kept = {*groups, *self._errors, *self._requeues}
        forgotten = [
            key
            for key, past in self._history.items()
            if key not in kept and len(past) == HISTORY and all(p99_ns is None for p99_ns in past)
        ]
        for key in forgotten:
            del self._history[key]
