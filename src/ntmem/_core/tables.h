/* The databases of a store within one write transaction, as C code sees them: ntmem/tiers/tables.py's twin.
 *
 * A leaf: plain C, no Python. Nothing here decides anything. Every function returns 0, an error of LMDB, of the
 * system, or of enum apply_error; after an error the transaction can only be aborted. What LMDB points to is good until
 * the next change of the transaction.
 */
#ifndef NTMEM_TABLES_H
#define NTMEM_TABLES_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "keyhash.h"
#include "mdb_calls.h"
#include "rows.h"

enum apply_error { /* beside LMDB's, from -30799 on, and the system's, which are above 0 */
    APPLY_BAD_GROUP = -31100,  /* no writer made it */
    APPLY_DAMAGED = -31101,    /* head, clock, position or a namespace: without them nothing can be applied */
    APPLY_BAD_STAGED = -31102, /* a staged value is not there, or not the one that was promised */
};

#define SPACE_SLOTS 256
#define SPACE_CACHED 112 /* longer names of namespaces are not remembered */
#define SCRATCH_KEPT (1 << 20)

typedef struct {
    MDB_dbi meta, namespaces, records, history, expiry;
    MDB_dbi staged; /* 0: there is none */
} apply_dbis_t;

typedef struct {
    unsigned char *bytes;
    size_t room;
} scratch_t;

/* A namespace at hand. */
typedef struct {
    const unsigned char *key; /* in `namespaces` */
    size_t key_size;
    row_space_t row;
} space_t;

typedef struct {
    uint64_t epoch; /* another than the table's: empty */
    row_space_t row;
    uint16_t key_size;
    unsigned char key[SPACE_CACHED];
} space_slot_t;

typedef struct {
    int found;
    unsigned char region[ROW_REGION_ID];
    uint64_t position;
} apply_logged_t;

typedef struct {
    const mdb_calls_t *calls;
    apply_dbis_t dbis;
    MDB_txn *txn;
    MDB_cursor *records, *history, *expiry; /* the transaction's: its end frees them */
    size_t txn_id;
    row_head_t head;
    row_head_t head_found;
    apply_logged_t logged;
    int64_t first_expiry; /* nothing expires before */
    uint64_t epoch;
    space_slot_t slots[SPACE_SLOTS];
    unsigned char space_key[ROW_LONG_SPACE];
    scratch_t space_row, copy, past;
} apply_t;

static inline int scratch_reserve(scratch_t *scratch, size_t size)
{
    size_t room = scratch->room < 4096 ? 4096 : scratch->room;
    void *bytes;

    if (size <= scratch->room)
        return 0;
    while (room < size)
        room *= 2;
    bytes = realloc(scratch->bytes, room);
    if (bytes == NULL)
        return ENOMEM;
    scratch->bytes = bytes;
    scratch->room = room;
    return 0;
}

static inline void scratch_trim(scratch_t *scratch, size_t most)
{
    if (scratch->room <= most)
        return;
    free(scratch->bytes);
    *scratch = (scratch_t){NULL, 0};
}

static inline MDB_val val_of(const void *data, size_t size)
{
    return (MDB_val){size, (void *)(uintptr_t)data}; /* LMDB only reads it, and has no const */
}

/* ---- rows in general ------------------------------------------------------------------------------------------ */

static inline int row_get(const apply_t *apply, MDB_dbi dbi, const void *key, size_t size, MDB_val *data)
{
    MDB_val where = val_of(key, size);

    return apply->calls->get(apply->txn, dbi, &where, data);
}

static inline int row_put(const apply_t *apply, MDB_dbi dbi, const void *key, size_t key_size, const void *row,
                          size_t size)
{
    MDB_val where = val_of(key, key_size), data = val_of(row, size);

    return apply->calls->put(apply->txn, dbi, &where, &data, 0);
}

#define ROW_OWN_PAGES 1024 /* from some size above this on, which depends on LMDB's page, a row has pages of its own */

/* Room for a row of `size` bytes; every one of them is to be written before the next change. `flags`: MDB_CURRENT if the
 * cursor stands on a row that is replaced. A row of one transaction that has pages of its own would keep all of them when
 * a shorter one replaces it in the same transaction: sound to LMDB, and damage to who walks the file. */
static inline int row_reserve(const apply_t *apply, MDB_cursor *cursor, const void *key, size_t key_size, size_t size,
                              unsigned int flags, unsigned char **row)
{
    MDB_val where = val_of(key, key_size), data = {size, NULL};
    int error = 0;

    if (flags & MDB_CURRENT) {
        MDB_val same, old;
        error = apply->calls->cursor_get(cursor, &same, &old, MDB_GET_CURRENT);
        if (error == 0 && old.mv_size > ROW_OWN_PAGES && old.mv_size != size) {
            error = apply->calls->cursor_del(cursor, 0);
            flags &= ~(unsigned int)MDB_CURRENT;
        }
    }
    if (error == 0)
        error = apply->calls->cursor_put(cursor, &where, &data, flags | MDB_RESERVE);
    *row = data.mv_data;
    return error;
}

/* Nothing to do if it is not there. */
static inline int row_delete(const apply_t *apply, MDB_cursor *cursor, const void *key, size_t size)
{
    MDB_val where = val_of(key, size), data;
    const int error = apply->calls->cursor_get(cursor, &where, &data, MDB_SET);

    if (error != 0)
        return error == MDB_NOTFOUND ? 0 : error;
    return apply->calls->cursor_del(cursor, 0);
}

