/* CRC-32 as zlib has it, eight bytes a step by tables: what rows on disk are checked by.
 *
 * A leaf: plain C, no Python. crc.h has another polynomial, which the log takes as processors have it in hardware.
 */
#ifndef NTMEM_CRC32_H
#define NTMEM_CRC32_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are taken from bytes as they stand");

static uint32_t crc32_tables[8][256];

__attribute__((constructor)) static void crc32_tables_fill(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t rest = byte;
        for (int bit = 0; bit < 8; bit++)
            rest = rest >> 1 ^ (0xEDB88320u & (0u - (rest & 1)));
        crc32_tables[0][byte] = rest;
    }
    for (int far = 1; far < 8; far++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            const uint32_t nearer = crc32_tables[far - 1][byte];
            crc32_tables[far][byte] = nearer >> 8 ^ crc32_tables[0][nearer & 255];
        }
}

/* Goes on from `crc`, that of the bytes before; 0: there are none. */
static inline uint32_t crc32_of(const void *data, size_t size, uint32_t crc)
{
    const unsigned char *bytes = data;

    crc = ~crc;
    for (; size >= 8; size -= 8, bytes += 8) {
        uint32_t low, high;
        memcpy(&low, bytes, sizeof low);
        memcpy(&high, bytes + 4, sizeof high);
        low ^= crc;
        crc = crc32_tables[7][low & 255] ^ crc32_tables[6][low >> 8 & 255] ^ crc32_tables[5][low >> 16 & 255] ^
              crc32_tables[4][low >> 24] ^ crc32_tables[3][high & 255] ^ crc32_tables[2][high >> 8 & 255] ^
              crc32_tables[1][high >> 16 & 255] ^ crc32_tables[0][high >> 24];
    }
    for (; size > 0; size--)
        crc = crc >> 8 ^ crc32_tables[0][(crc ^ *bytes++) & 255];
    return ~crc;
}

#endif
