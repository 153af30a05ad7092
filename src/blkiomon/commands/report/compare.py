"""``blkiomon compare``: options, and what is printed and written."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blkiomon.commands.options import (
    FOLLOW_SYMLINKS,
    HELP,
    LIMITS,
    OVERWRITE,
    SELECTION,
    Command,
    Option,
    UsageError,
    limits,
    one_of,
)
from blkiomon.commands.parsing import parsed
from blkiomon.commands.report import (
    CHART,
    CHART_OF_PAGE,
    OUTPUT,
    PAGES,
    PICTURES,
    SUFFIXES,
    TITLE,
    note_written,
)
from blkiomon.commands.views import BY, TOPOLOGY, find_topology, selected
from blkiomon.console import EXIT_FAILURE, EXIT_INPUT, EXIT_OK, complain, printed
from blkiomon.sources.trace_sets import input_files

if TYPE_CHECKING:
    from blkiomon.commands.report.comparison import Comparison
    from blkiomon.outputs.opening import Policy

CHARTS = ("heat", "iops", "bandwidth", "percentiles", "sizes")

COMMAND = Command(
    "compare",
    (
        "blkiomon compare [--json] [-o FILE] [--fail-if RULE]... A B",
        "blkiomon compare [OPTION]... A1 A2 ... : B1 B2 ...",
    ),
    """
    Show what changed from run A to run B, for each device and operation, with the confidence
    interval of each change. A and B are traces, or files written with --json.
    """,
    (
        OUTPUT._replace(
            help="also write a page with both sides, changes.html; "
            "with .png, .svg or .pdf only the charts"
        ),
        Option("--json", "print JSON"),
        *SELECTION,
        BY,
        TOPOLOGY,
        TITLE,
        CHART._replace(
            help="only this chart of a picture: heat, iops, bandwidth, percentiles or sizes "
            "(repeatable)",
            read=one_of(*CHARTS),
            choices=CHARTS,
        ),
        Option(
            "--fail-if=RULE",
            "exit with status 1 if RULE holds (repeatable). 'read.p99 > +10%' holds if the change "
            "exceeds 10 %, unless no difference is shown. 'write.max > 50ms', 'read.iops < 900', "
            "'8:16/read.bandwidth < 40MB/s' and 'all.errors > 0' are limits for B",
            is_repeatable=True,
        ),
        Option("--all", "list all devices and operations (default: those that changed)"),
        OVERWRITE,
        *LIMITS,
        FOLLOW_SYMLINKS,
        HELP,
    ),
    """
    A figure is better or worse if its interval does not include 0; else no difference is shown. A
    row is a device or an operation of it. It is mixed if some of its figures are better and others
    are worse. It is also worse if a larger share of its requests failed, beyond chance.

    All intervals together contain the true changes with 95 % confidence: the more devices and
    operations are compared, the wider is each. An interval follows from how a figure varies over
    time; with several runs on each side, from how the runs vary.

    `too little to tell` means fewer than eight slices of time with requests, a percentile that
    fewer than ten requests exceed, a figure that is 0, or a maximum, which is one request.

    `only in A` or `only in B` means that the other side has no such device or operation. The
    rows of all devices and of all operations contain its requests.

    A rule of --fail-if is chosen before the runs, so its figure is judged alone, with 95 %
    confidence. It may hold where the table shows no difference. It also holds if B has no such
    requests, or if A has none and the rule is about a change.

    Devices are compared by their numbers. With --by, each run has a topology of its own, in
    A.topology.json and B.topology.json, as devices have other names and numbers after a reboot.
    LUNs are the same if their WWIDs are; paths, if the LUN, the port of the host and the port of
    the array are; ports, HBAs and arrays, if their names are.

    Exit status: 0 for success, whatever has changed; 1 if a rule of --fail-if holds; 2 for a usage
    error; 3 if an input is damaged, or the runs have nothing in common; 4 if FILE could not be
    written.
    """,
)


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon compare`` with these options; returns the exit status."""
    sides = _sides(given.operands)
    if sides is None:
        raise UsageError("compare takes two runs, or several of each side: A1 A2 : B1 B2")
    suffix = Path(given.output or "").suffix.lower()
    if given.output is not None and suffix not in (*PAGES, *PICTURES):
        raise UsageError(f"{given.output}: {SUFFIXES}")
    if given.chart and suffix not in PICTURES:
        raise UsageError(CHART_OF_PAGE)

    from blkiomon.commands.report import comparison, rules
    from blkiomon.commands.table import for_locale

    wanted = [rules.parse(rule) for rule in given.fail_if]
    policy = None if given.output is None else _check_output(given, sides)
    for letter, side in zip("AB", sides):
        _refuse_repeated(letter, side)
    selection = selected(given, [name for side in sides for name in side])
    found = comparison.compare_runs(
        sides,
        [rule.metric for rule in wanted if rule.metric != "errors"],
        by=given.by,
        ops=selection.ops,
        topology_of=lambda name: find_topology(given.by, given.topology, [name]),
        devices=selection.devices,
        period=selection.period,
        **limits(given),
        n_runs=sum(map(len, sides)),
    )
    if policy is not None:
        _write(given, found, policy)
    text = json.dumps(found.to_dict(), allow_nan=False) + "\n" if given.json else None
    status = printed([text or for_locale(comparison.text(found, has_all=given.all))])
    if given.output is not None:
        note_written(given.output)
    broken = [run.notes[-1] for run in found.runs if run.is_broken]
    for line in broken:
        complain(line)
    if broken:
        return max(status, EXIT_INPUT)  # a rule says nothing about an incomplete trace
    held = [why for rule in wanted if (why := rules.holds(rule, found.alone))]
    for line in held:
        complain(line)
    return max(status, EXIT_FAILURE if held else EXIT_OK)


