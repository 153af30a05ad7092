"""Screens, pages and outputs report incomplete figures and requeues.

The traces are a set of blktrace with the file of a CPU missing, where requests were completed by
another CPU than they were issued on, and one with a request that the kernel requeued.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import goldenfiles
import pytest
import runner
import tracewriter as tw
from rich.cells import cell_len
from test_sources import write_set
from test_top import plain

import blkiomon
from blkiomon.commands import archive, report
from blkiomon.commands.report import compare
from blkiomon.commands.report.collect import collect
from blkiomon.commands.top.frame import About, lines
from blkiomon.commands.top.look import Look
from blkiomon.commands.top.watch import Watch
from blkiomon.formats.openmetrics import Metrics
from blkiomon.interval.dropped import Dropped
from blkiomon.interval.incomplete import in_words
from blkiomon.interval.value import Counts, Interval
from blkiomon.sources.devices import nameless

MULTI = goldenfiles.TRACES / "loop-multi-dc.bin"
MS = 10**6

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of one CPU of two, as one file."""
    directory = tmp_path_factory.mktemp("half")
    write_set(directory, "sda", MULTI.read_bytes())
    (directory / "sda.blktrace.1").unlink()
    path = directory / "half.bin"
    (directory / "sda.blktrace.0").rename(path)
    return path


@pytest.fixture(scope="module")
def said(half: Path) -> str:
    """What is missing, in words."""
    incomplete = blkiomon.summarize(half).incomplete
    assert "issues_without_completion" in {why.reason for why in incomplete}
    return in_words(incomplete)


def requeue(time_ns: int, sector: int, size: int) -> tw.Record:
    action = tw.act(tw.READ | tw.FS | tw.REQUEUE, tw.EV_REQUEUE)
    return tw.Record(time_ns, sector, size, action, 8 << 20)


def twenty(path: Path, events: Callable[[int, int, int], list[tw.Record]]) -> Path:
    """Twenty requests, a tenth of a second apart; events(i, time, sector) follow each issue."""
    records = []
    for i in range(20):
        at = (1000 + 100 * i) * MS
        records += [tw.issue(at, 8 * i, 4096), *events(i, at, 8 * i)]
    path.write_bytes(tw.encode(records))
    return path


@pytest.fixture(scope="module")
def retried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel requeues one request twice: it takes 61 ms from its first issue."""

    def events(i: int, at: int, sector: int) -> list[tw.Record]:
        if i != 3:
            return [tw.complete(at + MS, sector, 4096)]
        return [
            *(requeue(at + 10 * MS, sector, 4096), tw.issue(at + 20 * MS, sector, 4096)),
            *(requeue(at + 30 * MS, sector, 4096), tw.issue(at + 60 * MS, sector, 4096)),
            tw.complete(at + 61 * MS, sector, 4096),
        ]

    return twenty(tmp_path_factory.mktemp("retried") / "retried.bin", events)


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight of twenty requests never complete."""
    path = tmp_path_factory.mktemp("gappy") / "gappy.bin"
    return twenty(path, lambda i, at, sector: [tw.complete(at + MS, sector, 4096)] * (i >= 8))


# --- words ----------------------------------------------------------------------------------------


def test_reasons_are_listed_in_words() -> None:
    counts = Counts(
        records=100, requests=59, issues_without_completion=41, completions_without_issue=1
    )
    assert in_words(counts.incomplete(2)) == (
        "2 per-CPU files of the trace missing; 41 % of issues have no completion; "
        "2 % of completions have no issue"
    )
    assert Counts(records=100, requests=1000, issues_without_completion=1).incomplete() == ()


# --- the screen -----------------------------------------------------------------------------------


def frame(watch: Watch, width: int = 80, *, whole: bool = False) -> list[str]:
    look = Look(is_whole=whole)
    shown = plain(lines(watch.state(whole=whole), look, About(source="x"), width, 24)[0])
    assert max(map(cell_len, shown)) <= width
    return shown


def test_screen_keeps_reporting_incomplete_figures(half: Path, said: str) -> None:
    watch = Watch()
    for interval in blkiomon.intervals(half, interval=1):
        watch.add(interval)
    for later in range(2):
        text = " ".join(line.strip() for line in frame(watch)[:6])
        assert f"INCOMPLETE: {said}" in text
        assert "nothing lost" not in text
        watch.add(quiet(10 + later))


