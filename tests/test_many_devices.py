"""Intervals of very many devices are whole, also at the end of a run."""

from __future__ import annotations

import csv
import json
import re
import signal
from pathlib import Path

import numpy as np
import runner
from runner import TERMINATED, Running
from tracewriter import complete, encode, issue

from blkiomon.engine import layout
from blkiomon.formats.units import device_text

S = 10**9
MOST_DEVICES = 65_536  # by default known at a time
SOME_DEVICES = 5_000


def trace_of(n_devices: int) -> bytes:
    """A request of each device; all are issued before the first completes."""
    pair = encode([issue(S, 8, 4096), complete(2 * S, 8, 4096)])
    records = np.repeat(np.frombuffer(pair, layout.TRACE_V7), n_devices)
    numbers = np.arange(n_devices)
    records["device"] = np.tile(numbers + 1, 2)
    records["time"] += np.tile(numbers, 2).astype(np.uint64)
    return records.tobytes()


def names_of(n_devices: int) -> list[str]:
    return [device_text(number + 1) for number in range(n_devices)]


def test_file_may_have_as_many_devices_as_are_known(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_bytes(trace_of(MOST_DEVICES))
    done = runner.run("-I", "1000", "--json", tmp_path / "json", trace)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    line = (tmp_path / "json").read_bytes()
    # Parsed as a whole, a line of 100 MB takes seconds.
    head, begin, devices = line.partition(b'"devices":[')
    devices, end, tail = devices.rpartition(b'],"unseen":')
    interval = json.loads(head + begin + end + tail)
    assert interval["total"]["requests"] == MOST_DEVICES
    found = re.findall(rb'\{"device":"([^"]*)",', devices)
    assert [name.decode() for name in found] == names_of(MOST_DEVICES)
    assert devices.count(b'"ops":{"read":{"requests":1,') == MOST_DEVICES


def test_signal_leaves_an_interval_of_many_devices_whole(tmp_path: Path) -> None:
    """Rendering the last interval takes far longer than an output waits at the end."""
    files = {name: tmp_path / name for name in ("--json", "--csv", "-b")}
    options = [word for item in files.items() for word in item]
    with Running("-I", "1000", "--clock", "wall", *options).started() as process:
        process.write(trace_of(SOME_DEVICES))
        process.await_read()
        assert process.end(signal.SIGTERM) == (0, b"", TERMINATED)
    (interval,) = map(json.loads, files["--json"].read_bytes().splitlines())
    assert [device["device"] for device in interval["devices"]] == names_of(SOME_DEVICES)
    with files["--csv"].open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    found = [row["device"] for row in rows if row["op"] == "all"]
    assert found == [*names_of(SOME_DEVICES), "all"]
    assert rows[-1]["requests"] == str(SOME_DEVICES)
    stats = np.frombuffer(files["-b"].read_bytes(), layout.STATS_03)
    assert sorted(stats["device"].tolist()) == [number + 1 for number in range(SOME_DEVICES)]
