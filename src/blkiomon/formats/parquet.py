"""Parquet: the flat table and the histogram of d2c, with one row group per interval.

A Parquet file cannot be read before its footer is written, when the output is closed. For output
that survives a crash, write to a directory: there, each interval is a file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from blkiomon.errors import MissingLibrary
from blkiomon.formats import flat_table as table
from blkiomon.formats.rendering import Format, FormatOptions, NameOf
from blkiomon.interval.distribution import bin_bounds
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless


def output_format(options: FormatOptions) -> Format:
    """``--parquet``. Raises MissingLibrary."""
    parquet = ParquetFormat(options.name_of)
    return Format((Interval,), parquet.render, finish=parquet.finish)


class ParquetFormat:
    """Encodes intervals as Parquet; the pieces that the methods return, concatenated, are the file.

    Args:
        name_of: maps a device number to a device name, or None.

    Raises:
        MissingLibrary: pyarrow is not installed.
    """

    def __init__(self, name_of: NameOf = nameless) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise MissingLibrary("Parquet needs pyarrow: pip install 'blkiomon[arrow]'") from error
        self._name_of = name_of
        self._arrow = pyarrow
        self._schema = _schema(pyarrow)
        self._begin()

    def _begin(self) -> None:
        self._bytes = _Pieces()
        self._writer = self._arrow.parquet.ParquetWriter(
            self._bytes, self._schema, compression="zstd", use_dictionary=["device", "name", "op"]
        )

    def render(self, interval: Interval) -> Iterator[bytes]:
        """The row group of an interval; for the first one also the beginning of the file."""
        pieces = list(table.rows(interval, self._name_of))
        columns: list[list[Any]] = [
            list(chain.from_iterable(c.values(rows) or [None] * len(rows) for rows in pieces))
            for c in table.COLUMNS
        ]
        start_ns = interval.start_ns if interval.anchored else None
        columns[_START] = [start_ns] * len(interval.columns().keys)
        arrays = [self._array(c, f.type) for c, f in zip(columns, self._schema)]
        d2c = interval.columns().d2c_ns.histograms
        for part in (bin_bounds(d2c.bins)[0], d2c.counts):
            arrays.append(self._arrow.ListArray.from_arrays(d2c.starts.astype(np.int32), part))
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        yield self._bytes.take()

    def _array(self, values: list[Any], kind: Any) -> Any:
        """A column; null replaces integers that do not fit it, such as times of a bad trace."""
        try:
            return self._arrow.array(values, kind)
        except OverflowError:
            least = 0 if kind == self._arrow.uint64() else -1 << 63
            limit = least + (1 << 64)
            fit = [v if v is not None and least <= v < limit else None for v in values]
            return self._arrow.array(fit, kind)

    def finish(self) -> Iterator[bytes]:
        """The footer. Afterwards, ``render`` begins a new file."""
        self._writer.close()
        end = self._bytes.take()
        self._begin()
        yield end


_START = [column.name for column in table.COLUMNS].index("start")


def _schema(arrow: Any) -> Any:
    types = {
        "count": arrow.uint64(),
        "time": arrow.int64(),
        "real": arrow.float64(),
        "text": arrow.string(),
    }
    fields = [(column.name, types[column.kind]) for column in table.COLUMNS]
    fields[_START] = ("start", arrow.timestamp("ns", "UTC"))
    histogram = arrow.list_(arrow.uint64())
    return arrow.schema([*fields, ("d2c_low_ns", histogram), ("d2c_count", histogram)])


class _Pieces(io.RawIOBase):
    """A file for the Parquet writer; ``take`` removes what was written."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting = bytearray()
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._waiting += data
        written = memoryview(data).nbytes
        self._position += written
        return written

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken
