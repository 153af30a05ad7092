"""The labels of ``blkiomon_device_info``: the map, LUN, port and array of each device."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

from blkiomon.formats.rendering import Labels
from blkiomon.interval.views import initiator_of
from blkiomon.sources.devices import DeviceNames
from blkiomon.sources.topology import Topology, Transport, read_topology, refresh_topology

REFRESH_S = 10.0
"""How often to look whether this host has changed: metrics are scraped every 15 s or so."""


def labels_of(topology: Topology, numbers: Iterable[int]) -> dict[int, Labels]:
    """The labels of some devices."""
    by_number = {device.number: device for device in topology.devices}
    by_name = {device.name: device for device in topology.devices}
    found = {}
    for number in numbers:
        device = by_number.get(number)
        if device is None:
            continue
        above = by_name.get(device.map or "")
        alias = device.alias if above is None else above.alias or above.name
        via = device.transport or Transport()
        labels = device.wwid, alias, device.model, device.array, via.target_port, initiator_of(via)
        if any(labels):
            found[number] = tuple(label or "" for label in labels)
    return found


class HostInfo:
    """The labels of this host's devices. An ``InfoOf``, for one thread.

    Args:
        names: say whether the trace is of this host.
    """

    def __init__(self, names: DeviceNames) -> None:
        self._names = names
        self._topology: Topology | None = None
        self._due_s = 0.0

    def __call__(self, numbers: Iterable[int]) -> dict[int, Labels]:
        if not self._names.is_of_this_host:
            return {}
        if (now_s := time.monotonic()) >= self._due_s:
            self._due_s = now_s + REFRESH_S
            with suppress(OSError):  # without sysfs, nothing is known
                known = self._topology
                self._topology = read_topology() if known is None else refresh_topology(known)
        return {} if self._topology is None else labels_of(self._topology, numbers)
