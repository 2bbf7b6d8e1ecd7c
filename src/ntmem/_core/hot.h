/* The hot table: its bytes, and reading it without a lock. docs/design/hot.md is the specification.
 *
 * A leaf: plain C, no Python. hot_write.h changes it. What readers copy may be overwritten meanwhile; they look at the
 * stripe's sequence before and after, and believe no length that does not fit.
 */
#ifndef NTMEM_HOT_H
#define NTMEM_HOT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "failpoint.h"
#include "keyhash.h"
#include "sync.h"

#define HOT_MAGIC 0x3230746f682e746eull /* "nt.hot02" */
#define HOT_ALIGN 16
#define HOT_SLOTS 7
#define HOT_RECORD 1u
#define HOT_FILLER 2u        /* from here to the end of the ring */
#define HOT_OWN UINT64_MAX   /* `seen` of what was put into the table alone: no log has a word on it */
#define HOT_STRIPES 4096     /* at most */

enum hot_ring_name { HOT_PROBATION, HOT_MAIN, HOT_RINGS };

enum hot_cause { HOT_BY_ENTRIES, HOT_BY_BYTES, HOT_BY_COLLISION, HOT_BY_AGE, HOT_CAUSES };

typedef struct {
    uint32_t size; /* of the record, 16-aligned */
    uint32_t value_size;
    uint32_t key_size;
    uint16_t space_size;
    uint16_t kind;
    uint64_t hash;
    uint64_t seen;      /* a position in the log: before it there is nothing newer of this key. The one field that changes */
    int64_t expires_at; /* by the store's clock; 0: never */
    uint64_t leaves_at; /* by the coarse clock: then it has been here long enough; 0: never */
} hot_record_t;

typedef struct {
    uint64_t slots[HOT_SLOTS]; /* tag << 32 | place; 0: empty */
    uint8_t used[HOT_SLOTS];   /* since it was last looked at by who makes room */
    uint8_t next;              /* whom to evict when all seven are taken */
} hot_bucket_t;

_Static_assert(sizeof(hot_record_t) == 48 && sizeof(hot_bucket_t) == SYNC_LINE, "docs/design/hot.md");

typedef struct {
    uint64_t head, tail; /* positions; head - tail bytes are in use */
    uint64_t told;       /* the tail as readers know it, by the sequence */
    uint64_t size;
    uint64_t base;     /* where it stands in the arena */
    uint64_t provided; /* bytes of it that have memory: the rest is taken in its first lap */
    uint64_t entries;
    uint64_t zero;
} hot_ring_t;

enum hot_state { HOT_UNTOUCHED, HOT_READY, HOT_REFUSED }; /* of a stripe: has it memory? */

typedef struct {
    uint64_t sequence; /* odd: nothing is to be found here: untouched, or being emptied */
    uint64_t zero[7];
    shared_mutex_t lock;
    uint64_t entries;
    uint64_t live; /* bytes that slots name */
    uint64_t state;
    uint64_t evicted[HOT_CAUSES];
    uint64_t none;
    hot_ring_t rings[HOT_RINGS];
} __attribute__((aligned(SYNC_LINE))) hot_stripe_t;

_Static_assert(sizeof(hot_stripe_t) == 5 * SYNC_LINE, "docs/design/hot.md");

typedef struct {
    uint64_t magic;
    uint64_t stripe_count;
    uint64_t bucket_count; /* of a stripe, a power of two */
    uint64_t arena_size;   /* of a stripe: both rings */
    uint64_t max_entries;  /* of the table */
    uint64_t ttl;          /* nanoseconds that a record may stay; 0: any */
    uint64_t zero[2];
    uint64_t floor __attribute__((aligned(SYNC_LINE))); /* of a table without a log */
    uint64_t entries __attribute__((aligned(SYNC_LINE)));
    int64_t duel __attribute__((aligned(SYNC_LINE))); /* above 0: with half of the entries on probation less is missed */
} __attribute__((aligned(SYNC_LINE))) hot_head_t;

