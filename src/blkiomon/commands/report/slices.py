"""Merge a stream of intervals into a bounded number of slices that take bounded memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from blkiomon.commands.report import selection
from blkiomon.commands.report.selection import OTHERS, DeviceNumbers, size_bytes
from blkiomon.console import how_many
from blkiomon.interval.moments import distinct
from blkiomon.interval.value import Interval, merge
from blkiomon.interval.views import View, devices_of

MOST_SLICES = 512

MOST_DEVICES = 4096
"""Devices that have rows of their own, at most."""

LEAST_SLICES = 64
"""Slices become longer down to this number before devices lose their rows for want of memory."""

JUDGED_PART = 1 / 16
"""Part of the time after which it is judged how much memory all slices will take."""

MOST_OTHERS = 1 << 22
"""Numbers of other devices that are remembered: beyond, it is only known that there are more."""

MOST_PARTS = 8
"""Intervals of a slice that wait to be merged: merging many at once is cheaper than one by one."""


class Slices:
    """Intervals in the order of their time, merged into a limited number.

    Whenever there are more, each two neighbours become one: in the end there are between half of
    that number and all. Merging loses nothing. Where slices would take too much memory, they
    become longer; then ever fewer devices keep rows of their own. A device without rows
    of its own never has any again: its figures would be of a part of the time.

    Args:
        most_bytes: limit of the memory of all tables, approximately.
        most_slices: limit of their number.
        most_devices: limit of the devices that have rows of their own.
        view: the slices are of it; None: by device, as the intervals are that are added.
        by_device: with a view, the same intervals by device; None: they are not needed.

    Attributes:
        halvings: how often each two neighbours became one.
        n_expected: how many positions will be added; 0: this is unknown.
    """

    def __init__(
        self,
        most_bytes: int,
        most_slices: int = MOST_SLICES,
        most_devices: int = MOST_DEVICES,
        view: View | None = None,
        by_device: Slices | None = None,
    ) -> None:
        self._view = view
        self.by_device = by_device
        self._most_bytes = most_bytes
        self.n_expected = 0
        self._most_slices = most_slices
        self._others = np.empty(0, np.uint32)  # ascending: OTHERS and the devices that are others
        self._own: DeviceNumbers | None = None  # all but the others, once these are too many
        self._most_devices = most_devices
        self.halvings = 0
        self._places: list[int] = []
        self._parts: list[list[Interval]] = []  # of each place
        self._n_bytes = 0

    def add(self, position: int, interval: Interval) -> None:
        """Add an interval.

        Args:
            position: its place in time, in a unit that never changes; not less than before.
        """
        if self.by_device is not None:
            self.by_device.add(position, interval)
        if self._view is not None:
            interval = _seen(interval, self._view)
        while position >> self.halvings >= self._most_slices:
            self._halve()
        self._add(position >> self.halvings, [self._bounded(interval)])
        if position >= self.n_expected * JUDGED_PART:
            while self._will_be_halved():
                self._halve()
        while self._n_bytes > self._most_bytes and (
            self._most_devices > 1 or len(self._places) > 1
        ):
            if self._most_devices > 1 and len(self._places) <= LEAST_SLICES:
                self._most_devices //= 2
            else:
                self._halve()
            self._merge_parts()

    def _will_be_halved(self) -> bool:
        """Whether memory will not suffice if later slices take as much as those so far."""
        expected = self.n_expected >> self.halvings
        n_bytes = self._n_bytes / len(self._places) * expected
        return expected > 2 * LEAST_SLICES and n_bytes > self._most_bytes

    def merged(self) -> list[Interval]:
        """The slices, with rows for the same devices in all."""
        self._merge_parts()
        return [parts[0] for parts in self._parts]

    @property
    def n_others(self) -> int:
        """Devices without rows of their own, counted up to ``MOST_OTHERS``."""
        return max(0, len(self._others) - 1)

    @property
    def others_text(self) -> str:
        """How many devices have no rows of their own, in words."""
        return "more than " * (self.n_others >= MOST_OTHERS) + how_many(
            self.n_others,
            "device has no row of its own and is shown as others",
            "devices have no rows of their own and are shown together as others",
            ",",
        )

    def _add(self, place: int, parts: list[Interval]) -> None:
        if not self._places or self._places[-1] != place:
            self._places.append(place)
            self._parts.append([])
        latest = self._parts[-1]
        latest += parts
        self._n_bytes += _bytes_of(parts)
        if len(latest) > MOST_PARTS:
            self._n_bytes -= _bytes_of(latest)
            latest[:] = [self._bounded(merge(latest))]
            self._n_bytes += _bytes_of(latest)

    def _halve(self) -> None:
        """Merge each two places into one."""
        places, self._places = self._places, []
        parts, self._parts = self._parts, []
        self._n_bytes = 0
        self.halvings += 1
        for place, of_place in zip(places, parts):
            self._add(place // 2, of_place)

    def _merge_parts(self) -> None:
        """Merge the parts of each place, with rows for the same devices in all places."""
        merged = [parts[0] if len(parts) == 1 else merge(parts) for parts in self._parts]
        self._parts = [[item] for item in merged]
        devices = distinct(np.concatenate([self._others[:0], *map(devices_of, merged)]))
        own = self._own_of(devices)
        self._parts = [[self._combined(item, own)] for item in merged]
        self._n_bytes = sum(map(_bytes_of, self._parts))

    def _bounded(self, interval: Interval) -> Interval:
        """An interval in which not too many devices have rows of their own."""
        return self._combined(interval, self._own_of(devices_of(interval), interval))

    def _own_of(self, devices: DeviceNumbers, *more: Interval) -> DeviceNumbers:
        """Those of some devices that have rows of their own from now on.

        Args:
            more: an interval that is not in a slice yet, to judge by.
        """
        own = devices[~self._is_other(devices)]
        if len(own) <= self._most_devices:
            return own
        known = [part for parts in self._parts for part in parts]
        kept = selection.slowest([*known, *more], own, self._most_devices)
        gone = np.setdiff1d(own, kept)
        if self._own is not None:
            self._own = np.setdiff1d(self._own, gone)
            return kept
        self._others = np.union1d(np.append(self._others, np.uint32(OTHERS)), gone)
        if self.n_others > MOST_OTHERS:
            listed = [devices_of(part) for part in known]
            self._own = np.setdiff1d(np.concatenate([kept, *listed]), self._others)
            self._others = self._others[: MOST_OTHERS + 1]
        return kept

    def _is_other(self, devices: DeviceNumbers) -> npt.NDArray[np.bool_]:
        if self._own is not None:
            return ~np.isin(devices, self._own)
        if not len(self._others):
            return np.zeros(len(devices), bool)
        place = np.minimum(np.searchsorted(self._others, devices), len(self._others) - 1)
        is_other: npt.NDArray[np.bool_] = self._others[place] == devices
        return is_other

    def _combined(self, interval: Interval, own: DeviceNumbers) -> Interval:
        """An interval with rows for these devices, and one for all others."""
        interval = selection.limit_processes(interval)
        if not len(self._others):
            return interval
        others = np.setdiff1d(devices_of(interval), np.append(own, np.uint32(OTHERS)))
        return selection.combine_devices(interval, others) if len(others) else interval


def _seen(interval: Interval, view: View) -> Interval:
    """The view of an interval, without the maps beside its paths, but with all processes."""
    seen = view(interval)
    return replace(
        seen,
        maps=None,
        snapshot=replace(seen.snapshot, processes=interval.snapshot.processes),
        process_names=interval.process_names,
        named_ns=interval.named_ns,
    )


def _bytes_of(intervals: list[Interval]) -> int:
    return sum(size_bytes(interval.snapshot) for interval in intervals)