def quiet(second: int) -> Interval:
    """An interval in which nothing happened."""
    interval = blkiomon.summarize(MULTI)
    start_ns = interval.end_ns + second * 10**9
    return Interval(
        time_s=0, devices=interval.devices[:0], start_ns=start_ns, end_ns=start_ns + 10**9
    )


def test_screen_claims_no_loss_only_if_complete() -> None:
    watch = Watch()
    watch.add(blkiomon.summarize(MULTI))
    assert frame(watch)[1].startswith("nothing lost in 3.01 s")
    assert not any("INCOMPLETE" in line for line in frame(watch))
    watch.add(dataclasses.replace(quiet(1), missing_files=1))
    assert frame(watch)[1].startswith("INCOMPLETE: 1 per-CPU file of the trace missing")
    watch.add(quiet(2))
    assert frame(watch)[1].startswith("INCOMPLETE: 1 per-CPU file of the trace missing")


def test_screen_has_requeues_if_there_are_any(retried: Path) -> None:
    def titles(watch: Watch, width: int) -> str:
        return next(line for line in frame(watch, width) if line.startswith("device"))

    watch = Watch()
    watch.add(blkiomon.summarize(MULTI))
    assert "requeue" not in titles(watch, 80) and "history" in titles(watch, 80)
    watch = Watch()
    for interval in blkiomon.intervals(retried, interval=1):
        watch.add(interval)
    for width in (80, 100, 200):
        assert "err requeue" in titles(watch, width)
        row = next(line for line in frame(watch, width) if line[1:].startswith("8:0"))
        at = titles(watch, width).index("requeue")
        assert row[at : at + 7].strip() == "2"  # no "!": not of the latest interval
    whole = next(line for line in frame(watch, whole=True) if line[1:].startswith("8:0"))
    assert whole.split()[-1] == "2"  # "!" marks those of the latest interval


# --- the page, the comparison ---------------------------------------------------------------------


def page_of(path: Path, directory: Path) -> str:
    output = directory / "page.html"
    assert report.main(["-o", str(output), str(path)]) == 0
    return output.read_text()


def test_page_begins_with_incomplete_figures(half: Path, said: str, tmp_path: Path) -> None:
    page = page_of(half, tmp_path)
    assert f'</h1>\n<p class="note"><b>Incomplete:</b> {said}.</p>' in page
    assert "No events were lost" not in page
    assert "<dt>Events lost</dt><dd>0</dd>" not in page
    data = re.search(r'id="figures">(.*?)</script>', page)
    assert data is not None
    reasons = {why["reason"] for why in json.loads(data[1])["whole"]["incomplete"]}
    assert "issues_without_completion" in reasons


def test_page_of_a_complete_trace_says_that_nothing_was_lost(tmp_path: Path) -> None:
    page = page_of(MULTI, tmp_path)
    assert "ncomplete:" not in page and "No events were lost" in page
    assert '"col">Requeued<' not in page and "(requeues)</td>" not in page


def test_page_has_requeues_and_the_longest_retry(retried: Path, tmp_path: Path) -> None:
    page = page_of(retried, tmp_path)
    assert '<th scope="col">Failed</th><th scope="col">Requeued</th>' in page
    assert "(requeues)</td><td>2</td>" in page
    assert "from first issue to completion</td><td>61.0 ms</td>" in page


def test_comparison_says_which_side_is_incomplete(
    gappy: Path, retried: Path, tmp_path: Path, capfd: Capture
) -> None:
    output = tmp_path / "page.html"
    assert compare.main(["-o", str(output), str(retried), str(gappy)]) == 0
    told = "40 % of issues have no completion"
    text = capfd.readouterr().out
    assert f"\nB is incomplete: {told}\n" in text and "A is incomplete" not in text
    assert f'</h1>\n<p class="note"><b>B is incomplete:</b> {told}.</p>' in output.read_text()
    assert compare.main([str(retried), ":", str(gappy), str(retried)]) == 0
    assert f"\nB is incomplete ({gappy}): {told}\n" in capfd.readouterr().out
    assert compare.main(["--json", str(retried), ":", str(gappy), str(retried)]) == 0
    assert json.loads(capfd.readouterr().out)["incomplete"] == {
        "a": [[]],
        "b": [[{"reason": "issues_without_completion", "count": 8, "share": 0.4}], []],
    }


