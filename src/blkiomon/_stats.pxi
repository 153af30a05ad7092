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
#
# A device has an index for as long as anything is known of it, up to max_devices at a time; what
# is left of the others is NOBODY's. Accounts, and the blocks of their histograms, are those of an
# interval: at its end all are free again, so that memory is for what one interval brings.

cdef inline uint32_t index_of(const State *s, uint32_t number) noexcept nogil:
    """The index of a device, or NOBODY."""
    cdef uint64_t at = mix(number ^ s.seed[0], s.seed[1]) >> s.device_shift
    cdef const DeviceSlot *slot
    while True:
        slot = &s.device_map[at]
        if slot.number == number or slot.index == NOBODY:
            return slot.index
        at = (at + 1) & s.device_mask


cdef void map_device(State *s, uint32_t number, uint32_t index) noexcept nogil:
    """Enter a device into the map, where it is not yet."""
    cdef uint64_t at = mix(number ^ s.seed[0], s.seed[1]) >> s.device_shift
    while s.device_map[at].index != NOBODY:
        at = (at + 1) & s.device_mask
    s.device_map[at].number = number
    s.device_map[at].index = index


cdef uint32_t enter_device(State *s, uint32_t number) noexcept nogil:
    """Give a device an index; NOBODY if it is not to count. Room for it has been reserved."""
    cdef uint32_t index = s.free_device
    if s.has_wanted or s.n_devices == s.max_devices:
        s.has_filter = True
        return NOBODY
    if index != NOBODY:
        s.free_device = s.devices[index].next_free
    else:
        index = <uint32_t> s.devices_end
        s.devices_end += 1
    s.n_devices += 1
    s.devices[index].number = number
    s.devices[index].in_use = True
    map_device(s, number, index)
    return index


cdef void free_device(State *s, uint32_t index) noexcept nogil:
    """Forget all that is known of a device, but for its place in the map."""
    memset(&s.devices[index], 0, sizeof(Device))
    memset(&s.loads[index], 0, sizeof(Load))
    memset(&s.carries[index], 0, sizeof(Carry))
    memset(s.last_sequence + (<uint64_t> index << s.cpu_shift), 0, 4 << s.cpu_shift)
    s.devices[index].next_free = s.free_device
    s.free_device = index
    s.n_devices -= 1


cdef inline void moments_reset(Moments *m) noexcept nogil:
    memset(m, 0, sizeof(Moments))
    m.min = <uint64_t> -1


cdef Account *open_account(State *s, uint32_t device, unsigned int cell) noexcept nogil:
    """The account of a device, operation and direction at its first match in an interval."""
    cdef Account *a = s.accounts[s.n_active]
    s.n_active += 1
    s.devices[device].accounts[cell] = a
    memset(a, 0, sizeof(Account))
    a.device = device
    a.row.device = s.devices[device].number
    a.row.op = op_of(cell)
    a.row.direction = cell & 3
    moments_reset(&a.row.size_bytes)
    moments_reset(&a.row.d2c_us)
    moments_reset(&a.row.throughput)
    moments_reset(&a.row.d2c_ns)
    return a


cdef QueueAccount *open_queue_account(State *s, uint32_t device, unsigned int op) noexcept nogil:
    """Likewise, at the first match with a queue record."""
    cdef QueueAccount *a = s.queue_accounts[s.n_queue_active]
    s.n_queue_active += 1
    s.devices[device].queue_accounts[op] = a
    memset(a, 0, sizeof(QueueAccount))
    a.device = device
    a.row.device = s.devices[device].number
    a.row.op = op
    moments_reset(&a.row.q2d_ns)
    moments_reset(&a.row.q2c_ns)
    return a


cdef void close_accounts(State *s) noexcept nogil:
    """The interval has ended, and all was moved out: accounts and blocks are free again."""
    cdef uint64_t i
    cdef const Account *a
    cdef const QueueAccount *q
    for i in range(s.n_active):
        a = s.accounts[i]
        s.devices[a.device].accounts[a.row.op << 2 | a.row.direction] = NULL
    for i in range(s.n_queue_active):
        q = s.queue_accounts[i]
        s.devices[q.device].queue_accounts[q.row.op] = NULL
    s.n_active = s.n_queue_active = 0
    s.n_blocks = 1                              # the first is none


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
        a = open_queue_account(s, m.device, op_of(m.cell))
    a.row.requests += 1
    moments_add(&a.row.q2d_ns, m.q2d_ns)
    moments_add(&a.row.q2c_ns, q2c_ns)
    counter(s, &a.q2d, bin_of(m.q2d_ns))[0] += 1
    counter(s, &a.q2c, bin_of(q2c_ns))[0] += 1


