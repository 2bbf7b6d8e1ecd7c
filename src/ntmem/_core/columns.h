/* Which rows of a column match a test, as bits: 64 rows at a time, by the best instructions of the processor.
 *
 * A leaf: plain C, no Python, no allocation, no lock. A column has a kind (a byte) and a word (64 bits) for each row. The
 * rows of a block that have a kind are found first, so that a column of one kind is tested for that kind only. Nothing
 * branches on what a row holds. Sets of functions are chosen at run time (columns_at), as in kernels.h.
 */
#ifndef NTMEM_COLUMNS_H
#define NTMEM_COLUMNS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define COLUMNS_BLOCK 64
#define COLUMNS_FEW_WORDS 8 /* words of a mask that are looked at one by one */

enum { COLUMN_MISSING, COLUMN_INT, COLUMN_FLOAT, COLUMN_INTERNED, COLUMN_KINDS };

typedef struct {
    int has_range; /* ints: low to high, as int64; low <= high */
    int64_t low, high;
    const uint64_t *members; /* or sorted words */
    size_t count;
} column_ints_t;

typedef struct {
    int has_range;
    double low, high;
    const uint64_t *members; /* words of floats, sorted as unsigned numbers */
    size_t count;
} column_floats_t;

typedef struct {
    const uint64_t *words; /* a bit for each number, the lowest first */
    size_t count;
    size_t few; /* how many words are not 0, if they are few: then below; or more than COLUMNS_FEW_WORDS */
    uint64_t word[COLUMNS_FEW_WORDS], last[COLUMNS_FEW_WORDS]; /* last: the number that the highest bit stands for */
} column_mask_t;

typedef struct {
    column_ints_t ints;
    column_floats_t floats;
    column_mask_t mask;
    int missing;
} column_test_t;

typedef struct {
    const char *name;
    size_t most; /* members that are compared one by one; more are searched for, which was faster then */
    /* each of 64 rows; has[kind]: those that have the kind */
    void (*kinds)(const uint8_t *kinds, uint64_t *has);
    uint64_t (*ints)(const uint64_t *words, int64_t low, int64_t high);
    uint64_t (*floats)(const uint64_t *words, double low, double high);
    uint64_t (*few)(const uint64_t *words, const uint64_t *members, size_t count);
    uint64_t (*mask)(const uint64_t *words, const column_mask_t *mask); /* of few words */
} columns_t;

/* ---- any processor -------------------------------------------------------------------------------------------- */

static void column_kinds_any(const uint8_t *kinds, uint64_t *has)
{
    for (unsigned kind = 0; kind < COLUMN_KINDS; kind++) {
        has[kind] = 0;
        for (size_t i = 0; i < COLUMNS_BLOCK; i++)
            has[kind] |= (uint64_t)(kinds[i] == kind) << i;
    }
}

static uint64_t column_ints_any(const uint64_t *words, int64_t low, int64_t high)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < COLUMNS_BLOCK; i++)
        bits |= (uint64_t)(((int64_t)words[i] >= low) & ((int64_t)words[i] <= high)) << i;
    return bits;
}

static uint64_t column_floats_any(const uint64_t *words, double low, double high)
{
    double values[COLUMNS_BLOCK];
    uint64_t bits = 0;

    memcpy(values, words, sizeof values);
    for (size_t i = 0; i < COLUMNS_BLOCK; i++)
        bits |= (uint64_t)((values[i] >= low) & (values[i] <= high)) << i;
    return bits;
}

static uint64_t column_few_any(const uint64_t *words, const uint64_t *members, size_t count)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < COLUMNS_BLOCK; i++) {
        uint64_t found = 0;
        for (size_t k = 0; k < count; k++)
            found |= words[i] == members[k];
        bits |= found << i;
    }
    return bits;
}

/* Without a branch, by halves: the last member that is not above the word is at `at` in the end, if there is one. */
static uint64_t column_search(const uint64_t *words, const uint64_t *members, size_t count)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < COLUMNS_BLOCK; i++) {
        const uint64_t *at = members;
        for (size_t left = count; left > 1; left -= left / 2)
            at = at[left / 2] <= words[i] ? at + left / 2 : at;
        bits |= (uint64_t)(*at == words[i]) << i;
    }
    return bits;
}

