/* Numbers of every type as 64-bit integers and back, bit for bit.
 *
 * Integers are themselves. A float is one of
 *   its bits, negative ones turned so that their order is that of the numbers;
 *   the bits of the float32 that it equals;
 *   a decimal: i / 10^e gives just these bits. Division, not multiplication by 10^-e, which is inexact (as in ALP,
 *   Afroozeh et al. 2023, doi 10.1145/3626717, but for the division);
 *   the nearest decimal, and apart from that how many steps of the last bit it is off (FORM_NEAR): sums and means of
 *   decimals;
 *   its place in a table of all the numbers in the block (FORM_TABLE);
 *   a decimal that went through float32, or through float32 and then d digits, as data vendors print it.
 * A float that its form does not give back bit for bit is an exception, kept apart: NaN, -0.0, more digits.
 *
 * A leaf: plain C, no Python, no allocation. Compile without -ffast-math: bits are compared.
 */
#ifndef NTMEM_DELTA_NUMBER_H
#define NTMEM_DELTA_NUMBER_H

#include "delta_bytes.h"
#include "delta_vector.h"

/* Numbers of the format: they never change meaning. */
enum {
    NUMBER_BOOL = 1,
    NUMBER_INT8 = 2,
    NUMBER_INT16 = 3,
    NUMBER_INT32 = 4,
    NUMBER_INT64 = 5,
    NUMBER_UINT8 = 6,
    NUMBER_UINT16 = 7,
    NUMBER_UINT32 = 8,
    NUMBER_UINT64 = 9,
    NUMBER_FLOAT32 = 10,
    NUMBER_FLOAT64 = 11
};

/* NEAR and TABLE are no sums of others. */
enum { FORM_BITS = 0, FORM_DECIMAL = 1, FORM_SINGLE = 2, FORM_AGAIN = 4, FORM_NEAR = 4, FORM_TABLE = 5 };
enum { FORM_TWICE = FORM_DECIMAL | FORM_SINGLE | FORM_AGAIN };

typedef struct {
    unsigned mode; /* of FORM_...; AGAIN only with the two others */
    unsigned digits, again;
} form_t;

#define NUMBER_DIGITS 17

static const double number_tens[NUMBER_DIGITS + 1] = {1e0, 1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,
                                                      1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17};

static inline size_t number_size(unsigned type)
{
    static const uint8_t sizes[] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 4, 8};
    return type < sizeof sizes ? sizes[type] : 0;
}

