"""``blkiomon top``: what happens now, or happened in a recorded trace, on the whole terminal.

``watch`` keeps what intervals bring, ``frame`` makes lines of text of it, ``screen`` has the
terminal. rich is imported when something is drawn, and not before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from blkiomon.commands.config import Config
from blkiomon.console import EXIT_INPUT, EXIT_OUTPUT, EXIT_USAGE, complain, misused, printed
from blkiomon.errors import SourceError

USAGE = """\
Usage: blkiomon top [-I SECONDS] [--capture=auto|blktrace|tracefs] [DEVICE]...
       blkiomon top [-I SECONDS] [--speed=N|max] TRACE...
"""

HELP = f"""\
{USAGE}
Which device is slow, at what, how slow, since when, and whether anything went unseen: a table that
is drawn anew every second, worst latency first. Follows the size of the terminal. ? explains it.

A DEVICE is sda or /dev/sda, traced from now on, which takes root. Without one, standard input is
read where it is a pipe or a file; otherwise all disks of this host are traced. Partitions, loop
devices and volumes are traced only if they are named.

A TRACE is what `blkiomon` takes: files of blktrace, one or one for each CPU, or a directory; - is
standard input. What is a device of this host is no trace: write ./sda, or -f sda.

  -I, --interval=SECONDS  length of an interval, and so how often figures change (default 1)
      --capture=auto|blktrace|tracefs
                          trace with what (default: what works)
  -f, --file=TRACE        this is a trace, whatever devices there are (repeatable)
      --speed=N           show a recorded trace N times as fast as it was recorded (default 1);
                          max: as fast as it can be read, and then figures of the whole of it
      --help              print this text

Keys: l, i, b sort by latency, IOPS and bandwidth; o shows operations or not; t the whole run or the
latest interval; p pauses, which a recorded trace waits for; q quits.

Examples:
  blkiomon top sda nvme0n1
  blktrace -d /dev/sdb -a issue -a complete -o - | blkiomon top
  ssh host blktrace -d /dev/sdb -a issue -a complete -o - | blkiomon top
  blkiomon top --speed 10 results/

A slow terminal costs pictures, never records. Needs rich: pip install 'blkiomon[top]'. For what is
no terminal there is `blkiomon -I 1 -h -` or `--json -`.
"""


def main(argv: Sequence[str]) -> int:
    """Run ``blkiomon top`` with what stands behind these words; returns the exit status."""
    from blkiomon.commands.cli import UsageError, read_options

    try:
        pairs, names = read_options(
            argv, "I:f:", ["interval=", "file=", "speed=", "capture=", "help"]
        )
        short = {"-I": "interval", "-f": "file"}
        named = [(short.get(name) or name[2:], value) for name, value in pairs]
        if "help" in dict(named):
            return printed([HELP])
        config = _config(dict(named), [v for n, v in named if n == "file"], names)
    except UsageError as error:
        return misused(str(error), USAGE)
    if isinstance(config, str):
        complain(config)
        return EXIT_INPUT
    if not os.isatty(1):
        complain(
            "standard output is no terminal, which top draws on: blkiomon -I 1 -h - prints text, "
            "and --json - lines for programs"
        )
        return EXIT_USAGE
    if os.environ.get("TERM", "dumb") == "dumb":
        complain("this terminal cannot be drawn on (TERM): blkiomon -I 1 -h - prints text")
        return EXIT_USAGE
    if find_spec("rich") is None:
        complain("top needs rich: pip install 'blkiomon[top]'")
        return EXIT_OUTPUT

    from blkiomon.commands.run import run
    from blkiomon.commands.top.screen import leave_terminal

    try:
        return run(config)
    finally:
        leave_terminal()


def _config(given: dict[str, str], files: list[str], names: Sequence[str]) -> Config | str:
    """What to run, or why there is nothing to run.

    Raises:
        UsageError: the arguments make no sense.
    """
    from blkiomon.commands.cli import UsageError, choice, seconds
    from blkiomon.sources.capture import whole_disks
    from blkiomon.sources.devices import device_number
    from blkiomon.sources.members import find_members

    if any(not name or "\0" in name for name in (*files, *names)):
        raise UsageError("a device or a trace is named by its name or path")
    devices = [name for name in names if device_number(name) is not None]
    others = [name for name in names if name not in devices]
    try:
        if others:
            find_members(others)
    except SourceError as error:
        return f"{error}; nor has this host such a block device"
    files = files + others
    if devices and files:
        raise UsageError(
            f"either devices or traces: {devices[0]} is a device of this host, and "
            f"{files[0]} is none"
        )
    if "-" in files and os.isatty(0):
        raise UsageError("standard input is a terminal, and a trace is expected there")
    if "speed" in given and not files:
        raise UsageError("--speed is for a recorded trace: name it")
    is_max = given.get("speed") == "max"
    config = Config(
        interval_s=seconds(given, "interval", least=0.001, default=1.0),
        files=tuple(files),
        capture=choice(given, "capture", ("auto", "blktrace", "tracefs")),
        screen=True,
        speed=0.0 if is_max else seconds(given, "speed", 0.001, 1.0, "a factor or max"),
        trace=tuple(devices),
    )
    if not files and not devices and not _is_fed():
        disks = whole_disks()
        if not disks:
            return "this host shows no disks of its own: name the devices to trace"
        config = replace(config, trace=tuple(disks))
    if "capture" in given and not config.trace:
        raise UsageError("--capture says how to trace, and nothing is to be traced")
    return config


def _is_fed() -> bool:
    """Whether standard input is something that a trace may come from."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