def _check_output(given: Namespace, sides: Sequence[Sequence[str]]) -> Policy:
    """Find out before long work whether the file can be written. Raises ReportError."""
    from blkiomon.commands.report import figures
    from blkiomon.commands.report.written import check_output

    if _picture(given) is not None:
        figures.check()
    return check_output(
        Path(given.output),
        [name for side in sides for name in side],
        follow=given.follow_symlinks,
        overwrite=given.overwrite,
    )


def _picture(given: Namespace) -> str | None:
    """The kind of picture to write; None for a page."""
    return PICTURES.get(Path(given.output).suffix.lower())


def _write(given: Namespace, found: Comparison, policy: Policy) -> None:
    """Write the page or the picture. Raises ReportError."""
    import numpy as np

    from blkiomon.commands.report import comparison, figures
    from blkiomon.commands.report.page.compare import compare_page
    from blkiomon.commands.report.written import write_output
    from blkiomon.engine.constants import OPS

    path = Path(given.output)
    title = given.title or "Block I/O, before and after"
    kind = _picture(given)
    if kind is None:
        page = compare_page(found, title)
        write_output(path, lambda file: file.write(page.encode()), policy)
        return
    ops = [OPS.index(op) for op in given.op or OPS]
    cells = [of.only(np.isin(of.op, ops)) for of in comparison.sides_of(found)]
    charts = figures.chosen(figures.charts_of_sides(cells), given.chart)
    about = [*found.about(), f"Verdict: {found.verdict()}"]
    write_output(path, lambda file: figures.save(charts, title, file, kind, about), policy)


def _sides(names: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """The names of the runs of both sides; None if the names are not two sides."""
    listed = list(names)
    if not all(listed) or any("\0" in name for name in listed):
        return None
    if ":" not in listed:
        return (listed[:1], listed[1:]) if len(listed) == 2 else None
    at = listed.index(":")
    a, b = listed[:at], listed[at + 1 :]
    return (a, b) if a and b and ":" not in b else None


def _refuse_repeated(letter: str, side: Sequence[str]) -> None:
    """Refuse runs of a side that have a file in common: they would count as independent.

    Raises:
        UsageError: two runs have a file in common.
        SourceError: a run cannot be found.
    """
    found: dict[tuple[int, int], str] = {}
    for name in side if len(side) > 1 else ():
        files = input_files([name])
        if first := next((found[file] for file in files if file in found), None):
            also = "" if first == name else f", also as {name}"
            raise UsageError(
                f"side {letter} has the trace {first} twice{also}: its runs must be different"
            )
        found |= dict.fromkeys(files, name)
