/* One pass of a flusher: a prefix of the log into one LMDB transaction, synced; and what is noted when that fails.
 *
 * A leaf: plain C, no Python. Whoever runs a pass holds control->flusher, a robust mutex, from before the transaction
 * until `flushed` is raised. A holder that dies leaves nothing to repair: either its transaction was committed, and its
 * successor reads from the data file how far that was, or it never happened.
 */
#ifndef NTMEM_FLUSH_PASS_H
#define NTMEM_FLUSH_PASS_H

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include "apply.h"
#include "log_flush.h"
#include "mdb_calls.h"
#include "meters.h"

#define FLUSH_BYTES (16ull << 20)     /* one transaction takes so much of the log, */
#define FLUSH_NS 200000000ull         /* or as much as takes so long; docs/design/flusher.md says why */
#define FLUSH_LITTLE (64ull << 10)    /* less than this is no room on a disk */
#define FLUSH_FREE_LIST 0             /* LMDB's own number of it */

/* Codes of our own beside errno's (above zero), LMDB's and those of apply.h (below -30000). */
enum flush_fault {
    FLUSH_GROUP_DAMAGED = -1, /* no sound group begins where the data file ends */
    FLUSH_BEHIND = -2,        /* the data file has less than was noted to be on disk */
    FLUSH_AHEAD = -3,         /* the data file has more than was ever committed */
    FLUSH_WORDS = -4,         /* the control words contradict each other, or the mutex is none */
    FLUSH_STRANGER = -5,      /* the data file belongs to another region, or to none */
};

enum flush_outcome { FLUSH_DONE, FLUSH_BUSY, FLUSH_FAILED };

typedef struct {
    uint64_t passes;
    uint64_t groups;
    uint64_t bytes;
    uint64_t sync_ns;
    uint64_t longest_ns;
    uint64_t failures;
    int64_t last_code;
} flush_counts_t;

typedef struct {
    const log_t *log;
    MDB_env *env;
    const mdb_calls_t *calls;
    const char *directory;
    uint64_t limit;    /* bytes in use from which only deletions are taken */
    uint64_t page;     /* bytes of one of LMDB's */
    unsigned char region_id[ROW_REGION_ID];
    apply_t apply;     /* this and all below: for who holds the mutex */
    unsigned char *buffer;
    uint64_t room;
    flush_counts_t counts;
    meters_t meters;
} flush_t;

static inline void flush_count(uint64_t *counter, uint64_t more)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + more, __ATOMIC_RELAXED);
}

