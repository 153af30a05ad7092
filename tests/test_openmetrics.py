"""Metrics: figures, HTTP server, text file, and a real Prometheus."""

from __future__ import annotations

import bisect
import gzip
import itertools
import json
import math
import random
import re
import resource
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import prometheus
import pytest
import quirks
import runner
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus import CONTRIB
from prometheus_client.exposition import floatToGoString
from prometheus_client.parser import text_string_to_metric_families
from quirks import ONE
from runner import LONG, Running
from tracewriter import WRITE, complete, encode, issue, lost_mark

from blkiomon import from_dict
from blkiomon.commands import cli
from blkiomon.commands.config import Config
from blkiomon.commands.options import UsageError
from blkiomon.engine.layout import OPS
from blkiomon.errors import OutputError
from blkiomon.formats.openmetrics import MAX_DEVICES, SIZE_LIMITS, TIME_LIMITS_NS, Metrics
from blkiomon.formats.rendering import FormatOptions
from blkiomon.interval.monitor import Monitor
from blkiomon.interval.value import Interval, merge
from blkiomon.outputs import metrics
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.outputs.destinations import open_outputs
from blkiomon.outputs.metrics import MAX_CLIENTS, HttpSink, TextfileSink
from blkiomon.sources.devices import nameless

Samples = dict[tuple[str, ...], float]


def interval_of(data: bytes) -> Interval:
    monitor = Monitor()
    monitor.feed(data)
    (interval,) = monitor.finish()
    return interval


def samples(text: bytes | str) -> Samples:
    """Each sample by its name and the values of its labels, in the order of their names."""
    text = text if isinstance(text, str) else text.decode()
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def await_records(read: Callable[[], str], number: int) -> None:
    """Waits until the metrics count that many records."""
    runner.until(lambda: samples(read())["blkiomon_records_total",] == number, f"{number} records")


def no_report(text: str) -> None:
    raise AssertionError(text)


def metrics_of(*streams: bytes, **options: Any) -> Samples:
    metrics = Metrics(nameless, **options)
    for data in streams:
        metrics.add(interval_of(data))
    return samples(metrics.text()[0])


# -- what they count -------------------------------------------------------------------------------


def test_buckets_count_the_values_up_to_their_limit() -> None:
    rng = random.Random(5)
    values = [round(10 ** rng.uniform(3, 11.5)) for _ in range(3000)]
    records = []
    for sector, value in enumerate(values):
        records += [issue(sector, sector, 4096), complete(sector + value, sector, 4096)]
    found = metrics_of(encode(records))
    values.sort()
    name = "blkiomon_d2c_seconds"
    for limit in TIME_LIMITS_NS:
        count = found[f"{name}_bucket", "8:0", f"{limit / 1e9}", "read"]
        # As the module says: those within 1/128 of the limit may be on either side.
        assert bisect.bisect(values, limit * (1 - 1 / 128)) <= count
        assert count <= bisect.bisect(values, limit * (1 + 1 / 128))
    assert found[f"{name}_bucket", "8:0", "+Inf", "read"] == len(values)
    assert found[f"{name}_count", "8:0", "read"] == len(values)
    assert math.isclose(found[f"{name}_sum", "8:0", "read"], sum(values) / 1e9)


