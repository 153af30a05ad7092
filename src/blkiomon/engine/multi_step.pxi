# Pairs requests that take more than one issue and one completion.
#
# The kernel may requeue a request (R) and issue it again. It may complete a request in parts; each
# completion has the sector where its part begins. SCSI first completes 0 bytes of a read that
# fails, then the rest with the error. The kernel may complete a flush twice, and a zone append with
# another sector than that of its issue. The original does not pair any of these as one request;
# with as_original, this file pairs nothing.
#
# Such a request is an entry of State.pending with IS_MULTI_STEP instead of IS_ISSUE. pair_item()
# therefore hands it to pair_step(). A second entry with the same key, in the hash table
# State.history, holds
#     time_ns   the time of the first issue
#     bytes     the bytes completed so far
#     state     WAS_REQUEUED, and the error of any part, from ERROR_SHIFT on
#     extra     how often the request was requeued
#
# Entry points: pair_step, from pair_item() if two records do not simply match; handle_append, from
# pair_other(); handle_requeue and find_requeued_append, from handle_other(); move_retry_rows, from
# Engine.snapshot(). Also is_in_flight, is_empty_completion, history_of, end_history,
# first_issue_ns and find_pending. Never allocates.

cdef enum:
    MOST_APPENDS = 1024                         # zone appends that wait for their other record
    FLUSH = 3                                   # in layout.OPS
    IS_APPEND = 1 << 3                          # in a key: the sector is a serial number


# --- entries of several steps ------------------------------------------------------------------

cdef inline bint is_in_flight(const Pending *p) noexcept nogil:
    return p.state & (IS_ISSUE | IS_PRESUMED) == IS_ISSUE or (
        p.state & (IS_MULTI_STEP | IN_FLIGHT) == <uint32_t> (IS_MULTI_STEP | IN_FLIGHT)
    )


cdef inline bint is_empty_completion(const Pending *item) noexcept nogil:
    """Whether an item is a completion of 0 bytes, and its categories say read or write.

    The kernel sends such a completion in addition to the real one: for flushes (without FLUSH),
    requests of multipath, and SCSI requests that fail.
    """
    return item.bytes == 0 and item.state & IS_ISSUE == 0 and op_of(cell_in(item.state)) <= 1


cdef Pending *history_of(const State *s, const Pending *p) noexcept nogil:
    return find(&s.history, place_of(s, &s.history, p.sector, p.key), p.sector, p.key)


cdef Pending *begin_history(State *s, Pending *p) noexcept nogil:
    """Turn an issue into a request of several steps.

    Its time and sector will change. So with keep_ids, its full record is stored now.
    """
    cdef Place place = place_of(s, &s.history, p.sector, p.key)
    cdef Pending *h = reserve_slot(&s.history, place)
    cdef Record record
    h.sector = p.sector
    h.key = p.key
    h.time_ns = p.time_ns
    h.bytes = 0
    h.state = 0
    h.extra = 0
    if s.keep_ids and not p.state & IS_STORED:
        full_record(s, p, &record)
        store_record(s, p).detail.record = record
    # All bits below IS_ISSUE stay.
    p.state = (p.state & 0x1fff) | IS_MULTI_STEP | WAS_ISSUED | IN_FLIGHT
    return h


cdef void end_history(State *s, const Pending *p) noexcept nogil:
    """Remove a request's entry from State.history, if there is one."""
    if p.state & (IS_MULTI_STEP | WAS_ISSUED) == <uint32_t> (IS_MULTI_STEP | WAS_ISSUED):
        remove_entry(&s.history, history_of(s, p), place_of(s, &s.history, p.sector, p.key))


cdef RetryRow *retry_row_of(State *s, const Pending *p) noexcept nogil:
    """The row of a request's device and operation in this interval; added if there is none."""
    cdef unsigned int op = op_of(cell_in(p.state))
    cdef uint32_t *at = &s.integrals[device_of(p.key)].retry_row[op]
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
    """Copy the interval's rows to out, and begin a new interval."""
    cdef uint64_t i
    for i in range(s.n_retry_rows):
        out[i] = s.retry_rows[i]
        put_low_words_first(&out[i].f2c_ns)
        s.integrals[index_of(s, out[i].device)].retry_row[out[i].op] = 0
    s.n_retry_rows = 0


