"""Runs Prometheus servers, from Debian's package, on loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import programs
import runner

CONTRIB = Path(__file__).parent.parent / "contrib"


def program(name: str = "prometheus") -> str:
    """The path of one of its programs; skips the test if it is not installed."""
    return programs.require(name, "prometheus")


def promtool(*arguments: str, input: bytes | None = None) -> bytes:
    """What promtool prints; it must find no fault."""
    done = subprocess.run([program("promtool"), *arguments], input=input, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Server:
    """A running server.

    Attributes:
        address: host and port.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, question: str) -> list[dict[str, Any]] | None:
        """What it answers; None while it is not ready."""
        query = urllib.parse.urlencode({"query": question})
        url = f"http://{self.address}/api/v1/query?{query}"
        try:
            with urllib.request.urlopen(url, timeout=runner.TIMEOUT_S) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return result
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{question}: {error.read().decode()}") from error
        except OSError:
            return None  # it does not listen yet

    def value(self, question: str) -> float | None:
        """The value of an answer of at most one series; None without one."""
        result = self.ask(question)
        assert result is None or len(result) < 2, result
        return float(result[0]["value"][1]) if result else None

    def awaited(self, question: str) -> float:
        """The value of an answer, once it is greater than 0."""
        return runner.until(lambda: self.value(question), question, pause_s=0.05)


@contextmanager
def serving(directory: Path, config: str, *options: str) -> Iterator[Server]:
    """Runs a server in a directory of its own, which holds its rule files."""
    path = program()
    directory.mkdir(exist_ok=True)
    (directory / "prometheus.yml").write_text(config)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = [
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        *options,
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([path, *arguments], stdout=log, stderr=log)
    try:
        yield Server(address)
    finally:
        process.terminate()
        process.wait(runner.TIMEOUT_S)
