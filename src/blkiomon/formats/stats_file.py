"""The original's binary statistics (-b, and messages of a queue): one struct per device."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from blkiomon.engine.constants import D2C_BUCKETS, SIZE_BUCKETS
from blkiomon.formats.rendering import Format, FormatOptions
from blkiomon.interval.value import Interval

_HEAD = f">Q{SIZE_BUCKETS}I{D2C_BUCKETS}I"
_STATS_03 = struct.Struct(_HEAD + "I30QQ")
_STATS_02 = struct.Struct(_HEAD + "20QQI")


def output_format(options: FormatOptions) -> Format:
    """``-b``."""
    return Format((Interval,), renderer(options.stat_version), takes_turns=True)


def renderer(stat_version: str) -> Callable[[Interval], Iterator[bytes]]:
    """A function from an interval to one struct per device.

    Args:
        stat_version: "0.3" for ``layout.STATS_03``, else ``layout.STATS_02``.
    """
    is_03 = stat_version == "0.3"

    def render(interval: Interval) -> Iterator[bytes]:
        for s in interval.device_stats():
            moments = [*s.size_r, *s.size_w, *s.d2c_r, *s.d2c_w]
            if is_03:
                values = [s.device, *_u64([*moments, *s.thrput_r, *s.thrput_w, s.bidir])]
            else:
                values = [*_u64([*moments, s.bidir]), s.device]
            counts = [count & 0xFFFFFFFF for count in (*s.size_hist, *s.d2c_hist)]
            yield (_STATS_03 if is_03 else _STATS_02).pack(interval.time_s, *counts, *values)

    return render


def _u64(values: list[int]) -> list[int]:
    return [value & 0xFFFFFFFFFFFFFFFF for value in values]
