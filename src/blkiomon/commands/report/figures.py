"""Pictures of the charts of a page, in its layout, drawn by matplotlib."""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from textwrap import wrap
from typing import IO, Any

import numpy as np

from blkiomon.commands.report import CHARTS
from blkiomon.commands.report.access import SECTOR_BYTES, Patterns
from blkiomon.commands.report.cells import Cells, Floats, timeline
from blkiomon.commands.report.collected import Collected
from blkiomon.commands.report.curves import (
    LEAST_REQUESTS,
    TAIL,
    Line,
    Steps,
    a_second,
    by_operation,
    coarse,
    distribution,
    heat,
    latencies,
    over_time,
    percentile_curve,
    tail_place,
)
from blkiomon.commands.report.selection import OTHERS
from blkiomon.console import EXIT_OUTPUT, EXIT_USAGE
from blkiomon.engine.constants import EVERYTHING, OPS
from blkiomon.errors import ReportError
from blkiomon.formats.units import op_text
from blkiomon.interval.groups import NS_PER_S

LEFT_IN, RIGHT_IN = 7.4, 4.6
"""Widths of the charts over time, and of the others beside them."""

LETTERS_PER_IN = 11
"""Letters of a heading, on average."""

PIXELS_PER_IN = 144
"""Resolution of heat maps and dots, which are pixels within an SVG."""

# As in page.css, on white: colour-blind readers can distinguish them, which tests check.
COLOURS = {
    "read": "#0072b2",
    "write": "#d55e00",
    "discard": "#009e73",
    "flush": "#b4568f",
    "write_zeroes": "#5c3a00",
    "zone": "#5b2fd6",
    "other": "#444444",
    "A": "#0072b2",
    "B": "#d55e00",
}
INK, HOT = "#222324", "#b30047"
"""Text and axes; percentiles on a heat map."""

HEAT = ["#d6e4f1", "#96bede", "#4285be", "#144a8c", "#081842"]
"""From one request to many, as in draw.js."""

HEAT_ROWS = 72

DEVICES_SHOWN = 20

_STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.dpi": 100,
    "font.size": 9,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "grid.linewidth": 0.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "blkiomon",  # stable ids within a picture
    "text.color": INK,
    "text.parse_math": False,  # a title may hold any number of dollar signs
    "xtick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": INK,
    "ytick.labelsize": 8.5,
}


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart; ``draw`` draws it on axes of matplotlib.

    Attributes:
        is_over_time: it is in the column of those whose x axis is time.
    """

    name: str
    title: str
    draw: Callable[[Any], object]
    height_in: float = 1.7
    is_over_time: bool = True


@contextmanager
def _drawing() -> Iterator[Any]:
    """matplotlib in our style; the user's configuration does not count.

    Raises:
        ReportError: it is not installed.
    """
    # It would complain about a missing home directory or display.
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    try:
        import matplotlib
    except ImportError as error:
        raise ReportError(
            "pictures need matplotlib: pip install 'blkiomon[report]'", EXIT_OUTPUT
        ) from error
    except ValueError as error:  # MPLBACKEND names none; ours are not affected by a valid one
        raise ReportError(f"matplotlib cannot start: {error}", EXIT_OUTPUT) from error
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter of the title is not in the font
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield matplotlib


def plain(value: str) -> str:
    """A title as one line of printable text: it may hold control characters, or invalid UTF-8."""
    shown = value.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)


def check() -> None:
    """Check before long work that matplotlib is installed; raises ReportError."""
    with _drawing():
        pass


# --- files ---------------------------------------------------------------------------------------


def save(
    charts: Sequence[Chart],
    title: str,
    file: IO[bytes],
    kind: str,
    about: Sequence[str] = (),
    shaded: Sequence[tuple[int, float, float]] = (),
) -> None:
    """Write charts as one picture: those over time on the left, the others on the right.

    Args:
        file: to write to.
        kind: "png", "svg" or "pdf".
        about: lines below the title: runs, selection, losses, findings.
        shaded: number of a finding, its begin and end as shares of the time.

    Raises:
        OSError: the file cannot be written.
    """
    with _drawing() as matplotlib:
        from matplotlib.figure import Figure

        sides = [[c for c in charts if c.is_over_time is is_left] for is_left in (True, False)]
        widths = [width for width, side in zip((LEFT_IN, RIGHT_IN), sides) if side]
        sides = [side for side in sides if side]
        of_line = int(sum(widths) * LETTERS_PER_IN)
        heading = [
            part
            for line in (title, *about)
            for part in wrap(plain(line), of_line, break_on_hyphens=False)
        ]
        height = max(sum(chart.height_in for chart in side) for side in sides)
        height += 0.2 + 0.2 * len(heading)
        figure = Figure(figsize=(sum(widths), height), layout="constrained")
        figure.suptitle("\n".join(heading), fontsize=11, color=INK)
        parts = figure.subfigures(1, len(sides), squeeze=False, width_ratios=widths)[0]
        for part, side in zip(parts, sides):
            part.set_facecolor("none")
            heights = [chart.height_in for chart in side]
            rows = part.subplots(len(side), squeeze=False, height_ratios=heights)
            for (axes,), chart in zip(rows, side):
                axes.set_title(chart.title)
                chart.draw(axes)
                for number, begin, end in shaded if chart.is_over_time else ():
                    x = [share * axes.get_xlim()[1] for share in (begin, end)]
                    axes.axvspan(*x, color=HOT, alpha=0.09, lw=0, zorder=-1)
                    at = {"va": "top", "transform": axes.get_xaxis_transform()}
                    axes.text(x[0], 1, f"{number}", color=HOT, **at)
        if kind == "svg":
            file.write(_saved_svg(figure).encode())
            return
        nothing: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with matplotlib.rc_context({"savefig.dpi": 100}):
            figure.savefig(file, format=kind, facecolor="white", metadata=nothing)


def _saved_svg(figure: Any) -> str:
    """As savefig(), which would lay out the figure twice."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.BytesIO()
    figure.set_dpi(PIXELS_PER_IN)
    figure.patch.set_visible(False)
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(out, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    # Without a page, there is no colour behind the picture.
    style = "<style>svg{background:#fff}</style>"
    return re.sub(r"(<svg[^>]*>)", rf"\1{style}", out.getvalue().decode(), count=1)


# --- which charts ---------------------------------------------------------------------------------


def charts(found: Collected) -> list[Chart]:
    """All charts that these inputs have figures for."""
    cells = found.cells
    all_devices = cells.in_total()
    lines = by_operation(all_devices)
    made = _common([Line("all", all_devices)], lines)
    if cells.columns["in_flight"].any():
        made.insert(-2, Chart("in-flight", "In flight", partial(_draw_in_flight, found, lines)))
    if len(cells.devices) > 1 and len(cells.histograms["d2c"].cells):
        n = min(DEVICES_SHOWN, len(cells.devices))
        title = f"{found.heading}s, worst first: p99"
        made.insert(
            1, Chart("devices", title, partial(_draw_devices, found, cells), 0.8 + 0.16 * n)
        )
    if not len(cells.histograms["d2c"].cells):
        made = [chart for chart in made if chart.is_over_time and "heat" not in chart.name]
        made += _charts_of_b(found)
    patterns = found.patterns
    if patterns is not None and patterns.sample["bytes"].any():
        sample = patterns.sample[patterns.sample["bytes"] > 0]
        numbers, n_of = np.unique(sample["device"], return_counts=True)
        number = int(numbers[np.argmax(n_of)])
        of_device = sample[sample["device"] == number]
        draw = partial(_draw_sectors, of_device, cells)
        made.append(Chart("sectors", f"Where on {found.label(number)}", draw, 2.4))
        draw_sequential = partial(_draw_sequential, patterns, cells)
        made.append(Chart("sequential", "Sequential requests", draw_sequential))
    return made


def charts_of_sides(sides: Sequence[Cells]) -> list[Chart]:
    """The charts of a comparison: heat maps and lines of both sides."""
    sides = [cells.in_total() for cells in sides]
    return _common(
        [Line(name, cells) for name, cells in zip("AB", sides)],
        [Line(name, cells, name == "B") for name, cells in zip("AB", sides)],
    )


def _common(maps: Sequence[Line], lines: Sequence[Line]) -> list[Chart]:
    """The charts that all pages have."""
    maps = [of._replace(cells=coarse(of.cells)) for of in maps]
    axis_ns = latencies(maps)
    edges_ns = np.geomspace(*axis_ns, HEAT_ROWS + 1)
    counts = [heat(of.cells, edges_ns) for of in maps]
    most = max(2.0, *(float(count.max(initial=0)) for count in counts))
    made = []
    for of, count in zip(maps, counts):
        name, title = "heat", "Latency of every request"
        if len(maps) > 1:
            name, title = f"heat-{of.name}", f"Latency on {of.name}"
        draw = partial(_draw_heat, of.cells, edges_ns, count, most)
        made.append(Chart(name, title, draw, 2.8))
    steps = [line._replace(cells=coarse(line.cells)) for line in lines]
    return [
        *made,
        Chart("iops", "Requests a second", partial(_draw_rates, steps, "requests", "")),
        Chart("bandwidth", "Bandwidth", partial(_draw_rates, steps, "bytes", "B/s")),
        Chart(
            "percentiles",
            "Percentiles",
            partial(_draw_percentiles, lines, axis_ns),
            3.4,
            is_over_time=False,
        ),
        Chart("sizes", "Request sizes", partial(_draw_sizes, lines), 2.4, is_over_time=False),
    ]


def _charts_of_b(found: Collected) -> list[Chart]:
    """Of files of -b: histograms of reads and writes together, by powers of two."""
    made = []
    for name, title, field, texts in (
        ("d2c-histogram", "Latency up to", "d2c_hist", lambda i: _us_text(8 << i)),
        ("size-histogram", "Bytes of a request up to", "size_hist", lambda i: _size_text(10 + i)),
    ):
        counts = found.whole.rows[field].sum(axis=0)
        if counts.any():
            names = ["0", *map(texts, range(len(counts) - 2)), "more"]
            draw = partial(_draw_bars, counts, names)
            made.append(Chart(name, title, draw, 2.4, is_over_time=False))
    return made


def chosen(made: Sequence[Chart], names: Sequence[str]) -> list[Chart]:
    """The charts of these names, in that order; all if no name is given.

    Raises:
        ReportError: the inputs have no figures for one of them.
    """
    found = []
    for name in names:
        of_name = [chart for chart in made if name in (chart.name, chart.name.partition("-")[0])]
        if not of_name:
            there = ", ".join(chart.name for chart in made)
            raise ReportError(f"chart {name} needs {CHARTS[name]}; use {there}", EXIT_USAGE)
        found += [chart for chart in of_name if chart not in found]
    return found or list(made)


# --- drawing -------------------------------------------------------------------------------------


def _draw_steps(axes: Any, steps: Steps, factor: float = 1.0, **style: Any) -> None:
    """Horizontal steps, joined where they touch; x values are multiplied."""
    x = np.stack([steps.starts, steps.ends], axis=1).ravel() * factor
    axes.plot(x, np.repeat(steps.values, 2), **style)


def _style(line: Line) -> dict[str, Any]:
    style = {"color": COLOURS[line.name], "label": op_text(line.name), "lw": 1.2}
    return style | ({"ls": (0, (4, 2))} if line.is_dashed else {})


def _draw_heat(cells: Cells, edges_ns: Floats, counts: Floats, most: float, axes: Any) -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    scale = time_axis(axes, cells)
    mesh = axes.pcolormesh(
        cells.edges_s / scale,
        edges_ns / NS_PER_S,
        np.where(counts > 0, counts, np.nan),
        cmap=LinearSegmentedColormap.from_list("counts", HEAT),
        norm=LogNorm(1, most),
        rasterized=True,
        linewidth=0,
    )
    for percent, width in ((50, 1.5), (99, 0.9)):
        steps = over_time(coarse(cells, LEAST_REQUESTS), percent)
        steps = steps._replace(values=steps.values / NS_PER_S)
        _draw_steps(axes, steps, 1 / scale, color="white", lw=width + 1.4)
        _draw_steps(axes, steps, 1 / scale, color=HOT, lw=width, label=f"p{percent}")
    latency_axis(axes, edges_ns[0], edges_ns[-1])
    bar = axes.get_figure().colorbar(mesh, ax=axes, pad=0.01, aspect=20)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(_engineering(""))
    bar.minorticks_off()
    bar.set_label("requests")
    bar.solids.set_rasterized(True)
    legend(axes)


def _draw_rates(lines: Sequence[Line], column: str, unit: str, axes: Any) -> None:
    scale = time_axis(axes, *(line.cells for line in lines))
    for line in lines:
        _draw_steps(axes, a_second(line.cells, column), 1 / scale, **_style(line))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_engineering(unit))
    legend(axes)


