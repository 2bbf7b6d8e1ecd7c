/* Decoding a block: the bytes are told in delta_block.h.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_BLOCK_READ_H
#define NTMEM_DELTA_BLOCK_READ_H

#include "delta_block.h"

#define BLOCK_STEP 1024 /* numbers that go through all stages while they are in a first-level cache */

typedef struct {
    stream_t k, rest, apart;
    stream_room_t room, room_of_rest, room_of_apart;
    uint64_t x[BLOCK_STEP], r[BLOCK_STEP], guessed[BLOCK_STEP];
    uint8_t wrong[BLOCK_STEP];
    uint64_t places[DELTA_BLOCK], bits[DELTA_BLOCK];
    uint64_t values[DELTA_BLOCK / RUNS_SHARE], lengths[DELTA_BLOCK / RUNS_SHARE];
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

typedef struct {
    form_t form;
    unsigned order, has_base;
    uint64_t base, least, state[2]; /* state: the last number and the last difference */
    size_t in_table;
} block_shape_t;

/* All stages for `n` numbers whose streams are open; -1: a place that is not in the table. */
static inline int block_steps_plain(block_room_t *room, unsigned type, block_shape_t *shape, const guess_t *guess,
                                    size_t n, unsigned char *numbers)
{
    const size_t size = number_size(type);

    for (size_t begin = 0; begin < n; begin += BLOCK_STEP) {
        const size_t count = n - begin < BLOCK_STEP ? n - begin : BLOCK_STEP;
        stream_read(&room->k, room->x, count);
        block_sum(room->x, count, shape->order, shape->state);
        if (shape->has_base) {
            if (room->rest.n_bins == 1 && room->rest.widest == 0) {
                const uint64_t constant = shape->least + room->rest.bin[0].low;
                for (size_t i = 0; i < count; i++)
                    room->x[i] = room->x[i] * shape->base + constant;
            } else {
                stream_read(&room->rest, room->r, count);
                for (size_t i = 0; i < count; i++)
                    room->x[i] = room->x[i] * shape->base + room->r[i] + shape->least;
            }
        }
        if (guess->kind) {
            guess_integers(guess, type, shape->form, begin, count, room->guessed, room->r, room->wrong);
            for (size_t i = 0; i < count; i++)
                room->x[i] += room->guessed[i];
        }
        if (shape->form.mode == FORM_TABLE) {
            if (table_look(room->places, shape->in_table, room->x, count) != 0)
                return -1;
            form_to(type, (form_t){FORM_BITS, 0, 0}, room->x, count, numbers + begin * size);
        } else if (shape->form.mode == FORM_NEAR) {
            stream_read(&room->apart, room->r, count);
            form_near(shape->form, room->x, room->r, count, (double *)(void *)(numbers + begin * size));
        } else
            form_to(type, shape->form, room->x, count, numbers + begin * size);
    }
    return 0;
}

DELTA_TWICE(int, block_steps, block_steps_plain,
            (block_room_t * room, unsigned type, block_shape_t *shape, const guess_t *guess, size_t n,
             unsigned char *numbers),
            (room, type, shape, guess, n, numbers))

/* As block_decode, of what is not one of runs. */
static inline int block_decode_each(block_room_t *room, unsigned type, unsigned char *data, size_t data_size,
                               const guess_t *guess, size_t n, unsigned char *numbers)
{
    const size_t size = number_size(type);
    delta_reader_t reader = {data, data + data_size, 0, data};
    const unsigned mode = (unsigned)delta_take_byte(&reader), order = mode >> 4 & 3;
    block_shape_t shape = {{mode & 7, 0, 0}, order, mode & 64, 1, 0, {0, 0}, 0};
    form_t *const form = &shape.form;
    size_t exceptions = 0;

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
    if (form->mode == FORM_TABLE) {
        if (size != 8 || mode & (8 | 64 | 128))
            return -1;
    } else if (form->mode && type != NUMBER_FLOAT64 && (type != NUMBER_FLOAT32 || form->mode != FORM_DECIMAL))
        return -1;
    if (form->mode == (FORM_AGAIN | FORM_SINGLE) || (form->mode == FORM_NEAR && mode & 128))
        return -1;
    if (form_has_digits(*form))
        form->digits = (unsigned)delta_take_upto(&reader, NUMBER_DIGITS);
    if (form->mode == FORM_TWICE)
        form->again = (unsigned)delta_take_upto(&reader, NUMBER_DIGITS);
    if (form->mode == FORM_TABLE)
        shape.in_table = table_take(&room->k, &room->room, &reader, n, room->places);
    if (mode & 128)
        exceptions = block_take_exceptions(room, &reader, n);
    if (mode & 64) {
        shape.base = delta_take(&reader);
        shape.least = delta_unzigzag(delta_take(&reader));
    }
    if (order > 0)
        shape.state[0] = delta_unzigzag(delta_take(&reader));
    if (order > 1)
        shape.state[1] = delta_unzigzag(delta_take(&reader));
    if (reader.damaged)
        return -1;
    stream_open(&room->k, &room->room, &reader, n);
    if (mode & 64 && !reader.damaged)
        stream_open(&room->rest, &room->room_of_rest, &reader, n);
    if (form->mode == FORM_NEAR && !reader.damaged)
        stream_open(&room->apart, &room->room_of_apart, &reader, n);
    if (reader.damaged || reader.at != reader.end)
        return -1;
    if (block_steps(room, type, &shape, guess, n, numbers) != 0)
        return -1;
    if (stream_close(&room->k) != 0 || (mode & 64 && stream_close(&room->rest) != 0) ||
        (form->mode == FORM_NEAR && stream_close(&room->apart) != 0))
        return -1;
    for (size_t i = 0; i < exceptions; i++)
        memcpy(numbers + room->places[i] * size, &room->bits[i], size);
    return 0;
}

static inline int block_take_lengths(block_room_t *room, delta_reader_t *reader, size_t n, size_t *count)
{
    *count = (size_t)delta_take_upto(reader, n / RUNS_SHARE);
    if (reader->damaged || *count == 0)
        return -1;
    stream_open(&room->k, &room->room, reader, *count);
    if (reader->damaged)
        return -1;
    stream_read(&room->k, room->lengths, *count);
    return stream_close(&room->k);
}

/* Decodes `n` > 0 numbers, overwriting `data`, behind which DELTA_SLACK bytes stand. 0, or -1: damaged, and `numbers`
 * is undefined. */
static inline int block_decode(block_room_t *room, unsigned type, unsigned char *data, size_t data_size,
                               const guess_t *guess, size_t n, unsigned char *numbers)
{
    const size_t size = number_size(type);
    const guess_t none = {GUESS_NONE, NULL, NULL};
    delta_reader_t reader = {data, data + data_size, 0, data};
    const unsigned mode = (unsigned)delta_take_byte(&reader);
    unsigned char *const values = (unsigned char *)room->values;
    uint64_t value[2];
    size_t count;

    if (reader.damaged || n == 0 || n > DELTA_BLOCK)
        return -1;
    if (mode != RUNS_MODE && mode != RUNS_TURNS && mode != RUNS_BITS)
        return block_decode_each(room, type, data, data_size, guess, n, numbers);
    if (guess->kind)
        return -1;
    if (mode == RUNS_MODE) {
        if (block_take_lengths(room, &reader, n, &count) != 0 ||
            block_decode_each(room, type, data + (reader.at - data), (size_t)(reader.end - reader.at), &none, count,
                              values) != 0)
            return -1;
        return runs_fill(values, SIZE_MAX, room->lengths, count, size, n, numbers);
    }
    for (int i = 0; i < 2; i++) {
        value[i] = delta_unzigzag(delta_take(&reader));
        if (type == NUMBER_BOOL)
            value[i] = value[i] != 0;
        memcpy(values + i * size, &value[i], size);
    }
    if (mode == RUNS_TURNS) {
        if (block_take_lengths(room, &reader, n, &count) != 0 || reader.at != reader.end)
            return -1;
        return runs_fill(values, 1, room->lengths, count, size, n, numbers);
    }
    if (reader.damaged ||
        block_decode_each(room, NUMBER_UINT8, data + (reader.at - data), (size_t)(reader.end - reader.at), &none,
                          (n + 7) / 8, values) != 0)
        return -1;
    runs_unpack(values, value, size, n, numbers);
    return 0;
}

#endif
