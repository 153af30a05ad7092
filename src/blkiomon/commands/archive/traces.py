"""Find the traces that paths, globs and URLs name, and the host of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from blkiomon.errors import SourceError
from blkiomon.formats.topology import decode
from blkiomon.sources import Source, source_of
from blkiomon.sources.readers import OpenedReader, Reader, begins_like_trace
from blkiomon.sources.topology import Topology
from blkiomon.sources.trace_sets import MEMBER, MOST_NAMED, TOPOLOGY, members_of

HOST = "{host}"

READ_AHEAD_BYTES = 1 << 22
"""Bytes that are read ahead of all remote files of a trace together."""

LEAST_AHEAD_BYTES = 1 << 16
"""Bytes that are read ahead of each remote file, at least."""

EXAMINED_AT_ONCE = 16
"""Files of a directory whose beginnings are read at the same time."""

PACKED = re.compile(r"\.(gz|xz|zst|zstd)\Z")

_MARKS = (
    *("ETag", "etag", "mtime", "Last-Modified", "LastModified", "last_modified", "modified"),
    "created",
)
"""Keys of a file's info that change with the file, the best first: file systems differ."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a trace.

    Attributes:
        url: path or URL.
        size: in bytes, if known.
        mark: differs after the file has changed, such as its ETag or time of change.
    """

    url: str
    size: int | None
    mark: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace: one file, or a set with a file for each CPU.

    Attributes:
        name: path or URL; of a set its base name.
        host: the host that was traced.
        files: in the order that decides between records of equal times.
        is_local: the files are on this machine.
        notes: messages for the user.
        missing_files: files of a set that are missing.
        topology: path or URL of the host's topology, if it is beside the trace.
    """

    name: str
    host: str
    files: tuple[File, ...]
    is_local: bool
    notes: tuple[str, ...] = ()
    missing_files: int = 0
    topology: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size or 0 for file in self.files)

    def open(self, *, resync: bool, report: Callable[[str], None]) -> Source:
        """All files as one stream, merged by time; see ``open_trace``.

        Raises:
            SourceError: a file cannot be opened.
        """
        readers: list[Reader] = []
        ahead = max(LEAST_AHEAD_BYTES, READ_AHEAD_BYTES // len(self.files))
        try:
            for file in self.files:
                readers.append(_reader(file, ahead, is_local=self.is_local))
            return source_of(
                readers,
                self.name,
                self.notes,
                missing_files=self.missing_files,
                resync=resync,
                sorts=True,
                report=report,
            )
        except BaseException as error:
            for reader in readers:
                reader.close()
            if isinstance(error, SourceError) or not isinstance(error, Exception):
                raise
            at = self.files[min(len(readers), len(self.files) - 1)].url
            raise SourceError(f"cannot open {at}: {why(error)}") from error


def _reader(file: File, ahead: int, *, is_local: bool) -> Reader:
    """The bytes of a file, decompressed; of a remote one, so many are read ahead."""
    if is_local:
        return Reader(Path(file.url))
    fs, path = fsspec.url_to_fs(file.url)
    return OpenedReader(_Remote(fs, path, ahead), file.url, file.size)


def _may_be_trace(file: File, *, is_local: bool) -> bool:
    """Whether a file begins like a trace, or cannot be read: then reading it reports why."""
    if is_local and not Path(file.url).is_file():  # a pipe, or a link to a directory
        return False
    try:
        with closing(_reader(file, LEAST_AHEAD_BYTES, is_local=is_local)) as reader:
            return begins_like_trace(reader)
    except Exception:  # of the library of any protocol
        return True


class _Remote:
    """A remote file that is read once, from its beginning to its end."""

    def __init__(self, fs: Any, path: str, ahead: int) -> None:
        self._fs, self._path = fs, path
        self._file = fs.open(path, "rb", block_size=ahead)
        self._at = 0
        self._is_whole = False

    def read(self, n_bytes: int) -> bytes:
        try:
            data: bytes = self._file.read(n_bytes)
        except ValueError:  # a web server that does not support ranges
            if self._is_whole:
                raise
            self._is_whole = True
            self._file.close()
            self._file = self._fs.open(self._path, "rb", block_size=0)
            left = self._at
            while left and (passed := self._file.read(min(left, LEAST_AHEAD_BYTES))):
                left -= len(passed)
            data = self._file.read(n_bytes)
        self._at += len(data)
        return data

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Failure:
    """A source or trace that could not be read, or not to its end.

    Attributes:
        trace: its name.
        error: what is wrong.
        records, intervals: how many were read before; these count.
    """

    trace: str
    error: str
    records: int = 0
    intervals: int = 0


def why(error: BaseException) -> str:
    """The text of an error of a file system or its library, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def read_topology(url: str) -> Topology:
    """The topology in a file. Raises an exception of any kind: it cannot be read."""
    fs, path = fsspec.url_to_fs(url)
    return decode(fs.cat_file(path))


class Found(NamedTuple):
    """What was found.

    Attributes:
        traces: each once, in the order of their names.
        failures: what cannot be used.
        notes: messages for the user.
    """

    traces: list[Trace]
    failures: list[Failure]
    notes: list[str]


def find(sources: Iterable[str], host: str | None = None) -> Found:
    """Find traces.

    Args:
        sources: a file; the base name or a member of a set of per-CPU files; a directory, for all
            traces in it, at any depth; a glob; or any of these as a URL of fsspec.
        host: pattern that finds the host in the name of a trace; see ``host_pattern``.

    Of a directory, files that may be copies of other traces are left out: files beside sets, such
    as blkparse makes of them, and ``a.bin.gz`` beside ``a.bin``.

    Raises:
        ValueError: the pattern is invalid.
    """
    pattern = host_pattern(host)
    finder = _Finder()
    failures: dict[str, Failure] = {}
    for source in sources:
        try:
            finder.add(source)
        except SourceError as error:
            failures[source] = Failure(source, str(error))
    traces = []
    for name, trace in sorted(finder.found.items()):
        match = pattern.fullmatch(name)
        if match is None:
            why_not = (
                "it is in no folder that names its host: use --host"
                if host is None
                else f"its path does not match the host pattern {host}"
            )
            failures[name] = Failure(name, why_not)
        elif any("\ud800" <= c <= "\udfff" for c in name):
            # Neither Parquet nor a folder of a dataset can have that name.
            why_not = "its path is not UTF-8, and Parquet stores no other text: rename it"
            failures[name] = Failure(name, why_not)
        else:
            traces.append(replace(trace, host=match["host"]))
    return Found(traces, list(failures.values()), finder.notes())


def host_pattern(pattern: str | None) -> re.Pattern[str]:
    """A regular expression with a group "host", for the name of a trace.

    ``{host}`` matches one component of a path or a part of one, ``*`` anything, ``?`` one
    character. By default, the host is the name of the folder that holds the trace.

    Raises:
        ValueError: ``{host}`` is not in it exactly once.
    """
    if pattern is None:
        return re.compile(r"(?:.*/)?(?P<host>[^/]+)/[^/]*", re.DOTALL)
    if pattern.count(HOST) != 1:
        raise ValueError(f"the pattern of a host contains {HOST} exactly once, unlike {pattern!r}")
    parts = {"*": ".*?", "?": ".", HOST: "(?P<host>[^/]+?)"}
    pieces = re.split(r"(\*+|\?|\{host\})", pattern)
    text = "".join(parts.get(p[:1] if p[:1] == "*" else p) or re.escape(p) for p in pieces)
    return re.compile(text, re.DOTALL)


Info = dict[str, Any]


class _Finder:
    """Looks up names; lists each directory once, and does not use the cache of an earlier run."""

    def __init__(self) -> None:
        self._fresh: set[Any] = set()
        self.found: dict[str, Trace] = {}  # without their hosts
        self._left_out: dict[str, None] = {}  # names of possible copies
        self._listed: dict[tuple[str, str], dict[str, Info]] = {}

    def add(self, source: str) -> None:
        """Add the traces that a source names. Raises SourceError."""
        try:
            self._add(source)
        except SourceError:
            raise
        except Exception as error:  # of the library of any protocol
            raise SourceError(f"cannot look up {source}: {why(error)}") from error

    def notes(self) -> list[str]:
        """A message about the files that were left out and not named, if there are any."""
        names = [name for name in self._left_out if name not in self.found]
        if not names:
            return []
        if len(names) == 1:
            return [
                f"{names[0]} is left out, as another file beside it may have the same records; to "
                "read it, name it"
            ]
        more = f" and {len(names) - MOST_NAMED:,} more" * (len(names) > MOST_NAMED)
        return [
            f"{len(names):,} files are left out, as others beside them may have the same records: "
            f"{', '.join(names[:MOST_NAMED])}{more}; to read one, name it"
        ]

    def _add(self, source: str) -> None:
        fs, path = fsspec.url_to_fs(source)
        if fs not in self._fresh:  # an earlier run may have filled its cache
            self._fresh.add(fs)
            fs.invalidate_cache()
        try:
            info = fs.info(path)
        except FileNotFoundError:
            info = None
        if info is not None:
            found = {path: info}
        elif fsspec.core.has_magic(path):
            found = fs.glob(path, detail=True)
            if not found:
                raise SourceError(f"no file matches {source}")
        else:
            found = {}
        if found:
            n_used = sum(self._add_found(fs, *item) for item in sorted(found.items()))
            if not n_used:
                raise SourceError(f"no trace in {source}")
            return
        folder, _, name = path.rpartition("/")
        if not MEMBER.fullmatch(name) and self._add_set(fs, folder, name.removesuffix(".blktrace")):
            return
        raise SourceError(f"cannot open {source}: there is no such file and no {name}.blktrace.0")

    def _add_found(self, fs: Any, path: str, info: Info) -> bool:
        """Add a file with its set, or all traces in a directory; returns whether any was found."""
        if info["type"] == "directory":
            return self._add_directory(fs, path)
        folder, _, name = path.rpartition("/")
        match = MEMBER.fullmatch(name)
        if match:
            return self._add_set(fs, folder, match["base"])
        self._keep(fs, path, [(path, info)])
        return True

    def _add_directory(self, fs: Any, path: str) -> bool:
        sets: dict[tuple[str, str], None] = {}
        others: dict[str, Info] = {}
        for file, info in sorted(fs.find(path, detail=True).items()):
            folder, _, name = file.rpartition("/")
            if match := MEMBER.fullmatch(name):
                sets[folder, match["base"]] = None
            elif info.get("size") != 0:
                others[file] = info
        for of in sets:
            self._add_set(fs, *of)
        folders = {folder for folder, _ in sets}
        looks_like = partial(_may_be_trace, is_local=isinstance(fs, LocalFileSystem))
        files = [_file(fs, *item) for item in others.items()]
        # A remote store takes long to answer, and can answer many at once.
        with ThreadPoolExecutor(EXAMINED_AT_ONCE) as pool:
            are_traces = list(pool.map(looks_like, files))
        traces = {file for file, is_trace in zip(others, are_traces, strict=True) if is_trace}
        for file in sorted(traces):
            unpacked = PACKED.sub("", file)
            if file.rpartition("/")[0] in folders or (unpacked != file and unpacked in traces):
                self._left_out[_url(fs, file)] = None
            else:
                self._keep(fs, file, [(file, others[file])])
        return bool(sets or traces)

    def _add_set(self, fs: Any, folder: str, base: str) -> bool:
        files = []
        names = self._list(fs, folder)
        for name in names:
            match = MEMBER.fullmatch(name)
            if match and match["base"] == base:
                files.append((int(match["cpu"]), Path(name)))
        if not files:
            return False
        found = members_of(base, files)
        there = [str(member.path) for member in found.members]
        members = [(f"{folder}/{name}", names[name]) for name in there]
        notes = tuple(f"{_url(fs, folder)}: {note}" for note in found.notes)
        self._keep(fs, f"{folder}/{base}", members, notes, found.missing_files)
        return True

    def _keep(
        self,
        fs: Any,
        path: str,
        members: Sequence[tuple[str, Info]],
        notes: tuple[str, ...] = (),
        missing_files: int = 0,
    ) -> None:
        name = _url(fs, path)
        if name not in self.found:
            files = tuple(_file(fs, path, info) for path, info in members)
            is_local = isinstance(fs, LocalFileSystem)
            topology = self._topology_beside(fs, path)
            self.found[name] = Trace(name, "", files, is_local, notes, missing_files, topology)

    def _topology_beside(self, fs: Any, path: str) -> str | None:
        beside = f"{path.removesuffix('.blktrace')}{TOPOLOGY}"
        folder, _, name = beside.rpartition("/")
        with suppress(Exception):  # of a folder that cannot be listed
            if name in self._list(fs, folder):
                return _url(fs, beside)
        return None

    def _list(self, fs: Any, folder: str) -> dict[str, Info]:
        """The info of each file in a directory, by the name in it."""
        key = _url(fs, ""), folder
        if key not in self._listed:
            entries = fs.ls(folder, detail=True) if fs.exists(folder) else []
            self._listed[key] = {
                entry["name"].rpartition("/")[2]: entry
                for entry in entries
                if entry["type"] != "directory"
            }
        return self._listed[key]


def _url(fs: Any, path: str) -> str:
    """A path of this machine, or a URL."""
    if isinstance(fs, LocalFileSystem):
        return path
    return str(fs.unstrip_protocol(path))


def _file(fs: Any, path: str, info: Info) -> File:
    if info.get("size") is None:  # the listing of a web server has no sizes
        with suppress(Exception):  # opening it reports the error
            info = fs.info(path)
    mark = next((str(info[key]) for key in _MARKS if info.get(key) is not None), "")
    return File(_url(fs, path), info.get("size"), mark)
