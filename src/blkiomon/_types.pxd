# C structs, enums and the few intrinsics of the engine. Types only: no logic lives in a .pxd.
#
# Every struct that leaves the engine has its numpy twin in layout.py; the two are compared in
# tests/test_layout.py.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


# --- a trace record as it stands in a stream: unaligned, in the traced machine's byte order ---

cdef packed struct TraceV7:                     # layout.TRACE_V7, 48 bytes
    uint32_t magic
    uint32_t sequence
    uint64_t time
    uint64_t sector
    uint32_t bytes
    uint32_t action
    uint32_t pid
    uint32_t device
    uint32_t cpu
    uint16_t error
    uint16_t pdu_len

cdef packed struct TraceV8:                     # layout.TRACE_V8, 64 bytes
    uint32_t magic
    uint32_t sequence
    uint64_t time
    uint64_t sector
    uint32_t bytes
    uint32_t pid
    uint64_t action
    uint32_t device
    uint32_t cpu
    uint16_t error
    uint16_t pdu_len
    uint8_t pad[12]

cdef enum:
    MAGIC = 0x65617400                          # or'ed with the version
    HEADER_V7 = 48
    HEADER_V8 = 64
    MAX_RECORD = 64 + 65535                     # longest header, longest payload


# --- a record of either version in host byte order --------------------------------------------

cdef struct Record:                             # layout.RECORD, 48 bytes: for users
    uint64_t time_ns
    uint64_t sector                             # 512 bytes each
    uint64_t action                             # event in bits 0-15, categories from bit 16
    uint32_t sequence
    uint32_t bytes
    uint32_t pid
    uint32_t device
    uint32_t cpu
    uint16_t error
    uint16_t pdu_len

cdef struct Detail:                             # layout.DETAIL, 56 bytes
    Record record
    uint64_t order                              # zero-based position among all records

cdef struct Mismatch:                           # layout.MISMATCH, 112 bytes
    Detail older
    Detail younger

cdef enum:                                      # category bits, that is action >> 16
    CAT_READ = 1 << 0
    CAT_WRITE = 1 << 1
    CAT_FLUSH = 1 << 2
    CAT_ISSUE = 1 << 6
    CAT_COMPLETE = 1 << 7
    CAT_FS = 1 << 8
    CAT_PC = 1 << 9
    CAT_DISCARD = 1 << 13
    CAT_DRV_DATA = 1 << 14
    CAT_ZONE = 0x3f << 16                       # append, reset, reset all, finish, open, close
    CAT_WRITE_ZEROES = 1 << 22
    CAT_ALL = (1 << 23) - 1
    CAT_PAIRED = 1 << 6 | 1 << 7 | 1 << 14      # what the engine looks at: the rest is skipped

cdef enum:
    EVENT_ISSUE = 7
    EVENT_COMPLETE = 8
    EVENT_LAST = 19
    EVENT_CGROUP = 1 << 8                       # flag: the payload begins with a cgroup id


# --- pending requests -------------------------------------------------------------------------

cdef struct Pending:                            # 32 bytes, two a cache line
    uint64_t sector
    uint64_t time_ns
    uint32_t key                                # see key_of()
    uint32_t category                           # bits 0-22 of the record, and FAILED
    uint32_t bytes
    uint32_t detail                             # index into the pool of full records, if kept

cdef enum:
    FAILED = 1 << 31                            # in Pending.category: a completion with an error
    GROUP = 15                                  # slots in a group

cdef struct Group:                              # what is in 15 slots, 16 bytes, aligned
    uint8_t tag[GROUP]                          # 8 bits of the hash, never 0; 0: the slot is empty
    uint8_t passed                              # to the next group, this one being full: so many
    # (255: nobody knows how many, and it stays)

cdef struct Place:                              # where in the table a request belongs
    uint32_t home                               # the first group to look at
    uint8_t tag

cdef struct Kept:                               # a pending record in full, 64 bytes
    Detail detail
    uint64_t stored                             # order of the record whose handling stored it

cdef struct Victim:                             # a candidate for eviction, 24 bytes
    uint64_t time_ns
    uint64_t sector
    uint32_t device                             # major:minor here: the order must not depend
    uint32_t direction                          # on the order in which devices were first seen


# --- accounting -------------------------------------------------------------------------------

cdef extern from *:
    """
    typedef unsigned __int128 bk_uint128;
    """
    ctypedef unsigned long long uint128_t "bk_uint128"

cdef struct Moments:                            # layout.MOMENTS, 48 bytes
    uint64_t min                                # 2^64-1 where nothing was counted
    uint64_t max
    uint128_t sum
    uint128_t squ                               # sum of squares

cdef enum:
    SIZE_BUCKETS = 16                           # the original's histograms
    D2C_BUCKETS = 25
    SIZE_BINS = 1728                            # ours, see _stats.pxi
    D2C_BINS = 3776
    OPS = 7                                     # layout.OPS, by number
    DIRECTIONS = 3                              # layout.DIRECTIONS, by number
    ROW_HEAD = 8                                # the bytes of Row that say what it is about

cdef struct Row:                                # layout.ROW, 560 bytes
    uint32_t device                             # major:minor
    uint16_t op
    uint16_t direction
    uint64_t errors
    uint64_t requests
    uint64_t pad
    Moments size_bytes
    Moments d2c_us
    Moments throughput
    Moments d2c_ns
    uint64_t size_hist[SIZE_BUCKETS]
    uint64_t d2c_hist[D2C_BUCKETS]
    uint64_t pad2

