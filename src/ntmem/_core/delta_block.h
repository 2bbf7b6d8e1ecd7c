/* A block: up to DELTA_BLOCK numbers of one type, coded so that they come back bit for bit.
 *
 * Bytes: mode; 255 is followed by the numbers as they are. Else bits 0-2 are the form, 3 says that a guess by other
 * columns was taken off, 4-5 how many times differences were taken, 6 that there is a base, 7 that there are
 * exceptions. Then the table (FORM_TABLE, delta_table.h), digits (decimals), second digits (FORM_TWICE); exceptions:
 * how many, stream of the distances between their places, stream of their bits; base, least number (zigzag); the
 * number and the difference before the first (zigzag), as many as differences were taken; stream of k; with a base
 * stream of the rest; with FORM_NEAR stream of the steps apart.
 *
 * Modes of form 6 are those of delta_runs.h.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_BLOCK_H
#define NTMEM_DELTA_BLOCK_H

#include "delta_choice.h"
#include "delta_runs.h"
#include "delta_table.h"

#define BLOCK_RAW 255
#define BLOCK_RUNS_LEAST 64 /* numbers: below, runs are not looked for */
#define BLOCK_RUNS_LENGTH 3 /* on the average: below, runs are not shorter than numbers */

static inline size_t block_room(size_t n)
{
    return 6 * STREAM_ROOM(n) + 256;
}

typedef struct {
    stream_work_t streams;
    choice_work_t choice;
    uint64_t integers[DELTA_BLOCK], rest[DELTA_BLOCK], places[DELTA_BLOCK], guessed[DELTA_BLOCK];
    uint64_t apart[DELTA_BLOCK];
    uint8_t wrong[DELTA_BLOCK];
    uint64_t values[DELTA_BLOCK / RUNS_SHARE + 1], lengths[DELTA_BLOCK / RUNS_SHARE + 1];
    uint64_t turns[DELTA_BLOCK / 64], first[DELTA_BLOCK / 64];
} block_work_t;

/* Moves exceptions out of the way: they repeat the number before. Returns how many there are. */
static inline size_t block_part(block_work_t *work, unsigned type, const unsigned char *numbers, size_t n)
{
    const size_t size = number_size(type);
    size_t count = 0, before = 0, sound = 0;
    uint64_t last;

    while (sound < n && work->wrong[sound])
        sound++;
    last = sound < n ? work->integers[sound] : 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = 0;
        if (!work->wrong[i]) {
            last = work->integers[i];
            continue;
        }
        memcpy(&bits, numbers + i * size, size);
        work->integers[i] = last;
        work->places[count] = i - before;
        work->rest[count++] = bits;
        before = i;
    }
    return count;
}

/* Parts base * k + rest, k staying in place. Division by multiplication with a reciprocal that may be one short. */
static inline void block_divide(uint64_t *numbers, uint64_t *rest, size_t n, uint64_t base)
{
    const uint64_t reciprocal = UINT64_MAX / base;

    for (size_t i = 0; i < n; i++) {
        uint64_t k = (uint64_t)((unsigned __int128)numbers[i] * reciprocal >> 64);
        uint64_t left = numbers[i] - k * base;
        while (left >= base) {
            left -= base;
            k++;
        }
        numbers[i] = k;
        rest[i] = left;
    }
}

/* Whether places in a table are shorter themselves or as differences, by some in the middle. */
static inline unsigned block_order(block_work_t *work, size_t n)
{
    uint64_t *const sample = work->choice.trial, *const x = work->integers + n / 2;
    const size_t m = n / 4 < CHOICE_SAMPLE ? n / 4 : CHOICE_SAMPLE;
    float plain, difference;

    memcpy(sample, x, m * sizeof *x);
    plain = stream_estimate(&work->streams, sample, m, n);
    for (size_t i = 0; i < m; i++)
        sample[i] = x[i] - x[i - 1];
    difference = stream_estimate(&work->streams, sample, m, n);
    return difference < plain;
}

static inline unsigned char *block_put_raw(const unsigned char *numbers, size_t size, unsigned char *out)
{
    *out++ = BLOCK_RAW;
    memcpy(out, numbers, size);
    return out + size;
}

