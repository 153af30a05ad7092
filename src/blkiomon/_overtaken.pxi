# Requests that wait while many others come and go: most of them will never be completed.
#
# They would fill the table that every record goes to, until no cache holds it. Where there are
# tens of thousands, so that looking for them costs less than having them there, they are set aside
# in a table of their own, where no record is paired. What a batch has an issue for, or a completion
# that finds nothing, is brought back before. Nearly always nothing is there, and for each issue
# three bits tell so: where they are, its hash chooses, and all that is set aside has set its own.
# Where a request stands changes no result.

cdef enum:
    # Records that come and go, for each request that the table has room for, before it is looked
    # through for what they have overtaken: a quarter has. With less, deep queues would be set aside
    # and brought back.
    OVERTAKING = 8
    BITS_EACH = 4                               # at least, for each request that is set aside: one
    # in seven that is not there seems to be. With more bits the nearest caches hold fewer of them.


cdef inline uint64_t bits_of(uint32_t at, uint32_t state) noexcept nogil:
    """Three of 64, by what of a hash does not choose the word."""
    return (
        <uint64_t> 1 << (at & 63) | <uint64_t> 1 << (at >> 6 & 63) | <uint64_t> 1 << (state & 63)
    )


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


cdef uint64_t set_aside(State *s, uint64_t before_ns) noexcept nogil:
    """Move requests from before that time; returns how many."""
    cdef Table *t = &s.pending
    cdef uint64_t group, h
    cdef uint64_t n = 0
    cdef unsigned int in_use
    cdef const Pending *p
    for group in range(t.n_groups):
        in_use = slots_in_use(t, group)
        while in_use != 0:
            p = &t.slots[group * GROUP + first_bit(in_use)]
            in_use &= in_use - 1
            if p.time_ns < before_ns:
                n += 1
                h = hash_of(s, p.sector, p.key)
                set_bit(s, h)
                claim(&s.overtaken, place_in(&s.overtaken, h >> 32, tag_of(h)))[0] = p[0]
                remove(t, p, place_in(t, h >> 32, tag_of(h)))
    s.n_set_aside += n
    return n


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


cdef void bring_back_for_issues(State *s, const Batch *b) noexcept nogil:
    """Move back what has the key of one of a batch's issues. Nearly nothing has.

    Without branches, and what no cache holds is on its way while the next one is looked at.
    """
    cdef:
        int i
        int n = 0
        int m = 0
        uint8_t issue[BATCH]
        uint8_t suspect[BATCH]
        uint32_t home[BATCH]
        unsigned int equal
        const Pending *item
        const Group *group
    for i in range(b.n):
        issue[n] = i
        n += b.item[i].state // IS_ISSUE & 1
    for i in range(n):
        prefetch_input(&s.overtaken_bits[b.item[issue[i]].at >> s.overtaken_shift])
    for i in range(n):
        suspect[m] = issue[i]
        m += may_be_overtaken(s, &b.item[issue[i]])
    for i in range(m):
        home[i] = <uint32_t> home_of(&s.overtaken, b.item[suspect[i]].at)
        prefetch_input(&s.overtaken.groups[home[i]])
    n = 0
    for i in range(m):
        group = &s.overtaken.groups[home[i]]
        equal = tags_equal(group, b.item[suspect[i]].state & 0xff)
        prefetch_input(&s.overtaken.slots[
            home[i] * <uint64_t> GROUP * (equal != 0) + first_bit(equal | 1 << (GROUP - 1))
        ])
        issue[n] = suspect[i]
        n += equal != 0 or group.passed != 0
    for i in range(n):
        bring_back(s, &b.item[issue[i]])
