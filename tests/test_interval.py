"""Merging and the original's arithmetic; the printed numbers are the original's own."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from intervals import BIDIRECTIONAL, READ, WRITE, Request, interval

from blkiomon import layout
from blkiomon.interval import NOTHING, Counts, Cut, Interval, Moments


def of(*values: int) -> Moments:
    squares = sum(v * v for v in values)
    return Moments(min(values), max(values), sum(values), squares, len(values))


@pytest.mark.parametrize(
    ("num", "total", "squares", "avg", "var"),
    [
        # num, sum, squ, avg, var as blkiomon 0.3 printed them
        (3, 300, 30000, "100.0", "0.0"),
        (2, 9921, 49213265, "4960.5", "72.2"),
        (5, 24817, 123177651, "4963.4", "190.6"),
        (3, 16, 200, "5.3", "38.2"),
        (2, 2**32 - 1, (2**32 - 1) ** 2, "2147483647.5", "4611686016279904256.0"),
        # doubles lose the last digits here, and the original shows it
        (3, 1687519766, 1076662743412383436, "562506588.7", "42473918844050648.0"),
        (3, 1840700226, 1129392440665483698, "613566742.0", "-42.7"),
        (4, 2454266977, 1505856598598179695, "613566744.2", "0.0"),
    ],
)
def test_avg_and_var_are_the_originals(
    num: int, total: int, squares: int, avg: str, var: str
) -> None:
    m = Moments(0, 0, total, squares, num)
    assert (f"{m.avg:.1f}", f"{m.var:.1f}") == (avg, var)


def test_var_is_exact_where_the_original_wraps() -> None:
    assert of(*[4096] * 1_200_000).var == 0.0  # it printed 12810238.9
    assert of(2**40, 2**40 + 2).var == 1.0
    assert of(0, 2**63).var == 2.0**124


def test_nothing_has_no_avg_and_no_var() -> None:
    assert (NOTHING.avg, NOTHING.var, NOTHING.min) == (0.0, 0.0, 2**64 - 1)


def test_merged_moments_are_those_of_all_values() -> None:
    assert of(1, 2**70).merge(of(5)) == of(1, 2**70, 5)
    assert of(7).merge(NOTHING) == NOTHING.merge(of(7)) == of(7)


def test_operations_merge_by_direction() -> None:
    sizes = [512, 4096, 2**30]
    (stats,) = interval(
        [Request(5, WRITE, size, 100, op=op) for op, size in enumerate(sizes)]
        + [Request(5, READ, 1, 9)]
    ).device_stats()
    assert stats.size_w == of(*sizes)
    assert stats.d2c_w == of(100, 100, 100)
    assert stats.thrput_w == of(*[size * 1000 // 100 for size in sizes])
    assert stats.size_r == of(1)
    assert sum(stats.size_hist) == sum(stats.d2c_hist) == 4


def test_bidirectional_requests_are_in_the_histograms_only() -> None:
    (stats,) = interval([Request(5, BIDIRECTIONAL, 512, 100)] * 2).device_stats()
    assert stats.bidir == 2
    assert stats.size_hist[1] == 2
    assert {getattr(stats, f"{q}_{d}") for q in ("size", "d2c", "thrput") for d in "rw"} == {
        NOTHING
    }


def test_devices_come_in_reverse_of_their_first_match() -> None:
    order = [9, 3, 2**32 - 1, 7, 3, 9]
    stats = interval([Request(device, READ, 1, 1) for device in order]).device_stats()
    assert [s.device for s in stats] == [7, 2**32 - 1, 3, 9]


def test_sums_beyond_64_bits_merge_exactly() -> None:
    big = [Request(1, READ, 1, 2**63 + op, op=op) for op in range(4)]
    (stats,) = interval(big).device_stats()
    assert stats.d2c_r == of(*[2**63 + op for op in range(4)])


def test_empty_interval_has_no_devices() -> None:
    assert interval([]).device_stats() == ()


def test_interval_and_its_parts_cannot_be_changed() -> None:
    item = interval([Request(1, READ, 1, 1)])
    with pytest.raises(dataclasses.FrozenInstanceError):
        item.time_s = 5  # type: ignore[misc]
    assert item.device_stats() is item.device_stats()


def test_counts_of_an_interval_are_a_difference() -> None:
    assert Counts(records=9, lost=2) - Counts(records=4) == Counts(records=5, lost=2)


def test_a_thousand_devices_take_milliseconds() -> None:
    devices = np.arange(1000, dtype="u4")
    rows = np.zeros(3000, layout.ROW)
    rows["device"] = np.repeat(devices, 3)
    rows["direction"] = np.tile([0, 1, 1], 1000)
    rows["op"] = np.tile([0, 1, 2], 1000)
    rows["requests"] = 1
    best_s = 1.0
    for _ in range(5):
        begin_s = time.perf_counter()
        item = Interval(time_s=0, devices=devices, cut=Cut(rows=rows))
        assert len(item.device_stats()) == 1000
        best_s = min(best_s, time.perf_counter() - begin_s)
    assert best_s < 0.1  # a few ms on an idle machine
