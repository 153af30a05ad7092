"""The command line: the conventions of getopt(3), and messages about wrong arguments."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import oracle
import pytest
import runner
from quirks import ONE
from runner import LONG

from blkiomon import __version__
from blkiomon.commands import cli
from blkiomon.commands.cli import parse
from blkiomon.commands.config import Config
from blkiomon.commands.options import Option, UsageError

USAGE = "\nUsage: blkiomon "
Capture = pytest.CaptureFixture[str]

ORIGINAL = (
    *("interval", "human-readable", "binary", "dump-lldd", "debug"),
    *("msg-queue", "msg-queue-id", "msg-id", "version"),
)
"""The original's long options."""
PREFIXES = sorted({name[:end] for name in ORIGINAL for end in range(1, len(name) + 1)})
EVERYTHING = ["-I1", "-ha", "-ba", "-da", "-Da", "-Qa", "-q1", "-m1"]


def config_of(*arguments: str) -> Config:
    """The Config of valid arguments."""
    config = parse(arguments)
    assert isinstance(config, Config)
    return config


def destinations_of(*arguments: str) -> Mapping[str, Any]:
    """The destinations of the outputs that the arguments name."""
    return config_of(*arguments).outputs.destinations


def values_of(*arguments: str) -> dict[str, Any]:
    """What all of the original's options are set to, the last arguments given on top."""
    config = config_of(*EVERYTHING, *arguments)
    found = dict(config.outputs.destinations)
    queue = dict(zip(("msg-queue", "msg-queue-id", "msg-id"), found.pop("msg-queue")))
    return {"interval": config.interval_s, **found, **queue}


def fails(capfd: Capture, *arguments: str) -> str:
    """What is said about wrong arguments: one line of message, then the usage."""
    assert cli.main(list(arguments)) in (1, 2)  # test_status.py says which
    out, err = capfd.readouterr()
    assert out == ""
    message, usage, _ = err.partition(USAGE)
    assert usage, err
    assert message.startswith("blkiomon: ")
    assert "\n" not in message
    assert "Traceback" not in err
    return message.removeprefix("blkiomon: ")


@pytest.mark.parametrize(
    ("arguments", "is_drop_in"),
    [
        (["-I1"], True),
        ([*EVERYTHING, "--verbose", "sda"], True),
        *((["-I1", "-h-", option], False) for option in ["--json=a", "--csv=a", "--parquet=a"]),
        *((["-I1", "-b-", option], False) for option in ["--openmetrics=0", "--textfile=a"]),
    ],
)
def test_run_is_a_drop_in_unless_an_output_is_not_the_originals(
    arguments: list[str], is_drop_in: bool
) -> None:
    assert config_of(*arguments).is_drop_in == is_drop_in


# -- the habits of getopt --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        *("-I5", "-I 5", "--interval=5", "--interval 5", "--inter 5", "--i=5", "-I 1 -I 5"),
        *("-I5 --", "-I 5.0", "-I05", "-I5e0", "-vI5"),
    ],
)
def test_interval_may_be_given_in_many_ways(arguments: str) -> None:
    assert config_of(*arguments.split()).interval_s == 5.0


def test_interval_may_be_a_fraction_of_a_second() -> None:
    assert config_of("-I", "0.25").interval_s == 0.25
    assert config_of("-I.001").interval_s == 0.001


@pytest.mark.parametrize(
    ("text", "interval_s"),
    [("500ms", 0.5), ("1s", 1.0), ("5m", 300.0), ("2h", 7200.0), ("1.5m", 90.0)],
)
def test_interval_may_have_a_unit(text: str, interval_s: float) -> None:
    assert config_of("-I", text).interval_s == interval_s


def test_interval_defaults_to_a_second_unless_an_output_of_0_3_is_named() -> None:
    for option in ("--json", "--csv", "--textfile"):
        assert config_of(option, "x").interval_s == 1.0
    assert config_of("--slow", "20", "--trace", "sdb").interval_s == 1.0
    for option in ("-h", "-b", "-D"):
        with pytest.raises(UsageError, match="the length of an interval is missing"):
            parse(["--json", "x", option, "y"])


def test_short_options_take_attached_arguments() -> None:
    config = config_of("-I5", "-h-", "-b-", "-dd", "-DD", "-Q/q", "-q1", "-m3")
    assert config.outputs.destinations == {
        "human-readable": "-",
        "binary": "-",
        "dump-lldd": "d",
        "debug": "D",
        "msg-queue": ("/q", 1, 3),
    }


