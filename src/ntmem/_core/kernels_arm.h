/* Kernels for aarch64; a part of kernels.h, which chooses among them.
 *
 * Run by an emulator only (tests/unit/test_kernels_elsewhere.py): their speed has not been measured.
 */
#ifndef NTMEM_KERNELS_ARM_H
#define NTMEM_KERNELS_ARM_H

#include <arm_neon.h>
#include <sys/auxv.h>

/* ---- ARM: NEON, which every aarch64 has, and with it the dot product of ARMv8.2 where there is one -------------- */

#define KERNELS_NEON
#define KERNELS_NEONDOT __attribute__((target("arch=armv8.2-a+dotprod")))

static inline int kernels_neon_runs(void) { return 1; }

static inline int kernels_neondot_runs(void) { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }

/* Two products fit 16 bits with their sign. */
static inline int32x4_t add_products_neon(int32x4_t sum, int8x16_t x, int8x16_t y)
{
    return vpadalq_s16(sum, vmlal_high_s8(vmull_s8(vget_low_s8(x), vget_low_s8(y)), x, y));
}

KERNELS_NEONDOT static inline int32x4_t add_products_neondot(int32x4_t sum, int8x16_t x, int8x16_t y)
{
    return vdotq_s32(sum, x, y);
}

#define KERNELS_I8_NEON(attribute, set)                                                                               \
    attribute static int32_t dot_i8_##set(const int8_t *a, const int8_t *b, size_t n)                                 \
    {                                                                                                                 \
        int32x4_t sum = vdupq_n_s32(0);                                                                               \
        size_t i = 0;                                                                                                 \
        for (; i + 16 <= n; i += 16)                                                                                  \
            sum = add_products_##set(sum, vld1q_s8(a + i), vld1q_s8(b + i));                                          \
        return vaddvq_s32(sum) + dot_i8_any(a + i, b + i, n - i);                                                     \
    }                                                                                                                 \
    attribute static void products_i8_##set(const void *const *rows, const void *query, size_t n, float *products)    \
    {                                                                                                                 \
        const int8_t *at[KERNELS_ROWS] = {rows[0], rows[1], rows[2], rows[3]}, *q = query;                            \
        int32x4_t sums[KERNELS_ROWS];                                                                                 \
        size_t i = 0;                                                                                                 \
        for (size_t k = 0; k < KERNELS_ROWS; k++)                                                                     \
            sums[k] = vdupq_n_s32(0);                                                                                 \
        for (; i + 16 <= n; i += 16) {                                                                                \
            const int8x16_t x = vld1q_s8(q + i);                                                                      \
            for (size_t k = 0; k < KERNELS_ROWS; k++)                                                                 \
                sums[k] = add_products_##set(sums[k], x, vld1q_s8(at[k] + i));                                        \
        }                                                                                                             \
        for (size_t k = 0; k < KERNELS_ROWS; k++)                                                                     \
            products[k] = (float)(vaddvq_s32(sums[k]) + dot_i8_any(at[k] + i, q + i, n - i));                         \
    }

KERNELS_I8_NEON(KERNELS_NEON, neon)
KERNELS_I8_NEON(KERNELS_NEONDOT, neondot)

#define KERNELS_FLOAT_NEON(name, type, load, rest, step)                                                              \
    static float name(const type *a, const type *b, size_t n)                                                         \
    {                                                                                                                 \
        float32x4_t sums[4];                                                                                          \
        size_t i = 0;                                                                                                 \
        for (size_t k = 0; k < 4; k++)                                                                                \
            sums[k] = vdupq_n_f32(0.0f);                                                                              \
        for (; i + 16 <= n; i += 16)                                                                                  \
            for (size_t k = 0; k < 4; k++) {                                                                          \
                const float32x4_t x = load(a + i + 4 * k), y = load(b + i + 4 * k);                                   \
                sums[k] = step;                                                                                       \
            }                                                                                                         \
        sums[0] = vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]));                                \
        return vaddvq_f32(sums[0]) + (i < n ? rest(a + i, b + i, n - i) : 0.0f);                                      \
    }
#define KERNELS_LOAD_F16(at) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at)))

KERNELS_FLOAT_NEON(dot_f16_neon, uint16_t, KERNELS_LOAD_F16, dot_f16_any, vfmaq_f32(sums[k], x, y))
KERNELS_FLOAT_NEON(dot_f32_neon, float, vld1q_f32, dot_f32_any, vfmaq_f32(sums[k], x, y))
KERNELS_FLOAT_NEON(squared_f16_neon, uint16_t, KERNELS_LOAD_F16, squared_f16_any,
                   vfmaq_f32(sums[k], vsubq_f32(x, y), vsubq_f32(x, y)))
KERNELS_FLOAT_NEON(squared_f32_neon, float, vld1q_f32, squared_f32_any,
                   vfmaq_f32(sums[k], vsubq_f32(x, y), vsubq_f32(x, y)))

#define KERNELS_PRODUCTS_NEON(name, type, load, rest)                                                                 \
    static void name(const void *const *rows, const void *query, size_t n, float *products)                           \
    {                                                                                                                 \
        const type *at[KERNELS_ROWS] = {rows[0], rows[1], rows[2], rows[3]};                                          \
        const float *q = query;                                                                                       \
        float32x4_t even[KERNELS_ROWS], odd[KERNELS_ROWS];                                                            \
        size_t i = 0;                                                                                                 \
        for (size_t k = 0; k < KERNELS_ROWS; k++)                                                                     \
            even[k] = odd[k] = vdupq_n_f32(0.0f);                                                                     \
        for (; i + 8 <= n; i += 8) {                                                                                  \
            const float32x4_t x = vld1q_f32(q + i), y = vld1q_f32(q + i + 4);                                         \
            for (size_t k = 0; k < KERNELS_ROWS; k++) {                                                               \
                even[k] = vfmaq_f32(even[k], load(at[k] + i), x);                                                     \
                odd[k] = vfmaq_f32(odd[k], load(at[k] + i + 4), y);                                                   \
            }                                                                                                         \
        }                                                                                                             \
        for (size_t k = 0; k < KERNELS_ROWS; k++)                                                                     \
            products[k] = vaddvq_f32(vaddq_f32(even[k], odd[k])) +                                                    \
                          (i < n ? rest(at[k] + i, q + i, n - i) : 0.0f);                                             \
    }

KERNELS_PRODUCTS_NEON(products_f16_neon, uint16_t, KERNELS_LOAD_F16, dot_mixed_any)
KERNELS_PRODUCTS_NEON(products_f32_neon, float, vld1q_f32, dot_f32_any)

static const kernels_t kernels_neon = {
    "neon",       dot_i8_neon,      dot_f16_neon,
    dot_f32_neon, squared_f16_neon, squared_f32_neon,
    {products_i8_neon, products_f16_neon, products_f32_neon},
};
static const kernels_t kernels_neondot = {
    "neondot",    dot_i8_neondot,   dot_f16_neon,
    dot_f32_neon, squared_f16_neon, squared_f32_neon,
    {products_i8_neondot, products_f16_neon, products_f32_neon},
};

#endif
