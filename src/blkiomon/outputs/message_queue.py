"""SysV message queue: every device's binary struct as one message."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

from blkiomon.interval.value import Interval
from blkiomon.outputs import sysv
from blkiomon.outputs.sink import Item, Report, Sink

RETRY_S, RETRY_MOST_S = 0.001, 0.1
"""How soon a full queue is tried again: at first, and at the most after doubling."""


class MessageQueueSink(Sink):
    """An existing queue, found again when it was removed and made anew.

    Args:
        path, project: of ftok(3); the low 8 bits of ``project`` count.
        kind: type of the messages, > 0.
        render: from an interval to the bodies of its messages.
        report, options: as for ``Sink``.

    Raises:
        OSError: ``path`` cannot be looked up. That there is no queue yet is no error.
    """

    def __init__(
        self,
        path: str,
        project: int,
        kind: int,
        render: Callable[[Interval], Iterator[bytes]],
        report: Report,
        **options: Any,
    ) -> None:
        super().__init__(f"message queue {path} (id {project})", report, **options)
        self._path = os.fsencode(path)
        self._project = project
        self._kind = kind
        self._render = render
        self._id: int | None = None
        sysv.ftok(self._path, project)

    def takes(self, item: Item) -> bool:
        return isinstance(item, Interval)

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
        """Whether the message went; False where it is worth trying again. Raises OSError."""
        self._connect()
        assert self._id is not None
        try:
            sysv.msgsnd(self._id, self._kind, body)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                self._check_limit(len(body))
            elif error.errno in (errno.EIDRM, errno.EINVAL):
                gone, self._id = self._id, self._find()
                if self._id == gone:  # it is there: then it is the message
                    text = f"a message of {len(body)} bytes is longer than kernel.msgmax"
                    raise OSError(errno.EMSGSIZE, text) from error
            else:
                raise
            return False
        return True

    def _check_limit(self, size_bytes: int) -> None:
        """Raises OSError where the queue has no room for one message even when empty."""
        assert self._id is not None
        try:
            _, limit_bytes = sysv.stat(self._id)
        except OSError:  # not ours to read, or gone just now
            return
        if size_bytes > limit_bytes:
            text = f"it holds {limit_bytes} bytes, and a message takes {size_bytes}"
            raise OSError(errno.EMSGSIZE, text)

    def _find(self) -> int | None:
        """The queue's identifier, or None where there is none. Raises OSError."""
        try:
            return sysv.msgget(sysv.ftok(self._path, self._project))
        except FileNotFoundError:
            return None

    def _release(self) -> None:
        self._id = None
