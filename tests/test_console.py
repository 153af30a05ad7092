"""What names may do to a terminal: nothing."""

from __future__ import annotations

import pytest

from blkiomon.console import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sda, größer, 東京, a\\b", "sda, größer, 東京, a\\b"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\rc\td\0", r"a\nb\rc\td\x00"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),  # DEL, and C1's way to begin an escape
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u2028b\u200b", r"a\u2028b\u200b"),
        ("\udc9b\udcff", r"\x9b\xff"),  # bytes of a name that is not UTF-8
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_would_act_on_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    assert shown.isprintable()
