"""Sources: where the bytes of a trace come from.

``members`` finds the files that are meant, ``readers`` reads one, compressed or not, ``streams``
makes one stream of them: as it is, or merged by time.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Hashable, Sequence

from blkiomon.errors import SourceError
from blkiomon.sources.members import find_members, input_files
from blkiomon.sources.readers import ContinuedReader, Reader, is_packed
from blkiomon.sources.streams import FileSource, MergedSource, Source

__all__ = [
    "ContinuedReader",
    "FileSource",
    "Source",
    "SourceError",
    "input_files",
    "is_packed",
    "open_trace",
    "source_of",
]


def open_trace(
    paths: Sequence[str | os.PathLike[str]],
    *,
    resync: bool = False,
    report: Callable[[str], None] | None = None,
) -> Source:
    """Open trace files as one stream, in order of time.

    Args:
        paths: each a file; the base name or a member of a set of per-CPU files; a directory of
            such sets; or ``-`` for standard input. What is named twice is read once.
        resync: after bytes of a file that are no record, go on at its next plausible one. For a
            single file this is left to the engine.
        report: tells the user one line.

    Raises:
        SourceError: one of them cannot be found or opened.
    """
    found = find_members(paths)
    readers: list[Reader] = []
    try:
        for member in found.members:
            readers.append(Reader(member.path))
        bases = dict.fromkeys(member.base for member in found.members)
        sets = [member.path and (member.path.parent, member.base) for member in found.members]
        name = ", ".join(bases)
        return source_of(
            readers,
            name,
            found.notes,
            missing_files=found.missing_files,
            sets=sets,
            resync=resync,
            report=report,
        )
    except OSError as error:
        _close(readers)
        if error.errno == errno.EMFILE:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            raise SourceError(
                f"{len(found.members)} files cannot be open at once: the limit is {limit}, "
                "see ulimit -n"
            ) from error
        at = found.members[len(readers)].path or "standard input"
        raise SourceError(f"cannot open {at}: {error.strerror}") from error
    except BaseException:
        _close(readers)
        raise


def source_of(
    readers: Sequence[Reader],
    name: str,
    notes: tuple[str, ...] = (),
    *,
    missing_files: int = 0,
    sets: Sequence[Hashable] = (),
    resync: bool = False,
    report: Callable[[str], None] | None = None,
) -> Source:
    """Opened files, at least one, as one stream; see ``open_trace`` and ``MergedSource``."""
    if len(readers) == 1:
        return FileSource(readers[0], notes, missing_files=missing_files, resync=resync)
    return MergedSource(
        f"{len(readers)} files of {name}",
        readers,
        notes,
        missing_files=missing_files,
        sets=sets,
        resync=resync,
        report=report,
    )


def _close(readers: Sequence[Reader]) -> None:
    for reader in readers:
        reader.close()
