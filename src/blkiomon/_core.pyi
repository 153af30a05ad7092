"""The engine: trace bytes in, figures of completed requests out."""

from collections.abc import Iterable
from typing import Any, final

import numpy as np
import numpy.typing as npt
from _typeshed import ReadableBuffer

from blkiomon.engine.snapshot import Snapshot

@final
class Engine:
    """Decodes block-trace records, pairs issues with completions and accounts the requests.

    For one thread at a time: a method that is called while another thread is inside one raises
    RuntimeError. ``feed`` and ``snapshot`` release the GIL while they work.

    Args:
        max_pending: most pending records, 1 to 2^32. (There is room for about 2 * 10^9.) An issue
            is pending until its completion is read, a completion until its issue is. At the limit,
            at least the oldest eighth is evicted: all records up to a time that is exact to 1/8192
            of the age of the oldest. While seven eighths of the limit or more are pending, a
            completion without an issue counts as evicted at once.
        max_age_ns: greatest age of a pending record, in ns of trace time before the latest record.
            An issue and a completion further apart never match. Older records are evicted every
            2^20 records, at every snapshot and at the end.
        keep_details: keep pending records in full, for ``take_mismatches`` and ``leftovers``.
            This costs 64 bytes a pending record.
        keep_driver_data: collect driver data, for ``take_driver_data``.
        keep_records: collect all records, for ``take_records``.
        records_only: collect all records, and pair none: requests and devices have no figures.
        keep_requests: collect matched requests, for ``take_requests``. This keeps a few pending
            records in full.
        keep_slow: collect slow requests, for ``take_slow`` and ``take_hanging``; see
            ``set_slow_ns``. This keeps a few pending records in full.
        as_original: pair exactly as blkiomon 0.3 does. Requeues, partial completions and zone
            appends get no special treatment. Requests in flight, queue times and processes are
            not counted: ``Snapshot.loads``, ``Snapshot.retry_rows``, ``Snapshot.queue_rows`` and
            ``Snapshot.processes`` are empty.
        resync: after garbage, go on at the next plausible record instead of failing.
        devices: major:minor numbers; records of other devices are counted in ``records`` and
            otherwise ignored. Empty: every device counts.
        from_ns: records before this trace time are ignored in the same way. ``take_records`` and
            ``first_ns`` include ignored records.
        max_devices: most devices known at a time, 1 to 2^22-1. Records of further devices are
            counted as ``over_device_limit`` and otherwise ignored. If more than half as many are
            known at a snapshot, idle ones are forgotten: those without a request since the last
            snapshot and with nothing pending. Those that ``devices`` names always count.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        max_pending: int = 1_000_000,
        max_age_ns: int = 600_000_000_000,
        keep_details: bool = False,
        keep_driver_data: bool = False,
        keep_records: bool = False,
        records_only: bool = False,
        keep_requests: bool = False,
        keep_slow: bool = False,
        as_original: bool = False,
        resync: bool = False,
        devices: Iterable[int] = (),
        from_ns: int = 0,
        max_devices: int = 65_536,
    ) -> None: ...
    def set_from_ns(self, from_ns: int) -> None:
        """Ignore records before this trace time from now on. Raises ValueError."""

    def set_slow_ns(self, slow_ns: int) -> None:
        """Set the threshold of ``take_slow`` from now on, 0 to 2^64-1 ns. Raises ValueError.

        At first it is 2^64-1: no request is slow.
        """

    def set_lost_outside(self, lost_events: int) -> None:
        """Set how many events were lost so far of which the stream has no mark.

        0 to 2^63-1, never less than before. ``counters`` adds them to ``lost_events``. Raises
        ValueError.
        """

    def feed(self, data: ReadableBuffer, until_ns: int | None = None) -> int:
        """Process the next bytes of the stream, cut anywhere; returns how many were taken.

        Complete records are processed at once; the beginning of one is kept for the next call.
        All bytes are taken, unless a record at or after ``until_ns`` (trace time) comes next: then
        ``stopped_at_ns`` is its time, and the rest of the data has to be fed again.
        ftrace's marks ``CPU:n [LOST m EVENTS]`` between records are counted.

        Args:
            data: the bytes; may be overwritten after the call.
            until_ns: where to stop, 1 to 2^64-1; None: nowhere.

        Raises:
            TraceError: the bytes are not a trace. Everything before them counts; every later call
                raises the same error.
            MemoryError: nothing of the failed batch counts, and the engine cannot be fed again.
            ValueError: ``until_ns`` is not from 1 to 2^64-1.
            RuntimeError: another thread is using the engine.
        """

    def finish(self) -> None:
        """End the stream.

        Raises:
            TraceError: it ends inside a record (with ``resync`` those bytes count as skipped).
        """

    def snapshot(self, end_ns: int | None = None) -> Snapshot:
        """Return the figures since the last snapshot, and begin a new interval.

        Rows are in the order of their first match. Raises MemoryError: then no figure is lost,
        and the interval goes on.

        Args:
            end_ns: trace time at which the interval ends: requests in flight are counted up to
                here. None: ``now_ns``.
        """

    def take_mismatches(self) -> npt.NDArray[np.void]:
        """The mismatches since this was last called.

        Shape (n,), dtype ``layout.MISMATCH``; empty without ``keep_details``.
        """

    def take_records(self) -> npt.NDArray[np.void]:
        """The records of any category since this was last called.

        Shape (n,), dtype ``layout.RECORD``, without payloads; empty without
        ``keep_records``.
        """

    def take_requests(self) -> npt.NDArray[np.void]:
        """The requests that matched since this was last called, in the order of their matches.

        Shape (n,), dtype ``layout.REQUEST``; empty without ``keep_requests``.
        """

    def take_slow(self) -> npt.NDArray[np.void]:
        """The slow requests that completed since this was last called, in the order of matches.

        These are requests whose time from the first issue to the completion exceeds the threshold,
        and those that ``take_hanging`` has found. Shape (n,), dtype ``layout.SLOW``; empty without
        ``keep_slow``.
        """

    def take_hanging(
        self, now_ns: int, longer_than_ns: int, most: int
    ) -> tuple[npt.NDArray[np.void], int]:
        """The requests that have been pending for longer than a time; each is found only once.

        Args:
            now_ns: trace time of now.
            longer_than_ns: time since the first issue.
            most: how many to return at most, in the order below.

        Returns:
            Shape (n,), dtype ``layout.SLOW``, in the order of their latest issue or requeue; and
            how many were found beyond ``most``. Those are not found again either.

        Raises:
            ValueError: the Engine was made without ``keep_slow``.
        """

    def take_driver_data(self) -> bytes:
        """The driver data since this was last called.

        Version-7 headers in host byte order, each with its payload; empty without
        ``keep_driver_data``.
        """

    def take_skips(self) -> list[tuple[int, int]]:
        """The garbage skipped since this was last called: (byte offset, number of bytes).

        Of more than 262,144 stretches, the first ones.
        """

    def leftovers(self) -> npt.NDArray[np.void]:
        """The pending records: shape (n,), dtype ``layout.DETAIL``.

        ``action`` has its lower 48 bits only. The order is the original's: by sector % 128, then
        the most recently stored first.

        Raises:
            ValueError: the Engine was made without ``keep_details``.
        """

    def counters(self) -> dict[str, int]:
        """Totals since the start, by name.

        - ``records``: read, of any category.
        - ``requests``: completed.
        - ``mismatches``: pairs of records with the same key that do not belong to one request.
        - ``driver_data_records``: of category DRV_DATA.
        - ``evicted``: pending records removed by age or number, and completions refused near
          ``max_pending``.
        - ``lost_events``: counted by the tracer's marks, or by ``set_lost_outside``.
        - ``sequence_gaps``: missing sequence numbers, for each device and CPU.
        - ``completions_without_issue``, ``issues_without_completion``: unmatched; see
          ``blkiomon.interval.value.Counts``.
        - ``skipped_bytes``: skipped by ``resync``.
        - ``over_device_limit``: records of devices beyond ``max_devices``.

        A record that is read late takes back a gap or a missing issue only if the same interval
        counted it.
        """

    @property
    def records(self) -> int:
        """Records read since the start."""

    @property
    def requests(self) -> int:
        """Requests completed since the start."""

    @property
    def pending(self) -> int:
        """Pending records."""

    @property
    def stopped_at_ns(self) -> int | None:
        """Trace time of the record before which ``feed`` stopped; None if it did not stop."""

    @property
    def now_ns(self) -> int:
        """Trace time of the record that was read last, except notify records and ignored ones.

        It may be less than that of an earlier record. 0 before the first record.
        """

    @property
    def latest_ns(self) -> int:
        """The greatest ``now_ns`` so far."""

    @property
    def back_ns(self) -> int:
        """How far a record was behind an earlier one at most, in ns; 0 up to a second."""

    @property
    def first_ns(self) -> int | None:
        """Trace time of the first record other than notify records; None before it."""

    @property
    def epoch_ns(self) -> int | None:
        """ns since 1970 at trace time 0, from the first timestamp record.

        None without one, or if the first record is more than 1 s earlier.
        """

    @property
    def process_names(self) -> dict[int, str]:
        """Process names by pid, from the stream: the dictionary that the engine updates.

        Beyond 131,072 names, it keeps the 65,536 that were added, or occurred in an interval, most
        recently.
        """

    @property
    def padding_bytes(self) -> int:
        """Zeros skipped between records. blktrace may write a buffer of zeros when it stops."""

    @property
    def offset(self) -> int:
        """Bytes of the stream that were processed."""

    def _tune(
        self,
        *,
        hash_seed: int | None = None,
        spill_every: int | None = None,
        plain_cpu: bool = False,
        slowly: bool = False,
    ) -> None:
        """Change internal limits, for tests, before anything is fed. No result depends on them.

        Args:
            hash_seed: 0 to 2^128-1, in place of a random one; not with ``devices``.
            spill_every: number of requests, 1 to 2^31, after which counts of histograms move from
                32 to 64 bits.
            plain_cpu: use only instructions that every processor has.
            slowly: pair every record by all rules, none on the fast path.
        """

    def _table_figures(self) -> dict[str, int]:
        """Return the longest searches in two hash tables, for tests.

        ``longest_search``: groups of the table of pending records. ``longest_device_search``:
        slots of the device map.
        """

def _read_structs(data: ReadableBuffer) -> dict[str, tuple[int, dict[str, Any]]]: ...
