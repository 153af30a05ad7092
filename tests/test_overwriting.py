"""No output destroys a trace, and no two outputs write to one file."""

from __future__ import annotations

import gzip
import lzma
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import goldenfiles
import oracle
import pytest
import runner
import zstandard
from quirks import ONE
from runner import LONG
from test_full_disk import sizes
from test_opening import names_in
from tracewriter import complete, driver_data, encode, issue

import blkiomon
from blkiomon.commands.archive.files import Files
from blkiomon.console import EXIT_OUTPUT

READ = "this run reads it"
TRACE = "it begins like a trace; --overwrite replaces it"
PACKED = "it is compressed, as traces are; --overwrite replaces it"
OPTIONS = ["-h", "-b", "-d", "-D", "--json", "--csv", "--parquet", "--textfile"]
ORIGINALS = OPTIONS[:4]
RECORDS = [issue(1000, 8, 4096), complete(501_000, 8, 4096)]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything is, and the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def unchanged(path: Path | str) -> Iterator[None]:
    """A file has the same contents and inode before and after the block."""
    path = Path(path)
    before, inode = path.read_bytes(), path.stat().st_ino
    yield
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)


def refused(why: str, *arguments: runner.Argument, **options: Any) -> None:
    """The run ends with this complaint alone."""
    # The original reads no files, and has no other options.
    words = [word for word in arguments if not str(word).startswith("--")]
    is_original = len(words) == len(arguments) and len(words) % 2 == 0
    status = 1 if is_original else EXIT_OUTPUT
    runner.assert_fails(status, why, "-I", LONG, *arguments, **options)


# --- the input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
def test_no_output_destroys_the_trace_that_is_read(option: str) -> None:
    Path("t.bin").write_bytes(ONE)
    for more in ((), ("--overwrite",)):
        with unchanged("t.bin"):
            refused(f"could not write to t.bin: {READ}", option, "t.bin", *more, "t.bin")


@pytest.mark.parametrize("option", ["-h", "--textfile"])
@pytest.mark.parametrize("name", ["./t.bin", "link", "link2", "hard", "below/../t.bin", "{}/t.bin"])
def test_the_trace_is_recognised_by_all_its_names(option: str, name: str, directory: Path) -> None:
    Path("t.bin").write_bytes(ONE)
    Path("link").symlink_to("t.bin")
    Path("link2").symlink_to(directory / "link")
    Path("hard").hardlink_to("t.bin")
    Path("below").mkdir()
    name = name.format(directory)
    for more in ((), ("--overwrite",), ("--overwrite", "--follow-symlinks")):
        with unchanged("t.bin"):
            refused(f"could not write to {name}: {READ}", option, name, *more, "t.bin")
    assert Path("link").is_symlink()


@pytest.mark.parametrize("named", ["sda", "sda.blktrace.0", "."])
@pytest.mark.parametrize("cpu", [0, 1, 2])
def test_no_output_destroys_a_member_of_the_set_that_is_read(named: str, cpu: int) -> None:
    for number, data in enumerate((ONE, encode(RECORDS), b"")):  # the last CPU had nothing to do
        Path(f"sda.blktrace.{number}").write_bytes(data)
    member = f"sda.blktrace.{cpu}"
    with unchanged(member):
        refused(f"could not write to {member}: {READ}", "--csv", member, "--overwrite", named)


@pytest.mark.parametrize("option", ["-h", "-b", "--json", "--textfile"])
@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_no_output_destroys_the_file_on_standard_input(option: str, more: tuple[str, ...]) -> None:
    Path("t.bin").write_bytes(ONE)
    with unchanged("t.bin"), open("t.bin", "rb") as source:
        refused(f"could not write to t.bin: {READ}", option, "t.bin", *more, stdin=source)


@pytest.mark.parametrize("command", [["-I1", "--json", "-", "--overwrite", "t"], ["decode", "t"]])
def test_nothing_is_appended_to_the_input(command: list[str]) -> None:
    Path("t").write_bytes(ONE)
    if command[0] == "decode":
        runner.call("-I", LONG, "-b", "t", "--overwrite", stdin=ONE)
    with unchanged("t"), open("t", "ab") as output:
        result = runner.call(*command, stdout=output)
    assert READ in result.stderr.decode()
    assert result.returncode == EXIT_OUTPUT


