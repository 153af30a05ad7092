"""Which files are meant: blktrace writes one for each CPU, ``sda.blktrace.0`` and so on."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from blkiomon.errors import SourceError

STDIN = "-"

_MEMBER = re.compile(r"(?P<base>.+)\.blktrace\.(?P<cpu>0|[1-9][0-9]*)(\.(gz|xz|zst|zstd))?", re.S)
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


def find_members(paths: Sequence[str | os.PathLike[str]]) -> Found:
    """Find all files that are meant by these names; see ``open_trace``.

    Raises:
        SourceError: there is nothing of a name, or it cannot be looked up.
    """
    members: dict[Path | None, Member] = {}  # by what tells whether it is the same file
    notes: dict[str, None] = {}
    if not paths:
        raise SourceError("there is no file to read")
    for path in paths:
        for item in _find(os.fspath(path)):
            if isinstance(item, str):
                notes[item] = None
            else:
                members.setdefault(item.path and item.path.resolve(), item)
    return Found(tuple(sorted(members.values(), key=lambda m: m.rank)), tuple(notes))


def _find(name: str) -> Iterator[Member | str]:
    """The members that one name stands for, and notes."""
    if name == STDIN:
        yield Member(None, name)
        return
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = 0
    except OSError as error:
        raise SourceError(f"cannot open {path}: {error.strerror}") from error

    if stat.S_ISDIR(mode):
        sets = _list_sets(path)
        if not sets:
            raise SourceError(f"no trace in {path}: looked for *.blktrace.0 and so on")
        for base in sorted(sets):
            yield from _members_of(base, sets[base])
        return
    match = _MEMBER.fullmatch(path.name)
    if mode and not match:
        yield Member(path, path.name)
        return
    base = match["base"] if match else path.name.removesuffix(".blktrace")
    files = _list_sets(path.parent).get(base, []) if mode or not match else []
    if not files:
        looked_for = "" if match else f" and no {path.parent / base}.blktrace.0 or so"
        raise SourceError(f"cannot open {path}: there is no such file{looked_for}")
    yield from _members_of(base, files)


def _list_sets(directory: Path) -> dict[str, list[tuple[int, Path]]]:
    """The sets in a directory: (CPU, path) of all members, by base name."""
    sets: dict[str, list[tuple[int, Path]]] = {}
    try:
        for path in directory.iterdir():
            match = _MEMBER.fullmatch(path.name)
            if match and not path.is_dir():
                sets.setdefault(match["base"], []).append((int(match["cpu"]), path))
    except FileNotFoundError:
        pass  # nothing is in it
    except OSError as error:
        raise SourceError(f"cannot look into {directory}: {error.strerror}") from error
    return sets


def _members_of(base: str, files: Iterable[tuple[int, Path]]) -> Iterator[Member | str]:
    """One file for each CPU of a set, in order, and notes of what is missing or left out."""
    by_cpu: dict[int, Path] = {}
    for cpu, path in sorted(files):  # of one CPU the shortest first: the one that is not packed
        if cpu in by_cpu:
            yield f"{path} is left out: {by_cpu[cpu]} is there as well"
        else:
            by_cpu[cpu] = path
            yield Member(path, base, cpu)
    for before, after in pairwise([-1, *by_cpu]):
        if after - before > 1:
            stem = by_cpu[after].with_name(f"{base}.blktrace")
            missing = f"{stem}.{before + 1}"
            if after - before == 2:
                missing += " is missing"
            else:
                missing += f" to {stem}.{after - 1} are missing"
            if before < 0:
                yield f"{missing} before {by_cpu[after]}"
            else:
                yield f"{missing} between {by_cpu[before]} and {by_cpu[after]}"
