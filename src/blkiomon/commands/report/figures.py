"""Charts, drawn by matplotlib: for a page, where they follow its colours, or as pictures alone."""

from __future__ import annotations

import io
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from blkiomon.commands.report.access import SECTOR_BYTES, Patterns
from blkiomon.commands.report.collect import Collected, ReportError
from blkiomon.commands.report.series import (
    SHOWN_PERCENTILES,
    Floats,
    Series,
    heat,
    octaves,
    series,
    tail,
)
from blkiomon.console import EXIT_OUTPUT, EXIT_USAGE
from blkiomon.engine.layout import OPS

WIDTH_IN, HEIGHT_IN = 5.5, 2.75
PIXELS_PER_IN = 144
"""Of what is not drawn by lines: heat maps, and dots."""

# By Okabe and Ito: told apart by those who see few colours. Beside each its like on dark paper.
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
"""Text and axes: the page's own colour of text there."""

HEAT_ROWS = 72
LEAST_HEAT = 20
"""Requests that make a heat map."""

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
    "svg.hashsalt": "blkiomon",  # else names within a picture are others every time
    "text.color": INK,
    "text.parse_math": False,  # a title may hold any number of dollar signs
    "xtick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": INK,
    "ytick.labelsize": 8.5,
}


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture: a title, what one has to know to read it, and how it is drawn."""

    name: str
    title: str
    caption: str
    draw: Callable[[Any], None]  # on a figure, or a part of one
    height_in: float = HEIGHT_IN


@contextmanager
def _drawing() -> Iterator[Any]:
    """matplotlib in our style, whatever the user's is.

    Raises:
        ReportError: it is not there.
    """
    # Where it keeps its fonts, and that it would like a display, is nobody's business here.
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    os.environ["MPLBACKEND"] = "agg"
    try:
        import matplotlib
    except ImportError as error:
        raise ReportError(
            "pictures need matplotlib: pip install 'blkiomon[report]'", EXIT_OUTPUT
        ) from error
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a font has not a letter of the title
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield matplotlib


def plain(value: str) -> str:
    """What a user named as one line of text: it may hold anything, also bytes that are no text."""
    shown = value.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)


def check() -> None:
    """Find out before long work whether there is a matplotlib; raises ReportError."""
    with _drawing():
        pass


# --- what becomes of charts -----------------------------------------------------------------------


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
    # Several of them share a page: each has its own names.
    text = re.sub(r'( id="|"#|url\(#)', rf"\g<1>{chart.name}-", text)
    # The page's font, in the size that was laid out for.
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(
        r"font: (?:bold|700) ([\d.]+px) [^;\"]*", r"font-weight: 600; font-size: \1", text
    )
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    text = re.sub(r"(?m)^\s+", "", text)
    return text.replace(INK, "currentColor").strip()


def _saved_svg(figure: Any) -> str:
    """What savefig() makes, which would go through the figure twice to lay it out."""
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
        file: where to.
        kind: "png", "svg" or "pdf".

    Raises:
        OSError: it cannot be written.
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
            # A picture by itself has no page to take its colours from.
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
    """Label it; returns by what seconds are to be divided."""
    for unit, length in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if edges_s[-1] >= 3 * length or unit == "ms":
            break
    axes.set_xlabel(f"time since the start ({unit})")
    axes.set_xlim(0, max(edges_s[-1] / length, 1e-9))
    return length


def latency_axis(axes: Any, which: str) -> None:
    """Make it logarithmic, in s, ms or µs."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    decades = math.log10(high / low) if low > 0 else 1
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 1.8 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(_engineering("s"))
    axis.set_minor_formatter(NullFormatter())


def legend(axes: Any, columns: int = 6) -> None:
    """Above the chart, so that it hides nothing."""
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        borderaxespad=0.1,
        handlelength=1.6,
        columnspacing=1.2,
    )


def _stairs(axes: Any, values: Floats, edges: Floats, **style: Any) -> None:
    axes.stairs(values, edges, baseline=None, **style)


def _points(axes: Any, edges: Floats, values: Floats, **style: Any) -> None:
    """A line through the slices that have a value; a dot where both neighbours have none."""
    middle = (edges[:-1] + edges[1:]) / 2
    axes.plot(middle, values, **style)
    has = np.isfinite(values)
    padded = np.pad(has, 1)
    alone = has & ~padded[:-2] & ~padded[2:]
    axes.plot(middle[alone], values[alone], ".", ms=3, mew=0, color=style["color"])