# --- other traces ---------------------------------------------------------------------------------


TRACES = {
    "version 7": (encode(RECORDS), TRACE),
    "version 7, big-endian": (encode(RECORDS, 7, ">"), TRACE),
    "version 8": (encode(RECORDS, 8), TRACE),
    "version 8, big-endian": (encode(RECORDS, 8, ">"), TRACE),
    "cut": (encode(RECORDS)[:5], TRACE),
    "gzip": (gzip.compress(ONE), PACKED),
    "xz": (lzma.compress(ONE), PACKED),
    "zstd": (zstandard.compress(ONE), PACKED),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", TRACES)
def test_no_output_destroys_another_trace(option: str, kind: str) -> None:
    data, why = TRACES[kind]
    Path("t.bin").write_bytes(data)
    with unchanged("t.bin"):
        refused(f"could not write to t.bin: {why}", option, "t.bin")
    assert runner.call("-I", LONG, option, "t.bin", "--overwrite", stdin=ONE).returncode == 0
    assert Path("t.bin").read_bytes() != data


def test_nothing_is_written_where_one_of_several_outputs_is_refused() -> None:
    """Outputs named before it keep their contents, or are not made."""
    Path("t.bin").write_bytes(ONE)
    Path("a").write_text("of the last run")
    before = names_in(Path())
    for refusal in (("-D", "t.bin"), ("--csv", "t.bin"), ("--textfile", "t.bin")):
        with unchanged("a"), unchanged("t.bin"):
            refused(
                f"could not write to t.bin: {TRACE}",
                *("-h", "a", "-b", "new", "--json", "new2", "--parquet", "new3", *refusal),
            )
        assert names_in(Path()) == before


def test_standard_output_does_not_go_to_a_trace() -> None:
    Path("t.bin").write_bytes(ONE)
    for mode in ("ab", "r+b"):
        with unchanged("t.bin"), open("t.bin", mode) as output:
            result = runner.call("-I", LONG, "--json", "-", stdin=ONE, stdout=output)
        assert result.stderr.decode() == f"blkiomon: could not write to standard output: {TRACE}\n"
        assert result.returncode == EXIT_OUTPUT
    with open("t.bin", "ab") as output:
        result = runner.call("-I", LONG, "--json", "-", "--overwrite", stdin=ONE, stdout=output)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize("option", OPTIONS)
def test_files_of_an_earlier_run_are_replaced(option: str) -> None:
    trace = encode([driver_data(500, b"payload"), *RECORDS, driver_data(600_000, b"more")])
    earlier = b"old\n" * 10_000
    # The second trace, without the last driver record of 48 + 4 bytes, has other figures.
    Path("out").write_bytes(earlier)
    for data in (trace, trace[: -48 - 4] * 2):
        assert runner.call("-I", LONG, option, "out", stdin=data).stderr == b""
        assert Path("out").read_bytes() not in (b"", earlier)
        earlier = Path("out").read_bytes()
        assert b"old\n" not in earlier


def test_driver_records_are_replaced_by_driver_records_only() -> None:
    dump = encode([driver_data(500, b"payload")])
    assert runner.call("-I", LONG, "-d", "out", "-h", "out", stdin=dump + ONE).returncode == 0
    assert Path("out").read_bytes().startswith(dump)
    with unchanged("out"):
        refused(f"could not write to out: {TRACE}", "-h", "out")
    # The same outputs as before may replace them.
    assert runner.call("-I", LONG, "-d", "out", "-h", "out", stdin=dump + ONE).returncode == 0
    # A trace that begins with driver records is not such a file.
    Path("out").write_bytes(encode([driver_data(500, b"payload"), *RECORDS]))
    with unchanged("out"):
        refused(f"could not write to out: {TRACE}", "-d", "out")


def test_trace_that_may_not_be_read_is_not_looked_at(directory: Path) -> None:
    """Permission to write is enough."""
    Path("out").write_bytes(ONE)
    Path("out").chmod(0o200)
    result = runner.run("-I", LONG, "-h", "out", command=runner.BOUND_COMMAND, stdin=ONE)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["out.json", "out.bin"])
