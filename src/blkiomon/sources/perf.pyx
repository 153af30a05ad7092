# distutils: language = c
"""Perf rings: samples of the kernel's block tracepoints in, trace records in order of time out.

    tracepoints -> one ring a CPU -> merge by time (binary heap) -> trace records

perf_event_open(2) gives each CPU a ring in memory that the kernel writes samples to. One ring takes
all events of its CPU, so inside a ring samples are in order of time. ``PerfRings.read`` merges the
rings and writes each sample as a trace record for ``Engine.feed``, in the form that blktrace has
for it: of version 7, or of version 8 if it has a category that version 7 lacks. The rings end with
their file descriptors: nothing of a capture stays in the kernel, however the process ends.

A sample may arrive in its ring a little after a later one arrived in another ring. So ``read``
returns the samples that are older than ``LATENESS_NS`` and leaves the rest in the rings. A sample
that arrives even later is returned at once: the engine pairs records that are slightly out of
order.

If a ring is full, the kernel drops samples, and does not always write a mark to the ring. But it
counts every event, written or not. The number of lost events is that count, less the samples that
were read or are still in the ring.

The layout of samples differs between kernels: it is read from tracefs, see ``capture.py``.
"""

from libc.errno cimport errno
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from blkiomon.engine.types cimport *

cimport cython

import os

import numpy as np

cdef extern from *:
    """
    #include <linux/perf_event.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    static int bk_open_event(uint64_t id, int cpu, uint32_t wakeup_bytes) {
        struct perf_event_attr attr;
        memset(&attr, 0, sizeof attr);
        attr.type = PERF_TYPE_TRACEPOINT;
        attr.size = sizeof attr;
        attr.config = id;
        attr.sample_period = 1;
        attr.sample_type = PERF_SAMPLE_TIME | PERF_SAMPLE_RAW;
        attr.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED;
        attr.disabled = 1;
        attr.watermark = 1;
        attr.wakeup_watermark = wakeup_bytes;
        attr.use_clockid = 1;
        attr.clockid = CLOCK_MONOTONIC;
        return syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    }
    static inline uint64_t bk_clock_ns(int clock) {
        struct timespec t;
        clock_gettime(clock, &t);
        return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    static inline uint64_t bk_little_endian64(uint64_t x) {
        return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? __builtin_bswap64(x) : x;
    }
    #define bk_data_head(page) __atomic_load_n(&(page)->data_head, __ATOMIC_ACQUIRE)
    #define bk_set_data_tail(page, x) __atomic_store_n(&(page)->data_tail, (x), __ATOMIC_RELEASE)
    """
    cdef struct perf_event_mmap_page:
        uint64_t data_tail
    enum:
        PERF_EVENT_IOC_ENABLE
        PERF_EVENT_IOC_DISABLE
        PERF_EVENT_IOC_SET_OUTPUT
        PERF_EVENT_IOC_SET_FILTER
        PERF_RECORD_SAMPLE
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        CLOCK_MONOTONIC
        CLOCK_REALTIME
    uint64_t little_endian64 "bk_little_endian64"(uint64_t x) nogil
    int open_event "bk_open_event"(uint64_t id, int cpu, uint32_t wakeup_bytes) nogil
    uint64_t clock_ns "bk_clock_ns"(int clock) nogil
    uint64_t data_head "bk_data_head"(perf_event_mmap_page *page) nogil
    void set_data_tail "bk_set_data_tail"(perf_event_mmap_page *page, uint64_t tail) nogil
    int ioctl(int fd, unsigned long request, ...) nogil
    void *mmap(void *at, size_t length, int protection, int flags, int fd, long offset) nogil
    int munmap(void *at, size_t length) nogil
    ssize_t read_fd "read"(int fd, void *buffer, size_t size) nogil
    int close_fd "close"(int fd) nogil

cdef enum:                                      # categories that the engine has no name for
    CAT_SYNC = 1 << 3
    CAT_AHEAD = 1 << 11
    CAT_META = 1 << 12
    CAT_FUA = 1 << 15
    CAT_ZONE_RESET = 1 << 17
    CAT_ZONE_RESET_ALL = 1 << 18
    CAT_ZONE_FINISH = 1 << 19
    CAT_ZONE_OPEN = 1 << 20
    CAT_ZONE_CLOSE = 1 << 21

