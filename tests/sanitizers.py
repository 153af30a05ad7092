"""Whether the tests run on a build with sanitizers, as ``make sanitize`` does."""

from __future__ import annotations

import os

import pytest

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")

NEEDED = {
    name: os.environ[name]
    for name in ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")
    if SANITIZED and name in os.environ
}
"""Environment variables without which the command does not start, where they are needed."""

OTHERS = {name: value for name, value in os.environ.items() if name not in NEEDED}
"""The environment for other people's programs, which have findings of their own."""


unpreloaded = pytest.mark.skipif(
    SANITIZED, reason="preloads what cannot stand beside the sanitizers: no process would start"
)
unsanitized = pytest.mark.skipif(
    SANITIZED, reason="measures time or memory, of which the sanitizers take several times as much"
)
