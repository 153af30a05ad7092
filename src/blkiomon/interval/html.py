"""HTML of intervals for notebooks: a table of figures, and a small histogram.

``groups`` and ``distribution`` import this module, so it cannot import their classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blkiomon.interval.devices import text_of

ROWS = 100
"""Most rows of a table; one more row says how many are left out."""

BARS, BAR_WIDTH, HEIGHT = 48, 8, 60

PERCENTS = (50, 99, 99.9)


def table(groups: Sequence[Any]) -> str:
    """Each ``Group`` as a row of an HTML table, times in ms."""
    heads = ["device", "op", "requests", "IOPS", "MB/s", *(f"p{p:g} ms" for p in PERCENTS)]
    heads += ["max ms", "errors"]
    rows = [_row(heads, "th"), *(_row(_cells(group), "td") for group in groups[:ROWS])]
    if len(groups) > ROWS:
        rows.append(_row([f"{len(groups) - ROWS} more"], "td"))
    return f"<table>{''.join(rows)}</table>"


def _cells(group: Any) -> list[str]:
    rates = group.iops, None if group.bytes_per_s is None else group.bytes_per_s / 1e6
    times = [*map(group.d2c_ns.percentile, PERCENTS), group.d2c_ns.max]
    return [
        "all" if group.device is None else text_of(group.device),
        group.op or "all",
        f"{group.requests:,}",
        *("" if rate is None else f"{rate:,.4g}" for rate in rates),
        *("" if time_ns is None else f"{time_ns / 1e6:,.4g}" for time_ns in times),
        f"{group.errors:,}",
    ]


def _row(cells: Sequence[str], kind: str) -> str:
    from html import escape  # slow to import

    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"


def histogram(values: Any) -> str:
    """A ``Distribution`` as bars whose widths are equal on a logarithmic scale, as SVG."""
    if not len(values.bins):
        return f"<p>{values.count} values</p>"
    least, greatest = max(values.min or 1, 1), max(values.max or 1, 2)
    edges = np.geomspace(least, max(greatest, least * 1.01), BARS + 1)
    middles = (values.low.astype(np.float64) + values.high) / 2
    places = np.clip(np.searchsorted(edges, middles, side="right") - 1, 0, BARS - 1)
    counts = np.bincount(places, values.counts.astype(np.float64), BARS)
    heights = np.ceil(counts * HEIGHT / counts.max()).astype(int).tolist()
    bars = "".join(
        f'<rect x="{place * BAR_WIDTH}" y="{HEIGHT - height}" width="{BAR_WIDTH - 1}" '
        f'height="{height}"/>'
        for place, height in enumerate(heights)
        if height
    )
    return (
        f'<svg width="{BARS * BAR_WIDTH}" height="{HEIGHT}" fill="currentColor" role="img">'
        f"<title>{values.count:,} values from {values.min:,} to {values.max:,}</title>{bars}</svg>"
    )
