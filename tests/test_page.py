"""The page of a report in a browser: selection, figures, keyboard, narrow and dark, and silence."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runner
import tracewriter as tw
from pages import accessible_names, opened, seen, shown

from blkiomon.commands import report
from blkiomon.commands.report import page as page_module
from blkiomon.commands.report import selection
from blkiomon.commands.report.cells import Cells, bounded, coarser_note, packed
from blkiomon.commands.report.collect import collect
from blkiomon.commands.report.collected import Collected
from blkiomon.commands.topology import save
from blkiomon.engine import layout
from blkiomon.formats.units import device_text
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.value import Group, merge
from blkiomon.library import summarize
from blkiomon.outputs.opening import Policy
from blkiomon.sources.topology import Device, Topology
from tools.browser import Browser, Page

DATA = Path(__file__).parent / "data"
MULTI = DATA / "loop-multi-dc.bin"
SLOW_PATH = DATA / "san/traces/iscsi-slow-path"
"""A multipath map and its two paths, with their topology."""

FIGURES = ("requests", "bytes", "errors", "requeues", "min", "max", "p50", "p90", "p99", "p99.9")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real trace of three devices."""
    path = tmp_path_factory.mktemp("page") / "multi.html"
    assert report.main(["-o", str(path), str(MULTI)]) == 0
    return path


@pytest.fixture(scope="module")
def found() -> Collected:
    return collect([str(MULTI)])


def select(page: Page, start: int, end: int, device: int, ops: list[int]) -> None:
    values = f"from: {start}, to: {end}, device: {device}, ops: new Set({ops})"
    shown(page, f"charts.select({{{values}}})")


def box(page: Page, selector: str) -> Any:
    rectangle = f"document.querySelector({selector!r}).getBoundingClientRect()"
    return page.run(f"(({{x, y, width, height}}) => [x, y, width, height])({rectangle})")


def range_of(page: Page) -> str:
    return str(page.run("document.getElementById('range').textContent"))


def groups_of(found: Collected, start: int, end: int, device: int, ops: list[int]) -> list[Group]:
    names = [layout.OPS[op] for op in ops]
    merged = merge(found.slices[start:end])
    return [
        g
        for g in merged.groups()
        if g.op in names and (device < 0 or g.device == device) and g.requests
    ]


def expected(groups: list[Group]) -> dict[str, Any]:
    d2c = Distribution().merge(*(g.d2c_ns for g in groups)) if groups else Distribution()
    return {
        "requests": sum(g.requests for g in groups),
        "bytes": sum(g.bytes for g in groups),
        "errors": sum(g.errors for g in groups),
        "requeues": sum(g.requeues for g in groups),
        "min": d2c.min,
        "max": d2c.max,
        **{f"p{p:g}": d2c.percentile(p) for p in (50, 90, 99, 99.9)},
    }


# --- figures --------------------------------------------------------------------------------------


def test_figures_of_any_selection_equal_the_librarys(page: Page, found: Collected) -> None:
    choices = random.Random(3)
    names = shown(page, "charts.run.devices")
    used = shown(page, "charts.ops_used")
    n = len(found.slices)
    for _ in range(20):
        start = choices.randrange(n)
        end = choices.randint(start + 1, n)
        at = choices.randint(-1, len(names) - 1)
        ops = choices.sample(used, choices.randint(1, len(used)))
        device = -1 if at < 0 else next(d for d in found.devices if device_text(d) == names[at])
        select(page, start, end, at, ops)
        want = expected(groups_of(found, start, end, device, ops))
        if not want["requests"]:
            assert shown(page, "charts.figures().requests") == 0
            continue
        got = shown(page, "charts.figures()")
        assert {name: got[name] for name in FIGURES} == want
        total = page.run("document.querySelector('#summary tr.total').textContent")
        assert f"{want['requests']:,}" in total


