"""Traces of real kernels: what fio, the fault injection or the kernel counted is what we report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import runner

TRACES = Path(__file__).parent / "data" / "kernels"
_ROW = re.compile(r"^\| `([\w.-]+)` \| [^|]+ \| (\w+ \d+(?:, \w+ \d+)*) \|$", re.MULTILINE)
TRUTH = {
    name: {figure: int(n) for figure, n in map(str.split, truth.split(", "))}
    for name, truth in _ROW.findall((TRACES / "README.md").read_text())
}


def files_of(name: str) -> list[Path]:
    """The files of a trace, in the order of their CPUs."""
    return sorted((*TRACES.glob(f"{name}.bin.xz"), *TRACES.glob(f"{name}.blktrace.*.xz")))


def interval_of(name: str) -> dict[str, Any]:
    """The whole trace as one interval; standard error names only padding, and what is missing."""
    result = runner.call("-I", runner.LONG, "--json", "-", *files_of(name))
    (line,) = result.stdout.splitlines()
    interval = json.loads(line)
    assert result.returncode == 0
    padding = rb"(blkiomon: .*: skipped 524256 bytes of zeros, .*\n)?"
    said = re.fullmatch(padding + rb"(blkiomon: incomplete: .*\n)?", result.stderr)
    assert said
    assert bool(said[1]) == name.startswith("zeroes-at-stop")
    assert bool(said[2]) == bool(interval["incomplete"])
    return interval


def figures_of(interval: dict[str, Any]) -> dict[str, int]:
    """Requests of each operation, and all other figures that are not 0."""
    (device,) = interval["devices"]
    total = interval["total"]
    found = {op: group["requests"] for op, group in device["ops"].items()}
    found |= {name: total[name] for name in ("errors", "requeues", "bytes")}
    found |= interval["unseen"] | {"in_flight": total["in_flight"]["end"]}
    return {name: n for name, n in found.items() if n}


def test_every_trace_is_described() -> None:
    described = re.findall(r"^\| `([\w.-]+)` ", (TRACES / "README.md").read_text(), re.MULTILINE)
    present = {path.name.split(".bin")[0].split(".blktrace")[0] for path in TRACES.glob("*.xz")}
    assert sorted(described) == sorted(present)
    assert present - TRUTH.keys() == {"append-6.1", "zeroes-at-stop-7.3"}  # have tests below


@pytest.mark.parametrize("name", TRUTH)
def test_figures_equal_those_of_fio_and_the_kernel(name: str) -> None:
    found = figures_of(interval_of(name))
    if "bytes" not in TRUTH[name]:
        del found["bytes"]
    assert found == TRUTH[name]


def test_time_from_the_first_issue_of_a_retried_read_includes_all_tries() -> None:
    """23 reads took the 24 retries, as one was retried twice."""
    total = interval_of("transport-7.3")["total"]
    assert total["retried"]["count"] == 23
    assert total["retried"]["max_ns"] > total["d2c_ns"]["max"]
    assert total["d2c_ns"]["count"] == 100


def test_unmarked_zone_appends_make_the_interval_incomplete() -> None:
    interval = interval_of("append-6.1")
    reasons = {why["reason"] for why in interval["incomplete"]}
    assert reasons == {"issues_without_completion", "completions_without_issue"}
    assert interval["total"]["requests"] + interval["unseen"]["issues_without_completion"] == 133


def test_zeros_at_the_end_of_blktrace_are_padding() -> None:
    interval = interval_of("zeroes-at-stop-7.3")
    ops = interval["devices"][0]["ops"]
    unseen = interval["unseen"]
    assert interval["records"] == 2459
    assert (ops["read"]["requests"], ops["write"]["requests"]) == (562, 608)
    assert interval["total"]["bytes"] == 60725760 + 68823040
    assert ops["flush"]["requests"] + unseen["issues_without_completion"] == 33
    for what_is_lost in ("lost_events", "sequence_gaps", "skipped_bytes"):
        assert unseen[what_is_lost] == 0
