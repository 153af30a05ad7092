# distutils: language = c
"""The engine: trace bytes in, accounts of matched requests out.

    feed(bytes) -> decode a batch -> pair it -> account what matched -> cut() -> numpy arrays

This file is the table of contents. The kernels stand in the parts it includes, each readable on
its own:

    _types.pxd     the structs, each with its size and its numpy twin
    _records.pxi   what tells a record from other bytes
    _decode.pxi    foreign bytes -> host-order records
    _pending.pxi   the table of pending requests, and how it is kept bounded
    _stats.pxi     extremes, sums and histograms per device, operation and direction

Kernels are `noexcept nogil`, work on one State and never allocate; Engine owns the memory, as
numpy arrays, and makes room for a whole batch before it lets them run.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memmove, memset

from blkiomon._types cimport *

import os

import numpy as np

from blkiomon import layout
from blkiomon.errors import TraceError

include "_records.pxi"
include "_decode.pxi"
include "_pending.pxi"
include "_stats.pxi"


# --- pairing: the heart -----------------------------------------------------------------------

cdef void prepare(State *s, Batch *b) noexcept nogil:
    """Work out every record's key and place, and have what it will need fetched before.

    First the group's tags, then, from these, the slot: both are in the cache when pair() comes,
    and while they are on their way the next record is worked on.
    """
    cdef:
        int i
        uint32_t last_number = 0
        uint32_t device = <uint32_t> -1
        const TraceV7 *r
        const Group *group
        unsigned int slots

    for i in range(b.n):
        r = b.record[i]
        if r.device != last_number or device == <uint32_t> -1:
            device = find_device(s, r.device)
            last_number = r.device
        b.key[i] = key_of(device, b.category[i])
        b.place[i] = place_of(s, r.sector, b.key[i])
        prefetch(&s.groups[b.place[i].home])
    if s.group_mask < LARGE_TABLE:
        return                                  # what is smaller than the cache needs no help
    for i in range(b.n):
        group = &s.groups[b.place[i].home]
        slots = tags_equal(group, b.place[i].tag)
        if slots == 0:
            slots = tags_equal(group, 0)
        prefetch(&s.slots[(group - s.groups) * GROUP + first_bit(slots | 1 << (GROUP - 1))])


cdef inline void set_pending(State *s, Pending *p, const Batch *b, int i) noexcept nogil:
    """Write a record into a slot that is empty or whose record has been dropped."""
    cdef const TraceV7 *r = b.record[i]
    p.sector = r.sector
    p.time_ns = r.time
    p.key = b.key[i]
    p.category = b.category[i] & CAT_ALL | (FAILED if r.error != 0 else 0)
    p.bytes = r.bytes
    if unlikely(s.keep_details):
        p.detail = keep(s, r, b.category[i], s.records + b.order[i])
    note_age(s, p)


cdef void log_mismatch(
    State *s, const Pending *p, const Batch *b, int i, bint pending_is_older
) noexcept nogil:
    cdef Mismatch *m = &s.mismatch[s.n_mismatch]
    cdef Detail *of_pending = &m.older if pending_is_older else &m.younger
    cdef Detail *of_record = &m.younger if pending_is_older else &m.older
    of_pending[0] = s.kept[p.detail].detail
    copy_detail(of_record, b.record[i], b.category[i], s.records + b.order[i])
    s.n_mismatch += 1


cdef void take_driver_data(State *s, const TraceV7 *r, const uint8_t *payload) noexcept nogil:
    """Pass a driver's record on, as a version-7 record in host byte order."""
    s.driver_data += 1
    if not s.keep_driver_data:
        return
    memcpy(s.driver + s.n_driver, r, HEADER_V7)
    memcpy(s.driver + s.n_driver + HEADER_V7, payload, r.pdu_len)
    s.n_driver += HEADER_V7 + r.pdu_len


cdef inline void settle(
    State *s, Batch *b, const Pending *p, Place place,
    uint32_t category, uint32_t size_bytes, uint64_t d2c_ns, bint failed,
) noexcept nogil:
    """A match: leave it to account(), and take the pending record out."""
    b.match[b.n_matches] = match_of(s, p.key, category, size_bytes, d2c_ns, failed)
    b.n_matches += 1
    if unlikely(s.keep_details):
        release(s, p.detail)
    remove(s, p, place)


