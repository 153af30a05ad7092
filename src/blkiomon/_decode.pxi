# Foreign bytes to host-order records.
#
# One pass walks the lengths, folds both versions and both byte orders into one form, and leaves out
# what the engine does not look at. That form is a version-7 header in host byte order, with its
# categories beside it, as version 8 has more of them: so what most machines send needs no copy.
# The walk is the only place that trusts a length in the input, and it never moves past what it was
# given.

cdef enum Walk:                                 # why a run of records ended
    WALK_FULL                                   # `most` records were read
    WALK_SHORT                                  # the next record is not all there; see need
    WALK_OTHER                                  # the next bytes are no record of this kind
    WALK_SHUFFLED                               # a version-8 record behind a version-7 magic

cdef enum:
    BATCH = 128                                 # records decoded, then paired, at a time
    EVERY = 0                                   # for `wanted`: keep records of any category
    AHEAD = 4096                                # bytes of input fetched before they are needed
    PID_LIMIT = 1 << 22                         # the kernel's PID_MAX_LIMIT

cdef struct Batch:
    int n                                       # records kept
    int walked                                  # records read, kept or not
    const TraceV7 *record[BATCH]                # in the input itself, or in `converted`
    const uint8_t *payload[BATCH]
    uint32_t category[BATCH]                    # bits 16 and up of the action, of either version
    uint32_t order[BATCH]                       # behind the batch's first record
    uint32_t key[BATCH]                         # filled by prepare(), see key_of()
    Place place[BATCH]                          # likewise
    int n_matches
    Match match[BATCH]                          # filled by pair()
    TraceV7 converted[BATCH]


cdef inline bint is_shuffled(const TraceV7 *r) noexcept nogil:
    """Whether a version-7 header is really a version-8 one with the magic of version 7.

    That is what ftrace's blk tracer sends in binary mode on kernels that speak version 8: pid and
    action have changed places and the device stands where version 7 has the CPU. No process has
    such an id, and no pid has a category above REQUEUE.
    """
    cdef uint32_t event = r.pid & 0xffff & ~<uint32_t> EVENT_CGROUP
    cdef uint32_t category = r.pid >> 16
    return (
        ((event == EVENT_ISSUE and category & CAT_ISSUE)
         or (event == EVENT_COMPLETE and category & CAT_COMPLETE))
        and r.action >> 16 < 64 and r.cpu >= 1 << 20
    )


cdef inline Walk decode_run(
    const uint8_t *data, size_t size, size_t *at, int most, uint32_t wanted,
    bint swap, int version, Batch *out, size_t *need,
) noexcept nogil:
    """Read records of one version and byte order from data[at:size], at most `most`.

    Every record moves *at behind it and counts in out.walked; it is kept where its category meets
    `wanted`, or always for EVERY. Stops before the first byte that is not understood. `swap` and
    `version` are constants at every call, so that the compiler makes a loop of its own for each.
    """
    cdef:
        uint32_t magic = swap32(MAGIC | version) if swap else MAGIC | version
        size_t header = HEADER_V8 if version == 8 else HEADER_V7
        size_t pos = at[0]
        size_t length
        int n = out.n
        int walked = out.walked
        bint always = wanted == EVERY
        uint32_t category
        const TraceV7 *v7
        const TraceV8 *v8
        TraceV7 *r
        Walk end = WALK_FULL

    while walked < most:
        if unlikely(size - pos < header):
            need[0] = header
            end = WALK_SHORT
            if size - pos >= sizeof(magic) and load32(data + pos) != magic:
                end = WALK_OTHER
            break
        prefetch_input(data + pos + AHEAD)
        v7 = <const TraceV7 *> (data + pos)
        v8 = <const TraceV8 *> (data + pos)
        if unlikely(v7.magic != magic):
            end = WALK_OTHER
            break
        if version == 8:
            length = header + (swap16(v8.pdu_len) if swap else v8.pdu_len)
            category = <uint32_t> ((swap64(v8.action) if swap else v8.action) >> 16)
        else:
            length = header + (swap16(v7.pdu_len) if swap else v7.pdu_len)
            category = (swap32(v7.action) if swap else v7.action) >> 16
        if unlikely(size - pos < length):
            need[0] = length
            end = WALK_SHORT
            break
        if swap or version == 8:
            r = &out.converted[n]
            r.magic = MAGIC | 7
            r.sequence = swap32(v7.sequence) if swap else v7.sequence
            r.time = swap64(v7.time) if swap else v7.time
            r.sector = swap64(v7.sector) if swap else v7.sector
            r.bytes = swap32(v7.bytes) if swap else v7.bytes
            if version == 8:
                r.action = <uint32_t> (swap64(v8.action) if swap else v8.action)
                r.pid = swap32(v8.pid) if swap else v8.pid
                r.device = swap32(v8.device) if swap else v8.device
                r.cpu = swap32(v8.cpu) if swap else v8.cpu
                r.error = swap16(v8.error) if swap else v8.error
            else:
                r.action = swap32(v7.action) if swap else v7.action
                r.pid = swap32(v7.pid) if swap else v7.pid
                r.device = swap32(v7.device) if swap else v7.device
                r.cpu = swap32(v7.cpu) if swap else v7.cpu
                r.error = swap16(v7.error) if swap else v7.error
            r.pdu_len = <uint16_t> (length - header)
            out.record[n] = r
            v7 = r
        else:
            out.record[n] = v7
        if version == 7 and unlikely(v7.pid > PID_LIMIT) and is_shuffled(v7):
            end = WALK_SHUFFLED
            break
        out.payload[n] = data + pos + header
        out.category[n] = category
        out.order[n] = walked
        n += always | ((category & wanted) != 0)
        walked += 1
        pos += length

    out.n = n
    out.walked = walked
    at[0] = pos
    return end


cdef inline Walk decode_batch(
    const uint8_t *data, size_t size, size_t *at, int most, uint32_t wanted,
    bint swap, Batch *out, size_t *need,
) noexcept nogil:
    """Read a batch in which versions may take turns. See decode_run."""
    cdef Walk end
    cdef int before
    out.n = 0
    out.walked = 0
    while True:
        before = out.walked
        if swap:
            end = decode_run(data, size, at, most, wanted, True, 7, out, need)
            if end == WALK_OTHER:
                end = decode_run(data, size, at, most, wanted, True, 8, out, need)
        else:
            end = decode_run(data, size, at, most, wanted, False, 7, out, need)
            if end == WALK_OTHER:
                end = decode_run(data, size, at, most, wanted, False, 8, out, need)
        if end != WALK_OTHER or out.walked == before:
            break
    return end
