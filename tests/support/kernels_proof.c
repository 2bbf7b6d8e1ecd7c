/* Sets of kernels for processors other than the one at hand, against plain C; run by test_kernels_elsewhere.py.
 *
 * Products of int8 and scans of them are to be the same on every bit, products of floats near those of double. With
 * PROOF_SIMDE the AVX-512 set is compiled from SIMDe's emulation of its instructions, for a machine with AVX2. The names of
 * the sets that are to be proven are the arguments; prints what was proven.
 */
#ifdef PROOF_SIMDE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#define KERNELS_AVX512
#define _mm512_maskz_loadu_epi8(mask, from) masked(mask, from) /* which SIMDe 0.7 has not */

static __m512i masked(uint64_t mask, const int8_t *from)
{
    int8_t bytes[64];

    for (int i = 0; i < 64; i++)
        bytes[i] = mask >> i & 1 ? from[i] : 0;
    return simde_mm512_loadu_si512(bytes);
}
#endif
#include "scan.h"

#include <stdio.h>
#include <stdlib.h>

#define MOST 300 /* dimensions */
#define ROWS 333

static int8_t bytes[ROWS + 1][MOST];
static uint16_t halves[ROWS + 1][MOST];
static float floats[ROWS + 1][MOST];
static uint64_t state = 1;

static uint32_t chance(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* Of 0 all numbers are as large as they may be, else any. */
static void fill(int round)
{
    for (size_t row = 0; row <= ROWS; row++)
        for (size_t i = 0; i < MOST; i++) {
            const uint32_t number = chance();
            bytes[row][i] = (int8_t)(round == 0 ? (number & 1 ? 127 : -127) : (int)(number % 255) - 127);
            /* subnormal ones too; up to 2 */
            halves[row][i] = (uint16_t)((number & 0x8000u) | number % (round == 1 ? 0x800u : 0x4000u));
            floats[row][i] = half_of(halves[row][i]);
        }
}

static void fail(const char *set, const char *what, size_t n)
{
    printf("%s: %s of %zu dimensions\n", set, what, n);
    exit(1);
}

static void near(const char *set, const char *what, size_t n, float found, const float *a, const float *b, int distance)
{
    double wanted = 0, sizes = 0;

    for (size_t i = 0; i < n; i++) {
        const double term = distance ? ((double)a[i] - b[i]) * ((double)a[i] - b[i]) : (double)a[i] * b[i];
        wanted += term;
        sizes += fabs(term);
    }
    if (!(fabs(found - wanted) <= sizes * (double)(n / 4 + 8) * 0x1p-23))
        fail(set, what, n);
}

static void prove_pairs(const kernels_t *set, size_t n)
{
    const int8_t *a = bytes[0], *b = bytes[ROWS];
    const float *x = floats[0], *y = floats[ROWS];

    if (set->dot_i8(a, b, n) != dot_i8_any(a, b, n))
        fail(set->name, "dot_i8", n);
    near(set->name, "dot_f16", n, set->dot_f16(halves[0], halves[ROWS], n), x, y, 0);
    near(set->name, "dot_f32", n, set->dot_f32(x, y, n), x, y, 0);
    near(set->name, "squared_f16", n, set->squared_f16(halves[0], halves[ROWS], n), x, y, 1);
    near(set->name, "squared_f32", n, set->squared_f32(x, y, n), x, y, 1);
}

static void prove_rows(const kernels_t *set, size_t n)
{
    const size_t at[KERNELS_ROWS] = {0, 3, 3, 7};
    const void *rows[KERNELS_KINDS][KERNELS_ROWS];
    float found[KERNELS_ROWS];

    for (size_t k = 0; k < KERNELS_ROWS; k++) {
        rows[KERNELS_I8][k] = bytes[at[k]];
        rows[KERNELS_F16][k] = halves[at[k]];
        rows[KERNELS_F32][k] = floats[at[k]];
    }
    set->products[KERNELS_I8](rows[KERNELS_I8], bytes[ROWS], n, found);
    for (size_t k = 0; k < KERNELS_ROWS; k++)
        if (found[k] != (float)dot_i8_any(bytes[at[k]], bytes[ROWS], n))
            fail(set->name, "products of int8", n);
    for (int kind = KERNELS_F16; kind <= KERNELS_F32; kind++) {
        set->products[kind](rows[kind], floats[ROWS], n, found);
        for (size_t k = 0; k < KERNELS_ROWS; k++)
            near(set->name, "products of floats", n, found[k], floats[at[k]], floats[ROWS], 0);
        if (found[1] != found[2])
            fail(set->name, "products of one row at two places", n);
    }
}

static size_t scan(const kernels_t *set, size_t n, const uint64_t *allowed, scanned_t *found)
{
    const size_t middle = 128;
    scan_rows_t rows = {bytes, MOST, middle, KERNELS_I8, 0, NULL, NULL, allowed};
    size_t count = scan_best(set, &rows, bytes[ROWS], 0.5f, n, found, 20, 0);

    rows = (scan_rows_t){bytes[middle], MOST, ROWS - middle, KERNELS_I8, middle, NULL, NULL,
                         allowed == NULL ? NULL : allowed + middle / 64};
    count = scan_best(set, &rows, bytes[ROWS], 0.5f, n, found, 20, count);
    scanned_sort(found, count);
    return count;
}

static void prove_scan(const kernels_t *set, size_t n)
{
    uint64_t allowed[ROWS / 64 + 1];
    scanned_t found[20], wanted[20];

    for (int bits = 0; bits < 3; bits++) {
        for (size_t word = 0; word <= ROWS / 64; word++)
            allowed[word] = bits == 1 ? 1ull << chance() % 64 : (uint64_t)chance() << 33 ^ chance();
        const size_t count = scan(set, n, bits == 0 ? NULL : allowed, found);
        if (count != scan(&kernels_any, n, bits == 0 ? NULL : allowed, wanted))
            fail(set->name, "how many a scan found,", n);
        for (size_t i = 0; i < count; i++)
            if (found[i].row != wanted[i].row || found[i].value != wanted[i].value)
                fail(set->name, "scan", n);
    }
}

static const kernels_t *set_of(const char *name)
{
#ifdef PROOF_SIMDE
    if (strcmp(name, kernels_avx512vnni.name) == 0)
        return &kernels_avx512vnni;
#endif
    for (size_t place = 0; kernels_at(place) != NULL; place++)
        if (strcmp(name, kernels_at(place)->name) == 0)
            return kernels_at(place);
    return NULL;
}

int main(int count, char **names)
{
    for (size_t place = 0; kernels_at(place) != NULL; place++)
        printf("%s runs\n", kernels_at(place)->name);
    for (int name = 1; name < count; name++) {
        const kernels_t *set = set_of(names[name]);
        if (set == NULL) {
            printf("there is no %s\n", names[name]);
            return 1;
        }
        for (int round = 0; round < 4; round++) {
            fill(round);
            for (size_t n = 1; n <= MOST; n++) {
                prove_pairs(set, n);
                prove_rows(set, n);
                if (n % 37 == 1)
                    prove_scan(set, n);
            }
        }
        printf("%s is proven\n", set->name);
    }
    return 0;
}
