/* What a namespace keeps of the past: ntmem/tiers/retention.py's twin, which has the why of every rule.
 *
 * A leaf: plain C, no Python. One thing differs: what was acknowledged is to reach the disk, so a damaged version in
 * history is stepped over here, as if it were not there (it stays, is counted, and `verify` reports it), where the
 * Python engine refuses the write.
 */
#ifndef NTMEM_KEEP_H
#define NTMEM_KEEP_H

#include "tables.h"

/* A past version at hand, and where it stands. */
typedef struct {
    unsigned char where[ROW_PAST_KEY];
    row_record_t record;
} past_t;

/* One that may be dropped: `where` without the namespace's id. */
typedef struct {
    uint64_t version;
    int64_t superseded;
    unsigned char digest[BLAKE2B_DIGEST];
} past_mark_t;

/* The next sound version under `stem`, from where `op` leads on; MDB_NOTFOUND: there is none. */
static inline int past_step(const apply_t *apply, const unsigned char *stem, size_t stem_size, MDB_cursor_op op,
                            past_t *past)
{
    const MDB_cursor_op onward = op == MDB_PREV || op == MDB_LAST ? MDB_PREV : MDB_NEXT;
    MDB_val key = val_of(stem, stem_size), data;
    int error = apply->calls->cursor_get(apply->history, &key, &data, op);

    while (error == 0) {
        if (key.mv_size < stem_size || memcmp(key.mv_data, stem, stem_size) != 0)
            return MDB_NOTFOUND;
        if (key.mv_size == ROW_PAST_KEY &&
            row_record_decode(&past->record, key.mv_data, key.mv_size, data.mv_data, data.mv_size)) {
            memcpy(past->where, key.mv_data, ROW_PAST_KEY);
            return 0;
        }
        error = apply->calls->cursor_get(apply->history, &key, &data, onward);
    }
    return error;
}

/* Dropping a deletion whose elders are gone loses nothing: before it nothing is known, after it nothing is there. */
static inline int64_t past_superseded(const row_record_t *record, int64_t following)
{
    return record->flags & ROW_DELETED ? record->ts_known : following;
}

static inline int past_drop(const apply_t *apply, space_t *space, const unsigned char *where, int64_t superseded)
{
    MDB_val key = val_of(where, ROW_PAST_KEY), data;
    const int error = apply->calls->cursor_get(apply->history, &key, &data, MDB_SET);

    if (error != 0)
        return error;
    space->row.history_bytes -= (int64_t)(ROW_PAST_KEY + data.mv_size);
    if (space->row.history_since < superseded)
        space->row.history_since = superseded;
    return apply->calls->cursor_del(apply->history, 0);
}

/* ---- by age --------------------------------------------------------------------------------------------------- */

/* Drops the versions of one key that were superseded longer than `max_age` ago. */
static inline int keep_drop_aged(const apply_t *apply, space_t *space, const unsigned char *stem, int64_t now)
{
    int64_t oldest;

    if (space->row.max_age == 0)
        return 0;
    if (__builtin_sub_overflow(now, space->row.max_age, &oldest))
        oldest = INT64_MIN;
    for (;;) {
        past_t first, second;
        int64_t superseded;
        int error = past_step(apply, stem, ROW_PAST_STEM, MDB_SET_RANGE, &first);

        if (error == 0)
            error = past_step(apply, stem, ROW_PAST_STEM, MDB_NEXT, &second);
        if (error != 0)
            return error == MDB_NOTFOUND ? 0 : error;
        superseded = past_superseded(&first.record, second.record.ts_known);
        if (superseded >= oldest)
            return 0;
        error = past_drop(apply, space, first.where, superseded);
        if (error != 0)
            return error;
    }
}

/* ---- by size -------------------------------------------------------------------------------------------------- */

static inline int past_mark_compare(const void *left, const void *right)
{
    const past_mark_t *a = left, *b = right;

    if (a->version != b->version)
        return a->version < b->version ? -1 : 1;
    return memcmp(a->digest, b->digest, sizeof a->digest);
}

/* When the current version of the key was known whose past is at hand. */
static inline int keep_current_known(const apply_t *apply, uint64_t id, const row_record_t *past, int64_t now,
                                     int64_t *known)
{
    unsigned char key[ROW_KEY_ROOM];
    const size_t size = row_record_key(key, id, past->key, past->key_size);
    row_record_t current;
    MDB_val data;
    const int error = row_get(apply, apply->dbis.records, key, size, &data);

    if (error == MDB_NOTFOUND)
        *known = now;
    else if (error != 0)
        return error;
    else if (row_record_decode(&current, key, size, data.mv_data, data.mv_size))
        *known = current.ts_known;
    else
        *known = INT64_MAX; /* it may not be served yet */
    return 0;
}

