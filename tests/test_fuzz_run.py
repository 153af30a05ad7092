"""The fuzzing harness: its runner, its mutations, and its loop for systems without libFuzzer."""

import importlib
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from streams import generate
from tracewriter import encode

TOP = Path(__file__).resolve().parents[1]
CORPUS = TOP / "fuzz" / "corpus"
TARGETS = ["decode", "engine", "from_bytes", "json", "merger", "resync"]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of the harness."""
    monkeypatch.syspath_prepend(TOP / "fuzz")
    names = ("run", "mutator", "records")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def run(
    module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    run = module("run")
    monkeypatch.setattr(run, "BUILD", tmp_path / "build")
    return run


def fuzzer(folder: Path, status: int) -> list[str]:
    """A fuzzer that reports what it has done, uses hardly any time and ends with the status."""
    figures = folder / "figures"
    figures.write_bytes(struct.pack("=3Q", 3, 20, 100))
    script = f'cp {figures} "$2"; echo "#3 DONE cov: 7 ft: 9 corp: 2/1b" >&2; exit {status}'
    return ["sh", "-c", script, "sh"]


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_a_target_with_a_second_or_less_runs_once(
    run: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    fine, done = run.fuzz(fuzzer(tmp_path, 0), {}, "decode", seconds)
    assert fine
    assert done == (3, 20, 100)
    said = capsys.readouterr().out
    assert "3 executions, 100 bytes of input, 20 records fed, edges 7, features 9" in said
    assert said.endswith("no finding\n")


def test_a_finding_ends_a_target_at_once(
    run: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, done = run.fuzz(fuzzer(tmp_path, 77), {}, "engine", 60)
    assert not fine
    assert done == (3, 20, 100)
    assert "FOUND something (exit status 77)" in capsys.readouterr().out


@pytest.mark.parametrize("target", TARGETS)
def test_the_loop_without_libfuzzer_runs_seeds_and_mutations(target: str, tmp_path: Path) -> None:
    files = [f"{tmp_path}/figures", f"{CORPUS}/{target}", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, f"{TOP}/fuzz/fuzzer.py", target, *files, "-max_total_time=0.2"]
    subprocess.run(command, check=True)
    executions, _, n_bytes = struct.unpack("=3Q", (tmp_path / "figures").read_bytes())
    seeds = [seed.stat().st_size for seed in (CORPUS / target).iterdir()]
    assert executions > len(seeds)
    assert n_bytes > sum(seeds)
    assert not (tmp_path / "blind-input").exists()


def test_the_loop_stores_an_input_that_fails(tmp_path: Path) -> None:
    (tmp_path / "seed").write_bytes(b"x")
    script = "import sys, fuzzer; fuzzer.loop('engine', lambda data: data.missing, sys.argv[1:])"
    command = [sys.executable, "-c", script, f"{tmp_path}/seed", f"-artifact_prefix={tmp_path}/"]
    ended = subprocess.run(command, cwd=TOP / "fuzz", stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert "AttributeError" in ended.stderr
    assert (tmp_path / "blind-input").read_bytes() == b"x"


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [7, 8])
def test_a_stream_is_split_into_its_records_and_garbage(
    module: Callable[[str], ModuleType], version: int, order: str
) -> None:
    records = [record._replace(version=None) for record in generate(1, avoid="nothing").records]
    written = [encode([record], version, order) for record in records]
    pieces = [written[0], b"garbage", *written[1:], b"eat\x07cut off"]
    items = list(module("records").split(b"".join(pieces)))
    assert [item.data for item in items] == pieces
    items = [item for item in items if item.version]
    assert {item.version for item in items} == {version}
    assert len(items) == len(records)
    for item, record in zip(items, records):
        assert item.get("time") == record.time_ns
        assert item.get("action") == record.action
        assert item.get("pdu_len") == len(item.payload)


@pytest.mark.parametrize("each", [False, True])
def test_copies_of_a_stream_have_later_times_and_sectors(
    module: Callable[[str], ModuleType], each: bool
) -> None:
    m = module("records")
    items = [
        m.record(7, "little", b"payload", time=1000, sector=8),
        m.Item(b"garbage"),
        m.record(8, "big", time=5000, sector=(1 << 64) - 1),
    ]
    stream = b"".join(item.data for item in items)
    n_items = [(n, item) for n in range(3) for item in items]
    if each:
        n_items = [(n, item) for item in items for n in range(3)]
    expected = b"".join(
        item.put(time=item.get("time") + 7 * n, sector=item.get("sector") + 9 * n).data
        if item.version
        else item.data
        for n, item in n_items
    )
    assert m.repeat(stream, 3, 9, 7, each=each) == expected


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_are_repeatable_and_keep_to_the_length(
    module: Callable[[str], ModuleType], target: str
) -> None:
    m = module("mutator")
    seeds = [seed.read_bytes() for seed in sorted((CORPUS / target).iterdir())]

    def mutated(seed: int) -> bytes:
        rng = random.Random(seed)
        data = m.cross(target, rng.choice([*seeds, b""]), rng.choice(seeds), 5000, rng)
        return m.mutate(target, data, 5000, rng, m.flip_bits(rng))

    results = [mutated(n) for n in range(200)]
    assert results == [mutated(n) for n in range(200)]
    assert max(map(len, results)) <= 5000
    assert len(set(results)) > 100