def _draw_in_flight(found: Collected, lines: Sequence[Line], axes: Any) -> None:
    edges_s, known = timeline(found.slices)
    scale = time_axis(axes, found.cells)
    most = np.full(len(known), math.nan)
    for place, item in enumerate(known):
        if item is not None:
            loads = item.snapshot.loads
            most[place] = max(loads["max_in_flight"][loads["op"] == EVERYTHING].tolist(), default=0)
    style: dict[str, Any] = {"color": INK, "alpha": 0.45, "lw": 0.8, "label": "most"}
    _draw_steps(axes, Steps(edges_s[:-1], edges_s[1:], most), 1 / scale, **style)
    for line in lines:
        steps = a_second(coarse(line.cells), "in_flight")
        steps = steps._replace(values=steps.values / NS_PER_S)
        _draw_steps(axes, steps, 1 / scale, **_style(line))
    axes.set_ylim(bottom=0)
    legend(axes)


def _draw_devices(found: Collected, cells: Cells, axes: Any) -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    cells = coarse(cells).ranked()
    n_slices, n = len(cells.known_s), min(DEVICES_SHOWN, len(cells.devices))
    places = cells.device * n_slices + cells.slice
    p99 = cells.percentiles(places, n_slices * len(cells.devices), [99]).reshape(-1, n_slices)[:n]
    scale = time_axis(axes, cells)
    axes.pcolormesh(
        cells.edges_s / scale,
        np.arange(n + 1),
        np.where(p99 > 0, p99, np.nan),
        cmap=LinearSegmentedColormap.from_list("latencies", HEAT),
        norm=LogNorm(p99[p99 > 0].min(), p99.max() + 1),
        rasterized=True,
    )
    axes.invert_yaxis()
    axes.grid(False)
    numbers = cells.devices[:n].tolist()
    names = ["others" if number == OTHERS else found.label(number) for number in numbers]
    axes.set_yticks(np.arange(n) + 0.5, names)


