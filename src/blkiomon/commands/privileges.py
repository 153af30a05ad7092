"""Root until all is open, and then somebody else for good."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38  # of <linux/prctl.h>


class PrivilegeError(Exception):
    """What root may do cannot be given up as was asked; the text says why."""


@dataclass(frozen=True, slots=True)
class User:
    """Who to become."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def find_user(text: str) -> User:
    """A user of this host, by ``NAME[:GROUP]``; numbers will do.

    Raises:
        PrivilegeError: there is none, or it is root.
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
        raise PrivilegeError("root is who is to be left")
    return User(uid, gid, tuple(groups))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 12


def bind() -> None:
    """Have nothing that this process executes gain a privilege, be it setuid or with capabilities.

    As root, and before there are threads: each has these of its own, from whichever started it.

    Raises:
        PrivilegeError: that failed.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(option: int, argument: int) -> int:
        return int(libc.prctl(option, *map(ctypes.c_ulong, (argument, 0, 0, 0))))

    capability = 0
    while prctl(_PR_CAPBSET_READ, capability) >= 0:  # up to what the kernel knows
        if prctl(_PR_CAPBSET_DROP, capability) < 0:
            why = os.strerror(ctypes.get_errno())
            raise PrivilegeError(
                f"cannot empty the capability bounding set, which takes CAP_SETPCAP: {why}"
            )
        capability += 1
    if prctl(_PR_SET_NO_NEW_PRIVS, 1) < 0:
        raise PrivilegeError(f"cannot set no_new_privs: {os.strerror(ctypes.get_errno())}")


def drop(user: User) -> None:
    """Become that user, all threads of this process, with no way back: ``bind`` was called before.

    Raises:
        PrivilegeError: that failed; the process had better end.
    """
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
        and all(map(_is_bound, Path("/proc/self/task").iterdir()))
    )
    if not has_left or _can_return():
        raise PrivilegeError(f"user {uid} could become root again: the kernel has kept a way back")


def _is_bound(thread: Path) -> bool:
    """Whether a thread has no capability, and can get none; or it has ended meanwhile."""
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