def test_reopened_output_does_not_go_to_a_trace(name: str) -> None:
    out, old = Path(name), Path(f"old.{name}")
    option = "--json" if name == "out.json" else "-b"
    with runner.Running("-I", "0.1", option, out, "-h", "-").started() as process:
        process.write(ONE)
        process.read_intervals(1)
        out.rename(old)
        out.write_bytes(ONE)
        process.signal(signal.SIGHUP)
        runner.until(lambda: process.stderr, "a complaint")
        process.write(ONE)
        process.read_intervals(2)
        process.end()
        assert process.stderr == (
            f"blkiomon: cannot write to {out}: {TRACE} (it continues in the old file)\n"
        )
    assert out.read_bytes() == ONE
    assert sum(sizes(old)) == 2


def test_parts_of_parquet_replace_no_trace() -> None:
    Path("parts").mkdir()
    Path("t.bin").write_bytes(ONE)
    command = ("-I", LONG, "--parquet", "parts/", "t.bin")
    assert runner.call(*command).returncode == 0
    (part,) = Path("parts").iterdir()
    assert runner.call(*command).returncode == 0
    part.write_bytes(ONE)
    with unchanged(part):
        result = runner.call(*command)
    assert TRACE in result.stderr.decode()
    assert result.returncode != 0


# --- other commands -------------------------------------------------------------------------------


@pytest.fixture
def short_trace() -> Path:
    """A short trace, whose page takes little time."""
    path = Path("trace.html")
    path.write_bytes((goldenfiles.TRACES / "loop-multi-dc.bin").read_bytes()[: 48 * 2000])
    return path


@pytest.mark.parametrize("command", ["report", "compare"])
def test_pages_destroy_no_trace(command: str, short_trace: Path) -> None:
    inputs = [short_trace] * (1 + (command == "compare"))
    Path("hard.svg").hardlink_to(short_trace)
    Path("link.svg").symlink_to(short_trace)
    for output in (short_trace, Path("./hard.svg"), Path("link.svg")):
        with unchanged(short_trace), unchanged(output):
            words = [command, "-o", str(output), "--overwrite", *map(str, inputs)]
            runner.assert_fails(EXIT_OUTPUT, f"cannot write {output}: {READ}", *words)
    other = Path("other.svg")
    other.write_bytes(ONE)
    with unchanged(other):
        words = [command, "-o", str(other), *map(str, inputs)]
        runner.assert_fails(EXIT_OUTPUT, f"cannot write {other}: {TRACE}", *words)
    drawn = runner.call(command, "--chart=iops", "-o", other, "--overwrite", *inputs)
    assert drawn.returncode == 0
    assert b"<svg" in other.read_bytes()


def test_pages_destroy_no_intervals_either(short_trace: Path) -> None:
    assert runner.call("-I", "1", "--json", "a.html", short_trace).returncode == 0
    for command in (["report", "a.html"], ["compare", "a.html", "a.html"]):
        with unchanged("a.html"):
            why = f"cannot write a.html: {READ}"
            runner.assert_fails(EXIT_OUTPUT, why, *command, "-o", "./a.html")


def test_pages_of_an_earlier_run_are_replaced(short_trace: Path) -> None:
    for name in ("a.svg", "a.html"):
        Path(name).write_text("of the last run")
        assert runner.call("report", "-o", name, short_trace).returncode == 0
        assert Path(name).stat().st_size > 1000


def test_datasets_replace_no_trace(directory: Path) -> None:
    name = "requests/day=2026-11-23/x.parquet"
    path = directory / Files(str(directory)).hidden(name)
    path.parent.mkdir(parents=True)
    for data in (b"PAR1", ONE):
        path.write_bytes(data)
        try:
            with Files(str(directory)).writing(name) as file:
                file.write(b"new")
        except OSError as error:
            assert (data, error.strerror) == (ONE, TRACE)
        else:
            assert path.read_bytes() == b"new"
    assert path.read_bytes() == ONE
    assert blkiomon.read_trace(path).size == 2


# --- two outputs that are one file ----------------------------------------------------------------


