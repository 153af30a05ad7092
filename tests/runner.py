"""Runs blkiomon in a process (`run`, `Running`) or in this one (`call`, `outputs_of`).

Everything waits for a condition and never for a fixed time; only a hang takes `TIMEOUT_S`.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import reference
import sysv_queues

from blkiomon.commands import cli
from blkiomon.commands.config import Config
from blkiomon.commands.pipeline import Pipeline
from blkiomon.outputs import sysv
from blkiomon.outputs.catalog import OutputSettings
from blkiomon.outputs.destinations import open_outputs

COMMAND = tuple(os.environ.get("BLKIOMON", f"{sys.executable} -m blkiomon").split())
"""`make dropin` sets BLKIOMON to another installation."""
BOUND_COMMAND = (
    *(("setpriv", "--bounding-set", "-dac_override,-dac_read_search") * (os.geteuid() == 0)),
    *COMMAND,
)
"""The command without root's right to ignore file permissions."""

NOBODY = 65534
NOBODYS_COMMAND = (
    *(sys.executable, "-c"),
    "import fcntl, grp, os, pwd, sys; from blkiomon.commands import cli, run; "
    f"os.setgid({NOBODY}); os.setuid({NOBODY}); sys.exit(cli.main())",
)
"""The command as user nobody, for root. Python starts as root, as that user may not read it."""

# Under nohup or in a shell's background, ignored signals are inherited. Restore the defaults.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

TERMINATED = "blkiomon: terminated by signal\n"
TIMEOUT_S = 60.0
LONG = "1000"
"""Seconds: an interval that does not end during a test."""

Argument = str | bytes | Path
T = TypeVar("T")


def until(
    attempt: Callable[[], T | None],
    what: str = "a condition",
    timeout_s: float = TIMEOUT_S,
    pause_s: float = 0.005,
) -> T:
    """The first true result of ``attempt``; raises AssertionError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (found := attempt()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(pause_s)
    return found


def read_counts(text: str | bytes) -> list[int]:
    """The number of reads in each interval of the text output."""
    text = text if isinstance(text, str) else text.decode()
    return [int(n) for n in re.findall(r"^sizes read .*: num (\d+),", text, re.MULTILINE)]


def options_to(directory: Path, letters: str) -> list[str]:
    """Each of the options -h, -b, -d and -D with a file of its letter."""
    return [text for letter in letters for text in (f"-{letter}", str(directory / letter))]


def await_size(path: Path, size: int) -> None:
    """Waits until a file has at least that size."""
    until(lambda: path.stat().st_size >= size, f"{size} bytes in {path}")


def run(
    *arguments: Argument,
    stdin: bytes | int | IO[bytes] = b"",
    command: Sequence[Argument] = COMMAND,
    **options: Any,
) -> subprocess.CompletedProcess[bytes]:
    """The command from start to end; bytes come through a pipe, ``options`` are for ``Popen``."""
    source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    everything: dict[str, Any] = pipes | source | options
    return subprocess.run([*command, *arguments], timeout=TIMEOUT_S, check=False, **everything)


def python(code: str, *arguments: Argument, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Python code in a process of its own, as `run`."""
    return run("-c", code, *arguments, command=(sys.executable,), **options)


def call(
    *arguments: Argument,
    stdin: bytes | IO[bytes] = b"",
    stdout: IO[bytes] | None = None,
    cwd: str | Path = ".",
) -> subprocess.CompletedProcess[bytes]:
    """As `run`, but in this process: Python need not start.

    Bytes come through a pipe; output goes to files. If BLKIOMON names another installation, this
    calls `run`.
    """
    if "BLKIOMON" in os.environ:
        return run(*arguments, stdin=stdin, stdout=stdout or subprocess.PIPE, cwd=cwd)
    words = [os.fsdecode(argument) for argument in arguments]
    with ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        if isinstance(stdin, bytes):
            read_fd, write_fd = os.pipe()
            writer = threading.Thread(target=_write_all, args=(write_fd, stdin))
            stack.callback(writer.join)
            stdin = stack.enter_context(open(read_fd, "rb", buffering=0))
            writer.start()
        for fd, file in enumerate((stdin, stdout or out, err)):
            stack.enter_context(redirected(fd, file.fileno()))
        stack.enter_context(chdir(cwd))
        status = cli.main(words)
        gc.unfreeze()  # cli.main freezes all objects that exist, here those of pytest
        printed, complaints = (
            os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0) for file in (out, err)
        )
    return subprocess.CompletedProcess(words, status, printed, complaints)


