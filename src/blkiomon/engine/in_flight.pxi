# Counts requests in flight: issued, and not completed or requeued. Forgets idle devices.
#
# begin_flight and end_flight update gauges with each record; pair_records() does the same by the
# table STEPS. The mean follows from the integral of the count over time, which needs no work per
# record. Over an interval from a to b it is
#     sum of D2C of the requests completed in the interval
#     + sum of (b - issue time) of those in flight at b, from a walk through the table
#     - the same sum at a, which the snapshot at a left in InFlightIntegral.ns.
# A request that is given up was in flight until then. Busy time is known only for whole devices.
# With as_original, nothing reads these figures.
#
# If a completion is lost, its issue stays pending for max_age_ns, and the device would seem busy
# for all that time. presume_completed() takes such issues out of flight.
#
# Entry points: begin_flight, end_flight, give_up, from pairing, multi_step, eviction;
# resume_flight, from pairing and multi_step. From
# Engine.snapshot(), in this order: integrate_in_flight, count_load_rows, move_load_rows,
# free_idle_devices. Never allocates.

cdef enum:
    EVERYTHING = 8                              # layout.EVERYTHING
    IN_ALL = 3                                  # see lane_of()
    # A request is overdue if it has been in flight for longer than this, and for longer than any
    # request that its device completed in the interval. A device that completed none may hang:
    # nothing of it is overdue.
    OVERDUE_NS = 1000000000


cdef uint8_t[OPS] LANES = [0, 1, 4, 5, 6, 7, 2]


cdef inline unsigned int lane_of(unsigned int op) noexcept nogil:
    """Index in Load.now: reads, writes, `other` and all operations (IN_ALL) come first."""
    return LANES[op]


cdef inline void begin_flight(
    State *s, uint32_t device, unsigned int op, uint64_t time_ns
) noexcept nogil:
    """Count a request that was issued."""
    cdef Load *load = &s.loads[device]
    cdef unsigned int at = lane_of(op)
    load.now[at] += 1
    load.max[at] = max(load.max[at], load.now[at])
    load.now[IN_ALL] += 1
    load.max[IN_ALL] = max(load.max[IN_ALL], load.now[IN_ALL])
    if load.now[IN_ALL] == 1 and time_ns > load.busy_since_ns:  # earlier: busy_ns counts it already
        load.busy_since_ns = time_ns
    s.in_flight += 1
    if s.in_flight > s.max_in_flight:
        s.max_in_flight = s.in_flight


cdef inline void end_flight(
    State *s, uint32_t device, unsigned int op, uint64_t time_ns
) noexcept nogil:
    """Count a request that was completed, requeued or given up."""
    cdef Load *load = &s.loads[device]
    load.now[lane_of(op)] -= 1
    load.now[IN_ALL] -= 1
    s.in_flight -= 1
    if load.now[IN_ALL] == 0 and time_ns > load.busy_since_ns:
        load.busy_ns += time_ns - load.busy_since_ns
        load.busy_since_ns = time_ns


cdef inline void give_up(State *s, const Pending *p, uint64_t now_ns) noexcept nogil:
    """Count a pending record that will not be matched. The caller removes it from its table."""
    cdef unsigned int op
    if p.state & IS_MULTI_STEP:
        s.issues_given_up += (p.state & (WAS_ISSUED | IN_FLIGHT)) == WAS_ISSUED
        end_history(s, p)
    if is_in_flight(p):
        s.issues_given_up += 1
        s.devices[device_of(p.key)].was_busy = True
        op = op_of(cell_in(p.state))
        end_flight(s, device_of(p.key), op, now_ns)
        if now_ns > p.time_ns:
            s.integrals[device_of(p.key)].ns[op] += now_ns - p.time_ns


cdef inline void resume_flight(State *s, Pending *p, uint64_t now_ns) noexcept nogil:
    """Count an issue that was presumed completed as in flight again, as a record of it has come."""
    cdef unsigned int op
    if likely(p == NULL or not p.state & IS_PRESUMED):
        return
    p.state &= ~<uint32_t> IS_PRESUMED
    s.issues_given_up -= 1
    op = op_of(cell_in(p.state))
    begin_flight(s, device_of(p.key), op, now_ns)
    if now_ns > p.time_ns:                      # in flight from now on, not since its issue
        s.integrals[device_of(p.key)].ns[op] -= now_ns - p.time_ns


# --- at a snapshot ----------------------------------------------------------------------------

cdef inline bint is_overdue(const State *s, const Pending *p, uint64_t end_ns) noexcept nogil:
    """Whether the completion of an issue was most likely lost: see OVERDUE_NS."""
    cdef uint64_t age_ns = end_ns - p.time_ns if p.time_ns < end_ns else 0
    return age_ns > max(<uint64_t> OVERDUE_NS, s.integrals[device_of(p.key)].slowest_ns)


