# distutils: language = c
"""Merges trace files of several CPUs or devices into one stream in order of time.

    readers -> windows, one a file -> tournament tree -> output -> the engine

Technique: a tournament (loser) tree over the files' next records. Each inner node holds the loser
of its match; the overall winner is on top. When the winner has been copied, the next record of its
file plays only against the losers on its way up. The file alone determines these nodes, so the
processor can load them early. No branch depends on who wins, so none is mispredicted. A record
costs the same in whatever order the files take turns.

The kernel, merge_all(), is `noexcept nogil` and never allocates. It stops when the output is full,
or when a file's next record is incomplete or not a record. Merger then deals with that file and
starts the kernel again.

Lost events and skipped bytes before a record are counted when that record is due, after everything
before it has been returned. They count as if they were in the merged stream.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memmove

from blkiomon.engine.types cimport *

import numpy as np

from blkiomon.errors import TraceError

include "../engine/records.pxi"


cdef enum Stop:                                 # why the kernel stopped
    STOP_FULL                                   # the output has no room for the next record
    STOP_DRY                                    # file Merge.dry needs bytes or has no record
    STOP_END                                    # all files have ended

cdef enum:
    CHUNK = 64                                  # bytes copied of every record, however short
    AHEAD = 512                                 # prefetch distance in bytes
    HELD = (1 << 30) + 1                        # longer than any output: see _hold()
    STAGGER = 5 * 64                            # windows begin in different sets of the cache

cdef struct Head:                               # a file's next record
    const uint8_t *at                           # complete, unless the file is Merge.dry
    const uint8_t *end                          # of the bytes read into the window
    size_t length                               # of the record; HELD: count Window.missing first
    uint64_t next_ns                            # time of the record after it, if in the window

cdef struct Missing:                            # read, but not counted yet
    uint64_t lost_events
    uint64_t skipped_bytes

cdef struct Window:                             # a part of a file in memory
    uint8_t *begin                              # CHUNK bytes after the room may be read
    size_t room
    uint64_t offset                             # of `begin` in the file
    bint at_end                                 # the reader has returned everything
    bint failed                                 # the reader raised: see Merger.failures
    bint has_records                            # at least one was found
    size_t length                               # of the record, while Head.length is HELD
    Missing missing                             # before that record

cdef struct Merge:
    Head *heads                                 # one a file, in the order that decides ties
    uint64_t *shifts                            # one a file: ns added to its records' times
    uint128_t *tree                             # keys: the winner, then losers; see replay()
    size_t leaves                               # number of files, rounded up to a power of two
    Py_ssize_t dry                              # the file that stopped the kernel; -1: none
    uint8_t *out
    size_t n_out
    size_t room                                 # CHUNK bytes after it may be written

cdef uint128_t ENDED = <uint128_t> 0 - 1        # key of a file that has ended: the greatest

cdef extern from *:
    """
    /* Exchanges two keys if the second is less. The outcome cannot be predicted, so it must not be
       a branch: the empty asm hides from the compiler that the mask is all ones or all zeros. */
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
    """Order of records: by time, then by file. Less than ENDED."""
    return <uint128_t> time_ns << 64 | file


cdef inline uint128_t replay(Merge *m, size_t file, uint128_t key) noexcept nogil:
    """Replace the winner, a file's old key, by its new key, and play the matches on its way up.

    Returns the new winner, which the caller stores in tree[0]. tree[i] is the loser of the match
    between nodes 2i and 2i+1. The leaves are nodes `leaves` to 2 * leaves - 1.
    """
    cdef size_t node = (m.leaves + file) >> 1
    while node:
        put_in_order(&key, &m.tree[node])
        node >>= 1
    return key


cdef inline uint64_t time_at(const uint8_t *record, bint swap) noexcept nogil:
    """The time of a record, which is at the same offset in both versions."""
    cdef uint64_t time_ns = (<const TraceV7 *> record).time
    return swap64(time_ns) if swap else time_ns


