"""Capture for a process that gives root up: a child remains root, and leaves the host as it was.

It starts the tracing, hands over the descriptor, and then only waits: to be told to stop tracing,
to close, or for the other end to be gone, which is as good, so that here ``kill -9`` leaves nothing
set up either.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from blkiomon.sources.capture import Capture, CaptureError, Report
from blkiomon.sources.capture_methods import open_capture

_ANSWER_BYTES = 1 << 16
_GONE_MS = 5000
"""So long a process that was killed may take to let go of its descriptors."""

_STOP, _LOST, _CLOSE = b"s", b"l", b"c"


class GuardedCapture(Capture):
    """See ``Capture``; the arguments are those of ``open_capture``.

    Raises:
        CaptureError: it cannot be started. Nothing has been changed.
    """

    def __init__(self, names: Sequence[str], back_end: str, report: Report) -> None:
        self._report = report
        self._lost = 0
        # Each answer is one message, and the end of one side is seen by the other.
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        guarded = os.pidfd_open(os.getpid())
        self._pid = os.fork()
        if self._pid == 0:
            self._channel.close()
            try:
                _guard(theirs, guarded, names, back_end, report)
            finally:
                os._exit(0)
        theirs.close()
        os.close(guarded)
        answer, fds, _, _ = socket.recv_fds(self._channel, _ANSWER_BYTES, 1)
        begun = json.loads(answer or "{}")
        if not fds:
            self._channel.close()
            os.waitpid(self._pid, 0)
            raise CaptureError(begun.get("error", "what was to trace has ended by itself"))
        self.fd = fds[0]
        self.name, self.drain_s = begun["name"], begun["drain_s"]

    def stop(self) -> None:
        self._ask(_STOP)

    @property
    def lost_events(self) -> int:
        self._lost = self._ask(_LOST).get("lost_events", self._lost)
        return self._lost

    def close(self) -> None:
        if self.fd < 0:
            return
        os.close(self.fd)  # first: an open pipe holds the tracer fast
        self.fd = -1
        answer = self._ask(_CLOSE)
        self._channel.close()
        os.waitpid(self._pid, 0)
        self._lost = answer.get("lost_events", self._lost)
        self.failed = answer.get("failed", True)
        if not answer:
            self._report("the process that is to leave the host as it was has been killed")

    def _ask(self, request: bytes) -> dict[str, Any]:
        """What the guardian answers; nothing if it is gone."""
        try:
            self._channel.send(request)
            answer: dict[str, Any] = json.loads(self._channel.recv(_ANSWER_BYTES) or "{}")
        except OSError:
            return {}
        return answer


def _guard(
    channel: socket.socket, guarded: int, names: Sequence[str], back_end: str, report: Report
) -> None:
    """The child. Signals that end a run are blocked: it ends when the other process has."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGPIPE))
    # Whoever waits for the end of our standard streams waits for the other process.
    with open(os.devnull, "r+b", buffering=0) as null:
        os.dup2(null.fileno(), 0)
        os.dup2(null.fileno(), 1)
    try:
        capture = open_capture(names, back_end, report)
    except CaptureError as error:
        _answer(channel, error=str(error))
        return
    with capture:
        begun = {"name": capture.name, "drain_s": capture.drain_s}
        with suppress(OSError):  # killed meanwhile
            socket.send_fds(channel, [json.dumps(begun).encode()], [capture.fd])
        while (request := _request(channel)) not in (b"", _CLOSE):
            if request == _STOP:
                capture.stop()
            _answer(channel, lost_events=capture.lost_events)
        if not request:
            poll = select.poll()
            poll.register(guarded, select.POLLIN)
            poll.poll(_GONE_MS)
    _answer(channel, lost_events=capture.lost_events, failed=capture.failed)


def _request(channel: socket.socket) -> bytes:
    try:
        return channel.recv(1)
    except OSError:
        return b""


def _answer(channel: socket.socket, **answer: Any) -> None:
    with suppress(OSError):
        channel.send(json.dumps(answer).encode())
