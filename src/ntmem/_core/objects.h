/* The storage of a cache of Python objects: a hash table of nodes, their queues, their order and their expiry.
 *
 * Keys and values are pointers that nothing here looks into, counts or frees: no Python code runs in here, so every
 * function leaves the structure whole. What leaves the table goes to one of two lists, from which the caller takes it
 * when it pleases. Nodes are found by number, for the array of them may move when it grows.
 */
#ifndef NTMEM_OBJECTS_H
#define NTMEM_OBJECTS_H

#include <time.h>

#include "duel.h"

#define NODE_NONE UINT32_MAX
#define NODES_MOST (UINT32_C(1) << 30) /* so that twice as many slots have numbers of 32 bits, and a few to spare */

enum { LINK_QUEUE, LINK_ORDER, LINK_EXPIRY, LINKS };

typedef enum {
    CAUSE_ENTRIES,
    CAUSE_BYTES,
    CAUSE_EXPIRED,
    CAUSE_TOO_LARGE,
    CAUSES,
    CAUSE_USER = CAUSES, /* deleted, replaced or cleared: no eviction */
} cause_t;

typedef struct {
    uint32_t previous, next;
} link_t;

typedef struct {
    void *key, *value;
    int64_t hash;
    int64_t expires_at, last_access; /* boot clock, ns */
    uint64_t reads;
    uint32_t heap_at; /* where in the heap; NODE_NONE: in the list of those that live as long as the cache says */
    uint8_t queue, frequency, sampled, cause;
    uint64_t size;
} node_t; /* what a read looks at: one line of the processor's cache */

typedef struct {
    link_t links[LINKS];
    int64_t created_at;
} rest_t;

_Static_assert(sizeof(node_t) == 64, "a node is a line");

typedef struct {
    uint32_t first, last, size;
} list_t;

typedef struct {
    uint32_t tag, node; /* high half of the spread hash; node + 1, 0: empty */
} slot_t;

typedef struct {
    node_t *nodes;
    rest_t *rests; /* of the nodes, by the same numbers */
    slot_t *slots;
    uint32_t *heap; /* nodes with a time to live of their own, the first to expire first */
    uint32_t nodes_used, nodes_room, nodes_free, heap_size, heap_room;
    uint32_t slot_bits; /* 0: no slots yet */
    uint64_t entries, bytes, max_entries, max_bytes;
    uint64_t changes; /* of which keys there are: who had other code run looks whether this has moved */
    uint64_t evicted[CAUSES];
    list_t queues[QUEUES], order, expiry;
    list_t departed, dropped; /* out of the table: evicted and to be reported; to be freed only */
    uint64_t departed_bytes;
    bool reports;
    int64_t tick, now;
    ghost_t ghost;
    duel_t duel;
} objects_t;

/* ---- time ---- */