cdef enum:
    MAX_EVENTS = 8                              # tracepoints of one capture
    MAX_SETS = 64                               # of filters: each set has its own events
    MAX_RINGS = 8192                            # CPUs: as many as a kernel can be built for
    OUTPUT_BYTES = 1 << 18
    MOST_SAMPLE = (1 << 16) - 1                 # bytes: the header has 16 bits for it
    MOST_RECORD_OUT = HEADER_V7 + COMM + HEADER_V8      # a process name and the record itself
    TIME_NOTE_BYTES = HEADER_V7 + 8             # a notify record of the time of day
    PID_AT = 4                                  # of every tracepoint's common_pid, in a sample
    RAW_AT = 20                                 # after the entry's header, time and length
    KNOWN_PROCESSES = 1 << 12                   # direct-mapped cache: names that were written
    KNOWN_OPERATIONS = 64                       # direct-mapped cache: letters of operations

MAX_SETS_OF_FILTERS = MAX_SETS
cdef uint64_t LATENESS_NS = 10_000_000          # three times the most disorder that was measured
cdef uint64_t LEAST_LOOK_NS = 500_000_000       # the kernel's clocks advance in this time
cdef uint64_t NEVER = <uint64_t> -1
cdef uint32_t ALL_BYTES = <uint32_t> -1         # of a completion: all that were issued


cdef struct Event:                              # where the fields of a tracepoint's samples are
    uint16_t id
    uint16_t action                             # of the record: its event
    uint32_t category                           # and the category of that event
    bint is_bio                                 # a bio, identified by its end: see write_record()
    int16_t dev                                 # offsets; -1: the tracepoint has no such field
    int16_t sector
    int16_t nr_sector
    int16_t bytes
    int16_t error
    int16_t rwbs
    int16_t comm
    int16_t rwbs_bytes

cdef struct Operation:                          # letters of an operation: see known_operation()
    uint64_t letters                            # 0: the place is free
    uint32_t category

cdef struct Head:                               # the head of a hidden path of NVMe multipath
    uint32_t path                               # numbers of both
    uint32_t head

cdef struct Numbers:                            # of a few devices
    const uint32_t *numbers
    size_t n

cdef struct Ring:                               # of one CPU
    perf_event_mmap_page *page                  # NULL: the slot is free
    const uint8_t *data
    uint64_t size                               # bytes of data, a power of two
    uint64_t head                               # end of the samples when data_head was last read
    uint64_t cursor                             # the next sample; all before it have been read
    uint64_t next_ns                            # its time; NEVER: the ring is empty
    uint32_t cpu
    # Of the events of each set; 0: not open. The first has the ring, so its set stays open.
    int fds[MAX_SETS][MAX_EVENTS]
    uint64_t received                           # samples that have been read
    uint64_t counted                            # events of sets that have been closed
    uint64_t enabled_ns                         # how long the first event had been enabled ...
    uint64_t looked_ns                          # ... at this time


# --- samples ----------------------------------------------------------------------------------

