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
"""Environment variables that a build with sanitizers needs to start; else empty."""

OTHERS = {name: value for name, value in os.environ.items() if name not in NEEDED}
"""The environment for other programs: sanitizers would report their errors, too."""


unpreloaded = pytest.mark.skipif(
    SANITIZED, reason="preloads a library that does not work with the sanitizers"
)
unsanitized = pytest.mark.skipif(
    SANITIZED, reason="measures time or memory: sanitizers multiply both"
)
