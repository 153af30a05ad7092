"""Numbers and names that the engine, its results and the outputs share."""

from __future__ import annotations

MAGIC = 0x65617400
"""Magic of a record, without its version: ``MAGIC | 7``."""

ISSUE, COMPLETE, NOTIFY, DRIVER_DATA = 1 << 22, 1 << 23, 1 << 26, 1 << 30
"""Some categories in ``layout.RECORD['action']``. Notify records may have another time base than
other records: ``blkparse -d`` shifts only the others."""

OPS = ("read", "write", "discard", "flush", "write_zeroes", "zone", "other")
"""Operations, by their number in ``layout.ROW['op']``."""

ALL_OPS = len(OPS)
"""In place of an operation: all operations of a device."""

EVERYTHING = ALL_OPS + 1
"""In place of an operation: all devices. (No device number is free to mean "all".)"""

DIRECTIONS = ("read", "write", "bidirectional")
"""The original's directions, by their number in ``layout.ROW['direction']``."""

SIZE_BUCKETS, SIZE_DELTA = 16, 1024
D2C_BUCKETS, D2C_DELTA = 25, 8
"""The original's histograms of sizes in bytes and D2C in microseconds. Bucket 0 counts 0, bucket i
values up to delta * 2^(i-1), the last bucket all greater values."""

SIZE_BINS, D2C_BINS = 1728, 3776
BIN_BITS = 12
"""Bins of the log-linear histograms of sizes (bytes) and D2C (ns), and bits of a bin's number. Each
octave has 64 bins: see ``blkiomon.interval.distribution.bin_bounds``."""
