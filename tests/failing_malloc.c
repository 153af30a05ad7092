/* Preloaded into a process that uses malloc() for everything: makes allocations fail on request.
 *
 * After fail(k, n, least) the k-th allocation of this thread from then on fails, as do the n - 1
 * that follow, of those that are for `least` bytes or more. fail(0, 0, 0) ends that. Returns how
 * many such allocations there have been since the last call. glibc only.
 */
#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

static __thread long count, first, end;
static __thread size_t least_bytes;

long fail(long k, long n, size_t least)
{
    long had = count;
    count = 0;
    first = k;
    end = k + n;
    least_bytes = least;
    return had;
}

static int fails(size_t size)
{
    if (!end || size < least_bytes)
        return 0;
    count++;
    if (count < first || count >= end)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return fails(size) ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return fails(n * size) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    return fails(size) ? NULL : __libc_realloc(old, size);
}
