"""Selects the figures of some operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from blkiomon.engine.constants import OPS
from blkiomon.engine.snapshot import Snapshot, Table
from blkiomon.interval import arguments
from blkiomon.interval.tables import QUEUED, REQUESTS, RETRIED

if TYPE_CHECKING:
    import numpy.typing as npt


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
    if unknown := sorted(map(repr, wanted - {*OPS})):
        raise ValueError(f"unknown operation {unknown[0]}; use {', '.join(OPS)}")
    return tuple(op for op in OPS if op in wanted)


def select_operations(snapshot: Snapshot, ops: Sequence[str]) -> Snapshot:
    """The rows of some operations.

    The rows in flight of devices and of the total are left out: the maxima and busy times of some
    operations are not known. Processes are left out: their requests are not counted by operation.
    """
    wanted = [OPS.index(op) for op in ops]
    found = select_rows(snapshot, lambda table: np.isin(table["op"], wanted))
    loads = snapshot.loads
    return Snapshot(**found, loads=loads.compress(np.isin(loads["op"], wanted)))


def select_rows(
    snapshot: Snapshot, keep: Callable[[Table], npt.NDArray[np.bool_]]
) -> dict[str, Table]:
    """Copies of some rows of requests and of their histograms, by attribute of ``Snapshot``.

    Args:
        keep: returns, for each row of a table with the fields ``device`` and ``op``, whether it is
            kept.
    """
    found: dict[str, Table] = {}
    for spec in (REQUESTS, QUEUED, RETRIED):
        table = getattr(snapshot, spec.name)
        is_kept = keep(table)
        new_row = np.cumsum(is_kept) - 1
        found[spec.name] = table.compress(is_kept)
        for name in spec.bins.values():
            bins = getattr(snapshot, name)
            bins = bins.compress(is_kept[bins["row"]])
            bins["row"] = new_row[bins["row"]]
            found[name] = bins
    return found