cdef inline uint64_t first_issue_ns(const State *s, const Pending *issue) noexcept nogil:
    """When a request was issued for the first time."""
    return history_of(s, issue).time_ns if issue.state & IS_MULTI_STEP else issue.time_ns


# --- completions ------------------------------------------------------------------------------

cdef void complete_multi_step(
    State *s, Batch *b, int i, const Pending *p, uint64_t completed_ns, uint32_t error
) noexcept nogil:
    """Add a match to the batch, for account(), and remove the request."""
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
    if p.state & IS_MULTI_STEP:
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
        end_flight(s, m.device, op, completed_ns)
    else:                                       # it failed after a requeue, before another issue
        m.d2c_ns = completed_ns - first_ns
        # integrate_in_flight() will add this D2C; requeue() has added the time in flight.
        s.integrals[m.device].ns[op] -= m.d2c_ns
    if s.follow_matches:
        log_optional(s, m, b, i, p, True, completed_ns)
    end_history(s, p)
    remove_entry(&s.pending, p, place_of(s, &s.pending, p.sector, p.key))


cdef Pending *find_pending(State *s, uint64_t sector, uint32_t key) noexcept nogil:
    """The pending record with a sector and key, or NULL."""
    return find(&s.pending, place_of(s, &s.pending, sector, key), sector, key)


cdef Pending *advance(State *s, Pending *p, uint32_t completed_bytes) noexcept nogil:
    """Move a request to its first sector that is not completed; returns its new entry."""
    cdef Pending rest, h, queued
    cdef Pending *other
    if p.state & IS_ISSUE:
        begin_history(s, p)
    rest = p[0]
    h = history_of(s, p)[0]
    end_history(s, p)
    remove_entry(&s.pending, p, place_of(s, &s.pending, p.sector, p.key))
    rest.sector += completed_bytes >> 9
    rest.bytes -= completed_bytes
    other = find_pending(s, rest.sector, rest.key)
    if other != NULL:                           # stale: it covers the same sectors
        drop_pending(s, other)
    if s.with_queue and take_queued(s, h.sector, queue_key(h.key) | ISSUED, &queued):
        set_queued(
            s, rest.sector, queue_key(rest.key) | ISSUED, queued.time_ns, queued.bytes
        )
    h.sector = rest.sector
    h.bytes += completed_bytes
    reserve_slot(&s.history, place_of(s, &s.history, h.sector, h.key))[0] = h
    p = reserve_slot(&s.pending, place_of(s, &s.pending, rest.sector, rest.key))
    p[0] = rest
    track_age(s, p)
    return p