cdef inline bint read_head(Head *h, bint swap) noexcept nogil:
    """Whether there is a complete record at h.at; if so, sets its length and next_ns."""
    cdef size_t left = h.end - h.at
    cdef uint64_t time_ns
    if unlikely(left < HEADER_V7):
        return False
    h.length = record_length(h.at, left, swap, &time_ns)
    if unlikely(h.length == 0 or left < h.length):
        return False
    h.next_ns = time_at(h.at + h.length, swap)
    return True


cdef inline void shift_time(uint8_t *record, bint swap, uint64_t shift_ns) noexcept nogil:
    """Add to a record's time."""
    cdef uint64_t time_ns = time_at(record, swap) + shift_ns
    (<TraceV7 *> record).time = swap64(time_ns) if swap else time_ns


cdef inline Stop merge_all(Merge *m, bint swap, bint shifts) noexcept nogil:
    """Copy records to the output. `swap` and `shifts` are constants at every call.

    Each round waits for the winner of the round before. This takes little time, as Head.next_ns
    has the time of the winner's next record: read_head() checks that record meanwhile.
    """
    cdef:
        uint8_t *out = m.out + m.n_out
        uint8_t *out_end = m.out + m.room
        size_t file
        uint64_t time_ns
        uint128_t winner = m.tree[0]
        Head *h
        Stop stop
    while True:
        if unlikely(winner == ENDED):
            stop = STOP_END
            break
        file = <size_t> <uint64_t> winner
        h = &m.heads[file]
        if unlikely(<size_t> (out_end - out) < h.length):
            stop = STOP_FULL
            break
        memcpy(out, h.at, CHUNK)                # constant length: inlined
        if unlikely(h.length > CHUNK):
            memcpy(out + CHUNK, h.at + CHUNK, h.length - CHUNK)
        if shifts:
            shift_time(out, swap, m.shifts[file])
        out += h.length
        h.at += h.length
        time_ns = h.next_ns
        prefetch_input(h.at + AHEAD)
        if unlikely(not read_head(h, swap)):
            m.dry = <Py_ssize_t> file
            stop = STOP_DRY
            break
        if shifts:
            time_ns += m.shifts[file]
        winner = replay(m, file, key_of(time_ns, file))
    m.tree[0] = winner
    m.n_out = out - m.out
    return stop


cdef size_t bytes_needed(const uint8_t *p, size_t left, int swap) noexcept nogil:
    """Length of the record at p, as far as the `left` bytes there say."""
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