/* What its process wants to hear of evictions: records as they were, each behind its size and cause. */
typedef struct {
    unsigned char *bytes;
    size_t used, room, most;
    uint64_t dropped; /* too many came at once */
} hot_sink_t;

/* A process's view: what was checked once is not read from shared memory again. */
typedef struct {
    hot_head_t *head;
    hot_stripe_t *stripes;
    char *memory; /* buckets and arenas, stripe by stripe */
    uint64_t stripe_count, bucket_count, arena_size, max_entries, ttl;
    const uint64_t *index; /* the log's; NULL: there is no log */
    uint64_t *floor; /* the log's, or the table's own: what was seen before it is not believed */
    uint64_t index_mask;
    hot_sink_t *sink; /* NULL: nobody listens */
    uint64_t file_offset;
    int fd; /* of the file that `memory` is mapped from */
    uint32_t pid;
} hot_t;

static inline uint64_t hot_round_up(uint64_t size) { return (size + HOT_ALIGN - 1) & ~(uint64_t)(HOT_ALIGN - 1); }

static inline uint64_t hot_memory_of_stripe(uint64_t bucket_count, uint64_t arena_size)
{
    return bucket_count * sizeof(hot_bucket_t) + arena_size;
}

/* The low half of the hash is the tag. Of the high half the upper bits choose the stripe and the lower ones the bucket. */
static inline hot_stripe_t *hot_stripe(const hot_t *hot, uint64_t hash)
{
    return hot->stripes + ((hash >> 32) * hot->stripe_count >> 32);
}

static inline hot_bucket_t *hot_buckets(const hot_t *hot, const hot_stripe_t *stripe)
{
    const uint64_t number = (uint64_t)(stripe - hot->stripes);
    return (hot_bucket_t *)(hot->memory + number * hot_memory_of_stripe(hot->bucket_count, hot->arena_size));
}

/* Where a key belongs. When that is full it is next door: buckets are pairs. */
static inline hot_bucket_t *hot_bucket(const hot_t *hot, const hot_stripe_t *stripe, uint64_t hash)
{
    return hot_buckets(hot, stripe) + (hash >> 32 & (hot->bucket_count - 1));
}

static inline hot_bucket_t *hot_next_door(const hot_t *hot, const hot_stripe_t *stripe, hot_bucket_t *bucket)
{
    hot_bucket_t *buckets = hot_buckets(hot, stripe);
    return buckets + ((uint64_t)(bucket - buckets) ^ 1);
}

static inline unsigned char *hot_arena(const hot_t *hot, const hot_stripe_t *stripe)
{
    return (unsigned char *)(hot_buckets(hot, stripe) + hot->bucket_count);
}

static inline uint64_t hot_record_size(uint32_t space_size, uint32_t key_size, uint64_t value_size)
{
    return hot_round_up(sizeof(hot_record_t) + space_size + key_size + value_size);
}

/* Whether a copied header can be of a record that stands at `offset`. */
static inline int hot_record_fits(const hot_t *hot, const hot_record_t *record, uint64_t offset)
{
    return record->kind == HOT_RECORD && record->size <= hot->arena_size - offset &&
           hot_record_size(record->space_size, record->key_size, record->value_size) == record->size;
}

static inline int hot_record_is_of(const unsigned char *at, const hot_record_t *record, const whole_key_t *key)
{
    return record->hash == key->hash && record->space_size == key->space_size && record->key_size == key->key_size &&
           keys_equal(at + sizeof *record, key->space, key->space_size) &&
           keys_equal(at + sizeof *record + key->space_size, key->key, key->key_size);
}

