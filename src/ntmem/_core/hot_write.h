/* Changing the hot table, with the lock of a stripe: putting, forgetting, promoting, making room, emptying.
 *
 * A leaf: plain C, no Python. The order of the stores is the whole point: a reader may stand between any two of them, and
 * whoever does them may die between any two. docs/design/hot.md says what each means.
 */
#ifndef NTMEM_HOT_WRITE_H
#define NTMEM_HOT_WRITE_H

#include "hot.h"

#define HOT_MOST_RECLAIMED (8ull << 10) /* bytes that one put looks at to make room: 64 KiB gave tails of 27 us */
#define HOT_MOST_MOVED 64

enum hot_put_outcome {
    HOT_PUT,
    HOT_BUSY,      /* the lock was not to be had */
    HOT_TOO_LARGE, /* for a ring */
    HOT_CHANGED,   /* something was changed since the look */
    HOT_OLDER,     /* a younger version stands there */
};

/* ---- the lock ------------------------------------------------------------------------------------------------- */

/* Nobody is in the middle of anything: what a dead owner left half-done is thrown away, all of it. */
static inline void hot_empty_locked(const hot_t *hot, hot_stripe_t *stripe)
{
    hot_bucket_t *buckets = (hot_bucket_t *)((char *)stripe + sizeof *stripe);

    word_release(&stripe->sequence, stripe->sequence | 1);
    fence_release();
    for (uint64_t i = 0; i < hot->bucket_count; i++)
        for (int slot = 0; slot < HOT_SLOTS; slot++)
            word_release(&buckets[i].slots[slot], 0);
    for (int i = 0; i < HOT_RINGS; i++)
        stripe->rings[i].told = stripe->rings[i].tail = stripe->rings[i].head;
    stripe->entries = stripe->live = 0;
    word_release(&stripe->floor, 0);
    word_release(&stripe->changes, stripe->changes + 1);
    word_release(&stripe->sequence, (stripe->sequence | 1) + 1);
}

static inline int hot_take(const hot_t *hot, hot_stripe_t *stripe, uint64_t wait_ns)
{
    switch (mutex_take(&stripe->lock, wait_ns, hot->pid)) {
    case MUTEX_OWNER_DIED:
        hot_empty_locked(hot, stripe);
        mutex_mend(&stripe->lock);
        return 1;
    case MUTEX_TAKEN:
        if (word_relaxed(&stripe->floor) != 0) /* a writer could not wait for whoever had the lock */
            hot_empty_locked(hot, stripe);
        return 1;
    case MUTEX_BUSY:
    case MUTEX_BROKEN:
        break;
    }
    return 0;
}

static inline void hot_release(hot_stripe_t *stripe) { mutex_release(&stripe->lock); }

/* For a writer who cannot wait for the lock: what is older than `version` is not believed in this stripe any more. */
static inline void hot_raise_floor(hot_stripe_t *stripe, uint64_t version)
{
    uint64_t found = word_relaxed(&stripe->floor);

    while (found < version && !__atomic_compare_exchange_n(&stripe->floor, &found, version, 0, __ATOMIC_ACQ_REL,
                                                           __ATOMIC_RELAXED))
        ;
}

/* ---- room ----------------------------------------------------------------------------------------------------- */

static inline void hot_unlink_locked(hot_stripe_t *stripe, hot_bucket_t *bucket, int slot, uint64_t size)
{
    word_release(&bucket->slots[slot], 0);
    stripe->entries--;
    stripe->live -= size;
}

static inline uint64_t hot_slot_of(uint64_t hash, uint64_t offset) { return hash << 32 | (offset / HOT_ALIGN + 1); }

/* The slot that names the record at `offset`, or -1: it is dead. */
static inline int hot_slot_at(const hot_bucket_t *bucket, uint64_t hash, uint64_t offset)
{
    for (int i = 0; i < HOT_SLOTS; i++)
        if (word_relaxed(&bucket->slots[i]) == hot_slot_of(hash, offset))
            return i;
    return -1;
}

static inline uint64_t hot_ring_offset(const hot_ring_t *ring, uint64_t position)
{
    return ring->base + position % ring->size;
}

/* Bytes up to the ring's end; a record that does not fit there begins at the ring's beginning. */
static inline uint64_t hot_ring_rest(const hot_ring_t *ring, uint64_t position)
{
    return ring->size - position % ring->size;
}

static inline uint64_t hot_ring_end(const hot_ring_t *ring, uint64_t size)
{
    const uint64_t rest = hot_ring_rest(ring, ring->head);
    return ring->head + (rest < size ? rest : 0) + size;
}

static inline int hot_ring_has_room(const hot_ring_t *ring, uint64_t size)
{
    return hot_ring_end(ring, size) - ring->tail <= ring->size;
}

/* Where a record of this size is to be written; there is room. Bytes that were given up since the sequence was raised
 * last may still be being read: it is raised before they are overwritten. */
