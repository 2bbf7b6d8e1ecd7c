/* Bins: the intervals by which numbers are coded, chosen so that the whole comes out short.
 *
 * A number is coded as the bin it lies in and its offset from where the bin begins. Bins are runs of quantiles of the
 * sorted numbers, merged so that the estimated size is least: dynamic programming over where a bin ends, as in
 * Loncaric's pcodec (arXiv:2502.06112). A value that is frequent becomes a bin of its own, without an offset: a
 * dictionary is a special case.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_BINS_H
#define NTMEM_DELTA_BINS_H

#include "delta_sort.h"

#define BINS_MAX 256
#define BINS_GROUPS 256                      /* quantiles aimed at */
#define BINS_GROUPS_ROOM (3 * BINS_GROUPS + 4) /* what they can become: see bins_group */
#define BINS_WINDOW 64                       /* groups a bin may span: a few bins more cost less than the search */
#define BINS_HEADER 28.0f                    /* bits that a bin takes in the header, about */

/* Close enough to compare costs: off by less than 0.01. */
static inline float delta_log2(float number)
{
    uint32_t bits;
    float mantissa;

    memcpy(&bits, &number, sizeof bits);
    const float exponent = (float)((int)(bits >> 23) - 128);
    bits = (bits & 0x7FFFFF) | 0x3F800000;
    memcpy(&mantissa, &bits, sizeof mantissa);
    return exponent + (-0.33582878f * mantissa + 2.0f) * mantissa - 0.65871759f;
}

typedef struct {
    size_t n;
    uint64_t low[BINS_GROUPS_ROOM], high[BINS_GROUPS_ROOM];
    uint32_t before[BINS_GROUPS_ROOM + 1]; /* numbers in the groups before */
    float cost[BINS_GROUPS_ROOM + 1];
    uint16_t from[BINS_GROUPS_ROOM + 1];
} bins_groups_t;

static inline void bins_group_add(bins_groups_t *groups, uint64_t low, uint64_t high, size_t count)
{
    groups->low[groups->n] = low;
    groups->high[groups->n] = high;
    groups->before[groups->n + 1] = groups->before[groups->n] + (uint32_t)count;
    groups->n++;
}

/* Quantiles, about `wanted` <= BINS_GROUPS of them, that never part equal numbers; with few distinct numbers a group
 * each. Closed groups hold at least n / wanted, as do those of one heavy number; only what a heavy number cut short
 * holds less, so there are at most three times `wanted`, and one. */
static inline void bins_group(bins_groups_t *groups, const uint64_t *sorted, size_t n, size_t wanted)
{
    size_t distinct = n > 0, least, begin = 0;

    groups->n = 0;
    groups->before[0] = 0;
    for (size_t i = 1; i < n && distinct <= wanted; i++)
        distinct += sorted[i] != sorted[i - 1];
    least = distinct <= wanted ? 1 : (n + wanted - 1) / wanted;
    for (size_t i = 0; i < n;) {
        size_t next = i + 1;
        while (next < n && sorted[next] == sorted[i])
            next++;
        if (next - i >= least) {
            if (begin < i)
                bins_group_add(groups, sorted[begin], sorted[i - 1], i - begin);
            bins_group_add(groups, sorted[i], sorted[i], next - i);
            begin = next;
        } else if (next - begin >= least) {
            bins_group_add(groups, sorted[begin], sorted[i], next - begin);
            begin = next;
        }
        i = next;
    }
    if (begin < n)
        bins_group_add(groups, sorted[begin], sorted[n - 1], n - begin);
}

/* The least cost in bits of all `n` numbers, of which the groups hold a sample, if a bin costs `header` bits. */
static inline float bins_merge(bins_groups_t *groups, size_t n, float header)
{
    const float total = (float)groups->before[groups->n], scale = (float)n / total;
    const float log_total = delta_log2(total);

    groups->cost[0] = 0.0f;
    for (size_t last = 0; last < groups->n; last++) {
        const uint64_t high = groups->high[last];
        const uint32_t upto = groups->before[last + 1];
        float best = 3.0e38f;
        size_t best_from = last;
        for (size_t first = last >= BINS_WINDOW ? last - BINS_WINDOW : 0; first <= last; first++) {
            const float count = (float)(int32_t)(upto - groups->before[first]);
            const float width = (float)(int)delta_width(high - groups->low[first]);
            const float cost = groups->cost[first] + scale * count * (log_total - delta_log2(count) + width);
            if (cost < best) {
                best = cost;
                best_from = first;
            }
        }
        groups->cost[last + 1] = best + header;
        groups->from[last + 1] = (uint16_t)best_from;
    }
    return groups->cost[groups->n];
}

