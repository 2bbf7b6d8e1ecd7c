/* A stream: some 64-bit numbers, coded as bins and offsets.
 *
 * Bytes: least number (zigzag); kind
 *   0 constant    nothing more
 *   1 binned      bins - 1, then of each how far it begins behind the one before, and its width;
 *                 with more than one bin a model and the size of its words; the size of the offsets; words; offsets
 *   2 wide        the same, more than one bin; words as in delta_lanes.h, along with which go the first
 *                 64 bytes of the offsets, as many as there are: these do not stand behind the words
 * Model: log - 5 | contexts - 1 << 4; with contexts the context of each bin, two bits each; of each context the
 * frequencies, where 0 is followed by how many more zeros there are, and of each last one nothing is said.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_STREAM_H
#define NTMEM_DELTA_STREAM_H

#include "delta_ans.h"
#include "delta_bins.h"
#include "delta_context.h"
#include "delta_lanes.h"
#include "delta_vector.h"

enum { STREAM_CONSTANT = 0, STREAM_BINNED = 1, STREAM_WIDE = 2 };
enum { DELTA_FAST = 0, DELTA_BEST = 1 };

#define DELTA_BLOCK 65536 /* numbers at most; their symbols and four tables stay in a second-level cache */
#define STREAM_HEADER 16384
/* What a stream of n numbers can take while it is made: words of the model, offsets, header. */
#define STREAM_ROOM(n) ((n) * 10 + STREAM_HEADER + DELTA_SLACK)

typedef struct {
    uint64_t sorted[2][DELTA_BLOCK];
    uint8_t symbols[DELTA_BLOCK + ANS_LANES], direct[BINS_DIRECT];
    bins_groups_t groups;
    bins_t bins;
    uint32_t counts[ANS_SYMBOLS];
    context_work_t context;
    ans_model_t model;
    ans_code_t codes[ANS_CONTEXTS * ANS_SYMBOLS];
    unsigned char words[DELTA_BLOCK * 2 + 4 * LANES];
} stream_work_t;

static inline unsigned char *stream_put_model(unsigned char *out, const ans_model_t *model)
{
    *out++ = (unsigned char)((model->log - 5) | (model->n_contexts - 1) << 4);
    if (model->n_contexts > 1)
        for (unsigned i = 0; i < model->n_symbols; i += 4) {
            unsigned byte = 0;
            for (unsigned k = i; k < i + 4 && k < model->n_symbols; k++)
                byte |= (unsigned)model->context_of[k] << 2 * (k - i);
            *out++ = (unsigned char)byte;
        }
    for (unsigned c = 0; c < model->n_contexts; c++)
        for (unsigned i = 0; i + 1 < model->n_symbols; i++) {
            unsigned zeros = 0;
            out = delta_put(out, model->frequency[c][i]);
            if (model->frequency[c][i])
                continue;
            while (i + 2 < model->n_symbols && model->frequency[c][i + 1] == 0) {
                zeros++;
                i++;
            }
            out = delta_put(out, zeros);
        }
    return out;
}

static inline void stream_take_model(delta_reader_t *reader, ans_model_t *model)
{
    const unsigned byte = (unsigned)delta_take_byte(reader);

    model->log = (byte & 15) + 5;
    model->n_contexts = (byte >> 4) + 1;
    if (model->log > ANS_LOG_MAX || model->n_contexts > ANS_CONTEXTS) {
        reader->damaged = 1;
        return;
    }
    memset(model->context_of, 0, sizeof model->context_of);
    if (model->n_contexts > 1)
        for (unsigned i = 0; i < model->n_symbols; i += 4) {
            const unsigned contexts = (unsigned)delta_take_byte(reader);
            for (unsigned k = i; k < i + 4 && k < model->n_symbols; k++) {
                model->context_of[k] = contexts >> 2 * (k - i) & 3;
                if (model->context_of[k] >= model->n_contexts)
                    reader->damaged = 1;
            }
        }
    for (unsigned c = 0; c < model->n_contexts; c++) {
        uint32_t left = 1u << model->log;
        memset(model->frequency[c], 0, sizeof model->frequency[c]);
        for (unsigned i = 0; i + 1 < model->n_symbols; i++) {
            const uint32_t frequency = (uint32_t)delta_take_upto(reader, left);
            model->frequency[c][i] = (uint16_t)frequency;
            left -= frequency;
            if (frequency == 0)
                i += (unsigned)delta_take_upto(reader, model->n_symbols - 2 - i);
        }
        model->frequency[c][model->n_symbols - 1] = (uint16_t)left;
    }
}

