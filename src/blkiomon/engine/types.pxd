# C structs, enums and the few intrinsics of the engine. Types only: no logic lives in a .pxd.
#
# Every struct that leaves the engine has its numpy twin in layout.py; the two are compared in
# tests/test_engine.py.

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
    CAT_QUEUE = 1 << 4
    CAT_REQUEUE = 1 << 5
    CAT_ISSUE = 1 << 6
    CAT_COMPLETE = 1 << 7
    CAT_FS = 1 << 8
    CAT_PC = 1 << 9
    CAT_NOTIFY = 1 << 10
    CAT_DISCARD = 1 << 13
    CAT_DRV_DATA = 1 << 14
    CAT_ZONE_APPEND = 1 << 16
    CAT_ZONE = 0x3f << 16                       # append, reset, reset all, finish, open, close
    CAT_WRITE_ZEROES = 1 << 22
    CAT_PAIRED = 1 << 6 | 1 << 7                # what is paired

cdef enum:
    EVENT_QUEUE = 1
    EVENT_BACK_MERGE = 2
    EVENT_FRONT_MERGE = 3
    EVENT_REQUEUE = 6
    EVENT_ISSUE = 7
    EVENT_COMPLETE = 8
    EVENT_LAST = 19
    EVENT_CGROUP = 1 << 8                       # flag: the payload begins with a cgroup id
    CGROUP_ID = 8                               # its bytes
    NOTE_PROCESS = 0                            # events of category NOTIFY
    NOTE_TIMESTAMP = 1
    COMM = 16                                   # bytes of a process name at most


# --- pending requests -------------------------------------------------------------------------

cdef struct Pending:                            # 32 bytes, two a cache line
    uint64_t sector
    uint64_t time_ns
    uint32_t key                                # see key_of()
    uint32_t state
    uint32_t bytes                              # not completed yet; of a completion: its own
    uint32_t at                                 # in a batch: its hash's upper half; in a table:
    # index into the pool of full records, if they are kept

cdef enum:                                      # Pending.state; in its lowest byte, the tag
    CELL_SHIFT = 8                              # five bits: see cell_of()
    CELL_BITS = 0x1f << 8
    IS_ISSUE = 1 << 13
    IS_COMPLETE = 1 << 14
    IS_OTHER = 1 << 15                          # in a batch: neither, see take_other(); in a table:
    # a request of several steps, see multi_step.pxi
    ERROR_SHIFT = 16                            # a completion's error
    IS_COUNTED = 1 << CELL_SHIFT                # a pending completion: an interval ended without
    # its issue, and counted it
    WAS_ISSUED = 1 << 16                        # of several steps: State.history knows more
    IN_FLIGHT = 1 << 17                         # likewise: issued now, and not given back
    WAS_REQUEUED = 1 << 13                      # in State.history
    GROUP = 15                                  # slots in a group

cdef struct Group:                              # what is in 15 slots, 16 bytes, aligned
    uint8_t tag[GROUP]                          # 8 bits of the hash, never 0; 0: the slot is empty
    uint8_t passed                              # to the next group, this one being full: so many
    # (255: nobody knows how many, and it stays)

cdef struct Table:
    Group *groups                               # n_groups of them
    Pending *slots                              # GROUP for every group, in their order
    uint64_t n_groups
    uint64_t used                               # slots, at most MOST_IN_GROUP of GROUP

cdef struct Place:                              # where in a table a request belongs
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
    uint128_t sum_squares                               # sum of squares

cdef enum:
    SIZE_BUCKETS = 16                           # the original's histograms
    D2C_BUCKETS = 25
    BLOCK = 64                                  # bins; an octave of ours, see statistics.pxi
    BLOCKS_A_MATCH = 4                          # new ones that a match can ask for
    TIME_BLOCKS = 64                            # for the bins of time_bin()
    SIZE_BINS = 1728                            # bin_of() of 32 bits
    SIZE_SLOTS = 2048                           # sizes counted one by one: 0 to 1 MiB - 512
    SIZE_BLOCKS = 59                            # for the bins of size_bin()
    NEAR_SIZES = 4                              # blocks of sizes beside the latencies'
    INDICES = 128                               # of blocks in an account
    OPS = 7                                     # layout.OPS, by number
    ALL_OPS = 7                                 # beside them: all of a device
    CELLS = 28                                  # see cell_of()
    ROW_HEAD = 8                                # the bytes of Row that say what it is about

cdef struct Row:                                # layout.ROW, 560 bytes
    uint32_t device                             # major:minor
    uint16_t op
    uint16_t direction
    uint64_t errors
    uint64_t requests
    uint64_t pad
    Moments d2c_us
    Moments throughput
    Moments d2c_ns
    uint64_t d2c_hist[D2C_BUCKETS]
    uint64_t pad2
    Moments size_bytes
    uint64_t size_hist[SIZE_BUCKETS]

