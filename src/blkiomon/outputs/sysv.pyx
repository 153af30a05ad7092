# cython: language_level=3
"""System V message queues: the calls that the queue output needs.

No call blocks. A call that fails raises OSError with its errno. See sysv.pyi for what users need to
know.
"""

from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport ENOENT

cdef extern from "<sys/types.h>" nogil:
    ctypedef int key_t

cdef extern from "<sys/ipc.h>" nogil:
    enum:
        IPC_NOWAIT
        IPC_PRIVATE
        IPC_STAT
    key_t c_ftok "ftok" (const char *path, int project)

cdef extern from "<sys/msg.h>" nogil:
    struct msqid_ds:
        unsigned long msg_qnum
        unsigned long msg_qbytes
    int c_msgget "msgget" (key_t key, int flags)
    int c_msgsnd "msgsnd" (int queue, const void *message, size_t size, int flags)
    int c_msgctl "msgctl" (int queue, int command, msqid_ds *status)


cdef int checked(int result) except -1:
    """The result of a call. Raises OSError with errno if it is -1."""
    if result == -1:
        PyErr_SetFromErrno(OSError)
    return result


def ftok(bytes path not None, int project):
    return checked(c_ftok(path, project))


def msgget(key_t key):
    # Key 0 is IPC_PRIVATE: msgget() would create a queue that no other process can find.
    if key == IPC_PRIVATE:
        raise OSError(ENOENT, "No queue has key 0")
    return checked(c_msgget(key, 0))


def msgsnd(int queue, long kind, bytes body not None):
    cdef bytes message = (<char *> &kind)[:sizeof(kind)] + body     # struct msgbuf
    checked(c_msgsnd(queue, <const char *> message, len(body), IPC_NOWAIT))


def stat(int queue):
    cdef msqid_ds status
    checked(c_msgctl(queue, IPC_STAT, &status))
    return status.msg_qnum, status.msg_qbytes
