# distutils: language = c
"""Traces of several CPUs or devices in, one stream in order of time out.

    readers -> windows, one a file -> tree of losers -> output -> the engine

The tree is a knock-out tournament between the files' next records: each inner node holds the
loser of its match, the winner of all stands on top. When the winner has been copied, the next
record of its file has to play only against those on the way up, and which these are depends on
the file alone: so they are loaded ahead, and where no branch depends on who wins, nothing is
mispredicted. A record costs the same however the files take turns.

The kernel is `noexcept nogil` and never allocates. It stops where the output is full, and where a
file's next record is not all there, or is none: Merger deals with that, and lets it go on.

What is missing before a record (events lost, garbage skipped) is told when that record is due, and
after all that comes before it has been handed out: so it counts where one merged stream has it.
Signatures and their documentation for users stand in ``merger.pyi``.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memmove

from blkiomon.engine.types cimport *

import numpy as np

from blkiomon.errors import SourceError, TraceError

include "../engine/records.pxi"


cdef enum Stop:                                 # why the kernel stopped
    STOP_FULL                                   # the output has no room for the next record
    STOP_DRY                                    # a file has to be looked at, see Merge.dry
    STOP_END                                    # all files have ended

cdef enum:
    CHUNK = 64                                  # copied of every record, however short it is
    AHEAD = 512                                 # bytes of input fetched before they are needed
    HELD = (1 << 30) + 1                        # a length that no output has room for
    STAGGER = 5 * 64                            # windows begin in different sets of the cache

cdef struct Head:                               # a file's next record
    const uint8_t *at                           # whole, in the file's window, unless it is dry
    const uint8_t *end                          # of what has been read into the window
    size_t length                               # of the record; HELD: first something is told

cdef struct Missing:                            # what has not been told yet
    uint64_t lost_events
    uint64_t skipped_bytes

cdef struct Window:                             # a part of a file in memory
    uint8_t *begin                              # CHUNK bytes behind the room may be read, too
    size_t room
    uint64_t offset                             # of `begin` in the file
    bint at_end                                 # nothing more comes
    bint failed                                 # for the reader said so: see Merger.failures
    bint has_records                            # one at least has been found
    size_t length                               # of the record that is held
    Missing missing                             # before it

cdef struct Merge:
    Head *heads                                 # one a file, in the order that decides ties
    uint64_t *shifts                            # one a file: ns added to its records' times
    uint128_t *tree                             # of keys: the winner, then losers; see replay()
    size_t leaves                               # files, rounded up to a power of two
    Py_ssize_t dry                              # the file to look at, -1: none
    uint8_t *out
    size_t n_out
    size_t room                                 # CHUNK bytes behind it may be written, too

cdef uint128_t ENDED = <uint128_t> 0 - 1        # the key of a file that has: greater than any

cdef extern from *:
    """
    /* Exchange two keys if the second is less. Who is less cannot be predicted, so it must not
       become a branch: the empty asm hides from the compiler that the mask is all or nothing. */
    static inline void bk_order(bk_uint128 *a, bk_uint128 *b) {
        uint64_t a_low = (uint64_t)*a, a_high = (uint64_t)(*a >> 64);
        uint64_t b_low = (uint64_t)*b, b_high = (uint64_t)(*b >> 64);
        uint64_t mask = -(uint64_t)(b_high < a_high);
        uint64_t low, high;
        if (bk_unlikely(a_high == b_high))
            mask = -(uint64_t)(b_low < a_low);
        __asm__("" : "+r"(mask));
        low = (a_low ^ b_low) & mask;
        high = (a_high ^ b_high) & mask;
        *a = (bk_uint128)(a_high ^ high) << 64 | (a_low ^ low);
        *b = (bk_uint128)(b_high ^ high) << 64 | (b_low ^ low);
    }
    """
    void put_in_order "bk_order"(uint128_t *a, uint128_t *b) noexcept nogil


cdef inline uint128_t key_of(uint64_t time_ns, size_t file) noexcept nogil:
    """What decides who is first: the time, then the order of the files. Below ENDED."""
    return <uint128_t> time_ns << 64 | file


cdef inline void replay(Merge *m, size_t file, uint128_t key) noexcept nogil:
    """Let a file's new key play its way up, where its old one had won.

    tree[0] is the winner. The match at node i is won from nodes 2i and 2i+1, the leaves being
    nodes leaves to 2*leaves-1; tree[i] keeps its loser.
    """
    cdef size_t node = (m.leaves + file) >> 1
    while node:
        put_in_order(&key, &m.tree[node])
        node >>= 1
    m.tree[0] = key


cdef inline bint look(Head *h, bint swap, uint64_t *time_ns) noexcept nogil:
    """Whether a whole record stands at h.at; sets its length and time, if so."""
    cdef size_t left = h.end - h.at
    cdef const TraceV7 *v7 = <const TraceV7 *> h.at
    cdef const TraceV8 *v8 = <const TraceV8 *> h.at
    if unlikely(left < HEADER_V7):
        return False
    if v7.magic == (swap32(MAGIC | 7) if swap else MAGIC | 7):
        h.length = HEADER_V7 + <size_t> (swap16(v7.pdu_len) if swap else v7.pdu_len)
    elif v7.magic == (swap32(MAGIC | 8) if swap else MAGIC | 8) and left >= HEADER_V8:
        h.length = HEADER_V8 + <size_t> (swap16(v8.pdu_len) if swap else v8.pdu_len)
    else:
        return False
    time_ns[0] = swap64(v7.time) if swap else v7.time
    return left >= h.length


cdef inline void shift_time(uint8_t *record, bint swap, uint64_t shift_ns) noexcept nogil:
    """Add to a record's time, which both versions have in the same place."""
    cdef TraceV7 *v7 = <TraceV7 *> record
    v7.time = swap64(swap64(v7.time) + shift_ns) if swap else v7.time + shift_ns


