"""Findings on a SAN: on a recorded trace of a slow path and a failover, and on made-up hosts."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runner
from intervals import Io, interval_of
from test_views import ARRAYS, HOST, S, number

from blkiomon.commands import run, views
from blkiomon.commands.config import Config
from blkiomon.commands.options import UsageError
from blkiomon.commands.report.findings import findings
from blkiomon.commands.san.changes import changes
from blkiomon.commands.san.checks import of_run
from blkiomon.commands.san.tracker import Tracker
from blkiomon.commands.views import device_numbers
from blkiomon.console import EXIT_INPUT, EXIT_USAGE
from blkiomon.interval.departures import departure, percentile_limits, share_limits
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.value import Interval, merge
from blkiomon.interval.views import View
from blkiomon.outputs import destinations
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.sources import capture
from blkiomon.sources.topology import Topology, Transport

MS = 10**6

SLOW_PATH = Path(__file__).parent / "data/san/traces/iscsi-slow-path"
"""A trace with its topology beside it; ``data/san/README.md`` says what happens when."""


SLOW = (
    "sdb, a path of mpatha to 10.10.2.1:3260,1, is slow from 07:43:22 to 07:43:33 UTC: p99 of reads"
)


pytestmark = pytest.mark.usefixtures("usual_terminal")


# --- the recorded trace ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    """The intervals of a second as JSON."""
    output = runner.succeed("-I", "1", "--by", "path", "--json", "-", SLOW_PATH)
    return [json.loads(line) for line in output.splitlines()]


def kinds(line: dict[str, Any]) -> dict[str, str]:
    """The kind of each finding of an interval, by name."""
    return {finding["name"]: finding["kind"] for finding in line["findings"]}


def test_drop_in_takes_a_topology() -> None:
    topology = SLOW_PATH.with_name("iscsi-slow-path.topology.json")
    trace = SLOW_PATH.with_name("iscsi-slow-path.blktrace.0.xz")
    named = runner.run("-I", "1000", "-h", "-", "--topology", topology, trace)  # not runner.call:
    assert (named.returncode, named.stderr) == (0, b"")  # here numpy is loaded already
    assert named.stdout == runner.succeed("-I", "1000", "-h", "-", trace)


def test_outputs_have_the_names_that_were_saved_beside_the_trace() -> None:
    output = runner.succeed("-I", "60", "--json", "-", "--slow", "100:-", SLOW_PATH)
    slow, *_, last = output.splitlines()
    assert b" 8:16 (sdb) " in slow
    line = json.loads(last)
    assert [of["name"] for of in line["devices"]] == ["sda", "sdb", "mpatha"]
    assert kinds(line) == {"sdb": "slow_path"}
    bare = runner.succeed("-I", "60", "--json", "-", "--names", "no", SLOW_PATH)
    assert {of["name"] for of in json.loads(bare)["devices"]} == {None}


def test_slow_path_is_named_within_two_intervals_and_while_it_lasts(
    recorded: list[dict[str, Any]],
) -> None:
    assert all(kinds(line) == {} for line in recorded[:1])
    assert [kinds(line) for line in recorded[2:12]] == [{"sdb": "slow_path"}] * 10
    assert all(kinds(line) == {} for line in recorded[14:19])


def test_slow_path_has_its_evidence(recorded: list[dict[str, Any]]) -> None:
    (finding,) = recorded[5]["findings"]
    assert finding["text"] == (
        "sdb, a path of mpatha to 10.10.2.1:3260,1, is slow since 07:43:22 UTC: "
        "p50 of reads 41.2 ms, 537 µs on sda; "
        "48.0 IOPS, 250 there"
    )
    assert finding["since_ns"] == recorded[1]["start_ns"]
    assert (finding["lun"], finding["target_port"]) == ("mpatha", "10.10.2.1:3260,1")
    assert (finding["op"], finding["percent"]) == ("read", 50)
    assert 40 * MS < finding["d2c_ns"] < 45 * MS
    assert finding["siblings_d2c_ns"] < MS
    assert (finding["iops"], finding["siblings_iops"]) == (48.0, 250.0)


def test_stall_is_shown_while_it_lasts(recorded: list[dict[str, Any]]) -> None:
    stalled = [line for line in recorded if kinds(line).get("mpatha") == "stalled"]
    ages_s = [line["findings"][0]["oldest_ns"] / S for line in stalled]
    assert [round(age_s) for age_s in ages_s] == [1, 2, 3, 4, 5, 6, 7]
    assert all(line["findings"][0]["paths"] == ["sdb"] for line in stalled)
    assert "path sdb to 10.10.2.1:3260,1 has" in stalled[0]["findings"][0]["text"]
    assert stalled[-1]["findings"][0]["text"].endswith("last seen on path sdb to 10.10.2.1:3260,1")


def test_path_without_requests_is_named_until_they_come_back(
    recorded: list[dict[str, Any]],
) -> None:
    found = [kinds(line).get("sdb") for line in recorded[27:]]
    assert found == ["few_requests", *["idle_path"] * 6, None, None, None]


def test_totals_by_device_count_a_request_on_a_map_and_its_path_once() -> None:
    lines = runner.succeed("-I", "10", "--json", "-", SLOW_PATH).splitlines()
    for line in map(json.loads, lines):
        requests = {d["device"]: d["requests"] for d in line["devices"]}
        assert line["not_in_total"] == ["8:0", "8:16"]
        assert line["total"]["requests"] == requests["254:0"] > 0
    unnamed = runner.succeed("-I", "10", "--names", "no", "--json", "-", SLOW_PATH).splitlines()
    assert [json.loads(line)["total"] for line in unnamed] == [
        json.loads(line)["total"] for line in lines
    ]
    table = csv.DictReader(
        runner.succeed("-I", "10", "--csv", "-", SLOW_PATH).decode().splitlines()
    )
    assert [int(row["requests"]) for row in table if row["device"] == "all"] == [
        json.loads(line)["total"]["requests"] for line in lines
    ]


def test_view_by_path_counts_the_requests_of_fio_once(recorded: list[dict[str, Any]]) -> None:
    device = runner.succeed("-I", "1", "--json", "-", SLOW_PATH).splitlines()
    for line, by_device in zip(recorded, map(json.loads, device), strict=True):
        own = {d["name"]: d["requests"] for d in line["devices"]}
        assert line["total"]["requests"] == sum(own.values())
        assert set(own) <= {"sda", "sdb"}
        paths = [d for d in by_device["devices"] if d["device"] in ("8:0", "8:16")]
        assert line["total"]["requests"] == sum(d["requests"] for d in paths)


def test_summary_names_the_slow_path_and_nests_paths_below_their_map() -> None:
    text = runner.succeed("--by", "path", SLOW_PATH).decode()
    names = re.findall(r"^(mpatha|  sdb|  sda) ", text, re.M)
    assert names == ["mpatha", "  sdb", "  sda"]
    assert SLOW in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_summary_uses_the_topology_beside_the_trace_without_a_view() -> None:
    text = runner.succeed(SLOW_PATH).decode()
    assert re.findall(r"^(\S+) +(?:all|read) ", text, re.M) == ["sdb", "mpatha", "sda"]
    words = " ".join(text.split())
    assert "- mpatha stalled at " in words
    assert SLOW in words
    numbered = runner.succeed("--names", "no", SLOW_PATH).decode()
    assert re.findall(r"^(\S+) +(?:all|read) ", numbered, re.M) == ["8:16", "254:0", "8:0"]


def test_maximum_in_flight_of_several_devices_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "a").write_bytes(runner.succeed("-I1", "--by=array", "--json", "-", SLOW_PATH))
    for words, is_known in (
        (["--by", "port", SLOW_PATH], True),
        (["--by", "array", SLOW_PATH], False),
        (["--by", "array", "--op", "read", SLOW_PATH], False),
        ([tmp_path / "a"], False),
        (["stat", "--by", "array", "--ops", "5", SLOW_PATH], False),
        (["stat", "--by", "array", "5", SLOW_PATH], False),
    ):
        shown = re.findall(r" [0-9.]+/([0-9]+|[–-]) ", runner.succeed(*words).decode())
        assert shown
        assert all(most.isdigit() == is_known for most in shown), words


def test_names_in_json_are_shown(tmp_path: Path) -> None:
    """In the summary and the report; a number that two devices have keeps no name."""
    line = runner.succeed("-I1", "--json", "-", SLOW_PATH)
    (tmp_path / "a").write_bytes(line)
    (tmp_path / "b").write_bytes(line.replace(b'"sdb"', b'"sdx"'))
    shown = runner.succeed(tmp_path / "a").decode()
    assert re.findall(r"^(\S+) +all ", shown, re.M) == ["sdb", "sda"]
    assert "mpatha stalled" in shown
    shown = runner.succeed(tmp_path / "a", tmp_path / "b").decode()
    assert re.findall(r"^(\S+) +all ", shown, re.M) == ["8:16", "sda"]
    shown = runner.succeed("--names", "no", tmp_path / "a").decode()
    assert re.findall(r"^(\S+) +all ", shown, re.M) == ["8:16", "8:0"]
    runner.succeed("report", "-o", tmp_path / "a.html", tmp_path / "a")
    page = (tmp_path / "a.html").read_text()
    assert '"devices":["sdb","mpatha","sda"]' in page
    assert "<li>mpatha stalled" in page


def test_wide_summary_has_sizes_and_models_of_the_traced_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = runner.succeed(SLOW_PATH).decode()
    model = "134 MB LIO-ORG RAMDISK-MCP"
    assert re.findall(r"^(\S+) +(.+?) +(?:all|read) ", text, re.M) == [
        ("sdb", model),
        ("mpatha", model),
        ("sda", model),
    ]
    assert "size, model" not in runner.succeed("--names", "no", SLOW_PATH).decode()


def test_report_uses_the_topology_beside_the_trace(tmp_path: Path) -> None:
    runner.succeed("report", "-o", tmp_path / "page.html", SLOW_PATH)
    page = (tmp_path / "page.html").read_text()
    findings = re.findall("<li>([^<]*)", page)
    assert findings[0].startswith("mpatha stalled at ")
    assert findings[1].startswith(SLOW)
    assert '"devices":["sdb","mpatha","sda"]' in page
    assert "<td>sdb</td>" in page


def test_stat_uses_the_topology_beside_the_trace_without_a_view() -> None:
    lines = runner.succeed("stat", "--from", "17", "--to", "22", SLOW_PATH).decode().splitlines()
    assert {line.split()[1] for line in lines if line[0].isdigit()} == {"sda", "sdb", "mpatha"}
    assert any(line.startswith("! mpatha is stalled") for line in lines)
    numbered = runner.succeed("stat", "--names", "no", "--from", "20", "--to", "22", SLOW_PATH)
    assert b"8:16" in numbered


def test_stat_shows_findings_below_their_interval() -> None:
    lines = runner.succeed("stat", "--by", "path", SLOW_PATH).decode().splitlines()
    assert max(map(len, lines)) <= 80
    first = next(n for n, line in enumerate(lines) if line.startswith("! sdb"))
    assert [line.split()[1] for line in lines[first - 3 : first]] == ["mpatha", "sda", "sdb"]
    assert any(line.startswith("! mpatha is stalled") for line in lines)


def test_stall_of_some_operations_is_shown_as_well() -> None:
    text = runner.succeed("stat", "--by", "path", "--op", "read", SLOW_PATH).decode()
    assert len(re.findall("^! mpatha is stalled: ", text, re.M)) == 7


def test_views_have_the_same_total_in_every_format(tmp_path: Path) -> None:
    csv, jsonl = tmp_path / "x.csv", tmp_path / "x.jsonl"
    runner.succeed("-I", "100", "--by", "port", "--csv", csv, "--json", jsonl, SLOW_PATH)
    line = json.loads(jsonl.read_text())
    rows = [row.split(",") for row in csv.read_text().splitlines()]
    assert line["by"] == "port"
    assert [d["name"] for d in line["devices"]] == ["10.10.1.1:3260,1", "10.10.2.1:3260,1"]
    total = rows[-1][rows[0].index("requests")]
    assert int(total) == line["total"]["requests"] == sum(d["requests"] for d in line["devices"])
    assert f" {int(total):,} requests of " in runner.succeed("--by", "port", SLOW_PATH).decode()


@pytest.mark.parametrize("command", ["summary", "stat"])
def test_view_without_a_topology_says_how_to_get_one(command: str, tmp_path: Path) -> None:
    shutil.copy(f"{SLOW_PATH}.blktrace.0.xz", tmp_path / "run1.blktrace.0.xz")
    result = runner.call(command, "--by", "lun", tmp_path / "run1")
    assert result.returncode == EXIT_INPUT
    assert result.stderr.decode() == (
        "blkiomon: --by lun needs the traced host's topology, and there is no "
        f"{tmp_path}/run1.topology.json; on that host, `blkiomon topology -o run1.topology.json` "
        "writes it; --topology names another file\n"
    )
    named = runner.call(
        command, "--by", "lun", "--topology", f"{SLOW_PATH}.topology.json", tmp_path / "run1"
    )
    assert named.returncode == 0
    assert b"mpatha" in named.stdout


def test_view_of_a_pipe_needs_a_named_topology() -> None:
    result = runner.call("summary", "--by", "lun", "-", stdin=b"")
    assert result.returncode == EXIT_INPUT
    assert result.stderr.decode().splitlines() == [
        "blkiomon: --by lun needs the traced host's topology: --topology FILE names it"
    ]


@pytest.mark.parametrize("option", ["-h", "-b", "--textfile"])
def test_outputs_by_device_have_no_views(option: str, tmp_path: Path) -> None:
    result = runner.call("-I", "1", option, tmp_path / "x", "--by", "lun", SLOW_PATH)
    assert result.returncode == EXIT_USAGE
    assert b"shows devices only: use --by with --json, --csv or --parquet" in result.stderr


# --- made-up hosts --------------------------------------------------------------------------------


def load(device: str, n: int, d2c_ms: float, *, errors: int = 0) -> list[Io]:
    """Reads spread over a second, which overlap if they take long."""
    return [
        Io(number(device), "read", 4096, k * S // n, round(d2c_ms * MS) + k % 7, error=k < errors)
        for k in range(n)
    ]


def whole(*parts: Sequence[Io]) -> Interval:
    return interval_of([io for part in parts for io in part], 0, 2 * S)


PATHS = {"sda": "8:0", "sdb": "8:16", "sdc": "8:32", "sdd": "8:48", "sde": "8:64"}


Loads = dict[str, tuple[float, ...]]


def text_of_run(paths: Loads, topology: Topology = HOST) -> list[str]:
    """Findings on requests and milliseconds, perhaps also errors, by path."""
    parts = [
        load(PATHS[name], int(n), ms, errors=int(sum(errors)))
        for name, (n, ms, *errors) in paths.items()
    ]
    return [found.text for found in of_run(whole(*parts), topology)]


def test_path_slower_than_its_sibling_is_found_by_the_percentile_that_can_be_known() -> None:
    assert text_of_run({"sda": (2000, 1), "sdb": (2000, 5)}) == [
        "sdb, a path of mpatha to port2, is slow: p99 of reads 5.00 ms, 1.00 ms on sda; "
        "1,000 IOPS, 1,000 there"
    ]
    assert "p50 of reads" in text_of_run({"sda": (50, 1), "sdb": (50, 5)})[0]


def test_slow_path_is_told_by_the_operation_with_most_requests() -> None:
    def writes(device: str, ms: float) -> list[Io]:
        return [replace(io, op="write") for io in load(device, 100, ms)]

    parts = [load("8:0", 500, 1), load("8:16", 500, 5), writes("8:0", 1), writes("8:16", 50)]
    (found,) = of_run(whole(*parts), HOST)
    assert "reads 5.00 ms" in found.text


@pytest.mark.parametrize(
    "paths",
    [
        {"sda": (2000, 1), "sdb": (2000, 1.5)},  # less than twice
        {"sda": (15, 1), "sdb": (15, 50)},  # fewer than ten beyond the median
        {"sda": (200, 1), "sdc": (200, 50)},  # of different LUNs
        {"sda": (200, 1)},
    ],
)
def test_nothing_is_said_where_it_is_not_certain(paths: Loads) -> None:
    assert [text for text in text_of_run(paths) if "slow" in text] == []


def test_paths_in_another_access_state_are_no_siblings() -> None:
    devices = tuple(
        replace(device, access_state="active/non-optimized") if device.name == "sdb" else device
        for device in HOST.devices
    )
    topology = Topology("host", "6.12", ARRAYS, devices)
    assert text_of_run({"sda": (2000, 1), "sdb": (2000, 50)}, topology) == []


def test_port_common_to_the_slow_paths_of_several_luns_is_named_once() -> None:
    found = text_of_run({"sda": (500, 1), "sdb": (500, 9), "sdc": (500, 1), "sdd": (500, 8)})
    assert found[0] == (
        "target port port2 is common to all slow paths: 2 of the 2 paths in use there, of 2 LUNs; "
        "worst is sdb, p95 of reads 9.00 ms, 1.00 ms on its siblings"
    )
    assert not any("a path of" in text for text in found)


def test_slow_paths_on_different_ports_have_no_port_in_common() -> None:
    found = text_of_run({"sda": (500, 9), "sdb": (500, 1), "sdc": (500, 1), "sdd": (500, 8)})
    assert [text.split(",")[0] for text in found] == ["sda", "sdd"]


def test_array_that_is_much_slower_than_the_other_is_named() -> None:
    found = text_of_run({"sda": (500, 1), "sdb": (500, 1), "sde": (500, 9)})
    assert found == [
        "array two is slow: p95 of reads 9.00 ms, 1.00 ms on the other 1 array; it has 1 LUN"
    ]


def test_failing_path_is_named_if_that_is_more_than_chance() -> None:
    assert text_of_run({"sda": (500, 1), "sdb": (500, 1, 20)}) == [
        "sdb, a path of mpatha to port2, fails: 20 errors of 500 requests, 0 of 500 on its siblings"
    ]
    assert text_of_run({"sda": (500, 1), "sdb": (500, 1, 2)}) == []
    assert text_of_run({"sda": (500, 1, 15), "sdb": (500, 1, 20)}) == []


def test_path_with_few_requests_is_named() -> None:
    assert text_of_run({"sda": (500, 1), "sdb": (20, 1)}) == [
        "sdb, a path of mpatha to port2, takes only 20 requests, while sda takes 500"
    ]
    assert text_of_run({"sda": (500, 1), "sdb": (200, 1)}) == []
    assert text_of_run({"sda": (20, 1), "sdb": (1, 1)}) == []


def test_path_that_was_never_seen_is_not_called_idle() -> None:
    assert text_of_run({"sda": (500, 1)}) == []


def test_stalled_path_of_a_map_that_was_not_traced_is_found() -> None:
    stuck = [Io(number("8:16"), "read", 4096, S // 2, None)]
    tracker = Tracker(HOST, "path")
    tracker(losing(0, interval_of([*load("8:0", 300, 1), *stuck], 0, S)))
    found = tracker(interval_of(stuck, S, 2 * S)).findings
    assert found is not None
    assert [(f.kind, f.name) for f in found] == [("stalled_path", "sdb")]
    assert found[0].text == (
        "sdb, a path of mpatha to port2, is stalled: nothing completes, 1 request in flight for "
        "up to 1.50 s"
    )


def test_path_does_not_stall_if_its_map_has_no_old_request() -> None:
    """Native NVMe multipath moves requests to another path without completing them."""
    left = [Io(number("8:16"), "read", 4096, S // 2, None)]
    loads = [*load("8:0", 300, 1), *load(MAP, 300, 1)]
    for later in ([replace(io, issue_ns=io.issue_ns + S) for io in loads], []):
        tracker = Tracker(HOST, "path")
        tracker(losing(0, interval_of([*loads, *left], 0, S)))
        found = tracker(losing(0, interval_of([*later, *left], S, 2 * S))).findings
        assert "stalled_path" not in {f.kind for f in found or ()}
    run = losing(0, interval_of([*loads, *left], 0, 9 * S))
    assert texts([run], HOST)[:1] != [HUNG]
    assert texts([run])[:1] == [HUNG]


def texts(slices: Sequence[Interval], topology: Topology | None = None) -> list[str]:
    """The findings of a run."""
    found = findings(slices, merge(slices), HOST.names().get, topology)
    return [one.text for one in found]


def test_hung_map_and_its_path_are_one_finding() -> None:
    left = [Io(number(device), "read", 4096, S // 2, None) for device in (MAP, "8:16", "8:64")]
    done = [*load(MAP, 300, 1), *load("8:16", 300, 1), *load("8:64", 300, 1)]
    assert texts([losing(0, interval_of([*done, *left], 0, 9 * S))], HOST) == [
        "mpatha hung: at the end 1 request was in flight, the oldest for 8.50 s, on path sdb; "
        "1 more device hung, too"
    ]


def test_stall_of_a_map_and_of_its_path_is_one_finding() -> None:
    """The path stalls again, while the map completes: that is another stall."""
    devices = ("8:0", "8:16", MAP)

    def second(at: int, stalled: Sequence[str]) -> Interval:
        ios = [
            Io(number(device), "read", 4096, at * S + k * S // 50, S // 50)
            for device in devices
            for k in range(50 if device not in stalled else 0)
        ]
        waiting = [Io(number(device), "read", 4096, at * S, None) for device in stalled]
        return losing(0, interval_of([*ios, *waiting], at * S, (at + 1) * S))

    stalled = {3: ("8:16", MAP), 4: ("8:16", MAP)}
    both = [second(at, stalled.get(at, ())) for at in range(6)]
    assert texts(both, HOST) == [
        "mpatha stalled at 00:00:03.000 UTC: with requests in flight, nothing completed for at "
        "least 2.00 s; its path sdb for 2.00 s"
    ]
    again = [*both, second(6, ("8:16",)), second(7, ())]
    assert texts(again, HOST)[0].endswith("; its path sdb for 2.00 s; 1 more device stalled, too")


def test_slow_path_is_named_beside_its_slow_array() -> None:
    run = whole(load("8:0", 500, 1), load("8:16", 500, 50), load("8:64", 500, 1))
    array, path = texts([run], HOST)
    assert array.startswith("array one is slow all the time: p95 of reads 50.0 ms, 1.00 ms on ")
    assert path.startswith("sdb, a path of mpatha to port2, is slow all the time: p95 of reads 50.")


def test_slow_path_is_one_finding_with_its_map_and_its_time() -> None:
    """Its map is slow as well, and its reads got slower at that moment."""
    ios: list[Io] = []
    for at in range(40):
        ms = 20 if at >= 20 else 1
        loads = [*load("8:0", 40, 1), *load("8:16", 40, ms), *load("8:80", 80, 1)]
        loads += [*load(MAP, 40, 1), *load(MAP, 40, ms)]
        ios += [replace(io, issue_ns=io.issue_ns + at * S) for io in loads]
    (found,) = texts([interval_of(ios, at * S, (at + 1) * S) for at in range(40)], HOST)
    assert re.fullmatch(
        r"sdb, a path of mpatha to port2, is slow from 00:00:20 UTC until the end: "
        r"p99 of reads 20.0 ms, 1.00 ms on sda; 40.0 IOPS, 40.0 there; "
        r"reads of mpatha got slower: p99 1.00 ms before, 20.0 ms after",
        found,
    )


def test_interval_says_since_when_a_path_is_slow_if_it_was_seen_before() -> None:
    def found(*loads_ms: tuple[int, float]) -> list[str]:
        tracker = Tracker(HOST, "path")
        shown = []
        for at, (n, ms) in enumerate(loads_ms):
            loads = [*load("8:0", n, 1), *load("8:16", n, ms)]
            ios = [replace(io, issue_ns=io.issue_ns + at * S) for io in loads]
            of_now = tracker(interval_of(ios, at * S, (at + 1) * S)).findings or ()
            shown += [text for f in of_now for text in re.findall(r"is slow(.*?): p", f.text)]
            assert all(("since_ns" in f.evidence) == ("since" in f.text) for f in of_now)
        return shown

    fast, slow = (100, 1), (100, 9)
    since = " since 00:00:02 UTC"
    assert found(fast, fast, slow, slow, slow) == [since] * 3
    assert found(slow, slow, slow) == [""] * 3
    assert found((5, 9), slow, slow) == [""] * 2
    assert found(fast, fast, slow, fast, fast, fast, slow)[-1] == " since 00:00:06 UTC"


def test_stall_names_the_path_that_gave_its_request_back() -> None:
    """Other requests completed while it was on the path; none does any more."""
    on_path, on_map = (Io(number(device), "read", 4096, S // 2, None) for device in ("8:16", MAP))
    tracker = Tracker(HOST, "path")
    flowing = [*load("8:16", 100, 1), *load("8:0", 300, 1), *load(MAP, 400, 1)]
    tracker(losing(0, interval_of([*flowing, on_path, on_map], 0, 2 * S)))
    found = tracker(losing(0, interval_of([on_map], 2 * S, 3 * S))).findings
    assert [f.text for f in found or ()] == [
        "mpatha is stalled: nothing completes, 1 request in flight for up to 2.50 s; last seen on "
        "path sdb to port2"
    ]


@pytest.mark.parametrize(("usual_ms", "is_found"), [(1, True), (900, False)])
def test_request_that_stalls_while_others_complete_is_named(
    usual_ms: float, is_found: bool
) -> None:
    stuck = [Io(number(device), "read", 4096, S // 2, None) for device in ("8:16", MAP)]
    tracker = Tracker(HOST, "path")
    others = [*load("8:0", 100, usual_ms), *load(MAP, 100, usual_ms)]
    tracker(losing(0, interval_of([*others, *load("8:16", 100, 1), *stuck], 0, 2 * S)))
    later = [replace(io, issue_ns=io.issue_ns + 2 * S) for io in others]
    for events, is_sure in ((0, True), (1, False)):
        found = tracker(losing(events, interval_of([*later, stuck[1]], 2 * S, 4 * S))).findings
        stalled = [f for f in found or () if f.kind == "stalled_requests"]
        assert len(stalled) == (is_found and is_sure)
        for one in stalled:
            assert one.text == (
                "a request of mpatha is stalled, in flight for 3.50 s, while others complete; "
                "last seen on path sdb to port2"
            )
            assert one.evidence["paths"] == ["sdb"]


MAP = "253:0"
HUNG = "sdb hung: at the end 1 request was in flight, the oldest for 8.50 s"


def losing(events: int, interval: Interval) -> Interval:
    """The interval with so many lost events."""
    return replace(interval, counts=replace(interval.counts, lost_events=events))


def test_path_does_not_stall_if_all_completions_may_be_lost() -> None:
    stuck = [Io(number("8:16"), "read", 4096, S // 2 + n, None) for n in range(3)]
    for lost, kinds_ in ((2, ["stalled_path"]), (3, ["idle_path"])):
        tracker = Tracker(HOST, "path")
        tracker(losing(lost, interval_of([*load("8:0", 300, 1), *stuck], 0, S)))
        found = tracker(losing(0, interval_of(stuck, S, 2 * S))).findings
        assert [f.kind for f in found or ()] == kinds_


def test_findings_do_not_change_the_figures() -> None:
    interval = whole(load("8:0", 200, 1), load("8:16", 200, 9))
    found = Tracker(HOST, "device")(interval)
    assert found.groups() == interval.groups()
    assert [f.kind for f in found.findings or ()] == ["slow_path"]


# --- changes of state -----------------------------------------------------------------------------


def changed(**attributes: Any) -> Topology:
    """HOST, with another sdb."""
    devices = [replace(d, **attributes) if d.name == "sdb" else d for d in HOST.devices]
    return Topology("host", "6.12", ARRAYS, tuple(devices))


def test_change_of_a_path_is_an_event() -> None:
    (event,) = changes(HOST, changed(state="transport-offline"))
    assert event.to_dict() == {
        "kind": "changed",
        "name": "sdb",
        "text": "sdb, a path of mpatha to port2, "
        "changed its state from unknown to transport-offline",
        "lun": "mpatha",
        "target_port": "port2",
        "array": "one",
        "attribute": "state",
        "before": None,
        "after": "transport-offline",
    }
    via = Transport(protocol="fc", initiator="wwpn2", target_port="port2", target_state="Blocked")
    (event,) = changes(HOST, changed(transport=via))
    assert (event.evidence["attribute"], event.evidence["after"]) == ("target_state", "Blocked")


def test_device_that_comes_or_goes_is_an_event() -> None:
    less = Topology("host", "6.12", ARRAYS, HOST.devices[1:])
    assert [f.text for f in changes(HOST, less)] == ["sda, a path of mpatha to port1, is gone"]
    assert [f.text for f in changes(less, HOST)] == ["sda, a path of mpatha to port1, is new"]
    assert changes(HOST, HOST) == []


def test_events_of_the_running_host_reach_the_next_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = changed(state="offline")
    monkeypatch.setattr("blkiomon.commands.san.tracker.refresh_topology", lambda topology: now)
    tracker = Tracker(HOST, "path")
    interval = whole(load("8:0", 20, 1))
    assert tracker(interval).findings == ()
    tracker.follow(0.001)
    runner.until(lambda: tracker.topology is now)
    found = tracker(interval).findings
    tracker.close()
    assert found is not None
    assert [f.evidence["after"] for f in found] == ["offline"]
    assert tracker(interval).findings == ()


# --- the tests of certainty -----------------------------------------------------------------------


def test_limits_of_a_percentile_hold_the_true_one() -> None:
    values = Distribution.of(range(1, 1001))
    low, high = percentile_limits(values, 90) or (0, 0)
    assert 870 <= low < 900 < high <= 930
    assert percentile_limits(values, 99) is not None
    assert percentile_limits(Distribution.of(range(999)), 99) is None


def test_departure_is_the_highest_certain_percentile() -> None:
    one, others = Distribution.of([5000] * 2000), Distribution.of([1000] * 2000)
    found = departure(one, others, 2)
    assert found is not None and (found.percent, found.value, found.usual) == (99, 5000, 1000)
    assert departure(others, one, 2) is None
    assert departure(one, Distribution(), 2) is None


def test_limits_of_a_share_are_those_of_wilson() -> None:
    low, high = share_limits(10, 100)
    assert round(low, 3) == 0.055
    assert round(high, 3) == 0.174
    assert share_limits(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("outputs", [{}, {"json": "-"}, {"csv": "-", "metrics": "m"}])
def test_capture_knows_the_san_of_its_host(
    monkeypatch: pytest.MonkeyPatch, outputs: dict[str, str]
) -> None:
    monkeypatch.setattr(views, "find_topology", lambda *names, **options: HOST)
    monkeypatch.setattr(capture, "numbers_of", lambda names: [number("8:0")])
    config = Config(trace=("sda",), interval_s=1.0, outputs=OutputSettings(outputs))
    tracker = run._tracker(config)
    assert tracker is not None
    assert tracker.view.by == "device"
    assert tracker.view.name_of(number("253:0")) == "mpatha"
    found = tracker(interval_of([*load("8:0", 250, 1), *load("8:16", 250, 9)], 0, S)).findings
    assert found is not None and [of.kind for of in found] == ["slow_path"]


def test_drop_in_reads_no_topology(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "find_topology", lambda *names, **options: pytest.fail("read"))
    outputs = OutputSettings({"human": "-", "binary": "b"})
    for files in ((), (str(SLOW_PATH),)):
        assert run._tracker(Config(files=files, interval_s=1.0, outputs=outputs)) is None


@pytest.mark.parametrize(("most_share", "wait_s"), [(1.0, 1.0), (0.02, 5.0)])
def test_looking_for_changes_takes_a_limited_share_of_a_processor(
    monkeypatch: pytest.MonkeyPatch, most_share: float, wait_s: float
) -> None:
    now_s = itertools.count(0.0, 0.1)  # each look takes 0.1 s of CPU time
    monkeypatch.setattr(time, "thread_time", lambda: next(now_s))
    monkeypatch.setattr("blkiomon.commands.san.tracker.refresh_topology", lambda topology: topology)
    tracker = Tracker(HOST, "device")
    waits: list[float] = []

    def wait(timeout: float) -> bool:
        waits.append(round(timeout, 3))
        return len(waits) == 3

    monkeypatch.setattr(tracker._has_ended, "wait", wait)
    tracker.follow(1.0, most_share)
    assert tracker._thread is not None
    tracker._thread.join()
    assert waits == [1.0, wait_s, wait_s]


@pytest.mark.parametrize(("is_of_this_host", "name"), [(True, "sdz"), (False, None)])
def test_device_that_came_after_the_topology_has_its_name_on_this_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_of_this_host: bool, name: str | None
) -> None:
    monkeypatch.setattr(destinations, "DeviceNames", lambda: {number("65:144"): "sdz"}.get)
    outputs = destinations.open_outputs(
        OutputSettings({"json": str(tmp_path / "json")}, names=True),
        print,
        view=View(HOST, "device"),
        is_of_this_host=is_of_this_host,
    )
    outputs.put(interval_of([*load("8:0", 1, 1), *load("65:144", 1, 1)], 0, S))
    outputs.close()
    devices = json.loads((tmp_path / "json").read_text())["devices"]
    assert {d["device"]: d["name"] for d in devices} == {"8:0": "sda", "65:144": name}


@pytest.mark.parametrize("name", ["sdb", "/dev/sdb", "mpatha", "dm-0", "/dev/mapper/mpatha"])
@pytest.mark.parametrize("command", ["summary", "stat", "-I 60 --csv -"])
def test_devices_are_selected_by_their_names_on_the_traced_host(command: str, name: str) -> None:
    number = "8:16" if "sdb" in name else "254:0"
    named, numbered = (
        runner.succeed(*command.split(), "--device", device, SLOW_PATH) for device in (name, number)
    )
    assert named == numbered


def test_names_of_this_host_select_nothing_on_another_whose_names_are_known() -> None:
    said = "--device: the topology of the traced host has no device 'sdz'; `blkiomon topology"
    for command in ("summary", "stat", "report", "-I 60 --csv -"):
        done = runner.call(*command.split(), "--device", "sdz", SLOW_PATH)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.decode().startswith(f"blkiomon: {said}")


def test_name_that_means_different_devices_of_two_hosts_is_refused(tmp_path: Path) -> None:
    saved = SLOW_PATH.with_name("iscsi-slow-path.topology.json").read_text()
    (tmp_path / "a.topology.json").write_text(saved)
    (tmp_path / "b.topology.json").write_text(saved.replace('"8:16"', '"8:32"'))
    names = [str(tmp_path / name) for name in "ab"]
    assert device_numbers(["sda"], None, names) == (8 << 20,)
    with pytest.raises(UsageError, match="sdb has different numbers in these traces"):
        device_numbers(["sdb"], None, names)
    assert device_numbers(["sdb"], f"{names[1]}.topology.json", names) == (8 << 20 | 32,)


def test_name_is_refused_if_the_topology_that_may_have_it_is_damaged(tmp_path: Path) -> None:
    saved = SLOW_PATH.with_name("iscsi-slow-path.topology.json").read_text()
    (tmp_path / "a.topology.json").write_text(saved)
    (tmp_path / "b.topology.json").write_text("{")
    names = [str(tmp_path / name) for name in "ab"]
    with pytest.raises(UsageError, match=r"^--device: .*b\.topology\.json"):
        device_numbers(["sdb"], None, names)
    assert device_numbers(["8:16"], None, names) == (8 << 20 | 16,)