def label(op: str) -> str:
    """An operation as one reads it."""
    return op.replace("_", " ")


# --- the charts of a report -----------------------------------------------------------------------


def charts(found: Collected) -> list[Chart]:
    """All that these inputs have something for."""
    over_time = series(found.slices)
    lines = over_time.lines
    has_times = any(len(line.whole.bins) for line in lines.values())
    made: list[Chart] = []
    if over_time.edges_s[-1] > 1e-8:
        made.append(
            Chart(
                "iops", "Requests a second", "Completed, by operation.", _rates(over_time, "iops")
            )
        )
        made.append(
            Chart("bandwidth", "Bandwidth", "By operation.", _rates(over_time, "bytes_per_s"))
        )
    if has_times:
        for op, line in lines.items():
            made.append(
                Chart(
                    f"percentiles-{op}",
                    f"{label(op).capitalize()} latency over time",
                    "From issue to completion: half of the requests of each slice of time took no "
                    "longer than the line, 99 % and 99.9 % no longer than the bands.",
                    _percentiles(over_time, op),
                )
            )
            if line.whole.count < LEAST_HEAT:
                continue
            made.append(
                Chart(
                    f"heat-{op}",
                    f"{label(op).capitalize()} latency: every request",
                    f"How many of {line.whole.count:,} requests took how long, when.",
                    _heat(over_time, op),
                )
            )
        made.append(
            Chart(
                "tail",
                "Latency: the tail",
                "The share of requests that took that long or longer; both axes are logarithmic, "
                "so that the slowest of a thousand have as much room as all others.",
                _tail({op: line.whole for op, line in lines.items()}),
                HEIGHT_IN + 0.4,
            )
        )
        sizes = {op: line.size_bytes for op, line in lines.items() if line.size_bytes.sum}
        if sizes:
            made.append(
                Chart(
                    "sizes",
                    "Request sizes",
                    "Share of each operation's requests, by power of two.",
                    _sizes(sizes),
                    HEIGHT_IN + 0.4,
                )
            )
    else:
        made += _coarse(found)
    if np.isfinite(over_time.most_in_flight).any():
        made.append(
            Chart(
                "in-flight",
                "Requests in flight",
                "Issued and not completed: mean of each operation, and the most of all at once.",
                _in_flight(over_time),
            )
        )
    if found.patterns is not None and found.patterns.sample["bytes"].any():
        made += _access(found.patterns, over_time.edges_s)
    return made


def chosen(made: Sequence[Chart], names: Sequence[str]) -> list[Chart]:
    """Those of these names, in that order; all where none is named.

    Raises:
        ReportError: there is none of a name.
    """
    found = []
    for name in names:
        of_name = [chart for chart in made if name in (chart.name, chart.name.partition("-")[0])]
        if not of_name:
            there = ", ".join(chart.name for chart in made)
            raise ReportError(f"there is no chart {name!r}; there are {there}", EXIT_USAGE)
        found += [chart for chart in of_name if chart not in found]
    return found or list(made)


def _rates(data: Series, what: str) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        scale = time_axis(axes, data.edges_s)
        for op, line in data.lines.items():
            values = getattr(line, what)
            _stairs(axes, values, data.edges_s / scale, color=COLOURS[op][0], label=label(op))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(_engineering("B/s" if what == "bytes_per_s" else ""))
        axes.set_ylabel("bytes a second" if what == "bytes_per_s" else "requests a second")
        legend(axes)

    return draw


def percentile_label(percent: float) -> str:
    return f"p{percent:g}"


def draw_percentiles(
    axes: Any, edges: Floats, percentiles: dict[float, Floats], colour: str
) -> None:
    """The lowest as a line; from each to the next a band, the paler the rarer."""
    middle = (edges[:-1] + edges[1:]) / 2
    shown = [percentiles[percent] for percent in SHOWN_PERCENTILES]
    names = [percentile_label(percent) for percent in SHOWN_PERCENTILES]
    _points(axes, edges, shown[0], color=colour, lw=1.5, label=names[0])
    for low, high, alpha, text in zip(shown, shown[1:], (0.42, 0.22), names[1:]):
        axes.fill_between(middle, low, high, color=colour, alpha=alpha, lw=0, label=f"to {text}")


