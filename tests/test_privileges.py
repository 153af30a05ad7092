"""``--user``: root's privileges are dropped in every thread, once all outputs are open."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import runner
from quirks import ONE
from runner import NOBODY, Running, until
from test_full_disk import sizes

from blkiomon.commands.privileges import PrivilegeError, User, drop, find_user

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def directory() -> Iterator[Path]:
    with runner.shared_directory() as path:
        yield path


def of_all_threads(pid: int, field: str) -> set[str]:
    """A line of the status of every thread."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        (line,) = re.findall(rf"^{field}:\s*(.*?)\s*$", (task / "status").read_text(), re.MULTILINE)
        found.add(line)
    return found


@root_only
def test_all_threads_change_user_before_the_first_byte_is_read(tmp_path: Path) -> None:
    programs.require_public_checkout()
    options = ("-I", "0.1", "-b", tmp_path / "out.bin", "--json", "-", "--openmetrics", "0")
    with Running(*options, "--user", f"{NOBODY}:{NOBODY}").started() as process:
        pid = process.process.pid
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) >= 4  # one for each output
        for field in ("Uid", "Gid"):
            assert of_all_threads(pid, field) == {"\t".join([str(NOBODY)] * 4)}
        assert of_all_threads(pid, "Groups") <= {"", str(NOBODY)}
        for field in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert of_all_threads(pid, field) == {"0" * 16}
        assert of_all_threads(pid, "NoNewPrivs") == {"1"}
        process.write(ONE)
        until(lambda: sizes(tmp_path / "out.bin") == [1], "an interval")
        assert process.end()[0] == 0
    assert (tmp_path / "out.bin").stat().st_uid == 0  # opened before


@root_only
def test_file_is_reopened_as_the_user(directory: Path) -> None:
    theirs, ours = directory / "theirs", directory / "ours"
    for path, uid in ((theirs, NOBODY), (ours, 0)):
        path.mkdir()
        os.chown(path, uid, uid)
    a, b = theirs / "a.bin", ours / "b.bin"
    with Running("-I", "0.1", "-b", a, "--csv", b, "--user", "nobody").started() as process:
        a.rename(theirs / "old")
        b.rename(ours / "old")
        process.signal(signal.SIGHUP)
        until(lambda: a.exists() and process.stderr, "the new file, and a complaint")
        process.write(ONE)
        until(lambda: sizes(a) == [1], "an interval")
        assert process.end()[0] == 4
        assert process.stderr == (
            f"blkiomon: cannot write to {b}: Permission denied (it continues in the old file)\n"
        )
    assert a.stat().st_uid == NOBODY
    assert not b.exists()
    assert b"all" in (ours / "old").read_bytes()


@root_only
def test_file_that_was_not_moved_needs_no_right_to_be_reopened(directory: Path) -> None:
    moved, stays = directory / "moved.bin", directory / "stays.bin"
    os.chown(directory, NOBODY, NOBODY)
    with Running("-I", "0.1", "-b", moved, "--json", stays, "--user", "nobody").started() as run:
        moved.rename(directory / "old")
        run.signal(signal.SIGHUP)
        until(moved.exists, "the new file")
        run.write(ONE)
        until(lambda: sizes(moved) == [1], "an interval")
        assert run.end()[::2] == (0, "")
    assert b'"total":{"requests":1,' in stays.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this host has no user ''"),
        ("no such user", "this host has no user 'no such user'"),
        ("\udcff\udcfe", "this host has no user"),
        ("x" * 100_000, "this host has no user"),
        ("-1", "this host has no user '-1'"),
        ("9" * 30, "this host has no user"),
        ("4294967295:1", "this host has no user '4294967295'"),
        ("nobody:", "this host has no group ''"),
        ("nobody:no such group", "this host has no group 'no such group'"),
        ("nobody:-1", "this host has no group '-1'"),
        ("root", "root would keep its privileges; choose another user"),
        ("0:1", "root would keep its privileges; choose another user"),
    ],
    ids=range(12),
)
def test_unusable_user_is_refused(text: str, said: str) -> None:
    with pytest.raises(PrivilegeError, match=re.escape(said)):
        find_user(text)
    if "\udcff" not in text and len(text) < 1000:
        result = runner.call("-I", "1", "--user", text)
        assert (result.returncode, result.stdout) == (2, b"")
        assert result.stderr.startswith(b"blkiomon: --user takes NAME or NAME:GROUP: ")


def test_user_by_name_and_by_numbers() -> None:
    nobody = find_user("nobody")
    assert nobody.uid == find_user(str(nobody.uid)).uid == NOBODY
    assert find_user(f"nobody:{nobody.gid}").gid == nobody.gid
    assert find_user("nobody:daemon").groups == (find_user("nobody:daemon").gid,)
    assert find_user("4000000000:4000000001") == User(4000000000, 4000000001, (4000000001,))


@root_only
def test_user_option_needs_root() -> None:
    result = runner.run("-I", "1", "--user", "nobody", command=runner.NOBODYS_COMMAND)
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr == b"blkiomon: --user needs root, whose privileges it drops\n"


@root_only
def test_capabilities_that_the_kernel_keeps_are_noticed() -> None:
    """With PR_SET_KEEPCAPS, a change of user drops no capability."""
    code = """
import ctypes
from blkiomon.commands.privileges import *
forbid_new_privileges()
ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
try:
    drop(find_user("nobody"))
except PrivilegeError as error:
    print(error)
"""
    done = runner.python(code)
    assert b"the kernel has kept a way back" in done.stdout


THREADS = """
import sys, threading
from blkiomon.commands.privileges import *
before, done = "before" in sys.argv, threading.Event()
thread = threading.Thread(target=done.wait)
if before:
    thread.start()
forbid_new_privileges()
if not before:
    thread.start()
try:
    drop(find_user("nobody"))
except PrivilegeError as error:
    print(error)
done.set()
"""


@root_only
def test_thread_started_before_the_bounding_set_is_emptied_is_noticed() -> None:
    """Each thread has a bounding set of its own."""
    for when, said in (("before", b"user 65534 could become root again"), ("after", b"")):
        done = runner.python(THREADS, when)
        assert done.stdout.startswith(said) and bool(done.stdout) == bool(said)
        assert done.returncode == 0


@root_only
def test_bounding_set_that_cannot_be_emptied_ends_the_run() -> None:
    command = ("setpriv", "--bounding-set", "-setpcap", *runner.COMMAND)
    result = runner.run("-I", "1", "--user", "nobody", command=command, stdin=ONE)
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr == (
        b"blkiomon: cannot empty the capability bounding set, which takes CAP_SETPCAP: "
        b"Operation not permitted\n"
    )


@root_only
def test_setuid_program_does_not_regain_root(directory: Path) -> None:
    program = directory / "id"
    shutil.copy(shutil.which("id") or "", program)
    program.chmod(0o4755)
    code = f"""
import subprocess
from blkiomon.commands.privileges import *
forbid_new_privileges()
drop(find_user("nobody"))
subprocess.run([{str(program)!r}, "-u"])
"""
    assert runner.python(code).stdout == f"{NOBODY}\n".encode()


def test_user_cannot_be_changed_without_root() -> None:
    if os.geteuid() == 0:
        code = (
            "from blkiomon.commands.privileges import *; user = find_user('nobody');"
            "forbid_new_privileges(); drop(user); print('dropped', flush=True); drop(user)"
        )
        done = runner.python(code)
        assert done.stdout == b"dropped\n"
        assert b"PrivilegeError: cannot become user" in done.stderr
    else:
        with pytest.raises(PrivilegeError, match="cannot become user"):
            drop(find_user("nobody"))
