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

def stat(queue: int) -> tuple[int, int]:
    """The number of messages in a queue, and how many bytes it may hold (``msg_qbytes``)."""
