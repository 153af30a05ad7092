"""Recording rules over many hosts, on two servers and on a third that federates them."""

from __future__ import annotations

import bisect
import json
import random
import shutil
from contextlib import ExitStack
from pathlib import Path

import prometheus
import quirks
import runner
from prometheus import CONTRIB
from runner import Running

from blkiomon.formats.openmetrics import TIME_LIMITS_NS

RULES = "prometheus-fleet-rules.yml"
LEAF = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, external_labels: {{shard: "{shard}"}}}}
rule_files: [{rules}]
scrape_configs: [{{job_name: b, static_configs: [{targets}]}}]
"""


def faster(text: str) -> str:
    """Configuration from contrib/, for a test that does not take minutes."""
    return text.replace("1m", "200ms").replace("[5m]", "[20s]")


def p99_ns(*hosts: list[tuple[int, int]]) -> int:
    """The p99 of the requests of all hosts. Each request is its size and D2C in us."""
    times_ns = sorted(us * 1000 for of_host in hosts for _, us in of_host)
    return times_ns[len(times_ns) * 99 // 100]


def test_rule_for_unseen_adds_up_its_four_counters(tmp_path: Path) -> None:
    """Each of these counters grows by another power of ten, every second."""
    counters = ("lost_events", "sequence_gaps", "evicted", "over_device_limit")
    series = [
        {"series": f'blkiomon_{name}_total{{host_group="db"}}', "values": f"0+{60 * 10**n}x10"}
        for n, name in enumerate(counters)
    ]
    expected = {"labels": '{__name__="host_group:blkiomon_unseen:rate5m",host_group="db"}',
                "value": 1111}  # fmt: skip
    question = {"expr": "host_group:blkiomon_unseen:rate5m", "eval_time": "10m",
                "exp_samples": [expected]}  # fmt: skip
    test = {"rule_files": [str(CONTRIB / RULES)], "evaluation_interval": "1m",
            "tests": [{"interval": "1m", "input_series": series,
                       "promql_expr_test": [question]}]}  # fmt: skip
    (tmp_path / "test.yml").write_text(json.dumps(test))
    prometheus.promtool("test", "rules", str(tmp_path / "test.yml"))


def test_percentiles_of_hosts_on_two_servers_are_of_all_requests(tmp_path: Path) -> None:
    """Three hosts on two servers, two of them of one group; a third server federates both."""
    rng = random.Random(3)
    groups = ["db", "db", "web"]
    requests = [
        [(4096, round(rng.lognormvariate(mean, 0.8))) for _ in range(n)]
        for n, mean in ((4_000, 6.0), (200, 8.0), (4_000, 5.0))
    ]
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(Running("-I", "0.2", "--openmetrics", "0", "--json", "-")).started()
            for _ in groups
        ]
        targets = [
            json.dumps({"targets": [host.metrics_address()],
                        "labels": {"host_group": group, "array": "a1"}})
            for host, group in zip(hosts, groups)
        ]  # fmt: skip
        leaves = []
        for shard, of_shard in enumerate((targets[:1], targets[1:])):
            directory = tmp_path / f"leaf{shard}"
            directory.mkdir()
            (directory / RULES).write_text(faster((CONTRIB / RULES).read_text()))
            config = LEAF.format(shard=shard, rules=RULES, targets=", ".join(of_shard))
            leaves.append(stack.enter_context(prometheus.serving(directory, config)))
        directory = tmp_path / "all"
        directory.mkdir()
        shutil.copy(tmp_path / "leaf0" / RULES, directory)
        federation = faster((CONTRIB / "prometheus-federation.yml").read_text())
        assert '"prometheus-1:9090", "prometheus-2:9090"' in federation
        federation = federation.replace(
            '"prometheus-1:9090", "prometheus-2:9090"', ", ".join(f'"{s.address}"' for s in leaves)
        )
        together = stack.enter_context(prometheus.serving(directory, federation))

        # A rate needs series that were there before: so one request each, then the others.
        for host in hosts:
            host.write(quirks.pairs((4096, 100)))
        for server, n_hosts in zip(leaves, (1, 2)):
            server.awaited(f"sum(blkiomon_requests_total) == {n_hosts}")
        for host, of_host in zip(hosts, requests):
            host.write(quirks.pairs(*of_host))
        for server, n in zip(leaves, (4_001, 4_202)):
            server.awaited(f"sum(blkiomon_requests_total) == {n}")

        question = 'array_host_group_op:blkiomon_d2c_seconds:p99{host_group="db", array="a1"}'
        seen = "count(count by (shard) (array_host_group_op:blkiomon_requests:rate5m > 100)) == 2"
        together.awaited(seen)
        # It lies in another bucket than each host's own p99 and their mean.
        exact_ns = p99_ns(*requests[:2])
        at = bisect.bisect_left(TIME_LIMITS_NS, exact_ns)
        own_ns = [p99_ns(of_host) for of_host in requests[:2]]
        for other_ns in (*own_ns, sum(own_ns) // 2):
            assert bisect.bisect_left(TIME_LIMITS_NS, other_ns) != at

        def agrees() -> bool:
            value = together.value(question)
            return bool(value and TIME_LIMITS_NS[at - 1] <= value * 1e9 <= TIME_LIMITS_NS[at])

        runner.until(agrees, f"p99 to be about {exact_ns} ns", pause_s=0.05)
        assert together.value('sum(host_group:blkiomon_hosts:count{host_group="db"})') == 2
        assert together.value("sum(host_group:blkiomon_unseen:rate5m)") == 0
        assert together.ask("blkiomon_d2c_seconds_bucket") == []  # nothing of single hosts
