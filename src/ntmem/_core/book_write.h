/* Booking: a fill or cash under an id, with the position that follows from it, as one group of the log.
 *
 * A leaf: plain C, no Python. Everything is decided under the log's mutex, so nothing is ever tried again but where the
 * disk has to be asked about an id.
 */
#ifndef NTMEM_BOOK_WRITE_H
#define NTMEM_BOOK_WRITE_H

#include "book_table.h"
#include "log_write.h"

typedef struct {
    whole_key_t entry_key;    /* of the id, among the entries, */
    whole_key_t position_key; /* and of the position */
    const unsigned char *writer;
    size_t writer_size;
    const fence_word_t *fence; /* NULL: under no lease */
    uint64_t fence_number, fencing;
    book_position_t fresh; /* what a key begins with that is new */
    uint64_t snapshot;     /* the id is not on disk, as of this position of the log */
    uint64_t if_version;   /* of the position that is set; BOOK_ANY_VERSION: whatever it is */
    uint64_t max_lag;
    int64_t now;
    book_entry_t entry;
    /* what comes of it: */
    book_position_t position;
    book_slot_t *slot;
    uint64_t version;
    uint64_t room; /* APPEND_NO_ROOM: what `flushed` must reach */
    enum log_append_outcome append;
} book_request_t;

#define BOOK_ANY_VERSION UINT64_MAX

enum book_request_outcome {
    REQUEST_DONE,
    REQUEST_KNOWN,      /* the id: `entry` is what was booked under it */
    REQUEST_LOOK_AGAIN, /* whether it is on disk */
    REQUEST_FULL,       /* no slot is left */
    REQUEST_OVERFLOW,
    REQUEST_OLD,        /* ids of that time are not kept any more */
    REQUEST_PRECISION,  /* the position has other precisions than `entry`: `position` is what it is */
    REQUEST_CONFLICT,   /* the position has another version than `if_version` */
    REQUEST_LOG,        /* `append` says what */
};

static inline void request_draft(const book_request_t *request, log_draft_t *draft, const whole_key_t *key,
                                 const void *value, size_t size)
{
    draft->key = *key;
    draft->writer = request->writer;
    draft->value = value;
    draft->record.key_size = key->key_size;
    draft->record.value_size = (uint32_t)size;
    draft->record.namespace_size = (uint16_t)key->space_size;
    draft->record.writer_size = (uint16_t)request->writer_size;
    draft->record.kind = LOG_KIND_PUT;
    draft->record.flags = request->fence != NULL ? LOG_FENCED : 0;
    draft->record.ts_event = request->entry.ts_event;
    draft->record.ts_known = request->now;
    draft->record.hash = key->hash;
}

static inline enum book_request_outcome request_find_locked(const log_t *log, book_request_t *request)
{
    const uint64_t limit = word_relaxed(&log->control->committed.word);
    log_record_t record;
    uint64_t position;

    switch (log_find(log, &request->entry_key, limit, &position, &record)) {
    case LOG_FOUND:
        if (record.kind != LOG_KIND_PUT || record.value_size != sizeof request->entry)
            return REQUEST_DONE; /* it was purged */
        memcpy(&request->entry,
               log_at(log, position) + sizeof record + record.namespace_size + record.key_size + record.writer_size,
               sizeof request->entry);
        return REQUEST_KNOWN;
    case LOG_ABSENT:
        return log_bound(log) > request->snapshot ? REQUEST_LOOK_AGAIN : REQUEST_DONE;
    case LOG_DAMAGED:
        break;
    }
    request->append = APPEND_DAMAGED;
    return REQUEST_LOG;
}

static inline enum book_request_outcome request_apply(book_request_t *request)
{
    book_position_t *position = &request->position;
    book_entry_t *entry = &request->entry;

    if (position->price_precision != entry->price_precision ||
        position->quantity_precision != entry->quantity_precision)
        return REQUEST_PRECISION;
    if (entry->ts_event < position->fills_since || (position->fills_since != 0 && !entry->has_time))
        return REQUEST_OLD; /* without a time nobody knows that it is not one of those */
    if (entry->kind == BOOK_FILL) {
        const book_fill_t fill = {entry->quantity, entry->price, entry->fee, entry->ts_event};

        return book_apply(position, &fill, &entry->realized) == BOOK_DONE ? REQUEST_DONE : REQUEST_OVERFLOW;
    }
    return book_apply_cash(position, entry->fee, entry->ts_event) == BOOK_DONE ? REQUEST_DONE : REQUEST_OVERFLOW;
}

