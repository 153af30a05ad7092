"""The figures of some inputs, as ``collect`` returns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from blkiomon.commands.config import ALL_REQUESTS
from blkiomon.commands.options import Selection
from blkiomon.commands.report import selection
from blkiomon.commands.report.access import Patterns
from blkiomon.commands.report.spans import Gap
from blkiomon.console import printable
from blkiomon.formats.units import device_text
from blkiomon.interval.findings import Finding
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.value import Interval, merge
from blkiomon.interval.views import View, devices_of
from blkiomon.sources.topology import Topology

if TYPE_CHECKING:
    from blkiomon.commands.report.cells import Cells

TRACE, JSON, STATS = "trace", "JSON Lines", "statistics of -b"


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The figures of some inputs.

    Attributes:
        names: of the inputs, as they were given.
        kind: of all of them: ``TRACE``, ``JSON`` or ``STATS``.
        slices: in the order of time.
        whole: all of them as one interval.
        patterns: where requests went; None where the inputs do not say.
        notes: what the reader of the figures should know.
        is_broken: an input is incomplete or damaged; the last of ``notes`` says how.
        n_others: devices without rows of their own: they are one, ``selection.OTHERS``.
        gaps: when nothing was recorded between two runs, by the clock of the slices.
        begin_s: see ``Cells``.
        topology: of the traced host; None if it is not known.
        device_names: of the traced host, or of the groups of a view, by number; empty if they are
            not known.
        selection: which requests count.
        by: what the slices are of, see ``Interval.by``.
        about: by number, where a path belongs, or how many paths were added up; empty if that is
            not known.
        by_device: the slices by device, if ``slices`` are of a view: findings are of devices.
        identities: by number, what identifies the groups of a view in other runs, and a name that
            says so; see ``View.identity``.
    """

    names: tuple[str, ...]
    kind: str
    slices: tuple[Interval, ...]
    whole: Interval
    patterns: Patterns | None = None
    notes: tuple[str, ...] = ()
    is_broken: bool = False
    n_others: int = 0
    gaps: tuple[Gap, ...] = ()
    begin_s: float = 0.0
    topology: Topology | None = None
    device_names: Mapping[int, str] = field(default_factory=dict)
    selection: Selection = ALL_REQUESTS
    by: str = "device"
    about: Mapping[int, str] = field(default_factory=dict)
    by_device: tuple[Interval, ...] = ()
    identities: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def of_host(self, topology: Topology | None) -> Collected:
        """The same with the topology of the traced host, if that is known.

        The total then counts a request on a map and its path once.
        """
        from blkiomon.commands.san.wording import belongings  # slow to import

        found = self if topology is None else replace(self, topology=topology)
        if topology is not None and self.by in ("device", "path"):
            found = replace(found, about=belongings(topology))
        if topology is not None and self.by == "device":
            once = View(topology, "lun", devices_of(self.whole).tolist()).count_once
            slices, whole = tuple(map(once, self.slices)), once(self.whole)
            names = topology.names()
            found = replace(found, device_names=names, slices=slices, whole=whole)
        if not (found.n_others and found.whole.not_in_total):
            return found
        twice = "Among the others, a request on a map and its path may count twice."
        return replace(found, notes=(twice, *found.notes))

    def label(self, number: int) -> str:
        """The name of a device or a group, or its number."""
        return printable(self.device_names.get(number) or device_text(number))

    @cached_property
    def cells(self) -> Cells:
        """The figures by slice, device and operation."""
        from blkiomon.commands.report.cells import cells_of  # slow to import

        return replace(cells_of(self.slices, self.whole.not_in_total), begin_s=self.begin_s)

    @property
    def word(self) -> str:
        """What has rows of its own: device, LUN, path, port, HBA or array."""
        return {"lun": "LUN", "hba": "HBA"}.get(self.whole.by, self.whole.by)

    @property
    def heading(self) -> str:
        """The same with a capital letter."""
        return self.word[:1].upper() + self.word[1:]

    @cached_property
    def hung(self) -> list[tuple[int, int, int]]:
        """See ``hung_devices``; the longest first."""
        from blkiomon.commands.report.findings import hung_devices  # slow to import

        return sorted(hung_devices(self.whole, self.gaps, self.topology), reverse=True)

    @property
    def shaded(self) -> list[tuple[int, float, float]]:
        """Number, and begin and end in s from the start, of findings of a part of the time."""
        start_ns, end_ns = self.whole.start_ns, self.whole.end_ns
        return [
            (number, (one.span_ns[0] - start_ns) / NS_PER_S, (one.span_ns[1] - start_ns) / NS_PER_S)
            for number, one in enumerate(self.findings, 1)
            if one.span_ns is not None and one.span_ns != (start_ns, end_ns)
        ]

    @cached_property
    def findings(self) -> Sequence[Finding]:
        """What stands out, the most urgent first."""
        from blkiomon.commands.report.findings import findings  # slow to import

        slices, whole = self.slices, self.whole
        if self.by_device:
            slices, whole = self.by_device, merge(self.by_device)
        names = self.device_names if self.topology is None else self.topology.names()
        return findings(slices, whole, names.get, self.topology, self.gaps)

    @property
    def scope(self) -> str:
        """What the figures are of, such as ``only 8:16, read; by path``; empty: of everything."""
        only = f"only {self.selection.text}" if self.selection.text else ""
        by = f"by {self.by}" if self.by != "device" else ""
        return "; ".join(filter(None, (only, by)))

    @property
    def devices(self) -> list[int]:
        """Numbers of the devices that completed requests, and have rows of their own."""
        groups = self.whole.groups()
        found = {g.device for g in groups if g.device is not None and g.requests}
        return sorted(found - ({selection.OTHERS} if self.n_others else set()))


def listed(devices: Sequence[int], name_of: Callable[[int], str] = device_text) -> str:
    """Devices as text; of many the first ones."""
    shown = ", ".join(map(name_of, devices[:20]))
    return shown if len(devices) <= 20 else f"{shown} and {len(devices) - 20} more"
