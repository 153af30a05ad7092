"""What outputs write is what the original wrote, byte for byte: the texts below are its own."""

# ruff: noqa: E501

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest
from intervals import BIDIRECTIONAL, READ, WRITE, Request, interval

from blkiomon.engine import layout
from blkiomon.formats import debug, human_text, stats_file
from blkiomon.interval.value import Counts, Interval

# --- captured from blkiomon 0.3, time zone UTC ---------------------------------------------------

TIME_S = 1795425087

WIDE_TEXT = """
time: Mon Nov 23 09:11:27 2026
device: 4095,1048575
sizes read (bytes): num 0, min -1, max 0, sum 0, squ 0, avg 0.0, var 0.0
sizes write (bytes): num 1, min 4294967, max 4294967, sum 4294967, squ 18446741531089, avg 4294967.0, var 0.0
d2c read (usec): num 0, min -1, max 0, sum 0, squ 0, avg 0.0, var 0.0
d2c write (usec): num 1, min 3100000000, max 3100000000, sum 3100000000, squ -8836744073709551616, avg 3100000000.0, var 0.0
throughput read (bytes/msec): num 0, min -1, max 0, sum 0, squ 0, avg 0.0, var 0.0
throughput write (bytes/msec): num 1, min 1, max 1, sum 1, squ 1, avg 1.0, var 0.0
sizes histogram (bytes):
            0:     0         1024:     0         2048:     0         4096:     0
         8192:     0        16384:     0        32768:     0        65536:     0
       131072:     0       262144:     0       524288:     0      1048576:     0
      2097152:     0      4194304:     0      8388608:     1    > 8388608:     0
d2c histogram (usec):
            0:     0            8:     0           16:     0           32:     0
           64:     0          128:     0          256:     0          512:     0
         1024:     0         2048:     0         4096:     0         8192:     0
        16384:     0        32768:     0        65536:     0       131072:     0
       262144:     0       524288:     0      1048576:     0      2097152:     0
      4194304:     0      8388608:     0     16777216:     0     33554432:     0
    >33554432:     1
bidirectional requests: 0
"""

SMALL_TEXT = """
time: Mon Nov 23 09:11:27 2026
device: 8,17
sizes read (bytes): num 1, min 4096, max 4096, sum 4096, squ 16777216, avg 4096.0, var 0.0
sizes write (bytes): num 3, min 4, max 1000001, sum 1001004, squ 1000002998018, avg 333668.0, var 221999998448.7
d2c read (usec): num 1, min 5, max 5, sum 5, squ 25, avg 5.0, var 0.0
d2c write (usec): num 3, min 5, max 77777, sum 90127, squ 6201660779, avg 30042.3, var 1164678467.6
throughput read (bytes/msec): num 1, min 819200, max 819200, sum 819200, squ 671088640000, avg 819200.0, var 0.0
throughput write (bytes/msec): num 3, min 12, max 81004, sum 81816, squ 6562288160, avg 27272.0, var 1443667402.7
sizes histogram (bytes):
            0:     0         1024:     3         2048:     0         4096:     1
         8192:     0        16384:     0        32768:     0        65536:     0
       131072:     0       262144:     0       524288:     0      1048576:     1
      2097152:     0      4194304:     0      8388608:     0    > 8388608:     0
d2c histogram (usec):
            0:     0            8:     2           16:     0           32:     0
           64:     0          128:     0          256:     0          512:     0
         1024:     1         2048:     0         4096:     0         8192:     0
        16384:     1        32768:     0        65536:     0       131072:     1
       262144:     0       524288:     0      1048576:     0      2097152:     0
      4194304:     0      8388608:     0     16777216:     0     33554432:     0
    >33554432:     0
bidirectional requests: 1
"""

SMALL_BINARY = bytes.fromhex(
    "000000006b04033f000000000000000300000000000000010000000000000000000000000000000000000000"
    "0000000000000000000000010000000000000000000000000000000000000000000000020000000000000000"
    "0000000000000000000000000000000000000001000000000000000000000000000000010000000000000000"
    "0000000100000000000000000000000000000000000000000000000000000000000000000000000000800011"
    "0000000000001000000000000000100000000000000010000000000001000000000000000000000100000000"
    "0000000400000000000f424100000000000f462c000000e8d4d2cf0200000000000000030000000000000005"
    "0000000000000005000000000000000500000000000000190000000000000001000000000000000500000000"
    "00012fd1000000000001600f0000000171a5d56b000000000000000300000000000c800000000000000c8000"
    "00000000000c80000000009c400000000000000000000001000000000000000c0000000000013c6c00000000"
    "00013f98000000018724922000000000000000030000000000000001"
)

MISMATCH_TEXT = """\
--- mismatch ---
magic          1700885511       1700885511
sequence               -1               -1
time                    5               -1
sector                 -1               -1
bytes                  -1               -1
action             410007           410007
pid                    -1               -1
device                 -1               -1
cpu                    -1               -1
error               65535            65535
pdu_len             65535                0
order                   1                0
"""

LEFTOVER_TEXT = """\
--- leftover ---
magic          1700885511
sequence               -1
time                   -1
sector                 -1
bytes                  -1
action             410007
pid                    -1
device                 -1
cpu                    -1
error               65535
pdu_len                 0
order                   0
"""

