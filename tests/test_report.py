"""``blkiomon report``: what is collected, the page and its pictures, memory, and errors."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import runner
import tracewriter as tw
from sanitizers import NEEDED

import blkiomon
from blkiomon import to_dict
from blkiomon.commands import report
from blkiomon.commands.report import access, compare, json_input, selection, slices
from blkiomon.commands.report import collect as collecting
from blkiomon.commands.report.access import Accesses
from blkiomon.commands.report.cells import cells_of
from blkiomon.commands.report.collect import RESOLUTION, Resolution, collect
from blkiomon.commands.report.collected import JSON, Collected
from blkiomon.commands.report.curves import (
    a_second,
    by_operation,
    coarse,
    distribution,
    heat,
    latencies,
    percentile_curve,
)
from blkiomon.commands.report.figures import charts, chosen
from blkiomon.commands.report.slices import MOST_SLICES
from blkiomon.commands.report.written import write_output
from blkiomon.engine import layout
from blkiomon.errors import ReportError
from blkiomon.formats.units import time_text

DATA = Path(__file__).parent / "data"
PHASES, MULTI, EXT4, LOSSY = (
    DATA / f"loop-{name}.bin" for name in ("phases-dc", "multi-dc", "ext4-all", "lossy-dc")
)

Capture = pytest.CaptureFixture[str]


def figures_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def pairs(number: int, spacing_ns: int = 1_000_000, **fields: Any) -> list[tw.Record]:
    """Requests one after the other, each of which takes half a millisecond."""
    records = []
    for i in range(number):
        at, sector = 10**9 + i * spacing_ns, 8 * i
        records.append(tw.issue(at, sector, 4096, **fields))
        records.append(tw.complete(at + 500_000, sector, 4096, **fields))
    return records


def trace(path: Path, records: list[tw.Record]) -> Path:
    path.write_bytes(tw.encode(records))
    return path


@pytest.fixture(scope="module")
def multi() -> Collected:
    """A real trace of three devices."""
    return collect([str(MULTI)])


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The end of that trace: every device and operation occurs, and nothing stays in flight."""
    path = tmp_path_factory.mktemp("short") / "trace"
    path.write_bytes(MULTI.read_bytes()[-48 * 5000 :])
    return path