/* ---- records -------------------------------------------------------------------------------------------------- */

enum record_state { RECORD_ABSENT, RECORD_SOUND, RECORD_DAMAGED };

/* Leaves the cursor of `records` on what it finds. */
static inline int record_find(const apply_t *apply, const unsigned char *key, size_t size, row_record_t *record,
                              enum record_state *state)
{
    MDB_val where = val_of(key, size), data;
    const int error = apply->calls->cursor_get(apply->records, &where, &data, MDB_SET);

    *state = RECORD_ABSENT;
    if (error != 0)
        return error == MDB_NOTFOUND ? 0 : error;
    *state = row_record_decode(record, key, size, data.mv_data, data.mv_size) ? RECORD_SOUND : RECORD_DAMAGED;
    return 0;
}

/* ---- namespaces ----------------------------------------------------------------------------------------------- */

static inline space_slot_t *space_slot(apply_t *apply, const space_t *space)
{
    if (space->key_size > SPACE_CACHED)
        return NULL;
    return &apply->slots[keyhash_bytes(space->key, space->key_size, KEYHASH_SEED) % SPACE_SLOTS];
}

static inline void space_remember(apply_t *apply, const space_t *space)
{
    space_slot_t *slot = space_slot(apply, space);

    if (slot == NULL)
        return;
    slot->epoch = apply->epoch;
    slot->row = space->row;
    slot->key_size = (uint16_t)space->key_size;
    memcpy(slot->key, space->key, space->key_size);
}

/* Fills in the row of the namespace at `space->key`, or says MDB_NOTFOUND. */
static inline int space_find(apply_t *apply, space_t *space)
{
    const space_slot_t *slot = space_slot(apply, space);
    MDB_val data;
    int error;

    if (slot != NULL && slot->epoch == apply->epoch && slot->key_size == space->key_size &&
        memcmp(slot->key, space->key, space->key_size) == 0) {
        space->row = slot->row;
        return 0;
    }
    error = row_get(apply, apply->dbis.namespaces, space->key, space->key_size, &data);
    if (error != 0)
        return error;
    if (!row_space_decode(&space->row, data.mv_data, data.mv_size))
        return APPLY_DAMAGED;
    space_remember(apply, space);
    return 0;
}

/* `labels` stay where they are while the space is at hand. */
static inline int space_of(apply_t *apply, space_t *space, const unsigned char *labels, size_t size)
{
    space->key = labels;
    space->key_size = size;
    if (size >= ROW_LONG_SPACE) {
        space->key_size = row_name(apply->space_key, labels, size, ROW_SPACE_HEAD);
        space->key = apply->space_key;
    }
    return space_find(apply, space);
}

static inline int space_write(apply_t *apply, const space_t *space, size_t labels_size)
{
    const size_t size = ROW_SPACE_HEADER + labels_size;

    row_space_encode(apply->space_row.bytes, size, &space->row);
    space_remember(apply, space);
    return row_put(apply, apply->dbis.namespaces, space->key, space->key_size, apply->space_row.bytes, size);
}

static inline int space_make(apply_t *apply, space_t *space, const unsigned char *labels, size_t size)
{
    if (!row_labels_fit(labels, size))
        return APPLY_BAD_GROUP;
    if (scratch_reserve(&apply->space_row, ROW_SPACE_HEADER + size) != 0)
        return ENOMEM;
    memcpy(apply->space_row.bytes + ROW_SPACE_HEADER, labels, size);
    space->row = (row_space_t){.id = apply->head.next_namespace++};
    return space_write(apply, space, size);
}

/* Writes the row of a namespace that has one already: the labels are taken from there. */
static inline int space_store(apply_t *apply, const space_t *space)
{
    MDB_val data;
    int error = row_get(apply, apply->dbis.namespaces, space->key, space->key_size, &data);

    if (error != 0)
        return error == MDB_NOTFOUND ? APPLY_DAMAGED : error;
    if (data.mv_size < ROW_SPACE_HEADER)
        return APPLY_DAMAGED;
    error = scratch_reserve(&apply->space_row, data.mv_size);
    if (error != 0)
        return error;
    memcpy(apply->space_row.bytes, data.mv_data, data.mv_size);
    return space_write(apply, space, data.mv_size - ROW_SPACE_HEADER);
}

/* ---- expiry --------------------------------------------------------------------------------------------------- */

static inline int expiry_delete(const apply_t *apply, int64_t expires_at, const unsigned char *key, size_t size)
{
    unsigned char index_key[ROW_EXPIRY_ROOM];

    size = row_expiry_key(index_key, expires_at, key, size);
    return row_delete(apply, apply->expiry, index_key, size);
}

static inline int expiry_put(apply_t *apply, int64_t expires_at, const unsigned char *key, size_t size,
                             const space_t *space)
{
    unsigned char index_key[ROW_EXPIRY_ROOM];
    MDB_val where, data = val_of(space->key, space->key_size);

    where = val_of(index_key, row_expiry_key(index_key, expires_at, key, size));
    if (expires_at < apply->first_expiry)
        apply->first_expiry = expires_at;
    return apply->calls->cursor_put(apply->expiry, &where, &data, 0);
}

#endif
