# The table of pending requests.
#
# Records of one request share their sector, their device and the READ, WRITE, FS and PC bits of
# their action; the latter two make the `key`. The table is an open hash table in groups of 15
# slots. A group's 15 tags, 8 bits of each hash, are compared at once; a request goes to the first
# empty slot of its home group, or of the next group if that is full, and `passed` counts who went
# on, so that a search knows where to end. Nothing ever moves, a deleted request leaves no trace,
# and neither insertion nor search nor deletion has a branch that depends on how full the table is:
# linear probing with deletion by shifting back spent half of its time on mispredicted ones.
# The hash is seeded: nobody who writes a trace can choose sectors that collide. A table of the
# same kind holds the queue records that wait for their issue (queue.pxi).
#
# None of these functions allocates: Engine._make_room() has made room for a whole batch before.

cdef enum:
    LARGE_TABLE = 2048                          # groups; with their slots 1 MB
    MOST_DEVICES = (1 << 22) - 1                # what a key has room for, beside NOBODY
    SWEEP_EVERY = 1 << 20                       # records between two looks at the oldest
    # On average, before the table grows by half. With more, groups run over, and a search that
    # goes on to the next one waits for memory: at 12, a million requests cost 1.4 times as much.
    MOST_IN_GROUP = 10
    GIVE_BACK = 4096                            # groups; with their slots 2 MB


cdef inline uint32_t key_of(uint32_t device, uint32_t category) noexcept nogil:
    """Index of the device, then the category's lower ten bits but for those that do not count."""
    return device << 10 | (category & (CAT_READ | CAT_WRITE | CAT_FS | CAT_PC))


cdef inline uint32_t device_of(uint32_t key) noexcept nogil:
    return key >> 10


cdef inline uint64_t hash_of(const State *s, uint64_t sector, uint32_t key) noexcept nogil:
    return mix(sector ^ s.seed[0], key ^ s.seed[1])


cdef inline uint8_t tag_of(uint64_t h) noexcept nogil:
    """A hash's lowest bits."""
    return (h & 0xff) + ((h & 0xff) == 0)


cdef inline uint64_t home_of(const Table *t, uint32_t at) noexcept nogil:
    """The group that a hash's upper half chooses; the order is the same in every table."""
    return at * t.n_groups >> 32


cdef inline Place place_in(const Table *t, uint32_t at, uint32_t state) noexcept nogil:
    """Where an item belongs whose hash is known."""
    cdef Place place
    place.home = <uint32_t> home_of(t, at)
    place.tag = state & 0xff
    return place


cdef inline Place place_of(
    const State *s, const Table *t, uint64_t sector, uint32_t key
) noexcept nogil:
    """Where anything else does."""
    cdef uint64_t h = hash_of(s, sector, key)
    return place_in(t, h >> 32, tag_of(h))


cdef inline uint64_t next_group(const Table *t, uint64_t group) noexcept nogil:
    return group + 1 if group + 1 < t.n_groups else 0


cdef inline Pending *find(
    const Table *t, Place place, uint64_t sector, uint32_t key
) noexcept nogil:
    """The entry of a sector and key, or NULL."""
    cdef uint64_t group = place.home
    cdef unsigned int equal
    cdef Pending *p
    while True:
        equal = tags_equal(&t.groups[group], place.tag)
        while equal != 0:
            p = &t.slots[group * GROUP + first_bit(equal)]
            if likely(p.sector == sector and p.key == key):
                return p
            equal &= equal - 1
        if likely(t.groups[group].passed == 0):
            return NULL
        group = next_group(t, group)
        if group == place.home:
            return NULL


cdef inline Pending *claim(Table *t, Place place) noexcept nogil:
    """An empty slot, no longer empty, for what is not in the table. There is one."""
    cdef uint64_t group = place.home
    cdef unsigned int empty = tags_equal(&t.groups[group], 0)
    while unlikely(empty == 0):
        if t.groups[group].passed < 255:
            t.groups[group].passed += 1
        group = next_group(t, group)
        empty = tags_equal(&t.groups[group], 0)
    t.groups[group].tag[first_bit(empty)] = place.tag
    t.used += 1
    return &t.slots[group * GROUP + first_bit(empty)]


