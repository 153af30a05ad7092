"""``blkiomon top``: live figures, or those of a recorded trace, on the whole terminal.

``watch`` adds intervals up, ``rows`` sorts and selects, ``frame`` makes lines of text, ``screen``
shows them on the terminal.
"""

from __future__ import annotations

import os
from argparse import Namespace
from functools import partial

from blkiomon.commands.config import Config
from blkiomon.commands.options import (
    FILE,
    HELP,
    QUEUE_TIMES,
    SELECTION,
    SLOW_LIMIT,
    Command,
    Option,
    UsageError,
    number,
    seconds,
    slow,
)
from blkiomon.commands.parsing import parsed
from blkiomon.commands.views import BY, TOPOLOGY
from blkiomon.console import EXIT_USAGE, complain
from blkiomon.outputs.catalog import OutputSettings

SLOW_PERCENT = 99.0
"""Without ``--slow``, requests above this percentile of the last minute are shown as slow."""


def _speed(name: str, text: str) -> float:
    """A factor; 0 for ``max``. A Reader."""
    factor: float = 0.0 if text == "max" else number(0.001, "a factor or max")(name, text)
    return factor


COMMAND = Command(
    "top",
    (
        "blkiomon top [-I SECONDS] [--queue] [DEVICE]...",
        "blkiomon top [-I SECONDS] [--speed=N|max] TRACE...",
    ),
    """
    Show which disk is slow, for which operations, and since when: a table that is redrawn every
    second, highest latency first. It follows the size of the terminal. Press h for an explanation.

    A DEVICE, such as sda or /dev/mapper/data, is captured from now on, which needs root or
    CAP_PERFMON. Without a DEVICE, standard input is read if it is a pipe or a file; otherwise all
    disks and volumes of this host are captured. Partitions and loop devices must be named.

    A TRACE is what `blkiomon` reads: files of blktrace, a set of per-CPU files, or a directory; -
    is standard input. A name that is a device of this host means the device. For a trace of that
    name, write ./sda or -f sda.
    """,
    (
        Option(
            "-I, --interval=SECONDS",
            "length of an interval: how often figures change (default 1)",
            read=seconds(0.001),
            default=1.0,
        ),
        QUEUE_TIMES,
        *SELECTION,
        FILE,
        Option(
            "--speed=N",
            "show a recorded trace N times as fast as it was recorded (default 1); max: as fast as "
            "it can be read, with figures of the whole trace",
            read=_speed,
        ),
        Option(
            "--slow=MS:FILE",
            "also write to FILE each request that hangs or takes longer than MS ms: see blkiomon "
            "--help",
            read=slow,
            is_output=True,
        ),
        SLOW_LIMIT,
        BY,
        TOPOLOGY,
        HELP,
    ),
    """
    Keys are those of htop: cursor keys select, / filters, > or F6 sorts by the next column, Enter
    shows a device's latencies over time and its slow requests, Esc goes back, t or F5 shows a tree
    of arrays, LUNs and paths. Press h for all keys.

    If the terminal is slow, top skips screens; it never loses records. If the output is not a
    terminal, use `blkiomon stat`.
    """,
    (
        ("blkiomon top sda nvme0n1", ""),
        ("blktrace -d /dev/sdb -a issue -a complete -o - | blkiomon top", ""),
        ("ssh host blktrace -d /dev/sdb -a issue -a complete -o - | blkiomon top", ""),
        ("blkiomon top --speed 10 results/", ""),
    ),
)


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon top`` with these options; returns the exit status."""
    config = _config(given)
    if not os.isatty(1):
        complain(
            "top needs a terminal: `blkiomon stat` prints lines, and `blkiomon stat --json` JSON"
        )
        return EXIT_USAGE
    if os.environ.get("TERM", "dumb") == "dumb":
        complain("this terminal cannot be drawn on (TERM): `blkiomon stat` prints lines")
        return EXIT_USAGE

    from blkiomon.commands.run import run
    from blkiomon.commands.top.screen import leave_terminal, open_screen

    try:
        return run(config, open_screen=partial(open_screen, config))
    finally:
        leave_terminal()


def _config(given: Namespace) -> Config:
    """What to run.

    Raises:
        UsageError: the arguments make no sense.
        SourceError: a name is neither a device nor a trace, or there is nothing to capture.
    """
    from blkiomon.commands.naming import watched

    inputs = watched(given, given.operands, "top")
    if given.speed is not None and not inputs["files"]:
        raise UsageError("--speed needs a recorded trace: name it")
    slow_ns, slow_percent, slow_file = given.slow or (None, None, None)
    if slow_file == "-":
        raise UsageError("top draws on standard output: give --slow a file, as in 20:slow.txt")
    if slow_file is None and given.slow_limit != SLOW_LIMIT.default:
        raise UsageError("--slow-limit needs --slow")
    return Config(
        **inputs,
        interval_s=given.interval,
        outputs=OutputSettings({"slow": slow_file} if slow_file else {}),
        slow_ns=slow_ns,
        slow_percent=SLOW_PERCENT if given.slow is None else slow_percent,
        slow_limit=given.slow_limit,
        screen=True,
        speed=1.0 if given.speed is None else given.speed,
    )
