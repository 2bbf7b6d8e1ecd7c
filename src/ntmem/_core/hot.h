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

#include "keyhash.h"
#include "sync.h"

#define HOT_MAGIC 0x3130746f682e746eull /* "nt.hot01" */
#define HOT_ALIGN 16
#define HOT_SLOTS 7
#define HOT_RECORD 1u
#define HOT_FILLER 2u /* from here to the end of the ring */

enum hot_ring_name { HOT_PROBATION, HOT_MAIN, HOT_RINGS };

typedef struct {
    uint32_t size; /* of the record, 16-aligned */
    uint32_t value_size;
    uint32_t key_size;
    uint16_t space_size;
    uint16_t kind;
    uint64_t hash;
    uint64_t version;
    int64_t expires_at; /* by the store's clock; 0: never */
    uint64_t leaves_at; /* by the boot clock: then it has been here long enough; 0: never */
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
    uint64_t base; /* where it stands in the arenas */
    uint64_t zero[3];
} hot_ring_t;

typedef struct {
    uint64_t sequence; /* odd: being emptied */
    uint64_t floor;    /* what is older is not to be believed */
    uint64_t changes;
    uint64_t entries;
    uint64_t live; /* bytes that slots name */
    uint64_t zero[3];
    shared_mutex_t lock;
    hot_ring_t rings[HOT_RINGS];
} __attribute__((aligned(SYNC_LINE))) hot_stripe_t;

_Static_assert(sizeof(hot_stripe_t) == 4 * SYNC_LINE, "docs/design/hot.md");

typedef struct {
    uint64_t magic;
    uint64_t stripe_count; /* a power of two, */
    uint64_t bucket_count; /* as is this, in a stripe */
    uint64_t arena_size;   /* of a stripe: both rings */
    uint64_t stripe_size;  /* of all of it */
    uint64_t max_entries;  /* of a stripe */
} __attribute__((aligned(SYNC_LINE))) hot_head_t;

/* A process's view: what was checked once is not read from shared memory again. */
typedef struct {
    char *stripes;
    uint64_t stripe_count, bucket_count, arena_size, stripe_size, max_entries;
    uint32_t pid;
} hot_t;

typedef struct {
    const unsigned char *space;
    const unsigned char *key;
    uint32_t space_size;
    uint32_t key_size;
    uint64_t hash;
} hot_key_t;

static inline uint64_t hot_round_up(uint64_t size) { return (size + HOT_ALIGN - 1) & ~(uint64_t)(HOT_ALIGN - 1); }

/* The low half of the hash is the tag; stripe and bucket come from the high half. */
static inline hot_stripe_t *hot_stripe(const hot_t *hot, uint64_t hash)
{
    return (hot_stripe_t *)(hot->stripes + (hash >> 48 & (hot->stripe_count - 1)) * hot->stripe_size);
}

static inline hot_bucket_t *hot_bucket(const hot_t *hot, const hot_stripe_t *stripe, uint64_t hash)
{
    return (hot_bucket_t *)((char *)stripe + sizeof *stripe) + (hash >> 32 & (hot->bucket_count - 1));
}