def test_comparison_of_one_device_leaves_the_share_as_it_is(half: Path, said: str) -> None:
    path = half.with_suffix(".jsonl")
    assert runner.call("-I", "1", "--json", path, half).returncode == 0
    for device in (7 << 20 | 1, 7 << 20 | 2):
        found = collect([str(path)], devices=[device])
        assert found.whole.devices.tolist() == [device]
        assert in_words(found.whole.incomplete) == said


def test_comparison_has_requeues_if_there_are_any(
    retried: Path, gappy: Path, capfd: Capture
) -> None:
    assert compare.main([str(retried), str(gappy)]) == 0
    assert re.search(r" requeues +2 +0\n", capfd.readouterr().out)
    assert compare.main(["--json", str(retried), str(gappy)]) == 0
    assert json.loads(capfd.readouterr().out)["rows"][0]["requeues"] == [2, 0]
    assert compare.main([str(gappy), str(gappy)]) == 0
    assert "requeues" not in capfd.readouterr().out


def test_json_of_one_device_keeps_its_requeues(retried: Path) -> None:
    path = retried.with_suffix(".jsonl")
    assert runner.call("-I", "1", "--json", path, retried).returncode == 0
    total = collect([str(path)], devices=[8 << 20]).whole.total
    assert (total.requeues, total.retried.max) == (2, 61 * MS)
    assert collect([str(path)]).whole.total.requeues == 2


# --- archives -------------------------------------------------------------------------------------


def test_archive_says_of_which_host_figures_are_incomplete(half: Path, said: str) -> None:
    summary = archive.summarize([str(half), str(MULTI)], workers=0)
    told = [line for line in summary.text() if "INCOMPLETE" in line]
    assert [line.split(maxsplit=1)[1] for line in told] == [f"INCOMPLETE: {said}\n"]
    whole, parts = sorted(summary.to_dict()["hosts"], key=lambda host: len(host["incomplete"]))
    assert whole["incomplete"] == []
    assert "issues_without_completion" in {why["reason"] for why in parts["incomplete"]}


def test_archive_has_requeues_if_there_are_any(retried: Path) -> None:
    summary = archive.summarize([str(retried)], workers=0)
    _, _, head, *rows = "".join(summary.text()).splitlines()
    assert head.endswith(" requeues")
    assert all(row.endswith(" 2") for row in rows[:-2])
    fleet = summary.to_dict()["fleet"][-1]
    assert (fleet["requeues"], fleet["retried"]["max_ns"]) == (2, 61 * MS)
    assert "requeues" not in "".join(archive.summarize([str(MULTI)], workers=0).text())


# --- the command, metrics -------------------------------------------------------------------------


def test_a_run_ends_with_a_line_of_what_is_incomplete(half: Path, said: str) -> None:
    result = runner.call("-I", "1", "--json", "/dev/null", half)
    assert result.returncode == 0
    assert result.stderr.decode() == f"blkiomon: incomplete: {said}\n"


@pytest.mark.parametrize("outputs", [["-h", "-"], ["-b", "-"]])
def test_outputs_of_0_3_end_without_a_line_about_incomplete_figures(
    half: Path, outputs: Sequence[str]
) -> None:
    result = runner.call("-I", "1", *outputs, half)
    assert result.returncode == 0 and not result.stderr


def test_run_of_a_whole_trace_ends_without_a_line_about_incomplete_figures() -> None:
    assert not runner.call("-I", "1", "--json", "/dev/null", MULTI).stderr


def test_metrics_have_the_shares_of_the_latest_interval() -> None:
    metrics = Metrics(nameless)
    before = quiet(0)
    issues, completions = "issues_without_completion", "completions_without_issue"
    for requests, unseen, missing_files, shares in [
        (60, {issues: 40}, 0, {issues: 0.4}),
        (75, {issues: 25, completions: 25}, 1, {issues: 0.25, completions: 0.25}),
        (50, {completions: 50}, 1, {completions: 0.5}),
        (60, {}, 0, {}),
    ]:
        counts = Counts(records=300, requests=requests, **unseen)
        metrics.add(dataclasses.replace(before, counts=counts, missing_files=missing_files))
        # The first text is from prometheus_client, the second from the template made of it.
        texts = {metrics.text()[0].decode() for _ in range(2)}
        (text,) = texts
        found = re.findall(r'^blkiomon_incomplete_share{reason="(\w+)"} (\S+)$', text, re.M)
        assert {reason: float(share) for reason, share in found} == shares
        missing = re.findall(r"^blkiomon_missing_files (\S+)$", text, re.M)
        assert list(map(float, missing)) == [1.0] * missing_files