# --- the same requests ---------------------------------------------------------------------------

SMALL, WIDE = 8 << 20 | 17, 0xFFFFFFFF


pytestmark = pytest.mark.usefixtures("utc")


def captured() -> Interval:
    """The interval of the goldens; the writes came as several operations."""
    return interval(
        [
            Request(SMALL, READ, 4096, 5),
            Request(SMALL, WRITE, 1000001, 12345, op=1),
            Request(SMALL, WRITE, 999, 77777, op=2),
            Request(SMALL, WRITE, 4, 5, op=1),
            Request(SMALL, BIDIRECTIONAL, 512, 1000, op=6),
            Request(WIDE, WRITE, 4294967, 3_100_000_000, op=1),
        ],
        TIME_S,
    )


def text_of(item: Interval, version: str = "0.3") -> str:
    return b"".join(human_text.renderer(version)(item)).decode()


def test_text_is_the_originals_latest_device_first() -> None:
    assert text_of(captured()) == WIDE_TEXT + SMALL_TEXT


def test_text_comes_in_one_piece_per_device() -> None:
    assert [p.decode() for p in human_text.renderer("0.3")(captured())] == [WIDE_TEXT, SMALL_TEXT]


def test_text_of_version_0_2_lacks_throughput_only() -> None:
    lines = (WIDE_TEXT + SMALL_TEXT).splitlines(keepends=True)
    expected = [line for line in lines if not line.startswith("throughput")]
    assert text_of(captured(), "0.2") == "".join(expected)


def test_text_time_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ-3")
    time.tzset()
    local = time.strftime("%H:%M:%S", time.gmtime(TIME_S + 3 * 3600))
    assert f" {local} " in text_of(captured()).splitlines()[1]


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


def test_binary_is_the_originals() -> None:
    pieces = list(stats_file.renderer("0.3")(captured()))
    assert pieces[1] == SMALL_BINARY
    wide = np.frombuffer(pieces[0], layout.STATS_03)[0]
    assert wide["device"] == WIDE
    assert wide["size_r"]["min"] == 2**64 - 1


def test_binary_of_version_0_2_has_the_same_fields_without_throughput() -> None:
    old = np.frombuffer(b"".join(stats_file.renderer("0.2")(captured())), layout.STATS_02)
    new = np.frombuffer(b"".join(stats_file.renderer("0.3")(captured())), layout.STATS_03)
    assert old.dtype.names is not None
    for name in old.dtype.names:
        assert (old[name] == new[name]).all(), name


def test_binary_wraps_where_the_wire_ends() -> None:
    big = interval([Request(1, READ, 2**32 - 1, 2**50)] * 3)
    big.rows["size_hist"][0][3] = 2**32 + 5
    stats = np.frombuffer(b"".join(stats_file.renderer("0.3")(big)), layout.STATS_03)[0]
    assert stats["size_hist"][3] == 5
    assert stats["d2c_r"]["sum_squares"] == 3 * 2**100 % 2**64
    assert stats["d2c_r"]["sum"] == 3 * 2**50


# --- debug ---------------------------------------------------------------------------------------


def details(*records: dict[str, int]) -> npt.NDArray[np.void]:
    array = np.zeros(len(records), layout.DETAIL)
    for element, record in zip(array, records, strict=True):
        for name, value in record.items():
            (element if name == "order" else element["record"])[name] = value
    return array


_TOP = {
    "time_ns": 2**64 - 1,
    "sector": 2**64 - 1,
    "bytes": 2**32 - 1,
    "action": 0x410007,
    "sequence": 2**32 - 1,
    "pid": 2**32 - 1,
    "device": 2**32 - 1,
    "cpu": 2**32 - 1,
    "error": 65535,
}


def mismatches() -> npt.NDArray[np.void]:
    array = np.zeros(1, layout.MISMATCH)
    array["older"], array["younger"] = details(
        {**_TOP, "time_ns": 5, "pdu_len": 65535, "order": 1}, {**_TOP, "order": 0}
    )
    return array


def test_mismatch_is_the_originals_with_its_signs() -> None:
    assert b"".join(debug.render(mismatches())).decode() == MISMATCH_TEXT


def test_leftover_and_totals_are_the_originals() -> None:
    totals = Counts(records=8, requests=0, mismatches=3, driver_data_records=1)
    written = b"".join(debug.render(debug.Final(details(_TOP), totals))).decode()
    line = "1 leftover, 0 match, 3 mismatch, 1 driverdata, 8 overall\n"
    assert written == LEFTOVER_TEXT + line


def test_debug_shows_the_low_half_of_a_wide_action() -> None:
    array = details({"action": 0x41_0081_0008, "time_ns": 10**18})
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


def test_totals_name_the_rest_only_where_it_happened() -> None:
    line = debug.totals_line(2, Counts(evicted=3, lost_events=4, skipped_bytes=5))
    head = "2 leftover, 0 match, 0 mismatch, 0 driverdata, 0 overall"
    assert line == head + ", 3 evicted, 4 lost, 5 bytes skipped\n"
    assert debug.totals_line(2, Counts(lost_events=4)) == head + ", 4 lost\n"
