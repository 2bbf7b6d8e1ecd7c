/* Exact arithmetic of quantities, prices and money: integers of units, never floating point.
 *
 * A leaf: plain C, no Python. A number is a mantissa and a precision: mantissa * 10^-precision. Every function that can
 * overflow says so and changes nothing.
 */
#ifndef NTMEM_FIXED_H
#define NTMEM_FIXED_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define FIXED_DIGITS 18 /* of a precision at most: 10^18 is below 2^63 */

__extension__ typedef __int128 int128_t;

enum fixed_outcome {
    FIXED_DONE,
    FIXED_EXCESS,   /* it has digits beyond the precision */
    FIXED_OVERFLOW, /* it is too large */
    FIXED_NONE,     /* it is no number that could be read here */
    FIXED_UNSURE,   /* a float that lies between two numbers of the precision: who can take its decimal digits has to look */
};

static const int64_t fixed_powers[FIXED_DIGITS + 1] = {
    1ll,
    10ll,
    100ll,
    1000ll,
    10000ll,
    100000ll,
    1000000ll,
    10000000ll,
    100000000ll,
    1000000000ll,
    10000000000ll,
    100000000000ll,
    1000000000000ll,
    10000000000000ll,
    100000000000000ll,
    1000000000000000ll,
    10000000000000000ll,
    100000000000000000ll,
    1000000000000000000ll,
};

#define FIXED_MOST ((int128_t)1 << 125)

/* Plain decimal text, such as -12.50 or 3e-5, exactly. */
static inline enum fixed_outcome fixed_parse(const char *text, size_t size, int precision, int128_t *mantissa)
{
    const char *end = text + size;
    unsigned __int128 number = 0;
    int negative = 0, digits = 0, behind = 0, point = 0, exponent = 0, sign = 1, lost = 0;

    if (text < end && (*text == '-' || *text == '+'))
        negative = *text++ == '-';
    for (; text < end && ((*text >= '0' && *text <= '9') || (*text == '.' && !point)); text++) {
        if (*text == '.') {
            point = 1;
            continue;
        }
        digits++;
        behind += point;
        if (number >= (unsigned __int128)1 << 120)
            return FIXED_OVERFLOW;
        number = number * 10 + (unsigned)(*text - '0');
    }
    if (digits == 0)
        return FIXED_NONE;
    if (text < end && (*text == 'e' || *text == 'E')) {
        text++;
        if (text < end && (*text == '-' || *text == '+'))
            sign = *text++ == '-' ? -1 : 1;
        if (text == end)
            return FIXED_NONE;
        for (; text < end && *text >= '0' && *text <= '9'; text++)
            if (exponent < 10000)
                exponent = exponent * 10 + (*text - '0');
    }
    if (text != end)
        return FIXED_NONE;
    exponent = sign * exponent - behind + precision;
    for (; exponent > 0 && number != 0; exponent--) {
        if (number >= (unsigned __int128)1 << 120)
            return FIXED_OVERFLOW;
        number *= 10;
    }
    for (; exponent < 0 && number != 0; exponent++) {
        lost |= number % 10 != 0;
        number /= 10;
    }
    if (lost)
        return FIXED_EXCESS;
    if (number >= (unsigned __int128)FIXED_MOST)
        return FIXED_OVERFLOW;
    *mantissa = negative ? -(int128_t)number : (int128_t)number;
    return FIXED_DONE;
}

/* The number of a precision that lies nearest to a float. Near the middle between two the digits of the float decide, and
 * they are not looked at here. */
static inline enum fixed_outcome fixed_from_double(double number, int precision, int128_t *mantissa)
{
    double power, scaled, nearest, away;

    if (!isfinite(number))
        return FIXED_NONE;
    if (precision > FIXED_DIGITS)
        return FIXED_UNSURE;
    power = (double)fixed_powers[precision];
    scaled = number * power;
    nearest = nearbyint(scaled);
    away = scaled - nearest + fma(number, power, -scaled);
    if (fabs(scaled) >= 0x1p51 || fabs(fabs(away) - 0.5) <= fabs(scaled) * 0x1p-51 + 0x1p-20)
        return FIXED_UNSURE;
    *mantissa = (int128_t)nearest;
    return FIXED_DONE;
}

/* A whole number of units, exactly. */
static inline enum fixed_outcome fixed_from_int(int64_t number, int precision, int128_t *mantissa)
{
    int128_t found = number;

    for (int i = 0; i < precision; i++) {
        found *= 10;
        if (found >= FIXED_MOST || found <= -FIXED_MOST)
            return FIXED_OVERFLOW;
    }
    *mantissa = found;
    return FIXED_DONE;
}

static inline int fixed_is_small(int128_t number) { return number > INT64_MIN && number <= INT64_MAX; }

/* As a float, the nearest or next to it. */
static inline double fixed_double(int128_t mantissa, int precision)
{
    const long double number = (long double)mantissa;

    return (double)(precision <= FIXED_DIGITS ? number / (long double)fixed_powers[precision]
                                              : number / (long double)fixed_powers[FIXED_DIGITS] /
                                                    (long double)fixed_powers[precision - FIXED_DIGITS]);
}

/* Its digits, for who makes a decimal number of it; `text` has room for 48 characters. */
static inline size_t fixed_text(int128_t mantissa, char *text)
{
    char digits[48];
    size_t size = 0, at = 0;
    unsigned __int128 left = mantissa < 0 ? -(unsigned __int128)mantissa : (unsigned __int128)mantissa;

    do {
        digits[size++] = (char)('0' + (int)(left % 10));
        left /= 10;
    } while (left != 0);
    if (mantissa < 0)
        text[at++] = '-';
    while (size != 0)
        text[at++] = digits[--size];
    return at;
}

/* whole * part / of, where 0 <= part <= of, rounded half to even; |whole| < 2^126. */
static inline int128_t fixed_share(int128_t whole, int64_t part, int64_t of)
{
    const int negative = whole < 0;
    const int128_t size = negative ? -whole : whole;
    const int128_t left = size % of * part; /* below 2^126 */
    const int128_t share = left / of, rest = left % of;
    const int128_t up = 2 * rest > of || (2 * rest == of && (size / of * part + share) % 2 != 0);
    const int128_t found = size / of * part + share + up;

    return negative ? -found : found;
}

#endif
