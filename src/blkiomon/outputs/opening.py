"""Opens the files of outputs, and refuses files that an output must not change.

**Traces.** No output replaces, truncates or appends to a file that this run reads, under any name.
Nor does it change another regular file that begins like a trace or is compressed, unless the user
allows it (``Policy.overwrite``). ``check_output`` checks this without opening anything for writing.
It is called for all outputs of a run before the first one is opened; opening a file checks again.

**Files of other users, for root.** A link that another user could have made is not followed; see
``links``. In a directory that others can write to, root also refuses two kinds of files: a file or
FIFO of another user (except the owner of the directory), and a file of root with a second name (a
hard link).
``Policy.follow`` allows all of these. For other users, the kernel's own rules apply
(``fs.protected_symlinks`` and the like).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Literal, NamedTuple

from blkiomon.engine.constants import DRIVER_DATA, MAGIC
from blkiomon.errors import TraceError
from blkiomon.outputs.links import (
    ADVICE,
    DIRECTORY,
    OTHERS_WRITE,
    is_proc,
    open_directory,
    without_links,
)
from blkiomon.sources.readers import MAGIC_BYTES, is_packed

MODE = 0o644
"""Mode of new files, before the umask."""

DUMP_BYTES = 1 << 16
"""How many bytes at the front of a file show whether ``-d`` wrote it."""

_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_MAGICS = [(MAGIC | version).to_bytes(4, order) for version in (7, 8) for order in _ORDERS]

Identity = tuple[int, int]
"""Device and inode."""


class Policy(NamedTuple):
    """Which files outputs may write to.

    Attributes:
        follow: as root, follow links and accept files that another user could have put there.
        overwrite: accept files that begin like a trace.
        inputs: the files that this run reads, which are never accepted.
        is_dump: the output is of driver records (``-d``): accept a file that contains such records.
    """

    follow: bool = False
    overwrite: bool = False
    inputs: frozenset[Identity] = frozenset()
    is_dump: bool = False


DEFAULT = Policy()


def identity(status: os.stat_result) -> Identity:
    """Equal for two names of one file."""
    return status.st_dev, status.st_ino


def check_output(path: str, policy: Policy = DEFAULT, *, replaces: bool = False) -> Hashable:
    """Check that an output may write to a file; opens nothing for writing.

    Args:
        path: as the user gave it; ``-`` is standard output, unless the file is replaced.
        policy: which files outputs may write to.
        replaces: the file will be replaced, as by ``write_whole``.

    Returns:
        A key that is equal for two paths of one file; None if it is not a regular file.

    Raises:
        OSError: it must not be written to, or its directory cannot be found.
    """
    if path == "-" and not replaces:
        status = _check_stdout(policy)
        return identity(status) if stat.S_ISREG(status.st_mode) else None
    with _place(path, policy, replaces=replaces) as place:
        found = _check(place, policy, replaces=replaces)
        if found is not None:
            return identity(found) if stat.S_ISREG(found.st_mode) else None
        target = os.path.realpath(path)  # also of a link to a file that does not exist yet
        if not replaces and not place.no_follow and target != os.path.abspath(path):  # noqa: PTH100
            return check_output(target, policy)
        return *identity(os.fstat(place.directory)), place.name


def open_output(path: str, policy: Policy = DEFAULT, *, keep: bool = False) -> int | None:
    """Open for appending; truncates the file unless ``keep``; never blocks.

    Args:
        path: as the user gave it; ``-`` is standard output.
        policy: which files outputs may write to.
        keep: do not truncate the file.

    Returns:
        The descriptor, or None for a FIFO without a reader.

    Raises:
        OSError: it cannot be opened, or must not be written to.
    """
    if path == "-":
        _check_stdout(policy)
        return os.dup(1)
    with _place(path, policy) as place:
        # Check first without opening, as closing a device that was open for writing has effects of
        # its own, and check again what was opened.
        found = _check(place, policy)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = os.open(place.name, flags | place.no_follow, MODE, dir_fd=place.directory)
        except OSError as error:
            if error.errno == errno.ENXIO and found is not None and stat.S_ISFIFO(found.st_mode):
                return None
            raise
        try:
            status = os.fstat(fd)
            _refuse_input(status, policy)
            _refuse_of_others(status, os.fstat(place.directory), policy)
            is_new = found is None and status.st_size == 0
            if not is_new and not (found is not None and os.path.samestat(found, status)):
                raise OSError(errno.EAGAIN, "another file has just taken its name")
            if stat.S_ISREG(status.st_mode) and not keep:
                os.ftruncate(fd, 0)
            os.set_blocking(fd, True)
        except OSError:
            os.close(fd)
            raise
    return fd


def write_whole(
    path: str | os.PathLike[str], write: Callable[[IO[bytes]], object], policy: Policy = DEFAULT
) -> None:
    """Write or replace a file atomically: it is complete, or unchanged.

    Raises:
        OSError: it cannot be written, or must not be replaced.
    """
    with whole_file(path, f".blkiomon.{os.urandom(8).hex()}.new", policy) as file:
        write(file)


@contextmanager
def whole_file(
    path: str | os.PathLike[str], new: str, policy: Policy = DEFAULT
) -> Iterator[IO[bytes]]:
    """As ``write_whole``: a file to write to, which is named ``new`` until it is complete."""
    with _place(os.fspath(path), policy, replaces=True) as place:
        _check(place, policy, replaces=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(new, flags, MODE, dir_fd=place.directory)
        try:
            with open(fd, "wb") as file:
                yield file
            os.rename(new, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(new, dir_fd=place.directory)
            raise


def make_directories(path: str | os.PathLike[str]) -> None:
    """Make a directory and its parents, if they are missing.

    Raises:
        OSError: one of them cannot be made.
    """
    whole = os.path.abspath(path)  # noqa: PTH100 (of a name that need not be text)
    try:
        _make_directory(whole)
    except FileNotFoundError:
        make_directories(os.path.dirname(whole))  # noqa: PTH120
        _make_directory(whole)


def _make_directory(path: str) -> None:
    # If something else has this name, using it fails.
    with suppress(FileExistsError), _place(path, DEFAULT, replaces=True) as place:
        os.mkdir(place.name, dir_fd=place.directory)


# --- the directory of a file ----------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a file is, or will be."""

    directory: int
    name: str
    no_follow: int  # O_NOFOLLOW if links were resolved: one made since is not followed

    def status(self, *, follow: bool) -> os.stat_result | None:
        try:
            return os.stat(self.name, dir_fd=self.directory, follow_symlinks=follow)
        except FileNotFoundError:
            return None


