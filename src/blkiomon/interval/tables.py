"""The tables of a snapshot: what identifies a row, and which histograms belong to it.

Merging, the binary codec and validation follow these descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from blkiomon.engine import layout


class TableSpec(NamedTuple):
    """Describes one table of ``Snapshot``.

    Attributes:
        name: its attribute of ``Snapshot``.
        dtype: of a row.
        key: the fields that identify a row; rows of equal keys add up.
        bins: quantity of a row -> the attribute of ``Snapshot`` that holds its histograms.
    """

    name: str
    dtype: np.dtype[np.void]
    key: tuple[str, ...]
    bins: Mapping[str, str] = {}


REQUESTS = TableSpec(
    "rows",
    layout.ROW,
    ("device", "op", "direction"),
    {"d2c_ns": "d2c_bins", "size_bytes": "size_bins"},
)
IN_FLIGHT = TableSpec("loads", layout.LOAD, ("device", "op"))
QUEUED = TableSpec(
    "queue_rows",
    layout.QUEUE_ROW,
    ("device", "op"),
    {"q2d_ns": "q2d_bins", "q2c_ns": "q2c_bins"},
)
PROCESSES = TableSpec("processes", layout.PROCESS, ("pid",))
RETRIED = TableSpec("retry_rows", layout.RETRY_ROW, ("device", "op"))
