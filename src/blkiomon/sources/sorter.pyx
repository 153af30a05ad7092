# distutils: language = c
"""Sorts one stream by time in which batches of several devices and CPUs alternate.

    bytes -> held records, their times -> stable sort of the times -> records in order of time

blktrace writes such a stream into a pipe: it copies the records of one device and CPU after
another. Inside a batch, records are in order of time, so the sort (numpy's timsort) only merges
runs.

Order finds where such batches begin, and copies nothing; Sorter puts the records in order from
there on. Both divide a stream into units by next_unit(). A unit without a time of its own stays
after the record that it followed: notify records, whose times do not count, padding, marks of lost
events, and bytes that are not a record.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from blkiomon.engine.types cimport *

cimport cython

import numpy as np

include "../engine/records.pxi"

cdef uint64_t NEVER = <uint64_t> -1

cdef enum:
    MOST_ORIGINS = 1000                         # stretches of garbage whose offsets are kept

cdef enum Unit:
    UNIT_SHORT                                  # more bytes are needed to decide
    UNIT_RECORD
    UNIT_NOTE                                   # it stays after the record before it
    UNIT_GARBAGE                                # as UNIT_NOTE; only with `resync`
    UNIT_FAILURE                                # not a record; only without `resync`

cdef struct Framing:                            # how a stream is divided into units
    int swap                                    # byte order; -1: no record has been seen
    bint resync                                 # after garbage, records may follow
    bint searching                              # the end of garbage has not been found
    bint in_padding                             # the bytes so far end with padding


cdef inline bint is_v8(const uint8_t *p, bint swap) noexcept nogil:
    return load32(p) == (swap32(MAGIC | 8) if swap else MAGIC | 8)


cdef inline uint64_t buffer_of(const uint8_t *p, bint swap) noexcept nogil:
    """A number for the buffer that a record is from: blktrace has one for each device and CPU."""
    cdef const TraceV7 *v7 = <const TraceV7 *> p
    cdef const TraceV8 *v8 = <const TraceV8 *> p
    if is_v8(p, swap):
        return <uint64_t> v8.device << 32 | v8.cpu
    return <uint64_t> v7.device << 32 | v7.cpu


cdef inline bint is_note(const uint8_t *p, bint swap) noexcept nogil:
    """Whether a record is a notify record."""
    cdef uint64_t action
    if is_v8(p, swap):
        action = (<const TraceV8 *> p).action
        return (swap64(action) if swap else action) & <uint64_t> CAT_NOTIFY << 16 != 0
    action = (<const TraceV7 *> p).action
    return (swap32(<uint32_t> action) if swap else action) & <uint32_t> CAT_NOTIFY << 16 != 0


cdef Unit next_unit(
    const uint8_t *p, size_t left, Framing *f, size_t *length, uint64_t *time_ns
) noexcept nogil:
    """Find the unit at p as the engine does. Sets *length, and for a record *time_ns."""
    cdef uint64_t events = 0
    cdef int mark
    length[0] = 0
    if not f.searching:
        if left == 0:
            return UNIT_SHORT
        if p[0] == 0:
            length[0] = zeros_at(p, left)
            if length[0] >= MIN_PADDING or f.in_padding or f.swap < 0:
                f.in_padding = length[0] == left
                return UNIT_NOTE
            if length[0] == left:
                return UNIT_SHORT
            length[0] = 0
        f.in_padding = False
        if f.swap < 0 and left >= 4:
            f.swap = byte_order_of(load32(p))
        if left >= HEADER_V7 and f.swap >= 0:
            length[0] = record_length(p, left, f.swap, time_ns)
            if length[0] > left:
                return UNIT_SHORT
            if length[0]:
                return UNIT_NOTE if is_note(p, f.swap) else UNIT_RECORD
        mark = parse_lost(p, left, length, &events)
        if mark >= 0:
            return UNIT_NOTE if mark else UNIT_SHORT
        if left < 4 or left < HEADER_V8 and f.swap >= 0 and byte_order_of(load32(p)) == f.swap:
            return UNIT_SHORT
        if not f.resync:
            return UNIT_FAILURE
        length[0] = 1
    mark = find_record(p, left, length, &f.swap)
    if f.searching and length[0] == 0 and mark <= 0:
        return UNIT_SHORT
    f.searching = mark <= 0
    return UNIT_GARBAGE


cdef inline size_t run_of(
    const uint8_t *p, size_t size, bint swap, int version, uint64_t *latest_ns,
    uint64_t *latest_buffer,
) noexcept nogil:
    """Bytes of the records at the front that are usual and in order of time.

    They are of this version, without a payload, and no notify records; none is earlier than the
    record before it, or than *latest_ns, which is updated, as is *latest_buffer. `swap` and
    `version` are constants at every call.
    """
    cdef size_t header = HEADER_V8 if version == 8 else HEADER_V7
    cdef uint32_t magic = swap32(MAGIC | version) if swap else MAGIC | version
    cdef uint64_t notify = <uint64_t> CAT_NOTIFY << 16
    cdef uint64_t latest = latest_ns[0]
    cdef uint64_t time_ns, action
    cdef uint16_t pdu_len
    cdef const TraceV7 *v7
    cdef const TraceV8 *v8
    cdef size_t at = 0
    if swap:
        notify = swap64(notify) if version == 8 else swap32(<uint32_t> notify)
    while size - at >= header:
        v7 = <const TraceV7 *> (p + at)
        v8 = <const TraceV8 *> (p + at)
        time_ns = swap64(v7.time) if swap else v7.time
        action = v8.action if version == 8 else v7.action
        pdu_len = v8.pdu_len if version == 8 else v7.pdu_len
        if unlikely(((v7.magic ^ magic) | pdu_len | (action & notify)) != 0 or time_ns < latest):
            break
        latest = time_ns
        at += header
    if at:
        latest_ns[0] = latest
        latest_buffer[0] = buffer_of(p + at - header, swap)
    return at


@cython.final
cdef class Order:
    cdef Framing framing
    cdef uint64_t lateness_ns
    cdef uint64_t latest_ns
    cdef uint64_t latest_buffer
    cdef bint has_failed                        # garbage without resync: nothing after it counts
    cdef bytes tail                             # the incomplete unit at the end of the last bytes
    cdef readonly bint is_kept

    def __cinit__(self, *, uint64_t lateness_ns=NEVER, resync=False):
        self.framing = Framing(-1, resync, False, False)
        self.lateness_ns = lateness_ns
        self.tail = b""
        self.is_kept = True

    def follow(self, const uint8_t[::1] data):
        cdef size_t size = data.shape[0]
        cdef size_t most = HEADER_V8            # enough to complete a usual record
        cdef size_t n = 0                       # bytes of `data` that complete units of the tail
        cdef size_t end
        cdef const uint8_t[::1] joined
        while self.tail and not self.has_failed:
            n = min(most, size)
            joined = self.tail + bytes(data[:n])
            end = self._walk(&joined[0], joined.shape[0], len(self.tail))
            if end >= <size_t> len(self.tail):
                n = end - len(self.tail)
                self.tail = b""
            elif n == size:
                self.tail = bytes(joined[end:])
                return size
            else:
                self.tail = self.tail[end:]
                most = MAX_RECORD
        if n < size and self.is_kept and not self.has_failed:
            end = n + self._walk(&data[n], size - n, size - n)
            self.tail = bytes(data[end:])
        return n

    cdef size_t _walk(self, const uint8_t *p, size_t size, size_t stop) noexcept nogil:
        """Follow the units that begin before `stop`; returns where the next one begins."""
        cdef Framing *f = &self.framing
        cdef size_t at = 0
        cdef size_t length
        cdef uint64_t time_ns = 0
        cdef Unit unit
        while at < stop:
            length = self._usual(p + at, stop - at)
            if length:
                at += length
                continue
            unit = next_unit(p + at, size - at, f, &length, &time_ns)
            if unit == UNIT_SHORT:
                break
            if unit == UNIT_FAILURE:
                self.has_failed = True
                break
            if unit == UNIT_RECORD:
                if time_ns >= self.latest_ns:
                    self.latest_ns = time_ns
                    self.latest_buffer = buffer_of(p + at, f.swap)
                elif buffer_of(p + at, f.swap) != self.latest_buffer:
                    self.is_kept = False
                elif self.latest_ns - time_ns > self.lateness_ns:
                    self.latest_ns = time_ns    # one time was wrong, or another trace begins
            at += length
        return at

    cdef inline size_t _usual(self, const uint8_t *p, size_t size) noexcept nogil:
        """Follow the usual records at the front; returns their bytes."""
        cdef uint64_t *time = &self.latest_ns
        cdef uint64_t *buffer = &self.latest_buffer
        cdef Framing *f = &self.framing
        if f.searching or f.in_padding or f.swap < 0 or size < HEADER_V7:
            return 0
        if is_v8(p, f.swap):
            if f.swap:
                return run_of(p, size, True, 8, time, buffer)
            return run_of(p, size, False, 8, time, buffer)
        if f.swap:
            return run_of(p, size, True, 7, time, buffer)
        return run_of(p, size, False, 7, time, buffer)


@cython.final
cdef class Sorter:
    cdef Framing framing
    cdef uint64_t lateness_ns
    cdef bytearray held                         # bytes that `take` has not returned
    cdef size_t n_indexed                       # of them, in complete units
    cdef uint64_t[::1] times                    # of each of these; see above
    cdef uint64_t[::1] starts                   # where it is in `held`
    cdef Py_ssize_t n_units
    cdef bint has_failed                        # garbage without resync follows n_indexed
    cdef uint64_t time_ns                       # of the record before
    cdef uint64_t n_taken                       # bytes of the stream that are not held any more
    cdef dict garbage                           # unit -> its first byte's offset in the input
    cdef dict origins                           # offset in the output -> offset in the input
    cdef Py_ssize_t n_origins                   # noted so far
    cdef readonly uint64_t latest_ns

    def __cinit__(self, *, uint64_t lateness_ns=NEVER, resync=False, uint64_t begin=0):
        self.framing = Framing(-1, resync, False, False)
        self.lateness_ns = lateness_ns
        self.n_taken = begin
        self.held = bytearray()
        self.times = np.empty(1024, np.uint64)
        self.starts = np.empty(1024, np.uint64)
        self.garbage = {}
        self.origins = {}

    @property
    def held_bytes(self):
        return len(self.held)

    def add(self, data):
        self.held += data
        if not self.has_failed:
            self._index()

    cdef int _index(self) except -1:
        """Find the units after n_indexed."""
        cdef const uint8_t *begin = <const uint8_t *> <const char *> self.held
        cdef size_t size = len(self.held)
        cdef size_t length
        cdef uint64_t time_ns = 0
        cdef bint was_searching
        cdef Unit unit
        while True:
            was_searching = self.framing.searching
            unit = next_unit(
                begin + self.n_indexed, size - self.n_indexed, &self.framing, &length, &time_ns
            )
            if unit == UNIT_SHORT:
                break
            if unit == UNIT_FAILURE:
                self.has_failed = True
                break
            if unit == UNIT_RECORD:
                self.time_ns = time_ns
                # After a step back by more than any lateness, times count from there: one time was
                # wrong, or another trace begins.
                if time_ns >= self.latest_ns or self.latest_ns - time_ns > self.lateness_ns:
                    self.latest_ns = time_ns
            elif unit == UNIT_GARBAGE and not was_searching and self.n_origins < MOST_ORIGINS:
                self.garbage[self.n_units] = self.n_taken + self.n_indexed
                self.n_origins += 1
            self._append(self.time_ns)
            self.n_indexed += length
        return 0

    cdef int _append(self, uint64_t time_ns) except -1:
        """Note a unit that begins at n_indexed."""
        if self.n_units == self.times.shape[0]:
            self.times = np.resize(self.times, 2 * self.n_units)
            self.starts = np.resize(self.starts, 2 * self.n_units)
        self.times[self.n_units] = time_ns
        self.starts[self.n_units] = self.n_indexed
        self.n_units += 1
        return 0

    def take(self, uint64_t until_ns=NEVER, size_t most_bytes=<size_t> -1):
        cdef Py_ssize_t n_due = self.n_units
        times = np.asarray(self.times[: self.n_units])      # a view: _put_in_order() sorts it
        self._put_in_order(np.argsort(times, kind="stable"))
        if not self.has_failed:
            n_due = np.searchsorted(times, np.uint64(until_ns), side="right")
            if self.n_indexed > most_bytes:
                starts = np.asarray(self.starts[: self.n_units])
                n_due = max(n_due, np.searchsorted(starts, np.uint64(self.n_indexed - most_bytes)))
        return self._take_first(n_due)

    def take_all(self):
        taken = self.take()
        rest, self.held = self.held, bytearray()
        self.n_taken += len(rest)
        self.n_indexed = 0
        return memoryview(bytes(taken) + rest) if rest else taken

    def origin(self, offset):
        return self.origins.pop(offset, offset)

    cdef int _put_in_order(self, const Py_ssize_t[::1] order) except -1:
        cdef bytearray held = bytearray(len(self.held))
        cdef const uint8_t *source = <const uint8_t *> <const char *> self.held
        cdef uint8_t *target = <uint8_t *> <char *> held
        cdef uint64_t[::1] starts = np.empty_like(self.starts)
        cdef size_t at = 0
        cdef size_t n
        cdef Py_ssize_t i, k
        for k in range(self.n_units):
            i = order[k]
            n = self.starts[i + 1] if i + 1 < self.n_units else self.n_indexed
            n -= self.starts[i]
            starts[k] = at
            memcpy(target + at, source + self.starts[i], n)
            at += n
        memcpy(target + at, source + at, len(held) - at)
        self.held = held
        times = np.asarray(self.times)
        times[: self.n_units] = times[order]
        self.starts = starts
        if self.garbage:
            rank = np.argsort(order)
            self.garbage = {int(rank[i]): offset for i, offset in self.garbage.items()}
        return 0

    cdef _take_first(self, Py_ssize_t n_units):
        """Take the first n_units units, or all held bytes after a failure."""
        cdef size_t n_bytes
        cdef Py_ssize_t i
        if self.has_failed:
            n_bytes = len(self.held)
        else:
            n_bytes = self.starts[n_units] if n_units < self.n_units else self.n_indexed
        if self.garbage:
            for i in [i for i in self.garbage if i < n_units]:
                self.origins[self.n_taken + self.starts[i]] = self.garbage.pop(i)
            self.garbage = {i - n_units: offset for i, offset in self.garbage.items()}
        taken, self.held = self.held, self.held[n_bytes:]
        self.n_units -= n_units
        for i in range(self.n_units):
            self.times[i] = self.times[n_units + i]
            self.starts[i] = self.starts[n_units + i] - n_bytes
        self.n_indexed -= min(n_bytes, self.n_indexed)
        self.n_taken += n_bytes
        return memoryview(taken)[:n_bytes]
