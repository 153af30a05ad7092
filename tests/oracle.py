"""Runs the packaged original on streams, many at once, since each run takes a second.

The original prints statistics at interval boundaries only and loses the last interval. So its
standard input stays open past the first boundary. On a loaded machine a boundary may come before
the end of the stream; then that stream runs again with a longer interval.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sanitizers import OTHERS

BINARY_SIZE = 424
TIME_TOKEN = b"time: TIME"
WAVE = 64
MARGIN_S = 0.25
"""Time after the end of the original's interval."""

# The original shows the name it was started by; this program adds its own version to the line.
_VERSION_LINE = re.compile(r"\S*blkiomon version 0\.3")
_TIME_LINE = re.compile(rb"^time: .*$", re.MULTILINE)
_MATCHES = re.compile(rb"^\d+ leftover, (\d+) match, ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """What the original wrote, times masked, and how it ended (negative: killed by a signal)."""

    human: bytes
    binary: bytes
    driver: bytes
    debug: bytes
    stderr: bytes
    returncode: int


def find() -> str | None:
    """The original's path, or None if it is not installed under its name."""
    for candidate in (os.environ.get("BLKIOMON_ORACLE"), "/usr/bin/blkiomon", "/usr/sbin/blkiomon"):
        if candidate and os.access(candidate, os.X_OK):
            shown = subprocess.run([candidate, "-V"], capture_output=True, check=False, text=True)
            if _VERSION_LINE.fullmatch(shown.stdout.strip()):
                return candidate
    return None


def require() -> str:
    """The original's path; skips the test without it, and fails in continuous integration."""
    from programs import missing

    path = find()
    if path is None:
        reason = "the original blkiomon 0.3 is not installed (apt-get install blktrace)"
        missing(reason, in_ci=True)
    return path


def mask_human(text: bytes) -> bytes:
    """The text output with every time line replaced by a fixed token."""
    return _TIME_LINE.sub(TIME_TOKEN, text)


def mask_binary(data: bytes) -> bytes:
    """The binary output with every time field zero."""
    records = [data[i : i + BINARY_SIZE] for i in range(0, len(data), BINARY_SIZE)]
    return b"".join(bytes(8) + record[8:] for record in records)


def _times(binary: bytes) -> set[bytes]:
    return {binary[i : i + 8] for i in range(0, len(binary), BINARY_SIZE)}


def _accounted(binary: bytes) -> int:
    """The number of matches in binary records: the counts of the size histogram."""
    return sum(
        sum(struct.unpack_from(">16I", binary, i + 8)) for i in range(0, len(binary), BINARY_SIZE)
    )


class _Run:
    """One process with its directory of outputs."""

    def __init__(self, program: str, data: bytes, interval: int, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        arguments = [program, "-I", str(interval)]
        for option in "hbdD":
            arguments += [f"-{option}", str(directory / option)]
        self.stderr_path = directory / "stderr"
        with self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stderr=stderr, env=OTHERS
            )
        assert self.process.stdin is not None
        self.stdin: IO[bytes] = self.process.stdin
        try:
            self.stdin.write(data)
            self.stdin.flush()
        except BrokenPipeError:
            pass

    def collect(self) -> tuple[Result, bool]:
        """Close its input and read what it wrote; whether the whole stream was in one interval."""
        try:
            self.stdin.close()
        except BrokenPipeError:
            pass
        returncode = self.process.wait(timeout=60)
        human, binary, driver, debug = (
            path.read_bytes() if (path := self.directory / option).exists() else b""
            for option in "hbdD"
        )
        stderr = self.stderr_path.read_bytes()
        shutil.rmtree(self.directory)
        totals = _MATCHES.search(debug)
        if returncode != 0 or stderr:
            whole = True  # it complained or crashed, and would again
        else:
            one_interval = len(_times(binary)) <= 1
            whole = totals is not None and one_interval and _accounted(binary) == int(totals[1])
        result = Result(mask_human(human), mask_binary(binary), driver, debug, stderr, returncode)
        return result, whole


def run_many(streams: Sequence[bytes], wave: int = WAVE) -> list[Result]:
    """The original's outputs for each stream, `wave` processes at a time."""
    program = find()
    if program is None:
        raise FileNotFoundError("the original blkiomon is not installed")
    results: dict[int, Result] = {}
    todo = list(range(len(streams)))
    with tempfile.TemporaryDirectory(prefix="oracle-") as top:
        for interval in (1, 2, 4, 8, 16):
            again: list[int] = []
            for start in range(0, len(todo), wave):
                runs: dict[int, _Run] = {}
                try:
                    for index in todo[start : start + wave]:
                        runs[index] = _Run(program, streams[index], interval, Path(top, str(index)))
                    time.sleep(interval + MARGIN_S)
                    for index, run in runs.items():
                        result, whole = run.collect()
                        if whole:
                            results[index] = result
                        else:
                            again.append(index)
                finally:
                    for run in runs.values():
                        if run.process.poll() is None:
                            run.process.kill()
                            run.process.wait()
            todo = again
            if not todo:
                return [results[index] for index in range(len(streams))]
    raise TimeoutError(f"streams {todo} never fitted into one interval: the machine is too busy")


def run(data: bytes) -> Result:
    """The original's outputs for one stream."""
    return run_many([data])[0]
