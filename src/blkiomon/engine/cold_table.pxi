# Requests that wait while many others come and go: most of them will never be completed.
#
# They would fill the table that every record goes to, until no cache holds it. Where looking for
# them costs less than having them there, see pays_to_set_aside(), they are set aside in a table of
# their own, where no record is paired. What finds nothing where it is paired is
# looked for there, and brought back. Nearly always nothing is there either, and three bits tell so:
# in which word they are, a hash chooses, and all that is set aside has set its own. That word is
# fetched while other items are made. Where a request stands changes no result.

cdef enum:
    # Records that come and go, for each request that the table has room for, before it is looked
    # through for what they have overtaken: a quarter has. With less, deep queues would be set aside
    # and brought back.
    OVERTAKING = 8
    BITS_EACH = 16                              # at least, for each request that is set aside: one
    # in a hundred that is not there seems to be, and the table has to be looked at.


cdef inline uint64_t bits_of(uint32_t at, uint32_t state) noexcept nogil:
    """Three of 64, by what of a hash does not choose the word."""
    return (
        <uint64_t> 1 << (at & 63) | <uint64_t> 1 << (at >> 6 & 63) | <uint64_t> 1 << (state & 63)
    )


cdef inline void fetch_bits(const State *s, const Pending *item) noexcept nogil:
    prefetch_input(&s.overtaken_bits[item.at >> s.overtaken_shift])


cdef inline bint may_be_overtaken(const State *s, const Pending *item) noexcept nogil:
    return (
        bits_of(item.at, item.state) & ~s.overtaken_bits[item.at >> s.overtaken_shift] == 0
    )


cdef inline void set_bit(State *s, uint64_t h) noexcept nogil:
    s.overtaken_bits[h >> 32 >> s.overtaken_shift] |= bits_of(h >> 32, tag_of(h))
    s.n_bits_set += 1


cdef void set_bits(State *s) noexcept nogil:
    """Set those of all that is there; none is set."""
    cdef const Table *t = &s.overtaken
    cdef uint64_t group
    cdef unsigned int in_use
    cdef const Pending *p
    s.n_bits_set = 0
    for group in range(t.n_groups):
        in_use = slots_in_use(t, group)
        while in_use != 0:
            p = &t.slots[group * GROUP + first_bit(in_use)]
            in_use &= in_use - 1
            set_bit(s, hash_of(s, p.sector, p.key))


cdef uint64_t count_before(const Table *t, uint64_t before_ns) noexcept nogil:
    cdef uint64_t group
    cdef uint64_t n = 0
    cdef unsigned int in_use
    for group in range(t.n_groups):
        in_use = slots_in_use(t, group)
        while in_use != 0:
            n += t.slots[group * GROUP + first_bit(in_use)].time_ns < before_ns
            in_use &= in_use - 1
    return n


cdef bint pays_to_set_aside(const State *s, uint64_t before_ns) noexcept nogil:
    """Whether a smaller table is worth a look at the bits for each issue, where nobody looks yet.

    It is where all that is pending outgrows the caches, or what is left is much less.
    """
    cdef uint64_t used = s.pending.used
    if used >= s.set_aside_from:
        return True
    return used >= s.set_aside_from // 16 and count_before(&s.pending, before_ns) > used // 2


cdef void move_aside(State *s, Pending **p, int n) noexcept nogil:
    """Move up to BATCH requests; what they go to is on its way while the next one is looked at."""
    cdef:
        int i
        uint64_t group
        uint64_t h[BATCH]
        Table *to = &s.overtaken
    for i in range(n):
        h[i] = hash_of(s, p[i].sector, p[i].key)
        prefetch(&s.overtaken_bits[h[i] >> 32 >> s.overtaken_shift])
        prefetch(&to.groups[home_of(to, h[i] >> 32)])
    for i in range(n):
        group = home_of(to, h[i] >> 32)
        prefetch(&to.slots[
            group * GROUP + first_bit(tags_equal(&to.groups[group], 0) | 1 << (GROUP - 1))
        ])
    for i in range(n):
        set_bit(s, h[i])
        claim(to, place_in(to, h[i] >> 32, tag_of(h[i])))[0] = p[i][0]
        remove(&s.pending, p[i], place_in(&s.pending, h[i] >> 32, tag_of(h[i])))
    s.n_set_aside += n


cdef uint64_t set_aside(State *s, uint64_t before_ns) noexcept nogil:
    """Move requests from before that time; returns how many."""
    cdef:
        const Table *t = &s.pending
        uint64_t group
        uint64_t moved = 0
        int n = 0
        unsigned int in_use
        Pending *p[BATCH]
    for group in range(t.n_groups):
        in_use = slots_in_use(t, group)
        while in_use != 0:
            p[n] = &t.slots[group * GROUP + first_bit(in_use)]
            in_use &= in_use - 1
            n += p[n].time_ns < before_ns
        if n >= BATCH - GROUP or group + 1 == t.n_groups:
            move_aside(s, p, n)
            moved += n
            n = 0
    return moved


cdef Pending *bring_back(State *s, const Pending *item) noexcept nogil:
    """Move back what is pending with an item's key. NULL: nothing is there."""
    cdef Place place = place_in(&s.overtaken, item.at, item.state)
    cdef const Pending *p = find(&s.overtaken, place, item.sector, item.key)
    cdef Pending *back
    if p == NULL:
        return NULL
    back = claim(&s.pending, place_in(&s.pending, item.at, item.state))
    back[0] = p[0]
    remove(&s.overtaken, p, place)
    s.n_brought_back += 1
    return back
