/* The two words by which a lease is judged, where it stands in shared memory: whose it is, and until when.
 *
 * A leaf: plain C, no Python. Who changes them holds the mutex of the leases (leases.h); who judges holds the log's
 * mutex (log_write.h) and no other.
 */
#ifndef NTMEM_FENCE_H
#define NTMEM_FENCE_H

#include <stdint.h>
#include <time.h>

#include "sync.h"

typedef struct {
    uint64_t number;  /* of the lease that is granted; 0: none is. No number is ever granted twice. */
    uint64_t expires; /* CLOCK_BOOTTIME, ns; of that lease alone: changed only while `number` is 0, or by its renewal */
} fence_word_t;

static inline uint64_t boot_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_BOOTTIME, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

/* Whether the lease `number` is granted at `now`. The word is looked at twice, as the time read in between may be that
 * of the next lease. */
static inline int fence_is_current(const fence_word_t *word, uint64_t number, uint64_t now)
{
    uint64_t expires;

    if (number == 0 || __atomic_load_n(&word->number, __ATOMIC_SEQ_CST) != number)
        return 0;
    expires = word_acquire(&word->expires);
    fence_acquire();
    return now < expires && word_acquire(&word->number) == number;
}

#endif
