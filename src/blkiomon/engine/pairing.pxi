# Matches issues with completions.
#
# A batch is paired STEP records at a time. prepare_records() finds their devices and hash table
# groups, and checks sequence numbers. pair_records() then stores each record in the table, or adds
# a completed request to Batch.done; it also counts requests in flight. Both loops are short, so
# that a processor executes several rounds of each at once.
#
# Technique: most records are plain, see plainness_of(): an issue whose key is not pending, or the
# completion that meets its issue. pair_records() pairs these without a branch on which of the two
# it is, as the processor would predict it wrongly half of the time. Every other record takes the
# slow path, pair_item(), which has all rules. See multi_step.pxi for requeues and partial
# completions.
#
#     pair -> (State.pair_batch) -> pair_in_steps -> prepare_records, prefetch_entries, pair_records
#         pair_slowly    a plain record that the fast path has no rule for -> pair_item
#         pair_other     a record that is not plain -> handle_other, handle_append or pair_item
#
# Entry points, from Engine: cpu_bits, can_be_plain, set_categories, log_records, pair;
# pair_batch_by_baseline and pair_batch_by_avx2, for State.pair_batch. Also store_item,
# replace_pending and log_optional, from multi_step.pxi; set_request, from slow.pxi. Never
# allocates.

cdef enum:
    MOST_CPU_BITS = 13                          # a kernel supports 8192 CPUs at most
    MOST_SEQUENCE_BITS = 27                     # sequence numbers in memory: 512 MB
    MOST_LATE = 1 << 16                         # a greater step back is a restart of blktrace
    LEAST_BACK_NS = 1000000000                  # the sorter mends smaller steps back in time
    LARGE_TABLE = 512                           # groups of 496 bytes, slots included: 248 KiB


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


cdef inline void check_sequence(State *s, const TraceV7 *r, uint32_t *last) noexcept nogil:
    if likely(r.sequence == last[0] + 1):
        last[0] = r.sequence
    elif unlikely(r.sequence != 0):             # ftrace sends 0 in all records
        count_gap(s, r, last)


cdef inline bint filter_record(State *s, Batch *b, int i, uint32_t device) noexcept nogil:
    """Clear all categories but NOTIFY of a record that is filtered out by time or device.

    Returns whether the record has a sequence number that counts; notify records have none.
    """
    if b.records[i].time < s.from_ns or device == NO_DEVICE:
        if b.records[i].time >= s.from_ns and not (s.has_wanted or b.category[i] & CAT_NOTIFY):
            s.over_device_limit += 1
        b.category[i] &= CAT_NOTIFY
        return False
    return b.category[i] & CAT_NOTIFY == 0


cdef inline bint is_small(const Table *t) noexcept nogil:
    """Whether a table fits the first caches, so that nothing is to be prefetched."""
    return t.n_groups < LARGE_TABLE


cdef inline bint takes_slow_path(const State *s, const Batch *b) noexcept nogil:
    """Whether every record of a batch takes the slow path.

    It does if all pending records are kept in full, or if the table may become full. With keep_ids,
    it also does if a pid or a CPU number does not fit Pending.extra.
    """
    return (
        s.slowly or s.keep_details or s.pending.used + b.n > s.max_pending
        or (s.keep_ids and has_wide_ids(b))
    )


cdef inline bint can_be_plain(const State *s, const Batch *b) noexcept nogil:
    """Whether all records are plain, and nothing but pairing is to be done with them."""
    return b.is_plain and not (
        takes_slow_path(s, b) or s.has_filter or s.with_queue or s.keep_requests
        or s.n_devices + b.n > s.max_devices
    )


cdef void set_categories(Batch *b) noexcept nogil:
    """Fill Batch.category."""
    cdef int i
    if b.records != b.converted:
        for i in range(b.n):
            b.category[i] = b.records[i].action >> 16


