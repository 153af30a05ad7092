"""argv -> Config -> exit status. No logic of its own, and nothing heavy is imported before it must.

The option table below is the one source of what is parsed and what ``--help`` says.
"""

from __future__ import annotations

import _thread
import gc
import getopt
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC
from importlib import import_module
from types import FrameType
from typing import NamedTuple

from blkiomon._version import __version__
from blkiomon.commands.config import Config
from blkiomon.commands.privileges import PrivilegeError, User, find_user
from blkiomon.console import (
    EXIT_FAILURE,
    EXIT_INPUT,
    EXIT_OUTPUT,
    EXIT_PIPE,
    EXIT_USAGE,
    SIGNALS,
    complain,
    misused,
    printed,
)


class UsageError(Exception):
    """The arguments make no sense; the text says which and why."""


class Option(NamedTuple):
    short: str
    long: str
    argument: str
    help: str
    group: str


_OUTPUT = "Output (several at once; FILE may be - for standard output; none: -h -)"
_RICH = "Output with percentiles, operations apart, requests in flight, and what went unseen"
_QUEUE = "Output to a SysV message queue, which must exist (all three together)"
_ORIGINAL = "General"
_MORE = "More"
_INPUT = "Which records, and when an interval ends"
_OURS = (_MORE, _INPUT, _RICH)

OPTIONS = (
    Option("I", "interval", "SECONDS", "length of an interval; required, 0.001 or more", _ORIGINAL),
    Option("V", "version", "", "print the version", _ORIGINAL),
    Option("", "trace", "DEVICE", "trace this one from now on (repeatable); takes root", _INPUT),
    Option("", "capture", "auto|blktrace|tracefs", "with what (default: what works)", _INPUT),
    Option("", "device", "DEVICE", "sdb, /dev/sdb or 8:16; only this one (repeatable)", _INPUT),
    Option("", "from", "TIME", "begin there: seconds from the first record, or a time", _INPUT),
    Option("", "to", "TIME", "end before that", _INPUT),
    Option(
        "", "clock", "auto|trace|wall", "what ends an interval (default auto); see below", _INPUT
    ),
    Option("h", "human-readable", "FILE", "statistics as text", _OUTPUT),
    Option("b", "binary", "FILE", "statistics as the original's binary struct", _OUTPUT),
    Option("d", "dump-lldd", "FILE", "records of low-level drivers, passed through", _OUTPUT),
    Option("D", "debug", "FILE", "records without a partner, and totals", _OUTPUT),
    Option("", "json", "FILE", "JSON Lines, one interval a line", _RICH),
    Option("", "csv", "FILE", "a row for each interval, device and operation", _RICH),
    Option("", "parquet", "FILE|DIR/", "the same rows; pip install 'blkiomon[arrow]'", _RICH),
    Option("", "openmetrics", "[HOST:]PORT", "metrics; pip install 'blkiomon[metrics]'", _RICH),
    Option("", "textfile", "FILE", "a file that always holds these metrics; likewise", _RICH),
    Option("", "names", "yes|no", "what this host calls the devices (default: if live)", _RICH),
    Option("Q", "msg-queue", "PATH", "path that names the queue, as for ftok(3)", _QUEUE),
    Option("q", "msg-queue-id", "ID", "project id of the queue, not 0", _QUEUE),
    Option("m", "msg-id", "TYPE", "type of the messages, greater than 0", _QUEUE),
    Option("", "help", "", "print this text", _MORE),
    Option("", "threads", "N", "with 2, use two cores (default 1)", _MORE),
    Option("", "stat-version", "0.3|0.2", "layout of the statistics (default 0.3)", _MORE),
    Option("", "no-final", "", "drop the last, partial interval, as the original does", _MORE),
    Option(
        "", "resync", "", "after garbage go on at the next record, count what is skipped", _MORE
    ),
    Option("", "max-pending", "N", "pending records kept at most (default 1000000)", _MORE),
    Option("", "max-age", "SECONDS", "age of a pending record at most (default 600)", _MORE),
    Option("", "max-devices", "N", "devices known at a time (default 65536)", _MORE),
    Option("", "user", "NAME[:GROUP]", "root no more, once all is open", _MORE),
    Option("", "overwrite", "", "outputs also replace files that begin like a trace", _MORE),
    Option(
        "",
        "follow-symlinks",
        "",
        "as root, follow symbolic links that another user may have made",
        _MORE,
    ),
    Option("v", "verbose", "", "say what is being waited for", _MORE),
)

