"""``--user``: drops root privileges for good after all files are open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38  # of <linux/prctl.h>


class PrivilegeError(Exception):
    """Root privileges cannot be dropped as requested; the text says why."""


class User(NamedTuple):
    """The user to become."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def find_user(text: str) -> User:
    """A user of this host by ``NAME[:GROUP]``, each a name or a number.

    Raises:
        PrivilegeError: this host has no such user or group, or the user is root.
    """
    import grp
    import pwd

    name, colon, group = text.partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if _is_number(name) else pwd.getpwnam(name)
        uid, gid, groups = entry.pw_uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except (KeyError, ValueError, OverflowError):
        if not (_is_number(name) and colon and int(name) < (1 << 32) - 1):
            raise PrivilegeError(f"this host has no user {name!r}") from None
        uid, gid, groups = int(name), -1, []
    if colon:
        try:
            is_number = _is_number(group) and int(group) < (1 << 32) - 1
            groups = [g for g in groups if g != gid]
            gid = int(group) if is_number else grp.getgrnam(group).gr_gid
            groups.append(gid)
        except (KeyError, ValueError):
            raise PrivilegeError(f"this host has no group {group!r}") from None
    if uid == 0:
        raise PrivilegeError("root would keep its privileges; choose another user")
    return User(uid, gid, tuple(groups))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 12


def forbid_new_privileges() -> None:
    """Make sure that no program that this process executes gains privileges, setuid or otherwise.

    Call it as root before starting threads: a thread inherits these settings when it starts.

    Raises:
        PrivilegeError: the kernel refuses.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(option: int, argument: int) -> int:
        return int(libc.prctl(option, *map(ctypes.c_ulong, (argument, 0, 0, 0))))

    capability = 0
    while prctl(_PR_CAPBSET_READ, capability) >= 0:  # up to the last one that the kernel knows
        if prctl(_PR_CAPBSET_DROP, capability) < 0:
            why = os.strerror(ctypes.get_errno())
            raise PrivilegeError(
                f"cannot empty the capability bounding set, which takes CAP_SETPCAP: {why}"
            )
        capability += 1
    if prctl(_PR_SET_NO_NEW_PRIVS, 1) < 0:
        raise PrivilegeError(f"cannot set no_new_privs: {os.strerror(ctypes.get_errno())}")


def drop(user: User) -> None:
    """Become that user in all threads, for good. Call ``forbid_new_privileges`` before.

    Raises:
        PrivilegeError: the kernel refuses, or a way back is left; the process must end.
    """
    from pathlib import Path

    uid, gid = user.uid, user.gid
    try:
        os.setgroups(user.groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise PrivilegeError(f"cannot become user {uid}: {error.strerror}") from error
    has_left = (
        os.getresuid() == (uid,) * 3
        and os.getresgid() == (gid,) * 3
        and set(os.getgroups()) == set(user.groups)
        and all(map(_is_unprivileged, Path("/proc/self/task").iterdir()))
    )
    if not has_left or _can_return():
        raise PrivilegeError(f"user {uid} could become root again: the kernel has kept a way back")


def _is_unprivileged(thread: Path) -> bool:
    """Whether a thread has no capability and cannot get one, or has ended."""
    try:
        lines = (thread / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    fields = dict(line.split(":", 1) for line in lines)
    sets = (int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"))
    return not any(sets) and fields["NoNewPrivs"].strip() == "1"


def _can_return() -> bool:
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return False
    return True
