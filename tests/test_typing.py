"""Public names: documented, and used by an example that mypy checks strictly in `make lint`."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import goldenfiles
import pytest
import runner
import typing_example

import blkiomon
from blkiomon import _core

PUBLIC = [name for name in blkiomon.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name: str) -> None:
    value = getattr(blkiomon, name)
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        members = [m for m in vars(value) if not m.startswith("_")]
        fields = {*getattr(value, "__dataclass_fields__", ()), *getattr(value, "_fields", ())}
        for member in members:
            assert member in fields or inspect.getdoc(getattr(value, member)), f"{name}.{member}"


def test_example_uses_every_public_name() -> None:
    tree = ast.parse(Path(typing_example.__file__).read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "blkiomon"
    }
    assert used == {*blkiomon.__all__}


def test_example_runs(tmp_path: Path) -> None:
    trace, stats = tmp_path / "trace.bin", tmp_path / "stats.bin"
    data = (goldenfiles.TRACES / "loop-phases-dc.bin").read_bytes()
    trace.write_bytes(data[: 48 * 20_000])
    assert runner.call("-I1", "-b", stats, trace).returncode == 0
    lines = typing_example.main(trace, stats)
    assert lines[0].startswith("read: 9404 requests, p99 ")
    assert "5 intervals, 20000 records" in lines
    assert lines[-1] == blkiomon.__version__


def test_engine_takes_what_its_stub_says() -> None:
    # stubtest cannot see the arguments of a C class.
    stub = Path(_core.__file__).with_name("_core.pyi")
    (engine,) = (n for n in ast.parse(stub.read_text()).body if isinstance(n, ast.ClassDef))
    (init,) = (n for n in engine.body if getattr(n, "name", "") == "__init__")
    assert isinstance(init, ast.FunctionDef)
    defaults = [ast.literal_eval(default) for default in init.args.kw_defaults if default]
    arguments = dict(zip([a.arg for a in init.args.kwonlyargs], defaults, strict=True))
    _core.Engine(**arguments)
    with pytest.raises(TypeError):
        _core.Engine(**arguments | {"another": 1})
    with pytest.raises(TypeError):
        _core.Engine(*arguments.values())
