"""Make a second run out of a first one: the same requests, each of which takes longer.

    python docs/slower.py FIRST SECOND 1.2

For traces of this machine's byte order, version 7, that hold issues and completions only.
"""

from __future__ import annotations

import sys

import numpy as np

from blkiomon.engine import layout

ISSUE, COMPLETE, DIRECTION = 1 << 22, 1 << 23, 3 << 16


def main(first: str, second: str, factor: str) -> None:
    """Write the second run."""
    records = np.fromfile(first, layout.TRACE_V7)
    times = records["time"].tolist()
    issued: dict[tuple[int, int, int], int] = {}
    fields = records[["device", "sector", "action"]].tolist()
    for i, (device, sector, action) in enumerate(fields):
        key = device, sector, action & DIRECTION
        if action & ISSUE:
            issued[key] = times[i]
        elif action & COMPLETE and key in issued:
            start = issued.pop(key)
            times[i] = start + round((times[i] - start) * float(factor))
    records["time"] = times
    records[np.argsort(records["time"], kind="stable")].tofile(second)


if __name__ == "__main__":
    main(*sys.argv[1:])
