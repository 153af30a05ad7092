# Accounts completed requests, and copies an interval's figures to numpy rows.
#
# Technique: log-linear histograms, as in HdrHistogram. Values below 128 have a bin each; every
# octave above has 64 bins of equal width. A bin that begins at b is at most b/64 wide. So its
# middle is at most 1/128 < 0.79 % off any value in it. 3,776 bins cover 64 bits:
#     shift = max(0, significant bits - 7),  bin = 64 * shift + (value >> shift)
# Histograms are merged by adding their counts. The original's histograms have other limits, in
# whole microseconds. To count a latency once for both histograms, time_bin() adds the two indices.
#
# A device has an index, an account for each operation and direction, and histogram blocks. All
# accounts and blocks are freed at the end of an interval.
#
# Accounting is deferred: an account buffers the usual requests in Account.deferred, and
# count_deferred() adds up to 64 of them at once, in loops that the compiler vectorises.
#
# Entry points: account, with a paired batch; device_for, from prepare_records(); index_of, from
# pair_records(); enter_device and map_device, from Engine; map_device and free_device, from
# free_idle_devices(). From Engine.snapshot(), in this order: account_all_deferred, most_bins,
# copy_rows, copy_queue_rows, close_accounts. index_of and put_low_words_first, from
# move_retry_rows(). spill, from Engine before 32-bit counters overflow.
# account_deferred_by_baseline and account_deferred_by_avx2, for State.account_deferred. Helpers for
# all: cell_of, cell_in, op_of, deferred_of, moments_add and moments_reset. Never allocates.

cdef inline unsigned int bin_of(uint64_t value) noexcept nogil:
    cdef unsigned int shift = width(value | 127) - 7
    return (shift << 6) + <unsigned int> (value >> shift)


cdef inline unsigned int bucket_of(
    uint64_t value, unsigned int delta_bits, unsigned int last
) noexcept nogil:
    """The original's bucket: 0 for 0, i for values up to 2^(delta_bits + i - 1), the rest in last.

    Truncates the value to 32 bits first, as the original does.
    """
    cdef uint32_t v = <uint32_t> value
    cdef unsigned int i
    if v == 0:
        return 0
    i = 1 + bits((v - 1) >> delta_bits)
    return i if i < last else last


cdef inline void moments_add(Moments *m, uint64_t value) noexcept nogil:
    if value < m.min:
        m.min = value
    if value > m.max:
        m.max = value
    m.sum += value
    m.sum_squares += <uint128_t> value * value


cdef enum:
    # Four cells of one byte: without READ and WRITE, with READ, with WRITE, with both. A record
    # with both is a write here, and a read in the original.
    PLAIN_CELLS = (6 << 2 | 2) | 0 << 8 | (1 << 2 | 1) << 16 | (1 << 2) << 24
    # The other categories that determine a cell.
    CAT_CELLS = CAT_FLUSH | CAT_PC | CAT_DISCARD | CAT_ZONE | CAT_WRITE_ZEROES
    # Categories that no ordinary read or write has.
    CAT_ODD = CAT_CELLS | CAT_DRV_DATA | CAT_NOTIFY


cdef inline unsigned int cell_of(uint32_t category, uint32_t size_bytes) noexcept nogil:
    """Operation and direction of an issue: index in layout.OPS << 2 | in layout.DIRECTIONS.

    The direction is the original's: READ before WRITE, else bidirectional.
    """
    cdef unsigned int cell = PLAIN_CELLS >> 8 * (category & 3) & 0xff
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
    """The cell of a Pending.state."""
    return state >> CELL_SHIFT & 0x1f


# --- devices and their accounts ---------------------------------------------------------------

cdef inline uint32_t index_of(const State *s, uint32_t number) noexcept nogil:
    """The index of a device, or NO_DEVICE. The map is an open hash table with linear probing."""
    cdef uint64_t at = mix(number ^ s.seed[0], s.seed[1]) >> s.device_shift
    cdef const DeviceSlot *slot
    while True:
        slot = &s.device_map[at]
        if slot.number == number or slot.index == NO_DEVICE:
            return slot.index
        at = (at + 1) & s.device_mask


