/* Kernels for x86-64; a part of kernels.h, which chooses among them. */
#ifndef NTMEM_KERNELS_X86_H
#define NTMEM_KERNELS_X86_H

#include <cpuid.h>
#include <immintrin.h>

/* ---- AVX2, FMA and F16C: Haswell and later ------------------------------------------------------------ */


#define KERNELS_AVX2 __attribute__((target("avx2,fma,f16c")))

static inline int kernels_avx2_runs(void)
{
#if defined(__clang__) /* 14 does not know it by name; that the system keeps wide registers, AVX2 tells */
    unsigned a, b, c = 0, d;
    const int f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
#else
    const int f16c = __builtin_cpu_supports("f16c");
#endif
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
}

KERNELS_AVX2 static inline int32_t sum_i32_avx2(__m256i sum)
{
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));

    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtsi128_si32(half);
}

/* The sums of each of four vectors, one beside the other. */
KERNELS_AVX2 static inline __m128i sums_i32_avx2(const __m256i *sums)
{
    const __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));

    return _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

KERNELS_AVX2 static inline __m256i load_i8_avx2(const int8_t *at) { return _mm256_loadu_si256((const __m256i *)at); }

/* Products of 32 pairs, added by fours: |q| is unsigned, its sign goes to the other one. 2 * 127 * 127 fits 16 bits. */
KERNELS_AVX2 static inline __m256i fours_avx2(__m256i absolute, __m256i query, __m256i row)
{
    const __m256i pairs = _mm256_maddubs_epi16(absolute, _mm256_sign_epi8(row, query));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* The last `left` bytes of 32 of them, the others 0: a row's rest is read together with what was read of it before. */
KERNELS_AVX2 static inline __m256i last_of_avx2(__m256i bytes, size_t left)
{
    static const int8_t mask[64] = {
        0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
        0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    };
    return _mm256_and_si256(bytes, load_i8_avx2(mask + left));
}

KERNELS_AVX2 static int32_t dot_i8_avx2(const int8_t *a, const int8_t *b, size_t n)
{
    __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    size_t i = 0;

    if (n < 32)
        return dot_i8_any(a, b, n);
    for (; i + 64 <= n; i += 64)
        for (size_t half = 0; half < 2; half++) {
            const __m256i x = load_i8_avx2(a + i + 32 * half), y = load_i8_avx2(b + i + 32 * half);
            sums[half] = _mm256_add_epi32(sums[half], fours_avx2(_mm256_abs_epi8(x), x, y));
        }
    if (i + 32 <= n) {
        const __m256i x = load_i8_avx2(a + i);
        sums[2] = fours_avx2(_mm256_abs_epi8(x), x, load_i8_avx2(b + i));
        i += 32;
    }
    if (i < n) {
        const __m256i x = last_of_avx2(load_i8_avx2(a + n - 32), n - i);
        sums[3] = fours_avx2(_mm256_abs_epi8(x), x, load_i8_avx2(b + n - 32));
    }
    sums[0] = _mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3]));
    return sum_i32_avx2(sums[0]);
}

KERNELS_AVX2 static void products_i8_avx2(const void *const *rows, const void *query, size_t n, float *products)
{
    const int8_t *at[KERNELS_ROWS] = {rows[0], rows[1], rows[2], rows[3]}, *q = query;
    __m256i sums[KERNELS_ROWS] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                                  _mm256_setzero_si256()};
    size_t i = 0;

    if (n < 32) {
        products_i8_any(rows, query, n, products);
        return;
    }
    for (; i + 32 <= n; i += 32) {
        const __m256i x = load_i8_avx2(q + i), absolute = _mm256_abs_epi8(x);
        for (size_t k = 0; k < KERNELS_ROWS; k++)
            sums[k] = _mm256_add_epi32(sums[k], fours_avx2(absolute, x, load_i8_avx2(at[k] + i)));
    }
    if (i < n) {
        const __m256i x = last_of_avx2(load_i8_avx2(q + n - 32), n - i), absolute = _mm256_abs_epi8(x);
        for (size_t k = 0; k < KERNELS_ROWS; k++)
            sums[k] = _mm256_add_epi32(sums[k], fours_avx2(absolute, x, load_i8_avx2(at[k] + n - 32)));
    }
    _mm_storeu_ps(products, _mm_cvtepi32_ps(sums_i32_avx2(sums)));
}

