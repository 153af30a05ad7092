# Handles records that are neither issue nor completion: queue records, process names, the time of
# day, driver data. Hands requeues on to multi_step.pxi.
#
# A queue record (Q) waits in the hash table State.queued for the issue of the same device, sector
# and direction. FS and PC are not part of its key, as the kernel does not set them in queue
# records. At the issue, the queue record's key gets the bit ISSUED, and it waits for the match. If
# a bio is merged into the back of a request (M), its queue record is dropped. If it is merged into
# the front (F), the request begins at its sector, and its queue time counts. An issue drops all
# queue records inside its sectors. In State.queued, Pending.bytes is the pid. Most sectors without
# a queue record are found by a counting Bloom filter of one hash, State.queued_near. With
# as_original, neither queue records nor processes count.
#
# Processes are counted by pid, in an open hash table with linear probing.
#
# Entry points: handle_other, follow_issue and count_processes, from pairing; queue_time, for each
# match; queue_key, take_queued and set_queued, from advance(); find_queued, from set_slow();
# drop_old_queued, from evict_by_age(); reset_processes and by_pid, from Engine.snapshot(). Never
# allocates.

cdef enum:
    # In a queue record's key: its issue was read. No part of the hash, so the slot stays the same.
    ISSUED = 1 << 2
    MOST_PROCESSES = 1 << 16                    # counted separately in an interval


cdef inline uint32_t queue_key(uint32_t key) noexcept nogil:
    """The key of a request's queue record."""
    return key & ~<uint32_t> (CAT_FS | CAT_PC)


cdef inline uint32_t *near(State *s, uint64_t sector) noexcept nogil:
    """The number of queue records whose sectors have the same bits 3 to 12."""
    return &s.queued_near[(sector >> 3) % QUEUED_NEAR]


cdef inline bint may_be_queued(State *s, uint64_t sector) noexcept nogil:
    """Whether State.queued may have a record of a sector: asks the Bloom filter."""
    return near(s, sector)[0] != 0


cdef inline void drop_queued(State *s, const Pending *p, Place place) noexcept nogil:
    s.n_waiting -= not p.key & ISSUED
    near(s, p.sector)[0] -= 1
    remove_entry(&s.queued, p, place)


cdef void drop_old_queued(State *s) noexcept nogil:
    """Drop queue records that are older than max_age_ns as of the latest record."""
    cdef Cursor c = Cursor(0, 0)
    cdef const Pending *p
    while (p := next_entry(&s.queued, &c)) != NULL:
        if p.time_ns < s.now_ns and s.now_ns - p.time_ns > s.max_age_ns:
            drop_queued(s, p, place_of(s, &s.queued, p.sector, p.key))


