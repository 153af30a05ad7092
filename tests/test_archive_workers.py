"""Archives with worker processes, of this machine or of a Dask scheduler, some of which are killed.

Every figure must equal that of a single process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import programs
import pyarrow.parquet as pq
import pytest
import runner
from runner import until
from test_full_disk import DISK_BYTES, fill

import blkiomon
from blkiomon import to_dict
from blkiomon.commands.archive import summarize
from blkiomon.commands.archive.pool import Pool
from blkiomon.formats.rows import Tables, from_tables

__all__ = ["DISK_BYTES"]  # for the fixture "disk"

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
    """A scheduler and two workers, each a process of its own.

    Args:
        directory: where they may write.
        tls: options for all of them.
    """

    def __init__(self, directory: Path, tls: Sequence[str] = ()) -> None:
        self._directory = directory
        self._file = directory / "scheduler.json"
        self._tls = tls
        self.processes: list[runner.Process] = []
        protocol = ("--protocol", "tls") if tls else ()
        where = ("--host", "127.0.0.1", "--port", "0", "--no-show")
        self._start("dask_scheduler", *where, *protocol)
        self.address: str = until(self._found, "the scheduler")
        for name in ("one", "two"):
            self._start(
                *("dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "1"),
                *("--no-nanny", "--death-timeout", "60", "--name", name),
                *("--local-directory", str(directory)),
            )

    @property
    def workers(self) -> list[runner.Process]:
        return self.processes[1:]

    def _found(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(self._file.read_text())["address"])
        return ""

    def _start(self, module: str, *arguments: str) -> None:
        where = ["--scheduler-file", str(self._file)] if module == "dask_scheduler" else []
        command = ["--no-dashboard", *self._tls, *where, *arguments]
        program = (sys.executable, "-m", f"distributed.cli.{module}")
        with (self._directory / f"{len(self.processes)}.log").open("wb") as log:
            process = runner.Process(
                *command, command=program, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
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
    """The summary of one process, without Dask, and its dataset."""
    summary = summarize(f"{traces}/*/*.bin", interval=INTERVAL_S, workers=0, dataset=str(dataset))
    return known(summary.to_dict())


def known(summary: dict[str, object]) -> dict[str, object]:
    """Without the count of resumed traces: a worker that dies may have finished one."""
    return summary | {"resumed": None}


def stored(dataset: Path) -> dict[str, list[dict[str, Any]]]:
    """The intervals of each trace as a reader of a dataset finds them."""
    tables = (pq.read_table(dataset / name, partitioning=None) for name in Tables._fields)
    found: dict[str, list[dict[str, Any]]] = {}
    for _, trace, interval in from_tables(Tables(*tables)):
        found.setdefault(trace, []).append(to_dict(interval))
    return found


def test_two_workers_of_which_one_dies_give_the_result_of_one_process(
    traces: Path, cluster: Cluster, tmp_path: Path
) -> None:
    expected = alone(traces, tmp_path / "alone")
    dataset = tmp_path / "ds"
    arguments = [
        *("archive", "-o", str(dataset), "-I", str(INTERVAL_S), "--json"),
        *("--scheduler", cluster.address, f"{traces}/*/*.bin"),
    ]
    with runner.Process(*arguments) as running:

        def done() -> int:
            assert running.poll() is None
            return len(list(dataset.glob("requests/day=*/part-*.parquet")))

        until(lambda: done() >= 2, "two traces to be done")
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        assert done() < HOSTS, "it was too late to kill a worker"
        status, out, err = running.outcome()
    assert cluster.workers[0].wait() == -signal.SIGKILL
    assert cluster.workers[1].poll() is None
    assert status == 3  # of the damaged ones
    assert known(json.loads(out)) == expected
    lines = without_warning(err)
    assert [line.startswith("blkiomon: ") and "h4/" in line for line in lines] == [True, False]
    assert "h7/" in lines[1] and len(lines) == 2
    assert stored(dataset) == stored(tmp_path / "alone")

    # The dataset stores the intervals that the library reads.
    path = traces / "h1" / "sda.bin"
    assert stored(dataset)[str(path)] == [*map(to_dict, blkiomon.intervals(path, INTERVAL_S))]


def without_warning(complaints: bytes) -> list[str]:
    """The lines of standard error, without the first, which only root gets."""
    lines = complaints.decode().splitlines()
    if os.geteuid() == 0:
        assert re.fullmatch(
            r"blkiomon: running as root: anyone who can reach the scheduler at tcp://127.0.0.1:\d+ "
            "can run programs as root here",
            lines.pop(0),
        )
    assert not any("as root" in line for line in lines)
    return lines


def test_scheduler_that_is_killed_ends_the_run(cluster: Cluster, tmp_path: Path) -> None:
    held = Held(tmp_path / "h" / "sda.bin")
    with archiving(tmp_path / "ds", "--scheduler", cluster.address, held.path) as running:
        workers = {process.pid for process in cluster.workers}
        until(lambda: who_has_open(held.path, workers), "a worker to read it")
        cluster.processes[0].kill()
        status, out, err = running.outcome()
    assert (status, out) == (3, b"")
    gone = "blkiomon: the Dask scheduler has gone: run the command again to continue"
    assert without_warning(err) == [gone]


# --- on one machine -------------------------------------------------------------------------------


def descendants(pid: int) -> set[int]:
    """A process, all that it has started, and what these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def who_has_open(path: Path, pids: set[int]) -> set[int]:
    """Those of the processes that have a file open."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            fds = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir()]
            found |= {pid} if path in fds else set()
    return found


def open_sockets(pids: set[int]) -> list[str]:
    """Sockets of these processes that accept connections or datagrams, by /proc/net."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if (target := str(fd.readlink())).startswith("socket:["):
                    inodes.add(target[8:-1])
    found = []
    for table, state, listening, inode in (
        *((name, 3, {"0A"}, 9) for name in ("tcp", "tcp6")),
        *((name, 3, {"07"}, 9) for name in ("udp", "udp6")),
        ("unix", 3, {"00010000"}, 6),  # its flags: it listens
    ):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[state] in listening and fields[inode] in inodes:
                found.append(f"{table} {line}")
    return found


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_listening_socket_is_found(family: int, tmp_path: Path) -> None:
    host = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}.get(socket.AddressFamily(family))
    before = open_sockets({os.getpid()})
    with socket.socket(family) as server:
        server.bind((host, 0) if host else str(tmp_path / "s"))
        server.listen()
        assert len(open_sockets({os.getpid()})) == len(before) + 1


