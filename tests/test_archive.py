"""``blkiomon archive`` in this process: finding traces, datasets, summaries, resuming, errors.

``test_archive_workers.py`` has other workers.
"""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import json
import os
import re
import shutil
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, ClassVar

import distributed
import fsspec
import pyarrow.parquet as pq
import pytest
import runner
from fsspec.implementations.memory import MemoryFileSystem
from test_sources import write_set
from tracewriter import Record, complete, encode, issue, notify_timestamp

import blkiomon
from blkiomon import to_dict
from blkiomon.commands import archive
from blkiomon.commands.archive import main, summarize, work
from blkiomon.commands.archive.crew import Crew, Here
from blkiomon.commands.archive.dataset import locked
from blkiomon.commands.archive.files import Files
from blkiomon.commands.archive.options import ArchiveError, DatasetError, TraceOptions
from blkiomon.commands.archive.summary import Summary
from blkiomon.commands.archive.traces import Trace, _Finder, find, host_pattern
from blkiomon.engine import layout
from blkiomon.formats.rows import Tables, from_tables
from blkiomon.formats.units import device_text
from blkiomon.interval.distribution import PERCENTILES, Distribution
from blkiomon.interval.groups import Group
from blkiomon.interval.value import Interval, merge

DATA = Path(__file__).parent / "data"
S = 10**9
MIDNIGHT = 1_795_392_000  # 2026-11-23
Capture = pytest.CaptureFixture[str]


PHASES = (DATA / "loop-phases-dc.bin").read_bytes()[: 48 * 20_000]
MULTI = (DATA / "loop-multi-dc.bin").read_bytes()[: 48 * 15_000]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hosts with four traces: a file, a packed one, per-CPU files, one with the time."""
    root = tmp_path_factory.mktemp("originals")
    for host in ("web1", "web2", "db"):
        (root / host).mkdir()
    (root / "web1" / "a.bin").write_bytes(PHASES)
    (root / "web2" / "b.gz").write_bytes(gzip.compress((DATA / "loop-ext4-all.bin").read_bytes()))
    write_set(root / "db", "sda", MULTI)
    (root / "db" / "late.bin").write_bytes(over_midnight())
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the copies: the same in each test, as results name traces by their path."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def traces(originals: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change, in the subdirectory "traces" of the current one."""
    copied = fresh_copy(originals, place)
    monkeypatch.chdir(place)
    return copied


def fresh_copy(originals: Path, place: Path) -> Path:
    """An otherwise empty directory with a copy of the traces."""
    shutil.rmtree(place)
    return shutil.copytree(originals, place / "traces")


@pytest.fixture(scope="module")
def first_run(
    originals: Path, place: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Summary, Path]:
    """Summary and dataset of a run on all traces."""
    dataset = tmp_path_factory.mktemp("first") / "ds"
    copied = fresh_copy(originals, place)
    return archived(f"{copied}/*/*", dataset=str(dataset)), dataset


@pytest.fixture
def first(first_run: tuple[Summary, Path], traces: Path) -> Summary:
    """Summary of a run on all traces; "ds" is a copy of its dataset."""
    summary, dataset = first_run
    shutil.copytree(dataset, "ds")
    return summary


def over_midnight(device: int = 8 << 20, seconds: int = 4) -> bytes:
    """A trace that begins two seconds before midnight; a request every half second."""
    records: list[Record] = [notify_timestamp(5 * S, MIDNIGHT - 2, 0)]
    for k in range(2 * seconds):
        at_ns = 5 * S + k * S // 2
        records.append(issue(at_ns, 8 * k, 4096, device=device))
        records.append(complete(at_ns + 1000 + k, 8 * k, 4096, device=device))
    return encode(records)


SOURCES = ("traces/*/*",)
PEMS = ("ca-file", "cert", "key")
AS_ROOT = "blkiomon: running as root: "


def parts(dataset: Path) -> list[Path]:
    return sorted(dataset.glob("requests/day=*/part-*.parquet"))


Stored = dict[tuple[str, str], list[dict[str, Any]]]


def stored(dataset: Path | str = "ds") -> Stored:
    """The intervals of each host and trace as a reader of a dataset finds them."""
    tables = (pq.read_table(f"{dataset}/{name}", partitioning=None) for name in Tables._fields)
    found: Stored = {}
    for host, trace, interval in from_tables(Tables(*tables)):
        found.setdefault((host, Path(trace).name), []).append(to_dict(interval))
    return {key: sorted(found[key], key=lambda line: line["start_ns"]) for key in sorted(found)}


def days(dataset: Path | str = "ds") -> dict[str, list[str]]:
    """The traces of each day."""
    return {
        str(path.parent.name): sorted(
            {
                Path(t).name
                for t in pq.read_table(path, columns=["trace"], partitioning=None)[
                    "trace"
                ].to_pylist()
            }
        )
        for path in parts(Path(dataset))
    }


# --- what is found -------------------------------------------------------------------------------


def found(*sources: str, host: str | None = None) -> dict[str, tuple[str, list[str]]]:
    """Host and files of each trace, by its name. Fails if a source has no trace."""
    traces, missing, _ = find(sources, host)
    assert not missing
    return {
        str(Path(t.name).relative_to(Path.cwd())): (t.host, [Path(f.url).name for f in t.files])
        for t in traces
    }


def test_traces_are_found_by_names_globs_and_directories(traces: Path) -> None:
    cpus = sorted(path.name for path in (traces / "db").glob("sda.blktrace.*"))
    cpus.sort(key=lambda name: int(name.rpartition(".")[2]))
    a = {"traces/web1/a.bin": ("web1", ["a.bin"])}
    b = {"traces/web2/b.gz": ("web2", ["b.gz"])}
    sda = {"traces/db/sda": ("db", cpus)}
    late = {"traces/db/late.bin": ("db", ["late.bin"])}
    assert len(cpus) > 1
    assert found("traces/web1/a.bin") == a
    assert found(f"file://{traces}/web1/a.bin") == a
    assert found("traces/web?/*") == a | b
    assert found("traces/db/sda") == found("traces/db/sda.blktrace") == sda
    assert found("traces/db/sda.blktrace.1") == found("traces/*/sda.blktrace.*") == sda
    assert found("traces/db") == sda  # of a directory with sets, these
    assert found("traces") == a | b | sda
    assert found("traces/*/*", "traces/db", "traces/web1/a.bin") == a | b | sda | late
    assert found("traces/**/*.bin") == a | late


