/* Contexts: up to four sets of frequencies, chosen by the bin of the number before.
 *
 * Bins after which similar bins follow share a context: k-means over the rows of the table of transitions, where the
 * distance of a row from a context is what coding the row by it takes.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_CONTEXT_H
#define NTMEM_DELTA_CONTEXT_H

#include "delta_bins.h"
#include "delta_lanes.h"

#define CONTEXT_ROUNDS 4
#define CONTEXT_LEAST 1024 /* numbers: below, the tables cost more than they save */

typedef struct {
    uint32_t after[ANS_SYMBOLS][ANS_SYMBOLS]; /* after[a][b]: how often b comes after a */
    uint32_t sum[ANS_CONTEXTS][ANS_SYMBOLS];
    float length[ANS_CONTEXTS][ANS_SYMBOLS];
    uint8_t of[ANS_SYMBOLS];
} context_work_t;

/* Bits that `counts` take when coded by their own frequencies, with the header that says these. */
static inline float context_cost(const uint32_t *counts, unsigned n)
{
    float total = 0.0f, cost = 0.0f, used = 0.0f;

    for (unsigned i = 0; i < n; i++)
        if (counts[i]) {
            const float count = (float)counts[i];
            total += count;
            used += 1.0f;
            cost -= count * delta_log2(count);
        }
    return total > 0.0f ? cost + total * delta_log2(total) + 12.0f * used : 0.0f;
}

static inline void context_sum(context_work_t *work, unsigned n, unsigned contexts)
{
    memset(work->sum, 0, sizeof work->sum);
    for (unsigned a = 0; a < n; a++)
        for (unsigned b = 0; b < n; b++)
            work->sum[work->of[a]][b] += work->after[a][b];
    for (unsigned c = 0; c < contexts; c++) {
        float total = 0.25f * (float)n;
        for (unsigned b = 0; b < n; b++)
            total += (float)work->sum[c][b];
        for (unsigned b = 0; b < n; b++)
            work->length[c][b] = delta_log2(total) - delta_log2((float)work->sum[c][b] + 0.25f);
    }
}

static inline void context_move(context_work_t *work, unsigned n, unsigned contexts)
{
    for (unsigned a = 0; a < n; a++) {
        float best = 3.0e38f;
        for (unsigned c = 0; c < contexts; c++) {
            float cost = 0.0f;
            for (unsigned b = 0; b < n; b++)
                cost += (float)(int32_t)work->after[a][b] * work->length[c][b];
            if (cost < best) {
                best = cost;
                work->of[a] = (uint8_t)c;
            }
        }
    }
}

/* Gives `model` contexts if that makes the symbols shorter; returns about how many bits they take. */
static inline float context_choose(context_work_t *work, ans_model_t *model, const uint8_t *symbols, size_t n,
                                  const uint32_t *counts)
{
    const unsigned n_symbols = model->n_symbols;
    const size_t each = (n + ANS_LANES - 1) / ANS_LANES, rows = n / LANES;
    const float plain = context_cost(counts, n_symbols);
    float best = plain;
    uint8_t first[ANS_LANES + 2 * LANES]; /* symbols in context 0, whatever came before: of lanes, and left over */
    size_t n_first = 0;

    if (n < CONTEXT_LEAST)
        return plain;
    for (unsigned a = 0; a < n_symbols; a++)
        memset(work->after[a], 0, n_symbols * sizeof work->after[a][0]);
    for (size_t i = 1; i < n; i++)
        work->after[symbols[i - 1]][symbols[i]]++;
    for (size_t lane = 0; lane < ANS_LANES; lane++)
        first[n_first++] = symbols[lane * each < n ? lane * each : 0];
    for (size_t lane = 0; lane < LANES; lane++)
        first[n_first++] = symbols[lane * rows];
    for (size_t i = rows * LANES; i < n; i++)
        first[n_first++] = symbols[i];
    for (unsigned contexts = 2; contexts <= ANS_CONTEXTS; contexts += 2) {
        float cost = (float)(2 * n_symbols);
        uint32_t upto = 0;
        for (unsigned a = 0; a < n_symbols; a++) { /* begin with as many numbers in each */
            work->of[a] = (uint8_t)((uint64_t)upto * contexts / n);
            upto += counts[a];
        }
        for (unsigned round = 0; round < CONTEXT_ROUNDS; round++) {
            context_sum(work, n_symbols, contexts);
            context_move(work, n_symbols, contexts);
        }
        context_sum(work, n_symbols, contexts);
        for (size_t i = 0; i < n_first; i++)
            work->sum[0][first[i]]++;
        for (unsigned c = 0; c < contexts; c++)
            cost += context_cost(work->sum[c], n_symbols);
        if (cost >= best)
            continue;
        best = cost;
        model->n_contexts = contexts;
        memcpy(model->context_of, work->of, n_symbols);
        for (unsigned c = 0; c < contexts; c++)
            ans_normalise(work->sum[c], n_symbols, model->log, model->frequency[c]);
    }
    return best;
}

#endif
