# cython: language_level=3
"""System V message queues: the calls that the queue output and its tests need.

No call blocks. A call that fails raises OSError with its errno. See sysv.pyi for what users need to
know.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport ENOENT
from libc.string cimport memcpy

cdef extern from "<sys/types.h>" nogil:
    ctypedef int key_t

cdef extern from "<sys/ipc.h>" nogil:
    enum:
        IPC_CREAT
        IPC_EXCL
        IPC_NOWAIT
        IPC_PRIVATE
        IPC_RMID
        IPC_SET
        IPC_STAT
    key_t c_ftok "ftok" (const char *path, int project)

cdef extern from "<sys/msg.h>" nogil:
    struct msqid_ds:
        unsigned long msg_qnum
        unsigned long msg_qbytes
    int c_msgget "msgget" (key_t key, int flags)
    int c_msgsnd "msgsnd" (int queue, const void *message, size_t size, int flags)
    Py_ssize_t c_msgrcv "msgrcv" (int queue, void *message, size_t size, long kind, int flags)
    int c_msgctl "msgctl" (int queue, int command, msqid_ds *status)

# struct msgbuf: the type, then the body.
cdef struct Message:
    long kind
    char body[1]

cdef size_t HEAD = sizeof(long)


cdef Py_ssize_t checked(Py_ssize_t result) except -1:
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
    cdef size_t size = len(body)
    cdef Message *message = <Message *>PyMem_Malloc(HEAD + size)
    if message == NULL:
        raise MemoryError()
    try:
        message.kind = kind
        memcpy(<char *>message + HEAD, <const char *>body, size)
        checked(c_msgsnd(queue, message, size, IPC_NOWAIT))
    finally:
        PyMem_Free(message)


def msgrcv(int queue, size_t size, long kind=0):
    cdef Py_ssize_t length
    cdef Message *message = <Message *>PyMem_Malloc(HEAD + size)
    if message == NULL:
        raise MemoryError()
    try:
        length = checked(c_msgrcv(queue, message, size, kind, IPC_NOWAIT))
        return message.kind, PyBytes_FromStringAndSize(<char *>message + HEAD, length)
    finally:
        PyMem_Free(message)


def create(key_t key, int mode=0o600):
    return checked(c_msgget(key, IPC_CREAT | IPC_EXCL | mode))


def remove(int queue):
    checked(c_msgctl(queue, IPC_RMID, NULL))


def stat(int queue):
    cdef msqid_ds status
    checked(c_msgctl(queue, IPC_STAT, &status))
    return status.msg_qnum, status.msg_qbytes


def set_limit(int queue, unsigned long limit_bytes):
    cdef msqid_ds status
    checked(c_msgctl(queue, IPC_STAT, &status))
    status.msg_qbytes = limit_bytes
    checked(c_msgctl(queue, IPC_SET, &status))