KERNELS_AVX2 static inline float sum_f32_avx2(__m256 sum)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));

    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

#define KERNELS_FLOAT_AVX2(name, type, load, rest, step)                                                              \
    KERNELS_AVX2 static float name(const type *a, const type *b, size_t n)                                            \
    {                                                                                                                 \
        __m256 sums[4];                                                                                               \
        size_t i = 0;                                                                                                 \
        for (size_t k = 0; k < 4; k++)                                                                                \
            sums[k] = _mm256_setzero_ps();                                                                            \
        for (; i + 32 <= n; i += 32)                                                                                  \
            for (size_t k = 0; k < 4; k++) {                                                                          \
                const __m256 x = load(a + i + 8 * k), y = load(b + i + 8 * k);                                        \
                sums[k] = step;                                                                                       \
            }                                                                                                         \
        sums[0] = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));                    \
        return sum_f32_avx2(sums[0]) + (i < n ? rest(a + i, b + i, n - i) : 0.0f);                                    \
    }
#define KERNELS_LOAD_F16(at) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at)))

KERNELS_FLOAT_AVX2(dot_f16_avx2, uint16_t, KERNELS_LOAD_F16, dot_f16_any, _mm256_fmadd_ps(x, y, sums[k]))
KERNELS_FLOAT_AVX2(dot_f32_avx2, float, _mm256_loadu_ps, dot_f32_any, _mm256_fmadd_ps(x, y, sums[k]))
KERNELS_FLOAT_AVX2(squared_f16_avx2, uint16_t, KERNELS_LOAD_F16, squared_f16_any,
                   _mm256_fmadd_ps(_mm256_sub_ps(x, y), _mm256_sub_ps(x, y), sums[k]))
KERNELS_FLOAT_AVX2(squared_f32_avx2, float, _mm256_loadu_ps, squared_f32_any,
                   _mm256_fmadd_ps(_mm256_sub_ps(x, y), _mm256_sub_ps(x, y), sums[k]))

/* Two sums a row: with one, four rows would wait for each other's additions. */
#define KERNELS_PRODUCTS_AVX2(name, type, load, rest)                                                                 \
    KERNELS_AVX2 static void name(const void *const *rows, const void *query, size_t n, float *products)              \
    {                                                                                                                 \
        const type *at[KERNELS_ROWS] = {rows[0], rows[1], rows[2], rows[3]};                                          \
        const float *q = query;                                                                                       \
        __m256 even[KERNELS_ROWS], odd[KERNELS_ROWS];                                                                 \
        size_t i = 0;                                                                                                 \
        for (size_t k = 0; k < KERNELS_ROWS; k++)                                                                     \
            even[k] = odd[k] = _mm256_setzero_ps();                                                                   \
        for (; i + 16 <= n; i += 16) {                                                                                \
            const __m256 x = _mm256_loadu_ps(q + i), y = _mm256_loadu_ps(q + i + 8);                                  \
            for (size_t k = 0; k < KERNELS_ROWS; k++) {                                                               \
                even[k] = _mm256_fmadd_ps(load(at[k] + i), x, even[k]);                                               \
                odd[k] = _mm256_fmadd_ps(load(at[k] + i + 8), y, odd[k]);                                             \
            }                                                                                                         \
        }                                                                                                             \
        for (size_t k = 0; k < KERNELS_ROWS; k++)                                                                     \
            products[k] = sum_f32_avx2(_mm256_add_ps(even[k], odd[k])) +                                              \
                          (i < n ? rest(at[k] + i, q + i, n - i) : 0.0f);                                             \
    }

