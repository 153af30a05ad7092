# The same work on two cores.
#
#     this thread    decode, prepare  ->  ring of batches  ->  account
#     the worker                          pair
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

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    RING = 16                                   # batches; together they fit the second-level cache
    SPINS = 2000                                # looks at the other thread before giving way to it

cdef struct Pipeline:
    State *s
    int process                                 # that has the worker: no fork() copies it
    Batch *ring                                 # RING of them
    uint64_t accounted                          # batches so far; this thread's
    uint64_t pad0[8]
    uint64_t produced                           # written by this thread, read by the worker
    uint64_t pad1[8]
    uint64_t paired                             # the other way round
    uint64_t pad2[8]
    bint asleep                                 # the worker is, or is about to be
    bint stop
    pthread_mutex_t mutex                       # for the worker's sleep only
    pthread_cond_t awake
    pthread_t worker


cdef void *work(void *argument) noexcept nogil:
    """The worker: pair what comes, sleep while nothing does."""
    cdef Pipeline *p = <Pipeline *> argument
    cdef uint64_t paired = p.paired
    cdef int spins = 0
    while True:
        if load_acquire(&p.produced) != paired:
            pair(p.s, &p.ring[paired % RING])
            paired += 1
            store_release(&p.paired, paired)
            spins = 0
            continue
        spins += 1
        if spins < SPINS:
            pause()
            continue
        pthread_mutex_lock(&p.mutex)
        p.asleep = True
        full_fence()                            # see publish(): one of the two sees the other
        while load_acquire(&p.produced) == paired and not p.stop:
            pthread_cond_wait(&p.awake, &p.mutex)
        p.asleep = False
        pthread_mutex_unlock(&p.mutex)
        spins = 0
        if load_acquire(&p.produced) == paired:
            return NULL                         # it was a stop


cdef inline void wake(Pipeline *p) noexcept nogil:
    pthread_mutex_lock(&p.mutex)
    pthread_cond_signal(&p.awake)
    pthread_mutex_unlock(&p.mutex)


cdef inline void publish(Pipeline *p) noexcept nogil:
    """Hand the batch at `produced` to the worker."""
    store_release(&p.produced, p.produced + 1)
    full_fence()
    if unlikely(p.asleep):
        wake(p)


cdef inline bint account_paired(Pipeline *p) noexcept nogil:
    """Account what has come back. False: nothing had."""
    cdef uint64_t paired = load_acquire(&p.paired)
    cdef bint any_came = p.accounted != paired
    while p.accounted != paired:
        account(p.s, &p.ring[p.accounted % RING])
        p.accounted += 1
    return any_came


cdef void drain(Pipeline *p) noexcept nogil:
    """Account everything that was published."""
    cdef int spins = 0
    while p.accounted != p.produced:
        if account_paired(p):
            spins = 0
        else:
            give_way(&spins)


cdef inline void give_way(int *spins) noexcept nogil:
    """Wait a moment for the other thread, which may need this one's core."""
    spins[0] += 1
    if spins[0] < SPINS:
        pause()
    else:
        sched_yield()


cdef int start_pipeline(Pipeline *p) noexcept nogil:
    """Start the worker. Not 0: an errno."""
    cdef sigset_t all_signals, before
    cdef int error
    p.process = getpid()
    pthread_mutex_init(&p.mutex, NULL)
    pthread_cond_init(&p.awake, NULL)
    sigfillset(&all_signals)                    # they are for the thread that polls
    pthread_sigmask(SIG_SETMASK, &all_signals, &before)
    error = pthread_create(&p.worker, NULL, work, p)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    return error


cdef void stop_pipeline(Pipeline *p) noexcept nogil:
    pthread_mutex_lock(&p.mutex)
    p.stop = True
    pthread_cond_signal(&p.awake)
    pthread_mutex_unlock(&p.mutex)
    pthread_join(p.worker, NULL)
    pthread_cond_destroy(&p.awake)
    pthread_mutex_destroy(&p.mutex)
