"""Engines whose internals are set so that a short stream exercises them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tracewriter import Record, encode

from blkiomon._core import Engine

TUNING = ("hash_seed", "spill_every", "plain_cpu", "slowly")


def tuned(**options: Any) -> Engine:
    """An engine; options named in TUNING are passed to ``Engine._tune``."""
    tuning = {name: options.pop(name) for name in TUNING if name in options}
    engine = Engine(**options)
    engine._tune(**tuning)
    return engine


def fed(data: bytes | Iterable[Record], version: int = 7, **options: Any) -> Engine:
    """An engine of these options that has read these bytes, or records."""
    engine = tuned(**options)
    engine.feed(data if isinstance(data, bytes) else encode(data, version))
    return engine