@pytest.mark.parametrize("kind", ["trace", "json"])
def test_request_on_a_map_and_its_path_counts_once_in_all_devices(
    browser: Browser, tmp_path: Path, kind: str
) -> None:
    trace, output = SLOW_PATH, tmp_path / "page.html"
    if kind == "json":
        trace = tmp_path / "run.jsonl"
        runner.succeed("-I1", "--json", trace, SLOW_PATH)
    assert report.main(["-o", str(output), str(trace)]) == 0
    page = opened(browser, output)
    total = page.run("JSON.parse(document.getElementById('figures').textContent).whole.total")
    of_map = summarize(SLOW_PATH).device("254:0")
    assert total["requests"] == of_map.requests == shown(page, "charts.figures()")["requests"]
    assert total["errors"] == shown(page, "charts.figures()")["errors"] == 0
    tiles = page.run("[...document.querySelectorAll('.tiles dd')].map((e) => e.textContent)")
    row = "[...document.querySelector('#summary tr.total').cells].map((e) => e.textContent)"
    assert page.run(row)[2] == tiles[0] == "11,148"
    assert page.run(row)[4] == tiles[2] == "301"
    most = page.run("document.querySelector('#figure-iops canvas').ariaLabel")
    device = shown(page, "charts.ranking.find(({n}) => n === 11148).device")
    select(page, 0, shown(page, "charts.run.n_slices"), device, [0])
    assert page.run("document.querySelector('#figure-iops canvas').ariaLabel") == most
    part = "{...charts.part, device, ops: new Set([0, 6])}"
    failed = shown(page, f"charts.run.devices.map((_, device) => charts.figures({part}).errors)")
    assert sorted(failed) == [0, 0, 2]


def test_tables_follow_the_selection(page: Page, found: Collected) -> None:
    select(page, 100, 140, -1, [0])
    rows = page.run("[...document.querySelectorAll('#summary tbody tr')].map((r) => r.textContent)")
    (read,) = groups_of(found, 100, 140, -1, [0])
    assert len(rows) == 3 and rows[-1].startswith(f"7:1read{read.requests:,}")
    times = page.run(
        "[...document.querySelectorAll('#slow tbody tr')]"
        ".map((r) => parseFloat(r.cells[0].textContent))"
    )
    edges_s = shown(page, "[...charts.edges]")
    assert all(time <= edges_s[1] for time in times if time is not None)


