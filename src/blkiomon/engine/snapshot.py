"""Snapshot: the engine's figures of one interval, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from blkiomon.engine import layout

if TYPE_CHECKING:
    import numpy.typing as npt

Table: TypeAlias = "npt.NDArray[np.void]"


def _none(dtype: np.dtype[np.void]) -> Table:
    return np.empty(0, dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """The engine's figures of one interval: numpy arrays of shape (n,).

    Attributes:
        rows: dtype ``layout.ROW``. Several rows of one device, operation and direction add up. The
            engine returns one for each, in the order of their first match.
        d2c_bins, size_bins: dtype ``layout.BIN``, by row, then bin.
        loads: dtype ``layout.LOAD``, one for each device and operation, for each device, and for
            all devices; empty if requests in flight were not counted.
        retry_rows: dtype ``layout.RETRY_ROW``, one for each device and operation; empty if
            nothing was requeued.
        queue_rows: dtype ``layout.QUEUE_ROW``; empty if the stream has no queue records.
        q2d_bins, q2c_bins: dtype ``layout.BIN``, by row of ``queue_rows``, then bin.
        processes: dtype ``layout.PROCESS``, one for each pid; empty if the stream has no process
            names.
    """

    rows: Table = field(default_factory=lambda: _none(layout.ROW))
    d2c_bins: Table = field(default_factory=lambda: _none(layout.BIN))
    size_bins: Table = field(default_factory=lambda: _none(layout.BIN))
    loads: Table = field(default_factory=lambda: _none(layout.LOAD))
    retry_rows: Table = field(default_factory=lambda: _none(layout.RETRY_ROW))
    queue_rows: Table = field(default_factory=lambda: _none(layout.QUEUE_ROW))
    q2d_bins: Table = field(default_factory=lambda: _none(layout.BIN))
    q2c_bins: Table = field(default_factory=lambda: _none(layout.BIN))
    processes: Table = field(default_factory=lambda: _none(layout.PROCESS))
