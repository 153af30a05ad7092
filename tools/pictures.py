"""Draw the pictures of docs/report.md anew: ``python -m tools.pictures``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

from blkiomon.commands import report
from tools.browser import Page, browser

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs/pictures"

TRACE = "tests/data/loop-phases-dc.bin"

SIZES = {"page": (1400, 980), "page-tablet": (800, 1000), "page-phone": (400, 900)}
"""Width and height of the window, by name of the picture."""

COMPARE_SIZE = 1400, 1300


def main() -> None:
    """Write the pictures of a report at three widths, and of a comparison."""
    with tempfile.TemporaryDirectory() as directory, browser() as started, chdir(ROOT):
        page, path = started.page(), Path(directory) / "page.html"
        report.main(["-o", str(path), "--title", "loop-phases-dc.bin", TRACE])
        for name, size in SIZES.items():
            take(page, path, size, name)
        (Path(directory) / "before").symlink_to(ROOT / TRACE)
        command = [sys.executable, "docs/slower.py", TRACE, f"{directory}/after", "1.2"]
        subprocess.run(command, check=True)
        command = [sys.executable, "-m", "blkiomon", "compare", "-o", "changes.html"]
        command += ["--title", "before, and after: 20 % slower", "before", "after"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory)
        take(page, path.with_name("changes.html"), COMPARE_SIZE, "compare")


def take(page: Page, path: Path, size: tuple[int, int], name: str) -> None:
    """Write a picture of a page in a window of this size."""
    page.resize(*size)
    page.open(path)
    page.run("blkiomon.then((charts) => charts.draw())")
    page.drawn()
    page.picture(PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