class Held:
    """A trace that is a FIFO: its reader blocks until `let_go`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True)
        os.mkfifo(path)
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def reader(self, running: runner.Process, but: int = 0) -> int:
        """The process that reads it, other than ``but``; waits for one."""

        def found() -> int:
            assert running.poll() is None, "it has ended"
            return next(iter(who_has_open(self.path, descendants(running.pid)) - {but}), 0)

        return until(found, "a reader")

    def let_go(self, running: runner.Process) -> None:
        """Its reader gets a trace, which is as much as a pipe holds."""
        self.reader(running)
        assert os.write(self.fd, SHORT) == len(SHORT)
        os.close(self.fd)


SHORT = (DATA / "loop-phases-dc.bin").read_bytes()[: 48 * 1000]


def archiving(dataset: Path, *more: str | Path) -> runner.Process:
    return runner.Process("archive", "--json", f"-I{INTERVAL_S}", "-o", dataset, *more)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_process_listens_on_a_socket_while_traces_are_read(tmp_path: Path, workers: int) -> None:
    held = [Held(tmp_path / f"h{k}" / "sda.bin") for k in range(2)]
    running = archiving(tmp_path / "ds", f"--workers={workers}", *(each.path for each in held))
    with running:
        readers = {held[k].reader(running) for k in range(2 if workers else 1)}
        assert (readers == {running.pid}) == (workers == 0) and len(readers) == max(workers, 1)
        assert open_sockets(descendants(running.pid)) == []
        for each in held:
            each.let_go(running)
        status, out, err = running.outcome()
    assert (status, err) == (0, b"")
    assert json.loads(out)["records"] == 2000


def test_client_of_a_scheduler_listens_on_no_socket(cluster: Cluster, tmp_path: Path) -> None:
    held = Held(tmp_path / "h" / "sda.bin")
    with archiving(tmp_path / "ds", "--scheduler", cluster.address, held.path) as running:
        workers = {process.pid for process in cluster.workers}
        until(lambda: who_has_open(held.path, workers), "a worker to read it")
        assert open_sockets(descendants(running.pid)) == []
        assert open_sockets(workers)  # those of Dask do
        os.write(held.fd, SHORT)
        os.close(held.fd)
        status, out, err = running.outcome()
    assert (status, without_warning(err)) == (0, [])
    assert json.loads(out)["records"] == 1000


def test_dask_and_pandas_are_not_imported_without_need(tmp_path: Path) -> None:
    code = (
        "import sys; from blkiomon.commands.cli import main; status = main(sys.argv[1:]);"
        "print({'dask', 'distributed', 'pandas'} & {*sys.modules}, status)"
    )
    (tmp_path / "a.bin").write_bytes(SHORT)
    command = ("archive", "--workers=0", "-o", tmp_path / "ds", tmp_path / "a.bin")
    done = runner.python(code, *command)
    assert done.stdout.endswith(b"\nset() 0\n"), done


def test_trace_of_a_killed_worker_is_retried_and_others_go_on(tmp_path: Path) -> None:
    first, second = (Held(tmp_path / f"h{k}" / "sda.bin") for k in range(2))
    expected = summary_of(tmp_path / "plain", 2)
    with archiving(tmp_path / "ds", "--workers=2", first.path, second.path) as running:
        killed, other = first.reader(running), second.reader(running)
        os.kill(killed, signal.SIGKILL)
        again = first.reader(running, but=killed)
        assert other != again and second.reader(running) == other
        first.let_go(running)
        second.let_go(running)
        status, out, err = running.outcome()
    assert (status, err) == (0, b"")
    assert figures(json.loads(out)) == expected


def test_trace_that_kills_two_workers_is_given_up(tmp_path: Path) -> None:
    deadly, plain = (Held(tmp_path / f"h{k}" / "sda.bin") for k in (1, 0))
    expected = summary_of(tmp_path / "plain", 1)
    with archiving(tmp_path / "ds", "--workers=1", deadly.path, plain.path) as running:
        plain.let_go(running)
        first = deadly.reader(running)
        os.kill(first, signal.SIGKILL)
        os.kill(deadly.reader(running, but=first), signal.SIGKILL)
        status, out, err = running.outcome()
    assert status == 3
    assert err.decode() == (
        f"blkiomon: {deadly.path}: each worker that read it died, perhaps for lack of memory; "
        "no record of it was read\n"
    )
    assert figures(json.loads(out)) == expected


def test_idle_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with Pool() as pool:
        first = pool.submit(os.getpid).result()
        os.kill(first, signal.SIGKILL)
        until(lambda: not is_running(first), "the killed worker to end")
        second = pool.submit(os.getpid)
        with contextlib.suppress(BrokenExecutor):  # the pool may notice only now
            assert second.result() not in (first, os.getpid())
        assert pool.submit(os.getpid).result() not in (first, os.getpid())


def summary_of(directory: Path, hosts: int) -> dict[str, object]:
    """The figures of so many hosts with the same trace, read by this process."""
    for k in range(hosts):
        (directory / f"h{k}").mkdir(parents=True)
        (directory / f"h{k}" / "sda.bin").write_bytes(SHORT)
    return figures(summarize(f"{directory}/*/*", interval=INTERVAL_S, workers=0).to_dict())


def figures(summary: dict[str, object]) -> dict[str, object]:
    return {key: summary[key] for key in ("fleet", "hosts", "traces", "records", "intervals")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_command(tmp_path: Path, number: signal.Signals) -> None:
    held = [Held(tmp_path / f"h{k}" / "sda.bin") for k in range(2)]
    running = archiving(tmp_path / "ds", "--workers=2", *(each.path for each in held))
    with running:
        for each in held:
            each.reader(running)
        everybody = descendants(running.pid)
        running.send_signal(number)
        status, out, err = running.outcome()  # all have closed standard output then
    assert (status, out) == (-number, b"")
    # Python's resource tracker removes the semaphores of a killed process, and reports it.
    assert not err or (number == signal.SIGKILL and b"leaked semaphore" in err)
    assert len(everybody) >= 3
    until(lambda: not any(map(is_running, everybody)), "all of them to end")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_run_that_is_killed_half_way_is_resumed(traces: Path, tmp_path: Path) -> None:
    expected = alone(traces, tmp_path / "alone")
    last = traces / f"h{HOSTS - 1}" / "sda.bin"
    data = last.read_bytes()
    shutil.rmtree(last.parent)
    held = Held(last)
    dataset = tmp_path / "ds"
    names = [*sorted(traces.glob("*/*.bin"))]
    with archiving(dataset, "--workers=1", *names) as running:
        held.reader(running)  # all others are done
        running.kill()
        running.wait()
    assert len(list(dataset.glob("requests/*/part-*.parquet"))) == HOSTS - 1
    last.unlink()
    last.write_bytes(data)
    summary = summarize(f"{traces}/*/*.bin", interval=INTERVAL_S, workers=1, dataset=str(dataset))
    assert summary.resumed == HOSTS - 1
    assert known(summary.to_dict()) == expected
    assert stored(dataset) == stored(tmp_path / "alone")
    assert not list(dataset.rglob("*.new"))


def test_second_run_on_a_dataset_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    held = Held(tmp_path / "h" / "sda.bin")
    (tmp_path / "other.bin").write_bytes(SHORT)
    with archiving(tmp_path / "ds", "--workers=1", held.path) as running:
        held.reader(running)
        with archiving(tmp_path / "ds", "--workers=1", tmp_path / "other.bin") as second:
            status, out, err = second.outcome()
        assert (status, out) == (4, b"")
        assert err.decode().startswith(f"blkiomon: {tmp_path}/ds is being written by another run: ")
        assert f"process {running.pid} on " in err.decode() and err.count(b"\n") == 1
        held.let_go(running)
        status, _, err = running.outcome()
    assert (status, err) == (0, b"")


def test_full_disk_ends_the_run_and_what_is_done_is_kept(
    traces: Path, disk: Path, tmp_path: Path
) -> None:
    ballast = fill(disk)
    os.truncate(ballast, ballast.stat().st_size - (96 << 10))  # room for some traces, not for all
    dataset = disk / "ds"
    names = sorted(traces.glob("*/*.bin"))
    with archiving(dataset, "--workers=1", *names) as running:
        status, out, err = running.outcome()
    assert (status, out) == (4, b"")
    assert err.decode() == (
        f"blkiomon: cannot write {dataset}: No space left on device; what is done is kept: "
        "run the command again to continue\n"
    )
    done = len(list(dataset.glob("requests/*/part-*.parquet")))
    assert 0 < done < HOSTS
    moved = shutil.copytree(dataset, tmp_path / "ds")
    summary = summarize(list(map(str, names)), interval=INTERVAL_S, workers=0, dataset=str(moved))
    assert summary.resumed == done and summary.traces == HOSTS
    assert len(stored(moved)) == HOSTS


def test_workers_ignore_signals_of_the_terminal(tmp_path: Path) -> None:
    """^C reaches all processes; only the main one may end the others."""
    held = Held(tmp_path / "h" / "sda.bin")
    with archiving(tmp_path / "ds", "--workers=1", held.path) as running:
        worker = held.reader(running)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            os.kill(worker, number)
        held.let_go(running)
        status, out, err = running.outcome()
    assert (status, err) == (0, b"")
    assert json.loads(out)["records"] == 1000


def test_workers_resume_an_earlier_run(traces: Path, tmp_path: Path) -> None:
    for number in range(4, HOSTS):
        shutil.rmtree(traces / f"h{number}")
    expected = alone(traces, tmp_path / "ds")
    next((tmp_path / "ds/requests").rglob("*.parquet")).unlink()
    command = ("archive", "-o", tmp_path / "ds", f"-I{INTERVAL_S}", "--json", f"{traces}/*/*.bin")
    result = runner.run(*command)
    assert (result.returncode, result.stderr) == (0, b"")
    summary = json.loads(result.stdout)
    assert summary["resumed"] == 3
    assert known(summary) == expected


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates of an authority, of one signed by it, and of one that is not."""
    programs.require("openssl")
    where = tmp_path_factory.mktemp("pems")
    for name, signer in (("ca", None), ("our", "ca"), ("other", None)):
        signed = ["-CA", f"{signer}.pem", "-CAkey", f"{signer}.key"] if signer else []
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"),
                *signed,
            ],
            cwd=where,
            check=True,
            capture_output=True,
        )
    return where