cdef void map_device(State *s, uint32_t number, uint32_t index) noexcept nogil:
    """Add a device to the map, which does not have it."""
    cdef uint64_t at = mix(number ^ s.seed[0], s.seed[1]) >> s.device_shift
    while s.device_map[at].index != NO_DEVICE:
        at = (at + 1) & s.device_mask
    s.device_map[at].number = number
    s.device_map[at].index = index


cdef uint32_t enter_device(State *s, uint32_t number) noexcept nogil:
    """Give a device an index. Returns NO_DEVICE if it does not count."""
    cdef uint32_t index = s.free_device
    if s.has_wanted or s.n_devices == s.max_devices:
        s.has_filter = True
        return NO_DEVICE
    if index != NO_DEVICE:
        s.free_device = s.devices[index].next_free
    else:
        index = <uint32_t> s.devices_end
        s.devices_end += 1
    s.n_devices += 1
    s.devices[index].number = number
    s.devices[index].in_use = True
    map_device(s, number, index)
    return index


cdef inline uint32_t device_for(State *s, uint32_t number) noexcept nogil:
    """The index of a device, a new one if needed; NO_DEVICE if it does not count."""
    cdef uint32_t index = index_of(s, number)
    return index if likely(index != NO_DEVICE) else enter_device(s, number)


cdef void free_device(State *s, uint32_t index) noexcept nogil:
    """Forget a device. The caller rebuilds the map."""
    memset(&s.devices[index], 0, sizeof(Device))
    memset(&s.loads[index], 0, sizeof(Load))
    memset(&s.integrals[index], 0, sizeof(InFlightIntegral))
    memset(s.last_sequence + (<uint64_t> index << s.cpu_shift), 0, 4 << s.cpu_shift)
    s.devices[index].next_free = s.free_device
    s.free_device = index
    s.n_devices -= 1


cdef inline void moments_reset(Moments *m) noexcept nogil:
    memset(m, 0, sizeof(Moments))
    m.min = <uint64_t> -1


cdef inline void put_low_words_first(Moments *m) noexcept nogil:
    """Store sums as layout.MOMENTS has them. C cannot add to them afterwards."""
    m.sum = low_word_first(m.sum)
    m.sum_squares = low_word_first(m.sum_squares)


cdef Account *open_account(State *s, uint32_t device, unsigned int cell) noexcept nogil:
    """Reserve the account of a device, operation and direction, at its first request."""
    cdef Account *a = s.accounts[s.n_active]
    s.n_active += 1
    s.devices[device].accounts[cell] = a
    memset(a, 0, sizeof(Account))
    a.device = device
    a.op = op_of(cell)
    a.direction = cell & 3
    moments_reset(&a.throughput)
    moments_reset(&a.d2c_ns)
    moments_reset(&a.size_bytes)
    return a


cdef QueueAccount *open_queue_account(State *s, uint32_t device, unsigned int op) noexcept nogil:
    """Reserve the queue account of a device and operation, at its first request."""
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
    """Free all accounts and blocks at the end of an interval."""
    cdef uint64_t i
    cdef const Account *a
    cdef const QueueAccount *q
    for i in range(s.n_active):
        a = s.accounts[i]
        s.devices[a.device].accounts[a.op << 2 | a.direction] = NULL
    for i in range(s.n_queue_active):
        q = s.queue_accounts[i]
        s.devices[q.device].queue_accounts[q.row.op] = NULL
    s.n_active = s.n_queue_active = 0
    memset(s.blocks, 0, s.n_blocks * BLOCK * sizeof(uint32_t))
    if s.n_spilled != 0:
        memset(s.spilled, 0, s.n_spilled * BLOCK * sizeof(uint64_t))
    s.n_blocks = 1                              # block 0 is not used
    s.n_spilled = 0
    s.spilled_at = s.matches_before = s.matches