/* Takes the least from all numbers and returns it; *range is what is left of the largest. */
static inline uint64_t stream_level(uint64_t *numbers, size_t n, uint64_t *range)
{
    int64_t least = INT64_MAX, most = INT64_MIN;

    for (size_t i = 0; i < n; i++) {
        const int64_t number = (int64_t)numbers[i];
        least = number < least ? number : least;
        most = number > most ? number : most;
    }
    for (size_t i = 0; i < n; i++)
        numbers[i] -= (uint64_t)least;
    *range = (uint64_t)most - (uint64_t)least;
    return (uint64_t)least;
}

static inline void stream_group(stream_work_t *work, const uint64_t *numbers, size_t n, int level)
{
    const size_t step = level == DELTA_BEST ? 1 : (n - 1) / 2048 + 1;
    size_t m = 0;

    for (size_t i = 0; i < n; i += step)
        work->sorted[0][m++] = numbers[i];
    bins_group(&work->groups, sort_sample(work->sorted[0], work->sorted[1], m), m,
               level == DELTA_BEST ? BINS_GROUPS : 40);
}

/* What `n` > 0 numbers would take in bits, judged by the `m` of them that are given, which are spoilt. */
static inline float stream_estimate_plain(stream_work_t *work, uint64_t *numbers, size_t m, size_t n)
{
    uint64_t range;

    stream_level(numbers, m, &range);
    if (range == 0)
        return 24.0f;
    bins_group(&work->groups, sort_sample(numbers, work->sorted[1], m), m, m < 512 ? 16 : 32);
    return bins_merge(&work->groups, n, BINS_HEADER);
}

DELTA_TWICE(float, stream_estimate, stream_estimate_plain,
            (stream_work_t * work, uint64_t *numbers, size_t m, size_t n), (work, numbers, m, n))

/* Offsets of all numbers as bits; returns their size in bytes. */
static inline size_t stream_offsets(const bins_t *bins, const uint64_t *numbers, const uint8_t *symbols, size_t n,
                                    unsigned char *out)
{
    delta_bits_t bits = {out, 0, 0};
    unsigned widest = 0;

    for (unsigned i = 0; i < bins->n; i++)
        widest = bins->width[i] > widest ? bins->width[i] : widest;
    if (widest <= 56)
        for (size_t i = 0; i < n; i++)
            delta_bits_put_short(&bits, numbers[i] - bins->low[symbols[i]], bins->width[symbols[i]]);
    else
        for (size_t i = 0; i < n; i++)
            delta_bits_put(&bits, numbers[i] - bins->low[symbols[i]], bins->width[symbols[i]]);
    return widest ? (size_t)(delta_bits_end(&bits) - out) : 0;
}

#define STREAM_WIDE_LEAST 2048 /* numbers, and */
#define STREAM_WIDE_BITS 16384 /* bits of words: below, states would take too large a part */

