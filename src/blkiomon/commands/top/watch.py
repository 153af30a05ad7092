"""What has been seen so far: the latest interval, the whole run, and a history of each device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from blkiomon.interval.incomplete import Incomplete
from blkiomon.interval.value import Counts, Group, Interval, merge

HISTORY = 120
"""Intervals whose p99 is kept. Who did nothing for so long is forgotten."""

MERGED_AT_ONCE = 64

Key = tuple[int, str | None]
"""A device's number, and an operation of it; None of all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What there is to show, as of one moment; it does not change.

    Attributes:
        latest: the interval that ended last; None before the first.
        whole: all of them as one, where that was asked for.
        devices: the numbers of those that are known.
        history: p99 of d2c in ns, interval by interval, None where nothing completed.
        errors: requests that failed since the start.
        requeues: how often a request was given back since the start.
        totals: what became of all records.
        now: likewise in the latest interval.
        incomplete: why the figures of the whole run are.
        seen_ns: from the beginning of the first interval to the end of the latest.
        quiet_ns: how long there has been no record.
        has_ended: there will be no further interval.
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
    """The figures of a moment ago; but what is lost, and whether anything comes, is never old."""
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
        devices: the numbers of those that are shown whether they do anything or not.
    """

    def __init__(self, devices: Iterable[int] = ()) -> None:
        self.has_ended = False
        self._expected = frozenset(devices)
        self._latest: Interval | None = None
        self._whole: list[Interval] = []  # to be merged when that is asked for, or they are many
        self._history: dict[Key, deque[int | None]] = {}
        self._errors: dict[Key, int] = {}
        self._requeues: dict[Key, int] = {}
        self._totals = Counts()
        self._missing_files = 0
        self._start_ns = 0
        self._quiet_ns = 0

    def add(self, interval: Interval) -> None:
        """The next interval has ended."""
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
        groups = {(g.device, g.op): g for g in interval.groups() if g.device is not None}
        self._remember(groups)

    def view(self, *, whole: bool = False) -> View:
        """What there is to show now; with the whole run as one interval, if that is wanted."""
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
                self._errors[key] = self._errors.get(key, 0) + group.errors
            if group.requeues:
                self._requeues[key] = self._requeues.get(key, 0) + group.requeues
        forgotten = [
            key
            for key, past in self._history.items()
            if len(past) == HISTORY
            and key not in groups
            and key not in self._errors
            and key not in self._requeues
            and all(p99_ns is None for p99_ns in past)
        ]
        for key in forgotten:
            del self._history[key]
