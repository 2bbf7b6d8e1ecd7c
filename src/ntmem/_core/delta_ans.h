/* Symbols by range asymmetric numeral systems, eight lanes, static tables, a context of one symbol.
 *
 * The method is Duda's rANS (arXiv:1311.2540) with interleaved states after Giesen (arXiv:1402.3392). Lane l has the
 * l-th eighth of the symbols, so that what came just before a symbol is known in its own lane: its table may then be
 * chosen by that, and the lanes still do not wait for each other. All lanes take their words from one sequence.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_ANS_H
#define NTMEM_DELTA_ANS_H

#include "delta_bytes.h"

#define ANS_LANES 8
#define ANS_LOG_MAX 12
#define ANS_SYMBOLS 256
#define ANS_CONTEXTS 4
#define ANS_LOW 65536u /* states stay in [ANS_LOW, ANS_LOW << 16) between symbols */

typedef struct {
    unsigned log, n_symbols, n_contexts;
    uint8_t context_of[ANS_SYMBOLS]; /* by the symbol before; a lane begins in context 0 */
    uint16_t frequency[ANS_CONTEXTS][ANS_SYMBOLS]; /* of each context adding up to 1 << log */
} ans_model_t;

/* Frequencies in proportion to counts, at least 1 for what occurs; what is left of 1 << log is the largest one's. */
static inline void ans_normalise(const uint32_t *counts, unsigned n, unsigned log, uint16_t *frequency)
{
    const uint64_t whole = (uint64_t)1 << log;
    uint64_t total = 0;
    int64_t left = (int64_t)whole;

    for (unsigned i = 0; i < n; i++)
        total += counts[i];
    memset(frequency, 0, ANS_SYMBOLS * sizeof *frequency);
    if (total == 0) { /* a context nobody is ever in still has to be a table */
        frequency[0] = (uint16_t)whole;
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        uint64_t share = (counts[i] * whole + total / 2) / total;
        if (share == 0 && counts[i])
            share = 1;
        frequency[i] = (uint16_t)share;
        left -= (int64_t)share;
    }
    while (left != 0) {
        unsigned most = 0;
        int64_t step;
        for (unsigned i = 1; i < n; i++)
            if (frequency[i] > frequency[most])
                most = i;
        step = left;
        if (step < 0 && -step >= frequency[most] / 2) /* never take a frequency down to nothing */
            step = -(int64_t)(frequency[most] / 2);
        frequency[most] = (uint16_t)(frequency[most] + step);
        left -= step;
    }
}

typedef struct {
    uint64_t reciprocal;  /* ceil(2^63 / frequency): exact for states of 32 bits and frequencies to 2^12 */
    uint32_t limit;       /* of the state's upper bits: from here on a word goes out first */
    uint16_t rest, start; /* rest: of the whole, what other symbols have */
} ans_code_t;

static inline void ans_codes(const ans_model_t *model, ans_code_t *codes)
{
    for (unsigned c = 0; c < model->n_contexts; c++) {
        uint32_t start = 0;
        for (unsigned i = 0; i < model->n_symbols; i++) {
            const uint32_t f = model->frequency[c][i];
            codes[c * ANS_SYMBOLS + i] = (ans_code_t){f ? (((uint64_t)1 << 63) + f - 1) / f : 0,
                                                      f << (32 - model->log - 16),
                                                      (uint16_t)((1u << model->log) - f), (uint16_t)start};
            start += f;
        }
    }
}

/* One symbol: whether a word goes out is a mask, as in decoding. */
#define ANS_PUT(X, CODE)                                                                                               \
    do {                                                                                                               \
        const ans_code_t *const code = (CODE);                                                                         \
        const uint32_t out = (X) >> 16 >= code->limit;                                                                 \
        const uint16_t word = (uint16_t)(X);                                                                           \
        uint32_t quotient;                                                                                             \
        memcpy(end - 2, &word, 2);                                                                                     \
        end -= out * 2;                                                                                                \
        (X) >>= out * 16;                                                                                              \
        quotient = (uint32_t)((unsigned __int128)((uint64_t)(X)*2) * code->reciprocal >> 64);                          \
        (X) += quotient * code->rest + code->start;                                                                    \
    } while (0)

__attribute__((always_inline)) static inline unsigned char *ans_encode_as(const ans_model_t *model,
                                                                          const uint8_t *symbols, size_t n,
                                                                          unsigned char *end, const ans_code_t *codes,
                                                                          int contexts)
{
    const size_t each = (n + ANS_LANES - 1) / ANS_LANES, full = n / each;
    const size_t shared = full == ANS_LANES ? each : full == ANS_LANES - 1 ? n - full * each : 0;
    uint32_t state[ANS_LANES];

    for (size_t lane = 0; lane < ANS_LANES; lane++)
        state[lane] = ANS_LOW;
    for (size_t t = each; t-- > 0;)
        if (t < shared) {
#pragma GCC unroll 8
            for (size_t lane = ANS_LANES; lane-- > 0;) {
                const uint8_t *symbol = symbols + lane * each + t;
                const unsigned context = contexts && t > 0 ? model->context_of[symbol[-1]] : 0;
                ANS_PUT(state[lane], codes + context * ANS_SYMBOLS + *symbol);
            }
        } else
#pragma GCC unroll 8
            for (size_t lane = ANS_LANES; lane-- > 0;) { /* the last lanes may be shorter */
                const size_t i = lane * each + t;
                if (i < n) {
                    const unsigned context = contexts && t > 0 ? model->context_of[symbols[i - 1]] : 0;
                    ANS_PUT(state[lane], codes + context * ANS_SYMBOLS + symbols[i]);
                }
            }
    end -= sizeof state;
    memcpy(end, state, sizeof state);
    return end;
}

