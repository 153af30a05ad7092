"""A progress bar on the terminal."""

from __future__ import annotations

import os
import time

from blkiomon.console import write

FIRST_S = 1.0
"""The bar appears after so long."""

EVERY_S = 0.2
WIDTH = 30


class Progress:
    """A bar on standard error, if that is a terminal; it is erased at the end.

    Args:
        total_bytes: of all the work; None if unknown.
        is_shown: whether to show it at all; by default, whether standard error is a terminal.
    """

    def __init__(self, total_bytes: int | None, is_shown: bool | None = None) -> None:
        self._total_bytes = total_bytes
        self._is_shown = os.isatty(2) if is_shown is None else is_shown
        self._start = time.monotonic()
        self._next = self._start + FIRST_S
        self._has_shown = False

    def show(self, done_bytes: int) -> None:
        """Draw the bar for so many bytes done, a few times a second at most."""
        now = time.monotonic()
        if not self._is_shown or now < self._next:
            return
        self._next = now + EVERY_S
        self._draw(done_bytes, now - self._start)

    def _draw(self, done_bytes: int, spent_s: float) -> None:
        speed = done_bytes / spent_s
        text = f"{done_bytes / 1e6:,.0f} MB, {speed / 1e6:,.0f} MB/s"
        if self._total_bytes:
            share = min(1.0, done_bytes / self._total_bytes)
            full = round(share * WIDTH)
            bar = "#" * full + "." * (WIDTH - full)
            left_s = (self._total_bytes - done_bytes) / speed if speed else 0.0
            text = f"[{bar}] {share:4.0%} {text}, {max(0.0, left_s):,.0f} s left"
        self._write(f"\r{text}\x1b[K")
        self._has_shown = True

    def _write(self, text: str) -> None:
        try:
            write(2, text)
        except OSError:  # the terminal has gone
            self._is_shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._has_shown:
            self._write("\r\x1b[K")
