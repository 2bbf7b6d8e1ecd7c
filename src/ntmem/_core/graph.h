/* A graph of neighbours (HNSW, Malkov and Yashunin 2016) in a file, and the search in it where it stands.
 *
 * A leaf: plain C, no Python, no allocation, no lock. Nothing in the file is an address, so it can be mapped
 * anywhere; it is little-endian, and read only. Node i is row i of the rows that are searched with it, which it does
 * not hold.
 *
 *     header      counts of nodes by level, what the rows are, its own checksum
 *     lists       of level 0: 2m neighbours a node
 *     nodes       the node at each place of the levels above; those of the highest level first, so that the first
 *                 counts[l] places are the nodes of level l
 *     lists       of level 1, 2, ...: m neighbours a place, as places
 *     checksums   of each 64 KiB between header and here, which is filled up to 4 bytes
 *
 * A link, which is a number of a node or place, has 3 bytes: a node of m = 16 has 96 of them at level 0. A list that is
 * not full ends with the node's (place's) own number, up to its limit, so who follows a list needs no count. A node
 * whose row was left out has an empty list, and nobody links to it.
 *
 * Twins are rows that are equal to an earlier one. Neighbours are chosen among the others. Twins hang behind the one
 * that they are equal to as a chain, in their order: the first link of each leads to the next one, that of the last one
 * back. The second link of the first twin, if it has one, is the link for which the list before it had no room then.
 *
 * `graph_check` looks at all of it once. What it has let pass is searched without a comparison with a limit; therefore
 * `graph_t` has copies of what is in the header.
 */
#ifndef NTMEM_GRAPH_H
#define NTMEM_GRAPH_H

#include "crc.h"
#include "scan.h"

#define GRAPH_MAGIC "NTMGRAPH"
#define GRAPH_FORMAT 2
#define GRAPH_LEVELS 32
#define GRAPH_MOST_M 256
#define GRAPH_LINK 3 /* bytes */
#define GRAPH_MOST_NODES (1u << 24)
#define GRAPH_BLOCK (1u << 16) /* bytes of a checksum */
#define GRAPH_AHEAD 16         /* rows that are on their way while others are multiplied */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a graph is read where it stands");

enum graph_metric { GRAPH_COSINE, GRAPH_L2, GRAPH_IP, GRAPH_METRICS };

typedef struct {
    char magic[8];
    uint32_t format;
    uint32_t crc;    /* of this header, with 0 here */
    uint64_t bytes;  /* of all */
    uint32_t m;
    uint32_t levels; /* 0 of no nodes, 1 if all are at level 0 only */
    uint32_t entry;  /* a place of the highest level; if that is 0, a node */
    uint32_t kind;   /* of the rows: KERNELS_I8, ... */
    uint32_t metric;
    uint32_t dimension;
    uint32_t ef_construction;
    uint32_t linked; /* nodes that were not left out */
    uint32_t twins;  /* of these, whose rows are equal to an earlier one */
    uint32_t unused;
    uint32_t counts[GRAPH_LEVELS]; /* nodes of each level */
} graph_header_t;

_Static_assert(sizeof(graph_header_t) == 192, "the lists of level 0 begin with a line of the cache");

typedef struct {
    uint32_t m;
    uint32_t levels;
    uint32_t entry;
    uint32_t kind;
    uint32_t metric;
    uint32_t dimension;
    uint32_t ef_construction;
    uint32_t linked;
    uint32_t twins;
    uint32_t counts[GRAPH_LEVELS];
    uint64_t bytes;
    const uint8_t *nodes;
    const uint8_t *lists[GRAPH_LEVELS];
    const uint32_t *checksums;
} graph_t;

/* What a graph is to be made of: graph_build.h. */
typedef struct {
    scan_rows_t rows; /* `base` and `allowed` mean nothing; `squares` are wanted for GRAPH_L2 */
    const kernels_t *kernels;
    size_t dimension;
    int metric;
    size_t m;
    size_t ef_construction;
    size_t seed;
    int threads;
    double share;           /* of the time that each of them works; up to 1 */
    int background;         /* all is done by threads of the lowest priority */
    int plain;              /* for tests: see hnsw_build.h */
    const uint64_t *wanted; /* a bit for each row, 0 of those that are left out; NULL: all are wanted */
    const graph_t *base;    /* of the first rows, of the same type and m: it is extended; NULL: none */
    const volatile int *stop;
} graph_job_t;

