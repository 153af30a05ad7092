# Accounting of a matched request.
#
# The engine's histograms are log-linear: values below 128 have a bin each, every octave above has
# 64 bins of equal width. A bin that begins at b is at most b/64 wide, so its middle is at most
# 1/128 = 0.79 % off any value in it; exact below 128. 58 octaves cover 64 bits:
#     shift = max(0, significant bits - 7),  bin = 64 * shift + (value >> shift)
# Two histograms merge by adding. The original's histograms are kept beside them, as its outputs
# have bucket limits in whole microseconds, which are no limits of ours.

cdef inline unsigned int bin_of(uint64_t value) noexcept nogil:
    cdef unsigned int shift = width(value | 127) - 7
    return (shift << 6) + <unsigned int> (value >> shift)


cdef inline unsigned int bucket_of(
    uint64_t value, unsigned int delta_bits, unsigned int last
) noexcept nogil:
    """The original's bucket: 0 for 0, i for values up to 2^(delta_bits + i - 1), the rest in last.

    The value is truncated to 32 bits before, as the original does (formats.md, section 2).
    """
    cdef uint32_t v = <uint32_t> value
    cdef unsigned int i
    if v == 0:
        return 0
    i = 1 + bits((v - 1) >> delta_bits)
    return i if i < last else last


cdef inline void sums_add(Moments *m, uint64_t value) noexcept nogil:
    m.sum += value
    m.squ += <uint128_t> value * value


cdef inline void moments_add(Moments *m, uint64_t value) noexcept nogil:
    if value < m.min:
        m.min = value
    if value > m.max:
        m.max = value
    sums_add(m, value)


cdef enum:
    # Cells of what has no category but READ and WRITE, one a byte: other, read, write, and both,
    # which is a write to us and a read to the original.
    PLAIN_CELLS = (6 << 2 | 2) | 0 << 8 | (1 << 2 | 1) << 16 | (1 << 2) << 24


cdef inline unsigned int cell_of(uint32_t category, uint32_t size_bytes) noexcept nogil:
    """Operation and direction that an issue asks for, as layout.OPS << 2 | layout.DIRECTIONS.

    The direction is the original's: READ before WRITE, else bidirectional.
    """
    cdef unsigned int cell = PLAIN_CELLS >> 8 * (category & 3) & 0xff
    if unlikely(category & (CAT_FLUSH | CAT_PC | CAT_DISCARD | CAT_ZONE | CAT_WRITE_ZEROES)):
        if category & CAT_FLUSH and size_bytes == 0:
            return 3 << 2 | cell & 3
        if category & CAT_DISCARD:
            return 2 << 2 | cell & 3
        if category & CAT_WRITE_ZEROES:
            return 4 << 2 | cell & 3
        if category & CAT_ZONE:
            return 5 << 2 | cell & 3
        if category & CAT_PC:
            return 6 << 2 | cell & 3
    return cell


cdef inline unsigned int op_of(unsigned int cell) noexcept nogil:
    return cell >> 2


cdef inline unsigned int cell_in(uint32_t state) noexcept nogil:
    """The cell of a Pending."""
    return state >> CELL_SHIFT & 0x1f


# --- devices and their accounts ---------------------------------------------------------------

cdef inline uint32_t find_device(State *s, uint32_t number) noexcept nogil:
    """The index of a device; a new one is entered. Room for it has been reserved."""
    cdef uint64_t at = mix(number ^ s.seed[0], s.seed[1]) >> s.device_shift
    cdef DeviceSlot *slot
    while True:
        slot = &s.device_map[at]
        if slot.index == 0:
            s.devices[s.n_devices].number = number
            s.devices[s.n_devices].ignored = not is_wanted(s, number)
            s.n_devices += 1
            slot.number = number
            slot.index = <uint32_t> s.n_devices
        if slot.number == number:
            return slot.index - 1
        at = (at + 1) & s.device_mask


cdef bint is_wanted(const State *s, uint32_t number) noexcept nogil:
    cdef uint64_t i
    for i in range(s.n_wanted):
        if s.wanted[i] == number:
            return True
    return s.n_wanted == 0


cdef inline void moments_reset(Moments *m) noexcept nogil:
    memset(m, 0, sizeof(Moments))
    m.min = <uint64_t> -1


