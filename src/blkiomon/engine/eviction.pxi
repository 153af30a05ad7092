# Bounds pending records in age (max_age_ns) and in number (max_pending).
#
# Technique: a record that finds max_pending others pending evicts the oldest eighth at once. One
# walk through the table finds the latest time of that eighth: a radix select by a histogram of
# times. Another walk evicts. Divided among the records that it makes room for, this costs little.
# The result depends on the records alone, not on their places in the table.
#
# Entry points: evict_by_age, from Engine at every snapshot, every SWEEP_EVERY records and at the
# end; is_nearly_full, from pairing; evict_if_full and track_age, from pairing and multi_step;
# drop_pending and evict, from multi_step. Never allocates.
#
# The file begins with the full records of pending requests, which an eviction has to free. Their
# entry points: copy_detail, ids_of, has_wide_ids, store_record, free_record and full_record, from
# pairing, multi_step and slow; copy_stored, from Engine.leftovers().

cdef enum:
    SWEEP_EVERY = 1 << 20                       # records between two passes by age
    EVICTED_SHARE = 8                           # of max_pending: see evict_if_full()
    MOST_AGES = 1 << 16                         # counters of end_of_oldest()
    # Significant bits of the oldest age that count: eviction is exact to 1/8192 of it, or better.
    GRAIN_BITS = 14


# --- full records of pending requests -----------------------------------------------------------
#
# With keep_details, State.stored has all of them. With keep_ids alone, it has those that took the
# slow path; of any other record, its Pending has all that layout.REQUEST needs.

cdef inline void copy_detail(
    Detail *out, const TraceV7 *r, uint32_t category, uint64_t order
) noexcept nogil:
    out.record.time_ns = r.time
    out.record.sector = r.sector
    out.record.action = <uint64_t> (category >> 16) << 32 | r.action
    out.record.sequence = r.sequence
    out.record.bytes = r.bytes
    out.record.pid = r.pid
    out.record.device = r.device
    out.record.cpu = r.cpu
    out.record.error = r.error
    out.record.pdu_len = r.pdu_len
    out.order = order


cdef inline uint32_t ids_of(const TraceV7 *r) noexcept nogil:
    """The pid and CPU of a record, as in Pending.extra."""
    return r.pid | r.cpu << PID_BITS


cdef inline bint has_wide_ids(const Batch *b) noexcept nogil:
    """Whether ids_of() has too few bits for a pid or a CPU number of a batch."""
    return b.pids >> PID_BITS != 0 or b.cpus >> (32 - PID_BITS) != 0


cdef void full_record(const State *s, const Pending *p, Record *out) noexcept nogil:
    """Copy a pending record to out: in full with IS_STORED, else what REQUEST needs."""
    if p.state & IS_STORED:
        out[0] = s.stored[p.extra].detail.record
        return
    memset(out, 0, sizeof(Record))
    out.time_ns = p.time_ns
    out.sector = p.sector
    out.device = s.devices[device_of(p.key)].number
    out.pid = p.extra & (PID_LIMIT - 1)
    out.cpu = p.extra >> PID_BITS


cdef StoredRecord *store_record(State *s, Pending *p) noexcept nogil:
    """Take a free element of State.stored for p; the caller fills it with the full record."""
    cdef uint32_t index = s.stored_free
    cdef StoredRecord *k = &s.stored[index]
    s.stored_free = <uint32_t> k.stored_order
    s.n_stored += 1
    p.extra = index
    p.state |= IS_STORED
    return k


cdef inline void free_record(State *s, const Pending *p) noexcept nogil:
    """Free the full record of p, which is about to be removed or overwritten, if there is one."""
    if p.state & IS_STORED:
        s.stored[p.extra].stored_order = s.stored_free
        s.stored_free = p.extra
        s.n_stored -= 1


cdef void copy_stored(const State *s, StoredRecord *out) noexcept nogil:
    """Copy the full records of all pending records to out. Needs keep_details."""
    cdef Cursor c = Cursor(0, 0)
    cdef const Pending *p
    while (p := next_entry(&s.pending, &c)) != NULL:
        out[0] = s.stored[p.extra]
        out += 1


# --- eviction ---------------------------------------------------------------------------------

