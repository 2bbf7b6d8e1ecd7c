/* One record of the log, or an expired one, applied: ntmem/tiers/change.py, in C.
 *
 * A leaf: plain C, no Python. Whether a change has an effect was decided when it was written to the log.
 */
#ifndef NTMEM_CHANGE_H
#define NTMEM_CHANGE_H

#include "keep.h"
#include "log.h"

#define APPLY_SWEEP 16   /* expired records whose space one group gives back at most */
/* Flags of records in the log: */
#define APPLY_STAGED 8   /* the value is a stub; the value itself stands in `staged` */
#define APPLY_KEPT (ROW_AHEAD | ROW_FENCED) /* what mean the same on disk */

typedef struct {
    log_record_t record;
    const unsigned char *space, *key, *writer, *value;
    int64_t now;
} change_t;

typedef struct {
    uint64_t id; /* the bytes of its key */
    uint64_t size;
    uint32_t crc;
} __attribute__((packed)) apply_stub_t;

_Static_assert(sizeof(apply_stub_t) == 20, "the format of docs/design/apply.md");

/* ---- changing records ----------------------------------------------------------------------------------------- */

/* What is read points into LMDB's pages, which are not to be trusted from the next change on. */
static inline int record_copy(apply_t *apply, row_record_t *record)
{
    const size_t names = (size_t)record->writer_size + record->key_size;

    if (scratch_reserve(&apply->copy, names + record->value_size) != 0)
        return ENOMEM;
    memcpy(apply->copy.bytes, record->writer, names + record->value_size);
    record->writer = apply->copy.bytes;
    record->key = apply->copy.bytes + record->writer_size;
    record->value = apply->copy.bytes + names;
    return 0;
}

/* Takes the current record out of the expiry index and, where the past is kept, into history. */
static inline int record_retire(apply_t *apply, space_t *space, const change_t *change, const unsigned char *key,
                                size_t key_size, row_record_t *current, int64_t superseded)
{
    int error = space->row.history ? record_copy(apply, current) : 0;

    if (error == 0 && current->expires_at != 0)
        error = expiry_delete(apply, current->expires_at, key, key_size);
    if (error == 0)
        error = keep(apply, space, change->key, change->record.key_size, current, superseded, change->now);
    return error;
}

/* The value moves from `staged`. It is looked up twice, as making room for it may have moved it. */
static inline int record_write_staged(apply_t *apply, row_record_t *stored, const unsigned char *key, size_t key_size,
                                      unsigned int flags)
{
    unsigned char *row, *value;
    apply_stub_t stub;
    MDB_val staged, where;
    int error;

    if (stored->value_size != sizeof stub)
        return APPLY_BAD_GROUP;
    memcpy(&stub, stored->value, sizeof stub);
    if (apply->dbis.staged == 0)
        return APPLY_BAD_STAGED;
    error = row_get(apply, apply->dbis.staged, &stub, sizeof stub.id, &staged);
    if (error != 0)
        return error == MDB_NOTFOUND ? APPLY_BAD_STAGED : error;
    if (staged.mv_size != stub.size)
        return APPLY_BAD_STAGED;
    stored->value_size = staged.mv_size;
    error = row_reserve(apply, apply->records, key, key_size, row_record_size(stored), flags, &row);
    if (error == 0)
        error = row_get(apply, apply->dbis.staged, &stub, sizeof stub.id, &staged);
    if (error != 0)
        return error;
    value = row_record_begin(row, stored);
    if (stub.size != 0)
        memcpy(value, staged.mv_data, stub.size);
    if (crc32_of(value, stub.size, 0) != stub.crc)
        return APPLY_BAD_STAGED;
    row_record_seal(row, row_record_size(stored), key, key_size);
    where = val_of(&stub, sizeof stub.id);
    return apply->calls->del(apply->txn, apply->dbis.staged, &where, NULL);
}

/* `flags`: MDB_CURRENT if the cursor stands on the record that is replaced. */
static inline int record_write(apply_t *apply, const change_t *change, const unsigned char *key, size_t key_size,
                               unsigned int flags)
{
    const log_record_t *record = &change->record;
    row_record_t stored = {
        .flags = record->flags & APPLY_KEPT,
        .writer_size = record->writer_size,
        .key_size = row_holds_key(key_size) ? 0 : record->key_size,
        .version = record->version,
        .ts_event = record->ts_event,
        .ts_known = record->ts_known,
        .expires_at = record->expires_at,
        .writer = change->writer,
        .key = change->key,
        .value = change->value,
        .value_size = record->value_size,
    };
    unsigned char *row;
    int error;

    if (record->flags & APPLY_STAGED)
        return record_write_staged(apply, &stored, key, key_size, flags);
    error = row_reserve(apply, apply->records, key, key_size, row_record_size(&stored), flags, &row);
    if (error == 0)
        row_record_encode(row, &stored, key, key_size);
    return error;
}

