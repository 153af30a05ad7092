"""As root, outputs follow no link that another user could have made."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import goldenfiles
import programs
import pytest
import runner
from quirks import ONE
from runner import LONG, NOBODY, Running

from blkiomon.console import EXIT_OUTPUT
from blkiomon.outputs import links
from blkiomon.outputs.opening import check_output, make_directories, open_output, write_whole

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs to be on guard")
PUT = "where another user could have put it; --follow-symlinks allows it"
LINK = f" is a symbolic link {PUT}"
OTHERS = f"it belongs to another user, and is {PUT}"
HARD_LINK = f"it is a hard link {PUT}"


@pytest.fixture(scope="module")
def short_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short trace, whose page takes little time."""
    path = tmp_path_factory.mktemp("traces") / "trace.bin"
    path.write_bytes((goldenfiles.TRACES / "loop-multi-dc.bin").read_bytes()[: 48 * 2000])
    return path


@pytest.fixture(params=[0o1777, 0o777], ids=["sticky", "not_sticky"])
def public(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that anybody can write to, beside a file of root's."""
    with runner.shared_directory() as directory:
        path = directory / "public"
        path.mkdir()
        path.chmod(request.param)
        (directory / "precious").write_text("keep")
        (directory / "trace").write_bytes(ONE)
        yield path


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def writes_to(path: Path, *, keep: bool = False) -> bool:
    """Opens an output and writes to it; False for a FIFO, which waits for its reader."""
    fd = open_output(str(path), keep=keep)
    if fd is None:
        return False
    with open(fd, "wb") as file:
        file.write(b"text")
    return True


@root_only
@pytest.mark.parametrize(
    "option", ["-h", "-b", "-d", "-D", "--json", "--csv", "--parquet"], ids=lambda o: o.strip("-")
)
def test_no_output_follows_a_link_that_anybody_could_lay(option: str, public: Path) -> None:
    precious, path = public.parent / "precious", public / "out"
    path.symlink_to(precious)
    status = EXIT_OUTPUT if option.startswith("--") else 1
    complaint = f"could not write to {path}: out{LINK}"
    runner.assert_fails(status, complaint, "-I", LONG, option, path, stdin=ONE)
    assert precious.read_text() == "keep"
    result = runner.call("-I", LONG, option, path, "--follow-symlinks", stdin=ONE)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert path.is_symlink() and precious.read_bytes() != b"keep"


@root_only
@pytest.mark.parametrize("target", ["nowhere", "/nowhere/at/all", "link", "../private"])
def test_link_is_refused_wherever_it_leads(target: str, public: Path) -> None:
    (public / "link").symlink_to(target)
    for path in (public / "link", public / "link" / "file"):
        with pytest.raises(OSError, match=LINK):
            open_output(str(path))
        if path.name == "file":
            with pytest.raises(OSError, match=LINK):
                write_whole(path, lambda file: file.write(b"x"))
    assert names_in(public) == ["link"]


@root_only
def test_link_is_refused_on_every_way_there(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after another link, which root has made, and by relative names."""
    (public / "link").symlink_to("../precious")
    (public.parent / "ours").symlink_to("public/link")
    (public.parent / "inner").symlink_to(public)
    monkeypatch.chdir(public)
    for path in ("../ours", "link", "./link", "../inner/link", f"{public}//./link"):
        with pytest.raises(OSError, match=LINK):
            open_output(path)
    assert (public.parent / "precious").read_text() == "keep"


THEIRS = {
    "another user's": (NOBODY, 0, 0o755),
    "another user's, sticky": (NOBODY, 0, 0o1755),
    "group-writable": (0, NOBODY, 0o775),
    "group-writable, sticky": (0, NOBODY, 0o1775),
    "root's group may write": (0, 0, 0o775),
}
"""Directories in which, or below which, root follows no link: owner, group and mode."""


@pytest.fixture(params=THEIRS)
def theirs(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that is not only root's, inside /tmp, beside a file of root's."""
    with runner.shared_directory() as directory:
        (directory / "precious").write_text("keep")
        path = directory / "theirs"
        path.mkdir()
        owner, group, mode = THEIRS[request.param]
        os.chown(path, owner, group)
        path.chmod(mode)
        yield path


@root_only
def test_link_is_refused_where_another_user_could_have_made_it(theirs: Path) -> None:
    precious = theirs.parent / "precious"
    (theirs / "out").symlink_to(precious)
    (theirs / "up").symlink_to("..")
    (theirs.parent / "ours").symlink_to("theirs/out")
    for path in (theirs / "out", theirs.parent / "ours", theirs / "up/precious"):
        for option in ("-h", "--json"):
            result = runner.call("-I", LONG, option, path, stdin=ONE)
            assert LINK in result.stderr.decode()
            assert result.returncode == (EXIT_OUTPUT if option == "--json" else 1)
    for attempt in (check_output, open_output):
        with pytest.raises(OSError, match=LINK):
            attempt(str(theirs / "out"))
    with pytest.raises(OSError, match=LINK):
        write_whole(theirs / "up/new", lambda file: file.write(b"x"))
    with pytest.raises(OSError, match=LINK):
        make_directories(theirs / "up/new/below")
    assert precious.read_text() == "keep"
    assert names_in(theirs.parent) == ["ours", "precious", "theirs"]
    result = runner.call("-I", LONG, "-h", theirs / "out", "--follow-symlinks", stdin=ONE)
    assert result.returncode == 0
    assert precious.read_text() != "keep"


@root_only
def test_link_is_refused_below_what_another_user_owns(theirs: Path) -> None:
    """The owner of a directory can replace the directories below it."""
    below = theirs / "below"
    below.mkdir(mode=0o755)
    (below / "out").symlink_to(theirs.parent / "precious")
    where = theirs.stat()
    if where.st_uid == 0 and where.st_mode & stat.S_ISVTX:  # only root can replace it
        assert writes_to(below / "out", keep=True)
        return
    with pytest.raises(OSError, match=LINK):
        open_output(str(below / "out"))


@root_only
def test_files_in_directories_of_others_are_written_if_no_link_leads_there(theirs: Path) -> None:
    (theirs / "old").touch()
    (theirs / "old2").touch()
    os.chown(theirs / "old2", theirs.stat().st_uid, -1)
    for name in ("new", "old", "old2", "../theirs/new2"):
        for _ in range(2):
            assert runner.call("-I", LONG, "-h", theirs / name, stdin=ONE).returncode == 0
        assert (theirs / name).read_bytes().startswith(b"\ntime: ")
    make_directories(theirs / "a/b")
    write_whole(theirs / "a/b/c", lambda file: file.write(b"x"))
    assert (theirs / "a/b/c").read_bytes() == b"x"


@pytest.mark.parametrize("there", ["/proc", "gone"])
def test_directory_that_cannot_be_made_is_an_error(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``/proc`` takes no directories, and ``gone`` is a link to nowhere."""
    monkeypatch.chdir(tmp_path)
    Path("gone").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        make_directories(f"{there}/a/b")


@root_only
def test_hard_link_that_another_user_could_have_made_is_refused(theirs: Path) -> None:
    """The kernel refuses this too where fs.protected_hardlinks is set."""
    (theirs / "out").hardlink_to(theirs.parent / "precious")
    with pytest.raises(OSError, match=HARD_LINK):
        open_output(str(theirs / "out"))
    assert (theirs.parent / "precious").read_text() == "keep"
    (theirs.parent / "ours").hardlink_to(theirs.parent / "precious")
    assert writes_to(theirs.parent / "ours")


@root_only
def test_file_of_a_third_user_is_refused(theirs: Path) -> None:
    (theirs / "out").touch()
    os.chown(theirs / "out", 12345, 12345)
    with pytest.raises(OSError, match=OTHERS):
        open_output(str(theirs / "out"))


@root_only
def test_kernel_links_of_another_users_process_are_refused() -> None:
    """They lead to wherever that process is, as /proc/PID/cwd does."""
    sleeper = subprocess.Popen(["sleep", "60"], user=NOBODY, group=NOBODY)
    try:
        process = Path(f"/proc/{sleeper.pid}")
        runner.until(lambda: process.stat().st_uid == NOBODY, "that user's process")
        for name in ("cwd/tmp/new", "root/tmp/new", "fd/1"):
            with pytest.raises(OSError, match=LINK):
                open_output(str(process / name))
    finally:
        sleeper.kill()
        sleeper.wait()


@root_only
@pytest.mark.parametrize("has_openat2", [True, False])
def test_link_that_is_made_in_the_meantime_is_not_followed(
    has_openat2: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link made between the check of a path and its opening is refused, whoever made it."""
    if not has_openat2:

        def missing(path: str, flags: int, resolve: int) -> int:
            raise NotImplementedError

        monkeypatch.setattr(links, "_openat2", missing)
    (tmp_path / "way").mkdir()
    (tmp_path / "elsewhere").mkdir()

    def look_and_replace(path: str, replaces: bool) -> tuple[str, int]:
        found = links.without_links(path, replaces)
        (tmp_path / "way").rmdir()
        (tmp_path / "way").symlink_to("elsewhere")
        return found

    monkeypatch.setattr("blkiomon.outputs.opening.without_links", look_and_replace)
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        open_output(str(tmp_path / "way/out"))
    assert not names_in(tmp_path / "elsewhere")


@root_only
@pytest.mark.parametrize("has_openat2", [True, False])
def test_directories_are_opened_without_links(
    has_openat2: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_openat2:
        monkeypatch.setattr(links, "_OPENAT2", 100_000)  # as it is before Linux 5.6
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/link").symlink_to("b")
    monkeypatch.chdir(tmp_path)
    for name in ("a/b", f"{tmp_path}/a/b", "./a/../a//b/.", str(tmp_path / "a/b") + "/"):
        fd = links.open_directory(name)
        assert os.path.samestat(os.fstat(fd), (tmp_path / "a/b").stat())
        os.close(fd)
    for name in ("a/link", "a/link/", f"{tmp_path}/a/link/..", "a/file", "a/none"):
        with pytest.raises(OSError, match=r"links|Not a directory|No such file"):
            links.open_directory(name)


@root_only
def test_output_below_a_link_of_roots_own_is_written(tmp_path: Path) -> None:
    """As /var/log/blkiomon that is a link to /data/log."""
    (tmp_path / "data/log").mkdir(parents=True)
    (tmp_path / "log").symlink_to(tmp_path / "data/log")
    (tmp_path / "data/log/latest.txt").symlink_to("of today.txt")
    options = ("-h", tmp_path / "log/latest.txt", "--textfile", tmp_path / "log/new.prom")
    assert runner.call("-I", LONG, *options, stdin=ONE).stderr == b""
    assert names_in(tmp_path / "data/log") == ["latest.txt", "new.prom", "of today.txt"]


@root_only
def test_links_in_private_directories_are_followed(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "a").symlink_to("directory/../b")
    (tmp_path / "b").symlink_to(tmp_path / "c")
    assert writes_to(tmp_path / "a")
    assert (tmp_path / "c").read_bytes() == b"text"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_output(str(tmp_path / "loop"))


def test_links_of_the_kernel_are_followed() -> None:
    names = ("-h", "/dev/stdout", "--csv", "/dev/fd/1", "--json", "/proc/self/fd/1")
    result = runner.run("-I", LONG, *names, stdin=ONE)
    assert (result.returncode, result.stderr) == (0, b"")
    for text in (b"sizes read", b"start_ns,", b'{"schema"'):
        assert result.stdout.count(text) == 1


@root_only
@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_file_or_fifo_of_another_user_is_refused(kind: str, public: Path) -> None:
    path = public / "out"
    path.touch() if kind == "file" else os.mkfifo(path)
    os.chown(path, NOBODY, NOBODY)
    complaint = f"could not write to {path}: {OTHERS}"
    runner.assert_fails(1, complaint, "-I", LONG, "-h", path, stdin=ONE)
    assert path.stat().st_size == 0
    # As in the kernel's own check, a file of the directory's owner is allowed.
    os.chown(public, NOBODY, NOBODY)
    assert writes_to(path) == (kind == "file")


@root_only
def test_our_own_file_in_a_public_directory_is_written_anew(public: Path) -> None:
    (public / "out").write_text("of the last run")
    assert runner.call("-I", LONG, "-h", public / "out", stdin=ONE).returncode == 0
    assert (public / "out").read_text().startswith("\ntime: ")


@root_only
def test_user_other_than_root_follows_links_as_the_kernel_allows(public: Path) -> None:
    programs.require_public_checkout()
    os.chown(public.parent / "precious", NOBODY, NOBODY)
    (public / "out").symlink_to(public.parent / "precious")
    os.chown(public / "out", NOBODY, NOBODY, follow_symlinks=False)
    options = ("-I", LONG, "-h", public / "out")
    result = runner.run(*options, command=runner.NOBODYS_COMMAND, stdin=ONE)
    assert (result.returncode, result.stderr) == (0, b"")
    assert (public.parent / "precious").read_text() != "keep"


@root_only
def test_replaced_files_take_the_place_of_a_link_and_not_of_its_target(public: Path) -> None:
    precious, trace = public.parent / "precious", str(public.parent / "trace")
    for name, command in {
        "out.prom": ["-I", LONG, "--textfile"],
        "out.html": ["report", trace, "-o"],
        "out.svg": ["compare", "--chart=iops", trace, trace, "-o"],
    }.items():
        path = public / name
        path.symlink_to(precious)
        result = runner.call(*command, path, stdin=ONE)
        assert result.returncode == 0, result.stderr
        assert not path.is_symlink() and path.stat().st_size > 100
        assert precious.read_text() == "keep"
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert len(names_in(public)) == 3


@root_only
def test_pages_do_not_go_through_a_link_in_a_public_directory(public: Path) -> None:
    (public.parent / "private").mkdir()
    (public / "link").symlink_to("../private")
    path, trace = public / "link/out.svg", str(public.parent / "trace")
    for command in (["report", trace], ["compare", trace, trace]):
        command += ["--chart=iops", "-o", str(path)]
        runner.assert_fails(EXIT_OUTPUT, f"cannot write {path}: link{LINK}", *command)
        assert not names_in(public.parent / "private")
        assert runner.call(*command, "--follow-symlinks").returncode == 0
        path.unlink()


@root_only
@pytest.mark.parametrize("kind", ["parts of Parquet", "archive"])
def test_no_directory_of_outputs_is_made_through_a_link_in_a_public_one(
    kind: str, public: Path
) -> None:
    private = public.parent / "private"
    private.mkdir()
    (public / "link").symlink_to("../private")
    parquet = ("-I", LONG, "--parquet", public / "link", public.parent / "trace")
    archive = ("archive", "--workers=0", "-o", public / "link/below", public.parent / "trace")
    command = archive if kind == "archive" else parquet
    result = runner.call(*command)
    assert result.returncode == EXIT_OUTPUT
    assert LINK.encode() in result.stderr and result.stderr.count(b"\n") == 1
    assert not names_in(private)
    assert runner.call(*command, "--follow-symlinks").returncode == 0
    if kind == "archive":
        assert names_in(private / "below") == [
            *("_manifest", "blkiomon.sql", "intervals", "requests")
        ]
    else:
        assert [path.suffix for path in private.iterdir()] == [".parquet"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_every_file_has_the_same_mode(umask: int, short_trace: Path, tmp_path: Path) -> None:
    names = {"-h": "h", "-b": "b", "-d": "d", "-D": "D", "--json": "json", "--csv": "csv"}
    names |= {"--parquet": "parquet", "--textfile": "prom"}
    options = [part for option, name in names.items() for part in (option, tmp_path / name)]
    (tmp_path / "parts").mkdir()
    more = ("--parquet", tmp_path / "parts")
    page = ("report", "--chart=iops", "-o", tmp_path / "page.svg", short_trace)
    old = os.umask(umask)
    try:
        assert runner.call("-I", LONG, *options, stdin=ONE).returncode == 0
        assert runner.call("-I", LONG, *more, stdin=ONE).returncode == 0
        assert runner.call(*page).returncode == 0
    finally:
        os.umask(old)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(names) + 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644 & ~umask}


SLOW = """
import os, sys, time
from blkiomon.commands import cli
from blkiomon.commands.report import written
real = written.write_whole

def write_pages(path, write, *options):
    def write_slowly(file):
        write(file)
        file.flush()
        time.sleep(60)
    children = []
    for page in pages:
        children.append(os.fork())
        if not children[-1]:
            return real(page, write_slowly, *options)
    print(*children, flush=True)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))

written.write_whole = write_pages
trace, *pages = sys.argv[1:]
sys.exit(cli.main(["report", "-o", pages[0], trace]))
"""
"""The command draws one page. In its midst, a process for each path writes the page slowly."""


def test_signal_while_a_page_is_written_leaves_nothing_behind(
    short_trace: Path, tmp_path: Path
) -> None:
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    directories = [tmp_path / number.name for number in signals]
    for directory in directories:
        directory.mkdir()

    def are_being_written() -> bool:
        sizes = [[path.stat().st_size for path in directory.iterdir()] for directory in directories]
        return all(map(any, sizes))

    pages = [directory / "page.html" for directory in directories]
    with Running(short_trace, *pages, command=[sys.executable, "-c", SLOW]) as process:
        runner.until(are_being_written, "the pages")
        children = process.read_count(b"\n", 1).split()
        for child, number in zip(children, signals, strict=True):
            os.kill(int(child), number)
        out = process.succeed()
    assert out.splitlines()[1].split() == [str(-number).encode() for number in signals]
    assert [names_in(directory) for directory in directories] == [[]] * len(signals)
