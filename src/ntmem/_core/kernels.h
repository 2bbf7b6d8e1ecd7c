/* Products and distances of vectors of int8, float16 and float32, by the best instructions of the processor.
 *
 * A leaf: plain C, no Python, no allocation, no lock. Each set of kernels is compiled for its own instructions and chosen
 * at run time (kernels_at), so one build runs on every machine. Sets agree on every bit for int8, whose sums are exact;
 * for floats they add in different orders.
 *
 * int8 is symmetric: -127 to 127, so that two products fit 16 bits with their sign; -128 is not to occur.
 */
#ifndef NTMEM_KERNELS_H
#define NTMEM_KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    const char *name;
    int32_t (*dot_i8)(const int8_t *a, const int8_t *b, size_t n);
    /* of `count` rows, `stride` bytes from one to the next, with one query */
    void (*dots_i8)(const int8_t *rows, size_t stride, size_t count, const int8_t *query, size_t n, int32_t *dots);
    float (*dot_f16)(const uint16_t *a, const uint16_t *b, size_t n);
    float (*dot_f32)(const float *a, const float *b, size_t n);
    float (*squared_f16)(const uint16_t *a, const uint16_t *b, size_t n); /* distance */
    float (*squared_f32)(const float *a, const float *b, size_t n);
} kernels_t;

/* ---- any processor -------------------------------------------------------------------------------------------- */

#define KERNELS_LANES 16 /* independent sums, of which a compiler may make whole vectors without reordering any */

static inline float half_of(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    uint32_t word = sign | (exponent + 112) << 23 | fraction << 13;
    float value;

    if (exponent == 31)
        word = sign | 0x7f800000u | fraction << 13;
    if (exponent == 0) {
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    memcpy(&value, &word, sizeof value);
    return value;
}

static inline float lanes_sum(float *sum)
{
    for (size_t width = KERNELS_LANES / 2; width > 0; width /= 2)
        for (size_t lane = 0; lane < width; lane++)
            sum[lane] += sum[lane + width];
    return sum[0];
}

static int32_t dot_i8_any(const int8_t *a, const int8_t *b, size_t n)
{
    int32_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void dots_i8_any(const int8_t *rows, size_t stride, size_t count, const int8_t *query, size_t n, int32_t *dots)
{
    for (size_t row = 0; row < count; row++)
        dots[row] = dot_i8_any(rows + row * stride, query, n);
}

#define KERNELS_FLOAT_ANY(name, type, value, term)                                                                    \
    static float name(const type *a, const type *b, size_t n)                                                         \
    {                                                                                                                 \
        float sum[KERNELS_LANES] = {0.0f};                                                                            \
        for (size_t i = 0; i < n; i++) {                                                                              \
            const float x = value(a[i]), y = value(b[i]);                                                             \
            sum[i % KERNELS_LANES] += term;                                                                           \
        }                                                                                                             \
        return lanes_sum(sum);                                                                                        \
    }
#define KERNELS_ITSELF(x) (x)

KERNELS_FLOAT_ANY(dot_f16_any, uint16_t, half_of, x *y)
KERNELS_FLOAT_ANY(dot_f32_any, float, KERNELS_ITSELF, x *y)
KERNELS_FLOAT_ANY(squared_f16_any, uint16_t, half_of, (x - y) * (x - y))
KERNELS_FLOAT_ANY(squared_f32_any, float, KERNELS_ITSELF, (x - y) * (x - y))

static const kernels_t kernels_any = {
    "scalar", dot_i8_any, dots_i8_any, dot_f16_any, dot_f32_any, squared_f16_any, squared_f32_any,
};

static inline int kernels_any_runs(void) { return 1; }

/* ---- x86 with AVX2, FMA and F16C: Haswell and later ------------------------------------------------------------ */

#if defined(__x86_64__)

#include <immintrin.h>

#define KERNELS_AVX2 __attribute__((target("avx2,fma,f16c")))

static inline int kernels_avx2_runs(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

KERNELS_AVX2 static inline int32_t sum_i32_avx2(__m256i sum)
{
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));

    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtsi128_si32(half);
}

/* Products of 32 pairs, added by fours: |q| is unsigned, its sign goes to the other one. 2 * 127 * 127 fits 16 bits. */
KERNELS_AVX2 static inline __m256i products_avx2(__m256i absolute, __m256i query, __m256i row)
{
    const __m256i pairs = _mm256_maddubs_epi16(absolute, _mm256_sign_epi8(row, query));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

KERNELS_AVX2 static int32_t dot_i8_avx2(const int8_t *a, const int8_t *b, size_t n)
{
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    size_t i = 0;

    for (; i + 64 <= n; i += 64) {
        for (size_t half = 0; half < 2; half++) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)(a + i + 32 * half));
            const __m256i y = _mm256_loadu_si256((const __m256i *)(b + i + 32 * half));
            sums[half] = _mm256_add_epi32(sums[half], products_avx2(_mm256_abs_epi8(x), x, y));
        }
    }
    return sum_i32_avx2(_mm256_add_epi32(sums[0], sums[1])) + dot_i8_any(a + i, b + i, n - i);
}

