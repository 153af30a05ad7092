"""The command line: arguments -> Config -> exit status. Heavy modules are imported late.

``COMMAND`` is the source of what is parsed and of what ``--help`` prints.
"""

from __future__ import annotations

import _thread
import gc
import getopt
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from types import FrameType
from typing import Any

from blkiomon._version import __version__
from blkiomon.commands.config import NO_AGE_LIMIT_S, Config
from blkiomon.commands.options import (
    FOLLOW_SYMLINKS,
    MAX_AGE,
    MAX_DEVICES,
    MAX_PENDING,
    NAMES,
    OVERWRITE,
    QUEUE_TIMES,
    RESYNC,
    SELECTION,
    SLOW_LIMIT,
    Command,
    Option,
    Period,
    Reader,
    Selection,
    UsageError,
    captured,
    meant_by,
    no_stream,
    one_of,
    path,
    seconds,
    slow,
    whole,
)
from blkiomon.commands.privileges import PrivilegeError, User, find_user
from blkiomon.commands.views import BY, TOPOLOGY, device_numbers
from blkiomon.console import (
    EXIT_FAILURE,
    EXIT_INPUT,
    EXIT_OUTPUT,
    EXIT_PIPE,
    EXIT_USAGE,
    SIGNALS,
    complain,
    printed,
)
from blkiomon.errors import SourceError
from blkiomon.outputs.catalog import OUTPUTS, PERCENTILES, QUEUE, Output, OutputSettings


def _address(name: str, text: str) -> tuple[str, int]:
    """Host, empty unless it is given, and port. A Reader."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon, host = ":", ""  # IPv6 without brackets, where the port is ambiguous: refused below
    is_port = port.isdecimal() and port.isascii() and len(port) <= 5 and int(port) < 1 << 16
    if not is_port or (colon and not host):
        raise UsageError(f"{name} takes PORT, HOST:PORT or [HOST]:PORT, not {text!r}")
    return host, int(port)


def _user(name: str, text: str) -> User:
    """A user that this process may become. A Reader."""
    try:
        return find_user(text)
    except PrivilegeError as error:
        raise UsageError(f"{name} takes NAME or NAME:GROUP: {error}") from None


_INPUT = "Which records, and when an interval ends"
_ORIGINAL = "General"
_MORE = "More"
_OURS = (_MORE, _INPUT, PERCENTILES)

_READERS: dict[str, Reader] = {
    "openmetrics": _address,
    "slow": slow,
    "textfile": no_stream("a file, which it replaces after each interval, not standard output"),
}
"""Readers for outputs that do not take a path, or a path but not -, by the name of the output."""

OPTIONS = (
    Option(
        "-I, --interval=SECONDS",
        "length of an interval, such as 10, 500ms or 5m; required with -h, -b, -d, -D and -Q; "
        "else the default is 1",
        _ORIGINAL,
        seconds(0.001),
        1.0,
    ),
    Option("-V, --version", "print the version", _ORIGINAL),
    Option(
        "--trace=DEVICE",
        "capture this device from now on (repeatable); all: all disks and volumes",
        _INPUT,
        captured,
        is_repeatable=True,
    ),
    QUEUE_TIMES._replace(group=_INPUT),
    *(option._replace(group=_INPUT) for option in SELECTION),
    Option(
        "--clock=auto|trace|wall",
        "the clock that ends intervals (default: auto); see below",
        _INPUT,
        one_of("auto", "trace", "wall"),
        "auto",
    ),
    *(
        Option(row.spec, row.help, row.group, _READERS.get(row.name, path), is_output=True)
        for row in OUTPUTS
    ),
    SLOW_LIMIT._replace(group=PERCENTILES),
    NAMES._replace(group=PERCENTILES),
    BY._replace(group=PERCENTILES),
    TOPOLOGY._replace(group=PERCENTILES),
    Option(
        "-q, --msg-queue-id=ID",
        "project id of the queue, not 0",
        QUEUE,
        whole(-(1 << 31), (1 << 31) - 1, zero=False),
    ),
    Option("-m, --msg-id=TYPE", "type of the messages, 1 or more", QUEUE, whole(1, (1 << 63) - 1)),
    Option("--help", "print this text", _MORE),
    Option(
        "--stat-version=0.3|0.2",
        "layout of the structs of -b and -Q (default 0.3)",
        _MORE,
        one_of("0.3", "0.2"),
        "0.3",
    ),
    Option("--no-final", "drop the last, partial interval, as blkiomon 0.3 does", _MORE),
    RESYNC._replace(group=_MORE),
    MAX_PENDING._replace(group=_MORE),
    MAX_AGE._replace(
        group=_MORE,
        help="drop requests that stay pending for longer (default 600; with outputs of blkiomon "
        "0.3 alone, no limit)",
    ),
    MAX_DEVICES._replace(group=_MORE),
    Option("--user=NAME[:GROUP]", "drop root privileges after opening files", _MORE, _user),
    OVERWRITE._replace(group=_MORE, help="outputs replace even files that begin like a trace"),
    FOLLOW_SYMLINKS._replace(group=_MORE),
    Option("-v, --verbose", "report what an output waits for", _MORE),
)

_ORIGINALS = {option.long for option in OPTIONS if option.group not in _OURS}
"""Options that blktrace's blkiomon, "the original", has, too."""

