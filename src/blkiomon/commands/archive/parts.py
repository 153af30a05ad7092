"""The Parquet files of a dataset.

A part is two files of one name, ``requests/day=…/part-….parquet`` and
``intervals/day=…/part-….parquet``. In each, the column host is sorted: readers skip other hosts.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from blkiomon.commands.archive.files import Files
from blkiomon.formats.rows import (
    INTERVALS_SCHEMA,
    REQUESTS_SCHEMA,
    Item,
    Tables,
    require_fit,
    to_tables,
)
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.moments import run_starts
from blkiomon.interval.value import Interval

TABLES = ("requests", "intervals")
_SCHEMAS = dict(zip(TABLES, (REQUESTS_SCHEMA, INTERVALS_SCHEMA), strict=True))

UNKNOWN_DAY = "unknown"
"""Day of intervals whose trace does not contain the time of day."""

MOST_BYTES = 256 << 20
"""Limit of a part, which its last row group may exceed."""

GROUP_ROWS = 8192
"""Rows that are held in memory to be written together: Parquet wants large row groups."""

MOST_DAYS = 32
"""Days whose parts are open at a time."""


class Part(NamedTuple):
    """A part.

    Attributes:
        name: of both files, as day=2026-11-23/part-….parquet.
        sizes: bytes of each.
        traces: the names of the traces of which it has intervals.
    """

    name: str
    sizes: tuple[int, ...]
    traces: tuple[str, ...]

    @property
    def files(self) -> dict[str, int]:
        """The size of each file, by its name in the dataset."""
        return dict(zip(files_of(self.name), self.sizes, strict=True))


def files_of(name: str) -> list[str]:
    """The two files of a part."""
    return [f"{table}/{name}" for table in TABLES]


def day_of(interval: Interval) -> str:
    """The day in UTC in which an interval begins."""
    if not interval.anchored:
        return UNKNOWN_DAY
    return time.strftime("%Y-%m-%d", time.gmtime(interval.start_ns // NS_PER_S))


class _Open:
    """A part that is being written."""

    def __init__(self, files: Files, name: str) -> None:
        self._name = name
        self._stack = ExitStack()
        self._traces: dict[str, None] = {}
        with ExitStack() as stack:
            self._files = [stack.enter_context(files.writing(each)) for each in files_of(name)]
            self._writers = {
                table: pq.ParquetWriter(file, _SCHEMAS[table], compression="zstd")
                for table, file in zip(TABLES, self._files, strict=True)
            }
            self._stack = stack.pop_all()

    @property
    def size(self) -> int:
        return self._files[0].tell()

    def write(self, tables: Tables) -> None:
        for table in TABLES:
            self.write_table(table, getattr(tables, table))

    def write_table(self, name: str, table: pa.Table) -> None:
        self._traces.update(dict.fromkeys(pc.unique(table["trace"]).to_pylist()))
        self._writers[name].write_table(table)

    def close(self) -> Part:
        for writer in self._writers.values():
            writer.close()
        sizes = tuple(file.tell() for file in self._files)
        self._stack.close()
        return Part(self._name, sizes, tuple(self._traces))

    def abort(self) -> None:
        with suppress(Exception):  # the disk may be full
            for writer in self._writers.values():
                writer.close()
        self._stack.__exit__(RuntimeError, RuntimeError(), None)  # an error removes the files


class PartWriter:
    """Writes intervals to a part for each day. Leave it as a context manager.

    Args:
        files: of the dataset.
        prefix: of the names of all parts, which no other writer has.

    Attributes:
        parts: those that are complete.
    """

    def __init__(self, files: Files, prefix: str) -> None:
        self.parts: list[Part] = []
        self._files, self._prefix = files, prefix
        self._open: dict[str, _Open] = {}
        self._waiting: dict[str, list[Item]] = {}
        self._rows = 0

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[1] is None:
                self._write_groups()
                while self._open:
                    self._close(next(iter(self._open)))
        finally:
            for part in self._open.values():
                part.abort()

    def add(self, item: Item) -> None:
        """Write an interval. Raises IntervalError: it does not fit; others can still be added."""
        require_fit(item.interval)
        self._waiting.setdefault(day_of(item.interval), []).append(item)
        self._rows += 1 + len(item.interval.rows)
        if self._rows >= GROUP_ROWS:
            self._write_groups()

    def _write_groups(self) -> None:
        for day, items in self._waiting.items():
            if day not in self._open:
                if len(self._open) >= MOST_DAYS:
                    self._close(next(iter(self._open)))
                number = len(self.parts) + len(self._open)
                name = f"day={day}/part-{self._prefix}-{number}.parquet"
                self._open[day] = _Open(self._files, name)
            self._open[day].write(to_tables(items))
            if self._open[day].size >= MOST_BYTES:
                self._close(day)
        self._waiting.clear()
        self._rows = 0

    def _close(self, day: str) -> None:
        self.parts.append(self._open[day].close())
        del self._open[day]


def rewrite(
    files: Files, inputs: Sequence[str], name: str, dropped: Collection[str] = ()
) -> Part | None:
    """Merge parts into one, which is hidden; returns None if nothing is left.

    Args:
        files: of the dataset.
        inputs: names of the parts.
        name: of the new part.
        dropped: traces that are left out.
    """
    has_rows = False
    output = _Open(files, name)
    try:
        for table in TABLES:
            with ExitStack() as stack:
                opened = [
                    stack.enter_context(files.open(f"{table}/{each}")) for each in sorted(inputs)
                ]
                for rows in _grouped(_sorted(opened, dropped)):
                    has_rows = True
                    output.write_table(table, rows)
        if has_rows:
            return output.close()
    except BaseException:
        output.abort()
        raise
    output.abort()
    return None


def _sorted(opened: Iterable[Any], dropped: Collection[str]) -> Iterator[pa.Table]:
    """The rows of several files, by host; a row group of each is in memory."""
    parts = heapq.merge(*(_by_host(file, dropped) for file in opened), key=lambda part: part[0])
    return (table for _, table in parts)


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """The rows of a file; pyarrow cannot read lists of structs across row groups in batches."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(GROUP_ROWS, row_groups=[group])


def _by_host(file: Any, dropped: Collection[str]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of a file, host by host."""
    names_dropped = pa.array(sorted(dropped), pa.string())
    for batch in _batches(pq.ParquetFile(file)):
        table = pa.Table.from_batches([batch])
        if dropped:
            trace = table["trace"].cast(pa.string())
            table = table.filter(pc.invert(pc.is_in(trace, value_set=names_dropped)))
        hosts = table["host"].unify_dictionaries().combine_chunks()
        starts = run_starts(hosts.indices.to_numpy())
        names = hosts.take(pa.array(starts)).to_pylist()
        ends = [*starts[1:].tolist(), table.num_rows]
        for host, start, end in zip(names, starts.tolist(), ends):
            yield host, table.slice(start, end - start)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of some thousand rows."""
    some: list[pa.Table] = []
    rows = 0
    for table in tables:
        some.append(table)
        rows += table.num_rows
        if rows >= GROUP_ROWS:
            yield pa.concat_tables(some).unify_dictionaries()
            some, rows = [], 0
    if some:
        yield pa.concat_tables(some).unify_dictionaries()
