# Bounds pending records in age (max_age_ns) and in number (max_pending).
#
# Technique, for the number: one pass over the tables collects the oldest sixteenth of all pending
# records in a binary heap, and the evictions that follow take from it. While records are collected,
# the youngest candidate is at the root (max-heap by time). While records are evicted, the oldest
# one is at the root (min-heap by time).
#
# Entry points: evict_by_age, from Engine at every snapshot and every SWEEP_EVERY records;
# evict_oldest and track_age, from pairing. Never allocates.
# The file begins with the full copies of pending records, which every eviction has to free.

cdef enum:
    SWEEP_EVERY = 1 << 20                       # records between two passes by age


# --- full records of pending requests, with keep_details --------------------------------------

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


cdef inline uint32_t store_record(
    State *s, const TraceV7 *r, uint32_t category, uint64_t order
) noexcept nogil:
    """Copy a record to a free element of State.stored; returns its index."""
    cdef uint32_t index = s.stored_free
    cdef StoredRecord *k = &s.stored[index]
    s.stored_free = <uint32_t> k.stored_order
    s.n_stored += 1
    copy_detail(&k.detail, r, category, order)
    k.stored_order = order
    return index


cdef inline void free_record(State *s, uint32_t index) noexcept nogil:
    s.stored[index].stored_order = s.stored_free
    s.stored_free = index
    s.n_stored -= 1


cdef StoredRecord *copy_stored(const State *s, const Table *t, StoredRecord *out) noexcept nogil:
    """Copy the full records of a table's entries to out; returns the end of what was written."""
    cdef Cursor c = Cursor(0, 0)
    cdef const Pending *p
    while (p := next_entry(t, &c)) != NULL:
        out[0] = s.stored[p.hash_or_index]
        out += 1
    return out


# --- by age -----------------------------------------------------------------------------------

cdef inline uint64_t n_pending(const State *s) noexcept nogil:
    return s.hot.used + s.cold.used


cdef void drop_pending(State *s, Table *t, const Pending *p) noexcept nogil:
    """Remove a record that will not be matched."""
    if s.keep_details:
        free_record(s, p.hash_or_index)
    give_up(s, p, s.now_ns)
    remove_entry(t, p, place_of(s, t, p.sector, p.key))


cdef inline void evict(State *s, Table *t, const Pending *p) noexcept nogil:
    drop_pending(s, t, p)
    s.evicted += 1


cdef uint64_t evict_by_age_in(State *s, Table *t) noexcept nogil:
    """Evict what is too old in one table; returns the oldest time that is left."""
    cdef Cursor c = Cursor(0, 0)
    cdef uint64_t oldest_ns = <uint64_t> -1
    cdef const Pending *p
    while (p := next_entry(t, &c)) != NULL:
        if p.time_ns < s.now_ns and s.now_ns - p.time_ns > s.max_age_ns:
            evict(s, t, p)
        elif p.time_ns < oldest_ns:
            oldest_ns = p.time_ns
    return oldest_ns


cdef void evict_by_age(State *s) noexcept nogil:
    """Evict what is older than max_age_ns as of the latest record."""
    if s.with_queue:
        drop_old_queued(s)
    if s.now_ns <= s.oldest_ns or s.now_ns - s.oldest_ns <= s.max_age_ns:
        return
    s.oldest_ns = min(evict_by_age_in(s, &s.hot), evict_by_age_in(s, &s.cold))


# --- by number --------------------------------------------------------------------------------

cdef inline bint is_older(const EvictionCandidate *a, const EvictionCandidate *b) noexcept nogil:
    """A total order that depends on the records alone: time, device, sector, direction."""
    if a.time_ns != b.time_ns:
        return a.time_ns < b.time_ns
    if a.device != b.device:
        return a.device < b.device
    if a.sector != b.sector:
        return a.sector < b.sector
    return a.direction < b.direction


cdef int oldest_first(const void *a, const void *b) noexcept nogil:
    if is_older(<const EvictionCandidate *> a, <const EvictionCandidate *> b):
        return -1
    return is_older(<const EvictionCandidate *> b, <const EvictionCandidate *> a)


cdef int youngest_first(const void *a, const void *b) noexcept nogil:
    return oldest_first(b, a)