# By the category & 3 of a plain record: neither READ nor WRITE, READ, WRITE, both. First, the upper
# half of Prepared.word; second, what its issue and its completion add to Load.now.
cdef uint64_t[4] PLAIN_WORDS = [
    <uint64_t> (IS_ISSUE | (6 << 2 | 2) << CELL_SHIFT) << 32,
    <uint64_t> (IS_ISSUE | 0 << CELL_SHIFT) << 32,
    <uint64_t> (IS_ISSUE | (1 << 2 | 1) << CELL_SHIFT) << 32,
    <uint64_t> (IS_ISSUE | (1 << 2) << CELL_SHIFT) << 32,
]
cdef uint32_t[4][2][4] STEPS = [
    [[0, 0, 1, 1], [0, 0, -1, -1]], [[1, 0, 0, 1], [-1, 0, 0, -1]],
    [[0, 1, 0, 1], [0, -1, 0, -1]], [[0, 1, 0, 1], [0, -1, 0, -1]],
]


cdef inline void prepare_records(
    State *s, Batch *b, int begin, int end, bint plainly, bint of_one_device
) noexcept nogil:
    """Fill Batch.prepared for some records; check sequence numbers.

    The flags are constants at each call: the compiler specialises all calls. `plainly` is the
    result of can_be_plain(), `of_one_device` is that of the batch.
    """
    cdef:
        int i
        uint32_t number = b.records[begin].device
        uint32_t device = device_for(s, number)
        uint32_t cpu_mask = (1 << s.cpu_shift) - 1
        uint32_t *sequences = &s.last_sequence[<uint64_t> device << s.cpu_shift]
        uint32_t key
        uint64_t h
        const TraceV7 *r
        Prepared *a = &b.prepared[0] - 1
        bint is_large = not is_small(&s.pending)
        bint is_counted = True
        bint slowly = takes_slow_path(s, b)
        bint any_special = s.has_filter or b.seen & CAT_NOTIFY != 0

    for i in range(begin, end):
        a += 1
        r = &b.records[i]
        if not of_one_device and r.device != number:
            number = r.device
            device = device_for(s, number)
            sequences = &s.last_sequence[<uint64_t> device << s.cpu_shift]
        if not plainly:
            is_counted = True
            if unlikely(any_special or device == NO_DEVICE):
                is_counted = filter_record(s, b, i, device)
                if not is_counted and b.category[i] == 0:
                    a.is_other = True
                    continue
            a.is_other = slowly | (plainness_of(b.category[i], r) != 0)
        if plainly or is_counted:
            check_sequence(s, r, &sequences[r.cpu & cpu_mask])
        key = key_of(device, r.action >> 16)
        h = hash_of(s, r.sector, key)
        a.word = key | PLAIN_WORDS[r.action >> 16 & 3]
        a.place.home = home_of(&s.pending, h)
        a.place.tags = tags_of(h)
        if is_large:
            prefetch(&s.pending.groups[a.place.home])


# --- the slow path -----------------------------------------------------------------------------

cdef inline uint32_t state_of(uint32_t category, unsigned int cell, uint32_t error) noexcept nogil:
    """Pending.state of an issue or a completion."""
    return (
        cell << CELL_SHIFT
        | (category & CAT_PAIRED) << 7          # both bits are moved by one shift
        | error << ERROR_SHIFT
    )


cdef inline void store_item(State *s, Pending *p, const Batch *b, int i) noexcept nogil:
    """Store the full record of p, a copy of Batch.item, if an option needs it."""
    cdef StoredRecord *k
    if s.keep_details or s.keep_ids:
        k = store_record(s, p)
        copy_detail(&k.detail, &b.records[i], b.category[i], b.first + i)
        k.stored_order = b.first + i


cdef inline void set_pending(State *s, Pending *p, const Batch *b, int i) noexcept nogil:
    """Write a record into a reserved slot, or over a record that has been given up."""
    cdef const Pending *item = &b.item
    p[0] = item[0]
    if item.state & IS_ISSUE:
        begin_flight(s, device_of(item.key), op_of(cell_in(item.state)), item.time_ns)
    else:
        s.completions_without_issue += 1
        p.state &= ~<uint32_t> IS_COUNTED
    store_item(s, p, b, i)
    track_age(s, item)


cdef void replace_pending(State *s, Pending *p, const Batch *b, int i) noexcept nogil:
    """Give up a pending record and store another one with its key in its place."""
    free_record(s, p)
    give_up(s, p, s.now_ns)
    set_pending(s, p, b, i)