_ORIGINALS = {option.long for option in OPTIONS if option.group not in _OURS}
"""Options that the original has, too."""

_COMMANDS = {
    "archive": "blkiomon.commands.archive",
    "compare": "blkiomon.commands.report.compare",
    "decode": "blkiomon.commands.decode",
    "report": "blkiomon.commands.report",
    "top": "blkiomon.commands.top",
}
"""Sub-commands, and the module whose ``main`` each is."""

_FILE_OUTPUTS = (
    "human-readable",
    "binary",
    "dump-lldd",
    "debug",
    "json",
    "csv",
    "parquet",
    "textfile",
)

_ALIASES = {"msg-queue-name": "msg-queue"}  # what early versions documented

_USAGE = (
    "Usage: blkiomon -I SECONDS [-h FILE] [-b FILE] [-d FILE] [-D FILE]\n"
    "                [-Q PATH -q ID -m TYPE] [-V] [OPTION]... [TRACE]...\n"
    "       blkiomon decode FILE\n"
    "       blkiomon report -o report.html TRACE...\n"
    "       blkiomon compare A B\n"
    "       blkiomon top [DEVICE]...\n"
    "       blkiomon archive -o DATASET SOURCE...\n"
)

_HEAD = f"""\
{_USAGE}
Per-device statistics of request sizes and latencies (issue to completion), once an interval, from
the binary records of blktrace: on standard input, or in files.

A TRACE is a file; the base name or any member of the files that blktrace writes, one for each CPU
(sda stands for all sda.blktrace.*); a directory of such; a FIFO; or - for standard input, which is
also read where none is named. Several are merged by time. Files may be compressed with gzip, xz or
zstd. `blkiomon decode` prints what -b wrote, as text or with --json or --csv. `blkiomon top` shows
what happens now on a screen.
"""

