"""Parquet: the flat table and the histogram of d2c, usually with one row group per interval.

A Parquet file cannot be read before its footer is written, when the output is closed. For output
that survives a crash, write to a directory: there, each interval is a file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from blkiomon.errors import MissingLibrary
from blkiomon.formats import flat_table as table
from blkiomon.formats.binary_codec import to_bytes
from blkiomon.formats.rendering import Format, FormatOptions, NameOf
from blkiomon.interval.distribution import bin_bounds
from blkiomon.interval.value import Interval
from blkiomon.sources.devices import nameless

INTERVAL = "interval"
"""Name of the column with ``to_bytes``."""


def output_format(options: FormatOptions) -> Format:
    """``--parquet``. Raises MissingLibrary."""
    parquet = ParquetFormat(options.name_of)
    return Format((Interval,), parquet.render, finish=parquet.finish)


class ParquetFormat:
    """Encodes intervals as Parquet; the pieces that the methods return, concatenated, are the file.

    Args:
        name_of: maps a device number to a device name, or None.
        with_bytes: add a column ``INTERVAL``: ``to_bytes`` in the row of the total, else null.

    Raises:
        MissingLibrary: pyarrow is not installed.
    """

    def __init__(self, name_of: NameOf = nameless, *, with_bytes: bool = False) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise MissingLibrary("Parquet needs pyarrow: pip install 'blkiomon[arrow]'") from error
        self._name_of = name_of
        self._arrow = pyarrow
        self._schema = _schema(pyarrow, with_bytes)
        self._with_bytes = with_bytes
        self._begin()

    def _begin(self) -> None:
        self._bytes = _Pieces()
        self._writer = self._arrow.parquet.ParquetWriter(
            self._bytes, self._schema, compression="zstd", use_dictionary=["device", "name", "op"]
        )

    def render(self, interval: Interval) -> Iterator[bytes]:
        """The row group of an interval; for the first one also the beginning of the file."""
        return self.render_together([interval])

    def render_together(self, intervals: Sequence[Interval]) -> Iterator[bytes]:
        """One row group of several intervals; it takes less space than one for each interval."""
        pieces = [rows for interval in intervals for rows in table.rows(interval, self._name_of)]
        columns: list[list[Any]] = [
            list(chain.from_iterable(c.values(rows) or [None] * len(rows) for rows in pieces))
            for c in table.COLUMNS
        ]
        starts = [i.start_ns if i.anchored else None for i in intervals]
        lengths = [len(interval.columns().keys) for interval in intervals]
        columns[_START] = [s for s, n in zip(starts, lengths, strict=True) for _ in range(n)]
        arrays = [self._array(c, f.type) for c, f in zip(columns, self._schema)]
        d2c = [interval.columns().d2c_ns.histograms for interval in intervals]
        ends = np.cumsum(np.concatenate([[0], *(np.diff(h.starts) for h in d2c)]), dtype=np.int32)
        for parts in ([bin_bounds(h.bins)[0] for h in d2c], [h.counts for h in d2c]):
            arrays.append(self._arrow.ListArray.from_arrays(ends, np.concatenate(parts)))
        if self._with_bytes:
            values = [
                value
                for interval, n in zip(intervals, lengths, strict=True)
                for value in (*[None] * (n - 1), to_bytes(interval))
            ]
            arrays.append(self._arrow.array(values, self._arrow.binary()))
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


def _schema(arrow: Any, with_bytes: bool) -> Any:
    types = {
        "count": arrow.uint64(),
        "time": arrow.int64(),
        "real": arrow.float64(),
        "text": arrow.string(),
    }
    fields = [(column.name, types[column.kind]) for column in table.COLUMNS]
    fields[_START] = ("start", arrow.timestamp("ns", "UTC"))
    histogram = arrow.list_(arrow.uint64())
    fields += [("d2c_low_ns", histogram), ("d2c_count", histogram)]
    return arrow.schema(fields + [(INTERVAL, arrow.binary())] * with_bytes)


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
