# Recognises records, lost-event marks and padding in bytes.
#
# The engine, the merger and the sorter include this file. All functions are pure: they keep no
# state and read only the bytes that they are given.
#
# Entry points: load32, byte_order_of, record_length, zeros_at, parse_lost, find_record,
# describe_magic.

cdef inline uint32_t load32(const uint8_t *p) noexcept nogil:
    return (<const TraceV7 *> p).magic          # a packed struct: unaligned load


cdef inline int byte_order_of(uint32_t magic) noexcept nogil:
    """The byte order of a magic: 0 for host, 1 for foreign, -1 if it is not a record's."""
    if magic == MAGIC | 7 or magic == MAGIC | 8:
        return 0
    magic = swap32(magic)
    if magic == MAGIC | 7 or magic == MAGIC | 8:
        return 1
    return -1


cdef inline size_t record_length(
    const uint8_t *p, size_t size, bint swap, uint64_t *time_ns
) noexcept nogil:
    """Length of the record whose header is at p, and its time; 0: no whole header is there.

    The record itself may be longer than `size`, which is at least HEADER_V7.
    """
    cdef const TraceV7 *v7 = <const TraceV7 *> p
    cdef const TraceV8 *v8 = <const TraceV8 *> p
    cdef size_t length
    if v7.magic == (swap32(MAGIC | 7) if swap else MAGIC | 7):
        length = HEADER_V7 + <size_t> (swap16(v7.pdu_len) if swap else v7.pdu_len)
    elif v7.magic == (swap32(MAGIC | 8) if swap else MAGIC | 8) and size >= HEADER_V8:
        length = HEADER_V8 + <size_t> (swap16(v8.pdu_len) if swap else v8.pdu_len)
    else:
        return 0
    time_ns[0] = swap64(v7.time) if swap else v7.time
    return length


cdef enum:
    MIN_PADDING = 48                            # zeros; fewer may be part of garbage


cdef inline size_t zeros_at(const uint8_t *p, size_t size) noexcept nogil:
    """How many zeros are at p. A record never begins with one."""
    cdef size_t n = 0
    while n < size and p[n] == 0:
        n += 1
    return n


cdef inline bint is_plausible(const uint8_t *p, bint swap) noexcept nogil:
    """Whether a header with a valid magic has a known event. Needs HEADER_V7 bytes."""
    cdef uint32_t magic = load32(p)
    cdef uint64_t action
    if swap:
        magic = swap32(magic)
    if magic == MAGIC | 8:
        action = (<const TraceV8 *> p).action
        if swap:
            action = swap64(action)
    else:
        action = (<const TraceV7 *> p).action
        if swap:
            action = swap32(<uint32_t> action)
    return (action & 0xffff & ~<uint64_t> EVENT_CGROUP) <= EVENT_LAST


cdef int match_text(
    const char *form, const uint8_t *p, size_t size, size_t *length, uint64_t *number
) noexcept nogil:
    """Match p against a form in which # means digits; writes the last number to *number.

    Returns 1 for a match, and sets *length; 0 if the bytes end too early; -1 if they differ.
    """
    cdef size_t i = 0
    cdef int digits = 0
    while form[0] != 0:
        if i == size:
            return 0
        if form[0] == c"#":
            if c"0" <= p[i] <= c"9" and digits < 19:
                number[0] = (number[0] * 10 if digits else 0) + (p[i] - c"0")
                digits += 1
                i += 1
                continue
            if digits == 0:
                return -1
            digits = 0
            form += 1
            continue
        if p[i] != <uint8_t> form[0]:
            return -1
        i += 1
        form += 1
    length[0] = i
    return 1


cdef int parse_lost(const uint8_t *p, size_t size, size_t *length, uint64_t *events) noexcept nogil:
    """Match ftrace's mark of lost events: returns 1, 0 or -1 as match_text does.

    The kernel leaves the number out if it could not count: then at least one event was lost.
    """
    cdef int counted = match_text(b"CPU:# [LOST # EVENTS]\n", p, size, length, events)
    cdef int uncounted
    if counted >= 0:
        return counted
    uncounted = match_text(b"CPU:# [LOST EVENTS]\n", p, size, length, events)
    if uncounted > 0:
        events[0] = 1
    return uncounted


cdef int find_record(const uint8_t *data, size_t size, size_t *at, int *swap) noexcept nogil:
    """Search data[at:size] for the next plausible record or mark.

    Returns 1 if there is one at *at, and sets *swap, the byte order, if it was unknown (-1).
    Returns 0 if there is none before *at, and -1 if the bytes at *at are too short to decide.
    """
    cdef size_t pos = at[0]
    cdef size_t length = 0
    cdef uint64_t events = 0
    cdef int order
    cdef int found = 0
    while size - pos >= 4:
        order = byte_order_of(load32(data + pos))
        if order >= 0 and (swap[0] < 0 or order == swap[0]):
            if size - pos < HEADER_V7:
                found = -1
                break
            if is_plausible(data + pos, order):
                swap[0] = order
                found = 1
                break
        elif data[pos] == c"C":
            found = parse_lost(data + pos, size - pos, &length, &events)
            if found > 0:
                break
            if found == 0:
                found = -1
                break
            found = 0
        pos += 1
    at[0] = pos
    return found


cdef tuple describe_magic(uint32_t magic, int swap):
    """Texts for TraceError: what was found, and what was expected. swap: see find_record."""
    if swap > 0:
        magic = swap32(magic)
    found = f"magic {magic:08x}"
    for value in (magic, swap32(magic)):
        if value & 0xffffff00 == MAGIC:
            found = f"{found}, version {value & 0xff}"
            if swap >= 0 and value != magic:
                found = f"{found} in the other byte order"
            break
    return found, f"{MAGIC | 7:08x} or {MAGIC | 8:08x}, a block trace of version 7 or 8"