cdef void pair(State *s, Batch *b) noexcept nogil:
    """Pair the records of a batch (behaviour: one pending record per key).

    A record whose key is not pending becomes pending. Otherwise the two are ordered by time, the
    pending one being older only if its time is strictly smaller: an older issue and a younger
    completion are a match; of anything else the younger stays pending. Two that are further apart
    than max_age_ns never pair: the older is evicted.
    """
    cdef:
        int i
        int n = b.n
        const TraceV7 *r
        Pending *p
        uint64_t d2c_ns
        uint64_t now_ns = s.now_ns
        uint32_t category
        bint pending_is_older

    b.n_matches = 0
    for i in range(n):
        r = b.record[i]
        category = b.category[i]
        if unlikely(category & CAT_DRV_DATA):
            take_driver_data(s, r, b.payload[i])
            continue
        now_ns = r.time
        p = find(s, b.place[i], r.sector, b.key[i])
        if p == NULL:
            if unlikely(s.pending == s.max_pending):
                evict_oldest(s)
            set_pending(s, claim(s, b.place[i]), b, i)
            continue

        pending_is_older = p.time_ns < r.time
        d2c_ns = r.time - p.time_ns if pending_is_older else p.time_ns - r.time
        if likely(d2c_ns <= s.max_age_ns):
            if likely(pending_is_older and p.category & CAT_ISSUE and category & CAT_COMPLETE):
                settle(s, b, p, b.place[i], p.category, p.bytes, d2c_ns, r.error != 0)
                continue
            if not pending_is_older and category & CAT_ISSUE and p.category & CAT_COMPLETE:
                settle(s, b, p, b.place[i], category, r.bytes, d2c_ns, p.category & FAILED != 0)
                continue
            s.mismatches += 1
            if s.keep_details:
                log_mismatch(s, p, b, i, pending_is_older)
        else:
            s.evicted += 1

        if pending_is_older:
            if s.keep_details:
                release(s, p.detail)
            set_pending(s, p, b, i)
        elif s.keep_details:                    # taken out and stored again, as the original does
            s.kept[p.detail].stored = s.records + b.order[i]
    s.now_ns = now_ns


# --- the engine -------------------------------------------------------------------------------

