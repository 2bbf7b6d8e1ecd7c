/* Sorting numbers: by their bytes, and samples faster, by how far they are from the middle.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_SORT_H
#define NTMEM_DELTA_SORT_H

#include "delta_bytes.h"

/* Sorts by bytes from the lowest, only those that differ anywhere; `spare` has the same room. Returns which of the two
 * holds the result. */
static inline uint64_t *sort_bytes(uint64_t *numbers, uint64_t *spare, size_t n)
{
    uint64_t any = 0;

    for (size_t i = 0; i < n; i++)
        any |= numbers[i] ^ numbers[0];
    for (unsigned shift = 0; shift < 64 && any >> shift; shift += 8) {
        uint32_t place[256] = {0}, total = 0;
        uint64_t *sorted = spare;
        if ((any >> shift & 255) == 0)
            continue;
        for (size_t i = 0; i < n; i++)
            place[numbers[i] >> shift & 255]++;
        for (unsigned digit = 0; digit < 256; digit++) {
            const uint32_t count = place[digit];
            place[digit] = total;
            total += count;
        }
        for (size_t i = 0; i < n; i++)
            sorted[place[numbers[i] >> shift & 255]++] = numbers[i];
        spare = numbers;
        numbers = sorted;
    }
    return numbers;
}

#define SORT_DIGIT 11

/* As sort_bytes, for many: by the upper 33 bits, and what these leave by moving. */
static inline uint64_t *sort_many(uint64_t *numbers, uint64_t *spare, size_t n)
{
    uint32_t place[3][1 << SORT_DIGIT] = {{0}};
    uint64_t any = 0;
    unsigned width, first;
    size_t moves = 2 * n;

    for (size_t i = 0; i < n; i++)
        any |= numbers[i] ^ numbers[0];
    width = delta_width(any);
    if (n < 2048 || width <= 8)
        return sort_bytes(numbers, spare, n);
    first = width > 3 * SORT_DIGIT ? width - 3 * SORT_DIGIT : 0;
    for (size_t i = 0; i < n; i++)
        for (unsigned pass = 0; pass < 3; pass++)
            place[pass][numbers[i] >> first >> SORT_DIGIT * pass & ((1 << SORT_DIGIT) - 1)]++;
    for (unsigned pass = 0; pass < 3 && SORT_DIGIT * pass + first < width; pass++) {
        uint64_t *const sorted = spare;
        uint32_t total = 0;
        for (unsigned digit = 0; digit < 1 << SORT_DIGIT; digit++) {
            const uint32_t count = place[pass][digit];
            place[pass][digit] = total;
            total += count;
        }
        for (size_t i = 0; i < n; i++)
            sorted[place[pass][numbers[i] >> first >> SORT_DIGIT * pass & ((1 << SORT_DIGIT) - 1)]++] = numbers[i];
        spare = numbers;
        numbers = sorted;
    }
    for (size_t i = 1; i < n && first > 0; i++) {
        const uint64_t number = numbers[i];
        size_t at = i;
        for (; at > 0 && numbers[at - 1] > number && moves > 0; at--, moves--)
            numbers[at] = numbers[at - 1];
        numbers[at] = number;
        if (moves == 0)
            return sort_bytes(numbers, spare, n);
    }
    return numbers;
}

#define SORT_MOST 4096 /* numbers: above, too many have the same key */

/* A key of 16 bits in the order of the numbers: sign, width and nine more bits of the distance from `middle`. */
static inline unsigned sort_key(uint64_t number, uint64_t middle)
{
    const uint64_t distance = number - middle, sign = 0 - (distance >> 63), size = distance ^ sign;
    const unsigned shift = 63 - 9 - (unsigned)__builtin_clzll(size | 512);

    return ((((shift << 9) + (unsigned)(size >> shift)) ^ (unsigned)sign) + 32768) & 65535;
}

/* As sort_bytes, of numbers up to 2^62: two passes by key, and what these leave by moving. */
static inline uint64_t *sort_sample(uint64_t *numbers, uint64_t *spare, size_t n)
{
    uint32_t low[256] = {0}, high[256] = {0}, total_low = 0, total_high = 0;
    uint64_t middle[9], any = 0;
    size_t moves = 4 * n;

    for (size_t i = 0; i < n; i++)
        any |= numbers[i];
    if (n > SORT_MOST)
        return sort_many(numbers, spare, n);
    if (n < 16 || any < 65536 || any >> 62)
        return sort_bytes(numbers, spare, n);
    for (size_t i = 0; i < 9; i++) {
        const uint64_t number = numbers[i * (n - 1) / 8];
        size_t at = i;
        for (; at > 0 && middle[at - 1] > number; at--)
            middle[at] = middle[at - 1];
        middle[at] = number;
    }
    for (size_t i = 0; i < n; i++) {
        const unsigned key = sort_key(numbers[i], middle[4]);
        low[key & 255]++;
        high[key >> 8]++;
    }
    for (unsigned digit = 0; digit < 256; digit++) {
        const uint32_t count_low = low[digit], count_high = high[digit];
        low[digit] = total_low;
        high[digit] = total_high;
        total_low += count_low;
        total_high += count_high;
    }
    for (size_t i = 0; i < n; i++)
        spare[low[sort_key(numbers[i], middle[4]) & 255]++] = numbers[i];
    for (size_t i = 0; i < n; i++)
        numbers[high[sort_key(spare[i], middle[4]) >> 8]++] = spare[i];
    for (size_t i = 1; i < n; i++) {
        const uint64_t number = numbers[i];
        size_t at = i;
        for (; at > 0 && numbers[at - 1] > number && moves > 0; at--, moves--)
            numbers[at] = numbers[at - 1];
        numbers[at] = number;
        if (moves == 0) /* far from the middle lie many beside each other */
            return sort_bytes(numbers, spare, n);
    }
    return numbers;
}

#endif
