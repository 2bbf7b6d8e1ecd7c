/* What the calls of a store came to, and how long they took: counted by each process for itself, read as a sum.
 *
 * A leaf: plain C, no Python. A process has a block of its own in shared memory, so counting is an addition to a line that
 * nobody else writes. A dead one's block goes to who comes next, who counts on from there: sums never fall.
 */
#ifndef NTMEM_USAGE_H
#define NTMEM_USAGE_H

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

#include "sync.h"

#define USAGE_BLOCKS 64
#define USAGE_BUCKETS 128
#define USAGE_SAMPLE 61 /* of so many calls one is timed: a clock costs as much as a call. A prime: no rhythm hides one */

enum usage_count {
    USAGE_HOT,     /* gets that the hot table answered, */
    USAGE_LOG,     /* the log, */
    USAGE_DISK,    /* LMDB; */
    USAGE_ABSENT,  /* there was no such key */
    USAGE_LEFT,    /* gets of what is not plain, which Python answered */
    USAGE_PROMOTED,
    USAGE_PUT,
    USAGE_COUNTS = 8,
};

enum usage_call { USAGE_GETS, USAGE_PUTS, USAGE_CALLS };

typedef struct {
    uint32_t pid; /* 0: nobody's */
    uint32_t zero[15];
    uint64_t counts[USAGE_COUNTS];
    uint64_t times[USAGE_CALLS][USAGE_BUCKETS];
} __attribute__((aligned(SYNC_LINE))) usage_t;

/* This process' block. When there are more processes than blocks, the last ones share one, and may lose counts. */
static inline usage_t *usage_claim(usage_t *blocks, uint32_t pid)
{
    for (int i = 0; i < USAGE_BLOCKS; i++)
        if (__atomic_load_n(&blocks[i].pid, __ATOMIC_RELAXED) == pid)
            return &blocks[i];
    for (int i = 0; i < USAGE_BLOCKS; i++) {
        uint32_t owner = __atomic_load_n(&blocks[i].pid, __ATOMIC_RELAXED);
        if ((owner == 0 || (kill((pid_t)owner, 0) != 0 && errno == ESRCH)) &&
            __atomic_compare_exchange_n(&blocks[i].pid, &owner, pid, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return &blocks[i];
    }
    return &blocks[USAGE_BLOCKS - 1];
}

static inline uint64_t usage_clock(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

/* Four buckets to each doubling; the last of so many has all that is above, too. */
static inline uint32_t usage_bucket_below(uint64_t ns, uint32_t buckets)
{
    uint32_t power, bucket;

    if (ns < 4)
        return (uint32_t)ns;
    power = 63 - (uint32_t)__builtin_clzll(ns);
    bucket = (power - 1) * 4 + (uint32_t)(ns >> (power - 2) & 3);
    return bucket < buckets ? bucket : buckets - 1;
}

static inline uint32_t usage_bucket(uint64_t ns) { return usage_bucket_below(ns, USAGE_BUCKETS); }

/* The least time of a bucket. */
static inline uint64_t usage_bucket_ns(uint32_t bucket)
{
    return bucket < 4 ? bucket : (4ull + bucket % 4) << (bucket / 4 - 1);
}

static inline void usage_add(usage_t *usage, enum usage_count count, uint64_t number)
{
    __atomic_store_n(&usage->counts[count], __atomic_load_n(&usage->counts[count], __ATOMIC_RELAXED) + number,
                     __ATOMIC_RELAXED);
}

static inline void usage_time(usage_t *usage, enum usage_call call, uint64_t ns)
{
    uint64_t *bucket = &usage->times[call][usage_bucket(ns)];

    __atomic_store_n(bucket, __atomic_load_n(bucket, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

#endif
