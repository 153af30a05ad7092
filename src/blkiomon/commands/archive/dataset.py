"""A dataset: Parquet files by day, and a manifest of the traces that are in them.

    DATASET/requests/day=2026-11-23/part-….parquet
    DATASET/intervals/day=2026-11-23/part-….parquet
    DATASET/_manifest/00000007-0a1b2c3d.jsonl
    DATASET/_manifest/lock
    DATASET/blkiomon.sql

Only the process that holds the lock changes the manifest and publishes parts. Each run appends to
a manifest of its own. Each line lists parts that are added and removed, and traces that are done or
dropped. All lines replayed in order give the dataset. So a run can be killed at any time; the next
one completes the last change that the manifest lists, and removes files that it does not list.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from itertools import starmap
from typing import Any
from uuid import uuid4

from blkiomon._version import __version__
from blkiomon.commands.archive.files import Files
from blkiomon.commands.archive.options import DatasetError, TraceOptions
from blkiomon.commands.archive.parts import TABLES, Part, files_of, rewrite
from blkiomon.commands.archive.queries import SQL
from blkiomon.commands.archive.results import Result
from blkiomon.commands.archive.traces import Trace, why
from blkiomon.commands.options import Period, Selection
from blkiomon.formats.binary_codec import from_bytes, to_bytes

MANIFEST = "_manifest"
LOCK = f"{MANIFEST}/lock"
MACROS = "blkiomon.sql"
SCHEMA = 2

MOST_MANIFESTS = 8
"""When a run finds more, it merges them into one."""

SMALL_BYTES = 64 << 20
LARGE_BYTES = 192 << 20
"""``compact`` merges parts that are smaller than ``SMALL_BYTES`` up to ``LARGE_BYTES`` in all."""

MERGED_AT_ONCE = 32
"""Most parts that are merged at once: a row group of each is in memory."""

_PART = re.compile(r"day=(?:unknown|\d{4,}-\d\d-\d\d)/part-[0-9a-z-]+\.parquet")
_MANIFEST = re.compile(rf"{MANIFEST}/(\d{{8,}})-[0-9a-f]+\.jsonl")

Line = dict[str, Any]


class Dataset:
    """A dataset that this process may change; see ``locked``.

    Attributes:
        files: its files.
        run: the id of this run, which no other has.
        lost: traces that were removed, as a file of theirs was missing or damaged.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.lost: set[str] = set()
        self._done: dict[str, Line] = {}  # by the name of a trace
        self._parts: dict[str, Part] = {}
        manifests = sorted(filter(_MANIFEST.fullmatch, files.sizes(MANIFEST)))
        for name in manifests:
            for text in files.read(name).splitlines():
                # A line is cut short if its run was killed.
                with suppress(AttributeError, KeyError, TypeError, ValueError):
                    self._apply(json.loads(text))
        number = 1 + int(manifests[-1][len(MANIFEST) + 1 :].partition("-")[0] if manifests else 0)
        self.run = f"{number:08}-{uuid4().hex[:8]}"
        self._fd: int | None = None
        self._lines = 0
        self._recover()
        if not files.sizes(MACROS):
            with files.writing(MACROS) as file:
                file.write(SQL.encode())
            files.publish(MACROS)
        if len(manifests) > MOST_MANIFESTS:
            self._write({"done": list(self._done.values()), "add": self._parts.values()})
            for name in manifests:
                files.remove(name)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    # --- the manifest -----------------------------------------------------------------------------

    def _apply(self, line: Line) -> None:
        """Change the state as a line says. Raises an exception if it is damaged."""
        added = [
            Part(name, tuple(map(int, sizes)), tuple(map(str, traces)))
            for name, sizes, traces in line.get("add", ())
        ]
        if not all(_PART.fullmatch(part.name) and len(part.sizes) == len(TABLES) for part in added):
            raise ValueError("a part of another name")
        done = {str(entry["trace"]): entry for entry in line.get("done", ())}
        for name in line.get("drop", ()):
            self._done.pop(name, None)
        for name in line.get("remove", ()):
            self._parts.pop(name, None)
        self._parts |= {part.name: part for part in added}
        self._done |= done

    def _write(self, line: Line) -> None:
        """Append a line to the manifest of this run; it is on the disk afterwards."""
        data = json.dumps(line, default=list).encode() + b"\n"
        if not self.files.is_local:
            self.files.put(f"{MANIFEST}/{self.run}{self._lines:06x}.jsonl", data)
            self._lines += 1
            return
        if self._fd is None:
            self._fd = self.files.appending(f"{MANIFEST}/{self.run}.jsonl")
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        os.fsync(self._fd)

    def _commit(self, line: Line) -> None:
        """Change the dataset as a line says. Its new parts must have been written, hidden."""
        line = {name: list(of) for name, of in line.items() if of}
        removed = [n for name in line.get("remove", ()) for n in files_of(name)]
        self._write(line)
        for name in removed:
            self.files.remove(name)
        self._apply(json.loads(json.dumps(line, default=list)))
        for part in line.get("add", ()):
            for name in part.files:
                self.files.publish(name)

    def _recover(self) -> None:
        """Complete the last change of a run that was killed, and remove what it left."""
        found = {name: size for table in TABLES for name, size in self.files.sizes(table).items()}
        expected = {
            name: size for part in self._parts.values() for name, size in part.files.items()
        }
        for name, size in expected.items():
            hidden = self.files.hidden(name)
            if found.get(name) != size and found.get(hidden) == size:
                self.files.publish(name)
                found[name] = found.pop(hidden)
        for name in found.keys() - expected.keys():
            folder, _, last = name.rpartition("/")
            table, _, day = folder.partition("/")
            is_ours = _PART.fullmatch(f"{day}/{last.removeprefix('.')}") or last.endswith(".new")
            if table in TABLES and is_ours:
                self.files.remove(name)
        damaged = [
            part
            for part in self._parts.values()
            if any(found.get(name) != size for name, size in part.files.items())
        ]
        if damaged:
            lost = {trace for part in damaged for trace in part.traces}
            self._commit({"remove": [part.name for part in damaged], "drop": lost})
            self.drop(lost)
            self.lost = lost

    # --- traces -----------------------------------------------------------------------------------

    def finished(self, trace: Trace, options: TraceOptions) -> Result | None:
        """The result of an earlier run for the same files and options; None if there is none."""
        entry = self._done.get(trace.name)
        try:
            if entry is None or entry["source"] != _source(trace, options):
                return None
            if entry["error"] is not None and not entry["is_lasting"]:
                return None
            whole = entry["whole"] and from_bytes(b64decode(entry["whole"], validate=True))
            return Result(
                trace=trace.name,
                host=trace.host,
                whole=whole,
                notes=tuple(entry["notes"]),
                was_done=True,
                **{name: entry[name] for name in ("intervals", "records", "error", "is_lasting")},
            )
        except (KeyError, TypeError, ValueError):  # damaged
            return None

    def require_intervals(self, options: TraceOptions) -> None:
        """Raises DatasetError: intervals of the dataset have another length or selection."""
        wanted = options.interval_s, options.selection
        for entry in self._done.values():
            try:
                there = entry["source"]["options"]["interval_s"], _selection_of(entry)
            except (KeyError, TypeError, ValueError):  # damaged
                continue
            if there != wanted:
                has, asked = starmap(_intervals_text, (there, wanted))
                raise DatasetError(
                    f"{self.files.url} has other intervals ({has}) than this run ({asked}): use "
                    "the same -I and selection, or write to another dataset"
                )

    def drop(self, traces: Collection[str]) -> None:
        """Remove all intervals of these traces."""
        traces = {name for name in traces if name in self._done} | {
            trace for part in self._parts.values() for trace in part.traces if trace in traces
        }
        for part in list(self._parts.values()):
            if not traces.isdisjoint(part.traces):
                left = not traces.issuperset(part.traces)
                added = (
                    rewrite(self.files, [part.name], self._new_name(part.name), traces)
                    if left
                    else None
                )
                self._commit({"remove": [part.name], "add": [added] if added else []})
        if traces:
            self._commit({"drop": traces})

    def add(self, parts: Sequence[Part], results: Iterable[Result]) -> None:
        """Add parts, which are hidden, and the traces that they complete."""
        self._commit({"add": parts, "done": [r.entry for r in results if r.entry is not None]})

    def prune(self) -> int:
        """Drop the traces whose files are gone; returns how many.

        Raises:
            DatasetError: all are, or they cannot be looked up.
        """
        gone = {name for name, entry in self._done.items() if not self._is_there(entry)}
        if gone and len(gone) == len(self._done):
            raise DatasetError(
                f"all {len(gone)} traces of {self.files.url} are gone: is their disk mounted?"
            )
        self.drop(gone)
        return len(gone)

    def _is_there(self, entry: Line) -> bool:
        try:
            return any(self.files.exists(file["url"]) for file in entry["source"]["files"])
        except Exception as error:  # of the library of any protocol
            raise DatasetError(f"cannot look up {entry['trace']}: {why(error)}") from error

    def compact(self) -> None:
        """Merge small parts of a day."""
        by_day: dict[str, list[Part]] = {}
        for part in sorted(self._parts.values()):
            if sum(part.sizes) < SMALL_BYTES:
                by_day.setdefault(part.name.partition("/")[0], []).append(part)
        for parts in by_day.values():
            while len(parts) > 1:
                some = [parts.pop(0)]
                while parts and len(some) < MERGED_AT_ONCE:
                    if sum(sum(p.sizes) for p in (*some, parts[0])) > LARGE_BYTES:
                        break
                    some.append(parts.pop(0))
                names = [part.name for part in some]
                added = rewrite(self.files, names, self._new_name(names[0]))
                if added is not None:
                    self._commit({"remove": names, "add": [added]})
                    if sum(added.sizes) < SMALL_BYTES:
                        parts.append(added)

    def _new_name(self, old: str) -> str:
        return f"{old.partition('/')[0]}/part-{self.run}-{uuid4().hex[:8]}.parquet"


