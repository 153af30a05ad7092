"""Metrics in protobuf, with native histograms: the messages, HTTP, and a real Prometheus."""

from __future__ import annotations

import bisect
import gzip
import json
import math
import random
import re
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import prometheus
import pytest
import quirks
import runner
from google.protobuf.proto import parse_length_prefixed
from hypothesis import example, given, settings
from hypothesis import strategies as st
from intervals import SDB, Io, interval_of
from prometheus_client import core
from prometheus_client.exposition import floatToGoString
from prometheus_client.parser import text_string_to_metric_families
from runner import Running
from test_rendering import intervals
from tracewriter import complete, encode

from blkiomon import from_dict
from blkiomon.engine.layout import OPS
from blkiomon.formats import protobuf
from blkiomon.formats.openmetrics import Metrics
from blkiomon.formats.rendering import FormatOptions
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.value import Interval, merge
from blkiomon.outputs.metrics import HttpSink
from blkiomon.sources.devices import nameless

PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)
PROMETHEUS_2 = (
    f"{PROTOBUF},application/openmetrics-text;version=1.0.0;q=0.8,"
    "application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    f"{PROTOBUF};q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
"""Accept headers of Prometheus 2.42 and 3, if they want native histograms."""

Labels = tuple[str, ...]


def messages(metrics: Metrics) -> list[Any]:
    """All metrics, encoded and parsed."""
    source = BytesIO(protobuf.encode(metrics.families()))
    return list(iter(lambda: parse_length_prefixed(protobuf.family_class(), source), None))


def of_library(message: Any) -> core.Metric:
    """A message as what prometheus-client makes of the text, without native histograms."""
    kind = {0: "counter", 1: "gauge", 4: "histogram"}[message.type]
    family = core.Metric(message.name.removesuffix("_total"), message.help, kind)
    for metric in message.metric:
        labels = {pair.name: pair.value for pair in metric.label}
        if kind == "histogram":
            histogram = metric.histogram
            for bucket in histogram.bucket:
                limit = {"le": floatToGoString(bucket.upper_bound)}
                family.add_sample(f"{message.name}_bucket", labels | limit, bucket.cumulative_count)
            family.add_sample(f"{message.name}_count", labels, histogram.sample_count)
            family.add_sample(f"{message.name}_sum", labels, histogram.sample_sum)
        else:
            family.add_sample(message.name, labels, getattr(metric, kind).value)
    return family


def histograms(metrics: Metrics, name: str) -> dict[Labels, Any]:
    """The histograms of one name, by the values of their labels."""
    (family,) = (family for family in messages(metrics) if family.name == f"blkiomon_{name}")
    return {
        tuple(pair.value for pair in metric.label): metric.histogram for metric in family.metric
    }


def native_counts(histogram: Any) -> dict[int, int]:
    """The count of each native bucket: number i ends at 2^(i/8)."""
    numbers: list[int] = []
    start = 0
    for span in histogram.positive_span:
        start += span.offset
        numbers += range(start, start + span.length)
        start += span.length
    return dict(zip(numbers, accumulate(histogram.positive_delta), strict=True))


# -- the messages ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(st.lists(intervals(), max_size=4), st.sampled_from([1, 2, 128]))
def test_messages_have_the_samples_of_the_text(items: list[Interval], most: int) -> None:
    metrics = Metrics(nameless, most, lambda numbers: dict.fromkeys(numbers, ("ä",) * 6))
    for item in items:
        metrics.add(item)
        text = metrics.text()[0].decode()
        assert list(map(of_library, messages(metrics))) == list(
            text_string_to_metric_families(text)
        )


def test_messages_have_the_metrics_that_only_some_hosts_have() -> None:
    monitor = Monitor(clock="wall")
    monitor.feed(encode([complete(10**9, 8, 4096)]))
    metrics = Metrics(nameless)
    metrics.add(monitor.cut(0, 10**9))
    families = {message.name: of_library(message) for message in messages(metrics)}
    (share,) = families["blkiomon_incomplete_share"].samples
    assert (share.labels, share.value) == ({"reason": "completions_without_issue"}, 1)
    (end,) = families["blkiomon_last_interval_timestamp_seconds"].samples
    assert (end.labels, end.value) == ({}, 1)


VALUES = st.integers(0, 200) | st.integers(0, 2**32 - 1)


def native_of(values: Sequence[tuple[int, int]]) -> tuple[Any, Any]:
    """The histograms of requests by their D2C times in ns and their sizes."""
    ios = [Io(SDB, "read", size, 0, d2c_ns) for d2c_ns, size in values]
    metrics = Metrics(nameless)
    metrics.add(interval_of(ios, -1, 2**60))
    return tuple(
        histograms(metrics, name)["8:16", "read"] for name in ("d2c_seconds", "request_size_bytes")
    )  # type: ignore[return-value]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(VALUES | st.integers(0, 2**57), VALUES), min_size=1, max_size=60))
@example([(0, 0)])
@example([(10**9, 512), (10**9 >> 1, 513), (10**9 + 1, 1), (1, 1024)])
def test_native_buckets_count_the_values_up_to_their_limits(values: list[tuple[int, int]]) -> None:
    d2c, size = native_of(values)
    # As the module says: times within 1/128 of the limit may be on either side, and sizes that
    # exceed it by less than 1/64.
    for histogram, of_values, unit, below, above in (
        (d2c, sorted(d2c_ns for d2c_ns, _ in values), 10**9, 1 / 128, 1 / 128),
        (size, sorted(size for _, size in values), 1, 0, 1 / 64),
    ):
        assert histogram.schema == 3
        assert histogram.zero_count == of_values.count(0)
        assert histogram.sample_count == len(of_values)
        assert histogram.sample_sum == sum(of_values) / unit
        counts = native_counts(histogram)
        assert all(counts.values())
        assert sum(counts.values()) + histogram.zero_count == len(of_values)
        upto = histogram.zero_count
        for number in range(min(counts, default=0) - 1, max(counts, default=0) + 1):
            upto += counts.get(number, 0)
            limit = 2 ** (number / 8) * unit
            assert bisect.bisect(of_values, limit * (1 - below)) <= upto
            assert upto <= bisect.bisect(of_values, limit * (1 + above))


@pytest.mark.parametrize("power", range(9, 25))
def test_powers_of_two_are_the_upper_limits_of_their_native_buckets(power: int) -> None:
    _, size = native_of([(1, 1 << power)])
    assert native_counts(size) == {8 * power: 1}


def test_runs_of_native_buckets_are_spans() -> None:
    _, size = native_of([(1, size) for size in (0, 1024, 1024, 1100, 4096)])
    spans = [(span.offset, span.length) for span in size.positive_span]
    assert spans == [(80, 2), (14, 1)]
    assert (size.zero_count, list(size.positive_delta)) == (1, [2, -1, 0])


def test_native_buckets_are_those_of_their_series() -> None:
    sizes = {"read": [0, 512, 512, 600, 4096], "write": [], "flush": [300], "discard": [512] * 3}
    ios = [Io(SDB, op, size, 0, 1 + size) for op, of_op in sizes.items() for size in of_op]
    metrics = Metrics(nameless, expected=[(SDB, op) for op in sizes])
    metrics.add(interval_of(ios, -1, 10**9))
    found = histograms(metrics, "request_size_bytes")
    assert {op: (h.zero_count, native_counts(h)) for (_, op), h in found.items()} == {
        "read": (1, {72: 2, 74: 1, 96: 1}),
        "write": (0, {}),
        "flush": (0, {66: 1}),
        "discard": (0, {72: 3}),
    }


def test_histograms_without_values_are_native() -> None:
    metrics = Metrics(nameless, expected=[(SDB, "read"), (SDB, "write")])
    for name in ("d2c_seconds", "request_size_bytes"):
        for histogram in histograms(metrics, name).values():
            assert (histogram.schema, histogram.sample_count) == (3, 0)
            # Either of these is a sign for Prometheus, depending on its version.
            assert histogram.zero_threshold > 0
            assert [(span.offset, span.length) for span in histogram.positive_span] == [(0, 0)]


def test_number_of_native_buckets_is_bounded() -> None:
    ios = [
        Io(device, op, min(1 << power, 2**32 - 1), 0, 1 << power)
        for device in range(5)
        for op in OPS
        for power in range(58)
    ]
    metrics = Metrics(nameless, max_devices=2)
    metrics.add(interval_of(ios, -1, 2**60))
    for name in ("d2c_seconds", "request_size_bytes"):
        found = histograms(metrics, name)
        assert set(found) == {(device, op) for device in ("0:0", "0:1", "other") for op in OPS}
        assert sum(histogram.sample_count for histogram in found.values()) == len(ios)
        assert max(len(h.positive_delta) for h in found.values()) <= 8 * 64


# -- by HTTP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accept",
    [
        *(PROMETHEUS_2, PROMETHEUS_3, PROTOBUF),
        f"text/plain;q=0.5, {PROTOBUF.replace(';', ' ; ').upper()}",
        'application/vnd.google.protobuf; encoding="delimited"; '
        'proto="io.prometheus.client.MetricFamily"; q=0.2',
        f"{PROTOBUF};q=0.7,*/*;q=0.7",
        f"text/plain;q=much,{PROTOBUF};q=0.1",
    ],
)
def test_protobuf_is_preferred(accept: str) -> None:
    assert protobuf.is_preferred(accept)