cdef void log_mismatch(State *s, const Pending *p, const Batch *b, int i) noexcept nogil:
    """Append both records, ordered by their own times: p.time_ns may be that of a requeue."""
    cdef Mismatch *m = &s.mismatch[s.n_mismatch]
    cdef const Detail *stored = &s.stored[p.extra].detail
    cdef bint pending_is_older = stored.record.time_ns < b.item.time_ns
    cdef Detail *of_pending = &m.older if pending_is_older else &m.younger
    cdef Detail *of_record = &m.younger if pending_is_older else &m.older
    of_pending[0] = stored[0]
    copy_detail(of_record, &b.records[i], b.category[i], b.first + i)
    s.n_mismatch += 1


cdef void log_records(State *s, const Batch *b) noexcept nogil:
    cdef Detail detail
    cdef int i
    for i in range(b.n):
        copy_detail(&detail, &b.records[i], b.category[i], 0)
        s.record[s.n_record + i] = detail.record
    s.n_record += b.n


cdef void set_request(
    const State *s, Request *q, const Match *m, const Record *record, const Pending *issue
) noexcept nogil:
    """Write a request, given the full record of its issue."""
    q.time = INT64_MIN                          # NaT
    q.issued_ns = record.time_ns
    q.first_issued_ns = record.time_ns
    if issue.state & IS_MULTI_STEP:
        q.first_issued_ns = first_issue_ns(s, issue)
    q.d2c_ns = m.d2c_ns
    q.q2d_ns = <double> m.q2d_ns if m.q2d_ns != NOT_QUEUED else NAN
    q.sector = record.sector
    q.bytes = m.size_bytes
    q.device = record.device
    q.op = op_of(m.cell)
    q.pid = record.pid
    q.cpu = record.cpu
    q.error = 0x10000 - m.error if m.error >> 15 else m.error   # the record has its negative


cdef void log_optional(
    State *s, Match *m, Batch *b, int i, const Pending *p, bint pending_is_issue,
    uint64_t completed_ns,
) noexcept nogil:
    """Set a match's queue time, and append it to State.request and State.slow as options ask.

    Frees the full record of the pending record p.
    """
    cdef const Pending *issue = p if pending_is_issue else &b.item
    cdef Detail detail
    cdef uint64_t begun_ns = completed_ns - m.d2c_ns
    cdef bint is_slow = s.keep_slow and completed_slowly(s, issue, completed_ns)
    if s.keep_requests or is_slow:
        if pending_is_issue:
            full_record(s, p, &detail.record)
        else:
            copy_detail(&detail, &b.records[i], b.category[i], 0)
    if is_slow:                                 # before its queue record is removed
        set_slow(s, &s.slow[s.n_slow], m, &detail.record, issue, begun_ns)
        s.slow[s.n_slow].until_ns = completed_ns
        s.n_slow += 1
    if s.with_queue:
        m.q2d_ns = queue_time(s, issue.sector, issue.key, begun_ns)
    if s.keep_requests:
        set_request(s, &s.request[s.n_request], m, &detail.record, issue)
        s.n_request += 1
    free_record(s, p)


cdef inline void complete_request(
    State *s, Batch *b, int i, const Pending *p, uint64_t d2c_ns, bint pending_is_issue, Place place
) noexcept nogil:
    """Add a match to the batch, for account(), and remove the pending record."""
    cdef const Pending *item = &b.item
    cdef const Pending *issue = p if pending_is_issue else item
    cdef Match *m = &b.match[b.n_matches]
    b.n_matches += 1
    m.d2c_ns = d2c_ns
    m.device = device_of(p.key)
    m.size_bytes = issue.bytes
    m.cell = cell_in(issue.state)
    if pending_is_issue:
        m.error = item.state >> ERROR_SHIFT
        end_flight(s, m.device, op_of(m.cell), item.time_ns)
    else:
        m.error = p.state >> ERROR_SHIFT
        if unlikely(p.state & IS_ISSUE):        # the pending record is issue and completion
            give_up(s, p, item.time_ns)
        else:
            s.completions_without_issue -= p.state & IS_COUNTED == 0
    m.q2d_ns = NOT_QUEUED
    if s.follow_matches:
        log_optional(s, m, b, i, p, pending_is_issue, issue.time_ns + d2c_ns)
    remove_entry(&s.pending, p, place)