def shell(
    redirected: str, *arguments: Argument, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """As `run`, with redirections by the shell, such as ``>&-``."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *COMMAND, *arguments],
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
        **options,
    )


def succeed(*arguments: Argument, **options: Any) -> bytes:
    """The standard output of `call`, which succeeds and prints nothing on standard error."""
    result = call(*arguments, **options)
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout


def assert_fails(status: int, complaint: str, *arguments: Argument, **options: Any) -> None:
    """`call` ends with this status, and prints this complaint alone."""
    result = call(*arguments, **options)
    assert (result.returncode, result.stdout) == (status, b"")
    assert result.stderr.decode() == f"blkiomon: {complaint}\n"


def json_lines(output: bytes) -> list[dict[str, Any]]:
    """The intervals of an output of ``--json``."""
    return [json.loads(line) for line in output.splitlines()]


def _write_all(fd: int, data: bytes) -> None:
    with suppress(BrokenPipeError), open(fd, "wb", buffering=0) as file:
        while data:
            data = data[file.write(data) :]


@contextmanager
def redirected(fd: int, to_fd: int) -> Iterator[None]:
    """A descriptor of this process is a copy of another one inside the block."""
    saved_fd = os.dup(fd)
    os.dup2(to_fd, fd)
    try:
        yield
    finally:
        os.dup2(saved_fd, fd)
        os.close(saved_fd)


class Process(subprocess.Popen[bytes]):
    """The command in a process of its own, which is killed when its block ends.

    Args:
        arguments: of the command.
        command: what to run; ours by default.
        options: for ``Popen``; standard streams are pipes by default.
    """

    def __init__(
        self, *arguments: Argument, command: Sequence[str] = COMMAND, **options: Any
    ) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        super().__init__([*command, *arguments], **{**pipes, "bufsize": 0, **options})

    def __exit__(self, *error: Any) -> None:
        self.kill()
        super().__exit__(*error)

    def outcome(self) -> tuple[int, bytes, bytes]:
        """Waits for its end: exit status, standard output and standard error."""
        output, complaints = self.communicate(timeout=TIMEOUT_S)
        return self.returncode, output, complaints


class Running:
    """A running command, whose input stays open until it is closed.

    Args:
        arguments: of the command.
        command: what to run; ours by default.
        options: for ``Popen``.
    """

    def __init__(
        self, *arguments: Argument, command: Sequence[str] = COMMAND, **options: Any
    ) -> None:
        self._stderr = tempfile.TemporaryFile()
        self.process = Process(*arguments, command=command, **{"stderr": self._stderr, **options})
        self._seen = b""

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.__exit__(*error)
        self._stderr.close()

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        fd = self._stderr.fileno()
        return os.pread(fd, 1 << 20, 0).decode(errors="surrogateescape")

    def started(self) -> Running:
        """Waits until it handles signals; then it reads its input."""
        status = Path(f"/proc/{self.process.pid}/status")

        def handles_signals() -> bool:
            assert self.process.poll() is None, self.stderr
            caught = re.search(r"^SigCgt:\s*(\w+)$", status.read_text(), re.MULTILINE)
            # Its handler of SIGALRM is the last.
            return caught is not None and bool(int(caught[1], 16) >> signal.SIGALRM - 1 & 1)

        until(handles_signals, "the command to start")
        return self

    def metrics_address(self) -> str:
        """Host and port of its metrics, once it prints them."""
        found = until(lambda: re.search(r"http://(\S+)/metrics", self.stderr), "its address")
        return found[1]

    def write(self, data: bytes, timeout_s: float = TIMEOUT_S) -> None:
        """Writes to its standard input; fails if it does not read that in time."""
        fd = _pipe(self.process.stdin)
        os.set_blocking(fd, False)
        deadline = time.monotonic() + timeout_s
        rest = memoryview(data)
        while rest:
            assert select.select([], [fd], [], max(0, deadline - time.monotonic()))[1], (
                f"it did not read {len(rest)} bytes within {timeout_s:.0f} s"
            )
            rest = rest[os.write(fd, rest[: 1 << 16]) :]

    def await_read(self) -> None:
        """Waits until it has read all its input so far."""
        waiting = array("i", [1])

        def has_read() -> bool:
            fcntl.ioctl(_pipe(self.process.stdin), termios.FIONREAD, waiting)
            return waiting[0] == 0

        until(has_read, "the command to read")

    def close_input(self) -> None:
        """The end of its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close_output(self) -> None:
        """Nobody reads its standard output any more."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.stdout = None

    def read_intervals(self, number: int) -> str:
        """Its text so far, once it has that many blocks of a device and interval."""
        return self.read_count(b"\nbidirectional", number).decode()

    def read_count(self, piece: bytes, number: int) -> bytes:
        """Its standard output so far, once it contains a piece that many times."""
        return self.read_until(lambda data: data.count(piece) >= number)

    def read_bytes(self, number: int) -> bytes:
        """Its standard output so far, once it has that many bytes."""
        return self.read_until(lambda data: len(data) >= number)

    def read_until(self, enough: Callable[[bytes], bool], timeout_s: float = TIMEOUT_S) -> bytes:
        """Its standard output so far, once ``enough`` accepts it."""
        fd = _pipe(self.process.stdout)
        deadline = time.monotonic() + timeout_s
        while not enough(self._seen):
            left_s = max(0, deadline - time.monotonic())
            ready = select.select([fd], [], [], left_s)[0]
            assert ready, f"waited {timeout_s:.0f} s, and read only {self._seen[-500:]!r}"
            piece = os.read(fd, 1 << 16)
            assert piece, f"it ended: {self._seen[-500:]!r} {self.stderr}"
            self._seen += piece
        return self._seen

    def signal(self, number: int) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit status; its input stays open."""
        return self.process.wait(TIMEOUT_S)

    def end(self, number: int | None = None) -> tuple[int, bytes, str]:
        """Ends it by a signal or the end of its input: status, standard output, standard error."""
        if number is not None:
            self.signal(number)
        elif self.process.stdin is not None and not self.process.stdin.closed:
            self.close_input()
        rest = b""
        if self.process.stdout is not None:
            rest = self.process.stdout.read()
        return self.wait(), self._seen + rest, self.stderr

    def succeed(self, number: int | None = None, said: str = "") -> bytes:
        """The standard output of `end`, which succeeds; standard error holds only ``said``."""
        status, output, complaints = self.end(number)
        assert (status, complaints) == (0, said)
        return output

    def cpu_s(self) -> float:
        """Processor time it has used, in seconds."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _pipe(file: IO[bytes] | None) -> int:
    assert file is not None, "it was started without that pipe"
    return file.fileno()


@contextmanager
def shared_directory() -> Iterator[Path]:
    """A new directory that other users can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name).resolve()
        path.chmod(0o755)
        yield path