/* Bytes of a row that are looked at. */
static inline size_t graph_row_bytes(int kind, size_t dimension)
{
    static const size_t sizes[KERNELS_KINDS] = {1, 2, 4};

    return dimension * sizes[kind];
}

static inline const void *graph_row(const scan_rows_t *rows, size_t row)
{
    return (const char *)rows->rows + row * rows->stride;
}

/* Whether two rows have the same value for whatever is asked, as they are the same. */
static inline int graph_same(const scan_rows_t *rows, size_t bytes, size_t a, size_t b)
{
    return memcmp(graph_row(rows, a), graph_row(rows, b), bytes) == 0 &&
           (rows->steps == NULL || memcmp(&rows->steps[a], &rows->steps[b], sizeof *rows->steps) == 0) &&
           (rows->squares == NULL || memcmp(&rows->squares[a], &rows->squares[b], sizeof *rows->squares) == 0);
}

/* Neighbours of a node of level 0, or of a place of a level above. */
static inline uint32_t graph_limit(uint32_t m, uint32_t level) { return level == 0 ? 2 * m : m; }

/* One byte behind a link is read, too. There always is one, as checksums are behind all of them. */
static inline uint32_t graph_link(const uint8_t *list, size_t number)
{
    uint32_t link;

    memcpy(&link, list + GRAPH_LINK * number, sizeof link);
    return link & (GRAPH_MOST_NODES - 1);
}

static inline size_t graph_list_bytes(uint32_t m, uint32_t level) { return (size_t)GRAPH_LINK * graph_limit(m, level); }

static inline const uint8_t *graph_list(const graph_t *graph, uint32_t level, uint32_t own)
{
    return graph->lists[level] + own * graph_list_bytes(graph->m, level);
}

/* Checksums stand where such numbers may. */
static inline uint64_t graph_filled(uint64_t bytes) { return (bytes + 3) / 4 * 4; }

/* Where everything is, from the counts alone. */
static inline void graph_lay_out(graph_t *graph, const void *file)
{
    const uint8_t *const first = (const uint8_t *)file + sizeof(graph_header_t), *at = first;

    for (uint32_t level = 0; level < graph->levels; level++) {
        if (level == 1) {
            graph->nodes = at;
            at += (size_t)graph->counts[1] * GRAPH_LINK;
        }
        graph->lists[level] = at;
        at += graph->counts[level] * graph_list_bytes(graph->m, level);
    }
    graph->checksums = (const uint32_t *)(first + graph_filled((uint64_t)(at - first)));
}

static inline size_t graph_body(const graph_t *graph, const void *file)
{
    return (size_t)((const char *)graph->checksums - (const char *)file) - sizeof(graph_header_t);
}

static inline size_t graph_blocks(size_t body) { return (body + GRAPH_BLOCK - 1) / GRAPH_BLOCK; }

/* Bytes of a graph with these counts, in which sums cannot overflow. */
static inline uint64_t graph_bytes(const uint32_t *counts, uint32_t levels, uint32_t m)
{
    uint64_t body = levels > 1 ? (uint64_t)counts[1] * GRAPH_LINK : 0;

    for (uint32_t level = 0; level < levels; level++)
        body += (uint64_t)counts[level] * graph_list_bytes(m, level);
    body = graph_filled(body);
    return sizeof(graph_header_t) + body + graph_blocks(body) * sizeof(uint32_t);
}

static inline uint32_t graph_checksum(const char *body, size_t size, size_t block)
{
    const size_t from = block * GRAPH_BLOCK, left = size - from;

    return crc32c(body + from, left < GRAPH_BLOCK ? left : GRAPH_BLOCK);
}

static inline uint32_t graph_header_checksum(graph_header_t header)
{
    header.crc = 0;
    return crc32c(&header, sizeof header);
}

/* ---- whether it is one ------------------------------------------------------------------------------------------- */

