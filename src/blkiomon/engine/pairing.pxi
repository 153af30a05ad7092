# Pairing: the heart.
#
# prepare() makes an item of every record of a batch: what of it is looked at, in the form in which
# it is pending later, and where in the table it belongs. pair() takes one item after the other.

cdef enum:
    MOST_CPU_BITS = 13                          # 8192 are as many as a kernel can be built for
    MOST_SEQUENCE_BITS = 27                     # sequence numbers; 512 MB
    MOST_LATE = 1 << 16                         # a record that comes later begins the numbers anew


cdef inline unsigned int cpu_bits(uint32_t cpus, uint64_t devices) noexcept nogil:
    """How much of a CPU's number counts, with room for so many devices: beyond, CPUs share a place.

    `cpus` is the greatest one, or several or'ed.
    """
    cdef unsigned int most = MOST_SEQUENCE_BITS - bits(devices)
    return min(bits(cpus), most, <unsigned int> MOST_CPU_BITS)


cdef void note_gap(State *s, const TraceV7 *r, uint32_t *last) noexcept nogil:
    """A record's sequence number is not one more than the last of its device and CPU."""
    cdef int32_t missing = <int32_t> (r.sequence - last[0] - 1)
    if last[0] == 0:                            # where the numbers begin is not known
        last[0] = r.sequence
    elif missing < 0 and (r.sequence == 1 or missing < -MOST_LATE):     # another run of blktrace
        s.gaps += r.sequence - 1
        last[0] = r.sequence
    elif missing > 0:
        s.gaps += missing
        last[0] = r.sequence
    elif s.gaps > s.gaps_cut:                   # it comes late, and had been counted
        s.gaps -= 1


cdef inline bint counts(State *s, Batch *b, int i, uint32_t device) noexcept nogil:
    """Whether a record's sequence number does: not of a note, to which the kernel gives none.

    Nor where nobody asked for the record, or its device has no index. From that its categories are
    taken, but for a note: then pair() passes it over.
    """
    if b.record[i].time < s.from_ns or device == NOBODY:
        if b.record[i].time >= s.from_ns and not (s.has_wanted or b.category[i] & CAT_NOTIFY):
            s.over_limit += 1
        b.category[i] &= CAT_NOTIFY
        return False
    return b.category[i] & CAT_NOTIFY == 0


cdef inline bint is_plain(uint32_t category) noexcept nogil:
    """Whether a record is an issue or a completion of a read or a write, and nothing else."""
    return ((category & (CAT_PAIRED | CAT_DRV_DATA | CAT_CELLS)) - CAT_ISSUE) & ~CAT_PAIRED == 0


cdef inline uint32_t state_of(uint32_t category, unsigned int cell, uint32_t error) noexcept nogil:
    """Pending.state of an issue or a completion, but for the tag."""
    return (
        cell << CELL_SHIFT
        | (category & CAT_PAIRED) << 7          # ISSUE and COMPLETE are neighbours here and there
        | error << ERROR_SHIFT
    )


cdef uint32_t odd_state_of(uint32_t category, const TraceV7 *r) noexcept nogil:
    """The same of whatever is not plain."""
    if category & CAT_PAIRED and not category & CAT_DRV_DATA:
        return state_of(category, cell_of(category, r.bytes), r.error)
    return IS_OTHER


cdef inline void set_hash(const State *s, Pending *item) noexcept nogil:
    """Work out what tells where in a table an item belongs."""
    cdef uint64_t h = hash_of(s, item.sector, item.key)
    item.at = h >> 32
    item.state |= tag_of(h)


