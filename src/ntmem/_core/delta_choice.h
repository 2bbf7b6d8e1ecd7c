/* How to code a block: which form, which base, how many differences, judged by a sample.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_CHOICE_H
#define NTMEM_DELTA_CHOICE_H

#include "delta_number.h"
#include "delta_stream.h"

#define CHOICE_SAMPLE 1024
#define CHOICE_HALO 2 /* differences need what came before */
#define CHOICE_PIECES 8
#define CHOICE_LONG 4096 /* numbers: below, fewer bases are tried */
#define CHOICE_DIGITS 128 /* numbers by which decimals are told */

/* What a guess at the numbers is made of: other columns, row by row. */
enum { GUESS_NONE = 0, GUESS_LEFT = 1, GUESS_GREATER = 2, GUESS_LESSER = 3 };

typedef struct {
    unsigned kind;
    const unsigned char *left, *right; /* of the same type and length; right: only of GREATER and LESSER */
} guess_t;

typedef struct {
    form_t form;
    unsigned order;
    uint64_t base, phase; /* phase: what is added before division, so that rests do not lie at both ends */
    float cost;
} choice_t;

typedef struct {
    size_t pieces, length, n; /* each piece has CHOICE_HALO more in front */
    _Alignas(8) unsigned char numbers[(CHOICE_SAMPLE + CHOICE_PIECES * CHOICE_HALO) * 8];
    unsigned char left[(CHOICE_SAMPLE + CHOICE_PIECES * CHOICE_HALO) * 8];
    unsigned char right[(CHOICE_SAMPLE + CHOICE_PIECES * CHOICE_HALO) * 8];
    uint64_t integers[CHOICE_SAMPLE + CHOICE_PIECES * CHOICE_HALO];
    uint64_t other[CHOICE_SAMPLE + CHOICE_PIECES * CHOICE_HALO];
    uint64_t trial[CHOICE_SAMPLE + CHOICE_PIECES * CHOICE_HALO];
    uint8_t wrong[CHOICE_SAMPLE + CHOICE_PIECES * CHOICE_HALO];
} choice_work_t;

/* left + what the guess has at these rows, into `integers`; `other` and `wrong` are room. */
static inline void guess_integers(const guess_t *guess, unsigned type, form_t form, size_t begin, size_t n,
                                  uint64_t *integers, uint64_t *other, uint8_t *wrong)
{
    const size_t skip = begin * number_size(type);

    form_guess(type, form, guess->left + skip, n, integers, wrong);
    if (guess->kind == GUESS_LEFT)
        return;
    form_guess(type, form, guess->right + skip, n, other, wrong);
    for (size_t i = 0; i < n; i++) {
        const int greater = (int64_t)other[i] > (int64_t)integers[i];
        integers[i] = greater == (guess->kind == GUESS_GREATER) ? other[i] : integers[i];
    }
}

static inline void choice_sample(choice_work_t *work, unsigned type, const unsigned char *numbers,
                                 const guess_t *guess, size_t n, int level)
{
    const size_t size = number_size(type), whole = level == DELTA_BEST ? CHOICE_SAMPLE : 512;
    /* A short series is worth less thought. A multiple of CHOICE_PIECES, so that all pieces are of one length. */
    const size_t wanted = n / 8 < 256 ? 256 : n / 8 < whole ? n / 8 & ~(size_t)(CHOICE_PIECES - 1) : whole;
    size_t stride = 0, at = 0;

    work->pieces = n <= wanted ? 1 : CHOICE_PIECES;
    work->length = n <= wanted ? n - (n > CHOICE_HALO ? CHOICE_HALO : 0) : wanted / CHOICE_PIECES;
    if (work->pieces > 1)
        stride = (n - work->length - CHOICE_HALO) / (work->pieces - 1);
    work->n = n <= wanted ? n : work->pieces * (work->length + CHOICE_HALO);
    for (size_t piece = 0; piece < work->pieces; piece++) {
        const size_t take = work->n / work->pieces;
        memcpy(work->numbers + at * size, numbers + piece * stride * size, take * size);
        if (guess->kind)
            memcpy(work->left + at * size, guess->left + piece * stride * size, take * size);
        if (guess->kind > GUESS_LEFT)
            memcpy(work->right + at * size, guess->right + piece * stride * size, take * size);
        at += take;
    }
}

