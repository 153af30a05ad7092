"""Shell completions for bash, zsh and fish, from the commands' options.

The name of an option's argument decides what is completed: FILE, PATH, DIR and DATASET are files,
TRACE a trace, DEVICE a block device, and words with ``|`` between them the choices, unless the
option lists its choices. Other words are traces: files, and the names of per-CPU sets without
``.blktrace.0``.

shtab cannot make these: in bash it completes neither ``--clock=t`` nor a file name as the first
word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from blkiomon.commands.options import Command, Option, paragraphs

_MADE = "# Made by `make manual` from the options of the commands."


def _choices(option: Option) -> str:
    """The words that an option takes, separated by spaces; "" if unknown."""
    if option.choices:
        return " ".join(option.choices)
    words = option.argument.split("|")
    is_known = len(words) > 1 and all(word[:1].islower() or word[:1].isdigit() for word in words)
    return " ".join(words) if is_known else ""


def _takes(option: Option) -> str:
    """What is completed after an option: choices, files, traces, devices or nothing."""
    if _choices(option):
        return "choices"
    words = set(re.split(r"[^A-Z]+", option.argument))
    if words & {"FILE", "PATH", "DIR", "DATASET"}:
        return "files"
    if "TRACE" in words:
        return "traces"
    return "devices" if "DEVICE" in words else "nothing"


def summary(command: Command) -> str:
    """The first sentence of its description, without the full stop."""
    return re.split(r"[.:](?:\s|$)", paragraphs(command.description)[0])[0]


def _watches(command: Command) -> bool:
    """Whether its arguments may be devices."""
    return any("[DEVICE]" in line for line in command.usage)


def _quoted(text: str) -> str:
    """In single quotes, for each of the three shells."""
    return "'" + text.replace("'", r"'\''") + "'"


# --- bash -----------------------------------------------------------------------------------------

_BASH = r"""MADE

_blkiomon_offer() {
    mapfile -t COMPREPLY < <(compgen "$@" -- "$cur")
}

_blkiomon_files() {
    compopt -o filenames
    _blkiomon_offer -f "$@"
}

_blkiomon_traces() {
    _blkiomon_files -X '*.topology.json'
    # The name of a set of files, unless more than that is typed.
    if ((${#COMPREPLY[@]})) && [[ $cur != *.b* ]]; then
        mapfile -t COMPREPLY < <(printf '%s\n' "${COMPREPLY[@]}" |
            sed -E 's/\.blktrace\.[0-9]+(\.(gz|xz|zstd?))?$//' | sort -u)
    fi
}

_blkiomon_also() {
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$1" -- "$cur")
}

_blkiomon_devices() {
    local devices=(/sys/class/block/*)
    _blkiomon_offer -W "${devices[*]##*/}"
}

_blkiomon() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command= options
    # Readline takes the = of --option=value for a word.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if ((COMP_CWORD > 1)); then
        command=${COMP_WORDS[1]}
    fi
    case $command in
OPTIONS
    esac
    case "$command $prev" in
ARGUMENTS
        *)
            if [[ $cur == -* ]]; then
                _blkiomon_offer -W "$options"
                return
            fi
            case $command in
                help) _blkiomon_offer -W COMMANDS ;;
                WATCHERS) _blkiomon_traces; _blkiomon_also "$(cd /sys/class/block && echo *)" ;;
                *) _blkiomon_traces ;;
            esac
            if ((COMP_CWORD == 1)); then
                _blkiomon_also COMMANDS
            fi
            ;;
    esac
}

complete -F _blkiomon blkiomon
"""


def bash(commands: Sequence[Command]) -> str:
    """A file for share/bash-completion/completions."""
    main, *others = commands
    options, arguments = [], []
    for command in (*others, main):
        names = " ".join(name for option in command.options for name in option.names)
        options.append(f"        {command.name or '*'}) options={_quoted(names)} ;;")
        after: dict[str, list[str]] = {}
        for option in command.options:
            if option.argument:
                offer = {
                    "choices": f"_blkiomon_offer -W {_quoted(_choices(option))}",
                    "files": "_blkiomon_files",
                    "traces": "_blkiomon_traces",
                    "devices": "_blkiomon_devices",
                    "nothing": ":",
                }[_takes(option)]
                prefix = f"'{command.name} '" if command.name else "*' '"
                after.setdefault(offer, []).extend(prefix + name for name in option.names)
        arguments += [f"        {' | '.join(words)}) {offer} ;;" for offer, words in after.items()]
    texts = {
        "MADE": _MADE,
        "OPTIONS": "\n".join(options),
        "ARGUMENTS": "\n".join(arguments),
        "COMMANDS": _quoted(" ".join(command.name for command in others)),
        "WATCHERS": " | ".join(command.name for command in others if _watches(command)),
    }
    return re.sub("MADE|OPTIONS|ARGUMENTS|COMMANDS|WATCHERS", lambda word: texts[word[0]], _BASH)


# --- zsh ------------------------------------------------------------------------------------------

_ZSH = """\
#compdef blkiomon
MADE

