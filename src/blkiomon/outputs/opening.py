"""How a file is opened for writing, so that nobody else decides which one it is.

Where anybody may write to a directory (``/tmp``), a symbolic link, a FIFO or a file of somebody
else may stand where root is about to write. The kernel can refuse that (``fs.protected_symlinks``,
``_fifos``, ``_regular``), but is not always told to: for root, we do it ourselves.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

MODE = 0o644
"""Of new files, less what the umask takes."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_LINKS = 40  # as the kernel
_ADVICE = "in a directory that anybody can write to; --follow-symlinks takes it"


def open_output(path: str, *, follow: bool = False, keep: bool = False) -> int | None:
    """Open for writing at the end, of an empty file unless ``keep``; never blocks.

    Args:
        path: as the user gave it; ``-`` is standard output.
        follow: also where, for root, somebody else may have chosen what is written to.
        keep: what the file holds stays.

    Returns:
        The descriptor, or None for a FIFO that nobody reads yet.

    Raises:
        OSError: it cannot be opened, or must not be written to.
    """
    if path == "-":
        _refuse(os.fstat(1))
        return os.dup(1)
    with _place(path, follow) as (directory, name, no_follow):
        # First without opening (closing a device that was open for writing has effects of its own),
        # and once more when it is certain what was opened.
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=directory, follow_symlinks=not no_follow)
            _refuse(status)
            _refuse_of_others(status, directory, follow)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = os.open(name, flags | no_follow, MODE, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ENXIO and stat.S_ISFIFO(
                os.stat(name, dir_fd=directory).st_mode
            ):
                return None
            raise
        try:
            status = os.fstat(fd)
            _refuse(status)
            _refuse_of_others(status, directory, follow)
            if stat.S_ISREG(status.st_mode) and not keep:
                os.ftruncate(fd, 0)
            os.set_blocking(fd, True)
        except OSError:
            os.close(fd)
            raise
    return fd


def write_whole(
    path: str | os.PathLike[str], write: Callable[[IO[bytes]], object], *, follow: bool = False
) -> None:
    """Write a file so that it is there as a whole, or not at all: what was there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path, f".blkiomon.{os.urandom(8).hex()}.new", follow=follow) as file:
        write(file)


@contextmanager
def whole_file(
    path: str | os.PathLike[str], new: str, *, follow: bool = False
) -> Iterator[IO[bytes]]:
    """As ``write_whole``, a file to write to; in the meantime its name is ``new``."""
    with _place(os.fspath(path), follow, replaces=True) as (directory, name, _):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(new, flags, MODE, dir_fd=directory)
        try:
            with open(fd, "wb") as file:
                yield file
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(new, dir_fd=directory)
            raise


def make_directories(path: str | os.PathLike[str]) -> None:
    """Make a directory, and what leads there, as far as they are missing.

    Raises:
        OSError: one of them cannot be made.
    """
    whole = os.path.abspath(path)  # noqa: PTH100 (of a name that need not be text)
    try:
        with _place(whole, False, replaces=True) as (directory, name, _):
            os.mkdir(name, dir_fd=directory)
    except FileExistsError:
        pass  # what it is shows when it is gone through
    except FileNotFoundError:
        make_directories(os.path.dirname(whole))  # noqa: PTH120
        make_directories(whole)


@contextmanager
def _place(path: str, follow: bool, *, replaces: bool = False) -> Iterator[tuple[int, str, int]]:
    """The directory of a file, its name there, and O_NOFOLLOW where that is no link to follow.

    Raises:
        OSError: there is no such directory, or a link on the way must not be followed.
    """
    if follow or os.geteuid() != 0:
        parent, name = os.path.split(path)
        directory, no_follow = os.open(parent or ".", _DIRECTORY), 0
    else:
        directory, name, no_follow = _walk(path, replaces)
    try:
        yield directory, name or ".", no_follow
    finally:
        os.close(directory)


def _walk(path: str, replaces: bool) -> tuple[int, str, int]:
    """As ``_place``, step by step: what was looked at is what is gone through."""
    steps = path.split("/")[::-1]
    directory = os.open("/" if path.startswith("/") else ".", _DIRECTORY)
    try:
        links = 0
        while True:
            name = steps.pop()
            if not steps and (replaces or not _is_link(directory, name)):
                return directory, name, os.O_NOFOLLOW
            flags = _DIRECTORY | os.O_NOFOLLOW
            if _is_link(directory, name):
                where = os.fstat(directory)
                if where.st_mode & stat.S_IWOTH:
                    raise OSError(errno.EPERM, f"{name} is a symbolic link {_ADVICE}")
                if _is_proc(where):  # only the kernel knows where these lead
                    if not steps:
                        return directory, name, 0
                    flags = _DIRECTORY
                else:
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    target = os.readlink(name, dir_fd=directory)
                    steps += target.split("/")[::-1]
                    name, flags = ("/" if target.startswith("/") else "."), _DIRECTORY
            next_one = os.open(name or ".", flags, dir_fd=directory)
            os.close(directory)
            directory = next_one
    except BaseException:
        os.close(directory)
        raise


def _is_link(directory: int, name: str) -> bool:
    try:
        status = os.stat(name or ".", dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISLNK(status.st_mode)


def _is_proc(status: os.stat_result) -> bool:
    try:
        return status.st_dev == os.stat("/proc/self").st_dev  # noqa: PTH116
    except OSError:
        return False


def _refuse(output: os.stat_result) -> None:
    """Raises OSError where writing would destroy a disk or the trace that is being read."""
    if stat.S_ISBLK(output.st_mode):
        raise OSError(errno.EPERM, "it is a block device, and outputs are files")
    try:
        source = os.fstat(0)
    except OSError:
        return
    if stat.S_ISREG(output.st_mode) and os.path.samestat(output, source):
        raise OSError(errno.EPERM, "it is the input")


def _refuse_of_others(output: os.stat_result, directory: int, follow: bool) -> None:
    """Raises OSError where root would hand out to what somebody else may have put there."""
    where = os.fstat(directory)
    if follow or os.geteuid() != 0 or not where.st_mode & stat.S_IWOTH or _is_proc(where):
        return
    is_lasting = stat.S_ISREG(output.st_mode) or stat.S_ISFIFO(output.st_mode)
    if is_lasting and output.st_uid not in (0, where.st_uid):
        raise OSError(errno.EPERM, f"it belongs to somebody else, {_ADVICE}")
