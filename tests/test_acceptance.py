"""Real traces against known truth: the load generator's figures, and percentiles of numpy."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import goldenfiles
import numpy as np
import numpy.typing as npt
import pytest
import runner
import streams
from test_sources import split, write_set

import blkiomon
from blkiomon import Distribution, Interval, to_dict
from blkiomon.engine import layout
from blkiomon.interval.distribution import PERCENTILES

REAL = ("loop-multi-dc", "loop-phases-dc", "loop-ext4-all")
ByCpu = tuple[Path, list[tuple[int, int, bytes]]]


def path_of(name: str) -> Path:
    return goldenfiles.TRACES / f"{name}.bin"


# -- phases ----------------------------------------------------------------------------------------


def phases() -> list[dict[str, int]]:
    """Requests of each operation in each second of the trace with phases, by the command."""
    output = runner.succeed("-I", "1", "--json", "-", path_of("loop-phases-dc"))
    found = []
    for line in map(json.loads, output.splitlines()):
        counts = dict.fromkeys(layout.OPS, 0)
        for device in line["devices"]:
            assert device["device"] == "7:1"
            for op, group in device["ops"].items():
                counts[op] += group["requests"]
        assert sum(counts.values()) == line["total"]["requests"]
        found.append(counts)
    return found


def test_phases_show_second_by_second() -> None:
    seconds = phases()
    assert len(seconds) in (19, 20)

    def of(op: str) -> list[int]:
        return [counts[op] for counts in seconds]

    reads, writes, flushes = of("read"), of("write"), of("flush")
    idle = [i for i, counts in enumerate(seconds) if not any(counts.values())]
    assert idle, seconds  # of two idle seconds, at least one interval is within them
    # 4 s of reads alone, 4 s of both, 4 s of writes alone, idle, writes with a flush every 16.
    mixed = [i for i, (r, w) in enumerate(zip(reads, writes)) if r > 3000 and w > 1000]
    assert len(mixed) >= 3
    # The load generator counts a request in the phase that issued it; phases begin inside a second.
    assert sum(reads) == 8_001 + 16_000
    assert sum(writes) == 6_800 + 3_200 + 6_000
    assert sum(flushes) == 375
    assert all(n == 0 for op in ("discard", "write_zeroes", "zone", "other") for n in of(op))
    assert not any(flushes[: idle[0]])
    assert sum(writes[: idle[0]]) == 6_800 + 3_200
    assert sum(writes[idle[-1] + 1 :]) == 6_000
    assert not any(reads[idle[0] :])


def test_requests_of_each_phase_are_found_by_their_size() -> None:
    found = blkiomon.requests(path_of("loop-phases-dc"))
    read, write, flush = (found["op"] == layout.OPS.index(op) for op in ("read", "write", "flush"))
    counts = {
        (op, size): int((mask & (found["bytes"] == size)).sum())
        for op, mask in (("read", read), ("write", write))
        for size in (4096, 8192, 262144)
    }
    assert counts["read", 8192] == 16_000
    assert counts["write", 8192] == 6_800
    assert counts["write", 262144] == 3_200
    assert counts["write", 4096] == 6_000
    assert int(read.sum()) - counts["read", 8192] == 8_001
    assert int(flush.sum()) == 375
    assert int(found["bytes"][flush].sum()) == 0


def test_operations_are_those_that_the_load_generator_did() -> None:
    whole = blkiomon.summarize(path_of("loop-multi-dc"))
    counts = {(g.device, g.op): g.requests for g in whole.groups()}
    first, second, third = (7 << 20 | n for n in (1, 2, 3))
    assert counts[first, "read"] == 28_110
    assert (counts[first, "write"], counts[second, "write"]) == (12_038, 5_897)
    assert counts[third, "discard"] == 1_500
    assert sum(n for (_, op), n in counts.items() if op == "flush") == 92
    assert whole.total.requests == 28_110 + 17_935 + 1_500 + 92


# -- per-CPU files ---------------------------------------------------------------------------------


def in_order(records: Sequence[tuple[int, int, bytes]]) -> bytes:
    """One stream by time, of equal times the lower CPU first."""
    return b"".join(raw for _, _, raw in sorted(records, key=lambda r: r[:2]))


def json_lines(*arguments: str | Path) -> bytes:
    result = runner.call("-I", "1", "--json", "-", *arguments)
    assert result.returncode == 0
    return result.stdout


@pytest.fixture(scope="module", params=REAL)
def name(request: pytest.FixtureRequest) -> str:
    """The name of a real trace. Tests that read it split by CPU share these files."""
    return str(request.param)


@pytest.fixture(scope="module")
def by_cpu(name: str, tmp_path_factory: pytest.TempPathFactory) -> ByCpu:
    """A directory with its files, each of one CPU, and its records: time, CPU and bytes."""
    path = tmp_path_factory.mktemp(name)
    return path, write_set(path, "sda", path_of(name).read_bytes())


def test_trace_split_by_cpu_prints_the_same_as_the_merged_one(name: str, by_cpu: ByCpu) -> None:
    directory, _ = by_cpu
    assert len(list(directory.iterdir())) == 2
    assert json_lines(directory / "sda") == json_lines(path_of(name))


def test_trace_split_by_cpu_reports_losses_in_the_same_intervals(tmp_path: Path) -> None:
    data = path_of("loop-lossy-dc").read_bytes()
    merged, files = b"", {0: b"", 1: b""}
    for piece in re.split(rb"(?=CPU:\d \[LOST \d+ EVENTS\]\n)", data):
        mark, end, records = piece.rpartition(b"EVENTS]\n")
        records = records[: len(records) // 48 * 48]  # the file ends inside a record
        merged += mark + end + records
        if mark:
            files[int(mark[4:5])] += mark + end
        for _, cpu, raw in split(records):
            files[cpu] += raw
    (tmp_path / "merged").write_bytes(merged)
    for cpu, part in files.items():
        (tmp_path / f"sda.blktrace.{cpu}").write_bytes(part)

    def losses(source: Path) -> list[int]:
        return [interval.counts.lost_events for interval in blkiomon.intervals(source, 0.01)]

    assert losses(tmp_path / "sda") == losses(tmp_path / "merged")
    assert json_lines(tmp_path / "sda") == json_lines(tmp_path / "merged")
    assert len(set(losses(tmp_path / "sda"))) > 3


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_cpu_costs_that_cpus_records_only(
    missing: int, by_cpu: ByCpu, tmp_path: Path
) -> None:
    directory, records = by_cpu
    rest = f"sda.blktrace.{1 - missing}"
    (tmp_path / rest).symlink_to(directory / rest)
    kept = tmp_path / "kept"
    kept.write_bytes(in_order([r for r in records if r[1] != missing]))
    found = [json.loads(line) for line in json_lines(tmp_path / "sda").splitlines()]
    of_kept = [json.loads(line) for line in json_lines(kept).splitlines()]
    by_engine = [to_dict(i) for i in blkiomon.intervals(kept.read_bytes(), 1.0)]
    assert of_kept == by_engine
    for line, other in zip(found, of_kept, strict=True):
        # A file without its number is missing only where there is one with a greater number.
        is_missing = {"reason": "missing_files", "count": 1, "share": None}
        assert line.pop("incomplete") == [is_missing] * (missing == 0) + other.pop("incomplete")
    assert found == of_kept


# -- percentiles against numpy ---------------------------------------------------------------------


def exact(values: npt.NDArray[Any], percent: float) -> int:
    """numpy's percentile by the nearest rank, which it works out in floating point.

    Where that is rounded past a whole rank (99.9 % of 100,000), it is the one before.
    """
    rank = math.ceil(Fraction(str(percent)) / 100 * len(values))
    place = np.partition(values, rank - 1)[rank - 1]
    by_numpy = np.percentile(values, percent, method="inverted_cdf")
    if by_numpy != place:
        percent = np.nextafter(percent, 0) - 1e-9
        by_numpy = np.percentile(values, percent, method="inverted_cdf")
    assert by_numpy == place
    return int(by_numpy)


def assert_close(ours: Distribution, values: npt.NDArray[Any]) -> None:
    """All figures of a distribution are those of the values, percentiles within 1 %."""
    assert ours.count == len(values)
    assert ours.sum == sum(values.tolist())
    if not len(values):
        assert ours.percentile(50) is None
        return
    assert (ours.min, ours.max) == (int(values.min()), int(values.max()))
    for percent in (*PERCENTILES, 1, 25, 75, 100):
        true, found = exact(values, percent), ours.percentile(percent)
        assert found is not None
        assert abs(found - true) <= 0.01 * true, (percent, found, true)
    as_float = values.astype(np.float64)
    assert ours.mean == pytest.approx(as_float.mean(), rel=1e-9)
    if as_float.std() > 1e-6 * as_float.mean():
        assert ours.stddev == pytest.approx(as_float.std(), rel=1e-6)


def assert_all_close(whole: Interval, found: npt.NDArray[np.void]) -> None:
    for group in whole.groups():
        mask = np.ones(len(found), bool)
        if group.device is not None:
            mask &= found["device"] == group.device
        if group.op is not None:
            mask &= found["op"] == layout.OPS.index(group.op)
        of_group = found[mask]
        d2c_ns = of_group["d2c_ns"].astype("u8")
        assert_close(group.d2c_ns, d2c_ns)
        assert_close(group.size_bytes, of_group["bytes"].astype("u8"))
        is_queued = ~np.isnan(of_group["q2d_ns"])
        if group.q2d_ns is None or group.q2c_ns is None:
            assert not is_queued.any()
        else:
            q2d_ns = of_group["q2d_ns"][is_queued].astype("u8")
            assert_close(group.q2d_ns, q2d_ns)
            assert_close(group.q2c_ns, q2d_ns + d2c_ns[is_queued])
        assert group.errors == int((of_group["error"] != 0).sum())


@pytest.mark.parametrize("name", REAL)
def test_percentiles_of_a_real_trace_are_close_to_those_of_numpy(name: str) -> None:
    source = path_of(name)
    assert_all_close(blkiomon.summarize(source), blkiomon.requests(source))


@pytest.mark.parametrize("seed", range(12))
def test_percentiles_of_a_generated_trace_are_close_to_those_of_numpy(seed: int) -> None:
    data = streams.generate(seed, "nothing", 300).data
    assert_all_close(blkiomon.summarize(data), blkiomon.requests(data))


DRAWS: dict[str, Callable[[np.random.Generator, int], npt.NDArray[Any]]] = {
    "lognormal": lambda rng, n: rng.lognormal(12, 2, n),
    "uniform": lambda rng, n: rng.uniform(1, 1e9, n),
    "two_modes": lambda rng, n: np.where(rng.random(n) < 0.95, 80_000, 9e6) + rng.normal(0, 999, n),
    "constant": lambda rng, n: np.full(n, 123_457),
    "pareto": lambda rng, n: 1000 * (1 + rng.pareto(0.8, n)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_percentiles_of_many_requests_are_close_to_those_of_numpy(name: str) -> None:
    rng = np.random.default_rng(7)
    n = 100_000
    d2c = np.clip(DRAWS[name](rng, n), 1, 1e15).astype("u8")
    at = np.arange(n)
    issues = streams.issues(n, time=1000 * at, sector=8 * at, bytes=rng.integers(1, 1 << 20, n))
    data = streams.by_time(issues, streams.completions(issues, d2c)).tobytes()
    options: dict[str, Any] = {"max_age_s": 1e9}
    found = blkiomon.requests(data, **options)
    assert np.array_equal(np.sort(found["d2c_ns"]), np.sort(d2c))
    assert_all_close(blkiomon.summarize(data, **options), found)


# -- the drop-in's own figures ---------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_totals_equal_those_of_the_device_statistics(name: str) -> None:
    whole = blkiomon.summarize(path_of(name))
    for stats in whole.device_stats():
        group = whole.device(stats.device)
        assert group is not None
        reads, writes = stats.size_r, stats.size_w
        assert group.requests == reads.count + writes.count + stats.bidir
        assert group.requests == sum(stats.size_hist) == sum(stats.d2c_hist)
        assert group.requests == sum(op.requests for op in whole.ops(stats.device))
        if not stats.bidir:
            assert group.bytes == reads.sum + writes.sum
            assert group.size_bytes.max == max(reads.max, writes.max)
            # device_stats() has whole microseconds, cut off for each request.
            shorter = stats.d2c_r.sum + stats.d2c_w.sum
            assert 0 <= group.d2c_ns.sum - 1000 * shorter < 1000 * group.requests
    assert whole.total.requests == whole.counts.requests


# -- merging ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("interval_s", [0.05, 0.37, 1.0])
def test_merged_intervals_equal_one_long_interval(name: str, interval_s: float) -> None:
    merged = blkiomon.merge(blkiomon.intervals(path_of(name), interval_s))
    whole = blkiomon.summarize(path_of(name))
    assert to_dict(merged) == to_dict(whole)
    assert merged.device_stats() == whole.device_stats()
