/* A block: up to DELTA_BLOCK numbers of one type, coded so that they come back bit for bit.
 *
 * Bytes: mode; 255 is followed by the numbers as they are. Else bits 0-2 are the form, 3 says that a guess by other
 * columns was taken off, 4-5 how many times differences were taken, 6 that there is a base, 7 that there are
 * exceptions. Then the table (FORM_TABLE, delta_table.h), digits (decimals), second digits (FORM_TWICE); exceptions:
 * how many, stream of the distances between
 * their places, stream of their bits; base, least number (zigzag); the number and the difference before the first
 * (zigzag), as many as differences were taken; stream of k; with a base stream of the rest;
 * with FORM_NEAR stream of the steps apart.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_BLOCK_H
#define NTMEM_DELTA_BLOCK_H

#include "delta_choice.h"
#include "delta_table.h"

#define BLOCK_RAW 255
#define BLOCK_STEP 1024 /* numbers that go through all stages of decoding while they are in a first-level cache */

static inline size_t block_room(size_t n)
{
    return 5 * STREAM_ROOM(n) + 128;
}

typedef struct {
    stream_work_t streams;
    choice_work_t choice;
    uint64_t integers[DELTA_BLOCK], rest[DELTA_BLOCK], places[DELTA_BLOCK], guessed[DELTA_BLOCK];
    uint64_t apart[DELTA_BLOCK];
    uint8_t wrong[DELTA_BLOCK];
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

/* Codes `n` > 0 numbers; `out` has block_room(n). Takes one byte more than the numbers do at most. */
static inline unsigned char *block_encode(block_work_t *work, unsigned type, const unsigned char *numbers, size_t n,
                                          const guess_t *guess, int level, unsigned char *const begin)
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
        choice = (choice_t){{FORM_TABLE, 0, 0}, block_order(work, n), 1, 0.0f};
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
        least = stream_level(x, n, &range);
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

/* Bits that `n` > 0 numbers would take, about. */
static inline float block_estimate(block_work_t *work, unsigned type, const unsigned char *numbers, size_t n,
                                   const guess_t *guess, int level)
{
    choice_t choice;

    choice_make(&work->choice, &work->streams, type, numbers, guess, n, level, &choice);
    return choice.cost;
}

/* ---- back -------------------------------------------------------------------------------------------------------- */

typedef struct {
    stream_t k, rest, apart;
    stream_room_t room, room_of_rest, room_of_apart;
    uint64_t x[BLOCK_STEP], r[BLOCK_STEP], guessed[BLOCK_STEP];
    uint8_t wrong[BLOCK_STEP];
    uint64_t places[DELTA_BLOCK], bits[DELTA_BLOCK];
} block_room_t;

/* Reads the exceptions into the room; returns how many. */
static inline size_t block_take_exceptions(block_room_t *room, delta_reader_t *reader, size_t n)
{
    const size_t count = (size_t)delta_take_upto(reader, n);
    uint64_t place = 0;

    if (reader->damaged || count == 0)
        return 0;
    for (int which = 0; which < 2; which++) {
        stream_open(&room->k, &room->room, reader, count);
        if (reader->damaged)
            return 0;
        stream_read(&room->k, which ? room->bits : room->places, count);
        if (stream_close(&room->k) != 0) {
            reader->damaged = 1;
            return 0;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (room->places[i] >= n - place) {
            reader->damaged = 1;
            return 0;
        }
        place += room->places[i];
        room->places[i] = place;
    }
    return count;
}

/* Sums up `order` times; `state` is the last number and the last difference. */
static inline void block_sum(uint64_t *x, size_t n, unsigned order, uint64_t *state)
{
    uint64_t number = state[0], difference = state[1];

    if (order == 1)
        for (size_t i = 0; i < n; i++)
            x[i] = number += x[i];
    else if (order == 2)
        for (size_t i = 0; i < n; i++) {
            difference += x[i];
            x[i] = number += difference;
        }
    state[0] = number;
    state[1] = difference;
}

/* Decodes `n` > 0 numbers; DELTA_SLACK bytes stand behind `data`. 0, or -1: damaged, and `numbers` is undefined. */
static inline int block_decode(block_room_t *room, unsigned type, const unsigned char *data, size_t data_size,
                               const guess_t *guess, size_t n, unsigned char *numbers)
{
    const size_t size = number_size(type);
    delta_reader_t reader = {data, data + data_size, 0};
    const unsigned mode = (unsigned)delta_take_byte(&reader), order = mode >> 4 & 3;
    form_t form = {mode & 7, 0, 0};
    uint64_t base = 1, least = 0, state[2] = {0, 0};
    size_t exceptions = 0, in_table = 0;

    if (reader.damaged || n == 0 || n > DELTA_BLOCK)
        return -1;
    if (mode == BLOCK_RAW) {
        if (data_size != n * size + 1)
            return -1;
        memcpy(numbers, data + 1, n * size);
        if (type == NUMBER_BOOL)
            for (size_t i = 0; i < n; i++)
                numbers[i] = numbers[i] != 0;
        return 0;
    }
    if (order > 2 || (order > 0 && n < 3) || !(mode & 8) != !guess->kind)
        return -1;
    if (form.mode == FORM_TABLE) {
        if (size != 8 || mode & (8 | 64 | 128))
            return -1;
    } else if (form.mode && type != NUMBER_FLOAT64 && (type != NUMBER_FLOAT32 || form.mode != FORM_DECIMAL))
        return -1;
    if (form.mode == (FORM_AGAIN | FORM_SINGLE) || (form.mode == FORM_NEAR && mode & 128))
        return -1;
    if (form_has_digits(form))
        form.digits = (unsigned)delta_take_upto(&reader, NUMBER_DIGITS);
    if (form.mode == FORM_TWICE)
        form.again = (unsigned)delta_take_upto(&reader, NUMBER_DIGITS);
    if (form.mode == FORM_TABLE)
        in_table = table_take(&room->k, &room->room, &reader, n, room->places);
    if (mode & 128)
        exceptions = block_take_exceptions(room, &reader, n);
    if (mode & 64) {
        base = delta_take(&reader);
        least = delta_unzigzag(delta_take(&reader));
    }
    if (order > 0)
        state[0] = delta_unzigzag(delta_take(&reader));
    if (order > 1)
        state[1] = delta_unzigzag(delta_take(&reader));
    if (reader.damaged)
        return -1;
    stream_open(&room->k, &room->room, &reader, n);
    if (mode & 64 && !reader.damaged)
        stream_open(&room->rest, &room->room_of_rest, &reader, n);
    if (form.mode == FORM_NEAR && !reader.damaged)
        stream_open(&room->apart, &room->room_of_apart, &reader, n);
    if (reader.damaged || reader.at != reader.end)
        return -1;
    for (size_t begin = 0; begin < n; begin += BLOCK_STEP) {
        const size_t count = n - begin < BLOCK_STEP ? n - begin : BLOCK_STEP;
        stream_read(&room->k, room->x, count);
        block_sum(room->x, count, order, state);
        if (mode & 64) {
            if (room->rest.n_bins == 1 && room->rest.widest == 0) {
                const uint64_t constant = least + room->rest.low[0];
                for (size_t i = 0; i < count; i++)
                    room->x[i] = room->x[i] * base + constant;
            } else {
                stream_read(&room->rest, room->r, count);
                for (size_t i = 0; i < count; i++)
                    room->x[i] = room->x[i] * base + room->r[i] + least;
            }
        }
        if (guess->kind) {
            guess_integers(guess, type, form, begin, count, room->guessed, room->r, room->wrong);
            for (size_t i = 0; i < count; i++)
                room->x[i] += room->guessed[i];
        }
        if (form.mode == FORM_TABLE) {
            if (table_look(room->places, in_table, room->x, count) != 0)
                return -1;
            form_to(type, (form_t){FORM_BITS, 0, 0}, room->x, count, numbers + begin * size);
        } else if (form.mode == FORM_NEAR) {
            stream_read(&room->apart, room->r, count);
            form_near(form, room->x, room->r, count, (double *)(void *)(numbers + begin * size));
        } else
            form_to(type, form, room->x, count, numbers + begin * size);
    }
    if (stream_close(&room->k) != 0 || (mode & 64 && stream_close(&room->rest) != 0) ||
        (form.mode == FORM_NEAR && stream_close(&room->apart) != 0))
        return -1;
    for (size_t i = 0; i < exceptions; i++)
        memcpy(numbers + room->places[i] * size, &room->bits[i], size);
    return 0;
}

#endif
