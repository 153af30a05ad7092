"""``blkiomon help``: the commands and what to type first, or the help of one command."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module

from blkiomon.commands import cli
from blkiomon.commands.options import HELP, Command, UsageError, meant_by
from blkiomon.commands.parsing import parsed
from blkiomon.console import printed

COMMAND = Command(
    "help",
    ("blkiomon help [COMMAND]",),
    """
    Explain a command. Without COMMAND, list the commands and what to type first.
    """,
    (HELP,),
)

FIRST = (
    ("blkiomon top", "watch all disks, slowest first"),
    ("blkiomon stat sdb", "print a line a second for sdb"),
    ("blkiomon record -o run1 -- fio job.fio", "record disks while fio runs"),
    ("blkiomon run1", "summarize that trace"),
    ("blkiomon report run1", "draw it as a page, run1.html"),
    ("blkiomon compare run1 run2", "compare two runs: change, or noise?"),
)
"""What a new user types, and what it does."""


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon help`` with these options; returns the exit status."""
    if not given.operands:
        return printed([overview()])
    if len(given.operands) > 1:
        raise UsageError("help takes one command")
    (name,) = given.operands
    if name == "blkiomon":
        return printed([cli.COMMAND.help()])
    if name not in cli.COMMANDS:
        meant = meant_by(name, cli.COMMANDS)
        hint = f"did you mean {meant!r}?" if meant else f"there are {', '.join(cli.COMMANDS)}"
        raise UsageError(f"unknown command {name!r}; {hint}")
    command: Command = import_module(cli.COMMANDS[name][0]).COMMAND
    return printed([command.help()])


def overview() -> str:
    """What blkiomon is, the first things to type, and all commands: a screen of 80x24."""
    return "\n".join(
        [
            "blkiomon shows which disk is slow, for which operations, and since when.",
            "It reads the kernel's block-trace records, live (as root) or from a file.",
            "Type:",
            *_two_columns(FIRST, 41),
            "Commands:",
            *_two_columns(
                [(name, does) for name, (_, does) in cli.COMMANDS.items() if name != COMMAND.name],
                11,
            ),
            "More:",
            *_two_columns(
                [
                    ("blkiomon help COMMAND", "the options of a command"),
                    ("blkiomon --help", "-I, -h, -b and all other options without a command"),
                    ("man blkiomon-COMMAND", "the same as a page; man blkiomon: the manual"),
                ],
                24,
            ),
            "",
        ]
    )


def _two_columns(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    return [f"  {left:<{width}}{right}" for left, right in rows]
