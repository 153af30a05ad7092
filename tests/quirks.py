"""Streams that each show one quirk of the original and do not crash it."""

from __future__ import annotations

import tracewriter as tw
from tracewriter import Record, complete, driver_data, encode, issue

U32 = 1 << 32
U64 = 1 << 64
RW = tw.READ | tw.WRITE


def pairs(*requests: tuple[int, int], category: int = tw.READ | tw.FS) -> bytes:
    """Requests of (bytes, latency in us), one after the other."""
    records = []
    for index, (size, latency) in enumerate(requests):
        start = 10**6 + index
        records += [
            issue(start, index, size, category),
            complete(start + latency * 1000, index, size, category),
        ]
    return encode(records)


ONE = pairs((4096, 500))
"""One request: 4096 bytes read in 500 us."""


def _wide(byteorder: str) -> bytes:
    """Two mismatched records: the fields of one are greatest, those of the other half of that."""
    fields: dict[str, int] = {"cpu": U32 - 1, "sequence": U32 - 1, "pid": U32 - 1, "error": 65535}
    half = {"cpu": U32 >> 1, "sequence": U32 >> 1, "pid": U32 >> 1, "error": 32768}
    category = 0xFFFF & ~(tw.COMPLETE | tw.DRV_DATA)
    first = issue(U64 - 1, U64 - 1, U32 - 1, category, U32 - 1, payload=bytes(65535), **fields)
    second = issue(U64 // 2, U64 - 1, U32 >> 1, category, U32 - 1, payload=bytes(32768), **half)
    return encode([first, second], byteorder=byteorder)


CASES: dict[str, bytes] = {
    "empty_stream": b"",
    "one_match": pairs((4096, 500)),
    "size_comes_from_the_issue": encode([issue(0, 1, 4096), complete(9000, 1, 512)]),
    "completion_first_in_stream": encode([complete(9000, 1, 512), issue(0, 1, 4096)]),
    "equal_times_newcomer_is_older": encode([issue(5, 1, 1), issue(5, 1, 2)]),
    "equal_times_issue_then_completion_mismatch": encode([issue(5, 1, 1), complete(5, 1, 1)]),
    "newcomer_older_pending_is_stored_anew": encode(
        [issue(10, 128, 1), issue(10, 0, 1), issue(9, 128, 3)]
    ),
    "leftovers_by_chain_then_latest_stored": encode(
        [issue(1, sector, 1) for sector in (128, 0, 256, 5, 133, 127, 1 << 63, U64 - 1)]
    ),
    "completion_completion_mismatch": encode([complete(5, 1, 1), complete(9000, 1, 1)]),
    "completion_older_than_issue_mismatch": encode([complete(5, 1, 1), issue(9000, 1, 1)]),
    "both_bits_match_each_other": encode(
        [issue(5, 1, 7, tw.READ | tw.COMPLETE), issue(9005, 1, 8, tw.READ | tw.COMPLETE)]
    ),
    "key_ignores_sync_and_meta": encode(
        [
            issue(0, 1, 4096, tw.READ | tw.FS | tw.SYNC),
            complete(9000, 1, 0, tw.READ | tw.FS | tw.META | tw.FUA),
        ]
    ),
    "key_has_fs_and_pc": encode(
        [issue(0, 1, 1), complete(9000, 1, 1, tw.READ), complete(9000, 1, 1, tw.READ | tw.PC)]
    ),
    "read_wins_over_write": pairs((4096, 7), category=RW | tw.FS),
    "neither_is_bidirectional": pairs((4096, 7), (U32 - 1, U32), category=tw.FS),
    "low_word_is_ignored": encode(
        [
            Record(0, 1, 512, tw.act(tw.ISSUE | tw.READ, 99), 5),
            Record(9000, 1, 512, tw.act(tw.COMPLETE | tw.READ, tw.EV_ISSUE), 5),
            Record(0, 2, 512, tw.act(tw.READ, tw.EV_ISSUE), 5),
        ]
    ),
    "driver_data_wins_over_issue": encode(
        [driver_data(1, b"a", category=tw.ISSUE), driver_data(2, b"bcd", category=tw.COMPLETE)]
    ),
    "driver_data_big_endian_header_in_host_order": encode(
        [driver_data(0x0102, b"\x01\x02\x03", sequence=7)], byteorder=">"
    ),
    "notify_with_issue_takes_part": encode(
        [issue(0, 1, 1, tw.READ | tw.NOTIFY, payload=b"xyz"), complete(9000, 1, 1, tw.READ)]
    ),
    "order_counts_skipped_records": encode(
        [
            driver_data(1, b"abc"),
            tw.notify_process(1, 1, "x"),
            Record(1, 1, 1, 0, 1),
            issue(7, 6, 5),
        ]
    ),
    "payload_of_issue_is_skipped": encode(
        [issue(0, 1, 1, payload=b"odd"), complete(9000, 1, 1, payload=b"x")]
    ),
    "wide_fields_little_endian": _wide("<"),
    "wide_fields_big_endian": _wide(">"),
    "device_top_bit": encode(
        [issue(0, 1, 1, device=U32 - 1), complete(1000, 1, 1, device=U32 - 1)]
    ),
    "devices_in_reverse_of_first_match": encode(
        [
            record
            for device in (9, 3, 7, 3, 9)
            for record in (issue(0, 1, 1, device=device), complete(1000, 1, 1, device=device))
        ]
    ),
    "histogram_limits_inclusive": pairs(
        *[(1024 << i, 8 << i) for i in range(14)],
        *[((1024 << i) + 1, (8 << i) + 1) for i in range(14)],
        *[(0, 8 << i) for i in range(14, 24)],
        *[(1, (8 << i) + 1) for i in range(14, 24)],
        category=tw.FS,
    ),
    "histogram_count_of_seven_columns": encode([issue(0, 1, 1), complete(9000, 1, 1)]) * 100_001,
    "d2c_histogram_truncates_to_32_bits": pairs(
        (5, U32), (5, U32 + 8), (5, U32 - 1), (5, U32 >> 1)
    ),
    "times_are_unsigned": encode([issue(10, 1, 1), complete(1 << 63, 1, 1)]),
    "longest_latency": encode([complete(U64 - 1, 1, 1), issue(0, 1, 1)]),
    "var_of_doubles": pairs((1, 1), (2, 2), (4, 5), (1000001, 12345), (999, 77777)),
    "var_may_be_negative": pairs(*[(4096, 523761444)] * 3),
    "var_sum_just_below_2_32": pairs((4096, 3_000_000_000), (4096, 1_294_967_295)),
    # The original's faults, which only `reference.outputs(original=True)` repeats.
    "fault_var_wraps": pairs((3_000_000_000, 1000), (1_294_967_296, 1000)),
    "fault_throughput_wraps": pairs((4294968, 1), (8589935, 2), (U32 - 1, 3)),
    "fault_squ_wraps": pairs((U32 - 1, 1000), (U32 - 1, 3), (1, 5)),
    "last_in_range_throughput": pairs((4294967, 1)),
}

_SOUND = pairs((4096, 500), (1, 1)) + encode([issue(1, 99, 1), issue(2, 99, 1)])

# Input that ends the original with a complaint, mostly before it writes the interval's statistics.
# Its debug output is complete.
BROKEN: dict[str, bytes] = {
    "garbage": _SOUND + b"garbage" * 20,
    "other_byte_order": _SOUND + encode([issue(7, 7, 1)], byteorder=tw.FOREIGN),
    "unknown_version": _SOUND + encode([issue(7, 7, 1)]).replace(b"\x07tae", b"\x06tae") + _SOUND,
    "cut_payload": _SOUND + encode([driver_data(1, b"abcdef")])[:-2],
}

GOLDEN = (
    "one_match",
    "equal_times_newcomer_is_older",
    "newcomer_older_pending_is_stored_anew",
    "leftovers_by_chain_then_latest_stored",
    "both_bits_match_each_other",
    "neither_is_bidirectional",
    "driver_data_big_endian_header_in_host_order",
    "order_counts_skipped_records",
    "devices_in_reverse_of_first_match",
    "histogram_limits_inclusive",
    "d2c_histogram_truncates_to_32_bits",
    "var_of_doubles",
)
