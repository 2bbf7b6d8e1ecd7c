/* Changing the hot table, with the lock of a stripe: putting, forgetting, making room, emptying.
 *
 * A leaf: plain C, no Python. The order of the stores is the whole point: a reader may stand between any two of them, and
 * whoever does them may die between any two. docs/design/hot.md says what each means.
 */
#ifndef NTMEM_HOT_WRITE_H
#define NTMEM_HOT_WRITE_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "hot.h"
#include "log.h"

#define HOT_MOST_RECLAIMED (8ull << 10) /* bytes that one put looks at to make room: 64 KiB gave tails of 27 us */
#define HOT_MOST_MOVED 64
#define HOT_CHUNK (64ull << 10) /* memory is taken in such steps */
#define HOT_LEFT_FREE 8         /* and only while so many parts of one of the file system are free */

enum hot_put_outcome {
    HOT_PUT,
    HOT_BUSY,      /* the lock was not to be had */
    HOT_TOO_LARGE, /* for a ring, or there is no memory for it, or no entry is left and none here to evict */
    HOT_OLDER,     /* what stands there was seen later */
};

/* Words that only the owner of the lock changes, and others may read. */
static inline void word_add(uint64_t *word, uint64_t number)
{
    __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + number, __ATOMIC_RELAXED);
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

/* Whether the bytes from `from` on have memory now: without it a store would end the process. A cache takes no more than
 * others can spare. */
static inline int hot_provide(const hot_t *hot, const void *from, uint64_t size)
{
    const uint64_t offset = (uint64_t)((const char *)from - hot->memory);
    struct statvfs about;
    int error;

    if (fstatvfs(hot->fd, &about) != 0 || about.f_bavail < about.f_blocks / HOT_LEFT_FREE)
        return 0;
    do
        error = posix_fallocate(hot->fd, (off_t)(hot->file_offset + offset), (off_t)size);
    while (error == EINTR);
    return error == 0;
}

/* A ring that cannot grow stays as it is: no record stands beyond what it has. */
static inline int hot_ring_provide_locked(const hot_t *hot, const hot_stripe_t *stripe, hot_ring_t *ring, uint64_t end)
{
    while (ring->provided < end && ring->provided < ring->size) {
        const uint64_t rest = ring->size - ring->provided, size = rest < HOT_CHUNK ? rest : HOT_CHUNK;
        if (!hot_provide(hot, hot_arena(hot, stripe) + ring->base + ring->provided, size)) {
            ring->size = ring->provided;
            return 0;
        }
        ring->provided += size;
    }
    return 1;
}

static inline void hot_begin_locked(const hot_t *hot, hot_stripe_t *stripe)
{
    int ready = hot_provide(hot, hot_buckets(hot, stripe), hot->bucket_count * sizeof(hot_bucket_t));

    for (int i = 0; i < HOT_RINGS && ready; i++)
        ready = hot_ring_provide_locked(hot, stripe, &stripe->rings[i], 1);
    stripe->state = ready ? HOT_READY : HOT_REFUSED;
    if (ready)
        word_release(&stripe->sequence, stripe->sequence + 1);
}

/* ---- the lock ------------------------------------------------------------------------------------------------- */

/* Nobody is in the middle of anything: what a dead owner left half-done is thrown away, all of it. */
static inline void hot_empty_locked(const hot_t *hot, hot_stripe_t *stripe)
{
    hot_bucket_t *buckets = hot_buckets(hot, stripe);

    if (stripe->state != HOT_READY)
        return;
    word_release(&stripe->sequence, stripe->sequence | 1);
    fence_release();
    for (uint64_t i = 0; i < hot->bucket_count; i++)
        for (int slot = 0; slot < HOT_SLOTS; slot++)
            word_release(&buckets[i].slots[slot], 0);
    FAILPOINT(hot_emptied);
    for (int i = 0; i < HOT_RINGS; i++) {
        hot_ring_t *ring = &stripe->rings[i];
        ring->told = ring->tail = ring->head;
        ring->entries = 0;
    }
    __atomic_store_n(&stripe->live, 0, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&hot->head->entries, stripe->entries, __ATOMIC_RELAXED); /* who died may have been one off */
    __atomic_store_n(&stripe->entries, 0, __ATOMIC_RELAXED);
    word_release(&stripe->sequence, (stripe->sequence | 1) + 1);
}