static inline int change_put(apply_t *apply, const change_t *change)
{
    const log_record_t *record = &change->record;
    unsigned char key[ROW_KEY_ROOM];
    enum record_state state = RECORD_ABSENT;
    row_record_t current;
    space_t space;
    size_t size;
    int error = space_of(apply, &space, change->space, record->namespace_size);

    if (error == MDB_NOTFOUND)
        error = space_make(apply, &space, change->space, record->namespace_size);
    if (error != 0)
        return error;
    size = row_record_key(key, space.row.id, change->key, record->key_size);
    error = record_find(apply, key, size, &current, &state);
    if (error == 0 && state == RECORD_SOUND && (current.expires_at != 0 || space.row.history))
        error = record_retire(apply, &space, change, key, size, &current, record->ts_known);
    if (error == 0) /* what is damaged is replaced without looking at it: so one is rid of it */
        error = record_write(apply, change, key, size, state == RECORD_ABSENT ? 0 : MDB_CURRENT);
    if (error == 0 && record->expires_at != 0)
        error = expiry_put(apply, record->expires_at, key, size, &space);
    return error;
}

/* What is not there (the sweep was faster, as clocks of processes are read before they take turns) is buried, too: the
 * deletion has a version and belongs to the past. */
static inline int change_delete(apply_t *apply, const change_t *change)
{
    const log_record_t *record = &change->record;
    const row_record_t buried = {
        .flags = ROW_DELETED | (record->flags & ROW_FENCED),
        .writer_size = record->writer_size,
        .version = record->version,
        .ts_event = record->ts_event,
        .ts_known = record->ts_known,
        .expires_at = record->expires_at,
        .writer = change->writer,
    };
    unsigned char key[ROW_KEY_ROOM];
    enum record_state state = RECORD_ABSENT;
    row_record_t current;
    space_t space;
    size_t size;
    int error = space_of(apply, &space, change->space, record->namespace_size);

    if (error != 0)
        return error == MDB_NOTFOUND ? 0 : error;
    size = row_record_key(key, space.row.id, change->key, record->key_size);
    error = record_find(apply, key, size, &current, &state);
    if (error == 0 && state == RECORD_SOUND)
        error = record_retire(apply, &space, change, key, size, &current, change->now);
    if (error == 0 && state != RECORD_ABSENT)
        error = apply->calls->cursor_del(apply->records, 0);
    if (error == 0)
        error = keep(apply, &space, change->key, record->key_size, &buried, change->now, change->now);
    return error;
}

static inline int change_apply(apply_t *apply, const change_t *change)
{
    const log_record_t *record = &change->record;

    if (record->kind == LOG_KIND_NOTICE)
        return 0;
    if (record->namespace_size == 0 || record->key_size == 0 || record->expires_at < 0)
        return APPLY_BAD_GROUP;
    if (record->kind == LOG_KIND_PUT)
        return change_put(apply, change);
    if (record->kind == LOG_KIND_DELETE && !(record->flags & APPLY_STAGED))
        return change_delete(apply, change);
    return APPLY_BAD_GROUP;
}

/* ---- expired records ------------------------------------------------------------------------------------------ */

/* A record that the index says is expired; another, a damaged one or none may stand there by now. */
static inline int sweep_record(apply_t *apply, int64_t expires_at, const unsigned char *key, size_t key_size,
                               space_t *space, int64_t now)
{
    enum record_state state;
    row_record_t stored;
    int error = space_find(apply, space);

    if (error != 0)
        return error == MDB_NOTFOUND ? 0 : error;
    error = record_find(apply, key, key_size, &stored, &state);
    if (error != 0 || state != RECORD_SOUND || stored.expires_at != expires_at)
        return error;
    if (space->row.history) {
        error = record_copy(apply, &stored);
        if (error == 0 && stored.key_size != 0)
            error = keep(apply, space, stored.key, stored.key_size, &stored, now, now);
        else if (error == 0)
            error = keep(apply, space, key + 8, key_size - 8, &stored, now, now);
    }
    if (error != 0)
        return error;
    return apply->calls->cursor_del(apply->records, 0);
}

/* Gives back the space of a few expired records; history keeps what was served. An entry of the index that can be none
 * is taken out: it would stop all that is behind it. */
static inline int apply_sweep(apply_t *apply, int64_t now)
{
    for (int i = 0; i < APPLY_SWEEP && apply->first_expiry <= now; i++) {
        unsigned char key[ROW_EXPIRY_ROOM], names[ROW_LONG_SPACE];
        MDB_val where, data;
        space_t space = {.key = names};
        int64_t expires_at = 0;
        int sound, error = apply->calls->cursor_get(apply->expiry, &where, &data, MDB_FIRST);

        if (error == MDB_NOTFOUND) {
            apply->first_expiry = INT64_MAX;
            return 0;
        }
        if (error != 0)
            return error;
        sound = where.mv_size > 8 + 8 && where.mv_size <= sizeof key && data.mv_size > 0 &&
                data.mv_size <= sizeof names;
        if (sound) {
            memcpy(key, where.mv_data, where.mv_size);
            memcpy(names, data.mv_data, data.mv_size);
            space.key_size = data.mv_size;
            expires_at = (int64_t)row_load_big(key);
        }
        apply->first_expiry = expires_at;
        if (expires_at > now || expires_at < 0)
            return 0;
        error = apply->calls->cursor_del(apply->expiry, 0);
        if (error == 0 && sound)
            error = sweep_record(apply, expires_at, key + 8, where.mv_size - 8, &space, now);
        if (error != 0)
            return error;
    }
    return 0;
}

#endif