cdef inline void row_reset(Row *row) noexcept nogil:
    """Empty a row but for what it is about."""
    memset(<uint8_t *> row + ROW_HEAD, 0, sizeof(Row) - ROW_HEAD)
    moments_reset(&row.size_bytes)
    moments_reset(&row.d2c_us)
    moments_reset(&row.throughput)
    moments_reset(&row.d2c_ns)


cdef Account *open_account(State *s, uint32_t device, unsigned int cell) noexcept nogil:
    """The account of a device, operation and direction at its first match ever."""
    cdef Account *a = s.spare_accounts
    s.spare_accounts += 1
    s.n_spare_accounts -= 1
    s.devices[device].accounts[cell] = a
    a.device = device
    a.row.device = s.devices[device].number
    a.row.op = op_of(cell)
    a.row.direction = cell & 3
    row_reset(&a.row)
    return a


# --- histograms -------------------------------------------------------------------------------

cdef inline unsigned int size_bin(uint64_t size_bytes) noexcept nogil:
    """The bin of a size: one for each multiple of 512 below 1 MiB, behind them bin_of()."""
    if likely(size_bytes & 511 == 0 and size_bytes < SIZE_SLOTS << 9):
        return <unsigned int> (size_bytes >> 9)
    return SIZE_SLOTS + bin_of(size_bytes)


