# Matches issues with completions.
#
# prepare() turns the records of a batch into items. An item has the layout of a hash table entry
# (Pending), with the hash of its key. pair() looks up each item in the table, and either stores
# it there or adds a Match to the batch. prepare() also checks sequence numbers; pair() also counts
# requests in flight. See multi_step.pxi for requeues and partial completions.
#
# Entry points, from Engine._process(): log_records, prepare, pair. Never allocates.

cdef enum:
    MOST_CPU_BITS = 13                          # a kernel supports 8192 CPUs at most
    MOST_SEQUENCE_BITS = 27                     # sequence numbers in memory: 512 MB
    MOST_LATE = 1 << 16                         # further back, blktrace must have been restarted
    LARGE_TABLE = 2048                          # groups of 512 bytes, slots included: 1 MB


cdef inline unsigned int cpu_bits(uint32_t cpus, uint64_t devices) noexcept nogil:
    """How many bits of a CPU number choose its place in State.last_sequence.

    CPUs share a place if their numbers differ only in higher bits. `cpus` is the greatest number,
    or several numbers or'ed.
    """
    cdef unsigned int most = MOST_SEQUENCE_BITS - bits(devices)
    return min(bits(cpus), most, <unsigned int> MOST_CPU_BITS)


cdef void count_gap(State *s, const TraceV7 *r, uint32_t *last) noexcept nogil:
    """Count the records missing before one whose sequence number is not the last one plus 1."""
    cdef int32_t missing = <int32_t> (r.sequence - last[0] - 1)
    if last[0] == 0:                            # the first record may have any number
        last[0] = r.sequence
    elif missing < 0 and (r.sequence == 1 or missing < -MOST_LATE):     # blktrace was restarted
        s.sequence_gaps += r.sequence - 1
        last[0] = r.sequence
    elif missing > 0:
        s.sequence_gaps += missing
        last[0] = r.sequence
    elif s.sequence_gaps > s.gaps_reported:     # late, and counted as missing before
        s.sequence_gaps -= 1


cdef inline bint filter_record(State *s, Batch *b, int i, uint32_t device) noexcept nogil:
    """Clear the categories of a record that is filtered out by time or device: pair() ignores it.

    Returns whether the record has a sequence number that counts; notifications have none.
    """
    if b.record[i].time < s.from_ns or device == NO_DEVICE:
        if b.record[i].time >= s.from_ns and not (s.has_wanted or b.category[i] & CAT_NOTIFY):
            s.over_device_limit += 1
        b.category[i] &= CAT_NOTIFY
        return False
    return b.category[i] & CAT_NOTIFY == 0


cdef inline bint is_plain(uint32_t category) noexcept nogil:
    """Whether a record is an ordinary issue or completion of a read or a write."""
    return ((category & (CAT_PAIRED | CAT_DRV_DATA | CAT_CELLS)) - CAT_ISSUE) & ~CAT_PAIRED == 0


cdef inline uint32_t state_of(uint32_t category, unsigned int cell, uint32_t error) noexcept nogil:
    """Pending.state of an issue or a completion, without the tag."""
    return (
        cell << CELL_SHIFT
        | (category & CAT_PAIRED) << 7          # both bits are moved by one shift
        | error << ERROR_SHIFT
    )


cdef uint32_t special_state_of(uint32_t category, const TraceV7 *r) noexcept nogil:
    """Pending.state of a record that is not plain."""
    if category & CAT_PAIRED and not category & CAT_DRV_DATA:
        return state_of(category, cell_of(category, r.bytes), r.error)
    return IS_OTHER


cdef inline void set_hash(const State *s, Pending *item) noexcept nogil:
    """Compute an item's hash: the upper half in hash_or_index, the tag in state."""
    cdef uint64_t h = hash_of(s, item.sector, item.key)
    item.hash_or_index = h >> 32
    item.state |= tag_of(h)


cdef void prepare(State *s, Batch *b) noexcept nogil:
    """Turn the records of a batch into items, and check their sequence numbers."""
    cdef:
        int i
        int n = b.n
        uint32_t number = ~b.record[0].device if n else 0       # not that of record 0
        uint32_t device = NO_DEVICE
        uint32_t cpu_mask = (1 << s.cpu_shift) - 1
        uint32_t *sequences = s.last_sequence
        uint32_t *last
        uint32_t category
        const TraceV7 *r
        Pending *item
        bint any_special = s.has_filter or b.seen & CAT_NOTIFY

    b.has_others = False
    for i in range(n):
        r = b.record[i]
        if r.device != number:
            number = r.device
            device = index_of(s, number)
            if unlikely(device == NO_DEVICE):
                device = enter_device(s, number)
                any_special |= device == NO_DEVICE
            sequences = &s.last_sequence[<uint64_t> device << s.cpu_shift]
        last = &sequences[r.cpu & cpu_mask]
        if unlikely(any_special) and not filter_record(s, b, i, device):
            pass
        elif likely(r.sequence == last[0] + 1):
            last[0] = r.sequence
        elif unlikely(r.sequence != 0):         # ftrace sends 0 in all records
            count_gap(s, r, last)

        category = b.category[i]
        item = &b.item[i]
        item.sector = r.sector
        item.time_ns = r.time
        item.bytes = r.bytes
        item.key = key_of(device, category)
        item.state = state_of(category, plain_cell(category), r.error)
        if unlikely(not is_plain(category)):
            item.state = special_state_of(category, r)
            if category & CAT_ZONE_APPEND and category & CAT_PAIRED and not s.as_original:
                item.state = IS_OTHER
            b.has_others |= item.state == IS_OTHER
        set_hash(s, item)


