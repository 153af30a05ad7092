"""blkiomon: a monitor of block device I/O that reads the kernel's block-trace records."""

import sys

# `python -m blkiomon` looks for modules in the working directory first, where anybody may have put
# some: out with it, before anything more is imported, which __future__ would be. While Python is
# looking for the module, sys.argv[0] is "-m"; the module's name is in front of its own arguments.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    if "blkiomon" in sys.orig_argv[-len(sys.argv)]:
        del sys.path[0]

from typing import TYPE_CHECKING, Any

from blkiomon._version import __version__
from blkiomon.errors import IntervalError, SourceError, StatsError, TraceError

if TYPE_CHECKING:
    from blkiomon.decode import read_stats
    from blkiomon.distribution import Distribution
    from blkiomon.groups import Group, InFlight
    from blkiomon.interval import Interval, join, merge
    from blkiomon.library import intervals, read_trace, requests, summarize
    from blkiomon.monitor import Monitor

_WHERE = {
    "Distribution": "distribution",
    "Group": "groups",
    "InFlight": "groups",
    "Interval": "interval",
    "Monitor": "monitor",
    "intervals": "library",
    "join": "interval",
    "merge": "interval",
    "read_stats": "decode",
    "read_trace": "library",
    "requests": "library",
    "summarize": "library",
}

__all__ = [
    "Distribution",
    "Group",
    "InFlight",
    "Interval",
    "IntervalError",
    "Monitor",
    "SourceError",
    "StatsError",
    "TraceError",
    "__version__",
    "intervals",
    "join",
    "merge",
    "read_stats",
    "read_trace",
    "requests",
    "summarize",
]


def __getattr__(name: str) -> Any:
    """What needs numpy is imported when it is first asked for: the command must start fast."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