cdef void set_item(Batch *b, int i, uint32_t device) noexcept nogil:
    """Set Batch.item, which has the layout of a table's entry, to an issue or a completion."""
    cdef const TraceV7 *r = &b.records[i]
    cdef uint32_t category = b.category[i]
    b.item.sector = r.sector
    b.item.time_ns = r.time
    b.item.key = key_of(device, category)
    b.item.state = state_of(category, cell_of(category, r.bytes), r.error)
    b.item.state |= huge_time(r)
    b.item.bytes = r.bytes
    b.item.extra = 0


cdef void pair_item(State *s, Batch *b, int i, Place place) noexcept nogil:
    """Pair Batch.item. There is at most one pending record for each key.

    A record whose key is not pending becomes pending. Otherwise the two are ordered by time; the
    pending one is older only if its time is strictly smaller. An older issue and a younger
    completion match. In every other case the younger record stays pending. Two records further
    apart than max_age_ns never match: the older is evicted. Without as_original, both records of a
    match have the same size, and pair_step() handles requeues and partial completions.
    """
    cdef:
        const Pending *item = &b.item
        Pending *p = find(&s.pending, place, item.sector, item.key)
        uint64_t d2c_ns
        bint pending_is_older

    s.now_ns = item.time_ns
    if p == NULL:
        if not s.as_original and is_empty_completion(item):
            return
        if item.state & IS_ISSUE == 0 and is_nearly_full(s):
            s.completions_without_issue += 1
            s.evicted += 1
            return
        evict_if_full(s)
        set_pending(s, reserve_slot(&s.pending, place), b, i)
        return
    resume_flight(s, p, item.time_ns)

    pending_is_older = p.time_ns < item.time_ns
    d2c_ns = item.time_ns - p.time_ns if pending_is_older else p.time_ns - item.time_ns
    if d2c_ns <= s.max_age_ns:
        if (
            pending_is_older and p.state & IS_ISSUE and item.state & IS_COMPLETE
            and (s.as_original or (p.bytes == item.bytes and item.bytes != 0))
        ):
            complete_request(s, b, i, p, d2c_ns, True, place)
            return
        if (
            not pending_is_older and item.state & IS_ISSUE and p.state & IS_COMPLETE
            and (s.as_original or (p.bytes == item.bytes and not p.state & IS_ISSUE))
        ):
            complete_request(s, b, i, p, d2c_ns, False, place)
            return
        if not s.as_original and pair_step(s, b, i, p):
            return
        s.mismatches += 1
        if s.keep_mismatches:
            log_mismatch(s, p, b, i)
    else:
        s.evicted += 1

    if pending_is_older:
        replace_pending(s, p, b, i)
    else:
        s.completions_without_issue += item.state & IS_ISSUE == 0
        s.issues_given_up += item.state & IS_ISSUE != 0
        if s.keep_details:                      # the original stores the pending record again
            s.stored[p.extra].stored_order = b.first + i


cdef Done *note_match(Batch *b, Done *done, int n_matches) noexcept nogil:
    """Append a match to Batch.done, if there are more than n_matches. Returns the new end."""
    if b.n_matches != n_matches:
        done.word = IN_MATCH
        done += 1
    return done


cdef Done *pair_slowly(
    State *s, Batch *b, int i, const Prepared *a, Done *done
) noexcept nogil:
    """Pair a plain record for which pair_records() has no rule. Returns the end of Batch.done."""
    cdef int n_matches = b.n_matches
    b.category[i] = b.records[i].action >> 16
    set_item(b, i, device_of(<uint32_t> a.word))
    pair_item(s, b, i, a.place)
    return note_match(b, done, n_matches)


cdef inline bint gives_time_only(
    const State *s, uint32_t category, const TraceV7 *r
) noexcept nogil:
    """Whether a record does nothing but give the time: a get-request or a plug, for example."""
    return category & CAT_HANDLED == 0 and (
        s.as_original or category & CAT_QUEUE == 0
        or not EVENT_QUEUE <= r.action & 0xffff & ~<uint32_t> EVENT_CGROUP <= EVENT_FRONT_MERGE
    )