/* Commits the position, and the entry if there is one, and publishes. */
static inline enum book_request_outcome request_commit_locked(const log_t *log, book_request_t *request, int has_entry)
{
    log_draft_t drafts[2];
    log_append_t append;
    size_t heads[4] = {0, 0, 0, 0};

    memset(drafts, 0, sizeof drafts);
    memset(&append, 0, sizeof append);
    if (has_entry)
        request_draft(request, &drafts[0], &request->entry_key, &request->entry, sizeof request->entry);
    request_draft(request, &drafts[has_entry], &request->position_key, &request->position, sizeof request->position);
    append.drafts = drafts;
    append.count = 1 + (size_t)has_entry;
    append.epoch = LOG_ANY_EPOCH;
    append.now = request->now;
    append.max_lag = request->max_lag;
    append.fence = request->fence;
    append.fence_number = request->fence_number;
    append.fencing = request->fencing;
    append_place(log, &append, heads, 4);
    if (request->slot == NULL && !book_has_room_locked(log->book))
        return REQUEST_FULL;
    request->append = append_announced_locked(log, &append);
    request->room = append.end;
    if (request->append != APPEND_DONE)
        return REQUEST_LOG;
    FAILPOINT(book_committed);
    if (request->slot == NULL) /* only now: what is refused takes none */
        request->slot = book_make_locked(log->book, request->position_key.key, request->position_key.key_size,
                                         request->position_key.hash);
    request->version = drafts[has_entry].record.version;
    request->position.version = request->version;
    book_publish_locked(request->slot, &request->position);
    return REQUEST_DONE;
}

/* Makes a position what `request->position` says. */
static inline enum book_request_outcome request_set_locked(const log_t *log, book_request_t *request)
{
    const book_position_t *held = NULL;
    book_slot_t *room;

    request->position.was_set = 1;
    request->slot = book_find(log->book, request->position_key.key, request->position_key.key_size,
                              request->position_key.hash, &room);
    if (request->slot != NULL && request->slot->sequence != 0)
        held = &request->slot->copies[request->slot->sequence & 1];
    if (request->if_version != BOOK_ANY_VERSION && request->if_version != (held == NULL ? 0 : held->version))
        return REQUEST_CONFLICT;
    if (held != NULL) {
        if (held->price_precision != request->position.price_precision ||
            held->quantity_precision != request->position.quantity_precision ||
            held->multiplier != request->position.multiplier ||
            held->multiplier_precision != request->position.multiplier_precision)
            return REQUEST_PRECISION;
        if (request->position.ts_mark < held->ts_mark) {
            request->position.mark = held->mark;
            request->position.ts_mark = held->ts_mark;
        }
        if (request->position.ts_last == 0)
            request->position.ts_last = held->ts_last;
        request->position.fills = held->fills;
        if (request->position.fills_since < held->fills_since)
            request->position.fills_since = held->fills_since;
    }
    return request_commit_locked(log, request, 0);
}

static inline enum book_request_outcome request_book_locked(const log_t *log, book_request_t *request)
{
    enum book_request_outcome outcome = request_find_locked(log, request);
    book_slot_t *room;

    if (outcome != REQUEST_DONE)
        return outcome;
    request->slot = book_find(log->book, request->position_key.key, request->position_key.key_size,
                              request->position_key.hash, &room);
    request->position = request->slot == NULL || request->slot->sequence == 0
                            ? request->fresh
                            : request->slot->copies[request->slot->sequence & 1];
    outcome = request_apply(request);
    if (outcome != REQUEST_DONE)
        return outcome;
    return request_commit_locked(log, request, 1);
}

/* Waits up to `wait_ns` for the mutex, and as long again for room; 0: not at all. */
static inline enum book_request_outcome request_run(const log_t *log, book_request_t *request, int sets,
                                                    uint64_t wait_ns)
{
    enum book_request_outcome outcome;

    request->append = log_take(log, wait_ns);
    if (request->append != APPEND_DONE)
        return REQUEST_LOG;
    outcome = sets ? request_set_locked(log, request) : request_book_locked(log, request);
    log_release(log);
    if (outcome == REQUEST_LOG && request->append == APPEND_NO_ROOM) {
        log_want(log, request->room);
        if (wait_ns != 0) {
            const uint32_t expected = news_expect(&log->control->flush_news.word);
            if (word_acquire(&log->control->flushed.word) < request->room)
                news_wait(&log->control->flush_news.word, expected, wait_ns);
        }
    }
    return outcome;
}

/* The price that positions are valued at. It is not written to the log: it is with the next fill. */
static inline enum log_append_outcome book_mark(const log_t *log, book_slot_t *slot, int64_t price, int64_t ts,
                                                uint64_t wait_ns)
{
    const enum log_append_outcome outcome = log_take(log, wait_ns);
    book_position_t position;

    if (outcome != APPEND_DONE)
        return outcome;
    if (slot->sequence != 0) {
        position = slot->copies[slot->sequence & 1];
        if (ts >= position.ts_mark) {
            position.mark = price;
            position.ts_mark = ts;
            book_publish_locked(slot, &position);
        }
    }
    log_release(log);
    return outcome;
}

#endif
