"""A real terminal for tests: a shell in tmux, with a server of its own."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import programs
import runner

PAUSE_S = 0.03
"""Between two captures of the screen, each of which starts a process."""


class Tmux:
    """A terminal that exists while this is entered.

    Args:
        directory: for its socket, and the shell's current one.
        columns, rows: its size.
    """

    def __init__(self, directory: Path, columns: int, rows: int) -> None:
        programs.require("tmux")
        self._directory = directory
        self._size = columns, rows

    def __enter__(self) -> Tmux:
        columns, rows = map(str, self._size)
        shell = "env PS1='$ ' LC_ALL=C.UTF-8 TZ=UTC sh"
        self._do(
            "-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", rows,
            "-c", str(self._directory), shell,
        )  # fmt: skip
        try:
            self.until("$")
            self.modes = self._modes()
        except BaseException:
            self._do("kill-server")
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._do("kill-server")

    def run(self, *arguments: str | Path, python: str = "", stdin: str = "/dev/tty") -> None:
        """Run the command, or Python code, in the shell; ``pid`` is that of the process."""
        what = ["-c", python] if python else ["-m", "blkiomon"]
        words = shlex.join([sys.executable, *what, *map(str, arguments)])
        script = self._directory / "script"
        (self._directory / "pid").unlink(missing_ok=True)
        script.write_text(f"clear\necho $$ >pid.new; mv pid.new pid\nexec {words} <{stdin}\n")
        self.type("sh script; echo status $?", "Enter")

    @property
    def pid(self) -> int:
        """Of the process that ``run`` started."""
        path = self._directory / "pid"
        runner.until(path.exists, "the command to start")
        return int(path.read_text())

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names for them."""
        self._do("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the terminal's size."""
        self._do("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        """The text on the screen."""
        return self._do("capture-pane", "-p")

    def until(self, *texts: str, gone: str = "") -> str:
        """The screen, as soon as it shows all of these texts and not ``gone``."""

        def found() -> str | None:
            screen = self.screen()
            is_there = all(text in screen for text in texts)
            return screen if is_there and not (gone and gone in screen) else None

        try:
            return runner.until(found, f"{texts}", pause_s=PAUSE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.screen()}") from None

    def leave(self, key: str = "q") -> str:
        """End the command by a key: it succeeds, and restores the terminal. Returns the screen."""
        self.type(key)
        screen = self.until("status 0")
        self.assert_clean()
        return screen

    def assert_clean(self) -> None:
        """Screen, cursor, wrapping and modes are as they were before the command."""
        flags = "#{alternate_on} #{cursor_flag} #{wrap_flag}"
        assert self._do("display-message", "-p", flags).split() == ["0", "1", "1"]
        assert self._modes() == self.modes

    def _modes(self) -> str:
        terminal = self._do("display-message", "-p", "#{pane_tty}").strip()
        with open(terminal) as file:
            return subprocess.run(
                ["stty", "-g"], stdin=file, capture_output=True, text=True, check=True
            ).stdout

    def _do(self, *command: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._directory / "tmux", *command],
            capture_output=True,
            text=True,
            timeout=runner.TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
