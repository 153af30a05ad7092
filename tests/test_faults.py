"""Faults of the original, numbered from 1 to 15 here: this program has none of them.

If the original is installed, the first test shows those of its faults that one stream can show.
"""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import stat
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import goldenfiles
import numpy as np
import oracle
import pytest
import quirks
import reference
import runner
import streams
import tracewriter as tw
from quirks import ONE
from runner import LONG, TERMINATED, MessageQueue, Running, options_to, until
from sanitizers import unsanitized
from tracewriter import FOREIGN, complete, driver_data, encode, issue
from tuned import fed

from blkiomon._core import Engine
from blkiomon.commands.cli import parse
from blkiomon.commands.config import NO_AGE_LIMIT_S, Config
from blkiomon.engine import layout

U32 = 1 << 32
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM)


def shown(data: bytes, *options: str) -> str:
    """The text output of a run on these bytes, read as a live trace."""
    if options:
        options = ("--clock=wall", *options)
    result = runner.call("-I", LONG, "-h", "-", *options, stdin=data)
    assert result.returncode == 0, result.stderr
    if result.stdout or not options:  # without output, a message explains why
        assert not result.stderr
    return result.stdout.decode()


def line_of(text: str, title: str) -> dict[str, str]:
    """The figures of a minmax line, by their names."""
    (line,) = re.findall(rf"^{re.escape(title)} \(.*?\): (.*)$", text, re.MULTILINE)
    return dict(figure.split(" ") for figure in line.split(", "))


def requests(text: str) -> int:
    """How many requests the text shows, both directions."""
    return sum(int(number) for number in re.findall(r"^sizes .*: num (\d+),", text, re.MULTILINE))


def structs(path: Path) -> np.ndarray:
    """The structs in a binary output."""
    return np.frombuffer(path.read_bytes(), layout.STATS_03)


# -- what the original does ------------------------------------------------------------------------

UNDER_A_MICROSECOND = encode([issue(1000, 1, 4096), complete(1999, 1, 4096)])
LARGE = quirks.pairs((8 << 20, 1000))
BARE_DRIVER_RECORD = encode([driver_data(1, b"")]) + ONE
GARBAGE = ONE + b"garbage" * 20
BUSY = quirks.pairs((3_000_000_000, 10**6), (2_000_000_000, 10**6), (10**9, 10**6))
VERSION_8 = encode([issue(0, 1, 4096), complete(500_000, 1, 4096)], version=8)

ORIGINAL: dict[str, tuple[bytes, Callable[[oracle.Result], bool]]] = {
    "1 crashes on a completion less than 1 us after its issue": (
        UNDER_A_MICROSECOND,
        lambda theirs: theirs.returncode == -signal.SIGFPE,
    ),
    "2 wraps throughput": (
        LARGE,
        lambda theirs: b"throughput read (bytes/msec): num 1, min 4093640," in theirs.human,
    ),
    "7 ends at a driver record without payload": (
        BARE_DRIVER_RECORD,
        lambda theirs: b" 0 match," in theirs.debug,
    ),
    "8 loses the figures at garbage": (
        GARBAGE,
        lambda theirs: theirs.human == b"" and b" 1 match," in theirs.debug,
    ),
    "9 shows a wrong var": (
        BUSY,
        lambda theirs: b"avg 2000000000.0, var 27163048970788" in theirs.human,
    ),
    "15 rejects version 8": (
        VERSION_8,
        lambda theirs: b"unsupported trace version 8" in theirs.stderr,
    ),
}


def test_original_has_the_faults() -> None:
    oracle.require()
    results = oracle.run_many([data for data, _ in ORIGINAL.values()])
    for (name, (_, has_fault)), theirs in zip(ORIGINAL.items(), results, strict=True):
        assert has_fault(theirs), (name, theirs)


# -- 1: a completion under 1 us after its issue ----------------------------------------------------


