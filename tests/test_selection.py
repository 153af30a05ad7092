"""``--op``, ``--device``, ``--from`` and ``--to``: what counts, in every command that reads."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import goldenfiles
import pytest
import runner

import blkiomon
from blkiomon.commands.options import Selection
from blkiomon.commands.run import _check_selection
from blkiomon.engine.layout import OPS
from blkiomon.errors import SourceError
from blkiomon.formats.json_codec import from_dict, to_dict
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.value import Interval, merge

PHASES, MULTI = (goldenfiles.TRACES / f"loop-{name}-dc.bin" for name in ("phases", "multi"))
ONE = "-I", runner.LONG
LACKING = "no request of operation discard; there are some of read, write, flush"


def complaints_of(*arguments: runner.Argument) -> str:
    return runner.call(*arguments).stderr.decode()


def one_line(*arguments: runner.Argument) -> dict[str, Any]:
    (line,) = runner.succeed(*ONE, "--json", "-", *arguments).decode().splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def additive(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures that add up over operations."""
    return {name: figures[name] for name in ("requests", "bytes", "errors", "d2c_ns")}


# --- an interval ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> Interval:
    return blkiomon.summarize(MULTI)


def test_only_keeps_the_figures_of_the_selected_operations(whole: Interval) -> None:
    some = whole.only(["flush", "write"])
    assert some.only_ops == ("write", "flush")
    wanted = [g for g in whole.groups() if g.op in some.only_ops]
    assert [repr(g) for g in some.groups() if g.op is not None] == [repr(g) for g in wanted]
    assert [g.in_flight for g in some.groups() if g.op is not None] == [g.in_flight for g in wanted]
    assert some.total.requests == sum(g.requests for g in wanted) < whole.total.requests
    assert some.percentile(99) == Distribution().merge(*(g.d2c_ns for g in wanted)).percentile(99)
    assert some.counts == whole.counts


def test_requests_in_flight_of_some_operations_are_unknown_in_total(whole: Interval) -> None:
    some = whole.only(["read"])
    assert [g.in_flight is None for g in some.groups()] == [g.op is None for g in some.groups()]
    assert to_dict(some)["total"]["in_flight"] is None and to_dict(some)["processes"] is None


@pytest.mark.parametrize("ops", [("read",), ("discard", "write"), OPS])
def test_codecs_keep_the_selection(ops: tuple[str, ...], whole: Interval) -> None:
    some = whole.only(ops)
    wanted = to_dict(some)
    assert to_dict(from_dict(wanted)) == wanted
    assert to_dict(blkiomon.from_bytes(blkiomon.to_bytes(some))) == wanted
    assert wanted["only_ops"] == [op for op in OPS if op in ops]
    assert "only_ops" not in to_dict(whole)


def test_selections_merge_as_the_whole_does(whole: Interval) -> None:
    parts = list(blkiomon.intervals(MULTI, 0.5, ops=["read"]))
    assert to_dict(merge(parts)) == to_dict(whole.only(["read"]))
    with pytest.raises(ValueError, match="different operations cannot be merged"):
        whole.merge(whole.only(["read"]))


def test_unknown_operation_is_an_error_that_lists_all(whole: Interval) -> None:
    with pytest.raises(ValueError, match=r"unknown operation 'reads'; use read, write, discard"):
        whole.only(["reads"])
    with pytest.raises(blkiomon.IntervalError, match="only_ops does not list"):
        from_dict(to_dict(whole) | {"only_ops": ["reads"]})
    assert issubclass(blkiomon.IntervalError, ValueError)


def test_tables_of_the_library_have_only_the_selected_operations() -> None:
    frame = blkiomon.intervals(MULTI, 1, ops=["read", "flush"]).to_polars()
    assert set(frame["op"]) == {"read", "flush"}


# --- outputs --------------------------------------------------------------------------------------


def test_json_says_which_operations_count() -> None:
    every, reads = one_line(PHASES), one_line("--op", "read", PHASES)
    assert reads["only_ops"] == ["read"] and "only_ops" not in every
    (device,) = reads["devices"]
    assert device["ops"] == {"read": every["devices"][0]["ops"]["read"]}
    assert additive(reads["total"]) == additive(device["ops"]["read"])


def test_csv_says_which_operations_all_are() -> None:
    text = runner.succeed(*ONE, "--csv", "-", "--op", "read", "--op", "flush", PHASES).decode()
    rows = [(row["device"], row["op"]) for row in csv.DictReader(io.StringIO(text))]
    both = "all(read+flush)"
    assert rows == [("7:1", "read"), ("7:1", "flush"), ("7:1", both), ("all", both)]


