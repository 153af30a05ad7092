"""CSV: one line of names, then a row for each device and operation."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from intervals import NAMES, example, interval_of

from blkiomon.formats import csv as output
from blkiomon.interval.value import Interval
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.outputs.destinations import open_outputs

S = 10**9


def rows_of(*items: Interval) -> list[dict[str, str]]:
    render = output.renderer(NAMES.get)
    text = output.HEAD + b"".join(piece for item in items for piece in render(item))
    return list(csv.DictReader(io.StringIO(text.decode(), newline=""), strict=True))


def test_csv_has_a_row_for_each_operation_each_device_and_all() -> None:
    rows = rows_of(interval_of(example(), 0, S))
    assert [(r["device"], r["name"], r["op"]) for r in rows] == [
        ("8:16", "sdb", "read"),
        ("8:16", "sdb", "write"),
        ("8:16", "sdb", "flush"),
        ("8:16", "sdb", "all"),
        ("65:1", "", "write"),
        ("65:1", "", "all"),
        ("253:3", "dm-3", "read"),
        ("253:3", "dm-3", "all"),
        ("all", "", "all"),
    ]
    assert {r["start"] for r in rows} == {"1970-01-01T00:00:00.000000000Z"}


def test_every_row_has_every_column() -> None:
    text = output.HEAD + b"".join(output.renderer()(interval_of(example(), 0, S)))
    widths = {len(row) for row in csv.reader(io.StringIO(text.decode()))}
    assert len(widths) == 1
    assert b'"' not in text  # plain enough for cut and awk


def test_losses_are_in_the_row_of_all_devices() -> None:
    item = interval_of(example(), 0, S)
    *others, total = rows_of(item)
    counts = str(item.counts.records), str(item.counts.lost_events)
    assert (total["records"], total["lost_events"]) == counts
    assert {row["lost_events"] for row in others} == {""}


def test_idle_interval_has_a_row() -> None:
    (row,) = rows_of(interval_of([], 0, S))
    assert (row["device"], row["op"], row["requests"], row["iops"]) == ("all", "all", "0", "0")


def test_header_is_written_once_even_without_intervals(tmp_path: Path, said: list[str]) -> None:
    for number in (0, 1, 3):
        path = tmp_path / f"{number}.csv"
        settings = OutputSettings(destinations={"csv": str(path)}, names=False)
        outputs = open_outputs(settings, said.append)
        items = [interval_of(example(), k * S, (k + 1) * S) for k in range(number)]
        for item in items:
            outputs.put(item)
        outputs.close()
        expected = output.HEAD + b"".join(b"".join(output.renderer()(item)) for item in items)
        assert path.read_bytes() == expected
        assert not said and not outputs.failed
