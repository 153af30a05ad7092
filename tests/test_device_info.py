"""The metric blkiomon_device_info, and the rules that join other metrics with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import prometheus
import pytest
from intervals import interval_of
from prometheus import CONTRIB
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families
from test_san import changed, load
from test_views import HOST, S, number

from blkiomon.formats import device_info
from blkiomon.formats.device_info import HostInfo, labels_of
from blkiomon.formats.openmetrics import Metrics
from blkiomon.interval.views import View
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.outputs.destinations import open_outputs
from blkiomon.sources.devices import DeviceNames

RULES = CONTRIB / "prometheus-san-rules.yml"

NAMES = {device.number: device.name for device in HOST.devices}


def served(text: str) -> list[dict[str, str]]:
    """The labels of each series of the metric; each has the value 1."""
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = families.get("blkiomon_device_info")
    assert found is None or {sample.value for sample in found.samples} == {1.0}
    return [] if found is None else [dict(sample.labels) for sample in found.samples]


def metrics(max_devices: int = 128) -> Metrics:
    found = Metrics(NAMES.get, max_devices, lambda numbers: labels_of(HOST, numbers))
    devices = ("8:0", "8:16", "253:0", "8:80")
    found.add(interval_of([io for text in devices for io in load(text, 5, 1)], 0, S))
    return found


def test_devices_have_one_series_that_says_where_they_belong() -> None:
    assert served(metrics().text()[0].decode()) == [
        {"device": "dm-0", "wwid": "", "map": "mpatha", "model": "", "array": "one",
         "target_port": "", "hba": ""},
        {"device": "sda", "wwid": "dm-0", "map": "mpatha", "model": "", "array": "one",
         "target_port": "port1", "hba": "wwpn1"},
        {"device": "sdb", "wwid": "dm-0", "map": "mpatha", "model": "", "array": "one",
         "target_port": "port2", "hba": "wwpn2"},
    ]  # fmt: skip


def test_other_series_keep_their_labels_and_values() -> None:
    with_info, without = metrics().text()[0].decode(), Metrics(NAMES.get)
    without.add(interval_of(load("8:0", 5, 1), 0, S))
    assert served(without.text()[0].decode()) == []
    lines = {line for line in without.text()[0].decode().splitlines() if 'device="sda"' in line}
    assert lines and lines <= set(with_info.splitlines())


def test_series_are_bounded_by_max_devices() -> None:
    assert [labels["device"] for labels in served(metrics(max_devices=2).text()[0].decode())] == [
        "sda",
        "sdb",
    ]


def test_openmetrics_is_valid() -> None:
    text, _ = metrics().text("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in strictly(text.decode())}
    assert "blkiomon_device_info" in names


def test_promtool_has_no_complaints() -> None:
    assert prometheus.promtool("check", "metrics", input=metrics().text()[0]) == b""


def test_series_follows_a_path_to_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter((0.0, 5.0, 15.0))
    monkeypatch.setattr("time.monotonic", lambda: next(times_s))
    monkeypatch.setattr(device_info, "read_topology", lambda: HOST)
    monkeypatch.setattr(device_info, "refresh_topology", lambda known: changed(wwid="other"))
    info = HostInfo(DeviceNames())
    wwids = [info([number("8:16")])[number("8:16")][0] for _ in range(3)]
    monkeypatch.undo()
    assert wwids == ["dm-0", "dm-0", "other"]


def test_trace_of_another_host_has_no_info() -> None:
    names = DeviceNames()
    names.is_of_this_host = False
    assert HostInfo(names)([number("8:0")]) == {}


def test_textfile_has_the_info_of_a_named_topology(tmp_path: Path) -> None:
    path = tmp_path / "blkiomon.prom"
    settings = OutputSettings({"textfile": str(path)})
    outputs = open_outputs(settings, print, lossless=True, view=View(HOST, "device"))
    outputs.put(interval_of(load("8:0", 5, 1), 0, S))
    outputs.close()
    assert [labels["target_port"] for labels in served(path.read_text())] == ["port1"]


# --- the rules ------------------------------------------------------------------------------------


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    listed = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{listed}}}", "values": values}


def path_series(device: str, port: str, per_minute: int, le: str, errors: int = 0) -> list[Any]:
    """A path whose reads take up to ``le`` s and more than the bucket below it."""
    limits = ["0.001", "0.01", "0.1", "+Inf"]
    of = {"instance": "db1", "device": device, "op": "read"}
    buckets = [
        series(
            "blkiomon_d2c_seconds_bucket",
            f"0+{per_minute if limits.index(limit) >= limits.index(le) else 0}x20",
            le=limit,
            **of,
        )
        for limit in limits
    ]
    info = series("blkiomon_device_info", "1x20", instance="db1", device=device, array="one",
                  target_port=port, map="mpatha")  # fmt: skip
    return [
        *buckets,
        info,
        series("blkiomon_requests_total", f"0+{per_minute}x20", **of),
        series("blkiomon_errors_total", f"0+{errors}x20", **of),
        series("blkiomon_requeues_total", "0x20", **of),
        series("blkiomon_bytes_total", f"0+{4096 * per_minute}x20", **of),
        series("blkiomon_in_flight", "1x20", **of),
        series("blkiomon_in_flight_oldest_seconds", "0.1x20", **of),
    ]


def check(tmp_path: Path, questions: list[dict[str, Any]], *paths: list[Any]) -> None:
    """Check the answers to questions about these paths with promtool; the rules are loaded."""
    test = {
        "interval": "1m",
        "input_series": [item for path in paths for item in path],
        "promql_expr_test": [{"eval_time": "18m", **question} for question in questions],
    }
    test = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yml").write_text(json.dumps(test))
    prometheus.promtool("test", "rules", str(tmp_path / "test.yml"))


def alerts(tmp_path: Path, expected: dict[str, list[dict[str, str]]], *paths: list[Any]) -> None:
    """Check that exactly these alerts fire after 18 minutes, with these labels."""
    names = ("SanPortSlow", "SanPortFails", "SanPathIdle")
    severity = dict(zip(names, ("warning", "warning", "info")))
    questions = [
        {
            "expr": f'ALERTS{{alertname="{name}",alertstate="firing"}}',
            "exp_samples": [
                {
                    "labels": series(
                        "ALERTS", "", alertname=name, alertstate="firing",
                        severity=severity[name], **labels,
                    )["series"],
                    "value": 1,
                }
                for labels in expected.get(name, [])
            ],
        }
        for name in names
    ]  # fmt: skip
    check(tmp_path, questions, *paths)


def test_promtool_has_no_complaints_about_the_rules() -> None:
    prometheus.promtool("check", "rules", str(RULES))


def test_alert_names_the_slow_port(tmp_path: Path) -> None:
    slow = {"array": "one", "target_port": "port2", "op": "read"}
    alerts(
        tmp_path,
        {"SanPortSlow": [slow]},
        path_series("sda", "port1", 6000, "0.001"),
        path_series("sdb", "port2", 6000, "0.1"),
    )


def test_alert_names_the_failing_port(tmp_path: Path) -> None:
    alerts(
        tmp_path,
        {"SanPortFails": [{"array": "one", "target_port": "port2"}]},
        path_series("sda", "port1", 6000, "0.001"),
        path_series("sdb", "port2", 6000, "0.001", errors=120),
    )


def test_alert_names_the_map_with_an_idle_path(tmp_path: Path) -> None:
    alerts(
        tmp_path,
        {"SanPathIdle": [{"instance": "db1", "map": "mpatha"}]},
        path_series("sda", "port1", 6000, "0.001"),
        path_series("sdb", "port2", 0, "0.001"),
    )


def test_nothing_fires_where_ports_are_alike(tmp_path: Path) -> None:
    alerts(
        tmp_path,
        {},
        path_series("sda", "port1", 6000, "0.001"),
        path_series("sdb", "port2", 5000, "0.001"),
    )


def test_dashboard_shows_arrays_and_ports(tmp_path: Path) -> None:
    """Each panel has a line for each of two ports, or for their array or HBA."""
    dashboard = json.loads((CONTRIB / "grafana-san.json").read_text())
    questions = []
    for panel in dashboard["panels"]:
        (target,) = panel["targets"]
        question = target["expr"].replace("$__rate_interval", "5m")
        question = re.sub(r"\$\w+", ".*", question)
        n = 2 if "{{target_port}}" in target["legendFormat"] else 1
        questions.append(
            {"expr": f"count({question})", "exp_samples": [{"labels": "{}", "value": n}]}
        )
    assert len(questions) == 8
    check(
        tmp_path,
        questions,
        path_series("sda", "port1", 6000, "0.001"),
        path_series("sdb", "port2", 6000, "0.1"),
    )
