"""The base of all outputs: a bounded queue, and a thread that delivers from it.

Reading a live trace never waits for an output. If the queue is full, the item is dropped, counted
and reported.
"""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from blkiomon.console import AFTER_SIGNAL_S
from blkiomon.formats.debug import Final
from blkiomon.formats.driver_data import DriverData
from blkiomon.interval.slow import SlowBatch
from blkiomon.interval.value import Interval
from blkiomon.outputs.opening import DEFAULT, Policy

if TYPE_CHECKING:
    import numpy.typing as npt

Item: TypeAlias = "Interval | npt.NDArray[np.void] | DriverData | SlowBatch | Final"
"""An item that a sink delivers. The array holds mismatches, dtype ``layout.MISMATCH``."""

Report = Callable[[str], None]
"""Prints one line for the user, after the program's name. Called by any thread."""

MAX_INTERVALS = 64
MAX_RECORD_BYTES = 16 << 20
"""Bounds of one queue: intervals, and bytes of driver data, mismatches and slow requests."""

POLL_S = 0.2
"""Time between two attempts to find a destination that does not exist yet."""

CLOSE_S = 5.0
"""At the end of a live trace, a destination that accepts nothing for so long is given up."""

T = TypeVar("T")


class Reopen:
    """In a queue: items before it go to the old file, items after it to the new one."""


class Undelivered(Exception):
    """This item could not be delivered; the next one may be."""


