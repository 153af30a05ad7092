"""Single requests and records as the engine hands them out, and what a filter leaves out."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import streams
import tracewriter as tw
from intervals import tables
from reference import Key, Reference, Trace, operation
from test_queue import NOT_QUEUED, as_tuples, errno_of, some_bios
from tuned import fed

from blkiomon._core import Engine
from blkiomon.engine import layout


class Requests(Reference):
    """The reference, which lists what matched."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.requests: list[tuple[Any, ...]] = []

    def _match(
        self,
        key: Key,
        issue: Trace,
        completion: Trace,
        size: int,
        d2c_ns: int,
        error: int,
        first_ns: int | None = None,
    ) -> None:
        super()._match(key, issue, completion, size, d2c_ns, error, first_ns)
        first_ns = issue.time if first_ns is None else first_ns
        op = layout.OPS.index(operation(issue))
        figures = issue.time, first_ns, d2c_ns, NOT_QUEUED, issue.sector, size
        self.requests.append((*figures, issue.device, op, issue.pid, issue.cpu, errno_of(error)))


@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("block", range(2))
def test_requests_equal_reference(block: int, details: bool) -> None:
    for seed in range(block * 30, block * 30 + 30):
        rng = random.Random(f"requests {seed}")
        limits: dict[str, Any] = {
            "max_pending": rng.choice([2, 20, 10**6]),
            "max_age_ns": rng.choice([1000, 10**9, 2**64 - 1]),
        }
        records = streams.generate(seed, avoid="nothing").records
        queue = tw.QUEUE << 16
        data = tw.encode([tw.replace(r, action=r.action & ~queue) for r in records], 8)
        engine = Engine(keep_requests=True, keep_details=details, **limits)
        reference = Requests(**limits)
        got = []
        for piece in streams.cut_anywhere(data, rng):
            engine.feed(piece)
            reference.feed(piece)
            requests = engine.take_requests()
            assert requests.dtype == layout.REQUEST
            got += as_tuples(requests)
        assert got == reference.requests
        assert len(engine.take_requests()) == 0


def test_many_requests_are_kept_until_they_are_taken() -> None:
    n = 100_000
    issues = streams.issues(n, time=2 * np.arange(n), sector=np.arange(n))
    records = streams.in_turn(issues, streams.completions(issues, 1))
    engine = fed(records.tobytes(), keep_requests=True)
    assert engine.take_requests()["sector"].tolist() == list(range(n))


def test_keeping_requests_keeps_no_details() -> None:
    engine = fed([tw.issue(n, 1, 512) for n in range(5000)], keep_requests=True)
    assert engine.counters()["mismatches"] == 4999
    assert len(engine.take_mismatches()) == 0
    with pytest.raises(ValueError, match="keep_details"):
        engine.leftovers()


def test_keeping_requests_changes_no_figures() -> None:
    rng = random.Random(3)
    data = tw.encode(some_bios(rng, 3000))
    plain, keeping = Engine(), Engine(keep_requests=True, keep_records=True)
    plain.feed(data)
    keeping.feed(data)
    assert tables(plain.snapshot()) == tables(keeping.snapshot())
    assert plain.counters() == keeping.counters()
    assert len(keeping.take_requests()) == plain.requests


# --- filters --------------------------------------------------------------------------------------


def said(engine: Engine, end_ns: int) -> list[Any]:
    """All results that must be equal."""
    cut = engine.snapshot(end_ns)
    counters = engine.counters()
    del counters["records"]
    details = engine.leftovers()["record"].tolist(), engine.take_mismatches().tolist()
    return [
        tables(cut) | {"loads": b""},
        # Sorted: their order depends on the first record of a device, also if a filter drops it.
        sorted(load.tobytes() for load in cut.loads),
        counters,
        details[0],
        [(older[0], younger[0]) for older, younger in details[1]],
        as_tuples(engine.take_requests()),
        engine.take_driver_data(),
        dict(engine.process_names),
        (engine.pending, engine.requests, engine.now_ns, engine.epoch_ns),
    ]


KEEP: dict[str, Any] = {"keep_details": True, "keep_requests": True, "keep_driver_data": True}


@pytest.mark.parametrize("seed", range(40))
def test_filters_equal_feeding_only_those_records(seed: int) -> None:
    rng = random.Random(f"filter {seed}")
    records = list(streams.generate(seed, avoid="nothing").records)
    records += some_bios(rng, rng.choice([0, 40]))
    numbers: dict[tuple[int, int], int] = {}
    for i, r in enumerate(records):  # some lost
        counter = r.device, r.cpu % 8
        numbers[counter] = numbers.get(counter, rng.randrange(9)) + rng.choice([1] * 9 + [3])
        records[i] = tw.replace(r, version=8, cpu=r.cpu % 8, sequence=numbers[counter])
    numbers_seen = sorted({r.device for r in records})
    wanted = rng.sample(numbers_seen, rng.randint(1, len(numbers_seen)))
    times = sorted(r.time_ns for r in records)
    from_ns = rng.choice([0, times[len(times) // 3], times[-1]])
    later_ns = rng.choice([0, times[len(times) // 2]])
    devices = rng.choice([(), wanted])
    half = len(records) // 2

    def is_wanted(r: tw.Record, since_ns: int) -> bool:
        is_note = r.action >> 16 & tw.NOTIFY
        return bool(is_note) or (r.time_ns >= since_ns and (not devices or r.device in devices))

    def without_categories(r: tw.Record, since_ns: int) -> tw.Record:
        """A note that a filter leaves out as an issue or the like still counts as a note."""
        ignored = r.time_ns < since_ns or (devices and r.device not in devices)
        return tw.replace(r, action=r.action & (tw.NOTIFY << 16 | 0xFFFF)) if ignored else r

    filtered = Engine(devices=devices, from_ns=from_ns, **KEEP)
    plain = Engine(**KEEP)
    for part, since_ns in ((records[:half], from_ns), (records[half:], later_ns)):
        filtered.set_from_ns(since_ns)
        filtered.feed(tw.encode(part))
        plain.feed(
            tw.encode([without_categories(r, since_ns) for r in part if is_wanted(r, since_ns)])
        )
        end_ns = max(filtered.now_ns, 1)
        assert said(filtered, end_ns) == said(plain, end_ns)
    assert filtered.counters()["records"] == len(records)


def test_sequence_gaps_of_filtered_devices_do_not_count() -> None:
    engine = Engine(devices=[5])
    for device in (5, 6):
        engine.feed(
            tw.encode([tw.issue(n, n, 1, device=device, sequence=1 + 3 * n) for n in range(4)])
        )
    assert engine.counters()["sequence_gaps"] == 6


def test_filter_does_not_apply_to_kept_records() -> None:
    records = [tw.issue(n * 60, n, 1, device=4 + n % 2) for n in range(4)]
    engine = fed(records, keep_records=True, devices=[5], from_ns=100)
    assert engine.take_records()["sector"].tolist() == [0, 1, 2, 3]
    assert engine.pending == 1