@pytest.mark.parametrize(
    ("d2c_ns", "throughput"), [(0, 4096 * 10**6), (1, 4096 * 10**6), (7, 585142857), (999, 4100100)]
)
def test_01_completion_under_a_microsecond_counts_without_a_crash(
    d2c_ns: int, throughput: int
) -> None:
    # The completion comes first: only then is it the younger of two records with equal times.
    text = shown(encode([complete(1000 + d2c_ns, 1, 4096), issue(1000, 1, 4096)]))
    assert line_of(text, "d2c read")["max"] == "0"
    figures = line_of(text, "throughput read")
    assert {figures[name] for name in ("min", "max", "sum")} == {str(throughput)}


def test_01_other_requests_count_beside_one_under_a_microsecond() -> None:
    assert requests(shown(ONE + UNDER_A_MICROSECOND + ONE)) == 3


# -- 2: throughput of large requests ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "d2c_us", "throughput"),
    [(4_294_968, 1, 4_294_968_000), (8 << 20, 1000, 8 << 20), (U32 - 1, 1, (U32 - 1) * 1000)],
)
def test_02_throughput_does_not_wrap_at_32_bits(
    size: int, d2c_us: int, throughput: int, tmp_path: Path
) -> None:
    data = quirks.pairs((size, d2c_us))
    text = shown(data, "-b", str(tmp_path / "b"))
    assert line_of(text, "throughput read")["max"] == str(throughput)
    assert structs(tmp_path / "b")["thrput_r"]["sum"].tolist() == [throughput]


# -- 3: the last, partial interval -----------------------------------------------------------------


def test_03_last_interval_is_printed_at_the_end_of_a_pipe() -> None:
    assert requests(shown(ONE)) == 1


def test_03_last_interval_is_printed_at_the_end_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "trace").write_bytes(ONE * 3)
    with (tmp_path / "trace").open("rb") as file:
        output = runner.succeed("-I", LONG, stdin=file)
    assert requests(output.decode()) == 3


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_03_last_interval_is_printed_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    with Running("-I", LONG, *options_to(tmp_path, "hbD"), "-d", "-").started() as process:
        process.write(ONE + encode([issue(1, 7, 512), driver_data(1, b"read so far")]))
        process.read_until(lambda data: data.endswith(b"read so far"))
        assert process.end(number)[0] == 0
        assert process.stderr == TERMINATED
    human, binary, debug = (tmp_path / letter for letter in "hbD")
    assert requests(human.read_text()) == 1
    assert structs(binary)["size_r"]["sum"].tolist() == [4096]
    assert debug.read_text().endswith("1 leftover, 1 match, 0 mismatch, 1 driverdata, 4 overall\n")


def test_03_no_final_drops_it_as_the_original_does(tmp_path: Path) -> None:
    assert shown(ONE, "--no-final", "-b", str(tmp_path / "b"), "-D", str(tmp_path / "D")) == ""
    assert (tmp_path / "b").read_bytes() == b""
    assert " 1 match," in (tmp_path / "D").read_text()
    with Running("-I", LONG, "--no-final", "-d", "-").started() as process:
        process.write(ONE + encode([driver_data(1, b"x")]))
        process.read_until(bool)
        status, data, _ = process.end(signal.SIGTERM)
    assert (status, data) == (0, encode([driver_data(1, b"x")]))


def test_03_no_final_keeps_whole_intervals() -> None:
    with Running("-I", "0.1", "--no-final").started() as process:
        process.write(ONE)
        process.read_intervals(1)


# -- 4: signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_04_signal_ends_an_idle_run(
    number: signal.Signals, record_property: Callable[[str, object], None]
) -> None:
    with Running("-I", LONG).started() as process:
        start = time.monotonic()
        process.signal(number)
        # Its input stays open, and no further record arrives.
        assert process.wait() == 0
        seconds = time.monotonic() - start
        assert process.stderr == TERMINATED
    record_property("seconds", round(seconds, 3))
    assert seconds < 5  # 0.1 s on an idle machine


