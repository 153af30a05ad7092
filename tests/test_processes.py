"""Notifications: processes, their names, and the time of day."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import streams
import tracewriter as tw
from tracewriter import Record, complete, encode, issue, notify_process, notify_timestamp, replace
from tuned import fed

from blkiomon._core import Engine

SDA = 8 << 20


def queued(time_ns: int, sector: int, pid: int, size: int = 4096) -> Record:
    return Record(time_ns, sector, size, tw.act(tw.READ | tw.QUEUE, tw.EV_QUEUE), SDA, pid=pid)


def processes(engine: Engine) -> dict[int, tuple[int, int]]:
    """Requests and bytes by pid."""
    table = engine.snapshot().processes
    pids = table["pid"].tolist()
    assert pids == sorted(pids)
    assert len(set(pids)) == len(pids)
    assert not table["pad"].any()
    return {p: (r, b) for p, r, b in zip(pids, table["requests"].tolist(), table["bytes"].tolist())}


def test_no_processes_without_names() -> None:
    assert processes(fed([queued(1, 8, 5), issue(2, 8, 4096, pid=6)])) == {}


def test_processes_are_those_of_queue_records_if_there_are_any() -> None:
    engine = fed(
        [
            notify_process(0, 5, "dd"),
            queued(1, 8, 5),
            queued(1, 16, 5, 512),
            queued(2, 16, 9),
            issue(3, 8, 4096, pid=77),
            complete(4, 8, 4096, pid=78),
        ]
    )
    assert processes(engine) == {5: (2, 4608), 9: (1, 4096)}
    assert processes(engine) == {}
    engine.feed(encode([issue(5, 8, 4096, pid=77), queued(6, 8, 9)]))
    assert processes(engine) == {9: (1, 4096)}


def test_processes_are_those_of_issues_without_queue_records() -> None:
    engine = fed(
        [
            issue(3, 8, 4096, pid=5),  # before its name is known
            notify_process(4, 5, "dd"),
            issue(5, 8, 4096, pid=5),
            complete(6, 8, 4096, pid=0),
            issue(7, 16, 2**32 - 1, pid=2**22),
            issue(8, 24, 2**32 - 1, pid=2**22),
        ]
    )
    assert processes(engine) == {5: (1, 4096), 2**22: (2, 2**33 - 2)}


@pytest.mark.parametrize("n", [1, 500, 3000, 65_535, 65_536, 65_537, 70_000])
def test_processes_beyond_65536_are_counted_as_one(n: int) -> None:
    rng = np.random.default_rng(n)
    pids = np.concatenate([rng.permutation(n), rng.integers(0, n, 1000)]) + 1
    sizes_of_each = rng.integers(1, 10**6, len(pids))
    records = streams.issues(len(pids), sector=np.arange(len(pids)), bytes=sizes_of_each, pid=pids)
    # The first ones are counted one by one.
    first = np.zeros(n, bool)
    first[pids[:65_536] - 1] = True
    told = np.where(first[pids - 1], pids, 2**32 - 1)
    numbers, of_number = np.unique(told, return_inverse=True)
    requests = np.bincount(of_number)
    sizes = np.zeros(len(numbers), "u8")
    np.add.at(sizes, of_number, records["bytes"])
    assert (numbers[-1] == 2**32 - 1) == (n > 65_536)
    engine = Engine()
    engine.feed(encode([notify_process(0, 1, "x")]))
    for _ in range(2):
        engine.feed(records.tobytes())
        table = engine.snapshot().processes
        assert np.array_equal(table["pid"], numbers)
        assert np.array_equal(table["requests"], requests)
        assert np.array_equal(table["bytes"], sizes)
        assert not table["pad"].any()


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("version", [7, 8])
def test_names_come_from_process_records(version: int, byteorder: str) -> None:
    engine = Engine()
    records = [
        notify_process(0, 1, "systemd"),
        notify_process(1, 2, "sixteen-letters!"),
        notify_process(1, 3, "seventeen-letters", size=17),
        notify_process(2, 4, "short", size=5),
        notify_process(2, 5, "früh"),
        notify_process(3, 70_000, "a"),
        notify_process(4, 70_000, "b"),
        replace(notify_process(4, 6, "x"), payload=b"\xff\xfe\0junk"),
        replace(notify_process(4, 7, "x"), payload=b""),
        replace(notify_process(4, 8, "x"), payload=b"\0" * 16),
        replace(
            notify_process(4, 9, "x"),
            payload=b"\1\2\3\4\5\6\7\0" + b"grouped".ljust(16, b"\0"),
            action=tw.act(tw.NOTIFY, tw.NT_PROCESS | tw.EV_CGROUP),
        ),
        replace(
            notify_process(4, 10, "x"),
            payload=b"\1\2\3",
            action=tw.act(tw.NOTIFY, tw.NT_PROCESS | tw.EV_CGROUP),
        ),
        Record(5, 0, 0, tw.act(tw.NOTIFY, tw.NT_MESSAGE), SDA, pid=11, payload=b"message"),
    ]
    engine.feed(encode(records, version, byteorder))
    assert engine.process_names == {
        1: "systemd",
        2: "sixteen-letters!",
        3: "seventeen-letter",
        4: "short",
        5: "früh",
        70_000: "b",
        6: "\\xff\\xfe",
        8: "",
        9: "grouped",
    }


def test_dictionary_of_names_is_kept_up_to_date() -> None:
    engine = Engine()
    names = engine.process_names
    assert names == {}
    for pid in range(3000):
        engine.feed(encode([notify_process(0, pid, f"p{pid}")]))
    engine.feed(encode([notify_process(0, pid, f"q{pid}") for pid in range(0, 3000, 3)]))
    assert engine.process_names is names
    assert names == {pid: f"{'p' if pid % 3 else 'q'}{pid}" for pid in range(3000)}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("version", [7, 8])
def test_time_of_day_comes_from_the_first_timestamp_record(version: int, byteorder: str) -> None:
    engine = Engine()
    assert engine.epoch_ns is None
    records = [
        notify_process(5, 1, "x"),
        notify_timestamp(1000, 1_700_000_000, 999_999_999, byteorder),
        notify_timestamp(2000, 5, 5, byteorder),
    ]
    for byte in encode(records, version, byteorder):
        engine.feed(bytes([byte]))
    assert engine.epoch_ns == 1_700_000_000_999_999_999 - 1000


def test_timestamp_may_have_a_cgroup_id_before_it() -> None:
    action = tw.act(tw.NOTIFY, tw.NT_TIMESTAMP | tw.EV_CGROUP)
    plain = struct.pack(tw.HOST + "II", 1_700_000_000, 7)
    engine = fed([Record(0, 0, 0, action, 0, payload=plain)])  # too short
    assert engine.epoch_ns is None
    engine.feed(encode([Record(2, 0, 0, action, 0, payload=b"ABCDEFGH" + plain)]))
    assert engine.epoch_ns == 1_700_000_000_000_000_005


def test_timestamp_earlier_than_trace_time_is_ignored() -> None:
    # A clock that was not set: then time 0 would be before 1970.
    engine = fed([notify_timestamp(10**9 + 1, 1, 0)])
    assert engine.epoch_ns is None
    engine.feed(encode([notify_timestamp(10**9 + 2, 2, 0)]))
    assert engine.epoch_ns == 10**9 - 2
