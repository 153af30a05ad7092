"""Run docs/latency.ipynb and keep its outputs: ``.venv/bin/python -m tools.notebook``."""

from __future__ import annotations

import base64
import copy
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "latency.ipynb"


def executed(notebook: Any) -> Any:
    """A copy of a notebook, run in its own directory by a new kernel, without varying metadata.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    made = copy.deepcopy(notebook)
    client = NotebookClient(
        made,
        timeout=120,
        resources={"metadata": {"path": NOTEBOOK.parent}},
        coalesce_streams=True,  # a program may write its output in any pieces
    )
    path = f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}"  # of python and blkiomon in a cell
    environment = {**os.environ, "PATH": path, "COLUMNS": "80", "LC_ALL": "C.UTF-8"}
    environment.pop("MPLBACKEND", None)  # only Jupyter's backend shows pictures
    client.execute(env=environment)
    for cell in made.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", ()):
            output.get("metadata", {}).clear()
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return made


def shown(notebook: Any) -> list[str]:
    """What each output shows: its text, and of a picture its kind."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                assert base64.b64decode(data["image/png"])[:4] == b"\x89PNG"
                found.append("a picture")
            else:
                found.append(" ".join(output.get("text", data.get("text/plain", "")).split()))
    return found


def read() -> Any:
    """The notebook, as it is in docs/."""
    return nbformat.read(NOTEBOOK, as_version=4)


if __name__ == "__main__":
    nbformat.write(executed(read()), NOTEBOOK)