cdef void complete_part(
    State *s, Batch *b, int i, Pending *p, uint64_t completed_ns, uint32_t bytes, uint32_t error
) noexcept nogil:
    """Complete a request in flight, or a part of it, or 0 bytes of it.

    Completions of later parts may have been read before this one. They are pending: after each
    part, the next one is looked up among them. A PC request (passthrough) is never completed in
    parts.
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
        if next_part == NULL or next_part.state & (IS_ISSUE | IS_MULTI_STEP) or (
            next_part.time_ns < completed_ns
        ):
            advance(s, p, bytes)
            return
        completed_ns = next_part.time_ns
        error = next_part.state >> ERROR_SHIFT
        s.completions_without_issue -= next_part.state & IS_COUNTED == 0
        next_bytes = next_part.bytes
        drop_pending(s, next_part)
        p = advance(s, p, bytes)
        bytes = next_bytes
    complete_multi_step(s, b, i, p, completed_ns, error)


# --- the steps --------------------------------------------------------------------------------

cdef void requeue(State *s, Pending *p, uint64_t requeued_ns) noexcept nogil:
    """Requeue a request in flight. It is not in flight until it is issued again."""
    cdef uint32_t device = device_of(p.key)
    cdef unsigned int op = op_of(cell_in(p.state))
    cdef Pending *h = begin_history(s, p) if p.state & IS_ISSUE else history_of(s, p)
    h.state |= WAS_REQUEUED
    h.extra += 1
    end_flight(s, device, op, requeued_ns)
    s.integrals[device].ns[op] += requeued_ns - p.time_ns
    s.devices[device].was_busy = True
    retry_row_of(s, p).requeues += 1
    p.state &= ~<uint32_t> IN_FLIGHT
    p.time_ns = requeued_ns
    track_age(s, p)


cdef void issue_again(State *s, const Batch *b, int i, Pending *p) noexcept nogil:
    cdef const Pending *item = &b.item
    p.state = (p.state & ~<uint32_t> CELL_BITS) | (item.state & CELL_BITS) | IN_FLIGHT
    p.time_ns = item.time_ns
    p.bytes = item.bytes
    begin_flight(s, device_of(p.key), op_of(cell_in(p.state)), item.time_ns)
    track_age(s, p)
    if p.state & IS_STORED:
        copy_detail(&s.stored[p.extra].detail, &b.records[i], b.category[i], b.first + i)


cdef bint pair_step(State *s, Batch *b, int i, Pending *p) noexcept nogil:
    """Pair a record with the pending one of its key, if the two do not simply match.

    Returns False for a mismatch: the two do not belong to one request.
    """
    cdef const Pending *item = &b.item
    cdef bint is_completion = (item.state & IS_COMPLETE) != 0 and (
        item.state & IS_ISSUE == 0 or is_in_flight(p)
    )
    cdef uint64_t part_ns, requeued_ns
    cdef uint32_t bytes, error

    if is_completion:
        if is_in_flight(p) and p.time_ns <= item.time_ns:
            # The kernel also sends an empty completion of a flush: it is ignored.
            if not (is_empty_completion(item) and op_of(cell_in(p.state)) == FLUSH):
                complete_part(s, b, i, p, item.time_ns, item.bytes, item.state >> ERROR_SHIFT)
            return True
        if is_empty_completion(item):           # the kernel also sends the real one
            return True
        if not p.state & IS_MULTI_STEP or p.time_ns > item.time_ns:
            return False
        if p.state & WAS_ISSUED:
            complete_multi_step(s, b, i, p, item.time_ns, item.state >> ERROR_SHIFT)
        else:                                   # a requeue without its issue
            replace_pending(s, p, b, i)
        return True

    if p.state & IS_MULTI_STEP and not p.state & IN_FLIGHT:     # an issue after a requeue
        if p.state & WAS_ISSUED:
            if item.time_ns < p.time_ns:
                return False
            issue_again(s, b, i, p)
            return True
        requeued_ns = p.time_ns
        replace_pending(s, p, b, i)
        if item.time_ns <= requeued_ns:         # the requeue was read before the issue
            requeue(s, p, requeued_ns)
        return True
    if p.state & IS_COMPLETE and not p.state & IS_ISSUE and p.time_ns >= item.time_ns:
        # A completion that was read before its issue, and is of another size.
        part_ns = p.time_ns
        bytes = p.bytes
        error = p.state >> ERROR_SHIFT
        if bytes != 0 or item.bytes == 0:
            s.completions_without_issue -= p.state & IS_COUNTED == 0
            replace_pending(s, p, b, i)
            complete_part(s, b, i, p, part_ns, bytes, error)
        else:
            replace_pending(s, p, b, i)
        return True
    return False


cdef void handle_requeue(State *s, const Batch *b, int i) noexcept nogil:
    """Handle a requeue (R). Repeated ones are ignored."""
    cdef const Pending *item = &b.item
    cdef Pending *p = find_pending(s, item.sector, item.key)
    if p != NULL and p.time_ns < item.time_ns and item.time_ns - p.time_ns > s.max_age_ns:
        evict(s, p)
        p = NULL
    resume_flight(s, p, item.time_ns)
    if p == NULL:                               # its issue may be read later
        evict_if_full(s)
        p = reserve_slot(&s.pending, place_of(s, &s.pending, item.sector, item.key))
        p[0] = item[0]
        store_item(s, p, b, i)
        track_age(s, p)
    elif is_in_flight(p) and p.time_ns <= item.time_ns:
        requeue(s, p, item.time_ns)


# --- zone appends -----------------------------------------------------------------------------
#
# Several appends to one zone may be in flight. All are issued with the zone's first sector; a
# completion has the sector that was written. So each append gets a serial number, which replaces
# the sector in State.pending. A completion belongs to the nearest zone that begins at or before its
# sector. It completes the first issue to this zone that has the same device and size, and is still
# pending. Appends that wait for their other record are in a ring, State.appends.

cdef bint is_partner(
    State *s, uint64_t serial, const Pending *item, uint32_t kind
) noexcept nogil:
    """Whether a waiting append is of a kind and may belong to an item."""
    cdef const ZoneAppend *a = &s.appends[serial % MOST_APPENDS]
    cdef const Pending *p
    if a.kind != kind or a.key != item.key or a.bytes != item.bytes:
        return False
    p = find_pending(s, serial, a.key | IS_APPEND)
    if p == NULL or max(p.time_ns, item.time_ns) - min(p.time_ns, item.time_ns) > s.max_age_ns:
        return False                            # it was given up, or will be
    if kind == APPEND_ISSUED:
        return a.sector <= item.sector
    if kind == APPEND_COMPLETED:
        return a.sector >= item.sector
    return a.sector == item.sector


cdef ZoneAppend *find_append(
    State *s, const Pending *item, uint32_t kind, uint64_t *serial
) noexcept nogil:
    """Find the waiting append of a kind for an item, and set *serial. Returns NULL without one."""
    cdef uint64_t n
    cdef ZoneAppend *a
    cdef ZoneAppend *best = NULL
    for n in range(s.first_append, s.next_append):
        a = &s.appends[n % MOST_APPENDS]
        if is_partner(s, n, item, kind) and (
            best == NULL
            or (a.sector > best.sector if kind == APPEND_ISSUED else a.sector < best.sector)
        ):
            best = a
            serial[0] = n
    return best


cdef void set_append(Pending *item, uint64_t serial) noexcept nogil:
    """Replace an item's sector by a serial number."""
    item.sector = serial
    item.key |= IS_APPEND


