# Collects slow requests, and finds those that hang.
#
# A request is slow if the time from its first issue to its completion exceeds State.slow_ns: a
# request that the kernel requeued counts from its first issue. With keep_slow, pair_records() hands
# a match that took longer to the slow path, where log_optional() compares it. A request that hangs
# is still pending after some time. A walk over the pending records finds such requests and marks
# them, so that each is reported once. It is reported again when it completes.
#
# Entry points: completed_slowly and set_slow, from log_optional(); find_hanging, oldest_first (for
# qsort) and set_hanging, from Engine.take_hanging(). Never allocates.

cdef inline bint completed_slowly(
    const State *s, const Pending *issue, uint64_t completed_ns
) noexcept nogil:
    """Whether to report a request that completes."""
    return (
        completed_ns - first_issue_ns(s, issue) > s.slow_ns or issue.state & WAS_REPORTED != 0
    )


cdef void set_slow(
    const State *s, Slow *slow, const Match *m, const Record *record, const Pending *issue,
    uint64_t begun_ns,
) noexcept nogil:
    """Write a slow request, except until_ns. begun_ns: when the queue time ended and D2C began."""
    cdef const Pending *queued = find_queued(s, issue.sector, issue.key)
    set_request(s, &slow.request, m, record, issue)
    if queued != NULL and queued.time_ns <= begun_ns:
        slow.request.q2d_ns = <double> (begun_ns - queued.time_ns)
        slow.request.pid = queued.bytes
    slow.requeues = history_of(s, issue).extra if issue.state & IS_MULTI_STEP else 0
    slow.is_pending = False


# --- requests that hang -----------------------------------------------------------------------

cdef struct Hanging:
    const Pending *p
    uint32_t device                             # major:minor; an index depends on earlier records

cdef int oldest_first(const void *a, const void *b) noexcept nogil:
    """A total order that depends on the records alone: time, device, sector, direction."""
    cdef const Hanging *one = <const Hanging *> a
    cdef const Hanging *other = <const Hanging *> b
    if one.p.time_ns != other.p.time_ns:
        return -1 if one.p.time_ns < other.p.time_ns else 1
    if one.device != other.device:
        return -1 if one.device < other.device else 1
    if one.p.sector != other.p.sector:
        return -1 if one.p.sector < other.p.sector else 1
    return -1 if one.p.key & 0x3ff < other.p.key & 0x3ff else 1


cdef uint64_t find_hanging(State *s, uint64_t before_ns, Hanging *out) noexcept nogil:
    """Find the requests that were first issued before a time, unless they are marked.

    Marks them and writes them to out, unless it is NULL. Returns how many there are.
    """
    cdef Cursor c = Cursor(0, 0)
    cdef uint64_t n = 0
    cdef Pending *p
    while (p := next_entry(&s.pending, &c)) != NULL:
        if not p.state & IS_ISSUE and (
            p.state & (IS_MULTI_STEP | WAS_ISSUED) != <uint32_t> (IS_MULTI_STEP | WAS_ISSUED)
        ):
            continue
        if first_issue_ns(s, p) < before_ns and p.state & WAS_REPORTED == 0:
            if out != NULL:
                p.state |= WAS_REPORTED
                out[n] = Hanging(p, s.devices[device_of(p.key)].number)
            n += 1
    return n


cdef void set_hanging(State *s, Slow *slow, const Pending *p, uint64_t now_ns) noexcept nogil:
    """Write a pending request as a slow one. d2c_ns is its age since the latest issue."""
    cdef const Pending *h = NULL
    cdef Record record
    cdef Match m
    full_record(s, p, &record)
    if p.state & IS_MULTI_STEP:
        h = history_of(s, p)
    m.d2c_ns = now_ns - record.time_ns if record.time_ns < now_ns else 0
    m.q2d_ns = NOT_QUEUED
    m.cell = cell_in(p.state)
    m.size_bytes = p.bytes + (h.bytes if h != NULL else 0)
    m.error = h.state >> ERROR_SHIFT if h != NULL else 0
    set_slow(s, slow, &m, &record, p, record.time_ns)
    slow.until_ns = now_ns
    slow.is_pending = True