/* Codes `n` > 0 numbers, which are spoilt; `out` has STREAM_ROOM(n). */
static inline unsigned char *stream_encode_plain(stream_work_t *work, uint64_t *numbers, size_t n, int level,
                                                 unsigned char *out)
{
    bins_t *bins = &work->bins;
    ans_model_t *model = &work->model;
    uint64_t range;
    const uint64_t least = stream_level(numbers, n, &range);
    unsigned char *offsets = (unsigned char *)work->sorted, *kind;
    const unsigned char *words = NULL, *const words_end = work->words + sizeof work->words;
    size_t size_of_offsets, along = 0;

    out = delta_put(out, delta_zigzag(least));
    kind = out++;
    *kind = range == 0 ? STREAM_CONSTANT : STREAM_BINNED;
    if (range == 0)
        return out;
    stream_group(work, numbers, n, level);
    bins_choose(bins, &work->groups, n);
    bins_assign(bins, numbers, n, range, work->symbols, work->counts, work->direct);
    *out++ = (unsigned char)(bins->n - 1);
    for (unsigned i = 0; i < bins->n; i++) {
        if (i > 0)
            out = delta_put(out, bins->low[i] - bins->low[i - 1] - 1);
        *out++ = bins->width[i];
    }
    size_of_offsets = stream_offsets(bins, numbers, work->symbols, n, offsets); /* what was sorted is over */
    if (bins->n > 1) {
        float cost = context_cost(work->counts, bins->n);
        model->log = n < 4096 ? 10 : n < 12288 ? 11 : 12; /* tables are filled for every block */
        model->n_symbols = bins->n;
        model->n_contexts = 1;
        ans_normalise(work->counts, bins->n, model->log, model->frequency[0]);
        if (level == DELTA_BEST)
            cost = context_choose(&work->context, model, work->symbols, n, work->counts);
        out = stream_put_model(out, model);
        if (n >= STREAM_WIDE_LEAST && cost >= STREAM_WIDE_BITS) {
            unsigned char first[LANES_FREE] = {0};
            *kind = STREAM_WIDE;
            along = size_of_offsets < LANES_FREE ? size_of_offsets : LANES_FREE;
            memcpy(first, offsets, along);
            words = lanes_encode(model, work->symbols, n, first, work->words + sizeof work->words, work->codes);
        } else
            words = ans_encode(model, work->symbols, n, work->words + sizeof work->words, work->codes);
        out = delta_put(out, (uint64_t)(words_end - words));
    }
    out = delta_put(out, size_of_offsets);
    if (words) {
        memcpy(out, words, (size_t)(words_end - words));
        out += words_end - words;
    }
    memcpy(out, offsets + along, size_of_offsets - along);
    return out + size_of_offsets - along;
}

DELTA_TWICE(unsigned char *, stream_encode, stream_encode_plain,
            (stream_work_t * work, uint64_t *numbers, size_t n, int level, unsigned char *out),
            (work, numbers, n, level, out))

/* ---- back -------------------------------------------------------------------------------------------------------- */

typedef struct {
    struct {
        uint64_t low, width; /* the least number is in `low` */
    } bin[ANS_SYMBOLS];
    unsigned n_bins, widest;
    const uint8_t *symbol; /* of the number that comes next */
    const unsigned char *offsets, *last;
    uint64_t bit, bits;
} stream_t;

typedef struct {
    uint8_t symbols[DELTA_BLOCK + ANS_LANES];
    uint8_t rows[DELTA_BLOCK];
    uint32_t table[ANS_TABLE];
    ans_model_t model;
} stream_room_t;

/* Reads what stands before the offsets of `n` numbers, and all symbols into `room`. */
static inline int stream_open_plain(stream_t *stream, stream_room_t *room, delta_reader_t *reader, size_t n)
{
    uint64_t size_of_words = 0, size_of_offsets, along = 0;
    const unsigned char *words;
    unsigned char first[LANES_FREE];
    unsigned kind;

    stream->bin[0].width = 0;
    stream->bin[0].low = delta_unzigzag(delta_take(reader));
    stream->n_bins = 1;
    stream->widest = 0;
    stream->symbol = room->symbols;
    stream->offsets = stream->last = reader->end;
    stream->bit = stream->bits = 0;
    kind = (unsigned)delta_take_upto(reader, STREAM_WIDE);
    if (kind == STREAM_CONSTANT)
        return 0;
    stream->n_bins = (unsigned)delta_take_byte(reader) + 1;
    for (unsigned i = 0; i < stream->n_bins; i++) {
        if (i > 0)
            stream->bin[i].low = stream->bin[i - 1].low + delta_take(reader) + 1;
        stream->bin[i].width = delta_take_upto(reader, 64);
        if (stream->widest < stream->bin[i].width)
            stream->widest = (unsigned)stream->bin[i].width;
    }
    if (stream->n_bins > 1) {
        room->model.n_symbols = stream->n_bins;
        stream_take_model(reader, &room->model);
        size_of_words = delta_take(reader);
    }
    size_of_offsets = delta_take(reader);
    words = delta_take_bytes(reader, size_of_words);
    if (kind == STREAM_WIDE)
        along = size_of_offsets < LANES_FREE ? size_of_offsets : LANES_FREE;
    stream->offsets = delta_take_bytes(reader, size_of_offsets - along);
    if (stream->offsets == NULL)
        return 0;
    stream->last = stream->offsets + size_of_offsets - along;
    stream->bits = size_of_offsets * 8;
    if (stream->n_bins == 1) {
        reader->damaged |= kind == STREAM_WIDE;
        return 0;
    }
    if (kind == STREAM_WIDE) {
        if (lanes_decode(&room->model, room->table, words, words + size_of_words, room->symbols, n, room->rows,
                         first) != 0) {
            reader->damaged = 1;
            return 0;
        }
        /* The words, longer than that, have been used: what went along takes the place of their end. */
        memcpy(reader->begin + (stream->offsets - along - reader->begin), first, along);
        stream->offsets -= along;
    } else if (ans_decode(&room->model, room->table, words, words + size_of_words, room->symbols, n) != 0)
        reader->damaged = 1;
    return 0;
}