def draw_sides(
    axes: Any, edges: Floats, percentiles: dict[float, Floats], colour: str, name: str
) -> None:
    """Half of the requests as a line, and 99 % of them as a finer one: several fit one chart."""
    for percent, width, alpha in ((50, 1.4, 1.0), (99, 0.8, 0.6)):
        # A name that begins with "_" is in no legend.
        label = "_" if name == "_" else f"{name} {percentile_label(percent)}"
        style = {"color": colour, "lw": width, "alpha": alpha, "label": label}
        _points(axes, edges, percentiles[percent], **style)


def _percentiles(data: Series, op: str) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        scale = time_axis(axes, data.edges_s)
        draw_percentiles(axes, data.edges_s / scale, data.lines[op].percentiles, COLOURS[op][0])
        latency_axis(axes, "y")
        axes.set_ylabel("latency")
        legend(axes)

    return draw


def _heat(data: Series, op: str) -> Callable[[Any], None]:
    edges, counts = heat(data.lines[op].d2c_ns, HEAT_ROWS)

    def draw(figure: Any) -> None:
        import matplotlib
        from matplotlib.colors import LinearSegmentedColormap, LogNorm

        axes = figure.subplots()
        scale = time_axis(axes, data.edges_s)
        # Neither end vanishes, on white paper or on black.
        colours = matplotlib.colormaps["viridis"](np.linspace(0.12, 0.93, 128))
        most = max(counts.max(), 2)
        mesh = axes.pcolormesh(
            data.edges_s / scale,
            edges,
            np.where(counts > 0, counts, np.nan),
            cmap=LinearSegmentedColormap.from_list("counts", list(colours)),
            norm=LogNorm(1, most),
            rasterized=True,
            linewidth=0,
        )
        axes.grid(False)
        latency_axis(axes, "y")
        axes.set_ylabel("latency")
        bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=30)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(_engineering(""))
        bar.minorticks_off()
        bar.set_label("requests")
        bar.solids.set_rasterized(True)

    return draw


def draw_tail(axes: Any, parts: dict[str, tuple[Any, str, Any]]) -> None:
    """Complementary distributions: (distribution, colour, line style) by label."""
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
    axes.set_xlabel("latency")
    axes.set_ylabel("share that took that or longer")
    legend(axes)


def _tail(parts: dict[str, Any]) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        draw_tail(
            figure.subplots(), {label(op): (d, COLOURS[op][0], "-") for op, d in parts.items()}
        )

    return draw


def _size_text(power: int) -> str:
    if power < 0:
        return "0"
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if power >= bits:
            return f"{1 << (power - bits)} {unit}"
    return f"{1 << power} B"


def _sizes(parts: dict[str, Any]) -> Callable[[Any], None]:
    counts = {op: octaves(d) for op, d in parts.items()}

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        powers = sorted({power for found in counts.values() for power in found})
        shown = list(range(powers[0], powers[-1] + 1)) if powers else []
        width = 0.8 / max(1, len(counts))
        for place, (op, found) in enumerate(counts.items()):
            total = sum(found.values())
            axes.bar(
                [i + (place + 0.5) * width - 0.4 for i in range(len(shown))],
                [100 * found.get(power, 0) / total for power in shown],
                width * 0.92,
                color=COLOURS[op][0],
                label=label(op),
            )
        axes.set_xticks(range(len(shown)), [_size_text(p) for p in shown], rotation=40, ha="right")
        axes.set_xlim(-0.6, max(len(shown), 1) - 0.4)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("bytes of a request: this, up to double")
        axes.set_ylabel("% of its requests")
        legend(axes)

    return draw


def _in_flight(data: Series) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        scale = time_axis(axes, data.edges_s)
        edges = data.edges_s / scale
        _stairs(axes, data.most_in_flight, edges, color=INK, alpha=0.45, lw=0.8, label="most")
        for op, line in data.lines.items():
            _stairs(axes, line.in_flight, edges, color=COLOURS[op][0], label=f"{label(op)}, mean")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("requests in flight")
        legend(axes, columns=4)

    return draw


