# What only full traces carry: queue records, process names, the time of day.
#
# A queue record waits in a table of its own for the issue of the same device, start sector and
# direction (the kernel does not mark it FS or PC); when that comes it waits on, under another key,
# for the match. A bio that is merged
# into another's back never has an issue of its own: its queue record is forgotten. One that is
# merged into a front gives the request its sector, and it is this one whose time counts. An issue
# uses up all queue records inside its sectors.

cdef enum:
    ISSUED = 1 << 2                             # in the key of a queue record: its issue came
    MOST_PROCESSES = 1 << 16                    # told apart in one interval


cdef inline uint32_t queue_key(uint32_t key) noexcept nogil:
    """The key of a request's queue record."""
    return key & ~<uint32_t> (CAT_FS | CAT_PC)


cdef inline void forget_one(State *s, const Pending *p, Place place) noexcept nogil:
    s.n_waiting -= not p.key & ISSUED
    remove(&s.queued, p, place)


cdef void forget_queued(State *s) noexcept nogil:
    """Forget queue records that are older than max_age_ns as of the latest record."""
    cdef uint64_t group
    cdef unsigned int in_use
    cdef const Pending *p
    for group in range(s.queued.n_groups):
        in_use = slots_in_use(&s.queued, group)
        while in_use != 0:
            p = &s.queued.slots[group * GROUP + first_bit(in_use)]
            in_use &= in_use - 1
            if p.time_ns < s.now_ns and s.now_ns - p.time_ns > s.max_age_ns:
                forget_one(s, p, place_of(s, &s.queued, p.sector, p.key))


