# Requests that take more than one issue and one completion.
#
# The kernel may give a request back (a requeue, R) and issue it again. It may complete a request
# in parts, each with the sectors that are left: SCSI first completes 0 bytes of a read that fails,
# then the rest with the error. It may complete a flush twice, and a zone append with another
# sector than it was issued with. The original pairs none of these as one request; State.as_original
# is its way, and this file is for all other runs.
#
# Such a request waits in the table of pending requests like any other, as IS_OTHER instead of
# IS_ISSUE, so that the plain path does not take it. What its slot has no room for is in
# State.history, a table of the same kind and key: the time of the first issue (time_ns), the bytes
# completed so far (bytes), the error of any part, and whether it was requeued (state).

cdef enum:
    MOST_APPENDS = 1024                         # zone appends that wait for their partner
    FLUSH = 3                                   # in layout.OPS
    IS_APPEND = 1 << 3                          # in a key: the sector is a serial number


# --- what is known beyond the slot ------------------------------------------------------------

cdef inline bint is_in_flight(const Pending *p) noexcept nogil:
    return (p.state & IS_ISSUE) != 0 or (
        p.state & (IS_OTHER | IN_FLIGHT) == <uint32_t> (IS_OTHER | IN_FLIGHT)
    )


cdef inline bint is_empty_completion(const Pending *item) noexcept nogil:
    """Whether a completion is of 0 bytes, though it is of a read or a write.

    The kernel sends such a one beside the real completion: of a flush, of a request of multipath,
    of a SCSI request that fails.
    """
    return item.bytes == 0 and item.state & IS_ISSUE == 0 and op_of(cell_in(item.state)) <= 1


cdef Pending *history_of(const State *s, const Pending *p) noexcept nogil:
    return find(&s.history, place_of(s, &s.history, p.sector, p.key), p.sector, p.key)


cdef Pending *begin_history(State *s, Pending *p) noexcept nogil:
    """Make an issue a request of several steps. Room for it has been reserved."""
    cdef Place place = place_of(s, &s.history, p.sector, p.key)
    cdef Pending *h = claim(&s.history, place)
    h.sector = p.sector
    h.key = p.key
    h.time_ns = p.time_ns
    h.bytes = 0
    h.state = 0
    p.state = (p.state & 0x1fff) | IS_OTHER | WAS_ISSUED | IN_FLIGHT
    return h


cdef void end_history(State *s, const Pending *p) noexcept nogil:
    """Forget what is known beyond a slot, if anything is."""
    if p.state & (IS_OTHER | WAS_ISSUED) == <uint32_t> (IS_OTHER | WAS_ISSUED):
        remove(&s.history, history_of(s, p), place_of(s, &s.history, p.sector, p.key))


cdef RetryRow *retry_row_of(State *s, const Pending *p) noexcept nogil:
    """The row of a request's device and operation in this interval. Room has been reserved."""
    cdef unsigned int op = op_of(cell_in(p.state))
    cdef uint32_t *at = &s.carries[device_of(p.key)].retry_row[op]
    cdef RetryRow *row
    if at[0] == 0:
        row = &s.retry_rows[s.n_retry_rows]
        s.n_retry_rows += 1
        at[0] = <uint32_t> s.n_retry_rows
        memset(row, 0, sizeof(RetryRow))
        row.device = s.devices[device_of(p.key)].number
        row.op = op
        moments_reset(&row.f2c_ns)
    return &s.retry_rows[at[0] - 1]


cdef void move_retry_rows(State *s, RetryRow *out) noexcept nogil:
    """Write the interval's rows, and begin a new interval."""
    cdef uint64_t i
    for i in range(s.n_retry_rows):
        out[i] = s.retry_rows[i]
        s.carries[index_of(s, out[i].device)].retry_row[out[i].op] = 0
    s.n_retry_rows = 0


# --- completions ------------------------------------------------------------------------------