cdef inline void remove(Table *t, const Pending *p, Place place) noexcept nogil:
    """Empty the slot of an entry."""
    cdef uint64_t group = place.home
    cdef uint64_t slot = p - t.slots
    while unlikely(slot - group * GROUP >= GROUP):
        if t.groups[group].passed < 255:
            t.groups[group].passed -= 1
        group = next_group(t, group)
    t.groups[group].tag[slot - group * GROUP] = 0
    t.used -= 1


cdef inline unsigned int slots_in_use(const Table *t, uint64_t group) noexcept nogil:
    """Bit i for the group's slot i."""
    return ~tags_equal(&t.groups[group], 0) & ((1 << GROUP) - 1)


cdef void rehash(const State *s, Table *t, const Table *old) noexcept nogil:
    """Move what is in an old table into t, which is empty and large enough.

    As a place keeps the order of the hashes, both are walked from end to end: what has been read
    of the old one is given back as it goes, so that there are never two tables in memory.
    """
    cdef uint64_t group
    cdef unsigned int in_use
    cdef Pending *p
    for group in range(old.n_groups):
        in_use = slots_in_use(old, group)
        while in_use != 0:
            p = &old.slots[group * GROUP + first_bit(in_use)]
            claim(t, place_of(s, t, p.sector, p.key))[0] = p[0]
            in_use &= in_use - 1
        if (group + 1) % GIVE_BACK == 0:
            give_back(&old.slots[(group + 1 - GIVE_BACK) * GROUP], &old.slots[(group + 1) * GROUP])


# --- full records of what is pending, where they are wanted -----------------------------------

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


cdef inline uint32_t keep(
    State *s, const TraceV7 *r, uint32_t category, uint64_t order
) noexcept nogil:
    """Store a record in full; returns its index in the pool."""
    cdef uint32_t index = s.kept_free
    cdef Kept *k = &s.kept[index]
    s.kept_free = <uint32_t> k.stored           # a free entry holds the index of the next
    s.n_kept += 1
    copy_detail(&k.detail, r, category, order)
    k.stored = order
    return index


cdef inline void release(State *s, uint32_t index) noexcept nogil:
    s.kept[index].stored = s.kept_free
    s.kept_free = index
    s.n_kept -= 1


cdef Kept *copy_kept(const State *s, const Table *t, Kept *out) noexcept nogil:
    """Write the full records of all that a table holds; returns where the next one goes."""
    cdef uint64_t group
    cdef unsigned int in_use
    for group in range(t.n_groups):
        in_use = slots_in_use(t, group)
        while in_use != 0:
            out[0] = s.kept[t.slots[group * GROUP + first_bit(in_use)].at]
            out += 1
            in_use &= in_use - 1
    return out


# --- eviction: bounded in age and in number ---------------------------------------------------

cdef inline uint64_t all_pending(const State *s) noexcept nogil:
    return s.pending.used + s.overtaken.used


cdef inline void evict(State *s, Table *t, const Pending *p) noexcept nogil:
    if s.keep_details:
        release(s, p.at)
    abandon(s, p, s.now_ns)
    remove(t, p, place_of(s, t, p.sector, p.key))
    s.evicted += 1


cdef uint64_t sweep_table(State *s, Table *t) noexcept nogil:
    """Evict what is too old in one of the tables; returns the oldest time that is left."""
    cdef uint64_t group
    cdef uint64_t oldest_ns = <uint64_t> -1
    cdef unsigned int in_use
    cdef const Pending *p
    for group in range(t.n_groups):
        in_use = slots_in_use(t, group)
        while in_use != 0:
            p = &t.slots[group * GROUP + first_bit(in_use)]
            in_use &= in_use - 1
            if p.time_ns < s.now_ns and s.now_ns - p.time_ns > s.max_age_ns:
                evict(s, t, p)
            elif p.time_ns < oldest_ns:
                oldest_ns = p.time_ns
    return oldest_ns


cdef void sweep(State *s) noexcept nogil:
    """Evict what is older than max_age_ns as of the latest record, if anything can be."""
    if s.with_queue:
        forget_queued(s)
    if s.now_ns <= s.oldest_ns or s.now_ns - s.oldest_ns <= s.max_age_ns:
        return
    s.oldest_ns = min(sweep_table(s, &s.pending), sweep_table(s, &s.overtaken))


cdef inline bint is_older(const Victim *a, const Victim *b) noexcept nogil:
    """A total order that depends on nothing but the records: time, device, sector, direction."""
    if a.time_ns != b.time_ns:
        return a.time_ns < b.time_ns
    if a.device != b.device:
        return a.device < b.device
    if a.sector != b.sector:
        return a.sector < b.sector
    return a.direction < b.direction


