"""``Interval``: the original's statistics, groups, merging, and conversion to and from dicts."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import pickle
import time
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intervals import (
    BIDIRECTIONAL,
    DM3,
    HUNG,
    READ,
    SDB,
    WRITE,
    Io,
    Request,
    assert_same,
    completed,
    example,
    interval,
    interval_of,
    use_all,
)
from sanitizers import unsanitized
from strategies import IOS

from blkiomon import IntervalError, from_dict, to_dict
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot
from blkiomon.interval.distribution import PERCENTILES, Distribution
from blkiomon.interval.groups import InFlight, groups_of
from blkiomon.interval.merging import merge_snapshots
from blkiomon.interval.moments import add_up
from blkiomon.interval.value import NOTHING, Counts, Interval, Moments, merge


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
def test_avg_and_var_equal_the_originals(
    num: int, total: int, squares: int, avg: str, var: str
) -> None:
    m = Moments(0, 0, total, squares, num)
    assert (f"{m.avg:.1f}", f"{m.var:.1f}") == (avg, var)


def test_var_is_exact_where_the_original_wraps() -> None:
    assert of(*[4096] * 1_200_000).var == 0.0  # it printed 12810238.9
    assert of(2**40, 2**40 + 2).var == 1.0
    assert of(0, 2**63).var == 2.0**124


def test_empty_moments_have_no_avg_and_no_var() -> None:
    assert (NOTHING.avg, NOTHING.var, NOTHING.min) == (0.0, 0.0, 2**64 - 1)


def test_merged_moments_equal_those_of_all_values() -> None:
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


def test_bidirectional_requests_count_in_the_histograms_only() -> None:
    (stats,) = interval([Request(5, BIDIRECTIONAL, 512, 100)] * 2).device_stats()
    assert stats.bidir == 2
    assert stats.size_hist[1] == 2
    assert {getattr(stats, f"{q}_{d}") for q in ("size", "d2c", "thrput") for d in "rw"} == {
        NOTHING
    }


def test_devices_are_in_reverse_order_of_their_first_match() -> None:
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
    assert Counts(records=9, lost_events=2) - Counts(records=4) == Counts(records=5, lost_events=2)


def test_a_thousand_devices_take_milliseconds() -> None:
    devices = np.arange(1000, dtype="u4")
    rows = np.zeros(3000, layout.ROW)
    rows["device"] = np.repeat(devices, 3)
    rows["direction"] = np.tile([0, 1, 1], 1000)
    rows["op"] = np.tile([0, 1, 2], 1000)
    rows["requests"] = 1
    rows["d2c_hist"][:, 0] = 1
    best_s = 1.0
    for _ in range(5):
        begin_s = time.thread_time()
        item = Interval(time_s=0, devices=devices, snapshot=Snapshot(rows=rows))
        assert len(item.device_stats()) == 1000
        best_s = min(best_s, time.thread_time() - begin_s)
    assert best_s < 0.1  # a few ms on an idle machine


# --- groups --------------------------------------------------------------------------------------

S = 10**9
PROCESS_NAMES = {1: "one", 2: "two", 3: "three", 4: "four"}


@given(st.lists(IOS, max_size=12))
@settings(max_examples=60, deadline=None)
def test_group_figures_equal_those_of_its_requests(ios: list[Io]) -> None:
    item = interval_of(ios, S, 2 * S)
    done = completed(ios, S, 2 * S)
    for group in item.groups():
        own = [io for io in done if group.device in (None, io.device) and group.op in (None, io.op)]
        queued = [io for io in own if io.q2d_ns is not None]
        assert group.d2c_ns == Distribution.of(io.d2c_ns or 0 for io in own)
        assert group.size_bytes == Distribution.of(io.size for io in own)
        assert group.errors == sum(io.error for io in own)
        assert group.requests == group.iops == len(own)
        assert group.bytes == group.bytes_per_s == sum(io.size for io in own)
        assert (group.q2d_ns is None) == (group.q2c_ns is None) == (not queued)
        if group.q2d_ns is not None and group.q2c_ns is not None:
            assert group.q2d_ns == Distribution.of(io.q2d_ns or 0 for io in queued)
            assert group.q2c_ns == Distribution.of(
                (io.q2d_ns or 0) + (io.d2c_ns or 0) for io in queued
            )


def test_groups_are_ordered_by_device_and_operation_with_the_total_last() -> None:
    item = interval_of(example(), 0, 3 * S)
    assert [(g.device, g.op) for g in item.groups()] == [
        (SDB, "read"),
        (SDB, "write"),
        (SDB, "flush"),
        (SDB, None),
        (HUNG, "write"),
        (HUNG, None),
        (DM3, "read"),
        (DM3, None),
        (None, None),
    ]
    assert item.total is item.groups()[-1]
    assert item.device(DM3) is item.groups()[-2]
    assert item.ops(SDB) == item.groups()[:3]
    assert item.device("8:16") is item.device(SDB)
    with pytest.raises(KeyError, match=r"device 0:99 has no figures; known devices: 8:16, 65:1"):
        item.device(99)
    with pytest.raises(KeyError, match=r"has no figures; known devices: 8:16, "):
        item.ops("7:1")
    with pytest.raises(ValueError, match=r"this host has no block device 'sdzz'; name a device of"):
        item.device("sdzz")
    with pytest.raises(KeyError, match=r"has no figures; known devices: none"):
        interval_of([], 0, S).percentile(50, device=SDB)
    assert item.groups() is item.groups()


@settings(deadline=None)
@given(st.lists(st.lists(IOS, max_size=6), max_size=4), st.booleans())
def test_groups_of_several_snapshots_are_those_of_each(ios: list[list[Io]], measures: bool) -> None:
    snapshots = [interval_of(some, 0, 4 * 10**9).snapshot for some in ios]
    unmeasured = dataclasses.replace(interval_of(example(), 0, 10**9).snapshot, loads=NO_LOADS)
    snapshots += [Snapshot(), unmeasured]
    if not measures:
        snapshots = [dataclasses.replace(each, loads=NO_LOADS) for each in snapshots]
    found = groups_of(snapshots, 10**9)
    assert found == [groups_of([snapshot], 10**9)[0] for snapshot in snapshots]


NO_LOADS = np.empty(0, layout.LOAD)


def test_hung_device_has_a_group_without_completions() -> None:
    item = interval_of(example(), S, 2 * S)
    group = item.device(HUNG)
    assert group is not None and group.in_flight is not None
    assert (group.requests, group.d2c_ns, group.iops) == (0, Distribution(), 0)
    load = group.in_flight
    assert (load.mean, load.max, load.end, load.busy_fraction) == (1.0, 1, 1, 1.0)
    assert load.oldest_ns == 2 * S - 2 * 10**8


def test_idle_interval_has_a_total_of_zeros() -> None:
    (total,) = interval_of([], 0, S).groups()
    assert (total.requests, total.bytes, total.iops, total.errors) == (0, 0, 0, 0)
    assert total.in_flight == InFlight(0, 0, 0, 0, None, S)
    assert total.in_flight.busy_fraction is None


def test_in_flight_is_none_where_it_was_not_measured() -> None:
    assert interval([Request(1, READ, 1, 1)]).total.in_flight is None


def test_busy_time_is_known_of_devices_only() -> None:
    item = interval_of([Io(SDB, "read", 512, 0, S // 2), Io(DM3, "write", 512, 0, S // 4)], 0, S)
    busy = {(g.device, g.op): g.in_flight.busy_fraction for g in item.groups() if g.in_flight}
    assert busy == {
        (SDB, "read"): None,
        (SDB, None): 0.5,
        (DM3, "write"): None,
        (DM3, None): 0.25,
        (None, None): None,
    }


def test_interval_without_duration_has_no_rates() -> None:
    total = interval([Request(1, READ, 1, 1)]).total
    assert (total.requests, total.iops, total.bytes_per_s) == (1, None, None)


def test_rows_of_several_directions_add_up() -> None:
    ios = [Io(SDB, "zone", 512, 0, 100, direction=d) for d in (READ, WRITE, BIDIRECTIONAL)]
    item = interval_of(ios, 0, S)
    assert len(item.rows) == 3
    assert [g.requests for g in item.groups()] == [3, 3, 3]


@pytest.mark.parametrize("percent", PERCENTILES)
def test_interval_percentiles_are_those_of_its_requests(percent: float) -> None:
    ios = example()
    item = interval_of(ios, 0, 3 * S)
    done = completed(ios, 0, 3 * S)
    for device, op in itertools.product([None, SDB, DM3, HUNG], [None, "read", "flush", "zone"]):
        values = [
            io.d2c_ns or 0 for io in done if device in (None, io.device) and op in (None, io.op)
        ]
        found = item.percentile(percent, device=device, op=op)
        if not values:
            assert found is None
            continue
        assert found is not None
        exact = int(np.percentile(values, percent, method="inverted_cdf"))
        assert abs(found - exact) <= exact / 128


# --- merging -------------------------------------------------------------------------------------


@given(st.lists(IOS, max_size=15))
@settings(max_examples=25, deadline=None)
def test_merged_intervals_equal_one_long_interval(ios: list[Io]) -> None:
    parts = [interval_of(ios, k * S, (k + 1) * S, PROCESS_NAMES) for k in range(3)]
    whole = interval_of(ios, 0, 3 * S, PROCESS_NAMES)
    merged = merge(parts)
    assert_same(merged, whole)
    assert merged.devices.tolist() == whole.devices.tolist()
    assert merged.device_stats() == whole.device_stats()


@given(st.lists(IOS, max_size=15))
@settings(max_examples=25, deadline=None)
def test_merging_is_associative_and_commutative(ios: list[Io]) -> None:
    a, b, c = (interval_of(ios, k * S, (k + 1) * S, PROCESS_NAMES) for k in range(3))
    whole = merge([a, b, c])
    for merged in (
        a.merge(b).merge(c),
        a.merge(b.merge(c)),
        c.merge(b).merge(a),
        c.merge(a).merge(b),
        b.merge(a, c),
    ):
        assert_same(merged, whole)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3) | st.integers(0, 2**58)), max_size=60),
    st.sampled_from([1, 1000, 7 << 40]),  # close keys are counted in an array, others are sorted
)
def test_counts_of_equal_keys_add_up(pairs: list[tuple[int, int]], distance: int) -> None:
    wanted: dict[int, int] = {}
    for key, count in pairs:
        wanted[distance * key] = wanted.get(distance * key, 0) + count
    keys = np.array([distance * key for key, _ in pairs], np.int64)
    found = add_up(keys, np.array([count for _, count in pairs], np.uint64))
    assert list(zip(*(column.tolist() for column in found))) == sorted(wanted.items())


def test_interval_can_be_pickled_with_all_that_it_has_computed() -> None:
    one = interval_of([Io(SDB, "read", 4096, 0, 1000), Io(SDB, "write", 512, 5, 70)], 0, 2000)
    one.columns()
    assert pickle.loads(pickle.dumps(one)).groups() == one.groups()


def test_one_interval_merges_to_itself() -> None:
    item = interval_of(example(), 0, S)
    assert_same(item.merge(), item)


def test_in_flight_and_process_names_come_from_the_later_interval() -> None:
    ios = [Io(SDB, "read", 512, 0, S + S // 2, pid=7), Io(SDB, "read", 512, 5, 100, pid=7)]
    first = interval_of(ios, 0, S, {7: "bash"})
    second = interval_of(ios, S, 2 * S, {7: "dd"})
    merged = second.merge(first)
    assert first.total.in_flight is not None and first.total.in_flight.end == 1
    assert merged.total.in_flight is not None and merged.total.in_flight.end == 0
    assert merged.process_names == {7: "dd"}


@pytest.mark.parametrize("other", [{"clock": "trace"}, {"anchored": False}])
def test_intervals_of_different_clocks_do_not_merge(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="different clocks"):
        interval_of([], 0, S).merge(interval_of([], S, 2 * S, **other))  # type: ignore[arg-type]


def test_merged_intervals_keep_the_order_of_first_matches() -> None:
    cuts = [
        interval_of([Io(device, "read", 512, 0, device) for device in devices], 0, S).snapshot
        for devices in ([9, 3, 7], [3, 1, 9])
    ]
    assert merge_snapshots(cuts).rows["device"].tolist() == [3, 7, 9, 1]


def test_merging_no_intervals_is_refused() -> None:
    with pytest.raises(ValueError, match="no interval to merge"):
        merge([])


# --- plain dicts ---------------------------------------------------------------------------------


def through_json(item: Interval) -> Interval:
    return from_dict(json.loads(json.dumps(to_dict(item), allow_nan=False)))


@given(st.lists(IOS, max_size=12), st.booleans())
@settings(max_examples=25, deadline=None)
def test_interval_survives_the_round_trip_through_json(ios: list[Io], is_anchored: bool) -> None:
    first, second = (
        interval_of(ios, k * S, (k + 1) * S, PROCESS_NAMES, anchored=is_anchored) for k in range(2)
    )
    back = through_json(first)
    assert_same(back, first)
    assert to_dict(back) == to_dict(first)
    assert_same(back.merge(through_json(second)), first.merge(second))
    assert back.percentile(75) == first.percentile(75)


def test_interval_without_in_flight_survives_the_round_trip() -> None:
    assert through_json(interval([])).groups() == interval([]).groups()


def test_interval_from_json_has_no_statistics_structs() -> None:
    first, second = interval_of(example(), 0, S), interval_of(example(), S, 2 * S)
    for item in (through_json(first), through_json(first).merge(second)):
        with pytest.raises(ValueError, match="lacks the original"):
            item.device_stats()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({}, "not an interval of schema 1"),
        ([], "not an interval of schema 1"),
        ({"schema": 2}, "not an interval of schema 1"),
        ({"schema": 1}, "devices is missing"),
    ],
)
def test_dict_that_is_not_an_interval_is_refused(other: Any, why: str) -> None:
    with pytest.raises(IntervalError, match=why):
        from_dict(other)


OF_READ = "devices.0.ops.read"


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("devices", 5, r"devices: 5 is not a list"),
        ("devices.1", 5, r"devices\[1\]: 5 is not an object"),
        ("devices.0.device", "sdb", r"devices\[0\].device is not a device number, such as 8:16"),
        ("devices.0.device", "8:1048576", "is not a device number"),
        ("devices.1.device", "8:16", "two rows have the same device, op"),
        ("devices.0.ops.trim", {}, r"devices\[0\].ops: 'trim' is not an operation"),
        ("devices.0.requests", 6, r"devices\[0\].requests: 6 is not the sum, "),
        ("total.errors", 6, r"total.errors: 6 is not the sum, "),
        ("total.requests", None, r"total.requests: None is not a whole number"),
        ("start_ns", None, "start_ns: None is not a whole number"),
        ("start_ns", 1.5, "start_ns: 1.5 is not a whole number"),
        ("start_ns", 10**300, "a time is out of range"),
        ("end_ns", -1, "end_ns -1 is before start_ns 0"),
        ("clock", {}, 'clock: {} is not "wall" or "trace"'),
        ("anchored", 2, "anchored: 2 is not true or false"),
        ("driver_data_records", float("-inf"), "driver_data_records: -inf is not a whole number"),
        ("unseen.lost_events", 1 << 120, "the count lost_events is .*, out of range"),
        ("unseen", None, "unseen: None is not an object"),
        ("processes.by_bytes.0.name", [None], r"by_bytes\[0\].name: \[None\] is not text"),
        ("processes.by_bytes.0.pid", 1 << 32, r"processes.by_bytes\[0\].pid: .* is out of range"),
        (f"{OF_READ}.d2c_ns.count", 1 << 40, "d2c_ns.count is not the number of requests"),
        (f"{OF_READ}.d2c_ns.max", 1, "8:16 read: d2c_ns: min exceeds max"),
        (f"{OF_READ}.d2c_ns.min", 0, "8:16 read: d2c_ns: min and max are not in its first and its"),
        (f"{OF_READ}.d2c_ns.sum_squares", 7, "have this min, max, sum and sum_squares"),
        (f"{OF_READ}.d2c_ns.histogram.low.0", 1 << 64, "is not a list of whole numbers from 0"),
        (f"{OF_READ}.d2c_ns.histogram.low.0", True, "is not a list of whole numbers from 0"),
        (f"{OF_READ}.d2c_ns.histogram.low.0", (1 << 40) + 1, "histogram: low must list the least"),
        (f"{OF_READ}.d2c_ns.histogram.low.0", 1 << 40, "d2c_ns: bins are not in ascending order"),
        (f"{OF_READ}.d2c_ns.histogram.low", [], "histogram: low must list the least"),
        (f"{OF_READ}.size_bytes.histogram.count.0", 0, "the count of a bin is out of range"),
        (f"{OF_READ}.in_flight.end", 1 << 50, "in flight: end exceeds max"),
        (f"{OF_READ}.in_flight.end", 1.5, "in_flight.end: 1.5 is not a whole number"),
        (f"{OF_READ}.q2c_ns", None, "q2c_ns: None is not an object"),
    ],
)  # fmt: skip
def test_contradictory_dict_is_refused_with_the_name_of_the_field(
    path: str, value: Any, why: str
) -> None:
    line = json.loads(json.dumps(to_dict(interval_of(example(), 0, S, PROCESS_NAMES))))
    *way, last = (int(name) if name.isdigit() else name for name in path.split("."))
    place = line
    for name in way:
        place = place[name]
    place[last] = value
    with pytest.raises(IntervalError, match=why):
        from_dict(line)


def test_dict_without_histograms_is_refused() -> None:
    with pytest.raises(IntervalError, match="without histograms"):
        from_dict(to_dict(interval_of(example(), 0, S), histograms=False))


def test_dict_of_an_earlier_or_a_later_version_is_read() -> None:
    item = interval_of(example(), 0, S)
    line = to_dict(item)
    del line["unseen"]["over_device_limit"]
    del line["devices"][0]["ops"]["read"]["in_flight"]["busy_ns"]
    line["total"]["what_comes_later"] = 7
    assert from_dict(line).groups() == item.groups()


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([0, 1, -1, 1 << 31, 1 << 52, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 127]),
    st.sampled_from([None, True, 1.5, float("nan"), "8:16", "\ud800", [], {}, [7], 10**400]),
    st.integers(0, 1000),
)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_changed_dict_is_refused_or_usable(data: st.DataObject) -> None:
    line = json.loads(CHANGED)
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = line
        while True:
            names = list(place) if isinstance(place, dict) else list(range(len(place)))
            name = data.draw(st.sampled_from(names))
            if not isinstance(place[name], (dict, list)) or not place[name]:
                break
            if data.draw(st.integers(0, 9)) == 0:
                break
            place = place[name]
        if data.draw(st.integers(0, 3)) == 0:
            del place[name]
        else:
            place[name] = copy.deepcopy(data.draw(VALUES))
        if not line:
            break
    try:
        item = from_dict(line)
    except IntervalError as error:
        assert "\n" not in str(error)
        return
    use_all(item)


CHANGED = json.dumps(
    to_dict(
        interval_of(
            [
                Io(SDB, "read", 4096, 0, 1000, q2d_ns=5, pid=3),
                Io(SDB, "read", 512, 0, 77, q2d_ns=900, pid=4),
                Io(SDB, "write", 4096, 9, 1_000_000, error=True),
                Io(HUNG, "write", 4096, 5, None),
            ],
            0,
            S,
            {3: "dd"},
        )
    )
)


@unsanitized
def test_groups_of_a_thousand_devices_take_milliseconds() -> None:
    rng = np.random.default_rng(1)
    rows = np.zeros(2000, layout.ROW)
    rows["device"] = np.repeat(rng.permutation(1000), 2)
    rows["op"] = np.tile([0, 1], 1000)
    rows["requests"] = 100
    bins = np.ones(200_000, layout.BIN)
    bins["row"] = np.repeat(np.arange(2000), 100)
    bins["bin"] = np.tile(np.arange(600, 700), 2000)
    best_s = 1.0
    for _ in range(3):
        item = Interval(
            time_s=0,
            devices=np.arange(1000, dtype="u4"),
            snapshot=Snapshot(rows=rows, d2c_bins=bins),
        )
        begin_s = time.thread_time()
        assert len(item.groups()) == 3001
        best_s = min(best_s, time.thread_time() - begin_s)
    assert best_s < 0.25  # some 40 ms on an idle machine


def test_percentile_of_an_operation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(KeyError, match=r"unknown operation 'reads'; use read, write, "):
        Interval(time_s=0, devices=np.zeros(0, "u4"), snapshot=Snapshot()).percentile(
            50, op="reads"
        )


# --- in a line, and in a notebook -----------------------------------------------------------------


def test_interval_and_group_are_a_line_each() -> None:
    item = dataclasses.replace(interval_of(example(), 0, 3 * S), counts=Counts())
    total, read = item.total, item.ops(SDB)[0]
    assert repr(item) == (
        f"Interval(start_ns=0, end_ns={3 * S}, devices=3, requests={total.requests}, "
        f"p99_ns={total.d2c_ns.percentile(99)})"
    )
    assert repr(read) == (
        f"Group(device='8:16', op='read', requests={read.requests}, bytes={read.bytes}, "
        f"p99_ns={read.d2c_ns.percentile(99)}, errors={read.errors})"
    )
    assert repr(total).startswith("Group(device='all', op='all', ")
    lossy = dataclasses.replace(item, counts=Counts(records=10, lost_events=10))
    assert repr(lossy).endswith(", incomplete='50 % of events were lost while tracing')")


def test_notebook_shows_a_row_for_each_group() -> None:
    item = interval_of(example(), 0, 3 * S)
    text = item._repr_html_()
    page = ET.fromstring(f"<body>{text}</body>")
    assert len(page.findall("table/tr")) == 1 + len(item.groups())
    assert page.find("svg") is not None
    assert len(ET.fromstring(f"<b>{item.total._repr_html_()}</b>").findall("table/tr")) == 2
    many = interval_of([Io(i << 4, "read", 512, 0, 1) for i in range(1, 200)], 0, S)
    assert "<td>299 more</td>" in many._repr_html_()
