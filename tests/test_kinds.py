"""Files of an unexpected kind: one line names the kind and the command to use."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import runner
from tracewriter import complete, encode, issue, lost_mark

import blkiomon
from blkiomon import to_bytes
from blkiomon.sources import file_kinds

DATA = encode([issue(0, 8, 4096), complete(500_000, 8, 4096)])
PCAP = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind, by its name."""
    home = tmp_path_factory.mktemp("kinds")
    trace = home / "trace"
    trace.write_bytes(DATA)
    options = {
        "json": "--json",
        "csv": "--csv",
        "parquet": "--parquet",
        "stats": "-b",
        "text": "-h",
    }
    words = [word for name, option in options.items() for word in (option, str(home / name))]
    assert runner.call("-I1", *words, trace).returncode == 0
    assert pq.read_table(home / "parquet").num_rows
    assert runner.call("report", "-o", home / "page.html", trace).returncode == 0
    assert runner.call("topology", "-o", home / "topology").returncode == 0
    with tarfile.open(home / "tar", "w") as tar:
        tar.add(trace)
    (home / "pcap").write_bytes(PCAP + bytes(100))
    (home / "elf").write_bytes(Path("/bin/true").read_bytes())
    (home / "prose").write_text("Dear Sir or Madam,\n" * 300)
    (home / "bzip2").write_bytes(b"BZh91AY&SY" + bytes(50))
    (home / "interval").write_bytes(to_bytes(blkiomon.summarize(DATA)))
    (home / "blkparse").write_text(
        "  8,16   1        1     0.000000000  4711  Q   R 223490 + 8 [kjournald]\n"
    )
    return {path.name: path for path in home.iterdir()}


SAID = {
    "topology": "holds a topology: use it with a trace, as in `blkiomon --topology {} TRACE`",
    "json": "holds intervals in JSON: use `blkiomon report {}`",
    "csv": "holds intervals in CSV: open it in a spreadsheet",
    "parquet": "holds Parquet: open it in pandas, polars or DuckDB",
    "stats": "holds statistics written with -b: use `blkiomon decode {}`",
    "text": "is text written with -h: ",
    "page.html": "is a web page: open it in a browser",
    "tar": "is a tar archive: unpack it first, as in `tar -xf {}`",
    "pcap": "holds network packets (pcap): blkiomon reads traces of blktrace only",
    "elf": "is a program (ELF): ",
    "prose": "is text: ",
    "bzip2": "is compressed with bzip2: unpack it first, as in `bzip2 -dc {} | blkiomon ... -`",
    "interval": "holds an encoded interval: use `from_bytes` of the Python library",
    "blkparse": "is text printed by blkparse: use the trace that blkparse read",
}


@pytest.mark.parametrize("name", SAID)
def test_message_names_the_kind_of_a_file_that_is_not_a_trace(
    name: str, files: dict[str, Path]
) -> None:
    path = files[name]
    result = runner.call("-I1", path)
    line = result.stderr.decode()
    assert (result.returncode, result.stdout.strip(), line.count("\n")) == (3, b"", 1)
    assert line.startswith(f"blkiomon: bad trace: {path} {SAID[name].format(path)}")


@pytest.mark.parametrize("name", SAID)
def test_message_names_the_kind_of_a_pipe_that_is_not_a_trace(
    name: str, files: dict[str, Path]
) -> None:
    data = files[name].read_bytes()
    result = runner.call("-I1", "--json", "-", stdin=data)
    said = f"blkiomon: bad trace: standard input {SAID[name].format('FILE')}"
    assert result.returncode == 3
    assert result.stderr.decode().startswith(said) and result.stderr.count(b"\n") == 1
    packed = runner.call("-I1", "--json", "-", stdin=gzip.compress(data))
    assert packed.stderr == result.stderr


def test_complaint_begins_as_ziomon_expects_it(files: dict[str, Path]) -> None:
    result = runner.call("-I1", "-d", "-", stdin=files["json"].read_bytes())
    assert result.returncode == 1
    assert result.stderr.startswith(b"blkiomon: bad trace: standard input holds intervals in JSON")


def test_message_names_the_bad_file_of_several(files: dict[str, Path]) -> None:
    result = runner.call("-I1", files["trace"], files["parquet"])
    assert result.returncode == 3
    assert f"bad trace: {files['parquet']} holds Parquet: " in result.stderr.decode()


@pytest.mark.parametrize("name", ["parquet", "tar", "pcap", "blkparse", "topology"])
@pytest.mark.parametrize("command", ["report", "compare"])
def test_other_commands_name_the_kind_as_well(
    command: str, name: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = files[name]
    given = ["-o", tmp_path / "x.html", path] if command == "report" else [files["trace"], path]
    result = runner.call(command, *given)
    assert result.returncode == 3
    assert f"{path} {SAID[name].format(path)}" in result.stderr.decode()


@pytest.mark.parametrize("name", ["trace", *(name for name in SAID if name != "stats")])
def test_decode_names_the_kind_of_a_wrong_file(name: str, files: dict[str, Path]) -> None:
    path = files[name]
    said = "is a block trace: use `blkiomon {}`" if name == "trace" else SAID[name]
    result = runner.call("decode", path)
    assert (result.returncode, result.stdout, result.stderr.count(b"\n")) == (3, b"", 1)
    assert result.stderr.decode().startswith(f"blkiomon: {path} {said.format(path)}")


def test_library_raises_a_trace_error(files: dict[str, Path]) -> None:
    with pytest.raises(blkiomon.TraceError, match="holds intervals in JSON") as caught:
        blkiomon.read_trace(files["json"])
    assert (caught.value.offset, caught.value.file) == (0, str(files["json"]))


def test_resync_finds_records_inside_another_file(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("t")
        entry.size = len(DATA)
        tar.addfile(entry, io.BytesIO(DATA))
    result = runner.call("-I1", "--resync", "--json", "-", path)
    assert result.returncode == 0
    assert b'"total":{"requests":1,' in result.stdout


@pytest.mark.parametrize("version", [7, 8])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_trace_is_never_mistaken_for_another_kind(version: int, byteorder: str) -> None:
    data = encode([issue(0, 8, 4096)], version, byteorder)
    for whole in (data, lost_mark(12, 3) + data):
        for n in range(1, len(whole) + 1):
            file_kinds.check_trace(whole[:n], "t")