/* Codes `n` > 0 numbers by themselves, not as runs; as block_encode. */
static inline unsigned char *block_encode_each(block_work_t *work, unsigned type, const unsigned char *numbers,
                                               size_t n, const guess_t *guess, int level, unsigned char *const begin)
{
    uint64_t *const x = work->integers;
    unsigned char *out = begin, *mode = out++;
    choice_t choice;
    uint64_t least = 0, range;
    uint64_t *table = NULL;
    size_t wrong = 0, in_table = 0;

    choice_make(&work->choice, &work->streams, type, numbers, guess, n, level, &choice);
    if (n < 3)
        choice.order = 0;
    if (level == DELTA_BEST && !guess->kind && number_size(type) == 8 && choice.cost > 12.0f * (float)n) {
        form_from(type, (form_t){FORM_BITS, 0, 0}, numbers, n, x, work->wrong);
        in_table = table_make(&work->streams, x, n, choice.cost, &table);
    }
    if (!in_table && choice.cost >= 8.0f * (float)(n * number_size(type)))
        return block_put_raw(numbers, n * number_size(type), begin);
    if (in_table) {
        out = table_put(&work->streams, table, in_table, work->rest, out); /* before its room is used again */
        choice = (choice_t){{FORM_TABLE, 0, 0}, block_order(work, n), 1, 0, 0.0f};
    }
    *mode = (unsigned char)(choice.form.mode | (guess->kind ? 8 : 0) | choice.order << 4 | (choice.base > 1 ? 64 : 0));
    if (form_has_digits(choice.form))
        *out++ = (unsigned char)choice.form.digits;
    if (choice.form.mode == FORM_TWICE)
        *out++ = (unsigned char)choice.form.again;
    if (!in_table)
        form_from(type, choice.form, numbers, n, x, work->wrong);
    if (choice.form.mode == FORM_NEAR)
        form_apart(choice.form, (const double *)(const void *)numbers, x, n, work->apart);
    else if (choice.form.mode && !in_table)
        wrong = block_part(work, type, numbers, n);
    if (wrong > 0) {
        *mode |= 128;
        out = delta_put(out, wrong);
        out = stream_encode(&work->streams, work->places, wrong, level, out);
        out = stream_encode(&work->streams, work->rest, wrong, level, out);
    }
    if (guess->kind) {
        guess_integers(guess, type, choice.form, 0, n, work->guessed, work->rest, work->wrong);
        for (size_t i = 0; i < n; i++)
            x[i] -= work->guessed[i];
    }
    if (choice.base > 1) {
        least = stream_level(x, n, &range) - choice.phase;
        for (size_t i = 0; i < n && choice.phase; i++)
            x[i] += choice.phase;
        out = delta_put(out, choice.base);
        out = delta_put(out, delta_zigzag(least));
        block_divide(x, work->rest, n, choice.base);
    }
    if (choice.order == 1) {
        const uint64_t first = x[0];
        for (size_t i = n - 1; i > 0; i--)
            x[i] -= x[i - 1];
        x[0] = x[1]; /* any value will do, so one that is there; the seed makes up for it */
        out = delta_put(out, delta_zigzag(first - x[0]));
    } else if (choice.order == 2) {
        const uint64_t first = x[0], step = x[1] - x[0];
        for (size_t i = n - 1; i > 1; i--)
            x[i] -= 2 * x[i - 1] - x[i - 2];
        x[0] = x[1] = x[2];
        out = delta_put(out, delta_zigzag(first - (step - x[0])));
        out = delta_put(out, delta_zigzag(step - 2 * x[0]));
    }
    out = stream_encode(&work->streams, x, n, level, out);
    if (choice.base > 1)
        out = stream_encode(&work->streams, work->rest, n, level, out);
    if (choice.form.mode == FORM_NEAR)
        out = stream_encode(&work->streams, work->apart, n, level, out);
    if ((size_t)(out - begin) > n * number_size(type))
        return block_put_raw(numbers, n * number_size(type), begin);
    return out;
}