cdef inline void track_age(State *s, const Pending *p) noexcept nogil:
    """Update oldest_ns after p has become pending."""
    s.oldest_ns = min(s.oldest_ns, p.time_ns)


cdef void drop_pending(State *s, const Pending *p) noexcept nogil:
    """Remove a record that will not be matched."""
    free_record(s, p)
    give_up(s, p, s.now_ns)
    remove_entry(&s.pending, p, place_of(s, &s.pending, p.sector, p.key))


cdef inline void evict(State *s, const Pending *p) noexcept nogil:
    drop_pending(s, p)
    s.evicted += 1


cdef void evict_until(State *s, uint64_t last_ns) noexcept nogil:
    """Evict all records up to a time."""
    cdef Cursor c = Cursor(0, 0)
    cdef const Pending *p
    s.oldest_ns = <uint64_t> -1
    while (p := next_entry(&s.pending, &c)) != NULL:
        if p.time_ns <= last_ns:
            evict(s, p)
        else:
            track_age(s, p)


cdef void evict_by_age(State *s) noexcept nogil:
    """Evict the pending records that are more than max_age_ns older than the latest record."""
    if s.with_queue:
        drop_old_queued(s)
    if s.now_ns > s.oldest_ns and s.now_ns - s.oldest_ns > s.max_age_ns:
        evict_until(s, s.now_ns - s.max_age_ns - 1)


cdef inline uint64_t low_bits(unsigned int n) noexcept nogil:
    """A number whose lowest n bits are set; n is less than 64."""
    return (<uint64_t> 1 << n) - 1


cdef uint64_t end_of_oldest(State *s, uint64_t n) noexcept nogil:
    """The time up to which to evict, so that at least the oldest n pending records are.

    A radix select: each walk counts the times from base_ns on by their next most significant bits,
    and moves base_ns to the counter that holds the nth. It ends when the remaining low bits make up
    at most 1/8192 of the age of the oldest. The first walk assumes that the result is not after
    now_ns. If oldest_ns is close to the oldest time, one walk is enough.
    """
    cdef:
        Cursor c
        const Pending *p
        uint64_t base_ns = s.oldest_ns
        uint64_t least_ns = <uint64_t> -1
        uint64_t n_ages = MOST_AGES if s.pending.used >= MOST_AGES else 1 << 8
        unsigned int age_bits = bits(n_ages - 1)
        unsigned int shift = width(s.now_ns - base_ns) + 1 if s.now_ns > base_ns else 64
        unsigned int grain = 0
        uint64_t at, older
    while True:
        shift -= min(shift, age_bits)
        base_ns &= ~low_bits(shift)
        memset(s.ages, 0, n_ages * sizeof(uint32_t))
        c = Cursor(0, 0)
        while (p := next_entry(&s.pending, &c)) != NULL:
            least_ns = min(least_ns, p.time_ns)
            at = (p.time_ns - base_ns) >> shift
            if p.time_ns >= base_ns and at < n_ages:
                s.ages[at] += 1
        at = older = 0
        while at < n_ages and older + s.ages[at] < n:
            older += s.ages[at]
            at += 1
        if at == n_ages:                        # it is after now_ns: begin with all 64 bits
            base_ns = 0
            shift = 64
            continue
        n -= older
        base_ns += at << shift
        if s.now_ns > least_ns:
            grain = width(s.now_ns - least_ns)
            grain -= min(grain, <unsigned int> GRAIN_BITS)
        if shift <= grain:
            return base_ns | low_bits(grain)


cdef inline uint64_t oldest_eighth(const State *s) noexcept nogil:
    """How many records an eviction removes at least, unless max_pending is less than 8."""
    return s.max_pending // EVICTED_SHARE


cdef inline bint is_nearly_full(const State *s) noexcept nogil:
    """Whether completions no longer become pending: most likely, their issues were evicted."""
    return s.pending.used >= s.max_pending - oldest_eighth(s)


cdef void evict_if_full(State *s) noexcept nogil:
    """Evict the oldest pending records if there are max_pending: another one will be added."""
    if unlikely(s.pending.used >= s.max_pending):
        evict_until(s, end_of_oldest(s, max(oldest_eighth(s), <uint64_t> 1)))
