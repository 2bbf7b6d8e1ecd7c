/* Groups of the log, applied to LMDB: what ntmem/tiers/engine.py would have left for the same changes, byte for byte.
 *
 * A leaf: plain C, no Python, no GIL. docs/design/apply.md is the specification. One thread at a time uses an apply_t:
 *
 *     apply_create(&apply, calls, &dbis)
 *     for each transaction:
 *         apply_begin(&apply, txn)            txn: a write transaction that has changed nothing yet
 *         apply.logged                        from which position on to apply: groups before it are on disk
 *         apply_group(&apply, group)          each of them, in order
 *         apply_end(&apply, &note)            then commit
 *     apply_destroy(&apply)
 *
 * After an error of any of them, or of the commit: abort, apply_dropped(), and all of it may be tried again.
 */
#ifndef NTMEM_APPLY_H
#define NTMEM_APPLY_H

#include "change.h"

/* What is noted with the changes. */
typedef struct {
    const unsigned char *region; /* id of the log, of ROW_REGION_ID bytes, and how far it is on disk; NULL: as it was */
    uint64_t position;
    int64_t clock; /* time of a simulated clock, offset of a system's, if it has become later */
    int has_clock;
} apply_note_t;

/* ---- life ----------------------------------------------------------------------------------------------------- */

static inline void apply_create(apply_t *apply, const mdb_calls_t *calls, const apply_dbis_t *dbis)
{
    memset(apply, 0, sizeof *apply);
    apply->calls = calls;
    apply->dbis = *dbis;
}

/* Outside of a transaction. */
static inline void apply_destroy(apply_t *apply)
{
    scratch_trim(&apply->space_row, 0);
    scratch_trim(&apply->copy, 0);
    scratch_trim(&apply->past, 0);
}

/* The transaction was aborted, or its commit failed: what is remembered of it was never so. */
static inline void apply_dropped(apply_t *apply)
{
    apply->txn = NULL;
    apply->records = apply->history = apply->expiry = NULL;
    apply->txn_id = 0;
}

/* ---- groups --------------------------------------------------------------------------------------------------- */

/* `group` is a stable copy that group_is_sound() has passed. */
static inline int apply_group(apply_t *apply, const unsigned char *group)
{
    log_group_t head;
    uint64_t offset = sizeof head, version;
    int error;

    memcpy(&head, group, sizeof head);
    if (head.magic != GROUP_MAGIC || head.records == 0)
        return APPLY_BAD_GROUP;
    error = apply_sweep(apply, head.now);
    for (uint32_t i = 0; i < head.records && error == 0; i++) {
        change_t change = {.now = head.now};
        log_record_t *record = &change.record;

        if (offset + sizeof *record > head.bytes)
            return APPLY_BAD_GROUP;
        memcpy(record, group + offset, sizeof *record);
        if (record_bytes(record) > head.bytes - offset || record->version != head.first_version + i)
            return APPLY_BAD_GROUP;
        change.space = group + offset + sizeof *record;
        change.key = change.space + record->namespace_size;
        change.writer = change.key + record->key_size;
        change.value = change.writer + record->writer_size;
        error = change_apply(apply, &change);
        offset += record_bytes(record);
    }
    if (error != 0)
        return error;
    if (offset != head.bytes)
        return APPLY_BAD_GROUP;
    version = head.first_version + head.records - 1;
    if (version > (apply->head.generation << LOG_SEQUENCE_BITS | apply->head.position)) {
        apply->head.generation = version >> LOG_SEQUENCE_BITS;
        apply->head.position = version & ((1ull << LOG_SEQUENCE_BITS) - 1);
    }
    if (apply->head.latest < head.now)
        apply->head.latest = head.now;
    return 0;
}

/* ---- transactions --------------------------------------------------------------------------------------------- */

static inline int meta_get(const apply_t *apply, const char *name, size_t least, MDB_val *data)
{
    const int error = row_get(apply, apply->dbis.meta, name, strlen(name), data);

    if (error != 0)
        return error;
    return row_checked_is_sound(data->mv_data, data->mv_size, least, name) ? 0 : APPLY_DAMAGED;
}

/* `row` has room for the checksum in front of what it says. */
static inline int meta_put(const apply_t *apply, const char *name, unsigned char *row, size_t size)
{
    row_checked_seal(row, size, name);
    return row_put(apply, apply->dbis.meta, name, strlen(name), row, size);
}