def test_text_of_the_drop_in_has_only_the_selected_operations() -> None:
    result = runner.call(*ONE, "-h", "-", "--op", "write", PHASES)
    assert result.stderr == b"blkiomon: --human-readable: only write requests count (--op)\n"
    text, every = result.stdout.decode(), runner.succeed(*ONE, "-h", "-", PHASES).decode()
    assert "sizes read (bytes): num 0," in text
    for line in ("sizes write", "d2c write"):
        (shown,) = (part for part in every.splitlines() if part.startswith(line))
        assert shown in text.splitlines()


def test_slow_requests_are_of_the_selected_operations(tmp_path: Path) -> None:
    def slow(*arguments: str) -> list[dict[str, Any]]:
        file = tmp_path / "slow.jsonl"
        runner.succeed(*ONE, "--slow", f"1:{file}", "--slow-limit", "100000", *arguments, PHASES)
        return [json.loads(line) for line in file.read_text().splitlines()]

    writes = [event for event in slow() if event["op"] == "write"]
    assert slow("--op", "write") == writes and len(writes) > 100


def test_outputs_of_single_records_take_no_operation() -> None:
    result = runner.call(*ONE, "-D", "-", "--op", "read", PHASES)
    assert result.returncode == 2
    assert b"--op cannot select the single records that --debug prints" in result.stderr


@pytest.mark.parametrize("output", ["--json", "--csv", "-h"])
def test_selection_that_fits_nothing_says_what_there_is(output: str) -> None:
    assert LACKING in complaints_of(*ONE, output, "-", "--op", "discard", PHASES)
    there = complaints_of(*ONE, output, "-", "--device", "7:9", PHASES)
    assert "no request of 7:9; it holds 81,127 records of 7:1" in there


# --- commands -------------------------------------------------------------------------------------


def test_summary_says_which_operations_count(tmp_path: Path) -> None:
    wanted = runner.succeed("--op", "read", PHASES).decode().splitlines()
    assert wanted[1] == "81,127 records, 24,001 requests of 1 device; only read"
    assert "write" not in "\n".join(wanted)
    log = tmp_path / "log.jsonl"
    runner.succeed("-I1", "--json", log, "--op", "read", PHASES)
    assert runner.succeed(log).decode().splitlines()[1:5] == wanted[1:5]


def test_summary_says_which_devices_count() -> None:
    lines = runner.succeed("--device", "7:1", "--device", "7:2", "--op", "write", MULTI)
    assert lines.decode().splitlines()[1].endswith(" of 2 devices; only 7:1, 7:2, write")


def test_summary_of_nothing_says_what_there_is() -> None:
    result = runner.call("--op", "discard", PHASES)
    assert (result.returncode, result.stdout) == (3, b"")
    assert LACKING.encode() in result.stderr


def test_stat_prints_only_the_selected_operations() -> None:
    lines = runner.succeed("stat", "--op", "flush", "-f", PHASES, "5").decode().splitlines()
    assert lines[0].split()[:3] == ["time", "device", "op"]
    assert {line.split()[2] for line in lines} == {"op", "flush"}
    assert LACKING in complaints_of("stat", "--op", "discard", "-f", PHASES, "5")


def test_stat_prints_the_json_of_the_main_command() -> None:
    printed = runner.succeed("stat", "--json", "--op", "read", "-f", PHASES, "30")
    assert json.loads(printed)["only_ops"] == ["read"]


def test_decode_selects_structs_of_devices_and_times(tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    runner.succeed("-I1", "-b", stats, MULTI)

    def decoded(*arguments: str) -> list[tuple[str, int]]:
        lines = runner.succeed("decode", "--json", *arguments, stats).decode().splitlines()
        return [(line["device"], line["time_s"]) for line in map(json.loads, lines)]

    every = decoded()
    first_s = every[0][1]
    assert decoded("--device", "7:2") == [found for found in every if found[0] == "7:2"]
    late = decoded("--from", "1", "--to", "2")
    assert late == [found for found in every if found[1] == first_s + 1] and late
    assert "no struct of 7:9; there are some of 7:1, 7:2, 7:3" in complaints_of(
        "decode", "--device", "7:9", stats
    )
    assert "no struct between --from and --to; their times are from 1970" in complaints_of(
        "decode", "--from", "99", stats
    )


def test_selection_of_a_capture_needs_a_device_that_is_or_may_be_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = 4095 << 20
    monkeypatch.setattr("blkiomon.sources.devices.device_name", {1: "loop1"}.get)
    _check_selection(Selection(), [], later_ones=True)
    _check_selection(Selection((1, absent)), [1], later_ones=False)
    _check_selection(Selection((absent,)), [], later_ones=True)
    with pytest.raises(SourceError, match=r"none of the devices that are captured: 4095:1$"):
        _check_selection(Selection((absent,)), [absent + 1], later_ones=False)
    with pytest.raises(SourceError, match=r"none of the devices that are captured: .* no disk$"):
        _check_selection(Selection((1,)), [], later_ones=True)