_TAIL = """
Examples:
  blktrace -d /dev/sdb -a issue -a complete -o - | blkiomon -I 10 -h -
        print the figures of sdb every ten seconds
  blkiomon -I 5 -h - --trace /dev/sdb --trace nvme0n1
        likewise of two devices, and the tracing is started and ended as well
  blkiomon -I 60 --json stats.jsonl sdb
        percentiles for every minute of a recorded trace (sdb.blktrace.0 and so on)
  blkiomon -I 1 --csv - --device 8:16 --from 10 --to 20 results/
        ten seconds of one device, out of all traces in a directory

Clocks: trace ends intervals by the records' own time, from the first record on, so that the same
trace always gives the same output; that is the default for files. wall ends them when it is time;
that is the default for pipes, unless what they bring was recorded: its times run faster than the
clock, and one line says so. Printed times are those of the trace where it tells the time of day, as
blktrace's do, and only then --from and --to take such as 2026-11-23T14:00:00.

A live trace never waits for an output: what a full queue or a slow disk could not take is counted
and reported. Files wait. The last, partial interval is printed at the end, also after SIGINT or
SIGTERM. SIGHUP reopens files that have been moved away; the end of its terminal ends the run.

--parquet DIR/ writes a whole file for each interval into a directory: these can be read whatever
happens, and one FILE only once it has been closed.

Exit status: 0; 2 after a usage error; 3 where the input is no trace, is damaged or holds no record;
4 where an output failed or did not take everything; 141 (SIGPIPE) where whoever read standard
output left. With -I -h -b -d -D -Q -q -m -V alone, as with the original, 1 stands for 2, 3 and 4.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    # From here on a signal waits until it can end the run in order: run.StopSignals lets it in.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _occupy_standard_fds()
    _mind_the_path()
    _widen_pipe(0)
    try:
        status = _main(argv)
        if status == EXIT_PIPE and argv is None:
            _die_of(signal.SIGPIPE)
        return status
    finally:
        if argv is not None:  # else the process ends, and one that comes too late changes nothing
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Nothing here multiplies matrices; the threads that would do it take CPU to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if arguments and arguments[0] in _COMMANDS:
        command: Callable[[Sequence[str]], int] = import_module(_COMMANDS[arguments[0]]).main
        return _interruptible(command, arguments[1:])
    status = _monitor(arguments)
    is_failure = status in (EXIT_USAGE, EXIT_INPUT, EXIT_OUTPUT)
    return EXIT_FAILURE if is_failure and _is_original(arguments) else status


def _monitor(arguments: Sequence[str]) -> int:
    """The command without a sub-command; returns the exit status."""
    try:
        _check_first_word(arguments)
        config = parse(arguments)
    except UsageError as error:
        return misused(str(error), f"{_USAGE}'blkiomon --help' explains the options.\n")
    if isinstance(config, str):
        return printed([config])
    if config.files in ((), ("-",)) and not config.trace and os.isatty(0):
        complain(
            "standard input is a terminal; trace records are expected there, as in: "
            "blktrace -d /dev/sdb -a issue -a complete -o - | blkiomon -I 10 -h -"
        )
        return EXIT_USAGE

    # What is imported stays: looking through it for garbage would take a tenth of the start.
    gc.disable()
    from blkiomon.commands.run import run

    gc.freeze()
    gc.enable()
    status = run(config)
    return EXIT_FAILURE if status == EXIT_OUTPUT and config.is_original else status


def _interruptible(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """A sub-command, which any signal ends as it would anything, but no part of a file stays."""
    received = 0
    main_thread = _thread.get_ident()
    is_due = True  # to be raised: once, as the command is then on its way to its end

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal received, is_due
        received = received or number
        if is_due:
            is_due = False
            raise KeyboardInterrupt

    def retry(lost: sys.UnraisableHookArgs) -> None:
        """It was raised where nothing can be, as in a weak reference's callback: once more."""
        nonlocal is_due
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            old_hook(lost)
            return
        is_due = True
        # By another thread, which has its turn when this function has ended. A real signal: it ends
        # a read that waits, too.
        _thread.start_new_thread(signal.pthread_kill, (main_thread, signal.Signals(received)))

    old_hook, sys.unraisablehook = sys.unraisablehook, retry
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    old = {number: signal.signal(number, interrupt) for number in heard}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return command(arguments)
    except KeyboardInterrupt:
        pass
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        sys.unraisablehook = old_hook
        for number, handler in old.items():
            signal.signal(number, handler)
    _die_of(received)
    return EXIT_FAILURE


