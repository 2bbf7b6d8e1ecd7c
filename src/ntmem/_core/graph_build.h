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
    const char *one = (const char *)job->rows.rows + a * job->rows.stride;
    const char *other = (const char *)job->rows.rows + b * job->rows.stride;

    switch (job->rows.kind) {
    case KERNELS_I8:
        return (float)job->kernels->dot_i8((const int8_t *)one, (const int8_t *)other, job->dimension);
    case KERNELS_F16:
        return job->kernels->dot_f16((const uint16_t *)one, (const uint16_t *)other, job->dimension);
    default:
        return job->kernels->dot_f32((const float *)one, (const float *)other, job->dimension);
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
        four[i] = (const char *)rows->rows + row * rows->stride;
    space->job->kernels->products[rows->kind](four, query, space->job->dimension, products);
    return -scan_value(rows, row, products[0], space->query_step);
}

/* ---- from hnswlib to a file -------------------------------------------------------------------------------------- */

/* Rows that hnswlib has linked, and where they are to be. */
typedef struct {
    hnsw_built_t *built; /* NULL: no rows */
    graph_header_t header;
    uint32_t *nodes;  /* at each place above level 0 */
    uint32_t *places; /* of each node, if it has one */
} graph_made_t;

static inline void graph_made_free(graph_made_t *made)
{
    if (made->built != NULL)
        hnsw_free(made->built);
    free(made->nodes);
    free(made->places);
    memset(made, 0, sizeof *made);
}

/* Places in the order of the file: by level, the highest first, then by number. */
static inline int graph_place_nodes(graph_made_t *made)
{
    uint32_t *counts = made->header.counts, next[GRAPH_LEVELS], highest = 0;
    const uint32_t count = counts[0];

    memset(counts, 0, sizeof made->header.counts);
    for (uint32_t node = 0; node < count; node++) {
        const uint32_t level = hnsw_level(made->built, node);
        highest = level > highest ? level : highest;
        counts[level]++;
    }
    for (uint32_t level = highest; level-- > 0;)
        counts[level] += counts[level + 1];
    for (uint32_t level = 0; level <= highest; level++)
        next[level] = level < highest ? counts[level + 1] : 0;
    made->header.levels = highest + 1;
    made->header.entry = hnsw_entry(made->built);
    made->nodes = malloc(((size_t)counts[1] + 1) * sizeof *made->nodes);
    made->places = malloc(((size_t)count + 1) * sizeof *made->places);
    if (made->nodes == NULL || made->places == NULL)
        return HNSW_NO_MEMORY;
    for (uint32_t node = 0; node < count; node++) {
        const uint32_t level = hnsw_level(made->built, node);
        if (level > 0) {
            made->nodes[next[level]] = node;
            made->places[node] = next[level]++;
        }
    }
    if (highest > 0)
        made->header.entry = made->places[made->header.entry];
    return HNSW_DONE;
}

/* Makes the graph of the rows; `message` as of hnsw_build. If it is HNSW_DONE, the file is of header.bytes. */
static inline int graph_make(const graph_job_t *job, graph_space_t *space, graph_made_t *made, char *message)
{
    const hnsw_task_t task = {.distance = space_distance,
                              .places = &space->places,
                              .count = job->rows.count,
                              .m = job->m,
                              .ef_construction = job->ef_construction,
                              .seed = job->seed,
                              .most_levels = GRAPH_LEVELS,
                              .threads = job->threads,
                              .plain = job->plain,
                              .stop = job->stop};
    int outcome = HNSW_DONE;

    memset(made, 0, sizeof *made);
    space->job = job;
    if (job->rows.count > 0)
        outcome = hnsw_build(&task, &made->built, message);
    memcpy(made->header.magic, GRAPH_MAGIC, sizeof made->header.magic);
    made->header.format = GRAPH_FORMAT;
    made->header.m = (uint32_t)job->m;
    made->header.kind = (uint32_t)job->rows.kind;
    made->header.metric = (uint32_t)job->metric;
    made->header.dimension = (uint32_t)job->dimension;
    made->header.ef_construction = (uint32_t)job->ef_construction;
    made->header.counts[0] = (uint32_t)job->rows.count;
    if (outcome == HNSW_DONE && job->rows.count > 0)
        outcome = graph_place_nodes(made);
    made->header.bytes = graph_bytes(made->header.counts, made->header.levels, made->header.m);
    made->header.crc = graph_header_checksum(made->header);
    if (outcome != HNSW_DONE)
        graph_made_free(made);
    return outcome;
}

/* Fills `file`, of header.bytes and aligned as uint32_t. */
static inline void graph_write(const graph_made_t *made, void *file)
{
    graph_t graph = {.m = made->header.m, .levels = made->header.levels};
    uint32_t *to;
    size_t body;

    memcpy(graph.counts, made->header.counts, sizeof graph.counts);
    graph_lay_out(&graph, file);
    body = graph_body(&graph, file);
    memcpy(file, &made->header, sizeof made->header);
    if (graph.levels > 1)
        memcpy((void *)graph.nodes, made->nodes, (size_t)graph.counts[1] * sizeof *made->nodes);
    for (uint32_t level = 0; level < graph.levels; level++) {
        const uint32_t limit = graph_limit(graph.m, level);
        to = (uint32_t *)graph.lists[level];
        for (uint32_t own = 0; own < graph.counts[level]; own++, to += limit) {
            uint32_t count;
            const uint32_t *list = hnsw_list(made->built, level == 0 ? own : made->nodes[own], level, &count);
            for (uint32_t i = 0; i < limit; i++)
                to[i] = i >= count ? own : level == 0 ? list[i] : made->places[list[i]];
        }
    }
    to = (uint32_t *)graph.checksums;
    for (size_t block = 0; block < graph_blocks(body); block++)
        to[block] = graph_checksum((const char *)file + sizeof made->header, body, block);
}

#endif
