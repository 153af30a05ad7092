"""The tables of a snapshot: what identifies a row, and which histograms belong to it.

Merging, the binary codec and validation follow these descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Table

if TYPE_CHECKING:
    import numpy.typing as npt


class TableSpec(NamedTuple):
    """Describes one table of ``Snapshot``.

    Attributes:
        name: its attribute of ``Snapshot``.
        row: name of the dtype of a row in ``layout``.
        key: the fields that identify a row; rows of equal keys add up.
        bins: quantity of a row -> the attribute of ``Snapshot`` that holds its histograms.
    """

    name: str
    row: str
    key: tuple[str, ...]
    bins: Mapping[str, str] = {}

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The dtype of a row."""
        dtype: np.dtype[np.void] = getattr(layout, self.row)
        return dtype

    def keys(self, table: Table) -> npt.NDArray[np.uint64]:
        """The key of each row as one number; numbers sort as keys do."""
        keys = table[self.key[0]].astype(np.uint64)
        for name in self.key[1:]:  # 16 bits each
            keys = keys << np.uint64(16) | table[name]
        return keys


REQUESTS = TableSpec(
    "rows",
    "ROW",
    ("device", "op", "direction"),
    {"d2c_ns": "d2c_bins", "size_bytes": "size_bins"},
)
IN_FLIGHT = TableSpec("loads", "LOAD", ("device", "op"))
QUEUED = TableSpec(
    "queue_rows",
    "QUEUE_ROW",
    ("device", "op"),
    {"q2d_ns": "q2d_bins", "q2c_ns": "q2c_bins"},
)
PROCESSES = TableSpec("processes", "PROCESS", ("pid",))
RETRIED = TableSpec("retry_rows", "RETRY_ROW", ("device", "op"))
