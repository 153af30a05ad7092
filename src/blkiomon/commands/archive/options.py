"""Options that every worker gets, and that the dataset records."""

from __future__ import annotations

from dataclasses import dataclass

Tls = tuple[str, str, str]
"""Files in PEM: the trusted authority, our certificate, and its key."""


class ArchiveError(Exception):
    """The workers cannot be reached; the text says why."""


class DatasetError(ArchiveError):
    """The dataset cannot be used or written; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How each trace is read: arguments of ``Monitor``, which checks them."""

    interval_s: float | None = 60.0
    max_pending: int = 1_000_000
    max_age_s: float = 600.0
    resync: bool = False