/* The slot of a key in a bucket, or -1; the record's header in *record, its place in *offset. */
static inline int hot_bucket_find(const hot_t *hot, const unsigned char *arena, const hot_bucket_t *bucket,
                                  const whole_key_t *key, hot_record_t *record, uint64_t *offset)
{
    for (int i = 0; i < HOT_SLOTS; i++) {
        const uint64_t slot = word_acquire(&bucket->slots[i]);
        const uint64_t at = ((slot & UINT32_MAX) - 1) * HOT_ALIGN;

        if (slot == 0 || slot >> 32 != (key->hash & UINT32_MAX) || at + sizeof *record > hot->arena_size)
            continue;
        __builtin_prefetch(arena + at + SYNC_LINE);
        __builtin_prefetch(arena + at + 2 * SYNC_LINE);
        bytes_copy(record, arena + at, sizeof *record);
        if (!hot_record_fits(hot, record, at) || !hot_record_is_of(arena + at, record, key))
            continue;
        *offset = at;
        return i;
    }
    return -1;
}

/* The same in the bucket where it belongs, or next door: in *bucket. */
static inline int hot_slot_find(const hot_t *hot, const hot_stripe_t *stripe, const whole_key_t *key,
                                hot_bucket_t **bucket, hot_record_t *record, uint64_t *offset)
{
    const unsigned char *arena = hot_arena(hot, stripe);
    hot_bucket_t *own = hot_bucket(hot, stripe, key->hash);
    int slot = hot_bucket_find(hot, arena, own, key, record, offset);

    *bucket = own;
    if (slot < 0) {
        *bucket = hot_next_door(hot, stripe, own);
        slot = hot_bucket_find(hot, arena, *bucket, key, record, offset);
    }
    return slot;
}

/* ---- the log's word ------------------------------------------------------------------------------------------- */

static inline const uint64_t *hot_index(const hot_t *hot, uint64_t hash) { return &hot->index[hash & hot->index_mask]; }

/* 1 + the position of the newest record with a hash like this; 0: there is none, or no log. */
static inline uint64_t hot_newest(const hot_t *hot, uint64_t hash)
{
    return hot->index == NULL ? 0 : word_acquire(hot_index(hot, hash));
}

/* Whether a record is still the newest of its key, given what hot_newest() said. "No" may be a false alarm: of another
 * key with a like hash. */
static inline int hot_is_current(const hot_t *hot, const hot_record_t *record, uint64_t newest)
{
    return newest <= record->seen && record->seen >= word_relaxed(hot->floor);
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

enum hot_outcome { HOT_HIT, HOT_MISS, HOT_AGAIN };

typedef struct {
    const hot_stripe_t *stripe;
    hot_bucket_t *bucket;
    uint64_t sequence;
    const unsigned char *value;
    hot_record_t record;
    int slot;
} hot_found_t;

/* A hit is one only if hot_is_unchanged() says so after its value was copied. */
static inline enum hot_outcome hot_find(const hot_t *hot, const whole_key_t *key, hot_found_t *found)
{
    const hot_stripe_t *stripe = hot_stripe(hot, key->hash);
    uint64_t offset;

    found->stripe = stripe;
    found->sequence = word_acquire(&stripe->sequence);
    if (found->sequence & 1)
        return HOT_MISS;
    found->slot = hot_slot_find(hot, stripe, key, &found->bucket, &found->record, &offset);
    if (found->slot >= 0) {
        found->value = hot_arena(hot, stripe) + offset + sizeof found->record + found->record.space_size + found->record.key_size;
        FAILPOINT(hot_found);
        return HOT_HIT;
    }
    fence_acquire();
    return word_relaxed(&stripe->sequence) == found->sequence ? HOT_MISS : HOT_AGAIN;
}

static inline int hot_is_unchanged(const hot_found_t *found)
{
    FAILPOINT(hot_copied);
    fence_acquire(); /* what was copied was read before the sequence is */
    return word_relaxed(&found->stripe->sequence) == found->sequence;
}

static inline void hot_touch(const hot_found_t *found)
{
    uint8_t *used = &found->bucket->used[found->slot];

    if (__atomic_load_n(used, __ATOMIC_RELAXED) == 0)
        __atomic_store_n(used, 1, __ATOMIC_RELAXED);
}

#endif
