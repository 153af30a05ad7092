"""Whether figures lack requests that took too long, and which options count them."""

from __future__ import annotations

from blkiomon.console import how_many
from blkiomon.interval.value import Counts


class Dropped:
    """Issues that were dropped before their completion came, and so are missing from all figures.

    Completions are dropped, too. Where tracing began with requests in flight, this is normal: so
    nothing counts before an issue lacks its completion.
    """

    def __init__(self) -> None:
        self._lacks_completion = False
        self._evicted = 0
        self._records = 0

    def add(self, counts: Counts) -> None:
        """Add the counts of the next interval."""
        self._records += counts.records
        self._lacks_completion |= counts.issues_without_completion > 0
        if self._lacks_completion:
            self._evicted += counts.evicted

    def text(self, max_age_s: float, max_pending: int) -> str | None:
        """How many were dropped, and the options that keep more; None if none were."""
        if not self._evicted:
            return None
        dropped = how_many(
            self._evicted, "issue or completion was", "issues and completions were", ","
        )
        text = f"{dropped} dropped: no partner came within {max_age_s:g} s (--max-age allows more)"
        if self._records >= max_pending // 2:
            text += f", or more than {max_pending:,} were pending (--max-pending allows more)"
        return text
