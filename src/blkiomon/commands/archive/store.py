"""A dataset: intervals in Parquet files by host and day, and what is known of each trace.

    DATASET/host=web1/day=2026-11-23/TRACE.parquet
    DATASET/_manifest/TRACE.json

Files appear as a whole: on this machine by renaming, in an object store after their upload. The
manifest of a trace is written last. So a run can be stopped, and a task repeated, at any time.
"""

from __future__ import annotations

import json
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from blkiomon._version import __version__
from blkiomon.commands.archive.traces import Trace
from blkiomon.formats.binary_codec import from_bytes
from blkiomon.formats.parquet import ParquetFormat
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.value import Interval
from blkiomon.outputs.opening import make_directories, whole_file

MANIFEST = "_manifest"
SCHEMA = 1

UNKNOWN_DAY = "unknown"
"""Day of intervals whose trace does not contain the time of day."""

ROWS_A_GROUP = 1024
"""Rows that are held in memory to be written together: Parquet wants large row groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a trace.

    Attributes:
        trace: its name.
        host: the host that was traced.
        whole: all of its intervals as one, by ``to_bytes``; None if nothing was read.
        intervals, records: how many were read.
        partitions: its files in the dataset, relative to that.
        error: why it could not be read to its end.
        is_lasting: its bytes are wrong: reading them again would not help.
        notes: further messages for the user.
        was_done: it is the result of an earlier run.
    """

    trace: str
    host: str
    whole: bytes | None
    intervals: int
    records: int
    partitions: tuple[str, ...] = ()
    error: str | None = None
    is_lasting: bool = False
    notes: tuple[str, ...] = ()
    was_done: bool = False


_AS_THEY_ARE = "intervals", "records", "error", "is_lasting"
"""Fields of a result that a manifest holds."""


