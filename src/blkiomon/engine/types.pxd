# Structs, enums and intrinsics of the engine and of the Cython modules in sources/. No logic.
#
# Every struct whose comment names a dtype (`layout.ROW`) leaves the engine as a numpy array of that
# dtype. tests/test_engine.py compares each pair field by field.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


# --- a trace record as it is in a stream: unaligned, in the traced machine's byte order -------

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
    uint32_t pad[3]

cdef enum:
    MAGIC = 0x65617400                          # or'ed with the version
    HEADER_V7 = 48                              # bytes
    HEADER_V8 = 64
    MAX_RECORD = 64 + 65535                     # longest header plus longest payload


# --- a record of either version in host byte order --------------------------------------------

cdef struct Record:                             # layout.RECORD, 48 bytes
    uint64_t time_ns
    uint64_t sector                             # 512 bytes each
    uint64_t action                             # bits 0-15: event; from bit 16: categories
    uint32_t sequence
    uint32_t bytes
    uint32_t pid
    uint32_t device
    uint32_t cpu
    uint16_t error
    uint16_t pdu_len

cdef struct Detail:                             # layout.DETAIL, 56 bytes
    Record record
    uint64_t order                              # zero-based position in the stream

cdef struct Mismatch:                           # layout.MISMATCH, 112 bytes
    Detail older
    Detail younger

cdef enum:                                      # category bits: action >> 16
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
    CAT_PAIRED = CAT_ISSUE | CAT_COMPLETE
    CAT_HANDLED = CAT_PAIRED | CAT_REQUEUE | CAT_NOTIFY | CAT_DRV_DATA

cdef enum:
    EVENT_QUEUE = 1
    EVENT_BACK_MERGE = 2
    EVENT_FRONT_MERGE = 3
    EVENT_REQUEUE = 6
    EVENT_ISSUE = 7
    EVENT_COMPLETE = 8
    EVENT_LAST = 19
    EVENT_CGROUP = 1 << 8                       # flag: the payload begins with a cgroup id
    CGROUP_ID = 8                               # bytes of that id
    NOTE_PROCESS = 0                            # events of category NOTIFY
    NOTE_TIMESTAMP = 1
    COMM = 16                                   # maximum bytes of a process name


# --- pending requests: see hash_table.pxi -----------------------------------------------------

cdef struct Pending:                            # an entry of a hash table: 32 bytes, two a line
    uint64_t time_ns
    uint64_t sector
    uint32_t key                                # device index and direction: see key_of()
    uint32_t state                              # the bits below
    # Of an issue: bytes not yet completed. In State.queued: the pid. In State.history: bytes
    # completed.
    uint32_t bytes
    # In State.pending, with IS_STORED: the index of the full record in State.stored; else, with
    # keep_ids: pid and CPU, see ids_of(). In State.history: how often the request was requeued.
    uint32_t extra

cdef enum:                                      # Pending.state
    # The record's time is 2^63 ns or more. The slow path pairs such records: their difference to an
    # early time may wrap around, which the fast path would not notice.
    HAS_HUGE_TIME = 1 << 0
    IS_STORED = 1 << 1                          # State.stored has the full record
    WAS_REPORTED = 1 << 2                       # as a request that hangs: see slow.pxi
    # An issue whose completion was most likely lost: not in flight. See presume_completed().
    IS_PRESUMED = 1 << 3
    CELL_SHIFT = 8                              # five bits: see cell_of()
    CELL_BITS = 0x1f << 8
    IS_ISSUE = 1 << 13
    IS_COMPLETE = 1 << 14
    IS_MULTI_STEP = 1 << 15                     # a request of several steps: see multi_step.pxi
    ERROR_SHIFT = 16                            # a completion has its error from this bit on
    # A pending completion that a snapshot has reported as without issue. Uses a cell bit, as the
    # cell of a pending completion is never read.
    IS_COUNTED = 1 << CELL_SHIFT
    WAS_ISSUED = 1 << 16                        # multi-step: State.history has an entry
    IN_FLIGHT = 1 << 17                         # multi-step: issued, and not requeued since
    WAS_REQUEUED = 1 << 13                      # in State.history