COMMANDS = {
    "summary": ("blkiomon.commands.summary", "summarize a trace; so does `blkiomon TRACE`"),
    "stat": ("blkiomon.commands.stat", "print a line per device and interval, as iostat -x"),
    "top": ("blkiomon.commands.top", "watch disks on a screen, slowest first"),
    "record": ("blkiomon.commands.record", "record a trace of this host's disks"),
    "report": ("blkiomon.commands.report", "draw a trace as a page or as charts"),
    "compare": ("blkiomon.commands.report.compare", "compare two runs: change, or noise?"),
    "topology": ("blkiomon.commands.topology", "print the arrays, LUNs and paths of a host"),
    "decode": ("blkiomon.commands.decode", "print statistics files written with -b"),
    "archive": ("blkiomon.commands.archive", "read the traces of many hosts into a dataset"),
    "help": ("blkiomon.commands.help", "explain a command"),
}
"""Sub-commands: the module that has ``COMMAND`` and ``main`` of each, and what it does."""

_ALIASES = {"msg-queue-name": "msg-queue"}  # what early versions documented

COMMAND = Command(
    "",
    (
        "blkiomon TRACE...",
        "blkiomon COMMAND [ARG]...",
        "blkiomon -I SECONDS [-h FILE] [-b FILE] [-d FILE] [-D FILE]",
        "         [-Q PATH -q ID -m TYPE] [-V] [OPTION]... [TRACE]...",
    ),
    """
    Statistics of block device I/O, once per interval: request sizes, latencies from issue to
    completion (D2C) and throughput of each device. blkiomon reads the binary records of blktrace,
    from standard input or from files, or captures devices itself (--trace). With neither -I nor
    an output, it summarizes a TRACE, as `blkiomon summary` does.

    A TRACE is a file, a FIFO, a directory, or - for standard input, which is also read if no TRACE
    is given. Of the per-CPU files that blktrace writes, one file or their base name is enough: sda
    means all of sda.blktrace.*. Several traces are merged by time. Files may be compressed with
    gzip, xz or zstd. A first word that is a command means the command: a trace of that name is
    ./stat.

    `blkiomon help` lists the commands and what to type first.
    """,
    OPTIONS,
    """
    Clocks: with trace, intervals end by the time of the records. The same trace then always gives
    the same output. This is the default for files. With wall, intervals end by this host's clock:
    the default for pipes. If any output other than -h -b -d -D -Q is given, trace is used for a
    pipe whose records run faster than the clock, and one line says so. Printed times are those of
    the trace if it contains the time of day. Only then --from and --to take times such as
    2026-11-23T14:00:00.

    A live trace never waits for an output. What a full queue or a slow disk could not take is
    dropped, counted and reported. A recorded trace waits for its outputs.

    The last, partial interval is printed at the end, also after SIGINT or SIGTERM. SIGHUP reopens
    files that have been moved away. If the terminal is closed, the run ends.

    --slow prints each request that takes longer than MS milliseconds from its first issue to its
    completion. A request that hangs is printed once before it completes. The output is text on
    standard output or in FILE, or JSON Lines if the name of FILE ends in .json or .jsonl. With
    p99.9 in place of MS, the threshold is that percentile of D2C in the last minute. It is computed
    at the end of each interval for the next, once 100 requests have completed, or 1000 for p99.9.

    --parquet DIR/ writes one complete file per interval into a directory. With --parquet FILE, the
    file can be read only after the run.

    Exit status: 0 for success; 2 for a usage error; 3 if the input is not a trace, is damaged or
    contains no record; 4 if an output failed or dropped something; 141 (SIGPIPE) if the reader of
    standard output closed it. With no TRACE and no options but -I -h -b -d -D -Q -q -m -V, it is 1
    instead of 2, 3 and 4, as with blkiomon 0.3.
    """,
    (
        (
            "blktrace -d /dev/sdb -a issue -a complete -o - | blkiomon -I 10 -h -",
            "print statistics of sdb every ten seconds",
        ),
        (
            "blkiomon -I 5 -h - --trace /dev/sdb --trace nvme0n1",
            "the same for two devices, which blkiomon captures itself",
        ),
        (
            "blkiomon -I 60 --json stats.jsonl sdb",
            "percentiles for each minute of a recorded trace (sdb.blktrace.0 and so on)",
        ),
        (
            "blkiomon -I 10 --slow 20 --trace sdb",
            "each request of sdb that takes longer than 20 ms",
        ),
        (
            "blkiomon -I 1 --csv - --device 8:16 --from 10 --to 20 results/",
            "ten seconds of one device from all traces in a directory",
        ),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    # From here on a signal waits until it can end the run in order: see signals.StopSignals.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _occupy_standard_fds()
    _remove_relative_paths()
    _widen_pipe(0)
    try:
        status = _main(argv)
        if status == EXIT_PIPE and argv is None:
            _die_of(signal.SIGPIPE)
        return status
    finally:
        if argv is not None:  # otherwise the process ends here, and a late signal changes nothing
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    # numpy would start threads to multiply matrices, which nothing here does. os.environ, which a
    # command that `record` runs inherits, stays as it is.
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        os.putenv("OPENBLAS_NUM_THREADS", "1")
    if not arguments and os.isatty(0):  # a person, and no trace: the original fails here
        arguments = ["help"]
    elif arguments[:1] and arguments[0] in COMMANDS:
        pass  # even if a trace has this name
    elif _asks_for_summary(arguments):
        arguments = ["summary", *arguments]
    if arguments and arguments[0] in COMMANDS:
        command: Callable[[Sequence[str]], int] = import_module(COMMANDS[arguments[0]][0]).main
        return _interruptible(command, arguments[1:])
    status = _monitor(arguments)
    is_failure = status in (EXIT_USAGE, EXIT_INPUT, EXIT_OUTPUT)
    return EXIT_FAILURE if is_failure and _is_original(arguments) else status


def _monitor(arguments: Sequence[str]) -> int:
    """The command without a sub-command; returns the exit status."""
    try:
        _check_first_word(arguments)
        config = parse(arguments)
        if isinstance(config, Config) and config.trace:
            from blkiomon.commands.naming import refuse_traces

            refuse_traces(config.trace)
    except UsageError as error:
        return COMMAND.misused(error)
    except SourceError as error:
        complain(str(error))
        return EXIT_INPUT
    if isinstance(config, str):
        return printed([config])
    if config.reads_standard_input and not config.trace and os.isatty(0):
        complain(
            "standard input is a terminal; trace records are expected there, as in: "
            "blktrace -d /dev/sdb -a issue -a complete -o - | blkiomon -I 10 -h -; "
            "or capture this host's disks with --trace all"
        )
        return EXIT_USAGE

    # Read first, then load numpy. Not in a capture, which would lose events meanwhile; nor with
    # --user, as the other user may not be allowed to read the files of numpy.
    if config.is_drop_in and not config.trace and config.user is None:
        from blkiomon.commands.late_numpy import put_off_numpy

        put_off_numpy()
    # Garbage collection of what is imported would take a tenth of the start-up.
    gc.disable()
    from blkiomon.commands.run import run

    gc.freeze()
    gc.enable()
    return run(config)


def _interruptible(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Run a sub-command, which a signal ends; partly written files are removed."""
    received = 0
    main_thread = _thread.get_ident()
    is_due = True  # raise KeyboardInterrupt once only: then the command is ending

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal received, is_due
        received = received or number
        if is_due:
            is_due = False
            raise KeyboardInterrupt

    def retry(lost: sys.UnraisableHookArgs) -> None:
        """Python ignored the exception, as in a weak reference's callback: raise it again."""
        nonlocal is_due
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            old_hook(lost)
            return
        is_due = True
        # Another thread sends it, after this function has ended. A real signal also ends a
        # read that waits.
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
    """End this process by a signal, so that its parent knows; a shell then ends its loop."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


def _is_original(arguments: Sequence[str]) -> bool:
    """Whether all of these arguments, right or wrong, are the original's."""
    try:
        given, files = _getopt(arguments)
        return _are_original(given, files)
    except UsageError:
        pass
    # Parse up to the first error.
    options = [option for option in OPTIONS if option.long in _ORIGINALS]
    short = "".join(option.short + ":" * bool(option.argument) for option in options)
    names = [option.long for option in options] + list(_ALIASES)
    try:
        getopt.gnu_getopt(list(arguments), short, [n + "=" * (n != "version") for n in names])
    except getopt.GetoptError as error:
        is_short = len(error.opt) == 1 and error.opt in short
        return is_short or any(name.startswith(error.opt) for name in names)
    return False


def _asks_for_summary(arguments: Sequence[str]) -> bool:
    """Whether these are meant as traces, with no options but those of ``summary``."""
    has_letters = any(word[:1] == "-" and word[:2] not in ("-", "--") for word in arguments)
    if has_letters or all(word[:2] == "--" for word in arguments):
        return False
    names = [option.long + "=" * bool(option.argument) for option in _options_of_summary()]
    try:
        given, files = getopt.gnu_getopt(list(arguments), "", names)
    except getopt.GetoptError:
        return False
    if not files or ("--help", "") in given:
        return False
    # slow to import
    from blkiomon.commands.naming import is_device, is_meant_as_trace, is_trace

    return is_meant_as_trace(files[0]) or is_trace(files[0]) or is_device(files[0])


def _options_of_summary() -> Sequence[Option]:
    from blkiomon.commands.summary import COMMAND as SUMMARY

    return SUMMARY.options


def _check_first_word(arguments: Sequence[str]) -> None:
    """Raise UsageError if the first word is a misspelt command and not a trace."""
    first = arguments[0] if arguments else "-"
    if not first.startswith("-") and (meant := meant_by(first, COMMANDS)):
        from blkiomon.commands.naming import is_trace

        if not is_trace(first):
            raise UsageError(f"unknown command {first!r}; did you mean {meant!r}?")


def parse(arguments: Sequence[str]) -> Config | str:
    """Read the arguments as getopt(3) would.

    Returns:
        What to run, or the text to print instead.

    Raises:
        UsageError: the arguments make no sense.
        SourceError: they name a trace that cannot be read.
    """
    given, files = _getopt(arguments)
    if "help" in given:
        return COMMAND.help()
    if "version" in given:
        version = _value(_BY_NAME["stat-version"], given)
        return f"blkiomon version {version} (blkiomon {__version__})\n"
    values = {name: _value(option, given) for name, option in _BY_NAME.items()}
    rows = [row for row in OUTPUTS if row.name in given]
    if "interval" not in given:
        _check_without_interval(given, values, files, rows)
    destinations = _destinations(given, values, files, rows)
    _check_input(given, values, files)
    _check_views(values, files, rows)
    trace = values["trace"]
    if trace:
        from blkiomon.sources.devices import with_relatives

        trace = with_relatives(trace, values["by"])
    slow_ns, slow_percent, _ = values["slow"] or (None, None, None)
    outputs = OutputSettings(
        destinations=destinations or {"human-readable": "-"},
        stat_version=values["stat-version"],
        names=values["names"],
        overwrite="overwrite" in given,
        follow_symlinks="follow-symlinks" in given,
        verbose="verbose" in given,
    )
    # The original counts a request however long it takes.
    is_ageless = outputs.are_original and "max-age" not in given
    return Config(
        interval_s=values["interval"],
        files=tuple(files),
        trace=trace,
        queue="queue" in given,
        clock=values["clock"],
        selection=Selection(
            device_numbers(values["device"], values["topology"], () if trace else files),
            values["op"],
            Period.between(values["from"], values["to"]),
        ),
        outputs=outputs,
        is_original=_are_original(given, files),
        slow_ns=slow_ns,
        slow_percent=slow_percent,
        slow_limit=values["slow-limit"],
        user=values["user"],
        final="no-final" not in given,
        max_pending=values["max-pending"],
        max_age_s=NO_AGE_LIMIT_S if is_ageless else values["max-age"],
        max_devices=values["max-devices"],
        resync="resync" in given,
        by=values["by"],
        topology=values["topology"],
    )


_BY_NAME = {option.long: option for option in OPTIONS}

Given = dict[str, list[str]]
"""By the long name of an option, the texts that were given for it."""


def _value(option: Option, given: Given) -> Any:
    """The value that the user gave for an option, or its default."""
    texts = given.get(option.long, [])
    if option.is_repeatable:
        return tuple(option.read(f"--{option.long}", text) for text in texts)
    return option.read(f"--{option.long}", texts[-1]) if texts else option.default


def _check_without_interval(
    given: Given, values: dict[str, Any], files: Sequence[str], rows: Sequence[Output]
) -> None:
    """Raise UsageError if the arguments need -I, or no run follows from them.

    Raise SourceError if they name a trace that cannot be read.
    """
    if files:
        from blkiomon.commands.naming import refuse_other_words

        refuse_other_words(files[0])
    if values["trace"] and not rows:
        raise UsageError(_nothing_to_print(values["by"], values["trace"]))
    if files and not rows:
        _check_for_summary(given)
    if not rows or any(row.is_original for row in rows):
        raise UsageError("the length of an interval is missing: -I SECONDS")


def _destinations(
    given: Given, values: dict[str, Any], files: Sequence[str], rows: Sequence[Output]
) -> dict[str, Any]:
    """Where each of these outputs goes. Raises UsageError if options of an output are missing."""
    destinations = {row.name: values[row.name] for row in rows}
    queue = [name for name in ("msg-queue", "msg-queue-id", "msg-id") if name in given]
    if "msg-queue" not in given and _are_original(given, files):
        queue = []  # the original ignores -q and -m without -Q
    if queue and len(queue) != 3:
        raise UsageError("a message queue takes all three of -Q PATH, -q ID and -m TYPE")
    if queue:
        destinations["msg-queue"] = tuple(values[name] for name in queue)
    if "slow" in given:
        slow_ns, _, destinations["slow"] = values["slow"]
        if slow_ns is not None and slow_ns > values["max-age"] * 1e9:
            raise UsageError("--slow must not exceed --max-age: older requests are dropped")
    elif "slow-limit" in given:
        raise UsageError("--slow-limit needs --slow")
    return destinations


def _check_input(given: Given, values: dict[str, Any], files: Sequence[str]) -> None:
    """Raise UsageError if the arguments name two inputs, or an option lacks its input."""
    if any(not name or "\0" in name for name in files):
        raise UsageError("an argument is empty: name a trace by its path")
    if values["trace"] and files:
        raise UsageError("--trace traces devices and reads no files; remove it or the TRACE")
    if "queue" in given and not values["trace"]:
        raise UsageError("--queue needs --trace DEVICE")


def _check_views(values: dict[str, Any], files: Sequence[str], rows: Sequence[Output]) -> None:
    """Raise UsageError if an output cannot show what --op and --by ask for."""
    of_records = [row.name for row in rows if row.needs in ("details", "driver data")]
    if of_records and values["op"]:
        raise UsageError(f"--op cannot select the single records that --{of_records[0]} prints")
    by_device = [row.name for row in rows if row.is_by_device]
    if values["by"] != BY.default and not rows:
        raise UsageError(_nothing_to_print(values["by"], values["trace"] or files))
    if values["by"] != BY.default and by_device:
        raise UsageError(
            f"--{by_device[0]} shows devices only: use --by with --json, --csv or --parquet"
        )


def _check_for_summary(given: Iterable[str]) -> None:
    """Raise UsageError if an option needs what the arguments lack, so that nothing is summarized.

    Args:
        given: names of the options.
    """
    known = {option.long for option in _options_of_summary()}
    needs = {"queue": "--trace DEVICE", "slow-limit": "--slow"}
    for name in given:
        if name in needs:
            raise UsageError(f"--{name} needs {needs[name]}")
        if name not in known:
            raise UsageError(
                f"--{name} needs -I or an output: without them, blkiomon summarizes TRACE"
            )


def _nothing_to_print(by: str, names: Sequence[str]) -> str:
    """A message for a command line without an output."""
    words = ["blkiomon stat", *([f"--by {by}"] if by != BY.default else [])]
    words += [name for name in names[:1] if name != "all"]
    return f"an output is missing: `{' '.join(words)}` prints a table, --json - prints JSON"


def _getopt(arguments: Sequence[str]) -> tuple[Given, list[str]]:
    """The values that were given for each option, by its long name; and the files.

    Raises:
        UsageError: getopt does not understand them; or an output is given twice. With only the
            original's options, the last of several outputs counts, as in the original.
    """
    long = _BY_NAME | {alias: _BY_NAME[name] for alias, name in _ALIASES.items()}
    # Our own options must not make an abbreviation ambiguous that the original understands. getopt
    # prefers full names, so such abbreviations are added as full names.
    original = [option.long for option in OPTIONS if option.long in _ORIGINALS]
    for name in original:
        for abbreviation in (name[:i] for i in range(1, len(name))):
            if [o for o in original if o.startswith(abbreviation)] == [name]:
                long.setdefault(abbreviation, long[name])
    short = {f"-{option.short}": option for option in OPTIONS if option.short}
    try:
        pairs, rest = getopt.gnu_getopt(
            list(arguments),
            "".join(name[1] + ":" * bool(option.argument) for name, option in short.items()),
            [name + "=" * bool(option.argument) for name, option in long.items()],
        )
    except getopt.GetoptError as error:
        # For -json, getopt names only the j.
        word = next((a[1:] for a in arguments if a[:2] == f"-{error.opt}"), error.opt)
        meant = None
        if error.opt and "not recognized" in error.msg:
            meant = meant_by(word.partition("=")[0], _BY_NAME)
        hint = f"; did you mean --{meant}?" if meant else ""
        if error.opt == "h":
            hint = ", the FILE that text is written to; --help prints help"
        if error.opt == "o":
            hint = "; some commands have it, as in `blkiomon report -o page.html TRACE`"
        raise UsageError(f"{error.msg}{hint}") from None
    given: Given = {}
    for name, value in pairs:
        given.setdefault((short.get(name) or long[name[2:]]).long, []).append(value)
    if not _are_original(given, rest):
        for name in given:
            if _BY_NAME[name].is_output and len(given[name]) > 1:
                raise UsageError(f"--{name} is given twice; it writes to one place")
    return given, rest


def _are_original(given: Given, files: Sequence[str]) -> bool:
    """Whether only options of the original are given, and no file."""
    return not files and _ORIGINALS.issuperset(given)


def _occupy_standard_fds() -> None:
    """Occupy closed standard streams, so that no file that is opened later gets their numbers.

    They are opened in the wrong direction, so that using them fails.
    """
    for fd, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)


def _remove_relative_paths() -> None:
    """Remove empty and relative elements of PATH, so that no library runs programs from there.

    If nothing is left, the system's default is used.
    """
    path = os.environ.get("PATH")
    if path is not None:
        absolute = [part for part in path.split(os.pathsep) if part.startswith("/")]
        os.environ["PATH"] = os.pathsep.join(absolute) or os.defpath


def _widen_pipe(fd: int, wanted_bytes: int = 1 << 20) -> None:
    """Enlarge a pipe up to 1 MiB, so that its writer waits less often."""
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