cdef void advance_appends(State *s) noexcept nogil:
    """Drop the appends at the front of the ring that no longer wait."""
    while s.first_append < s.next_append and (
        s.appends[s.first_append % MOST_APPENDS].kind == APPEND_DONE
    ):
        s.first_append += 1


cdef void handle_append(State *s, Batch *b, int i) noexcept nogil:
    """Give an issue or completion of a zone append its serial number."""
    cdef Pending *item = &b.item
    cdef uint64_t serial = s.next_append
    cdef uint32_t kind = APPEND_ISSUED if b.category[i] & CAT_ISSUE else APPEND_COMPLETED
    cdef uint32_t partner = APPEND_COMPLETED if kind == APPEND_ISSUED else APPEND_ISSUED
    cdef ZoneAppend *a = find_append(s, item, partner, &serial)
    if a != NULL:
        a.kind = APPEND_DONE
    elif kind == APPEND_ISSUED:
        a = find_append(s, item, APPEND_REQUEUED, &serial)
        if a != NULL:
            a.kind = APPEND_ISSUED              # issued again
    if a == NULL:
        s.next_append += 1
        if s.next_append - s.first_append > MOST_APPENDS:
            s.first_append += 1
        a = &s.appends[serial % MOST_APPENDS]
        a.sector = item.sector
        a.key = item.key
        a.bytes = item.bytes
        a.kind = kind
    advance_appends(s)
    set_append(item, serial)


cdef bint find_requeued_append(State *s, Batch *b, int i) noexcept nogil:
    """Give a requeue of a zone append its serial number. Returns False if its issue is unknown."""
    cdef uint64_t serial = 0
    cdef ZoneAppend *a = NULL
    if s.appends != NULL:
        a = find_append(s, &b.item, APPEND_ISSUED, &serial)
    if a == NULL:
        return False
    a.kind = APPEND_REQUEUED
    set_append(&b.item, serial)
    return True