@pytest.mark.parametrize(
    "accept",
    [
        *("", "*/*", "text/plain", ",;=,", "application/openmetrics-text;version=1.0.0"),
        PROMETHEUS_3.replace("q=0.6", "q=0.15"),
        *(f"text/plain,{PROTOBUF}", f"{PROTOBUF};q=0.9,*/*", f"{PROTOBUF};q=0"),
        *(f"{PROTOBUF};q=nan", f"{PROTOBUF};q="),
        *(PROTOBUF.replace("delimited", "text"), PROTOBUF.replace("MetricFamily", "Metric")),
        "application/vnd.google.protobuf",
    ],
)
def test_text_is_preferred(accept: str) -> None:
    assert not protobuf.is_preferred(accept)


@given(st.text(), st.lists(st.sampled_from([*',;=q"01. ', PROTOBUF])).map("".join))
def test_any_header_is_understood(text: str, parts: str) -> None:
    assert protobuf.is_preferred(text) is False
    assert protobuf.is_preferred(parts) <= (PROTOBUF in parts)


@pytest.fixture
def server(said: list[str]) -> Iterator[tuple[HttpSink, str]]:
    """A sink, and its URL."""
    sink = HttpSink(("", 0), FormatOptions(nameless), said.append)
    sink.start()
    try:
        yield sink, said[0].removeprefix("metrics are at ")
    finally:
        sink.close()


