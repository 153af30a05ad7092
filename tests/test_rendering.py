"""JSON, CSV and metrics, rendered many groups at a time, equal those of the plain libraries."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intervals import NAMES, Io, example, interval_of
from prometheus_client.exposition import choose_encoder
from strategies import IOS

from blkiomon import to_dict
from blkiomon.engine import layout
from blkiomon.formats import csv as csv_output
from blkiomon.formats import json_lines
from blkiomon.formats.json_codec import percentile_name
from blkiomon.formats.openmetrics import Metrics
from blkiomon.interval.columns import PIECE_WEIGHT
from blkiomon.interval.distribution import PERCENTILES, Distribution
from blkiomon.interval.value import Counts, Interval, merge

S = 10**9
HOUR_NS = 3600 * S
Name = str | None


def plain_line(item: Interval, name_of: Any = NAMES.get) -> bytes:
    """A line as the json module writes it."""
    line = json.dumps(to_dict(item, name_of=name_of), separators=(",", ":"), allow_nan=False)
    return line.encode() + b"\n"


def line(item: Interval, name_of: Any = NAMES.get) -> bytes:
    return b"".join(json_lines.renderer(name_of)(item))


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    requests = draw(st.lists(IOS, max_size=30))
    end_ns = draw(st.sampled_from([0, 1, S, HOUR_NS, 2**58]))
    item = interval_of(requests, 0, end_ns, {5: "fio"}, anchored=draw(st.booleans()))
    if draw(st.booleans()):
        item = replace(item, snapshot=replace(item.snapshot, loads=item.snapshot.loads[:0]))
    if draw(st.booleans()):
        item = merge([item, item])
    return item


@settings(deadline=None, max_examples=50)
@given(intervals())
def test_json_equals_that_of_the_json_module(item: Interval) -> None:
    assert line(item) == plain_line(item)


def csv_field(value: float | None) -> str:
    """A figure as CSV shows it: means and rates with 12 significant digits."""
    if value is None:
        return ""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


@settings(deadline=None, max_examples=50)
@given(intervals())
def test_csv_has_the_same_figures_as_json(item: Interval) -> None:
    text = csv_output.HEAD + b"".join(csv_output.renderer(NAMES.get)(item))
    rows = list(csv.DictReader(io.StringIO(text.decode(), newline=""), strict=True))
    data = to_dict(item, name_of=NAMES.get)
    groups = [
        (device, op, figures)
        for device in data["devices"]
        for op, figures in [*device["ops"].items(), ("all", device)]
    ]
    groups.append(({"device": "all", "name": None}, "all", data["total"]))
    for row, (device, op, figures) in zip(rows, groups, strict=True):
        assert (row["device"], row["name"], row["op"]) == (
            device["device"],
            device["name"] or "",
            op,
        )
        names = ("requests", "errors", "bytes", "iops", "bytes_per_s")
        expected = {name: figures[name] for name in names}
        for quantity in ("d2c_ns", "size_bytes", "q2d_ns", "q2c_ns"):
            prefix, _, unit = quantity.partition("_")
            for name in ("min", "mean", "max", "stddev", *map(percentile_name, PERCENTILES)):
                value = figures[quantity] and figures[quantity][name]
                expected[f"{prefix}_{name}_{unit}"] = value
        load = figures["in_flight"] or dict.fromkeys(("mean", "max", "end", "oldest_ns"))
        for name in ("mean", "max", "end", "oldest_ns"):
            expected[f"in_flight_{name}"] = load[name]
        expected["busy_fraction"] = load.get("busy_fraction")
        expected["queued_requests"] = figures["q2d_ns"] and figures["q2d_ns"]["count"]
        shown = {name: row[name] for name in expected}
        assert shown == {name: csv_field(value) for name, value in expected.items()}


def test_many_devices_are_rendered_in_pieces() -> None:
    """No piece is large, and each holds whole devices."""
    requests = [Io(number << 8, "read", 4096, number, 1000 + number) for number in range(3000)]
    item = interval_of(requests, 0, S)
    render = list(json_lines.renderer()(item))
    assert b"".join(render) == plain_line(item, lambda number: None)
    assert len(render) > 3 and max(map(len, render)) < 100 * PIECE_WEIGHT
    pieces = list(csv_output.renderer()(item))
    assert len(pieces) > 2 and all(piece.endswith(b"\n") for piece in pieces)


def test_large_counts_and_extreme_bins_are_rendered() -> None:
    item = interval_of(example(), 0, 3 * S)
    for count in (1, 4094, 4095, 4096, 10**15):
        cut = item.snapshot
        bins = cut.d2c_bins.copy()
        bins["count"] *= np.uint64(count)
        bins["bin"][-1] = layout.D2C_BINS - 1
        scaled = replace(item, snapshot=replace(cut, d2c_bins=bins))
        assert line(scaled) == plain_line(scaled)


@pytest.mark.parametrize("name", ["100%s", 'a"b\\', "a,b", "größer", "\x1b[31m", "\udcff"])
def test_names_are_escaped_by_the_rules_of_each_format(name: str) -> None:
    item = interval_of(example(), 0, S)

    def name_of(number: int) -> Name:
        return name

    assert line(item, name_of) == plain_line(item, name_of)
    text = b"".join(csv_output.renderer(name_of)(item)).decode()
    names = {row[4] for row in csv.reader(io.StringIO(text, newline=""), strict=True)}
    assert names == {"", name.replace("\x1b", r"\x1b").replace("\udcff", r"\xff")}


@settings(deadline=None, max_examples=15)
@given(st.lists(intervals(), max_size=4), st.sampled_from([1, 2, 128]))
def test_metrics_equal_those_of_the_prometheus_library(items: list[Interval], most: int) -> None:
    metrics = Metrics(NAMES.get, max_devices=most)
    for item in items:
        metrics.add(item)
        for accept in ("", "application/openmetrics-text; version=1.0.0"):
            encode, _ = choose_encoder(accept)
            families = metrics._families(metrics._values())
            registry = SimpleNamespace(collect=lambda families=families: families)
            assert metrics.text(accept)[0] == encode(registry)


def test_bin_with_a_count_of_0_is_ignored() -> None:
    item = interval_of(example(), 0, S)
    bins = item.snapshot.d2c_bins.copy()
    bins["count"] = 0
    empty = replace(item, snapshot=replace(item.snapshot, d2c_bins=bins), counts=Counts())
    assert empty.total.d2c_ns.percentile(50) is None
    assert Distribution().percentile(50) is None
    assert line(empty) == plain_line(empty)
