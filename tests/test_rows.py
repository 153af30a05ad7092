"""Intervals as rows of archives: every figure survives, and nothing is counted twice."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tracewriter as tw
from hypothesis import given, settings
from hypothesis import strategies as st
from intervals import SDB, Io, assert_same, example, interval_of
from strategies import IOS

import blkiomon
from blkiomon import IntervalError, to_dict
from blkiomon.engine import layout
from blkiomon.formats.rows import Item, Tables, from_tables, to_tables
from blkiomon.interval.value import Counts, Interval, merge

S = 10**9
DATA = Path(__file__).parent / "data"


def of_trace(ios: list[Io], start_ns: int, end_ns: int, **options: object) -> Interval:
    return interval_of(ios, start_ns, end_ns, {1: "dd", 2: "\udcff"}, clock="trace", **options)


def through_parquet(tables: Tables) -> Tables:
    def stored(table: pa.Table) -> pa.Table:
        file = io.BytesIO()
        pq.write_table(table, file)
        return pq.read_table(file)

    return Tables(*map(stored, tables))


def assert_restored(items: list[Item]) -> None:
    found = list(from_tables(through_parquet(to_tables(items))))
    assert [item[:2] for item in found] == [item[:2] for item in items]
    for one, two in zip(items, found, strict=True):
        assert_same(one.interval, two.interval)
        assert one.interval.missing_files == two.interval.missing_files
        assert to_dict(one.interval) == to_dict(two.interval)


@settings(deadline=None)
@given(
    st.lists(st.lists(IOS, max_size=6), min_size=1, max_size=3),
    st.booleans(),
    st.builds(Counts, lost_events=st.integers(0, 2**63 - 1), evicted=st.integers(0, 9)),
)
def test_rows_restore_every_figure(ios: list[list[Io]], anchored: bool, counts: Counts) -> None:
    items = [
        Item(host, trace, replace(of_trace(some, k * S, (k + 1) * S), counts=counts))
        for k, some in enumerate(ios)
        for host, trace in (("web1", "/web1/sda"), ("µ \x1b", "/web1/sdb"))
    ]
    assert_restored([i._replace(interval=replace(i.interval, anchored=anchored)) for i in items])


@pytest.mark.parametrize("name", ["loop-phases-dc", "loop-ext4-all", "loop-multi-dc"])
def test_rows_restore_the_intervals_of_traces(name: str) -> None:
    """Queue records and processes among them."""
    read = list(blkiomon.intervals(DATA / f"{name}.bin", 1))
    items = [Item("host", name, interval) for interval in read]
    assert_restored(items)
    restored = [item.interval for item in from_tables(to_tables(items))]
    assert to_dict(merge(restored)) == to_dict(merge(read))


def test_rows_restore_requeues(tmp_path: Path) -> None:
    again = tw.act(tw.READ | tw.FS | tw.REQUEUE, tw.EV_REQUEUE)
    first = tw.issue(1_000, 0, 4096)
    records = [first, tw.replace(first, time_ns=2_000, action=again), tw.issue(3_000, 0, 4096)]
    path = tmp_path / "trace"
    path.write_bytes(tw.encode([*records, tw.complete(9_000, 0, 4096)]))
    (interval,) = blkiomon.intervals(path, None)
    assert interval.total.requeues == 1 and interval.total.retried.max == 8_000
    assert_restored([Item("host", "trace", interval)])


def test_sums_over_rows_count_everything_once() -> None:
    items = [Item("host", "t", of_trace(example(), k * S, (k + 1) * S)) for k in range(3)]
    tables = to_tables(items)
    totals = [item.interval.total for item in items]
    rows = tables.requests
    assert pc.sum(rows["requests"]).as_py() == sum(group.requests for group in totals)
    assert pc.sum(rows["size_sum_bytes"]).as_py() == sum(group.bytes for group in totals)
    assert pc.sum(rows["d2c_sum_ns"]).as_py() == sum(group.d2c_ns.sum for group in totals)
    counts = pc.list_flatten(rows["d2c_count"])
    assert pc.sum(counts).as_py() == sum(group.requests for group in totals)
    assert tables.intervals.num_rows == 3
    assert set(rows["op"].to_pylist()) <= set(layout.OPS)


def test_operation_of_two_directions_has_one_row() -> None:
    ios = [Io(SDB, "flush", 0, 5, 10, direction=direction) for direction in (0, 1)]
    tables = to_tables([Item("host", "t", of_trace(ios, 0, S))])
    assert tables.requests["requests"].to_pylist() == [2]


def test_columns_are_signed_and_state_their_unit() -> None:
    tables = through_parquet(to_tables([Item("host", "t", of_trace(example(), 0, S))]))
    kinds = set(tables.requests.schema.types) | set(tables.intervals.schema.types)
    assert {k for k in kinds if pa.types.is_integer(k)} == {pa.int64()}
    field = tables.requests.schema.field
    assert field("start").type == pa.timestamp("us", "UTC")
    assert field("d2c_max_ns").metadata[b"unit"] == b"ns"
    assert field("size_sum_bytes").metadata[b"unit"] == b"bytes"
    assert b"64 * shift" in field("q2c_bin").metadata[b"meaning"]
    assert field("d2c_bin").type.value_type == pa.int16()


@pytest.mark.parametrize(
    ("interval", "why"),
    [
        (of_trace([], 0, 2**63), "292 years"),
        (of_trace([], -(2**64), 0), "292 years"),
        (replace(of_trace([], 0, S), counts=Counts(lost_events=2**63)), "63 bits"),
    ],
)
def test_figures_that_do_not_fit_are_refused(interval: Interval, why: str) -> None:
    with pytest.raises(IntervalError, match=why):
        to_tables([Item("host", "t", interval)])
