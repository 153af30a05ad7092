"""Commands and their options as values.

Parsers, ``--help``, the man page and the shell completions are made from them. The main command
parses with getopt, as the original does; sub-commands parse with argparse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from blkiomon.console import misused
from blkiomon.engine.constants import OPS

WIDTH = 80
"""Columns of ``--help``."""

_HELP_COLUMN = 30


class UsageError(Exception):
    """The arguments make no sense; the text says which and why."""


Reader = Callable[[str, str], Any]
"""Makes a value of an option's name, such as ``--from``, and its argument. Raises UsageError."""


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        spec: as ``--help`` shows it: ``-o, --output=FILE``, or ``--json``. FILE, PATH, DIR,
            DATASET, TRACE and DEVICE, and words with ``|`` between them, can be completed.
        help: for ``--help``.
        group: heading in ``--help``; may be empty.
        read: makes the value.
        default: value without the option; of a repeatable option the empty list.
        is_repeatable: may be given several times; the value is a list.
        is_output: must not be given twice, as it writes to one place.
        choices: all values, for completion, where ``spec`` does not list them.
    """

    spec: str
    help: str
    group: str = ""
    read: Reader = lambda name, text: text
    default: Any = None
    is_repeatable: bool = False
    is_output: bool = False
    choices: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """As they are typed."""
        return self.spec.partition("=")[0].split(", ")

    @property
    def short(self) -> str:
        """The letter, or an empty text."""
        return self.names[0][1:] if len(self.names) > 1 else ""

    @property
    def long(self) -> str:
        """The name without dashes."""
        return self.names[-1][2:]

    @property
    def argument(self) -> str:
        """What the option takes; empty for a flag."""
        return self.spec.partition("=")[2]


HELP = Option("-h, --help", "print this text")


class Command(NamedTuple):
    """A command; the name of the main command is empty.

    Attributes:
        usage: lines, each of which begins with ``blkiomon`` unless it continues the one before.
        description, notes: paragraphs with empty lines between them, before and after the options.
        examples: what is typed, and what it does.
    """

    name: str
    usage: Sequence[str]
    description: str
    options: Sequence[Option]
    notes: str = ""
    examples: Sequence[tuple[str, str]] = ()

    @property
    def usage_text(self) -> str:
        """What follows a message about wrong arguments."""
        typed = f"blkiomon {self.name}".strip()
        first = "" if self.name else "'blkiomon help' says what to type, "
        return f"{self._synopsis()}{first}'{typed} --help' explains the options.\n"

    def _synopsis(self) -> str:
        return "".join(f"{'' if n else 'Usage: ':7}{line}\n" for n, line in enumerate(self.usage))

    def help(self) -> str:
        """The text of ``--help``."""
        lines = self._synopsis().splitlines()
        for paragraph in paragraphs(self.description):
            lines += ["", *_filled(paragraph)]
        for group, options in self.groups().items():
            lines += ["", f"{group}:"] if group else [""]
            for option in options:
                lines += _option_lines(option)
        if self.examples:
            lines += ["", "Examples:"]
            for typed, does in self.examples:
                lines += [f"  {typed}", *_filled(does, indent=8)]
        for paragraph in paragraphs(self.notes):
            lines += ["", *_filled(paragraph)]
        return "\n".join(lines) + "\n"

    def groups(self) -> dict[str, list[Option]]:
        """Options by their group."""
        found: dict[str, list[Option]] = {}
        for option in self.options:
            found.setdefault(option.group, []).append(option)
        return found

    def misused(self, why: object) -> int:
        """Complain about the arguments, print the usage; returns the exit status."""
        return misused(str(why), self.usage_text)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, each as one line."""
    return [" ".join(part.split()) for part in text.strip().split("\n\n") if part]


def _option_lines(option: Option) -> Iterator[str]:
    names = f"  {option.spec}" if option.short else f"      {option.spec}"
    first, *rest = _filled(option.help, _HELP_COLUMN)
    if len(names) + 2 > _HELP_COLUMN:  # too wide for the column
        yield names
        yield first
    else:
        yield names.ljust(_HELP_COLUMN) + first.strip()
    yield from rest


