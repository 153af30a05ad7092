"""A table of what was compared, for ``make lab``: kernel, device, figures expected and found."""

from __future__ import annotations

from collections.abc import Callable

import machine
import pytest

Compare = Callable[..., None]


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Compare:
    """Compare figures by name, and write the row of the table before failing."""

    def compared(expected: dict[str, int], found: dict[str, int]) -> None:
        names = [name for name in {**expected, **found} if expected.get(name) or found.get(name)]
        figures = " ".join(f"{name} {expected.get(name, 0)}/{found.get(name, 0)}" for name in names)
        name = request.node.name.removeprefix("test_")
        with (machine.OUT / "capture.txt").open("a") as table:
            print(f"{name:40} {machine.KERNEL:5} {figures}", file=table)
        assert found == expected

    return compared
