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
    # Cells (3 * op + direction) of what has no category but READ and WRITE, one a byte: other,
    # read, write, and both, which is a write to us and a read to the original.
    PLAIN_CELLS = 20 | 0 << 8 | 4 << 16 | 3 << 24


cdef inline unsigned int cell_of(uint32_t category, uint32_t size_bytes) noexcept nogil:
    """Operation and direction that an issue asks for, as 3 * layout.OPS + layout.DIRECTIONS.

    The direction is the original's: READ before WRITE, else bidirectional.
    """
    cdef unsigned int cell = PLAIN_CELLS >> 8 * (category & 3) & 0xff
    if unlikely(category & (CAT_FLUSH | CAT_PC | CAT_DISCARD | CAT_ZONE | CAT_WRITE_ZEROES)):
        if category & CAT_FLUSH and size_bytes == 0:
            return 9 + cell % 3
        if category & CAT_DISCARD:
            return 6 + cell % 3
        if category & CAT_WRITE_ZEROES:
            return 12 + cell % 3
        if category & CAT_ZONE:
            return 15 + cell % 3
        if category & CAT_PC:
            return 18 + cell % 3
    return cell


# --- devices and their accounts ---------------------------------------------------------------

cdef inline uint32_t find_device(State *s, uint32_t number) noexcept nogil:
    """The index of a device; a new one is entered. Room for it has been reserved."""
    cdef uint64_t at = mix(number ^ s.seed[0], s.seed[1]) >> s.device_shift
    cdef DeviceSlot *slot
    while True:
        slot = &s.device_map[at]
        if slot.index == 0:
            s.devices[s.n_devices].number = number
            s.n_devices += 1
            slot.number = number
            slot.index = s.n_devices
        if slot.number == number:
            return slot.index - 1
        at = (at + 1) & s.device_mask


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
    a.row.device = s.devices[device].number
    a.row.op = cell // DIRECTIONS
    a.row.direction = cell % DIRECTIONS
    row_reset(&a.row)
    return a


cdef enum:
    MANY_DEVICES = 16                           # so many accounts are more than the nearest cache


cdef inline Match match_of(
    State *s, uint32_t key, uint32_t category, uint32_t size_bytes, uint64_t d2c_ns, bint failed
) noexcept nogil:
    """What there is to account: category and size are the issue's.

    Has what account() will write to fetched meanwhile.
    """
    cdef Match m
    cdef unsigned int cell = cell_of(category, size_bytes)
    m.account = s.devices[device_of(key)].accounts[cell]
    if unlikely(m.account == NULL):
        m.account = open_account(s, device_of(key), cell)
    m.d2c_ns = d2c_ns
    m.size_bytes = size_bytes
    m.d2c_bin = bin_of(d2c_ns)
    m.size_bin = bin_of(size_bytes)
    m.failed = failed
    if s.n_devices >= MANY_DEVICES:
        prefetch(&m.account.row)
        prefetch(&m.account.row.d2c_us)
        prefetch(&m.account.row.throughput.sum)
        prefetch(&m.account.row.d2c_ns.sum)
        prefetch(&m.account.d2c_bins[m.d2c_bin])
        prefetch(&m.account.size_bins[m.size_bin])
    return m


cdef void account(State *s, const Batch *b) noexcept nogil:
    """Account the matches of a batch."""
    cdef:
        int i
        const Match *m
        Row *row
        uint64_t d2c_us, throughput             # bytes/ms

    s.matches += b.n_matches
    for i in range(b.n_matches):
        m = &b.match[i]
        row = &m.account.row
        if unlikely(row.requests == 0):
            s.active[s.n_active] = m.account
            s.n_active += 1
        d2c_us = m.d2c_ns // 1000
        if likely(d2c_us != 0):
            throughput = m.size_bytes * <uint64_t> 1000 // d2c_us
        else:
            throughput = m.size_bytes * <uint64_t> 1000000 // (m.d2c_ns if m.d2c_ns != 0 else 1)
        row.requests += 1
        row.errors += m.failed
        moments_add(&row.size_bytes, m.size_bytes)
        sums_add(&row.d2c_us, d2c_us)           # its extremes are those in ns, see close_row
        moments_add(&row.throughput, throughput)
        moments_add(&row.d2c_ns, m.d2c_ns)
        row.size_hist[bucket_of(m.size_bytes, 10, SIZE_BUCKETS - 1)] += 1
        row.d2c_hist[bucket_of(d2c_us, 3, D2C_BUCKETS - 1)] += 1
        m.account.size_bins[m.size_bin] += 1
        m.account.d2c_bins[m.d2c_bin] += 1


cdef inline void close_row(Row *row) noexcept nogil:
    """Complete a row in which something was counted: truncation to us keeps the order."""
    row.d2c_us.min = row.d2c_ns.min // 1000
    row.d2c_us.max = row.d2c_ns.max // 1000


# --- handing out ------------------------------------------------------------------------------

cdef inline uint64_t count_bins(const uint32_t *bins, uint64_t low, uint64_t high) noexcept nogil:
    """How many bins between those of two values are not empty."""
    cdef uint64_t n = 0
    cdef unsigned int i
    for i in range(bin_of(low), bin_of(high) + 1):
        n += bins[i] != 0
    return n


cdef inline Bin *move_bins(
    uint32_t *bins, uint64_t low, uint64_t high, uint32_t row, Bin *out
) noexcept nogil:
    """Move what is in the bins between those of two values to out; returns out behind it."""
    cdef unsigned int i
    for i in range(bin_of(low), bin_of(high) + 1):
        if bins[i] != 0:
            out.row = row
            out.bin = i
            out.count = bins[i]
            bins[i] = 0
            out += 1
    return out
