"""No module or program is found in the working directory, where root may run the command."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import goldenfiles
import programs
import pytest
import runner
from runner import Argument, Running

pytestmark = pytest.mark.skipif(
    "BLKIOMON" in os.environ, reason="another installation, which is not run by its module"
)

TRAP = """
with open({caught!r}, "a") as file:
    file.write(__name__ + "\\n")
raise ImportError("from the working directory")
"""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "host" / "trace.bin"
    path.parent.mkdir()
    path.write_bytes((goldenfiles.TRACES / "loop-multi-dc.bin").read_bytes()[: 48 * 2000])
    return path


NAMES = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()} - {"blkiomon"}
SCRIPT = str(Path(sys.executable).with_name("blkiomon"))
MODULE = "-m blkiomon"


@pytest.fixture(scope="module")
def before_ours() -> set[str]:
    """Modules that Python imports before it runs ours.

    `python -m` looks for them in the working directory, which no module can prevent.
    """
    code = "import runpy, sys; sys.stdout.write(' '.join(sys.modules))"
    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    return {name.partition(".")[0] for name in shown.stdout.decode().split()}


@pytest.fixture(scope="module", params=[SCRIPT, f"{sys.executable} -P {MODULE}", MODULE])
def trapped(
    request: pytest.FixtureRequest, before_ours: set[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path, Path]:
    """A command, a directory with modules of all names but ours, and the file where they log."""
    command = request.param.split()
    names = NAMES
    if request.param == MODULE:
        command.insert(0, sys.executable)
        names = NAMES - before_ours
    directory, caught = tmp_path_factory.mktemp("evil"), tmp_path_factory.mktemp("told") / "caught"
    for name in filter(str.isidentifier, names):
        (directory / f"{name}.py").write_text(TRAP.format(caught=str(caught)))
    return command, directory, caught


class Trapped:
    """The command, run in a directory from which nothing must be imported."""

    def __init__(self, command: list[str], directory: Path) -> None:
        self.command = command
        self.directory = directory

    def run(self, *arguments: Argument, status: int = 0) -> subprocess.CompletedProcess[bytes]:
        result = runner.run(*arguments, command=self.command, cwd=self.directory)
        assert result.returncode == status, result.stderr
        return result


@pytest.fixture
def trap(trapped: tuple[list[str], Path, Path]) -> Iterator[Trapped]:
    """The command in that directory; at the end, nothing was imported from there."""
    command, directory, caught = trapped
    yield Trapped(command, directory)
    told = caught.read_text() if caught.exists() else ""
    caught.unlink(missing_ok=True)
    assert not told


def test_trap_catches_an_import_from_the_working_directory(
    trapped: tuple[list[str], Path, Path],
) -> None:
    _, directory, caught = trapped
    for name in ("numpy", "typing", "multiprocessing", "pyarrow"):
        done = runner.python(f"import {name}", cwd=directory)
        assert b"ImportError: from the working directory" in done.stderr
        assert caught.read_text() == f"{name}\n"
        caught.unlink()


@pytest.mark.parametrize(
    "options",
    [
        *(["-h", "-"], ["--json", "-"], ["--csv", "-"], ["--parquet", "OUT"], ["-d", "OUT"]),
        *(["--textfile", "OUT"], ["--openmetrics", "0"], ["-D", "-"]),
        pytest.param(
            ["--user", "nobody", "--names", "yes"],
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root has a choice"),
        ),
        *(["--from", "1"], ["--device", "7:0"], ["--resync"]),
    ],
    ids=" ".join,
)
def test_no_output_imports_from_the_working_directory(
    options: list[str], trap: Trapped, trace: Path, tmp_path: Path
) -> None:
    given = [str(tmp_path / "out") if option == "OUT" else option for option in options]
    trap.run("-I1", *given, trace)


@pytest.mark.parametrize("packing", ["gz", "xz", "zst"])
def test_no_packed_file_imports_from_the_working_directory(
    packing: str, trap: Trapped, trace: Path, tmp_path: Path
) -> None:
    program = {"gz": "gzip", "xz": "xz", "zst": "zstd"}[packing]
    programs.require(program)
    packed = tmp_path / f"trace.{packing}"
    with packed.open("wb") as file:
        subprocess.run([program, "-c", trace], stdout=file, check=True)
    shown = [trap.run("-I1", "-h", "-", path).stdout for path in (packed, trace)]
    assert shown[0] == shown[1] != b""


def test_no_command_imports_from_the_working_directory(
    trap: Trapped, trace: Path, tmp_path: Path
) -> None:
    stats, page, dataset = tmp_path / "stats", tmp_path / "page.html", tmp_path / "dataset"
    trap.run("-I1", "-b", stats, trace)
    for output in ("--text", "--json", "--csv"):
        trap.run("decode", output, stats)
    trap.run("report", "-o", page, trace)
    trap.run("compare", "-o", page, trace, trace)
    trap.run("report", "--chart=iops", "-o", tmp_path / "x.svg", trace)
    for workers in ("0", "2"):
        trap.run("archive", "--workers", workers, "-o", dataset / workers, trace)
    for command in ("archive", "compare", "decode", "record", "report", "top"):
        trap.run(command, "--help")


def test_scheduler_is_called_without_imports_from_the_working_directory(
    trap: Trapped, trace: Path
) -> None:
    result = trap.run("archive", "--scheduler", "nonsense://x", "-o", "ds", trace, status=3)
    assert b"no Dask scheduler" in result.stderr


def test_screen_imports_nothing_from_the_working_directory(trap: Trapped, trace: Path) -> None:
    ours, theirs = os.openpty()
    streams = {"stdin": theirs, "stdout": theirs}
    with Running("top", trace, command=trap.command, cwd=trap.directory, **streams) as process:
        os.close(theirs)
        shown = b""
        while b"blkiomon top" not in shown:
            shown += os.read(ours, 1 << 16)
        process.signal(signal.SIGTERM)
        while process.process.poll() is None:  # it waits until its last screen is read
            runner.until(lambda: _drained(ours) or process.process.poll() is not None, "its end")
    os.close(ours)


def _drained(fd: int) -> bool:
    try:
        return bool(os.read(fd, 1 << 16))
    except OSError:
        return False


@pytest.mark.parametrize("flags", [["-P"], ["-I"], []])
def test_other_places_to_import_from_stay(flags: list[str]) -> None:
    """Only `python -m` without -P adds the working directory, so only there is it removed."""
    code = (
        "import sys; before = [*sys.path]; {}; sys.orig_argv = ['python', '-m', 'blkiomon'];"
        "import blkiomon; print(before == sys.path)"
    )
    changed = "sys.argv = ['-m']" if flags else "pass"
    command = [sys.executable, *flags, "-c", code.format(changed)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"True\n"


@pytest.mark.parametrize(
    "path",
    ["", ":", ".", ":/usr/bin:/bin", "/usr/bin:/bin::", "../bin:/bin", "/bin:../x/", ".:/bin"],
)
def test_no_program_is_looked_up_in_the_working_directory(path: str, tmp_path: Path) -> None:
    for name in (".", "bin", "x"):
        program = tmp_path / name / "evil-program"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho evil\n")
        program.chmod(0o755)
    code = """
import shutil, subprocess
from blkiomon.commands import cli
print(shutil.which("evil-program") is not None, flush=True)
cli.main(["--version"])
print(shutil.which("evil-program"), shutil.which("true") is not None)
subprocess.run(["evil-program"])
"""
    done = runner.python(code, cwd=tmp_path / "bin", env=os.environ | {"PATH": path})
    before, _, after = done.stdout.splitlines()
    assert after == b"None True"
    assert b"FileNotFoundError" in done.stderr
    assert before == b"True" or path == ""  # so it would have been found