cdef inline void prepare(
    State *s, Batch *b, bint with_hashes, bint with_overtaken
) noexcept nogil:
    """Make an item of every record, and look at its sequence number.

    The compiler makes one of this for each call: the flags are constants there.
    """
    cdef:
        int i
        int n = b.n
        uint32_t number = ~b.record[0].device if n else 0       # none yet
        uint32_t device = NOBODY
        uint32_t cpu_mask = (1 << s.cpu_shift) - 1
        uint32_t *sequences = s.last_sequence
        uint32_t *last
        uint32_t category
        const TraceV7 *r
        Pending *item
        bint any_special = s.has_filter or b.seen & CAT_NOTIFY

    b.needs_input = False
    b.has_hashes = with_hashes
    for i in range(n):
        r = b.record[i]
        if r.device != number:
            number = r.device
            device = index_of(s, number)
            if unlikely(device == NOBODY):
                device = enter_device(s, number)
                any_special |= device == NOBODY
            sequences = &s.last_sequence[<uint64_t> device << s.cpu_shift]
        last = &sequences[r.cpu & cpu_mask]
        if unlikely(any_special) and not counts(s, b, i, device):
            pass
        elif likely(r.sequence == last[0] + 1):
            last[0] = r.sequence
        elif unlikely(r.sequence != 0):         # all of ftrace's are 0
            note_gap(s, r, last)

        category = b.category[i]
        item = &b.item[i]
        item.sector = r.sector
        item.time_ns = r.time
        item.bytes = r.bytes
        item.key = key_of(device, category)
        item.state = state_of(category, plain_cell(category), r.error)
        if unlikely(not is_plain(category)):
            item.state = odd_state_of(category, r)
            if category & CAT_ZONE_APPEND and category & CAT_PAIRED and not s.as_original:
                item.state = IS_OTHER
            b.needs_input |= item.state == IS_OTHER
        if with_hashes:
            set_hash(s, item)
        if with_overtaken:
            fetch_bits(s, item)


cdef inline void set_pending(
    State *s, Pending *p, const Batch *b, int i, bint plainly, bint as_original
) noexcept nogil:
    """Write a record into a slot that is empty or whose record has been dropped."""
    cdef const Pending *item = &b.item[i]
    p[0] = item[0]
    if likely(item.state & IS_ISSUE):
        if not as_original:
            enter(s, device_of(item.key), op_of(cell_in(item.state)), item.time_ns)
    else:
        s.orphans += 1
        p.state &= ~<uint32_t> IS_COUNTED
    if not plainly and s.keep_details:
        p.at = keep(s, b.record[i], b.category[i], b.first + i)
    note_age(s, item)


cdef void log_mismatch(
    State *s, const Pending *p, const Batch *b, int i, bint pending_is_older
) noexcept nogil:
    cdef Mismatch *m = &s.mismatch[s.n_mismatch]
    cdef Detail *of_pending = &m.older if pending_is_older else &m.younger
    cdef Detail *of_record = &m.younger if pending_is_older else &m.older
    of_pending[0] = s.kept[p.at].detail
    copy_detail(of_record, b.record[i], b.category[i], b.first + i)
    s.n_mismatch += 1


cdef void log_records(State *s, const Batch *b) noexcept nogil:
    cdef Detail detail
    cdef int i
    for i in range(b.n):
        copy_detail(&detail, b.record[i], b.category[i], 0)
        s.record[s.n_record + i] = detail.record
    s.n_record += b.n


cdef uint64_t first_issue_of(const State *s, const Pending *p) noexcept nogil:
    """When a pending request was issued first."""
    return history_of(s, p).time_ns if p.state & IS_OTHER else p.time_ns


cdef void log_request(
    State *s, const Match *m, const Record *issue, uint64_t first_issued_ns
) noexcept nogil:
    cdef Request *q = &s.request[s.n_request]
    s.n_request += 1
    q.issued_ns = issue.time_ns
    q.d2c_ns = m.d2c_ns
    q.sector = issue.sector
    q.bytes = m.size_bytes
    q.device = issue.device
    q.pid = issue.pid
    q.cpu = issue.cpu
    q.op = op_of(m.cell)
    q.error = m.error
    q.q2d_ns = m.q2d_ns
    q.first_issued_ns = first_issued_ns


