/* The best of many int8 vectors, exactly: each is looked at, and the k best stand in a heap with the worst on top.
 *
 * A leaf: plain C, no Python, no allocation, no lock. A vector is its bytes times its step. What is ranked is the product
 * with the query, or for distances 2ab - b^2, which orders as -|a - b|^2 does.
 */
#ifndef NTMEM_SCAN_H
#define NTMEM_SCAN_H

#include "kernels.h"

typedef struct {
    const int8_t *rows;
    size_t stride;      /* bytes from one row to the next */
    size_t count;
    const float *steps;
    const float *squares; /* |b|^2 of each row; NULL: rank by products */
    const uint64_t *allowed; /* a bit for each row; NULL: all */
} scan_rows_t;

typedef struct {
    float value; /* higher is better */
    uint32_t row;
} scanned_t;

/* The one order: higher values first, and of equal ones the lower row. */
static inline int scanned_is_worse(scanned_t a, scanned_t b)
{
    return a.value < b.value || (a.value == b.value && a.row > b.row);
}

static inline void scanned_sift_down(scanned_t *heap, size_t count, scanned_t moving)
{
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && scanned_is_worse(heap[child + 1], heap[child]))
            child++;
        if (!scanned_is_worse(heap[child], moving))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}

static inline size_t scanned_add(scanned_t *heap, size_t count, size_t k, scanned_t candidate)
{
    size_t at = count;

    if (count == k) {
        if (scanned_is_worse(heap[0], candidate))
            scanned_sift_down(heap, count, candidate);
        return count;
    }
    while (at > 0 && scanned_is_worse(candidate, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = candidate;
    return count + 1;
}

static inline void scanned_sort(scanned_t *heap, size_t count)
{
    while (count > 1) {
        const scanned_t worst = heap[0];
        count--;
        scanned_sift_down(heap, count, heap[count]);
        heap[count] = worst;
    }
}

#define SCAN_BATCH 64 /* rows: a word of bits */
#define SCAN_FEW 20   /* bits of a word that are worth looking at one by one */

static inline scanned_t scanned_of(const scan_rows_t *rows, size_t row, int32_t dot, float query_step)
{
    const float product = (float)dot * rows->steps[row] * query_step;

    return (scanned_t){rows->squares == NULL ? product : 2.0f * product - rows->squares[row], (uint32_t)row};
}

/* Fills `found`, which has room for k >= 1, the best first; returns how many there are. */
static inline size_t scan_best(const kernels_t *kernels, const scan_rows_t *rows, const int8_t *query, float query_step,
                               size_t dimension, scanned_t *found, size_t k)
{
    int32_t dots[SCAN_BATCH];
    size_t count = 0;

    for (size_t first = 0; first < rows->count; first += SCAN_BATCH) {
        const size_t left = rows->count - first, batch = left < SCAN_BATCH ? left : SCAN_BATCH;
        uint64_t bits = batch == 64 ? UINT64_MAX : (1ull << batch) - 1;

        if (rows->allowed != NULL)
            bits &= rows->allowed[first / SCAN_BATCH];
        if (__builtin_popcountll(bits) > SCAN_FEW) {
            kernels->dots_i8(rows->rows + first * rows->stride, rows->stride, batch, query, dimension, dots);
            for (; bits != 0; bits &= bits - 1) {
                const size_t row = (size_t)__builtin_ctzll(bits);
                const scanned_t it = scanned_of(rows, first + row, dots[row], query_step);
                if (count < k || !scanned_is_worse(it, found[0]))
                    count = scanned_add(found, count, k, it);
            }
            continue;
        }
        for (; bits != 0; bits &= bits - 1) {
            const size_t row = first + (size_t)__builtin_ctzll(bits);
            const int32_t dot = kernels->dot_i8(rows->rows + row * rows->stride, query, dimension);
            count = scanned_add(found, count, k, scanned_of(rows, row, dot, query_step));
        }
    }
    scanned_sort(found, count);
    return count;
}

#endif
