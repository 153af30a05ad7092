"""How colours look to people with colour blindness, and how far apart they are.

The matrices are of Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation
of Color Vision Deficiency" (2009), at full severity; they apply to linear RGB.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = Path(__file__).parent.parent / "src/blkiomon/commands/report/page"

Array = npt.NDArray[np.float64]

VISION: dict[str, Array] = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ]
    ),
}

_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)
_WHITE = _XYZ.sum(axis=1)  # D65


def palettes() -> dict[str, dict[str, Array]]:
    """The colours of the page's style sheet by name, "light" and "dark"; sRGB from 0 to 255."""
    sheet = (PAGE / "page.css").read_text(encoding="utf-8")
    found = {}
    for theme, block in zip(("light", "dark"), re.findall(r":root \{(.*?)\}", sheet, re.S)):
        colours = re.findall(r"--(\w+): #([0-9a-f]{6}|[0-9a-f]{3})\b", block)
        found[theme] = {name: _rgb(text) for name, text in colours}
    return found


def ramps() -> dict[str, Array]:
    """The scale of the heat map, shape (steps, 3), "light" and "dark"."""
    script = (PAGE / "draw.js").read_text(encoding="utf-8")
    (block,) = re.findall(r"const RAMPS = \{(.*?)\};", script, re.S)
    return {
        theme: np.array(re.findall(r"\[(\d+), (\d+), (\d+)\]", row), np.float64)
        for theme, row in re.findall(r"(\w+): \[(\[.*?\])\]", block)
    }


def seen(rgb: Any, vision: str) -> Array:
    """CIE Lab of sRGB from 0 to 255, shape (..., 3), as people with this vision see it."""
    shares = np.asarray(rgb, np.float64) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ VISION[vision].T, 0, 1) @ _XYZ.T / _WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab: Array = np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])],
        axis=-1,
    )
    return lab


def _rgb(text: str) -> Array:
    digits = text if len(text) == 6 else "".join(2 * digit for digit in text)
    return np.array([int(digits[at : at + 2], 16) for at in (0, 2, 4)], np.float64)