def test_times_of_a_later_part_count_from_the_first_record(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "later.html"
    assert report.main(["-o", str(path), "--from", "2", str(MULTI)]) == 0
    page = opened(browser, path)
    assert shown(page, "charts.run.begin_s") == 2
    assert range_of(page).startswith("Whole run: 2.0")
    rows = "[...document.querySelectorAll('#slow tbody tr')].map((row) => row.textContent)"
    issued = [float(row.split(" s")[0]) for row in page.run(rows)]
    assert len(issued) == 20 and 2 <= min(issued) <= max(issued) < 3.1
    last_s = "Math.max(...charts.run.sample_us) / 1e6 - charts.run.edges_s[charts.run.n_slices]"
    assert -1 < shown(page, last_s) <= 0
    static = re.search(
        r"<h2>Slowest requests</h2>.*?<tbody>.*?([0-9.]+) s<", path.read_text(), re.S
    )
    assert static and float(static[1]) == issued[0]


def test_few_requests_are_no_curve_and_have_grey_percentiles(
    browser: Browser, tmp_path: Path
) -> None:
    records = []
    for i in range(9):
        at = 10**9 + i * 10**6
        records += [tw.issue(at, 8 * i, 4096), tw.complete(at + 10**5 * (i + 1), 8 * i, 4096)]
    (tmp_path / "trace").write_bytes(tw.encode(records))
    output = tmp_path / "page.html"
    assert report.main(["-o", str(output), str(tmp_path / "trace")]) == 0
    page = opened(browser, output)
    grey = page.run("[...document.querySelectorAll('#summary .few')].map((e) => e.textContent)")
    assert set(grey) == {"900 µs of 9"}
    assert shown(page, "charts.run.over_time(charts.part, 1).every((p) => p.p50 === null)")
    calls = shown(
        page,
        "{ const calls = []; Plot.prototype.staircase = () => calls.push(1);"
        " charts.draw_percentiles(charts.plots.percentiles); return calls.length }",
    )
    assert calls == 0


# --- pointer and keyboard -------------------------------------------------------------------------


def test_dragging_selects_a_part_of_the_time(page: Page, found: Collected) -> None:
    left, top, width, _ = box(page, "#figure-heat canvas")
    margin, plot = 112, width - 112 - 8
    page.drag((left + margin + plot / 4, top + 90), (left + margin + plot / 2, top + 90))
    start, end = shown(page, "[charts.part.from, charts.part.to]")
    edges_s = shown(page, "[...charts.run.edges_s]")
    assert edges_s[start] == pytest.approx(edges_s[-1] / 4, abs=0.02)
    assert edges_s[end] == pytest.approx(edges_s[-1] / 2, abs=0.02)
    assert range_of(page).startswith("Selected: ")
    want = expected(groups_of(found, start, end, -1, list(range(len(layout.OPS)))))
    assert shown(page, "charts.figures()['p99']") == want["p99"]
    page.key("Escape")
    assert range_of(page).startswith("Whole run: ")


def test_keyboard_selects_time_device_and_operation(page: Page) -> None:
    page.run("document.querySelector('#figure-heat canvas').focus()")
    page.key("ArrowRight")
    assert "requests" in page.run("document.getElementById('tip').textContent")
    for _ in range(4):
        page.key("ArrowRight", shift=True)
    page.key("Enter")
    assert shown(page, "[charts.part.from, charts.part.to]") == [0, 5]
    page.key("Escape")
    page.run("document.querySelector('.devices button').focus()")
    page.key(" ")
    assert shown(page, "charts.run.devices[charts.part.device]") == "7:1"
    assert page.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.key(" ")
    assert shown(page, "charts.part.device") == -1
    page.run("document.querySelector('.controls button').focus()")
    page.key("Enter")
    assert shown(page, "[...charts.part.ops]") == [1, 2, 3]
    assert (
        page.run("document.querySelector('.controls button').getAttribute('aria-pressed')")
        == "false"
    )


def test_everything_that_acts_has_a_name(page: Page) -> None:
    assert any(
        name.startswith("Latency of every request: 47,637") for _, name in accessible_names(page)
    )


# --- everywhere -----------------------------------------------------------------------------------


COLOURS = (
    "((canvas) => new Set(new Uint32Array(canvas.getContext('2d').getImageData("
    "0, 0, canvas.width, canvas.height).data.buffer)))"
    "(document.querySelector('#figure-percentiles canvas'))"
)
"""The pixels of the percentiles: alpha, blue, green, red."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1000, 1800])
def test_page_fits_any_width(page: Page, width: int, scheme: str) -> None:
    with seen(page, width, scheme):
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run(f"{COLOURS}.has({0xFFB27200 if scheme == 'light' else 0xFFE0A856})")


def test_print_is_light_and_has_no_controls(page: Page) -> None:
    page.is_like(prefers_color_scheme="dark")
    page.is_like("print", prefers_color_scheme="dark")
    try:
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.run("getComputedStyle(document.querySelector('.hint')).display") == "none"
        page.drawn()
        assert page.run(f"{COLOURS}.has({0xFFB27200})")  # of reads, in the light colours
        assert not page.run(f"{COLOURS}.has({0xFFE0A856})")
    finally:
        page.is_like()


def test_page_logs_nothing_to_the_console_and_loads_nothing(page: Page, path: Path) -> None:
    page.open(path)
    shown(page, "charts.figures()")
    assert page.messages == []
    assert {url for url in page.requests if not url.startswith("data:")} == {path.as_uri()}


# --- slices without a rate ------------------------------------------------------------------------


def labels(page: Page, *names: str) -> list[str]:
    """What charts say to screen readers."""
    of = "document.querySelector('#figure-{} canvas').ariaLabel"
    return [shown(page, of.format(name)).partition(": ")[2] for name in names]


def test_short_last_slice_has_no_rate(browser: Browser, tmp_path: Path) -> None:
    records = []
    for ms in range(0, 7, 2):
        records.append(tw.issue(10**9 + ms * 10**6, 8 * ms, 4096))
        records.append(tw.complete(10**9 + (ms + 1) * 10**6, 8 * ms, 4096))
    trace, output = tmp_path / "trace", tmp_path / "page.html"
    trace.write_bytes(tw.encode(records))
    assert report.main(["-o", str(output), str(trace)]) == 0
    page = opened(browser, output)
    *_, usual_s, last_s = shown(page, "[...charts.run.known_s]")
    assert last_s < usual_s / 1000
    assert labels(page, "iops", "bandwidth") == ["at most 1 k", "at most 4.10 MB/s"]
    n = shown(page, "charts.run.n_slices")
    select(page, n - 3, n, -1, [0])
    assert labels(page, "iops", "bandwidth") == ["at most 1 k", "at most 4.10 MB/s"]
    select(page, n - 1, n, -1, [0])
    assert labels(page, "iops", "bandwidth") == ["–", "–"]


def test_intervals_of_the_same_time_have_no_false_peak_in_flight(
    browser: Browser, tmp_path: Path
) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    runner.succeed("-I1", "--json", files[0], SLOW_PATH)
    files[1].write_bytes(files[0].read_bytes())
    output = tmp_path / "page.html"
    assert report.main(["-o", str(output), *map(str, files)]) == 0
    page = opened(browser, output)
    (most,) = labels(page, "flight")
    assert 1 < float(most.removeprefix("at most ")) < 1000


# --- findings -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_findings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a stall, a slow path and two failed requests."""
    path = tmp_path_factory.mktemp("page") / "findings.html"
    assert report.main(["-o", str(path), str(SLOW_PATH)]) == 0
    return path


PALEST = (
    "((canvas, x) => [...Array(34).keys()].map((y) => [...canvas.getContext('2d').getImageData("
    "x, 20 + y, 1, 1).data]).sort((a, b) => a[3] - b[3])[0])"
    "(document.querySelector('#figure-{} canvas'), {})"
)
"""Red, green, blue and alpha of the palest pixel in a part of a column: what is behind the data."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_time_of_a_finding_is_shaded_in_all_charts_over_time(
    browser: Browser, with_findings: Path, scheme: str
) -> None:
    page = opened(browser, with_findings)
    with seen(page, 1440, scheme):
        shaded = shown(page, "charts.shaded")
        (first, *stall), (second, *slow) = shaded
        assert (first, second) == (1, 2)
        assert stall == pytest.approx([18.8, 26.9], abs=0.2)
        assert slow == pytest.approx([1.4, 11.8], abs=0.2)
        names = [name for name in shown(page, "Object.keys(charts.plots)") if name != "sizes"]
        names.remove("percentiles")
        assert len(names) >= 7
        x_of = "Math.round(charts.left + {} / charts.edges[1] * (document.querySelector("
        x_of += "'#figure-heat canvas').clientWidth - RIGHT - charts.left))"
        for name in names:
            at = {s: shown(page, x_of.format(s)) for s in (20.7, 15.3)}
            colours = [page.run(PALEST.format(name, x)) for x in at.values()]
            (red, green, blue, tint), plain = colours
            assert red > max(green, blue) and 0 < tint < 40 and plain[3] == 0, name
            described = f"document.querySelector('#figure-{name} canvas').ariaDescribedByElements"
            ids = page.run(f"{described}.map((e) => e.id)")
            assert "shaded" in ids
        shown(page, "charts.select({from: 200, to: 240})")  # the stall's end
        assert page.run(PALEST.format("iops", at[20.7]))[3] == 0


def test_shades_are_explained_in_words(browser: Browser, with_findings: Path) -> None:
    page = opened(browser, with_findings)
    shown(page, "charts.draw()")
    said = page.run("document.getElementById('shaded').textContent")
    assert re.fullmatch(
        r"shaded: finding 1, 18\.\d\d s to 26\.\d\d s; finding 2, 1\.\d\d s to 11\.\d\d s", said
    )
    numbered = page.run("[...document.querySelectorAll('ol.findings li')].map((e) => e.innerText)")
    assert numbered[0].startswith("mpatha stalled at 07:43:40 UTC")
    assert "is slow from 07:43:22 to 07:43:33 UTC" in numbered[1]
    drawn = re.findall("<svg.*?</svg>", with_findings.read_text())
    assert [svg.count("fill-opacity") for svg in drawn] == [0, 2, 2, 2]
    assert all("; shaded: finding 1, 18." in svg for svg in drawn[1:])


def test_failed_requests_are_red_where_they_are_counted(
    browser: Browser, path: Path, tmp_path: Path
) -> None:
    output = tmp_path / "paths.html"
    assert report.main(["-o", str(output), "--by", "path", str(SLOW_PATH)]) == 0
    page = opened(browser, output)
    shown(page, "charts.draw()")
    hot = "rgb(179, 0, 71)"
    coloured = (
        "[...document.querySelectorAll('.bad, dt')].filter((e) => getComputedStyle(e).color"
        f" === '{hot}').map((e) => [e.closest('[id], dl')?.id ?? '', e.textContent])"
    )
    found = page.run(coloured)
    assert found[:2] == [["", "Failed"], ["", "2"]] or found[:2] == [["", "2"], ["", "Failed"]]
    assert found[2:4] == [["summary", "2"]] * 2  # in all, and of sdb
    assert ["", "2"] in found[4:]  # in the list of losses
    page.open(path)
    shown(page, "charts.draw()")
    assert page.run(coloured) == []


def test_devices_are_below_the_heat_map_on_the_first_screen(
    browser: Browser, with_findings: Path
) -> None:
    page = opened(browser, with_findings)
    with seen(page, 1440, "light"):
        order = "[...document.querySelectorAll('.grid > div:first-child figure')].map((e) => e.id)"
        assert page.run(order)[:2] == ["figure-heat", "figure-devices"]
        _, top, _, height = box(page, "#figure-devices")
        assert top + height < 900


def test_requests_in_flight_have_a_note_on_losses(browser: Browser, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    assert report.main(["-o", str(output), str(DATA / "loop-lossy-dc.bin")]) == 3
    page = opened(browser, output)
    caption = shown(page, "document.querySelector('#figure-flight figcaption').textContent")
    assert re.search(r"; [\d,]+ events were lost: as many of the requests in flight may", caption)


@pytest.mark.parametrize("kind", ["json", "b"])
def test_page_of_statistics_has_their_requests(browser: Browser, tmp_path: Path, kind: str) -> None:
    stats, output = tmp_path / "stats", tmp_path / "page.html"
    option = "--json" if kind == "json" else "-b"
    assert runner.call("-I", "1", option, stats, MULTI).returncode == 0
    assert report.main(["-o", str(output), str(stats)]) == 0
    page = opened(browser, output)
    assert shown(page, "charts.figures().requests") == 47_637
    assert page.messages == []
    assert (page.run("document.querySelector('#figure-heat')") is None) == (kind == "b")


# --- names ----------------------------------------------------------------------------------------


def test_names_are_text_and_never_markup(browser: Browser, tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    records = [tw.notify_process(1, 7, "<b>&x</b>")]
    for i in range(30):
        at = 10**9 + i * 10**6
        records += [tw.issue(at, 8 * i, 4096, pid=7), tw.complete(at + 5000, 8 * i, 4096)]
    (tmp_path / "trace").write_bytes(tw.encode(records))
    output = tmp_path / "page.html"
    assert report.main(["-o", str(output), "--title", evil, str(tmp_path / "trace")]) == 0
    page = opened(browser, output)
    assert shown(page, "charts.figures().requests") == 30
    assert page.run("document.querySelector('h1').textContent") == evil
    assert page.run("document.images.length") == 0
    assert "<b>&x</b>" in page.run("document.getElementById('processes').textContent")
    assert "<b>&x</b>" in page.run("document.getElementById('slow').textContent")
    assert page.messages == []


# --- the slow one of many -------------------------------------------------------------------------


def many(number: int, slow: int) -> list[tw.Record]:
    """Requests of many devices, of which one gets slow half-way; it has fewer than the others."""
    rng = np.random.default_rng(5)
    records = []
    for device in range(number):
        n = 30 if device == slow else 60
        starts = np.sort(rng.integers(0, 10**9, n)).tolist()
        times = rng.lognormal(11.5, 0.4, n)
        for i, (start, time) in enumerate(zip(starts, times)):
            slower = 30 if device == slow and start > 5 * 10**8 else 1
            what = 8 * i, 4096, tw.READ, 259 << 20 | device
            records.append(tw.issue(10**9 + start, *what))
            records.append(tw.complete(10**9 + start + int(time * slower), *what))
    records.sort(key=lambda record: record.time_ns)
    return records


def test_slow_device_of_five_hundred_is_in_the_first_row(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "trace").write_bytes(tw.encode(many(500, 77)))
    output = tmp_path / "page.html"
    assert report.main(["-o", str(output), str(tmp_path / "trace")]) == 0
    page = opened(browser, output)
    shown(page, "charts.draw()")
    assert page.run("document.querySelector('.devices li').textContent").startswith("259:77")
    second = "document.querySelectorAll('#summary tbody tr')[1].cells[0].textContent"
    assert page.run(second) == "259:77"
    assert page.messages == []


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    path = tmp_path_factory.mktemp("crowd") / "trace"
    path.write_bytes(tw.encode(many(200, 77)))
    return collect([str(path)], patterns=False).cells


@pytest.mark.parametrize("most_bytes", [1 << 30, 100_000, 20_000, 1])
def test_bounded_cells_keep_the_slow_device_and_all_sums(crowd: Cells, most_bytes: int) -> None:
    (smaller,) = bounded([crowd], most_bytes)
    smaller = smaller.ranked()
    assert smaller.size_bytes <= most_bytes or len(smaller.known_s) == 1
    assert smaller.devices[0] == 259 << 20 | 77
    assert len(smaller.devices) + smaller.n_merged in (200, 201)  # 201 with a row of merged ones
    for name in ("requests", "bytes", "d2c_sum"):
        assert smaller.columns[name].sum() == pytest.approx(crowd.columns[name].sum())
    counts = [
        np.bincount(cells.histograms["d2c"].bins, cells.histograms["d2c"].counts, 4096)
        for cells in (crowd, smaller)
    ]
    assert (counts[0] == counts[1]).all()
    assert smaller.edges_s[-1] == crowd.edges_s[-1]


def test_bounded_cells_keep_the_total_where_some_devices_are_not_in_it(crowd: Cells) -> None:
    paths = tuple(crowd.devices[::2].tolist())
    (smaller,) = bounded([replace(crowd, not_in_total=paths)], 1)
    assert smaller.n_merged > 0
    halves = crowd.columns["requests"][~np.isin(crowd.devices[crowd.device], paths)]
    assert smaller.in_total().columns["requests"].sum() == halves.sum()
    (note,) = coarser_note(crowd, smaller)
    n_left_out = 200 - smaller.n_merged - np.count_nonzero(smaller.devices)
    assert f", and {n_left_out} whose requests count on another device are left out," in note


def test_page_has_coarser_charts_rather_than_more_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, output = tmp_path / "trace", tmp_path / "page.html"
    trace.write_bytes(tw.encode(many(40, 7)))

    def written() -> str:
        assert report.main(["--overwrite", "-o", str(output), str(trace)]) == 0
        return output.read_text()

    note, whole = "so that the page has at most 5 MB", written()
    assert note not in whole
    limit = len(whole.encode()) - 10_000
    monkeypatch.setattr(page_module, "MOST_BYTES", limit)
    smaller = written()
    assert len(smaller.encode()) <= limit and note in smaller
    figures = [re.findall(r'id="figures">(.*?)</script>', page)[0] for page in (whole, smaller)]
    assert figures[0] == figures[1]


def test_hung_devices_come_first_with_the_names_of_their_luns(
    browser: Browser, tmp_path: Path
) -> None:
    records = many(3, 2)
    end_ns = max(record.time_ns for record in records)
    records.append(tw.issue(end_ns + 1, 1 << 30, 4096, device=259 << 20 | 1))
    records.append(tw.issue(end_ns + 3 * 10**9, 8, 4096, device=259 << 20))
    records.append(tw.complete(end_ns + 3 * 10**9 + 1000, 8, 4096, device=259 << 20))
    trace, output = tmp_path / "run", tmp_path / "page.html"
    trace.write_bytes(tw.encode(records))
    lun = Device("dm-1", "multipath", number=259 << 20 | 1, alias="mpatha")
    topology = Topology("host", None, (), (lun,))
    assert save(topology, str(tmp_path / "run.topology.json"), Policy())
    assert report.main(["-o", str(output), str(trace)]) == 0
    page = opened(browser, output)
    assert shown(page, "charts.run.devices").count("mpatha") == 1
    first = "document.querySelector('.devices li button')"
    assert page.run(f"{first}.textContent") == "mpathahung"
    label = page.run(f"{first}.title")
    assert label.endswith("; hung: 1 in flight at the end, the oldest for 3.00 s")
    hung = page.run("document.getElementById('hung').tBodies[0].textContent")
    assert hung == "mpatha13.00 s"
    assert page.messages == []


def test_hung_device_of_five_hundred_comes_first_without_scripts(tmp_path: Path) -> None:
    records = many(500, 77)
    end_ns = max(record.time_ns for record in records)
    records.append(tw.issue(end_ns + 1, 1 << 30, 4096, device=259 << 20 | 5))
    records.append(tw.issue(end_ns + 3 * 10**9, 8, 4096, device=259 << 20))
    records.append(tw.complete(end_ns + 3 * 10**9 + 1000, 8, 4096, device=259 << 20))
    trace, output = tmp_path / "run", tmp_path / "page.html"
    trace.write_bytes(tw.encode(records))
    assert report.main(["-o", str(output), str(trace)]) == 0
    rows = re.findall('<tr class="all"><td>([^<]*)', output.read_text())
    assert rows[:2] == ["259:5", "259:77"]


@pytest.mark.parametrize("by", ["device", "path", "port"])
def test_page_says_where_a_path_belongs(browser: Browser, tmp_path: Path, by: str) -> None:
    output = tmp_path / "page.html"
    assert report.main(["-o", str(output), "--by", by, str(SLOW_PATH)]) == 0
    name, about = "sdb", "a path of mpatha to 10.10.2.1:3260,1"
    if by == "port":
        name, about = "10.10.2.1:3260,1", "1 LUN, 1 path"
    assert f'<td>{name}<br/><span class="soft">{about}</span></td>' in output.read_text()
    page = opened(browser, output)
    first = shown(page, "document.querySelector('.devices li button').title")
    assert first.startswith(f"{name}, {about}: p99 50.6 ms of 2,0")
    row = "document.querySelector('#summary tr.all td').innerText"
    assert page.run(row).split("\n") == [name, about]
    all_of = page.run("document.querySelector('select option').textContent")
    assert all_of == f"all {3 if by == 'device' else 2} {by}s"
    title = page.run("document.querySelector('#figure-devices b').textContent")
    assert title == f"{by.capitalize()}s, worst first"
    assert f'<th scope="col">{by.capitalize()}</th>' in output.read_text()


def test_slowest_requests_name_processes_that_moved_little(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(selection, "MOST_PROCESSES", 1)
    records = [tw.notify_process(1, 452, "multipathd"), tw.notify_process(1, 403, "fio")]
    for pid, size in ((452, 0), (403, 4096)):
        records.append(tw.issue(10**9 + pid, pid, size, pid=pid))
        records.append(tw.complete(2 * 10**9 + pid, pid, size))
    trace, output = tmp_path / "run", tmp_path / "page.html"
    trace.write_bytes(tw.encode(sorted(records, key=lambda record: record.time_ns)))
    assert report.main(["-o", str(output), str(trace)]) == 0
    page = output.read_text()
    slowest = re.findall("<tr.*</tr>", page.partition('id="slow"')[2].partition("</table>")[0])
    assert [row.rpartition("<td>")[2] for row in slowest[1:]] == [
        "fio</td></tr>",
        "multipathd</td></tr>",
    ]
    head = page.partition('id="data">')[2].partition("</script>")[0]
    assert [process for *_, process in json.loads(head)["slow"]] == ["fio", "multipathd"]


def test_packed_arrays_have_the_narrowest_elements() -> None:
    arrays = {
        "small": np.array([0, 255]),
        "large": np.array([1 << 31]),
        "huge": np.array([1 << 40]),
        "fraction": np.array([0.5]),
        "none": np.empty(0),
    }
    assert packed(arrays).layout == [
        ("small", 2, 1), ("large", 1, 4), ("huge", 1, 8), ("fraction", 1, 8), ("none", 0, 1)
    ]  # fmt: skip