# --- histograms -------------------------------------------------------------------------------
#
# Bins are counted in blocks of 64, which are reserved when they are first used. Account.block has
# 128 indices into State.blocks; 0 means an empty block. The index of size block 0 is element 3,
# that of size block 1 is element 2, and so on. The index of latency block FIRST_TIME is element 4,
# the next one is element 5, and so on. Both sequences wrap around. So the indices for the usual
# sizes (below 128 KiB) and latencies (8 us to 34 ms) share a cache line.

cdef enum:
    FIRST_TIME = 8                              # 8192 ns
    PLAIN_US = 1 << 26                          # up to here, the bit length gives the bucket


cdef inline unsigned int time_bin(uint64_t ns, uint64_t us) noexcept nogil:
    """bin_of(ns) plus the original's bucket of us, which is ns // 1000.

    As both grow with the latency, their sum determines both: see bucket_end(). Here, latencies of
    2^32 us and more are in the last bucket; account_unusual() corrects that.
    """
    if likely(us - 1 < PLAIN_US):
        return bin_of(ns) + 1 + bits((us - 1) >> 3)
    return bin_of(ns) + (D2C_BUCKETS - 1 if us != 0 else 0)


cdef inline unsigned int bucket_end(unsigned int bucket) noexcept nogil:
    """The first time_bin() after those of one of the original's buckets; the last has no end."""
    if bucket == D2C_BUCKETS - 1:
        return <unsigned int> -1
    return bin_of(1000 * ((<uint64_t> 4 << bucket) + 1 if bucket != 0 else 1)) + bucket + 1


cdef inline unsigned int size_bin(uint64_t size_bytes) noexcept nogil:
    """The bin of a size: one for each multiple of 512 below 1 MiB, then those of bin_of()."""
    if likely(size_bytes & 511 == 0 and size_bytes < SIZE_SLOTS << 9):
        return <unsigned int> (size_bytes >> 9)
    return SIZE_SLOTS + bin_of(size_bytes)


cdef inline uint32_t *times_of(Account *a) noexcept nogil:
    """The block indices for latencies in an account, as in QueueAccount.q2d."""
    return &a.block[NEAR_SIZES]


cdef inline uint32_t *time_block(uint32_t *times, unsigned int block) noexcept nogil:
    return &times[(block - FIRST_TIME) & (TIME_BLOCKS - 1)]


cdef inline uint32_t *size_block(Account *a, unsigned int block) noexcept nogil:
    return &a.block[(NEAR_SIZES - 1 - block) & (INDICES - 1)]


cdef inline uint32_t *counter(State *s, uint32_t *block, unsigned int bin) noexcept nogil:
    """The counter of a bin; reserves its block if needed."""
    if unlikely(block[0] == 0):
        block[0] = <uint32_t> s.n_blocks
        s.n_blocks += 1
    return &s.blocks[<uint64_t> block[0] * BLOCK + bin % BLOCK]


