"""The page of a comparison in a browser: selection, figures, keyboard, and silence."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runner
import tracewriter as tw
from pages import accessible_names, opened, seen, shown

from blkiomon.commands.report import compare
from blkiomon.commands.report.collect import collect
from blkiomon.commands.report.collected import Collected
from blkiomon.engine import layout
from blkiomon.formats.units import device_text
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.value import merge
from tools.browser import Browser, Page

SDA, SDB = 8 << 20, 8 << 20 | 16


def write_run(path: Path, seed: int, lengths_s: dict[int, float], factor: float = 1.0) -> Path:
    """Reads and writes at random times, of each device for so long; those of sdb get slower."""
    rng = np.random.default_rng(seed)
    records = []
    for device, length_s in lengths_s.items():
        starts = rng.integers(10**9, 10**9 + int(length_s * 1e9), int(3000 * length_s)).tolist()
        times = rng.lognormal(12, 0.6, len(starts)) * (factor if device == SDB else 1)
        for i, (start, time) in enumerate(zip(starts, times.astype(int).tolist())):
            what = 8 * i, 4096, (tw.READ, tw.WRITE)[i % 2], device
            records += [tw.issue(start, *what), tw.complete(start + time, *what)]
    records.sort(key=lambda record: record.time_ns)
    path.write_bytes(tw.encode(records))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """B is shorter than A, so that its slices are of another length at first."""
    directory = tmp_path_factory.mktemp("runs")
    return (
        write_run(directory / "a", 1, {SDA: 0.8, SDB: 0.8}),
        write_run(directory / "b", 2, {SDA: 0.4, SDB: 0.3}, 1.5),
    )


@pytest.fixture(scope="module")
def found(runs: tuple[Path, Path]) -> tuple[Collected, ...]:
    return tuple(collect([str(path)], patterns=False) for path in runs)


@pytest.fixture(scope="module")
def path(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "changes.html"
    assert compare.main(["-o", str(path), *map(str, runs)]) == 0
    return path


def expected(
    run: Collected, start_s: float, end_s: float, device: int | None, ops: list[int]
) -> dict[str, Any]:
    """The library's figures of the slices whose middle is in a time since the start."""
    first_ns = run.slices[0].start_ns
    parts = [
        item
        for item in run.slices
        if start_s <= ((item.start_ns + item.end_ns) / 2 - first_ns) / 1e9 < end_s
    ]
    groups = [
        g
        for g in (merge(parts).groups() if parts else [])
        if g.op in [layout.OPS[op] for op in ops] and device in (None, g.device) and g.requests
    ]
    d2c = Distribution().merge(*(g.d2c_ns for g in groups)) if groups else Distribution()
    return {
        "requests": sum(g.requests for g in groups),
        "bytes": sum(g.bytes for g in groups),
        "max": d2c.max or 0,
        **{f"p{p:g}": d2c.percentile(p) for p in (50, 90, 99, 99.9)},
    }


def test_figures_of_any_selection_equal_the_librarys(
    page: Page, found: tuple[Collected, ...]
) -> None:
    choices = random.Random(3)
    edges_s = shown(page, "[...charts.run.edges_s]")
    names = shown(page, "charts.run.devices")
    numbers = {device_text(number): number for number in (SDA, SDB)}
    n_filled = 0
    for _ in range(20):
        start = choices.randrange(len(edges_s) - 1)
        end = choices.randint(start + 1, len(edges_s) - 1)
        at, ops = choices.randint(-1, 1), choices.sample([0, 1], choices.randint(1, 2))
        select = f"from: {start}, to: {end}, device: {at}, ops: new Set({ops})"
        got = shown(page, f"{{ charts.select({{{select}}}); return charts.figures() }}")
        device = numbers[names[at]] if at >= 0 else None
        for run, figures in zip(found, got, strict=True):
            want = expected(run, edges_s[start], edges_s[end], device, ops)
            assert {name: figures[name] for name in want} == want
            n_filled += want["requests"] > 0
    assert 20 < n_filled < 40  # B ends before A


def test_table_has_both_sides_and_the_change_of_the_selection(page: Page) -> None:
    shown(page, "charts.select({ device: charts.run.devices.indexOf('8:16'), to: 40 })")
    rows = page.run(
        "[...document.querySelectorAll('.one tbody tr')].map((r) => "
        "[...r.cells].map((c) => c.textContent))"
    )
    assert [row[0] for row in rows] == [
        text for op in ("read", "write", "all") for text in (f"{op} A", f"{op} B", "change")
    ]
    a, b = shown(page, "charts.figures().map((f) => f.p50)")
    assert rows[-1][4] == f"{(b / a - 1) * 100:+.1f} %"
    assert rows[-1][7] == ""  # the greatest is one request


