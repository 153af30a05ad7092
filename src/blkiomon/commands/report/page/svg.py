"""Charts as SVG, without a script: for print, and for browsers that run none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from blkiomon.commands.report.curves import (
    LEAST_REQUESTS,
    TAIL,
    Line,
    Steps,
    a_second,
    coarse,
    distribution,
    over_time,
    percentile_curve,
    tail_place,
)
from blkiomon.formats.units import bandwidth_text, rate_text, time_text

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 200, 62, 8, 24


Shaded = Sequence[tuple[int, float, float]]


def charts(lines: Sequence[Line], shaded: Shaded = ()) -> list[str]:
    """Percentiles, p99 over time, requests and bytes a second; lines of HTML.

    Args:
        lines: what is drawn.
        shaded: number, begin and end in s of the stretches of time that are shaded.
    """
    lines = [line._replace(cells=coarse(line.cells)) for line in lines]
    end_s = max((float(line.cells.edges_s[-1]) for line in lines), default=1.0)
    in_tail = [(float(tail_place(np.array(s))), f"p{100 * s:.6g}") for s in (0.5, 0.9, 0.99, 0.999)]
    begin_s = lines[0].cells.begin_s if lines else 0.0
    in_time = [(at, f"{begin_s + at:.12g} s") for at in _ticks(end_s, 6)]
    tail = [percentile_curve(distribution(line.cells)) for line in lines]
    drawn = [
        _figure("Percentiles", lines, tail, in_tail, TAIL, time_text, is_logarithmic=True),
        _figure(
            "p99 over time",
            lines,
            [over_time(coarse(line.cells, LEAST_REQUESTS), 99) for line in lines],
            in_time,
            end_s,
            time_text,
            is_logarithmic=True,
            shaded=shaded,
        ),
    ]
    for title, column, format_ in (
        ("Requests a second", "requests", rate_text),
        ("Bandwidth", "bytes", bandwidth_text),
    ):
        steps = [a_second(line.cells, column) for line in lines]
        drawn.append(
            _figure(
                *(title, lines, steps, in_time, end_s, format_),
                is_logarithmic=False,
                shaded=shaded,
            )
        )
    return ['<div id="charts" class="charts">', *drawn, "</div>"]


def _ticks(most: float, n: int) -> list[float]:
    """Round values from 0 up to a greatest one, about n of them."""
    power = 10 ** math.floor(math.log10(most / n))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= most / n)
    return [i * step for i in range(int(most / step * (1 + 1e-12)) + 1)]


def _figure(
    title: str,
    lines: Sequence[Line],
    listed: Sequence[Steps],
    x_ticks: Sequence[tuple[float, str]],
    x_most: float,
    format_: Callable[[float], str],
    *,
    is_logarithmic: bool,
    shaded: Shaded = (),
) -> str:
    """A chart; empty if no line has a value."""
    begin_s = lines[0].cells.begin_s if lines else 0.0
    known = np.concatenate([steps.values for steps in listed])
    known = known[np.isfinite(known)]
    if not len(known):
        return ""
    if is_logarithmic:
        low, high = max(1.0, known.min()) / 1.3, max(2.0, known.max()) * 1.3
        y_ticks = [10.0**power for power in range(20) if low <= 10.0**power <= high]
    else:
        low, high = 0.0, max(known.max(), 1e-9) * 1.06
        y_ticks = _ticks(high, 4)

    def x(value: float) -> str:
        return f"{LEFT + (WIDTH - LEFT - 8) * value / x_most:.1f}"

    def y(value: float) -> str:
        share = (value - low) / (high - low)
        if is_logarithmic:
            share = math.log(max(value, low) / low) / math.log(high / low)
        return f"{HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share:.1f}"

    bottom = HEIGHT - BOTTOM
    label = ""
    parts = ['<g fill="var(--hot)" font-size="11">']
    for number, start, end in shaded:
        left = x(start)
        parts.append(f'<path fill-opacity=".09" d="M{left} {TOP}H{x(end)}V{bottom}H{left}z"/>')
        parts.append(_text(left, str(TOP + 10), f"{number}", "start"))
        times = " to ".join(f"{begin_s + s:.6g} s" for s in (start, end))
        label += f"; shaded: finding {number}, {times}"
    parts.append('</g><g stroke="var(--rule)" fill="var(--soft)" font-size="11">')
    for at, text in x_ticks:
        parts.append(f'<path d="M{x(at)} {TOP}V{bottom}"/>')
        parts.append(_text(x(at), str(bottom + 15), text, "middle"))
    for at in y_ticks:
        parts.append(f'<path d="M{LEFT} {y(at)}H{WIDTH - 8}"/>')
        parts.append(_text(str(LEFT - 5), y(at), format_(at), "end"))
    parts.append("</g>")
    for line, steps in zip(lines, listed):
        path, is_up = [], True
        for start, end, value in zip(*(column.tolist() for column in steps)):
            if not math.isfinite(value):
                is_up = True
                continue
            path.append(f"{'M' if is_up else 'L'}{x(start)} {y(value)}H{x(end)}")
            is_up = False
        dash = ' stroke-dasharray="5 3"' if line.is_dashed else ""
        stroke = f'fill="none" stroke="var(--{line.name})" stroke-width="1.6"{dash}'
        parts.append(f'<path {stroke} d="{"".join(path)}"/>')
    return (
        f"<figure><figcaption><b>{title}</b></figcaption>"
        f'<svg role="img" aria-label="{title}{label}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _text(x: str, y: str, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" stroke="none">{text}</text>'
