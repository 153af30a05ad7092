# Keeps the hot table small: requests that wait long move to a cold table.
#
# A request that waits while many others are issued and completed has most likely lost its
# completion. In the hot table such requests would displace useful entries from the caches. The cold
# table is a hash table of the same kind, in which no record is paired. On a miss in the hot table,
# pairing asks a Bloom filter (three bits in one 64-bit word, both chosen by the hash). If the
# filter says "maybe", pairing looks in the cold table and promotes the entry to the hot table.
# Results do not depend on which table holds a request.
#
# Entry points: should_demote and demote, from Engine when the hot table is full; fill_bloom, from
# Engine after it made a larger filter; prefetch_bloom, may_be_cold and promote, from pairing.
# Never allocates.

cdef enum:
    # A full hot table demotes only if this many records for each slot were read since it was last
    # full. Only requests older than the latest quarter of that time are demoted. With a smaller
    # number, requests of deep queues would be demoted and soon promoted again.
    DEMOTE_AFTER = 8
    BLOOM_BITS_EACH = 16                        # bits for each entry, at least: 1 % false positives


cdef inline uint64_t bloom_mask(uint32_t hash_high, uint32_t state) noexcept nogil:
    """Three of 64 bits, from the bits of the hash that do not choose the word."""
    return (
        <uint64_t> 1 << (hash_high & 63) | <uint64_t> 1 << (hash_high >> 6 & 63)
        | <uint64_t> 1 << (state & 63)
    )


cdef inline void prefetch_bloom(const State *s, const Pending *item) noexcept nogil:
    prefetch_input(&s.bloom[item.hash_or_index >> s.bloom_shift])


cdef inline bint may_be_cold(const State *s, const Pending *item) noexcept nogil:
    return (
        bloom_mask(item.hash_or_index, item.state)
        & ~s.bloom[item.hash_or_index >> s.bloom_shift] == 0
    )


cdef inline void add_to_bloom(State *s, uint64_t h) noexcept nogil:
    s.bloom[h >> 32 >> s.bloom_shift] |= bloom_mask(h >> 32, tag_of(h))
    s.n_bloom_entries += 1


cdef void fill_bloom(State *s) noexcept nogil:
    """Add every entry of the cold table to the filter, which is empty."""
    cdef Cursor c = Cursor(0, 0)
    cdef const Pending *p
    s.n_bloom_entries = 0
    while (p := next_entry(&s.cold, &c)) != NULL:
        add_to_bloom(s, hash_of(s, p.sector, p.key))


cdef bint should_demote(const State *s, uint64_t before_ns) noexcept nogil:
    """Whether a smaller hot table is worth a Bloom filter lookup for each issue.

    It is if the pending requests outgrow the caches, or if most of them would be demoted.
    """
    cdef Cursor c = Cursor(0, 0)
    cdef uint64_t used = s.hot.used
    cdef uint64_t n = 0
    cdef const Pending *p
    if used >= s.cold_table_from:
        return True
    if used < s.cold_table_from // 16:
        return False
    while (p := next_entry(&s.hot, &c)) != NULL:
        n += p.time_ns < before_ns
    return n > used // 2


cdef void demote_batch(State *s, Pending **p, int n) noexcept nogil:
    """Move up to BATCH requests. Each loop prefetches what the next one needs."""
    cdef:
        int i
        uint64_t group
        uint64_t h[BATCH]
        Table *to = &s.cold
    for i in range(n):
        h[i] = hash_of(s, p[i].sector, p[i].key)
        prefetch(&s.bloom[h[i] >> 32 >> s.bloom_shift])
        prefetch(&to.groups[home_of(to, h[i] >> 32)])
    for i in range(n):
        group = home_of(to, h[i] >> 32)
        prefetch(&to.slots[
            group * GROUP + first_bit(tags_equal(&to.groups[group], 0) | 1 << (GROUP - 1))
        ])
    for i in range(n):
        add_to_bloom(s, h[i])
        reserve_slot(to, place_in(to, h[i] >> 32, tag_of(h[i])))[0] = p[i][0]
        remove_entry(&s.hot, p[i], place_in(&s.hot, h[i] >> 32, tag_of(h[i])))
    s.n_demoted += n


cdef uint64_t demote(State *s, uint64_t before_ns) noexcept nogil:
    """Move requests from before that time to the cold table; returns how many."""
    cdef:
        Cursor c = Cursor(0, 0)
        uint64_t before = s.n_demoted
        int n = 0
        Pending *found
        Pending *p[BATCH]
    while (found := next_entry(&s.hot, &c)) != NULL:
        if found.time_ns < before_ns:
            p[n] = found
            n += 1
            if n == BATCH:
                demote_batch(s, p, n)
                n = 0
    demote_batch(s, p, n)
    return s.n_demoted - before


cdef Pending *promote(State *s, const Pending *item) noexcept nogil:
    """Move the entry with an item's key to the hot table. Returns NULL if there is none."""
    cdef Place place = place_in(&s.cold, item.hash_or_index, item.state)
    cdef const Pending *p = find(&s.cold, place, item.sector, item.key)
    cdef Pending *promoted
    if p == NULL:
        return NULL
    promoted = reserve_slot(&s.hot, place_in(&s.hot, item.hash_or_index, item.state))
    promoted[0] = p[0]
    remove_entry(&s.cold, p, place)
    s.n_promoted += 1
    return promoted
