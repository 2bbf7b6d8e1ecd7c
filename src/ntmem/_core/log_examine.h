/* What can be checked of a log when no process lives that could be in the middle of anything.
 *
 * A leaf: plain C, no Python. The caller is alone with the region. Checksums say of each group whether it is whole; this
 * finds what they cannot: words and index entries that are wrong and still possible.
 */
#ifndef NTMEM_LOG_EXAMINE_H
#define NTMEM_LOG_EXAMINE_H

#include "log_read.h"

enum examine_outcome {
    EXAMINE_SOUND,
    EXAMINE_WORDS,    /* they contradict each other */
    EXAMINE_MUTEX,    /* held by nobody who ever died with it */
    EXAMINE_GROUP,    /* what is not on disk is no row of groups */
    EXAMINE_BEHIND,   /* a whole group stands where nothing was committed, and nobody died over it */
    EXAMINE_VERSIONS, /* of the groups do not rise, or the next one would not */
    EXAMINE_CLOCK,    /* the time was never told to anybody */
    EXAMINE_INDEX,    /* does not lead to a record that is not on disk */
};

typedef struct {
    uint64_t position; /* where it is wrong */
    int64_t now;       /* the latest that groups say; INT64_MIN: there are none */
} examine_t;

static inline int examine_group_is_whole(const log_t *log, uint64_t position, uint64_t end)
{
    log_group_t group;

    memcpy(&group, log_at(log, position), sizeof group);
    return group_is_plausible(log, &group, position, end) && group_is_sound(log_at(log, position));
}

/* Every record of a group is found, or a newer one of its key. */
static inline int examine_index(const log_t *log, const log_group_t *group)
{
    const uint64_t committed = word_relaxed(&log->control->committed.word);
    uint64_t at = group->position + sizeof *group, found;
    log_record_t record, newest;

    for (uint32_t i = 0; i < group->records; i++, at += record_bytes(&record)) {
        const unsigned char *names = log_at(log, at) + sizeof record;
        whole_key_t key;

        memcpy(&record, log_at(log, at), sizeof record);
        key = (whole_key_t){names, names + record.namespace_size, record.namespace_size, record.key_size, record.hash};
        if (log_find(log, &key, committed, &found, &newest) != LOG_FOUND || found < at)
            return 0;
    }
    return 1;
}

static inline enum examine_outcome examine_groups(const log_t *log, int with_index, examine_t *examined)
{
    const log_control_t *control = log->control;
    const uint64_t committed = word_relaxed(&control->committed.word);
    uint64_t next = 0;
    log_group_t group;

    while (examined->position < committed) {
        if (!examine_group_is_whole(log, examined->position, committed))
            return EXAMINE_GROUP;
        memcpy(&group, log_at(log, examined->position), sizeof group);
        if (group.first_version >> LOG_SEQUENCE_BITS != log->generation || group.first_version < next)
            return EXAMINE_VERSIONS;
        if (with_index && !examine_index(log, &group))
            return EXAMINE_INDEX;
        next = group.first_version + group.records;
        if (group.now > examined->now)
            examined->now = group.now;
        examined->position += group.bytes;
    }
    if ((next & ((1ull << LOG_SEQUENCE_BITS) - 1)) > word_relaxed(&control->next_sequence.word))
        return EXAMINE_VERSIONS;
    return EXAMINE_SOUND;
}

/* A group that a writer had sealed, and perhaps numbered, when it died with the mutex: who takes the mutex finishes it. */
static inline int examine_is_unfinished(const log_t *log)
{
    const log_control_t *control = log->control;
    const uint64_t sequence = word_relaxed(&control->next_sequence.word);
    log_group_t group;
    uint64_t first;

    memcpy(&group, log_at(log, word_relaxed(&control->committed.word)), sizeof group);
    first = group.first_version & ((1ull << LOG_SEQUENCE_BITS) - 1);
    return mutex_owner_died(&control->writer) && (sequence == first || sequence == first + group.records);
}

/* `with_index`: for who will read through it and not write. A whole group behind the last one that nobody died over was committed. */
static inline enum examine_outcome log_examine(const log_t *log, int with_index, examine_t *examined)
{
    const log_control_t *control = log->control;
    const log_clock_t *clock = &control->clock;
    const uint64_t committed = word_relaxed(&control->committed.word);
    enum examine_outcome outcome;

    *examined = (examine_t){word_relaxed(&control->flushed.word), INT64_MIN};
    if (!log_words_are_sound(log))
        return EXAMINE_WORDS;
    if (!mutex_is_left(&control->writer) || !mutex_is_left(&control->flusher))
        return EXAMINE_MUTEX;
    outcome = examine_groups(log, with_index, examined);
    if (outcome != EXAMINE_SOUND)
        return outcome;
    if (examine_group_is_whole(log, committed, committed + log_group_limit(log)) && !examine_is_unfinished(log))
        return EXAMINE_BEHIND;
    if (clock->told > clock->at || (clock->simulated && examined->now > clock->at))
        return EXAMINE_CLOCK;
    return EXAMINE_SOUND;
}

/* Of a clock that somebody died over while setting it forward, what was told to nobody is taken back, but never to
 * before `least`; and readers are sent to the disk for what is there, as nothing proves what the ring still has of it. */
static inline void log_settle(const log_t *log, int64_t least)
{
    log_control_t *control = log->control;
    log_clock_t *clock = &control->clock;

    clock_raise(&clock->told, least);
    if (clock->told < clock->at)
        __atomic_store_n(&clock->at, clock->told, __ATOMIC_RELEASE);
    word_raise(&control->barrier.word, word_relaxed(&control->flushed.word));
}

#endif