/* Numbers that are all the same, or as far apart as the first two; NULL: they are not. */
static inline unsigned char *block_put_regular(unsigned type, const unsigned char *numbers, size_t n,
                                               const runs_t *runs, unsigned char *out)
{
    const uint64_t *const x = (const void *)numbers;
    uint64_t number, step, other = 0;
    uint8_t wrong;

    if (runs->count == 1) {
        form_from(type, (form_t){FORM_BITS, 0, 0}, numbers, 1, &number, &wrong);
        *out++ = FORM_BITS;
        out = delta_put(out, delta_zigzag(number));
        *out++ = STREAM_CONSTANT;
        return out;
    }
    if ((type != NUMBER_INT64 && type != NUMBER_UINT64) || n < 3 || runs->count != n)
        return NULL;
    step = x[1] - x[0];
    for (size_t begin = 1; begin < n; begin += 64) {
        const size_t end = n - begin < 64 ? n : begin + 64;
        for (size_t i = begin; i < end; i++)
            other |= x[i] - x[i - 1] - step;
        if (other)
            return NULL;
    }
    *out++ = FORM_BITS | 1 << 4;
    out = delta_put(out, delta_zigzag(x[0] - step));
    out = delta_put(out, delta_zigzag(step));
    *out++ = STREAM_CONSTANT;
    return out;
}

static inline unsigned char *block_put_runs(block_work_t *work, unsigned type, const unsigned char *numbers, size_t n,
                                            const runs_t *runs, int level, unsigned char *out)
{
    const size_t size = number_size(type);
    const guess_t none = {GUESS_NONE, NULL, NULL};
    unsigned char *const values = (unsigned char *)work->values;

    runs_part(numbers, size, n, work->turns, values, work->lengths);
    *out++ = runs->two ? RUNS_TURNS : RUNS_MODE;
    if (runs->two) {
        out = delta_put(out, delta_zigzag(runs->value[0]));
        out = delta_put(out, delta_zigzag(runs->value[1]));
    }
    out = delta_put(out, runs->count);
    out = stream_encode(&work->streams, work->lengths, runs->count, level, out);
    return runs->two ? out : block_encode_each(work, type, values, runs->count, &none, level, out);
}

static inline unsigned char *block_put_bits(block_work_t *work, size_t n, const runs_t *runs, int level,
                                            unsigned char *out)
{
    const guess_t none = {GUESS_NONE, NULL, NULL};

    *out++ = RUNS_BITS;
    out = delta_put(out, delta_zigzag(runs->value[0]));
    out = delta_put(out, delta_zigzag(runs->value[1]));
    return block_encode_each(work, NUMBER_UINT8, (const unsigned char *)work->first, (n + 7) / 8, &none, level, out);
}

/* Codes `n` > 0 numbers; `out` has block_room(n). Takes one byte more than the numbers do at most. */
static inline unsigned char *block_encode(block_work_t *work, unsigned type, const unsigned char *numbers, size_t n,
                                          const guess_t *guess, int level, unsigned char *const begin)
{
    const size_t size = number_size(type);
    runs_t runs;
    unsigned char *out;

    if (guess->kind)
        return block_encode_each(work, type, numbers, n, guess, level, begin);
    runs_find(numbers, size, n, work->turns, work->first, &runs);
    out = block_put_regular(type, numbers, n, &runs, begin);
    if (out == NULL && n >= BLOCK_RUNS_LEAST && runs.count <= n / BLOCK_RUNS_LENGTH)
        out = block_put_runs(work, type, numbers, n, &runs, level, begin);
    else if (out == NULL && n >= BLOCK_RUNS_LEAST && runs.two)
        out = block_put_bits(work, n, &runs, level, begin);
    if (out == NULL)
        return block_encode_each(work, type, numbers, n, guess, level, begin);
    return (size_t)(out - begin) > n * size ? block_put_raw(numbers, n * size, begin) : out;
}

/* Bits that `n` > 0 numbers would take, about. */
static inline float block_estimate(block_work_t *work, unsigned type, const unsigned char *numbers, size_t n,
                                   const guess_t *guess, int level)
{
    choice_t choice;

    choice_make(&work->choice, &work->streams, type, numbers, guess, n, level, &choice);
    return choice.cost;
}

#endif
