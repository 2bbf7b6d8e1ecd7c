/* The thread that moves the log to disk: when a pass is due, and which process leads.
 *
 * A leaf: plain C over pthreads, no Python. Every process that writes has one such thread; one of them leads. That is a
 * matter of speed only: what keeps two of them apart is the mutex that is held during a pass.
 */
#ifndef NTMEM_FLUSHER_H
#define NTMEM_FLUSHER_H

#include <signal.h>

#include "flush_pass.h"

#define FLUSHER_BEAT_NS 20000000ull   /* a leader gives a sign of life so often while something is unflushed */
#define FLUSHER_IDLE_NS 50000000ull   /* a wake-up lost with a dead writer costs this */
#define FLUSHER_FOLLOW_NS 25000000ull /* how often the others look whether there is a leader */
#define FLUSHER_LOST_NS 60000000ull   /* without a sign of life for so long there is none */
#define FLUSHER_AGAIN_NS 50000000ull  /* after a pass that failed */
#define FLUSHER_LOOK_NS 200000000ull  /* how often a full store looks whether it still is */
#define FLUSHER_STACK (512u << 10)
#define FLUSHER_NEVER UINT64_MAX

typedef struct {
    flush_t flush;
    uint64_t interval; /* nanoseconds that a commit may wait for others to go with it */
    pthread_t thread;
    uint32_t started; /* it is to be joined, */
    uint32_t joining; /* and somebody is about to */
    uint32_t stop;    /* words to wait on, by this process only */
    uint32_t ended;
    uint32_t leads;
    uint64_t not_before; /* the thread's own: when it may lead again, */
    uint64_t look_at;    /* and look again whether the store is still full */
} flusher_t;

static inline int flusher_stops(const flusher_t *flusher) { return __atomic_load_n(&flusher->stop, __ATOMIC_ACQUIRE) != 0; }

static inline void flusher_sleep(flusher_t *flusher, uint64_t wait_ns) { news_wait(&flusher->stop, 0, wait_ns); }

/* ---- who leads ------------------------------------------------------------------------------------------------ */

static inline uint32_t leader_pid(const log_t *log)
{
    return __atomic_load_n(&log->control->leader.pid, __ATOMIC_ACQUIRE);
}

static inline int flusher_leads(flusher_t *flusher)
{
    if (flusher->leads && leader_pid(flusher->flush.log) != flusher->flush.log->pid)
        __atomic_store_n(&flusher->leads, 0, __ATOMIC_RELAXED); /* it was stopped, and another one took over */
    return (int)flusher->leads;
}

static inline void flusher_step_back(flusher_t *flusher)
{
    uint32_t own = flusher->flush.log->pid;

    if (flusher->leads)
        __atomic_compare_exchange_n(&flusher->flush.log->control->leader.pid, &own, 0, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED);
    __atomic_store_n(&flusher->leads, 0, __ATOMIC_RELAXED);
}

static inline int leader_is_lost(const log_t *log, uint32_t leader, uint64_t now)
{
    const log_control_t *control = log->control;
    const uint64_t flushed = word_acquire(&control->flushed.word);
    const uint64_t committed = word_acquire(&control->committed.word);
    const uint64_t pulse = word_acquire(&control->leader.pulse);
    const uint64_t oldest = word_acquire(&control->oldest.word);

    if (leader == 0)
        return 1;
    if (leader != log->pid && kill((pid_t)leader, 0) != 0 && errno == ESRCH)
        return 1; /* found before it is missed; the pulse finds those that are stopped, and pids used again */
    return flushed != committed && now > FLUSHER_LOST_NS + (pulse > oldest ? pulse : oldest);
}

/* Only when the mutex is free: who is in the middle of a pass cannot be replaced, and a slow disk is no death. */
static inline int flusher_take_lead(flusher_t *flusher, uint64_t now)
{
    const log_t *log = flusher->flush.log;
    uint32_t before = leader_pid(log);
    int dead, taken;

    if (now < flusher->not_before || !leader_is_lost(log, before, now) || flush_take(log, 0) != FLUSH_DONE)
        return 0;
    taken = __atomic_compare_exchange_n(&log->control->leader.pid, &before, log->pid, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED);
    if (taken)
        word_release(&log->control->leader.pulse, now);
    flush_release(log);
    if (!taken)
        return 0;
    __atomic_store_n(&flusher->leads, 1, __ATOMIC_RELAXED);
    FAILPOINT(flush_led);
    if (before != 0)
        flusher->flush.calls->reader_check(flusher->flush.env, &dead); /* what it read keeps pages from being used again */
    return 1;
}

/* ---- when ----------------------------------------------------------------------------------------------------- */

static inline int flusher_is_wanted(const log_t *log)
{
    const uint64_t flushed = word_acquire(&log->control->flushed.word);

    return word_acquire(&log->control->wanted.word) > flushed && word_acquire(&log->control->committed.word) > flushed;
}