cdef void finish_request(
    State *s, Batch *b, int i, const Pending *p, uint64_t completed_ns, uint32_t error
) noexcept nogil:
    """A match: leave it to account(), and take the request out."""
    cdef const Pending *h = NULL
    cdef RetryRow *row
    cdef uint64_t first_ns = p.time_ns
    cdef unsigned int op = op_of(cell_in(p.state))
    cdef Match *m = &b.match[b.n_matches]
    b.n_matches += 1
    m.device = device_of(p.key)
    m.cell = cell_in(p.state)
    m.size_bytes = p.bytes
    m.error = error
    m.d2c_ns = completed_ns - p.time_ns
    m.q2d_ns = NOT_QUEUED
    if p.state & IS_OTHER:
        h = history_of(s, p)
        first_ns = h.time_ns
        m.size_bytes += h.bytes
        if error == 0:
            m.error = h.state >> ERROR_SHIFT
        if h.state & WAS_REQUEUED:
            row = retry_row_of(s, p)
            row.requests += 1
            moments_add(&row.f2c_ns, completed_ns - first_ns)
    if is_in_flight(p):
        leave(s, m.device, op, completed_ns)
    else:                                       # it failed after it had been given back
        m.d2c_ns = completed_ns - first_ns
        s.carries[m.device].ns[op] -= m.d2c_ns  # it was in flight until then, and that is counted
    if s.follow_matches:
        note_match(s, m, b, i, p, True)
    end_history(s, p)
    remove(&s.pending, p, place_of(s, &s.pending, p.sector, p.key))


cdef Pending *find_pending(State *s, uint64_t sector, uint32_t key) noexcept nogil:
    """What is pending with a sector and key, in the table where it is paired; NULL: nothing is."""
    cdef Pending item
    cdef Pending *p
    item.sector = sector
    item.key = key
    item.state = 0
    set_hash(s, &item)
    p = find(&s.pending, place_in(&s.pending, item.at, item.state), sector, key)
    if p == NULL and s.overtaken.used != 0 and may_be_overtaken(s, &item):
        p = bring_back(s, &item)
    return p


cdef Pending *advance(State *s, Pending *p, uint32_t completed_bytes) noexcept nogil:
    """Part of a request has been completed: it goes on at the sector behind that."""
    cdef uint64_t queued_ns
    cdef Pending rest = p[0]
    cdef Pending h
    cdef Pending *other
    if p.state & IS_ISSUE:
        begin_history(s, p)
        rest.state = p.state
    h = history_of(s, p)[0]
    end_history(s, p)
    remove(&s.pending, p, place_of(s, &s.pending, p.sector, p.key))
    rest.sector += completed_bytes >> 9
    rest.bytes -= completed_bytes
    other = find_pending(s, rest.sector, rest.key)
    if other != NULL:                           # of the same sectors: it must be stale
        drop_pending(s, other)
    if s.with_queue and take_queued(s, h.sector, queue_key(h.key) | ISSUED, &queued_ns):
        set_queued(s, rest.sector, queue_key(rest.key) | ISSUED, queued_ns)
    h.sector = rest.sector
    h.bytes += completed_bytes
    claim(&s.history, place_of(s, &s.history, h.sector, h.key))[0] = h
    rest.state = (rest.state & ~<uint32_t> 0xff) | tag_of(hash_of(s, rest.sector, rest.key))
    p = claim(&s.pending, place_of(s, &s.pending, rest.sector, rest.key))
    p[0] = rest
    note_age(s, p)
    return p


cdef void drop_pending(State *s, const Pending *p) noexcept nogil:
    """Take a record out that gets no partner any more."""
    if s.keep_details:
        release(s, p.at)
    abandon(s, p, s.now_ns)
    remove(&s.pending, p, place_of(s, &s.pending, p.sector, p.key))


cdef void complete_part(
    State *s, Batch *b, int i, Pending *p, uint64_t completed_ns, uint32_t bytes, uint32_t error
) noexcept nogil:
    """A completion of all or a part of a request in flight, or of none of it.

    What was read before the completion that it follows is looked for behind each part.
    """
    cdef Pending *h
    cdef Pending *next_part
    cdef uint32_t next_bytes
    while bytes < p.bytes and not p.key & CAT_PC:
        if error != 0:
            h = begin_history(s, p) if p.state & IS_ISSUE else history_of(s, p)
            h.state = (h.state & 0xffff) | error << ERROR_SHIFT
        if bytes == 0:
            return
        next_part = find_pending(s, p.sector + (bytes >> 9), p.key)
        if next_part == NULL or next_part.state & (IS_ISSUE | IS_OTHER) or (
            next_part.time_ns < completed_ns
        ):
            advance(s, p, bytes)
            return
        completed_ns = next_part.time_ns
        error = next_part.state >> ERROR_SHIFT
        s.orphans -= next_part.state & IS_COUNTED == 0
        next_bytes = next_part.bytes
        drop_pending(s, next_part)
        p = advance(s, p, bytes)
        bytes = next_bytes
    finish_request(s, b, i, p, completed_ns, error)