def _filled(text: str, indent: int = 0) -> list[str]:
    import textwrap

    space = " " * indent
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=space,
        subsequent_indent=space,
        break_long_words=False,
        break_on_hyphens=False,
    )


def meant_by(word: str, words: Iterable[str]) -> str | None:
    """The closest of some words to a misspelt word, if any is close; a letter is no such word."""
    if len(word) == 1:
        return None
    from difflib import get_close_matches  # for mistakes alone

    return next(iter(get_close_matches(word, list(words), 1)), None)


# --- what options take ----------------------------------------------------------------------------


def path(name: str, text: str) -> str:
    """A path, which is not empty. A Reader."""
    if not text or "\0" in text:
        raise UsageError(f"{name} takes a path")
    return text


def no_stream(what: str) -> Reader:
    """A Reader of a path, not ``-``; the message has ``what``: ``a file, not standard input``."""

    def read(name: str, text: str) -> str:
        if text == "-":
            raise UsageError(f"{name} takes {what} (-)")
        return path(name, text)

    return read


def one_of(*words: str) -> Reader:
    """A Reader of one of some words."""

    def read(name: str, text: str) -> str:
        if text not in words:
            *others, last = words
            raise UsageError(f"{name} takes {', '.join(others)} or {last}, not {text!r}")
        return text

    return read


def whole(least: int, most: int, *, zero: bool = True) -> Reader:
    """A Reader of a whole number within limits; ``zero``: whether 0 is allowed."""

    def read(name: str, text: str) -> int:
        try:
            value = int(text, 10) if _is_plain(text) else None
        except ValueError:
            value = None
        if value is None or not least <= value <= most or not (value or zero):
            bounds = f"from {least} to {most}{'' if zero else ' except 0'}"
            raise UsageError(f"{name} takes a whole number, {bounds}, not {text!r}")
        return value

    return read


def number(least: float, what: str) -> Reader:
    """A Reader of a number from ``least`` to MOST."""

    def read(name: str, text: str) -> float:
        value = _float(text)
        if not least <= value <= MOST:  # also false for nan
            raise UsageError(f"{name} takes {what}, from {least:g} to 1e9, not {text!r}")
        return value

    return read


MOST = 1e9
"""The greatest number: in s these are 30 years, whose ns fit 64 bits."""

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_A_TIME = f"a time such as 500ms or 5m (units: {', '.join(_UNITS_S)})"


def seconds(least: float) -> Reader:
    """A Reader of a time in s, from ``least`` to MOST, with or without a unit: 0.5, 500ms, 5m."""

    def read(name: str, text: str) -> float:
        digits = text.rstrip("umsh")
        unit_s = _UNITS_S.get(text[len(digits) :], 1.0 if digits == text else math.nan)
        value_s = _float(digits) * unit_s
        if not least <= value_s <= MOST:
            what = f"a number of seconds, or {_A_TIME}, from {least:g} s to 1e9 s"
            raise UsageError(f"{name} takes {what}, not {text!r}")
        return value_s

    return read


def slow(name: str, text: str) -> tuple[int | None, float | None, str]:
    """A threshold in ns or a percentile, and a file. A Reader."""
    threshold, colon, file = text.partition(":")
    is_percentile = threshold.startswith("p")
    number = _float(threshold[is_percentile:])
    is_right = 0 < number < 100 if is_percentile else 0 <= number <= MOST
    if not is_right or "\0" in file or (colon and not file):
        raise UsageError(
            f"{name} takes milliseconds up to 1e9 or a percentile, and optionally a file, such as "
            f"20, p99.9 or 20:FILE, not {text!r}"
        )
    if is_percentile:
        return None, number, file or "-"
    return round(number * 1e6), None, file or "-"


def _float(text: str) -> float:
    """A number as people write it; NaN for any other text."""
    try:
        return float(text) if _is_plain(text) else math.nan
    except ValueError:
        return math.nan


