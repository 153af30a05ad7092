"""What has changed between two topologies of a host."""

from __future__ import annotations

from typing import Any

from blkiomon.commands.san.facts import luns_of
from blkiomon.commands.san.wording import described, identity, plain_name
from blkiomon.console import printable
from blkiomon.interval.findings import Finding
from blkiomon.sources.topology import Device, Topology, order

_WATCHED = ("state", "access_state", "map", "alias", "size_bytes")
_WATCHED_OF_TRANSPORT = (
    "target_state",
    "connection_state",
    "initiator_state",
    "speed_gbit_per_s",
    "target_port",
)


def changes(before: Topology, now: Topology) -> list[Finding]:
    """What has changed: paths that come, go, fail, or change their access state."""
    if now is before:
        return []
    old, new = ({d.name: d for d in topology.devices} for topology in (before, now))
    luns = (*luns_of(before), *luns_of(now))
    lun_of = {path.name: lun for lun in luns for path in lun.paths}
    found = []

    def add(device: Device, what: str, attribute: str, values: tuple[Any, Any]) -> None:
        lun = lun_of.get(device.name)
        name = described(device, lun) + "," if lun is not None else plain_name(device)
        evidence = identity(device, lun) if lun is not None else {}
        evidence |= {"attribute": attribute, "before": values[0], "after": values[1]}
        found.append(Finding("changed", device.name, f"{name} {what}", evidence=evidence))

    for name in sorted(old.keys() - new.keys(), key=order):
        add(old[name], "is gone", "name", (name, None))
    for name in sorted(new.keys() - old.keys(), key=order):
        add(new[name], "is new", "name", (None, name))
    for name in sorted(old.keys() & new.keys(), key=order):
        pairs: list[tuple[str, object, object]]
        pairs = [(attribute, old[name], new[name]) for attribute in _WATCHED]
        vias = old[name].transport, new[name].transport
        if None not in vias:
            pairs += [(attribute, *vias) for attribute in _WATCHED_OF_TRANSPORT]
        for attribute, was, now_is in pairs:
            values = getattr(was, attribute), getattr(now_is, attribute)
            if values[0] != values[1]:
                words = attribute.replace("_", " ")
                what = f"changed its {words} from {_value(values[0])} to {_value(values[1])}"
                add(new[name], what, attribute, values)
    return found


def _value(value: object) -> str:
    return "unknown" if value is None else printable(str(value))
