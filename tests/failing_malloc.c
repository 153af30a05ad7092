/* Preloaded into a process that uses malloc() for everything: makes allocations fail on request.
 *
 * After fail_from(k, n) the k-th allocation of this thread from then on fails, as do the n - 1
 * that follow; allocations() tells how many there have been since. glibc only.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

static __thread long count, first, end;

void fail_from(long k, long n)
{
    count = 0;
    first = k;
    end = n < 0 ? 0x7fffffffffffffff : k + n;
}

long allocations(void)
{
    return count;
}

static int fails(void)
{
    if (!end)
        return 0;
    count++;
    if (count < first || count >= end)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    return fails() ? NULL : __libc_realloc(old, size);
}
