"""Describes a trace without a single matching request, for a message to the user."""

from __future__ import annotations

import numpy as np

from blkiomon._core import Engine
from blkiomon.commands.options import Selection
from blkiomon.console import how_many
from blkiomon.engine.constants import COMPLETE, ISSUE, NOTIFY
from blkiomon.formats.units import device_text, utc
from blkiomon.interval.columns import NS_PER_S

SAMPLE_BYTES = 1 << 22
"""So much of the beginning of a trace is examined."""

END_BYTES = 1 << 16
"""So much of the latest piece is examined, for the time at which the trace ends."""

MOST_DEVICES = 8
"""The message names at most so many devices."""

ONLY_NOTES = "nothing was issued while it was recorded"


class NoRequests:
    """Examines a stream as long as it has no request.

    Args:
        selection: which requests are asked for.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._probe = Engine(keep_records=True, resync=True)
        self._devices: set[int] = set()
        self._issues = 0
        self._completions = 0
        self._times: list[int] = []  # ascending
        self._sampled_bytes = 0
        self._end = b""

    @property
    def sampled(self) -> int:
        """How many records have been examined."""
        return self._probe.records

    def add(self, data: memoryview) -> None:
        """The next bytes of the stream."""
        if self._sampled_bytes < SAMPLE_BYTES:
            self._sampled_bytes += len(data)
            self._look_at(self._probe, data)
        else:
            self._end = bytes(data[-END_BYTES:])

    def text(self, records: int, evicted: int, *, max_age_s: float, is_whole: bool) -> str:
        """Why there is no request: a message without the name of the trace.

        Args:
            records: how many records were read.
            evicted: how many issues and completions were evicted.
            max_age_s: age at which they are.
            is_whole: the trace was read to its end.
        """
        records = max(records, self.sampled)  # none is read if the end is before the first
        if not records:
            return "it contains no trace record"
        if self._end:  # which adds times and devices; counts are of the sample alone
            issues, completions = self._issues, self._completions
            self._look_at(Engine(keep_records=True, resync=True), memoryview(self._end))
            self._issues, self._completions = issues, completions
        held = "it holds" if is_whole else "as far as it was read it holds"
        held += f" {how_many(records, 'record', 'records', ',')}"
        if self.sampled < records:
            held += f", and the first {self.sampled:,} are"
        named = sorted(self._devices)
        if named:
            held += f" of {', '.join(map(device_text, named[:MOST_DEVICES]))}"
            held += f" and {len(named) - MOST_DEVICES} more" * (len(named) > MOST_DEVICES)
        held += f": {how_many(self._issues, 'issue', 'issues', ',')}"
        held += f" and {how_many(self._completions, 'completion', 'completions', ',')}"
        is_too_slow = min(evicted, self._issues, self._completions) > 0
        limit = f" that took at most {max_age_s:g} s (--max-age allows more)" * is_too_slow
        if not self._times and self.sampled == records:
            held = ONLY_NOTES if is_whole else "nothing was issued as far as it was read"
        devices, _, period = self._selection
        wanted = [f"of {', '.join(map(device_text, devices))}"] * bool(devices) + period.words()
        return f"{' '.join(['no request', *wanted])}{limit}; {held}{self._span()}"

    def _look_at(self, probe: Engine, data: memoryview) -> None:
        probe.feed(data)
        records = probe.take_records()
        action = records["action"]
        self._issues += int(np.count_nonzero(action & ISSUE))
        self._completions += int(np.count_nonzero(action & COMPLETE))
        records = records[action & NOTIFY == 0]
        if len(records):
            self._devices.update(np.unique(records["device"]).tolist())
            times = records["time_ns"]
            self._times = sorted([*self._times, int(times.min()), int(times.max())])

    def _span(self) -> str:
        """The length of the trace; or its first and last time, if times of day were asked for."""
        if not self._times:
            return ""
        first_ns, last_ns = self._times[0], self._times[-1]
        epoch_ns = self._probe.epoch_ns
        if self._selection.period.is_absolute and epoch_ns is not None:
            return f", from {utc(first_ns + epoch_ns)} to {utc(last_ns + epoch_ns)}"
        return f", within {(last_ns - first_ns) / NS_PER_S:.6g} s"
