# What tells a record from other bytes: shared by the engine and the merger, which include it.

cdef inline uint32_t load32(const uint8_t *p) noexcept nogil:
    return (<const TraceV7 *> p).magic          # packed: an unaligned load


cdef inline int sniff(uint32_t magic) noexcept nogil:
    """0 for a magic in host byte order, 1 for a foreign one, -1 for none that is known."""
    if magic == MAGIC | 7 or magic == MAGIC | 8:
        return 0
    magic = swap32(magic)
    if magic == MAGIC | 7 or magic == MAGIC | 8:
        return 1
    return -1


cdef enum:
    MIN_PADDING = 48                            # zeros, of which fewer may be part of garbage


cdef inline size_t zeros_at(const uint8_t *p, size_t size) noexcept nogil:
    """How many zeros stand there; no record begins with one."""
    cdef size_t n = 0
    while n < size and p[n] == 0:
        n += 1
    return n


cdef inline bint is_plausible(const uint8_t *p, bint swap) noexcept nogil:
    """Whether a header whose magic is right names an event that exists. Needs HEADER_V7 bytes."""
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
    """Match p against a form in which # stands for digits; *number is the last such number.

    1: all of it stands there, *length is set. 0: the bytes end before that. -1: it does not.
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
    """Recognise ftrace's mark of lost events at p: 1, 0, -1 as match_text does.

    Where the kernel could not count them there is no number: at least one was lost.
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
    """Look behind garbage for the next plausible record or mark, from data[at] on.

    1: *at is where it stands, and *swap, if it was not known (-1), the byte order of a record.
    0: there is none before *at. -1: what stands at *at is too short to tell.
    """
    cdef size_t pos = at[0]
    cdef size_t length = 0
    cdef uint64_t events = 0
    cdef int order
    cdef int found = 0
    while size - pos >= 4:
        order = sniff(load32(data + pos))
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
    """What was found instead of a record, and what was expected; swap as in find_record."""
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
