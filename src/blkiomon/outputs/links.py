"""How root finds the directory of an output, and is not led elsewhere by somebody else's link.

A symbolic link is followed only if nobody but root could have made it, or moved it there: root owns
the directory that holds the link, neither its group nor others may write to it, and the same is
true of each directory that leads there. On the way there, a directory like ``/tmp`` will do as
well, which is root's, sticky, and open to everybody: nobody can move what root has there.

The kernel then opens the directory with ``openat2`` and ``RESOLVE_NO_SYMLINKS``, so that no link
counts that is made in the meantime. Kernels before 5.6 open it step by step.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

ADVICE = "where another user could have put it; --follow-symlinks allows it"
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_OPENAT2 = 437  # the number of the system call
_AT_FDCWD = -100
_RESOLVE_NO_SYMLINKS = 4
_MAX_LINKS = 40  # as the kernel


def without_links(path: str, replaces: bool) -> tuple[str, int]:
    """A path with what its links lead to in their place, and O_NOFOLLOW.

    Only root can change what this looks at, as long as it meets links that are followed. Links in
    ``/proc/PID/fd`` are the kernel's: of one that the path ends with, 0 instead of O_NOFOLLOW.

    Raises:
        OSError: somebody else could have made one of them.
    """
    done = "/" if path.startswith("/") else "."
    steps = path.split("/")[::-1]
    is_roots = True
    links = 0
    while steps:
        step = steps.pop() or "."
        where = os.lstat(done)
        is_open = bool(where.st_mode & OTHERS_WRITE)
        is_roots &= where.st_uid == 0 and (not is_open or bool(where.st_mode & stat.S_ISVTX))
        done = f"{done}/{step}"
        if not steps and replaces:
            break
        if not _is_link(done):
            continue
        if not is_roots or is_open:
            raise OSError(errno.EPERM, f"{step} is a symbolic link {ADVICE}")
        if not steps and is_proc(where):
            return done, 0
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(done)  # noqa: PTH115
        steps += target.split("/")[::-1]
        done = "/" if target.startswith("/") else os.path.dirname(done)  # noqa: PTH120
    return done, os.O_NOFOLLOW


def open_directory(path: str) -> int:
    """A directory by a path without links. Raises OSError where there is one nevertheless."""
    with suppress(NotImplementedError):
        return _openat2(path, DIRECTORY, _RESOLVE_NO_SYMLINKS)
    directory = os.open("/" if path.startswith("/") else ".", DIRECTORY)
    for step in filter(None, path.split("/")):
        try:
            below = os.open(step, DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        finally:
            os.close(directory)
        directory = below
    return directory


def _openat2(path: str, flags: int, resolve: int) -> int:
    """The system call. Raises OSError; NotImplementedError where there is none."""
    try:
        import ctypes
    except ImportError:  # some builds of Python lack it
        raise NotImplementedError from None
    how = (ctypes.c_uint64 * 3)(flags, 0, resolve)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(
        ctypes.c_long(_OPENAT2), _AT_FDCWD, os.fsencode(path), how, ctypes.c_size_t(24)
    )
    if fd >= 0:
        return int(fd)
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EPERM):  # the latter by old filters of system calls
        raise NotImplementedError
    raise OSError(number, os.strerror(number))


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def is_proc(status: os.stat_result) -> bool:
    try:
        return status.st_dev == os.stat("/proc/self").st_dev  # noqa: PTH116
    except OSError:
        return False
