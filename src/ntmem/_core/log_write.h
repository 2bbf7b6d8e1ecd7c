/* Appending a group: checks, the steps between `locked` and `announced`, and what is done for a writer who died.
 *
 * A leaf: plain C, no Python. The order of the steps is the whole point; docs/design/log.md says what each one means
 * to readers and to the next owner of the mutex.
 */
#ifndef NTMEM_LOG_WRITE_H
#define NTMEM_LOG_WRITE_H

#include "book_table.h"
#include "fence.h"
#include "log_read.h"

typedef struct {
    whole_key_t key;
    const unsigned char *writer;
    const unsigned char *value;
    log_record_t record; /* as it will stand in the ring, but for version and links */
    uint64_t offset;     /* in the group */
    size_t before;       /* 1 + index of the newest earlier draft of the same slot; 0: none */
    int conditional;         /* enum log_condition */
    uint64_t if_version;
    uint64_t stored_version; /* what the caller's snapshot of the disk says */
} log_draft_t;

enum log_condition {
    CONDITION_NONE,
    CONDITION_SERVED, /* the version that is served: 0 for one that is deleted or expired */
    CONDITION_NEWEST, /* the newest there is, be it a deletion or expired */
    CONDITION_GUARDED, /* no version: what is replaced is here, and may be replaced under `fence`, or without one */
};

typedef struct {
    log_draft_t *drafts;
    size_t count;
    uint64_t bytes;    /* of the group */
    uint64_t snapshot; /* the disk snapshot has everything before this position */
    uint64_t epoch;    /* of the rules by which the caller has made its drafts */
    uint64_t max_lag;  /* nanoseconds that the oldest unflushed group may be old; 0: any */
    int64_t now;       /* the store's time; for expiry in conditions, and noted in the group */
    int shows;         /* positions: the book is to show them */
    int frees;         /* deletions alone, which are written even when there is no room on the disk */
    const fence_word_t *fence; /* of the lease under which this is written; NULL: under none, */
    uint64_t fence_number;
    uint64_t fencing;          /* and what marks it: 1 + its slot; */
    const unsigned char *resource; /* what it is a lease of */
    size_t resource_size;
    uint64_t first_version;
    uint64_t end;              /* where the group ends; or what `flushed` must reach for it to have room */
    size_t conflict;           /* index of the draft whose condition does not hold, */
    uint64_t conflict_version; /* and the version its key has */
} log_append_t;

#define LOG_PREFETCH 512

enum log_append_outcome {
    APPEND_DONE,
    APPEND_BUSY,       /* the mutex was not to be had */
    APPEND_NO_ROOM,    /* nothing was done; the flusher is behind */
    APPEND_TROUBLE,    /* nothing was done; control->trouble says why */
    APPEND_NEW_RULES,  /* the epoch is another: look at the policies again */
    APPEND_CONFLICT,
    APPEND_LOOK_AGAIN, /* the snapshot is too old to answer for the disk */
    APPEND_DAMAGED,
    APPEND_EXHAUSTED,  /* no sequence numbers left in this generation */
    APPEND_STALE,      /* the lease is not current */
};

/* ---- before the mutex ----------------------------------------------------------------------------------------- */

/* Places the records, and finds who shares a slot with whom: `heads` is zeroed and has a power of two of entries, more
 * than there are drafts. */
static inline void append_place(const log_t *log, log_append_t *append, size_t *heads, size_t head_count)
{
    append->bytes = sizeof(log_group_t);
    for (size_t i = 0; i < append->count; i++) {
        log_draft_t *draft = &append->drafts[i];
        const uint64_t slot = draft->key.hash & (log->slot_count - 1);
        size_t at = slot & (head_count - 1);

        while (heads[at] != 0 && (append->drafts[heads[at] - 1].key.hash & (log->slot_count - 1)) != slot)
            at = (at + 1) & (head_count - 1);
        draft->before = heads[at];
        heads[at] = i + 1;
        draft->offset = append->bytes;
        append->bytes += record_bytes(&draft->record);
    }
}