def _draw_percentiles(lines: Sequence[Line], axis_ns: tuple[float, float], axes: Any) -> None:
    for line in lines:
        curve = percentile_curve(distribution(line.cells))
        _draw_steps(axes, curve._replace(values=curve.values / NS_PER_S), **_style(line))
    shares = (0.5, 0.9, 0.99, 0.999, 0.9999)
    axes.set_xlim(0, TAIL)
    axes.set_xticks(tail_place(np.array(shares)), [f"p{100 * share:.6g}" for share in shares])
    latency_axis(axes, *axis_ns)
    legend(axes)


def _engineering(unit: str) -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(unit=unit, sep=" ")


def time_axis(axes: Any, *cells: Cells) -> float:
    """Label the time axis; returns the length of its unit in seconds."""
    end_s, begin_s = max(float(of.edges_s[-1]) for of in cells), cells[0].begin_s
    for unit, length in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if end_s >= 3 * length or unit == "ms":
            break
    axes.set_xlabel(f"time since the start ({unit})")
    axes.set_xlim(0, max(end_s / length, 1e-9))
    if begin_s:
        axes.xaxis.set_major_formatter(lambda at, _: f"{begin_s / length + at:g}")
    return length


def latency_axis(axes: Any, low_ns: float, high_ns: float) -> None:
    """Make the y axis logarithmic, in s, ms or µs."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.set_ylim(low_ns / NS_PER_S, high_ns / NS_PER_S)
    is_long = math.log10(high_ns / low_ns) > 1.8
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if is_long else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(_engineering("s"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend(axes: Any) -> None:
    """Add a legend above the chart, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1, 1.0),
            ncols=6,
            borderaxespad=0.1,
            handlelength=1.6,
            columnspacing=1.2,
        )


