"""What tests do to System V message queues, by libc: what ``blkiomon.outputs.sysv`` lacks.

No call blocks. A call that fails raises OSError with its errno.
"""

from __future__ import annotations

import ctypes
import os
import struct

from blkiomon.outputs import sysv

_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATE, _EXCLUSIVE, _NOWAIT = 0o1000, 0o2000, 0o4000
_REMOVE, _SET, _STAT = 0, 1, 2
_TYPE_BYTES = ctypes.sizeof(ctypes.c_long)


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def create(key: int) -> int:
    """Make a new queue; returns its identifier."""
    # The packaged program asks for these rights, and for ever if it is refused.
    return _checked(_LIBC.msgget(ctypes.c_int(key), _CREATE | _EXCLUSIVE | 0o700))


def remove(queue: int) -> None:
    """Remove a queue and what is in it."""
    _checked(_LIBC.msgctl(queue, _REMOVE, None))


def receive(queue: int, size: int, kind: int = 0) -> tuple[int, bytes]:
    """Take the next message (of type ``kind`` unless 0): its type, and at most ``size`` bytes."""
    message = ctypes.create_string_buffer(_TYPE_BYTES + size)
    length = _checked(
        _LIBC.msgrcv(queue, message, ctypes.c_size_t(size), ctypes.c_long(kind), _NOWAIT)
    )
    (found,) = struct.unpack_from("@l", message)
    return found, message.raw[_TYPE_BYTES : _TYPE_BYTES + length]


def set_limit(queue: int, limit_bytes: int) -> None:
    """Set how many bytes a queue may hold."""
    status = ctypes.create_string_buffer(256)  # struct msqid_ds
    _checked(_LIBC.msgctl(queue, _STAT, status))
    _, limit_now = sysv.stat(queue)
    at = status.raw.index(struct.pack("@L", limit_now))  # of msg_qbytes
    struct.pack_into("@L", status, at, limit_bytes)
    _checked(_LIBC.msgctl(queue, _SET, status))
