/* Named points at which a test makes its own process die, stop or dawdle.
 *
 * Compiled in only with the macro NTMEM_FAILPOINTS; otherwise FAILPOINT(x) is nothing and no name is in the binary.
 * The list is one for all native modules and so is the table, which lives in the module `failpoints`; each module that
 * has points takes its address when it is imported (FAILPOINTS_JOIN).
 *
 * A leaf: plain C, no Python. Arming is for one thread at a time; hits are counted over all threads.
 */
#ifndef NTMEM_FAILPOINT_H
#define NTMEM_FAILPOINT_H

#include <stddef.h>
#include <stdint.h>

enum failpoint_action { FAILPOINT_PASS, FAILPOINT_KILL, FAILPOINT_STOP, FAILPOINT_DELAY, FAILPOINT_DRAG };

#if defined(NTMEM_FAILPOINTS)

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* In the order of the code: writers, repairers, readers, the hot table, the flusher, leases, the ring of messages, vectors.
 * docs/design/log.md, hot.md, locks.md, bus.md and vectors.md say what each one means. */
#define FAILPOINT_LIST(X)                                                                                             \
    X(locked) X(checked) X(reserved) X(half_written) X(written) X(sealed) X(linked) X(numbered) X(committed)          \
    X(announced) X(repair_begun) X(repair_linked) X(repair_numbered) X(repair_committed) X(repaired)                  \
    X(limit_taken) X(head_taken) X(half_copied) X(copied)                                                             \
    X(hot_locked) X(hot_emptied) X(hot_unlinked) X(hot_raised) X(hot_moved) X(hot_reclaimed) X(hot_written) \
    X(hot_linked) X(hot_found) X(hot_copied)                                                                          \
    X(flush_led) X(flush_begun) X(flush_read) X(flush_applied) X(flush_noted) X(flush_synced) X(flush_advanced)         \
    X(book_committed) X(book_copied) X(book_published) X(fence_marked) X(fence_checked) X(lease_locked) X(lease_named) X(lease_revoked) X(lease_filled) X(lease_granted)   \
    X(lease_barred) X(lease_renewed) X(lease_freed) X(lease_queued) X(lease_left) X(lease_repaired)                   \
    X(ring_repaired) X(ring_locked) X(ring_reserved) X(ring_half_written) X(ring_written) X(ring_committed)           \
    X(ring_announced) X(ring_headed) X(ring_looked) X(ring_half_copied) X(ring_copied)                        \
    X(vectors_locked) X(vectors_valued) X(vectors_staged) X(vectors_kept) X(vectors_replaced) X(vectors_counted)      \
    X(vectors_indexed)

#define FAILPOINTS_COMPILED 1
#define FAILPOINT_DELAY_NS 5000000
#define FAILPOINT_DRAG_NS 500000000
#define FAILPOINT_NAME(name) #name,
#define FAILPOINT_INDEX(name) failpoint_##name,

static const char *const failpoint_names[] = {FAILPOINT_LIST(FAILPOINT_NAME) NULL};
enum failpoint_index { FAILPOINT_LIST(FAILPOINT_INDEX) failpoint_count };

typedef struct {
    struct {
        int action;
        uint64_t left; /* hits until it acts */
    } points[failpoint_count];
} failpoints_t;

static failpoints_t *failpoints;

static inline void failpoints_join(failpoints_t *table) { failpoints = table; }

static inline int failpoint_arm(failpoints_t *table, const char *name, int action, uint64_t nth)
{
    for (int i = 0; i < failpoint_count; i++) {
        if (strcmp(name, failpoint_names[i]) == 0) {
            table->points[i].left = nth;
            __atomic_store_n(&table->points[i].action, action, __ATOMIC_RELEASE);
            return 0;
        }
    }
    return -1;
}

static inline void failpoint_hit(enum failpoint_index index)
{
    const int action = __atomic_load_n(&failpoints->points[index].action, __ATOMIC_ACQUIRE);

    int64_t left;

    if (action == FAILPOINT_PASS)
        return;
    left = (int64_t)__atomic_sub_fetch(&failpoints->points[index].left, 1, __ATOMIC_RELAXED);
    if (left > 0 || (left < 0 && action != FAILPOINT_DRAG))
        return;
    if (action == FAILPOINT_KILL) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    } else if (action == FAILPOINT_STOP) {
        raise(SIGSTOP); /* to this thread: it is stopped before the call returns */
    } else {
        const struct timespec span = {0, action == FAILPOINT_DRAG ? FAILPOINT_DRAG_NS : FAILPOINT_DELAY_NS};
        nanosleep(&span, NULL);
    }
}

#define FAILPOINT(name) failpoint_hit(failpoint_##name)

#else

#define FAILPOINTS_COMPILED 0
#define FAILPOINT(name) ((void)0)

typedef struct {
    int none;
} failpoints_t;

static const char *const failpoint_names[] = {NULL};
static inline void failpoints_join(failpoints_t *table) { (void)table; }
static inline int failpoint_arm(failpoints_t *table, const char *name, int action, uint64_t nth) { return -1; }

#endif
#endif
