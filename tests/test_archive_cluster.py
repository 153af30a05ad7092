"""Archives with a real scheduler and two real workers: on the loopback, and one of them is killed.

The same traces are read by this process alone before, and every figure is held against that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forked
import numpy as np
import pyarrow.parquet as pq
import pytest
from runner import until

import blkiomon
from blkiomon import layout
from blkiomon.archive.options import Options
from blkiomon.archive.summary import Gathered
from blkiomon.archive.traces import find
from blkiomon.archive.work import archive

DATA = Path(__file__).parent / "data"
HOSTS = 10
INTERVAL_S = 0.2


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A trace of each host, two of them damaged."""
    root = tmp_path / "traces"
    phases, multi = ((DATA / f"loop-{n}-dc.bin").read_bytes() for n in ("phases", "multi"))
    for number in range(HOSTS):
        (root / f"h{number}").mkdir(parents=True)
        data = (phases if number % 2 else multi)[: 48 * (30_000 + 1000 * number)]
        if number in (4, 7):
            data = data[:-5]
        (root / f"h{number}" / "sda.bin").write_bytes(data)
    return root


class Cluster:
    """A scheduler and two workers, each a process of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "scheduler.json"
        self.processes: list[forked.Process] = []
        self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show")
        self.address: str = until(self._found, "the scheduler")
        for name in ("one", "two"):
            self._start(
                *("dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "1"),
                *("--no-nanny", "--name", name, "--local-directory", str(directory)),
            )

    @property
    def workers(self) -> list[forked.Process]:
        return self.processes[1:]

    def _found(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(self._file.read_text())["address"])
        return ""

    def _start(self, module: str, *arguments: str) -> None:
        where = ["--scheduler-file", str(self._file)] if module == "dask_scheduler" else []
        command = ["--no-dashboard", *where, *arguments]
        what = (f"distributed.cli.{module}", "archive")
        with (self._directory / f"{len(self.processes)}.log").open("wb") as log:
            null = subprocess.DEVNULL
            process = forked.Process(command, module=what, stdin=null, stdout=log, stderr=log)
        self.processes.append(process)

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    directory = tmp_path / "cluster"
    directory.mkdir()
    cluster = Cluster(directory)
    yield cluster
    cluster.close()


def alone(traces: Path, dataset: Path) -> dict[str, object]:
    """What one process makes of them, without Dask."""
    found, missing = find([f"{traces}/*/*.bin"])
    gathered = Gathered(missing)
    for trace in reversed(found):
        gathered.add(archive(trace, Options(interval_s=INTERVAL_S), str(dataset)))
    return known(gathered.summary().to_dict())


def known(summary: dict[str, object]) -> dict[str, object]:
    """Without what depends on the run: a worker that dies may have done a trace already."""
    return summary | {"resumed": None}


def files(dataset: Path) -> dict[str, bytes]:
    """The Parquet files, byte by byte."""
    return {
        str(path.relative_to(dataset)): path.read_bytes() for path in dataset.rglob("*.parquet")
    }


def test_two_workers_and_then_one_make_what_one_process_makes(
    traces: Path, cluster: Cluster, tmp_path: Path
) -> None:
    expected = alone(traces, tmp_path / "alone")
    dataset = tmp_path / "ds"
    arguments = [
        *("archive", "-o", str(dataset), "-I", str(INTERVAL_S), "--json"),
        *("--scheduler", cluster.address, f"{traces}/*/*.bin"),
    ]
    with forked.Process(arguments) as running:
        done = dataset / "_manifest"

        def has_begun() -> bool:
            assert running.poll() is None
            return len(list(done.glob("*.json"))) >= 2

        until(has_begun, "two traces to be done")
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        assert len(list(done.glob("*.json"))) < HOSTS, "it was too late to kill a worker"
        out, err = running.communicate()
    assert cluster.workers[0].wait() == -signal.SIGKILL
    assert cluster.workers[1].poll() is None
    assert running.returncode == 3  # of the damaged ones
    assert known(json.loads(out)) == expected
    lines = err.decode().splitlines()
    assert [line.startswith("blkiomon: ") and "h4/" in line for line in lines] == [True, False]
    assert "h7/" in lines[1] and len(lines) == 2
    assert files(dataset) == files(tmp_path / "alone")
    assert not list(dataset.rglob("*.part"))

    # And whatever one process read in one go is what any machine says, whose intervals are these.
    path = next(dataset.glob("host=h1/*/*.parquet"))
    stored = [data for data in pq.read_table(path)["interval"].to_pylist() if data is not None]
    read = blkiomon.intervals(traces / "h1" / "sda.bin", INTERVAL_S)
    assert stored == [interval.to_bytes() for interval in read]


def test_worker_that_is_killed_over_its_shard_makes_no_difference(
    traces: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """One trace, six times as long, for two workers; with one left, both shards are its."""
    data = (DATA / "loop-multi-dc.bin").read_bytes()
    for path in traces.glob("*/*"):
        path.unlink()
    (traces / "h1" / "sda.bin").write_bytes(b"".join(later(data, k) for k in range(6)))
    expected = alone(traces, tmp_path / "alone")
    dataset = tmp_path / "ds"
    arguments = [
        *("archive", "-o", str(dataset), "-I", str(INTERVAL_S)),
        *("--json", "--shards", "2", "--scheduler", cluster.address, f"{traces}/*/*.bin"),
    ]
    with forked.Process(arguments) as running:
        shards = dataset / "_shards"
        until(lambda: len(list(shards.glob(".*.part"))) == 2, "both workers to have begun")
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        assert not list(shards.glob("*0of2")), "it was too late to kill a worker"
        out, err = running.communicate()
    assert (running.returncode, err) == (0, b"")
    assert known(json.loads(out)) == expected
    assert files(dataset) == files(tmp_path / "alone")
    assert not list(shards.iterdir())


def later(data: bytes, k: int) -> bytes:
    """The records of a trace, k times as late as it is long."""
    records = np.frombuffer(data, layout.TRACE_V7).copy()
    records["time"] += k * (records["time"].max() - records["time"].min() + 1)
    return records.tobytes()


def test_command_makes_a_cluster_of_its_own_and_goes_on_where_it_was(
    traces: Path, tmp_path: Path
) -> None:
    for number in range(4, HOSTS):
        shutil.rmtree(traces / f"h{number}")
    expected = alone(traces, tmp_path / "ds")
    shutil.rmtree(next((tmp_path / "ds").glob("host=h2")))
    result = forked.run(
        "archive", "-o", tmp_path / "ds", f"-I{INTERVAL_S}", "--json", f"{traces}/*/*.bin"
    )
    assert (result.returncode, result.stderr) == (0, b"")
    summary = json.loads(result.stdout)
    assert summary["resumed"] == 3
    assert known(summary) == expected
