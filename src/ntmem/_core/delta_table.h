/* A table of all the numbers that occur in a block, for numbers that repeat but lie on no grid.
 *
 * Bytes: how many, the least (zigzag), stream of the distances between neighbours; numbers are then places in it.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_TABLE_H
#define NTMEM_DELTA_TABLE_H

#include "delta_stream.h"

#define TABLE_LEAST 1024 /* numbers: below, tables do not pay */
#define TABLE_SAMPLE 1024

static inline size_t table_unique(uint64_t *sorted, size_t n)
{
    size_t count = 1;

    for (size_t i = 1; i < n; i++)
        if (sorted[i] != sorted[count - 1])
            sorted[count++] = sorted[i];
    return count;
}

/* Makes the table of `n` numbers and puts places for them, or returns 0: it would not save a seventh of `bits`, about,
 * which is what finding and looking up is worth. The
 * table is then in `*table`, in room of `work`. */
static inline size_t table_make(stream_work_t *work, uint64_t *numbers, size_t n, float bits, uint64_t **table)
{
    const size_t step = n / TABLE_SAMPLE;
    uint64_t *sorted;
    size_t count;
    float cost;

    if (n < TABLE_LEAST)
        return 0;
    /* Order as unsigned numbers: the table need not be in the order of its numbers. */
    for (size_t i = 0; i < TABLE_SAMPLE; i++)
        work->sorted[0][i] = numbers[i * step];
    sorted = sort_bytes(work->sorted[0], work->sorted[1], TABLE_SAMPLE);
    if (table_unique(sorted, TABLE_SAMPLE) + 8 > TABLE_SAMPLE)
        return 0;
    memcpy(work->sorted[0], numbers, n * sizeof *numbers);
    sorted = sort_many(work->sorted[0], work->sorted[1], n);
    count = table_unique(sorted, n);
    if (count < 2)
        return 0;
    cost = (float)n * delta_log2((float)count) +
           (float)count * (delta_log2((float)(sorted[count - 1] - sorted[0]) / (float)count + 1.0f) + 1.0f);
    if (count > n / 3 || cost > 0.85f * bits)
        return 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t number = numbers[i];
        const uint64_t *from = sorted;
        for (size_t left = count; left > 1;) {
            const size_t half = left / 2;
            from += from[half] <= number ? half : 0;
            left -= half;
        }
        numbers[i] = (uint64_t)(from - sorted);
    }
    *table = sorted;
    return count;
}

/* `distances` is room for `count` numbers. */
static inline unsigned char *table_put(stream_work_t *work, const uint64_t *table, size_t count, uint64_t *distances,
                                       unsigned char *out)
{
    out = delta_put(out, count);
    out = delta_put(out, delta_zigzag(table[0]));
    for (size_t i = 1; i < count; i++)
        distances[i - 1] = table[i] - table[i - 1];
    return stream_encode(work, distances, count - 1, DELTA_BEST, out);
}

/* Reads the table; returns how many it has, 0: damaged. */
static inline size_t table_take(stream_t *stream, stream_room_t *room, delta_reader_t *reader, size_t n,
                                uint64_t *table)
{
    const size_t count = (size_t)delta_take_upto(reader, n);

    table[0] = delta_unzigzag(delta_take(reader));
    if (reader->damaged || count < 2) {
        reader->damaged = 1;
        return 0;
    }
    stream_open(stream, room, reader, count - 1);
    if (reader->damaged)
        return 0;
    stream_read(stream, table + 1, count - 1);
    if (stream_close(stream) != 0)
        reader->damaged = 1;
    for (size_t i = 1; i < count; i++)
        table[i] += table[i - 1];
    return count;
}

/* Numbers for their places; -1: one is not in the table. */
static inline int table_look(const uint64_t *table, size_t count, uint64_t *numbers, size_t n)
{
    int outside = 0;

    for (size_t i = 0; i < n; i++) {
        const uint64_t place = numbers[i];
        outside |= place >= count;
        numbers[i] = table[place < count ? place : 0];
    }
    return -outside;
}

#endif
