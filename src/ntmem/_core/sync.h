/* What processes that share memory need of each other: a mutex that survives its owner, news, ordered words.
 *
 * A leaf: plain C over pthreads and futexes, no Python. Everything here lives in shared memory, so futexes are not
 * PRIVATE and mutexes are process-shared and robust.
 */
#ifndef NTMEM_SYNC_H
#define NTMEM_SYNC_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SYNC_LINE 64
#define NANOSECONDS 1000000000ull

/* ---- words ---------------------------------------------------------------------------------------------------- */

static inline uint64_t word_acquire(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline uint32_t word32_acquire(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline uint64_t word_relaxed(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
#if defined(NTMEM_PLANTED_RACE) /* the thread sanitizer must see this: tests/sanitize */
static inline void word_release(uint64_t *word, uint64_t value) { *word = value; }
#else
static inline void word_release(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
#endif

#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan" /* fences are not modelled; what they order is atomic in that build */
#endif
static inline void fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

/* Bytes that a reader may copy while a writer overwrites them: the copy is checked afterwards and thrown away. The
 * thread sanitizer cannot know that, so there, and only there, each byte is an atomic of its own. */
static inline void bytes_copy(void *to, const void *from, size_t size)
{
#if defined(__SANITIZE_THREAD__)
    for (size_t i = 0; i < size; i++)
        __atomic_store_n((char *)to + i, __atomic_load_n((const char *)from + i, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
#else
    memcpy(to, from, size);
#endif
}

static inline int bytes_equal(const void *a, const void *b, size_t size)
{
#if defined(__SANITIZE_THREAD__)
    for (size_t i = 0; i < size; i++)
        if (__atomic_load_n((const char *)a + i, __ATOMIC_RELAXED) != ((const char *)b)[i])
            return 0;
    return 1;
#else
    return memcmp(a, b, size) == 0;
#endif
}

/* ---- the mutex ------------------------------------------------------------------------------------------------ */

typedef struct {
    pthread_mutex_t mutex;
    uint32_t holder; /* pid, for the error of who waits in vain */
} __attribute__((aligned(SYNC_LINE))) shared_mutex_t;

enum mutex_outcome {
    MUTEX_TAKEN,
    MUTEX_OWNER_DIED, /* taken, and what it guards is to be repaired, then mutex_mend() */
    MUTEX_BUSY,
    MUTEX_BROKEN, /* given up by a repairer, or its bytes are no mutex */
};

static inline int mutex_create(shared_mutex_t *shared)
{
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);

    if (error != 0)
        return error;
    error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (error == 0)
        error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (error == 0)
        error = pthread_mutex_init(&shared->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return error;
}

/* Another kind of mutex in these bytes would make pthreads abort instead of answering. */
static inline int mutex_is_sound(const shared_mutex_t *shared)
{
#if defined(__GLIBC__)
    shared_mutex_t fresh;

    memset(&fresh, 0, sizeof fresh);
    if (mutex_create(&fresh) != 0)
        return 0;
    return fresh.mutex.__data.__kind == __atomic_load_n(&shared->mutex.__data.__kind, __ATOMIC_RELAXED);
#else
    return 1;
#endif
}

/* Whether its last owner died with it, and nobody has taken it since. */
static inline int mutex_owner_died(const shared_mutex_t *shared)
{
#if defined(__GLIBC__)
    const uint32_t lock = (uint32_t)__atomic_load_n(&shared->mutex.__data.__lock, __ATOMIC_ACQUIRE);
    return (lock & FUTEX_OWNER_DIED) != 0 && (lock & FUTEX_TID_MASK) == 0;
#else
    return 1;
#endif
}

/* Whether it is as the dead leave one. For who is alone: anything else would be waited for in vain. */
static inline int mutex_is_left(const shared_mutex_t *shared)
{
#if defined(__GLIBC__)
    return __atomic_load_n(&shared->mutex.__data.__lock, __ATOMIC_ACQUIRE) == 0 || mutex_owner_died(shared);
#else
    return 1;
#endif
}

static inline void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

#define MUTEX_CLOCK CLOCK_MONOTONIC

/* Not there before glibc 2.30, nor in musl: wheels are built with an older one, and take what they find where they run. */
extern int pthread_mutex_clocklock(pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until)
    __attribute__((weak));

static inline int mutex_poll_until(pthread_mutex_t *mutex, const struct timespec *until)
{
    const struct timespec pause = {0, 100000};
    struct timespec now;
    int error;

    while ((error = pthread_mutex_trylock(mutex)) == EBUSY) {
        clock_gettime(MUTEX_CLOCK, &now);
        if (now.tv_sec > until->tv_sec || (now.tv_sec == until->tv_sec && now.tv_nsec >= until->tv_nsec))
            return ETIMEDOUT;
        nanosleep(&pause, NULL);
    }
    return error;
}

static inline int mutex_lock_until(pthread_mutex_t *mutex, const struct timespec *until)
{
#if !defined(__SANITIZE_THREAD__) /* gcc 12's does not know it, and of a timed lock not that an owner died */
    if (pthread_mutex_clocklock != NULL)
        return pthread_mutex_clocklock(mutex, MUTEX_CLOCK, until);
#endif
    return mutex_poll_until(mutex, until);
}

/* Tries, spins for a few microseconds, then waits `wait_ns` (0: not at all). */
static inline enum mutex_outcome mutex_take(shared_mutex_t *shared, uint64_t wait_ns, uint32_t pid)
{
    int error = pthread_mutex_trylock(&shared->mutex);

    for (int spins = 0; error == EBUSY && spins < 64; spins++) {
        cpu_pause();
        error = pthread_mutex_trylock(&shared->mutex);
    }
    if (error == EBUSY && wait_ns != 0) {
        struct timespec until;

        clock_gettime(MUTEX_CLOCK, &until);
        wait_ns += (uint64_t)until.tv_nsec;
        until.tv_sec += (time_t)(wait_ns / NANOSECONDS);
        until.tv_nsec = (long)(wait_ns % NANOSECONDS);
        error = mutex_lock_until(&shared->mutex, &until);
    }
    if (error == EBUSY || error == ETIMEDOUT)
        return MUTEX_BUSY;
    if (error != 0 && error != EOWNERDEAD)
        return MUTEX_BROKEN;
    __atomic_store_n(&shared->holder, pid, __ATOMIC_RELAXED);
    return error == 0 ? MUTEX_TAKEN : MUTEX_OWNER_DIED;
}

static inline void mutex_mend(shared_mutex_t *shared) { pthread_mutex_consistent(&shared->mutex); }

/* Without mutex_mend() after the owner's death this breaks the mutex for good. */
static inline void mutex_release(shared_mutex_t *shared)
{
    __atomic_store_n(&shared->holder, 0, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&shared->mutex);
}

static inline uint32_t mutex_holder(const shared_mutex_t *shared)
{
    return __atomic_load_n(&shared->holder, __ATOMIC_RELAXED);
}

/* ---- news ----------------------------------------------------------------------------------------------------- */

/* A futex word: bit 0 says that somebody waits, the rest counts. Who waits takes news_expect(), *then* looks at what
 * it waits for, then news_wait(). Who has news stores it, *then* calls news_announce(). Both go through an atomic
 * read-modify-write of the word, so one of them sees the other. A dead waiter costs one idle wake-up. */
static inline uint32_t news_expect(uint32_t *word) { return __atomic_fetch_or(word, 1, __ATOMIC_ACQ_REL) | 1; }

static inline void news_wait(uint32_t *word, uint32_t expected, uint64_t wait_ns)
{
    const struct timespec limit = {(time_t)(wait_ns / NANOSECONDS), (long)(wait_ns % NANOSECONDS)};

    syscall(SYS_futex, word, FUTEX_WAIT, expected, &limit, NULL, 0);
}

static inline void news_announce(uint32_t *word)
{
    if ((__atomic_fetch_add(word, 0, __ATOMIC_ACQ_REL) & 1) == 0)
        return;
    __atomic_fetch_add(word, 1, __ATOMIC_ACQ_REL); /* odd to even: counts and clears in one; two at once leave an idle bit */
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

#endif