cdef void drop_older_half(State *s) noexcept nogil:
    """Drop the queue records up to the mean of their times: about half, and at least one."""
    cdef Cursor c = Cursor(0, 0)
    cdef uint64_t mean_ns
    cdef uint128_t sum_ns = 0
    cdef const Pending *p
    while (p := next_entry(&s.queued, &c)) != NULL:
        sum_ns += p.time_ns
    mean_ns = <uint64_t> (sum_ns // s.queued.used)
    c = Cursor(0, 0)
    while (p := next_entry(&s.queued, &c)) != NULL:
        if p.time_ns <= mean_ns:
            drop_queued(s, p, place_of(s, &s.queued, p.sector, p.key))


cdef void set_queued(
    State *s, uint64_t sector, uint32_t key, uint64_t time_ns, uint32_t pid
) noexcept nogil:
    """Store a queue record, in place of an older one with the same key."""
    cdef Place place = place_of(s, &s.queued, sector, key)
    cdef Pending *p = find(&s.queued, place, sector, key)
    if p == NULL:
        if s.queued.used >= s.max_pending:
            drop_older_half(s)
        p = reserve_slot(&s.queued, place)
        p.sector = sector
        p.key = key
        s.n_waiting += not key & ISSUED
        near(s, sector)[0] += 1
    p.time_ns = time_ns
    p.bytes = pid


cdef const Pending *find_queued(const State *s, uint64_t sector, uint32_t key) noexcept nogil:
    """The queue record of a pending issue with this key, or NULL."""
    key = queue_key(key) | ISSUED
    if not s.with_queue:
        return NULL
    return find(&s.queued, place_of(s, &s.queued, sector, key), sector, key)


cdef bint take_queued(State *s, uint64_t sector, uint32_t key, Pending *taken) noexcept nogil:
    """Move a queue record to *taken. Returns False if there is none."""
    cdef Place place
    cdef const Pending *p
    if not may_be_queued(s, sector):
        return False
    place = place_of(s, &s.queued, sector, key)
    p = find(&s.queued, place, sector, key)
    if p == NULL:
        return False
    taken[0] = p[0]
    drop_queued(s, p, place)
    return True


cdef bint mark_issued(
    State *s, uint64_t sector, uint32_t key, uint64_t issued_ns
) noexcept nogil:
    """Give a queue record the key under which it waits for the match of its issue.

    Returns False if there is none from before the issue.
    """
    cdef Place place
    cdef Pending *p
    cdef const Pending *older
    if not may_be_queued(s, sector):
        return False
    place = place_of(s, &s.queued, sector, key)
    p = find(&s.queued, place, sector, key)
    if p == NULL or p.time_ns > issued_ns:
        return False
    older = find(&s.queued, place, sector, key | ISSUED)
    if older != NULL:
        drop_queued(s, older, place)
    p.key |= ISSUED
    s.n_waiting -= 1
    return True


cdef void follow_issue(State *s, const Batch *b, int i) noexcept nogil:
    """Find the queue record of an issue, and mark it.

    In a stream without queue records, count the issue's process instead.
    """
    cdef const TraceV7 *r = &b.records[i]
    cdef const Pending *item = &b.item
    cdef uint32_t key = queue_key(item.key)
    cdef Pending queued
    cdef bint was_queued
    if not s.with_queue:
        count_process(s, r.pid, 1, r.bytes)
        return
    if not key & IS_APPEND and mark_issued(s, r.sector, key, r.time):
        if s.n_waiting != 0 and r.bytes > 512:
            drop_queued_inside(s, r, key, True)
        return
    was_queued = take_queued(s, r.sector, key & ~<uint32_t> IS_APPEND, &queued)
    if s.n_waiting != 0 and r.bytes > 512:
        drop_queued_inside(s, r, key & ~<uint32_t> IS_APPEND, False)
    if was_queued and queued.time_ns <= r.time:
        set_queued(s, item.sector, key | ISSUED, queued.time_ns, queued.bytes)
    # An earlier issue of this key, which never completed, may have left its queue record.
    elif may_be_queued(s, item.sector) and not is_requeued(s, item):
        take_queued(s, item.sector, key | ISSUED, &queued)


cdef inline bint is_to_follow(State *s, const TraceV7 *r) noexcept nogil:
    """Whether follow_issue() or note_completion() may have anything to do for a plain record."""
    return s.keep_requests or s.follow_issues and (
        not s.with_queue or may_be_queued(s, r.sector) or (s.n_waiting != 0 and r.bytes > 512)
    )


cdef bint is_requeued(State *s, const Pending *item) noexcept nogil:
    """Whether an issue is that of a requeued request."""
    cdef const Pending *p = find_pending(s, item.sector, item.key) if s.history.used else NULL
    return p != NULL and p.state & (IS_MULTI_STEP | IN_FLIGHT) == <uint32_t> IS_MULTI_STEP


cdef void drop_queued_inside(
    State *s, const TraceV7 *r, uint32_t key, bint is_marked
) noexcept nogil:
    """Drop the queue records inside an issue's sectors: their bios were merged into it.

    is_marked: the issue has a queue record itself, at its first sector.
    """
    cdef Cursor c = Cursor(0, 0)
    cdef uint64_t end = r.sector + min(<uint64_t> r.bytes >> 9, ~r.sector)
    cdef uint64_t sector = r.sector + 1
    cdef Pending taken
    cdef const Pending *p
    if r.bytes >> 12 <= s.queued.n_groups:
        while r.sector < sector < end:          # it may wrap around
            if near(s, sector)[0] == (is_marked and sector >> 3 == r.sector >> 3):
                sector = (sector | 7) + 1       # near() has a counter for each eight sectors
            else:
                take_queued(s, sector, key, &taken)
                sector += 1
        return
    while (p := next_entry(&s.queued, &c)) != NULL:
        if p.key == key and r.sector < p.sector < end:
            take_queued(s, p.sector, key, &taken)


cdef uint64_t queue_time(
    State *s, uint64_t sector, uint32_t key, uint64_t issued_ns
) noexcept nogil:
    """Time from queue to issue of a request that has matched, or NOT_QUEUED."""
    cdef Pending queued
    key = queue_key(key) | ISSUED
    if not take_queued(s, sector, key, &queued):
        return NOT_QUEUED
    return issued_ns - queued.time_ns if queued.time_ns <= issued_ns else <uint64_t> NOT_QUEUED


cdef void count_process(
    State *s, uint32_t pid, uint64_t requests, uint64_t n_bytes
) noexcept nogil:
    cdef uint64_t at = mix(pid ^ s.seed[1], s.seed[0] | 1) & s.process_mask
    cdef Process *p
    if requests == 0:
        return
    while True:
        p = &s.processes[at]
        if p.requests == 0 and s.n_processes >= MOST_PROCESSES:
            p = &s.other_processes
            break
        if p.requests == 0:
            s.n_processes += 1
            p.pid = pid
        if p.pid == pid:
            break
        at = (at + 1) & s.process_mask
    p.requests += requests
    p.bytes += n_bytes


cdef void count_processes(State *s, const Batch *b) noexcept nogil:
    """Count the processes of a batch of plain records; a run of one process is counted at once."""
    cdef int i
    cdef const TraceV7 *r
    cdef uint32_t pid = b.records[0].pid
    cdef uint64_t issues = 0
    cdef uint64_t n_bytes = 0
    cdef uint64_t if_issue                      # a mask: all bits, or none
    for i in range(b.n):
        r = &b.records[i]
        if_issue = all_bits_if(r.action >> 22 & 1)
        if unlikely((r.pid ^ pid) & if_issue != 0):
            count_process(s, pid, issues, n_bytes)
            pid = r.pid
            issues = n_bytes = 0
        issues -= if_issue                      # the mask is -1
        n_bytes += r.bytes & if_issue
    count_process(s, pid, issues, n_bytes)


cdef int by_pid(const void *a, const void *b) noexcept nogil:
    cdef uint32_t pid = (<const Process *> a).pid
    cdef uint32_t other = (<const Process *> b).pid
    return (pid > other) - (pid < other)


cdef void reset_processes(State *s) noexcept nogil:
    """Begin a new interval."""
    if s.processes != NULL:
        memset(s.processes, 0, (s.process_mask + 1) * sizeof(Process))
    memset(&s.other_processes, 0, sizeof(Process))
    s.n_processes = 0


cdef void handle_notify(State *s, const TraceV7 *r, const uint8_t *payload) noexcept nogil:
    """Handle a notify record: the time of day, or the name of a process."""
    cdef uint32_t event = r.action & 0xffff
    cdef size_t length = r.pdu_len
    cdef uint32_t seconds, ns
    cdef uint64_t now_ns                        # since 1970
    cdef Name *name
    if event & EVENT_CGROUP:
        if length < CGROUP_ID:
            return
        event &= ~<uint32_t> EVENT_CGROUP
        payload += CGROUP_ID
        length -= CGROUP_ID
    if event == NOTE_TIMESTAMP and length >= 8 and not s.has_epoch:
        seconds = load32(payload)
        ns = load32(payload + 4)
        if s.foreign:
            seconds = swap32(seconds)
            ns = swap32(ns)
        now_ns = seconds * <uint64_t> 1000000000 + ns
        if now_ns >= r.time:                    # otherwise the clock was not set
            s.epoch_ns = now_ns - r.time
            s.epoch_at_ns = r.time
            s.has_epoch = True
    elif event == NOTE_PROCESS and length > 0:
        s.with_names = s.follow_issues = not s.as_original
        name = &s.names[s.n_names]
        s.n_names += 1
        name.pid = r.pid
        memset(name.comm, 0, COMM)
        memcpy(name.comm, payload, min(length, <size_t> COMM))


cdef void store_driver_data(State *s, const TraceV7 *r, const uint8_t *payload) noexcept nogil:
    """Append a record of driver data to State.driver, as version 7 in host byte order."""
    s.driver_data += 1
    if not s.keep_driver_data:
        return
    memcpy(s.driver + s.n_driver, r, HEADER_V7)
    memcpy(s.driver + s.n_driver + HEADER_V7, payload, r.pdu_len)
    s.n_driver += HEADER_V7 + r.pdu_len


cdef void handle_other(State *s, Batch *b, int i, uint32_t key) noexcept nogil:
    """Handle a record that is neither issue nor completion, or is filtered out. It has this key.

    A plug or a get-request record, for example, only gives the time.
    """
    cdef const TraceV7 *r = &b.records[i]
    cdef uint32_t event = r.action & 0xffff & ~<uint32_t> EVENT_CGROUP
    cdef Pending taken
    cdef uint32_t category = b.category[i]
    if category & ~<uint32_t> CAT_NOTIFY:       # a record that is filtered out has no other
        s.now_ns = r.time
    if category & CAT_DRV_DATA:
        store_driver_data(s, r, payload_of(b, i))
    elif category & CAT_NOTIFY:
        handle_notify(s, r, payload_of(b, i))
    elif s.as_original:                         # neither requeues nor queue times
        return
    elif category & CAT_REQUEUE and event == EVENT_REQUEUE:
        set_item(b, i, device_of(key))
        b.item.state = IS_MULTI_STEP            # stored if its issue is unknown
        if not category & CAT_ZONE_APPEND or find_requeued_append(s, b, i):
            handle_requeue(s, b, i)
    elif category & CAT_QUEUE:
        if event == EVENT_QUEUE:
            s.with_queue = s.follow_issues = s.follow_matches = True
            set_queued(s, r.sector, queue_key(key), r.time, r.pid)
            if s.with_names:
                count_process(s, r.pid, 1, r.bytes)
        elif event == EVENT_BACK_MERGE:
            take_queued(s, r.sector, queue_key(key), &taken)
        elif event == EVENT_FRONT_MERGE:        # so far, the request began after this bio
            take_queued(s, r.sector + (r.bytes >> 9), queue_key(key), &taken)