@pytest.fixture(scope="module")
def stats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Outputs of --json and -b for that trace, second by second."""
    directory = tmp_path_factory.mktemp("stats")
    found = {"json": directory / "stats.jsonl", "b": directory / "stats.bin"}
    done = runner.call("-I", "1", "--json", found["json"], "-b", found["b"], MULTI)
    assert done.returncode == 0
    return found


def page_of(path: Path, *options: str, status: int = 0) -> str:
    """The page of a trace or file, which the command writes beside it."""
    output = path.with_name("page.html")
    assert report.main(["-o", str(output), *options, str(path)]) == status
    return output.read_text()


def is_well_formed(page: str) -> bool:
    """Void elements are closed: a page is XML, too, but for its first line."""
    return ET.fromstring(page.partition("\n")[2]).tag == "html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("page") / "report.html"
    title = "Before </script> & <after>"
    assert report.main(["-o", str(output), str(MULTI), "--title", title]) == 0
    return output.read_text()


# --- what is collected ----------------------------------------------------------------------------


@pytest.fixture
def few_slices(monkeypatch: pytest.MonkeyPatch) -> int:
    """A small limit of slices: they are merged many times, and tests compare few."""
    monkeypatch.setattr(collecting, "RESOLUTION", Resolution(RESOLUTION.first_ns, 64))
    return 64


@pytest.mark.parametrize("path", [PHASES, MULTI, EXT4], ids=lambda path: path.stem)
def test_whole_equals_summarize(path: Path) -> None:
    found = collect([str(path)])
    assert to_dict(found.whole) == to_dict(blkiomon.summarize(path))
    assert MOST_SLICES // 2 < len(found.slices) <= MOST_SLICES
    starts = [item.start_ns for item in found.slices[1:]]
    assert starts == [item.end_ns for item in found.slices[:-1]]


def test_whole_begins_with_the_first_record_after_notes(tmp_path: Path) -> None:
    records = [tw.notify_timestamp(10**12, 1_700_000_000, 0)]
    records += [tw.replace(r, time_ns=r.time_ns + 1001 * 10**9) for r in pairs(100)]
    path = trace(tmp_path / "trace", records)
    found = collect([str(path)])
    whole = blkiomon.summarize(path)
    assert to_dict(found.whole) == to_dict(whole)
    assert whole.duration_s < 1
    assert len(found.slices) > MOST_SLICES // 8


def test_slices_are_those_of_a_monitor_of_the_same_length(few_slices: int) -> None:
    found = collect([str(MULTI)])
    width_s = found.slices[0].duration_s
    assert few_slices // 2 < len(found.slices) <= few_slices
    same = list(blkiomon.intervals(MULTI, width_s))
    assert len(same) == len(found.slices)
    for mine, theirs in zip(found.slices, same):
        assert to_dict(mine) == to_dict(theirs)


@pytest.mark.parametrize(
    "records",
    [
        *(pairs(700, spacing_ns) for spacing_ns in (1, 10**6, 10**11)),
        [*pairs(5), tw.issue(10**17, 0, 4096), tw.complete(10**17 + 1, 0, 4096)],
    ],
    ids=["short", "steady", "long", "leap"],
)
def test_slices_are_bounded_for_any_length_of_time(
    tmp_path: Path, records: list[tw.Record]
) -> None:
    path = trace(tmp_path / "trace", records)
    found = collect([str(path)])
    assert len(found.slices) <= MOST_SLICES
    assert to_dict(found.whole) == to_dict(blkiomon.summarize(path))


def test_json_gives_the_figures_of_its_trace(stats: dict[str, Path], tmp_path: Path) -> None:
    found = collect([str(stats["json"])])
    assert found.kind == JSON
    assert to_dict(found.whole) == to_dict(blkiomon.summarize(MULTI))
    assert len(found.slices) == 4
    packed = tmp_path / "stats.jsonl.gz"
    packed.write_bytes(gzip.compress(stats["json"].read_bytes()))
    assert to_dict(collect([str(packed)]).whole) == to_dict(found.whole)


def test_json_of_many_intervals_makes_few_slices(
    short: Path, tmp_path: Path, few_slices: int
) -> None:
    path = tmp_path / "stats.jsonl"
    assert runner.call("-I", "0.001", "--json", path, short).returncode == 0
    assert path.read_bytes().count(b"\n") > few_slices
    found = collect([str(path)])
    assert to_dict(found.whole) == to_dict(blkiomon.summarize(short))
    assert few_slices // 2 < len(found.slices) <= few_slices


def test_json_without_time_of_day_is_shown_one_file_after_another(tmp_path: Path) -> None:
    paths = []
    for name, number in (("a", 20), ("b", 30)):
        made = trace(tmp_path / name, pairs(number))
        paths.append(str(tmp_path / f"{name}.jsonl"))
        assert runner.call("-I", "0.01", "--json", paths[-1], made).returncode == 0
    found = collect(paths)
    assert found.notes == (
        "The files do not contain the time of day: they are shown one after another.",
    )
    assert not found.is_broken
    ends = [item.end_ns for item in found.slices]
    assert [item.start_ns for item in found.slices[1:]] == ends[:-1]
    lengths = [collect([path]).whole.end_ns for path in paths]
    assert found.whole.end_ns == sum(lengths)
    assert found.whole.total.requests == 50


def test_devices_are_picked_from_traces_and_json_alike(short: Path, tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    assert runner.call("-I", "0.02", "--json", path, short).returncode == 0
    for devices in ([7 << 20 | 2], [7 << 20 | 1, 7 << 20 | 3]):
        of_trace, of_json = (collect([str(p)], devices=devices).whole for p in (short, path))
        # The filtered trace ends with the last record of these devices.
        for one, other in zip(of_json.groups(), of_trace.groups(), strict=True):
            assert (one.device, one.op, one.errors) == (other.device, other.op, other.errors)
            assert (one.d2c_ns, one.size_bytes) == (other.d2c_ns, other.size_bytes)
            assert one.in_flight and other.in_flight
            assert one.in_flight.request_ns == other.in_flight.request_ns


def test_figures_of_a_b_option_file_have_no_percentiles(
    stats: dict[str, Path], multi: Collected
) -> None:
    found = collect([str(stats["b"])])
    whole = multi.whole
    writes = [g for g in found.whole.groups() if (g.device, g.op) == (7 << 20 | 2, "write")]
    (exact,) = (g for g in whole.ops(7 << 20 | 2) if g.op == "write")
    assert (writes[0].requests, writes[0].bytes) == (exact.requests, exact.bytes)
    assert writes[0].d2c_ns.mean == pytest.approx(exact.d2c_ns.mean, abs=1000)
    assert writes[0].d2c_ns.percentile(99) is None
    assert "hold no percentiles" in page_of(stats["b"])


def test_truncated_file_of_b_is_read_with_a_note(stats: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "stats.bin"
    path.write_bytes(stats["b"].read_bytes() + b"x" * 7)
    found = collect([str(path)], devices=[7 << 20 | 2])
    assert found.is_broken
    assert f"{path}: the last 7 bytes are not a whole struct" in found.notes
    assert found.whole.devices == (7 << 20 | 2,)


# --- where requests went --------------------------------------------------------------------------


def requests(sectors: list[int], op: int = 0, at: int = 0) -> np.ndarray:
    made = np.zeros(len(sectors), layout.REQUEST)
    made["sector"], made["bytes"], made["op"] = sectors, 4096, op
    made["issued_ns"] = np.arange(len(sectors)) + at
    return made


def test_a_request_is_sequential_where_the_one_before_ended() -> None:
    accesses = Accesses(4, 10)
    accesses.add(requests([0, 8, 16, 100, 108]), 0)
    accesses.add(requests([500, 508], op=1), 0)
    accesses.add(requests([116, 0], at=5), 0)
    found = accesses.finish({})
    assert found.shares == {(0, 0): (7, 4), (0, 1): (2, 1)}
    assert found.counts.sum(axis=1)[:2].tolist() == [[7, 4], [2, 1]]


def test_sequential_requests_are_found_in_any_order_of_completion() -> None:
    made = requests(list(range(0, 8 * 300_000, 8)))
    mixed = made.copy()
    for at in range(0, len(made), 64):
        mixed[at : at + 64] = mixed[at : at + 64][::-1]
    accesses = Accesses(4, 10**6)
    for at in range(0, len(made), 5000):
        accesses.add(mixed[at : at + 5000], 0)
    found = accesses.finish({})
    assert found.shares == {(0, 0): (300_000, 299_999)}
    assert len(found.sample) == 30_000
    assert found.n_requests == 300_000
    # Drawn evenly from all of them.
    assert np.mean(found.sample["issued_ns"]) == pytest.approx(150_000, rel=0.02)


def test_sequential_share_of_a_real_trace(multi: Collected) -> None:
    found = multi.patterns
    assert found is not None
    assert found.shares[7 << 20 | 2, 1] == (5897, 5896)  # a sequential writer
    assert found.shares[7 << 20 | 1, 0][1] < 10  # random reads


# --- numbers behind the charts --------------------------------------------------------------------


def test_curves_add_up_to_the_totals(multi: Collected) -> None:
    lines = by_operation(cells_of(multi.slices))
    assert [line.name for line in lines] == ["read", "write", "discard", "flush"]
    for line in lines:
        exact = [g for g in multi.whole.groups() if g.op == line.name]
        for column, total in (
            ("requests", sum(g.requests for g in exact)),
            ("bytes", sum(g.bytes for g in exact)),
        ):
            starts, ends, values = a_second(coarse(line.cells), column)
            assert np.nansum(values * (ends - starts)) == pytest.approx(total, rel=0.01)
        d2c = distribution(line.cells)
        assert d2c.percentile(99) == multi.whole.percentile(99, op=line.name)
        edges_ns = np.geomspace(*latencies([line]), 51)
        assert heat(line.cells, edges_ns).sum() == d2c.count
        starts, ends, values = percentile_curve(d2c)
        assert starts[0] == 0 and (starts[1:] == ends[:-1]).all()
        assert (np.diff(values) >= 0).all() and values[-1] == pytest.approx(d2c.max, rel=0.008)


def test_gap_between_intervals_is_a_slice_of_nan(stats: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    lines = stats["json"].read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    values = a_second(cells_of(collect([str(path)]).slices), "requests").values
    assert np.isnan(values).tolist()[:2] == [False, True]


# --- the page -------------------------------------------------------------------------------------


def test_figures_of_the_page_equal_the_librarys(page: str) -> None:
    whole = to_dict(blkiomon.summarize(MULTI), histograms=False)
    assert figures_of(page)["whole"] == json.loads(json.dumps(whole))
    for op, requests in {"read": "28,110", "write": "5,897", "discard": "1,500"}.items():
        assert re.search(rf"{op}</td><td>{requests}</td>", page), op


def test_page_is_well_formed_and_stands_alone(page: str) -> None:
    root = ET.fromstring(page.partition("\n")[2])
    assert "http:" not in page and "https:" not in page and "@import" not in page
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for element in root.iter():
        assert element.get("src") is None
        href = element.get("href", "data:,")
        assert href.startswith("data:") or href[1:] in ids
        for url in re.findall(r"url\(([^)]*)\)", " ".join(element.attrib.values())):
            assert url[1:] in ids
    assert [e.get("id") for e in root.iter("script")] == ["figures", "data", None]
    assert len(page) < 500_000


def test_page_allows_its_own_script_alone(page: str) -> None:
    root = ET.fromstring(page.partition("\n")[2])
    (policy,) = [e.get("content") for e in root.iter("meta") if e.get("http-equiv")]
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None and policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not any(name.startswith("on") for e in root.iter() for name in e.attrib)


def test_page_has_all_parts(page: str) -> None:
    assert "<title>Before &lt;/script&gt; &amp; &lt;after&gt;</title>" in page
    for words in (
        *("Requests a second", "Bandwidth", "Devices and operations", "Slowest requests"),
        *("events lost, by the tracer's own marks", "requests that failed"),
        *("No events were lost", "3.010 s", "need scripts"),
    ):
        assert words in page or words.replace("'", "&#x27;") in page, words
    assert "var(--read)" in page and "@media print" in page


def rows_of(page: str, table: str) -> list[list[str]]:
    """The cells of a table as text, as they are without scripts."""
    root = ET.fromstring(page.partition("\n")[2])
    (found,) = [e for e in root.iter("table") if e.get("id") == table]
    rows = found.findall("tbody/tr")
    return [["".join(cell.itertext()) for cell in row.findall("td")] for row in rows]


def test_tables_without_scripts_have_the_worst_first(page: str, multi: Collected) -> None:
    rows = rows_of(page, "summary")
    assert [row[:2] for row in rows] == [
        *(["all", "all"], ["7:1", "all"], ["7:1", "read"], ["7:1", "write"]),
        *(["7:2", "all"], ["7:2", "write"], ["7:2", "flush"], ["7:3", "all"], ["7:3", "discard"]),
    ]
    # Of 92 requests, none is above p99.
    assert rows[6][9:11] == ["12.3 ms of 92", "12.3 ms of 92"]
    assert rows[5][9:11] == ["5.87 ms", "9.50 ms"]
    slow = rows_of(page, "slow")
    greatest = multi.whole.total.d2c_ns.max
    assert slow[0][1:4] == ["7:1", "read", time_text(greatest)]
    assert len(slow) == 20


def test_losses_are_stated(tmp_path: Path, capfd: Capture) -> None:
    path = tmp_path / "lossy"
    path.symlink_to(LOSSY)
    page = page_of(path, status=3)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "found the end of the input 20 bytes into a record" in said
    assert "into a record" in page and "No events were lost" not in page
    assert page.count("events were lost: as many of the requests in flight may") == 2
    assert figures_of(page)["whole"]["unseen"]["lost_events"] > 0


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_picture_is_written_without_a_page(short: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / f"x.{kind}"
    charts = ["--chart=percentiles", "--chart=heat", "--chart=sectors", "--chart=iops"]
    assert report.main([f"--output={output}", "--device", "7:3", *charts, str(short)]) == 0
    data = output.read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    assert [p.name for p in tmp_path.iterdir()] == [output.name]
    if kind == "svg":
        ET.fromstring(data)
        # The same trace, the same picture.
        assert report.main([f"--output={output}", "--device", "7:3", *charts, str(short)]) == 0
        assert output.read_bytes() == data


FLUSH = tw.WRITE | tw.FLUSH


@pytest.mark.parametrize(
    "records",
    [
        [tw.issue(5, 0, 4096), tw.complete(9, 0, 4096)],
        [tw.issue(5, 1 << 60, 2**32 - 1), tw.complete(5 * 10**11, 1 << 60, 2**32 - 1)],
        [tw.issue(2**64 - 9, 0, 4096), tw.complete(2**64 - 2, 0, 4096)],
        [tw.issue(5, 0, 0, FLUSH), tw.complete(700_000, 0, 0, FLUSH)],
    ],
    ids=["one", "huge", "late", "flush"],
)
def test_page_of_a_single_request_is_well_formed(tmp_path: Path, records: list[tw.Record]) -> None:
    assert is_well_formed(page_of(trace(tmp_path / "trace", records)))


def test_charts_are_chosen_by_name(short: Path, tmp_path: Path, capfd: Capture) -> None:
    made = charts(collect([str(short)]))
    assert [c.name for c in chosen(made, ["sizes", "heat"])] == ["sizes", "heat"]
    output = tmp_path / "x.svg"
    assert report.main(["--chart=head", "-o", str(output), str(short)]) == 2
    assert "--chart takes heat, devices, iops, " in capfd.readouterr().err
    assert report.main(["--chart=sizes", "-o", str(tmp_path / "x.html"), str(short)]) == 2
    assert "--chart selects charts of a picture" in capfd.readouterr().err


def test_missing_chart_is_explained(tmp_path: Path, capfd: Capture) -> None:
    path = trace(tmp_path / "trace", pairs(3))
    assert "chart devices needs several devices; use heat, iops, bandwidth, " in complaint(
        capfd, "--chart=devices", "-o", tmp_path / "x.svg", path, status=2
    )


def test_picture_says_what_it_shows(tmp_path: Path) -> None:
    output = tmp_path / "x.svg"
    options = ["--chart=iops", "--op=read", "-o", str(output), "--title=T"]
    assert report.main([*options, str(LOSSY)]) == 3  # it ends inside a record
    shown = "".join(ET.fromstring(output.read_text()).itertext())
    assert all(line in shown for line in ("T", "only read"))
    assert "Incomplete: " in shown and " of events were lost while tracing" in shown


@pytest.mark.parametrize("title", ["$x^$", "50 $ or $60", "\udcff\x1b\n", "\u65e5\u672c"])
@pytest.mark.parametrize("kind", ["html", "png", "svg", "pdf"])
def test_title_may_be_any_text(tmp_path: Path, kind: str, title: str, capfd: Capture) -> None:
    path, output = trace(tmp_path / "trace", pairs(3)), tmp_path / f"x.{kind}"
    chart = [] if kind == "html" else ["--chart=iops"]
    assert report.main(["-o", str(output), *chart, "--title", title, str(path)]) == 0
    assert capfd.readouterr() == ("", "")
    if kind in ("html", "svg"):
        text = output.read_bytes().decode("utf-8")
        assert "\x1b" not in text
        ET.fromstring(text.partition("\n")[2] if kind == "html" else text)


def test_file_name_like_a_formula_is_drawn(tmp_path: Path) -> None:
    path, output = trace(tmp_path / "$x^$", pairs(3)), tmp_path / "x.png"
    assert report.main(["-o", str(output), "--chart=iops", str(path)]) == 0


def test_processes_are_shown_by_their_names_as_in_json(tmp_path: Path) -> None:
    records = [tw.notify_process(1, 7, "fio"), *pairs(3, pid=7), *pairs(1, pid=8)]
    records.append(tw.issue(10**9 + 5 * 10**6, 80, 512, pid=8))
    path = trace(tmp_path / "trace", records)
    page = page_of(path)
    assert "<td>fio (7)</td>" in page
    assert figures_of(page)["whole"]["processes"] == to_dict(blkiomon.summarize(path))["processes"]


def test_file_name_that_is_not_utf8_is_shown(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/<\xff\x1b>"))
    page = page_of(trace(path, pairs(3)))
    assert "\x1b" not in page and "&lt;" in page
    assert is_well_formed(page)


def test_many_devices_and_operations_make_a_page_of_bounded_size(tmp_path: Path) -> None:
    kinds = [tw.READ, tw.WRITE, tw.WRITE | tw.DISCARD, tw.WRITE | tw.FLUSH]
    rng = np.random.default_rng(3)
    records = []
    for i in range(600):
        at, sector = 10**9 + i * 10**6, int(rng.integers(1 << 30)) * 8
        category, device = kinds[i % 4], 8 << 20 | i % 300
        records.append(tw.issue(at, sector, 4096, category, device))
        records.append(tw.complete(at + int(rng.lognormal(13, 2)), sector, 4096, category, device))
    records.sort(key=lambda record: record.time_ns)
    page = page_of(trace(tmp_path / "trace", records))
    assert len(page.encode()) < 1_000_000
    assert "260 devices are left out: they are faster" in page


# --- bounded memory -------------------------------------------------------------------------------


def many_devices(number: int) -> list[tw.Record]:
    """A request of 1 us on each device; more on the second one, and a slow one on the last."""
    sda = 8 << 20
    records = [tw.issue(10**9 - 5, 0, 4096, device=9 << 20)]  # never completes

    def add(at: int, d2c_ns: int, sector: int, size: int, device: int) -> None:
        records.append(tw.issue(at, sector, size, device=device))
        records.append(tw.complete(at + d2c_ns, sector, size, device=device))

    for i in range(number):
        at = 10**9 + i * 10**6
        add(at, 1000, 0, 4096, sda + i + 1)
        add(at + 2000, 7000, 8, 512, sda + 2)
    add(10**9 + number * 10**6, 10**8, 0, 4096, sda + number)
    return records


@pytest.mark.parametrize("most_bytes", [1 << 26, 200_000, 30_000])
@pytest.mark.parametrize("kind", ["trace", "json"])
def test_many_devices_have_rows_for_the_worst_and_exact_totals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, most_bytes: int
) -> None:
    monkeypatch.setattr(collecting, "RESOLUTION", RESOLUTION._replace(most_devices=4))
    monkeypatch.setattr(collecting, "MOST_BYTES", most_bytes)
    path = trace(tmp_path / "trace", many_devices(100))
    exact = blkiomon.summarize(path)
    if kind == "json":
        path = tmp_path / "stats.jsonl"
        assert runner.call("-I", "0.001", "--json", path, tmp_path / "trace").returncode == 0
    found = collect([str(path)])
    assert sum(selection.size_bytes(item.snapshot) for item in found.slices) <= most_bytes
    assert not any(item._groups for item in found.slices)  # they take far more
    assert sum(item.total.requests for item in found.slices) == exact.total.requests
    whole = found.whole
    assert whole.total.d2c_ns == exact.total.d2c_ns
    assert whole.total.size_bytes == exact.total.size_bytes
    assert whole.total.in_flight == exact.total.in_flight
    shown = {g.device for g in whole.groups() if g.device not in (None, selection.OTHERS)}
    assert len(shown) <= 4 and len(shown) + found.n_others == 101
    if most_bytes == 1 << 26:
        assert {8 << 20 | 2, 8 << 20 | 100, 9 << 20} <= shown
    for number in shown:  # of the whole run, not of a part
        assert whole.device(number) == exact.device(number)
        assert whole.ops(number) == exact.ops(number)
    d2c, total = distribution(cells_of(found.slices)), exact.total.d2c_ns
    assert (d2c.bins == total.bins).all() and (d2c.counts == total.counts).all()
    assert (d2c.min, d2c.max, d2c.sum) == (total.min, total.max, total.sum)


def test_page_and_comparison_say_that_there_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setattr(collecting, "RESOLUTION", RESOLUTION._replace(most_devices=4))
    path = trace(tmp_path / "trace", many_devices(100))
    page = page_of(path)
    assert "97 devices have no rows of their own and are shown together as others." in page
    assert "<td>others (97)</td>" in page and ">0:0<" not in page
    figures = figures_of(page)
    assert figures["others"] == 97
    assert [entry["device"] for entry in figures["whole"]["devices"]].count("others") == 1
    assert compare.main([str(path), str(path)]) == 0
    said = capfd.readouterr().out
    assert "A: 97 devices have no rows of their own" in said and "0:0" not in said
    assert compare.main(["--json", str(path), str(path)]) == 0
    assert json.loads(capfd.readouterr().out)["others"] == {"a": 97, "b": 97}


def test_runs_of_a_comparison_share_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "MOST_BYTES", 400_000)
    path = trace(tmp_path / "trace", many_devices(100))
    alone, shared = collect([str(path)]), collect([str(path)], n_runs=4)
    assert sum(selection.size_bytes(item.snapshot) for item in shared.slices) <= 100_000
    assert shared.n_others > alone.n_others
    assert shared.whole.total.d2c_ns == alone.whole.total.d2c_ns


def test_number_of_others_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(collecting, "RESOLUTION", RESOLUTION._replace(most_devices=4))
    monkeypatch.setattr(slices, "MOST_OTHERS", 20)
    path = trace(tmp_path / "trace", many_devices(100))
    found = collect([str(path)])
    assert "more than " in found.notes[0]
    assert found.whole.total.d2c_ns == blkiomon.summarize(path).total.d2c_ns
    assert len(found.devices) <= 4


def test_processes_that_moved_most_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(selection, "MOST_PROCESSES", 3)
    records = [tw.notify_process(1, pid, f"p{pid}") for pid in range(1, 10)]
    for pid in range(1, 10):
        at = 10**9 + pid * 1000
        records += [tw.issue(at, 0, 512 * pid, pid=pid), tw.complete(at + 5, 0, 512 * pid)]
    found = collect([str(trace(tmp_path / "trace", records))])
    assert set(found.whole.process_names.values()) == {"p7", "p8", "p9"}


def test_devices_and_operations_beyond_a_limit_are_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access, "MOST_KEYS", 1)
    accesses = Accesses(4, 10)
    for op in range(4):
        accesses.add(requests([0, 8, 16], op=op, at=op), 0)
        accesses._examine(0)
    assert set(accesses.finish({}).shares) == {(0, 0), (0, 1)}


def test_a_line_that_is_too_long_is_refused(
    stats: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setattr(json_input, "MOST_LINE_BYTES", 1 << 20)
    path = tmp_path / "bomb.jsonl.gz"
    first = stats["json"].read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(gzip.compress(first + b'{"schema": 1, "x": "' + b"x" * (5 << 20)))
    said = complaint(capfd, "-o", tmp_path / "page.html", path)
    assert f"{path}: line 2 is longer than 1 MiB" in said


@pytest.mark.parametrize("last_ns", [2**64 - 1, 2**64 - 2, 2**63])
def test_times_may_reach_the_end_of_64_bits(tmp_path: Path, last_ns: int) -> None:
    records = [*pairs(3), tw.issue(last_ns - 1, 0, 512), tw.complete(last_ns, 0, 512)]
    found = collect([str(trace(tmp_path / "trace", [*records, tw.issue(last_ns, 8, 512)]))])
    assert found.whole.total.requests == 4
    assert len(found.slices) <= MOST_SLICES


def test_counts_of_b_beyond_range_are_refused(
    tmp_path: Path, stats: dict[str, Path], capfd: Capture
) -> None:
    records = np.frombuffer(stats["b"].read_bytes(), layout.STATS_03).copy()
    records["d2c_r"]["sum_squares"] = 0  # as if it had exceeded 64 bits
    path, output = tmp_path / "stats.bin", tmp_path / "page.html"
    path.write_bytes(records.tobytes())
    assert page_of(path)
    some = records["size_r"]["count"] > 0  # more than the 32 bits of a histogram
    for name in ("size_r", "d2c_r"):
        records[name]["count"][some] += 1 << 50
    path.write_bytes(records.tobytes())
    assert "a number of requests is out of range" in complaint(capfd, "-o", output, path)


# --- what goes wrong ------------------------------------------------------------------------------


def complaint(capfd: Capture, *arguments: str | Path, status: int = 3) -> str:
    assert report.main([str(a) for a in arguments]) == status
    said = capfd.readouterr().err
    assert said.startswith("blkiomon: ") and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("empty", b"", "the trace is empty"),
        ("garbage", b"what is this?" * 100, "bad trace: "),
        ("unmatched", tw.encode([tw.issue(1, 0, 4096)]), "no request in 1 record"),
        ("nothing.jsonl", b'{"schema": 7}\n', "line 1: not an interval of schema 1"),
        ("broken.jsonl", b'{"schema": \n', "line 1: not JSON: Expecting value at column"),
        ("nan.jsonl", b'{"schema": 1, "start_ns": NaN}\n', "line 1: not JSON: NaN is not a number"),
        ("digits.jsonl", b'{"schema": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        ("deep.jsonl", b'{"a":' * 90_000, "line 1: not JSON: it is nested too deeply"),
        ("latin.jsonl", b'{"schema": "\xff"}\n', "line 1: not JSON: 'utf-8' codec can't decode"),
        ("part.jsonl", b'{"schema": 1, "dev', "line 1 is cut short and left out"),
        ("whole.jsonl", b'{"schema": 1}', "line 1: devices is missing"),
        ("zeros", b"\0" * 500, "bad trace: "),
    ],
)
def test_input_without_usable_requests_is_refused(
    tmp_path: Path, capfd: Capture, name: str, data: bytes, message: str
) -> None:
    path, output = tmp_path / name, tmp_path / "page.html"
    path.write_bytes(data)
    said = complaint(capfd, "-o", output, path)
    assert message in said and str(path) in said
    assert not output.exists()


def test_invalid_line_is_reported_by_file_line_and_field(
    stats: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    """By report and by compare alike."""
    lines = [json.loads(line) for line in stats["json"].read_bytes().splitlines()]
    output, path = tmp_path / "page.html", tmp_path / "wrong.jsonl"
    for name, value, message in (
        ("start_ns", None, "start_ns: None is not a whole number"),
        ("end_ns", -(1 << 63), "end_ns -9223372036854775808 is before start_ns"),
        ("clock", {}, 'clock: {} is not "wall" or "trace"'),
        ("clock", "wall", "its clock is wall without the time of day, and before trace without"),
        ("processes", {"by_bytes": [7]}, "processes.by_bytes[0]: 7 is not an object"),
        ("records", 1 << 500, "the count records is 327"),
    ):
        written = [*lines[:2], lines[2] | {name: value}, *lines[3:]]
        path.write_text("".join(json.dumps(line) + "\n" for line in written))
        assert f"{path}: line 3: {message}" in complaint(capfd, "-o", output, path)
        assert compare.main([str(stats["json"]), str(path)]) == 3
        said = capfd.readouterr().err
        assert f"{path}: line 3: {message}" in said and said.count("\n") == 1
    assert not output.exists()


def test_too_many_requests_are_refused(
    stats: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setattr(json_input, "MOST_REQUESTS", 100)
    said = complaint(capfd, "-o", tmp_path / "page.html", stats["json"])
    assert "line 1: there are more than 100 requests in all" in said


def test_message_about_long_requests_names_max_age(tmp_path: Path, capfd: Capture) -> None:
    late = [tw.issue(10**9, 0, 4096), tw.complete(10**9 + 601 * 10**9, 0, 4096)]
    path, output = trace(tmp_path / "trace", late), tmp_path / "page.html"
    said = complaint(capfd, "-o", output, path)
    assert "has no partner within 600 s; --max-age allows more time" in said
    assert report.main(["-o", str(output), "--max-age", "700", str(path)]) == 0
    assert figures_of(output.read_text())["whole"]["total"]["requests"] == 1
    assert compare.main(["--max-age=700", str(path), str(path)]) == 0
    capfd.readouterr()
    for command in (report, compare):
        assert command.main(["-o", str(output), "--max-age=inf", str(path), str(path)]) == 2
        assert "--max-age takes a number of seconds" in capfd.readouterr().err


def test_device_without_requests_is_refused(short: Path, tmp_path: Path, capfd: Capture) -> None:
    said = complaint(capfd, "-o", tmp_path / "x.html", "--device", "8:16", short)
    assert "no request of 8:16; there are some of 7:1, 7:2, 7:3" in said
    assert report.main(["-o", "x.html", "--device=no-such", str(short)]) == 2
    assert "no block device" in capfd.readouterr().err


def test_bad_inputs_are_reported(stats: dict[str, Path], tmp_path: Path, capfd: Capture) -> None:
    assert "no such file" in complaint(capfd, "-o", tmp_path / "x.html", tmp_path / "missing")
    assert "different kinds" in complaint(capfd, "-o", tmp_path / "x.html", MULTI, stats["json"])


def test_unwritable_outputs_are_reported(tmp_path: Path, capfd: Capture) -> None:
    output = tmp_path / "missing" / "x.html"
    assert f"cannot write {output}" in complaint(capfd, "-o", output, PHASES, status=4)
    (tmp_path / "x.png").mkdir()
    assert "cannot write" in complaint(capfd, "-o", tmp_path / "x.png", PHASES, status=4)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_failed_write_keeps_the_old_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("before")

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ReportError, match=r"cannot write .*: No space left on device"):
        write_output(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the trace is missing"),
        (["--from=2", "--to=1", "trace"], "--to must be later than --from"),
        (["-o", "x.html"], "the trace is missing"),
        (["-o", "x.doc", "trace"], "ends in .html, .png, .svg or .pdf"),
        (["--frobnicate"], "option --frobnicate not recognized"),
    ],
)
def test_misuse_shows_the_usage(capfd: Capture, arguments: list[str], message: str) -> None:
    assert report.main(arguments) == 2
    said = capfd.readouterr().err
    assert message in said and "Usage: blkiomon report" in said


def test_only_pictures_need_matplotlib(tmp_path: Path, capfd: Capture, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = complaint(capfd, "-o", tmp_path / "x.png", PHASES, status=4)
    assert "pip install 'blkiomon[report]'" in said
    assert report.main(["-o", str(tmp_path / "x.html"), str(PHASES)]) == 0
    output = tmp_path / "changes.html"
    assert compare.main(["-o", str(output), str(PHASES), str(PHASES)]) == 0 and output.is_file()


def test_pictures_leave_the_environment_alone(
    short: Path, tmp_path: Path, capfd: Capture, monkeypatch: Any
) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)
    assert report.main(["--chart=iops", "-o", str(tmp_path / "x.svg"), str(short)]) == 0
    assert "MPLBACKEND" not in os.environ
    environment = {**os.environ, "MPLBACKEND": "none such"}
    done = runner.run("report", "-o", tmp_path / "y.svg", short, env=environment)
    assert done.returncode == 4 and b"none such" in done.stderr
    assert done.stderr.startswith(b"blkiomon: matplotlib cannot start: ")


def test_command_needs_neither_display_nor_home(short: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = NEEDED | {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "MPLCONFIGDIR": str(tmp_path / "file" / "no"),
        "MPLBACKEND": "TkAgg",
    }
    for name, end in (("page.html", b"</html>"), ("x.svg", b"</svg>")):
        done = runner.run("report", "-o", tmp_path / name, short, env=environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert end in (tmp_path / name).read_bytes()


def test_run_report_and_library_do_not_load_matplotlib() -> None:
    code = "import sys, blkiomon.commands.run, blkiomon.commands.report; blkiomon.Interval; "
    code += "sys.exit('matplotlib' in sys.modules)"
    assert runner.python(code).returncode == 0


def test_picture_has_the_order_of_the_page_and_its_findings(tmp_path: Path) -> None:
    output = tmp_path / "x.svg"
    assert report.main(["-o", str(output), str(DATA / "san/traces/iscsi-slow-path")]) == 0
    found = "".join(re.findall(">([^<]*)</text>", output.read_text()))
    titles = ["Latency of every request", "Devices, worst first", "Requests a second"]
    places = [found.index(title) for title in (*titles, "Bandwidth", "In flight")]
    assert places == sorted(places)
    assert "1. mpatha stalled at 07:43:40 UTC" in found
    shades = re.findall(r"fill: #b30047; opacity: 0\.09", output.read_text())
    n_over_time = found.count("time since the start")
    assert len(shades) == 2 * n_over_time > 10


def test_charts_have_names_of_their_own(short: Path) -> None:
    made = charts(collect([str(short)]))
    assert len({chart.name for chart in made}) == len(made)
    assert all(chart.title for chart in made)


# --- the name of the page -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("run1", "run1.html"),
        ("results/sda.blktrace.0", "sda.html"),
        ("sda.blktrace.12.zst", "sda.html"),
        ("loop-multi-dc.bin", "loop-multi-dc.html"),
        ("stats.jsonl.gz", "stats.html"),
        ("v1.2", "v1.2.html"),
        ("-", "report.html"),
        ("..", "report.html"),
    ],
)
def test_page_has_the_name_of_its_trace(name: str, page: str) -> None:
    assert report.page_name(name) == page


def test_page_of_a_part_has_a_name_of_its_own(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.main([str(short)]) == 0
    whole = (tmp_path / "trace.html").read_bytes()
    for options, name in (
        (["--op=discard"], "discard"),
        (["--device=7:3", "--from=0.01"], "7.3-from-0.01-s-on"),
        ([f"--device=7:{n}" for n in range(40)], None),
    ):
        assert report.main([*options, str(short)]) == 0
        assert name is None or (tmp_path / f"trace-{name}.html").exists()
    assert (tmp_path / "trace.html").read_bytes() == whole
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 4 and max(map(len, names)) < 120


def test_page_without_a_name_is_written_here_and_named(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.main([str(short)]) == 0
    (path,) = tmp_path.iterdir()
    out, err = capfd.readouterr()
    size = path.stat().st_size / 1000
    assert (path.name, out) == ("trace.html", "")
    assert err == f"blkiomon: wrote trace.html, {size:.{1 if size < 100 else 0}f} kB\n"


def test_page_lists_a_stall(tmp_path: Path) -> None:
    slow = [tw.issue(3 * 10**9, 8, 4096), tw.complete(5 * 10**9, 8, 4096)]
    path = trace(tmp_path / "trace", [*pairs(500), *slow])
    assert "<li>8:0 stalled " in page_of(path)


def test_report_may_be_of_a_period(short: Path) -> None:
    whole = figures_of(page_of(short))["whole"]
    part = figures_of(page_of(short, "--from=0.05", "--to=0.1"))["whole"]
    assert part["duration_s"] == pytest.approx(0.05)
    assert 0 < part["total"]["requests"] < whole["total"]["requests"]
