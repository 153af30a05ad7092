# distutils: language = c
"""The engine: trace bytes in, figures of completed requests out.

    feed(bytes)    decode.pxi      bytes -> batches of records in host byte order
                   pairing.pxi     records -> completed requests: a fast path for plain records,
                                   a slow path for all others; with
                       hash_table.pxi   pending records, found by sector and device
                       eviction.pxi     evicts by age or number; stores pending records in full
                       multi_step.pxi   requeues, partial completions, zone appends
                       queue.pxi        queue records, process names, the time of day, driver data
                       in_flight.pxi    requests in flight
                       slow.pxi         slow requests, and those that hang
                   statistics.pxi  completed requests -> moments and histograms of each device
                                   and operation
    snapshot()     copies an interval's figures to numpy arrays and begins a new interval

    records.pxi recognises records in bytes.
    types.pxd has the structs; engine/layout.py their dtypes.

"The original" is the blkiomon of the blktrace package, version 0.3, which this program replaces.

Each part begins with its contract: what it does, with which technique, and who may call it.
Kernels are `noexcept nogil` functions on one State and never allocate. This file owns the memory,
and makes room for a whole batch before the kernels run on it.
"""

cimport cython
from libc.math cimport NAN
from libc.stdint cimport (
    INT64_MIN, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t,
)
from libc.stdlib cimport calloc, free, qsort
from libc.string cimport memcpy, memmove, memset

from blkiomon.engine.types cimport *

import os

import numpy as np

from blkiomon.engine import layout
from blkiomon.engine.snapshot import Snapshot
from blkiomon.errors import TraceError

include "engine/records.pxi"
include "engine/decode.pxi"
include "engine/statistics.pxi"
include "engine/hash_table.pxi"
include "engine/eviction.pxi"
include "engine/in_flight.pxi"
include "engine/queue.pxi"
include "engine/multi_step.pxi"
include "engine/pairing.pxi"
include "engine/slow.pxi"


# --- memory -----------------------------------------------------------------------------------

cdef void *address(array) except? NULL:
    """Address of a numpy array's elements; NULL if it has none."""
    cdef uint8_t[::1] view
    if len(array) == 0:
        return NULL
    view = array.view(np.uint8)
    return &view[0]


@cython.final
cdef class Memory:
    """Zeroed memory, aligned to a cache line."""

    cdef void *allocated
    cdef uint8_t *at

    def __cinit__(self, size_t n_bytes):
        self.allocated = calloc(n_bytes + 64, 1)
        if self.allocated == NULL:
            raise MemoryError
        self.at = <uint8_t *> ((<uintptr_t> self.allocated + 63) & ~<uintptr_t> 63)
        if n_bytes >= HUGE_BYTES:
            use_huge_pages(self.at, self.at + n_bytes)

    def __dealloc__(self):
        free(self.allocated)


cdef uint8_t *allocate(dict memory, name, uint64_t n_bytes) except NULL:
    """Allocate Memory that becomes memory[name]; returns its address."""
    cdef Memory new = Memory(n_bytes)
    memory[name] = new
    return new.at


cdef uint8_t *enlarge(
    dict memory, name, const void *old, uint64_t used, uint64_t wanted
) except NULL:
    """Allocate `wanted` bytes that begin with the `used` bytes at old."""
    cdef uint8_t *new = allocate(memory, name, wanted)
    if used:
        memcpy(new, old, used)
    return new


cdef table(uint64_t n, dtype):
    """An uninitialised numpy array of n elements. Raises MemoryError."""
    try:
        return np.empty(n, dtype=dtype)
    except (ValueError, SystemError):           # numpy raises these if memory is short
        raise MemoryError from None


cdef shrink(array, uint64_t n):
    """Shorten an array of table() to n elements, in place. Raises MemoryError."""
    array.resize(n, refcheck=False)


cdef enum Growth:                               # how a buffer grows
    GROW_ARRAY                                  # to a larger array
    GROW_FREE_LIST                              # the same; links the new elements of State.stored
    GROW_POINTERS                               # by a chunk of elements, which never move
    GROW_TABLE                                  # to a larger hash table
    GROW_PROCESSES                              # to a larger hash table with linear probing

cdef struct Buffer:                             # a part of State that grows between batches
    Growth growth
    void *at                                    # the Table, or the pointer to the elements
    const uint64_t *used                        # number of elements
    const uint64_t *owed                        # elements that earlier records may still add
    uint64_t *room                              # number of elements that fit
    size_t size                                 # bytes of an element
    uint64_t per_record                         # most elements that a record can add
    uint64_t per_byte                           # most elements that a byte of input can add
    uint64_t limit                              # most elements ever in use

cdef enum:
    HUGE_BYTES = 1 << 22                        # from here on, huge pages save look-ups of pages
    FIRST_GROUPS = 96                           # of a new hash table
    MOST_BUFFERS = 16
    MOST_SKIPS = 1 << 18                        # kept for take_skips(), which few callers need
    CAT_BUFFERED = CAT_QUEUE | CAT_NOTIFY | CAT_ZONE_APPEND     # see _add_buffers()

cdef uint64_t NO_LIMIT = <uint64_t> -1
cdef uint64_t NONE_OWED = 0
cdef uint64_t EPOCH_TOLERANCE_NS = 1000000000   # see Engine.epoch_ns


# --- the engine -------------------------------------------------------------------------------