def _die_of(number: int) -> None:
    """End by a signal: whoever waits for us is to know, and a shell then ends its loop."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


def _is_original(arguments: Sequence[str]) -> bool:
    """Whether these arguments, right or wrong, are of the original alone."""
    try:
        given, files, _ = _getopt(arguments)
        return _are_original(given, files)
    except UsageError:
        pass
    # Up to the first one that is not understood.
    options = [option for option in OPTIONS if option.long in _ORIGINALS]
    short = "".join(option.short + ":" * bool(option.argument) for option in options)
    names = [option.long for option in options] + list(_ALIASES)
    try:
        getopt.gnu_getopt(list(arguments), short, [n + "=" * (n != "version") for n in names])
    except getopt.GetoptError as error:
        is_short = len(error.opt) == 1 and error.opt in short
        return is_short or any(name.startswith(error.opt) for name in names)
    return False


def _check_first_word(arguments: Sequence[str]) -> None:
    """Find a misspelt command. Raises UsageError: the first word is like one, and no trace."""
    first = arguments[0] if arguments else "-"
    if not first.startswith("-") and not _is_trace(first):
        meant = meant_by(first, _COMMANDS)
        if meant:
            raise UsageError(f"unknown command {first!r}; did you mean {meant!r}?")


def _is_trace(name: str) -> bool:
    """Whether there is something that this name stands for."""
    from blkiomon.errors import SourceError
    from blkiomon.sources.members import find_members

    try:
        return bool(find_members([name]))
    except (SourceError, ValueError):
        return False


def meant_by(word: str, words: Iterable[str]) -> str | None:
    """Which of some words a misspelt one is like, if any."""
    from difflib import get_close_matches  # for mistakes alone

    return next(iter(get_close_matches(word, list(words), 1)), None)


def read_options(
    arguments: Sequence[str], short: str, long: Sequence[str], known: Sequence[str] = ()
) -> tuple[list[tuple[str, str]], list[str]]:
    """Options and other arguments, as ``getopt.gnu_getopt`` has them.

    Args:
        arguments: of the command.
        short, long: as for getopt.
        known: names of the options that may have been meant by a misspelt one; ``long`` by default.

    Raises:
        UsageError: one is unknown, or its argument is missing.
    """
    try:
        return getopt.gnu_getopt(list(arguments), short, list(long))
    except getopt.GetoptError as error:
        # Of -json getopt names the j alone.
        word = next((a[1:] for a in arguments if a[:2] == f"-{error.opt}"), error.opt)
        meant = None
        if error.opt and "not recognized" in error.msg:
            meant = meant_by(word.partition("=")[0], known or [name.rstrip("=") for name in long])
        raise UsageError(error.msg + (f"; did you mean --{meant}?" if meant else "")) from None


def usage() -> str:
    """The text of ``--help``."""
    lines = [_HEAD]
    for group in dict.fromkeys(option.group for option in OPTIONS):
        lines.append(f"\n{group}:\n")
        for short, long, argument, text, _ in (o for o in OPTIONS if o.group == group):
            names = f"-{short}, --{long}" if short else f"    --{long}"
            if argument:
                names += f"={argument}"
            below = f"\n{'':34}" if len(names) > 31 else ""  # too wide for the column
            lines.append(f"  {names:<32}{below}{text}\n")
    return "".join(lines) + _TAIL


def parse(arguments: Sequence[str]) -> Config | str:
    """Read the arguments as getopt(3) would.

    Returns what to run, or the text to print instead.

    Raises:
        UsageError: the arguments make no sense.
    """
    given, files, several = _getopt(arguments)
    version = choice(given, "stat-version", ("0.3", "0.2"))
    if "help" in given:
        return usage()
    if "version" in given:
        return f"blkiomon version {version} (blkiomon {__version__})\n"
    if "interval" not in given:
        if files and not _is_trace(files[0]):
            raise UsageError(f"{files[0]} is neither a trace nor one of {', '.join(_COMMANDS)}")
        raise UsageError("the length of an interval is missing: -I SECONDS")

    queue = [name for name in ("msg-queue", "msg-queue-id", "msg-id") if name in given]
    if queue and len(queue) != 3:
        raise UsageError("a message queue takes all three of -Q PATH, -q ID and -m TYPE")
    outputs = [name for name in _FILE_OUTPUTS if name in given]
    for name in (*outputs, *queue[:1]):
        if not given[name] or "\0" in given[name]:
            raise UsageError(f"--{name} takes a path")

    for name in files:
        if not name or "\0" in name:
            raise UsageError("a trace is named by its path")
    trace = several["trace"]
    if trace and files:
        raise UsageError("--trace reads no files, and a TRACE is one")
    if not all(trace) or any("\0" in name for name in trace):
        raise UsageError("--trace takes a device")
    if "capture" in given and not trace:
        raise UsageError("--capture says how to trace, and --trace DEVICE what: it is missing")
    from_ns, from_is_absolute = _time(given, "from")
    to_ns, to_is_absolute = _time(given, "to")
    if from_ns is not None and to_ns is not None:
        if from_is_absolute != to_is_absolute:
            raise UsageError("--from and --to take both seconds, or both a time of day")
        if to_ns <= from_ns:
            raise UsageError("--to must be later than --from")

    return Config(
        interval_s=seconds(given, "interval", least=0.001),
        files=tuple(files),
        trace=tuple(trace),
        capture=choice(given, "capture", ("auto", "blktrace", "tracefs")),
        clock=choice(given, "clock", ("auto", "trace", "wall")),
        from_ns=from_ns,
        to_ns=to_ns,
        is_absolute=from_is_absolute or to_is_absolute,
        devices=tuple(device_of(name) for name in several["device"]),
        threads=whole(given, "threads", 1, 1024, default=1),
        json=given.get("json"),
        csv=given.get("csv"),
        parquet=given.get("parquet"),
        openmetrics=_address(given, "openmetrics"),
        textfile=given.get("textfile"),
        follow_symlinks="follow-symlinks" in given,
        overwrite="overwrite" in given,
        is_original=_are_original(given, files),
        user=_user(given, "user"),
        names={"auto": None, "yes": True, "no": False}[
            choice(given, "names", ("auto", "yes", "no"))
        ],
        human=given.get(
            "human-readable", None if outputs or queue or "openmetrics" in given else "-"
        ),
        binary=given.get("binary"),
        driver=given.get("dump-lldd"),
        debug=given.get("debug"),
        queue_path=given.get("msg-queue"),
        queue_id=whole(given, "msg-queue-id", -(1 << 31), (1 << 31) - 1) if queue else None,
        queue_message_type=whole(given, "msg-id", 1, (1 << 63) - 1) if queue else None,
        stat_version=version,
        final="no-final" not in given,
        max_pending=whole(given, "max-pending", 1, 1 << 32, default=1_000_000),
        max_age_s=seconds(given, "max-age", least=0.0, default=600.0),
        max_devices=whole(given, "max-devices", 1, (1 << 22) - 1, default=65_536),
        resync="resync" in given,
        verbose="verbose" in given,
    )


def _getopt(arguments: Sequence[str]) -> tuple[dict[str, str], list[str], dict[str, list[str]]]:
    """The options that were given, by their long name; the last one of a kind counts.

    Then the files, and all values of those options that may be given several times.

    Raises:
        UsageError: getopt does not understand them; or an output is given twice. With nothing but
            the original's options, the last one of a kind counts, as there.
    """
    long = {option.long: option for option in OPTIONS}
    long |= {alias: long[name] for alias, name in _ALIASES.items()}
    # An abbreviation that the original understands keeps its meaning: our own options must not
    # make it ambiguous. getopt takes a full name over any abbreviation, so these are full names.
    original = [option.long for option in OPTIONS if option.group not in _OURS]
    for name in original:
        for abbreviation in (name[:i] for i in range(1, len(name))):
            if [o for o in original if o.startswith(abbreviation)] == [name]:
                long.setdefault(abbreviation, long[name])
    short = {f"-{option.short}": option for option in OPTIONS if option.short}
    pairs, rest = read_options(
        arguments,
        "".join(name[1] + ":" * bool(option.argument) for name, option in short.items()),
        [name + "=" * bool(option.argument) for name, option in long.items()],
        [option.long for option in OPTIONS],
    )
    named = [((short.get(name) or long[name[2:]]).long, value) for name, value in pairs]
    several = {n: [value for name, value in named if name == n] for n in ("device", "trace")}
    if not _are_original(dict(named), rest):
        for name in (*_FILE_OUTPUTS, "openmetrics", "msg-queue"):
            only(named, name)
    return dict(named), rest, several


def _are_original(given: dict[str, str], files: Sequence[str]) -> bool:
    """Whether only options of the original are given, and no file: then its promises hold."""
    return not files and _ORIGINALS.issuperset(given)


def only(pairs: Sequence[tuple[str, str]], *names: str) -> str | None:
    """The value of an output's option, by its names; None where it was not given.

    Raises:
        UsageError: it was given twice, and one of the values would be ignored.
    """
    values = [value for name, value in pairs if name in names]
    if len(values) > 1:
        dashes = "" if names[0].startswith("-") else "--"
        raise UsageError(f"{dashes}{names[0]} is given twice; it writes to one place")
    return values[0] if values else None


def choice(given: dict[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of several words; the first one unless given. Raises UsageError."""
    value = given.get(name, choices[0])
    if value not in choices:
        raise UsageError(f"--{name} takes {' or '.join(choices)}, not {value!r}")
    return value


