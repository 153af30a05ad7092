"""docs/latency.ipynb runs, and its stored outputs are those of the run."""

from __future__ import annotations

import pytest
from sanitizers import SANITIZED

from tools.notebook import NOTEBOOK, executed, read, shown


@pytest.mark.skipif(SANITIZED, reason="the libraries of the notebook do not run with sanitizers")
def test_notebook_shows_what_its_cells_print() -> None:
    kept = read()
    assert shown(executed(kept)) == shown(kept), "run: python -m tools.notebook"


def test_notebook_is_small_and_shows_every_answer() -> None:
    assert NOTEBOOK.stat().st_size < 100_000
    assert shown(read()).count("a picture") == 1
    (silent,) = (cell for cell in read().cells if cell.cell_type == "code" and not cell.outputs)
    assert "slower.py" in silent.source  # it only makes the second trace
