# Decodes bytes to batches of records in host byte order.
#
# Both versions and both byte orders become version-7 headers in host byte order. The categories are
# stored beside the headers, as version 8 has more of them. Native version-7 records, the common
# case, are not copied. Only decode_run() uses a length from the input; it checks that the record
# ends within the input.
#
# Entry point: decode_batch, from Engine._consume(). Never allocates; keeps no state.

cdef enum DecodeEnd:                            # why a run of records ended
    DECODE_FULL                                 # the batch has `most` records
    DECODE_SHORT                                # the next record is incomplete: see *need
    DECODE_OTHER                                # the next bytes are not a record
    DECODE_MISLABELLED                          # a version-8 record with the magic of version 7
    DECODE_LATER                                # the next record is later than last_ns

cdef enum:
    BATCH = 128                                 # records decoded, then paired, at a time
    AHEAD = 4096                                # bytes of input prefetched
    PID_LIMIT = 1 << 22                         # the kernel's PID_MAX_LIMIT

cdef struct Batch:
    int n
    uint64_t first                              # position of record 0 in the stream
    uint32_t seen                               # all categories or'ed
    uint32_t cpus                               # all CPU numbers or'ed
    const TraceV7 *record[BATCH]                # in the input itself, or in `converted`
    const uint8_t *payload[BATCH]               # only for `converted`: see payload_of()
    uint32_t category[BATCH]                    # action >> 16, of either version
    TraceV7 converted[BATCH]
    Pending item[BATCH]                         # filled by prepare() for pair()
    bint has_others                             # handle_other() reads some records again
    int n_matches
    Match match[BATCH]                          # filled by pair() for account()


cdef inline const uint8_t *payload_of(const Batch *b, int i) noexcept nogil:
    """A record's payload in the input."""
    if b.record[i] == &b.converted[i]:
        return b.payload[i]
    return <const uint8_t *> b.record[i] + HEADER_V7


cdef inline bint is_mislabelled_v8(const TraceV7 *r) noexcept nogil:
    """Whether a header with the magic of version 7 has the layout of version 8.

    On Linux 6.19 and later, ftrace's blk tracer sends such records in binary mode. In the places of
    version 7's action, pid and cpu, they have pid, action and device. No version-7 record passes
    the test: CPU numbers are below 2^20, and a pid above PID_LIMIT does not exist.
    """
    cdef uint32_t event = r.pid & 0xffff & ~<uint32_t> EVENT_CGROUP
    cdef uint32_t category = r.pid >> 16
    return (
        ((event == EVENT_ISSUE and category & CAT_ISSUE)
         or (event == EVENT_COMPLETE and category & CAT_COMPLETE))
        and r.action >> 16 < 64 and r.cpu >= 1 << 20
    )


cdef inline DecodeEnd decode_run(
    const uint8_t *data, size_t size, size_t *at, int most, uint64_t last_ns,
    bint swap, int version, Batch *out, size_t *need, uint64_t *next_ns,
) noexcept nogil:
    """Append records of one version and byte order from data[at:size] to a batch.

    Each record moves *at behind it. Stops before the first byte that is not understood, and before
    a record later than last_ns, whose time it writes to *next_ns. `swap` and `version` are
    constants at every call, so that the compiler specialises each.
    """
    cdef:
        uint32_t magic = swap32(MAGIC | version) if swap else MAGIC | version
        size_t header = HEADER_V8 if version == 8 else HEADER_V7
        size_t pos = at[0]
        size_t length
        uint16_t length_of_payload
        int n = out.n
        uint32_t category
        uint32_t seen = out.seen
        uint32_t cpus = out.cpus
        const TraceV7 *v7
        const TraceV8 *v8
        TraceV7 *r
        DecodeEnd end = DECODE_FULL

    while n < most:
        if unlikely(size - pos < header):
            need[0] = header
            end = DECODE_SHORT
            if size - pos >= sizeof(magic) and load32(data + pos) != magic:
                end = DECODE_OTHER
            break
        prefetch_input(data + pos + AHEAD)
        v7 = <const TraceV7 *> (data + pos)
        v8 = <const TraceV8 *> (data + pos)
        if unlikely(v7.magic != magic):
            end = DECODE_OTHER
            break
        length = header
        if version == 8:
            category = <uint32_t> ((swap64(v8.action) if swap else v8.action) >> 16)
            length_of_payload = v8.pdu_len
        else:
            category = (swap32(v7.action) if swap else v7.action) >> 16
            length_of_payload = v7.pdu_len
        if unlikely(length_of_payload != 0):
            length += swap16(length_of_payload) if swap else length_of_payload
            if unlikely(size - pos < length):
                need[0] = length
                end = DECODE_SHORT
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
            out.payload[n] = data + pos + header
            out.record[n] = r
            v7 = r
        else:
            out.record[n] = v7
        if version == 7 and unlikely(v7.pid > PID_LIMIT) and is_mislabelled_v8(v7):
            end = DECODE_MISLABELLED
            break
        if unlikely(v7.time > last_ns) and not category & CAT_NOTIFY:
            next_ns[0] = v7.time
            end = DECODE_LATER
            break
        out.category[n] = category
        seen |= category
        cpus |= v7.cpu
        n += 1
        pos += length

    out.n = n
    out.seen = seen
    out.cpus = cpus
    at[0] = pos
    return end


cdef inline DecodeEnd decode_batch(
    const uint8_t *data, size_t size, size_t *at, int most, uint64_t last_ns,
    bint swap, Batch *out, size_t *need, uint64_t *next_ns,
) noexcept nogil:
    """Decode a batch in which both versions may alternate. See decode_run."""
    cdef DecodeEnd end
    cdef int before
    out.n = 0
    out.seen = 0
    out.cpus = 0
    while True:
        before = out.n
        if swap:
            end = decode_run(data, size, at, most, last_ns, True, 7, out, need, next_ns)
            if end == DECODE_OTHER:
                end = decode_run(data, size, at, most, last_ns, True, 8, out, need, next_ns)
        else:
            end = decode_run(data, size, at, most, last_ns, False, 7, out, need, next_ns)
            if end == DECODE_OTHER:
                end = decode_run(data, size, at, most, last_ns, False, 8, out, need, next_ns)
        if end != DECODE_OTHER or out.n == before:
            break
    return end