cdef inline bint may_be_presumed(const State *s, const Pending *p, uint64_t end_ns) noexcept nogil:
    """Whether an issue is overdue, and events were lost after it."""
    return (
        p.state & (IS_ISSUE | IS_PRESUMED) == IS_ISSUE and p.time_ns < s.lost_at_ns
        and is_overdue(s, p, end_ns)
    )


cdef void presume_completed(State *s, uint64_t end_ns) noexcept nogil:
    """Take every issue out of flight whose completion may be lost. They stay pending."""
    cdef Cursor c = Cursor(0, 0)
    cdef Pending *p
    while (p := next_entry(&s.pending, &c)) != NULL:
        if may_be_presumed(s, p, end_ns):
            give_up(s, p, end_ns)
            p.state |= IS_PRESUMED


cdef uint64_t integrate_pending(
    State *s, uint64_t end_ns, uint64_t *presumable
) noexcept nogil:
    """Sum up how long pending requests have been in flight; returns how many are overdue.

    Writes to *presumable how many of these may be presumed completed.
    """
    cdef Cursor c = Cursor(0, 0)
    cdef uint64_t overdue = 0
    cdef uint64_t i
    cdef unsigned int op
    cdef Pending *p
    cdef InFlightIntegral *integral
    presumable[0] = 0
    for i in range(s.devices_end):
        for op in range(OPS):
            s.integrals[i].pending_ns[op] = 0
            s.integrals[i].oldest_ns[op] = end_ns
    if s.pending.used == 0:                     # the table may be large
        return 0
    while (p := next_entry(&s.pending, &c)) != NULL:
        if not p.state & (IS_ISSUE | IS_MULTI_STEP):
            p.state |= IS_COUNTED
            continue
        if p.state & (IS_ISSUE | WAS_ISSUED) != 0 and not p.state & IS_PRESUMED:
            overdue += s.stream_ended or is_overdue(s, p, end_ns)
            presumable[0] += may_be_presumed(s, p, end_ns)
        if is_in_flight(p) and p.time_ns < end_ns:
            op = op_of(cell_in(p.state))
            integral = &s.integrals[device_of(p.key)]
            integral.pending_ns[op] += end_ns - p.time_ns
            if p.time_ns < integral.oldest_ns[op]:
                integral.oldest_ns[op] = p.time_ns
    return overdue


cdef void integrate_in_flight(State *s, uint64_t end_ns) noexcept nogil:
    """Compute the terms of every device's integral, and the oldest request in flight."""
    cdef uint64_t i
    cdef uint64_t overdue, presumable
    cdef uint64_t lost = s.lost_events + s.lost_outside + s.sequence_gaps
    cdef unsigned int op
    cdef const Account *a
    if s.as_original:
        return
    for i in range(s.devices_end):
        s.integrals[i].slowest_ns = <uint64_t> -1     # until a completion: see OVERDUE_NS
        for op in range(OPS):
            s.integrals[i].ended_ns[op] = 0
    for i in range(s.n_active):
        a = s.accounts[i]
        s.integrals[a.device].ended_ns[a.op] += a.d2c_ns.sum
        if s.integrals[a.device].slowest_ns == <uint64_t> -1:
            s.integrals[a.device].slowest_ns = 0
        s.integrals[a.device].slowest_ns = max(s.integrals[a.device].slowest_ns, a.d2c_ns.max)
    if lost > s.lost_before:
        s.lost_at_ns = end_ns
    if lost == 0:
        s.given_up_before = s.issues_given_up
    s.lost_before = lost
    overdue = integrate_pending(s, end_ns, &presumable)
    # If there are more than lost events, some request hangs, and it is not known which. Issues that
    # were given up, or presumed completed, since the first loss also lost their completions.
    if presumable != 0 and presumable + s.issues_given_up - s.given_up_before <= lost:
        presume_completed(s, end_ns)
        overdue = integrate_pending(s, end_ns, &presumable)
    s.issues_without_completion = max(s.issues_without_completion, s.issues_given_up + overdue)


cdef inline bint had_load(const State *s, uint64_t device, unsigned int op) noexcept nogil:
    cdef const InFlightIntegral *integral = &s.integrals[device]
    return s.loads[device].max[lane_of(op)] != 0 or integral.ns[op] + integral.ended_ns[op] != 0


cdef inline uint128_t integral_of(const InFlightIntegral *integral, unsigned int op) noexcept nogil:
    return integral.ns[op] + integral.ended_ns[op] + integral.pending_ns[op]