/* What is left to be coded of sample integers: k of x = base * k + rest, `order` times differenced. */
static inline size_t choice_differences(choice_work_t *work, uint64_t least, const choice_t *trial)
{
    const size_t take = work->n / work->pieces, halo = take > CHOICE_HALO ? CHOICE_HALO : 0;
    const uint64_t base = trial->base, first = least - trial->phase;
    const unsigned order = trial->order;
    size_t m = 0;

    for (size_t piece = 0; piece < work->pieces; piece++) {
        const uint64_t *x = work->integers + piece * take;
        uint64_t *k = work->other;
        for (size_t i = 0; i < take; i++)
            k[i] = base > 1 ? (x[i] - first) / base : x[i];
        for (size_t i = halo; i < take; i++)
            work->trial[m++] = order == 0 || halo == 0 ? k[i]
                               : order == 1            ? k[i] - k[i - 1]
                                                       : k[i] - 2 * k[i - 1] + k[i - 2];
    }
    return m;
}

static inline void choice_try_orders(choice_work_t *work, stream_work_t *streams, size_t n, choice_t trial,
                                     uint64_t least, unsigned first, unsigned last, choice_t *best)
{
    const float extra = trial.cost;
    float before = 3.0e38f;

    for (trial.order = first; trial.order <= last; trial.order++) {
        const size_t m = choice_differences(work, least, &trial);
        trial.cost = extra + stream_estimate(streams, work->trial, m, n);
        if (trial.cost < best->cost)
            *best = trial;
        if (trial.cost > 1.1f * before)
            break; /* differences of what differences do not help help even less */
        before = trial.cost;
    }
}