/* ---- under the mutex ------------------------------------------------------------------------------------------ */

#define LOG_FENCED 16 /* flag: behind the writer's name stand a resource, the number of a lease of it, its name's size */
#define LOG_FENCE_SIZE 9

/* Whether a change may replace what is served of its key, as far as leases go. APPEND_LOOK_AGAIN: it may not, or that
 * cannot be told from here. */
static inline enum log_append_outcome guard_check_locked(const log_t *log, const log_append_t *append,
                                                         const log_draft_t *draft, uint64_t limit)
{
    uint64_t position, number;
    log_record_t newest;
    const unsigned char *fence;
    uint8_t size;

    if (log_find(log, &draft->key, limit, &position, &newest) != LOG_FOUND || (newest.flags & ~LOG_FENCED) != 0)
        return APPEND_LOOK_AGAIN;
    if (newest.flags == 0 || newest.kind != LOG_KIND_PUT ||
        (newest.expires_at != 0 && newest.expires_at <= append->now))
        return APPEND_DONE;
    if (append->fence == NULL || newest.writer_size < LOG_FENCE_SIZE)
        return APPEND_LOOK_AGAIN;
    fence = log_at(log, position) + sizeof newest + newest.namespace_size + newest.key_size + newest.writer_size -
            LOG_FENCE_SIZE;
    memcpy(&number, fence, sizeof number);
    size = fence[sizeof number];
    if (number > append->fence_number || size != append->resource_size || newest.writer_size < LOG_FENCE_SIZE + size ||
        memcmp(fence - size, append->resource, size) != 0)
        return APPEND_LOOK_AGAIN;
    return APPEND_DONE;
}

static inline enum log_append_outcome append_check_locked(const log_t *log, log_append_t *append, uint64_t limit)
{
    for (size_t i = 0; i < append->count; i++) {
        const log_draft_t *draft = &append->drafts[i];
        uint64_t position, version = draft->stored_version;
        log_record_t newest;

        if (!draft->conditional)
            continue;
        if (draft->conditional == CONDITION_GUARDED) {
            const enum log_append_outcome outcome = guard_check_locked(log, append, draft, limit);

            if (outcome != APPEND_DONE)
                return outcome;
            continue;
        }
        switch (log_find(log, &draft->key, limit, &position, &newest)) {
        case LOG_FOUND:
            version = newest.version;
            if (draft->conditional == CONDITION_SERVED &&
                (newest.kind == LOG_KIND_DELETE || (newest.expires_at != 0 && newest.expires_at <= append->now)))
                version = 0;
            break;
        case LOG_ABSENT:
            if (log_bound(log) > append->snapshot)
                return APPEND_LOOK_AGAIN; /* something between may have been overwritten */
            break;
        case LOG_DAMAGED:
            return APPEND_DAMAGED;
        }
        if (version != draft->if_version) {
            append->conflict = i;
            append->conflict_version = version;
            return APPEND_CONFLICT;
        }
    }
    return APPEND_DONE;
}

/* `newer` stands at `position` and goes before `older` at `older_position` in the chain of their slot. */
static inline void record_link(const log_t *log, log_record_t *newer, uint64_t position, const log_record_t *older,
                               uint64_t older_position, int same_key)
{
    const uint64_t bound = log_bound(log);
    const uint64_t back = position - older_position;
    const uint64_t other = !same_key ? back : older->other == 0 ? 0 : back + (uint64_t)older->other * LOG_ALIGN;

    newer->previous = older_position < bound ? 0 : (uint32_t)(back / LOG_ALIGN);
    newer->other = other == 0 || position - other < bound ? 0 : (uint32_t)(other / LOG_ALIGN);
}

