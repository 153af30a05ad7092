"""Completions for bash, zsh and fish, out of what ``--help`` says.

What an option takes is told by the name of its argument: FILE and PATH are files, DEVICE a block
device, and words with bars between them are the choices. Commands take files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tools.commands import Command, Option

_MADE = "# Made by `make manual` from --help."


def kind(option: Option) -> str:
    """What can be completed behind an option: files, devices, choices or nothing."""
    if option.choices:
        return "choices"
    words = set(re.split(r"[^A-Z]+", option.argument))
    if words & {"FILE", "PATH", "DIR", "DIRECTORY"}:
        return "files"
    return "devices" if "DEVICE" in words else "nothing"


def _single(text: str) -> str:
    """Quoted, for each of the three shells."""
    return "'" + text.replace("'", r"'\''") + "'"


# --- bash -----------------------------------------------------------------------------------------

_BASH_HEAD = f"""\
{_MADE}

_blkiomon_offer() {{
    mapfile -t COMPREPLY < <(compgen "$@" -- "$cur")
}}

_blkiomon_files() {{
    compopt -o filenames
    _blkiomon_offer -f
}}

_blkiomon_devices() {{
    local devices=(/sys/class/block/*)
    _blkiomon_offer -W "${{devices[*]##*/}}"
}}

_blkiomon() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} command= options
    # Readline takes the = of --option=value for a word.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    if ((COMP_CWORD > 1)); then
        command=${{COMP_WORDS[1]}}
    fi
    case $command in"""

_BASH_TAIL = """\
    esac
    if [[ $cur == -* ]]; then
        _blkiomon_offer -W "$options"
        return
    fi
    _blkiomon_files"""


def bash(commands: list[Command]) -> str:
    """A file for share/bash-completion/completions."""
    return "\n".join(_bash(commands)) + "\n"


def _bash(commands: list[Command]) -> Iterator[str]:
    yield _BASH_HEAD
    monitor, *others = commands
    for command in (*others, monitor):
        yield f"    {command.name or '*'})"
        yield "        case $prev in"
        behind: dict[str, list[str]] = {}
        for option in command.options:
            if option.argument:
                behind.setdefault(_bash_offer(option), []).extend(option.names)
        for offer, names in behind.items():
            yield f"            {' | '.join(names)})"
            yield f"                {offer}"
            yield "                return"
            yield "                ;;"
        yield "        esac"
        words = " ".join(name for option in command.options for name in option.names)
        yield f"        options={_single(words)}"
        yield "        ;;"
    yield _BASH_TAIL
    yield "    if ((COMP_CWORD == 1)); then"
    first = _single(" ".join(command.name for command in others))
    yield "        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY \\"
    yield f'            < <(compgen -W {first} -- "$cur")'
    yield "    fi"
    yield "}"
    yield ""
    yield "complete -F _blkiomon blkiomon"


def _bash_offer(option: Option) -> str:
    if option.choices:
        return f"_blkiomon_offer -W {_single(' '.join(option.choices))}"
    return {"files": "_blkiomon_files", "devices": "_blkiomon_devices"}.get(kind(option), ":")


# --- zsh ------------------------------------------------------------------------------------------

_ZSH_DEVICES = """\
_blkiomon_devices() {
    local -a devices=(/sys/class/block/*(N:t))
    compadd -a devices
}
"""


def zsh(commands: list[Command]) -> str:
    """A file for share/zsh/site-functions."""
    return "\n".join(_zsh(commands)) + "\n"


def _zsh(commands: list[Command]) -> Iterator[str]:
    monitor, *others = commands
    yield "#compdef blkiomon"
    yield _MADE
    yield ""
    yield _ZSH_DEVICES
    yield "_blkiomon_first() {"
    yield "    local -a commands=("
    for command in others:
        yield f"        {_single(f'{command.name}:{command.summary}')}"
    yield "    )"
    yield "    _describe -t commands command commands"
    yield "    _files"
    yield "}"
    yield ""
    yield "_blkiomon() {"
    yield "    local command="
    yield "    if (( CURRENT > 2 )); then"
    yield "        command=${words[2]}"
    yield "    fi"
    yield "    case $command in"
    for command in (*others, monitor):
        yield f"        ({command.name or '*'})"
        if command.name:
            yield "            shift words"
            yield "            (( CURRENT-- ))"
        yield "            _arguments -s -S \\"
        for option in command.options:
            yield f"                {_zsh_option(option)} \\"
        if not command.name:
            yield "                '1: :_blkiomon_first' \\"
        yield "                '*:file:_files'"
        yield "            ;;"
    yield "    esac"
    yield "}"
    yield ""
    yield '_blkiomon "$@"'


def _zsh_option(option: Option) -> str:
    taken = ""
    if option.argument:
        action = {
            "choices": f"({' '.join(option.choices)})",
            "files": "_files",
            "devices": "_blkiomon_devices",
            "nothing": " ",
        }[kind(option)]
        taken = f":{_escaped(option.argument)}:{action}"
    short = f"-{option.short}" + "+" * bool(taken)
    long = f"--{option.long}" + "=" * bool(taken)
    names = f"{{{short},{long}}}" if option.short else long
    return f"'*'{names}{_single(f'[{_escaped(option.help)}]{taken}')}"


def _escaped(text: str) -> str:
    return re.sub(r"([\[\]\\:])", r"\\\1", text)


# --- fish -----------------------------------------------------------------------------------------

_FISH_HEAD = """\
function __blkiomon_runs
    set -l words (commandline -opc) monitor
    contains -- $words[2] {names}; or set words[2] monitor
    test $words[2] = $argv[1]
end

function __blkiomon_devices
    string replace -r '.*/' '' /sys/class/block/*
end
"""


def fish(commands: list[Command]) -> str:
    """A file for share/fish/vendor_completions.d."""
    return "\n".join(_fish(commands)) + "\n"


def _fish(commands: list[Command]) -> Iterator[str]:
    others = commands[1:]
    yield _MADE
    yield ""
    yield _FISH_HEAD.replace("{names}", " ".join(command.name for command in others))
    for command in others:
        first = "'test (count (commandline -opc)) -eq 1'"
        told = _single(command.summary)
        yield f"complete -c blkiomon -n {first} -a {command.name} -d {told}"
    for command in commands:
        runs = f"'__blkiomon_runs {command.name or 'monitor'}'"
        for option in command.options:
            short = f" -s {option.short}" if option.short else ""
            taken = {
                "choices": f" -x -a {_single(' '.join(option.choices))}",
                "files": " -r -F",
                "devices": " -x -a '(__blkiomon_devices)'",
                "nothing": " -x",
            }[kind(option)]
            told = f"{taken if option.argument else ''} -d {_single(option.help)}"
            yield f"complete -c blkiomon -n {runs}{short} -l {option.long}{told}"
