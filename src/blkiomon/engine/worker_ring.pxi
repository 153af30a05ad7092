# Pairs on a second thread: a single-producer, single-consumer ring of batches.
#
#     the owner     decode, prepare  ->  ring of batches  ->  account
#     the worker                         pair
#
# The owner is the thread that uses the engine. Batches pass the stages in order, and each stage
# runs on one thread only, so results are bit for bit those of one thread. No lock is taken for a
# batch: each stage writes to its own part of State. Work that needs both parts (a larger table, an
# eviction) is done by the owner after drain(). Engine._has_room() finds such batches before they
# are published. A thread without work spins for a while, then sleeps on a condition variable.
#
# Entry points, all for the owner: start_worker, publish, account_paired, await_paired, drain,
# stop_worker.

from posix.signal cimport SIG_SETMASK, sigfillset
from posix.types cimport sigset_t
from posix.unistd cimport getpid

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
    int pthread_sigmask(int, const sigset_t *, sigset_t *)

cdef enum:
    RING = 32                                   # batches; together they fit the second-level cache
    SPINS = 2000                                # polls of the other thread before sleeping
    NEVER = 0xffffffffffffffff

cdef struct WorkerRing:
    State *s
    int process                                 # pid; after a fork() the child has no worker
    Batch *batches                              # RING of them
    uint64_t accounted                          # batches so far; used by the owner only
    bint needs_input                            # of any batch published since drain()
    uint64_t pad0[8]
    uint64_t produced                           # written by the owner, read by the worker
    uint64_t pad1[8]
    uint64_t paired                             # written by the worker, read by the owner
    uint64_t pad2[8]
    uint64_t worker_wants                       # `produced` at which to wake the worker, or NEVER
    uint64_t owner_wants                        # `paired` at which to wake the owner, or NEVER
    bint stop
    pthread_mutex_t mutex                       # only for sleeping and waking
    pthread_cond_t more_produced
    pthread_cond_t more_paired
    pthread_t worker


cdef inline bint worker_keeps_up(const WorkerRing *p) noexcept nogil:
    """Whether the worker keeps up, and so has time to compute hashes.

    The owner computes them otherwise. This balances the load of the two threads.
    """
    return p.produced - load_relaxed(&p.paired) < 3 * RING // 4


cdef void *run_worker(void *argument) noexcept nogil:
    """The worker thread: pairs every batch that is published."""
    cdef WorkerRing *p = <WorkerRing *> argument
    cdef uint64_t paired = p.paired
    cdef uint64_t taken_over = paired
    cdef uint64_t produced
    cdef int spins = 0
    while True:
        produced = load_acquire(&p.produced)
        if produced != paired:
            while taken_over != produced and taken_over < paired + 2:   # one ahead, to prefetch
                prepare_on_worker(p.s, &p.batches[taken_over % RING])
                taken_over += 1
            pair(p.s, &p.batches[paired % RING])
            paired += 1
            store_release(&p.paired, paired)
            full_fence()                        # pairs with that of await_change()
            if unlikely(load_relaxed(&p.owner_wants) <= paired):
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
    WorkerRing *p, const uint64_t *count, uint64_t now, uint64_t more,
    uint64_t *wants, pthread_cond_t *changed,
) noexcept nogil:
    """Sleep until a count that was `now` has grown by `more`. Returns False at stop_worker().

    The other thread reads `wants` after each change of the count, and then signals `changed`.
    """
    pthread_mutex_lock(&p.mutex)
    store_release(wants, now + more)
    full_fence()
    while load_acquire(count) < now + more and not p.stop:
        pthread_cond_wait(changed, &p.mutex)
    store_release(wants, NEVER)
    pthread_mutex_unlock(&p.mutex)
    return load_acquire(count) >= now + more


cdef void wake(WorkerRing *p, pthread_cond_t *changed) noexcept nogil:
    pthread_mutex_lock(&p.mutex)
    pthread_cond_signal(changed)
    pthread_mutex_unlock(&p.mutex)


cdef inline void publish(WorkerRing *p) noexcept nogil:
    """Hand the batch at index `produced` to the worker."""
    p.needs_input |= p.batches[p.produced % RING].needs_input
    store_release(&p.produced, p.produced + 1)
    full_fence()
    if unlikely(load_relaxed(&p.worker_wants) <= p.produced):
        wake(p, &p.more_produced)


cdef inline bint account_paired(WorkerRing *p) noexcept nogil:
    """Account the batches that the worker has paired. Returns whether there were any."""
    cdef uint64_t paired = load_acquire(&p.paired)
    cdef bint any_came = p.accounted != paired
    while p.accounted != paired:
        account(p.s, &p.batches[p.accounted % RING])
        p.accounted += 1
    return any_came


cdef void await_paired(WorkerRing *p, uint64_t batches) noexcept nogil:
    """Account that many more batches; sleep if the worker takes long."""
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
                p, &p.paired, p.accounted, wanted - p.accounted, &p.owner_wants, &p.more_paired
            )


cdef void drain(WorkerRing *p) noexcept nogil:
    """Wait for the worker and account everything that was published."""
    await_paired(p, p.produced - p.accounted)
    p.needs_input = False


cdef int start_worker(WorkerRing *p) noexcept nogil:
    """Start the worker thread. Returns 0 or an errno."""
    cdef sigset_t all_signals, before
    cdef int error
    p.process = getpid()
    pthread_mutex_init(&p.mutex, NULL)
    pthread_cond_init(&p.more_produced, NULL)
    pthread_cond_init(&p.more_paired, NULL)
    p.worker_wants = p.owner_wants = NEVER
    sigfillset(&all_signals)                    # for the main thread only
    pthread_sigmask(SIG_SETMASK, &all_signals, &before)
    error = pthread_create(&p.worker, NULL, run_worker, p)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    return error


cdef void stop_worker(WorkerRing *p) noexcept nogil:
    pthread_mutex_lock(&p.mutex)
    p.stop = True
    pthread_cond_signal(&p.more_produced)
    pthread_mutex_unlock(&p.mutex)
    pthread_join(p.worker, NULL)
    pthread_cond_destroy(&p.more_produced)
    pthread_cond_destroy(&p.more_paired)
    pthread_mutex_destroy(&p.mutex)