cdef inline uint32_t *time_counter(State *s, uint32_t *times, unsigned int bin) noexcept nogil:
    return counter(s, time_block(times, bin // BLOCK), bin)


cdef inline uint32_t *size_counter(State *s, Account *a, unsigned int bin) noexcept nogil:
    return counter(s, size_block(a, bin // BLOCK), bin)


cdef void spill(State *s) noexcept nogil:
    """Add all 32-bit counters to 64-bit ones before one can overflow."""
    cdef uint64_t at
    for at in range(s.n_blocks * BLOCK):
        s.spilled[at] += s.blocks[at]
        s.blocks[at] = 0
    s.n_spilled = s.n_blocks
    s.spilled_at = s.matches


cdef inline uint64_t count_in(const State *s, uint64_t block, unsigned int i) noexcept nogil:
    cdef uint64_t at = block * BLOCK + i
    return s.blocks[at] + (s.spilled[at] if block < s.n_spilled else 0)


cdef inline unsigned int take_first_bit(uint64_t *bits_left) noexcept nogil:
    """Clear the lowest bit that is set; returns its number."""
    cdef unsigned int first = first_bit64(bits_left[0])
    bits_left[0] &= bits_left[0] - 1
    return first


cdef inline uint64_t filled_bins(const State *s, uint64_t block) noexcept nogil:
    """A bit for each bin of a block: set if the bin is not empty.

    Bins are filled at random: a loop over these bits is predicted better than one over all bins.
    """
    cdef unsigned int i
    cdef uint64_t filled = 0
    cdef Group sixteen[4]                       # for its size and alignment
    cdef uint8_t *is_filled = sixteen[0].tag
    cdef const uint32_t *counts = &s.blocks[block * BLOCK]
    cdef const uint64_t *spilled
    for i in range(BLOCK):
        is_filled[i] = counts[i] != 0
    if block < s.n_spilled:
        spilled = &s.spilled[block * BLOCK]
        for i in range(BLOCK):
            if spilled[i] != 0:
                is_filled[i] = 1
    for i in range(4):
        filled |= <uint64_t> bytes_equal(&sixteen[i], all_lanes(0x01010101)) << 16 * i
    return filled


cdef Bin *copy_times(
    const State *s, uint32_t *times, uint32_t row, Bin *out, uint64_t *requests, uint64_t *hist
) noexcept nogil:
    """Copy latencies to out as bins of bin_of(); returns the end of what was written.

    Adds to requests[0], and to hist, the original's histogram, unless it is NULL.
    """
    cdef uint64_t block, count, filled
    cdef unsigned int index, i, bin
    cdef unsigned int bucket = 0
    cdef unsigned int end = bucket_end(0)
    cdef const Bin *first = out
    for index in range(TIME_BLOCKS):
        block = time_block(times, index)[0]
        if block == 0:
            continue
        filled = filled_bins(s, block)
        while filled:
            i = take_first_bit(&filled)
            count = count_in(s, block, i)
            while index * BLOCK + i >= end:     # the bins of a bucket follow those of a smaller one
                bucket += 1
                end = bucket_end(bucket)
            bin = index * BLOCK + i - bucket
            if out != first and (out - 1).bin == bin:
                (out - 1).count += count
            else:
                out.row = row
                out.bin = bin
                out.count = count
                out += 1
            requests[0] += count
            if hist != NULL:
                hist[bucket] += count
    return out


# --- accounting -------------------------------------------------------------------------------

cdef enum:
    MANY_DEVICES = 512                          # their accounts outgrow the second-level cache


cdef inline uint64_t quotient(uint64_t a, uint64_t b) noexcept nogil:
    """a // b for a below 2^52, by double division: several times faster on many processors.

    The result is exact. If a / b is below an integer k, it is below k by at least 1 / b. As k * b
    is less than 2^53, rounding never reaches k. If b is greater than a, the result is 0.
    """
    return <uint64_t> <int64_t> (<double> <int64_t> a / <double> <int64_t> b)


cdef void account_unusual(Account *a, const Match *m, uint64_t d2c_us) noexcept nogil:
    """Account the rare parts of a request: an error, an unusual size, a latency over an hour."""
    a.errors += m.error != 0
    if m.size_bytes & 511 or m.size_bytes >= SIZE_SLOTS << 9:
        size_add(&a.size_bytes, a.size_hist, m.size_bytes, 1)
    if d2c_us >> 32 != 0:                       # the original uses the lower 32 bits
        a.d2c_hist[D2C_BUCKETS - 1] -= 1
        a.d2c_hist[bucket_of(d2c_us, 3, D2C_BUCKETS - 1)] += 1


cdef inline void account_match(
    Account *a, const Match *m, uint64_t d2c_us, uint32_t *d2c, uint32_t *size
) noexcept nogil:
    """Account a request, given the counters of its latency and its size."""
    cdef uint64_t throughput                    # bytes/ms
    if likely(d2c_us != 0):
        throughput = quotient(m.size_bytes * <uint64_t> 1000, d2c_us)
    else:
        throughput = m.size_bytes * <uint64_t> 1000000 // (m.d2c_ns if m.d2c_ns != 0 else 1)
    a.d2c_us_sum += d2c_us                      # copy_rows() computes min, max and sizes
    a.d2c_us_squares += <uint128_t> d2c_us * d2c_us
    moments_add(&a.throughput, throughput)
    moments_add(&a.d2c_ns, m.d2c_ns)
    d2c[0] += 1
    size[0] += 1
    if unlikely((m.size_bytes & 511) | m.error | (d2c_us >> 32) | (m.size_bytes >> 20)):
        account_unusual(a, m, d2c_us)


# --- deferred accounting ----------------------------------------------------------------------
#
# Nearly all requests are usual: see is_usual(). Such a request waits in its account's buffer until
# DEFERRED of them are there or the interval ends. Then count_deferred() accounts them in simple
# loops, which the compiler vectorises. The results are exact.

cdef enum:
    UNUSUAL_SIZE = 0xfff001ff                   # bits that no multiple of 512 below 1 MiB has
    LEAST_USUAL_NS = 1000                       # below, throughput has another formula
    MOST_USUAL_NS = 0xffffffff
    IN_MATCH = NO_DEVICE                        # in Done.word

cdef inline bint is_usual(const Match *m) noexcept nogil:
    return (
        LEAST_USUAL_NS <= m.d2c_ns <= <uint64_t> MOST_USUAL_NS
        and m.size_bytes & <uint32_t> UNUSUAL_SIZE | m.error == 0
    )


cdef inline uint64_t deferred_of(uint64_t d2c_ns, uint64_t size_bytes) noexcept nogil:
    """A usual request in Account.deferred."""
    return d2c_ns | size_bytes << 32


cdef inline void defer(State *s, Account *a, uint64_t deferred) noexcept nogil:
    """Append a usual request to Account.deferred."""
    a.deferred[a.n_deferred] = deferred
    a.n_deferred += 1
    s.n_blocks_owed += 2
    if unlikely(a.n_deferred == DEFERRED):
        s.account_deferred(s, a)


cdef union Floats:
    float value[DEFERRED]
    uint32_t bits[DEFERRED]


cdef inline void count_deferred(State *s, Account *a, unsigned int n) noexcept nogil:
    """Account the n requests that an account has deferred.

    A quotient of doubles is exact here: see quotient(). Bins come from the upper bits of floats:
    the exponent gives the octave, and the first six bits of the mantissa the bin in it. Each value
    is halved, as only signed 32-bit integers become floats fast. Before, its eighth bit is cleared,
    and some lower ones: so it is not rounded up to the next bin. The float of half an n-bit value
    has the biased exponent n + 125. The octave of the value begins with bin 64 * (n - 6), so 131
    octaves are subtracted. The 1 is the one that time_bin() adds.
    """
    cdef:
        unsigned int i
        uint32_t d2c_ns[DEFERRED]
        uint32_t d2c_us[DEFERRED]
        uint32_t size[DEFERRED]
        int32_t throughput[DEFERRED]
        uint32_t bin[DEFERRED]
        Floats half
        Floats eighth
        uint32_t least = <uint32_t> -1
        uint32_t most = 0
        uint64_t square, sum = 0, squares = 0, squares_high = 0
    for i in range(n):
        d2c_ns[i] = <uint32_t> a.deferred[i]
        size[i] = <uint32_t> (a.deferred[i] >> 32)
    for i in range(n):
        least = min(least, d2c_ns[i])
        most = max(most, d2c_ns[i])
        sum += d2c_ns[i]
        square = <uint64_t> d2c_ns[i] * d2c_ns[i]
        squares += <uint32_t> square
        squares_high += square >> 32
    a.d2c_ns.min = min(a.d2c_ns.min, <uint64_t> least)
    a.d2c_ns.max = max(a.d2c_ns.max, <uint64_t> most)
    a.d2c_ns.sum += sum
    a.d2c_ns.sum_squares += squares + (<uint128_t> squares_high << 32)
    sum = squares = 0
    for i in range(n):
        d2c_us[i] = d2c_ns[i] // 1000
        sum += d2c_us[i]
        squares += <uint64_t> d2c_us[i] * d2c_us[i]
    a.d2c_us_sum += sum
    a.d2c_us_squares += squares
    for i in range(n):
        throughput[i] = <int32_t> (
            <double> <int32_t> (size[i] * 1000) / <double> <int32_t> d2c_us[i]
        )
    least = <uint32_t> -1
    most = 0
    sum = squares = squares_high = 0
    for i in range(n):
        least = min(least, <uint32_t> throughput[i])
        most = max(most, <uint32_t> throughput[i])
        sum += <uint32_t> throughput[i]
        square = <uint64_t> <uint32_t> throughput[i] * <uint32_t> throughput[i]
        squares += <uint32_t> square
        squares_high += square >> 32
    a.throughput.min = min(a.throughput.min, <uint64_t> least)
    a.throughput.max = max(a.throughput.max, <uint64_t> most)
    a.throughput.sum += sum
    a.throughput.sum_squares += squares + (<uint128_t> squares_high << 32)
    for i in range(n):
        half.value[i] = <float> <int32_t> ((d2c_ns[i] & ~(d2c_ns[i] >> 7)) >> 1)
        eighth.value[i] = <float> <int32_t> (d2c_us[i] - 1 >> 3)
    for i in range(n):                          # time_bin()
        bin[i] = (half.bits[i] >> 17) - (131 * 64 - 1)
        bin[i] += max(eighth.bits[i] >> 23, <uint32_t> 126) - 126
    for i in range(n):
        time_counter(s, times_of(a), bin[i])[0] += 1
        size_counter(s, a, size[i] >> 9)[0] += 1
    s.n_blocks_owed -= 2 * n
    a.n_deferred = 0


cdef inline void account_deferred(State *s, Account *a) noexcept nogil:
    """Account the requests that an account has deferred."""
    if a.n_deferred == DEFERRED:
        count_deferred(s, a, DEFERRED)          # a constant, for the compiler
    else:
        count_deferred(s, a, <unsigned int> a.n_deferred)


cdef void account_deferred_by_baseline(State *s, Account *a) noexcept nogil:
    account_deferred(s, a)


cdef avx2_void account_deferred_by_avx2(State *s, Account *a) noexcept nogil:
    account_deferred(s, a)


cdef void account_all_deferred(State *s) noexcept nogil:
    """Account every deferred request."""
    cdef uint64_t i
    for i in range(s.n_active):
        if s.accounts[i].n_deferred:
            s.account_deferred(s, s.accounts[i])


cdef void account_singly(State *s, Account *a, const Match *m) noexcept nogil:
    """Account a request that need not be usual, and may have a queue time."""
    cdef uint64_t d2c_us = m.d2c_ns // 1000
    if m.q2d_ns != NOT_QUEUED:
        account_queue(s, m)
    if is_usual(m):
        defer(s, a, deferred_of(m.d2c_ns, m.size_bytes))
        return
    account_match(
        a, m, d2c_us, time_counter(s, times_of(a), time_bin(m.d2c_ns, d2c_us)),
        size_counter(s, a, size_bin(m.size_bytes)),
    )


cdef inline Account *account_of(
    State *s, Batch *b, int i, const Match *m
) noexcept nogil:
    """The account of element i of Batch.done; m is the next element of Batch.match."""
    cdef uint64_t word = b.done[i].word
    cdef uint32_t device = device_of(<uint32_t> word)
    cdef unsigned int cell = cell_in(word >> 32)
    cdef Account *a
    if unlikely(word == IN_MATCH):
        device = m.device
        cell = m.cell
    a = s.devices[device].accounts[cell]
    if unlikely(a == NULL):
        a = open_account(s, device, cell)
    return a


cdef inline const Match *account_one(
    State *s, Batch *b, int i, const Match *m, Account *a
) noexcept nogil:
    """Account element i of Batch.done. Returns the next element of Batch.match."""
    if likely(b.done[i].word != IN_MATCH):
        defer(s, a, b.done[i].deferred)
        return m
    account_singly(s, a, m)
    return m + 1


cdef void account(State *s, Batch *b) noexcept nogil:
    """Account the requests of a batch.

    If the accounts do not fit the second-level cache, each loop prefetches what the next one needs.
    """
    cdef:
        int i
        int n = b.n_done
        Account *accounts[BATCH]
        const Match *m = b.match
    s.matches += n
    if s.n_devices < MANY_DEVICES:
        for i in range(n):
            m = account_one(s, b, i, m, account_of(s, b, i, m))
        return
    for i in range(n):
        accounts[i] = account_of(s, b, i, m)
        m += b.done[i].word == IN_MATCH
        prefetch(&accounts[i].n_deferred)
    for i in range(n):
        prefetch(&accounts[i].deferred[accounts[i].n_deferred])
    m = b.match
    for i in range(n):
        m = account_one(s, b, i, m, accounts[i])


cdef inline void size_add(
    Moments *m, uint64_t *hist, uint64_t size_bytes, uint64_t requests
) noexcept nogil:
    """Account a number of requests of one size."""
    m.min = min(m.min, size_bytes)
    m.max = max(m.max, size_bytes)
    m.sum += size_bytes * <uint128_t> requests
    m.sum_squares += <uint128_t> (size_bytes * size_bytes) * requests
    hist[bucket_of(size_bytes, 10, SIZE_BUCKETS - 1)] += requests


cdef void account_queue(State *s, const Match *m) noexcept nogil:
    """Account the queue time and the total time of a request."""
    cdef QueueAccount *a = s.devices[m.device].queue_accounts[op_of(m.cell)]
    cdef uint64_t q2c_ns = m.q2d_ns + m.d2c_ns
    if unlikely(a == NULL):
        a = open_queue_account(s, m.device, op_of(m.cell))
    moments_add(&a.row.q2d_ns, m.q2d_ns)
    moments_add(&a.row.q2c_ns, q2c_ns)
    time_counter(s, a.q2d, time_bin(m.q2d_ns, m.q2d_ns // 1000))[0] += 1
    time_counter(s, a.q2c, time_bin(q2c_ns, q2c_ns // 1000))[0] += 1


# --- at a snapshot ----------------------------------------------------------------------------

cdef Bin *copy_sizes(State *s, Account *a, Row *row, uint32_t number, Bin *out) noexcept nogil:
    """Copy sizes to out as bins of bin_of(); returns the end of what was written.

    A stream has few different sizes. Each has its own counter, and is added to the moments and
    buckets only here. State.by_bin is zero before and afterwards.
    """
    cdef uint64_t block, count, filled
    cdef unsigned int index, i, bin
    cdef uint64_t *by_bin = s.by_bin
    cdef uint64_t filled_by_bin[SIZE_WORDS]
    memset(filled_by_bin, 0, sizeof(filled_by_bin))
    row.size_bytes = a.size_bytes
    memcpy(row.size_hist, a.size_hist, sizeof(row.size_hist))
    for index in range(SIZE_BLOCKS):
        block = size_block(a, index)[0]
        if block == 0:
            continue
        filled = filled_bins(s, block)
        while filled:
            i = take_first_bit(&filled)
            count = count_in(s, block, i)
            bin = index * BLOCK + i
            if bin >= SIZE_SLOTS:
                bin -= SIZE_SLOTS
            else:
                size_add(&row.size_bytes, row.size_hist, bin << 9, count)
                bin = bin_of(bin << 9)
            by_bin[bin] += count
            filled_by_bin[bin // 64] |= <uint64_t> 1 << bin % 64
    for index in range(SIZE_WORDS):
        while filled_by_bin[index]:
            bin = index * 64 + take_first_bit(&filled_by_bin[index])
            out.row = number
            out.bin = bin
            out.count = by_bin[bin]
            out += 1
            by_bin[bin] = 0
    return out


cdef void saturate_squares(
    Moments *m, uint64_t requests, const Bin *first, const Bin *end
) noexcept nogil:
    """Set a sum of squares to 2^128-1 if its upper bound, from the bins, exceeds that."""
    cdef uint128_t most = <uint128_t> 0 - 1
    cdef unsigned int shift
    cdef double bin_end, bound = 0
    if m.max == 0 or requests <= most // (<uint128_t> m.max * m.max):
        return
    while first != end:
        shift = max(first.bin // BLOCK, <uint32_t> 1) - 1
        bin_end = <double> (first.bin - shift * BLOCK + 1) * <double> (<uint64_t> 1 << shift)
        bound += bin_end * bin_end * <double> first.count
        first += 1
    if bound >= 2.0 ** 128:
        m.sum_squares = most


cdef uint64_t most_bins(const State *s) noexcept nogil:
    """Upper bound of the number of non-empty bins of one kind in this interval."""
    return min((s.n_blocks - 1) * BLOCK, s.matches - s.matches_before)


cdef Bin *copy_rows(State *s, Row *out, Bin *d2c_bins, Bin **size_bins) noexcept nogil:
    """Copy the accounts to out, and their bins; returns the end of d2c_bins, moves *size_bins."""
    cdef uint64_t i
    cdef Account *a
    cdef Row *row
    cdef const Bin *first
    for i in range(s.n_active):
        a = s.accounts[i]
        row = &out[i]
        memset(row, 0, sizeof(Row))
        row.device = s.devices[a.device].number
        row.op = a.op
        row.direction = a.direction
        row.errors = a.errors
        memcpy(row.d2c_hist, a.d2c_hist, sizeof(row.d2c_hist))
        first = d2c_bins
        d2c_bins = copy_times(
            s, times_of(a), <uint32_t> i, d2c_bins, &row.requests, row.d2c_hist
        )
        size_bins[0] = copy_sizes(s, a, row, <uint32_t> i, size_bins[0])
        row.d2c_ns = a.d2c_ns
        saturate_squares(&row.d2c_ns, row.requests, first, d2c_bins)
        row.d2c_us.min = a.d2c_ns.min // 1000   # truncation keeps the order
        row.d2c_us.max = a.d2c_ns.max // 1000
        row.d2c_us.sum = a.d2c_us_sum
        row.d2c_us.sum_squares = a.d2c_us_squares
        row.throughput = a.throughput
        put_low_words_first(&row.d2c_us)
        put_low_words_first(&row.throughput)
        put_low_words_first(&row.d2c_ns)
        put_low_words_first(&row.size_bytes)
    return d2c_bins


cdef Bin *copy_queue_rows(
    const State *s, QueueRow *out, Bin *q2d_bins, Bin **q2c_bins
) noexcept nogil:
    """Copy the queue accounts to out, and their bins, as copy_rows() does."""
    cdef uint64_t i
    cdef uint64_t requests                      # the same number for q2d and q2c
    cdef QueueAccount *a
    cdef const Bin *first_q2d
    cdef const Bin *first_q2c
    for i in range(s.n_queue_active):
        a = s.queue_accounts[i]
        out[i] = a.row
        first_q2d = q2d_bins
        first_q2c = q2c_bins[0]
        requests = 0
        q2d_bins = copy_times(s, a.q2d, <uint32_t> i, q2d_bins, &out[i].requests, NULL)
        q2c_bins[0] = copy_times(s, a.q2c, <uint32_t> i, q2c_bins[0], &requests, NULL)
        saturate_squares(&out[i].q2d_ns, requests, first_q2d, q2d_bins)
        saturate_squares(&out[i].q2c_ns, requests, first_q2c, q2c_bins[0])
        put_low_words_first(&out[i].q2d_ns)
        put_low_words_first(&out[i].q2c_ns)
    return q2d_bins
