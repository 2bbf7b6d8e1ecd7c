/* Named points at which a test makes its own process die, stop or dawdle.
 *
 * Compiled in only with the macro NTMEM_FAILPOINTS; otherwise FAILPOINT(x) is nothing and no name is in the binary. A
 * module lists its points before it includes this file:
 *
 *     #define FAILPOINT_LIST(X) X(locked) X(written)
 *
 * A leaf: plain C, no Python. Arming is for one thread at a time; hits are counted over all threads.
 */
#ifndef NTMEM_FAILPOINT_H
#define NTMEM_FAILPOINT_H

#include <stdint.h>

enum failpoint_action { FAILPOINT_PASS, FAILPOINT_KILL, FAILPOINT_STOP, FAILPOINT_DELAY };

#if defined(NTMEM_FAILPOINTS)

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FAILPOINTS_COMPILED 1
#define FAILPOINT_DELAY_NS 5000000
#define FAILPOINT_NAME(name) #name,
#define FAILPOINT_INDEX(name) failpoint_##name,

static const char *const failpoint_names[] = {FAILPOINT_LIST(FAILPOINT_NAME) NULL};
enum failpoint_index { FAILPOINT_LIST(FAILPOINT_INDEX) failpoint_count };
static struct {
    int action;
    uint64_t left; /* hits until it acts */
} failpoints[failpoint_count];

static inline int failpoint_arm(const char *name, int action, uint64_t nth)
{
    for (int i = 0; i < failpoint_count; i++) {
        if (strcmp(name, failpoint_names[i]) == 0) {
            failpoints[i].left = nth;
            __atomic_store_n(&failpoints[i].action, action, __ATOMIC_RELEASE);
            return 0;
        }
    }
    return -1;
}

static inline void failpoint_hit(enum failpoint_index index)
{
    const int action = __atomic_load_n(&failpoints[index].action, __ATOMIC_ACQUIRE);

    if (action == FAILPOINT_PASS || __atomic_sub_fetch(&failpoints[index].left, 1, __ATOMIC_RELAXED) != 0)
        return;
    if (action == FAILPOINT_KILL) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    } else if (action == FAILPOINT_STOP) {
        raise(SIGSTOP); /* to this thread: it is stopped before the call returns */
    } else {
        const struct timespec span = {0, FAILPOINT_DELAY_NS};
        nanosleep(&span, NULL);
    }
}

#define FAILPOINT(name) failpoint_hit(failpoint_##name)

#else

#define FAILPOINTS_COMPILED 0
#define FAILPOINT(name) ((void)0)

static const char *const failpoint_names[] = {(const char *)0};
static inline int failpoint_arm(const char *name, int action, uint64_t nth) { return -1; }

#endif
#endif
