"""``--op`` and ``--by`` of report and compare: what counts, is left out, and is paired."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import runner
import tracewriter as tw
from test_san import SLOW_PATH
from test_views import lun_of, number, path

import blkiomon
from blkiomon.commands import report, summary
from blkiomon.commands.report import collect as collecting
from blkiomon.commands.report import compare
from blkiomon.commands.report.collect import collect
from blkiomon.commands.report.figures import charts
from blkiomon.commands.topology import load
from blkiomon.commands.views import view_of
from blkiomon.formats.json_codec import to_dict
from blkiomon.formats.topology import encode
from blkiomon.interval.views import BY
from blkiomon.sources.topology import Array, Device, Topology
from blkiomon.sources.trace_sets import topology_beside

Capture = pytest.CaptureFixture[str]

MS, S = 10**6, 10**9
MULTI = Path(__file__).parent / "data/loop-multi-dc.bin"


def element(page: str, name: str) -> Any:
    found = re.search(f'id="{name}">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def page_of(directory: Path, *arguments: runner.Argument) -> str:
    output = directory / "page.html"
    assert report.main(["-o", str(output), *map(str, arguments)]) == 0
    return output.read_text()


def host(*, rebooted: bool = False) -> Topology:
    """A LUN with two paths; after a reboot, its devices have each other's names and numbers."""
    ports = (2, 1) if rebooted else (1, 2)
    dm = ("dm-7", "253:7") if rebooted else ("dm-0", "253:0")
    disks = ("sda", "8:0"), ("sdb", "8:16")
    paths = [
        path(*disk, dm[0], port, "one", "3600a") for disk, port in zip(disks, ports, strict=True)
    ]
    lun = replace(lun_of(*dm, "mpatha", ("sda", "sdb"), "one"), wwid="3600a")
    return Topology("host", "6.12", (Array("one", None, None, None, ()),), (*paths, lun))


def write_run(name: Path, topology: Topology, d2c_ms: Sequence[tuple[str, float]]) -> Path:
    """A trace with its topology beside it: 100 reads of each device, of these latencies."""
    records = []
    for place, (device, ms) in enumerate(d2c_ms):
        for k in range(100):
            at_ns = S + k * MS + place
            what = 8 * k, 4096, tw.READ | tw.FS, number(device)
            late_ns = round(ms * MS) + k % 7 * MS // 10
            records += [tw.issue(at_ns, *what), tw.complete(at_ns + late_ns, *what)]
    name.write_bytes(tw.encode(sorted(records, key=lambda record: record.time_ns)))
    Path(topology_beside(str(name))).write_bytes(encode(topology))
    return name


@pytest.fixture
def two_runs(tmp_path: Path) -> tuple[Path, Path]:
    """Before and after a reboot; the path through port 2 became slow."""
    before = [("8:0", 1.0), ("8:16", 2.0), ("253:0", 2.5)]
    after = [("8:16", 1.0), ("8:0", 5.0), ("253:7", 5.5)]
    return (
        write_run(tmp_path / "a", host(), before),
        write_run(tmp_path / "b", host(rebooted=True), after),
    )


# --- report ---------------------------------------------------------------------------------------


def test_page_of_some_operations_has_their_figures_and_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, "--op", "read", "--device", "7:1", "--from", "1", "--to", "2", MULTI)
    scope = "only 7:1, read, from 1 s on, before 2 s"
    assert f'<p id="scope"><b>{scope}</b></p>' in page
    figures = element(page, "figures")
    assert figures["scope"] == scope
    whole = blkiomon.summarize(MULTI, devices="7:1", ops="read", from_ns=S, to_ns=2 * S)
    assert figures["whole"] == to_dict(whole, histograms=False)
    data = element(page, "data")
    assert {op for _, op, *_ in data["sequential"]} == {0}
    assert sum(requests for _, _, requests, _ in data["sequential"]) == whole.total.requests
    assert {op for _, _, op, *_ in data["slow"]} == {0}


def test_page_of_everything_names_no_scope(tmp_path: Path) -> None:
    page = page_of(tmp_path, MULTI)
    assert 'id="scope"' not in page and "scope" not in element(page, "figures")


