/* Symbols in 32 lanes, for processors that look up eight at once: rANS of delta_ans.h.
 *
 * Symbols stand in rows of 32 that take their words one after another, lane by lane. Without contexts they do so as
 * they come; with contexts a lane has the l-th part, so that it knows the symbol before, and only what is left over is
 * a last row, in context 0. What a lane begins with
 * need not be wasted: its lower 16 bits are two bytes of LANES_FREE that come back when all symbols are decoded.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_LANES_H
#define NTMEM_DELTA_LANES_H

#include "delta_ans.h"
#include "delta_vector.h"

#define LANES 32
#define LANES_FREE (2 * LANES) /* bytes that go along */

/* Codes `n` symbols and LANES_FREE bytes; as ans_encode. */
static inline unsigned char *lanes_encode(const ans_model_t *model, const uint8_t *symbols, size_t n,
                                          const unsigned char *along, unsigned char *end, ans_code_t *codes)
{
    const size_t rows = n / LANES, row = rows * LANES;
    uint32_t state[LANES];

    ans_codes(model, codes);
    for (size_t lane = 0; lane < LANES; lane++)
        state[lane] = ANS_LOW | along[2 * lane] | (uint32_t)along[2 * lane + 1] << 8;
    for (size_t lane = n - row; lane-- > 0;)
        ANS_PUT(state[lane], codes + symbols[row + lane]);
    if (model->n_contexts == 1)
        for (size_t t = rows; t-- > 0;) {
#pragma GCC unroll 4
            for (size_t lane = LANES; lane-- > 0;)
                ANS_PUT(state[lane], codes + symbols[t * LANES + lane]);
        }
    else
        for (size_t t = rows; t-- > 0;)
#pragma GCC unroll 4
            for (size_t lane = LANES; lane-- > 0;) {
                const uint8_t *const symbol = symbols + lane * rows + t;
                const unsigned context = t > 0 ? model->context_of[symbol[-1]] : 0;
                ANS_PUT(state[lane], codes + context * ANS_SYMBOLS + *symbol);
            }
    end -= sizeof state;
    memcpy(end, state, sizeof state);
    return end;
}

/* Decodes `count` <= LANES symbols, a row; at most DELTA_SLACK bytes are read. `begin` is where in the table each lane
 * looks, `of_symbol` where it looks after a symbol. */
static inline const unsigned char *lanes_row(const uint32_t *table, unsigned log, uint32_t *begin,
                                             const uint32_t *of_symbol, uint32_t *state, const unsigned char *at,
                                             uint8_t *symbols, size_t count)
{
    for (size_t lane = 0; lane < count; lane++) {
        uint32_t x = state[lane];
        const uint32_t entry = table[begin[lane] + (x & ((1u << log) - 1))];
        uint16_t word;
        memcpy(&word, at, 2);
        symbols[lane] = (uint8_t)entry;
        begin[lane] = of_symbol[entry & 255];
        x = ((entry >> 8 & 4095) + 1) * (x >> log) + (entry >> 20);
        at += x < ANS_LOW ? 2 : 0;
        state[lane] = x < ANS_LOW ? x << 16 | word : x;
    }
    return at;
}

/* Rows of symbols become lanes of them. */
static inline void lanes_turn(const uint8_t *rows, size_t count, uint8_t *symbols)
{
    for (size_t begin = 0; begin < count; begin += 64) {
        const size_t end = count - begin < 64 ? count : begin + 64;
        for (size_t lane = 0; lane < LANES; lane++)
            for (size_t t = begin; t < end; t++)
                symbols[lane * count + t] = rows[t * LANES + lane];
    }
}

#if DELTA_HAS_VECTORS
#include <immintrin.h>

static uint64_t lanes_places[256]; /* of each set of lanes: which of the next words every one of them takes */

static inline void lanes_begin(void)
{
    for (unsigned set = 0; set < 256; set++) {
        uint64_t places = 0, next = 0;
        for (unsigned lane = 0; lane < 8; lane++)
            if (set >> lane & 1)
                places |= next++ << 8 * lane;
        lanes_places[set] = places;
    }
}

#define LANES_STEP(X, E, B)                                                                                            \
    do {                                                                                                               \
        __m256i words, need;                                                                                           \
        unsigned set;                                                                                                  \
        E = _mm256_and_si256(X, mask);                                                                                 \
        if (contexts)                                                                                                  \
            E = _mm256_add_epi32(E, B);                                                                                \
        E = _mm256_i32gather_epi32((const int *)(const void *)table, E, 4);                                            \
        if (contexts)                                                                                                  \
            B = _mm256_i32gather_epi32((const int *)(const void *)of_symbol, _mm256_and_si256(E, low8), 4);            \
        X = _mm256_mullo_epi32(_mm256_add_epi32(_mm256_and_si256(_mm256_srli_epi32(E, 8), low12), one),                \
                               _mm256_srl_epi32(X, shift));                                                            \
        X = _mm256_add_epi32(X, _mm256_srli_epi32(E, 20));                                                             \
        need = _mm256_cmpeq_epi32(_mm256_srli_epi32(X, 16), _mm256_setzero_si256());                                   \
        set = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(need));                                                 \
        words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)at));                             \
        words = _mm256_permutevar8x32_epi32(                                                                           \
            words, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)&lanes_places[set])));          \
        X = _mm256_blendv_epi8(X, _mm256_or_si256(_mm256_slli_epi32(X, 16), words), need);                             \
        at += 2 * (unsigned)__builtin_popcount(set);                                                                   \
    } while (0)