def _size_text(power: int) -> str:
    if power < 0:
        return "0"
    unit = min(power // 10, 3)
    return f"{1 << (power - 10 * unit)} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def _us_text(us: int) -> str:
    if us >= 1 << 20:
        return f"{us / 1e6:.3g} s"
    return f"{us / 1000:.3g} ms" if us >= 1000 else f"{us} µs"


def _draw_sizes(lines: Sequence[Line], axes: Any) -> None:
    """Bars of each line beside each other, by power of two."""
    counts = {}
    for line in lines:
        _, powers, n = line.cells.histograms["sizes"]
        if powers.any():
            counts[line.name] = np.bincount(powers, n, 66)
    filled = np.flatnonzero(sum(counts.values())) if counts else np.arange(1)
    shown = np.arange(filled[0], filled[-1] + 1)
    width = 0.8 / max(1, len(counts))
    for place, (name, of_line) in enumerate(counts.items()):
        places = np.arange(len(shown)) + (place + 0.5) * width - 0.4
        shares = 100 * of_line[shown] / of_line.sum()
        axes.bar(places, shares, width * 0.92, color=COLOURS[name], label=op_text(name))
    axes.set_xlim(-0.6, len(shown) - 0.4)
    _label_bars(axes, [_size_text(power - 1) for power in shown.tolist()])
    axes.set_xlabel("request size: from this up to twice as much")
    legend(axes)


def _draw_bars(counts: Any, names: Sequence[str], axes: Any) -> None:
    filled = np.flatnonzero(counts)
    shown = slice(int(filled[0]), int(filled[-1]) + 1)
    shares = 100 * counts[shown].astype(np.float64) / float(counts.sum())
    axes.bar(range(len(shares)), shares, 0.8, color=COLOURS["other"])
    _label_bars(axes, names[shown])


def _label_bars(axes: Any, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("% of requests")


def _draw_sectors(sample: Any, cells: Cells, axes: Any) -> None:
    scale = time_axis(axes, cells)
    offsets = sample["sector"].astype(np.float64) * SECTOR_BYTES
    for number in np.unique(sample["op"]).tolist():
        part = sample["op"] == number
        axes.plot(
            sample["issued_ns"][part] / 1e9 / scale,
            offsets[part],
            linestyle="none",
            marker="o",
            ms=1.5 if len(sample) < 5000 else 1.0,
            mew=0,
            alpha=0.75,
            color=COLOURS[OPS[number]],
            label=op_text(OPS[number]),
            rasterized=True,
        )
    axes.yaxis.set_major_formatter(_engineering("B"))
    axes.set_ylabel("offset on the device")
    legend(axes)
    for handle in axes.get_legend().legend_handles:
        handle.set_markersize(4)


def _draw_sequential(patterns: Patterns, cells: Cells, axes: Any) -> None:
    scale = time_axis(axes, cells)
    # Four slices each are put together: a share of few requests says little.
    counts = patterns.counts.reshape(len(OPS), -1, 4, 2).sum(axis=2)
    edges_s = np.arange(counts.shape[1] + 1) * (patterns.slice_ns * 4 / NS_PER_S)
    for number, op in enumerate(OPS):
        requests, sequential = counts[number, :, 0], counts[number, :, 1]
        if op in ("flush", "other") or not requests.any():
            continue
        share = np.where(requests > 0, 100 * sequential / np.maximum(requests, 1), np.nan)
        style = {"color": COLOURS[op], "label": op_text(op)}
        _draw_steps(axes, Steps(edges_s[:-1], edges_s[1:], share), 1 / scale, **style)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("% of requests")
    legend(axes)
