/* A graph of rows of ours: the distance by which hnswlib makes it (hnsw_build.h), and the file of it (graph.h).
 *
 * A leaf: plain C, no Python. Rows are read where they stand, and nobody may change them meanwhile.
 */
#ifndef NTMEM_GRAPH_BUILD_H
#define NTMEM_GRAPH_BUILD_H

#include <stdlib.h>

#include "graph.h"
#include "hnsw_build.h"

typedef struct {
    hnsw_places_t places; /* first: see hnsw_distance_t */
    const graph_job_t *job;
    const void *query; /* of a search by hnswlib */
    float query_step;
} graph_space_t;

/* ---- distances --------------------------------------------------------------------------------------------------- */

static inline size_t space_row(const graph_space_t *space, const void *element)
{
    return (size_t)((const char *)element - space->places.elements) / space->places.element_size;
}

static inline float space_product(const graph_job_t *job, size_t a, size_t b)
{
    const void *one = graph_row(&job->rows, a), *other = graph_row(&job->rows, b);

    switch (job->rows.kind) {
    case KERNELS_I8:
        return (float)job->kernels->dot_i8(one, other, job->dimension);
    case KERNELS_F16:
        return job->kernels->dot_f16(one, other, job->dimension);
    default:
        return job->kernels->dot_f32(one, other, job->dimension);
    }
}

/* Of two rows: the negative product, or the squared distance. Rows that are no numbers are far from all. */
static float space_distance(const void *one, const void *other, const void *context)
{
    const graph_space_t *space = context;
    const scan_rows_t *rows = &space->job->rows;
    const size_t a = space_row(space, one), b = space_row(space, other);
    float product = space_product(space->job, a, b), apart;

    if (rows->steps != NULL)
        product *= rows->steps[a] * rows->steps[b];
    apart = rows->squares == NULL ? -product : rows->squares[a] + rows->squares[b] - 2.0f * product;
    return apart == apart ? apart : INFINITY;
}

/* Of a row to the query: the negative of what a search of ours ranks by. */
static float space_query_distance(const void *query, const void *element, const void *context)
{
    const graph_space_t *space = context;
    const scan_rows_t *rows = &space->job->rows;
    const size_t row = space_row(space, element);
    const void *four[KERNELS_ROWS];
    float products[KERNELS_ROWS];

    for (size_t i = 0; i < KERNELS_ROWS; i++)
        four[i] = graph_row(rows, row);
    space->job->kernels->products[rows->kind](four, query, space->job->dimension, products);
    return -scan_value(rows, row, products[0], space->query_step);
}

/* ---- rows that are equal ----------------------------------------------------------------------------------------- */

/* hnswlib's choice of neighbours links equal rows to each other only. So it gets the first of them, and the others,
 * its twins, are put behind it at the end. */
typedef struct {
    const graph_job_t *job;
    uint32_t *firsts;   /* of each row the first one that it is equal to; NULL: no two are */
    uint64_t *distinct; /* a bit for each row, 1 of those to insert */
    uint32_t *table;    /* 1 more than a row's number, where its checksum says or behind it; 0: nothing */
    size_t mask;
    uint32_t count;
    uint32_t in_base; /* of these, rows of the base */
} graph_twins_t;

static inline void graph_twins_free(graph_twins_t *twins)
{
    free(twins->firsts);
    free(twins->distinct);
    free(twins->table);
    memset(twins, 0, sizeof *twins);
}

/* Of a row that is or will be linked. A node of the base is if it has neighbours, or is the only one. */
static inline int graph_is_linked(const graph_job_t *job, uint32_t row)
{
    const graph_t *base = job->base;

    if (base != NULL && row < base->counts[0])
        return graph_link(graph_list(base, 0, row), 0) != row || (base->linked == 1 && graph_first(base) == row);
    return job->wanted == NULL || (job->wanted[row / 64] >> row % 64 & 1);
}

static inline void graph_find_twin(void *context, size_t row)
{
    graph_twins_t *twins = context;
    const scan_rows_t *rows = &twins->job->rows;
    const size_t bytes = graph_row_bytes(rows->kind, twins->job->dimension);
    size_t place;

    twins->firsts[row] = (uint32_t)row;
    if (!graph_is_linked(twins->job, (uint32_t)row))
        return;
    for (place = crc32c(graph_row(rows, row), bytes); twins->table[place & twins->mask] != 0; place++) {
        const uint32_t other = twins->table[place & twins->mask] - 1;
        if (graph_same(rows, bytes, row, other)) {
            twins->firsts[row] = other;
            twins->count++;
            twins->in_base += twins->job->base != NULL && row < twins->job->base->counts[0];
            return;
        }
    }
    twins->table[place & twins->mask] = (uint32_t)row + 1;
    twins->distinct[row / 64] |= 1ull << row % 64;
}

