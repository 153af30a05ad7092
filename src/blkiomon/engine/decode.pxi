# Decodes bytes to batches of records in host byte order.
#
# A batch is an array of version-7 headers in host byte order. Most input consists of such headers,
# one after the other. check_run() counts them, and they are used in place. decode_run() converts
# all other records: of version 8, of the other byte order, or with a payload. Version 8 has more
# categories, so categories are stored in an array of their own. Only decode_run() uses a length
# from the input; it checks that the record ends within the input.
#
# Technique: check_run() ORs the 16-byte vectors of many headers, and tests the result once. A bit
# that no good header has, or that differs from the first header's, shows in the result.
#
# Entry points: decode_batch, from Engine._consume(); huge_time and plainness_of, from pairing;
# payload_of, from queue.pxi. Never allocates; keeps no state.

cdef enum DecodeEnd:                            # why a run of records ended
    DECODE_FULL                                 # nothing is wrong: process it, then go on
    DECODE_SHORT                                # the next record is incomplete: see *need
    DECODE_OTHER                                # the next bytes are not a record
    DECODE_MISLABELLED                          # a version-8 record with the magic of version 7
    DECODE_LATER                                # the next record is later than last_ns

cdef enum:
    BATCH = 96                                  # records decoded, then paired, at a time
    # Records prepared, prefetched, then paired. A processor waits for two or three dozen cache
    # lines at once: more prefetches would only queue.
    STEP = 32
    RUN = 32                                    # records checked at a time
    AHEAD = 8192                                # prefetch distance in bytes: more than a batch
    PID_BITS = 22
    PID_LIMIT = 1 << PID_BITS                   # the kernel's PID_MAX_LIMIT

cdef struct Prepared:                           # what prepare_records() found out about a record
    uint64_t word                               # key; of a plain record, also state of its issue
    Place place                                 # in State.pending
    bint is_other                               # than plain: see pair_other()


cdef struct Done:                               # a request that completes, for account()
    uint64_t deferred                           # a usual one, as in Account.deferred
    # Key and state of its issue, which give its account. IN_MATCH: see the next one in Batch.match.
    uint64_t word


cdef struct Batch:
    int n
    uint64_t first                              # position of record 0 in the stream
    uint32_t seen                               # all categories or'ed
    uint32_t pids                               # all pids or'ed
    uint32_t cpus                               # all CPU numbers or'ed
    uint64_t earliest_ns                        # time before which no record is
    uint64_t latest_ns                          # time after which no record is
    bint is_plain                               # all records are: see plainness_of()
    const TraceV7 *records                      # in the input itself, or `converted`
    TraceV7 converted[BATCH]
    const uint8_t *payload[BATCH]               # only for `converted`: see payload_of()
    uint32_t category[BATCH]                    # action >> 16, of either version
    bint of_one_device                          # all records are
    Prepared prepared[STEP]
    Pending item                                # the record that pair_item() pairs
    int n_done
    Done done[BATCH]
    int n_matches
    Match match[BATCH]


cdef inline const uint8_t *payload_of(const Batch *b, int i) noexcept nogil:
    """A record's payload in the input."""
    if b.records == b.converted:
        return b.payload[i]
    return <const uint8_t *> &b.records[i] + HEADER_V7


cdef inline uint32_t huge_time(const TraceV7 *r) noexcept nogil:
    """HAS_HUGE_TIME or 0."""
    return <uint32_t> (r.time >> 63)


cdef inline uint32_t plainness_of(uint32_t category, const TraceV7 *r) noexcept nogil:
    """Returns 0 for a plain record: an ordinary issue or completion of a read or a write.

    A plain record has a usual size and no error. Any other record sets a bit of the result, so
    results can be or'ed. One addition tests whether exactly one of ISSUE and COMPLETE is set: after
    adding ISSUE and flipping COMPLETE, the bit of COMPLETE is then clear.
    """
    return (
        ((category & (CAT_PAIRED | CAT_ODD)) + CAT_ISSUE ^ CAT_COMPLETE) & ~<uint32_t> CAT_ISSUE
        | r.bytes & UNUSUAL_SIZE | r.error | huge_time(r)
    )


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