# --- the steps --------------------------------------------------------------------------------

cdef void requeue(State *s, Pending *p, uint64_t requeued_ns) noexcept nogil:
    """A request in flight is requeued: until it is issued again it is not in flight."""
    cdef uint32_t device = device_of(p.key)
    cdef unsigned int op = op_of(cell_in(p.state))
    cdef Pending *h = begin_history(s, p) if p.state & IS_ISSUE else history_of(s, p)
    h.state |= WAS_REQUEUED
    leave(s, device, op, requeued_ns)
    s.carries[device].ns[op] += requeued_ns - p.time_ns
    s.devices[device].was_busy = True
    retry_row_of(s, p).requeues += 1
    p.state &= ~<uint32_t> IN_FLIGHT
    p.time_ns = requeued_ns
    note_age(s, p)


cdef void issue_again(State *s, const Batch *b, int i, Pending *p) noexcept nogil:
    cdef const Pending *item = &b.item[i]
    p.state = (p.state & ~<uint32_t> CELL_BITS) | (item.state & CELL_BITS) | IN_FLIGHT
    p.time_ns = item.time_ns
    p.bytes = item.bytes
    enter(s, device_of(p.key), op_of(cell_in(p.state)), item.time_ns)
    note_age(s, p)
    if s.keep_details:
        copy_detail(&s.kept[p.at].detail, b.record[i], b.category[i], b.first + i)


cdef void replace_pending(State *s, Pending *p, const Batch *b, int i) noexcept nogil:
    """Have a record take the place of another one with its key."""
    if s.keep_details:
        release(s, p.at)
    abandon(s, p, s.now_ns)
    set_pending(s, p, b, i, False, False)


cdef bint pair_step(State *s, Batch *b, int i, Pending *p) noexcept nogil:
    """Pair a record with the pending one of its key, where pair_items() has found no plain match.

    False: they are no pair, as the original sees it too.
    """
    cdef const Pending *item = &b.item[i]
    cdef bint is_completion = (item.state & IS_COMPLETE) != 0 and (
        item.state & IS_ISSUE == 0 or is_in_flight(p)
    )
    cdef uint64_t part_ns, first_try_ns
    cdef uint32_t bytes, error

    if is_completion:
        if is_in_flight(p) and p.time_ns <= item.time_ns:
            if not (is_empty_completion(item) and op_of(cell_in(p.state)) == FLUSH):
                complete_part(s, b, i, p, item.time_ns, item.bytes, item.state >> ERROR_SHIFT)
            return True
        if is_empty_completion(item):           # sent beside the real one
            return True
        if not p.state & IS_OTHER or p.time_ns > item.time_ns:
            return False
        if p.state & WAS_ISSUED:
            finish_request(s, b, i, p, item.time_ns, item.state >> ERROR_SHIFT)
        else:                                   # requeued, and the issue has not been seen
            replace_pending(s, p, b, i)
        return True

    if p.state & IS_OTHER and not p.state & IN_FLIGHT:
        if p.state & WAS_ISSUED:
            if item.time_ns < p.time_ns:
                return False
            issue_again(s, b, i, p)
            return True
        first_try_ns = p.time_ns
        replace_pending(s, p, b, i)
        if item.time_ns <= first_try_ns:        # the requeue was read before the issue
            requeue(s, p, first_try_ns)
        return True
    if p.state & IS_COMPLETE and not p.state & IS_ISSUE and p.time_ns >= item.time_ns:
        part_ns = p.time_ns
        bytes = p.bytes
        error = p.state >> ERROR_SHIFT
        if bytes != 0 or item.bytes == 0:
            s.orphans -= p.state & IS_COUNTED == 0
            replace_pending(s, p, b, i)
            complete_part(s, b, i, p, part_ns, bytes, error)
        else:
            replace_pending(s, p, b, i)
        return True
    return False