@cython.final
cdef class Engine:
    """See _core.pyi for what users need to know."""

    cdef State s
    cdef Batch batch
    cdef uint64_t busy                          # 1 while a thread is inside a method: see _enter()
    cdef dict _memory                           # name -> the Memory behind a State pointer
    cdef Buffer buffers[MOST_BUFFERS]
    cdef int n_buffers
    cdef list _buffer_names
    cdef uint32_t buffered                      # categories whose buffers were added
    cdef dict _names                            # pid -> process name
    cdef bint stopped                           # feed() stopped at a record after last_ns
    cdef int swap                               # 0: host byte order, 1: foreign, -1: unknown
    cdef bint resync                            # skip garbage instead of failing
    cdef bint searching                         # for the next plausible record, after garbage
    cdef uint64_t position                      # offset of the next byte in the stream
    cdef uint64_t padding_end                   # offset after the latest padding
    cdef uint64_t garbage_from                  # offset of the garbage, while searching
    cdef uint8_t tail[MAX_RECORD]               # the incomplete record that the last feed() left
    cdef size_t n_tail
    cdef size_t need                            # bytes that tail needs to be decoded
    cdef list _skips                            # see take_skips()
    cdef object failure                         # what every later feed() and finish() raises

    # Not __init__: C state is set up exactly once, also for Engine.__new__(Engine).
    def __cinit__(
        self, *, max_pending=1_000_000, max_age_ns=600 * 10**9,
        keep_details=False, keep_driver_data=False, keep_records=False, keep_requests=False,
        records_only=False, keep_slow=False, as_original=False, resync=False, devices=(), from_ns=0,
        max_devices=65_536,
    ):
        if not 1 <= max_pending <= 1 << 32:
            raise ValueError(f"max_pending must be from 1 to 2^32, not {max_pending}")
        if not 0 <= max_age_ns < 1 << 64:
            raise ValueError(f"max_age_ns must be from 0 to 2^64-1, not {max_age_ns}")
        if not 1 <= max_devices <= MOST_DEVICES:
            raise ValueError(f"max_devices must be from 1 to 2^22-1, not {max_devices}")
        self.s.max_pending = max_pending
        self.s.max_age_ns = max_age_ns
        self.s.keep_details = keep_details
        self.s.keep_mismatches = keep_details
        self.s.keep_driver_data = keep_driver_data
        self.s.keep_records = keep_records or records_only
        self.s.records_only = records_only
        self.s.keep_requests = keep_requests
        self.s.keep_slow = keep_slow
        self.s.keep_ids = keep_slow or keep_requests
        self.s.slow_ns = <uint64_t> -1
        self.s.as_original = as_original
        self.s.oldest_ns = <uint64_t> -1
        self.s.follow_matches = keep_details or self.s.keep_ids
        self.s.n_blocks = 1                     # block 0 is not used
        self._choose_functions(has_avx2())
        self.s.spill_every = 1 << 31
        self.s.devices_end = 1                  # index 0 is NO_DEVICE
        self._set_seed(int.from_bytes(os.urandom(16), "little"))
        self.resync = resync
        self.swap = -1
        self._memory = {}
        self._buffer_names = []
        self._skips = []
        self._names = {}
        wanted = set(devices)
        self.s.max_devices = max(max_devices, len(wanted))
        self._grow_devices(max(len(wanted), 4 * BATCH))
        for number in wanted:
            enter_device(&self.s, number)
        self.s.has_wanted = len(wanted) > 0
        self.set_from_ns(from_ns)
        self._add_first_buffers()
        self._make_room(0, 0, 0)

    def set_slow_ns(self, slow_ns):
        if not 0 <= slow_ns < 1 << 64:
            raise ValueError(f"slow_ns must be from 0 to 2^64-1, not {slow_ns}")
        self._enter()
        self.s.slow_ns = slow_ns
        self._leave()

    def set_from_ns(self, from_ns):
        if not 0 <= from_ns < 1 << 64:
            raise ValueError(f"from_ns must be from 0 to 2^64-1, not {from_ns}")
        self._enter()
        self.s.from_ns = from_ns
        self.s.has_filter = self.s.has_wanted or self.s.over_device_limit > 0 or from_ns > 0
        self._leave()

    def set_lost_outside(self, lost_events):
        if not 0 <= lost_events < 1 << 63:
            raise ValueError(f"lost_events must be from 0 to 2^63-1, not {lost_events}")
        self._enter()
        self.s.lost_outside = lost_events
        self._leave()

    cdef void _choose_functions(self, bint by_avx2) noexcept:
        self.s.account_deferred = account_deferred_by_baseline
        self.s.pair_batch = pair_batch_by_baseline
        if by_avx2:
            self.s.account_deferred = account_deferred_by_avx2
            self.s.pair_batch = pair_batch_by_avx2

    cdef int _set_seed(self, hash_seed) except -1:
        self.s.seed[0] = hash_seed & <uint64_t> -1
        self.s.seed[1] = hash_seed >> 64
        return 0

    # -- one thread at a time

    cdef int _enter(self) except -1:
        """Begin to use the engine; _leave() ends that. Atomic, also without a GIL."""
        if exchange(&self.busy, 1):
            raise RuntimeError("another thread is using this engine")
        return 0

    cdef void _leave(self) noexcept:
        store_release(&self.busy, 0)

    cdef int _refuse_others(self) except -1:
        """Raise RuntimeError if another thread is inside a method."""
        self._enter()
        self._leave()
        return 0

    # -- memory. New Memory goes to a copy of _memory, which replaces it at the end; a single one
    # goes to _memory itself. If memory is short, the engine is unchanged.

    cdef int _add_buffer(
        self, name, Growth growth, void *at, const uint64_t *used, uint64_t *room, size_t size,
        uint64_t per_record=1, uint64_t per_byte=0, uint64_t limit=NO_LIMIT,
        const uint64_t *owed=&NONE_OWED,
    ) except -1:
        assert self.n_buffers < MOST_BUFFERS
        self.buffers[self.n_buffers] = Buffer(
            growth, at, used, owed, room, size, per_record, per_byte, limit
        )
        self.n_buffers += 1
        self._buffer_names.append(name)
        return 0

    cdef int _add_table(self, name, Table *t, uint64_t limit) except -1:
        return self._add_buffer(name, GROW_TABLE, t, &t.used, &t.room, 0, 1, 0, limit)

    cdef int _add_first_buffers(self) except -1:
        """The buffers of every engine, and those that its options ask for."""
        cdef State *s = &self.s
        self._add_buffer("accounts", GROW_POINTERS, &s.accounts,
                         &s.n_active, &s.n_accounts, sizeof(Account))
        self._add_buffer("blocks", GROW_ARRAY, &s.blocks,
                         &s.n_blocks, &s.blocks_room, BLOCK * sizeof(uint32_t), BLOCKS_A_MATCH, 0,
                         NO_LIMIT, &s.n_blocks_owed)
        if s.as_original:
            self.buffered = CAT_ZONE_APPEND | CAT_QUEUE     # neither is followed
        else:
            self._add_table("history", &s.history, NO_LIMIT)
            self._add_buffer("retry rows", GROW_ARRAY, &s.retry_rows,
                             &s.n_retry_rows, &s.retry_rows_room, sizeof(RetryRow))
        if s.keep_details or s.keep_ids:
            self._add_buffer("stored", GROW_FREE_LIST, &s.stored,
                             &s.n_stored, &s.stored_room, sizeof(StoredRecord))
        if s.keep_mismatches:
            self._add_buffer("mismatches", GROW_ARRAY, &s.mismatch,
                             &s.n_mismatch, &s.mismatch_room, sizeof(Mismatch))
        if s.keep_requests:
            self._add_buffer("requests", GROW_ARRAY, &s.request,
                             &s.n_request, &s.request_room, sizeof(Request))
        if s.keep_slow:
            self._add_buffer("slow requests", GROW_ARRAY, &s.slow,
                             &s.n_slow, &s.slow_room, sizeof(Slow))
        if s.keep_records:
            self._add_buffer("records", GROW_ARRAY, &s.record,
                             &s.n_record, &s.record_room, sizeof(Record))
        if s.keep_driver_data:
            self._add_buffer("driver data", GROW_ARRAY, &s.driver,
                             &s.n_driver, &s.driver_room, 1, HEADER_V7, 1)
        return 0

    cdef int _add_buffers(self, uint32_t seen) except -1:
        """The buffers that records of these categories need."""
        cdef State *s = &self.s
        cdef uint32_t new = seen & CAT_BUFFERED & ~self.buffered
        if new & CAT_ZONE_APPEND:
            s.appends = <ZoneAppend *> allocate(
                self._memory, "appends", MOST_APPENDS * sizeof(ZoneAppend)
            )
        if new & CAT_QUEUE:
            self._add_table("queued", &s.queued, s.max_pending)
            self._add_buffer("queue accounts", GROW_POINTERS, &s.queue_accounts,
                             &s.n_queue_active, &s.n_queue_accounts, sizeof(QueueAccount))
        if new & CAT_NOTIFY:
            self._add_buffer("names", GROW_ARRAY, &s.names,
                             &s.n_names, &s.names_room, sizeof(Name))
            self._add_buffer("processes", GROW_PROCESSES, &s.processes, &s.n_processes,
                             &s.processes_room, sizeof(Process), 1, 0, MOST_PROCESSES)
        self.buffered |= new
        return 0

    cdef inline uint64_t _demand(self, const Buffer *buffer, uint64_t n_bytes) noexcept nogil:
        """The most elements that are in use after a batch of n_bytes of input."""
        return min(
            buffer.used[0] + buffer.owed[0]
            + buffer.per_record * BATCH + buffer.per_byte * n_bytes, buffer.limit
        )

    cdef inline bint _has_room(self, const Batch *b, uint64_t n_bytes) noexcept nogil:
        """Whether there is room for everything that a batch of n_bytes of input can add."""
        cdef State *s = &self.s
        cdef int i
        if (
            min(s.pending.used + BATCH, s.max_pending) > s.pending.room
            or (s.pending.used + BATCH > s.max_pending and s.ages == NULL)
            or (s.devices_end + BATCH > s.devices_room and s.devices_room <= s.max_devices)
            or cpu_bits(b.cpus, s.devices_room) > s.cpu_shift
            or s.matches - s.spilled_at >= s.spill_every
            or b.seen & CAT_BUFFERED & ~self.buffered
        ):
            return False
        for i in range(self.n_buffers):
            if self._demand(&self.buffers[i], n_bytes) > self.buffers[i].room[0]:
                return False
        return True

    cdef int _make_room(self, uint32_t seen, uint32_t cpus, uint64_t n_bytes) except -1:
        """Make room for a batch. Afterwards _has_room() is true."""
        cdef State *s = &self.s
        cdef uint64_t wanted
        cdef int i
        while min(s.pending.used + BATCH, s.max_pending) > s.pending.room:
            self._grow_table("pending", &s.pending)
        if s.pending.used + BATCH > s.max_pending and s.ages == NULL:
            s.ages = <uint32_t *> allocate(self._memory, "ages", MOST_AGES * sizeof(uint32_t))
        if s.devices_end + BATCH > s.devices_room and s.devices_room <= s.max_devices:
            self._grow_devices(2 * s.devices_room)
        if cpu_bits(cpus, s.devices_room) > s.cpu_shift:
            self._grow_sequences(cpus)
        if s.matches - s.spilled_at >= s.spill_every:
            self._spill()
        self._take_names()
        self._add_buffers(seen)
        for i in range(self.n_buffers):
            wanted = self._demand(&self.buffers[i], n_bytes)
            while wanted > self.buffers[i].room[0]:
                self._grow(self._buffer_names[i], &self.buffers[i], wanted)
        return 0

    cdef int _grow(self, name, const Buffer *buffer, uint64_t wanted) except -1:
        """Make a buffer larger: at least twice as large if it is an array."""
        cdef dict memory
        cdef uint64_t i
        cdef uint64_t had = buffer.room[0]
        cdef uint64_t room = max(wanted, 2 * had, <uint64_t> 8 * BATCH)
        cdef void **elements = <void **> buffer.at
        cdef uint8_t *new
        if buffer.growth == GROW_TABLE:
            return self._grow_table(name, <Table *> buffer.at)
        if buffer.growth == GROW_PROCESSES:
            return self._grow_processes()
        if room > <uint64_t> 1 << 32 and buffer.size > 1:
            raise MemoryError(f"too many {name}: the limit is 2^32")
        memory = dict(self._memory)
        if buffer.growth == GROW_POINTERS:
            new = allocate(memory, f"{name} from {had}", (room - had) * buffer.size)
            elements[0] = enlarge(
                memory, name, elements[0], had * sizeof(void *), room * sizeof(void *)
            )
            for i in range(had, room):
                (<void **> elements[0])[i] = new + (i - had) * buffer.size
        else:
            i = had if buffer.growth == GROW_FREE_LIST else min(buffer.used[0], had)
            elements[0] = enlarge(memory, name, elements[0], i * buffer.size, room * buffer.size)
            if buffer.growth == GROW_FREE_LIST:     # `had` was the end of the list
                for i in range(had, room):
                    self.s.stored[i].stored_order = i + 1
        buffer.room[0] = room
        self._memory = memory
        return 0

    cdef int _grow_table(self, name, Table *t) except -1:
        """Move the entries of a table to a new one, which is larger by half."""
        cdef uint64_t n_groups = max(t.n_groups + t.n_groups // 2, <uint64_t> FIRST_GROUPS)
        cdef dict memory = dict(self._memory)
        cdef Table old = t[0]
        cdef Table new
        new.n_groups = n_groups
        new.used = 0
        new.room = n_groups * MOST_IN_GROUP
        if n_groups * GROUP > <uint64_t> 1 << 32:
            raise MemoryError(f"too many {name} records: a table has at most 2^32 slots")
        new.groups = <Group *> allocate(memory, f"{name} groups", n_groups * sizeof(Group))
        new.slots = <Pending *> allocate(
            memory, f"{name} slots", n_groups * GROUP * sizeof(Pending)
        )
        t[0] = new
        with nogil:
            rehash(&self.s, t, &old)
        self._memory = memory
        return 0

    cdef int _grow_devices(self, uint64_t wanted) except -1:
        """Make room for the wanted number of devices, at most max_devices, and NO_DEVICE."""
        cdef State *s = &self.s
        cdef dict memory = dict(self._memory)
        cdef uint64_t i
        cdef uint64_t had = s.devices_room
        cdef uint64_t room = 1 + min(wanted, s.max_devices)
        cdef Device *devices = <Device *> enlarge(
            memory, "devices", s.devices, had * sizeof(Device), room * sizeof(Device)
        )
        cdef Load *loads = <Load *> enlarge(
            memory, "loads", s.loads, had * sizeof(Load), room * sizeof(Load)
        )
        cdef InFlightIntegral *integrals = <InFlightIntegral *> enlarge(
            memory, "integrals", s.integrals,
            had * sizeof(InFlightIntegral), room * sizeof(InFlightIntegral),
        )
        cdef unsigned int map_bits = (2 * int(room) - 1).bit_length()
        cdef DeviceSlot *device_map = <DeviceSlot *> allocate(
            memory, "map", sizeof(DeviceSlot) << map_bits
        )
        self._place_sequences(memory, room, min(s.cpu_shift, cpu_bits(<uint32_t> -1, room)))
        s.devices = devices
        s.loads = loads
        s.integrals = integrals
        s.devices_room = room
        s.device_map = device_map
        s.device_mask = (<uint64_t> 1 << map_bits) - 1
        s.device_shift = 64 - map_bits
        for i in range(1, s.devices_end):
            if devices[i].in_use:
                map_device(s, devices[i].number, <uint32_t> i)
        self._memory = memory
        return 0

    cdef int _grow_sequences(self, cpus) except -1:
        """Make room for the sequence numbers of all CPUs up to `cpus`, on every device."""
        cdef dict memory = dict(self._memory)
        self._place_sequences(memory, self.s.devices_room, cpu_bits(cpus, self.s.devices_room))
        self._memory = memory
        return 0

    cdef int _place_sequences(self, dict memory, uint64_t devices, unsigned int shift) except -1:
        """Allocate sequence numbers for 2^shift CPUs of each device."""
        cdef State *s = &self.s
        cdef uint64_t i
        cdef uint32_t *new = <uint32_t *> allocate(
            memory, "sequences", (devices << shift) * sizeof(uint32_t)
        )
        for i in range(1, s.devices_end):
            memcpy(
                new + (i << shift), s.last_sequence + (i << s.cpu_shift),
                sizeof(uint32_t) << min(shift, s.cpu_shift),
            )
        s.last_sequence = new
        s.cpu_shift = shift
        return 0

    cdef int _spill(self) except -1:
        """Make room for the 64-bit counters, and call spill()."""
        cdef State *s = &self.s
        cdef dict memory = dict(self._memory)
        cdef size_t block = BLOCK * sizeof(uint64_t)
        if s.spilled_room < s.blocks_room:
            s.spilled = <uint64_t *> enlarge(
                memory, "spilled", s.spilled, s.n_spilled * block, s.blocks_room * block
            )
            s.spilled_room = s.blocks_room
            self._memory = memory
        with nogil:
            spill(s)
        return 0

    cdef int _grow_processes(self) except -1:
        cdef State *s = &self.s
        cdef dict memory = dict(self._memory)
        cdef uint64_t i, at
        cdef uint64_t had = s.process_mask + 1 if s.processes != NULL else 0
        cdef uint64_t n = max(1024, 4 * had)    # a power of two
        cdef const Process *old = s.processes
        s.processes = <Process *> allocate(memory, "processes", n * sizeof(Process))
        s.process_mask = n - 1
        s.processes_room = n // 2
        for i in range(had):
            if old[i].requests != 0:
                at = mix(old[i].pid ^ s.seed[1], s.seed[0] | 1) & s.process_mask
                while s.processes[at].requests != 0:
                    at = (at + 1) & s.process_mask
                s.processes[at] = old[i]
        self._memory = memory
        return 0

    cdef int _take_names(self) except -1:
        """Move new process names to the dictionary; the latest name of a pid counts.

        Beyond twice MOST_PROCESSES names, the dictionary keeps the MOST_PROCESSES that were added
        or refreshed last.
        """
        cdef uint64_t i
        for i in range(self.s.n_names):
            name = (<char *> self.s.names[i].comm)[:COMM]
            self._names.pop(self.s.names[i].pid, None)
            self._names[self.s.names[i].pid] = (
                name.partition(b"\0")[0].decode("utf-8", "backslashreplace")
            )
        self.s.n_names = 0
        if len(self._names) > 2 * MOST_PROCESSES:
            for pid in list(self._names)[:-MOST_PROCESSES]:
                del self._names[pid]
        return 0

    cdef int _refresh_names(self, processes) except -1:
        """Move the names of these processes to the end, so that they are dropped last."""
        self._take_names()
        if len(self._names) > MOST_PROCESSES:
            for pid in processes["pid"].tolist():
                if pid in self._names:
                    self._names[pid] = self._names.pop(pid)
        return 0

    # -- bytes in

    def feed(self, const uint8_t[::1] data, until_ns=None):
        cdef size_t size = data.shape[0]
        self._enter()
        try:
            if self.failure is not None:
                raise self.failure
            if until_ns is None:
                self.s.last_ns = <uint64_t> -1
            elif 0 < until_ns < 1 << 64:
                self.s.last_ns = until_ns - 1
            else:
                raise ValueError(f"until_ns must be from 1 to 2^64-1, not {until_ns}")
            # Without bytes, a record in the tail may be due: until_ns may be later now.
            if size == 0 and not (self.stopped and self.n_tail):
                return 0
            try:
                return self._feed(&data[0] if size else self.tail, size)
            except BaseException as error:
                self.failure = error            # the current batch is lost
                raise
        finally:
            self._leave()

    cdef Py_ssize_t _feed(self, const uint8_t *data, size_t size) except -1:
        """Returns how many bytes were taken: all, unless a record after last_ns is next."""
        cdef size_t at = 0
        cdef size_t old, more, used
        while self.n_tail:
            # Complete the record in the tail; then continue after it in data.
            old = self.n_tail
            more = min(max(self.need, old) - old, size - at, <size_t> MAX_RECORD - old)
            memcpy(self.tail + old, data + at, more)
            at += more
            used = self._consume(self.tail, old + more)
            self.n_tail = old + more - used
            if used >= old:
                at -= self.n_tail               # the rest of the tail is also in data
                self.n_tail = 0
            elif used:
                memmove(self.tail, self.tail + used, self.n_tail)
            if at == size or self.stopped:
                return at
        at += self._consume(data + at, size - at)
        if self.stopped:
            return at
        self.n_tail = size - at
        memcpy(self.tail, data + at, self.n_tail)
        return size

    cdef Py_ssize_t _consume(self, const uint8_t *data, size_t size) except -1:
        """Process all complete records; returns how many bytes these are, and sets self.need."""
        cdef State *s = &self.s
        cdef Batch *b = &self.batch
        cdef size_t at = 0
        cdef size_t begin
        cdef DecodeEnd end
        cdef int most
        self.stopped = False
        with nogil:
            while at < size:
                if unlikely(self.swap < 0 or self.searching):
                    end = DECODE_OTHER
                else:
                    begin = at
                    most = <int> min(
                        <uint64_t> BATCH, SWEEP_EVERY - s.records % SWEEP_EVERY
                    )
                    end = decode_batch(
                        data, size, &at, most, s.last_ns, self.swap, b, &self.need, &s.next_ns
                    )
                    self.position += at - begin
                    b.first = s.records
                    s.records += b.n
                    self._process(b, at - begin)
                if end == DECODE_SHORT:
                    break
                if unlikely(end == DECODE_LATER):
                    self.stopped = True
                    break
                if unlikely(end != DECODE_FULL):
                    with gil:
                        if not self._consume_other(data, size, &at, end):
                            break
        return at

    cdef int _process(self, Batch *b, size_t n_bytes) except -1 nogil:
        """Take a decoded batch through the other stages."""
        cdef State *s = &self.s
        cdef bint plainly
        if unlikely(not self._has_room(b, n_bytes)):
            with gil:
                try:
                    self._make_room(b.seen, b.cpus, n_bytes)
                except BaseException:
                    s.records = b.first         # nothing of this batch counts
                    self.position -= n_bytes
                    raise
        if b.first % SWEEP_EVERY == 0:
            evict_by_age(s)
        plainly = can_be_plain(s, b)
        if not plainly or s.keep_records:
            set_categories(b)
        if s.keep_records:
            log_records(s, b)
        if s.records_only:
            return 0
        pair(s, b, plainly)
        account(s, b)
        return 0

    cdef bint _consume_other(
        self, const uint8_t *data, size_t size, size_t *at, DecodeEnd why
    ) except -1:
        """Process what decode_batch() did not take: a mark, padding or garbage.

        Before the first record, find the byte order.
        Returns False if more bytes are needed to decide.
        """
        cdef size_t left = size - at[0]
        cdef const uint8_t *p = data + at[0]
        cdef size_t length = 0
        cdef uint64_t events = 0
        cdef int mark
        if why == DECODE_MISLABELLED and not self.resync:
            self._fail((
                "a version-8 record with the magic of version 7, cut to 48 bytes, as ftrace's blk "
                "tracer sends it on Linux 6.19 and later",
                "a record of version 7 or 8: use blktrace instead",
            ))
        mark = parse_lost(p, left, &length, &events)
        if mark > 0 and not self.searching:
            self.s.lost_events += events
            self.position += length
            at[0] += length
            return True
        if mark == 0:
            self.need = left + 1
            return False
        if not self.searching:
            if p[0] == 0 and self.s.records != 0:
                length = zeros_at(p, left)
                if length >= MIN_PADDING or self.position == self.padding_end:
                    self._skip_padding(length)
                    at[0] += length
                    return True
                if length == left:
                    self.need = MIN_PADDING
                    return False
            if left < 4:
                self.need = 4
                return False
            if self.swap < 0 and byte_order_of(load32(p)) >= 0:
                self.swap = self.s.foreign = byte_order_of(load32(p))
                return True
            if not self.resync:
                self._fail(describe_magic(load32(p), self.swap))
            if self.s.records == 0:             # the magic that set the byte order was garbage
                self.swap = -1
            self.searching = True
            self.garbage_from = self.position
            at[0] += 1
            self.position += 1
        return self._search(data, size, at)

    cdef int _skip_padding(self, size_t length) except -1:
        """Skip zeros after a record: blktrace may write a buffer of them when it stops."""
        self.s.padding_bytes += length
        self.position += length
        self.padding_end = self.position
        return 0

    cdef bint _search(self, const uint8_t *data, size_t size, size_t *at) except -1:
        """Search for the next plausible record or mark. False: none so far, feed more bytes."""
        cdef size_t pos = at[0]
        cdef int order = self.swap
        cdef int found                          # see find_record()
        with nogil:
            found = find_record(data, size, &pos, &order)
        self.position += pos - at[0]
        at[0] = pos
        if found > 0:
            self.swap = order
            self.s.foreign = order == 1
            self._end_search()
            return True
        self.need = max(HEADER_V7, size - pos + 1)
        return False

    cdef int _end_search(self) except -1:
        cdef uint64_t skipped = self.position - self.garbage_from
        self.searching = False
        self.s.skipped_bytes += skipped
        if len(self._skips) < MOST_SKIPS:
            self._skips.append((self.garbage_from, skipped))
        return 0

    cdef int _fail(self, tuple texts) except -1:
        """Raise TraceError, now and in every later feed() and finish(). See describe_magic()."""
        self.failure = TraceError(self.position, *texts)
        raise self.failure

    def finish(self):
        self._enter()
        try:
            self._finish()
        finally:
            self._leave()

    cdef int _finish(self) except -1:
        cdef size_t n, used
        if self.failure is not None:
            raise self.failure
        while self.searching and self.n_tail:
            # The tail was too short to decide, so its first byte is garbage; a mark may follow.
            self.position += 1
            self.n_tail -= 1
            memmove(self.tail, self.tail + 1, self.n_tail)
            used = self._consume(self.tail, self.n_tail)
            self.n_tail -= used
            memmove(self.tail, self.tail + used, self.n_tail)
        n = self.n_tail
        if n and not self.searching and self.s.records != 0 and zeros_at(self.tail, n) == n:
            self._skip_padding(n)
            n = self.n_tail = 0
        evict_by_age(&self.s)
        self.s.stream_ended = True
        if self.searching:
            self._end_search()
        elif n:
            if self.resync:
                self.garbage_from = self.position
                self.position += n
                self.n_tail = 0
                self._end_search()
            elif n >= 4 and byte_order_of(load32(self.tail)) < 0 and self.tail[0] != c"C":  # "CPU:"
                self._fail(describe_magic(load32(self.tail), self.swap))
            else:
                self._fail((
                    f"the end of the input {n} bytes into a record", f"{self.need} bytes at least"
                ))
        return 0

    # -- figures out

    def snapshot(self, end_ns=None):
        self._enter()
        try:
            return self._snapshot(self.s.now_ns if end_ns is None else end_ns)
        finally:
            self._leave()

    cdef _snapshot(self, uint64_t end):
        cdef State *s = &self.s
        cdef uint64_t n_loads, n_bins, n_queued_bins
        with nogil:
            evict_by_age(s)
            account_all_deferred(s)
            integrate_in_flight(s, end)
            n_loads = count_load_rows(s)
        n_bins = most_bins(s)
        n_queued_bins = n_bins if s.n_queue_active else 0
        processes = self._processes_by_pid()
        snapshot = Snapshot(
            rows=table(s.n_active, layout.ROW),
            d2c_bins=table(n_bins, layout.BIN),
            size_bins=table(n_bins, layout.BIN),
            loads=table(n_loads, layout.LOAD),
            retry_rows=table(s.n_retry_rows, layout.RETRY_ROW),
            queue_rows=table(s.n_queue_active, layout.QUEUE_ROW),
            q2d_bins=table(n_queued_bins, layout.BIN),
            q2c_bins=table(n_queued_bins, layout.BIN),
            processes=processes,
        )
        cdef Row *rows = <Row *> address(snapshot.rows)
        cdef Bin *d2c_bins = <Bin *> address(snapshot.d2c_bins)
        cdef Bin *size_bins = <Bin *> address(snapshot.size_bins)
        cdef LoadRow *loads = <LoadRow *> address(snapshot.loads)
        cdef RetryRow *retry_rows = <RetryRow *> address(snapshot.retry_rows)
        cdef QueueRow *queue_rows = <QueueRow *> address(snapshot.queue_rows)
        cdef Bin *q2d_bins = <Bin *> address(snapshot.q2d_bins)
        cdef Bin *q2c_bins = <Bin *> address(snapshot.q2c_bins)
        cdef Bin *d2c_end
        cdef Bin *size_end = size_bins
        cdef Bin *q2d_end
        cdef Bin *q2c_end = q2c_bins
        with nogil:
            d2c_end = copy_rows(s, rows, d2c_bins, &size_end)
            q2d_end = copy_queue_rows(s, queue_rows, q2d_bins, &q2c_end)
        shrink(snapshot.d2c_bins, d2c_end - d2c_bins)
        shrink(snapshot.size_bins, size_end - size_bins)
        shrink(snapshot.q2d_bins, q2d_end - q2d_bins)
        shrink(snapshot.q2c_bins, q2c_end - q2c_bins)
        self._refresh_names(processes)
        with nogil:                             # nothing can fail from here on
            move_load_rows(s, end, loads)
            move_retry_rows(s, retry_rows)
            free_idle_devices(s)
            close_accounts(s)
            reset_processes(s)
            s.gaps_reported = s.sequence_gaps
        return snapshot

    cdef _processes_by_pid(self):
        cdef State *s = &self.s
        cdef uint64_t i
        cdef uint64_t n = s.n_processes + (s.other_processes.requests != 0)
        processes = table(n, layout.PROCESS)
        cdef Process *out = <Process *> address(processes)
        if n == 0:
            return processes
        for i in range(s.process_mask + 1):
            if s.processes[i].requests != 0:
                out[0] = s.processes[i]
                out += 1
        qsort(address(processes), s.n_processes, sizeof(Process), by_pid)
        if s.other_processes.requests != 0:
            out[0] = s.other_processes
            out.pid = <uint32_t> -1             # the sum of all further processes
        return processes

    cdef _take(self, const void **elements, uint64_t *n, dtype):
        """Copy an optional list to a numpy array, and empty the list."""
        self._enter()
        try:
            taken = table(n[0], dtype)
            if n[0]:
                memcpy(address(taken), elements[0], taken.nbytes)
            n[0] = 0
            return taken
        finally:
            self._leave()

    def take_mismatches(self):
        return self._take(
            <const void **> &self.s.mismatch, &self.s.n_mismatch, layout.MISMATCH
        )

    def take_records(self):
        return self._take(<const void **> &self.s.record, &self.s.n_record, layout.RECORD)

    def take_requests(self):
        return self._take(<const void **> &self.s.request, &self.s.n_request, layout.REQUEST)

    def take_slow(self):
        return self._take(<const void **> &self.s.slow, &self.s.n_slow, layout.SLOW)

    def take_hanging(self, now_ns, longer_than_ns, most):
        cdef State *s = &self.s
        cdef uint64_t now = now_ns
        cdef uint64_t before_ns = max(0, now_ns - longer_than_ns)
        cdef uint64_t n, i
        cdef uint64_t found
        cdef Hanging *hanging
        cdef Memory memory
        cdef Slow *rows
        if not s.keep_slow:
            raise ValueError("made without keep_slow")
        self._enter()
        try:
            with nogil:
                found = find_hanging(s, before_ns, NULL)
            n = min(found, most)
            memory = Memory(found * sizeof(Hanging))
            taken = table(n, layout.SLOW)
            hanging = <Hanging *> memory.at
            rows = <Slow *> address(taken)
            with nogil:
                find_hanging(s, before_ns, hanging)
                qsort(hanging, found, sizeof(Hanging), oldest_first)
                for i in range(n):
                    set_hanging(s, &rows[i], hanging[i].p, now)
            return taken, found - n
        finally:
            self._leave()

    def take_driver_data(self):
        return self._take(<const void **> &self.s.driver, &self.s.n_driver, np.uint8).tobytes()

    def take_skips(self):
        skips = []
        self._enter()
        skips, self._skips = self._skips, skips
        self._leave()
        return skips

    def leftovers(self):
        if not self.s.keep_details:
            raise ValueError("made without keep_details")
        self._enter()
        try:
            stored = np.empty(
                self.s.pending.used, dtype=[("detail", layout.DETAIL), ("order", "u8")]
            )
            copy_stored(&self.s, <StoredRecord *> address(stored))
        finally:
            self._leave()
        # The original walks 128 hash chains, the most recently stored first.
        order = np.lexsort((
            ~stored["order"],
            stored["detail"]["record"]["sector"] % np.uint64(128),
        ))
        # Not stored["detail"][order]: numpy returns garbage there if memory for structs is short.
        return stored["detail"].take(order)

    def counters(self):
        self._enter()
        try:
            return {
                "records": self.s.records,
                "requests": self.s.matches,
                "mismatches": self.s.mismatches,
                "driver_data_records": self.s.driver_data,
                "evicted": self.s.evicted,
                "lost_events": self.s.lost_events + self.s.lost_outside,
                "sequence_gaps": self.s.sequence_gaps,
                "completions_without_issue": self.s.completions_without_issue,
                "issues_without_completion": max(
                    self.s.issues_without_completion, self.s.issues_given_up
                ),
                "skipped_bytes": self.s.skipped_bytes,
                "over_device_limit": self.s.over_device_limit,
            }
        finally:
            self._leave()

    @property
    def requests(self):
        self._refuse_others()
        return self.s.matches

    @property
    def pending(self):
        self._refuse_others()
        return self.s.pending.used

    @property
    def records(self):
        return self.s.records

    @property
    def stopped_at_ns(self):
        return self.s.next_ns if self.stopped else None

    @property
    def now_ns(self):
        self._refuse_others()
        return self.s.now_ns

    @property
    def latest_ns(self):
        self._refuse_others()
        return self.s.latest_ns

    @property
    def back_ns(self):
        self._refuse_others()
        return self.s.back_ns

    @property
    def first_ns(self):
        self._refuse_others()
        return self.s.first_ns if self.s.has_first else None

    @property
    def epoch_ns(self):
        self._refuse_others()
        cdef const State *s = &self.s
        # `blkparse -d` changes the times of all records except notify records. A first record much
        # earlier than the timestamp record shows this: then the time of day is unknown.
        cdef uint64_t least_ns = s.epoch_at_ns - min(s.epoch_at_ns, EPOCH_TOLERANCE_NS)
        if not s.has_epoch or (s.has_first and s.first_ns < least_ns):
            return None
        return s.epoch_ns

    @property
    def process_names(self):
        self._enter()
        try:
            self._take_names()
            return self._names
        finally:
            self._leave()

    @property
    def padding_bytes(self):
        return self.s.padding_bytes

    @property
    def offset(self):
        return self.position

    # -- for tests

    def _tune(self, *, hash_seed=None, spill_every=None, plain_cpu=False, slowly=False):
        if self.s.records or (hash_seed is not None and self.s.n_devices):
            raise ValueError("cannot be tuned after a record, nor hash_seed with devices")
        if hash_seed is not None:
            self._set_seed(hash_seed)
        if spill_every is not None:
            self.s.spill_every = spill_every
        self.s.slowly = slowly
        if plain_cpu:
            self._choose_functions(False)

    def _table_figures(self):
        self._refuse_others()
        cdef const State *s = &self.s
        cdef Cursor c = Cursor(0, 0)
        cdef uint64_t groups = 0
        cdef uint64_t slots = 0
        cdef uint64_t home, i
        cdef const Pending *p
        while (p := next_entry(&s.pending, &c)) != NULL:
            home = place_of(s, &s.pending, p.sector, p.key).home
            groups = max(groups, 1 + (c.group - 1 + s.pending.n_groups - home) % s.pending.n_groups)
        for i in range(s.device_mask + 1):
            if s.device_map[i].index != NO_DEVICE:
                home = mix(s.device_map[i].number ^ s.seed[0], s.seed[1]) >> s.device_shift
                slots = max(slots, 1 + ((i - home) & s.device_mask))
        return {
            "longest_search": groups,
            "longest_device_search": slots,
        }


def _read_structs(const uint8_t[::1] data):
    """Read the same bytes as each struct, for the test that compares structs with dtypes.

    Returns, by the name of the dtype, the struct's size and its fields as a dictionary.
    """
    if data.shape[0] < <Py_ssize_t> sizeof(Row):
        raise ValueError(f"{sizeof(Row)} bytes are needed")
    cdef const void *p = &data[0]
    return {
        "TRACE_V7": (sizeof(TraceV7), (<const TraceV7 *> p)[0]),
        "TRACE_V8": (sizeof(TraceV8), (<const TraceV8 *> p)[0]),
        "RECORD": (sizeof(Record), (<const Record *> p)[0]),
        "DETAIL": (sizeof(Detail), (<const Detail *> p)[0]),
        "MISMATCH": (sizeof(Mismatch), (<const Mismatch *> p)[0]),
        "MOMENTS": (sizeof(Moments), (<const Moments *> p)[0]),
        "ROW": (sizeof(Row), (<const Row *> p)[0]),
        "BIN": (sizeof(Bin), (<const Bin *> p)[0]),
        "LOAD": (sizeof(LoadRow), (<const LoadRow *> p)[0]),
        "QUEUE_ROW": (sizeof(QueueRow), (<const QueueRow *> p)[0]),
        "RETRY_ROW": (sizeof(RetryRow), (<const RetryRow *> p)[0]),
        "PROCESS": (sizeof(Process), (<const Process *> p)[0]),
        "REQUEST": (sizeof(Request), (<const Request *> p)[0]),
        "SLOW": (sizeof(Slow), (<const Slow *> p)[0]),
    }
