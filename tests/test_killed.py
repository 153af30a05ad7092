"""kill -9 in any phase: outputs written before it are whole on disk."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import goldenfiles
import programs
import pyarrow.parquet as pq
import pytest
import runner

from blkiomon.engine import layout

TRACE = goldenfiles.TRACES / "loop-phases-dc.bin"
OUTPUTS = {"-h": "h", "-b": "b", "--json": "json", "--csv": "csv", "--parquet": "parts"}
OUTPUTS |= {"--textfile": "prom", "-D": "D"}


def options(directory: Path) -> list[str]:
    """All outputs, below a directory; several intervals."""
    (directory / "parts").mkdir(parents=True)
    files = [part for o, name in OUTPUTS.items() for part in (o, str(directory / name))]
    return ["-I", "4", *files, str(TRACE)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a run that is not killed."""
    path = tmp_path_factory.mktemp("whole")
    assert runner.call(*options(path)).returncode == 0
    return path


def check(directory: Path, whole: Path) -> int:
    """Each output is the beginning of a whole run's; returns the number of Parquet parts.

    The signal may cut a long write inside the last interval. Renamed files are whole.
    """
    for name in ("h", "b", "json", "csv", "D"):
        path = directory / name
        data = path.read_bytes() if path.exists() else b""
        assert (whole / name).read_bytes().startswith(data), name
    parts = sorted((directory / "parts").glob("interval-*.parquet"))
    for part in parts:
        assert pq.read_table(part).equals(pq.read_table(whole / "parts" / part.name))
    if (directory / "prom").exists():
        text = (directory / "prom").read_text()
        assert text.endswith("\n")
        assert "blkiomon_records_total" in text
    return len(parts)


def handed_out(directory: Path) -> int:
    """How many whole intervals each of the other files has."""
    lines = (directory / "json").read_bytes().splitlines(keepends=True)
    assert all(json.loads(line) for line in lines if line.endswith(b"\n"))
    ends = {row["end_ns"] for row in csv.DictReader((directory / "csv").read_text().splitlines())}
    n_structs = (directory / "b").stat().st_size // layout.STATS_03.itemsize
    return min(sum(line.endswith(b"\n") for line in lines), len(ends), n_structs)


def test_kill_at_any_system_call_leaves_whole_intervals(whole: Path, tmp_path: Path) -> None:
    """strace sends the signal at up to four calls of each kind that changes a file."""
    strace = programs.require("strace")
    probe = subprocess.run([strace, "-f", "-o", os.devnull, "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("strace may not trace here")
    log = tmp_path / "log"

    def traced(directory: Path, *what: str) -> tuple[int, bytes, bytes]:
        """A run under strace, which looks only at these calls: exit status and output."""
        tracer = (strace, "-f", "--seccomp-bpf", "-o", str(log), *what)
        with runner.Process(*options(directory), command=(*tracer, *runner.COMMAND)) as process:
            return process.outcome()

    calls = "write,rename,renameat,ftruncate"
    assert traced(tmp_path / "all", "-e", f"trace={calls}")[0] == 0
    counts = {
        name: len(re.findall(rf"^\d+ +{name}\(", log.read_text(), re.MULTILINE))
        for name in calls.split(",")
    }
    assert counts["write"] > 20
    survived = []
    for name, number in counts.items():
        for k in range(1, number + 1, -(-number // 4) or 1):
            directory = tmp_path / f"{name}-{k}"
            inject = f"inject={name}:signal=KILL:when={k}"
            status, _, complaints = traced(directory, "-e", f"trace={name}", "-e", inject)
            survived.append(status == 0)
            assert b"Traceback" not in complaints, (name, k)
            check(directory, whole)
    assert not all(survived) and len(survived) > 5


@pytest.mark.parametrize("n_parts", [0, 1, 2, 4])
def test_kill_between_intervals_leaves_all_written_intervals(
    n_parts: int, whole: Path, tmp_path: Path
) -> None:
    """The signal comes once so many intervals are written."""
    directory = tmp_path / "out"
    arguments = options(directory)
    arguments[-1] = str(tmp_path / "fifo")
    os.mkfifo(arguments[-1])
    data = TRACE.read_bytes()
    with runner.Running(*arguments, "--clock", "trace", "--names", "no").started() as process:
        fd = os.open(arguments[-1], os.O_WRONLY)

        def there() -> int:
            return len(list((directory / "parts").glob("interval-*.parquet")))

        at = 0
        while there() < n_parts:
            os.write(fd, data[at : at + 4800])
            at += 4800
        runner.until(lambda: handed_out(directory) >= n_parts, "the same in the other files")
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        os.close(fd)
    assert check(directory, whole) >= n_parts
    assert handed_out(directory) >= n_parts
