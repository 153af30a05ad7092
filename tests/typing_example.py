"""A program that uses every public name. `make lint` has mypy check it strictly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import blkiomon


def shown(group: blkiomon.Group) -> str:
    """A line about a group."""
    d2c: blkiomon.Distribution = group.d2c_ns
    in_flight: blkiomon.InFlight | None = group.in_flight
    assert_type(group.iops, float | None)
    assert_type(d2c.percentile(99), int | None)
    assert_type(d2c.counts, npt.NDArray[np.uint64])
    most = in_flight.max if in_flight is not None else None
    return f"{group.op or 'all'}: {group.requests} requests, p99 {d2c.percentile(99)}, {most}"


def main(trace: Path, stats: Path) -> list[str]:
    """What a trace, and a file that -b wrote, hold."""
    whole = blkiomon.summarize(trace)
    assert_type(whole, blkiomon.Interval)
    assert_type(whole.percentile(99.9, op="read"), int | None)
    lines = [shown(group) for group in whole.groups()]

    pieces = list(blkiomon.intervals(trace, 1.0, resync=True))
    assert_type(pieces, list[blkiomon.Interval])
    merged = blkiomon.merge(pieces)
    assert_type(blkiomon.to_dict(merged), dict[str, Any])
    assert blkiomon.to_dict(merged) == blkiomon.to_dict(whole)
    assert blkiomon.from_dict(blkiomon.to_dict(merged)).total.requests == whole.total.requests

    assert set(blkiomon.layout.OPS) >= {group.op for group in whole.ops(int(whole.devices[0]))}
    found: npt.NDArray[np.void] = blkiomon.requests(trace)
    assert isinstance(found, blkiomon.Requests)
    assert found.dtype.names is not None
    assert_type(blkiomon.read_trace(trace), npt.NDArray[np.void])
    assert_type(blkiomon.read_stats(stats), npt.NDArray[np.void])
    assert len(blkiomon.requests(trace)) == whole.total.requests

    array = np.fromfile(trace, np.uint8)
    assert blkiomon.summarize(array).total.requests == whole.total.requests
    assert len(blkiomon.Monitor(1.0).feed(array)) == len(pieces) - 1

    monitor = blkiomon.Monitor(1.0)
    ended = monitor.feed(trace.read_bytes()) + monitor.finish()
    assert_type(ended, list[blkiomon.Interval])
    lines.append(f"{len(ended)} intervals, {monitor.totals.records} records")

    try:
        found.to_pandas()
    except blkiomon.MissingLibrary as missing:
        lines.append(str(missing))

    wrong = trace.with_name("missing")
    try:
        blkiomon.summarize(wrong)
    except blkiomon.SourceError as error:
        lines.append(str(error))
    try:
        blkiomon.summarize(b"\0" * 64)
    except blkiomon.TraceError as error:
        assert_type(error.offset, int)
        lines.append(error.expected)
    try:  # there are no such options, and mypy knows
        blkiomon.summarize(trace, resink=True)  # type: ignore[call-arg]
    except TypeError:
        lines.append("no such option")
    try:
        blkiomon.intervals(trace, 1.0, max_age_s="10")  # type: ignore[arg-type]
    except TypeError:
        lines.append("no number")
    try:
        blkiomon.read_stats(trace)
    except blkiomon.StatsError as error:
        assert_type(error.offset, int)
        lines.append(str(error))
    try:
        blkiomon.from_bytes(blkiomon.to_bytes(blkiomon.summarize(trace))[:-1])
    except blkiomon.IntervalError as error:
        lines.append(str(error))
    lines.append(blkiomon.__version__)
    return lines


if __name__ == "__main__":
    print("\n".join(main(Path(sys.argv[1]), Path(sys.argv[2]))))