/* A rest is added only where there is one: its sixteen sums cost as much as a row. */
KERNELS_PRODUCTS_AVX2(products_f16_avx2, uint16_t, KERNELS_LOAD_F16, dot_mixed_any)
KERNELS_PRODUCTS_AVX2(products_f32_avx2, float, _mm256_loadu_ps, dot_f32_any)

static const kernels_t kernels_avx2 = {
    "avx2",       dot_i8_avx2,      dot_f16_avx2,
    dot_f32_avx2, squared_f16_avx2, squared_f32_avx2,
    {products_i8_avx2, products_f16_avx2, products_f32_avx2},
};

/* ---- AVX-512 BW and VNNI: Ice Lake, Zen 4 and later --------------------------------------------------- */

/* Proven bit for bit (tests/unit/test_kernels_elsewhere.py); its speed has not been measured. Only int8 gains: floats wait
 * for memory, and are AVX2's. */
#ifndef KERNELS_AVX512
#define KERNELS_AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))
#endif

static inline int kernels_avx512vnni_runs(void)
{
    return kernels_avx2_runs() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vnni");
}

KERNELS_AVX512 static inline __mmask64 first_of_avx512(size_t left)
{
    return left < 64 ? ((__mmask64)1 << left) - 1 : (__mmask64)-1;
}

/* sum + the products of 64 pairs, of which |q| is the unsigned factor and the row takes q's sign. */
KERNELS_AVX512 static inline __m512i add_products_avx512(__m512i sum, __m512i absolute, __mmask64 negative, __m512i row)
{
    return _mm512_dpbusd_epi32(sum, absolute, _mm512_mask_sub_epi8(row, negative, _mm512_setzero_si512(), row));
}

KERNELS_AVX512 static inline __m256i halves_avx512(__m512i sum)
{
    return _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
}

KERNELS_AVX512 static int32_t dot_i8_avx512vnni(const int8_t *a, const int8_t *b, size_t n)
{
    __m512i sum = _mm512_setzero_si512();

    for (size_t i = 0; i < n; i += 64) {
        const __mmask64 here = first_of_avx512(n - i);
        const __m512i x = _mm512_maskz_loadu_epi8(here, a + i), y = _mm512_maskz_loadu_epi8(here, b + i);
        sum = add_products_avx512(sum, _mm512_abs_epi8(x), _mm512_movepi8_mask(x), y);
    }
    return sum_i32_avx2(halves_avx512(sum));
}

KERNELS_AVX512 static void products_i8_avx512vnni(const void *const *rows, const void *query, size_t n, float *products)
{
    const int8_t *at[KERNELS_ROWS] = {rows[0], rows[1], rows[2], rows[3]}, *q = query;
    __m512i sums[KERNELS_ROWS];
    __m256i halves[KERNELS_ROWS];

    for (size_t k = 0; k < KERNELS_ROWS; k++)
        sums[k] = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 64) {
        const __mmask64 here = first_of_avx512(n - i);
        const __m512i x = _mm512_maskz_loadu_epi8(here, q + i), absolute = _mm512_abs_epi8(x);
        const __mmask64 negative = _mm512_movepi8_mask(x);
        for (size_t k = 0; k < KERNELS_ROWS; k++)
            sums[k] = add_products_avx512(sums[k], absolute, negative, _mm512_maskz_loadu_epi8(here, at[k] + i));
    }
    for (size_t k = 0; k < KERNELS_ROWS; k++)
        halves[k] = halves_avx512(sums[k]);
    _mm_storeu_ps(products, _mm_cvtepi32_ps(sums_i32_avx2(halves)));
}

static const kernels_t kernels_avx512vnni = {
    "avx512vnni", dot_i8_avx512vnni, dot_f16_avx2,
    dot_f32_avx2, squared_f16_avx2,  squared_f32_avx2,
    {products_i8_avx512vnni, products_f16_avx2, products_f32_avx2},
};

#endif