@pytest.mark.parametrize("size", SIZE_LIMITS)
def test_bucket_limits_of_sizes_are_inclusive(size: int) -> None:
    found = metrics_of(quirks.pairs((size, 1), (size - 1, 1), (size + size // 32, 1)))
    name = "blkiomon_request_size_bytes"
    assert found[f"{name}_bucket", "8:0", floatToGoString(size), "read"] == 2
    assert found[f"{name}_sum", "8:0", "read"] == 3 * size - 1 + size // 32


def test_counters_add_up_and_gauges_are_those_of_the_last_interval() -> None:
    pending = encode([issue(10**9, 900, 4096, WRITE), issue(3 * 10**9, 901, 512, WRITE)])
    failed = encode([issue(1, 1, 512), complete(2, 1, 512, error=5)])
    found = metrics_of(ONE + lost_mark(0, 7), failed + pending)
    assert found["blkiomon_requests_total", "8:0", "read"] == 2
    assert found["blkiomon_bytes_total", "8:0", "read"] == 4096 + 512
    assert found["blkiomon_errors_total", "8:0", "read"] == 1
    assert found["blkiomon_in_flight", "8:0", "write"] == 2
    assert found["blkiomon_in_flight_oldest_seconds", "8:0", "write"] == 2
    assert found["blkiomon_lost_events_total",] == 7
    assert found["blkiomon_records_total",] == 6
    for name in ("sequence_gaps", "completions_without_issue", "evicted", "skipped_bytes"):
        assert found[f"blkiomon_{name}_total",] == 0
    later = metrics_of(pending, ONE)
    assert later["blkiomon_in_flight", "8:0", "write"] == 0
    assert later["blkiomon_in_flight_oldest_seconds", "8:0", "write"] == 0


def test_number_of_series_is_bounded() -> None:
    def on(*devices: int) -> bytes:
        pairs = [(issue(d, d, 512, device=d), complete(d + 9, d, 512, device=d)) for d in devices]
        return encode([record for pair in pairs for record in pair])

    found = metrics_of(on(3, 4), on(1, 2, 3, 4), max_devices=2)
    counts = {key[1]: n for key, n in found.items() if key[0] == "blkiomon_requests_total"}
    assert counts == {"0:3": 2, "0:4": 2, "other": 2}


def test_number_of_series_is_the_documented_one() -> None:
    monitor = Monitor(clock="wall")
    monitor.feed(ONE)
    metrics = Metrics(nameless)
    metrics.add(monitor.cut(0, 10**9))
    of_a_host = [key for key in samples(metrics.text()[0]) if len(key) == 1]
    n_of_each = len(samples(metrics.text()[0])) - len(of_a_host)
    said = (CONTRIB.parent / "docs" / "metrics.md").read_text()
    words = {10: "ten"}[len(of_a_host)]
    assert f"{n_of_each} series for each device and operation, and {words} of the host" in said
    for n in (1, 10, MAX_DEVICES, MAX_DEVICES + 1):
        assert f" {2 * n * n_of_each + len(of_a_host):,} |" in said
    most = (MAX_DEVICES + 1) * len(OPS) * n_of_each + len(of_a_host)
    assert f"{MAX_DEVICES + 1} devices of seven operations, {most:,} series" in said


def test_no_device_metrics_before_the_first_interval() -> None:
    found = samples(Metrics(nameless).text()[0])
    assert found["blkiomon_records_total",] == 0
    assert not any(key[1:] for key in found)


def test_series_of_expected_devices_exist_from_the_start() -> None:
    eight, nine = 8 << 20, 9 << 20
    metrics = Metrics(nameless, expected=[(eight, "read"), (eight, "write"), (nine, "read")])
    before = samples(metrics.text()[0])
    assert {key[1:] for key in before if key[0] == "blkiomon_requests_total"} == {
        *(("8:0", "read"), ("8:0", "write"), ("9:0", "read"))
    }
    assert not any(before.values())
    metrics.add(interval_of(ONE))
    after = samples(metrics.text()[0])
    assert after["blkiomon_requests_total", "8:0", "read"] == 1
    assert {*before} <= {*after}
    assert after["blkiomon_d2c_seconds_count", "9:0", "read"] == 0


def test_promtool_has_no_complaints() -> None:
    metrics = Metrics(nameless)
    for data in (b"", ONE):
        metrics.add(interval_of(data))
        assert prometheus.promtool("check", "metrics", input=metrics.text()[0]) == b""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("rules", "prometheus-alerts.yml"), ("rules", "prometheus-fleet-rules.yml")),
        *(("config", "prometheus-fleet.yml"), ("config", "prometheus-federation.yml")),
    ],
)
def test_promtool_has_no_complaints_about_our_files(kind: str, name: str) -> None:
    prometheus.promtool("check", kind, str(CONTRIB / name))


def test_every_alert_fires_and_only_when_it_should() -> None:
    rules = Path(__file__).with_name("prometheus-alerts-test.yml")
    prometheus.promtool("test", "rules", str(rules))
    alerts = re.findall(r"- alert: (\w+)", (CONTRIB / "prometheus-alerts.yml").read_text())
    assert len(alerts) > 5
    fired = re.findall(r"alertname: (\w+)\n +exp_alerts:", rules.read_text())
    assert set(fired) == set(alerts)


@pytest.mark.parametrize(
    "name", ["grafana-dashboard.json", "prometheus-alerts.yml", "prometheus-fleet-rules.yml"]
)
def test_metrics_that_rules_and_dashboard_use_exist(name: str) -> None:
    incomplete = metrics_of(encode([complete(10**9, 8, 4096)]))
    served = {key[0] for key in (*metrics_of(ONE), *incomplete)}
    # Neither is in these texts: the first needs the time of day, the second is a native histogram.
    served |= {"blkiomon_last_interval_timestamp_seconds", "blkiomon_d2c_seconds"}
    asked = set(re.findall(r"(?<![\w:])blkiomon_(?!fleet)\w+", (CONTRIB / name).read_text()))
    assert len(asked) > 5
    assert asked <= served