static inline const char *graph_check_counts(const graph_header_t *header)
{
    if (header->m < 2 || header->m > GRAPH_MOST_M)
        return "its lists have an impossible length";
    if (header->kind >= KERNELS_KINDS || header->metric >= GRAPH_METRICS || header->dimension == 0)
        return "it is of rows of an unknown type";
    if (header->levels > GRAPH_LEVELS)
        return "it has too many levels";
    if (header->counts[0] > GRAPH_MOST_NODES)
        return "it has more nodes than links can name";
    if (header->linked > header->counts[0])
        return "it has more linked nodes than nodes";
    if (header->twins > 0 && header->twins >= header->linked)
        return "it has more twins than linked nodes";
    for (uint32_t level = 0; level < GRAPH_LEVELS; level++) {
        if ((header->counts[level] != 0) != (level < header->levels))
            return "its levels do not fit the number of them";
        if (level > 0 && header->counts[level] > header->counts[level - 1])
            return "a level has more nodes than the one below it";
    }
    if (header->levels > 0 ? header->entry >= header->counts[header->levels - 1] : header->entry != 0)
        return "its first node is none of the highest level";
    return NULL;
}

/* Of the levels above: nodes that there are, in their order among those that are up to the same level. */
static inline const char *graph_check_nodes(const graph_t *graph)
{
    uint32_t place = 0;

    for (uint32_t level = graph->levels; level-- > 1;)
        for (const uint32_t first = place; place < graph->counts[level]; place++) {
            if (graph_link(graph->nodes, place) >= graph->counts[0])
                return "it names a node that is not there";
            if (place > first && graph_link(graph->nodes, place) <= graph_link(graph->nodes, place - 1))
                return "its nodes are not in order";
        }
    return NULL;
}

/* `filled`: how many lists have a neighbour. */
static inline const char *graph_check_lists(const graph_t *graph, uint32_t level, uint32_t *filled)
{
    const uint32_t count = graph->counts[level], limit = graph_limit(graph->m, level);

    *filled = 0;
    for (uint32_t own = 0; own < count; own++) {
        const uint8_t *list = graph_list(graph, level, own);
        uint32_t used = 0;
        for (; used < limit && graph_link(list, used) != own; used++)
            if (graph_link(list, used) >= count)
                return "a list has a neighbour that is not there";
        for (uint32_t i = used; i < limit; i++)
            if (graph_link(list, i) != own)
                return "a list goes on behind its end";
        *filled += used > 0;
    }
    return NULL;
}

/* The node where a search begins, if any is linked. */
static inline uint32_t graph_first(const graph_t *graph)
{
    return graph->levels > 1 ? graph_link(graph->nodes, graph->entry) : graph->entry;
}

/* A node is linked if it has neighbours, or is the only one. */
static inline const char *graph_check_linked(const graph_t *graph, uint32_t filled)
{
    if (graph->linked != filled && !(filled == 0 && graph->linked == 1))
        return "it has another number of linked nodes than it says";
    if (filled > 0 && graph_link(graph_list(graph, 0, graph_first(graph)), 0) == graph_first(graph))
        return "its first node was left out";
    return NULL;
}

/* What is wrong with the file, or NULL and the graph: then a search stays inside. The file has to stay as it is. */
static inline const char *graph_check(const void *file, size_t size, graph_t *graph)
{
    graph_header_t header;
    const char *wrong;
    uint32_t filled = 0;
    size_t body;

    if (size < sizeof header)
        return "it is shorter than a header";
    if ((uintptr_t)file % sizeof(uint32_t) != 0)
        return "it stands at an odd address";
    memcpy(&header, file, sizeof header);
    if (memcmp(header.magic, GRAPH_MAGIC, sizeof header.magic) != 0)
        return "it is no graph";
    if (header.format != GRAPH_FORMAT)
        return "it has a format of another version";
    if (header.crc != graph_header_checksum(header))
        return "its header is damaged";
    wrong = graph_check_counts(&header);
    if (wrong != NULL)
        return wrong;
    if (header.bytes != size || graph_bytes(header.counts, header.levels, header.m) != size)
        return "it has another size than its header says";
    memset(graph, 0, sizeof *graph);
    graph->m = header.m;
    graph->levels = header.levels;
    graph->entry = header.entry;
    graph->kind = header.kind;
    graph->metric = header.metric;
    graph->dimension = header.dimension;
    graph->ef_construction = header.ef_construction;
    graph->linked = header.linked;
    graph->twins = header.twins;
    graph->bytes = size;
    memcpy(graph->counts, header.counts, sizeof graph->counts);
    graph_lay_out(graph, file);
    body = graph_body(graph, file);
    for (size_t block = 0; block < graph_blocks(body); block++)
        if (graph->checksums[block] != graph_checksum((const char *)file + sizeof header, body, block))
            return "a block of it is damaged";
    wrong = graph_check_nodes(graph);
    for (uint32_t level = graph->levels; level-- > 0 && wrong == NULL;)
        wrong = graph_check_lists(graph, level, &filled);
    return wrong == NULL ? graph_check_linked(graph, filled) : wrong;
}