/* Numbers outside of the mask do not match. */
static uint64_t column_mask_any(const uint64_t *words, const column_mask_t *mask)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < COLUMNS_BLOCK; i++) {
        const uint64_t place = words[i] >> 6, inside = place < mask->count;
        bits |= (mask->words[inside ? place : 0] >> (words[i] & 63) & inside) << i;
    }
    return bits;
}

static const columns_t columns_any = {
    "scalar", 8, column_kinds_any, column_ints_any, column_floats_any, column_few_any, column_mask_any,
};

/* ---- x86 with AVX2: Haswell and later --------------------------------------------------------------------------- */

#if defined(__x86_64__)

#include <immintrin.h>

#define COLUMNS_AVX2 __attribute__((target("avx2")))
#define COLUMNS_LOAD(at) _mm256_loadu_si256((const __m256i *)(at))

/* Bits of a block from the sign of `lanes`, an expression of x, the four words at i. */
#define COLUMNS_BITS(bits, lanes)                                                                                     \
    _Pragma("GCC unroll 16") for (size_t i = 0; i < COLUMNS_BLOCK; i += 4)                                            \
    {                                                                                                                 \
        const __m256i x = COLUMNS_LOAD(words + i);                                                                    \
        bits |= (uint64_t)(uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(lanes)) << i;                              \
    }

COLUMNS_AVX2 static void column_kinds_avx2(const uint8_t *kinds, uint64_t *has)
{
    const __m256i first = COLUMNS_LOAD(kinds), second = COLUMNS_LOAD(kinds + 32);

    for (int kind = 0; kind < COLUMN_KINDS; kind++) {
        const __m256i wanted = _mm256_set1_epi8((char)kind);
        const uint32_t low = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(first, wanted));
        const uint32_t high = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(second, wanted));
        has[kind] = low | (uint64_t)high << 32;
    }
}

/* One comparison for both ends: x - low, unsigned, is above high - low; signed once the highest bit is turned. */
COLUMNS_AVX2 static uint64_t column_ints_avx2(const uint64_t *words, int64_t low, int64_t high)
{
    const uint64_t turn = (uint64_t)1 << 63;
    const __m256i from = _mm256_set1_epi64x((int64_t)((uint64_t)low ^ turn));
    const __m256i most = _mm256_set1_epi64x((int64_t)(((uint64_t)high - (uint64_t)low) ^ turn));
    uint64_t outside = 0;

    COLUMNS_BITS(outside, _mm256_cmpgt_epi64(_mm256_sub_epi64(x, from), most))
    return ~outside;
}

COLUMNS_AVX2 static uint64_t column_floats_avx2(const uint64_t *words, double low, double high)
{
    const __m256d from = _mm256_set1_pd(low), to = _mm256_set1_pd(high);
    uint64_t bits = 0;

    COLUMNS_BITS(bits, _mm256_castpd_si256(_mm256_and_pd(_mm256_cmp_pd(_mm256_castsi256_pd(x), from, _CMP_GE_OQ),
                                                         _mm256_cmp_pd(_mm256_castsi256_pd(x), to, _CMP_LE_OQ))))
    return bits;
}

/* The same for several tests, of which one is to hold: `lanes` is of x and of k, the number of a test. Sixteen rows at a
 * time, so that what a test compares with is loaded once for them. */
#define COLUMNS_BITS_OF(bits, count, lanes)                                                                           \
    for (size_t row = 0; row < COLUMNS_BLOCK; row += 16) {                                                            \
        __m256i found[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),                   \
                            _mm256_setzero_si256()};                                                                  \
        for (size_t k = 0; k < (count); k++)                                                                          \
            _Pragma("GCC unroll 4") for (size_t i = 0; i < 4; i++)                                                    \
            {                                                                                                         \
                const __m256i x = COLUMNS_LOAD(words + row + 4 * i);                                                  \
                found[i] = _mm256_or_si256(found[i], lanes);                                                          \
            }                                                                                                         \
        _Pragma("GCC unroll 4") for (size_t i = 0; i < 4; i++)                                                        \
            bits |= (uint64_t)(uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(found[i])) << (row + 4 * i);           \
    }

COLUMNS_AVX2 static uint64_t column_few_avx2(const uint64_t *words, const uint64_t *members, size_t count)
{
    uint64_t bits = 0;

    COLUMNS_BITS_OF(bits, count, _mm256_cmpeq_epi64(x, _mm256_set1_epi64x((int64_t)members[k])))
    return bits;
}

