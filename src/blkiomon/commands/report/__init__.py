"""``blkiomon report``: what was measured as a page or pictures. ``compare`` has the other command.

matplotlib is imported when something is drawn, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from blkiomon.console import EXIT_INPUT, EXIT_OK, EXIT_USAGE, complain, misused, printed
from blkiomon.errors import SourceError, TraceError

USAGE = """\
Usage: blkiomon report [--device DEVICE]... [--title TEXT] [--chart NAME]... -o FILE TRACE...
"""

HELP = f"""\
{USAGE}
A page to look at and to keep: what ran, how fast, how long requests took and where they went.

  -o, --output=FILE    report.html for one self-contained page; a name that ends in .png, .svg or
                       .pdf for the pictures alone
      --device=DEVICE  sdb, /dev/sdb or 8:16; only this one (repeatable)
      --title=TEXT     heading of the page
      --chart=NAME     only this one: iops, bandwidth, percentiles, heat, tail, sizes, in-flight,
                       sectors or sequential, heat-read and the like (repeatable)
      --overwrite      replace FILE even if it begins like a trace
      --max-age=SECONDS
                       a request of a trace may take so long (default 600)
      --follow-symlinks
                       as root, follow symbolic links that another user may have made
      --help           print this text

A TRACE is what `blkiomon` takes: files of blktrace, one or one for each CPU, or a directory. Files
that --json or -b wrote will do as well; these do not tell where requests went, and those of -b hold
no percentiles. Needs matplotlib: pip install 'blkiomon[report]'.
"""

PICTURES = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
PAGES = (".html", ".htm")


def main(argv: Sequence[str]) -> int:
    """Run ``blkiomon report`` with what stands behind these words; returns the exit status."""
    from blkiomon.commands.cli import UsageError, only, read_options

    try:
        pairs, names = read_options(
            argv,
            "o:",
            [
                *("output=", "device=", "title=", "chart=", "max-age="),
                *("overwrite", "follow-symlinks", "help"),
            ],
        )
        given = dict(pairs)
        if "--help" in given:
            return printed([HELP])
        output = only(pairs, "-o", "--output")
    except UsageError as error:
        return misused(str(error), USAGE)
    if not output or "\0" in output:
        return misused("the page's name is missing: -o report.html", USAGE)
    suffix = Path(output).suffix.lower()
    if suffix not in PAGES and suffix not in PICTURES:
        return misused(f"-o takes a name that ends in .html, .png, .svg or .pdf: {output}", USAGE)
    if not names or not all(names) or any("\0" in name for name in names):
        return misused("which trace? It is named by its path", USAGE)

    from blkiomon.commands.cli import UsageError
    from blkiomon.commands.report import figures, page
    from blkiomon.commands.report.collect import ReportError, check_output, collect, write_output

    try:
        max_age_s = max_age(given)
    except UsageError as error:
        return misused(str(error), USAGE)
    try:
        devices = device_numbers([value for name, value in pairs if name == "--device"])
        figures.check()
        policy = check_output(
            Path(output),
            names,
            follow="--follow-symlinks" in given,
            overwrite="--overwrite" in given,
        )
        found = collect(names, devices=devices, max_age_s=max_age_s)
        title = given.get("--title") or f"Block I/O of {', '.join(Path(n).name for n in names[:3])}"
        charts = figures.chosen(figures.charts(found), [v for n, v in pairs if n == "--chart"])
        if suffix in PICTURES:
            kind = PICTURES[suffix]
            write_output(Path(output), lambda file: figures.save(charts, title, file, kind), policy)
        else:
            text = page.report(found, title, charts)
            write_output(Path(output), lambda file: file.write(text.encode()), policy)
    except (ReportError, SourceError, TraceError) as error:
        return told(error)
    if found.is_broken:
        complain(found.notes[-1])
        return EXIT_INPUT
    return EXIT_OK


def device_numbers(names: Sequence[str]) -> list[int]:
    """Numbers of devices by what a user calls them.

    Raises:
        ReportError: there is none of a name.
    """
    from blkiomon.commands.cli import UsageError, device_of
    from blkiomon.commands.report.collect import ReportError

    try:
        return [device_of(name) for name in names]
    except UsageError as error:
        raise ReportError(str(error), EXIT_USAGE) from error


def max_age(given: Mapping[str, str]) -> float:
    """The seconds of ``--max-age``. Raises UsageError."""
    from blkiomon.commands.cli import seconds
    from blkiomon.interval.monitor import MAX_AGE_S

    return seconds({name.lstrip("-"): v for name, v in given.items()}, "max-age", 0.0, MAX_AGE_S)


def told(error: Exception) -> int:
    """Say in a line what was wrong with the input or the output; returns the exit status."""
    complain(f"bad trace: {error}" if isinstance(error, TraceError) else str(error))
    return getattr(error, "status", EXIT_INPUT)