cdef struct Account:                            # everything of one device, op and direction in
    uint128_t d2c_us_sum                        # one interval. Up to `block`, what every request
    uint128_t d2c_us_squ                        # writes to: two cache lines
    Moments throughput
    Moments d2c_ns
    uint32_t block[INDICES]                     # of histograms in State.blocks, see times_of()
    uint64_t errors                             # and size_block(); the likely ones in one line
    uint64_t device                             # its index
    uint32_t op
    uint32_t direction
    uint64_t pad
    Moments size_bytes                          # until the cut, of odd sizes alone
    uint64_t size_hist[SIZE_BUCKETS]
    uint64_t d2c_hist[D2C_BUCKETS]              # what the bins do not tell, modulo 2^64
    uint64_t pad2[5]                            # to a multiple of the cache line: 1,088 bytes

cdef struct Match:                              # a request to be accounted, 32 bytes
    uint64_t d2c_ns
    uint64_t q2d_ns                             # NOT_QUEUED where no queue record was seen
    uint32_t device                             # index
    uint32_t size_bytes
    uint32_t cell                               # see cell_of()
    uint32_t error                              # the completion's

cdef enum:
    NOT_QUEUED = 0xffffffffffffffff

cdef struct QueueRow:                           # layout.QUEUE_ROW, 112 bytes
    uint32_t device                             # major:minor
    uint16_t op
    uint16_t pad
    uint64_t requests
    Moments q2d_ns
    Moments q2c_ns

cdef struct QueueAccount:                       # for a device and operation with queue records
    QueueRow row
    uint64_t device                             # its index
    uint32_t q2d[TIME_BLOCKS]                   # blocks, as an account's
    uint32_t q2c[TIME_BLOCKS]

cdef struct Bin:                                # layout.BIN, 16 bytes: a bin that is not empty
    uint32_t row
    uint32_t bin
    uint64_t count

cdef struct Gauge:
    uint32_t now
    uint32_t max                                # in this interval

cdef struct Load:                               # requests of a device in flight, 128 bytes
    Gauge in_flight[OPS + 1]                    # by operation, and all of them: a cache line
    uint64_t busy_since_ns                      # while any is; else busy_ns counts up to here
    uint64_t busy_ns                            # in this interval, up to busy_since_ns
    uint64_t pad[6]

cdef struct LoadRow:                            # layout.LOAD, 56 bytes
    uint32_t device                             # major:minor
    uint16_t op
    uint16_t pad
    uint64_t in_flight
    uint64_t max_in_flight
    uint64_t oldest_ns
    uint64_t busy_ns
    uint64_t in_flight_ns[2]

cdef struct RetryRow:                           # layout.RETRY_ROW, 80 bytes
    uint32_t device                             # major:minor
    uint16_t op
    uint16_t pad
    uint64_t requeues
    uint64_t requests                           # that completed after a requeue
    uint64_t pad2
    Moments f2c_ns                              # of these, from the first issue

cdef struct Append:                             # a zone append that waits for its partner
    uint64_t sector                             # of an issue: where its zone begins
    uint32_t key                                # of the device and direction
    uint32_t bytes
    uint32_t kind                               # IS_ISSUE, IS_COMPLETE, IS_OTHER (given back) or 0

cdef struct Carry:                              # for the integral of in flight, see in_flight.pxi
    uint128_t ns[OPS]
    uint128_t ended_ns[OPS]                     # this and the next three: only during a cut
    uint128_t pending_ns[OPS]
    uint64_t oldest_ns[OPS]
    uint64_t slowest_ns                         # request of the interval
    uint32_t retry_row[OPS]                     # in State.retry_rows, from 1 on; 0: none yet

cdef struct Device:
    uint32_t number                             # major:minor
    uint32_t next_free                          # of an index that is not in use: the next such
    bint in_use
    bint is_idle                                # only during a cut: nothing was seen of it
    bint was_busy                               # in this interval, though no account may tell
    Account *accounts[CELLS]                    # NULL until the interval's first match
    QueueAccount *queue_accounts[OPS]

cdef struct DeviceSlot:                         # a slot of the map from major:minor to index
    uint32_t number
    uint32_t index                              # NOBODY: the slot is empty

cdef enum:
    NOBODY = 0                                  # index of all devices that do not count

cdef struct Process:                            # layout.PROCESS; a slot of the table of processes
    uint32_t pid
    uint32_t pad
    uint64_t requests                           # 0: the slot is empty
    uint64_t bytes