# --- requests that take longer than --max-age -----------------------------------------------------

S = 10**9
DROPPED = "1 issue or completion was dropped: no partner came within 600 s (--max-age allows more)"


def slow_one(last_s: int = 700) -> list[tw.Record]:
    """Quick requests, once a second, and a slow one that begins with the first."""
    records = [tw.issue(S, 8, 4096), tw.complete((1 + last_s) * S, 8, 4096)]
    for at_ns in range(S, (1 + last_s) * S, S):
        sector = 16 + at_ns // S
        records += [tw.issue(at_ns, sector, 512), tw.complete(at_ns + MS, sector, 512)]
    return sorted(records, key=lambda record: record.time_ns)


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "slow.bin"
    path.write_bytes(tw.encode(slow_one()))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["-I60", "--json=-"],
        ["-I1", "--csv=-"],
        ["-I1", "-h-", "--json=-"],
        ["-I60", "--slow=1000"],
        ["stat"],
    ],
)
def test_end_of_a_run_names_max_age_if_a_request_was_dropped(
    slow: Path, arguments: list[str]
) -> None:
    result = runner.call(*arguments, slow)
    assert (result.returncode, result.stderr.decode()) == (0, f"blkiomon: {DROPPED}\n")
    runner.succeed(*arguments, "--max-age=12m", slow)


def test_stat_limits_what_is_pending(tmp_path: Path) -> None:
    path = tmp_path / "trace.bin"
    both = [tw.issue(S, 8, 4096), tw.issue(S + 1, 16, 4096)]
    both += [tw.complete(S + 2, 8, 4096), tw.complete(S + 3, 16, 4096)]
    path.write_bytes(tw.encode(both))
    for options, requests in (([], 2), (["--max-pending=1"], 1)):
        (line,) = runner.call("stat", "--json", *options, path).stdout.splitlines()
        assert json.loads(line)["total"]["requests"] == requests


def test_summary_names_max_age_if_a_request_was_dropped(slow: Path) -> None:
    result = runner.call(slow)
    assert b"700 requests" in result.stdout
    assert (result.returncode, result.stderr.decode()) == (0, f"blkiomon: {DROPPED}\n")
    assert b"701 requests" in runner.succeed("--max-age=12m", slow)


def test_page_names_max_age_if_a_request_was_dropped(slow: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    runner.succeed("report", "-o", page, slow)
    assert DROPPED in page.read_text()


def test_original_outputs_alone_drop_no_request(slow: Path, tmp_path: Path) -> None:
    debug = tmp_path / "D"
    runner.succeed("-I1", "-h-", "-D", debug, slow)
    assert debug.read_bytes().endswith(
        b"0 leftover, 701 match, 0 mismatch, 0 driverdata, 1402 overall\n"
    )


def test_completions_of_requests_in_flight_at_the_begin_are_no_dropped_requests(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.bin"
    records = [record for record in slow_one() if record.sector != 8]
    records.insert(0, tw.complete(S, 8, 4096))
    records.append(tw.issue(records[-1].time_ns, 8, 4096))  # in flight at the end
    path.write_bytes(tw.encode(records))
    runner.succeed("-I60", "--json", "-", path)
    assert b"--max-age" not in runner.succeed(path)


def test_dropped_names_max_pending_if_so_many_may_have_been_pending() -> None:
    dropped = Dropped()
    dropped.add(Counts(records=10, issues_without_completion=1, evicted=2))
    text = (
        "2 issues and completions were dropped: no partner came within 5 s (--max-age allows more)"
    )
    assert dropped.text(5, 100) == text
    assert dropped.text(5, 10) == (
        f"{text}, or more than 10 were pending (--max-pending allows more)"
    )