def test_04_signal_ends_a_run_whose_every_output_waits(tmp_path: Path) -> None:
    # A FIFO without a reader, a queue that is not there, and a pipe that is full.
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "queue").touch()
    queue = MessageQueue(tmp_path / "queue")
    with Running(
        *("-I", LONG, "-h", str(tmp_path / "fifo"), *queue.options, "-d", "-")
    ).started() as process:
        record = encode([driver_data(1, bytes(60_000))])
        process.write(ONE + record * 100)
        start = time.monotonic()
        process.signal(signal.SIGTERM)
        process.wait()
        assert time.monotonic() - start < 10
        assert process.stderr.startswith(TERMINATED)


# -- 5: a message queue that is not there ----------------------------------------------------------


@pytest.fixture
def queue(tmp_path: Path) -> MessageQueue:
    """A queue that is not there yet; removed if the test makes it."""
    (tmp_path / "queue").touch()
    return MessageQueue(tmp_path / "queue")


def test_05_waiting_for_a_missing_queue_uses_no_processor_time(queue: MessageQueue) -> None:
    with Running("-I", "0.2", *queue.options, "-d", "-").started() as process:
        process.write(ONE + encode([driver_data(1, b"x")]))
        process.read_until(bool)
        before_s = process.cpu_s()
        time.sleep(1)  # the input pauses
        used_s = process.cpu_s() - before_s
        status, _, complaints = process.end(signal.SIGTERM)
    assert used_s < 0.3
    assert complaints.startswith(TERMINATED)
    assert status == 1  # what it could not deliver is lost


def test_05_missing_queue_is_named_with_verbose(queue: MessageQueue) -> None:
    with Running("-I", LONG, *queue.options, "--verbose").started() as process:
        until(lambda: process.stderr, "a line about the queue")
        assert process.stderr == f"blkiomon: waiting for message queue {queue.path} (id 1)\n"
        status, _, complaints = process.end(signal.SIGTERM)
    assert status == 0
    assert complaints.endswith(TERMINATED)


def test_05_missing_queue_is_not_mentioned_without_verbose(queue: MessageQueue) -> None:
    with Running("-I", LONG, *queue.options).started() as process:
        time.sleep(0.2)  # time to look for the queue
        assert process.stderr == ""
        assert process.end(signal.SIGTERM) == (0, b"", TERMINATED)


def test_05_everything_is_delivered_when_the_queue_appears(queue: MessageQueue) -> None:
    with Running("-I", "0.1", *queue.options, "-h", "-").started() as process:
        for number in (1, 2, 3):
            process.write(ONE * number)
            process.read_intervals(number)
        queue.create()
        try:
            queue.await_messages(3)
            messages = queue.take()
        finally:
            queue.remove()
        process.succeed()
    stats = np.frombuffer(b"".join(messages), layout.STATS_03)
    assert stats["size_r"]["count"].tolist() == [1, 2, 3]


# -- 6: a full message queue -----------------------------------------------------------------------


def test_06_full_queue_stops_neither_reading_nor_other_outputs(
    queue: MessageQueue, tmp_path: Path
) -> None:
    options = ["-I", "0.1", "-b", str(tmp_path / "b"), "-h", "-", *queue.options]
    with queue, Running(*options).started() as process:
        queue.limit(600)  # room for one message of 424 bytes
        for number in range(1, 6):
            process.write(ONE)
            process.read_intervals(number)
        # At most 11,000 of these wait in the pipe of 1 MiB, and may be lost.
        process.write(ONE * 40_000)
        process.signal(signal.SIGTERM)
        status, text, complaints = process.end()
        messages = queue.take()
    stats = structs(tmp_path / "b")
    # The other outputs have all records; drops of the queue are counted.
    assert requests(text.decode()) == stats["size_r"]["count"].sum() > 40_000 - 11_000
    assert len(messages) == 1
    reported = re.fullmatch(
        re.escape(f"{TERMINATED}blkiomon: message queue {queue.path} (id 1) ")
        + r"did not take everything: it lacks (\d+) intervals\n",
        complaints,
    )
    assert reported is not None, complaints
    assert int(reported[1]) == len(stats) - 1 >= 4
    assert status == 1


