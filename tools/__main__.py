"""Write the man pages and the shell completions below share/: ``make manual``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from blkiomon.commands import cli
from blkiomon.commands.options import Command
from tools import completions, manual

SHARE = Path(__file__).parent.parent / "share"


def commands() -> list[Command]:
    """The main command, then the sub-commands."""
    return [cli.COMMAND, *(import_module(name).COMMAND for name, _ in cli.COMMANDS.values())]


def made() -> dict[Path, str]:
    """Every file, as a prefix such as /usr/local has it, and what belongs in it."""
    found = commands()
    return {
        **{SHARE / f"man/man8/{name}.8": text for name, text in manual.pages(found).items()},
        SHARE / "bash-completion/completions/blkiomon": completions.bash(found),
        SHARE / "zsh/site-functions/_blkiomon": completions.zsh(found),
        SHARE / "fish/vendor_completions.d/blkiomon.fish": completions.fish(found),
    }


if __name__ == "__main__":
    for path, text in made().items():
        # An unchanged file keeps its time: it needs no new wheel.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