def test_limits_below_a_millisecond_are_at_most_29_percent_apart() -> None:
    fine = [limit for limit in TIME_LIMITS_NS if limit <= 10**6]
    assert fine[0] == 10_000 and fine[-1] == 10**6
    assert all(after <= 1.29 * before for before, after in itertools.pairwise(fine))
    assert len(TIME_LIMITS_NS) == 36  # each is a series of each device and operation


# -- by HTTP ---------------------------------------------------------------------------------------


def get(address: str, **headers: str) -> tuple[str, str]:
    """The text, and its content type."""
    with urllib.request.urlopen(
        urllib.request.Request(f"http://{address}", headers=headers), timeout=runner.TIMEOUT_S
    ) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


@pytest.fixture
def server(said: list[str]) -> Iterator[tuple[HttpSink, str]]:
    """A sink, and where it listens."""
    sink = HttpSink(("", 0), FormatOptions(nameless), said.append)
    sink.start()
    try:
        found = re.fullmatch(r"metrics are at http://(127\.0\.0\.1:\d+)/metrics", said[0])
        assert found
        yield sink, found[1]
    finally:
        sink.close()


def test_scrapes_get_the_metrics(server: tuple[HttpSink, str]) -> None:
    sink, address = server
    assert samples(get(f"{address}/metrics")[0])["blkiomon_records_total",] == 0
    for number in (1, 2):
        sink.put(interval_of(ONE))
        await_records(lambda: get(f"{address}/metrics")[0], 2 * number)
    text, content_type = get(f"{address}/metrics", Accept="application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text;")
    assert text.endswith("# EOF\n")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{address}/else")


@pytest.mark.parametrize(
    ("accepted", "encoding"), [("gzip, deflate", "gzip"), ("deflate", None), ("", None)]
)
def test_scrapes_are_packed_for_those_who_ask(
    accepted: str, encoding: str | None, server: tuple[HttpSink, str]
) -> None:
    sink, address = server
    sink.put(interval_of(ONE))
    await_records(lambda: get(f"{address}/metrics")[0], 2)
    request = urllib.request.Request(
        f"http://{address}/metrics", headers={"Accept-Encoding": accepted}
    )
    with urllib.request.urlopen(request, timeout=runner.TIMEOUT_S) as answer:
        data = answer.read()
    assert answer.headers["Content-Encoding"] == encoding
    plain = get(f"{address}/metrics")[0].encode()
    assert (gzip.decompress(data) if encoding else data) == plain
    assert int(answer.headers["Content-Length"]) == len(data)
    assert encoding is None or len(data) < len(plain) / 5


def test_health_probe_gets_the_head_alone(server: tuple[HttpSink, str]) -> None:
    _, address = server
    url = f"http://{address}/metrics"
    probe = urllib.request.Request(url, method="HEAD")
    with (
        urllib.request.urlopen(probe, timeout=runner.TIMEOUT_S) as answer,
        urllib.request.urlopen(url, timeout=runner.TIMEOUT_S) as whole,
    ):
        assert (answer.status, answer.read()) == (200, b"")
        for name in ("Content-Type", "Content-Length"):
            assert answer.headers[name] == whole.headers[name]
    probe = urllib.request.Request(f"http://{address}/else", method="HEAD")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(probe, timeout=runner.TIMEOUT_S)


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=runner.TIMEOUT_S)


def test_slow_clients_do_not_delay_others(server: tuple[HttpSink, str]) -> None:
    sink, address = server
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(address)).sendall(b"GET /metrics HT")
        start_s = time.monotonic()
        sink.put(interval_of(ONE))
        get(f"{address}/metrics")
        sink.close()
        assert time.monotonic() - start_s < 5
        assert not sink.dropped_intervals


def is_left(client: socket.socket) -> bool:
    """Whether the server has ended a connection on which it has said nothing."""
    client.settimeout(0)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_oldest_connection_makes_room_for_the_newest(server: tuple[HttpSink, str]) -> None:
    _, address = server
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(3 * MAX_CLIENTS)]
        newest, others = clients[-MAX_CLIENTS:], clients[:-MAX_CLIENTS]
        runner.until(lambda: all(map(is_left, others)), "the oldest to be left")
        for client in newest:  # slow, but still connected
            client.settimeout(runner.TIMEOUT_S)
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.0 200"


