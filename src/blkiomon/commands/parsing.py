"""Parses the arguments of sub-commands with argparse, which the main command does not import."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, NoReturn

from blkiomon.commands.options import Command, Option, UsageError, meant_by
from blkiomon.console import EXIT_INPUT, complain, printed
from blkiomon.errors import ReportError, SourceError, TraceError, complaint
from blkiomon.outputs.catalog import OUTPUTS

_OUTPUTS = {f"--{row.name}": f"--{row.spec.rpartition('--')[2]}" for row in OUTPUTS}
"""Outputs of blkiomon without a command, each with its argument."""

Body = Callable[[argparse.Namespace], int]
Main = Callable[[Sequence[str]], int]


class _Parser(argparse.ArgumentParser):
    """Raises UsageError, in the words of getopt, which parses the main command."""

    def error(self, message: str) -> NoReturn:
        if found := re.fullmatch(r"argument (?:.*/)?(-\S+): (.*)", message):
            name, why = found.groups()
            if "expected one argument" in why:
                message = f"option {name} requires argument"
            elif "ignored explicit argument" in why:
                message = f"option {name} must not have an argument"
        raise UsageError(message)


class _Once(argparse.Action):
    """An output, which must not be given twice."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, value: Any, name: str | None = None
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise UsageError(f"{self.option_strings[0]} is given twice; it writes to one place")
        setattr(namespace, self.dest, value)


def parsed(command: Command) -> Callable[[Body], Main]:
    """Turns the body of a command, which takes its options, into ``main``, which takes arguments.

    ``main`` prints help; if the arguments, or the body, raise UsageError, it complains and prints
    the usage. It complains about an input that the body cannot read, or a report that it cannot
    make. The options have their long name with ``_`` for ``-``, all other arguments are
    ``operands``.
    """

    def decorated(body: Body) -> Main:
        @wraps(body)
        def main(arguments: Sequence[str]) -> int:
            try:
                given = read(command.options, arguments)
                return printed([command.help()]) if given.help else body(given)
            except UsageError as error:
                return command.misused(error)
            except (ReportError, SourceError, TraceError) as error:
                complain(complaint(error))
                return getattr(error, "status", EXIT_INPUT)

        return main

    return decorated


def read(options: Sequence[Option], arguments: Sequence[str]) -> argparse.Namespace:
    """The options, and all other arguments in their order, ``after_dashes`` those after ``--``.

    Options and other arguments may be mixed; after ``--`` there are no more options.

    Raises:
        UsageError: an option is unknown, or its argument is missing or wrong.
    """
    parser = _Parser(add_help=False)
    for option in options:
        read = partial(option.read, f"--{option.long}")
        if not option.argument:
            parser.add_argument(*option.names, action="store_true")
        elif option.is_repeatable:
            parser.add_argument(*option.names, type=read, action="append", default=[])
        else:
            action = _Once if option.is_output else "store"
            parser.add_argument(*option.names, type=read, action=action, default=option.default)
    # A value may begin with a dash, as in getopt; argparse accepts this only after a `=`.
    takers = {name: f"--{o.long}" for o in options if o.argument for name in o.names}
    words: list[str] = []
    left = iter(arguments)
    for word in left:
        if word == "--":
            break
        value = next(left, None) if word in takers else None
        words.append(word if value is None else f"{takers[word]}={value}")
    given, names = parser.parse_known_args(words)
    for name in names:
        if name.startswith("-") and name != "-":
            name = name.partition("=")[0]
            raise UsageError(f"option {name} {_unknown(name, [o.long for o in options])}")
    given.after_dashes = [*left]
    given.operands = [*names, *given.after_dashes]
    return given


def _unknown(name: str, known: Sequence[str]) -> str:
    """The end of the message about an option that a command does not have.

    Args:
        name: of the option.
        known: the options of the command, without dashes.
    """
    if name in _OUTPUTS:
        return f"belongs to blkiomon without a command: blkiomon {_OUTPUTS[name]}"
    if name == "--trace" and "queue" in known:  # the command captures the devices it is given
        return "not recognized: name the device without it"
    is_device = name == "--device" and "trace" in known
    meant = "trace" if is_device else meant_by(name.lstrip("-"), known)
    return "not recognized" + (f"; did you mean --{meant}?" if meant else "")