static inline int64_t clock_ns(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

enum { OBJECTS_NEAR_NS = 1000000000 };

/* The boot clock, which counts suspended time, as it was at the last tick of the kernel: the precise clock costs as much
 * as a lookup. */
static inline int64_t objects_tick(objects_t *objects)
{
    const int64_t tick = clock_ns(CLOCK_MONOTONIC_COARSE);
    if (tick != objects->tick) {
        objects->tick = tick;
        objects->now = clock_ns(CLOCK_BOOTTIME);
    }
    return objects->now;
}

/* Whether it has expired, precisely: a tick may be late, so close to the end the time is taken anew. */
static inline bool node_has_expired(const node_t *node, int64_t now)
{
    if (node->expires_at - now > OBJECTS_NEAR_NS)
        return false;
    return node->expires_at <= now || node->expires_at <= clock_ns(CLOCK_BOOTTIME);
}

/* ---- lists ---- */

static inline void list_push(objects_t *objects, list_t *list, int link, uint32_t at)
{
    link_t *own = &objects->rests[at].links[link];
    own->previous = list->last;
    own->next = NODE_NONE;
    if (list->last != NODE_NONE)
        objects->rests[list->last].links[link].next = at;
    else
        list->first = at;
    list->last = at;
    list->size++;
}

static inline void list_remove(objects_t *objects, list_t *list, int link, uint32_t at)
{
    const link_t own = objects->rests[at].links[link];
    if (own.previous != NODE_NONE)
        objects->rests[own.previous].links[link].next = own.next;
    else
        list->first = own.next;
    if (own.next != NODE_NONE)
        objects->rests[own.next].links[link].previous = own.previous;
    else
        list->last = own.previous;
    list->size--;
}

static inline void list_begin(list_t *list)
{
    list->first = list->last = NODE_NONE;
    list->size = 0;
}

/* ---- expiry: a list where all live equally long, a heap for the others ---- */

static inline void heap_set(objects_t *objects, uint32_t at, uint32_t node)
{
    objects->heap[at] = node;
    objects->nodes[node].heap_at = at;
}

static inline void heap_settle(objects_t *objects, uint32_t at)
{
    const uint32_t node = objects->heap[at];
    const int64_t expires_at = objects->nodes[node].expires_at;
    while (at > 0 && objects->nodes[objects->heap[(at - 1) / 2]].expires_at > expires_at) {
        heap_set(objects, at, objects->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= objects->heap_size)
            break;
        if (child + 1 < objects->heap_size &&
            objects->nodes[objects->heap[child + 1]].expires_at < objects->nodes[objects->heap[child]].expires_at)
            child++;
        if (objects->nodes[objects->heap[child]].expires_at >= expires_at)
            break;
        heap_set(objects, at, objects->heap[child]);
        at = child;
    }
    heap_set(objects, at, node);
}

static inline void expiry_leave(objects_t *objects, uint32_t at)
{
    const uint32_t hole = objects->nodes[at].heap_at;
    if (hole == NODE_NONE) {
        list_remove(objects, &objects->expiry, LINK_EXPIRY, at);
        return;
    }
    if (hole != --objects->heap_size) {
        heap_set(objects, hole, objects->heap[objects->heap_size]);
        heap_settle(objects, hole);
    }
}

static inline void expiry_join(objects_t *objects, uint32_t at, bool own_ttl)
{
    objects->nodes[at].heap_at = NODE_NONE;
    if (!own_ttl) {
        list_push(objects, &objects->expiry, LINK_EXPIRY, at);
        return;
    }
    heap_set(objects, objects->heap_size++, at);
    heap_settle(objects, objects->heap_size - 1);
}

/* ---- the table ---- */

static inline void objects_begin(objects_t *objects)
{
    memset(objects, 0, sizeof *objects);
    objects->nodes_free = NODE_NONE;
    objects->duel.rule = RULE_NARROW; /* so that the first scan evicts nothing that was read again */
    list_begin(&objects->queues[QUEUE_PROBATION]);
    list_begin(&objects->queues[QUEUE_MAIN]);
    list_begin(&objects->order);
    list_begin(&objects->expiry);
    list_begin(&objects->departed);
    list_begin(&objects->dropped);
}

static inline void objects_end(objects_t *objects)
{
    free(objects->nodes);
    free(objects->rests);
    free(objects->slots);
    free(objects->heap);
    free(objects->ghost.cells);
    duel_free(&objects->duel);
    objects_begin(objects);
}

static inline uint64_t hash_spread(int64_t hash)
{
    return (uint64_t)hash * UINT64_C(0x9e3779b97f4a7c15);
}

static inline uint64_t slot_home(const objects_t *objects, uint32_t tag)
{
    return tag >> (32 - objects->slot_bits);
}

static inline uint64_t slot_after(const objects_t *objects, uint64_t at)
{
    return (at + 1) & (((uint64_t)1 << objects->slot_bits) - 1);
}

static inline void slot_insert(objects_t *objects, uint32_t node)
{
    const uint32_t tag = hash_spread(objects->nodes[node].hash) >> 32;
    uint64_t at = slot_home(objects, tag);
    while (objects->slots[at].node != 0)
        at = slot_after(objects, at);
    objects->slots[at] = (slot_t){tag, node + 1};
}

static inline void slot_remove(objects_t *objects, uint32_t node)
{
    const uint64_t last = ((uint64_t)1 << objects->slot_bits) - 1;
    uint64_t hole = slot_home(objects, hash_spread(objects->nodes[node].hash) >> 32);
    while (objects->slots[hole].node != node + 1)
        hole = slot_after(objects, hole);
    for (uint64_t at = slot_after(objects, hole); objects->slots[at].node != 0; at = slot_after(objects, at)) {
        const uint64_t home = slot_home(objects, objects->slots[at].tag);
        if (((at - home) & last) >= ((at - hole) & last)) { /* it may move up: the hole is not before its home */
            objects->slots[hole] = objects->slots[at];
            hole = at;
        }
    }
    objects->slots[hole].node = 0;
}

static inline bool slots_grow(objects_t *objects, uint32_t bits)
{
    slot_t *slots = calloc((size_t)1 << bits, sizeof *slots);
    if (slots == NULL)
        return false;
    free(objects->slots);
    objects->slots = slots;
    objects->slot_bits = bits;
    for (uint32_t at = objects->order.first; at != NODE_NONE; at = objects->rests[at].links[LINK_ORDER].next)
        slot_insert(objects, at);
    return true;
}

/* Make room for one more node, so that nothing can fail then. Slots move only if one `inserts`, which counts a change. */
static inline bool objects_reserve(objects_t *objects, bool inserts)
{
    if (objects->nodes_free == NODE_NONE && objects->nodes_used == objects->nodes_room) {
        const uint32_t room = objects->nodes_room < 64 ? 64 : objects->nodes_room + objects->nodes_room / 2;
        node_t *nodes = NULL;
        if (room > NODES_MOST || posix_memalign((void **)&nodes, 64, room * sizeof *nodes) != 0)
            return false;
        if (objects->nodes_used > 0)
            memcpy(nodes, objects->nodes, objects->nodes_used * sizeof *nodes);
        free(objects->nodes);
        objects->nodes = nodes;
        rest_t *rests = realloc(objects->rests, room * sizeof *rests);
        if (rests == NULL)
            return false;
        objects->rests = rests;
        objects->nodes_room = room;
    }
    if (objects->heap_size == objects->heap_room) {
        const uint32_t room = objects->heap_room < 16 ? 16 : objects->heap_room + objects->heap_room / 2;
        uint32_t *heap = realloc(objects->heap, room * sizeof *heap);
        if (heap == NULL)
            return false;
        objects->heap = heap;
        objects->heap_room = room;
    }
    if (!inserts)
        return true;
    if (objects->slot_bits == 0)
        return slots_grow(objects, 7);
    if (objects->entries + 1 > ((uint64_t)1 << objects->slot_bits) / 2)
        return slots_grow(objects, objects->slot_bits + 1);
    return true;
}

static inline uint32_t node_take(objects_t *objects)
{
    const uint32_t at = objects->nodes_free;
    if (at == NODE_NONE)
        return objects->nodes_used++;
    objects->nodes_free = objects->rests[at].links[LINK_QUEUE].next;
    return at;
}

static inline void node_give_back(objects_t *objects, uint32_t at)
{
    objects->rests[at].links[LINK_QUEUE].next = objects->nodes_free;
    objects->nodes_free = at;
}

static inline void node_depart(objects_t *objects, uint32_t at, cause_t cause)
{
    node_t *node = &objects->nodes[at];
    node->cause = (uint8_t)cause;
    if (cause != CAUSE_USER)
        objects->evicted[cause]++;
    if (cause == CAUSE_USER || !objects->reports) {
        list_push(objects, &objects->dropped, LINK_QUEUE, at);
        return;
    }
    objects->departed_bytes += node->size;
    list_push(objects, &objects->departed, LINK_QUEUE, at);
}

static inline void objects_remove(objects_t *objects, uint32_t at, cause_t cause)
{
    node_t *node = &objects->nodes[at];
    slot_remove(objects, at);
    list_remove(objects, &objects->queues[node->queue], LINK_QUEUE, at);
    list_remove(objects, &objects->order, LINK_ORDER, at);
    expiry_leave(objects, at);
    objects->entries--;
    objects->bytes -= node->size;
    objects->changes++;
    node_depart(objects, at, cause);
}

/* ---- eviction ---- */

/* The memory of the choice is made when the first entry has to go, and anew when the cache is of quite another size. */
static inline void choice_fit(objects_t *objects)
{
    const uint64_t entries = objects->entries < UINT32_MAX / 2 ? objects->entries : UINT32_MAX / 2;
    if (objects->ghost.span > entries / 2 && objects->ghost.span < entries * 2)
        return;
    free(objects->ghost.cells);
    if (!ghost_make(&objects->ghost, (uint32_t)entries))
        memset(&objects->ghost, 0, sizeof objects->ghost);
    duel_make(&objects->duel, entries);
}

static inline void objects_evict(objects_t *objects, cause_t cause, int64_t now)
{
    const rule_t rule = objects->duel.rule;
    choice_fit(objects);
    for (;;) {
        const int queue =
            rule_victim_queue(rule, objects->queues[QUEUE_PROBATION].size, objects->queues[QUEUE_MAIN].size);
        const uint32_t at = objects->queues[queue].first;
        node_t *node = &objects->nodes[at];
        if (node->expires_at <= now) {
            objects_remove(objects, at, CAUSE_EXPIRED);
            return;
        }
        if (node->frequency == 0) {
            if (objects->ghost.cells != NULL && rule_remembers(rule, queue))
                ghost_note(&objects->ghost, duel_mix((uint64_t)node->hash));
            objects_remove(objects, at, cause);
            return;
        }
        list_remove(objects, &objects->queues[queue], LINK_QUEUE, at);
        node->queue = (uint8_t)rule_second_chance(rule, queue, &node->frequency);
        list_push(objects, &objects->queues[node->queue], LINK_QUEUE, at);
    }
}

/* Evict until there is room for so many entries and bytes more. */
static inline void objects_make_room(objects_t *objects, uint64_t entries, uint64_t size, int64_t now)
{
    while (objects->entries > 0 && objects->queues[QUEUE_PROBATION].size + objects->queues[QUEUE_MAIN].size > 0) {
        if (objects->entries + entries > objects->max_entries)
            objects_evict(objects, CAUSE_ENTRIES, now);
        else if (objects->bytes + size > objects->max_bytes)
            objects_evict(objects, CAUSE_BYTES, now);
        else
            return;
    }
}

static inline void objects_purge(objects_t *objects, int64_t now)
{
    while (objects->expiry.first != NODE_NONE && objects->nodes[objects->expiry.first].expires_at <= now)
        objects_remove(objects, objects->expiry.first, CAUSE_EXPIRED);
    while (objects->heap_size > 0 && objects->nodes[objects->heap[0]].expires_at <= now)
        objects_remove(objects, objects->heap[0], CAUSE_EXPIRED);
}

static inline uint64_t heap_expired(const objects_t *objects, uint64_t at, int64_t now)
{
    if (at >= objects->heap_size || objects->nodes[objects->heap[at]].expires_at > now)
        return 0;
    return 1 + heap_expired(objects, 2 * at + 1, now) + heap_expired(objects, 2 * at + 2, now);
}

/* How many are in the table that have expired; in time that grows with them only. */
static inline uint64_t objects_expired(const objects_t *objects, int64_t now)
{
    uint64_t expired = heap_expired(objects, 0, now);
    uint32_t at = objects->expiry.first;
    for (; at != NODE_NONE && objects->nodes[at].expires_at <= now; at = objects->rests[at].links[LINK_EXPIRY].next)
        expired++;
    return expired;
}

/* ---- changes; room was reserved, and the size is within the budget ---- */

static inline void node_date(objects_t *objects, uint32_t at, uint64_t size, int64_t now, int64_t lifetime)
{
    node_t *node = &objects->nodes[at];
    node->size = size;
    objects->rests[at].created_at = node->last_access = now;
    node->reads = 0;
    node->expires_at = lifetime < INT64_MAX - now ? now + lifetime : INT64_MAX;
}

static inline void objects_insert(
    objects_t *objects, void *key, void *value, int64_t hash, uint64_t size, int64_t now, int64_t lifetime, bool own_ttl)
{
    const uint64_t mixed = duel_mix((uint64_t)hash);
    objects_purge(objects, now);
    objects_make_room(objects, 1, size, now);
    const uint32_t at = node_take(objects);
    node_t *node = &objects->nodes[at];
    node->key = key;
    node->value = value;
    node->hash = hash;
    node_date(objects, at, size, now, lifetime);
    node->frequency = 0;
    node->sampled = duel_may_sample(mixed);
    node->queue = objects->ghost.cells != NULL && ghost_take(&objects->ghost, mixed) ? QUEUE_MAIN : QUEUE_PROBATION;
    slot_insert(objects, at);
    list_push(objects, &objects->queues[node->queue], LINK_QUEUE, at);
    list_push(objects, &objects->order, LINK_ORDER, at);
    expiry_join(objects, at, own_ttl);
    objects->entries++;
    objects->bytes += size;
    objects->changes++;
    if (node->sampled)
        duel_play(&objects->duel, mixed);
}

static inline void node_touch(objects_t *objects, node_t *node)
{
    if (node->frequency < DUEL_FREQUENCY_MOST)
        node->frequency++;
    if (node->sampled)
        duel_play(&objects->duel, duel_mix((uint64_t)node->hash));
}

/* Give a key another value; return the one it had. It keeps its place in the order. */
static inline void *objects_replace(
    objects_t *objects, uint32_t at, void *value, uint64_t size, int64_t now, int64_t lifetime, bool own_ttl)
{
    node_t *node = &objects->nodes[at];
    void *old = node->value;
    expiry_leave(objects, at);
    objects->bytes -= node->size;
    node->value = value;
    node_date(objects, at, size, now, lifetime);
    expiry_join(objects, at, own_ttl);
    node_touch(objects, node);
    if (objects->bytes + size > objects->max_bytes) { /* others make room for it, so it is out of the queues */
        list_remove(objects, &objects->queues[node->queue], LINK_QUEUE, at);
        objects_make_room(objects, 0, size, now);
        list_push(objects, &objects->queues[node->queue], LINK_QUEUE, at);
    }
    objects->bytes += size;
    return old;
}

/* A value that the budget has no room for leaves at once. */
static inline void objects_refuse(objects_t *objects, void *key, void *value, uint64_t size)
{
    const uint32_t at = node_take(objects);
    objects->nodes[at].key = key;
    objects->nodes[at].value = value;
    objects->nodes[at].size = size;
    node_depart(objects, at, CAUSE_TOO_LARGE);
}

#endif