/* ---- the search -------------------------------------------------------------------------------------------------- */

typedef struct {
    const graph_t *graph;
    const scan_rows_t *rows;
    kernels_products_t *four;
    const void *query;
    float query_step;
    size_t dimension;
    size_t bytes; /* of a row that are looked at */
} graph_query_t;

/* A row is where no processor guesses, so all of it is to be on its way before it is needed. */
static inline void graph_ask(const graph_query_t *query, uint32_t node)
{
    const char *row = graph_row(query->rows, node);

    for (size_t at = 0; at < query->bytes; at += 64)
        __builtin_prefetch(row + at);
    if (query->rows->steps != NULL)
        __builtin_prefetch(&query->rows->steps[node]);
    if (query->rows->squares != NULL)
        __builtin_prefetch(&query->rows->squares[node]);
}

static inline void graph_ask_list(const graph_t *graph, uint32_t node)
{
    const uint8_t *list = graph_list(graph, 0, node);
    const size_t bytes = graph_list_bytes(graph->m, 0);

    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch(list + at);
    __builtin_prefetch(list + bytes); /* lists begin anywhere in a line */
}

/* Values of up to KERNELS_ROWS nodes. */
static inline void graph_values(const graph_query_t *query, const uint32_t *nodes, size_t count, float *values)
{
    const void *rows[KERNELS_ROWS];
    float products[KERNELS_ROWS];

    for (size_t i = 0; i < KERNELS_ROWS; i++)
        rows[i] = graph_row(query->rows, nodes[i < count ? i : 0]);
    query->four(rows, query->query, query->dimension, products);
    for (size_t i = 0; i < count; i++)
        values[i] = scan_value(query->rows, nodes[i], products[i], query->query_step);
}

/* From the entry down to level 1, at each to where no neighbour is better; returns the node. */
static inline uint32_t graph_descend(const graph_query_t *query)
{
    const graph_t *graph = query->graph;
    uint32_t place = graph->entry, nodes[GRAPH_MOST_M];
    float best, values[KERNELS_ROWS];

    if (graph->levels < 2)
        return place;
    nodes[0] = graph_link(graph->nodes, place);
    graph_values(query, nodes, 1, &best);
    for (uint32_t level = graph->levels - 1; level > 0;) {
        const uint32_t own = place;
        const uint8_t *list = graph_list(graph, level, own);
        uint32_t count = 0;
        for (; count < graph->m && graph_link(list, count) != own; count++) {
            nodes[count] = graph_link(graph->nodes, graph_link(list, count));
            graph_ask(query, nodes[count]);
        }
        for (uint32_t i = 0; i < count; i += KERNELS_ROWS) {
            const uint32_t some = count - i < KERNELS_ROWS ? count - i : KERNELS_ROWS;
            graph_values(query, nodes + i, some, values);
            for (uint32_t j = 0; j < some; j++)
                if (values[j] > best) {
                    best = values[j];
                    place = graph_link(list, i + j);
                }
        }
        level -= place == own;
    }
    return graph_link(graph->nodes, place);
}

/* Bytes that a search needs besides the results: a bit for each node, and nodes that wait. */
static inline size_t graph_scratch(const graph_t *graph)
{
    return ((size_t)graph->counts[0] + 63) / 64 * 8 + graph->counts[0] * sizeof(scanned_t);
}