def whole(
    given: dict[str, str], name: str, least: int, most: int, default: int | None = None
) -> int:
    text = given.get(name)
    if text is None and default is not None:
        return default
    try:
        value = int(text or "", 10) if _is_plain(text) else None
    except ValueError:
        value = None
    if value is None or not least <= value <= most or (name == "msg-queue-id" and value == 0):
        bounds = "not 0" if name == "msg-queue-id" else f"from {least} to {most}"
        raise UsageError(f"--{name} takes a whole number, {bounds}, not {text!r}")
    return value


def _is_plain(text: str | None) -> bool:
    """Whether a number is written as people write them: Python alone takes 1_000 and its like."""
    return text is not None and text.isascii() and "_" not in text


def seconds(
    given: dict[str, str],
    name: str,
    least: float,
    default: float | None = None,
    what: str = "a number of seconds",
) -> float:
    """A number, of seconds unless it is something else. Raises UsageError."""
    text = given.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "") if _is_plain(text) else -1.0
    except ValueError:
        value = -1.0
    most = 1e9  # thirty years; in ns it fits 64 bits
    if not least <= value <= most:  # also false for nan
        bounds = f"{least:g} or more"
        raise UsageError(f"--{name} takes {what}, {bounds}, not {text!r}")
    return value


def _time(given: dict[str, str], name: str) -> tuple[int | None, bool]:
    """A time in ns, and whether it is a time of day (since 1970) or since the first record."""
    text = given.get(name)
    if text is None:
        return None, False
    try:
        seconds = float(text) if _is_plain(text) else -1.0
        if 0 <= seconds <= 1e9:
            return round(seconds * 1e9), False
    except ValueError:
        from datetime import datetime, timedelta

        try:
            moment = datetime.fromisoformat(text)
            since = moment.astimezone() - datetime(1970, 1, 1, tzinfo=UTC)
            if since >= timedelta(0):
                return since // timedelta(microseconds=1) * 1000, True
        except (ValueError, OverflowError, OSError):
            pass
    raise UsageError(
        f"--{name} takes seconds from the first record, or a time such as "
        f"2026-11-23T14:00:00, not {text!r}"
    )


