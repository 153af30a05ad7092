"""``blkiomon compare``: changes and their confidence, rules of --fail-if, and errors."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import runner
import tracewriter as tw

import blkiomon
from blkiomon.commands.report import compare as command
from blkiomon.commands.report import rules
from blkiomon.commands.report.bootstrap import Draws, normal_quantile, starts_drawn, widening
from blkiomon.commands.report.changes import (
    BIN_WIDTH,
    METRICS,
    Change,
    DeviceChanges,
    compare,
    judged_together,
)
from blkiomon.commands.report.collect import collect
from blkiomon.commands.report.collected import Collected
from blkiomon.commands.report.comparison import Comparison, compare_runs
from blkiomon.commands.report.sides import Side

DATA = Path(__file__).parent / "data"
MULTI = DATA / "loop-multi-dc.bin"

NO_DIFFERENCE = "no difference shown"

Capture = pytest.CaptureFixture[str]


def write_run(
    path: Path, seed: int, factor: float = 1.0, number: int = 4000, device: int = 8 << 20 | 16
) -> Path:
    """An eighth of a second of reads and writes at random times with random latencies.

    It is short as each millisecond is a slice, and comparing many slices takes long.
    """
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.integers(10**9, 10**9 + 125 * 10**6, number)).tolist()
    times = (rng.lognormal(12, 0.6, number) * factor).astype(int).tolist()
    return write_trace(path, zip(starts, times), (tw.WRITE, tw.READ), device)


def write_trace(
    path: Path,
    requests: Iterable[tuple[int, int]],
    categories: Sequence[int] = (tw.READ,),
    device: int = 8 << 20,
) -> Path:
    """Requests by start and duration in ns, of these categories in turn."""
    records = []
    for i, (start_ns, time_ns) in enumerate(requests):
        what = 8 * i, 4096, categories[i % len(categories)], device
        records += [tw.issue(start_ns, *what), tw.complete(start_ns + time_ns, *what)]
    records.sort(key=lambda record: record.time_ns)
    path.write_bytes(tw.encode(records))
    return path


def collect_steps(path: Path, times_ns: Sequence[int]) -> Collected:
    """Reads each quarter of a millisecond, four of each duration."""
    times = np.repeat(times_ns, 4).tolist()
    write_trace(path, ((10**9 + 250_000 * i, time_ns) for i, time_ns in enumerate(times)))
    return collect([str(path)], patterns=False)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("runs")
    made = {f"a{i}": write_run(directory / f"a{i}", i) for i in range(3)}
    made |= {f"slow{i}": write_run(directory / f"slow{i}", 10 + i, 1.2) for i in range(3)}
    made["half"] = write_run(directory / "half", 20, number=2000)
    made["other"] = write_run(directory / "other", 1, device=259 << 20)
    made["few"] = write_run(directory / "few", 3, number=6)
    return made


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of a real trace, in which every device and operation occurs."""
    path = tmp_path_factory.mktemp("multi") / "trace"
    path.write_bytes(MULTI.read_bytes()[: 48 * 5000])
    return path


@pytest.fixture(scope="module")
def runs(traces: dict[str, Path]) -> dict[str, Collected]:
    return {name: collect([str(path)], patterns=False) for name, path in traces.items()}


def row_of(rows: list[DeviceChanges], op: str | None) -> DeviceChanges:
    return next(row for row in rows if row.op == op)


# --- the figures ----------------------------------------------------------------------------------


def test_figures_equal_those_of_the_library(
    runs: dict[str, Collected], traces: dict[str, Path]
) -> None:
    rows = compare([runs["a0"]], [runs["slow0"]])
    assert [(row.device, row.op) for row in rows] == [
        ("8:16", op) for op in ("read", "write", None)
    ]
    for side, name in enumerate(("a0", "slow0")):
        whole = blkiomon.summarize(traces[name])
        for row in rows:
            (group,) = [g for g in whole.groups() if (g.device, g.op) == (8 << 20 | 16, row.op)]
            values = {c.metric: (c.a, c.b)[side] for c in row.changes}
            assert values["iops"] == pytest.approx(group.iops)
            assert values["bandwidth"] == pytest.approx(group.bytes_per_s)
            assert values["mean"] == group.d2c_ns.mean
            assert values["max"] == group.d2c_ns.max
            for percent in (50, 95, 99, 99.9):
                assert values[f"p{percent:g}"] == group.d2c_ns.percentile(percent)
            assert row.requests[side] == group.requests


def test_the_same_run_shows_no_difference(runs: dict[str, Collected]) -> None:
    for row in compare([runs["a0"]], [runs["a0"]]):
        for change in row.changes:
            assert change.change == 0
            is_extreme = change.metric in ("p99.9", "max")
            assert change.verdict == ("too little to tell" if is_extreme else NO_DIFFERENCE)
            if change.low is not None:
                # Both sides have the same parts drawn.
                # Equal percentiles may lie at opposite ends of a bin.
                ends = (math.expm1(-BIN_WIDTH), math.expm1(BIN_WIDTH))
                expected = ends if change.metric.startswith("p") else (0, 0)
                assert (change.low, change.high) == pytest.approx(expected, abs=1e-12)


def test_neighbouring_parts_are_drawn_in_blocks(tmp_path: Path) -> None:
    # The same latencies, once in long stretches and once alternating: only the latter average out.
    half = [100_000] * 62, [300_000] * 62
    steady, drifting, in_turn = (
        collect_steps(tmp_path / name, times)
        for name, times in (
            ("steady", [200_000] * 124),
            ("drifting", half[0] + half[1]),
            ("in_turn", [time for pair in zip(*half) for time in pair]),
        )
    )
    widths = []
    for other in (drifting, in_turn):
        change = row_of(compare([steady], [other]), "read").metric("mean")
        assert change.change == pytest.approx(0, abs=0.01)
        assert change.low is not None and change.high is not None
        widths.append(change.high - change.low)
    assert widths[0] > 4 * widths[1]


