/* How a cache of objects chooses what to evict: three rules, the keys that left lately, and a duel of miniatures.
 *
 * A cache has a probationary queue for new keys and a main one. Which rule is good depends on the reads: "narrow" (a
 * tenth is probation, what was read there moves to main) where some keys are hotter than others, "wide" (nearly all is
 * probation, with second chances in it: nearly LRU) where the hot keys change, "swift" (the same, but what was read there
 * moves to a small main queue) where the whole working set is replaced. So one key of eight, or fewer, is played on
 * miniatures of the cache, one for each rule, and the cache goes by the rule that hits more.
 * Hashes only, no Python object; docs/design/hotcache.md has the figures.
 */
#ifndef NTMEM_DUEL_H
#define NTMEM_DUEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    DUEL_SAMPLE_SHIFT = 3, /* a read of a sampled key costs 20 to 60 ns more: not more than one of 8 */
    DUEL_SHADOW_MOST = 1024, /* entries of a miniature; with 400 the choice was as good */
    DUEL_SHADOW_LEAST = 8, /* with fewer it would be chance */
    DUEL_FREQUENCY_MOST = 3,
    DUEL_GHOST_WAYS = 4,
    DUEL_LEAD_SHARE = 8, /* the rule changes at a lead of so much of a miniature; 2 was slow, 16 restless */
};

enum { QUEUE_PROBATION, QUEUE_MAIN, QUEUES };

typedef enum { RULE_NARROW, RULE_WIDE, RULE_SWIFT, RULES } rule_t;

#define DUEL_NONE UINT32_MAX

/* ---- the rules, for the miniatures and the cache alike ---- */

static inline int rule_victim_queue(rule_t rule, uint64_t probation, uint64_t main)
{
    const uint64_t tenths = rule == RULE_NARROW ? 1 : 9;
    return main == 0 || (probation != 0 && probation * 10 >= (probation + main) * tenths) ? QUEUE_PROBATION : QUEUE_MAIN;
}

/* Where an entry goes that was read since it came to its queue's end. */
static inline int rule_second_chance(rule_t rule, int queue, uint8_t *frequency)
{
    *frequency = rule != RULE_NARROW || queue == QUEUE_PROBATION ? 0 : *frequency - 1;
    return rule == RULE_WIDE ? QUEUE_PROBATION : QUEUE_MAIN;
}

static inline bool rule_remembers(rule_t rule, int queue)
{
    return rule != RULE_NARROW || queue == QUEUE_PROBATION;
}

/* ---- keys that left ---- */

typedef struct {
    uint64_t *cells; /* tag << 32 | the clock when it left; 0: empty */
    uint32_t mask;   /* of sets of DUEL_GHOST_WAYS cells */
    uint32_t clock;  /* how many have left */
    uint32_t span;   /* how many of the last ones are remembered */
} ghost_t;

static inline uint64_t duel_mix(uint64_t hash) /* hashes of ints are the ints */
{
    hash ^= hash >> 32;
    hash *= UINT64_C(0xd6e8feb86659fd93);
    hash ^= hash >> 32;
    hash *= UINT64_C(0xd6e8feb86659fd93);
    return hash ^ hash >> 32;
}

static inline bool ghost_make(ghost_t *ghost, uint32_t span)
{
    uint64_t sets = 1;
    while (sets * DUEL_GHOST_WAYS < (uint64_t)span * 3 / 2)
        sets *= 2;
    memset(ghost, 0, sizeof *ghost);
    ghost->cells = calloc(sets * DUEL_GHOST_WAYS, sizeof *ghost->cells);
    ghost->mask = (uint32_t)(sets - 1);
    ghost->span = span;
    return ghost->cells != NULL;
}

/* Whether the key left lately; it is forgotten, for it comes back. */
static inline bool ghost_take(ghost_t *ghost, uint64_t hash)
{
    uint64_t *set = ghost->cells + (uint64_t)((uint32_t)hash & ghost->mask) * DUEL_GHOST_WAYS;
    for (int way = 0; way < DUEL_GHOST_WAYS; way++)
        if (set[way] != 0 && set[way] >> 32 == hash >> 32) {
            const bool lately = ghost->clock - (uint32_t)set[way] < ghost->span;
            set[way] = 0;
            return lately;
        }
    return false;
}

