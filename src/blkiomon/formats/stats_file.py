"""The original's binary statistics (-b, and messages of a queue): one struct per device."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from blkiomon.engine.layout import D2C_BUCKETS, SIZE_BUCKETS
from blkiomon.formats.rendering import Format, FormatOptions
from blkiomon.interval.value import DeviceStats, Interval, Moments

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
    pack = _pack_03 if stat_version == "0.3" else _pack_02

    def render(interval: Interval) -> Iterator[bytes]:
        for stats in interval.device_stats():
            yield pack(interval.time_s, stats)

    return render


def _pack_03(time_s: int, s: DeviceStats) -> bytes:
    moments = _u64(s.size_r, s.size_w, s.d2c_r, s.d2c_w, s.thrput_r, s.thrput_w)
    return _STATS_03.pack(
        time_s, *_u32(s.size_hist), *_u32(s.d2c_hist), s.device, *moments, *_u64((s.bidir,))
    )


def _pack_02(time_s: int, s: DeviceStats) -> bytes:
    moments = _u64(s.size_r, s.size_w, s.d2c_r, s.d2c_w)
    return _STATS_02.pack(
        time_s, *_u32(s.size_hist), *_u32(s.d2c_hist), *moments, *_u64((s.bidir,)), s.device
    )


def _u32(counts: tuple[int, ...]) -> list[int]:
    return [count & 0xFFFFFFFF for count in counts]


def _u64(*groups: Moments | tuple[int, ...]) -> list[int]:
    return [value & 0xFFFFFFFFFFFFFFFF for group in groups for value in group]
