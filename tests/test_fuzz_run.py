"""The runner of the fuzzers, with a program of its own in place of a fuzzer."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOP = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_run", TOP / "fuzz" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fuzz_run", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    return module


def program(folder: Path, status: int) -> Path:
    """A fake fuzzer that prints its arguments and exits with the status."""
    path = folder / "program"
    path.write_text(
        "#!/bin/sh\n"
        'echo "3 20 100" >"$FUZZ_FIGURES"\n'
        'echo "#3 DONE cov: 7 ft: 9 corp: 2/1b" >&2\n'
        f"exit {status}\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_a_target_with_a_second_or_less_runs_once(
    run: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    fine, done = run.fuzz(program(tmp_path, 0), "decode", seconds)
    assert fine
    assert done == (3, 20, 100)
    said = capsys.readouterr().out
    assert "3 executions, 100 bytes of input, 20 records fed, edges 7, features 9" in said
    assert said.endswith("no finding\n")


def test_a_finding_ends_a_target_at_once(
    run: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, done = run.fuzz(program(tmp_path, 77), "engine", 60)
    assert not fine
    assert done == (3, 20, 100)
    assert "FOUND something (exit status 77)" in capsys.readouterr().out
