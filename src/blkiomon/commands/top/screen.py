"""The screen as an output, with a queue like all outputs, and a thread that draws.

The thread of the queue adds up intervals. The screen's thread draws when there is something new,
and waits for keys and for a slow terminal, for which it skips screens, but never intervals.
"""

from __future__ import annotations

import os
import select
import signal
import termios
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from blkiomon.commands.config import Config
from blkiomon.commands.table import speaks_utf8
from blkiomon.commands.top.frame import About, lines
from blkiomon.commands.top.look import Look, Shown, keys_of
from blkiomon.commands.top.rows import Views
from blkiomon.commands.top.watch import Watch, paused
from blkiomon.console import complain, divert, how_many
from blkiomon.errors import OutputError
from blkiomon.interval.slow import SlowBatch
from blkiomon.interval.value import Interval
from blkiomon.interval.views import View
from blkiomon.outputs.sink import Item, Report, Sink
from blkiomon.sources.capture import numbers_of

TICK_S = 0.2
"""How often to check whether the terminal was resized, or an interval is overdue."""

STEP_S = 0.05
"""How often a longer wait checks whether it was cancelled."""

LEAVE_S = 1.0
"""At the end, a terminal that takes no output for so long is given up."""

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
"""Alternate screen, no cursor, no line wrapping; and back."""

_CANCEL = "\x18"  # cancels an escape sequence


class Terminal:
    """The terminal of standard output: single keys, and the alternate screen.

    Raises:
        OSError: standard output is not a terminal.
    """

    def __init__(self) -> None:
        # Opened anew: O_NONBLOCK is then not set for processes that share standard output.
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self.fd = os.open(os.ttyname(1), flags)
        except OSError:  # of another user, after su
            self.fd = os.open("/dev/tty", flags)
        self._lock = threading.Lock()  # guards what follows
        try:
            self._old = termios.tcgetattr(self.fd)
        except termios.error as error:
            raise OSError(*error.args) from error
        self._is_entered = False
        self._rest = b""

    def enter(self) -> None:
        """Switch to the alternate screen and to single keys."""
        global _entered
        new = termios.tcgetattr(self.fd)
        new[0] &= ~termios.IXON
        new[3] &= ~(termios.ICANON | termios.ECHO)
        # ^C ends the run by a signal, as usual. ^Z is off: a stopped run would lose records.
        new[6][termios.VSUSP] = b"\0"
        new[6][termios.VMIN], new[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.fd, termios.TCSANOW, new)
        self._is_entered = True
        _entered = self
        with suppress(OSError):  # drawing will fail, too
            self._write(_ENTER)

    def leave(self) -> None:
        """Restore the terminal; waits for ``LEAVE_S`` at most. Does nothing the second time."""
        with self._lock:
            if not self._is_entered:
                return
            self._is_entered = False
            with suppress(OSError, termios.error):
                if self._rest:
                    termios.tcflush(self.fd, termios.TCOFLUSH)
                self._write(_CANCEL * bool(self._rest) + _LEAVE)
            with suppress(termios.error):
                termios.tcsetattr(self.fd, termios.TCSANOW, self._old)

    def draw(self, shown: Iterable[str]) -> None:
        """Show lines that fill the screen; ``flush`` writes what the terminal did not take.

        Raises:
            OSError: the terminal is gone.
        """
        text = "\r\n".join(f"\x1b[K{line}" for line in shown)
        self._rest = f"\x1b[H{text}".encode(errors="replace")
        self.flush()

    def flush(self) -> None:
        """Write as much as the terminal takes now. Raises OSError: it is gone."""
        with self._lock, suppress(BlockingIOError):
            while self._rest and self._is_entered:
                self._rest = self._rest[os.write(self.fd, self._rest) :]

    @property
    def is_behind(self) -> bool:
        """Whether the terminal has not yet taken all that was drawn."""
        return bool(self._rest)

    def typed(self) -> list[str]:
        """The keys that were typed since the last call, see ``keys_of``.

        Raises:
            OSError: the terminal is gone.
        """
        try:
            data = os.read(self.fd, 64)
        except BlockingIOError:
            return []
        if not data:
            raise OSError(0, "the terminal has been hung up")
        return keys_of(data.decode(errors="ignore"))

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines; 80 and 24 if the terminal does not say."""
        columns, rows = os.get_terminal_size(self.fd)
        return columns or 80, rows or 24

    def _write(self, text: str) -> None:
        """Write all of a text; gives up after ``LEAVE_S`` without progress. Raises OSError."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        rest = text.encode()
        while rest and poll.poll(LEAVE_S * 1000):
            rest = rest[os.write(self.fd, rest) :]


