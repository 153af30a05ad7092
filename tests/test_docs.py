"""The documents: their code runs and prints what they show; names and links in them exist."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import goldenfiles
import programs
import pyarrow.parquet
import pytest
import runner
from test_sources import write_set
from test_topology import extract

import blkiomon
from blkiomon import Group, InFlight, Interval, summarize
from blkiomon.formats import flat_table
from blkiomon.formats.json_codec import percentile_name
from blkiomon.interval.distribution import PERCENTILES
from blkiomon.interval.value import Counts

DOCS = Path(__file__).parent.parent / "docs"
CONTRIBUTING = DOCS.parent / "CONTRIBUTING.md"
FILES = sorted(DOCS.glob("*.md"))
MARKDOWN = [*FILES, *DOCS.parent.glob("*.md"), *DOCS.parent.glob("[!.]*/*.md")]
LANGUAGES = {"python", "text", "console"}

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of code, and the line of the file in which it begins."""

    language: str
    text: str
    line: int


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text()
    return [Block(m[1], m[2], text[: m.start()].count("\n") + 1) for m in _BLOCK.finditer(text)]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples use."""
    path = tmp_path_factory.mktemp("originals")
    shutil.copy(goldenfiles.TRACES / "loop-phases-dc.bin", path / "phases.bin")
    write_set(path, "sda", (goldenfiles.TRACES / "loop-multi-dc.bin").read_bytes())
    write_set(path, "run1", (goldenfiles.TRACES / "loop-ext4-all.bin").read_bytes())
    for host in ("web1", "web2"):
        (path / "traces" / host).mkdir(parents=True)
    shutil.copy(path / "phases.bin", path / "traces" / "web1")
    for member in path.glob("sda.blktrace.*"):
        shutil.copy(member, path / "traces" / "web2")
    outputs = {"--json": "stats.jsonl", "--parquet": "stats.parquet", "-b": "stats.bin"}
    options = [part for option, name in outputs.items() for part in (option, path / name)]
    assert runner.call("-I1", *options, path / "phases.bin").returncode == 0
    for file in (DOCS.parent / "tests/data/san/traces").glob("iscsi-slow-path.*"):
        shutil.copy(file, path)
    hosts = tmp_path_factory.mktemp("san")
    for name in ("iscsi-one-cut", "nvme-tcp-native-one-cut"):
        extract(name, hosts)
        (path / name).symlink_to(hosts / name)
    return path


@pytest.fixture
def traces(
    originals: Path, tmp_path: Path, usual_terminal: None, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A directory with a copy of these files, in which the test runs."""
    shutil.copytree(originals, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_shown(shown: str, printed: str, where: str) -> None:
    """Compare what is printed with what is shown, in which `...` matches anything."""
    parts = [re.escape(part) for part in re.split(r"\.\.\.\n?", shown)]
    assert re.fullmatch(".*".join(parts), printed, re.DOTALL), f"{where} prints:\n{printed}"


def run_shell(block: Block, where: str) -> None:
    """Run each line that begins with `$`, and compare the output with the lines below it.

    blkiomon runs in this process; a shell runs the rest of a pipe, and the programs of blktrace.
    """
    for item in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = item.partition("\n")
        if "| jq " in command:
            programs.require("jq")
        if command.split()[0] in ("blkparse", "btt"):
            programs.require(command.split()[0], "blktrace", in_ci=True)
            result = subprocess.run(
                command, shell=True, capture_output=True, check=False, timeout=runner.TIMEOUT_S
            )
            assert_shown(shown, result.stdout.decode(), f"{where}: {command}")
            continue
        ours, _, others = command.partition(" | ")
        assert ours.startswith("blkiomon "), where
        result = runner.call(*shlex.split(ours)[1:])
        if others:
            assert (result.returncode, result.stderr) == (0, b""), f"{where}: {command}"
            result = subprocess.run(
                others,
                input=result.stdout,
                shell=True,
                capture_output=True,
                check=False,
                timeout=runner.TIMEOUT_S,
                env=os.environ | {"LC_ALL": "C"},
            )
        assert (result.returncode, result.stderr) == (0, b""), f"{where}: {command}"
        assert_shown(shown, result.stdout.decode(), f"{where}: {command}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.usefixtures("utc")
def test_every_block_runs_and_prints_what_is_shown(path: Path, traces: Path) -> None:
    namespace: dict[str, Any] = {}
    printed: str | None = None
    for block in blocks_of(path):
        where = f"{path.name}:{block.line}"
        assert block.language in LANGUAGES, where
        if block.language == "python":
            code = compile("\n" * block.line + block.text, path.name, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, namespace)
            printed = out.getvalue()
        elif block.language == "text":
            assert printed is not None, f"{where}: no code before this output"
            assert_shown(block.text, printed, where)
            printed = None
        else:
            run_shell(block, where)


def anchors_of(path: Path) -> set[str]:
    """Names that a link to a file may have after `#`."""
    headings = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_have_targets() -> None:
    for path in MARKDOWN:
        for name, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", path.read_text()):
            target = path.parent / name if name else path
            assert target.exists(), f"{path.name}: {name}"
            assert not anchor or anchor in anchors_of(target), f"{path.name}: {name}#{anchor}"


def commands_shown() -> set[str]:
    """Commands in indented blocks: they need a disk or root, and are not run."""
    found = set()
    for path in [*FILES, DOCS.parent / "README.md"]:
        for line in re.findall(r"^ {4,}(?:\$ )?(\S.*)", path.read_text(), re.MULTILINE):
            parts = re.split(r" [|] | && ", re.split(r"\s#\s", line)[0])
            found |= {part for part in parts if part.startswith("blkiomon ")}
    return found


def test_index_links_to_every_document() -> None:
    index = (DOCS / "README.md").read_text()
    for path in FILES:
        assert path.name == "README.md" or f"]({path.name})" in index, path.name


def named_in(name: str) -> set[str]:
    """What is between backquotes in a document."""
    return set(re.findall(r"`([^`\n]+)`", (DOCS / name).read_text()))


def keys_of(data: Any) -> set[str]:
    """The keys of all dicts in a JSON value."""
    if isinstance(data, list):
        return {key for item in data for key in keys_of(item)}
    if isinstance(data, dict):
        return {*data} | keys_of([*data.values()])
    return set()


def names_in_schema() -> dict[str, set[str]]:
    """The table of names in schema.md: its columns, each with the names between backquotes."""
    text = (DOCS / "schema.md").read_text().split("\n## Names\n")[1].partition("\n## ")[0]
    rows = [row.strip("|").split("|") for row in text.splitlines() if row.startswith("|")]
    return {
        column[0].strip(): set(re.findall(r"`([^`]+)`", " ".join(column[1:])))
        for column in zip(*rows, strict=True)
    }


def attributes_of(*classes: type) -> set[str]:
    """Public fields and properties of dataclasses, as Class.name."""
    return {
        f"{cls.__name__}.{name}"
        for cls in classes
        for name in {*(f.name for f in dataclasses.fields(cls)), *vars(cls)}
        if not name.startswith("_") and not callable(getattr(cls, name, None))
    }


def test_names_in_python_are_in_the_table_of_names() -> None:
    not_figures = {"Interval.time_s", "Interval.devices", "Interval.snapshot", "Interval.counts"}
    not_figures |= {"Interval.named_ns", "Interval.total", "Interval.duration_ns", "Interval.rows"}
    not_figures |= {
        "Counts.requests",
        "Group.in_flight",
        "Group.duration_ns",
        "InFlight.duration_ns",
    }
    there = attributes_of(Interval, Group, InFlight, Counts)
    assert names_in_schema()["Python"] == there - not_figures


def test_names_in_json_are_in_the_table_of_names() -> None:
    schema = json.loads(files("blkiomon").joinpath("schema/interval.schema.json").read_text())
    of = schema["$defs"]
    there = {*schema["properties"], *of["figures"]["properties"], *of["device"]["properties"]}
    for name, fields in (("unseen", schema["properties"]), ("in_flight", of)):
        there |= {f"{name}.{field}" for field in fields[name]["properties"]}
    assert names_in_schema()["JSON"] == there - {
        "schema",
        "total",
        "devices",
        "unseen",
        "in_flight",
    }


def test_names_of_columns_are_in_the_table_of_names(traces: Path) -> None:
    figures = ["min", "mean", "max", "stddev", *map(percentile_name, PERCENTILES)]
    named = names_in_schema()["CSV, Parquet"]
    assert {name.replace("*", f) for name in named for f in figures} == {
        *pyarrow.parquet.read_schema("stats.parquet").names
    }
    columns = runner.call("-I60", "--csv", "-", "phases.bin").stdout.decode().split("\n")[0]
    assert {*columns.split(",")} == {c.name for c in flat_table.COLUMNS}


def test_names_of_metrics_are_in_the_table_of_names(traces: Path) -> None:
    Path("sda.blktrace.0").unlink()  # so that there is the metric of missing files
    assert runner.call("-I60", "--textfile", "metrics", "sda").returncode == 0
    assert (
        runner.call("-I60", "--textfile", "of_host", "--clock", "wall", "phases.bin").returncode
        == 0
    )
    text = Path("metrics").read_text() + Path("of_host").read_text()
    shown = re.findall(r"^# TYPE (\S+)", text, re.M)
    named = names_in_schema()["metric"] - {"device", "op"}
    assert named == {name for name in shown if not name.endswith("_created")}


def test_json_of_commands_is_explained(traces: Path) -> None:
    Path("short.bin").write_bytes(Path("phases.bin").read_bytes()[: 48 * 5000])
    compared = runner.call("compare", "--json", "short.bin", "short.bin")
    figures = keys_of([row["changes"] for row in json.loads(compared.stdout)["rows"]])
    assert {"a", "low", "p99.9"} <= figures
    assert keys_of(json.loads(compared.stdout)) <= named_in("report.md") | {"p50", "p95", "p99"}
    archived = runner.call("archive", "--json", "-I60", "-o", "dataset", "phases.bin", "missing")
    summary = json.loads(archived.stdout)
    assert len(summary["fleet"]) > 1 and summary["failures"]
    assert keys_of(summary) - {"p90", "p95"} <= named_in("schema.md")


@functools.cache
def options_of(command: str) -> set[str]:
    """Options in the help of a command; the empty string is blkiomon itself."""
    shown = runner.call(*([command] if command else []), "--help")
    assert shown.returncode == 0, shown
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", shown.stdout.decode()))


def test_options_in_documents_exist() -> None:
    shown = commands_shown()
    assert len(shown) > 15
    for command in sorted(shown):
        words = shlex.split(command.replace("\\", ""))[1:]
        words = words[: words.index("--")] if "--" in words else words  # another command follows
        sub = words[0] if words[0].isalpha() else ""
        for word in words:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in options_of(sub), command


def apply(diff: str, directory: Path) -> None:
    """Apply a diff, wherever in the files its lines are by now."""
    for part in re.split(r"^--- .*\n\+\+\+ b/", diff, flags=re.MULTILINE)[1:]:
        name, *hunks = re.split("@@.*\n", part)
        path = directory / name.strip()
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(x[1:] for x in lines if x[0] in kinds) for kinds in (" -", " +"))
            text = path.read_text()
            if f"\n{new}" not in text:  # somebody tries the example in this checkout
                assert text.count(f"\n{old}") == 1, f"{name}: {old}"
                path.write_text(text.replace(f"\n{old}", f"\n{new}"))


def test_worked_example_of_a_new_output_works(traces: Path) -> None:
    blocks = {block.language: block for block in blocks_of(CONTRIBUTING)}
    code, diff, shown = blocks["python"].text, blocks["diff"].text, blocks["console"].text
    assert len((code + diff).splitlines()) < 30
    package = traces / "src" / "blkiomon"
    shutil.copytree(Path(blkiomon.__file__).parent, package)
    (package / "formats" / "influx.py").write_text(code)
    apply(diff, traces)
    command, _, output = shown.removeprefix("$ .venv/bin/").partition("\n")
    ran = subprocess.run(
        [sys.executable, "-m", *command.split()],
        capture_output=True,
        check=False,
        cwd=DOCS.parent,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert_shown(output, ran.stdout, CONTRIBUTING.name)


def test_comparison_prints_what_report_md_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(DOCS)
    (tmp_path / "tests" / "data").mkdir(parents=True)
    (tmp_path / "tests/data/loop-phases-dc.bin").symlink_to(
        goldenfiles.TRACES / "loop-phases-dc.bin"
    )
    text = (DOCS / "report.md").read_text()
    shown = text[text.index("    A: tests/data") : text.index("![Both runs")].rstrip()
    script = re.findall(r"^    python (docs/slower.*)", text, re.MULTILINE)[0]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", script.split())
        runpy.run_path(sys.argv[0], run_name="__main__")
    arguments = re.findall(r"^    blkiomon (compare tests/.*slower.bin)$", text, re.MULTILINE)[0]
    printed = runner.call(*arguments.split()).stdout.decode()
    # Writes and flushes follow.
    assert printed.startswith(re.sub("^    ", "", shown, flags=re.MULTILINE))


def test_contributing_lists_all_targets_of_make() -> None:
    makefile = (DOCS.parent / "Makefile").read_text()
    listed = re.findall(r"`make (\w+)", CONTRIBUTING.read_text())
    there = re.findall(r"^(\w+):.*## ", makefile, re.MULTILINE)
    assert {*listed} == {*there} - {"help", "lint", "clean"}


def test_contributing_names_files_that_exist() -> None:
    root = DOCS.parent
    named = re.findall(r"`([\w/]+\.(?:py|pyx|pxi|pxd))`", CONTRIBUTING.read_text())
    there = [
        name for name in named if (root / name).exists() or (root / "src/blkiomon" / name).exists()
    ]
    assert {*named} - {*there} == {"src/blkiomon/formats/influx.py", "tests/test_influx.py"}


def test_readme_shows_the_summary_of_its_trace(usual_terminal: None) -> None:
    text = (DOCS.parent / "README.md").read_text()
    typed, shown = re.findall(r"^    \$ (blkiomon tests/\S+)\n((?:(?:    .*)?\n)+)", text, re.M)[0]
    printed = runner.succeed(*typed.split()[1:], cwd=DOCS.parent).decode()
    assert re.sub("^    ", "", shown, flags=re.MULTILINE).strip() == printed.strip()


def test_readme_shows_the_percentiles_of_its_trace() -> None:
    whole = summarize(DOCS.parent / "tests" / "data" / "loop-phases-dc.bin")
    (device,) = whole.devices.tolist()
    read = next(group for group in whole.ops(device) if group.op == "read").d2c_ns
    shown = {"p50": read.percentile(50), "p99": read.percentile(99), "p99_9": read.percentile(99.9)}
    assert json.dumps(shown, separators=(",", ":")) in (DOCS.parent / "README.md").read_text()
