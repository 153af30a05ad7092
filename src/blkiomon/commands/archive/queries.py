"""Percentiles of the rows of a dataset, for polars, pandas and pyarrow; ``SQL`` for DuckDB.

They equal those of ``Distribution.percentile`` over all requests of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from blkiomon.formats.json_codec import percentile_name
from blkiomon.formats.rows import QUANTITIES
from blkiomon.interval.distribution import PERCENTILES, Histograms
from blkiomon.interval.moments import U64_MAX

SQL = files("blkiomon.commands.archive").joinpath("blkiomon.sql").read_text()
"""Macros for DuckDB."""


def percentiles(
    frame: Any,
    by: str | Sequence[str] = (),
    percents: Sequence[float] = PERCENTILES,
    quantity: str = "d2c",
) -> Any:
    """Percentiles of each group of rows.

    Args:
        frame: rows of ``requests``, as a polars.DataFrame, pandas.DataFrame or pyarrow.Table.
        by: the columns to group by, such as ("host", "op"); none: all rows are one group.
        percents: from 1 to 100.
        quantity: "d2c", "q2d", "q2c" (ns) or "size" (bytes).

    Returns:
        A table of the same kind, a row for each group with requests: the columns ``by``, the
        ``count`` of requests, and a column for each percentile, such as ``p99_9``.

    Raises:
        ValueError: an unknown quantity, or a percentage is out of range.
    """
    known = {each.prefix: each for each in QUANTITIES}
    if quantity not in known:
        raise ValueError(f"unknown quantity {quantity!r}; use {', '.join(known)}")
    if not all(1 <= percent <= 100 for percent in percents):
        raise ValueError("percentages are from 1 to 100")
    keys = [by] if isinstance(by, str) else list(by)
    least, greatest = known[quantity].names()[:2]
    bins, counts = f"{quantity}_bin", f"{quantity}_count"
    names = [*dict.fromkeys([*keys, least, greatest, bins, counts])]
    module = type(frame).__module__.partition(".")[0]
    if module == "pandas":
        table = pa.Table.from_pandas(frame[names], preserve_index=False)
    else:
        table = frame.select(names) if module == "pyarrow" else frame.select(names).to_arrow()
    table = table.filter(pc.greater(pc.list_value_length(table[bins]), 0))
    columns = [_plain(table[key]) for key in keys]
    first, group = _groups(columns, table.num_rows)
    lengths = pc.list_value_length(table[bins]).to_numpy()
    histograms = Histograms.sum_by_group(
        np.repeat(group, lengths),
        pc.list_flatten(table[bins]).to_numpy().astype(np.uint32),
        pc.list_flatten(table[counts]).to_numpy().astype(np.uint64),
        len(first),
    )
    extremes = np.full(len(first), U64_MAX, np.uint64), np.zeros(len(first), np.uint64)
    for column, of, reduce in zip((least, greatest), extremes, (np.minimum, np.maximum)):
        reduce.at(of, group, table[column].to_numpy().astype(np.uint64))
    values = histograms.percentiles(*extremes, percents).astype(np.int64)
    upto = np.concatenate(([0], np.cumsum(histograms.counts, dtype=np.int64)))
    made = {key: column.take(pa.array(first)) for key, column in zip(keys, columns, strict=True)}
    made["count"] = pa.array(np.diff(upto[histograms.starts]))
    for place, percent in enumerate(percents):
        made[percentile_name(percent)] = pa.array(values[:, place])
    found = pa.table(made)
    found = found.sort_by([(key, "ascending") for key in keys]) if keys else found
    if module == "polars":
        import polars

        return polars.from_arrow(found)
    return found.to_pandas() if module == "pandas" else found


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """A column, decoded if it has a dictionary: such a column cannot be sorted."""
    column = column.combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _groups(
    columns: Sequence[pa.Array], n: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first row of each group, and the group of each of n rows."""
    if not columns:
        return np.zeros(min(n, 1), np.int64), np.zeros(n, np.int64)
    codes = [c.dictionary_encode(null_encoding="encode").indices.to_numpy() for c in columns]
    _, first, group = np.unique(
        np.stack(codes, axis=1), axis=0, return_index=True, return_inverse=True
    )
    return first, group.reshape(-1)
