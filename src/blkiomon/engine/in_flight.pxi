# Requests in flight: issued, not completed.
#
# Counts go up and down as records come. The integral over time, whose mean people want, needs no
# work at all per record: over an interval from a to b it is
#     sum of d2c over the requests that completed
#     + sum of (b - issued) over those in flight at b, from a walk through the table at the cut
#     - the same sum at a, which the cut at a left in Carry.ns.
# A request that is given up was in flight until then. Operations have no busy time of their own.
#
# All of this is left out where nobody asked for it: it takes 18 instructions a record.

cdef enum:
    EVERYTHING = 8                              # layout.EVERYTHING
    # A request in flight for longer than this, and longer than the slowest that its device has
    # completed in the interval, counts as one whose completion was missed. Of a device that has
    # completed none it may just as well hang, and does not.
    OVERDUE_NS = 1000000000


cdef inline void enter(State *s, uint32_t device, unsigned int op, uint64_t time_ns) noexcept nogil:
    """A request has been issued."""
    cdef Load *load = &s.loads[device]
    cdef Gauge *gauge = &load.in_flight[op]
    gauge.now += 1
    if gauge.now > gauge.max:
        gauge.max = gauge.now
    gauge = &load.in_flight[ALL_OPS]
    gauge.now += 1
    if gauge.now > gauge.max:
        gauge.max = gauge.now
    if gauge.now == 1 and time_ns > load.busy_since_ns:     # no time counts twice
        load.busy_since_ns = time_ns
    s.in_flight += 1
    if s.in_flight > s.max_in_flight:
        s.max_in_flight = s.in_flight


cdef inline void leave(State *s, uint32_t device, unsigned int op, uint64_t time_ns) noexcept nogil:
    """A request has been completed, or given up."""
    cdef Load *load = &s.loads[device]
    load.in_flight[op].now -= 1
    load.in_flight[ALL_OPS].now -= 1
    s.in_flight -= 1
    if load.in_flight[ALL_OPS].now == 0 and time_ns > load.busy_since_ns:
        load.busy_ns += time_ns - load.busy_since_ns
        load.busy_since_ns = time_ns


cdef inline void abandon(State *s, const Pending *p, uint64_t now_ns) noexcept nogil:
    """What is pending gets no partner any more."""
    cdef unsigned int op
    if p.state & IS_OTHER:
        s.given_up += (p.state & (WAS_ISSUED | IN_FLIGHT)) == WAS_ISSUED
        end_history(s, p)
    if is_in_flight(p):
        s.given_up += 1
        s.devices[device_of(p.key)].was_busy = True
        if s.as_original:
            return
        op = op_of(cell_in(p.state))
        leave(s, device_of(p.key), op, now_ns)
        if now_ns > p.time_ns:
            s.carries[device_of(p.key)].ns[op] += now_ns - p.time_ns


# --- the cut ----------------------------------------------------------------------------------

cdef inline bint is_overdue(const State *s, const Pending *p, uint64_t end_ns) noexcept nogil:
    """Whether an issue most likely has no completion: see OVERDUE_NS."""
    cdef uint64_t age_ns = end_ns - p.time_ns if p.time_ns < end_ns else 0
    return s.has_ended or age_ns > max(
        <uint64_t> OVERDUE_NS, s.carries[device_of(p.key)].slowest_ns
    )


cdef uint64_t weigh_pending(State *s, const Table *t, uint64_t end_ns) noexcept nogil:
    """Add up how long the pending requests were in flight; returns how many are overdue."""
    cdef uint64_t group
    cdef uint64_t overdue = 0
    cdef unsigned int in_use, op
    cdef Pending *p
    cdef Carry *carry
    for group in range(t.n_groups):
        in_use = slots_in_use(t, group)
        while in_use != 0:
            p = &t.slots[group * GROUP + first_bit(in_use)]
            in_use &= in_use - 1
            if not p.state & (IS_ISSUE | IS_OTHER):
                p.state |= IS_COUNTED
                continue
            overdue += p.state & (IS_ISSUE | WAS_ISSUED) != 0 and is_overdue(s, p, end_ns)
            if is_in_flight(p) and p.time_ns < end_ns:
                op = op_of(cell_in(p.state))
                carry = &s.carries[device_of(p.key)]
                carry.pending_ns[op] += end_ns - p.time_ns
                if p.time_ns < carry.oldest_ns[op]:
                    carry.oldest_ns[op] = p.time_ns
    return overdue


cdef void weigh_requests(State *s, uint64_t end_ns) noexcept nogil:
    """Add up how long requests were in flight, those that still are apart; find their oldest."""
    cdef uint64_t i
    cdef uint64_t overdue = 0
    cdef unsigned int op
    cdef const Account *a
    if s.as_original:
        return
    for i in range(s.devices_end):
        s.carries[i].slowest_ns = <uint64_t> -1     # of none: then nothing is overdue
        for op in range(OPS):
            s.carries[i].ended_ns[op] = 0
            s.carries[i].pending_ns[op] = 0
            s.carries[i].oldest_ns[op] = end_ns
    for i in range(s.n_active):
        a = s.accounts[i]
        s.carries[a.device].ended_ns[a.op] += a.d2c_ns.sum
        if s.carries[a.device].slowest_ns == <uint64_t> -1:
            s.carries[a.device].slowest_ns = 0
        s.carries[a.device].slowest_ns = max(s.carries[a.device].slowest_ns, a.d2c_ns.max)
    if all_pending(s) != 0:
        overdue = weigh_pending(s, &s.pending, end_ns) + weigh_pending(s, &s.overtaken, end_ns)
    s.unanswered = max(s.unanswered, s.given_up + overdue)