def test_06_queue_with_a_slow_reader_gets_everything(queue: MessageQueue) -> None:
    with queue, Running("-I", "0.1", "-h", "-", *queue.options).started() as process:
        queue.limit(600)
        for number in range(1, 5):
            process.write(ONE * number)
            process.read_intervals(number)
        messages: list[bytes] = []
        while len(messages) < 4:
            queue.await_messages(1)
            messages += queue.take()
        process.succeed()
    stats = np.frombuffer(b"".join(messages), layout.STATS_03)
    assert stats["size_r"]["count"].tolist() == [1, 2, 3, 4]


def test_06_unread_pipe_stops_neither_reading_nor_other_outputs(tmp_path: Path) -> None:
    payload = bytes(50_000)
    records = encode([driver_data(1, payload)]) * 1000  # 50 MB: more than may wait
    with Running("-I", LONG, "-d", "-", "-h", str(tmp_path / "h")).started() as process:
        process.write(records + ONE)
        process.signal(signal.SIGTERM)
        process.wait()
        assert re.fullmatch(
            TERMINATED + "blkiomon: standard output did not take everything: "
            r"it lacks \d+ records\n",
            process.stderr,
        )
    assert requests((tmp_path / "h").read_text()) == 1


# -- 7: driver data without payload ----------------------------------------------------------------


@pytest.mark.parametrize(("version", "byteorder"), [(7, "<"), (7, ">"), (8, "<"), (8, ">")])
def test_07_driver_record_without_payload_does_not_end_the_run(
    version: int, byteorder: str
) -> None:
    records = [driver_data(1, b""), driver_data(2, b"abc"), driver_data(3, b"")]
    request = [issue(10, 1, 4096), complete(9010, 1, 4096)]
    data = encode(records + request, version, byteorder)
    output = runner.succeed("-I", LONG, "-d", "-", stdin=data)
    assert output == encode(records)  # version 7, host order
    assert requests(shown(data)) == 1


# -- 8: garbage and cut records --------------------------------------------------------------------