static inline void ghost_note(ghost_t *ghost, uint64_t hash)
{
    uint64_t *set = ghost->cells + (uint64_t)((uint32_t)hash & ghost->mask) * DUEL_GHOST_WAYS;
    int oldest = 0;
    if (++ghost->clock == 0)
        ghost->clock = 1;
    for (int way = 0; way < DUEL_GHOST_WAYS && set[oldest] != 0; way++)
        if (set[way] == 0 || ghost->clock - (uint32_t)set[way] > ghost->clock - (uint32_t)set[oldest])
            oldest = way;
    set[oldest] = hash >> 32 << 32 | ghost->clock;
}

/* ---- a miniature ---- */

typedef struct {
    uint64_t hash;
    uint32_t older, younger; /* neighbours in the queue */
    uint32_t chained;        /* next of the same bucket */
    uint8_t queue, frequency;
} shadow_node_t;

typedef struct {
    uint32_t oldest, youngest, size;
} shadow_queue_t;

typedef struct {
    shadow_node_t *nodes;
    uint32_t *buckets;
    uint32_t capacity, used, free, mask;
    rule_t rule;
    shadow_queue_t queues[QUEUES];
    ghost_t ghost;
} shadow_t;

static inline bool shadow_make(shadow_t *shadow, uint32_t capacity, rule_t rule)
{
    memset(shadow, 0, sizeof *shadow);
    shadow->capacity = capacity;
    shadow->rule = rule;
    shadow->mask = 1;
    while (shadow->mask < 2 * capacity)
        shadow->mask *= 2;
    shadow->nodes = calloc(capacity, sizeof *shadow->nodes);
    shadow->buckets = malloc(shadow->mask * sizeof *shadow->buckets);
    if (shadow->nodes == NULL || shadow->buckets == NULL || !ghost_make(&shadow->ghost, capacity))
        return false;
    memset(shadow->buckets, 0xff, shadow->mask * sizeof *shadow->buckets);
    for (int queue = 0; queue < QUEUES; queue++)
        shadow->queues[queue].oldest = shadow->queues[queue].youngest = DUEL_NONE;
    shadow->free = DUEL_NONE;
    shadow->mask--;
    return true;
}

static inline void shadow_free(shadow_t *shadow)
{
    free(shadow->nodes);
    free(shadow->buckets);
    free(shadow->ghost.cells);
    memset(shadow, 0, sizeof *shadow);
}

static inline void shadow_push(shadow_t *shadow, uint32_t at, int queue)
{
    shadow_queue_t *to = &shadow->queues[queue];
    shadow_node_t *node = &shadow->nodes[at];
    node->queue = (uint8_t)queue;
    node->older = to->youngest;
    node->younger = DUEL_NONE;
    if (to->youngest != DUEL_NONE)
        shadow->nodes[to->youngest].younger = at;
    else
        to->oldest = at;
    to->youngest = at;
    to->size++;
}

static inline uint32_t shadow_pop(shadow_t *shadow, int queue)
{
    shadow_queue_t *from = &shadow->queues[queue];
    const uint32_t at = from->oldest;
    from->oldest = shadow->nodes[at].younger;
    if (from->oldest != DUEL_NONE)
        shadow->nodes[from->oldest].older = DUEL_NONE;
    else
        from->youngest = DUEL_NONE;
    from->size--;
    return at;
}

/* Make room for one more. */
static inline void shadow_evict(shadow_t *shadow)
{
    for (;;) {
        const int queue = rule_victim_queue(shadow->rule, shadow->queues[0].size, shadow->queues[1].size);
        const uint32_t at = shadow_pop(shadow, queue);
        shadow_node_t *node = &shadow->nodes[at];
        if (node->frequency > 0) {
            shadow_push(shadow, at, rule_second_chance(shadow->rule, queue, &node->frequency));
            continue;
        }
        if (rule_remembers(shadow->rule, queue))
            ghost_note(&shadow->ghost, node->hash);
        uint32_t *link = &shadow->buckets[node->hash & shadow->mask];
        while (*link != at)
            link = &shadow->nodes[*link].chained;
        *link = node->chained;
        node->chained = shadow->free;
        shadow->free = at;
        return;
    }
}

