"""``top``: screens of given intervals, errors of the command, and the output."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import goldenfiles
import numpy as np
import pytest
import runner
from intervals import DM3, HUNG, NAMES, SDB, Io, interval_of
from rich.cells import cell_len
from runner import until
from test_san import load
from test_views import HOST

from blkiomon.commands import parsing, top
from blkiomon.commands.config import Config
from blkiomon.commands.options import UsageError
from blkiomon.commands.san.tracker import Tracker
from blkiomon.commands.top.frame import About, lines
from blkiomon.commands.top.look import Look, Shown, keys_of
from blkiomon.commands.top.past import SLICES
from blkiomon.commands.top.rows import Views
from blkiomon.commands.top.screen import ScreenSink, Terminal
from blkiomon.commands.top.watch import Watch
from blkiomon.console import complain
from blkiomon.engine import layout
from blkiomon.errors import SourceError
from blkiomon.interval.devices import number_of
from blkiomon.interval.slow import SlowBatch
from blkiomon.interval.value import Counts, Interval, merge
from blkiomon.sources.capture import ALL, CapturedDevice

S = 10**9
MS = 10**6
SIZE = 6144  # divided by 3: `interval_of` counts other sizes as losses
MULTI = goldenfiles.TRACES / "loop-multi-dc.bin"
ABOUT = About(source="sdb dm-3", name_of=NAMES.get)


def requests(
    device: int, op: str, n: int, d2c_ns: int, at_ns: int = 0, size: int = SIZE
) -> list[Io]:
    """n requests of one latency, within the second from ``at_ns`` on."""
    return [Io(device, op, size, at_ns + i * 100_000, d2c_ns) for i in range(n)]


def interval(ios: Sequence[Io], number: int = 0, **counts: int) -> Interval:
    """The interval from second ``number`` to the next, with these counts added."""
    made = interval_of(ios, number * S, (number + 1) * S)
    return dataclasses.replace(made, counts=made.counts + Counts(**counts))


def frame(
    *intervals: Interval,
    width: int = 80,
    height: int = 24,
    look: Look | None = None,
    about: About = ABOUT,
    devices: Sequence[int] = (),
    notes: Sequence[str] = (),
    ended: bool = False,
) -> list[str]:
    """The screen after these intervals."""
    look = look or Look()
    watch = Watch(devices)
    for one in intervals:
        watch.add(one)
    watch.has_ended = ended
    shown = plain(lines(watch.state(whole=look.is_whole), look, about, width, height, notes)[0])
    assert len(shown) == height
    assert max(map(cell_len, shown)) <= width
    return shown


def plain(shown: Sequence[str]) -> list[str]:
    """Lines without their styles."""
    return [re.sub(r"\x1b\[[0-9;]+m|\x1b\[0m", "", line) for line in shown]


def rows(shown: Sequence[str]) -> dict[tuple[str, str], dict[str, str]]:
    """The cells of the table by device, operation and title, without the history."""
    (at,) = (i for i, line in enumerate(shown) if line.startswith("device "))
    titles = re.split(" (history|highest)", shown[at].replace("▼", ""))[0].split()
    found: dict[tuple[str, str], dict[str, str]] = {}
    device = ""
    for line in shown[at + 1 :]:
        cells = line.split()
        if not cells or line.startswith(("…", "q quit")):
            break
        if line[1] != " ":
            device = line[1:].split()[0]
            cells = line[1:].split()[1:]
        if device == "all":  # "3 dev"
            cells[:2] = ["all"]
        found[device, cells[0]] = dict(zip(titles[2:], cells[1:]))
    return found


def order(shown: Sequence[str]) -> list[str]:
    """The devices, from top to bottom."""
    return [
        device for device in dict.fromkeys(device for device, _ in rows(shown)) if device != "all"
    ]


BUSY = [
    *requests(SDB, "read", 180, 2 * MS),
    *requests(SDB, "read", 18, 20 * MS),
    *requests(SDB, "write", 2, 5 * MS),
    *requests(DM3, "write", 400, 100_000, size=30720),
]


def test_each_operation_has_its_figures() -> None:
    found = rows(frame(interval(BUSY)))
    read = found["sdb", "read"]
    assert read["IOPS"] == "198"
    assert read["MB/s"] == "1.22"
    assert read["p50"] in ("1.99ms", "2.00ms", "2.01ms")  # less than 0.8 % off
    assert read["max"] == "20.0ms"
    assert found["sdb", "write"]["IOPS"] == "2"
    assert found["sdb", "write"]["p99"] == "5.00ms"
    assert found["sdb", "all"]["IOPS"] == "200"
    # One operation needs one row.
    assert found["dm-3", "write"]["max"] == "100µs"
    assert ("dm-3", "all") not in found
    assert found["all", "all"]["IOPS"] == "600"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 140, 200, 300])
def test_wider_screens_have_more_columns(width: int) -> None:
    shown = frame(interval(BUSY), width=width, height=50)
    titles = next(line for line in shown if line.startswith("device "))
    least = {"worst": 0, "p99": 40, "p50": 64, "flight": 66, "err": 72, "oldest": 90, "p90": 106}
    least |= {"p99.9": 116, "mean": 126, "busy": 136, "q2d": 156}
    assert [f" {title}" in titles for title in least] == [n <= width for n in least.values()]
    assert ("history" in titles or "highest p99" in titles) == (width >= 80)


def test_keys_sort_by_latency_iops_or_bandwidth() -> None:
    slow_flush = [*requests(SDB, "read", 100, MS), *requests(SDB, "flush", 1, 800 * MS, size=0)]
    many = requests(DM3, "read", 300, 2 * MS, size=3072)
    big = requests(HUNG, "write", 50, 5 * MS, size=3 << 20)
    one = interval([*slow_flush, *many, *big])
    # By the slowest operation: a flush is not hidden by a hundred fast reads.
    assert order(frame(one)) == ["sdb", "65:1", "dm-3"]
    assert order(frame(one, look=Look().after("i"))) == ["dm-3", "sdb", "65:1"]
    assert order(frame(one, look=Look().after("b"))) == ["65:1", "dm-3", "sdb"]
    assert order(frame(one, look=Look().after("b").after("l"))) == ["sdb", "65:1", "dm-3"]
    for key, title in ("l", "worst▼"), ("i", "IOPS▼"), ("b", "MB/s▼"):
        assert "\n".join(frame(one, look=Look().after(key))).count("▼") == 1
        assert title in "\n".join(frame(one, look=Look().after(key)))


def test_hanging_device_comes_first() -> None:
    ios = [*BUSY, Io(HUNG, "write", SIZE, 0, None)]
    shown = frame(
        interval(ios[:-1]), interval([*ios[-1:], *requests(SDB, "read", 9, MS, 4 * S)], 4)
    )
    assert order(shown)[0] == "65:1"
    row = rows(shown)["65:1", "waiting"]
    assert (row["flight"], row["worst"], row["p99"]) == ("1", "5.00s", "–")
    assert rows(shown)["65:1", "write"]["worst"] == "5.00s"  # and which operation it is


def test_operations_can_be_hidden() -> None:
    found = rows(frame(interval(BUSY), look=Look().after("o")))
    assert set(found) == {("all", "all"), ("sdb", "all"), ("dm-3", "write")}


def test_whole_run_has_the_figures_of_all_intervals() -> None:
    intervals = [interval(BUSY), interval(requests(SDB, "read", 100, 7 * MS, S), 1)]
    shown = frame(*intervals, look=Look().after("w"))
    assert "WHOLE RUN" in shown[0]
    whole = merge(intervals)
    read = next(group for group in whole.ops(SDB) if group.op == "read")
    assert read.iops is not None
    assert rows(shown)["sdb", "read"]["IOPS"] == f"{read.iops:.0f}"
    assert rows(shown)["sdb", "read"]["max"] == "20.0ms"
    assert rows(frame(*intervals))["sdb", "read"]["max"] == "7.00ms"


def test_whole_run_counts_many_intervals() -> None:
    many = [interval(requests(SDB, "read", 10, MS, i * S), i) for i in range(200)]
    shown = frame(*many, look=Look(is_whole=True))
    assert "4,000 records in 200 s" in shown[0]
    assert rows(shown)["sdb", "read"]["IOPS"] == "10"


def test_first_line_says_what_was_lost_before_and_now() -> None:
    assert frame(interval(BUSY))[1] == "nothing lost in 1.00 s"
    lossy = interval(BUSY, lost_events=1200, sequence_gaps=3)
    assert frame(lossy)[1] == "LOST NOW: 1,200 lost events (+1,200), 3 sequence gaps (+3)"
    later = frame(lossy, interval([], 1, evicted=0))
    assert later[1] == "LOST before, nothing now: 1,200 lost events, 3 sequence gaps"
    again = frame(lossy, interval([], 1, lost_events=1, skipped_bytes=48))
    told = "LOST NOW: 1,201 lost events (+1), 3 sequence gaps, 48 skipped bytes"
    assert again[1].startswith(told)


def test_losses_are_not_called_present_after_the_end() -> None:
    assert frame(interval(BUSY, lost_events=9), ended=True)[1] == "LOST: 9 lost events"


def test_rest_of_a_trace_has_no_rates_and_no_place_in_the_history() -> None:
    seen = [interval(requests(SDB, "read", 100, MS, s * S), s) for s in range(3)]
    rest = interval_of(requests(SDB, "read", 2, 20 * MS, 3 * S), 3 * S, 3 * S + 50 * MS)
    shown = frame(*seen, rest, ended=True)
    row = rows(shown)["sdb", "read"]
    assert (row["IOPS"], row["MB/s"], row["max"]) == ("–", "–", "20.0ms")
    assert next(line for line in shown if " read " in line).split()[-1] == "▄▄▆"
    # A whole run has rates, however short its last interval was.
    assert rows(frame(*seen, rest, look=Look(is_whole=True)))["sdb", "read"]["IOPS"] == "99.0"
    # The first interval is no rest: nothing is known of others.
    assert rows(frame(rest))["sdb", "read"]["IOPS"] == "40"


def test_all_losses_at_once_are_shown_whole() -> None:
    names = "lost_events sequence_gaps completions_without_issue evicted mismatches skipped_bytes"
    every = dict.fromkeys(names.split(), 10**9)
    shown = " ".join(line.strip() for line in frame(interval(BUSY, **every), width=60))
    assert shown.count("1,000,000,000") == 2 * len(every)


def test_unmatched_records_are_not_called_lost() -> None:
    shown = frame(interval(BUSY, completions_without_issue=2, mismatches=1))
    assert f"{shown[1]} {shown[2]}".split("; unmatched: ") == [
        "nothing lost in 1.00 s",
        "2 completions without issue (+2), 1 mismatches (+1)",
    ]


def test_losses_stand_out_with_and_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    watch.add(interval(BUSY, lost_events=1))

    def line() -> str:
        return lines(watch.state(), Look(), ABOUT, 80, 24)[0][1]

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert line() == "\x1b[1;37;41mLOST NOW: 1 lost events (+1)\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert line() == "\x1b[1mLOST NOW: 1 lost events (+1)\x1b[0m"


def test_idle_devices_have_rows_and_a_silent_stream_is_named() -> None:
    quiet = [interval([], i) for i in (1, 2, 3)]
    shown = frame(interval(BUSY), *quiet, devices=[SDB, HUNG])
    assert any(line.startswith("NO RECORDS for 3.00 s") for line in shown)
    assert rows(shown)["sdb", "idle"]["p99"] == "–"
    assert rows(shown)["65:1", "idle"]["IOPS"] == "–"  # never seen, but it was asked for
    # Others go on: then it is the device that is quiet, and nothing else.
    one_goes_on = frame(interval(BUSY), interval(requests(DM3, "read", 5, MS, S), 1))
    assert not any("NO RECORDS" in line for line in one_goes_on)
    assert ("sdb", "idle") in rows(one_goes_on)


def test_device_without_the_selected_operation_is_not_called_idle() -> None:
    shown = frame(interval(BUSY).only(["discard"]), devices=[SDB])
    assert ("sdb", "none") in rows(shown) and ("sdb", "idle") not in rows(shown)


def test_screen_waits_for_the_first_interval() -> None:
    shown = frame(devices=[SDB])
    assert "waiting for the first interval (1 s)" in shown[0]
    assert ("sdb", "idle") in rows(shown)


def slower_and_slower(number: int) -> Interval:
    """One request on each of so many devices."""
    devices = [8 << 20 | 16 * i for i in range(number)]
    return interval(
        [io for i, d in enumerate(devices) for io in requests(d, "read", 1, MS * (i + 1))]
    )


@pytest.mark.parametrize("height", [8, 10, 24, 50])
def test_last_line_counts_devices_that_do_not_fit(height: int) -> None:
    shown = frame(slower_and_slower(60), height=height)
    n_shown = len(order(shown))
    assert n_shown >= height - 6
    assert order(shown) == [f"8:{16 * i}" for i in range(59, 59 - n_shown, -1)]
    assert shown[-2].strip() == f"… {60 - n_shown} more devices"
    assert shown[-1].startswith("q quit")
    assert rows(shown)["all", "all"]["IOPS"] == "60"


def test_as_many_devices_as_rows_all_fit() -> None:
    shown = frame(slower_and_slower(19), height=24)
    assert len(order(shown)) == 19
    assert not any("more devices" in line for line in shown)


def test_history_shows_p99_of_each_interval() -> None:
    times = [1, 1, 8, 4]
    seen = [interval(requests(SDB, "read", 5, t * MS, i * S), i) for i, t in enumerate(times)]
    seen.append(interval(requests(DM3, "read", 5, MS, 4 * S), 4))
    (line,) = (line for line in frame(*seen) if line[1:].startswith("sdb"))
    assert re.search(r" [▃▄]{2}▅▅· *$", line)  # percentiles are up to 0.8 % off


def test_history_is_coloured_where_latencies_are_high() -> None:
    watch = Watch()
    for at, ms in enumerate((1, 20, 200, 200)):
        watch.add(interval(requests(SDB, "read", 5, ms * MS, at * S), at))
    (line,) = (line for line in lines(watch.state(), Look(), ABOUT, 200, 24)[0] if "read" in line)
    assert re.search("[▃▄]\x1b\\[0m\x1b\\[1;33m▆\x1b\\[0m\x1b\\[1;1;31m██\x1b\\[0m$", line)


def test_wide_and_combining_characters_keep_columns_aligned() -> None:
    names = {SDB: "磁盘一", DM3: "e\u0301te\u0301"}
    about = dataclasses.replace(ABOUT, name_of=names.get, source="磁" * 80)
    shown = frame(interval(BUSY), about=about)
    starts = [line[: at.start()] for line in shown if (at := re.search(" (read|write) ", line))]
    assert [cell_len(start) for start in starts] == [9, 9, 9]


def test_long_idle_devices_are_forgotten_unless_named() -> None:
    watch = Watch([SDB])
    watch.add(interval(BUSY))
    for i in range(SLICES):
        assert watch.state().past.devices.tolist() == [SDB, DM3]
        watch.add(interval([], i + 1))
    watch.add(interval([], SLICES + 1))
    assert not watch.state().past.devices.size
    assert watch.state().expected == {SDB}


def test_errors_are_kept() -> None:
    failing = [
        dataclasses.replace(io, error=i < 3) for i, io in enumerate(requests(SDB, "read", 9, MS))
    ]
    assert rows(frame(interval(failing)))["sdb", "read"]["err"] == "3!"
    seen = interval(failing), interval(requests(SDB, "read", 9, MS, S), 1)
    assert rows(frame(*seen))["sdb", "read"]["err"] == "3"
    assert rows(frame(*seen, look=Look(is_whole=True)))["sdb", "read"]["err"] == "3"


def test_pause_end_and_messages_are_shown() -> None:
    text = "\n".join(frame(interval(BUSY), look=Look().after("p"), notes=["bad \x1b[2Jtrace"]))
    assert "PAUSED" in text and r"bad \x1b[2Jtrace" in text
    assert "END OF TRACE" in "\n".join(frame(interval(BUSY), ended=True))


def test_help_fits_the_smallest_usual_terminal() -> None:
    shown = frame(interval(BUSY), look=Look().after("?"))
    # "…" marks a cut line; but the help itself has "p50 … max".
    assert not any("…" in line and "p50 …" not in line for line in shown)
    assert any("the whole run, or the latest interval" in line for line in shown)
    assert shown[-1].startswith("q quit")
    assert Look().after("?").after("h") == Look()


def test_small_terminal_shows_the_size_it_needs() -> None:
    assert frame(interval(BUSY), width=39)[0].startswith("top needs 40 columns, 8 lines")
    assert frame(interval(BUSY), width=10, height=1)


def test_unknown_keys_change_nothing() -> None:
    assert all(Look().after(key) == Look() for key in [*"xyz1t", "back", "enter"])


def test_plain_terminal_gets_only_ascii() -> None:
    about = dataclasses.replace(ABOUT, is_plain=True)
    shown = "\n".join(frame(interval(BUSY), about=about, width=200))
    assert shown.isascii() and "100us" in shown


def test_names_cannot_control_the_terminal() -> None:
    about = About(source="a\x1b[2Jb", name_of=lambda number: "x\x1b]0;y\x07")
    text = "\n".join(frame(interval(BUSY), about=about))
    assert "\x1b" not in text and "\x07" not in text


# --- views ----------------------------------------------------------------------------------------


def san_frame(by: str, *ios: Sequence[Io], look: Look | None = None) -> list[str]:
    """The screen of a view of a SAN host, with its findings."""
    tracker = Tracker(HOST, "device")
    every = [io for part in ios for io in part]
    shown = tracker(interval_of(every, 0, S))
    return frame(shown, about=san_about(tracker), look=look or Look(by=by))


def tree(shown: Sequence[str]) -> list[str]:
    """The names of the table, with their place in the tree and without their marks."""
    at = next(i for i, line in enumerate(shown) if "worst" in line)
    lines = (line[1:] for line in shown[at + 1 : -1] if line.strip())
    return [line[:22].rstrip() for line in lines if not line.startswith("all")]


def san_about(tracker: Tracker) -> About:
    return About(source="all", name_of=tracker.view.name_of, views=Views(tracker.view, []))


def test_findings_of_a_whole_run_are_above_its_table() -> None:
    slow = interval_of([*load("8:0", 250, 1), *load("8:16", 250, 9)], 0, S)
    tracker = Tracker(HOST, "device")
    watch = Watch()
    for one in (slow, interval([], 1), interval([], 2)):
        watch.add(tracker(one))
    for look, is_said in ((Look(by="path"), False), (Look(by="path", is_whole=True), True)):
        state = watch.state(whole=look.is_whole)
        shown = plain(lines(state, look, san_about(tracker), 120, 24)[0])
        assert any("! sdb, a path of mpatha to port2, is slow" in line for line in shown) == is_said
        assert any(line.startswith("!    sdb") for line in shown) == is_said


def test_whole_run_says_since_when_a_path_is_slow_if_it_still_is() -> None:
    tracker, watch = Tracker(HOST, "device"), Watch()
    for at, ms in enumerate((1, 1, 9, 9)):
        ios = [*load("8:0", 250, 1), *load("8:16", 250, ms)]
        ios = [dataclasses.replace(io, issue_ns=io.issue_ns + at * S) for io in ios]
        watch.add(tracker(interval_of(ios, at * S, (at + 1) * S)))
    look = Look(by="path", is_whole=True)
    shown = plain(lines(watch.state(whole=True), look, san_about(tracker), 120, 24)[0])
    assert "sdb, a path of mpatha to port2, is slow since 00:00:02 UTC: p95" in "\n".join(shown)


def test_paths_are_below_their_map_and_counted_once() -> None:
    shown = san_frame("path", load("253:0", 40, 5), load("8:0", 20, 1), load("8:16", 20, 9))
    assert tree(shown) == ["▾ mpatha", "    sdb", "    sda"]
    assert next(line for line in shown if line[3:].startswith("mpatha")).split()[5] == "40"  # IOPS


def test_row_of_all_devices_counts_a_request_on_a_map_and_its_path_once() -> None:
    ios = load("253:0", 40, 5), load("8:0", 20, 1), load("8:16", 20, 9)
    shown = san_frame("device", *ios, look=Look())
    line = next(line for line in shown if line[1:].startswith("all"))
    assert re.search(r"3 dev +5\.00ms +40 ", line)  # as on the map: its paths do not count
    shown = san_frame("path", *ios, load("8:64", 20, 2))
    line = next(line for line in shown if line[1:].startswith("all"))
    assert re.search(r"2 LUNs +5\.00ms +60 ", line)


def test_findings_are_above_the_table() -> None:
    shown = san_frame("path", load("8:0", 250, 1), load("8:16", 250, 9))
    text = " ".join(" ".join(shown).split())
    assert (
        "! sdb, a path of mpatha to port2, is slow: p95 of reads 9.00 ms, 1.00 ms on sda;" in text
    )


def test_long_names_of_groups_keep_both_ends() -> None:
    name = "VENDOR MODEL iqn.2026-11.example.lab:array1"
    devices = tuple(dataclasses.replace(d, array=d.array and name) for d in HOST.devices)
    tracker = Tracker(dataclasses.replace(HOST, devices=devices), "device")
    shown = frame(
        tracker(interval_of(load("8:0", 20, 1), 0, S)),
        about=san_about(tracker),
        look=Look(by="array"),
    )
    assert any(re.match(r".▸ VENDOR….*lab:array1 ", line) for line in shown)


def test_tree_of_arrays_opens_down_to_the_paths_worst_first() -> None:
    parts = load("8:0", 20, 1), load("8:16", 20, 9), load("8:32", 20, 3), load("8:64", 20, 2)
    look = Look(by="array")
    assert tree(san_frame("array", *parts, look=look)) == ["▸ one", "▸ two"]
    everything = san_frame("array", *parts, look=look.after("*"))
    assert tree(everything) == [
        "▾ one", "  ▾ mpatha", "      sdb", "      sda", "  ▾ mpathb", "      sdc",
        "▾ two", "  ▾ mpathc", "      sde",
    ]  # fmt: skip
    total = next(line for line in everything if line[1:].startswith("all")).split()
    assert total[1:3] == ["2", "arrays"] and total[4] == "80"


def test_disks_without_an_array_are_not_counted_as_arrays() -> None:
    shown = san_frame("array", load("8:0", 20, 1), load("8:80", 20, 9), look=Look(by="array"))
    total = next(line for line in shown if line[1:].startswith("all")).split()
    assert total[1:3] == ["2", "rows"]


def test_branches_open_and_close_at_the_selected_row() -> None:
    parts = load("8:0", 20, 9), load("8:64", 20, 2)
    tracker = Tracker(HOST, "device")
    watch = Watch()
    watch.add(tracker(interval_of([io for part in parts for io in part], 0, S)))
    look = Look(by="device")
    for keys, wanted in (
        ("t", ["▸ one", "▸ two"]),
        ("+", ["▾ one", "  ▸ mpatha", "▸ two"]),
        ("-", ["▸ one", "▸ two"]),
        ([" ", "down", " "], ["▾ one", "  ▾ mpatha", "      sda", "▸ two"]),
        ("*", ["▾ one", "  ▾ mpatha", "      sda", "▾ two", "  ▾ mpathc", "      sde"]),
        (["/", *"SDE"], ["▾ two", "  ▾ mpathc", "      sde"]),
    ):
        for key in keys:
            _, at = lines(watch.state(), look, san_about(tracker), 80, 24)
            look = look.after(key, at, has_tree=True)
        shown = plain(lines(watch.state(), look, san_about(tracker), 80, 24)[0])
        assert tree(shown) == wanted


def test_branches_by_path_are_open_at_first() -> None:
    parts = load("8:0", 20, 9), load("8:64", 20, 2)
    for keys, wanted in (
        ("", ["▾ mpatha", "    sda", "▾ mpathc", "    sde"]),
        ("+", ["▾ mpatha", "    sda", "▾ mpathc", "    sde"]),
        ("-", ["▸ mpatha", "▾ mpathc", "    sde"]),
        ("-+", ["▾ mpatha", "    sda", "▾ mpathc", "    sde"]),
        ("*", ["▸ mpatha", "▸ mpathc"]),
    ):
        look = Look(by="path", selected=("lun", number_of("253:0")))
        for key in keys:
            look = look.after(key)
        assert tree(san_frame("path", *parts, look=look)) == wanted


def test_operations_of_paths_are_shown_in_the_tree_if_asked_for() -> None:
    parts = load("8:0", 20, 9), requests(number_of("8:0"), "write", 5, MS)
    look = Look(by="array", is_open=True)
    assert tree(san_frame("array", *parts, look=look)) == ["▾ one", "  ▾ mpatha", "      sda"]
    shown = san_frame("array", *parts, look=look.after("o", Shown(has_operations=False)))
    assert tree(shown) == ["▾ one", "  ▾ mpatha", "      sda", "", ""]
    at = next(at for at, line in enumerate(shown) if "sda" in line)
    assert [line.split()[0] for line in shown[at + 1 : at + 3]] == ["read", "write"]


def test_map_that_was_traced_has_its_own_figures_in_the_tree() -> None:
    parts = load("253:0", 40, 11), load("8:0", 20, 1), load("8:16", 20, 9)
    shown = san_frame("array", *parts, look=Look(by="array", is_open=True))
    lun = next(line[1:] for line in shown if "▾ mpatha" in line).split()
    array = next(line[1:] for line in shown if "▾ one" in line).split()
    assert (lun[5], lun[7]) == ("40", "11.0ms")  # IOPS and p50: not those of its paths
    assert array[5] == "40"


def test_change_of_a_path_stays_for_a_minute() -> None:
    offline = [
        dataclasses.replace(d, state="offline") if d.name == "sda" else d for d in HOST.devices
    ]
    tracker = Tracker(HOST, "device")
    seen = [tracker(interval(load("8:0", 20, 1)))]
    tracker.topology = dataclasses.replace(HOST, devices=tuple(offline))
    seen.append(tracker(interval([], 1)))
    for number in (2, 30, 62):
        seen.append(tracker(interval([], number)))
        shown = frame(*seen, about=san_about(tracker), look=Look(by="path"))
        said = f"! {number - 1}.0 s ago: sda, a path of mpatha to port1, changed its state"
        assert any(line.startswith(said.replace(" 1.0 ", " 1.00 ")) for line in shown) == (
            number < 60
        )
    assert any(re.match(r". +sda +offline ", line) for line in shown)


# --- finding the slow one -------------------------------------------------------------------------


def many_devices(slow: int, n: int = 500) -> list[Interval]:
    """Ten requests a second on each of n devices, of which one is slow."""
    devices = [8 << 20 | 16 * at for at in range(n)]
    return [
        interval(
            [
                io
                for at, device in enumerate(devices)
                for io in requests(device, "read", 10, (MS, 250 * MS)[at == slow], s * S)
            ],
            s,
        )
        for s in range(2)
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 50)])
@pytest.mark.parametrize("n", [1, 40, 500])
def test_slow_device_is_in_the_first_row(width: int, height: int, n: int) -> None:
    shown = frame(*many_devices(n // 2, n), width=width, height=height)
    assert order(shown)[0] == f"8:{n // 2 * 16}"
    assert next(line for line in shown if line[1:].startswith(order(shown)[0]))[0] == "!"
    assert any("more devices" in line for line in shown) == (n > height - 6)


def test_operations_are_hidden_above_five_devices() -> None:
    busy = [
        io
        for n in range(6)
        for op in ("read", "write")
        for io in requests(8 << 20 | n, op, 3, (n + 1) * MS)
    ]
    assert len(rows(frame(interval(busy[:30])))) == 1 + 5 * 3
    assert len(rows(frame(interval(busy)))) == 1 + 6
    assert len(rows(frame(interval(busy), look=Look(has_operations=True)))) == 1 + 6 * 3


def test_list_scrolls_with_the_selected_row() -> None:
    watch = Watch()
    watch.add(slower_and_slower(60))
    look = Look()
    for key, first, above in (
        ("down", "8:944", 0),
        ("pgdn", "8:800", 9),
        ("end", "8:272", 42),
        ("up", "8:272", 42),
        ("home", "8:944", 0),
    ):
        _, at = lines(watch.state(), look, ABOUT, 80, 24)
        look = look.after(key, at)
        shown = plain(lines(watch.state(), look, ABOUT, 80, 24)[0])
        assert order(shown)[0] == first
        assert any(f"… {above} devices above" in line for line in shown) == bool(above)


def test_filter_keeps_names_that_contain_it() -> None:
    look = Look()
    for key in ["/", "D", "m", "q", "back"]:
        look = look.after(key)
    shown = frame(interval(BUSY), look=look)
    assert order(shown) == ["dm-3"] and shown[-1].startswith("/Dm_")
    assert look.after("enter").filter == "Dm"
    assert order(frame(interval(BUSY), look=look.after("enter").after("esc"))) == ["sdb", "dm-3"]
    assert "/Dm (Esc: all)" in frame(interval(BUSY), look=Look(filter="Dm"))[-1]
    shown = frame(interval(BUSY), look=Look(filter="x"))
    assert any("no name contains x" in line for line in shown)


def test_heat_map_shows_latencies_of_a_device_over_time() -> None:
    seen = [interval(requests(SDB, "read", 9, t * MS, s * S), s) for s, t in enumerate((1, 1, 80))]
    shown = frame(*seen, look=Look(detail=("device", SDB)), width=100)
    cells = [line for line in shown if "█" in line and "ms" in line and "sdb" not in line]
    # Of the 90 cells, 30 are of the slow interval, 60 of the two fast ones.
    (high, low) = (line for line in cells if "most" not in line and "more" not in line)
    assert len(high.split("█")) - 1 == 30 and high.rstrip().endswith("█")
    assert len(low.split("█")) - 1 == 60 and low.startswith(" 1.00ms ")
    assert any("no slow request" in line for line in shown)
    narrow = frame(*seen, look=Look(detail=("device", SDB)), width=80)
    assert any(line.startswith("latency by time") and line.endswith("█ more") for line in narrow)


def test_request_that_hung_and_then_completed_is_listed_once() -> None:
    found = np.zeros(3, layout.SLOW)
    request = found["request"]
    request["device"], request["sector"], request["first_issued_ns"] = SDB, [8, 16, 8], [1, 2, 1]
    request["d2c_ns"], found["is_pending"] = [S, 2 * S, 8 * S], [True, True, False]
    watch = Watch()
    watch.add(interval(requests(SDB, "read", 9, MS)))
    watch.add_slow(SlowBatch(found, {}, 0, True))
    shown = plain(lines(watch.state(), Look(detail=("device", SDB)), ABOUT, 100, 24)[0])
    listed = [line.split()[:5] for line in shown if "at sector" in line]
    assert [(line[0], line[-1]) for line in listed] == [("8.00s", "sector"), ("2.00s", "sector")]
    assert sum("still in flight" in line for line in shown) == 1
    assert any("slowest of the latest 2 slow requests" in line for line in shown)


def test_history_covers_the_whole_run_in_a_bounded_number_of_slices() -> None:
    watch = Watch([SDB])
    for number in range(3 * SLICES):
        watch.add(
            interval(requests(SDB, "read", 2, (MS, 200 * MS)[number < 4], number * S), number)
        )
    past = watch.state().past
    assert past.slices == SLICES - SLICES // 4
    assert past.heat([SDB]).sum() == 2 * 3 * SLICES
    (line,) = (ln for ln in frame_of(watch, width=200) if ln[1:4] == "sdb")
    history = line.split()[-1]
    assert history[0] == "█" and set(history[1:]) <= set("▃▄")  # 1 ms, and up to 0.8 % off


def frame_of(watch: Watch, width: int) -> list[str]:
    return plain(lines(watch.state(), Look(), ABOUT, width, 24)[0])


def test_escape_sequences_are_keys() -> None:
    assert keys_of("q\x1b[A\x1b[6~\x1bOR\x1b[17~\r\x7f") == [
        "q", "up", "pgdn", "/", ">", "enter", "back",
    ]  # fmt: skip
    assert keys_of("\x1b") == ["esc"]
    assert keys_of("\x1b[99;5Zx\x1bb") == ["x"]  # unknown ones are left out


def test_keys_sort_by_each_column_in_turn() -> None:
    at = Shown(titles=("worst", "IOPS", "MB/s"))
    assert Look().after(">", at).sort == "IOPS"
    assert Look().after("<", at).sort == "MB/s"


# --- the command ---------------------------------------------------------------------------------


def said(*arguments: str | Path, env: dict[str, str] | None = None, status: int = 2) -> list[str]:
    words = ("top", *arguments)
    result = runner.call(*words) if env is None else runner.run(*words, env=env)
    assert result.returncode == status
    assert result.stdout == b""
    return result.stderr.decode().splitlines()


def test_output_that_is_no_terminal_is_refused() -> None:
    (line,) = said(MULTI)
    assert "needs a terminal" in line and "`blkiomon stat --json`" in line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--speed", "0", MULTI], "--speed takes a factor or max"),
        (["--speed", "fast", MULTI], "--speed takes"),
        (["--speed", "2"], "--speed needs a recorded trace"),
        (["-I", "0", MULTI], "--interval takes"),
        (["--queue", MULTI], "--queue needs a device"),
        (["--what", MULTI], "option --what not recognized"),
        ([""], "an argument is empty: name a device or a trace"),
    ],
)
def test_misuse_shows_the_usage(arguments: list[str | Path], reason: str) -> None:
    first, usage, *_ = said(*arguments)
    assert reason in first and usage.startswith("Usage: blkiomon top")


def test_name_that_is_neither_device_nor_trace_is_refused() -> None:
    (line,) = said("nosuchdisk", status=3)
    assert "cannot open nosuchdisk" in line and line.endswith(
        "and this host has no such block device"
    )


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with two disks, one of them with a partition; standard input is empty."""
    numbers = {"sda": 8 << 20, "sdb": 8 << 20 | 16, "/dev/sda1": 8 << 20 | 1}
    monkeypatch.setattr("blkiomon.commands.naming.device_number", numbers.get)
    disks = [CapturedDevice("sda", 8 << 20, True), CapturedDevice("sdb", 8 << 20 | 16, True)]
    monkeypatch.setattr("blkiomon.sources.capture.all_disks", lambda: disks)
    monkeypatch.setattr("blkiomon.commands.naming.is_fed", lambda: False)


