"""The colours of pages and pictures, as colour-blind people see them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from blkiomon.commands.report import figures
from blkiomon.engine.layout import OPS
from tools.colours import VISION, palettes, ramps, seen

LEAST_APART = 12
"""Distance in CIE Lab of what must not be confused; 2 is just noticeable, black to white is 100."""

LEAST_BRIGHTER = 10
"""Of neighbouring steps: the same unit."""

every_vision = pytest.mark.parametrize("vision", list(VISION))
every_theme = pytest.mark.parametrize("theme", ["light", "dark"])


@every_theme
@every_vision
def test_lines_can_be_distinguished(theme: str, vision: str) -> None:
    colours = palettes()[theme]
    pairs = [*combinations((*OPS, "paper"), 2), ("A", "B")]
    pairs += [("hot", name) for name in ("soft", "ink", "paper")]
    for one, other in pairs:
        apart = np.linalg.norm(seen(colours[one], vision) - seen(colours[other], vision))
        assert apart >= LEAST_APART, (one, other)


@every_theme
@every_vision
def test_steps_of_the_heat_map_differ_in_brightness(theme: str, vision: str) -> None:
    steps = seen(ramps()[theme], vision)
    rises = np.diff(steps[:, 0]) * (1 if theme == "dark" else -1)
    assert (rises >= LEAST_BRIGHTER).all()


def test_pictures_have_the_colours_of_pages() -> None:
    light = palettes()["light"]
    for name, colour in figures.COLOURS.items():
        assert [int(colour[at : at + 2], 16) for at in (1, 3, 5)] == light[name].tolist(), name
    assert [[int(c[at : at + 2], 16) for at in (1, 3, 5)] for c in figures.HEAT] == ramps()[
        "light"
    ].tolist()
