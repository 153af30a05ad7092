"""JSON Lines: every line matches the schema and has the figures of its requests."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from intervals import DM3, HUNG, NAMES, SDB, completed, example, interval_of
from jsonschema import Draft202012Validator

from blkiomon import from_dict, summarize, to_dict
from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot
from blkiomon.formats import json_lines
from blkiomon.interval.devices import text_of
from blkiomon.interval.value import Counts, Interval
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.outputs.destinations import open_outputs

S = 10**9
DATA = Path(__file__).parent / "data"
SCHEMA = json.loads(
    (importlib.resources.files("blkiomon") / "schema" / "interval.schema.json").read_text()
)
VALIDATOR = Draft202012Validator(SCHEMA)


def line_of(item: Interval) -> dict[str, Any]:
    """The one line of an interval, which fits the schema."""
    text = b"".join(json_lines.renderer(NAMES.get)(item))
    assert text.endswith(b"\n") and text.count(b"\n") == 1
    line: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    VALIDATOR.validate(line)
    return line


def test_schema_is_a_valid_json_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_schema_lists_exactly_the_fields_of_a_line() -> None:
    line = line_of(interval_of(example()[:5], 0, S))
    assert not VALIDATOR.is_valid(line | {"more": 1})
    assert not VALIDATOR.is_valid(line | {"total": line["total"] | {"more": 1}})
    assert not VALIDATOR.is_valid(line | {"devices": [line["devices"][0] | {"more": 1}]})
    for name in line:
        assert not VALIDATOR.is_valid({k: v for k, v in line.items() if k != name}), name


@pytest.mark.parametrize("is_anchored", [True, False])
@pytest.mark.parametrize("ios", [[], example()])
def test_lines_match_the_schema(ios: list[Any], is_anchored: bool) -> None:
    for k in range(4):
        line_of(interval_of(ios, k * S, (k + 1) * S, anchored=is_anchored, clock="trace"))
    line_of(Interval(time_s=0, devices=np.empty(0, "u4")))  # without a duration, or loads


def test_line_with_devices_outside_the_total_matches_the_schema() -> None:
    item = interval_of(example(), 0, S)
    number = example()[0].device
    line = line_of(replace(item, not_in_total=(number,)))
    assert line["not_in_total"] == [text_of(number)]
    assert line["total"]["requests"] < item.total.requests
    assert line["total"] == to_dict(from_dict(line))["total"]


def test_line_with_requeues_matches_the_schema() -> None:
    line = line_of(summarize(DATA / "kernels" / "transport-7.3.bin.xz"))
    assert line["total"]["retried"]["count"] > 0


def test_line_has_start_end_and_clock() -> None:
    start_ns = 1_795_425_087 * S + 5
    line = line_of(interval_of([], start_ns, start_ns + S // 4))
    assert line["start"] == "2026-11-23T09:11:27.000000005Z"
    assert line["end"] == "2026-11-23T09:11:27.250000005Z"
    assert (line["start_ns"], line["duration_s"]) == (start_ns, 0.25)
    assert (line["clock"], line["anchored"]) == ("wall", True)
    line = line_of(interval_of([], 0, S, anchored=False))
    assert (line["start"], line["end"], line["start_ns"]) == (None, None, 0)


def test_line_has_devices_with_names_and_operations() -> None:
    line = line_of(interval_of(example(), 0, S))
    assert [(d["device"], d["name"], list(d["ops"])) for d in line["devices"]] == [
        ("8:16", "sdb", ["read", "write", "flush"]),
        ("65:1", None, ["write"]),
        ("253:3", "dm-3", ["read"]),
    ]
    hung = line["devices"][1]
    assert (hung["requests"], hung["in_flight"]["end"]) == (0, 1)
    assert hung["d2c_ns"]["p99"] is hung["d2c_ns"]["mean"] is hung["d2c_ns"]["min"] is None
    assert [d["device"] for d in line["devices"]] == [
        f"{n >> 20}:{n & 0xFFFFF}" for n in (SDB, HUNG, DM3)
    ]


def test_line_has_the_figures_of_the_requests() -> None:
    line = line_of(interval_of(example(), 0, 3 * S))
    done = [io for io in completed(example(), 0, 3 * S) if io.device == SDB and io.op == "read"]
    read = line["devices"][0]["ops"]["read"]
    times = [io.d2c_ns or 0 for io in done]
    d2c = read["d2c_ns"]
    assert (read["requests"], read["bytes"]) == (len(done), sum(io.size for io in done))
    assert (d2c["count"], d2c["sum"], d2c["min"], d2c["max"]) == (
        *(len(times), sum(times), min(times), max(times)),
    )
    assert d2c["mean"] == pytest.approx(np.mean(times))
    assert d2c["stddev"] == pytest.approx(np.std(times))
    for name, percent in {"p50": 50, "p90": 90, "p99": 99, "p99_99": 99.99}.items():
        exact = np.percentile(times, percent, method="inverted_cdf")
        assert d2c[name] == pytest.approx(exact, rel=1 / 128)
    histogram = d2c["histogram"]
    edges = [*histogram["low"], 2**63]
    assert histogram["count"] == np.histogram(times, edges)[0].tolist()
    assert read["iops"] == pytest.approx(len(done) / 3)


def test_line_lists_the_first_processes() -> None:
    line = line_of(interval_of(example(), 0, 3 * S, {100: "dd", 101: "fio"}))
    done = completed(example(), 0, 3 * S)
    top = line["processes"]["by_bytes"]
    assert {(p["pid"], p["name"]) for p in top} == {(100, "dd"), (101, "fio"), (102, None)}
    assert [p["bytes"] for p in top] == sorted((p["bytes"] for p in top), reverse=True)
    assert top[0]["bytes"] == sum(io.size for io in done if io.pid == top[0]["pid"])


def test_line_lists_at_most_ten_processes() -> None:
    processes = np.zeros(30, layout.PROCESS)
    processes["pid"], processes["requests"] = np.arange(30), np.arange(30)
    processes["bytes"] = 1000 - np.arange(30)
    line = line_of(
        Interval(time_s=0, devices=np.empty(0, "u4"), snapshot=Snapshot(processes=processes))
    )
    assert [p["pid"] for p in line["processes"]["by_bytes"]] == list(range(10))
    assert [p["pid"] for p in line["processes"]["by_requests"]] == list(range(29, 19, -1))


def test_line_has_losses_and_unmatched_records() -> None:
    names = "lost_events sequence_gaps completions_without_issue issues_without_completion "
    names += "evicted mismatches skipped_bytes over_device_limit"
    unseen = {name: n for n, name in enumerate(names.split(), 1)}
    line = line_of(Interval(time_s=0, devices=np.empty(0, "u4"), counts=Counts(**unseen)))
    assert line["unseen"] == unseen


def test_lines_are_written_to_the_file(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "out.jsonl"
    settings = OutputSettings(destinations={"json": str(path)}, names=False)
    outputs = open_outputs(settings, said.append)
    items = [interval_of(example(), k * S, (k + 1) * S) for k in range(3)]
    for item in items:
        outputs.put(item)
    outputs.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [to_dict(item) for item in items]
    assert not said and not outputs.failed