static inline int hot_take(const hot_t *hot, hot_stripe_t *stripe, uint64_t wait_ns)
{
    switch (mutex_take(&stripe->lock, wait_ns, hot->pid)) {
    case MUTEX_OWNER_DIED:
        hot_empty_locked(hot, stripe);
        mutex_mend(&stripe->lock);
        break;
    case MUTEX_TAKEN:
        break;
    case MUTEX_BUSY:
    case MUTEX_BROKEN:
        return 0;
    }
    if (stripe->state == HOT_UNTOUCHED)
        hot_begin_locked(hot, stripe);
    FAILPOINT(hot_locked);
    return 1;
}

static inline void hot_release(hot_stripe_t *stripe) { mutex_release(&stripe->lock); }

/* ---- giving up ------------------------------------------------------------------------------------------------ */

static inline void hot_tell(hot_sink_t *sink, const unsigned char *at, const hot_record_t *record, uint32_t cause)
{
    const size_t size = sizeof cause + sizeof *record + record->space_size + record->key_size + record->value_size;

    if (sink->used + size > sink->room) {
        size_t room = sink->room < 4096 ? 4096 : 2 * sink->room;
        unsigned char *bytes;
        while (room < sink->used + size)
            room *= 2;
        bytes = room > sink->most ? NULL : realloc(sink->bytes, room);
        if (bytes == NULL) {
            sink->dropped++;
            return;
        }
        sink->bytes = bytes;
        sink->room = room;
    }
    memcpy(sink->bytes + sink->used, &cause, sizeof cause);
    memcpy(sink->bytes + sink->used + sizeof cause, at, size - sizeof cause);
    sink->used += size;
}

static inline hot_ring_t *hot_ring_of(hot_stripe_t *stripe, uint64_t offset)
{
    return &stripe->rings[offset >= stripe->rings[HOT_MAIN].base ? HOT_MAIN : HOT_PROBATION];
}

static inline void hot_count_locked(const hot_t *hot, hot_stripe_t *stripe, uint64_t offset, uint64_t size, int more)
{
    const uint64_t one = more ? 1 : UINT64_MAX;

    word_add(&stripe->entries, one);
    word_add(&stripe->live, more ? size : 0 - size);
    hot_ring_of(stripe, offset)->entries += one;
    __atomic_fetch_add(&hot->head->entries, one, __ATOMIC_RELAXED);
}

static inline void hot_unlink_locked(const hot_t *hot, hot_stripe_t *stripe, hot_bucket_t *bucket, int slot,
                                     uint64_t offset, uint64_t size)
{
    word_release(&bucket->slots[slot], 0);
    FAILPOINT(hot_unlinked);
    hot_count_locked(hot, stripe, offset, size, 0);
}

/* The same of one that has to go for others. What the log has newer is no loss, and not counted. */
static inline void hot_evict_locked(const hot_t *hot, hot_stripe_t *stripe, hot_bucket_t *bucket, int slot,
                                    uint64_t offset, const hot_record_t *record, enum hot_cause cause)
{
    if (hot_is_current(hot, record, hot_newest(hot, record->hash))) {
        if (record->leaves_at != 0 && record->leaves_at <= coarse_ns())
            cause = HOT_BY_AGE;
        word_add(&stripe->evicted[cause], 1);
        if (hot->sink != NULL)
            hot_tell(hot->sink, hot_arena(hot, stripe) + offset, record, cause);
    }
    hot_unlink_locked(hot, stripe, bucket, slot, offset, record->size);
}

/* ---- room ----------------------------------------------------------------------------------------------------- */

