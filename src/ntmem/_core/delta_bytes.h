/* Bytes of the delta codec: variable-length integers, bits, and a reader that never leaves its buffer.
 *
 * A leaf: plain C, no Python, no allocation. Little-endian throughout.
 */
#ifndef NTMEM_DELTA_BYTES_H
#define NTMEM_DELTA_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are taken from bytes as they stand");

/* Zero bytes that stand behind every buffer that is decoded, so that a word can be taken without a look at the end. */
#define DELTA_SLACK 64

static inline uint64_t delta_load(const unsigned char *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* Bits that a number takes; 0 takes none. */
static inline unsigned delta_width(uint64_t number)
{
    return number ? 64 - (unsigned)__builtin_clzll(number) : 0;
}

static inline uint64_t delta_zigzag(uint64_t number)
{
    return number << 1 ^ (0 - (number >> 63));
}

static inline uint64_t delta_unzigzag(uint64_t number)
{
    return number >> 1 ^ (0 - (number & 1));
}

static inline unsigned char *delta_put(unsigned char *out, uint64_t number)
{
    for (; number >= 128; number >>= 7)
        *out++ = (unsigned char)(number | 128);
    *out++ = (unsigned char)number;
    return out;
}

typedef struct {
    const unsigned char *at, *end; /* DELTA_SLACK readable bytes stand behind `end` */
    int damaged;
    unsigned char *begin; /* what has been read may be overwritten */
} delta_reader_t;

static inline uint64_t delta_take_byte(delta_reader_t *reader)
{
    if (reader->at >= reader->end) {
        reader->damaged = 1;
        return 0;
    }
    return *reader->at++;
}

static inline uint64_t delta_take(delta_reader_t *reader)
{
    uint64_t number = 0;

    for (unsigned shift = 0; shift < 70; shift += 7) {
        const uint64_t byte = delta_take_byte(reader);
        number |= (byte & 127) << (shift & 63);
        if (byte < 128) {
            if (shift == 63 && byte > 1)
                break;
            return number;
        }
    }
    reader->damaged = 1;
    return 0;
}

/* A number that must not be above `most`. */
static inline uint64_t delta_take_upto(delta_reader_t *reader, uint64_t most)
{
    const uint64_t number = delta_take(reader);

    if (number <= most)
        return number;
    reader->damaged = 1;
    return 0;
}

/* `size` bytes as they stand; NULL: there are not so many. */
static inline const unsigned char *delta_take_bytes(delta_reader_t *reader, uint64_t size)
{
    const unsigned char *bytes = reader->at;

    if (reader->damaged || size > (uint64_t)(reader->end - reader->at)) {
        reader->damaged = 1;
        return NULL;
    }
    reader->at += size;
    return bytes;
}

/* ---- bits, lowest first ------------------------------------------------------------------------------------------ */

typedef struct {
    unsigned char *at; /* whole words are stored: eight bytes beyond the last bit have to be there */
    uint64_t held;
    unsigned count; /* of the bits held, below 64 */
} delta_bits_t;

/* `number` has at most `width` bits. */
static inline void delta_bits_put(delta_bits_t *bits, uint64_t number, unsigned width)
{
    bits->held |= number << bits->count;
    bits->count += width;
    if (bits->count >= 64) {
        memcpy(bits->at, &bits->held, sizeof bits->held);
        bits->at += sizeof bits->held;
        bits->count -= 64;
        bits->held = bits->count ? number >> (width - bits->count) : 0;
    }
}

/* As delta_bits_put, without a branch: `width` is at most 56, and so have all been that were put. */
static inline void delta_bits_put_short(delta_bits_t *bits, uint64_t number, unsigned width)
{
    bits->held |= number << bits->count;
    memcpy(bits->at, &bits->held, sizeof bits->held);
    bits->count += width;
    bits->at += bits->count >> 3;
    bits->held >>= bits->count & 56;
    bits->count &= 7;
}

static inline unsigned char *delta_bits_end(delta_bits_t *bits)
{
    memcpy(bits->at, &bits->held, sizeof bits->held);
    return bits->at + (bits->count + 7) / 8;
}

#endif