class MessageQueue:
    """A SysV queue, from ``create`` to ``remove`` or inside a ``with`` block.

    Args:
        path: a file that exists.
        project: of ftok(3).
    """

    def __init__(self, path: Path, project: int = 1) -> None:
        self.path = path
        self.project = project
        self._id: int | None = None

    @property
    def options(self) -> list[str]:
        """Options that name it, with ziomon's message type."""
        return ["-Q", str(self.path), "-q", str(self.project), "-m", "3"]

    def create(self) -> None:
        self._id = sysv_queues.create(sysv.ftok(os.fsencode(self.path), self.project))

    def remove(self) -> None:
        if self._id is not None:
            gone, self._id = self._id, None
            sysv_queues.remove(gone)

    def __enter__(self) -> MessageQueue:
        self.create()
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def limit(self, limit_bytes: int) -> None:
        """Sets how many bytes it can hold."""
        assert self._id is not None
        sysv_queues.set_limit(self._id, limit_bytes)

    def __len__(self) -> int:
        assert self._id is not None
        return sysv.stat(self._id)[0]

    def await_messages(self, number: int) -> None:
        """Waits until it holds that many."""
        until(lambda: len(self) >= number, f"{number} messages")

    def take(self) -> list[bytes]:
        """Receives all its messages, which are of type 3."""
        assert self._id is not None
        return [sysv_queues.receive(self._id, 8192, 3)[1] for _ in range(len(self))]


@contextmanager
def queues(directory: Path, number: int) -> Iterator[list[MessageQueue]]:
    """That many queues; fewer than 256."""
    path = directory / "queues"
    path.touch()
    made: list[MessageQueue] = []
    try:
        for project in range(1, number + 1):
            queue = MessageQueue(path, project)
            queue.create()
            made.append(queue)
        yield made
    finally:
        for queue in made:
            queue.remove()


def outputs_of(
    data: bytes,
    directory: Path,
    *,
    stat_version: str = "0.3",
    **options: Any,
) -> reference.Outputs:
    """All four outputs of a stream as a single interval at time 0, made in this process.

    Uses everything but the reading: engine, interval, formats, queues, threads and files.
    """
    names = {"human": "human-readable", "binary": "binary", "driver": "dump-lldd", "debug": "debug"}
    paths = {name: directory / name for name in names}
    settings = OutputSettings(
        destinations={option: str(paths[name]) for name, option in names.items()},
        stat_version=stat_version,
    )
    config = Config(interval_s=1e6, outputs=settings, **options)
    said: list[str] = []
    outputs = open_outputs(settings, said.append, lossless=True)
    try:
        pipeline = Pipeline(config, outputs, said.append)
        for at in range(0, len(data), 1 << 20):
            pipeline.feed(memoryview(data)[at : at + (1 << 20)])
        pipeline.end(0, is_complete=True)
    finally:
        outputs.close()
    assert not said
    assert not outputs.failed
    return reference.Outputs(**{name: path.read_bytes() for name, path in paths.items()})
