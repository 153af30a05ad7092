"""The tests import the installed wheel, not the checkout."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import blkiomon
from blkiomon import _core
from blkiomon.outputs import sysv
from blkiomon.sources import merger


def test_tests_see_the_installed_package_and_not_the_source_tree() -> None:
    installed = Path(sysconfig.get_path("platlib")).resolve()
    for module in (blkiomon, _core, merger, sysv):
        assert module.__file__ is not None
        assert installed in Path(module.__file__).resolve().parents
    assert importlib.metadata.version("blkiomon") == blkiomon.__version__


def test_command_is_there_under_its_name() -> None:
    command = Path(sysconfig.get_path("scripts")) / "blkiomon"
    done = subprocess.run([command, "-V"], capture_output=True, check=True)
    assert blkiomon.__version__ in done.stdout.decode()


def test_numpy_is_the_only_dependency_at_run_time() -> None:
    requires = importlib.metadata.requires("blkiomon") or []
    assert [r for r in requires if "extra ==" not in r] == ["numpy>=1.26"]
    assert importlib.metadata.metadata("blkiomon")["License-Expression"] == "GPL-2.0-or-later"


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this CPython is not free-threaded"
)
def test_free_threaded_interpreter_stays_free_threaded() -> None:
    is_gil_enabled = getattr(sys, "_is_gil_enabled")  # noqa: B009 - from 3.13 on
    assert not is_gil_enabled()


@pytest.mark.parametrize("debug", ["0", "1"])
@pytest.mark.parametrize("coverage", ["0", "1"])
def test_debug_and_coverage_builds_can_be_combined(debug: str, coverage: str) -> None:
    code = (
        "import runpy, setuptools\n"
        "setuptools.setup = lambda **given: print(*given['ext_modules'][0].extra_compile_args)\n"
        "runpy.run_path('setup.py')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"BLKIOMON_DEBUG": debug, "BLKIOMON_COVERAGE": coverage},
        capture_output=True,
        check=True,
    )
    flags = done.stdout.decode().split()
    assert ("-UNDEBUG" in flags, "--coverage" in flags) == (debug == "1", coverage == "1")
    assert ("-O3" in flags) == (debug == coverage == "0")
