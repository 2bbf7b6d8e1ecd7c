/* The best of many vectors, exactly: each is looked at, and the k best stand in a heap with the worst on top.
 *
 * A leaf: plain C, no Python, no allocation, no lock. What is ranked is the product with the query, or for distances
 * 2ab - b^2, which orders as -|a - b|^2 does. The order is total, so it does not matter in which rows are looked at.
 *
 *     count = 0;
 *     for each range of rows:
 *         count = scan_best(kernels, &range, query, query_step, dimension, heap, k, count);
 *     scanned_sort(heap, count);
 */
#ifndef NTMEM_SCAN_H
#define NTMEM_SCAN_H

#include "kernels.h"

typedef struct {
    const void *rows;
    size_t stride;           /* bytes from one row to the next */
    size_t count;
    int kind;                /* KERNELS_I8, ... */
    uint32_t base;           /* the first row's number in the results; the last one's fits too */
    const float *steps;      /* by which rows are to be multiplied, those of int8; NULL: 1 */
    const float *squares;    /* |b|^2 of each row; NULL: rank by products */
    const uint64_t *allowed; /* a bit for each row of these, from 0; NULL: all */
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

/* A heap becomes a list, the best first. */
static inline void scanned_sort(scanned_t *heap, size_t count)
{
    while (count > 1) {
        const scanned_t worst = heap[0];
        count--;
        scanned_sift_down(heap, count, heap[count]);
        heap[count] = worst;
    }
}

/* ---- which rows are next ---------------------------------------------------------------------------------------- */

#define SCAN_PLACES 4 /* where rows are read in turn: a core fetches more from memory from several places than from one */
#define SCAN_BATCH 64 /* rows, a word of a bitmap */
#define SCAN_AHEAD 16 /* rows: how far ahead of its product a row of a bitmap is asked for */
#define SCAN_FEW 20   /* bits of a word; of more, all 64 rows are multiplied: sooner than what leaving some out costs */

typedef struct {
    size_t next; /* row of the first place, or word of the bitmap */
    size_t count;
    uint32_t rows[2 * SCAN_BATCH];
    const void *vectors[2 * SCAN_BATCH];
} scan_batch_t;

static inline uint64_t scan_word(const scan_rows_t *rows, size_t word)
{
    const size_t left = rows->count - 64 * word;

    return left < 64 ? rows->allowed[word] & ((1ull << left) - 1) : rows->allowed[word];
}

/* Whether to look at all rows and not only at those of the bitmap, of which each costs as much as three. */
static inline int scan_wants_all(const scan_rows_t *rows)
{
    size_t cost = 0;

    if (rows->allowed == NULL)
        return 1;
    for (size_t word = 0; 64 * word < rows->count; word++) {
        const size_t bits = (size_t)__builtin_popcountll(scan_word(rows, word));
        cost += bits > SCAN_FEW ? 64 : 3 * bits;
    }
    return cost > rows->count - rows->count / 4;
}

static inline void batch_add(scan_batch_t *batch, const scan_rows_t *rows, size_t row)
{
    batch->rows[batch->count] = (uint32_t)row;
    batch->vectors[batch->count++] = (const char *)rows->rows + row * rows->stride;
}

/* Rows of each place in turn, at last those that are too many for equal places; returns whether there are more. */
static inline int batch_fill(scan_batch_t *batch, const scan_rows_t *rows)
{
    const size_t share = rows->count / SCAN_PLACES;

    for (; batch->next < share && batch->count < SCAN_BATCH; batch->next++)
        for (size_t place = 0; place < SCAN_PLACES; place++)
            batch_add(batch, rows, place * share + batch->next);
    if (batch->next < share)
        return 1;
    for (size_t row = SCAN_PLACES * share; row < rows->count; row++)
        batch_add(batch, rows, row);
    return 0;
}

/* Rows of the bitmap, and others beside many. */
static inline int batch_fill_allowed(scan_batch_t *batch, const scan_rows_t *rows)
{
    const size_t words = (rows->count + 63) / 64;

    for (; batch->next < words && batch->count < SCAN_BATCH; batch->next++) {
        const size_t first = 64 * batch->next;
        uint64_t bits = scan_word(rows, batch->next);
        size_t count = (size_t)__builtin_popcountll(bits), end = batch->count + count;
        if (count > SCAN_FEW) {
            for (size_t row = first; row < first + 64 && row < rows->count; row++)
                batch_add(batch, rows, row);
            continue;
        }
        while (batch->count < end) /* by fours, most often once: how many there are is not to be guessed */
            for (size_t i = 0; i < 4; i++, bits &= bits - 1)
                batch_add(batch, rows, first + (size_t)__builtin_ctzll(bits | 1ull << 63));
        batch->count = end;
    }
    return batch->next < words;
}

/* A row of a bitmap is where no processor guesses, so all of it is to be on its way before it is needed. */
static inline void batch_ask(const scan_batch_t *batch, const scan_rows_t *rows, size_t first, size_t bytes)
{
    for (size_t i = first; i < first + KERNELS_ROWS && i < batch->count; i++) {
        for (size_t at = 0; at < bytes; at += 64)
            __builtin_prefetch((const char *)batch->vectors[i] + at);
        if (rows->steps != NULL)
            __builtin_prefetch(&rows->steps[batch->rows[i]]);
        if (rows->squares != NULL)
            __builtin_prefetch(&rows->squares[batch->rows[i]]);
    }
}

/* Forgets the first ones. */
static inline void batch_drop(scan_batch_t *batch, size_t count)
{
    batch->count -= count;
    memmove(batch->rows, batch->rows + count, batch->count * sizeof batch->rows[0]);
    memmove(batch->vectors, batch->vectors + count, batch->count * sizeof batch->vectors[0]);
}

/* ---- the scan ---------------------------------------------------------------------------------------------------- */

/* NaN, of rows that are no numbers, would stand above and below all others: it is the worst of values. */
static inline float scan_value(const scan_rows_t *rows, size_t row, float product, float query_step)
{
    float value = rows->steps == NULL ? product * query_step : product * rows->steps[row] * query_step;

    if (rows->squares != NULL)
        value = 2.0f * value - rows->squares[row];
    return value == value ? value : -INFINITY;
}

static inline int scan_allows(const scan_rows_t *rows, size_t row)
{
    return rows->allowed == NULL || (rows->allowed[row / 64] >> row % 64 & 1);
}

/* Looks at the rows and keeps the best k >= 1 in `heap`, which has room for k and holds `count` from earlier calls; returns
 * how many it holds then. The query is int8 for rows of int8, else float32; `query_step` is 1 for those. */
static inline size_t scan_best(const kernels_t *kernels, const scan_rows_t *rows, const void *query, float query_step,
                               size_t dimension, scanned_t *heap, size_t k, size_t count)
{
    static const size_t sizes[KERNELS_KINDS] = {1, 2, 4};
    const size_t bytes = dimension * sizes[rows->kind];
    const int all = scan_wants_all(rows);
    kernels_products_t *const four = kernels->products[rows->kind];
    float products[2 * SCAN_BATCH], worst = count == k ? heap[0].value : -INFINITY;
    scan_batch_t batch;
    int more = 1;

    batch.next = batch.count = 0;
    while (more) {
        size_t ready;
        more = all ? batch_fill(&batch, rows) : batch_fill_allowed(&batch, rows);
        ready = all || !more ? batch.count : (batch.count - SCAN_AHEAD) / KERNELS_ROWS * KERNELS_ROWS;
        for (size_t i = ready; i % KERNELS_ROWS != 0; i++)
            batch.vectors[i] = batch.vectors[ready - 1];
        for (size_t i = 0; i < ready; i += KERNELS_ROWS) {
            if (!all)
                batch_ask(&batch, rows, i + SCAN_AHEAD, bytes);
            four(batch.vectors + i, query, dimension, products + i);
        }
        for (size_t i = 0; i < ready; i++) {
            const float value = scan_value(rows, batch.rows[i], products[i], query_step);
            if (value < worst || !scan_allows(rows, batch.rows[i]))
                continue;
            count = scanned_add(heap, count, k, (scanned_t){value, rows->base + batch.rows[i]});
            worst = count == k ? heap[0].value : -INFINITY;
        }
        batch_drop(&batch, ready);
    }
    return count;
}

#endif