/* Codes `n` symbols. Stores words from `end` down and returns where they begin;
 * `codes` is room for ANS_CONTEXTS * ANS_SYMBOLS. */
static inline unsigned char *ans_encode(const ans_model_t *model, const uint8_t *symbols, size_t n, unsigned char *end,
                                        ans_code_t *codes)
{
    ans_codes(model, codes);
    return model->n_contexts > 1 ? ans_encode_as(model, symbols, n, end, codes, 1)
                                 : ans_encode_as(model, symbols, n, end, codes, 0);
}

#define ANS_BEYOND 8 /* slots that are written together */
#define ANS_TABLE ((ANS_CONTEXTS << ANS_LOG_MAX) + ANS_BEYOND)

/* A slot of a table: symbol, frequency - 1 above bit 8, slot - start above bit 20. */
static inline int ans_table_fill(const ans_model_t *model, uint32_t *table)
{
    for (unsigned c = 0; c < model->n_contexts; c++, table += (size_t)1 << model->log) {
        uint32_t slot = 0;
        for (unsigned i = 0; i < model->n_symbols; i++) {
            const uint32_t f = model->frequency[c][i];
            if (f > (1u << model->log) - slot)
                return -1;
            for (uint32_t k = 0; k < f; k += ANS_BEYOND) /* what stands beyond is overwritten by the next */
                for (uint32_t j = 0; j < ANS_BEYOND; j++)
                    table[slot + k + j] = i | (f - 1) << 8 | (k + j) << 20;
            slot += f;
        }
        if (slot != 1u << model->log)
            return -1;
    }
    return 0;
}

/* Lanes in variables of their own stay in registers. Whether a word is needed is as good as random: a branch on it
 * would cost more than all the rest, so it is a mask. */
#define ANS_STEP(L)                                                                                                    \
    do {                                                                                                               \
        const uint32_t e##L = base##L[x##L & mask];                                                                    \
        uint32_t word##L, need##L;                                                                                     \
        symbols[L * each + t] = (uint8_t)e##L;                                                                         \
        if (contexts)                                                                                                  \
            base##L = of_symbol[e##L & 255];                                                                           \
        x##L = ((e##L >> 8 & 4095) + 1) * (x##L >> log) + (e##L >> 20);                                                \
        memcpy(&word##L, at, 4);                                                                                       \
        need##L = 0 - (uint32_t)(x##L < ANS_LOW);                                                                      \
        word##L = (word##L & 65535) | x##L << 16;                                                                      \
        x##L ^= (x##L ^ word##L) & need##L;                                                                            \
        at += need##L & 2;                                                                                             \
    } while (0)

#define ANS_BEGIN(L)                                                                                                   \
    uint32_t x##L;                                                                                                     \
    const uint32_t *base##L = table;                                                                                   \
    memcpy(&x##L, at + 4 * (L), 4)

__attribute__((always_inline)) static inline int ans_decode_as(const uint32_t *table, const uint32_t *const *of_symbol,
                                                               unsigned log, const unsigned char *at,
                                                               const unsigned char *end, uint8_t *symbols, size_t n,
                                                               int contexts)
{
    const size_t each = (n + ANS_LANES - 1) / ANS_LANES;
    const size_t full = each == 0 ? 0 : n / each;
    const size_t shared = full == ANS_LANES ? each : full == ANS_LANES - 1 ? n - full * each : 0;
    const uint32_t mask = (1u << log) - 1;
    size_t t = 0;

    if (end - at < 4 * ANS_LANES)
        return -1;
    ANS_BEGIN(0);
    ANS_BEGIN(1);
    ANS_BEGIN(2);
    ANS_BEGIN(3);
    ANS_BEGIN(4);
    ANS_BEGIN(5);
    ANS_BEGIN(6);
    ANS_BEGIN(7);
    at += 4 * ANS_LANES;
    for (; t < shared; t++) {
        if (at > end)
            return -1;
        ANS_STEP(0);
        ANS_STEP(1);
        ANS_STEP(2);
        ANS_STEP(3);
        ANS_STEP(4);
        ANS_STEP(5);
        ANS_STEP(6);
        ANS_STEP(7);
    }
    for (; t < each; t++) {
        if (at > end)
            return -1;
#define ANS_TAIL(L)                                                                                                    \
    if ((L) * each + t < n)                                                                                            \
    ANS_STEP(L)
        ANS_TAIL(0);
        ANS_TAIL(1);
        ANS_TAIL(2);
        ANS_TAIL(3);
        ANS_TAIL(4);
        ANS_TAIL(5);
        ANS_TAIL(6);
        ANS_TAIL(7);
    }
    /* The coder began with these states and ends with them, if these are its words. */
    return at == end && x0 == ANS_LOW && x1 == ANS_LOW && x2 == ANS_LOW && x3 == ANS_LOW && x4 == ANS_LOW &&
                   x5 == ANS_LOW && x6 == ANS_LOW && x7 == ANS_LOW
               ? 0
               : -1;
}

/* `table` is room for ANS_TABLE. Every symbol stored is below model->n_symbols. */
static inline int ans_decode(const ans_model_t *model, uint32_t *table, const unsigned char *at,
                             const unsigned char *end, uint8_t *symbols, size_t n)
{
    const uint32_t *of_symbol[ANS_SYMBOLS];

    if (ans_table_fill(model, table) != 0)
        return -1;
    if (model->n_contexts == 1)
        return ans_decode_as(table, of_symbol, model->log, at, end, symbols, n, 0);
    for (unsigned i = 0; i < ANS_SYMBOLS; i++)
        of_symbol[i] = table + ((size_t)(i < model->n_symbols ? model->context_of[i] : 0) << model->log);
    return ans_decode_as(table, of_symbol, model->log, at, end, symbols, n, 1);
}

#endif