cdef uint64_t count_load_rows(const State *s) noexcept nogil:
    cdef uint64_t i
    cdef uint64_t n = 0
    cdef uint64_t device_rows
    cdef unsigned int op
    if s.as_original:
        return 0
    for i in range(s.devices_end):
        device_rows = 0
        for op in range(OPS):
            device_rows += had_load(s, i, op)
        n += device_rows + (device_rows != 0)   # one more, for all operations
    return n + 1                                # and one for all devices


cdef inline void set_load_row(
    LoadRow *out, uint32_t device, unsigned int op, uint64_t now, uint64_t most,
    uint64_t oldest_ns, uint64_t busy_ns, uint128_t integral_ns,
) noexcept nogil:
    out.device = device
    out.op = op
    out.pad = 0
    out.in_flight = now
    out.max_in_flight = most
    out.oldest_ns = oldest_ns
    out.busy_ns = busy_ns
    if integral_ns >> 127:                      # negative, as records were out of order
        integral_ns = 0
    out.in_flight_ns[0] = <uint64_t> integral_ns
    out.in_flight_ns[1] = <uint64_t> (integral_ns >> 64)


cdef void move_load_rows(State *s, uint64_t end_ns, LoadRow *out) noexcept nogil:
    """Write count_load_rows() rows to out, and begin a new interval."""
    cdef uint64_t i
    cdef uint64_t rows
    cdef unsigned int op
    cdef uint64_t oldest_ns
    cdef uint64_t all_oldest_ns = end_ns
    cdef uint128_t integral_ns
    cdef uint128_t all_ns = 0
    cdef Load *load
    cdef InFlightIntegral *integral
    if s.as_original:
        for i in range(s.devices_end):          # free_idle_devices() keeps those with an account
            s.devices[i].is_idle = not s.devices[i].was_busy
            s.devices[i].was_busy = False
        return
    for i in range(s.devices_end):
        load = &s.loads[i]
        integral = &s.integrals[i]
        integral_ns = 0
        oldest_ns = end_ns
        rows = 0
        for op in range(OPS):
            if had_load(s, i, op):
                set_load_row(
                    out, s.devices[i].number, op, load.now[lane_of(op)], load.max[lane_of(op)],
                    end_ns - integral.oldest_ns[op], 0, integral_of(integral, op),
                )
                out += 1
                rows += 1
                integral_ns += integral_of(integral, op)
                oldest_ns = min(oldest_ns, integral.oldest_ns[op])
                load.max[lane_of(op)] = load.now[lane_of(op)]
            integral.ns[op] = <uint128_t> 0 - integral.pending_ns[op]
        s.devices[i].is_idle = rows == 0 and not s.devices[i].was_busy
        s.devices[i].was_busy = False
        if rows == 0:
            continue
        if load.now[IN_ALL] == 0:
            load.busy_since_ns = min(load.busy_since_ns, end_ns)    # records were out of order
        elif end_ns > load.busy_since_ns:
            load.busy_ns += end_ns - load.busy_since_ns
            load.busy_since_ns = end_ns
        set_load_row(
            out, s.devices[i].number, ALL_OPS, load.now[IN_ALL],
            load.max[IN_ALL], end_ns - oldest_ns, load.busy_ns, integral_ns,
        )
        out += 1
        load.busy_ns = 0
        load.max[IN_ALL] = load.now[IN_ALL]
        all_ns += integral_ns
        all_oldest_ns = min(all_oldest_ns, oldest_ns)
    set_load_row(
        out, 0, EVERYTHING, s.in_flight, s.max_in_flight,
        end_ns - all_oldest_ns, 0, all_ns,
    )
    s.max_in_flight = s.in_flight


# --- idle devices -----------------------------------------------------------------------------

cdef void keep_devices_of(State *s, const Table *t) noexcept nogil:
    """Mark the device of every entry as not idle."""
    cdef Cursor c = Cursor(0, 0)
    cdef const Pending *p
    while (p := next_entry(t, &c)) != NULL:
        s.devices[device_of(p.key)].is_idle = False


cdef void free_idle_devices(State *s) noexcept nogil:
    """Forget idle devices, if more than half of max_devices are known.

    A device is idle if it had no request in the interval and has nothing pending. Forgetting it
    loses its last sequence number for each CPU.
    """
    cdef uint64_t i
    if s.has_wanted or s.n_devices <= s.max_devices // 2:
        return
    for i in range(s.n_active):                 # also devices whose requests all took 0 ns
        s.devices[s.accounts[i].device].is_idle = False
    keep_devices_of(s, &s.pending)
    keep_devices_of(s, &s.queued)
    for i in range(1, s.devices_end):
        if s.devices[i].in_use and s.devices[i].is_idle:
            free_device(s, <uint32_t> i)
    memset(s.device_map, 0, (s.device_mask + 1) * sizeof(DeviceSlot))
    for i in range(1, s.devices_end):
        if s.devices[i].in_use:
            map_device(s, s.devices[i].number, <uint32_t> i)
