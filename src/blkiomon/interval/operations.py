"""Selects the figures of some operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot
from blkiomon.interval import arguments
from blkiomon.interval.tables import IN_FLIGHT, QUEUED, REQUESTS, RETRIED


def checked(ops: str | Iterable[str]) -> tuple[str, ...]:
    """Operations in the order of ``layout.OPS``, each once.

    Raises:
        ValueError: one is unknown.
        TypeError: these are not names of operations.
    """
    listed = arguments.listed("ops", ops, (str,), "names, such as ['read', 'write']")
    if other := [op for op in listed if not isinstance(op, str)]:
        raise arguments.wrong("an operation", "text", other[0])
    wanted = {*listed}
    if unknown := sorted(map(repr, wanted - {*layout.OPS})):
        raise ValueError(f"unknown operation {unknown[0]}; use {', '.join(layout.OPS)}")
    return tuple(op for op in layout.OPS if op in wanted)


def select_operations(snapshot: Snapshot, ops: Sequence[str]) -> Snapshot:
    """The rows of some operations.

    The rows in flight of devices and of the total are left out: they are not sums of operations.
    Processes are left out, as their requests are not counted by operation.
    """
    wanted = [layout.OPS.index(op) for op in ops]
    found = {}
    for spec in (REQUESTS, IN_FLIGHT, QUEUED, RETRIED):
        table = getattr(snapshot, spec.name)
        is_wanted = np.isin(table["op"], wanted)
        found[spec.name] = table[is_wanted]
        new_row = np.cumsum(is_wanted) - 1
        for name in spec.bins.values():
            bins = getattr(snapshot, name)
            bins = bins[is_wanted[bins["row"]]]
            bins["row"] = new_row[bins["row"]]
            found[name] = bins
    return replace(snapshot, **found, processes=snapshot.processes[:0])
