"""The original's human-readable text (-h), byte for byte."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from blkiomon.engine.constants import D2C_BUCKETS, D2C_DELTA, SIZE_BUCKETS, SIZE_DELTA
from blkiomon.formats.rendering import Format, FormatOptions
from blkiomon.interval.value import DeviceStats, Interval, Moments

_QUANTITIES = (
    ("sizes read (bytes)", "size_r"),
    ("sizes write (bytes)", "size_w"),
    ("d2c read (usec)", "d2c_r"),
    ("d2c write (usec)", "d2c_w"),
    ("throughput read (bytes/msec)", "thrput_r"),
    ("throughput write (bytes/msec)", "thrput_w"),
)


def _histogram(title: str, delta: int, buckets: int) -> str:
    """The template of a histogram: limit and count of each bucket, four buckets to a line."""
    limits = [f"{limit:13d}" for limit in (0, *(delta << i for i in range(buckets - 2)))]
    limits.append(f"    >{delta << buckets - 3:8d}")
    cells = [limit + ":%6d" for limit in limits]
    lines = ["".join(cells[i : i + 4]) for i in range(0, buckets, 4)]
    return "\n".join([title, *lines, ""])


_SIZES = _histogram("sizes histogram (bytes):", SIZE_DELTA, SIZE_BUCKETS)
_D2C = _histogram("d2c histogram (usec):", D2C_DELTA, D2C_BUCKETS)


def output_format(options: FormatOptions) -> Format:
    """``-h``."""
    return Format((Interval,), renderer(options.stat_version), takes_turns=True)


def renderer(stat_version: str) -> Callable[[Interval], Iterator[bytes]]:
    """A function from an interval to one text per device; version 0.2 lacks throughput."""

    def render(interval: Interval) -> Iterator[bytes]:
        for stats in interval.device_stats():
            yield text(_when(interval), stats, stat_version).encode()

    return render


def _when(interval: Interval) -> str:
    if interval.anchored:
        return time.ctime(interval.time_s)
    return f"{interval.end_ns / 1e9:.3f} s after the first record"


def text(when: str, stats: DeviceStats, stat_version: str) -> str:
    """The original's text of one device.

    Args:
        when: the time, as the text shows it.
    """
    quantities = _QUANTITIES if stat_version == "0.3" else _QUANTITIES[:4]
    return (
        f"\ntime: {when}\n"
        f"device: {stats.device >> 20},{stats.device & 0xFFFFF}\n"
        + "".join([_line(title, getattr(stats, name)) for title, name in quantities])
        + _SIZES % stats.size_hist
        + _D2C % stats.d2c_hist
        + f"bidirectional requests: {_signed(stats.bidir)}\n"
    )


def _line(title: str, m: Moments) -> str:
    least, most, total, squares, count = map(_signed, m)
    return (
        f"{title}: num {count}, min {least}, max {most}, sum {total}, squ {squares}, "
        f"avg {m.avg:.1f}, var {m.var:.1f}\n"
    )


def _signed(value: int) -> int:
    """The lowest 64 bits as a signed number, as the original prints them: 2^64-1 as -1."""
    return ((value + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)
