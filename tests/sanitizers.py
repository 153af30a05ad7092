"""Whether the tests run on a build with sanitizers, as ``make sanitize`` does."""

from __future__ import annotations

import os

import pytest

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")

unsanitized = pytest.mark.skipif(
    SANITIZED, reason="measures time or memory, of which the sanitizers take several times as much"
)