def test_scheduler_with_tls_takes_those_with_its_certificates(
    traces: Path, tmp_path: Path, pems: Path
) -> None:
    expected = alone(traces, tmp_path / "alone")

    def tls(name: str) -> list[str]:
        files = {"ca-file": "ca.pem", "cert": f"{name}.pem", "key": f"{name}.key"}
        return [f"--tls-{option}={pems / file}" for option, file in files.items()]

    directory = tmp_path / "cluster"
    directory.mkdir()
    with contextlib.closing(Cluster(directory, tls("our"))) as cluster:
        assert cluster.address.startswith("tls://")
        command = ["archive", "--json", "-o", str(tmp_path / "ds"), f"-I{INTERVAL_S}"]
        command += ["--scheduler", cluster.address, f"{traces}/*/*.bin"]
        for refused in ([], tls("other")):
            result = runner.run(*command, *refused)
            assert (result.returncode, result.stdout) == (3, b"")
            lines = result.stderr.decode().splitlines()
            assert lines.pop().startswith(f"blkiomon: no Dask scheduler at {cluster.address}: ")
            assert all(line.startswith("blkiomon: running as root: anyone ") for line in lines)
        result = runner.run(*command, *tls("our"))
    assert result.returncode == 3  # of the damaged ones
    assert known(json.loads(result.stdout)) == expected
    assert stored(tmp_path / "ds") == stored(tmp_path / "alone")
    told = result.stderr.decode().splitlines()[:-2]
    if os.geteuid() == 0:
        vouched = f"anyone with a certificate signed by {pems}/ca.pem"
        assert told == [f"blkiomon: running as root: {vouched} can run programs as root here"]
    else:
        assert not told
