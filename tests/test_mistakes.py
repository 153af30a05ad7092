"""Common mistakes of users: one line explains each."""

from __future__ import annotations

import shlex
import tarfile
from pathlib import Path

import goldenfiles
import pytest
import runner

from blkiomon.commands import naming
from blkiomon.commands.cli import COMMANDS
from blkiomon.console import EXIT_FAILURE, EXIT_INPUT, EXIT_OUTPUT, EXIT_USAGE

TRACE = goldenfiles.TRACES / "loop-multi-dc.bin"

ORIGINAL, USAGE, INPUT, OUTPUT = EXIT_FAILURE, EXIT_USAGE, EXIT_INPUT, EXIT_OUTPUT
TIME = (
    "takes a number of seconds, or a time such as 500ms or 5m (units: us, ms, s, m, h), "
    "from 0.001 s to 1e9 s, not"
)
NEEDS_OUTPUT = "needs -I or an output: without them, blkiomon summarizes TRACE"
NO_FILE = "no such file, and no file matches"

LONG = 300 * "x"

MISTAKES = (
    # A name that is something else.
    ("run2", USAGE, "run2 is neither a trace nor a block device nor a command; "),
    ("./run2", INPUT, f"cannot open run2: {NO_FILE} run2.blktrace.*"),
    ("sumary t", USAGE, "unknown command 'sumary'; did you mean 'summary'?"),
    ("archiv -I 60 -o ds t", USAGE, "unknown command 'archiv'; did you mean 'archive'?"),
    ("help repotr", USAGE, "unknown command 'repotr'; did you mean 'report'?"),
    ("sda", INPUT, "sda is a block device: `blkiomon stat sda` watches it, "),
    ("report sda", INPUT, "sda is a block device: `blkiomon stat sda` watches it, "),
    ("stat sda ./t", USAGE, "stat shows devices or traces, not both: sda is a device of this "),
    ("-I1 --trace 8:1048576 -h -", USAGE, "--trace: device 8:1048576 cannot exist: the limits are"),
    ("record -o x --trace 4095:9", INPUT, "cannot capture 4095:9: this host has no such block dev"),
    ("stat 8:1048576", INPUT, f"cannot open 8:1048576: {NO_FILE} 8:1048576.blktrace.*, and this"),
    ("stat nothing", INPUT, f"cannot open nothing: {NO_FILE} nothing.blktrace.*, and this host "),
    ("compare t run2", INPUT, f"cannot open run2: {NO_FILE} run2.blktrace.*"),
    ("dir", INPUT, "no trace in dir: looked for *.blktrace.0 and so on"),
    ("sda.blktrace.0", INPUT, "cannot open sda.blktrace.0: no such file"),
    ("-I1 --trace sdzz -h -", INPUT, "cannot capture sdzz: this host has no such block device"),
    ("-I1 --trace t -h -", INPUT, "t is not a block device: `blkiomon t` reads it as a trace\n"),
    ("-I1 --trace ./t -h -", INPUT, "./t is not a block device: `blkiomon ./t` reads it as a "),
    ("record -o x --trace t", INPUT, "t is not a block device: `blkiomon t` reads it as a trace"),
    ("--device sdzz t", USAGE, "--device: this host has no block device 'sdzz'; name a device of"),
    ("--device 7:9 t", INPUT, "t: no request of 7:9; there are some of 7:1, 7:2, 7:3"),
    ("run2.bin", INPUT, f"cannot open run2.bin: {NO_FILE} run2.bin.blktrace.*"),
    ("--op read ./run2", INPUT, f"cannot open run2: {NO_FILE} run2.blktrace.*"),
    ("--json - ./run2", INPUT, f"cannot open run2: {NO_FILE} run2.blktrace.*"),
    ("-h - ./run2", INPUT, f"cannot open run2: {NO_FILE} run2.blktrace.*"),
    ("gone/run2", INPUT, f"cannot open gone/run2: {NO_FILE} gone/run2.blktrace.*"),
    ("t/run2", INPUT, "cannot open t/run2: Not a directory"),
    (LONG, INPUT, f"cannot open {LONG}: File name too long"),
    ("-I1 --textfile - t", USAGE, "--textfile takes a file, which it replaces after each interv"),
    ("archive -o - t", USAGE, "--output takes a directory or a URL, not standard output (-)"),
    ("--by path --topology - t", USAGE, "--topology takes a file, not standard input (-)"),
    ("topology -", USAGE, "topology takes the name of a trace, not standard input (-)"),
    ("topology -o -", USAGE, "-o takes a file; --json prints to standard output"),
    ("report -o - t", USAGE, "-: -o takes a name that ends in .html, .png, .svg or .pdf"),
    # A file that is something else.
    ("empty", INPUT, "empty: the trace is empty"),
    ("t.tar", INPUT, "bad trace: t.tar is a tar archive: unpack it first, as in `tar -xf t.tar`"),
    ("s.csv", INPUT, "bad trace: s.csv holds intervals in CSV: open it in a spreadsheet; "),
    ("s.txt", INPUT, "bad trace: s.txt is text written with -h: run with --json instead: "),
    ("cut", INPUT, "bad trace: cut: at byte offset 960: found the end of the input 40 bytes "),
    ("disk.img", INPUT, "bad trace: disk.img: at byte offset 0: found magic 00000000, expected "),
    ("report disk.img", INPUT, "bad trace: disk.img: at byte offset 0: found magic 00000000, "),
    ("compare t disk.img", INPUT, "bad trace: disk.img: at byte offset 0: found magic 00000000"),
    ("cut.b", INPUT, "cut.b: 100 bytes are less than one struct of statistics (344)"),
    ("-I1 -h - s.jsonl", INPUT, "bad trace: s.jsonl holds intervals in JSON: use `blkiomon "),
    ("decode set", INPUT, "set is a block trace: use `blkiomon set`"),
    ("decode sets", INPUT, "sets is a block trace: use `blkiomon sets`"),
    ("decode dir", INPUT, "dir: Is a directory"),
    ("decode nothing", INPUT, "nothing: No such file or directory"),
    ("decode t", INPUT, "t is a block trace: use `blkiomon t`"),
    ("compare t s.b", INPUT, "s.b: files of -b hold no percentiles: compare traces, or --json"),
    ("t s.jsonl", INPUT, "inputs of different kinds cannot be put together: t (trace), s.jsonl ("),
    # An option that is something else.
    ("-h", ORIGINAL, "option -h requires argument, the FILE that text is written to; --help prin"),
    ("-h t", ORIGINAL, "the length of an interval is missing: -I SECONDS"),
    ("-I t", ORIGINAL, f"--interval {TIME} 't'"),
    ("--clock trace t", USAGE, f"--clock {NEEDS_OUTPUT}"),
    ("-v t", USAGE, f"--verbose {NEEDS_OUTPUT}"),
    ("--resync --no-final t", USAGE, f"--no-final {NEEDS_OUTPUT}"),
    ("--queue t", USAGE, "--queue needs --trace DEVICE"),
    ("--slow-limit 1 t", USAGE, "--slow-limit needs --slow"),
    ("-I 1x t", USAGE, f"--interval {TIME} '1x'"),
    ("stat t 0", USAGE, f"INTERVAL {TIME} '0'"),
    ("stat t 1 2 3", USAGE, "stat takes INTERVAL and COUNT, and no third number: 3"),
    ("--jsn - t", USAGE, "option --jsn not recognized; did you mean --json?"),
    ("-json - t", USAGE, "option -j not recognized; did you mean --json?"),
    ("-o x t", USAGE, "option -o not recognized; some commands have it, as in `blkiomon report -o"),
    ("summary -o x t", USAGE, "option -o not recognized\n"),
    ("-I1 --folow-symlinks t", USAGE, "option --folow-symlinks not recognized; did you mean --fol"),
    ("-I1 --xyzzy t", USAGE, "option --xyzzy not recognized\n"),
    ("report --ouput=x.html t", USAGE, "option --ouput not recognized; did you mean --output?"),
    (
        "compare --fail-if read.iops<10k t t",
        USAGE,
        "--fail-if: 'read.iops<10k': a limit of iops has no unit, /s or %\n",
    ),
    ("compare --fail-if read.p99>5 t t", USAGE, "--fail-if: 'read.p99>5': a limit of p99 has ns, "),
    ("compare --by paht t t", USAGE, "--by takes device, lun, path, port, hba or array, not 'pah"),
    ("compare --fail-fi=x t t", USAGE, "option --fail-fi not recognized; did you mean --fail-if?"),
    ("decode --jsno t", USAGE, "option --jsno not recognized; did you mean --json?"),
    ("top --sped=2 t", USAGE, "option --sped not recognized; did you mean --speed?"),
    ("archive --shceduler=x t", USAGE, "option --shceduler not recognized; did you mean --sched"),
    ("--trace sda", USAGE, "an output is missing: `blkiomon stat sda` prints a table, --json -"),
    ("-I1 --by path --trace all", USAGE, "an output is missing: `blkiomon stat --by path` prints"),
    ("-I1 --trace sda t", USAGE, "--trace traces devices and reads no files; remove it or the "),
    ("--op reads t", USAGE, "--op: unknown operation 'reads'; did you mean read?"),
    ("--from 2 --to 1 t", USAGE, "--to must be later than --from"),
    ("--from 5 t", INPUT, "t: no request between --from and --to; it lasts 3.01 s"),
    ("--from noon t", USAGE, "--from takes seconds since the first record, up to 1e9, or a time "),
    ("--from 02:12:20 t", USAGE, "--from: a time of day needs a date: 20"),
    ("summary --json t", USAGE, "option --json belongs to blkiomon without a command: blkiomon "),
    (
        "stat --slow 20 sda",
        USAGE,
        "option --slow belongs to blkiomon without a command: blkiomon --slow=MS[:FILE]",
    ),
    ("top --openmetrics 9107 sda", USAGE, "option --openmetrics belongs to blkiomon without a c"),
    ("stat --trace sda 1", USAGE, "option --trace not recognized: name the device without it"),
    ("record -o x --device sda", USAGE, "option --device not recognized; did you mean --trace?"),
    ("--op read,write t", USAGE, "--op: unknown operation 'read,write'; repeat the option: --op "),
    ("--from 2026-11-23 t", INPUT, "bad trace: t: at byte offset 0: found no time of day at the "),
    ("--slow fast t", USAGE, "--slow takes milliseconds up to 1e9 or a percentile, and optional"),
    # Something that is missing.
    ("summary", USAGE, "the trace is missing: name it by its path"),
    ("report", USAGE, "the trace is missing: name it by its path"),
    ("compare t", USAGE, "compare takes two runs, or several of each side: A1 A2 : B1 B2"),
    ("record", USAGE, "the trace has no name: -o NAME, or -o - for standard output"),
    ("record -o x.blktrace.0 --trace 4095:9", USAGE, "-o takes the name before .blktrace: -o x"),
    (
        "record -o d/x.blktrace.12.gz --trace 4095:9",
        USAGE,
        "-o takes the name before .blktrace: -o d/x",
    ),
    ("record -o x.blktrace --trace 4095:9", USAGE, "-o takes the name before .blktrace: -o x"),
    ("record -o x fio job", USAGE, "unexpected argument 'fio': write a command after --"),
    ("topology run2", INPUT, "cannot open run2.topology.json: no such file; on the traced host, "),
    ("archive missing", INPUT, "cannot open missing: there is no such file and no missing.blktrac"),
    ("archive -o d --host x t", USAGE, "--host: the pattern of a host contains {host} exactly"),
    ("help a b", USAGE, "help takes one command"),
    # A choice that contradicts another, or fits nothing.
    ("decode --json --csv s.b", USAGE, "decode prints one of text, JSON and CSV"),
    ("decode --device 7:9 s.b", INPUT, "s.b: no struct of 7:9; there are some of 7:1, 7:2, 7:3"),
    ("summary --op zone t", INPUT, "t: no request of operation zone; there are some of read, "),
    ("stat --op raed t", USAGE, "--op: unknown operation 'raed'; did you mean read?"),
    ("-I1 -d - --op read t", USAGE, "--op cannot select the single records that --dump-lldd"),
    ("-I1 --csv - --queue t", USAGE, "--queue needs --trace DEVICE"),
    ("-I1 -Q . t", USAGE, "a message queue takes all three of -Q PATH, -q ID and -m TYPE"),
    ("topology --json -o x.json", USAGE, "-o saves JSON, and --json prints it: use one of them"),
    # An output that would do damage.
    ("--json t", OUTPUT, "could not write to t: it begins like a trace; --overwrite replaces it"),
    ("-I1 --json t t", OUTPUT, "could not write to t: this run reads it"),
    ("report -o x.doc t", USAGE, "x.doc: -o takes a name that ends in .html, .png, .svg or .pdf"),
    ("top t", USAGE, "top needs a terminal: `blkiomon stat` prints lines, and `blkiomon stat -"),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a trace ``t``, and with files that are taken for one."""
    path = tmp_path_factory.mktemp("mistakes")
    trace = TRACE.read_bytes()
    (path / "t").write_bytes(trace)
    (path / "cut").write_bytes(trace[:1000])
    (path / "empty").touch()
    with (path / "disk.img").open("wb") as image:
        image.truncate(256 << 20)
    (path / "dir").mkdir()
    (path / "sets").mkdir()
    for name in ("set.blktrace.0", "sets/sda.blktrace.0"):
        (path / name).write_bytes(trace)
    with tarfile.open(path / "t.tar", "w") as tar:
        tar.add(path / "cut", "cut")
    outputs = {"--json": "s.jsonl", "-b": "s.b", "-h": "s.txt", "--csv": "s.csv"}
    options = [part for option, name in outputs.items() for part in (option, path / name)]
    assert runner.call("-I1", *options, path / "t").returncode == 0
    (path / "cut.b").write_bytes((path / "s.b").read_bytes()[:100])
    return path


def test_every_command_is_among_the_mistakes() -> None:
    assert {typed.split()[0] for typed, _, _ in MISTAKES} >= {*COMMANDS}


@pytest.mark.parametrize(("typed", "status", "said"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistake_gets_one_line_that_helps(
    typed: str, status: int, said: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naming, "is_device", lambda name: name == "sda")
    before = {path: path.stat().st_mtime_ns for path in files.iterdir()}
    result = runner.call(*shlex.split(typed), cwd=files)
    line, end, usage = result.stderr.decode().partition("\n")
    assert f"{line}{end}".startswith(f"blkiomon: {said}")
    assert result.returncode == status
    assert usage == "" or (usage.startswith("Usage: blkiomon") and status in (ORIGINAL, USAGE))
    assert bool(result.stdout) == (typed == "cut"), "what could be read is shown"
    assert {path: path.stat().st_mtime_ns for path in files.iterdir()} == before


@pytest.mark.parametrize("name", COMMANDS)
def test_command_wins_over_a_file_of_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / name).write_bytes(TRACE.read_bytes())
    alone, beside = (runner.call(name, "gone", cwd=at) for at in (tmp_path / "empty", tmp_path))
    assert (beside.returncode, beside.stderr) == (alone.returncode, alone.stderr)
    assert beside.stdout == alone.stdout == b""
    read = runner.succeed(f"./{name}", cwd=tmp_path).decode()
    assert read.startswith(f"{name}: 3.01 s; the trace does not")