static inline uint64_t hot_slot_of(uint64_t hash, uint64_t offset) { return hash << 32 | (offset / HOT_ALIGN + 1); }

/* The slot that names the record at `offset`, or -1: it is dead. */
static inline int hot_slot_at(const hot_t *hot, const hot_stripe_t *stripe, uint64_t hash, uint64_t offset,
                              hot_bucket_t **bucket)
{
    *bucket = hot_bucket(hot, stripe, hash);
    for (int door = 0; door < 2; door++) {
        for (int i = 0; i < HOT_SLOTS; i++)
            if (word_relaxed(&(*bucket)->slots[i]) == hot_slot_of(hash, offset))
                return i;
        *bucket = hot_next_door(hot, stripe, *bucket);
    }
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

/* In the first lap the ring takes its memory. */
static inline int hot_ring_has_room(const hot_t *hot, const hot_stripe_t *stripe, hot_ring_t *ring, uint64_t size)
{
    if (hot_ring_end(ring, size) - ring->tail > ring->size)
        return 0;
    if (ring->provided < ring->size && !hot_ring_provide_locked(hot, stripe, ring, hot_ring_end(ring, size)))
        return hot_ring_end(ring, size) - ring->tail <= ring->size; /* it is smaller than it was */
    return 1;
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
        FAILPOINT(hot_raised);
    }
    if (rest < size && rest >= sizeof(hot_record_t)) { /* where no header fits, whoever comes there sees that */
        const hot_record_t filler = {.size = (uint32_t)rest, .kind = HOT_FILLER};
        bytes_copy(hot_arena(hot, stripe) + hot_ring_offset(ring, ring->head), &filler, sizeof filler);
    }
    ring->head = end;
    return hot_ring_offset(ring, end - size);
}

static inline int hot_has_entries(const hot_t *hot)
{
    return (int64_t)word_relaxed(&hot->head->entries) < (int64_t)hot->max_entries;
}

/* Whether the record of a slot is worth more than its room. While the table is not full, nothing is evicted: what fills
 * the rings then are the dead records of a few keys that are updated all the time. */
static inline int hot_is_kept(const hot_t *hot, const hot_stripe_t *stripe, const hot_bucket_t *bucket, int slot,
                              const hot_record_t *record)
{
    if (!hot_is_current(hot, record, hot_newest(hot, record->hash)))
        return 0;
    return __atomic_load_n(&bucket->used[slot], __ATOMIC_RELAXED) != 0 ||
           (stripe->live < hot->arena_size - hot->arena_size / 4 && hot_has_entries(hot));
}

/* Gives up the record at a ring's tail, or moves it to the main ring. Returns the bytes passed; 0: the ring is empty. */
static inline uint64_t hot_pass_tail_locked(const hot_t *hot, hot_stripe_t *stripe, enum hot_ring_name name, int *moves,
                                            enum hot_cause cause)
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
    slot = hot_slot_at(hot, stripe, record.hash, offset, &bucket);
    if (slot >= 0 && *moves > 0 && hot_is_kept(hot, stripe, bucket, slot, &record) &&
        hot_ring_has_room(hot, stripe, into, record.size)) {
        const uint64_t to = hot_ring_extend_locked(hot, stripe, into, record.size);
        bytes_copy(arena + to, arena + offset, record.size);
        FAILPOINT(hot_moved);
        word_release(&bucket->slots[slot], hot_slot_of(record.hash, to));
        __atomic_store_n(&bucket->used[slot], 0, __ATOMIC_RELAXED);
        ring->entries--;
        into->entries++;
        *moves -= 1;
    } else if (slot >= 0) {
        hot_evict_locked(hot, stripe, bucket, slot, offset, &record, cause);
    }
    ring->tail += record.size;
    FAILPOINT(hot_reclaimed);
    return record.size;
}

static inline uint64_t hot_ring_free(const hot_ring_t *ring) { return ring->size - (ring->head - ring->tail); }