static inline void draft_link_locked(const log_t *log, log_append_t *append, size_t index, uint64_t base)
{
    log_draft_t *draft = &append->drafts[index];
    const uint64_t position = base + draft->offset;
    const uint64_t head = word_relaxed(log_slot(log, draft->key.hash));
    log_record_t older;

    draft->record.previous = draft->record.other = 0;
    if (draft->before != 0) {
        const log_draft_t *before = &append->drafts[draft->before - 1];
        const int same = before->key.hash == draft->key.hash && before->key.space_size == draft->key.space_size &&
                         before->key.key_size == draft->key.key_size &&
                         memcmp(before->key.space, draft->key.space, draft->key.space_size) == 0 &&
                         memcmp(before->key.key, draft->key.key, draft->key.key_size) == 0;
        record_link(log, &draft->record, position, &before->record, base + before->offset, same);
    } else if (head != 0 && head - 1 < base && head - 1 >= log_bound(log)) {
        memcpy(&older, log_at(log, head - 1), sizeof older);
        record_link(log, &draft->record, position, &older, head - 1,
                    record_bytes(&older) <= log_group_limit(log) &&
                        record_is_of(log, head - 1, &older, &draft->key));
    }
}

static inline void draft_write_locked(const log_t *log, const log_draft_t *draft, uint64_t base)
{
    static const unsigned char zeroes[LOG_ALIGN];
    unsigned char *to = log_at(log, base) + draft->offset;
    const unsigned char *end = to + record_bytes(&draft->record);

    bytes_copy(to, &draft->record, sizeof draft->record);
    to += sizeof draft->record;
    bytes_copy(to, draft->key.space, draft->key.space_size);
    to += draft->key.space_size;
    bytes_copy(to, draft->key.key, draft->key.key_size);
    to += draft->key.key_size;
    FAILPOINT(half_written);
    bytes_copy(to, draft->writer, draft->record.writer_size);
    to += draft->record.writer_size;
    bytes_copy(to, draft->value, draft->record.value_size);
    to += draft->record.value_size;
    bytes_copy(to, zeroes, (size_t)(end - to));
}

static inline enum log_append_outcome append_check_trouble(const log_t *log, const log_append_t *append)
{
    const uint32_t trouble = __atomic_load_n(&log->control->trouble.kind, __ATOMIC_ACQUIRE);

    return trouble == TROUBLE_NONE || (trouble != TROUBLE_BROKEN && append->frees) ? APPEND_DONE : APPEND_TROUBLE;
}

/* A lease is granted anew by: taking the old number away, *then* looking at the mark; and a mark is waited for (leases.h).
 * A write under a lease sets the mark, *then* looks at the number. So one of them sees the other: what is admitted here
 * is committed before anybody else is granted that resource, were this writer stopped or killed in between. */
static inline enum log_append_outcome fence_mark_locked(const log_t *log, const fence_word_t *fence, uint64_t number,
                                                        uint64_t mark)
{
    __atomic_exchange_n(&log->control->fencing.word, mark, __ATOMIC_SEQ_CST);
    FAILPOINT(fence_marked);
    if (fence_is_current(fence, number, boot_ns()))
        return APPEND_DONE;
    word_release(&log->control->fencing.word, 0);
    return APPEND_STALE;
}

static inline void fence_clear_locked(const log_t *log) { word_release(&log->control->fencing.word, 0); }