cdef enum:
    GROUP = 15                                  # slots in a group
    ALL_SLOTS = (1 << GROUP) - 1                # a bit for each of them

cdef struct Group:                              # describes 15 slots: 16 bytes, aligned
    uint8_t tag[GROUP]                          # 8 bits of the hash, never 0; 0: the slot is free
    # Entries that went on to a later group because this one was full. The counter saturates: 255
    # may mean more, and is never decremented.
    uint8_t overflow_count

cdef struct Table:                              # an open hash table
    Group *groups                               # n_groups of them
    Pending *slots                              # GROUP for each group, in the same order
    uint64_t n_groups
    uint64_t used                               # slots in use
    uint64_t room                               # slots that may be in use: MOST_IN_GROUP a group

cdef struct Cursor:                             # a walk over a table: see next_entry()
    uint64_t group                              # the next one to look at
    unsigned int in_use                         # slots of the previous group still to visit

cdef struct Place:                              # where a search for a request begins
    uint32_t home                               # group
    uint32_t tags                               # the tag, four times

cdef struct StoredRecord:                       # a pending record in full, 64 bytes
    Detail detail
    # Position of the record that was processed when this one was stored. In a free element: the
    # index of the next free one.
    uint64_t stored_order

# --- accounts of completed requests: see statistics.pxi ---------------------------------------

cdef extern from *:
    """
    typedef unsigned __int128 bk_uint128;
    """
    ctypedef unsigned long long uint128_t "bk_uint128"

cdef struct Moments:                            # layout.MOMENTS, 48 bytes
    uint64_t min                                # 2^64-1 if nothing was counted
    uint64_t max
    uint128_t sum                               # low word first after put_low_words_first()
    uint128_t sum_squares

cdef enum:
    SIZE_BUCKETS = 16                           # the original's histograms
    D2C_BUCKETS = 25
    BLOCK = 64                                  # bins in a block: an octave
    BLOCKS_A_MATCH = 4                          # new blocks that one request can need
    DEFERRED = 64                               # requests that an account takes in at once
    TIME_BLOCKS = 64                            # blocks for time_bin()
    SIZE_BINS = 1728                            # bins that bin_of() has for 32 bits
    SIZE_WORDS = 27                             # of 64 bits, one for each of them
    SIZE_SLOTS = 2048                           # sizes counted one by one: 0 to 1 MiB - 512
    SIZE_BLOCKS = 59                            # blocks for size_bin()
    NEAR_SIZES = 4                              # in Account.block: see size_block()
    INDICES = 128                               # block indices in an account
    OPS = 7                                     # len(layout.OPS)
    ALL_OPS = 7                                 # all operations of a device
    CELLS = 28                                  # operation and direction: see cell_of()

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

cdef struct Account:                            # one device, operation and direction in an interval
    uint64_t deferred[DEFERRED]                 # usual requests not counted below: see defer()
    uint64_t n_deferred
    uint64_t device                             # index
    uint128_t d2c_us_sum
    uint128_t d2c_us_squares
    Moments throughput
    Moments d2c_ns
    Moments size_bytes                          # until the snapshot: only of unusual sizes
    # Indices into State.blocks; the usual ones share a cache line: see times_of() and size_block().
    uint32_t block[INDICES]
    uint64_t errors
    uint32_t op
    uint32_t direction
    uint64_t size_hist[SIZE_BUCKETS]
    uint64_t d2c_hist[D2C_BUCKETS]              # corrections to the counts of the bins, mod 2^64
    uint64_t pad[5]                             # to a multiple of the cache line: 1,600 bytes

cdef struct Match:                              # a request to be accounted, 32 bytes
    uint64_t d2c_ns
    uint64_t q2d_ns                             # NOT_QUEUED without a queue record
    uint32_t device                             # index
    uint32_t size_bytes
    uint32_t cell                               # see cell_of()
    uint32_t error                              # of the completion