cdef inline uint32_t operation(const uint8_t *rwbs, int n) noexcept nogil:
    """The category bits of an operation, from the letters that a tracepoint prints for it.

    The letters are those of the kernel's blk_fill_rwbs(). An F before the operation asks for a
    flush first; an F after it asks for FUA. Linux 7.3 writes WZ for write zeroes and ZA for a zone
    append. It writes ZO, ZC, ZF, ZR and ZRA for open, close, finish, reset and reset all. Earlier
    versions write N for all of these, as for passthrough requests.
    """
    cdef uint32_t bits = 0
    cdef int i = 0
    cdef uint8_t c
    if n > 1 and rwbs[0] == c"F" and rwbs[1] != 0:
        bits |= CAT_FLUSH
        i = 1
    c = rwbs[i] if i < n else 0
    i += 1
    if c == c"R":
        bits |= CAT_READ
    elif c == c"W":
        bits |= CAT_WRITE
        if i < n and rwbs[i] == c"Z":
            bits |= CAT_WRITE_ZEROES
            i += 1
    elif c == c"D":
        bits |= CAT_WRITE | CAT_DISCARD
        if i < n and rwbs[i] == c"E":           # secure erase
            i += 1
    elif c == c"F":
        bits |= CAT_READ | CAT_FLUSH            # as in blktrace's records: not a write
    elif c == c"Z":
        c = rwbs[i] if i < n else 0
        i += 1
        bits |= CAT_WRITE
        if c == c"A":
            bits |= CAT_ZONE_APPEND
        elif c == c"R" and i < n and rwbs[i] == c"A":
            bits |= CAT_ZONE_RESET_ALL
            i += 1
        elif c == c"R":
            bits |= CAT_ZONE_RESET
        elif c == c"F":
            bits |= CAT_ZONE_FINISH
        elif c == c"O":
            bits |= CAT_ZONE_OPEN
        elif c == c"C":
            bits |= CAT_ZONE_CLOSE
    else:
        bits |= CAT_READ | CAT_PC               # N: the direction is unknown
    while i < n and rwbs[i] != 0:
        c = rwbs[i]
        i += 1
        if c == c"F":
            bits |= CAT_FUA
        elif c == c"S":
            bits |= CAT_SYNC
        elif c == c"M":
            bits |= CAT_META
        elif c == c"A":
            bits |= CAT_AHEAD
    return bits


cdef inline uint32_t load_u32(const uint8_t *p) noexcept nogil:
    cdef uint32_t x
    memcpy(&x, p, sizeof(x))
    return x


cdef inline uint32_t known_operation(
    Operation *known, const uint8_t *rwbs, int n
) noexcept nogil:
    """Returns operation(), cached (direct-mapped) if the letters fit in eight bytes."""
    cdef uint64_t letters
    cdef uint64_t end                           # the highest bit of the first zero byte, and above
    cdef Operation *p
    # The first letter in the lowest byte. rwbs has at least eight bytes: see _add_event().
    letters = little_endian64(load64(rwbs))
    end = (letters - <uint64_t> 0x0101010101010101) & ~letters & <uint64_t> 0x8080808080808080
    letters &= (end & (0 - end)) - 1            # the kernel does not clear bytes after the zero
    p = &known[letters * <uint64_t> 0x9e3779b97f4a7c15 >> 58]
    if unlikely(p.letters != letters or letters == 0 or end == 0):
        p.letters = letters if end != 0 else 0  # letters may follow
        p.category = operation(rwbs, n)
    return p.category


cdef inline bint is_among(const Numbers *few, uint32_t number) noexcept nogil:
    cdef size_t i
    for i in range(few.n):
        if few.numbers[i] == number:
            return True
    return False


cdef size_t write_record(
    const Event *e, Operation *known, const Numbers *zoned, const uint8_t *raw, uint32_t device,
    uint64_t time_ns, uint32_t cpu, uint8_t *out,
) noexcept nogil:
    """Write a sample as a trace record; returns its length.

    A flush or a passthrough request has no sector: the kernel then prints -1 at the completion and
    0 at the issue. Both become 0. A bio that was split completes with its last piece. So a bio is
    identified by the sector after its end, and its completion is of ALL_BYTES.
    """
    cdef TraceV7 *v7 = <TraceV7 *> out
    cdef TraceV8 *v8 = <TraceV8 *> out
    cdef uint32_t category = known_operation(known, raw + e.rwbs, e.rwbs_bytes)
    cdef uint32_t sectors = load_u32(raw + e.nr_sector)
    cdef uint32_t n_bytes = load_u32(raw + e.bytes) if e.bytes >= 0 else sectors << 9
    cdef uint64_t sector = load64(raw + e.sector)
    if category & CAT_PC and sectors != 0 and sector != NEVER and not is_among(zoned, device):
        # Write zeroes before Linux 7.3. Only a passthrough request has no sector or no length. On
        # a zoned device it may be a zone append: what it is is not known.
        category ^= CAT_READ | CAT_PC | CAT_WRITE | CAT_WRITE_ZEROES
    if sector == NEVER:
        sector = 0
    if e.is_bio:
        sector += sectors
        if e.category & CAT_COMPLETE:
            n_bytes = ALL_BYTES
    if category & CAT_PC == 0:
        category |= CAT_FS
    if e.category & CAT_QUEUE:
        category &= ~<uint32_t> (CAT_FS | CAT_PC)
    category |= e.category
    # Both versions have the same fields up to the size.
    v7.sequence = 0
    v7.time = time_ns
    v7.sector = sector
    v7.bytes = n_bytes
    if likely(category >> 16 == 0):
        v7.magic = MAGIC | 7
        v7.action = category << 16 | e.action
        v7.pid = load_u32(raw + PID_AT)
        v7.device = device
        v7.cpu = cpu
        v7.error = error_of(e, raw)
        v7.pdu_len = 0
        return sizeof(TraceV7)
    v8.magic = MAGIC | 8
    v8.pid = load_u32(raw + PID_AT)
    v8.action = <uint64_t> category << 16 | e.action
    v8.device = device
    v8.cpu = cpu
    v8.error = error_of(e, raw)
    v8.pdu_len = 0
    memset(v8.pad, 0, sizeof(v8.pad))
    return sizeof(TraceV8)


