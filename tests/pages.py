"""Pages in a browser, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.browser import Browser, Page


def opened(browser: Browser, path: Path) -> Page:
    """A page in a window of 1400 x 900."""
    page = browser.page()
    page.resize(1400, 900)
    page.open(path)
    return page


def shown(page: Page, expression: str) -> Any:
    """The value of an expression of the page's ``charts``."""
    return page.run(f"blkiomon.then((charts) => {expression})")


def with_nothing_selected(page: Page) -> Page:
    """The page as it was when it was opened."""
    shown(page, "{ charts.reset(); scrollTo(0, 0); document.activeElement.blur() }")
    return page


@contextmanager
def seen(page: Page, width: int, scheme: str) -> Iterator[None]:
    """Another width of the window, and a light or dark colour scheme."""
    page.is_like(prefers_color_scheme=scheme)
    page.resize(width, 900)
    try:
        page.drawn()
        yield
    finally:
        page.resize(1400, 900)
        page.is_like()


def accessible_names(page: Page) -> list[tuple[str, str]]:
    """The role and the name of each element that a screen reader reads; those that act have one."""
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in page.call("Accessibility.getFullAXTree")["nodes"]
        if not node.get("ignored")
    ]
    for role in ("button", "image", "combobox"):
        of_role = [name for of, name in nodes if of == role]
        assert of_role and all(of_role), role
    return nodes
