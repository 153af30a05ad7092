"""What stands out in an interval or a run, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """What stands out, with its evidence.

    Attributes:
        kind: ``stalled``, ``slow_path`` and others, see ``docs/san.md``.
        name: of the device, port or array.
        what: which device does what, such as "sdb is slow".
        figures: those that show it, in words; empty if ``what`` contains them.
        evidence: the same as further fields of the JSON object.
        devices: numbers of the devices concerned; not in JSON.
        when: in words, such as " since 11:06:40 UTC"; empty if that is unknown, or in ``what``.
        span_ns: begin and end of that time in a run; None if it is unknown. Not in JSON.
    """

    kind: str
    name: str
    what: str
    figures: str = ""
    evidence: Mapping[str, Any] = {}
    devices: tuple[int, ...] = ()
    when: str = ""
    span_ns: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        """One sentence without its full stop."""
        return f"{self.what}{self.when}" + (f": {self.figures}" if self.figures else "")

    def to_dict(self) -> dict[str, Any]:
        """Its fields in JSON."""
        return {"kind": self.kind, "name": self.name, "text": self.text, **self.evidence}