class Sink(ABC):
    """A destination: its thread delivers the items that are put, in order.

    Args:
        name: of the destination in messages.
        report: prints failures for the user.
        policy: which files outputs may write to.
        lossless: ``put`` waits for room instead of dropping.
        verbose: also report if it waits for its destination.
        max_intervals, max_record_bytes: bounds of the queue.

    Attributes:
        failed: delivery failed; the exit status must not be 0.
        is_reader_gone: its reader has closed it, which is not a failure.
        dropped_intervals: intervals that were not delivered completely.
        dropped_records: mismatches, leftovers, driver records and slow requests that were not
            delivered; the totals count as one.
    """

    def __init__(
        self,
        name: str,
        report: Report,
        *,
        policy: Policy = DEFAULT,
        lossless: bool = False,
        verbose: bool = False,
        max_intervals: int = MAX_INTERVALS,
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self.name = name
        self.failed = False
        self.is_reader_gone = False
        self.dropped_intervals = 0
        self.dropped_records = 0
        self._report = report
        self._policy = policy
        self._lossless = lossless
        self._is_live = not lossless
        self._is_stopping = False
        self._verbose = verbose
        self._max_intervals = max_intervals
        self._max_record_bytes = max_record_bytes
        self._changed = threading.Condition()  # guards the attributes from _queue to _finished
        self._queue: deque[Item | Reopen] = deque()
        self._intervals = 0
        self._record_bytes = 0
        self._current: Item | Reopen | None = None
        self._finished = False
        self._progress_s = time.monotonic()  # when the destination last accepted anything
        self._is_rendering = False  # the thread renders: the destination is not slow
        self._closing = threading.Event()  # nothing more will be put
        self._give_up = threading.Event()  # deliver nothing more
        # A daemon: a write that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"output {name}", daemon=True)

    # --- the caller's side -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether the sink has given up or was closed: it delivers nothing more."""
        return self._finished

    def takes(self, item: Item) -> bool:
        """Whether this destination takes items of this type; most take intervals alone."""
        return isinstance(item, Interval)

    def put(self, item: Item) -> None:
        """Queue an item that the sink takes; waits only if the sink is lossless."""
        if not self.takes(item):
            return
        with self._changed:
            while self._lossless and not self._finished and not self._has_room(item):
                self._changed.wait(0.1)  # so that stop_waiting() needs no lock
            # If put() was waiting, stop_waiting() lets this item exceed the bound.
            is_full = self._is_live and not self._has_room(item)
            if self._finished or self._closing.is_set() or is_full:
                self._count_dropped(item)
                return
            self._weigh(item, 1)
            self._queue.append(item)
            self._changed.notify_all()

    def take_as_recorded(self) -> None:
        """Be lossless from now on: the trace turned out to have been recorded."""
        self._lossless = True
        self._is_live = False

    def stop_waiting(self) -> None:
        """End the waits of put() and close(): the run ends. Safe in a signal handler: no lock."""
        self._lossless = False
        self._is_stopping = True

    def reopen(self) -> None:
        """Deliver what is queued; then reopen the file, if it has been moved away."""
        with self._changed:
            if not self._queue or not isinstance(self._queue[-1], Reopen):
                self._queue.append(Reopen())
                self._changed.notify_all()

    def begin_close(self) -> None:
        """Announce that nothing more will be put; returns at once."""
        if not self._closing.is_set():
            self._progress_s = time.monotonic()
            self._closing.set()
        with self._changed:
            self._changed.notify_all()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Deliver what is queued; gives up if the destination accepts nothing for too long.

        Rendering does not count as waiting: an interval of many devices takes a while. A
        destination that does not exist yet (no queue, no reader) is not waited for.

        Args:
            timeout_s: limit of the wait. A lossless sink waits without a limit until
                ``stop_waiting``; after that, any sink waits ``AFTER_SIGNAL_S`` at most.
        """
        self.begin_close()
        while self._thread.is_alive():
            left_s = self._left_s(timeout_s)
            if left_s > 0:
                self._thread.join(min(left_s, POLL_S))  # a signal may change the limit
                continue
            self._give_up.set()
            self._thread.join(0.05)  # ends now, unless it is stuck in a call
            if self._thread.is_alive() and self._current is None:
                self.failed = True  # while writing the end
                self._report(f"{self.name} did not take its last bytes")
            break
        self._drop_rest()

    def _left_s(self, timeout_s: float) -> float:
        """Seconds until the destination is given up, unless it accepts something."""
        if self._is_stopping:
            timeout_s = min(timeout_s, AFTER_SIGNAL_S)
        if self._is_rendering or self._lossless:
            return timeout_s
        return self._progress_s + timeout_s - time.monotonic()

    # --- the thread's side -----------------------------------------------------------------------

    def _connect(self) -> None:  # noqa: B027
        """Find the destination before there is anything to deliver."""

    def _reopen(self) -> None:  # noqa: B027
        """Continue in the file that now has the name. Raises as ``_deliver``."""

    @abstractmethod
    def _deliver(self, item: Item) -> None:
        """Deliver one item.

        Raises:
            Undelivered: this item could not be delivered.
            OSError: the destination cannot be used any more.
        """

    def _finish(self) -> None:  # noqa: B027
        """Deliver the end of the output, after all items.

        Raises:
            Undelivered, OSError: as ``_deliver``.
        """

    def _release(self) -> None:  # noqa: B027
        """Close the destination, as the thread ends."""

    def _run(self) -> None:
        # Signals must interrupt the poll of the main thread, not this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with suppress(Undelivered):  # closed before it existed
                self._connect()
            while (item := self._next()) is not None:
                try:
                    if isinstance(item, Reopen):
                        self._reopen()
                    else:
                        self._deliver(item)
                except Undelivered:
                    with self._changed:
                        self._drop_current()
            with suppress(Undelivered):  # what was dropped has been counted
                self._finish()
        except OSError as error:
            self._complain(error, "nothing more is written there")
        except MemoryError:
            self.failed = True
            self._report(f"out of memory: nothing more is written to {self.name}")
        except BaseException:
            self.failed = True
            raise
        finally:
            self._drop_rest()
            self._release()

    def _next(self) -> Item | Reopen | None:
        """The next item, or None at the end."""
        with self._changed:
            self._current = None
            self._changed.wait_for(lambda: self._queue or self._closing.is_set())
            if not self._queue:
                return None
            self._current = self._queue.popleft()
            self._weigh(self._current, -1)
            self._changed.notify_all()
            return self._current

    def _progressed(self) -> None:
        self._progress_s = time.monotonic()

    @contextmanager
    def _rendering(self) -> Iterator[None]:
        """While entered, the thread renders, and the destination does not count as slow."""
        self._is_rendering = True
        try:
            yield
        finally:
            self._progressed()
            self._is_rendering = False

    def _pause(self, seconds: float) -> None:
        """Sleep. Raises Undelivered if the destination is given up."""
        if self._give_up.wait(seconds):
            raise Undelivered

    def _until_there(self, attempt: Callable[[], T | None], what: str) -> T:
        """Call ``attempt`` until it finds something; ``what`` names that in a message.

        Raises:
            Undelivered: the sink closes, and is not lossless.
        """
        has_reported = not self._verbose
        while (found := attempt()) is None:
            if not has_reported:
                self._report(f"waiting for {what}")
                has_reported = True
            if not self._closing.wait(POLL_S):
                continue
            if not self._lossless:
                raise Undelivered
            self._progressed()  # so that close() waits as well
            self._pause(POLL_S)
        return found

    def _complain(self, error: OSError, consequence: str) -> None:
        self.failed = True
        self._report(f"cannot write to {self.name}: {error.strerror} ({consequence})")

    # --- accounting, always with the lock held ---------------------------------------------------

    def _has_room(self, item: Item) -> bool:
        if isinstance(item, Interval):
            return self._intervals < self._max_intervals
        # An item larger than the bound passes alone; the end of a run always passes.
        return (
            isinstance(item, Final)
            or not self._record_bytes
            or self._record_bytes + _record_bytes(item) <= self._max_record_bytes
        )

    def _weigh(self, item: Item | Reopen, sign: int) -> None:
        if isinstance(item, Interval):
            self._intervals += sign
        else:
            self._record_bytes += sign * _record_bytes(item)

    def _count_dropped(self, item: Item | Reopen) -> None:
        if self.is_reader_gone:
            return
        if isinstance(item, Interval):
            self.dropped_intervals += 1
        elif isinstance(item, Final):
            self.dropped_records += len(item.leftovers) + 1
        elif isinstance(item, DriverData):
            self.dropped_records += item.records
        elif isinstance(item, SlowBatch):
            self.dropped_records += len(item.requests) + item.left_out
        elif isinstance(item, np.ndarray):
            self.dropped_records += len(item)

    def _drop_current(self) -> None:
        # None if close() has already dropped it: it is counted once.
        if self._current is not None:
            self._count_dropped(self._current)
            self._current = None

    def _drop_rest(self) -> None:
        with self._changed:
            self._finished = True
            self._drop_current()
            while self._queue:
                self._count_dropped(self._queue.popleft())
            self._changed.notify_all()


def _record_bytes(item: Item | Reopen) -> int:
    if isinstance(item, DriverData):
        return len(item.data)
    if isinstance(item, SlowBatch):
        return item.requests.nbytes
    return item.nbytes if isinstance(item, np.ndarray) else 0