static inline uint64_t flush_clock(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

/* ---- trouble -------------------------------------------------------------------------------------------------- */

static inline uint32_t flush_trouble(const log_t *log)
{
    return __atomic_load_n(&log->control->trouble.kind, __ATOMIC_ACQUIRE);
}

static inline void flush_note_locked(const log_t *log, enum log_trouble kind, int code)
{
    log_trouble_t *trouble = &log->control->trouble;

    if (trouble->kind == (uint32_t)kind && trouble->code == code)
        return;
    __atomic_store_n(&trouble->code, code, __ATOMIC_RELAXED);
    __atomic_store_n(&trouble->kind, kind, __ATOMIC_RELEASE);
    news_announce(&log->control->flush_news.word);
}

/* LMDB says EIO when the system wrote only a part: at the end of a disk, of a quota, or of what the process may write. */
static inline int flush_disk_is_full(const flush_t *flush)
{
    struct rlimit most;
    struct statvfs disk;
    MDB_envinfo info;

    if (flush->calls->env_info(flush->env, &info) == 0 && getrlimit(RLIMIT_FSIZE, &most) == 0 &&
        most.rlim_cur != RLIM_INFINITY && (info.me_last_pgno + 1) * flush->page + FLUSH_LITTLE > most.rlim_cur)
        return 1;
    return statvfs(flush->directory, &disk) == 0 && (uint64_t)disk.f_bavail * disk.f_frsize < FLUSH_LITTLE;
}

static inline enum log_trouble flush_trouble_of(const flush_t *flush, int code)
{
    switch (code) {
    case MDB_MAP_FULL:
    case MDB_MAP_RESIZED: /* another process has made the file larger than this one has mapped */
        return TROUBLE_FULL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOMEM:
        return TROUBLE_NO_ROOM;
    case EIO:
        return flush_disk_is_full(flush) ? TROUBLE_NO_ROOM : TROUBLE_BROKEN;
    default:
        return TROUBLE_BROKEN;
    }
}

/* ---- how full the data file is -------------------------------------------------------------------------------- */

static inline uint64_t flush_free_pages(const flush_t *flush)
{
    uint64_t total = 0;
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, pages;
    size_t count;

    if (flush->calls->txn_begin(flush->env, NULL, MDB_RDONLY, &txn) != 0)
        return 0;
    if (flush->calls->cursor_open(txn, FLUSH_FREE_LIST, &cursor) == 0) {
        while (flush->calls->cursor_get(cursor, &key, &pages, MDB_NEXT) == 0) {
            memcpy(&count, pages.mv_data, sizeof count);
            total += count;
        }
        flush->calls->cursor_close(cursor);
    }
    flush->calls->txn_abort(txn);
    return total;
}

/* Publishes whether the limit is reached, once the last pass was well. What is acknowledged by then finds room in what
 * the map has beyond the limit. */
static inline void flush_look_locked(const flush_t *flush)
{
    const uint64_t share = flush->limit / 64;
    const uint64_t slack = share > FLUSH_LITTLE ? share : FLUSH_LITTLE;
    const int was_full = flush_trouble(flush->log) == TROUBLE_FULL;
    const uint64_t most = !was_full ? flush->limit : flush->limit > slack ? flush->limit - slack : 0;
    MDB_envinfo info;
    uint64_t pages;

    if (flush->calls->env_info(flush->env, &info) != 0)
        return;
    pages = info.me_last_pgno + 1;
    if (pages * flush->page > most) /* the file never shrinks: now it matters what of it is in use */
        pages -= flush_free_pages(flush);
    flush_note_locked(flush->log, pages * flush->page > most ? TROUBLE_FULL : TROUBLE_NONE, 0);
}

/* ---- the pass ------------------------------------------------------------------------------------------------- */

static inline int flush_raise_locked(const flush_t *flush, uint64_t position, uint64_t head)
{
    return log_advance(flush->log, position, head & ((1ull << LOG_SEQUENCE_BITS) - 1)) == ADVANCE_DONE ? 0
                                                                                                         : FLUSH_WORDS;
}

/* From where to go on: the data file knows. */
static inline int flush_resume_locked(flush_t *flush)
{
    const uint64_t position = flush->apply.logged.position;
    const uint64_t flushed = word_acquire(&flush->log->control->flushed.word);
    const row_head_t *head = &flush->apply.head;
    int code;

    if (!flush->apply.logged.found || memcmp(flush->apply.logged.region, flush->region_id, ROW_REGION_ID) != 0)
        return FLUSH_STRANGER;
    if (position > word_acquire(&flush->log->control->committed.word))
        return FLUSH_AHEAD;
    if (position <= flushed)
        return position < flushed ? FLUSH_BEHIND : 0;
    /* A predecessor committed and died: perhaps in the middle of the sync of what is to be seen already. */
    code = flush->calls->env_sync(flush->env, 1);
    if (code != 0)
        return code;
    return flush_raise_locked(flush, position, head->generation == flush->log->generation ? head->position : 0);
}

static inline int flush_group_locked(flush_t *flush, uint64_t position, log_group_t *group)
{
    uint64_t bytes = 0;
    enum log_group_outcome outcome = log_group_copy(flush->log, position, flush->buffer, flush->room, &bytes);

    if (outcome == GROUP_TOO_LARGE) { /* it is plausible: at most half of the ring */
        unsigned char *larger = realloc(flush->buffer, bytes);
        if (larger == NULL)
            return ENOMEM;
        flush->buffer = larger;
        flush->room = bytes;
        outcome = log_group_copy(flush->log, position, flush->buffer, flush->room, &bytes);
    }
    if (outcome != GROUP_COPIED)
        return FLUSH_GROUP_DAMAGED;
    FAILPOINT(flush_read);
    memcpy(group, flush->buffer, sizeof *group);
    return 0;
}

/* Within a transaction: applies what is committed now, as far as the pass goes. */
static inline int flush_groups_locked(flush_t *flush, uint64_t until, uint64_t *position, uint64_t *head,
                                      uint64_t *groups)
{
    const uint64_t from = *position, begun = coarse_ns();

    while (*position < until && *position - from < FLUSH_BYTES && coarse_ns() < begun + FLUSH_NS) {
        log_group_t group;
        int code = flush_group_locked(flush, *position, &group);

        if (code == 0)
            code = apply_group(&flush->apply, flush->buffer);
        if (code != 0)
            return code;
        FAILPOINT(flush_applied);
        *position += group.bytes;
        *head = group.first_version + group.records - 1;
        *groups += 1;
    }
    return 0;
}

static inline int flush_end_locked(flush_t *flush, uint64_t position, int64_t clock)
{
    const apply_note_t note = {flush->region_id, position, clock, 1};

    return apply_end(&flush->apply, &note);
}

/* One transaction. 0, or why not: then nothing has changed, in the data file or in the log. */
static inline int flush_pass_locked(flush_t *flush)
{
    const log_control_t *control = flush->log->control;
    const uint64_t begun = flush_clock();
    uint64_t position, until, from, spent, head = 0, groups = 0;
    int64_t clock;
    MDB_txn *txn;
    int code;

    FAILPOINT(flush_begun);
    code = flush->calls->txn_begin(flush->env, NULL, 0, &txn);
    if (code != 0)
        return code;
    until = word_acquire(&control->committed.word);
    clock = __atomic_load_n(&control->clock.at, __ATOMIC_ACQUIRE); /* after: no record on disk is ahead of it */
    code = apply_begin(&flush->apply, txn);
    if (code == 0)
        code = flush_resume_locked(flush);
    from = position = flush->apply.logged.position;
    if (code == 0)
        code = flush_groups_locked(flush, until, &position, &head, &groups);
    if (code == 0 && groups != 0)
        code = flush_end_locked(flush, position, clock);
    if (code != 0 || groups == 0) {
        flush->calls->txn_abort(txn);
        apply_dropped(&flush->apply);
        return code;
    }
    FAILPOINT(flush_noted);
    spent = flush_clock();
    code = flush->calls->txn_commit(txn);
    flush_count(&flush->counts.sync_ns, flush_clock() - spent);
    if (code != 0) {
        apply_dropped(&flush->apply);
        return code;
    }
    FAILPOINT(flush_synced);
    flush_count(&flush->counts.passes, 1); /* before others know: who waits for the disk finds it counted */
    flush_count(&flush->counts.groups, groups);
    flush_count(&flush->counts.bytes, position - from);
    spent = flush_clock() - begun;
    if (spent > flush->counts.longest_ns)
        __atomic_store_n(&flush->counts.longest_ns, spent, __ATOMIC_RELAXED);
    meters_record(&flush->meters, METER_FLUSH, spent);
    meters_record(&flush->meters, METER_FLUSH_GROUPS, groups);
    meters_record(&flush->meters, METER_FLUSH_BYTES, position - from);
    code = flush_raise_locked(flush, position, head);
    FAILPOINT(flush_advanced);
    return code;
}

/* ---- with the mutex ------------------------------------------------------------------------------------------- */

static inline enum flush_outcome flush_take(const log_t *log, uint64_t wait_ns)
{
    switch (mutex_take(&log->control->flusher, wait_ns, log->pid)) {
    case MUTEX_OWNER_DIED:
        mutex_mend(&log->control->flusher); /* what it guards is whole at every instruction */
        return FLUSH_DONE;
    case MUTEX_TAKEN:
        return FLUSH_DONE;
    case MUTEX_BUSY:
        return FLUSH_BUSY;
    case MUTEX_BROKEN:
        break;
    }
    flush_note_locked(log, TROUBLE_BROKEN, FLUSH_WORDS);
    return FLUSH_FAILED;
}

static inline void flush_release(const log_t *log) { mutex_release(&log->control->flusher); }

/* For who is alone with the store: a new beginning may succeed where others failed. */
static inline void flush_forget(const log_t *log) { flush_note_locked(log, TROUBLE_NONE, 0); }

static inline enum flush_outcome flush_once_locked(flush_t *flush)
{
    int dead;
    int code;

    if (flush_trouble(flush->log) == TROUBLE_BROKEN)
        return FLUSH_FAILED;
    code = flush_pass_locked(flush);
    if (code == 0) {
        flush_look_locked(flush);
        return FLUSH_DONE;
    }
    flush_count(&flush->counts.failures, 1);
    __atomic_store_n(&flush->counts.last_code, code, __ATOMIC_RELAXED);
    flush_note_locked(flush->log, flush_trouble_of(flush, code), code);
    if (code == MDB_MAP_FULL) /* readers that died keep pages from being used again */
        flush->calls->reader_check(flush->env, &dead);
    return FLUSH_FAILED;
}

/* Waits up to `wait_ns` for the mutex, then runs one pass. */
static inline enum flush_outcome flush_once(flush_t *flush, uint64_t wait_ns)
{
    enum flush_outcome outcome = flush_take(flush->log, wait_ns);

    if (outcome != FLUSH_DONE)
        return outcome;
    outcome = flush_once_locked(flush);
    flush_release(flush->log);
    return outcome;
}

#endif
