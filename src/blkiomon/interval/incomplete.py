"""Why the figures of an interval are incomplete, and by how much."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blkiomon.console import how_many

INCOMPLETE_FROM = 0.01
"""The least share that makes an interval incomplete. Smaller shares are normal: a few requests are
in flight when a trace begins and ends."""

HEADER_BYTES = 48
"""Size of a record of version 7, to compare skipped bytes with records."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """One reason why an interval is incomplete.

    Attributes:
        reason: its name, as in JSON: "missing_files", "lost_events", "sequence_gaps",
            "skipped_bytes", "over_device_limit", "issues_without_completion" or
            "completions_without_issue".
        count: how many files, events, records, bytes, issues or completions are missing.
        share: of all, including the missing ones, from 0 to 1; None if unknown.
    """

    reason: str
    count: int
    share: float | None = None

    def __str__(self) -> str:
        """In words: ``41 % of issues have no completion``."""
        if self.share is None:
            return f"{how_many(self.count, 'per-CPU file', 'per-CPU files')} of the trace missing"
        return f"{100 * self.share:.0f} % {_TEXTS[self.reason]}"


_TEXTS = {
    "lost_events": "of events were lost while tracing",
    "sequence_gaps": "of records are missing by their sequence numbers",
    "skipped_bytes": "of the input was skipped",
    "over_device_limit": "of records are of devices beyond --max-devices",
    "issues_without_completion": "of issues have no completion",
    "completions_without_issue": "of completions have no issue",
}


def in_words(found: Iterable[Incomplete]) -> str:
    """All reasons in a line: ``41 % of issues have no completion; 2 % of ...``."""
    return "; ".join(map(str, found))


def reasons(missing_files: int, shares: dict[str, tuple[int, int]]) -> tuple[Incomplete, ...]:
    """The reasons why an interval is incomplete.

    Args:
        missing_files: how many per-CPU files of the trace are missing.
        shares: reason -> how many are missing, and how many are there.
    """
    found = [Incomplete("missing_files", missing_files)] if missing_files else []
    for reason, (missing, there) in shares.items():
        share = missing / (missing + max(there, 0)) if missing else 0.0
        if share >= INCOMPLETE_FROM:
            found.append(Incomplete(reason, missing, share))
    return tuple(found)