/* Marks all past versions of a namespace, with the moments at which they were superseded. */
static inline int keep_mark(apply_t *apply, uint64_t id, uint64_t retired, int64_t superseded_at, int64_t now,
                            size_t *count)
{
    unsigned char stem[8], behind[8];
    unsigned char digest[BLAKE2B_DIGEST] = {0};
    int64_t following = 0;
    MDB_val key, data;
    past_t past;
    int error;

    *count = 0;
    row_store_big(stem, id);
    row_store_big(behind, id + 1);
    key = val_of(behind, sizeof behind);
    error = apply->calls->cursor_get(apply->history, &key, &data, MDB_SET_RANGE);
    if (error == 0 || error == MDB_NOTFOUND)
        error = past_step(apply, stem, sizeof stem, error == 0 ? MDB_PREV : MDB_LAST, &past);
    for (; error == 0; error = past_step(apply, stem, sizeof stem, MDB_PREV, &past)) {
        past_mark_t mark = {.version = past.record.version};

        memcpy(mark.digest, past.where + 8, sizeof mark.digest);
        if (*count == 0 || memcmp(digest, mark.digest, sizeof digest) != 0) {
            memcpy(digest, mark.digest, sizeof digest);
            error = keep_current_known(apply, id, &past.record, now, &following);
            if (error != 0)
                return error;
            if (past.record.version == retired)
                following = superseded_at;
        }
        mark.superseded = past_superseded(&past.record, following);
        following = past.record.ts_known;
        if (scratch_reserve(&apply->past, (*count + 1) * sizeof mark) != 0)
            return ENOMEM;
        memcpy(apply->past.bytes + *count * sizeof mark, &mark, sizeof mark);
        ++*count;
    }
    return error == MDB_NOTFOUND ? 0 : error;
}

/* Drops the oldest versions of a namespace once it is over budget, until an eighth of the budget is free. `retired` is
 * the version that is just being replaced by one known at `superseded_at`. */
static inline int keep_drop_to_budget(apply_t *apply, space_t *space, uint64_t retired, int64_t superseded_at,
                                      int64_t now)
{
    const int64_t budget = space->row.max_bytes;
    past_mark_t *marks;
    size_t count;
    int error;

    if (budget == 0 || space->row.history_bytes <= budget)
        return 0;
    error = keep_mark(apply, space->row.id, retired, superseded_at, now, &count);
    if (error != 0 || count == 0)
        return error;
    marks = (past_mark_t *)(void *)apply->past.bytes;
    qsort(marks, count, sizeof *marks, past_mark_compare);
    for (size_t i = 0; i < count && space->row.history_bytes > budget - budget / 8; i++) {
        unsigned char where[ROW_PAST_KEY];

        if (marks[i].superseded > now)
            continue;
        row_store_big(where, space->row.id);
        memcpy(where + 8, marks[i].digest, BLAKE2B_DIGEST);
        row_store_big(where + ROW_PAST_STEM, marks[i].version);
        error = past_drop(apply, space, where, marks[i].superseded);
        if (error != 0)
            return error;
    }
    return 0;
}

/* ---- the whole of it ------------------------------------------------------------------------------------------ */

/* Moves a version that another supersedes into history, if the namespace keeps one. `stored` does not point into the
 * databases: they change here. */
static inline int keep(apply_t *apply, space_t *space, const unsigned char *key, size_t key_size,
                       const row_record_t *stored, int64_t superseded, int64_t now)
{
    unsigned char where[ROW_PAST_KEY], *row;
    row_record_t past = *stored;
    size_t size;
    int error;

    if (!space->row.history)
        return 0;
    past.key = key;
    past.key_size = (uint32_t)key_size;
    size = row_record_size(&past);
    row_past_stem(where, space->row.id, key, key_size);
    row_store_big(where + ROW_PAST_STEM, past.version);
    error = row_reserve(apply, apply->history, where, sizeof where, size, 0, &row);
    if (error != 0)
        return error;
    row_record_encode(row, &past, where, sizeof where);
    space->row.history_bytes += (int64_t)(sizeof where + size);
    error = keep_drop_aged(apply, space, where, now);
    if (error == 0)
        error = keep_drop_to_budget(apply, space, past.version, superseded, now);
    return error == 0 ? space_store(apply, space) : error;
}

#endif