def config_of(*arguments: str) -> Config:
    return top._config(parsing.read(top.COMMAND.options, arguments))


def test_names_are_taken_as_devices_or_traces(host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(*names: str, files: Sequence[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
        config = config_of(*(f"--file={name}" for name in files), *names)
        assert isinstance(config, Config) and config.screen
        return config.trace, config.files

    assert chosen("sdb", "/dev/sda1") == (("sdb", "/dev/sda1"), ())
    assert chosen(str(MULTI)) == ((), (str(MULTI),))
    assert chosen(files=["sda"]) == ((), ("sda",))  # although there is such a device
    assert chosen("-") == ((), ("-",))
    assert chosen() == ((ALL,), ())
    with pytest.raises(UsageError, match="top shows devices or traces, not both: sda is a device"):
        chosen("sda", str(MULTI))
    monkeypatch.setattr("blkiomon.commands.naming.is_fed", lambda: True)
    assert chosen() == ((), ())


def test_host_without_disks_is_refused(host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blkiomon.sources.capture.all_disks", list)
    with pytest.raises(SourceError, match="this host has no disks: name the devices to capture"):
        config_of()


# --- the output ----------------------------------------------------------------------------------


class Paper(Terminal):
    """A terminal that keeps what is drawn on it."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK)
        self.shown: list[str] = []
        self.takes = True
        self.is_entered = False

    def enter(self) -> None:
        self.is_entered = True

    def leave(self) -> None:
        self.is_entered = False

    def draw(self, shown: Iterable[str]) -> None:
        self.shown = plain(list(shown))

    def flush(self) -> None:
        pass

    @property
    def is_behind(self) -> bool:
        return not self.takes

    @property
    def size(self) -> tuple[int, int]:
        return 100, 24

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.shown)

    def type(self, keys: str) -> None:
        os.write(self._write_fd, keys.encode())


@contextmanager
def screen(paper: Paper, about: About = ABOUT, speed: float = 1.0) -> Iterator[ScreenSink]:
    said: list[str] = []
    look = Look(is_whole=not about.is_live and not speed)
    sink = ScreenSink(paper, about, [], look, speed, said.append, lossless=not about.is_live)
    sink.start()
    try:
        yield sink
    finally:
        sink.stop_waiting()
        sink.close()
    assert not paper.is_entered and not sink.failed and not said


def test_late_interval_is_reported() -> None:
    paper = Paper()
    with screen(paper, dataclasses.replace(ABOUT, interval_s=0.01)) as sink:
        until(lambda: paper.shows("NO NEW INTERVAL: the next is 2 s late"))
        sink.put(interval(BUSY))
        until(lambda: paper.shows("sdb") and not paper.shows("NO NEW INTERVAL"))


def test_slow_terminal_skips_screens_but_no_intervals() -> None:
    paper = Paper()
    with screen(paper) as sink:
        until(lambda: paper.shown)
        paper.takes = False
        before = paper.shown
        for i in range(150):
            # Never more than the queue holds, so that none is dropped there.
            sink.put(interval(requests(SDB, "read", 1, MS, i * S), i))
            until(lambda n=i: sink._added > n)  # type: ignore[misc]
        assert paper.shown == before
        paper.takes = True
        paper.type("w")
        until(lambda: paper.shows("WHOLE RUN: 300 records in 150 s"))
        assert paper.shows("intervals were counted but not drawn")
        assert sink.dropped_intervals == 0


def test_losses_are_shown_during_a_pause() -> None:
    paper = Paper()
    with screen(paper) as sink:
        sink.put(interval(BUSY))
        until(lambda: paper.shows("sdb"))
        paper.type("p")
        until(lambda: paper.shows("PAUSED"))
        sink.put(interval(requests(HUNG, "read", 3, MS, S), 1, lost_events=7))
        until(lambda: paper.shows("LOST NOW: 7 lost events"))
        assert paper.shows("sdb") and not paper.shows("65:1")
        paper.type("p")
        until(lambda: paper.shows("65:1"))


def test_messages_are_shown_and_printed_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    paper = Paper()
    with screen(paper):
        complain("something is wrong")
        until(lambda: paper.shows("something is wrong"))
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "blkiomon: something is wrong\n"
    complain("more")
    assert capfd.readouterr().err == "blkiomon: more\n"


def test_replay_waits_until_the_run_is_over() -> None:
    paper = Paper()
    with screen(paper, dataclasses.replace(ABOUT, is_live=False), speed=1e-6) as sink:
        sink.put(interval(BUSY))  # its turn is in eleven days
        until(lambda: paper.shows("waiting for the first"))
        assert not paper.shows("sdb  ")
    # The interval was neither dropped nor waited for.
    assert sink.dropped_intervals == 0
