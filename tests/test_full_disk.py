"""A full file system: outputs keep whole intervals, and drops are counted."""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import runner
from quirks import ONE
from runner import Running, until

from blkiomon.engine import layout

DISK_BYTES = 512 << 10


def fill(disk: Path) -> Path:
    """Another file takes all the space that is left, except part of a block."""
    path = disk / "ballast"
    with path.open("ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return path
    raise AssertionError("a disk without end")


def sizes(path: Path) -> list[int]:
    """Number of requests of each interval in a file of whole intervals."""
    data = path.read_bytes()
    if path.suffix == ".json":
        assert data[-1:] in (b"", b"\n")
        lines = [json.loads(line) for line in data.splitlines()]
        return [n for line in lines if (n := line["total"]["requests"])]
    if path.suffix == ".csv":
        rows = list(csv.DictReader(data.decode().splitlines()))
        assert all(len(row) == len(rows[0]) and None not in row.values() for row in rows)
        return [int(r["requests"]) for r in rows if r["device"] == "all" and r["requests"] != "0"]
    if path.suffix == ".bin":
        assert len(data) % layout.STATS_03.itemsize == 0
        return np.frombuffer(data, layout.STATS_03)["size_r"]["count"].tolist()
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        return [row["requests"] for row in rows if row["device"] == "all" and row["requests"]]
    text = data.decode()
    assert text == "" or re.search(r"^bidirectional requests: \d+\n\Z", text, re.MULTILINE)
    assert text.count("\ntime: ") == text.count("\nbidirectional")
    return runner.read_counts(text)


def sizes_so_far(path: Path) -> list[int]:
    """`sizes` of a file that is being written: tries again if it sees half of a write."""
    for _ in range(100):
        try:
            return sizes(path)
        except (AssertionError, ValueError):
            time.sleep(0.02)
    return sizes(path)


OUTPUTS = {"-h": "out.txt", "-b": "out.bin", "--json": "out.json", "--csv": "out.csv"}


def sender(process: runner.Running, other: Path) -> Callable[[], bool]:
    """A function that sends an interval with a new number of requests and waits for its output."""

    def send() -> bool:
        before = len(sizes_so_far(other))
        process.write(ONE * (before + 1))
        until(lambda: len(sizes_so_far(other)) > before, "an interval")
        return False

    return send


@pytest.mark.parametrize("option", OUTPUTS)
def test_full_disk_drops_whole_intervals_and_counts_them(
    option: str, disk: Path, tmp_path: Path
) -> None:
    path, other = disk / OUTPUTS[option], tmp_path / ("o.json" if option == "-b" else "o.bin")
    beside = "--json" if option == "-b" else "-b"
    with Running("-I", "0.1", option, path, beside, other).started() as process:
        send = sender(process, other)
        send()
        until(lambda: sizes_so_far(path) == [1], "the first interval")
        ballast = fill(disk)
        until(lambda: send() or "No space left" in process.stderr, "a complaint")
        for _ in range(3):
            send()  # reading never stops
        kept = len(sizes_so_far(path))
        assert kept < len(sizes_so_far(other))
        ballast.unlink()
        until(lambda: send() or len(sizes_so_far(path)) > kept, "intervals after that")
        status, _, complaints = process.end()
    first, last = complaints.splitlines()
    assert first == (
        f"blkiomon: cannot write to {path}: No space left on device "
        "(what does not fit is dropped until there is space again)"
    )
    reported = re.fullmatch(
        rf"blkiomon: {path} did not take everything: it lacks (\d+) intervals", last
    )
    assert reported is not None
    there = sizes(path)
    assert there == sorted(set(there)) and set(there) <= set(sizes(other))
    # `sizes` leaves out intervals without requests, which may have been dropped, too.
    assert int(reported[1]) >= len(sizes(other)) - len(there) > 0
    assert status == (1 if option == "-h" else 4)  # -h and -b alone exit as the original


def test_parquet_waits_for_space_and_loses_nothing(disk: Path, tmp_path: Path) -> None:
    path, other = disk / "out.parquet", tmp_path / "other.bin"
    with Running("-I", "0.1", "--parquet", path, "-b", other).started() as process:
        ballast = fill(disk)
        for number in range(1, 6):
            process.write(ONE * number)
            runner.await_size(other, layout.STATS_03.itemsize * number)
        until(lambda: process.stderr, "a line about it")
        ballast.unlink()
        until(lambda: path.stat().st_size > 20_000, "what had waited")
        process.succeed(
            said=f"blkiomon: {path} waits until there is space again: No space left on device\n"
        )
    assert sizes(path) == sizes(other) == [1, 2, 3, 4, 5]


def test_each_parquet_part_is_whole_or_absent_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    (disk / "parts").mkdir()
    path, other = disk / "parts", tmp_path / "other.json"
    with Running("-I", "0.1", "--parquet", path, "--json", other).started() as process:
        send = sender(process, other)

        def there() -> list[int]:
            return [n for part in sorted(path.glob("*.parquet")) for n in sizes(part)]

        send()

        def sent_while_full() -> int:
            """Fills the disk, sends an interval, and returns how many intervals are missing."""
            fill(disk)
            send()
            return len(sizes_so_far(other)) - len(there())

        until(lambda: there() == [1], "the first interval")
        until(lambda: sent_while_full() >= 3, "missing intervals")
        until(lambda: "No space left" in process.stderr, "a complaint")
        kept = len(there())
        (disk / "ballast").unlink()
        until(lambda: send() or len(there()) > kept, "intervals after that")
        status, _, complaints = process.end()
    reported = re.search(
        r"did not take everything: it lacks (\d+) intervals", complaints.splitlines()[-1]
    )
    assert status == 4 and reported is not None and int(reported[1]) > 0
    # An idle interval has its part, too, and may be what did not fit.
    assert len(list(path.iterdir())) + int(reported[1]) == other.read_bytes().count(b"\n")
    assert there() and set(there()) <= set(sizes(other))
    assert all(part.suffix == ".parquet" for part in path.iterdir())


def test_textfile_stays_as_it_was_until_there_is_space(disk: Path, tmp_path: Path) -> None:
    path, other = disk / "out.prom", tmp_path / "other.bin"

    def completed() -> int:
        (line,) = re.findall(r"^blkiomon_requests_total\{.*\} (\d+)", path.read_text(), re.M)
        return int(line)

    with Running("-I", "0.1", "--textfile", path, "-b", other).started() as process:
        process.write(ONE)
        until(lambda: b"requests_total{" in path.read_bytes(), "the first interval")
        ballast = fill(disk)
        process.write(ONE)
        runner.await_size(other, 2 * layout.STATS_03.itemsize)
        until(lambda: "No space left" in process.stderr, "a complaint")
        assert completed() == 1
        ballast.unlink()
        until(lambda: completed() == 2, "the rest")  # sums lose nothing
        process.end()
    assert [entry.name for entry in disk.iterdir()] == ["out.prom"]