def test_arguments_may_look_like_options() -> None:
    assert destinations_of("-h", "-I", "-I", "5") == {"human-readable": "-I"}
    assert destinations_of("-I5", "--binary=--", "-d", "--") == {"binary": "--", "dump-lldd": "--"}


def test_order_does_not_matter() -> None:
    one = config_of("-I", "5", "-h", "x", "-D", "y", "--stat-version", "0.2", "--resync")
    other = config_of("--resync", "--stat-version=0.2", "-Dy", "--human-readable", "x", "-I5")
    assert one == other


def test_text_goes_to_standard_output_if_no_output_is_named() -> None:
    assert destinations_of("-I5") == {"human-readable": "-"}
    for option in ("-b", "-d", "-D"):
        assert [*destinations_of("-I5", option, "x").values()] == ["x"]
    assert {*destinations_of("-I5", "-Qa", "-q1", "-m1")} == {"msg-queue"}


def test_msg_queue_name_is_an_alias_of_msg_queue() -> None:
    for given in (["--msg-queue-name=/q"], ["--msg-queue-n", "/q"]):
        assert destinations_of("-I5", *given, "-q1", "-m1") == {"msg-queue": ("/q", 1, 1)}


def meant_by(prefix: str) -> str | None:
    """The option of the original that ours takes an abbreviation for; None if ambiguous."""
    try:
        if isinstance(parse([f"--{prefix}"]), str):
            return "version"
    except UsageError as error:
        if "unique" in str(error):
            return None
    before, after = values_of(), values_of(f"--{prefix}=7")
    (name,) = (n for n, value in before.items() if value != after[n])
    return name


def test_abbreviations_mean_what_they_mean_to_the_original() -> None:
    program = oracle.require()
    for prefix in PREFIXES:
        told = subprocess.run([program, f"--{prefix}"], capture_output=True, check=False, text=True)
        theirs: str | None
        if needs := re.search(r"option '--(.*)' requires an argument", told.stderr):
            theirs = needs[1]
        elif "ambiguous" in told.stderr:
            theirs = None
        else:
            assert " version " in told.stdout
            theirs = "version"
        assert meant_by(prefix) == theirs, prefix


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("inter", "interval"),
        ("hum", "human-readable"),
        ("h", "human-readable"),
        ("v", "version"),
        ("ver", "version"),
        ("bin", "binary"),
        ("du", "dump-lldd"),
        ("de", "debug"),
        ("msg-i", "msg-id"),
        ("msg-queue", "msg-queue"),
        # The original knows one option that begins so; the alias msg-queue-name does not count.
        ("msg-queue-", "msg-queue-id"),
        ("m", None),
        ("msg-q", None),
        ("d", None),
    ],
)
def test_abbreviation_means_the_option_of_the_original(prefix: str, name: str | None) -> None:
    assert meant_by(prefix) == name


def test_our_own_options_can_be_abbreviated() -> None:
    assert config_of("-I5", "--verb").outputs.verbose
    assert config_of("-I5", "--max-p=7").max_pending == 7
    assert config_of("-I5", "--no").final is False
    assert str(parse(["--he"])).startswith("Usage: ")


def test_queue_options_without_a_queue_are_ignored_as_in_the_original() -> None:
    for options in (["-m", "1"], ["-q", "1"], ["-q", "1", "-m", "1"]):
        assert config_of("-I", "5", *options).outputs.destinations == {"human-readable": "-"}