cdef inline void set_pending(
    State *s, Pending *p, const Batch *b, int i, bint plainly, bint as_original
) noexcept nogil:
    """Write a record into a reserved slot, or over a record that has been given up."""
    cdef const Pending *item = &b.item[i]
    p[0] = item[0]
    if likely(item.state & IS_ISSUE):
        if not as_original:
            begin_flight(s, device_of(item.key), op_of(cell_in(item.state)), item.time_ns)
    else:
        s.completions_without_issue += 1
        p.state &= ~<uint32_t> IS_COUNTED
    if not plainly and s.keep_details:
        p.hash_or_index = store_record(s, b.record[i], b.category[i], b.first + i)
    track_age(s, item)


cdef void log_mismatch(State *s, const Pending *p, const Batch *b, int i) noexcept nogil:
    """Keep both records by their own times: p.time_ns may be that of a requeue."""
    cdef Mismatch *m = &s.mismatch[s.n_mismatch]
    cdef const Detail *stored = &s.stored[p.hash_or_index].detail
    cdef bint pending_is_older = stored.record.time_ns < b.item[i].time_ns
    cdef Detail *of_pending = &m.older if pending_is_older else &m.younger
    cdef Detail *of_record = &m.younger if pending_is_older else &m.older
    of_pending[0] = stored[0]
    copy_detail(of_record, b.record[i], b.category[i], b.first + i)
    s.n_mismatch += 1


cdef void log_records(State *s, const Batch *b) noexcept nogil:
    cdef Detail detail
    cdef int i
    for i in range(b.n):
        copy_detail(&detail, b.record[i], b.category[i], 0)
        s.record[s.n_record + i] = detail.record
    s.n_record += b.n


cdef void set_request(
    const State *s, Request *q, const Match *m, const Record *record, const Pending *issue
) noexcept nogil:
    """Write a request, given the full record of its issue."""
    q.issued_ns = record.time_ns
    q.first_issued_ns = record.time_ns
    if issue.state & IS_MULTI_STEP:
        q.first_issued_ns = first_issue_ns(s, issue)
    q.d2c_ns = m.d2c_ns
    q.q2d_ns = m.q2d_ns
    q.sector = record.sector
    q.bytes = m.size_bytes
    q.device = record.device
    q.op = op_of(m.cell)
    q.pid = record.pid
    q.cpu = record.cpu
    q.error = m.error


cdef void log_optional(
    State *s, Match *m, Batch *b, int i, const Pending *p, bint pending_is_issue,
    uint64_t completed_ns,
) noexcept nogil:
    """Set a match's queue time, append it to State.request and State.slow as asked for.

    Frees the pending record's copy.
    """
    cdef const Pending *issue = p if pending_is_issue else &b.item[i]
    cdef Detail detail
    cdef uint64_t begun_ns = completed_ns - m.d2c_ns
    cdef bint is_slow = s.keep_slow and completed_slowly(s, issue, pending_is_issue, completed_ns)
    if s.keep_requests or is_slow:
        if pending_is_issue:
            detail = s.stored[p.hash_or_index].detail
        else:
            copy_detail(&detail, b.record[i], b.category[i], 0)
    if is_slow:                                 # before its queue record is removed
        set_slow(s, &s.slow[s.n_slow], m, &detail.record, issue, begun_ns)
        s.slow[s.n_slow].until_ns = completed_ns
        s.n_slow += 1
    if s.with_queue:
        m.q2d_ns = queue_time(s, issue.sector, issue.key, begun_ns)
    if s.keep_requests:
        set_request(s, &s.request[s.n_request], m, &detail.record, issue)
        s.n_request += 1
    if s.keep_details:
        free_record(s, p.hash_or_index)


cdef inline void complete_request(
    State *s, Batch *b, int i, const Pending *p, uint64_t d2c_ns, bint pending_is_issue,
    Place place, bint plainly, bint as_original,
) noexcept nogil:
    """Add a match to the batch, for account(), and remove the pending record."""
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
            end_flight(s, m.device, op_of(m.cell), item.time_ns)
    else:
        m.error = p.state >> ERROR_SHIFT
        if unlikely(p.state & IS_ISSUE):        # the pending record is issue and completion
            give_up(s, p, item.time_ns)
        else:
            s.completions_without_issue -= p.state & IS_COUNTED == 0
    m.q2d_ns = NOT_QUEUED
    if not plainly and s.follow_matches:
        log_optional(s, m, b, i, p, pending_is_issue, issue.time_ns + d2c_ns)
    remove_entry(&s.pending, p, place)


