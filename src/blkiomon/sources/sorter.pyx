# distutils: language = c
"""Sorts one stream by time in which batches of records of different CPUs alternate.

    bytes -> held records, their times -> stable sort of the times -> records in order of time

blktrace writes such a stream into a pipe: it copies the records of one CPU after another. Inside a
batch, records are in order of time, so the sort (numpy's timsort) only merges runs.

The times of notify records do not count: each stays after the record that it followed. So does
padding. From garbage on, the stream passes unsorted.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from blkiomon.engine.types cimport *

cimport cython

import numpy as np

include "../engine/records.pxi"

cdef uint64_t NEVER = <uint64_t> -1


cdef inline uint32_t cpu_of(const uint8_t *p, bint swap) noexcept nogil:
    cdef bint is_v8 = (swap32(load32(p)) if swap else load32(p)) == MAGIC | 8
    cdef uint32_t cpu = (<const TraceV8 *> p).cpu if is_v8 else (<const TraceV7 *> p).cpu
    return swap32(cpu) if swap else cpu


cdef inline bint is_note(const uint8_t *p, bint swap) noexcept nogil:
    """Whether a record is a notify record."""
    if (swap32(load32(p)) if swap else load32(p)) == MAGIC | 8:
        action = (<const TraceV8 *> p).action
        return (swap64(action) if swap else action) & <uint64_t> CAT_NOTIFY << 16 != 0
    return (
        swap32((<const TraceV7 *> p).action) if swap else (<const TraceV7 *> p).action
    ) & <uint32_t> CAT_NOTIFY << 16 != 0


@cython.final
cdef class Sorter:
    cdef bytearray held                         # bytes that `take` has not returned
    cdef size_t n_indexed                       # of them, in complete records
    cdef uint64_t[::1] times                    # of each of these; notify records: see above
    cdef uint64_t[::1] starts                   # where it is in `held`
    cdef Py_ssize_t n_records
    cdef int swap                               # byte order; -1: no record has been seen
    cdef bint is_garbled                        # garbage follows n_indexed
    cdef uint64_t time_ns                       # of the record before
    cdef uint32_t latest_cpu
    cdef readonly uint64_t latest_ns
    cdef readonly bint is_sorted

    def __cinit__(self):
        self.held = bytearray()
        self.times = np.empty(1024, np.uint64)
        self.starts = np.empty(1024, np.uint64)
        self.swap = -1
        self.is_sorted = True

    @property
    def held_bytes(self):
        return len(self.held)

    def add(self, data):
        self.held += data
        if not self.is_garbled:
            self._index()

    cdef int _index(self) except -1:
        """Find the records after n_indexed."""
        cdef const uint8_t *begin = <const uint8_t *> <const char *> self.held
        cdef const uint8_t *p
        cdef size_t size = len(self.held)
        cdef size_t left, length
        cdef uint64_t time_ns
        while size - self.n_indexed >= HEADER_V7:
            p = begin + self.n_indexed
            left = size - self.n_indexed
            if p[0] == 0:                       # padding: it stays after the record before it
                if self.n_records == 0:
                    self._append(self.time_ns)
                self.n_indexed += zeros_at(p, left)
                continue
            if self.swap < 0:
                self.swap = byte_order_of(load32(p))
            length = 0 if self.swap < 0 else record_length(p, left, self.swap, &time_ns)
            if length == 0:
                self.is_garbled = left >= HEADER_V8 or byte_order_of(load32(p)) != self.swap
                break
            if length > left:
                break
            if not is_note(p, self.swap):
                self.time_ns = time_ns
                if time_ns >= self.latest_ns:
                    self.latest_ns = time_ns
                    self.latest_cpu = cpu_of(p, self.swap)
                elif cpu_of(p, self.swap) != self.latest_cpu:
                    self.is_sorted = False
            self._append(self.time_ns)
            self.n_indexed += length
        return 0

    cdef int _append(self, uint64_t time_ns) except -1:
        """Note a record that begins at n_indexed."""
        if self.n_records == self.times.shape[0]:
            self.times = np.resize(self.times, 2 * self.n_records)
            self.starts = np.resize(self.starts, 2 * self.n_records)
        self.times[self.n_records] = time_ns
        self.starts[self.n_records] = self.n_indexed
        self.n_records += 1
        return 0

    def take(self, uint64_t until_ns=NEVER):
        cdef Py_ssize_t n_due = self.n_records
        times = np.asarray(self.times[: self.n_records])    # a view: _put_in_order() sorts it
        if not self.is_sorted or until_ns != NEVER:
            self._put_in_order(np.argsort(times, kind="stable"))
            if not self.is_garbled:
                n_due = np.searchsorted(times, np.uint64(until_ns), side="right")
        return self._take_first(n_due)

    def take_all(self):
        taken = self.take()
        rest, self.held = self.held, bytearray()
        self.n_indexed = 0
        return memoryview(bytes(taken) + rest) if rest else taken

    cdef int _put_in_order(self, const Py_ssize_t[::1] order) except -1:
        cdef bytearray held = bytearray(len(self.held))
        cdef const uint8_t *source = <const uint8_t *> <const char *> self.held
        cdef uint8_t *target = <uint8_t *> <char *> held
        cdef uint64_t[::1] starts = np.empty_like(self.starts)
        cdef size_t at = 0
        cdef size_t n
        cdef Py_ssize_t i, k
        for k in range(self.n_records):
            i = order[k]
            n = self.starts[i + 1] if i + 1 < self.n_records else self.n_indexed
            n -= self.starts[i]
            starts[k] = at
            memcpy(target + at, source + self.starts[i], n)
            at += n
        memcpy(target + at, source + at, len(held) - at)
        self.held = held
        times = np.asarray(self.times)
        times[: self.n_records] = times[order]
        self.starts = starts
        return 0

    cdef _take_first(self, Py_ssize_t n_records):
        """Take the first n_records records, or all held bytes if there is garbage."""
        cdef size_t n_bytes
        cdef Py_ssize_t i
        if self.is_garbled:
            n_bytes = len(self.held)
        else:
            n_bytes = self.starts[n_records] if n_records < self.n_records else self.n_indexed
        taken, self.held = self.held, self.held[n_bytes:]
        self.n_records -= n_records
        for i in range(self.n_records):
            self.times[i] = self.times[n_records + i]
            self.starts[i] = self.starts[n_records + i] - n_bytes
        self.n_indexed -= min(n_bytes, self.n_indexed)
        return memoryview(taken)[:n_bytes]