cdef inline uint16_t error_of(const Event *e, const uint8_t *raw) noexcept nogil:
    """A negative errno, as in blktrace's records."""
    return <uint16_t> load_u32(raw + e.error) if e.error >= 0 else 0


cdef size_t write_note(
    uint8_t *out, uint64_t time_ns, uint32_t cpu, uint32_t note, uint32_t pid,
    const void *payload, uint16_t n_bytes,
) noexcept nogil:
    """Write a notify record: a process name, or the time of day; returns its length."""
    cdef TraceV7 *r = <TraceV7 *> out
    memset(r, 0, sizeof(TraceV7))
    r.magic = MAGIC | 7
    r.time = time_ns
    r.cpu = cpu
    r.action = <uint32_t> CAT_NOTIFY << 16 | note
    r.pid = pid
    r.pdu_len = n_bytes
    memcpy(out + sizeof(TraceV7), payload, n_bytes)
    return sizeof(TraceV7) + n_bytes


cdef inline bint is_known(const Name *p, uint32_t pid, const uint8_t *comm) noexcept nogil:
    return p.pid == pid and memcmp(p.comm, comm, COMM) == 0


cdef size_t write_name(
    Name *p, uint32_t pid, const uint8_t *comm, uint64_t time_ns, uint32_t cpu, uint8_t *out
) noexcept nogil:
    p.pid = pid
    memcpy(p.comm, comm, COMM)
    return write_note(out, time_ns, cpu, NOTE_PROCESS, pid, comm, COMM)


# --- rings ------------------------------------------------------------------------------------

cdef inline const uint8_t *at(const Ring *ring, uint64_t position) noexcept nogil:
    return ring.data + (position & (ring.size - 1))


cdef inline uint16_t size_at(const Ring *ring, uint64_t position) noexcept nogil:
    """Bytes of the entry there, its header included."""
    cdef uint16_t n_bytes
    memcpy(&n_bytes, at(ring, position) + 6, sizeof(n_bytes))
    return n_bytes


cdef void find_next(Ring *ring) noexcept nogil:
    """Move the cursor to the next sample, past entries of other kinds, and note its time."""
    cdef uint16_t n_bytes
    while ring.cursor < ring.head:
        n_bytes = size_at(ring, ring.cursor)
        if load_u32(at(ring, ring.cursor)) == PERF_RECORD_SAMPLE:
            ring.next_ns = load64(at(ring, ring.cursor + 8))
            return
        if n_bytes < 8:                         # the kernel never writes such an entry
            ring.cursor = ring.head
            break
        ring.cursor += n_bytes
    ring.next_ns = NEVER


cdef inline const uint8_t *raw_sample(
    const Ring *ring, uint64_t position, uint8_t *scratch
) noexcept nogil:
    """The tracepoint's own bytes of a sample: in one piece, if need be in `scratch`."""
    cdef uint64_t n = size_at(ring, position) - RAW_AT
    cdef uint64_t first = (position + RAW_AT) & (ring.size - 1)
    if likely(first + n <= ring.size):
        return ring.data + first
    memcpy(scratch, ring.data + first, ring.size - first)
    memcpy(scratch + ring.size - first, ring.data, n - (ring.size - first))
    return scratch