def get(url: str, **headers: str) -> tuple[bytes, Any]:
    """The answer, and its headers."""
    request = urllib.request.Request(
        url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    with urllib.request.urlopen(request, timeout=runner.TIMEOUT_S) as answer:
        return answer.read(), answer.headers


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_scrapes_that_prefer_protobuf_get_it(coding: str, server: tuple[HttpSink, str]) -> None:
    sink, url = server
    sink.put(interval_of([Io(SDB, "read", 4096, 0, 10**6)], -1, 10**9))
    runner.until(lambda: b'{device="8:16",op="read"} 1.0' in get(url)[0], "the request")
    data, headers = get(url, Accept=PROMETHEUS_3, Accept_Encoding=coding)
    assert headers["Content-Type"] == (
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; "
        "encoding=delimited"
    )
    assert int(headers["Content-Length"]) == len(data)
    assert (headers["Content-Encoding"] == "gzip") == (coding == "gzip")
    data = gzip.decompress(data) if coding == "gzip" else data
    assert data == protobuf.encode(sink._metrics.families())
    assert native_counts(histograms(sink._metrics, "d2c_seconds")["8:16", "read"]) == {-79: 1}


@pytest.mark.parametrize("missing", ["google.protobuf.descriptor_pb2", "google.protobuf.proto"])
def test_scrapes_get_text_without_the_library(
    missing: str, server: tuple[HttpSink, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    protobuf.family_class.cache_clear()
    try:
        data, headers = get(server[1], Accept=PROMETHEUS_2)
    finally:
        protobuf.family_class.cache_clear()
    assert headers["Content-Type"].startswith("application/openmetrics-text;")
    assert data.endswith(b"# EOF\n")


# -- a real Prometheus -----------------------------------------------------------------------------


NATIVE = "--enable-feature=native-histograms"
CONFIG = """
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs: [{job_name: b, static_configs: [{targets: ['%s']}]}]
"""


def test_prometheus_sees_the_first_request_of_a_native_histogram(
    tmp_path: Path, said: list[str]
) -> None:
    options = FormatOptions(nameless, expected=[(SDB, "read")])
    with closing(HttpSink(("", 0), options, said.append)) as sink:
        sink.start()
        address = said[0].removeprefix("metrics are at http://").removesuffix("/metrics")
        with prometheus.serving(tmp_path, CONFIG % address, NATIVE) as server:
            runner.until(lambda: server.ask("blkiomon_d2c_seconds"), "a histogram", pause_s=0.05)
            assert server.value("histogram_count(blkiomon_d2c_seconds)") == 0
            assert server.value('blkiomon_requests_total{device="8:16"}') == 0
            sink.put(interval_of([Io(SDB, "read", 4096, 0, 10**6)], -1, 10**9))
            seen = server.awaited("histogram_count(increase(blkiomon_d2c_seconds[1m]))")
            assert seen > 0.5  # Prometheus extrapolates


def test_prometheus_stores_native_histograms(tmp_path: Path) -> None:
    rng = random.Random(9)
    requests = [(512 << rng.randrange(8), round(rng.lognormvariate(6, 1.2))) for _ in range(4_000)]
    with Running("-I", "0.5", "--openmetrics", "0", "--json", "-").started() as process:
        with prometheus.serving(tmp_path, CONFIG % process.metrics_address(), NATIVE) as server:
            process.write(quirks.pairs((4096, 1)))  # a rate needs a series that was there before
            server.awaited("histogram_count(blkiomon_d2c_seconds) == 1")
            process.write(quirks.pairs(*requests))
            all_of_them = f"== {len(requests) + 1}"
            server.awaited(f"histogram_count(blkiomon_d2c_seconds) {all_of_them}")
            server.awaited(f"blkiomon_requests_total {all_of_them}")
            server.awaited(f"histogram_count(blkiomon_request_size_bytes) {all_of_them}")
            d2c_s = server.awaited("histogram_sum(blkiomon_d2c_seconds)")
            size_bytes = server.awaited("histogram_sum(blkiomon_request_size_bytes)")
            page = (prometheus.CONTRIB.parent / "docs" / "metrics.md").read_text()
            (question,) = re.findall(r"    (sort_desc\(.+blkiomon_d2c_seconds\[5m\].+)", page)
            quantile_s = server.awaited(question)
            rules = (prometheus.CONTRIB / "prometheus-alerts.yml").read_text()
            (alert,) = re.findall(r"DiskLatencyHigh\n +#.+\n +expr: \|\n((?: {10}.+\n)+)", rules)
            assert alert.count("> 0.25") == 2
            alerts_s = server.awaited(alert.replace("> 0.25", "> 0"))
            share = server.awaited("histogram_fraction(0, 4096, blkiomon_request_size_bytes)")
            # As metrics.md says: no series of classic buckets, and 8 of a device and operation.
            assert server.ask('{__name__=~".+_(bucket|count|sum)", device!=""}') == []
            assert server.value('count({device="8:0", op="read"})') == 8
        status, text, _ = process.end()
    assert status == 0
    whole = merge(from_dict(json.loads(line)) for line in text.splitlines()).total
    assert d2c_s == whole.d2c_ns.sum / 1e9
    assert size_bytes == whole.bytes
    assert abs(share * len(requests) - sum(size <= 4096 for size, _ in requests)) <= 1
    # Prometheus interpolates within a bucket; our figure is exact to 0.8 %.
    p99_s = (whole.d2c_ns.percentile(99) or 0) / 1e9
    assert p99_s / 2 ** (1 / 8) / 1.008 < quantile_s < p99_s * 2 ** (1 / 8) * 1.008
    assert math.isclose(alerts_s, quantile_s, rel_tol=1e-6)