@pytest.mark.parametrize("exists", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("--parquet", "a"), ("--json", "{}/a")),
        (("--json", "./a"), ("--csv", "a")),
        (("-h", "a"), ("-b", "./a")),
        (("-h", "a"), ("-b", "below/../a")),
        (("-h", "a"), ("-D", "link")),
        (("-d", "{}/link"), ("-D", "a")),
        (("--json", "a"), ("--textfile", "a")),
        (("--csv", "link"), ("--textfile", "./a")),
        (("--parquet", "a"), ("--textfile", "a")),
    ],
    ids=str,
)
def test_two_outputs_that_are_one_file_are_refused(
    one: tuple[str, str], other: tuple[str, str], exists: bool, directory: Path
) -> None:
    Path("below").mkdir()
    Path("link").symlink_to("a")
    if exists:
        Path("a").write_text("of the last run")
    names = [name.format(directory) for _, name in (one, other)]
    for more in ([], ["--follow-symlinks"]):
        options = [one[0], names[0], other[0], names[1], *more]
        result = runner.call("-I", LONG, *options, stdin=ONE)
        said = {f"{a} and {b} are one file" for a, b in (names, names[::-1])}
        assert any(text in result.stderr.decode() for text in said), result.stderr
        is_original = {one[0], other[0], *more} <= set(ORIGINALS)
        assert (result.returncode, result.stdout) == (1 if is_original else EXIT_OUTPUT, b"")
        assert Path("a").exists() == exists
        assert not exists or Path("a").read_text() == "of the last run"


def test_hard_links_are_one_file() -> None:
    Path("a").write_text("of the last run")
    Path("b").hardlink_to("a")
    with unchanged("a"), unchanged("b"):
        refused("a and b are one file: give each output its own", "-h", "a", "-b", "b")


@pytest.mark.parametrize("name", ["a", "./a", "/dev/stdout"])
def test_standard_output_is_the_file_that_it_goes_to(name: str) -> None:
    with open("a", "wb") as output:
        result = runner.call("-I", LONG, "-h", "-", "--json", name, stdin=ONE, stdout=output)
    said = f"blkiomon: standard output and {name} are one file: give each output its own\n"
    assert (result.returncode, result.stderr.decode()) == (EXIT_OUTPUT, said)
    assert Path("a").read_bytes() == b""


def test_one_name_is_shared_by_several_formats_as_by_the_original() -> None:
    options = ["-h", "a", "-b", "a", "-D", "a", "--json", "a"]
    assert runner.call("-I", LONG, *options, stdin=ONE).stderr == b""
    data = Path("a").read_bytes()
    for piece in (b"\nsizes read", b'{"schema"', b"1 match, "):
        assert data.count(piece) == 1


def test_devices_and_pipes_are_written_to_by_several_outputs() -> None:
    options = ["-h", "/dev/null", "--json", "/dev/null", "--csv", "/dev/../dev/null"]
    assert runner.call("-I", LONG, *options, stdin=ONE).stderr == b""


# --- an option that is given twice ----------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *(["--json", "a", option, "b", option, "c"] for option in OPTIONS if option != "--json"),
        ["--json", "a", "--json", "b"],
        ["--json", "a", "--json", "a"],
        ["--openmetrics", "0", "--openmetrics", "0"],
        ["--csv", "a", "-Qa", "-q1", "-m1", "-Qb"],
        ["-h", "a", "--human-readable", "b", "--verbose"],
    ],
    ids=" ".join,
)
def test_output_that_is_given_twice_is_an_error(options: list[str]) -> None:
    result = runner.call("-I", LONG, *options, stdin=ONE)
    assert b" is given twice; it writes to one place\n" in result.stderr
    assert result.returncode != 0
    assert not names_in(Path())


@pytest.mark.parametrize(
    "command", [["report", "t"], ["compare", "t", "t"], ["archive", "t"]], ids=lambda c: str(c[0])
)
def test_page_that_is_given_twice_is_an_error(command: list[str]) -> None:
    Path("t").write_bytes(ONE)
    result = runner.call(*command, "-o", "a.html", "--output", "b.html")
    assert b"-o is given twice; it writes to one place\n" in result.stderr
    assert result.returncode != 0
    assert names_in(Path()) == ["t"]


def test_last_of_a_repeated_output_of_0_3_counts() -> None:
    programs = {"ours": runner.COMMAND, "theirs": (oracle.require(),)}
    for name, program in programs.items():
        Path(name).mkdir()
        options = ("-h", "a", "-h", "b", "-D", "c", "-D", "d")
        result = runner.run("-I", "1", *options, command=program, cwd=name, stdin=ONE)
        assert (result.returncode, result.stderr) == (0, b"")
        assert names_in(Path(name)) == ["b", "d"]
