/* What a flusher, or anyone who follows the log, does: whole groups in order, and how far they are on disk.
 *
 * A leaf: plain C, no Python. Takes no lock that a writer holds.
 */
#ifndef NTMEM_LOG_FLUSH_H
#define NTMEM_LOG_FLUSH_H

#include "log.h"

enum log_group_outcome { GROUP_COPIED, GROUP_NONE, GROUP_TOO_LARGE, GROUP_OVERWRITTEN, GROUP_DAMAGED };

/* Copies the group at `position` if it fits into `room`; its size is left in *bytes either way. */
static inline enum log_group_outcome log_group_copy(const log_t *log, uint64_t position, unsigned char *to,
                                                    uint64_t room, uint64_t *bytes)
{
    const uint64_t committed = word_acquire(&log->control->committed.word);
    log_group_t group;
    int plausible;

    if (position == committed)
        return GROUP_NONE;
    if (position > committed || position % LOG_ALIGN != 0)
        return GROUP_DAMAGED;
    bytes_copy(&group, log_at(log, position), sizeof group);
    plausible = group_is_plausible(log, &group, position, committed);
    *bytes = group.bytes;
    if (plausible && group.bytes <= room)
        bytes_copy(to, log_at(log, position), group.bytes);
    if (log_was_overwritten(log, position))
        return GROUP_OVERWRITTEN;
    if (!plausible)
        return GROUP_DAMAGED;
    if (group.bytes > room)
        return GROUP_TOO_LARGE;
    return group_is_sound(to) ? GROUP_COPIED : GROUP_DAMAGED;
}

enum log_advance_outcome { ADVANCE_DONE, ADVANCE_BACKWARDS, ADVANCE_BEYOND, ADVANCE_INSIDE };

/* Everything before `position`, where a group ends, is on disk: versions up to `sequence`. */
static inline enum log_advance_outcome log_advance(const log_t *log, uint64_t position, uint64_t sequence)
{
    log_control_t *control = log->control;
    uint64_t flushed = word_acquire(&control->flushed.word);
    const uint64_t committed = word_acquire(&control->committed.word);
    log_group_t next = {0};

    if (position > committed)
        return ADVANCE_BEYOND;
    if (position < committed && position >= flushed) {
        if (position % LOG_ALIGN != 0)
            return ADVANCE_INSIDE;
        bytes_copy(&next, log_at(log, position), sizeof next);
        if (!log_was_overwritten(log, position) && !group_is_plausible(log, &next, position, committed))
            return ADVANCE_INSIDE;
    }
    word_release(&control->oldest.word, next.magic != 0 ? next.time : coarse_ns());
    do {
        if (position < flushed)
            return ADVANCE_BACKWARDS;
    } while (!__atomic_compare_exchange_n(&control->flushed.word, &flushed, position, 0, __ATOMIC_ACQ_REL,
                                          __ATOMIC_ACQUIRE));
    word_raise(&control->flushed_sequence.word, sequence);
    news_announce(&control->flush_news.word);
    return ADVANCE_DONE;
}

/* Waits up to `wait_ns` for `word` to reach `target`; what it is then. */
static inline uint64_t log_wait(uint64_t *word, uint32_t *news, uint64_t target, uint64_t wait_ns)
{
    const uint32_t expected = news_expect(news);

    if (word_acquire(word) < target)
        news_wait(news, expected, wait_ns);
    return word_acquire(word);
}

#endif
