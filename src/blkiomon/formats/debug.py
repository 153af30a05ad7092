"""The original's debug text (-d): mismatches, and at the end unmatched records and totals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from blkiomon.engine.layout import MAGIC, MISMATCH
from blkiomon.formats.rendering import Format, FormatOptions
from blkiomon.interval.value import Counts

BLOCKS_AT_ONCE = 512
"""How many blocks are formatted at once; this bounds the memory for text."""


@dataclass(frozen=True, slots=True, eq=False)
class Final:
    """The state at the end of a run.

    Attributes:
        leftovers: shape (n,), dtype ``layout.DETAIL``: unmatched records, in output order.
        totals: of the whole run.
    """

    leftovers: npt.NDArray[np.void]
    totals: Counts


MAGIC_V7 = MAGIC | 7

# Name and printf conversion of every line of a block. The magic is version 7's for any record.
_LINES = (
    ("magic", f"{MAGIC_V7:>16}"),
    ("sequence", "%16d"),
    ("time", "%16d"),
    ("sector", "%16d"),
    ("bytes", "%16d"),
    ("action", "%16x"),
    ("pid", "%16d"),
    ("device", "%16d"),
    ("cpu", "%16d"),
    ("error", "%16d"),
    ("pdu_len", "%16d"),
    ("order", "%16d"),
)
# The record's fields in the same order, signed or not as the original prints them.
_FIELDS = {
    "sequence": "i4",
    "time_ns": "i8",
    "sector": "i8",
    "bytes": "i4",
    "action": "u4",
    "pid": "i4",
    "device": "i4",
    "cpu": "i4",
    "error": "u2",
    "pdu_len": "u2",
}


def _template(title: str, columns: int) -> str:
    lines = [f"--- {title} ---"]
    for name, conversion in _LINES:
        lines.append(f"{name:<8}" + f" {conversion}" * columns)
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
        yield from _blocks(_MISMATCH_BLOCK, item, MISMATCH.names or ())


def totals_line(leftovers: int, totals: Counts) -> str:
    """The last line. Counts that the original lacks are only added if they are not 0."""
    line = (
        f"{leftovers} leftover, {totals.requests} match, {totals.mismatches} mismatch, "
        f"{totals.driver_data_records} driverdata, {totals.records} overall"
    )
    if totals.evicted:
        line += f", {totals.evicted} evicted"
    if totals.lost_events:
        line += f", {totals.lost_events} lost"
    if totals.skipped_bytes:
        line += f", {totals.skipped_bytes} bytes skipped"
    if totals.over_device_limit:
        line += f", {totals.over_device_limit} over the limit of devices"
    return line + "\n"


def _blocks(template: str, array: npt.NDArray[np.void], sides: tuple[str, ...]) -> Iterator[bytes]:
    """One block per element: a DETAIL, or a struct whose DETAIL fields are named by ``sides``."""
    for start in range(0, len(array), BLOCKS_AT_ONCE):
        part = array[start : start + BLOCKS_AT_ONCE]
        details = [part[side] for side in sides] or [part]
        columns: list[list[Any]] = []
        for name, shown_as in _FIELDS.items():
            columns += [detail["record"][name].astype(shown_as).tolist() for detail in details]
        columns += [detail["order"].astype("i8").tolist() for detail in details]
        yield "".join(map(template.__mod__, zip(*columns, strict=True))).encode()
