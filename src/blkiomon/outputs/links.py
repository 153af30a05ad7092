"""Finds the directory of an output for root, without following links of other users.

A symbolic link is followed only if no other user could have made it or moved it there. For that,
root must own the directory of the link, and its group and others must not be able to write to it.
The same must hold for each directory on the way. A sticky directory of root such as ``/tmp`` may
also be on the way, as other users cannot move root's directories there.

The directory is then opened with ``openat2`` and ``RESOLVE_NO_SYMLINKS``, so that a link that is
made in the meantime is not followed. On kernels before 5.6, it is opened step by step.
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
    """A path with all links resolved, and O_NOFOLLOW.

    Only root can change the directories of the links that are followed. If the path ends with a
    link in ``/proc/PID/fd``, which is the kernel's, the flag is 0 instead of O_NOFOLLOW.

    Raises:
        OSError: another user could have made one of the links.
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
    """Open a directory by a path without links. Raises OSError if it contains a link."""
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
    """The system call. Raises OSError; NotImplementedError if the kernel lacks it."""
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
    if number in (errno.ENOSYS, errno.EPERM):  # EPERM: by old filters of system calls
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
