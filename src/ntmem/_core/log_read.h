/* Finding the newest record of a key below a limit, without a lock and without waiting.
 *
 * A leaf: plain C, no Python. The caller takes the limit, finds, copies what it wants of the record, and then asks
 * log_is_behind(): if so, the copy is worthless, and the record on disk.
 */
#ifndef NTMEM_LOG_READ_H
#define NTMEM_LOG_READ_H

#include "log.h"

enum log_find_outcome { LOG_FOUND, LOG_ABSENT, LOG_DAMAGED };

static inline uint64_t log_limit(const log_t *log)
{
    const uint64_t limit = word_acquire(&log->control->committed.word);

    FAILPOINT(limit_taken);
    return limit;
}

/* A key's bytes in the ring are compared whole; the hash only spares most comparisons. */
static inline int record_is_of(const log_t *log, uint64_t position, const log_record_t *record, const whole_key_t *key)
{
    const unsigned char *names = log_at(log, position) + sizeof *record;

    return record->hash == key->hash && record->namespace_size == key->space_size &&
           record->key_size == key->key_size && bytes_equal(names, key->space, key->space_size) &&
           bytes_equal(names + key->space_size, key->key, key->key_size);
}

/* Where the chain of a key begins, or goes on behind a record of that key: position + 1; 0: nowhere. */
static inline uint64_t log_chain(const log_t *log, const whole_key_t *key)
{
    const uint64_t link = word_acquire(log_slot(log, key->hash));

    FAILPOINT(head_taken);
    return link;
}

static inline uint64_t log_chain_behind(uint64_t position, const log_record_t *record)
{
    const uint64_t back = (uint64_t)record->previous * LOG_ALIGN;
    return back == 0 || back > position ? 0 : position - back + 1;
}

/* Leaves position and header in *position and *record. Absent means: nothing unflushed below `limit`. */
static inline enum log_find_outcome log_find_from(const log_t *log, const whole_key_t *key, uint64_t link,
                                                  uint64_t limit, uint64_t *position, log_record_t *record)
{
    while (link != 0) {
        const uint64_t at = link - 1;
        int plausible = at % LOG_ALIGN == 0;
        int same;

        if (!plausible)
            return LOG_DAMAGED;
        bytes_copy(record, log_at(log, at), sizeof *record);
        plausible = record_bytes(record) <= log_group_limit(log);
        same = plausible && record_is_of(log, at, record, key);
        if (log_is_behind(log, at))
            return LOG_ABSENT; /* and so is all that is older: on disk */
        if (!plausible || at >= word_relaxed(&log->control->reserved.word))
            return LOG_DAMAGED;
        if (same && at < limit) {
            *position = at;
            return LOG_FOUND;
        }
        /* At another key's record the whole run of that key is stepped over: one busy key does not make the others of
         * its slot slow. Records at or above the limit are links like any other. */
        const uint64_t back = (uint64_t)(same ? record->previous : record->other) * LOG_ALIGN;
        if (back > at)
            return LOG_DAMAGED;
        link = back == 0 ? 0 : at - back + 1;
    }
    return LOG_ABSENT;
}

static inline enum log_find_outcome log_find(const log_t *log, const whole_key_t *key, uint64_t limit,
                                             uint64_t *position, log_record_t *record)
{
    return log_find_from(log, key, log_chain(log, key), limit, position, record);
}

static inline void log_copy(const log_t *log, uint64_t position, void *to, size_t size)
{
#if FAILPOINTS_COMPILED
    const size_t half = size / 2;
    bytes_copy(to, log_at(log, position), half);
    FAILPOINT(half_copied);
    bytes_copy((char *)to + half, log_at(log, position) + half, size - half);
    FAILPOINT(copied);
#else
    bytes_copy(to, log_at(log, position), size);
#endif
}

#endif