typedef struct {
    uint64_t *seen;
    scanned_t *waiting; /* a heap with the best on top: of negative values the worst */
    size_t waiting_count;
    scanned_t *found;   /* a heap with the worst on top */
    size_t found_count;
    size_t ef;
    float worst; /* of what was found, once these are ef */
} graph_walk_t;

static inline void graph_consider(graph_walk_t *walk, const graph_query_t *query, uint32_t node, float value)
{
    const graph_t *graph = query->graph;

    if (walk->found_count == walk->ef && !(value > walk->worst))
        return;
    walk->waiting_count =
        scanned_add(walk->waiting, walk->waiting_count, graph->counts[0], (scanned_t){-value, node});
    if (walk->waiting[0].row == node) /* it is next, as it seems */
        graph_ask_list(graph, node);
    if (scan_allows(query->rows, node)) {
        walk->found_count = scanned_add(walk->found, walk->found_count, walk->ef, (scanned_t){value, node});
        walk->worst = walk->found[0].value;
    }
}

/* Neighbours of a node that were not seen before, from one of its links on, behind `count` others; returns how many
 * there are then. */
static inline size_t graph_fresh(const graph_walk_t *walk, const graph_query_t *query, uint32_t own, uint32_t from,
                                 uint32_t *fresh, size_t count)
{
    const uint32_t limit = 2 * query->graph->m;
    const uint8_t *list = graph_list(query->graph, 0, own);

    for (uint32_t i = from, node; i < limit && (node = graph_link(list, i)) != own; i++) {
        uint64_t *word = &walk->seen[node / 64];
        const uint64_t bit = 1ull << node % 64;
        fresh[count] = node;
        if (!(*word & bit)) {
            if (count < GRAPH_AHEAD)
                graph_ask(query, node);
            count++;
        }
        *word |= bit;
    }
    return count;
}

/* The next one of the rows that are equal to this, or the row itself. */
static inline uint32_t graph_twin(const graph_query_t *query, uint32_t own)
{
    const uint32_t next = query->graph->twins == 0 ? own : graph_link(graph_list(query->graph, 0, own), 0);

    return next != own && graph_same(query->rows, query->bytes, own, next) ? next : own;
}

/* Whether the node was not seen before. */
static inline int graph_see(const graph_walk_t *walk, uint32_t node)
{
    const uint64_t bit = 1ull << node % 64;
    const int is_new = !(walk->seen[node / 64] & bit);

    walk->seen[node / 64] |= bit;
    return is_new;
}

/* Adds twins behind a node, from `twin` on, as far as they are among the best; or one. They have its value: a chain is
 * followed without a look at rows. */
static inline void graph_add_twins(graph_walk_t *walk, const graph_query_t *query, float value, uint32_t twin, int all)
{
    for (; graph_see(walk, twin); twin = graph_link(graph_list(query->graph, 0, twin), 0)) {
        const scanned_t each = {value, twin};
        if (!scan_allows(query->rows, twin))
            continue;
        if (walk->found_count == walk->ef && scanned_is_worse(each, walk->found[0]))
            return;
        walk->found_count = scanned_add(walk->found, walk->found_count, walk->ef, each);
        walk->worst = walk->found[0].value;
        if (!all)
            return;
    }
}

/* At the end, the other twins of what was found: while rows were looked for, many equal ones would have taken the room
 * of all others, and ended the search. */
static inline void graph_add_all_twins(graph_walk_t *walk, const graph_query_t *query)
{
    const size_t count = walk->found_count;
    scanned_t *const each = walk->waiting;

    memcpy(each, walk->found, count * sizeof *each);
    scanned_sort(each, count);
    for (size_t i = 0; i < count && !(walk->found_count == walk->ef && each[i].value < walk->found[0].value); i++)
        graph_add_twins(walk, query, each[i].value, graph_twin(query, each[i].row), 1);
}

/* What the node leads to that was not seen before. Of equal rows one is looked at, with the links of all; if that is
 * not allowed, the first one that is stands for it. */
static inline size_t graph_expand(graph_walk_t *walk, const graph_query_t *query, scanned_t own, uint32_t *fresh)
{
    const uint32_t twin = graph_twin(query, own.row);
    size_t count;

    if (twin == own.row)
        return graph_fresh(walk, query, own.row, 0, fresh, 0);
    count = graph_fresh(walk, query, own.row, 1, fresh, 0);
    count = graph_fresh(walk, query, twin, 1, fresh, count);
    if (!scan_allows(query->rows, own.row))
        graph_add_twins(walk, query, -own.value, twin, 0);
    return count;
}

