"""What stands out in an interval, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """What stands out, with its evidence.

    Attributes:
        kind: ``stalled``, ``slow_path`` and others, see ``docs/san.md``.
        name: of the device, port or array.
        text: one sentence without its full stop.
        evidence: figures and names by their name in JSON.
    """

    kind: str
    name: str
    text: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Its fields in JSON."""
        return {"kind": self.kind, "name": self.name, "text": self.text, **self.evidence}