BROKEN = {
    "garbage": (GARBAGE, len(ONE)),
    "garbage_at_once": (b"garbage" * 20, 0),
    "text": (b"  8,0    0        1     0.000000000  1234  D   R 0 + 8 [fio]\n" * 9, 0),
    "unknown_version": (ONE + encode([issue(1, 1, 1)]).replace(b"\x07tae", b"\x06tae"), len(ONE)),
    "other_byte_order": (ONE + encode([issue(1, 1, 1)], byteorder=FOREIGN), len(ONE)),
    "cut_magic": (ONE + ONE[:3], len(ONE)),
    "cut_header": (ONE + ONE[:47], len(ONE)),
    "cut_header_at_once": (ONE[:20], 0),
    "cut_payload": (ONE + encode([driver_data(1, b"abcdef")])[:-1], len(ONE)),
    "version_8_fields_with_version_7_magic": (
        ONE + tw.encode_malformed_v8(issue(1, 1, 1, device=8 << 20 | 16, pid=4711, cpu=1)),
        len(ONE),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_08_bad_trace_prints_its_reason_and_the_statistics_before_it(
    name: str, tmp_path: Path
) -> None:
    data, offset = BROKEN[name]
    result = runner.call("-I", LONG, "-h", "-", *options_to(tmp_path, "bD"), stdin=data)
    assert result.returncode == 1
    complaint = result.stderr.decode()
    if name in ("garbage_at_once", "text"):  # both are recognized as text
        expected = r"blkiomon: bad trace: standard input is text.*: .+\n"
    else:
        expected = rf"blkiomon: bad trace: at byte offset {offset}: found .+, expected .+\n"
    assert re.fullmatch(expected, complaint)
    matches = int(offset > 0)
    assert requests(result.stdout.decode()) == len(structs(tmp_path / "b")) == matches
    totals = f"0 leftover, {matches} match, 0 mismatch, 0 driverdata, {2 * matches} overall\n"
    assert (tmp_path / "D").read_text() == totals


def test_08_bad_trace_ends_the_run_although_the_input_stays_open() -> None:
    with Running("-I", LONG).started() as process:
        process.write(GARBAGE)
        assert process.wait() == 1
        assert process.stderr.startswith("blkiomon: bad trace: at byte offset 96: ")


def test_08_resync_goes_on_and_counts_what_it_skips(tmp_path: Path) -> None:
    data = ONE + b"x" * 100 + ONE + b"garbage" + ONE + ONE[:20]
    debug = tmp_path / "D"
    result = runner.call("-I", LONG, "--resync", "-h", "-", "-D", str(debug), stdin=data)
    assert result.returncode == 0
    assert result.stderr.decode() == (
        "blkiomon: bad trace: skipped 100 bytes at byte offset 96\n"
        "blkiomon: bad trace: skipped 7 bytes at byte offset 292\n"
        "blkiomon: bad trace: skipped 20 bytes at byte offset 395\n"
    )
    assert requests(result.stdout.decode()) == 3
    assert debug.read_text() == (
        "0 leftover, 3 match, 0 mismatch, 0 driverdata, 6 overall, 127 bytes skipped\n"
    )


def test_08_resync_does_not_flood(tmp_path: Path) -> None:
    result = runner.call("-I", LONG, "--resync", "-h", "-", stdin=(ONE + b"junk!") * 1000)
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 21
    assert lines[-1] == "blkiomon: bad trace: 980 more stretches skipped, 5000 bytes in all"
    assert requests(result.stdout.decode()) == 1000


def test_08_marks_of_lost_events_are_counted_without_a_message(tmp_path: Path) -> None:
    debug = tmp_path / "D"
    data = tw.lost_mark(0, 3) + ONE + tw.lost_mark(12, 10**9) + ONE + tw.lost_mark(1, 1)
    assert requests(shown(data, "-D", str(debug))) == 2
    assert debug.read_text().endswith(f" 4 overall, {10**9 + 4} lost\n")


# -- 9: var of a busy interval ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [
        [3_000_000_000, 2_000_000_000, 10**9],
        [U32 - 1] * 50,  # squares beyond 64 bits; var is 0
        # Squares beyond 64 bits, whose differences a double cannot represent.
        [4_294_967_000 + n % 3 for n in range(1000)],
        [random.Random(9).randrange(512, 1 << 20) for _ in range(20_000)],
    ],
    ids=["large", "equal", "near", "many"],
)
def test_09_var_is_right_where_sums_exceed_32_bits(sizes: list[int]) -> None:
    assert sum(sizes) > U32
    text = shown(quirks.pairs(*((size, 1000) for size in sizes)))
    exact = statistics.pvariance(map(Fraction, sizes))
    assert line_of(text, "sizes read")["var"] == f"{float(exact):.1f}"