def test_operation_that_did_not_occur_is_one_line(tmp_path: Path, capfd: Capture) -> None:
    arguments = ["-o", tmp_path / "page.html", "--op", "discard", "--device", "7:1", MULTI]
    assert report.main([*map(str, arguments)]) == 3
    assert capfd.readouterr().err == (
        f"blkiomon: {MULTI}: no request of operation discard; there are some of read, write\n"
    )


def test_histograms_of_b_are_left_out_for_some_operations(tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    runner.succeed("-I1", "-b", stats, MULTI)
    assert "Latency up to" in page_of(tmp_path, stats)
    page = page_of(tmp_path, "--overwrite", "--op", "write", stats)
    assert "Latency up to" not in page
    rows = blkiomon.summarize(MULTI).rows
    writes = int(rows["requests"][rows["direction"] == 1].sum())
    assert element(page, "figures")["whole"]["total"]["requests"] == writes


@pytest.mark.parametrize("source", ["trace", "json"])
@pytest.mark.parametrize("by", ["lun", "path", "port", "hba", "array"])
def test_page_of_a_view_has_its_figures_and_names(by: str, source: str, tmp_path: Path) -> None:
    trace, more = SLOW_PATH, ["--topology", f"{SLOW_PATH}.topology.json"]
    if source == "json":
        trace = tmp_path / "run.jsonl"
        runner.succeed("-I1", "--json", trace, SLOW_PATH)
    page = page_of(tmp_path, "--by", by, *more, trace)
    view = view_of(load(more[1]), by)
    assert view is not None
    expected = to_dict(view(blkiomon.summarize(SLOW_PATH)), histograms=False)
    whole = element(page, "figures")["whole"]
    assert whole["total"]["requests"] == expected["total"]["requests"]
    assert whole["total"]["d2c_ns"] == expected["total"]["d2c_ns"]
    for found, of_view in zip(whole["devices"], expected["devices"], strict=True):
        assert found["name"] == view.name_of(number(of_view["device"]))
        assert (found["device"], found["d2c_ns"]) == (of_view["device"], of_view["d2c_ns"])
    names = {device["name"] for device in whole["devices"]}
    assert names == set(element(page, "data")["devices"])
    assert f"<b>by {by}</b>" in page
    assert "left out" in page.lower()


def test_pattern_of_sectors_is_shown_for_luns_and_paths_alone() -> None:
    topology = load(f"{SLOW_PATH}.topology.json")
    # All requests of the map, and of its two paths.
    for by, n_sampled in (("lun", 11_148), ("path", 11_180), ("port", 0), ("array", 0)):
        patterns = collect([str(SLOW_PATH)], view=view_of(topology, by)).patterns
        assert patterns is not None
        assert len(patterns.sample) == n_sampled
        assert sum(of for of, _ in patterns.shares.values()) == n_sampled
        assert len(patterns.slowest) == 200


@pytest.mark.parametrize("by", BY)
def test_page_of_a_view_has_the_findings_of_the_summary(by: str, tmp_path: Path) -> None:
    summary = " ".join(runner.succeed("--by", by, SLOW_PATH).decode().split())
    page = page_of(tmp_path, "--by", by, SLOW_PATH)
    found = re.findall("<li>([^<]*)", page)
    assert summary.endswith(" ".join(f"- {one}" for one in found))
    assert "its path sdb for 2.82 s" in found[0]
    assert found[1].startswith("sdb, a path of mpatha to 10.10.2.1:3260,1, is slow")
    assert [begin for _, begin, _ in element(page, "data")["shaded"]] == pytest.approx(
        [18.8, 1.4], abs=0.2
    )


@pytest.mark.parametrize("by", BY)
def test_page_of_a_view_has_the_processes_of_all_devices(by: str, tmp_path: Path) -> None:
    records = [tw.notify_process(S, 403, "fio")]
    for number_of in (number("8:0"), number("253:0")):
        what = 8, 4096, tw.READ, number_of
        records.append(tw.issue(S + 1, *what, pid=403))
        records.append(tw.complete(S + MS, *what))
    trace = tmp_path / "run"
    trace.write_bytes(tw.encode(sorted(records, key=lambda record: record.time_ns)))
    Path(topology_beside(str(trace))).write_bytes(encode(host()))
    page = page_of(tmp_path, "--by", by, trace)
    assert element(page, "data")["processes"] == ["fio (403)"]
    assert '<tr class=""><td>fio (403)</td><td>2</td>' in page
    assert "on all devices; a request on a map and its path may count twice" in page
    assert {process for *_, process in element(page, "data")["slow"]} == {"fio"}


def test_view_without_a_topology_is_one_line(tmp_path: Path, capfd: Capture) -> None:
    assert report.main(["-o", str(tmp_path / "page.html"), "--by", "lun", str(MULTI)]) == 3
    assert "--by lun needs the traced host's topology" in capfd.readouterr().err


def test_picture_counts_a_request_on_a_map_and_its_path_once() -> None:
    topology = load(f"{SLOW_PATH}.topology.json")
    found = collect([str(SLOW_PATH)]).of_host(topology)
    (draw,) = (chart.draw for chart in charts(found) if chart.name == "iops")
    assert isinstance(draw, partial)
    (reads,) = draw.args[0]
    assert reads.name == "read"
    assert reads.cells.columns["requests"].sum() == found.whole.total.requests == 11_148


def test_others_may_count_twice_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "RESOLUTION", collecting.RESOLUTION._replace(most_devices=2))
    found = collect([str(SLOW_PATH)]).of_host(load(f"{SLOW_PATH}.topology.json"))
    assert found.notes[0] == "Among the others, a request on a map and its path may count twice."


