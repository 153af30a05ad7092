"""The original's debug text (-D): mismatches, and at the end unmatched records and totals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blkiomon.engine import layout
from blkiomon.engine.constants import MAGIC
from blkiomon.formats.rendering import Format, FormatOptions
from blkiomon.interval.value import Counts

if TYPE_CHECKING:
    import numpy.typing as npt

BLOCKS_AT_ONCE = 512
"""How many blocks are formatted at once; this bounds the memory for text."""


class Final(NamedTuple):
    """The state at the end of a run.

    Attributes:
        leftovers: shape (n,), dtype ``layout.DETAIL``: unmatched records, in output order.
        totals: of the whole run.
    """

    leftovers: npt.NDArray[np.void]
    totals: Counts


MAGIC_V7 = MAGIC | 7

# Field of a record, the type as which the original prints it, and the conversion of printf.
_FIELDS = (
    ("sequence", "i4", "d"),
    ("time_ns", "i8", "d"),
    ("sector", "i8", "d"),
    ("bytes", "i4", "d"),
    ("action", "u4", "x"),
    ("pid", "i4", "d"),
    ("device", "i4", "d"),
    ("cpu", "i4", "d"),
    ("error", "u2", "d"),
    ("pdu_len", "u2", "d"),
)


def _template(title: str, columns: int) -> str:
    """The template of a block: a line for each field, with a column for each record."""
    # Every record is shown with the magic of version 7.
    lines = [f"--- {title} ---", "magic   " + f" {MAGIC_V7:>16}" * columns]
    for name, _, conversion in (*_FIELDS, ("order", "i8", "d")):
        lines.append(f"{name.removesuffix('_ns'):<8}" + f" %16{conversion}" * columns)
    return "\n".join([*lines, ""])


_MISMATCH_BLOCK = _template("mismatch", 2)
_LEFTOVER_BLOCK = _template("leftover", 1)


def output_format(options: FormatOptions) -> Format:
    """``-D``."""
    return Format((np.ndarray, Final), render)


def render(item: npt.NDArray[np.void] | Final) -> Iterator[bytes]:
    """The text of mismatches (shape (n,), dtype ``layout.MISMATCH``) or of the end, in pieces."""
    if isinstance(item, Final):
        yield from _blocks(_LEFTOVER_BLOCK, item.leftovers, ())
        yield totals_line(len(item.leftovers), item.totals).encode()
    else:
        yield from _blocks(_MISMATCH_BLOCK, item, layout.MISMATCH.names or ())


def totals_line(leftovers: int, totals: Counts) -> str:
    """The last line. Counts that the original lacks follow only if they are not 0."""
    line = (
        f"{leftovers} leftover, {totals.requests} match, {totals.mismatches} mismatch, "
        f"{totals.driver_data_records} driverdata, {totals.records} overall"
    )
    for count, what in (
        (totals.evicted, "evicted"),
        (totals.lost_events, "lost"),
        (totals.skipped_bytes, "bytes skipped"),
        (totals.over_device_limit, "over the limit of devices"),
    ):
        line += f", {count} {what}" if count else ""
    return line + "\n"


def _blocks(template: str, array: npt.NDArray[np.void], sides: tuple[str, ...]) -> Iterator[bytes]:
    """One block per element: a DETAIL, or a struct with a DETAIL in each field of ``sides``."""
    for start in range(0, len(array), BLOCKS_AT_ONCE):
        part = array[start : start + BLOCKS_AT_ONCE]
        details = [part[side] for side in sides] or [part]
        columns: list[list[Any]] = []
        for name, shown_as, _ in _FIELDS:
            columns += [detail["record"][name].astype(shown_as).tolist() for detail in details]
        columns += [detail["order"].astype("i8").tolist() for detail in details]
        yield "".join(map(template.__mod__, zip(*columns, strict=True))).encode()