_entered: Terminal | None = None
_MAIN = threading.main_thread().ident or 0


def leave_terminal() -> None:
    """Restore the terminal after any error."""
    if _entered is not None:
        divert(None)
        _entered.leave()


class ScreenSink(Sink):
    """Draws intervals on the terminal.

    Args:
        terminal: to draw on, not yet entered.
        about: the source and the terminal.
        devices: numbers of the devices that are always shown.
        look: how it begins.
        speed: factor by which a recorded trace is replayed faster than real time; 0: no waiting.
        report, options: as for ``Sink``.
    """

    def __init__(
        self,
        terminal: Terminal,
        about: About,
        devices: Iterable[int],
        look: Look,
        speed: float,
        report: Report,
        **options: Any,
    ) -> None:
        super().__init__("the screen", report, **options)
        self._terminal = terminal
        self._about = about
        self._speed = speed
        self._is_over = False  # no lock: a signal handler sets it, too
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._screen = threading.Thread(target=self._run_screen, name="screen", daemon=True)
        self._due_s = time.monotonic()
        self._guard = threading.Lock()  # guards what follows
        self._watch = Watch(devices)
        self._added_s = time.monotonic()
        self._added = self._drawing = self._drawn = self._undrawn = 0  # intervals
        self._messages: list[str] = []
        self._has_left = False
        # From here on, only for the screen's thread.
        self._look = look
        self._shown = Shown()
        self._state = self._watch.state()

    def takes(self, item: Item) -> bool:
        return isinstance(item, Interval | SlowBatch)

    def start(self) -> None:
        self._terminal.enter()
        divert(self._hear)
        self._screen.start()
        super().start()

    def take_as_recorded(self) -> None:
        super().take_as_recorded()
        self._about = replace(self._about, is_live=False)

    def stop_waiting(self) -> None:
        super().stop_waiting()
        self._end()

    # --- the thread of the queue ------------------------------------------------------------------

    def _deliver(self, item: Item) -> None:
        if isinstance(item, SlowBatch):
            with self._guard:
                self._watch.add_slow(item)
            return
        assert isinstance(item, Interval)
        if not self._about.is_live and self._speed:
            self._await_turn(item.duration_s / self._speed)
        with self._guard:
            if self._about.is_live and self._drawn < self._added and not self._look.is_paused:
                self._undrawn += 1
            self._watch.add(item)
            self._added += 1
            self._added_s = time.monotonic()
        self._progressed()
        self._wake()

    def _await_turn(self, wait_s: float) -> None:
        """Wait until an interval of a recorded trace is due; a pause delays it."""
        # After a delay, the following intervals do not catch up.
        self._due_s = max(self._due_s + wait_s, time.monotonic())
        while not (self._is_over or self._give_up.is_set()):
            now_s = time.monotonic()
            if self._look.is_paused:
                self._due_s = max(self._due_s, now_s + TICK_S)
            if self._due_s <= now_s:
                return
            time.sleep(min(self._due_s - now_s, STEP_S))
            self._progressed()

    def _finish(self) -> None:
        with self._guard:
            self._watch.has_ended = True
            self._added += 1
        self._wake()
        while not (self._is_over or self._give_up.is_set()):
            time.sleep(STEP_S)
            self._progressed()  # the user still looks at the screen

    def _release(self) -> None:
        self._end()
        self._screen.join(LEAVE_S)
        self._leave()

    # --- any thread -------------------------------------------------------------------------------

    def _end(self) -> None:
        """Stop drawing. Takes no lock, for a signal handler."""
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_write(self._wake_fd, 1)

    def _hear(self, message: str) -> None:
        """Take a message, which standard error would print over the screen."""
        with self._guard:
            if not self._has_left:
                self._messages.append(message)
                return
        complain(message)

    def _leave(self) -> None:
        """Restore the terminal, and print the messages that only the screen has shown."""
        self._terminal.leave()
        with self._guard:
            if self._has_left:
                return
            self._has_left = True
            divert(None)
        for message in self._messages:
            complain(message)

    # --- the screen's thread ----------------------------------------------------------------------

    def _run_screen(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        shown: object = None
        try:
            while not self._is_over:
                now = self._draw_key()
                if now != shown and not self._terminal.is_behind:
                    self._draw()
                    shown = now
                if not self._take_input():
                    return
        except OSError:
            pass  # the terminal is gone; SIGHUP ends the run
        except BaseException:
            self.failed = True
            self._leave()
            traceback.print_exc()  # now: the process is about to end
        finally:
            self._leave()
            if not self._is_over:
                # Interrupts any wait; to the main thread, as others may block the signal.
                signal.pthread_kill(_MAIN, signal.SIGINT)
                self._end()  # last: once it is over, the run may end and handle no signal

    def _draw_key(self) -> object:
        """What the screen depends on: it is drawn again if this changes."""
        with self._guard:
            return (
                self._added,
                self._look,
                self._terminal.size,
                len(self._messages),
                self._overdue_s(),
            )

    def _overdue_s(self) -> int:
        """Seconds by which an interval is late; 0 if it is less than 2."""
        if not self._about.is_live or self._watch.has_ended:
            return 0
        late_s = time.monotonic() - self._added_s - self._about.interval_s
        return int(late_s) if late_s >= 2 else 0

    def _draw(self) -> None:
        with self._guard:
            notes = list(self._messages)
            if self._undrawn:
                undrawn = how_many(self._undrawn, "interval was", "intervals were", ",")
                slow = f"this terminal is slower than -I {self._about.interval_s:g}"
                notes.append(f"{undrawn} counted but not drawn: {slow}")
            if overdue_s := self._overdue_s():
                notes.append(f"NO NEW INTERVAL: the next is {overdue_s} s late")
            if self.dropped_intervals:
                missing = how_many(self.dropped_intervals, "interval was", "intervals were", ",")
                notes.append(f"{missing} dropped: the queue of the screen was full")
            state = self._watch.state(whole=self._look.is_whole)
            self._drawing = self._added
        if self._look.is_paused:
            state = paused(self._state, state)
        self._state = state
        columns, rows = self._terminal.size
        look = self._look
        text, self._shown = lines(state, look, self._about, columns, rows, notes)
        self._terminal.draw(text)

    def _take_input(self) -> bool:
        """Wait for a key or a change; returns whether to go on."""
        poll = select.poll()
        is_behind = self._terminal.is_behind
        poll.register(self._terminal.fd, select.POLLIN | select.POLLOUT * is_behind)
        poll.register(self._wake_fd, select.POLLIN)
        ready = dict(poll.poll(TICK_S * 1000))
        if self._wake_fd in ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
        event = ready.get(self._terminal.fd, 0)
        if event & select.POLLOUT:
            self._terminal.flush()
        if not self._terminal.is_behind:
            self._drawn = self._drawing
        if event & ~select.POLLOUT:
            for key in self._terminal.typed():
                if key in ("q", "Q") and not self._look.is_typing:
                    return False
                has_tree = self._about.views.topology is not None
                self._look = self._look.after(key, self._shown, has_tree=has_tree)
        return True


def open_screen(
    config: Config,
    name_of: Callable[[int], str | None],
    report: Report,
    *,
    lossless: bool,
    verbose: bool,
    view: View | None = None,
) -> ScreenSink:
    """The screen of a run.

    Raises:
        OutputError: the terminal cannot be used.
    """
    is_live = not lossless
    source = " ".join(dict.fromkeys(config.trace or config.files))
    if source in ("", "-"):
        source = "standard input"
    if not is_live and config.speed:
        source += f"  x{config.speed:g}"
    if config.selection.ops:
        source += f"  only {', '.join(config.selection.ops)}"
    traced = config.selection.only(numbers_of(config.trace))
    about = About(
        source=source,
        interval_s=config.interval_s,
        is_live=is_live,
        name_of=name_of,
        is_plain=not speaks_utf8(),
        views=Views(view, traced),
    )
    look = Look(is_whole=not is_live and not config.speed, by=config.by)
    try:
        terminal = Terminal()
    except OSError as error:
        raise OutputError(f"cannot use this terminal: {error.strerror}") from error
    return ScreenSink(
        terminal, about, traced, look, config.speed, report, lossless=lossless, verbose=verbose
    )