def test_runs_are_the_units_of_sides_with_several(tmp_path: Path) -> None:
    # Each run is steady, but the runs of a side differ: by their parts the change seems certain.
    sides = [
        [collect_steps(tmp_path / f"{time}", [time] * 124) for time in times]
        for times in ((100_000, 200_000, 300_000), (110_000, 220_000, 330_000))
    ]
    change = row_of(compare(sides[0], sides[1]), "read").metric("mean")
    assert change.change == pytest.approx(0.1)
    assert change.verdict == NO_DIFFERENCE


def test_another_run_of_the_same_shows_no_difference(runs: dict[str, Collected]) -> None:
    # On average, 95 % of the intervals contain the true change.
    rows = compare([runs["a0"]], [runs["a1"]])
    shown = [c for row in rows for c in row.changes if c.verdict in ("better", "worse")]
    assert len(shown) <= 2, shown


def test_slowdown_by_a_fifth_is_detected(runs: dict[str, Collected]) -> None:
    row = row_of(compare([runs["a0"]], [runs["slow0"]]), None)
    for metric in ("mean", "p50", "p95"):
        change = row.metric(metric)
        assert change.verdict == "worse"
        assert change.low is not None and change.high is not None
        assert change.low < 0.2 < change.high
        assert change.high - change.low < 0.3
    assert row_of(compare([runs["slow0"]], [runs["a0"]]), None).metric("mean").verdict == "better"


def test_fewer_requests_are_worse(runs: dict[str, Collected]) -> None:
    row = row_of(compare([runs["a0"]], [runs["half"]]), None)
    for metric in ("iops", "bandwidth"):
        assert row.metric(metric).change == pytest.approx(-0.5, abs=0.02)
        assert row.metric(metric).verdict == "worse"


def test_several_runs_a_side_are_compared(runs: dict[str, Collected]) -> None:
    before, after = ([runs[f"{name}{i}"] for i in range(3)] for name in ("a", "slow"))
    row = row_of(compare(before, after), "read")
    assert row.metric("mean").verdict == "worse"
    assert row.metric("mean").change == pytest.approx(0.2, abs=0.05)
    assert row.requests == (6000, 6000)
    same = row_of(compare(before, [runs["a2"], runs["a0"], runs["a1"]]), "read")
    assert {same.metric(metric).verdict for metric in METRICS[:-2]} == {NO_DIFFERENCE}


def test_interval_of_few_runs_is_wider() -> None:
    # Student's quantiles, and the normal one.
    assert widening([2, 2]) == pytest.approx(4.303 / 1.96 * 2**0.5, rel=1e-3)
    assert widening([6, 6]) == pytest.approx(2.228 / 1.96 * (6 / 5) ** 0.5, rel=1e-3)
    assert widening([500, 500]) == pytest.approx(1, rel=3e-3)


