"""Number the groups of several runs alike, so that those of one identity can be compared.

Devices have other numbers after a reboot, and each view numbers its groups by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from blkiomon.commands.report.collected import Collected
from blkiomon.commands.report.selection import OTHERS
from blkiomon.interval.value import Interval
from blkiomon.interval.views import devices_of, regroup


def aligned(runs: Sequence[Collected]) -> Iterator[Collected]:
    """The runs of a view with common numbers; the first run with a group gives it its name."""
    numbers: dict[str, int] = {}
    labels: dict[int, str] = {}
    for run in runs:
        common: dict[int, int | None] = {OTHERS: OTHERS}
        for number, (identity, name) in run.identities.items():
            of = common[number] = numbers.setdefault(identity, len(numbers) + 1)
            labels.setdefault(of, name)
        yield replace(
            run,
            slices=tuple(_renumbered(item, common) for item in run.slices),
            whole=_renumbered(run.whole, common),
            device_names=labels,
            identities={},
        )


def _renumbered(interval: Interval, numbers: dict[int, int | None]) -> Interval:
    there = devices_of(interval)
    return regroup(interval, there, {n: numbers[n] for n in there.tolist()})
