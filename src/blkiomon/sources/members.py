"""Which files are meant: blktrace writes one for each CPU, ``sda.blktrace.0`` and so on."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from blkiomon.errors import SourceError

STDIN = "-"

MEMBER = re.compile(r"(?P<base>.+)\.blktrace\.(?P<cpu>0|[1-9][0-9]*)(\.(gz|xz|zst|zstd))?", re.S)
"""A member of a set. The ending only says whose it is, not how it is compressed."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file to be read."""

    path: Path | None  # None: standard input
    base: str  # of the set, without directory; of a file that is in no set, its name
    cpu: int = -1  # -1: in no set

    @property
    def rank(self) -> tuple[str, int, str]:
        """What decides the order of files."""
        return self.base, self.cpu, str(self.path)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is to read."""

    members: tuple[Member, ...]  # in order, each once
    notes: tuple[str, ...]  # what the user should be told
    missing_files: int = 0  # of CPUs between, or before, those whose files are there


Sets = dict[str, list[tuple[int, Path]]]
"""(CPU, path) of all members, by base name."""


def find_members(paths: Sequence[str | os.PathLike[str]]) -> Found:
    """Find all files that are meant by these names; see ``open_trace``.

    Raises:
        SourceError: there is nothing of a name, or it cannot be looked up.
    """
    if not paths:
        raise SourceError("there is no file to read")
    finder = _Finder()
    for path in paths:
        finder.add(os.fspath(path))
    members = sorted(finder.members.values(), key=lambda m: m.rank)
    if not members:
        raise SourceError("the files to read have just been removed")
    missing_files = sum(finder.missing_files.values())
    return Found(tuple(members), tuple(finder.notes), missing_files)


def input_files(paths: Sequence[str | os.PathLike[str]]) -> frozenset[tuple[int, int]]:
    """Device and inode of all regular files that are meant by these names, but standard input.

    Raises:
        SourceError: as ``find_members``.
    """
    found = set()
    for member in find_members(paths).members if paths else ():
        if member.path is None:
            continue
        with suppress(OSError):  # which opening it will explain
            status = member.path.stat()
            if stat.S_ISREG(status.st_mode):
                found.add((status.st_dev, status.st_ino))
    return frozenset(found)


class _Finder:
    """Looks names up; whoever names all of 1,000 members has no directory listed 1,000 times."""

    def __init__(self) -> None:
        self.members: dict[Path | None, Member] = {}  # by what tells whether it is the same file
        self.notes: list[str] = []
        self.missing_files: dict[tuple[Path, str], int] = {}  # by set
        self._listed: dict[Path, Sets] = {}
        self._added: set[tuple[Path, str]] = set()

    def add(self, name: str) -> None:
        """Add what one name stands for."""
        if name == STDIN:
            self.members[None] = Member(None, name)
            return
        path = Path(name)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            mode = 0
        except OSError as error:
            raise SourceError(f"cannot open {path}: {error.strerror}") from error

        match = MEMBER.fullmatch(path.name)
        if stat.S_ISDIR(mode):
            if not self._list(path):
                raise SourceError(f"no trace in {path}: looked for *.blktrace.0 and so on")
            for base in self._list(path):
                self._add_set(path, base)
        elif mode and not match:
            self._add_member(Member(path, path.name))
        elif mode and match:
            self._add_set(path.parent, match["base"])
        elif match:
            raise SourceError(f"cannot open {path}: there is no such file")
        else:
            base = path.name.removesuffix(".blktrace")
            if base not in self._list(path.parent):
                raise SourceError(
                    f"cannot open {path}: there is no such file "
                    f"and no {path.parent / base}.blktrace.0 or so"
                )
            self._add_set(path.parent, base)

    def _add_member(self, member: Member) -> None:
        assert member.path is not None
        self.members.setdefault(member.path.resolve(), member)

    def _add_set(self, directory: Path, base: str) -> None:
        if (directory, base) in self._added:
            return
        self._added.add((directory, base))
        found = members_of(base, self._list(directory).get(base, ()))
        for member in found.members:
            self._add_member(member)
        self.notes += [note for note in found.notes if note not in self.notes]
        self.missing_files[directory.resolve(), base] = found.missing_files

    def _list(self, directory: Path) -> Sets:
        """The sets in a directory, in order of their names."""
        if directory not in self._listed:
            sets: Sets = {}
            try:
                for path in sorted(directory.iterdir()):
                    match = MEMBER.fullmatch(path.name)
                    if match and not path.is_dir():
                        sets.setdefault(match["base"], []).append((int(match["cpu"]), path))
            except FileNotFoundError:
                pass  # nothing is in it
            except OSError as error:
                raise SourceError(f"cannot look into {directory}: {error.strerror}") from error
            self._listed[directory] = sets
        return self._listed[directory]


def members_of(base: str, files: Iterable[tuple[int, Path]]) -> Found:
    """One file for each CPU of a set, in order, and notes of what is missing or left out."""
    notes: list[str] = []
    missing_files = 0
    by_cpu: dict[int, Path] = {}
    for cpu, path in sorted(files):  # of one CPU the shortest first: the one that is not packed
        if cpu in by_cpu:
            notes.append(f"{path} is left out: {by_cpu[cpu]} is there as well")
        else:
            by_cpu[cpu] = path
    for before, after in pairwise([-1, *by_cpu]):
        if after - before > 1:
            missing_files += after - before - 1
            stem = by_cpu[after].with_name(f"{base}.blktrace")
            missing = f"{stem}.{before + 1}"
            if after - before == 2:
                missing += " is missing"
            else:
                missing += f" to {stem}.{after - 1} are missing"
            if before < 0:
                notes.append(f"{missing} before {by_cpu[after]}")
            else:
                notes.append(f"{missing} between {by_cpu[before]} and {by_cpu[after]}")
    members = tuple(Member(path, base, cpu) for cpu, path in by_cpu.items())
    return Found(members, tuple(notes), missing_files)
