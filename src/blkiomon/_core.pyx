# distutils: language = c
"""The engine: trace bytes in, accounts of matched requests out.

    feed(bytes) -> decode a batch -> pair it -> account what matched -> snapshot() -> numpy arrays

This file is the table of contents. The kernels stand in the parts it includes, each readable on
its own:

    types.pxd       the structs, each with its size and its numpy twin
    records.pxi     what tells a record from other bytes
    decode.pxi      foreign bytes -> host-order records
    statistics.pxi  extremes, sums and histograms per device, operation and direction
    pending.pxi     the table of pending requests, and how it is kept bounded
    cold_table.pxi  and how it is kept small: what waits long is set aside
    in_flight.pxi   requests in flight
    queue.pxi       queue records, process names, the time of day
    multi_step.pxi  requests that are requeued, or completed in parts
    pairing.pxi     batches of records -> matches
    pipeline.pxi    the same on two cores

Kernels are `noexcept nogil`, work on one State and never allocate; Engine owns the memory, as
numpy arrays, and makes room for a whole batch before it lets them run.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport qsort
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
include "engine/pending.pxi"
include "engine/cold_table.pxi"
include "engine/in_flight.pxi"
include "engine/queue.pxi"
include "engine/multi_step.pxi"
include "engine/pairing.pxi"
include "engine/pipeline.pxi"


# --- the engine -------------------------------------------------------------------------------

cdef void *address(array) except? NULL:
    """Where a numpy array's elements are; NULL if it has none."""
    cdef uint8_t[::1] view
    if len(array) == 0:
        return NULL
    view = array.view(np.uint8)
    return &view[0]


cdef uint8_t *allocate(dict arrays, name, uint64_t n_bytes) except NULL:
    """A zeroed array, aligned to a cache line, which takes the name in a dictionary."""
    array = np.zeros(n_bytes + 64, dtype=np.uint8)
    arrays[name] = array
    cdef uint8_t[::1] view = array
    return <uint8_t *> ((<uintptr_t> &view[0] + 63) & ~<uintptr_t> 63)


cdef uint8_t *enlarge(
    dict arrays, name, const void *old, uint64_t used, uint64_t wanted
) except NULL:
    """Likewise, of `wanted` bytes, beginning with what was used of an old one."""
    cdef uint8_t *new = allocate(arrays, name, wanted)
    if used:
        memcpy(new, old, used)
    return new


cdef table(uint64_t n, dtype):
    """An uninitialised numpy array of n elements."""
    try:
        return np.empty(n, dtype=dtype)
    except (ValueError, SystemError):           # what numpy makes of it where memory is short
        raise MemoryError from None


cdef copied(const void *elements, uint64_t n, dtype):
    """A numpy array of n elements that stand elsewhere."""
    array = table(n, dtype)
    if n:
        memcpy(address(array), elements, array.nbytes)
    return array


cdef uint64_t CLOCKS_DIFFER_NS = 1000000000     # a note this much later than all records


