"""Programs that some tests need."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def require(program: str, package: str = "", *, in_ci: bool = False) -> str:
    """The path of a program; skips the test if it is not installed.

    Args:
        program: its name.
        package: Debian's package, if its name is another one.
        in_ci: in continuous integration, which installs it, the test fails instead.
    """
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        missing(f"{program} is not installed (apt-get install {package or program})", in_ci=in_ci)
    return path


def missing(reason: str, *, in_ci: bool) -> NoReturn:
    """Skip the test, or fail it in continuous integration."""
    if in_ci and os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_public_checkout() -> None:
    """Skip a test in which another user imports modules of this checkout, if that user may not."""
    if not all(folder.stat().st_mode & 1 for folder in Path(sys.prefix).parents):
        missing("other users cannot read this checkout: clone it elsewhere", in_ci=True)
