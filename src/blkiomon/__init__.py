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
    from blkiomon.commands.decode import read_stats
    from blkiomon.engine import layout
    from blkiomon.formats.binary_codec import from_bytes, to_bytes
    from blkiomon.formats.json_codec import from_dict, to_dict
    from blkiomon.interval.distribution import Distribution
    from blkiomon.interval.groups import Group, InFlight
    from blkiomon.interval.monitor import Monitor
    from blkiomon.interval.value import Interval, merge
    from blkiomon.library import intervals, read_trace, requests, summarize

_MODULES = {
    "Distribution": "interval.distribution",
    "Group": "interval.groups",
    "InFlight": "interval.groups",
    "Interval": "interval.value",
    "Monitor": "interval.monitor",
    "from_bytes": "formats.binary_codec",
    "from_dict": "formats.json_codec",
    "intervals": "library",
    "layout": "engine.layout",
    "merge": "interval.value",
    "read_stats": "commands.decode",
    "read_trace": "library",
    "requests": "library",
    "summarize": "library",
    "to_bytes": "formats.binary_codec",
    "to_dict": "formats.json_codec",
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
    "from_bytes",
    "from_dict",
    "intervals",
    "layout",
    "merge",
    "read_stats",
    "read_trace",
    "requests",
    "summarize",
    "to_bytes",
    "to_dict",
]


def __getattr__(name: str) -> Any:
    """What needs numpy is imported when it is first asked for: the command must start fast."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{_MODULES[name]}")
    value = getattr(module, name, module)  # of "layout" the module itself
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