cdef void forget_older_half(State *s) noexcept nogil:
    """Forget the queue records up to the mean of their times: about half, and one at least."""
    cdef uint64_t group, mean_ns
    cdef unsigned int in_use
    cdef uint128_t sum_ns = 0
    cdef const Pending *p
    for group in range(s.queued.n_groups):
        in_use = slots_in_use(&s.queued, group)
        while in_use != 0:
            sum_ns += s.queued.slots[group * GROUP + first_bit(in_use)].time_ns
            in_use &= in_use - 1
    mean_ns = <uint64_t> (sum_ns // s.queued.used)
    for group in range(s.queued.n_groups):
        in_use = slots_in_use(&s.queued, group)
        while in_use != 0:
            p = &s.queued.slots[group * GROUP + first_bit(in_use)]
            in_use &= in_use - 1
            if p.time_ns <= mean_ns:
                forget_one(s, p, place_of(s, &s.queued, p.sector, p.key))


cdef void set_queued(State *s, uint64_t sector, uint32_t key, uint64_t time_ns) noexcept nogil:
    """Enter a queue record, in place of an older one with the same key."""
    cdef Place place = place_of(s, &s.queued, sector, key)
    cdef Pending *p = find(&s.queued, place, sector, key)
    if p == NULL:
        if s.queued.used >= s.max_pending:
            forget_older_half(s)
        p = claim(&s.queued, place)
        p.sector = sector
        p.key = key
        s.n_waiting += not key & ISSUED
    p.time_ns = time_ns


cdef bint take_queued(
    State *s, uint64_t sector, uint32_t key, uint64_t *time_ns
) noexcept nogil:
    """Take a queue record out. False: there is none."""
    cdef Place place = place_of(s, &s.queued, sector, key)
    cdef const Pending *p = find(&s.queued, place, sector, key)
    if p == NULL:
        return False
    time_ns[0] = p.time_ns
    forget_one(s, p, place)
    return True


cdef void note_issue(State *s, const Batch *b, int i) noexcept nogil:
    """Let the queue record of an issue wait for the match."""
    cdef const TraceV7 *r = b.record[i]
    cdef const Pending *item = &b.item[i]
    cdef uint32_t key = queue_key(item.key)
    cdef uint64_t time_ns
    cdef bint was_queued
    if not s.with_queue:                        # then the issue must do to tell the process
        count_process(s, r)
        return
    was_queued = take_queued(s, r.sector, key & ~<uint32_t> IS_APPEND, &time_ns)
    if s.n_waiting != 0 and r.bytes > 512:
        use_up_queued(s, r, key & ~<uint32_t> IS_APPEND)
    if was_queued and time_ns <= r.time:
        set_queued(s, item.sector, key | ISSUED, time_ns)
    elif not is_given_back(s, item):            # there may be one of an issue without completion
        take_queued(s, item.sector, key | ISSUED, &time_ns)


cdef bint is_given_back(State *s, const Pending *item) noexcept nogil:
    """Whether an issue is that of a request which was issued, and given back."""
    cdef const Pending *p = find_pending(s, item.sector, item.key) if s.history.used else NULL
    return p != NULL and p.state & (IS_OTHER | IN_FLIGHT) == <uint32_t> IS_OTHER


cdef void use_up_queued(State *s, const TraceV7 *r, uint32_t key) noexcept nogil:
    """Forget the queue records inside an issue's sectors, which is one for all of them."""
    cdef uint64_t group, sector
    cdef uint64_t end = r.sector + (r.bytes >> 9)
    cdef uint64_t time_ns
    cdef unsigned int in_use
    cdef const Pending *p
    if r.bytes >> 9 <= s.queued.n_groups:
        for sector in range(r.sector + 1, end):
            take_queued(s, sector, key, &time_ns)
        return
    for group in range(s.queued.n_groups):
        in_use = slots_in_use(&s.queued, group)
        while in_use != 0:
            p = &s.queued.slots[group * GROUP + first_bit(in_use)]
            in_use &= in_use - 1
            if p.key == key and r.sector < p.sector < end:
                take_queued(s, p.sector, key, &time_ns)


cdef uint64_t queue_time(
    State *s, uint64_t sector, uint32_t key, uint64_t issued_ns
) noexcept nogil:
    """Time from queue to issue of a request that has matched, or NOT_QUEUED."""
    cdef uint64_t time_ns
    if not take_queued(s, sector, queue_key(key) | ISSUED, &time_ns):
        return NOT_QUEUED
    return issued_ns - time_ns if time_ns <= issued_ns else <uint64_t> NOT_QUEUED


cdef void count_process(State *s, const TraceV7 *r) noexcept nogil:
    cdef uint64_t at = mix(r.pid ^ s.seed[1], s.seed[0] | 1) & s.process_mask
    cdef Process *p
    while True:
        p = &s.processes[at]
        if p.requests == 0 and s.n_processes >= MOST_PROCESSES:
            p = &s.other_processes
            break
        if p.requests == 0:
            s.n_processes += 1
            p.pid = r.pid
        if p.pid == r.pid:
            break
        at = (at + 1) & s.process_mask
    p.requests += 1
    p.bytes += r.bytes


cdef int by_pid(const void *a, const void *b) noexcept nogil:
    cdef uint32_t pid = (<const Process *> a).pid
    cdef uint32_t other = (<const Process *> b).pid
    return (pid > other) - (pid < other)


cdef void forget_processes(State *s) noexcept nogil:
    """Begin a new interval."""
    if s.processes != NULL:
        memset(s.processes, 0, (s.process_mask + 1) * sizeof(Process))
    memset(&s.other_processes, 0, sizeof(Process))
    s.n_processes = 0


cdef void take_note(State *s, const TraceV7 *r, const uint8_t *payload) noexcept nogil:
    """A notify record: the time of day, or the name of a process."""
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
        if now_ns >= r.time:                    # else the clock had not been set
            s.epoch_ns = now_ns - r.time
            s.epoch_at_ns = r.time
            s.has_epoch = True
    elif event == NOTE_PROCESS and length > 0:
        s.with_names = s.follow_issues = True
        name = &s.names[s.n_names]
        s.n_names += 1
        name.pid = r.pid
        memset(name.comm, 0, COMM)
        memcpy(name.comm, payload, min(length, <size_t> COMM))


cdef void take_driver_data(State *s, const TraceV7 *r, const uint8_t *payload) noexcept nogil:
    """Pass a driver's record on, as a version-7 record in host byte order."""
    s.driver_data += 1
    if not s.keep_driver_data:
        return
    memcpy(s.driver + s.n_driver, r, HEADER_V7)
    memcpy(s.driver + s.n_driver + HEADER_V7, payload, r.pdu_len)
    s.n_driver += HEADER_V7 + r.pdu_len


cdef bint take_other(State *s, Batch *b, int i) noexcept nogil:
    """A record that is neither issue nor completion, or one of a zone append.

    True: it is to be paired, by what it has been made here.
    """
    cdef const TraceV7 *r = b.record[i]
    cdef uint32_t event = r.action & 0xffff & ~<uint32_t> EVENT_CGROUP
    cdef uint64_t time_ns
    cdef uint32_t category = b.category[i]
    if category & ~<uint32_t> CAT_NOTIFY:       # not of a device that does not count
        s.now_ns = r.time
    if category & CAT_DRV_DATA:
        take_driver_data(s, r, payload_of(b, i))
    elif category & CAT_PAIRED:
        return take_append(s, b, i)
    elif category & CAT_NOTIFY:
        take_note(s, r, payload_of(b, i))
    elif category & CAT_REQUEUE and event == EVENT_REQUEUE and not s.as_original:
        if not category & CAT_ZONE_APPEND or find_requeued_append(s, b, i):
            take_requeue(s, b, i)
    elif category & CAT_QUEUE:
        if event == EVENT_QUEUE:
            s.with_queue = s.follow_issues = s.follow_matches = True
            set_queued(s, r.sector, queue_key(b.item[i].key), r.time)
            if s.with_names:
                count_process(s, r)
        elif event == EVENT_BACK_MERGE:
            take_queued(s, r.sector, queue_key(b.item[i].key), &time_ns)
        elif event == EVENT_FRONT_MERGE:        # the request began behind it until now
            take_queued(s, r.sector + (r.bytes >> 9), queue_key(b.item[i].key), &time_ns)
    return False