/* 0: there is none, which means that the ring is too small. An eighth of the main ring stays free for what moves there. */
static inline int hot_make_room_locked(const hot_t *hot, hot_stripe_t *stripe, enum hot_ring_name name, uint64_t size)
{
    hot_ring_t *ring = &stripe->rings[name], *into = &stripe->rings[HOT_MAIN];
    uint64_t passed = 0, step = 1;
    int moves = HOT_MOST_MOVED;

    while (!hot_ring_has_room(hot, stripe, ring, size) && step != 0) {
        if (passed >= HOT_MOST_RECLAIMED)
            moves = 0;
        for (step = 1; name == HOT_PROBATION && moves > 0 && hot_ring_free(into) < into->size / 8 && step != 0;)
            passed += step = hot_pass_tail_locked(hot, stripe, HOT_MAIN, &moves, HOT_BY_BYTES);
        passed += step = hot_pass_tail_locked(hot, stripe, name, &moves, HOT_BY_BYTES);
    }
    return hot_ring_has_room(hot, stripe, ring, size);
}

/* How much of the entries those on probation may be: little withstands scans, much follows a working set that moves. Some
 * stripes always keep to one of the two, and what they miss decides for the others. */
enum hot_rule { HOT_OPEN, HOT_NARROW, HOT_WIDE };

#define HOT_NARROW_PART 8
#define HOT_WIDE_PART 2
#define HOT_LEADERS 32 /* one stripe in so many leads each way */
#define HOT_DUEL_MOST 512

static inline enum hot_rule hot_leads(const hot_t *hot, const hot_stripe_t *stripe)
{
    const uint64_t place = (uint64_t)(stripe - hot->stripes) % HOT_LEADERS;

    if (hot->stripe_count < HOT_LEADERS)
        return HOT_NARROW;
    return place == 0 ? HOT_NARROW : place == 1 ? HOT_WIDE : HOT_OPEN;
}

static inline uint64_t hot_newcomers(const hot_t *hot, const hot_stripe_t *stripe)
{
    const enum hot_rule rule = hot_leads(hot, stripe);
    const int wide =
        rule == HOT_WIDE || (rule == HOT_OPEN && __atomic_load_n(&hot->head->duel, __ATOMIC_RELAXED) > 0);

    return stripe->entries / (wide ? HOT_WIDE_PART : HOT_NARROW_PART);
}

static inline void hot_count_miss(const hot_t *hot, const hot_stripe_t *stripe)
{
    const enum hot_rule rule = hot_leads(hot, stripe);
    const int64_t step = rule == HOT_NARROW ? 1 : -1;

    if (rule != HOT_OPEN && step * __atomic_load_n(&hot->head->duel, __ATOMIC_RELAXED) < HOT_DUEL_MOST)
        __atomic_fetch_add(&hot->head->duel, step, __ATOMIC_RELAXED);
}

/* Evicts until one more entry is within the limit; 0: there is none here to evict. */
static inline int hot_make_entry_locked(const hot_t *hot, hot_stripe_t *stripe)
{
    int moves = HOT_MOST_MOVED;

    while (!hot_has_entries(hot) && stripe->entries > 0) {
        const int newcomer = stripe->rings[HOT_PROBATION].entries > hot_newcomers(hot, stripe);
        if (hot_pass_tail_locked(hot, stripe, newcomer ? HOT_PROBATION : HOT_MAIN, &moves, HOT_BY_ENTRIES) == 0)
            hot_pass_tail_locked(hot, stripe, newcomer ? HOT_MAIN : HOT_PROBATION, &moves, HOT_BY_ENTRIES);
    }
    return hot_has_entries(hot);
}

/* ---- changes -------------------------------------------------------------------------------------------------- */

