"""The command as a process of its own, as `runner` has it, but without a start of its own.

Most of a short run is Python that imports what each run imports. Where that start is not the point,
a process that has done it once (`forkserver.py`) forks: the child has a process id, descriptors,
signals, a directory and an environment of its own, and ends as the interpreter ends. What Python
reads from its environment when it starts (``PYTHONPATH``, the encoding) is that of the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import runner
from runner import TIMEOUT_S, Argument

IMPORTS = {
    "plain": (),
    "extras": ("pyarrow.parquet", "prometheus_client.core"),
    "archive": ("blkiomon.commands.archive.run",),
    "dask": ("distributed.cli.utils", "blkiomon.commands.archive.cluster"),
}
"""Beside what every run imports. Each kind has a process that forks: who has more ends later."""

EXTRAS = ("--parquet", "--textfile", "--openmetrics")
"""Options with which a run is of that kind."""


class _Server:
    """A process that forks; it ends with this one."""

    def __init__(self, imports: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = str(Path(__file__).with_name("forkserver.py"))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, script, str(theirs.fileno()), *imports],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], fds: Sequence[int] = ()) -> int:
        """The answer to a request."""
        socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
        answer = self._socket.recv(1 << 10)
        assert answer, "the process that forks has died"
        return int(json.loads(answer))

    def close(self) -> None:
        self._socket.close()
        self.process.wait()


_servers: dict[str, _Server] = {}


def server(kind: str) -> _Server:
    """One of each kind for all tests of this process, made when it is first needed."""
    if kind not in _servers:
        _servers[kind] = _Server(IMPORTS[kind])
    return _servers[kind]


def _kind(arguments: Sequence[str]) -> str:
    """Of the command with these arguments."""
    if arguments[:1] == ["archive"]:
        return "dask" if "--scheduler" in arguments else "archive"
    return "extras" if any(text.startswith(EXTRAS) for text in arguments) else "plain"


class Process:
    """As much of ``subprocess.Popen`` as is needed here.

    Args:
        arguments: of the command.
        stdin, stdout, stderr: as for ``Popen``.
        cwd, env: as for ``Popen``.
        module: another one than ours, and which kind of process has imported what it needs.
    """

    def __init__(
        self,
        arguments: Sequence[Argument],
        *,
        stdin: int | IO[bytes] = subprocess.PIPE,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        module: tuple[str, str] | None = None,
    ) -> None:
        texts = [os.fsdecode(argument) for argument in arguments]
        with contextlib.ExitStack() as theirs:

            def end_of(stream: int | IO[bytes], is_input: bool) -> tuple[int, IO[bytes] | None]:
                """The descriptor that is theirs, and our end where that is of a pipe."""
                if not isinstance(stream, int):
                    return stream.fileno(), None
                if stream == subprocess.DEVNULL:
                    null = os.open(os.devnull, os.O_RDWR)
                    theirs.callback(os.close, null)
                    return null, None
                if stream != subprocess.PIPE:
                    return stream, None
                read_fd, write_fd = os.pipe()
                their_fd, our_fd = (read_fd, write_fd) if is_input else (write_fd, read_fd)
                theirs.callback(os.close, their_fd)
                return their_fd, open(our_fd, "wb" if is_input else "rb", buffering=0)

            ends = [end_of(stdin, True), end_of(stdout, False), end_of(stderr, False)]
            self.stdin, self.stdout, self.stderr = (ours for _, ours in ends)
            name, kind = module or ("blkiomon", _kind(texts))
            request = {
                "start": texts,
                "module": name,
                "cwd": os.fspath(cwd) if cwd is not None else str(Path.cwd()),
                "env": dict(os.environ if env is None else env),
            }
            self._server = server(kind)
            self.pid = self._server.ask(request, [fd for fd, _ in ends])
        self.returncode: int | None = None
        # Readable once it has ended.
        self._ended = os.pidfd_open(self.pid)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.wait()
        for stream in filter(None, (self.stdin, self.stdout, self.stderr)):
            stream.close()

    def poll(self) -> int | None:
        return self._await(0)

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        status = self._await(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("blkiomon", timeout)
        return status

    def _await(self, timeout_s: float) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout_s)[0]:
            os.close(self._ended)
            self.returncode = self._server.ask({"wait": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, data: bytes = b"") -> tuple[bytes, bytes]:
        """Hands it its input, as far as it takes it; all that it printed and complained about."""
        deadline = time.monotonic() + TIMEOUT_S
        got: dict[IO[bytes] | None, bytearray] = {
            self.stdout: bytearray(),
            self.stderr: bytearray(),
        }
        rest = memoryview(data)
        with selectors.DefaultSelector() as selector:
            for stream in filter(None, got):
                selector.register(stream, selectors.EVENT_READ)
            if self.stdin is not None:
                os.set_blocking(self.stdin.fileno(), False)
                selector.register(self.stdin, selectors.EVENT_WRITE)
            while selector.get_map():
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired("blkiomon", TIMEOUT_S)
                for key, _ in selector.select(1):
                    stream = cast(IO[bytes], key.fileobj)
                    if stream is self.stdin:
                        with contextlib.suppress(BrokenPipeError):
                            if rest:
                                rest = rest[os.write(key.fd, rest[: 1 << 16]) :]
                                continue
                    else:
                        piece = os.read(key.fd, 1 << 16)
                        if piece:
                            got[stream] += piece
                            continue
                    selector.unregister(stream)
                    stream.close()
        self.wait(max(0, deadline - time.monotonic()))
        return bytes(got.get(self.stdout, b"")), bytes(got.get(self.stderr, b""))


def run(
    *arguments: Argument, stdin: bytes | int | IO[bytes] = b"", **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """As ``runner.run``: the command from start to end; ``options`` are for `Process`."""
    if "BLKIOMON" in os.environ:  # another installation stands for ours
        return runner.run(*arguments, stdin=stdin, **options)
    data, source = (stdin, subprocess.PIPE) if isinstance(stdin, bytes) else (b"", stdin)
    with Process(arguments, stdin=source, **options) as process:
        output, complaints = process.communicate(data)
    return subprocess.CompletedProcess(arguments, process.wait(), output, complaints)


class Running(runner.Running):
    """As ``runner.Running``: a running command, whose input stays open until it is closed.

    Args:
        arguments: of the command.
        options: for `Process`.
    """

    def __init__(self, *arguments: Argument, **options: Any) -> None:
        if "BLKIOMON" in os.environ:
            super().__init__(*arguments, **options)
            return
        self._stderr = tempfile.TemporaryFile()
        process = Process(arguments, **{"stderr": self._stderr, **options})
        self.process = cast("subprocess.Popen[bytes]", process)
        self._seen = b""
