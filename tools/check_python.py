"""Check that blkiomon can be built here: print what is missing, and how to install it.

Older Pythons than 3.11 must be able to parse this file.
"""

import os
import subprocess
import sys
from pathlib import Path

VERSION = ".".join(map(str, sys.version_info[:2]))
INSTALL = "apt-get install "


def missing():
    """One line that says what is missing, and how to install it; None if nothing is."""
    if sys.version_info < (3, 11):  # noqa: UP036
        return f"Python {VERSION} is too old, 3.11 is needed: choose one with PYTHON=python3.X"
    import shlex
    import shutil
    import sysconfig
    from importlib.util import find_spec

    if not (find_spec("venv") and find_spec("ensurepip")):
        return f"Python cannot make virtual environments: {INSTALL}python3-venv"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not shutil.which(compiler[0]):
        return f"the C compiler {compiler[0]} is missing: {INSTALL}build-essential"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return f"the headers of Python {VERSION} (Python.h) are missing: {INSTALL}python3-dev"
    compiler += ["-I" + sysconfig.get_path(name) for name in ("include", "platinclude")]
    compiler += ["-fsyntax-only", "-include", "Python.h", "-xc", os.devnull]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if subprocess.call(compiler, **quiet):
        return f"the C compiler cannot compile for Python: {INSTALL}build-essential"
    return None


if __name__ == "__main__":
    sys.exit(missing())