def _is_plain(text: str) -> bool:
    """Whether a number is written as people write it: Python also accepts 1_000 and the like."""
    return text.isascii() and "_" not in text


def _device(name: str, text: str) -> str:
    """A block device as the user names it, see ``views.device_numbers``. A Reader."""
    if not text or "\0" in text:
        raise UsageError(f"{name} takes a device")
    return text


def captured(name: str, text: str) -> str:
    """The name or path of a device to capture; 8:16 becomes its name. A Reader."""
    if not _device(name, text)[0].isdecimal():
        return text
    from blkiomon.interval.devices import parsed  # imports numpy
    from blkiomon.sources.devices import device_name

    try:
        number = parsed(text.replace(",", ":"))
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if number is None:
        return text
    return device_name(number) or text


def moment(name: str, text: str) -> tuple[int, bool]:
    """A time in ns, and whether it counts from 1970, not from the first record. A Reader."""
    with suppress(UsageError):
        return round(seconds(0.0)(name, text) * 1e9), False
    from datetime import UTC, date, datetime, time, timedelta

    with suppress(ValueError, OverflowError, OSError):
        when = datetime.fromisoformat(text)
        since = when.astimezone() - datetime(1970, 1, 1, tzinfo=UTC)
        if since >= timedelta(0):
            return since // timedelta(microseconds=1) * 1000, True
    with suppress(ValueError):
        time.fromisoformat(text)
        raise UsageError(f"{name}: a time of day needs a date: {date.today()}T{text}")
    raise UsageError(
        f"{name} takes seconds since the first record, up to 1e9, or {_A_TIME}, or a date as in "
        f"2026-11-23T14:00:00, not {text!r}"
    )


class Period(NamedTuple):
    """What part of a trace counts: from ``from_ns`` until before ``to_ns``.

    Attributes:
        from_ns, to_ns: ns since 1970 if ``is_absolute``, else since the first record; None: from
            the beginning, to the end.
    """

    from_ns: int | None = None
    to_ns: int | None = None
    is_absolute: bool = False

    @classmethod
    def of(cls, given: Any) -> Period:
        """The period of a command with the options ``FROM`` and ``TO``. Raises UsageError."""
        return cls.between(getattr(given, "from"), given.to)

    @classmethod
    def between(cls, begin: tuple[int, bool] | None, end: tuple[int, bool] | None) -> Period:
        """The period between two values of ``moment``. Raises UsageError: it is impossible."""
        from_ns, from_is_absolute = begin or (None, False)
        to_ns, to_is_absolute = end or (None, False)
        if from_ns is not None and to_ns is not None:
            if from_is_absolute != to_is_absolute:
                raise UsageError("--from and --to must both be seconds, or both times of day")
            if to_ns <= from_ns:
                raise UsageError("--to must be later than --from")
        return cls(from_ns, to_ns, from_is_absolute or to_is_absolute)

    def words(self) -> list[str]:
        """Such as ``from 10 s on`` and ``before 20 s``."""
        from blkiomon.formats.units import utc

        found = []
        for word, time_ns, more in (("from", self.from_ns, " on"), ("before", self.to_ns, "")):
            if time_ns is not None:
                at = utc(time_ns) if self.is_absolute else f"{time_ns / 1e9:g} s"
                found.append(f"{word} {at}{more}")
        return found


def _operation(name: str, text: str) -> str:
    """An operation. A Reader."""
    if text not in OPS:
        meant = meant_by(text, OPS)
        hint = f"did you mean {meant}?" if meant else f"use {', '.join(OPS)}"
        if "," in text:
            hint = f"repeat the option: {' '.join(f'{name} {op}' for op in text.split(','))}"
        raise UsageError(f"{name}: unknown operation {text!r}; {hint}")
    return text


def _yes(name: str, text: str) -> bool:
    """A Reader of yes or no."""
    return bool(one_of("yes", "no")(name, text) == "yes")


# --- options that several commands have -----------------------------------------------------------


