"""``blkiomon report``: a page of what was measured, or pictures. ``compare`` is another command.

matplotlib is imported when a picture is drawn, and not before.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from functools import partial
from pathlib import Path

from blkiomon.commands.config import ALL_REQUESTS
from blkiomon.commands.naming import require_traces
from blkiomon.commands.options import (
    FOLLOW_SYMLINKS,
    HELP,
    LIMITS,
    OVERWRITE,
    SELECTION,
    Command,
    Option,
    Selection,
    UsageError,
    limits,
    one_of,
    path,
)
from blkiomon.commands.parsing import parsed
from blkiomon.commands.views import BY, DEVICE, TOPOLOGY, find_topology, selected, view_of
from blkiomon.console import EXIT_INPUT, EXIT_OK, complain

OUTPUT = Option("-o, --output=FILE", "", read=path, is_output=True)
TITLE = Option("--title=TEXT", "heading of the page")
CHARTS = {
    "heat": "a trace or a file of --json",
    "devices": "several devices",
    **dict.fromkeys(("iops", "bandwidth"), "requests"),
    "in-flight": "a trace or a file of --json",
    **dict.fromkeys(("sectors", "sequential"), "a trace, by device, LUN or path"),
    **dict.fromkeys(("percentiles", "sizes"), "a trace or a file of --json"),
    **dict.fromkeys(("d2c-histogram", "size-histogram"), "a file of -b"),
}
"""The charts of a picture, and what each of them needs."""

CHART = Option("--chart=NAME", "", read=one_of(*CHARTS), is_repeatable=True, choices=[*CHARTS])

COMMAND = Command(
    "report",
    ("blkiomon report [OPTION]... TRACE...",),
    """
    Draw a trace as a page: which devices were slow, how much I/O ran, how long requests took, and
    which sectors they accessed. The page is one self-contained file; select a part of the time in
    it, and all figures follow.
    """,
    (
        OUTPUT._replace(
            help="name of the page (default: run1.html for the trace run1, run1-read.html with "
            "--op read); with .png, .svg or .pdf only the charts"
        ),
        *SELECTION,
        BY,
        TOPOLOGY,
        TITLE,
        CHART._replace(
            help="only this chart of a picture: heat, devices, iops, bandwidth, in-flight, "
            "sectors, sequential, percentiles or sizes; for files of -b: iops, bandwidth, "
            "d2c-histogram or size-histogram (repeatable)"
        ),
        OVERWRITE,
        *LIMITS,
        FOLLOW_SYMLINKS,
        HELP,
    ),
    """
    A TRACE is what `blkiomon` reads: files of blktrace, a set of per-CPU files, or a directory.
    Files written with --json or -b also work, but contain no sectors, and those of -b no
    percentiles. Pictures need matplotlib: pip install 'blkiomon[report]'.

    With --by, the page shows LUNs, paths, ports, HBAs or arrays in place of devices. So
    that nothing is counted twice, it leaves out some devices, and names them.
    """,
)

PICTURES = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
PAGES = (".html", ".htm")
CHART_OF_PAGE = "--chart selects charts of a picture: name it with -o x.png, x.svg or x.pdf"
MOST_OF_SCOPE = 100
"""Characters of a selection in the name of its page."""

SUFFIXES = "-o takes a name that ends in .html, .png, .svg or .pdf"


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon report`` with these options; returns the exit status."""
    names = given.operands
    require_traces(names)
    wanted = selected(given, names)
    output = given.output or page_name(names[0], wanted, given.by)
    suffix = Path(output).suffix.lower()
    if suffix not in (*PAGES, *PICTURES):
        raise UsageError(f"{output}: {SUFFIXES}")
    if given.chart and suffix in PAGES:
        raise UsageError(CHART_OF_PAGE)

    from blkiomon.commands.report import figures
    from blkiomon.commands.report.collect import collect
    from blkiomon.commands.report.page.report import report
    from blkiomon.commands.report.written import check_output, write_output
    from blkiomon.interval.incomplete import in_words

    if suffix in PICTURES:
        figures.check()
    policy = check_output(
        Path(output), names, follow=given.follow_symlinks, overwrite=given.overwrite
    )
    topology = find_topology(given.by, given.topology, names)
    view = view_of(topology, given.by)
    found = collect(names, **wanted._asdict(), view=view, **limits(given))
    found = found.of_host(topology)
    title = given.title or f"Block I/O of {', '.join(Path(n).name for n in found.names[:3])}"
    if suffix in PICTURES:
        title += f" ({found.scope})" if found.scope else ""
        why = found.whole.incomplete
        about = [f"Incomplete: {in_words(why)}"] if why else []
        about += [f"{number}. {one.text}." for number, one in enumerate(found.findings, 1)]
        charts = figures.chosen(figures.charts(found), given.chart)
        whole_s = found.whole.duration_s
        shaded = [(number, begin / whole_s, end / whole_s) for number, begin, end in found.shaded]
        write = partial(figures.save, charts, title, kind=PICTURES[suffix])
        write_output(Path(output), partial(write, about=about, shaded=shaded), policy)
    else:
        page = report(found, title)
        write_output(Path(output), lambda file: file.write(page.encode()), policy)
    note_written(output, always=not given.output)
    if found.is_broken:
        complain(found.notes[-1])
        return EXIT_INPUT
    return EXIT_OK


def page_name(trace: str, selection: Selection = ALL_REQUESTS, by: str = DEVICE) -> str:
    """The name of the page of a trace: ``run1.html`` for ``results/run1.blktrace.0``.

    The page of a selection has its text in the name, such as ``run1-8.16-read.html``.
    """
    name = re.sub(r"\.(gz|xz|zst|zstd)$", "", Path(trace).name)
    name = re.sub(r"\.(blktrace(\.\d+)?|bin|dat|json|jsonl|trace)$", "", name)
    of = [selection.text, f"by {by}" if by != DEVICE else ""]
    only = re.sub(r"[^\w.]+", "-", " ".join(of).strip()[:MOST_OF_SCOPE].replace(":", "."))
    return "-".join(filter(None, (name.strip("-.") or "report", only.strip("-.")))) + ".html"


def note_written(name: str, *, always: bool = False) -> None:
    """Print the name and size of a written file; without a terminal only if ``always``."""
    from blkiomon.formats.units import bytes_text

    if always or os.isatty(2):
        complain(f"wrote {name}, {bytes_text(Path(name).stat().st_size)}")