static inline enum log_append_outcome append_admitted_locked(const log_t *log, log_append_t *append)
{
    log_control_t *control = log->control;
    const uint64_t base = word_relaxed(&control->committed.word);
    const uint64_t end = base + append->bytes;
    const uint64_t sequence = word_relaxed(&control->next_sequence.word);
    const uint64_t reserved = word_relaxed(&control->reserved.word);
    const uint64_t reserve = end > reserved ? end : reserved;
    const uint64_t flushed = word_acquire(&control->flushed.word);
    const uint64_t time = coarse_ns();
    enum log_append_outcome outcome;
    log_group_t group = {0};

    FAILPOINT(locked);
    if (!log_words_are_sound(log))
        return APPEND_DAMAGED;
    if (append->epoch != LOG_ANY_EPOCH && append->epoch != word_relaxed(&control->epoch.word))
        return APPEND_NEW_RULES;
    outcome = append_check_trouble(log, append);
    if (outcome == APPEND_DONE)
        outcome = append_check_locked(log, append, base);
    if (outcome != APPEND_DONE)
        return outcome;
    if (sequence + append->count > 1ull << LOG_SEQUENCE_BITS)
        return APPEND_EXHAUSTED;
    append->end = reserve > log->capacity ? reserve - log->capacity : 0;
    if (append->end <= flushed && append->max_lag != 0 && flushed != base &&
        time > word_relaxed(&control->oldest.word) + append->max_lag)
        append->end = flushed + 1; /* any progress will do */
    if (append->end > flushed)
        return APPEND_NO_ROOM;
    FAILPOINT(checked);

    word_release(&control->reserved.word, reserve);
    fence_release(); /* no byte is overwritten before readers can see that it may be */
    FAILPOINT(reserved);

    bytes_copy(log_at(log, base), &group, sizeof group); /* no magic: no group, should this writer die */
    append->first_version = log->generation << LOG_SEQUENCE_BITS | sequence;
    for (size_t i = 0; i < append->count; i++) {
        append->drafts[i].record.version = append->first_version + i;
        draft_link_locked(log, append, i, base);
        draft_write_locked(log, &append->drafts[i], base);
    }
    FAILPOINT(written);

    group = (log_group_t){GROUP_MAGIC, 0, base, append->first_version, time, append->now, (uint32_t)append->bytes,
                          (uint32_t)append->count, log->pid, {0}};
    bytes_copy(log_at(log, base), &group, sizeof group);
    group.crc = group_crc(log_at(log, base), append->bytes);
    bytes_copy(log_at(log, base), &group, sizeof group);
    FAILPOINT(sealed);

    for (size_t i = 0; i < append->count; i++) {
        word_release(log_slot(log, append->drafts[i].key.hash), base + append->drafts[i].offset + 1);
        FAILPOINT(linked);
    }
    word_release(&control->next_sequence.word, sequence + append->count);
    FAILPOINT(numbered);
    if (flushed == base)
        word_release(&control->oldest.word, time);
    word_release(&control->last.word, base);
    word_release(&control->committed.word, end);
    FAILPOINT(committed);
    append->end = end;
    return APPEND_DONE;
}

static inline enum log_append_outcome append_locked(const log_t *log, log_append_t *append)
{
    enum log_append_outcome outcome;

    if (append->fence == NULL)
        return append_admitted_locked(log, append);
    outcome = fence_mark_locked(log, append->fence, append->fence_number, append->fencing);
    if (outcome == APPEND_DONE) {
        FAILPOINT(fence_checked);
        outcome = append_admitted_locked(log, append);
        fence_clear_locked(log);
    }
    return outcome;
}

/* ---- for a writer who died ------------------------------------------------------------------------------------ */

/* A sealed group is finished, not undone: its slots may already lead readers to it, and a position they were led to
 * must never hold anything else. Every store is one the dead writer would have made, so a repairer may die as well.
 * -1: the words are damaged. */
