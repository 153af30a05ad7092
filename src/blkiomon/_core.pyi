"""The engine: trace bytes in, accounts of matched requests out."""

from collections.abc import Iterable
from typing import final

import numpy as np
import numpy.typing as npt
from _typeshed import ReadableBuffer

from blkiomon.engine.snapshot import Snapshot

@final
class Engine:
    """Decodes block-trace records, pairs issues with completions and accounts the requests.

    One thread owns an Engine. ``feed`` and ``cut`` release the GIL while they work; whatever
    another thread asks meanwhile is a RuntimeError.

    Args:
        max_pending: records without a partner that are kept at most, 1 to 2^32; when one more
            comes, the oldest (by time, then device, sector and direction) is evicted.
        max_age_ns: two records of one key that are further apart than this, in ns of trace time,
            never pair: the older is evicted. Also evicted is what is older than this as of the
            latest issue or completion, every 2^20 records, at every cut and at the end.
        keep_details: keep pending records in full, for ``take_mismatches`` and ``leftovers``;
            costs 64 bytes a pending record.
        keep_driver_data: collect driver data, for ``take_driver_data``.
        keep_records: collect all records, for ``take_records``.
        keep_requests: collect matched requests, for ``take_requests``.
        as_original: pair exactly as the original does, for its own outputs: a requeue, a
            completion of a part and a zone append get no treatment of their own. Requests in
            flight are not followed then: ``Snapshot.loads`` and ``Snapshot.retry_rows`` are empty.
        resync: after bytes that are no record, go on at the next plausible one instead of failing.
        devices: major:minor numbers; records of all others are read and counted, and otherwise
            ignored. Empty: every device counts.
        from_ns: likewise ignored are records before this trace time.
        threads: with 2, pairing has a core of its own; the results are the same. More are not
            used, nor are they where anything is kept or collected.
        max_devices: so many devices are known at a time, 1 to 2^22-1; records of others are
            counted as ``over_limit`` and otherwise ignored. At a cut, if more than half of
            them are known, those that have had no request since the last cut, and of which
            nothing is pending, make room. Devices that are named in ``devices`` always count.
        hash_seed: for tests, 0 to 2^128-1: hash with this instead of what nobody can know.
            Results do not depend on it.
        spill_every: for tests, 1 to 2^31: histograms count in 32 bits, and are moved to 64 when
            so many requests have been accounted since, or a few batches later.
        set_aside_from: for tests, 0 to 2^64-1: with so many pending, or a sixteenth of them where
            that is most, what many others have overtaken is set aside. Results do not depend on it.

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
        keep_requests: bool = False,
        as_original: bool = False,
        resync: bool = False,
        devices: Iterable[int] = (),
        from_ns: int = 0,
        threads: int = 1,
        max_devices: int = 65_536,
        hash_seed: int | None = None,
        spill_every: int = 2147483648,
        set_aside_from: int = 65536,
    ) -> None: ...
    def set_from_ns(self, from_ns: int) -> None:
        """Ignore records before this trace time from now on."""

    def feed(self, data: ReadableBuffer, until_ns: int | None = None, wait: bool = True) -> int:
        """Take the next bytes of the stream, cut anywhere; returns how many were taken.

        Every whole record is dealt with at once; the beginning of one is kept for the next call.
        All bytes are taken, unless a record at or after ``until_ns`` (trace time) comes next: then
        ``stopped_at_ns`` is its time, and the rest of the data has to be fed again.
        ftrace's marks ``CPU:n [LOST m EVENTS]`` between records are counted.

        Args:
            data: the bytes; not needed any more when this returns.
            until_ns: where to stop, 1 to 2^64-1; None: nowhere.
            wait: for the second thread, where there is one. Without, it may still be at work when
                this returns, and whatever needs its results waits then: more bytes can be read
                meanwhile. A child of a fork() in between cannot go on: RuntimeError.

        Raises:
            TraceError: the bytes are no trace. What came before counts; every later call raises
                the same error.
            MemoryError: there was no room for more; nothing of the failed batch counts, and the
                Engine must not be used further.
            ValueError: ``until_ns`` is not from 1 to 2^64-1.
        """

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            TraceError: it ended inside a record (with ``resync`` those bytes count as skipped).
        """

    def snapshot(self, end_ns: int | None = None) -> Snapshot:
        """Hand out what was accounted since the last cut, and begin anew.

        To be called before 2^32 matches have come together: bins are counted in 32 bits.
        Rows are in the order of each one's first match. Where there is no memory for them
        MemoryError is raised, and nothing has changed.

        Args:
            end_ns: trace time at which the interval ends, for what is in flight then; that of the
                latest issue or completion unless told.
        """

    def take_mismatches(self) -> npt.NDArray[np.void]:
        """Hand out the mismatches since they were last taken.

        Shape (n,), dtype ``layout.MISMATCH``; empty without ``keep_details``.
        """

    def take_records(self) -> npt.NDArray[np.void]:
        """Hand out the records since they were last taken, of any category.

        Shape (n,), dtype ``layout.RECORD``, without their payloads; empty without
        ``keep_records``.
        """

    def take_requests(self) -> npt.NDArray[np.void]:
        """Hand out the requests that matched since they were last taken, in order of their match.

        Shape (n,), dtype ``layout.REQUEST``; empty without ``keep_requests``.
        """

    def take_driver_data(self) -> bytes:
        """Hand out the driver data since it was last taken.

        Version-7 headers in host byte order, each with its payload; empty without
        ``keep_driver_data``.
        """

    def take_skips(self) -> list[tuple[int, int]]:
        """Hand out what ``resync`` skipped since last asked: (byte offset, number of bytes)."""

    def leftovers(self) -> npt.NDArray[np.void]:
        """What is still pending: shape (n,), dtype ``layout.DETAIL``.

        ``action`` has bits 0-47. In the original's order: by sector % 128, then the most recently
        stored first.

        Raises:
            ValueError: the Engine was made without ``keep_details``.
        """

    def counters(self) -> dict[str, int]:
        """Totals since the start.

        ``records`` read, ``requests``, ``mismatches``, ``driver_data_records``, ``evicted``
        (pending records), ``lost`` (events, by the tracer's marks), ``gaps`` (records missing by
        their sequence numbers, per device and CPU, when the interval ended), ``orphans``
        (completions whose issue had not been seen when the interval ended), ``unanswered`` (issues
        that were given up, or were overdue at a cut: see ``Counts``), ``skipped_bytes``,
        ``over_limit`` (records of devices beyond ``max_devices``).
        """

    def _longest_searches(self) -> tuple[int, int]: ...
    def _set_aside(self) -> tuple[int, int]: ...
    @property
    def records(self) -> int:
        """How many records were read since the start, known without waiting."""

    @property
    def requests(self) -> int:
        """How many requests were accounted since the start."""

    @property
    def pending(self) -> int:
        """How many records wait for their partner."""

    @property
    def stopped_at_ns(self) -> int | None:
        """Trace time of the record that comes next, where ``feed`` stopped before it."""

    @property
    def now_ns(self) -> int:
        """Trace time of the latest record that is no note; 0 before the first."""

    @property
    def first_ns(self) -> int | None:
        """Trace time of the first record that is no note; None before it."""

    @property
    def epoch_ns(self) -> int | None:
        """ns since 1970 at trace time 0, by the stream's first timestamp record; else None."""

    @property
    def process_names(self) -> dict[int, str]:
        """Names by pid, as far as the stream has told them; the one that is kept up to date.

        At least 65,536 are remembered: those that were told, or in an interval, last.
        """

    @property
    def padding_bytes(self) -> int:
        """Zeros between records, which blktrace may hand out when it stops."""

    @property
    def offset(self) -> int:
        """Bytes of the stream that have been dealt with."""

def _struct_sizes() -> dict[str, int]: ...