static inline int hot_slot_for_locked(const hot_t *hot, hot_stripe_t *stripe, uint64_t hash, hot_bucket_t **found)
{
    hot_bucket_t *bucket = hot_bucket(hot, stripe, hash);
    hot_record_t record;

    *found = bucket;
    for (int door = 0; door < 2; door++) {
        for (int i = 0; i < HOT_SLOTS; i++)
            if (word_relaxed(&(*found)->slots[i]) == 0)
                return i;
        *found = hot_next_door(hot, stripe, *found);
    }
    for (int tries = 2 * HOT_SLOTS;; tries--) { /* a second chance for what was used; readers may go on using it */
        const int slot = bucket->next++ % HOT_SLOTS;
        const uint64_t offset = ((bucket->slots[slot] & UINT32_MAX) - 1) * HOT_ALIGN;
        if (tries > 0 && __atomic_load_n(&bucket->used[slot], __ATOMIC_RELAXED) != 0) {
            __atomic_store_n(&bucket->used[slot], 0, __ATOMIC_RELAXED);
            continue;
        }
        memcpy(&record, hot_arena(hot, stripe) + offset, sizeof record);
        hot_evict_locked(hot, stripe, bucket, slot, offset, &record, HOT_BY_COLLISION);
        return slot;
    }
}

/* Whether it was there. */
static inline int hot_forget_locked(const hot_t *hot, hot_stripe_t *stripe, const whole_key_t *key)
{
    hot_bucket_t *bucket;
    hot_record_t record;
    uint64_t offset;
    int slot;

    if (stripe->state != HOT_READY)
        return 0;
    slot = hot_slot_find(hot, stripe, key, &bucket, &record, &offset);
    if (slot >= 0)
        hot_unlink_locked(hot, stripe, bucket, slot, offset, record.size);
    return slot >= 0;
}

static inline void hot_forget_prefix_locked(const hot_t *hot, hot_stripe_t *stripe, const unsigned char *space,
                                            uint32_t space_size, const unsigned char *prefix, uint32_t prefix_size)
{
    hot_bucket_t *buckets = hot_buckets(hot, stripe);

    if (stripe->state != HOT_READY)
        return;
    for (uint64_t i = 0; i < hot->bucket_count; i++) {
        for (int slot = 0; slot < HOT_SLOTS; slot++) {
            const uint64_t offset = ((buckets[i].slots[slot] & UINT32_MAX) - 1) * HOT_ALIGN;
            const unsigned char *at = hot_arena(hot, stripe) + offset;
            hot_record_t record;
            if (buckets[i].slots[slot] == 0)
                continue;
            memcpy(&record, at, sizeof record);
            at += sizeof record;
            if (record.space_size == space_size && memcmp(at, space, space_size) == 0 &&
                record.key_size >= prefix_size && memcmp(at + space_size, prefix, prefix_size) == 0)
                hot_unlink_locked(hot, stripe, &buckets[i], slot, offset, record.size);
        }
    }
}

