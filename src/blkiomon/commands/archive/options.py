"""Options that every worker gets, and that the dataset records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from blkiomon.commands.options import Period, Selection

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
    devices: tuple[int, ...] = ()
    ops: tuple[str, ...] = ()
    from_ns: int | None = None
    to_ns: int | None = None
    is_absolute: bool = False

    @property
    def selection(self) -> Selection:
        """Which requests count."""
        period = Period(self.from_ns, self.to_ns, self.is_absolute)
        return Selection(self.devices, self.ops, period)

    def stored(self) -> dict[str, Any]:
        """The options for the manifest, as JSON; without fields of a selection that select all."""
        options = asdict(self)
        for name, value in Selection().arguments().items():
            if options[name] == value:
                del options[name]
            elif isinstance(options[name], tuple):
                options[name] = list(options[name])
        return options