# --- handing out ------------------------------------------------------------------------------

cdef uint64_t count_sizes(State *s, const Account *a, uint64_t mark) noexcept nogil:
    """How many bins move_sizes() moves. State.by_bin holds no such mark."""
    cdef uint64_t n = 0
    cdef unsigned int block, i, bin
    for block in range(BLOCKS):
        if a.sizes.block[block] == 0:
            continue
        for i in range(BLOCK):
            if s.blocks[<uint64_t> a.sizes.block[block] * BLOCK + i] == 0:
                continue
            bin = block * BLOCK + i
            bin = bin - SIZE_SLOTS if bin >= SIZE_SLOTS else bin_of(bin << 9)
            n += s.by_bin[bin] != mark          # several sizes may share a bin
            s.by_bin[bin] = mark
    return n


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


cdef void close_squares(
    Moments *m, uint64_t requests, const Bin *first, const Bin *end
) noexcept nogil:
    """Say so where a sum of squares may have been more than 128 bits hold, by the bins."""
    cdef uint128_t most = <uint128_t> 0 - 1
    cdef unsigned int shift
    cdef double above, sum_above = 0            # the values of a bin; their squares' sum
    if m.max == 0 or requests <= most // (<uint128_t> m.max * m.max):
        return
    while first != end:
        shift = max(first.bin // BLOCK, <uint32_t> 1) - 1
        above = <double> (first.bin - shift * BLOCK + 1) * <double> (<uint64_t> 1 << shift)
        sum_above += above * above * <double> first.count
        first += 1
    if sum_above >= 2.0 ** 128:
        m.squ = most


cdef void close_row(Row *row) noexcept nogil:
    """Complete a row in which something was counted: truncation to us keeps the order."""
    row.d2c_us.min = row.d2c_ns.min // 1000
    row.d2c_us.max = row.d2c_ns.max // 1000


cdef struct CutSizes:                           # rows and bins that an interval's end hands out
    uint64_t rows
    uint64_t d2c_bins
    uint64_t size_bins
    uint64_t loads
    uint64_t queue_rows
    uint64_t q2d_bins
    uint64_t q2c_bins


cdef void count_rows(State *s, CutSizes *n) noexcept nogil:
    """Behind weigh_requests()."""
    cdef uint64_t i
    memset(n, 0, sizeof(CutSizes))
    memset(s.by_bin, 0, sizeof(s.by_bin))
    n.rows = s.n_active
    for i in range(s.n_active):
        n.d2c_bins += count_bins(s, &s.accounts[i].d2c)
        n.size_bins += count_sizes(s, s.accounts[i], i + 1)
    n.queue_rows = s.n_queue_active
    for i in range(s.n_queue_active):
        n.q2d_bins += count_bins(s, &s.queue_accounts[i].q2d)
        n.q2c_bins += count_bins(s, &s.queue_accounts[i].q2c)
    n.loads = count_load_rows(s)


cdef void move_rows(State *s, Row *out, Bin *d2c_out, Bin *size_out) noexcept nogil:
    cdef uint64_t i
    cdef Account *a
    cdef const Bin *first
    for i in range(s.n_active):
        a = s.accounts[i]
        first = d2c_out
        d2c_out = move_bins(s, &a.d2c, <uint32_t> i, d2c_out)
        size_out = move_sizes(s, a, <uint32_t> i, size_out)
        close_row(&a.row)
        close_squares(&a.row.d2c_ns, a.row.requests, first, d2c_out)
        out[i] = a.row


cdef void move_queue_rows(State *s, QueueRow *out, Bin *q2d_out, Bin *q2c_out) noexcept nogil:
    cdef uint64_t i
    cdef QueueAccount *a
    cdef const Bin *first_q2d
    cdef const Bin *first_q2c
    for i in range(s.n_queue_active):
        a = s.queue_accounts[i]
        first_q2d = q2d_out
        first_q2c = q2c_out
        q2d_out = move_bins(s, &a.q2d, <uint32_t> i, q2d_out)
        q2c_out = move_bins(s, &a.q2c, <uint32_t> i, q2c_out)
        close_squares(&a.row.q2d_ns, a.row.requests, first_q2d, q2d_out)
        close_squares(&a.row.q2c_ns, a.row.requests, first_q2c, q2c_out)
        out[i] = a.row
