"""Sources: where the bytes of a trace come from.

Files: ``trace_sets`` finds them; ``file_kinds`` recognises files that are not traces. ``readers``
reads and decompresses one file. ``streams`` makes one stream of all files: each as it is or
put in order by ``sorter``, several merged by time by ``merger``.

This host: ``capture`` captures its devices by perf events, whose rings ``perf`` reads; ``version7``
converts captured records for other programs. ``devices`` has the names and numbers of block
devices, ``topology`` their paths, LUNs and arrays.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack

from blkiomon.errors import SourceError
from blkiomon.sources.readers import ContinuedReader, Reader, is_packed
from blkiomon.sources.streams import FileSource, MergedSource, Source
from blkiomon.sources.trace_sets import find_members, input_files

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
    sorts: bool = False,
    report: Callable[[str], None] | None = None,
) -> Source:
    """Open trace files as one stream; several are merged by time.

    Args:
        paths: each a file; the base name or a member of a set of per-CPU files; a directory of
            such sets; or ``-`` for standard input. A file that is named twice is read once.
        resync: after bytes of a file that are not a record, continue at the next plausible record
            of that file. For a single file the engine does this.
        sorts: put the records of files that are not of a set of several CPUs in order of time;
            see ``FileSource``.
        report: receives messages for the user, one line each.

    Raises:
        SourceError: a file cannot be found or opened.
    """
    found = find_members(paths)
    with ExitStack() as opened:
        readers: list[Reader] = []
        try:
            for member in found.members:
                readers.append(Reader(member.path))
                opened.callback(readers[-1].close)
        except SourceError:
            raise
        except OSError as error:
            if error.errno == errno.EMFILE:
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                raise SourceError(
                    f"{len(found.members)} files cannot be open at once: the limit is {limit}; "
                    f"raise it, as with `ulimit -n {len(found.members) + 64}`"
                ) from error
            at = found.members[len(readers)].path or "standard input"
            raise SourceError(f"cannot open {at}: {error.strerror}") from error
        stream = source_of(
            readers,
            ", ".join(dict.fromkeys(member.base for member in found.members)),
            found.notes,
            missing_files=found.missing_files,
            sets=[(m.path and m.path.parent, m.base) for m in found.members],
            resync=resync,
            sorts=sorts,
            report=report,
        )
        opened.pop_all()  # the stream closes the readers
        return stream


def source_of(
    readers: Sequence[Reader],
    name: str,
    notes: tuple[str, ...] = (),
    *,
    missing_files: int = 0,
    sets: Sequence[Hashable] = (),
    resync: bool = False,
    sorts: bool = False,
    report: Callable[[str], None] | None = None,
) -> Source:
    """One stream of opened files; see ``Source``, ``open_trace`` and ``MergedSource``."""
    source: Source
    if len(readers) == 1:
        source = FileSource(readers[0], resync=resync, sorts=sorts)
    else:
        name = f"{len(readers)} files of {name}"
        source = MergedSource(name, readers, sets=sets, resync=resync, sorts=sorts, report=report)
    source.notes = notes
    source.missing_files = missing_files
    return source