# -- version and help ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "version"),
    [
        (["-V"], "0.3"),
        (["--version"], "0.3"),
        (["-V", "--stat-version", "0.2"], "0.2"),
        (["--stat-version=0.2", "--vers"], "0.2"),
        (["-V", "--stat-version", "0.3"], "0.3"),
        (["-I", "5", "-V", "-h", "-"], "0.3"),
        (["-V", "-I", "0"], "0.3"),
        (["-VI5"], "0.3"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_version_is_the_third_word(arguments: list[str], version: str) -> None:
    output = runner.succeed(*arguments)
    text = output.decode()
    assert text == f"blkiomon version {version} (blkiomon {__version__})\n"
    assert text.split()[2] == version  # ziomon reads the third word


def test_version_does_not_wait_for_input() -> None:
    with runner.Running("-V") as process:
        assert process.wait() == 0


def test_help_is_printed(capfd: Capture) -> None:
    assert cli.main(["--help"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert {*ORIGINAL} <= {option.long for option in cli.OPTIONS}
    assert out.startswith("Usage: blkiomon ")


def test_h_is_not_help(capfd: Capture) -> None:
    assert "argument" in fails(capfd, "-h")


@pytest.mark.parametrize("arguments", [["-V"], ["--help"], ["-I", "0"]], ids=" ".join)
def test_version_help_and_usage_errors_import_neither_numpy_nor_engine(
    arguments: list[str],
) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "blkiomon", *arguments]
    result = subprocess.run(command, capture_output=True, check=False, timeout=runner.TIMEOUT_S)
    assert b"blkiomon.commands.cli" in result.stderr
    assert b"numpy" not in result.stderr
    assert b"blkiomon._core" not in result.stderr


# Prints whether numpy has been loaded, at the first read and after it.
READS = """
import os, sys
from blkiomon.commands import cli
readv = os.readv
def read(fd, buffers):
    print("ndarray" in vars(sys.modules["numpy"]))
    return readv(fd, buffers)
os.readv = read
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [(["-h"], ["False", "True"]), (["-b"], ["False", "True"]), (["--json"], ["True", "True"])],
    ids=lambda value: value[0],
)
def test_drop_in_begins_to_read_before_it_loads_numpy(
    arguments: list[str], loaded: list[str], tmp_path: Path
) -> None:
    done = runner.python(READS, "-I", "1000", *arguments, tmp_path / "out", stdin=ONE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == loaded
    assert (tmp_path / "out").stat().st_size


def test_drop_in_loads_numpy_first_if_its_address_space_is_limited(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\n"
    done = runner.python(limit + READS, "-I", "1000", "-h", tmp_path / "out", stdin=ONE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == ["True", "True"]


@pytest.mark.parametrize("late", ["import numpy.linalg", "import numpy; numpy.ones(1)"])
def test_numpy_that_was_put_off_loads_whole(late: str) -> None:
    """Also by the import of a submodule, and by the first of several threads."""
    code = f"""
import sys, threading
from blkiomon.commands.late_numpy import put_off_numpy
put_off_numpy()
sys.setswitchinterval(1e-6)
found = []
def use():
    {late}
    found.append(numpy.linalg.norm([3, 4]))
threads = [threading.Thread(target=use) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert found == [5.0] * 4, found
"""
    done = runner.python(code)
    assert (done.returncode, done.stderr) == (0, b"")


def test_drop_in_loads_numpy_while_it_waits_for_the_first_record() -> None:
    with runner.Running("-I", "1000").started() as running:
        maps = Path(f"/proc/{running.process.pid}/maps")
        runner.until(lambda: "_multiarray_umath" in maps.read_text(), "numpy to be loaded")


@pytest.mark.parametrize("option", ["-V", "--help"])
@pytest.mark.parametrize("output", ["/dev/full", "closed"])
def test_version_and_help_fail_without_room_to_print_them(option: str, output: str) -> None:
    redirected = ">&-" if output == "closed" else f">{output}"
    # Buffered, as usual: Python writes only at its exit.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    result = runner.shell(redirected, option, env=environment)
    assert result.returncode == (1 if option == "-V" else 4)
    assert re.fullmatch(rb"blkiomon: .*standard output.*\n", result.stderr), result.stderr


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "interval is missing"),
        (["-h", "-"], "interval is missing"),
        (["-I"], "-I requires argument"),
        (["--interval"], "--interval requires argument"),
        (["-x"], "-x not recognized"),
        (["-I5", "--resync=1"], "--resync must not have an argument"),
        (["-V=1"], "-= not recognized"),
        (["-I5", "--m", "1"], "--m not a unique prefix"),
        (["-I5", "--d", "x"], "--d not a unique prefix"),
        (["-I5", ""], "an argument is empty: name a trace by its path"),
        (["-I5", "--clock", "sun"], "--clock takes auto, trace or wall, not 'sun'"),
        (
            ["-I5", "--from", "-1"],
            "--from takes seconds since the first record, up to 1e9, or a time such as",
        ),
        (["-I5", "--from=1", "--to=2026-11-23T14:00"], "--from and --to must both be seconds"),
        (["-I5", "--device", "4096:0"], "device 4096:0 cannot exist: the limits are 4095:1048575"),
        (["-I5", "--device", "/dev/null"], "no block device '/dev/null'"),
        (["-I5", "--names", "maybe"], "--names takes yes or no, not 'maybe'"),
        (["-I5", "--names", "auto"], "--names takes yes or no, not 'auto'"),
        (["-I", "0.5ms"], "from 0.001 s to 1e9 s, not '0.5ms'"),
        (["-I5", "-Q", "/"], "all three of -Q PATH, -q ID and -m TYPE"),
        (["-I5", "-Q", "/", "-q", "1"], "all three"),
        (["-I5", "-q", "1", "-m", "1", "--json=-"], "all three"),
        (["-I5", "-m", "1", "trace"], "all three"),
        (["-I5", "--stat-version", "0.1"], "--stat-version takes 0.3 or 0.2, not '0.1'"),
        (["-V", "--stat-version", "1"], "--stat-version takes 0.3 or 0.2"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_usage_error_says_what_is_wrong(capfd: Capture, arguments: list[str], said: str) -> None:
    assert said in fails(capfd, *arguments)


@pytest.mark.parametrize("option", [option for option in cli.OPTIONS if option.argument])
def test_missing_argument_is_reported(capfd: Capture, option: Option) -> None:
    assert "requires argument" in fails(capfd, "-I5", f"--{option.long}")
    if option.short:
        assert "requires argument" in fails(capfd, "-I5", f"-{option.short}")


NOT_A_NUMBER = (
    *("", " ", "-", "x", "5x", "5 6", "0x10", "1_000", "\u0665", "\udcff", "nan", "inf", "-inf"),
    *("1e999", "-1", "-0.5", "9" * 400, "9" * 5000, "5,0", "=5", "%s", "5\u00a0"),
)
NUMBERS = ("interval", "msg-queue-id", "msg-id", "max-pending", "max-age")


@pytest.mark.parametrize("name", NUMBERS)
def test_hostile_numbers_are_refused(capfd: Capture, name: str) -> None:
    for value in NOT_A_NUMBER:
        if (name, value) == ("msg-queue-id", "-1"):
            continue  # as to the original: the low byte counts
        message = fails(capfd, *EVERYTHING, f"--{name}", value)
        assert message.startswith(f"--{name} takes "), value


@pytest.mark.parametrize(
    ("name", "refused", "taken"),
    [
        ("interval", ["0", "1e-9", "1e10"], ["1e9"]),
        ("msg-queue-id", ["0", 1 << 31], ["256", "-5"]),
        ("msg-id", ["0", 1 << 63], [(1 << 63) - 1]),
        ("max-pending", ["0", "1.5", (1 << 32) + 1], ["1", 1 << 32]),
        ("max-age", ["1e10"], ["0", "1e9"]),
    ],
)
def test_number_has_limits(capfd: Capture, name: str, refused: list[Any], taken: list[Any]) -> None:
    for value in refused:
        said = fails(capfd, *EVERYTHING, f"--{name}={value}")
        assert said.startswith(f"--{name} takes "), value
    for value in taken:
        config_of(*EVERYTHING, f"--{name}={value}")


@pytest.mark.parametrize("name", ["human-readable", "binary", "dump-lldd", "debug", "msg-queue"])
def test_empty_path_is_refused(capfd: Capture, name: str) -> None:
    assert fails(capfd, *EVERYTHING, f"--{name}=") == f"--{name} takes a path"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_path_that_is_no_text_is_written_to(locale: str, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xc3 \n"
    environment = os.environ | {"LC_ALL": locale}
    result = runner.run("-I", LONG, b"-h" + path, stdin=ONE, env=environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert Path(os.fsdecode(path)).stat().st_size > 0


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_complaint_has_the_bytes_of_a_path_that_is_no_text(locale: str) -> None:
    environment = os.environ | {"LC_ALL": locale}
    result = runner.run("-I", LONG, "-h", b"/nowhere/\xff", env=environment)
    assert result.returncode == 1
    complaint = rb"blkiomon: could not write to /nowhere/\xff: No such file or directory"
    assert result.stderr == complaint + b"\n"


def test_usage_error_ends_a_process_with_1() -> None:
    result = runner.run("-I", "never", stdin=ONE)
    assert (result.returncode, result.stdout) == (1, b"")
    said = (
        "blkiomon: --interval takes a number of seconds, or a time such as 500ms or 5m "
        "(units: us, ms, s, m, h), from 0.001 s to 1e9 s, not 'never'"
    )
    assert result.stderr.decode().startswith(said + USAGE)


def test_usage_error_opens_no_output(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("keep")
    assert runner.call("-h", path, "-I", "x").returncode == 1
    assert path.read_text() == "keep"