@contextmanager
def _place(path: str, policy: Policy, *, replaces: bool = False) -> Iterator[_Place]:
    """Find the directory of a file.

    Raises:
        OSError: there is no such directory, or a link on the way must not be followed.
    """
    no_follow = 0
    if not policy.follow and os.geteuid() == 0:
        path, no_follow = without_links(path, replaces)
        parent, name = os.path.split(path)
        directory = open_directory(parent or ".")
    else:
        parent, name = os.path.split(path)
        directory = os.open(parent or ".", DIRECTORY)
    try:
        yield _Place(directory, name or ".", no_follow)
    finally:
        os.close(directory)


# --- checks of a file -----------------------------------------------------------------------------


def _check(place: _Place, policy: Policy, *, replaces: bool = False) -> os.stat_result | None:
    """Check that the file in a place may be written to; returns None if it does not exist.

    Raises:
        OSError: it must not be written to.
    """
    if replaces:
        target = None
        with suppress(OSError):  # a target that cannot be reached is not read by this run either
            target = place.status(follow=True)
        if target is not None:
            _refuse_input(target, policy)
    status = place.status(follow=not replaces and not place.no_follow)
    if status is None:
        return None
    _refuse_input(status, policy)
    if not replaces:
        _refuse_of_others(status, os.fstat(place.directory), policy)
    if stat.S_ISREG(status.st_mode):
        _refuse_trace(status, policy, place.name, place.directory, place.no_follow)
    return status


def _check_stdout(policy: Policy) -> os.stat_result:
    status = os.fstat(1)
    _refuse_input(status, policy)
    if stat.S_ISREG(status.st_mode):
        _refuse_trace(status, policy, "/proc/self/fd/1")
    return status


def _refuse_input(output: os.stat_result, policy: Policy) -> None:
    """Raises OSError if the output is a block device or a file that this run reads."""
    if stat.S_ISBLK(output.st_mode):
        raise OSError(errno.EPERM, "it is a block device, and outputs are files")
    inputs = {*policy.inputs}
    with suppress(OSError):
        inputs.add(identity(os.fstat(0)))
    if stat.S_ISREG(output.st_mode) and identity(output) in inputs:
        raise OSError(errno.EPERM, "this run reads it")


def _refuse_trace(
    output: os.stat_result, policy: Policy, name: str, directory: int | None = None, flags: int = 0
) -> None:
    """Raises OSError if a regular file begins like a trace and must not be overwritten."""
    if policy.overwrite or not output.st_size:
        return
    flags |= os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=directory)
    except OSError:  # it can be written but not read
        return
    try:
        head = os.pread(fd, DUMP_BYTES if policy.is_dump else MAGIC_BYTES, 0)
    finally:
        os.close(fd)
    if is_packed(head):
        raise OSError(errno.EPERM, "it is compressed, as traces are; --overwrite replaces it")
    if head[:4] in _MAGICS and not (policy.is_dump and _is_dump(head)):
        raise OSError(errno.EPERM, "it begins like a trace; --overwrite replaces it")


def _is_dump(head: bytes) -> bool:
    """Whether a file begins with driver records only, as ``-d`` writes them."""
    from blkiomon._core import Engine  # slow to import

    engine = Engine(keep_records=True)
    with suppress(TraceError):  # other outputs may have written there, too
        engine.feed(head)
    records = engine.take_records()
    return len(records) > 0 and bool((records["action"] & DRIVER_DATA).all())


def _refuse_of_others(output: os.stat_result, where: os.stat_result, policy: Policy) -> None:
    """Raises OSError if root would write to a file that another user may have put there."""
    if policy.follow or os.geteuid() != 0 or is_proc(where):
        return
    if where.st_uid == 0 and not where.st_mode & OTHERS_WRITE:
        return
    is_regular = stat.S_ISREG(output.st_mode)
    if not is_regular and not stat.S_ISFIFO(output.st_mode):
        return
    if output.st_uid not in (0, where.st_uid):
        raise OSError(errno.EPERM, f"it belongs to another user, and is {ADVICE}")
    if is_regular and output.st_uid == 0 and output.st_nlink > 1:
        raise OSError(errno.EPERM, f"it is a hard link {ADVICE}")
