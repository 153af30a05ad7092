"""A topology as JSON: a line for each array and device, unknown values ``null``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, TypeVar, cast

from blkiomon.console import printable
from blkiomon.errors import SourceError
from blkiomon.formats.units import device_text
from blkiomon.interval.devices import number_of
from blkiomon.sources.topology import KINDS, Array, Device, Topology, Transport

FORMAT = "blkiomon-topology"
VERSION = 1

_T = TypeVar("_T")


def encode(topology: Topology) -> bytes:
    """JSON of a topology. ``decode`` gives an equal one."""
    import json  # slow to import

    head = {
        "format": FORMAT,
        "version": VERSION,
        "hostname": topology.hostname,
        "kernel": topology.kernel,
    }
    lines = [f'"{name}": {json.dumps(value)}' for name, value in head.items()]
    for name, values in (("arrays", topology.arrays), ("devices", topology.devices)):
        rows = ",\n".join(json.dumps(_members(value)) for value in values)
        lines.append(f'"{name}": [\n{rows}\n]')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def decode(data: bytes) -> Topology:
    """The topology of JSON that ``encode`` wrote.

    Raises:
        SourceError: it is something else.
    """
    import json  # slow to import

    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError("not a topology: it is not JSON") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SourceError(f'not a topology: its "format" is not "{FORMAT}"')
    if found.get("version") != VERSION:
        raise SourceError(f"its version is {found.get('version')!r:.20}, and this program reads 1")
    try:
        topology = Topology(
            _member(found, "hostname", _optional(_string)),
            _member(found, "kernel", _optional(_string)),
            _tuple_of(Array, found.get("arrays")),
            _tuple_of(Device, found.get("devices")),
        )
        _check(topology)
    except ValueError as error:
        raise SourceError(f"a damaged topology: {error}") from error
    return topology


def _members(value: Array | Device) -> dict[str, Any]:
    """A JSON object; device numbers are written as sysfs does."""
    row = asdict(value)
    if isinstance(value, Device) and value.number is not None:
        row["number"] = device_text(value.number)
    return row


def _check(topology: Topology) -> None:
    """Raises ValueError if a device has an unknown kind, or refers to a missing device or array."""
    names = {device.name for device in topology.devices}
    if len(names) != len(topology.devices):
        raise ValueError("two devices have one name")
    arrays = {array.name for array in topology.arrays}
    for device in topology.devices:
        if device.kind not in KINDS:
            raise ValueError(f"{device.name} is of an unknown kind, {device.kind}")
        for name in (*device.made_of, device.map or device.name):
            if name not in names:
                raise ValueError(f"{device.name} refers to {name}, which is missing")
        if device.array is not None and device.array not in arrays:
            raise ValueError(f"{device.name} refers to the array {device.array}, which is missing")


# --- reading --------------------------------------------------------------------------------------


def _tuple_of(kind: type[_T], found: object) -> tuple[_T, ...]:
    if not isinstance(found, list):
        raise ValueError(f"a list of {kind.__name__.lower()}s is missing")
    return tuple(_named(kind, row) for row in found)


def _named(kind: type[_T], found: object) -> _T:
    """An array or a device."""
    what = kind.__name__.lower()
    if not isinstance(found, dict):
        raise ValueError(f"{what} cannot be {found!r:.40}")
    try:
        return _value(kind, found)
    except ValueError as error:
        raise ValueError(f"{what} {found.get('name')!r:.40}: {error}") from None


def _value(kind: type[_T], found: object) -> _T:
    """A dataclass of an object's members; unknown members, of later versions, are ignored."""
    if not isinstance(found, dict):
        raise ValueError(f"cannot be {found!r:.40}")
    values = {}
    for field in fields(cast(Any, kind)):
        read = _number if field.name == "number" else _READERS[cast(str, field.type)]
        values[field.name] = _member(found, field.name, read)
    return kind(**values)


def _member(found: dict[str, Any], name: str, read: Callable[[object], _T]) -> _T:
    """A member of an object. Raises ValueError, which names it."""
    try:
        return read(found.get(name))
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _optional(read: Callable[[object], _T]) -> Callable[[object], _T | None]:
    return lambda found: None if found is None else read(found)


def _string(found: object) -> str:
    if not isinstance(found, str):
        raise ValueError(f"cannot be {found!r:.40}")
    return printable(found)


def _whole(found: object) -> int:
    if type(found) is not int or not 0 <= found < 1 << 64:
        raise ValueError(f"cannot be {found!r:.40}")
    return found


def _truth(found: object) -> bool:
    if not isinstance(found, bool):
        raise ValueError(f"cannot be {found!r:.40}")
    return found


def _strings(found: object) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise ValueError(f"cannot be {found!r:.40}")
    return tuple(map(_string, found))


def _number(found: object) -> int | None:
    if found is None:
        return None
    text = _string(found)
    if not re.fullmatch("[0-9]+:[0-9]+", text, re.ASCII):
        raise ValueError(f"cannot be {found!r:.40}")
    return number_of(text)


_READERS: dict[str, Callable[[object], Any]] = {
    "str": _string,
    "Kind": _string,
    "str | None": _optional(_string),
    "int | None": _optional(_whole),
    "bool | None": _optional(_truth),
    "tuple[str, ...]": _strings,
    "Transport | None": _optional(lambda found: _value(Transport, found)),
}
"""By the annotation of a field."""