def test_directory_of_single_files_has_a_trace_for_each(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.bin").write_bytes(PHASES)
    (folder / "deep" / "b").write_bytes(gzip.compress(PHASES))
    (folder / "link").symlink_to("a.bin")
    (folder / "notes.txt").write_text("of Monday\n")
    (folder / "log.gz").write_bytes(gzip.compress(b"of Tuesday\n"))
    (folder / "cut.gz").write_bytes(gzip.compress(PHASES)[:-100])
    (folder / "damaged.gz").write_bytes(gzip.compress(PHASES)[:10] + b"\xff" * 90)
    (folder / "empty").write_bytes(b"")
    (folder / "gone").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    for source in (str(folder), f"file://{folder}", f"{tmp_path}/tra*"):
        traces, missing, notes = find([source])
        names = [str(Path(trace.name).relative_to(folder)) for trace in traces]
        assert names == ["a.bin", "cut.gz", "deep/b", "link"]
        assert not missing and not notes


def test_files_that_may_be_copies_are_left_out_and_named_in_one_line(traces: Path) -> None:
    shutil.copy("traces/web2/b.gz", "traces/web2/a.bin")
    (traces / "web2" / "a.bin.gz").write_bytes(gzip.compress(PHASES))
    names, missing, (note,) = find(["traces"])
    assert [Path(t.name).name for t in names] == ["sda", "a.bin", "a.bin", "b.gz"]
    assert not missing
    here = Path.cwd()
    assert note == (
        f"2 files are left out, as others beside them may have the same records: {here}/traces/db/"
        f"late.bin, {here}/traces/web2/a.bin.gz; to read one, name it"
    )
    names, _, (note,) = find(["traces", "traces/db/late.bin"])
    assert len(names) == 5 and note == (
        f"{here}/traces/web2/a.bin.gz is left out, as another file beside it may have the same "
        "records; to read it, name it"
    )
    assert not find(["traces", "traces/db/late.bin", "traces/web2/a.bin.gz"])[2]


def test_file_of_a_directory_that_cannot_be_unpacked_is_a_failure(
    traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ImportError

    monkeypatch.setattr("blkiomon.sources.readers.zstd_module", missing)
    (traces / "web1" / "b.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(90))
    summary = archived("traces/web1")
    assert [Path(failure.trace).name for failure in summary.failures] == ["b.zst"]
    assert "blkiomon[zstd]" in summary.failures[0].error
    assert summary.records == len(PHASES) // 48


def test_left_out_file_is_reported_with_the_summary(traces: Path, capfd: Capture) -> None:
    assert main(["--workers", "0", "traces/db"]) == 0
    assert "late.bin is left out" in capfd.readouterr().err


def test_existing_name_wins_over_a_glob(traces: Path) -> None:
    (traces / "web1" / "x[1].bin").write_bytes(b"")
    assert list(found("traces/web1/x[1].bin")) == ["traces/web1/x[1].bin"]


def test_sources_without_traces_are_failures(traces: Path) -> None:
    (traces / "empty").mkdir()
    wrong = [
        *("nothing", "traces/no*", "traces/empty", "traces/emp*", "traces/db/sda.blktrace.99"),
        "no://x/y",
    ]
    names, missing, _ = find([*wrong, "traces/web1/a.bin"])
    assert [Path(t.name).name for t in names] == ["a.bin"]
    assert [m.trace for m in missing] == wrong
    expected = [
        *("no such file", "no file matches", "no trace in", "no trace in", "no such file"),
        "cannot look up",
    ]
    for item, text in zip(missing, expected, strict=True):
        assert text in item.error and "\n" not in item.error


@pytest.mark.parametrize(
    ("pattern", "name", "host"),
    [
        (None, "/x/web1/sda", "web1"),
        (None, "s3://b/web1/sda", "web1"),
        (None, "sda", None),
        ("*/traces/{host}/*", "/data/traces/web1/2026/sda", "web1"),
        ("*/{host}.bin.gz", "s3://b/t/web1.bin.gz", "web1"),
        ("*/{host}-sd?", "/x/web-1-sda", "web-1"),
        ("*/traces/{host}/*", "/data/other/web1/sda", None),
        ("**/t/{host}/**/x", "/a/b/t/h/c/d/x", "h"),
        ("/a.c/{host}", "/abc/h", None),
    ],
)
def test_host_pattern_finds_the_host(pattern: str | None, name: str, host: str | None) -> None:
    match = host_pattern(pattern).fullmatch(name)
    assert (match and match["host"]) == host


def test_trace_that_does_not_match_the_host_pattern_is_a_failure(traces: Path) -> None:
    names, missing, _ = find(["traces/web1/a.bin"], "/elsewhere/{host}/*")
    assert not names
    assert missing[0].trace.endswith("a.bin") and "/elsewhere/" in missing[0].error


def test_trace_in_no_folder_takes_a_host_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace("/x.bin", "", (), is_local=True)
    monkeypatch.setattr(_Finder, "add", lambda finder, _: finder.found.update({trace.name: trace}))
    _, (failure,), _ = find([trace.name])
    assert failure.error == "it is in no folder that names its host: use --host"


@pytest.mark.parametrize("name", [b"web\xff/x.bin", b"web1/\xffx.bin"])
def test_path_that_is_not_utf8_is_a_failure(name: bytes, traces: Path) -> None:
    """Neither Parquet nor a folder of a dataset can have that name."""
    path = Path("traces", os.fsdecode(name))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    names, missing, _ = find([str(path), "traces/web1/a.bin"])
    assert [trace.host for trace in names] == ["web1"]
    assert [(Path(m.trace).name, m.error) for m in missing] == [
        (path.name, "its path is not UTF-8, and Parquet stores no other text: rename it")
    ]


class Listed(MemoryFileSystem):  # type: ignore[misc]
    """As an object store: remembers what it has listed; cannot append or rename."""

    protocol = "listed"
    store: ClassVar[dict[str, Any]] = {}
    find = fsspec.AbstractFileSystem.find  # by ls()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("listed://")))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        # All readers of a file in memory share one position.
        if mode == "rb":
            return io.BytesIO(self.cat_file(path))
        assert mode == "wb", mode
        return super()._open(path, mode, **options)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        try:
            data: bytes = self.store[self._strip_protocol(path)].getvalue()
        except KeyError:
            raise FileNotFoundError(path) from None
        return data[start:end]

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True, **options)
        found = self.dircache[path]
        return found if detail else [info["name"] for info in found]

    def mv(self, *_: Any, **options: Any) -> None:
        raise NotImplementedError

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


def test_new_files_are_found_by_the_same_process() -> None:
    fsspec.register_implementation("listed", Listed, clobber=True)
    fs = fsspec.filesystem("listed")
    for name, n_found in (("one", 1), ("two", 2)):
        fs.pipe_file(f"/web1/{name}.bin", b"")
        assert len(find(["listed://web1/*"])[0]) == n_found


# --- what is made of it --------------------------------------------------------------------------


def alone(name: str | Path, interval: float | None = 1.0) -> list[Interval]:
    return list(blkiomon.intervals(name, interval))


def test_dataset_has_the_intervals_of_each_trace(traces: Path, first: Summary) -> None:
    assert not first.failures
    found = stored()
    assert found.keys() == {
        *(("db", "late.bin"), ("db", "sda"), ("web1", "a.bin"), ("web2", "b.gz"))
    }
    for (host, name), lines in found.items():
        assert lines == list(map(to_dict, alone(traces / host / name)))
    assert first.traces == 4
    assert first.intervals == sum(map(len, found.values()))
    assert first.records == sum(line["records"] for lines in found.values() for line in lines)


def test_intervals_are_in_the_day_in_which_they_begin(traces: Path) -> None:
    summarize("traces/db/late.bin", interval=1.0, dataset="ds", workers=0)
    starts = {
        path.parent.name: [t // S for t in pq.read_table(path)["start_ns"].to_pylist()]
        for path in parts(Path("ds"))
    }
    assert starts == {
        "day=2026-11-22": [MIDNIGHT - 2, MIDNIGHT - 1],
        "day=2026-11-23": [MIDNIGHT, MIDNIGHT + 1],
    }


def test_rows_of_a_parquet_file_are_sorted_by_host(
    traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blkiomon.commands.archive.run.TASKS_A_WORKER", 1)
    archived("traces/web2/*", "traces/web1/*", "traces/db/sda")
    (path,) = parts(Path("ds"))
    hosts = pq.read_table(path)["host"].to_pylist()
    assert hosts == sorted(hosts) and set(hosts) == {"db", "web1", "web2"}


def is_of(group: Group, requests: Any) -> Any:
    """Which requests are of the device and operation of a group: shape (n,), bool."""
    is_device = (requests["device"] == group.device) | (group.device is None)
    op = layout.OPS.index(group.op) if group.op else 0
    return is_device & ((requests["op"] == op) | (group.op is None))


def test_summary_has_the_figures_of_all_requests(traces: Path) -> None:
    """Compared with the requests, without intervals and merging."""
    summary = summarize(SOURCES, interval=0.5, workers=0)
    names = "web1/a.bin", "web2/b.gz", "db/sda", "db/late.bin"
    every = [blkiomon.requests(traces / name) for name in names]
    assert [host.name for host in summary.hosts] == ["db", "web1", "web2"]
    for group in summary.fleet:
        of = [r[is_of(group, r)] for r in every]
        assert group.d2c_ns == Distribution.of(v for r in of for v in r["d2c_ns"].tolist())
        assert group.size_bytes == Distribution.of(v for r in of for v in r["bytes"].tolist())
        assert group.errors == sum(int((r["error"] != 0).sum()) for r in of)
        assert group.in_flight is None
    assert [g.op for g in summary.fleet] == ["read", "write", "discard", "flush", None]
    db = summary.host("db")
    end_ns = alone(traces / "db/late.bin")[-1].end_ns
    assert (db.traces, db.start_ns, db.end_ns) == (2, (MIDNIGHT - 2) * S, end_ns)
    for group in db.groups:
        of = [r[is_of(group, r)] for r in every[2:]]
        assert group.d2c_ns == Distribution.of(v for r in of for v in r["d2c_ns"].tolist())
    for percent in PERCENTILES:
        reads = Distribution.of(
            v for r in every for v in r[r["op"] == 0]["d2c_ns"].tolist()
        ).percentile(percent)
        assert summary.percentile(percent, op="read") == reads
    with pytest.raises(KeyError):
        summary.host("web3")


def test_host_of_one_trace_has_the_figures_of_that_trace(traces: Path) -> None:
    summary = summarize("traces/web1/a.bin", interval=1.0, workers=0)
    whole = merge(alone(traces / "web1/a.bin"))
    (host,) = summary.hosts
    assert host.counts == whole.counts
    assert (host.start_ns, host.end_ns) == (None, None)
    for mine, theirs in zip(host.groups, whole.groups(), strict=True):
        assert (mine.device, mine.op, mine.d2c_ns) == (theirs.device, theirs.op, theirs.d2c_ns)
        assert mine.in_flight and theirs.in_flight
        assert mine.in_flight.max == theirs.in_flight.max
        assert mine.iops is None
    assert summary.percentile(99, host="web1") == whole.percentile(99)
    assert summary.percentile(99, host="web1", op="write") == whole.percentile(99, op="write")


def test_text_has_a_line_for_every_group(traces: Path) -> None:
    summary = summarize(SOURCES, workers=0)
    lines = "".join(summary.text()).splitlines()
    assert lines[0].startswith("3 hosts, 4 traces, ") and lines[0].endswith(" records")
    rows = [line.split() for line in lines[3:-2]]
    groups = [("fleet", g) for g in summary.fleet]
    worst = sorted(summary.hosts, key=lambda host: -(host.groups[-1].d2c_ns.percentile(99) or 0))
    assert worst != list(summary.hosts)
    groups += [(host.name, g) for host in worst for g in host.groups]
    for row, (host, group) in zip(rows, groups, strict=True):
        device = "all" if group.device is None else device_text(group.device)
        counts = str(group.requests), str(group.errors)
        assert row[:5] == [host, device, group.op or "all", *counts]
        assert row[7] == f"{(group.d2c_ns.percentile(50) or 0) / 1e3:.1f}"


def test_percentiles_of_too_few_requests_are_marked(traces: Path) -> None:
    lines = "".join(summarize(SOURCES, workers=0).text()).splitlines()
    for row in map(str.split, lines[3:-2]):
        for cell, least in zip(row[6:], (1, 2, 100, 1000, 1), strict=True):  # mean, p50 ... max
            assert cell.endswith("*") == (int(row[3]) < least)
    assert lines[-1] == "d2c in microseconds; * the slowest of too few requests"


def test_terminal_gets_what_fits(traces: Path) -> None:
    summary = summarize(SOURCES, workers=0)
    whole = "".join(summary.text()).splitlines()
    for columns, rows in ((200, 24), (80, 24), (60, 10), (80, 100)):
        lines = "".join(summary.text(os.terminal_size((columns, rows)))).splitlines()
        assert max(map(len, lines)) <= columns
        if rows < len(whole):
            # If two hosts are left, the line that names them takes the last row.
            assert len(lines) < rows or lines[-3].startswith("2 more hosts")
            assert re.fullmatch(r"\d more hosts?: --all prints all", lines[-3])
        else:
            assert len(lines) == len(whole)
        assert [line.split()[:3] for line in lines[3:9]] == [w.split()[:3] for w in whole[3:9]]
    assert "p99" in "".join(summary.text(os.terminal_size((20, 24))))


def test_order_of_traces_does_not_change_the_summary(traces: Path) -> None:
    one = archived(dataset=None)
    shuffled = "traces/web2/*", "traces/db", "traces/web1/*", "traces/db/late.bin"
    two = archived(*shuffled, dataset=None)
    assert json.dumps(one.to_dict()) == json.dumps(two.to_dict())


def test_host_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a=b µ%"
    folder.mkdir()
    (folder / "x.bin").write_bytes(over_midnight())
    dataset = tmp_path / "ds"
    summary = summarize(f"{folder}/x.bin", dataset=str(dataset), workers=0)
    assert [host.name for host in summary.hosts] == ["a=b µ%"]
    assert stored(dataset).keys() == {("a=b µ%", "x.bin")}


# --- what goes wrong -----------------------------------------------------------------------------


def test_bad_traces_are_failures_and_the_others_count(traces: Path) -> None:
    good = summarize(SOURCES, workers=0)
    (traces / "db" / "cut.bin").write_bytes(MULTI[: 48 * 1000 + 7])
    (traces / "db" / "none.bin").write_bytes(b"this is no trace at all, and long enough to tell")
    (traces / "web1" / "cut.gz").write_bytes(gzip.compress(MULTI)[:-100])
    (traces / "web1" / "gone.bin").symlink_to("nowhere")
    summary = summarize([*SOURCES, "traces/web9/x.bin"], workers=0)
    got = {Path(f.trace).name: f for f in summary.failures}
    assert got.keys() == {"cut.bin", "none.bin", "cut.gz", "gone.bin", "x.bin"}
    assert got["cut.bin"].records == 1000 and got["cut.bin"].intervals == 1
    assert "byte offset 48000" in got["cut.bin"].error
    assert "bad trace: " in got["none.bin"].error
    assert got["none.bin"].intervals == got["none.bin"].records == 0
    assert "damaged gzip" in got["cut.gz"].error or "end of the file" in got["cut.gz"].error
    assert got["cut.gz"].records > 10_000
    assert summary.records > good.records + 11_000
    assert summary.host("web2").groups[-1].d2c_ns == good.host("web2").groups[-1].d2c_ns


def test_traces_without_a_record_are_failures(traces: Path, capfd: Capture) -> None:
    (traces / "web1" / "zero.bin").write_bytes(b"")
    (traces / "db" / "idle.blktrace.0").write_bytes(b"")
    sources = ["traces/web1", "traces/web1/zero.bin", "traces/db/idle"]
    assert main(["--workers=0", "-o", "ds", "--json", *sources]) == 3
    out, err = capfd.readouterr()
    why = "it contains no trace record; no record of it was read"
    names = ("db/idle", "web1/zero.bin")
    assert err.splitlines() == [f"blkiomon: {traces}/{name}: {why}" for name in names]
    found = json.loads(out)
    assert (found["traces"], [host["host"] for host in found["hosts"]]) == (3, ["web1"])
    assert stored().keys() == {("web1", "a.bin")}
    (traces / "web1" / "zero.bin").write_bytes(b"garbage")
    assert len(summarize("traces/web1/zero.bin", resync=True, workers=0).failures) == 1


def test_trace_that_begins_after_the_period_is_no_failure(traces: Path) -> None:
    (traces / "db" / "late.bin").write_bytes(encode([issue(5 * S - 1, 0, 4096)]) + over_midnight())
    summary = summarize("traces/db/late.bin", to_ns=S, is_absolute=True, workers=0)
    assert not summary.failures and summary.records == 0


def test_resync_goes_on_and_counts_skipped_bytes(traces: Path) -> None:
    (traces / "web1" / "a.bin").write_bytes(MULTI[:4800] + b"garbage" + MULTI[4800:])
    strict = summarize("traces/web1/a.bin", workers=0)
    lenient = summarize("traces/web1/a.bin", resync=True, workers=0)
    assert strict.failures and not lenient.failures
    assert lenient.hosts[0].counts.skipped_bytes == 7
    assert lenient.records > strict.records == 100


def test_missing_cpu_is_a_note(traces: Path) -> None:
    (traces / "db" / "sda.blktrace.0").unlink()
    summary = summarize("traces/db/sda", workers=0)
    assert not summary.failures
    (note,) = summary.notes
    assert "sda.blktrace.0 is missing" in note
    (trace,), _, _ = find(["traces/db/sda"])
    result = work.read(trace, TraceOptions())
    assert result.whole is not None and result.whole.missing_files == 1


SLOW_PATH = DATA / "san/traces/iscsi-slow-path"
"""A trace of a multipath map and both of its paths, with its topology beside it."""


def test_totals_count_a_request_on_a_map_and_its_path_once(capfd: Capture) -> None:
    trace = f"{SLOW_PATH}.blktrace.0.xz"
    assert main(["--workers=0", "--json", trace]) == 0
    found = json.loads(capfd.readouterr().out)
    (host,) = found["hosts"]
    of_device = {g["device"]: g["requests"] for g in host["groups"] if g["op"] is None}
    assert host["not_in_total"] == ["8:0", "8:16"]
    assert of_device["8:0"] > 0 and of_device["8:16"] > 0
    assert of_device[None] == of_device["254:0"] == found["fleet"][-1]["requests"]
    assert [(g["op"], g["requests"]) for g in found["fleet"]] == [
        ("read", of_device[None]),
        (None, of_device[None]),
    ]
    summary = summarize(trace, workers=0)
    of_map = blkiomon.summarize(trace, devices="254:0").total.d2c_ns.percentile(99)
    assert {summary.percentile(99, host="traces", op=op) for op in ("read", None)} == {of_map}
    text = "".join(summary.text())
    why = "totals leave out devices with the same requests as others"
    assert f"\ntraces  {why}: 8:0, 8:16\n" in text


def test_topology_beside_one_trace_is_that_of_its_host(traces: Path) -> None:
    for host in ("san1", "san2"):
        (traces / host).mkdir()
        for name, device in (("sda", 8 << 20), ("dm-0", 254 << 20)):
            (traces / host / f"{name}.blktrace.0").write_bytes(over_midnight(device))
    topology = traces / "san1" / "sda.topology.json"
    shutil.copy(f"{SLOW_PATH}.topology.json", topology)
    one, other = archived("traces/san*").hosts
    assert (one.not_in_total, other.not_in_total) == ((8 << 20,), ())
    assert [host.groups[-1].requests for host in (one, other)] == [8, 16]
    topology.write_bytes(b"{}")
    again = archived("traces/san*")
    assert (again.resumed, again.hosts[0].groups[-1].requests) == (4, 16)
    why = 'not a topology: its "format" is not "blkiomon-topology"'
    assert again.notes == (f"{topology}: {why}; so totals of san1 may count requests twice",)


def test_summary_without_traces_is_empty() -> None:
    summary = summarize("/nowhere/at/all", workers=0)
    assert (summary.hosts, summary.fleet, len(summary.failures)) == ((), (), 1)
    assert "".join(summary.text()) == ""
    assert summary.percentile(99) is None


def test_dataset_that_cannot_be_written_ends_the_run(traces: Path) -> None:
    Path("ds").write_bytes(b"a file")
    with pytest.raises(DatasetError, match=r"cannot use .*/ds: Not a directory"):
        summarize(SOURCES, dataset="ds", workers=0)


@pytest.mark.parametrize("options", [(), ("--prune",)])
def test_dataset_of_an_unknown_protocol_is_one_line(
    options: tuple[str, ...], traces: Path, capfd: Capture
) -> None:
    assert main(["-o", "no://x", "--workers=0", *options, *SOURCES]) == 4
    said = capfd.readouterr().err
    assert said.startswith("blkiomon: cannot use no://x: ") and said.count("\n") == 1


def test_dataset_that_cannot_be_listed_is_one_line(
    traces: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(Files, "sizes", fail)
    assert main(["-o", "ds", "--prune"]) == 4
    assert capfd.readouterr().err.endswith("/ds: no credentials\n")


def test_traces_that_cannot_be_looked_up_are_not_pruned(
    first: Summary, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no credentials")

    before = stored()
    monkeypatch.setattr(Files, "exists", fail)
    assert main(["-o", "ds", "--prune"]) == 4
    said = capfd.readouterr().err
    assert said.startswith("blkiomon: cannot look up ") and said.endswith(": no credentials\n")
    assert stored() == before


def test_missing_library_without_a_name_is_reported_as_it_is() -> None:
    assert archive._needs(ImportError("Install s3fs to access S3")) == "Install s3fs to access S3"


def test_exception_of_a_task_is_in_its_future() -> None:
    def fail() -> None:
        raise MemoryError

    future = Here().submit(fail)
    assert isinstance(future.exception(), MemoryError)


def test_task_that_fails_in_this_process_is_a_failure_of_its_trace(
    traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(some: list[Interval]) -> Interval:
        if len(some) == 1:
            raise MemoryError("too large")
        return merge(some)

    monkeypatch.setattr(work, "merge", fail)
    summary = summarize("traces/web1/a.bin", interval=None, workers=0)
    assert [failure.error for failure in summary.failures] == ["too large"]


def test_note_about_a_jump_of_time_names_its_trace(traces: Path) -> None:
    records = [issue(S, 0, 4096), complete(2 * S, 0, 4096), issue(1 << 62, 16, 512)]
    Path("traces/web1/jump.bin").write_bytes(encode(records))
    summary = summarize("traces/web1/jump.bin", interval=1.0, workers=0)
    (note,) = summary.notes
    assert re.fullmatch(r".*/web1/jump\.bin: time jumps ahead: \d+ intervals are left out", note)


def test_note_about_time_that_goes_back_names_its_trace(traces: Path) -> None:
    records = [issue(9 * S, 0, 512), complete(10 * S, 0, 512), issue(S, 8, 512)]
    Path("traces/web1/back.bin").write_bytes(encode(records))
    summary = summarize("traces/web1/back.bin", interval=1.0, workers=0)
    (note,) = summary.notes
    assert "/web1/back.bin: time goes back by 9.0 s: " in note


def test_note_about_many_skips_names_its_trace(traces: Path) -> None:
    bad = b"".join(MULTI[48 * i : 48 * (i + 9)] + b"x" * 48 for i in range(0, 900, 9))
    for cpu in (0, 1):
        Path(f"traces/web1/bad.blktrace.{cpu}").write_bytes(bad)
    notes = summarize("traces/web1/bad", resync=True, workers=0).notes
    assert any("/web1/bad: bad trace: " in note for note in notes if "more stretches" in note)
    assert all("/web1/bad" in note for note in notes)


def test_dataset_in_memory_is_refused(traces: Path) -> None:
    with pytest.raises(DatasetError, match="memory://ds would be lost"):
        archived(dataset="memory://ds")


def test_options_out_of_range_are_refused(traces: Path) -> None:
    with pytest.raises(ValueError, match="interval_s"):
        summarize(SOURCES, interval=-1, workers=0)
    with pytest.raises(ValueError, match="workers must be 0 or more, not -1"):
        summarize(SOURCES, workers=-1)
    with pytest.raises(ValueError, match="pattern of a host"):
        summarize(SOURCES, host="*/x", workers=0)


# --- going on after an interruption --------------------------------------------------------------


def archived(*sources: str, **options: Any) -> Summary:
    given: dict[str, Any] = {"interval": 1.0, "dataset": "ds", "workers": 0}
    return summarize(sources or SOURCES, **given | options)


def same(one: Summary, two: Summary) -> bool:
    return one.to_dict() | {"resumed": 0} == two.to_dict() | {"resumed": 0}


def times(dataset: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in parts(dataset)}


def test_second_run_reads_nothing_again(traces: Path, first: Summary) -> None:
    before = times(Path("ds"))
    (traces / "web1" / "a.bin").chmod(0)  # only root could read it
    second = archived()
    assert (first.resumed, second.resumed) == (0, 4)
    assert same(first, second)
    assert times(Path("ds")) == before


def part_of(trace: str, table: str = "requests") -> Path:
    """A file of the dataset that holds intervals of a trace."""
    return next(
        path
        for path in sorted(Path("ds").glob(f"{table}/*/*.parquet"))
        if trace in str(pq.read_table(path, partitioning=None)["trace"].to_pylist())
    )


def remove_two() -> None:
    for trace in ("late.bin", "b.gz"):
        part_of(trace).unlink()


def truncate(size: int, table: str) -> None:
    """As after a power failure, or an unfinished copy."""
    os.truncate(part_of("a.bin", table), size)


def damage_manifest(data: bytes | None) -> None:
    """Replace a manifest; None: shorten the figures of a trace."""
    (path,) = Path("ds/_manifest").glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    (at,) = (k for k, line in enumerate(lines) if b"a.bin" in line)
    if data is None:
        entry = json.loads(lines[at])
        entry["done"][0]["whole"] = entry["done"][0]["whole"][:-8]
        data = json.dumps(entry).encode() + b"\n"
    path.write_bytes(b"".join([*lines[:at], data, *lines[at + 1 :]]))


@pytest.mark.parametrize(
    ("damage", "resumed"),
    [
        (remove_two, 2),
        *(
            (functools.partial(truncate, size, table), 3)
            for size, table in ((0, "requests"), (100, "requests"), (100, "intervals"))
        ),
        *(
            (functools.partial(damage_manifest, data), 3)
            for data in (b"", b"{}\n", b"[]\n", b'{"done":\n', None)
        ),
    ],
)
def test_damaged_parts_of_a_dataset_are_made_again(
    first: Summary, damage: Callable[[], None], resumed: int
) -> None:
    content = stored()
    damage()
    second = archived()
    assert second.resumed == resumed
    assert same(first, second)
    assert stored() == content
    assert archived().resumed == 4


def test_stored_trace_whose_source_is_missing_is_reported_unless_named(first: Summary) -> None:
    part_of("a.bin").unlink()
    (note,) = archived("traces/web2/*").notes
    assert note.startswith("1 trace is to be read again: files of ") and "/ds were miss" in note
    assert {trace for _, trace in stored()} == {"b.gz", "late.bin", "sda"}


def test_traces_can_be_added_to_a_dataset(first: Summary) -> None:
    archived("traces/web1/*", "traces/db/late.bin", dataset="other")
    second = archived(dataset="other")
    assert second.resumed == 2
    assert same(second, first)
    assert stored("other") == stored()


def test_changed_trace_is_read_again_and_its_old_rows_removed(traces: Path, first: Summary) -> None:
    path = traces / "db" / "late.bin"
    path.write_bytes(over_midnight(seconds=1))
    summary = archived()
    assert summary.resumed == 3
    assert same(summary, archived(dataset="other"))
    assert stored() == stored("other")
    os.utime(path, ns=(0, 0))
    assert archived().resumed == 3
    assert stored() == stored("other")


def test_renamed_trace_counts_once_after_pruning(traces: Path, first: Summary) -> None:
    path = traces / "db" / "late.bin"
    path.rename(path.with_name("later.bin"))
    assert archived().resumed == 3
    assert {("db", "late.bin"), ("db", "later.bin")} <= stored().keys()
    assert main(["-o", "ds", "--prune"]) == 0
    assert same(archived(), archived(dataset="other"))
    assert stored() == stored("other")


@pytest.mark.parametrize("options", [{"resync": True}, {"host": "*/{host}"}])
def test_other_options_begin_anew(first: Summary, options: dict[str, Any]) -> None:
    assert archived(**options).resumed == 0
    archived(dataset="other", **options)
    assert stored() == stored("other")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ops": "read"}, "read"),
        ({"devices": ["7:2", "7:1"]}, "7:1, 7:2"),
        ({"from_ns": S // 10, "to_ns": S // 5}, "from 0.1 s on, before 0.2 s"),
    ],
)
def test_selected_requests_alone_are_in_the_summary_and_the_dataset(
    options: dict[str, Any], text: str, traces: Path
) -> None:
    summary = archived("traces/db/sda", **options)
    whole = blkiomon.summarize("traces/db/sda", **options)
    assert [g.requests for g in summary.hosts[0].groups] == [g.requests for g in whole.groups()]
    assert 0 < whole.total.requests < blkiomon.summarize("traces/db/sda").total.requests
    (lines,) = stored().values()
    assert sum(line["total"]["requests"] for line in lines) == whole.total.requests
    head = next(summary.text())
    assert head.endswith(f"; only {text}\n\n")
    assert summary.to_dict()["only"] == text
    assert archived("traces/db/sda", **options).resumed == 1


def test_dataset_takes_intervals_of_one_length_and_selection(traces: Path, capfd: Capture) -> None:
    archived("traces/web1/a.bin", ops="read")
    before = stored()
    assert main(["-o", "ds", "--op", "write", "traces/web2/b.gz"]) == 4
    (line,) = capfd.readouterr().err.splitlines()
    assert "has other intervals (1 s, only read) than this run (60 s, only write): use " in line
    for interval, length in ((1.0, "1 s"), (None, "whole traces")):
        with pytest.raises(ArchiveError, match=rf"only read\) .* \({length}, all requests\)"):
            archived("traces/web1/a.bin", interval=interval)
    with pytest.raises(ArchiveError, match=r"\(1 s, only read\) than this run \(2 s, only read\)"):
        archived("traces/web1/a.bin", ops="read", interval=2.0)
    assert stored() == before
    assert main(["-o", "ds", "--compact"]) == 0


def test_manifest_stores_no_selection_if_there_is_none(first: Summary) -> None:
    (manifest,) = Path("ds/_manifest").glob("*.jsonl")
    lines = map(json.loads, manifest.read_text().splitlines())
    options = [done["source"]["options"] for line in lines for done in line.get("done", ())]
    assert len(options) == 4
    assert all(set(o) == {"interval_s", "max_pending", "max_age_s", "resync"} for o in options)


def test_rows_of_a_file_survive_when_another_trace_of_it_changes(
    traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blkiomon.commands.archive.run.TASKS_A_WORKER", 1)
    archived("traces/web1/*", "traces/web2/*", "traces/db/sda")
    before = stored()
    assert len(parts(Path("ds"))) == 1
    (traces / "web1" / "a.bin").write_bytes(over_midnight(seconds=1))
    assert archived("traces/web1/*").resumed == 0
    after = stored()
    assert after.keys() == before.keys()
    changed = ("web1", "a.bin")
    assert {k for k in after if after[k] != before[k]} == {changed}
    assert len(after[changed]) == 1


@pytest.mark.parametrize("table", ["requests", "intervals"])
@pytest.mark.parametrize("kind", [".part", "part"])
def test_files_of_a_killed_run_are_removed(table: str, kind: str, first: Summary) -> None:
    content = stored()
    path = part_of("a.bin", table)
    left = path.with_name(f"{kind}-00000009-0-000000-0.parquet")
    shutil.copy(path, left)
    new = path.with_name(".1234.new")
    new.write_bytes(b"half")
    mine = path.with_name("mine.parquet.bak")
    mine.write_bytes(b"precious")
    assert archived().resumed == 4
    assert not left.exists() and not new.exists() and mine.exists()
    mine.unlink()
    assert stored() == content


def test_change_that_was_cut_short_is_completed(first: Summary) -> None:
    """The manifest names a part whose files are still hidden."""
    content = stored()
    path = part_of("a.bin")
    path.rename(path.with_name(f".{path.name}"))
    assert archived().resumed == 4
    assert stored() == content


def test_forged_manifest_cannot_remove_other_files(first: Summary) -> None:
    (manifest,) = Path("ds/_manifest").glob("*.jsonl")
    precious = Path("precious.parquet")
    precious.write_bytes(b"precious")
    for name in ("../../precious.parquet", "day=unknown/../../../precious.parquet", 5):
        line = {"add": [[name, [1, 1], []]]}
        manifest.write_text(manifest.read_text() + json.dumps(line) + "\n")
        assert archived().resumed == 4
        manifest.write_text(manifest.read_text() + json.dumps({"remove": [name]}) + "\n")
        assert archived().resumed == 4
    assert precious.read_bytes() == b"precious"


def test_two_runs_do_not_write_one_dataset(first: Summary, capfd: Capture) -> None:
    with locked("ds") as held:
        with pytest.raises(DatasetError, match=rf"another run: process {os.getpid()} on "):
            archived()
        assert main(["-o", "ds", "--workers=0", *SOURCES]) == 4
        held.drop([])  # the first still has its lock
    assert capfd.readouterr().err.count("\n") == 1
    assert archived().resumed == 4


def test_manifests_of_many_runs_become_few(first: Summary) -> None:
    for number in range(10):
        os.utime("traces/db/late.bin", ns=(number, number))
        assert archived().resumed == 3
    manifests = list(Path("ds/_manifest").glob("*.jsonl"))
    assert 1 < len(manifests) < 10
    assert archived().resumed == 4


def test_small_files_are_compacted(first: Summary, capfd: Capture) -> None:
    content = stored()
    assert len(parts(Path("ds"))) > len(days())
    assert main(["-o", "ds", "--compact"]) == 0
    assert capfd.readouterr() == ("", "")
    assert len(parts(Path("ds"))) == len(days()) == 3
    for path in parts(Path("ds")):
        hosts = pq.read_table(path)["host"].to_pylist()
        assert hosts == sorted(hosts)
    assert stored() == content
    assert archived().resumed == 4
    os.utime("traces/web1/a.bin", ns=(0, 0))
    assert archived().resumed == 3
    assert stored() == content


def test_parts_of_many_row_groups_are_compacted_pruned_and_replaced(
    traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blkiomon.commands.archive.parts.GROUP_ROWS", 3)
    monkeypatch.setattr("blkiomon.commands.archive.run.TASKS_A_WORKER", 1)
    for host in ("web1", "web3"):
        Path("traces", host).mkdir(exist_ok=True)
        Path("traces", host, "late.bin").write_bytes(over_midnight(seconds=8))
    archived("traces/web*/late.bin")
    archived("traces/db/late.bin")
    content = stored()
    assert main(["-o", "ds", "--compact"]) == 0
    assert len(parts(Path("ds"))) == 2
    for path in Path("ds").glob("*/*/*.parquet"):
        file = pq.ParquetFile(path)
        sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
        assert len(sizes) > 1 and max(sizes) <= 2 * 3
    assert stored() == content
    os.utime("traces/web1/late.bin", ns=(0, 0))
    assert archived("traces/web1/late.bin").resumed == 0
    assert stored() == content
    Path("traces/web3/late.bin").unlink()
    assert main(["-o", "ds", "--prune"]) == 0
    del content["web3", "late.bin"]
    assert stored() == content


def test_only_a_dataset_is_pruned(tmp_path: Path, capfd: Capture) -> None:
    assert main(["-o", str(tmp_path / "ds"), "--prune"]) == 4
    assert (
        capfd.readouterr().err == f"blkiomon: {tmp_path}/ds is not a dataset of blkiomon archive\n"
    )
    assert not (tmp_path / "ds").exists()


def test_traces_that_are_gone_are_pruned(traces: Path, first: Summary, capfd: Capture) -> None:
    content = stored()
    (traces / "web1" / "a.bin").unlink()
    (traces / "db" / "sda.blktrace.0").unlink()  # other files of this trace are there
    assert main(["-o", "ds", "--prune"]) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("", "blkiomon: 1 trace is gone and removed from the dataset\n")
    del content["web1", "a.bin"]
    assert stored() == content


def test_nothing_is_pruned_if_all_traces_are_gone(
    traces: Path, first: Summary, capfd: Capture
) -> None:
    content = stored()
    traces.rename("elsewhere")
    assert main(["-o", "ds", "--prune"]) == 4
    assert "all 4 traces of" in capfd.readouterr().err
    assert stored() == content


def test_damaged_trace_is_reported_again_without_reading(traces: Path) -> None:
    (traces / "web1" / "a.bin").write_bytes(MULTI[:4807])
    (traces / "web2" / "b.gz").write_bytes(gzip.compress(MULTI)[:-100])  # perhaps still copied
    first = archived()
    second = archived()
    assert len(first.failures) == 2
    assert same(first, second)
    assert second.resumed == 3


def test_files_appear_as_a_whole(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "ds"))
    with pytest.raises(RuntimeError), files.writing("a/b.parquet") as file:
        file.write(b"half")
        raise RuntimeError
    assert list((tmp_path / "ds/a").iterdir()) == []
    with files.writing("a/b.parquet") as file:
        file.write(b"whole")
    assert [p.name for p in (tmp_path / "ds/a").iterdir()] == [".b.parquet"]
    files.publish("a/b.parquet")
    assert [p.name for p in (tmp_path / "ds/a").iterdir()] == ["b.parquet"]


@pytest.fixture
def listed() -> Iterator[Any]:
    """A new ``Listed``, under the scheme "listed"."""
    fsspec.register_implementation("listed", Listed, clobber=True)
    fs = fsspec.filesystem("listed")
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an S3 server with two empty buckets, which workers reach, too."""
    from moto.server import ThreadedMotoServer  # slow to import

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fs = fsspec.filesystem("s3")
    for name in ("traces", "dataset"):
        fs.mkdir(name)
    yield fs
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()  # else the process keeps them
    server.stop()


@pytest.mark.parametrize(("scheme", "workers"), [("listed", 0), ("s3", 2)])
def test_traces_and_dataset_may_be_in_an_object_store(
    scheme: str,
    workers: int,
    traces: Path,
    first: Summary,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    fs = request.getfixturevalue(scheme)
    for path in traces.rglob("*.*"):
        fs.pipe_file(f"/traces/{path.relative_to(traces)}", path.read_bytes())
    urls, dataset = [f"{scheme}://traces/*/*"], f"{scheme}://dataset"
    remote = archived(*urls, dataset=dataset, workers=workers)
    assert same(first, remote)
    assert archived(*urls, dataset=dataset).resumed == 4
    assert archived(f"{scheme}://traces", dataset=dataset).resumed == 3
    fs.pipe_file("/traces/db/late.bin", over_midnight(seconds=1))
    assert archived(*urls, dataset=dataset).resumed == 3
    assert main(["-o", dataset, "--compact"]) == 0
    fs.rm_file("/traces/web1/a.bin")
    assert main(["-o", dataset, "--prune"]) == 0
    fs.invalidate_cache()
    for name in fs.find("/dataset"):
        copy = tmp_path / name.removeprefix("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(fs.cat_file(name))
    expected = stored()
    del expected["web1", "a.bin"]
    expected["db", "late.bin"] = expected["db", "late.bin"][:1]
    found = stored(tmp_path / "dataset")
    assert found.keys() == expected.keys()
    assert found["web2", "b.gz"] == expected["web2", "b.gz"]
    assert len(found["db", "late.bin"]) == 1
    assert len(parts(tmp_path / "dataset")) == 2


@pytest.mark.parametrize("scheme", ["listed", "s3"])
def test_lock_in_an_object_store_names_its_holder(
    scheme: str, traces: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(scheme)
    dataset = f"{scheme}://dataset"
    with locked(dataset):
        with pytest.raises(DatasetError, match=rf"process {os.getpid()} on .* remove _manifest"):
            archived(dataset=dataset)
    assert archived(dataset=dataset).traces == 4


class Whole(http.server.SimpleHTTPRequestHandler):
    """Hands out whole files only, as Python's own server does."""

    def log_message(self, *arguments: Any) -> None:
        pass


class Ranges(Whole):
    """Hands out parts as well, as web servers do."""

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked:
            return super().do_GET()
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])


@pytest.fixture(params=[Whole, Ranges])
def server(traces: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    handler = functools.partial(request.param, directory=str(traces))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def test_traces_may_come_from_a_web_server(
    traces: Path, first: Summary, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blkiomon.commands.archive.traces.READ_AHEAD_BYTES", 1 << 16)
    urls = [f"{server}/web1/a.bin", f"{server}/web2/*.gz", f"{server}/db/sda", f"{server}/db/l*"]
    remote = archived(*urls, dataset="remote")
    assert same(first, remote)
    assert archived(*urls, dataset="remote").resumed == 4
    os.utime(traces / "web1" / "a.bin", (1, 1))
    assert archived(*urls, dataset="remote").resumed == 3
    (traces / "web1" / "Gone.bin").symlink_to("nowhere")  # listed, and before the others
    gone = archived(f"{server}/web1/*.bin", dataset="remote")
    assert [f.trace for f in gone.failures] == [f"{server}/web1/Gone.bin"]
    assert gone.records == len(PHASES) // 48
    missing = archived(f"{server}/web1/none.bin", dataset="remote")
    assert [f.trace for f in missing.failures] == [f"{server}/web1/none.bin"]


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--compact"], "--prune and --compact need a dataset"),
        (["--prune", "x"], "--prune and --compact need a dataset"),
        (["-o", "", "x"], "--output takes a path"),
        (["-o", "ds"], "no trace is named"),
        (["-o", "ds", "-I", "0", "x"], "--interval takes"),
        (["-o", "ds", "--workers", "-1", "x"], "--workers takes"),
        (["-o", "ds", "--workers", "1025", "x"], "--workers takes"),
        (["-o", "ds", "--workers", "2", "--scheduler", "tcp://x:1", "x"], "exclude each other"),
        (["-o", "ds", "--max-pending", "x", "x"], "--max-pending takes"),
        (["-o", "ds", "--host", "*/x", "x"], "--host: the pattern"),
        (["-o", "ds", "--nonsense", "x"], "nonsense"),
        (["-o", "ds", "--tls-key", "/dev/null", "x"], "--tls-key needs a --scheduler"),
        (["-o", "ds", "--scheduler", "x", "--tls-key", "/dev/null", "x"], "TLS takes all three"),
        (
            [*("-o", "ds", "--scheduler", "x", "x"), *(f"--tls-{n}=/no/\t" for n in PEMS)],
            "--tls-ca-file: cannot read '/no/\\t': No such file or directory",
        ),
        (
            [*("-o", "ds", "--scheduler", "x", "x"), *(f"--tls-{n}=a\0b" for n in PEMS)],
            "--tls-ca-file: cannot read 'a\\x00b'",
        ),
    ],
)
def test_misuse_is_one_line_and_the_usage(arguments: list[str], why: str, capfd: Capture) -> None:
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    message, usage, _ = err.partition("\nUsage: blkiomon archive ")
    assert out == "" and usage and why in message and "\n" not in message


@pytest.mark.parametrize(
    ("module", "extra", "more"),
    [
        *(("fsspec", "archive", []), ("pyarrow", "archive", [])),
        *((name, "dask", ["--scheduler", "tcp://x:1"]) for name in ("dask", "distributed")),
    ],
)
def test_missing_extra_is_one_line(module: str, extra: str, more: list[str], traces: Path) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from blkiomon.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    result = runner.python(code, "archive", "-o", "ds", *more, "traces/web1/a.bin")
    assert (result.returncode, result.stdout) == (2, b"")
    lines = complaints_but_roots(result.stderr.decode())
    assert lines == [f"blkiomon: archive needs {module}: pip install 'blkiomon[{extra}]'"]


def test_summary_alone_needs_no_pyarrow(traces: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from blkiomon.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    result = runner.python(code, "archive", "--workers=0", "traces/web1/a.bin")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"1 host, 1 trace, ")


def complaints_but_roots(complaints: str) -> list[str]:
    """The lines on standard error, without the one that root alone gets."""
    return [line for line in complaints.splitlines() if not line.startswith(AS_ROOT)]


@pytest.mark.parametrize(
    ("names", "status"),
    [((), 0), (("cut.bin",), 3), (("cut.bin", "ds"), 4), (("ds",), 4), (("no.bin",), 3)],
    ids=str,
)
def test_bad_input_exits_with_3_and_bad_output_with_4(
    names: tuple[str, ...], status: int, traces: Path, capfd: Capture
) -> None:
    sources = ["traces/web1/a.bin"]
    for name in names:
        if name == "ds":
            Path("ds").write_bytes(b"a file")
        else:
            sources.append(f"traces/web1/{name}")
    (traces / "web1" / "cut.bin").write_bytes(MULTI[: 48 * 1000 + 7])
    assert main(["-o", "ds", "--workers=0", *sources]) == status
    out, err = capfd.readouterr()
    assert bool(out) == (status != 4)
    assert err.count("\n") == (1 if status == 4 else len(sources) - 1)


def test_full_standard_output_gives_one_line_and_status_4(traces: Path) -> None:
    command = ("archive", "-o", "ds", "--workers=0", "traces/web1/a.bin")
    result = runner.shell(">/dev/full", *command)
    why = b"blkiomon: could not write to standard output: No space left on device\n"
    assert (result.returncode, result.stderr) == (4, why)


def test_name_of_a_host_cannot_control_the_terminal(traces: Path, capfd: Capture) -> None:
    odd = "web\x1b[31m\r\n\u202e\x9b2J"
    (traces / odd).mkdir()
    (traces / odd / "a.bin").write_bytes(PHASES[:48_000])
    (traces / odd / "cut\x1b]0;x\a.bin").write_bytes(PHASES[:48_007])
    assert main(["-o", "ds", "-I1", "--workers=0", f"traces/{odd}/*"]) == 3
    printed = capfd.readouterr()
    for text in (printed.out, printed.err):
        assert "web" in text
        lines = text.split("\n")
        assert all(map(str.isprintable, lines))
    assert printed.err.count("\n") == 1
    assert printed.out == "".join(archived(f"traces/{odd}/*").text())
    # The fifth begins with the escaped name.
    begins = {line.partition(" ")[0] for line in printed.out.split("\n")[2:]}
    assert len(begins) == 5 and begins > {"host", "fleet", "", "d2c"}


def test_unreachable_scheduler_is_one_line(
    traces: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blkiomon.commands.archive.cluster.CONNECT_S", 0.2)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        assert main(["-o", "ds", "--scheduler", address, *SOURCES]) == 3
        out, err = capfd.readouterr()
        (line,) = complaints_but_roots(err)
        assert out == "" and line.startswith(f"blkiomon: no Dask scheduler at {address}: ")


@pytest.mark.parametrize("address", ["", "x", "nonsense://x", "inproc://x", "tls://127.0.0.1:1"])
def test_invalid_address_is_one_line_until_the_process_ends(address: str, traces: Path) -> None:
    result = runner.run("archive", "-o", "ds", "--scheduler", address, *SOURCES)
    assert (result.returncode, result.stdout) == (3, b"")
    (line,) = complaints_but_roots(result.stderr.decode())
    assert line.startswith(f"blkiomon: no Dask scheduler at {address}: ")


def test_tls_without_certificates_names_the_options(traces: Path) -> None:
    with pytest.raises(ArchiveError, match="1: TLS takes --tls-ca-file, --tls-cert and --tls-key"):
        summarize(SOURCES, scheduler="tls://127.0.0.1:1")


def test_scheduler_needs_workers(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blkiomon.commands.archive.cluster.WORKERS_S", 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=0, processes=False, dashboard_address=None
        ) as cluster:
            with pytest.raises(ArchiveError, match="has no workers"):
                summarize(SOURCES, scheduler=cluster.scheduler_address)


@pytest.mark.parametrize(
    ("arguments", "rooms"),
    [({}, [1, 3, 4]), ({"workers": 2}, [1, 2, 2]), ({"workers": 6}, [1, 3, 6])],
    ids=str,
)
def test_workers_are_limited_by_cores_and_traces(
    traces: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], rooms: list[int]
) -> None:
    made: list[int] = []

    def noted(executor: Executor, room: int, most_deaths: int) -> Crew:
        made.append(room)
        return Crew(executor, room, most_deaths=most_deaths)

    monkeypatch.setattr("blkiomon.commands.archive.run.Crew", noted)
    monkeypatch.setattr("blkiomon.commands.archive.run.Pool", Here)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    for number in (1, 3, 9):
        for k in range(number):
            (traces / f"{number}.{k}").write_bytes(over_midnight())
        assert len(summarize(f"traces/{number}.*", **arguments).failures) == 0
    assert made == rooms
