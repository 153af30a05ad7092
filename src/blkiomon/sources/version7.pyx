# distutils: language = c
"""Converts captured records for blkparse, btt and fio: to version 7, with sequence numbers.

blkparse reads a file NAME.blktrace.N only if its records are of CPU N. Sequence numbers count the
records of one device and one CPU; a gap in them means that records are lost.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from blkiomon.engine.types cimport *

cimport cython

cdef enum:
    ROOM_BITS = 12                              # of the table of devices
    MOST_DEVICES = 3 << ROOM_BITS - 2           # three quarters of its places

cdef struct Numbered:
    uint32_t device
    uint32_t last                               # number of its last record; 0: the place is free


@cython.final
cdef class Version7:
    cdef readonly uint64_t records
    cdef readonly uint64_t unmarked_events
    cdef uint32_t cpu
    cdef int n_devices
    cdef Numbered devices[1 << ROOM_BITS]       # open addressing

    def __cinit__(self, uint32_t cpu, uint64_t lost_events=0):
        self.cpu = cpu
        self.unmarked_events = lost_events

    def lose(self, uint64_t n_events):
        self.unmarked_events += n_events

    def convert(self, uint8_t[::1] data):
        cdef size_t n = self._convert(&data[0], data.shape[0]) if data.shape[0] else 0
        return memoryview(data)[:n]

    cdef size_t _convert(self, uint8_t *data, size_t size) except? 0:
        """Convert in place; returns how many bytes the records take now."""
        cdef size_t at = 0
        cdef size_t out = 0
        cdef size_t header, n
        cdef const TraceV7 *v7
        cdef TraceV8 v8
        cdef TraceV7 *r
        while size - at >= HEADER_V7:
            v7 = <const TraceV7 *> (data + at)
            r = <TraceV7 *> (data + out)
            header = HEADER_V8 if v7.magic == MAGIC | 8 else HEADER_V7
            n = header + v7.pdu_len
            if header == HEADER_V8 and size - at >= HEADER_V8:
                memcpy(&v8, data + at, HEADER_V8)
                n = HEADER_V8 + v8.pdu_len
            elif v7.magic != MAGIC | 7:
                break
            if size - at < n:
                break
            if out != at or header == HEADER_V8:
                memmove(r, data + at, HEADER_V7)
            if header == HEADER_V8:
                r.magic = MAGIC | 7
                r.action = <uint32_t> v8.action     # version 7 has the first 16 categories
                r.pid = v8.pid
                r.device = v8.device
                r.error = v8.error
                r.pdu_len = v8.pdu_len
            r.cpu = self.cpu
            r.sequence = 0
            self.records += 1
            if not r.action >> 16 & CAT_NOTIFY:
                r.sequence = self._number(r.device)
            if r.pdu_len and out + HEADER_V7 != at + header:
                memmove(data + out + HEADER_V7, data + at + header, r.pdu_len)
            out += HEADER_V7 + r.pdu_len
            at += n
        if at != size:
            raise ValueError(f"no whole record of version 7 or 8 at byte offset {at}")
        return out

    cdef inline uint32_t _number(self, uint32_t device) noexcept nogil:
        """The next number of a device; skips as many as there are lost events to mark."""
        cdef uint32_t mask = (1 << ROOM_BITS) - 1
        cdef uint32_t i = <uint32_t> (device * <uint32_t> 0x9e3779b1) >> 32 - ROOM_BITS
        while self.devices[i].last != 0 and self.devices[i].device != device:
            i = (i + 1) & mask
        if self.devices[i].last == 0:           # readers accept any first number: it marks no loss
            if self.n_devices == MOST_DEVICES:  # restart all numbers, as a restart of blktrace does
                self.n_devices = 0
                memset(self.devices, 0, sizeof(self.devices))
            self.n_devices += 1
            self.devices[i].device = device
        elif unlikely(self.unmarked_events != 0):
            self.devices[i].last += <uint32_t> self.unmarked_events
            self.unmarked_events = 0
        self.devices[i].last += 1
        return self.devices[i].last