static inline int log_repair_locked(const log_t *log)
{
    log_control_t *control = log->control;
    const uint64_t base = word_acquire(&control->committed.word);
    const uint64_t reserved = word_acquire(&control->reserved.word);
    const uint64_t sequence = word_acquire(&control->next_sequence.word);
    log_group_t group;

    FAILPOINT(repair_begun);
    if (!log_words_are_sound(log))
        return -1;
    memcpy(&group, log_at(log, base), sizeof group);
    if (group_is_plausible(log, &group, base, reserved) && group_is_sound(log_at(log, base))) {
        const uint64_t first = group.first_version & ((1ull << LOG_SEQUENCE_BITS) - 1);
        uint64_t position = base + sizeof group;

        if (group.first_version >> LOG_SEQUENCE_BITS != log->generation ||
            (sequence != first && sequence != first + group.records))
            return -1;
        for (uint32_t i = 0; i < group.records; i++) {
            log_record_t record;
            memcpy(&record, log_at(log, position), sizeof record);
            word_release(log_slot(log, record.hash), position + 1);
            position += record_bytes(&record);
            FAILPOINT(repair_linked);
        }
        word_release(&control->next_sequence.word, first + group.records);
        FAILPOINT(repair_numbered);
        word_release(&control->last.word, base);
        word_release(&control->committed.word, position);
        FAILPOINT(repair_committed);
    }
    if (log->book != NULL)
        book_recount_locked(log->book);
    if (log->book != NULL && word_acquire(&control->committed.word) != 0) { /* it may have published nothing of it yet */
        const uint64_t last = word_acquire(&control->last.word);

        memcpy(&group, log_at(log, last), sizeof group);
        if (group_is_plausible(log, &group, last, word_acquire(&control->committed.word)) &&
            group_is_sound(log_at(log, last)))
            book_show_locked(log->book, log_at(log, last));
    }
    word_raise(&control->epoch.word, word_acquire(&control->epoch.word) + 1); /* it may have changed the rules, too */
    fence_clear_locked(log); /* what it wrote under a lease is committed by now, or never */
    news_announce(&control->commit_news.word); /* it may have committed and told nobody */
    return 0;
}

/* ---- the whole of it ------------------------------------------------------------------------------------------ */

/* APPEND_DONE: the caller has the mutex. Otherwise APPEND_BUSY or APPEND_DAMAGED. */
static inline enum log_append_outcome log_take(const log_t *log, uint64_t wait_ns)
{
    log_control_t *control = log->control;

    switch (mutex_take(&control->writer, wait_ns, log->pid)) {
    case MUTEX_TAKEN:
        return APPEND_DONE;
    case MUTEX_OWNER_DIED:
        if (log_repair_locked(log) != 0) {
            mutex_release(&control->writer); /* for good: nobody is to write to a damaged log */
            return APPEND_DAMAGED;
        }
        mutex_mend(&control->writer);
        FAILPOINT(repaired);
        return APPEND_DONE;
    case MUTEX_BUSY:
        return APPEND_BUSY;
    case MUTEX_BROKEN:
        break;
    }
    return APPEND_DAMAGED;
}

/* The next group will most likely be as large as this one. Its bytes were last touched a lap ago; fetching them while the
 * caller does something else took a fifth off a put (measured). */
static inline void log_prefetch(const log_t *log, uint64_t position, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes && at < LOG_PREFETCH; at += SYNC_LINE)
        __builtin_prefetch(log_at(log, position + at), 1);
}

static inline void log_release(const log_t *log) { mutex_release(&log->control->writer); }

static inline enum log_append_outcome append_announced_locked(const log_t *log, log_append_t *append)
{
    const enum log_append_outcome outcome = append_locked(log, append);

    if (outcome == APPEND_DONE) {
        if (append->shows && log->book != NULL) {
            FAILPOINT(book_committed);
            book_show_locked(log->book, log_at(log, word_relaxed(&log->control->last.word)));
        }
        news_announce(&log->control->commit_news.word);
        FAILPOINT(announced);
    }
    return outcome;
}

/* Waits up to `wait_ns` for the mutex and as long again for room; 0: not at all. The caller comes again. */
static inline enum log_append_outcome log_append(const log_t *log, log_append_t *append, uint64_t wait_ns)
{
    log_control_t *control = log->control;
    enum log_append_outcome outcome = log_take(log, wait_ns);

    if (outcome != APPEND_DONE)
        return outcome;
    outcome = append_announced_locked(log, append);
    log_release(log);
    log_prefetch(log, append->end, append->bytes); /* if it failed, that is no harm */
    if (outcome == APPEND_NO_ROOM) {
        log_want(log, append->end);
        if (wait_ns != 0) {
            const uint32_t expected = news_expect(&control->flush_news.word);
            if (word_acquire(&control->flushed.word) < append->end)
                news_wait(&control->flush_news.word, expected, wait_ns);
        }
    }
    return outcome;
}

#endif