cdef inline Stop merge_all(Merge *m, bint swap, bint shifts) noexcept nogil:
    """Move records to the output. `swap` and `shifts` are constants at every call."""
    cdef:
        uint8_t *out = m.out + m.n_out
        uint8_t *out_end = m.out + m.room
        size_t file
        uint64_t time_ns = 0
        Head *h
        Stop stop
    while True:
        if unlikely(m.tree[0] == ENDED):
            stop = STOP_END
            break
        file = <size_t> <uint64_t> m.tree[0]
        h = &m.heads[file]
        if unlikely(<size_t> (out_end - out) < h.length):
            stop = STOP_FULL
            break
        memcpy(out, h.at, CHUNK)                # of constant length, so no call
        if unlikely(h.length > CHUNK):
            memcpy(out + CHUNK, h.at + CHUNK, h.length - CHUNK)
        if shifts:
            shift_time(out, swap, m.shifts[file])
        out += h.length
        h.at += h.length
        prefetch_input(h.at + AHEAD)
        if unlikely(not look(h, swap, &time_ns)):
            m.dry = <Py_ssize_t> file
            stop = STOP_DRY
            break
        if shifts:
            time_ns += m.shifts[file]
        replay(m, file, key_of(time_ns, file))
    m.n_out = out - m.out
    return stop


cdef size_t bytes_needed(const uint8_t *p, size_t left, int swap) noexcept nogil:
    """How many bytes a record has, of which `left` are at p; so far as these tell."""
    cdef bint is_v8
    cdef size_t header
    if left < 4:
        return 4
    is_v8 = (swap32(load32(p)) if swap else load32(p)) == MAGIC | 8
    header = HEADER_V8 if is_v8 else HEADER_V7
    if left < header:
        return header
    if is_v8:
        return header + (swap16((<const TraceV8 *> p).pdu_len) if swap
                         else (<const TraceV8 *> p).pdu_len)
    return header + (swap16((<const TraceV7 *> p).pdu_len) if swap
                     else (<const TraceV7 *> p).pdu_len)


