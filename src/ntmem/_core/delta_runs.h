/* Numbers that repeat: runs as values and lengths, two values as bits.
 *
 * Bytes: mode; then
 *   RUNS   how many runs; stream of their lengths - 1; a block of their values
 *   TURNS  runs of two values in turn: the first, the second (zigzag); how many runs; stream of their lengths - 1
 *   BITS   two values: that of 0, that of 1 (zigzag); a block of uint8, eight numbers each, the lowest bit first
 * The block inside is never one of these three.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_RUNS_H
#define NTMEM_DELTA_RUNS_H

#include "delta_number.h"

/* Modes: form 6 is none, which tells these from others. */
enum { RUNS_MODE = 0x06, RUNS_TURNS = 0x16, RUNS_BITS = 0x26 };

#define RUNS_SHARE 2 /* there are at most a half as many runs as numbers */

typedef struct {
    size_t count;
    int two;           /* there are just two values */
    uint64_t value[2]; /* their bits */
} runs_t;

static inline uint64_t runs_bits(const unsigned char *number, size_t size)
{
    uint64_t bits = 0;
    memcpy(&bits, number, size);
    return bits;
}

/* Sets bit i of `mask` where x[i] != y[i * step]: step 0 compares all with one number. */
#define RUNS_MASK(TYPE)                                                                                                \
    do {                                                                                                               \
        const TYPE *const x = (const void *)numbers, *const y = (const void *)others;                                  \
        for (size_t begin = 0; begin < n; begin += 64, mask++) {                                                       \
            uint8_t apart[64];                                                                                         \
            if (n - begin >= 64 && step)                                                                               \
                for (size_t i = 0; i < 64; i++)                                                                        \
                    apart[i] = x[begin + i] != y[begin + i];                                                           \
            else if (n - begin >= 64)                                                                                  \
                for (size_t i = 0; i < 64; i++)                                                                        \
                    apart[i] = x[begin + i] != y[0];                                                                   \
            else                                                                                                       \
                for (size_t i = 0; i < 64; i++)                                                                        \
                    apart[i] = begin + i < n && x[begin + i] != y[(begin + i) * step];                                 \
            *mask = 0;                                                                                                 \
            for (unsigned i = 0; i < 8; i++)                                                                           \
                *mask |= (delta_load(apart + 8 * i) * 0x0102040810204080ull >> 56) << 8 * i;                           \
        }                                                                                                              \
    } while (0)

static inline void runs_mask_plain(const unsigned char *numbers, const unsigned char *others, size_t step, size_t size,
                                   size_t n, uint64_t *mask)
{
    switch (size) {
    case 1:
        RUNS_MASK(uint8_t);
        break;
    case 2:
        RUNS_MASK(uint16_t);
        break;
    case 4:
        RUNS_MASK(uint32_t);
        break;
    default:
        RUNS_MASK(uint64_t);
    }
}

DELTA_TWICE(void, runs_mask, runs_mask_plain,
            (const unsigned char *numbers, const unsigned char *others, size_t step, size_t size, size_t n,
             uint64_t *mask),
            (numbers, others, step, size, n, mask))

static inline size_t runs_bits_set(const uint64_t *mask, size_t n)
{
    size_t count = 0;

    for (size_t i = 0; i < (n + 63) / 64; i++)
        count += (size_t)__builtin_popcountll(mask[i]);
    return count;
}

/* Finds the runs of `n` > 0 numbers: bit i of `turns` tells that number i + 1 is another than the one before, bit i of
 * `first` that number i is not the first value; both have room for DELTA_BLOCK bits. */
static inline void runs_find(const unsigned char *numbers, size_t size, size_t n, uint64_t *turns, uint64_t *first,
                             runs_t *runs)
{
    uint64_t third[4];
    size_t other = 1;

    runs_mask(numbers + size, numbers, 1, size, n - 1, turns);
    runs->count = 1 + runs_bits_set(turns, n - 1);
    runs->value[0] = runs->value[1] = runs_bits(numbers, size);
    runs->two = runs->count > 1;
    if (!runs->two)
        return;
    while (runs_bits(numbers + other * size, size) == runs->value[0])
        other++;
    runs->value[1] = runs_bits(numbers + other * size, size);
    for (size_t begin = 0; begin < n && runs->two; begin += 256) {
        const size_t m = n - begin < 256 ? n - begin : 256;
        const unsigned char *const at = numbers + begin * size;
        runs_mask(at, numbers, 0, size, m, first + begin / 64);
        runs_mask(at, numbers + other * size, 0, size, m, third);
        for (size_t i = 0; i < m; i += 64)
            third[i / 64] &= first[(begin + i) / 64];
        runs->two = runs_bits_set(third, m) == 0;
    }
}

