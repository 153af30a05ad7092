"""What the command line asks for, as one value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run of the monitor. Paths are as the user gave them; ``-`` is standard output.

    ``names``: show what this host calls the devices; not for a trace of another one.
    """

    interval_s: float
    human: str | None = None
    binary: str | None = None
    driver: str | None = None
    debug: str | None = None
    json: str | None = None
    csv: str | None = None
    parquet: str | None = None
    names: bool = True
    queue_path: str | None = None
    queue_id: int | None = None
    queue_message_type: int | None = None
    stat_version: str = "0.3"
    final: bool = True
    max_pending: int = 1_000_000
    max_age_s: float = 600.0
    resync: bool = False
    verbose: bool = False