def entry_of(trace: Trace, options: TraceOptions, result: Result) -> Line:
    """What the manifest holds of a trace that was read."""
    return {
        "trace": trace.name,
        "source": _source(trace, options),
        "blkiomon": __version__,
        "intervals": result.intervals,
        "records": result.records,
        "error": result.error,
        "is_lasting": result.is_lasting,
        "notes": result.notes,
        "whole": result.whole and b64encode(to_bytes(result.whole)).decode(),
    }


def _source(trace: Trace, options: TraceOptions) -> Line:
    """What a result depends on."""
    return {
        "schema": SCHEMA,
        "host": trace.host,
        "files": [asdict(file) for file in trace.files],
        "options": options.stored(),
    }


def _selection_of(entry: Line) -> Selection:
    """Which requests of a trace the dataset has."""
    stored = entry["source"]["options"]
    period = Period(**{name: stored[name] for name in Period._fields if name in stored})
    return Selection(tuple(stored.get("devices", ())), tuple(stored.get("ops", ())), period)


def _intervals_text(interval_s: float | None, selection: Selection) -> str:
    length = "whole traces" if interval_s is None else f"{interval_s:g} s"
    return f"{length}, {f'only {selection.text}' if selection.text else 'all requests'}"


@contextmanager
def locked(url: str, *, may_create: bool = True) -> Iterator[Dataset]:
    """A dataset that no other run uses meanwhile.

    Args:
        url: a directory, or a URL of fsspec.
        may_create: make it if it is missing.

    Raises:
        DatasetError: another run uses it, or it cannot be used.
    """
    with ExitStack() as stack:
        try:
            files = Files(url)
            if not may_create and not files.sizes(MANIFEST):
                raise DatasetError(f"{url} is not a dataset of blkiomon archive")
            (_lock_local if files.is_local else _lock_remote)(files, stack)
            dataset = Dataset(files)
        except DatasetError:
            raise
        except Exception as error:  # of any file system
            raise DatasetError(f"cannot use {url}: {why(error)}") from error
        stack.callback(dataset.close)
        yield dataset


def _who() -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return f"process {os.getpid()} on {socket.gethostname()} since {now} UTC"


def _lock_local(files: Files, stack: ExitStack) -> None:
    """The kernel frees this lock when the process ends."""
    fd = files.appending(LOCK)
    stack.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = files.read(LOCK).decode(errors="replace")
        raise DatasetError(f"{files.url} is being written by another run: {holder}") from None
    os.ftruncate(fd, 0)
    os.write(fd, _who().encode())


def _lock_remote(files: Files, stack: ExitStack) -> None:
    """An object; object stores free no locks, so after a kill the user removes it."""
    mine = f"{_who()}, {uuid4().hex}".encode()
    with suppress(FileNotFoundError):
        holder = files.read(LOCK).decode(errors="replace")
        raise DatasetError(
            f"{files.url} is being written by another run: {holder}; if that is dead, remove {LOCK}"
        )
    files.put(LOCK, mine)
    if files.read(LOCK) != mine:
        raise DatasetError(f"{files.url} is being written by another run that has just begun")
    stack.callback(files.remove, LOCK)
