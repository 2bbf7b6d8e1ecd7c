/* Squared Euclidean distance over float32 rows, and the k nearest of many rows.
 *
 * A leaf: plain C, no Python, no allocation, no lock. The caller owns every buffer.
 * Compile without -ffast-math: the NaN test below would be optimised away.
 */
#ifndef NTMEM_DISTANCE_H
#define NTMEM_DISTANCE_H

#include <stddef.h>

/* Independent sums hide the latency of the additions, and give the compiler whole vectors to
 * work on without permission to reorder one float sum. 16 floats are one AVX-512 register,
 * four SSE ones. */
#define DISTANCE_LANES 16

typedef struct {
    size_t row;
    float distance;
} neighbour_t;

static inline float distance_squared(const float *a, const float *b, size_t dimension)
{
    float sum[DISTANCE_LANES] = {0.0f};
    size_t i = 0;

    for (; i + DISTANCE_LANES <= dimension; i += DISTANCE_LANES) {
        for (size_t lane = 0; lane < DISTANCE_LANES; lane++) {
            const float difference = a[i + lane] - b[i + lane];
            sum[lane] += difference * difference;
        }
    }
    for (size_t lane = 0; i < dimension; i++, lane++) {
        const float difference = a[i] - b[i];
        sum[lane] += difference * difference;
    }
    for (size_t width = DISTANCE_LANES / 2; width > 0; width /= 2)
        for (size_t lane = 0; lane < width; lane++)
            sum[lane] += sum[lane + width];
    return sum[0];
}

/* The one order of results: nearer first, and of equals the lower row. */
static inline int neighbour_is_after(neighbour_t a, neighbour_t b)
{
    return a.distance > b.distance || (a.distance == b.distance && a.row > b.row);
}

static inline void neighbours_sift_up(neighbour_t *heap, size_t at)
{
    const neighbour_t moving = heap[at];

    while (at > 0) {
        const size_t parent = (at - 1) / 2;
        if (!neighbour_is_after(moving, heap[parent]))
            break;
        heap[at] = heap[parent];
        at = parent;
    }
    heap[at] = moving;
}

static inline void neighbours_sift_down(neighbour_t *heap, size_t count, neighbour_t moving)
{
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && neighbour_is_after(heap[child + 1], heap[child]))
            child++;
        if (!neighbour_is_after(heap[child], moving))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}

/* Turns a heap with the farthest on top into ascending order, in place. */
static inline void neighbours_sort(neighbour_t *heap, size_t count)
{
    while (count > 1) {
        const neighbour_t farthest = heap[0];
        count--;
        neighbours_sift_down(heap, count, heap[count]);
        heap[count] = farthest;
    }
}

/* Fills `found`, which has room for `k` >= 1, in ascending order; returns how many there are. */
static inline size_t neighbours_find(const float *vectors, size_t n, size_t dimension,
                                     const float *query, neighbour_t *found, size_t k)
{
    size_t count = 0;

    for (size_t row = 0; row < n; row++) {
        const neighbour_t candidate = {row, distance_squared(vectors + row * dimension, query, dimension)};

        if (candidate.distance != candidate.distance)
            continue; /* NaN has no place in an order */
        if (count < k) {
            found[count] = candidate;
            neighbours_sift_up(found, count++);
        } else if (candidate.distance < found[0].distance) {
            /* An equal distance never replaces: rows come in ascending order, so it is after. */
            neighbours_sift_down(found, count, candidate);
        }
    }
    neighbours_sort(found, count);
    return count;
}

#endif