_blkiomon_devices() {
    local -a devices=(/sys/class/block/*(N:t))
    compadd -a devices
}

_blkiomon_commands() {
    local -a commands=(
COMMANDS
    )
    _describe -t commands command commands
}

_blkiomon_traces() {
    # The name of a set of files, unless more than that is typed.
    if [[ $PREFIX == *.b* ]]; then
        _files
        return
    fi
    local -aU sets=(${(Q)~PREFIX}*.blktrace.<->(|.gz|.xz|.zst|.zstd)(N))
    sets=(${sets%.blktrace.*})
    compadd -a sets
    _files -F '(*.blktrace.<->(|.gz|.xz|.zst|.zstd)|*.topology.json)'
}

_blkiomon_first() {
    _blkiomon_commands
    _blkiomon_traces
}

_blkiomon_watched() {
    _blkiomon_devices
    _blkiomon_traces
}

_blkiomon() {
    local command=
    if (( CURRENT > 2 )); then
        command=${words[2]}
    fi
    case $command in
CASES
    esac
}

_blkiomon "$@"
"""


def zsh(commands: Sequence[Command]) -> str:
    """A file for share/zsh/site-functions."""
    main, *others = commands
    cases = []
    for command in (*others, main):
        first = "" if command.name else "                '1: :_blkiomon_first' \\\n"
        skip = "            shift words\n            (( CURRENT-- ))\n" if command.name else ""
        options = "".join(f"                {_zsh_option(o)} \\\n" for o in command.options)
        taken = "_blkiomon_watched" if _watches(command) else "_blkiomon_traces"
        taken = "_blkiomon_commands" if command.name == "help" else taken
        cases.append(
            f"        ({command.name or '*'})\n{skip}            _arguments -s -S \\\n"
            f"{options}{first}                '*:file:{taken}'\n            ;;"
        )
    texts = {
        "MADE": _MADE,
        "COMMANDS": "\n".join(f"        {_quoted(f'{c.name}:{summary(c)}')}" for c in others),
        "CASES": "\n".join(cases),
    }
    return re.sub("MADE|COMMANDS|CASES", lambda word: texts[word[0]], _ZSH)


def _zsh_option(option: Option) -> str:
    taken = ""
    if option.argument:
        action = {
            "choices": f"({_choices(option)})",
            "files": "_files",
            "traces": "_blkiomon_traces",
            "devices": "_blkiomon_devices",
            "nothing": " ",
        }[_takes(option)]
        taken = f":{_escaped(option.argument)}:{action}"
    short = f"-{option.short}" + "+" * bool(taken)
    long = f"--{option.long}" + "=" * bool(taken)
    names = f"{{{short},{long}}}" if option.short else long
    return f"'*'{names}{_quoted(f'[{_escaped(option.help)}]{taken}')}"


def _escaped(text: str) -> str:
    return re.sub(r"([\[\]\\:])", r"\\\1", text)


# --- fish -----------------------------------------------------------------------------------------

_FISH = r"""MADE

function __blkiomon_runs
    set -l words (commandline -opc) monitor
    contains -- $words[2] COMMANDS; or set words[2] monitor
    test $words[2] = $argv[1]
end

function __blkiomon_devices
    string replace -r '.*/' '' /sys/class/block/*
end

function __blkiomon_traces
    set -l files (commandline -ct)*.blktrace.*
    string replace -r -f '\.blktrace\.[0-9]+(\.(gz|xz|zstd?))?$' '' -- $files | sort -u
end

LINES
"""


def fish(commands: Sequence[Command]) -> str:
    """A file for share/fish/vendor_completions.d."""
    others = commands[1:]
    names = " ".join(command.name for command in others)
    first = "'test (count (commandline -opc)) -eq 1'"
    lines = [
        f"complete -c blkiomon -n {first} -a {command.name} -d {_quoted(summary(command))}"
        for command in others
    ]
    for command in others:
        if _watches(command):
            lines.append(
                f"complete -c blkiomon -n '__blkiomon_runs {command.name}' "
                "-a '(__blkiomon_devices)'"
            )
        if command.name != "help":
            lines.append(
                f"complete -c blkiomon -n '__blkiomon_runs {command.name}' -a '(__blkiomon_traces)'"
            )
    lines.append("complete -c blkiomon -n '__blkiomon_runs monitor' -a '(__blkiomon_traces)'")
    lines.append(f"complete -c blkiomon -n '__blkiomon_runs help' -f -a {_quoted(names)}")
    for command in commands:
        for option in command.options:
            short = f" -s {option.short}" if option.short else ""
            taken = {
                "choices": f" -x -a {_quoted(_choices(option))}",
                "files": " -r -F",
                "traces": " -r -F -a '(__blkiomon_traces)'",
                "devices": " -x -a '(__blkiomon_devices)'",
                "nothing": " -x",
            }[_takes(option)]
            lines.append(
                f"complete -c blkiomon -n '__blkiomon_runs {command.name or 'monitor'}'{short} "
                f"-l {option.long}{taken if option.argument else ''} -d {_quoted(option.help)}"
            )
    texts = {"MADE": _MADE, "COMMANDS": names, "LINES": "\n".join(lines)}
    return re.sub("MADE|COMMANDS|LINES", lambda word: texts[word[0]], _FISH)