cdef inline bint had_load(const State *s, uint64_t device, unsigned int op) noexcept nogil:
    cdef const Carry *carry = &s.carries[device]
    return s.loads[device].in_flight[op].max != 0 or carry.ns[op] + carry.ended_ns[op] != 0


cdef inline uint128_t integral_of(const Carry *carry, unsigned int op) noexcept nogil:
    return carry.ns[op] + carry.ended_ns[op] + carry.pending_ns[op]


cdef uint64_t count_load_rows(const State *s) noexcept nogil:
    cdef uint64_t i
    cdef uint64_t n = 0
    cdef uint64_t of_device
    cdef unsigned int op
    if s.as_original:
        return 0
    for i in range(s.devices_end):
        of_device = 0
        for op in range(OPS):
            of_device += had_load(s, i, op)
        n += of_device + (of_device != 0)
    return n + 1


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
    if integral_ns >> 127:                      # records out of order: less than none
        integral_ns = 0
    out.in_flight_ns[0] = <uint64_t> integral_ns
    out.in_flight_ns[1] = <uint64_t> (integral_ns >> 64)


cdef void move_load_rows(State *s, uint64_t end_ns, LoadRow *out) noexcept nogil:
    """Write count_load_rows() rows, and begin a new interval."""
    cdef uint64_t i
    cdef uint64_t rows
    cdef unsigned int op
    cdef uint64_t oldest_ns
    cdef uint64_t all_oldest_ns = end_ns
    cdef uint128_t integral_ns
    cdef uint128_t all_ns = 0
    cdef Load *load
    cdef Carry *carry
    if s.as_original:
        for i in range(s.devices_end):          # but for those that have an account
            s.devices[i].is_idle = not s.devices[i].was_busy
            s.devices[i].was_busy = False
        return
    for i in range(s.devices_end):
        load = &s.loads[i]
        carry = &s.carries[i]
        integral_ns = 0
        oldest_ns = end_ns
        rows = 0
        for op in range(OPS):
            if had_load(s, i, op):
                set_load_row(
                    out, s.devices[i].number, op, load.in_flight[op].now, load.in_flight[op].max,
                    end_ns - carry.oldest_ns[op], 0, integral_of(carry, op),
                )
                out += 1
                rows += 1
                integral_ns += integral_of(carry, op)
                oldest_ns = min(oldest_ns, carry.oldest_ns[op])
                load.in_flight[op].max = load.in_flight[op].now
            carry.ns[op] = <uint128_t> 0 - carry.pending_ns[op]
        s.devices[i].is_idle = rows == 0 and not s.devices[i].was_busy
        s.devices[i].was_busy = False
        if rows == 0:
            continue
        if load.in_flight[ALL_OPS].now == 0:
            load.busy_since_ns = min(load.busy_since_ns, end_ns)    # it had been absurd
        elif end_ns > load.busy_since_ns:
            load.busy_ns += end_ns - load.busy_since_ns
            load.busy_since_ns = end_ns
        set_load_row(
            out, s.devices[i].number, ALL_OPS, load.in_flight[ALL_OPS].now,
            load.in_flight[ALL_OPS].max, end_ns - oldest_ns, load.busy_ns, integral_ns,
        )
        out += 1
        load.busy_ns = 0
        load.in_flight[ALL_OPS].max = load.in_flight[ALL_OPS].now
        all_ns += integral_ns
        all_oldest_ns = min(all_oldest_ns, oldest_ns)
    set_load_row(
        out, 0, EVERYTHING, s.in_flight, s.max_in_flight,
        end_ns - all_oldest_ns, 0, all_ns,
    )
    s.max_in_flight = s.in_flight


# --- devices that are gone --------------------------------------------------------------------

cdef void keep_devices_of(State *s, const Table *t) noexcept nogil:
    """Whatever waits in a table, its device is not idle."""
    cdef uint64_t group
    cdef unsigned int in_use
    for group in range(t.n_groups):
        in_use = slots_in_use(t, group)
        while in_use != 0:
            s.devices[device_of(t.slots[group * GROUP + first_bit(in_use)].key)].is_idle = False
            in_use &= in_use - 1


cdef void free_idle_devices(State *s) noexcept nogil:
    """Make room for other devices, where many are known: forget those that were idle.

    These are devices of which the interval has seen no request, and of which nothing is pending.
    Only then is anything given up that could matter: their last sequence numbers.
    """
    cdef uint64_t i
    if s.has_wanted or s.n_devices <= s.max_devices // 2:
        return
    for i in range(s.n_active):                 # where a match took no time
        s.devices[s.accounts[i].device].is_idle = False
    keep_devices_of(s, &s.pending)
    keep_devices_of(s, &s.overtaken)
    keep_devices_of(s, &s.queued)
    for i in range(1, s.devices_end):
        if s.devices[i].in_use and s.devices[i].is_idle:
            free_device(s, <uint32_t> i)
    memset(s.device_map, 0, (s.device_mask + 1) * sizeof(DeviceSlot))
    for i in range(1, s.devices_end):
        if s.devices[i].in_use:
            map_device(s, s.devices[i].number, <uint32_t> i)