DELTA_TWICE(int, stream_open, stream_open_plain,
            (stream_t * stream, stream_room_t *room, delta_reader_t *reader, size_t n), (stream, room, reader, n))

#define STREAM_TAKE(SYMBOL, AT)                                                                                        \
    for (size_t i = 0; i < n; i++) {                                                                                   \
        const unsigned bin = (SYMBOL);                                                                                 \
        const uint64_t byte = bit >> 3, width = stream->bin[bin].width;                                                \
        numbers[i] =                                                                                                   \
            stream->bin[bin].low + (delta_load(offsets + (AT)) >> (bit & 7) & (((uint64_t)1 << width) - 1));           \
        bit += width;                                                                                                  \
    }

/* The next `n` numbers, with offsets of up to 56 bits. Damage may lead beyond the offsets: then what stands last in
 * them is read again and again, and stream_close tells. */
static inline void stream_read_short(stream_t *stream, uint64_t *numbers, size_t n)
{
    const unsigned char *const offsets = stream->offsets;
    const uint8_t *const symbol = stream->symbol;
    const uint64_t most = (uint64_t)(stream->last - offsets);
    uint64_t bit = stream->bit;

    if (bit + n * stream->widest <= 8 * most) {
        if (stream->n_bins == 1)
            STREAM_TAKE(0, byte)
        else
            STREAM_TAKE(symbol[i], byte)
    } else if (stream->n_bins == 1)
        STREAM_TAKE(0, byte < most ? byte : most)
    else
        STREAM_TAKE(symbol[i], byte < most ? byte : most)
    stream->bit = bit;
    stream->symbol += n;
}

#define STREAM_PART 128 /* numbers that are looked at together whether they lead beyond the end */

/* The next `n` numbers. */
static inline void stream_read(stream_t *stream, uint64_t *numbers, size_t n)
{
    const unsigned char *const offsets = stream->offsets;
    const uint64_t most = (uint64_t)(stream->last - offsets);
    uint64_t bit = stream->bit;

    if (stream->n_bins == 1 && stream->widest == 0) {
        for (size_t i = 0; i < n; i++)
            numbers[i] = stream->bin[0].low;
        return;
    }
    if (stream->widest == 0) {
        for (size_t i = 0; i < n; i++)
            numbers[i] = stream->bin[stream->symbol[i]].low;
        stream->symbol += n;
        return;
    }
    if (stream->widest <= 56) {
        for (size_t i = 0; i < n; i += STREAM_PART)
            stream_read_short(stream, numbers + i, n - i < STREAM_PART ? n - i : STREAM_PART);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const unsigned bin = stream->n_bins == 1 ? 0 : stream->symbol[i];
        const uint64_t width = stream->bin[bin].width;
        const unsigned char *from = offsets + (bit >> 3 < most ? bit >> 3 : most);
        const uint64_t word = delta_load(from) >> (bit & 7) | (uint64_t)from[8] << 1 << (63 - (bit & 7));
        numbers[i] = stream->bin[bin].low + (width ? word & UINT64_MAX >> (64 - width) : 0);
        bit += width;
    }
    stream->bit = bit;
    stream->symbol += n;
}

/* 0: as many offset bits were read as are there. */
static inline int stream_close(const stream_t *stream)
{
    return stream->bit <= stream->bits && stream->bits - stream->bit < 8 ? 0 : -1;
}

#endif
