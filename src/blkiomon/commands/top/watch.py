"""The figures to show: the latest interval, the whole run, and the past of each device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from blkiomon.commands.table import REST_FRACTION
from blkiomon.commands.top.past import Past
from blkiomon.engine import layout
from blkiomon.interval.findings import Finding
from blkiomon.interval.incomplete import Incomplete
from blkiomon.interval.slow import SlowBatch
from blkiomon.interval.value import Counts, Interval, merge

AT_ONCE = 16
"""How many intervals are merged in one step, and are kept until then."""

MOST_SLOW = 10_000
"""Slow requests that are kept, the latest ones."""

CHANGES_KEPT = 3
"""Changes of the topology that are kept, the latest ones."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the topology, such as a path that fails, and when it was seen."""

    interval: Interval
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The figures to show at one moment of a run.

    Attributes:
        latest: the interval that ended last, by device; None before the first.
        is_rest: it is so much shorter than others that its rates mislead: a trace ended.
        whole: all intervals as one, if requested.
        expected: numbers of the devices that are shown even if they are idle.
        past: since the start.
        slow: dtype ``layout.SLOW``: the latest slow requests, as they were found.
        process_names: of their pids, as far as they are known.
        changes: the latest changes of the topology.
        totals: counts of all records.
        now: counts of the latest interval.
        incomplete: why the figures of the whole run are incomplete.
        seen_ns: from the beginning of the first interval to the end of the latest.
        quiet_ns: time since the latest interval with a record.
        has_ended: no further interval will come.
    """

    latest: Interval | None
    is_rest: bool
    whole: Interval | None
    expected: frozenset[int]
    past: Past
    slow: npt.NDArray[np.void]
    process_names: dict[int, str]
    changes: tuple[Change, ...]
    totals: Counts
    now: Counts
    incomplete: tuple[Incomplete, ...]
    seen_ns: int
    quiet_ns: int
    has_ended: bool


def paused(before: RunState, now: RunState) -> RunState:
    """The figures of an earlier state with the losses of now."""
    return replace(
        now,
        latest=before.latest,
        is_rest=before.is_rest,
        whole=before.whole or now.whole,
        past=before.past,
        slow=before.slow,
    )


class Watch:
    """Takes intervals and makes a ``RunState`` of them.

    Args:
        devices: numbers of the devices that are shown even if they are idle.
    """

    def __init__(self, devices: Iterable[int] = ()) -> None:
        self.has_ended = False
        self._expected = frozenset(devices)
        self._latest: Interval | None = None
        self._is_rest = False
        self._longest_ns = 0
        self._whole: list[Interval] = []  # merged on request, or when there are many
        self._past = Past()
        self._slow: deque[npt.NDArray[np.void]] = deque()
        self._process_names: dict[int, str] = {}
        self._changes: deque[Change] = deque(maxlen=CHANGES_KEPT)
        self._totals = Counts()
        self._missing_files = 0
        self._start_ns = 0
        self._quiet_ns = 0

    def add(self, interval: Interval) -> None:
        """Add the next interval, by device."""
        if self._latest is None:
            self._start_ns = interval.start_ns
        self._latest = interval
        duration_ns = interval.end_ns - interval.start_ns
        self._is_rest = duration_ns < REST_FRACTION * self._longest_ns
        self._longest_ns = max(self._longest_ns, duration_ns)
        self._whole.append(replace(interval))  # without the columns, which take more memory
        if len(self._whole) > AT_ONCE:
            self._whole = [merge(self._whole)]
        self._totals += interval.counts
        self._missing_files = max(self._missing_files, interval.missing_files)
        is_quiet = not interval.counts.records
        self._quiet_ns = self._quiet_ns + duration_ns if is_quiet else 0
        changes = (f for f in interval.findings or () if f.kind == "changed")
        self._changes.extend(Change(interval, finding) for finding in changes)
        self._past.add(interval, is_rest=self._is_rest)

    def add_slow(self, batch: SlowBatch) -> None:
        """Add slow requests."""
        self._slow.append(batch.requests)
        self._process_names |= batch.process_names
        while sum(map(len, self._slow)) - len(self._slow[0]) >= MOST_SLOW:
            self._slow.popleft()
        if len(self._process_names) > MOST_SLOW:
            self._process_names = dict(batch.process_names)

    def state(self, *, whole: bool = False) -> RunState:
        """The figures of now; with the whole run as one interval, if ``whole``."""
        if whole and len(self._whole) > 1:
            self._whole = [merge(self._whole)]
        return RunState(
            latest=self._latest,
            is_rest=self._is_rest,
            whole=self._whole[0] if whole and self._whole else None,
            expected=self._expected,
            past=self._past.copy(),
            slow=np.concatenate([np.empty(0, layout.SLOW), *self._slow]),
            process_names=self._process_names,
            changes=tuple(self._changes),
            totals=self._totals,
            now=self._latest.counts if self._latest else Counts(),
            incomplete=self._totals.incomplete(self._missing_files),
            seen_ns=self._latest.end_ns - self._start_ns if self._latest else 0,
            quiet_ns=self._quiet_ns,
            has_ended=self.has_ended,
        )