cdef inline int event_of(const Event *events, int n, const uint8_t *raw) noexcept nogil:
    """Index of the event that a sample belongs to; -1 if it is unknown."""
    cdef uint16_t id
    cdef int i
    cdef int found = -1
    memcpy(&id, raw, sizeof(id))
    for i in range(n):                          # no branch: events come in any order
        found = i if events[i].id == id else found
    return found


cdef uint32_t head_of(const Head *heads, size_t n, uint32_t device) noexcept nogil:
    """The head of a hidden path, by binary search; of another device: itself."""
    cdef size_t first = 0
    cdef size_t middle
    while n > 0:
        middle = first + n // 2
        if heads[middle].path < device:
            n -= n // 2 + 1
            first = middle + 1
        else:
            n //= 2
    return heads[first].head if heads[first].path == device else device


cdef inline void sift(Ring **heap, int i, int n) noexcept nogil:
    """Sift down: move the ring at index i of a binary heap by time to its right place."""
    cdef int child
    cdef Ring *ring = heap[i]
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and heap[child + 1].next_ns < heap[child].next_ns:
            child += 1
        if heap[child].next_ns >= ring.next_ns:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = ring


cdef void read_event(int fd, uint64_t *found) noexcept:
    """Read how many events there were, and for how many ns they have been enabled."""
    found[0] = found[1] = 0
    read_fd(fd, found, 2 * sizeof(uint64_t))


cdef uint64_t counted_events(const Ring *ring) noexcept:
    """How many events of a ring there were, by the kernel's own count."""
    cdef uint64_t total = ring.counted
    cdef int i
    for i in range(MAX_SETS):
        total += counted_events_of_set(ring, i)
    return total


cdef uint64_t counted_events_of_set(const Ring *ring, int number) noexcept:
    cdef uint64_t total = 0
    cdef uint64_t found[2]
    cdef int i
    for i in range(MAX_EVENTS):
        if ring.fds[number][i] != 0:
            read_event(ring.fds[number][i], found)
            total += found[0]
    return total


cdef uint64_t samples_waiting(const Ring *ring) noexcept nogil:
    """How many samples the kernel has written that have not been read."""
    cdef uint64_t position = ring.cursor
    cdef uint64_t head = data_head(ring.page)
    cdef uint64_t n = 0
    cdef uint16_t n_bytes
    while position < head:
        n_bytes = size_at(ring, position)
        if n_bytes < 8:
            break
        n += load_u32(at(ring, position)) == PERF_RECORD_SAMPLE
        position += n_bytes
    return n


cdef raise_errno(str call):
    raise OSError(errno, f"{call}: {os.strerror(errno)}")