cdef inline void sift(
    EvictionCandidate *heap, uint64_t n, EvictionCandidate v, bint is_min_heap
) noexcept nogil:
    """Put v at the root of a binary heap of n entries and let it sink to its place."""
    cdef uint64_t i = 0
    cdef uint64_t child
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and is_older(&heap[child + 1], &heap[child]) == is_min_heap:
            child += 1
        if is_older(&heap[child], &v) != is_min_heap:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = v


cdef inline EvictionCandidate candidate_of(const State *s, const Pending *p) noexcept nogil:
    cdef EvictionCandidate v
    v.time_ns = p.time_ns
    v.sector = p.sector
    v.device = s.devices[device_of(p.key)].number
    v.direction = p.key & 0x3ff
    return v


cdef inline void keep_oldest(
    EvictionCandidate *heap, uint64_t *n, uint64_t most, EvictionCandidate v
) noexcept nogil:
    """Add v to the n candidates in a heap; if these are `most`, it may replace the youngest."""
    if n[0] < most:
        heap[n[0]] = v
        n[0] += 1
        if n[0] == most:                        # an array sorted youngest first is a max-heap
            qsort(heap, most, sizeof(EvictionCandidate), youngest_first)
    elif is_older(&v, &heap[0]):
        sift(heap, most, v, False)


cdef void choose_candidates_of(State *s, const Table *t) noexcept nogil:
    """Replace the youngest candidate by each entry of a table that is older."""
    cdef Cursor c = Cursor(0, 0)
    cdef const Pending *p
    while (p := next_entry(t, &c)) != NULL:
        keep_oldest(s.candidates, &s.n_candidates, s.max_candidates, candidate_of(s, p))


cdef void choose_candidates(State *s) noexcept nogil:
    """Collect the oldest sixteenth of all pending records, as a min-heap by age."""
    choose_candidates_of(s, &s.hot)
    choose_candidates_of(s, &s.cold)
    qsort(s.candidates, s.n_candidates, sizeof(EvictionCandidate), oldest_first)
    s.youngest_candidate = s.candidates[s.n_candidates - 1]


cdef Pending *find_candidate(
    State *s, const EvictionCandidate *v, Table **table
) noexcept nogil:
    """The pending record with a candidate's key, or NULL; *table is the one that it is in."""
    cdef uint32_t key = key_of(index_of(s, v.device), 0) | v.direction
    cdef Table *t = &s.hot
    cdef Pending *p = find(t, place_of(s, t, v.sector, key), v.sector, key)
    if p == NULL and s.cold.used:
        t = &s.cold
        p = find(t, place_of(s, t, v.sector, key), v.sector, key)
    table[0] = t
    return p


cdef void evict_oldest(State *s) noexcept nogil:
    """Evict the oldest pending record. At least one must be pending."""
    cdef EvictionCandidate v
    cdef Table *t
    cdef const Pending *p
    while True:
        if s.n_candidates == 0:
            choose_candidates(s)
        v = s.candidates[0]
        s.n_candidates -= 1
        sift(s.candidates, s.n_candidates, s.candidates[s.n_candidates], True)
        p = find_candidate(s, &v, &t)
        # The candidate may have been matched or replaced since it was chosen.
        if p != NULL and p.time_ns == v.time_ns:
            evict(s, t, p)
            return


cdef inline void track_age(State *s, const Pending *p) noexcept nogil:
    """Update oldest_ns and the candidates after p has become pending."""
    cdef EvictionCandidate v
    cdef uint64_t i
    cdef uint64_t parent
    if p.time_ns < s.oldest_ns:
        s.oldest_ns = p.time_ns
    if likely(s.n_candidates == 0):
        return
    v = candidate_of(s, p)
    if is_older(&s.youngest_candidate, &v):
        return
    if s.n_candidates == s.max_candidates:      # times go backwards: evict_oldest() chooses anew
        s.n_candidates = 0
        return
    i = s.n_candidates
    s.n_candidates += 1
    while i > 0:
        parent = (i - 1) // 2
        if not is_older(&v, &s.candidates[parent]):
            break
        s.candidates[i] = s.candidates[parent]
        i = parent
    s.candidates[i] = v
