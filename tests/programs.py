"""Programs that some tests need."""

from __future__ import annotations

import os
import shutil
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