static inline uint64_t hot_ring_extend_locked(const hot_t *hot, hot_stripe_t *stripe, hot_ring_t *ring, uint64_t size)
{
    const uint64_t rest = hot_ring_rest(ring, ring->head);
    const uint64_t end = hot_ring_end(ring, size);

    if (end > ring->told + ring->size) {
        for (int i = 0; i < HOT_RINGS; i++)
            stripe->rings[i].told = stripe->rings[i].tail;
        word_release(&stripe->sequence, stripe->sequence + 2);
        fence_release(); /* nothing is overwritten before readers can see that it may be */
    }
    if (rest < size && rest >= sizeof(hot_record_t)) { /* where no header fits, whoever comes there sees that */
        const hot_record_t filler = {.size = (uint32_t)rest, .kind = HOT_FILLER};
        bytes_copy(hot_arena(hot, stripe) + hot_ring_offset(ring, ring->head), &filler, sizeof filler);
    }
    ring->head = end;
    return hot_ring_offset(ring, end - size);
}

/* Whether the record of a slot is worth more than its room. While the table is not full, nothing is evicted: what fills
 * the rings then are the dead records of a few keys that are updated all the time. */
static inline int hot_is_kept(const hot_t *hot, const hot_stripe_t *stripe, const hot_bucket_t *bucket, int slot)
{
    return __atomic_load_n(&bucket->used[slot], __ATOMIC_RELAXED) != 0 ||
           (stripe->live < hot->arena_size - hot->arena_size / 4 && stripe->entries < hot->max_entries);
}

/* Gives up the record at a ring's tail, or moves it to the main ring. Returns the bytes passed; 0: the ring is empty. */
static inline uint64_t hot_pass_tail_locked(const hot_t *hot, hot_stripe_t *stripe, enum hot_ring_name name, int *moves)
{
    hot_ring_t *ring = &stripe->rings[name], *into = &stripe->rings[HOT_MAIN];
    const uint64_t rest = hot_ring_rest(ring, ring->tail);
    const uint64_t offset = hot_ring_offset(ring, ring->tail);
    unsigned char *arena = hot_arena(hot, stripe);
    hot_record_t record;
    hot_bucket_t *bucket;
    int slot;

    if (ring->tail == ring->head)
        return 0;
    if (rest >= sizeof record)
        memcpy(&record, arena + offset, sizeof record);
    if (rest < sizeof record || record.kind == HOT_FILLER) {
        ring->tail += rest;
        return rest;
    }
    bucket = hot_bucket(hot, stripe, record.hash);
    slot = hot_slot_at(bucket, record.hash, offset);
    if (slot >= 0 && *moves > 0 && hot_is_kept(hot, stripe, bucket, slot) && hot_ring_has_room(into, record.size)) {
        const uint64_t to = hot_ring_extend_locked(hot, stripe, into, record.size);
        bytes_copy(arena + to, arena + offset, record.size);
        word_release(&bucket->slots[slot], hot_slot_of(record.hash, to));
        __atomic_store_n(&bucket->used[slot], 0, __ATOMIC_RELAXED);
        *moves -= 1;
    } else if (slot >= 0) {
        hot_unlink_locked(stripe, bucket, slot, record.size);
    }
    ring->tail += record.size;
    return record.size;
}

static inline uint64_t hot_ring_free(const hot_ring_t *ring) { return ring->size - (ring->head - ring->tail); }

/* 0: there is none, which means that the ring is too small. An eighth of the main ring stays free for what moves there. */
static inline int hot_make_room_locked(const hot_t *hot, hot_stripe_t *stripe, enum hot_ring_name name, uint64_t size)
{
    hot_ring_t *ring = &stripe->rings[name], *into = &stripe->rings[HOT_MAIN];
    uint64_t passed = 0, step = 1;
    int moves = HOT_MOST_MOVED;

    while (!hot_ring_has_room(ring, size) && step != 0) {
        if (passed >= HOT_MOST_RECLAIMED)
            moves = 0;
        for (step = 1; name == HOT_PROBATION && moves > 0 && hot_ring_free(into) < into->size / 8 && step != 0;)
            passed += step = hot_pass_tail_locked(hot, stripe, HOT_MAIN, &moves);
        passed += step = hot_pass_tail_locked(hot, stripe, name, &moves);
    }
    return hot_ring_has_room(ring, size);
}

/* Evicts until one more entry is within the limit. */
static inline void hot_make_entry_locked(const hot_t *hot, hot_stripe_t *stripe)
{
    int moves = HOT_MOST_MOVED;

    while (stripe->entries >= hot->max_entries)
        if (hot_pass_tail_locked(hot, stripe, HOT_PROBATION, &moves) == 0 &&
            hot_pass_tail_locked(hot, stripe, HOT_MAIN, &moves) == 0)
            break;
}

/* ---- changes -------------------------------------------------------------------------------------------------- */

