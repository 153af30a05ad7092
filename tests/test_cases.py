"""Small inputs that once gave wrong figures, with the right output of the command.

A run with outputs of 0.3 only still pairs each of them as the original does, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import oracle
import pytest
import runner
import tracewriter as tw
from test_identity import assert_identical, outputs_of_process
from tracewriter import Record, complete, encode, issue, notify_process, notify_timestamp, replace

S, MS, US = 10**9, 10**6, 10**3
DAY_S = 1_700_000_000
SIZE = 4096
EIO = 0x10000 - 5
WRITE = tw.WRITE | tw.FS
FLUSH = tw.READ | tw.FLUSH | tw.FS


def queued(time_ns: int, sector: int, size: int = SIZE, direction: int = tw.READ) -> Record:
    """A Q record: the request comes from above."""
    return Record(time_ns, sector, size, tw.act(direction | tw.QUEUE, tw.EV_QUEUE), 8 << 20)


def requeued(time_ns: int, sector: int) -> Record:
    """An R record: the driver has given the request back."""
    action = tw.act(tw.READ | tw.FS | tw.REQUEUE, tw.EV_REQUEUE)
    return Record(time_ns, sector, SIZE, action, 8 << 20)


def front_merged(time_ns: int, sector: int) -> Record:
    """An F record (front merge): an I/O is merged in front of a queued request."""
    action = tw.act(tw.WRITE | tw.QUEUE, tw.EV_FRONTMERGE)
    return Record(time_ns, sector, SIZE, action, 8 << 20)


def numbered(records: Sequence[Record], first: int = 1) -> list[Record]:
    """Records with sequence numbers, as the tracer gives them."""
    return [replace(record, sequence=first + i) for i, record in enumerate(records)]


def request(time_ns: int, sector: int, took_ns: int = US) -> list[Record]:
    return [issue(time_ns, sector, SIZE), complete(time_ns + took_ns, sector, SIZE)]


def dumped(shift_ns: int) -> list[Record]:
    """Four requests, one a second; `blkparse -d` takes ``shift_ns`` off all but notes."""
    notes = [
        notify_timestamp(1000 * S, DAY_S, 0),
        notify_process(1000 * S, 100, "job"),
        notify_process(1002 * S + 600 * MS, 101, "late"),
    ]
    records = []
    for i in range(4):
        at_ns = (1001 + i) * S - shift_ns
        records += [
            queued(at_ns, 8 * i),
            issue(at_ns + US, 8 * i, SIZE),
            complete(at_ns + 500 * MS, 8 * i, SIZE),
        ]
    if shift_ns:
        return [*notes, *records]
    return sorted([*notes, *records], key=lambda record: record.time_ns)


RUN_1 = numbered([r for i in range(4) for r in request(S + i * MS, 8 * i)])
RUN_2 = [
    *numbered(request(10 * S, 8)),
    *numbered(request(10 * S + MS, 16), 6),  # 3, 4 and 5 are missing
]

CASES: dict[str, list[Record]] = {
    "dump_of_blkparse_minimal": [
        notify_timestamp(1000 * S, DAY_S, 0),
        issue(0, 8, SIZE),
        complete(500 * MS, 8, SIZE),
    ],
    "dump_of_blkparse": dumped(1001 * S),
    "requeue": [
        queued(S, 8),
        issue(S + 10 * US, 8, SIZE),
        requeued(S + 10 * MS, 8),
        *request(S + 100 * MS, 8, MS),
    ],
    "partial_completion_with_an_error": [
        issue(S, 8, 256 * 512),
        complete(S + MS, 8, 128 * 512),
        complete(S + 3 * MS, 136, 128 * 512, error=EIO),
    ],
    "completion_of_nothing_before_the_error": [
        issue(S, 4656, SIZE),
        complete(S + MS, 4656, 0),
        complete(S + 2 * MS, 4656, SIZE, error=EIO),
    ],
    "zone_append_of_version_7": [
        issue(S, 524_288, SIZE, WRITE),
        complete(S + MS, 524_296, SIZE, WRITE),
    ],
    "equal_times": [*request(S, 8, 0), *request(5 * S, 16, MS)],
    "flush_completed_twice": [
        issue(S, 0, 0, FLUSH),
        complete(S + MS, 0, 0, FLUSH),
        complete(S + MS + 100, 0, 0, tw.WRITE | tw.SYNC | tw.FS),
    ],
    "queue_record_of_a_merged_request": [
        queued(S, 108, SIZE, tw.WRITE),
        queued(S + US, 100, SIZE, tw.WRITE),
        front_merged(S + 2 * US, 100),
        issue(S + 10 * US, 100, 2 * SIZE, WRITE),
        complete(S + MS, 100, 2 * SIZE, WRITE),
        issue(31 * S, 108, SIZE, WRITE),
        complete(31 * S + MS, 108, SIZE, WRITE),
    ],
    "sequence_numbers_begin_anew": [*RUN_1, *RUN_2],
    "issue_that_hangs_at_the_end": [issue(S, 8, SIZE), queued(5 * S + 500 * MS, 16)],
    "slower_than_the_greatest_age": request(S, 8, 700 * S),
}
"""Each of one stream of version 7, which the original reads, too."""


def lines_of(*arguments: str | Path, stdin: bytes = b"") -> tuple[list[dict[str, Any]], str]:
    """Intervals of a successful run, and its standard error."""
    result = runner.call(*arguments, "--json", "-", stdin=stdin)
    assert result.returncode == 0
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr.decode()


@pytest.fixture
def interval_of(tmp_path: Path) -> Any:
    """Reads a case as one interval; the run prints a message only if the interval is incomplete."""

    def read(name: str, *options: str) -> dict[str, Any]:
        path = tmp_path / name
        path.write_bytes(encode(CASES[name]))
        (line,), said = lines_of("-I1000", *options, path)
        assert bool(said) == bool(line["incomplete"])
        return line

    return read


def unseen(line: dict[str, Any]) -> dict[str, int]:
    """Its counts of unseen records that are not 0."""
    return {name: count for name, count in line["unseen"].items() if count}


def in_flight(line: dict[str, Any]) -> dict[str, Any]:
    """The figures in flight of the one device."""
    (device,) = line["devices"]
    found: dict[str, Any] = device["in_flight"]
    return found


# --- right with any output that 0.3 lacks ---------------------------------------------------------


def test_notes_of_a_dump_of_blkparse_do_not_drive_the_clock(interval_of: Any) -> None:
    line = interval_of("dump_of_blkparse_minimal")
    assert (line["duration_s"], line["total"]["iops"]) == (0.5, 2.0)


def test_dump_of_blkparse_has_the_intervals_of_its_original(tmp_path: Path) -> None:
    files = {"original": dumped(0), "dump": dumped(1001 * S)}
    for options, expected in (
        ([], [(1.0, 1), (1.0, 1), (1.0, 1), (0.5, 1)]),
        (["--from=1", "--to=3"], [(1.0, 1), (1.0, 1)]),
    ):
        for name, records in files.items():
            (tmp_path / name).write_bytes(encode(records))
            lines, said = lines_of("-I1", *options, tmp_path / name)
            found = [(line["duration_s"], line["total"]["requests"]) for line in lines]
            assert (found, said) == (expected, ""), (name, options)


def test_requeued_request_counts_once_and_is_not_in_flight_meanwhile(interval_of: Any) -> None:
    line = interval_of("requeue")
    total = line["total"]
    assert (total["requests"], total["requeues"], unseen(line)) == (1, 1, {})
    assert (total["q2d_ns"]["max"], total["q2c_ns"]["max"]) == (100 * MS, 101 * MS)
    assert total["d2c_ns"]["max"] == MS
    assert (total["retried"]["count"], total["retried"]["max_ns"]) == (1, 100_990 * US)
    assert in_flight(line)["busy_ns"] == 9990 * US + MS


@pytest.mark.parametrize("moved", [0, 8])
def test_zone_append_completes_where_it_was_written(tmp_path: Path, moved: int) -> None:
    append = WRITE | tw.ZONE_APPEND
    records = [issue(S, 524_288, SIZE, append), complete(S + MS, 524_288 + moved, SIZE, append)]
    (tmp_path / "trace").write_bytes(encode(records, 8))
    (line,), said = lines_of("-I1000", tmp_path / "trace")
    assert (line["total"]["requests"], unseen(line), said) == (1, {}, "")
    assert in_flight(line)["end"] == 0


def test_completion_at_the_time_of_its_issue_takes_no_time(interval_of: Any) -> None:
    line = interval_of("equal_times")
    assert (line["total"]["requests"], unseen(line)) == (2, {})
    assert (line["total"]["d2c_ns"]["min"], in_flight(line)["busy_ns"]) == (0, MS)


def test_issue_uses_up_the_queue_records_of_its_sectors(interval_of: Any) -> None:
    total = interval_of("queue_record_of_a_merged_request")["total"]
    assert (total["requests"], total["q2d_ns"]["count"]) == (2, 1)
    assert total["q2d_ns"]["max"] <= 10 * US


def test_sequence_numbers_begin_anew_with_each_run(interval_of: Any, tmp_path: Path) -> None:
    line = interval_of("sequence_numbers_begin_anew")
    assert unseen(line) == {"sequence_gaps": 3}
    paths = [tmp_path / "run1", tmp_path / "run2"]
    for path, records in zip(paths, (RUN_1, RUN_2)):
        path.write_bytes(encode(records))
    for names in (paths, paths[::-1]):
        (of_both,), said = lines_of("-I1000", *names)
        assert (of_both["total"], unseen(of_both)) == (line["total"], unseen(line))
        assert (
            said == "blkiomon: incomplete: 20 % of records are missing by their sequence numbers\n"
        )


def test_interval_ends_with_the_last_record_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "trace").write_bytes(encode(CASES["issue_that_hangs_at_the_end"]))
    (line,), said = lines_of("-I10", tmp_path / "trace")
    load = in_flight(line)
    assert (line["duration_s"], load["end"], load["oldest_ns"]) == (4.5, 1, 4500 * MS)
    assert load["busy_fraction"] == 1.0
    assert "1 issue and 0 completions" in said


def test_request_slower_than_the_greatest_age_counts_with_a_greater_one(interval_of: Any) -> None:
    line = interval_of("slower_than_the_greatest_age", "--max-age=1000")
    assert (line["total"]["requests"], line["total"]["d2c_ns"]["max"]) == (1, 700 * S)


# --- paired as by the original if only outputs of 0.3 are named -----------------------------------


@pytest.fixture(scope="module")
def theirs() -> dict[str, oracle.Result]:
    """The original's outputs of each case."""
    oracle.require()
    return dict(zip(CASES, oracle.run_many([encode(r) for r in CASES.values()]), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_original_outputs_alone_keep_its_pairing(
    theirs: dict[str, oracle.Result], name: str, tmp_path: Path
) -> None:
    data = encode(CASES[name])
    ours = outputs_of_process(data, tmp_path / "ours")
    assert_identical(ours, theirs[name], name)
    for letter, masked, expected in (
        ("h", oracle.mask_human, theirs[name].human),
        ("b", oracle.mask_binary, theirs[name].binary),
        ("D", bytes, theirs[name].debug),
    ):
        output = runner.succeed("-I1000", f"-{letter}", "-", stdin=data)
        assert masked(output) == expected, letter