/* The best ef >= 1 rows that are allowed, as far as the graph leads to them, the best first; returns how many. `rows`
 * are those that the graph was made of (`allowed` has a bit for each of them; others are walked through), `found` has
 * room for ef or all of them, `scratch` for graph_scratch bytes, aligned as uint64_t. What is looked at, and in which
 * order, is as of hnswlib's searchKnn, but for which of equal values, and for twins. */
static inline size_t graph_search(const graph_t *graph, const scan_rows_t *rows, const kernels_t *kernels,
                                  const void *query_vector, float query_step, size_t dimension, size_t ef,
                                  void *scratch, scanned_t *found)
{
    const graph_query_t query = {.graph = graph,
                                 .rows = rows,
                                 .four = kernels->products[rows->kind],
                                 .query = query_vector,
                                 .query_step = query_step,
                                 .dimension = dimension,
                                 .bytes = graph_row_bytes(rows->kind, dimension)};
    const size_t words = ((size_t)graph->counts[0] + 63) / 64;
    graph_walk_t walk = {
        .seen = scratch, .waiting = (scanned_t *)((uint64_t *)scratch + words), .found = found, .ef = ef};
    uint32_t fresh[4 * GRAPH_MOST_M + 1], first; /* of two lists */
    float values[KERNELS_ROWS];

    if (graph->linked == 0)
        return 0;
    memset(walk.seen, 0, words * sizeof(uint64_t));
    first = graph_descend(&query);
    walk.seen[first / 64] |= 1ull << first % 64;
    graph_values(&query, &first, 1, values);
    graph_consider(&walk, &query, first, values[0]);
    while (walk.waiting_count > 0) {
        const scanned_t next = walk.waiting[0];
        size_t count;
        if (walk.found_count == ef && -next.value < walk.worst)
            break;
        walk.waiting_count--;
        scanned_sift_down(walk.waiting, walk.waiting_count, walk.waiting[walk.waiting_count]);
        if (walk.waiting_count > 0)
            graph_ask_list(graph, walk.waiting[0].row);
        count = graph_expand(&walk, &query, next, fresh);
        for (size_t i = 0; i < count; i += KERNELS_ROWS) {
            const size_t some = count - i < KERNELS_ROWS ? count - i : KERNELS_ROWS;
            for (size_t j = i + GRAPH_AHEAD; j < i + GRAPH_AHEAD + KERNELS_ROWS && j < count; j++)
                graph_ask(&query, fresh[j]);
            graph_values(&query, fresh + i, some, values);
            for (size_t j = 0; j < some; j++)
                graph_consider(&walk, &query, fresh[i + j], values[j]);
        }
    }
    if (graph->twins > 0)
        graph_add_all_twins(&walk, &query);
    scanned_sort(found, walk.found_count);
    for (size_t i = 0; i < walk.found_count; i++)
        found[i].row += rows->base;
    return walk.found_count;
}

/* Marks the nodes that can be reached from the entry by lists of level 0, with memory as of graph_scratch; returns how
 * many these are. */
static inline size_t graph_reach(const graph_t *graph, void *scratch)
{
    uint64_t *seen = scratch;
    const size_t words = ((size_t)graph->counts[0] + 63) / 64, limit = 2 * graph->m;
    uint32_t *queue = (uint32_t *)(seen + words);
    size_t done = 0, count = 0;

    if (graph->linked == 0)
        return 0;
    memset(seen, 0, words * sizeof *seen);
    queue[count++] = graph_first(graph);
    seen[queue[0] / 64] |= 1ull << queue[0] % 64;
    for (; done < count; done++) {
        const uint32_t own = queue[done];
        const uint8_t *list = graph_list(graph, 0, own);
        for (uint32_t i = 0, node; i < limit && (node = graph_link(list, i)) != own; i++)
            if (!(seen[node / 64] >> node % 64 & 1)) {
                seen[node / 64] |= 1ull << node % 64;
                queue[count++] = node;
            }
    }
    return count;
}

#endif