static inline int graph_find_twins(graph_twins_t *twins, const hnsw_task_t *task)
{
    const size_t count = twins->job->rows.count;
    int outcome = HNSW_NO_MEMORY;

    for (twins->mask = 1; twins->mask < count + count / 2; twins->mask = 2 * twins->mask + 1)
        ;
    twins->firsts = malloc(count * sizeof *twins->firsts);
    twins->distinct = calloc((count + 63) / 64, sizeof *twins->distinct);
    twins->table = calloc(twins->mask + 1, sizeof *twins->table);
    if (twins->firsts != NULL && twins->distinct != NULL && twins->table != NULL)
        outcome = hnsw_each_row(task, graph_find_twin, twins);
    free(twins->table);
    twins->table = NULL;
    if (outcome != HNSW_DONE || twins->count == 0)
        graph_twins_free(twins);
    return outcome;
}

static inline uint32_t graph_first_equal(const graph_twins_t *twins, uint32_t row)
{
    return twins->firsts == NULL ? row : twins->firsts[row];
}

/* The way to the first twin comes before all other links. The one that has no room then goes on behind the twin. */
static inline void graph_begin_chain(hnsw_built_t *built, uint32_t limit, uint32_t row, uint32_t twin)
{
    uint32_t links[2 * GRAPH_MOST_M + 1] = {twin}, behind[2], count;
    const uint32_t *list = hnsw_list(built, row, 0, &count);

    memcpy(links + 1, list, count * sizeof *links);
    if (count == limit) {
        behind[0] = *hnsw_list(built, twin, 0, &count);
        behind[1] = links[limit];
        hnsw_set_list(built, twin, 0, behind, 2);
        count = limit - 1;
    }
    hnsw_set_list(built, row, 0, links, count + 1);
}

/* From the last row on: of the first of equal rows `firsts` has then the twin behind it. */
static inline void graph_chain_twins(graph_twins_t *twins, hnsw_built_t *built)
{
    uint32_t *firsts = twins->firsts;

    for (uint32_t row = (uint32_t)twins->job->rows.count; row-- > 0;)
        if (firsts[row] < row) {
            const uint32_t first = firsts[row];
            hnsw_set_list(built, row, 0, &firsts[first], 1);
            firsts[first] = row;
        } else if (firsts[row] > row)
            graph_begin_chain(built, graph_limit((uint32_t)twins->job->m, 0), row, firsts[row]);
}

/* ---- from a file to hnswlib -------------------------------------------------------------------------------------- */

/* Each node has the highest of its levels. Of a damaged graph one may be at several places, or a twin. */
static inline int graph_take_levels(const graph_t *base, const graph_twins_t *twins, hnsw_built_t *built)
{
    int outcome = HNSW_DONE;

    for (uint32_t level = base->levels, place = 0; level-- > 1;)
        for (; place < base->counts[level] && outcome == HNSW_DONE; place++)
            outcome = hnsw_set_level(built, graph_first_equal(twins, graph_link(base->nodes, place)), level);
    return outcome;
}

/* What links lead to is at that level, if not to the node itself, which only damage does and the chain of twins. What
 * stands behind a twin is of the list before it, at its end. */
static inline void graph_take_list(const graph_t *base, const graph_twins_t *twins, uint32_t level, uint32_t own,
                                   hnsw_built_t *built)
{
    const uint8_t *list = graph_list(base, level, own);
    const uint32_t limit = graph_limit(base->m, level);
    const uint32_t node = graph_first_equal(twins, level == 0 ? own : graph_link(base->nodes, own));
    uint32_t links[2 * GRAPH_MOST_M], count;
    const uint32_t *before = hnsw_list(built, node, level, &count);

    memcpy(links, before, count * sizeof *links);
    for (uint32_t i = 0, link; i < limit && count < limit && (link = graph_link(list, i)) != own; i++) {
        links[count] = graph_first_equal(twins, level == 0 ? link : graph_link(base->nodes, link));
        count += links[count] != node;
    }
    hnsw_set_list(built, node, level, links, count);
}

static inline int graph_take_over(const graph_t *base, const graph_twins_t *twins, hnsw_built_t *built)
{
    const int outcome = graph_take_levels(base, twins, built);

    if (outcome != HNSW_DONE || base->linked == 0)
        return outcome;
    for (uint32_t level = 0; level < base->levels; level++)
        for (uint32_t own = 0; own < base->counts[level]; own++)
            graph_take_list(base, twins, level, own, built);
    hnsw_set_entry(built, graph_first_equal(twins, graph_first(base)));
    return HNSW_DONE;
}

