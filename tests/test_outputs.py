"""Text, structs and debug blocks of an interval are those of the reference, byte for byte.

The reference writes what the original writes: `test_reference.py`.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest
import reference
import tracewriter as tw
from intervals import BIDIRECTIONAL, READ, WRITE, Request, interval

from blkiomon.engine import layout
from blkiomon.formats import debug, human_text, stats_file
from blkiomon.interval.value import Counts, Interval

TIME_S = 1795425087
U32, U64 = 1 << 32, 1 << 64
SMALL, WIDE = 8 << 20 | 17, U32 - 1
REQUESTS = [
    Request(SMALL, READ, 4096, 5),
    Request(SMALL, WRITE, 1000001, 12345, op=1),
    Request(SMALL, WRITE, 999, 77777, op=2),
    Request(SMALL, WRITE, 4, 5, op=1),
    Request(SMALL, BIDIRECTIONAL, 512, 1000, op=6),
    Request(WIDE, WRITE, 4294967, 3_100_000_000, op=1),
]
CATEGORIES = {READ: tw.READ, WRITE: tw.WRITE, BIDIRECTIONAL: 0}


pytestmark = pytest.mark.usefixtures("utc")


def expected() -> list[reference.DeviceStats]:
    """The reference's statistics of the same requests."""
    records = []
    for sector, request in enumerate(REQUESTS):
        what = sector, request.size, CATEGORIES[request.direction], request.device
        records += [tw.issue(0, *what), tw.complete(1000 * request.d2c_us, *what)]
    ref = reference.Reference(as_original=True)
    ref.feed(tw.encode(records))
    return ref.finish()


def item_of_requests() -> Interval:
    return interval(REQUESTS, TIME_S)


def text_of(item: Interval, version: str = "0.3") -> str:
    return b"".join(human_text.renderer(version)(item)).decode()


def test_text_is_the_originals_in_one_piece_per_device() -> None:
    pieces = [piece.decode() for piece in human_text.renderer("0.3")(item_of_requests())]
    assert pieces == [reference.human_text([stats], TIME_S) for stats in expected()]


def test_text_of_version_0_2_lacks_throughput_only() -> None:
    lines = reference.human_text(expected(), TIME_S).splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("throughput")]
    assert text_of(item_of_requests(), "0.2") == "".join(kept)


def test_text_time_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ-3")
    time.tzset()
    local = time.strftime("%H:%M:%S", time.gmtime(TIME_S + 3 * 3600))
    assert f" {local} " in text_of(item_of_requests()).splitlines()[1]


def test_text_pads_the_day_of_the_month() -> None:
    day = interval([Request(1, READ, 1, 1)], 1_775_088_000)
    assert text_of(day).startswith("\ntime: Thu Apr  2 00:00:00 2026\n")


def test_text_counts_wider_than_the_column_push_the_rest_right() -> None:
    wide = interval([Request(1, READ, 4096, 5)])
    wide.rows["size_hist"][0][:4] = [1_200_001, 0, 0, 7]
    line = "            0:1200001         1024:     0         2048:     0         4096:     7\n"
    assert line in text_of(wide)


def test_interval_without_a_match_prints_nothing() -> None:
    assert text_of(interval([])) == ""
    assert not list(stats_file.renderer("0.3")(interval([])))


@pytest.mark.parametrize("version", ["0.3", "0.2"])
def test_binary_is_the_originals_in_one_piece_per_device(version: str) -> None:
    pieces = list(stats_file.renderer(version)(item_of_requests()))
    assert pieces == [reference.binary([stats], TIME_S, version) for stats in expected()]


def test_binary_wraps_at_32_and_64_bits() -> None:
    big = interval([Request(1, READ, 2**32 - 1, 2**50)] * 3)
    big.rows["size_hist"][0][3] = 2**32 + 5
    stats = np.frombuffer(b"".join(stats_file.renderer("0.3")(big)), layout.STATS_03)[0]
    assert stats["size_hist"][3] == 5
    assert stats["d2c_r"]["sum_squares"] == 3 * 2**100 % 2**64
    assert stats["d2c_r"]["sum"] == 3 * 2**50


# --- debug ---------------------------------------------------------------------------------------


YOUNGER = reference.Trace(
    *(0, U32 - 1, U64 - 1, U64 - 1, U32 - 1, 0x410007, U32 - 1, U32 - 1, U32 - 1, 65535, 0, b"", 0)
)
OLDER = YOUNGER._replace(time=5, pdu_len=65535, order=1)


def details(*traces: reference.Trace) -> npt.NDArray[np.void]:
    """These records as the engine hands them out."""
    array = np.zeros(len(traces), layout.DETAIL)
    for detail, trace in zip(array, traces, strict=True):
        detail["order"] = trace.order
        detail["record"]["time_ns"], detail["record"]["bytes"] = trace.time, trace.bytes_
        for name in ("sequence", "sector", "action", "pid", "device", "cpu", "error", "pdu_len"):
            detail["record"][name] = getattr(trace, name)
    return array


def test_mismatch_is_the_originals_with_its_signs() -> None:
    array = np.zeros(1, layout.MISMATCH)
    array["older"], array["younger"] = details(OLDER, YOUNGER)
    written = b"".join(debug.render(array)).decode()
    assert written == reference.debug_block("mismatch", OLDER, YOUNGER)
    assert "\nsequence               -1               -1\n" in written


def test_leftover_and_totals_are_the_originals() -> None:
    totals = Counts(records=8, requests=0, mismatches=3, driver_data_records=1)
    written = b"".join(debug.render(debug.Final(details(YOUNGER), totals))).decode()
    line = "1 leftover, 0 match, 3 mismatch, 1 driverdata, 8 overall\n"
    assert written == reference.debug_block("leftover", YOUNGER) + line


def test_debug_shows_the_low_half_of_a_wide_action() -> None:
    array = details(YOUNGER._replace(action=0x41_0081_0008, time=10**18))
    written = b"".join(debug.render(debug.Final(array, Counts()))).decode()
    assert "\naction             810008\n" in written
    assert "\ntime     1000000000000000000\n" in written


def test_debug_many_blocks_come_in_pieces_and_in_order() -> None:
    array = np.zeros(2 * debug.BLOCKS_AT_ONCE + 1, layout.DETAIL)
    array["order"] = np.arange(len(array))
    pieces = list(debug.render(debug.Final(array, Counts())))
    assert len(pieces) == 4
    orders = [int(line[5:]) for line in b"".join(pieces).splitlines() if line[:5] == b"order"]
    assert orders == list(range(len(array)))


def test_totals_list_evictions_losses_and_skips_only_if_there_were_any() -> None:
    line = debug.totals_line(2, Counts(evicted=3, lost_events=4, skipped_bytes=5))
    head = "2 leftover, 0 match, 0 mismatch, 0 driverdata, 0 overall"
    assert line == head + ", 3 evicted, 4 lost, 5 bytes skipped\n"
    assert debug.totals_line(2, Counts(lost_events=4)) == head + ", 4 lost\n"