/* Nanoseconds until a pass is due; never, if all is on disk. */
static inline uint64_t flusher_due(const flusher_t *flusher, uint64_t now)
{
    const log_t *log = flusher->flush.log;
    const uint64_t flushed = word_acquire(&log->control->flushed.word);
    const uint64_t committed = word_acquire(&log->control->committed.word);
    uint64_t due;

    if (committed == flushed)
        return FLUSHER_NEVER;
    if (flusher_is_wanted(log) || committed - flushed > log->capacity / 4)
        return 0;
    due = word_acquire(&log->control->oldest.word) + flusher->interval;
    return due > now ? due - now : 0;
}

/* Commits are news only to who has nothing to do: once it knows of one, it sleeps until that is due, and writers need
 * not wake it again. */
static inline void flusher_rest(flusher_t *flusher, uint64_t due)
{
    const log_t *log = flusher->flush.log;
    log_control_t *control = log->control;
    uint32_t *news = due == FLUSHER_NEVER ? &control->commit_news.word : &control->wanted_news.word;
    const uint32_t expected = news_expect(news);

    if (flusher_stops(flusher))
        return;
    if (due != FLUSHER_NEVER) {
        if (!flusher_is_wanted(log))
            news_wait(news, expected, due < FLUSHER_BEAT_NS ? due : FLUSHER_BEAT_NS);
    } else if (word_acquire(&control->committed.word) == word_acquire(&control->flushed.word)) {
        news_wait(news, expected, FLUSHER_IDLE_NS);
    }
}

/* Nothing is written to a full store, so no pass would find out that it is not full any more. */
static inline void flusher_look(flusher_t *flusher, uint64_t now)
{
    const log_t *log = flusher->flush.log;

    if (flush_trouble(log) != TROUBLE_FULL || now < flusher->look_at)
        return;
    flusher->look_at = now + FLUSHER_LOOK_NS;
    if (flush_take(log, 0) == FLUSH_DONE) {
        if (flush_trouble(log) == TROUBLE_FULL)
            flush_look_locked(&flusher->flush);
        flush_release(log);
    }
}

/* ---- the thread ----------------------------------------------------------------------------------------------- */

static inline void flusher_turn(flusher_t *flusher)
{
    const log_t *log = flusher->flush.log;
    const uint64_t now = coarse_ns();
    uint64_t due;

    if (flush_trouble(log) == TROUBLE_BROKEN) {
        flusher_step_back(flusher);
        flusher_sleep(flusher, FLUSHER_IDLE_NS);
        return;
    }
    if (!flusher_leads(flusher) && !flusher_take_lead(flusher, now)) {
        flusher_sleep(flusher, FLUSHER_FOLLOW_NS);
        return;
    }
    word_release(&log->control->leader.pulse, now);
    due = flusher_due(flusher, now);
    if (due == FLUSHER_NEVER)
        flusher_look(flusher, now);
    if (due != 0) {
        flusher_rest(flusher, due);
    } else if (flush_once(&flusher->flush, FLUSHER_BEAT_NS) == FLUSH_FAILED) {
        /* Perhaps it is only here (a limit of this process, no memory): let another one try. */
        flusher->not_before = coarse_ns() + FLUSHER_AGAIN_NS;
        flusher_step_back(flusher);
    }
}

static inline void *flusher_main(void *argument)
{
    flusher_t *flusher = argument;

    while (!flusher_stops(flusher))
        flusher_turn(flusher);
    flusher_step_back(flusher);
    __atomic_store_n(&flusher->ended, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &flusher->ended, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    return NULL;
}

/* An errno. */
static inline int flusher_start(flusher_t *flusher)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t blocked, before;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);

    if (error != 0)
        return error;
    flusher->stop = flusher->ended = 0;
    flusher->not_before = flusher->look_at = 0;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&blocked, faults[i]);
    error = pthread_attr_setstacksize(&attributes, FLUSHER_STACK);
    if (error == 0)
        error = pthread_sigmask(SIG_SETMASK, &blocked, &before); /* a thread begins with the mask of its maker */
    if (error == 0) {
        error = pthread_create(&flusher->thread, &attributes, flusher_main, flusher);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attributes);
    if (error == 0) {
        flusher->started = 1;
        pthread_setname_np(flusher->thread, "ntmem-flusher");
    }
    return error;
}

static inline void news_disturb(uint32_t *word)
{
    __atomic_fetch_add(word, 2, __ATOMIC_ACQ_REL); /* whether somebody waits stays as it is */
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static inline void flusher_ask_to_stop(flusher_t *flusher)
{
    __atomic_store_n(&flusher->stop, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &flusher->stop, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    news_disturb(&flusher->flush.log->control->commit_news.word);
    news_disturb(&flusher->flush.log->control->wanted_news.word);
}

/* Waits up to `wait_ns` for the end of a thread that was asked to stop; whether it has ended, and was joined. */
static inline int flusher_join(flusher_t *flusher, uint64_t wait_ns)
{
    if (__atomic_load_n(&flusher->ended, __ATOMIC_ACQUIRE) == 0)
        news_wait(&flusher->ended, 0, wait_ns);
    if (__atomic_load_n(&flusher->ended, __ATOMIC_ACQUIRE) == 0)
        return 0;
    pthread_join(flusher->thread, NULL);
    flusher->started = 0;
    return 1;
}

#endif
