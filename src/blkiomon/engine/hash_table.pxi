# The hash table of pending records, and of queue records and multi-step requests.
#
# Technique: an open hash table in groups of 15 slots with tags, as in Facebook's F14. A group's 15
# tags, 8 bits of each hash, are compared with one SSE2 instruction. An entry goes to the first free
# slot of its home group or, if that group is full, of the next ones; each group that it passes
# counts it in overflow_count, so that a search knows where to stop. Entries never move, deletion
# leaves no tombstone, and few branches depend on how full the table is. (Linear probing that shifts
# entries back on deletion spent half of its time on mispredicted branches.)
#
# The key is (sector, Pending.key). The hash leaves out ISSUED, see queue.pxi, and is seeded at
# random, so that the author of a trace cannot choose sectors that collide. The upper bits of a hash
# choose the home group; the lowest byte is the tag. A Place has both.
#
# Entry points: key_of, device_of, place_of; find, reserve_slot, remove_entry, next_entry, rehash.
# Any kernel that owns the table may call them. prepare_records() has place_of, and pair_records()
# find, reserve_slot and remove_entry, in a form without branches. No function allocates: Engine
# grows tables between batches.

cdef enum:
    MOST_DEVICES = (1 << 22) - 1                # that fit in a key, without NO_DEVICE
    # Entries in a group on average, at most. With more, groups overflow, and a search that goes on
    # to the next group waits for memory. With 12 and a million pending requests, a record costs 1.4
    # times as much.
    MOST_IN_GROUP = 10
    RELEASE_GROUPS = 4096                       # groups whose slots, 2 MB, are given back at once


cdef inline uint32_t key_of(uint32_t device, uint32_t category) noexcept nogil:
    """Device index, then the READ, WRITE, FS and PC bits, which both records of a request share."""
    return device << 10 | (category & (CAT_READ | CAT_WRITE | CAT_FS | CAT_PC))


cdef inline uint32_t device_of(uint32_t key) noexcept nogil:
    return key >> 10


cdef inline uint64_t hash_of(const State *s, uint64_t sector, uint32_t key) noexcept nogil:
    return mix(sector ^ s.seed[0], key ^ s.seed[1])


cdef inline uint32_t tags_of(uint64_t h) noexcept nogil:
    """The tag, in each of four bytes: the lowest byte of a hash; 1 instead of 0, a free slot's."""
    return <uint8_t> ((h & 0xff) + ((h & 0xff) == 0)) * <uint32_t> 0x01010101


cdef inline uint32_t home_of(const Table *t, uint64_t h) noexcept nogil:
    """The group for a hash. Entries have the same order in tables of any size."""
    return <uint32_t> high_product(h, t.n_groups)


cdef inline Place place_of(
    const State *s, const Table *t, uint64_t sector, uint32_t key
) noexcept nogil:
    cdef uint64_t h = hash_of(s, sector, key & ~<uint32_t> ISSUED)
    cdef Place place
    place.home = home_of(t, h)
    place.tags = tags_of(h)
    return place


cdef inline unsigned int tags_equal(const Group *group, uint32_t tags) noexcept nogil:
    """Bit i is set where tag[i] is that of Place.tags."""
    return bytes_equal(group, all_lanes(tags)) & ALL_SLOTS


cdef inline uint64_t next_group(const Table *t, uint64_t group) noexcept nogil:
    return group + 1 if group + 1 < t.n_groups else 0


cdef inline Pending *find(
    const Table *t, Place place, uint64_t sector, uint32_t key
) noexcept nogil:
    """Returns the entry of a sector and key, or NULL."""
    cdef uint64_t group = place.home
    cdef unsigned int equal
    cdef Pending *p
    while True:
        equal = tags_equal(&t.groups[group], place.tags)
        while equal != 0:
            p = &t.slots[group * GROUP + first_bit(equal)]
            if likely(p.sector == sector and p.key == key):
                return p
            equal &= equal - 1
        if likely(t.groups[group].overflow_count == 0):
            return NULL
        group = next_group(t, group)
        if group == place.home:
            return NULL


cdef inline Pending *reserve_slot(Table *t, Place place) noexcept nogil:
    """Reserve a slot for a key that is not in the table. The caller made sure that one is free."""
    cdef uint64_t group = place.home
    cdef unsigned int empty = tags_equal(&t.groups[group], 0)
    while unlikely(empty == 0):
        if t.groups[group].overflow_count < 255:
            t.groups[group].overflow_count += 1
        group = next_group(t, group)
        empty = tags_equal(&t.groups[group], 0)
    t.groups[group].tag[first_bit(empty)] = <uint8_t> place.tags
    t.used += 1
    return &t.slots[group * GROUP + first_bit(empty)]


cdef inline void remove_entry(Table *t, const Pending *p, Place place) noexcept nogil:
    cdef uint64_t group = place.home
    cdef uint64_t slot = p - t.slots
    while unlikely(slot - group * GROUP >= GROUP):
        if t.groups[group].overflow_count < 255:
            t.groups[group].overflow_count -= 1
        group = next_group(t, group)
    t.groups[group].tag[slot - group * GROUP] = 0
    t.used -= 1


cdef inline Pending *next_entry(const Table *t, Cursor *c) noexcept nogil:
    """Returns the next entry of a walk that began with Cursor(0, 0), or NULL at its end.

    The walk goes from group to group. The entry that was returned last may be removed.
    """
    cdef unsigned int slot
    while c.in_use == 0:
        if c.group == t.n_groups:
            return NULL
        c.in_use = ~tags_equal(&t.groups[c.group], 0) & ALL_SLOTS
        c.group += 1
    slot = first_bit(c.in_use)
    c.in_use &= c.in_use - 1
    return &t.slots[(c.group - 1) * GROUP + slot]


cdef void rehash(const State *s, Table *t, const Table *old) noexcept nogil:
    """Move the entries of an old table to t, which is empty and large enough.

    Home groups have the same order in both, so both are walked from end to end. Pages of the old
    table are given back on the way: memory never holds both tables in full.
    """
    cdef Cursor c = Cursor(0, 0)
    cdef uint64_t released = 0                  # groups
    cdef Pending *p
    while (p := next_entry(old, &c)) != NULL:
        reserve_slot(t, place_of(s, t, p.sector, p.key))[0] = p[0]
        if c.group > released + RELEASE_GROUPS:
            release_pages(
                &old.slots[released * GROUP], &old.slots[(released + RELEASE_GROUPS) * GROUP]
            )
            released += RELEASE_GROUPS