def test_09_var_of_the_latencies_of_a_real_trace() -> None:
    data = (goldenfiles.TRACES / "loop-phases-dc.bin").read_bytes()[: 48 * 20_000]
    ref = reference.Reference(as_original=True)
    ref.feed(data)
    (stats,) = ref.finish()
    reads = [m.d2c_ns // 1000 for m in stats.requests if m.op in ("read", "flush")]
    text = shown(data)
    exact = statistics.pvariance(map(Fraction, reads))
    assert line_of(text, "d2c read")["num"] == str(len(reads))
    assert line_of(text, "d2c read")["var"] == f"{float(exact):.1f}"


# -- 10: cost of outstanding requests --------------------------------------------------------------


def test_10_search_does_not_grow_with_the_queue_depth() -> None:
    """The original uses 16 of its 128 chains here: a search passes thousands of records."""
    outstanding = 1 << 18
    sectors = np.random.default_rng(10).permutation(outstanding) * 8
    issues = streams.issues(outstanding, sector=sectors)
    engine = Engine()
    engine._tune(hash_seed=random.Random(10).getrandbits(128))
    engine.feed(issues.tobytes())
    assert engine.pending == outstanding
    assert engine._table_figures()["longest_search"] <= 8  # groups of 15
    engine.feed(streams.completions(issues, 10**6).tobytes())
    assert engine.pending == 0
    assert engine.counters()["requests"] == outstanding


# -- 11: requests whose partner was lost -----------------------------------------------------------


def lost(number: int) -> bytes:
    """Issues that never complete."""
    return encode(issue(1 + n, 8 * n, 4096) for n in range(number))


def test_11_pending_records_are_bounded_in_number(tmp_path: Path) -> None:
    debug = tmp_path / "D"
    assert shown(lost(100), "--max-pending", "10", "-D", str(debug)) == ""
    text = debug.read_text()
    assert text.endswith(
        "10 leftover, 0 match, 0 mismatch, 0 driverdata, 100 overall, 90 evicted\n"
    )
    # The oldest were evicted first.
    assert sorted(map(int, re.findall(r"^order +(\d+)$", text, re.MULTILINE))) == [*range(90, 100)]


def test_11_pending_records_are_bounded_in_age(tmp_path: Path) -> None:
    debug = tmp_path / "D"
    late = encode([issue(1, 1, 4096), issue(2, 2, 512), issue(10**9 + 2, 3, 512)])
    assert shown(late, "--max-age", "1", "-D", str(debug)) == ""
    assert debug.read_text().endswith(" 3 overall, 1 evicted\n")


def test_11_completion_beyond_the_greatest_age_does_not_match(tmp_path: Path) -> None:
    pairs = encode([issue(0, 1, 4096), complete(10**9 + 1, 1, 0)])
    assert shown(pairs, "--max-age", "1") == ""
    assert requests(shown(pairs, "--max-age", "1.1")) == 1


def test_11_pending_records_are_bounded_by_default() -> None:
    config = parse(["-I", "1"])
    assert isinstance(config, Config)
    assert (config.max_pending, config.max_age_s) == (1_000_000, NO_AGE_LIMIT_S)
    config = parse(["-I", "1", "--json", "-"])
    assert isinstance(config, Config)
    assert (config.max_pending, config.max_age_s) == (1_000_000, 600.0)


def test_request_counts_however_long_it_takes_unless_an_age_is_given() -> None:
    day_ns = 86_400 * 10**9
    pair = encode([issue(0, 1, 1), complete(10 * day_ns, 1, 1)])
    assert requests(shown(pair)) == 1
    assert requests(shown(pair, "--max-age=1h")) == 0


def test_11_evictions_are_mentioned_only_where_there_were_any(tmp_path: Path) -> None:
    debug = tmp_path / "D"
    shown(lost(10), "--max-pending", "10", "-D", str(debug))
    assert debug.read_text().endswith(
        "10 leftover, 0 match, 0 mismatch, 0 driverdata, 10 overall\n"
    )


@unsanitized
def test_11_memory_does_not_grow_with_lost_partners() -> None:
    engine = Engine(max_pending=1000, keep_details=True)
    records = np.frombuffer(lost(20_000), layout.TRACE_V7).copy()
    used_kib = []
    for _ in range(60):
        engine.feed(records.tobytes())
        assert 875 <= engine.pending <= 1000
        records["sector"] += 8 * len(records)
        records["time"] += len(records)
        used_kib.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert engine.counters()["evicted"] == 60 * 20_000 - engine.pending
    # Without a bound, the million requests of later rounds would take at least 96 MB.
    assert used_kib[-1] - used_kib[9] < 32 << 10


# -- 12: requests at boundaries of intervals -------------------------------------------------------


def test_12_short_intervals_lose_no_request(tmp_path: Path) -> None:
    data = (goldenfiles.TRACES / "loop-multi-dc.bin").read_bytes()
    whole = structs_of(data, LONG, tmp_path / "whole", pieces=1)
    often = structs_of(data, "0.002", tmp_path / "often", pieces=300)
    assert len(often) > 3 * len(whole)
    for device in whole["device"]:
        (expected,) = whole[whole["device"] == device]
        parts = often[often["device"] == device]
        for name in ("size_hist", "d2c_hist", "bidir"):
            assert parts[name].sum(axis=0).tolist() == expected[name].tolist()
        for name in ("size_r", "size_w", "d2c_r", "d2c_w", "thrput_r", "thrput_w"):
            for field in ("count", "sum", "sum_squares"):
                total = sum(parts[name][field].tolist()) % 2**64
                assert total == int(expected[name][field]), (name, field)
            assert parts[name]["min"].min() == expected[name]["min"]
            assert parts[name]["max"].max() == expected[name]["max"]


def structs_of(data: bytes, interval: str, path: Path, pieces: int) -> np.ndarray:
    """The binary output of a stream that comes in pieces."""
    step = len(data) // pieces + 1
    with Running("-I", interval, "-b", str(path)).started() as process:
        for start in range(0, len(data), step):
            process.write(data[start : start + step])
            time.sleep(0.003 if pieces > 1 else 0)  # the input pauses
        assert process.succeed() == b""
    return structs(path)


# -- 13: operations --------------------------------------------------------------------------------


def test_13_operations_have_rows_of_their_own_and_the_text_has_reads_and_writes() -> None:
    write = tw.WRITE | tw.FS
    requests_of = {
        "read": (4096, tw.READ | tw.FS),
        "write": (8192, write | tw.SYNC),
        "flush": (0, tw.READ | tw.FLUSH),
        "discard": (1 << 30, write | tw.DISCARD),
    }
    records = []
    for sector, (size, category) in enumerate(requests_of.values()):
        records += [issue(0, sector, size, category), complete(10**6, sector, size, category)]
    engine = fed(records)
    rows = engine.snapshot().rows
    by_op = {layout.OPS[row["op"]]: row for row in rows}
    assert {op: int(row["size_bytes"]["max"]) for op, row in by_op.items()} == {
        op: size for op, (size, _) in requests_of.items()
    }
    assert all(row["requests"] == 1 for row in rows)

    text = shown(encode(records))
    reads, writes = line_of(text, "sizes read"), line_of(text, "sizes write")
    assert (reads["num"], reads["min"], reads["max"]) == ("2", "0", "4096")
    assert (writes["num"], writes["min"], writes["max"]) == ("2", "8192", str(1 << 30))


# -- 14: an output that is a disk ------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A block device without a driver: nothing could happen to it."""
    path = tmp_path / "disk"
    try:
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(240, 77))
    except PermissionError:
        pytest.skip("making a device node takes root")
    return path