@cython.final
cdef class PerfRings:
    cdef Event events[MAX_EVENTS]
    cdef int n_events
    cdef uint64_t ring_bytes
    cdef size_t page_bytes
    cdef list memory                            # owns the memory of the pointers below
    cdef Ring *rings                            # n_rings of them, free ones among them
    cdef int n_rings
    cdef Ring **heap                            # of the rings that are merged
    cdef Name *names                            # that have been written
    cdef Operation *operations
    cdef bytes heads_memory
    cdef const Head *heads                      # n_heads, by the number of the path
    cdef size_t n_heads
    cdef dict numbers_memory                    # owns the memory of these two
    cdef Numbers ignored                        # their samples are dropped
    cdef Numbers zoned
    cdef uint8_t *scratch
    cdef bytearray output
    cdef uint8_t *out                           # in it
    cdef uint64_t lost_before                   # by rings that have been closed
    cdef uint64_t lost
    cdef bint has_written_time
    cdef readonly bint has_more

    def __cinit__(self, events, uint64_t ring_bytes, int max_rings):
        if not 0 < len(events) <= MAX_EVENTS:
            raise ValueError(f"events must be from 1 to {MAX_EVENTS}, not {len(events)}")
        if not 0 < max_rings <= MAX_RINGS:
            raise ValueError(f"max_rings must be from 1 to {MAX_RINGS}, not {max_rings}")
        self.page_bytes = os.sysconf("SC_PAGESIZE")
        if ring_bytes < self.page_bytes or ring_bytes & (ring_bytes - 1) != 0:
            raise ValueError(f"ring_bytes must be a power of two, a page or more, not {ring_bytes}")
        self.ring_bytes = ring_bytes
        for event in events:
            self._add_event(**event)
        self.memory = []
        self.numbers_memory = {}
        self.rings = <Ring *> self._room(max_rings * sizeof(Ring))
        self.heap = <Ring **> self._room(max_rings * sizeof(void *))
        self.names = <Name *> self._room(KNOWN_PROCESSES * sizeof(Name))
        self.operations = <Operation *> self._room(KNOWN_OPERATIONS * sizeof(Operation))
        self.scratch = <uint8_t *> self._room(MOST_SAMPLE)
        self.output = bytearray(OUTPUT_BYTES)
        self.out = <uint8_t *> <char *> self.output
        self.n_rings = max_rings

    cdef void *_room(self, size_t n_bytes) except NULL:
        cdef bytearray room = bytearray(n_bytes)
        self.memory.append(room)
        return <void *> <char *> room

    def _add_event(
        self, *, id, action, category, is_bio, dev, sector, nr_sector, bytes, error, rwbs,
        rwbs_bytes, comm,
    ):
        cdef Event *e = &self.events[self.n_events]
        e.id, e.action, e.category, e.is_bio = id, action, category, is_bio
        e.dev, e.sector, e.nr_sector, e.bytes = dev, sector, nr_sector, bytes
        e.error, e.rwbs, e.rwbs_bytes, e.comm = error, rwbs, rwbs_bytes, comm
        if rwbs_bytes < 8:
            raise ValueError(f"rwbs_bytes must be at least 8, not {rwbs_bytes}")
        self.n_events += 1

    def __dealloc__(self):
        self.close()

    def close(self):
        cdef int i
        for i in range(self.n_rings):
            self._close(&self.rings[i])

    # -- CPUs that come and go

    def open(self, uint32_t cpu, sets):
        cdef Ring *ring = self._free_ring()
        memset(ring, 0, sizeof(Ring))
        ring.cpu = cpu
        try:
            for number, filters in sorted(sets.items()):
                self._open(ring, number, filters)
        except BaseException:
            self._close(ring)
            raise
        return ring.fds[0][0]

    cdef Ring *_free_ring(self) except NULL:
        cdef int i
        for i in range(self.n_rings):
            if self.rings[i].page == NULL:
                return &self.rings[i]
        raise ValueError(f"all of {self.n_rings} rings are open")

    cdef _open(self, Ring *ring, int number, filters):
        """Open all events of a set, with a filter each; the first one of a ring maps it."""
        cdef int i, fd
        cdef bytes text
        for i in range(self.n_events):
            fd = open_event(self.events[i].id, ring.cpu, self.ring_bytes // 4)
            if fd < 0:
                raise_errno("perf_event_open")
            ring.fds[number][i] = fd
            text = filters[i]
            if text and ioctl(fd, PERF_EVENT_IOC_SET_FILTER, <const char *> text) != 0:
                raise_errno("PERF_EVENT_IOC_SET_FILTER")
            if ring.page == NULL:
                self._map(ring, fd)
            elif ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, ring.fds[0][0]) != 0:
                raise_errno("PERF_EVENT_IOC_SET_OUTPUT")

    cdef _map(self, Ring *ring, int fd):
        cdef void *page = mmap(
            NULL, self.page_bytes + self.ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0
        )
        if page == <void *> -1:
            raise_errno("mmap")
        ring.page = <perf_event_mmap_page *> page
        ring.data = <const uint8_t *> page + self.page_bytes
        ring.size = self.ring_bytes
        ring.next_ns = NEVER

    def stopped_cpus(self):
        cdef Ring *ring
        cdef uint64_t found[2]
        cdef uint64_t now_ns
        cdef int i
        stopped = []
        for i in range(self.n_rings):
            ring = &self.rings[i]
            now_ns = clock_ns(CLOCK_MONOTONIC)
            if ring.page != NULL and now_ns - ring.looked_ns >= LEAST_LOOK_NS:
                read_event(ring.fds[0][0], found)
                if found[1] == ring.enabled_ns:
                    stopped.append(ring.cpu)
                ring.enabled_ns = found[1]
                ring.looked_ns = now_ns
        return stopped

    def close_cpu(self, uint32_t cpu):
        cdef int i
        for i in range(self.n_rings):
            if self.rings[i].page != NULL and self.rings[i].cpu == cpu:
                self._close(&self.rings[i])

    cdef void _close(self, Ring *ring) noexcept:
        """Close a ring. Its lost events stay counted; samples that were not read count as lost."""
        cdef int i
        if ring.page != NULL:
            self.lost_before += counted_events(ring) - ring.received
            munmap(ring.page, self.page_bytes + self.ring_bytes)
            ring.page = NULL
        for i in range(MAX_SETS):
            self._close_set(ring, i)

    cdef void _close_set(self, Ring *ring, int number) noexcept:
        cdef int i
        ring.counted += counted_events_of_set(ring, number)
        for i in range(MAX_EVENTS):
            if ring.fds[number][i] != 0:
                close_fd(ring.fds[number][i])
                ring.fds[number][i] = 0

    # -- filters

    def add(self, int number, filters):
        cdef int i
        try:
            for i in range(self.n_rings):
                if self.rings[i].page != NULL:
                    self._open(&self.rings[i], number, filters)
        except BaseException:
            self.remove(number)
            raise
        self.enable()

    def remove(self, int number):
        cdef int i
        for i in range(self.n_rings):
            if self.rings[i].page != NULL:
                self._close_set(&self.rings[i], number)

    def ignore(self, numbers):
        self.ignored = self._numbers("ignored", numbers)

    def set_zoned(self, numbers):
        self.zoned = self._numbers("zoned", numbers)

    cdef Numbers _numbers(self, str name, numbers):
        cdef bytes memory = np.array(sorted(numbers), dtype=np.uint32).tobytes()
        self.numbers_memory[name] = memory
        return Numbers(<const uint32_t *> <const char *> memory, len(numbers))

    def set_heads(self, heads):
        last = 0xffffffff, 0xffffffff           # which head_of() may read
        memory = np.array([*sorted(heads.items()), last], dtype=np.uint32).tobytes()
        self.heads = <const Head *> <const char *> memory
        self.heads_memory = memory
        self.n_heads = len(heads)

    def enable(self, bint enabled=True):
        cdef int i, j, k
        cdef unsigned long request = PERF_EVENT_IOC_ENABLE if enabled else PERF_EVENT_IOC_DISABLE
        for i in range(self.n_rings):
            if self.rings[i].page != NULL:
                for j in range(MAX_SETS):
                    for k in range(MAX_EVENTS):
                        if self.rings[i].fds[j][k] != 0:
                            ioctl(self.rings[i].fds[j][k], request, 0)

    # -- records out

    def repeat_notes(self):
        self.has_written_time = False
        memset(self.names, 0, KNOWN_PROCESSES * sizeof(Name))

    def read(self, at_ns=None):
        cdef uint64_t until_ns = NEVER if at_ns is None else <uint64_t> at_ns - LATENESS_NS
        cdef uint64_t now_ns = clock_ns(CLOCK_MONOTONIC)
        cdef uint64_t day_ns = clock_ns(CLOCK_REALTIME)
        cdef uint64_t first_ns = now_ns
        cdef uint32_t day[2]
        cdef bint has_note = not self.has_written_time
        cdef size_t begin = TIME_NOTE_BYTES if has_note else 0
        cdef size_t n
        with nogil:
            n = self._merge(begin, until_ns)
        if has_note:
            # It has the time of the first record, which may be much earlier than now: readers
            # ignore one that is much later. See Engine.epoch_ns.
            if n > begin:
                first_ns = (<const TraceV7 *> (self.out + begin)).time
            day_ns -= now_ns - first_ns
            day[0] = <uint32_t> (day_ns // 1_000_000_000)
            day[1] = <uint32_t> (day_ns % 1_000_000_000)
            write_note(self.out, first_ns, 0, NOTE_TIMESTAMP, 0, day, sizeof(day))
            self.has_written_time = True
        return memoryview(self.output)[:n]

    cdef size_t _merge(self, size_t n, uint64_t until_ns) noexcept nogil:
        """Write records before a time while there is room; returns where they end."""
        cdef int i
        cdef int n_heap = 0
        cdef Ring *ring
        for i in range(self.n_rings):
            ring = &self.rings[i]
            if ring.page != NULL:
                ring.head = data_head(ring.page)
                find_next(ring)
                if ring.next_ns < until_ns:
                    self.heap[n_heap] = ring
                    n_heap += 1
        for i in range(n_heap // 2 - 1, -1, -1):
            sift(self.heap, i, n_heap)
        while n_heap > 0 and n + MOST_RECORD_OUT <= OUTPUT_BYTES:
            ring = self.heap[0]
            n += self._take(ring, self.out + n)
            find_next(ring)
            if ring.next_ns >= until_ns:
                n_heap -= 1
                self.heap[0] = self.heap[n_heap]
            sift(self.heap, 0, n_heap)
        for i in range(self.n_rings):
            if self.rings[i].page != NULL:
                set_data_tail(self.rings[i].page, self.rings[i].cursor)
        self.has_more = n_heap > 0
        return n

    cdef size_t _take(self, Ring *ring, uint8_t *out) noexcept nogil:
        """Write the sample at a ring's cursor as a record, and move on; returns its length."""
        cdef const uint8_t *raw = raw_sample(ring, ring.cursor, self.scratch)
        cdef int i = event_of(self.events, self.n_events, raw)
        cdef const Event *e = &self.events[i]
        cdef const uint8_t *comm
        cdef uint32_t pid, device
        cdef Name *name
        cdef size_t n = 0
        ring.cursor += size_at(ring, ring.cursor)
        if unlikely(i < 0):
            return 0
        ring.received += 1
        device = load_u32(raw + e.dev)
        if unlikely(self.n_heads != 0) and e.is_bio and e.category & CAT_COMPLETE:
            device = head_of(self.heads, self.n_heads, device)
        if unlikely(is_among(&self.ignored, device)):
            return 0
        if e.comm >= 0:
            pid = load_u32(raw + PID_AT)
            comm = raw + e.comm
            name = &self.names[pid % KNOWN_PROCESSES]
            if unlikely(not is_known(name, pid, comm)):
                n = write_name(name, pid, comm, ring.next_ns, ring.cpu, out)
        return n + write_record(
            e, self.operations, &self.zoned, raw, device, ring.next_ns, ring.cpu, out + n
        )

    @property
    def lost_events(self):
        """Events that the kernel counted and did not write, or that were not read in time.

        Samples written during the count may make the result too small until the next call.
        """
        cdef uint64_t counted
        cdef int64_t lost = <int64_t> self.lost_before
        cdef int i
        for i in range(self.n_rings):
            if self.rings[i].page != NULL:
                counted = counted_events(&self.rings[i])
                lost += <int64_t> (
                    counted - self.rings[i].received - samples_waiting(&self.rings[i])
                )
        self.lost = max(self.lost, <uint64_t> max(lost, <int64_t> 0))
        return self.lost


def _records_of(dict event, samples, uint64_t time_ns, uint32_t cpu, zoned=()):
    """For tests: the trace records of samples, given the tracepoint's own bytes of each."""
    cdef PerfRings rings = PerfRings([event], os.sysconf("SC_PAGESIZE"), 1)
    rings.set_zoned(zoned)
    cdef bytes raw
    cdef size_t n
    found = []
    for raw in samples:
        n = write_record(
            &rings.events[0], rings.operations, &rings.zoned, <const uint8_t *> <const char *> raw,
            load_u32(<const uint8_t *> <const char *> raw + rings.events[0].dev), time_ns, cpu,
            rings.out,
        )
        found.append(bytes(rings.output[:n]))
    return found