@pytest.mark.parametrize("by", ["device", "path"])
def test_summary_names_others_and_does_not_say_that_they_count_once(
    by: str, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setattr(collecting, "RESOLUTION", collecting.RESOLUTION._replace(most_devices=2))
    assert summary.main(["--by", by, str(SLOW_PATH)]) == 0
    said = capfd.readouterr()
    assert "may count twice" in said.err
    assert "\nothers " in said.out and "0:0" not in said.out and "counts once" not in said.out


def test_file_of_statistics_takes_a_topology(tmp_path: Path) -> None:
    stats, topology = tmp_path / "stats", f"{SLOW_PATH}.topology.json"
    runner.succeed("-I1", "-b", stats, SLOW_PATH)
    for by in BY:
        page = page_of(tmp_path, "--overwrite", "--by", by, "--topology", topology, stats)
        assert "hold no percentiles" in page


# --- compare --------------------------------------------------------------------------------------


def test_side_without_a_topology_counts_twice_and_says_so(tmp_path: Path, capfd: Capture) -> None:
    alone = tmp_path / "alone.blktrace.0.xz"
    alone.write_bytes(Path(f"{SLOW_PATH}.blktrace.0.xz").read_bytes())
    for sides, letter in (((SLOW_PATH, alone), "B"), ((alone, SLOW_PATH), "A")):
        assert compare.main([*map(str, sides)]) == 0
        assert f"\n{letter}: its topology is not known: the rows of all" in capfd.readouterr().out
    assert compare.main([str(alone), str(alone)]) == 0
    assert "is not known" not in capfd.readouterr().out


@pytest.mark.parametrize("by", ["device", "lun"])
def test_rule_about_all_devices_counts_a_request_on_a_map_and_its_path_once(
    by: str, tmp_path: Path, capfd: Capture
) -> None:
    output = tmp_path / "changes.html"
    arguments = ["-o", str(output), "--by", by, "--fail-if", "read.iops < 400"]
    assert compare.main([*arguments, str(SLOW_PATH), str(SLOW_PATH)]) == 1
    assert capfd.readouterr().err == "blkiomon: read.iops < 400: 301\n"
    rows = {(r["device"], r["op"]): r for r in element(output.read_text(), "figures")["rows"]}
    if by == "device":
        assert rows["all", "read"] | {"device": "mpatha"} == rows["mpatha", "read"]
        assert rows["sdb", "all"]["errors"] == [2, 2]


def rows_of(capfd: Capture, *arguments: runner.Argument) -> dict[str, tuple[float, float]]:
    """The p50 of each row that both sides have, in ms."""
    assert compare.main(["--json", *map(str, arguments)]) == 0
    line = json.loads(capfd.readouterr().out)
    return {
        row["device"]: (round(p50["a"] / MS, 1), round(p50["b"] / MS, 1))
        for row in line["rows"]
        if (p50 := row["changes"]["p50"]) and row["verdict"] not in ("only in A", "only in B")
    }


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("lun", {"mpatha": (2.8, 5.8)}),
        (
            "path",
            {
                "mpatha, wwpn1 to port1": (1.3, 1.3),
                "mpatha, wwpn2 to port2": (2.3, 5.3),
            },
        ),
        ("port", {"port1": (1.3, 1.3), "port2": (2.3, 5.3)}),
        ("hba", {"wwpn1": (1.3, 1.3), "wwpn2": (2.3, 5.3)}),
    ],
)
def test_groups_are_paired_by_names_that_a_reboot_does_not_change(
    by: str,
    expected: dict[str, tuple[float, float]],
    two_runs: tuple[Path, Path],
    capfd: Capture,
) -> None:
    found = rows_of(capfd, "--by", by, *two_runs)
    found.pop("all", None)
    assert found == expected