cdef class Merger:
    """See merger.pyi for what users need to know."""

    cdef Merge m
    cdef Window *windows
    cdef Py_ssize_t n_files
    cdef int swap                               # all files' byte order; -1: not known yet
    cdef bint resync
    cdef bint started
    cdef bint shifts                            # any file's times
    cdef readonly uint64_t lost_events
    cdef readonly uint64_t skipped_bytes
    cdef readonly uint64_t padding_bytes
    cdef readonly list failures
    cdef dict _arrays                           # name or file -> the array behind a pointer
    cdef list _names
    cdef list _readers
    cdef list _skips
    cdef Missing at_ends                        # of files, before which no record holds it
    cdef object _out
    cdef object _failure

    def __init__(
        self, names, readers, *, size_t window_bytes, size_t output_bytes=1 << 20, resync=False
    ):
        cdef Py_ssize_t i
        cdef size_t stride = (window_bytes + CHUNK + STAGGER + 63) & ~<size_t> 63
        cdef uint8_t *begin
        cdef uint8_t[::1] view
        self._names = list(names)
        self._readers = list(readers)
        self.n_files = len(self._readers)
        if not 1 <= self.n_files <= 1 << 20 or len(self._names) != self.n_files:
            raise ValueError(f"{len(self._names)} names and {self.n_files} readers")
        if not 1 <= window_bytes <= 1 << 30:
            raise ValueError(f"window_bytes must be from 1 to 2^30, not {window_bytes}")
        if not MAX_RECORD <= output_bytes <= 1 << 30:
            raise ValueError(f"output_bytes must be from {MAX_RECORD} to 2^30, not {output_bytes}")
        self._arrays = {}
        self._skips = []
        self._failure = None
        self.failures = []
        self.lost_events = 0
        self.skipped_bytes = 0
        self.padding_bytes = 0
        self.at_ends = Missing(0, 0)
        self.resync = resync
        self.swap = -1
        self.started = False
        self.shifts = False

        self.m.leaves = 1
        while self.m.leaves < <size_t> self.n_files:
            self.m.leaves *= 2
        self.m.tree = <uint128_t *> self._allocate("tree", self.m.leaves * sizeof(uint128_t))
        self.m.heads = <Head *> self._allocate("heads", self.n_files * sizeof(Head))
        self.m.shifts = <uint64_t *> self._allocate("shifts", self.n_files * sizeof(uint64_t))
        self.windows = <Window *> self._allocate("windows", self.n_files * sizeof(Window))
        begin = self._allocate("input", self.n_files * stride)
        for i in range(self.n_files):
            self.windows[i] = Window(
                begin + i * stride, window_bytes, 0, False, False, False, 0, Missing(0, 0)
            )
            self.m.heads[i] = Head(self.windows[i].begin, self.windows[i].begin, 0)
        self.m.dry = -1
        self.m.n_out = 0
        self.m.room = output_bytes
        array = np.zeros(output_bytes + CHUNK, dtype=np.uint8)
        self._arrays["output"] = array
        view = array
        self.m.out = &view[0]
        self._out = memoryview(array).toreadonly()

    cdef uint8_t *_allocate(self, name, size_t n_bytes) except NULL:
        """A zeroed array, aligned to a cache line: address space only, until it is written to."""
        array = np.zeros(n_bytes + 64, dtype=np.uint8)
        self._arrays[name] = array
        cdef uint8_t[::1] view = array
        return <uint8_t *> ((<uintptr_t> &view[0] + 63) & ~<uintptr_t> 63)

    def read(self):
        cdef Merge *m = &self.m
        cdef Stop stop = STOP_FULL
        if self._failure is not None:
            raise self._failure
        m.n_out = 0
        try:
            if not self.started:
                self._start()
            while True:
                if m.dry >= 0:
                    self._attend(m.dry)
                    m.dry = -1
                if self._is_missing() and m.n_out:
                    break
                self._tell_next()
                with nogil:
                    if self.shifts:
                        if self.swap > 0:
                            stop = merge_all(m, True, True)
                        else:
                            stop = merge_all(m, False, True)
                    elif self.swap > 0:
                        stop = merge_all(m, True, False)
                    else:
                        stop = merge_all(m, False, False)
                if stop == STOP_END or stop == STOP_FULL and not self._is_missing():
                    break
        except BaseException as error:
            self._failure = error               # there is nothing to go on from
            self._tell_all()
            if m.n_out == 0 or not isinstance(error, TraceError):
                raise
        return self._out[:m.n_out]

    def peek(self, whole):
        cdef Py_ssize_t i
        if self.started or len(whole) != self.n_files:
            raise ValueError(f"{self.n_files} files, before the first read")
        beginnings = []
        for i in range(self.n_files):
            self._fill(i, self.windows[i].room if whole[i] else 4)
            length = self.m.heads[i].end - self.m.heads[i].at
            beginnings.append(self.m.heads[i].at[:length])
        return beginnings

    def shift(self, by_ns):
        cdef Py_ssize_t i
        if self.started or len(by_ns) != self.n_files:
            raise ValueError(f"{self.n_files} files, before the first read")
        for i in range(self.n_files):
            self.m.shifts[i] = by_ns[i]
            self.shifts |= self.m.shifts[i] != 0

    def take_skips(self):
        skips = self._skips
        self._skips = []
        return skips

    # -- what is missing

    cdef bint _is_missing(self) noexcept:
        """Whether something is to be told before anything else is handed out."""
        cdef uint128_t winner = self.m.tree[0]
        if self.at_ends.lost_events or self.at_ends.skipped_bytes:
            return True
        return winner != ENDED and self.m.heads[<size_t> <uint64_t> winner].length == HELD

    cdef void _tell_next(self) noexcept:
        """Tell it, if anything is."""
        cdef uint128_t winner = self.m.tree[0]
        self._tell(&self.at_ends)
        if winner != ENDED:
            self._release(<size_t> <uint64_t> winner)

    cdef void _tell_all(self) noexcept:
        """Nothing is due any more."""
        cdef Py_ssize_t i
        self._tell(&self.at_ends)
        for i in range(self.n_files):
            self._tell(&self.windows[i].missing)

    cdef void _hold(self, size_t file) noexcept:
        """Stop the kernel when a file's next record is due, if something is missing before it."""
        cdef Window *w = &self.windows[file]
        if w.missing.lost_events or w.missing.skipped_bytes:
            w.length = self.m.heads[file].length
            self.m.heads[file].length = HELD

    cdef void _release(self, size_t file) noexcept:
        if self.m.heads[file].length == HELD:
            self.m.heads[file].length = self.windows[file].length
            self._tell(&self.windows[file].missing)

    cdef void _tell(self, Missing *missing) noexcept:
        self.lost_events += missing.lost_events
        self.skipped_bytes += missing.skipped_bytes
        missing[0] = Missing(0, 0)

    # -- where the kernel cannot go on

    cdef int _start(self) except -1:
        """Find every file's first record.

        Each leaf of the empty tree is played once. What it holds at first, zeros, is the least
        key: it moves up and out, one at a time, and with the last file the first winner comes.
        """
        cdef size_t i
        for i in range(<size_t> self.n_files):
            self._fill(i, 4)
        for i in range(<size_t> self.n_files):
            if self.swap < 0 and self.m.heads[i].end - self.m.heads[i].at >= 4:
                self.swap = sniff(load32(self.m.heads[i].at))
        for i in range(self.m.leaves):
            if i < <size_t> self.n_files:
                self._attend(i)
            else:
                replay(&self.m, i, ENDED)
        self.started = True
        return 0

    cdef int _attend(self, size_t file) except -1:
        """Find a file's next record and let it play; or find that it has ended."""
        cdef:
            Head *h = &self.m.heads[file]
            uint64_t time_ns = 0
            uint64_t events = 0
            size_t left, length, need
            bint is_record
            int mark
        while True:
            left = h.end - h.at
            if self.swap >= 0 and look(h, self.swap, &time_ns):
                self.windows[file].has_records = True
                self._hold(file)
                replay(&self.m, file, key_of(time_ns + self.m.shifts[file], file))
                return 0
            if left == 0:                       # else the first of some zeros may not be seen
                self._fill(file, 1)
            if h.at != h.end and h.at[0] == 0 and self._skip_padding(file):
                continue
            left = h.end - h.at                 # as more may have been read to count the zeros
            if self.swap < 0 and left >= 4:
                self.swap = sniff(load32(h.at))
            length = 0
            mark = parse_lost(h.at, left, &length, &events)
            if mark > 0:
                self.windows[file].missing.lost_events += events
                h.at += length
                continue
            is_record = self.swap >= 0 and left >= 4 and sniff(load32(h.at)) == self.swap
            need = bytes_needed(h.at, left, self.swap) if is_record or left < 4 else left + 1
            if is_record and need <= left:
                continue                        # the byte order is known only now
            if is_record or mark == 0 or left < 4:
                if self._fill(file, need):
                    continue
                if h.at != h.end:
                    self._end_inside(file, need)
            elif self._find_next(file):
                continue
            self.at_ends.lost_events += self.windows[file].missing.lost_events
            self.at_ends.skipped_bytes += self.windows[file].missing.skipped_bytes
            self.windows[file].missing = Missing(0, 0)
            replay(&self.m, file, ENDED)
            return 0

    cdef bint _fill(self, size_t file, size_t need) except -1:
        """Read on until `need` bytes stand at the file's head; False: it ends before."""
        cdef Head *h = &self.m.heads[file]
        cdef Window *w = &self.windows[file]
        cdef size_t left = h.end - h.at
        cdef uint8_t *begin = w.begin
        cdef uint8_t[::1] space
        cdef size_t n
        if left >= need or w.at_end:
            return left >= need
        held = self._arrays.get(file)           # until its bytes have moved
        if need > w.room:
            begin = self._allocate(file, 2 * need + CHUNK)
            w.room = 2 * need
        memmove(begin, h.at, left)
        w.offset += h.at - w.begin
        w.begin = begin
        h.at = begin
        del held
        while left < need and not w.at_end:
            space = <uint8_t[:w.room - left]> (begin + left)
            try:
                n = self._readers[file](memoryview(space))
            except (OSError, SourceError) as error:
                self.failures.append(error)
                w.failed = True
                n = 0
            if n > w.room - left:
                raise ValueError(f"{self._names[file]}: {n} bytes read into {w.room - left}")
            w.at_end = n == 0
            left += n
        h.end = begin + left
        return left >= need

    cdef bint _skip_padding(self, size_t file) except -1:
        """Skip zeros behind a record, if they are padding, as the engine does; False: they are not.

        blktrace may write a buffer of zeros when it stops.
        """
        cdef Head *h = &self.m.heads[file]
        cdef Window *w = &self.windows[file]
        cdef size_t zeros
        cdef bint is_last
        if not w.has_records:
            return False
        self._fill(file, MIN_PADDING)
        zeros = zeros_at(h.at, h.end - h.at)
        is_last = w.at_end and zeros == <size_t> (h.end - h.at)
        if zeros < MIN_PADDING and not is_last:
            return False
        while zeros:
            h.at += zeros
            self.padding_bytes += zeros
            self._fill(file, 1)
            zeros = zeros_at(h.at, h.end - h.at)
        return True

    cdef bint _find_next(self, size_t file) except -1:
        """Deal with garbage at a file's head; False: nothing follows up to the file's end."""
        cdef Head *h = &self.m.heads[file]
        cdef uint64_t start = self._offset(file)
        cdef size_t pos
        cdef int found
        if not self.resync:
            found_text, expected = describe_magic(load32(h.at), self.swap)
            if self.swap >= 0 and sniff(load32(h.at)) >= 0:
                expected = f"{expected}, in the byte order of the other files"
            raise TraceError(start, found_text, expected, self._names[file])
        h.at += 1
        while True:
            pos = 0
            with nogil:
                found = find_record(h.at, h.end - h.at, &pos, &self.swap)
            h.at += pos
            if found > 0:
                break
            if self._fill(file, h.end - h.at + 1):
                continue
            if found == 0:
                h.at = h.end
                break
            h.at += 1                           # it was too short to tell, and is garbage by now
        self._note_skip(file, start)
        return found > 0

    cdef int _end_inside(self, size_t file, size_t need) except -1:
        """A file has ended inside a record: to be told when all that is whole has been read."""
        cdef Head *h = &self.m.heads[file]
        cdef uint64_t start = self._offset(file)
        cdef size_t left = h.end - h.at
        h.at = h.end
        if self.resync:
            self._note_skip(file, start)
        elif not self.windows[file].failed:     # else that is why
            self.failures.append(TraceError(
                start, f"the end of the file {left} bytes into a record",
                f"{need} bytes at least", self._names[file],
            ))
        return 0

    cdef int _note_skip(self, size_t file, uint64_t start) except -1:
        cdef uint64_t n = self._offset(file) - start
        self.windows[file].missing.skipped_bytes += n
        self._skips.append((self._names[file], start, n))
        return 0

    cdef uint64_t _offset(self, size_t file) noexcept:
        """Of a file's head in the file."""
        return self.windows[file].offset + (self.m.heads[file].at - self.windows[file].begin)
