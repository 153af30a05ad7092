"""`python -m benchmarks.soak` for a second counts every record, also if an output stalls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("stall", [False, True])
def test_no_record_is_lost_whatever_an_output_does(stall: bool) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "1", "--rate", "200000"]
    done = subprocess.run(
        [*command, "--interval", "0.1", *["--stall"] * stall],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = dict(line.strip().split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert said["records sent, seen"].split(", ")[0] == said["records sent, seen"].split(", ")[1]
    assert said["the same for each device"] == "yes"
    assert said["reported as unseen"] == "nothing"
    assert said["exit status"] == str(4 * stall)
    assert ("stalled did not take everything" in said.get("message", "")) == stall
    assert done.stdout.endswith("nothing was lost\n")