def test_devices_are_paired_by_number(two_runs: tuple[Path, Path], capfd: Capture) -> None:
    found = rows_of(capfd, *two_runs)
    assert (found["sda"], found["sdb"]) == ((1.3, 5.3), (2.3, 1.3))
    assert "dm-0" not in found


@pytest.mark.parametrize("device", ["sda", "8:0"])
def test_rule_names_a_device_as_the_topology_or_by_number(
    device: str, two_runs: tuple[Path, Path], capfd: Capture
) -> None:
    rule = f"{device}/read.p50 > 3ms"
    assert compare.main(["--fail-if", rule, *map(str, two_runs)]) == 1
    assert f"{rule}: 5.28 ms" in capfd.readouterr().err


def test_number_whose_name_changed_is_shown_as_a_number(tmp_path: Path, capfd: Capture) -> None:
    latencies = [("8:0", 1.0), ("8:16", 1.0)]
    sda, sdb, _ = (replace(device, map=None) for device in host().devices)
    hosts = (
        Topology("host", "6.12", host().arrays, (one, sdb))
        for one in (sda, replace(sda, name="sdq"))
    )
    runs = [write_run(tmp_path / name, of, latencies) for name, of in zip("ab", hosts)]
    assert {"8:0", "sdb"} <= rows_of(capfd, *runs).keys()


def test_comparison_of_a_view_says_so(two_runs: tuple[Path, Path], capfd: Capture) -> None:
    assert compare.main(["--by", "path", "--op", "read", *map(str, two_runs)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "only read; by path" in lines
    assert "A: Multipath maps are left out: --by lun shows them." in lines


def test_rule_may_be_about_a_path(two_runs: tuple[Path, Path], capfd: Capture) -> None:
    rule = "mpatha, wwpn2 to port2/read.p50 > 3ms"
    assert compare.main(["--by", "path", "--fail-if", rule, *map(str, two_runs)]) == 1
    assert f"{rule}: 5.28 ms" in capfd.readouterr().err


def test_runs_without_a_common_lun_name_those_they_have(tmp_path: Path, capfd: Capture) -> None:
    first = write_run(tmp_path / "a", host(), [("8:0", 1.0), ("8:16", 1.0)])
    others = [
        replace(device, wwid="3600b", alias="mpathb" if device.alias else None)
        for device in host().devices
    ]
    other = replace(host(), devices=(*others, Device("sdc", "disk", number("8:32"))))
    second = write_run(tmp_path / "b", other, [("8:0", 1.0), ("8:32", 1.0)])
    assert compare.main(["--by", "lun", str(first), str(second)]) == 3
    assert capfd.readouterr().err == (
        "blkiomon: the sides have no lun in common: A has mpatha, B has sdc, mpathb\n"
    )
