"""Charts, drawn by matplotlib: as parts of a page, in its colours, or as picture files."""

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
from typing import IO, Any

import numpy as np

from blkiomon.commands.report.access import SECTOR_BYTES, Patterns
from blkiomon.commands.report.collect import Collected, ReportError
from blkiomon.commands.report.series import (
    SHOWN_PERCENTILES,
    Floats,
    OperationSeries,
    Series,
    heat,
    octaves,
    series,
    tail,
)
from blkiomon.console import EXIT_OUTPUT, EXIT_USAGE
from blkiomon.engine.layout import OPS
from blkiomon.formats.units import op_text

WIDTH_IN, HEIGHT_IN = 5.5, 2.75
PIXELS_PER_IN = 144
"""Resolution of heat maps and dots, which are pixels within an SVG."""

# The Okabe-Ito palette, which colour-blind readers can distinguish. Second: on a dark page.
COLOURS = {
    "read": ("#0072b2", "#56a8e0"),
    "write": ("#d55e00", "#f08a4b"),
    "discard": ("#009e73", "#35c49a"),
    "flush": ("#b4568f", "#de94bd"),
    "write_zeroes": ("#b07d00", "#e6b03a"),
    "zone": ("#3b8fbf", "#8ccdf0"),
    "other": ("#767676", "#a0a0a0"),
    "A": ("#0072b3", "#56a8e1"),
    "B": ("#d55e01", "#f08a4c"),
}
INK = "#222324"
"""Text and axes; on a page they take the page's text colour."""

HEAT_ROWS = 72
LEAST_HEAT = 20
"""Requests that an operation needs for a heat map."""

DEVICES_SHOWN = 3

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
    """One chart; ``draw`` draws it on a figure or subfigure of matplotlib."""

    name: str
    title: str
    caption: str
    draw: Callable[[Any], object]
    height_in: float = HEIGHT_IN


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


# --- files and parts of pages ---------------------------------------------------------------------


def svg(chart: Chart) -> str:
    """A chart as an element of a page, in the page's colours."""
    with _drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH_IN, chart.height_in), layout="constrained")
        chart.draw(figure)
        text = _saved_svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", "", text, flags=re.S
    )
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg", f'<svg role="img" aria-label="{chart.title}"', 1)
    # Several charts share a page: ids must differ.
    text = re.sub(r'( id="|"#|url\(#)', rf"\g<1>{chart.name}-", text)
    # The page's font, in the size that the layout is for.
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(
        r"font: (?:bold|700) ([\d.]+px) [^;\"]*", r"font-weight: 600; font-size: \1", text
    )
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    text = re.sub(r"(?m)^\s+", "", text)
    return text.replace(INK, "currentColor").strip()


def _saved_svg(figure: Any) -> str:
    """As savefig(), which would lay out the figure twice."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.BytesIO()
    figure.set_dpi(PIXELS_PER_IN)
    figure.patch.set_visible(False)
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(out, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return out.getvalue().decode()


def save(charts: Sequence[Chart], title: str, file: IO[bytes], kind: str) -> None:
    """Write charts as one picture.

    Args:
        file: to write to.
        kind: "png", "svg" or "pdf".

    Raises:
        OSError: the file cannot be written.
    """
    with _drawing() as matplotlib:
        from matplotlib.figure import Figure

        columns = 2 if len(charts) > 3 else 1
        n_rows = math.ceil(len(charts) / columns)
        rows = [charts[i * columns : (i + 1) * columns] for i in range(n_rows)]
        heights = [max(chart.height_in + 0.3 for chart in row) for row in rows]
        figure = Figure(figsize=(columns * WIDTH_IN, sum(heights) + 0.5), layout="constrained")
        figure.suptitle(plain(title), fontsize=11, color=INK)
        parts = figure.subfigures(n_rows, columns, squeeze=False, height_ratios=heights)
        for i, chart in enumerate(charts):
            part = parts[i // columns][i % columns]
            part.set_facecolor("none")
            chart.draw(part)
            part.suptitle(chart.title, fontsize=10, fontweight="bold", color=INK)
        if kind == "svg":
            # Without a page, there is no colour behind the picture.
            style = "<style>svg{background:#fff}</style>"
            text = re.sub(r"(<svg[^>]*>)", rf"\1{style}", _saved_svg(figure), count=1)
            file.write(text.encode())
            return
        nothing: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with matplotlib.rc_context({"savefig.dpi": 100}):
            figure.savefig(file, format=kind, facecolor="white", metadata=nothing)


# --- axes -----------------------------------------------------------------------------------------


def _engineering(unit: str) -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(unit=unit, sep=" ")


def time_axis(axes: Any, edges_s: Floats) -> float:
    """Label the time axis; returns the length of its unit in seconds."""
    for unit, length in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if edges_s[-1] >= 3 * length or unit == "ms":
            break
    axes.set_xlabel(f"time since the start ({unit})")
    axes.set_xlim(0, max(edges_s[-1] / length, 1e-9))
    return length


def latency_axis(axes: Any, which: str) -> None:
    """Make the axis "x" or "y" logarithmic, in s, ms or µs."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    decades = math.log10(high / low) if low > 0 else 1
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 1.8 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(_engineering("s"))
    axis.set_minor_formatter(NullFormatter())
    if which == "y":
        axes.set_ylabel("latency")
    else:
        axes.set_xlabel("latency")


