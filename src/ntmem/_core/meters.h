/* How often the operations of a store were called and how long they took: histograms that all processes add to.
 *
 * A leaf: plain C, no Python. Each operation has a block of counters in each of several shards; a caller adds to the shard
 * of the processor it runs on, so two rarely share a line. Additions are relaxed atomics: whoever dies between two of them
 * leaves figures that differ by one call, and nothing else. docs/design/meters.md has the why.
 */
#ifndef NTMEM_METERS_H
#define NTMEM_METERS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <stddef.h>
#include <stdint.h>

#include "usage.h"

#define METERS_MAGIC 0x313073726574656dull /* "meters01" */
#define METER_BUCKETS 142                  /* up to 85 seconds, or as many bytes */
#define METER_SHARDS 8                     /* a power of two */

/* Numbers are for ever: a build adds to the end, and knows of a region made by another one what both have. */
enum meter_op {
    METER_SCAN,
    METER_COMMIT,
    METER_APPLY_FILL,
    METER_APPEND,
    METER_EXTEND,
    METER_RECENT,
    METER_RANGE,
    METER_VECTOR_ADD,
    METER_VECTOR_SEARCH,
    METER_PUBLISH,
    METER_DELIVER,
    METER_LOCK_WAIT,
    METER_LOCK_HOLD,
    METER_VOTE,
    METER_FLUSH,
    METER_FLUSH_GROUPS,
    METER_FLUSH_BYTES,
    METER_RECALL,
    METER_CHOOSE,
    METER_JUDGE,
    METER_DISTILL,
    METER_OPS,
};

typedef struct {
    uint64_t calls;
    uint64_t sum; /* of what was measured: of each call, or of one in USAGE_SAMPLE */
    uint64_t buckets[METER_BUCKETS];
} __attribute__((aligned(SYNC_LINE))) meter_t;

typedef struct {
    uint64_t magic;
    uint32_t ops; /* in each shard */
    uint32_t buckets;
    uint32_t shards;
    uint32_t zero[11];
} __attribute__((aligned(SYNC_LINE))) meters_head_t;

/* What a process knows of them; without any, recording does nothing. */
typedef struct {
    meter_t *meters;
    uint32_t ops;
    uint32_t mask; /* of shards */
} meters_t;

static inline uint64_t meters_size(void) { return sizeof(meters_head_t) + METER_SHARDS * METER_OPS * sizeof(meter_t); }

static inline void meters_create(meters_head_t *head)
{
    head->ops = METER_OPS;
    head->buckets = METER_BUCKETS;
    head->shards = METER_SHARDS;
    __atomic_store_n(&head->magic, METERS_MAGIC, __ATOMIC_RELEASE);
}

/* Whether a section of so many bytes holds meters that this build understands. */
static inline int meters_open(meters_t *meters, meters_head_t *head, uint64_t size)
{
    *meters = (meters_t){0};
    if (size < sizeof *head || head->magic != METERS_MAGIC || head->buckets != METER_BUCKETS || head->shards == 0 ||
        head->shards > 1024 || (head->shards & (head->shards - 1)) != 0 || head->ops > 4096 ||
        sizeof *head + (uint64_t)head->shards * head->ops * sizeof(meter_t) > size)
        return 0;
    meters->meters = (meter_t *)(head + 1);
    meters->ops = head->ops;
    meters->mask = head->shards - 1;
    return 1;
}

static inline meter_t *meter_at(const meters_t *meters, uint32_t shard, uint32_t op)
{
    return meters->meters + (size_t)shard * meters->ops + op;
}

static inline meter_t *meter_here(const meters_t *meters, uint32_t op)
{
    if (op >= meters->ops) /* there are none, or those of an older build */
        return NULL;
    return meter_at(meters, (uint32_t)sched_getcpu() & meters->mask, op);
}

static inline void meter_add(uint64_t *word, uint64_t more) { __atomic_fetch_add(word, more, __ATOMIC_RELAXED); }

static inline uint32_t meter_bucket(uint64_t value) { return usage_bucket_below(value, METER_BUCKETS); }

static inline void meters_record(const meters_t *meters, enum meter_op op, uint64_t value)
{
    meter_t *meter = meter_here(meters, op);

    if (meter == NULL)
        return;
    meter_add(&meter->calls, 1);
    meter_add(&meter->sum, value);
    meter_add(&meter->buckets[meter_bucket(value)], 1);
}

/* Of a call that costs no more than looking at a clock does: when it began if it is to be measured, else 0. */
static inline uint64_t meters_begin(const meters_t *meters, enum meter_op op)
{
    const meter_t *meter = meter_here(meters, op);

    return meter == NULL || __atomic_load_n(&meter->calls, __ATOMIC_RELAXED) % USAGE_SAMPLE ? 0 : usage_clock();
}

static inline void meters_count(const meters_t *meters, enum meter_op op, uint64_t calls)
{
    meter_t *meter = meter_here(meters, op);

    if (meter != NULL)
        meter_add(&meter->calls, calls);
}

static inline void meters_end(const meters_t *meters, enum meter_op op, uint64_t begun)
{
    const uint64_t now = begun == 0 ? 0 : usage_clock();

    if (begun == 0)
        meters_count(meters, op, 1);
    else
        meters_record(meters, op, now > begun ? now - begun : 0);
}

#endif
