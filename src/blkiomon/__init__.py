"""blkiomon: a monitor of block device I/O that reads the kernel's block-trace records."""

import sys

# `python -m blkiomon` puts the working directory, where anyone may have put modules, first in
# sys.path. Remove it before anything else is imported (even __future__). While Python looks for the
# module, sys.argv[0] is "-m", and the module's name precedes its arguments in sys.orig_argv.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    if "blkiomon" in sys.orig_argv[-len(sys.argv)]:
        del sys.path[0]

from typing import TYPE_CHECKING, Any

from blkiomon._version import __version__
from blkiomon.errors import IntervalError, MissingLibrary, SourceError, StatsError, TraceError

if TYPE_CHECKING:
    from blkiomon.engine import layout
    from blkiomon.formats.binary_codec import from_bytes, to_bytes
    from blkiomon.formats.json_codec import from_dict, to_dict
    from blkiomon.formats.stats_reader import read_stats
    from blkiomon.interval.distribution import Distribution
    from blkiomon.interval.groups import Group, InFlight
    from blkiomon.interval.monitor import Monitor
    from blkiomon.interval.value import Interval, merge
    from blkiomon.library import Requests, intervals, read_trace, requests, summarize

_MODULES = {
    "formats.stats_reader": ("read_stats",),
    "engine.layout": ("layout",),
    "formats.binary_codec": ("from_bytes", "to_bytes"),
    "formats.json_codec": ("from_dict", "to_dict"),
    "interval.distribution": ("Distribution",),
    "interval.groups": ("Group", "InFlight"),
    "interval.monitor": ("Monitor",),
    "interval.value": ("Interval", "merge"),
    "library": ("Requests", "intervals", "read_trace", "requests", "summarize"),
}

__all__ = [
    "Distribution",
    "Group",
    "InFlight",
    "Interval",
    "IntervalError",
    "MissingLibrary",
    "Monitor",
    "Requests",
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
    """Import a public name on first use: numpy is slow to import, and --help must start fast."""
    home = next((module for module, names in _MODULES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{home}")
    value = getattr(module, name, module)  # "layout" is a module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