def legend(axes: Any, columns: int = 6) -> None:
    """Add a legend above the chart, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=columns,
            borderaxespad=0.1,
            handlelength=1.6,
            columnspacing=1.2,
        )


def _points(axes: Any, edges: Floats, values: Floats, **style: Any) -> None:
    """A line through the slices that have a value; a dot where both neighbours have none."""
    middle = (edges[:-1] + edges[1:]) / 2
    axes.plot(middle, values, **style)
    has = np.isfinite(values)
    padded = np.pad(has, 1)
    alone = has & ~padded[:-2] & ~padded[2:]
    axes.plot(middle[alone], values[alone], ".", ms=3, mew=0, color=style["color"])


# --- the charts of a report -----------------------------------------------------------------------


def charts(found: Collected) -> list[Chart]:
    """All charts that these inputs have figures for."""
    over_time = series(found.slices)
    of_ops = over_time.ops
    made: list[Chart] = []

    def add(
        name: str,
        title: str,
        caption: str,
        draw: Callable[..., object],
        *data: object,
        more_in: float = 0.0,
    ) -> None:
        made.append(Chart(name, title, caption, partial(draw, *data), HEIGHT_IN + more_in))

    if over_time.edges_s[-1] > 1e-8:
        caption = "Completed, by operation."
        add("iops", "Requests a second", caption, _draw_rates, over_time, "iops")
        add("bandwidth", "Bandwidth", "By operation.", _draw_rates, over_time, "bytes_per_s")
    for op, of_op in of_ops.items():
        if not len(of_op.whole.bins):
            continue
        add(
            f"percentiles-{op}",
            f"{op_text(op).capitalize()} latency over time",
            "From issue to completion: half of the requests of each slice of time took no "
            "longer than the line, 99 % and 99.9 % no longer than the bands.",
            _draw_percentiles,
            over_time,
            op,
        )
        if of_op.whole.count >= LEAST_HEAT:
            title = f"{op_text(op).capitalize()} latency: every request"
            caption = f"How many of {of_op.whole.count:,} requests took how long, when."
            add(f"heat-{op}", title, caption, _draw_heat, over_time, op)
    if any(len(of_op.whole.bins) for of_op in of_ops.values()):
        add(
            "tail",
            "Latency: the tail",
            "The share of requests that took that long or longer; both axes are logarithmic, "
            "so that the slowest of a thousand have as much room as all others.",
            _draw_tails,
            of_ops,
            more_in=0.4,
        )
        sizes = {op: octaves(of_op.size_bytes) for op, of_op in of_ops.items()}
        sizes = {op: counts for op, counts in sizes.items() if of_ops[op].size_bytes.sum}
        if sizes:
            caption = "Share of each operation's requests, by power of two."
            add("sizes", "Request sizes", caption, _draw_sizes, sizes, more_in=0.4)
    else:
        # Files of -b: histograms of reads and writes together, by powers of two.
        d2c, size = (found.whole.rows[name].sum(axis=0) for name in ("d2c_hist", "size_hist"))
        if d2c.any():
            names = ["0", *(_us_text(8 << i) for i in range(len(d2c) - 2)), "more"]
            caption = "Share of reads and writes together that took up to so long."
            what = "latency up to"
            add("d2c-histogram", "Latency", caption, _draw_bars, d2c, names, what, more_in=0.4)
            names = ["0", *(_size_text(10 + i) for i in range(len(size) - 2)), "more"]
            caption = "Share of reads and writes together."
            what, title = "bytes of a request, up to", "Request sizes"
            add("size-histogram", title, caption, _draw_bars, size, names, what, more_in=0.4)
    if np.isfinite(over_time.most_in_flight).any():
        caption = "Issued and not completed: mean of each operation, and the most of all at once."
        add("in-flight", "Requests in flight", caption, _draw_in_flight, over_time)
    patterns = found.patterns
    if patterns is None or not patterns.sample["bytes"].any():
        return made
    sample = patterns.sample[patterns.sample["bytes"] > 0]
    numbers, n_of = np.unique(sample["device"], return_counts=True)
    for device in numbers[np.argsort(-n_of, kind="stable")][:DEVICES_SHOWN].tolist():
        of_device = sample[sample["device"] == device]
        caption = "Each dot is a request, at the offset where it begins."
        if len(patterns.sample) < patterns.n_requests:
            caption += f" A random sample of {len(of_device):,} requests."
        title, edges_s = f"Where on {found.label(device)}", over_time.edges_s
        add(f"sectors-{device}", title, caption, _draw_sectors, of_device, edges_s)
    add(
        "sequential",
        "Sequential requests",
        "Share of requests that begin where the one issued before to the same device, of the "
        "same operation, ended.",
        _draw_sequential,
        patterns,
        over_time.edges_s,
    )
    return made


def chosen(made: Sequence[Chart], names: Sequence[str]) -> list[Chart]:
    """The charts of these names, in that order; all if no name is given.

    Raises:
        ReportError: no chart has one of the names.
    """
    found = []
    for name in names:
        of_name = [chart for chart in made if name in (chart.name, chart.name.partition("-")[0])]
        if not of_name:
            there = ", ".join(chart.name for chart in made)
            raise ReportError(f"unknown chart {name!r}; use {there}", EXIT_USAGE)
        found += [chart for chart in of_name if chart not in found]
    return found or list(made)


def _draw_rates(data: Series, what: str, figure: Any) -> None:
    axes = figure.subplots()
    edges = data.edges_s / time_axis(axes, data.edges_s)
    for op, of_op in data.ops.items():
        style = {"color": COLOURS[op][0], "label": op_text(op)}
        axes.stairs(getattr(of_op, what), edges, baseline=None, **style)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_engineering("B/s" if what == "bytes_per_s" else ""))
    axes.set_ylabel("bytes a second" if what == "bytes_per_s" else "requests a second")
    legend(axes)


def _draw_percentiles(data: Series, op: str, figure: Any) -> None:
    """The lowest percentile as a line; from each to the next a band, paler for rarer requests."""
    axes = figure.subplots()
    edges = data.edges_s / time_axis(axes, data.edges_s)
    middle, colour = (edges[:-1] + edges[1:]) / 2, COLOURS[op][0]
    shown = [data.ops[op].percentiles[percent] for percent in SHOWN_PERCENTILES]
    names = [f"p{percent:g}" for percent in SHOWN_PERCENTILES]
    _points(axes, edges, shown[0], color=colour, lw=1.5, label=names[0])
    for low, high, alpha, text in zip(shown, shown[1:], (0.42, 0.22), names[1:]):
        axes.fill_between(middle, low, high, color=colour, alpha=alpha, lw=0, label=f"to {text}")
    latency_axis(axes, "y")
    legend(axes)


def draw_sides(
    axes: Any, edges: Floats, percentiles: dict[float, Floats], colour: str, name: str
) -> None:
    """p50 as a line and p99 as a finer one, so that several runs fit one chart.

    Args:
        name: in the legend; "_": not in the legend.
    """
    for percent, width, alpha in ((50, 1.4, 1.0), (99, 0.8, 0.6)):
        text = "_" if name == "_" else f"{name} p{percent:g}"
        style = {"color": colour, "lw": width, "alpha": alpha, "label": text}
        _points(axes, edges, percentiles[percent], **style)


def _draw_heat(data: Series, op: str, figure: Any) -> None:
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    latencies, counts = heat(data.ops[op].d2c_ns, HEAT_ROWS)
    axes = figure.subplots()
    scale = time_axis(axes, data.edges_s)
    # Both ends are visible on a white page and on a black one.
    colours = matplotlib.colormaps["viridis"](np.linspace(0.12, 0.93, 128))
    mesh = axes.pcolormesh(
        data.edges_s / scale,
        latencies,
        np.where(counts > 0, counts, np.nan),
        cmap=LinearSegmentedColormap.from_list("counts", list(colours)),
        norm=LogNorm(1, max(counts.max(), 2)),
        rasterized=True,
        linewidth=0,
    )
    axes.grid(False)
    latency_axis(axes, "y")
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(_engineering(""))
    bar.minorticks_off()
    bar.set_label("requests")
    bar.solids.set_rasterized(True)


def draw_tail(axes: Any, parts: dict[str, tuple[Any, str, Any]]) -> None:
    """Complementary cumulative distributions: (distribution, colour, line style) by label."""
    least = 1.0
    for name, (distribution, colour, style) in parts.items():
        times, shares = tail(distribution)
        if len(times):
            axes.plot(times, shares, color=colour, ls=style, label=name)
            least = min(least, shares[-1])
    axes.set_yscale("log")
    axes.set_ylim(min(least / 1.5, 0.05), 1.3)
    latency_axis(axes, "x")
    ticks = [(0.5, "50 %  p50"), (0.1, "10 %  p90"), (0.01, "1 %  p99"), (0.001, "0.1 %  p99.9")]
    ticks += [(10.0**-n, f"{10.0 ** (2 - n):.{n - 2}f} %") for n in range(4, 10)]
    ticks = [(1.0, "all"), *(t for t in ticks if t[0] >= least / 1.5)]
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
    axes.minorticks_off()
    axes.set_ylabel("share that took that or longer")
    legend(axes)


def _draw_tails(of_ops: dict[str, OperationSeries], figure: Any) -> None:
    parts = {op_text(op): (of_op.whole, COLOURS[op][0], "-") for op, of_op in of_ops.items()}
    draw_tail(figure.subplots(), parts)


def _size_text(power: int) -> str:
    if power < 0:
        return "0"
    unit = min(power // 10, 3)
    return f"{1 << (power - 10 * unit)} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def _us_text(us: int) -> str:
    if us >= 1 << 20:
        return f"{us / 1e6:.3g} s"
    return f"{us / 1000:.3g} ms" if us >= 1000 else f"{us} µs"


def _draw_sizes(counts: dict[str, dict[int, int]], figure: Any) -> None:
    """Bars of each operation beside each other, by power of two."""
    axes = figure.subplots()
    powers = {power for of_op in counts.values() for power in of_op}
    shown = list(range(min(powers), max(powers) + 1))
    width = 0.8 / len(counts)
    for place, (op, of_op) in enumerate(counts.items()):
        total = sum(of_op.values())
        axes.bar(
            [i + (place + 0.5) * width - 0.4 for i in range(len(shown))],
            [100 * of_op.get(power, 0) / total for power in shown],
            width * 0.92,
            color=COLOURS[op][0],
            label=op_text(op),
        )
    axes.set_xlim(-0.6, len(shown) - 0.4)
    names = [_size_text(power) for power in shown]
    _label_bars(axes, names, "bytes of a request: this, up to double", "% of its requests")
    legend(axes)


def _draw_bars(counts: Any, names: Sequence[str], what: str, figure: Any) -> None:
    axes = figure.subplots()
    filled = np.flatnonzero(counts)
    shown = slice(int(filled[0]), int(filled[-1]) + 1)
    shares = 100 * counts[shown].astype(np.float64) / float(counts.sum())
    axes.bar(range(len(shares)), shares, 0.8, color=COLOURS["other"][0])
    _label_bars(axes, names[shown], what, "% of requests")


def _label_bars(axes: Any, names: Sequence[str], x_label: str, y_label: str) -> None:
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.grid(axis="x", visible=False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def _draw_in_flight(data: Series, figure: Any) -> None:
    axes = figure.subplots()
    edges = data.edges_s / time_axis(axes, data.edges_s)
    style: dict[str, Any] = {"color": INK, "alpha": 0.45, "lw": 0.8, "label": "most"}
    axes.stairs(data.most_in_flight, edges, baseline=None, **style)
    for op, of_op in data.ops.items():
        style = {"color": COLOURS[op][0], "label": f"{op_text(op)}, mean"}
        axes.stairs(of_op.in_flight, edges, baseline=None, **style)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("requests in flight")
    legend(axes, columns=4)


def _draw_sectors(sample: Any, edges_s: Floats, figure: Any) -> None:
    axes = figure.subplots()
    scale = time_axis(axes, edges_s)
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
            color=_between(*COLOURS[OPS[number]]),
            label=op_text(OPS[number]),
            rasterized=True,
        )
    axes.yaxis.set_major_formatter(_engineering("B"))
    axes.set_ylabel("offset on the device")
    legend(axes)
    for handle in axes.get_legend().legend_handles:
        handle.set_markersize(4)


def _between(light: str, dark: str) -> str:
    """The mean of two colours: dots are pixels, of one colour on light and dark pages."""
    pairs = [(int(light[i : i + 2], 16), int(dark[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{(one + other) // 2:02x}" for one, other in pairs)


def _draw_sequential(patterns: Patterns, edges_s: Floats, figure: Any) -> None:
    axes = figure.subplots()
    scale = time_axis(axes, edges_s)
    # Four slices each are put together: a share of few requests says little.
    counts = patterns.counts.reshape(len(OPS), -1, 4, 2).sum(axis=2)
    edges = np.arange(counts.shape[1] + 1) * (patterns.slice_ns * 4 / 1e9 / scale)
    for number, op in enumerate(OPS):
        requests, sequential = counts[number, :, 0], counts[number, :, 1]
        if op in ("flush", "other") or not requests.any():
            continue
        share = np.where(requests > 0, 100 * sequential / np.maximum(requests, 1), np.nan)
        _points(axes, edges, share, color=COLOURS[op][0], label=op_text(op))
    axes.set_ylim(-3, 103)
    axes.set_ylabel("% of requests")
    legend(axes)
