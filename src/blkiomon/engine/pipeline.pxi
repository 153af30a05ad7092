# The same work on two cores.
#
#     this thread    decode, prepare  ->  ring of batches  ->  account
#     the worker                          pair
#
# Where in the table its items belong is worked out by whoever has time for it: see has_time().
#
# Batches go through in their order, and each stage is done by one thread alone, so the results are
# those of one core to the bit; nothing is locked, and nothing is merged. What a stage writes to is
# its own part of State. Whatever both need (a larger table, an eviction that has to know devices)
# is done when the ring has run dry: all that the worker needs while it runs, it has got before.

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t *, void *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)
    int pthread_mutex_init(pthread_mutex_t *, void *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    int pthread_cond_init(pthread_cond_t *, void *)
    int pthread_cond_wait(pthread_cond_t *, pthread_mutex_t *)
    int pthread_cond_signal(pthread_cond_t *)
    int pthread_cond_destroy(pthread_cond_t *)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t *)
    int pthread_sigmask(int, const sigset_t *, sigset_t *)

cdef extern from "<unistd.h>" nogil:
    int getpid()

cdef enum:
    RING = 32                                   # batches; together they fit the second-level cache
    SPINS = 2000                                # looks at the other thread before going to sleep

    NEVER = 0xffffffffffffffff

cdef struct Pipeline:
    State *s
    int process                                 # that has the worker: no fork() copies it
    Batch *ring                                 # RING of them
    uint64_t accounted                          # batches so far; this thread's
    bint needs_input                            # of one that may not have been paired yet
    uint64_t pad0[8]
    uint64_t produced                           # written by this thread, read by the worker
    uint64_t pad1[8]
    uint64_t paired                             # the other way round
    uint64_t pad2[8]
    uint64_t worker_wants                       # while it sleeps: wake it at so many produced
    uint64_t this_wants                         # likewise this thread, at so many paired
    bint stop
    pthread_mutex_t mutex                       # for sleep only
    pthread_cond_t more_produced
    pthread_cond_t more_paired
    pthread_t worker


cdef inline bint has_time(const Pipeline *p) noexcept nogil:
    """Whether the worker is not far behind.

    This thread reads as well, which takes more or less time than the worker has: neither is to
    wait for the other.
    """
    return p.produced - load_relaxed(&p.paired) < 3 * RING // 4


cdef void *work(void *argument) noexcept nogil:
    """The worker: pair what comes, sleep while nothing does."""
    cdef Pipeline *p = <Pipeline *> argument
    cdef uint64_t paired = p.paired
    cdef uint64_t taken_over = paired
    cdef uint64_t produced
    cdef int spins = 0
    while True:
        produced = load_acquire(&p.produced)
        if produced != paired:
            while taken_over != produced and taken_over < paired + 2:   # what it fetches takes time
                take_over(p.s, &p.ring[taken_over % RING])
                taken_over += 1
            pair(p.s, &p.ring[paired % RING])
            paired += 1
            store_release(&p.paired, paired)
            full_fence()                        # see await_change(): one sees the other
            if unlikely(load_relaxed(&p.this_wants) <= paired):
                wake(p, &p.more_paired)
            spins = 0
            continue
        spins += 1
        if spins < SPINS:
            pause()
            continue
        if not await_change(p, &p.produced, paired, 1, &p.worker_wants, &p.more_produced):
            return NULL
        spins = 0


cdef bint await_change(
    Pipeline *p, const uint64_t *count, uint64_t now, uint64_t more,
    uint64_t *wants, pthread_cond_t *changed,
) noexcept nogil:
    """Sleep until a count that was `now` has grown by `more`. False: all is to stop."""
    pthread_mutex_lock(&p.mutex)
    store_release(wants, now + more)
    full_fence()
    while load_acquire(count) < now + more and not p.stop:
        pthread_cond_wait(changed, &p.mutex)
    store_release(wants, NEVER)
    pthread_mutex_unlock(&p.mutex)
    return load_acquire(count) >= now + more


cdef void wake(Pipeline *p, pthread_cond_t *changed) noexcept nogil:
    pthread_mutex_lock(&p.mutex)
    pthread_cond_signal(changed)
    pthread_mutex_unlock(&p.mutex)


cdef inline void publish(Pipeline *p) noexcept nogil:
    """Hand the batch at `produced` to the worker."""
    p.needs_input |= p.ring[p.produced % RING].needs_input
    store_release(&p.produced, p.produced + 1)
    full_fence()
    if unlikely(load_relaxed(&p.worker_wants) <= p.produced):
        wake(p, &p.more_produced)


cdef inline bint account_paired(Pipeline *p) noexcept nogil:
    """Account what has come back. False: nothing had."""
    cdef uint64_t paired = load_acquire(&p.paired)
    cdef bint any_came = p.accounted != paired
    while p.accounted != paired:
        account(p.s, &p.ring[p.accounted % RING])
        p.accounted += 1
    return any_came


cdef void await_paired(Pipeline *p, uint64_t batches) noexcept nogil:
    """Account what comes back, until it is so many batches more; sleep if it takes long."""
    cdef uint64_t wanted = p.accounted + batches
    cdef int spins = 0
    while p.accounted < wanted:
        if account_paired(p):
            spins = 0
        elif spins < SPINS:
            spins += 1
            pause()
        else:
            await_change(
                p, &p.paired, p.accounted, wanted - p.accounted, &p.this_wants, &p.more_paired
            )


cdef void drain(Pipeline *p) noexcept nogil:
    """Account everything that was published."""
    await_paired(p, p.produced - p.accounted)
    p.needs_input = False


cdef int start_pipeline(Pipeline *p) noexcept nogil:
    """Start the worker. Not 0: an errno."""
    cdef sigset_t all_signals, before
    cdef int error
    p.process = getpid()
    pthread_mutex_init(&p.mutex, NULL)
    pthread_cond_init(&p.more_produced, NULL)
    pthread_cond_init(&p.more_paired, NULL)
    p.worker_wants = p.this_wants = NEVER
    sigfillset(&all_signals)                    # they are for the thread that polls
    pthread_sigmask(SIG_SETMASK, &all_signals, &before)
    error = pthread_create(&p.worker, NULL, work, p)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    return error


cdef void stop_pipeline(Pipeline *p) noexcept nogil:
    pthread_mutex_lock(&p.mutex)
    p.stop = True
    pthread_cond_signal(&p.more_produced)
    pthread_mutex_unlock(&p.mutex)
    pthread_join(p.worker, NULL)
    pthread_cond_destroy(&p.more_produced)
    pthread_cond_destroy(&p.more_paired)
    pthread_mutex_destroy(&p.mutex)