def _access(patterns: Patterns, edges_s: Floats) -> list[Chart]:
    sample = patterns.sample[patterns.sample["bytes"] > 0]
    numbers, n_of = np.unique(sample["device"], return_counts=True)
    made = []
    for device in numbers[np.argsort(-n_of, kind="stable")][:DEVICES_SHOWN].tolist():
        text = f"{device >> 20}:{device & 0xFFFFF}"
        of_device = sample[sample["device"] == device]
        share = ""
        if len(patterns.sample) < patterns.n_requests:
            share = f" A random sample of {len(of_device):,} requests."
        made.append(
            Chart(
                f"sectors-{device}",
                f"Where on {text}",
                f"Each dot is a request, at the offset where it begins.{share}",
                _sectors(of_device, edges_s),
            )
        )
    made.append(
        Chart(
            "sequential",
            "Sequential requests",
            "Share of requests that begin where the one issued before to the same device, of the "
            "same operation, ended.",
            _sequential(patterns, edges_s),
        )
    )
    return made


def _sectors(sample: Any, edges_s: Floats) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
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
                label=label(OPS[number]),
                rasterized=True,
            )
        axes.yaxis.set_major_formatter(_engineering("B"))
        axes.set_ylabel("offset on the device")
        legend(axes)
        for handle in axes.get_legend().legend_handles:
            handle.set_markersize(4)

    return draw


def _between(light: str, dark: str) -> str:
    """Dots are pixels, which no page can give another colour: one that does on any paper."""
    pairs = [(int(light[i : i + 2], 16), int(dark[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{(one + other) // 2:02x}" for one, other in pairs)


def _sequential(patterns: Patterns, edges_s: Floats) -> Callable[[Any], None]:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        scale = time_axis(axes, edges_s)
        # Slices of time with few requests say little: neighbours are put together.
        counts = patterns.counts.reshape(len(OPS), -1, 4, 2).sum(axis=2)
        edges = np.arange(counts.shape[1] + 1) * (patterns.slice_ns * 4 / 1e9 / scale)
        for number, op in enumerate(OPS):
            requests, sequential = counts[number, :, 0], counts[number, :, 1]
            if op in ("flush", "other") or not requests.any():
                continue
            share = np.where(requests > 0, 100 * sequential / np.maximum(requests, 1), np.nan)
            _points(axes, edges, share, color=COLOURS[op][0], label=label(op))
        axes.set_ylim(-3, 103)
        axes.set_ylabel("% of requests")
        legend(axes)

    return draw


# --- files of -b ----------------------------------------------------------------------------------


def _coarse(found: Collected) -> list[Chart]:
    """What the original's histograms tell: of reads and writes together, by powers of two."""
    rows = found.whole.rows
    d2c, size = rows["d2c_hist"].sum(axis=0), rows["size_hist"].sum(axis=0)
    if not d2c.any():
        return []
    d2c_names = ["0", *(_time_text(8 << i) for i in range(len(d2c) - 2)), "more"]
    size_names = ["0", *(_size_text(10 + i) for i in range(len(size) - 2)), "more"]
    return [
        Chart(
            "d2c-histogram",
            "Latency",
            "Share of reads and writes together that took up to so long.",
            _bars(d2c, d2c_names, "latency up to"),
            HEIGHT_IN + 0.4,
        ),
        Chart(
            "size-histogram",
            "Request sizes",
            "Share of reads and writes together.",
            _bars(size, size_names, "bytes of a request, up to"),
            HEIGHT_IN + 0.4,
        ),
    ]


def _time_text(us: int) -> str:
    if us >= 1 << 20:
        return f"{us / 1e6:.3g} s"
    return f"{us / 1000:.3g} ms" if us >= 1000 else f"{us} µs"


def _bars(counts: Any, names: Sequence[str], what: str) -> Callable[[Any], None]:
    filled = np.flatnonzero(counts)
    shown = range(int(filled[0]), int(filled[-1]) + 1)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        shares = [100 * float(counts[i]) / float(counts.sum()) for i in shown]
        axes.bar(range(len(shown)), shares, 0.8, color=COLOURS["other"][0])
        axes.set_xticks(range(len(shown)), [names[i] for i in shown], rotation=40, ha="right")
        axes.grid(axis="x", visible=False)
        axes.set_xlabel(what)
        axes.set_ylabel("% of requests")

    return draw