cdef class Engine:
    """See _core.pyi for what users need to know."""

    cdef State s
    cdef Batch batch
    cdef Pipeline pipeline
    cdef bint has_worker
    cdef bint busy                              # a thread of Python is at work without its lock
    cdef bint wait                              # for the worker at the end of feed()
    cdef uint64_t ahead                         # records that the worker may not have paired yet
    cdef dict _arrays                           # name -> the numpy array behind a State pointer
    cdef dict _names                            # pid -> name, as far as they were told
    cdef bint stopped                           # a record after last_ns comes next
    cdef int swap                               # the stream's byte order; -1: not known yet
    cdef bint resync
    cdef bint searching                         # after garbage, for the next plausible record
    cdef uint64_t position                      # bytes of the stream that have been dealt with
    cdef uint64_t padding_end                   # where the latest zeros between records ended
    cdef uint64_t garbage_from                  # where the garbage began, while searching
    cdef uint8_t tail[MAX_RECORD]               # what the last feed ended with: part of a record
    cdef size_t n_tail
    cdef size_t need                            # bytes that what stands in tail wants to be whole
    cdef list _skips
    cdef object failure

    def __init__(
        self, *, max_pending=1_000_000, max_age_ns=600 * 10**9,
        keep_details=False, keep_driver_data=False, keep_records=False, keep_requests=False,
        as_original=False, resync=False, devices=(), from_ns=0, threads=1, max_devices=65_536,
        hash_seed=None, spill_every=1 << 31, set_aside_from=1 << 16,
    ):
        if not 1 <= max_pending <= 1 << 32:
            raise ValueError(f"max_pending must be from 1 to 2^32, not {max_pending}")
        if not 0 <= max_age_ns < 1 << 64:
            raise ValueError(f"max_age_ns must be from 0 to 2^64-1, not {max_age_ns}")
        if not 0 <= from_ns < 1 << 64:
            raise ValueError(f"from_ns must be from 0 to 2^64-1, not {from_ns}")
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        if not 1 <= max_devices <= MOST_DEVICES:
            raise ValueError(f"max_devices must be from 1 to 2^22-1, not {max_devices}")
        if not 1 <= spill_every <= 1 << 31:
            raise ValueError(f"spill_every must be from 1 to 2^31, not {spill_every}")
        if not 0 <= set_aside_from < 1 << 64:
            raise ValueError(f"set_aside_from must be from 0 to 2^64-1, not {set_aside_from}")
        if hash_seed is None:
            hash_seed = int.from_bytes(os.urandom(16), "little")
        memset(&self.s, 0, sizeof(State))
        self.s.max_pending = max_pending
        self.s.max_age_ns = max_age_ns
        self.s.set_aside_from = set_aside_from
        self.s.keep_details = keep_details or keep_requests
        self.s.keep_mismatches = keep_details
        self.s.keep_driver_data = keep_driver_data
        self.s.keep_records = keep_records
        self.s.keep_requests = keep_requests
        self.s.as_original = as_original
        self.s.first_ns = <uint64_t> -1
        self.s.oldest_ns = <uint64_t> -1
        self.s.follow_matches = self.s.keep_details
        self.s.max_victims = max(1, max_pending // 16)
        self.s.seed[0] = hash_seed & <uint64_t> -1
        self.s.seed[1] = hash_seed >> 64
        self.s.n_blocks = 1                     # the first is none
        self.s.spill_every = spill_every
        self.s.devices_end = 1                  # and so here: NOBODY
        self.resync = resync
        self.swap = -1
        self.searching = False
        self.stopped = False
        self.position = 0
        self.n_tail = 0
        self.need = 0
        self.failure = None
        self._arrays = {}
        self._skips = []
        self._names = {}
        self.has_worker = False
        self.busy = False
        self.ahead = 0
        wanted = set(devices)
        self.s.max_devices = max(max_devices, len(wanted))
        self._grow_devices(max(len(wanted), 4 * BATCH))
        for number in wanted:
            enter_device(&self.s, number)
        self.s.has_wanted = len(wanted) > 0
        self.set_from_ns(from_ns)
        self._make_room(0, 0, 0)
        if threads > 1 and not (
            keep_details or keep_records or keep_requests or keep_driver_data
        ):
            self._start_worker()

    def __dealloc__(self):
        if self.has_worker and self.pipeline.process == getpid():
            with nogil:
                stop_pipeline(&self.pipeline)

    cdef int _start_worker(self) except -1:
        cdef int error
        memset(&self.pipeline, 0, sizeof(Pipeline))
        self.pipeline.s = &self.s
        self.pipeline.ring = <Batch *> allocate(self._arrays, "ring", RING * sizeof(Batch))
        with nogil:
            error = start_pipeline(&self.pipeline)
        if error:
            raise MemoryError(f"cannot start another thread: {os.strerror(error)}")
        self.has_worker = True
        self.ahead = RING * BATCH
        return 0

    def set_from_ns(self, from_ns):
        self._check_free()
        self.s.from_ns = from_ns
        self.s.has_filter = self.s.has_wanted or self.s.over_limit > 0 or from_ns > 0

    # -- memory: all of it is made here, in numpy arrays. What grows first gets all that it needs,
    # in a new dictionary, and then puts it to use: where there is no memory nothing has changed.

    cdef int _grow_table(self, name, Table *t) except -1:
        """Make a table larger by half."""
        self._resize_table(name, t, t.n_groups + max(32, t.n_groups // 2))
        return 0

    cdef int _resize_table(self, name, Table *t, uint64_t n_groups) except -1:
        """So many groups, with room for all that is in the table."""
        cdef dict arrays = dict(self._arrays)
        cdef Table old = t[0]
        cdef Table new
        new.n_groups = n_groups
        new.used = 0
        if new.n_groups * GROUP > <uint64_t> 1 << 32:
            raise MemoryError("more records are pending than can be told apart")
        new.groups = <Group *> allocate(arrays, name + "_groups", new.n_groups * sizeof(Group))
        new.slots = <Pending *> allocate(
            arrays, name + "_slots", new.n_groups * GROUP * sizeof(Pending)
        )
        t[0] = new
        with nogil:
            rehash(&self.s, t, &old)
        self._arrays = arrays
        return 0

    cdef int _make_room_pending(self, uint64_t more) except -1:
        """Set aside what many others have overtaken, where much is pending and that makes room;
        otherwise, or where much of it was brought back, let the table grow.
        """
        cdef State *s = &self.s
        cdef uint64_t room = s.pending.n_groups * MOST_IN_GROUP
        cdef uint64_t used = s.pending.used
        cdef uint64_t since_ns = max(s.full_ns, s.oldest_ns)
        # A quarter of the records since then has overtaken what is from before.
        cdef uint64_t before_ns = s.now_ns - (s.now_ns - since_ns) // 4
        cdef uint64_t moved = 0
        if (
            s.records - s.full_records >= OVERTAKING * room
            and s.n_brought_back <= s.n_set_aside // 8
            and since_ns < s.now_ns
            and (s.overtaken.used != 0 or pays_to_set_aside(s, before_ns))
        ):
            while s.overtaken.used + used > s.overtaken.n_groups * MOST_IN_GROUP:
                self._grow_table("overtaken", &s.overtaken)
            self._make_bits(used)
            with nogil:
                moved = set_aside(s, before_ns)
        s.full_ns = s.now_ns
        s.full_records = s.records
        if moved <= used // 8:
            s.n_set_aside = s.n_brought_back = 0
            self._grow_table("pending", &s.pending)
        elif 2 * (s.pending.used + more) < room:
            self._resize_table(
                "pending", &s.pending, 1 + 3 * (s.pending.used + more) // (2 * MOST_IN_GROUP)
            )
        return 0

    cdef int _make_bits(self, uint64_t more) except -1:
        """Bits enough for so many more overtaken requests; those of what is gone are cleared."""
        cdef State *s = &self.s
        cdef uint64_t n
        cdef uint64_t had = <uint64_t> 64 << 32 - s.overtaken_shift if s.overtaken_bits else 0
        if BITS_EACH * (s.n_bits_set + more) <= had:
            return 0
        n = max(<uint64_t> 1 << 12, had)
        while n < BITS_EACH * (s.overtaken.used + s.overtaken.used // 2 + more):
            n *= 2
        s.overtaken_bits = <uint64_t *> allocate(self._arrays, "overtaken_bits", n // 8)
        s.overtaken_shift = 39 - width(n)
        with nogil:
            set_bits(s)
        return 0

    cdef int _grow_devices(self, uint64_t wanted) except -1:
        """Make room for so many devices, or max_devices, beside NOBODY."""
        cdef State *s = &self.s
        cdef dict arrays = dict(self._arrays)
        cdef uint64_t i
        cdef uint64_t had = s.devices_room
        cdef uint64_t room = 1 + min(wanted, s.max_devices)
        cdef Device *devices = <Device *> enlarge(
            arrays, "devices", s.devices, had * sizeof(Device), room * sizeof(Device)
        )
        cdef Load *loads = <Load *> enlarge(
            arrays, "loads", s.loads, had * sizeof(Load), room * sizeof(Load)
        )
        cdef Carry *carries = <Carry *> enlarge(
            arrays, "carries", s.carries, had * sizeof(Carry), room * sizeof(Carry)
        )
        cdef unsigned int map_bits = (2 * int(room) - 1).bit_length()
        cdef DeviceSlot *device_map = <DeviceSlot *> allocate(
            arrays, "map", sizeof(DeviceSlot) << map_bits
        )
        self._place_sequences(arrays, room, min(s.cpu_shift, cpu_bits(<uint32_t> -1, room)))
        s.devices = devices
        s.loads = loads
        s.carries = carries
        s.devices_room = room
        s.device_map = device_map
        s.device_mask = (<uint64_t> 1 << map_bits) - 1
        s.device_shift = 64 - map_bits
        for i in range(1, s.devices_end):
            if devices[i].in_use:
                map_device(s, devices[i].number, <uint32_t> i)
        self._arrays = arrays
        return 0

    cdef int _grow_sequences(self, cpus) except -1:
        """Room for a CPU of that number on every device."""
        cdef dict arrays = dict(self._arrays)
        self._place_sequences(
            arrays, self.s.devices_room, cpu_bits(cpus, self.s.devices_room)
        )
        self._arrays = arrays
        return 0

    cdef int _place_sequences(self, dict arrays, uint64_t devices, unsigned int shift) except -1:
        """Sequence numbers for so many devices, of 2^shift CPUs each."""
        cdef State *s = &self.s
        cdef uint64_t i
        cdef uint32_t *new = <uint32_t *> allocate(arrays, "sequences", devices << shift + 2)
        for i in range(1, s.devices_end):
            memcpy(
                new + (i << shift), s.last_sequence + (i << s.cpu_shift),
                4 << min(shift, s.cpu_shift),
            )
        s.last_sequence = new
        s.cpu_shift = shift
        return 0

    cdef int _grow_accounts(self) except -1:
        """As many accounts again, in a chunk of their own: they must not move."""
        cdef State *s = &self.s
        cdef dict arrays = dict(self._arrays)
        cdef uint64_t i
        cdef uint64_t had = s.n_accounts
        cdef uint64_t more = max(4 * (BATCH + self.ahead), had)
        cdef Account *chunk = <Account *> allocate(
            arrays, f"accounts {had}", more * sizeof(Account)
        )
        s.accounts = <Account **> enlarge(
            arrays, "accounts", s.accounts, had * sizeof(void *), (had + more) * sizeof(void *)
        )
        for i in range(more):
            s.accounts[had + i] = &chunk[i]
        s.n_accounts += more
        self._arrays = arrays
        return 0

    cdef int _grow_queue_accounts(self) except -1:
        """Likewise."""
        cdef State *s = &self.s
        cdef dict arrays = dict(self._arrays)
        cdef uint64_t i
        cdef uint64_t had = s.n_queue_accounts
        cdef uint64_t more = max(4 * (BATCH + self.ahead), had)
        cdef QueueAccount *chunk = <QueueAccount *> allocate(
            arrays, f"queue accounts {had}", more * sizeof(QueueAccount)
        )
        s.queue_accounts = <QueueAccount **> enlarge(
            arrays, "queue accounts", s.queue_accounts,
            had * sizeof(void *), (had + more) * sizeof(void *),
        )
        for i in range(more):
            s.queue_accounts[had + i] = &chunk[i]
        s.n_queue_accounts += more
        self._arrays = arrays
        return 0

    cdef int _grow_blocks(self, uint64_t wanted) except -1:
        cdef State *s = &self.s
        cdef dict arrays = dict(self._arrays)
        cdef uint64_t room = max(wanted, 2 * s.blocks_room)
        cdef size_t block = BLOCK * sizeof(uint32_t)
        if room > <uint64_t> 1 << 32:
            raise MemoryError("more histograms than can be told apart")
        s.blocks = <uint32_t *> enlarge(
            arrays, "blocks", s.blocks, min(s.n_blocks, s.blocks_room) * block, room * block
        )
        s.blocks_room = room
        self._arrays = arrays
        return 0

    cdef int _spill(self) except -1:
        """Make room for what spill() does, and do that."""
        cdef State *s = &self.s
        cdef dict arrays = dict(self._arrays)
        cdef size_t block = BLOCK * sizeof(uint64_t)
        if s.spilled_room < s.blocks_room:
            s.spilled = <uint64_t *> enlarge(
                arrays, "spilled", s.spilled, s.n_spilled * block, s.blocks_room * block
            )
            s.spilled_room = s.blocks_room
            self._arrays = arrays
        with nogil:
            spill(s)
        return 0

    cdef int _grow_processes(self) except -1:
        cdef State *s = &self.s
        cdef dict arrays = dict(self._arrays)
        cdef uint64_t i, at
        cdef uint64_t had = s.process_mask + 1 if s.processes != NULL else 0
        cdef uint64_t n = max(8 * BATCH, 4 * had)
        cdef const Process *old = s.processes
        s.processes = <Process *> allocate(arrays, "processes", n * sizeof(Process))
        s.process_mask = n - 1
        for i in range(had):
            if old[i].requests != 0:
                at = mix(old[i].pid ^ s.seed[1], s.seed[0] | 1) & s.process_mask
                while s.processes[at].requests != 0:
                    at = (at + 1) & s.process_mask
                s.processes[at] = old[i]
        self._arrays = arrays
        return 0

    cdef uint8_t *_grow(
        self, name, const void *old, uint64_t used, uint64_t *room, uint64_t wanted, size_t size
    ) except NULL:
        """Elements of `size` bytes each, `used` of them in use: room for twice as many as before,
        and for `wanted`.
        """
        cdef dict arrays = dict(self._arrays)
        cdef uint64_t n = max(wanted, 8 * BATCH, 2 * room[0])
        cdef uint8_t *new = enlarge(arrays, name, old, used * size, n * size)
        room[0] = n
        self._arrays = arrays
        return new

    cdef int _take_names(self) except -1:
        """Move the process names that were told to the dictionary; a later one counts.

        So many at least are remembered: those told or asked for last.
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
        """The names of these will be asked for: they are the last to be forgotten."""
        self._take_names()
        if len(self._names) > MOST_PROCESSES:
            for pid in processes["pid"].tolist():
                if pid in self._names:
                    self._names[pid] = self._names.pop(pid)
        return 0

    cdef inline bint _has_room(self, const Batch *b, uint64_t n_bytes) noexcept nogil:
        """Whether there is room for all that a batch, which stands in n_bytes of input, can add.

        Also for the batches before it that the worker has not paired yet; what it counts
        meanwhile may be read late, but never by more than these.
        """
        cdef State *s = &self.s
        cdef uint64_t more = BATCH + self.ahead
        cdef uint64_t overtaken = load_acquire(&s.overtaken.used)   # first: it goes to the others
        cdef uint64_t pending = load_relaxed(&s.pending.used) + more
        return (
            pending <= s.pending.n_groups * MOST_IN_GROUP
            and pending + overtaken <= s.max_pending
            and (s.devices_end + BATCH <= s.devices_room or s.devices_room > s.max_devices)
            and s.n_active + more <= s.n_accounts
            and s.n_blocks + BLOCKS_A_MATCH * more <= s.blocks_room
            and s.matches - s.spilled_at < s.spill_every
            and (s.as_original or (
                load_relaxed(&s.history.used) + more <= s.history.n_groups * MOST_IN_GROUP
                and load_relaxed(&s.n_retry_rows) + more <= s.retry_rows_room
                and (not b.seen & CAT_ZONE_APPEND or s.appends != NULL)
            ))
            and cpu_bits(b.cpus, s.devices_room) <= s.cpu_shift
            and (s.queued.groups == NULL or (
                load_relaxed(&s.queued.used) + more <= s.queued.n_groups * MOST_IN_GROUP
                and s.n_queue_active + more <= s.n_queue_accounts
            ))
            and (s.names == NULL or (
                load_relaxed(&s.n_names) + more <= s.names_room
                and load_relaxed(&s.n_processes) + more <= (s.process_mask + 1) // 2
            ))
            and (not b.seen & CAT_QUEUE or s.queued.groups != NULL)
            and (not b.seen & CAT_NOTIFY or s.names != NULL)
            and (not s.keep_details or (
                s.n_kept + BATCH <= s.kept_room
                and (not s.keep_mismatches or s.n_mismatch + BATCH <= s.mismatch_room)
                and (not s.keep_requests or s.n_request + BATCH <= s.request_room)
            ))
            and (not s.keep_records or s.n_record + BATCH <= s.record_room)
            and (not s.keep_driver_data
                 or s.n_driver + n_bytes + BATCH * HEADER_V7 <= s.driver_room)
        )

    cdef int _make_room(self, uint32_t seen, uint32_t cpus, uint64_t n_bytes) except -1:
        """As _has_room says, where that can be; the worker must have nothing to do.

        Not where records have to be evicted: then a batch is paired while nothing else runs, and
        for its own records there is room.
        """
        cdef State *s = &self.s
        cdef uint64_t i, had
        cdef uint64_t more = BATCH + self.ahead
        while min(s.pending.used + more, s.max_pending) > s.pending.n_groups * MOST_IN_GROUP:
            self._make_room_pending(more)
        if all_pending(s) + more > s.max_pending and s.victims == NULL:
            s.victims = <Victim *> allocate(
                self._arrays, "victims", s.max_victims * sizeof(Victim)
            )
        if s.devices_end + BATCH > s.devices_room and s.devices_room <= s.max_devices:
            self._grow_devices(2 * s.devices_room)
        if cpu_bits(cpus, s.devices_room) > s.cpu_shift:
            self._grow_sequences(cpus)
        if s.n_active + more > s.n_accounts:
            self._grow_accounts()
        if s.n_blocks + BLOCKS_A_MATCH * more > s.blocks_room:
            self._grow_blocks(s.n_blocks + BLOCKS_A_MATCH * more)
        if s.matches - s.spilled_at >= s.spill_every:
            self._spill()
        if not s.as_original:
            self._make_room_for_steps(seen, more)
        if seen & CAT_QUEUE or s.queued.groups != NULL:
            while min(s.queued.used + more, s.max_pending) > s.queued.n_groups * MOST_IN_GROUP:
                self._grow_table("queued", &s.queued)
            if s.n_queue_active + more > s.n_queue_accounts:
                self._grow_queue_accounts()
        if seen & CAT_NOTIFY or s.names != NULL:
            self._take_names()
            if s.processes == NULL:
                self._grow_processes()
            if s.names == NULL:
                s.names = <Name *> allocate(self._arrays, "names", 2 * more * sizeof(Name))
                s.names_room = 2 * more
            while min(s.n_processes + more, MOST_PROCESSES) > (s.process_mask + 1) // 2:
                self._grow_processes()
        if s.keep_details and s.n_kept + BATCH > s.kept_room:
            had = s.kept_room
            s.kept = <Kept *> self._grow("kept", s.kept, had, &s.kept_room, 0, sizeof(Kept))
            for i in range(had, s.kept_room):   # the list of free entries ended just before
                s.kept[i].stored = i + 1
        if s.keep_mismatches and s.n_mismatch + BATCH > s.mismatch_room:
            s.mismatch = <Mismatch *> self._grow(
                "mismatch", s.mismatch, s.n_mismatch, &s.mismatch_room, 0, sizeof(Mismatch)
            )
        if s.keep_requests and s.n_request + BATCH > s.request_room:
            s.request = <Request *> self._grow(
                "request", s.request, s.n_request, &s.request_room, 0, sizeof(Request)
            )
        if s.keep_records and s.n_record + BATCH > s.record_room:
            s.record = <Record *> self._grow(
                "record", s.record, s.n_record, &s.record_room, 0, sizeof(Record)
            )
        if s.keep_driver_data and s.n_driver + n_bytes + BATCH * HEADER_V7 > s.driver_room:
            s.driver = self._grow(
                "driver", s.driver, s.n_driver, &s.driver_room,
                2 * (s.n_driver + n_bytes + BATCH * HEADER_V7), 1,
            )
        return 0

    cdef int _make_room_for_steps(self, uint32_t seen, uint64_t more) except -1:
        """For requests of several steps: any completion may turn out to be one of a part."""
        cdef State *s = &self.s
        while s.history.used + more > s.history.n_groups * MOST_IN_GROUP:
            self._grow_table("history", &s.history)
        if s.n_retry_rows + more > s.retry_rows_room:
            s.retry_rows = <RetryRow *> self._grow(
                "retry rows", s.retry_rows, s.n_retry_rows, &s.retry_rows_room,
                s.n_retry_rows + more, sizeof(RetryRow),
            )
        if seen & CAT_ZONE_APPEND and s.appends == NULL:
            s.appends = <Append *> allocate(
                self._arrays, "appends", MOST_APPENDS * sizeof(Append)
            )
        return 0

    # -- bytes in

    def feed(self, const uint8_t[::1] data, until_ns=None, wait=True):
        self._check_free()
        if self.failure is not None:
            raise self.failure
        if until_ns is None:
            self.s.last_ns = <uint64_t> -1
        elif 0 < until_ns < 1 << 64:
            self.s.last_ns = until_ns - 1
        else:
            raise ValueError(f"until_ns must be from 1 to 2^64-1, not {until_ns}")
        self.wait = wait
        if self.has_worker and self.pipeline.process != getpid():
            self._settle()
        cdef size_t size = data.shape[0]
        if size == 0 and not (self.stopped and self.n_tail):
            return 0
        self.busy = True
        try:
            return self._feed(&data[0] if size else self.tail, size)
        except BaseException as error:
            self.failure = error                # the batch at hand is lost: nothing to go on from
            raise
        finally:
            self.busy = False

    cdef Py_ssize_t _feed(self, const uint8_t *data, size_t size) except -1:
        """Returns how many bytes were taken: all, unless a record after last_ns comes next."""
        cdef size_t at = 0
        cdef size_t old, more, used
        while self.n_tail:
            # Complete what the last feed ended with, then go on in place behind it.
            old = self.n_tail
            more = min(max(self.need, old) - old, size - at, <size_t> MAX_RECORD - old)
            memcpy(self.tail + old, data + at, more)
            at += more
            used = self._consume(self.tail, old + more)
            self.n_tail = old + more - used
            if used >= old:
                at -= self.n_tail               # the rest of the tail is data's own beginning
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
        """Deal with all that is whole; returns how many bytes that is, and sets self.need."""
        cdef State *s = &self.s
        cdef Pipeline *p = &self.pipeline
        cdef Batch *b = &self.batch
        cdef size_t at = 0
        cdef size_t begin
        cdef Walk end
        cdef int most
        self.stopped = False
        with nogil:
            while at < size:
                if unlikely(self.swap < 0 or self.searching):
                    end = WALK_OTHER
                else:
                    if self.has_worker:
                        account_paired(p)
                        if p.produced - p.accounted == RING:
                            await_paired(p, RING // 2)
                        b = &p.ring[p.produced % RING]
                    begin = at
                    most = <int> min(
                        <uint64_t> BATCH, SWEEP_EVERY - (s.records & (SWEEP_EVERY - 1))
                    )
                    end = decode_batch(
                        data, size, &at, most, s.last_ns, self.swap, b, &self.need, &s.next_ns
                    )
                    self.position += at - begin
                    b.first = s.records
                    s.records += b.n
                    if likely(
                        self.has_worker and self._has_room(b, at - begin)
                        and b.first & (SWEEP_EVERY - 1) != 0
                    ):
                        if has_time(p):         # then it does the rest
                            prepare(s, b, False, False)
                        else:
                            prepare(s, b, True, False)
                        publish(p)
                    else:
                        self._work_alone(b, at - begin)
                if end == WALK_SHORT:
                    break
                if unlikely(end == WALK_LATER):
                    self.stopped = True
                    break
                if unlikely(end != WALK_FULL):
                    if self.has_worker:
                        drain(p)                # for what may be raised
                    with gil:
                        if not self._consume_other(data, size, &at, end):
                            break
            # Until then records of some kinds stand in data.
            if self.has_worker and (self.wait or p.needs_input or s.follow_issues):
                drain(p)
        return at

    cdef int _check_free(self) except -1:
        """Nothing may be told or changed while another thread of Python works."""
        if self.busy:
            raise RuntimeError("another thread is using this engine")
        return 0

    cdef int _settle(self) except -1:
        """Wait for the worker: what is told or changed next is of all that was fed."""
        cdef Pipeline *p = &self.pipeline
        self._check_free()
        if not self.has_worker:
            return 0
        if p.process == getpid():
            self.busy = True
            with nogil:
                drain(p)
            self.busy = False
            return 0
        # After a fork() this one goes on alone, unless the worker may have had something in hand:
        # what it says itself was copied at another moment than what it was writing to.
        if p.accounted != p.produced:
            self.failure = RuntimeError("the process was forked while two threads were at work")
            raise self.failure
        self.has_worker = False
        self.ahead = 0
        return 0

    cdef int _work_alone(self, Batch *b, size_t n_bytes) except -1 nogil:
        """Take a batch through all stages."""
        cdef State *s = &self.s
        if self.has_worker:
            drain(&self.pipeline)
        if unlikely(not self._has_room(b, n_bytes)):
            with gil:
                try:
                    self._make_room(b.seen, b.cpus, n_bytes)
                except BaseException:
                    s.records = b.first         # nothing of this batch counts
                    raise
        if b.first & (SWEEP_EVERY - 1) == 0:
            sweep(s)
        if s.keep_records:
            log_records(s, b)
        if s.overtaken.used != 0:
            prepare(s, b, True, True)
        else:
            prepare(s, b, True, False)
        pair(s, b)
        account(s, b)
        return 0

    cdef bint _consume_other(
        self, const uint8_t *data, size_t size, size_t *at, Walk why
    ) except -1:
        """Deal with what is no record at data[at:]: the beginning of the stream, a mark, garbage.

        False: more bytes are needed to tell.
        """
        cdef size_t left = size - at[0]
        cdef const uint8_t *p = data + at[0]
        cdef size_t length = 0
        cdef uint64_t events = 0
        cdef int mark
        if why == WALK_SHUFFLED and not self.resync:
            self._fail(
                p, left,
                "a version-8 record with the magic of version 7, cut to 48 bytes",
                "version 7 (the kernel's ftrace blk tracer sends such records on Linux 6.19 and "
                "later; use blktrace there)",
            )
        mark = parse_lost(p, left, &length, &events)
        if mark > 0 and not self.searching:
            self.s.lost += events
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
            if self.swap < 0 and sniff(load32(p)) >= 0:
                self.swap = self.s.foreign = sniff(load32(p))
                return True
            if not self.resync:
                self._fail(p, left, None, None)
            if self.s.records == 0:             # its magic told the byte order, and was no record's
                self.swap = -1
            self.searching = True
            self.garbage_from = self.position
            at[0] += 1
            self.position += 1
        return self._search(data, size, at)

    cdef int _skip_padding(self, size_t length) except -1:
        """Skip zeros behind a record: blktrace may hand out a buffer of them when it stops."""
        self.s.padding_bytes += length
        self.position += length
        self.padding_end = self.position
        return 0

    cdef bint _search(self, const uint8_t *data, size_t size, size_t *at) except -1:
        """Look for the next plausible record or mark. False: none so far, more bytes are needed."""
        cdef size_t pos = at[0]
        cdef int order = self.swap
        cdef int found                          # 1: yes, 0: not in sight, -1: too short to tell
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
        self._skips.append((self.garbage_from, skipped))
        return 0

    cdef int _fail(self, const uint8_t *p, size_t left, found, expected) except -1:
        """Raise TraceError, now and at every use to come."""
        if found is None:
            found, expected = describe_magic(load32(p), self.swap)
        self.failure = TraceError(self.position, found, expected)
        raise self.failure

    def finish(self):
        self._check_free()
        if self.failure is not None:
            raise self.failure
        self._settle()
        cdef size_t n, used
        while self.searching and self.n_tail:
            # What stands first was too short to tell, and is garbage by now; a mark may follow.
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
        sweep(&self.s)
        self.s.has_ended = True
        if self.searching:
            self._end_search()
        elif n:
            if self.resync:
                self.garbage_from = self.position
                self.position += n
                self.n_tail = 0
                self._end_search()
            elif n >= 4 and sniff(load32(self.tail)) < 0 and self.tail[0] != c"C":
                self._fail(self.tail, n, None, None)
            else:
                self._fail(
                    self.tail, n, f"the end of the input {n} bytes into a record",
                    f"{self.need} bytes at least",
                )

    # -- figures out

    def snapshot(self, end_ns=None):
        self._settle()
        self.busy = True
        try:
            return self._snapshot(end_ns)
        finally:
            self.busy = False

    cdef _snapshot(self, end_ns):
        cdef State *s = &self.s
        cdef uint64_t end = s.now_ns if end_ns is None else end_ns
        cdef SnapshotSizes n
        with nogil:
            sweep(s)
            weigh_requests(s, end)
            count_rows(s, &n)
        processes = self._listed_processes()
        snapshot = Snapshot(
            rows=table(n.rows, layout.ROW),
            d2c_bins=table(n.d2c_bins, layout.BIN),
            size_bins=table(n.size_bins, layout.BIN),
            loads=table(n.loads, layout.LOAD),
            retry_rows=table(s.n_retry_rows, layout.RETRY_ROW),
            queue_rows=table(n.queue_rows, layout.QUEUE_ROW),
            q2d_bins=table(n.q2d_bins, layout.BIN),
            q2c_bins=table(n.q2c_bins, layout.BIN),
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
        self._refresh_names(processes)
        with nogil:                             # from here on nothing can fail
            move_rows(s, rows, d2c_bins, size_bins)
            move_queue_rows(s, queue_rows, q2d_bins, q2c_bins)
            move_load_rows(s, end, loads)
            move_retry_rows(s, retry_rows)
            free_idle_devices(s)
            close_accounts(s)
            forget_processes(s)
            s.gaps_cut = s.gaps
        return snapshot

    cdef _listed_processes(self):
        """The table of processes, by pid."""
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
            out.pid = <uint32_t> -1
        return processes

    def take_mismatches(self):
        self._check_free()
        taken = copied(self.s.mismatch, self.s.n_mismatch, layout.MISMATCH)
        self.s.n_mismatch = 0
        return taken

    def take_records(self):
        self._check_free()
        taken = copied(self.s.record, self.s.n_record, layout.RECORD)
        self.s.n_record = 0
        return taken

    def take_requests(self):
        self._check_free()
        taken = copied(self.s.request, self.s.n_request, layout.REQUEST)
        self.s.n_request = 0
        return taken

    def take_driver_data(self):
        self._check_free()
        cdef bytes data = (<char *> self.s.driver)[:self.s.n_driver] if self.s.n_driver else b""
        self.s.n_driver = 0
        return data

    def take_skips(self):
        self._check_free()
        skips = self._skips
        self._skips = []
        return skips

    def leftovers(self):
        self._check_free()
        if not self.s.keep_mismatches:
            raise ValueError("made without keep_details")
        kept = np.empty(all_pending(&self.s), dtype=[("detail", layout.DETAIL), ("stored", "u8")])
        cdef Kept *out = <Kept *> address(kept)
        out = copy_kept(&self.s, &self.s.pending, out)
        copy_kept(&self.s, &self.s.overtaken, out)
        # The original walks 128 hash chains, the most recently stored first.
        order = np.lexsort((
            ~kept["stored"], kept["detail"]["record"]["sector"] % np.uint64(128)
        ))
        # numpy's indexing with a list hands out anything where it gets no memory for structs.
        return kept["detail"].take(order)

    def counters(self):
        self._settle()
        return {
            "records": self.s.records,
            "requests": self.s.matches,
            "mismatches": self.s.mismatches,
            "driver_data_records": self.s.driver_data,
            "evicted": self.s.evicted,
            "lost_events": self.s.lost,
            "sequence_gaps": self.s.gaps,
            "completions_without_issue": self.s.orphans,
            "issues_without_completion": max(self.s.unanswered, self.s.given_up),
            "skipped_bytes": self.s.skipped_bytes,
            "over_device_limit": self.s.over_limit,
        }

    def _longest_searches(self):
        """For tests: groups that the longest search among pending requests looks at, and slots of
        the map that the longest for a device does.
        """
        cdef const State *s = &self.s
        cdef uint64_t groups = 0
        cdef uint64_t slots = 0
        cdef uint64_t group, home, i
        cdef unsigned int in_use
        cdef const Pending *p
        for group in range(s.pending.n_groups):
            in_use = slots_in_use(&s.pending, group)
            while in_use != 0:
                p = &s.pending.slots[group * GROUP + first_bit(in_use)]
                in_use &= in_use - 1
                home = place_of(s, &s.pending, p.sector, p.key).home
                groups = max(groups, 1 + (group + s.pending.n_groups - home) % s.pending.n_groups)
        for i in range(s.device_mask + 1):
            if s.device_map[i].index != NOBODY:
                home = mix(s.device_map[i].number ^ s.seed[0], s.seed[1]) >> s.device_shift
                slots = max(slots, 1 + ((i - home) & s.device_mask))
        return groups, slots

    def _set_aside(self):
        """For tests: how many requests are set aside now, and how many were brought back since
        the table of the others last grew.
        """
        self._settle()
        return self.s.overtaken.used, self.s.n_brought_back

    @property
    def requests(self):
        self._settle()
        return self.s.matches

    @property
    def pending(self):
        self._settle()
        return all_pending(&self.s)

    @property
    def records(self):
        return self.s.records

    @property
    def stopped_at_ns(self):
        return self.s.next_ns if self.stopped else None

    @property
    def now_ns(self):
        self._settle()
        return self.s.now_ns

    @property
    def first_ns(self):
        self._settle()
        return self.s.first_ns if self.s.first_ns != <uint64_t> -1 else None

    @property
    def epoch_ns(self):
        self._settle()
        cdef const State *s = &self.s
        # `blkparse -d` makes the times of all records relative but those of notes.
        if not s.has_epoch or s.first_ns < s.epoch_at_ns - min(s.epoch_at_ns, CLOCKS_DIFFER_NS):
            return None
        return s.epoch_ns

    @property
    def process_names(self):
        self._settle()
        self._take_names()
        return self._names

    @property
    def padding_bytes(self):
        return self.s.padding_bytes

    @property
    def offset(self):
        return self.position


def _struct_sizes():
    """For the test that holds these structs against their numpy twins."""
    return {
        "TRACE_V7": sizeof(TraceV7),
        "TRACE_V8": sizeof(TraceV8),
        "RECORD": sizeof(Record),
        "DETAIL": sizeof(Detail),
        "MISMATCH": sizeof(Mismatch),
        "MOMENTS": sizeof(Moments),
        "ROW": sizeof(Row),
        "BIN": sizeof(Bin),
        "LOAD": sizeof(LoadRow),
        "QUEUE_ROW": sizeof(QueueRow),
        "RETRY_ROW": sizeof(RetryRow),
        "PROCESS": sizeof(Process),
        "REQUEST": sizeof(Request),
    }