static inline uint64_t choice_gcd(uint64_t a, uint64_t b)
{
    while (b) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static inline void choice_try_base(choice_work_t *work, stream_work_t *streams, size_t n, choice_t trial,
                                   uint64_t least, uint64_t common, choice_t *best)
{
    const uint64_t half = trial.base / 2;
    uint64_t low[2] = {UINT64_MAX, UINT64_MAX}, high[2] = {0, 0};
    float rest;

    for (size_t i = 0; i < work->n / 2; i++) { /* division is slow: half of the sample has to do */
        const uint64_t left = (work->integers[2 * i] - least) % trial.base;
        const uint64_t turned = left + half < trial.base ? left + half : left + half - trial.base;
        work->trial[i] = left;
        low[0] = left < low[0] ? left : low[0];
        high[0] = left > high[0] ? left : high[0];
        low[1] = turned < low[1] ? turned : low[1];
        high[1] = turned > high[1] ? turned : high[1];
    }
    if (high[1] - low[1] < (high[0] - low[0]) / 2) {
        trial.phase = half;
        for (size_t i = 0; i < work->n / 2; i++)
            work->trial[i] += work->trial[i] + half < trial.base ? half : half - trial.base;
    }
    rest = stream_estimate(streams, work->trial, work->n / 2, n);
    if (rest > 0.9f * (float)n * delta_log2((float)trial.base / (float)common))
        return;
    trial.cost += rest;
    choice_try_orders(work, streams, n, trial, least, 0, 2, best);
}

/* About how far neighbours are apart, in one digit; 0: there is no telling. */
static inline uint64_t choice_stride(const choice_work_t *work)
{
    const size_t take = work->n / work->pieces;
    uint64_t sorted[15], tens = 1;

    for (size_t i = 0; i < 15; i++) {
        const size_t at = i % work->pieces * take + 1 + i * 7 % (take - 1);
        const uint64_t number = work->integers[at] - work->integers[at - 1];
        size_t place = i;
        for (; place > 0 && (int64_t)sorted[place - 1] > (int64_t)number; place--)
            sorted[place] = sorted[place - 1];
        sorted[place] = number;
    }
    if ((int64_t)sorted[0] <= 0 || sorted[12] > sorted[2] + sorted[2] / 4)
        return 0;
    while (sorted[7] / tens >= 10)
        tens *= 10;
    return (sorted[7] + tens / 2) / tens * tens;
}

/* Bases: what divides all distances, that times powers of ten, the stride of a clock; if what is then left over is far
 * from random. */
static inline void choice_try_bases(choice_work_t *work, stream_work_t *streams, size_t n, choice_t trial,
                                    uint64_t least, uint64_t range, int level, choice_t *best)
{
    const uint64_t stride = work->n < 16 ? 0 : choice_stride(work);
    const int few = level == DELTA_FAST && form_has_digits(trial.form); /* clocks are integers */
    uint64_t common = 0;

    for (size_t i = 0; i < work->n && common != 1; i++)
        common = choice_gcd(work->integers[i] - least, common);
    if (common == 0 || work->n < 16 || range >> 62)
        return;
    trial.base = common;
    if (common > 1)
        choice_try_orders(work, streams, n, trial, least, 0, 2, best);
    if (stride > common && stride % common == 0 && stride <= range / 8) {
        trial.base = stride;
        choice_try_base(work, streams, n, trial, least, common, best);
        trial.base = common;
    }
    for (unsigned step = 0; step < (few ? 0 : level == DELTA_BEST && n >= CHOICE_LONG ? 9 : 3); step++) {
        const uint64_t times = (level == DELTA_BEST && n >= CHOICE_LONG) || step > 1 ? 10 : 100;
        if (trial.base > range / 8 / times)
            break;
        trial.base *= times;
        if (trial.base != stride)
            choice_try_base(work, streams, n, trial, least, common, best);
    }
}

/* Returns how many of the sample the form does not give back, all of them if it is out of the question. */
static inline size_t choice_try_form(choice_work_t *work, stream_work_t *streams, unsigned type, form_t form,
                                     const guess_t *guess, size_t n, int level, int bases, choice_t *best)
{
    choice_t trial = {form, 0, 1, 0, 0.0f};
    int64_t least = INT64_MAX, most = INT64_MIN;
    uint64_t last = 0;
    size_t wrong = 0;

    form_from(type, form, work->numbers, work->n, work->integers, work->wrong);
    for (size_t i = 0; i < work->n; i++) {
        wrong += work->wrong[i];
        last = work->integers[i] = work->wrong[i] ? last : work->integers[i];
    }
    if (wrong * 2 > work->n)
        return wrong;
    if (form.mode == FORM_NEAR) {
        form_apart(form, (const double *)(const void *)work->numbers, work->integers, work->n, work->trial);
        trial.cost = stream_estimate(streams, work->trial, work->n, n);
        if (trial.cost > 16.0f * (float)n)
            return work->n;
    }
    if (guess->kind) {
        const guess_t sampled = {guess->kind, work->left, work->right};
        guess_integers(&sampled, type, form, 0, work->n, work->trial, work->other, work->wrong);
        for (size_t i = 0; i < work->n; i++)
            work->integers[i] -= work->trial[i];
    }
    for (size_t i = 0; i < work->n; i++) {
        const int64_t number = (int64_t)work->integers[i];
        least = number < least ? number : least;
        most = number > most ? number : most;
    }
    trial.cost += (float)wrong / (float)work->n * (float)n * 60.0f;
    if (bases)
        choice_try_bases(work, streams, n, trial, (uint64_t)least, (uint64_t)most - (uint64_t)least, level, best);
    else
        choice_try_orders(work, streams, n, trial, (uint64_t)least, 0, 2, best);
    return wrong;
}

/* How many of some sample numbers a form gives back; `*of` is how many are finite. */
static inline size_t choice_fit(choice_work_t *work, unsigned type, form_t form, size_t *of)
{
    const size_t m = work->n < CHOICE_DIGITS ? work->n : CHOICE_DIGITS;
    const size_t step = work->n / m, size = number_size(type);
    _Alignas(8) unsigned char picked[CHOICE_DIGITS * 8] = {0};
    size_t right = 0;

    *of = 0;
    for (size_t i = 0; i < m; i++)
        memcpy(picked + i * size, work->numbers + i * step * size, size);
    form_from(type, form, picked, m, work->other, work->wrong);
    for (size_t i = 0; i < m; i++) {
        double number;
        float single;
        memcpy(&number, picked + i * size, type == NUMBER_FLOAT64 ? 8 : 4);
        memcpy(&single, picked + i * size, 4);
        if (type == NUMBER_FLOAT32)
            number = (double)single;
        *of += number - number == 0.0;
        right += !work->wrong[i];
    }
    return right;
}

/* The fewest digits that fit about as many numbers as any; 0 numbers: none fit half of them. */
static inline size_t choice_digits(choice_work_t *work, unsigned type, form_t *form, unsigned upto)
{
    size_t fits[NUMBER_DIGITS + 1], most = 0, of;

    for (unsigned digits = 0; digits <= upto; digits++) {
        form->digits = digits;
        fits[digits] = choice_fit(work, type, *form, &of);
        if (fits[digits] > most)
            most = fits[digits];
        if (most > 0 && most == of)
            break;
        if (digits == upto)
            break;
    }
    if (most == 0 || most * 2 < of)
        return 0;
    for (unsigned digits = 0; digits <= upto; digits++)
        if (fits[digits] + most / 64 >= most) {
            form->digits = digits;
            break;
        }
    return most;
}

static inline void choice_make_form(choice_work_t *work, stream_work_t *streams, unsigned type, const guess_t *guess,
                                    size_t n, int level, choice_t *best)
{
    const form_t bits = {FORM_BITS, 0, 0};
    form_t form = {FORM_DECIMAL, 0, 0};
    size_t of;

    *best = (choice_t){bits, 0, 1, 0, 3.0e38f};
    if (type == NUMBER_FLOAT32 || type == NUMBER_FLOAT64) {
        if (choice_digits(work, type, &form, type == NUMBER_FLOAT64 ? 14 : 8)) {
            const unsigned digits = form.digits;
            const size_t odd = choice_try_form(work, streams, type, form, guess, n, level, 0, best);
            if (odd == 0 && digits <= 4 && best->cost < (level == DELTA_FAST ? 40.0f : 24.0f) * (float)n)
                return; /* few digits of all numbers: there is no other way to write them that is shorter */
            form = (form_t){FORM_TWICE, 0, digits};
            if (type == NUMBER_FLOAT64 && digits > 2 && choice_digits(work, type, &form, digits - 2))
                if (choice_try_form(work, streams, type, form, guess, n, level, 0, best) == 0 &&
                    (level == DELTA_FAST || best->form.mode == FORM_TWICE))
                    return;
        }
        form = (form_t){FORM_SINGLE, 0, 0};
        if (type == NUMBER_FLOAT64 && choice_fit(work, type, form, &of) * 10 > of * 9 && of > 0) {
            choice_try_form(work, streams, type, form, guess, n, level, 0, best);
            form.mode = FORM_DECIMAL | FORM_SINGLE;
            if (choice_digits(work, type, &form, 8))
                choice_try_form(work, streams, type, form, guess, n, level, 0, best);
        }
        /* Bits are rarely better than a decimal that fits nearly all; at the fast level they are not tried then. */
        if (level == DELTA_FAST && best->cost < 24.0f * (float)n)
            return;
    }
    choice_try_form(work, streams, type, bits, guess, n, level, 0, best);
    form.mode = FORM_NEAR;
    if (type == NUMBER_FLOAT64 && best->cost > 24.0f * (float)n)
        for (form.digits = 8; form.digits >= 2; form.digits--)
            if (choice_try_form(work, streams, type, form, guess, n, level, 0, best) != 0)
                break; /* with fewer digits numbers are further off */
}

static inline void choice_make(choice_work_t *work, stream_work_t *streams, unsigned type,
                               const unsigned char *numbers, const guess_t *guess, size_t n, int level, choice_t *best)
{
    choice_sample(work, type, numbers, guess, n, level);
    choice_make_form(work, streams, type, guess, n, level, best);
    choice_try_form(work, streams, type, best->form, guess, n, level, 1, best);
}

#endif
