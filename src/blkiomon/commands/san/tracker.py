"""Tracker: adds findings, and changes of the topology, to each interval of a run."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress

import numpy as np

from blkiomon.commands.san.changes import changes
from blkiomon.commands.san.checks import findings, names_of
from blkiomon.commands.san.facts import Facts, FiguresTable, Siblings, luns_of
from blkiomon.commands.san.wording import clock, zone
from blkiomon.engine.constants import OPS
from blkiomon.interval.departures import LEAST_BEYOND
from blkiomon.interval.findings import Finding
from blkiomon.interval.value import Interval
from blkiomon.interval.views import View
from blkiomon.sources.topology import Topology, refresh_topology

MOST_LOSSES = 3600
"""Intervals with lost events that are remembered."""


class Tracker:
    """Makes a view of each interval of a run, and adds findings and changes of the topology.

    Args:
        topology: of the traced host.
        by: one of ``interval.views.BY``.
        traced: numbers of devices that are certainly traced.

    Attributes:
        view: where the figures are added up; by device it only has the names.
        topology: the latest one; set by the thread.
    """

    def __init__(self, topology: Topology, by: str, traced: Iterable[int] = ()) -> None:
        self.view = View(topology, by, traced)
        self._luns_view = View(topology, "lun", traced)
        self._shown = topology  # at the latest interval
        self._luns = luns_of(topology)
        self._traced = set(traced)
        self._siblings = Siblings(self._luns, self._traced)
        self._before: tuple[FiguresTable, ...] = ()
        self._waited: dict[str, Sequence[str]] = {}
        self._losses: deque[tuple[int, int]] = deque(maxlen=MOST_LOSSES)
        self._slow_since: dict[tuple[str, str], int | None] = {}
        self.topology = topology
        self._has_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, refresh_s: float, most_share: float = 1.0) -> None:
        """Look for changes of this host so often, in a thread of its own, until ``close``.

        Args:
            refresh_s: time between two looks.
            most_share: look less often if this takes more than that share of a processor.
        """
        self._thread = threading.Thread(
            target=self._refresh, args=(refresh_s, most_share), name="topology", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop looking for changes."""
        self._has_ended.set()
        if self._thread is not None:
            self._thread.join()

    def _refresh(self, refresh_s: float, most_share: float) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        wait_s = refresh_s
        while not self._has_ended.wait(wait_s):
            begun_s = time.thread_time()
            with suppress(OSError):  # without sysfs, the topology stays as it is
                self.topology = refresh_topology(self.topology)
            wait_s = max(refresh_s, (time.thread_time() - begun_s) / most_share)

    def __call__(self, interval: Interval) -> Interval:
        """The interval with findings, as a view if one is wanted."""
        now = self.topology
        before = self._shown
        found = changes(before, now)
        if now is not before:
            self._shown = now
            self._luns = luns_of(now)
            self.view.update(now)
            self._luns_view.update(now)
        table = FiguresTable(interval)
        if now is not before or not self._traced.issuperset(table.devices):
            self._traced.update(table.devices)
            self._siblings = Siblings(self._luns, self._traced)
        if table.lost_events:
            self._losses.append((table.end_ns, table.lost_events))
        facts = Facts(
            self._luns,
            (*self._before, table),
            self._siblings,
            self._waited,
            losses=self._losses,
            traced=self._traced,
        )
        of_now = self._since(findings(facts), interval)
        self._waited = self._paths_waited_for(table.stalled) if table.stalled else {}
        self._before = (table,)
        found += of_now
        by_device = self.view.by == "device"
        shown = self._luns_view.count_once(interval) if by_device else self.view(interval)
        return shown.with_findings(found)

    def _since(self, found: Iterable[Finding], interval: Interval) -> list[Finding]:
        """Return the findings; a slow path, port or array gets the time since when it is slow.

        The time is left out if the interval before had too few requests to judge by.
        """
        before, self._slow_since = self._slow_since, {}
        dated = []
        for one in found:
            if one.kind.startswith("slow_"):
                key = one.kind, one.name
                new_ns = interval.start_ns if self._was_seen(one) else None
                since_ns = self._slow_since[key] = before.get(key, new_ns)
                if since_ns is not None:
                    is_fine = interval.duration_s < 1
                    at = clock(since_ns, interval, is_fine=is_fine)
                    evidence = {**one.evidence, "since_ns": since_ns}
                    one = one._replace(when=f" since {at}{zone(interval)}", evidence=evidence)
            dated.append(one)
        return dated

    def _was_seen(self, slow: Finding) -> bool:
        """Whether in the interval before, requests were enough to judge by their median."""
        numbers, op = np.array(slow.devices), OPS.index(slow.evidence["op"])
        counts = [table.requests[table.places(numbers, op)].sum() for table in self._before]
        return bool(sum(counts) >= 2 * LEAST_BEYOND)

    def _paths_waited_for(self, stalled: Set[int]) -> dict[str, Sequence[str]]:
        """See ``Facts.waited``. ``stalled``: numbers of the devices with an old request."""
        return {
            lun.name: names_of(lun.paths, stalled) or self._waited.get(lun.name, ())
            for lun in self._luns
            if lun.map is not None and lun.map.number in stalled
        }
