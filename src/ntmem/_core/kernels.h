/* Products and distances of vectors of int8, float16 and float32, by the best instructions of the processor.
 *
 * A leaf: plain C, no Python, no allocation, no lock. Each set of kernels is compiled for its own instructions and chosen
 * at run time (kernels_at), so one build runs on every machine. Sets agree on every bit for int8, whose sums are exact;
 * for floats they add in different orders, but within a set a row's product does not depend on the rows beside it.
 *
 * int8 is symmetric: -127 to 127, so that two products fit 16 bits with their sign; -128 is not to occur.
 */
#ifndef NTMEM_KERNELS_H
#define NTMEM_KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { KERNELS_I8, KERNELS_F16, KERNELS_F32, KERNELS_KINDS }; /* what a row is made of */

#define KERNELS_ROWS 4

/* Products of KERNELS_ROWS rows with one query, of int8 for rows of int8, else of float32: what a scan is made of. The rows
 * share the loads of the query, may be the same, and lie anywhere. */
typedef void kernels_products_t(const void *const *rows, const void *query, size_t n, float *products);

typedef struct {
    const char *name;
    int32_t (*dot_i8)(const int8_t *a, const int8_t *b, size_t n);
    float (*dot_f16)(const uint16_t *a, const uint16_t *b, size_t n);
    float (*dot_f32)(const float *a, const float *b, size_t n);
    float (*squared_f16)(const uint16_t *a, const uint16_t *b, size_t n); /* distance */
    float (*squared_f32)(const float *a, const float *b, size_t n);
    kernels_products_t *products[KERNELS_KINDS];
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

#define KERNELS_FLOAT_ANY(name, a_type, a_value, b_type, b_value, term)                                               \
    static float name(const a_type *a, const b_type *b, size_t n)                                                     \
    {                                                                                                                 \
        float sum[KERNELS_LANES] = {0.0f};                                                                            \
        for (size_t i = 0; i < n; i++) {                                                                              \
            const float x = a_value(a[i]), y = b_value(b[i]);                                                         \
            sum[i % KERNELS_LANES] += term;                                                                           \
        }                                                                                                             \
        return lanes_sum(sum);                                                                                        \
    }
#define KERNELS_ITSELF(x) (x)

KERNELS_FLOAT_ANY(dot_f16_any, uint16_t, half_of, uint16_t, half_of, x *y)
KERNELS_FLOAT_ANY(dot_f32_any, float, KERNELS_ITSELF, float, KERNELS_ITSELF, x *y)
KERNELS_FLOAT_ANY(dot_mixed_any, uint16_t, half_of, float, KERNELS_ITSELF, x *y)
KERNELS_FLOAT_ANY(squared_f16_any, uint16_t, half_of, uint16_t, half_of, (x - y) * (x - y))
KERNELS_FLOAT_ANY(squared_f32_any, float, KERNELS_ITSELF, float, KERNELS_ITSELF, (x - y) * (x - y))

#define KERNELS_PRODUCTS_ANY(name, dot)                                                                               \
    static void name(const void *const *rows, const void *query, size_t n, float *products)                           \
    {                                                                                                                 \
        for (size_t k = 0; k < KERNELS_ROWS; k++)                                                                     \
            products[k] = (float)dot(rows[k], query, n);                                                              \
    }

KERNELS_PRODUCTS_ANY(products_i8_any, dot_i8_any)
KERNELS_PRODUCTS_ANY(products_f16_any, dot_mixed_any)
KERNELS_PRODUCTS_ANY(products_f32_any, dot_f32_any)

static const kernels_t kernels_any = {
    "scalar",        dot_i8_any,      dot_f16_any,
    dot_f32_any,     squared_f16_any, squared_f32_any,
    {products_i8_any, products_f16_any, products_f32_any},
};

#if defined(__x86_64__)
#include "kernels_x86.h"
#elif defined(__aarch64__)
#include "kernels_arm.h"
#endif

/* ---- choosing ------------------------------------------------------------------------------------------------- */

/* The sets that run here, the best first; NULL behind the last. */
static inline const kernels_t *kernels_at(size_t place)
{
    const kernels_t *found[3];
    size_t count = 0;

#if defined(__x86_64__)
    if (kernels_avx512vnni_runs())
        found[count++] = &kernels_avx512vnni;
    if (kernels_avx2_runs())
        found[count++] = &kernels_avx2;
#elif defined(__aarch64__)
    if (kernels_neondot_runs())
        found[count++] = &kernels_neondot;
    if (kernels_neon_runs())
        found[count++] = &kernels_neon;
#endif
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
