"""Checks the types of the library's arguments. Messages name the expected type."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from operator import index
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    from _typeshed import ReadableBuffer

    Bytes = ReadableBuffer | npt.NDArray[Any]
    """Bytes, and arrays of numpy: before Python 3.12, type checkers do not know their buffers."""


def wrong(name: str, wanted: str, value: object) -> TypeError:
    """An exception about an argument: ``interval must be a number of seconds, not '1s'``."""
    return TypeError(f"{name} must be {wanted}, not {shortened(value)}")


def require_number(name: str, value: Any, wanted: str) -> None:
    """Raise TypeError unless the value is a real number of Python or numpy."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise wrong(name, wanted, value)


def whole(name: str, value: Any) -> int:
    """An integer of Python or numpy. Raises TypeError."""
    try:
        return index(value)
    except TypeError:
        raise wrong(name, "a whole number", value) from None


def listed(name: str, value: Any, single: tuple[type, ...], wanted: str) -> list[Any]:
    """The items of an iterable, or the argument alone if it is of a type in ``single``.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, single):
        return [value]
    if not isinstance(value, Iterable):
        raise wrong(name, wanted, value)
    return list(value)