cdef Done *pair_other(
    State *s, Batch *b, int i, const Prepared *a, Done *done
) noexcept nogil:
    """Handle a record that is not plain. Returns the end of Batch.done."""
    cdef uint32_t category = b.category[i]
    cdef int n_matches = b.n_matches
    cdef Place place = a.place
    if category & CAT_PAIRED == 0 or category & CAT_DRV_DATA:
        handle_other(s, b, i, <uint32_t> a.word)
        return done
    set_item(b, i, device_of(<uint32_t> a.word))
    if category & CAT_ZONE_APPEND and not s.as_original:
        handle_append(s, b, i)
        place = place_of(s, &s.pending, b.item.sector, b.item.key)
    s.now_ns = b.item.time_ns
    if s.follow_issues and b.item.state & IS_ISSUE:
        follow_issue(s, b, i)
    pair_item(s, b, i, place)
    return note_match(b, done, n_matches)


# --- the fast path -----------------------------------------------------------------------------

cdef inline void prefetch_entries(
    const State *s, const Batch *b, int begin, int end
) noexcept nogil:
    """Prefetch what pair_records() will read, unless it fits the first caches.

    Of a completion, the first slot with its tag is wanted; of an issue, the first empty one.
    """
    cdef:
        int i
        const Prepared *a
        uint32_t wanted
        unsigned int slots
    if s.n_devices >= MANY_DEVICES:
        for i in range(begin, end):
            prefetch(&s.loads[device_of(<uint32_t> b.prepared[i - begin].word)])
    if is_small(&s.pending):
        return
    for i in range(begin, end):
        a = &b.prepared[i - begin]
        wanted = a.place.tags & <uint32_t> all_bits_if(b.records[i].action >> 23 & 1)
        slots = bytes_equal(&s.pending.groups[a.place.home], all_lanes(wanted)) | 1 << (GROUP - 1)
        prefetch(&s.pending.slots[<uint64_t> a.place.home * GROUP + first_bit(slots)])


cdef inline void count_busy(
    Load *load, uint64_t now, uint64_t completes, uint64_t time_ns
) noexcept nogil:
    """Update busy time as begin_flight() and end_flight() do: if no other request is in flight."""
    if now + completes == 1 and time_ns > load.busy_since_ns:
        if completes:
            load.busy_ns += time_ns - load.busy_since_ns
        load.busy_since_ns = time_ns


cdef struct Tally:                              # what pair_records() counts in registers
    int64_t all_more                            # growth of State.in_flight and pending.used
    int64_t all_most                            # the maximum of `all_more`
    # If all records are of one device, these are counted instead.
    lanes more                                  # growth of Load.now
    lanes most                                  # the maxima of `more`


cdef inline void add_tally(State *s, Load *load, Tally *t, bint of_one_device) noexcept nogil:
    """Add a Tally to the State, and begin a new one."""
    cdef lanes now
    if of_one_device:
        now = load_lanes(load.now)
        store_lanes(load.now, now + t.more)
        store_lanes(load.max, most_lanes(now + t.most, load_lanes(load.max)))
        t.all_more = <int32_t> lane(t.more, IN_ALL)
        t.all_most = <int32_t> lane(t.most, IN_ALL)
        t.more = t.most = lanes_of(0, 0, 0, 0)
    s.max_in_flight = max(s.max_in_flight, s.in_flight + <uint64_t> t.all_most)
    s.in_flight += <uint64_t> t.all_more
    s.pending.used += <uint64_t> t.all_more
    t.all_more = t.all_most = 0


cdef void note_completion(
    State *s, Batch *b, Done *done, const TraceV7 *r, const Pending *p
) noexcept nogil:
    """Do what log_optional() does on the slow path, for an element of Batch.done.

    Moves it to Batch.match if it has a queue record.
    """
    cdef Match *m = &b.match[b.n_matches]
    cdef Record record
    m.d2c_ns = r.time - p.time_ns
    m.q2d_ns = queue_time(s, p.sector, p.key, p.time_ns) if s.with_queue else <uint64_t> NOT_QUEUED
    m.device = device_of(p.key)
    m.size_bytes = p.bytes
    m.cell = cell_in(p.state)
    m.error = 0
    if s.keep_requests:
        full_record(s, p, &record)
        set_request(s, &s.request[s.n_request], m, &record, p)
        s.n_request += 1
    if m.q2d_ns != NOT_QUEUED:
        b.n_matches += 1
        done.word = IN_MATCH