/* All whole rows. Returns NULL if the words do not suffice. */
__attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt"), always_inline)) static inline const unsigned char *
lanes_rows_as(const uint32_t *table, unsigned log, const uint32_t *of_symbol, uint32_t *state, const unsigned char *at,
              const unsigned char *end, uint8_t *symbols, size_t n, int contexts)
{
    const __m256i mask = _mm256_set1_epi32((1 << log) - 1), low12 = _mm256_set1_epi32(4095);
    const __m256i one = _mm256_set1_epi32(1), low8 = _mm256_set1_epi32(255);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m128i shift = _mm_cvtsi32_si128((int)log);
    __m256i *const stored = (__m256i *)(void *)state;
    __m256i x0 = _mm256_loadu_si256(stored), x1 = _mm256_loadu_si256(stored + 1);
    __m256i x2 = _mm256_loadu_si256(stored + 2), x3 = _mm256_loadu_si256(stored + 3);
    __m256i b0 = _mm256_setzero_si256(), b1 = b0, b2 = b0, b3 = b0;

    for (size_t row = 0; row + LANES <= n; row += LANES) {
        __m256i e0, e1, e2, e3;
        if (at > end)
            return NULL;
        LANES_STEP(x0, e0, b0);
        LANES_STEP(x1, e1, b1);
        LANES_STEP(x2, e2, b2);
        LANES_STEP(x3, e3, b3);
        e0 = _mm256_packus_epi32(_mm256_and_si256(e0, low8), _mm256_and_si256(e1, low8));
        e2 = _mm256_packus_epi32(_mm256_and_si256(e2, low8), _mm256_and_si256(e3, low8));
        e0 = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(e0, e2), order);
        _mm256_storeu_si256((__m256i *)(void *)(symbols + row), e0);
    }
    _mm256_storeu_si256(stored, x0);
    _mm256_storeu_si256(stored + 1, x1);
    _mm256_storeu_si256(stored + 2, x2);
    _mm256_storeu_si256(stored + 3, x3);
    return at;
}

__attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt"), noinline)) static const unsigned char *
lanes_rows_with_vectors(const uint32_t *table, unsigned log, const uint32_t *of_symbol, uint32_t *state,
                        const unsigned char *at, const unsigned char *end, uint8_t *symbols, size_t n, int contexts)
{
    return contexts ? lanes_rows_as(table, log, of_symbol, state, at, end, symbols, n, 1)
                    : lanes_rows_as(table, log, of_symbol, state, at, end, symbols, n, 0);
}
#else
static inline void lanes_begin(void)
{
}
#endif

/* `table` is room for ANS_TABLE, `rows` for `n` bytes; `along` gets LANES_FREE. Every symbol is below
 * model->n_symbols. */
static inline int lanes_decode(const ans_model_t *model, uint32_t *table, const unsigned char *at,
                               const unsigned char *end, uint8_t *symbols, size_t n, uint8_t *rows,
                               unsigned char *along)
{
    const size_t row = n / LANES * LANES;
    const int contexts = model->n_contexts > 1;
    uint8_t *const to = contexts ? rows : symbols;
    uint32_t state[LANES], begin[LANES] = {0}, of_symbol[ANS_SYMBOLS] = {0}, above = 0;

    if (ans_table_fill(model, table) != 0 || end - at < (ptrdiff_t)sizeof state)
        return -1;
    for (unsigned i = 0; i < model->n_symbols && contexts; i++)
        of_symbol[i] = (uint32_t)model->context_of[i] << model->log;
    memcpy(state, at, sizeof state);
    at += sizeof state;
#if DELTA_HAS_VECTORS
    if (__atomic_load_n(&delta_vectors, __ATOMIC_RELAXED)) {
        at = lanes_rows_with_vectors(table, model->log, of_symbol, state, at, end, to, row, contexts);
        if (at == NULL)
            return -1;
    } else
#endif
        for (size_t i = 0; i < row; i += LANES) {
            if (at > end)
                return -1;
            at = lanes_row(table, model->log, begin, of_symbol, state, at, to + i, LANES);
        }
    if (at > end)
        return -1;
    memset(begin, 0, sizeof begin);
    at = lanes_row(table, model->log, begin, of_symbol, state, at, symbols + row, n - row);
    if (contexts)
        lanes_turn(rows, row / LANES, symbols);
    for (size_t lane = 0; lane < LANES; lane++) {
        above |= state[lane] ^ ANS_LOW;
        along[2 * lane] = (unsigned char)state[lane];
        along[2 * lane + 1] = (unsigned char)(state[lane] >> 8);
    }
    return at == end && above >> 16 == 0 ? 0 : -1;
}

#endif