class Store:
    """A dataset, in a directory or at a URL of fsspec."""

    def __init__(self, url: str) -> None:
        self.fs, self.root = fsspec.url_to_fs(url)
        self._is_local = isinstance(self.fs, LocalFileSystem)

    def finished(self, trace: Trace, options: dict[str, Any]) -> Result | None:
        """The result of an earlier run for the same files and options; None if incomplete."""
        manifest = self._manifest(trace)
        try:
            if manifest["source"] != _source(trace, options):
                return None
            whole = manifest["whole"] and b64decode(manifest["whole"], validate=True)
            if whole is not None:
                from_bytes(whole)
            result = Result(
                trace=trace.name,
                host=trace.host,
                whole=whole,
                partitions=tuple(manifest["partitions"]),
                notes=tuple(manifest["notes"]),
                was_done=True,
                **{name: manifest[name] for name in _AS_THEY_ARE},
            )
            sizes = manifest["sizes"]
        except (KeyError, TypeError, ValueError):  # of another version, or damaged
            return None
        if result.error is not None and not result.is_lasting:
            return None
        return result if sizes == self._sizes(result.partitions) else None

    def finish(self, trace: Trace, options: dict[str, Any], result: Result) -> None:
        """Write the manifest of a trace, and remove files of earlier runs that it does not name."""
        earlier = self._manifest(trace).get("partitions", ())
        manifest = {
            "source": _source(trace, options),
            "blkiomon": __version__,
            "partitions": result.partitions,
            "sizes": self._sizes(result.partitions),
            "notes": result.notes,
            **{name: getattr(result, name) for name in _AS_THEY_ARE},
            "whole": result.whole and b64encode(result.whole).decode(),
        }
        with self.writing(f"{MANIFEST}/{trace.id}.json") as file:
            file.write(json.dumps(manifest).encode())
        stale = {*earlier} - {*result.partitions} if isinstance(earlier, list) else set()
        for name in stale:
            if _is_part_of(trace, name) and self.fs.exists(f"{self.root}/{name}"):
                self.fs.rm_file(f"{self.root}/{name}")
        if self._is_local:
            self._sweep(trace, result)

    def _sweep(self, trace: Trace, result: Result) -> None:
        """Remove files of a trace that killed runs have left."""
        folder = Path(self.root) / f"host={quote(trace.host, safe='')}"
        for path in folder.glob(f"day=*/.{trace.id}.*.part"):
            path.unlink(missing_ok=True)
        for path in folder.glob(f"day=*/{trace.id}.parquet"):
            if str(path.relative_to(self.root)) not in result.partitions:
                path.unlink(missing_ok=True)

    def _sizes(self, names: Iterable[str]) -> list[int | None]:
        """Bytes of each of these files of the dataset; None if it is missing."""
        sizes: list[int | None] = []
        for name in names:
            try:
                sizes.append(self.fs.info(f"{self.root}/{name}")["size"])
            except OSError:
                sizes.append(None)
        return sizes

    def _manifest(self, trace: Trace) -> dict[str, Any]:
        """The manifest of a trace; empty if it is missing or damaged."""
        try:
            found = json.loads(self.fs.cat_file(f"{self.root}/{MANIFEST}/{trace.id}.json"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write to; it gets its name when this is left without an error."""
        path = f"{self.root}/{name}"
        if not self._is_local:
            with tempfile.NamedTemporaryFile() as beside:
                yield beside.file
                beside.flush()
                self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self.fs.put_file(beside.name, path)
            return
        make_directories(Path(path).parent)
        # Readers of datasets ignore names that begin with a dot.
        with whole_file(path, f".{Path(path).stem}.{uuid4().hex}.part") as file:
            yield file


def _source(trace: Trace, options: dict[str, Any]) -> dict[str, Any]:
    """What a result depends on, for comparison with a manifest."""
    return {
        "schema": SCHEMA,
        "trace": trace.name,
        "host": trace.host,
        "files": [asdict(file) for file in trace.files],
        "options": options,
    }


def _is_part_of(trace: Trace, name: object) -> bool:
    """Whether a name in a manifest, which may be forged, is that of a partition of the trace."""
    return (
        isinstance(name, str)
        and name.startswith("host=")
        and name.endswith(f"/{trace.id}.parquet")
        and "/../" not in name
    )


def day_of(interval: Interval) -> str:
    """The day in UTC in which an interval begins."""
    if not interval.anchored:
        return UNKNOWN_DAY
    return time.strftime("%Y-%m-%d", time.gmtime(interval.start_ns // NS_PER_S))


class Partitions:
    """Writes the intervals of a trace, in the order of their time, to a file for each day."""

    def __init__(self, store: Store, trace: Trace) -> None:
        self.names: list[str] = []
        self._store = store
        self._trace = trace
        self._day: str | None = None
        self._waiting: list[Interval] = []
        self._rows = 0
        self._stack = ExitStack()

    def __enter__(self) -> Partitions:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[1] is None:
            self._end_day()
        else:
            self._stack.__exit__(*error)

    def add(self, interval: Interval) -> None:
        """Write an interval."""
        day = day_of(interval)
        if day != self._day:
            self._end_day()
            self._begin_day(day)
        self._waiting.append(interval)
        self._rows += len(interval.groups())
        if self._rows >= ROWS_A_GROUP:
            self._write_group()

    def _begin_day(self, day: str) -> None:
        name = f"host={quote(self._trace.host, safe='')}/day={day}/{self._trace.id}.parquet"
        self._file = self._stack.enter_context(self._store.writing(name))
        self._format = ParquetFormat(with_bytes=True)
        self.names.append(name)
        self._day = day

    def _end_day(self) -> None:
        if self._day is not None:
            self._write_group()
            self._file.writelines(self._format.finish())
            self._day = None
            self._stack.close()

    def _write_group(self) -> None:
        if self._waiting:
            self._file.writelines(self._format.render_together(self._waiting))
        self._waiting = []
        self._rows = 0