cdef void log_match(
    State *s, const Match *m, const Batch *b, int i, const Pending *p, bint pending_is_issue
) noexcept nogil:
    """Hand out a match as a request, if that is wanted, and forget the full record."""
    cdef Detail detail
    if s.keep_requests:
        if pending_is_issue:
            log_request(s, m, &s.kept[p.at].detail.record, first_issue_of(s, p))
        else:
            copy_detail(&detail, b.record[i], b.category[i], 0)
            log_request(s, m, &detail.record, detail.record.time_ns)
    release(s, p.at)


cdef void note_match(
    State *s, Match *m, Batch *b, int i, const Pending *p, bint pending_is_issue
) noexcept nogil:
    """What few streams and users want of a match that has just been added to the batch."""
    cdef const Pending *issue = p if pending_is_issue else &b.item[i]
    if s.with_queue:
        m.q2d_ns = queue_time(s, issue.sector, issue.key, issue.time_ns)
    if s.keep_details:
        log_match(s, m, b, i, p, pending_is_issue)


cdef inline void settle(
    State *s, Batch *b, int i, const Pending *p, uint64_t d2c_ns, bint pending_is_issue,
    Place place, bint plainly, bint as_original,
) noexcept nogil:
    """A match: leave it to account(), and take the pending record out."""
    cdef const Pending *item = &b.item[i]
    cdef const Pending *issue = p if pending_is_issue else item
    cdef Match *m = &b.match[b.n_matches]
    b.n_matches += 1
    m.d2c_ns = d2c_ns
    m.device = device_of(p.key)
    m.size_bytes = issue.bytes
    m.cell = cell_in(issue.state)
    if likely(pending_is_issue):
        m.error = item.state >> ERROR_SHIFT
        if not as_original:
            leave(s, m.device, op_of(m.cell), item.time_ns)
    else:
        m.error = p.state >> ERROR_SHIFT
        if unlikely(p.state & IS_ISSUE):        # it is both
            abandon(s, p, item.time_ns)
        else:
            s.orphans -= p.state & IS_COUNTED == 0
    m.q2d_ns = NOT_QUEUED
    if not plainly and s.follow_matches:
        note_match(s, m, b, i, p, pending_is_issue)
    remove(&s.pending, p, place)


cdef void take_over(const State *s, Batch *b) noexcept nogil:
    """Do what prepare() was not asked to do, or would have done for another core's caches."""
    cdef int i
    if not b.has_hashes:
        for i in range(b.n):
            set_hash(s, &b.item[i])
    if s.overtaken.used != 0:
        for i in range(b.n):
            fetch_bits(s, &b.item[i])


cdef void fetch(const State *s, const Batch *b) noexcept nogil:
    """Have what pair() will look at fetched, where it is more than the nearest caches hold.

    First the groups' tags, then, from these, the slots: while they are on their way, the next
    item is worked on.
    """
    cdef:
        int i
        uint64_t group
        unsigned int equal, empty
        const Group *groups = s.pending.groups
        const Pending *slots = s.pending.slots
        const Load *loads = s.loads
    if s.n_devices >= MANY_DEVICES:
        for i in range(b.n):
            prefetch(&loads[device_of(b.item[i].key)])
    if s.pending.n_groups < LARGE_TABLE:
        return
    for i in range(b.n):
        prefetch(&groups[home_of(&s.pending, b.item[i].at)])
    for i in range(b.n):
        group = home_of(&s.pending, b.item[i].at)
        equal = tags_equal(&groups[group], b.item[i].state & 0xff)
        empty = tags_equal(&groups[group], 0) & (<unsigned int> (equal != 0) - 1)
        prefetch(&slots[group * GROUP + first_bit(equal | empty | 1 << (GROUP - 1))])


