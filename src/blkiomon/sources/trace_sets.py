"""Find the files of a trace: blktrace writes ``sda.blktrace.0`` etc., one file per CPU."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

from blkiomon.errors import SourceError
from blkiomon.sources.readers import Reader, begins_like_trace

TOPOLOGY = ".topology.json"
"""Ends the name of the file with the topology of a trace."""

STDIN = "-"

MOST_EXAMINED = 1000
"""Entries of a directory, besides members of sets, that are searched for traces."""

MOST_NAMED = 3
"""Most of them that a message names."""

MEMBER = re.compile(r"(?P<base>.+)\.blktrace\.(?P<cpu>0|[1-9][0-9]*)(\.(gz|xz|zst|zstd))?", re.S)
"""Name of a member of a set. Whether it is compressed is decided by its content, not its name."""


class Member(NamedTuple):
    """A file to read.

    Attributes:
        path: None for standard input.
        base: base name of the set, without directory; for a file outside of sets, its name.
        cpu: -1 for a file outside of sets.
    """

    path: Path | None
    base: str
    cpu: int = -1


class Found(NamedTuple):
    """The files to read.

    Attributes:
        members: in order, each file once.
        notes: messages for the user.
        missing_files: how many CPUs below the highest CPU of their set have no file.
    """

    members: tuple[Member, ...]
    notes: tuple[str, ...]
    missing_files: int = 0


Sets = dict[str, list[tuple[int, Path]]]
"""Base name -> (CPU, path) of each member."""


def find_members(paths: Sequence[str | os.PathLike[str]]) -> Found:
    """Find the files of these paths; ``open_trace`` says what a path may be.

    Raises:
        SourceError: a path matches no file, or a directory cannot be read.
    """
    if not paths:
        raise SourceError("no file to read was given")
    finder = _Finder()
    for name in without_topologies(paths):
        finder.add(name)
    members = sorted(finder.members.values(), key=lambda m: (m.base, m.cpu, str(m.path)))
    if not members:
        raise SourceError("the files to read have just been removed")
    missing_files = sum(finder.missing_files.values())
    left_out = [path for path in finder.others if path.resolve() not in finder.members]
    notes = [*finder.notes, *(f"{path} is left out: to read it, name it" for path in left_out)]
    return Found(tuple(members), tuple(notes), missing_files)


def without_topologies(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The names without topologies, which ``run1*`` matches, too; unless there is nothing else."""
    names = [os.fspath(path) for path in paths]
    return [name for name in names if not name.endswith(TOPOLOGY)] or names


def input_files(paths: Sequence[str | os.PathLike[str]]) -> frozenset[tuple[int, int]]:
    """Device and inode of all regular files of these paths, except standard input.

    Raises:
        SourceError: see ``find_members``.
    """
    found = set()
    for member in find_members(paths).members if paths else ():
        if member.path is not None:
            with suppress(OSError):  # opening the file reports it
                status = member.path.stat()
                if stat.S_ISREG(status.st_mode):
                    found.add((status.st_dev, status.st_ino))
    return frozenset(found)


class _Finder:
    """Collects the files of paths. Lists each directory once, even for many paths in it."""

    def __init__(self) -> None:
        self.members: dict[Path | None, Member] = {}  # by resolved path
        self.notes: list[str] = []
        self.others: list[Path] = []  # traces in directories, outside of sets
        self.missing_files: dict[tuple[Path, str], int] = {}  # by set
        self._listed: dict[Path, Sets] = {}
        self._added: set[tuple[Path, str]] = set()

    def add(self, name: str) -> None:
        """Add the files of a path."""
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
            sets, others = self._list(path), _traces_outside_sets(path)
            self.others += others
            if not sets:
                raise SourceError(
                    f"no trace in {path}: looked for *.blktrace.0 and so on"
                    + (f"; {others[0]} begins like a trace: name it" if others else "")
                )
            for base in sets:
                self._add_set(path, base)
        elif mode and match:
            self._add_set(path.parent, match["base"])
        elif mode:
            self._add_member(Member(path, path.name))
        elif match:
            raise SourceError(f"cannot open {path}: no such file")
        else:
            base = path.name.removesuffix(".blktrace")
            if base not in self._list(path.parent):
                raise SourceError(
                    f"cannot open {path}: no such file, "
                    f"and no file matches {path.parent / base}.blktrace.*"
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
        """The sets in a directory, in order of their names; no sets if it does not exist."""
        if directory not in self._listed:
            sets: Sets = {}
            try:
                for path in sorted(directory.iterdir()):
                    match = MEMBER.fullmatch(path.name)
                    if match and not path.is_dir():
                        sets.setdefault(match["base"], []).append((int(match["cpu"]), path))
            except FileNotFoundError:
                pass
            except OSError as error:
                raise SourceError(f"cannot list {directory}: {error.strerror}") from error
            self._listed[directory] = sets
        return self._listed[directory]


def _traces_outside_sets(directory: Path) -> list[Path]:
    """The first files of a directory that begin like traces, but are not of blktrace's sets."""
    found: list[Path] = []
    others = (path for path in sorted(directory.iterdir()) if not MEMBER.fullmatch(path.name))
    for path in islice(others, MOST_EXAMINED):
        if path.is_file():
            with suppress(OSError, SourceError), closing(Reader(path)) as reader:
                if begins_like_trace(reader):
                    found.append(path)
        if len(found) == MOST_NAMED:
            break
    return found


def members_of(base: str, files: Iterable[tuple[int, Path]]) -> Found:
    """Choose one file for each CPU of a set; notes name the files that are missing or left out."""
    notes: list[str] = []
    by_cpu: dict[int, Path] = {}
    for cpu, path in sorted(files):  # sda.blktrace.0 sorts before sda.blktrace.0.gz
        if cpu in by_cpu:
            notes.append(f"{path} is left out: {by_cpu[cpu]} is of the same CPU")
        else:
            by_cpu[cpu] = path
    missing_files = 0
    for before, after in pairwise([-1, *by_cpu]):
        n_missing = after - before - 1
        if not n_missing:
            continue
        missing_files += n_missing
        stem = by_cpu[after].with_name(f"{base}.blktrace")
        more = " is missing" if n_missing == 1 else f" to {stem}.{after - 1} are missing"
        where = f"between {by_cpu[before]} and" if before >= 0 else "before"
        notes.append(f"{stem}.{before + 1}{more} {where} {by_cpu[after]}")
    members = tuple(Member(path, base, cpu) for cpu, path in by_cpu.items())
    return Found(members, tuple(notes), missing_files)


def topology_beside(trace: str) -> str:
    """The topology file of a trace, given its base name, one of its files or its directory.

    In a directory, it is the only such file; without any, the result has NAME in place of a name.

    Raises:
        SourceError: the directory has several such files.
    """
    if trace.endswith(TOPOLOGY):
        return trace
    if (directory := Path(trace)).is_dir():
        inside = [*directory.glob(f"*{TOPOLOGY}")] or [directory / f"NAME{TOPOLOGY}"]
        if len(inside) > 1:
            raise SourceError(
                f"{trace} has {len(inside)} topology files; name one: `--topology FILE`, or "
                "`blkiomon topology FILE`"
            )
        return str(inside[0])
    parent, slash, name = trace.rpartition("/")
    match = MEMBER.fullmatch(name)
    base = match["base"] if match else name.removesuffix(".blktrace")
    return f"{parent}{slash}{base}{TOPOLOGY}"