static inline uint64_t bits_of_double(double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

static inline double double_of_bits(uint64_t bits)
{
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static inline uint32_t bits_of_single(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

static inline float single_of_bits(uint32_t bits)
{
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static inline int form_has_digits(form_t form)
{
    return form.mode == FORM_NEAR || (form.mode & FORM_DECIMAL && form.mode != FORM_TABLE);
}

/* Its own inverse. */
static inline uint64_t order_double(uint64_t bits)
{
    return bits ^ ((0 - (bits >> 63)) >> 1);
}

static inline uint64_t order_single(uint32_t bits)
{
    return (uint64_t)(int64_t)(int32_t)(bits ^ ((0 - (bits >> 31)) >> 1));
}

static inline uint32_t unorder_single(uint64_t number)
{
    const uint32_t bits = (uint32_t)number;
    return bits ^ ((0 - (bits >> 31)) >> 1);
}

/* Added to a double below 2^51, this leaves its integer in the low bits: there are no vector instructions for that
 * before AVX-512. */
#define NUMBER_MAGIC 6755399441055744.0

/* Not to be contracted into a fused operation with what is done to it: decoders have to agree on every bit. */
static inline double number_product(double a, double b)
{
    double product = a * b;
#if defined(__aarch64__)
    __asm__("" : "+w"(product));
#endif
    return product;
}

static inline uint64_t number_rounded(double number)
{
    return bits_of_double(number + NUMBER_MAGIC) - bits_of_double(NUMBER_MAGIC);
}

static inline double number_double(uint64_t integer)
{
    return double_of_bits(integer + bits_of_double(NUMBER_MAGIC)) - NUMBER_MAGIC;
}

/* The nearest decimal; 0 for what has none. */
static inline uint64_t number_guessed(double number, double tens)
{
    const double product = number_product(number, tens);
    const uint64_t sound = 0 - (uint64_t)(__builtin_fabs(product) < 2.0e15);

    return number_rounded(double_of_bits(bits_of_double(product) & sound));
}

__attribute__((always_inline)) static inline double form_decimal(unsigned mode, uint64_t integer, double tens,
                                                                 double again)
{
    double number = number_double(integer) / tens;

    if (mode & FORM_SINGLE)
        number = (double)(float)number;
    if (mode == FORM_TWICE)
        number = number_double(number_rounded(number_product(number, again))) / again;
    return number;
}

/* ---- to integers; `wrong[i]` is 1 where there is none that gives the number back --------------------------------- */

#define NUMBER_TO_DECIMAL(MODE)                                                                                        \
    for (size_t i = 0; i < n; i++) {                                                                                   \
        const uint64_t integer = number_rounded(number_product(numbers[i], tens));                                     \
        integers[i] = integer;                                                                                         \
        wrong[i] = bits_of_double(form_decimal(MODE, integer, tens, again)) != bits_of_double(numbers[i]);             \
    }

static inline void form_from_doubles(form_t form, const double *numbers, size_t n, uint64_t *integers, uint8_t *wrong)
{
    const double tens = number_tens[form.digits], again = number_tens[form.again];

    switch (form.mode) {
    case FORM_NEAR:
        for (size_t i = 0; i < n; i++)
            integers[i] = number_guessed(numbers[i], tens);
        memset(wrong, 0, n);
        break;
    case FORM_BITS:
        for (size_t i = 0; i < n; i++)
            integers[i] = order_double(bits_of_double(numbers[i]));
        memset(wrong, 0, n);
        break;
    case FORM_SINGLE:
        for (size_t i = 0; i < n; i++) {
            const float single = (float)numbers[i];
            integers[i] = order_single(bits_of_single(single));
            wrong[i] = bits_of_double((double)single) != bits_of_double(numbers[i]);
        }
        break;
    case FORM_DECIMAL:
        NUMBER_TO_DECIMAL(FORM_DECIMAL)
        break;
    case FORM_DECIMAL | FORM_SINGLE:
        NUMBER_TO_DECIMAL(FORM_DECIMAL | FORM_SINGLE)
        break;
    default:
        NUMBER_TO_DECIMAL(FORM_TWICE)
    }
}

static inline void form_from_singles(form_t form, const float *numbers, size_t n, uint64_t *integers, uint8_t *wrong)
{
    const double tens = number_tens[form.digits];

    if (form.mode == FORM_BITS) {
        for (size_t i = 0; i < n; i++)
            integers[i] = order_single(bits_of_single(numbers[i]));
        memset(wrong, 0, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const uint64_t integer = number_rounded(number_product((double)numbers[i], tens));
        integers[i] = integer;
        wrong[i] = bits_of_single((float)form_decimal(FORM_DECIMAL, integer, tens, 1.0)) != bits_of_single(numbers[i]);
    }
}

#define NUMBER_WIDEN(TYPE)                                                                                             \
    for (size_t i = 0; i < n; i++)                                                                                     \
    integers[i] = (uint64_t)(int64_t)((const TYPE *)numbers)[i]

static inline void form_from_plain(unsigned type, form_t form, const void *numbers, size_t n, uint64_t *integers,
                                   uint8_t *wrong)
{
    if (type == NUMBER_FLOAT64) {
        form_from_doubles(form, numbers, n, integers, wrong);
        return;
    }
    if (type == NUMBER_FLOAT32) {
        form_from_singles(form, numbers, n, integers, wrong);
        return;
    }
    memset(wrong, 0, n);
    switch (type) {
    case NUMBER_INT8:
        NUMBER_WIDEN(int8_t);
        break;
    case NUMBER_INT16:
        NUMBER_WIDEN(int16_t);
        break;
    case NUMBER_INT32:
        NUMBER_WIDEN(int32_t);
        break;
    case NUMBER_UINT16:
        NUMBER_WIDEN(uint16_t);
        break;
    case NUMBER_UINT32:
        NUMBER_WIDEN(uint32_t);
        break;
    case NUMBER_BOOL:
    case NUMBER_UINT8:
        NUMBER_WIDEN(uint8_t);
        break;
    default:
        memcpy(integers, numbers, n * sizeof *integers);
    }
}

DELTA_TWICE(void, form_from, form_from_plain,
            (unsigned type, form_t form, const void *numbers, size_t n, uint64_t *integers, uint8_t *wrong),
            (type, form, numbers, n, integers, wrong))

/* How far numbers are from their decimals, in steps of the last bit: with these, any number comes back. */
static inline void form_apart_plain(form_t form, const double *numbers, const uint64_t *integers, size_t n,
                                    uint64_t *apart)
{
    for (size_t i = 0; i < n; i++)
        apart[i] = order_double(bits_of_double(numbers[i])) -
                   order_double(bits_of_double(form_decimal(FORM_DECIMAL, integers[i], number_tens[form.digits], 1.0)));
}

DELTA_TWICE(void, form_apart, form_apart_plain,
            (form_t form, const double *numbers, const uint64_t *integers, size_t n, uint64_t *apart),
            (form, numbers, integers, n, apart))

static inline void form_near(form_t form, const uint64_t *integers, const uint64_t *apart, size_t n, double *numbers)
{
    for (size_t i = 0; i < n; i++) {
        const double decimal = form_decimal(FORM_DECIMAL, integers[i], number_tens[form.digits], 1.0);
        numbers[i] = double_of_bits(order_double(order_double(bits_of_double(decimal)) + apart[i]));
    }
}

/* ---- and back ---------------------------------------------------------------------------------------------------- */

#define NUMBER_NARROW(TYPE)                                                                                            \
    for (size_t i = 0; i < n; i++)                                                                                     \
    ((TYPE *)numbers)[i] = (TYPE)integers[i]

static inline void form_to_doubles(form_t form, const uint64_t *integers, size_t n, double *numbers)
{
    const double tens = number_tens[form.digits], again = number_tens[form.again];

    switch (form.mode) {
    case FORM_BITS:
        for (size_t i = 0; i < n; i++)
            numbers[i] = double_of_bits(order_double(integers[i]));
        break;
    case FORM_SINGLE:
        for (size_t i = 0; i < n; i++)
            numbers[i] = (double)single_of_bits(unorder_single(integers[i]));
        break;
    case FORM_DECIMAL:
        for (size_t i = 0; i < n; i++)
            numbers[i] = form_decimal(FORM_DECIMAL, integers[i], tens, again);
        break;
    case FORM_DECIMAL | FORM_SINGLE:
        for (size_t i = 0; i < n; i++)
            numbers[i] = form_decimal(FORM_DECIMAL | FORM_SINGLE, integers[i], tens, again);
        break;
    default:
        for (size_t i = 0; i < n; i++)
            numbers[i] = form_decimal(FORM_TWICE, integers[i], tens, again);
    }
}

static inline void form_to(unsigned type, form_t form, const uint64_t *integers, size_t n, void *numbers)
{
    switch (type) {
    case NUMBER_FLOAT64:
        form_to_doubles(form, integers, n, numbers);
        break;
    case NUMBER_FLOAT32:
        if (form.mode == FORM_BITS)
            for (size_t i = 0; i < n; i++)
                ((float *)numbers)[i] = single_of_bits(unorder_single(integers[i]));
        else
            for (size_t i = 0; i < n; i++)
                ((float *)numbers)[i] =
                    (float)form_decimal(FORM_DECIMAL, integers[i], number_tens[form.digits], 1.0);
        break;
    case NUMBER_BOOL: /* a bool that is neither 0 nor 1 cannot be, not even from damaged data */
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)numbers)[i] = integers[i] != 0;
        break;
    case NUMBER_INT8:
    case NUMBER_UINT8:
        NUMBER_NARROW(uint8_t);
        break;
    case NUMBER_INT16:
    case NUMBER_UINT16:
        NUMBER_NARROW(uint16_t);
        break;
    case NUMBER_INT32:
    case NUMBER_UINT32:
        NUMBER_NARROW(uint32_t);
        break;
    default:
        memcpy(numbers, integers, n * sizeof *integers);
    }
}

/* Integers of numbers that this form need not fit, as a guess at others: what does not fit is 0. */
static inline void form_guess(unsigned type, form_t form, const void *numbers, size_t n, uint64_t *integers,
                              uint8_t *wrong)
{
    const double tens = number_tens[form.digits];

    if (!form_has_digits(form)) {
        form_from(type, form, numbers, n, integers, wrong);
        return;
    }
    if (type == NUMBER_FLOAT64)
        for (size_t i = 0; i < n; i++)
            integers[i] = number_guessed(((const double *)numbers)[i], tens);
    else
        for (size_t i = 0; i < n; i++)
            integers[i] = number_guessed(((const float *)numbers)[i], tens);
}

#endif