def test_device_that_changed_comes_first_and_a_row_selects_it(page: Page) -> None:
    assert shown(page, "charts.run.devices") == ["8:16", "8:0"]
    assert page.run("document.querySelector('.devices li').textContent").startswith("8:16+")
    title = page.run("document.querySelector('#figure-devices b').textContent")
    assert title == "Devices, those that changed first"
    page.run("document.querySelector('button.pick[data-op=\"1\"]').click()")
    assert shown(page, "[charts.part.device, [...charts.part.ops]]") == [0, [1]]


def test_row_of_one_side_selects_its_device(browser: Browser, tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", 1, {SDA: 0.2}),
        write_run(tmp_path / "b", 2, {SDA: 0.2, SDB: 0.2}),
    ]
    assert compare.main(["-o", str(tmp_path / "x.html"), *map(str, runs)]) == 0
    page = opened(browser, tmp_path / "x.html")
    assert set(shown(page, "charts.run.devices")) == {"8:0", "8:16"}
    rows = "[...document.querySelectorAll('tbody tr')]"
    of_row = f"{rows}.find((row) => /8:16.*only in B/s.test(row.textContent))"
    page.run(f"{of_row}.querySelector('button').click()")
    assert shown(page, "charts.run.devices[charts.part.device]") == "8:16"
    assert shown(page, "charts.figures().map((f) => f.requests > 0)") == [False, True]


def test_heat_maps_have_one_scale_and_lines_end_with_their_run(page: Page) -> None:
    ranges = shown(page, "charts.heats.map((heat) => heat.plot.y_log)")
    assert ranges[0] == ranges[1]
    ends = shown(
        page, "charts.runs.map((run) => run.edges_s[run.known_s.findLastIndex(Boolean) + 1])"
    )
    assert ends[1] == pytest.approx(0.4, abs=0.01) and ends[0] == pytest.approx(0.8, abs=0.01)


def test_keyboard_selects_time_and_device(page: Page) -> None:
    page.run("document.querySelector('#figure-heat_A canvas').focus()")
    page.key("ArrowRight")
    tip = page.run("document.getElementById('tip').textContent")
    assert ": A " in tip and "; B " in tip
    for _ in range(4):
        page.key("ArrowRight", shift=True)
    page.key("Enter")
    assert shown(page, "[charts.part.from, charts.part.to]") == [0, 5]
    page.key("Escape")
    page.run("document.querySelector('.devices button').focus()")
    page.key(" ")
    assert shown(page, "charts.part.device") == 0
    page.run("document.querySelector('.controls button').focus()")
    page.key("Enter")
    assert shown(page, "[...charts.part.ops]") == [1]


def test_everything_that_acts_has_a_name(page: Page) -> None:
    accessible_names(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_page_fits_any_width(page: Page, width: int, scheme: str) -> None:
    with seen(page, width, scheme):
        assert page.run("document.documentElement.scrollWidth") <= width


def test_page_without_scripts_has_charts_and_tables(browser: Browser, path: Path) -> None:
    page = browser.page()
    page.resize(400, 900)
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.call("Page.navigate", url=path.as_uri())
    loaded = "document.querySelector('footer') !== null && document.readyState === 'complete'"
    runner.until(lambda: page.run(loaded), "the page")
    assert page.run("document.querySelectorAll('#charts svg path').length") > 20
    assert page.run("document.querySelectorAll('canvas').length") == 0
    assert page.run("document.documentElement.scrollWidth") <= 400


def test_page_logs_nothing_to_the_console_and_loads_nothing(page: Page, path: Path) -> None:
    page.open(path)
    shown(page, "charts.figures()")
    assert page.messages == []
    assert {url for url in page.requests if not url.startswith("data:")} == {path.as_uri()}


def test_several_runs_of_a_side_and_devices_with_other_numbers_are_compared(
    browser: Browser, tmp_path: Path
) -> None:
    lengths = (0.05, 0.06, 0.05)
    names = [
        write_run(tmp_path / f"{i}", i, {device: length})
        for i, (device, length) in enumerate(zip((SDA, SDA, SDB), lengths))
    ]
    output = tmp_path / "page.html"
    sides = [str(names[0]), str(names[1]), ":", str(names[2])]
    assert compare.main(["-o", str(output), "--title", "</script><b>", *sides]) == 0
    page = opened(browser, output)
    assert shown(page, "charts.run.devices") == ["8:0 → 8:16"]
    assert shown(page, "charts.figures().map((f) => f.requests)") == [330, 150]
    assert shown(page, "charts.runs.map((r) => r.width_s(0, r.n_slices))") == pytest.approx(
        [0.11, 0.05], rel=0.05
    )
    assert page.run("document.querySelector('h1').textContent") == "</script><b>"
    assert page.messages == []