cdef inline uint32_t *counter(State *s, Histogram *h, unsigned int bin) noexcept nogil:
    """Where a bin is counted. Room for a new block has been reserved."""
    cdef uint32_t block = h.block[bin // BLOCK]
    if unlikely(block == 0):
        block = h.block[bin // BLOCK] = <uint32_t> s.n_blocks
        s.n_blocks += 1
    return &s.blocks[<uint64_t> block * BLOCK + bin % BLOCK]


cdef uint64_t count_bins(const State *s, const Histogram *h) noexcept nogil:
    """How many bins are not empty."""
    cdef uint64_t n = 0
    cdef unsigned int block, i
    for block in range(BLOCKS):
        if h.block[block] != 0:
            for i in range(BLOCK):
                n += s.blocks[<uint64_t> h.block[block] * BLOCK + i] != 0
    return n


cdef Bin *move_bins(const State *s, const Histogram *h, uint32_t row, Bin *out) noexcept nogil:
    """Move what is in the bins to out; returns out behind it."""
    cdef unsigned int block, i
    cdef uint32_t *count
    for block in range(BLOCKS):
        if h.block[block] != 0:
            for i in range(BLOCK):
                count = &s.blocks[<uint64_t> h.block[block] * BLOCK + i]
                if count[0] != 0:
                    out.row = row
                    out.bin = block * BLOCK + i
                    out.count = count[0]
                    count[0] = 0
                    out += 1
    return out


# --- accounting -------------------------------------------------------------------------------

cdef enum:
    MANY_DEVICES = 16                           # so many accounts are more than the nearest cache


cdef inline Account *account_of(State *s, const Match *m) noexcept nogil:
    cdef Account *a = s.devices[m.device].accounts[m.cell]
    if unlikely(a == NULL):
        a = open_account(s, m.device, m.cell)
    return a


cdef void account(State *s, const Batch *b) noexcept nogil:
    """Account the matches of a batch.

    Three times through it: what the second and the third need is fetched by the one before.
    """
    cdef:
        int i
        int n = b.n_matches
        const Match *m
        Account *a
        Account *of[BATCH]
        uint32_t *d2c[BATCH]
        uint32_t *size[BATCH]
        Row *row
        bint far = s.n_devices >= MANY_DEVICES
        uint64_t d2c_us, throughput             # bytes/ms

    s.matches += n
    for i in range(n):
        m = &b.match[i]
        a = account_of(s, m)
        of[i] = a
        if far:
            prefetch(&a.row)
            prefetch(&a.row.d2c_us.squ)
            prefetch(&a.row.throughput.squ)
            prefetch(&a.row.d2c_hist[bucket_of(m.d2c_ns >> 10, 3, D2C_BUCKETS - 1)])
            prefetch(&a.d2c.block[bin_of(m.d2c_ns) // BLOCK])
            prefetch(&a.sizes)

    for i in range(n):
        m = &b.match[i]
        d2c[i] = counter(s, &of[i].d2c, bin_of(m.d2c_ns))
        size[i] = counter(s, &of[i].sizes, size_bin(m.size_bytes))
        if far:
            prefetch(d2c[i])
            prefetch(size[i])

    for i in range(n):
        m = &b.match[i]
        row = &of[i].row
        if unlikely(row.requests == 0):
            s.active[s.n_active] = of[i]
            s.n_active += 1
        d2c_us = m.d2c_ns // 1000
        if likely(d2c_us != 0):
            throughput = m.size_bytes * <uint64_t> 1000 // d2c_us
        else:
            throughput = m.size_bytes * <uint64_t> 1000000 // (m.d2c_ns if m.d2c_ns != 0 else 1)
        row.requests += 1
        row.errors += m.error != 0
        sums_add(&row.d2c_us, d2c_us)           # its extremes, and all of sizes: see close_row
        moments_add(&row.throughput, throughput)
        moments_add(&row.d2c_ns, m.d2c_ns)
        row.d2c_hist[bucket_of(d2c_us, 3, D2C_BUCKETS - 1)] += 1
        d2c[i][0] += 1
        size[i][0] += 1
        if unlikely(m.size_bytes & 511 or m.size_bytes >= SIZE_SLOTS << 9):
            size_add(row, m.size_bytes, 1)
        if unlikely(m.q2d_ns != NOT_QUEUED):
            account_queue(s, m)


cdef inline void size_add(Row *row, uint64_t size_bytes, uint64_t requests) noexcept nogil:
    """Account the sizes of some requests of the same size."""
    row.size_bytes.min = min(row.size_bytes.min, size_bytes)
    row.size_bytes.max = max(row.size_bytes.max, size_bytes)
    row.size_bytes.sum += size_bytes * requests
    row.size_bytes.squ += <uint128_t> (size_bytes * size_bytes) * requests
    row.size_hist[bucket_of(size_bytes, 10, SIZE_BUCKETS - 1)] += requests


cdef void account_queue(State *s, const Match *m) noexcept nogil:
    """Account the queue time and the total time of a request."""
    cdef QueueAccount *a = s.devices[m.device].queue_accounts[op_of(m.cell)]
    cdef uint64_t q2c_ns = m.q2d_ns + m.d2c_ns
    if unlikely(a == NULL):
        a = s.spare_queue_accounts
        s.spare_queue_accounts += 1
        s.n_spare_queue_accounts -= 1
        s.devices[m.device].queue_accounts[op_of(m.cell)] = a
        a.row.device = s.devices[m.device].number
        a.row.op = op_of(m.cell)
        moments_reset(&a.row.q2d_ns)
        moments_reset(&a.row.q2c_ns)
    if a.row.requests == 0:
        s.queue_active[s.n_queue_active] = a
        s.n_queue_active += 1
    a.row.requests += 1
    moments_add(&a.row.q2d_ns, m.q2d_ns)
    moments_add(&a.row.q2c_ns, q2c_ns)
    counter(s, &a.q2d, bin_of(m.q2d_ns))[0] += 1
    counter(s, &a.q2c, bin_of(q2c_ns))[0] += 1


# --- handing out ------------------------------------------------------------------------------

cdef Bin *move_sizes(State *s, Account *a, uint32_t row, Bin *out) noexcept nogil:
    """Move what is in the bins of sizes to out, by bin_of(); returns out behind it.

    Sizes, of which a stream has few, were counted one by one until here, where the row gets
    what there is to say of them.
    """
    cdef unsigned int block, i, bin
    cdef uint64_t *by_bin = s.by_bin
    cdef uint32_t *count
    memset(by_bin, 0, sizeof(s.by_bin))
    for block in range(BLOCKS):
        if a.sizes.block[block] == 0:
            continue
        for i in range(BLOCK):
            count = &s.blocks[<uint64_t> a.sizes.block[block] * BLOCK + i]
            bin = block * BLOCK + i
            if count[0] == 0:
                continue
            if bin >= SIZE_SLOTS:
                by_bin[bin - SIZE_SLOTS] += count[0]
            else:
                by_bin[bin_of(bin << 9)] += count[0]
                size_add(&a.row, bin << 9, count[0])
            count[0] = 0
    for i in range(bin_of(a.row.size_bytes.min), bin_of(a.row.size_bytes.max) + 1):
        if by_bin[i] != 0:
            out.row = row
            out.bin = i
            out.count = by_bin[i]
            out += 1
    return out


cdef void close_row(Row *row) noexcept nogil:
    """Complete a row in which something was counted: truncation to us keeps the order."""
    row.d2c_us.min = row.d2c_ns.min // 1000
    row.d2c_us.max = row.d2c_ns.max // 1000
