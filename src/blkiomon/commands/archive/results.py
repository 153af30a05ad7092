"""What is known of a trace that was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blkiomon.interval.value import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a trace.

    Attributes:
        trace: its name.
        host: the host that was traced.
        whole: all of its intervals as one; None if nothing was read.
        intervals, records: how many were read.
        error: why it could not be read to its end.
        is_lasting: the bytes of the trace are wrong; reading it again would not help.
        notes: further messages for the user.
        was_done: it is the result of an earlier run.
        entry: what the manifest of the dataset holds of it.
    """

    trace: str
    host: str
    whole: Interval | None
    intervals: int
    records: int
    error: str | None = None
    is_lasting: bool = False
    notes: tuple[str, ...] = ()
    was_done: bool = False
    entry: dict[str, Any] | None = None