/* ---- from hnswlib to a file -------------------------------------------------------------------------------------- */

/* Rows that hnswlib has linked, and where they are to be. */
typedef struct {
    hnsw_built_t *built; /* NULL: no rows */
    graph_header_t header;
    uint32_t *nodes;  /* at each place above level 0 */
    uint32_t *places; /* of each node, if it has one */
    int background;
} graph_made_t;

static inline void graph_made_free(graph_made_t *made)
{
    if (made->built != NULL)
        hnsw_free(made->built);
    free(made->nodes);
    free(made->places);
    memset(made, 0, sizeof *made);
}

/* How many nodes each level has, and how many are linked. */
static inline void graph_count_nodes(graph_made_t *made)
{
    uint32_t *counts = made->header.counts, highest = 0;
    const uint32_t count = counts[0];

    memset(counts, 0, sizeof made->header.counts);
    for (uint32_t node = 0; node < count; node++) {
        const uint32_t level = hnsw_level(made->built, node);
        highest = level > highest ? level : highest;
        counts[level]++;
        made->header.linked += (uint32_t)hnsw_is_linked(made->built, node);
    }
    for (uint32_t level = highest; level-- > 0;)
        counts[level] += counts[level + 1];
    made->header.levels = highest + 1;
}

/* Places in the order of the file: by level, the highest first, then by number. */
static inline int graph_place_nodes(graph_made_t *made)
{
    const uint32_t *counts = made->header.counts, highest = made->header.levels - 1;
    uint32_t next[GRAPH_LEVELS];

    for (uint32_t level = 0; level <= highest; level++)
        next[level] = level < highest ? counts[level + 1] : 0;
    made->nodes = malloc(((size_t)counts[1] + 1) * sizeof *made->nodes);
    made->places = malloc(((size_t)counts[0] + 1) * sizeof *made->places);
    if (made->nodes == NULL || made->places == NULL)
        return HNSW_NO_MEMORY;
    for (uint32_t node = 0; node < counts[0]; node++) {
        const uint32_t level = hnsw_level(made->built, node);
        if (level > 0) {
            made->nodes[next[level]] = node;
            made->places[node] = next[level]++;
        }
    }
    if (made->header.linked > 0)
        made->header.entry = hnsw_entry(made->built);
    if (highest > 0)
        made->header.entry = made->places[made->header.entry];
    return HNSW_DONE;
}

typedef struct {
    const graph_job_t *job;
    graph_space_t *space;
    graph_made_t *made;
    char *message;
    int outcome;
} graph_making_t;

static inline int graph_link_distinct(const graph_making_t *making, const graph_twins_t *twins,
                                      const hnsw_task_t *task)
{
    int outcome = hnsw_new(task, &making->made->built, making->message);

    if (outcome == HNSW_DONE && task->first > 0)
        outcome = graph_take_over(making->job->base, twins, making->made->built);
    if (outcome == HNSW_DONE)
        outcome = hnsw_link(task, making->made->built, making->message);
    return outcome;
}

static inline int graph_link_rows(const graph_making_t *making)
{
    const graph_job_t *job = making->job;
    graph_twins_t twins = {.job = job};
    hnsw_task_t task = {.distance = space_distance,
                              .places = &making->space->places,
                              .count = job->rows.count,
                              .first = job->base == NULL ? 0 : job->base->counts[0],
                              .m = job->m,
                              .ef_construction = job->ef_construction,
                              .seed = job->seed,
                              .most_levels = GRAPH_LEVELS,
                              .threads = job->threads,
                              .share = job->share,
                              .plain = job->plain,
                              .wanted = job->wanted,
                              .stop = job->stop};
    int outcome = job->plain ? HNSW_DONE : graph_find_twins(&twins, &task);

    if (twins.count > 0)
        task.wanted = twins.distinct;
    if (twins.in_base > 0 && twins.in_base > job->base->twins) /* made without a look at equal rows: it has islands */
        task.first = 0;
    if (outcome == HNSW_DONE)
        outcome = graph_link_distinct(making, &twins, &task);
    if (outcome == HNSW_DONE && twins.count > 0)
        graph_chain_twins(&twins, making->made->built);
    making->made->header.twins = twins.count;
    graph_twins_free(&twins);
    return outcome;
}