cdef inline void pair_records(
    State *s, Batch *b, int begin, int end, bint plainly, bint of_one_device
) noexcept nogil:
    """Pair some records of a batch, each as pair_item() would.

    The flags are constants at each call: the compiler specialises all calls. `plainly` is the
    result of can_be_plain(), `of_one_device` is that of the batch.

    The steps for a plain record: look for a slot of its group that has its tag or, if it is an
    issue, is free; check that the slot is as expected; write the record to it; add a completion to
    Batch.done; update Load. An issue takes a slot, a completion frees one.
    """
    cdef:
        Done *done = &b.done[b.n_done]
        const Prepared *a = &b.prepared[0] - 1
        const TraceV7 *r = &b.records[begin] - 1    # the loop moves this and `a` first
        const TraceV7 *last = &b.records[end] - 1
        Group *group
        Pending *p
        Load *load = &s.loads[index_of(s, b.records[begin].device) if of_one_device else 0]
        Tally t
        uint64_t action, word, d2c_ns, equal, found, slot, differs, not_simple
        uint64_t completes                      # 0 or 1
        uint64_t if_completion                  # a mask: all bits, or none
        uint32_t home, tags
        bint is_followed, is_simple
        int32_t one_left = 1 - <int32_t> load.now[IN_ALL]   # Tally.more if one is in flight
        lanes now
        uint64_t usual_ns = min(min(s.max_age_ns, s.slow_ns), <uint64_t> MOST_USUAL_NS)
        bint keep_ids = s.keep_ids

    # From here on, usual_ns is the number of usual latencies, which begin at LEAST_USUAL_NS: one
    # comparison then checks both ends. If it is 0, issues take the slow path, too.
    usual_ns = usual_ns - (LEAST_USUAL_NS - 1) if usual_ns >= LEAST_USUAL_NS else 0
    t.all_more = t.all_most = 0
    t.more = t.most = lanes_of(0, 0, 0, 0)
    while r != last:
        r += 1
        a += 1
        prefetch_input(<const uint8_t *> r + AHEAD)     # few at a time: see STEP
        action = r.action
        if not plainly:
            if unlikely(a.is_other):
                if b.category[r - b.records] == 0:      # filtered out, or it has none
                    continue
                if gives_time_only(s, b.category[r - b.records], r):
                    s.now_ns = r.time
                    continue
                if b.category[r - b.records] & (CAT_PAIRED | CAT_REQUEUE):
                    add_tally(s, load, &t, of_one_device)
                done = pair_other(s, b, <int> (r - b.records), a, done)
                one_left = 1 - <int32_t> load.now[IN_ALL]
                continue
            s.now_ns = r.time
        word = a.word
        home = a.place.home
        tags = a.place.tags
        # Asked first, as the processor cannot predict whether this is an issue.
        is_followed = not plainly and is_to_follow(s, r)
        if is_followed and s.follow_issues and action >> 16 & CAT_ISSUE:
            b.item.sector = r.sector
            b.item.key = <uint32_t> word
            follow_issue(s, b, <int> (r - b.records))
        completes = action >> 23 & 1
        if_completion = all_bits_if(completes)
        group = &s.pending.groups[home]
        equal = bytes_equal(group, all_lanes(tags))
        # A completion looks for its tag, an issue for an empty slot. For an issue, the last bit is
        # set if no entry went on to a later group.
        found = bytes_equal(group, all_lanes(tags & <uint32_t> if_completion))
        is_simple = False
        if likely(found & ALL_SLOTS):
            slot = first_bit64(found)
            p = &s.pending.slots[<uint64_t> home * GROUP + slot]
            differs = (p.sector ^ r.sector) | (load_pair(&p.key) ^ word) | (p.bytes ^ r.bytes)
            not_simple = (equal | ~found & 1 << GROUP) & ~if_completion
            is_simple = (
                differs & if_completion | not_simple == 0
                and (d2c_ns := r.time - p.time_ns) - LEAST_USUAL_NS & if_completion < usual_ns
            )
        if unlikely(not is_simple):
            add_tally(s, load, &t, of_one_device)
            done = pair_slowly(s, b, <int> (r - b.records), a, done)
            one_left = 1 - <int32_t> load.now[IN_ALL]
            continue
        done.deferred = deferred_of(d2c_ns, p.bytes)    # only a completion's is kept
        done.word = word
        if is_followed and completes:
            note_completion(s, b, done, r, p)
        done += completes
        p.time_ns = r.time                      # after a completion, the slot is free: never read
        p.sector = r.sector
        store_pair(&p.key, word)                # and the state
        p.bytes = r.bytes
        if keep_ids:
            p.extra = ids_of(r)
        group.tag[slot] = <uint8_t> (tags & ~if_completion)
        if of_one_device:
            t.more = t.more + load_lanes(STEPS[word & 3][completes])
            t.most = most_small_lanes(t.most, t.more)
            if unlikely(<int32_t> lane(t.more, IN_ALL) <= one_left):
                count_busy(load, load.now[IN_ALL] + lane(t.more, IN_ALL), completes, r.time)
        else:
            load = &s.loads[device_of(<uint32_t> word)]
            now = load_lanes(load.now) + load_lanes(STEPS[word & 3][completes])
            store_lanes(load.now, now)
            store_lanes(load.max, most_lanes(now, load_lanes(load.max)))
            if unlikely(load.now[IN_ALL] <= 1):
                count_busy(load, load.now[IN_ALL], completes, r.time)
            t.all_more += 1 | <int64_t> if_completion
            t.all_most = max(t.all_most, t.all_more)
    add_tally(s, load, &t, of_one_device)
    b.n_done = <int> (done - b.done)
    if plainly:
        s.now_ns = b.records[end - 1].time