@pytest.mark.parametrize("link", [False, True], ids=["itself", "link"])
@pytest.mark.parametrize("option", ["-h", "-b", "-d", "-D"])
def test_14_block_device_is_refused(option: str, link: bool, disk: Path, tmp_path: Path) -> None:
    path = disk
    if link:
        path = tmp_path / "link"
        path.symlink_to(disk)
    complaint = f"could not write to {path}: it is a block device, and outputs are files"
    runner.assert_fails(1, complaint, "-I", LONG, option, path, stdin=ONE)


# -- 15: version 8 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("byteorder", "<>")
def test_15_version_8_is_read(byteorder: str) -> None:
    records = [
        issue(0, 1, 4096),
        driver_data(1, b"odd"),
        complete(500_000, 1, 4096),
        issue(5, 2, 0, tw.WRITE | tw.ZONE_RESET),
    ]
    new, old = (encode(records, version, byteorder) for version in (8, 7))
    assert len(new) == len(old) + 16 * 4
    assert oracle.mask_human(shown(new).encode()) == oracle.mask_human(shown(old).encode())
    assert requests(shown(new)) == 1


def test_15_versions_may_change_within_a_stream() -> None:
    records = [issue(0, 1, 4096), complete(500_000, 1, 4096)]
    assert requests(shown(encode(records[:1], 7) + encode(records[1:], 8))) == 1
    assert requests(shown(encode(records[:1], 8) + encode(records[1:], 7))) == 1