cdef class Engine:
    """See _core.pyi for what users need to know."""

    cdef State s
    cdef Batch batch
    cdef dict _arrays                           # name -> the numpy array behind a State pointer
    cdef list _chunks                           # the arrays that hold the accounts
    cdef int swap                               # the stream's byte order; -1: not known yet
    cdef bint resync
    cdef bint searching                         # after garbage, for the next plausible record
    cdef uint64_t position                      # bytes of the stream that have been dealt with
    cdef uint64_t garbage_from                  # where the garbage began, while searching
    cdef uint8_t tail[MAX_RECORD]               # what the last feed ended with: part of a record
    cdef size_t n_tail
    cdef size_t need                            # bytes that what stands in tail wants to be whole
    cdef list _skips
    cdef object failure

    def __init__(
        self, *, max_pending=1_000_000, max_age_ns=600 * 10**9,
        keep_details=False, keep_driver_data=False, resync=False,
    ):
        if not 1 <= max_pending <= 1 << 32:
            raise ValueError(f"max_pending must be from 1 to 2^32, not {max_pending}")
        if not 0 <= max_age_ns < 1 << 64:
            raise ValueError(f"max_age_ns must be from 0 to 2^64-1, not {max_age_ns}")
        memset(&self.s, 0, sizeof(State))
        self.s.max_pending = max_pending
        self.s.max_age_ns = max_age_ns
        self.s.keep_details = keep_details
        self.s.keep_driver_data = keep_driver_data
        self.s.oldest_ns = <uint64_t> -1
        self.s.max_victims = max(1, max_pending // 16)
        self.s.seed[0] = int.from_bytes(os.urandom(8), "little")
        self.s.seed[1] = int.from_bytes(os.urandom(8), "little")
        self.resync = resync
        self.swap = -1
        self.searching = False
        self.position = 0
        self.n_tail = 0
        self.need = 0
        self.failure = None
        self._arrays = {}
        self._chunks = []
        self._skips = []
        self._grow_table(64)
        self._make_room(0)

    # -- memory: all of it is made here, in numpy arrays

    cdef uint8_t *_allocate(self, name, uint64_t n_bytes) except NULL:
        """A zeroed array, aligned to a cache line; it replaces what had the name."""
        array = np.zeros(n_bytes + 64, dtype=np.uint8)
        self._arrays[name] = array
        cdef uint8_t[::1] view = array
        return <uint8_t *> ((<uintptr_t> &view[0] + 63) & ~<uintptr_t> 63)

    cdef int _grow_table(self, uint64_t n_groups) except -1:
        cdef State *s = &self.s
        cdef const Group *groups = s.groups
        cdef const Pending *slots = s.slots
        cdef uint64_t n_slots = (s.group_mask + 1) * GROUP if groups != NULL else 0
        held = self._arrays.get("groups"), self._arrays.get("slots")    # until they have moved
        s.groups = <Group *> self._allocate("groups", n_groups * sizeof(Group))
        s.slots = <Pending *> self._allocate("slots", n_groups * GROUP * sizeof(Pending))
        s.group_mask = n_groups - 1
        s.shift = 64 - (n_groups - 1).bit_length()
        with nogil:
            rehash(s, groups, slots, n_slots)
        del held
        return 0

    cdef int _grow_devices(self, uint64_t n) except -1:
        cdef uint64_t i
        cdef uint64_t n_map = 2 * n
        cdef uint32_t n_devices = self.s.n_devices
        held = self._arrays.get("devices")
        cdef Device *old = self.s.devices
        self.s.devices = <Device *> self._allocate("devices", n * sizeof(Device))
        self.s.device_map = <DeviceSlot *> self._allocate("map", n_map * sizeof(DeviceSlot))
        self.s.device_mask = n_map - 1
        self.s.device_shift = 64 - (n_map - 1).bit_length()
        self.s.n_devices = 0
        for i in range(n_devices):              # in the same order, so with the same index
            find_device(&self.s, old[i].number)
            self.s.devices[i] = old[i]
        del held
        return 0

    cdef int _grow_accounts(self) except -1:
        """Room for a batch of new accounts: address space only, until they are written to."""
        cdef uint64_t n = 2 * BATCH
        array = np.zeros(n * sizeof(Account) + 64, dtype=np.uint8)
        cdef uint8_t[::1] view = array
        cdef Account **active = self.s.active
        cdef uint64_t n_accounts = (len(self._chunks) + 1) * n
        held = self._arrays.get("active")
        self.s.active = <Account **> self._allocate("active", n_accounts * sizeof(void *))
        if active != NULL:
            memcpy(self.s.active, active, self.s.n_active * sizeof(void *))
        self._chunks.append(array)
        self.s.spare_accounts = <Account *> ((<uintptr_t> &view[0] + 63) & ~<uintptr_t> 63)
        self.s.n_spare_accounts = n
        del held
        return 0

    cdef uint8_t *_enlarge(self, name, uint8_t *old, uint64_t used, uint64_t wanted) except NULL:
        """An array of `wanted` bytes that begins with what was used of the old one."""
        held = self._arrays.get(name)
        cdef uint8_t *new = self._allocate(name, wanted)
        if used:
            memcpy(new, old, used)
        del held
        return new

    cdef inline bint _has_room(self, uint64_t n_bytes) noexcept nogil:
        """Whether there is room for whatever a batch that stands in n_bytes of input can add."""
        cdef State *s = &self.s
        return (
            min(s.pending + BATCH, s.max_pending) <= (s.group_mask + 1) * MOST_IN_GROUP
            and (s.pending + BATCH <= s.max_pending or s.victims != NULL)
            and s.n_devices + BATCH <= (s.device_mask + 1) // 2
            and s.n_spare_accounts >= BATCH
            and (not s.keep_details or (
                s.n_kept + BATCH <= s.kept_room and s.n_mismatch + BATCH <= s.mismatch_room
            ))
            and (not s.keep_driver_data
                 or s.n_driver + n_bytes + BATCH * HEADER_V7 <= s.driver_room)
        )

    cdef int _make_room(self, uint64_t n_bytes) except -1:
        cdef State *s = &self.s
        cdef uint64_t i
        cdef uint64_t room
        while min(s.pending + BATCH, s.max_pending) > (s.group_mask + 1) * MOST_IN_GROUP:
            self._grow_table((s.group_mask + 1) * 2)
        if s.pending + BATCH > s.max_pending and s.victims == NULL:
            s.victims = <Victim *> self._allocate("victims", s.max_victims * sizeof(Victim))
        if s.n_devices + BATCH > MOST_DEVICES:
            raise MemoryError(f"more than {MOST_DEVICES - BATCH} devices")
        if s.n_devices + BATCH > (s.device_mask + 1) // 2:
            self._grow_devices(max(4 * BATCH, s.device_mask + 1))
        if s.n_spare_accounts < BATCH:
            self._grow_accounts()
        if s.keep_details and s.n_kept + BATCH > s.kept_room:
            room = max(8 * BATCH, 2 * s.kept_room)
            s.kept = <Kept *> self._enlarge(
                "kept", <uint8_t *> s.kept, s.kept_room * sizeof(Kept), room * sizeof(Kept)
            )
            for i in range(s.kept_room, room):  # the list of free entries ended just before
                s.kept[i].stored = i + 1
            s.kept_room = room
        if s.keep_details and s.n_mismatch + BATCH > s.mismatch_room:
            room = max(8 * BATCH, 2 * s.mismatch_room)
            s.mismatch = <Mismatch *> self._enlarge(
                "mismatch", <uint8_t *> s.mismatch,
                s.n_mismatch * sizeof(Mismatch), room * sizeof(Mismatch),
            )
            s.mismatch_room = room
        if s.keep_driver_data:
            room = s.n_driver + n_bytes + BATCH * HEADER_V7
            if room > s.driver_room:
                room *= 2
                s.driver = self._enlarge("driver", s.driver, s.n_driver, room)
                s.driver_room = room
        return 0

    # -- bytes in

    def feed(self, const uint8_t[::1] data):
        if self.failure is not None:
            raise self.failure
        cdef uint64_t records = self.s.records
        cdef size_t size = data.shape[0]
        if size == 0:
            return 0
        try:
            self._feed(&data[0], size)
        except MemoryError as error:
            self.failure = error                # the batch at hand is lost: nothing to go on from
            raise
        return self.s.records - records

    cdef int _feed(self, const uint8_t *data, size_t size) except -1:
        cdef size_t at = 0
        cdef size_t old, more, used
        while self.n_tail:
            # Complete what the last feed ended with, then go on in place behind it.
            more = min(self.need - self.n_tail, size - at, <size_t> MAX_RECORD - self.n_tail)
            old = self.n_tail
            memcpy(self.tail + old, data + at, more)
            at += more
            used = self._consume(self.tail, old + more)
            self.n_tail = old + more - used
            if used >= old:
                at -= self.n_tail               # the rest of the tail is data's own beginning
                self.n_tail = 0
            elif used:
                memmove(self.tail, self.tail + used, self.n_tail)
            if at == size:
                break
        if at < size:
            at += self._consume(data + at, size - at)
            self.n_tail = size - at
            memcpy(self.tail, data + at, self.n_tail)
        return 0

    cdef Py_ssize_t _consume(self, const uint8_t *data, size_t size) except -1:
        """Deal with all that is whole; returns how many bytes that is, and sets self.need."""
        cdef State *s = &self.s
        cdef Batch *b = &self.batch
        cdef size_t at = 0
        cdef size_t begin
        cdef Walk end
        cdef int most
        with nogil:
            while at < size:
                if unlikely(self.swap < 0 or self.searching):
                    end = WALK_OTHER
                else:
                    begin = at
                    most = <int> min(
                        <uint64_t> BATCH, SWEEP_EVERY - (s.records & (SWEEP_EVERY - 1))
                    )
                    end = decode_batch(
                        data, size, &at, most, CAT_PAIRED, self.swap, b, &self.need
                    )
                    self.position += at - begin
                    if unlikely(not self._has_room(at - begin)):
                        with gil:
                            self._make_room(at - begin)
                    if s.records & (SWEEP_EVERY - 1) == 0:
                        sweep(s)
                    prepare(s, b)
                    pair(s, b)
                    account(s, b)
                    s.records += b.walked
                if end == WALK_SHORT:
                    break
                if unlikely(end != WALK_FULL):
                    with gil:
                        if not self._consume_other(data, size, &at, end):
                            break
        return at

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
            if left < 4:
                self.need = 4
                return False
            if self.swap < 0 and sniff(load32(p)) >= 0:
                self.swap = sniff(load32(p))
                return True
            if not self.resync:
                self._fail(p, left, None, None)
            self.searching = True
            self.garbage_from = self.position
            at[0] += 1
            self.position += 1
        return self._search(data, size, at)

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
        if self.failure is not None:
            raise self.failure
        cdef size_t n = self.n_tail
        with nogil:
            sweep(&self.s)
        if self.searching:
            self.position += n
            self.n_tail = 0
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

    def cut(self):
        cdef State *s = &self.s
        cdef uint64_t i
        cdef uint64_t n = s.n_active
        cdef uint64_t n_d2c = 0
        cdef uint64_t n_size = 0
        cdef Account *a
        cdef Row *out = NULL
        cdef Bin *d2c_out = NULL
        cdef Bin *size_out = NULL
        cdef uint8_t[::1] view
        with nogil:
            sweep(s)
            for i in range(n):
                a = s.active[i]
                n_d2c += count_bins(a.d2c_bins, a.row.d2c_ns.min, a.row.d2c_ns.max)
                n_size += count_bins(a.size_bins, a.row.size_bytes.min, a.row.size_bytes.max)
        rows = np.empty(n, dtype=layout.ROW)
        d2c_bins = np.empty(n_d2c, dtype=layout.BIN)
        size_bins = np.empty(n_size, dtype=layout.BIN)
        if n:                                   # and so a bin of either kind
            view = rows.view(np.uint8)
            out = <Row *> &view[0]
            view = d2c_bins.view(np.uint8)
            d2c_out = <Bin *> &view[0]
            view = size_bins.view(np.uint8)
            size_out = <Bin *> &view[0]
        with nogil:
            for i in range(n):
                a = s.active[i]
                d2c_out = move_bins(
                    a.d2c_bins, a.row.d2c_ns.min, a.row.d2c_ns.max, <uint32_t> i, d2c_out
                )
                size_out = move_bins(
                    a.size_bins, a.row.size_bytes.min, a.row.size_bytes.max, <uint32_t> i, size_out
                )
                close_row(&a.row)
                memcpy(&out[i], &a.row, sizeof(Row))
                row_reset(&a.row)
            s.n_active = 0
        return rows, d2c_bins, size_bins

    def take_mismatches(self):
        cdef uint64_t n = self.s.n_mismatch
        out = np.empty(n, dtype=layout.MISMATCH)
        cdef uint8_t[::1] view
        if n:
            view = out.view(np.uint8)
            memcpy(&view[0], self.s.mismatch, n * sizeof(Mismatch))
            self.s.n_mismatch = 0
        return out

    def take_driver_data(self):
        cdef bytes data = (<char *> self.s.driver)[:self.s.n_driver] if self.s.n_driver else b""
        self.s.n_driver = 0
        return data

    def take_skips(self):
        skips = self._skips
        self._skips = []
        return skips

    def leftovers(self):
        if not self.s.keep_details:
            raise ValueError("made without keep_details")
        kept = np.empty(self.s.pending, dtype=[("detail", layout.DETAIL), ("stored", "u8")])
        cdef uint8_t[::1] view
        cdef Kept *out = NULL
        cdef uint64_t i
        if self.s.pending:
            view = kept.view(np.uint8)
            out = <Kept *> &view[0]
            for i in range((self.s.group_mask + 1) * GROUP):
                if not is_empty(self.s.groups, i):
                    out[0] = self.s.kept[self.s.slots[i].detail]
                    out += 1
        # The original walks 128 hash chains, the most recently stored first.
        order = np.lexsort((
            ~kept["stored"], kept["detail"]["record"]["sector"] % np.uint64(128)
        ))
        return kept["detail"][order]

    def counters(self):
        return {
            "records": self.s.records,
            "matches": self.s.matches,
            "mismatches": self.s.mismatches,
            "driver_data": self.s.driver_data,
            "evicted": self.s.evicted,
            "lost": self.s.lost,
            "skipped_bytes": self.s.skipped_bytes,
        }

    @property
    def matches(self):
        return self.s.matches

    @property
    def pending(self):
        return self.s.pending

    @property
    def offset(self):
        return self.position


def decode(const uint8_t[::1] data):
    """See _core.pyi."""
    cdef:
        Batch batch
        size_t at = 0
        size_t need = 0
        size_t size = data.shape[0]
        int swap
        int i
        uint64_t n = 0
        uint64_t room = size // HEADER_V7
        Walk end = WALK_FULL
        Record *out
        Detail detail
        uint8_t[::1] view
    records = np.empty(room, dtype=layout.RECORD)
    if room == 0:
        return records, 0
    swap = sniff(load32(&data[0]))
    if swap < 0:
        return records[:0], 0
    view = records.view(np.uint8)
    out = <Record *> &view[0]
    with nogil:
        while end == WALK_FULL and at < size:
            end = decode_batch(&data[0], size, &at, BATCH, EVERY, swap, &batch, &need)
            for i in range(batch.n):
                copy_detail(&detail, batch.record[i], batch.category[i], 0)
                out[n] = detail.record
                n += 1
    return records[:n], at


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
    }