cdef inline int check_run(
    const uint8_t *data, int most, uint64_t last_ns, Batch *out
) noexcept nogil:
    """Count and describe the records at the front that can be used in place.

    These are a multiple of RUN, or `most`. They are in host byte order, of version 7, without a
    payload, and not after last_ns. Their pids are below PID_LIMIT. A vector has four 32-bit lanes:
    (magic, sequence, time), (sector, bytes, action) or (pid, device, cpu, error and pdu_len).
    `plus` and `events` test actions as plainness_of() does.
    """
    cdef:
        int i
        int n = 0
        const TraceV7 *r
        lanes head = lanes_of(MAGIC | 7, 0, 0, 0)
        lanes plus = lanes_of(0, 0, 0, CAT_ISSUE << 16)
        lanes events = lanes_of(0, 0, 0, CAT_COMPLETE << 16)
        lanes heads = lanes_of(0, 0, 0, 0)      # differences from the right magic
        lanes actions = heads                   # sectors, bytes and actions or'ed
        lanes tails                             # pids, devices, CPUs, errors and pdu_lens or'ed
        lanes others = heads                    # differences of these from those of record 0
        lanes kinds = heads                     # actions after the test by `plus` and `events`
        lanes first = load_lanes(&(<const TraceV7 *> data).pid)
        uint64_t earliest_ns = <uint64_t> -1
        uint64_t latest_ns = 0
    while n < most:
        for i in range(min(most - n, <int> RUN)):
            r = &(<const TraceV7 *> data)[n + i]
            heads = heads | (load_lanes(&r.magic) ^ head)
            actions = actions | load_lanes(&r.sector)
            kinds = kinds | ((load_lanes(&r.sector) + plus) ^ events)
            others = others | (load_lanes(&r.pid) ^ first)
            earliest_ns = min(earliest_ns, r.time)
            latest_ns = max(latest_ns, r.time)
        tails = others | first
        if (
            lane(heads, 0) | (lane(tails, 0) >> PID_BITS) | (lane(tails, 3) & PDU_LEN_BITS)
            or latest_ns > last_ns
        ):
            break
        out.seen = lane(actions, 3) >> 16
        out.pids = lane(tails, 0)
        out.cpus = lane(tails, 2)
        out.is_plain = (
            lane(kinds, 3) >> 16 & CAT_COMPLETE | out.seen & CAT_ODD | lane(tails, 3)
            | lane(actions, 2) & UNUSUAL_SIZE
        ) == 0 and latest_ns >> 63 == 0
        out.of_one_device = lane(others, 1) == 0
        out.earliest_ns = earliest_ns
        out.latest_ns = latest_ns
        n = min(n + RUN, most)
    out.n = n
    return n


cdef inline DecodeEnd decode_run(
    const uint8_t *data, size_t size, size_t *at, int most, uint64_t last_ns,
    bint swap, int version, Batch *out, size_t *need, uint64_t *next_ns,
) noexcept nogil:
    """Append records of one version and byte order from data[at:size] to a batch.

    Moves *at to the end of the last record. Stops before the first byte that is not understood, and
    before a record later than last_ns, whose time it writes to *next_ns. `swap` and `version` are
    constants at every call, so that the compiler specialises each call.
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
        uint32_t pids = out.pids
        uint32_t cpus = out.cpus
        uint64_t earliest_ns = out.earliest_ns
        uint64_t latest_ns = out.latest_ns
        uint32_t not_plain = 0
        uint32_t others = 0
        const TraceV7 *v7
        const TraceV8 *v8
        TraceV7 *r
        DecodeEnd end = DECODE_FULL

    while n < most:
        if unlikely(size - pos < header):
            need[0] = HEADER_V7                 # without a magic, the version is not known
            end = DECODE_SHORT
            if size - pos >= sizeof(magic):
                need[0] = header
                if load32(data + pos) != magic:
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
        r = &out.converted[n]
        if not swap and version == 7:
            r[0] = v7[0]
        else:
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
        if version == 7 and unlikely(r.pid > PID_LIMIT) and is_mislabelled_v8(r):
            end = DECODE_MISLABELLED
            break
        if unlikely(r.time > last_ns) and not category & CAT_NOTIFY:
            next_ns[0] = r.time
            end = DECODE_LATER
            break
        out.category[n] = category
        seen |= category
        pids |= r.pid
        cpus |= r.cpu
        if category & CAT_NOTIFY == 0:
            earliest_ns = min(earliest_ns, r.time)
            latest_ns = max(latest_ns, r.time)
        not_plain |= plainness_of(category, r)
        others |= r.device ^ out.converted[0].device
        n += 1
        pos += length

    out.n = n
    out.seen = seen
    out.pids = pids
    out.cpus = cpus
    out.earliest_ns = earliest_ns
    out.latest_ns = latest_ns
    out.is_plain &= not_plain == 0
    out.of_one_device &= others == 0
    at[0] = pos
    return end


cdef inline DecodeEnd decode_batch(
    const uint8_t *data, size_t size, size_t *at, int most, uint64_t last_ns,
    bint swap, Batch *out, size_t *need, uint64_t *next_ns,
) noexcept nogil:
    """Decode a batch in which both versions may alternate. See decode_run."""
    cdef DecodeEnd end
    cdef int before
    cdef int whole = <int> min(<size_t> most, (size - at[0]) // HEADER_V7)
    out.records = <const TraceV7 *> (data + at[0])
    if not swap and whole and check_run(data + at[0], whole, last_ns, out):
        at[0] += <size_t> out.n * HEADER_V7
        return DECODE_FULL
    out.records = out.converted
    out.is_plain = out.of_one_device = True
    out.n = 0
    out.seen = 0
    out.pids = 0
    out.cpus = 0
    out.earliest_ns = <uint64_t> -1
    out.latest_ns = 0
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