cdef enum:
    NOT_QUEUED = 0xffffffffffffffff

cdef struct QueueRow:                           # layout.QUEUE_ROW, 112 bytes
    uint32_t device                             # major:minor
    uint16_t op
    uint16_t pad
    uint64_t requests
    Moments q2d_ns
    Moments q2c_ns

cdef struct QueueAccount:                       # a device and operation with queue records
    QueueRow row
    uint64_t device                             # index
    uint32_t q2d[TIME_BLOCKS]                   # indices into State.blocks
    uint32_t q2c[TIME_BLOCKS]

cdef struct Bin:                                # layout.BIN, 16 bytes: a bin that is not empty
    uint32_t row
    uint32_t bin
    uint64_t count

cdef struct Load:                               # requests of a device in flight, 128 bytes
    uint32_t now[OPS + 1]                       # by lane_of(); now and max share a cache line
    uint32_t max[OPS + 1]                       # in this interval
    uint64_t busy_since_ns                      # busy_ns counts up to here
    uint64_t busy_ns                            # in this interval; while busy, the rest is missing
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
    uint64_t requests                           # completed after a requeue
    uint64_t pad2
    Moments f2c_ns                              # of these: first issue to completion

cdef struct ZoneAppend:                         # a zone append that waits for its other record
    uint64_t sector                             # of an issue: first sector of the zone
    uint32_t key                                # of the device and direction
    uint32_t bytes
    uint32_t kind                               # one of APPEND_...

cdef enum:
    APPEND_DONE = 0                             # both records were read: the element is free
    APPEND_ISSUED = IS_ISSUE
    APPEND_COMPLETED = IS_COMPLETE
    APPEND_REQUEUED = IS_MULTI_STEP

cdef struct InFlightIntegral:                   # of one device: see in_flight.pxi
    uint128_t ns[OPS]
    uint128_t ended_ns[OPS]                     # this and the next three: only during a snapshot
    uint128_t pending_ns[OPS]
    uint64_t oldest_ns[OPS]
    uint64_t slowest_ns                         # longest D2C of the interval
    uint32_t retry_row[OPS]                     # index into State.retry_rows + 1; 0: none yet

cdef struct Device:
    uint32_t number                             # major:minor
    uint32_t next_free                          # of a free index: the next free one
    bint in_use
    bint is_idle                                # only during a snapshot: no request was seen
    bint was_busy                               # this interval: requeued or gave up a request
    Account *accounts[CELLS]                    # NULL until the interval's first request
    QueueAccount *queue_accounts[OPS]

cdef struct DeviceSlot:                         # of the map from major:minor to index
    uint32_t number
    uint32_t index                              # NO_DEVICE: the slot is free

cdef enum:
    NO_DEVICE = 0                               # index of all devices that are not counted
    QUEUED_NEAR = 1024                          # counters of State.queued_near

cdef struct Process:                            # layout.PROCESS; a slot of the process table
    uint32_t pid
    uint32_t pad
    uint64_t requests                           # 0: the slot is free
    uint64_t bytes

cdef struct Name:                               # payload of a notify record of a process
    uint32_t pid
    char comm[COMM]

cdef struct Request:                            # layout.REQUEST, 72 bytes
    int64_t time                                # NaT
    uint64_t issued_ns                          # latest issue
    uint64_t first_issued_ns
    uint64_t d2c_ns
    double q2d_ns                               # NaN without a queue record
    uint64_t sector
    uint32_t bytes
    uint32_t device                             # major:minor
    uint32_t op
    uint32_t pid
    uint32_t cpu
    uint32_t error                              # errno

cdef struct Slow:                               # layout.SLOW, 88 bytes
    Request request
    uint64_t until_ns                           # completion; of a pending request: when it was seen
    uint32_t requeues
    uint32_t is_pending


# --- the state that all kernels work on -------------------------------------------------------