/* Values and lengths - 1 of the runs. */
static inline void runs_part(const unsigned char *numbers, size_t size, size_t n, const uint64_t *turns,
                             unsigned char *values, uint64_t *lengths)
{
    size_t begin = 0;

    for (size_t i = 0; i < n; i += 64) {
        uint64_t left = i + 1 < n ? turns[i / 64] : 0;
        for (; left; left &= left - 1) {
            const size_t next = i + (size_t)__builtin_ctzll(left) + 1;
            memcpy(values, numbers + begin * size, size);
            values += size;
            *lengths++ = next - begin - 1;
            begin = next;
        }
    }
    memcpy(values, numbers + begin * size, size);
    *lengths = n - begin - 1;
}

/* ---- back -------------------------------------------------------------------------------------------------------- */

/* Puts runs; values[i & in_turn] is that of run i. -1: they are not as long as `n` numbers. */
#define RUNS_FILL(TYPE, AT_ONCE)                                                                                       \
    do {                                                                                                               \
        TYPE *const x = (void *)numbers;                                                                               \
        const TYPE *const value = (const void *)values;                                                                \
        for (size_t i = 0; i < count; i++) {                                                                           \
            const uint64_t length = lengths[i];                                                                        \
            const TYPE number = value[i & in_turn];                                                                    \
            if (length >= n - at)                                                                                      \
                return -1;                                                                                             \
            if (n - at - length > (AT_ONCE)) /* in pieces, beyond the end of the run: the next ones overwrite it */    \
                for (size_t k = 0; k <= length; k += (AT_ONCE))                                                        \
                    for (size_t j = 0; j < (AT_ONCE); j++)                                                             \
                        x[at + k + j] = number;                                                                        \
            else                                                                                                       \
                for (size_t k = 0; k <= length; k++)                                                                   \
                    x[at + k] = number;                                                                                \
            at += length + 1;                                                                                          \
        }                                                                                                              \
    } while (0)

static inline int runs_fill_plain(const unsigned char *values, size_t in_turn, const uint64_t *lengths, size_t count,
                                  size_t size, size_t n, unsigned char *numbers)
{
    size_t at = 0;

    switch (size) {
    case 1:
        RUNS_FILL(uint8_t, 32);
        break;
    case 2:
        RUNS_FILL(uint16_t, 16);
        break;
    case 4:
        RUNS_FILL(uint32_t, 8);
        break;
    default:
        RUNS_FILL(uint64_t, 4);
    }
    return at == n ? 0 : -1;
}

DELTA_TWICE(int, runs_fill, runs_fill_plain,
            (const unsigned char *values, size_t in_turn, const uint64_t *lengths, size_t count, size_t size, size_t n,
             unsigned char *numbers),
            (values, in_turn, lengths, count, size, n, numbers))

#define RUNS_CHOOSE(TYPE)                                                                                              \
    for (size_t i = 0; i < n; i++)                                                                                     \
    ((TYPE *)(void *)numbers)[i] = (TYPE)(value[0] ^ (apart & (0 - (uint64_t)(packed[i >> 3] >> (i & 7) & 1))))

static inline void runs_unpack_plain(const unsigned char *packed, const uint64_t *value, size_t size, size_t n,
                                     unsigned char *numbers)
{
    const uint64_t apart = value[0] ^ value[1];
    size_t i = 0;

    switch (size) {
    case 1:
        for (; i + 8 <= n; i += 8) { /* bit k of the byte becomes byte k of a word, 0 or 255 */
            uint64_t word = packed[i >> 3] * 0x0101010101010101ull & 0x8040201008040201ull;
            word = ((word + 0x00406070787C7E7Full) >> 7 & 0x0101010101010101ull) * (apart & 255);
            word ^= (value[0] & 255) * 0x0101010101010101ull;
            memcpy(numbers + i, &word, 8);
        }
        for (; i < n; i++)
            numbers[i] = (uint8_t)value[packed[i >> 3] >> (i & 7) & 1];
        break;
    case 2:
        RUNS_CHOOSE(uint16_t);
        break;
    case 4:
        RUNS_CHOOSE(uint32_t);
        break;
    default:
        RUNS_CHOOSE(uint64_t);
    }
}

DELTA_TWICE(void, runs_unpack, runs_unpack_plain,
            (const unsigned char *packed, const uint64_t *value, size_t size, size_t n, unsigned char *numbers),
            (packed, value, size, n, numbers))

#endif