static inline int hot_slot_for_locked(const hot_t *hot, hot_stripe_t *stripe, hot_bucket_t *bucket)
{
    hot_record_t record;

    for (int i = 0; i < HOT_SLOTS; i++)
        if (word_relaxed(&bucket->slots[i]) == 0)
            return i;
    for (int tries = 2 * HOT_SLOTS;; tries--) { /* a second chance for what was used; readers may go on using it */
        const int slot = bucket->next++ % HOT_SLOTS;
        const uint64_t offset = ((bucket->slots[slot] & UINT32_MAX) - 1) * HOT_ALIGN;
        if (tries > 0 && __atomic_load_n(&bucket->used[slot], __ATOMIC_RELAXED) != 0) {
            __atomic_store_n(&bucket->used[slot], 0, __ATOMIC_RELAXED);
            continue;
        }
        memcpy(&record, hot_arena(hot, stripe) + offset, sizeof record);
        hot_unlink_locked(stripe, bucket, slot, record.size);
        return slot;
    }
}

static inline void hot_forget_locked(const hot_t *hot, hot_stripe_t *stripe, const hot_key_t *key)
{
    hot_bucket_t *bucket = hot_bucket(hot, stripe, key->hash);
    hot_record_t record;
    uint64_t offset;
    const int slot = hot_bucket_find(hot, stripe, bucket, key, &record, &offset);

    word_release(&stripe->changes, stripe->changes + 1);
    if (slot >= 0)
        hot_unlink_locked(stripe, bucket, slot, record.size);
}

/* `value` replaces what stands there, in one store. */
static inline enum hot_put_outcome hot_put_locked(const hot_t *hot, hot_stripe_t *stripe, const hot_key_t *key,
                                                  const unsigned char *value, uint32_t value_size, uint64_t version,
                                                  int64_t expires_at, uint64_t leaves_at)
{
    hot_bucket_t *bucket = hot_bucket(hot, stripe, key->hash);
    const uint64_t size = hot_record_size(key->space_size, key->key_size, value_size);
    hot_ring_t *ring = &stripe->rings[HOT_PROBATION];
    hot_record_t record;
    uint64_t offset;
    unsigned char *to;
    int slot;

    word_release(&stripe->changes, stripe->changes + 1);
    slot = hot_bucket_find(hot, stripe, bucket, key, &record, &offset);
    if (slot >= 0 && record.version > version)
        return HOT_OLDER;
    if (size > ring->size / 4 || size > UINT32_MAX / 2) {
        if (slot >= 0)
            hot_unlink_locked(stripe, bucket, slot, record.size);
        return HOT_TOO_LARGE;
    }
    if (slot >= 0 && offset >= stripe->rings[HOT_MAIN].base)
        ring = &stripe->rings[HOT_MAIN]; /* what was found worth keeping stays there */
    if (slot < 0)
        hot_make_entry_locked(hot, stripe);
    if (!hot_make_room_locked(hot, stripe, ring == &stripe->rings[HOT_MAIN] ? HOT_MAIN : HOT_PROBATION, size))
        return HOT_TOO_LARGE;
    slot = hot_bucket_find(hot, stripe, bucket, key, &record, &offset); /* making room may have moved or taken it */
    if (slot >= 0) {
        stripe->entries--;
        stripe->live -= record.size;
    } else {
        slot = hot_slot_for_locked(hot, stripe, bucket);
        __atomic_store_n(&bucket->used[slot], 0, __ATOMIC_RELAXED);
    }
    offset = hot_ring_extend_locked(hot, stripe, ring, size);
    to = hot_arena(hot, stripe) + offset;
    record = (hot_record_t){(uint32_t)size, value_size, key->key_size, (uint16_t)key->space_size, HOT_RECORD,
                            key->hash, version, expires_at, leaves_at};
    bytes_copy(to, &record, sizeof record);
    to += sizeof record;
    bytes_copy(to, key->space, key->space_size);
    bytes_copy(to + key->space_size, key->key, key->key_size);
    bytes_copy(to + key->space_size + key->key_size, value, value_size);
    stripe->entries++;
    stripe->live += size;
    word_release(&bucket->slots[slot], hot_slot_of(key->hash, offset));
    return HOT_PUT;
}

/* What a reader has found in the log or on disk, unless something was changed since it looked. */
static inline enum hot_put_outcome hot_promote(const hot_t *hot, const hot_key_t *key, const unsigned char *value,
                                               uint32_t value_size, uint64_t version, int64_t expires_at,
                                               uint64_t leaves_at, uint64_t changes)
{
    hot_stripe_t *stripe = hot_stripe(hot, key->hash);
    enum hot_put_outcome outcome = HOT_CHANGED;

    if (!hot_take(hot, stripe, 0))
        return HOT_BUSY;
    if (stripe->changes == changes)
        outcome = hot_put_locked(hot, stripe, key, value, value_size, version, expires_at, leaves_at);
    hot_release(stripe);
    return outcome;
}

#endif
