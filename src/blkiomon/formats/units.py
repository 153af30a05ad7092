"""Figures with units, as text for people."""

from __future__ import annotations

import errno
import time

from blkiomon.interval.devices import text_of
from blkiomon.interval.groups import NS_PER_S

device_text = text_of

NONE = "–"
"""Shown for a figure that is unknown or does not exist."""


def error_text(number: int) -> str:
    """The name of an errno, such as ``EIO``."""
    return errno.errorcode.get(number, str(number))


def three_digits(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def time_text(time_ns: float | None) -> str:
    """A time, such as 1.23 ms."""
    if time_ns is None:
        return NONE
    if time_ns < 999.5:
        return f"{time_ns:.0f} ns"
    for unit, length in (("µs", 1e3), ("ms", 1e6)):
        if time_ns / length < 999.5:
            return f"{three_digits(time_ns / length)} {unit}"
    return f"{three_digits(time_ns / NS_PER_S)} s"


def bytes_text(n_bytes: float) -> str:
    """A size with decimal prefixes, such as 4.20 GB."""
    size = float(n_bytes)
    if size < 999.5:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.5:
            return f"{three_digits(size)} {unit}"
    return f"{three_digits(size / 1000)} PB"


def bandwidth_text(bytes_per_s: float | None) -> str:
    """A bandwidth, such as 4.20 MB/s."""
    return NONE if bytes_per_s is None else f"{bytes_text(bytes_per_s)}/s"


def rate_text(rate: float | None) -> str:
    """A rate, such as 1,234."""
    return NONE if rate is None else three_digits(rate)


def op_text(op: str) -> str:
    """An operation, such as write zeroes."""
    return op.replace("_", " ")


def utc(time_ns: int) -> str:
    """ns since 1970 as ISO 8601 in UTC, with nanoseconds."""
    seconds, ns = divmod(time_ns, NS_PER_S)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ns:09d}Z"