cdef inline void pair_in_steps(
    State *s, Batch *b, bint plainly, bint of_one_device
) noexcept nogil:
    """Pair a batch, STEP records at a time."""
    cdef int begin = 0
    cdef int end
    while begin < b.n:
        end = min(begin + STEP, b.n)
        prepare_records(s, b, begin, end, plainly, of_one_device)
        prefetch_entries(s, b, begin, end)
        pair_records(s, b, begin, end, plainly, of_one_device)
        begin = end


cdef inline void pair_batch(State *s, Batch *b, bint plainly) noexcept nogil:
    if plainly and b.of_one_device:
        pair_in_steps(s, b, True, True)
    elif plainly:
        pair_in_steps(s, b, True, False)
    elif b.of_one_device:
        pair_in_steps(s, b, False, True)
    else:
        pair_in_steps(s, b, False, False)


cdef void pair_batch_by_baseline(State *s, void *b, bint plainly) noexcept nogil:
    pair_batch(s, <Batch *> b, plainly)


cdef avx2_void pair_batch_by_avx2(State *s, void *b, bint plainly) noexcept nogil:
    pair_batch(s, <Batch *> b, plainly)


cdef inline void follow_time(State *s, const Batch *b, bint plainly) noexcept nogil:
    """Update latest_ns and back_ns, after the records were filtered."""
    cdef int i
    cdef uint64_t before_ns = s.latest_ns
    if plainly or not (s.has_filter or b.seen & CAT_NOTIFY):
        s.latest_ns = max(before_ns, b.latest_ns)
        if likely(s.latest_ns - b.earliest_ns <= LEAST_BACK_NS):
            return
        s.latest_ns = before_ns
    for i in range(b.n):
        if plainly or b.category[i] & ~<uint32_t> CAT_NOTIFY:
            s.latest_ns = max(s.latest_ns, b.records[i].time)
            if unlikely(s.latest_ns - b.records[i].time > LEAST_BACK_NS):
                s.back_ns = max(s.back_ns, s.latest_ns - b.records[i].time)


cdef void pair(State *s, Batch *b, bint plainly) noexcept nogil:
    """Fill Batch.done with the requests that complete in a batch."""
    cdef int i
    b.n_matches = b.n_done = 0
    if b.n == 0:
        return
    if unlikely(not s.has_first):
        for i in range(b.n):
            if plainly or not b.category[i] & CAT_NOTIFY:
                s.first_ns = b.records[i].time
                s.has_first = True
                break
    if plainly and s.with_names:
        count_processes(s, b)
    s.pair_batch(s, b, plainly)
    follow_time(s, b, plainly)
    s.oldest_ns = min(s.oldest_ns, b.earliest_ns)