def test_interval_of_many_changes_is_wider() -> None:
    # Of 51 changes each is judged at 0.001. Many units are as if normally distributed.
    assert widening([3, 3], 51) / widening([3, 3]) == pytest.approx(8.610 / 2.776, rel=2e-3)
    alpha = 1 - 0.95 ** (1 / 1000)
    normal = NormalDist().inv_cdf(1 - alpha / 2)
    assert widening([3000, 3000], 1000) == pytest.approx(normal / 1.96, rel=3e-3)
    assert normal_quantile(1000) == pytest.approx(normal)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two runs of 40 devices, of which one is slower in the second."""
    directory = tmp_path_factory.mktemp("many")
    for name, seed, factor in (("a", 1, 1.0), ("b", 2, 1.8)):
        rng = np.random.default_rng(seed)
        starts = np.sort(rng.integers(10**9, 10**9 + 64 * 10**6, 8000))
        device = rng.integers(0, 40, 8000)
        times = rng.lognormal(12, 0.3, 8000) * np.where(device == 7, factor, 1)
        records = []
        for i, (start, of, time) in enumerate(zip(starts.tolist(), device.tolist(), times)):
            what = 8 * i, 4096, tw.READ, 8 << 20 | of
            records += [tw.issue(start, *what), tw.complete(start + int(time), *what)]
        records.sort(key=lambda record: record.time_ns)
        (directory / name).write_bytes(tw.encode(records))
    return str(directory / "a"), str(directory / "b")


def test_of_many_devices_only_the_changed_one_is_shown(many: tuple[str, str]) -> None:
    found = compare_runs(([many[0]], [many[1]]), ())
    assert {row.device for row in found.changed()} == {"8:7", "all"}
    # Judged one by one, some unchanged devices would be shown.
    alone = [row.device for row in found.alone if row.shown]
    assert len(alone) > 3
    # Fewer rows are judged together, and their intervals are narrower.
    (few, whole) = (
        compare_runs(([many[0]], [many[1]]), (), devices=devices).rows[0].metric("mean")
        for devices in ([8 << 20], [])
    )
    assert (few.a, few.b) == (whole.a, whole.b)
    assert few.low is not None and whole.low is not None and few.low > whole.low


def test_rule_judges_its_figure_alone(many: tuple[str, str], capfd: Capture) -> None:
    found = compare_runs(([many[0]], [many[1]]), ())
    changed = {row.device for row in found.changed()}
    row, change = next(
        (row, change)
        for row in found.alone
        for change in row.shown
        if row.device not in changed and change.verdict == "worse" and change.metric != "iops"
    )
    rule = f"{row.device}/read.{change.metric} {'<>'[(change.change or 0) > 0]} 0%"
    _, err = printed(capfd, "--fail-if", rule, *many, status=1)
    assert err.startswith(f"blkiomon: {rule}: ")


def test_few_slices_give_no_verdict(runs: dict[str, Collected]) -> None:
    row = row_of(compare([runs["a0"]], [runs["few"]]), "read")
    assert {change.verdict for change in row.changes} == {"too little to tell"}
    assert row.metric("mean").change is not None


def test_json_and_traces_give_the_same_changes(traces: dict[str, Path], tmp_path: Path) -> None:
    rows = []
    for interval in (None, "0.001"):
        sides = []
        for name in ("a0", "slow0"):
            path = traces[name]
            if interval:
                path = tmp_path / name
                done = runner.call("-I", interval, "--json", path, traces[name])
                assert done.returncode == 0
            sides.append([collect([str(path)], patterns=False)])
        rows.append(compare(sides[0], sides[1]))
    for of_trace, of_json in zip(*rows, strict=True):
        for one, other in zip(of_trace.changes, of_json.changes, strict=True):
            assert (one.metric, one.a, one.b) == (other.metric, other.a, other.b)
            assert (one.low is None) == (other.low is None)


def test_percentiles_of_few_requests_have_no_interval(runs: dict[str, Collected]) -> None:
    row = row_of(compare([runs["a0"]], [runs["half"]], ("p99", "p99.5", "p99.6")), "read")
    assert [change.low is None for change in row.changes] == [False, True, True]
    assert [change.change is None for change in row.changes] == [False] * 3


def test_maximum_has_an_interval_and_no_verdict(runs: dict[str, Collected]) -> None:
    before, after = ([runs[f"{name}{i}"] for i in range(3)] for name in ("a", "slow"))
    for sides in (([runs["a0"]], [runs["slow0"]]), (before, after)):
        greatest = row_of(compare(*sides), "read").metric("max")
        assert greatest.change is not None
        assert greatest.low is not None and greatest.high is not None
        assert greatest.low <= greatest.change <= greatest.high
        assert greatest.verdict == "too little to tell"


def test_maxima_of_draws_are_those_of_units(runs: dict[str, Collected]) -> None:
    side = Side([runs[f"a{i}"] for i in range(3)], None).of(8 << 20 | 16)
    of_runs = [
        row_of(compare([runs[f"a{i}"]], [runs["a0"]]), "read").metric("max").a for i in range(3)
    ]
    ((drawn,),) = side.drawn(("max",), ["read"], Draws(3, 1, 2, 1))
    assert set(drawn) == set(of_runs)
    # Of three values, 19 of 27 draws with replacement contain the greatest.
    greatest = max(value for value in of_runs if value is not None)
    assert np.mean(drawn == greatest) == pytest.approx(19 / 27, abs=0.05)


# --- which devices --------------------------------------------------------------------------------


def test_single_devices_of_different_numbers_are_compared(runs: dict[str, Collected]) -> None:
    (row, *_) = compare([runs["a1"]], [runs["other"]])
    assert row.device == "8:16 -> 259:0"
    assert row.metric("mean").change == 0


def test_several_devices_are_compared_by_number_and_in_total(multi: Path) -> None:
    whole = collect([str(multi)], patterns=False)
    part = collect([str(multi)], devices=[7 << 20 | 1, 7 << 20 | 2], patterns=False)
    by_device = groupby(compare([whole], [part]), lambda row: row.device)
    of_both = [
        (device, [row.op for row in of_device if not row.only_in])
        for device, of_device in by_device
    ]
    assert [found for found in of_both if found[1]] == [
        ("7:1", ["read", "write", None]),
        ("7:2", ["write", "flush", None]),
        ("all", ["read", "write", "flush", None]),
    ]


# --- what only one side has -----------------------------------------------------------------------

SDA, SDB = 8 << 20, 8 << 20 | 16


def write_parts(path: Path, *parts: tuple[int, int, bool]) -> Path:
    """Requests by device and category, 200 of each; of some parts, every second one fails."""
    records = []
    for place, (device, category, has_errors) in enumerate(parts):
        for i in range(200):
            what = 8 * (i + 1000 * place), 4096, category, device
            start_ns = 10**9 + 500_000 * i
            end_ns = start_ns + 100_000 + 10_000 * (i % 7)
            records.append(tw.issue(start_ns, *what))
            records.append(tw.complete(end_ns, *what, error=5 * (has_errors and i % 2)))
    records.sort(key=lambda record: record.time_ns)
    path.write_bytes(tw.encode(records))
    return path


Parts = tuple[tuple[int, int, bool], ...]
SDA_READS, SDB_READS = (SDA, tw.READ, False), (SDB, tw.READ, False)


@pytest.mark.parametrize(
    "a, b, requests, only",
    [
        # An operation of a single device.
        (
            (SDA_READS,),
            (SDA_READS, (SDA, tw.WRITE, True)),
            {"8:0/all": (200, 400), "8:0/write": (0, 200)},
            "write of 8:0",
        ),
        # An operation of one of two devices.
        (
            (SDA_READS, SDB_READS),
            (SDA_READS, SDB_READS, (SDB, tw.WRITE, True)),
            {"8:16/all": (200, 400), "all/all": (400, 600), "all/write": (0, 200)},
            "write of 8:16, write of all",
        ),
        # A device with one operation.
        (
            (SDA_READS,),
            (SDA_READS, (SDB, tw.READ, True)),
            {"8:16/read": (0, 200), "all/read": (200, 400)},
            "read of 8:16",
        ),
        # A device with several operations.
        (
            (SDA_READS, (SDA, tw.WRITE, False)),
            (SDA_READS, (SDA, tw.WRITE, False), SDB_READS, (SDB, tw.WRITE, True)),
            {"8:16/all": (0, 400), "8:16/read": (0, 200), "all/all": (400, 800)},
            "8:16",
        ),
        # A device that reads in A, and writes in B.
        (
            (SDA_READS, SDB_READS),
            (SDA_READS, (SDB, tw.WRITE, True)),
            {"8:16/all": (200, 200), "8:16/write": (0, 200), "all/all": (400, 400)},
            "write of 8:16, write of all",
        ),
    ],
)
def test_what_only_one_side_has_is_named_and_counts_in_all(
    a: Parts,
    b: Parts,
    requests: dict[str, tuple[int, int]],
    only: str,
    tmp_path: Path,
    capfd: Capture,
) -> None:
    sides, output = [write_parts(tmp_path / "a", *a), write_parts(tmp_path / "b", *b)], "x.html"
    for first, other in ("AB", "BA"):
        data = json.loads(printed(capfd, "--json", *sides)[0])
        rows = {f"{row['device']}/{row['op']}": row for row in data["rows"]}
        found = {name: tuple(rows[name]["requests"]) for name in requests}
        assert found == {name: n if first == "A" else n[::-1] for name, n in requests.items()}
        for row in rows.values():
            n_a, n_b = row["requests"]
            is_one_sided = not (n_a and n_b)
            assert is_one_sided == (row["verdict"] in ("only in A", "only in B"))
            figures = row["changes"]["iops"], row["changes"]["mean"]
            assert all(
                (f[side] is None) == (not n)
                for f in figures
                for side, n in (("a", n_a), ("b", n_b))
            )
        assert f"only in {other}: {only}" in data["verdict"]
        assert data["verdict"].startswith(f"100 requests failed in {other}, none in {first}; ")
        page = tmp_path / output
        out, _ = printed(capfd, *sides, "--overwrite", "-o", page)
        assert f"only in {other}: {only}" in out and f"only in {other}: {only}" in page.read_text()
        assert out.count(f"  only in {other}\n") >= len(METRICS)
        sides.reverse()


@pytest.mark.parametrize("rule", ["all.errors > 99", "all/all.errors > 99", "8:16/all.errors > 99"])
@pytest.mark.parametrize("of_a", [(SDA_READS,), (SDA_READS, SDB_READS)])
def test_failed_requests_that_only_b_has_break_a_rule(
    rule: str, of_a: Parts, tmp_path: Path, capfd: Capture
) -> None:
    a = write_parts(tmp_path / "a", *of_a)
    b = write_parts(tmp_path / "b", *of_a, (SDB, tw.WRITE, True))
    _, err = printed(capfd, "--fail-if", rule, a, b, status=1)
    assert err == f"blkiomon: {rule}: 100\n"


def test_figures_of_all_are_those_of_all_requests(tmp_path: Path) -> None:
    paths = [
        write_parts(tmp_path / "a", SDA_READS, SDB_READS),
        write_parts(tmp_path / "b", SDA_READS, (SDB, tw.WRITE, False)),
    ]
    a, b = ([collect([str(path)], patterns=False)] for path in paths)
    of_all = [row for row in compare(a, b) if row.numbers == (None, None)]
    for side, path in enumerate(paths):
        total = blkiomon.summarize(path).total
        values = {c.metric: (c.a, c.b)[side] for c in row_of(of_all, None).changes}
        assert values["iops"] == pytest.approx(total.iops)
        assert values["p95"] == total.d2c_ns.percentile(95)
    assert row_of(of_all, None).metric("mean").verdict == NO_DIFFERENCE


@pytest.mark.parametrize(
    "rule, told",
    [
        ("write.errors > 99", "100"),
        ("write.errors > 100", None),
        ("8:0/write.max > 50us", "160 µs"),
        ("write.max > 50ms", None),
        ("write.iops < 9", None),
        ("write.mean > +10%", "A has no write requests"),
        ("8:0/write.mean > +10%", "A has no write requests of 8:0"),
        ("discard.max > 1s", "B has no discard requests"),
        ("discard.errors > 0", "B has no discard requests"),
        ("discard.iops < -10%", "B has no discard requests"),
        ("flush.errors > 0", "no row has flush requests"),
        ("8:32/all.errors > 0", "no row has requests of 8:32"),
    ],
)
def test_rule_about_what_only_one_side_has(rule: str, told: str | None, tmp_path: Path) -> None:
    a = write_parts(tmp_path / "a", SDA_READS, (SDA, tw.DISCARD, False))
    b = write_parts(tmp_path / "b", SDA_READS, (SDA, tw.WRITE, True))
    rows = compare_runs(([str(a)], [str(b)]), ()).alone
    said = rules.holds(rules.parse(rule), rows)
    assert said == (None if told is None else f"{rule}: {told}")


def test_selected_operation_of_one_side_is_named(tmp_path: Path, capfd: Capture) -> None:
    a = write_parts(tmp_path / "a", SDA_READS)
    b = write_parts(tmp_path / "b", SDA_READS, (SDA, tw.WRITE, True))
    out, _ = printed(capfd, "--op=read", "--op=write", a, b)
    assert "\nVerdict: 100 requests failed in B, none in A; no difference shown in 1 row; " in out
    assert "only in B: write of 8:0\n" in out
    _, err = printed(capfd, "--op=write", a, b, status=3)
    assert err == "blkiomon: not both sides have write requests\n"
    writes = write_parts(tmp_path / "writes", (SDA, tw.WRITE, False))
    _, err = printed(capfd, a, writes, status=3)
    assert err == "blkiomon: the sides have no operation in common\n"


def test_of_many_devices_of_one_side_the_failing_are_named_first(tmp_path: Path) -> None:
    more = [(SDA + 16 * i, tw.READ, i == 5) for i in range(1, 7)]
    sides = write_parts(tmp_path / "a", SDA_READS), write_parts(tmp_path / "b", SDA_READS, *more)
    found = compare_runs(([str(sides[0])], [str(sides[1])]), ())
    names = "read of 8:80, read of 8:16, read of 8:32 and 3 more"
    assert f"; only in B: {names}; " in found.verdict()
    assert found.changed()[0].device == "all"  # a certainly larger share failed
    assert found.changed()[1].device == "8:80"


def test_device_that_may_be_among_others_is_not_called_one_sided(tmp_path: Path) -> None:
    both = write_parts(tmp_path / "b", SDA_READS, SDB_READS)
    a = collect([str(write_parts(tmp_path / "a", SDA_READS))], patterns=False)
    b = collect([str(both)], patterns=False)
    names = [row.device for row in compare([replace(a, n_others=3)], [b])]
    assert names == ["8:0", "all"]


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("read.p99 > +10%", (None, "read", "p99", ">", 0.1, True)),
        ("  write.mean<-5% ", (None, "write", "mean", "<", -0.05, True)),
        ("all.max >= 1.5 s", (None, None, "max", ">=", 1.5e9, False)),
        ("8:16/read.p99.9 > 5ms", ("8:16", "read", "p99.9", ">", 5e6, False)),
        ("cciss/c0d0/read.p99 > 5ms", ("cciss/c0d0", "read", "p99", ">", 5e6, False)),
        ("sda/all.bandwidth<40MB/s", ("sda", None, "bandwidth", "<", 4e7, False)),
        ("all/flush.p99.90 <= 20us", ("all", "flush", "p99.9", "<=", 2e4, False)),
        ("discard.iops < 900", (None, "discard", "iops", "<", 900, False)),
        ("read.bandwidth < 40MB/s", (None, "read", "bandwidth", "<", 4e7, False)),
        ("all.errors > 0", (None, None, "errors", ">", 0, False)),
    ],
)
def test_valid_rules_are_parsed(text: str, expected: tuple[Any, ...]) -> None:
    rule = rules.parse(text)
    found = (rule.device, rule.op, rule.metric, rule.sign, rule.limit, rule.is_change)
    assert found[:4] == expected[:4] and found[5] == expected[5]
    assert found[4] == pytest.approx(expected[4])


@pytest.mark.parametrize(
    "text",
    [
        *("", "read", "read.p99", "read.p99 >", "p99 > 10%", "read.p99 = 10%", "read.p99 > ten"),
        *("reads.p99 > 10%", "read.p0 > 10%", "read.median > 10%", "read.p99 > 10", "read.p99>5m"),
        *("read.iops > 5ms", "read.errors > 5%", "read.bandwidth > 5", "read.p99 > 10% more"),
        *("/read.p99 > 10%", "read.p99 > 10%;", "read.p123 > 1ms", "read.p99 > nan%"),
    ],
)
def test_invalid_rules_are_refused(text: str, capfd: Capture) -> None:
    assert command.main(["--fail-if", text, str(MULTI), str(MULTI)]) == 2
    said = capfd.readouterr().err.splitlines()
    assert said[0].startswith("blkiomon: --fail-if") and said[1].startswith("Usage:")


def row(
    metric: str, a: float, b: float, low: float | None, high: float | None, **fields: Any
) -> DeviceChanges:
    change = Change(metric, a, b, b / a - 1, low, high)
    given: dict[str, Any] = {"device": "8:16", "numbers": (1, 1), "op": "read"}
    given |= {"requests": (10, 10), "errors": (0, 2), "changes": (change,)}
    return DeviceChanges(**given | fields)


@pytest.mark.parametrize(
    "text, interval, told",
    [
        ("read.p99 > +10%", (0.1, 0.3), "read.p99 > +10%: +20.0 %, 1.00 ms to 1.20 ms"),
        ("read.p99 > +10%", (-0.1, 0.3), None),  # noise
        ("read.p99 > +10%", (None, None), "read.p99 > +10%: +20.0 %, 1.00 ms to 1.20 ms"),
        ("read.p99 > +20.1%", (0.1, 0.3), None),
        ("read.p99 < +30%", (0.1, 0.3), "read.p99 < +30%: +20.0 %, 1.00 ms to 1.20 ms"),
        ("read.p99 > 1.1ms", (-0.1, 0.3), "read.p99 > 1.1ms: 1.20 ms"),
        ("8:16/read.p99 > 1300us", (0.1, 0.3), None),
        ("8:17/read.p99 > 1ms", (0.1, 0.3), "no row has read requests of 8:17"),
        ("flush.p99 > 1ms", (0.1, 0.3), "no row has flush requests"),
        ("all.p99 >= 1.2ms", (0.1, 0.3), "all.p99 >= 1.2ms: 1.20 ms"),
        ("read.errors > 1", (0.1, 0.3), "read.errors > 1: 2"),
        ("read.errors > 2", (0.1, 0.3), None),
    ],
)
def test_rule_that_holds_is_reported(text: str, interval: Any, told: str | None) -> None:
    said = rules.holds(rules.parse(text), [row("p99", 1e6, 1.2e6, *interval)])
    assert said == told or (told is not None and said is not None and told in said)


def test_rules_without_a_device_apply_to_all_devices() -> None:
    rows = [
        row("p99", 1e6, 9e6, 0.1, 9, device="8:0"),
        row("p99", 1e6, 2e6, 0.1, 9, device="all", numbers=(None, None)),
    ]
    assert rules.holds(rules.parse("read.p99 > 5ms"), rows) is None
    assert rules.holds(rules.parse("8:0/read.p99 > 5ms"), rows) is not None


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Terminals show any character."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def printed(capfd: Capture, *arguments: str | Path, status: int = 0) -> tuple[str, str]:
    assert command.main([str(a) for a in arguments]) == status
    out, err = capfd.readouterr()
    return out, err


def test_text_has_a_verdict_and_a_table(traces: dict[str, Path], capfd: Capture) -> None:
    out, err = printed(capfd, traces["a0"], traces["slow0"])
    assert not err
    lines = out.splitlines()
    assert lines[0].startswith(f"A: {traces['a0']} (0.1")
    assert re.match(
        r"Verdict: 3 rows worse, 0 without a difference shown; most changed: ", lines[3]
    )
    assert re.match(r"device +operation +figure +A +B +change +95 % interval$", lines[5])
    assert re.match(r"8:16 +\w+ +IOPS +[\d,]+ +[\d,]+ +", lines[6])
    assert re.search(r"\n +p50 .* worse\n", out)
    assert "µs" in out
    # Drawn from fixed seeds, also by another process.
    starts_drawn.cache_clear()
    assert printed(capfd, traces["a0"], traces["slow0"])[0] == out


def test_terminal_without_utf8_gets_ascii(
    traces: dict[str, Path], capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    out, _ = printed(capfd, traces["a0"], traces["slow0"])
    assert "us" in out.encode().decode("ascii")


def test_verdict_says_if_there_is_too_little_to_tell(tmp_path: Path, capfd: Capture) -> None:
    traces = []
    for name, ms in (("a", 1), ("b", 9)):
        records = [tw.issue(10**6, 8, 4096), tw.complete((1 + ms) * 10**6, 8, 4096)]
        (tmp_path / name).write_bytes(tw.encode(records))
        traces.append(tmp_path / name)
    out, _ = printed(capfd, *traces)
    assert "\nVerdict: too little to tell in 1 row\n" in out


def test_unchanged_rows_are_folded(traces: dict[str, Path], capfd: Capture) -> None:
    out, _ = printed(capfd, traces["a0"], traces["a0"])
    assert out.endswith("\nVerdict: no difference shown in 3 rows\n--all lists them\n")
    out, _ = printed(capfd, "--all", traces["a0"], traces["a0"])
    assert out.count(NO_DIFFERENCE) == 1 + 3 * (len(METRICS) - 2)


def certain(device: str, *changes: tuple[str, float, float]) -> DeviceChanges:
    made = tuple(Change(name, 1.0, 1 + low, low, low, high) for name, low, high in changes)
    return DeviceChanges(device, (1, 1), "read", (10, 10), (0, 0), made)


def test_largest_certain_change_comes_first() -> None:
    rows = [
        certain("same", ("p50", -0.1, 0.1)),
        certain("uncertain", ("p50", 0.02, 9.0)),
        certain("sure", ("p50", 0.5, 0.6), ("p99", 0.9, 1.1)),
        certain("halved", ("iops", -0.6, -0.4)),
    ]
    found = Comparison([], [], rows)
    assert [row.device for row in found.changed()] == ["sure", "halved", "uncertain"]
    assert [change.metric for change in rows[2].shown] == ["p99", "p50"]
    assert found.verdict() == (
        "3 rows worse, 1 without a difference shown; most changed: read of sure, p99 +90.0 % "
        "(1 ns to 2 ns)"
    )


def test_row_with_figures_that_contradict_each_other_is_mixed() -> None:
    rows = [
        certain("deep", ("iops", 5.0, 6.0), ("mean", 0.9, 1.1), ("p95", 2.0, 3.0)),
        certain("fast", ("mean", -0.2, -0.1), ("p95", -0.1, 0.1)),
        certain("slow", ("mean", 0.1, 0.2), ("p95", -0.1, 0.1)),
    ]
    rows[0] = replace(rows[0], changes=(*rows[0].changes, Change("max", 9.0, 1.0, -0.9, -1, -0.8)))
    assert [row.verdict for row in rows] == ["mixed", "better", "worse"]
    found = Comparison([], [], rows)
    assert found.verdict() == (
        "1 row worse, 1 row better, 1 row mixed, 0 without a difference shown; most changed: "
        "read of deep, IOPS +500.0 % (1.00 to 6.00), p95 +200.0 % (1 ns to 3 ns)"
    )


def test_more_requests_in_flight_are_mixed(tmp_path: Path, capfd: Capture) -> None:
    # Twice the requests, each of which takes twice as long.
    sides = [
        write_trace(tmp_path / name, ((10**9 + step * i, time) for i in range(10**8 // step)))
        for name, step, time in (("a", 100_000, 90_000), ("b", 50_000, 180_000))
    ]
    output = tmp_path / "x.svg"
    out, _ = printed(capfd, *sides, "--chart=iops", "-o", output)
    (verdict,) = [line for line in out.splitlines() if line.startswith("Verdict: ")]
    assert verdict.startswith("Verdict: 1 row mixed, 0 without a difference shown; most changed: ")
    assert re.search(r"mean \+100.0 % \(90.0 µs to 180 µs\), IOPS \+99.\d % \(", verdict)
    shown = " ".join(ET.fromstring(output.read_text()).itertext())
    assert verdict in " ".join(shown.split())
    data = json.loads(printed(capfd, *sides, "--json", "-o", tmp_path / "x.html")[0])
    assert f"Verdict: {data['verdict']}" == verdict
    assert [row["verdict"] for row in data["rows"]] == ["mixed"]
    assert ">1 row mixed, 0 without a difference shown" in (tmp_path / "x.html").read_text()


def with_errors(errors: tuple[int, int], *changes: tuple[str, float, float]) -> DeviceChanges:
    return replace(certain("8:16", *changes), errors=errors, requests=(1000, 1000))


@pytest.mark.parametrize(
    "errors, expected",
    [
        ((0, 30), "30 requests failed in B, none in A; 1 row worse, 0 without a difference shown"),
        ((30, 0), "30 requests failed in A, none in B; 1 row better, 0 without a difference shown"),
        ((10, 30), "30 requests failed in B, 10 in A; 1 row worse, 0 without a difference shown"),
        ((5, 6), "6 requests failed in B, 5 in A; no difference shown in 1 row"),
        ((1, 1), "1 request failed in B, 1 in A; no difference shown in 1 row"),
        ((0, 0), "no difference shown in 1 row"),
    ],
)
def test_failed_requests_come_first_in_the_verdict(errors: tuple[int, int], expected: str) -> None:
    assert Comparison([], [], [with_errors(errors, ("p50", -0.1, 0.1))]).verdict() == expected


def test_more_failed_requests_contradict_lower_latencies() -> None:
    rows = [with_errors((0, 30), ("p50", -0.2, -0.1)), certain("8:32", ("p50", 0.5, 0.6))]
    found = Comparison([], [], rows[::-1])
    assert [row.verdict for row in rows] == ["mixed", "worse"]
    assert found.changed() == rows
    assert found.verdict() == (
        "30 requests failed in B, none in A; 1 row worse, 1 row mixed, 0 without a difference "
        "shown; most changed: read of 8:32, p50 +50.0 % (1 ns to 2 ns)"
    )


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ((4096, 8192), "mean sizes differ: read 4.10 kB in A, 8.19 kB in B; 1 row"),
        ((40960, 43008), "1 row"),
        ((4096, 4096), "no difference"),
    ],
)
def test_verdict_names_sizes_that_differ_by_more_than_a_tenth(
    sizes: tuple[int, int], expected: str, tmp_path: Path, capfd: Capture
) -> None:
    sides = [tmp_path / side for side in "ab"]
    for side, size in zip(sides, sizes):
        records = tw.encode(
            record
            for i in range(40)
            for record in (
                tw.issue(10**9 + 10**6 * i, 8 * i, size, tw.READ, 8 << 20),
                tw.complete(10**9 + 10**6 * i + 10**5, 8 * i, size, tw.READ, 8 << 20),
            )
        )
        side.write_bytes(records)
    verdict = json.loads(printed(capfd, *sides, "--json")[0])["verdict"]
    assert verdict.startswith(expected)


def test_share_of_failed_requests_decides() -> None:
    longer = replace(with_errors((30, 300), ("p50", -0.1, 0.1)), requests=(100, 1000))
    assert (longer.errors_verdict, longer.verdict) == ("", NO_DIFFERENCE)


def test_many_rows_with_chance_failures_show_no_difference(runs: dict[str, Collected]) -> None:
    sides = [runs["a0"]], [runs["a1"]]
    # Of one row, such a difference is certain. Of a hundred, some have it by chance.
    one = replace(with_errors((5, 25), ("p50", -0.1, 0.1)), requests=(1000, 1000))
    rows = [replace(one, device=f"8:{i}") for i in range(100)]
    assert one.errors_verdict == "worse"
    (alone,) = judged_together(rows[:1], *sides)
    assert alone.errors_verdict == "worse"
    # Rows without failures, and those that only one side has, are not judged.
    without = [replace(row, errors=(0, 0)) for row in rows[1:]]
    of_one_side = [replace(row, requests=(0, 1000)) for row in rows[1:]]
    assert judged_together([one, *without, *of_one_side], *sides)[0].errors_verdict == "worse"
    assert {row.errors_verdict for row in judged_together(rows, *sides)} == {""}
    more = replace(one, errors=(5, 100))
    assert judged_together([more, *rows], *sides)[0].errors_verdict == "worse"


def test_identical_systems_with_errors_seldom_differ(runs: dict[str, Collected]) -> None:
    sides = [runs["a0"]], [runs["a1"]]
    random = np.random.default_rng(0)
    n_changed = 0
    for _ in range(40):
        failed = random.binomial(500, 0.03, (60, 2)).tolist()
        rows = [replace(with_errors((a, b)), requests=(500, 500)) for a, b in failed]
        n_changed += any(row.errors_verdict for row in judged_together(rows, *sides))
    assert n_changed <= 40 * 0.05


def test_failed_requests_are_counted_once() -> None:
    rows = [
        replace(with_errors((1, n)), numbers=numbers, op=op)
        for numbers in ((1, 1), (2, 2), (None, None))
        for op, n in (("read", 3), ("write", 4), (None, 7))
    ]
    assert Comparison([], [], rows).failed() == (1, 7)
    assert Comparison([], [], rows[:3]).failed() == (1, 7)
    assert Comparison([], [], rows[:2]).failed() == (2, 7)


def test_run_with_failed_requests_is_worse(tmp_path: Path, capfd: Capture) -> None:
    sides = []
    for name in ("a", "b"):
        records = []
        for i in range(2000):
            what, start = (8 * i, 4096, tw.READ, 8 << 20), 10**9 + 50_000 * i
            is_bad = name == "b" and i % 4 > 0
            end = tw.complete(start + 40_000 // (1 + is_bad), *what, error=5 * is_bad)
            records += [tw.issue(start, *what), end]
        sides.append(tmp_path / name)
        sides[-1].write_bytes(tw.encode(records))
    output = tmp_path / "x.html"
    out, _ = printed(capfd, *sides, "-o", output)
    verdict = "1,500 requests failed in B, none in A; 1 row mixed, 0 without a difference shown"
    assert f"\nVerdict: {verdict}; most changed: " in out
    assert re.search(r"\n +errors +0 +1,500 +worse\n", out)
    assert verdict in output.read_text()
    assert '0 → 1,500<br/><span class="worse">worse</span>' in output.read_text()


def test_json_has_all_changes(traces: dict[str, Path], capfd: Capture) -> None:
    before = [str(traces["a0"]), str(traces["a1"])]
    out, err = printed(capfd, "--json", *before, ":", traces["slow0"], traces["slow1"])
    data = json.loads(out)
    assert data["a"] == before and not err
    assert (data["rows"][0]["device"], data["rows"][0]["op"]) == ("8:16", "read")
    assert list(data["rows"][0]["changes"]) == list(METRICS)
    assert set(data["rows"][0]["changes"]["p99"]) == {"a", "b", "change", "low", "high", "verdict"}


def test_page_equals_json(traces: dict[str, Path], tmp_path: Path, capfd: Capture) -> None:
    output = tmp_path / "x.html"
    out, _ = printed(capfd, traces["a0"], traces["slow0"], "--json", "-o", output, "--title=<T>")
    page = output.read_text()
    assert "<title>&lt;T&gt;</title>" in page and "http:" not in page and "https:" not in page
    root = ET.fromstring(page.partition("\n")[2])
    (script,) = [e for e in root.iter("script") if e.get("id") == "figures"]
    assert json.loads(script.text or "") == json.loads(out)
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for words in ("Percentiles", "p99 over time", "worse", "var(--A)", "var(--B)"):
        assert words in page
    (charts,) = [e for e in root.iter("div") if e.get("id") == "charts"]
    assert len(list(charts.iter("svg"))) == 4  # without scripts; with them, canvases
    assert len(page) < 1_000_000


def test_picture_is_drawn(traces: dict[str, Path], tmp_path: Path, capfd: Capture) -> None:
    output = tmp_path / "x.png"
    printed(capfd, "--chart=heat", "--op=read", "-o", output, traces["a0"], traces["slow0"])
    assert output.read_bytes().startswith(b"\x89PNG")


def test_picture_names_the_runs_and_what_is_selected(
    traces: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.chdir(traces["a0"].parent)
    output = tmp_path / "x.svg"
    printed(capfd, "--chart=iops", "--op=read", "-o", output, "a0", ":", "slow0", "a1")
    shown = "".join(ET.fromstring(output.read_text()).itertext())
    for line in ("A: a0 (0.12", "B: slow0, a1 (2 runs, 0.25", "only read"):
        assert line in shown


def test_chart_of_a_report_is_refused(traces: dict[str, Path], capfd: Capture) -> None:
    sides = traces["a0"], traces["slow0"]
    _, err = printed(capfd, "--chart=devices", "-o", "x.png", *sides, status=2)
    expected = "--chart takes heat, iops, bandwidth, percentiles or sizes, not 'devices'"
    assert err.startswith(f"blkiomon: {expected}\n")


def test_losses_are_stated_for_their_side(tmp_path: Path, capfd: Capture) -> None:
    lossy, output = DATA / "loop-lossy-dc.bin", tmp_path / "x.html"
    note = " lost: the true numbers of requests, IOPS and bandwidth are higher"
    # That trace ends inside a record.
    out, _ = printed(capfd, "-o", output, MULTI, lossy, status=3)
    assert re.search(rf"^B: [\d,]+ events were{note}$", out, re.MULTILINE)
    assert not re.search(rf"^A: .*{note}$", out, re.MULTILINE)
    assert output.read_text().count(f"{note}.</p>") == 1


def test_rule_that_holds_exits_with_1(traces: dict[str, Path], capfd: Capture) -> None:
    sides = traces["a0"], traces["slow0"]
    broken = ["--fail-if", "read.p50 > +10%", "--fail-if=all.p90 > 1us"]
    out, err = printed(capfd, *broken, "--fail-if=all.errors > 0", *sides, status=1)
    first, second = err.splitlines()
    assert first.startswith("blkiomon: read.p50 > +10%: +")
    assert second.startswith("blkiomon: all.p90 > 1us: ")
    assert " p90 " in out
    printed(capfd, "--fail-if=read.p50 > +40%", "--fail-if", "read.max > 5s", *sides)


def test_rule_says_nothing_about_an_incomplete_trace(tmp_path: Path, capfd: Capture) -> None:
    cut = tmp_path / "cut.bin"
    cut.write_bytes(MULTI.read_bytes()[:-1])
    _, err = printed(capfd, "--fail-if=all.p90 > 0us", MULTI, cut, status=3)
    assert "all.p90" not in err and err.count("\n") == 1


def test_run_that_is_named_twice_is_refused(
    traces: dict[str, Path], tmp_path: Path, capfd: Capture
) -> None:
    a, b, link = traces["a0"], traces["slow0"], tmp_path / "link"
    link.hardlink_to(b)
    _, err = printed(capfd, a, a, a, ":", b, traces["slow1"], status=2)
    assert err.startswith(f"blkiomon: side A has the trace {a} twice: its runs must be different\n")
    _, err = printed(capfd, a, traces["a1"], ":", b, link, status=2)
    also = f"side B has the trace {b} twice, also as {link}: its runs must be different"
    assert err.startswith(f"blkiomon: {also}\n")
    printed(capfd, a, a)  # one run on both sides


@pytest.mark.parametrize(
    "arguments", [[], ["a"], ["a", "b", "c"], [":", "a"], ["a", ":", "b", ":", "c"], ["--x"]]
)
def test_misuse_shows_the_usage(arguments: list[str], capfd: Capture) -> None:
    _, err = printed(capfd, *arguments, status=2)
    assert err.splitlines()[1].startswith("Usage: blkiomon compare")
    _, err = printed(capfd, "-o", "x.doc", "a", "b", status=2)
    assert "x.doc: -o takes a name that ends in .html, .png, .svg or .pdf" in err


def test_failure_is_a_line(
    traces: dict[str, Path], multi: Path, tmp_path: Path, capfd: Capture
) -> None:
    def said(*arguments: str | Path, status: int = 3) -> str:
        out, err = printed(capfd, *arguments, status=status)
        assert not out and err.count("\n") == 1
        return err

    assert "no such file" in said(traces["a0"], tmp_path / "missing")
    assert "the sides have no device in common: A has 8:16, B has 7:1, 7:2" in said(
        traces["a0"], multi
    )
    assert "no request of 8:1" in said("--device=8:1", traces["a0"], traces["a1"])
    stats = tmp_path / "stats"
    assert runner.call("-I", "1", "-b", stats, multi).returncode == 0
    assert "hold no percentiles" in said(stats, stats)
    missing = tmp_path / "no" / "x.html"
    assert "cannot write" in said("-o", missing, traces["a0"], traces["a1"], status=4)


def test_comparison_runs_from_the_command_line(traces: dict[str, Path]) -> None:
    done = runner.run("compare", "--all", traces["a0"], traces["a0"])
    assert (done.returncode, done.stderr) == (0, b"")
    # All but the two figures of the slowest few: of reads, of writes, and of both.
    assert done.stdout.count(b"no difference shown") == 1 + 3 * (len(METRICS) - 2)


def test_operations_and_period_can_be_selected() -> None:
    path = str(DATA / "loop-phases-dc.bin")
    found = json.loads(runner.succeed("compare", "--json", "--op=read", "--to=5", path, path))
    assert {row["op"] for row in found["rows"]} == {"read"}
    assert (
        runner.call("compare", "--op=read", "--fail-if=write.max>1us", path, path).returncode == 1
    )
    done = runner.run("compare", "--op=discard", path, path)
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr == b"blkiomon: not both sides have discard requests\n"