cdef void take_requeue(State *s, const Batch *b, int i) noexcept nogil:
    """A requeue: the request is in flight no more. Repeats of one are ignored."""
    cdef const Pending *item = &b.item[i]
    cdef Pending *p = find_pending(s, item.sector, item.key)
    if p != NULL and p.time_ns < item.time_ns and item.time_ns - p.time_ns > s.max_age_ns:
        s.evicted += 1
        drop_pending(s, p)
        p = NULL
    if p == NULL:                               # it may be read before its issue
        if all_pending(s) == s.max_pending:
            evict_oldest(s)
        p = claim(&s.pending, place_in(&s.pending, item.at, item.state))
        p[0] = item[0]
        if s.keep_details:
            p.at = keep(s, b.record[i], b.category[i], b.first + i)
        note_age(s, p)
    elif is_in_flight(p) and p.time_ns <= item.time_ns:
        requeue(s, p, item.time_ns)


# --- zone appends -----------------------------------------------------------------------------
#
# Several may be in flight to one zone, all issued with the sector where the zone begins; the
# completion has the sector that was written. Each gets a serial number, which takes the sector's
# place in the table. A completion belongs to the issue of the same device and size whose zone
# begins last before its sector, of several to the first one.

cdef bint is_partner(const Append *a, const Pending *item, uint32_t kind) noexcept nogil:
    if a.kind != kind or a.key != item.key or a.bytes != item.bytes:
        return False
    if kind == IS_ISSUE:
        return a.sector <= item.sector
    if kind == IS_COMPLETE:
        return a.sector >= item.sector
    return a.sector == item.sector


cdef Append *find_append(
    State *s, const Pending *item, uint32_t kind, uint64_t *serial
) noexcept nogil:
    """The one of a kind that an item belongs to, and its serial number. NULL: there is none."""
    cdef uint64_t n
    cdef Append *a
    cdef Append *best = NULL
    for n in range(s.first_append, s.next_append):
        a = &s.appends[n % MOST_APPENDS]
        if is_partner(a, item, kind) and (
            best == NULL
            or (a.sector > best.sector if kind == IS_ISSUE else a.sector < best.sector)
        ):
            best = a
            serial[0] = n
    return best


cdef void set_append(State *s, Pending *item, uint64_t serial) noexcept nogil:
    """Put the serial number in the sector's place."""
    item.sector = serial
    item.key |= IS_APPEND
    item.state &= ~<uint32_t> 0xff
    set_hash(s, item)


cdef void forget_appends(State *s) noexcept nogil:
    """Let the ring begin with one that waits."""
    while s.first_append < s.next_append and s.appends[s.first_append % MOST_APPENDS].kind == 0:
        s.first_append += 1


cdef bint take_append(State *s, Batch *b, int i) noexcept nogil:
    """Make an issue or completion of a zone append one that can be paired like any other."""
    cdef Pending *item = &b.item[i]
    cdef uint64_t serial = s.next_append
    cdef uint32_t kind = IS_ISSUE if b.category[i] & CAT_ISSUE else IS_COMPLETE
    cdef Append *a = find_append(s, item, kind ^ (IS_ISSUE | IS_COMPLETE), &serial)
    if a != NULL:
        a.kind = 0
    elif kind == IS_ISSUE:
        a = find_append(s, item, IS_OTHER, &serial)
        if a != NULL:
            a.kind = IS_ISSUE                   # issued again
    if a == NULL:
        s.next_append += 1
        if s.next_append - s.first_append > MOST_APPENDS:
            s.first_append += 1
        a = &s.appends[serial % MOST_APPENDS]
        a.sector = item.sector
        a.key = item.key
        a.bytes = item.bytes
        a.kind = kind
    forget_appends(s)
    item.state = state_of(
        b.category[i], cell_of(b.category[i], item.bytes), b.record[i].error
    )
    set_append(s, item, serial)
    return True


cdef bint find_requeued_append(State *s, Batch *b, int i) noexcept nogil:
    """Let a requeue find its zone append. False: its issue was not seen."""
    cdef uint64_t serial = 0
    cdef Append *a = find_append(s, &b.item[i], IS_ISSUE, &serial) if s.appends != NULL else NULL
    if a == NULL:
        return False
    a.kind = IS_OTHER
    set_append(s, &b.item[i], serial)
    return True
