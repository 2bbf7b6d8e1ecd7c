/* Reading what is on disk: the newest version of a key, or keys in order, as tables.h writes and tiers/tables.py reads.
 *
 * A leaf: plain C, no Python. What is found points into the transaction's pages and is good until its end.
 */
#ifndef NTMEM_COLD_H
#define NTMEM_COLD_H

#include "mdb_calls.h"
#include "rows.h"

enum cold_outcome {
    COLD_FOUND,
    COLD_ABSENT, /* no such key, or deleted */
    COLD_OTHER,  /* damage, an error, a version that is ahead: whoever can explain it has to look */
};

typedef struct {
    const unsigned char *value;
    size_t value_size;
    int64_t expires_at;
} cold_found_t;

static inline int cold_get(const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi dbi, const void *key, size_t size,
                           MDB_val *row)
{
    MDB_val where = {size, (void *)(uintptr_t)key}; /* LMDB only reads it, and has no const */

    return calls->get(txn, dbi, &where, row);
}

/* The number of a namespace, which it keeps for ever. */
static inline enum cold_outcome cold_space(const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi namespaces,
                                           const unsigned char *labels, size_t size, uint64_t *id)
{
    unsigned char name[ROW_LONG_SPACE];
    row_space_t space;
    MDB_val row;
    const int error = cold_get(calls, txn, namespaces, name, row_name(name, labels, size, ROW_SPACE_HEAD), &row);

    if (error != 0)
        return error == MDB_NOTFOUND ? COLD_ABSENT : COLD_OTHER;
    if (!row_space_decode(&space, row.mv_data, row.mv_size))
        return COLD_OTHER;
    *id = space.id;
    return COLD_FOUND;
}

static inline enum cold_outcome cold_find(const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi records, uint64_t id,
                                          const unsigned char *key, size_t size, cold_found_t *found)
{
    unsigned char where[ROW_KEY_ROOM];
    const size_t where_size = row_record_key(where, id, key, size);
    row_record_t record;
    MDB_val row;
    const int error = cold_get(calls, txn, records, where, where_size, &row);

    if (error != 0)
        return error == MDB_NOTFOUND ? COLD_ABSENT : COLD_OTHER;
    if (!row_record_decode(&record, where, where_size, row.mv_data, row.mv_size))
        return COLD_OTHER;
    if (record.key_size != 0 && (record.key_size != size || memcmp(record.key, key, size) != 0))
        return COLD_OTHER;
    if (record.flags & ROW_DELETED)
        return COLD_ABSENT;
    if (record.flags & ~ROW_FENCED)
        return COLD_OTHER;
    *found = (cold_found_t){record.value, record.value_size, record.expires_at};
    return COLD_FOUND;
}

/* Closed by cold_close; NULL: no memory. */
static inline MDB_cursor *cold_open(const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi records)
{
    MDB_cursor *cursor = NULL;

    return calls->cursor_open(txn, records, &cursor) == 0 ? cursor : NULL;
}

static inline void cold_close(const mdb_calls_t *calls, MDB_cursor *cursor) { calls->cursor_close(cursor); }

/* Moves to the first key from `key` on (`size` 0: to the next), if that begins with `stem`. It is found if it holds the
 * whole key, is served now and will not expire. */
static inline enum cold_outcome cold_move(const mdb_calls_t *calls, MDB_cursor *cursor, const MDB_val *stem,
                                          const void *from, size_t size, MDB_val *key, row_record_t *record)
{
    MDB_val row;
    int error;

    *key = (MDB_val){size, (void *)(uintptr_t)from};
    error = calls->cursor_get(cursor, key, &row, size != 0 ? MDB_SET_RANGE : MDB_NEXT);
    if (error == MDB_NOTFOUND)
        return COLD_ABSENT;
    if (error != 0)
        return COLD_OTHER;
    if (key->mv_size < stem->mv_size || memcmp(key->mv_data, stem->mv_data, stem->mv_size) != 0)
        return COLD_ABSENT;
    if (!row_holds_key(key->mv_size) ||
        !row_record_decode(record, key->mv_data, key->mv_size, row.mv_data, row.mv_size))
        return COLD_OTHER;
    return record->key_size == 0 && record->expires_at == 0 && !(record->flags & ~ROW_FENCED) ? COLD_FOUND : COLD_OTHER;
}

#endif
