"""Fixtures for all tests."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
import runner

from tools import browser as chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[chromium.Browser]:
    """Headless Chromium; without it, the test is skipped."""
    if chromium.PROGRAM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with chromium.browser() as started:
        yield started


@pytest.fixture(scope="module")
def _page(browser: chromium.Browser, path: Path) -> chromium.Page:
    return pages.opened(browser, path)


@pytest.fixture
def page(_page: chromium.Page) -> chromium.Page:
    """The page ``path`` of the test's module, with nothing selected."""
    return pages.with_nothing_selected(_page)


@pytest.fixture
def utc() -> Iterator[None]:
    """Local time is UTC during the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns, 24 lines and UTF-8, whatever the terminal of the tests is."""
    for name, value in {"COLUMNS": "80", "LINES": "24", "LC_ALL": "C.UTF-8"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system of its own, of ``DISK_BYTES`` of the test's module."""
    path = tmp_path / "disk"
    path.mkdir()
    size = f"size={request.module.DISK_BYTES}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root mounts a small file system")
    yield path
    unmount = ["umount", str(path)]  # it fails while any process of the host looks at the files
    runner.until(lambda: subprocess.run(unmount, capture_output=True).returncode == 0, "umount")


@pytest.fixture
def said() -> list[str]:
    """A list of messages, whose ``append`` is passed to outputs."""
    return []


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end of a pipe; a test may close them."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError as error:
            assert error.errno == errno.EBADF
