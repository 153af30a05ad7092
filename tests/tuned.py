"""Engines whose internals are set so that a short stream exercises them."""

from __future__ import annotations

from typing import Any

from blkiomon._core import Engine

TUNING = ("hash_seed", "spill_every", "cold_table_from")


def tuned(**options: Any) -> Engine:
    """An engine; options named in TUNING are passed to ``Engine._tune``."""
    tuning = {name: options.pop(name) for name in TUNING if name in options}
    engine = Engine(**options)
    engine._tune(**tuning)
    return engine