static inline unsigned char *hot_arena(const hot_t *hot, const hot_stripe_t *stripe)
{
    return (unsigned char *)stripe + sizeof *stripe + hot->bucket_count * sizeof(hot_bucket_t);
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

static inline int hot_record_is_of(const unsigned char *at, const hot_record_t *record, const hot_key_t *key)
{
    return record->hash == key->hash && record->space_size == key->space_size && record->key_size == key->key_size &&
           bytes_equal(at + sizeof *record, key->space, key->space_size) &&
           bytes_equal(at + sizeof *record + key->space_size, key->key, key->key_size);
}

/* The slot of a key in its bucket, or -1; the record's header in *record, its place in *offset. */
static inline int hot_bucket_find(const hot_t *hot, const hot_stripe_t *stripe, const hot_bucket_t *bucket,
                                  const hot_key_t *key, hot_record_t *record, uint64_t *offset)
{
    const unsigned char *arena = hot_arena(hot, stripe);

    for (int i = 0; i < HOT_SLOTS; i++) {
        const uint64_t slot = word_acquire(&bucket->slots[i]);
        const uint64_t at = ((slot & UINT32_MAX) - 1) * HOT_ALIGN;

        if (slot == 0 || slot >> 32 != (key->hash & UINT32_MAX) || at + sizeof *record > hot->arena_size)
            continue;
        bytes_copy(record, arena + at, sizeof *record);
        if (!hot_record_fits(hot, record, at) || !hot_record_is_of(arena + at, record, key))
            continue;
        *offset = at;
        return i;
    }
    return -1;
}

/* ---- making ---------------------------------------------------------------------------------------------------- */

static inline uint64_t hot_stripe_bytes(uint64_t bucket_count, uint64_t arena_size)
{
    return sizeof(hot_stripe_t) + bucket_count * sizeof(hot_bucket_t) + arena_size;
}

/* All zeroes before, and nobody else has it. */
static inline int hot_create(hot_t *hot)
{
    const uint64_t probation = (hot->arena_size / 4) & ~(uint64_t)(SYNC_LINE - 1);
    int error = 0;

    for (uint64_t i = 0; i < hot->stripe_count && error == 0; i++) {
        hot_stripe_t *stripe = (hot_stripe_t *)(hot->stripes + i * hot->stripe_size);
        error = mutex_create(&stripe->lock);
        stripe->rings[HOT_PROBATION].size = stripe->rings[HOT_MAIN].base = probation;
        stripe->rings[HOT_MAIN].size = hot->arena_size - probation;
    }
    return error;
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

enum hot_outcome { HOT_HIT, HOT_MISS, HOT_AGAIN };

typedef struct {
    const hot_stripe_t *stripe;
    hot_bucket_t *bucket;
    uint64_t sequence;
    uint64_t offset;
    hot_record_t record;
    int slot;
} hot_found_t;

/* A hit is one only if hot_is_unchanged() says so after its value was copied from hot_value(). */
static inline enum hot_outcome hot_find(const hot_t *hot, const hot_key_t *key, hot_found_t *found)
{
    const hot_stripe_t *stripe = hot_stripe(hot, key->hash);

    found->stripe = stripe;
    found->bucket = hot_bucket(hot, stripe, key->hash);
    found->sequence = word_acquire(&stripe->sequence);
    if (found->sequence & 1)
        return HOT_MISS;
    found->slot = hot_bucket_find(hot, stripe, found->bucket, key, &found->record, &found->offset);
    if (found->slot >= 0)
        return found->record.version >= word_acquire(&stripe->floor) ? HOT_HIT : HOT_MISS;
    fence_acquire();
    return word_relaxed(&stripe->sequence) == found->sequence ? HOT_MISS : HOT_AGAIN;
}

static inline const unsigned char *hot_value(const hot_t *hot, const hot_found_t *found)
{
    return hot_arena(hot, found->stripe) + found->offset + sizeof found->record + found->record.space_size +
           found->record.key_size;
}

static inline int hot_is_unchanged(const hot_found_t *found)
{
    fence_acquire(); /* what was copied was read before the sequence is */
    return word_relaxed(&found->stripe->sequence) == found->sequence;
}

static inline void hot_touch(const hot_found_t *found)
{
    uint8_t *used = &found->bucket->used[found->slot];

    if (__atomic_load_n(used, __ATOMIC_RELAXED) == 0)
        __atomic_store_n(used, 1, __ATOMIC_RELAXED);
}

/* To be taken before one looks for what may be promoted. */
static inline uint64_t hot_changes(const hot_t *hot, uint64_t hash)
{
    return word_acquire(&hot_stripe(hot, hash)->changes);
}

#endif