cdef struct Name:                               # a process record's payload
    uint32_t pid
    char comm[COMM]

cdef struct Request:                            # layout.REQUEST, 64 bytes
    uint64_t issued_ns                          # last
    uint64_t first_issued_ns
    uint64_t d2c_ns
    uint64_t q2d_ns                             # NOT_QUEUED where no queue record was seen
    uint64_t sector
    uint32_t bytes
    uint32_t device                             # major:minor
    uint32_t op
    uint32_t pid
    uint32_t cpu
    uint32_t error


# --- what the kernels work on -----------------------------------------------------------------

cdef struct State:
    # What is set before the stream begins, or while nothing runs; see pipeline.pxi for who may
    # write to the parts below while two threads work.
    uint64_t seed[2]
    uint64_t max_pending
    uint64_t max_age_ns
    uint64_t set_aside_from                     # so many pending: see cold_table.pxi
    uint64_t from_ns                            # records before this are ignored
    uint64_t last_ns                            # feed() stops at a record after this
    bint keep_details                           # a full record of all that is pending
    bint keep_mismatches
    bint keep_driver_data
    bint keep_records
    bint keep_requests
    bint as_original                            # pair as the original does, and follow nothing else
    bint has_filter                             # some records do not count: see counts()
    bint has_wanted                             # the user has named devices, and these are known
    bint foreign                                # byte order of the stream's payloads
    uint64_t max_devices
    uint64_t pad0[8]
    # devices and their accounts: decode, prepare, account
    Device *devices                             # the first, NOBODY, is none
    uint64_t devices_room
    uint64_t devices_end                        # the indices below have been in use
    uint64_t n_devices                          # in use now, at most max_devices
    uint32_t free_device                        # head of the list of those no longer in use
    DeviceSlot *device_map                      # device_mask + 1 of them, at most half in use
    uint64_t device_mask
    unsigned int device_shift
    unsigned int cpu_shift                      # room for so many CPUs, as a power of two
    uint32_t *last_sequence                     # by device and CPU; 0: nothing seen so far
    uint32_t *blocks                            # BLOCK counts each; block 0 is none
    uint64_t n_blocks                           # in use in this interval
    uint64_t blocks_room
    uint64_t *spilled                           # counts of 64 bits, of the first n_spilled blocks
    uint64_t spilled_room                       # blocks
    uint64_t n_spilled
    uint64_t spilled_at                         # matches by then
    uint64_t spill_every                        # matches
    Account **accounts                          # the first n_active have had a match in this
    uint64_t n_accounts                         # interval, in the order of their first
    uint64_t n_active
    QueueAccount **queue_accounts               # likewise
    uint64_t n_queue_accounts
    uint64_t n_queue_active
    uint64_t by_bin[SIZE_BINS]                  # see count_sizes() and move_sizes()
    uint64_t over_limit                         # records of devices for which there was no index
    uint64_t next_ns                            # time of the record that feed() stopped at
    uint64_t records                            # since the start, as all totals
    uint64_t matches
    uint64_t gaps
    uint64_t gaps_cut                           # of earlier intervals
    uint64_t lost                               # events, as the tracer's marks say
    uint64_t skipped_bytes
    uint64_t padding_bytes                      # zeros between records
    uint64_t pad1[8]
    # pending requests and what is in flight: pair
    Table pending
    Table overtaken                             # by many others, and still pending: cold_table.pxi
    uint64_t *overtaken_bits                    # 2^(32 - overtaken_shift), by what Pending.at is in
    unsigned int overtaken_shift                # a batch: set for all that is in that table
    uint64_t n_bits_set                         # times that one was, since all were cleared
    uint64_t n_set_aside                        # since the table of the others last grew
    uint64_t n_brought_back                     # likewise
    uint64_t full_ns                            # now_ns and records when that was last full
    uint64_t full_records
    Table queued
    uint64_t n_waiting                          # for their issue
    Table history                               # what is known of requests of several steps
    RetryRow *retry_rows                        # of this interval
    uint64_t n_retry_rows
    uint64_t retry_rows_room
    Append *appends                             # ring of the latest; NULL before the first
    uint64_t first_append                       # serial numbers: none before this one waits
    uint64_t next_append
    uint64_t now_ns                             # time of the latest record that is no note
    uint64_t first_ns                           # and of the first one; NEVER before it
    uint64_t oldest_ns                          # nothing that is pending is older
    Load *loads                                 # by device
    Carry *carries
    uint64_t in_flight
    uint64_t max_in_flight                      # in this interval
    uint64_t mismatches
    uint64_t driver_data
    uint64_t evicted
    uint64_t orphans                            # completions whose issue has not been seen
    uint64_t given_up                           # issues that are no longer waited for
    uint64_t unanswered                         # and those that are overdue, as of the last cut
    bint has_ended                              # the stream: what is pending stays so
    Victim *victims                             # heap, oldest on top: the n_victims oldest that
    uint64_t n_victims                          # are pending, and some that no longer are
    uint64_t max_victims
    Victim youngest_victim                      # all that is pending and older is in the heap
    # full records, where wanted
    Kept *kept
    uint32_t kept_free                          # head of the list of free entries
    uint64_t n_kept
    uint64_t kept_room
    Mismatch *mismatch                          # those since they were last taken
    uint64_t n_mismatch
    uint64_t mismatch_room
    Record *record                              # likewise, and so the others
    uint64_t n_record
    uint64_t record_room
    Request *request
    uint64_t n_request
    uint64_t request_room
    uint8_t *driver
    uint64_t n_driver
    uint64_t driver_room
    bint with_queue                             # the stream carries queue records
    bint with_names                             # and process names
    bint follow_issues                          # one of them
    bint follow_matches                         # with_queue, or see note_match()
    # what notify records told
    bint has_epoch
    uint64_t epoch_ns                           # time of day at trace time 0, ns since 1970
    uint64_t epoch_at_ns                        # trace time of the record that told it
    Name *names                                 # those since they were last taken
    uint64_t n_names
    uint64_t names_room
    Process *processes                          # process_mask + 1 of them, at most half in use
    uint64_t process_mask
    uint64_t n_processes
    Process other_processes                     # all for whom there was no room


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
    #include <sys/mman.h>
    #include <unistd.h>
    /* What stands in whole pages of [from, to) is no longer needed: it reads as zeros now. */
    static inline void bk_give_back(void *from, void *to) {
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
        uintptr_t first = ((uintptr_t)from + page - 1) & ~(page - 1);
        uintptr_t last = (uintptr_t)to & ~(page - 1);
        if (first < last)
            madvise((void *)first, last - first, MADV_DONTNEED);
    }
    #define bk_first_bit(x) __builtin_ctz(x)
    /* gcc drops calls of functions that do nothing but fetch: the asm does something, it thinks */
    #define bk_prefetch(p) ({ __builtin_prefetch((p), 1); __asm__ volatile(""); })
    #define bk_prefetch_input(p) ({ __builtin_prefetch((p), 0); __asm__ volatile(""); })
    #define bk_likely(x) __builtin_expect(!!(x), 1)
    #define bk_unlikely(x) __builtin_expect(!!(x), 0)
    #define bk_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define bk_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define bk_store_release(p, x) __atomic_store_n((p), (x), __ATOMIC_RELEASE)
    #define bk_full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #if defined(__x86_64__) || defined(__i386__)
    #define bk_pause() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define bk_pause() __asm__ volatile("yield")
    #else
    #define bk_pause() __atomic_signal_fence(__ATOMIC_SEQ_CST)
    #endif
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
    /* h, which is spread over 64 bits, spread over 0 to n - 1; keeps the order */
    static inline uint64_t bk_spread(uint64_t h, uint64_t n) {
        return (uint64_t)(((bk_uint128)h * n) >> 64);
    }
    """
    unsigned int tags_equal "bk_tags_equal"(const Group *group, uint8_t tag) noexcept nogil
    void give_back "bk_give_back"(void *begin, void *end) noexcept nogil
    unsigned int first_bit "bk_first_bit"(unsigned int x) noexcept nogil
    void prefetch_input "bk_prefetch_input"(const void *p) noexcept nogil
    void prefetch "bk_prefetch"(const void *p) noexcept nogil
    uint64_t load_acquire "bk_load_acquire"(const uint64_t *p) noexcept nogil
    uint64_t load_relaxed "bk_load_relaxed"(const uint64_t *p) noexcept nogil
    void store_release "bk_store_release"(uint64_t *p, uint64_t x) noexcept nogil
    void full_fence "bk_full_fence"() noexcept nogil
    void pause "bk_pause"() noexcept nogil
    bint likely "bk_likely"(bint x) noexcept nogil
    bint unlikely "bk_unlikely"(bint x) noexcept nogil
    uint16_t swap16 "bk_swap16"(uint16_t x) noexcept nogil
    uint32_t swap32 "bk_swap32"(uint32_t x) noexcept nogil
    uint64_t swap64 "bk_swap64"(uint64_t x) noexcept nogil
    unsigned int bits "bk_bits"(uint64_t x) noexcept nogil
    unsigned int width "bk_width"(uint64_t x) noexcept nogil
    uint64_t mix "bk_mix"(uint64_t a, uint64_t b) noexcept nogil
    uint64_t spread "bk_spread"(uint64_t h, uint64_t n) noexcept nogil
