"""The sink for a SysV message queue: one message per device and interval."""

from __future__ import annotations

import errno
import os
from typing import Any

from blkiomon.formats import stats_file
from blkiomon.formats.rendering import FormatOptions
from blkiomon.interval.value import Interval
from blkiomon.outputs import sysv
from blkiomon.outputs.sink import Item, Report, Sink

RETRY_S, RETRY_MOST_S = 0.001, 0.1
"""First and longest pause before a full queue is tried again; it doubles each time."""


class MessageQueueSink(Sink):
    """``-Q``: sends to an existing queue; finds it again after it was removed and created again.

    Args:
        queue: path and project of ftok(3), of which the low 8 bits count; type of the messages.
        options: for all formats.
        report, sink_options: as for ``Sink``.

    Raises:
        OSError: ``path`` does not exist. The queue itself may still be missing.
    """

    def __init__(
        self,
        queue: tuple[str, int, int],
        options: FormatOptions,
        report: Report,
        **sink_options: Any,
    ) -> None:
        path, self._project, self._kind = queue
        super().__init__(f"message queue {path} (id {self._project})", report, **sink_options)
        self._path = os.fsencode(path)
        self._render = stats_file.renderer(options.stat_version)
        self._id: int | None = None
        sysv.ftok(self._path, self._project)

    def _connect(self) -> None:
        if self._id is None:
            self._id = self._until_there(self._find, self.name)

    def _deliver(self, item: Item) -> None:
        assert isinstance(item, Interval)
        with self._rendering():
            bodies = list(self._render(item))
        for body in bodies:
            retry_s = RETRY_S
            while not self._send(body):
                self._pause(retry_s)
                retry_s = min(2 * retry_s, RETRY_MOST_S)
            self._progressed()

    def _send(self, body: bytes) -> bool:
        """Whether the message was sent; False if it should be tried again. Raises OSError."""
        self._connect()
        assert self._id is not None
        try:
            sysv.msgsnd(self._id, self._kind, body)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                self._check_limit(len(body))
            elif error.errno in (errno.EIDRM, errno.EINVAL):
                gone, self._id = self._id, self._find()
                if self._id == gone:  # the queue exists, so the message is at fault
                    text = f"a message of {len(body)} bytes is longer than kernel.msgmax"
                    raise OSError(errno.EMSGSIZE, text) from error
            else:
                raise
            return False
        return True

    def _check_limit(self, size_bytes: int) -> None:
        """Raises OSError if one message does not fit into the queue even when it is empty."""
        assert self._id is not None
        try:
            _, limit_bytes = sysv.stat(self._id)
        except OSError:  # not readable for us, or just removed
            return
        if size_bytes > limit_bytes:
            text = f"it holds {limit_bytes} bytes, and a message takes {size_bytes}"
            raise OSError(errno.EMSGSIZE, text)

    def _find(self) -> int | None:
        """The identifier of the queue, or None if it does not exist. Raises OSError."""
        try:
            return sysv.msgget(sysv.ftok(self._path, self._project))
        except FileNotFoundError:
            return None

    def _release(self) -> None:
        self._id = None