def _address(given: dict[str, str], name: str) -> tuple[str, int] | None:
    """Host, empty unless it is given, and port."""
    text = given.get(name)
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon, host = ":", ""  # IPv6 without brackets: which colon would it be?
    is_port = port.isdecimal() and port.isascii() and len(port) <= 5 and int(port) < 1 << 16
    if not is_port or (colon and not host):
        raise UsageError(f"--{name} takes PORT, HOST:PORT or [HOST]:PORT, not {text!r}")
    return host, int(port)


def _user(given: dict[str, str], name: str) -> User | None:
    text = given.get(name)
    if text is None:
        return None
    try:
        return find_user(text)
    except PrivilegeError as error:
        raise UsageError(f"--{name} takes NAME or NAME:GROUP: {error}") from None


def device_of(name: str) -> int:
    """The number of a device: major << 20 | minor."""
    major, _, minor = name.replace(",", ":").partition(":")
    if major.isdecimal() and minor.isdecimal() and name.isascii():
        is_short = max(len(major), len(minor)) < 10
        if is_short and int(major) < 1 << 12 and int(minor) < 1 << 20:
            return int(major) << 20 | int(minor)
        raise UsageError(f"--device: there is no device {name}")
    from blkiomon.sources.devices import device_number

    number = device_number(name)
    if number is None:
        raise UsageError(
            f"--device: this host has no block device {name!r}; one of another host is named by "
            "its number, as 8:16"
        )
    return number


def _occupy_standard_fds() -> None:
    """Where a standard stream is closed, no file that is opened later may take its number.

    Opened the wrong way round, so that whoever uses it is told that it is not there.
    """
    for fd, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)


def _mind_the_path() -> None:
    """Have no program looked up in the working directory, by whatever library.

    An empty or relative element of PATH would: it goes, and the system's default is what is left of
    nothing.
    """
    path = os.environ.get("PATH")
    if path is not None:
        absolute = [part for part in path.split(os.pathsep) if part.startswith("/")]
        os.environ["PATH"] = os.pathsep.join(absolute) or os.defpath


def _widen_pipe(fd: int, wanted_bytes: int = 1 << 20) -> None:
    """Make a pipe hold as much as is allowed, up to 1 MiB: the writer waits for us less often."""
    import fcntl
    import stat

    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return
        size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError:
        return
    while wanted_bytes > size:
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, wanted_bytes)
            return
        except OSError:  # above the limit of an unprivileged user
            wanted_bytes //= 2


if __name__ == "__main__":
    sys.exit(main())
