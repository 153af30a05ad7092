"""Print the percentiles of a recorded trace, per device and operation: ``make demo``."""

import sys

from blkiomon import summarize
from blkiomon.formats.units import bytes_text, device_text, time_text

trace = sys.argv[1]
whole = summarize(trace)
print(f"{trace}: {whole.counts.requests:,} requests in {whole.end_ns / 1e9:.1f} s\n")
row = "{:<8}{:<10}{:>10}{:>11}{:>10}{:>10}{:>10}{:>10}".format
print(row("device", "operation", "requests", "data", "p50", "p99", "p99.9", "max"))
for group in whole.groups():
    d2c_ns = group.d2c_ns
    times = (*map(d2c_ns.percentile, (50, 99, 99.9)), d2c_ns.max)
    print(
        row(
            "all" if group.device is None else device_text(group.device),
            group.op or "all",
            f"{group.requests:,}",
            bytes_text(group.size_bytes.sum),
            *map(time_text, times),
        )
    )
print("\np50, p99, p99.9 and max are latencies from issue to completion (D2C).")