static inline int apply_read_logged(apply_t *apply)
{
    MDB_val data;
    const int error = meta_get(apply, "log", ROW_LOG_SIZE - ROW_CHECKED, &data);

    apply->logged = (apply_logged_t){0};
    if (error != 0)
        return error == MDB_NOTFOUND ? 0 : error;
    apply->logged.found = 1;
    memcpy(apply->logged.region, (unsigned char *)data.mv_data + ROW_CHECKED, ROW_REGION_ID);
    memcpy(&apply->logged.position, (unsigned char *)data.mv_data + ROW_CHECKED + ROW_REGION_ID, 8);
    return 0;
}

/* LMDB numbers write transactions without gaps. If this one follows the last that ended here, nobody has changed
 * anything in between, and what is remembered still holds. */
static inline void apply_recall(apply_t *apply)
{
    const size_t txn_id = apply->calls->txn_id(apply->txn);

    if (apply->txn_id == 0 || txn_id != apply->txn_id + 1) {
        apply->epoch++; /* forgets the namespaces */
        apply->first_expiry = INT64_MIN;
    }
    apply->txn_id = 0; /* until this one has ended */
}

static inline int apply_begin(apply_t *apply, MDB_txn *txn)
{
    MDB_val data;
    int error;

    apply->txn = txn;
    apply_recall(apply);
    error = meta_get(apply, "head", sizeof apply->head, &data);
    if (error == 0 && data.mv_size != ROW_HEAD_SIZE)
        error = APPLY_DAMAGED;
    if (error == 0) {
        memcpy(&apply->head, (unsigned char *)data.mv_data + ROW_CHECKED, sizeof apply->head);
        apply->head_found = apply->head;
        error = meta_get(apply, "clock", ROW_CLOCK_LEAST, &data);
    }
    if (error == MDB_NOTFOUND)
        error = APPLY_DAMAGED; /* a store has both from the beginning */
    if (error == 0)
        error = apply_read_logged(apply);
    if (error == 0)
        error = apply->calls->cursor_open(txn, apply->dbis.records, &apply->records);
    if (error == 0)
        error = apply->calls->cursor_open(txn, apply->dbis.history, &apply->history);
    if (error == 0)
        error = apply->calls->cursor_open(txn, apply->dbis.expiry, &apply->expiry);
    return error;
}

static inline int apply_note_clock(apply_t *apply, int64_t clock)
{
    MDB_val data;
    int64_t found;
    int error = meta_get(apply, "clock", ROW_CLOCK_LEAST, &data);

    if (error != 0)
        return error;
    memcpy(&found, (unsigned char *)data.mv_data + ROW_CLOCK_AT, sizeof found);
    if (clock <= found)
        return 0;
    error = scratch_reserve(&apply->copy, data.mv_size);
    if (error != 0)
        return error;
    memcpy(apply->copy.bytes, data.mv_data, data.mv_size);
    memcpy(apply->copy.bytes + ROW_CLOCK_AT, &clock, sizeof clock);
    return meta_put(apply, "clock", apply->copy.bytes, data.mv_size);
}

static inline int apply_end(apply_t *apply, const apply_note_t *note)
{
    unsigned char row[ROW_HEAD_SIZE];
    int error = 0;

    if (memcmp(&apply->head, &apply->head_found, sizeof apply->head) != 0) {
        memcpy(row + ROW_CHECKED, &apply->head, sizeof apply->head);
        error = meta_put(apply, "head", row, ROW_HEAD_SIZE);
    }
    if (error == 0 && note->region != NULL) {
        memcpy(row + ROW_CHECKED, note->region, ROW_REGION_ID);
        memcpy(row + ROW_CHECKED + ROW_REGION_ID, &note->position, sizeof note->position);
        error = meta_put(apply, "log", row, ROW_LOG_SIZE);
    }
    if (error == 0 && note->has_clock)
        error = apply_note_clock(apply, note->clock);
    if (error != 0)
        return error;
    apply->txn_id = apply->calls->txn_id(apply->txn);
    apply->txn = NULL;
    apply->records = apply->history = apply->expiry = NULL;
    scratch_trim(&apply->space_row, SCRATCH_KEPT);
    scratch_trim(&apply->copy, SCRATCH_KEPT);
    scratch_trim(&apply->past, SCRATCH_KEPT);
    return 0;
}

#endif
