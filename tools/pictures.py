"""Draw the pictures of docs/report.md anew: ``python -m tools.pictures``."""

from __future__ import annotations

import tempfile
from contextlib import chdir
from pathlib import Path

from blkiomon.commands import report
from tools.browser import browser

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs/pictures"

SIZES = {"page": (1400, 980), "page-tablet": (800, 1000), "page-phone": (400, 900)}
"""Width and height of the window, by name of the picture."""


def main() -> None:
    """Write the pictures of a page at three widths."""
    with tempfile.TemporaryDirectory() as directory, browser() as started, chdir(ROOT):
        page, path = started.page(), Path(directory) / "page.html"
        title = ["--title", "loop-phases-dc.bin"]
        report.main(["-o", str(path), *title, "tests/data/loop-phases-dc.bin"])
        page.resize(*SIZES["page"])
        page.open(path)
        for name, size in SIZES.items():
            page.resize(*size)
            page.drawn()
            page.run("blkiomon.then((report) => report.draw())")
            page.picture(PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
