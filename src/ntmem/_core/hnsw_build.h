/* hnswlib for C: it makes a graph of rows of which it knows only a distance. See hnsw_build.cpp. */
#ifndef NTMEM_HNSW_BUILD_H
#define NTMEM_HNSW_BUILD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* hnswlib knows rows by the addresses of its elements: row i is at `elements + i * element_size`. */
typedef struct {
    const char *elements;
    size_t element_size;
} hnsw_places_t;

/* Between two elements; not NaN. The third argument begins with hnsw_places_t. */
typedef float hnsw_distance_t(const void *a, const void *b, const void *places);

typedef struct {
    hnsw_distance_t *distance;
    hnsw_places_t *places; /* filled in by hnsw_new */
    size_t count;          /* 1 or more */
    size_t first;          /* rows before it are not inserted: they have the links that they were given */
    size_t m;
    size_t ef_construction;
    size_t seed;
    size_t most_levels;
    int threads;
    double share;             /* of the time that each thread works; up to 1 */
    int plain;                /* for tests: hnswlib's own addPoint, one thread, nothing mended */
    const uint64_t *wanted;   /* a bit for each row, 0 of those that are not inserted; NULL: all are */
    const volatile int *stop; /* raised by somebody else: give up; may be NULL */
} hnsw_task_t;

enum hnsw_outcome { HNSW_DONE, HNSW_STOPPED, HNSW_NO_MEMORY, HNSW_FAILED };

typedef struct hnsw_built hnsw_built_t;

/* Does something for each row, with the task's share of the time, until it is stopped. */
int hnsw_each_row(const hnsw_task_t *task, void (*work)(void *context, size_t row), void *context);

/* Rows without links, of levels 0. `message` has room for 200 characters, and is filled in for HNSW_FAILED. */
int hnsw_new(const hnsw_task_t *task, hnsw_built_t **built, char *message);

/* Links of the rows before `first`. A row has a level before it has a list there, and keeps the first one that it was
 * given; a row is linked to at levels that it has. At last the entry, if any is linked. Lists may be replaced once all
 * is linked. */
int hnsw_set_level(hnsw_built_t *built, uint32_t node, uint32_t level);
void hnsw_set_list(hnsw_built_t *built, uint32_t node, uint32_t level, const uint32_t *links, uint32_t count);
void hnsw_set_entry(hnsw_built_t *built, uint32_t node);

/* Inserts the other rows. */
int hnsw_link(const hnsw_task_t *task, hnsw_built_t *built, char *message);
void hnsw_free(hnsw_built_t *built);

/* Runs `work` in a thread of the lowest priority, which those have too that it starts, and waits for its end. */
void hnsw_in_background(void (*work)(void *), void *context);

/* About how many bytes there are while rows are inserted, and later, of two threads. */
size_t hnsw_bytes_linking(size_t count, size_t m);
size_t hnsw_bytes_linked(size_t count, size_t m);

uint32_t hnsw_entry(const hnsw_built_t *built); /* if any is linked */
uint32_t hnsw_level(const hnsw_built_t *built, uint32_t node);
int hnsw_is_linked(const hnsw_built_t *built, uint32_t node);
const uint32_t *hnsw_list(const hnsw_built_t *built, uint32_t node, uint32_t level, uint32_t *count);
size_t hnsw_mended(const hnsw_built_t *built); /* nodes that nothing led to, to which links were added */

/* For tests: hnswlib's own search, by a distance whose first argument is the query; the nearest first. */
size_t hnsw_search(hnsw_built_t *built, hnsw_distance_t *distance, const void *query, size_t k, size_t ef,
                   const uint64_t *allowed, uint32_t *nodes, float *distances);

#ifdef __cplusplus
}
#endif
#endif