/* A shift brings the bit of a number to the sign. It gives 0 if it is 64 or more, or less than 0: not of this word. */
COLUMNS_AVX2 static uint64_t column_mask_avx2(const uint64_t *words, const column_mask_t *mask)
{
    uint64_t bits = 0;

    COLUMNS_BITS_OF(bits, mask->few,
                    _mm256_sllv_epi64(_mm256_set1_epi64x((int64_t)mask->word[k]),
                                      _mm256_sub_epi64(_mm256_set1_epi64x((int64_t)mask->last[k]), x)))
    return bits;
}

static const columns_t columns_avx2 = {
    "avx2", 64, column_kinds_avx2, column_ints_avx2, column_floats_avx2, column_few_avx2, column_mask_avx2,
};

static inline int columns_avx2_runs(void) { return __builtin_cpu_supports("avx2"); }

#endif /* __x86_64__ */

/* ---- a column ------------------------------------------------------------------------------------------------- */

/* The sets that run on this machine, the best first; NULL at the end. */
static inline const columns_t *columns_at(size_t place)
{
#if defined(__x86_64__)
    if (columns_avx2_runs()) {
        if (place == 0)
            return &columns_avx2;
        place--;
    }
#endif
    return place == 0 ? &columns_any : NULL;
}

static inline void column_mask_set(column_mask_t *mask, const uint64_t *words, size_t count)
{
    mask->words = words;
    mask->count = count;
    mask->few = 0;
    for (size_t i = 0; i < count && mask->few <= COLUMNS_FEW_WORDS; i++) {
        if (words[i] == 0)
            continue;
        if (mask->few < COLUMNS_FEW_WORDS) {
            mask->word[mask->few] = words[i];
            mask->last[mask->few] = 64 * (uint64_t)i + 63;
        }
        mask->few++;
    }
}

static inline uint64_t column_members(const columns_t *set, const uint64_t *words, const uint64_t *members, size_t count)
{
    return count <= set->most ? set->few(words, members, count) : column_search(words, members, count);
}

static inline uint64_t column_block(const columns_t *set, const column_test_t *test, const uint8_t *kinds,
                                    const uint64_t *words)
{
    uint64_t has[COLUMN_KINDS], bits = 0;

    set->kinds(kinds, has);
    if (test->missing)
        bits |= has[COLUMN_MISSING];
    if (has[COLUMN_INT] && test->ints.has_range)
        bits |= has[COLUMN_INT] & set->ints(words, test->ints.low, test->ints.high);
    if (has[COLUMN_INT] && test->ints.count)
        bits |= has[COLUMN_INT] & column_members(set, words, test->ints.members, test->ints.count);
    if (has[COLUMN_FLOAT] && test->floats.has_range)
        bits |= has[COLUMN_FLOAT] & set->floats(words, test->floats.low, test->floats.high);
    if (has[COLUMN_FLOAT] && test->floats.count)
        bits |= has[COLUMN_FLOAT] & column_members(set, words, test->floats.members, test->floats.count);
    if (has[COLUMN_INTERNED] && test->mask.few)
        bits |= has[COLUMN_INTERNED] &
                (test->mask.few <= COLUMNS_FEW_WORDS ? set->mask : column_mask_any)(words, &test->mask);
    return bits;
}

/* Bits of `count` rows, the lowest first; those beyond in the last word are 0. */
static inline void column_match(const columns_t *set, const column_test_t *test, const uint8_t *kinds,
                                const uint64_t *words, size_t count, uint64_t *bits)
{
    uint8_t last_kinds[COLUMNS_BLOCK];
    uint64_t last_words[COLUMNS_BLOCK] = {0};
    size_t row = 0;

    for (; row + COLUMNS_BLOCK <= count; row += COLUMNS_BLOCK)
        bits[row / COLUMNS_BLOCK] = column_block(set, test, kinds + row, words + row);
    if (row == count)
        return;
    memset(last_kinds, COLUMN_KINDS, sizeof last_kinds); /* a kind that matches nothing */
    memcpy(last_kinds, kinds + row, count - row);
    memcpy(last_words, words + row, (count - row) * sizeof *words);
    bits[row / COLUMNS_BLOCK] = column_block(set, test, last_kinds, last_words);
}

#endif /* NTMEM_COLUMNS_H */