def test_request_that_comes_byte_by_byte_is_cut_off(
    server: tuple[HttpSink, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "REQUEST_S", 0.3)
    with connect(server[1]) as client:
        client.settimeout(0.02)

        def is_cut_off() -> bool:
            try:
                client.sendall(b"G")
                return client.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        runner.until(is_cut_off, "it to be cut off", 5)


def test_client_that_does_not_read_is_cut_off(
    server: tuple[HttpSink, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, address = server
    size = 64 << 20  # more than is kept for a connection
    monkeypatch.setattr(metrics, "REQUEST_S", 0.3)
    monkeypatch.setattr(sink._metrics, "text", lambda accept: (bytes(size), "text/plain"))
    with connect(address) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.0 200"
        runner.until(lambda: not clients_of(sink), "it to be cut off", 5)


def clients_of(sink: HttpSink) -> int:
    return len(sink._server.connections)


def test_client_in_time_gets_the_whole_answer(server: tuple[HttpSink, str]) -> None:
    sink, address = server
    with connect(address) as client:
        for byte in b"GET /metrics HTTP/1.0\r\n\r\n":
            client.sendall(bytes([byte]))
        text = b""
        while piece := client.recv(1 << 16):
            text += piece
    assert b"blkiomon_records_total" in text
    runner.until(lambda: not clients_of(sink), "it to be left")


@pytest.mark.parametrize("limit", [1024, 56])
def test_many_connections_leave_descriptors_for_outputs(limit: int, tmp_path: Path) -> None:
    """At least as many connections as descriptors; none of them completes its request."""
    json_lines, prom = tmp_path / "out.json", tmp_path / "out.prom"
    options = ("--openmetrics", "0", "--json", json_lines, "--textfile", prom)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(1100, hard - 100)
    command = ["prlimit", f"--nofile={limit}:{limit}", *runner.COMMAND]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ExitStack() as stack:
            process = stack.enter_context(Running("-I", "0.05", *options, command=command))
            address = process.started().metrics_address()
            for _ in range(number):
                stack.enter_context(connect(address)).sendall(b"GET /met")
            json_lines.rename(tmp_path / "old.json")
            process.signal(signal.SIGHUP)
            runner.until(json_lines.exists, "the file to be reopened")
            process.write(ONE)
            await_records(prom.read_text, 2)
            assert samples(get(f"{address}/metrics")[0])["blkiomon_records_total",] == 2
            status, _, complaints = process.end()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (status, complaints.count("\n")) == (0, 1)  # where metrics are
    assert b'"requests":1,' in json_lines.read_bytes()


def test_too_few_descriptors_for_any_connection_is_reported() -> None:
    command = ("prlimit", "--nofile=36:36", *runner.COMMAND)
    result = runner.run("-I", LONG, "--openmetrics", "0", command=command, stdin=ONE)
    assert (result.returncode, result.stdout) == (4, b"")
    assert result.stderr.decode() == (
        "blkiomon: could not listen on 127.0.0.1:0: the limit of 36 open files leaves none "
        "for connections: see ulimit -n\n"
    )


def test_metrics_listen_on_loopback_unless_a_host_is_given() -> None:
    for value, shown in (("0", "0100007F"), ("0.0.0.0:0", "00000000")):
        config = cli.parse(["-I", "1", "--openmetrics", value])
        assert isinstance(config, Config)
        said: list[str] = []
        with closing(open_outputs(config.outputs, said.append)):
            port = int(said[0].rpartition("/metrics")[0].rpartition(":")[2])
            table = Path("/proc/net/tcp").read_text().splitlines()[1:]
            listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
            assert [a for a in listening if a.endswith(f":{port:04X}")] == [f"{shown}:{port:04X}"]


def test_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        complaint = f"could not listen on 127.0.0.1:{port}: Address already in use"
        runner.assert_fails(4, complaint, "-I", "1", "--openmetrics", str(port))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9100", ("", 9100)),
        ("0.0.0.0:9100", ("0.0.0.0", 9100)),
        ("[::1]:80", ("::1", 80)),
        ("monitor:0", ("monitor", 0)),
    ],
)
def test_address_is_parsed(text: str, address: tuple[str, int]) -> None:
    config = cli.parse(["-I", "1", "--openmetrics", text])
    assert isinstance(config, Config)
    assert config.outputs.destinations == {"openmetrics": address}


@pytest.mark.parametrize("text", ["", "x", ":80", "::1:80", "65536", "-1", "host:", "[]:80"])
def test_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--openmetrics takes PORT, HOST:PORT"):
        cli.parse(["-I", "1", "--openmetrics", text])


@pytest.mark.parametrize("wanted", [{"openmetrics": ("", 0)}, {"textfile": "file"}])
def test_missing_library_is_named(
    wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(OutputError, match=r"pip install 'blkiomon\[metrics\]'"):
        open_outputs(OutputSettings(destinations=wanted), no_report)


# -- in a file -------------------------------------------------------------------------------------


def test_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "blkiomon.prom"
    with Running("-I", "0.05", "--textfile", path).started() as process:
        old = path.open()
        for number in range(1, 6):
            process.write(ONE)
            await_records(path.read_text, 2 * number)
        with old:
            assert samples(old.read())["blkiomon_records_total",] == 0
        process.write(ONE)
        assert process.succeed() == b""
    assert samples(path.read_text())["blkiomon_requests_total", "8:0", "read"] == 6
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_textfile_is_reported(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "nowhere/file", "No such file or directory"),
        (tmp_path, "it is not a regular file"),
    ):
        complaint = f"could not write to {path}: {reason}"
        runner.assert_fails(4, complaint, "-I", "1", "--textfile", path, stdin=ONE)


def test_textfile_continues_when_its_directory_returns(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "textfiles" / "file.prom"
    path.parent.mkdir()
    sink = TextfileSink(str(path), FormatOptions(nameless), said.append)
    sink.start()
    shutil.rmtree(path.parent)
    sink.put(interval_of(ONE))
    runner.until(lambda: said, "a complaint")
    path.parent.mkdir()
    sink.put(interval_of(ONE))
    sink.close()
    assert len(said) == 1 and "No such file or directory (the next attempt" in said[0]
    assert samples(path.read_text())["blkiomon_records_total",] == 4  # nothing is missing


# -- dashboards ------------------------------------------------------------------------------------

DASHBOARDS = ["grafana-dashboard.json", "grafana-fleet.json", "grafana-san.json"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_have_only_fields_that_grafana_knows(name: str) -> None:
    """Grafana ignores a misspelt field; its own classes drop it."""
    register_default_plugins()
    text = (CONTRIB / name).read_text()
    assert through_grafana(text) == json.loads(text)
    misspelt = text.replace('"displayMode"', '"displaymode"')
    assert misspelt != text and through_grafana(misspelt) != json.loads(misspelt)


def through_grafana(text: str) -> dict[str, Any]:
    """The fields of a dashboard that Grafana knows."""
    encoded = json.dumps(Dashboard.from_json(json.loads(text)), cls=JSONEncoder)
    known: dict[str, Any] = json.loads(encoded)
    return kept(known, json.loads(text))


def kept(known: Any, given: Any) -> Any:
    """What is known, without the defaults of fields that were not given."""
    if isinstance(given, dict):
        return {key: kept(known[key], value) for key, value in given.items() if key in known}
    if isinstance(given, list):
        return [kept(*both) for both in zip(known, given, strict=True)]
    return known


# -- a real Prometheus -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", DASHBOARDS)
def test_queries_of_dashboards_are_valid_promql(name: str, tmp_path: Path) -> None:
    dashboard = json.loads((CONTRIB / name).read_text())
    questions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert len(questions) >= 8
    with prometheus.serving(tmp_path, "{}") as server:
        for question in questions:
            for variable in re.findall(r"\$\w+", question):
                question = question.replace(variable, "5m" if "interval" in variable else ".*")
            runner.until(lambda of=question: server.ask(of) == [], question)  # type: ignore[misc]


def test_quantile_agrees_with_our_percentile(tmp_path: Path) -> None:
    rng = random.Random(9)
    requests = [(4096, round(rng.lognormvariate(6, 1.2))) for _ in range(4_000)]
    config = """
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs: [{job_name: b, static_configs: [{targets: ['%s']}]}]
"""
    question = (
        "histogram_quantile(0.99, sum by (le) (blkiomon_d2c_seconds_bucket)) "
        f"and on () (sum(blkiomon_requests_total) == {len(requests)})"
    )
    with Running("-I", "0.5", "--openmetrics", "0", "--json", "-").started() as process:
        with prometheus.serving(tmp_path, config % process.metrics_address()) as server:
            process.write(quirks.pairs(*requests))
            quantile = server.awaited(question)
        status, text, _ = process.end()
    assert status == 0
    # A busy machine may see them in more than one interval.
    whole = merge(from_dict(json.loads(line)) for line in text.splitlines())
    assert whole.total.requests == len(requests)
    # Prometheus interpolates within a bucket; our figure is exact to 0.8 %.
    at = bisect.bisect_left(TIME_LIMITS_NS, whole.percentile(99) or 0)
    assert TIME_LIMITS_NS[at - 1] <= quantile * 1e9 <= TIME_LIMITS_NS[at]