static inline void graph_make_whole(void *context)
{
    graph_making_t *making = context;
    const graph_job_t *job = making->job;
    graph_header_t *header = &making->made->header;

    memcpy(header->magic, GRAPH_MAGIC, sizeof header->magic);
    header->format = GRAPH_FORMAT;
    header->m = (uint32_t)job->m;
    header->kind = (uint32_t)job->rows.kind;
    header->metric = (uint32_t)job->metric;
    header->dimension = (uint32_t)job->dimension;
    header->ef_construction = (uint32_t)job->ef_construction;
    header->counts[0] = (uint32_t)job->rows.count;
    making->outcome = HNSW_DONE;
    if (job->rows.count > 0) {
        making->outcome = graph_link_rows(making);
        if (making->outcome == HNSW_DONE) {
            graph_count_nodes(making->made);
            making->outcome = graph_place_nodes(making->made);
        }
    }
    header->bytes = graph_bytes(header->counts, header->levels, header->m);
    header->crc = graph_header_checksum(*header);
}

/* Makes the graph of the rows; `message` as of hnsw_new. If it is HNSW_DONE, the file is of header.bytes. */
static inline int graph_make(const graph_job_t *job, graph_space_t *space, graph_made_t *made, char *message)
{
    graph_making_t making = {.job = job, .space = space, .made = made, .message = message};

    memset(made, 0, sizeof *made);
    made->background = job->background;
    space->job = job;
    if (job->background)
        hnsw_in_background(graph_make_whole, &making);
    else
        graph_make_whole(&making);
    if (making.outcome != HNSW_DONE)
        graph_made_free(made);
    return making.outcome;
}

static inline void graph_set_link(uint8_t *list, size_t number, uint32_t link)
{
    memcpy(list + GRAPH_LINK * number, &link, GRAPH_LINK);
}

static inline void graph_write_lists(const graph_made_t *made, const graph_t *graph, uint32_t level)
{
    const uint32_t limit = graph_limit(graph->m, level);

    for (uint32_t own = 0; own < graph->counts[level]; own++) {
        uint8_t *to = (uint8_t *)graph_list(graph, level, own);
        uint32_t count;
        const uint32_t *list = hnsw_list(made->built, level == 0 ? own : made->nodes[own], level, &count);
        for (uint32_t i = 0; i < limit; i++)
            graph_set_link(to, i, i >= count ? own : level == 0 ? list[i] : made->places[list[i]]);
    }
}

typedef struct {
    const graph_made_t *made;
    char *file;
} graph_writing_t;

static inline void graph_write_whole(void *context)
{
    const graph_writing_t *writing = context;
    const graph_header_t *header = &writing->made->header;
    graph_t graph = {.m = header->m, .levels = header->levels};
    uint32_t *checksums;
    size_t body;

    memcpy(graph.counts, header->counts, sizeof graph.counts);
    graph_lay_out(&graph, writing->file);
    body = graph_body(&graph, writing->file);
    memcpy(writing->file, header, sizeof *header);
    checksums = (uint32_t *)graph.checksums;
    if (body > 0)
        checksums[-1] = 0; /* of which lists leave some bytes */
    for (uint32_t place = 0; place < graph.counts[1]; place++)
        graph_set_link((uint8_t *)graph.nodes, place, writing->made->nodes[place]);
    for (uint32_t level = 0; level < graph.levels; level++)
        graph_write_lists(writing->made, &graph, level);
    for (size_t block = 0; block < graph_blocks(body); block++)
        checksums[block] = graph_checksum(writing->file + sizeof *header, body, block);
}

/* Fills `file`, of header.bytes and aligned as uint32_t. */
static inline void graph_write(const graph_made_t *made, void *file)
{
    graph_writing_t writing = {.made = made, .file = file};

    if (made->background)
        hnsw_in_background(graph_write_whole, &writing);
    else
        graph_write_whole(&writing);
}

/* About how many bytes of memory it takes at most to make a graph: while rows are linked, or while the file is written;
 * to find twins takes less. Of m nodes one is at the next level. */
static inline uint64_t graph_make_bytes(size_t count, size_t m)
{
    const uint32_t above = (uint32_t)(count / (m - 1));
    const uint32_t counts[GRAPH_LEVELS] = {(uint32_t)count, above};
    const uint64_t file = graph_bytes(counts, count > 0 ? 2 : 0, (uint32_t)m);
    const uint64_t linking = hnsw_bytes_linking(count, m) + count * sizeof(uint32_t) + count / 8;
    const uint64_t writing = hnsw_bytes_linked(count, m) + file + (count + above) * sizeof(uint32_t);

    return linking > writing ? linking : writing;
}

#endif
