"""Root until all is open, and then somebody else for good."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


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


def drop(user: User) -> None:
    """Become that user, all threads of this process, with no way back.

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
        and _has_no_capabilities()
    )
    if not has_left or _can_return():
        raise PrivilegeError(f"user {uid} could become root again: the kernel has kept a way back")


def _has_no_capabilities() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    sets = [line.split() for line in lines if line.startswith(("CapPrm:", "CapEff:"))]
    return all(int(value, 16) == 0 for _, value in sets)


def _can_return() -> bool:
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return False
    return True