cdef int by_age(const void *a, const void *b) noexcept nogil:
    if is_older(<const Victim *> a, <const Victim *> b):
        return -1
    return is_older(<const Victim *> b, <const Victim *> a)


cdef inline void sift(Victim *heap, uint64_t n, Victim v, bint oldest_first) noexcept nogil:
    """Put v at the root of a binary heap of n entries and let it sink to its place."""
    cdef uint64_t i = 0
    cdef uint64_t child
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and is_older(&heap[child + 1], &heap[child]) == oldest_first:
            child += 1
        if is_older(&heap[child], &v) != oldest_first:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = v


cdef inline Victim as_victim(const State *s, const Pending *p) noexcept nogil:
    cdef Victim v
    v.time_ns = p.time_ns
    v.sector = p.sector
    v.device = s.devices[device_of(p.key)].number
    v.direction = p.key & 0x3ff
    return v


cdef void youngest_first(Victim *heap, uint64_t n) noexcept nogil:
    """Turn an array sorted by age round."""
    cdef uint64_t i
    cdef Victim v
    for i in range(n // 2):
        v = heap[i]
        heap[i] = heap[n - 1 - i]
        heap[n - 1 - i] = v


cdef void choose_victims_of(State *s, const Table *t) noexcept nogil:
    """Have what is older than the youngest victim take its place."""
    cdef uint64_t group
    cdef uint64_t n = s.n_victims
    cdef unsigned int in_use
    cdef Victim v
    cdef Victim *heap = s.victims
    for group in range(t.n_groups):
        in_use = slots_in_use(t, group)
        while in_use != 0:
            v = as_victim(s, &t.slots[group * GROUP + first_bit(in_use)])
            in_use &= in_use - 1
            if n < s.max_victims:
                heap[n] = v
                n += 1
                if n == s.max_victims:
                    qsort(heap, n, sizeof(Victim), by_age)
                    youngest_first(heap, n)
            elif is_older(&v, &heap[0]):
                sift(heap, n, v, False)
    s.n_victims = n


cdef void choose_victims(State *s) noexcept nogil:
    """Find the oldest 1/16 of all that is pending: one pass over the tables serves many evictions.

    First a heap with the youngest victim on top picks them, then they are sorted by age, which is
    a heap with the oldest on top.
    """
    choose_victims_of(s, &s.pending)
    choose_victims_of(s, &s.overtaken)
    qsort(s.victims, s.n_victims, sizeof(Victim), by_age)
    s.youngest_victim = s.victims[s.n_victims - 1]


cdef void evict_oldest(State *s) noexcept nogil:
    """Evict the oldest of all that is pending. Something must be."""
    cdef Victim v
    cdef Table *t
    cdef Pending *p
    cdef uint32_t key
    while True:
        if s.n_victims == 0:
            choose_victims(s)
        v = s.victims[0]
        s.n_victims -= 1
        sift(s.victims, s.n_victims, s.victims[s.n_victims], True)
        key = key_of(index_of(s, v.device), 0) | v.direction
        t = &s.pending
        p = find(t, place_of(s, t, v.sector, key), v.sector, key)
        if p == NULL and s.overtaken.used:
            t = &s.overtaken
            p = find(t, place_of(s, t, v.sector, key), v.sector, key)
        # It may have been matched since, or have given way to a younger one.
        if p != NULL and p.time_ns == v.time_ns:
            evict(s, t, p)
            return


cdef inline void note_age(State *s, const Pending *p) noexcept nogil:
    """Keep what is known of the oldest right when p has become pending."""
    cdef Victim v
    cdef uint64_t i
    cdef uint64_t parent
    if p.time_ns < s.oldest_ns:
        s.oldest_ns = p.time_ns
    if likely(s.n_victims == 0):
        return
    v = as_victim(s, p)
    if is_older(&s.youngest_victim, &v):
        return
    if s.n_victims == s.max_victims:            # records that come in backwards: choose anew
        s.n_victims = 0
        return
    i = s.n_victims
    s.n_victims += 1
    while i > 0:
        parent = (i - 1) // 2
        if not is_older(&v, &s.victims[parent]):
            break
        s.victims[i] = s.victims[parent]
        i = parent
    s.victims[i] = v
