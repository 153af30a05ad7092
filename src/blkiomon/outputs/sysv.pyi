"""System V message queues. No call blocks; a call that fails raises OSError with its errno."""

def ftok(path: bytes, project: int) -> int:
    """The key of an existing file and the low 8 bits of ``project``, as ftok(3) makes it.

    ``(project & 0xff) << 24 | (st_dev & 0xff) << 16 | st_ino & 0xffff``, as a signed 32-bit
    number. Raises OSError if ``path`` cannot be looked up.
    """

def msgget(key: int) -> int:
    """The identifier of an existing queue; never creates one. OSError: ENOENT, EACCES."""

def msgsnd(queue: int, kind: int, body: bytes) -> None:
    """Sends one message of type ``kind`` (> 0).

    OSError: EAGAIN if the queue is full, EIDRM or EINVAL if it was removed, EINVAL if
    ``body`` is longer than the system allows (``kernel.msgmax``), EACCES.
    """

def msgrcv(queue: int, size: int, kind: int = 0) -> tuple[int, bytes]:
    """Takes the next message (of type ``kind`` unless 0): its type and at most ``size`` bytes.

    OSError: ENOMSG if there is none, E2BIG if it is longer than ``size``.
    """

def create(key: int, mode: int = 0o600) -> int:
    """Makes a new queue (key 0: a private one). OSError: EEXIST."""

def remove(queue: int) -> None:
    """Removes a queue and what is in it."""

def stat(queue: int) -> tuple[int, int]:
    """The number of messages in a queue, and how many bytes it may hold (``msg_qbytes``)."""

def set_limit(queue: int, limit_bytes: int) -> None:
    """Sets how many bytes a queue may hold."""