cdef void prefetch_batch(const State *s, const Batch *b) noexcept nogil:
    """Prefetch what pair() will read, if it does not fit the first-level cache.

    One loop fetches tags; the next one uses them to fetch the likely slots.
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
        prefetch(&groups[home_of(&s.pending, b.item[i].hash_or_index)])
    for i in range(b.n):
        group = home_of(&s.pending, b.item[i].hash_or_index)
        equal = tags_equal(&groups[group], b.item[i].state & 0xff)
        empty = tags_equal(&groups[group], 0) & (<unsigned int> (equal != 0) - 1)
        prefetch(&slots[group * GROUP + first_bit(equal | empty | 1 << (GROUP - 1))])


cdef inline void pair_items(
    State *s, Batch *b, bint plainly, bint as_original
) noexcept nogil:
    """Pair the records of a batch. There is at most one pending record for each key.

    A record whose key is not pending becomes pending. Otherwise the two are ordered by time; the
    pending one is older only if its time is strictly smaller. An older issue and a younger
    completion match. In every other case the younger record stays pending. Two records further
    apart than max_age_ns never match: the older is evicted. Without as_original, both records of a
    match have the same size, and pair_step() handles requeues and partial completions.

    The flags are constants at the frequent calls, so that the compiler specialises each call.
    `plainly` says that can_be_plain() is true of the batch.
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
        if not plainly and item.state & IS_OTHER and not handle_other(s, b, i):
            continue
        s.now_ns = item.time_ns
        if not plainly and s.follow_issues and item.state & IS_ISSUE:
            follow_issue(s, b, i)
        place = place_in(&s.pending, item.hash_or_index, item.state)
        p = find(&s.pending, place, item.sector, item.key)
        if p == NULL:
            if not as_original and unlikely(is_empty_completion(item)):
                continue
            if not plainly:
                if item.state & IS_ISSUE == 0 and is_nearly_full(s):
                    s.completions_without_issue += 1
                    s.evicted += 1
                    continue
                make_place(s)
            set_pending(s, reserve_slot(&s.pending, place), b, i, plainly, as_original)
            continue

        pending_is_older = p.time_ns < item.time_ns
        d2c_ns = item.time_ns - p.time_ns if pending_is_older else p.time_ns - item.time_ns
        if likely(d2c_ns <= s.max_age_ns):
            if likely(
                pending_is_older and p.state & IS_ISSUE and item.state & IS_COMPLETE
                and (as_original or (p.bytes == item.bytes and item.bytes != 0))
            ):
                complete_request(s, b, i, p, d2c_ns, True, place, plainly, as_original)
                continue
            if (
                not pending_is_older and item.state & IS_ISSUE and p.state & IS_COMPLETE
                and (as_original or (p.bytes == item.bytes and not p.state & IS_ISSUE))
            ):
                complete_request(s, b, i, p, d2c_ns, False, place, plainly, as_original)
                continue
            if not as_original and pair_step(s, b, i, p):
                continue
            s.mismatches += 1
            if s.keep_mismatches:
                log_mismatch(s, p, b, i)
        else:
            s.evicted += 1

        if pending_is_older:
            if s.keep_details:
                free_record(s, p.hash_or_index)
            give_up(s, p, s.now_ns)
            set_pending(s, p, b, i, plainly, as_original)
        else:
            s.completions_without_issue += item.state & IS_ISSUE == 0
            s.issues_given_up += item.state & IS_ISSUE != 0
            if s.keep_details:                  # the original stores the pending record anew
                s.stored[p.hash_or_index].stored_order &= WAS_REPORTED
                s.stored[p.hash_or_index].stored_order |= b.first + i


cdef inline bint can_be_plain(const State *s, const Batch *b) noexcept nogil:
    """Whether all records are plain, no copies are kept, and every one may become pending."""
    return not (
        b.has_others or s.follow_issues or s.follow_matches or s.keep_details
        or s.pending.used + b.n > s.max_pending - share_of_bound(s)
    )


cdef void pair(State *s, Batch *b) noexcept nogil:
    """Fill Batch.match with the requests that complete in a batch."""
    cdef int i
    if unlikely(s.first_ns == <uint64_t> -1):
        for i in range(b.n):
            if not b.category[i] & CAT_NOTIFY:
                s.first_ns = b.item[i].time_ns
                break
    prefetch_batch(s, b)
    b.n_matches = 0
    if unlikely(not can_be_plain(s, b)):
        pair_items(s, b, False, s.as_original)
    elif s.as_original:
        pair_items(s, b, True, True)
    else:
        pair_items(s, b, True, False)