class Selection(NamedTuple):
    """Which requests count: those of some devices and operations, in some period.

    Attributes:
        devices: their numbers; empty: all.
        ops: operations; empty: all.
        period: when.
    """

    devices: tuple[int, ...] = ()
    ops: tuple[str, ...] = ()
    period: Period = Period()

    @classmethod
    def of(cls, given: Any, devices: tuple[int, ...]) -> Selection:
        """What the options ``SELECTION`` select. Raises UsageError: the period is impossible.

        Args:
            given: the options.
            devices: the numbers of the devices.
        """
        ops: tuple[str, ...] = ()
        if given.op:
            from blkiomon.interval.operations import checked  # imports numpy

            ops = checked(given.op)
        return cls(tuple(sorted(devices)), ops, Period.of(given))

    def only(self, numbers: Iterable[int]) -> list[int]:
        """Those of these devices that count."""
        return [number for number in numbers if not self.devices or number in self.devices]

    def arguments(self) -> dict[str, Any]:
        """As arguments of ``Monitor``."""
        return {"devices": self.devices, "ops": self.ops, **self.period._asdict()}

    @property
    def text(self) -> str:
        """Such as ``8:16, read, from 10 s on``; empty: everything counts."""
        from blkiomon.formats.units import device_text

        shown = [*map(device_text, self.devices[:MOST_NAMED])]
        if len(self.devices) > MOST_NAMED:
            shown.append(f"{len(self.devices) - MOST_NAMED} more devices")
        return ", ".join([*shown, *self.ops, *self.period.words()])


MOST_NAMED = 20
"""Devices that the text of a selection names."""

DEVICE = Option(
    "--device=DEVICE",
    "only this device: sdb, /dev/sdb or 8:16 (repeatable)",
    read=_device,
    is_repeatable=True,
)
OP = Option(
    "--op=OP",
    "only this operation: read, write, discard, flush, write_zeroes, zone or other (repeatable)",
    read=_operation,
    is_repeatable=True,
    choices=OPS,
)
FROM = Option("--from=TIME", "begin this long after the first record, or at this time", read=moment)
TO = Option("--to=TIME", "end before this time", read=moment)
SELECTION = (DEVICE, OP, FROM, TO)
"""Which requests count."""

FILE = Option(
    "-f, --file=TRACE",
    "read this trace, even if a device has its name (repeatable)",
    read=path,
    is_repeatable=True,
)
NAMES = Option(
    "--names=yes|no",
    "print device names (sdb) beside numbers (8:16); default: yes if the trace is live",
    read=_yes,
)
OVERWRITE = Option("--overwrite", "replace FILE even if it begins like a trace")
FOLLOW_SYMLINKS = Option(
    "--follow-symlinks", "as root, follow symbolic links that another user may have made"
)
MAX_AGE = Option(
    "--max-age=SECONDS",
    "drop requests that stay pending for longer (default 600)",
    read=seconds(0.0),
    default=600.0,
)
MAX_PENDING = Option(
    "--max-pending=N",
    "keep at most N pending requests (default 1000000)",
    read=whole(1, 1 << 32),
    default=1_000_000,
)
MAX_DEVICES = Option(
    "--max-devices=N",
    "track at most N devices at a time (default 65536)",
    read=whole(1, (1 << 22) - 1),
    default=65_536,
)
RESYNC = Option(
    "--resync", "after garbage, continue at the next record and count the skipped bytes"
)
LIMITS = (RESYNC, MAX_PENDING, MAX_AGE, MAX_DEVICES)
"""How a trace is read."""


def limits(given: Any) -> dict[str, Any]:
    """The options ``LIMITS`` as arguments of ``Monitor``."""
    return {
        "resync": given.resync,
        "max_pending": given.max_pending,
        "max_age_s": given.max_age,
        "max_devices": given.max_devices,
    }


SLOW_LIMIT = Option(
    "--slow-limit=N",
    "print at most N slow requests a second, and count the others (default 100)",
    read=whole(1, 1_000_000),
    default=100,
)
QUEUE_TIMES = Option(
    "--queue",
    "also capture queue records, for the times from queue to issue (Q2D) and to completion (Q2C)",
)