/* `value` replaces what stands there, in one store. `seen`: hot_record_t. */
static inline enum hot_put_outcome hot_put_locked(const hot_t *hot, hot_stripe_t *stripe, const whole_key_t *key,
                                                  const unsigned char *value, uint64_t value_size, uint64_t seen,
                                                  int64_t expires_at, uint64_t leaves_at)
{
    const uint64_t size = hot_record_size(key->space_size, key->key_size, value_size);
    hot_ring_t *ring = &stripe->rings[HOT_PROBATION];
    hot_bucket_t *bucket;
    hot_record_t record;
    unsigned char *to;
    uint64_t offset;
    int slot;

    if (stripe->state != HOT_READY)
        return HOT_TOO_LARGE;
    slot = hot_slot_find(hot, stripe, key, &bucket, &record, &offset);
    if (slot >= 0 && record.seen > seen)
        return HOT_OLDER;
    if (value_size > UINT32_MAX / 2 || size > ring->size / 2) {
        hot_forget_locked(hot, stripe, key);
        return HOT_TOO_LARGE;
    }
    if (slot < 0) {
        hot_count_miss(hot, stripe);
        if (!hot_make_entry_locked(hot, stripe))
            return HOT_TOO_LARGE;
    }
    if (!hot_make_room_locked(hot, stripe, HOT_PROBATION, size)) {
        hot_forget_locked(hot, stripe, key);
        return HOT_TOO_LARGE;
    }
    slot = hot_slot_find(hot, stripe, key, &bucket, &record, &offset); /* making room may have moved or taken it */
    if (slot >= 0) {
        hot_count_locked(hot, stripe, offset, record.size, 0);
    } else {
        slot = hot_slot_for_locked(hot, stripe, key->hash, &bucket);
        __atomic_store_n(&bucket->used[slot], 0, __ATOMIC_RELAXED);
    }
    offset = hot_ring_extend_locked(hot, stripe, ring, size);
    to = hot_arena(hot, stripe) + offset;
    record = (hot_record_t){(uint32_t)size, (uint32_t)value_size, key->key_size, (uint16_t)key->space_size, HOT_RECORD,
                            key->hash, seen, expires_at, leaves_at};
    bytes_copy(to, &record, sizeof record);
    to += sizeof record;
    bytes_copy(to, key->space, key->space_size);
    bytes_copy(to + key->space_size, key->key, key->key_size);
    bytes_copy(to + key->space_size + key->key_size, value, value_size);
    FAILPOINT(hot_written);
    hot_count_locked(hot, stripe, offset, size, 1);
    word_release(&bucket->slots[slot], hot_slot_of(key->hash, offset));
    FAILPOINT(hot_linked);
    return HOT_PUT;
}

/* When what comes in now has been here long enough; `ttl` 0: as long as the table's says. */
static inline uint64_t hot_leaving(const hot_t *hot, uint64_t ttl)
{
    if (ttl == 0 || (hot->ttl != 0 && hot->ttl < ttl))
        ttl = hot->ttl;
    return ttl == 0 ? 0 : coarse_ns() + ttl;
}

/* What a reader has found in the log or on disk, when `seen` was where the log ended before it looked. Who would have to
 * wait does not. */
static inline enum hot_put_outcome hot_promote(const hot_t *hot, const whole_key_t *key, const unsigned char *value,
                                               uint64_t value_size, uint64_t seen, int64_t expires_at)
{
    hot_stripe_t *stripe = hot_stripe(hot, key->hash);
    enum hot_put_outcome outcome;

    if (!hot_take(hot, stripe, 0))
        return HOT_BUSY;
    outcome = hot_put_locked(hot, stripe, key, value, value_size, seen, expires_at, hot_leaving(hot, 0));
    hot_release(stripe);
    return outcome;
}

/* The log has nothing of this key from the record's `seen` up to `seen`: the alarm was false. */
static inline void hot_see(const hot_t *hot, const whole_key_t *key, uint64_t before, uint64_t seen)
{
    hot_stripe_t *stripe = hot_stripe(hot, key->hash);
    hot_bucket_t *bucket;
    hot_record_t record;
    uint64_t offset;

    if (!hot_take(hot, stripe, 0))
        return;
    if (stripe->state == HOT_READY && hot_slot_find(hot, stripe, key, &bucket, &record, &offset) >= 0 &&
        record.seen == before)
        word_release(&((hot_record_t *)(hot_arena(hot, stripe) + offset))->seen, seen);
    hot_release(stripe);
}

/* ---- making --------------------------------------------------------------------------------------------------- */

/* All zeroes before, but for the sizes in the head, and nobody else has it. */
static inline int hot_create(const hot_t *hot)
{
    const uint64_t probation = (hot->arena_size / 4) & ~(uint64_t)(SYNC_LINE - 1);
    int error = 0;

    for (uint64_t i = 0; i < hot->stripe_count && error == 0; i++) {
        hot_stripe_t *stripe = &hot->stripes[i];
        error = mutex_create(&stripe->lock);
        stripe->sequence = 1;
        stripe->rings[HOT_PROBATION].size = stripe->rings[HOT_MAIN].base = probation;
        stripe->rings[HOT_MAIN].size = hot->arena_size - probation;
    }
    return error;
}

#endif