cdef struct State:
    # options; feed() sets last_ns, and reading may change has_filter and foreign
    uint64_t seed[2]                            # of the hashes
    uint64_t max_pending
    uint64_t max_age_ns
    uint64_t from_ns                            # earlier records are ignored
    uint64_t last_ns                            # feed() stops at a later record
    bint keep_details                           # store pending records in full
    bint keep_mismatches                        # collect mismatches: the same as keep_details
    bint keep_driver_data
    bint keep_records
    bint records_only                           # collect records, and pair none
    bint keep_requests
    bint keep_slow                              # collect slow requests
    bint keep_ids                               # for these two; Pending.extra has ids_of()
    bint slowly                                 # pair all records by all rules
    bint as_original                            # pair as the original does; no in-flight figures
    bint has_filter                             # filter_record() has to look at records
    bint has_wanted                             # the user named devices; all of them have an index
    bint foreign                                # payloads are in the other byte order
    uint64_t max_devices
    # devices, accounts and counts: written by prepare_records(), pair_records() and account();
    # some counts by Engine
    Device *devices                             # element 0 is NO_DEVICE
    uint64_t devices_room
    uint64_t devices_end                        # indices below have been in use
    uint64_t n_devices                          # in use now, at most max_devices
    uint32_t free_device                        # head of the list of free indices
    DeviceSlot *device_map                      # device_mask + 1 slots, at most half in use
    uint64_t device_mask
    unsigned int device_shift
    unsigned int cpu_shift                      # log2 of the CPUs a device has room for
    uint32_t *last_sequence                     # by device and CPU; 0: no record so far
    uint32_t *blocks                            # BLOCK counters each; block 0 is not used
    uint64_t n_blocks                           # in use in this interval
    uint64_t n_blocks_owed                      # may be needed for Account.deferred
    uint64_t blocks_room
    uint64_t *spilled                           # 64-bit counters of the first n_spilled blocks
    uint64_t spilled_room                       # blocks
    uint64_t n_spilled
    uint64_t spilled_at                         # value of `matches` at the latest spill
    uint64_t spill_every                        # matches
    void (*account_deferred)(State *, Account *) noexcept nogil     # the one for this processor
    void (*pair_batch)(State *, void *, bint) noexcept nogil        # the same
    # The first n_active accounts have a request in this interval, in the order of their first one.
    Account **accounts
    uint64_t n_accounts                         # allocated
    uint64_t n_active
    QueueAccount **queue_accounts               # the same for queue times
    uint64_t n_queue_accounts
    uint64_t n_queue_active
    uint64_t by_bin[SIZE_BINS]                  # scratch of copy_sizes()
    uint64_t over_device_limit                  # records of devices beyond max_devices
    uint64_t next_ns                            # time of the record at which feed() stopped
    uint64_t records                            # this and the counts below: since the start
    uint64_t matches
    uint64_t matches_before                     # up to the latest snapshot
    uint64_t sequence_gaps                      # records missing by their sequence numbers
    uint64_t gaps_reported                      # up to the latest snapshot
    uint64_t lost_events                        # by the tracer's marks
    uint64_t lost_outside                       # those that the stream does not contain
    uint64_t lost_before                        # of all kinds, at the latest snapshot with a loss
    uint64_t lost_at_ns                         # when that was
    uint64_t given_up_before                    # issues_given_up at the snapshot before any loss
    uint64_t skipped_bytes
    uint64_t padding_bytes                      # zeros between records
    # pending requests and requests in flight: written by pair()
    Table pending                               # issues and completions that wait for the other
    Table queued                                # queue records
    uint64_t n_waiting                          # of these, those that wait for their issue
    uint32_t queued_near[QUEUED_NEAR]           # of these, how many by sector: see may_be_queued()
    Table history                               # of requests of several steps
    RetryRow *retry_rows                        # of this interval
    uint64_t n_retry_rows
    uint64_t retry_rows_room
    ZoneAppend *appends                         # ring of MOST_APPENDS; NULL before the first
    uint64_t first_append                       # lowest serial number that may wait
    uint64_t next_append                        # serial number of the next zone append
    uint64_t now_ns                             # of the latest record other than notify records
    uint64_t latest_ns                          # the greatest now_ns so far
    uint64_t back_ns                            # see Engine.back_ns
    uint64_t first_ns                           # of the first one, if has_first
    bint has_first
    uint64_t oldest_ns                          # lower bound of the times of pending records
    Load *loads                                 # by device
    InFlightIntegral *integrals                 # by device
    uint64_t in_flight
    uint64_t max_in_flight                      # in this interval
    uint64_t mismatches
    uint64_t driver_data
    uint64_t evicted
    uint64_t completions_without_issue          # so far
    uint64_t issues_given_up
    uint64_t issues_without_completion          # given up, or overdue at the latest snapshot
    bint stream_ended                           # every pending record is unmatched
    uint32_t *ages                              # MOST_AGES counters; NULL before it is needed
    # optional copies for the user: take_...() empties a list
    StoredRecord *stored                        # pending records with IS_STORED, in full
    uint32_t stored_free                        # head of the list of free elements
    uint64_t n_stored
    uint64_t stored_room
    Mismatch *mismatch
    uint64_t n_mismatch
    uint64_t mismatch_room
    Record *record
    uint64_t n_record
    uint64_t record_room
    Request *request
    uint64_t n_request
    uint64_t request_room
    uint64_t slow_ns                            # a longer request is slow
    Slow *slow
    uint64_t n_slow
    uint64_t slow_room
    uint8_t *driver
    uint64_t n_driver
    uint64_t driver_room
    # from queue records and notify records
    bint with_queue                             # a queue record was seen
    bint with_names                             # a process name was seen
    bint follow_issues                          # call follow_issue() for each issue
    bint follow_matches                         # call log_optional() on the slow path
    bint has_epoch
    uint64_t epoch_ns                           # time of day at trace time 0, ns since 1970
    uint64_t epoch_at_ns                        # trace time of the record that gave it
    Name *names                                 # since they were last taken
    uint64_t n_names
    uint64_t names_room
    Process *processes                          # process_mask + 1 slots, at most half in use
    uint64_t process_mask
    uint64_t n_processes
    uint64_t processes_room                     # may be in use
    Process other_processes                     # sum of the processes beyond MOST_PROCESSES