@cython.final
cdef class Merger:
    """See merger.pyi for what users need to know."""

    cdef Merge m
    cdef Window *windows
    cdef Py_ssize_t n_files
    cdef uint64_t busy                          # 1 while a thread is inside a method: see _enter()
    cdef int swap                               # byte order of all files; -1: unknown
    cdef bint resync
    cdef bint started
    cdef bint shifts                            # any of Merge.shifts is not 0
    cdef readonly uint64_t lost_events
    cdef readonly uint64_t skipped_bytes
    cdef readonly uint64_t padding_bytes
    cdef readonly list failures
    cdef dict _arrays                           # name or file -> the numpy array of a pointer
    cdef list _names
    cdef list _readers
    cdef list _skips
    cdef Missing at_ends                        # missing before the ends of files
    cdef object _out
    cdef object _failure

    # Not __init__: C state is set up exactly once.
    def __cinit__(
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
        self.failures = []
        self.resync = resync
        self.swap = -1
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
            self.m.heads[i] = Head(self.windows[i].begin, self.windows[i].begin, 0, 0)
        self.m.dry = -1
        self.m.room = output_bytes
        array = np.zeros(output_bytes + CHUNK, dtype=np.uint8)
        self._arrays["output"] = array
        view = array
        self.m.out = &view[0]
        self._out = memoryview(array).toreadonly()

    cdef uint8_t *_allocate(self, name, size_t n_bytes) except NULL:
        """Zeroed memory, aligned to a cache line; pages are used only when written to."""
        array = np.zeros(n_bytes + 64, dtype=np.uint8)
        self._arrays[name] = array
        cdef uint8_t[::1] view = array
        return <uint8_t *> ((<uintptr_t> &view[0] + 63) & ~<uintptr_t> 63)

    cdef int _enter(self) except -1:
        """Begin to use the merger; _leave() ends that. Atomic, also without a GIL."""
        if exchange(&self.busy, 1):
            raise RuntimeError("another thread is using this merger")
        return 0

    cdef void _leave(self) noexcept:
        store_release(&self.busy, 0)

    def read(self):
        self._enter()
        try:
            return self._read()
        finally:
            self._leave()

    cdef _read(self):
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
                    self._next_record(m.dry)
                    m.dry = -1
                if self._has_due() and m.n_out:
                    break
                self._count_due()
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
                if stop == STOP_END or stop == STOP_FULL and not self._has_due():
                    break
        except BaseException as error:
            self._failure = error
            self._count_all()
            if m.n_out == 0 or not isinstance(error, TraceError):
                raise
        return self._out[:m.n_out]

    def peek(self, whole):
        cdef Py_ssize_t i
        if self.started or len(whole) != self.n_files:
            raise ValueError(f"{self.n_files} files, before the first read")
        self._enter()
        try:
            beginnings = []
            for i in range(self.n_files):
                self._fill(i, self.windows[i].room if whole[i] else 4)
                length = self.m.heads[i].end - self.m.heads[i].at
                beginnings.append(self.m.heads[i].at[:length])
            return beginnings
        finally:
            self._leave()

    def shift(self, by_ns):
        cdef Py_ssize_t i
        if self.started or len(by_ns) != self.n_files:
            raise ValueError(f"{self.n_files} files, before the first read")
        self._enter()
        try:
            for i in range(self.n_files):
                self.m.shifts[i] = by_ns[i]
                self.shifts |= self.m.shifts[i] != 0
        finally:
            self._leave()

    def take_skips(self):
        skips = []
        self._enter()
        skips, self._skips = self._skips, skips
        self._leave()
        return skips

    # -- lost events and skipped bytes

    cdef bint _has_due(self) noexcept:
        """Whether _count_due() would count anything."""
        cdef uint128_t winner = self.m.tree[0]
        if self.at_ends.lost_events or self.at_ends.skipped_bytes:
            return True
        return winner != ENDED and self.m.heads[<size_t> <uint64_t> winner].length == HELD

    cdef void _count_due(self) noexcept:
        """Count the lost events and skipped bytes before the next record."""
        cdef uint128_t winner = self.m.tree[0]
        self._count(&self.at_ends)
        if winner != ENDED:
            self._release(<size_t> <uint64_t> winner)

    cdef void _count_all(self) noexcept:
        """Count the lost events and skipped bytes of all files, after a failure."""
        cdef Py_ssize_t i
        self._count(&self.at_ends)
        for i in range(self.n_files):
            self._count(&self.windows[i].missing)

    cdef void _hold(self, size_t file) noexcept:
        """Make a file's next record stop the kernel, if something has to be counted before it."""
        cdef Window *w = &self.windows[file]
        if w.missing.lost_events or w.missing.skipped_bytes:
            w.length = self.m.heads[file].length
            self.m.heads[file].length = HELD

    cdef void _release(self, size_t file) noexcept:
        """Undo _hold(), and count what was missing before the record."""
        if self.m.heads[file].length == HELD:
            self.m.heads[file].length = self.windows[file].length
            self._count(&self.windows[file].missing)

    cdef void _count(self, Missing *missing) noexcept:
        self.lost_events += missing.lost_events
        self.skipped_bytes += missing.skipped_bytes
        missing[0] = Missing(0, 0)

    # -- a file's next record

    cdef int _start(self) except -1:
        """Find every file's first record, and build the tree.

        All keys of the empty tree are 0, the least. Each leaf plays once, and a 0 wins and is
        dropped, until all leaves have played: then the winner is the first record.
        """
        cdef size_t i
        for i in range(<size_t> self.n_files):
            self._fill(i, 4)
        for i in range(<size_t> self.n_files):
            if self.swap < 0 and self.m.heads[i].end - self.m.heads[i].at >= 4:
                self.swap = byte_order_of(load32(self.m.heads[i].at))
        for i in range(self.m.leaves):
            if i < <size_t> self.n_files:
                self._next_record(i)
            else:
                self.m.tree[0] = replay(&self.m, i, ENDED)
        self.started = True
        return 0

    cdef int _next_record(self, size_t file) except -1:
        """Find a file's next record or its end, and enter its key in the tournament.

        On the way, skips padding, counts marks of lost events, and skips garbage with `resync`.
        """
        cdef:
            Head *h = &self.m.heads[file]
            uint64_t time_ns
            uint64_t events = 0
            size_t left, length, need
            bint is_record
            int mark
        while True:
            left = h.end - h.at
            if self.swap >= 0 and read_head(h, self.swap):
                self.windows[file].has_records = True
                self._hold(file)
                time_ns = time_at(h.at, self.swap) + self.m.shifts[file]
                self.m.tree[0] = replay(&self.m, file, key_of(time_ns, file))
                return 0
            if left == 0:                       # padding may follow
                self._fill(file, 1)
            if h.at != h.end and h.at[0] == 0 and self._skip_padding(file):
                continue
            left = h.end - h.at                 # _skip_padding() may have read more
            if self.swap < 0 and left >= 4:
                self.swap = byte_order_of(load32(h.at))
            length = 0
            mark = parse_lost(h.at, left, &length, &events)
            if mark > 0:
                self.windows[file].missing.lost_events += events
                h.at += length
                continue
            is_record = self.swap >= 0 and left >= 4 and byte_order_of(load32(h.at)) == self.swap
            need = bytes_needed(h.at, left, self.swap) if is_record or left < 4 else left + 1
            if is_record and need <= left:
                continue                        # now the byte order is known
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
            self.m.tree[0] = replay(&self.m, file, ENDED)
            return 0

    cdef bint _fill(self, size_t file, size_t need) except -1:
        """Read until there are `need` bytes at the head of a file; False if it ends before."""
        cdef Head *h = &self.m.heads[file]
        cdef Window *w = &self.windows[file]
        cdef size_t left = h.end - h.at
        cdef uint8_t *begin = w.begin
        cdef uint8_t[::1] space
        cdef size_t n
        if left >= need or w.at_end:
            return left >= need
        held = self._arrays.get(file)           # keep the old window until it is copied
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
            except OSError as error:
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
        """Skip zeros after a record if they are padding; False if they are not.

        blktrace may write a buffer of zeros when it stops. The engine has the same rule.
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
        """Skip garbage at the head of a file; False if no record follows. Raises TraceError."""
        cdef Head *h = &self.m.heads[file]
        cdef uint64_t start = self._offset(file)
        cdef size_t pos
        cdef int found
        if not self.resync:
            found_text, expected = describe_magic(load32(h.at), self.swap)
            if self.swap >= 0 and byte_order_of(load32(h.at)) >= 0:
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
            h.at += 1                           # too short to decide: garbage
        self._note_skip(file, start)
        return found > 0

    cdef int _end_inside(self, size_t file, size_t need) except -1:
        """Note that a file has ended inside a record. The complete records before it count."""
        cdef Head *h = &self.m.heads[file]
        cdef uint64_t start = self._offset(file)
        cdef size_t left = h.end - h.at
        h.at = h.end
        if self.resync:
            self._note_skip(file, start)
        elif not self.windows[file].failed:
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
        """Offset of the head in its file."""
        return self.windows[file].offset + (self.m.heads[file].at - self.windows[file].begin)