cdef struct Account:                            # everything kept of one device, op and direction
    Row row
    uint32_t size_bins[SIZE_BINS]
    uint32_t d2c_bins[D2C_BINS]
    uint64_t pad[2]                             # to a multiple of the cache line: 22,592 bytes

cdef struct Match:                              # a request to be accounted, 32 bytes
    Account *account
    uint64_t d2c_ns
    uint32_t size_bytes
    uint16_t d2c_bin
    uint16_t size_bin
    bint failed

cdef struct Bin:                                # layout.BIN, 16 bytes: a bin that is not empty
    uint32_t row
    uint32_t bin
    uint64_t count

cdef struct Device:
    uint32_t number                             # major:minor
    Account *accounts[21]                       # OPS * DIRECTIONS; NULL until the first match

cdef struct DeviceSlot:                         # a slot of the map from major:minor to index
    uint32_t number
    uint32_t index                              # plus 1; 0: the slot is empty


# --- what the kernels work on -----------------------------------------------------------------

cdef struct State:
    # the table of pending requests
    Group *groups                               # group_mask + 1 of them, a power of two
    Pending *slots                              # GROUP for every group, in their order
    uint64_t group_mask
    unsigned int shift                          # from a 64-bit hash to a group
    uint64_t pending                            # slots in use, at most 4/5, and max_pending
    uint64_t seed[2]
    # its bounds
    uint64_t max_pending
    uint64_t max_age_ns
    uint64_t now_ns                             # time of the latest issue or completion
    uint64_t oldest_ns                          # nothing that is pending is older
    Victim *victims                             # heap, oldest on top: the n_victims oldest that
    uint64_t n_victims                          # are pending, and some that no longer are
    uint64_t max_victims
    Victim youngest_victim                      # all that is pending and older is in the heap
    # full records, where wanted
    bint keep_details
    Kept *kept
    uint32_t kept_free                          # head of the list of free entries
    uint64_t n_kept
    uint64_t kept_room
    Mismatch *mismatch                          # those since they were last taken
    uint64_t n_mismatch
    uint64_t mismatch_room
    bint keep_driver_data
    uint8_t *driver                             # driver data since it was last taken
    uint64_t n_driver
    uint64_t driver_room
    # devices and their accounts
    Device *devices
    uint32_t n_devices
    DeviceSlot *device_map                      # device_mask + 1 of them, at most half in use
    uint64_t device_mask
    unsigned int device_shift
    Account *spare_accounts
    uint64_t n_spare_accounts
    Account **active                            # accounts with a match in this interval, in the
    uint64_t n_active                           # order of their first
    # totals since the start
    uint64_t records
    uint64_t matches
    uint64_t mismatches
    uint64_t driver_data
    uint64_t evicted
    uint64_t lost                               # events, as the tracer's marks say
    uint64_t skipped_bytes


# --- intrinsics -------------------------------------------------------------------------------

cdef extern from *:
    """
    /* which of a group's tags are this one: bit i for tag[i] */
    #ifdef __SSE2__
    #include <emmintrin.h>
    static inline unsigned int bk_tags_equal(const void *group, uint8_t tag) {
        __m128i tags = _mm_load_si128((const __m128i *)group);
        return _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag))) & 0x7fff;
    }
    #else
    static inline unsigned int bk_tags_equal(const void *group, uint8_t tag) {
        unsigned int equal = 0;
        for (int i = 0; i < 15; i++)
            equal |= (unsigned int)(((const uint8_t *)group)[i] == tag) << i;
        return equal;
    }
    #endif
    #define bk_first_bit(x) __builtin_ctz(x)
    #define bk_prefetch(p) __builtin_prefetch((p), 1)
    #define bk_prefetch_input(p) __builtin_prefetch((p), 0)
    #define bk_likely(x) __builtin_expect(!!(x), 1)
    #define bk_unlikely(x) __builtin_expect(!!(x), 0)
    #define bk_swap16(x) __builtin_bswap16(x)
    #define bk_swap32(x) __builtin_bswap32(x)
    #define bk_swap64(x) __builtin_bswap64(x)
    /* number of significant bits; 0 for 0, without a branch; x below 2^63 */
    #define bk_bits(x) (63 - __builtin_clzll(((uint64_t)(x) << 1) | 1))
    /* the same for any x but 0 */
    #define bk_width(x) (64 - __builtin_clzll(x))
    /* both halves of the 128-bit product folded into one: a strong and cheap mixer */
    static inline uint64_t bk_mix(uint64_t a, uint64_t b) {
        bk_uint128 product = (bk_uint128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    """
    unsigned int tags_equal "bk_tags_equal"(const Group *group, uint8_t tag) noexcept nogil
    unsigned int first_bit "bk_first_bit"(unsigned int x) noexcept nogil
    void prefetch_input "bk_prefetch_input"(const void *p) noexcept nogil
    void prefetch "bk_prefetch"(const void *p) noexcept nogil
    bint likely "bk_likely"(bint x) noexcept nogil
    bint unlikely "bk_unlikely"(bint x) noexcept nogil
    uint16_t swap16 "bk_swap16"(uint16_t x) noexcept nogil
    uint32_t swap32 "bk_swap32"(uint32_t x) noexcept nogil
    uint64_t swap64 "bk_swap64"(uint64_t x) noexcept nogil
    unsigned int bits "bk_bits"(uint64_t x) noexcept nogil
    unsigned int width "bk_width"(uint64_t x) noexcept nogil
    uint64_t mix "bk_mix"(uint64_t a, uint64_t b) noexcept nogil