typedef struct {
    unsigned n;
    uint64_t low[BINS_MAX];
    uint8_t width[BINS_MAX];
} bins_t;

/* Where bins begin, the first at 0: the numbers have had their least taken off. */
static inline void bins_choose(bins_t *bins, bins_groups_t *groups, size_t n)
{
    float header = BINS_HEADER;
    size_t count;

    for (;; header *= 2) {
        bins_merge(groups, n, header);
        count = 0;
        for (size_t end = groups->n; end > 0; end = groups->from[end])
            count++;
        if (count <= BINS_MAX)
            break;
    }
    bins->n = (unsigned)count;
    for (size_t end = groups->n; end > 0; end = groups->from[end])
        bins->low[--count] = groups->low[groups->from[end]];
    bins->low[0] = 0;
}

/* The last bin that begins at or below a number, without a branch; beyond the bins `low` is as large as can be. */
__attribute__((always_inline)) static inline void bins_search(const uint64_t *low, unsigned n_bins, unsigned widest,
                                                              const uint64_t *numbers, size_t n, uint8_t *symbols)
{
    for (size_t i = 0; i < n; i++) {
        unsigned at = 0;
        for (unsigned half = widest; half > 0; half /= 2)
            at += (unsigned)(numbers[i] >= low[at + half]) * half;
        symbols[i] = (uint8_t)(at < n_bins ? at : n_bins - 1);
    }
}

#define BINS_DIRECT 65536

typedef struct {
    uint64_t any;
    uint64_t count;
} bins_tally_t;

/* Tells the bin of each number, counts them, and makes bins as wide as they have to be. `direct` is room for
 * BINS_DIRECT bytes. */
static inline void bins_assign(bins_t *bins, const uint64_t *numbers, size_t n, uint64_t range, uint8_t *symbols,
                               uint32_t *counts, uint8_t *direct)
{
    uint64_t low[BINS_MAX];
    bins_tally_t tally[2][BINS_MAX]; /* two: one tally would wait for itself where a bin repeats */

    for (unsigned i = 0; i < BINS_MAX; i++)
        low[i] = i < bins->n ? bins->low[i] : UINT64_MAX;
    memset(tally[0], 0, bins->n * sizeof tally[0][0]);
    memset(tally[1], 0, bins->n * sizeof tally[1][0]);
    if (bins->n == 1)
        memset(symbols, 0, n);
    else if (range < BINS_DIRECT && range < 4 * n) {
        for (unsigned i = 0; i < bins->n; i++) {
            const uint64_t end = i + 1 < bins->n ? bins->low[i + 1] : range + 1;
            memset(direct + bins->low[i], (int)i, end - bins->low[i]);
        }
        for (size_t i = 0; i < n; i++)
            symbols[i] = direct[numbers[i]];
    } else if (bins->n <= 8)
        bins_search(low, bins->n, 4, numbers, n, symbols);
    else if (bins->n <= 16)
        bins_search(low, bins->n, 8, numbers, n, symbols);
    else if (bins->n <= 32)
        bins_search(low, bins->n, 16, numbers, n, symbols);
    else if (bins->n <= 64)
        bins_search(low, bins->n, 32, numbers, n, symbols);
    else
        bins_search(low, bins->n, 128, numbers, n, symbols);
    for (size_t i = 0; i < n; i++) {
        bins_tally_t *const one = &tally[i & 1][symbols[i]];
        one->count++;
        one->any |= numbers[i] - low[symbols[i]];
    }
    memset(counts, 0, BINS_MAX * sizeof *counts);
    for (unsigned i = 0; i < bins->n; i++) {
        counts[i] = (uint32_t)(tally[0][i].count + tally[1][i].count);
        bins->width[i] = (uint8_t)delta_width(tally[0][i].any | tally[1][i].any);
    }
}

#endif