/* Four rows at a time, whose loads of the query are one. */
KERNELS_AVX2 static void dots_i8_avx2(const int8_t *rows, size_t stride, size_t count, const int8_t *query, size_t n,
                                      int32_t *dots)
{
    size_t row = 0;

    for (; row + 4 <= count; row += 4) {
        const int8_t *at = rows + row * stride;
        __m256i sums[4];
        size_t i = 0;
        for (size_t k = 0; k < 4; k++)
            sums[k] = _mm256_setzero_si256();
        for (; i + 32 <= n; i += 32) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)(query + i)), absolute = _mm256_abs_epi8(x);
            for (size_t k = 0; k < 4; k++) {
                const __m256i y = _mm256_loadu_si256((const __m256i *)(at + k * stride + i));
                sums[k] = _mm256_add_epi32(sums[k], products_avx2(absolute, x, y));
            }
        }
        for (size_t k = 0; k < 4; k++) {
            _mm_prefetch((const char *)(at + (k + 8) * stride), _MM_HINT_T0);
            dots[row + k] = sum_i32_avx2(sums[k]) + dot_i8_any(at + k * stride + i, query + i, n - i);
        }
    }
    for (; row < count; row++)
        dots[row] = dot_i8_avx2(rows + row * stride, query, n);
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
        return sum_f32_avx2(sums[0]) + rest(a + i, b + i, n - i);                                                     \
    }
#define KERNELS_LOAD_F16(at) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at)))

KERNELS_FLOAT_AVX2(dot_f16_avx2, uint16_t, KERNELS_LOAD_F16, dot_f16_any, _mm256_fmadd_ps(x, y, sums[k]))
KERNELS_FLOAT_AVX2(dot_f32_avx2, float, _mm256_loadu_ps, dot_f32_any, _mm256_fmadd_ps(x, y, sums[k]))
KERNELS_FLOAT_AVX2(squared_f16_avx2, uint16_t, KERNELS_LOAD_F16, squared_f16_any,
                   _mm256_fmadd_ps(_mm256_sub_ps(x, y), _mm256_sub_ps(x, y), sums[k]))
KERNELS_FLOAT_AVX2(squared_f32_avx2, float, _mm256_loadu_ps, squared_f32_any,
                   _mm256_fmadd_ps(_mm256_sub_ps(x, y), _mm256_sub_ps(x, y), sums[k]))

static const kernels_t kernels_avx2 = {
    "avx2", dot_i8_avx2, dots_i8_avx2, dot_f16_avx2, dot_f32_avx2, squared_f16_avx2, squared_f32_avx2,
};

#endif

/* ---- choosing ------------------------------------------------------------------------------------------------- */

/* The sets that run here, the best first; NULL behind the last. */
static inline const kernels_t *kernels_at(size_t place)
{
    const kernels_t *found[2];
    size_t count = 0;

#if defined(__x86_64__)
    if (kernels_avx2_runs())
        found[count++] = &kernels_avx2;
#endif
    if (kernels_any_runs())
        found[count++] = &kernels_any;
    return place < count ? found[place] : NULL;
}

/* ---- int8 ----------------------------------------------------------------------------------------------------- */

/* The nearest of 255 steps for each number; returns the size of a step: 0 for a vector of zeroes, NaN if one is none or
 * infinite. */
static inline float quantize_i8(const float *vector, size_t n, int8_t *to)
{
    float largest = 0.0f, step;

    for (size_t i = 0; i < n; i++) {
        const float size = fabsf(vector[i]);
        if (!(size <= 3.4028234e38f))
            return NAN;
        largest = size > largest ? size : largest;
    }
    step = largest / 127.0f;
    for (size_t i = 0; i < n; i++) {
        const float steps = step > 0.0f ? rintf(vector[i] / step) : 0.0f;
        to[i] = (int8_t)(steps > 127.0f ? 127.0f : steps < -127.0f ? -127.0f : steps);
    }
    return step;
}

#endif