/* Play one access; whether it was a hit. */
static inline bool shadow_play(shadow_t *shadow, uint64_t hash)
{
    uint32_t *bucket = &shadow->buckets[hash & shadow->mask];
    for (uint32_t at = *bucket; at != DUEL_NONE; at = shadow->nodes[at].chained)
        if (shadow->nodes[at].hash == hash) {
            shadow->nodes[at].frequency += shadow->nodes[at].frequency < DUEL_FREQUENCY_MOST;
            return true;
        }
    const bool known = ghost_take(&shadow->ghost, hash);
    if (shadow->used == shadow->capacity && shadow->free == DUEL_NONE)
        shadow_evict(shadow);
    uint32_t at = shadow->free;
    if (at != DUEL_NONE)
        shadow->free = shadow->nodes[at].chained;
    else
        at = shadow->used++;
    shadow_node_t *node = &shadow->nodes[at];
    node->hash = hash;
    node->frequency = 0;
    node->chained = *bucket;
    *bucket = at;
    shadow_push(shadow, at, known);
    return false;
}

/* ---- the duel ---- */

typedef struct {
    shadow_t shadows[RULES];
    uint64_t sample;   /* keys whose hash has none of these bits are played */
    uint64_t made_for; /* entries; 0: there is no duel */
    int32_t leads[RULES]; /* hits of each more than of the chosen one, not below -lead_most */
    int32_t lead_most;    /* with so many it becomes the chosen one */
    rule_t rule;
} duel_t;

static inline bool duel_may_sample(uint64_t mixed)
{
    return (mixed >> 40 & ((1 << DUEL_SAMPLE_SHIFT) - 1)) == 0;
}

static inline void duel_free(duel_t *duel)
{
    for (int rule = 0; rule < RULES; rule++)
        shadow_free(&duel->shadows[rule]);
    duel->made_for = 0;
}

/* Begin for a cache that is full with so many entries, by the rule it has; without memory there is no duel. */
static inline void duel_make(duel_t *duel, uint64_t entries)
{
    int shift = DUEL_SAMPLE_SHIFT;
    duel_free(duel);
    while (entries >> shift > DUEL_SHADOW_MOST)
        shift++;
    const uint32_t capacity = (uint32_t)(entries >> shift);
    if (capacity < DUEL_SHADOW_LEAST)
        return;
    for (int rule = 0; rule < RULES; rule++) {
        duel->leads[rule] = 0;
        if (!shadow_make(&duel->shadows[rule], capacity, (rule_t)rule)) {
            duel_free(duel);
            return;
        }
    }
    duel->sample = ((uint64_t)1 << shift) - 1;
    duel->made_for = entries;
    duel->lead_most = (int32_t)(capacity / DUEL_LEAD_SHARE > 4 ? capacity / DUEL_LEAD_SHARE : 4);
}

/* Play an access, if its key is sampled. */
static inline void duel_play(duel_t *duel, uint64_t mixed)
{
    int hits[RULES], winner = -1;
    if (duel->made_for == 0 || (mixed >> 40 & duel->sample) != 0)
        return;
    for (int rule = 0; rule < RULES; rule++)
        hits[rule] = shadow_play(&duel->shadows[rule], mixed);
    for (int rule = 0; rule < RULES; rule++) {
        const int32_t lead = duel->leads[rule] + hits[rule] - hits[duel->rule];
        duel->leads[rule] = lead < -duel->lead_most ? -duel->lead_most : lead;
        if (lead >= duel->lead_most && (winner < 0 || lead > duel->leads[winner]))
            winner = rule;
    }
    if (winner < 0)
        return;
    duel->rule = (rule_t)winner;
    memset(duel->leads, 0, sizeof duel->leads);
}

#endif
