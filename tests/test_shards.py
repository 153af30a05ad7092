"""A trace that several read, each accounting its share of the keys: together they are as one."""

from __future__ import annotations

import random
from typing import Any

import pytest
import tracewriter as tw
from hypothesis import given, settings
from hypothesis import strategies as st
from test_two_cores import big, of_any_kind

from blkiomon import to_bytes
from blkiomon._core import Engine
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.value import Interval, join, merge

S = 10**9


def intervals(data: bytes, interval_s: float | None, **options: Any) -> list[Interval]:
    """What a monitor makes of a stream, idle intervals included."""
    monitor = Monitor(interval_s, **options)
    return [*monitor.feed(data), *monitor.finish(is_complete=False)]


def shards(data: bytes, n: int, interval_s: float | None, **options: Any) -> list[list[Interval]]:
    return [intervals(data, interval_s, shard=(k, n), **options) for k in range(n)]


def assert_as_one(data: bytes, n: int, interval_s: float | None, **options: Any) -> list[Interval]:
    """Joined interval by interval, and the merged shards joined; returns what one makes."""
    one = intervals(data, interval_s, **options)
    many = shards(data, n, interval_s, **options)
    joined = [join(each) for each in zip(*many, strict=True)]
    assert [to_bytes(i) for i in joined] == [to_bytes(i) for i in one]
    assert to_bytes(join([merge(each) for each in many])) == to_bytes(merge(one))
    return one


@pytest.mark.parametrize("block", range(2))
def test_generated_streams_of_any_kind(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blkiomon.interval.monitor.MOST_IDLE", 20)  # times jump by years here
    matches = 0
    for seed in range(block * 20, block * 20 + 20):
        rng = random.Random(f"shards {seed}")
        data = of_any_kind(seed, rng)
        options: dict[str, Any] = {
            "max_pending": rng.choice([1, 5, 40, 10**6]),
            "max_age_s": rng.choice([0.0, 1e-6, 1e-3, 1e3]),
            "max_devices": rng.choice([1, 2, 4, 65_536]),
            "threads": rng.choice([1, 2]),
        }
        one = assert_as_one(data, rng.choice([1, 2, 3, 7]), rng.choice([None, 0.001]), **options)
        matches += sum(i.counts.requests for i in one)
    assert matches > 150


@pytest.mark.parametrize("n", [2, 5])
def test_long_stream_with_queue_records_names_and_lost_partners(n: int) -> None:
    one = assert_as_one(big(40_000, 500, 20, lost=0.2, notes=True), n, 0.02)
    assert len(one) > 3
    assert sum(i.counts.evicted + i.counts.mismatches for i in one) == 0  # max_age is not reached
    assert merge(one).snapshot.queue_rows["requests"].sum() > 10_000
    assert len(merge(one).snapshot.processes) > 1000


def test_each_shard_accounts_about_as_much_and_none_the_same() -> None:
    data = big(40_000, 100, 4)
    merged = [merge(each) for each in shards(data, 4, None)]
    requests = [int(i.rows["requests"].sum()) for i in merged]
    assert sum(requests) == 40_000
    assert all(9000 < n < 11_000 for n in requests)
    assert {i.counts.requests for i in merged} == {40_000}


@settings(max_examples=40, deadline=None)
@given(
    times=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    choices=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), min_size=40),
    max_devices=st.integers(1, 4),
    max_pending=st.integers(1, 6),
)
def test_records_in_any_order_on_devices_that_come_and_go(
    times: list[int],
    choices: list[tuple[int, int, bool]],
    max_devices: int,
    max_pending: int,
) -> None:
    """Also matches that take no time at all, which leave no trace in what is in flight."""
    records = [
        (tw.issue if is_issue else tw.complete)(1 + t * S // 10, sector, 512, device=device)
        for t, (device, sector, is_issue) in zip(times, choices, strict=False)
    ]
    assert_as_one(
        tw.encode(records), 3, 0.5, max_devices=max_devices, max_pending=max_pending, max_age_s=1.0
    )


def test_device_whose_only_match_took_no_time_is_known_to_all_shards_alike() -> None:
    """With room for two, a device is forgotten where it has been idle: nowhere else."""
    data = tw.encode(
        [
            *(tw.complete(S, 8, 512, device=1, sequence=1), tw.issue(S, 8, 512, device=1)),
            *(tw.issue(S, 8, 512, device=2), tw.complete(S + 1, 8, 512, device=2)),
            # Now the interval ends; were one of them forgotten, a third would find room.
            *(tw.issue(2 * S, 8, 512, device=3), tw.complete(2 * S + 1, 8, 512, device=3)),
            *(tw.issue(3 * S, 8, 512, device=4), tw.complete(3 * S + 1, 8, 512, device=4)),
            *(tw.issue(4 * S, 8, 512, device=1), tw.complete(4 * S + 1, 8, 512, device=1)),
        ]
    )
    one = assert_as_one(data, 5, 1.0, max_devices=2)
    assert [i.counts.over_device_limit for i in one if i.counts.records] == [0, 2, 0, 0]


@pytest.mark.parametrize("shard", [(0, 0), (1, 1), (-1, 2), (2, 2), (0, 1025)])
def test_shard_that_is_none_is_refused(shard: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="shard must be"):
        Engine(shard=shard)


def test_what_are_not_the_shards_of_one_interval_is_refused() -> None:
    data = big(1000, 10, 2)
    first, second, *_ = intervals(data, 0.001)
    with pytest.raises(ValueError, match="not the shards of one interval"):
        join([first, second])
    with pytest.raises(ValueError, match="no intervals"):
        join([])