cdef inline void pair_items(
    State *s, Batch *b, bint plainly, bint as_original, bint with_overtaken
) noexcept nogil:
    """Pair the records of a batch (behaviour: one pending record per key).

    A record whose key is not pending becomes pending. Otherwise the two are ordered by time, the
    pending one being older only if its time is strictly smaller: an older issue and a younger
    completion are a match; of anything else the younger stays pending. Two that are further apart
    than max_age_ns never pair: the older is evicted. Unless State.as_original says otherwise, a
    match is also of the same size, and pair_step() deals with what the original pairs wrongly.

    The compiler makes one of this for each call: `plainly`, see can_be_plain(), is a constant
    there, and so are the others where that counts.
    """
    cdef:
        int i
        const Pending *item
        Place place
        Pending *p
        uint64_t d2c_ns
        bint pending_is_older

    for i in range(b.n):
        item = &b.item[i]
        if not plainly and item.state & IS_OTHER and not take_other(s, b, i):
            continue
        s.now_ns = item.time_ns
        if not plainly and s.follow_issues and item.state & IS_ISSUE:
            note_issue(s, b, i)
        place = place_in(&s.pending, item.at, item.state)
        p = find(&s.pending, place, item.sector, item.key)
        if p == NULL and with_overtaken and unlikely(may_be_overtaken(s, item)):
            p = bring_back(s, item)
        if p == NULL:
            if not as_original and unlikely(is_empty_completion(item)):
                continue
            if not plainly and all_pending(s) == s.max_pending:
                evict_oldest(s)
            set_pending(s, claim(&s.pending, place), b, i, plainly, as_original)
            continue

        pending_is_older = p.time_ns < item.time_ns
        d2c_ns = item.time_ns - p.time_ns if pending_is_older else p.time_ns - item.time_ns
        if likely(d2c_ns <= s.max_age_ns):
            if likely(
                pending_is_older and p.state & IS_ISSUE and item.state & IS_COMPLETE
                and (as_original or (p.bytes == item.bytes and item.bytes != 0))
            ):
                settle(s, b, i, p, d2c_ns, True, place, plainly, as_original)
                continue
            if (
                not pending_is_older and item.state & IS_ISSUE and p.state & IS_COMPLETE
                and (as_original or (p.bytes == item.bytes and not p.state & IS_ISSUE))
            ):
                settle(s, b, i, p, d2c_ns, False, place, plainly, as_original)
                continue
            if not as_original and pair_step(s, b, i, p):
                continue
            s.mismatches += 1
            if s.keep_mismatches:
                log_mismatch(s, p, b, i, pending_is_older)
        else:
            s.evicted += 1

        if pending_is_older:
            if s.keep_details:
                release(s, p.at)
            abandon(s, p, s.now_ns)
            set_pending(s, p, b, i, plainly, as_original)
        else:
            s.orphans += item.state & IS_ISSUE == 0
            s.given_up += item.state & IS_ISSUE != 0
            if s.keep_details:                  # taken out and stored again, as the original does
                s.kept[p.at].stored = b.first + i


cdef inline bint can_be_plain(const State *s, const Batch *b) noexcept nogil:
    """Whether nobody wants more of a batch than its requests, which are all that is in it."""
    return not (
        b.needs_input or s.follow_issues or s.follow_matches or s.keep_details
        or all_pending(s) + b.n > s.max_pending
    )


cdef void pair(State *s, Batch *b) noexcept nogil:
    """Find the matches of a batch."""
    cdef bint with_overtaken = s.overtaken.used != 0
    cdef int i
    if unlikely(s.first_ns == <uint64_t> -1):
        for i in range(b.n):
            if not b.category[i] & CAT_NOTIFY:
                s.first_ns = b.item[i].time_ns
                break
    fetch(s, b)
    b.n_matches = 0
    if unlikely(not can_be_plain(s, b)):
        pair_items(s, b, False, s.as_original, with_overtaken)
    elif with_overtaken:
        pair_items(s, b, True, s.as_original, True)
    elif s.as_original:
        pair_items(s, b, True, True, False)
    else:
        pair_items(s, b, True, False, False)