# --- intrinsics -------------------------------------------------------------------------------

cdef extern from *:
    """
    #define BK_INLINE static inline __attribute__((always_inline))
    /* Four lanes: a register of SSE2 or NEON. */
    typedef uint32_t bk_lanes __attribute__((vector_size(16)));
    BK_INLINE bk_lanes bk_all_lanes(uint32_t x) { return (bk_lanes){x, x, x, x}; }
    /* Compares a group's 16 bytes with 16 others: bit i is set if byte i is equal. */
    #ifdef __SSE2__
    #include <emmintrin.h>
    BK_INLINE unsigned int bk_bytes_equal(const void *group, bk_lanes bytes) {
        __m128i all = _mm_load_si128((const __m128i *)group);
        return _mm_movemask_epi8(_mm_cmpeq_epi8(all, (__m128i)bytes));
    }
    #elif defined(__aarch64__) && defined(__ARM_NEON)
    #include <arm_neon.h>
    BK_INLINE unsigned int bk_bytes_equal(const void *group, bk_lanes bytes) {
        static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
        uint8x16_t equal = vceqq_u8(vld1q_u8((const uint8_t *)group), (uint8x16_t)bytes);
        uint8x16_t found = vandq_u8(equal, vld1q_u8(bits));
        return vaddv_u8(vget_low_u8(found)) | (unsigned int)vaddv_u8(vget_high_u8(found)) << 8;
    }
    #else
    BK_INLINE unsigned int bk_bytes_equal(const void *group, bk_lanes bytes) {
        unsigned int equal = 0;
        for (int i = 0; i < 16; i++)
            equal |= (unsigned int)(((const uint8_t *)group)[i] == ((uint8_t *)&bytes)[i]) << i;
        return equal;
    }
    #endif
    /* All bits if x is 1, none if it is 0. The empty asm hides this from the compiler, which would
       otherwise make a branch of it. */
    BK_INLINE uint64_t bk_all_bits_if(uint64_t x) {
        uint64_t all = 0 - x;
        __asm__("" : "+r"(all));
        return all;
    }
    /* pdu_len in the lane that it shares with `error`. */
    #define BK_PDU_LEN_BITS (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 0xffffu : 0xffff0000u)
    BK_INLINE bk_lanes bk_load_lanes(const void *p) { bk_lanes v; memcpy(&v, p, 16); return v; }
    BK_INLINE bk_lanes bk_lanes_of(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
        return (bk_lanes){a, b, c, d};
    }
    BK_INLINE uint32_t bk_lane(bk_lanes v, int i) { return v[i]; }
    BK_INLINE void bk_store_lanes(void *p, bk_lanes v) { memcpy(p, &v, 16); }
    /* The greater number of each lane, if all are below 2^31. */
    typedef int32_t bk_signed_lanes __attribute__((vector_size(16)));
    BK_INLINE bk_lanes bk_most(bk_lanes a, bk_lanes b) {
        bk_signed_lanes x = (bk_signed_lanes)a, y = (bk_signed_lanes)b;
        bk_signed_lanes is_x = x > y;
        return (bk_lanes)((x & is_x) | (y & ~is_x));
    }
    /* The same for numbers below 2^15. Those of `a` are not negative, those of `b` above -2^15. */
    BK_INLINE bk_lanes bk_most_small(bk_lanes a, bk_lanes b) {
    #ifdef __SSE2__
        return (bk_lanes)_mm_max_epi16((__m128i)a, (__m128i)b);
    #else
        return bk_most(a, b);
    #endif
    }
    /* Compiles a function for processors since about 2013: see Engine._choose_functions(). */
    #if defined(__x86_64__) && !defined(__AVX2__)
    #include <cpuid.h>
    #define BK_AVX2 __attribute__((target("avx2,bmi,bmi2,fma,lzcnt")))
    static inline int bk_has_avx2(void) {
        unsigned int a, b, c, d;
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi")
            && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma")
            && __get_cpuid(0x80000001, &a, &b, &c, &d) && c & 1 << 5;   /* lzcnt: clang < 19 */
    }
    #else
    #define BK_AVX2
    static inline int bk_has_avx2(void) { return 0; }
    #endif
    #include <sys/mman.h>
    #include <unistd.h>
    static inline void bk_advise(void *from, void *to, int advice) {    /* on whole pages only */
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
        uintptr_t first = ((uintptr_t)from + page - 1) & ~(page - 1);
        uintptr_t last = (uintptr_t)to & ~(page - 1);
        if (first < last)
            madvise((void *)first, last - first, advice);
    }
    /* Gives the pages in [from, to) back to the kernel; they read as zeros afterwards. */
    #define bk_release_pages(from, to) bk_advise(from, to, MADV_DONTNEED)
    #define bk_use_huge_pages(from, to) bk_advise(from, to, MADV_HUGEPAGE)
    /* The empty asm keeps gcc from dropping functions that only prefetch. */
    #define bk_prefetch(p) ({ __builtin_prefetch((p), 1); __asm__ volatile(""); })
    #define bk_prefetch_input(p) ({ __builtin_prefetch((p), 0); __asm__ volatile(""); })
    #define bk_likely(x) __builtin_expect(!!(x), 1)
    #define bk_unlikely(x) __builtin_expect(!!(x), 0)
    #define bk_store_release(p, x) __atomic_store_n((p), (x), __ATOMIC_RELEASE)
    #define bk_exchange(p, x) __atomic_exchange_n((p), (x), __ATOMIC_ACQ_REL)
    /* Significant bits of an x below 2^63; 0 has none. Needs no branch. */
    #define bk_bits(x) (63 - __builtin_clzll(((uint64_t)(x) << 1) | 1))
    /* Significant bits of any x except 0. */
    #define bk_width(x) (64 - __builtin_clzll(x))
    /* A 128-bit number with its low word first in memory, whatever the host's byte order. */
    BK_INLINE bk_uint128 bk_low_word_first(bk_uint128 x) {
        return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? x << 64 | x >> 64 : x;
    }
    BK_INLINE uint64_t bk_load64(const void *p) { uint64_t x; memcpy(&x, p, 8); return x; }
    /* Two adjacent 32-bit fields as one number: the first is the lower half. */
    BK_INLINE uint64_t bk_in_order(uint64_t x) {
        return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? x << 32 | x >> 32 : x;
    }
    BK_INLINE uint64_t bk_load_pair(const void *p) { return bk_in_order(bk_load64(p)); }
    BK_INLINE void bk_store_pair(void *p, uint64_t x) { x = bk_in_order(x); memcpy(p, &x, 8); }
    /* Both halves of the 128-bit product, xor'ed: the mixing step of wyhash. */
    static inline uint64_t bk_mix(uint64_t a, uint64_t b) {
        bk_uint128 product = (bk_uint128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    static inline uint64_t bk_high_product(uint64_t a, uint64_t b) {
        return (uint64_t)((bk_uint128)a * b >> 64);
    }
    """
    ctypedef void avx2_void "BK_AVX2 void"
    bint has_avx2 "bk_has_avx2"() noexcept nogil
    ctypedef unsigned int lanes "bk_lanes"      # of 32 bits: four of them
    lanes all_lanes "bk_all_lanes"(uint32_t x) noexcept nogil
    unsigned int bytes_equal "bk_bytes_equal"(const Group *group, lanes bytes) noexcept nogil
    uint64_t all_bits_if "bk_all_bits_if"(uint64_t x) noexcept nogil
    uint32_t PDU_LEN_BITS "BK_PDU_LEN_BITS"
    lanes load_lanes "bk_load_lanes"(const void *p) noexcept nogil
    lanes lanes_of "bk_lanes_of"(uint32_t a, uint32_t b, uint32_t c, uint32_t d) noexcept nogil
    uint32_t lane "bk_lane"(lanes v, int i) noexcept nogil
    void store_lanes "bk_store_lanes"(void *p, lanes v) noexcept nogil
    lanes most_lanes "bk_most"(lanes a, lanes b) noexcept nogil
    lanes most_small_lanes "bk_most_small"(lanes a, lanes b) noexcept nogil
    void release_pages "bk_release_pages"(void *begin, void *end) noexcept nogil
    void use_huge_pages "bk_use_huge_pages"(void *begin, void *end) noexcept nogil
    unsigned int first_bit "__builtin_ctz"(unsigned int x) noexcept nogil
    unsigned int first_bit64 "__builtin_ctzll"(uint64_t x) noexcept nogil
    void prefetch_input "bk_prefetch_input"(const void *p) noexcept nogil
    void prefetch "bk_prefetch"(const void *p) noexcept nogil
    void store_release "bk_store_release"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t exchange "bk_exchange"(uint64_t *p, uint64_t x) noexcept nogil
    bint likely "bk_likely"(bint x) noexcept nogil
    bint unlikely "bk_unlikely"(bint x) noexcept nogil
    uint16_t swap16 "__builtin_bswap16"(uint16_t x) noexcept nogil
    uint32_t swap32 "__builtin_bswap32"(uint32_t x) noexcept nogil
    uint64_t swap64 "__builtin_bswap64"(uint64_t x) noexcept nogil
    unsigned int bits "bk_bits"(uint64_t x) noexcept nogil
    unsigned int width "bk_width"(uint64_t x) noexcept nogil
    uint128_t low_word_first "bk_low_word_first"(uint128_t x) noexcept nogil
    uint64_t load64 "bk_load64"(const void *p) noexcept nogil
    uint64_t load_pair "bk_load_pair"(const void *p) noexcept nogil
    void store_pair "bk_store_pair"(void *p, uint64_t x) noexcept nogil
    uint64_t high_product "bk_high_product"(uint64_t a, uint64_t b) noexcept nogil
    uint64_t mix "bk_mix"(uint64_t a, uint64_t b) noexcept nogil
